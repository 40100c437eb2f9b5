//! Create.

use bulkhead_store::{StoreError, Write};
use serde_json::Value;

use super::directory::Table;
use super::metadata;
use super::update::{Ownership, Target};
use super::{Api, Place, encode, store_failure};
use crate::managed::Operation;
use crate::object;
use crate::options::WriteOptions;
use crate::status::{Cause, Result, Status};

/// A generated name that is taken is generated anew so often.
const NAME_ATTEMPTS: usize = 8;

impl Api {
    /// Creates `object` in `place` and returns it as stored.
    ///
    /// # Errors
    /// `Invalid`, `AlreadyExists`, `BadRequest`; `NotFound` or `Forbidden` for its namespace.
    pub async fn create(
        &self,
        place: &Place,
        object: Value,
        options: &WriteOptions,
    ) -> Result<Value> {
        self.create_owned(place, object, options, Ownership::Changes).await
    }

    /// As [`create`](Self::create), with the owners of fields as `ownership` says.
    pub(super) async fn create_owned(
        &self,
        place: &Place,
        mut object: Value,
        options: &WriteOptions,
        ownership: Ownership,
    ) -> Result<Value> {
        let resource = &place.resource;
        check_type(place, &mut object)?;
        check_namespace(place, &mut object)?;
        let metadata = object::map(&mut object, "metadata")
            .ok_or_else(|| Status::bad_request("metadata is not an object"))?;
        if metadata.get("resourceVersion").and_then(Value::as_str).is_some_and(|rv| !rv.is_empty())
        {
            let message = "resourceVersion should not be set on objects to be created";
            return Err(Status::bad_request(message));
        }
        for set_by_the_server in
            ["resourceVersion", "deletionTimestamp", "deletionGracePeriodSeconds", "selfLink"]
        {
            metadata.remove(set_by_the_server);
        }
        if ownership == Ownership::Changes {
            metadata.remove("managedFields");
        }
        metadata::tidy(metadata);
        metadata.insert("uid".into(), object::uid().into());
        metadata.insert("creationTimestamp".into(), object::now().into());
        if resource.generation {
            metadata.insert("generation".into(), 1.into());
        }
        let generate =
            metadata.get("generateName").and_then(Value::as_str).unwrap_or("").to_owned();
        let named =
            metadata.get("name").and_then(Value::as_str).is_some_and(|name| !name.is_empty());
        if !named && generate.is_empty() {
            let causes = vec![Cause {
                message: "Required value: name or generateName is required".into(),
                ..Cause::required("metadata.name")
            }];
            return Err(Status::invalid(resource.group, resource.kind, "", causes));
        }
        if !named {
            object["metadata"]["name"] = generated_name(&generate).into();
        }
        (resource.behaviour.prepare_create)(&mut object);
        if let Some(custom) = &resource.custom {
            custom.prepare(&mut object);
            if let (Some(_), Some(fields)) =
                (resource.subresource("status"), object.as_object_mut())
            {
                fields.remove("status");
            }
        }
        (resource.behaviour.default)(&mut object);
        self.admit_create(place, &mut object).await?;
        if ownership == Ownership::Changes {
            let manager = options.manager(resource, Target::Main, Operation::Update);
            let shape = resource.schema();
            resource.scope(shape.as_ref()).update(&Value::Null, &mut object, &manager);
        }
        self.check_namespace_takes(place, &object).await?;
        self.write_new(place, object, &generate, named, options).await
    }

    /// Writes an object that is all but valid; a name that is not `named` is made of `generate`
    /// anew until it is free.
    async fn write_new(
        &self,
        place: &Place,
        mut object: Value,
        generate: &str,
        named: bool,
        options: &WriteOptions,
    ) -> Result<Value> {
        let resource = &place.resource;
        for _ in 0..NAME_ATTEMPTS {
            let name = object::name(&object).to_owned();
            let mut causes = validate(place, &object, None);
            (resource.behaviour.validate_create)(&object, &mut causes);
            if !causes.is_empty() {
                return Err(Status::invalid(resource.group, resource.kind, &name, causes));
            }
            let charges = self.charge(place, None, &object, options.dry_run).await?;
            let claims = match self.claim(place, None, &mut object, options.dry_run).await {
                Ok(claims) => claims,
                Err(error) => {
                    self.refund(place, charges).await;
                    return Err(error);
                }
            };
            let key = place.key(&name);
            let exists = Status::already_exists(resource.group, resource.plural, &name);
            if options.dry_run {
                let present = self.store.get(&key).await.map_err(|error| store_failure(&error))?;
                return if present.is_some() { Err(exists) } else { Ok(object) };
            }
            let value = encode(resource, &object)?;
            let written = self.store.write(Write::Create { key, value }).await;
            self.settle(claims, written.is_ok()).await;
            if written.is_err() {
                self.refund(place, charges).await;
            }
            match written {
                Ok(revision) => {
                    self.directory.learn(place).await;
                    object["metadata"]["resourceVersion"] = revision.to_string().into();
                    return Ok(object);
                }
                Err(StoreError::Exists(_)) if named => return Err(exists),
                Err(StoreError::Exists(_)) => {
                    object["metadata"]["name"] = generated_name(generate).into();
                }
                Err(error) => return Err(store_failure(&error)),
            }
        }
        Err(Status::already_exists(resource.group, resource.plural, generate))
    }

