//! Nobody may grant more than they have: who writes a role must hold every right in it, or the
//! verb `escalate` on it; who writes a binding must hold every right of its role, or `bind` on it.

use std::fmt;

use serde_json::Value;

use super::index::RoleRef;
use super::{GROUP, PolicyRule};
use crate::auth::admission::Admission;
use crate::auth::{Action, User};
use crate::object;
use crate::status::{Result, Status};

/// Refuses the change from `current` to `object`, a role or binding, if it escalates.
///
/// # Errors
/// `Forbidden`, with the rights that are missing; `NotFound` for a role that is not there.
pub(in crate::auth) fn check(
    admission: &Admission<'_>,
    current: Option<&Value>,
    object: &Value,
) -> Result<()> {
    let unchanged = |fields: &[&str]| {
        current.is_some_and(|current| fields.iter().all(|field| current[field] == object[field]))
    };
    let plural = admission.place.resource.plural;
    let (name, namespace) = (object::name(object), admission.place.namespace.as_deref());
    let holds = |verb: &str, plural: &str, name: &str| {
        let action =
            Action { verb, group: GROUP, plural, subresource: None, namespace, name: Some(name) };
        admission.authorizer.permits_now(admission.user, &action).is_some()
    };
    let rules = match plural {
        "roles" | "clusterroles" => {
            if unchanged(&["rules", "aggregationRule"]) || holds("escalate", plural, name) {
                return Ok(());
            }
            let mut rules: Vec<PolicyRule> = match &object["rules"] {
                Value::Null => Vec::new(),
                // What does not parse, validation refuses by its field.
                rules => serde_json::from_value(rules.clone()).unwrap_or_default(),
            };
            if !object["aggregationRule"].is_null() && !unchanged(&["aggregationRule"]) {
                // It may come to hold any right.
                rules.extend(everything());
            }
            rules
        }
        "rolebindings" | "clusterrolebindings" => {
            if unchanged(&["roleRef", "subjects"]) {
                return Ok(());
            }
            let Ok(role) = serde_json::from_value::<RoleRef>(object["roleRef"].clone()) else {
                return Ok(());
            };
            let of = if role.kind == "Role" { "roles" } else { "clusterroles" };
            if holds("bind", of, &role.name) {
                return Ok(());
            }
            let rules = admission.authorizer.roles().role(&role, namespace);
            rules.ok_or_else(|| Status::not_found(GROUP, of, &role.name))?.to_vec()
        }
        _ => return Ok(()),
    };
    let held = admission.authorizer.roles().rules(admission.user, namespace);
    let missing = missing(&held, &rules);
    if missing.is_empty() {
        return Ok(());
    }
    let why = refusal(admission.user, &missing);
    Err(Status::forbidden(GROUP, plural, name, &why))
}

/// The rules that cover every other.
pub(in crate::auth) fn everything() -> [PolicyRule; 2] {
    let all = || vec!["*".into()];
    [
        PolicyRule { verbs: all(), api_groups: all(), resources: all(), ..PolicyRule::default() },
        PolicyRule { verbs: all(), non_resource_urls: all(), ..PolicyRule::default() },
    ]
}

fn refusal(user: &User, missing: &[PolicyRule]) -> String {
    let rules: Vec<String> = missing.iter().map(|rule| Compact(rule).to_string()).collect();
    format!(
        "user \"{}\" (groups={}) is attempting to grant RBAC permissions not currently held:\n{}",
        user.name,
        Quoted(&user.groups),
        rules.join("\n")
    )
}

/// The parts of `wanted` that no rule in `held` covers; the verbs of one part joined.
fn missing(held: &[PolicyRule], wanted: &[PolicyRule]) -> Vec<PolicyRule> {
    let mut missing: Vec<PolicyRule> = Vec::new();
    for part in wanted.iter().flat_map(parts) {
        if held.iter().any(|rule| covers(rule, &part)) {
            continue;
        }
        let same = |other: &&mut PolicyRule| {
            PolicyRule { verbs: Vec::new(), ..(**other).clone() }
                == PolicyRule { verbs: Vec::new(), ..part.clone() }
        };
        match missing.iter_mut().find(same) {
            Some(other) if other.verbs.contains(&part.verbs[0]) => {}
            Some(other) => other.verbs.extend(part.verbs),
            None => missing.push(part),
        }
    }
    missing
}

