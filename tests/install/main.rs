//! psi-install on a machine's root directory: what it writes, what it leaves alone, what it takes away.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test that cannot go on has failed"
)]

mod container;
mod coreos;
mod driver;
mod driver_conf;
mod fixture;
mod foreign;
mod modes;
mod paths;
mod refused;
mod restart;
mod rootless;
mod start;
mod uninstall;
mod units;
