//! Commands about the server and what it knows: versions, kinds, events.

use serde_json::Value;

use crate::common::kubectl::{Kubectl, with_each_kubectl};
use crate::common::{Cluster, until};

with_each_kubectl!(the_server_says_what_it_is_and_knows);

async fn the_server_says_what_it_is_and_knows(version: &str) {
    let cluster = Cluster::start();
    let kubectl = Kubectl::version(version, &cluster);
    let mut client = cluster.admin().await;
    let said: Value = serde_json::from_str(&kubectl.run("version -o json")).unwrap();
    let told = client.get("/version").await.1;
    assert_eq!(said["serverVersion"]["gitVersion"], told["gitVersion"]);
    let info = kubectl.run("cluster-info");
    assert!(info.contains("is running at"), "{info}");
    assert!(info.contains(&format!("https://{}", cluster.address)), "{info}");
    assert_eq!(kubectl.run("get --raw /readyz"), "ok");
    assert!(kubectl.run("get --raw /livez?verbose").contains("livez check passed"));

    let versions = kubectl.run("api-versions");
    for one in ["v1", "apps/v1", "rbac.authorization.k8s.io/v1", "metrics.k8s.io/v1beta1"] {
        assert!(versions.lines().any(|line| line == one), "{versions}");
    }
    let cluster_wide = kubectl.run("api-resources --namespaced=false -o name");
    let has = |name: &str| cluster_wide.lines().any(|line| line == name);
    assert!(has("nodes") && has("clusterroles.rbac.authorization.k8s.io"), "{cluster_wide}");
    assert!(!has("pods"), "{cluster_wide}");
    let apps = kubectl.run("api-resources --api-group=apps -o wide --no-headers");
    let deployments = apps.lines().find(|line| line.starts_with("deployments ")).unwrap();
    let words: Vec<_> = deployments.split_whitespace().collect();
    assert_eq!(words[1..5], ["deploy", "apps/v1", "true", "Deployment"], "{apps}");
    assert!(words[5].contains("deletecollection") && words[6] == "all", "{apps}");

    for (path, expected) in [
        ("deployment.spec.strategy", "type\t<string>"),
        ("hpa.spec.maxReplicas", "FIELD: maxReplicas <integer>"),
        ("pods --recursive", "terminationGracePeriodSeconds\t<integer>"),
        ("pod.spec.containers.resources", "limits\t<map[string]Quantity>"),
        ("cronjob --api-version=batch/v1", "VERSION:    v1"),
    ] {
        let explained = kubectl.run(&format!("explain {path}"));
        assert!(explained.contains(expected), "{path}: {explained}");
    }

    kubectl.run("run waits --image=busybox:1");
    let events = "/api/v1/namespaces/default/events\
                  ?fieldSelector=involvedObject.name%3Dwaits%2Creason%3DFailedScheduling";
    until(&mut client, events, |events| events["items"][0].is_object()).await;
    let told = kubectl.run("events --for pod/waits");
    assert!(told.contains("FailedScheduling") && told.contains("Pod/waits"), "{told}");
    assert_eq!(kubectl.run("events --for pod/other"), "");
    let told = kubectl.run("events --types=Warning --no-headers");
    assert!(told.contains("FailedScheduling"), "{told}");
    let told = kubectl.run("get events --field-selector=involvedObject.name=waits --no-headers");
    assert!(told.contains("pod/waits"), "{told}");
}
