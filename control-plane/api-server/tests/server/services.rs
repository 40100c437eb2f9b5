//! Services, their addresses and their ports, over HTTPS.

use std::collections::HashSet;

use crate::common::kubectl::Kubectl;
use crate::common::{Cluster, until};
use serde_json::{Value, json};

const SERVICES: &str = "/api/v1/namespaces/default/services";
const ADDRESSES: &str = "/apis/networking.k8s.io/v1/ipaddresses";

fn service(name: &str, spec: &Value) -> Value {
    let mut service = json!({"metadata": {"name": name}, "spec": {"ports": [{"port": 80}]}});
    for (field, value) in spec.as_object().unwrap() {
        service["spec"][field] = value.clone();
    }
    service
}

#[tokio::test]
async fn addresses_and_ports_are_had_once() {
    let mut cluster = Cluster::start();
    let mut client = cluster.admin().await;
    let tasks: Vec<_> = (0..8)
        .map(|task| {
            let address = cluster.address;
            let connected = crate::common::Client::connect(&cluster, Some("admin"));
            (task, address, connected)
        })
        .collect();
    // Clients that all want the same address and port, and any of each.
    let mut running = tokio::task::JoinSet::new();
    for (task, _, connected) in tasks {
        let mut client = connected.await;
        running.spawn(async move {
            let same = service(
                &format!("same-{task}"),
                &json!({"type": "NodePort", "clusterIP": "10.96.7.7",
                    "ports": [{"port": 80, "nodePort": 30_777}]}),
            );
            let (code, answer) = client.json("POST", SERVICES, &same).await;
            let mut others = Vec::new();
            for count in 0..6 {
                let any = service(&format!("any-{task}-{count}"), &json!({"type": "NodePort"}));
                others.push(client.ok("POST", SERVICES, &any).await);
            }
            (code, answer, others)
        });
    }
    let (mut won, mut addresses, mut ports) = (0, HashSet::new(), HashSet::new());
    while let Some(done) = running.join_next().await {
        let (code, answer, others) = done.unwrap();
        match code {
            201 => won += 1,
            422 => {
                let message = answer["message"].as_str().unwrap();
                assert!(message.contains("provided IP is already allocated"), "{message}");
            }
            other => panic!("{other} {answer}"),
        }
        for one in others {
            let spec = &one["spec"];
            assert_eq!(spec["clusterIPs"][0], spec["clusterIP"]);
            assert!(addresses.insert(spec["clusterIP"].to_string()), "{one}");
            let port = spec["ports"][0]["nodePort"].as_u64().unwrap();
            assert!((30_000..=32_767).contains(&port) && ports.insert(port), "{one}");
        }
    }
    assert_eq!((won, addresses.len(), ports.len()), (1, 48, 48));

    // Nor by one that was allocated before a restart.
    let taken = client.get(&format!("{SERVICES}/any-0-0")).await.1;
    let address = taken["spec"]["clusterIP"].as_str().unwrap().to_owned();
    cluster.kill();
    cluster.restart();
    let mut client = cluster.admin().await;
    let again = service("again", &json!({"clusterIP": address}));
    let (code, refused) = client.json("POST", SERVICES, &again).await;
    assert_eq!((code, &refused["details"]["causes"][0]["field"]), (422, &json!("spec.clusterIPs")));
    let port = taken["spec"]["ports"][0]["nodePort"].clone();
    let again =
        service("again", &json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": port}]}));
    let (code, refused) = client.json("POST", SERVICES, &again).await;
    let cause = &refused["details"]["causes"][0];
    assert_eq!((code, &cause["field"]), (422, &json!("spec.ports[0].nodePort")));
    assert!(cause["message"].as_str().unwrap().contains("provided port is already allocated"));

    // What failed holds nothing, and what is gone gives back what it had.
    let holder = client.get(&format!("{ADDRESSES}/{address}")).await.1;
    assert_eq!(holder["spec"]["parentRef"]["name"], "any-0-0");
    client.ok("DELETE", &format!("{SERVICES}/any-0-0"), &Value::Null).await;
    assert_eq!(client.get(&format!("{ADDRESSES}/{address}")).await.0, 404);
    client.ok("POST", SERVICES, &service("again", &json!({"clusterIP": address}))).await;
}

#[tokio::test]
async fn services_are_as_in_kubernetes() {
    let cluster = Cluster::start();
    let mut client = cluster.admin().await;
    let made = client.ok("POST", SERVICES, &service("web", &json!({"selector": {"a": "b"}}))).await;
    let path = format!("{SERVICES}/web");
    assert_eq!(made["spec"]["ports"], json!([{"port": 80, "protocol": "TCP", "targetPort": 80}]));
    assert_eq!(made["status"], json!({"loadBalancer": {}}));

    // Written again without what was allocated, it keeps that.
    let bare = service("web", &json!({"selector": {"a": "c"}}));
    let kept = client.ok("PUT", &path, &bare).await;
    assert_eq!(kept["spec"]["clusterIP"], made["spec"]["clusterIP"]);
    let (code, refused) =
        client.json("PUT", &path, &service("web", &json!({"clusterIP": "10.96.0.99"}))).await;
    assert_eq!(code, 422);
    assert!(refused["message"].as_str().unwrap().contains("may not change once set"), "{refused}");

    // Types come and go, and with them ports and addresses.
    let patch = |kind: &str| json!({"spec": {"type": kind}});
    const MERGE: &str = "application/merge-patch+json";
    let (_, open) = client.typed("PATCH", &path, MERGE, &patch("NodePort")).await;
    assert!(open["spec"]["ports"][0]["nodePort"].is_u64(), "{open}");
    let (_, closed) = client.typed("PATCH", &path, MERGE, &patch("ClusterIP")).await;
    assert!(closed["spec"]["ports"][0]["nodePort"].is_null(), "{closed}");
    let outside = json!({"spec": {"type": "ExternalName", "externalName": "example.com"}});
    let (code, named) = client.typed("PATCH", &path, MERGE, &outside).await;
    assert_eq!((code, named["spec"].get("clusterIP")), (200, None), "{named}");
    let address = made["spec"]["clusterIP"].as_str().unwrap();
    assert_eq!(client.get(&format!("{ADDRESSES}/{address}")).await.0, 404);

    let headless = client.ok("POST", SERVICES, &service("h", &json!({"clusterIP": "None"}))).await;
    assert_eq!(headless["spec"]["clusterIPs"], json!(["None"]));
    let balanced = json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local"});
    let balanced = client.ok("POST", SERVICES, &service("lb", &balanced)).await;
    assert!(balanced["spec"]["healthCheckNodePort"].is_u64(), "{balanced}");
    let status = json!({"status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.7"}]}}});
    let path = format!("{SERVICES}/lb/status");
    let (code, set) = client.typed("PATCH", &path, MERGE, &status).await;
    assert_eq!((code, &set["status"]), (200, &status["status"]));

    for (spec, field) in [
        (json!({"clusterIP": "192.0.2.1"}), "spec.clusterIPs"),
        (json!({"ipFamilies": ["IPv6"]}), "spec.ipFamilies[0]"),
        (
            json!({"type": "NodePort", "ports": [{"port": 1, "nodePort": 80}]}),
            "spec.ports[0].nodePort",
        ),
    ] {
        let (code, refused) = client.json("POST", SERVICES, &service("bad", &spec)).await;
        assert_eq!((code, &refused["details"]["causes"][0]["field"]), (422, &json!(field)));
    }
    assert_eq!(client.json("POST", SERVICES, &service("1st", &json!({}))).await.0, 422);
    let dry = format!("{SERVICES}?dryRun=All");
    let dry = client.ok("POST", &dry, &service("dry", &json!({}))).await;
    let address = dry["spec"]["clusterIP"].as_str().unwrap();
    assert_eq!(client.get(&format!("{ADDRESSES}/{address}")).await.0, 404, "nothing is taken");
}

