//! `psi-serve` as Podman, psi-setup and systemd use it: the real program, over its socket.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod access;
mod cache;
mod crowd;
mod damage;
mod direct;
mod fixture;
mod journal;
mod live;
mod local;
mod requests;
mod restart;
mod retired;
mod systemd;
mod version1;
