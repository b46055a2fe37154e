//! A journal for programs that find it where systemd's is: what they log natively is kept.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, IoSliceMut, Read, Seek, Write};
use std::mem::MaybeUninit;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

use crate::podman::write_program;
use crate::wait;

/// Larger than any datagram; what does not fit into one comes as a file.
const LARGEST: usize = 1 << 20;

/// An entry's fields by name.
pub type Entry = BTreeMap<String, String>;

/// A journal in a directory of its own. Programs see it at /run, and nothing of the host's /run.
pub struct Journal {
    dir: PathBuf,
    sender: UnixDatagram,
    received: Arc<Mutex<Received>>,
    reader: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Received {
    entries: Vec<Entry>,
    /// How many of them came as a file.
    files: usize,
    syncs: usize,
}

impl Journal {
    /// In the directory `dir`, which is made. Everything that comes is appended to the file
    /// `dir/received`, as it is.
    ///
    /// # Panics
    /// If it can't be made.
    pub fn new(dir: &Path) -> Self {
        let run = dir.join("run/systemd/journal");
        fs::create_dir_all(&run).expect("the journal's directory");
        let socket = run.join("socket");
        let listener = UnixDatagram::bind(&socket).expect("the journal's socket");
        let sender = UnixDatagram::unbound().expect("a socket");
        sender.connect(&socket).expect("the journal's socket");
        let copy = File::create(dir.join("received")).expect("the journal's file");
        let received = Arc::new(Mutex::new(Received::default()));
        let reader = {
            let received = Arc::clone(&received);
            std::thread::spawn(move || read(&listener, copy, &received))
        };
        Self {
            dir: dir.to_owned(),
            sender,
            received,
            reader: Some(reader),
        }
    }

    /// A program that is `program`, whose standard error is the journal as systemd would tell it.
    /// It has the process id that it was started with.
    ///
    /// # Panics
    /// If it can't be written.
    pub fn program(&self, program: &Path) -> PathBuf {
        let name = program.file_name().expect("a program").to_string_lossy();
        let path = self.dir.join(format!("{name}.journaled"));
        let script = format!(
            "#!/bin/sh\n\
             JOURNAL_STREAM=$(stat -L -c %d:%i /proc/self/fd/2)\n\
             export JOURNAL_STREAM\n\
             exec unshare --mount --propagation private /bin/sh -c \
             'mount --bind \"$0\" /run && exec \"$@\"' '{}' '{}' \"$@\"\n",
            self.dir.join("run").display(),
            program.display(),
        );
        write_program(&path, &script);
        path
    }

    /// All that programs have logged so far.
    pub fn entries(&self) -> Vec<Entry> {
        self.sync();
        self.received.lock().unwrap().entries.clone()
    }

    /// How many entries came as a file, since they were too large for a datagram.
    pub fn files(&self) -> usize {
        self.sync();
        self.received.lock().unwrap().files
    }

    /// The entries of one kind.
    pub fn of_event(&self, event: &str) -> Vec<Entry> {
        let mut entries = self.entries();
        entries.retain(|entry| entry.get("PSI_EVENT").is_some_and(|name| name == event));
        entries
    }

    /// Waits until all that was sent is kept.
    pub fn sync(&self) {
        let before = self.received.lock().unwrap().syncs;
        self.send(b"SYNC=\n");
        wait::until("the journal", || {
            self.received.lock().unwrap().syncs > before
        });
    }

    fn send(&self, text: &[u8]) {
        self.sender.send(text).expect("the journal");
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        self.send(b"END=\n");
        // A reader that has panicked has failed the test already.
        let _ = self.reader.take().map(JoinHandle::join);
    }
}

fn read(listener: &UnixDatagram, mut copy: File, received: &Mutex<Received>) {
    let mut buffer = vec![0; LARGEST];
    loop {
        let (text, is_file) = receive(listener, &mut buffer).expect("a datagram");
        copy.write_all(&text).expect("the journal's file");
        let entry = parse(&text);
        let mut received = received.lock().unwrap();
        match (entry.contains_key("SYNC"), entry.contains_key("END")) {
            (true, _) => received.syncs += 1,
            (_, true) => return,
            // A client sees by an empty one whether there is a journal.
            _ if entry.is_empty() => {}
            _ => {
                received.files += usize::from(is_file);
                received.entries.push(entry);
            }
        }
    }
}

/// One entry's text, and whether it came as a file, whose descriptor is then all that is sent.
fn receive(listener: &UnixDatagram, buffer: &mut [u8]) -> io::Result<(Vec<u8>, bool)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut parts = [IoSliceMut::new(buffer)];
    let message = recvmsg(listener, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC)?;
    for ancillary in control.drain() {
        if let RecvAncillaryMessage::ScmRights(descriptors) = ancillary {
            let mut text = Vec::new();
            for descriptor in descriptors {
                let mut file = File::from(descriptor);
                file.rewind()?;
                file.read_to_end(&mut text)?;
            }
            return Ok((text, true));
        }
    }
    Ok((buffer[..message.bytes].to_vec(), false))
}

/// The fields, see https://systemd.io/JOURNAL_NATIVE_PROTOCOL.
fn parse(mut text: &[u8]) -> Entry {
    let mut entry = Entry::new();
    while let Some(end) = text.iter().position(|b| *b == b'\n') {
        let line = String::from_utf8_lossy(&text[..end]).into_owned();
        text = &text[end + 1..];
        let (name, value) = match line.split_once('=') {
            Some((name, value)) => (name.to_owned(), value.to_owned()),
            None => {
                let (length, rest) = text.split_at(size_of::<u64>());
                let length = u64::from_le_bytes(length.try_into().expect("8 bytes"));
                let (value, rest) = rest.split_at(length.try_into().expect("a length"));
                text = &rest[1..];
                (line, String::from_utf8_lossy(value).into_owned())
            }
        };
        entry.insert(name, value);
    }
    entry
}
