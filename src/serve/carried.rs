//! A cache of version 1: carried over when it is opened, and what becomes of it afterwards.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tracing::info;

use crate::cache::{Cache, Keyslot, Opening, v1};
use crate::error::Result;
use crate::events;
use crate::mapping::ProviderName;
use crate::protector::Protector;
use crate::serve::Server;
use crate::wire::HandedOver;

/// How often it is looked whether the old file's time is up.
const LOOK_EVERY: Duration = Duration::from_secs(3600);

/// Opens the cache at `path`, telling `tries` of each slot; one of version 1 is carried over first.
pub fn open(
    path: &Path,
    protectors: &[Box<dyn Protector>],
    tries: impl Fn(&Keyslot),
) -> Result<Opening> {
    if let Some(carried_over) = v1::carry_over(path, protectors)? {
        info!("{carried_over}");
    }
    let opening = Cache::open_watched(path, protectors, tries)?;
    if let Opening::Opened(cache, _) = &opening {
        report_old_file(cache.let_go_of_version_1(true));
    }
    Ok(opening)
}

fn report_old_file(removed: Result<Option<PathBuf>>) {
    match removed {
        Ok(Some(path)) => info!(
            "the old cache of version 1, {}, was removed",
            path.display()
        ),
        Ok(None) => {}
        Err(e) => {
            events::OLD_CACHE_KEPT.say(format_args!("the old cache of version 1 is kept: {e}"));
        }
    }
}

impl Server {
    /// After a hand-over: lets go of carried values that nothing names, if the provider has said
    /// all it has. What can't be done now is done after the next one.
    pub(super) async fn settle_carried(&self, provider: ProviderName, handed_over: &HandedOver) {
        let is_complete = {
            let workloads = self.workloads();
            let mut expected = workloads.get(&provider).into_iter().flatten();
            expected.all(|name| handed_over.workloads.contains_key(name))
        };
        if !is_complete {
            return;
        }
        let store = Arc::clone(&self.store);
        let settle = move |cache: &Cache| match cache.has_carried()? {
            true => cache.settle_carried(&store.mappings()?),
            false => Ok(0),
        };
        match self.sealed.if_open(settle).await {
            Ok(None | Some(0)) => {}
            Ok(Some(dropped)) => info!(
                "{dropped} values of the old cache of version 1 were dropped: no mapping names them"
            ),
            Err(e) => events::OLD_CACHE_KEPT.say(format_args!(
                "the values of the old cache of version 1 are all kept: {e}"
            )),
        }
    }
}

/// Removes the old file when its time is up, however long no provider answers.
pub async fn watch_old_file(server: Arc<Server>) {
    let mut look = tokio::time::interval(LOOK_EVERY);
    loop {
        look.tick().await;
        // Where there is none, nothing needs to be waited for, a device least of all.
        if matches!(v1::kept(server.sealed.path()), Ok(None)) {
            continue;
        }
        let removed = server
            .sealed
            .if_open(|cache| cache.let_go_of_version_1(false));
        report_old_file(removed.await.map(Option::flatten));
    }
}
