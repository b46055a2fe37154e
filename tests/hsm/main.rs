//! psi-hsm and the provider nitrokeyhsm, with a real PKCS#11 module, psi-serve and Podman.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod fixture;
mod init;
mod lookups;
mod other_modules;
mod pcscd;
mod preflight;
mod store;
