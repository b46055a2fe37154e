//! Who may touch the cache: psi-serve while it runs, else whoever takes the lock.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::cache::{self, Cache, Opening, v1};
use crate::client::Client;
use crate::config::Config;
use crate::error::{Kind, Result};
use crate::lock::Lock;
use crate::pkcs11::Pin;
use crate::protector::{Credential, Devices, Protector, Recovery};
use crate::systemd::Credentials;

/// How long a psi-serve that is starting or ending, or another psi-cachectl, is waited for.
const PATIENCE: Duration = Duration::from_secs(15);

/// The cache's owner.
pub enum Owner {
    /// A running psi-serve.
    Serve(Client),
    /// This process, as long as it has the lock.
    Us(Lock),
}

/// Finds psi-serve by the lock it holds, or takes the lock. The socket alone says nothing: systemd
/// may hold it, and would start psi-serve for the asking.
///
/// # Errors
/// [`Kind::Unreachable`] if the lock is held and psi-serve does not answer, [`Kind::Io`] if there
/// is no state directory.
pub async fn find(config: &Config) -> Result<Owner> {
    let start = Instant::now();
    let mut client = Client::of(config)?.with_patience(Duration::ZERO);
    loop {
        match cache::lock(&config.state_dir, Duration::ZERO) {
            Ok(lock) => return Ok(Owner::Us(lock)),
            Err(e) if e.kind() == Kind::Unreachable => {}
            Err(e) => return Err(e),
        }
        match client.status().await {
            Ok(_) => {
                client = client.with_patience(PATIENCE);
                return Ok(Owner::Serve(client));
            }
            Err(e) if e.kind() == Kind::Unreachable && start.elapsed() < PATIENCE => {}
            Err(e) => return Err(e),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Opens the cache for the holder of the lock, one of version 1 as psi-serve does; nothing if there
/// is no file.
///
/// # Errors
/// [`Kind::Unreachable`] if no slot opens it, [`Kind::Damaged`] if it is not what was saved.
pub fn open_cache(config: &Config, credential: Credential) -> Result<Option<Arc<Cache>>> {
    let protectors = devices(config, credential).to_open(Recovery::not_entered());
    match open(&config.cache.path, &protectors)? {
        Opening::Absent => Ok(None),
        Opening::Opened(cache, _) => Ok(Some(cache)),
        Opening::NoSlot(unopened) => Err(unopened.error()),
    }
}

/// [`open_cache`] with these, however it ends.
///
/// # Errors
/// As [`Cache::open`].
pub fn open(path: &Path, protectors: &[Box<dyn Protector>]) -> Result<Opening> {
    if let Some(carried_over) = v1::carry_over(path, protectors)? {
        tracing::info!("{carried_over}");
    }
    Cache::open(path, protectors)
}

/// What there is to open and to seal with.
pub fn devices(config: &Config, credential: Credential) -> Devices {
    let directory = credential.directory.clone();
    Devices::new(config, credential, |configured| {
        Pin::for_root_tool(Credentials { directory }, configured)
    })
}
