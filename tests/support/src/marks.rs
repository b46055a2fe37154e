//! Marked secrets, and a search that finds them however they are written.

use std::collections::{BTreeSet, HashMap};
use std::hash::{BuildHasher, RandomState};

use base64::Engine;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};

/// What stands between the two halves of a marked text: each character is written in another way
/// by some encoding.
const BETWEEN: &str = "\"\\/\u{e9} <&+%'";

/// Characters of each half. Found by itself, so that a text cut to 40 characters is found too.
const HALF: usize = 16;

const LETTERS: &[u8; 62] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";

/// What a secret is good for, which decides where it may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// What containers get, from a provider or kept locally.
    Value,
    /// What logs in to a provider.
    ClientSecret,
    /// What a provider's login gives.
    AccessToken,
    /// What callers of psi-serve's socket show.
    SocketToken,
    /// A printed key of the cache.
    RecoveryKey,
    /// The key of the cache that systemd delivers.
    CacheKey,
    /// An HSM's PIN.
    Pin,
}

#[derive(Clone, Debug)]
struct Mark {
    kind: Kind,
    name: String,
    pieces: Vec<Vec<u8>>,
}

/// The secrets of one test. No other test has the same.
#[derive(Clone, Debug, Default)]
pub struct Marks {
    marks: Vec<Mark>,
}

impl Marks {
    /// A new text that every encoding changes: letters, what needs escaping, letters.
    pub fn text(&mut self, kind: Kind, name: &str) -> String {
        let [head, tail] = [letters(HALF), letters(HALF)];
        let text = format!("{head}{BETWEEN}{tail}");
        self.push(kind, name, vec![head.into_bytes(), tail.into_bytes()]);
        text
    }

    /// A new text of letters and digits, for what may have no other characters.
    pub fn word(&mut self, kind: Kind, name: &str) -> String {
        let [head, tail] = [letters(HALF), letters(HALF)];
        let word = format!("{head}.{tail}");
        self.push(kind, name, vec![head.into_bytes(), tail.into_bytes()]);
        word
    }

    /// A secret that somebody else made, by the pieces of at least 8 bytes that give it away.
    pub fn add(&mut self, kind: Kind, name: &str, pieces: &[&[u8]]) {
        let pieces = pieces.iter().map(|piece| piece.to_vec()).collect();
        self.push(kind, name, pieces);
    }

    fn push(&mut self, kind: Kind, name: &str, pieces: Vec<Vec<u8>>) {
        let name = name.to_owned();
        self.marks.push(Mark { kind, name, pieces });
    }

    /// How many secrets of that kind there are.
    pub fn count(&self, kind: Kind) -> usize {
        self.marks.iter().filter(|mark| mark.kind == kind).count()
    }
}

fn letters(count: usize) -> String {
    let random = RandomState::new();
    let letter = |n: usize| LETTERS[random.hash_one(n) as usize % LETTERS.len()];
    (0..count).map(|n| char::from(letter(n))).collect()
}

/// A secret that was found.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Found {
    /// What it is good for.
    pub kind: Kind,
    /// Which one it is.
    pub name: String,
    /// How it was written.
    pub encoding: &'static str,
}

/// Finds marks in bytes.
pub struct Detector {
    needles: Vec<(Vec<u8>, Found)>,
    by_start: HashMap<[u8; 4], Vec<usize>>,
    /// The hashes of all starts: most of what is searched has none of them.
    starts: Box<[bool; 1 << 16]>,
}

impl Detector {
    /// Looks for every one of `marks`, in every encoding.
    pub fn new(marks: &Marks) -> Self {
        let mut detector = Self {
            needles: Vec::new(),
            by_start: HashMap::new(),
            starts: Box::new([false; 1 << 16]),
        };
        for mark in &marks.marks {
            for piece in &mark.pieces {
                assert!(piece.len() >= 8, "{} is found by chance", mark.name);
                for (encoding, needle) in encodings(piece) {
                    let found = Found {
                        kind: mark.kind,
                        name: mark.name.clone(),
                        encoding,
                    };
                    detector.add(needle, found);
                }
            }
        }
        detector
    }

    fn add(&mut self, needle: Vec<u8>, found: Found) {
        let start = [needle[0], needle[1], needle[2], needle[3]];
        self.starts[hash(u32::from_be_bytes(start))] = true;
        let same_start = self.by_start.entry(start).or_default();
        same_start.push(self.needles.len());
        self.needles.push((needle, found));
    }

    /// Every mark in `bytes`, with each encoding once.
    pub fn find(&self, bytes: &[u8]) -> BTreeSet<Found> {
        let all = self.find_all(bytes).into_iter();
        all.map(|(_, found)| found).collect()
    }

    /// Every place in `bytes` where a mark begins.
    pub fn find_all(&self, bytes: &[u8]) -> Vec<(usize, Found)> {
        let mut found = Vec::new();
        let mut last = 0_u32;
        for (at, byte) in bytes.iter().enumerate() {
            last = (last << 8) | u32::from(*byte);
            if at >= 3 && self.starts[hash(last)] {
                let at = at - 3;
                found.extend(self.at(at, &bytes[at..]));
            }
        }
        found
    }

