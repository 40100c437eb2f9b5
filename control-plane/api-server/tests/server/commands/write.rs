//! Commands that make, change and delete objects.

use serde_json::{Value, json};

use crate::common::kubectl::{Kubectl, OLDER, with_each_kubectl};
use crate::common::{Client, Cluster};

with_each_kubectl!(
    objects_are_made_by_their_own_commands,
    objects_are_applied_replaced_and_edited,
    objects_are_patched_labelled_and_deleted,
);

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const MAP: &str = "{apiVersion: v1, kind: ConfigMap, metadata: {name: m}, data: {a: '1', b: '1'}}";

/// What a refused command says.
fn refused(kubectl: &Kubectl<'_>, line: &str) -> String {
    let output = kubectl.output(&line.split(' ').collect::<Vec<_>>());
    assert!(!output.status.success(), "kubectl {line}: {output:?}");
    String::from_utf8(output.stderr).unwrap()
}

async fn data(client: &mut Client, name: &str) -> Value {
    client.ok("GET", &format!("{MAPS}/{name}"), &Value::Null).await["data"].clone()
}

/// What is typed goes as protobuf; what it makes is read as JSON.
async fn objects_are_made_by_their_own_commands(version: &str) {
    let cluster = Cluster::start();
    let kubectl = Kubectl::version(version, &cluster);
    let mut client = cluster.admin().await;
    let rbac = "/apis/rbac.authorization.k8s.io/v1";
    let own = |group: &str, kind: &str| format!("{group}/namespaces/made/{kind}/x");
    for (line, path, field, expected) in [
        ("namespace made", "/api/v1/namespaces/made".into(), "/status/phase", json!("Active")),
        ("configmap x --from-literal=a=1", own("/api/v1", "configmaps"), "/data/a", json!("1")),
        (
            "secret generic x --from-literal=k=v",
            own("/api/v1", "secrets"),
            "/data/k",
            json!("dg=="),
        ),
        (
            "quota x --hard=pods=2,count/jobs.batch=3",
            own("/api/v1", "resourcequotas"),
            "/spec/hard",
            json!({"pods": "2", "count/jobs.batch": "3"}),
        ),
        ("serviceaccount x", own("/api/v1", "serviceaccounts"), "/kind", json!("ServiceAccount")),
        (
            "service clusterip x --tcp=80:8080",
            own("/api/v1", "services"),
            "/spec/ports/0",
            json!({"name": "80-8080", "port": 80, "protocol": "TCP", "targetPort": 8080}),
        ),
        (
            "deployment x --image=busybox:1 --replicas=0 --port=80",
            own("/apis/apps/v1", "deployments"),
            "/spec/template/spec/containers/0/ports/0/containerPort",
            json!(80),
        ),
        (
            "job x --image=busybox:1 -- sleep 1",
            own("/apis/batch/v1", "jobs"),
            "/spec/template/spec/containers/0/command",
            json!(["sleep", "1"]),
        ),
        (
            "cronjob x --image=busybox:1 --schedule=@yearly",
            own("/apis/batch/v1", "cronjobs"),
            "/spec/schedule",
            json!("@yearly"),
        ),
        (
            "ingress x --rule=a.example/b=s:80",
            own("/apis/networking.k8s.io/v1", "ingresses"),
            "/spec/rules/0/http/paths/0/backend/service/port/number",
            json!(80),
        ),
        (
            "poddisruptionbudget x --selector=app=web --min-available=50%",
            own("/apis/policy/v1", "poddisruptionbudgets"),
            "/spec/minAvailable",
            json!("50%"),
        ),
        (
            "priorityclass x --value=1000",
            "/apis/scheduling.k8s.io/v1/priorityclasses/x".into(),
            "/value",
            json!(1000),
        ),
        (
            "role x --verb=get --resource=pods,pods/log",
            own(rbac, "roles"),
            "/rules/0/resources",
            json!(["pods", "pods/log"]),
        ),
        (
            "rolebinding x --role=x --user=jane",
            own(rbac, "rolebindings"),
            "/subjects/0/name",
            json!("jane"),
        ),
        (
            "clusterrole x --verb=get --non-resource-url=/metrics",
            format!("{rbac}/clusterroles/x"),
            "/rules/0/nonResourceURLs/0",
            json!("/metrics"),
        ),
        (
            "clusterrolebinding x --clusterrole=x --group=devs",
            format!("{rbac}/clusterrolebindings/x"),
            "/subjects/0/kind",
            json!("Group"),
        ),
    ] {
        let namespace = if line.starts_with("namespace") { "" } else { "-n made " };
        // Behind what may follow is a command's own arguments.
        let printed = kubectl.run(&format!("{namespace}create {line}"));
        assert!(printed.ends_with(" created\n"), "{line}: {printed}");
        let object = client.ok("GET", &path, &Value::Null).await;
        assert_eq!(object.pointer(field), Some(&expected), "{line}: {object}");
    }
    let token = kubectl.run("-n made create token x --duration=1h");
    assert_eq!(token.trim().split('.').count(), 3, "a JWT");
    let said = refused(&kubectl, "-n made create serviceaccount x");
    assert!(said.contains("serviceaccounts \"x\" already exists"), "{said}");
    let made = kubectl.run("create configmap y --from-literal=a=1 --dry-run=server -o name");
    assert_eq!(made, "configmap/y\n");
    assert_eq!(client.get(&format!("{MAPS}/y")).await.0, 404, "a dry run");
    let shown = kubectl.run("create configmap y --from-literal=a=1 --dry-run=client -o yaml");
    assert!(shown.contains("data:\n  a: \"1\"\n"), "{shown}");
}

