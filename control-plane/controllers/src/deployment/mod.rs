//! Deployments: a ReplicaSet per template, and the way from one to the next.
//! <https://kubernetes.io/docs/concepts/workloads/controllers/deployment/>
//!
//! [`rollout`] computes sizes, [`revision`] says which set is which, [`status`] what is told.
//! This module reads the caches, and writes what those come to.

mod revision;
mod rollout;
mod status;

use std::sync::Arc;
use std::time::Duration;

use bulkhead_client::object::{self, number, text};
use bulkhead_client::{
    Cache, ClientError, DeleteOptions, Informers, Kind, Patch, Propagation, Selector, Target,
};
use serde_json::{Value, json};
use time::OffsetDateTime;

use self::rollout::{Plan, Set};
use crate::claim::claim;
use crate::context::{
    Context, Owner, Written, add_controller_or_adopters, controller_key, on_change, unless_gone,
    write_status,
};
use crate::pods;
use crate::queue::{Next, Queue, Synced};
use crate::replicas::SETS;

/// Deployments.
pub(crate) const DEPLOYMENTS: Kind = Kind::new("apps", "v1", "deployments");
/// How many Deployments are synced at a time.
const WORKERS: usize = 5;

/// Rolls Deployments out, for ever.
pub(crate) async fn run(informers: Arc<Informers>) {
    let context = Context::new(&informers, "deployment-controller");
    let deployments = informers.cache(&DEPLOYMENTS);
    let sets = informers.cache(&SETS);
    let pods = informers.cache(&Kind::PODS);
    deployments.synced().await;
    sets.synced().await;
    pods.synced().await;
    let queue = Queue::new();
    let (deployment_queue, set_queue, pod_queue) =
        (Arc::clone(&queue), Arc::clone(&queue), Arc::clone(&queue));
    let (owners, watched, all_sets) =
        (Arc::clone(&deployments), Arc::clone(&deployments), Arc::clone(&sets));
    let controller = Arc::new(Controller {
        context,
        deployments: Arc::clone(&deployments),
        sets: Arc::clone(&sets),
        pods: Arc::clone(&pods),
        written: Written::default(),
    });
    tokio::join!(
        on_change(deployments, |deployment| deployment_queue.add(object::key(deployment))),
        on_change(sets, |set| {
            add_controller_or_adopters(&set_queue, set, "apps/v1", "Deployment", &watched);
        }),
        on_change(pods, |pod| {
            // Only Recreate looks at pods: it waits for the old ones to be gone.
            let set = controller_key(pod, "apps/v1", "ReplicaSet");
            let set = set.and_then(|key| all_sets.get(&key));
            let key = set.and_then(|set| controller_key(&set, "apps/v1", "Deployment"));
            if let Some(key) = key
                && owners.get(&key).is_some_and(|one| one["spec"]["strategy"]["type"] == "Recreate")
            {
                pod_queue.add(key);
            }
        }),
        queue.work("Deployment", WORKERS, move |key| {
            let controller = Arc::clone(&controller);
            async move { controller.sync(&key).await }
        }),
    );
}

struct Controller {
    context: Context,
    deployments: Arc<Cache>,
    sets: Arc<Cache>,
    pods: Arc<Cache>,
    written: Written,
}

/// A Deployment with its sets.
struct Rollout {
    key: String,
    deployment: Arc<Value>,
    plan: Plan,
    /// The set of its template, once there is one.
    new: Option<Arc<Value>>,
    /// The others, from the oldest to the newest.
    old: Vec<Arc<Value>>,
}

