//! Disks that are full, read-only or broken: the last good state is served and stays, the message
//! names the path and the next step, and the next try works once the fault is gone.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod cachectl;
mod fixture;
mod serve;
