//! Pods whose node is gone.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use bulkhead_client::object;
use bulkhead_client::{Change, Client, DeleteOptions, Informers, Kind, Told};
use tokio::time::Instant;

/// How long a pod's node must be gone: a node that is made anew keeps its pods.
pub(crate) const QUARANTINE: Duration = Duration::from_secs(40);
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
                        delete(&client, key, node, uid).await;
                    }
                }
            }
            else => return,
        }
    }
}

fn bound(pod: &serde_json::Value) -> Option<(String, (String, String))> {
    let node = pod["spec"]["nodeName"].as_str().filter(|node| !node.is_empty())?;
    let uid = pod["metadata"]["uid"].as_str().unwrap_or_default();
    Some((object::key(pod), (node.into(), uid.into())))
}

async fn delete(client: &Arc<dyn Client>, key: &str, node: &str, uid: &str) {
    let Some((namespace, name)) = key.split_once('/') else { return };
    let options = DeleteOptions { grace_period_seconds: Some(0), ..DeleteOptions::of(uid) };
    match client.delete(&Kind::PODS, Some(namespace), name, &options).await {
        Ok(_) => tracing::info!(pod = key, node, "deleted a pod of a node that is gone"),
        Err(error) if error.is_gone() => {}
        Err(error) => tracing::warn!(pod = key, %error, "deleting a pod of a node that is gone"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
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
}
