//! Whose certificates are trusted, against `openssl s_server`.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use super::*;

/// A TLS server with a certificate of its own that never answers a request.
struct TlsServer {
    child: Child,
    port: u16,
}

impl TlsServer {
    fn start(certificate: &Path, key: &Path) -> Self {
        let mut child = Command::new("openssl")
            .args(["s_server", "-accept", "127.0.0.1:0", "-cert"])
            .arg(certificate)
            .arg("-key")
            .arg(key)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.as_mut().unwrap()).lines();
        let port = lines
            .map(|line| line.unwrap())
            .find_map(|line| line.strip_prefix("ACCEPT 127.0.0.1:")?.parse().ok());
        Self {
            child,
            port: port.unwrap(),
        }
    }
}

impl Drop for TlsServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A self-signed certificate for 127.0.0.1 and its key.
fn certificate(directory: &Path) -> (PathBuf, PathBuf) {
    let (settings, certificate, key) = (
        directory.join("openssl.cnf"),
        directory.join("cert.pem"),
        directory.join("key.pem"),
    );
    let text = "[req]\ndistinguished_name=name\nx509_extensions=server\n[name]\n\
        [server]\nsubjectAltName=IP:127.0.0.1\nbasicConstraints=CA:FALSE\n";
    std::fs::write(&settings, text).unwrap();
    let made = Command::new("openssl")
        .args("req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=x".split(' '))
        .args([Path::new("-config"), &settings])
        .args([Path::new("-keyout"), &key])
        .args([Path::new("-out"), &certificate])
        .output()
        .unwrap();
    assert!(made.status.success(), "{made:?}");
    (certificate, key)
}

#[tokio::test]
async fn a_private_certificate_needs_ca_cert_or_no_checks() {
    let fixture = Fixture::new();
    let (certificate, key) = certificate(fixture.dir.path());
    let server = TlsServer::start(&certificate, &key);
    let trusted = format!("\n      ca_cert: {}{PROJECTS}", certificate.display());
    let unchecked = format!("\n      verify_ssl: false{PROJECTS}");
    let trusted_by_all = format!("{PROJECTS}\nca_cert: {}", certificate.display());
    for (settings, is_trusted) in [
        (PROJECTS, false),
        (&trusted, true),
        (&trusted_by_all, true),
        (&unchecked, true),
    ] {
        let api_url = format!("https://127.0.0.1:{}", server.port);
        let config = fixture.config(&api_url, settings).unwrap();
        let settings = config.providers.infisical.as_ref().unwrap();
        let timeout = Duration::from_secs(2);
        let provider =
            Infisical::with_timeout(&config, settings, &no_credentials, timeout).unwrap();
        let text = failed(lookup(&provider, "p", "A").await, Kind::Unreachable);
        assert_eq!(text.contains("certificate"), !is_trusted, "{text}");
        assert_eq!(text.contains("ca_cert"), !is_trusted, "{text}");
        assert_eq!(
            text.contains("no whole answer in time"),
            is_trusted,
            "{text}"
        );
    }
}
