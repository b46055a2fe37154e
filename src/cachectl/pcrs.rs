//! `--pcrs`

use crate::error::{Error, Kind, Result};

/// The highest PCR that a PC has.
const LAST: u8 = 23;

/// A list of PCRs as tpm2-tools (`7,14`) or systemd (`7+14`) write it.
///
/// # Errors
/// [`Kind::Usage`] for anything else.
pub fn parse(text: &str) -> Result<Vec<u8>> {
    let number = |text: &str| text.parse().ok().filter(|n| *n <= LAST);
    let numbers: Option<Vec<u8>> = text.split([',', '+']).map(number).collect();
    numbers.ok_or_else(|| {
        let what = format!("{text:?} is not a list of PCRs");
        Error::new(Kind::Usage, what).hint("a list of PCRs is like 7 or 7,14; PCRs go from 0 to 23")
    })
}

/// [`parse`] for what may be absent.
///
/// # Errors
/// As [`parse`].
pub fn parse_if_given(text: Option<&str>) -> Result<Option<Vec<u8>>> {
    text.map(parse).transpose()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_read_as_tpm2_tools_and_systemd_write_them() {
        assert_eq!(parse("7").unwrap(), [7]);
        assert_eq!(parse("7,14").unwrap(), [7, 14]);
        assert_eq!(parse("0+23").unwrap(), [0, 23]);
        for wrong in ["", "7,", "24", "-1", "7 14", "all", "7:sha1"] {
            assert_eq!(parse(wrong).unwrap_err().kind(), Kind::Usage, "{wrong:?}");
        }
    }
}