impl Controller {
    async fn sync(&self, key: &str) -> Synced {
        // What the last sync wrote must be seen first; its events bring the key back.
        if !self.written.is_in(key, &self.sets) {
            return Ok(Next::Change);
        }
        let Some(deployment) = self.deployments.get(key) else { return Ok(Next::Change) };
        let selector = Selector::read(&deployment["spec"]["selector"]).unwrap_or_default();
        if selector.is_empty() {
            return Ok(Next::Change);
        }
        let owner = Owner { resource: DEPLOYMENTS, api_version: "apps/v1", kind: "Deployment" };
        let sets = claim(&self.context, &owner, &deployment, &SETS, &self.sets, &|one| {
            selector.selects(one)
        })
        .await?;
        let (new, old) = revision::split(&deployment, sets);
        let mut rollout =
            Rollout { key: key.to_owned(), plan: plan(&deployment), deployment, new, old };
        if object::is_terminating(&rollout.deployment) {
            return self.report(&rollout, false).await;
        }
        if let Some((reason, message)) = status::paused(&rollout.deployment) {
            let mut status = rollout.deployment["status"].clone();
            let now = OffsetDateTime::now_utc();
            status::set_condition(&mut status, "Progressing", "Unknown", reason, message, now);
            // Its event brings the Deployment back.
            return self.write_status(&rollout.deployment, status).await.map(|()| Next::Change);
        }
        if rollout.deployment["spec"]["paused"] == true || rollout.is_scaled() {
            if !self.revise(&mut rollout, false).await? {
                return Ok(Next::Change);
            }
            self.scale(&mut rollout).await?;
            if rollout.deployment["spec"]["paused"] == true {
                self.clean_up(&rollout).await?;
            }
            return self.report(&rollout, false).await;
        }
        let moved = if rollout.deployment["spec"]["strategy"]["type"] == "Recreate" {
            self.recreate(&mut rollout).await?
        } else {
            self.roll(&mut rollout).await?
        };
        match moved {
            None => return Ok(Next::Change),
            Some(false)
                if status::is_complete(&rollout.deployment, &rollout.deployment["status"]) =>
            {
                self.clean_up(&rollout).await?;
            }
            Some(_) => {}
        }
        self.report(&rollout, true).await
    }

    /// Numbers the new set, and makes it if `create`. Whether the sync may go on: not if another
    /// is needed first.
    async fn revise(&self, rollout: &mut Rollout, create: bool) -> Result<bool, ClientError> {
        let number = revision::highest(&rollout.old) + 1;
        let number = match &rollout.new {
            Some(set) => {
                let annotations = revision::annotations(&rollout.deployment, set, number);
                let min_ready = rollout.deployment["spec"]["minReadySeconds"].as_i64().unwrap_or(0);
                let before = set["spec"]["minReadySeconds"].as_i64().unwrap_or(0);
                if set["metadata"]["annotations"].as_object() != Some(&annotations)
                    || min_ready != before
                {
                    let patch = json!({
                        "metadata": {"annotations": annotations},
                        "spec": {"minReadySeconds": min_ready},
                    });
                    let Some(set) = self.patch_set(&rollout.key, set, patch).await? else {
                        return Ok(false);
                    };
                    rollout.new = Some(set);
                }
                rollout.new.as_ref().map_or(number, |set| revision::of(set))
            }
            None if create => {
                let Some(set) = self.create_set(rollout, number).await? else { return Ok(false) };
                rollout.new = Some(set);
                number
            }
            None => return Ok(true),
        };
        if revision::of(&rollout.deployment) != number {
            let annotations = json!({revision::REVISION: number.to_string()});
            let patch = json!({"metadata": {
                "uid": rollout.deployment["metadata"]["uid"],
                "annotations": annotations,
            }});
            let (namespace, name) =
                (object::namespace(&rollout.deployment), object::name(&rollout.deployment));
            let patched = self
                .context
                .client()
                .patch(&DEPLOYMENTS, namespace, name, Target::Main, Patch::Merge(patch))
                .await;
            let Some(deployment) = unless_gone(patched)? else { return Ok(false) };
            rollout.deployment = Arc::new(deployment);
        }
        Ok(true)
    }

