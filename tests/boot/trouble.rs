//! Rows of the table "Troubleshooting" in docs/secret-cache.md, each made to happen on a machine that
//! the README has set up: one thing is broken, the message names what mends it, and that does.

use psi_test_support::token::{KEY_ID, KEY_LABEL, Module};
use psi_test_support::vectors::version1;
use psi_test_support::wait;

use crate::machine::{Machine, text};
use crate::story::{self, PASSWORD};
use crate::token;

/// The recovery key, on this machine for once.
const RECOVERY_KEY: &str = "/root/recovery-key";

/// A state directory on a disk that takes no writes.
const MAKE_READ_ONLY: &str = "
    systemctl stop psi-secrets.service
    mount --bind /var/lib/psi /var/lib/psi
    mount -o remount,bind,ro /var/lib/psi
    systemctl start psi-secrets.service";

const UNMOUNT: &str = "
    systemctl stop psi-secrets.service
    umount /var/lib/psi
    systemctl start psi-secrets.service";

/// What a `dbx` update does to a credential that somebody bound to PCR 7.
const MEASURE_ANOTHER_BOOT: &str = "
    sealed=/etc/credstore.encrypted/psi-cache-key
    systemd-creds decrypt --name=psi-cache-key $sealed /run/key
    systemd-creds encrypt --with-key=tpm2 --tpm2-pcrs=7 --name=psi-cache-key /run/key $sealed
    rm /run/key
    tpm2_pcrextend 7:sha256=$(printf 0%.0s {1..64})";

/// A TPM without a kernel before it keeps what a process has put there that was stopped in the middle, as
/// systemd's for a credential.
const EMPTY_TPM: &str = "tpm2_flushcontext --transient-object; tpm2_flushcontext --loaded-session";

/// As docs/nitrokeyhsm-provider.md has it.
const SEAL_THE_PIN: &str = "systemd-ask-password -n | systemd-creds encrypt --tpm2-pcrs= --name=hsm-pin - \
    /etc/credstore.encrypted/hsm-pin";

/// Podman tells nobody but the workload's journal, and no remedy: psi-setup does.
pub fn psi_secret_is_missing(machine: &mut Machine) {
    machine.run("rm /usr/bin/psi-secret");
    fails(machine, "systemctl restart myapp.service");
    says(&said(machine, "myapp"), &["/usr/bin/psi-secret: not found"]);
    fails(machine, "systemctl restart psi-infisical-setup.service");
    says(
        &said(machine, "psi-infisical-setup"),
        &["there is no /usr/bin/psi-secret", "`make install`"],
    );
    machine.install("/usr");
    machine.run("systemctl restart 'psi-*-setup.service' && systemctl start myapp.service");
    assert_eq!(story::variable(machine, "myapp", "DB_PASSWORD"), PASSWORD);
}

/// The units start it; by hand it is another command.
pub fn podmans_socket_is_absent(machine: &mut Machine) {
    machine.run("systemctl stop podman.socket podman.service && rm -f /run/podman/podman.sock");
    let failed = fails(machine, "psi-setup");
    says(
        &failed,
        &[
            "Podman does not answer on /run/podman/podman.sock",
            "`systemctl start podman.socket`",
        ],
    );
    machine.run("systemctl start podman.socket && psi-setup");
}

/// What is there is served, what would be lost is refused.
pub fn the_state_directory_is_unwritable(machine: &mut Machine) {
    let put = "printf %s value | psi-cachectl put A";
    machine.run(MAKE_READ_ONLY);
    let failed = fails(machine, put);
    says(
        &failed,
        &[
            "cannot write /var/lib/psi/cache.enc: Read-only file system",
            "see `df` and `mount`",
        ],
    );
    assert_eq!(story::lookup(machine, "myapp--DB_PASSWORD"), PASSWORD);
    machine.run("mount -o remount,bind,rw /var/lib/psi && systemctl restart psi-secrets.service");
    machine.run(&format!("{put} && psi-cachectl rm A"));
    machine.run(UNMOUNT);

    machine.run("chown root: /var/lib/psi");
    let failed = fails(machine, put);
    says(
        &failed,
        &[
            "cannot write /var/lib/psi/cache.enc: Permission denied",
            "`systemctl restart psi-secrets.service`",
        ],
    );
    machine.run("systemctl restart psi-secrets.service");
    machine.run(&format!("{put} && psi-cachectl rm A"));
}

