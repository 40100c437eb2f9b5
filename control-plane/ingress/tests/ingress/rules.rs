//! Hosts, paths, classes; what Ingresses are told.

use bulkhead_client::{Client as _, DeleteOptions, Kind, Patch, Target};
use http::StatusCode;
use serde_json::{Value, json};

use crate::client::get;
use crate::world::{CLASSES, INGRESSES, SERVICES, World, named, rule};

#[tokio::test(flavor = "multi_thread")]
async fn hosts_and_paths_lead_where_ingresses_say() {
    let world = World::start().await;
    for name in ["a", "b", "c"] {
        world.serve(name, named(name).await).await;
    }
    let ingress = world.ingress(
        "one",
        json!({
            "defaultBackend": {"service": {"name": "c", "port": {"name": "http"}}},
            "rules": [
                rule("www.example.com", "/", "Prefix", "a"),
                rule("www.example.com", "/b", "Prefix", "b"),
                rule("*.example.com", "/b", "Exact", "b"),
            ],
        }),
    );
    let ingress = ingress.await;
    assert_eq!(ingress["spec"]["ingressClassName"], "bulkhead", "it is the default");
    // Of each backend it hears by itself.
    for (host, path, leads) in
        [("www.example.com", "/b", "b"), ("www.example.com", "/", "a"), ("else", "/", "c")]
    {
        world.until(|| async { get(world.http, host, path).await.1 == leads }).await;
    }
    for (host, path, leads) in [
        ("WWW.example.com:81", "/", "a"),
        ("www.example.com", "/bb?x=/b", "a"),
        ("www.example.com", "/b/c", "b"),
        ("www.example.com", "/%62/c", "b"),
        ("other.example.com", "/b", "b"),
        ("other.example.com", "/b/", "c"),
        ("x.other.example.com", "/b", "c"),
        ("else", "/", "c"),
    ] {
        assert_eq!(
            get(world.http, host, path).await,
            (StatusCode::OK, leads.into()),
            "{host}{path}"
        );
    }

    // Where it is served.
    let told = || async {
        let ingress = world.admin.get(&INGRESSES, Some("default"), "one").await.unwrap();
        let port = |port: u16| json!({"port": port, "protocol": "TCP"});
        ingress["status"]["loadBalancer"]["ingress"]
            == json!([{
                "ip": "127.0.0.1",
                "ports": [port(world.http.port()), port(world.https.port())],
            }])
    };
    world.until(told).await;

    // Rules come and go.
    let options = DeleteOptions::default();
    world.admin.delete(&INGRESSES, Some("default"), "one", &options).await.unwrap();
    let gone = || async { get(world.http, "else", "/").await.0 == StatusCode::NOT_FOUND };
    world.until(gone).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_ingresses_of_its_classes_are_served() {
    let world = World::start().await;
    world.serve("a", named("a").await).await;
    let class = |name: &str, controller: &str| {
        json!({
            "apiVersion": "networking.k8s.io/v1",
            "kind": "IngressClass",
            "metadata": {"name": name},
            "spec": {"controller": controller},
        })
    };
    world.create(&CLASSES, class("theirs", "example.com/other")).await;
    let spec = |class: &str, host: &str| json!({"ingressClassName": class, "rules": [rule(host, "/", "Prefix", "a")]});
    world.ingress("theirs", spec("theirs", "theirs.b")).await;
    world.ingress("later", spec("later", "later.b")).await;
    world.ingress("ours", spec("bulkhead", "ours.b")).await;
    world.until(|| async { get(world.http, "ours.b", "/").await.1 == "a" }).await;
    for host in ["theirs.b", "later.b"] {
        assert_eq!(get(world.http, host, "/").await.0, StatusCode::NOT_FOUND);
    }
    let theirs = world.admin.get(&INGRESSES, Some("default"), "theirs").await.unwrap();
    assert_eq!(theirs["status"]["loadBalancer"], json!({}));

    // Another class of the same controller, made after its Ingress.
    world.create(&CLASSES, class("later", bulkhead_ingress::CONTROLLER)).await;
    world.until(|| async { get(world.http, "later.b", "/").await.1 == "a" }).await;
}

/// The reasons of the events about an Ingress, with their messages.
async fn events(world: &World, ingress: &str) -> Vec<(String, String)> {
    let (events, _) = world.admin.list(&Kind::EVENTS, Some("default")).await.unwrap();
    let about = events.iter().filter(|event| {
        event["involvedObject"]["kind"] == "Ingress" && event["involvedObject"]["name"] == ingress
    });
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    about.map(|event| (text(&event["reason"]), text(&event["message"]))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_served_is_told_and_served_once_it_can() {
    let world = World::start().await;
    let spec = json!({
        "tls": [{"hosts": ["a.b"], "secretName": "none"}],
        "rules": [rule("x.b", "/", "Prefix", "late")],
    });
    world.ingress("one", spec).await;
    let told = |reason: &'static str, part: &'static str| {
        let world = &world;
        async move {
            let events = events(world, "one").await;
            events.iter().any(|(r, message)| r == reason && message.contains(part))
        }
    };
    world.until(|| told("ServiceNotFound", "\"default/late\"")).await;
    world.until(|| told("SecretNotFound", "\"default/none\"")).await;
    let answer = || async { get(world.http, "x.b", "/").await };
    world.until(|| async { answer().await.0 == StatusCode::SERVICE_UNAVAILABLE }).await;

    // A Service without endpoints, then with one.
    world.service("late").await;
    world.until(|| async { answer().await.1 == "no endpoint is ready\n" }).await;
    world.endpoint("late", named("late").await, json!({"ready": true})).await;
    world.until(|| async { answer().await.1 == "late" }).await;

    // Its port goes another way.
    let patch = json!([{"op": "replace", "path": "/spec/ports/0/port", "value": 81}]);
    let patched =
        world.admin.patch(&SERVICES, Some("default"), "late", Target::Main, Patch::Json(patch));
    patched.await.unwrap();
    world.until(|| told("ServicePortNotFound", "no port 80")).await;
    assert_eq!(answer().await.0, StatusCode::SERVICE_UNAVAILABLE);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_but_a_named_one_can_be_read() {
    let world = World::start().await;
    let may = |name: &'static str| {
        let world = &world;
        async move {
            let review = json!({
                "apiVersion": "authorization.k8s.io/v1",
                "kind": "SubjectAccessReview",
                "spec": {
                    "user": "system:bulkhead:ingress",
                    "resourceAttributes": {
                        "verb": "watch", "resource": "secrets", "namespace": "default", "name": name,
                    },
                },
            });
            let kind = Kind::new("authorization.k8s.io", "v1", "subjectaccessreviews");
            world.create(&kind, review).await["status"]["allowed"] == true
        }
    };
    assert!(!may("cert").await);
    let spec = json!({
        "tls": [{"hosts": ["a.b"], "secretName": "cert"}],
        "rules": [rule("a.b", "/", "Prefix", "a")],
    });
    world.ingress("one", spec).await;
    assert!(may("cert").await && !may("other").await && !may("").await);
}