    /// Makes the set of the Deployment's template; `None` if a sync must come before.
    async fn create_set(
        &self,
        rollout: &Rollout,
        revision: i64,
    ) -> Result<Option<Arc<Value>>, ClientError> {
        let deployment = &rollout.deployment;
        let replicas = rollout.new_size(Set::default());
        let set = revision::make(deployment, revision, replicas, rollout.most());
        let client = self.context.client();
        match client.create(&SETS, set.clone()).await {
            Ok(made) => {
                self.written.note(&rollout.key, &made);
                let name = object::name(&made);
                let message = format!("Scaled up replica set {name} from 0 to {replicas}");
                self.context.recorder.normal(deployment, "ScalingReplicaSet", message);
                Ok(Some(Arc::new(made)))
            }
            Err(error) if error.reason == "AlreadyExists" => {
                let (namespace, name) = (object::namespace(&set), object::name(&set));
                let Some(there) = unless_gone(client.get(&SETS, namespace, name).await)? else {
                    return Ok(None);
                };
                let ours = object::controller(&there)
                    .is_some_and(|owner| text(owner, "uid") == object::uid(deployment));
                let template = &deployment["spec"]["template"];
                if ours && revision::same_template(&there["spec"]["template"], template) {
                    self.written.note(&rollout.key, &there);
                    return Ok(Some(Arc::new(there)));
                }
                // Another template with the same hash: the next sync takes another hash.
                let mut status = deployment["status"].clone();
                let collisions = number(deployment, "status.collisionCount").unwrap_or(0) + 1;
                status["collisionCount"] = collisions.into();
                self.write_status(deployment, status).await?;
                Ok(None)
            }
            Err(error) => {
                let message = format!("Failed to create new replica set: {error}");
                self.context.recorder.warning(deployment, "ReplicaSetCreateError", message);
                Err(error)
            }
        }
    }

    /// A step of a rolling update. Whether a set was resized; `None` if a sync must come first.
    async fn roll(&self, rollout: &mut Rollout) -> Result<Option<bool>, ClientError> {
        if !self.revise(rollout, true).await? {
            return Ok(None);
        }
        let Some(new) = rollout.new.clone() else { return Ok(None) };
        let size = rollout.new_size(counts(&new));
        if size != counts(&new).desired {
            rollout.new = Some(self.resize(rollout, &new, size).await?);
            return Ok(Some(true));
        }
        let old: Vec<Set> = rollout.old.iter().map(|set| counts(set)).collect();
        let sizes = rollout.plan.shrink_old(counts(&new), &old);
        self.resize_old(rollout, &sizes).await.map(Some)
    }

    /// A step of a rollout that stops the old before it starts the new.
    async fn recreate(&self, rollout: &mut Rollout) -> Result<Option<bool>, ClientError> {
        let sizes = vec![0; rollout.old.len()];
        if self.resize_old(rollout, &sizes).await? {
            return Ok(Some(true));
        }
        if self.old_pods_run(rollout) {
            return Ok(Some(true));
        }
        if !self.revise(rollout, true).await? {
            return Ok(None);
        }
        let Some(new) = rollout.new.clone() else { return Ok(None) };
        if counts(&new).desired == rollout.plan.replicas {
            return Ok(Some(false));
        }
        rollout.new = Some(self.resize(rollout, &new, rollout.plan.replicas).await?);
        Ok(Some(true))
    }

    fn old_pods_run(&self, rollout: &Rollout) -> bool {
        if status::sum(&rollout.old, "replicas") > 0 {
            return true;
        }
        let pods = rollout.old.iter().flat_map(|set| self.pods.owned_by(object::uid(set)));
        pods.into_iter().any(|pod| !matches!(text(&pod, "status.phase"), "Succeeded" | "Failed"))
    }

