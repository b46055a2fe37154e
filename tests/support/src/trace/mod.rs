//! What a program was started with and what it wrote where, as strace saw it.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};

use crate::podman::write_program;
use crate::wait;

mod line;

use line::{Token, between, descriptor, inode, peer_port, resumed, tokens};

/// Every call that starts a program, by which bytes leave one, or that forbids core dumps.
const CALLS: &str = "execve,execveat,write,writev,pwrite64,pwritev,pwritev2,\
    sendto,sendmsg,sendmmsg,connect,accept,accept4,prctl";

/// Longest text that is kept of a call, in bytes: more than any of PSI's programs writes at once.
const LONGEST: usize = 1 << 20;

/// Traces of programs, in a directory.
#[derive(Debug)]
pub struct Traces {
    dir: PathBuf,
}

impl Traces {
    /// Into the directory `dir`, which is made.
    pub fn new(dir: &Path) -> Self {
        fs::create_dir(dir).expect("a directory");
        Self { dir: dir.into() }
    }

    /// A program that is `program`, traced with all of its children, and dumps its core into
    /// `cores`. It has the process id that it was started with. Its processes are `called` in
    /// [`Traces::read`].
    pub fn program(&self, called: &str, program: &Path, cores: &Path) -> PathBuf {
        let path = self.dir.join(format!("{called}.sh"));
        let script = format!(
            "#!/bin/sh\n\
             ulimit -c unlimited\n\
             cd '{}' || exit 1\n\
             exec strace -D -f -v -yy --quiet=attach -s {LONGEST} -e trace={CALLS} \
             -o '{}'.$$ '{}' \"$@\"\n",
            cores.display(),
            self.dir.join(called).display(),
            program.display(),
        );
        write_program(&path, &script);
        path
    }

    /// Whether `path` is a trace, which has everything in it.
    pub fn has(&self, path: &Path) -> bool {
        path.starts_with(&self.dir)
    }

    /// All processes so far. They must have ended, or will soon.
    pub fn read(&self) -> Vec<Traced> {
        let files = self.files();
        files.iter().for_each(|path| wait_for_end(path));
        files.iter().map(|path| Traced::read(path)).collect()
    }

    /// All processes so far, with what they wrote up to now.
    pub fn read_so_far(&self) -> Vec<Traced> {
        self.files().iter().map(|path| Traced::read(path)).collect()
    }

    fn files(&self) -> Vec<PathBuf> {
        let files = fs::read_dir(&self.dir).expect("the traces");
        let paths = files.map(|file| file.expect("a trace").path());
        let traces = paths.filter(|path| path.extension().is_some_and(|e| e != "sh"));
        traces.collect()
    }
}

/// One program that ran, with its children.
#[derive(Debug)]
pub struct Traced {
    /// As the test calls it.
    pub called: String,
    /// The id of its first process.
    pub pid: u32,
    /// Whether it told the kernel to make no core dumps of it.
    pub forbids_dumps: bool,
    /// Every argument of every program that it was or started.
    pub arguments: Vec<u8>,
    /// Every variable of these.
    pub environment: Vec<u8>,
    /// All that was written, by where it went.
    pub written: BTreeMap<Target, Vec<u8>>,
}

/// Where bytes went.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Target {
    /// A file, by its path.
    File(PathBuf),
    /// One connection of a Unix socket that is bound to that path.
    Unix {
        /// The path.
        path: PathBuf,
        /// Which connection.
        inode: String,
    },
    /// A TCP port.
    Port(u16),
    /// The standard error output, if it is a pipe.
    Stderr,
    /// Any other pipe.
    Pipe,
    /// Anything else, as strace calls it.
    Other(String),
}

impl Traced {
    fn read(path: &Path) -> Self {
        let called = path.file_stem().expect("a name").to_string_lossy();
        let text = fs::read_to_string(path).expect("a trace is ASCII");
        let pid = path.extension().and_then(|pid| pid.to_str()?.parse().ok());
        let mut reader = Reader::new(called.into_owned(), pid.expect("a process id"));
        text.lines().for_each(|line| reader.line(line));
        reader.end()
    }
}

/// The last line of a trace tells how its first process ended.
fn wait_for_end(path: &Path) {
    let pid = path.extension().expect("a process id").to_string_lossy();
    let line = format!("\n{pid} ");
    wait::until(&format!("end of {}", path.display()), || {
        let text = fs::read_to_string(path).expect("a trace is ASCII");
        let last = text.rfind(&line).map(|at| &text[at + line.len()..]);
        last.is_some_and(|rest| rest.trim_start().starts_with("+++") && rest.ends_with('\n'))
    });
}

