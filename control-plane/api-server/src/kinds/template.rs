//! What kinds that make pods share: templates, selectors over them, and numbers and percentages.

use bulkhead_client::Selector;
use serde_json::{Value, json};

use super::{PLAIN, columns as c, ephemeral, pod};
use crate::names;
use crate::object;
use crate::resource::{Behaviour, Resource};
use crate::status::Cause;

/// PodTemplates: templates by themselves.
pub(super) fn resource() -> Resource {
    Resource {
        kind: "PodTemplate",
        plural: "podtemplates",
        singular: "podtemplate",
        storage: "podtemplates",
        generation: true,
        columns: c::POD_TEMPLATE,
        behaviour: Behaviour {
            default: |object| {
                if let Some(template) = object.get_mut("template") {
                    default(template);
                }
            },
            validate: |object, causes| {
                let policies = &["Always", "OnFailure", "Never"];
                validate(&object["template"], "template", policies, causes);
            },
            ..Behaviour::PLAIN
        },
        ..PLAIN
    }
}

/// Fills defaults into a pod template.
pub(super) fn default(template: &mut Value) {
    if let Some(spec) = template.get_mut("spec").filter(|spec| spec.is_object()) {
        pod::default_spec(spec);
    }
    // Clients written in Go send the timestamp of a template as null.
    if let Some(metadata) = template.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.retain(|_, value| !value.is_null());
    }
}

/// Reports what is wrong with the template at `path`, whose pods may be restarted as
/// `restart_policies` say.
pub(super) fn validate(
    template: &Value,
    path: &str,
    restart_policies: &[&str],
    causes: &mut Vec<Cause>,
) {
    let spec = format!("{path}.spec");
    pod::validate_spec(&template["spec"], &spec, causes);
    ephemeral::validate_template(&template["spec"], &spec, causes);
    pod::one_of(&template["spec"], &spec, "restartPolicy", restart_policies, causes);
    labels(&template["metadata"]["labels"], &format!("{path}.metadata.labels"), causes);
}

/// Reports what keeps a map from being one of labels.
pub(super) fn labels(map: &Value, path: &str, causes: &mut Vec<Cause>) {
    for (key, value) in map.as_object().into_iter().flatten() {
        if !names::is_qualified(key) {
            causes.push(Cause::invalid(path, &json!(key), names::NO_QUALIFIED));
        }
        if !value.as_str().is_some_and(names::is_label_value) {
            causes.push(Cause::invalid(path, value, names::NO_LABEL_VALUE));
        }
    }
}

/// Reports what is wrong with a selector, and that it must select the template's pods.
pub(super) fn validate_selector(spec: &Value, kind: &str, causes: &mut Vec<Cause>) {
    let selector = &spec["selector"];
    if selector.is_null() {
        causes.push(Cause::required("spec.selector"));
        return;
    }
    let Some(read) = label_selector(selector, "spec.selector", causes) else { return };
    if read.is_empty() {
        let why = format!("empty selector is invalid for {kind}");
        causes.push(Cause::invalid("spec.selector", selector, &why));
        return;
    }
    let labels = &spec["template"]["metadata"]["labels"];
    if !read.matches(labels) {
        let why = "`selector` does not match template `labels`";
        let shown = if labels.is_null() { &json!({}) } else { labels };
        causes.push(Cause::invalid("spec.template.metadata.labels", shown, why));
    }
}

/// Reads a selector, or reports what is wrong with it.
pub(super) fn label_selector(
    selector: &Value,
    path: &str,
    causes: &mut Vec<Cause>,
) -> Option<Selector> {
    labels(&selector["matchLabels"], &format!("{path}.matchLabels"), causes);
    for (index, expression) in object::list(selector, "matchExpressions").iter().enumerate() {
        let path = format!("{path}.matchExpressions[{index}]");
        let key = object::text(expression, "key");
        if !names::is_qualified(key) {
            let why = names::NO_QUALIFIED;
            causes.push(Cause::invalid(format!("{path}.key"), &expression["key"], why));
        }
        let values = object::list(expression, "values");
        match (object::text(expression, "operator"), values.is_empty()) {
            ("In" | "NotIn", true) => causes.push(Cause::missing(
                format!("{path}.values"),
                "must be specified when `operator` is 'In' or 'NotIn'",
            )),
            ("Exists" | "DoesNotExist", false) => causes.push(Cause::forbidden(
                format!("{path}.values"),
                "may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
            )),
            ("In" | "NotIn" | "Exists" | "DoesNotExist", _) => {}
            _ => causes.push(Cause::invalid(
                format!("{path}.operator"),
                &expression["operator"],
                "not a valid selector operator",
            )),
        }
    }
    Selector::read(selector).ok()
}

/// Reports a number that is there and negative, or no number.
pub(super) fn not_negative(object: &Value, path: &str, field: &str, causes: &mut Vec<Cause>) {
    let value = &object[field];
    if !value.is_null()
        && !value.as_i64().is_some_and(|number| (0..=i64::from(i32::MAX)).contains(&number))
    {
        let why = "must be greater than or equal to 0";
        causes.push(Cause::invalid(format!("{path}.{field}"), value, why));
    }
}

/// Reports an amount that is neither a number nor a percentage.
pub(super) fn int_or_percent(value: &Value, field: &str, causes: &mut Vec<Cause>) {
    match value {
        Value::Null => {}
        Value::String(text) => {
            let digits = text.strip_suffix('%').unwrap_or("");
            if digits.is_empty()
                || digits.len() > 9
                || !digits.bytes().all(|byte| byte.is_ascii_digit())
            {
                let why = "a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', regex used for validation is '[0-9]+%')";
                causes.push(Cause::invalid(field, value, why));
            }
        }
        other if other.as_u64().is_some_and(|number| number <= u64::from(u32::MAX >> 1)) => {}
        other => {
            causes.push(Cause::invalid(field, other, "must be greater than or equal to 0"));
        }
    }
}

/// Reports a change of a field that is fixed.
pub(super) fn immutable(new: &Value, old: &Value, field: &str, causes: &mut Vec<Cause>) {
    let (new, old) = (object::at(new, field), object::at(old, field));
    if new != old {
        causes.push(Cause::invalid(field, new.unwrap_or(&Value::Null), "field is immutable"));
    }
}
