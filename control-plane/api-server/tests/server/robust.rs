//! What hostile, slow and numerous clients do to a server: nothing that others notice.

use std::sync::Arc;
use std::time::Duration;

use crate::common::{Cluster, Lines, tls};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls_pki_types::ServerName;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const MERGE: &str = "application/merge-patch+json";
/// More than any test waits for a server that cuts somebody off.
const LONG: Duration = Duration::from_secs(180);

async fn connect(cluster: &Cluster) -> TlsStream<TcpStream> {
    let stream = TcpStream::connect(cluster.address).await.unwrap();
    let connector = TlsConnector::from(Arc::new(tls(cluster, Some("admin"))));
    connector.connect(ServerName::try_from("localhost").unwrap(), stream).await.unwrap()
}

#[tokio::test]
async fn bodies_that_are_too_large_or_too_deep_are_refused() {
    let cluster = Cluster::start();
    let mut client = cluster.admin().await;
    client.ok("POST", MAPS, &json!({"metadata": {"name": "m"}})).await;
    let json = "application/json";
    let yaml = "application/yaml";
    let deep = |open: &str, inside: &str| format!("{}{inside}", open.repeat(500_000));
    let large =
        format!(r#"{{"metadata":{{"name":"x"}},"data":{{"a":"{}"}}}}"#, "a".repeat(3 << 20));
    let path = format!("{MAPS}/m");
    for (method, path, media_type, body, expected) in [
        ("POST", MAPS, json, large.clone(), 413),
        ("PATCH", &*path, MERGE, large.clone(), 413),
        ("PUT", &*path, json, large.clone(), 413),
        ("DELETE", &*path, json, large, 413),
        ("POST", MAPS, json, deep("[", ""), 400),
        ("POST", MAPS, json, deep(r#"{"a":"#, "1"), 400),
        ("POST", MAPS, yaml, deep("[", ""), 400),
        ("POST", MAPS, yaml, deep("- ", "a"), 400),
        ("POST", MAPS, yaml, "a: &a [x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b]\nd: &d [*c,*c,*c,*c,*c,*c,*c,*c]\ne: &e [*d,*d,*d,*d,*d,*d,*d,*d]\nf: &f [*e,*e,*e,*e,*e,*e,*e,*e]\ng: [*f,*f,*f,*f,*f,*f,*f,*f]\nh: [*f,*f,*f,*f,*f,*f,*f,*f]\n".into(), 400),
        ("PATCH", &*path, MERGE, deep(r#"{"a":"#, "1"), 400),
        ("PATCH", &*path, "application/apply-patch+yaml", deep("- ", "a"), 400),
        ("PATCH", &*path, "application/json-patch+json", deep("[", ""), 400),
        ("PATCH", &*path, "application/strategic-merge-patch+json", "7".into(), 400),
        ("POST", MAPS, "application/vnd.kubernetes.protobuf", format!("k8s\0{}", "\x0a\x7f".repeat(9)), 400),
    ] {
        let begin = body.get(..40).unwrap_or(&body).to_owned();
        let headers = [("content-type", media_type)];
        // A connection whose request was refused before it was read may be closed.
        let mut own = cluster.admin().await;
        let (code, status) = own.exchange(method, path, &headers, body.into_bytes()).await;
        assert_eq!(code, expected, "{method} {media_type} {begin}: {status}");
        assert_eq!(status["kind"], "Status");
    }
    assert_eq!(client.get(&path).await.0, 200);
}

#[tokio::test]
async fn hostile_parameters_are_refused_or_select_nothing() {
    let cluster = Cluster::start();
    let mut client = cluster.admin().await;
    client.ok("POST", MAPS, &json!({"metadata": {"name": "m"}})).await;
    let token = |text: &str| {
        use base64::Engine as _;
        base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(text)
    };
    let most = u64::MAX;
    let mut refused = vec![
        "continue=x".to_owned(),
        format!("continue={}", token("{}")),
        format!("continue={}", token(r#"{"rv":-1,"after":""}"#)),
        format!("continue={}", token(&format!(r#"{{"rv":{most},"after":"a"}}"#))),
        format!("continue={}&resourceVersion=5", token(r#"{"rv":1,"after":""}"#)),
        format!("resourceVersion={most}"),
        format!("resourceVersion={most}&resourceVersionMatch=Exact"),
        "limit=-1".into(),
        "watch=1&timeoutSeconds=x".into(),
        "labelSelector=a%20in%20(".into(),
        "labelSelector=a%3D%3D%3Db".into(),
        format!("labelSelector={}%3Db", "a".repeat(20_000)),
        "fieldSelector=spec.none%3D1".into(),
        format!("fieldSelector={}", "a".repeat(20_000)),
        "fieldSelector=metadata.name%3D%5C".into(),
    ];
    for version in ["abc", "-1", "1.5", "0x10", "18446744073709551616", "%00"] {
        refused.push(format!("resourceVersion={version}"));
        refused.push(format!("watch=1&resourceVersion={version}"));
    }
    for query in refused {
        let (code, status) = client.get(&format!("{MAPS}?{query}")).await;
        let shown = &query[..query.len().min(80)];
        assert!((400..500).contains(&code) || code == 504, "{shown}: {code} {status}");
        assert_eq!(status["kind"], "Status", "{shown}");
    }
    // A token leads nowhere outside of what is listed.
    for after in ["../../secrets/", "", "\u{10ffff}", "default/"] {
        let token = token(&json!({"rv": 1, "after": after}).to_string());
        let (code, answer) = client.get(&format!("{MAPS}?continue={token}")).await;
        let items = answer["items"].as_array().map_or(&[][..], Vec::as_slice);
        assert!(matches!(code, 200 | 400 | 410), "{after}: {code}");
        assert!(items.iter().all(|item| item["kind"] == "ConfigMap" || item["kind"].is_null()));
    }
    // A long selector is still one.
    let values: Vec<String> = (0..3000).map(|value| format!("v{value}")).collect();
    let path = format!("{MAPS}?labelSelector=a%20in%20({})", values.join(","));
    assert_eq!(client.get(&path).await.1["items"], json!([]));
    for (query, expected) in [
        (format!("fieldManager={}", "m".repeat(128)), 200),
        (format!("fieldManager={}", "m".repeat(129)), 400),
        ("fieldManager=a%0ab".into(), 400),
        ("fieldManager=%f0%9f%98%80".into(), 200),
    ] {
        let body = json!({"data": {"a": query}});
        let (code, status) =
            client.typed("PATCH", &format!("{MAPS}/m?{query}"), MERGE, &body).await;
        assert_eq!(code, expected, "{query}: {status}");
    }
    for version in ["zzz", "-1", "18446744073709551616"] {
        let body = json!({"metadata": {"name": "m", "resourceVersion": version}});
        let (code, status) = client.json("PUT", &format!("{MAPS}/m"), &body).await;
        assert!(matches!(code, 400 | 409), "{version}: {code} {status}");
    }
}

/// Whether the server ends the connection within reason.
async fn is_cut_off(mut stream: impl tokio::io::AsyncRead + Unpin) -> bool {
    let mut rest = Vec::new();
    tokio::time::timeout(LONG, stream.read_to_end(&mut rest)).await.is_ok()
}

#[tokio::test]
async fn slow_clients_are_cut_off_and_cost_little() {
    let cluster = Cluster::start();
    let mut client = cluster.admin().await;
    assert_eq!(client.get("/readyz").await.0, 200);
    let (before, sockets) = (cluster.resident(), cluster.sockets());

    let no_tls = TcpStream::connect(cluster.address).await.unwrap();
    let nothing = connect(&cluster).await;
    let mut half_a_preface = connect(&cluster).await;
    half_a_preface.write_all(b"PRI * HTTP/2").await.unwrap();
    let mut half_a_head = connect(&cluster).await;
    half_a_head.write_all(b"GET /api HTTP/1.1\r\nhost: a\r\nx-a: ").await.unwrap();
    // A head that never ends is cut off by its size or its time.
    let mut endless_head = connect(&cluster).await;
    endless_head.write_all(b"GET /api HTTP/1.1\r\nhost: a\r\n").await.unwrap();
    let endless = async {
        for index in 0_u64.. {
            let line = format!("x-{index}: {}\r\n", "a".repeat(1 << 10));
            if endless_head.write_all(line.as_bytes()).await.is_err() {
                return true;
            }
        }
        false
    };

    // A watch that nobody reads: the server keeps a few events of it, not all.
    let mut deaf = connect(&cluster).await;
    let watch = format!("GET {MAPS}?watch=1&resourceVersion=1 HTTP/1.1\r\nhost: a\r\n\r\n");
    deaf.write_all(watch.as_bytes()).await.unwrap();
    let deaf = async {
        client.ok("POST", MAPS, &json!({"metadata": {"name": "large"}})).await;
        for index in 0..200 {
            let data = json!({"data": {"a": format!("{index}").repeat(128 << 10)}});
            let path = format!("{MAPS}/large");
            let (code, answer) = client.typed("PATCH", &path, MERGE, &data).await;
            assert_eq!(code, 200, "{answer}");
        }
        let grown = cluster.resident().saturating_sub(before) >> 20;
        println!("a watch that is not read: {grown} MiB more");
        // 60 MiB were written.
        assert!(grown < 48, "{grown} MiB");
        // The server gives up on it, and on all the others: their connections go, this one stays.
        let deadline = tokio::time::Instant::now() + LONG;
        while cluster.sockets() > sockets {
            assert!(tokio::time::Instant::now() < deadline, "connections stay");
            assert_eq!(client.get("/readyz").await.0, 200);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let mut all = Vec::new();
        let ended = tokio::time::timeout(LONG, deaf.read_to_end(&mut all)).await;
        assert!(ended.is_ok(), "the watch goes on");
        assert!(all.len() < 60 << 20, "{} bytes", all.len());
        client
    };
    let (mut client, cut_off) = tokio::join!(deaf, async {
        tokio::join!(
            is_cut_off(no_tls),
            is_cut_off(nothing),
            is_cut_off(half_a_preface),
            is_cut_off(half_a_head),
            endless,
        )
    });
    assert_eq!(cut_off, (true, true, true, true, true));
    assert_eq!(client.get("/readyz").await.0, 200);
}

/// A connection that speaks HTTP/2.
async fn http2(cluster: &Cluster) -> http2::SendRequest<Empty<Bytes>> {
    let stream = TokioIo::new(connect(cluster).await);
    let (sender, connection) = http2::handshake(TokioExecutor::new(), stream).await.unwrap();
    tokio::spawn(async move {
        // It ends when the server is killed.
        let _ = connection.await;
    });
    sender
}

async fn get(
    sender: &mut http2::SendRequest<Empty<Bytes>>,
    path: &str,
) -> http::Response<Incoming> {
    let uri = format!("https://localhost{path}");
    let request = http::Request::get(uri).body(Empty::new()).unwrap();
    sender.ready().await.unwrap();
    sender.send_request(request).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_idle_watches_cost_little() {
    const CONNECTIONS: usize = 20;
    const EACH: usize = 500;
    let cluster = Cluster::start();
    let mut client = cluster.admin().await;
    let made = client.ok("POST", MAPS, &json!({"metadata": {"name": "m"}})).await;
    let version = made["metadata"]["resourceVersion"].as_str().unwrap();
    let path = format!("{MAPS}?watch=1&allowWatchBookmarks=true&resourceVersion={version}");
    let before = cluster.resident();
    let mut opening = tokio::task::JoinSet::new();
    for _ in 0..CONNECTIONS {
        let (mut sender, path) = (http2(&cluster).await, path.clone());
        opening.spawn(async move {
            let mut watches = Vec::with_capacity(EACH);
            for _ in 0..EACH {
                let response = get(&mut sender, &path).await;
                assert_eq!(response.status(), 200);
                watches.push(response.into_body());
            }
            (sender, watches)
        });
    }
    let mut connections = opening.join_all().await;
    let each = cluster.resident().saturating_sub(before) / (CONNECTIONS * EACH) as u64;
    println!("an idle watch: {each} bytes");
    assert!(each < 16 << 10, "{each} bytes");
    // The server answers, and every watch is there still.
    assert_eq!(client.get("/readyz").await.0, 200);
    assert_eq!(client.get(&format!("{MAPS}/m")).await.0, 200);
    let patch = json!({"data": {"a": "1"}});
    client.typed("PATCH", &format!("{MAPS}/m"), MERGE, &patch).await;
    for (_, watches) in &mut connections {
        for watch in watches {
            loop {
                let frame = tokio::time::timeout(LONG, watch.frame()).await.expect("an event");
                let data = frame.unwrap().unwrap().into_data().unwrap();
                // What controllers make comes too.
                if data.windows(8).any(|window| window == b"MODIFIED") {
                    break;
                }
            }
        }
    }
}

#[tokio::test]
async fn options_of_lists_and_watches_that_contradict_are_refused() {
    let cluster = Cluster::start();
    let mut client = cluster.admin().await;
    for (query, why) in [
        ("resourceVersionMatch=Exact", "forbidden unless resourceVersion is provided"),
        ("resourceVersionMatch=Exact&resourceVersion=0", "forbidden for resourceVersion \"0\""),
        (
            "resourceVersionMatch=Newest&resourceVersion=1",
            "supported values: \"Exact\", \"NotOlderThan\"",
        ),
        (
            "sendInitialEvents=true&resourceVersionMatch=NotOlderThan&resourceVersion=1",
            "forbidden for list",
        ),
        ("watch=1&sendInitialEvents=true", "requires setting resourceVersionMatch to NotOlderThan"),
        (
            "watch=1&sendInitialEvents=false",
            "requires setting resourceVersionMatch to NotOlderThan",
        ),
        (
            "watch=1&sendInitialEvents=true&resourceVersionMatch=Exact&resourceVersion=1",
            "requires setting",
        ),
        (
            "watch=1&resourceVersionMatch=NotOlderThan",
            "forbidden for watch unless sendInitialEvents",
        ),
    ] {
        let (code, status) = client.get(&format!("{MAPS}?{query}")).await;
        assert_eq!(
            (code, &status["details"]["kind"]),
            (422, &json!("ListOptions")),
            "{query}: {status}"
        );
        assert!(status["message"].as_str().unwrap().contains(why), "{query}: {status}");
    }
}

#[tokio::test]
async fn a_watch_list_is_a_consistent_snapshot_and_goes_on() {
    let cluster = Cluster::start();
    let mut client = cluster.admin().await;
    for (name, app) in [("a", "web"), ("b", "db"), ("c", "web")] {
        let map = json!({"metadata": {"name": name, "labels": {"app": app}}});
        client.ok("POST", MAPS, &map).await;
    }
    let initial =
        "watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true";
    let path = format!("{MAPS}?{initial}&labelSelector=app%3Dweb");
    let version = |metadata: &Value| -> u64 {
        metadata["resourceVersion"].as_str().unwrap().parse().unwrap()
    };
    let (_, before) = client.get(MAPS).await;
    let mut lines = Lines::open(&mut cluster.admin().await, &path).await;
    let name = |event: &Value| event["object"]["metadata"]["name"].as_str().map(str::to_owned);
    for expected in ["a", "c"] {
        let event = lines.next().await;
        assert_eq!((&event["type"], name(&event).as_deref()), (&json!("ADDED"), Some(expected)));
    }
    let bookmark = lines.next().await;
    let metadata = &bookmark["object"]["metadata"];
    assert_eq!(bookmark["type"], "BOOKMARK");
    assert_eq!(metadata["annotations"]["k8s.io/initial-events-end"], "true");
    assert_eq!(bookmark["object"]["kind"], "ConfigMap");
    // The server's own writes go on meanwhile.
    let (_, after) = client.get(MAPS).await;
    let possible = version(&before["metadata"])..=version(&after["metadata"]);
    assert!(possible.contains(&version(metadata)), "{possible:?}: {bookmark}");
    // What comes to match and what ceases to, after the bookmark's version.
    for (name, app, expected) in [("b", "web", "ADDED"), ("a", "db", "DELETED"), ("c", "web", "")] {
        let patch = json!({"metadata": {"labels": {"app": app}}});
        client.typed("PATCH", &format!("{MAPS}/{name}"), MERGE, &patch).await;
        if !expected.is_empty() {
            let event = lines.next().await;
            let got = event["object"]["metadata"]["name"].as_str();
            assert_eq!((&event["type"], got), (&json!(expected), Some(name)));
        }
    }
    // A version that is to come is refused; without initial events there are none.
    let path = format!("{MAPS}?{initial}&resourceVersion=999999999");
    assert_eq!(client.get(&path).await.0, 504);
    let none = initial.replace("Events=true", "Events=false");
    let mut later = Lines::open(&mut cluster.admin().await, &format!("{MAPS}?{none}")).await;
    client.ok("DELETE", &format!("{MAPS}/c"), &Value::Null).await;
    let event = later.next().await;
    assert_eq!((&event["type"], name(&event).as_deref()), (&json!("DELETED"), Some("c")));

    // As tables: the annotation is in the row's object.
    let headers = [("accept", "application/json;as=Table;v=v1;g=meta.k8s.io")];
    let path = format!("{MAPS}?{initial}&fieldSelector=metadata.name%3Db&timeoutSeconds=1");
    let response = client.send("GET", &path, &headers, "").await.unwrap();
    let text = response.into_body().collect().await.unwrap().to_bytes();
    let events: Vec<Value> = text
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty())
        .map(|line| serde_json::from_slice(line).unwrap())
        .collect();
    let [added, bookmark, ..] = events.as_slice() else { panic!("{events:?}") };
    assert_eq!((&added["type"], &added["object"]["kind"]), (&json!("ADDED"), &json!("Table")));
    assert_eq!(bookmark["type"], "BOOKMARK");
    let row = &bookmark["object"]["rows"][0]["object"]["metadata"];
    assert_eq!(row["annotations"]["k8s.io/initial-events-end"], "true", "{bookmark}");
}
