//! Disks that fail under psi-setup: containers keep starting with what they had, the message names
//! the path and the next step, and the next run completes what is missing.

use std::fs;
use std::path::PathBuf;

use psi_test_support::disk::{Fault, SmallDisk};

use crate::fixture::{Fixture, SETUP, both, workload};

/// Every call by which a run writes its own files, failing, with the exit status.
fn faults(f: &Fixture, workload: &str) -> Vec<(Fault, i32)> {
    let drop_in = f.drop_in(workload);
    let folder = drop_in.parent().unwrap();
    let temporary = folder.join(".50-secrets.conf.new");
    let run = f.host.socket().parent().unwrap().to_owned();
    // As the names are given to openat(2), beside a directory's descriptor.
    let opened = |name: &str| PathBuf::from(name);
    vec![
        (Fault::new("openat", "EIO", opened("setup.lock")), 74),
        (Fault::new("openat", "ENOSPC", opened("setup.reload")), 1),
        (Fault::new("fchmod", "EIO", run.join("setup.reload")), 1),
        (Fault::new("mkdir", "EROFS", folder.to_owned()), 1),
        (
            Fault::new("openat", "ENOSPC", opened(".50-secrets.conf.new")),
            1,
        ),
        (Fault::new("fchmod", "EIO", temporary.clone()), 1),
        (Fault::new("write", "ENOSPC", temporary.clone()), 1),
        (Fault::new("fsync", "EIO", temporary), 1),
        (
            Fault::new("renameat,renameat2", "EROFS", folder.to_owned()),
            1,
        ),
        (Fault::new("fsync", "EIO", folder.to_owned()), 1),
        // The reload is done once more, which is all.
        (Fault::new("unlinkat", "EROFS", run), 0),
    ]
}

/// Every variable that the drop-in names reaches a container.
fn assert_container_starts(f: &Fixture, workload: &str, keys: &[&str]) {
    let env = f.container_env(workload);
    for key in keys {
        assert_eq!(env[*key], "value", "{workload}");
    }
}

#[test]
fn a_write_that_fails_is_named_and_made_good_by_the_next_run() {
    let f = Fixture::new(&workload("w0"));
    for step in 0..faults(&f, "w0").len() {
        let name = format!("w{step}");
        let (fault, code) = faults(&f, &name).swap_remove(step);
        f.set_workloads(&workload(&name));
        f.set(&format!("/{name}"), "A", "value");
        // Only the first run makes the folder.
        let is_first = fault.calls == "mkdir";
        if !is_first {
            f.setup_exits(0, &[]);
            f.set(&format!("/{name}"), "B", "value");
        }
        let mut strace = fault.strace();
        strace.env_clear().env("PSI_CONFIG", f.host.config_file());
        strace.env("PATH", f.host.search_path());
        let output = strace.arg(SETUP).output().unwrap();
        let text = both(&output);
        assert_eq!(output.status.code(), Some(code), "{fault:?}: {text}");
        if code != 0 {
            let root = f.host.path("").display().to_string();
            assert!(
                text.contains(&root) && text.contains("next: "),
                "{fault:?}: {text}"
            );
        }
        if !is_first {
            assert_container_starts(&f, &name, &["A"]);
            f.setup_exits(0, &[]);
            assert_container_starts(&f, &name, &["A", "B"]);
        }
        f.setup_exits(0, &[]);
        assert_container_starts(&f, &name, &["A"]);
        let files = fs::read_dir(f.drop_in(&name).parent().unwrap()).unwrap();
        assert_eq!(files.count(), 1, "{fault:?} left a file behind");
        assert!(!f.host.socket().with_file_name("setup.reload").exists());
    }
}

#[test]
fn a_full_or_read_only_quadlet_directory_keeps_the_drop_in_until_it_can_be_written() {
    let f = Fixture::new(&workload("myapp"));
    let disk = SmallDisk::mount(&f.host.systemd_dir());
    f.set("/myapp", "A", "value");
    f.setup_exits(0, &[]);
    f.set("/myapp", "B", "value");
    let before = fs::read(f.drop_in("myapp")).unwrap();
    let fails_with = |why: &str, next: &str| {
        let text = f.setup_exits(1, &[]);
        let file = f.drop_in("myapp").display().to_string();
        for words in [file.as_str(), why, next] {
            assert!(text.contains(words), "{words}: {text}");
        }
        assert_eq!(fs::read(f.drop_in("myapp")).unwrap(), before);
        assert_container_starts(&f, "myapp", &["A"]);
    };
    disk.fill();
    fails_with("No space left", "next: ");
    disk.free();
    disk.make_read_only();
    fails_with("Read-only file system", "`ReadWritePaths=`");
    disk.make_writable();
    f.setup_exits(0, &[]);
    assert_container_starts(&f, "myapp", &["A", "B"]);
}

#[test]
fn a_cache_that_can_not_be_written_registers_nothing_new_and_changes_no_drop_in() {
    let f = Fixture::new(&workload("myapp"));
    f.set("/myapp", "A", "value");
    f.setup_exits(0, &[]);
    f.set("/myapp", "B", "value");
    let before = (fs::read(f.drop_in("myapp")).unwrap(), f.registered());
    // A directory in the temporary file's place can neither be removed nor replaced by a file.
    let obstacle = f.host.state_dir().join(".cache.enc.new");
    fs::create_dir(&obstacle).unwrap();
    let text = f.setup_exits(1, &[]);
    let cache = f.host.cache_file().display().to_string();
    assert!(text.contains(&cache) && text.contains("next: "), "{text}");
    let after = (fs::read(f.drop_in("myapp")).unwrap(), f.registered());
    assert_eq!(after, before);
    assert_container_starts(&f, "myapp", &["A"]);
    fs::remove_dir(&obstacle).unwrap();
    f.setup_exits(0, &[]);
    assert_container_starts(&f, "myapp", &["A", "B"]);
}
