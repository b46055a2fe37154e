//! Where one secret's value is: a small JSON object, the only thing Podman's store holds.
//!
//! ```json
//! {"provider": "infisical", "project": "myproject", "path": "/myapp", "key": "DB_HOST"}
//! {"provider": "nitrokeyhsm", "blob": "<base64 of a hybrid envelope>"}
//! ```

use std::collections::BTreeMap;

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Kind, Result};
use crate::secret::LocalName;

mod store;
mod watch;

pub use store::Store;
pub use watch::{Change, Watch};

/// Largest mapping, in bytes: what Podman takes as a secret is below 512,000 (its `secrets.go`).
pub const MAX_MAPPING: usize = 512_000;

/// The providers that a mapping may name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProviderName {
    /// An Infisical server.
    Infisical,
    /// A PKCS#11 token.
    NitrokeyHsm,
    /// Values kept only in the sealed cache.
    Local,
}

impl ProviderName {
    /// Every provider, in the order of their names.
    pub const ALL: [ProviderName; 3] = [Self::Infisical, Self::Local, Self::NitrokeyHsm];

    /// The name as configuration, mappings and routes spell it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Infisical => "infisical",
            Self::NitrokeyHsm => "nitrokeyhsm",
            Self::Local => "local",
        }
    }

    /// The provider of that name.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|p| p.as_str() == text)
    }
}

impl std::fmt::Display for ProviderName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A parsed mapping: a JSON object of strings that names a known provider.
///
/// Keys that we don't know are kept: they are part of the mapping's identity.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct Mapping {
    fields: BTreeMap<String, String>,
}

impl Mapping {
    /// A mapping of `provider` with the given other fields.
    pub fn new<const N: usize>(provider: ProviderName, fields: [(&str, &str); N]) -> Self {
        let mut map: BTreeMap<String, String> = fields
            .into_iter()
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
            .collect();
        map.insert("provider".to_owned(), provider.as_str().to_owned());
        Self { fields: map }
    }

    /// Where the local value `name` is.
    pub fn local(name: &LocalName) -> Self {
        Self::new(ProviderName::Local, [("key", name.as_str())])
    }

    /// A value that was sealed for a token: `envelope` is all there is of it.
    pub fn sealed_for_token(envelope: &[u8]) -> Self {
        let blob = BASE64.encode(envelope);
        Self::new(ProviderName::NitrokeyHsm, [("blob", &blob)])
    }

    /// Reads a mapping from JSON.
    ///
    /// # Errors
    /// [`Kind::Damaged`] if it is too large, not JSON, not an object of strings, or names no
    /// known provider. The text itself is never quoted: an HSM mapping holds a sealed value.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        if bytes.len() > MAX_MAPPING {
            return Err(not_a_mapping(format!(
                "{} bytes, more than {MAX_MAPPING}",
                bytes.len()
            )));
        }
        let fields: BTreeMap<String, String> = serde_json::from_slice(bytes).map_err(|e| {
            not_a_mapping(format!(
                "not a JSON object of strings (line {}, column {})",
                e.line(),
                e.column()
            ))
        })?;
        Self::from_fields(fields)
    }

    fn from_fields(fields: BTreeMap<String, String>) -> Result<Self> {
        match fields.get("provider").map(|p| ProviderName::parse(p)) {
            Some(Some(_)) => Ok(Self { fields }),
            Some(None) => Err(not_a_mapping("its provider is unknown")),
            None => Err(not_a_mapping("it names no provider")),
        }
    }

    /// The provider that has the value.
    pub fn provider(&self) -> ProviderName {
        self.get("provider")
            .and_then(ProviderName::parse)
            .unwrap_or(ProviderName::Local)
    }

    /// The field `name`.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.fields.get(name).map(String::as_str)
    }

    /// The bytes that identify this mapping: keys in code-point order, `,` and `:` without
    /// blanks, and everything outside space to `~` escaped, as Python's `json.dumps` does
    /// it by default.
    pub fn canonical(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(128);
        out.push(b'{');
        for (i, (key, value)) in self.fields.iter().enumerate() {
            if i > 0 {
                out.push(b',');
            }
            write_canonical_string(&mut out, key);
            out.push(b':');
            write_canonical_string(&mut out, value);
        }
        out.push(b'}');
        out
    }
}

