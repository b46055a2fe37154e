//! The thread that owns a token's session.
//!
//! It lives as long as the process: a module may have tied things to it that must not be undone while
//! others still use them, and what was loaded is never unloaded.

use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use crate::error::{Error, Kind, Result};
use crate::pkcs11::Settings;
use crate::pkcs11::session::Seat;

/// One thing to do with a token.
pub type Job = Box<dyn FnOnce(&mut Seat) + Send>;

/// How long a module may still work when the process wants to end.
const PATIENCE_AT_END: Duration = Duration::from_secs(1);

/// Every owner that this process has had.
static ALL: Mutex<Vec<(Settings, Arc<Owner>)>> = Mutex::new(Vec::new());

/// Where to send what a token is to do. Its thread starts with the first of it.
#[derive(Default)]
pub struct Owner {
    jobs: OnceLock<mpsc::Sender<Job>>,
    busy_since: Mutex<Option<Instant>>,
}

impl fmt::Debug for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Owner(..)")
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Owner {
    /// The one for this key on this token; another PIN makes no other owner.
    pub fn of(settings: &Settings) -> Arc<Self> {
        let mut all = locked(&ALL);
        let known = all.iter().find(|(other, _)| other.same_place(settings));
        if let Some((_, owner)) = known {
            return Arc::clone(owner);
        }
        let owner = Arc::new(Self::default());
        all.push((settings.clone(), Arc::clone(&owner)));
        owner
    }

    /// Has `job` done after those before it.
    ///
    /// # Errors
    /// [`Kind::Internal`] if there can be no thread for it, or if it broke off earlier.
    pub fn ask(self: &Arc<Self>, job: Job) -> Result<()> {
        let broken = || {
            Error::new(Kind::Internal, "the thread of a PKCS#11 token broke off")
                .hint("`systemctl restart psi-secrets.service` starts it anew; please report it")
        };
        let jobs = match self.jobs.get() {
            Some(jobs) => jobs,
            None => {
                let jobs = self.start()?;
                self.jobs.get_or_init(|| jobs)
            }
        };
        jobs.send(job).map_err(|_| broken())
    }

    fn start(self: &Arc<Self>) -> Result<mpsc::Sender<Job>> {
        let (sender, jobs) = mpsc::channel::<Job>();
        let owner = Arc::clone(self);
        let run = move || {
            let mut seat = Seat::default();
            for job in jobs {
                *locked(&owner.busy_since) = Some(Instant::now());
                job(&mut seat);
                *locked(&owner.busy_since) = None;
            }
        };
        let started = thread::Builder::new().name("pkcs11".to_owned()).spawn(run);
        started.map_err(|e| Error::io("cannot start a thread for the PKCS#11 token", e))?;
        Ok(sender)
    }

    fn busy_for(&self) -> Option<Duration> {
        locked(&self.busy_since).map(|since| since.elapsed())
    }

    /// Has the thread end its session. What is returned hears when it has.
    fn retire(&self) -> Option<mpsc::Receiver<()>> {
        let (done, is_done) = mpsc::sync_channel(1);
        let close: Job = Box::new(move |seat| {
            seat.close();
            let _ = done.send(());
        });
        self.jobs.get()?.send(close).ok().map(|()| is_done)
    }
}

/// A module at work.
#[derive(Clone, Debug)]
pub struct Stuck {
    /// Its library.
    pub module: PathBuf,
    /// How long what it does now has taken.
    pub lasts: Duration,
}

/// The module that has been longest at what it does now; nothing if none is at work.
pub fn stuck() -> Option<Stuck> {
    let all = locked(&ALL);
    let at_work = all.iter().filter_map(|(settings, owner)| {
        let (module, lasts) = (settings.module.clone(), owner.busy_for()?);
        Some(Stuck { module, lasts })
    });
    at_work.max_by_key(|stuck| stuck.lasts)
}

/// Ends the sessions before the process ends with `status`. If a module does not come back, the process
/// ends here: at an orderly end, what the module uses would be cleared away under it.
pub fn leave(status: u8) {
    let retiring: Vec<_> = {
        let all = locked(&ALL);
        all.iter().filter_map(|(_, owner)| owner.retire()).collect()
    };
    let until = Instant::now() + PATIENCE_AT_END;
    for is_done in retiring {
        let patience = until.saturating_duration_since(Instant::now());
        if is_done.recv_timeout(patience) == Err(mpsc::RecvTimeoutError::Timeout) {
            end_at_once(status);
        }
    }
}

#[allow(
    unsafe_code,
    reason = "the standard library has no way to end a process without its exit handlers"
)]
fn end_at_once(status: u8) {
    // SAFETY: it does not return, and everything that this process says has been written by now.
    unsafe { libc::_exit(status.into()) }
}
