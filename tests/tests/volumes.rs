//! What pods use of other objects: ConfigMaps, Secrets and their own fields, as files and variables.

use std::time::Duration;

use bulkhead_tests::{Home, Kubectl, until};
use serde_json::{Value, json};

const IMAGE: &str = "localhost/busybox:test";

/// A pod of one sleeping busybox container, called `c`.
fn pod(name: &str, container: Value, spec: Value) -> Value {
    let mut pod = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": {"terminationGracePeriodSeconds": 0, "containers": [{
            "name": "c",
            "image": IMAGE,
            "imagePullPolicy": "IfNotPresent",
            "command": ["sleep", "1000"],
        }]},
    });
    let merge = |into: &mut Value, from: Value| {
        let (Some(into), Value::Object(from)) = (into.as_object_mut(), from) else { return };
        into.extend(from);
    };
    merge(&mut pod["spec"]["containers"][0], container);
    merge(&mut pod["spec"], spec);
    pod
}

/// What a command prints in a pod.
#[track_caller]
fn exec(kubectl: &Kubectl, pod: &str, script: &str) -> String {
    kubectl.sh(pod, script).ok()
}

fn settings(color: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "settings"},
        "data": {"COLOR": color, "app.conf": format!("color={color}\n")},
    })
}

#[test]
#[ignore = "needs KVM: run by ci/test-vms"]
fn config_maps_and_secrets_are_files_and_variables_and_files_follow_changes() {
    let home = Home::new();
    let cluster = home.cluster("volumes", 1);
    cluster.load_busybox();
    let kubectl = cluster.kubectl();
    let login = json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "login"},
        "stringData": {"password": "hunter2"},
    });
    let container = json!({
        "envFrom": [{"prefix": "CFG_", "configMapRef": {"name": "settings"}}],
        "env": [
            {"name": "PASSWORD", "valueFrom": {"secretKeyRef": {
                "name": "login", "key": "password"}}},
            {"name": "BOTH", "value": "$(CFG_COLOR):$(PASSWORD)"},
            {"name": "MEMORY", "valueFrom": {"resourceFieldRef": {
                "resource": "limits.memory", "divisor": "1Mi"}}},
        ],
        "resources": {"limits": {"memory": "32Mi"}},
        "volumeMounts": [
            {"name": "settings", "mountPath": "/settings"},
            {"name": "settings", "mountPath": "/app.conf", "subPath": "app.conf"},
            {"name": "login", "mountPath": "/login"},
            {"name": "pod", "mountPath": "/pod"},
        ],
    });
    let volumes = json!([
        {"name": "settings", "configMap": {"name": "settings"}},
        {"name": "login", "secret": {"secretName": "login", "defaultMode": 0o400}},
        {"name": "pod", "projected": {"sources": [
            {"configMap": {"name": "none", "optional": true}},
            {"downwardAPI": {"items": [
                {"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]}},
        ]}},
    ]);
    let app = pod("app", container, json!({ "volumes": volumes }));
    kubectl.apply_all(&[settings("red"), login, app]);
    kubectl.wait_phase("app", "Running");

    assert_eq!(exec(&kubectl, "app", "echo $BOTH $MEMORY"), "red:hunter2 32\n");
    let files = "cat /settings/app.conf /login/password /pod/labels";
    assert_eq!(exec(&kubectl, "app", files), "color=red\nhunter2app=\"app\"");
    assert_eq!(exec(&kubectl, "app", "stat -Lc %a /login/password"), "400\n");
    assert_eq!(exec(&kubectl, "app", "readlink /settings/COLOR"), "..data/COLOR\n");
    let written = kubectl.sh("app", "touch /settings/x");
    assert!(written.stderr.contains("Read-only file system"), "{}", written.stderr);

    kubectl.apply(&settings("blue"));
    until("the files follow the ConfigMap", Duration::from_secs(60), || {
        let text = exec(&kubectl, "app", "cat /settings/COLOR");
        if text == "blue" { Ok(()) } else { Err(text) }
    });
    assert_eq!(exec(&kubectl, "app", "cat /app.conf; echo $CFG_COLOR"), "color=red\nred\n");
}

#[test]
#[ignore = "needs KVM: run by ci/test-vms"]
fn a_pod_waits_for_what_it_needs_and_says_for_what() {
    let home = Home::new();
    let cluster = home.cluster("missing", 1);
    cluster.load_busybox();
    let kubectl = cluster.kubectl();
    let volumes = json!([{"name": "settings", "configMap": {"name": "settings"}}]);
    let mounts = json!({"volumeMounts": [{"name": "settings", "mountPath": "/settings"}]});
    let volume = pod("volume", mounts, json!({ "volumes": volumes }));
    let key = json!({"configMapKeyRef": {"name": "settings", "key": "COLOR"}});
    let env = json!({"env": [{"name": "COLOR", "valueFrom": key}]});
    kubectl.apply_all(&[volume, pod("variable", env, json!({}))]);

    let waiting = |pod: &Value| pod["status"]["containerStatuses"][0]["state"]["waiting"].clone();
    let variable = kubectl.wait_pod("variable", "lacks a ConfigMap", |pod| {
        waiting(pod)["reason"] == "CreateContainerConfigError"
    });
    assert_eq!(waiting(&variable)["message"], "configmap \"settings\" not found", "{variable:#}");
    until("an event says so", Duration::from_secs(60), || {
        let events = kubectl.run(&["get", "events"]).ok();
        let said = "MountVolume.SetUp failed for volume \"settings\" : configmap \"settings\"";
        if events.contains(said) { Ok(()) } else { Err(events) }
    });

    kubectl.apply(&settings("red"));
    kubectl.wait_phase("volume", "Running");
    kubectl.wait_phase("variable", "Running");
    assert_eq!(exec(&kubectl, "variable", "echo $COLOR"), "red\n");
}

#[test]
#[ignore = "needs KVM: run by ci/test-vms"]
fn names_and_resolver_are_as_a_kubelet_writes_them() {
    let home = Home::new();
    let cluster = home.cluster("names", 1);
    cluster.load_busybox();
    let kubectl = cluster.kubectl();
    let spec = json!({
        "hostname": "web",
        "subdomain": "sites",
        "hostAliases": [{"ip": "192.0.2.7", "hostnames": ["db", "db.example.org"]}],
        "dnsPolicy": "None",
        "dnsConfig": {
            "nameservers": ["192.0.2.53"],
            "searches": ["example.org"],
            "options": [{"name": "ndots", "value": "2"}],
        },
    });
    kubectl.apply(&pod("names", json!({}), spec));
    let ip = kubectl.wait_phase("names", "Running")["status"]["podIP"].as_str().unwrap().to_owned();
    let hosts = exec(&kubectl, "names", "cat /etc/hosts");
    let own = format!("{ip}\tweb.sites.default.svc.cluster.local\tweb\n");
    assert!(hosts.starts_with("# Kubernetes-managed hosts file.\n"), "{hosts}");
    assert!(hosts.contains(&own) && hosts.contains("192.0.2.7\tdb\tdb.example.org\n"), "{hosts}");
    assert_eq!(exec(&kubectl, "names", "cat /etc/hostname; hostname"), "web\nweb\n");
    let resolver = "search example.org\nnameserver 192.0.2.53\noptions ndots:2\n";
    assert_eq!(exec(&kubectl, "names", "cat /etc/resolv.conf"), resolver);
}
