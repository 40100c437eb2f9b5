//! Recording events: what a controller did to an object, and why.
//!
//! As in Kubernetes, an event that repeats is counted instead of written anew, and an object that
//! has had its share of events gets few more.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use crate::client::{Client, Kind, Patch, Target};
use crate::object;

/// An object may get so many events at once …
const BURST: u32 = 25;
/// … and one more after each of these.
const REFILL: Duration = Duration::from_secs(300);
/// Objects and events that are remembered; beyond, the memory starts anew.
const REMEMBERED: usize = 4096;

/// Records the events of one component.
pub struct Recorder {
    client: Arc<dyn Client>,
    component: &'static str,
    memory: Mutex<Memory>,
}

#[derive(Default)]
struct Memory {
    /// By the object's uid: when its share will be full again.
    shares: HashMap<String, Instant>,
    /// By uid, reason and message: namespace and name of the event, and its count.
    events: HashMap<(String, String, String), (String, String, u64)>,
}

impl std::fmt::Debug for Recorder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Recorder").field("component", &self.component).finish_non_exhaustive()
    }
}

impl Recorder {
    /// A recorder of `component`'s events.
    pub fn new(client: Arc<dyn Client>, component: &'static str) -> Arc<Self> {
        Arc::new(Self { client, component, memory: Mutex::default() })
    }

    /// Records an event of type `Normal` about `object`.
    pub fn normal(self: &Arc<Self>, object: &Value, reason: &str, message: String) {
        self.record(object, "Normal", reason, message);
    }

    /// Records an event of type `Warning` about `object`.
    pub fn warning(self: &Arc<Self>, object: &Value, reason: &str, message: String) {
        self.record(object, "Warning", reason, message);
    }

    fn record(self: &Arc<Self>, object: &Value, kind: &'static str, reason: &str, message: String) {
        let uid = object::uid(object).to_owned();
        let key = (uid.clone(), reason.to_owned(), message.clone());
        let mut memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        if memory.shares.len() > REMEMBERED || memory.events.len() > REMEMBERED {
            *memory = Memory::default();
        }
        if !memory.take_share(uid) {
            return;
        }
        let known = memory.events.get_mut(&key).map(|(namespace, name, count)| {
            *count += 1;
            (namespace.clone(), name.clone(), *count)
        });
        drop(memory);
        let event = self.event(object, kind, reason, &message);
        let this = Arc::clone(self);
        // Events are told, not waited for.
        tokio::spawn(async move { this.write(key, known, event).await });
    }

    fn event(&self, object: &Value, kind: &str, reason: &str, message: &str) -> Value {
        let metadata = &object["metadata"];
        // Events about what has no namespace lie in the default one.
        let namespace = object::namespace(object).unwrap_or("default");
        let now = object::now();
        json!({
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"generateName": format!("{}.", object::name(object)), "namespace": namespace},
            "involvedObject": {
                "apiVersion": object["apiVersion"], "kind": object["kind"],
                "namespace": metadata["namespace"], "name": metadata["name"],
                "uid": metadata["uid"], "resourceVersion": metadata["resourceVersion"],
            },
            "type": kind,
            "reason": reason,
            "message": message,
            "source": {"component": self.component},
            "reportingComponent": self.component,
            "reportingInstance": "",
            "firstTimestamp": now,
            "lastTimestamp": now,
            "count": 1,
        })
    }

    async fn write(
        &self,
        key: (String, String, String),
        known: Option<(String, String, u64)>,
        event: Value,
    ) {
        if let Some((namespace, name, count)) = known {
            let patch = json!({"count": count, "lastTimestamp": event["lastTimestamp"]});
            let patched = self
                .client
                .patch(&Kind::EVENTS, Some(&namespace), &name, Target::Main, Patch::Merge(patch))
                .await;
            match patched {
                Ok(_) => return,
                // Old events are deleted: it begins anew.
                Err(error) if error.code == 404 => {}
                Err(error) => return tracing::debug!(%error, "an event was not recorded"),
            }
        }
        match self.client.create(&Kind::EVENTS, event).await {
            Ok(event) => {
                let at = object::namespace(&event).unwrap_or_default().to_owned();
                let event = (at, object::name(&event).to_owned(), 1);
                let mut memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
                memory.events.insert(key, event);
            }
            Err(error) => tracing::debug!(%error, "an event was not recorded"),
        }
    }
}

impl Memory {
    fn take_share(&mut self, uid: String) -> bool {
        let now = Instant::now();
        let full_at = self.shares.entry(uid).or_insert(now);
        let next = (*full_at).max(now) + REFILL;
        let allowed = next - now <= REFILL * BURST;
        if allowed {
            *full_at = next;
        }
        allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Asked, Objects};

    #[tokio::test(start_paused = true)]
    async fn repeated_events_are_counted_and_many_are_dropped() {
        let objects = Objects::new([]);
        let recorder = Recorder::new(objects.clone(), "test");
        let pod = json!({"kind": "Pod", "metadata": {"namespace": "d", "name": "p", "uid": "u"}});
        recorder.normal(&pod, "Did", "it".into());
        tokio::time::sleep(Duration::from_secs(1)).await;
        recorder.normal(&pod, "Did", "it".into());
        tokio::time::sleep(Duration::from_secs(1)).await;
        let asked = objects.asked();
        assert!(matches!(&asked[0], Asked::Create(_, event) if event["count"] == 1), "{asked:?}");
        let counted = |patch: &Patch| matches!(patch, Patch::Merge(patch) if patch["count"] == 2);
        assert!(matches!(&asked[1], Asked::Patch(_, _, patch) if counted(patch)), "{asked:?}");
        for index in 0..100 {
            recorder.normal(&pod, "Did", index.to_string());
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(objects.asked().len(), 23, "of 25");
        tokio::time::sleep(REFILL).await;
        recorder.normal(&pod, "Did", "more".into());
        recorder.normal(&pod, "Did", "yet more".into());
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(objects.asked().len(), 1);
    }
}
