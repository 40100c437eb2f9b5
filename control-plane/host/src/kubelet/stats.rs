//! What nodes and pods use, as a kubelet's Summary API tells it (`/stats/summary`,
//! <https://kubernetes.io/docs/reference/instrumentation/node-metrics/>).
//!
//! Nothing is measured unless somebody asks: an idle node costs nothing. CPU usage is a rate
//! between two measurements of which the earlier is the one of the last request; where that is too
//! long ago, a second one follows the first after [`FIRST_WINDOW`].

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use bulkhead_agent_protocol::NodeStats;
use bulkhead_agent_protocol::client::ClientError;
use bulkhead_agent_protocol::node::ContainerStats;
use futures_util::future::join_all;
use hyper::{Response, StatusCode};
use serde::Serialize;
use tokio::time::{Instant, sleep, timeout};

use super::Context;
use super::endpoint::{Body, text};
use crate::vm::{Node, NodeState, Up};

/// Between the two measurements of a node that was not measured lately.
const FIRST_WINDOW: Duration = Duration::from_secs(1);

/// For how long an answer serves other requests.
const FRESH: Duration = Duration::from_secs(5);

/// A measurement older than this is no base of a rate.
const LONGEST_WINDOW: Duration = Duration::from_secs(60);

/// How long a node may take to answer before it is left out.
const LIMIT: Duration = Duration::from_secs(8);

/// The answer to a request for the summaries of several nodes: a host's endpoint speaks for all
/// of its nodes, where a kubelet's speaks for one.
#[derive(Debug, Serialize)]
struct Summaries {
    items: Vec<Summary>,
}

/// `stats.Summary` of a kubelet, with those members that this host knows.
#[derive(Debug, Clone, Serialize)]
struct Summary {
    node: NodeSummary,
    pods: Vec<PodSummary>,
}

#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
struct NodeSummary {
    node_name: String,
    cpu: Cpu,
    memory: Memory,
    fs: FileSystem,
}

#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
struct PodSummary {
    pod_ref: PodReference,
    containers: Vec<ContainerSummary>,
}

#[derive(Debug, Clone, Serialize)]
struct PodReference {
    name: String,
    namespace: String,
    uid: String,
}

#[derive(Debug, Clone, Serialize)]
struct ContainerSummary {
    name: String,
    cpu: Cpu,
    memory: Memory,
}

#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
struct Cpu {
    time: String,
    /// Billionths of a core, on average over the window.
    usage_nano_cores: u64,
    /// CPU time in all, in nanoseconds.
    usage_core_nano_seconds: u64,
    /// How long the window was; a kubelet does not tell.
    window_nano_seconds: u64,
}

#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
struct Memory {
    time: String,
    working_set_bytes: u64,
}

#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
struct FileSystem {
    time: String,
    capacity_bytes: u64,
    used_bytes: u64,
}

/// What was measured of a node's present boot.
#[derive(Debug)]
struct Measured {
    up: Arc<Up>,
    at: Instant,
    stats: NodeStats,
    summary: Summary,
}

/// The last measurements, by node.
#[derive(Debug, Default)]
pub(super) struct Measurements(Mutex<BTreeMap<String, Arc<tokio::sync::Mutex<Option<Measured>>>>>);

impl Measurements {
    /// Forgets a node that has ended.
    pub(super) fn forget(&self, node: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(node);
    }

    fn of(&self, node: &str) -> Arc<tokio::sync::Mutex<Option<Measured>>> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(all.entry(node.to_owned()).or_default())
    }
}

/// Answers `/stats/summary`: of every node, or of those that are `named`. One that does not answer is
/// left out.
pub(super) async fn summaries(context: &Context, named: &[String]) -> Response<Body> {
    let nodes: Vec<Arc<Node>> = {
        let nodes = context.nodes.lock().unwrap_or_else(PoisonError::into_inner);
        let wanted = |name: &String| named.is_empty() || named.contains(name);
        nodes.iter().filter(|(name, _)| wanted(name)).map(|(_, node)| Arc::clone(node)).collect()
    };
    let measured = nodes.iter().map(|node| async {
        let name = &node.plan.name;
        match timeout(LIMIT, summary(context, node)).await {
            Ok(Ok(summary)) => summary,
            Ok(Err(error)) => {
                tracing::warn!(node = name, "measuring: {error}");
                None
            }
            Err(_) => {
                tracing::warn!(node = name, "measuring: no answer within {} s", LIMIT.as_secs());
                None
            }
        }
    });
    let items = join_all(measured).await.into_iter().flatten().collect();
    match serde_json::to_string(&Summaries { items }) {
        Ok(json) => text(StatusCode::OK, json),
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    }
}

