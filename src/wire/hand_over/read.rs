//! Reads a hand-over as it comes. No more of it is in memory than one entry.

use std::fmt;
use std::io;

use serde::Deserialize;
use serde::de::{self, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use crate::error::{Error, Kind, Result};
use crate::mapping::Mapping;

/// What takes a hand-over, piece by piece. What it was given counts once [`read`] has succeeded.
pub trait Receiver {
    /// A value that was taken, until it is told what it is the value of.
    type Value;

    /// The entries from here on are those of workload `name`.
    ///
    /// # Errors
    /// Why this can't be.
    fn workload(&mut self, name: &str) -> Result<()>;

    /// Takes a value from its text; nothing if that is no base64.
    fn value(&mut self, base64: &str) -> Option<Self::Value>;

    /// `mapping` names that value.
    ///
    /// # Errors
    /// Why this can't be.
    fn entry(&mut self, mapping: &Mapping, value: Self::Value) -> Result<()>;
}

/// Reads the JSON text of a hand-over to its end. The fields of an object may come in any order.
///
/// # Errors
/// [`Kind::Usage`] if it is none, with the place and nothing of the text, and what `receiver` says.
pub fn read<R: Receiver>(json: impl io::Read, receiver: &mut R) -> Result<()> {
    let mut reading = Reading {
        receiver,
        refusal: None,
    };
    let mut json = serde_json::Deserializer::from_reader(json);
    let read = Whole(&mut reading)
        .deserialize(&mut json)
        .and_then(|()| json.end());
    match (read, reading.refusal) {
        (Ok(()), _) => Ok(()),
        (Err(_), Some(refusal)) => Err(refusal),
        // The parser's own message may quote what it read.
        (Err(e), None) => {
            let what = match e.is_io() {
                true => "not a hand-over: it broke off".to_owned(),
                false => format!("not a hand-over: line {}, column {}", e.line(), e.column()),
            };
            Err(Error::new(Kind::Usage, what)
                .hint("psi-setup and psi-serve must be of the same version"))
        }
    }
}

struct Reading<'a, R> {
    receiver: &'a mut R,
    /// Why the receiver wants no more.
    refusal: Option<Error>,
}

impl<R> Reading<'_, R> {
    /// Stops the parser if the receiver refuses.
    fn heard<E: de::Error>(&mut self, said: Result<()>) -> Result<(), E> {
        said.map_err(|refusal| {
            self.refusal = Some(refusal);
            E::custom("refused")
        })
    }
}

/// `{"workloads": …}`
struct Whole<'r, 'a, R>(&'r mut Reading<'a, R>);

/// `{"<workload>": …}`
struct Workloads<'r, 'a, R>(&'r mut Reading<'a, R>);

/// `{"entries": …}`
struct Workload<'r, 'a, R>(&'r mut Reading<'a, R>);

/// `[{"mapping": …, "value": …}, …]`
struct Entries<'r, 'a, R>(&'r mut Reading<'a, R>);

/// `{"mapping": …, "value": …}`
struct Entry<'r, 'a, R>(&'r mut Reading<'a, R>);

/// `"<base64>"`
struct Value<'r, R>(&'r mut R);

#[derive(Deserialize)]
#[serde(field_identifier, rename_all = "lowercase")]
enum WholeField {
    Workloads,
}

#[derive(Deserialize)]
#[serde(field_identifier, rename_all = "lowercase")]
enum WorkloadField {
    Entries,
}

#[derive(Deserialize)]
#[serde(field_identifier, rename_all = "lowercase")]
enum EntryField {
    Mapping,
    Value,
}

/// What is read is an object, or an array for [`Entries`].
macro_rules! reads {
    ($seed:ident, $method:ident) => {
        impl<'de, R: Receiver> DeserializeSeed<'de> for $seed<'_, '_, R> {
            type Value = ();

            fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<(), D::Error> {
                json.$method(self)
            }
        }
    };
}

reads!(Whole, deserialize_map);
reads!(Workloads, deserialize_map);
reads!(Workload, deserialize_map);
reads!(Entries, deserialize_seq);
reads!(Entry, deserialize_map);

impl<'de, R: Receiver> Visitor<'de> for Whole<'_, '_, R> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a hand-over")
    }

    fn visit_map<M: MapAccess<'de>>(self, mut fields: M) -> Result<(), M::Error> {
        let Some(WholeField::Workloads) = fields.next_key()? else {
            return Err(de::Error::missing_field("workloads"));
        };
        fields.next_value_seed(Workloads(self.0))?;
        is_last(fields)
    }
}

