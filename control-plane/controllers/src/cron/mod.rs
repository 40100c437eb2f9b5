//! CronJobs: Jobs at set times.
//! <https://kubernetes.io/docs/concepts/workloads/controllers/cron-jobs/>
//!
//! A Job is named after its time, so that none is made twice. [`schedule`] knows the times.

pub(crate) mod schedule;

use std::sync::Arc;
use std::time::Duration;

use bulkhead_client::object::{self, has_condition, list, number, text};
use bulkhead_client::{Cache, ClientError, DeleteOptions, Informers, Kind, Propagation};
use serde_json::{Value, json};
use time::OffsetDateTime;

use self::schedule::Schedule;
use crate::context::{
    Context, add_controller, controller_reference, on_change, unless_gone, write_status,
};
use crate::job::{JOBS, is_finished};
use crate::queue::{Next, Queue, Synced};

/// CronJobs.
pub(crate) const CRON_JOBS: Kind = Kind::new("batch", "v1", "cronjobs");
/// How many are synced at a time.
const WORKERS: usize = 5;
/// More missed times than these are warned of.
const MANY_MISSED: usize = 100;
/// The annotation of a Job with the time it was made for.
const SCHEDULED: &str = "batch.kubernetes.io/cronjob-scheduled-timestamp";

/// Makes Jobs at their times, for ever.
pub(crate) async fn run(informers: Arc<Informers>) {
    let context = Context::new(&informers, "cronjob-controller");
    let (cron_jobs, jobs) = (informers.cache(&CRON_JOBS), informers.cache(&JOBS));
    cron_jobs.synced().await;
    jobs.synced().await;
    let queue = Queue::new();
    let controller = Arc::new(Controller {
        context,
        cron_jobs: Arc::clone(&cron_jobs),
        jobs: Arc::clone(&jobs),
    });
    let (own_queue, job_queue) = (Arc::clone(&queue), Arc::clone(&queue));
    tokio::join!(
        on_change(cron_jobs, |one| own_queue.add(object::key(one))),
        on_change(jobs, |job| {
            add_controller(&job_queue, job, "batch/v1", "CronJob");
        }),
        queue.work("CronJob", WORKERS, move |key| {
            let controller = Arc::clone(&controller);
            async move { controller.sync(&key).await }
        }),
    );
}

struct Controller {
    context: Context,
    cron_jobs: Arc<Cache>,
    jobs: Arc<Cache>,
}

impl Controller {
    async fn sync(&self, key: &str) -> Synced {
        let Some(cron) = self.cron_jobs.get(key) else { return Ok(Next::Change) };
        let uid = object::uid(&cron);
        let mut jobs = self.jobs.owned_by(uid);
        jobs.retain(|job| object::controller(job).is_some_and(|owner| owner["uid"] == uid));
        let mut status = cron["status"].clone();
        self.observe(&cron, &jobs, &mut status).await?;
        let started = match object::is_terminating(&cron) {
            true => Ok(Next::Change),
            false => self.start(&cron, &mut status, OffsetDateTime::now_utc()).await,
        };
        write_status(self.context.client(), &CRON_JOBS, &cron, &status).await?;
        self.clean_up(&cron, jobs).await?;
        started
    }

    /// Brings the status up to what became of the Jobs.
    async fn observe(
        &self,
        cron: &Value,
        jobs: &[Arc<Value>],
        status: &mut Value,
    ) -> Result<(), ClientError> {
        let mut active = list(status, "active").to_vec();
        let recorder = &self.context.recorder;
        for job in jobs {
            let known = active.iter().position(|one| one["uid"] == job["metadata"]["uid"]);
            let name = object::name(job);
            match (known, is_finished(job)) {
                (Some(index), true) => {
                    active.remove(index);
                    let end = if has_condition(job, "Complete") { "Complete" } else { "Failed" };
                    let message = format!("Saw completed job: {name}, condition: {end}");
                    recorder.normal(cron, "SawCompletedJob", message);
                }
                (None, false) => {
                    let why =
                        format!("Saw a job that the controller did not create or forgot: {name}");
                    recorder.warning(cron, "UnexpectedJob", why);
                }
                _ => {}
            }
            let ended = text(job, "status.completionTime");
            // Times of one form sort as text.
            if has_condition(job, "Complete") && ended > text(status, "lastSuccessfulTime") {
                status["lastSuccessfulTime"] = ended.into();
            }
        }
        let mut left = Vec::new();
        for one in active {
            let there = jobs.iter().any(|job| job["metadata"]["uid"] == one["uid"]);
            // One that was just made may not have been seen yet.
            if there || self.job_exists(cron, &one).await? {
                left.push(one);
            } else {
                let message = format!("Active job went missing: {}", text(&one, "name"));
                recorder.normal(cron, "MissingJob", message);
            }
        }
        set_active(status, left);
        Ok(())
    }

