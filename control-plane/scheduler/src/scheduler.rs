//! Binds pods to nodes.
//!
//! It keeps what nodes have and what their pods request, takes pods in the order of their
//! creation, filters and scores the nodes, and posts a Binding. A pod that fits nowhere is told
//! why, by an event and its `PodScheduled` condition, and is tried again, with growing delay,
//! once a node or pod has changed.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use bulkhead_client::object::{self, now};
use bulkhead_client::{Change, Client, ClientError, Informers, Kind, Patch, Target, Told};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::filter::{self, Demand, Node, Resources};

const NAME: &str = "default-scheduler";
/// The delay before a pod is tried again, doubled from the first to the last.
const BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(10));

struct Pending {
    pod: Arc<Value>,
    /// Something changed since the last try.
    eligible: bool,
    not_before: Instant,
    backoff: Duration,
    message: String,
}

#[derive(Default)]
struct State {
    nodes: BTreeMap<String, Node>,
    /// Pods that take room: their node and requests.
    placed: HashMap<String, (String, Resources)>,
    pending: BTreeMap<String, Pending>,
    nodes_known: bool,
}

/// A binding that did not succeed.
type Failed = (String, Arc<Value>, ClientError);

/// Schedules, for ever.
pub async fn run(informers: Arc<Informers>) {
    let client = Arc::clone(informers.client());
    let mut nodes = informers.follow(&Kind::NODES);
    let mut pods = informers.follow(&Kind::PODS);
    let (failures, mut failed) = mpsc::unbounded_channel::<Failed>();
    let mut state = State::default();
    loop {
        let wake = state.next_try();
        tokio::select! {
            Some(told) = nodes.recv() => state.nodes_told(told),
            Some(told) = pods.recv() => state.pods_told(told),
            Some((key, pod, error)) = failed.recv() => {
                tracing::warn!(pod = key, %error, "binding");
                state.forget(&key);
                if !matches!(error.code, 404 | 409) {
                    state.enqueue(key, pod);
                }
            }
            () = tokio::time::sleep_until(wake.unwrap_or_else(Instant::now)), if wake.is_some() => {}
            else => return,
        }
        // What else is known already counts before anything is decided.
        while let Ok(told) = nodes.try_recv() {
            state.nodes_told(told);
        }
        while let Ok(told) = pods.try_recv() {
            state.pods_told(told);
        }
        if state.nodes_known {
            state.schedule(&client, &failures).await;
        }
    }
}

impl State {
    fn nodes_told(&mut self, told: Told) {
        match told {
            Told::All(all) => {
                self.nodes_known = true;
                self.nodes = all.iter().map(|node| (object::key(node), Node::read(node))).collect();
                for (node, requests) in self.placed.values() {
                    if let Some(node) = self.nodes.get_mut(node) {
                        node.take(requests);
                    }
                }
                self.retry_all();
            }
            Told::One(Change::Present(node)) => {
                let mut read = Node::read(&node);
                let key = object::key(&node);
                let changed = match self.nodes.remove(&key) {
                    Some(before) => {
                        let changed = read.differs(&before);
                        read.keep_counts(before);
                        changed
                    }
                    None => {
                        let here = self.placed.values().filter(|(node, _)| *node == key);
                        here.for_each(|(_, requests)| read.take(requests));
                        true
                    }
                };
                self.nodes.insert(key, read);
                // A heartbeat makes no room.
                if changed {
                    self.retry_all();
                }
            }
            Told::One(Change::Gone(node)) => {
                self.nodes.remove(&object::key(&node));
                self.retry_all();
            }
        }
    }

    fn pods_told(&mut self, told: Told) {
        match told {
            Told::All(all) => {
                let present: std::collections::HashSet<_> =
                    all.iter().map(|one| object::key(one)).collect();
                self.pending.retain(|key, _| present.contains(key));
                let gone: Vec<_> =
                    self.placed.keys().filter(|key| !present.contains(*key)).cloned().collect();
                gone.iter().for_each(|key| self.forget(key));
                all.into_iter().for_each(|pod| self.pod_present(pod));
            }
            Told::One(Change::Present(pod)) => self.pod_present(pod),
            Told::One(Change::Gone(pod)) => {
                let key = object::key(&pod);
                self.pending.remove(&key);
                self.forget(&key);
            }
        }
    }

