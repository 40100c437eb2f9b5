//! Pods that are of no use any more: those whose node is gone, and the oldest of those that have ended.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use bulkhead_client::object;
use bulkhead_client::{Change, Client, DeleteOptions, Informers, Kind, Told};
use serde_json::Value;
use tokio::time::Instant;

/// How long a pod's node must be gone: a node that is made anew keeps its pods.
pub(crate) const QUARANTINE: Duration = Duration::from_secs(40);

/// So many pods that have ended are kept, as by default in Kubernetes.
pub(crate) const ENDED: usize = 12_500;

/// How often it is looked whether there are more.
const ENDED_INTERVAL: Duration = Duration::from_secs(20);

/// Deletes pods that are bound to nodes which do not exist, for ever.
pub(crate) async fn orphaned_pods(informers: Arc<Informers>, quarantine: Duration) {
    let client = Arc::clone(informers.client());
    let mut pod_changes = informers.follow(&Kind::PODS);
    let mut node_changes = informers.follow(&Kind::NODES);
    let mut nodes: Option<HashSet<String>> = None;
    // Each bound pod with its node and uid.
    let mut pods: HashMap<String, (String, String)> = HashMap::new();
    let mut missing: HashMap<String, Instant> = HashMap::new();
    let mut tick = tokio::time::interval(quarantine / 4);
    loop {
        tokio::select! {
            Some(told) = pod_changes.recv() => match told {
                Told::All(all) => {
                    pods = all.iter().filter_map(|pod| bound(pod)).collect();
                }
                Told::One(Change::Present(pod)) => pods.extend(bound(&pod)),
                Told::One(Change::Gone(pod)) => {
                    pods.remove(&object::key(&pod));
                }
            },
            Some(told) = node_changes.recv() => match told {
                Told::All(all) => nodes = Some(all.iter().map(|one| object::key(one)).collect()),
                Told::One(Change::Present(node)) => {
                    nodes.get_or_insert_default().insert(object::key(&node));
                }
                Told::One(Change::Gone(node)) => {
                    nodes.get_or_insert_default().remove(&object::key(&node));
                }
            },
            _ = tick.tick() => {
                let Some(nodes) = &nodes else { continue };
                missing.retain(|node, _| !nodes.contains(node));
                for (key, (node, uid)) in &pods {
                    if nodes.contains(node) {
                        continue;
                    }
                    let since = missing.entry(node.clone()).or_insert_with(Instant::now);
                    if since.elapsed() >= quarantine {
                        delete(&client, key, uid, "its node is gone").await;
                    }
                }
            }
            else => return,
        }
    }
}

fn bound(pod: &Value) -> Option<(String, (String, String))> {
    let node = pod["spec"]["nodeName"].as_str().filter(|node| !node.is_empty())?;
    let uid = pod["metadata"]["uid"].as_str().unwrap_or_default();
    Some((object::key(pod), (node.into(), uid.into())))
}

/// Deletes pods that have ended when there are more than `most`, for ever: the evicted first, which
/// nobody asks for results, then the oldest.
pub(crate) async fn ended_pods(informers: Arc<Informers>, most: usize) {
    let client = Arc::clone(informers.client());
    let mut changes = informers.follow(&Kind::PODS);
    let mut pods: HashMap<String, Ended> = HashMap::new();
    let mut tick = tokio::time::interval(ENDED_INTERVAL);
    loop {
        tokio::select! {
            Some(told) = changes.recv() => match told {
                Told::All(all) => {
                    let ended = |pod: &Arc<Value>| Some((object::key(pod), Ended::of(pod)?));
                    pods = all.iter().filter_map(ended).collect();
                }
                Told::One(Change::Present(pod)) => {
                    let key = object::key(&pod);
                    // What waits for its finalizers by now is not to be deleted again.
                    match Ended::of(&pod) {
                        Some(ended) => drop(pods.insert(key, ended)),
                        None => drop(pods.remove(&key)),
                    }
                }
                Told::One(Change::Gone(pod)) => {
                    pods.remove(&object::key(&pod));
                }
            },
            _ = tick.tick() => {
                for (key, uid) in surplus(&pods, most) {
                    delete(&client, key, uid, "too many have ended").await;
                }
            }
            else => return,
        }
    }
}

/// A pod that has ended, in the order in which such go.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Ended {
    is_kept_longer: bool,
    /// In RFC 3339, in UTC: texts in their order.
    created: String,
    uid: String,
}

impl Ended {
    /// `None` of a pod that has not ended, or is being deleted already.
    fn of(pod: &Value) -> Option<Self> {
        let phase = object::text(pod, "status.phase");
        let ended = matches!(phase, "Succeeded" | "Failed") && !object::is_terminating(pod);
        ended.then(|| Self {
            is_kept_longer: object::text(pod, "status.reason") != "Evicted",
            created: object::text(pod, "metadata.creationTimestamp").to_owned(),
            uid: object::text(pod, "metadata.uid").to_owned(),
        })
    }
}

