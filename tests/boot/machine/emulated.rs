//! A machine with a processor in software: QEMU, with a TPM that its kernel drives.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use psi_test_support::wait;
use tempfile::TempDir;

use super::{BOOT, Inside, install_below, text, tied_to_us};
use crate::image;

/// Until a command that hangs fails the test.
const PATIENCE: Duration = Duration::from_secs(300);

/// Until a machine that boots is asked again.
const WHILE_IT_BOOTS: Duration = Duration::from_secs(60);

/// The recipe of the disk, the kernel and its initrd, from the image.
const DISKS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/boot/disk");

const KERNEL: &str =
    "console=ttyS0 quiet mitigations=off nokaslr random.trust_cpu=on systemd.show_status=no";

pub struct Emulated {
    files: TempDir,
    tpm: Child,
    process: Child,
    agent: Mutex<Agent>,
}

impl Emulated {
    pub fn start() -> Self {
        let files = tempfile::tempdir().expect("a temporary directory");
        let disks = disks();
        make_overlay(&disks.join("disk.img"), &files.path().join("disk.qcow2"));
        make_program_disk(&files.path().join("programs.img"));
        let tpm = start_tpm(files.path());
        let process = start_machine(&disks, files.path());
        let agent = Mutex::new(Agent::connect(&files.path().join("agent")));
        Self {
            files,
            tpm,
            process,
            agent,
        }
    }

    fn ask(&self, command: &[&str], input: &[u8], patience: Duration) -> Option<Output> {
        let mut agent = self.agent.lock().expect("the agent");
        agent.ask(command, input, patience)
    }
}

impl Inside for Emulated {
    fn enter(&self, command: &[&str], input: &[u8]) -> Output {
        self.ask(command, input, PATIENCE)
            .unwrap_or_else(|| panic!("no answer from {command:?}"))
    }

    fn try_enter(&mut self, command: &[&str]) -> Option<Output> {
        if let Some(ended) = self.process.try_wait().expect("its status") {
            let console = fs::read(self.files.path().join("console")).unwrap_or_default();
            panic!("no boot ({ended:?}): {}", text(&console));
        }
        self.ask(command, &[], WHILE_IT_BOOTS)
    }

    fn restart(&mut self) {
        let boot = ["cat", "/proc/sys/kernel/random/boot_id"];
        let before = self.enter(&boot, &[]).stdout;
        self.enter(&["systemctl", "reboot", "--no-block"], &[]);
        wait::until_within(BOOT, "another boot", || {
            self.try_enter(&boot)
                .is_some_and(|now| now.stdout != before)
        });
    }

    /// From the second disk, which was made so.
    fn install(&self, prefix: &str) {
        assert_eq!(prefix, "/usr");
        let copy = "mount -o ro /dev/vdb /mnt && cp -a /mnt/usr / && umount /mnt";
        let copied = self.enter(&["sh", "-c", copy], &[]);
        assert!(copied.status.success(), "{}", text(&copied.stderr));
    }
}

