//! What Jobs say about pods that fail, and about when enough have not.
//! <https://kubernetes.io/docs/reference/kubernetes-api/workload-resources/job-v1/#handling-pod-failures>

use serde_json::{Value, json};

use crate::kinds::{pod, template};
use crate::names;
use crate::object::{self, list, text};
use crate::status::Cause;

/// A policy has at most so many rules, and a rule so many conditions.
const MAX_RULES: usize = 20;
/// A rule names at most so many exit codes.
const MAX_CODES: usize = 255;
/// The text of a success policy's indexes is at most so long, in bytes.
const MAX_INDEXES: usize = 64 << 10;
/// Where completions are more than so many, and each has a limit, the rest is bounded by [`FEW`].
const MANY: i64 = 100_000;
const FEW: i64 = 10_000;

/// Fills in the defaults of what the policies say.
pub(super) fn default(spec: &mut Value) {
    // With a limit for each index there is none for all.
    let limit = if spec["backoffLimitPerIndex"].is_null() { 6 } else { i32::MAX };
    object::set_default(spec, "backoffLimit", limit);
    let has_policy = !spec["podFailurePolicy"].is_null();
    let replaced = if has_policy { "Failed" } else { "TerminatingOrFailed" };
    object::set_default(spec, "podReplacementPolicy", replaced);
    let rules = spec.pointer_mut("/podFailurePolicy/rules").and_then(Value::as_array_mut);
    for rule in rules.into_iter().flatten() {
        let conditions = rule.get_mut("onPodConditions").and_then(Value::as_array_mut);
        for condition in conditions.into_iter().flatten().filter(|one| one.is_object()) {
            object::set_default(condition, "status", "True");
        }
    }
}

/// Reports what is wrong with what the spec at `path` says of failures and successes.
pub(super) fn validate(spec: &Value, path: &str, causes: &mut Vec<Cause>) {
    let has = |field: &str| !spec[field].is_null();
    let indexed = spec["completionMode"] == "Indexed";
    for field in ["backoffLimitPerIndex", "maxFailedIndexes"] {
        template::not_negative(spec, path, field, causes);
        if has(field) && !indexed {
            let why = "requires indexed completion mode";
            causes.push(Cause::invalid(format!("{path}.{field}"), &spec[field], why));
        }
    }
    if has("maxFailedIndexes") && !has("backoffLimitPerIndex") {
        causes.push(Cause {
            message: "Required value: when maxFailedIndexes is specified".into(),
            ..Cause::required(format!("{path}.backoffLimitPerIndex"))
        });
    }
    if indexed {
        bounds(spec, path, causes);
    }
    for field in ["podFailurePolicy", "backoffLimitPerIndex"] {
        let policy = &spec["template"]["spec"]["restartPolicy"];
        if has(field) && policy != "Never" {
            let why = format!("only \"Never\" is supported when {field} is specified");
            let path = format!("{path}.template.spec.restartPolicy");
            causes.push(Cause::invalid(path, policy, &why));
        }
    }
    let replacements: &[&str] =
        if has("podFailurePolicy") { &["Failed"] } else { &["TerminatingOrFailed", "Failed"] };
    pod::one_of(spec, path, "podReplacementPolicy", replacements, causes);
    if has("podFailurePolicy") {
        failure_policy(spec, &format!("{path}.podFailurePolicy"), causes);
    }
    if has("successPolicy") {
        let path = format!("{path}.successPolicy");
        match indexed {
            true => success_policy(spec, &path, causes),
            false => {
                let why = "requires indexed completion mode";
                causes.push(Cause::invalid(path, &spec["successPolicy"], why));
            }
        }
    }
}

/// Reports counts of indexes that are too many together.
fn bounds(spec: &Value, path: &str, causes: &mut Vec<Cause>) {
    let number = |field: &str| spec[field].as_i64();
    let mut at_most = |field: &str, most: i64, why: &str| {
        if number(field).is_some_and(|count| count > most) {
            let why = format!("must be less than or equal to {why}");
            causes.push(Cause::invalid(format!("{path}.{field}"), &spec[field], &why));
        }
    };
    at_most("parallelism", MANY, &format!("{MANY} when completion mode is Indexed"));
    at_most("maxFailedIndexes", MANY, &MANY.to_string());
    let Some(completions) = number("completions") else { return };
    at_most("maxFailedIndexes", completions, "completions");
    if completions <= MANY || spec["backoffLimitPerIndex"].is_null() {
        return;
    }
    let why =
        format!("{FEW} when completions are above {MANY} and used with backoff limit per index");
    at_most("parallelism", FEW, &why);
    at_most("maxFailedIndexes", FEW, &why);
    if spec["maxFailedIndexes"].is_null() {
        causes.push(Cause {
            message: format!("Required value: must be specified when completions is above {MANY}"),
            ..Cause::required(format!("{path}.maxFailedIndexes"))
        });
    }
}

