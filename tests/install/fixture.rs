//! A machine's root directory: accounts, programs, a configuration, and a systemd that only notes
//! what it is asked to do.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use psi_test_support::done::Done;
use psi_test_support::podman::write_program;
use tempfile::TempDir;

pub const PSI_INSTALL: &str = env!("CARGO_BIN_EXE_psi-install");

/// psi's numbers there, unlike any in the shipped files.
pub const UID: u32 = 871;
pub const GID: u32 = 872;
pub const TSS: u32 = 873;

pub const INFISICAL: &str = "providers:
  infisical:
    auth: {method: universal-auth, client_id: 00000000-0000-0000-0000-000000000000}
    projects: {p: {id: 11111111-1111-1111-1111-111111111111}}
";

/// What has a running systemd read what was written.
pub const READING: [&str; 3] = [
    "systemd-tmpfiles --create psi.conf",
    "journalctl --update-catalog",
    "systemctl daemon-reload",
];

/// What starts the quadlets, for local values alone.
pub const STARTING_CONTAINERS: [&str; 3] = [
    "systemctl enable --now psi-secrets.socket",
    "systemctl start psi-secrets.service",
    "systemctl start psi-local-setup.service",
];

/// Removed when it is dropped.
pub struct Root(TempDir);

impl Root {
    /// Without a running systemd, and with `config` as its configuration.
    pub fn new(config: &str) -> Self {
        let root = Self(tempfile::tempdir().unwrap());
        for directory in ["etc/psi", "usr/bin", "usr/local/bin", "bin", "run", "tmp"] {
            fs::create_dir_all(root.path(directory)).unwrap();
        }
        let account = |name, number: u32| format!("{name}:x:{number}:");
        let passwd = format!("{}{GID}::/:/bin/sh\n", account("psi", UID));
        root.write("etc/passwd", &format!("root:x:0:0::/:/bin/sh\n{passwd}"));
        let groups = [account("psi", GID), account("tss", TSS)].join("\n");
        root.write("etc/group", &format!("root:x:0:\n{groups}\n"));
        root.write("etc/psi/config.yaml", config);
        for program in ["psi-serve", "psi-setup", "psi-secret"] {
            write_program(&root.path("usr/bin").join(program), "#!/bin/sh\n");
        }
        fs::copy("/usr/bin/busybox", root.path("bin/sh")).expect("busybox-static is installed");
        copy_libraries(&beside("psi-secret"), &root.path(""));
        root.program(
            "systemctl",
            "[ \"$*\" != --version ] || echo 'systemd 257 (257.1)'",
        );
        root.program("podman", "echo 'podman version 5.4.2'");
        for program in ["systemd-sysusers", "systemd-tmpfiles", "journalctl"] {
            root.program(program, "");
        }
        root
    }

    /// With a systemd that counts as running.
    pub fn booted(config: &str) -> Self {
        let root = Self::new(config);
        fs::create_dir_all(root.path("run/systemd/system")).unwrap();
        root
    }

    pub fn path(&self, inside: &str) -> PathBuf {
        self.0.path().join(inside.trim_start_matches('/'))
    }

    pub fn write(&self, path: &str, text: &str) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    pub fn read(&self, path: &str) -> String {
        let path = self.path(path);
        fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
    }

    pub fn has(&self, path: &str) -> bool {
        self.path(path).symlink_metadata().is_ok()
    }

    /// A program that notes how it was called and then does as `script` says.
    pub fn program(&self, name: &str, script: &str) {
        let text = format!("#!/bin/sh\necho {name} \"$@\" >>/commands\n{script}\n");
        write_program(&self.path("usr/bin").join(name), &text);
    }

    /// What was called since the last time, but for the questions.
    pub fn commands(&self) -> Vec<String> {
        let noted = fs::read_to_string(self.path("commands")).unwrap_or_default();
        let _ = fs::remove_file(self.path("commands"));
        let lines = noted.lines().filter(|line| !is_question(line));
        lines.map(str::to_owned).collect()
    }

