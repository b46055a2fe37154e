//! Podman's containers, as far as it matters which secrets they use.

use std::collections::BTreeMap;

use reqwest::Method;
use serde::Deserialize;

use crate::error::Result;
use crate::podman::{Podman, url};

/// The label that systemd's units, quadlets among them, give their containers.
const UNIT_LABEL: &str = "PODMAN_SYSTEMD_UNIT";

/// One container, running or not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Container {
    /// Its name.
    pub name: String,
    /// When it was made, in seconds since 1970; 0 if Podman does not say.
    pub created: u64,
    /// The command line that made it; empty if it was made over the API.
    pub command: Vec<String>,
    /// The systemd unit that it runs in.
    pub unit: Option<String>,
}

impl Container {
    /// Whether the command that made it names the secret with this name and id. What its own
    /// program gets as arguments is taken for an option too: that errs on the side of keeping the
    /// secret.
    pub fn names_secret(&self, name: &str, id: &str) -> bool {
        let separate = self.command.iter().zip(self.command.iter().skip(1));
        let separate = separate
            .filter(|(option, _)| *option == "--secret")
            .map(|(_, value)| value.as_str());
        let joined = self
            .command
            .iter()
            .filter_map(|word| word.strip_prefix("--secret="));
        // Podman takes a secret's name, its id, and the first digits of that.
        separate
            .chain(joined)
            .map(|value| value.split(',').next().unwrap_or_default())
            .any(|word| word == name || (!word.is_empty() && id.starts_with(word)))
    }
}

impl Podman {
    /// Every container, running or not: one request, and one more for each of them.
    ///
    /// # Errors
    /// As [`Podman::secrets`].
    pub async fn containers(&self) -> Result<Vec<Container>> {
        let doing = "cannot list Podman's containers";
        let url = url("containers/json", &[("all", "true")])?;
        let answer = self.ask(doing, Method::GET, url, None).await?;
        let listed: Vec<Listed> = self.expect(doing, &answer)?;
        let mut containers = Vec::new();
        for Listed { id } in listed {
            containers.extend(self.container(&id).await?);
        }
        Ok(containers)
    }

    /// The container with that id; nothing if it is gone by now.
    async fn container(&self, id: &str) -> Result<Option<Container>> {
        let doing = "cannot ask Podman about a container";
        let url = url(&format!("containers/{id}/json"), &[])?;
        let answer = self.ask(doing, Method::GET, url, None).await?;
        if answer.says_no_container() {
            return Ok(None);
        }
        let inspected: Inspected = self.expect(doing, &answer)?;
        Ok(Some(inspected.into()))
    }
}

#[derive(Deserialize)]
struct Listed {
    #[serde(rename = "Id")]
    id: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Inspected {
    name: String,
    #[serde(default)]
    created: String,
    config: Settings,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Settings {
    create_command: Option<Vec<String>>,
    labels: Option<BTreeMap<String, String>>,
}

impl From<Inspected> for Container {
    fn from(inspected: Inspected) -> Self {
        let Settings {
            create_command,
            labels,
        } = inspected.config;
        Self {
            name: inspected.name,
            created: seconds(&inspected.created).unwrap_or_default(),
            command: create_command.unwrap_or_default(),
            unit: labels.and_then(|mut labels| labels.remove(UNIT_LABEL)),
        }
    }
}

/// Seconds since 1970 of a time like `2026-01-31T23:59:59.123456789+01:00`, as RFC 3339 has it.
fn seconds(text: &str) -> Option<u64> {
    let part = |from: usize, to: usize| -> Option<i64> { text.get(from..to)?.parse().ok() };
    let (year, month, day) = (part(0, 4)?, part(5, 7)?, part(8, 10)?);
    let time = part(11, 13)? * 3600 + part(14, 16)? * 60 + part(17, 19)?;
    let zone = text
        .get(19..)?
        .trim_start_matches(|c: char| c == '.' || c.is_ascii_digit());
    let ahead = match zone.split_at_checked(1)? {
        ("Z", "") => 0,
        (sign @ ("+" | "-"), offset) => {
            let (hours, minutes) = offset.split_once(':')?;
            let minutes = hours.parse::<i64>().ok()? * 60 + minutes.parse::<i64>().ok()?;
            minutes * if sign == "+" { 60 } else { -60 }
        }
        _ => return None,
    };
    u64::try_from(days(year, month, day)? * 86_400 + time - ahead).ok()
}

/// Days from 1970-01-01 to a date of the Gregorian calendar.
fn days(year: i64, month: i64, day: i64) -> Option<i64> {
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    // A year that begins in March has its leap day at its end.
    let (year, month) = match month {
        1 | 2 => (year - 1, month + 9),
        _ => (year, month - 3),
    };
    let in_year = (153 * month + 2) / 5 + day - 1;
    let leap_days = year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
    Some(year * 365 + leap_days + in_year - 719_468)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names_a(command: &[&str]) -> bool {
        let container = Container {
            command: command.iter().map(|&word| word.to_owned()).collect(),
            ..Container::default()
        };
        container.names_secret("myapp--A", "0123456789abcdef012345678")
    }

    #[test]
    fn a_secret_is_named_in_either_spelling_by_name_or_id() {
        for option in [
            &["--secret", "myapp--A"][..],
            &["--secret", "myapp--A,type=env,target=A"],
            &["--secret=myapp--A,type=mount"],
            &["--secret", "0123456789abcdef012345678,type=env"],
            &["--secret=0123456"],
        ] {
            let command = [&["podman", "run", "-d"], option, &["image"]].concat();
            assert!(names_a(&command), "{option:?}");
        }
    }

    #[test]
    fn another_secret_or_another_option_does_not_name_it() {
        for option in [
            &["--secret", "myapp--AB,type=env"][..],
            &["--secret=myapp--"],
            &["--env", "myapp--A"],
            &["--secret", ""],
            &["--secret"],
            &["myapp--A"],
        ] {
            let command = [&["podman", "run"], option].concat();
            assert!(!names_a(&command), "{option:?}");
        }
        assert!(!names_a(&[]));
    }

    #[test]
    fn times_are_read_with_their_fraction_and_their_zone() {
        for (text, expected) in [
            ("1970-01-01T00:00:00Z", Some(0)),
            ("2000-02-29T12:00:00.123456789Z", Some(951_825_600)),
            ("2026-01-31T23:59:59+01:00", Some(1_769_900_399)),
            ("2026-01-31T23:59:59.5-03:30", Some(1_769_916_599)),
            ("2024-12-31T00:00:00Z", Some(1_735_603_200)),
            ("0001-01-01T00:00:00Z", None),
            ("2026-13-01T00:00:00Z", None),
            ("2026-01-01T00:00:00", None),
            ("2026-01-01 yesterday", None),
            ("", None),
        ] {
            assert_eq!(seconds(text), expected, "{text:?}");
        }
    }
}
