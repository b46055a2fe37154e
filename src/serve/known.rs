//! Where in the cache the value lies that an id stands for, remembered: a lookup then costs one
//! stat(2) of the mapping's file, and neither reading that nor a search.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use crate::cache::{Extent, Saved};
use crate::mapping::Stamp;
use crate::secret::IdText;

/// The places of ids' values in what is served. It stays small: 100,000 ids take some 6 MiB.
#[derive(Default)]
pub struct Known(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    /// In what was served before or is after it, values lie elsewhere.
    saved: Weak<Saved>,
    extents: HashMap<u128, (Stamp, Extent)>,
}

impl Known {
    /// Where in `saved` the value lies that `id` stands for, if its mapping's file is still as it was in
    /// `stamp`.
    pub fn get(&self, saved: &Arc<Saved>, id: IdText<'_>, stamp: Stamp) -> Option<Extent> {
        let inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !std::ptr::eq(inner.saved.as_ptr(), Arc::as_ptr(saved)) {
            return None;
        }
        let (of, extent) = inner.extents.get(&id.number())?;
        (*of == stamp).then_some(*extent)
    }

    /// Forgets all of it, and gives its memory back: the next lookup of each id reads its mapping again.
    pub fn clear(&self) {
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *inner = Inner::default();
    }

    /// Remembers it.
    pub fn note(&self, saved: &Arc<Saved>, id: IdText<'_>, stamp: Stamp, extent: Extent) {
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !std::ptr::eq(inner.saved.as_ptr(), Arc::as_ptr(saved)) {
            // It is kept from being freed, so that nothing else can lie where it lay.
            inner.saved = Arc::downgrade(saved);
            inner.extents.clear();
        }
        inner.extents.insert(id.number(), (stamp, extent));
    }
}