    async fn job_exists(&self, cron: &Value, reference: &Value) -> Result<bool, ClientError> {
        let namespace = object::namespace(cron);
        let found = self.context.client().get(&JOBS, namespace, text(reference, "name")).await;
        let found = unless_gone(found)?;
        Ok(found.is_some_and(|job| job["metadata"]["uid"] == reference["uid"]))
    }

    /// Makes the Job whose time has come.
    async fn start(&self, cron: &Value, status: &mut Value, now: OffsetDateTime) -> Synced {
        let spec = &cron["spec"];
        if spec["suspend"] == true {
            return Ok(Next::Change);
        }
        let recorder = &self.context.recorder;
        let (pattern, zone) = (text(spec, "schedule"), spec["timeZone"].as_str());
        let schedule = match Schedule::parse(pattern, zone) {
            Ok(schedule) => schedule,
            Err(error) => {
                let message = format!("unparseable schedule: {pattern:?} : {error}");
                recorder.warning(cron, "UnparseableSchedule", message);
                return Ok(Next::Change);
            }
        };
        let since = earliest(cron, now);
        let Some(due) = schedule.last(since, now) else {
            return Ok(wait(&schedule, since, now));
        };
        let later = wait(&schedule, due, now);
        self.warn_of_missed(cron, &schedule, since, now);
        let deadline = number(spec, "startingDeadlineSeconds");
        if deadline.is_some_and(|seconds| due + time::Duration::seconds(seconds) < now) {
            let time = schedule.write(due);
            let message = format!("Missed scheduled time to start a job: {time}");
            recorder.warning(cron, "MissSchedule", message);
            return Ok(later);
        }
        let name = format!("{}-{}", object::name(cron), due.unix_timestamp().div_euclid(60));
        let mut active = list(status, "active").to_vec();
        let time = object::timestamp(due);
        if active.iter().any(|one| one["name"] == name.as_str())
            || text(status, "lastScheduleTime") == time
        {
            return Ok(later);
        }
        match text(spec, "concurrencyPolicy") {
            "Forbid" if !active.is_empty() => {
                let message = "Not starting job because prior execution is running and concurrency policy is Forbid";
                recorder.normal(cron, "JobAlreadyActive", message.into());
                return Ok(later);
            }
            "Replace" => {
                for one in std::mem::take(&mut active) {
                    self.delete(cron, text(&one, "name"), text(&one, "uid")).await?;
                }
            }
            _ => {}
        }
        set_active(status, active.clone());
        let job = job(cron, &name, &schedule.write(due));
        if let Some(job) = self.create(cron, job).await?
            && !is_finished(&job)
        {
            active.push(json!({
                "apiVersion": "batch/v1", "kind": "Job",
                "name": name, "namespace": job["metadata"]["namespace"],
                "uid": job["metadata"]["uid"],
                "resourceVersion": job["metadata"]["resourceVersion"],
            }));
        }
        set_active(status, active);
        status["lastScheduleTime"] = time.into();
        Ok(later)
    }

    fn warn_of_missed(
        &self,
        cron: &Value,
        schedule: &Schedule,
        since: OffsetDateTime,
        now: OffsetDateTime,
    ) {
        let mut missed = std::iter::successors(schedule.next(since), |last| schedule.next(*last))
            .take_while(|time| *time <= now);
        if missed.nth(MANY_MISSED).is_some() {
            let message = "too many missed start times. Set or decrease .spec.startingDeadlineSeconds or check clock skew";
            self.context.recorder.warning(cron, "TooManyMissedTimes", message.into());
        }
    }

    /// Makes a Job, or finds that it was made; `None` if there will be none.
    async fn create(&self, cron: &Value, job: Value) -> Result<Option<Value>, ClientError> {
        let (client, recorder) = (self.context.client(), &self.context.recorder);
        let name = object::name(&job).to_owned();
        match client.create(&JOBS, job).await {
            Ok(made) => {
                recorder.normal(cron, "SuccessfulCreate", format!("Created job {name}"));
                Ok(Some(made))
            }
            Err(error) if error.reason == "AlreadyExists" => {
                let there = client.get(&JOBS, object::namespace(cron), &name).await?;
                let ours = object::controller(&there)
                    .is_some_and(|owner| text(owner, "uid") == object::uid(cron));
                if ours { Ok(Some(there)) } else { Err(error) }
            }
            Err(error) => {
                let message = format!("Error creating job: {error}");
                recorder.warning(cron, "FailedCreate", message);
                Err(error)
            }
        }
    }

    async fn delete(&self, cron: &Value, name: &str, uid: &str) -> Result<(), ClientError> {
        let options =
            DeleteOptions { propagation: Some(Propagation::Background), ..DeleteOptions::of(uid) };
        let client = self.context.client();
        let deleted = client.delete(&JOBS, object::namespace(cron), name, &options).await;
        if unless_gone(deleted)?.is_some() {
            let message = format!("Deleted job {name}");
            self.context.recorder.normal(cron, "SuccessfulDelete", message);
        }
        Ok(())
    }

