//! Which certificate a client is shown, by the name that it asks for (SNI).

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bulkhead_client::object;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use serde_json::Value;
use tokio_rustls::rustls::crypto::ring::{default_provider, sign::any_supported_type};
use tokio_rustls::rustls::server::{ClientHello, ResolvesServerCert};
use tokio_rustls::rustls::sign::CertifiedKey;
use tokio_rustls::rustls::{self, ServerConfig};

/// A Secret is not a certificate with its key, or none can be made.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// It has not the type of one.
    #[error("it is of type {0:?}, not kubernetes.io/tls")]
    Type(String),
    /// An entry is missing or not base64.
    #[error("it has no {0}")]
    Missing(&'static str),
    /// An entry is not PEM, or of something else.
    #[error("{0}: {1}")]
    Pem(&'static str, rustls_pki_types::pem::Error),
    /// There is no certificate.
    #[error("tls.crt holds no certificate")]
    Empty,
    /// The key is of a kind that is not known.
    #[error("tls.key: {0}")]
    Key(rustls::Error),
    /// The key is another certificate's.
    #[error("tls.key is not the key of tls.crt")]
    Mismatch,
    /// The default one cannot be made.
    #[error("making a certificate: {0}")]
    Make(#[from] rcgen::Error),
}

/// The certificate and key in a Secret of type `kubernetes.io/tls`.
///
/// # Errors
/// If it is none.
pub(crate) fn of_secret(secret: &Value) -> Result<Arc<CertifiedKey>, CertificateError> {
    let kind = object::text(secret, "type");
    if kind != "kubernetes.io/tls" {
        return Err(CertificateError::Type(kind.into()));
    }
    let entry = |name: &'static str| {
        let text = secret["data"][name].as_str().filter(|text| !text.is_empty());
        let bytes = text.and_then(|text| BASE64.decode(text).ok());
        bytes.ok_or(CertificateError::Missing(name))
    };
    let (certificates, key) = (entry("tls.crt")?, entry("tls.key")?);
    let chain: Vec<_> = CertificateDer::pem_slice_iter(&certificates)
        .collect::<Result<_, _>>()
        .map_err(|error| CertificateError::Pem("tls.crt", error))?;
    if chain.is_empty() {
        return Err(CertificateError::Empty);
    }
    let key = PrivateKeyDer::from_pem_slice(&key)
        .map_err(|error| CertificateError::Pem("tls.key", error))?;
    let key = any_supported_type(&key).map_err(CertificateError::Key)?;
    let certified = CertifiedKey::new(chain, key);
    match certified.keys_match() {
        Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::Unknown)) | Ok(()) => {
            Ok(Arc::new(certified))
        }
        Err(_) => Err(CertificateError::Mismatch),
    }
}

/// Certificates by the hosts that are served with them.
#[derive(Debug, Default)]
pub struct Hosts {
    exact: HashMap<String, Arc<CertifiedKey>>,
    /// By what is behind `*.`.
    wildcards: HashMap<String, Arc<CertifiedKey>>,
    any: Option<Arc<CertifiedKey>>,
}

impl Hosts {
    /// Serves `host`, which may begin with `*.` or be empty for all, with a certificate, unless it
    /// has one already.
    pub fn add(&mut self, host: &str, certificate: &Arc<CertifiedKey>) {
        let host = host.to_ascii_lowercase();
        let certificate = Arc::clone(certificate);
        match host.strip_prefix("*.") {
            _ if host.is_empty() => {
                self.any.get_or_insert(certificate);
            }
            Some(parent) => {
                self.wildcards.entry(parent.to_owned()).or_insert(certificate);
            }
            None => {
                self.exact.entry(host).or_insert(certificate);
            }
        }
    }

    fn find(&self, host: &str) -> Option<&Arc<CertifiedKey>> {
        let host = host.to_ascii_lowercase();
        self.exact.get(&host).or_else(|| self.wildcards.get(host.split_once('.')?.1))
    }
}

/// The certificates that are shown; they may change at any time.
#[derive(Debug)]
pub struct Certificates {
    hosts: RwLock<Arc<Hosts>>,
    /// For whoever asks for a host without one.
    default: Arc<CertifiedKey>,
}

