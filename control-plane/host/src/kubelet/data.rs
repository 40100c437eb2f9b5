//! What a pod needs of other objects: read from the API with the host's credentials, as the guest
//! has none, and sent to its agent.
//!
//! Objects are read when a pod starts and then, while it runs, every [`REFRESH`]: a kubelet's
//! `Cache` strategy, with a shorter life. Tokens are asked for anew after four fifths of theirs.

mod compose;
mod tokens;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use base64::Engine as _;
use bulkhead_agent_protocol::downward::Surroundings;
use bulkhead_agent_protocol::pod::EnvVarSource;
use bulkhead_agent_protocol::volume::VolumeProjection;
use bulkhead_agent_protocol::{Pod, PodData};
use serde_json::Value;
use tokio::time::Instant;

use super::client::{Kube, KubeError};

pub(super) use compose::Problem;
pub(super) use tokens::Tokens;

/// How often a running pod's objects are read again.
const REFRESH: Duration = Duration::from_secs(10);

/// How often one that lacks something is looked at.
const RETRY: Duration = Duration::from_secs(2);

/// The kinds whose contents pods use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    ConfigMap,
    Secret,
}

impl Kind {
    const fn plural(self) -> &'static str {
        match self {
            Self::ConfigMap => "configmaps",
            Self::Secret => "secrets",
        }
    }

    const fn singular(self) -> &'static str {
        match self {
            Self::ConfigMap => "configmap",
            Self::Secret => "secret",
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::ConfigMap => "ConfigMap",
            Self::Secret => "Secret",
        }
    }
}

/// An object's keys.
type Keys = BTreeMap<String, Vec<u8>>;

/// What was read, by kind and name; what is not there is not in it.
type Objects = BTreeMap<(Kind, String), Keys>;

/// What a pod is given, and when to look again.
#[derive(Debug)]
pub(super) struct Resolved {
    pub(super) data: PodData,
    pub(super) until: Option<Instant>,
}

/// Reads everything that a pod refers to and makes of it what its agent is sent.
pub(super) async fn resolve(
    kube: &Kube,
    pod: &Pod,
    around: Surroundings,
    tokens: &mut Tokens,
) -> Result<Resolved, Problem> {
    let references = references(pod);
    let (objects, refreshed) =
        tokio::join!(read(kube, pod, &references), tokens.refresh(kube, pod));
    let objects = objects?;
    refreshed?;
    let data = compose::compose(pod, &objects, tokens, around)?;
    let lacks = data.environment.values().any(|environment| environment.problem.is_some());
    let reread = match (references.is_empty(), lacks) {
        (true, _) => None,
        (false, true) => Some(Instant::now() + RETRY),
        (false, false) => Some(Instant::now() + REFRESH),
    };
    let until = reread.into_iter().chain(tokens.due()).min();
    Ok(Resolved { data, until })
}

async fn read(
    kube: &Kube,
    pod: &Pod,
    references: &BTreeSet<(Kind, String)>,
) -> Result<Objects, Problem> {
    let read = references.iter().map(|(kind, name)| async move {
        let path = format!(
            "/api/v1/namespaces/{}/{}/{}",
            pod.metadata.namespace,
            kind.plural(),
            segment(name)
        );
        match kube.get(&path).await {
            Ok(object) => Ok(Some(((*kind, name.clone()), keys(*kind, &object)))),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(unreadable(*kind, name, &error)),
        }
    });
    let read = futures_util::future::try_join_all(read).await?;
    Ok(read.into_iter().flatten().collect())
}

/// A name as a segment of a path: a pod's author may have written anything.
pub(super) fn segment(name: &str) -> percent_encoding::PercentEncode<'_> {
    const LEFT: &percent_encoding::AsciiSet =
        &percent_encoding::NON_ALPHANUMERIC.remove(b'-').remove(b'.');
    percent_encoding::utf8_percent_encode(name, LEFT)
}

fn unreadable(kind: Kind, name: &str, error: &KubeError) -> Problem {
    Problem::Unreadable(format!("{} {name:?}: {error}", kind.singular()))
}

/// Every object that the pod names.
fn references(pod: &Pod) -> BTreeSet<(Kind, String)> {
    let mut all = BTreeSet::new();
    let mut add = |kind, name: &str| {
        all.insert((kind, name.to_owned()));
    };
    for volume in &pod.spec.volumes {
        if let Some(source) = &volume.config_map {
            add(Kind::ConfigMap, &source.name);
        }
        if let Some(source) = &volume.secret {
            add(Kind::Secret, &source.secret_name);
        }
        for projection in volume.projected.iter().flat_map(|projected| &projected.sources) {
            match projection {
                VolumeProjection::ConfigMap(source) => add(Kind::ConfigMap, &source.name),
                VolumeProjection::Secret(source) => add(Kind::Secret, &source.name),
                VolumeProjection::DownwardApi(_) | VolumeProjection::ServiceAccountToken(_) => {}
            }
        }
    }
    for container in pod.spec.all_containers() {
        for source in &container.env_from {
            for (kind, reference) in
                [(Kind::ConfigMap, &source.config_map_ref), (Kind::Secret, &source.secret_ref)]
            {
                if let Some(reference) = reference {
                    add(kind, &reference.name);
                }
            }
        }
        for variable in &container.env {
            match &variable.value_from {
                Some(EnvVarSource::ConfigMapKeyRef(key)) => add(Kind::ConfigMap, &key.name),
                Some(EnvVarSource::SecretKeyRef(key)) => add(Kind::Secret, &key.name),
                Some(EnvVarSource::FieldRef(_) | EnvVarSource::ResourceFieldRef(_)) | None => {}
            }
        }
    }
    all
}

/// The keys of an object as the API has it.
fn keys(kind: Kind, object: &Value) -> Keys {
    let strings = |field: &str| {
        let map = object.get(field).and_then(Value::as_object);
        map.into_iter().flatten().filter_map(|(key, value)| Some((key.clone(), value.as_str()?)))
    };
    // The API server has checked what is base64.
    let decoded = |(key, text): (String, &str)| {
        let bytes = base64::engine::general_purpose::STANDARD.decode(text).ok()?;
        Some((key, bytes))
    };
    match kind {
        Kind::ConfigMap => strings("data")
            .map(|(key, text)| (key, text.as_bytes().to_vec()))
            .chain(strings("binaryData").filter_map(decoded))
            .collect(),
        Kind::Secret => strings("data").filter_map(decoded).collect(),
    }
}
