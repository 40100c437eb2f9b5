//! Patches of every kind, of objects of every kind.

use bulkhead_api_server::body::Body;
use bulkhead_api_server::options::FieldValidation;
use bulkhead_api_server::patch::Patch;
use bulkhead_api_server::validation::Validation;
use bulkhead_api_server::{kinds, resource::Registry};
use serde_json::{Value, json};

use super::Script;
use super::values::{Manner, anything, of_shape, string};

thread_local! {
    static REGISTRY: Registry = kinds::registry();
}

/// A JSON patch, of paths that mostly lead somewhere in `object`.
pub(super) fn json_patch(script: &mut Script<'_>, object: &Value) -> Value {
    let operations = ["add", "remove", "replace", "move", "copy", "test"];
    let mut patch = Vec::new();
    for _ in 0..=script.below(6) {
        let (path, from) = (path(script, object), path(script, object));
        let operation = *script.choose(&operations);
        patch.push(
            json!({"op": operation, "path": path, "from": from, "value": anything(script, 4)}),
        );
    }
    patch.into()
}

/// A JSON pointer.
fn path(script: &mut Script<'_>, object: &Value) -> String {
    let (mut path, mut at) = (String::new(), object);
    for _ in 0..script.below(8) {
        let step = match at {
            Value::Object(map) if !map.is_empty() => {
                let index = script.below(map.len());
                map.keys().nth(index).cloned().unwrap_or_default()
            }
            Value::Array(list) if !list.is_empty() => script.below(list.len()).to_string(),
            _ => ["-", "0", "", "~"][script.below(4)].into(),
        };
        path.push('/');
        path.push_str(&step.replace('~', "~0").replace('/', "~1"));
        at = at.get(&step).or_else(|| at.get(step.parse::<usize>().ok()?)).unwrap_or(&Value::Null);
    }
    if script.once_in(16) { string(script) } else { path }
}

/// Patches what `bytes` say.
pub fn drive(bytes: &[u8]) {
    let mut script = Script::new(bytes);
    let resources: Vec<_> = REGISTRY.with(|registry| registry.iter().collect());
    let resource = script.choose(&resources);
    let shape = resource.schema();
    let object = of_shape(&mut script, shape.as_ref(), Manner::Object);
    if !object.is_object() {
        return;
    }
    let kind = script.below(4);
    let mut like = |manner| of_shape(&mut script, shape.as_ref(), manner);
    let (merge, strategic) =
        ("application/merge-patch+json", "application/strategic-merge-patch+json");
    // What says what is to be, rather than what is to happen, does nothing the second time.
    let (media_type, value, settles) = match kind {
        0 => ("application/json-patch+json", json_patch(&mut script, &object), false),
        1 => (merge, like(Manner::Patch), true),
        2 => (strategic, like(Manner::Object), true),
        _ => (strategic, like(Manner::Patch), false),
    };
    let body = Body { value, duplicates: Vec::new() };
    let Ok(patch) = Patch::parse(media_type, body) else { return };
    let mut validation = Validation::new(FieldValidation::Ignore, resource, None);
    let Ok(patched) = patch.apply(&mut validation, &object) else { return };
    if settles {
        let again = patch.apply(&mut validation, &patched).unwrap();
        assert_eq!(again, patched, "{media_type} applied twice");
    }
}
