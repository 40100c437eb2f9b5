//! Taints of nodes that are not ready, and the eviction of pods that do not tolerate them.
//! <https://kubernetes.io/docs/concepts/scheduling-eviction/taint-and-toleration/>

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bulkhead_client::object::{self, list, number, text};
use bulkhead_client::{Cache, ClientError, DeleteOptions, Informers, Kind, Patch, Target};
use serde_json::{Value, json};
use time::OffsetDateTime;

use crate::context::{Context, on_change, unless_gone};
use crate::pods;
use crate::queue::{Next, Queue, Synced};

/// The taint of a node that says that it is not ready.
const NOT_READY: &str = "node.kubernetes.io/not-ready";
/// The taint of a node that says nothing any more.
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
/// The taint of a node that is cordoned.
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";
/// How many nodes and pods are synced at a time.
const WORKERS: usize = 10;

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Work {
    Node(String),
    Pod(String),
}

struct Controller {
    context: Context,
    nodes: Arc<Cache>,
    pods: Arc<Cache>,
    /// Keys of the pods of each node.
    by_node: Mutex<HashMap<String, HashSet<String>>>,
    queue: Arc<Queue<Work>>,
}

/// Taints nodes and evicts pods, for ever.
pub(crate) async fn run(informers: Arc<Informers>) {
    let context = Context::new(&informers, "taint-eviction-controller");
    let (nodes, pods) = (informers.cache(&Kind::NODES), informers.cache(&Kind::PODS));
    nodes.synced().await;
    pods.synced().await;
    let queue = Queue::new();
    let controller = Arc::new(Controller {
        context,
        nodes: Arc::clone(&nodes),
        pods: Arc::clone(&pods),
        by_node: Mutex::default(),
        queue: Arc::clone(&queue),
    });
    let (of_nodes, of_pods) = (Arc::clone(&controller), Arc::clone(&controller));
    tokio::join!(
        on_change(nodes, |node| of_nodes.queue.add(Work::Node(object::key(node)))),
        on_change(pods, |pod| of_pods.note(pod)),
        queue.work("taints", WORKERS, move |work| {
            let controller = Arc::clone(&controller);
            async move {
                match work {
                    Work::Node(name) => controller.node(&name).await,
                    Work::Pod(key) => controller.pod(&key).await,
                }
            }
        }),
    );
}

impl Controller {
    fn note(&self, pod: &Value) {
        let (key, node) = (object::key(pod), text(pod, "spec.nodeName"));
        if node.is_empty() {
            return;
        }
        let mut by_node = self.by_node.lock().unwrap_or_else(PoisonError::into_inner);
        if self.pods.get(&key).is_some() {
            by_node.entry(node.into()).or_default().insert(key.clone());
        } else if let Some(keys) = by_node.get_mut(node) {
            keys.remove(&key);
            if keys.is_empty() {
                by_node.remove(node);
            }
        }
        drop(by_node);
        if self.nodes.get(node).is_some_and(|node| !executing(&node).is_empty()) {
            self.queue.add(Work::Pod(key));
        }
    }

    fn pods_of(&self, node: &str) -> Vec<String> {
        let by_node = self.by_node.lock().unwrap_or_else(PoisonError::into_inner);
        by_node.get(node).into_iter().flatten().cloned().collect()
    }

    async fn node(&self, name: &str) -> Synced {
        let Some(node) = self.nodes.get(name) else { return Ok(Next::Change) };
        if let Some(taints) = retainted(&node, OffsetDateTime::now_utc()) {
            // None are null: the field goes.
            let taints = (!taints.is_empty()).then_some(taints);
            let patch = Patch::Merge(json!({
                "metadata": {"resourceVersion": node["metadata"]["resourceVersion"]},
                "spec": {"taints": taints},
            }));
            let client = self.context.client();
            client.patch(&Kind::NODES, None, name, Target::Main, patch).await.map(drop).or_else(
                // A conflict is tried again with what will be seen then.
                |error| if error.code == 404 { Ok(()) } else { Err(error) },
            )?;
        }
        let unready = !object::has_condition(&node, "Ready");
        if !unready && executing(&node).is_empty() {
            return Ok(Next::Change);
        }
        let lost =
            object::condition(&node, "Ready").is_some_and(|ready| ready["status"] == "Unknown");
        for key in self.pods_of(name) {
            if lost && let Some(pod) = self.pods.get(&key) {
                self.mark_not_ready(&pod).await?;
            }
            self.queue.add(Work::Pod(key));
        }
        Ok(Next::Change)
    }

