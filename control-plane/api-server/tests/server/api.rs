//! The API over HTTPS, against the real binary.

use crate::common::{Cluster, Lines, add_node, pod, until};
use bytes::Bytes;
use http_body_util::BodyExt as _;
use serde_json::{Value, json};

const PODS: &str = "/api/v1/namespaces/default/pods";
const MAPS: &str = "/api/v1/namespaces/default/configmaps";

fn map(name: &str) -> Value {
    json!({"metadata": {"name": name, "labels": {"n": name}}, "data": {"k": "v"}, "unknown": {"kept": true}})
}

#[tokio::test]
async fn objects_are_created_read_changed_and_deleted() {
    let cluster = Cluster::start();
    let mut client = cluster.admin().await;
    let created = client.ok("POST", MAPS, &map("a")).await;
    assert_eq!(created["kind"], "ConfigMap");
    assert_eq!(created["unknown"]["kept"], true);
    for field in ["uid", "creationTimestamp", "resourceVersion", "namespace"] {
        assert!(created["metadata"][field].is_string(), "{field}");
    }
    let path = format!("{MAPS}/a");
    assert_eq!(client.get(&path).await, (200, created.clone()));
    let (code, status) = client.json("POST", MAPS, &map("a")).await;
    assert_eq!((code, &status["reason"]), (409, &json!("AlreadyExists")));
    assert_eq!(status["message"], "configmaps \"a\" already exists");

    let mut changed = created.clone();
    changed["data"]["k"] = "new".into();
    let updated = client.ok("PUT", &path, &changed).await;
    assert_ne!(updated["metadata"]["resourceVersion"], created["metadata"]["resourceVersion"]);
    let (code, status) = client.json("PUT", &path, &created).await;
    assert_eq!((code, &status["reason"]), (409, &json!("Conflict")), "a stale version");
    assert_eq!(client.ok("PUT", &path, &updated).await, updated, "no change is no write");

    let dry = client.ok("POST", &format!("{MAPS}?dryRun=All"), &map("dry")).await;
    assert!(dry["metadata"]["uid"].is_string());
    assert_eq!(client.get(&format!("{MAPS}/dry")).await.0, 404);

    let generated = json!({"metadata": {"generateName": "gen-"}});
    let one = client.ok("POST", MAPS, &generated).await;
    let name = one["metadata"]["name"].as_str().unwrap();
    assert!(name.starts_with("gen-") && name.len() == 9, "{name}");

    for immortal in ["default", "kube-system", "kube-public"] {
        let path = format!("/api/v1/namespaces/{immortal}");
        let (code, refused) = client.json("DELETE", &path, &Value::Null).await;
        let told =
            format!("namespaces \"{immortal}\" is forbidden: this namespace may not be deleted");
        assert_eq!((code, &refused["message"]), (403, &json!(told)));
    }
    assert_eq!(client.json("DELETE", "/api/v1/namespaces", &Value::Null).await.0, 405);

    let wrong = json!({"preconditions": {"uid": "other"}});
    assert_eq!(client.json("DELETE", &path, &wrong).await.0, 409);
    let deleted = client.ok("DELETE", &path, &Value::Null).await;
    assert_eq!(deleted["details"]["uid"], created["metadata"]["uid"]);
    assert_eq!(client.get(&path).await.0, 404);
    assert!(cluster.terminate().success());
}

