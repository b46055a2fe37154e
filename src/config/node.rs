//! YAML as a tree whose every node knows its line and column. No error quotes the file: any
//! text in it may be a secret.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::Spanned;
use zeroize::Zeroizing;

/// Where something was said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum At {
    /// In the file; both count from 1.
    Line { line: u64, column: u64 },
    /// In an environment variable.
    Variable(&'static str),
}

/// A value and its place.
pub struct Node {
    pub at: At,
    pub value: Value,
}

/// What YAML's plain schema makes of a value.
pub enum Value {
    Null,
    Bool(bool),
    Integer(i64),
    /// One that is not kept: its text would not be the one in the file.
    OtherNumber,
    Text(Zeroizing<String>),
    List(Vec<Node>),
    Map(Vec<(Key, Node)>),
}

impl Value {
    /// What it is, for messages.
    pub fn kind(&self) -> &'static str {
        match self {
            Value::Null => "nothing",
            Value::Bool(_) => "true or false",
            Value::Integer(_) | Value::OtherNumber => "a number",
            Value::Text(_) => "text",
            Value::List(_) => "a list",
            Value::Map(_) => "a mapping",
        }
    }
}

/// A mapping's key and its place.
pub struct Key {
    pub at: At,
    pub name: String,
}

/// Why a text is no YAML that we take.
pub struct NotYaml {
    pub at: Option<At>,
    pub why: &'static str,
    pub hint: &'static str,
}

impl Node {
    /// Parses one YAML document, without aliases, merge keys and duplicate keys.
    pub fn parse(text: &str) -> Result<Self, NotYaml> {
        let options = serde_saphyr::options! {
            with_snippet: false,
            duplicate_keys: serde_saphyr::DuplicateKeyPolicy::Error,
            merge_keys: serde_saphyr::MergeKeyPolicy::Error,
            strict_booleans: true,
            budget: serde_saphyr::budget! { max_aliases: 0, max_depth: 16, max_nodes: 10_000 }
        };
        serde_saphyr::from_str_with_options::<Spanned<Value>>(text, options)
            .map(Node::from)
            .map_err(|e| not_yaml(&e))
    }
}

fn not_yaml(error: &serde_saphyr::Error) -> NotYaml {
    let at = error.location().map(|l| At::Line {
        line: l.line(),
        column: l.column(),
    });
    let (why, hint) = match error.without_snippet() {
        serde_saphyr::Error::DuplicateMappingKey { .. } => {
            ("this key was there before", "keep one of the two")
        }
        serde_saphyr::Error::Budget { .. } => (
            "aliases, more than 16 levels or 10,000 values are not accepted",
            "write each value where it belongs",
        ),
        _ => (
            "this is not valid YAML",
            "indent with blanks, and put text with `: `, ` #` or a leading `*`, `&`, `!`, `@`, `%` in quotes",
        ),
    };
    NotYaml { at, why, hint }
}

impl From<Spanned<Value>> for Node {
    fn from(spanned: Spanned<Value>) -> Self {
        Self {
            at: at(&spanned),
            value: spanned.value,
        }
    }
}

fn at<T>(spanned: &Spanned<T>) -> At {
    At::Line {
        line: spanned.referenced.line(),
        column: spanned.referenced.column(),
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AnyValue)
    }
}

struct AnyValue;

impl<'de> Visitor<'de> for AnyValue {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        Value::deserialize(deserializer)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Integer(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(i64::try_from(value).map_or(Value::OtherNumber, Value::Integer))
    }

    fn visit_f64<E>(self, _: f64) -> Result<Value, E> {
        Ok(Value::OtherNumber)
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::Text(Zeroizing::new(value.to_owned())))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::Text(Zeroizing::new(value)))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
        let mut nodes = Vec::new();
        while let Some(node) = list.next_element::<Spanned<Value>>()? {
            nodes.push(node.into());
        }
        Ok(Value::List(nodes))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut nodes = Vec::new();
        while let Some((key, node)) = map.next_entry::<Spanned<String>, Spanned<Value>>()? {
            let key = Key {
                at: at(&key),
                name: key.value,
            };
            nodes.push((key, node.into()));
        }
        Ok(Value::Map(nodes))
    }
}