    /// Sizes the sets of a Deployment that was scaled, or is paused, without moving the rollout.
    async fn scale(&self, rollout: &mut Rollout) -> Result<(), ClientError> {
        let replicas = rollout.plan.replicas;
        let active: Vec<Arc<Value>> =
            rollout.all().filter(|set| counts(set).desired > 0).cloned().collect();
        if active.len() <= 1 {
            let newest = rollout.new.as_ref().or(rollout.old.last()).cloned();
            if let Some(set) = active.into_iter().next().or(newest) {
                let set = self.resize(rollout, &set, replicas).await?;
                rollout.replace(set);
            }
            return Ok(());
        }
        let saturated = rollout.new.as_ref().is_some_and(|new| {
            let new_counts = counts(new);
            new_counts.desired == replicas
                && new_counts.available == replicas
                && revision::annotation(new, revision::DESIRED) == replicas.to_string()
        });
        if saturated {
            let sizes = vec![0; rollout.old.len()];
            return self.resize_old(rollout, &sizes).await.map(drop);
        }
        if rollout.deployment["spec"]["strategy"]["type"] == "Recreate" {
            return Ok(());
        }
        // The largest first; of equal ones the newest when adding, the oldest when taking.
        let total: i64 = active.iter().map(|set| counts(set).desired).sum();
        let mut active = active;
        let adding = rollout.plan.most() > total;
        active.sort_by(|one, other| {
            let created = |set: &Value| text(set, "metadata.creationTimestamp").to_owned();
            let age = created(one).cmp(&created(other));
            let size = counts(other).desired.cmp(&counts(one).desired);
            size.then(if adding { age.reverse() } else { age })
        });
        let sized: Vec<Set> = active.iter().map(|set| counts(set)).collect();
        let status_replicas = number(&rollout.deployment, "status.replicas").unwrap_or(0);
        let sizes = rollout.plan.proportional(&sized, status_replicas);
        for (set, size) in active.iter().zip(sizes) {
            let set = self.resize(rollout, set, size).await?;
            rollout.replace(set);
        }
        Ok(())
    }

    /// Whether any old set was resized.
    async fn resize_old(&self, rollout: &mut Rollout, sizes: &[i64]) -> Result<bool, ClientError> {
        let mut resized = false;
        for (index, size) in sizes.iter().enumerate() {
            let set = Arc::clone(&rollout.old[index]);
            if counts(&set).desired != *size {
                rollout.old[index] = self.resize(rollout, &set, *size).await?;
                resized = true;
            }
        }
        Ok(resized)
    }

    /// Gives a set its size, and notes in it what the Deployment asked for.
    async fn resize(
        &self,
        rollout: &Rollout,
        set: &Arc<Value>,
        size: i64,
    ) -> Result<Arc<Value>, ClientError> {
        let before = counts(set).desired;
        let (desired, most) = (rollout.plan.replicas.to_string(), rollout.most().to_string());
        let noted = revision::annotation(set, revision::DESIRED) == desired
            && revision::annotation(set, revision::MAXIMUM) == most;
        if before == size && noted {
            return Ok(Arc::clone(set));
        }
        let patch = json!({
            "metadata": {"annotations": {revision::DESIRED: desired, revision::MAXIMUM: most}},
            "spec": {"replicas": size},
        });
        let Some(resized) = self.patch_set(&rollout.key, set, patch).await? else {
            // Changed or gone: its event brings the Deployment back.
            return Ok(Arc::clone(set));
        };
        if before != size {
            let direction = if size > before { "up" } else { "down" };
            let name = object::name(set);
            let message = format!("Scaled {direction} replica set {name} from {before} to {size}");
            self.context.recorder.normal(&rollout.deployment, "ScalingReplicaSet", message);
        }
        Ok(resized)
    }

    /// Patches a set that must still be as it was seen; `None` if it is not.
    async fn patch_set(
        &self,
        key: &str,
        set: &Value,
        mut patch: Value,
    ) -> Result<Option<Arc<Value>>, ClientError> {
        patch["metadata"]["resourceVersion"] = set["metadata"]["resourceVersion"].clone();
        let (namespace, name) = (object::namespace(set), object::name(set));
        let client = self.context.client();
        let patched = client.patch(&SETS, namespace, name, Target::Main, Patch::Merge(patch)).await;
        let patched = unless_gone(patched)?;
        Ok(patched.map(|set| {
            self.written.note(key, &set);
            Arc::new(set)
        }))
    }

