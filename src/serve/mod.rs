//! psi-serve: answers lookups over a Unix socket and keeps the sealed cache.
//!
//! It accepts at once; lookups wait while the cache is being opened. It ends on SIGTERM, once
//! what is in flight is answered, and reads its configuration again on SIGHUP.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tracing::info;

use crate::cache;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::events;
use crate::heap;
use crate::mapping::{ProviderName, Store};
use crate::pkcs11::Pin;
use crate::protector::{Credential, Devices};
use crate::provider::Provider;
use crate::secret::SecretValue;
use crate::systemd::{self, Credentials};

mod access;
mod at_start;
mod carried;
mod connections;
mod http;
mod inventory;
mod known;
mod lookup;
mod names;
mod providers;
mod sealed;
mod socket;
mod status;
mod stuck;

pub use http::target_parts;

use access::Access;
use at_start::AtStart;
use connections::{Connections, Watch};
use lookup::Lookups;
use names::Names;
use providers::Providers;
use sealed::Sealed;
use socket::Sockets;
use status::Status;

/// How often the status line is brought up to date.
const STATUS_EVERY: Duration = Duration::from_secs(30);

/// How often systemd hears what a start waits for.
const PROGRESS_EVERY: Duration = Duration::from_secs(1);

/// How long systemd is to wait for the next word of a start.
const START_NEEDS: Duration = Duration::from_secs(15);

/// How long a psi-cachectl command may hold the state directory's lock before psi-serve gives up.
const LOCK_PATIENCE: Duration = Duration::from_secs(10);

/// How psi-serve gets what it does not have itself.
pub struct Environment {
    /// Reads the configuration, at the start and at each reload.
    pub load_config: Box<dyn Fn() -> Result<Config> + Send + Sync>,
    /// Opens a configured provider.
    pub open_provider: OpenProvider,
    /// What systemd delivered.
    pub credentials: Credentials,
}

/// Opens one of a configuration's providers.
pub type OpenProvider =
    Box<dyn Fn(&Config, ProviderName) -> Result<Box<dyn Provider>> + Send + Sync>;

/// Everything that a request needs.
pub struct Server {
    at_start: AtStart,
    store: Arc<Store>,
    sealed: Arc<Sealed>,
    lookups: Lookups,
    access: RwLock<Arc<Access>>,
    workloads: RwLock<Arc<Workloads>>,
    names: RwLock<Arc<Names>>,
}

/// The configured workloads of each provider.
type Workloads = BTreeMap<ProviderName, BTreeSet<String>>;

impl Server {
    fn new(config: &Config, environment: &Environment) -> Result<Self> {
        let store = Arc::new(Store::open(&config.state_dir)?);
        let credential = Credential::delivered(environment.credentials.directory.clone());
        let devices = Devices::new(config, credential, |configured| {
            Pin::delivered(environment.credentials.clone(), configured)
        });
        let sealed = Arc::new(Sealed::new(&config.cache, devices));
        let providers = open_providers(config, environment);
        Ok(Self {
            at_start: AtStart::of(config),
            lookups: Lookups::new(Arc::clone(&store), Arc::clone(&sealed), providers),
            access: RwLock::new(Arc::new(access(config, &environment.credentials)?)),
            workloads: RwLock::new(Arc::new(workloads(config))),
            names: RwLock::new(Arc::new(Names::new(config))),
            store,
            sealed,
        })
    }

