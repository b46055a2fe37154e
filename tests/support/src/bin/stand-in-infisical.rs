//! A stand-in Infisical for shell scripts: `stand-in-infisical --listen 127.0.0.1:PORT --state FILE`.
//!
//! It prints `listening on 127.0.0.1:PORT` once it can be asked (port 0 takes a free one) and ends
//! when it is killed, or by itself after ten minutes. The file is read anew at every request, so a
//! script rotates a value by writing the file; a half-written one changes nothing. Tokens are
//! forgotten when the program ends.
//!
//! ```json
//! {
//!   "projects": {
//!     "11111111-1111-1111-1111-111111111111": {
//!       "prod": {
//!         "/myapp": {
//!           "secrets": {"DB_HOST": "db.example"},
//!           "imports": [{"environment": "prod", "path": "/shared"}]
//!         },
//!         "/shared": {"secrets": {"LOG_LEVEL": "info"}}
//!       }
//!     }
//!   },
//!   "identities": [
//!     {
//!       "client_id": "demo",
//!       "client_secret": "demo-secret",
//!       "may_read": [{"project": "11111111-1111-1111-1111-111111111111", "path": "/"}]
//!     }
//!   ]
//! }
//! ```
//!
//! `secrets`, `imports` and the `path` of `may_read` (then `/`) may be absent; unknown fields are errors.

use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use psi_test_support::infisical::StandIn;

const LIFE: Duration = Duration::from_secs(600);

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    let ["--listen", address, "--state", file] = arguments.as_slice() else {
        eprintln!("usage: stand-in-infisical --listen 127.0.0.1:PORT --state FILE");
        return ExitCode::from(64);
    };
    match start(address, Path::new(file)) {
        Ok(server) => {
            println!("listening on {}", server.address());
            thread::sleep(LIFE);
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("stand-in-infisical: cannot serve {file} on {address}: {error}");
            ExitCode::FAILURE
        }
    }
}

fn start(address: &str, file: &Path) -> std::io::Result<StandIn> {
    let address: SocketAddr = address.parse().map_err(std::io::Error::other)?;
    StandIn::start_from_file(address, file)
}
