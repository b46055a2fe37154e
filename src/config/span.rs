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
}
