//! What opens a cache: asked for, changed, and told.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use zeroize::Zeroizing;

use crate::cache::Attempt;
use crate::error::Error;
use crate::protector::{Key, RecoveryKey, SlotKind};
use crate::secret::SecretValue;
use crate::wire::Verified;

/// `POST /cache/init`: start an empty cache.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Init {
    /// Put an existing cache aside first, and seal to PCRs that nothing was measured into.
    #[serde(default)]
    pub force: bool,
    /// What is to open it; psi-serve chooses if that is left out.
    #[serde(default)]
    pub kind: Option<SlotKind>,
    /// The PCRs of a slot of the TPM; the configured ones if they are left out.
    #[serde(default)]
    pub pcrs: Option<Vec<u8>>,
    /// Whether it gets a recovery slot as well.
    #[serde(default)]
    pub recovery: bool,
}

/// The answer to [`Init`].
#[derive(Debug, Serialize, Deserialize)]
pub struct Initialised {
    /// The new file.
    pub cache: Verified,
    /// Where the old file is now, if there was one.
    pub replaced: Option<String>,
    /// The key of its recovery slot, if one was asked for.
    pub recovery_key: Option<NewRecoveryKey>,
}

/// `POST /cache/slots`: change what opens the cache, or try it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Slots {
    /// What to do.
    pub change: SlotChange,
    /// Opens the cache if nothing else does.
    #[serde(default)]
    pub recovery: Option<RecoveryText>,
}

/// One change of a cache's slots.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SlotChange {
    /// One more way to open it.
    Add(AddSlot),
    /// Ways less, and a new data key.
    Remove {
        /// The slots' numbers.
        ids: Vec<u32>,
    },
    /// No change: which slots open?
    Test,
    /// New keys for slots.
    Reseal(ResealSlots),
}

/// The slot to add.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AddSlot {
    /// Its kind.
    pub kind: SlotKind,
    /// For people.
    pub label: String,
    /// The PCRs of a slot of the TPM; the configured ones if they are left out.
    pub pcrs: Option<Vec<u8>>,
    /// The serial number of a PKCS#11 slot's token; the configured one if it is left out.
    #[serde(default)]
    pub token: Option<String>,
    /// Seal to PCRs that nothing was measured into.
    pub force: bool,
    /// The key of a credential slot, which systemd delivers from the next start on.
    pub slot_key: Option<SlotKey>,
}

/// The slots to seal anew.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ResealSlots {
    /// One slot, whether it opens or not; all that do not open now if it is left out.
    pub id: Option<u32>,
    /// The PCRs of slots of the TPM; those that each of them has if they are left out.
    pub pcrs: Option<Vec<u8>>,
    /// The serial number of a PKCS#11 slot's new token; its own if it is left out, or the configured
    /// one if that is gone and the slot is named.
    #[serde(default)]
    pub token: Option<String>,
    /// Seal to PCRs that nothing was measured into.
    pub force: bool,
    /// As in [`AddSlot`].
    pub slot_key: Option<SlotKey>,
}

/// The answer to [`Slots`].
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct SlotsChanged {
    /// The slot that opened the cache for this, which was closed before.
    pub opened_by: Option<Attempted>,
    /// Each slot that was added, sealed anew or tried, and how that went.
    pub attempts: Vec<Attempted>,
    /// New recovery keys: they can't be had again.
    pub recovery_keys: Vec<NewRecoveryKey>,
}

/// One try to open or to seal one slot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempted {
    /// The slot's number.
    pub slot: u32,
    /// Its kind.
    pub kind: SlotKind,
    /// Whether there was anything to try it with: a recovery key is entered by hand.
    pub tried: bool,
    /// How long it took, in milliseconds.
    pub took_ms: u64,
    /// Why it did not work; nothing if it did.
    pub failure: Option<Trouble>,
}

/// What is wrong, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trouble {
    /// The thing and the cause.
    pub what: String,
    /// The next step.
    pub next: Option<String>,
}

