//! DaemonSets: a pod on every node that fits.
//! <https://kubernetes.io/docs/concepts/workloads/controllers/daemonset/>
//!
//! [`placement`] says which nodes fit, [`plan`] decides; this module reads the caches and writes.

mod placement;
mod plan;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bulkhead_client::object::{self, number, text};
use bulkhead_client::{Cache, Informers, Kind, Selector};
use serde_json::Value;
use time::OffsetDateTime;
use tokio::time::Instant;

use self::placement::{Fit, Placement, node_of};
use self::plan::{Plan, Site};
use crate::claim::claim;
use crate::context::{
    Context, Owner, add_controller, add_controller_or_adopters, on_change, write_status,
};
use crate::history::{History, REVISION_LABEL, REVISIONS, revision_of};
use crate::pod_control::{PodControl, Wording};
use crate::queue::{Next, Queue, Synced};

/// DaemonSets.
pub(crate) const DAEMON_SETS: Kind = Kind::new("apps", "v1", "daemonsets");
/// How many sets are synced at a time.
const WORKERS: usize = 2;
/// The delays before a pod that failed is replaced on its node, doubled from the first to the last.
const BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(15 * 60));
const OWNER: Owner = Owner { resource: DAEMON_SETS, api_version: "apps/v1", kind: "DaemonSet" };

/// Keeps DaemonSets, for ever.
pub(crate) async fn run(informers: Arc<Informers>) {
    let context = Context::new(&informers, "daemonset-controller");
    let sets = informers.cache(&DAEMON_SETS);
    let pods = informers.cache(&Kind::PODS);
    let nodes = informers.cache(&Kind::NODES);
    let revisions = informers.cache(&REVISIONS);
    sets.synced().await;
    pods.synced().await;
    nodes.synced().await;
    revisions.synced().await;
    let queue = Queue::new();
    let (set_queue, pod_queue, node_queue, revision_queue) =
        (Arc::clone(&queue), Arc::clone(&queue), Arc::clone(&queue), Arc::clone(&queue));
    let (watched, of_nodes, all_nodes) = (Arc::clone(&sets), Arc::clone(&sets), Arc::clone(&nodes));
    let mut looks: HashMap<String, Look> = HashMap::new();
    let controller = Arc::new(Controller {
        history: History::new(context.clone(), OWNER, REVISION_LABEL, Arc::clone(&revisions)),
        control: PodControl::new(context, Wording::Plain),
        sets: Arc::clone(&sets),
        pods: Arc::clone(&pods),
        nodes: Arc::clone(&nodes),
        failures: Mutex::default(),
    });
    tokio::join!(
        on_change(sets, |set| set_queue.add(object::key(set))),
        on_change(pods, |pod| {
            add_controller_or_adopters(&pod_queue, pod, OWNER.api_version, OWNER.kind, &watched);
        }),
        on_change(nodes, |node| {
            // Nodes tell of themselves all the time; what does not decide where pods go is nothing.
            let name = object::name(node);
            let look = all_nodes.get(name).map(|node| Look::of(&node));
            let changed = look.as_ref() != looks.get(name);
            match look {
                Some(look) => looks.insert(name.to_owned(), look),
                None => looks.remove(name),
            };
            if changed {
                of_nodes.all().iter().for_each(|set| node_queue.add(object::key(set)));
            }
        }),
        on_change(revisions, |one| {
            add_controller(&revision_queue, one, OWNER.api_version, OWNER.kind);
        }),
        queue.work(OWNER.kind, WORKERS, move |key| {
            let controller = Arc::clone(&controller);
            async move { controller.sync(&key).await }
        }),
    );
}

/// What of a node decides whether pods go there.
#[derive(Debug, PartialEq)]
struct Look {
    labels: Value,
    taints: Value,
}

impl Look {
    fn of(node: &Value) -> Self {
        let (labels, taints) = (&node["metadata"]["labels"], &node["spec"]["taints"]);
        Self { labels: labels.clone(), taints: taints.clone() }
    }
}

struct Controller {
    history: History,
    control: PodControl,
    sets: Arc<Cache>,
    pods: Arc<Cache>,
    nodes: Arc<Cache>,
    failures: Mutex<Failures>,
}