fn failure_policy(spec: &Value, path: &str, causes: &mut Vec<Cause>) {
    let rules = list(spec, "podFailurePolicy.rules");
    let path = format!("{path}.rules");
    if rules.len() > MAX_RULES {
        causes.push(Cause::too_many(&path, rules.len(), MAX_RULES));
    }
    for (index, rule) in rules.iter().enumerate() {
        let path = format!("{path}[{index}]");
        let actions = &["FailJob", "FailIndex", "Ignore", "Count"];
        required_one_of(rule, &path, "action", actions, causes);
        if rule["action"] == "FailIndex" && spec["backoffLimitPerIndex"].is_null() {
            let why = "requires the backoffLimitPerIndex to be set";
            causes.push(Cause::invalid(format!("{path}.action"), &rule["action"], why));
        }
        match (rule["onExitCodes"].is_null(), list(rule, "onPodConditions")) {
            (false, []) => {
                let path = format!("{path}.onExitCodes");
                exit_codes(&rule["onExitCodes"], &spec["template"]["spec"], &path, causes);
            }
            (false, _) => {
                let why = "specifying both OnExitCodes and OnPodConditions is not supported";
                causes.push(Cause::invalid(path, rule, why));
            }
            (true, []) => {
                let why = "specifying one of OnExitCodes and OnPodConditions is required";
                causes.push(Cause::invalid(path, rule, why));
            }
            (true, all) => conditions(all, &format!("{path}.onPodConditions"), causes),
        }
    }
}

fn exit_codes(rule: &Value, pod: &Value, path: &str, causes: &mut Vec<Cause>) {
    required_one_of(rule, path, "operator", &["In", "NotIn"], causes);
    if let Some(name) = rule["containerName"].as_str() {
        let mut containers = list(pod, "containers").iter().chain(list(pod, "initContainers"));
        if !containers.any(|container| container["name"] == name) {
            let why = "must be one of the container or initContainer names in the pod template";
            let path = format!("{path}.containerName");
            causes.push(Cause::invalid(path, &rule["containerName"], why));
        }
    }
    let values = list(rule, "values");
    let path = format!("{path}.values");
    if values.is_empty() {
        causes.push(Cause::invalid(&path, &rule["values"], "at least one value is required"));
    } else if values.len() > MAX_CODES {
        causes.push(Cause::too_many(&path, values.len(), MAX_CODES));
    }
    let codes: Vec<_> = values.iter().filter_map(Value::as_i64).collect();
    for (index, code) in codes.iter().enumerate() {
        let path = format!("{path}[{index}]");
        if *code == 0 && rule["operator"] == "In" {
            causes.push(Cause::invalid(path, &json!(code), "must not be 0 for the In operator"));
        } else if codes[..index].contains(code) {
            causes.push(Cause::duplicate(path, &json!(code)));
        }
    }
    if !codes.is_sorted() {
        causes.push(Cause::invalid(path, &rule["values"], "must be ordered"));
    }
}

fn conditions(conditions: &[Value], path: &str, causes: &mut Vec<Cause>) {
    if conditions.len() > MAX_RULES {
        causes.push(Cause::too_many(path, conditions.len(), MAX_RULES));
    }
    for (index, condition) in conditions.iter().enumerate() {
        let path = format!("{path}[{index}]");
        if !names::is_qualified(text(condition, "type")) {
            let why = names::NO_QUALIFIED;
            causes.push(Cause::invalid(format!("{path}.type"), &condition["type"], why));
        }
        required_one_of(condition, &path, "status", &["False", "True", "Unknown"], causes);
    }
}

