//! What is logged: each kind of event with its level and its `MESSAGE_ID`, by which the journal's
//! catalog, `units/psi.catalog`, has a text on what to do.
//!
//! A lookup that is answered from memory is no event.

use std::fmt::Display;

use tracing::Level;

use crate::error::Kind;

/// A kind of event.
#[derive(Clone, Copy, Debug)]
pub struct Event {
    /// Its name, as the journal's field `PSI_EVENT` has it.
    pub name: &'static str,
    /// 128 bits in hexadecimal: the journal's field `MESSAGE_ID`. Never used for another kind.
    pub id: &'static str,
    /// How grave it is.
    pub level: Level,
}

macro_rules! events {
    ($($(#[$doc:meta])* $event:ident: $level:ident, $id:literal;)*) => {
        $($(#[$doc])* pub const $event: Event = Event {
            name: stringify!($event),
            id: $id,
            level: Level::$level,
        };)*

        /// Every kind there is.
        pub const ALL: &[Event] = &[$($event),*];
    };
}

events! {
    // Lookups
    /// A value was not in the cache, and its provider gave it.
    LOOKUP_LIVE: INFO, "e6e4b9c6bd4ff2a94b75caeccb23594e";
    /// A lookup of an id that has no mapping.
    SECRET_UNKNOWN: WARN, "8b612871bef3d85802e462fada6199df";
    /// A lookup whose mapping can't be read.
    MAPPING_UNUSABLE: WARN, "5ae2454d3e248a1a3e56cda7480a4d28";
    /// A lookup for which the provider would have had to answer.
    PROVIDER_UNREACHABLE: WARN, "0c6e1aeca16c1da4f6a086f812aa142d";
    /// A lookup that the provider refuses.
    PROVIDER_DENIES: WARN, "ba27d5ac9f764e835db4960350362193";
    /// A lookup of what neither the cache nor the provider has.
    VALUE_NOT_FOUND: WARN, "3c1a298ae07c0fc0a9491923fe2976f8";
    /// A lookup to which the provider gave no answer that is one.
    PROVIDER_ANSWERS_NONSENSE: WARN, "d64e1d6c0e2f22b300987b9f8542ddb6";
    /// A lookup of a provider that the configuration does not have, or not completely.
    PROVIDER_NOT_CONFIGURED: WARN, "a148b72763b41cc0f560bec1e90e2afa";
    /// A lookup that failed otherwise.
    LOOKUP_FAILED: WARN, "c1e59f4cb5fb605d8bd80fdfda9f51dc";
    // Requests
    /// A request without the socket token.
    TOKEN_REFUSED: WARN, "3992e03a407b1626f6ef28d1b268df93";
    /// A request of a user who may not ask.
    CALLER_REFUSED: WARN, "8bb44ac67aad7f49aaa98e3a28f81585";
    /// A request that is none of psi-serve's.
    REQUEST_REFUSED: WARN, "bba75102fe09eb0c920f9fe41a031955";
    /// A request for a change that was not made.
    CHANGE_FAILED: WARN, "6d90a168d51003c6ce439e7c309a45c6";
    /// A health check that found something.
    UNHEALTHY: WARN, "b3590bdf74d04ddfe9690190224b87fd";
    /// A connection that could not be used.
    CONNECTION_FAILED: WARN, "1c820e3a8c8ccb5ea9cabd7478bcb33e";
    // The cache
    /// A slot did not open the cache.
    SLOT_NOT_OPENED: WARN, "ff47cbb2079d1a1dabe052a1d9f99f60";
    /// The cache can't be used.
    CACHE_CLOSED: WARN, "a4adfc094ac9b3691b005ee91fd930cf";
    /// A cache that no slot opened was put aside for a new one.
    CACHE_REPLACED: WARN, "033d6d21a8c9128d1ad2dff1f97d934f";
    /// A slot could not be sealed anew.
    SLOT_NOT_RESEALED: WARN, "dc9db266864d28e86c8658a8a6c0ec38";
    /// A slot was sealed to another boot chain by itself.
    SLOT_FOLLOWED_BOOT: WARN, "83bf695b582e65efca727e120416fda7";
    /// The old cache of version 1, or a value of it, could not be let go of.
    OLD_CACHE_KEPT: WARN, "e82d96759e0b137d410d1cc939caec54";
    // psi-serve
    /// A provider could not be opened.
    PROVIDER_UNUSABLE: WARN, "6eab26869495d0b08715f0c0a5ab39e9";
    /// A new configuration was not taken over.
    RELOAD_FAILED: ERROR, "a427cf168780f3fd818a095c1272cdf0";
    /// A new configuration has settings that a reload does not change.
    RESTART_NEEDED: WARN, "c4a649e01c7344767d14a1153d129632";
    /// psi-serve was stopped before the cache was open.
    START_CUT_SHORT: WARN, "993791d5564e441e8a405cee29155f1c";
    /// The PKCS#11 module of a token does not come back.
    TOKEN_STUCK: WARN, "2e19225d0f2c5ffda5d1a8ce317e99eb";
    /// Values may be swapped.
    MEMORY_NOT_LOCKED: WARN, "ca8536fb3b88d38d55ef9d75025a1ee9";
    /// Core dumps can't be turned off.
    DUMPS_NOT_FORBIDDEN: WARN, "4e233d2c84e3625e7d6302e25714dfda";
    /// systemd could not be notified.
    SYSTEMD_NOT_TOLD: WARN, "f8a25d73a5377acd30b6443393883c35";
    // The configuration
    /// Something was accepted and is probably a mistake.
    CONFIGURATION_DOUBTFUL: WARN, "7e47a4388d66ba52683103a414692106";
    // psi-setup
    /// A workload keeps what it has.
    WORKLOAD_FAILED: ERROR, "b45a7252a49c27ab76018ade04e68a0a";
    /// The provider does not answer, and nothing is missing for want of it.
    WORKLOAD_SERVED_FROM_CACHE: WARN, "1a34d13131b5c083e314050ef410a2b9";
    /// Something about a workload is worth knowing and no failure.
    WORKLOAD_DOUBTFUL: WARN, "2d39bcf85ab5754bbf8557fad46738ff";
    /// Podman does not have what a drop-in names.
    SECRETS_MISSING: WARN, "89a2d09557baea407a9fa1c60ffcfb86";
    /// Podman has what PSI did not register.
    SECRETS_UNEXPECTED: WARN, "ad6a151d4285582fc138e94b9817d250";
    /// The provider no longer has some keys.
    KEYS_GONE: WARN, "a22a9cc1ea9fad7b95d847de34d193d4";
    /// Secrets were removed that containers still use.
    REMOVED_IN_USE: WARN, "03835f9b93192f4f2fa1143e60319e86";
    /// systemd has not read new drop-ins.
    DROP_INS_NOT_LOADED: WARN, "4768be6fedf3ac268281c89e6261fc66";
    /// Retired values could not be dropped.
    VALUES_NOT_PRUNED: ERROR, "d0fa95326be92e54f6089e67383fe5e1";
    /// A folder at the provider has no secrets.
    FOLDER_EMPTY: WARN, "336e7d3e0f450ceb00bfc8e59293ac35";
    /// A value has a reference in it that its provider did not resolve.
    REFERENCE_LEFT: WARN, "3d3e997c9d793ea375bcfb5e790d1e4d";
    // The end of a program
    /// Exit status 78.
    ENDED_CONFIGURATION: ERROR, "e4b5ed6af59ea1466774595354cac757";
    /// Exit status 69.
    ENDED_UNREACHABLE: ERROR, "fd15bb8c9e8a70616864fd1cf66fdc8a";
    /// Exit status 77.
    ENDED_DENIED: ERROR, "0df58767374d7b4e8dc1e33b0810ca12";
    /// Exit status 74.
    ENDED_IO: ERROR, "c83e6627068e3e5c55b266eee975848b";
    /// Exit status 65.
    ENDED_DAMAGED: ERROR, "b28150c0f52a34281bf0caa3765c0464";
    /// Exit status 70.
    ENDED_FAULT: ERROR, "68ff0467e7ff179a1bdb1582e54e8d27";
    /// Exit status 1, 64, 66 or 76: what was asked for was not done.
    ENDED_REFUSED: ERROR, "166865d424deb961a721200724d921bf";
}

impl Event {
    /// How a program ends with this kind of error.
    pub fn of_end(kind: Kind) -> Self {
        match kind {
            Kind::Config => ENDED_CONFIGURATION,
            Kind::Unreachable => ENDED_UNREACHABLE,
            Kind::Denied => ENDED_DENIED,
            Kind::Io => ENDED_IO,
            Kind::Damaged => ENDED_DAMAGED,
            Kind::Internal => ENDED_FAULT,
            Kind::Refused | Kind::Usage | Kind::NotFound | Kind::BadAnswer => ENDED_REFUSED,
        }
    }

    /// What a lookup is that the provider, or the cache in its place, failed with this kind of error.
    pub fn of_lookup(kind: Kind) -> &'static Self {
        match kind {
            Kind::Unreachable => &PROVIDER_UNREACHABLE,
            Kind::Denied => &PROVIDER_DENIES,
            Kind::NotFound => &VALUE_NOT_FOUND,
            Kind::BadAnswer => &PROVIDER_ANSWERS_NONSENSE,
            Kind::Config => &PROVIDER_NOT_CONFIGURED,
            _ => &LOOKUP_FAILED,
        }
    }

    /// Logs it with its message only.
    pub fn say(self, message: impl Display) {
        Entry::of(self).say(message);
    }

    /// Logs it with the kind of error that it is about.
    pub fn say_why(self, kind: Kind, message: impl Display) {
        let entry = Entry {
            outcome: Some(kind.word()),
            ..Entry::of(self)
        };
        entry.say(message);
    }
}

/// One event, with the journal's fields for searches.
#[derive(Clone, Debug)]
pub struct Entry<'a> {
    /// `MESSAGE_ID` and `PSI_EVENT`
    pub event: Event,
    /// `PSI_SECRET`: Podman's name of the secret, or names of those that share its value, or its id.
    pub secret: Option<&'a str>,
    /// `PSI_WORKLOAD`: the workload's name in the configuration.
    pub workload: Option<&'a str>,
    /// `PSI_PROVIDER`: whose value it is.
    pub provider: Option<&'a str>,
    /// `PSI_OUTCOME`: a word, see [`Kind::word`].
    pub outcome: Option<&'a str>,
}

