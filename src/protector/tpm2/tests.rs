use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use tss_esapi::Context;
use tss_esapi::handles::PersistentTpmHandle;
use tss_esapi::traits::UnMarshall;

use super::*;
use crate::protector::tests::swtpm::Swtpm;

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|w| w == needle)
}

#[test]
fn a_changed_pcr_is_named_and_the_others_are_not() {
    let tpm = Swtpm::booted();
    tpm.extend(4);
    let protector = tpm.protector(&[4, 7]);
    let (_, fields) = protector.seal().unwrap();
    tpm.extend(7);
    let error = protector.unseal(&fields).unwrap_err();
    assert_eq!(error.kind(), Kind::Denied);
    let text = error.to_string();
    assert!(text.contains("PCR 7 (secure-boot-policy)"), "{text}");
    assert!(!text.contains("PCR 4"), "{text}");
    let hint = error.next_step().unwrap();
    assert!(hint.contains("psi-cachectl slots reseal"), "{hint}");
    tpm.extend(4);
    let text = protector.unseal(&fields).unwrap_err().to_string();
    assert!(text.contains("PCR 4 (boot-loader-code), PCR 7"), "{text}");
}

#[test]
fn a_slot_is_opened_by_its_own_pcrs_and_not_by_the_configured_ones() {
    let tpm = Swtpm::booted();
    tpm.extend(4);
    let (key, fields) = tpm.protector(&[4]).seal().unwrap();
    tpm.extend(7);
    let opened = tpm.protector(&[7]).unseal(&fields).unwrap();
    assert_eq!(opened.expose(), key.expose());
}

#[test]
fn pcrs_into_which_nothing_was_measured_are_refused_unless_allowed() {
    let tpm = Swtpm::blank();
    for unmeasured in [&[7][..], &[17], &[4, 7, 17, 22]] {
        let error = tpm.protector(unmeasured).seal().unwrap_err();
        assert_eq!(error.kind(), Kind::Refused, "{error}");
        assert!(error.next_step().unwrap().contains("--force"));
    }
    let mut forced = tpm.protector(&[7]);
    forced.allow_zero_pcrs = true;
    let (key, fields) = forced.seal().unwrap();
    assert_eq!(forced.unseal(&fields).unwrap().expose(), key.expose());
    tpm.extend(7);
    assert_eq!(forced.unseal(&fields).unwrap_err().kind(), Kind::Denied);
    tpm.protector(&[4, 7]).seal().unwrap();
}

#[test]
fn without_pcrs_a_slot_opens_after_any_boot_of_this_machine() {
    let tpm = Swtpm::blank();
    let protector = tpm.protector(&[]);
    let (key, fields) = protector.seal().unwrap();
    tpm.extend(7);
    assert_eq!(protector.unseal(&fields).unwrap().expose(), key.expose());
    let other = Swtpm::blank();
    let error = other.protector(&[]).unseal(&fields).unwrap_err();
    assert_eq!(error.kind(), Kind::Denied, "{error}");
}

#[test]
fn every_pcr_there_is_can_be_bound_to_at_once() {
    let tpm = Swtpm::booted();
    let all: Vec<u8> = (0..24).collect();
    let protector = tpm.protector(&all);
    let (key, fields) = protector.seal().unwrap();
    assert_eq!(protector.unseal(&fields).unwrap().expose(), key.expose());
    let error = tpm.protector(&[24]).seal().unwrap_err();
    assert!(error.to_string().contains("PCR 24"), "{error}");
}

#[test]
fn another_tpm_and_a_cleared_one_are_told_from_a_changed_boot() {
    let tpm = Swtpm::booted();
    let (_, fields) = tpm.protector(&[7]).seal().unwrap();
    let other = Swtpm::booted();
    tpm.tools("tpm2_clear --auth-hierarchy platform");
    for another in [&tpm, &other] {
        let error = another.protector(&[7]).unseal(&fields).unwrap_err();
        assert_eq!(error.kind(), Kind::Denied);
        assert!(error.to_string().contains("another TPM"), "{error}");
    }
}