    /// Deletes the oldest of the Jobs that ended, beyond what is to be kept.
    async fn clean_up(&self, cron: &Value, jobs: Vec<Arc<Value>>) -> Result<(), ClientError> {
        let ended = jobs.into_iter().filter(|job| is_finished(job) && !object::is_terminating(job));
        let (done, failed): (Vec<_>, Vec<_>) =
            ended.partition(|job| has_condition(job, "Complete"));
        let limits = [("successfulJobsHistoryLimit", done), ("failedJobsHistoryLimit", failed)];
        for (limit, mut jobs) in limits {
            let Some(limit) = number(&cron["spec"], limit) else { continue };
            jobs.sort_by_key(|job| {
                (text(job, "status.startTime").to_owned(), object::name(job).to_owned())
            });
            let surplus = jobs.len().saturating_sub(usize::try_from(limit).unwrap_or(0));
            for job in &jobs[..surplus] {
                self.delete(cron, object::name(job), object::uid(job)).await?;
            }
        }
        Ok(())
    }
}

fn set_active(status: &mut Value, active: Vec<Value>) {
    if let Some(fields) = status.as_object_mut() {
        fields.remove("active");
        if !active.is_empty() {
            fields.insert("active".into(), active.into());
        }
    }
}

/// Times up to this one are over: begun, before the CronJob was made, or past the deadline.
fn earliest(cron: &Value, now: OffsetDateTime) -> OffsetDateTime {
    let known = object::parse_time(text(cron, "status.lastScheduleTime"));
    let made = || object::parse_time(text(cron, "metadata.creationTimestamp"));
    let since = known.or_else(made).unwrap_or(now);
    match number(cron, "spec.startingDeadlineSeconds") {
        // A deadline beyond a century is none.
        Some(seconds @ ..3_200_000_000) => since.max(now - time::Duration::seconds(seconds)),
        _ => since,
    }
}

/// The wait until the first time after `last`, from `now` on.
fn wait(schedule: &Schedule, last: OffsetDateTime, now: OffsetDateTime) -> Next {
    let Some(next) = schedule.next(last).or_else(|| schedule.next(now)) else {
        return Next::Change;
    };
    // A clock that is read too early would wake for nothing.
    Next::After(Duration::try_from(next - now).unwrap_or_default() + Duration::from_millis(100))
}

/// The Job of a CronJob for a time.
fn job(cron: &Value, name: &str, time: &str) -> Value {
    let template = &cron["spec"]["jobTemplate"];
    let mut annotations = template["metadata"]["annotations"].clone();
    annotations[SCHEDULED] = time.into();
    let mut metadata = json!({
        "name": name,
        "namespace": cron["metadata"]["namespace"],
        "annotations": annotations,
        "ownerReferences": [controller_reference(cron, "batch/v1", "CronJob")],
    });
    if template["metadata"]["labels"].is_object() {
        metadata["labels"] = template["metadata"]["labels"].clone();
    }
    json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": template["spec"]})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_past_its_deadline_is_over() {
        let at = |text: &str| object::parse_time(text).unwrap();
        let now = at("2026-01-01T12:00:00Z");
        let mut cron = json!({"metadata": {"creationTimestamp": "2026-01-01T09:00:00Z"}});
        assert_eq!(earliest(&cron, now), at("2026-01-01T09:00:00Z"));
        cron["status"] = json!({"lastScheduleTime": "2026-01-01T10:00:00Z"});
        assert_eq!(earliest(&cron, now), at("2026-01-01T10:00:00Z"));
        cron["spec"] = json!({"startingDeadlineSeconds": 60});
        assert_eq!(earliest(&cron, now), at("2026-01-01T11:59:00Z"));
        cron["spec"] = json!({"startingDeadlineSeconds": i64::MAX});
        assert_eq!(earliest(&cron, now), at("2026-01-01T10:00:00Z"));
    }

    #[test]
    fn a_job_is_named_and_marked_by_its_time() {
        let cron = json!({
            "metadata": {"name": "c", "namespace": "d", "uid": "u"},
            "spec": {"jobTemplate": {"metadata": {"labels": {"a": "b"}}, "spec": {"parallelism": 2}}},
        });
        let made = job(&cron, "c-29", "2026-01-01T00:00:00Z");
        assert_eq!(made["metadata"]["annotations"], json!({SCHEDULED: "2026-01-01T00:00:00Z"}));
        assert_eq!(
            (&made["metadata"]["labels"]["a"], &made["spec"]["parallelism"]),
            (&json!("b"), &json!(2))
        );
    }
}
