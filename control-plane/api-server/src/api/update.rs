//! Update and patch: a new object from the current one, swapped in if nobody was faster.

use bulkhead_store::{StoreError, Write};
use serde_json::Value;

use super::admission::Charges;
use super::create::{check_namespace, check_type, validate};
use super::metadata;
use super::services::Claims;
use super::{ATTEMPTS, Api, CHANGED, Place, encode, store_failure};
use crate::kinds::{certificates, ephemeral};
use crate::managed::Operation;
use crate::object;
use crate::options::WriteOptions;
use crate::resource::Resource;
use crate::status::{Result, Status};

/// The part of an object that a write may change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// All but the status, if the kind has a status subresource.
    Main,
    /// The status only.
    Status,
    /// What `certificatesigningrequests/approval` says: the conditions of the status.
    Approval,
    /// What `pods/ephemeralcontainers` says: containers that are added to a pod that runs.
    EphemeralContainers,
    /// Anything: what subresources such as `binding` and `finalize` change is theirs to limit.
    Whole,
}

/// Who owns the fields of an object that is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ownership {
    /// Who writes, those that change.
    Changes,
    /// Whoever the object itself says.
    Said,
}

impl Api {
    /// Replaces the object named `name`. If `object` says a version, it must be the current one.
    ///
    /// # Errors
    /// `NotFound`, `Conflict`, `Invalid`, `BadRequest`.
    pub async fn update(
        &self,
        place: &Place,
        name: &str,
        target: Target,
        object: Value,
        options: &WriteOptions,
    ) -> Result<Value> {
        self.modify(place, name, target, options, |_| Ok(object.clone())).await
    }

    /// Replaces the object named `name` by what `change` makes of it. If others write it in
    /// between, `change` is called again with what they wrote, unless its result names the
    /// version that it is made from.
    ///
    /// # Errors
    /// As [`update`](Self::update), and what `change` answers.
    pub async fn modify(
        &self,
        place: &Place,
        name: &str,
        target: Target,
        options: &WriteOptions,
        change: impl FnMut(&Value) -> Result<Value> + Send,
    ) -> Result<Value> {
        self.change(place, name, target, options, Ownership::Changes, change).await
    }

    /// As [`modify`](Self::modify), with the owners of fields as `ownership` says.
    pub(super) async fn change(
        &self,
        place: &Place,
        name: &str,
        target: Target,
        options: &WriteOptions,
        ownership: Ownership,
        mut change: impl FnMut(&Value) -> Result<Value> + Send,
    ) -> Result<Value> {
        let resource = &place.resource;
        let key = place.key(name);
        for _ in 0..ATTEMPTS {
            let (current, expected) = self.current(place, name).await?;
            let changed = change(&current)?;
            let mut object = merge(place, name, target, ownership, &current, changed)?;
            if object == current {
                return Ok(object);
            }
            if ownership == Ownership::Changes {
                let manager = options.manager(resource, target, Operation::Update);
                let shape = resource.schema();
                resource.scope(shape.as_ref()).update(&current, &mut object, &manager);
            }
            let mut causes = validate(place, &object, Some(&current));
            if !causes.is_empty() && resource.custom.is_none() {
                // What an older server let in stays until it is changed: its status, its finalizers
                // and the rest of it do not wait for that.
                let before = validate(place, &current, None);
                causes.retain(|cause| !before.contains(cause));
            }
            metadata::validate_update(&object["metadata"], &current["metadata"], &mut causes);
            match target {
                Target::Whole => {}
                Target::EphemeralContainers => {
                    ephemeral::validate_update(&object, &current, &mut causes);
                }
                Target::Main | Target::Status | Target::Approval => {
                    (resource.behaviour.validate_update)(&object, &current, &mut causes);
                }
            }
            if !causes.is_empty() {
                return Err(Status::invalid(resource.group, resource.kind, name, causes));
            }
            let released = is_released(resource, &object);
            let taken = match released {
                true => Ok((Claims::of_gone(place, &current), Charges::default())),
                false => self.take(place, &current, &mut object, target, options.dry_run).await,
            };
            let (claims, charges) = taken?;
            if options.dry_run {
                return Ok(object);
            }
            let write = if released {
                Write::Delete { key: key.clone(), expected }
            } else {
                let value = encode(resource, &object)?;
                Write::Update { key: key.clone(), value, expected }
            };
            let written = self.store.write(write).await;
            self.settle(claims, written.is_ok()).await;
            if written.is_err() {
                self.refund(place, charges).await;
            }
            match written {
                Ok(revision) => {
                    // What a status says is nobody's condition.
                    if target != Target::Status {
                        self.directory.learn(place).await;
                    }
                    let mut object = object;
                    object["metadata"]["resourceVersion"] = revision.to_string().into();
                    return Ok(object);
                }
                // The next turn finds out whether that is a conflict or the object is gone.
                Err(StoreError::Changed { .. } | StoreError::Absent(_)) => {}
                Err(error) => return Err(store_failure(&error)),
            }
        }
        Err(place.conflict(name, CHANGED))
    }

