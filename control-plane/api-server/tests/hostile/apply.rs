//! Server-side apply: two managers apply objects of a kind one after the other.

use bulkhead_api_server::managed::{Manager, Operation};
use bulkhead_api_server::{kinds, resource::Registry};
use serde_json::Value;

use super::Script;
use super::values::{Manner, of_shape};

thread_local! {
    static REGISTRY: Registry = kinds::registry();
}

fn manager(name: &str) -> Manager {
    Manager {
        name: name.into(),
        operation: Operation::Apply,
        api_version: "v1".into(),
        subresource: String::new(),
    }
}

/// `object` without what notes who owns what, and when.
fn plain(mut object: Value) -> Value {
    if let Some(metadata) = object["metadata"].as_object_mut() {
        metadata.remove("managedFields");
    }
    object
}

/// Applies what `bytes` say.
pub fn drive(bytes: &[u8]) {
    let mut script = Script::new(bytes);
    let resources: Vec<_> = REGISTRY.with(|registry| registry.iter().collect());
    let resource = script.choose(&resources);
    let shape = resource.schema();
    let scope = resource.scope(shape.as_ref());
    let mut live = Value::Null;
    for turn in 0..4 {
        let applied = of_shape(&mut script, shape.as_ref(), Manner::Object);
        if !applied.is_object() {
            continue;
        }
        let manager = manager(["one", "other"][turn % 2]);
        // Without force others' fields are conflicts, or it changes nothing of theirs.
        let gentle = scope.apply(&live, &applied, &manager, false);
        let Ok(merged) = scope.apply(&live, &applied, &manager, true) else {
            assert!(gentle.is_err(), "force is no reason to refuse");
            continue;
        };
        if let Ok(gentle) = gentle {
            assert_eq!(plain(gentle), plain(merged.clone()), "force where nothing is in its way");
        }
        // Who applies the same again changes nothing, and is in nobody's way.
        let again = scope.apply(&merged, &applied, &manager, false);
        assert_eq!(plain(again.unwrap()), plain(merged.clone()), "applied twice");
        live = merged;
    }
}
