//! Jobs: pods that run until enough of them have ended well.
//! <https://kubernetes.io/docs/concepts/workloads/controllers/job/>
//!
//! [`tally`] counts, [`decide`] decides, by what the job says of failures and successes ([`policy`]);
//! [`indexes`] reads completion indexes, [`attempts`] how often one was tried. This module reads the
//! caches and writes.

mod attempts;
mod decide;
mod indexes;
mod policy;
mod tally;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bulkhead_client::object::{self, has_condition, list, number, text};
use bulkhead_client::{
    Cache, ClientError, DeleteOptions, Informers, Kind, Patch, Propagation, Selector, Target,
};
use serde_json::{Value, json};
use time::OffsetDateTime;

use self::decide::{backoff, deadline, verdict, wanted};
use self::indexes::INDEX;
use self::tally::{TRACKING, Tally};
use crate::claim::claim;
use crate::context::{
    Context, Owner, Written, controller_key, controller_reference, on_change, unless_gone,
    write_status,
};
use crate::pod_control::PARALLEL;
use crate::pods;
use crate::queue::{Next, Queue, Synced};

pub(crate) const JOBS: Kind = Kind::new("batch", "v1", "jobs");
/// How many jobs are synced at a time.
const WORKERS: usize = 5;
/// A sync makes or deletes at most so many pods.
const BURST: usize = 500;

