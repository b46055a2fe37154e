//! What opens the sealed cache: a software TPM that boots, changes, goes and comes back, printed
//! keys, and `psi-cachectl slots`; with psi-serve and without.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod adopt;
mod auto_reseal;
mod change;
mod crash;
mod fixture;
mod init;
mod other_modules;
mod recovery;
mod recreate;
mod slow_start;
mod stories;
mod stuck;
mod token;
mod token_version1;
