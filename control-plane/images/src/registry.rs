//! One image's way out of a registry (OCI distribution specification 1.1).

use std::{io, sync::Once, time::Duration};

use bytes::Bytes;
use futures_util::StreamExt;
use oci_client::{
    Client, Reference,
    client::{ClientConfig, ClientProtocol},
    errors::OciDistributionError,
};
use tokio::sync::mpsc;

use crate::{
    Digest, Error, Limits, Name, PullOptions,
    error::ContentError,
    manifest::{MANIFEST_TYPES, Manifest, Plan, PlannedLayer, check_digest, check_size},
};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a registry may stay silent.
const READ_TIMEOUT: Duration = Duration::from_secs(60);
/// Pieces of a blob that may wait for the converter.
const QUEUE: usize = 16;

pub(crate) struct Registry {
    client: Client,
    name: Name,
    options: PullOptions,
}

impl Registry {
    pub(crate) fn new(name: Name, options: PullOptions) -> Self {
        static PROVIDER: Once = Once::new();
        // The process may have chosen one already, which serves as well.
        PROVIDER.call_once(|| drop(rustls::crypto::ring::default_provider().install_default()));
        let plain = options.insecure || name.is_loopback();
        let name = match options.loopback {
            Some(address) => name.with_loopback_at(address),
            None => name,
        };
        let client = Client::new(ClientConfig {
            protocol: if plain { ClientProtocol::Http } else { ClientProtocol::Https },
            connect_timeout: Some(CONNECT_TIMEOUT),
            read_timeout: Some(READ_TIMEOUT),
            user_agent: concat!("bulkhead/", env!("CARGO_PKG_VERSION")),
            ..ClientConfig::default()
        });
        Self { client, name, options }
    }

    /// Fetches manifest and config.
    pub(crate) async fn plan(&self, limits: &Limits) -> Result<Plan, Error> {
        let content = |error| self.content_error(error);
        let reference = self.name.reference();
        let json = self.manifest(reference).await?;
        let manifest = match Manifest::parse(&json).map_err(content)? {
            Manifest::Image(manifest) => manifest,
            Manifest::Index(index) => {
                let digest = index.linux_amd64().map_err(content)?.digest;
                let json = self.manifest(&reference.clone_with_digest(digest.to_string())).await?;
                check_digest(&json, digest, "the manifest").map_err(content)?;
                match Manifest::parse(&json).map_err(content)? {
                    Manifest::Image(manifest) => manifest,
                    Manifest::Index(_) => {
                        let value = "in another index".into();
                        return Err(content(ContentError::Unsupported { what: "an index", value }));
                    }
                }
            }
        };
        let config = self.config(manifest.config.digest, manifest.config.size).await?;
        let layers = manifest.layers().map_err(content)?;
        let layers = layers.into_iter().map(|(blob, size)| (Some(blob), size, None)).collect();
        Plan::new(config, layers, limits).map_err(content)
    }

    async fn manifest(&self, reference: &Reference) -> Result<Bytes, Error> {
        let (json, _) = self
            .client
            .pull_manifest_raw(reference, &self.options.auth, &MANIFEST_TYPES)
            .await
            .map_err(|error| self.registry_error(error))?;
        check_size(json.len() as u64, "the manifest").map_err(|e| self.content_error(e))?;
        Ok(json)
    }

    async fn config(&self, digest: Digest, size: u64) -> Result<Vec<u8>, Error> {
        const WHAT: &str = "the config";
        check_size(size, WHAT).map_err(|e| self.content_error(e))?;
        let mut stream = self.blob(digest).await?;
        let mut json = Vec::new();
        while let Some(piece) = stream.next().await {
            json.extend(piece.map_err(|e| self.content_error(ContentError::Read(digest, e)))?);
            check_size(json.len() as u64, WHAT).map_err(|e| self.content_error(e))?;
        }
        check_digest(&json, digest, WHAT).map_err(|e| self.content_error(e))?;
        Ok(json)
    }

    async fn blob(
        &self,
        digest: Digest,
    ) -> Result<impl futures_util::Stream<Item = io::Result<Bytes>> + Unpin + use<>, Error> {
        self.client
            .pull_blob_stream(self.name.reference(), digest.to_string().as_str())
            .await
            .map_err(|error| self.registry_error(error))
    }

    /// Fetches a layer's blob while `consume` reads it on a thread of its own. When this future is
    /// dropped, `consume` sees the stream end.
    pub(crate) async fn layer<T: Send + 'static>(
        &self,
        layer: &PlannedLayer,
        consume: impl FnOnce(BlobReader) -> Result<T, ContentError> + Send + 'static,
    ) -> Result<T, Error> {
        let mut stream = self.blob(layer.expected.blob.unwrap_or(layer.expected.diff_id)).await?;
        let (sender, receiver) = mpsc::channel(QUEUE);
        let consumer =
            tokio::task::spawn_blocking(|| consume(BlobReader { receiver, piece: Bytes::new() }));
        while let Some(piece) = stream.next().await {
            // A consumer that has seen enough says why below.
            if sender.send(piece).await.is_err() {
                break;
            }
        }
        drop(sender);
        consumer.await?.map_err(|error| self.content_error(error))
    }

    fn content_error(&self, error: ContentError) -> Error {
        match error {
            ContentError::Store(error) => *error,
            error => Error::Pull { image: self.name.to_string(), problem: error.to_string() },
        }
    }

    fn registry_error(&self, error: OciDistributionError) -> Error {
        use OciDistributionError as E;
        let unavailable = match &error {
            E::RequestError(error) => {
                error.is_connect() || error.is_timeout() || error.is_request()
            }
            E::ServerError { code, .. } => *code >= 500,
            _ => false,
        };
        let problem = match error {
            E::RequestError(error) => innermost(&error),
            E::ImageManifestNotFoundError(_) => "the registry has no such image".into(),
            E::RegistryError { envelope, .. } => envelope.errors.first().map_or_else(
                || "the registry refused".into(),
                |error| format!("the registry says {:?} {}", error.code, one_line(&error.message)),
            ),
            E::UnauthorizedError { .. } | E::AuthenticationFailure(_) => {
                "the registry refuses these credentials, or wants some".into()
            }
            E::ServerError { code, message, .. } => {
                format!("the registry answered {code} {}", one_line(&message))
            }
            error => one_line(&error.to_string()),
        };
        let image = self.name.to_string();
        if unavailable {
            let registry = self.name.registry().to_owned();
            return Error::RegistryUnavailable { registry, image, problem };
        }
        Error::Pull { image, problem }
    }
}

/// The last cause: the others only say that there was one.
fn innermost(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    one_line(&error.to_string())
}

/// A registry's text, made fit for a line.
fn one_line(text: &str) -> String {
    text.chars().take(300).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// A blob as a thread reads it.
pub(crate) struct BlobReader {
    receiver: mpsc::Receiver<io::Result<Bytes>>,
    piece: Bytes,
}

impl io::Read for BlobReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() {
            match self.receiver.blocking_recv() {
                Some(piece) => self.piece = piece?,
                None => return Ok(0),
            }
        }
        let length = self.piece.len().min(buffer.len());
        buffer[..length].copy_from_slice(&self.piece.split_to(length));
        Ok(length)
    }
}
