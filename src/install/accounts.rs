//! Users and groups of the target, by the files in which systemd-sysusers and the distribution keep
//! them: the names of the machine that this runs on may mean others.

use std::fs;

use crate::error::{Error, Kind, Result};

/// psi-serve's user and group.
pub const PSI: &str = "psi";

/// The group that may use the TPM.
const TSS: &str = "tss";

/// `/usr/lib` is where image-based distributions have those that come with the image.
const DIRECTORIES: [&str; 2] = ["/etc", "/usr/lib"];

/// The numbers that containers need, since names mean nothing in them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ids {
    /// psi-serve's user.
    pub uid: u32,
    /// psi-serve's group.
    pub gid: u32,
    /// The group of the TPM's device, where there is one.
    pub tss: Option<u32>,
}

/// Nothing if there is no user psi with a group of that name.
///
/// # Errors
/// [`Kind::Io`] naming the file that can't be read, [`Kind::Damaged`] one whose line about psi
/// has no number.
pub fn ids() -> Result<Option<Ids>> {
    let (Some(uid), Some(gid)) = (number("passwd", PSI)?, number("group", PSI)?) else {
        return Ok(None);
    };
    let tss = number("group", TSS)?;
    Ok(Some(Ids { uid, gid, tss }))
}

fn number(file: &str, name: &str) -> Result<Option<u32>> {
    for directory in DIRECTORIES {
        let path = format!("{directory}/{file}");
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => continue,
            Err(e) => return Err(Error::io(format!("cannot read {path}"), e)),
        };
        if let Some(field) = third_field(&text, name) {
            let wrong = |_| {
                let what = format!("{path}: the line of {name} has no number");
                Error::new(Kind::Damaged, what).hint(format!("correct it: `getent {file} {name}`"))
            };
            return field.parse().map(Some).map_err(wrong);
        }
    }
    Ok(None)
}

/// Of the line `name:x:number:…`, which passwd(5) and group(5) share.
fn third_field<'t>(text: &'t str, name: &str) -> Option<&'t str> {
    let fields = |line: &'t str| {
        line.strip_prefix(name)?
            .strip_prefix(':')?
            .split(':')
            .nth(1)
    };
    text.lines().find_map(fields)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_is_found_by_its_whole_name() {
        let passwd = "root:x:0:0:root:/root:/bin/sh\npsix:x:1:1::/:\npsi:x:990:989:PSI:/:\n";
        assert_eq!(third_field(passwd, "psi"), Some("990"));
        assert_eq!(third_field(passwd, "ps"), None);
        assert_eq!(third_field("psi", "psi"), None);
    }
}