struct Reader {
    traced: Traced,
    /// The first half of each thread's call that another one's came into, by the thread's id.
    unfinished: HashMap<String, String>,
    /// Where each socket leads, by its inode: strace knows that only while both ends are there.
    sockets: HashMap<String, Target>,
    /// The pipe that is the standard error output.
    stderr: Option<String>,
}

impl Reader {
    fn new(called: String, pid: u32) -> Self {
        Self {
            traced: Traced {
                called,
                pid,
                forbids_dumps: false,
                arguments: Vec::new(),
                environment: Vec::new(),
                written: BTreeMap::new(),
            },
            unfinished: HashMap::new(),
            sockets: HashMap::new(),
            stderr: None,
        }
    }

    fn line(&mut self, line: &str) {
        let (thread, call) = line.split_once(' ').unwrap_or_default();
        let call = call.trim_start();
        if let Some(first) = call.strip_suffix(" <unfinished ...>") {
            self.unfinished.insert(thread.to_owned(), first.to_owned());
        } else if let Some(second) = resumed(call) {
            let first = self.unfinished.remove(thread).unwrap_or_default();
            self.call(&(first + second));
        } else {
            self.call(call);
        }
    }

    /// A call that has not returned may have written what it was to write.
    fn end(mut self) -> Traced {
        for call in std::mem::take(&mut self.unfinished).into_values() {
            self.call(&call);
        }
        self.traced
    }

    fn call(&mut self, call: &str) {
        let Some((name, arguments)) = call.split_once('(') else {
            return;
        };
        match name {
            "execve" | "execveat" => self.exec(arguments),
            "connect" => self.connect(arguments),
            "accept" | "accept4" => self.accept(arguments),
            "prctl" if arguments.starts_with("PR_SET_DUMPABLE, SUID_DUMP_DISABLE") => {
                self.traced.forbids_dumps = true;
            }
            _ if name.bytes().all(|b| b.is_ascii_alphanumeric()) => self.write(arguments),
            _ => {}
        }
    }

    fn exec(&mut self, arguments: &str) {
        let mut list = 0;
        for token in tokens(arguments) {
            match token {
                Token::Text(text) if list < 2 => push(&mut self.traced.arguments, &text),
                Token::Text(text) => push(&mut self.traced.environment, &text),
                Token::Other('[') => list += 1,
                Token::Other(_) => {}
            }
        }
    }

    fn connect(&mut self, arguments: &str) {
        let Some((_, description)) = descriptor(arguments) else {
            return;
        };
        let port = between(arguments, "sin_port=htons(", ")").and_then(|port| port.parse().ok());
        let path = between(arguments, "sun_path=\"", "\"");
        let target = match (port, path) {
            (Some(port), _) => Target::Port(port),
            (_, Some(path)) => unix(path, inode(description)),
            _ => return,
        };
        self.sockets.insert(inode(description).to_owned(), target);
    }

    /// The new socket is told of as the result.
    fn accept(&mut self, arguments: &str) {
        let result = arguments.rsplit_once(" = ").map(|(_, result)| result);
        if let Some((_, description)) = result.and_then(descriptor)
            && let Some(path) = between(description, "\"", "\"")
        {
            let target = unix(path, inode(description));
            self.sockets.insert(inode(description).to_owned(), target);
        }
    }

    fn write(&mut self, arguments: &str) {
        let Some((number, description)) = descriptor(arguments) else {
            return;
        };
        if number == "2" && description.starts_with("pipe:") {
            self.stderr = Some(description.to_owned());
        }
        let target = self.target(description);
        let written = self.traced.written.entry(target).or_default();
        for token in tokens(&arguments[number.len() + description.len()..]) {
            if let Token::Text(text) = token {
                written.extend(text);
            }
        }
    }

    fn target(&self, description: &str) -> Target {
        let known = || self.sockets.get(inode(description)).cloned();
        let other = || Target::Other(description.to_owned());
        match description.split_once(':') {
            Some(("TCP" | "TCPv6", _)) => known()
                .or_else(|| Some(Target::Port(peer_port(description)?)))
                .unwrap_or_else(other),
            Some(("UNIX-STREAM" | "UNIX-DGRAM" | "socket", _)) => known().unwrap_or_else(other),
            Some(("pipe", _)) if self.stderr.as_deref() == Some(description) => Target::Stderr,
            Some(("pipe", _)) => Target::Pipe,
            _ if description.starts_with('/') => Target::File(description.into()),
            _ => other(),
        }
    }
}

