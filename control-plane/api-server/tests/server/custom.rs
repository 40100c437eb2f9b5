//! Custom resources, with a real kubectl where that says most.

use std::process::Command;

use crate::common::{Client, Cluster, until};
use serde_json::{Value, json};

const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const WIDGETS: &str = "/apis/example.com/v1/namespaces/default/widgets";

fn definition() -> Value {
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "widgets.example.com"},
        "spec": {
            "group": "example.com", "scope": "Namespaced",
            "names": {"plural": "widgets", "kind": "Widget", "shortNames": ["wd"], "categories": ["all"]},
            "versions": [
                {"name": "v1", "served": true, "storage": true,
                 "schema": {"openAPIV3Schema": {
                    "type": "object", "description": "A widget is an example.", "required": ["spec"],
                    "properties": {
                        "spec": {"type": "object", "properties": {
                            "size": {"type": "integer", "minimum": 1, "description": "How large it is."},
                            "mode": {"type": "string", "default": "fast"},
                            "parts": {"type": "array", "x-kubernetes-list-type": "map",
                                "x-kubernetes-list-map-keys": ["name"],
                                "items": {"type": "object", "required": ["name"], "properties": {
                                    "name": {"type": "string"}, "value": {"type": "string"}}}},
                        }},
                        "status": {"type": "object", "properties": {"ready": {"type": "boolean"}, "size": {"type": "integer"}}},
                    },
                 }},
                 "subresources": {"status": {}, "scale": {
                    "specReplicasPath": ".spec.size", "statusReplicasPath": ".status.size"}},
                 "additionalPrinterColumns": [
                    {"name": "Size", "type": "integer", "jsonPath": ".spec.size"},
                    {"name": "Mode", "type": "string", "jsonPath": ".spec.mode", "priority": 1}]},
                {"name": "v1beta1", "served": true, "storage": false,
                 "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}},
            ],
        },
    })
}

fn widget(name: &str, spec: Value) -> Value {
    json!({"apiVersion": "example.com/v1", "kind": "Widget", "metadata": {"name": name}, "spec": spec})
}

async fn define(client: &mut Client) {
    let made = client.ok("POST", DEFINITIONS, &definition()).await;
    let conditions = made["status"]["conditions"].as_array().unwrap();
    assert!(conditions.iter().any(|one| one["type"] == "Established" && one["status"] == "True"));
    assert_eq!(made["status"]["storedVersions"], json!(["v1"]));
    assert_eq!(made["spec"]["names"]["listKind"], "WidgetList");
}

#[tokio::test]
async fn objects_are_kept_as_their_schema_says() {
    let mut cluster = Cluster::start();
    let mut client = cluster.admin().await;
    assert_eq!(client.get(WIDGETS).await.0, 404);
    define(&mut client).await;

    let made = client.ok("POST", WIDGETS, &widget("w", json!({"size": 1, "other": true}))).await;
    assert_eq!(made["spec"], json!({"size": 1, "mode": "fast"}));
    assert_eq!(made["metadata"]["generation"], 1);
    for (wrong, field) in [
        (widget("x", json!({"size": 0})), "spec.size"),
        (widget("x", json!({"size": "1"})), "spec.size"),
        (widget("x", json!({"parts": [{}]})), "spec.parts[0].name"),
        (
            json!({"apiVersion": "example.com/v1", "kind": "Widget", "metadata": {"name": "x"}}),
            "spec",
        ),
    ] {
        let (code, status) = client.json("POST", WIDGETS, &wrong).await;
        let found = &status["details"]["causes"][0]["field"];
        assert_eq!((code, found), (422, &json!(field)), "{status}");
    }
    let strict = format!("{WIDGETS}?fieldValidation=Strict");
    let (code, status) = client.json("POST", &strict, &widget("x", json!({"other": true}))).await;
    assert_eq!(code, 400, "{status}");
    assert!(status["message"].as_str().unwrap().ends_with("unknown field \"spec.other\""));

    // The status has a place of its own, and the scale is a view.
    let path = format!("{WIDGETS}/w");
    let merge = "application/merge-patch+json";
    let patch = json!({"spec": {"size": 2}, "status": {"ready": true}});
    let (_, patched) = client.typed("PATCH", &path, merge, &patch).await;
    assert_eq!((&patched["spec"]["size"], patched.get("status")), (&json!(2), None));
    let (_, patched) = client
        .typed("PATCH", &format!("{path}/status"), merge, &json!({"status": {"size": 2}}))
        .await;
    assert_eq!(patched["metadata"]["generation"], 2, "{patched}");
    let (_, scale) = client.get(&format!("{path}/scale")).await;
    assert_eq!((&scale["spec"]["replicas"], &scale["status"]["replicas"]), (&json!(2), &json!(2)));

    // Applies merge lists by the schema's keys.
    let apply = "application/apply-patch+yaml";
    for (manager, part) in [("one", "a"), ("two", "b")] {
        let config = widget("w", json!({"parts": [{"name": part, "value": "1"}]}));
        let path = format!("{path}?fieldManager={manager}");
        let (code, answer) = client.typed("PATCH", &path, apply, &config).await;
        assert_eq!(code, 200, "{answer}");
    }
    let (_, now) = client.get(&path).await;
    assert_eq!(now["spec"]["parts"].as_array().unwrap().len(), 2);

    let (_, other) = client.get("/apis/example.com/v1beta1/namespaces/default/widgets/w").await;
    assert_eq!(
        (&other["apiVersion"], &other["spec"]),
        (&json!("example.com/v1beta1"), &now["spec"])
    );

    cluster.kill();
    cluster.restart();
    let mut client = cluster.admin().await;
    assert_eq!(client.get(&path).await.1["spec"], now["spec"]);

    // A definition takes its objects along.
    let deleted =
        client.ok("DELETE", &format!("{DEFINITIONS}/widgets.example.com"), &Value::Null).await;
    assert!(deleted["metadata"]["deletionTimestamp"].is_string(), "{deleted}");
    let gone = format!("{DEFINITIONS}/widgets.example.com");
    until(&mut client, &gone, |answer| answer["code"] == 404).await;
    assert_eq!(client.get(WIDGETS).await.0, 404);
    define(&mut client).await;
    assert_eq!(client.get(WIDGETS).await.1["items"], json!([]));
}