    /// Deletes the oldest sets beyond `revisionHistoryLimit`.
    async fn clean_up(&self, rollout: &Rollout) -> Result<(), ClientError> {
        let limit = number(&rollout.deployment, "spec.revisionHistoryLimit").unwrap_or(10);
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let mut sets: Vec<_> =
            rollout.old.iter().filter(|set| !object::is_terminating(set)).collect();
        let surplus = sets.len().saturating_sub(limit);
        sets.sort_by_key(|set| revision::of(set));
        for set in sets.into_iter().take(surplus) {
            let seen =
                number(set, "status.observedGeneration") >= number(set, "metadata.generation");
            let empty =
                counts(set).desired == 0 && number(set, "status.replicas").unwrap_or(0) == 0;
            if seen && empty {
                let options = DeleteOptions {
                    propagation: Some(Propagation::Background),
                    ..DeleteOptions::of(object::uid(set))
                };
                let (namespace, name) = (object::namespace(set), object::name(set));
                unless_gone(self.context.client().delete(&SETS, namespace, name, &options).await)?;
            }
        }
        Ok(())
    }

    /// Writes the status, with progress if the rollout moves.
    async fn report(&self, rollout: &Rollout, rolling: bool) -> Synced {
        let deployment = &rollout.deployment;
        let now = OffsetDateTime::now_utc();
        let new = rollout.new.as_ref();
        let mut status = status::counts(deployment, new, &rollout.old, &rollout.plan, now);
        if rolling {
            status::set_progress(deployment, new, &mut status, now);
        }
        let complete = status::is_complete(deployment, &status);
        self.write_status(deployment, status).await?;
        let left = status::deadline(deployment)
            .and_then(|deadline| status::time_left(deployment, deadline, now))
            .filter(|left| rolling && !complete && !left.is_zero());
        Ok(left.map_or(Next::Change, |left| Next::After(left + Duration::from_secs(1))))
    }

    async fn write_status(&self, deployment: &Value, status: Value) -> Result<(), ClientError> {
        let client = self.context.client();
        write_status(client, &DEPLOYMENTS, deployment, &status).await.map(drop)
    }
}

impl Rollout {
    fn all(&self) -> impl Iterator<Item = &Arc<Value>> {
        self.old.iter().chain(&self.new)
    }

    /// Whether its replicas changed since its sets were sized.
    fn is_scaled(&self) -> bool {
        let wanted = self.plan.replicas.to_string();
        let mut active = self.all().filter(|set| counts(set).desired > 0);
        active.any(|set| {
            let noted = revision::annotation(set, revision::DESIRED);
            !noted.is_empty() && noted != wanted
        })
    }

    /// At most so many pods.
    fn most(&self) -> i64 {
        self.plan.replicas + self.plan.max_surge
    }

    /// The next size of the new set.
    fn new_size(&self, new: Set) -> i64 {
        if self.deployment["spec"]["strategy"]["type"] == "Recreate" {
            return self.plan.replicas;
        }
        let old: Vec<Set> = self.old.iter().map(|set| counts(set)).collect();
        self.plan.grow_new(new, &old)
    }

    fn replace(&mut self, set: Arc<Value>) {
        let slots = self.old.iter_mut().chain(&mut self.new);
        for slot in slots {
            if object::uid(slot) == object::uid(&set) {
                *slot = Arc::clone(&set);
            }
        }
    }
}

/// What the Deployment's strategy allows.
fn plan(deployment: &Value) -> Plan {
    let replicas = number(deployment, "spec.replicas").unwrap_or(1).max(0);
    let strategy = &deployment["spec"]["strategy"];
    if strategy["type"] == "Recreate" {
        return Plan { replicas, max_surge: 0, max_unavailable: 0 };
    }
    let update = &strategy["rollingUpdate"];
    let surge = pods::resolve(&update["maxSurge"], replicas, true);
    let unavailable = pods::resolve(&update["maxUnavailable"], replicas, false);
    Plan::rolling(replicas, surge, unavailable)
}

fn counts(set: &Value) -> Set {
    Set {
        desired: number(set, "spec.replicas").unwrap_or(1),
        available: number(set, "status.availableReplicas").unwrap_or(0),
        sized_for: revision::annotation(set, revision::MAXIMUM).parse().ok(),
    }
}
