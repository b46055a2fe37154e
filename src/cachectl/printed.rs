//! How slots, times and what nobody vouches for are printed.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Serialize;
use zeroize::Zeroizing;

use crate::cache::{Header, Keyslot};
pub use crate::cli::printable;
use crate::protector::{Binding, SlotKind, made_with};
use crate::wire::{NewRecoveryKey, RecoveryText};

/// 10000-01-01, in seconds since 1970: no date beyond it is written out.
const END_OF_DATES: u64 = 253_402_300_800;

/// One slot, as its header describes it.
#[derive(Debug, Serialize)]
pub struct Slot {
    /// Its number.
    pub id: u32,
    /// Its kind.
    pub kind: SlotKind,
    /// For people.
    pub label: String,
    /// In seconds since 1970.
    pub created_at: u64,
    /// The PCRs that a slot of the TPM is bound to.
    pub pcrs: Option<Vec<u8>>,
    #[serde(skip)]
    token: Option<String>,
    #[serde(skip)]
    binding: Option<Binding>,
}

impl From<&Keyslot> for Slot {
    fn from(slot: &Keyslot) -> Self {
        let is_tpm2 = slot.kind == SlotKind::Tpm2;
        let binding = Binding::of(&slot.fields).filter(|_| is_tpm2);
        Self {
            id: slot.id,
            kind: slot.kind,
            label: slot.label.clone(),
            created_at: slot.created_at,
            pcrs: binding.as_ref().map(|b| b.pcrs.clone()),
            token: made_with(&slot.fields).filter(|_| slot.kind == SlotKind::Pkcs11),
            binding,
        }
    }
}

impl Slot {
    /// All that a header has.
    pub fn all(header: &Header) -> Vec<Self> {
        header.slots.iter().map(Self::from).collect()
    }

    /// What the key of this slot depends on.
    pub fn bound_to(&self) -> String {
        match (self.kind, &self.binding) {
            (SlotKind::Credential, _) => "the key that systemd delivers".to_owned(),
            (SlotKind::Tpm2, Some(binding)) if binding.is_unmeasured => format!(
                "the TPM and {binding}, into which nothing has been measured: it opens after any boot"
            ),
            (SlotKind::Tpm2, Some(binding)) => format!("the TPM and {binding}"),
            (SlotKind::Tpm2, None) => "the TPM; to which PCRs is not readable".to_owned(),
            (SlotKind::Pkcs11, _) => match &self.token {
                Some(token) => format!("a key on {token}"),
                None => "a key on a PKCS#11 token".to_owned(),
            },
            (SlotKind::Recovery, _) => "its printed key".to_owned(),
        }
    }
}

/// The keys of new recovery slots, each with what to do with it.
pub fn recovery_keys(keys: &[NewRecoveryKey]) -> Zeroizing<String> {
    let mut text = Zeroizing::new(String::with_capacity(keys.len() * 512));
    for NewRecoveryKey { slot, key } in keys {
        let RecoveryText(key) = key;
        text.push_str(&format!(
            "slot {slot} (recovery) opens with this key, shown this once: print it or write it down, and keep it off this machine\n"
        ));
        text.push_str(&key.display_groups());
    }
    text
}

/// In UTC, e.g. `Tue, 24 Nov 2026 20:46:00 UTC`.
pub fn date(at: u64) -> String {
    if at >= END_OF_DATES {
        return format!("{at} s after 1970");
    }
    let text = httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(at));
    text.replace("GMT", "UTC")
}

/// How long ago `at` was, rounded down.
pub fn age(at: u64) -> String {
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = since_1970.map_or(0, |d| d.as_secs());
    let Some(seconds) = now.checked_sub(at) else {
        return "in the future: one of the clocks is or was wrong".to_owned();
    };
    match seconds {
        0..=119 => format!("{seconds} s ago"),
        120..=7199 => format!("{} min ago", seconds / 60),
        7200..=172_799 => format!("{} h ago", seconds / 3600),
        _ => format!("{} days ago", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_in_utc_and_never_beyond_the_calendar() {
        assert_eq!(date(0), "Thu, 01 Jan 1970 00:00:00 UTC");
        assert_eq!(date(1_795_553_000), "Tue, 24 Nov 2026 20:43:20 UTC");
        assert_eq!(date(u64::MAX), format!("{} s after 1970", u64::MAX));
    }

    #[test]
    fn an_age_is_rounded_down_and_the_future_is_named() {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap()
            .as_secs();
        assert_eq!(age(now - 7200), "2 h ago");
        assert_eq!(age(now - 3 * 86_400), "3 days ago");
        assert!(age(now + 1000).starts_with("in the future"));
    }
}
