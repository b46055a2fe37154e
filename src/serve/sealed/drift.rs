//! `cache.auto_reseal`: a slot of the TPM that another boot chain has closed is sealed to the one that
//! runs now, once another slot has opened the cache.

use super::{Sealed, State, blocking};
use crate::events;
use crate::protector::SlotKind;
use crate::slots::{self, Blessed};

impl Sealed {
    /// Seals anew what only a changed boot keeps from opening. The cache is served already, whatever
    /// becomes of this. For the holder of the turn.
    pub(super) async fn reseal_after_drift(&self) {
        let failed = self.attempts().into_iter().filter(|a| a.failure.is_some());
        let closed = failed.filter(|a| a.kind == SlotKind::Tpm2);
        let closed: Vec<u32> = closed.map(|attempt| attempt.slot).collect();
        let (State::Open(cache), Ok(devices)) = (self.state(), self.devices()) else {
            return;
        };
        if closed.is_empty() {
            return;
        }
        let resealing = move || slots::bless_boot(&cache, &devices, &closed);
        match blocking(resealing).await {
            Ok(blessed) => blessed.iter().for_each(log),
            Err(error) => events::SLOT_NOT_RESEALED.say_why(
                error.kind(),
                format_args!("no slot was sealed anew to the boot that runs now: {error}"),
            ),
        }
    }
}

fn log(blessed: &Blessed) {
    let name = blessed.attempt.name();
    match &blessed.attempt.failure {
        None => events::SLOT_FOLLOWED_BOOT.say(format_args!(
            "{name} was sealed anew to the boot that runs now, since `cache.auto_reseal` is true: the TPM \
             and {}; if nobody changed the boot, find out what did",
            blessed.binding
        )),
        Some(error) => events::SLOT_NOT_RESEALED.say_why(
            error.kind(),
            format_args!(
                "{name} stays as it is, though `cache.auto_reseal` is true: {error}; next: {}",
                error.next_step().unwrap_or("see `psi-cachectl slots test`")
            ),
        ),
    }
}
