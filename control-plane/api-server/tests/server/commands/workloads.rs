//! Commands for what runs, on hollow nodes. How rollouts go is told by the tests of each kind.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::common::hollow::Hollow;
use crate::common::kubectl::{Kubectl, with_each_kubectl};
use crate::common::{Cluster, LIMIT, until};

with_each_kubectl!(pods_are_run_exposed_set_and_scaled, what_is_there_is_described);

const WEB: &str = "/apis/apps/v1/namespaces/default/deployments/web";

async fn pods_are_run_exposed_set_and_scaled(version: &str) {
    let cluster = Cluster::start();
    let kubectl = Kubectl::version(version, &cluster);
    let _nodes = Hollow::start(&cluster, &["n1"]).await;
    let mut client = cluster.admin().await;

    let ran = kubectl.run("run one --image=run:1 --port=80 --expose --env=A=1 --labels=app=one");
    assert_eq!(ran, "service/one created\npod/one created\n");
    kubectl.run("wait --for=condition=Ready pod/one --timeout=120s");
    kubectl.run("wait --for=jsonpath={.status.phase}=Running pod/one --timeout=120s");
    let pod = client.ok("GET", "/api/v1/namespaces/default/pods/one", &Value::Null).await;
    assert_eq!(pod["spec"]["containers"][0]["env"], json!([{"name": "A", "value": "1"}]));
    let service = client.ok("GET", "/api/v1/namespaces/default/services/one", &Value::Null).await;
    assert_eq!(service["spec"]["selector"], json!({"app": "one"}));
    kubectl.run("delete pod one --wait=false");
    kubectl.run("wait --for=delete pod/one --timeout=120s");
    let never = ["wait", "--for=condition=Ready", "service/one", "--timeout=1s"];
    let said = String::from_utf8(kubectl.output(&never).stderr).unwrap();
    assert!(said.contains("timed out waiting for the condition on services/one"), "{said}");

    kubectl.run("create deployment web --image=run:1");
    kubectl.run("rollout status deployment/web --timeout=120s");
    kubectl.run("expose deployment web --port=80 --target-port=8080");
    let service = client.ok("GET", "/api/v1/namespaces/default/services/web", &Value::Null).await;
    assert_eq!(service["spec"]["ports"][0]["targetPort"], 8080);
    kubectl.run("scale deployment/web --replicas=2 --current-replicas=1");
    let wrong = ["scale", "deployment/web", "--replicas=3", "--current-replicas=9"];
    let said = String::from_utf8(kubectl.output(&wrong).stderr).unwrap();
    assert!(said.to_lowercase().contains("expected replicas to be 9, was 2"), "{said}");

    kubectl.run("set image deployment/web run=run:2");
    kubectl.run("set env deployment/web A=1 B-");
    kubectl.run("set resources deployment/web --requests=cpu=10m --limits=memory=64Mi");
    kubectl.run("set serviceaccount deployment web default");
    kubectl.run("set selector service web app=other");
    let web = client.ok("GET", WEB, &Value::Null).await;
    let container = &web["spec"]["template"]["spec"]["containers"][0];
    assert_eq!(container["image"], "run:2");
    assert_eq!(container["env"], json!([{"name": "A", "value": "1"}]));
    assert_eq!(container["resources"]["limits"], json!({"memory": "64Mi"}));
    assert_eq!(web["spec"]["replicas"], 2);
    assert_eq!(web["spec"]["template"]["spec"]["serviceAccountName"], "default");
    let service = client.ok("GET", "/api/v1/namespaces/default/services/web", &Value::Null).await;
    assert_eq!(service["spec"]["selector"], json!({"app": "other"}));
    kubectl.run("rollout status deployment/web --timeout=120s");

    kubectl.run("autoscale deployment web --min=2 --max=4");
    let scaler = "/apis/autoscaling/v2/namespaces/default/horizontalpodautoscalers/web";
    let scaler = client.ok("GET", scaler, &Value::Null).await;
    assert_eq!(
        (&scaler["spec"]["minReplicas"], &scaler["spec"]["scaleTargetRef"]["kind"]),
        (&json!(2), &json!("Deployment"))
    );
    let listed = kubectl.run("get all -o name");
    for one in ["service/web", "deployment.apps/web", "horizontalpodautoscaler.autoscaling/web"] {
        assert!(listed.lines().any(|line| line == one), "{listed}");
    }
}

async fn what_is_there_is_described(version: &str) {
    let cluster = Cluster::start();
    let kubectl = Kubectl::version(version, &cluster);
    let _nodes = Hollow::start(&cluster, &["n1"]).await;
    let mut client = cluster.admin().await;
    kubectl.run("create deployment web --image=run:1");
    kubectl.run("rollout status deployment/web --timeout=120s");
    kubectl.run("expose deployment web --port=80");
    let slices = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices\
                  ?labelSelector=kubernetes.io/service-name%3Dweb";
    let is_ready =
        |slices: &Value| slices["items"][0]["endpoints"][0]["conditions"]["ready"] == true;
    let slices = until(&mut client, slices, is_ready).await;
    let address = slices["items"][0]["endpoints"][0]["addresses"][0].as_str().unwrap().to_owned();
    kubectl.run("create configmap settings --from-literal=colour=blue");
    kubectl.run("create secret generic keys --from-literal=key=value");
    kubectl.run("create quota few --hard=pods=9");
    kubectl.run("create role reader --verb=get,list --resource=pods");
    kubectl.run("create rolebinding reads --role=reader --serviceaccount=default:default");
    kubectl.run("create job once --image=exit-0:1");
    kubectl.run("wait --for=condition=Complete job/once --timeout=120s");
    kubectl.run("create cronjob yearly --image=exit-0:1 --schedule=@yearly");
    kubectl.run("create poddisruptionbudget calm --selector=app=web --min-available=1");
    kubectl.run("autoscale deployment web --min=1 --max=4");
    for (object, expected) in [
        ("deployment web", &["NewReplicaSetAvailable", "Scaled up replica set web-"][..]),
        ("rs -l app=web", &["Controlled By:  Deployment/web", "Created pod: web-"]),
        ("pods -l app=web", &["Successfully assigned default/web-", "Ready:          True"]),
        ("service web", &["Endpoints:", &address]),
        ("node n1", &["Non-terminated Pods:", "default                     web-"]),
        ("namespace default", &["Resource Quotas", "few"]),
        ("configmap settings", &["colour:\n----\nblue\n"]),
        ("secret keys", &["key:  5 bytes"]),
        ("quota few", &["Resource    Used  Hard"]),
        ("role reader", &["pods       []                 []              [get list]"]),
        ("rolebinding reads", &["ServiceAccount  default  default"]),
        ("serviceaccount default", &["Name:                default"]),
        ("job once", &["1 Succeeded", "Created pod: once-"]),
        ("cronjob yearly", &["Schedule:", "@yearly"]),
        ("pdb calm", &["Min available:  1"]),
        ("hpa web", &["Deployment/web", "Max replicas:"]),
    ] {
        // Events come when what they tell of is done.
        let began = Instant::now();
        loop {
            let described = kubectl.run(&format!("describe {object}"));
            let Some(missing) = expected.iter().find(|text| !described.contains(**text)) else {
                break;
            };
            assert!(began.elapsed() < LIMIT, "{missing:?} of {object}: {described}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}
