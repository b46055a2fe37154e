//! A crash at any step of a change of slots: the cache opens, by the old slots or the new ones, and
//! no value is lost.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use psi::cache::{Cache, Opening};
use psi::protector::Recovery;

use crate::fixture::{
    CACHECTL, INIT, INIT_HSM, INIT_HSM_RECOVERY, INIT_RECOVERY, Machine, SEALED, mapping,
};

/// The calls by which a change reaches anything outside of the process: files, and the TPM.
const STEPS: &str =
    "write,writev,sendto,sendmsg,fsync,fchmod,fchown,renameat,renameat2,linkat,unlinkat";

/// More than a change has.
const MOST_STEPS: usize = 200;

/// Runs psi-cachectl and kills it when it is about to take step `n`. Says whether it was killed.
fn killed_at(m: &Machine, arguments: &[&str], n: usize) -> bool {
    let mut command = m.host.command("strace");
    command.args(["--quiet=all", "-f", "-o", "/dev/null"]);
    command.arg(format!("--trace={STEPS}"));
    command.arg(format!("--inject={STEPS}:signal=KILL:when={n}"));
    command.arg(CACHECTL).args(arguments);
    let output = command.output().unwrap();
    // A software TPM keeps what a client left that was killed.
    m.tpm.flush();
    let finished = output.status.success();
    assert!(
        finished || output.status.code().is_none_or(|code| code == 137),
        "{output:?}"
    );
    !finished
}

/// The value in the cache at `path`, and the number of the slot that opens it.
#[track_caller]
pub fn contents(m: &Machine, path: &Path) -> (Option<Vec<u8>>, u32) {
    let protectors = m.devices().to_open(Recovery::not_entered());
    match Cache::open(path, &protectors).unwrap() {
        Opening::Opened(cache, attempts) => {
            let key = cache.keyer().entry_key(&mapping());
            let value = cache.current().table.get(&key).map(<[u8]>::to_vec);
            (value, attempts.last().unwrap().slot)
        }
        Opening::NoSlot(unopened) => unreachable!("{}", unopened.error()),
        Opening::Absent => unreachable!("{} is gone", path.display()),
    }
}

/// Kills `change` at each of its steps, from the same start every time. The value is there after
/// each, and `outcomes` numbers of slots are seen on disk: the old, and once it is done the new.
fn crash_everywhere(init: &[&str], change: &[&str], outcomes: [usize; 2]) {
    crash_everywhere_on(&Machine::new(), init, change, outcomes);
}

fn crash_everywhere_on(m: &Machine, init: &[&str], change: &[&str], outcomes: [usize; 2]) {
    m.filled(init);
    let start = m.cache_bytes();
    let mut seen = BTreeSet::new();
    let mut killed = 0;
    for step in 1..MOST_STEPS {
        fs::write(m.host.cache_file(), &start).unwrap();
        let was_killed = killed_at(m, change, step);
        let (value, _) = contents(m, &m.host.cache_file());
        assert_eq!(value.as_deref(), Some(SEALED.as_bytes()), "step {step}");
        let changed = m.cache_bytes() != start;
        seen.insert((changed, m.slots().len()));
        if !was_killed {
            break;
        }
        killed += 1;
    }
    assert!((5..MOST_STEPS - 1).contains(&killed), "{killed} steps");
    let [old, new] = outcomes;
    assert_eq!(seen, BTreeSet::from([(false, old), (true, new)]));
    let left = fs::read_dir(m.host.state_dir()).unwrap();
    let left: BTreeSet<_> = left.map(|entry| entry.unwrap().file_name()).collect();
    assert!(
        !left.contains(std::ffi::OsStr::new(".cache.enc.new")),
        "{left:?}"
    );
}

#[test]
fn a_crash_at_any_step_of_an_added_slot_loses_nothing() {
    crash_everywhere(&INIT, &["slots", "add", "recovery"], [1, 2]);
    crash_everywhere(&INIT, &["slots", "add", "tpm2"], [1, 2]);
}

#[test]
fn a_crash_at_any_step_of_a_removed_slot_loses_nothing() {
    crash_everywhere(&INIT_RECOVERY, &["slots", "remove", "2"], [2, 1]);
}

#[test]
fn a_crash_at_any_step_of_a_resealed_slot_loses_nothing() {
    crash_everywhere(&INIT, &["slots", "reseal", "1"], [1, 1]);
}

#[test]
fn a_crash_at_any_step_of_a_changed_token_slot_loses_nothing() {
    let machine = || Machine::with_token("hsm");
    let changes: [(&[&str], &[&str], [usize; 2]); 3] = [
        (&INIT_HSM, &["slots", "add", "pkcs11"], [1, 2]),
        (&INIT_HSM, &["slots", "reseal", "1"], [1, 1]),
        (&INIT_HSM_RECOVERY, &["slots", "remove", "2"], [2, 1]),
    ];
    for (init, change, outcomes) in changes {
        crash_everywhere_on(&machine(), init, change, outcomes);
    }
}

#[test]
fn a_crash_at_any_step_of_init_leaves_no_cache_or_one_that_opens() {
    let m = Machine::new();
    let mut made = BTreeSet::new();
    for step in 1..MOST_STEPS {
        let _ = fs::remove_file(m.host.cache_file());
        let was_killed = killed_at(&m, &INIT, step);
        made.insert(m.host.cache_file().exists());
        if m.host.cache_file().exists() {
            assert_eq!(contents(&m, &m.host.cache_file()), (None, 1));
        }
        if !was_killed {
            break;
        }
    }
    assert_eq!(made, BTreeSet::from([false, true]));
    m.run(&INIT).ended(1).says(&["exists already"]);
}

#[test]
fn a_crash_at_any_step_of_a_forced_init_leaves_the_old_cache_somewhere() {
    let m = Machine::new();
    m.filled(&INIT);
    let old = m.cache_bytes();
    let force = ["init", "--backend", "tpm", "--force"];
    let mut replaced = BTreeSet::new();
    for step in 1..MOST_STEPS {
        fs::write(m.host.cache_file(), &old).unwrap();
        m.aside()
            .iter()
            .for_each(|file| fs::remove_file(file).unwrap());
        let was_killed = killed_at(&m, &force, step);
        let is_replaced = m.cache_bytes() != old;
        replaced.insert(is_replaced);
        let (value, _) = contents(&m, &m.host.cache_file());
        if is_replaced {
            assert_eq!(value, None, "step {step}: a new cache is empty");
            assert_eq!(fs::read(&m.aside()[0]).unwrap(), old, "step {step}");
        }
        if !was_killed {
            break;
        }
    }
    assert_eq!(replaced, BTreeSet::from([false, true]));
}
