//! The lines of strace's output, taken apart.

/// What comes after `<... accept4 resumed>`.
pub fn resumed(call: &str) -> Option<&str> {
    let (_, rest) = call.strip_prefix("<... ")?.split_once(" resumed>")?;
    Some(rest)
}

/// The number and the description of `9<UNIX-STREAM:[1->2]>`.
pub fn descriptor(text: &str) -> Option<(&str, &str)> {
    let (number, rest) = text.split_once('<')?;
    let end = [">,", ">)"].iter().filter_map(|end| rest.find(end)).min();
    let description = &rest[..end.unwrap_or_else(|| rest.trim_end().len().saturating_sub(1))];
    number
        .bytes()
        .all(|b| b.is_ascii_digit())
        .then_some((number, description))
}

/// `1` of `UNIX-STREAM:[1->2,"/path"]`.
pub fn inode(description: &str) -> &str {
    let from = description.find('[').map_or(0, |at| at + 1);
    let digits = description[from..].find(|c: char| !c.is_ascii_digit());
    &description[from..digits.map_or(description.len(), |length| from + length)]
}

pub fn peer_port(description: &str) -> Option<u16> {
    let (_, port) = description.trim_end_matches(']').rsplit_once(':')?;
    description.contains("->").then(|| port.parse().ok())?
}

pub fn between<'a>(text: &'a str, before: &str, after: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(before)?;
    rest.split_once(after).map(|(found, _)| found)
}

pub enum Token {
    /// A string, unescaped.
    Text(Vec<u8>),
    /// A character outside of strings.
    Other(char),
}

pub fn tokens(text: &str) -> impl Iterator<Item = Token> {
    let mut bytes = text.bytes().peekable();
    std::iter::from_fn(move || match bytes.next()? {
        b'"' => Some(Token::Text(string(&mut bytes))),
        other => Some(Token::Other(other.into())),
    })
}

/// The rest of a string, with the escapes of C.
fn string(bytes: &mut std::iter::Peekable<impl Iterator<Item = u8>>) -> Vec<u8> {
    let mut text = Vec::new();
    while let Some(byte) = bytes.next() {
        text.push(match byte {
            b'"' => break,
            b'\\' => match bytes.next() {
                Some(b'n') => b'\n',
                Some(b't') => b'\t',
                Some(b'r') => b'\r',
                Some(b'v') => 0x0b,
                Some(b'f') => 0x0c,
                Some(digit @ b'0'..=b'7') => octal(digit, bytes),
                Some(other) => other,
                None => break,
            },
            other => other,
        });
    }
    text
}

/// Up to three digits.
fn octal(first: u8, bytes: &mut std::iter::Peekable<impl Iterator<Item = u8>>) -> u8 {
    let mut value = u32::from(first - b'0');
    for _ in 0..2 {
        let Some(digit) = bytes.next_if(|b| (b'0'..=b'7').contains(b)) else {
            break;
        };
        value = value * 8 + u32::from(digit - b'0');
    }
    value as u8
}
