//! The memory of a process that runs.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;

/// One mapping of a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// Its first address.
    pub start: u64,
    /// The address after its last one.
    pub end: u64,
    /// E.g. `rw-p`.
    pub access: String,
    /// The file's path, `[heap]` and the like, or nothing.
    pub name: String,
    /// Two letters each, see proc_pid_smaps(5).
    flags: Vec<String>,
    /// Bytes that are not those of a file.
    own: u64,
}

impl Mapping {
    /// Whether it is kept off the disk: locked and left out of core dumps, or out of reach for
    /// the kernel itself.
    pub fn is_protected(&self) -> bool {
        let has = |flag| self.flags.iter().any(|f| f == flag);
        self.name.contains("secretmem") || (has("lo") && has("dd"))
    }

    /// Whether it is in a core dump.
    pub fn is_dumped(&self) -> bool {
        !self.is_protected() && !self.flags.iter().any(|flag| flag == "dd")
    }
}

/// The mappings of the process `pid` that have bytes of its own in them.
pub fn mappings(pid: u32) -> Vec<Mapping> {
    let smaps = fs::read_to_string(format!("/proc/{pid}/smaps")).expect("its mappings");
    let mut mappings: Vec<Mapping> = Vec::new();
    for line in smaps.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        match (words[0], mappings.last_mut()) {
            ("VmFlags:", Some(mapping)) => {
                mapping.flags = words[1..].iter().map(|&flag| flag.to_owned()).collect();
            }
            ("Anonymous:", Some(mapping)) => {
                mapping.own = words[1].parse::<u64>().expect("kilobytes") << 10;
            }
            (word, _) if !word.ends_with(':') => mappings.push(head(&words)),
            _ => {}
        }
    }
    mappings.retain(|mapping| mapping.own > 0);
    mappings
}

/// E.g. `55d0-55d1 rw-p 00000000 00:00 0 [heap]`.
fn head(words: &[&str]) -> Mapping {
    let (start, end) = words[0].split_once('-').expect("a range");
    let address = |text| u64::from_str_radix(text, 16).expect("an address");
    Mapping {
        start: address(start),
        end: address(end),
        access: words[1].to_owned(),
        name: words.get(5).copied().unwrap_or_default().to_owned(),
        flags: Vec::new(),
        own: 0,
    }
}

/// What is in a mapping of the process `pid`; pages that can't be read are left out.
pub fn read(pid: u32, mapping: &Mapping) -> Vec<u8> {
    let memory = File::open(format!("/proc/{pid}/mem")).expect("root reads any memory");
    let mut bytes = vec![0; (mapping.end - mapping.start) as usize];
    if memory.read_exact_at(&mut bytes, mapping.start).is_err() {
        for (n, page) in bytes.chunks_mut(4096).enumerate() {
            let _ = memory.read_exact_at(page, mapping.start + 4096 * n as u64);
        }
    }
    bytes
}
