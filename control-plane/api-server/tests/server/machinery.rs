//! What all kinds have in common, over HTTP: field validation, dry runs, compression, deletion.

use std::io::Read as _;

use crate::common::Cluster;
use http_body_util::BodyExt as _;
use serde_json::{Value, json};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

#[tokio::test]
async fn unknown_and_repeated_fields_are_reported() {
    let cluster = Cluster::start();
    let mut client = cluster.admin().await;
    let body = r#"{"metadata":{"name":"m"},"data":{"a":"1","a":"2"},"dada":{}}"#;
    let answer = client.send("POST", MAPS, &[], body).await.unwrap();
    assert_eq!(answer.status(), 201);
    let warnings: Vec<_> = answer.headers().get_all("warning").iter().cloned().collect();
    let expected =
        ["299 - \"duplicate field \\\"data.a\\\"\"", "299 - \"unknown field \\\"dada\\\"\""];
    assert_eq!(warnings, expected);
    answer.into_body().collect().await.unwrap();

    let strict = format!("{MAPS}?fieldValidation=Strict");
    let yaml = "metadata: {name: other}\ndata: {a: b}\ndata: {a: c}\n";
    let answer = client.send("POST", &strict, &[("content-type", "application/yaml")], yaml).await;
    let answer = answer.unwrap();
    assert_eq!(answer.status(), 400);
    let bytes = answer.into_body().collect().await.unwrap().to_bytes();
    let status: Value = serde_json::from_slice(&bytes).unwrap();
    let message = status["message"].as_str().unwrap();
    assert!(message.ends_with("strict decoding error: duplicate field \"data\""), "{message}");

    let patch = json!({"data": {"b": 1}});
    let merge = "application/merge-patch+json";
    let (code, status) = client.typed("PATCH", &format!("{MAPS}/m"), merge, &patch).await;
    assert_eq!(code, 400, "{status}");
    let message = status["message"].as_str().unwrap();
    assert!(message.contains("ConfigMap.data.b of type string"), "{message}");
    let patch = json!({"x": 1});
    let path = format!("{MAPS}/m?fieldValidation=Strict");
    let (code, status) = client.typed("PATCH", &path, merge, &patch).await;
    assert_eq!((code, &status["details"]["causes"][0]["field"]), (422, &json!("patch")));
}

#[tokio::test]
async fn a_dry_run_leaves_nothing_behind() {
    let cluster = Cluster::start();
    let mut client = cluster.admin().await;
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m"}});
    let made = client.ok("POST", &format!("{MAPS}?dryRun=All"), &map).await;
    assert!(made["metadata"]["uid"].is_string());
    assert_eq!(client.get(&format!("{MAPS}/m")).await.0, 404);
    let before = client.ok("POST", MAPS, &map).await;
    let mut changed = before.clone();
    changed["data"] = json!({"a": "1"});
    let path = format!("{MAPS}/m?dryRun=All&fieldManager=me");
    let answer = client.ok("PUT", &path, &changed).await;
    assert_eq!(answer["data"], json!({"a": "1"}));
    changed["metadata"] = json!({"name": "m"});
    let apply = "application/apply-patch+yaml";
    let (code, answer) = client.typed("PATCH", &path, apply, &changed).await;
    assert_eq!(code, 200, "{answer}");
    for policy in ["Foreground", "Orphan"] {
        let options = json!({"dryRun": ["All"], "propagationPolicy": policy});
        let answer = client.ok("DELETE", &format!("{MAPS}/m"), &options).await;
        let finalizer = if policy == "Orphan" { "orphan" } else { "foregroundDeletion" };
        assert_eq!(answer["metadata"]["finalizers"], json!([finalizer]));
        assert!(answer["metadata"]["deletionTimestamp"].is_string());
    }
    client.ok("DELETE", &format!("{MAPS}?dryRun=All"), &Value::Null).await;
    assert_eq!(client.get(&format!("{MAPS}/m")).await.1, before);
    let options = json!({"dryRun": ["Some"]});
    assert_eq!(client.json("DELETE", &format!("{MAPS}/m"), &options).await.0, 400);
}

