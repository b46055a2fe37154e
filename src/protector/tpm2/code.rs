//! The codes of the TPM and of libtss2: what they are called, what they mean, what to do.
//!
//! Names and values: *Trusted Platform Module Library, Part 2: Structures*, 6.6 (TPM_RC); layers:
//! *TCG TSS 2.0 Overview and Common Structures*, 3.1 (TSS2_RC).

use tss_esapi::constants::response_code::Tss2ResponseCode;

use crate::error::{Error, Kind};

/// Set in codes that tell which parameter, handle or session they are about.
const FORMAT_ONE: u32 = 0x80;
/// What is left of such a code without that: the bits that name it.
const FORMAT_ONE_NAME: u32 = 0xbf;

/// `TPM_RC_VALUE`, `TPM_RC_POLICY_FAIL`
const VALUE: u32 = 0x84;
const POLICY_FAIL: u32 = 0x9d;

/// A code as its layer gave it.
#[derive(Clone, Copy)]
pub struct Code(u32);

impl Code {
    /// The code in `error`, unless the Rust library itself found fault.
    pub fn of(error: tss_esapi::Error) -> Option<Self> {
        let shown = match error {
            tss_esapi::Error::Tss2Error(Tss2ResponseCode::FormatZero(code)) => code.to_string(),
            tss_esapi::Error::Tss2Error(Tss2ResponseCode::FormatOne(code)) => code.to_string(),
            _ => return None,
        };
        // The library keeps the number to itself but shows it, as `Response code value: 0x99d`.
        let (_, digits) = shown.rsplit_once("0x")?;
        u32::from_str_radix(digits, 16).ok().map(Self)
    }

    /// Whether the TPM refused what it was given, rather than to work at all.
    pub fn is_about_what_was_given(self) -> bool {
        self.name_bits().is_some_and(|bits| bits & FORMAT_ONE != 0)
    }

    /// Whether a policy does not hold: at its use, or already when the PCRs were compared.
    pub fn is_policy_failure(self) -> bool {
        matches!(self.name_bits(), Some(VALUE | POLICY_FAIL))
    }

    /// The TPM's code without parameter, handle and session numbers; nothing for libtss2's own.
    fn name_bits(self) -> Option<u32> {
        match (self.layer(), self.0 & FORMAT_ONE) {
            ("the TPM", 0) => Some(self.0 & 0xfff),
            ("the TPM", _) => Some(self.0 & FORMAT_ONE_NAME),
            _ => None,
        }
    }

    fn layer(self) -> &'static str {
        match self.0 >> 16 & 0xff {
            0 | 12 => "the TPM",
            7 => "libtss2-esys",
            8 => "libtss2-sys",
            9 => "libtss2-mu",
            10 => "libtss2-tcti",
            11 => "the TPM's resource manager",
            _ => "libtss2",
        }
    }
}

/// `doing` something with the TPM failed: why, and what to do about it.
pub fn explain(tcti: &str, doing: &str, error: tss_esapi::Error) -> Error {
    let what = format!("the TPM ({tcti}) could not {doing}");
    let Some(code) = Code::of(error) else {
        return Error::new(Kind::Internal, what)
            .because(error)
            .hint("`tpm2_getcap properties-fixed` shows which TPM it is; please report it");
    };
    match code.name_bits().and_then(known) {
        Some(known) => Error::new(
            known.kind,
            format!("{what}: {} ({:#x}), {}", known.name, code.0, known.meaning),
        )
        .hint(known.hint),
        None => {
            let said = match code.name_bits() {
                // The library's description ignores the layer, so it is right for the TPM's only.
                Some(_) => format!(": {error}"),
                None => String::new(),
            };
            let what = format!("{what}: {} said {:#x}{said}", code.layer(), code.0);
            Error::new(Kind::BadAnswer, what).hint(format!(
                "`tpm2_rc_decode {:#x}` explains the code, `journalctl -k --grep tpm` what the kernel saw",
                code.0
            ))
        }
    }
}

