//! HTTP over a Unix socket, for psi-serve's and Podman's alike.

use std::path::Path;
use std::time::Duration;

use crate::error::{Error, Kind, Result};

/// A client of the server on `socket`: a connection a request, `life` for each, and neither
/// proxies nor TLS.
///
/// # Errors
/// [`Kind::Internal`] if there can be no HTTP client.
pub fn client(socket: &Path, life: Duration) -> Result<reqwest::Client> {
    reqwest::Client::builder()
        .unix_socket(socket)
        .http1_only()
        .pool_max_idle_per_host(0)
        .tls_certs_only([])
        .no_proxy()
        .timeout(life)
        .build()
        .map_err(|e| Error::new(Kind::Internal, "cannot make an HTTP client").because(e))
}
