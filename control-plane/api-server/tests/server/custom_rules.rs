//! What definitions of custom resources say about values: rules in CEL, lists without duplicates,
//! defaults, and what objects are selected by.

use crate::common::{Client, Cluster, Lines};
use serde_json::{Value, json};

const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const GADGETS: &str = "/apis/example.com/v1/namespaces/default/gadgets";
const MERGE: &str = "application/merge-patch+json";

/// The definition of a kind whose `spec` is of this schema.
fn definition(spec: &Value) -> Value {
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "gadgets.example.com"},
        "spec": {
            "group": "example.com", "scope": "Namespaced",
            "names": {"plural": "gadgets", "kind": "Gadget"},
            "versions": [{"name": "v1", "served": true, "storage": true,
                "selectableFields": [{"jsonPath": ".spec.color"}],
                "schema": {"openAPIV3Schema": {"type": "object", "properties": {"spec": spec}}}}],
        },
    })
}

fn spec() -> Value {
    json!({
        "type": "object",
        "x-kubernetes-validations": [
            {"rule": "self.min <= self.max", "messageExpression": "'min is ' + string(self.min)"},
            {"rule": "!has(self.color) || self.color != 'none'", "reason": "FieldValueForbidden",
                "fieldPath": ".color", "message": "not this one"},
            {"rule": "!has(oldSelf.color) || has(self.color)", "message": "color stays"},
        ],
        "properties": {
            "min": {"type": "integer", "default": 0}, "max": {"type": "integer", "default": 9},
            "color": {"type": "string", "x-kubernetes-validations": [{"rule": "self == oldSelf || oldSelf == 'red'"}]},
            "names": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}},
            "parts": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"],
                "items": {"type": "object", "required": ["name"], "properties": {
                    "name": {"type": "string"}, "size": {"type": "integer", "x-kubernetes-validations": [
                        {"rule": "self >= oldSelf", "message": "parts do not shrink"}]}}}},
            "numbers": {"type": "array", "items": {"type": "integer"}, "x-kubernetes-validations": [
                {"rule": "self.all(a, self.all(b, self.all(c, a + b + c >= 0)))"}]},
            "inner": {"type": "object", "x-kubernetes-embedded-resource": true,
                "x-kubernetes-preserve-unknown-fields": true},
            "port": {"x-kubernetes-int-or-string": true, "x-kubernetes-validations": [
                {"rule": "type(self) == int ? self > 0 : self.size() > 0"}]},
        },
    })
}

fn gadget(name: &str, spec: Value) -> Value {
    json!({"metadata": {"name": name}, "spec": spec})
}

/// The fields and messages of what is wrong.
fn causes(status: &Value) -> Vec<(&str, &str)> {
    let causes = status["details"]["causes"].as_array().into_iter().flatten();
    causes.map(|one| (one["field"].as_str().unwrap(), one["message"].as_str().unwrap())).collect()
}

async fn patch(client: &mut Client, spec: Value) -> (u16, Value) {
    client.typed("PATCH", &format!("{GADGETS}/g"), MERGE, &json!({"spec": spec})).await
}