fn success_policy(spec: &Value, path: &str, causes: &mut Vec<Cause>) {
    let rules = list(spec, "successPolicy.rules");
    let path = format!("{path}.rules");
    if rules.is_empty() {
        causes.push(Cause {
            message: "Required value: at least one rules must be specified when the successPolicy is specified".into(),
            ..Cause::required(&path)
        });
    } else if rules.len() > MAX_RULES {
        causes.push(Cause::too_many(&path, rules.len(), MAX_RULES));
    }
    let completions = spec["completions"].as_i64().unwrap_or(0);
    for (index, rule) in rules.iter().enumerate() {
        let path = format!("{path}[{index}]");
        let (indexes, count) = (rule["succeededIndexes"].as_str(), &rule["succeededCount"]);
        if indexes.is_none() && count.is_null() {
            causes.push(Cause {
                message: "Required value: at least one of succeededCount or succeededIndexes must be specified".into(),
                ..Cause::required(&path)
            });
        }
        let mut most = (completions, "the number of specified completions");
        if let Some(text) = indexes {
            let path = format!("{path}.succeededIndexes");
            match count_indexes(text, completions) {
                Ok(all) => {
                    most = (all, "the number of indexes in the specified succeededIndexes field");
                }
                Err(why) => {
                    let why = format!("error parsing succeededIndexes: {why}");
                    causes.push(Cause::invalid(path, &rule["succeededIndexes"], &why));
                }
            }
        }
        template::not_negative(rule, &path, "succeededCount", causes);
        if count.as_i64().is_some_and(|count| count > most.0) {
            let why = format!("must be less than or equal to {} ({})", most.0, most.1);
            causes.push(Cause::invalid(format!("{path}.succeededCount"), count, &why));
        }
    }
}

/// How many indexes a text like `0-2,5` has: they rise, and are below `completions`.
fn count_indexes(text: &str, completions: i64) -> Result<i64, String> {
    if text.len() > MAX_INDEXES {
        return Err(format!("must have at most {MAX_INDEXES} bytes"));
    }
    let (mut last, mut count) = (-1, 0);
    for part in text.split(',') {
        let (first, end) = part.split_once('-').unwrap_or((part, part));
        let parse = |index: &str| match index.parse::<u32>() {
            Ok(index) => Ok(i64::from(index)),
            Err(_) => Err(format!("cannot convert string to integer for index: \"{index}\"")),
        };
        let (first, end) = (parse(first)?, parse(end)?);
        if let Some(large) = [first, end].into_iter().find(|index| *index >= completions) {
            return Err(format!("too large index: \"{large}\""));
        }
        if first <= last || end < first {
            return Err(format!("non-increasing order, previous: {last}, current: {first}"));
        }
        count += end - first + 1;
        last = end;
    }
    Ok(count)
}

