//! Time spans as systemd.time(7) has them: `90`, `2s`, `5min`, `1h 30min`.

use std::time::Duration;

/// The span, or nothing if it is none.
pub fn parse(text: &str) -> Option<Duration> {
    let mut rest = text.trim();
    if rest.is_empty() {
        return None;
    }
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let digits = rest
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(rest.len());
        let number: u32 = rest[..digits].parse().ok()?;
        let after = rest[digits..].trim_start();
        let letters = after
            .find(|c: char| !c.is_ascii_alphabetic())
            .unwrap_or(after.len());
        total = total.checked_add(unit(&after[..letters])?.checked_mul(number)?)?;
        rest = after[letters..].trim_start();
    }
    Some(total)
}

fn unit(name: &str) -> Option<Duration> {
    const MINUTE: u64 = 60;
    const HOUR: u64 = 60 * MINUTE;
    const DAY: u64 = 24 * HOUR;
    Some(match name {
        "us" | "usec" => Duration::from_micros(1),
        "ms" | "msec" => Duration::from_millis(1),
        "" | "s" | "sec" | "second" | "seconds" => Duration::from_secs(1),
        "m" | "min" | "minute" | "minutes" => Duration::from_secs(MINUTE),
        "h" | "hr" | "hour" | "hours" => Duration::from_secs(HOUR),
        "d" | "day" | "days" => Duration::from_secs(DAY),
        "w" | "week" | "weeks" => Duration::from_secs(7 * DAY),
        // systemd's month is 30.44 days and its year 365.25.
        "M" | "month" | "months" => Duration::from_secs(2_629_800),
        "y" | "year" | "years" => Duration::from_secs(31_557_600),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn spans_are_read_as_systemd_reads_them() {
        for (text, seconds) in [
            ("90", 90),
            ("2s", 2),
            ("5m", 300),
            ("5 min", 300),
            ("1h 30min", 5400),
            ("1h30m", 5400),
            ("7d", 604_800),
            ("1w", 604_800),
        ] {
            assert_eq!(parse(text), Some(Duration::from_secs(seconds)), "{text}");
        }
        assert_eq!(parse("250ms"), Some(Duration::from_millis(250)));
    }

    #[test]
    fn what_is_no_span_is_none() {
        for text in [
            "",
            " ",
            "s",
            "-1s",
            "1.5h",
            "1 parsec",
            "99999999999",
            "4294967295y y",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    /// Every spelling of a unit, with its microseconds.
    const UNITS: [(&str, u64); 26] = [
        ("us", 1),
        ("usec", 1),
        ("ms", 1_000),
        ("msec", 1_000),
        ("s", 1_000_000),
        ("sec", 1_000_000),
        ("second", 1_000_000),
        ("seconds", 1_000_000),
        ("m", 60_000_000),
        ("min", 60_000_000),
        ("minute", 60_000_000),
        ("minutes", 60_000_000),
        ("h", 3_600_000_000),
        ("hr", 3_600_000_000),
        ("hour", 3_600_000_000),
        ("hours", 3_600_000_000),
        ("d", 86_400_000_000),
        ("day", 86_400_000_000),
        ("days", 86_400_000_000),
        ("w", 604_800_000_000),
        ("week", 604_800_000_000),
        ("weeks", 604_800_000_000),
        ("M", 2_629_800_000_000),
        ("month", 2_629_800_000_000),
        ("y", 31_557_600_000_000),
        ("year", 31_557_600_000_000),
    ];

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]

        #[test]
        fn a_span_is_the_sum_of_its_parts(
            parts in vec((0u32..100_000, prop::sample::select(&UNITS[..]), " {0,2}", " {0,2}"), 1..5),
        ) {
            let text: String = parts
                .iter()
                .map(|(n, (unit, _), before, after)| format!("{n}{before}{unit}{after}"))
                .collect();
            let sum = parts.iter().map(|(n, (_, us), ..)| u64::from(*n) * us).sum();
            prop_assert_eq!(parse(&text), Some(Duration::from_micros(sum)), "{}", text);
        }

        #[test]
        fn whatever_the_text_is_a_span_has_a_number_in_it(text in any::<String>()) {
            let is_span = parse(&text).is_some();
            prop_assert!(!is_span || text.contains(|c: char| c.is_ascii_digit()), "{}", text);
        }
    }
}
