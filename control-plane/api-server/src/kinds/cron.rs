//! CronJobs: Jobs at set times.
//! <https://kubernetes.io/docs/reference/kubernetes-api/workload-resources/cron-job-v1/>

use bulkhead_controllers::{Schedule, ScheduleError};
use serde_json::{Value, json};

use super::{PLAIN, batch, columns as c, pod, status, template};
use crate::object;
use crate::resource::{Behaviour, Resource, Subresource};
use crate::status::Cause;

const SUBRESOURCES: &[Subresource] = &[status("CronJob")];
/// A Job's name is the CronJob's and eleven characters more.
const LONGEST_NAME: usize = 52;

/// The kind.
pub(super) fn resource() -> Resource {
    Resource {
        group: "batch",
        kind: "CronJob",
        plural: "cronjobs",
        singular: "cronjob",
        short_names: &["cj"],
        categories: &["all"],
        storage: "cronjobs",
        generation: true,
        subresources: SUBRESOURCES,
        columns: c::CRON_JOB,
        behaviour: Behaviour {
            prepare_create: |cron| cron["status"] = json!({}),
            default,
            validate,
            ..Behaviour::PLAIN
        },
        ..PLAIN
    }
}

fn default(cron: &mut Value) {
    let Some(spec) = cron.get_mut("spec").filter(|spec| spec.is_object()) else { return };
    object::set_default(spec, "concurrencyPolicy", "Allow");
    object::set_default(spec, "suspend", false);
    object::set_default(spec, "successfulJobsHistoryLimit", 3);
    object::set_default(spec, "failedJobsHistoryLimit", 1);
    if let Some(job) = spec.get_mut("jobTemplate").filter(|job| job.is_object()) {
        // Clients written in Go send the timestamp of a template as null.
        if let Some(metadata) = job.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.retain(|_, value| !value.is_null());
        }
        if let Some(template) = job.get_mut("spec").and_then(|spec| spec.get_mut("template")) {
            template::default(template);
        }
    }
}

fn validate(cron: &Value, causes: &mut Vec<Cause>) {
    if object::name(cron).len() > LONGEST_NAME {
        let why = format!("must be no more than {LONGEST_NAME} characters");
        causes.push(Cause::invalid("metadata.name", &cron["metadata"]["name"], &why));
    }
    let spec = &cron["spec"];
    if !spec.is_object() {
        causes.push(Cause::required("spec"));
        return;
    }
    validate_times(spec, causes);
    for field in ["startingDeadlineSeconds", "successfulJobsHistoryLimit", "failedJobsHistoryLimit"]
    {
        template::not_negative(spec, "spec", field, causes);
    }
    pod::one_of(spec, "spec", "concurrencyPolicy", &["Allow", "Forbid", "Replace"], causes);
    let (job, path) = (&spec["jobTemplate"]["spec"], "spec.jobTemplate.spec");
    batch::validate_spec(job, path, causes);
    if !job["selector"].is_null() {
        let field = format!("{path}.selector");
        causes.push(Cause::invalid(field, &job["selector"], "`selector` will be auto-generated"));
    }
    if job["manualSelector"] == true {
        let field = format!("{path}.manualSelector");
        causes.push(Cause::not_supported(field, &json!(true), &["nil", "false"]));
    }
}

fn validate_times(spec: &Value, causes: &mut Vec<Cause>) {
    let (pattern, zone) = (object::text(spec, "schedule"), spec["timeZone"].as_str());
    let (schedule, time_zone) = (&spec["schedule"], &spec["timeZone"]);
    if pattern.is_empty() {
        return causes.push(Cause::required("spec.schedule"));
    }
    if pattern.contains("TZ") {
        let why = "cannot use TZ or CRON_TZ in schedule, use timeZone field instead";
        return causes.push(Cause::invalid("spec.schedule", schedule, why));
    }
    match zone {
        Some("") => {
            let why = "timeZone must be nil or non-empty string";
            return causes.push(Cause::invalid("spec.timeZone", time_zone, why));
        }
        Some(local) if local.eq_ignore_ascii_case("local") => {
            let why = "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones";
            return causes.push(Cause::invalid("spec.timeZone", time_zone, why));
        }
        _ => {}
    }
    match Schedule::parse(pattern, zone) {
        Ok(_) => {}
        Err(error @ ScheduleError::Zone(_)) => {
            causes.push(Cause::invalid("spec.timeZone", time_zone, &error.to_string()));
        }
        Err(error @ ScheduleError::Schedule(_)) => {
            causes.push(Cause::invalid("spec.schedule", schedule, &error.to_string()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::testing;

    fn cron(spec: &Value) -> Value {
        let container = json!({"name": "c", "image": "c:1"});
        let pod = json!({"spec": {"containers": [container], "restartPolicy": "Never"}});
        let mut cron = json!({
            "metadata": {"name": "c"},
            "spec": {"schedule": "* * * * *", "jobTemplate": {"spec": {"template": pod}}},
        });
        json_patch::merge(&mut cron["spec"], spec);
        default(&mut cron);
        cron
    }

    fn fields(cron: &Value) -> Vec<String> {
        testing::fields(validate, cron)
    }

    #[test]
    fn defaults() {
        let made = cron(&json!({}));
        assert_eq!(fields(&made), Vec::<String>::new());
        let spec = &made["spec"];
        assert_eq!(
            (&spec["concurrencyPolicy"], &spec["suspend"]),
            (&json!("Allow"), &json!(false))
        );
        assert_eq!(spec["successfulJobsHistoryLimit"], 3);
        assert_eq!(spec["failedJobsHistoryLimit"], 1);
        let job = &spec["jobTemplate"]["spec"];
        assert_eq!(job["template"]["spec"]["dnsPolicy"], "ClusterFirst");
        assert_eq!(job.get("backoffLimit"), None, "a Job gets its defaults when it is made");
    }

    #[test]
    fn what_is_wrong_is_named_by_its_path() {
        for (spec, expected) in [
            (json!({"schedule": "often"}), "spec.schedule"),
            (json!({"schedule": ""}), "spec.schedule"),
            (json!({"schedule": "TZ=UTC * * * * *"}), "spec.schedule"),
            (json!({"timeZone": "Mars/Base"}), "spec.timeZone"),
            (json!({"timeZone": "local"}), "spec.timeZone"),
            (json!({"timeZone": ""}), "spec.timeZone"),
            (json!({"startingDeadlineSeconds": -1}), "spec.startingDeadlineSeconds"),
            (json!({"concurrencyPolicy": "Never"}), "spec.concurrencyPolicy"),
            (
                json!({"jobTemplate": {"spec": {"selector": {"matchLabels": {"a": "b"}}}}}),
                "spec.jobTemplate.spec.selector",
            ),
            (
                json!({"jobTemplate": {"spec": {"template": {"spec": {"restartPolicy": "Always"}}}}}),
                "spec.jobTemplate.spec.template.spec.restartPolicy",
            ),
        ] {
            assert_eq!(fields(&cron(&spec)), [expected], "{spec}");
        }
        let mut long = cron(&json!({}));
        long["metadata"]["name"] = "x".repeat(53).into();
        assert_eq!(fields(&long), ["metadata.name"]);
    }
}
