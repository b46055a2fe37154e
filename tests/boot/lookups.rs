//! Lookups through Podman's driver, one after the other, while something happens to PSI.

use psi_test_support::wait;

use crate::machine::Machine;
use crate::story::PASSWORD;

/// Asks Podman's API for a secret's value again and again, each time a lookup of its driver.
const LOOK_UP: &str = r#"#!/bin/bash
set -euo pipefail
ask() {
    printf 'GET /v5.0.0/libpod/secrets/myapp--DB_PASSWORD/json?showsecret=true HTTP/1.1\r\n'
    printf 'Host: podman\r\nConnection: %s\r\n\r\n' "$1"
}
until [ -e /run/enough ]; do
    { for _ in $(seq 99); do ask keep-alive; done; ask close; } |
        socat -t 600 - UNIX-CONNECT:/run/podman/podman.sock >>/run/answers
done
"#;

/// What Podman says if its driver found the value.
const OK: &str = "HTTP/1.1 200 OK";

/// Where the answers are.
const ANSWERS: &str = "/run/answers";

/// From now on one lookup follows the other.
pub fn begin(machine: &Machine) {
    machine.write_program("/usr/local/bin/look-up", LOOK_UP);
    machine.run("systemd-run --quiet --unit=lookups /usr/local/bin/look-up");
}

/// Ends them once there were that many. Each of them got the value.
pub fn none_failed(machine: &Machine, at_least: usize) {
    let answers = || machine.read(ANSWERS);
    wait::until("all answers", || answers().matches(OK).count() >= at_least);
    machine.write("/run/enough", "");
    let state = || machine.property("lookups.service", "ActiveState");
    wait::until("the last answer", || state() != "active");
    assert_eq!(state(), "inactive", "a connection was lost");
    let value = format!(r#""SecretData":"{PASSWORD}""#);
    let asked = answers().matches("HTTP/1.1 ").count();
    println!("{asked} lookups");
    assert_eq!(answers().matches(OK).count(), asked);
    assert_eq!(answers().matches(&value).count(), asked);
    assert_eq!(asked % 100, 0, "one was not answered");
    machine.run(&format!("rm {ANSWERS} /run/enough"));
}
