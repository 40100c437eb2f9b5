//! StatefulSets: pods with names that stay, made and replaced in order.
//! <https://kubernetes.io/docs/concepts/workloads/controllers/statefulset/>
//!
//! [`plan`] decides, [`identity`] says which pod is which, [`volumes`] makes their claims; this module
//! reads the caches and writes.

mod identity;
mod plan;
mod volumes;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use bulkhead_client::object::{self, number, text};
use bulkhead_client::{Cache, ClientError, Informers, Kind, Patch, Selector, Target};
use serde_json::{Value, json};
use time::OffsetDateTime;

use self::plan::{Members, Plan, Steps, is_running_and_ready};
use crate::claim::claim;
use crate::context::{
    Context, Owner, add_controller, add_controller_or_adopters, on_change, write_status,
};
use crate::history::{Current, History, REVISIONS, revision_of};
use crate::pod_control::{PodControl, Wording};
use crate::queue::{Next, Queue, Synced};

/// StatefulSets.
pub(crate) const STATEFUL_SETS: Kind = Kind::new("apps", "v1", "statefulsets");
/// How many sets are synced at a time.
const WORKERS: usize = 5;
/// The label of a revision with its hash.
const HASH_LABEL: &str = "controller.kubernetes.io/hash";
const OWNER: Owner = Owner { resource: STATEFUL_SETS, api_version: "apps/v1", kind: "StatefulSet" };

