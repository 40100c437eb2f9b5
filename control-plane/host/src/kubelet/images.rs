//! A pod's images: found or pulled by its containers' policies, their layers attached to its node.

use std::collections::BTreeMap;
use std::time::Duration;

use bulkhead_agent_protocol::ContainerImage;
use bulkhead_images::{Image, Name, PullOptions, Reason, RegistryAuth};
use serde_json::Value;
use tokio::time::Instant;

use super::pull_secrets::PullSecrets;
use super::{Context, events};
use crate::vm::{Node, Up};

/// A failed pull is tried again after 10 s, 20 s … up to this.
const FIRST_BACKOFF: Duration = Duration::from_secs(10);
const MAX_BACKOFF: Duration = Duration::from_secs(300);

/// Why a container's image is not there.
#[derive(Debug, thiserror::Error)]
#[error("{problem}")]
pub(super) struct ImageError {
    pub(super) container: String,
    pub(super) image: String,
    kind: Kind,
    problem: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Pull,
    NeverPull,
    BadName,
    /// The image is there, but not on the node.
    Attach,
}

impl ImageError {
    /// Whether trying again changes nothing before the user does something.
    pub(super) const fn is_permanent(&self) -> bool {
        matches!(self.kind, Kind::NeverPull | Kind::BadName)
    }
}

/// Where a pod has its containers.
const LISTS: [&str; 3] = ["/spec/initContainers", "/spec/containers", EPHEMERAL];
/// Where those that it runs without.
pub(super) const EPHEMERAL: &str = "/spec/ephemeralContainers";

/// The containers of one of the [`LISTS`].
fn containers<'a>(pod: &'a Value, list: &str) -> impl Iterator<Item = &'a Value> + use<'a> {
    pod.pointer(list).and_then(Value::as_array).into_iter().flatten()
}

/// What its containers name as their images.
fn references(pod: &Value) -> Vec<String> {
    let all = LISTS.into_iter().flat_map(|list| containers(pod, list));
    all.filter_map(|container| Some(container.get("image")?.as_str()?.to_owned())).collect()
}

/// When a pod's images are tried again.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    delay: Duration,
    until: Option<Instant>,
    failures: u32,
    /// The images that were tried.
    tried: Vec<String>,
}

impl Backoff {
    /// Until when nothing is to be tried, if there is such a time. Other images than those that failed
    /// are tried at once.
    pub(super) fn waits(&self, pod: &Value) -> Option<Instant> {
        self.until.filter(|until| *until > Instant::now() && self.tried == references(pod))
    }

    /// Notes a failure; the time of the next try.
    pub(super) fn failed(&mut self, pod: &Value, permanent: bool) -> Instant {
        let references = references(pod);
        if self.tried != references {
            *self = Self { tried: references, ..Self::default() };
        }
        self.failures += 1;
        self.delay = if permanent {
            MAX_BACKOFF
        } else {
            (self.delay * 2).clamp(FIRST_BACKOFF, MAX_BACKOFF)
        };
        let until = Instant::now() + self.delay;
        self.until = Some(until);
        until
    }

    /// What the container waits for.
    pub(super) const fn reason(&self, error: &ImageError) -> &'static str {
        match error.kind {
            Kind::NeverPull => "ErrImageNeverPull",
            Kind::BadName => "InvalidImageName",
            Kind::Attach => "CreateContainerError",
            Kind::Pull if self.failures > 1 => "ImagePullBackOff",
            Kind::Pull => "ErrImagePull",
        }
    }
}

/// What pins a pod's images in the store, so that they stay while it may start containers.
fn pin_owner(context: &Context, node: &str, uid: &str) -> String {
    format!("{}/{node}/{uid}", context.cluster)
}

/// Gives a pod's images back: the pod is gone.
pub(super) async fn release(context: &Context, node: &str, uid: &str) {
    if let Err(error) = context.host.images.unpin_all(&pin_owner(context, node, uid)).await {
        tracing::warn!(node, uid, "unpinning a pod's images: {error}");
    }
}

/// The images of a pod's containers.
#[derive(Debug, Default)]
pub(super) struct Images {
    /// Pinned for the pod, their layers attached to the node; by container name.
    pub(super) there: BTreeMap<String, ContainerImage>,
    /// Why those of ephemeral containers are not: the pod runs without them.
    pub(super) missing: Vec<ImageError>,
}

/// Gets the images of all containers.
///
/// # Errors
/// If one is not to be had that the pod cannot do without.
pub(super) async fn ensure(
    context: &Context,
    node: &Node,
    up: &Up,
    pod: &Value,
    uid: &str,
) -> Result<Images, ImageError> {
    let owner = pin_owner(context, &node.plan.name, uid);
    let secrets = PullSecrets::new(context, pod);
    let mut images = Images::default();
    for list in LISTS {
        for container in containers(pod, list) {
            match ensure_one(context, node, up, &secrets, container, &owner).await {
                Ok((name, image)) => drop(images.there.insert(name, image)),
                Err(error) if list == EPHEMERAL => images.missing.push(error),
                Err(error) => return Err(error),
            }
        }
    }
    Ok(images)
}

