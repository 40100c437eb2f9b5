//! `rbac.authorization.k8s.io/v1`: roles and their bindings.

use bulkhead_client::Selector;
use serde_json::{Value, json};

use super::{PLAIN, c};
use crate::auth::rbac::{GROUP, PolicyRule};
use crate::names::NameRule;
use crate::object::{self, list, text};
use crate::resource::{Behaviour, Resource};
use crate::status::Cause;

pub(super) fn resources() -> Vec<Resource> {
    let role = Resource {
        group: GROUP,
        kind: "Role",
        plural: "roles",
        singular: "role",
        storage: "rbac/roles",
        behaviour: Behaviour {
            name: NameRule::PathSegment,
            validate: |role, causes| validate_rules(role, true, causes),
            ..Behaviour::PLAIN
        },
        ..PLAIN
    };
    let binding = Resource {
        group: GROUP,
        kind: "RoleBinding",
        plural: "rolebindings",
        singular: "rolebinding",
        storage: "rbac/rolebindings",
        columns: c::BINDING,
        behaviour: Behaviour {
            name: NameRule::PathSegment,
            default: default_binding,
            validate: |binding, causes| validate_binding(binding, &["Role", "ClusterRole"], causes),
            validate_update: keep_role,
            ..Behaviour::PLAIN
        },
        ..PLAIN
    };
    vec![
        Resource {
            kind: "ClusterRole",
            plural: "clusterroles",
            singular: "clusterrole",
            storage: "rbac/clusterroles",
            namespaced: false,
            behaviour: Behaviour {
                validate: |role, causes| {
                    validate_rules(role, false, causes);
                    validate_aggregation(role, causes);
                },
                ..role.behaviour
            },
            ..role.clone()
        },
        Resource {
            kind: "ClusterRoleBinding",
            plural: "clusterrolebindings",
            singular: "clusterrolebinding",
            storage: "rbac/clusterrolebindings",
            namespaced: false,
            behaviour: Behaviour {
                validate: |binding, causes| validate_binding(binding, &["ClusterRole"], causes),
                ..binding.behaviour
            },
            ..binding.clone()
        },
        role,
        binding,
    ]
}

fn validate_rules(role: &Value, namespaced: bool, causes: &mut Vec<Cause>) {
    for (index, value) in list(role, "rules").iter().enumerate() {
        let path = format!("rules[{index}]");
        let rule: PolicyRule = match serde_json::from_value(value.clone()) {
            Ok(rule) => rule,
            Err(error) => {
                causes.push(Cause::invalid(path, value, &error.to_string()));
                continue;
            }
        };
        if rule.verbs.is_empty() {
            causes.push(required(format!("{path}.verbs"), "verbs must contain at least one value"));
        }
        if !rule.non_resource_urls.is_empty() {
            let field = format!("{path}.nonResourceURLs");
            let urls = &value["nonResourceURLs"];
            if namespaced {
                let why = "namespaced rules cannot apply to non-resource URLs";
                causes.push(Cause::invalid(&field, urls, why));
            }
            let resources = [&rule.api_groups, &rule.resources, &rule.resource_names];
            if resources.into_iter().any(|list| !list.is_empty()) {
                let why = "rules cannot apply to both regular resources and non-resource URLs";
                causes.push(Cause::invalid(field, urls, why));
            }
            continue;
        }
        if rule.api_groups.is_empty() {
            let why = "resource rules must supply at least one api group";
            causes.push(required(format!("{path}.apiGroups"), why));
        }
        if rule.resources.is_empty() {
            let why = "resource rules must supply at least one resource";
            causes.push(required(format!("{path}.resources"), why));
        }
    }
    if !matches!(role["rules"], Value::Null | Value::Array(_)) {
        causes.push(Cause::invalid("rules", &role["rules"], "must be a list of rules"));
    }
}

fn required(field: impl Into<String>, why: &str) -> Cause {
    Cause { message: format!("Required value: {why}"), ..Cause::required(field) }
}

fn validate_aggregation(role: &Value, causes: &mut Vec<Cause>) {
    let rule = &role["aggregationRule"];
    if rule.is_null() {
        return;
    }
    let selectors = list(rule, "clusterRoleSelectors");
    if selectors.is_empty() {
        let why = "at least one clusterRoleSelector required if aggregationRule is non-nil";
        causes.push(required("aggregationRule.clusterRoleSelectors", why));
    }
    for (index, selector) in selectors.iter().enumerate() {
        if let Err(error) = Selector::read(selector) {
            let path = format!("aggregationRule.clusterRoleSelectors[{index}]");
            causes.push(Cause::invalid(path, selector, &error.to_string()));
        }
    }
}