#[tokio::test]
async fn large_answers_are_compressed_for_who_accepts_it() {
    let cluster = Cluster::start();
    let mut client = cluster.admin().await;
    let map = json!({"metadata": {"name": "m"}, "data": {"a": "x".repeat(200 << 10)}});
    client.ok("POST", MAPS, &map).await;
    let headers = [("accept-encoding", "gzip")];
    // The namespace has a ConfigMap of its own.
    let path = format!("{MAPS}?fieldSelector=metadata.name%3Dm");
    let answer = client.send("GET", &path, &headers, "").await.unwrap();
    assert_eq!(answer.headers()["content-encoding"], "gzip");
    let bytes = answer.into_body().collect().await.unwrap().to_bytes();
    assert!(bytes.len() < 100 << 10);
    let mut text = String::new();
    flate2::read::GzDecoder::new(&bytes[..]).read_to_string(&mut text).unwrap();
    let list: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(list["items"][0]["data"], map["data"]);
    for (path, headers) in [(path.as_str(), &[][..]), ("/api/v1/namespaces", &headers[..])] {
        let answer = client.send("GET", path, headers, "").await.unwrap();
        assert!(!answer.headers().contains_key("content-encoding"), "{path}");
        answer.into_body().collect().await.unwrap();
    }
}

#[tokio::test]
async fn an_apply_conflicts_with_who_owns_what_it_changes() {
    let cluster = Cluster::start();
    let mut client = cluster.admin().await;
    let apply = "application/apply-patch+yaml";
    let map = |value: &str| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m"}, "data": {"a": value}});
    let path = |query: &str| format!("{MAPS}/m?{query}");
    let (code, made) = client.typed("PATCH", &path("fieldManager=one"), apply, &map("1")).await;
    assert_eq!(code, 201, "{made}");
    assert_eq!(made["metadata"]["managedFields"][0]["manager"], "one");
    let (code, status) = client.typed("PATCH", &path("fieldManager=two"), apply, &map("2")).await;
    let expected = json!([{"reason": "FieldManagerConflict", "message": "conflict with \"one\"", "field": ".data.a"}]);
    assert_eq!((code, &status["details"]["causes"]), (409, &expected));
    assert_eq!(status["message"], "Apply failed with 1 conflict: conflict with \"one\": .data.a");
    let (code, _) =
        client.typed("PATCH", &path("fieldManager=two&force=true"), apply, &map("2")).await;
    assert_eq!(code, 200);
    let (_, now) = client.get(&format!("{MAPS}/m")).await;
    assert_eq!(now["data"], json!({"a": "2"}));
    let (code, status) = client.typed("PATCH", &path(""), apply, &map("2")).await;
    assert_eq!(code, 422, "{status}");
    let mut managed = map("1");
    managed["metadata"]["managedFields"] = json!([]);
    let (code, status) = client.typed("PATCH", &path("fieldManager=x"), apply, &managed).await;
    assert_eq!((code, &status["message"]), (400, &json!("metadata.managedFields must be nil")));
}

#[tokio::test]
async fn an_apply_to_the_status_owns_the_status_only() {
    const PODS: &str = "/api/v1/namespaces/default/pods";
    let cluster = Cluster::start();
    let mut client = cluster.admin().await;
    // No scheduler writes to it meanwhile.
    let spec = json!({
        "schedulerName": "none", "containers": [{"name": "c", "image": "busybox"}],
    });
    client.ok("POST", PODS, &json!({"metadata": {"name": "p"}, "spec": spec})).await;
    let path = |query: &str| format!("{PODS}/p/status?{query}");
    let apply = "application/apply-patch+yaml";
    let status = |message: &str| {
        json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"},
            // Not of the status: neither changed nor anybody's conflict.
            "spec": {"containers": [{"name": "c", "image": "other"}]},
            "status": {"message": message},
        })
    };
    let one = "fieldManager=one";
    let (code, applied) = client.typed("PATCH", &path(one), apply, &status("a")).await;
    assert_eq!((code, &applied["status"]["message"]), (200, &json!("a")), "{applied}");
    assert_eq!(applied["spec"]["containers"][0]["image"], "busybox");
    let managers = applied["metadata"]["managedFields"].as_array().unwrap();
    let entry = managers.iter().find(|entry| entry["manager"] == "one").unwrap();
    assert_eq!(entry["subresource"], "status");
    assert_eq!(entry["fieldsV1"], json!({"f:status": {"f:message": {}}}));
    let (code, again) = client.typed("PATCH", &path(one), apply, &status("a")).await;
    assert_eq!((code, &again), (200, &applied));
    let two = path("fieldManager=two");
    let (code, refused) = client.typed("PATCH", &two, apply, &status("b")).await;
    let causes = refused["details"]["causes"].as_array().unwrap();
    assert_eq!((code, causes.len()), (409, 1), "{refused}");
    assert_eq!(causes[0]["field"], ".status.message", "{refused}");
}

