//! The group `batch`: Jobs.
//! <https://kubernetes.io/docs/reference/kubernetes-api/workload-resources/job-v1/>

mod policies;

use serde_json::{Value, json};

use super::{PLAIN, columns as c, pod, status, template};
use crate::names;
use crate::object;
use crate::resource::{Behaviour, Resource, Subresource};
use crate::status::Cause;

const JOB: &[Subresource] = &[status("Job")];

/// The kinds of the group.
pub(super) fn resources() -> Vec<Resource> {
    vec![Resource {
        group: "batch",
        kind: "Job",
        plural: "jobs",
        singular: "job",
        categories: &["all"],
        storage: "jobs",
        generation: true,
        orphans_by_default: true,
        subresources: JOB,
        fields: &["status.successful"],
        columns: c::JOB,
        behaviour: Behaviour {
            prepare_create: prepare_job,
            default: default_job,
            validate: validate_job,
            validate_update: validate_job_update,
            ..Behaviour::PLAIN
        },
        ..PLAIN
    }]
}

/// The longest name of a controller that a job is left to.
const MAX_MANAGED_BY: usize = 63;

/// A job selects its pods by its own uid, unless its creator says how.
fn prepare_job(job: &mut Value) {
    job["status"] = json!({});
    let (uid, name) = (object::text(job, "metadata.uid").to_owned(), object::name(job).to_owned());
    let Some(spec) = job.get_mut("spec").filter(|spec| spec.is_object()) else { return };
    if spec["manualSelector"] == true {
        return;
    }
    if spec["selector"].is_null() {
        spec["selector"] = json!({"matchLabels": {"batch.kubernetes.io/controller-uid": uid}});
    }
    let Some(metadata) = object::map(spec, "template").and_then(|template| {
        let metadata = template.entry("metadata").or_insert_with(|| json!({}));
        if metadata.is_null() {
            *metadata = json!({});
        }
        metadata.is_object().then_some(metadata)
    }) else {
        return;
    };
    if let Some(labels) = object::map(metadata, "labels") {
        for (label, value) in [
            ("batch.kubernetes.io/controller-uid", &uid),
            ("controller-uid", &uid),
            ("batch.kubernetes.io/job-name", &name),
            ("job-name", &name),
        ] {
            labels.insert(label.into(), value.as_str().into());
        }
    }
}

/// Fills defaults into a job's spec, or into that of a template.
pub(super) fn default_spec(spec: &mut Value) {
    if spec["completions"].is_null() && spec["parallelism"].is_null() {
        spec["completions"] = 1.into();
    }
    object::set_default(spec, "parallelism", 1);
    object::set_default(spec, "completionMode", "NonIndexed");
    object::set_default(spec, "suspend", false);
    policies::default(spec);
    if let Some(template) = spec.get_mut("template") {
        template::default(template);
    }
}

fn default_job(job: &mut Value) {
    if let Some(spec) = job.get_mut("spec").filter(|spec| spec.is_object()) {
        default_spec(spec);
        let labels = spec["template"]["metadata"]["labels"].clone();
        if job["metadata"].get("labels").is_none() && labels.is_object() {
            job["metadata"]["labels"] = labels;
        }
    }
}

fn validate_job(job: &Value, causes: &mut Vec<Cause>) {
    let spec = &job["spec"];
    validate_spec(spec, "spec", causes);
    if spec.is_object() {
        template::validate_selector(spec, "job", causes);
    }
}

