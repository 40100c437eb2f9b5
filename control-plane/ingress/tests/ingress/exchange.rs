//! One request and its answer: headers, streams, upgrades, and endpoints that fail.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::mpsc;

use crate::client::{connect, get, raw, send, text};
use crate::world::{
    CLIENT, LIMIT, Notes, World, backend, bind, echo, full, named, own_address, rule,
};

/// A world in which every request goes to the Service `a`, which has no endpoints yet.
async fn world() -> World {
    of(World::start().await).await
}

async fn of(world: World) -> World {
    world.service("a").await;
    world.ingress("i", json!({"rules": [rule("", "/", "Prefix", "a")]})).await;
    let known = || async { get(world.http, "h", "/").await.1 == "no endpoint is ready\n" };
    world.until(known).await;
    world
}

impl World {
    async fn leads_to(&self, endpoint: std::net::SocketAddr) {
        self.endpoint("a", endpoint, json!({"ready": true})).await;
    }

    /// Waits until some endpoint answers.
    async fn answers(&self) {
        self.until(|| async { get(self.http, "h", "/").await.0 == StatusCode::OK }).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backend_gets_what_a_client_said_but_for_what_is_about_the_connection() {
    let world = world().await;
    world.leads_to(echo().await).await;
    world.answers().await;
    let request = Request::builder()
        .method("PURGE")
        .uri("/a%2Fb/%7e?q=%20")
        .header("host", "www.example.com:81")
        .header("x-custom", "1")
        .header("x-custom", "2")
        .header("connection", "x-hop")
        .header("x-hop", "1")
        .header("x-forwarded-for", "1.2.3.4");
    let answer = send(world.http, request.body(Full::default()).unwrap()).await.unwrap();
    let said: Value = serde_json::from_str(&text(answer).await.unwrap()).unwrap();
    let expected = json!({
        "method": "PURGE",
        "target": "/a%2Fb/%7e?q=%20",
        "headers": {
            "host": ["www.example.com:81"],
            "x-custom": ["1", "2"],
            "x-forwarded-for": [CLIENT.to_string()],
            "x-forwarded-host": ["www.example.com:81"],
            "x-forwarded-port": [world.http.port().to_string()],
            "x-forwarded-proto": ["http"],
            "x-real-ip": [CLIENT.to_string()],
        },
    });
    assert_eq!(said, expected);

    // One of HTTP/1.0, without a host.
    let answer = raw(world.http, b"GET / HTTP/1.0\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.0 200 OK\r\n"), "{answer}");
    assert!(answer.contains("\"target\":\"/\""), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_are_streamed_both_ways_at_once() {
    let world = world().await;
    // What comes goes back at once, in capitals.
    let address = backend(|request: Request<hyper::body::Incoming>| async move {
        if request.method() == "GET" {
            return Response::new(full(""));
        }
        let frames = request
            .into_body()
            .map_frame(|frame| frame.map_data(|data| Bytes::from(data.to_ascii_uppercase())));
        Response::new(frames.boxed_unsync())
    });
    world.leads_to(address.await).await;
    world.answers().await;
    let (sender, receiver) = mpsc::channel::<Bytes>(1);
    let stream = passed_on(receiver);
    let connection = TcpStream::connect(world.http).await.unwrap();
    let (mut http, task) =
        hyper::client::conn::http1::handshake(TokioIo::new(connection)).await.unwrap();
    tokio::spawn(task);
    sender.send("first".into()).await.unwrap();
    let request = Request::builder().method("POST").uri("/").header("host", "h");
    let answer = http.send_request(request.body(stream).unwrap()).await.unwrap();
    let mut body = answer.into_body();
    for (expected, next) in [("FIRST", "second"), ("SECOND", "third"), ("THIRD", "")] {
        let mut seen = Vec::new();
        while seen.len() < expected.len() {
            let frame = tokio::time::timeout(LIMIT, body.frame()).await.unwrap().unwrap().unwrap();
            seen.extend_from_slice(frame.data_ref().unwrap());
        }
        assert_eq!(seen, expected.as_bytes(), "before the next was sent");
        if !next.is_empty() {
            sender.send(next.into()).await.unwrap();
        }
    }
    drop(sender);
    assert!(body.frame().await.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backends_time_to_answer_begins_when_it_has_the_request() {
    const PATIENCE: Duration = Duration::from_secs(5);
    let world = of(World::with(|proxy| proxy.with_patience(PATIENCE)).await).await;
    let address = backend(|request: Request<hyper::body::Incoming>| async move {
        if request.uri() == "/never" {
            std::future::pending::<()>().await;
        }
        let bytes = request.into_body().collect().await.unwrap().to_bytes();
        Response::new(full(bytes))
    });
    world.leads_to(address.await).await;
    world.answers().await;
    let post = |path: &str, pause: Duration| {
        let (sender, receiver) = mpsc::channel::<Bytes>(1);
        tokio::spawn(async move {
            sender.send("one ".into()).await.unwrap();
            tokio::time::sleep(pause).await;
            sender.send("two".into()).await.unwrap();
        });
        let request = Request::builder().method("POST").uri(path).header("host", "h");
        let request = request.body(passed_on(receiver)).unwrap();
        let http = world.http;
        async move {
            let connection = TcpStream::connect(http).await.unwrap();
            let (mut http, task) =
                hyper::client::conn::http1::handshake(TokioIo::new(connection)).await.unwrap();
            tokio::spawn(task);
            let answer = http.send_request(request).await.unwrap();
            (answer.status(), text(answer).await.unwrap())
        }
    };
    let (slow, never) =
        tokio::join!(post("/", PATIENCE + Duration::from_secs(1)), post("/never", Duration::ZERO));
    assert_eq!(slow, (StatusCode::OK, "one two".to_owned()));
    assert_eq!(never.0, StatusCode::GATEWAY_TIMEOUT, "{}", never.1);
}

/// A body of what is received, as it comes.
fn passed_on(
    mut receiver: mpsc::Receiver<Bytes>,
) -> UnsyncBoxBody<Bytes, std::convert::Infallible> {
    let (mut sender, body) = http_body_util::channel::Channel::new(1);
    tokio::spawn(async move {
        while let Some(bytes) = receiver.recv().await {
            if sender.send_data(bytes).await.is_err() {
                return;
            }
        }
    });
    body.boxed_unsync()
}

#[tokio::test(flavor = "multi_thread")]
async fn large_bodies_come_through_whole() {
    let world = world().await;
    let address = backend(|request: Request<hyper::body::Incoming>| async move {
        let bytes = request.into_body().collect().await.unwrap().to_bytes();
        Response::new(full(bytes))
    });
    world.leads_to(address.await).await;
    world.answers().await;
    let bytes: Vec<u8> = (0..8_u32 << 20).map(|index| (index % 251) as u8).collect();
    let request = Request::builder().method("PUT").uri("/").header("host", "h");
    let request = request.header("expect", "100-continue");
    let answer = send(world.http, request.body(Full::from(bytes.clone())).unwrap()).await.unwrap();
    let back = answer.into_body().collect().await.unwrap().to_bytes();
    assert!(back == bytes);
}

/// Answers upgrades to `echo` by sending back what comes, and everything else with nothing.
async fn echoes(mut request: Request<hyper::body::Incoming>) -> Response<crate::world::Body> {
    if request.headers().get("upgrade").is_none_or(|protocol| protocol != "echo") {
        return Response::new(full(""));
    }
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let mut stream = TokioIo::new(upgrade.await.unwrap());
        let mut buffer = [0; 1024];
        while let Ok(count @ 1..) = stream.read(&mut buffer).await {
            stream.write_all(&buffer[..count]).await.unwrap();
        }
    });
    let answer = Response::builder().status(StatusCode::SWITCHING_PROTOCOLS);
    answer.header("connection", "upgrade").header("upgrade", "echo").body(full("")).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_become_what_both_ends_agree_on() {
    let world = world().await;
    world.leads_to(backend(echoes).await).await;
    world.answers().await;
    let ask = |protocol: &'static str| async move {
        let request = Request::builder().uri("/").header("host", "h");
        let request = request.header("connection", "Upgrade").header("upgrade", protocol);
        send(world.http, request.body(Full::default()).unwrap()).await.unwrap()
    };
    assert_eq!(ask("other").await.status(), StatusCode::OK);
    let mut answer = ask("echo").await;
    assert_eq!(answer.status(), StatusCode::SWITCHING_PROTOCOLS);
    assert_eq!(answer.headers()["upgrade"], "echo");
    let mut stream = TokioIo::new(hyper::upgrade::on(&mut answer).await.unwrap());
    for text in ["hello", "again"] {
        stream.write_all(text.as_bytes()).await.unwrap();
        let mut back = [0; 5];
        stream.read_exact(&mut back).await.unwrap();
        assert_eq!(back, text.as_bytes());
    }
    stream.shutdown().await.unwrap();
    assert_eq!(stream.read(&mut [0; 1]).await.unwrap(), 0, "the end comes through");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backend_may_be_of_http_1_0() {
    let world = world().await;
    let listener = bind().await;
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                // A head in one piece, as small ones come.
                let _ = stream.read(&mut [0; 4096]).await;
                let _ = stream.write_all(b"HTTP/1.0 200 OK\r\n\r\nuntil the end").await;
            });
        }
    });
    world.leads_to(address).await;
    world.answers().await;
    let mut client = connect(world.http).await;
    for _ in 0..3 {
        client.ready().await.unwrap();
        let request = Request::builder().uri("/").header("host", "h").body(Full::default());
        let answer = client.send_request(request.unwrap()).await.unwrap();
        assert_eq!(answer.version(), http::Version::HTTP_11, "the connection goes on");
        assert_eq!(text(answer).await.unwrap(), "until the end");
    }
}

