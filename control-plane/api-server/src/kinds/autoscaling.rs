//! HorizontalPodAutoscalers: `autoscaling/v2`, which is stored, and `autoscaling/v1`, which knows a
//! target of CPU only and keeps the rest in annotations.
//! <https://kubernetes.io/docs/reference/kubernetes-api/workload-resources/horizontal-pod-autoscaler-v2/>

use serde_json::{Value, json};

use super::{PLAIN, columns as c, pod, status};
use crate::object;
use crate::resource::{Behaviour, Conversion, Resource, Subresource};
use crate::status::Cause;

const SUBRESOURCES: &[Subresource] = &[status("HorizontalPodAutoscaler")];
/// The CPU that is aimed at when nothing is said, in percent of what is requested.
const UTILIZATION: i64 = 80;
/// Fields of v2's spec and status that v1 keeps as JSON in annotations.
const IN_ANNOTATIONS: [(&str, &str, &str); 4] = [
    ("spec", "metrics", "autoscaling.alpha.kubernetes.io/metrics"),
    ("spec", "behavior", "autoscaling.alpha.kubernetes.io/behavior"),
    ("status", "conditions", "autoscaling.alpha.kubernetes.io/conditions"),
    ("status", "currentMetrics", "autoscaling.alpha.kubernetes.io/current-metrics"),
];
/// Types of metrics, and the field that says what each is about.
const SOURCES: [(&str, &str); 5] = [
    ("Resource", "resource"),
    ("ContainerResource", "containerResource"),
    ("Pods", "pods"),
    ("Object", "object"),
    ("External", "external"),
];

/// The kind in both its versions, the preferred one first.
pub(super) fn resources() -> Vec<Resource> {
    let v2 = Resource {
        group: "autoscaling",
        version: "v2",
        kind: "HorizontalPodAutoscaler",
        plural: "horizontalpodautoscalers",
        singular: "horizontalpodautoscaler",
        short_names: &["hpa"],
        categories: &["all"],
        storage: "horizontalpodautoscalers",
        generation: true,
        subresources: SUBRESOURCES,
        columns: c::HORIZONTAL_POD_AUTOSCALER,
        behaviour: Behaviour {
            prepare_create: |one| one["status"] = json!({"desiredReplicas": 0}),
            default,
            validate,
            ..Behaviour::PLAIN
        },
        ..PLAIN
    };
    let v1 = Resource {
        version: "v1",
        behaviour: Behaviour {
            default: default_v1,
            validate: validate_v1,
            conversion: Some(Conversion { to_storage: to_v2, from_storage: from_v2 }),
            ..v2.behaviour
        },
        ..v2.clone()
    };
    vec![v2, v1]
}

fn default(one: &mut Value) {
    let Some(spec) = one.get_mut("spec").filter(|spec| spec.is_object()) else { return };
    object::set_default(spec, "minReplicas", 1);
    if object::list(spec, "metrics").is_empty() {
        let target = json!({"type": "Utilization", "averageUtilization": UTILIZATION});
        spec["metrics"] =
            json!([{"type": "Resource", "resource": {"name": "cpu", "target": target}}]);
    }
    let Some(behavior) = spec.get_mut("behavior").filter(|behavior| behavior.is_object()) else {
        return;
    };
    let percent = json!({"type": "Percent", "value": 100, "periodSeconds": 15});
    let pods = json!({"type": "Pods", "value": 4, "periodSeconds": 15});
    for (direction, policies) in
        [("scaleUp", json!([pods, percent])), ("scaleDown", json!([percent]))]
    {
        object::set_default(behavior, direction, json!({}));
        let rules = &mut behavior[direction];
        object::set_default(rules, "selectPolicy", "Max");
        object::set_default(rules, "policies", policies);
    }
    object::set_default(&mut behavior["scaleUp"], "stabilizationWindowSeconds", 0);
}

/// What is stored is v2: a write of v1 is answered with what a read will show.
fn default_v1(one: &mut Value) {
    to_v2(one);
    from_v2(one);
}

fn validate_size(spec: &Value, causes: &mut Vec<Cause>) {
    let (least, most) = (&spec["minReplicas"], &spec["maxReplicas"]);
    let least_number = least.as_i64().unwrap_or(1);
    if least_number < 1 {
        causes.push(Cause::invalid(
            "spec.minReplicas",
            least,
            "must be greater than or equal to 1",
        ));
    }
    match most.as_i64() {
        Some(number) if number >= 1 && number >= least_number => {}
        Some(number) if number >= 1 => {
            let why = "must be greater than or equal to `minReplicas`";
            causes.push(Cause::invalid("spec.maxReplicas", most, why));
        }
        _ => causes.push(Cause::invalid("spec.maxReplicas", most, "must be greater than 0")),
    }
    for field in ["kind", "name"] {
        if object::text(&spec["scaleTargetRef"], field).is_empty() {
            causes.push(Cause::required(format!("spec.scaleTargetRef.{field}")));
        }
    }
}