#[tokio::test]
async fn what_is_wrong_is_refused_as_kubernetes_would() {
    let cluster = Cluster::start();
    let mut client = cluster.admin().await;
    let bad = json!({"metadata": {"name": "Bad_Name"}, "spec": {"containers": [{"name": "c"}]}});
    let (code, status) = client.json("POST", PODS, &bad).await;
    assert_eq!((code, &status["reason"]), (422, &json!("Invalid")));
    let fields: Vec<_> = status["details"]["causes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| c["field"].clone())
        .collect();
    assert_eq!(fields, ["metadata.name", "spec.containers[0].image"]);
    for (method, path, media_type, body, expected) in [
        ("POST", MAPS, "application/vnd.kubernetes.protobuf", "k8s\0", 400),
        ("POST", MAPS, "application/cbor", "x", 415),
        ("POST", MAPS, "application/json", "{", 400),
        ("POST", MAPS, "application/json", "[]", 400),
        (
            "POST",
            MAPS,
            "application/json",
            "{\"kind\":\"Secret\",\"metadata\":{\"name\":\"x\"}}",
            400,
        ),
        (
            "POST",
            "/api/v1/namespaces/none/configmaps",
            "application/json",
            "{\"metadata\":{\"name\":\"x\"}}",
            404,
        ),
        ("POST", "/api/v1/configmaps", "application/json", "{\"metadata\":{\"name\":\"x\"}}", 405),
        ("PATCH", "/api/v1/nodes/x", "application/apply-patch+yaml", "{}", 422),
        ("GET", "/apis/apps/v1/nothings", "", "", 404),
        ("GET", "/api/v1/pods?fieldSelector=spec.none%3Dx", "", "", 400),
        ("GET", "/api/v1/pods?labelSelector=%3D%3D", "", "", 400),
        ("GET", "/api/v1/pods?resourceVersion=99999999&resourceVersionMatch=Exact", "", "", 504),
    ] {
        let answer =
            client.send(method, path, &[("content-type", media_type)], body).await.unwrap();
        let code = answer.status().as_u16();
        let bytes = answer.into_body().collect().await.unwrap().to_bytes();
        let status: Value = serde_json::from_slice(&bytes).unwrap();
        assert_eq!(code, expected, "{method} {path}: {status}");
        assert_eq!((&status["kind"], &status["code"]), (&json!("Status"), &json!(expected)));
    }
    let deep = format!(
        "{{\"metadata\":{{\"name\":\"x\"}},\"a\":{}{}}}",
        "[".repeat(10_000),
        "]".repeat(10_000)
    );
    let answer = client.send("POST", MAPS, &[], deep).await.unwrap();
    assert_eq!(answer.status(), 400, "nesting is limited");
    let large = vec![b' '; (3 << 20) + 1];
    let mut other = cluster.admin().await;
    let answer = other.send("POST", MAPS, &[], large).await.unwrap();
    assert_eq!(answer.status(), 413, "bodies are limited");
    let yaml = "metadata: {name: from-yaml}\ndata: {a: b}\n";
    let answer = cluster
        .admin()
        .await
        .send("POST", MAPS, &[("content-type", "application/yaml")], yaml)
        .await;
    assert_eq!(answer.unwrap().status(), 201);
}

/// Waits for the ConfigMap that every namespace gets, which tests that count must count.
async fn settle(client: &mut crate::common::Client) {
    until(client, &format!("{MAPS}/kube-root-ca.crt"), |map| map["data"].is_object()).await;
}

#[tokio::test]
async fn lists_select_and_page() {
    let cluster = Cluster::start();
    let mut client = cluster.admin().await;
    settle(&mut client).await;
    for name in ["a", "b", "c", "d", "e"] {
        client.ok("POST", MAPS, &map(name)).await;
    }
    let names = |list: &Value| -> Vec<String> {
        let items = list["items"].as_array().unwrap();
        items.iter().map(|item| item["metadata"]["name"].as_str().unwrap().into()).collect()
    };
    let selected =
        client.ok("GET", &format!("{MAPS}?labelSelector=n+in+(a,c)"), &Value::Null).await;
    assert_eq!(names(&selected), ["a", "c"]);
    let selected =
        client.ok("GET", &format!("{MAPS}?fieldSelector=metadata.name%3Dd"), &Value::Null).await;
    assert_eq!(names(&selected), ["d"]);
    let first = client.ok("GET", &format!("{MAPS}?limit=2"), &Value::Null).await;
    assert_eq!(
        (names(&first), &first["metadata"]["remainingItemCount"]),
        (vec!["a".into(), "b".into()], &json!(4))
    );
    client.ok("DELETE", &format!("{MAPS}/c"), &Value::Null).await;
    let token = first["metadata"]["continue"].as_str().unwrap();
    let second = client.ok("GET", &format!("{MAPS}?limit=2&continue={token}"), &Value::Null).await;
    assert_eq!(names(&second), ["c", "d"], "pages are of one version");
    let page =
        client.ok("GET", &format!("{MAPS}?limit=1&labelSelector=n+notin+(a)"), &Value::Null).await;
    assert_eq!(names(&page), ["b"]);
    assert!(page["metadata"]["continue"].is_string());
    let table = client
        .send(
            "GET",
            MAPS,
            &[("accept", "application/json;as=Table;g=meta.k8s.io;v=v1")],
            Bytes::new(),
        )
        .await
        .unwrap();
    let table: Value =
        serde_json::from_slice(&table.into_body().collect().await.unwrap().to_bytes()).unwrap();
    assert_eq!((&table["kind"], &table["rows"][0]["cells"][1]), (&json!("Table"), &json!(1)));
    client.ok("DELETE", &format!("{MAPS}?labelSelector=n,n!%3De"), &Value::Null).await;
    assert_eq!(names(&client.ok("GET", MAPS, &Value::Null).await), ["e", "kube-root-ca.crt"]);
}

#[tokio::test]
async fn watches_start_where_they_are_told() {
    let cluster = Cluster::start();
    let mut client = cluster.admin().await;
    settle(&mut client).await;
    client.ok("POST", MAPS, &map("a")).await;
    let list = client.ok("GET", MAPS, &Value::Null).await;
    let version = list["metadata"]["resourceVersion"].as_str().unwrap();
    let mut watching = cluster.admin().await;
    let mut watch =
        Lines::open(&mut watching, &format!("{MAPS}?watch=1&resourceVersion={version}")).await;
    let mut selecting = cluster.admin().await;
    let mut selected = Lines::open(
        &mut selecting,
        &format!("{MAPS}?watch=1&resourceVersion={version}&labelSelector=hot"),
    )
    .await;
    let patch = json!({"metadata": {"labels": {"hot": "yes"}}});
    client.typed("PATCH", &format!("{MAPS}/a"), "application/merge-patch+json", &patch).await;
    let patch = json!({"metadata": {"labels": {"hot": null}}});
    client.typed("PATCH", &format!("{MAPS}/a"), "application/merge-patch+json", &patch).await;
    client.ok("DELETE", &format!("{MAPS}/a"), &Value::Null).await;
    for expected in ["MODIFIED", "MODIFIED", "DELETED"] {
        assert_eq!(watch.next().await["type"], expected);
    }
    for expected in ["ADDED", "DELETED"] {
        assert_eq!(selected.next().await["type"], expected, "with a selector");
    }
    client.ok("POST", MAPS, &map("b")).await;
    let query =
        "watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true";
    let mut listing = cluster.admin().await;
    let mut initial = Lines::open(&mut listing, &format!("{MAPS}?{query}&labelSelector=n")).await;
    assert_eq!(initial.next().await["object"]["metadata"]["name"], "b");
    let bookmark = initial.next().await;
    assert_eq!(bookmark["type"], "BOOKMARK");
    assert_eq!(bookmark["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
}

#[tokio::test]
async fn pods_are_scheduled_run_and_deleted() {
    let cluster = Cluster::start();
    let mut client = cluster.admin().await;
    client.ok("POST", PODS, &pod("web", "64Mi")).await;
    let waiting =
        until(&mut client, &format!("{PODS}/web"), |pod| pod["status"]["conditions"].is_array())
            .await;
    assert_eq!(waiting["status"]["conditions"][0]["reason"], "Unschedulable");
    let mut host = cluster.client(Some("host")).await;
    add_node(&mut host, "n1", 1).await;
    add_node(&mut host, "n2", 1).await;
    until(&mut client, &format!("{PODS}/web"), |pod| pod["spec"]["nodeName"].is_string()).await;
    let (code, status) = client
        .json("POST", &format!("{PODS}/web/binding"), &json!({"target": {"name": "n1"}}))
        .await;
    assert_eq!((code, &status["reason"]), (409, &json!("Conflict")), "bound once");
    // Another scheduler binds, in either way.
    let bindings = "/api/v1/namespaces/default/bindings";
    for (name, path) in [("one", format!("{PODS}/one/binding")), ("two", bindings.into())] {
        let mut own = pod(name, "1Mi");
        own["spec"]["schedulerName"] = "own".into();
        client.ok("POST", PODS, &own).await;
        let binding = json!({"metadata": {"name": name}, "target": {"kind": "Node", "name": "n2"}});
        client.ok("POST", &path, &binding).await;
        let bound = client.ok("GET", &format!("{PODS}/{name}"), &Value::Null).await;
        assert_eq!(bound["spec"]["nodeName"], "n2", "{name}");
    }
    client.ok("POST", PODS, &pod("big", "4Gi")).await;
    let events = "/api/v1/namespaces/default/events?fieldSelector=involvedObject.name%3Dbig";
    let events =
        until(&mut client, events, |list| !list["items"].as_array().unwrap().is_empty()).await;
    assert_eq!(
        events["items"][0]["message"],
        "0/2 nodes are available: 2 Insufficient memory. preemption: 0/2 nodes are available: \
         2 Preemption is not helpful for scheduling."
    );
    let mut picky = pod("picky", "1Mi");
    picky["spec"]["resourceClaims"] = json!([{"name": "gpu", "resourceClaimName": "gpu"}]);
    client.ok("POST", PODS, &picky).await;
    let picky =
        until(&mut client, &format!("{PODS}/picky"), |pod| pod["status"]["conditions"].is_array())
            .await;
    let message = picky["status"]["conditions"][0]["message"].as_str().unwrap();
    assert!(message.contains("spec.resourceClaims"), "{message}");

    // The host's side, as the host.
    let running = json!({"status": {"phase": "Running"}});
    let path = format!("{PODS}/web/status");
    assert_eq!(
        host.typed("PATCH", &path, "application/strategic-merge-patch+json", &running).await.0,
        200
    );
    let deleting =
        client.ok("DELETE", &format!("{PODS}/web"), &json!({"gracePeriodSeconds": 5})).await;
    assert_eq!(deleting["metadata"]["deletionGracePeriodSeconds"], 5);
    assert_eq!(client.get(&format!("{PODS}/web")).await.0, 200, "it ends when its host says so");
    host.ok("DELETE", &format!("{PODS}/web"), &json!({"gracePeriodSeconds": 0})).await;
    assert_eq!(client.get(&format!("{PODS}/web")).await.0, 404);
    assert_eq!(host.json("POST", PODS, &pod("own", "1Mi")).await.0, 403);
    let mut nobody = cluster.client(None).await;
    assert_eq!(nobody.get(PODS).await.0, 403);
    assert_eq!(nobody.get("/version").await.0, 200);
    assert_eq!(nobody.get("/readyz").await.0, 200);
}

#[tokio::test]
async fn a_namespace_takes_its_contents_along() {
    let cluster = Cluster::start();
    let mut client = cluster.admin().await;
    client.ok("POST", "/api/v1/namespaces", &json!({"metadata": {"name": "temp"}})).await;
    client.ok("POST", "/api/v1/namespaces/temp/configmaps", &map("a")).await;
    let mut held = map("held");
    held["metadata"]["finalizers"] = json!(["example.com/hold"]);
    client.ok("POST", "/api/v1/namespaces/temp/configmaps", &held).await;
    client.ok("DELETE", "/api/v1/namespaces/temp", &Value::Null).await;
    let gone = |answer: &Value| answer["code"] == 404;
    until(&mut client, "/api/v1/namespaces/temp/configmaps/a", gone).await;
    let (code, status) =
        client.json("POST", "/api/v1/namespaces/temp/configmaps", &map("late")).await;
    assert_eq!((code, &status["reason"]), (403, &json!("Forbidden")), "nothing new in it");
    assert_eq!(client.get("/api/v1/namespaces/temp").await.1["status"]["phase"], "Terminating");
    let release = json!({"metadata": {"finalizers": null}});
    client
        .typed(
            "PATCH",
            "/api/v1/namespaces/temp/configmaps/held",
            "application/merge-patch+json",
            &release,
        )
        .await;
    until(&mut client, "/api/v1/namespaces/temp", gone).await;
}

#[tokio::test]
async fn a_port_in_use_is_one_clear_line() {
    let cluster = Cluster::start();
    let address = cluster.address.to_string();
    let second = std::process::Command::new(crate::common::BINARY)
        .args(["serve", "--listen", &address, "--dir"])
        .arg(cluster.dir.path())
        .output()
        .unwrap();
    let stderr = String::from_utf8(second.stderr).unwrap();
    assert_eq!(second.status.code(), Some(2), "{stderr}");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    assert!(stderr.contains(&address) && stderr.contains("in use"), "{stderr}");
}