fn default_binding(binding: &mut Value) {
    if let Some(role) = binding.get_mut("roleRef") {
        object::set_default(role, "apiGroup", GROUP);
    }
    let subjects = binding.get_mut("subjects").and_then(Value::as_array_mut);
    for subject in subjects.into_iter().flatten() {
        if matches!(text(subject, "kind"), "User" | "Group") {
            object::set_default(subject, "apiGroup", GROUP);
        }
    }
}

fn validate_binding(binding: &Value, roles: &[&str], causes: &mut Vec<Cause>) {
    let role = &binding["roleRef"];
    if text(role, "apiGroup") != GROUP {
        causes.push(Cause::not_supported("roleRef.apiGroup", &role["apiGroup"], &[GROUP]));
    }
    if !roles.contains(&text(role, "kind")) {
        causes.push(Cause::not_supported("roleRef.kind", &role["kind"], roles));
    }
    if let Some(why) = NameRule::PathSegment.violation(text(role, "name")) {
        causes.push(match text(role, "name") {
            "" => Cause::required("roleRef.name"),
            _ => Cause::invalid("roleRef.name", &role["name"], why),
        });
    }
    for (index, subject) in list(binding, "subjects").iter().enumerate() {
        let path = format!("subjects[{index}]");
        if text(subject, "name").is_empty() {
            causes.push(Cause::required(format!("{path}.name")));
        }
        let group = text(subject, "apiGroup");
        match text(subject, "kind") {
            "ServiceAccount" => {
                if !group.is_empty() {
                    let field = format!("{path}.apiGroup");
                    causes.push(Cause::not_supported(field, &subject["apiGroup"], &[""]));
                }
                if text(subject, "namespace").is_empty() {
                    causes.push(Cause::required(format!("{path}.namespace")));
                }
            }
            "User" | "Group" if group != GROUP => {
                let field = format!("{path}.apiGroup");
                causes.push(Cause::not_supported(field, &subject["apiGroup"], &[GROUP]));
            }
            "User" | "Group" => {}
            _ => causes.push(Cause::not_supported(
                format!("{path}.kind"),
                &subject["kind"],
                &["ServiceAccount", "User", "Group"],
            )),
        }
    }
    if !matches!(binding["subjects"], Value::Null | Value::Array(_)) {
        causes.push(Cause::invalid("subjects", &json!(null), "must be a list of subjects"));
    }
}

fn keep_role(new: &Value, old: &Value, causes: &mut Vec<Cause>) {
    if new["roleRef"] != old["roleRef"] {
        causes.push(Cause::invalid("roleRef", &new["roleRef"], "cannot change roleRef"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(validate: impl Fn(&mut Vec<Cause>)) -> Vec<String> {
        let mut causes = Vec::new();
        validate(&mut causes);
        causes.into_iter().map(|cause| cause.field).collect()
    }

    #[test]
    fn rules_say_what_they_are_about() {
        let role = json!({"rules": [
            {"verbs": [], "apiGroups": [""], "resources": ["pods"]},
            {"verbs": ["get"]},
            {"verbs": ["get"], "nonResourceURLs": ["/x"]},
            {"verbs": ["get"], "nonResourceURLs": ["/x"], "resources": ["pods"]},
            {"verbs": "get"},
        ]});
        let common = ["rules[0].verbs", "rules[1].apiGroups", "rules[1].resources"];
        let cluster = [&common[..], &["rules[3].nonResourceURLs", "rules[4]"]].concat();
        assert_eq!(fields(|causes| validate_rules(&role, false, causes)), cluster);
        assert_eq!(fields(|causes| validate_rules(&role, true, causes)).len(), 7);
    }

    #[test]
    fn bindings_say_whom_they_bind_to_what() {
        let mut binding = json!({
            "roleRef": {"kind": "ClusterRole", "name": "view"},
            "subjects": [
                {"kind": "User", "name": "jane"},
                {"kind": "ServiceAccount", "name": "bot", "namespace": "x"},
            ],
        });
        default_binding(&mut binding);
        assert_eq!(binding["subjects"][0]["apiGroup"], GROUP);
        let roles = ["Role", "ClusterRole"];
        let check = |binding: &Value| fields(|causes| validate_binding(binding, &roles, causes));
        assert!(check(&binding).is_empty());
        binding["subjects"] =
            json!([{"kind": "ServiceAccount", "name": "bot"}, {"kind": "Robot", "name": ""}]);
        assert_eq!(
            check(&binding),
            ["subjects[0].namespace", "subjects[1].name", "subjects[1].kind"]
        );
        binding = json!({});
        assert_eq!(check(&binding), ["roleRef.apiGroup", "roleRef.kind", "roleRef.name"]);
    }
}