impl Certificates {
    /// None but a self-signed one, made now.
    ///
    /// # Errors
    /// If that cannot be made.
    pub fn new() -> Result<Self, CertificateError> {
        let mut params = rcgen::CertificateParams::new(vec!["ingress.local".to_owned()])?;
        params
            .distinguished_name
            .push(rcgen::DnType::CommonName, "Bulkhead Ingress default certificate");
        let key = rcgen::KeyPair::generate()?;
        let certificate = params.self_signed(&key)?;
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let key = any_supported_type(&key).map_err(CertificateError::Key)?;
        let default = Arc::new(CertifiedKey::new(vec![certificate.der().clone()], key));
        Ok(Self { hosts: RwLock::default(), default })
    }

    /// Takes these from the next handshake on.
    pub fn set(&self, hosts: Hosts) {
        *self.hosts.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(hosts);
    }

    fn find(&self, name: Option<&str>) -> Arc<CertifiedKey> {
        let hosts = self.hosts.read().unwrap_or_else(PoisonError::into_inner);
        let found = name.and_then(|name| hosts.find(name)).or(hosts.any.as_ref());
        Arc::clone(found.unwrap_or(&self.default))
    }

    /// TLS 1.2 and 1.3 with these certificates, for HTTP/2 and HTTP/1.1.
    ///
    /// # Errors
    /// If the provider of cryptography does not know those versions.
    pub fn server_config(self: Arc<Self>) -> Result<Arc<ServerConfig>, rustls::Error> {
        let mut config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_cert_resolver(self);
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.find(hello.server_name()))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pair(name: &str) -> (String, String) {
        let made = rcgen::generate_simple_self_signed(vec![name.to_owned()]).unwrap();
        (made.cert.pem(), made.signing_key.serialize_pem())
    }

    fn secret(certificate: &str, key: &str) -> Value {
        json!({"type": "kubernetes.io/tls", "data": {
            "tls.crt": BASE64.encode(certificate), "tls.key": BASE64.encode(key),
        }})
    }

    #[test]
    fn a_host_is_shown_its_own_certificate_first() {
        let certificates = Certificates::new().unwrap();
        let made = |name: &str| {
            let (certificate, key) = pair(name);
            of_secret(&secret(&certificate, &key)).unwrap()
        };
        let (exact, wildcard, any) = (made("a"), made("b"), made("c"));
        let shown = |name, certificate: &Arc<CertifiedKey>| {
            Arc::ptr_eq(&certificates.find(name), certificate)
        };
        assert!(shown(Some("www.example.com"), &certificates.default));
        let mut hosts = Hosts::default();
        hosts.add("*.Example.com", &wildcard);
        hosts.add("www.example.com", &exact);
        hosts.add("www.example.com", &any);
        certificates.set(hosts);
        assert!(shown(Some("WWW.example.com"), &exact));
        assert!(shown(Some("other.example.com"), &wildcard));
        assert!(shown(Some("a.b.example.com"), &certificates.default));
        assert!(shown(Some("example.com"), &certificates.default));
        let mut hosts = Hosts::default();
        hosts.add("", &any);
        certificates.set(hosts);
        assert!(shown(Some("example.com"), &any) && shown(None, &any));
    }

    #[test]
    fn a_secret_that_is_no_certificate_is_refused_with_the_reason() {
        let ((certificate, key), (_, other)) = (pair("a"), pair("b"));
        let why = |secret: &Value| of_secret(secret).unwrap_err().to_string();
        assert_eq!(why(&secret(&certificate, &other)), "tls.key is not the key of tls.crt");
        assert_eq!(why(&secret("", &key)), "it has no tls.crt");
        assert_eq!(why(&secret("x", &key)), "tls.crt holds no certificate");
        assert!(why(&secret(&certificate, "x")).starts_with("tls.key: "));
        let opaque = json!({"type": "Opaque"});
        assert_eq!(why(&opaque), "it is of type \"Opaque\", not kubernetes.io/tls");
    }
}
