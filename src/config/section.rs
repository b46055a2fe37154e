//! Reading a mapping key by key: types are checked, unknown keys are found, and every complaint
//! has a position, the key's full name and a next step.

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use crate::config::node::{At, Key, Node, Value};
use crate::config::span;
use crate::error::{Error, Kind, Result};
use crate::secret::{SecretValue, quote_name};

/// Longest key that is shown, in bytes: longer than any that there is.
const MAX_WORD: usize = 32;

/// What is shared by all sections of one file.
pub struct File {
    pub path: PathBuf,
    pub strict: bool,
    pub warnings: RefCell<Vec<String>>,
}

impl File {
    /// With a next step that is good for all, where the caller has no better one.
    pub fn error(&self, at: At, what: impl std::fmt::Display) -> Error {
        Error::new(Kind::Config, self.place(at, what))
            .hint("correct it; `psi-cachectl status --strict` then checks all of it")
    }

    pub fn warn(&self, at: At, what: impl std::fmt::Display) {
        self.warnings.borrow_mut().push(self.place(at, what));
    }

    fn place(&self, at: At, what: impl std::fmt::Display) -> String {
        match at {
            At::Line { line, column } => {
                format!("{}:{line}:{column}: {what}", self.path.display())
            }
            At::Variable(name) => format!("{name}: {what}"),
        }
    }
}

/// One mapping of the file.
pub struct Section<'a> {
    pub file: Rc<File>,
    pub at: At,
    name: String,
    entries: &'a [(Key, Node)],
    known: RefCell<Vec<&'static str>>,
}

impl<'a> Section<'a> {
    /// The mapping at `node`; an empty value is an empty mapping.
    pub fn open(file: &Rc<File>, name: impl Into<String>, node: &'a Node) -> Result<Self> {
        let name = name.into();
        let entries: &[_] = match &node.value {
            Value::Map(entries) => entries,
            Value::Null => &[],
            other => {
                let what = format!("{} must be a mapping, not {}", shown(&name), other.kind());
                return Err(file.error(node.at, what));
            }
        };
        Ok(Self {
            file: Rc::clone(file),
            at: node.at,
            name,
            entries,
            known: RefCell::default(),
        })
    }

    /// Every entry, for mappings whose keys are the user's own names.
    pub fn named(&self) -> impl Iterator<Item = (&'a Key, &'a Node)> {
        self.entries.iter().map(|(key, node)| (key, node))
    }

    /// The full name of a key in it, e.g. `cache.backend`.
    pub fn full(&self, key: &str) -> String {
        match self.name.as_str() {
            "" => key.to_owned(),
            name => format!("{name}.{key}"),
        }
    }

    pub fn error(&self, what: impl std::fmt::Display) -> Error {
        self.file.error(self.at, what)
    }

