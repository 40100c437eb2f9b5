//! The JSON documents of an image: index, manifest, config.

use std::collections::BTreeMap;

use bulkhead_agent_protocol::ImageConfig;
use serde::{Deserialize, de::DeserializeOwned};

use crate::{Digest, Limits, error::ContentError, layer::Expected};

/// The most bytes of one document.
pub(crate) const MAX_JSON: u64 = 4 << 20;

pub(crate) const MANIFEST_TYPES: [&str; 4] = [
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
];

const LAYER_TYPES: [&str; 5] = [
    "application/vnd.oci.image.layer.v1.tar",
    "application/vnd.oci.image.layer.v1.tar+gzip",
    "application/vnd.oci.image.layer.v1.tar+zstd",
    "application/vnd.docker.image.rootfs.diff.tar",
    "application/vnd.docker.image.rootfs.diff.tar.gzip",
];

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Descriptor {
    #[serde(default)]
    pub(crate) media_type: String,
    pub(crate) digest: Digest,
    pub(crate) size: u64,
    platform: Option<Platform>,
    #[serde(default)]
    pub(crate) annotations: BTreeMap<String, String>,
}

#[derive(Debug, Clone, Deserialize)]
struct Platform {
    os: String,
    architecture: String,
}

/// A manifest, or an index of several.
pub(crate) enum Manifest {
    Index(Index),
    Image(ImageManifest),
}

#[derive(Deserialize)]
pub(crate) struct Index {
    pub(crate) manifests: Vec<Descriptor>,
}

#[derive(Deserialize)]
pub(crate) struct ImageManifest {
    pub(crate) config: Descriptor,
    layers: Vec<Descriptor>,
}

/// An image that is known but for its layers' bytes.
pub(crate) struct Plan {
    /// The digest of the config.
    pub(crate) id: Digest,
    /// The config, as it came.
    pub(crate) config: Vec<u8>,
    /// Lowest first.
    pub(crate) layers: Vec<PlannedLayer>,
}

/// A layer to be had.
#[derive(Debug, Clone)]
pub(crate) struct PlannedLayer {
    pub(crate) expected: Expected,
    /// Bytes of the layer as it is transferred.
    pub(crate) size: u64,
    /// The archive's member that it is in, if it is not a blob by its digest.
    pub(crate) member: Option<String>,
}

impl Manifest {
    pub(crate) fn parse(json: &[u8]) -> Result<Self, ContentError> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Either {
            Index(Index),
            Image(ImageManifest),
        }
        Ok(match parse(json, "the manifest")? {
            Either::Index(index) => Self::Index(index),
            Either::Image(manifest) => Self::Image(manifest),
        })
    }
}

impl Index {
    /// The manifest for this machine's nodes.
    pub(crate) fn linux_amd64(self) -> Result<Descriptor, ContentError> {
        self.manifests
            .into_iter()
            .find(|descriptor| {
                descriptor
                    .platform
                    .as_ref()
                    .is_some_and(|it| it.os == "linux" && it.architecture == "amd64")
            })
            .ok_or_else(|| ContentError::Missing("linux/amd64 among its platforms".into()))
    }
}

impl ImageManifest {
    /// The layers' blobs, lowest first.
    pub(crate) fn layers(&self) -> Result<Vec<(Digest, u64)>, ContentError> {
        let layer = |layer: &Descriptor| match LAYER_TYPES.contains(&layer.media_type.as_str()) {
            true => Ok((layer.digest, layer.size)),
            false => Err(ContentError::Unsupported {
                what: "layer type",
                value: layer.media_type.chars().take(100).collect(),
            }),
        };
        self.layers.iter().map(layer).collect()
    }
}

#[derive(Deserialize)]
struct ConfigFile {
    os: String,
    architecture: String,
    config: Option<ImageConfig>,
    rootfs: RootFs,
}

#[derive(Deserialize)]
struct RootFs {
    diff_ids: Vec<Digest>,
}

/// The part of a config that running a container needs.
pub(crate) fn image_config(json: &[u8]) -> Result<ImageConfig, ContentError> {
    Ok(parse::<ConfigFile>(json, "the config")?.config.unwrap_or_default())
}

impl Plan {
    /// Joins a config with the layers that a manifest names: blob, size and archive member.
    pub(crate) fn new(
        config: Vec<u8>,
        layers: Vec<(Option<Digest>, u64, Option<String>)>,
        limits: &Limits,
    ) -> Result<Self, ContentError> {
        let parsed: ConfigFile = parse(&config, "the config")?;
        let platform = format!("{}/{}", parsed.os, parsed.architecture);
        if platform != "linux/amd64" {
            return Err(ContentError::Unsupported { what: "platform", value: platform });
        }
        let diff_ids = parsed.rootfs.diff_ids;
        if layers.len() > limits.layers {
            let limit = limits.layers as u64;
            return Err(ContentError::Limit { what: "the image", limit, unit: "layers" });
        }
        if layers.len() != diff_ids.len() {
            let problem =
                format!("it names {} layers, the manifest {}", diff_ids.len(), layers.len());
            return Err(ContentError::Malformed { what: "the config", problem });
        }
        let layers = layers
            .into_iter()
            .zip(diff_ids)
            .map(|((blob, size, member), diff_id)| PlannedLayer {
                expected: Expected { blob, diff_id },
                size,
                member,
            })
            .collect();
        Ok(Self { id: Digest::of(&config), config, layers })
    }
}

pub(crate) fn parse<T: DeserializeOwned>(
    json: &[u8],
    what: &'static str,
) -> Result<T, ContentError> {
    serde_json::from_slice(json)
        .map_err(|error| ContentError::Malformed { what, problem: error.to_string() })
}

/// Fails for documents that are too large.
pub(crate) fn check_size(size: u64, what: &'static str) -> Result<(), ContentError> {
    if size > MAX_JSON {
        return Err(ContentError::Limit { what, limit: MAX_JSON, unit: "bytes" });
    }
    Ok(())
}

/// Fails for a blob that is not what was asked for.
pub(crate) fn check_digest(
    bytes: &[u8],
    expected: Digest,
    what: &'static str,
) -> Result<(), ContentError> {
    let found = Digest::of(bytes);
    if found == expected { Ok(()) } else { Err(ContentError::Digest { what, expected, found }) }
}
