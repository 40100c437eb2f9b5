//! Definitions of custom resources: any schema, and objects of what is accepted.

use bulkhead_api_server::schema;
use serde_json::{Value, json};

use super::Script;
use super::exercise::exercise;
use super::server::{self, JSON};
use super::values::{Manner, of_shape};

const NAME: &str = "widgets.example.com";
const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
/// Before the names of a definition's types.
const TYPES: &str = "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.";

/// Defines what `bytes` say, and does what they say with an object of it.
pub fn drive(bytes: &[u8]) {
    let mut script = Script::new(bytes);
    server::with(|server| {
        let find = |plural: &str| {
            server.resources().into_iter().find(|resource| resource.plural == plural)
        };
        if let Some(widgets) = find("widgets") {
            server.remove(&widgets, "fuzz");
        }
        server.remove(&find("customresourcedefinitions").unwrap(), NAME);
        let created = server.send_object("POST", DEFINITIONS, JSON, &definition(&mut script));
        // Who asks what there is sees it: the server has taken it in by then.
        let seen = server.get("/apis/example.com/v1");
        let Some(widgets) = find("widgets") else { return };
        assert!(created.is_ok() && seen.is_ok(), "{created:?} {seen:?}");
        exercise(server, &mut script, &widgets);
        assert!(server.get("/openapi/v3/apis/example.com/v1").is_ok());
    });
}

/// A definition.
fn definition(script: &mut Script<'_>) -> Value {
    let shape = |name: &str| schema::builtin().named(&format!("{TYPES}{name}"));
    let mut some = |name: &str| {
        let shape = shape(name);
        assert!(shape.is_some(), "{name} is not the name of a type");
        of_shape(script, shape.as_ref(), Manner::Object)
    };
    let (mut status, mut spec) = (some("JSONSchemaProps"), some("JSONSchemaProps"));
    for props in [&mut status, &mut spec].into_iter().filter(|props| props.is_object()) {
        props["type"] = "object".into();
    }
    let properties = json!({"spec": spec, "status": status});
    let mut definition = json!({"metadata": {"name": NAME}, "spec": {
        "group": "example.com",
        "scope": "Namespaced",
        "names": {"plural": "widgets", "kind": "Widget"},
        "versions": [{
            "name": "v1",
            "served": true,
            "storage": true,
            "subresources": some("CustomResourceSubresources"),
            "schema": {"openAPIV3Schema": {"type": "object", "properties": properties}},
        }],
    }});
    if script.once_in(4) {
        let shape = schema::builtin().named(&format!("{TYPES}CustomResourceDefinitionSpec"));
        definition["spec"] = of_shape(script, shape.as_ref(), Manner::Object);
    }
    definition
}
