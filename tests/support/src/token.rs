//! A PKCS#11 token of a test's own: kryoptic, with a spy before it (`tests/token`).

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use tempfile::TempDir;

use crate::done::Done;

/// The id and the label of the key that PSI looks for unless told otherwise.
pub const KEY_ID: &str = "02";
pub const KEY_LABEL: &str = "podman-secrets";

/// Whoever has it sets a new PIN.
const SO_PIN: &str = "so-pin-of-a-test";

/// How many wrong PINs lock a token.
pub const TRIES: usize = 10;

/// A module with its tokens: all in one directory, which goes when it is dropped.
pub struct Module {
    directory: TempDir,
}

impl Module {
    /// A copy of the module with one slot per label. The tokens have no PIN and no key yet.
    pub fn with_tokens(labels: &[&str]) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let module = Self { directory };
        fs::copy(library(), module.library()).expect("a copy of the module");
        let mut conf = String::new();
        for slot in 0..labels.len() {
            let file = module.directory.path().join(format!("token{slot}.sql"));
            let file = file.display();
            writeln!(
                conf,
                "[[slots]]\nslot = {slot}\ndbtype = \"sqlite\"\ndbargs = \"{file}\""
            )
            .expect("a string grows");
        }
        fs::write(module.directory.path().join("kryoptic.conf"), conf).expect("its configuration");
        for (slot, label) in labels.iter().enumerate() {
            module.tool(
                slot,
                &["--init-token", "--label", label, "--so-pin", SO_PIN],
            );
        }
        module
    }

    /// One token with this label and PIN, and the key that PSI looks for.
    pub fn with_key(label: &str, pin: &str) -> Self {
        let module = Self::with_tokens(&[label]);
        module.set_pin(0, pin);
        module.generate_key(0, pin, KEY_ID, KEY_LABEL);
        module.forget_calls();
        module
    }

    /// The library to load.
    pub fn library(&self) -> PathBuf {
        self.directory.path().join("module.so")
    }

    /// Sets the PIN as the security officer does: a locked one works again.
    pub fn set_pin(&self, slot: usize, pin: &str) {
        let so = ["--login", "--login-type", "so", "--so-pin", SO_PIN];
        self.tool(slot, &[&so[..], &["--init-pin", "--new-pin", pin]].concat());
    }

    /// Makes a key pair of 2048 bits.
    pub fn generate_key(&self, slot: usize, pin: &str, id: &str, label: &str) {
        let pair = ["--keypairgen", "--key-type", "rsa:2048"];
        let key = ["--id", id, "--label", label];
        self.tool(
            slot,
            &[&["--login", "--pin", pin][..], &pair, &key].concat(),
        );
    }

    /// Puts the private half of a key there, in DER (PKCS#8).
    pub fn import_key(&self, slot: usize, pin: &str, id: &str, label: &str, der: &[u8]) {
        let file = self.directory.path().join("key.der");
        fs::write(&file, der).expect("the key's file");
        let file = file.to_str().expect("a path of text");
        let write = ["--login", "--pin", pin, "--write-object", file];
        let key = [
            "--type",
            "privkey",
            "--usage-decrypt",
            "--id",
            id,
            "--label",
            label,
        ];
        self.tool(slot, &[&write[..], &key].concat());
    }

    /// Removes both halves of a key.
    pub fn delete_key(&self, slot: usize, pin: &str, id: &str) {
        for half in ["privkey", "pubkey"] {
            let delete = ["--login", "--pin", pin, "--delete-object", "--type", half];
            self.tool(slot, &[&delete[..], &["--id", id]].concat());
        }
    }

    /// Enters a wrong PIN so many times.
    pub fn enter_wrong_pins(&self, slot: usize, times: usize) {
        for _ in 0..times {
            let wrong = ["--login", "--pin", "a wrong one", "--list-objects"];
            self.run_tool(slot, &wrong).says(&["CKR_PIN"]);
        }
    }

    /// Runs pkcs11-tool on a token; what it wrote.
    ///
    /// # Panics
    /// If it fails.
    pub fn tool(&self, slot: usize, arguments: &[&str]) -> String {
        self.run_tool(slot, arguments).ended(0).stdout
    }

    fn run_tool(&self, slot: usize, arguments: &[&str]) -> Done {
        let mut command = Command::new("pkcs11-tool");
        command.arg("--module").arg(self.library());
        command.args(["--slot", &slot.to_string()]).args(arguments);
        Done::run(command, b"")
    }

    /// The token's serial number.
    pub fn serial(&self, slot: usize) -> String {
        let list = self.tool(slot, &["--list-token-slots"]);
        let mut serials = list.lines().filter_map(|line| {
            let (name, value) = line.split_once(':')?;
            (name.trim() == "serial num").then(|| value.trim().to_owned())
        });
        serials.nth(slot).expect("a serial number")
    }

    /// Pulls all tokens.
    pub fn pull(&self) {
        self.control("gone", "");
    }

    /// Plugs them in again.
    pub fn plug_in(&self) {
        self.release("gone");
    }

    /// Has the module behave as the control file `name` says; see `tests/token`.
    pub fn control(&self, name: &str, text: &str) {
        fs::write(self.directory.path().join(name), text).expect("a control file");
    }

    /// Ends what [`Module::control`] began.
    pub fn release(&self, name: &str) {
        fs::remove_file(self.directory.path().join(name)).expect("the control file");
    }

    /// How often a function was called, by all processes, since the last [`Module::forget_calls`].
    pub fn calls(&self, function: &str) -> usize {
        let calls = fs::read_to_string(self.calls_file()).unwrap_or_default();
        calls.lines().filter(|line| *line == function).count()
    }

    /// Whether it was loaded at all.
    pub fn was_started(&self) -> bool {
        self.calls("C_Initialize") > 0
    }

    /// Starts to count anew.
    pub fn forget_calls(&self) {
        let _ = fs::remove_file(self.calls_file());
    }

    fn calls_file(&self) -> PathBuf {
        self.directory.path().join("calls")
    }
}

/// The module as cargo builds it: a test of another package does not have it built.
fn library() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let program = std::env::current_exe().expect("this program's path");
        let profile = program.ancestors().nth(2).expect("…/PROFILE/deps/PROGRAM");
        let cargo = std::env::var_os("CARGO").unwrap_or("cargo".into());
        let mut build = Command::new(cargo);
        build.args([
            "build",
            "--quiet",
            "--locked",
            "--package",
            "psi-test-token",
        ]);
        if profile.ends_with("release") {
            build.arg("--release");
        }
        let workspace = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
        build.current_dir(workspace);
        Done::run(build, b"").ended(0);
        profile.join("libpsi_test_token.so")
    })
}
