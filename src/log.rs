//! The log: the journal where standard error is the journal, else standard error.

use std::fmt::{self, Debug};
use std::os::linux::fs::MetadataExt;

use rustix::net::{SocketAddrUnix, getpeername};
use tracing::field::Field;
use tracing::level_filters::LevelFilter;
use tracing_journald::{Priority, PriorityMappings};
use tracing_subscriber::fmt::format::{Writer, debug_fn};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::events;

/// Where journald takes what services write to standard error.
const JOURNAL_STDOUT: &[u8] = b"/run/systemd/journal/stdout";

/// Starts logging. `PSI_LOG` sets the level: error, warn, info (the default) or debug.
pub fn init() {
    let wanted = std::env::var("PSI_LOG").unwrap_or_default();
    let level = match wanted.as_str() {
        "error" => LevelFilter::ERROR,
        "warn" => LevelFilter::WARN,
        "debug" => LevelFilter::DEBUG,
        _ => LevelFilter::INFO,
    };
    let registry = tracing_subscriber::registry().with(level);
    match journal() {
        Some(journal) => registry.with(journal).init(),
        None => registry
            .with(
                tracing_subscriber::fmt::layer()
                    .fmt_fields(debug_fn(message_only))
                    .with_writer(std::io::stderr)
                    .with_ansi(false)
                    .without_time()
                    .with_target(false),
            )
            .init(),
    }
    if !["", "error", "warn", "info", "debug"].contains(&wanted.as_str()) {
        let what = "PSI_LOG is none of error, warn, info and debug: using info";
        events::CONFIGURATION_DOUBTFUL.say(what);
    }
}

/// The other fields are for searches in the journal.
fn message_only(writer: &mut Writer<'_>, field: &Field, value: &dyn Debug) -> fmt::Result {
    match field.name() {
        "message" => write!(writer, "{value:?}"),
        _ => Ok(()),
    }
}

/// The journal's own protocol keeps levels and fields; used only where stderr would end there
/// anyway, so that nothing is logged twice and nothing is lost.
fn journal() -> Option<tracing_journald::Layer> {
    if !is_named_by_systemd() && !is_connected_to_journald() {
        return None;
    }
    let priorities = PriorityMappings {
        info: Priority::Informational,
        ..PriorityMappings::new()
    };
    let journal = tracing_journald::layer().ok()?;
    Some(
        journal
            .with_field_prefix(None)
            .with_priority_mappings(priorities),
    )
}

/// Whether stderr is what systemd says is the journal.
fn is_named_by_systemd() -> bool {
    let stderr = std::fs::metadata("/proc/self/fd/2");
    match (std::env::var("JOURNAL_STREAM"), stderr) {
        (Ok(stream), Ok(stderr)) => stream == format!("{}:{}", stderr.st_dev(), stderr.st_ino()),
        _ => false,
    }
}

/// The same in a container, which is not told: Podman's log driver `passthrough` leaves it
/// systemd's stderr and none of systemd's variables.
fn is_connected_to_journald() -> bool {
    let peer = getpeername(std::io::stderr()).ok().flatten();
    let peer = peer.and_then(|address| SocketAddrUnix::try_from(address).ok());
    peer.is_some_and(|address| address.path_bytes() == Some(JOURNAL_STDOUT))
}
