//! What a namespace uses of what it may, and who writes what, with kubectl on hollow nodes.

use crate::common::hollow::Hollow;
use crate::common::kubectl::Kubectl;
use crate::common::{Cluster, until};
use serde_json::{Value, json};

const QUOTA: &str = "/api/v1/namespaces/default/resourcequotas/q";
const PODS: &str = "/api/v1/namespaces/default/pods";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_gone_may_be_used_again() {
    let cluster = Cluster::start();
    let kubectl = Kubectl::new(&cluster);
    let _nodes = Hollow::start(&cluster, &["n1"]).await;
    let mut client = cluster.admin().await;
    kubectl.run("create configmap before");
    kubectl.run("create quota q --hard=pods=2,count/configmaps=3,count/deployments.apps=1");
    let used = |pods: &str, maps: &str| {
        let wanted = json!({"pods": pods, "count/configmaps": maps, "count/deployments.apps": "1"});
        move |quota: &Value| quota["status"]["used"] == wanted
    };
    kubectl.run("create deployment web --image=run:1 --replicas=3");
    // The certificate's, too, is one.
    until(&mut client, QUOTA, used("2", "2")).await;
    let events = "/api/v1/namespaces/default/events?fieldSelector=reason%3DFailedCreate";
    let refused = until(&mut client, events, |events| events["items"][0].is_object()).await;
    let message = refused["items"][0]["message"].as_str().unwrap();
    assert!(message.contains("exceeded quota: q"), "{message}");

    let pods = client.get(PODS).await.1;
    let managers = pods["items"][0]["metadata"]["managedFields"].as_array().unwrap();
    let managers: Vec<_> = managers.iter().map(|one| one["manager"].as_str().unwrap()).collect();
    assert!(managers.contains(&"kube-controller-manager"), "{managers:?}");

    // A pod that is gone makes room for another.
    let first = pods["items"][0]["metadata"]["name"].as_str().unwrap();
    kubectl.run(&format!("delete pod {first}"));
    until(&mut client, QUOTA, used("2", "2")).await;
    kubectl.run("delete configmap before");
    until(&mut client, QUOTA, used("2", "1")).await;
    kubectl.run("scale deployment web --replicas=0");
    until(&mut client, QUOTA, used("0", "1")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_namespace_goes_when_its_last_pod_has() {
    let cluster = Cluster::start();
    let kubectl = Kubectl::new(&cluster);
    let nodes = Hollow::start(&cluster, &["n1"]).await;
    let mut client = cluster.admin().await;
    kubectl.run("create namespace temp");
    kubectl.run("create deployment web -n temp --image=run:1 --replicas=2");
    kubectl.run("rollout status -n temp deployment/web --timeout=120s");
    // Nobody reports that pods are gone.
    drop(nodes);
    kubectl.run("delete namespace temp --wait=false");
    let pods = "/api/v1/namespaces/temp/pods";
    let ending = |pods: &Value| {
        let mut pods = pods["items"].as_array().unwrap().iter();
        pods.all(|pod| pod["metadata"]["deletionTimestamp"].is_string())
    };
    until(&mut client, pods, ending).await;
    assert_eq!(client.get("/api/v1/namespaces/temp").await.1["status"]["phase"], "Terminating");
    kubectl.run("delete pods --all -n temp --force --grace-period=0");
    until(&mut client, "/api/v1/namespaces/temp", |answer| answer["code"] == 404).await;
}
