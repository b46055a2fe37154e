//! What docs/deployment.md gives Fedora CoreOS to do on its first boot.

use std::fs;

use crate::fixture::Root;

const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/deployment.md");

/// The page's Butane file.
fn butane() -> String {
    let page = fs::read_to_string(PAGE).unwrap();
    let (_, rest) = page.split_once("```yaml\nvariant: fcos").unwrap();
    rest.split("```").next().unwrap().to_owned()
}

/// The text of the file that it writes there.
fn inline(butane: &str, path: &str) -> String {
    let (_, rest) = butane.split_once(&format!("path: {path}\n")).unwrap();
    let (_, text) = rest.split_once("inline: |\n").unwrap();
    let lines = text.lines().map_while(|line| match line.is_empty() {
        true => Some(""),
        false => line.strip_prefix("          "),
    });
    lines.flat_map(|line| [line, "\n"]).collect()
}

fn line<'b>(butane: &'b str, key: &str) -> &'b str {
    let mut lines = butane
        .lines()
        .filter_map(|line| line.trim().strip_prefix(key));
    lines.next().unwrap()
}

/// A machine with that configuration, and psi-install with the arguments that it is run with there.
fn first_boot(butane: &str) -> (Root, Vec<String>) {
    let root = Root::booted(&inline(butane, "/etc/psi/config.yaml"));
    let (_, arguments) = line(butane, "ExecStart=")
        .split_once(" psi-install ")
        .unwrap();
    let arguments = arguments.replace(" --root /host", "");
    (root, arguments.split(' ').map(str::to_owned).collect())
}

fn install(root: &Root, arguments: &[String]) -> psi_test_support::done::Done {
    root.install(&arguments.iter().map(String::as_str).collect::<Vec<_>>())
}

/// The condition is a link that systemctl makes: what fails before that is done again on the next try.
#[test]
fn what_failed_on_the_first_boot_is_done_again() {
    let butane = butane();
    let (root, arguments) = first_boot(&butane);
    let until = line(&butane, "ConditionPathExists=!");
    let (directory, timer) = until.rsplit_once('/').unwrap();
    assert_eq!(directory, "/etc/systemd/system/timers.target.wants");
    let enable = format!("systemctl enable --now {timer}");

    for failing in ["daemon-reload", "start psi-secrets.service"] {
        let script = format!("[ \"$*\" != '{failing}' ] || {{ echo no >&2; exit 1; }}");
        root.program("systemctl", &script);
        install(&root, &arguments).ended(74).says(&[failing]);
        assert!(!root.commands().contains(&enable), "{failing}");
    }
    root.program("systemctl", "");
    install(&root, &arguments).ended(0);
    let commands = root.commands();
    let enabled: Vec<&String> = commands
        .iter()
        .filter(|command| command.contains(" enable "))
        .collect();
    assert_eq!(enabled.last(), Some(&&enable), "{commands:?}");
}

/// There is no psi-infisical-setup.service to wait for on that boot.
#[test]
fn the_workload_does_not_start_before_it_has_its_variables() {
    let workload = inline(&butane(), "/etc/containers/systemd/myapp.container");
    let drop_in = "/etc/containers/systemd/myapp.container.d/50-secrets.conf";
    let assertion = format!("\nAssertPathExists={drop_in}\n");
    assert!(workload.contains(&assertion), "{workload}");
}
