//! ReplicaSets and ReplicationControllers: as many pods of a template as wanted.
//! <https://kubernetes.io/docs/concepts/workloads/controllers/replicaset/>

mod rank;

use std::sync::Arc;
use std::time::Duration;

use bulkhead_client::object::{self, condition, list, number, text};
use bulkhead_client::{Cache, Informers, Kind, Selector};
use serde_json::{Value, json};
use time::OffsetDateTime;

use crate::claim::claim;
use crate::context::{
    Context, Owner, controller_key, controller_reference, on_change, write_status,
};
use crate::pod_control::{Failure, PodControl, Wording};
use crate::pods;
use crate::queue::{Next, Queue, Synced};

/// A sync makes or deletes at most so many pods.
const BURST: usize = 500;
/// How many objects are synced at a time.
const WORKERS: usize = 5;
/// ReplicationControllers.
pub(crate) const CONTROLLERS: Kind = Kind::core("replicationcontrollers");
/// ReplicaSets.
pub(crate) const SETS: Kind = Kind::new("apps", "v1", "replicasets");

/// Keeps ReplicaSets, for ever.
pub(crate) async fn run_sets(informers: Arc<Informers>) {
    let owner = Owner { resource: SETS, api_version: "apps/v1", kind: "ReplicaSet" };
    let read = |set: &Value| Selector::read(&set["spec"]["selector"]).ok();
    run(Context::new(&informers, "replicaset-controller"), owner, read).await;
}

/// Keeps ReplicationControllers, for ever.
pub(crate) async fn run_controllers(informers: Arc<Informers>) {
    let owner = Owner { resource: CONTROLLERS, api_version: "v1", kind: "ReplicationController" };
    let read = |set: &Value| Some(Selector::of_labels(&set["spec"]["selector"]));
    run(Context::new(&informers, "replication-controller"), owner, read).await;
}

struct Controller {
    control: PodControl,
    owner: Owner,
    selector: fn(&Value) -> Option<Selector>,
    sets: Arc<Cache>,
    pods: Arc<Cache>,
}

async fn run(context: Context, owner: Owner, selector: fn(&Value) -> Option<Selector>) {
    let sets = context.informers.cache(&owner.resource);
    let pods = context.informers.cache(&Kind::PODS);
    sets.synced().await;
    pods.synced().await;
    let queue = Queue::new();
    let (api_version, kind) = (owner.api_version, owner.kind);
    let controller = Arc::new(Controller {
        control: PodControl::new(context, Wording::Plain),
        owner,
        selector,
        sets: Arc::clone(&sets),
        pods: Arc::clone(&pods),
    });
    let (set_queue, pod_queue, watched) =
        (Arc::clone(&queue), Arc::clone(&queue), Arc::clone(&controller));
    tokio::join!(
        on_change(Arc::clone(&sets), |set| set_queue.add(object::key(set))),
        on_change(pods, |pod| match controller_key(pod, api_version, kind) {
            Some(key) => pod_queue.add(key),
            None => watched.who_may_adopt(pod).into_iter().for_each(|key| pod_queue.add(key)),
        }),
        queue.work(kind, WORKERS, move |key| {
            let controller = Arc::clone(&controller);
            async move { controller.sync(&key).await }
        }),
    );
}

impl Controller {
    /// The sets that select a pod which nobody controls.
    fn who_may_adopt(&self, pod: &Value) -> Vec<String> {
        let Some(namespace) = object::namespace(pod).filter(|_| object::controller(pod).is_none())
        else {
            return Vec::new();
        };
        let selects = |set: &Arc<Value>| {
            (self.selector)(set)
                .is_some_and(|selector| !selector.is_empty() && selector.selects(pod))
        };
        let sets = self.sets.in_namespace(namespace);
        sets.iter().filter(|set| selects(set)).map(|set| object::key(set)).collect()
    }

    async fn sync(&self, key: &str) -> Synced {
        // What the last sync made must be seen first; its events bring the key back.
        if !self.control.is_in(key, &self.pods) {
            return Ok(Next::Change);
        }
        let Some(set) = self.sets.get(key) else { return Ok(Next::Change) };
        let Some(selector) = (self.selector)(&set).filter(|selector| !selector.is_empty()) else {
            return Ok(Next::Change);
        };
        let (context, owner) = (&self.control.context, &self.owner);
        let claimed =
            claim(context, owner, &set, &Kind::PODS, &self.pods, &|pod| selector.selects(pod))
                .await?;
        let (active, _): (Vec<_>, Vec<_>) =
            claimed.into_iter().partition(|pod| pods::is_active(pod));
        let failure = if object::is_terminating(&set) {
            Ok(())
        } else {
            self.adjust(key, &set, &active).await
        };
        let next = self.report(&set, &active, failure.as_ref().err()).await?;
        failure.map_err(|failure| failure.error)?;
        Ok(next)
    }

