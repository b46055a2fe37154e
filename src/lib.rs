//! PSI gives Podman containers their secrets.
//!
//! ```text
//!             psi-setup (oneshot, root: Podman's API, drop-ins)
//! provider ──► discover ──► plan ──► hand over ──► register with Podman ──► drop-ins ──► reload
//!                                       │ POST /cache/<provider>, answered after fsync
//! podman ──► psi-secret lookup ──► /run/psi/psi.sock ──► psi-serve (unprivileged)
//!                                                          memory ◄──► cache.enc (sealed)
//!                                                            └── unknown value ──► provider
//! ```
//!
//! Data flows one way: configuration, provider, setup, serve, cache. A provider never sees a
//! cache, a cache never sees a provider, a protector never sees a secret.

/// The sealed values: on disk, and in memory.
pub mod cache;
/// psi-cachectl's commands.
pub mod cachectl;
/// The start, the configuration and the end, alike in all programs.
pub mod cli;
/// The asking half of psi-serve's socket.
pub mod client;
/// `config.yaml`.
pub mod config;
/// A call to systemd over its bus.
mod dbus;
/// Directories in which names are never followed, and files replaced whole.
pub mod directory;
/// What happened, what to do next, and the exit code that says so.
pub mod error;
/// Kinds of events: the journal's catalog has a text on each.
pub mod events;
/// AES-256-GCM, as everything that is sealed has it.
pub mod gcm;
/// What the C library keeps of memory that was freed.
pub mod heap;
/// psi-hsm's commands.
pub mod hsm;
/// One private-key operation around any number of bytes: how an HSM seals.
pub mod hybrid;
/// psi-install: units and quadlets, put in their places and taken away.
pub mod install;
/// Locks that are files.
pub mod lock;
/// Memory for values and keys.
pub mod locked;
/// The log: the journal, or standard error.
pub mod log;
/// Where a secret's value is: the only thing Podman's store holds.
pub mod mapping;
/// A private key on a PKCS#11 token.
pub mod pkcs11;
/// Podman's secrets, over its REST API.
pub mod podman;
/// What can open the sealed cache.
pub mod protector;
/// Where values come from.
pub mod provider;
/// Values that must not be printed, and the names secrets go by.
pub mod secret;
/// psi-serve: answers lookups and keeps the sealed cache.
pub mod serve;
/// psi-setup: fetches, hands over, registers with Podman, writes drop-ins.
pub mod setup;
/// A cache made, and what opens it changed, whoever does it.
pub mod slots;
/// The socket token, and its change.
pub mod socket_token;
/// Secrets from standard input.
pub mod stdin;
/// What systemd gives a service, and what a service tells systemd.
pub mod systemd;
/// HTTP over a Unix socket.
pub mod unix_http;
/// The JSON bodies on the socket.
pub mod wire;

pub use error::{Error, Kind, Result};

/// Wipes whatever is freed, in every program: libraries that read and write secrets leave copies of
/// them behind in their buffers.
#[global_allocator]
static WIPING: zeroizing_alloc::ZeroAlloc<std::alloc::System> =
    zeroizing_alloc::ZeroAlloc(std::alloc::System);
