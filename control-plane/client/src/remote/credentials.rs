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

/// Connects to `server` as whom it says.
pub(super) fn connector(
    server: &Server,
) -> Result<HttpsConnector<HttpConnector>, CredentialsError> {
    let at = |path: &Path| {
        let path = path.to_owned();
        move |error| CredentialsError::Tls(path, error)
    };
    let mut roots = RootCertStore::empty();
    for certificate in certificates(&server.authority)? {
        roots.add(certificate).map_err(at(&server.authority))?;
    }
    let key = PrivateKeyDer::from_pem_file(&server.key)
        .map_err(|error| CredentialsError::File(server.key.clone(), error))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(at(&server.authority))?
        .with_root_certificates(roots)
        .with_client_auth_cert(certificates(&server.certificate)?, key)
        .map_err(at(&server.certificate))?;
    let name = ServerName::try_from(server.name.clone())
        .map_err(|_| CredentialsError::Name(server.name.clone()))?;
    Ok(HttpsConnectorBuilder::new()
        .with_tls_config(tls)
        .https_only()
        .with_server_name_resolver(FixedServerNameResolver::new(name))
        .enable_http1()
        .build())
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, CredentialsError> {
    CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .map_err(|error| CredentialsError::File(path.to_owned(), error))
}