/// Runs jobs, for ever.
pub(crate) async fn run(informers: Arc<Informers>) {
    let context = Context::new(&informers, "job-controller");
    let (jobs, pods) = (informers.cache(&JOBS), informers.cache(&Kind::PODS));
    jobs.synced().await;
    pods.synced().await;
    let queue = Queue::new();
    let controller = Arc::new(Controller {
        context,
        jobs: Arc::clone(&jobs),
        pods: Arc::clone(&pods),
        written: Written::default(),
    });
    let (job_queue, pod_queue) = (Arc::clone(&queue), Arc::clone(&queue));
    tokio::join!(
        on_change(jobs, |job| job_queue.add(Work::Job(object::key(job)))),
        on_change(pods, |pod| {
            if let Some(key) = controller_key(pod, "batch/v1", "Job") {
                pod_queue.add(Work::Job(key));
            }
            if tally::is_tracked(pod) && object::is_terminating(pod) {
                pod_queue.add(Work::Pod(object::key(pod)));
            }
        }),
        queue.work("Job", WORKERS, move |work| {
            let controller = Arc::clone(&controller);
            async move {
                match work {
                    Work::Job(key) => controller.sync(&key).await,
                    Work::Pod(key) => controller.release_orphan(&key).await,
                }
            }
        }),
    );
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Work {
    Job(String),
    /// A tracked pod that is being deleted: nobody may be left to count it.
    Pod(String),
}

struct Controller {
    context: Context,
    jobs: Arc<Cache>,
    pods: Arc<Cache>,
    written: Written,
}

impl Controller {
    async fn sync(&self, key: &str) -> Synced {
        // What the last sync made must be seen first; its events bring the key back.
        if !self.written.is_in(key, &self.pods) {
            return Ok(Next::Change);
        }
        let Some(job) = self.jobs.get(key).filter(|job| is_ours(job)) else {
            return Ok(Next::Change);
        };
        let selector = Selector::read(&job["spec"]["selector"]).unwrap_or_default();
        if selector.is_empty() {
            return Ok(Next::Change);
        }
        let owner = Owner { resource: JOBS, api_version: "batch/v1", kind: "Job" };
        let pods = claim(&self.context, &owner, &job, &Kind::PODS, &self.pods, &|one| {
            selector.selects(one)
        })
        .await?;
        if is_finished(&job) {
            let left = pods.into_iter().filter(|pod| tally::is_tracked(pod));
            self.release(&left.collect::<Vec<_>>()).await?;
            return self.expire(&job).await;
        }
        if object::is_terminating(&job) {
            // It may wait for its pods to be gone; nobody asks for their counts any more.
            let over = |pod: &Arc<Value>| pods::has_ended(pod) || object::is_terminating(pod);
            let left = pods.into_iter().filter(|pod| tally::is_tracked(pod) && over(pod));
            self.release(&left.collect::<Vec<_>>()).await?;
            return Ok(Next::Change);
        }
        self.progress(key, &job, &pods).await
    }

    async fn progress(&self, key: &str, job: &Value, pods: &[Arc<Value>]) -> Synced {
        let now = OffsetDateTime::now_utc();
        let mut tally = Tally::take(job, pods);
        let mut status = job["status"].clone();
        let suspended = job["spec"]["suspend"] == true;
        if !suspended && status["startTime"].is_null() {
            status["startTime"] = object::timestamp(now).into();
        }
        let verdict = verdict(job, &status, &tally, now);
        let mut next = Next::Change;
        let mut failure = Ok(());
        if verdict.is_some() || suspended {
            if verdict.is_some() {
                tally.let_go();
            }
            let surplus = std::mem::take(&mut tally.active);
            tally.active = self.delete(key, job, surplus).await?;
        } else {
            (next, failure) = self.adjust(key, job, pods, &mut tally, now).await;
        }
        suspend(job, &mut status, suspended, now);
        if suspended && status["startTime"].is_string() {
            status["startTime"] = Value::Null;
        }
        tally.write(&mut status);
        if let Some(verdict) = &verdict {
            let met = |status: &mut Value, kind| {
                set_condition(status, kind, "True", &verdict.reason, &verdict.message, now);
            };
            met(&mut status, verdict.target);
            if tally.active.is_empty() && tally.terminating.is_empty() && tally.is_settled() {
                met(&mut status, verdict.condition);
                if verdict.condition == "Complete" {
                    status["completionTime"] = object::timestamp(now).into();
                    let message = "Job completed".to_owned();
                    self.context.recorder.normal(job, "Completed", message);
                } else {
                    let message = verdict.message.clone();
                    self.context.recorder.warning(job, &verdict.reason, message);
                }
            }
        }
        if let Some(fields) = status.as_object_mut() {
            fields.retain(|_, value| !value.is_null());
        }
        // The uids must be in the status before the pods lose the finalizer.
        if !write_status(self.context.client(), &JOBS, job, &status).await? {
            return Ok(Next::Change);
        }
        self.release(&tally.release).await?;
        failure?;
        Ok(match (next, deadline(job, &status, now)) {
            (Next::After(wait), Some(left)) => Next::After(wait.min(left)),
            (Next::Change, Some(left)) => Next::After(left),
            (next, None) => next,
        })
    }

    /// Makes the pods that are missing, or deletes those that are too many.
    async fn adjust(
        &self,
        key: &str,
        job: &Value,
        pods: &[Arc<Value>],
        tally: &mut Tally,
        now: OffsetDateTime,
    ) -> (Next, Result<(), ClientError>) {
        let wanted = wanted(job, tally);
        let there = tally.active.len() + tally.terminating.len();
        if tally.active.len() > wanted {
            let surplus = tally.active.split_off(wanted);
            return match self.delete(key, job, surplus).await {
                Ok(left) => {
                    tally.active.extend(left);
                    (Next::Change, Ok(()))
                }
                Err(error) => (Next::Change, Err(error)),
            };
        }
        if there >= wanted {
            return (Next::Change, Ok(()));
        }
        // Where each index has its own limit, each waits for itself.
        if tally.given_up.is_none() {
            let wait = backoff(pods, now);
            if !wait.is_zero() {
                return (Next::After(wait), Ok(()));
            }
        }
        let missing = (wanted - there).min(BURST);
        let plain = tracked(job);
        if job["spec"]["completionMode"] != "Indexed" {
            return (Next::Change, self.create(key, job, tally, vec![plain; missing]).await);
        }
        let wait =
            |index: i64| tally.held.get(&index).map_or(Duration::ZERO, |last| last.wait(now));
        let waits = tally.held.values().map(|last| last.wait(now)).filter(|wait| !wait.is_zero());
        let waits = waits.min();
        let ready = free(job, tally).filter(|index| wait(*index).is_zero()).take(missing);
        let new = ready.map(|index| indexed(&plain, job, index, tally)).collect();
        let made = self.create(key, job, tally, new).await;
        (waits.map_or(Next::Change, Next::After), made)
    }

    async fn create(
        &self,
        key: &str,
        job: &Value,
        tally: &mut Tally,
        new: Vec<Value>,
    ) -> Result<(), ClientError> {
        let (client, kind) = (self.context.client(), Kind::PODS);
        let mut failed = None;
        for batch in new.chunks(PARALLEL) {
            let creates = batch.iter().map(|pod| client.create(&kind, pod.clone()));
            for created in futures_util::future::join_all(creates).await {
                match created {
                    Ok(pod) => {
                        self.written.note(key, &pod);
                        let message = format!("Created pod: {}", object::name(&pod));
                        self.context.recorder.normal(job, "SuccessfulCreate", message);
                        tally.active.push(Arc::new(pod));
                    }
                    Err(error) => failed = Some(error),
                }
            }
            if let Some(error) = failed {
                let message = format!("Error creating: {error}");
                self.context.recorder.warning(job, "FailedCreate", message);
                return Err(error);
            }
        }
        Ok(())
    }

    /// Deletes active pods; those that could not be are returned.
    async fn delete(
        &self,
        key: &str,
        job: &Value,
        active: Vec<Arc<Value>>,
    ) -> Result<Vec<Arc<Value>>, ClientError> {
        let (client, kind) = (self.context.client(), Kind::PODS);
        let deletes =
            active.iter().map(|pod| {
                let (options, kind) = (DeleteOptions::of(object::uid(pod)), &kind);
                async move {
                    client.delete(kind, object::namespace(pod), object::name(pod), &options).await
                }
            });
        let mut left = Vec::new();
        for (pod, deleted) in active.iter().zip(futures_util::future::join_all(deletes).await) {
            match deleted {
                Ok(deleted) => {
                    self.written.note(key, &deleted);
                    let message = format!("Deleted pod: {}", object::name(pod));
                    self.context.recorder.normal(job, "SuccessfulDelete", message);
                }
                Err(error) if error.is_gone() => {}
                Err(error) => {
                    tracing::warn!(pod = object::name(pod), %error, "deleting a job's pod");
                    left.push(Arc::clone(pod));
                }
            }
        }
        Ok(left)
    }

    /// Takes the tracking finalizer from pods.
    async fn release(&self, pods: &[Arc<Value>]) -> Result<(), ClientError> {
        for batch in pods.chunks(PARALLEL) {
            let releases = batch.iter().map(|pod| self.release_one(pod));
            for released in futures_util::future::join_all(releases).await {
                released?;
            }
        }
        Ok(())
    }

    async fn release_one(&self, pod: &Value) -> Result<(), ClientError> {
        let mut left = list(pod, "metadata.finalizers").to_vec();
        left.retain(|one| one != TRACKING);
        let metadata = &pod["metadata"];
        let patch = Patch::Merge(json!({"metadata": {
            "uid": metadata["uid"],
            "resourceVersion": metadata["resourceVersion"],
            "finalizers": left,
        }}));
        let (namespace, name) = (object::namespace(pod), object::name(pod));
        let client = self.context.client();
        match client.patch(&Kind::PODS, namespace, name, Target::Main, patch).await {
            Err(error) if error.code == 404 => Ok(()),
            other => other.map(drop),
        }
    }

    /// Lets a tracked pod go whose job is gone.
    async fn release_orphan(&self, key: &str) -> Synced {
        let Some(pod) = self.pods.get(key).filter(|pod| tally::is_tracked(pod)) else {
            return Ok(Next::Change);
        };
        if let Some(owner) = object::controller(&pod).filter(|owner| owner["kind"] == "Job") {
            let namespace = object::namespace(&pod);
            let found = self.context.client().get(&JOBS, namespace, text(owner, "name")).await;
            let there = unless_gone(found)?;
            if there.is_some_and(|job| object::uid(&job) == text(owner, "uid")) {
                return Ok(Next::Change);
            }
        }
        self.release_one(&pod).await?;
        Ok(Next::Change)
    }

    /// Deletes a job that ended long enough ago.
    async fn expire(&self, job: &Value) -> Synced {
        let Some(ttl) = number(job, "spec.ttlSecondsAfterFinished") else {
            return Ok(Next::Change);
        };
        let ended = list(job, "status.conditions")
            .iter()
            .filter(|one| one["type"] == "Complete" || one["type"] == "Failed")
            .find_map(|one| object::parse_time(text(one, "lastTransitionTime")));
        let Some(ended) = ended.filter(|_| !object::is_terminating(job)) else {
            return Ok(Next::Change);
        };
        let left = ended + time::Duration::seconds(ttl) - OffsetDateTime::now_utc();
        if let Ok(left) = Duration::try_from(left)
            && !left.is_zero()
        {
            return Ok(Next::After(left));
        }
        let options = DeleteOptions {
            resource_version: Some(text(job, "metadata.resourceVersion").into()),
            propagation: Some(Propagation::Foreground),
            ..DeleteOptions::of(object::uid(job))
        };
        let (namespace, name) = (object::namespace(job), object::name(job));
        unless_gone(self.context.client().delete(&JOBS, namespace, name, &options).await)?;
        Ok(Next::Change)
    }
}

/// Whether a job has ended.
pub(crate) fn is_finished(job: &Value) -> bool {
    has_condition(job, "Complete") || has_condition(job, "Failed")
}

/// Whether a job is left to this controller.
fn is_ours(job: &Value) -> bool {
    job["spec"]["managedBy"].as_str().is_none_or(|name| name == "kubernetes.io/job-controller")
}

/// A pod of the job, which is not gone before it is counted.
fn tracked(job: &Value) -> Value {
    let reference = controller_reference(job, "batch/v1", "Job");
    let mut pod = pods::from_template(&job["spec"]["template"], job, reference);
    let mut finalizers = list(&pod, "metadata.finalizers").to_vec();
    finalizers.push(TRACKING.into());
    pod["metadata"]["finalizers"] = finalizers.into();
    pod
}

/// The indexes that have no pod and are neither done nor given up.
fn free(job: &Value, tally: &Tally) -> impl Iterator<Item = i64> {
    let pods = tally.active.iter().chain(&tally.terminating);
    let used: BTreeSet<i64> = pods.filter_map(|pod| tally::index(pod)).collect();
    let is_over = move |index: &i64| {
        tally.completed.contains(index)
            || tally.given_up.as_ref().is_some_and(|all| all.contains(index))
    };
    let completions = number(job, "spec.completions").unwrap_or(0);
    (0..completions).filter(move |index| !used.contains(index) && !is_over(index))
}

/// The pod of an index: it is told by annotation, label, host name and variable. Where an index has a
/// limit, it says how many failed before it.
fn indexed(plain: &Value, job: &Value, index: i64, tally: &Tally) -> Value {
    let mut pod = plain.clone();
    let name = object::name(job);
    let text = index.to_string();
    pod["metadata"]["generateName"] = format!("{name}-{index}-").into();
    for map in ["annotations", "labels"] {
        pod["metadata"][map][INDEX] = text.as_str().into();
    }
    if tally.given_up.is_some() {
        let last = tally.held.get(&index).map(|last| last.failures);
        last.unwrap_or_default().annotate(&mut pod);
    }
    pod["spec"]["hostname"] = format!("{name}-{index}").into();
    let variable = json!({"name": "JOB_COMPLETION_INDEX", "value": text});
    for containers in ["initContainers", "containers"] {
        let containers = pod["spec"].get_mut(containers).and_then(Value::as_array_mut);
        for container in containers.into_iter().flatten() {
            let mut all = list(container, "env").to_vec();
            if !all.iter().any(|one| one["name"] == variable["name"]) {
                all.push(variable.clone());
            }
            container["env"] = all.into();
        }
    }
    pod
}

fn suspend(job: &Value, status: &mut Value, suspended: bool, now: OffsetDateTime) {
    if suspended {
        set_condition(status, "Suspended", "True", "JobSuspended", "Job suspended", now);
    } else if has_condition(job, "Suspended") {
        set_condition(status, "Suspended", "False", "JobResumed", "Job resumed", now);
    }
}

fn set_condition(
    status: &mut Value,
    kind: &str,
    met: &str,
    reason: &str,
    message: &str,
    now: OffsetDateTime,
) {
    let mut conditions = list(status, "conditions").to_vec();
    if conditions.iter().any(|one| one["type"] == kind && one["status"] == met) {
        return;
    }
    conditions.retain(|one| one["type"] != kind);
    let time = object::timestamp(now);
    conditions.push(json!({
        "type": kind, "status": met, "lastProbeTime": time, "lastTransitionTime": time,
        "reason": reason, "message": message,
    }));
    status["conditions"] = conditions.into();
}
