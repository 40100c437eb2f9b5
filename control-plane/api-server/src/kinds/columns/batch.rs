//! Columns of the group `batch`.

use serde_json::Value;
use time::OffsetDateTime;

use super::apps::{containers, images, number, selector};
use super::{AGE, NAME, age, column, human_duration, integer, or_none, wide};
use crate::object::{list, parse_time, text};
use crate::resource::Column;

pub(in crate::kinds) const JOB: &[Column] = &[
    NAME,
    column("Status", |job| job_status(job).into()),
    column("Completions", |job| {
        let succeeded = number(job, "status.succeeded");
        match job["spec"]["completions"].as_i64() {
            Some(wanted) => format!("{succeeded}/{wanted}"),
            None => match number(job, "spec.parallelism") {
                several if several > 1 => format!("{succeeded}/1 of {several}"),
                _ => format!("{succeeded}/1"),
            },
        }
        .into()
    }),
    column("Duration", |job| {
        let Some(start) = parse_time(text(job, "status.startTime")) else { return "".into() };
        let end = parse_time(text(job, "status.completionTime"));
        human_duration(end.unwrap_or_else(OffsetDateTime::now_utc) - start).into()
    }),
    AGE,
    wide("Containers", containers),
    wide("Images", images),
    wide("Selector", selector),
];

pub(in crate::kinds) const CRON_JOB: &[Column] = &[
    NAME,
    column("Schedule", |cron| text(cron, "spec.schedule").into()),
    column("Timezone", |cron| or_none(text(cron, "spec.timeZone").into()).into()),
    column("Suspend", |cron| if cron["spec"]["suspend"] == true { "True" } else { "False" }.into()),
    integer("Active", |cron| list(cron, "status.active").len().into()),
    column("Last Schedule", |cron| match text(cron, "status.lastScheduleTime") {
        "" => "<none>".into(),
        since => age(since).into(),
    }),
    AGE,
    wide("Containers", |cron| containers(&cron["spec"]["jobTemplate"])),
    wide("Images", |cron| images(&cron["spec"]["jobTemplate"])),
    wide("Selector", |cron| selector(&cron["spec"]["jobTemplate"])),
];

fn job_status(job: &Value) -> &'static str {
    let has = |kind: &str| {
        list(job, "status.conditions")
            .iter()
            .any(|condition| condition["type"] == kind && condition["status"] == "True")
    };
    match () {
        () if has("Complete") => "Complete",
        () if has("Failed") => "Failed",
        () if !text(job, "metadata.deletionTimestamp").is_empty() => "Terminating",
        () if has("Suspended") => "Suspended",
        () if has("FailureTarget") => "FailureTarget",
        () if has("SuccessCriteriaMet") => "SuccessCriteriaMet",
        () => "Running",
    }
}
