//! Patches: RFC 6902 (JSON patch), RFC 7396 (merge patch) and Kubernetes' strategic merge.

mod strategic;

use serde_json::Value;

use crate::resource::Resource;
use crate::status::{Result, Status};

/// A JSON patch has at most so many operations.
const MAX_OPERATIONS: usize = 10_000;

/// A parsed patch.
#[derive(Debug)]
pub enum Patch {
    /// RFC 6902.
    Json(json_patch::Patch),
    /// RFC 7396.
    Merge(Value),
    /// Strategic merge.
    Strategic(Value),
}

impl Patch {
    /// The patch of a body by its media type.
    ///
    /// # Errors
    /// `UnsupportedMediaType` for a type that is not a patch's, `BadRequest` for a wrong body.
    pub fn parse(media_type: &str, body: Value) -> Result<Self> {
        match media_type {
            "application/json-patch+json" => {
                let patch: json_patch::Patch = serde_json::from_value(body)
                    .map_err(|error| Status::bad_request(format!("the JSON patch: {error}")))?;
                if patch.0.len() > MAX_OPERATIONS {
                    let message = format!(
                        "The allowed maximum operations in a JSON patch is {MAX_OPERATIONS}, got {}",
                        patch.0.len()
                    );
                    return Err(Status::too_large(MAX_OPERATIONS).with_message(message));
                }
                Ok(Self::Json(patch))
            }
            _ if !body.is_object() => Err(Status::bad_request("the patch is not an object")),
            "application/merge-patch+json" => Ok(Self::Merge(body)),
            "application/strategic-merge-patch+json" => Ok(Self::Strategic(body)),
            "application/apply-patch+yaml" => {
                Err(Status::unsupported_media_type("server-side apply is not supported yet"))
            }
            other => Err(Status::unsupported_media_type(format!(
                "the body of the request was in an unknown format - accepted media types include: \
                 application/json-patch+json, application/merge-patch+json, \
                 application/strategic-merge-patch+json; got {other}"
            ))),
        }
    }

    /// What the patch makes of `object`.
    ///
    /// # Errors
    /// `Invalid` if it cannot be applied.
    pub fn apply(&self, resource: &Resource, object: &Value) -> Result<Value> {
        let mut patched = object.clone();
        match self {
            Self::Json(patch) => json_patch::patch(&mut patched, patch).map_err(|error| {
                let name = crate::object::name(object);
                Status::invalid(resource.group, resource.kind, name, Vec::new())
                    .with_message(error.to_string())
            })?,
            Self::Merge(patch) => json_patch::merge(&mut patched, patch),
            Self::Strategic(patch) => {
                strategic::merge(&mut patched, patch, resource.schema().as_ref())
                    .map_err(|error| Status::bad_request(error.to_string()))?
            }
        }
        Ok(patched)
    }
}
