//! Which objects are whose: adoption of what is free and selected, release of what is not
//! selected any more.

use std::sync::Arc;

use bulkhead_client::object;
use bulkhead_client::{Cache, ClientError, Kind, Patch, Target};
use serde_json::{Value, json};

use crate::context::{Context, Owner, controller_reference, unless_gone};

/// The objects of `kind` that `owner`, of which `controller` is the kind, controls now: those that it
/// `selects`.
pub(crate) async fn claim(
    context: &Context,
    controller: &Owner,
    owner: &Value,
    kind: &Kind,
    cache: &Cache,
    selects: &(dyn Fn(&Value) -> bool + Sync),
) -> Result<Vec<Arc<Value>>, ClientError> {
    let uid = object::uid(owner);
    let namespace = object::namespace(owner).unwrap_or_default();
    let terminating = object::is_terminating(owner);
    let mut claimed = Vec::new();
    for object in cache.owned_by(uid) {
        let controlled = object::controller(&object).is_some_and(|one| one["uid"] == uid);
        let here = object::namespace(&object) == Some(namespace);
        if !controlled || !here {
            continue;
        }
        if selects(&object) {
            claimed.push(object);
        } else if !terminating {
            release(context, kind, &object, uid).await?;
        }
    }
    if terminating {
        return Ok(claimed);
    }
    let mut checked = false;
    for object in cache.uncontrolled(namespace) {
        if !selects(&object) || object::is_terminating(&object) {
            continue;
        }
        // The cache may not know yet that the owner is being deleted, or is another of its name.
        if !checked {
            let client = context.client();
            let found =
                client.get(&controller.resource, Some(namespace), object::name(owner)).await;
            match unless_gone(found)? {
                Some(live) if object::uid(&live) == uid && !object::is_terminating(&live) => {}
                _ => return Ok(claimed),
            }
            checked = true;
        }
        if adopt(context, controller, owner, kind, &object).await? {
            claimed.push(object);
        }
    }
    Ok(claimed)
}

async fn adopt(
    context: &Context,
    controller: &Owner,
    owner: &Value,
    kind: &Kind,
    object: &Value,
) -> Result<bool, ClientError> {
    let reference = controller_reference(owner, controller.api_version, controller.kind);
    let mut owners = object::list(object, "metadata.ownerReferences").to_vec();
    owners.retain(|one| one["uid"] != reference["uid"]);
    owners.push(reference);
    write_owners(context, kind, object, owners).await
}

async fn release(
    context: &Context,
    kind: &Kind,
    object: &Value,
    uid: &str,
) -> Result<(), ClientError> {
    let mut owners = object::list(object, "metadata.ownerReferences").to_vec();
    owners.retain(|one| one["uid"] != uid);
    write_owners(context, kind, object, owners).await.map(drop)
}

/// Whether the object got these owners; not if it changed meanwhile.
async fn write_owners(
    context: &Context,
    kind: &Kind,
    object: &Value,
    owners: Vec<Value>,
) -> Result<bool, ClientError> {
    let metadata = &object["metadata"];
    let patch = Patch::Merge(json!({"metadata": {
        "uid": metadata["uid"],
        "resourceVersion": metadata["resourceVersion"],
        "ownerReferences": owners,
    }}));
    let (namespace, name) = (object::namespace(object), object::name(object));
    let patched = context.client().patch(kind, namespace, name, Target::Main, patch).await;
    Ok(unless_gone(patched)?.is_some())
}
