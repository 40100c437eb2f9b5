//! JSON patches, <https://www.rfc-editor.org/rfc/rfc6902>, within bounds: a few operations that copy
//! an object into itself would else make it as large and as deep as they like.

use json_patch::PatchOperation;
use serde_json::Value;

use crate::body::MAX_BODY;
use crate::object;
use crate::status::{Result, Status};

/// A patch has at most so many operations.
const MAX_OPERATIONS: usize = 10_000;

/// A patch.
#[derive(Debug)]
pub(super) struct JsonPatch(json_patch::Patch);

impl JsonPatch {
    /// The patch that a body writes.
    ///
    /// # Errors
    /// `BadRequest` if it is none, `RequestEntityTooLarge` if it has too many operations.
    pub(super) fn parse(value: Value) -> Result<Self> {
        let patch: json_patch::Patch = serde_json::from_value(value)
            .map_err(|error| Status::bad_request(format!("the JSON patch: {error}")))?;
        if patch.0.len() > MAX_OPERATIONS {
            let message = format!(
                "The allowed maximum operations in a JSON patch is {MAX_OPERATIONS}, got {}",
                patch.0.len()
            );
            return Err(Status::too_large(MAX_OPERATIONS).with_message(message));
        }
        Ok(Self(patch))
    }

    /// Patches `object`, which is good for nothing if that fails.
    ///
    /// # Errors
    /// `Invalid` if an operation cannot be done; `RequestEntityTooLarge` if they copy more than a
    /// body may have, `BadRequest` if they nest values deeper than a body may.
    pub(super) fn apply(&self, object: &mut Value) -> Result<()> {
        let (kind, name) =
            (object::text(object, "kind").to_owned(), object::name(object).to_owned());
        let mut copied = 0;
        for (index, operation) in self.0.iter().enumerate() {
            let (path, value) = match operation {
                PatchOperation::Add(add) => (&add.path, Some(&add.value)),
                PatchOperation::Replace(replace) => (&replace.path, Some(&replace.value)),
                PatchOperation::Copy(copy) => (&copy.path, object.pointer(copy.from.as_str())),
                PatchOperation::Move(moved) => (&moved.path, object.pointer(moved.from.as_str())),
                PatchOperation::Remove(remove) => (&remove.path, None),
                PatchOperation::Test(test) => (&test.path, None),
            };
            if let Some(value) = value {
                let above = path.as_str().matches('/').count();
                let Some(left) = object::MAX_DEPTH.checked_sub(above) else { return Err(deep()) };
                if object::is_deeper(value, left) {
                    return Err(deep());
                }
                if matches!(operation, PatchOperation::Copy(_)) {
                    copied += size(value);
                }
            }
            if copied > MAX_BODY {
                let message = format!("the JSON patch copies more than {MAX_BODY} bytes");
                return Err(Status::too_large(MAX_BODY).with_message(message));
            }
            let done = json_patch::patch_unsafe(object, std::slice::from_ref(operation));
            done.map_err(|mut error| {
                error.operation = index;
                Status::invalid("", &kind, &name, Vec::new()).with_message(error.to_string())
            })?;
        }
        Ok(())
    }
}

fn deep() -> Status {
    Status::bad_request("the JSON patch nests values too deep")
}

/// About how many bytes a value takes.
fn size(value: &Value) -> usize {
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => 8,
        Value::String(text) => text.len() + 8,
        Value::Array(list) => list.iter().map(size).sum::<usize>() + 8,
        Value::Object(fields) => {
            fields.iter().map(|(name, value)| name.len() + 8 + size(value)).sum::<usize>() + 8
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn patched(operations: Value) -> Result<Value> {
        let mut object = json!({"metadata": {"name": "m"}, "data": {"a": "aaaaaaaaaaaaaaaa"}});
        JsonPatch::parse(operations)?.apply(&mut object)?;
        Ok(object)
    }

    #[test]
    fn operations_are_done_in_order() {
        let operations = json!([
            {"op": "test", "path": "/metadata/name", "value": "m"},
            {"op": "copy", "from": "/data/a", "path": "/data/b"},
            {"op": "remove", "path": "/data/a"},
            {"op": "move", "from": "/data/b", "path": "/data/c"},
        ]);
        assert_eq!(patched(operations).unwrap()["data"], json!({"c": "aaaaaaaaaaaaaaaa"}));
        let wrong =
            json!([{"op": "remove", "path": "/data/a"}, {"op": "remove", "path": "/data/a"}]);
        let refused = patched(wrong).unwrap_err();
        assert_eq!(refused.code, 422);
        assert!(refused.message.contains("/1"), "{refused}");
    }

    #[test]
    fn copies_do_not_grow_without_bound() {
        let doubling = json!([{"op": "copy", "from": "/data", "path": "/data/b"}]);
        let all: Vec<Value> = (0..60)
            .map(|index| json!({"op": "copy", "from": "/data", "path": format!("/x{index}")}))
            .flat_map(|copy| [copy.clone(), json!({"op": "copy", "from": copy["path"], "path": format!("/data/{}", copy["path"].as_str().unwrap().trim_start_matches('/'))})])
            .collect();
        assert_eq!(patched(all.into()).unwrap_err().code, 413);
        assert!(patched(doubling).is_ok());
        // Each copies the whole into its innermost place.
        let deeper: Vec<Value> = (0..400)
            .map(|index| json!({"op": "copy", "from": "/data", "path": format!("/data{}", "/a".repeat(index + 1))}))
            .collect();
        assert_eq!(patched(deeper.into()).unwrap_err().code, 400);
    }
}