#[test]
fn a_tpm_that_is_locked_out_still_opens_its_slot() {
    let tpm = Swtpm::booted();
    let protector = tpm.protector(&[7]);
    let (key, fields) = protector.seal().unwrap();
    let said = tpm.tools(
        "tool() { program=$1; shift; tpm2_flushcontext --transient-object; \"tpm2_$program\" \"$@\"; }
         tool createprimary --quiet --key-context p.ctx
         printf x | tool create --quiet -C p.ctx -i - -p right -u k.pub -r k.priv -c k.ctx
         for try in 1 2 3; do tool unseal -c k.ctx -p wrong && exit 1; done
         tool unseal -c k.ctx -p right && exit 1
         tpm2_flushcontext --transient-object",
    );
    assert!(said.contains("0x921"), "it is not locked: {said}");
    let opened = protector.unseal(&fields).unwrap();
    assert_eq!(opened.expose(), key.expose());
    protector.seal().unwrap();
}

#[test]
fn failures_leave_nothing_behind_in_the_tpm() {
    let tpm = Swtpm::booted();
    let protector = tpm.protector(&[7]);
    let (_, fields) = protector.seal().unwrap();
    tpm.extend(7);
    for _ in 0..20 {
        let error = protector.unseal(&fields).unwrap_err();
        assert_eq!(error.kind(), Kind::Denied, "{error}");
    }
    let left = tpm.tools("tpm2_getcap handles-transient; tpm2_getcap handles-loaded-session");
    assert_eq!(left.trim(), "");
    let (key, fields) = protector.seal().unwrap();
    assert_eq!(protector.unseal(&fields).unwrap().expose(), key.expose());
}

#[test]
fn a_full_tpm_is_named_as_such_with_the_way_to_make_room() {
    let tpm = Swtpm::booted();
    let protector = tpm.protector(&[7]);
    tpm.tools("for n in 1 2 3; do tpm2_createprimary --quiet -c $n.ctx; done");
    let full = tpm.tools("tpm2_getcap handles-transient");
    assert_eq!(full.lines().count(), 3, "{full}");
    let error = protector.seal().unwrap_err();
    assert_eq!(error.kind(), Kind::Unreachable);
    assert!(
        error.to_string().contains("TPM_RC_OBJECT_MEMORY (0x902)"),
        "{error}"
    );
    assert!(error.next_step().unwrap().contains("tpm2_flushcontext"));
    tpm.tools("tpm2_flushcontext --transient-object");
    protector.seal().unwrap();
}

#[test]
fn an_owner_password_is_named_with_the_way_to_remove_it() {
    let tpm = Swtpm::booted();
    let protector = tpm.protector(&[7]);
    tpm.tools("tpm2_changeauth --object-context owner secret");
    let error = protector.seal().unwrap_err();
    assert_eq!(error.kind(), Kind::Denied, "{error}");
    assert!(
        error.to_string().contains("owner hierarchy has a password"),
        "{error}"
    );
    tpm.tools("tpm2_changeauth --object-context owner --object-auth secret");
    protector.seal().unwrap();
}

#[test]
fn a_device_that_cannot_be_opened_says_why() {
    let open = |tcti: &str| Tpm::open(tcti).map(|_| ()).unwrap_err();
    let missing = open("device:/nonexistent/tpmrm0");
    assert_eq!(missing.kind(), Kind::Unreachable);
    let text = missing.to_string();
    assert!(text.contains("device:/nonexistent/tpmrm0"), "{text}");
    assert!(text.contains("No such file or directory"), "{text}");
    assert!(missing.next_step().unwrap().contains("DeviceAllow="));
    let silent = open("swtpm:host=127.0.0.1,port=1");
    assert_eq!(silent.kind(), Kind::Unreachable);
    assert!(
        silent.to_string().contains("libtss2-tcti said 0xa000a"),
        "{silent}"
    );
    let wrong = open("nonsense:/dev/tpmrm0");
    assert_eq!(wrong.kind(), Kind::Config, "{wrong}");
    assert!(wrong.next_step().unwrap().contains("device:/dev/tpmrm0"));
}

#[test]
fn a_code_without_a_remedy_is_named_with_its_layer_and_who_explains_it() {
    let explained = |error| code::explain("device:/dev/tpmrm0", "read a key", error);
    let nonsense = tss_esapi::structures::Public::unmarshall(&[0xff; 8]).unwrap_err();
    let error = explained(nonsense);
    let text = error.to_string();
    assert!(
        text.contains("could not read a key: libtss2-mu said 0x9"),
        "{text}"
    );
    assert!(error.next_step().unwrap().contains("tpm2_rc_decode 0x9"));

    let tpm = Swtpm::booted();
    let mut context = Context::new(tpm.tcti().parse().unwrap()).unwrap();
    let no_such_key = PersistentTpmHandle::new(0x8100_0001).unwrap();
    let missing = context.tr_from_tpm_public(no_such_key.into()).unwrap_err();
    let error = explained(missing);
    let text = error.to_string();
    assert!(text.contains("the TPM said 0x18b: "), "{text}");
    assert!(error.next_step().unwrap().contains("tpm2_rc_decode 0x18b"));
}

