//! What is left in a namespace that is being deleted, as its conditions tell it.

use std::collections::BTreeMap;

use bulkhead_client::object::{self, list};
use bulkhead_client::{ClientError, Kind};
use serde_json::{Value, json};

/// What is left.
#[derive(Debug, Default)]
pub(super) struct Left {
    /// How many objects of each kind, by `plural.group`.
    objects: BTreeMap<String, usize>,
    /// How many objects each finalizer holds.
    finalizers: BTreeMap<String, usize>,
    /// Why kinds could not be emptied.
    pub(super) failures: Vec<ClientError>,
}

impl Left {
    /// Whether nothing is, as far as could be seen.
    pub(super) fn is_empty(&self) -> bool {
        self.objects.is_empty() && self.failures.is_empty()
    }

    /// Notes objects of a kind that are still there.
    pub(super) fn note(&mut self, kind: &Kind, there: &[Value]) {
        *self.objects.entry(format!("{}.{}", kind.plural, kind.group)).or_default() += there.len();
        let held = there.iter().flat_map(|object| list(object, "metadata.finalizers"));
        for finalizer in held.filter_map(Value::as_str) {
            *self.finalizers.entry(finalizer.into()).or_default() += 1;
        }
    }

    /// The namespace's conditions with these for what they say.
    pub(super) fn conditions(&self, namespace: &Value) -> Vec<Value> {
        let mut conditions = list(namespace, "status.conditions").to_vec();
        for (kind, is, reason, message) in self.told() {
            let status = if is { "True" } else { "False" };
            let known = conditions.iter_mut().find(|one| one["type"] == kind);
            let since = match &known {
                Some(one) if one["status"] == status => one["lastTransitionTime"].clone(),
                _ => object::now().into(),
            };
            let condition = json!({
                "type": kind, "status": status, "reason": reason, "message": message,
                "lastTransitionTime": since,
            });
            match known {
                Some(known) => *known = condition,
                None => conditions.push(condition),
            }
        }
        conditions
    }

    /// Each condition's type, whether it is true, its reason and its message.
    fn told(&self) -> [(&'static str, bool, &'static str, String); 5] {
        let counted = |all: &BTreeMap<String, usize>, how: &str| {
            let each: Vec<String> = all
                .iter()
                .map(|(what, count)| format!("{what} {how} {count} resource instances"))
                .collect();
            each.join(", ")
        };
        let deleted = match self.failures.len() {
            0 => (
                "NamespaceDeletionContentFailure",
                false,
                "ContentDeleted",
                "All content successfully deleted, may be waiting on finalization".into(),
            ),
            count => {
                let why: Vec<String> = self.failures.iter().map(ToString::to_string).collect();
                let message = format!(
                    "Failed to delete all resource types, {count} remaining: {}",
                    why.join(", ")
                );
                ("NamespaceDeletionContentFailure", true, "ContentDeletionFailed", message)
            }
        };
        let remaining = if self.objects.is_empty() {
            let message = "All content successfully removed".into();
            ("NamespaceContentRemaining", false, "ContentRemoved", message)
        } else {
            let message =
                format!("Some resources are remaining: {}", counted(&self.objects, "has"));
            ("NamespaceContentRemaining", true, "SomeResourcesRemain", message)
        };
        let held = if self.finalizers.is_empty() {
            let message = "All content-preserving finalizers finished".into();
            ("NamespaceFinalizersRemaining", false, "ContentHasNoFinalizers", message)
        } else {
            let message = format!(
                "Some content in the namespace has finalizers remaining: {}",
                counted(&self.finalizers, "in")
            );
            ("NamespaceFinalizersRemaining", true, "SomeFinalizersRemain", message)
        };
        [
            (
                "NamespaceDeletionDiscoveryFailure",
                false,
                "ResourcesDiscovered",
                "All resources successfully discovered".into(),
            ),
            (
                "NamespaceDeletionGroupVersionParsingFailure",
                false,
                "ParsedGroupVersions",
                "All legacy kube types successfully parsed".into(),
            ),
            deleted,
            remaining,
            held,
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_say_what_is_left() {
        let said = |conditions: &[Value], kind: &str| {
            let one = conditions.iter().find(|one| one["type"] == kind).unwrap();
            (
                one["status"].as_str().unwrap().to_owned(),
                one["message"].as_str().unwrap().to_owned(),
            )
        };
        let mut left = Left::default();
        assert!(left.is_empty());
        let held = json!({"metadata": {"finalizers": ["example.com/hold"]}});
        left.note(&Kind::PODS, &[held, json!({"metadata": {}})]);
        assert!(!left.is_empty());
        let conditions = left.conditions(&json!({}));
        assert_eq!(
            said(&conditions, "NamespaceContentRemaining"),
            ("True".into(), "Some resources are remaining: pods. has 2 resource instances".into())
        );
        assert_eq!(
            said(&conditions, "NamespaceFinalizersRemaining"),
            (
                "True".into(),
                "Some content in the namespace has finalizers remaining: example.com/hold in 1 resource instances".into()
            )
        );
        assert_eq!(said(&conditions, "NamespaceDeletionContentFailure").0, "False");
        let mut failed = Left::default();
        failed.failures.push(ClientError {
            code: 500,
            reason: "InternalError".into(),
            message: "no".into(),
        });
        let since = "2026-01-01T00:00:00Z";
        let before: Vec<Value> = conditions
            .into_iter()
            .chain([json!({"type": "Own", "status": "True"})])
            .map(|mut one| {
                one["lastTransitionTime"] = since.into();
                one
            })
            .collect();
        let after = failed.conditions(&json!({"status": {"conditions": before}}));
        let (status, message) = said(&after, "NamespaceDeletionContentFailure");
        assert_eq!(status, "True");
        assert_eq!(message, "Failed to delete all resource types, 1 remaining: no");
        assert_eq!(after.len(), 6);
        // Only what changed did so now.
        let kept = after.iter().filter(|one| one["lastTransitionTime"] == since);
        assert_eq!(kept.count(), 3);
    }
}
