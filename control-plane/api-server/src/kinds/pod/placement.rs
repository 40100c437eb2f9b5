//! Where a pod may run: node selectors, affinities, tolerations and how pods are spread.

use std::collections::HashSet;

use serde_json::{Value, json};

use super::super::template;
use super::one_of;
use crate::names;
use crate::object::{list, text};
use crate::status::Cause;

const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";
const EFFECTS: &[&str] = &["NoSchedule", "PreferNoSchedule", "NoExecute"];
const OPERATOR: &str = "not a valid selector operator";

/// Reports what of the spec at `path` is no place to run.
pub(super) fn validate(spec: &Value, path: &str, causes: &mut Vec<Cause>) {
    template::labels(&spec["nodeSelector"], &format!("{path}.nodeSelector"), causes);
    let affinity = &spec["affinity"];
    node_affinity(&affinity["nodeAffinity"], &format!("{path}.affinity.nodeAffinity"), causes);
    for kind in ["podAffinity", "podAntiAffinity"] {
        pod_affinity(&affinity[kind], &format!("{path}.affinity.{kind}"), causes);
    }
    for (index, one) in list(spec, "tolerations").iter().enumerate() {
        toleration(one, &format!("{path}.tolerations[{index}]"), causes);
    }
    spread(list(spec, "topologySpreadConstraints"), path, causes);
}

fn qualified(object: &Value, field: &str, path: &str, causes: &mut Vec<Cause>) {
    if !names::is_qualified(text(object, field)) {
        causes.push(Cause::invalid(format!("{path}.{field}"), &object[field], names::NO_QUALIFIED));
    }
}

fn weight(preferred: &Value, path: &str, causes: &mut Vec<Cause>) {
    let weight = &preferred["weight"];
    if !matches!(weight.as_i64(), Some(1..=100)) {
        let why = "must be in the range 1-100";
        causes.push(Cause::invalid(format!("{path}.weight"), weight, why));
    }
}

fn node_affinity(affinity: &Value, path: &str, causes: &mut Vec<Cause>) {
    if !affinity[REQUIRED].is_null() {
        let path = format!("{path}.{REQUIRED}.nodeSelectorTerms");
        let terms = list(&affinity[REQUIRED], "nodeSelectorTerms");
        if terms.is_empty() {
            causes.push(Cause::missing(&path, "must have at least one node selector term"));
        }
        for (index, term) in terms.iter().enumerate() {
            node_term(term, &format!("{path}[{index}]"), causes);
        }
    }
    for (index, preferred) in list(affinity, PREFERRED).iter().enumerate() {
        let path = format!("{path}.{PREFERRED}[{index}]");
        weight(preferred, &path, causes);
        node_term(&preferred["preference"], &format!("{path}.preference"), causes);
    }
}

fn node_term(term: &Value, path: &str, causes: &mut Vec<Cause>) {
    for (index, one) in list(term, "matchExpressions").iter().enumerate() {
        let path = format!("{path}.matchExpressions[{index}]");
        let values = list(one, "values");
        let at = format!("{path}.values");
        match (text(one, "operator"), values.len()) {
            ("In" | "NotIn", 0) => {
                let why = "must be specified when `operator` is 'In' or 'NotIn'";
                causes.push(Cause::missing(at, why));
            }
            ("Exists" | "DoesNotExist", 1..) => {
                let why = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
                causes.push(Cause::forbidden(at, why));
            }
            ("Gt" | "Lt", 0 | 2..) => {
                let why = "must be specified single value when `operator` is 'Lt' or 'Gt'";
                causes.push(Cause::missing(at, why));
            }
            ("In" | "NotIn" | "Exists" | "DoesNotExist" | "Gt" | "Lt", _) => {}
            _ => {
                let operator = &one["operator"];
                causes.push(Cause::invalid(format!("{path}.operator"), operator, OPERATOR));
            }
        }
        qualified(one, "key", &path, causes);
        for (index, value) in values.iter().enumerate() {
            if !value.as_str().is_some_and(names::is_label_value) {
                let path = format!("{path}.values[{index}]");
                causes.push(Cause::invalid(path, value, names::NO_LABEL_VALUE));
            }
        }
    }
    for (index, one) in list(term, "matchFields").iter().enumerate() {
        let path = format!("{path}.matchFields[{index}]");
        if !matches!(text(one, "operator"), "In" | "NotIn") {
            let operator = &one["operator"];
            causes.push(Cause::invalid(format!("{path}.operator"), operator, OPERATOR));
        } else if list(one, "values").len() != 1 {
            let why =
                "must be only one value when `operator` is 'In' or 'NotIn' for node field selector";
            causes.push(Cause::missing(format!("{path}.values"), why));
        }
        if text(one, "key") != "metadata.name" {
            let why = "not a valid field selector key";
            causes.push(Cause::invalid(format!("{path}.key"), &one["key"], why));
        }
    }
}