    fn at(&self, at: usize, bytes: &[u8]) -> impl Iterator<Item = (usize, Found)> {
        let start = [bytes[0], bytes[1], bytes[2], bytes[3]];
        let same_start = self.by_start.get(&start).into_iter().flatten();
        let needles = same_start.map(|&n| &self.needles[n]);
        needles
            .filter(|(needle, _)| bytes.starts_with(needle))
            .map(move |(_, found)| (at, found.clone()))
    }
}

fn hash(start: u32) -> usize {
    ((start ^ (start >> 16)) & 0xffff) as usize
}

/// `piece` as it may have been written. Text that is escaped for JSON, a URL or a shell has its
/// letters and digits as they are, and is found by `raw`.
fn encodings(piece: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
    let each = |write: fn(&u8) -> String| -> Vec<u8> {
        piece.iter().map(write).collect::<String>().into_bytes()
    };
    let mut encodings = vec![
        ("raw", piece.to_vec()),
        ("lower-case", piece.to_ascii_lowercase()),
        ("upper-case", piece.to_ascii_uppercase()),
        ("hex", each(|b| format!("{b:02x}"))),
        ("HEX", each(|b| format!("{b:02X}"))),
        ("percent", each(|b| format!("%{b:02x}"))),
        ("PERCENT", each(|b| format!("%{b:02X}"))),
        ("JSON \\u", each(|b| format!("\\u{b:04x}"))),
        ("JSON \\U", each(|b| format!("\\u{b:04X}"))),
        ("JSON array", each(|b| format!("{b},"))),
        ("Debug of bytes", each(|b| format!("{b}, "))),
    ];
    for offset in 0..3 {
        encodings.push(("base64", base64(&STANDARD_NO_PAD, piece, offset)));
        encodings.push(("base64 for URLs", base64(&URL_SAFE_NO_PAD, piece, offset)));
    }
    // The first name is the one that is told.
    let mut seen = BTreeSet::new();
    encodings.retain(|(_, written)| seen.insert(written.clone()));
    encodings
}

/// The characters that are the same whatever `offset` bytes are before `piece`, and whatever comes
/// after it.
fn base64(engine: &impl Engine, piece: &[u8], offset: usize) -> Vec<u8> {
    let text = engine.encode([&vec![0; offset], piece].concat());
    let bits = 8 * offset..8 * (offset + piece.len());
    text.as_bytes()[bits.start.div_ceil(6)..bits.end / 6].to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str, written: &[u8]) -> bool {
        let mut marks = Marks::default();
        let [head, tail] = [
            &text.as_bytes()[..HALF],
            &text.as_bytes()[text.len() - HALF..],
        ];
        marks.add(Kind::Value, "it", &[head, tail]);
        let around = [b"before ".as_slice(), written, b" after"].concat();
        !Detector::new(&marks).find(&around).is_empty()
    }

    #[test]
    fn a_text_is_found_however_it_is_written() {
        let text = Marks::default().text(Kind::Value, "it");
        let bytes = text.as_bytes();
        let each = |write: fn(&u8) -> String| bytes.iter().map(write).collect::<String>();
        let quoted = serde_json::Value::from(text.as_str()).to_string();
        for written in [
            text.clone(),
            text.chars().take(HALF).collect(),
            text.chars().skip(HALF).collect(),
            quoted.clone(),
            serde_json::Value::from(quoted).to_string(),
            format!("{text:?}"),
            format!("{bytes:?}"),
            text.to_uppercase(),
            each(|b| format!("{b:02x}")),
            each(|b| format!("{b:02X}")),
            each(|b| format!("%{b:02x}")),
            each(|b| format!("%{b:02X}")),
            each(|b| format!("\\u{b:04x}")),
            form_urlencoded::byte_serialize(bytes).collect(),
            percent_encoding::percent_encode(bytes, percent_encoding::NON_ALPHANUMERIC).to_string(),
            serde_json::Value::from(bytes).to_string(),
        ] {
            assert!(found(&text, written.as_bytes()), "{written}");
        }
        for before in ["", "x", "xy", "xyz"] {
            let bytes = [before.as_bytes(), bytes, b"and more"].concat();
            for written in [
                STANDARD_NO_PAD.encode(&bytes),
                URL_SAFE_NO_PAD.encode(&bytes),
            ] {
                assert!(found(&text, written.as_bytes()), "{before}: {written}");
            }
        }
    }

    #[test]
    fn another_text_is_not_found() {
        let mut marks = Marks::default();
        let text = marks.text(Kind::Value, "it");
        let other = marks.text(Kind::Value, "another");
        assert!(!found(&text, other.as_bytes()));
        assert!(!found(&text, &text.as_bytes()[1..HALF]));
        let both = Detector::new(&marks).find((text + &other).as_bytes());
        assert_eq!(both.len(), 2, "{both:?}");
    }
}
