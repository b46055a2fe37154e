//! Modules, each loaded once: PKCS#11 wants `C_Initialize` of one thread of a process only, and OpenSC
//! does not survive two at once.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::error::{Error as Pkcs11Error, RvError};

use crate::error::Result;
use crate::pkcs11::code;

/// A module, once it was started.
type Module = Arc<Mutex<Option<Pkcs11>>>;

/// Every module that was asked for. None is ever given back: see [`super::owner`].
static ALL: Mutex<Vec<(PathBuf, Module)>> = Mutex::new(Vec::new());

/// The module at `path`. Who needs it while it starts waits; another module's start is not waited for.
///
/// # Errors
/// [`crate::Kind::Config`] if it can't be loaded, else what it says. The next call tries again.
pub fn load(path: &Path) -> Result<Pkcs11> {
    let module = place(path);
    let mut module = module.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(started) = &*module {
        return Ok(started.clone());
    }
    let started = start(path)?;
    *module = Some(started.clone());
    Ok(started)
}

fn place(path: &Path) -> Module {
    let mut all = ALL.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((_, known)) = all.iter().find(|(other, _)| other == path) {
        return Arc::clone(known);
    }
    let new = Module::default();
    all.push((path.to_owned(), Arc::clone(&new)));
    new
}

fn start(path: &Path) -> Result<Pkcs11> {
    let module = Pkcs11::new(path).map_err(|e| code::cannot_load(path, &e))?;
    match module.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)) {
        // The same file may be known by another path.
        Ok(()) | Err(Pkcs11Error::Pkcs11(RvError::CryptokiAlreadyInitialized, _)) => Ok(module),
        Err(e) => {
            let failed = code::failed(path, "start", &e);
            // Unloading is what some modules do not survive.
            std::mem::forget(module);
            Err(failed)
        }
    }
}