#[tokio::test]
async fn what_was_answered_can_be_put_back() {
    let cluster = Cluster::start();
    let mut client = cluster.admin().await;
    let map = json!({"metadata": {"name": "m", "annotations": {}, "finalizers": null}});
    let created = client.ok("POST", MAPS, &map).await;
    assert!(created["metadata"].get("annotations").is_none(), "{created}");
    let (code, same) = client.json("PUT", &format!("{MAPS}/m"), &created).await;
    assert_eq!((code, same), (200, created));
}

/// Watches from a version until its past is forgotten: what is answered then.
async fn forgotten(client: &mut crate::common::Client, version: &str) -> Value {
    let began = std::time::Instant::now();
    let watch = format!("{MAPS}?watch=1&timeoutSeconds=1&resourceVersion={version}");
    for n in 0.. {
        // What is newest is never forgotten.
        let next = json!({"data": {"n": n.to_string()}});
        let merge = "application/merge-patch+json";
        client.typed("PATCH", &format!("{MAPS}/first"), merge, &next).await;
        let (code, answer) = client.get(&watch).await;
        if code == 410 {
            return answer;
        }
        assert_eq!(code, 200, "{answer}");
        assert!(began.elapsed() < crate::common::LIMIT, "it is kept for ever");
    }
    unreachable!("the loop ends by itself")
}

async fn the_past_is_forgotten(cluster: Cluster) {
    let mut client = cluster.admin().await;
    for name in ["first", "second", "third"] {
        client.ok("POST", MAPS, &json!({"metadata": {"name": name}})).await;
    }
    let page = client.ok("GET", &format!("{MAPS}?limit=1"), &Value::Null).await;
    let old = page["metadata"]["resourceVersion"].as_str().unwrap();
    let gone = forgotten(&mut client, old).await;
    assert_eq!((&gone["kind"], &gone["reason"]), (&json!("Status"), &json!("Expired")), "{gone}");

    // A list that was begun in it goes on with what there is now, by the token that the answer has.
    let token = page["metadata"]["continue"].as_str().unwrap();
    let (code, gone) = client.get(&format!("{MAPS}?limit=9&continue={token}")).await;
    assert_eq!((code, &gone["reason"]), (410, &json!("Expired")), "{gone}");
    let token = gone["metadata"]["continue"].as_str().unwrap();
    let rest = client.ok("GET", &format!("{MAPS}?limit=9&continue={token}"), &Value::Null).await;
    let names = rest["items"].as_array().unwrap().iter().map(|one| &one["metadata"]["name"]);
    let last: Vec<_> = names.rev().take(2).collect();
    assert_eq!(last, ["third", "second"], "{rest}");

    // Whoever watched lists, and goes on from there.
    let mut watching = cluster.admin().await;
    let mut watch = loop {
        let list = client.ok("GET", MAPS, &Value::Null).await;
        let version = list["metadata"]["resourceVersion"].as_str().unwrap();
        let path = format!("{MAPS}?watch=1&resourceVersion={version}");
        let answer = watching.send("GET", &path, &[], bytes::Bytes::new()).await.unwrap();
        if answer.status() == 200 {
            break crate::common::Lines::of(answer);
        }
        // That is forgotten again where a second is not enough for both.
        assert_eq!(answer.status(), 410);
        answer.into_body().collect().await.unwrap();
    };
    client.ok("POST", MAPS, &json!({"metadata": {"name": "fourth"}})).await;
    let event = watch.next().await;
    assert_eq!(
        (&event["type"], &event["object"]["metadata"]["name"]),
        (&json!("ADDED"), &json!("fourth")),
        "{event}"
    );
}

#[tokio::test]
async fn who_watched_the_forgotten_past_begins_with_a_list() {
    the_past_is_forgotten(Cluster::with(&["--compaction-interval", "1"])).await;
}

#[tokio::test]
async fn who_watched_the_forgotten_past_in_etcd_begins_with_a_list() {
    let etcd = bulkhead_test_etcd::Etcd::start();
    let options = ["--etcd-servers", &etcd.url(), "--compaction-interval", "1"];
    the_past_is_forgotten(Cluster::with(&options)).await;
}