impl Drop for Emulated {
    fn drop(&mut self) {
        for process in [&mut self.process, &mut self.tpm] {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

/// What it boots from. It is read-only for those who use it.
fn disks() -> PathBuf {
    let image = image::directory();
    image::kept("boot-disks-", &[image::IMAGE, DISKS], |half_made| {
        Command::new(Path::new(DISKS).join("make"))
            .args([&image, half_made])
            .output()
            .expect("the recipe")
    })
}

/// What the machine writes; the image stays as it is.
fn make_overlay(disk: &Path, overlay: &Path) {
    succeed(
        Command::new("qemu-img")
            .args(["create", "-q", "-f", "qcow2", "-F", "raw", "-b"])
            .args([disk, overlay]),
    );
}

/// What `make install` puts in place, without what only a debugger reads.
fn make_program_disk(disk: &Path) {
    let tree = tempfile::tempdir().expect("a temporary directory");
    let root = tree.path().to_str().expect("a path of text");
    install_below(root, "/usr");
    for programs in ["usr/bin", "usr/local/bin"] {
        for program in fs::read_dir(tree.path().join(programs)).expect("programs") {
            succeed(Command::new("strip").arg(program.expect("a program").path()));
        }
    }
    succeed(
        Command::new("mke2fs")
            .args(["-q", "-t", "ext4", "-E", "root_owner=0:0", "-d", root])
            .arg(disk)
            .arg("256M"),
    );
}

fn start_tpm(files: &Path) -> Child {
    let state = files.join("tpm");
    fs::create_dir(&state).expect("the TPM's directory");
    let socket = files.join("tpm.socket");
    let tpm = tied_to_us("swtpm")
        .args(["socket", "--tpm2", "--tpmstate"])
        .arg(format!("dir={}", state.display()))
        .arg("--ctrl")
        .arg(format!("type=unixio,path={}", socket.display()))
        .stdin(Stdio::null())
        .spawn()
        .expect("swtpm is installed");
    wait::until("the TPM", || socket.exists());
    tpm
}

fn start_machine(disks: &Path, files: &Path) -> Child {
    let in_files = |name: &str| files.join(name).display().to_string();
    let console = fs::File::create(files.join("qemu")).expect("its output");
    let machine = tied_to_us("qemu-system-x86_64")
        .args(["-machine", "q35,vmport=off,hpet=off", "-cpu", "max"])
        .args(["-accel", "tcg,thread=multi,tb-size=512"])
        .args(["-smp", "2", "-m", "2048", "-display", "none"])
        .args(["-nodefaults", "-no-user-config"])
        .arg("-kernel")
        .arg(disks.join("vmlinuz"))
        .arg("-initrd")
        .arg(disks.join("initrd"))
        .args(["-append", KERNEL])
        .args(["-drive", &drive("qcow2", &in_files("disk.qcow2"))])
        .args(["-drive", &drive("raw", &in_files("programs.img"))])
        .args(["-device", "virtio-rng-pci", "-device", "virtio-serial-pci"])
        .args(["-chardev", &listening("agent", &in_files("agent"))])
        .args(["-device", "virtserialport,chardev=agent,name=agent"])
        .args(["-serial", &format!("file:{}", in_files("console"))])
        .args([
            "-chardev",
            &format!("socket,id=tpm,path={}", in_files("tpm.socket")),
        ])
        .args(["-tpmdev", "emulator,id=tpm,chardev=tpm"])
        .args(["-device", "tpm-tis,tpmdev=tpm"])
        .stdin(Stdio::null())
        .stdout(console.try_clone().expect("its output again"))
        .stderr(console)
        .spawn()
        .expect("QEMU is installed");
    wait::until("QEMU", || files.join("agent").exists());
    machine
}

fn drive(format: &str, file: &str) -> String {
    format!("file={file},format={format},if=virtio,cache=unsafe,discard=unmap")
}

fn listening(name: &str, path: &str) -> String {
    format!("socket,id={name},path={path},server=on,wait=off")
}

fn succeed(command: &mut Command) {
    let output = command.output().expect("the tool is installed");
    assert!(
        output.status.success(),
        "{command:?}: {}",
        text(&output.stderr)
    );
}

/// The program in the machine that runs commands for us: image/root/usr/local/libexec/agent says
/// what the lines are.
struct Agent {
    stream: BufReader<UnixStream>,
    asked: u64,
}

impl Agent {
    fn connect(path: &PathBuf) -> Self {
        // The socket has its name before QEMU listens.
        let mut stream = None;
        wait::until("QEMU that listens", || {
            stream = UnixStream::connect(path).ok();
            stream.is_some()
        });
        Self {
            stream: BufReader::new(stream.expect("it was waited for")),
            asked: 0,
        }
    }

    /// Nothing if there is no answer in time. An answer that comes later is passed over.
    fn ask(&mut self, command: &[&str], input: &[u8], patience: Duration) -> Option<Output> {
        self.asked += 1;
        let arguments: String = command.iter().flat_map(|a| [*a, "\0"]).collect();
        let line = [
            self.asked.to_string(),
            encode(arguments.as_bytes()),
            encode(input),
        ];
        let stream = self.stream.get_mut();
        stream.set_write_timeout(Some(patience)).expect("a time");
        writeln!(stream, "{}", line.join(" ")).ok()?;
        let until = Instant::now() + patience;
        loop {
            let line = self.line(until)?;
            if let Some(output) = answer(&line, self.asked) {
                return Some(output);
            }
        }
    }

    fn line(&mut self, until: Instant) -> Option<String> {
        let left = until.checked_duration_since(Instant::now())?;
        let stream = self.stream.get_ref();
        stream.set_read_timeout(Some(left)).ok()?;
        let mut line = String::new();
        self.stream.read_line(&mut line).ok()?;
        Some(line)
    }
}

fn answer(line: &str, asked: u64) -> Option<Output> {
    let mut words = line.trim_end_matches('\n').split(' ');
    let number: u64 = words.next()?.parse().ok()?;
    if number != asked {
        return None;
    }
    let code: i32 = words.next()?.parse().ok()?;
    let mut decoded = || BASE64.decode(words.next()?).ok();
    Some(Output {
        status: ExitStatus::from_raw(code << 8),
        stdout: decoded()?,
        stderr: decoded()?,
    })
}

/// As the agent reads it: a word is never empty.
fn encode(bytes: &[u8]) -> String {
    if bytes.is_empty() {
        return "-".into();
    }
    BASE64.encode(bytes)
}