    /// Refuses objects in namespaces that do not exist or are being deleted.
    async fn check_namespace_takes(&self, place: &Place, object: &Value) -> Result<()> {
        let Some(namespace) = place.namespace.as_deref() else { return Ok(()) };
        let table = Table::Namespaces;
        let found = self.directory.get(&self.store, table, None, namespace).await?;
        let found = found.ok_or_else(|| Status::not_found("", "namespaces", namespace))?;
        if object::is_terminating(&found) {
            let why = format!(
                "unable to create new content in namespace {namespace} because it is being terminated"
            );
            let resource = &place.resource;
            let name = object::name(object);
            let mut status = Status::forbidden(resource.group, resource.plural, name, &why);
            status.details.causes.push(Cause {
                reason: "NamespaceTerminating",
                message: format!("namespace {namespace} is being terminated"),
                field: "metadata.namespace".into(),
            });
            return Err(status);
        }
        Ok(())
    }
}

/// `stem` with a random suffix. 63 is what every kind's rule allows; the suffix must stay whole.
fn generated_name(stem: &str) -> String {
    let stem: String = stem.chars().take(58).collect();
    format!("{stem}{}", object::name_suffix())
}

/// What is wrong with `object`, which was `old`, in what all kinds share and in its own.
pub(super) fn validate(place: &Place, object: &Value, old: Option<&Value>) -> Vec<Cause> {
    let mut causes = Vec::new();
    if let Some(why) = place.resource.behaviour.name.violation(object::name(object)) {
        causes.push(Cause::invalid("metadata.name", &object["metadata"]["name"], why));
    }
    metadata::validate(&object["metadata"], &mut causes);
    if let Some(custom) = &place.resource.custom {
        custom.validate(object, old, &mut causes);
    }
    (place.resource.behaviour.validate)(object, &mut causes);
    causes
}

/// Refuses an object of another kind; one that does not say its kind is of the resource's.
pub(crate) fn check_type(place: &Place, object: &mut Value) -> Result<()> {
    let resource = &place.resource;
    if !object.is_object() {
        return Err(Status::bad_request("the body is not an object"));
    }
    let api_version = resource.api_version();
    object::set_default(object, "apiVersion", api_version.as_str());
    object::set_default(object, "kind", resource.kind);
    let (got_version, got_kind) =
        (object::text(object, "apiVersion"), object::text(object, "kind"));
    if got_version != api_version || got_kind != resource.kind {
        return Err(Status::bad_request(format!(
            "the object in the body is a {got_version} {got_kind}; this path takes {api_version} {}",
            resource.kind
        )));
    }
    Ok(())
}

/// Gives the object the namespace of its path; refuses one that says another.
pub(super) fn check_namespace(place: &Place, object: &mut Value) -> Result<()> {
    let Some(metadata) = object::map(object, "metadata") else {
        return Err(Status::bad_request("metadata is not an object"));
    };
    match (metadata.get("namespace").and_then(Value::as_str).unwrap_or(""), &place.namespace) {
        ("", Some(namespace)) => {
            metadata.insert("namespace".into(), namespace.as_str().into());
            Ok(())
        }
        ("", None) => {
            metadata.remove("namespace");
            Ok(())
        }
        (said, Some(namespace)) if said == namespace => Ok(()),
        (said, wanted) => Err(Status::bad_request(format!(
            "the namespace of the provided object does not match the namespace sent on the \
             request: {said}, {}",
            wanted.as_deref().unwrap_or("none")
        ))),
    }
}
