//! What the store hands out, and what it is asked with.

use std::{net::IpAddr, path::PathBuf, sync::Arc};

use bulkhead_agent_protocol::ImageConfig;
use oci_client::secrets::RegistryAuth;

use crate::Digest;

/// An image in the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// The digest of its config: Kubernetes' `imageID`.
    pub id: Digest,
    /// Its full names.
    pub references: Vec<String>,
    /// What running a container of it takes.
    pub config: ImageConfig,
    /// Its layers, lowest first.
    pub layers: Vec<Layer>,
}

impl Image {
    /// Bytes of all layers.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.layers.iter().map(|layer| layer.size).sum()
    }
}

/// A layer, as an EROFS file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layer {
    /// The digest of the layer's uncompressed tar stream.
    pub diff_id: Digest,
    /// The file; it never changes.
    pub path: PathBuf,
    /// The file's length in bytes; a multiple of 4096.
    pub size: u64,
}

/// How to pull.
#[derive(Debug, Clone)]
pub struct PullOptions {
    /// Speak plain HTTP to the registry. Loopback registries always are spoken to so.
    pub insecure: bool,
    /// Certificates, in PEM, of authorities to trust beside the system's. With them a registry on
    /// loopback is spoken to with TLS as well.
    pub authorities: Option<Vec<u8>>,
    /// Who asks.
    pub auth: RegistryAuth,
    /// Where registries on loopback are, if not here: in an emulated host they are the machine's
    /// around it.
    pub loopback: Option<IpAddr>,
}

impl Default for PullOptions {
    /// HTTPS, anonymously.
    fn default() -> Self {
        Self { insecure: false, authorities: None, auth: RegistryAuth::Anonymous, loopback: None }
    }
}

/// How far a pull or an import is. Counts only go up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Layers that are in the store.
    pub layers_done: usize,
    /// Layers of the image.
    pub layers: usize,
    /// Bytes of layers, as they are transferred, that have arrived; those of layers that were
    /// there already count at once.
    pub bytes: u64,
    /// Bytes of all layers, as they are transferred.
    pub total: u64,
}

/// Is called whenever there is progress, from several threads, often.
pub type ProgressFn = Arc<dyn Fn(Progress) + Send + Sync>;

/// Bounds for what comes from registries and archives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of one image's layers, uncompressed.
    pub unpacked: u64,
    /// How many layers an image may have.
    pub layers: usize,
    /// How many layers are fetched and converted at once.
    pub concurrency: usize,
}

impl Default for Limits {
    /// 20 GiB, 128 layers, three at once.
    fn default() -> Self {
        Self { unpacked: 20 << 30, layers: 128, concurrency: 3 }
    }
}
