//! Settings that are in force from the start to the end, whatever a reload reads.

use std::collections::{BTreeMap, BTreeSet};

use crate::config::{Config, NitrokeyHsm};
use crate::events;

/// Each by its name, with its value as text: to be compared, never to be shown.
#[derive(Debug)]
pub struct AtStart(BTreeMap<&'static str, String>);

impl AtStart {
    /// Those of a configuration.
    pub fn of(config: &Config) -> Self {
        let cache = &config.cache;
        let mut settings = BTreeMap::from([
            ("state_dir", config.state_dir.display().to_string()),
            ("socket", config.socket.display().to_string()),
            ("cache.enabled", cache.enabled.to_string()),
            ("cache.backend", format!("{:?}", cache.backend)),
            ("cache.path", cache.path.display().to_string()),
            ("cache.tpm.tcti", cache.tpm.tcti.clone()),
            ("cache.tpm.pcrs", format!("{:?}", cache.tpm.pcrs)),
            ("cache.auto_reseal", cache.auto_reseal.to_string()),
            (
                "cache.on_unseal_failure",
                format!("{:?}", cache.on_unseal_failure),
            ),
        ]);
        settings.extend(config.providers.nitrokeyhsm.iter().flat_map(of_token));
        Self(settings)
    }

    /// Names the settings that are otherwise in `now`, which a reload has read.
    pub fn warn_if_others(&self, now: &Self) {
        let others = self.others(now).join(", ");
        if !others.is_empty() {
            events::RESTART_NEEDED.say(format_args!(
                "changed, and not in force before a restart: {others}; next: `systemctl restart psi-secrets.service`"
            ));
        }
    }

    fn others(&self, now: &Self) -> Vec<&'static str> {
        let names: BTreeSet<_> = self.0.keys().chain(now.0.keys()).copied().collect();
        let is_other = |name: &&str| self.0.get(name) != now.0.get(name);
        names.into_iter().filter(is_other).collect()
    }
}

/// A token's session lasts as long as psi-serve. Its PIN is no setting that is kept to be compared.
fn of_token(token: &NitrokeyHsm) -> [(&'static str, String); 6] {
    [
        (
            "providers.nitrokeyhsm.pkcs11_module",
            token.pkcs11_module.display().to_string(),
        ),
        ("providers.nitrokeyhsm.slot", token.slot.to_string()),
        (
            "providers.nitrokeyhsm.token_label",
            format!("{:?}", token.token_label),
        ),
        (
            "providers.nitrokeyhsm.token_serial",
            format!("{:?}", token.token_serial),
        ),
        ("providers.nitrokeyhsm.key_label", token.key_label.clone()),
        (
            "providers.nitrokeyhsm.key_id",
            format!("{:?}", token.key_id),
        ),
    ]
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::Environment;

    fn others(before: &str, now: &str) -> Vec<&'static str> {
        let read = |text| {
            let file = Path::new("config.yaml");
            let config = Config::parse(file, text, true, &Environment::default());
            AtStart::of(&config.unwrap())
        };
        read(before).others(&read(now))
    }

    #[test]
    fn what_a_reload_does_not_change_is_named() {
        assert_eq!(others("", ""), [""; 0]);
        assert_eq!(others("socket: /a", "socket: /b"), ["socket"]);
        assert_eq!(
            others("cache: {backend: tpm}", "cache: {tpm: {pcrs: [7, 4]}}"),
            ["cache.backend", "cache.tpm.pcrs"]
        );
        let token = |slot| format!("providers: {{nitrokeyhsm: {{slot: {slot}, pin: '123456'}}}}");
        assert_eq!(others(&token(0), &token(1)), ["providers.nitrokeyhsm.slot"]);
        assert_eq!(others("", &token(0)).len(), 6);
    }

    #[test]
    fn what_a_reload_takes_over_is_not_named() {
        let now = "allowed_uids: [1]\nlookup_timeout: 5s\nproviders: {local: {}}";
        assert_eq!(others("", now), [""; 0]);
    }
}