/// `rule` taken apart: one verb on one resource, object or path each.
fn parts(rule: &PolicyRule) -> Vec<PolicyRule> {
    let one = |text: &String| vec![text.clone()];
    let mut parts = Vec::new();
    for verb in &rule.verbs {
        for url in &rule.non_resource_urls {
            parts.push(PolicyRule {
                verbs: one(verb),
                non_resource_urls: one(url),
                ..PolicyRule::default()
            });
        }
        for group in &rule.api_groups {
            for resource in &rule.resources {
                let part = PolicyRule {
                    verbs: one(verb),
                    api_groups: one(group),
                    resources: one(resource),
                    ..PolicyRule::default()
                };
                if rule.resource_names.is_empty() {
                    parts.push(part);
                } else {
                    parts.extend(
                        rule.resource_names
                            .iter()
                            .map(|name| PolicyRule { resource_names: one(name), ..part.clone() }),
                    );
                }
            }
        }
    }
    parts
}

/// Whether `rule` permits all that `part`, a result of [`parts`], does.
fn covers(rule: &PolicyRule, part: &PolicyRule) -> bool {
    let within = |part: &[String], rule: &[String]| {
        part.iter().all(|one| rule.iter().any(|other| other == one || other == "*"))
    };
    if !within(&part.verbs, &rule.verbs) {
        return false;
    }
    if let Some(url) = part.non_resource_urls.first() {
        return rule.non_resource_urls.iter().any(|one| match one.strip_suffix('*') {
            Some(prefix) => url.starts_with(prefix),
            None => one == url,
        });
    }
    let resources = part.resources.iter().all(|resource| {
        rule.resources.iter().any(|one| {
            one == "*"
                || one == resource
                || one.strip_prefix("*/").is_some_and(|below| {
                    resource.split_once('/').is_some_and(|(_, subresource)| subresource == below)
                })
        })
    });
    let names = rule.resource_names.is_empty()
        || (!part.resource_names.is_empty() && within(&part.resource_names, &rule.resource_names));
    within(&part.api_groups, &rule.api_groups) && resources && names
}

/// A list as Go's `%q` writes it.
struct Quoted<'a>(&'a [String]);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let quoted: Vec<String> = self.0.iter().map(|one| format!("{one:?}")).collect();
        write!(f, "[{}]", quoted.join(" "))
    }
}

/// A rule in one line, without its empty fields.
struct Compact<'a>(&'a PolicyRule);

impl fmt::Display for Compact<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fields = [
            ("APIGroups", &self.0.api_groups),
            ("Resources", &self.0.resources),
            ("NonResourceURLs", &self.0.non_resource_urls),
            ("ResourceNames", &self.0.resource_names),
            ("Verbs", &self.0.verbs),
        ];
        let fields: Vec<String> = fields
            .into_iter()
            .filter(|(_, list)| !list.is_empty())
            .map(|(name, list)| format!("{name}:{}", Quoted(list)))
            .collect();
        write!(f, "{{{}}}", fields.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(verbs: &[&str], resources: &[&str], names: &[&str]) -> PolicyRule {
        let owned = |list: &[&str]| list.iter().map(|&one| one.to_owned()).collect();
        PolicyRule {
            verbs: owned(verbs),
            api_groups: vec![String::new()],
            resources: owned(resources),
            resource_names: owned(names),
            non_resource_urls: Vec::new(),
        }
    }

    #[test]
    fn several_rules_together_may_cover_one() {
        let held = [rule(&["get"], &["pods"], &[]), rule(&["list"], &["*"], &[])];
        assert!(missing(&held, &[rule(&["get", "list"], &["pods"], &[])]).is_empty());
        assert!(missing(&held, &[rule(&["get"], &["pods"], &["a"])]).is_empty(), "one of all");
        let left = missing(&held, &[rule(&["get", "list", "watch"], &["pods", "secrets"], &[])]);
        assert_eq!(
            left,
            [rule(&["get", "watch"], &["secrets"], &[]), rule(&["watch"], &["pods"], &[]),]
        );
        let named = [rule(&["get"], &["secrets"], &["a"])];
        assert_eq!(missing(&named, &[rule(&["get"], &["secrets"], &[])]).len(), 1, "all of one");
        assert_eq!(missing(&held, &everything()).len(), 2);
        assert!(missing(&everything(), &everything()).is_empty());
        assert!(
            missing(&[rule(&["get"], &["*/log"], &[])], &[rule(&["get"], &["pods/log"], &[])])
                .is_empty()
        );
    }

    #[test]
    fn a_refusal_reads_as_kubernetes_writes_it() {
        let user = User {
            name: "jane".into(),
            groups: vec!["a".into(), "system:authenticated".into()],
            ..User::default()
        };
        assert_eq!(
            refusal(&user, &[rule(&["get", "list"], &["pods"], &[])]),
            "user \"jane\" (groups=[\"a\" \"system:authenticated\"]) is attempting to grant RBAC \
             permissions not currently held:\n\
             {APIGroups:[\"\"], Resources:[\"pods\"], Verbs:[\"get\" \"list\"]}"
        );
    }
}
