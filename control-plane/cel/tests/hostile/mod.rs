//! Any text as a rule. The property tests beside this directory and the fuzz target `rules` drive it.

#![allow(unreachable_pub, reason = "the fuzz targets' crate makes this module public")]

use std::collections::BTreeMap;
use std::sync::Arc;

use bulkhead_cel::{
    Budget, Expected, Field, ListType, ObjectType, Program, Topology, Type, escape,
};
use serde_json::{Value, json};

/// An object of these fields.
pub fn object(name: &str, fields: Vec<(&str, Type)>) -> Type {
    let fields = fields
        .into_iter()
        .map(|(name, ty)| (escape(name).unwrap(), Field { name: name.into(), ty }));
    let fields: BTreeMap<String, Field> = fields.collect();
    Type::Object(Arc::new(ObjectType { name: name.into(), fields }))
}

fn list(element: Type, topology: Topology) -> Type {
    Type::List(Arc::new(ListType { element, topology }))
}

/// The type of the object that rules are about.
pub fn self_type() -> Type {
    let part = object("part", vec![("name", Type::String), ("size", Type::Int)]);
    object(
        "object",
        vec![
            ("min", Type::Int),
            ("max", Type::Int),
            ("ratio", Type::Double),
            ("name", Type::String),
            ("on", Type::Bool),
            ("names", Type::list(Type::String)),
            ("numbers", Type::list(Type::Int)),
            ("set", list(Type::String, Topology::Set)),
            ("parts", list(part.clone(), Topology::Map(vec!["name".into()]))),
            ("part", part),
            ("labels", Type::map(Type::String, Type::String)),
            ("port", Type::Dyn),
            ("since", Type::Timestamp),
            ("timeout", Type::Duration),
            ("data", Type::Bytes),
            ("x-y", Type::Int),
            ("namespace", Type::String),
        ],
    )
}

/// Such an object.
pub fn example() -> Value {
    json!({
        "min": 1, "max": 3, "ratio": 0.5, "name": "web-1", "on": true,
        "names": ["a", "b", "c"], "numbers": [1, 2, 3], "set": ["x", "y"],
        "parts": [{"name": "p", "size": 1}, {"name": "q", "size": 2}], "part": {"name": "p"},
        "labels": {"app": "web", "tier": "front"}, "port": "http",
        "since": "2024-02-29T12:30:00Z", "timeout": "1m30s", "data": "aGk=", "x-y": 7,
        "namespace": "n",
    })
}

/// Compiles `text` as a rule and as a message, and runs it within its budget: it comes to the same
/// every time.
pub fn drive(text: &str) {
    let (ty, object) = (self_type(), example());
    for (expected, optional) in [(Expected::Bool, false), (Expected::String, true)] {
        let Ok(program) = Program::compile(text, &ty, optional, expected) else { continue };
        let old = program.uses_old_self().then_some(&object);
        let run = || {
            let budget = Budget::new();
            match expected {
                Expected::Bool => {
                    program.holds(&object, old, &budget).map(|holds| holds.to_string())
                }
                Expected::String => program.text(&object, old, &budget),
            }
        };
        assert_eq!(run(), run(), "{text}");
    }
}