/// As [`pod::one_of`], of a field that must be there.
fn required_one_of(
    object: &Value,
    path: &str,
    field: &str,
    supported: &[&str],
    causes: &mut Vec<Cause>,
) {
    if text(object, field).is_empty() {
        let known = supported.join(", ");
        causes.push(Cause {
            message: format!("Required value: valid values: [{known}]"),
            ..Cause::required(format!("{path}.{field}"))
        });
    } else {
        pod::one_of(object, path, field, supported, causes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The fields that are wrong with an Indexed job of 5 completions that says this.
    fn wrong(said: &Value) -> Vec<String> {
        let mut spec = json!({
            "completionMode": "Indexed", "completions": 5,
            "template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "c"}]}},
        });
        json_patch::merge(&mut spec, said);
        default(&mut spec);
        let mut causes = Vec::new();
        validate(&spec, "spec", &mut causes);
        causes.into_iter().map(|cause| cause.field).collect()
    }

    #[test]
    fn limits_are_of_indexes() {
        let nothing = Vec::<String>::new();
        assert_eq!(wrong(&json!({"backoffLimitPerIndex": 1, "maxFailedIndexes": 5})), nothing);
        for (said, expected) in [
            (json!({"backoffLimitPerIndex": -1}), vec!["spec.backoffLimitPerIndex"]),
            (json!({"maxFailedIndexes": 1}), vec!["spec.backoffLimitPerIndex"]),
            (
                json!({"backoffLimitPerIndex": 1, "maxFailedIndexes": 6}),
                vec!["spec.maxFailedIndexes"],
            ),
            (
                json!({"backoffLimitPerIndex": 1, "completionMode": "NonIndexed"}),
                vec!["spec.backoffLimitPerIndex"],
            ),
            (
                json!({"backoffLimitPerIndex": 1, "template": {"spec": {"restartPolicy": "OnFailure"}}}),
                vec!["spec.template.spec.restartPolicy"],
            ),
            (
                json!({"backoffLimitPerIndex": 1, "completions": 100_001, "parallelism": 10_001}),
                vec!["spec.parallelism", "spec.maxFailedIndexes"],
            ),
        ] {
            assert_eq!(wrong(&said), expected, "{said}");
        }
        let mut spec = json!({"backoffLimitPerIndex": 1, "podFailurePolicy": {"rules": [
            {"onPodConditions": [{"type": "DisruptionTarget"}]}]}});
        default(&mut spec);
        assert_eq!(
            (&spec["backoffLimit"], &spec["podReplacementPolicy"]),
            (&json!(i32::MAX), &json!("Failed"))
        );
        assert_eq!(spec["podFailurePolicy"]["rules"][0]["onPodConditions"][0]["status"], "True");
    }

    #[test]
    fn failure_policies() {
        let rules = |rules: Value| wrong(&json!({"podFailurePolicy": {"rules": rules}}));
        let codes = |codes: Value| json!([{"action": "FailJob", "onExitCodes": codes}]);
        let good = codes(json!({"operator": "In", "values": [1, 3], "containerName": "c"}));
        assert_eq!(rules(good), Vec::<String>::new());
        let path = "spec.podFailurePolicy.rules";
        for (said, field) in [
            (json!([{"action": "FailJob"}]), "[0]"),
            (json!([{"onPodConditions": [{"type": "A"}]}]), "[0].action"),
            (json!([{"action": "FailIndex", "onPodConditions": [{"type": "A"}]}]), "[0].action"),
            (
                json!([{"action": "Ignore", "onPodConditions": [{"type": "/"}]}]),
                "[0].onPodConditions[0].type",
            ),
            (codes(json!({"values": [1]})), "[0].onExitCodes.operator"),
            (codes(json!({"operator": "In", "values": []})), "[0].onExitCodes.values"),
            (codes(json!({"operator": "In", "values": [0]})), "[0].onExitCodes.values[0]"),
            (codes(json!({"operator": "In", "values": [3, 1]})), "[0].onExitCodes.values"),
            (codes(json!({"operator": "In", "values": [1, 1]})), "[0].onExitCodes.values[1]"),
            (
                codes(json!({"operator": "In", "values": [1], "containerName": "d"})),
                "[0].onExitCodes.containerName",
            ),
            (json!(vec![json!({"action": "Count", "onPodConditions": [{"type": "A"}]}); 21]), ""),
        ] {
            assert_eq!(rules(said.clone()), [format!("{path}{field}")], "{said}");
        }
        let replaced =
            json!({"podReplacementPolicy": "TerminatingOrFailed", "podFailurePolicy": {}});
        assert_eq!(wrong(&replaced), ["spec.podReplacementPolicy"]);
    }

    #[test]
    fn success_policies() {
        let rule = |rule: Value| wrong(&json!({"successPolicy": {"rules": [rule]}}));
        assert_eq!(
            rule(json!({"succeededIndexes": "0-2,4", "succeededCount": 4})),
            Vec::<String>::new()
        );
        let path = "spec.successPolicy.rules[0]";
        for (said, field) in [
            (json!({}), ""),
            (json!({"succeededCount": 6}), ".succeededCount"),
            (json!({"succeededCount": -1}), ".succeededCount"),
            (json!({"succeededIndexes": "0-2", "succeededCount": 4}), ".succeededCount"),
            (json!({"succeededIndexes": "5"}), ".succeededIndexes"),
            (json!({"succeededIndexes": "1,0"}), ".succeededIndexes"),
            (json!({"succeededIndexes": ""}), ".succeededIndexes"),
            (json!({"succeededIndexes": "2-1"}), ".succeededIndexes"),
        ] {
            assert_eq!(rule(said.clone()), [format!("{path}{field}")], "{said}");
        }
        assert_eq!(wrong(&json!({"successPolicy": {}})), ["spec.successPolicy.rules"]);
        let plain = json!({"completionMode": "NonIndexed", "successPolicy": {"rules": []}});
        assert_eq!(wrong(&plain), ["spec.successPolicy"]);
    }
}
