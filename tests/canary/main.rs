//! No secret is anywhere but where it must be: every program is run through success and every kind
//! of failure with marked secrets, and all that the programs wrote, were started with, left in
//! files and had in memory is searched for them.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod cachectl;
mod detector;
mod dumps;
mod hsm;
mod memory;
mod serve;
mod setup;
mod token;
mod world;