    fn pod_present(&mut self, pod: Arc<Value>) {
        let key = object::key(&pod);
        let ended = matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed"));
        let node = pod["spec"]["nodeName"].as_str().unwrap_or_default().to_owned();
        if ended {
            self.pending.remove(&key);
            self.forget(&key);
        } else if !node.is_empty() {
            self.pending.remove(&key);
            let requests = filter::requests(&pod);
            self.place(key, node, requests);
        } else if self.placed.contains_key(&key) {
            // Its binding is under way.
        } else if pod["metadata"]["deletionTimestamp"].is_string()
            || pod["spec"]["schedulerName"].as_str().is_some_and(|name| name != NAME)
            || pod["spec"]["schedulingGates"].as_array().is_some_and(|gates| !gates.is_empty())
        {
            self.pending.remove(&key);
        } else if let Some(pending) = self.pending.get_mut(&key) {
            if pending.pod["spec"] != pod["spec"] {
                pending.eligible = true;
            }
            pending.pod = pod;
        } else {
            self.enqueue(key, pod);
        }
    }

    fn enqueue(&mut self, key: String, pod: Arc<Value>) {
        let pending = Pending {
            pod,
            eligible: true,
            not_before: Instant::now(),
            backoff: BACKOFF.0,
            message: String::new(),
        };
        self.pending.insert(key, pending);
    }

    /// Counts a pod on a node, once.
    fn place(&mut self, key: String, node: String, requests: Resources) {
        if self.placed.get(&key).is_some_and(|(on, known)| *on == node && *known == requests) {
            return;
        }
        self.forget(&key);
        if let Some(node) = self.nodes.get_mut(&node) {
            node.take(&requests);
        }
        self.placed.insert(key, (node, requests));
    }

    /// Frees what a pod took, if it took any.
    fn forget(&mut self, key: &str) {
        let Some((node, requests)) = self.placed.remove(key) else { return };
        if let Some(node) = self.nodes.get_mut(&node) {
            node.release(&requests);
        }
        self.retry_all();
    }

    fn retry_all(&mut self) {
        self.pending.values_mut().for_each(|pending| pending.eligible = true);
    }

    fn next_try(&self) -> Option<Instant> {
        let eligible = self.pending.values().filter(|pending| pending.eligible);
        eligible.map(|pending| pending.not_before).min()
    }

    async fn schedule(
        &mut self,
        client: &Arc<dyn Client>,
        failures: &mpsc::UnboundedSender<Failed>,
    ) {
        let now = Instant::now();
        let due = |pending: &Pending| pending.eligible && pending.not_before <= now;
        let mut keys: Vec<(String, String)> = self
            .pending
            .iter()
            .filter(|(_, pending)| due(pending))
            .map(|(key, pending)| {
                let created = pending.pod["metadata"]["creationTimestamp"].as_str();
                (created.unwrap_or_default().to_owned(), key.clone())
            })
            .collect();
        keys.sort();
        for (_, key) in keys {
            let Some(mut pending) = self.pending.remove(&key) else { continue };
            match self.choose(&pending.pod) {
                Ok((node, requests)) => {
                    self.place(key.clone(), node.clone(), requests);
                    let (client, failures) = (Arc::clone(client), failures.clone());
                    tokio::spawn(async move {
                        if let Err(error) = bind(&client, &pending.pod, &node).await {
                            // The receiver is gone only when the scheduler ends.
                            let _ = failures.send((key, pending.pod, error));
                        }
                    });
                }
                Err(message) => {
                    if message != pending.message {
                        report(client, &pending.pod, &message).await;
                        pending.message = message;
                    }
                    pending.eligible = false;
                    pending.not_before = Instant::now() + pending.backoff;
                    pending.backoff = (pending.backoff * 2).min(BACKOFF.1);
                    self.pending.insert(key, pending);
                }
            }
        }
    }