fn validate_v1(one: &Value, causes: &mut Vec<Cause>) {
    validate_size(&one["spec"], causes);
    let target = &one["spec"]["targetCPUUtilizationPercentage"];
    if !target.is_null() && target.as_i64().is_none_or(|percent| percent < 1) {
        let field = "spec.targetCPUUtilizationPercentage";
        causes.push(Cause::invalid(field, target, "must be greater than 0"));
    }
    let mut stored = one.clone();
    to_v2(&mut stored);
    validate_spec(&stored["spec"], causes);
}

fn validate(one: &Value, causes: &mut Vec<Cause>) {
    validate_size(&one["spec"], causes);
    validate_spec(&one["spec"], causes);
}

fn validate_spec(spec: &Value, causes: &mut Vec<Cause>) {
    for (index, metric) in object::list(spec, "metrics").iter().enumerate() {
        validate_metric(metric, &format!("spec.metrics[{index}]"), causes);
    }
    for direction in ["scaleUp", "scaleDown"] {
        let rules = &spec["behavior"][direction];
        if !rules.is_null() {
            validate_rules(rules, &format!("spec.behavior.{direction}"), causes);
        }
    }
}

fn validate_metric(metric: &Value, path: &str, causes: &mut Vec<Cause>) {
    let kind = object::text(metric, "type");
    let Some((_, field)) = SOURCES.iter().find(|(known, _)| *known == kind) else {
        let known: Vec<&str> = SOURCES.iter().map(|(known, _)| *known).collect();
        let field = format!("{path}.type");
        return causes.push(Cause::not_supported(field, &metric["type"], &known));
    };
    let (source, path) = (&metric[*field], format!("{path}.{field}"));
    if !source.is_object() {
        return causes.push(Cause::required(path));
    }
    let name = match *field {
        "resource" | "containerResource" => "name",
        _ => "metric.name",
    };
    if object::text(source, name).is_empty() {
        causes.push(Cause::required(format!("{path}.{name}")));
    }
    let target = &source["target"];
    pod::one_of(
        target,
        &format!("{path}.target"),
        "type",
        &["Utilization", "Value", "AverageValue"],
        causes,
    );
    let utilization = &target["averageUtilization"];
    if !utilization.is_null() && utilization.as_i64().is_none_or(|percent| percent < 1) {
        let field = format!("{path}.target.averageUtilization");
        causes.push(Cause::invalid(field, utilization, "must be greater than 0"));
    }
    for field in ["value", "averageValue"] {
        let value = &target[field];
        let positive =
            bulkhead_client::Quantity::from_json(value).is_ok_and(|value| !value.is_zero());
        if !value.is_null() && !positive {
            let field = format!("{path}.target.{field}");
            causes.push(Cause::invalid(field, value, "must be positive"));
        }
    }
    let said = ["averageUtilization", "averageValue", "value"]
        .iter()
        .filter(|field| !target[**field].is_null())
        .count();
    match said {
        1 => {}
        0 => causes.push(Cause {
            message: "Required value: must set a target utilization or value".into(),
            ..Cause::required(format!("{path}.target"))
        }),
        _ => causes.push(Cause::forbidden(
            format!("{path}.target"),
            "may not set more than one of a target utilization, value and average value",
        )),
    }
}

fn validate_rules(rules: &Value, path: &str, causes: &mut Vec<Cause>) {
    let mut within = |value: &Value, field: String, range: std::ops::RangeInclusive<i64>| {
        if !value.is_null() && !value.as_i64().is_some_and(|number| range.contains(&number)) {
            let why = format!("must be between {} and {}", range.start(), range.end());
            causes.push(Cause::invalid(field, value, &why));
        }
    };
    let window = &rules["stabilizationWindowSeconds"];
    within(window, format!("{path}.stabilizationWindowSeconds"), 0..=3600);
    let policies = object::list(rules, "policies");
    for (index, policy) in policies.iter().enumerate() {
        let path = format!("{path}.policies[{index}]");
        within(&policy["value"], format!("{path}.value"), 1..=i64::from(i32::MAX));
        within(&policy["periodSeconds"], format!("{path}.periodSeconds"), 1..=1800);
    }
    for (index, policy) in policies.iter().enumerate() {
        let path = format!("{path}.policies[{index}]");
        pod::one_of(policy, &path, "type", &["Pods", "Percent"], causes);
    }
    pod::one_of(rules, path, "selectPolicy", &["Max", "Min", "Disabled"], causes);
    if policies.is_empty() && !rules["policies"].is_null() {
        causes.push(Cause {
            message: "Required value: must specify at least one Policy".into(),
            ..Cause::required(format!("{path}.policies"))
        });
    }
    let tolerance = &rules["tolerance"];
    if !tolerance.is_null() && bulkhead_client::Quantity::from_json(tolerance).is_err() {
        let field = format!("{path}.tolerance");
        causes.push(Cause::invalid(field, tolerance, "must be greater than or equal to 0"));
    }
}

