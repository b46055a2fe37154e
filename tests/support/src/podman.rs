//! A real Podman of a test's own: its storage, state, locks and API socket are in one temporary
//! directory, and nothing of the host's Podman is touched.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};

use tempfile::TempDir;

use crate::wait;

/// The programs that a container gets, all of them busybox.
const APPLETS: [&str; 6] = ["sh", "cat", "env", "sleep", "tr", "true"];

/// The one program that Debian's busybox lacks.
const PRINTENV: &str = r#"#!/bin/sh
eval "[ -n \"\${$1+x}\" ] && printf '%s\n' \"\$$1\""
"#;

/// Runs as a service until it is dropped; its containers go as well.
pub struct Podman {
    dir: TempDir,
    rootfs: PathBuf,
    service: Option<Child>,
}

impl Podman {
    /// Starts one with an empty store.
    pub fn start() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let rootfs = dir.path().join("rootfs");
        write_configuration(dir.path());
        write_rootfs(&rootfs);
        let mut podman = Self {
            dir,
            rootfs,
            service: None,
        };
        podman.start_service();
        podman
    }

    /// Starts the API service, e.g. after [`Podman::stop_service`].
    pub fn start_service(&mut self) {
        let log = fs::File::options()
            .create(true)
            .append(true)
            .open(self.log_file())
            .expect("the service's log");
        let mut command = self.command();
        command
            .args(["system", "service", "--time=0"])
            .arg(format!("unix://{}", self.socket().display()))
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("the log again"))
            .stderr(log);
        self.service = Some(command.spawn().expect("podman can be run"));
        wait::until("Podman service", || {
            UnixStream::connect(self.socket()).is_ok()
        });
    }

    /// Ends the API service and leaves its socket behind, as a crash does.
    pub fn stop_service(&mut self) {
        if let Some(mut service) = self.service.take() {
            let _ = service.kill();
            let _ = service.wait();
        }
    }

    /// The API's socket.
    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("podman.sock")
    }

    /// A directory of the test's own, for proxies and drivers.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// A root directory with busybox in it, shared by this Podman's containers.
    pub fn rootfs(&self) -> &Path {
        &self.rootfs
    }

    /// What the service and the drivers it ran have said.
    pub fn service_log(&self) -> String {
        let log = fs::read(self.log_file()).unwrap_or_default();
        String::from_utf8_lossy(&log).into_owned()
    }

    fn log_file(&self) -> PathBuf {
        self.dir.path().join("service.log")
    }

    /// The command-line program, for this store and without the test's environment.
    pub fn command(&self) -> Command {
        let dir = self.dir.path();
        let mut command = Command::new("podman");
        command
            .env_clear()
            .env(
                "PATH",
                "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            )
            .env("HOME", dir)
            .env("TMPDIR", dir.join("tmp"))
            .env("CONTAINERS_CONF", dir.join("containers.conf"))
            .env("CONTAINERS_STORAGE_CONF", dir.join("storage.conf"))
            .stdin(Stdio::null());
        command
    }

    /// Runs the command-line program.
    pub fn run<S: AsRef<std::ffi::OsStr>>(&self, arguments: &[S]) -> Output {
        self.command()
            .args(arguments)
            .output()
            .expect("podman can be run")
    }

    /// Runs `script` in a new container with these `--secret` options, e.g.
    /// `app--KEY,type=env,target=KEY`. The container is gone afterwards.
    pub fn run_container(&self, secrets: &[&str], script: &str) -> Output {
        let mut command = self.command();
        command.args(["run", "--rm"]).args(secret_options(secrets));
        command.arg("--rootfs").arg(self.rootfs());
        command
            .args(["sh", "-c", script])
            .output()
            .expect("podman can be run")
    }

    /// Starts a container that sleeps. `healthcheck` is a command for `podman healthcheck run
    /// NAME`, which nothing runs by itself.
    pub fn start_container(
        &self,
        name: &str,
        secrets: &[&str],
        healthcheck: Option<&str>,
    ) -> Output {
        let mut command = self.command();
        command.args(["run", "--detach", "--name", name]);
        if let Some(healthcheck) = healthcheck {
            command.args(["--health-cmd", healthcheck, "--health-interval=disable"]);
        }
        command.args(secret_options(secrets));
        command.arg("--rootfs").arg(self.rootfs());
        command
            .args(["sleep", "600"])
            .output()
            .expect("podman can be run")
    }

    /// Runs `script` in a running container.
    pub fn exec(&self, name: &str, script: &str) -> Output {
        self.run(&["exec", name, "sh", "-c", script])
    }

    /// Runs a container's health check once: 0 is healthy.
    pub fn healthcheck(&self, name: &str) -> Output {
        self.run(&["healthcheck", "run", name])
    }

    /// The `key=value` options of a shell driver that is the program `driver`, which gets
    /// `store`, `lookup`, `delete` or `list` as its only argument.
    pub fn driver_options(driver: &Path) -> [(String, String); 4] {
        ["store", "lookup", "delete", "list"].map(|command| {
            let line = format!("exec {} {command}", driver.display());
            (command.to_owned(), line)
        })
    }

    /// A shell driver that keeps each secret in a file of `<driver>.data`. Returns its path.
    pub fn file_driver(&self) -> PathBuf {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let n = COUNT.fetch_add(1, Ordering::Relaxed);
        let driver = self.dir.path().join(format!("driver-{n}"));
        let data = self.dir.path().join(format!("driver-{n}.data"));
        fs::create_dir(&data).expect("the driver's directory");
        let script = format!(
            "#!/bin/sh\n\
             cd '{}' || exit 1\n\
             [ \"$1\" = list ] && exec ls\n\
             [ -n \"$SECRET_ID\" ] || exit 1\n\
             case $1 in\n\
             store) cat >\"$SECRET_ID\" ;;\n\
             lookup) cat \"$SECRET_ID\" ;;\n\
             delete) rm \"$SECRET_ID\" ;;\n\
             esac\n",
            data.display()
        );
        write_program(&driver, &script);
        driver
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        self.stop_service();
        let _ = self.run(&["rm", "--all", "--force", "--time", "0"]);
        wait_for_helpers(self.dir.path());
        unmount_below(self.dir.path());
    }
}

