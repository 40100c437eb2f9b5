//! Certificates, redirects, HTTP/2.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bulkhead_client::{Client as _, DeleteOptions, Patch, Target};
use bytes::Bytes;
use http::{Request, StatusCode, Version};
use http_body_util::Full;
use rustls_pki_types::CertificateDer;
use serde_json::{Value, json};

use crate::client::{get, http2, send, shown, text};
use crate::world::{CLIENT, INGRESSES, SECRETS, World, echo, named, object, rule};

/// A Secret with a certificate for a name, and that certificate.
fn certificate(secret: &str, name: &str) -> (Value, CertificateDer<'static>) {
    let made = rcgen::generate_simple_self_signed(vec![name.to_owned()]).unwrap();
    let data = json!({
        "tls.crt": BASE64.encode(made.cert.pem()),
        "tls.key": BASE64.encode(made.signing_key.serialize_pem()),
    });
    let mut object = object("v1", "Secret", secret, ("data", data));
    object["type"] = "kubernetes.io/tls".into();
    (object, made.cert.der().clone())
}

#[tokio::test(flavor = "multi_thread")]
async fn each_host_is_shown_its_certificate_and_the_newest() {
    let world = World::start().await;
    world.serve("a", named("a").await).await;
    let default = shown(world.https, "www.example.com").await;
    let (one, first) = certificate("one", "www.example.com");
    let (wild, wildcard) = certificate("wild", "*.example.com");
    world.create(&SECRETS, one).await;
    let spec = json!({
        "tls": [
            {"hosts": ["www.example.com"], "secretName": "one"},
            {"hosts": ["*.example.com"], "secretName": "wild"},
        ],
        "rules": [rule("www.example.com", "/", "Prefix", "a")],
    });
    world.ingress("i", spec).await;
    world.until(|| async { shown(world.https, "www.example.com").await == first }).await;
    assert_eq!(shown(world.https, "other.example.com").await, default, "its Secret is not there");
    world.create(&SECRETS, wild).await;
    world.until(|| async { shown(world.https, "other.example.com").await == wildcard }).await;
    assert_eq!(shown(world.https, "a.other.example.com").await, default);

    // Rotated, broken, mended, deleted.
    let (rotated, second) = certificate("one", "www.example.com");
    let set = |data: Value| {
        let patch = Patch::Merge(json!({"data": data}));
        world.admin.patch(&SECRETS, Some("default"), "one", Target::Main, patch)
    };
    set(rotated["data"].clone()).await.unwrap();
    world.until(|| async { shown(world.https, "www.example.com").await == second }).await;
    let (other, _) = certificate("one", "www.example.com");
    set(json!({"tls.key": other["data"]["tls.key"]})).await.unwrap();
    // The wildcard's is the next that fits.
    world.until(|| async { shown(world.https, "www.example.com").await == wildcard }).await;
    set(rotated["data"].clone()).await.unwrap();
    world.until(|| async { shown(world.https, "www.example.com").await == second }).await;
    let options = DeleteOptions::default();
    world.admin.delete(&SECRETS, Some("default"), "one", &options).await.unwrap();
    world.until(|| async { shown(world.https, "www.example.com").await == wildcard }).await;
    world.admin.delete(&INGRESSES, Some("default"), "i", &options).await.unwrap();
    world.until(|| async { shown(world.https, "www.example.com").await == default }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hosts_with_certificates_are_served_over_tls_and_clients_are_sent_there() {
    let world = World::start().await;
    world.serve("a", echo().await).await;
    let spec = json!({
        "tls": [{"hosts": ["secure.b"]}],
        "rules": [
            rule("secure.b", "/", "Prefix", "a"),
            rule("plain.b", "/", "Prefix", "a"),
        ],
    });
    let mut ingress = world.ingress("i", spec).await;
    world.until(|| async { get(world.http, "plain.b", "/").await.0 == StatusCode::OK }).await;
    let request = Request::builder().method("POST").uri("/a/b?c=d").header("host", "secure.b:1");
    let answer = send(world.http, request.body(Full::from("x")).unwrap()).await.unwrap();
    assert_eq!(answer.status(), StatusCode::PERMANENT_REDIRECT);
    let location = format!("https://secure.b:{}/a/b?c=d", world.https.port());
    assert_eq!(answer.headers()["location"], location.as_str());

    // Both are served over TLS, and the backend is told.
    let mut connection = http2(world.https, "secure.b").await;
    let uri = format!("https://secure.b:{}/x?y", world.https.port());
    let request = Request::builder().uri(&uri).header("cookie", "a=1").header("cookie", "b=2");
    let request = request.body(Full::<Bytes>::default()).unwrap();
    let answer = connection.send_request(request).await.unwrap();
    assert_eq!((answer.status(), answer.version()), (StatusCode::OK, Version::HTTP_2));
    let said: Value = serde_json::from_str(&text(answer).await.unwrap()).unwrap();
    let host = format!("secure.b:{}", world.https.port());
    assert_eq!(said["target"], "/x?y");
    assert_eq!(said["headers"]["host"], json!([host]));
    assert_eq!(said["headers"]["cookie"], json!(["a=1; b=2"]));
    assert_eq!(said["headers"]["x-forwarded-proto"], json!(["https"]));
    assert_eq!(said["headers"]["x-forwarded-for"], json!([CLIENT.to_string()]));
    assert_eq!(said["headers"]["x-forwarded-port"], json!([world.https.port().to_string()]));

    ingress["metadata"]["annotations"] = json!({bulkhead_ingress::REDIRECT: "false"});
    let patch =
        Patch::Merge(json!({"metadata": {"annotations": ingress["metadata"]["annotations"]}}));
    let patched = world.admin.patch(&INGRESSES, Some("default"), "i", Target::Main, patch);
    patched.await.unwrap();
    world.until(|| async { get(world.http, "secure.b", "/").await.0 == StatusCode::OK }).await;
}