/// Whether a metric is what v1 calls `targetCPUUtilizationPercentage`.
fn is_cpu(metric: &Value) -> bool {
    metric["type"] == "Resource"
        && metric["resource"]["name"] == "cpu"
        && metric["resource"]["target"]["averageUtilization"].is_number()
}

fn from_v2(one: &mut Value) {
    let metrics = object::list(one, "spec.metrics").to_vec();
    let (cpu, others): (Vec<Value>, Vec<Value>) = metrics.into_iter().partition(is_cpu);
    let current = object::list(one, "status.currentMetrics").iter();
    let used = current
        .filter(|metric| metric["resource"]["name"] == "cpu")
        .find_map(|metric| metric["resource"]["current"]["averageUtilization"].as_i64());
    if let Some(spec) = one.get_mut("spec").and_then(Value::as_object_mut) {
        spec.remove("metrics");
        // Of several the first is the target; v2 has the others only.
        let mut cpu = cpu.into_iter();
        if let Some(target) = cpu.next() {
            let target = &target["resource"]["target"]["averageUtilization"];
            spec.insert("targetCPUUtilizationPercentage".into(), target.clone());
        }
        let others: Vec<Value> = others.into_iter().chain(cpu).collect();
        if !others.is_empty() {
            spec.insert("metrics".into(), others.into());
        }
    }
    let mut kept = Vec::new();
    for (part, field, annotation) in IN_ANNOTATIONS {
        let value = one.get_mut(part).and_then(Value::as_object_mut);
        if let Some(value) = value.and_then(|fields| fields.remove(field)) {
            kept.push((annotation, value.to_string()));
        }
    }
    if !kept.is_empty()
        && let Some(annotations) = object::map(&mut one["metadata"], "annotations")
    {
        annotations.extend(kept.into_iter().map(|(name, text)| (name.into(), text.into())));
    }
    if let Some(used) = used {
        one["status"]["currentCPUUtilizationPercentage"] = used.into();
    }
}

