//! What a namespace may use: ResourceQuotas of all its objects together, LimitRanges of each.

use std::collections::HashSet;

use bulkhead_client::{Quantity, QuantityError};
use serde_json::{Value, json};

use super::{PLAIN, columns as c, status, template};
use crate::names;
use crate::object;
use crate::resource::{Behaviour, Resource, Subresource};
use crate::status::Cause;

const QUOTA: &[Subresource] = &[status("ResourceQuota")];

const SCOPES: &[&str] = &[
    "Terminating",
    "NotTerminating",
    "BestEffort",
    "NotBestEffort",
    "PriorityClass",
    "CrossNamespacePodAffinity",
    "VolumeAttributesClass",
];

/// What is said of a text that is no amount.
const NO_QUANTITY: &str =
    "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'";

/// The kinds.
pub(super) fn resources() -> Vec<Resource> {
    vec![
        Resource {
            kind: "LimitRange",
            plural: "limitranges",
            singular: "limitrange",
            short_names: &["limits"],
            storage: "limitranges",
            behaviour: Behaviour {
                default: default_range,
                validate: validate_range,
                ..Behaviour::PLAIN
            },
            ..PLAIN
        },
        Resource {
            kind: "ResourceQuota",
            plural: "resourcequotas",
            singular: "resourcequota",
            short_names: &["quota"],
            storage: "resourcequotas",
            subresources: QUOTA,
            columns: c::RESOURCE_QUOTA,
            behaviour: Behaviour {
                prepare_create: |quota| quota["status"] = json!({}),
                validate: validate_quota,
                validate_update: |new, old, causes| {
                    for field in ["spec.scopes", "spec.scopeSelector"] {
                        template::immutable(new, old, field, causes);
                    }
                },
                ..Behaviour::PLAIN
            },
            ..PLAIN
        },
    ]
}

/// Reports what is wrong with a list of amounts.
pub(super) fn amounts(list: &Value, path: &str, causes: &mut Vec<Cause>) {
    for (name, value) in list.as_object().into_iter().flatten() {
        let path = format!("{path}[{name}]");
        if !names::is_qualified(name) {
            causes.push(Cause::invalid(&path, &json!(name), names::NO_QUALIFIED));
        }
        if let Err(error) = Quantity::from_json(value) {
            let is_negative = matches!(error, QuantityError::Negative(_));
            let why = if is_negative { "must be greater than or equal to 0" } else { NO_QUANTITY };
            causes.push(Cause::invalid(path, value, why));
        }
    }
}

