//! Mutual TLS, from PEM files.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use hyper_rustls::{FixedServerNameResolver, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};

use super::Server;

/// The credentials cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    /// A file cannot be read, or is not what its name says.
    #[error("{0}: {1}")]
    File(PathBuf, rustls::pki_types::pem::Error),
    /// What is in them does not fit together.
    #[error("{0}: {1}")]
    Tls(PathBuf, rustls::Error),
    /// The server's name is none.
    #[error("{0:?} is not the name of a server")]
    Name(String),
}

type Result<T> = std::result::Result<T, CredentialsError>;

/// Connects to `server` as whom it says.
pub(super) fn connector(server: &Server) -> Result<HttpsConnector<HttpConnector>> {
    let at = |path: &Path| {
        let path = path.to_owned();
        move |error| CredentialsError::Tls(path, error)
    };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(at(&server.authority))?
        .with_root_certificates(roots(&server.authority)?)
        .with_client_auth_cert(certificates(&server.certificate)?, key(&server.key)?)
        .map_err(at(&server.certificate))?;
    let name = ServerName::try_from(server.name.clone())
        .map_err(|_| CredentialsError::Name(server.name.clone()))?;
    let mut tcp = HttpConnector::new();
    // It is the one below that sees to the scheme.
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    Ok(HttpsConnectorBuilder::new()
        .with_tls_config(tls)
        .https_only()
        .with_server_name_resolver(FixedServerNameResolver::new(name))
        .enable_http1()
        .wrap_connector(tcp))
}

/// The certificates in a PEM file.
///
/// # Errors
/// [`CredentialsError::File`].
pub fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .map_err(|error| CredentialsError::File(path.to_owned(), error))
}

/// The private key in a PEM file.
///
/// # Errors
/// [`CredentialsError::File`].
pub fn key(path: &Path) -> Result<PrivateKeyDer<'static>> {
    PrivateKeyDer::from_pem_file(path)
        .map_err(|error| CredentialsError::File(path.to_owned(), error))
}

/// The certificates in a PEM file, as the authorities that are trusted.
///
/// # Errors
/// If the file cannot be read, or a certificate in it is none of an authority.
pub fn roots(path: &Path) -> Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots.add(certificate).map_err(|error| CredentialsError::Tls(path.to_owned(), error))?;
    }
    Ok(roots)
}
