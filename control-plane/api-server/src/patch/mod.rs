//! Patches: RFC 6902 (JSON patch), RFC 7396 (merge patch) and Kubernetes' strategic merge.

mod json;
mod strategic;

use json::JsonPatch;
use serde_json::Value;

use crate::body::Body;
use crate::status::{Result, Status};
use crate::validation::Validation;

/// A parsed patch.
#[derive(Debug)]
pub struct Patch {
    change: Change,
    /// Fields that the patch says twice.
    duplicates: Vec<String>,
}

/// What a patch does.
#[derive(Debug)]
enum Change {
    /// RFC 6902.
    Json(JsonPatch),
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
    pub fn parse(media_type: &str, body: Body) -> Result<Self> {
        let Body { value, duplicates } = body;
        let change = match media_type {
            "application/json-patch+json" => Change::Json(JsonPatch::parse(value)?),
            _ if !value.is_object() => {
                return Err(Status::bad_request("the patch is not an object"));
            }
            "application/merge-patch+json" => Change::Merge(value),
            "application/strategic-merge-patch+json" => Change::Strategic(value),
            other => {
                return Err(Status::unsupported_media_type(format!(
                    "the body of the request was in an unknown format - accepted media types \
                     include: application/json-patch+json, application/merge-patch+json, \
                     application/strategic-merge-patch+json; got {other}"
                )));
            }
        };
        Ok(Self { change, duplicates })
    }

    /// What the patch makes of `object`, which `validation` checks.
    ///
    /// # Errors
    /// `Invalid` or `BadRequest` if it cannot be applied.
    pub fn apply(&self, validation: &mut Validation, object: &Value) -> Result<Value> {
        let mut patched = object.clone();
        match &self.change {
            Change::Json(patch) => patch.apply(&mut patched)?,
            Change::Merge(patch) => json_patch::merge(&mut patched, patch),
            Change::Strategic(patch) => strategic::merge(&mut patched, patch, validation.shape())
                .map_err(|error| Status::bad_request(error.to_string()))?,
        }
        validation.patched(&self.duplicates, &patched)?;
        Ok(patched)
    }
}
