//! What `make install` puts in place, over the image.

use std::process::Command;

use psi_test_support::done::Done;
use tempfile::TempDir;

use crate::image;

/// Mounts, and runs a script there.
const INSIDE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/units/inside");

/// A tree of installed files, gone with this value.
pub struct Installed(TempDir);

impl Installed {
    /// # Panics
    /// If `make install` fails.
    pub fn new() -> Self {
        let tree = tempfile::tempdir().unwrap();
        let programs = std::path::Path::new(env!("CARGO_BIN_EXE_psi-serve"));
        let mut make = Command::new("make");
        make.args(["--old-file=build", "install", "PREFIX=/usr"])
            .arg(format!("PROGRAMS={}", programs.parent().unwrap().display()))
            .arg(format!("DESTDIR={}", tree.path().display()))
            .current_dir(env!("CARGO_MANIFEST_DIR"));
        Done::run(make, b"").ended(0);
        Self(tree)
    }

    /// Runs a shell script as root of the image with the installed files. What it writes is gone
    /// afterwards.
    pub fn run(&self, script: &str) -> Done {
        let scratch = tempfile::tempdir().unwrap();
        let mut command = Command::new("unshare");
        command
            .args(["--mount", "--propagation", "private", "--pid", "--fork"])
            .args(["--kill-child", INSIDE])
            .arg(image::directory())
            .args([self.0.path(), scratch.path()])
            .arg(script);
        Done::run(command, b"")
    }
}
