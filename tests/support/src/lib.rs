//! What the tests and the demo run against.

pub mod disk;
pub mod done;
pub mod goals;
pub mod http;
pub mod infisical;
pub mod journal;
pub mod marks;
pub mod memory;
pub mod notify;
pub mod podman;
pub mod proxy;
pub mod psi;
pub mod swtpm;
pub mod token;
pub mod trace;
pub mod vectors;
pub mod wait;
