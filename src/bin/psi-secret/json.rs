//! The text fields of psi-serve's error answers.
//!
//! Tolerant on purpose: what cannot be read is left out of the message, no more.

/// The string that the JSON object `text` has under `field`, unescaped.
pub fn string_field(text: &str, field: &str) -> Option<String> {
    let mut rest = text.trim_start().strip_prefix('{')?;
    let mut depth = 1;
    while depth > 0 {
        let at = rest.find(['"', '{', '[', '}', ']'])?;
        let (found, after) = (rest.as_bytes()[at], &rest[at + 1..]);
        rest = match found {
            b'"' => {
                let (string, after) = string(after)?;
                match after.trim_start().strip_prefix(':') {
                    Some(value) if depth == 1 && string == field => return string_value(value),
                    _ => after,
                }
            }
            b'{' | b'[' => {
                depth += 1;
                after
            }
            _ => {
                depth -= 1;
                after
            }
        };
    }
    None
}

fn string_value(text: &str) -> Option<String> {
    Some(string(text.trim_start().strip_prefix('"')?)?.0)
}

/// The string whose opening quote has been read, and what follows its closing one.
fn string(text: &str) -> Option<(String, &str)> {
    let mut out = String::new();
    let mut rest = text;
    loop {
        let at = rest.find(['"', '\\'])?;
        out.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        if rest.as_bytes()[at] == b'"' {
            return Some((out, after));
        }
        let (c, after) = escaped(after)?;
        out.push(c);
        rest = after;
    }
}

/// The character that follows a backslash, as RFC 8259 section 7 spells it.
fn escaped(text: &str) -> Option<(char, &str)> {
    let mut chars = text.chars();
    let c = match chars.next()? {
        'n' => '\n',
        'r' => '\r',
        't' => '\t',
        'b' => '\u{8}',
        'f' => '\u{c}',
        'u' => return unicode(chars.as_str()),
        other => other,
    };
    Some((c, chars.as_str()))
}

fn unicode(text: &str) -> Option<(char, &str)> {
    let (first, rest) = unit(text)?;
    let pair = rest.strip_prefix("\\u").and_then(unit);
    if let (0xd800..0xdc00, Some((second, after))) = (first, pair)
        && let Some(Ok(c)) = char::decode_utf16([first, second]).next()
    {
        return Some((c, after));
    }
    let c = char::from_u32(first.into()).unwrap_or(char::REPLACEMENT_CHARACTER);
    Some((c, rest))
}

fn unit(text: &str) -> Option<(u16, &str)> {
    let (digits, rest) = text.split_at_checked(4)?;
    Some((u16::from_str_radix(digits, 16).ok()?, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_found_and_unescaped() {
        let text = r#" {"error":"x","detail" : "a \"b\"\\\/\n\u00e9\ud83d\ude00\ud83d","n":[1,{"hint":"no"}],"hint":"do it"}"#;
        let detail = string_field(text, "detail").unwrap();
        assert_eq!(detail, "a \"b\"\\/\n\u{e9}\u{1f600}\u{fffd}");
        assert_eq!(string_field(text, "hint").unwrap(), "do it");
    }

    #[test]
    fn a_value_that_looks_like_a_key_is_none() {
        let text = r#"{"error":"hint","detail":"\"hint\":\"wrong\""}"#;
        assert_eq!(string_field(text, "hint"), None);
    }

    #[test]
    fn what_is_not_an_object_with_that_string_has_no_field() {
        for text in [
            "",
            "oops",
            "[\"hint\"]",
            "{",
            "{}",
            "{\"hint\":7}",
            "{\"hint\":\"cut",
            "{\"hint\":\"\\u12\"}",
            "{\"hint\":\"\\",
            "{}{\"hint\":\"late\"}",
        ] {
            assert_eq!(string_field(text, "hint"), None, "{text}");
        }
    }
}