    /// Makes the pods that are missing, or deletes those that are too many.
    async fn adjust(&self, key: &str, set: &Value, active: &[Arc<Value>]) -> Result<(), Failure> {
        let wanted = usize::try_from(rank::wanted(set)).unwrap_or(0);
        if active.len() < wanted {
            let Owner { api_version, kind, .. } = self.owner;
            let reference = controller_reference(set, api_version, kind);
            let pod = pods::from_template(&set["spec"]["template"], set, reference);
            let missing = (wanted - active.len()).min(BURST);
            self.control.create(key, set, std::iter::repeat_n(pod, missing)).await
        } else if active.len() > wanted {
            let count = (active.len() - wanted).min(BURST);
            let related = self.related(set);
            let now = OffsetDateTime::now_utc();
            let surplus = rank::to_delete(active.to_vec(), &related, count, now);
            self.control.delete(key, set, &surplus).await
        } else {
            Ok(())
        }
    }

    /// The active pods of all sets with the same controller as `set`.
    fn related(&self, set: &Value) -> Vec<Arc<Value>> {
        let siblings = match object::controller(set) {
            Some(owner) => self.sets.owned_by(text(owner, "uid")),
            None => self.sets.get(&object::key(set)).into_iter().collect(),
        };
        let pods = siblings.iter().flat_map(|sibling| self.pods.owned_by(object::uid(sibling)));
        pods.filter(|pod| pods::is_active(pod)).collect()
    }

    /// Writes the status, if it changed.
    async fn report(
        &self,
        set: &Value,
        active: &[Arc<Value>],
        failure: Option<&Failure>,
    ) -> Synced {
        let now = OffsetDateTime::now_utc();
        let min_ready = number(set, "spec.minReadySeconds").unwrap_or(0);
        let status = status(set, active, failure, now);
        write_status(self.control.context.client(), &self.owner.resource, set, &status).await?;
        if status["readyReplicas"] == status["availableReplicas"] {
            return Ok(Next::Change);
        }
        let due = active
            .iter()
            .filter(|pod| !pods::is_available(pod, min_ready, now))
            .filter_map(|pod| pods::ready_since(pod))
            .map(|since| since + time::Duration::seconds(min_ready) - now)
            .min();
        let wait = due.and_then(|due| Duration::try_from(due).ok()).unwrap_or_default();
        // Times of pods are whole seconds.
        Ok(Next::After(wait + Duration::from_secs(1)))
    }
}

/// The status of a set with these active pods.
fn status(
    set: &Value,
    active: &[Arc<Value>],
    failure: Option<&Failure>,
    now: OffsetDateTime,
) -> Value {
    let min_ready = number(set, "spec.minReadySeconds").unwrap_or(0);
    let labels = &set["spec"]["template"]["metadata"]["labels"];
    let count = |test: &dyn Fn(&Value) -> bool| active.iter().filter(|pod| test(pod)).count();
    let mut status = json!({
        "replicas": active.len(),
        "observedGeneration": set["metadata"]["generation"],
    });
    // Counts of zero are left out, as Kubernetes does.
    for (field, count) in [
        ("fullyLabeledReplicas", count(&|pod| rank::fully_labeled(pod, labels))),
        ("readyReplicas", count(&pods::is_ready)),
        ("availableReplicas", count(&|pod| pods::is_available(pod, min_ready, now))),
    ] {
        if count > 0 {
            status[field] = count.into();
        }
    }
    let mut conditions = list(set, "status.conditions").to_vec();
    let known = condition(set, "ReplicaFailure");
    match failure {
        Some(failure) if known.is_none_or(|known| known["reason"] != failure.reason) => {
            conditions.retain(|one| one["type"] != "ReplicaFailure");
            conditions.push(json!({
                "type": "ReplicaFailure",
                "status": "True",
                "lastTransitionTime": object::timestamp(now),
                "reason": failure.reason,
                "message": failure.error.message,
            }));
        }
        Some(_) => {}
        None => conditions.retain(|one| one["type"] != "ReplicaFailure"),
    }
    if !conditions.is_empty() {
        status["conditions"] = conditions.into();
    }
    status
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_counts_and_says_what_failed() {
        let ready = json!({"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:10Z"});
        let pod = |labels: Value, conditions: Value| {
            Arc::new(json!({"metadata": {"labels": labels}, "status": {"conditions": conditions}}))
        };
        let active = [
            pod(json!({"a": "b"}), json!([ready])),
            pod(json!({"a": "b"}), json!([])),
            pod(json!({}), json!([])),
        ];
        let template = json!({"metadata": {"labels": {"a": "b"}}});
        let set = json!({"metadata": {"generation": 3}, "spec": {"minReadySeconds": 5, "template": template}});
        let now = object::parse_time("2026-01-01T00:00:12Z").unwrap();
        let early = status(&set, &active, None, now);
        assert_eq!(
            early,
            json!({"replicas": 3, "fullyLabeledReplicas": 2, "readyReplicas": 1, "observedGeneration": 3})
        );
        let error = bulkhead_client::ClientError {
            code: 403,
            reason: "Forbidden".into(),
            message: "no".into(),
        };
        let failure = Failure { reason: "FailedCreate", error };
        let failed = status(&set, &active, Some(&failure), now + time::Duration::seconds(3));
        assert_eq!(failed["availableReplicas"], 1);
        assert_eq!(failed["conditions"][0]["message"], "no");
        let mut set = set;
        set["status"] = failed;
        assert_eq!(status(&set, &active, None, now).get("conditions"), None);
    }
}
