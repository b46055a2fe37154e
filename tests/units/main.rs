//! The shipped units and quadlets, as the systemd 257 and the Podman 5.4 of the boot test's image see
//! them: known keys only, as little power as promised, and in the order that docs/units.md shows.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test that cannot go on has failed"
)]

mod documented;
#[path = "../boot/image.rs"]
mod image;
mod installed;
mod order;
mod quadlets;
mod rootless;
mod sandbox;
mod verify;