fn to_v2(one: &mut Value) {
    for (part, field, annotation) in IN_ANNOTATIONS {
        let annotations = one["metadata"].get_mut("annotations").and_then(Value::as_object_mut);
        let text = annotations.and_then(|all| all.remove(annotation));
        let value = text.and_then(|text| serde_json::from_str::<Value>(text.as_str()?).ok());
        // Users may write anything there: what is no list or map is nothing.
        if let (Some(value), Some(fields)) =
            (value, one.get_mut(part).and_then(Value::as_object_mut))
            && (value.is_array() || (field == "behavior" && value.is_object()))
        {
            fields.insert(field.into(), value);
        }
    }
    if let Some(metadata) = one["metadata"].as_object_mut()
        && metadata
            .get("annotations")
            .and_then(Value::as_object)
            .is_some_and(serde_json::Map::is_empty)
    {
        metadata.remove("annotations");
    }
    if let Some(status) = one.get_mut("status").and_then(Value::as_object_mut) {
        status.remove("currentCPUUtilizationPercentage");
    }
    if let Some(spec) = one.get_mut("spec").and_then(Value::as_object_mut) {
        let target = spec.remove("targetCPUUtilizationPercentage");
        if let Some(target) = target.filter(|target| !target.is_null()) {
            let target = json!({"type": "Utilization", "averageUtilization": target});
            let cpu = json!({"type": "Resource", "resource": {"name": "cpu", "target": target}});
            let others = spec.get("metrics").and_then(Value::as_array).cloned();
            let all: Vec<Value> = std::iter::once(cpu).chain(others.unwrap_or_default()).collect();
            spec.insert("metrics".into(), all.into());
        }
    }
    default(one);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::testing;

    fn made(spec: &Value) -> Value {
        let target = json!({"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"});
        let mut one = json!({"metadata": {"name": "h"}, "spec": {"scaleTargetRef": target, "maxReplicas": 5}});
        json_patch::merge(&mut one["spec"], spec);
        default(&mut one);
        one
    }

    fn fields(one: &Value) -> Vec<String> {
        testing::fields(validate, one)
    }

    #[test]
    fn defaults() {
        let one = made(&json!({"behavior": {"scaleDown": {"selectPolicy": "Min"}}}));
        assert_eq!(fields(&one), Vec::<String>::new());
        let spec = &one["spec"];
        assert_eq!(spec["minReplicas"], 1);
        assert_eq!(spec["metrics"][0]["resource"]["target"]["averageUtilization"], 80);
        assert_eq!(spec["behavior"]["scaleDown"]["selectPolicy"], "Min");
        assert_eq!(spec["behavior"]["scaleDown"]["policies"][0]["type"], "Percent");
        assert_eq!(spec["behavior"]["scaleUp"]["policies"][0]["value"], 4);
        assert_eq!(spec["behavior"]["scaleUp"]["stabilizationWindowSeconds"], 0);
    }

    #[test]
    fn what_is_wrong_is_named_by_its_path() {
        let metric = |metric: Value| json!({"metrics": [metric]});
        let cpu = |target: Value| {
            metric(json!({"type": "Resource", "resource": {"name": "cpu", "target": target}}))
        };
        for (spec, expected) in [
            (json!({"minReplicas": 0}), "spec.minReplicas"),
            (json!({"minReplicas": 6}), "spec.maxReplicas"),
            (json!({"maxReplicas": 0}), "spec.maxReplicas"),
            (json!({"scaleTargetRef": {"name": ""}}), "spec.scaleTargetRef.name"),
            (metric(json!({"type": "Other"})), "spec.metrics[0].type"),
            (metric(json!({"type": "Pods"})), "spec.metrics[0].pods"),
            (cpu(json!({"type": "Utilization"})), "spec.metrics[0].resource.target"),
            (
                cpu(json!({"type": "Utilization", "averageUtilization": 0})),
                "spec.metrics[0].resource.target.averageUtilization",
            ),
            (
                json!({"behavior": {"scaleUp": {"policies": [{"type": "Pods", "value": 0, "periodSeconds": 15}]}}}),
                "spec.behavior.scaleUp.policies[0].value",
            ),
            (
                json!({"behavior": {"scaleDown": {"policies": [{"type": "Pods", "value": 1, "periodSeconds": 2000}]}}}),
                "spec.behavior.scaleDown.policies[0].periodSeconds",
            ),
            (
                json!({"behavior": {"scaleDown": {"stabilizationWindowSeconds": 3601}}}),
                "spec.behavior.scaleDown.stabilizationWindowSeconds",
            ),
        ] {
            assert_eq!(fields(&made(&spec)), [expected], "{spec}");
        }
    }

    #[test]
    fn the_old_version_shows_cpu_and_loses_nothing() {
        let target = json!({"type": "AverageValue", "averageValue": "1Gi"});
        let memory = json!({"type": "Resource", "resource": {"name": "memory", "target": target}});
        let target = json!({"type": "Utilization", "averageUtilization": 50});
        let cpu = json!({"type": "Resource", "resource": {"name": "cpu", "target": target}});
        let mut v2 = made(&json!({"metrics": [cpu, memory], "behavior": {"scaleUp": {}}}));
        v2["status"] = json!({"conditions": [{"type": "AbleToScale"}], "desiredReplicas": 1});
        let mut v1 = v2.clone();
        from_v2(&mut v1);
        assert_eq!(v1["spec"]["targetCPUUtilizationPercentage"], 50);
        assert_eq!((v1["spec"].get("metrics"), v1["spec"].get("behavior")), (None, None));
        assert_eq!(v1["status"], json!({"desiredReplicas": 1}));
        let mut back = v1.clone();
        to_v2(&mut back);
        assert_eq!(back, v2);
        let mut same = v1.clone();
        default_v1(&mut same);
        assert_eq!(same, v1);
        v1["metadata"]["annotations"][IN_ANNOTATIONS[0].2] = "nonsense".into();
        to_v2(&mut v1);
        assert_eq!(object::list(&v1, "spec.metrics").len(), 1);

        let mut plain = json!({"metadata": {"name": "h"}, "spec": {"maxReplicas": 5}});
        default_v1(&mut plain);
        let expected =
            json!({"maxReplicas": 5, "minReplicas": 1, "targetCPUUtilizationPercentage": 80});
        assert_eq!(plain["spec"], expected);
    }
}