fn validate_quota(quota: &Value, causes: &mut Vec<Cause>) {
    for list in ["spec.hard", "status.hard", "status.used"] {
        let Some(value) = object::at(quota, list) else { continue };
        amounts(value, list, causes);
    }
    let mut scopes = HashSet::new();
    for (index, scope) in object::list(quota, "spec.scopes").iter().enumerate() {
        let path = format!("spec.scopes[{index}]");
        match scope.as_str() {
            Some(text) if SCOPES.contains(&text) => {
                if !scopes.insert(text) {
                    causes.push(Cause::duplicate(path, scope));
                }
            }
            _ => causes.push(Cause::not_supported(path, scope, SCOPES)),
        }
    }
    for pair in [["BestEffort", "NotBestEffort"], ["Terminating", "NotTerminating"]] {
        if pair.iter().all(|scope| scopes.contains(scope)) {
            let scopes = &quota["spec"]["scopes"];
            causes.push(Cause::invalid("spec.scopes", scopes, "conflicting scopes"));
        }
    }
    let expressions = object::list(quota, "spec.scopeSelector.matchExpressions");
    for (index, expression) in expressions.iter().enumerate() {
        let path = format!("spec.scopeSelector.matchExpressions[{index}]");
        let scope = object::text(expression, "scopeName");
        if !SCOPES.contains(&scope) {
            let path = format!("{path}.scopeName");
            causes.push(Cause::not_supported(path, &expression["scopeName"], SCOPES));
        }
        let values = object::list(expression, "values").len();
        let has_values = matches!(scope, "PriorityClass" | "VolumeAttributesClass");
        match object::text(expression, "operator") {
            "In" | "NotIn" if values == 0 => causes.push(Cause::required(format!("{path}.values"))),
            "Exists" | "DoesNotExist" if values > 0 => {
                let why = "must be empty when `operator` is 'Exists' or 'DoesNotExist'";
                causes.push(Cause::invalid(format!("{path}.values"), &expression["values"], why));
            }
            "In" | "NotIn" | "DoesNotExist" if !has_values => {
                let why = "must be 'Exists' when scope is any of ResourceQuotaScopeTerminating, ResourceQuotaScopeNotTerminating, ResourceQuotaScopeBestEffort, ResourceQuotaScopeNotBestEffort or ResourceQuotaScopeCrossNamespacePodAffinity";
                let value = &expression["operator"];
                causes.push(Cause::invalid(format!("{path}.operator"), value, why));
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            _ => {
                let why = "not a valid selector operator";
                let value = &expression["operator"];
                causes.push(Cause::invalid(format!("{path}.operator"), value, why));
            }
        }
    }
}

/// A container's default limit is the most it may have, and its default request that limit, or
/// the least it may have.
fn default_range(range: &mut Value) {
    for limit in range["spec"]["limits"].as_array_mut().into_iter().flatten() {
        if limit["type"] != "Container" {
            continue;
        }
        for (to, from) in
            [("default", "max"), ("defaultRequest", "default"), ("defaultRequest", "min")]
        {
            let source = limit[from].as_object().cloned().unwrap_or_default();
            if source.is_empty() {
                continue;
            }
            let Some(target) = object::map(limit, to) else { continue };
            for (name, value) in source {
                target.entry(name).or_insert(value);
            }
        }
    }
}

fn validate_range(range: &Value, causes: &mut Vec<Cause>) {
    let mut types = HashSet::new();
    for (index, limit) in object::list(range, "spec.limits").iter().enumerate() {
        let path = format!("spec.limits[{index}]");
        let kind = object::text(limit, "type");
        if kind.is_empty() {
            causes.push(Cause::required(format!("{path}.type")));
        } else if !types.insert(kind) {
            causes.push(Cause::duplicate(format!("{path}.type"), &limit["type"]));
        }
        for list in ["max", "min", "default", "defaultRequest", "maxLimitRequestRatio"] {
            amounts(&limit[list], &format!("{path}.{list}"), causes);
        }
        if kind != "Container" {
            for list in ["default", "defaultRequest"] {
                if limit[list].as_object().is_some_and(|list| !list.is_empty()) {
                    let why = format!("may not be specified when `type` is '{kind}'");
                    causes.push(Cause::forbidden(format!("{path}.{list}"), &why));
                }
            }
        }
        if kind == "PersistentVolumeClaim"
            && ["min", "max"].iter().all(|list| limit[list]["storage"].is_null())
        {
            let why = "Required value: either minimum or maximum storage value is required, but neither was provided";
            causes.push(Cause { message: why.into(), ..Cause::required(&path) });
        }
        bounds(limit, &path, causes);
    }
}

/// Reports amounts of which the lesser is the greater.
fn bounds(limit: &Value, path: &str, causes: &mut Vec<Cause>) {
    let order = [
        ("min", "max"),
        ("min", "defaultRequest"),
        ("min", "default"),
        ("defaultRequest", "default"),
        ("defaultRequest", "max"),
        ("default", "max"),
    ];
    for (low, high) in order {
        for (name, value) in limit[low].as_object().into_iter().flatten() {
            let (Ok(less), Ok(more)) =
                (Quantity::from_json(value), Quantity::from_json(&limit[high][name]))
            else {
                continue;
            };
            if less > more {
                let why = format!("{low} value {less} is greater than {high} value {more}");
                causes.push(Cause::invalid(format!("{path}.{low}[{name}]"), value, &why));
            }
        }
    }
    for (name, value) in limit["maxLimitRequestRatio"].as_object().into_iter().flatten() {
        if Quantity::from_json(value).is_ok_and(|ratio| ratio < Quantity::units(1)) {
            let why = format!("ratio {value} is less than 1");
            let path = format!("{path}.maxLimitRequestRatio[{name}]");
            causes.push(Cause::invalid(path, value, &why));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::testing::fields;

    #[test]
    fn quotas() {
        let of = |spec: Value| fields(validate_quota, json!({"spec": spec}));
        let high = json!({"matchExpressions": [{"scopeName": "PriorityClass", "operator": "In", "values": ["high"]}]});
        assert!(of(json!({"hard": {"pods": "1", "requests.cpu": 1, "count/jobs.batch": "2"}, "scopeSelector": high})).is_empty());
        assert_eq!(of(json!({"hard": {"pods": "-1"}})), ["spec.hard[pods]"]);
        assert_eq!(of(json!({"hard": {"p ods": "1"}})), ["spec.hard[p ods]"]);
        assert_eq!(of(json!({"scopes": ["Any"]})), ["spec.scopes[0]"]);
        assert_eq!(of(json!({"scopes": ["BestEffort", "NotBestEffort"]})), ["spec.scopes"]);
        let path = "spec.scopeSelector.matchExpressions[0]";
        for (operator, field) in [("In", "values"), ("Other", "operator")] {
            let expression = json!({"scopeName": "PriorityClass", "operator": operator});
            let spec = json!({"scopeSelector": {"matchExpressions": [expression]}});
            assert_eq!(of(spec), [format!("{path}.{field}")]);
        }
    }

    #[test]
    fn ranges() {
        let of = |limit: Value| fields(validate_range, json!({"spec": {"limits": [limit]}}));
        let mut range = json!({"spec": {"limits": [{"type": "Container",
            "max": {"cpu": "2"}, "min": {"memory": "1Mi"}}]}});
        default_range(&mut range);
        let limit = &range["spec"]["limits"][0];
        assert_eq!(limit["default"], json!({"cpu": "2"}));
        assert_eq!(limit["defaultRequest"], json!({"cpu": "2", "memory": "1Mi"}));
        assert!(of(limit.clone()).is_empty());
        assert_eq!(
            of(json!({"type": "Container", "min": {"cpu": 2}, "max": {"cpu": 1}})),
            ["spec.limits[0].min[cpu]"]
        );
        assert_eq!(of(json!({"type": "Pod", "default": {"cpu": 2}})), ["spec.limits[0].default"]);
        assert_eq!(of(json!({"type": "PersistentVolumeClaim"})), ["spec.limits[0]"]);
        assert_eq!(of(json!({})), ["spec.limits[0].type"]);
    }
}