#[tokio::test]
async fn what_a_definition_cannot_be_is_refused() {
    let cluster = Cluster::start();
    let mut client = cluster.admin().await;
    let schema = "/spec/versions/0/schema/openAPIV3Schema";
    for (pointer, value, field) in [
        ("/metadata/name", json!("gadgets.example.com"), "metadata.name"),
        ("/spec/scope", json!("Galaxy"), "spec.scope"),
        ("/spec/versions/0/storage", json!(false), "spec.versions"),
        ("/spec/versions/1/name", json!("v1"), "spec.versions[1].name"),
        (
            &format!("{schema}/properties/spec/properties/size"),
            json!({"type": "integer", "x-kubernetes-validations": [{"rule": "self > '1'"}]}),
            "spec.versions[0].schema.openAPIV3Schema.properties[spec].properties[size].x-kubernetes-validations[0].rule",
        ),
        (
            "/spec/versions/0/additionalPrinterColumns/0/jsonPath",
            json!(".a[?(@.b>1)]"),
            "spec.versions[0].additionalPrinterColumns[0].jsonPath",
        ),
    ] {
        let mut wrong = definition();
        *wrong.pointer_mut(pointer).unwrap() = value;
        let (code, status) = client.json("POST", DEFINITIONS, &wrong).await;
        let found = &status["details"]["causes"][0]["field"];
        assert_eq!((code, found), (422, &json!(field)), "{status}");
    }
    let mut webhook = definition();
    webhook["spec"]["conversion"] = json!({"strategy": "Webhook"});
    let (code, status) = client.json("POST", DEFINITIONS, &webhook).await;
    assert!(
        code == 422 && status["message"].as_str().unwrap().contains("not supported"),
        "{status}"
    );
}

#[tokio::test]
async fn kubectl_finds_a_kind_as_soon_as_it_is_defined() {
    let cluster = Cluster::start();
    let server = format!("https://{}", cluster.address);
    let config = bulkhead_api_server::pki::kubeconfig(&cluster.pki(""), "test", &server).unwrap();
    let path = |name: &str| cluster.dir.path().join(name);
    std::fs::write(path("kubeconfig"), config).unwrap();
    let definition = serde_json::to_string(&definition()).unwrap();
    std::fs::write(path("definition.yaml"), definition).unwrap();
    let object = serde_json::to_string(&widget("w", json!({"size": 3}))).unwrap();
    std::fs::write(path("widget.yaml"), object).unwrap();
    let installed = concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/tools/kubectl-1.36");
    let binary = std::env::var_os("KUBECTL").unwrap_or_else(|| installed.into());
    let kubectl = |line: &str| {
        let output = Command::new(&binary)
            .current_dir(cluster.dir.path())
            .env("KUBECONFIG", path("kubeconfig"))
            .env("HOME", cluster.dir.path())
            .args(line.split(' '))
            .output()
            .unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "kubectl {line}: {stderr}");
        String::from_utf8(output.stdout).unwrap()
    };
    kubectl("apply -f definition.yaml");
    kubectl("wait --for=condition=Established crd/widgets.example.com --timeout=120s");
    kubectl("apply -f widget.yaml");
    kubectl("apply --server-side --force-conflicts -f widget.yaml");
    let table = kubectl("get wd");
    let rows: Vec<Vec<&str>> =
        table.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(rows, [["NAME", "SIZE"], ["w", "3"]]);
    assert!(kubectl("get widgets -o wide").contains("fast"));
    assert!(kubectl("get all").contains("widget.example.com/w"));
    let explained = kubectl("explain widget.spec.size");
    assert!(explained.contains("How large it is."), "{explained}");
    kubectl("scale widget w --replicas=5");
    assert_eq!(kubectl("get wd w -o jsonpath={.spec.size}"), "5");
    kubectl("delete -f definition.yaml --wait=true");
    assert!(!kubectl("api-resources").contains("widgets"));
}