/// Reports what is wrong with a job's spec at `path`, without its selector.
pub(super) fn validate_spec(spec: &Value, path: &str, causes: &mut Vec<Cause>) {
    if !spec.is_object() {
        causes.push(Cause::required(path));
        return;
    }
    for field in [
        "parallelism",
        "completions",
        "activeDeadlineSeconds",
        "backoffLimit",
        "ttlSecondsAfterFinished",
    ] {
        template::not_negative(spec, path, field, causes);
    }
    pod::one_of(spec, path, "completionMode", &["NonIndexed", "Indexed"], causes);
    if spec["completionMode"] == "Indexed" && spec["completions"].is_null() {
        causes.push(Cause {
            message: "Required value: when completion mode is Indexed".into(),
            ..Cause::required(format!("{path}.completions"))
        });
    }
    policies::validate(spec, path, causes);
    if let Some(name) = spec["managedBy"].as_str() {
        if !(name.contains('/') && names::is_qualified(name)) {
            let why = "must be a domain-prefixed path (such as \"acme.io/foo\")";
            causes.push(Cause::invalid(format!("{path}.managedBy"), &spec["managedBy"], why));
        }
        if name.len() > MAX_MANAGED_BY {
            let why = format!("must have at most {MAX_MANAGED_BY} bytes");
            causes.push(Cause::invalid(format!("{path}.managedBy"), &spec["managedBy"], &why));
        }
    }
    let template = &spec["template"];
    let field = format!("{path}.template");
    let policies = &["Always", "OnFailure", "Never"];
    template::validate(template, &field, policies, causes);
    if template["spec"]["restartPolicy"] == "Always" {
        causes.push(Cause {
            message: "Required value: valid values: \"OnFailure\", \"Never\"".into(),
            ..Cause::required(format!("{field}.spec.restartPolicy"))
        });
    }
}

fn validate_job_update(new: &Value, old: &Value, causes: &mut Vec<Cause>) {
    for field in [
        "spec.selector",
        "spec.template",
        "spec.completionMode",
        "spec.podFailurePolicy",
        "spec.backoffLimitPerIndex",
        "spec.successPolicy",
        "spec.managedBy",
    ] {
        template::immutable(new, old, field, causes);
    }
    // An indexed job may grow or shrink, both counts together.
    let (completions, parallelism) = (&new["spec"]["completions"], &new["spec"]["parallelism"]);
    let elastic = new["spec"]["completionMode"] == "Indexed" && completions == parallelism;
    if !elastic {
        template::immutable(new, old, "spec.completions", causes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::testing;

    fn job(spec: Value) -> Value {
        let container = json!({"name": "c", "image": "c:1"});
        let template = json!({"spec": {"containers": [container], "restartPolicy": "Never"}});
        let mut job =
            json!({"metadata": {"name": "j", "uid": "u"}, "spec": {"template": template}});
        json_patch::merge(&mut job["spec"], &spec);
        prepare_job(&mut job);
        default_job(&mut job);
        job
    }

    fn fields(job: &Value) -> Vec<String> {
        testing::fields(validate_job, job)
    }

    #[test]
    fn defaults() {
        let made = job(json!({}));
        assert_eq!(fields(&made), Vec::<String>::new());
        let spec = &made["spec"];
        assert_eq!((&spec["completions"], &spec["parallelism"]), (&json!(1), &json!(1)));
        assert_eq!(spec["selector"]["matchLabels"]["batch.kubernetes.io/controller-uid"], "u");
        assert_eq!(spec["template"]["metadata"]["labels"]["job-name"], "j");
        assert_eq!(made["metadata"]["labels"]["controller-uid"], "u");
        assert_eq!(job(json!({"parallelism": 3}))["spec"].get("completions"), None);
    }

    #[test]
    fn what_is_wrong_is_named_by_its_path() {
        for (spec, expected) in [
            (json!({"backoffLimit": -1}), "spec.backoffLimit"),
            (json!({"completionMode": "Indexed", "parallelism": 2}), "spec.completions"),
            (json!({"managedBy": "me"}), "spec.managedBy"),
            (json!({"successPolicy": {"rules": []}}), "spec.successPolicy"),
            (
                json!({"template": {"spec": {"restartPolicy": "Always"}}}),
                "spec.template.spec.restartPolicy",
            ),
        ] {
            assert_eq!(fields(&job(spec)), [expected]);
        }
        let mut causes = Vec::new();
        let changed =
            job(json!({"completions": 2, "template": {"spec": {"restartPolicy": "OnFailure"}}}));
        validate_job_update(&changed, &job(json!({})), &mut causes);
        let fields: Vec<_> = causes.iter().map(|cause| cause.field.as_str()).collect();
        assert_eq!(fields, ["spec.template", "spec.completions"]);
        let mut causes = Vec::new();
        validate_job_update(&job(json!({"managedBy": "a.io/b"})), &job(json!({})), &mut causes);
        assert_eq!(causes[0].field, "spec.managedBy");
    }
}