    /// Takes what the change from `current` to `object` costs, beside the object.
    async fn take(
        &self,
        place: &Place,
        current: &Value,
        object: &mut Value,
        target: Target,
        dry_run: bool,
    ) -> Result<(Claims, Charges)> {
        // Of kinds that cost what they say, and may say more later.
        let grows = place.resource.group.is_empty()
            && matches!(place.resource.plural, "services" | "persistentvolumeclaims")
            && target == Target::Main;
        let charges = match grows {
            true => self.charge(place, Some(current), object, dry_run).await?,
            false => Charges::default(),
        };
        match self.claim(place, Some(current), object, dry_run).await {
            Ok(claims) => Ok((claims, charges)),
            Err(error) => {
                self.refund(place, charges).await;
                Err(error)
            }
        }
    }
}

/// Whether an object that is being deleted has nothing left to wait for.
fn is_released(resource: &Resource, object: &Value) -> bool {
    let elapsed = !resource.graceful_deletion
        || object["metadata"]["deletionGracePeriodSeconds"].as_u64() == Some(0);
    object::is_terminating(object) && elapsed && !resource.is_held(object)
}

/// The object to store: `changed`, in what the target covers, over `current`.
fn merge(
    place: &Place,
    name: &str,
    target: Target,
    ownership: Ownership,
    current: &Value,
    mut changed: Value,
) -> Result<Value> {
    let resource = &place.resource;
    check_type(place, &mut changed)?;
    check_namespace(place, &mut changed)?;
    let said = object::name(&changed);
    if !said.is_empty() && said != name {
        return Err(Status::bad_request(format!(
            "the name of the object ({said}) does not match the name on the URL ({name})"
        )));
    }
    let said = object::text(&changed, "metadata.resourceVersion");
    if !said.is_empty() && said != "0" && said != object::text(current, "metadata.resourceVersion")
    {
        return Err(place.conflict(name, CHANGED));
    }
    let (said, uid) =
        (object::text(&changed, "metadata.uid"), object::text(current, "metadata.uid"));
    if !said.is_empty() && said != uid {
        let why =
            format!("Precondition failed: UID in precondition: {said}, UID in object meta: {uid}");
        return Err(place.conflict(name, &why));
    }
    let metadata = object::map(&mut changed, "metadata")
        .ok_or_else(|| Status::bad_request("metadata is not an object"))?;
    // An object that says nothing of managers keeps them; what only changes the status is not asked.
    let says =
        metadata.get("managedFields").and_then(Value::as_array).is_some_and(|all| !all.is_empty());
    let asked = !matches!(target, Target::Status | Target::Approval);
    if ownership == Ownership::Changes && !asked || !says {
        match current["metadata"].get("managedFields") {
            Some(fields) => metadata.insert("managedFields".into(), fields.clone()),
            None => metadata.remove("managedFields"),
        };
    }
    let set_by_the_server = [
        "name",
        "namespace",
        "uid",
        "creationTimestamp",
        "resourceVersion",
        "generation",
        "generateName",
        "selfLink",
    ];
    let deletion = ["deletionTimestamp", "deletionGracePeriodSeconds"];
    let deletion = if target == Target::Whole { &[][..] } else { &deletion[..] };
    for &field in set_by_the_server.iter().chain(deletion) {
        match current["metadata"].get(field) {
            Some(value) => metadata.insert(field.into(), value.clone()),
            None => metadata.remove(field),
        };
    }
    metadata::tidy(metadata);
    let mut object = match target {
        Target::Main | Target::Whole => changed,
        Target::Status => {
            let mut object = current.clone();
            object["metadata"] = changed["metadata"].take();
            set(&mut object, "status", changed.get("status"));
            if resource.subresource("approval").is_some() {
                object["status"]["conditions"] = certificates::undecided(&object, current).into();
            }
            object
        }
        Target::Approval => {
            let mut object = current.clone();
            object["metadata"] = changed["metadata"].take();
            object["status"]["conditions"] = changed["status"]["conditions"].take();
            object
        }
        Target::EphemeralContainers => {
            let mut object = ephemeral::of(&changed, current);
            // Who applies is noted there.
            let managers = changed["metadata"].get("managedFields").cloned();
            set(&mut object["metadata"], "managedFields", managers.as_ref());
            object
        }
    };
    if target == Target::Main && resource.subresource("status").is_some() {
        set(&mut object, "status", current.get("status"));
    }
    if let Some(custom) = &resource.custom {
        custom.prepare(&mut object);
    }
    if target == Target::Main {
        (resource.behaviour.prepare_update)(&mut object, current);
    }
    (resource.behaviour.default)(&mut object);
    let is_content = matches!(target, Target::Main | Target::EphemeralContainers);
    if resource.generation && is_content && !same_content(&object, current) {
        let generation = current["metadata"]["generation"].as_u64().unwrap_or(0) + 1;
        object["metadata"]["generation"] = generation.into();
    }
    Ok(object)
}

/// Whether two objects differ in nothing but metadata and status.
fn same_content(one: &Value, other: &Value) -> bool {
    fn content(object: &Value) -> impl Iterator<Item = (&String, &Value)> {
        let all = object.as_object().into_iter().flatten();
        all.filter(|(field, _)| !matches!(field.as_str(), "metadata" | "status"))
    }
    content(one).eq(content(other))
}

fn set(object: &mut Value, field: &str, value: Option<&Value>) {
    let Some(fields) = object.as_object_mut() else { return };
    match value {
        Some(value) => fields.insert(field.into(), value.clone()),
        None => fields.remove(field),
    };
}