#[tokio::test]
async fn a_kind_of_several_versions_is_served_as_kubernetes_orders_it() {
    let cluster = Cluster::start();
    let mut client = cluster.admin().await;
    let version = |name: &str| {
        json!({"name": name, "served": true, "storage": name == "v1alpha1", "schema": {
            "openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}})
    };
    let versions: Vec<Value> =
        ["v1alpha1", "v1", "v1beta1", "v10", "v2"].into_iter().map(version).collect();
    // Named as a kind that the server treats as nothing else.
    let definition = json!({
        "metadata": {"name": "realms.example.org"},
        "spec": {
            "group": "example.org", "scope": "Cluster",
            "names": {"plural": "realms", "kind": "Namespace", "listKind": "Realms"},
            "versions": versions,
        },
    });
    client.ok("POST", DEFINITIONS, &definition).await;
    let (_, group) = client.get("/apis/example.org").await;
    let names = |group: &Value| {
        let versions = group["versions"].as_array().unwrap().iter();
        versions.map(|one| one["version"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let sorted = ["v10", "v2", "v1", "v1beta1", "v1alpha1"];
    assert_eq!(
        (names(&group), &group["preferredVersion"]["version"]),
        (sorted.map(String::from).into(), &json!("v10"))
    );
    let aggregated = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
    let (_, all) = client.exchange("GET", "/apis", &[("accept", aggregated)], Vec::new()).await;
    let all = all["items"].as_array().unwrap();
    let own = all.iter().find(|group| group["metadata"]["name"] == "example.org").unwrap();
    assert_eq!(names(own), sorted);

    let realms = "/apis/example.org/v1/realms";
    let realm = json!({"metadata": {"name": "r"}, "spec": {"finalizers": ["its own affair"]}});
    client.ok("POST", realms, &realm).await;
    assert_eq!(client.get(realms).await.1["kind"], "Realms");
    let path = format!("{realms}/r");
    let (code, refused) = client.json("PUT", &path, &realm).await;
    assert_eq!(code, 422, "{refused}");
    assert_eq!(
        refused["message"],
        "realms.example.org \"r\" is invalid: metadata.resourceVersion: Invalid value: 0x0: must be specified for an update"
    );
    client.ok("DELETE", &path, &Value::Null).await;
    assert_eq!(client.get(&path).await.0, 404);
}

/// A disruption budget asks whoever controls the pods how many there should be, whatever it is.
#[tokio::test]
async fn a_budget_counts_the_pods_of_whatever_has_a_scale() {
    const PODS: &str = "/api/v1/namespaces/default/pods";
    const BUDGETS: &str = "/apis/policy/v1/namespaces/default/poddisruptionbudgets";
    let cluster = Cluster::start();
    let mut client = cluster.admin().await;
    define(&mut client).await;
    let owner = client.ok("POST", WIDGETS, &widget("w", json!({"size": 5}))).await;
    for name in ["one", "two"] {
        let mut pod = crate::common::pod(name, "1Mi");
        pod["metadata"]["labels"] = json!({"app": "w"});
        pod["metadata"]["ownerReferences"] = json!([{"apiVersion": "example.com/v1", "kind": "Widget",
            "name": "w", "uid": owner["metadata"]["uid"], "controller": true}]);
        client.ok("POST", PODS, &pod).await;
    }
    let budget = json!({"metadata": {"name": "calm"},
        "spec": {"maxUnavailable": 1, "selector": {"matchLabels": {"app": "w"}}}});
    client.ok("POST", BUDGETS, &budget).await;
    let calm = format!("{BUDGETS}/calm");
    let seen = until(&mut client, &calm, |one| one["status"]["expectedPods"] == 5).await;
    assert_eq!(seen["status"]["desiredHealthy"], 4, "{seen}");

    // Of one that nobody would replace, nothing is known.
    let mut alone = crate::common::pod("alone", "1Mi");
    alone["metadata"]["labels"] = json!({"app": "w"});
    client.ok("POST", PODS, &alone).await;
    let failed = |one: &Value| one["status"]["conditions"][0]["reason"] == "SyncFailed";
    let seen = until(&mut client, &calm, failed).await;
    let why = "found no controllers for pod \"alone\"";
    assert_eq!(seen["status"]["conditions"][0]["message"], why, "{seen}");
}