async fn objects_are_applied_replaced_and_edited(version: &str) {
    let cluster = Cluster::start();
    let kubectl = Kubectl::version(version, &cluster);
    let mut client = cluster.admin().await;
    let file = kubectl.file("m.yaml", MAP);
    let changed = kubectl.file("changed.yaml", &MAP.replace("b: '1'", "c: '2'"));
    let apply = |flags: &str, file: &str| kubectl.run(&format!("apply{flags} -f {file}"));
    assert_eq!(apply(" --dry-run=server", &file), "configmap/m created (server dry run)\n");
    assert_eq!(apply("", &file), "configmap/m created\n");
    assert_eq!(apply("", &file), "configmap/m unchanged\n");
    let difference = kubectl.output(&["diff", "-f", &changed]);
    assert_eq!(difference.status.code(), Some(1), "{difference:?}");
    let shown = String::from_utf8(difference.stdout).unwrap();
    assert!(shown.contains("-  b: \"1\"") && shown.contains("+  c: \"2\""), "{shown}");
    assert_eq!(apply(" --dry-run=server", &changed), "configmap/m configured (server dry run)\n");
    assert_eq!(data(&mut client, "m").await, json!({"a": "1", "b": "1"}));
    assert_eq!(apply("", &changed), "configmap/m configured\n");
    assert_eq!(data(&mut client, "m").await, json!({"a": "1", "c": "2"}));
    assert!(kubectl.run("apply view-last-applied cm/m").contains("c: \"2\""));

    let before = client.ok("GET", &format!("{MAPS}/m"), &Value::Null).await;
    assert_eq!(kubectl.run(&format!("replace -f {file}")), "configmap/m replaced\n");
    assert_eq!(data(&mut client, "m").await, json!({"a": "1", "b": "1"}));
    let old = kubectl.file("old.json", &before.to_string());
    let said = refused(&kubectl, &format!("replace -f {old}"));
    assert!(said.contains("the object has been modified"), "{said}");
    kubectl.run(&format!("replace --force -f {changed}"));
    let after = client.ok("GET", &format!("{MAPS}/m"), &Value::Null).await;
    assert_ne!(after["metadata"]["uid"], before["metadata"]["uid"], "deleted and made anew");

    let edit = |script: &str| {
        let mut command = kubectl.command(&["edit", "cm", "m"]);
        let output = command.env("KUBE_EDITOR", format!("sed -i {script}")).output().unwrap();
        let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        (output.status.success(), said)
    };
    assert_eq!(edit("s/c:.*/c:\\ edited/"), (true, "configmap/m edited\n".into()));
    assert_eq!(data(&mut client, "m").await, json!({"a": "1", "c": "edited"}));
    let (_, said) = edit("s/none/x/");
    assert!(said.contains("no changes made"), "{said}");
    // What cannot be is refused, and nothing is changed.
    let (done, said) = edit("s/^data:/dat:/");
    assert!(!done && said.contains("Edit cancelled, no valid changes were saved"), "{said}");
    assert_eq!(data(&mut client, "m").await, json!({"a": "1", "c": "edited"}));
}