impl<'de, R: Receiver> Visitor<'de> for Workloads<'_, '_, R> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("workloads by their names")
    }

    fn visit_map<M: MapAccess<'de>>(self, mut fields: M) -> Result<(), M::Error> {
        while let Some(name) = fields.next_key::<String>()? {
            let said = self.0.receiver.workload(&name);
            self.0.heard(said)?;
            fields.next_value_seed(Workload(self.0))?;
        }
        Ok(())
    }
}

impl<'de, R: Receiver> Visitor<'de> for Workload<'_, '_, R> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("what a workload gets")
    }

    fn visit_map<M: MapAccess<'de>>(self, mut fields: M) -> Result<(), M::Error> {
        let Some(WorkloadField::Entries) = fields.next_key()? else {
            return Err(de::Error::missing_field("entries"));
        };
        fields.next_value_seed(Entries(self.0))?;
        is_last(fields)
    }
}

/// A second field is either unknown or there twice.
fn is_last<'de, M: MapAccess<'de>>(mut fields: M) -> Result<(), M::Error> {
    match fields.next_key::<IgnoredAny>()? {
        Some(_) => Err(de::Error::custom("one field too many")),
        None => Ok(()),
    }
}

impl<'de, R: Receiver> Visitor<'de> for Entries<'_, '_, R> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of entries")
    }

    fn visit_seq<S: SeqAccess<'de>>(self, mut entries: S) -> Result<(), S::Error> {
        while entries.next_element_seed(Entry(self.0))?.is_some() {}
        Ok(())
    }
}

impl<'de, R: Receiver> Visitor<'de> for Entry<'_, '_, R> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a mapping and its value")
    }

    fn visit_map<M: MapAccess<'de>>(self, mut fields: M) -> Result<(), M::Error> {
        let mut mapping: Option<Mapping> = None;
        let mut value: Option<R::Value> = None;
        while let Some(field) = fields.next_key()? {
            match field {
                EntryField::Mapping if mapping.is_none() => mapping = Some(fields.next_value()?),
                EntryField::Value if value.is_none() => {
                    value = Some(fields.next_value_seed(Value(&mut *self.0.receiver))?);
                }
                EntryField::Mapping => return Err(de::Error::duplicate_field("mapping")),
                EntryField::Value => return Err(de::Error::duplicate_field("value")),
            }
        }
        let mapping = mapping.ok_or_else(|| de::Error::missing_field("mapping"))?;
        let value = value.ok_or_else(|| de::Error::missing_field("value"))?;
        let said = self.0.receiver.entry(&mapping, value);
        self.0.heard(said)
    }
}

impl<'de, R: Receiver> DeserializeSeed<'de> for Value<'_, R> {
    type Value = R::Value;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<R::Value, D::Error> {
        json.deserialize_str(self)
    }
}

