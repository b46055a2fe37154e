//! Tells which mapping files have changed, whichever process changes them: inotify(7).
//!
//! The kernel queues a change before the call that makes it returns. Whoever asks after that is told. It
//! does not tell of what another host does on a network's file system, nor of writes through a memory
//! mapping or another directory's hard link; nobody keeps mappings so.

use std::ffi::CStr;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};
use rustix::io::Errno;

/// Room for some hundred changes, in bytes; more of them are read in turn.
const ROOM: usize = 16 << 10;

/// Whatever makes another mapping of a file, or none.
const CHANGES: WatchFlags = WatchFlags::CREATE
    .union(WatchFlags::MODIFY)
    .union(WatchFlags::ATTRIB)
    .union(WatchFlags::MOVED_FROM)
    .union(WatchFlags::MOVED_TO)
    .union(WatchFlags::DELETE);

/// The changes of the files in one directory since it was started.
#[derive(Debug)]
pub struct Watch {
    queue: OwnedFd,
    room: Box<[MaybeUninit<u8>]>,
}

/// What has changed.
#[derive(Debug, PartialEq, Eq)]
pub enum Change<'a> {
    /// The file of that name.
    File(&'a CStr),
    /// Any of them may have: there were more changes than the kernel keeps.
    Any,
}

impl Watch {
    /// Starts with the directory as it is now.
    ///
    /// # Errors
    /// What the kernel says, e.g. that the user has as many watches as `fs.inotify.*` in sysctl(8) allows.
    pub(super) fn start(directory: &impl AsFd) -> io::Result<Self> {
        let queue = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        // The directory itself, whatever its name stands for by now.
        let path = format!("/proc/self/fd/{}", directory.as_fd().as_raw_fd());
        inotify::add_watch(&queue, path, CHANGES)?;
        Ok(Self {
            queue,
            room: vec![MaybeUninit::uninit(); ROOM].into(),
        })
    }

    /// Tells `tell` of each change since the last time.
    ///
    /// # Errors
    /// If it can't tell any more from now on: the directory is gone.
    pub fn changes(&mut self, mut tell: impl FnMut(Change<'_>)) -> io::Result<()> {
        let mut events = Reader::new(&self.queue, &mut self.room);
        loop {
            let event = match events.next() {
                Ok(event) => event,
                Err(Errno::AGAIN) => return Ok(()),
                Err(Errno::INTR) => continue,
                Err(e) => return Err(e.into()),
            };
            if event.events().contains(ReadFlags::IGNORED) {
                return Err(Errno::NOENT.into());
            }
            match event.file_name() {
                Some(name) => tell(Change::File(name)),
                None => tell(Change::Any),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};

    use super::*;

    fn told(watch: &mut Watch) -> Vec<String> {
        let mut told = Vec::new();
        let changes = watch.changes(|change| {
            told.push(match change {
                Change::File(name) => name.to_str().unwrap().to_owned(),
                Change::Any => "any".to_owned(),
            });
        });
        changes.unwrap();
        told.dedup();
        told
    }

    fn watched() -> (tempfile::TempDir, Watch) {
        let dir = tempfile::tempdir().unwrap();
        let watch = Watch::start(&File::open(dir.path()).unwrap()).unwrap();
        (dir, watch)
    }

    #[test]
    fn each_way_to_change_a_file_is_told_of() {
        let (dir, mut watch) = watched();
        let [a, b] = ["a", "b"].map(|name| dir.path().join(name));
        assert_eq!(told(&mut watch), [""; 0]);
        fs::write(&a, "1").unwrap();
        assert_eq!(told(&mut watch), ["a"], "made");
        fs::write(&a, "22").unwrap();
        assert_eq!(told(&mut watch), ["a"], "written");
        fs::rename(&a, &b).unwrap();
        assert_eq!(told(&mut watch), ["a", "b"], "renamed");
        fs::hard_link(&b, &a).unwrap();
        assert!(told(&mut watch).contains(&"a".to_owned()), "linked");
        fs::remove_file(&b).unwrap();
        assert!(told(&mut watch).contains(&"b".to_owned()), "removed");
        fs::read(&a).unwrap();
        assert_eq!(told(&mut watch), [""; 0], "read");
    }

    #[test]
    fn the_directory_is_watched_and_not_its_name() {
        let (dir, mut watch) = watched();
        let other = dir.path().with_extension("moved");
        fs::rename(dir.path(), &other).unwrap();
        fs::create_dir(dir.path()).unwrap();
        fs::write(dir.path().join("a"), "1").unwrap();
        assert_eq!(told(&mut watch), [""; 0]);
        fs::write(other.join("b"), "1").unwrap();
        assert_eq!(told(&mut watch), ["b"]);
        fs::remove_dir_all(other).unwrap();
    }

    #[test]
    fn more_changes_than_the_kernel_keeps_may_be_any() {
        let (dir, mut watch) = watched();
        let kept = fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").unwrap();
        let kept: usize = kept.trim().parse().unwrap();
        let [a, b] = ["a", "b"].map(|name| dir.path().join(name));
        for _ in 0..=kept / 2 {
            File::create(&a).unwrap();
            File::create(&b).unwrap();
        }
        assert_eq!(told(&mut watch).last().unwrap(), "any");
    }

    #[test]
    fn it_says_when_it_can_tell_no_more() {
        let (dir, mut watch) = watched();
        fs::remove_dir(dir.path()).unwrap();
        assert!(watch.changes(|_| {}).is_err());
    }
}