/// The pods of `all` that are to go, and their uids.
fn surplus(all: &HashMap<String, Ended>, most: usize) -> impl Iterator<Item = (&str, &str)> {
    let count = all.len().saturating_sub(most);
    let mut pods = Vec::new();
    if count > 0 {
        pods.extend(all.iter());
        pods.sort_unstable_by_key(|(_, ended)| *ended);
    }
    pods.into_iter().take(count).map(|(key, ended)| (&**key, &*ended.uid))
}

async fn delete(client: &Arc<dyn Client>, key: &str, uid: &str, why: &str) {
    let Some((namespace, name)) = key.split_once('/') else { return };
    let options = DeleteOptions { grace_period_seconds: Some(0), ..DeleteOptions::of(uid) };
    match client.delete(&Kind::PODS, Some(namespace), name, &options).await {
        Ok(_) => tracing::info!(pod = key, why, "deleted a pod"),
        Err(error) if error.is_gone() => {}
        Err(error) => tracing::warn!(pod = key, why, %error, "deleting a pod"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tokio::time::sleep;

    use super::*;
    use bulkhead_client::testing::{Asked, Objects};

    fn node(name: &str) -> Value {
        json!({"metadata": {"name": name}})
    }

    fn pod(name: &str, node: Option<&str>) -> Value {
        let metadata = json!({"namespace": "default", "name": name, "uid": format!("{name}-uid")});
        json!({"metadata": metadata, "spec": {"nodeName": node}})
    }

    #[tokio::test(start_paused = true)]
    async fn pods_of_a_node_that_stays_away_go_and_no_others() {
        let objects = Objects::new([
            (Kind::NODES, vec![node("stays"), node("goes")]),
            (
                Kind::PODS,
                vec![pod("kept", Some("stays")), pod("lost", Some("goes")), pod("pending", None)],
            ),
        ]);
        let informers = Informers::new(objects.clone());
        let controller = tokio::spawn(orphaned_pods(informers, QUARANTINE));
        sleep(QUARANTINE * 2).await;
        assert_eq!(objects.asked(), []);
        objects.gone(&Kind::NODES, node("goes"));
        sleep(QUARANTINE - Duration::from_secs(1)).await;
        assert_eq!(objects.asked(), []);
        sleep(QUARANTINE / 2).await;
        let mut asked = objects.asked();
        // The object is still there: it is asked for again.
        asked.dedup();
        assert_eq!(asked, [Asked::Delete(Kind::PODS, "lost".into(), Some("lost-uid".into()))]);
        controller.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn pods_of_a_node_that_comes_back_in_time_stay() {
        let objects =
            Objects::new([(Kind::NODES, vec![node("n")]), (Kind::PODS, vec![pod("p", Some("n"))])]);
        let informers = Informers::new(objects.clone());
        let controller = tokio::spawn(orphaned_pods(informers, QUARANTINE));
        for _ in 0..3 {
            sleep(QUARANTINE / 2).await;
            objects.gone(&Kind::NODES, node("n"));
            sleep(QUARANTINE / 2).await;
            objects.present(&Kind::NODES, node("n"));
        }
        sleep(QUARANTINE).await;
        assert_eq!(objects.asked(), []);
        controller.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn of_the_pods_that_have_ended_the_newest_are_kept() {
        let ended = |name: &str, minute: u32, phase: &str, reason: &str| {
            let mut pod = pod(name, Some("n"));
            pod["metadata"]["creationTimestamp"] = format!("2026-01-01T00:{minute:02}:00Z").into();
            pod["status"] = json!({"phase": phase, "reason": reason});
            pod
        };
        let mut going = ended("going", 0, "Failed", "");
        going["metadata"]["deletionTimestamp"] = "2026-01-01T01:00:00Z".into();
        let objects = Objects::new([(
            Kind::PODS,
            vec![
                going,
                ended("runs", 1, "Running", ""),
                ended("oldest", 2, "Succeeded", ""),
                ended("older", 3, "Failed", ""),
                ended("new", 4, "Succeeded", ""),
                ended("evicted", 5, "Failed", "Evicted"),
            ],
        )]);
        let informers = Informers::new(objects.clone());
        let controller = tokio::spawn(ended_pods(informers, 3));
        sleep(ENDED_INTERVAL / 2).await;
        objects.present(&Kind::PODS, ended("runs", 1, "Succeeded", ""));
        sleep(ENDED_INTERVAL).await;
        controller.abort();
        let mut asked: Vec<String> = Vec::new();
        for one in objects.asked() {
            match one {
                Asked::Delete(_, name, _) => asked.push(name),
                other => panic!("{other:?}"),
            }
        }
        asked.dedup();
        // The evicted goes first, then what was created first; what is going already does not count.
        let told: HashSet<&str> = asked.iter().map(String::as_str).collect();
        assert_eq!(told, HashSet::from(["evicted", "runs"]), "{asked:?}");
    }
}