    /// The value of `key`; a value that is nothing counts as absent.
    pub fn get(&self, key: &'static str) -> Option<&'a Node> {
        self.known.borrow_mut().push(key);
        let (_, node) = self.entries.iter().find(|(k, _)| k.name == key)?;
        (!matches!(node.value, Value::Null)).then_some(node)
    }

    /// Whether `key` is there, even with nothing as its value.
    pub fn has(&self, key: &'static str) -> bool {
        self.known.borrow_mut().push(key);
        self.entries.iter().any(|(k, _)| k.name == key)
    }

    pub fn section(&self, key: &'static str) -> Result<Option<Section<'a>>> {
        let node = self.get(key);
        node.map(|node| Section::open(&self.file, self.full(key), node))
            .transpose()
    }

    pub fn list(&self, key: &'static str) -> Result<Option<(At, &'a [Node])>> {
        self.typed(key, "a list", |value| match value {
            Value::List(nodes) => Some(nodes.as_slice()),
            _ => None,
        })
    }

    pub fn text(&self, key: &'static str) -> Result<Option<(At, &'a str)>> {
        self.typed(key, "text (put it in quotes)", text)
    }

    pub fn required_text(&self, key: &'static str) -> Result<(At, &'a str)> {
        let missing = || self.error(format!("{} is missing", self.full(key)));
        let (at, text) = self.text(key)?.ok_or_else(missing)?;
        if text.is_empty() {
            return Err(self.file.error(at, format!("{} is empty", self.full(key))));
        }
        Ok((at, text))
    }

    pub fn secret(&self, key: &'static str) -> Result<Option<SecretValue>> {
        let text = self.text(key)?;
        Ok(text.map(|(_, text)| SecretValue::new(text.into())))
    }

    pub fn flag(&self, key: &'static str, default: bool) -> Result<bool> {
        let flag = self.typed(key, "true or false", |value| match value {
            Value::Bool(flag) => Some(*flag),
            _ => None,
        })?;
        Ok(flag.map_or(default, |(_, flag)| flag))
    }

    pub fn number(&self, key: &'static str, default: u64) -> Result<u64> {
        let number = self.typed(key, "a whole number, 0 or more", |value| match value {
            Value::Integer(n) => u64::try_from(*n).ok(),
            _ => None,
        })?;
        Ok(number.map_or(default, |(_, number)| number))
    }

    /// An absolute path.
    pub fn path(&self, key: &'static str) -> Result<Option<PathBuf>> {
        let Some((at, text)) = self.text(key)? else {
            return Ok(None);
        };
        absolute(text)
            .map(Some)
            .map_err(|why| self.file.error(at, format!("{} {why}", self.full(key))))
    }

    /// A time span as systemd.time(7) has them, or a number of seconds.
    pub fn span(&self, key: &'static str, default: Duration) -> Result<Duration> {
        let span = self.typed(
            key,
            "a time span such as 2s, 5m or 1h 30min",
            |value| match value {
                Value::Integer(n) => u64::try_from(*n).ok().map(Duration::from_secs),
                other => span::parse(text(other)?),
            },
        )?;
        Ok(span.map_or(default, |(_, span)| span))
    }

    /// A time span that only systemd reads: checked, and kept as it is written.
    pub fn span_text(&self, key: &'static str, default: &str) -> Result<String> {
        let span = self.typed(
            key,
            "a time span such as 2s, 5m or 1h 30min",
            |value| match value {
                Value::Integer(n) => u64::try_from(*n).ok().map(|n| format!("{n}s")),
                other => text(other)
                    .filter(|t| span::parse(t).is_some())
                    .map(str::to_owned),
            },
        )?;
        Ok(span.map_or_else(|| default.to_owned(), |(_, span)| span))
    }

    /// One of a few words.
    pub fn choice<T: Copy>(
        &self,
        key: &'static str,
        choices: &[(&'static str, T)],
    ) -> Result<Option<T>> {
        let Some((at, given)) = self.text(key)? else {
            return Ok(None);
        };
        if let Some((_, choice)) = choices.iter().find(|(word, _)| *word == given) {
            return Ok(Some(*choice));
        }
        let words: Vec<&str> = choices.iter().map(|(word, _)| *word).collect();
        let what = format!("{} is none of: {}", self.full(key), words.join(", "));
        let error = self.file.error(at, what);
        Err(match nearest(given, &words) {
            Some(word) => error.hint(format!("did you mean `{word}`?")),
            None => error,
        })
    }

    fn typed<T>(
        &self,
        key: &'static str,
        what: &str,
        convert: impl Fn(&'a Value) -> Option<T>,
    ) -> Result<Option<(At, T)>> {
        let Some(node) = self.get(key) else {
            return Ok(None);
        };
        let wrong = || {
            let is = node.value.kind();
            let what = match is {
                "text" => format!("{} must be {what}", self.full(key)),
                _ => format!("{} must be {what}, not {is}", self.full(key)),
            };
            self.file.error(node.at, what)
        };
        let value = convert(&node.value).ok_or_else(wrong)?;
        Ok(Some((node.at, value)))
    }

    /// Complains about keys that nobody has asked for: in the top level and under `--strict` with
    /// an error, else with a warning.
    pub fn finish(self) -> Result<()> {
        let known = self.known.borrow();
        for (key, _) in self.entries {
            if known.contains(&key.name.as_str()) {
                continue;
            }
            let what = format!("unknown key{} in {}", word(&key.name), shown(&self.name));
            let hint = match nearest(&key.name, &known) {
                Some(nearest) => format!("did you mean `{nearest}`?"),
                None => format!("known keys: {}", known.join(", ")),
            };
            if self.file.strict || self.name.is_empty() {
                return Err(self.file.error(key.at, what).hint(hint));
            }
            self.file.warn(key.at, format!("{what}; {hint}"));
        }
        Ok(())
    }
}

/// A key that looks like one, quoted. Where a colon is missing, a value becomes part of the key.
fn word(key: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphabetic() || c == '_' || c == '-';
    match key.len() <= MAX_WORD && key.chars().all(is_plain) {
        true => format!(" {}", quote_name(key)),
        false => " (not shown: it may be a value)".to_owned(),
    }
}

fn shown(section: &str) -> &str {
    match section {
        "" => "the top level",
        name => name,
    }
}

fn text(value: &Value) -> Option<&str> {
    match value {
        Value::Text(text) => Some(text),
        _ => None,
    }
}

/// `text` as an absolute path, or what is wrong with it.
pub fn absolute(text: &str) -> Result<PathBuf, &'static str> {
    match text {
        _ if text.starts_with('~') => Err("must be an absolute path: `~` is not expanded"),
        _ if !text.starts_with('/') => Err("must be an absolute path"),
        _ if text.chars().any(char::is_control) => Err("holds a control character"),
        _ => Ok(Path::new(text).to_owned()),
    }
}

/// The word most like `given`, if one is like it at all.
pub fn nearest<'w>(given: &str, words: &[&'w str]) -> Option<&'w str> {
    let allowed = given.chars().count().div_ceil(3).clamp(1, 3);
    words
        .iter()
        .map(|word| (distance(given, word), *word))
        .filter(|(distance, _)| *distance <= allowed)
        .min()
        .map(|(_, word)| word)
}

/// Levenshtein's distance: insertions, removals and changes of one character.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let changed = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_word_is_found_and_a_strange_one_has_none() {
        let words = ["providers", "workloads", "cache"];
        assert_eq!(nearest("provider", &words), Some("providers"));
        assert_eq!(nearest("wrokloads", &words), Some("workloads"));
        assert_eq!(nearest("cahce", &words), Some("cache"));
        assert_eq!(nearest("cach", &words), Some("cache"));
        assert_eq!(nearest("zzz", &words), None);
    }
}