/// Keeps StatefulSets, for ever.
pub(crate) async fn run(informers: Arc<Informers>) {
    let context = Context::new(&informers, "statefulset-controller");
    let sets = informers.cache(&STATEFUL_SETS);
    let pods = informers.cache(&Kind::PODS);
    let revisions = informers.cache(&REVISIONS);
    let claims = informers.cache(&volumes::CLAIMS);
    sets.synced().await;
    pods.synced().await;
    revisions.synced().await;
    claims.synced().await;
    let queue = Queue::new();
    let (set_queue, pod_queue, revision_queue) =
        (Arc::clone(&queue), Arc::clone(&queue), Arc::clone(&queue));
    let watched = Arc::clone(&sets);
    let controller = Arc::new(Controller {
        history: History::new(context.clone(), OWNER, HASH_LABEL, Arc::clone(&revisions)),
        control: PodControl::new(context, Wording::Named),
        sets: Arc::clone(&sets),
        pods: Arc::clone(&pods),
        claims,
    });
    tokio::join!(
        on_change(sets, |set| set_queue.add(object::key(set))),
        on_change(pods, |pod| {
            add_controller_or_adopters(&pod_queue, pod, OWNER.api_version, OWNER.kind, &watched);
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

struct Controller {
    history: History,
    control: PodControl,
    sets: Arc<Cache>,
    pods: Arc<Cache>,
    claims: Arc<Cache>,
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
        let name = object::name(&set);
        let revisions = self.history.of(&set, &selector).await?;
        let ours = |pod: &Value| {
            selector.selects(pod) && identity::ordinal(name, object::name(pod)).is_some()
        };
        let context = &self.control.context;
        let pods = claim(context, &OWNER, &set, &Kind::PODS, &self.pods, &ours).await?;
        let update = self.history.current(key, &set, &revisions).await?;
        let known = text(&set, "status.currentRevision");
        let current = revisions.iter().find(|one| object::name(one) == known);
        let current = Arc::clone(current.unwrap_or(&update.revision));

        let now = OffsetDateTime::now_utc();
        let plan = Plan::read(&set, object::name(&update.revision));
        let members = plan.members(name, &pods);
        let steps = plan.steps(&members, now);
        self.own_claims(&set, &members).await?;
        let taken = self.take(key, &set, steps, &current, &update.revision).await;
        let status = status(&set, &plan, &members, &current, &update, now);
        write_status(context.client(), &STATEFUL_SETS, &set, &status).await?;
        taken?;
        let live: HashSet<&str> = pods
            .iter()
            .map(|pod| revision_of(pod))
            .chain([object::name(&current), object::name(&update.revision)])
            .collect();
        self.history.trim(&set, &revisions, &live).await?;
        let min_ready = number(&set, "spec.minReadySeconds").unwrap_or(0);
        Ok(match u64::try_from(min_ready) {
            Ok(wait @ 1..) if status.get("readyReplicas") != status.get("availableReplicas") => {
                Next::After(Duration::from_secs(wait))
            }
            _ => Next::Change,
        })
    }

    /// Gives claims their owners, before the pods that they may go with are deleted.
    async fn own_claims(&self, set: &Value, members: &Members) -> Result<(), ClientError> {
        let namespace = object::namespace(set).unwrap_or_default();
        let get = |name: &str| self.claims.get(&format!("{namespace}/{name}"));
        let context = &self.control.context;
        for (pods, are_condemned) in [(&members.wanted, false), (&members.condemned, true)] {
            for pod in pods.values() {
                volumes::own(context, set, pod, are_condemned, get).await?;
            }
        }
        Ok(())
    }

    async fn take(
        &self,
        key: &str,
        set: &Value,
        steps: Steps,
        current: &Value,
        update: &Value,
    ) -> Result<(), ClientError> {
        let make = |(ordinal, newest): (i64, bool)| {
            identity::pod(set, if newest { update } else { current }, ordinal)
        };
        let new: Vec<Value> = steps.create.into_iter().map(make).collect();
        for pod in &new {
            volumes::make(&self.control.context, set, object::name(pod)).await?;
        }
        let made = self.control.create(key, set, new.into_iter()).await;
        made.map_err(|failure| failure.error)?;
        for (ordinal, pod) in &steps.relabel {
            let patch = Patch::Merge(identity::relabel(pod, *ordinal));
            let (namespace, name) = (object::namespace(pod), object::name(pod));
            let client = self.control.context.client();
            let patched = client.patch(&Kind::PODS, namespace, name, Target::Main, patch).await?;
            self.control.note(key, &patched);
        }
        let deleted = self.control.delete(key, set, &steps.delete).await;
        deleted.map_err(|failure| failure.error)
    }
}

/// The status of a set with these pods.
fn status(
    set: &Value,
    plan: &Plan,
    members: &Members,
    current: &Value,
    update: &Current,
    now: OffsetDateTime,
) -> Value {
    let all = || members.wanted.values().chain(members.condemned.values());
    let count = |test: &dyn Fn(&Value) -> bool| {
        i64::try_from(all().filter(|pod| test(pod)).count()).unwrap_or(i64::MAX)
    };
    let (mut now_at, goes_to) = (object::name(current), object::name(&update.revision));
    let of =
        |revision: &str| count(&|pod| !object::is_terminating(pod) && revision_of(pod) == revision);
    let replicas = count(&|_| true);
    let ready = count(&is_running_and_ready);
    let (mut at_current, updated) = (of(now_at), of(goes_to));
    let wanted = number(set, "spec.replicas").unwrap_or(1);
    let rolls = text(set, "spec.updateStrategy.type") != "OnDelete";
    if rolls && updated == wanted && updated == replicas && ready == replicas {
        (now_at, at_current) = (goes_to, updated);
    }
    let mut status = json!({
        "observedGeneration": set["metadata"]["generation"],
        "replicas": replicas,
        "availableReplicas": count(&|pod| plan.is_available(pod, now)),
        "currentRevision": now_at,
        "updateRevision": goes_to,
        "collisionCount": update.collisions,
    });
    // Counts of zero are left out, as Kubernetes does.
    for (field, count) in
        [("readyReplicas", ready), ("currentReplicas", at_current), ("updatedReplicas", updated)]
    {
        if count > 0 {
            status[field] = count.into();
        }
    }
    if let Some(conditions) = set["status"].get("conditions") {
        status["conditions"] = conditions.clone();
    }
    status
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::REVISION_LABEL;

    #[test]
    fn the_current_revision_moves_when_all_pods_have() {
        let set = json!({"metadata": {"name": "web", "generation": 4}, "spec": {"replicas": 2}});
        let named = |name: &str| Arc::new(json!({"metadata": {"name": name}}));
        let (current, update) =
            (named("web-old"), Current { revision: named("web-new"), collisions: 0 });
        let pod = |ordinal: i64, revision: &str| {
            Arc::new(json!({
                "metadata": {"name": format!("web-{ordinal}"), "labels": {REVISION_LABEL: revision}},
                "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]},
            }))
        };
        let plan = Plan::read(&set, "web-new");
        let at = |pods: &[Arc<Value>]| {
            let members = plan.members("web", pods);
            status(&set, &plan, &members, &current, &update, OffsetDateTime::UNIX_EPOCH)
        };
        let halfway = at(&[pod(0, "web-old"), pod(1, "web-new")]);
        let expected = json!({
            "observedGeneration": 4, "replicas": 2, "readyReplicas": 2, "availableReplicas": 2,
            "currentRevision": "web-old", "currentReplicas": 1,
            "updateRevision": "web-new", "updatedReplicas": 1, "collisionCount": 0,
        });
        assert_eq!(halfway, expected);
        let done = at(&[pod(0, "web-new"), pod(1, "web-new")]);
        assert_eq!(
            (&done["currentRevision"], &done["currentReplicas"]),
            (&"web-new".into(), &2.into())
        );
    }
}
