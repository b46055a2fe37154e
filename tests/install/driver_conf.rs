//! `psi-install driver-conf`.

use crate::fixture::Root;

const FILE: &str = "/etc/containers/containers.conf.d/psi.conf";

#[test]
fn the_driver_becomes_podmans_default_and_that_is_said() {
    let root = Root::new("driver_path: /opt/psi-secret\n");
    let shown = root.install(&["driver-conf", "--stdout"]).ended(0);
    assert!(!root.has(FILE));
    let done = root.install(&["driver-conf"]).ended(0);
    done.says(&["default secret driver", "wrote", FILE, "podman.service"]);
    let text = root.read(FILE);
    assert_eq!(text, shown.stdout);
    for command in ["list", "lookup", "store", "delete"] {
        let line = format!("\n{command} = \"exec /opt/psi-secret {command}\"\n");
        assert!(text.contains(&line), "{text}");
    }
    root.install(&["driver-conf"]).ended(0).never_says("wrote");
}

/// Podman would ask the default one else.
#[test]
fn the_driver_asks_at_the_socket_that_is_configured() {
    let root = Root::new("socket: /run/psi/other.sock\n");
    let text = root.install(&["driver-conf", "--stdout"]).ended(0).stdout;
    for command in ["list", "lookup", "store", "delete"] {
        let line = format!(
            "\n{command} = \"exec /usr/bin/psi-secret {command} --socket /run/psi/other.sock\"\n"
        );
        assert!(text.contains(&line), "{text}");
    }
    let quoted = Root::new("socket: '/run/psi/an\"other.sock'\n");
    let done = quoted.install(&["driver-conf"]).ended(78);
    done.says(&["socket", "letters, digits"]);
    assert!(!quoted.has(FILE));
}

#[test]
fn the_units_leave_it_alone_and_uninstall_removes_it() {
    let root = Root::new("");
    root.install(&["driver-conf"]).ended(0);
    root.install(&["units", "--mode", "native"]).ended(0);
    assert!(root.has(FILE));
    root.install(&["uninstall"]).ended(0);
    assert!(!root.has(FILE));
}

#[test]
fn one_of_the_administrators_is_kept() {
    let root = Root::new("");
    root.write(FILE, "[secrets]\n");
    root.install(&["driver-conf"])
        .ended(1)
        .says(&["kept", FILE]);
    assert_eq!(root.read(FILE), "[secrets]\n");
}

#[test]
fn curl_is_bounded_in_time_and_keeps_every_byte() {
    let root = Root::new("socket: /run/psi/other.sock\n");
    let text = root
        .install(&["driver-conf", "--curl", "--stdout"])
        .ended(0)
        .stdout;
    let commands: Vec<&str> = text.lines().filter(|line| line.contains("curl ")).collect();
    let commands = &commands[commands.len() - 4..];
    for command in commands {
        assert!(
            command.contains("--fail --max-time 75 --unix-socket /run/psi/other.sock "),
            "{command}"
        );
    }
    assert!(text.contains("--data-binary @- http://psi/store/$SECRET_ID"));
    assert!(text.contains("'Content-Type: application/octet-stream'"));
}

#[test]
fn curl_is_refused_where_a_token_would_stand_in_its_command() {
    let token = "token-of-this-test";
    let configured = Root::new(&format!("socket_token: {token}\n"));
    let file = Root::new("");
    file.write("etc/psi/socket-token", token);
    let sealed = Root::new("");
    sealed.write("etc/credstore.encrypted/psi-socket-token", "sealed");
    for root in [configured, file, sealed] {
        for arguments in [
            &["driver-conf", "--curl"][..],
            &["driver-conf", "--curl", "--stdout"],
        ] {
            let done = root.install(arguments).ended(1).never_says(token);
            done.says(&["socket token", "without --curl"]);
        }
        assert!(!root.has(FILE));
        root.install(&["driver-conf"]).ended(0).never_says(token);
    }
}
