//! The etcd store against a real etcd: conformance, several stores over one etcd, restarts of etcd,
//! neighbours, TLS, and revisions that go on from a backup's.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bulkhead_store::encryption::{EncryptedStore, KEY_LENGTH, Keyring};
use bulkhead_store::{
    EtcdConfig, EtcdStore, EtcdTls, Range, Revision, Store, StoreError, Watch, Write, conformance,
};
use bulkhead_test_etcd::{Certificates, Etcd, own_address};

/// More than a loaded machine needs for anything here.
const PATIENCE: Duration = Duration::from_secs(60);

fn config(etcd: &Etcd, prefix: &str) -> EtcdConfig {
    EtcdConfig { servers: vec![etcd.url()], tls: None, prefix: prefix.into(), replaces: "/".into() }
}

async fn open(etcd: &Etcd, prefix: &str) -> EtcdStore {
    EtcdStore::open(&config(etcd, prefix)).await.unwrap()
}

fn create(key: &str) -> Write {
    Write::Create { key: key.into(), value: key.into() }
}

/// The keys of the next events, until there are `count`.
async fn keys(watch: &mut dyn Watch, count: usize) -> Vec<String> {
    let mut keys = Vec::new();
    while keys.len() < count {
        let events = tokio::time::timeout(PATIENCE, watch.next()).await.expect("in time");
        keys.extend(events.unwrap().iter().map(|event| event.key.clone()));
    }
    keys
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conforms() {
    let etcd = Etcd::start();
    conformance::run(&open(&etcd, "/conformance").await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conforms_with_revisions_ahead_and_everything_encrypted() {
    let etcd = Etcd::start();
    let config = config(&etcd, "/a/b");
    EtcdStore::begin_after(&config, Revision(5_000_000_000)).await.unwrap();
    let store = EtcdStore::open(&config).await.unwrap();
    assert!(store.revision().await.unwrap() > Revision(5_000_000_000));
    let keys = Keyring::new(vec![("k".into(), [7; KEY_LENGTH])], false).unwrap();
    let store = EncryptedStore::new(Arc::new(store), vec![String::new()], keys);
    conformance::run(&store).await;
}

#[tokio::test]
async fn what_one_writes_another_sees() {
    let etcd = Etcd::start();
    let (one, other) = (open(&etcd, "/registry").await, open(&etcd, "/registry").await);
    let start = one.revision().await.unwrap();
    let mut watch = other.watch("/pods/", start).await.unwrap();
    let written = one.write(create("/pods/a")).await.unwrap();
    assert_eq!(keys(watch.as_mut(), 1).await, ["/pods/a"]);
    let read = other.get("/pods/a").await.unwrap().unwrap();
    assert_eq!(read.revision, written);
    let stale = Write::Delete { key: "/pods/a".into(), expected: start };
    assert!(matches!(other.write(stale).await, Err(StoreError::Changed { .. })));
    other.write(Write::Delete { key: "/pods/a".into(), expected: written }).await.unwrap();
    assert_eq!(one.get("/pods/a").await.unwrap(), None);
    // A compaction by the other is known here when it matters.
    let newest = other.revision().await.unwrap();
    other.compact(newest).await.unwrap();
    let late = open(&etcd, "/registry").await;
    assert!(matches!(late.watch("/", start).await.err(), Some(StoreError::Compacted { .. })));
}

#[tokio::test]
async fn a_neighbours_writes_move_watches_on() {
    let etcd = Etcd::start();
    let (ours, neighbour) = (open(&etcd, "/ours").await, open(&etcd, "/oursx").await);
    let mut watch = ours.watch("/", ours.revision().await.unwrap()).await.unwrap();
    let theirs = neighbour.write(create("/pods/a")).await.unwrap();
    assert_eq!(ours.get("/pods/a").await.unwrap(), None);
    assert!(ours.revision().await.unwrap() >= theirs);
    while watch.revision() < theirs {
        let events = tokio::time::timeout(PATIENCE, watch.next()).await.expect("in time");
        assert!(events.unwrap().is_empty(), "nothing of ours");
    }
    let page = ours.list(Range::default()).await.unwrap();
    assert!(page.entries.is_empty(), "nor in a list: {:?}", page.entries);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restarted_etcd_is_found_again() {
    let mut etcd = Etcd::start();
    let store = open(&etcd, "/registry").await;
    let start = store.revision().await.unwrap();
    let mut watch = store.watch("/", start).await.unwrap();
    store.write(create("/a")).await.unwrap();
    assert_eq!(keys(watch.as_mut(), 1).await, ["/a"]);
    etcd.kill();
    let failed = store.write(create("/b")).await.unwrap_err();
    assert!(matches!(failed, StoreError::Unavailable(_)), "{failed:?}");
    assert!(failed.to_string().starts_with(&format!("etcd at {}: ", etcd.url())), "{failed}");
    etcd.restart();
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while let Err(error) = store.write(create("/b")).await {
        assert!(tokio::time::Instant::now() < deadline, "{error}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(keys(watch.as_mut(), 1).await, ["/b"], "the watch goes on");
}

#[tokio::test]
async fn a_watch_from_before_the_process_replays() {
    let etcd = Etcd::start();
    let first = open(&etcd, "/registry").await;
    let start = first.revision().await.unwrap();
    // More than the memory of a new process goes back.
    for n in 0..4200 {
        let key = format!("/{}/{n}", if n % 2 == 0 { "even" } else { "odd" });
        first.write(create(&key)).await.unwrap();
    }
    let second = open(&etcd, "/registry").await;
    let mut watch = second.watch("/odd/", start).await.unwrap();
    let found = keys(watch.as_mut(), 2100).await;
    let expected: Vec<String> = (0..4200).skip(1).step_by(2).map(|n| format!("/odd/{n}")).collect();
    assert_eq!(found, expected);
}

#[tokio::test]
async fn a_new_history_ends_the_old_ones_servers() {
    let etcd = Etcd::start();
    let config = config(&etcd, "/registry");
    let store = EtcdStore::open(&config).await.unwrap();
    let before = store.write(create("/a")).await.unwrap();
    let taken = EtcdStore::begin_after(&config, Revision(1000)).await;
    assert!(matches!(taken, Err(StoreError::Exists(_))), "it is not empty: {taken:?}");
    EtcdStore::destroy(&config).await.unwrap();
    EtcdStore::begin_after(&config, Revision(before.0 + 1000)).await.unwrap();
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while store.get("/a").await.is_ok() {
        assert!(tokio::time::Instant::now() < deadline, "the old server goes on");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let new = EtcdStore::open(&config).await.unwrap();
    assert!(new.revision().await.unwrap() > Revision(before.0 + 1000));
    assert!(matches!(new.watch("/", before).await.err(), Some(StoreError::Compacted { .. })));
    let stale = Write::Update { key: "/a".into(), value: b"x".into(), expected: before };
    assert!(matches!(new.write(stale).await, Err(StoreError::Absent(_))));
}

#[tokio::test]
async fn what_is_too_large_is_said_to_be() {
    let etcd = Etcd::start();
    let store = open(&etcd, "/registry").await;
    let write = Write::Create { key: "/a".into(), value: vec![0; 2 << 20] };
    assert!(matches!(store.write(write).await, Err(StoreError::TooLarge)));
}

#[tokio::test]
async fn an_etcd_that_is_not_there_is_named() {
    let address = format!("http://{}:1", own_address());
    let config = EtcdConfig {
        servers: vec![address.clone()],
        tls: None,
        prefix: "/registry".into(),
        replaces: "/".into(),
    };
    let error = EtcdStore::open(&config).await.unwrap_err().to_string();
    assert!(error.contains(&address) && error.contains("refused"), "{error}");
}

/// An authority with a certificate for etcd and one for clients, as `NAME.crt` and `NAME.key`.
fn certificates(dir: &Path) {
    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
    let put = |name: &str, text: String| std::fs::write(dir.join(name), text).unwrap();
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    put("ca.crt", params.self_signed(&key).unwrap().pem());
    let authority = Issuer::new(params, key);
    for name in ["server", "client"] {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![own_address().to_string()]).unwrap();
        put(&format!("{name}.crt"), params.signed_by(&key, &authority).unwrap().pem());
        put(&format!("{name}.key"), key.serialize_pem());
    }
}

#[tokio::test]
async fn it_speaks_tls_with_a_certificate_of_its_own() {
    let dir = tempfile::tempdir().unwrap();
    certificates(dir.path());
    let file = |name: &str| dir.path().join(name);
    let etcd = Etcd::start_tls(Certificates {
        authority: file("ca.crt"),
        certificate: file("server.crt"),
        key: file("server.key"),
    });
    let read = |name: &str| std::fs::read(file(name)).unwrap();
    let mut config = config(&etcd, "/registry");
    let identity = Some((read("client.crt"), read("client.key")));
    config.tls = Some(EtcdTls { authorities: read("ca.crt"), identity });
    let store = EtcdStore::open(&config).await.unwrap();
    let written = store.write(create("/a")).await.unwrap();
    assert_eq!(store.get("/a").await.unwrap().unwrap().revision, written);
    config.tls = Some(EtcdTls { authorities: read("ca.crt"), identity: None });
    let error = EtcdStore::open(&config).await.unwrap_err();
    assert!(matches!(error, StoreError::Unavailable(_)), "without a certificate: {error:?}");
}
