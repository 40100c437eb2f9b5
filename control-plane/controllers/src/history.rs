//! ControllerRevisions: the templates that a StatefulSet or a DaemonSet had, by which `kubectl rollout`
//! tells its history and takes it back.

use std::collections::HashSet;
use std::sync::Arc;

use bulkhead_client::object::{self, number, text};
use bulkhead_client::{Cache, ClientError, DeleteOptions, Kind, Patch, Selector, Target};
use serde_json::{Value, json};

use crate::claim::claim;
use crate::context::{Context, Owner, Written, controller_reference, unless_gone};
use crate::hash::hash;

/// ControllerRevisions.
pub(crate) const REVISIONS: Kind = Kind::new("apps", "v1", "controllerrevisions");
/// The label of a pod that says which revision it is of.
pub(crate) const REVISION_LABEL: &str = "controller-revision-hash";
/// What makes a strategic merge patch of a revision's data replace the template.
const DIRECTIVE: &str = "$patch";

/// Keeps the revisions of one kind of owner.
pub(crate) struct History {
    context: Context,
    owner: Owner,
    /// The label of a revision that carries its hash.
    label: &'static str,
    cache: Arc<Cache>,
    written: Written,
}

/// The revision of an owner's template.
pub(crate) struct Current {
    pub(crate) revision: Arc<Value>,
    /// How often hashes of the owner's templates were taken already.
    pub(crate) collisions: i64,
}

impl History {
    pub(crate) fn new(
        context: Context,
        owner: Owner,
        label: &'static str,
        cache: Arc<Cache>,
    ) -> Self {
        Self { context, owner, label, cache, written: Written::default() }
    }

    /// Whether what was written for the owner with this key has been seen.
    pub(crate) fn is_in(&self, key: &str) -> bool {
        self.written.is_in(key, &self.cache)
    }

    /// The revisions of `parent`, from the oldest to the newest.
    pub(crate) async fn of(
        &self,
        parent: &Value,
        selector: &Selector,
    ) -> Result<Vec<Arc<Value>>, ClientError> {
        let selects = |one: &Value| selector.selects(one);
        let claimed =
            claim(&self.context, &self.owner, parent, &REVISIONS, &self.cache, &selects).await;
        let mut all = claimed?;
        all.sort_by(|one, other| {
            let age = |one: &Value| text(one, "metadata.creationTimestamp").to_owned();
            let by_number = number_of(one).cmp(&number_of(other));
            let by_age = || age(one).cmp(&age(other));
            by_number.then_with(by_age).then_with(|| object::name(one).cmp(object::name(other)))
        });
        Ok(all)
    }

    /// The revision of the template of `parent`, which has this key, among `all` or made. One that
    /// came back is numbered as the newest.
    pub(crate) async fn current(
        &self,
        key: &str,
        parent: &Value,
        all: &[Arc<Value>],
    ) -> Result<Current, ClientError> {
        let collisions = number(parent, "status.collisionCount").unwrap_or(0);
        let wanted = data(parent);
        let next = all.last().map_or(1, |last| number_of(last) + 1);
        let Some(equal) = all.iter().rposition(|one| one["data"] == wanted) else {
            return self.create(key, parent, wanted, next, collisions).await;
        };
        let equal_one = Arc::clone(&all[equal]);
        if equal + 1 == all.len() {
            return Ok(Current { revision: equal_one, collisions });
        }
        let patch = Patch::Merge(json!({
            "metadata": {"resourceVersion": equal_one["metadata"]["resourceVersion"]},
            "revision": next,
        }));
        let (namespace, name) = (object::namespace(&equal_one), object::name(&equal_one));
        let client = self.context.client();
        let renumbered = client.patch(&REVISIONS, namespace, name, Target::Main, patch).await?;
        self.written.note(key, &renumbered);
        Ok(Current { revision: Arc::new(renumbered), collisions })
    }

    async fn create(
        &self,
        key: &str,
        parent: &Value,
        data: Value,
        number: i64,
        mut collisions: i64,
    ) -> Result<Current, ClientError> {
        let template = &parent["spec"]["template"];
        let Owner { api_version, kind, .. } = self.owner;
        loop {
            let hash = hash(template, collisions);
            let mut labels = template["metadata"]["labels"].clone();
            labels[self.label] = hash.as_str().into();
            let revision = json!({
                "apiVersion": "apps/v1",
                "kind": "ControllerRevision",
                "metadata": {
                    "name": format!("{}-{hash}", object::name(parent)),
                    "namespace": parent["metadata"]["namespace"],
                    "labels": labels,
                    "annotations": parent["metadata"]["annotations"],
                    "ownerReferences": [controller_reference(parent, api_version, kind)],
                },
                "data": data,
                "revision": number,
            });
            let client = self.context.client();
            match client.create(&REVISIONS, revision.clone()).await {
                Ok(made) => {
                    self.written.note(key, &made);
                    return Ok(Current { revision: Arc::new(made), collisions });
                }
                Err(error) if error.reason == "AlreadyExists" => {
                    let (namespace, name) = (object::namespace(&revision), object::name(&revision));
                    let there = client.get(&REVISIONS, namespace, name).await?;
                    let ours = object::controller(&there)
                        .is_some_and(|owner| text(owner, "uid") == object::uid(parent));
                    if ours && there["data"] == data {
                        self.written.note(key, &there);
                        return Ok(Current { revision: Arc::new(there), collisions });
                    }
                    // Another template with the same hash, or another's revision.
                    collisions += 1;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Deletes the oldest of the revisions that `live` does not name, beyond the parent's limit.
    pub(crate) async fn trim(
        &self,
        parent: &Value,
        all: &[Arc<Value>],
        live: &HashSet<&str>,
    ) -> Result<(), ClientError> {
        let limit = number(parent, "spec.revisionHistoryLimit").unwrap_or(10);
        let limit = usize::try_from(limit).unwrap_or(0);
        let old: Vec<_> = all.iter().filter(|one| !live.contains(object::name(one))).collect();
        for revision in old.iter().take(old.len().saturating_sub(limit)) {
            let options = DeleteOptions::of(object::uid(revision));
            let (namespace, name) = (object::namespace(revision), object::name(revision));
            unless_gone(self.context.client().delete(&REVISIONS, namespace, name, &options).await)?;
        }
        Ok(())
    }
}

fn number_of(revision: &Value) -> i64 {
    number(revision, "revision").unwrap_or(0)
}

/// What a revision keeps of its owner: a strategic merge patch that brings the template back.
fn data(parent: &Value) -> Value {
    let mut template = parent["spec"]["template"].clone();
    template[DIRECTIVE] = "replace".into();
    json!({"spec": {"template": template}})
}

/// The template that a revision keeps.
pub(crate) fn template(revision: &Value) -> Value {
    let mut template = revision["data"]["spec"]["template"].clone();
    if let Some(fields) = template.as_object_mut() {
        fields.remove(DIRECTIVE);
    }
    template
}

/// The name or hash of the revision that a pod, or a revision itself, says it is of.
pub(crate) fn revision_of(object: &Value) -> &str {
    object["metadata"]["labels"][REVISION_LABEL].as_str().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_revision_brings_its_template_back() {
        let parent = json!({"spec": {"replicas": 3, "template": {"spec": {"a": 1}}}});
        let revision = json!({"data": data(&parent)});
        assert_eq!(revision["data"]["spec"]["template"][DIRECTIVE], "replace");
        assert_eq!(revision["data"]["spec"].get("replicas"), None);
        assert_eq!(template(&revision), parent["spec"]["template"]);
    }
}