impl Mapping {
    /// Tells one mapping from another where the mapping itself has no place: the SHA-256 of the
    /// canonical bytes, in hexadecimal.
    pub fn digest(&self) -> String {
        let digest = digest::digest(&digest::SHA256, &self.canonical());
        digest.as_ref().iter().map(|b| format!("{b:02x}")).collect()
    }
}

impl<'de> Deserialize<'de> for Mapping {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let fields = BTreeMap::deserialize(deserializer)?;
        Self::from_fields(fields).map_err(serde::de::Error::custom)
    }
}

fn write_canonical_string(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    let mut units = [0u16; 2];
    for c in text.chars() {
        match c {
            '"' => out.extend_from_slice(b"\\\""),
            '\\' => out.extend_from_slice(b"\\\\"),
            '\n' => out.extend_from_slice(b"\\n"),
            '\r' => out.extend_from_slice(b"\\r"),
            '\t' => out.extend_from_slice(b"\\t"),
            '\u{8}' => out.extend_from_slice(b"\\b"),
            '\u{c}' => out.extend_from_slice(b"\\f"),
            ' '..='~' => out.push(c as u8),
            _ => {
                for unit in c.encode_utf16(&mut units) {
                    out.extend_from_slice(format!("\\u{unit:04x}").as_bytes());
                }
            }
        }
    }
    out.push(b'"');
}

fn not_a_mapping(why: impl std::fmt::Display) -> Error {
    Error::new(Kind::Damaged, format!("not a mapping: {why}")).hint(
        "a mapping is a JSON object of strings with a `provider`; \
         `systemctl restart 'psi-*-setup.service'` writes it anew when the secret is registered again",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn canonical_bytes_match_the_vector() {
        let mapping =
            Mapping::parse("{\"b\":\"é😀\\u007f\\u0001/\\n\", \"provider\":\"local\"}".as_bytes())
                .unwrap();
        assert_eq!(
            String::from_utf8(mapping.canonical()).unwrap(),
            r#"{"b":"\u00e9\ud83d\ude00\u007f\u0001/\n","provider":"local"}"#
        );
    }

    #[test]
    fn canonical_bytes_do_not_depend_on_order_or_spacing() {
        let a = Mapping::parse(br#"{"provider":"infisical","key":"A","path":"/x"}"#).unwrap();
        let b =
            Mapping::parse(b"{ \"path\" : \"/x\",\n\"key\":\"A\", \"provider\": \"infisical\" }")
                .unwrap();
        assert_eq!(a.canonical(), b.canonical());
        assert_eq!(
            a.canonical(),
            br#"{"key":"A","path":"/x","provider":"infisical"}"#
        );
    }

    #[test]
    fn unknown_keys_are_part_of_the_identity() {
        let a = Mapping::parse(br#"{"provider":"local","key":"A"}"#).unwrap();
        let b = Mapping::parse(br#"{"provider":"local","key":"A","x":""}"#).unwrap();
        assert_ne!(a.canonical(), b.canonical());
    }

    #[test]
    fn what_is_not_an_object_of_strings_with_a_known_provider_is_refused() {
        for bad in [
            "",
            "null",
            "7",
            "[]",
            "\"provider\"",
            "{}",
            "{\"provider\":null}",
            "{\"provider\":\"local\",\"n\":1}",
            "{\"provider\":\"vault\"}",
            "{\"provider\":\"local\"",
            "{\"provider\":\"local\"} x",
            "{\"A\":null,\"provider\":\"local\"}",
        ] {
            let error = Mapping::parse(bad.as_bytes()).unwrap_err();
            assert_eq!(error.kind(), Kind::Damaged, "{bad:?}");
        }
        let huge = format!("{{\"provider\":\"{}\"}}", "x".repeat(MAX_MAPPING));
        assert!(Mapping::parse(huge.as_bytes()).is_err());
        assert!(Mapping::parse(b"{\"provider\":\"local\",\"k\":\"\xff\"}").is_err());
    }
}
