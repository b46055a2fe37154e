//! What the kernel says of a process.

use std::fs;
use std::time::Duration;

use rustix::thread::{CpuSet, Pid, sched_getaffinity, sched_setaffinity};

/// The CPU time of the threads that the process has now, as /proc/PID/task/TID/schedstat counts it:
/// in nanoseconds, up to the last time that each stopped to wait.
pub fn cpu(pid: u32) -> Duration {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let time = |task: fs::DirEntry| {
        let text = fs::read_to_string(task.path().join("schedstat")).unwrap();
        text.split(' ').next().unwrap().parse::<u64>().unwrap()
    };
    Duration::from_nanos(tasks.map(|task| time(task.unwrap())).sum())
}

/// The processors that this thread may use.
pub fn processors() -> Vec<usize> {
    let set = sched_getaffinity(None).unwrap();
    (0..CpuSet::MAX_CPU).filter(|&n| set.is_set(n)).collect()
}

/// Has all threads that a process has now run on these processors only.
pub fn run_on(pid: u32, processors: &[usize]) {
    for task in fs::read_dir(format!("/proc/{pid}/task")).unwrap() {
        let name = task.unwrap().file_name();
        let thread = name.to_str().unwrap().parse().unwrap();
        set_processors(Pid::from_raw(thread), processors);
    }
}

/// The same of this thread.
pub fn run_here_on(processors: &[usize]) {
    set_processors(None, processors);
}

fn set_processors(thread: Option<Pid>, processors: &[usize]) {
    let mut set = CpuSet::new();
    for &processor in processors {
        set.set(processor);
    }
    sched_setaffinity(thread, &set).unwrap();
}

/// The memory of a process, in MiB, the program itself included.
pub struct Memory {
    pub resident: f64,
    /// The most that ever was.
    pub peak: f64,
}

/// `VmRSS` and `VmHWM` of /proc/PID/status.
pub fn memory(pid: u32) -> Memory {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let field = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        let kib = line.unwrap().trim().trim_end_matches(" kB");
        kib.parse::<f64>().unwrap() / 1024.0
    };
    Memory {
        resident: field("VmRSS:"),
        peak: field("VmHWM:"),
    }
}
