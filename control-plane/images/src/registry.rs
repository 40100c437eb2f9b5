//! One image's way out of a registry (OCI distribution specification 1.1).

mod manifests;

use std::{io, sync::Once, time::Duration};

use bytes::Bytes;
use futures_util::StreamExt;
use oci_client::{
    Client, Reference, RegistryOperation,
    client::{Certificate, CertificateEncoding, ClientConfig, ClientProtocol},
    errors::OciDistributionError,
};
use tokio::{sync::mpsc, time::sleep};

use self::manifests::{Failure, Manifests};
use crate::{
    Digest, Error, Limits, Name, PullOptions,
    error::ContentError,
    manifest::{Manifest, Plan, PlannedLayer, check_digest, check_size},
};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a registry may stay silent.
const READ_TIMEOUT: Duration = Duration::from_secs(60);
const USER_AGENT: &str = concat!("bulkhead/", env!("CARGO_PKG_VERSION"));
/// How long to wait before a request is made again of a registry that was not available.
const BACKOFF: [Duration; 2] = [Duration::from_millis(250), Duration::from_secs(1)];
/// The HTTP status with which registries hold back who asks too often.
const TOO_MANY_REQUESTS: u16 = 429;
/// Pieces of a blob that may wait for the converter.
const QUEUE: usize = 16;

pub(crate) struct Registry {
    client: Client,
    manifests: Manifests,
    name: Name,
    options: PullOptions,
}

impl Registry {
    /// # Errors
    /// [`Error::Authorities`] if those of `options` are none.
    pub(crate) fn new(name: Name, options: PullOptions) -> Result<Self, Error> {
        static PROVIDER: Once = Once::new();
        // The process may have chosen one already, which serves as well.
        PROVIDER.call_once(|| drop(rustls::crypto::ring::default_provider().install_default()));
        let pem = options.authorities.as_deref().unwrap_or_default();
        let authorities = reqwest::Certificate::from_pem_bundle(pem).map_err(authorities_error)?;
        if authorities.is_empty() && options.authorities.is_some() {
            return Err(Error::Authorities("there is no certificate in PEM".into()));
        }
        let plain = options.insecure || (name.is_loopback() && authorities.is_empty());
        let name = match options.loopback {
            Some(address) => name.with_loopback_at(address),
            None => name,
        };
        let extra = Certificate { encoding: CertificateEncoding::Pem, data: pem.to_vec() };
        let client = Client::new(ClientConfig {
            protocol: if plain { ClientProtocol::Http } else { ClientProtocol::Https },
            connect_timeout: Some(CONNECT_TIMEOUT),
            read_timeout: Some(READ_TIMEOUT),
            user_agent: USER_AGENT,
            extra_root_certificates: if pem.is_empty() { Vec::new() } else { vec![extra] },
            ..ClientConfig::default()
        });
        let manifests = Manifests::new(plain, authorities).map_err(authorities_error)?;
        Ok(Self { client, manifests, name, options })
    }

    /// Fetches manifest and config.
    pub(crate) async fn plan(&self, limits: &Limits) -> Result<Plan, Error> {
        let content = |error| self.content_error(error);
        let reference = self.name.reference();
        let json = self.manifest(reference).await?;
        if let Some(digest) = reference.digest() {
            let digest = digest.parse().map_err(|_| {
                let value = digest.to_owned();
                content(ContentError::Unsupported { what: "the digest", value })
            })?;
            check_digest(&json, digest, "the manifest").map_err(content)?;
        }
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

    async fn manifest(&self, reference: &Reference) -> Result<Vec<u8>, Error> {
        let mut waits = BACKOFF.into_iter();
        loop {
            let error = match self.manifest_once(reference).await {
                Ok(json) => return Ok(json),
                Err(Failure::Content(error)) => self.content_error(error),
                Err(Failure::Registry(error)) => self.registry_error(error),
            };
            wait_after(error, &mut waits).await?;
        }
    }

    async fn manifest_once(&self, reference: &Reference) -> Result<Vec<u8>, Failure> {
        let auth = &self.options.auth;
        let token = self.client.auth(reference, auth, RegistryOperation::Pull).await;
        let token = token.map_err(Failure::Registry)?;
        self.manifests.get(reference, token.as_deref(), auth).await
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
        let (reference, digest) = (self.name.reference(), digest.to_string());
        let mut waits = BACKOFF.into_iter();
        loop {
            match self.client.pull_blob_stream(reference, digest.as_str()).await {
                Ok(stream) => return Ok(stream),
                Err(error) => wait_after(self.registry_error(error), &mut waits).await?,
            }
        }
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
            E::ServerError { code, .. } => *code >= 500 || *code == TOO_MANY_REQUESTS,
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

/// Waits before another attempt, if `error` may pass and one is left; else gives it back.
async fn wait_after(error: Error, waits: &mut impl Iterator<Item = Duration>) -> Result<(), Error> {
    let Error::RegistryUnavailable { .. } = &error else { return Err(error) };
    let Some(wait) = waits.next() else { return Err(error) };
    tracing::debug!("{error}; next attempt in {wait:?}");
    sleep(wait).await;
    Ok(())
}

#[expect(clippy::needless_pass_by_value, reason = "it is map_err's")]
fn authorities_error(error: reqwest::Error) -> Error {
    Error::Authorities(innermost(&error))
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