#[tokio::test]
async fn the_api_server_is_a_service() {
    let cluster = Cluster::start();
    let mut client = cluster.admin().await;
    let slice = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/kubernetes";
    let slice = until(&mut client, slice, |slice| slice["endpoints"].is_array()).await;
    assert_eq!(slice["ports"][0]["port"], cluster.address.port());
    assert_eq!(slice["metadata"]["labels"]["kubernetes.io/service-name"], "kubernetes");
    let own = client.ok("GET", &format!("{SERVICES}/kubernetes"), &Value::Null).await;
    assert_eq!(own["spec"]["clusterIP"], "10.96.0.1");
    let endpoints = "/api/v1/namespaces/default/endpoints/kubernetes";
    let endpoints = client.ok("GET", endpoints, &Value::Null).await;
    assert_eq!(endpoints["subsets"][0]["addresses"][0]["ip"], "127.0.0.1");
    let range = "/apis/networking.k8s.io/v1/servicecidrs/kubernetes";
    let range = client.ok("GET", range, &Value::Null).await;
    assert_eq!(range["spec"]["cidrs"], json!(["10.96.0.0/12"]));
}

#[tokio::test]
async fn kubectl_makes_and_shows_services() {
    let cluster = Cluster::start();
    let kubectl = Kubectl::new(&cluster);
    kubectl.run("create service clusterip inside --tcp=80:8080");
    kubectl.run("create service nodeport open --tcp=80 --node-port=30080");
    kubectl.run("create service externalname elsewhere --external-name example.com");
    kubectl.run("create service loadbalancer balanced --tcp=443:https");
    kubectl.run("create deployment web --image=busybox:1 --replicas=0 --port=80");
    kubectl.run("expose deployment web --target-port=8080 --name=exposed");
    let shown = kubectl.run("get services -o wide");
    let row = |name: &str| -> Vec<&str> {
        let row = shown.lines().find(|line| line.starts_with(name)).expect(name);
        row.split_whitespace().collect()
    };
    assert_eq!((row("open")[1], row("open")[4]), ("NodePort", "80:30080/TCP"), "{shown}");
    assert_eq!(row("elsewhere")[2..5], ["<none>", "example.com", "<none>"], "{shown}");
    assert_eq!((row("balanced")[3], row("exposed")[6]), ("<pending>", "app=web"), "{shown}");
    let described = kubectl.run("describe service open");
    for expected in ["NodePort:                 80  30080/TCP", "Session Affinity:         None"] {
        assert!(described.contains(expected), "{described}");
    }
    kubectl.run("set selector service inside app=web");
    let explained = kubectl.run("explain service.spec.clusterIP");
    assert!(explained.contains("clusterIP is the IP address of the service"), "{explained}");

    let slice = "{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, addressType: IPv4, \
        metadata: {name: s, labels: {kubernetes.io/service-name: inside}}, \
        endpoints: [{addresses: [10.244.0.9]}], ports: [{port: 8080, name: 80-8080}]}";
    kubectl.run(&format!("apply -f {}", kubectl.file("slice.yaml", slice)));
    let slices = kubectl.run("get endpointslices s");
    assert!(slices.contains("IPv4") && slices.contains("8080    10.244.0.9"), "{slices}");
    let described = kubectl.run("describe service inside");
    assert!(described.contains("10.244.0.9:8080"), "{described}");
    assert!(kubectl.run("describe endpointslice s").contains("10.244.0.9"));
    let wide = kubectl.run("get ipaddresses,servicecidrs");
    assert!(wide.contains("services/default/inside") && wide.contains("10.96.0.0/12"), "{wide}");
    kubectl.run("delete service inside open elsewhere balanced exposed");
}