impl Controller {
    async fn sync(&self, key: &str) -> Synced {
        // What the last sync wrote must be seen first; its events bring the key back.
        if !self.control.is_in(key, &self.pods) || !self.history.is_in(key) {
            return Ok(Next::Change);
        }
        let Some(set) = self.sets.get(key) else { return Ok(Next::Change) };
        let selector = Selector::read(&set["spec"]["selector"]).unwrap_or_default();
        // One that is being deleted leaves its pods to the garbage collector.
        if selector.is_empty() || object::is_terminating(&set) {
            return Ok(Next::Change);
        }
        let revisions = self.history.of(&set, &selector).await?;
        let ours = |pod: &Value| selector.selects(pod);
        let context = &self.control.context;
        let pods = claim(context, &OWNER, &set, &Kind::PODS, &self.pods, &ours).await?;
        let current = self.history.current(key, &set, &revisions).await?;
        let hash = revision_of(&current.revision).to_owned();

        let now = OffsetDateTime::now_utc();
        let (sites, lost) = self.sites(&set, &pods);
        let plan = Plan::read(&set, &hash);
        let mut steps = plan.steps(&sites, now);
        steps.delete.extend(lost);
        let mut next = Next::Change;
        for (node, pod) in std::mem::take(&mut steps.ended) {
            match self.take_failed(&set, &node, &pod) {
                None => steps.delete.push(pod),
                Some(wait) => next = next.sooner(wait),
            }
        }
        let pods_of = |node: String| placement::pod(&set, &hash, &node);
        let made = self.control.create(key, &set, steps.create.into_iter().map(pods_of)).await;
        let deleted = self.control.delete(key, &set, &steps.delete).await;

        let mut status = plan.counts(&sites, now);
        status["observedGeneration"] = set["metadata"]["generation"].clone();
        for (field, value) in [
            ("collisionCount", (current.collisions > 0).then(|| current.collisions.into())),
            ("conditions", set["status"].get("conditions").cloned()),
        ] {
            if let Some(value) = value {
                status[field] = value;
            }
        }
        write_status(context.client(), &DAEMON_SETS, &set, &status).await?;
        made.and(deleted).map_err(|failure| failure.error)?;
        let live: HashSet<&str> = pods.iter().map(|pod| revision_of(pod)).collect();
        let live = revisions.iter().filter(|one| live.contains(revision_of(one)));
        let live = live.map(|one| object::name(one));
        let live: HashSet<&str> = live.chain([object::name(&current.revision)]).collect();
        self.history.trim(&set, &revisions, &live).await?;
        let min_ready = number(&set, "spec.minReadySeconds").unwrap_or(0);
        if let Ok(wait @ 1..) = u64::try_from(min_ready)
            && status.get("numberReady") != status.get("numberAvailable")
        {
            next = next.sooner(Duration::from_secs(wait));
        }
        Ok(next)
    }

    /// Every node with the set's pods, and the pods that wait for nodes which are gone.
    fn sites(&self, set: &Value, pods: &[Arc<Value>]) -> (BTreeMap<String, Site>, Vec<Arc<Value>>) {
        let placement = Placement::read(set);
        let mut sites: BTreeMap<String, Site> = self
            .nodes
            .all()
            .iter()
            .map(|node| {
                let site = Site { fit: placement.fit(node), pods: Vec::new() };
                (object::name(node).to_owned(), site)
            })
            .collect();
        let mut lost = Vec::new();
        for pod in pods {
            match sites.get_mut(node_of(pod)) {
                Some(site) => site.pods.push(Arc::clone(pod)),
                None if text(pod, "spec.nodeName").is_empty() && !object::is_terminating(pod) => {
                    lost.push(Arc::clone(pod));
                }
                // The node of a pod that is bound may come back; if not, others delete the pod.
                None => {}
            }
        }
        sites.values_mut().for_each(|site| plan::by_age(&mut site.pods));
        sites.retain(|_, site| site.fit != Fit::No || !site.pods.is_empty());
        (sites, lost)
    }

    /// Tells of a pod that ended, which must not. How long to wait before it may be deleted, if it
    /// is one of many.
    fn take_failed(&self, set: &Value, node: &str, pod: &Value) -> Option<Duration> {
        let failed = text(pod, "status.phase") == "Failed";
        if failed {
            let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(wait) = failures.wait(object::uid(set), node) {
                return Some(wait);
            }
        }
        let key = object::key(pod);
        let recorder = &self.control.context.recorder;
        if failed {
            let message =
                format!("Found failed daemon pod {key} on node {node}, will try to kill it");
            recorder.warning(set, "FailedDaemonPod", message);
        } else {
            let message =
                format!("Found succeeded daemon pod {key} on node {node}, will try to delete it");
            recorder.normal(set, "SucceededDaemonPod", message);
        }
        None
    }
}

/// How often pods of a set failed on a node, of late.
#[derive(Debug, Default)]
struct Failures(HashMap<(String, String), (Instant, Duration)>);

impl Failures {
    /// How long to wait; none if the time is over, which counts as one more failure.
    fn wait(&mut self, uid: &str, node: &str) -> Option<Duration> {
        let now = Instant::now();
        // What has been well for long is forgotten.
        self.0.retain(|_, (since, _)| now - *since < 2 * BACKOFF.1);
        let failure = self.0.entry((uid.to_owned(), node.to_owned()));
        let failure = failure.or_insert((now, Duration::ZERO));
        let (since, delay) = *failure;
        if now - since < delay {
            return Some(delay - (now - since));
        }
        *failure = (now, (delay * 2).clamp(BACKOFF.0, BACKOFF.1));
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_fails_again_waits_ever_longer() {
        let mut failures = Failures::default();
        assert_eq!(failures.wait("u", "n"), None);
        assert_eq!(failures.wait("u", "n"), Some(Duration::from_secs(1)));
        assert_eq!(failures.wait("u", "other"), None);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(failures.wait("u", "n"), None);
        assert_eq!(failures.wait("u", "n"), Some(Duration::from_secs(2)));
        tokio::time::advance(2 * BACKOFF.1).await;
        assert_eq!(failures.wait("u", "n"), None);
        assert_eq!(failures.wait("u", "n"), Some(Duration::from_secs(1)));
    }
}