#[tokio::test]
async fn rules_hold_of_objects() {
    let cluster = Cluster::start();
    let mut client = cluster.admin().await;
    client.ok("POST", DEFINITIONS, &definition(&spec())).await;
    for (wrong, expected) in [
        (json!({"min": 3, "max": 2}), vec![("spec", "Invalid value: \"object\": min is 3")]),
        (json!({"color": "none"}), vec![("spec.color", "Forbidden: not this one")]),
        (
            json!({"port": 0}),
            vec![(
                "spec.port",
                "Invalid value: \"integer or string\": failed rule: type(self) == int ? self > 0 : self.size() > 0",
            )],
        ),
        (
            json!({"names": ["a", "b", "a"]}),
            vec![
                ("spec.names[2]", "Duplicate value: \"a\""),
                (
                    "<nil>",
                    "Invalid value: null: some validation rules were not checked because the object was invalid; correct the existing errors to complete validation",
                ),
            ],
        ),
    ] {
        let (code, status) = client.json("POST", GADGETS, &gadget("x", wrong)).await;
        assert_eq!((code, causes(&status)), (422, expected), "{status}");
    }
    for (wrong, field) in [
        (json!({"parts": [{"name": "a"}, {"name": "b"}, {"name": "a"}]}), "spec.parts[2]"),
        (json!({"inner": {"kind": "Pod"}}), "spec.inner.apiVersion"),
    ] {
        let (code, status) = client.json("POST", GADGETS, &gadget("x", wrong)).await;
        assert_eq!((code, causes(&status)[0].0), (422, field), "{status}");
    }
    // A rule that would take a billion steps is given up, and the server answers others meanwhile.
    let numbers: Vec<u32> = (0..1000).collect();
    let (code, status) =
        client.json("POST", GADGETS, &gadget("x", json!({"numbers": numbers}))).await;
    assert_eq!((code, causes(&status)[0].0), (422, "spec.numbers"), "{status}");
    assert!(causes(&status)[0].1.contains("call cost exceeds limit for rule"), "{status}");

    // Rules about changes are asked about what was there.
    let parts = json!([{"name": "a", "size": 2}, {"name": "b", "size": 5}]);
    let made = gadget("g", json!({"color": "red", "parts": parts, "port": "http"}));
    let made = client.ok("POST", GADGETS, &made).await;
    assert_eq!((&made["spec"]["min"], &made["spec"]["max"]), (&json!(0), &json!(9)));
    assert_eq!(patch(&mut client, json!({"color": "blue"})).await.0, 200);
    let (code, status) = patch(&mut client, json!({"color": "green"})).await;
    assert_eq!((code, causes(&status)[0].0), (422, "spec.color"), "{status}");
    let (code, status) = patch(&mut client, json!({"color": null})).await;
    assert_eq!(causes(&status), [("spec", "Invalid value: \"object\": color stays")], "{code}");
    // Elements are known again by their keys, wherever they are.
    let parts =
        json!([{"name": "b", "size": 4}, {"name": "c", "size": 0}, {"name": "a", "size": 2}]);
    let (code, status) = patch(&mut client, json!({"parts": parts})).await;
    let expected = [("spec.parts[0].size", "Invalid value: \"integer\": parts do not shrink")];
    assert_eq!((code, causes(&status)), (422, expected.to_vec()), "{status}");
    let apply = json!({"apiVersion": "example.com/v1", "kind": "Gadget", "metadata": {"name": "g"}, "spec": {"min": 10}});
    let path = format!("{GADGETS}/g?fieldManager=one&force=true");
    let (code, status) = client.typed("PATCH", &path, "application/apply-patch+yaml", &apply).await;
    assert_eq!(
        (code, causes(&status)[0].1),
        (422, "Invalid value: \"object\": min is 10"),
        "{status}"
    );
}

