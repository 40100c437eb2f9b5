//! Endpoints that come and go under load.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use bulkhead_client::{Client as _, DeleteOptions};
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use serde_json::json;

use crate::client::{connect, get, text};
use crate::world::{SLICES, World, bind, full, rule, serve};

/// A pod's server.
struct Pod {
    address: std::net::SocketAddr,
    task: tokio::task::JoinHandle<()>,
    /// Requests that it got.
    seen: Arc<AtomicUsize>,
    /// Those of them that it has not answered.
    busy: Arc<AtomicUsize>,
}

impl Pod {
    async fn start() -> Self {
        let listener = bind().await;
        let address = listener.local_addr().unwrap();
        let (seen, busy) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let counts = (Arc::clone(&seen), Arc::clone(&busy));
        let answer = move |request: Request<Incoming>| {
            let (seen, busy) = counts.clone();
            async move {
                busy.fetch_add(1, Ordering::SeqCst);
                seen.fetch_add(1, Ordering::SeqCst);
                let body = request.into_body().collect().await.unwrap().to_bytes();
                busy.fetch_sub(1, Ordering::SeqCst);
                Response::new(full(body))
            }
        };
        Self { address, task: tokio::spawn(serve(listener, answer)), seen, busy }
    }

    fn slice(&self) -> String {
        format!("web-{}", self.address.port())
    }
}

/// Asks over one connection until told to stop; how many answers were right. A failure ends the test.
async fn load(http: std::net::SocketAddr, stop: Arc<AtomicBool>, asked: Arc<AtomicUsize>) {
    let mut client = connect(http).await;
    while !stop.load(Ordering::SeqCst) {
        let index = asked.fetch_add(1, Ordering::SeqCst);
        let body = if index.is_multiple_of(2) { String::new() } else { format!("body {index}") };
        let method = if body.is_empty() { "GET" } else { "POST" };
        let request = Request::builder().method(method).uri("/").header("host", "h");
        client.ready().await.unwrap();
        let request = request.body(Full::<Bytes>::from(body.clone())).unwrap();
        let answer = client.send_request(request).await.unwrap();
        let status = answer.status();
        let said = text(answer).await.unwrap();
        assert_eq!((status, said), (StatusCode::OK, body));
        // Others want to run too.
        tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rolling_update_fails_no_request() {
    let world = World::start().await;
    world.service("web").await;
    world.ingress("i", json!({"rules": [rule("h", "/", "Prefix", "web")]})).await;
    let mut pods = Vec::new();
    for _ in 0..3 {
        let pod = Pod::start().await;
        world.endpoint("web", pod.address, json!({"ready": true})).await;
        pods.push(pod);
    }
    world.until(|| async { get(world.http, "h", "/").await.0 == StatusCode::OK }).await;
    let (stop, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let mut loads = tokio::task::JoinSet::new();
    for _ in 0..8 {
        loads.spawn(load(world.http, Arc::clone(&stop), Arc::clone(&asked)));
    }
    for _ in 0..6 {
        // As a Deployment does it: one comes, one is told to end, does, and is gone.
        let new = Pod::start().await;
        world.endpoint("web", new.address, json!({"ready": true})).await;
        let old = pods.remove(0);
        pods.push(new);
        let ending = json!({"ready": false, "serving": true, "terminating": true});
        world.endpoint("web", old.address, ending).await;
        // It ends when nobody has asked it anything for a while, as a grace period has it.
        let mut since = (0, 0);
        world
            .until(|| {
                let now = (old.seen.load(Ordering::SeqCst), asked.load(Ordering::SeqCst));
                if now.0 != since.0 {
                    since = now;
                }
                let quiet = now.1 > since.1 + 100 && old.busy.load(Ordering::SeqCst) == 0;
                async move { quiet }
            })
            .await;
        old.task.abort();
        let options = DeleteOptions::default();
        world.admin.delete(&SLICES, Some("default"), &old.slice(), &options).await.unwrap();
    }
    stop.store(true, Ordering::SeqCst);
    while let Some(load) = loads.join_next().await {
        load.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_dies_without_a_word_is_passed_over() {
    let world = World::start().await;
    world.service("web").await;
    world.ingress("i", json!({"rules": [rule("h", "/", "Prefix", "web")]})).await;
    let (stays, dies) = (Pod::start().await, Pod::start().await);
    for pod in [&stays, &dies] {
        world.endpoint("web", pod.address, json!({"ready": true})).await;
    }
    world.until(|| async { get(world.http, "h", "/").await.0 == StatusCode::OK }).await;
    for _ in 0..20 {
        assert_eq!(get(world.http, "h", "/").await.0, StatusCode::OK);
    }
    // Its connections end with it, those that are kept for the next request as well.
    dies.task.abort();
    assert!(dies.task.await.unwrap_err().is_cancelled());
    for _ in 0..20 {
        assert_eq!(get(world.http, "h", "/").await.0, StatusCode::OK);
    }
}
