//! Names as `dig` finds them, in a cluster with a real API server.

mod support;

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream, UdpSocket};

use bulkhead_client::{Client as _, Kind};
use serde_json::{Value, json};
use support::{Cluster, LIMIT, NameServer, SERVICES, World, nobody, until};

/// The question for an A record, as bytes.
fn question(id: u16, name: &str) -> Vec<u8> {
    let mut bytes = id.to_be_bytes().to_vec();
    // Recursion desired; one question.
    bytes.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in name.split('.') {
        bytes.push(u8::try_from(label.len()).unwrap());
        bytes.extend(label.as_bytes());
    }
    bytes.extend([0, 0, 1, 0, 1]);
    bytes
}

fn client(server: SocketAddr) -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.connect(server).unwrap();
    socket.set_read_timeout(Some(LIMIT)).unwrap();
    socket
}

/// The id and code of the next answer.
fn answer(socket: &UdpSocket) -> (u16, u8) {
    let mut buffer = [0; 1500];
    let length = socket.recv(&mut buffer).unwrap();
    assert!(length >= 12 && buffer[2] & 0x80 != 0, "{:?}", &buffer[..length]);
    (u16::from_be_bytes([buffer[0], buffer[1]]), buffer[3] & 0x0f)
}

const NO_ERROR: u8 = 0;
const FORM_ERROR: u8 = 1;
const REFUSED: u8 = 5;