/// From here on that credential and a recovery key open the cache.
pub fn a_credential_is_missing(machine: &mut Machine) {
    machine.run("psi-cachectl slots add credential && systemctl restart psi-secrets.service");
    let printed = machine.run("psi-cachectl slots remove 1");
    let is_of_the_key = |line: &&str| line.split('-').all(|group| group.len() == 8);
    let key: Vec<&str> = printed.lines().filter(is_of_the_key).collect();
    machine.write(RECOVERY_KEY, &key.join("\n"));

    machine.run(
        "mv /etc/credstore.encrypted/psi-cache-key /root
        systemctl restart psi-secrets.service",
    );
    let status = machine.property("psi-secrets.service", "StatusText");
    says(&status, &["there is no credential psi-cache-key"]);
    says(
        &machine.run("psi-cachectl status"),
        &[
            "have systemd deliver the key that sealed it",
            "`systemctl restart psi-secrets.service`",
        ],
    );
    machine.run(
        "mv /root/psi-cache-key /etc/credstore.encrypted
        systemctl restart psi-secrets.service
        psi-cachectl status --verify",
    );
}

/// Nothing of psi-serve runs then, so psi-cachectl has to say it.
pub fn a_credential_can_not_be_decrypted(machine: &mut Machine) {
    machine.run(MEASURE_ANOTHER_BOOT);
    fails(machine, "systemctl restart psi-secrets.service");
    says(&said(machine, "psi-secrets"), &["status=243/CREDENTIALS"]);
    says(
        &machine.run("psi-cachectl status"),
        &["243/CREDENTIALS", "/etc/credstore.encrypted", "moved away"],
    );
    let failed = fails(machine, "psi-cachectl status --verify");
    says(&failed, &["`psi-cachectl slots reseal --recovery`"]);

    machine.run(&format!(
        "mv /etc/credstore.encrypted/psi-cache-key /root
        systemctl stop psi-secrets.service
        {EMPTY_TPM}
        systemctl start psi-secrets.service"
    ));
    let slots = machine.run("psi-cachectl slots list");
    let of_the_credential = |line: &&str| line.contains("credential");
    let line = slots.lines().find(of_the_credential).expect("its slot");
    let id = line.split(' ').next().expect("its number");
    machine.run(&format!(
        "psi-cachectl slots reseal {id} --recovery --with-key auto <{RECOVERY_KEY}
        systemctl restart psi-secrets.service
        psi-cachectl status --verify"
    ));
    assert_eq!(story::lookup(machine, "myapp--DB_PASSWORD"), PASSWORD);
}

/// `cache.backend` says `tpm`, and the Python program's file that it was sealed by an HSM. From here on
/// the cache is that file's.
pub fn the_cache_is_of_another_backend(machine: &mut Machine) {
    let module = Module::with_tokens(&["psi"]);
    module.set_pin(0, token::PIN);
    let key = version1("rsa_private_key_pkcs8");
    module.import_key(0, token::PIN, KEY_ID, KEY_LABEL, &key);
    token::plug_in(machine, &module);
    machine.run("systemctl stop psi-secrets.service");
    machine.rewrite("/var/lib/psi/cache.enc", &version1("hsm_file"));
    machine.run("systemctl start psi-secrets.service");
    let status = machine.property("psi-secrets.service", "StatusText");
    says(&status, &["sealed by a PKCS#11 token (tag 2, HSM)"]);
    says(
        &machine.run("psi-cachectl status"),
        &[
            "1, sealed by: hsm",
            "add `nitrokeyhsm: {pkcs11_module: FILE}` under `providers:`",
        ],
    );

    let configuration = machine.read("/etc/psi/config.yaml");
    machine.rewrite("/etc/psi/config.yaml", &token::with_token(&configuration));
    story::answer(machine, token::PIN);
    machine.write(
        "/etc/systemd/system/psi-secrets.service.d/token.conf",
        "[Service]\nReadWritePaths=/srv/token\n",
    );
    machine.run(&format!("{SEAL_THE_PIN}\nsystemctl daemon-reload"));
    machine.run("systemctl restart psi-secrets.service && psi-cachectl status --verify");
    let slots = machine.run("psi-cachectl slots list");
    assert!(slots.contains("pkcs11"), "{slots}");
}

/// `status` reads the header and asks nobody who would wait; `--verify` waits for the token.
pub fn a_slow_token_holds_up_verify_and_not_status(machine: &mut Machine) {
    token::delay_logins(machine, 6000);
    machine.run("systemctl restart --no-block psi-secrets.service");
    wait::until("psi-serve, which waits for the token", || {
        let status = machine.run("psi-cachectl status");
        status.contains("opening the cache: slot 1 (pkcs11)")
    });
    let verified = machine.run("psi-cachectl status --verify");
    says(&verified, &["verified    yes"]);
    token::delay_logins(machine, 0);
}

/// What a unit has said, and systemd of it.
pub fn said(machine: &Machine, unit: &str) -> String {
    machine.run(&format!(
        "journalctl --sync && journalctl --output=cat --unit={unit}.service"
    ))
}

/// Runs a script that must fail, and returns what it said.
pub fn fails(machine: &Machine, script: &str) -> String {
    let output = machine.try_run(script);
    assert!(!output.status.success(), "{script}: {output:?}");
    text(&output.stderr)
}

#[track_caller]
pub fn says(said: &str, words: &[&str]) {
    for word in words {
        assert!(said.contains(word), "{word:?} is not in:\n{said}");
    }
}