struct Known {
    name: &'static str,
    kind: Kind,
    meaning: &'static str,
    hint: &'static str,
}

/// The codes that have a remedy.
fn known(name_bits: u32) -> Option<Known> {
    let known = |name, kind, meaning, hint| {
        Some(Known {
            name,
            kind,
            meaning,
            hint,
        })
    };
    let no_room = |name, meaning| {
        let hint = "use `cache.tpm.tcti: device:/dev/tpmrm0`, which makes room by itself; without it \
                    `tpm2_flushcontext --transient-object` and `--loaded-session` do";
        known(name, Kind::Unreachable, meaning, hint)
    };
    let busy = |name, meaning| {
        let hint = "try again in a few seconds; if it stays so, see `journalctl -k --grep tpm`";
        known(name, Kind::Unreachable, meaning, hint)
    };
    let owner_password = |name| {
        let hint = "PSI needs none there: `tpm2_changeauth --object-context owner --object-auth PASSWORD` removes it";
        let meaning = "its owner hierarchy has a password";
        known(name, Kind::Denied, meaning, hint)
    };
    match name_bits {
        0x100 => known(
            "TPM_RC_INITIALIZE",
            Kind::Unreachable,
            "nothing has started it since it was switched on",
            "firmware does that at boot; for a software TPM: `tpm2_startup --clear`",
        ),
        0x101 => known(
            "TPM_RC_FAILURE",
            Kind::Unreachable,
            "it has failed a test of itself and does nothing more",
            "switch the machine off and on; if it stays so, the TPM is broken: open the cache with another slot",
        ),
        0x120 => known(
            "TPM_RC_DISABLED",
            Kind::Denied,
            "the command is disabled",
            "enable the TPM with its owner (storage) hierarchy in the firmware's settings",
        ),
        0x85 => known(
            "TPM_RC_HIERARCHY",
            Kind::Denied,
            "its owner hierarchy is disabled",
            "enable the TPM with its owner (storage) hierarchy in the firmware's settings",
        ),
        0x8e => owner_password("TPM_RC_AUTH_FAIL"),
        0xa2 => owner_password("TPM_RC_BAD_AUTH"),
        0x902 => no_room("TPM_RC_OBJECT_MEMORY", "it has no room for another object"),
        0x903 => no_room(
            "TPM_RC_SESSION_MEMORY",
            "it has no room for another session",
        ),
        0x904 => no_room("TPM_RC_MEMORY", "it has no room for objects and sessions"),
        0x905 => no_room(
            "TPM_RC_SESSION_HANDLES",
            "it has no room for another session",
        ),
        0x906 => no_room("TPM_RC_OBJECT_HANDLES", "it has no room for another object"),
        0x908 => busy("TPM_RC_YIELDED", "it was interrupted"),
        0x909 => busy("TPM_RC_CANCELED", "the command was cancelled"),
        0x90a => busy("TPM_RC_TESTING", "it is testing itself"),
        0x920 => busy("TPM_RC_NV_RATE", "it slows down to spare its memory"),
        0x922 => busy("TPM_RC_RETRY", "it was busy"),
        0x923 => busy("TPM_RC_NV_UNAVAILABLE", "its memory can't be written now"),
        0x921 => known(
            "TPM_RC_LOCKOUT",
            Kind::Unreachable,
            "it is locked after wrong passwords, which were not PSI's",
            "wait, or `tpm2_dictionarylockout --clear-lockout`",
        ),
        _ => None,
    }
}

/// Why libtss2 does not get hold of the TPM.
pub fn cannot_open(tcti: &str, error: tss_esapi::Error) -> Error {
    let code = Code::of(error).map_or_else(String::new, |code| {
        format!(": {} said {:#x}", code.layer(), code.0)
    });
    let what = format!("cannot open the TPM ({tcti}){code}");
    Error::new(Kind::Unreachable, what).hint(
        "is what `cache.tpm.tcti` names running, and its library installed, e.g. libtss2-tcti-device0? \
         `tpm2_getcap --tcti TCTI properties-fixed` tries the same",
    )
}
