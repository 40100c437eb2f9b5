//! What a job says about pods that fail, and about when enough have not.
//! <https://kubernetes.io/docs/concepts/workloads/controllers/job/#pod-failure-policy>,
//! <https://kubernetes.io/docs/concepts/workloads/controllers/job/#success-policy>

use std::collections::BTreeSet;

use bulkhead_client::object::{self, list, number, text};
use serde_json::Value;

use super::indexes;

/// What becomes of a job whose pod has failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Failure {
    /// The job has failed too, for this reason.
    Job(String),
    /// The pod's index has failed.
    Index,
    /// The failure does not count.
    Ignored,
    /// The failure counts.
    Counts,
}

/// What the first rule of the job's `podFailurePolicy` that is about the failure of `pod` says; without
/// one it counts.
pub(super) fn failure(job: &Value, pod: &Value) -> Failure {
    for (index, rule) in list(job, "spec.podFailurePolicy.rules").iter().enumerate() {
        let why = match rule["onExitCodes"].is_null() {
            false => exit(&rule["onExitCodes"], pod),
            true => condition(list(rule, "onPodConditions"), pod),
        };
        let Some(why) = why else { continue };
        return match text(rule, "action") {
            "FailJob" => Failure::Job(format!("{why} matching FailJob rule at index {index}")),
            "FailIndex" => Failure::Index,
            "Ignore" => Failure::Ignored,
            _ => Failure::Counts,
        };
    }
    Failure::Counts
}

/// The container that ended as a rule says.
fn exit(rule: &Value, pod: &Value) -> Option<String> {
    let wanted = rule["containerName"].as_str();
    let containers = list(pod, "status.containerStatuses").iter();
    let mut containers = containers.chain(list(pod, "status.initContainerStatuses"));
    let (container, code) = containers.find_map(|container| {
        let name = text(container, "name");
        let code = number(container, "state.terminated.exitCode").filter(|code| *code != 0)?;
        let listed = list(rule, "values").iter().any(|value| value.as_i64() == Some(code));
        let meant = listed == (text(rule, "operator") == "In");
        (meant && wanted.is_none_or(|wanted| wanted == name)).then_some((name, code))
    })?;
    let (namespace, name) = (object::namespace(pod).unwrap_or_default(), object::name(pod));
    Some(format!("Container {container} for pod {namespace}/{name} failed with exit code {code}"))
}

/// The first condition of a pod that is among those of a rule.
fn condition(rules: &[Value], pod: &Value) -> Option<String> {
    let mut conditions = list(pod, "status.conditions").iter();
    let found = conditions.find(|condition| {
        rules.iter().any(|rule| {
            let status = rule["status"].as_str().unwrap_or("True");
            condition["type"] == rule["type"] && condition["status"] == status
        })
    })?;
    let (namespace, name) = (object::namespace(pod).unwrap_or_default(), object::name(pod));
    Some(format!("Pod {namespace}/{name} has condition {}", text(found, "type")))
}

/// The first rule of the job's `successPolicy` that the `completed` indexes meet.
pub(super) fn success(job: &Value, completed: &BTreeSet<i64>) -> Option<usize> {
    let completions = number(job, "spec.completions").unwrap_or(0);
    let is_met = |rule: &Value| {
        let named = rule["succeededIndexes"].as_str();
        let named = named.map(|text| indexes::parse(text, completions));
        let (done, all) = match &named {
            Some(named) => (named.intersection(completed).count(), named.len()),
            None => (completed.len(), usize::MAX),
        };
        let wanted = match number(rule, "succeededCount") {
            Some(count) => usize::try_from(count).unwrap_or(0),
            None => all,
        };
        done >= wanted
    };
    if completed.is_empty() {
        return None;
    }
    list(job, "spec.successPolicy.rules").iter().position(is_met)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(code: i64) -> Value {
        let ended = |name: &str, code: i64| json!({"name": name, "state": {"terminated": {"exitCode": code}}});
        json!({"metadata": {"name": "p", "namespace": "n"}, "status": {
            "containerStatuses": [ended("main", code), ended("side", 0)],
            "initContainerStatuses": [ended("first", 0)],
            "conditions": [{"type": "DisruptionTarget", "status": "True"}],
        }})
    }

    fn rules(rules: Value) -> Value {
        json!({"spec": {"podFailurePolicy": {"rules": rules}}})
    }

    #[test]
    fn the_first_rule_that_is_about_it_decides() {
        let codes = |action: &str, operator: &str, values: &[i64]| json!({"action": action, "onExitCodes": {"operator": operator, "values": values}});
        let job = rules(json!([
            codes("FailJob", "In", &[42]),
            codes("Ignore", "In", &[3, 4]),
            codes("FailIndex", "NotIn", &[1, 2]),
            codes("Count", "In", &[1]),
        ]));
        let why =
            "Container main for pod n/p failed with exit code 42 matching FailJob rule at index 0";
        assert_eq!(failure(&job, &pod(42)), Failure::Job(why.into()));
        assert_eq!(failure(&job, &pod(4)), Failure::Ignored);
        assert_eq!(failure(&job, &pod(5)), Failure::Index);
        assert_eq!(failure(&job, &pod(1)), Failure::Counts);
        assert_eq!(failure(&job, &pod(2)), Failure::Counts, "no rule is about it");
        // What did not fail is no reason, not even for `NotIn`.
        assert_eq!(failure(&job, &pod(0)), Failure::Counts);
        assert_eq!(failure(&json!({"spec": {}}), &pod(42)), Failure::Counts);
    }

    #[test]
    fn rules_are_of_one_container_or_of_conditions() {
        let exit = json!({"containerName": "side", "operator": "NotIn", "values": [0]});
        let job = rules(json!([{"action": "Ignore", "onExitCodes": exit}]));
        assert_eq!(failure(&job, &pod(1)), Failure::Counts);
        let job = rules(json!([
            {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "False"}]},
            {"action": "FailJob", "onPodConditions": [{"type": "Ready"}, {"type": "DisruptionTarget"}]},
        ]));
        let why = "Pod n/p has condition DisruptionTarget matching FailJob rule at index 1";
        assert_eq!(failure(&job, &pod(1)), Failure::Job(why.into()));
    }

    #[test]
    fn enough_have_succeeded() {
        let job = json!({"spec": {"completions": 6, "successPolicy": {"rules": [
            {"succeededIndexes": "0,2"},
            {"succeededIndexes": "3-5", "succeededCount": 2},
            {"succeededCount": 4},
        ]}}});
        let met = |indexes: &[i64]| success(&job, &indexes.iter().copied().collect());
        assert_eq!(met(&[]), None);
        assert_eq!(met(&[0, 1, 3]), None);
        assert_eq!(met(&[0, 2]), Some(0));
        assert_eq!(met(&[3, 5]), Some(1));
        assert_eq!(met(&[0, 1, 3, 2]), Some(0));
        assert_eq!(met(&[0, 1, 3, 4]), Some(1));
        assert_eq!(success(&json!({"spec": {}}), &[0].into()), None);
    }
}