#[tokio::test(flavor = "multi_thread")]
async fn a_clusters_names_are_those_of_the_specification() {
    let cluster = Cluster::start().await;
    let server = NameServer::start(&cluster, nobody().local_addr().unwrap());
    server.until("kubernetes.default.svc.cluster.local", &["10.96.0.1"]);
    assert_eq!(server.dig("dns-version.cluster.local TXT"), ["\"1.1.0\""]);

    let ports = json!([
        {"name": "https", "port": 443}, {"name": "dns", "port": 53, "protocol": "UDP"},
    ]);
    cluster.service("web", json!({"clusterIP": "10.96.7.7", "ports": ports})).await;
    server.until("WEB.default.SVC.cluster.local", &["10.96.7.7"]);
    let web = "web.default.svc.cluster.local";
    assert_eq!(server.dig(&format!("_https._tcp.{web} SRV")), [format!("0 100 443 {web}.")]);
    assert_eq!(server.dig(&format!("_dns._udp.{web} SRV")), [format!("0 100 53 {web}.")]);
    assert_eq!(server.dig("-x 10.96.7.7"), [format!("{web}.")]);

    // There, but not this; and not there: each until the SOA's time is over.
    let nodata = server.dig_all(&format!("{web} AAAA"));
    assert!(nodata.contains("status: NOERROR") && nodata.contains("ANSWER: 0"), "{nodata}");
    let nothing = server.dig_all("none.default.svc.cluster.local A");
    assert!(nothing.contains("status: NXDOMAIN") && nothing.contains("flags: qr aa"), "{nothing}");
    for negative in [nodata, nothing] {
        assert!(negative.contains("cluster.local.\t\t5\tIN\tSOA\tns.dns.cluster.local."));
    }

    // A headless Service, with a name for the pod that has one.
    cluster.service("db", json!({"clusterIP": "None", "ports": [{"port": 5432}]})).await;
    let ports = json!([{"name": "sql", "port": 5432, "protocol": "TCP"}]);
    let endpoints = json!([
        {"addresses": ["10.244.1.2"], "hostname": "db-0", "conditions": {"ready": true}},
        {"addresses": ["10.244.2.2"], "conditions": {"ready": true}},
        {"addresses": ["10.244.3.2"], "hostname": "db-2", "conditions": {"ready": false}},
    ]);
    cluster.endpoints("db", ports.clone(), endpoints).await;
    let db = "db.default.svc.cluster.local";
    server.until(db, &["10.244.1.2", "10.244.2.2"]);
    assert_eq!(server.dig(&format!("db-0.{db}")), ["10.244.1.2"]);
    assert_eq!(server.dig("-x 10.244.1.2"), [format!("db-0.{db}.")]);
    assert_eq!(
        server.dig(&format!("_sql._tcp.{db} SRV")),
        [format!("0 100 5432 10-244-2-2.{db}."), format!("0 100 5432 db-0.{db}.")]
    );
    assert!(server.dig_all(&format!("db-2.{db}")).contains("status: NXDOMAIN"), "it is not ready");

    // Changes are followed.
    let ready = json!([{"addresses": ["10.244.3.2"], "hostname": "db-2"}]);
    cluster.endpoints("db", ports, ready).await;
    server.until(db, &["10.244.3.2"]);
    assert_eq!(server.dig(&format!("db-2.{db}")), ["10.244.3.2"]);
    assert!(server.dig_all("-x 10.244.1.2").contains("status: NXDOMAIN"));
    cluster.delete(&SERVICES, "web").await.unwrap();
    until(|| {
        let text = server.dig_all(web);
        if text.contains("status: NXDOMAIN") { Ok(()) } else { Err(text) }
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn other_names_are_asked_for_elsewhere_and_kept() {
    let cluster = Cluster::start().await;
    let mut world = World::start();
    let server = NameServer::start(&cluster, world.address);
    let alias = json!({"type": "ExternalName", "externalName": "www.example.test"});
    cluster.service("outside", alias).await;

    let chain = ["192.0.2.7", "db.example.test."];
    server.until("www.example.test", &chain);
    server.until("outside.default.svc.cluster.local CNAME", &["www.example.test."]);
    let longer = ["192.0.2.7", "db.example.test.", "www.example.test."];
    assert_eq!(server.dig("outside.default.svc.cluster.local"), longer);
    assert!(server.dig_all("none.example.test").contains("status: NXDOMAIN"));
    let unasked = server.dig_all("db.example.test +norecurse");
    assert!(unasked.contains("status: REFUSED"), "{unasked}");

    world.end();
    assert_eq!(server.dig("www.example.test"), chain, "it is known");
    let unknown = server.dig_all("other.example.test");
    assert!(unknown.contains("status: SERVFAIL"), "{unknown}");
    assert_eq!(server.dig("kubernetes.default.svc.cluster.local"), ["10.96.0.1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_fit_a_datagram_comes_over_tcp() {
    let cluster = Cluster::start().await;
    let server = NameServer::start(&cluster, nobody().local_addr().unwrap());
    cluster.service("many", json!({"clusterIP": "None", "ports": [{"port": 80}]})).await;
    let endpoint = |n: u32| json!({"addresses": [format!("10.244.{}.{}", n / 100, n % 100 + 1)]});
    let endpoints: Vec<Value> = (0..300).map(endpoint).collect();
    cluster.endpoints("many", json!([{"port": 80}]), endpoints.into()).await;
    let many = "many.default.svc.cluster.local";
    until(|| {
        let found = server.dig(many).len();
        if found == 300 { Ok(()) } else { Err(format!("{found} addresses")) }
    });
    for (options, limit, most) in [("+noedns", 512, 28), ("+bufsize=1232", 1232, 74)] {
        let cut = server.dig_all(&format!("{many} +ignore {options}"));
        assert!(cut.contains("flags: qr aa tc rd ra"), "{cut}");
        let number = |before: &str, after: char| -> usize {
            cut.split_once(before).unwrap().1.split(after).next().unwrap().trim().parse().unwrap()
        };
        assert!(number("MSG SIZE  rcvd:", '\n') <= limit, "{cut}");
        assert!((most - 4..=most).contains(&number("ANSWER:", ',')), "{cut}");
    }
    // Who takes the first of several is not always led to the same one.
    let first = || server.dig_all(&format!("{many} +tcp +short")).lines().next().map(str::to_owned);
    let one = first();
    until(|| if first() == one { Err("always the same".into()) } else { Ok(()) });
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_asked_while_it_starts_again_is_answered() {
    let cluster = Cluster::start().await;
    let mut server = NameServer::start(&cluster, nobody().local_addr().unwrap());
    let name = "kubernetes.default.svc.cluster.local";
    server.until(name, &["10.96.0.1"]);
    server.kill();
    let socket = client(server.address());
    socket.send(&question(7, name)).unwrap();
    server.start_again();
    assert_eq!(answer(&socket).0, 7);
    server.until(name, &["10.96.0.1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_clients_are_bounded_and_hinder_nobody() {
    let cluster = Cluster::start().await;
    let silent = nobody();
    let server = NameServer::start(&cluster, silent.local_addr().unwrap());
    let name = "kubernetes.default.svc.cluster.local";
    server.until(name, &["10.96.0.1"]);

    let socket = client(server.address());
    socket.send(&[0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0xc0, 0x0c]).unwrap();
    assert_eq!(answer(&socket), (0x1234, FORM_ERROR), "a name that points to itself");
    // Neither what is too short nor an answer gets one.
    socket.send(&[1, 2, 3]).unwrap();
    let mut reflected = question(8, name);
    reflected[2] |= 0x80;
    socket.send(&reflected).unwrap();
    socket.send(&question(9, name)).unwrap();
    assert_eq!(answer(&socket), (9, NO_ERROR));

    // Forwarded questions that nobody answers: so many, and no more.
    for id in 101..=165 {
        socket.send(&question(id, &format!("n{id}.example.test"))).unwrap();
    }
    assert_eq!(answer(&socket), (165, REFUSED));
    assert_eq!(server.dig(name), ["10.96.0.1"]);

    // Connections: those beyond the bound are closed, the others go on.
    let mut open = Vec::new();
    let mut refused = None;
    for _ in 0..17 {
        let mut stream = TcpStream::connect(server.address()).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        let bytes = question(11, name);
        let length = u16::try_from(bytes.len()).unwrap().to_be_bytes();
        let mut answer = [0; 4];
        let sent = stream.write_all(&[&length[..], &bytes].concat());
        match sent.and_then(|()| stream.read_exact(&mut answer)) {
            Ok(()) => assert_eq!(answer[2..], 11_u16.to_be_bytes()),
            Err(error) => refused = Some((open.len(), error)),
        }
        open.push(stream);
    }
    let (nth, _) = refused.expect("one too many");
    assert_eq!(nth, 16);
    drop(open);
    until(|| {
        let found = server.dig(&format!("{name} +tcp"));
        if found == ["10.96.0.1"] { Ok(()) } else { Err(format!("{found:?}")) }
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn the_name_server_may_read_what_names_are_made_of_and_no_more() {
    let cluster = Cluster::start().await;
    let dns = cluster.client("dns");
    dns.list(&SERVICES, None).await.unwrap();
    dns.list(&support::SLICES, None).await.unwrap();
    dns.list(&Kind::NAMESPACES, None).await.unwrap();
    for kind in [Kind::PODS, Kind::NODES, Kind::core("secrets"), Kind::core("configmaps")] {
        assert_eq!(dns.list(&kind, None).await.unwrap_err().code, 403, "{kind:?}");
    }
    let service = json!({"metadata": {"namespace": "default", "name": "mine"},
                         "spec": {"ports": [{"port": 80}]}});
    assert_eq!(dns.create(&SERVICES, service).await.unwrap_err().code, 403);
}

#[test]
fn it_says_what_it_lacks() {
    let run = |arguments: &[&str]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_bulkhead-dns"));
        let output = command.args(arguments).output().unwrap();
        assert!(!output.status.success());
        String::from_utf8(output.stderr).unwrap()
    };
    let nothing = run(&["--api-server=127.0.0.1:1", "--pki=/none", "--listen=127.0.0.1:0"]);
    assert!(nothing.contains("/none/"), "{nothing}");
    let unbound = run(&["--api-server=127.0.0.1:1", "--pki=/none"]);
    assert!(unbound.contains("--listen"), "{unbound}");
}