fn push(texts: &mut Vec<u8>, text: &[u8]) {
    texts.extend(text);
    texts.push(0);
}

fn unix(path: &str, inode: &str) -> Target {
    Target::Unix {
        path: path.into(),
        inode: inode.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::net::TcpListener;
    use std::os::unix::net::UnixListener;
    use std::process::{Command, Stdio};

    fn run(dir: &Path, program: &str, arguments: &[&str]) -> Traced {
        let traces = Traces::new(&dir.join("traces"));
        let traced = traces.program("it", Path::new(program), dir);
        let mut command = Command::new(traced);
        command.env_clear().env("PATH", "/usr/bin:/bin");
        command.env("A_VARIABLE", "its \"value\"");
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command.args(arguments).output().unwrap();
        traces.read().remove(0)
    }

    #[test]
    fn what_is_written_is_told_by_where_it_goes() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let script = format!(
            "printf 'a\"\\\\\\001\\0012\\351' >'{}'; echo out; cat /nowhere; \
             exec 3<>/dev/tcp/127.0.0.1/{port}; echo tcp >&3",
            file.display()
        );
        let traced = run(dir.path(), "/bin/bash", &["-c", &script]);
        let written = |target| traced.written.get(&target).map(Vec::as_slice);
        assert_eq!(
            written(Target::File(file.clone())),
            Some(&b"a\"\\\x01\x012\xe9"[..])
        );
        assert_eq!(fs::read(file).unwrap(), b"a\"\\\x01\x012\xe9");
        assert_eq!(written(Target::Pipe), Some(&b"out\n"[..]), "{traced:?}");
        assert!(written(Target::Stderr).is_some_and(|said| said.ends_with(b"file or directory\n")));
        assert_eq!(written(Target::Port(port)), Some(&b"tcp\n"[..]));
    }

    #[test]
    fn a_unix_socket_has_its_path() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let listener = UnixListener::bind(&path).unwrap();
        let reader = std::thread::spawn(move || {
            let mut text = String::new();
            let (mut stream, _) = listener.accept().unwrap();
            stream.read_to_string(&mut text).unwrap();
            text
        });
        let script = format!(
            "use Socket; socket(S, AF_UNIX, SOCK_STREAM, 0); \
             connect(S, sockaddr_un('{}')); send(S, 'unix', 0)",
            path.display()
        );
        let traced = run(dir.path(), "/usr/bin/perl", &["-e", &script]);
        assert_eq!(reader.join().unwrap(), "unix");
        let is_it = |target: &&Target| matches!(target, Target::Unix { path: p, .. } if *p == path);
        let target = traced.written.keys().find(is_it).unwrap();
        assert_eq!(traced.written[target], b"unix");
    }

    #[test]
    fn calls_of_threads_that_interrupt_each_other_are_put_together() {
        let mut reader = Reader::new("it".into(), 1);
        for line in [
            r#"2  accept4(3<UNIX-STREAM:[7,"/s"]>,  <unfinished ...>"#,
            r#"1  write(1<pipe:[5]>, "a", 1 <unfinished ...>"#,
            r#"2  <... accept4 resumed>NULL, NULL, SOCK_CLOEXEC) = 4<UNIX-STREAM:[8->9,"/s"]>"#,
            r#"1  <... write resumed>)             = 1"#,
            r#"2  writev(4<UNIX-STREAM:[8]>, [{iov_base="b", iov_len=1}], 1) = 1"#,
            r#"1  write(1<pipe:[5]>, "c", 1 <unfinished ...>"#,
        ] {
            reader.line(line);
        }
        let written = reader.end().written;
        assert_eq!(written[&unix("/s", "8")], b"b");
        assert_eq!(written[&Target::Pipe], b"ac");
    }

    #[test]
    fn arguments_and_variables_are_those_of_the_children_too() {
        let dir = tempfile::tempdir().unwrap();
        let traced = run(dir.path(), "/bin/sh", &["-c", "B=c /bin/echo 'a \"b\"'; :"]);
        let has = |texts: &[u8], text: &[u8]| texts.split(|b| *b == 0).any(|t| t == text);
        assert!(has(&traced.arguments, b"a \"b\""), "{traced:?}");
        assert!(has(&traced.environment, b"B=c"));
        assert!(has(&traced.environment, b"A_VARIABLE=its \"value\""));
        assert!(!has(&traced.arguments, b"B=c"));
    }
}
