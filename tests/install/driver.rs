//! psi-secret comes to the host out of an image that may be of another release. A container's root is not
//! needed for that: it is a root directory in any case.

use std::fs;
use std::path::PathBuf;

use crate::fixture::Root;

const CONFIG: &str = "driver_path: /usr/local/bin/psi-secret\nproviders: {local: {}}\n";
const DRIVER: &str = "/usr/local/bin/psi-secret";
const CONTAINER: [&str; 3] = ["units", "--mode", "container"];

/// The C library below that root.
fn libc(root: &Root) -> PathBuf {
    let libraries = fs::read_dir(root.path("lib")).unwrap();
    let paths = libraries.map(|entry| entry.unwrap().path().join("libc.so.6"));
    paths.into_iter().find(|path| path.exists()).unwrap()
}

/// Has the C library lack what programs of today want of it.
fn age(root: &Root) {
    let path = libc(root);
    let (of_today, of_none) = (b"\0GLIBC_2.34\0", b"\0GLIBC_0.34\0");
    let mut library = fs::read(&path).unwrap();
    let at = library.windows(of_today.len()).position(|w| w == of_today);
    let at = at.unwrap();
    library[at..at + of_none.len()].copy_from_slice(of_none);
    fs::write(path, library).unwrap();
}

#[track_caller]
fn refused(root: &Root, why: &str) {
    let before = root.tree();
    let done = root.install(&CONTAINER).ended(1);
    done.says(&["does not run on this host", why, "BASE=IMAGE", DRIVER]);
    assert_eq!(root.tree(), before);
    assert_eq!(root.commands(), [""; 0]);
}

#[test]
fn one_that_runs_with_the_hosts_library_is_put_there_and_nothing_else() {
    let root = Root::new(CONFIG);
    let dry_run = root.install(&[&CONTAINER[..], &["--dry-run"]].concat());
    dry_run
        .ended(0)
        .says(&["# run /usr/local/bin/.psi-secret.tried --version"]);
    root.install(&CONTAINER).ended(0);
    let names = fs::read_dir(root.path("usr/local/bin")).unwrap();
    let names: Vec<_> = names.map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["psi-secret"]);
}

#[test]
fn one_that_wants_a_newer_library_is_refused_and_the_one_before_stays() {
    let root = Root::new(CONFIG);
    root.install(&CONTAINER).ended(0);
    root.commands();
    // As psi-install wrote it, and of another version.
    root.write(DRIVER, "of before");
    let digest = psi_test_support::done::Done::run(sha256sum(&root), b"").stdout;
    let list = root.read("etc/psi/installed");
    let line = |line: &str| match line.ends_with(DRIVER) {
        true => format!("{}  {DRIVER}\n", digest.split(' ').next().unwrap()),
        false => format!("{line}\n"),
    };
    root.write(
        "etc/psi/installed",
        &list.lines().map(line).collect::<String>(),
    );
    age(&root);
    refused(&root, "version `GLIBC_2.34' not found");
}

fn sha256sum(root: &Root) -> std::process::Command {
    let mut command = std::process::Command::new("sha256sum");
    command.arg(root.path(DRIVER));
    command
}

#[test]
fn without_a_library_or_what_loads_it_the_reason_is_said() {
    let root = Root::new(CONFIG);
    fs::remove_file(libc(&root)).unwrap();
    refused(&root, "libc.so.6: cannot open shared object file");
    fs::remove_dir_all(root.path("lib64")).unwrap();
    refused(&root, "the program that loads it, glibc's, is not there");
}

/// As the message says.
#[test]
fn one_that_was_built_for_the_host_is_kept_and_all_else_is_installed() {
    let root = Root::new(CONFIG);
    age(&root);
    root.write(DRIVER, "built for this host");
    root.install(&CONTAINER).ended(1).says(&["kept", DRIVER]);
    assert_eq!(root.read(DRIVER), "built for this host");
    assert!(root.has("/etc/containers/systemd/psi-secrets.container"));
}