/// A container's name and image.
async fn ensure_one(
    context: &Context,
    node: &Node,
    up: &Up,
    secrets: &PullSecrets<'_>,
    container: &Value,
    owner: &str,
) -> Result<(String, ContainerImage), ImageError> {
    let text = |field: &str| container.get(field).and_then(Value::as_str);
    let name = text("name").unwrap_or_default();
    let reference = text("image").unwrap_or_default();
    let failed = |kind, problem: String| ImageError {
        container: name.to_owned(),
        image: reference.to_owned(),
        kind,
        problem,
    };
    let policy = Policy::of(text("imagePullPolicy"), reference);
    let image = obtain(context, secrets, reference, policy)
        .await
        .map_err(|(kind, problem)| failed(kind, problem))?;
    // It may have been removed in this moment: then the next try pulls it.
    let pinned = context.host.images.pin(image.id, owner).await;
    pinned.map_err(|error| failed(Kind::Pull, error.to_string()))?;
    let mut layers = Vec::with_capacity(image.layers.len());
    for layer in &image.layers {
        let digest = layer.diff_id.to_string();
        let partition = node
            .attach_layer(up, &digest, &layer.path, layer.size)
            .await
            .map_err(|error| failed(Kind::Attach, error.message))?;
        layers.push(partition);
    }
    let image = ContainerImage {
        reference: reference.to_owned(),
        id: image.id.to_string(),
        layers,
        config: image.config,
    };
    Ok((name.to_owned(), image))
}

/// `v1.PullPolicy`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Policy {
    Always,
    IfNotPresent,
    Never,
}

impl Policy {
    /// As named, else as Kubernetes defaults it: `Always` for the tag `latest`.
    fn of(named: Option<&str>, reference: &str) -> Self {
        match named {
            Some("Always") => Self::Always,
            Some("IfNotPresent") => Self::IfNotPresent,
            Some("Never") => Self::Never,
            _ => {
                let last = reference.rsplit('/').next().unwrap_or(reference);
                let pinned = last.contains('@')
                    || last.split_once(':').is_some_and(|(_, tag)| tag != "latest");
                if pinned { Self::IfNotPresent } else { Self::Always }
            }
        }
    }
}

async fn obtain(
    context: &Context,
    secrets: &PullSecrets<'_>,
    reference: &str,
    policy: Policy,
) -> Result<Image, (Kind, String)> {
    let store = &context.host.images;
    let classed = |error: bulkhead_images::Error| match error.reason() {
        Reason::InvalidImageName => (Kind::BadName, error.to_string()),
        _ => (Kind::Pull, error.to_string()),
    };
    if policy != Policy::Always {
        if let Some(image) = store.resolve(reference).await.map_err(classed)? {
            return Ok(image);
        }
        if policy == Policy::Never {
            let problem =
                format!("Container image {reference:?} is not present with pull policy of Never");
            return Err((Kind::NeverPull, problem));
        }
    }
    let pod = secrets.pod();
    let message = format!("Pulling image {reference:?}");
    events::pod(context, pod, "Normal", "Pulling", &message);
    let began = Instant::now();
    let pulled = match (Name::parse(reference), secrets.keyring().await) {
        (Err(error), _) => Err(classed(error)),
        (_, Err(why)) => Err((Kind::Pull, why.clone())),
        (Ok(name), Ok(keyring)) => {
            pull(context, reference, keyring.find(&name)).await.map_err(classed)
        }
    };
    let (kind, message) = match &pulled {
        Ok(image) => (
            ("Normal", "Pulled"),
            format!(
                "Successfully pulled image {reference:?} in {} ms. Image size: {} bytes.",
                began.elapsed().as_millis(),
                image.size()
            ),
        ),
        Err((_, why)) => {
            (("Warning", "Failed"), format!("Failed to pull image {reference:?}: {why}"))
        }
    };
    events::pod(context, pod, kind.0, kind.1, &message);
    pulled
}

/// Pulls an image with the first of these credentials that the registry takes, or as nobody if there
/// are none.
async fn pull(
    context: &Context,
    reference: &str,
    mut credentials: impl Iterator<Item = RegistryAuth>,
) -> Result<Image, bulkhead_images::Error> {
    let mut auth = credentials.next().unwrap_or(RegistryAuth::Anonymous);
    loop {
        let options = PullOptions { auth, ..context.host.pull_options(false) };
        let pulled = context.host.images.pull(reference, options, None).await;
        match (pulled, credentials.next()) {
            (Err(_), Some(next)) => auth = next,
            (pulled, _) => return pulled,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn latest_is_pulled_always_unless_the_pod_says_otherwise() {
        for reference in ["busybox", "busybox:latest", "127.0.0.1:5000/busybox"] {
            assert_eq!(Policy::of(None, reference), Policy::Always, "{reference}");
            assert_eq!(Policy::of(Some("Never"), reference), Policy::Never);
        }
        for reference in ["busybox:1", "127.0.0.1:5000/b:1", "b@sha256:00"] {
            assert_eq!(Policy::of(None, reference), Policy::IfNotPresent, "{reference}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn pulls_back_off_and_say_so() {
        let error = ImageError {
            container: "c".into(),
            image: "i".into(),
            kind: Kind::Pull,
            problem: "no".into(),
        };
        let pod = json!({"spec": {"containers": [{"name": "c", "image": "i"}]}});
        let mut backoff = Backoff::default();
        assert!(backoff.waits(&pod).is_none());
        for seconds in [10, 20, 40, 80, 160, 300, 300] {
            let until = backoff.failed(&pod, false);
            assert_eq!((until - Instant::now()).as_secs(), seconds);
            assert_eq!(backoff.waits(&pod), Some(until));
        }
        assert_eq!(backoff.reason(&error), "ImagePullBackOff");
        let mut mended = pod;
        mended["spec"]["ephemeralContainers"] = json!([{"name": "d", "image": "j"}]);
        assert!(backoff.waits(&mended).is_none());
        backoff.failed(&mended, false);
        assert_eq!(backoff.reason(&error), "ErrImagePull");
    }
}
