//! psi-setup from end to end: a real Podman and psi-serve, and a stand-in Infisical.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod adopt;
mod bad_answers;
mod crash;
mod failures;
mod faults;
mod fixture;
mod local;
mod refresh;
mod retire;
mod rootless;
mod token;
