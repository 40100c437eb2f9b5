//! Events about pods and nodes, `v1.Event`.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use serde_json::{Value, json};

use super::Context;

/// Told apart within a nanosecond.
static COUNT: AtomicU64 = AtomicU64::new(0);

/// About a pod. Best effort: nothing depends on an event.
pub(super) async fn pod(context: &Context, pod: &Value, kind: &str, reason: &str, message: &str) {
    let text = |path: &str| pod.pointer(path).and_then(Value::as_str).unwrap_or_default();
    let namespace = text("/metadata/namespace");
    let involved = json!({
        "kind": "Pod",
        "apiVersion": "v1",
        "namespace": namespace,
        "name": text("/metadata/name"),
        "uid": text("/metadata/uid"),
    });
    send(context, namespace, involved, text("/spec/nodeName"), kind, reason, message).await;
}

/// About a node.
pub(super) async fn node(context: &Context, name: &str, kind: &str, reason: &str, message: &str) {
    let involved = json!({"kind": "Node", "apiVersion": "v1", "name": name, "uid": name});
    send(context, "default", involved, name, kind, reason, message).await;
}

async fn send(
    context: &Context,
    namespace: &str,
    involved: Value,
    host: &str,
    kind: &str,
    reason: &str,
    message: &str,
) {
    let now = SystemTime::now();
    let nanos = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_nanos();
    let about = involved.get("name").and_then(Value::as_str).unwrap_or_default();
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
    let path = format!("/api/v1/namespaces/{namespace}/events");
    if let Err(error) = context.kube.create(&path, &event).await {
        tracing::debug!("event {reason} about {about}: {error}");
    }
}