async fn objects_are_patched_labelled_and_deleted(version: &str) {
    let cluster = Cluster::start();
    let kubectl = Kubectl::version(version, &cluster);
    let mut client = cluster.admin().await;
    kubectl.run("create deployment web --image=busybox:1 --replicas=0");
    let web = "/apis/apps/v1/namespaces/default/deployments/web";
    let container = r#"{"name":"busybox","env":[{"name":"A","value":"1"}]}"#;
    let spec = format!(r#"{{"spec":{{"template":{{"spec":{{"containers":[{container}]}}}}}}}}"#);
    kubectl.run(&format!("patch deployment web -p {spec}"));
    kubectl.run(r#"patch deployment web --type=merge -p {"metadata":{"annotations":{"a":"b"}}}"#);
    kubectl.run(
        r#"patch deployment web --type=json -p [{"op":"add","path":"/spec/paused","value":true}]"#,
    );
    kubectl
        .run(r#"patch deployment web --subresource=scale --type=merge -p {"spec":{"replicas":0}}"#);
    let object = client.ok("GET", web, &Value::Null).await;
    let containers = &object["spec"]["template"]["spec"]["containers"];
    assert_eq!(containers.as_array().unwrap().len(), 1, "merged by name: {object}");
    assert_eq!(containers[0]["image"], "busybox:1");
    assert_eq!(containers[0]["env"], json!([{"name": "A", "value": "1"}]));
    assert_eq!(object["metadata"]["annotations"]["a"], "b");
    assert_eq!(object["spec"]["paused"], true);

    for name in ["one", "two", "three"] {
        kubectl.run(&format!("create configmap {name}"));
    }
    kubectl.run("label cm one two app=web");
    let said = refused(&kubectl, "label cm one app=other");
    assert!(said.contains("--overwrite is false"), "{said}");
    kubectl.run("label cm two app=other --overwrite");
    assert_eq!(kubectl.run("label cm two --list"), "app=other\n");
    kubectl.run("label cm one app-");
    kubectl.run("annotate cm one note=x");
    kubectl.run("annotate cm one note=y --overwrite");
    let one = client.ok("GET", &format!("{MAPS}/one"), &Value::Null).await;
    assert_eq!(one["metadata"].get("labels"), None, "{one}");
    assert_eq!(one["metadata"]["annotations"], json!({"note": "y"}));
    kubectl.run("annotate cm one note-");

    let names = || kubectl.run("get cm --field-selector=metadata.name!=kube-root-ca.crt -o name");
    kubectl.run("delete cm -l app=other --dry-run=server");
    assert_eq!(names(), "configmap/one\nconfigmap/three\nconfigmap/two\n");
    assert_eq!(
        kubectl.run("delete cm -l app=other"),
        if version == OLDER {
            "configmap \"two\" deleted\n"
        } else {
            "configmap \"two\" deleted from default namespace\n"
        }
    );
    kubectl.run("delete cm/one deployment/web --cascade=orphan");
    assert_eq!(names(), "configmap/three\n");
    assert_eq!(client.get(web).await.0, 404);
    let file = kubectl.file("three.yaml", &MAP.replace("name: m", "name: three"));
    kubectl.run(&format!("delete -f {file} --wait"));
    assert_eq!(names(), "");
    let said = refused(&kubectl, "delete cm three");
    assert!(said.contains("configmaps \"three\" not found"), "{said}");
    assert_eq!(kubectl.run("delete cm three --ignore-not-found"), "");
}
