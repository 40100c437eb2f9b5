//! `get` in all its forms, and how it watches.

use std::io::{BufRead as _, BufReader};
use std::process::Stdio;

use serde_json::{Value, json};

use crate::common::Cluster;
use crate::common::kubectl::{Kubectl, with_each_kubectl};

with_each_kubectl!(objects_are_shown_in_every_form, changes_are_shown_as_they_come);

const OBJECTS: &str = "
apiVersion: v1
kind: Pod
metadata: {name: alpha, labels: {rank: '2', app: web}}
spec: {containers: [{name: c, image: 'busybox:2'}]}
---
apiVersion: v1
kind: Pod
metadata: {name: zeta, labels: {rank: '1', app: web}}
spec: {containers: [{name: c, image: 'busybox:1'}]}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: m, labels: {app: map}}
data: {a: '1'}
";

/// The first words of each line.
fn first(printed: &str) -> Vec<&str> {
    printed.lines().filter_map(|line| line.split_whitespace().next()).collect()
}

async fn objects_are_shown_in_every_form(version: &str) {
    let cluster = Cluster::start();
    let kubectl = Kubectl::version(version, &cluster);
    let file = kubectl.file("objects.yaml", OBJECTS);
    let created = kubectl.run(&format!("create -f {file}"));
    assert_eq!(created, "pod/alpha created\npod/zeta created\nconfigmap/m created\n");

    let table = kubectl.run("get pods");
    assert_eq!(first(&table), ["NAME", "alpha", "zeta"], "{table}");
    let table = kubectl.run("get pods --sort-by=.metadata.labels.rank --no-headers");
    assert_eq!(first(&table), ["zeta", "alpha"], "{table}");
    let table = kubectl.run("get pods -o wide");
    assert!(table.contains("NOMINATED NODE   READINESS GATES"), "{table}");
    let table = kubectl.run("get pods -A --no-headers");
    assert_eq!(first(&table), ["default", "default"], "{table}");
    let table = kubectl.run("get pods -L rank --no-headers");
    let last: Vec<_> = table.lines().filter_map(|line| line.split_whitespace().last()).collect();
    assert_eq!(last, ["2", "1"], "{table}");
    let table = kubectl.run("get pod zeta --show-labels");
    assert!(table.contains("app=web,rank=1"), "{table}");
    let columns = "custom-columns=N:.metadata.name,I:.spec.containers[0].image";
    let table = kubectl.run(&format!("get pods -o {columns}"));
    assert_eq!(table, "N       I\nalpha   busybox:2\nzeta    busybox:1\n");
    let listed = kubectl.run("get all --no-headers");
    assert!(listed.contains("pod/alpha") && !listed.contains("configmap"), "{listed}");

    let list: Value = serde_json::from_str(&kubectl.run("get pods -o json")).unwrap();
    assert_eq!((&list["kind"], list["items"].as_array().unwrap().len()), (&json!("List"), 2));
    let yaml = kubectl.run("get pod zeta -o yaml");
    assert!(yaml.contains("kind: Pod\n") && yaml.contains("image: busybox:1\n"), "{yaml}");
    let image = "get pod zeta -o jsonpath={.spec.containers[0].image}";
    assert_eq!(kubectl.run(image), "busybox:1");
    let template = "get pods -o go-template={{range.items}}{{.metadata.name}},{{end}}";
    assert_eq!(kubectl.run(template), "alpha,zeta,");

    for (arguments, expected) in [
        (&["-l", "rank in (1,3), app"][..], "pod/zeta\n"),
        (&["-l", "rank notin (1),app!=other"], "pod/alpha\n"),
        (&["-l", "!rank"], ""),
        (&["--field-selector=metadata.name!=zeta,status.phase=Pending"], "pod/alpha\n"),
        (&["--field-selector=spec.nodeName=n1"], ""),
        (&["--chunk-size=1"], "pod/alpha\npod/zeta\n"),
        (&["none", "--ignore-not-found"], ""),
    ] {
        let output = kubectl.output(&[&["get", "pods", "-o", "name"], arguments].concat());
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        assert_eq!(String::from_utf8_lossy(&output.stdout), expected, "{arguments:?}");
    }
    let several = kubectl.run("get pods,cm -l app -o name");
    assert_eq!(several, "pod/alpha\npod/zeta\nconfigmap/m\n");
    let named = kubectl.run("get pod/zeta cm/m -o name");
    assert_eq!(named, "pod/zeta\nconfigmap/m\n");
    let of_file = kubectl.run(&format!("get -f {file} -o name"));
    assert_eq!(of_file, "pod/alpha\npod/zeta\nconfigmap/m\n");
    let raw = kubectl.run("get --raw /api/v1/namespaces/default/pods?limit=1");
    let page: Value = serde_json::from_str(&raw).unwrap();
    assert!(page["metadata"]["continue"].is_string(), "{page}");
    let missing = kubectl.output(&["get", "pod", "none"]);
    let said = String::from_utf8_lossy(&missing.stderr);
    assert_eq!(said, "Error from server (NotFound): pods \"none\" not found\n");
}

async fn changes_are_shown_as_they_come(version: &str) {
    const MAPS: &str = "/api/v1/namespaces/default/configmaps";
    let cluster = Cluster::start();
    let kubectl = Kubectl::version(version, &cluster);
    let mut client = cluster.admin().await;
    let map = |name: &str| json!({"metadata": {"name": name, "labels": {"app": "w"}}});
    client.ok("POST", MAPS, &map("first")).await;
    let line = "get cm -l app=w -w --output-watch-events --no-headers";
    let mut watch = kubectl
        .command(&line.split(' ').collect::<Vec<_>>())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(watch.stdout.take().unwrap()).lines();
    let mut lines = lines.map(|line| {
        let line = line.unwrap();
        line.split_whitespace().take(2).collect::<Vec<_>>().join(" ")
    });
    assert_eq!(lines.next().as_deref(), Some("ADDED first"));
    client.ok("POST", MAPS, &map("second")).await;
    let data = json!({"data": {"a": "1"}});
    let second = format!("{MAPS}/second");
    client.typed("PATCH", &second, "application/merge-patch+json", &data).await;
    client.ok("DELETE", &second, &Value::Null).await;
    for expected in ["ADDED second", "MODIFIED second", "DELETED second"] {
        assert_eq!(lines.next().as_deref(), Some(expected));
    }
    watch.kill().unwrap();
    watch.wait().unwrap();
}
