//! Which entry of the cache an id stands for, remembered: a lookup then costs one stat(2) of the
//! mapping's file, and no reading of it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use crate::cache::{Cache, EntryKey};
use crate::mapping::Stamp;
use crate::secret::{SecretId, SecretName};

/// The entries of ids in one cache. It stays small: 100,000 ids take some 9 MiB.
#[derive(Default)]
pub struct Known(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    /// Entries of another cache are named otherwise.
    cache: Weak<Cache>,
    entries: HashMap<u128, (Stamp, EntryKey)>,
}

impl Known {
    /// The entry in `cache` of the mapping called `name`, if its file is still as it was in `stamp`.
    pub fn get(&self, cache: &Arc<Cache>, name: &SecretName, stamp: Stamp) -> Option<EntryKey> {
        let inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !std::ptr::eq(inner.cache.as_ptr(), Arc::as_ptr(cache)) {
            return None;
        }
        let (of, key) = inner.entries.get(&packed(name)?)?;
        (*of == stamp).then_some(*key)
    }

    /// Forgets all of it, and gives its memory back: the next lookup of each id reads its mapping again.
    pub fn clear(&self) {
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        inner.entries = HashMap::new();
    }

    /// Remembers it, of an id. Names that were given by hand are few, and not remembered.
    pub fn note(&self, cache: &Arc<Cache>, name: &SecretName, stamp: Stamp, key: EntryKey) {
        let Some(id) = packed(name) else { return };
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !std::ptr::eq(inner.cache.as_ptr(), Arc::as_ptr(cache)) {
            // It is kept from being freed, so that no other cache can lie where it lay.
            inner.cache = Arc::downgrade(cache);
            inner.entries.clear();
        }
        inner.entries.insert(id, (stamp, key));
    }
}

/// An id's 25 hexadecimal digits as a number: no two ids have the same one.
fn packed(name: &SecretName) -> Option<u128> {
    let id = SecretId::parse(name.as_str()).ok()?;
    u128::from_str_radix(id.as_str(), 16).ok()
}
