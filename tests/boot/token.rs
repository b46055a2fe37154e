//! A machine whose cache a PKCS#11 token opens, the software one of the tests, with PSI in containers:
//! docs/deployment.md, "In containers, with an HSM", but for pcscd, which that token does without.

use std::fs;

use psi_test_support::token::Module;

use crate::machine::{Machine, text};
use crate::readme;
use crate::story::{self, PASSWORD};
use crate::trouble::{fails, said, says};

/// The token's, sealed as the credential `hsm-pin`.
pub const PIN: &str = "marked-pin";

/// What is stored for the token.
const STORED: &str = "marked-db-password";

/// Where the module and its token are. Whoever uses it has to be let there: as with pcscd's socket.
const DIRECTORY: &str = "/srv/token";

/// `systemctl edit psi-secrets.service` writes it.
const EDITED: &str = "/etc/systemd/system/psi-secrets.service.d/override.conf";

/// Puts the module there, with its first token, for the user psi.
pub fn plug_in(machine: &Machine, module: &Module) {
    let library = module.library();
    let here = library.parent().expect("its directory");
    let read = |file| fs::read(here.join(file)).expect("a file of the module's");
    for file in ["module.so", "token0.sql"] {
        machine.write(&format!("{DIRECTORY}/{file}"), &read(file));
    }
    let tokens = String::from_utf8(read("kryoptic.conf")).expect("text");
    let tokens = tokens.replace(&here.display().to_string(), DIRECTORY);
    machine.write(&format!("{DIRECTORY}/kryoptic.conf"), &tokens);
    machine.run(&format!(
        "touch {DIRECTORY}/calls && chmod 0666 {DIRECTORY}/calls && chown -R psi: {DIRECTORY}"
    ));
}

/// A configuration with that token as a provider too.
pub fn with_token(configuration: &str) -> String {
    let provider = format!("providers:\n  nitrokeyhsm: {{pkcs11_module: {DIRECTORY}/module.so}}");
    configuration.replace("providers:", &provider)
}

/// Has the token take so many milliseconds longer for each login.
pub fn delay_logins(machine: &Machine, milliseconds: u32) {
    let text = milliseconds.to_string();
    machine.write(&format!("{DIRECTORY}/delay.C_Login"), &text);
}

pub fn the_image_installs_itself(machine: &mut Machine) {
    let secrets = [("/myapp", "DB_PASSWORD", PASSWORD)];
    story::set_secrets(machine, &secrets);
    machine.run("systemctl enable --now --quiet infisical.service");
    for workload in ["myapp", "db"] {
        story::add_workload(machine, workload, "");
    }
    let db =
        "workloads:\n  db: {provider: nitrokeyhsm, secrets: [{key: db-password, as: DB_PASSWORD}]}";
    let configuration = with_token(&story::configuration(machine, &readme::configuration()))
        .replace("backend: tpm", "backend: hsm")
        .replace("workloads:", db);
    let driver = "driver_path: /usr/local/bin/psi-secret\n";
    machine.write(
        "/etc/psi/config.yaml",
        &(driver.to_owned() + &configuration),
    );
    machine.run(&page(0));
}

/// Its module is missing in the container: the drop-in that gives it what the token is reached by is
/// not there yet.
pub fn a_container_without_the_tokens_wiring_says_so(machine: &mut Machine) {
    let module = Module::with_key("psi", PIN);
    plug_in(machine, &module);
    story::seal_the_client_secret(machine);
    story::answer(machine, PIN);
    machine.run(&page(2));
    machine.run(
        "systemctl enable --now --quiet psi-secrets.socket; systemctl start psi-secrets.service",
    );
    let checked = machine.try_run("podman exec psi-secrets psi-hsm preflight");
    let checked = text(&checked.stdout);
    says(
        &checked,
        &[
            "cannot load the PKCS#11 module /srv/token/module.so: there is no such file",
            "a `Volume=` in a drop-in of psi-secrets.container",
        ],
    );
    machine.write(
        "/etc/containers/systemd/psi-secrets.container.d/token.conf",
        &format!("[Container]\nVolume={DIRECTORY}:{DIRECTORY}\n"),
    );
    machine.run("systemctl daemon-reload && systemctl restart psi-secrets.service");
}

pub fn the_page_gives_workloads_their_values(machine: &mut Machine) {
    machine.write("/root/stored", STORED);
    let start = page(3).replace(
        "podman exec --interactive --tty psi-secrets psi-hsm store db-password",
        "podman exec --interactive psi-secrets psi-hsm store db-password </root/stored",
    );
    machine.run(&start);
    machine.run(
        "systemctl start psi-infisical-setup.service && systemctl start db.service myapp.service",
    );
    has_its_values(machine);
    let slots = machine.run("podman exec psi-secrets psi-cachectl slots test");
    assert!(slots.contains("pkcs11"), "{slots}");
}

fn has_its_values(machine: &Machine) {
    assert_eq!(story::variable(machine, "db", "DB_PASSWORD"), STORED);
    assert_eq!(story::variable(machine, "myapp", "DB_PASSWORD"), PASSWORD);
}

/// Podman does not pass on that the token is still being waited for.
pub fn a_start_that_is_given_too_little_time_says_so(machine: &mut Machine) {
    delay_logins(machine, 12_000);
    let restart = "systemctl daemon-reload && systemctl restart psi-secrets.service";
    machine.write(EDITED, "[Service]\nTimeoutStartSec=6\n");
    fails(machine, restart);
    says(
        &said(machine, "psi-secrets"),
        &[
            "start operation timed out",
            "stopped while opening the cache: slot 1 (pkcs11)",
            "`TimeoutStartSec=180`",
        ],
    );
    machine.write(EDITED, "[Service]\nTimeoutStartSec=180\n");
    machine.run(restart);
    delay_logins(machine, 0);
}

pub fn a_reboot_keeps_them(machine: &mut Machine) {
    machine.reboot();
    assert_eq!(story::setup_ended(machine), ("active".into(), "0".into()));
    has_its_values(machine);
}

/// What Infisical has comes from the cache that the token opens, the rest from the token.
pub fn a_reboot_in_an_outage_keeps_them(machine: &mut Machine) {
    machine.run("systemctl disable --quiet infisical.service");
    machine.reboot();
    assert_eq!(story::setup_ended(machine), ("active".into(), "75".into()));
    has_its_values(machine);
}

/// One of the page's blocks of commands.
fn page(number: usize) -> String {
    readme::deployment("In containers, with an HSM").swap_remove(number)
}
