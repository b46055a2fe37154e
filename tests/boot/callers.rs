//! A user who is neither root nor psi-serve's asks: docs/configuration.md, "Other callers".

use crate::machine::Machine;
use crate::readme;
use crate::story::PASSWORD;

/// The socket's drop-in.
const DROP_IN: &str = "/etc/systemd/system/psi-secrets.socket.d/callers.conf";

pub fn a_listed_user_looks_up_once_the_socket_lets_the_group_in(machine: &mut Machine) {
    let configuration = machine.read("/etc/psi/config.yaml");
    let listed = configuration.replace("providers:", "allowed_uids: [1234]\nproviders:");
    machine.rewrite("/etc/psi/config.yaml", &listed);
    machine.run("systemctl reload psi-secrets.service");
    assert!(!machine.try_run(&lookup("root")).status.success());

    let blocks = readme::blocks_of("docs/configuration.md", "Other callers");
    let block = |language: &str| {
        let found = blocks.iter().find(|(named, _)| named == language);
        &found.expect("the page's block").1
    };
    machine.write(DROP_IN, block("ini"));
    machine.run(block("sh"));
    assert_eq!(machine.run(&lookup("psi-callers")), PASSWORD);
    // The group alone is not enough.
    machine.rewrite("/etc/psi/config.yaml", &configuration);
    machine.run("systemctl reload psi-secrets.service");
    assert!(!machine.try_run(&lookup("psi-callers")).status.success());

    machine.run(&format!(
        "rm {DROP_IN} && {}",
        block("sh").replace("groupadd --system", "groupdel")
    ));
}

/// As user 1234, in that group.
fn lookup(group: &str) -> String {
    format!(
        "SECRET_ID=$(podman secret inspect --format {{{{.ID}}}} myapp--DB_PASSWORD) \
         setpriv --reuid 1234 --regid {group} --clear-groups psi-secret lookup --socket /run/psi/psi.sock"
    )
}