    /// Runs psi-install on it, as root.
    pub fn install(&self, arguments: &[&str]) -> Done {
        self.run(Command::new(PSI_INSTALL), "/root", arguments)
    }

    /// Runs it as a user who may do one thing more than others: enter a root directory.
    pub fn install_as(&self, uid: u32, home: &str, arguments: &[&str]) -> Done {
        let mut command = Command::new("setpriv");
        let id = uid.to_string();
        command.args(["--reuid", &id, "--regid", &id, "--clear-groups"]);
        command.args(["--inh-caps", "+sys_chroot", "--ambient-caps", "+sys_chroot"]);
        command.arg(PSI_INSTALL);
        self.run(command, home, arguments)
    }

    fn run(&self, mut command: Command, home: &str, arguments: &[&str]) -> Done {
        command.args(arguments).arg("--root").arg(self.0.path());
        command
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("HOME", home);
        Done::run(command, b"")
    }

    /// Every file and link below /etc and /usr, with its mode and text.
    pub fn tree(&self) -> BTreeMap<String, (u32, String)> {
        let mut files = BTreeMap::new();
        for top in ["etc", "usr"] {
            self.add(&self.path(top), &mut files);
        }
        files
    }

    fn add(&self, directory: &Path, files: &mut BTreeMap<String, (u32, String)>) {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            let metadata = path.symlink_metadata().unwrap();
            if metadata.is_dir() {
                self.add(&path, files);
                continue;
            }
            let text = match metadata.is_file() {
                true => String::from_utf8_lossy(&fs::read(&path).unwrap()).into_owned(),
                false => "a link".to_owned(),
            };
            let inside = path.strip_prefix(self.0.path()).unwrap();
            let mode = metadata.permissions().mode() & 0o7777;
            files.insert(format!("/{}", inside.display()), (mode, text));
        }
    }

    /// Owner, group and mode.
    pub fn owner(&self, path: &str) -> (u32, u32, u32) {
        let is = self.path(path).metadata().unwrap();
        (is.uid(), is.gid(), is.permissions().mode() & 0o7777)
    }
}

/// Whether a command only asks for something.
pub fn is_question(command: &str) -> bool {
    command.ends_with(" --version") || command.contains(" show ")
}

/// A program of PSI's.
pub fn beside(name: &str) -> PathBuf {
    Path::new(PSI_INSTALL).with_file_name(name)
}

/// Copies what a program loads to where it looks for it below another root.
pub fn copy_libraries(program: &Path, root: &Path) {
    let ldd = Command::new("ldd").arg(program).output().unwrap();
    let listed = String::from_utf8(ldd.stdout).unwrap();
    let words = listed.split_whitespace();
    for library in words.filter(|word| word.starts_with('/')) {
        let to = root.join(&library[1..]);
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(library, to).unwrap();
    }
}

/// How the lines start that are no file's.
const VERBS: [&str; 8] = [
    "# run ",
    "# remove ",
    "# keep ",
    "# change ",
    "# not run ",
    "# note ",
    "# next ",
    "# found ",
];

/// The files that a dry run shows, with their modes.
pub fn shown(dry_run: &Done) -> BTreeMap<String, (u32, String)> {
    let mut files: BTreeMap<String, (u32, String)> = BTreeMap::new();
    let mut last = None;
    for line in dry_run.stdout.lines() {
        let head = line
            .strip_prefix("# write ")
            .and_then(|rest| rest.strip_suffix(')'));
        if let Some((path, mode)) = head.and_then(|head| head.rsplit_once(" (")) {
            let mode = u32::from_str_radix(mode, 8).unwrap();
            files.insert(path.to_owned(), (mode, String::new()));
            last = Some(path.to_owned());
        } else if VERBS.iter().any(|verb| line.starts_with(verb)) {
            last = None;
        } else if let Some((_, text)) = last.as_ref().and_then(|path| files.get_mut(path)) {
            text.push_str(line);
            text.push('\n');
        }
    }
    files
}