impl Entry<'_> {
    /// One without any.
    pub fn of(event: Event) -> Self {
        Self {
            event,
            secret: None,
            workload: None,
            provider: None,
            outcome: None,
        }
    }

    /// Logs it.
    pub fn say(&self, message: impl Display) {
        // The level of a call is part of the program.
        macro_rules! log {
            ($level:ident) => {
                tracing::event!(
                    Level::$level,
                    MESSAGE_ID = self.event.id,
                    PSI_EVENT = self.event.name,
                    PSI_SECRET = self.secret,
                    PSI_WORKLOAD = self.workload,
                    PSI_PROVIDER = self.provider,
                    PSI_OUTCOME = self.outcome,
                    "{message}"
                )
            };
        }
        match self.event.level {
            Level::ERROR => log!(ERROR),
            Level::WARN => log!(WARN),
            _ => log!(INFO),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;

    const CATALOG: &str = include_str!("../units/psi.catalog");
    const DOCUMENTED: &str = include_str!("../docs/journal.md");

    /// The catalog's entries by id.
    fn catalog() -> BTreeMap<&'static str, &'static str> {
        let entries = CATALOG.split("\n-- ").skip(1);
        entries
            .map(|entry| entry.split_once('\n').unwrap())
            .collect()
    }

    #[test]
    fn every_event_has_a_text_in_the_catalog_that_says_what_to_do_and_no_other_has() {
        let catalog = catalog();
        for event in ALL {
            let text = catalog.get(event.id).copied().unwrap_or_default();
            for part in ["Subject: ", "\nDefined-By: PSI\n\n", "\n\nWhat to do: "] {
                assert!(
                    text.contains(part),
                    "{}: no {part:?} in {text:?}",
                    event.name
                );
            }
        }
        let ids: BTreeSet<&str> = ALL.iter().map(|event| event.id).collect();
        assert_eq!(catalog.into_keys().collect::<BTreeSet<_>>(), ids);
    }

    /// Those are on hosts that have no program of PSI's but psi-secret, too; psi-cachectl is in the container.
    #[test]
    fn no_text_of_the_catalog_has_a_command_that_hosts_of_containers_lack() {
        for text in catalog().values() {
            let text = text.replace('\n', " ");
            for missing in ["`psi-setup", "`psi-install", "`psi-cachectl refresh"] {
                assert!(!text.contains(missing), "{text}");
            }
        }
    }

    #[test]
    fn no_two_events_share_an_id() {
        let ids: BTreeSet<&str> = ALL.iter().map(|event| event.id).collect();
        assert_eq!(ids.len(), ALL.len());
        let is_id = |id: &str| id.len() == 32 && u128::from_str_radix(id, 16).is_ok();
        assert!(ids.into_iter().all(is_id));
    }

    #[test]
    fn every_event_is_documented_and_nothing_else_is() {
        let rows = DOCUMENTED.lines().filter_map(|l| l.strip_prefix("| `"));
        let names: BTreeSet<&str> = rows.filter_map(|row| row.split('`').next()).collect();
        let events = ALL.iter().map(|event| event.name);
        let fields = [
            "PSI_EVENT",
            "PSI_SECRET",
            "PSI_WORKLOAD",
            "PSI_PROVIDER",
            "PSI_OUTCOME",
        ];
        assert_eq!(names, events.chain(fields).collect());
    }
}
