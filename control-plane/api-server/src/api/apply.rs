//! Server-side apply: an object as its manager wants it, merged into what is there.

use serde_json::Value;

use super::update::{Ownership, Target};
use super::{ATTEMPTS, Api, CHANGED, Place};
use crate::managed::{ApplyError, Conflict, Operation};
use crate::object;
use crate::options::WriteOptions;
use crate::status::{Cause, Result, Status};

impl Api {
    /// Applies `applied` to the object named `name`, and creates it if it is not there, after `admit`
    /// has admitted what is there and what it is to become. The second value is true if it was
    /// created.
    ///
    /// # Errors
    /// `Conflict` if others own fields that would change, and the options do not force it;
    /// `BadRequest` without a field manager; and as a create or an update.
    pub async fn apply(
        &self,
        place: &Place,
        name: &str,
        target: Target,
        applied: &Value,
        options: &WriteOptions,
        mut admit: impl FnMut(Option<&Value>, &mut Value) -> Result<()> + Send,
    ) -> Result<(Value, bool)> {
        let resource = &place.resource;
        if options.field_manager.is_none() {
            let message = "PatchOptions.meta.k8s.io \"\" is invalid: fieldManager: Required value: is required for apply patch";
            return Err(Status::invalid("meta.k8s.io", "PatchOptions", "", Vec::new())
                .with_message(message));
        }
        if object::at(applied, "metadata.managedFields").is_some_and(|fields| !fields.is_null()) {
            return Err(Status::bad_request("metadata.managedFields must be nil"));
        }
        for field in ["apiVersion", "kind"] {
            if object::text(applied, field).is_empty() {
                let message = format!("{field} must be set in an object that is applied");
                return Err(Status::bad_request(message));
            }
        }
        let shape = resource.schema();
        let scope = resource.scope(shape.as_ref());
        let manager = options.manager(resource, target, Operation::Apply);
        let mut applied = applied.clone();
        if object::map(&mut applied, "metadata").is_none() {
            return Err(Status::bad_request("metadata is not an object"));
        }
        object::set_default(&mut applied["metadata"], "name", name);
        if let Some(namespace) = &place.namespace {
            object::set_default(&mut applied["metadata"], "namespace", namespace.as_str());
        }
        for _ in 0..ATTEMPTS {
            let change = |live: &Value| {
                let mut changed = scope
                    .apply(live, &applied, &manager, options.force)
                    .map_err(|error| refused(place, name, error))?;
                admit(Some(live), &mut changed)?;
                Ok(changed)
            };
            let modified = self.change(place, name, target, options, Ownership::Said, change).await;
            match modified {
                Err(status) if status.code == 404 && target == Target::Main => {}
                other => return other.map(|object| (object, false)),
            }
            // Not there: a create, unless somebody else's is faster.
            if let Some(uid) = object::at(&applied, "metadata.uid").and_then(Value::as_str) {
                let why = format!(
                    "Precondition failed: UID in precondition: {uid}, UID in object meta: "
                );
                return Err(place.conflict(name, &why));
            }
            let mut object = scope
                .apply(&Value::Null, &applied, &manager, options.force)
                .map_err(|error| refused(place, name, error))?;
            admit(None, &mut object)?;
            match self.create_owned(place, object, options, Ownership::Said).await {
                Err(status) if status.reason == "AlreadyExists" => {}
                other => return other.map(|object| (object, true)),
            }
        }
        Err(place.conflict(name, CHANGED))
    }
}

fn refused(place: &Place, name: &str, error: ApplyError) -> Status {
    let conflicts = match error {
        ApplyError::Conflicts(conflicts) => conflicts,
        ApplyError::Walk(error) => {
            let kind = format!("{}, Kind={}", place.resource.api_version(), place.resource.kind);
            let of = place.namespace.as_ref().map_or(name.to_owned(), |ns| format!("{ns}/{name}"));
            return Status::bad_request(format!(
                "failed to create typed patch object ({of}; {kind}): {error}"
            ));
        }
    };
    let mut owners: Vec<&str> = Vec::new();
    for conflict in &conflicts {
        if !owners.contains(&conflict.owner.as_str()) {
            owners.push(&conflict.owner);
        }
    }
    let told = owners.iter().map(|owner| {
        let fields: Vec<&str> = conflicts
            .iter()
            .filter(|conflict| conflict.owner == *owner)
            .map(|conflict| conflict.field.as_str())
            .collect();
        match fields.as_slice() {
            [field] => format!("conflict with {owner}: {field}"),
            fields => format!("conflicts with {owner}:\n- {}", fields.join("\n- ")),
        }
    });
    let told: Vec<String> = told.collect();
    let plural = if conflicts.len() == 1 { "" } else { "s" };
    let message =
        format!("Apply failed with {} conflict{plural}: {}", conflicts.len(), told.join("\n"));
    let cause = |conflict: Conflict| Cause {
        reason: "FieldManagerConflict",
        message: format!("conflict with {}", conflict.owner),
        field: conflict.field,
    };
    let mut status = Status::conflict("", "", "", "").with_message(message);
    status.details.causes = conflicts.into_iter().map(cause).collect();
    status
}