    /// What runs on a node that says nothing counts as not ready.
    async fn mark_not_ready(&self, pod: &Value) -> Result<(), ClientError> {
        if !pods::is_ready(pod) {
            return Ok(());
        }
        let condition = json!({
            "type": "Ready",
            "status": "False",
            "reason": "NodeNotReady",
            "lastTransitionTime": object::now(),
        });
        let patch = Patch::Strategic(json!({
            "metadata": {"uid": pod["metadata"]["uid"]},
            "status": {"conditions": [condition]},
        }));
        let (namespace, name) = (object::namespace(pod), object::name(pod));
        let client = self.context.client();
        unless_gone(client.patch(&Kind::PODS, namespace, name, Target::Status, patch).await)
            .map(drop)
    }

    /// Evicts a pod whose time on its node is over.
    async fn pod(&self, key: &str) -> Synced {
        let Some(pod) = self.pods.get(key).filter(|pod| !object::is_terminating(pod)) else {
            return Ok(Next::Change);
        };
        let Some(node) = self.nodes.get(text(&pod, "spec.nodeName")) else {
            return Ok(Next::Change);
        };
        let taints = executing(&node);
        match stay(&taints, list(&pod, "spec.tolerations"), OffsetDateTime::now_utc()) {
            None => Ok(Next::Change),
            Some(left) if !left.is_zero() => Ok(Next::After(left)),
            Some(_) => {
                let options = DeleteOptions::of(object::uid(&pod));
                let (namespace, name) = (object::namespace(&pod), object::name(&pod));
                let client = self.context.client();
                unless_gone(client.delete(&Kind::PODS, namespace, name, &options).await)?;
                let message = format!("Marking for deletion Pod {key}");
                self.context.recorder.normal(&pod, "TaintManagerEviction", message);
                Ok(Next::Change)
            }
        }
    }
}

/// The taints that drive pods away.
fn executing(node: &Value) -> Vec<Value> {
    let taints = list(node, "spec.taints").iter();
    taints.filter(|taint| taint["effect"] == "NoExecute").cloned().collect()
}

/// The taints that a node should have by its Ready condition, if it has others.
fn retainted(node: &Value, now: OffsetDateTime) -> Option<Vec<Value>> {
    let ready = object::condition(node, "Ready").map(|ready| text(ready, "status"));
    let wanted = match ready {
        Some("True") => None,
        Some("Unknown") => Some(UNREACHABLE),
        _ => Some(NOT_READY),
    };
    let before = list(node, "spec.taints");
    let cordoned = node["spec"]["unschedulable"] == true;
    let ours = |taint: &&Value| {
        [NOT_READY, UNREACHABLE].iter().any(|key| taint["key"] == *key)
            || taint["key"] == UNSCHEDULABLE && !cordoned
    };
    let mut taints: Vec<Value> = before
        .iter()
        .filter(|taint| !ours(taint) || wanted.is_some_and(|key| taint["key"] == key))
        .cloned()
        .collect();
    for effect in ["NoSchedule", "NoExecute"] {
        let Some(key) = wanted else { break };
        // A node that has not said anything yet runs nothing that could be driven away.
        if effect == "NoExecute" && ready.is_none() {
            continue;
        }
        if !taints.iter().any(|taint| taint["key"] == key && taint["effect"] == effect) {
            taints.push(json!({"key": key, "effect": effect, "timeAdded": object::timestamp(now)}));
        }
    }
    if cordoned && !taints.iter().any(|taint| taint["key"] == UNSCHEDULABLE) {
        let since = object::timestamp(now);
        taints.push(json!({"key": UNSCHEDULABLE, "effect": "NoSchedule", "timeAdded": since}));
    }
    (taints != before).then_some(taints)
}