impl<R: Receiver> Visitor<'_> for Value<'_, R> {
    type Value = R::Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value in base64")
    }

    fn visit_str<E: de::Error>(self, base64: &str) -> Result<R::Value, E> {
        let value = self.0.value(base64);
        value.ok_or_else(|| E::custom("a value is not base64"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD as BASE64;

    use crate::mapping::ProviderName;
    use crate::secret::SecretValue;
    use crate::wire::{Entry, HandOver, WorkloadEntries};

    /// Keeps what it is given, and refuses a workload called `refused`.
    #[derive(Default)]
    struct Kept(Vec<(String, Entries)>);

    type Entries = Vec<(Mapping, Vec<u8>)>;

    impl Receiver for Kept {
        type Value = Vec<u8>;

        fn workload(&mut self, name: &str) -> Result<()> {
            self.0.push((name.to_owned(), Vec::new()));
            match name {
                "refused" => Err(Error::new(Kind::Refused, "not this one")),
                _ => Ok(()),
            }
        }

        fn value(&mut self, base64: &str) -> Option<Vec<u8>> {
            BASE64.decode(base64).ok()
        }

        fn entry(&mut self, mapping: &Mapping, value: Vec<u8>) -> Result<()> {
            let (_, entries) = self.0.last_mut().unwrap();
            entries.push((mapping.clone(), value));
            Ok(())
        }
    }

    fn parse(json: &[u8]) -> Result<Kept> {
        let mut kept = Kept::default();
        read(json, &mut kept)?;
        Ok(kept)
    }

    #[test]
    fn a_hand_over_survives_the_way_through_json() {
        let mapping = Mapping::new(ProviderName::Infisical, [("key", "Ä\"\n")]);
        let entries = vec![Entry {
            mapping: mapping.clone(),
            value: SecretValue::new(vec![0, 10, 255]),
        }];
        let workloads = [("my\"app".to_owned(), WorkloadEntries { entries })].into();
        let json = HandOver { workloads }.to_json().unwrap();
        let kept = parse(json.as_bytes()).unwrap();
        let expected = ("my\"app".to_owned(), vec![(mapping, vec![0, 10, 255])]);
        assert_eq!(kept.0, [expected]);
    }

    #[test]
    fn the_fields_of_an_entry_come_in_any_order() {
        let json = br#" {"workloads":{"a":{"entries":[{"value":"dg\u003d=","mapping":{"provider":"local"}}]},"b":{"entries":[]}}} "#;
        let kept = parse(json).unwrap();
        assert_eq!(kept.0[0].1[0].1, b"v");
        assert_eq!(kept.0[1], ("b".to_owned(), Vec::new()));
    }

    #[test]
    fn what_is_no_hand_over_is_told_by_its_place_and_never_quoted() {
        let of_entry = |entry: &str| format!(r#"{{"workloads":{{"a":{{"entries":[{entry}]}}}}}}"#);
        let mapping = r#""mapping":{"provider":"local"}"#;
        let good = of_entry(&format!(r#"{{{mapping},"value":"aHVudGVyMg=="}}"#));
        assert!(parse(good.as_bytes()).is_ok());
        let cuts = (0..good.len()).map(|length| good[..length].to_owned());
        let wrong = [
            "[]",
            "null",
            "{}",
            r#"{"workloads":{},"force":true}"#,
            r#"{"workloads":{},"workloads":{}}"#,
            r#"{"workloads":{"a":{}}}"#,
            r#"{"workloads":{"a":{"entries":[],"entries":[]}}}"#,
            r#"{"workloads":{"a":{"entries":{}}}}"#,
            r#"{"workloads":{"a":[]}}"#,
            r#"{"workloads":{}} x"#,
        ];
        let value = r#""value":"aHVudGVyMg==""#;
        let entries = [
            format!(r#"{{{mapping},"value":"hunter2!"}}"#),
            format!(r#"{{{mapping},"value":"aHVudGVyMg"}}"#),
            format!(r#"{{{mapping},"value":7}}"#),
            format!(r#"{{{mapping}}}"#),
            format!(r#"{{{value}}}"#),
            format!(r#"{{{mapping},{mapping},{value}}}"#),
            format!(r#"{{{value},{mapping},{value}}}"#),
            format!(r#"{{{mapping},{value},"more":1}}"#),
            format!(r#"{{"mapping":{{"key":"hunter2"}},{value}}}"#),
            format!(r#"{{"mapping":{{"provider":"hunter2"}},{value}}}"#),
            format!(r#"[{{"provider":"local"}},{value}]"#),
        ];
        let wrong = wrong.map(str::to_owned).into_iter();
        let entries = entries.iter().map(|entry| of_entry(entry));
        for json in wrong.chain(entries).chain(cuts) {
            let error = parse(json.as_bytes()).err().unwrap();
            assert_eq!(error.kind(), Kind::Usage, "{json}");
            let told = format!("{error} {error:?}");
            assert!(!told.contains("hunter2"), "{told}");
        }
    }

    #[test]
    fn what_the_receiver_refuses_is_said_in_its_own_words() {
        let json = br#"{"workloads":{"refused":{"entries":[]}}}"#;
        let error = parse(json).err().unwrap();
        assert_eq!(error.kind(), Kind::Refused);
        assert_eq!(error.to_string(), "not this one");
    }

    #[test]
    fn what_breaks_off_is_no_hand_over_however_whole_it_looks() {
        struct Broken;
        impl io::Read for Broken {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::ErrorKind::UnexpectedEof.into())
            }
        }
        let whole = br#"{"workloads":{}}"#.as_slice();
        let json = io::Read::chain(whole, Broken);
        let error = read(json, &mut Kept::default()).unwrap_err();
        assert!(error.to_string().contains("broke off"), "{error}");
    }
}