impl From<&Error> for Trouble {
    fn from(error: &Error) -> Self {
        Self {
            what: error.to_string(),
            next: error.next_step().map(str::to_owned),
        }
    }
}

impl Attempted {
    /// The slot as messages name it, e.g. `slot 1 (tpm2)`.
    pub fn name(&self) -> String {
        format!("slot {} ({})", self.slot, self.kind)
    }
}

impl From<&Attempt> for Attempted {
    fn from(attempt: &Attempt) -> Self {
        Self {
            slot: attempt.slot,
            kind: attempt.kind,
            tried: attempt.was_made(),
            took_ms: u64::try_from(attempt.took.as_millis()).unwrap_or(u64::MAX),
            failure: attempt.failure.as_ref().map(Trouble::from),
        }
    }
}

/// A recovery key that was made just now.
#[derive(Debug, Serialize, Deserialize)]
pub struct NewRecoveryKey {
    /// The slot that it opens.
    pub slot: u32,
    /// The key.
    pub key: RecoveryText,
}

/// A recovery key; on the wire its groups, in one line.
#[derive(Clone, Debug)]
pub struct RecoveryText(pub Arc<RecoveryKey>);

impl Serialize for RecoveryText {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        // A newline would be escaped, and unescaped in memory that nobody wipes.
        let line = Zeroizing::new(self.0.display_groups().replace('\n', "-"));
        serializer.serialize_str(&line)
    }
}

impl<'de> Deserialize<'de> for RecoveryText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = SecretValue::deserialize(deserializer)?;
        let key = RecoveryKey::parse(text.expose_str().unwrap_or_default());
        key.map(|key| Self(Arc::new(key)))
            .map_err(|_| D::Error::custom("not a recovery key"))
    }
}

/// A slot's key; base64 on the wire.
#[derive(Debug)]
pub struct SlotKey(pub Key);

impl Serialize for SlotKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let text = Zeroizing::new(BASE64.encode(self.0.expose()));
        serializer.serialize_str(&text)
    }
}

impl<'de> Deserialize<'de> for SlotKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = SecretValue::deserialize(deserializer)?;
        let bytes = BASE64.decode(text.expose()).map(Zeroizing::new);
        bytes
            .ok()
            .and_then(|bytes| Key::from_bytes(&bytes))
            .map(Self)
            .ok_or_else(|| D::Error::custom("not the key of a slot"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_survive_the_way_through_json_and_show_in_no_debug() {
        let key = Arc::new(RecoveryKey::generate().unwrap());
        let asked = Slots {
            change: SlotChange::Add(AddSlot {
                kind: SlotKind::Credential,
                label: String::new(),
                pcrs: None,
                token: None,
                force: false,
                slot_key: Some(SlotKey(Key::from_bytes(&[7; 32]).unwrap())),
            }),
            recovery: Some(RecoveryText(Arc::clone(&key))),
        };
        let json = serde_json::to_string(&asked).unwrap();
        let back: Slots = serde_json::from_str(&json).unwrap();
        let text = key.display_groups();
        assert_eq!(back.recovery.unwrap().0.display_groups(), text);
        let SlotChange::Add(AddSlot {
            slot_key: Some(slot_key),
            ..
        }) = back.change
        else {
            unreachable!("an added slot with its key");
        };
        assert_eq!(slot_key.0.expose(), &[7; 32]);
        let shown = format!("{asked:?}");
        assert!(!shown.contains(&text[..8]), "{shown}");
        assert!(
            !shown.contains("BwcHBw") && !shown.contains("7, 7"),
            "{shown}"
        );
    }

    #[test]
    fn an_error_about_a_key_quotes_none_of_it() {
        let json = r#"{"change":"test","recovery":"ABCDEFGH-JKMNPQRS"}"#;
        let error = serde_json::from_str::<Slots>(json).unwrap_err().to_string();
        assert!(
            !error.contains("ABCD") && !error.contains("JKMN"),
            "{error}"
        );
    }
}