/// How long a pod with these tolerations may stay; `None` if for ever.
fn stay(taints: &[Value], tolerations: &[Value], now: OffsetDateTime) -> Option<Duration> {
    let mut least: Option<Duration> = None;
    for taint in taints {
        let tolerating: Vec<&Value> =
            tolerations.iter().filter(|toleration| tolerates(toleration, taint)).collect();
        let limits = tolerating.iter().map(|toleration| number(toleration, "tolerationSeconds"));
        let seconds = match limits.collect::<Option<Vec<i64>>>() {
            _ if tolerating.is_empty() => 0,
            // One without a limit does not shorten what another limits.
            None => {
                match tolerating.iter().filter_map(|one| number(one, "tolerationSeconds")).min() {
                    Some(seconds) => seconds,
                    None => continue,
                }
            }
            Some(limits) => limits.into_iter().min().unwrap_or(0),
        };
        let since = object::parse_time(text(taint, "timeAdded")).unwrap_or(now);
        // Beyond a century is for ever, and keeps the sum in range.
        let end = since + time::Duration::seconds(seconds.clamp(0, 3_200_000_000));
        let left = Duration::try_from(end - now).unwrap_or(Duration::ZERO);
        least = Some(least.map_or(left, |least| least.min(left)));
    }
    least
}

fn tolerates(toleration: &Value, taint: &Value) -> bool {
    let effect = text(toleration, "effect");
    let key = text(toleration, "key");
    let same_value = text(toleration, "value") == text(taint, "value");
    (effect.is_empty() || effect == text(taint, "effect"))
        && (key.is_empty() || key == text(taint, "key"))
        && match text(toleration, "operator") {
            "Exists" => true,
            "" | "Equal" => same_value && !key.is_empty(),
            _ => false,
        }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> OffsetDateTime {
        OffsetDateTime::UNIX_EPOCH + time::Duration::seconds(seconds)
    }

    #[test]
    fn a_node_is_tainted_while_it_is_not_ready() {
        let mut node = json!({"spec": {"taints": [{"key": "own", "effect": "NoExecute"}]}, "status": {"conditions": []}});
        let mut step = |ready: &str| -> Option<Vec<(String, String)>> {
            node["status"]["conditions"] = json!([{"type": "Ready", "status": ready}]);
            let taints = retainted(&node, at(0))?;
            node["spec"]["taints"] = taints.clone().into();
            Some(
                taints
                    .iter()
                    .map(|taint| (text(taint, "key").into(), text(taint, "effect").into()))
                    .collect(),
            )
        };
        let taint = |key: &str, effect: &str| (key.to_owned(), effect.to_owned());
        let own = taint("own", "NoExecute");
        let both = |key| vec![own.clone(), taint(key, "NoSchedule"), taint(key, "NoExecute")];
        assert_eq!(step("True"), None);
        assert_eq!(step("Unknown"), Some(both(UNREACHABLE)));
        assert_eq!(step("Unknown"), None);
        assert_eq!(step("False"), Some(both(NOT_READY)));
        assert_eq!(step("True"), Some(vec![own.clone()]));
    }

    #[test]
    fn a_cordoned_node_is_tainted_until_it_is_not() {
        let ready = json!([{"type": "Ready", "status": "True"}]);
        let mut node = json!({"spec": {"unschedulable": true}, "status": {"conditions": ready}});
        let taints = retainted(&node, at(0)).unwrap();
        assert_eq!(taints.len(), 1);
        assert_eq!(
            (&taints[0]["key"], &taints[0]["effect"]),
            (&json!(UNSCHEDULABLE), &json!("NoSchedule"))
        );
        node["spec"]["taints"] = taints.into();
        assert_eq!(retainted(&node, at(1)), None);
        node["spec"]["unschedulable"] = false.into();
        assert_eq!(retainted(&node, at(1)), Some(Vec::new()));
    }

    #[test]
    fn pods_stay_as_long_as_they_tolerate() {
        let taints = [
            json!({"key": UNREACHABLE, "effect": "NoExecute", "timeAdded": object::timestamp(at(0))}),
        ];
        let exists = |seconds: Option<i64>| json!({"key": UNREACHABLE, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": seconds});
        let seconds = |tolerations: &[Value], now: i64| {
            stay(&taints, tolerations, at(now)).map(|left| left.as_secs())
        };
        assert_eq!(seconds(&[], 5), Some(0));
        assert_eq!(seconds(&[exists(Some(300))], 5), Some(295));
        assert_eq!(seconds(&[exists(Some(300))], 301), Some(0));
        assert_eq!(seconds(&[exists(None)], 5), None);
        assert_eq!(seconds(&[exists(None), exists(Some(60))], 5), Some(55));
        assert_eq!(seconds(&[json!({"operator": "Exists"})], 5), None);
        assert_eq!(seconds(&[json!({"key": "other", "operator": "Exists"})], 5), Some(0));
        assert_eq!(stay(&[], &[], at(0)), None);
    }
}