fn pod_affinity(affinity: &Value, path: &str, causes: &mut Vec<Cause>) {
    for (index, term) in list(affinity, REQUIRED).iter().enumerate() {
        pod_term(term, &format!("{path}.{REQUIRED}[{index}]"), causes);
    }
    for (index, preferred) in list(affinity, PREFERRED).iter().enumerate() {
        let path = format!("{path}.{PREFERRED}[{index}]");
        weight(preferred, &path, causes);
        pod_term(&preferred["podAffinityTerm"], &format!("{path}.podAffinityTerm"), causes);
    }
}

fn pod_term(term: &Value, path: &str, causes: &mut Vec<Cause>) {
    for selector in ["labelSelector", "namespaceSelector"] {
        if !term[selector].is_null() {
            template::label_selector(&term[selector], &format!("{path}.{selector}"), causes);
        }
    }
    for name in list(term, "namespaces") {
        if let Some(why) = names::NameRule::Label.violation(name.as_str().unwrap_or_default()) {
            causes.push(Cause::invalid(format!("{path}.namespace"), name, why));
        }
    }
    topology_key(term, path, causes);
}

fn topology_key(object: &Value, path: &str, causes: &mut Vec<Cause>) {
    match text(object, "topologyKey") {
        "" => causes.push(Cause::missing(format!("{path}.topologyKey"), "can not be empty")),
        _ => qualified(object, "topologyKey", path, causes),
    }
}

fn toleration(one: &Value, path: &str, causes: &mut Vec<Cause>) {
    let (key, operator) = (text(one, "key"), text(one, "operator"));
    if !key.is_empty() {
        qualified(one, "key", path, causes);
    }
    let at = format!("{path}.operator");
    if key.is_empty() && operator != "Exists" {
        let why = "operator must be Exists when `key` is empty, which means \"match all values and all keys\"";
        causes.push(Cause::invalid(&at, &json!(operator), why));
    }
    let effect = text(one, "effect");
    if !one["tolerationSeconds"].is_null() && effect != "NoExecute" {
        let why = "effect must be 'NoExecute' when `tolerationSeconds` is set";
        causes.push(Cause::invalid(format!("{path}.effect"), &json!(effect), why));
    }
    let value = text(one, "value");
    match operator {
        "" | "Equal" if !names::is_label_value(value) => {
            causes.push(Cause::invalid(at, &json!(value), names::NO_LABEL_VALUE));
        }
        "Exists" if !value.is_empty() => {
            let why = "value must be empty when `operator` is 'Exists'";
            causes.push(Cause::invalid(at, &json!(value), why));
        }
        "" | "Equal" | "Exists" => {}
        _ => causes.push(Cause::not_supported(at, &one["operator"], &["Equal", "Exists"])),
    }
    if !effect.is_empty() {
        one_of(one, path, "effect", EFFECTS, causes);
    }
}

fn spread(constraints: &[Value], path: &str, causes: &mut Vec<Cause>) {
    let mut seen = HashSet::new();
    for (index, one) in constraints.iter().enumerate() {
        let path = format!("{path}.topologySpreadConstraints[{index}]");
        let positive = |number: &Value| number.as_i64().is_some_and(|number| number > 0);
        if !positive(&one["maxSkew"]) {
            let why = "must be greater than zero";
            causes.push(Cause::invalid(format!("{path}.maxSkew"), &one["maxSkew"], why));
        }
        topology_key(one, &path, causes);
        let whens = ["DoNotSchedule", "ScheduleAnyway"];
        let (key, when) = (text(one, "topologyKey"), text(one, "whenUnsatisfiable"));
        if !whens.contains(&when) {
            let path = format!("{path}.whenUnsatisfiable");
            causes.push(Cause::not_supported(path, &json!(when), &whens));
        }
        if !seen.insert((key, when)) {
            let pair = json!(format!("{{{key}, {when}}}"));
            let path = format!("{path}.{{topologyKey, whenUnsatisfiable}}");
            causes.push(Cause::duplicate(path, &pair));
        }
        let domains = &one["minDomains"];
        let at = format!("{path}.minDomains");
        if !domains.is_null() && !positive(domains) {
            causes.push(Cause::invalid(&at, domains, "must be greater than 0"));
        }
        if !domains.is_null() && when != "DoNotSchedule" {
            let why =
                format!("can only use minDomains if whenUnsatisfiable=DoNotSchedule, not {when}");
            causes.push(Cause::invalid(&at, domains, &why));
        }
        for policy in ["nodeAffinityPolicy", "nodeTaintsPolicy"] {
            one_of(one, &path, policy, &["Honor", "Ignore"], causes);
        }
        if !one["labelSelector"].is_null() {
            template::label_selector(
                &one["labelSelector"],
                &format!("{path}.labelSelector"),
                causes,
            );
        }
    }
}