#[test]
fn a_file_in_the_place_of_the_device_is_not_written_to() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "something of value").unwrap();
    let error = Tpm::open(&format!("device:{}", file.path().display()));
    let error = error.map(|_| ()).unwrap_err();
    assert!(error.to_string().contains("not a device"), "{error}");
    let kept = std::fs::read_to_string(file.path()).unwrap();
    assert_eq!(kept, "something of value");
}

#[test]
fn neither_sealing_nor_unsealing_shows_the_key_on_the_wire() {
    let tpm = Swtpm::booted();
    let wire = Wire::to(&tpm);
    let protector = Tpm2 {
        tcti: wire.tcti(),
        ..tpm.protector(&[7])
    };
    let (key, fields) = protector.seal().unwrap();
    protector.unseal(&fields).unwrap();
    let seen = wire.seen.lock().unwrap();
    let sealed = SealedKey::from_fields(&fields).unwrap();
    assert!(contains(&seen, &sealed.private), "the wire is not tapped");
    assert!(contains(&seen, &sealed.pcrs[&7]), "the wire is not tapped");
    assert!(!contains(&seen, key.expose()));
    let half = &key.expose()[..16];
    assert!(!contains(&seen, half));
}

/// The wire between libtss2 and a software TPM, tapped.
struct Wire {
    port: u16,
    seen: Arc<Mutex<Vec<u8>>>,
}

impl Wire {
    fn to(tpm: &Swtpm) -> Self {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (commands, control) = std::iter::repeat_with(|| {
            let commands = TcpListener::bind("127.0.0.1:0").ok()?;
            let port = commands.local_addr().ok()?.port();
            let control = TcpListener::bind(("127.0.0.1", port.checked_add(1)?)).ok()?;
            Some((commands, control))
        })
        .take(100)
        .find_map(|pair| pair)
        .unwrap();
        let port = commands.local_addr().unwrap().port();
        tap(commands, tpm.port(), &seen);
        tap(control, tpm.port() + 1, &seen);
        Self { port, seen }
    }

    fn tcti(&self) -> String {
        format!("swtpm:host=127.0.0.1,port={}", self.port)
    }
}

/// Passes on what comes in at `from` to the port `to` and back. Its threads end with the test.
fn tap(from: TcpListener, to: u16, seen: &Arc<Mutex<Vec<u8>>>) {
    let seen = Arc::clone(seen);
    std::thread::spawn(move || {
        for client in from.incoming().flatten() {
            let server = TcpStream::connect(("127.0.0.1", to)).unwrap();
            pass_on(
                client.try_clone().unwrap(),
                server.try_clone().unwrap(),
                &seen,
            );
            pass_on(server, client, &seen);
        }
    });
}

fn pass_on(mut from: TcpStream, mut to: TcpStream, seen: &Arc<Mutex<Vec<u8>>>) {
    let seen = Arc::clone(seen);
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(length @ 1..) = from.read(&mut buffer) {
            seen.lock().unwrap().extend_from_slice(&buffer[..length]);
            if to.write_all(&buffer[..length]).is_err() {
                break;
            }
        }
        let _ = to.shutdown(std::net::Shutdown::Both);
    });
}

#[test]
fn only_a_changed_pcr_is_drift() {
    let tpm = Swtpm::booted();
    let protector = tpm.protector(&[7]);
    let (_, fields) = protector.seal().unwrap();
    assert!(!protector.has_drifted(&fields).unwrap());
    tpm.extend(7);
    assert!(protector.has_drifted(&fields).unwrap());

    let mut altered = fields.clone();
    let private = fields["private"].as_str().unwrap();
    altered["private"] = private.replacen(&private[60..64], "AAAA", 1).into();
    let error = protector.has_drifted(&altered).unwrap_err();
    assert_eq!(error.kind(), Kind::Damaged, "{error}");

    let mut away = Swtpm::booted();
    away.switch_off();
    let error = away.protector(&[7]).has_drifted(&fields).unwrap_err();
    assert_eq!(error.kind(), Kind::Unreachable, "{error}");
    let another = Swtpm::booted();
    assert!(!another.protector(&[7]).has_drifted(&fields).unwrap());
}