/// A node's summary; `None` while it is not up.
async fn summary(context: &Context, node: &Node) -> Result<Option<Summary>, ClientError> {
    let up = match &*node.state().borrow() {
        NodeState::Up(up) => Arc::clone(up),
        _ => return Ok(None),
    };
    // Who asks meanwhile waits for this measurement and gets it too.
    let slot = context.measurements.of(&node.plan.name);
    let mut slot = slot.lock().await;
    let known = slot.as_ref().filter(|known| Arc::ptr_eq(&known.up, &up));
    if let Some(known) = known.filter(|known| known.at.elapsed() < FRESH) {
        return Ok(Some(known.summary.clone()));
    }
    let base = match known.filter(|known| known.at.elapsed() < LONGEST_WINDOW) {
        Some(known) => known.stats.clone(),
        None => {
            let first = up.agent().await?.stats().await?;
            sleep(FIRST_WINDOW).await;
            first
        }
    };
    let stats = up.agent().await?.stats().await?;
    let now = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
    let reference = |uid: &str| {
        let object = context.pods.object(uid)?;
        let text = |path: &str| object.pointer(path)?.as_str().map(str::to_owned);
        Some(PodReference {
            name: text("/metadata/name")?,
            namespace: text("/metadata/namespace")?,
            uid: uid.to_owned(),
        })
    };
    let summary = summarize(&node.plan.name, &now, &base, &stats, reference);
    *slot = Some(Measured { up, at: Instant::now(), stats, summary: summary.clone() });
    Ok(Some(summary))
}

/// What two measurements of one boot say; `reference` names a pod by its uid, if it is known.
fn summarize(
    node: &str,
    time: &str,
    base: &NodeStats,
    stats: &NodeStats,
    reference: impl Fn(&str) -> Option<PodReference>,
) -> Summary {
    let window = stats.uptime_ns.saturating_sub(base.uptime_ns);
    let cpu = |used: u64, window: u64, total: u64| Cpu {
        time: time.to_owned(),
        usage_nano_cores: rate(used, window),
        usage_core_nano_seconds: total,
        window_nano_seconds: window,
    };
    let memory = |bytes| Memory { time: time.to_owned(), working_set_bytes: bytes };
    let container = |uid: &str, now: &ContainerStats| {
        let was = base
            .pods
            .iter()
            .find(|pod| pod.uid == uid)
            .and_then(|pod| pod.containers.iter().find(|container| container.name == now.name));
        // One that has started since is measured from its start.
        let (used, window) = match was.filter(|_| now.running_ns >= window) {
            Some(was) => (now.cpu_ns.saturating_sub(was.cpu_ns), window),
            None => (now.cpu_ns, now.running_ns),
        };
        ContainerSummary {
            name: now.name.clone(),
            cpu: cpu(used, window, now.cpu_ns),
            memory: memory(now.memory),
        }
    };
    let pods = stats.pods.iter().filter_map(|pod| {
        Some(PodSummary {
            pod_ref: reference(&pod.uid)?,
            containers: pod.containers.iter().map(|now| container(&pod.uid, now)).collect(),
        })
    });
    let used = stats.cpu_ns.saturating_sub(base.cpu_ns);
    Summary {
        pods: pods.collect(),
        node: NodeSummary {
            node_name: node.to_owned(),
            cpu: cpu(used, window, stats.cpu_ns),
            memory: memory(stats.memory),
            fs: FileSystem {
                time: time.to_owned(),
                capacity_bytes: stats.scratch_total,
                used_bytes: stats.scratch_used,
            },
        },
    }
}

/// Billionths of a core: nanoseconds of CPU time in a window of so many nanoseconds.
fn rate(used: u64, window: u64) -> u64 {
    let rate = u128::from(used) * 1_000_000_000 / u128::from(window.max(1));
    u64::try_from(rate).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use bulkhead_agent_protocol::PodStats;

    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn stats(at: u64, containers: &[(&str, u64, u64)]) -> NodeStats {
        let containers = containers.iter().map(|(name, running, cpu)| ContainerStats {
            name: (*name).into(),
            running_ns: running * SECOND,
            cpu_ns: cpu * SECOND / 10,
            memory: 4096,
        });
        NodeStats {
            uptime_ns: at * SECOND,
            cpu_ns: at * SECOND / 2,
            memory: 1 << 20,
            pods: vec![PodStats { uid: "u".into(), containers: containers.collect() }],
            ..NodeStats::default()
        }
    }

    fn named(uid: &str) -> Option<PodReference> {
        let (name, namespace) = ("p".into(), "ns".into());
        (uid == "u").then(|| PodReference { name, namespace, uid: uid.into() })
    }

    #[test]
    fn a_rate_is_taken_over_the_window_or_since_the_start() {
        let base = stats(100, &[("old", 50, 10), ("restarted", 50, 1000)]);
        let now = stats(110, &[("old", 60, 60), ("restarted", 4, 8), ("new", 5, 50)]);
        let summary = summarize("n", "now", &base, &now, named);
        assert_eq!(summary.node.cpu.usage_nano_cores, SECOND / 2);
        assert_eq!(summary.node.cpu.window_nano_seconds, 10 * SECOND);
        let rates: Vec<_> = summary.pods[0]
            .containers
            .iter()
            .map(|one| (&*one.name, one.cpu.usage_nano_cores, one.cpu.window_nano_seconds))
            .collect();
        let expected = [
            ("old", SECOND / 2, 10 * SECOND),
            ("restarted", SECOND / 5, 4 * SECOND),
            ("new", SECOND, 5 * SECOND),
        ];
        assert_eq!(rates, expected);
    }

    #[test]
    fn a_pod_that_nobody_knows_is_left_out_and_no_window_divides_by_nothing() {
        let mut now = stats(5, &[("c", 0, 0)]);
        now.pods.push(PodStats { uid: "stray".into(), containers: Vec::new() });
        let summary = summarize("n", "now", &now, &now, named);
        assert_eq!(summary.pods.len(), 1);
        assert_eq!(summary.pods[0].containers[0].cpu.usage_nano_cores, 0);
    }
}
