//! TLS of the server and of its connections to kubelet endpoints: rustls with ring.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::client::WebPkiServerVerifier;
use tokio_rustls::rustls::crypto::ring::default_provider;
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{ClientConfig, RootCertStore, ServerConfig};

/// The PKI cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A PEM file cannot be read.
    #[error("{0}: {1}")]
    File(PathBuf, rustls_pki_types::pem::Error),
    /// The certificates do not fit together.
    #[error("the certificates in {0}: {1}")]
    Config(PathBuf, String),
}

/// The two configurations.
#[derive(Debug, Clone)]
pub struct Tls {
    /// For clients of this server; a client certificate is verified if one is shown.
    pub server: Arc<ServerConfig>,
    /// For connections to kubelet endpoints.
    pub client: Arc<ClientConfig>,
}

/// Loads `ca`, `apiserver` and their key from the PKI in `dir`.
///
/// # Errors
/// If a file is not there or not what its name says.
pub fn load(dir: &Path) -> Result<Tls, TlsError> {
    let ca = certificate(&dir.join("ca.crt"))?;
    let own = certificate(&dir.join("apiserver.crt"))?;
    let key_path = dir.join("apiserver.key");
    let key =
        PrivateKeyDer::from_pem_file(&key_path).map_err(|error| TlsError::File(key_path, error))?;
    let wrong = |error: &dyn std::fmt::Display| TlsError::Config(dir.into(), error.to_string());
    let mut roots = RootCertStore::empty();
    roots.add(ca).map_err(|error| wrong(&error))?;
    let roots = Arc::new(roots);
    let provider = Arc::new(default_provider());
    let clients =
        WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(&provider))
            .allow_unauthenticated()
            .build()
            .map_err(|error| wrong(&error))?;
    let mut server = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| wrong(&error))?
        .with_client_cert_verifier(clients)
        .with_single_cert(vec![own.clone()], key.clone_key())
        .map_err(|error| wrong(&error))?;
    server.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let servers = WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(&provider))
        .build()
        .map_err(|error| wrong(&error))?;
    let client = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| wrong(&error))?
        .with_webpki_verifier(servers)
        .with_client_auth_cert(vec![own], key)
        .map_err(|error| wrong(&error))?;
    Ok(Tls { server: Arc::new(server), client: Arc::new(client) })
}

fn certificate(path: &Path) -> Result<CertificateDer<'static>, TlsError> {
    CertificateDer::from_pem_file(path).map_err(|error| TlsError::File(path.into(), error))
}