/// An address at which nobody listens, and nobody will while the socket lives.
fn nobody() -> (TcpSocket, std::net::SocketAddr) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((own_address(), 0).into()).unwrap();
    let address = socket.local_addr().unwrap();
    (socket, address)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_refuses_is_passed_over_whatever_is_asked() {
    let world = world().await;
    let absent = [nobody(), nobody(), nobody()];
    for (_, address) in &absent {
        world.leads_to(*address).await;
    }
    let refused = || async { get(world.http, "h", "/").await.0 == StatusCode::BAD_GATEWAY };
    world.until(refused).await;
    let notes = Notes::default();
    let own = notes.clone();
    let address = backend(move |request: Request<hyper::body::Incoming>| {
        let notes = own.clone();
        async move {
            let bytes = request.into_body().collect().await.unwrap().to_bytes();
            notes.add(String::from_utf8(bytes.to_vec()).unwrap());
            Response::new(full(""))
        }
    });
    world.leads_to(address.await).await;
    world.answers().await;
    let before = notes.all().len();
    for index in 0..12 {
        let request = Request::builder().method("POST").uri("/").header("host", "h");
        let request = request.body(Full::from(format!("body {index}"))).unwrap();
        assert_eq!(send(world.http, request).await.unwrap().status(), StatusCode::OK);
    }
    let expected: Vec<_> = (0..12).map(|index| format!("body {index}")).collect();
    assert_eq!(notes.all()[before..], expected, "each once, with its body");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_does_not_answer_is_overtaken() {
    let world = world().await;
    // Nobody accepts there, and no more may wait.
    let silent = rustix::net::socket(
        rustix::net::AddressFamily::INET,
        rustix::net::SocketType::STREAM,
        None,
    )
    .unwrap();
    let any = std::net::SocketAddr::from((own_address(), 0));
    rustix::net::bind(&silent, &any).unwrap();
    rustix::net::listen(&silent, 0).unwrap();
    let silent = std::net::TcpListener::from(silent);
    let address = silent.local_addr().unwrap();
    let _waiting = std::net::TcpStream::connect(address).unwrap();
    world.leads_to(address).await;
    world.leads_to(named("a").await).await;
    world.until(|| async { get(world.http, "h", "/").await.1 == "a" }).await;
    // Half of them ask the silent one first. One may take longer for another reason.
    let mut late = 0;
    for _ in 0..6 {
        let began = std::time::Instant::now();
        assert_eq!(get(world.http, "h", "/").await.1, "a");
        late += usize::from(began.elapsed() >= std::time::Duration::from_secs(9));
    }
    assert!(late < 2, "{late} of them after the limit");
}

/// A backend that breaks every connection after the first request on it, and counts them.
async fn breaks(count: Arc<AtomicUsize>) -> std::net::SocketAddr {
    let listener = bind().await;
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let count = Arc::clone(&count);
            tokio::spawn(async move {
                let mut buffer = [0; 4096];
                // Its head, in one piece or in several; then nothing.
                if let Ok(1..) = stream.read(&mut buffer).await {
                    count.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_sent_is_sent_again_only_if_it_does_nothing() {
    let world = world().await;
    let count = Arc::new(AtomicUsize::new(0));
    world.leads_to(breaks(Arc::clone(&count)).await).await;
    let post = || async {
        let request = Request::builder().method("POST").uri("/").header("host", "h");
        send(world.http, request.body(Full::from("x")).unwrap()).await.unwrap().status()
    };
    world.until(|| async { post().await == StatusCode::BAD_GATEWAY }).await;
    let before = count.load(Ordering::Relaxed);
    assert_eq!(post().await, StatusCode::BAD_GATEWAY);
    assert_eq!(count.load(Ordering::Relaxed), before + 1, "once");
    assert_eq!(get(world.http, "h", "/").await.0, StatusCode::BAD_GATEWAY);
    assert!(count.load(Ordering::Relaxed) > before + 2, "more than once");

    // With another that works, nobody notices.
    world.leads_to(named("a").await).await;
    world.answers().await;
    for _ in 0..6 {
        assert_eq!(get(world.http, "h", "/").await, (StatusCode::OK, "a".into()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_are_kept_and_used_again() {
    let world = world().await;
    let accepted = Notes::default();
    let listener = bind().await;
    let address = listener.local_addr().unwrap();
    let own = accepted.clone();
    tokio::spawn(async move {
        loop {
            let (stream, peer) = listener.accept().await.unwrap();
            own.add(peer.to_string());
            let service = hyper::service::service_fn(|_| async {
                Ok::<_, std::convert::Infallible>(Response::new(full("a")))
            });
            let http = hyper::server::conn::http1::Builder::new();
            tokio::spawn(http.serve_connection(TokioIo::new(stream), service));
        }
    });
    world.leads_to(address).await;
    world.answers().await;
    let mut client = connect(world.http).await;
    for _ in 0..200 {
        let request = Request::builder().uri("/").header("host", "h").body(Full::default());
        client.ready().await.unwrap();
        let answer = client.send_request(request.unwrap()).await.unwrap();
        assert_eq!(text(answer).await.unwrap(), "a");
    }
    let connections = accepted.all().len();
    assert!(connections < 100, "{connections} connections for 200 requests");
}
