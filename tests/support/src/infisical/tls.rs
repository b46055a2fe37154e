//! A certificate authority and a server certificate for one test, made by the `openssl` program.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use tempfile::TempDir;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::aws_lc_rs::default_provider;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

const OPENSSL_CONFIG: &str = "\
[req]
distinguished_name = name
prompt = no
[name]
CN = stand-in
[authority]
basicConstraints = critical, CA:TRUE
keyUsage = critical, keyCertSign
subjectKeyIdentifier = hash
[server]
basicConstraints = critical, CA:FALSE
subjectAltName = IP:127.0.0.1, DNS:localhost
extendedKeyUsage = serverAuth
";

/// The files of the certificates, gone when this is.
#[derive(Debug)]
pub(super) struct Certificates {
    dir: TempDir,
}

impl Certificates {
    pub fn make() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        fs::write(dir.path().join("openssl.cnf"), OPENSSL_CONFIG).expect("openssl's configuration");
        make_pair(dir.path(), "authority", &[]);
        let signer = ["-CA", "authority.pem", "-CAkey", "authority.key"];
        make_pair(dir.path(), "server", &signer);
        Self { dir }
    }

    pub fn authority(&self) -> PathBuf {
        self.dir.path().join("authority.pem")
    }

    pub fn acceptor(&self) -> TlsAcceptor {
        let file = |name| self.dir.path().join(name);
        let certificate = CertificateDer::from_pem_file(file("server.pem")).expect("server.pem");
        let key = PrivateKeyDer::from_pem_file(file("server.key")).expect("server.key");
        let config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .expect("the provider has the usual protocol versions")
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)
            .expect("a key that fits its certificate");
        TlsAcceptor::from(Arc::new(config))
    }
}

/// `NAME.key` and `NAME.pem`, with the extensions of the section `NAME`.
fn make_pair(dir: &Path, name: &str, signer: &[&str]) {
    let output = Command::new("openssl")
        .args(["req", "-x509", "-config", "openssl.cnf", "-days", "2"])
        .args(["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"])
        .args(["-nodes", "-subj", &format!("/CN=stand-in {name}")])
        .args(["-extensions", name])
        .args([
            "-keyout",
            &format!("{name}.key"),
            "-out",
            &format!("{name}.pem"),
        ])
        .args(signer)
        .current_dir(dir)
        .output()
        .expect("openssl is installed");
    assert!(
        output.status.success(),
        "openssl req: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}