#[tokio::test]
async fn rules_that_cannot_be_are_refused() {
    let cluster = Cluster::start();
    let mut client = cluster.admin().await;
    let base = "spec.versions[0].schema.openAPIV3Schema.properties[spec]";
    let list = |list: &str, rule: &str| {
        json!({"type": "object", "properties": {"l": {"type": "array", "x-kubernetes-list-type": list,
            "items": {"type": "string", "x-kubernetes-validations": [{"rule": rule}]}}}})
    };
    let rule = |rule: Value| json!({"type": "object", "properties": {"size": {"type": "integer"}}, "x-kubernetes-validations": [rule]});
    for (schema, field, message) in [
        (
            rule(json!({"rule": "self.sise > 1"})),
            "x-kubernetes-validations[0].rule",
            "compilation failed: ERROR: <input>:1:5: undefined field 'sise'\n | self.sise > 1\n | ....^",
        ),
        (
            rule(json!({"rule": "self.size"})),
            "x-kubernetes-validations[0].rule",
            "must evaluate to a bool",
        ),
        (
            rule(json!({"rule": "self.size.secret()"})),
            "x-kubernetes-validations[0].rule",
            "undeclared reference to 'secret'",
        ),
        (rule(json!({"rule": ""})), "x-kubernetes-validations[0].rule", "rule is not specified"),
        (
            rule(json!({"rule": "true", "reason": "Whim"})),
            "x-kubernetes-validations[0].reason",
            "supported values",
        ),
        (
            rule(json!({"rule": "true", "fieldPath": ".none"})),
            "x-kubernetes-validations[0].fieldPath",
            "valid path",
        ),
        (
            rule(json!({"rule": "true", "messageExpression": "self.size"})),
            "x-kubernetes-validations[0].messageExpression",
            "must evaluate to a string",
        ),
        (
            rule(json!({"rule": "true", "optionalOldSelf": true})),
            "x-kubernetes-validations[0].optionalOldSelf",
            "oldSelf is not used",
        ),
        (
            list("set", "self == oldSelf"),
            "properties[l].items.x-kubernetes-validations[0].rule",
            "uncorrelatable",
        ),
        (
            json!({"type": "object", "properties": {"a": {"type": "integer", "default": "x"}}}),
            "properties[a].default",
            "must be of type integer",
        ),
        (
            json!({"type": "object", "properties": {"a": {"type": "array", "items": {"type": "object", "properties": {"n": {"type": "string"}}}, "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["n"]}}}),
            "properties[a].items.properties[n].default",
            "must have a default or be a required property",
        ),
    ] {
        let (code, status) = client.json("POST", DEFINITIONS, &definition(&schema)).await;
        let causes = causes(&status);
        let found = causes.iter().find(|(at, _)| *at == format!("{base}.{field}"));
        assert!(
            code == 422 && found.is_some_and(|(_, why)| why.contains(message)),
            "{field}: {status}"
        );
    }
}

#[tokio::test]
async fn defaults_and_selectors_reach_what_is_stored() {
    let cluster = Cluster::start();
    let mut client = cluster.admin().await;
    let path = format!("{DEFINITIONS}/gadgets.example.com");
    let mut plain = spec();
    plain["properties"]["max"] = json!({"type": "integer"});
    plain.as_object_mut().unwrap().remove("x-kubernetes-validations");
    let mut first = definition(&plain);
    first["spec"]["versions"][0].as_object_mut().unwrap().remove("selectableFields");
    client.ok("POST", DEFINITIONS, &first).await;
    for (name, color) in [("r", "red"), ("b", "blue")] {
        let made = client.ok("POST", GADGETS, &gadget(name, json!({"color": color}))).await;
        assert_eq!(made["spec"].get("max"), None);
    }
    let (code, status) = client.get(&format!("{GADGETS}?fieldSelector=spec.color%3Dred")).await;
    assert_eq!(code, 400, "{status}");

    // A default that comes later is a default of what is there.
    let update = json!({"spec": definition(&spec())["spec"]});
    let (code, status) = client.typed("PATCH", &path, MERGE, &update).await;
    assert_eq!(code, 200, "{status}");
    assert_eq!(client.get(&format!("{GADGETS}/r")).await.1["spec"]["max"], 9);
    let (code, list) = client.get(&format!("{GADGETS}?fieldSelector=spec.color%3Dred")).await;
    assert_eq!((code, list["items"].as_array().unwrap().len()), (200, 1), "{list}");
    assert_eq!(list["items"][0]["spec"]["max"], 9);
    let all = client.get(GADGETS).await.1;
    assert!(all["items"].as_array().unwrap().iter().all(|one| one["spec"]["max"] == 9), "{all}");
    let version = all["metadata"]["resourceVersion"].as_str().unwrap();
    let watch =
        format!("{GADGETS}?watch=1&fieldSelector=spec.color%3Dred&resourceVersion={version}");
    let mut red = Lines::open(&mut cluster.admin().await, &watch).await;
    // An object that changes its color comes and goes.
    let blue = format!("{GADGETS}/r");
    client.typed("PATCH", &blue, MERGE, &json!({"spec": {"color": "blue"}})).await;
    let event = red.next().await;
    assert_eq!(
        (&event["type"], &event["object"]["metadata"]["name"]),
        (&json!("DELETED"), &json!("r"))
    );

    // Versions go only when nothing is stored in them.
    let mut renamed = update.clone();
    renamed["spec"]["versions"][0]["name"] = "v2".into();
    let (code, status) = client.typed("PATCH", &path, MERGE, &renamed).await;
    assert_eq!((code, causes(&status)[0].0), (422, "status.storedVersions[0]"), "{status}");

    let (code, _) = client
        .json("DELETE", &format!("{GADGETS}?fieldSelector=spec.color%3Dblue"), &Value::Null)
        .await;
    assert_eq!((code, client.get(GADGETS).await.1["items"].as_array().unwrap().len()), (200, 0));
}
