//! Where in the cache the value of an id lies, remembered until the id's mapping or the cache changes:
//! a lookup then reads no file and searches nothing.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tracing::info;

use crate::cache::{Extent, Saved};
use crate::mapping::{Change, Store, Watch};
use crate::secret::IdText;

/// The places of ids' values in what is served. It stays small: 100,000 ids take some 4 MiB.
pub struct Known(Mutex<Inner>);

struct Inner {
    /// Without it nothing is remembered.
    watch: Option<Watch>,
    /// In what was served before or is after it, values lie elsewhere.
    saved: Weak<Saved>,
    extents: HashMap<u128, Extent>,
}

impl Known {
    /// For the mappings in `store`.
    pub fn new(store: &Store) -> Self {
        Self(Mutex::new(Inner {
            watch: store.watch().inspect_err(say_unwatched).ok(),
            saved: Weak::new(),
            extents: HashMap::new(),
        }))
    }

    /// Where in `saved` the value of `id` lies. `find` reads the mapping and searches for it; it is asked
    /// if that is not known. A change of the mapping that was made before the call is seen.
    pub fn extent(
        &self,
        saved: &Arc<Saved>,
        id: IdText<'_>,
        find: impl FnOnce() -> Option<Extent>,
    ) -> Option<Extent> {
        // Held while `find` reads: nobody else is told meanwhile that the mapping has changed since.
        let mut inner = self.lock();
        if !inner.is_up_to_date() {
            drop(inner);
            return find();
        }
        inner.turn_to(saved);
        if let Some(extent) = inner.extents.get(&id.number()) {
            return Some(*extent);
        }
        let extent = find()?;
        inner.extents.insert(id.number(), extent);
        Some(extent)
    }

    /// Forgets all of it, and gives its memory back: the next lookup of each id reads its mapping again.
    pub fn clear(&self) {
        let mut inner = self.lock();
        inner.saved = Weak::new();
        inner.extents = HashMap::new();
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// It costs some microseconds a lookup, and nothing else.
fn say_unwatched(error: &io::Error) {
    info!(
        "changes of mappings can't be watched ({error}): each lookup reads its own; \
         `sysctl fs.inotify.max_user_instances` is how many watchers a user may have"
    );
}

impl Inner {
    /// Forgets what has changed. Says whether what is left is true.
    fn is_up_to_date(&mut self) -> bool {
        let Some(watch) = &mut self.watch else {
            return false;
        };
        let extents = &mut self.extents;
        let told = watch.changes(|change| match change {
            Change::Any => extents.clear(),
            // Other files than mappings change there, too.
            Change::File(name) => {
                if let Some(id) = name.to_str().ok().and_then(IdText::parse) {
                    extents.remove(&id.number());
                }
            }
        });
        if let Err(error) = &told {
            say_unwatched(error);
            self.watch = None;
            self.extents = HashMap::new();
        }
        told.is_ok()
    }

    fn turn_to(&mut self, saved: &Arc<Saved>) {
        if !std::ptr::eq(self.saved.as_ptr(), Arc::as_ptr(saved)) {
            // It is kept from being freed, so that nothing else can lie where it lay.
            self.saved = Arc::downgrade(saved);
            self.extents.clear();
        }
    }
}