    /// The best node for a pod, or why there is none.
    fn choose(&self, pod: &Value) -> Result<(String, Resources), String> {
        let unsupported = filter::unsupported(pod);
        if !unsupported.is_empty() {
            let fields = unsupported.join(", spec.");
            return Err(format!("the pod asks for what this scheduler does not do: spec.{fields}"));
        }
        if self.nodes.is_empty() {
            return Err("no nodes available to schedule pods".into());
        }
        let demand = Demand::of(pod);
        let mut best: Option<(f64, &String)> = None;
        let mut reasons: BTreeMap<String, usize> = BTreeMap::new();
        for (name, node) in &self.nodes {
            let why = node.reasons(&demand);
            if why.is_empty() {
                let score = node.score(&demand);
                if best.is_none_or(|(highest, _)| score > highest) {
                    best = Some((score, name));
                }
            }
            for reason in why {
                *reasons.entry(reason).or_default() += 1;
            }
        }
        if let Some((_, node)) = best {
            return Ok((node.clone(), demand.requests));
        }
        let reasons: Vec<_> =
            reasons.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
        Err(format!("0/{} nodes are available: {}.", self.nodes.len(), reasons.join(", ")))
    }
}

fn identity(pod: &Value) -> (&str, &str) {
    let text = |field: &str| pod["metadata"][field].as_str().unwrap_or_default();
    (text("namespace"), text("name"))
}

async fn bind(client: &Arc<dyn Client>, pod: &Value, node: &str) -> Result<(), ClientError> {
    let (namespace, name) = identity(pod);
    let binding = json!({
        "apiVersion": "v1",
        "kind": "Binding",
        "metadata": {"name": name, "namespace": namespace, "uid": pod["metadata"]["uid"]},
        "target": {"apiVersion": "v1", "kind": "Node", "name": node},
    });
    client.bind(namespace, name, binding).await?;
    let message = format!("Successfully assigned {namespace}/{name} to {node}");
    event(client, pod, "Normal", "Scheduled", &message).await;
    Ok(())
}

/// Tells a pod why it waits.
async fn report(client: &Arc<dyn Client>, pod: &Value, message: &str) {
    event(client, pod, "Warning", "FailedScheduling", message).await;
    let (namespace, name) = identity(pod);
    let condition = json!({
        "type": "PodScheduled",
        "status": "False",
        "reason": "Unschedulable",
        "message": message,
        "lastTransitionTime": now(),
    });
    let patch = Patch::Strategic(
        json!({"metadata": {"uid": pod["metadata"]["uid"]}, "status": {"conditions": [condition]}}),
    );
    match client.patch(&Kind::PODS, Some(namespace), name, Target::Status, patch).await {
        Ok(_) => {}
        // Gone, or another by now.
        Err(error) if matches!(error.code, 404 | 409) => {}
        Err(error) => tracing::warn!(namespace, name, %error, "reporting an unschedulable pod"),
    }
}

async fn event(client: &Arc<dyn Client>, pod: &Value, kind: &str, reason: &str, message: &str) {
    let (namespace, name) = identity(pod);
    let now = now();
    let event = json!({
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"generateName": format!("{name}."), "namespace": namespace},
        "involvedObject": {
            "apiVersion": "v1", "kind": "Pod", "namespace": namespace, "name": name,
            "uid": pod["metadata"]["uid"], "resourceVersion": pod["metadata"]["resourceVersion"],
        },
        "type": kind,
        "reason": reason,
        "message": message,
        "source": {"component": NAME},
        "reportingComponent": NAME,
        "reportingInstance": "",
        "firstTimestamp": now,
        "lastTimestamp": now,
        "count": 1,
    });
    if let Err(error) = client.create(&Kind::EVENTS, event).await {
        tracing::debug!(namespace, name, %error, "an event was not recorded");
    }
}
