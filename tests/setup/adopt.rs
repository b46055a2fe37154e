//! What the Python program left behind: secrets with a curl driver and no labels.

use std::fs;

use crate::fixture::{DRIVER, Fixture, both, workload};

/// As the Python program registered it: commands of its own, a mapping with blanks, no labels.
pub fn register_as_before(f: &Fixture, name: &str, mapping: &str) {
    let file = f.host.path("mapping");
    fs::write(&file, mapping).unwrap();
    let old = |verb: &str| {
        let socket = f.host.socket();
        format!(
            "{verb}=true old; exec {DRIVER} {verb} --socket {}",
            socket.display()
        )
    };
    let options = ["store", "lookup", "delete", "list"].map(old).join(",");
    let output = f.podman.run(&[
        "secret",
        "create",
        "--driver",
        "shell",
        "--driver-opts",
        &options,
        name,
        file.to_str().unwrap(),
    ]);
    assert!(output.status.success(), "{}", both(&output));
}

#[test]
fn secrets_from_before_are_replaced_once_and_keep_their_names() {
    let f = Fixture::new(&workload("myapp"));
    f.set("/myapp", "A", "1");
    let mapping =
        r#"{"provider": "infisical", "project": "myproject", "path": "/myapp", "key": "A"}"#;
    register_as_before(&f, "myapp--A", mapping);
    let old = f.registered()["myapp--A"].clone();
    assert!(f.host.state_dir().join(&old).exists());

    let text = f.setup_exits(0, &[]);
    assert!(text.contains("REPLACED"), "{text}");
    let new = f.registered();
    assert_eq!(new.len(), 1);
    assert_ne!(new["myapp--A"], old);
    assert!(!f.host.state_dir().join(&old).exists());
    assert_eq!(f.container_env("myapp")["A"], "1");

    f.setup_exits(0, &[]);
    assert_eq!(f.registered(), new);
}

#[test]
fn shell_secrets_of_others_are_left_alone() {
    let f = Fixture::new(&workload("myapp"));
    f.set("/myapp", "A", "1");
    let mapping = r#"{"provider": "infisical", "project": "myproject", "path": "/x", "key": "A"}"#;
    register_as_before(&f, "unrelated", mapping);
    register_as_before(&f, "myapp2--A", mapping);
    let before = f.registered();
    f.setup_exits(0, &[]);
    let after = f.registered();
    assert_eq!(after["unrelated"], before["unrelated"]);
    assert_eq!(after["myapp2--A"], before["myapp2--A"]);
}

#[test]
fn a_mapping_that_was_lost_is_registered_again() {
    let f = Fixture::new(&workload("myapp"));
    f.set("/myapp", "A", "1");
    f.setup_exits(0, &[]);
    let id = f.registered()["myapp--A"].clone();
    fs::remove_file(f.host.state_dir().join(&id)).unwrap();
    assert!(!f.lookup(&id).status.success());
    f.setup_exits(0, &[]);
    assert_eq!(f.container_env("myapp")["A"], "1");
}
