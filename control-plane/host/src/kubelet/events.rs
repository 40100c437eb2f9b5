//! Events about pods and nodes, `v1.Event`.
//!
//! They are posted one after another by a task of their own: no pod waits for what is said of it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::Context;
use super::client::Kube;

/// Events that may wait to be posted; what comes on top is not told.
const BACKLOG: usize = 1024;

/// Told apart within a nanosecond.
static COUNT: AtomicU64 = AtomicU64::new(0);

/// An event and the path that it is posted to.
#[derive(Debug)]
pub(super) struct Posting {
    path: String,
    event: Value,
}

/// The way to the task that posts.
pub(super) fn channel() -> (mpsc::Sender<Posting>, mpsc::Receiver<Posting>) {
    mpsc::channel(BACKLOG)
}

/// Posts until aborted.
pub(super) async fn post(kube: Kube, mut postings: mpsc::Receiver<Posting>) {
    while let Some(Posting { path, event }) = postings.recv().await {
        if let Err(error) = kube.create(&path, &event).await {
            tracing::debug!("event at {path}: {error}");
        }
    }
}

/// About a pod. Best effort: nothing depends on an event.
pub(super) fn pod(context: &Context, pod: &Value, kind: &str, reason: &str, message: &str) {
    send(context, reference("Pod", pod), text(pod, "/spec/nodeName"), kind, reason, message);
}

/// About a Service.
pub(super) fn service(context: &Context, service: &Value, kind: &str, reason: &str, message: &str) {
    send(context, reference("Service", service), "", kind, reason, message);
}

/// About a node.
pub(super) fn node(context: &Context, name: &str, kind: &str, reason: &str, message: &str) {
    let involved = json!({"kind": "Node", "apiVersion": "v1", "name": name, "uid": name});
    send(context, involved, name, kind, reason, message);
}

fn text<'a>(object: &'a Value, path: &str) -> &'a str {
    object.pointer(path).and_then(Value::as_str).unwrap_or_default()
}

/// An object in a namespace, as events refer to it.
fn reference(kind: &str, object: &Value) -> Value {
    json!({
        "kind": kind,
        "apiVersion": "v1",
        "namespace": text(object, "/metadata/namespace"),
        "name": text(object, "/metadata/name"),
        "uid": text(object, "/metadata/uid"),
    })
}

fn send(context: &Context, involved: Value, host: &str, kind: &str, reason: &str, message: &str) {
    let now = SystemTime::now();
    let nanos = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_nanos();
    let about = text(&involved, "/name");
    // What is in none has its events there.
    let namespace = involved.get("namespace").and_then(Value::as_str).unwrap_or("default");
    let path = format!("/api/v1/namespaces/{namespace}/events");
    let name = format!("{about}.{nanos:x}{:x}", COUNT.fetch_add(1, Ordering::Relaxed) & 0xff);
    let time = humantime::format_rfc3339_seconds(now).to_string();
    let event = json!({
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": name, "namespace": namespace},
        "involvedObject": involved,
        "type": kind,
        "reason": reason,
        "message": message,
        "count": 1,
        "firstTimestamp": time,
        "lastTimestamp": time,
        "source": {"component": "bulkhead-host", "host": host},
        "reportingComponent": "bulkhead-host",
        "reportingInstance": host,
    });
    if context.events.try_send(Posting { path, event }).is_err() {
        tracing::debug!("event {reason} about {about}: {BACKLOG} wait already");
    }
}
