//! Clients that mean no good.

use std::time::{Duration, Instant};

use http::StatusCode;
use http::{Request, Response};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::client::{get, raw, tls};
use crate::world::{LIMIT, Notes, World, backend, full, rule};

/// A world with a backend that notes the requests that it sees, each as its method, target and body.
async fn world() -> (World, Notes) {
    let world = World::start().await;
    let notes = Notes::default();
    let own = notes.clone();
    let address = backend(move |request: Request<Incoming>| {
        let notes = own.clone();
        async move {
            let head = format!("{} {}", request.method(), request.uri());
            let body = request.into_body().collect().await;
            // A request whose body does not come whole is none.
            if let Ok(body) = body {
                let body = String::from_utf8_lossy(&body.to_bytes()).into_owned();
                if head != "GET /probe" {
                    notes.add(format!("{head} {body}"));
                }
            }
            Response::new(full("seen"))
        }
    });
    world.serve("a", address.await).await;
    world.ingress("i", json!({"rules": [rule("h", "/", "Prefix", "a")]})).await;
    world.until(|| async { get(world.http, "h", "/probe").await.0 == StatusCode::OK }).await;
    (world, notes)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backend_never_sees_a_request_that_was_not_routed() {
    let (world, notes) = world().await;
    let smuggled = "GET /smuggled HTTP/1.1\r\nHost: h\r\n\r\n";
    let length = smuggled.len() + 5;
    for head in [
        // Two ways to say where a body ends.
        format!("Content-Length: {length}\r\nTransfer-Encoding: chunked\r\n"),
        format!("Transfer-Encoding: chunked\r\nContent-Length: {length}\r\n"),
        format!("Content-Length: {length}\r\nTransfer-Encoding : chunked\r\n"),
        format!("Content-Length: {length}\r\nTransfer-Encoding:\x0bchunked\r\n"),
        format!("Content-Length: {length}\r\nTransfer-Encoding: xchunked\r\n"),
        format!("Content-Length: {length}\r\nTransfer-Encoding: chunked, identity\r\n"),
        format!("Content-Length: {length}\r\n Transfer-Encoding: chunked\r\n"),
        format!("Content-Length: {length}\r\nX: y\rTransfer-Encoding: chunked\r\n"),
        format!("Content-Length: {length}\r\nConnection: content-length\r\n"),
        // Two lengths.
        format!("Content-Length: 5\r\nContent-Length: {length}\r\n"),
        format!("Content-Length: {length}, 5\r\n"),
        format!("Content-Length: +{length}\r\n"),
        "Content-Length: 0x5\r\n".to_owned(),
    ] {
        let sent = format!(
            "POST /posted HTTP/1.1\r\nHost: h\r\nConnection: close\r\n{head}\r\n0\r\n\r\n{smuggled}"
        );
        let answer = raw(world.http, sent.as_bytes()).await;
        let seen = notes.all();
        assert!(!seen.iter().any(|one| one.starts_with("GET /smuggled")), "{head:?}: {seen:?}");
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{head:?}: {answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_request_is_refused() {
    let (world, notes) = world().await;
    for (request, status) in [
        ("GET / HTTP/1.1\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: h\r\nHost: h\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: h, evil\r\n\r\n", 400),
        ("GET http://evil/ HTTP/1.1\r\nHost: h\r\n\r\n", 400),
        ("GET /../secret HTTP/1.1\r\nHost: h\r\n\r\n", 400),
        ("GET /a/%2e%2e/secret HTTP/1.1\r\nHost: h\r\n\r\n", 400),
        ("GET /%zz HTTP/1.1\r\nHost: h\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: h\r\nBad Name: x\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: h\r\nX: a\0b\r\n\r\n", 400),
        ("GET / HTTP/3.0\r\nHost: h\r\n\r\n", 400),
        ("CONNECT h:80 HTTP/1.1\r\nHost: h:80\r\n\r\n", 405),
        ("TRACE / HTTP/1.1\r\nHost: h\r\n\r\n", 405),
        ("OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: other\r\n\r\n", 404),
    ] {
        // The first byte of the next request, for those that keep the connection: it ends there.
        let sent = request.replacen("\r\n\r\n", "\r\nConnection: close\r\n\r\n", 1);
        let answer = raw(world.http, sent.as_bytes()).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{request:?}: {answer}");
    }
    assert_eq!(notes.all(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_are_bounded() {
    let (world, notes) = world().await;
    let long = |header: &str| {
        format!("GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n{header}\r\n\r\n")
    };
    for header in [
        format!("X: {}", "x".repeat(1 << 20)),
        (0..10_000).map(|index| format!("x-{index}: 1")).collect::<Vec<_>>().join("\r\n"),
        format!("X{}: 1", "x".repeat(1 << 20)),
    ] {
        let answer = raw(world.http, long(&header).as_bytes()).await;
        // It may be cut off before it reads the answer.
        let refused = answer.is_empty() || answer.starts_with("HTTP/1.1 431 ");
        assert!(refused, "{:.100}", answer);
    }
    let target = format!("GET /{} HTTP/1.1\r\nHost: h\r\n\r\n", "x".repeat(1 << 20));
    let answer = raw(world.http, target.as_bytes()).await;
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{:.100}", answer);
    assert_eq!(notes.all(), Vec::<String>::new());
    // What a browser sends comes through.
    let answer =
        raw(world.http, long(&format!("Cookie: {}", "c".repeat(16 << 10))).as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_says_nothing_or_says_it_slowly_is_cut_off() {
    let (world, _) = world().await;
    let began = Instant::now();
    let silent = raw_end(TcpStream::connect(world.http).await.unwrap());
    let no_handshake = raw_end(TcpStream::connect(world.https).await.unwrap());
    let no_request = raw_end(tls(world.https, "h", "http/1.1").await);
    let no_http2_request = raw_end(tls(world.https, "h", "h2").await);
    let slow = async {
        let mut stream = TcpStream::connect(world.http).await.unwrap();
        for byte in b"GET / HTTP/1.1\r\nHost: h\r\n".iter().cycle() {
            if stream.write_all(&[*byte]).await.is_err() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    };
    // Others are served meanwhile.
    let others = async {
        while began.elapsed() < Duration::from_secs(5) {
            assert_eq!(get(world.http, "h", "/").await.0, StatusCode::OK);
        }
    };
    let all =
        async { tokio::join!(silent, no_handshake, no_request, no_http2_request, slow, others) };
    tokio::time::timeout(LIMIT, all).await.unwrap();
    assert!(began.elapsed() >= Duration::from_secs(9), "they are given some time");
}

/// Until the other side closes.
async fn raw_end(mut stream: impl tokio::io::AsyncRead + Unpin) {
    // A reset is an end as well.
    let _ = stream.read_to_end(&mut Vec::new()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_lets_requests_end() {
    let world = World::start().await;
    let (begun, release) = (tokio::sync::Notify::new(), tokio::sync::Notify::new());
    let shared = std::sync::Arc::new((begun, release));
    let own = std::sync::Arc::clone(&shared);
    let address = backend(move |request: Request<Incoming>| {
        let shared = std::sync::Arc::clone(&own);
        async move {
            if request.uri() == "/slow" {
                shared.0.notify_one();
                shared.1.notified().await;
            }
            Response::new(full("done"))
        }
    });
    world.serve("a", address.await).await;
    world.ingress("i", json!({"rules": [rule("h", "/", "Prefix", "a")]})).await;
    world.until(|| async { get(world.http, "h", "/").await.0 == StatusCode::OK }).await;
    let http = world.http;
    let slow = tokio::spawn(async move { get(http, "h", "/slow").await });
    tokio::time::timeout(LIMIT, shared.0.notified()).await.unwrap();
    world.stop();
    world.until(|| async { TcpStream::connect(http).await.is_err() }).await;
    shared.1.notify_one();
    assert_eq!(slow.await.unwrap(), (StatusCode::OK, "done".into()));
}
