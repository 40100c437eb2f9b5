//! Aggregated ClusterRoles: those with an `aggregationRule` hold the rules of all that it selects.

use bulkhead_client::Selector;
use serde_json::{Value, json};

use super::index::ClusterRole;
use super::{GROUP, PolicyRule};
use crate::api::{Api, Place, Target};
use crate::auth::authorizer::Authorizer;
use crate::options::WriteOptions;
use crate::status::Result;

/// Roles of roles of roles: Kubernetes' own are three deep. What is deeper settles while serving.
const MAX_DEPTH: usize = 8;

/// Keeps aggregated roles as they should be, for ever.
pub(crate) async fn run(api: Api, authorizer: std::sync::Arc<Authorizer>) {
    let mut moved = authorizer.rbac().position();
    loop {
        if let Err(error) = reconcile(&api, &authorizer).await {
            tracing::warn!(%error, "aggregating cluster roles");
        }
        if moved.changed().await.is_err() {
            return;
        }
    }
}

/// Aggregates until there is nothing left to do: roles of roles need several rounds.
///
/// # Errors
/// If a role cannot be written.
pub(crate) async fn settle(api: &Api, authorizer: &Authorizer) -> Result<()> {
    for _ in 0..MAX_DEPTH {
        if !reconcile(api, authorizer).await? {
            break;
        }
        authorizer.rbac().catch_up().await;
    }
    Ok(())
}

/// Brings every aggregated role to what those that it selects hold now; whether one changed.
async fn reconcile(api: &Api, authorizer: &Authorizer) -> Result<bool> {
    let Some(resource) = api.registry().find(GROUP, "v1", "clusterroles") else { return Ok(false) };
    let mut changed = false;
    let place = Place::new(&resource, None);
    let roles = authorizer.roles().cluster_roles();
    for (name, role) in roles.iter().filter(|(_, role)| !role.aggregates.is_empty()) {
        let rules = united(name, role, &roles);
        if *rules == *role.rules {
            continue;
        }
        changed = true;
        let rules = json!(rules);
        let change = |current: &Value| {
            let mut role = current.clone();
            role["rules"] = rules.clone();
            Ok(role)
        };
        let options = WriteOptions::default();
        match api.modify(&place, name, Target::Main, &options, change).await {
            // Deleted in between: there is nothing left to do.
            Err(error) if error.code != 404 => return Err(error),
            _ => {}
        }
    }
    Ok(changed)
}

/// The rules of the roles that `role` selects, in the order of their names, each once.
fn united(
    name: &str,
    role: &ClusterRole,
    roles: &std::collections::BTreeMap<String, ClusterRole>,
) -> Vec<PolicyRule> {
    let mut united: Vec<PolicyRule> = Vec::new();
    for selector in &role.aggregates {
        // Validated when it was written; what cannot be read selects nothing.
        let Ok(selector) = Selector::read(selector) else { continue };
        for (other_name, other) in roles {
            let labels = json!(other.labels);
            if other_name == name || !selector.matches(&labels) {
                continue;
            }
            for rule in other.rules.iter() {
                if !united.contains(rule) {
                    united.push(rule.clone());
                }
            }
        }
    }
    united
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn a_role_unites_what_it_selects() {
        let role = |label: &str, verb: &str| ClusterRole {
            rules: vec![PolicyRule { verbs: vec![verb.into()], ..PolicyRule::default() }].into(),
            labels: BTreeMap::from([(label.to_owned(), "true".to_owned())]),
            aggregates: Vec::new(),
        };
        let sum = ClusterRole {
            aggregates: vec![
                json!({"matchLabels": {"x": "true"}}),
                json!({"matchExpressions": [{"key": "y", "operator": "Exists"}]}),
            ],
            ..role("x", "own")
        };
        let roles = BTreeMap::from([
            ("a".to_owned(), role("x", "get")),
            ("b".to_owned(), role("z", "list")),
            ("c".to_owned(), role("y", "watch")),
            ("d".to_owned(), role("x", "get")),
            ("sum".to_owned(), sum.clone()),
        ]);
        let verbs: Vec<_> =
            united("sum", &sum, &roles).into_iter().map(|rule| rule.verbs[0].clone()).collect();
        assert_eq!(verbs, ["get", "watch"]);
    }
}