/// Writes an executable file.
pub fn write_program(path: &Path, text: &str) {
    fs::write(path, text).expect("a program's file");
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("its mode");
}

fn secret_options<'a>(secrets: &'a [&'a str]) -> impl Iterator<Item = &'a str> {
    secrets.iter().flat_map(|secret| ["--secret", secret])
}

/// What makes containers run on a machine with a hybrid cgroup hierarchy, in a container itself,
/// and what keeps all state in `dir`.
fn write_configuration(dir: &Path) {
    let at = dir.display();
    let containers = format!(
        r#"[containers]
netns = "none"
seccomp_profile = "unconfined"
pids_limit = 0
default_ulimits = ["nofile=1024:1024", "nproc=4096:4096"]
log_driver = "k8s-file"
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
lock_type = "file"
tmp_dir = "{at}/libpod"
static_dir = "{at}/storage/libpod"
volume_path = "{at}/volumes"
image_copy_tmp_dir = "{at}/tmp"
[network]
network_config_dir = "{at}/networks"
"#
    );
    let storage = format!(
        "[storage]\ndriver = \"vfs\"\ngraphroot = \"{at}/storage\"\nrunroot = \"{at}/run\"\n"
    );
    fs::create_dir(dir.join("tmp")).expect("a directory");
    fs::create_dir(dir.join("networks")).expect("a directory");
    fs::write(dir.join("containers.conf"), containers).expect("containers.conf");
    fs::write(dir.join("storage.conf"), storage).expect("storage.conf");
}

fn write_rootfs(rootfs: &Path) {
    for directory in ["bin", "dev", "etc", "proc", "run", "sys", "tmp"] {
        fs::create_dir_all(rootfs.join(directory)).expect("a directory");
    }
    let bin = rootfs.join("bin");
    fs::copy("/usr/bin/busybox", bin.join("busybox")).expect("busybox-static is installed");
    for applet in APPLETS {
        symlink("busybox", bin.join(applet)).expect("an applet");
    }
    write_program(&bin.join("printenv"), PRINTENV);
}

/// conmon and the clean-up that it starts outlive the command that started them.
fn wait_for_helpers(dir: &Path) {
    let dir = dir.as_os_str().as_encoded_bytes();
    let is_ours = |process: fs::DirEntry| {
        let name = process.file_name();
        let is_process = name.as_encoded_bytes().iter().all(u8::is_ascii_digit);
        let command = fs::read(process.path().join("cmdline")).unwrap_or_default();
        is_process && command.windows(dir.len()).any(|part| part == dir)
    };
    for _ in 0..500 {
        let mut processes = fs::read_dir("/proc").expect("/proc").flatten();
        if !processes.any(is_ours) {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
}

fn unmount_below(dir: &Path) {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let points = mounts.lines().filter_map(|line| line.split(' ').nth(1));
    for point in points.filter(|point| Path::new(point).starts_with(dir)) {
        let _ = Command::new("umount").args(["--lazy", point]).status();
    }
}