    fn access(&self) -> Arc<Access> {
        Arc::clone(&self.access.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn workloads(&self) -> Arc<Workloads> {
        let workloads = self.workloads.read();
        Arc::clone(&workloads.unwrap_or_else(PoisonError::into_inner))
    }

    fn names(&self) -> Arc<Names> {
        Arc::clone(&self.names.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn status(&self) -> Status {
        Status::of(self)
    }

    /// Takes over what may change while it runs: providers, users, tokens. A cache that is closed
    /// is tried again.
    async fn reload(&self, environment: &Environment) -> Result<()> {
        let config = (environment.load_config)()?;
        let access_now = access(&config, &environment.credentials)?.replacing(&self.access());
        *self.access.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(access_now);
        let workloads_now = self.workloads.write();
        *workloads_now.unwrap_or_else(PoisonError::into_inner) = Arc::new(workloads(&config));
        let names_now = self.names.write();
        *names_now.unwrap_or_else(PoisonError::into_inner) = Arc::new(Names::new(&config));
        self.lookups
            .use_providers(open_providers(&config, environment));
        self.at_start.warn_if_others(&AtStart::of(&config));
        self.sealed.open().await;
        Ok(())
    }
}

fn workloads(config: &Config) -> Workloads {
    let mut workloads = Workloads::new();
    for (name, workload) in &config.workloads {
        let of_provider = workloads.entry(workload.provider).or_default();
        of_provider.insert(name.clone());
    }
    workloads
}

fn open_providers(config: &Config, environment: &Environment) -> Providers {
    let configured = ProviderName::ALL
        .into_iter()
        .filter(|name| config.providers.has(*name));
    Providers::open(configured, config.lookup_timeout, |name| {
        (environment.open_provider)(config, name)
    })
}

fn access(config: &Config, credentials: &Credentials) -> Result<Access> {
    let own_uid = rustix::process::geteuid().as_raw();
    let rules = |token| Access::new(own_uid, config.allowed_uids.clone(), token);
    let configured = || config.socket_token.as_ref().map(SecretValue::copy);
    Ok(match credentials.socket_token()? {
        Some(token) => rules(Some(token.current)).accepting(token.before),
        None => rules(configured()),
    })
}

/// Serves until SIGTERM or SIGINT.
///
/// # Errors
/// What keeps it from starting: another psi-serve, the state directory, the socket.
pub fn run(config: &Config, environment: &Environment) -> Result<()> {
    heap::keep_small();
    let failed = |e| Error::io("cannot start the event loop", e);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(failed)?;
    let outcome = runtime.block_on(serve(config, environment));
    // A device that hangs must not hold up the end.
    runtime.shutdown_timeout(Duration::from_secs(1));
    outcome
}

async fn serve(config: &Config, environment: &Environment) -> Result<()> {
    // First: process 1 of a container never sees a signal that it does not handle.
    let mut signals = Signals::new()?;
    let server = Arc::new(Server::new(config, environment)?);
    let _lock = cache::lock(&config.state_dir, LOCK_PATIENCE)?;
    let sockets = Sockets::take(&config.socket)?;
    let (stop, stopping) = watch::channel(false);
    let connections = Connections::accept(&sockets, &server, &stopping)?;
    let opening = {
        let server = Arc::clone(&server);
        tokio::spawn(async move { server.sealed.open().await })
    };
    let ready = {
        let server = Arc::clone(&server);
        tokio::spawn(async move { announce(&server).await })
    };
    let watchdog = tokio::spawn(watch_over(Arc::clone(&server), connections.watch()));
    let old_file = tokio::spawn(carried::watch_old_file(Arc::clone(&server)));
    let watch = stuck::watch(Arc::clone(&server.sealed), config.state_dir.clone());
    let mut stuck = tokio::spawn(watch);
    let end = loop {
        let reload = tokio::select! {
            event = signals.next() => match event {
                Event::Reload => reload(&server, environment),
                Event::Stop => break Ok(()),
            },
            why = &mut stuck => break Err(stuck::ended(why)),
        };
        // A device that hangs must not hold up the end.
        tokio::select! {
            () = reload => {}
            () = signals.stop() => break Ok(()),
            why = &mut stuck => break Err(stuck::ended(why)),
        }
    };
    stuck.abort();
    if end.is_ok()
        && let Some(progress) = server.sealed.progress()
    {
        events::START_CUT_SHORT.say(format_args!(
            "stopped while {progress}; next: if systemd did it since the start took too long, `systemctl edit \
             psi-secrets.service` with `TimeoutStartSec=180` under `[Service]`"
        ));
    }
    info!("stopping; what is in flight is answered first");
    systemd::notify_stopping();
    watchdog.abort();
    old_file.abort();
    stop.send_replace(true);
    connections.finish().await;
    opening.abort();
    ready.abort();
    end
}

async fn reload(server: &Server, environment: &Environment) {
    systemd::notify_reloading();
    match server.reload(environment).await {
        Ok(()) => info!("the configuration was read again"),
        Err(e) => {
            events::RELOAD_FAILED.say_why(
                e.kind(),
                format_args!(
                    "the configuration stays as it was: {e}; next: {}",
                    e.next_step().unwrap_or("correct it and reload again")
                ),
            );
        }
    }
    systemd::notify_ready(&server.status().line());
}

/// Tells systemd that it is ready, once lookups are no longer made to wait; until then, what they wait
/// for, and that it is not stuck.
async fn announce(server: &Server) {
    let settled = server.sealed.settled();
    tokio::pin!(settled);
    while tokio::time::timeout(PROGRESS_EVERY, &mut settled)
        .await
        .is_err()
    {
        if let Some(progress) = server.sealed.progress() {
            systemd::notify_starting(&progress, START_NEEDS);
        }
    }
    let status = server.status().line();
    info!("ready: {status}");
    systemd::notify_ready(&status);
}

/// Keeps systemd's watchdog and status line up to date, from the event loop, while the threads that
/// accept go on as well.
async fn watch_over(server: Arc<Server>, mut threads: Watch) {
    let mut ping = tokio::time::interval(systemd::watchdog_interval().unwrap_or(STATUS_EVERY));
    let mut last = String::new();
    loop {
        ping.tick().await;
        if systemd::watchdog_interval().is_some() && threads.all_go_on() {
            systemd::watchdog_ping();
        }
        let line = server.status().line();
        if line != last {
            systemd::notify_status(&line);
            last = line;
        }
    }
}

enum Event {
    Reload,
    Stop,
}

/// The signals that concern us. As process 1 of a container they work only because we ask.
struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
    hangup: tokio::signal::unix::Signal,
}

impl Signals {
    fn new() -> Result<Self> {
        let on = |kind| signal(kind).map_err(|e| Error::io("cannot handle signals", e));
        Ok(Self {
            terminate: on(SignalKind::terminate())?,
            interrupt: on(SignalKind::interrupt())?,
            hangup: on(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) -> Event {
        tokio::select! {
            _ = self.terminate.recv() => Event::Stop,
            _ = self.interrupt.recv() => Event::Stop,
            _ = self.hangup.recv() => Event::Reload,
        }
    }

    async fn stop(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
