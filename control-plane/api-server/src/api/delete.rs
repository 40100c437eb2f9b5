//! Delete and delete of collections.

use bulkhead_store::{StoreError, Write};
use serde_json::Value;
use time::OffsetDateTime;

use super::services::Claims;
use super::{ATTEMPTS, Api, CHANGED, List, Place, encode, store_failure};
use crate::object;
use crate::options::{DeleteOptions, ReadOptions};
use crate::resource::Resource;
use crate::status::{Result, Status};

/// `terminationGracePeriodSeconds` where a pod says none.
const DEFAULT_GRACE: u64 = 30;
/// The namespaces that every cluster has for good.
const IMMORTAL: [&str; 3] = ["default", "kube-public", "kube-system"];

/// What a delete came to.
#[derive(Debug, Clone)]
pub struct Deletion {
    /// The object as it is now, or last was.
    pub object: Value,
    /// Whether it is gone; otherwise it waits for its grace period or finalizers.
    pub gone: bool,
}

impl Api {
    /// Deletes the object named `name`, or marks it as being deleted.
    ///
    /// # Errors
    /// `NotFound`; `Conflict` if preconditions do not hold; `Forbidden` for a namespace that must stay.
    pub async fn delete(
        &self,
        place: &Place,
        name: &str,
        options: &DeleteOptions,
    ) -> Result<Deletion> {
        let resource = &place.resource;
        if resource.is_namespaces() && IMMORTAL.contains(&name) {
            let why = "this namespace may not be deleted";
            return Err(Status::forbidden(resource.group, resource.plural, name, why));
        }
        let key = place.key(name);
        for _ in 0..ATTEMPTS {
            let (current, expected) = self.current(place, name).await?;
            check_preconditions(place, name, options, &current)?;
            let grace = resource.graceful_deletion.then(|| grace(options, &current));
            let mut marked = mark(resource, &current, grace);
            let policy = options.propagation_policy.as_deref();
            let policy = policy.or(resource.orphans_by_default.then_some("Orphan"));
            propagate(&mut marked, policy);
            let gone = !resource.is_held(&marked) && grace.unwrap_or(0) == 0;
            if options.dry_run.iter().any(|one| one == "All") || (!gone && marked == current) {
                return Ok(Deletion { object: marked, gone });
            }
            let write = if gone {
                Write::Delete { key: key.clone(), expected }
            } else {
                let value = encode(resource, &marked)?;
                Write::Update { key: key.clone(), value, expected }
            };
            match self.store.write(write).await {
                Ok(revision) => {
                    if gone {
                        self.settle(Claims::of_gone(place, &current), true).await;
                    }
                    self.directory.learn(place).await;
                    let mut object = if gone { current } else { marked };
                    object["metadata"]["resourceVersion"] = revision.to_string().into();
                    return Ok(Deletion { object, gone });
                }
                Err(StoreError::Changed { .. } | StoreError::Absent(_)) => {}
                Err(error) => return Err(store_failure(&error)),
            }
        }
        Err(place.conflict(name, CHANGED))
    }

    /// Deletes every object that `selection` selects and returns them.
    ///
    /// # Errors
    /// The first failure other than that somebody else deleted one.
    pub async fn delete_collection(
        &self,
        place: &Place,
        selection: &ReadOptions,
        options: &DeleteOptions,
    ) -> Result<List> {
        let list = self.list(place, selection).await?;
        for item in &list.items {
            let place = Place::new(&place.resource, object::namespace(item));
            match self.delete(&place, object::name(item), options).await {
                Err(error) if error.code != 404 => return Err(error),
                _ => {}
            }
        }
        Ok(list)
    }
}

/// Sets the finalizers by which the garbage collector knows what becomes of the dependents. They
/// hold the object until that is done. Without a policy, those that are there stay.
fn propagate(object: &mut Value, policy: Option<&str>) {
    let (add, take): (Option<&str>, &[&str]) = match policy {
        Some("Orphan") => (Some("orphan"), &["foregroundDeletion"]),
        Some("Foreground") => (Some("foregroundDeletion"), &["orphan"]),
        Some("Background") => (None, &["orphan", "foregroundDeletion"]),
        _ => return,
    };
    let mut finalizers = object::list(object, "metadata.finalizers").to_vec();
    finalizers.retain(|one| !take.iter().any(|taken| one == taken));
    if let Some(add) = add.filter(|add| !finalizers.iter().any(|one| one == add)) {
        finalizers.push(add.into());
    }
    match object["metadata"].as_object_mut() {
        Some(metadata) if finalizers.is_empty() => {
            metadata.remove("finalizers");
        }
        Some(metadata) => {
            metadata.insert("finalizers".into(), finalizers.into());
        }
        None => {}
    }
}

fn check_preconditions(
    place: &Place,
    name: &str,
    options: &DeleteOptions,
    current: &Value,
) -> Result<()> {
    let Some(preconditions) = &options.preconditions else { return Ok(()) };
    let uid = object::text(current, "metadata.uid");
    if let Some(wanted) = preconditions.uid.as_deref().filter(|wanted| *wanted != uid) {
        let why = format!(
            "Precondition failed: UID in precondition: {wanted}, UID in object meta: {uid}"
        );
        return Err(place.conflict(name, &why));
    }
    let version = object::text(current, "metadata.resourceVersion");
    if let Some(wanted) =
        preconditions.resource_version.as_deref().filter(|wanted| *wanted != version)
    {
        let why = format!(
            "Precondition failed: ResourceVersion in precondition: {wanted}, ResourceVersion in object meta: {version}"
        );
        return Err(place.conflict(name, &why));
    }
    Ok(())
}

/// How many seconds the object's processes get. One that runs nowhere, or no longer, needs none.
fn grace(options: &DeleteOptions, object: &Value) -> u64 {
    let ended = matches!(object::text(object, "status.phase"), "Succeeded" | "Failed");
    if ended || object::text(object, "spec.nodeName").is_empty() {
        return 0;
    }
    let own = object["spec"]["terminationGracePeriodSeconds"].as_u64();
    let grace = options.grace_period_seconds.unwrap_or(own.unwrap_or(DEFAULT_GRACE));
    // A second delete may hasten the first, not put it off.
    let before = object["metadata"]["deletionGracePeriodSeconds"].as_u64();
    before.map_or(grace, |before| before.min(grace))
}

/// The object with the marks of its deletion. The timestamp is when its grace ends.
fn mark(resource: &Resource, object: &Value, grace: Option<u64>) -> Value {
    let mut marked = object.clone();
    let metadata = &mut marked["metadata"];
    let before = metadata["deletionGracePeriodSeconds"].as_u64();
    let hastened = grace.is_some_and(|grace| before.is_some_and(|before| grace < before));
    if !metadata["deletionTimestamp"].is_string() || hastened {
        let seconds = i64::try_from(grace.unwrap_or(0)).unwrap_or(i64::MAX >> 20).min(1 << 31);
        let end = OffsetDateTime::now_utc() + time::Duration::seconds(seconds);
        metadata["deletionTimestamp"] = object::timestamp(end).into();
        metadata["deletionGracePeriodSeconds"] = grace.unwrap_or(0).into();
        if let Some(generation) = metadata["generation"].as_u64() {
            metadata["generation"] = (generation + 1).into();
        }
    }
    if resource.is_namespaces() {
        marked["status"]["phase"] = "Terminating".into();
    }
    marked
}
