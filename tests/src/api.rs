//! An HTTPS client of the API server: one connection, requests one after the other. It is for what no
//! user's client need be there for: to start a kubectl takes a second of an emulated processor.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, ensure};
use base64::prelude::{BASE64_STANDARD, Engine as _};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::Request;
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::ring::default_provider;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

/// How to reach a server, as the admin.
#[derive(Clone)]
pub struct Target {
    address: SocketAddr,
    tls: Arc<ClientConfig>,
}

impl Target {
    /// The server at `address` whose `init` made the directory `pki`.
    ///
    /// # Errors
    /// If a file there cannot be read or is not what its name says.
    pub fn new(address: SocketAddr, pki: &Path) -> anyhow::Result<Self> {
        let read = |name: &str| std::fs::read(pki.join(name)).with_context(|| name.to_owned());
        Self::with(address, &read("ca.crt")?, &read("admin.crt")?, &read("admin.key")?)
    }

    /// What a kubeconfig of one cluster says, as `bulkhead kubeconfig` writes it.
    ///
    /// # Errors
    /// If something is missing there or is not what its name says.
    pub fn of_kubeconfig(text: &str) -> anyhow::Result<Self> {
        let value = |key: &str| {
            let mut pairs = text.lines().filter_map(|line| line.trim().split_once(": "));
            pairs.find(|(name, _)| *name == key).map(|(_, value)| value).context(key.to_owned())
        };
        let data = |key: &str| anyhow::Ok(BASE64_STANDARD.decode(value(key)?)?);
        let address = value("server")?.strip_prefix("https://").context("not https")?.parse()?;
        let [ca, certificate, key] =
            ["certificate-authority-data", "client-certificate-data", "client-key-data"].map(data);
        Self::with(address, &ca?, &certificate?, &key?)
    }

    /// All but the address in PEM.
    fn with(
        address: SocketAddr,
        ca: &[u8],
        certificate: &[u8],
        key: &[u8],
    ) -> anyhow::Result<Self> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(ca)?)?;
        let certificate = CertificateDer::from_pem_slice(certificate)?;
        let tls = ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_client_auth_cert(vec![certificate], PrivateKeyDer::from_pem_slice(key)?)?;
        Ok(Self { address, tls: Arc::new(tls) })
    }

    /// Opens a connection.
    ///
    /// # Errors
    /// If the server cannot be reached.
    pub async fn connect(&self) -> anyhow::Result<Client> {
        let stream = TcpStream::connect(self.address).await?;
        stream.set_nodelay(true)?;
        let name = ServerName::try_from("localhost")?;
        let stream = TlsConnector::from(Arc::clone(&self.tls)).connect(name, stream).await?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        // It ends with the server or with the client; both are seen where the client is used.
        tokio::spawn(connection);
        Ok(Client { sender })
    }
}

/// An open connection.
pub struct Client {
    sender: SendRequest<Full<Bytes>>,
}

impl Client {
    async fn send(&mut self, method: &str, path: &str, body: Vec<u8>) -> anyhow::Result<Incoming> {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "localhost")
            .header("content-type", "application/json")
            .body(Full::new(body.into()))?;
        self.sender.ready().await?;
        let response = self.sender.send_request(request).await?;
        let code = response.status();
        if code.is_success() {
            return Ok(response.into_body());
        }
        let body = response.into_body().collect().await?.to_bytes();
        anyhow::bail!("{method} {path}: {code}: {}", String::from_utf8_lossy(&body))
    }

    /// Creates `object`.
    ///
    /// # Errors
    /// If the server refuses or the connection breaks.
    pub async fn create(&mut self, path: &str, object: &Value) -> anyhow::Result<()> {
        let body = self.send("POST", path, serde_json::to_vec(object)?).await?;
        body.collect().await?;
        Ok(())
    }

    /// What a path answers.
    ///
    /// # Errors
    /// If the server refuses or the connection breaks.
    pub async fn get(&mut self, path: &str) -> anyhow::Result<Bytes> {
        Ok(self.send("GET", path, Vec::new()).await?.collect().await?.to_bytes())
    }

    /// Opens a watch.
    ///
    /// # Errors
    /// If the server refuses or the connection breaks.
    pub async fn watch(mut self, path: &str) -> anyhow::Result<Watch> {
        let body = self.send("GET", path, Vec::new()).await?;
        Ok(Watch { _client: self, body, buffer: Vec::new() })
    }
}

/// A watch under way.
pub struct Watch {
    _client: Client,
    body: Incoming,
    buffer: Vec<u8>,
}

impl Watch {
    /// The next event's line.
    ///
    /// # Errors
    /// If the watch has ended.
    pub async fn next(&mut self) -> anyhow::Result<Vec<u8>> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                return Ok(self.buffer.drain(..=end).collect());
            }
            let frame = self.body.frame().await.context("the watch ended")??;
            ensure!(frame.is_data(), "a watch of data");
            self.buffer.extend_from_slice(frame.data_ref().context("data")?);
        }
    }
}
