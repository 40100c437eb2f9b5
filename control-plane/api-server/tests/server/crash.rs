//! `kill -9` of the server under load: every acknowledged write is there, and a watch goes on
//! from where it was without a gap.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::common::{Client, Cluster};
use bulkhead_test_etcd::Etcd;
use serde_json::{Value, json};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
/// All but the one that every namespace has.
const OWN: &str =
    "/api/v1/namespaces/default/configmaps?fieldSelector=metadata.name!%3Dkube-root-ca.crt";
/// How often the server is killed, unless `BULKHEAD_TEST_KILLS` says otherwise.
const ROUNDS: u32 = 50;
/// As above, where etcd is killed as well: it takes a second and more to come back.
const ROUNDS_WITH_ETCD: u32 = 5;

fn rounds(usual: u32) -> u32 {
    match std::env::var("BULKHEAD_TEST_KILLS") {
        Ok(text) => text.parse().expect("BULKHEAD_TEST_KILLS is a number"),
        Err(_) => usual,
    }
}

/// Creates objects until the server is gone; the versions of those that were acknowledged.
async fn write(
    mut client: Client,
    writer: String,
    written: Arc<AtomicUsize>,
) -> Vec<(String, u64)> {
    let mut acknowledged = Vec::new();
    for n in 0.. {
        let name = format!("{writer}-{n}");
        let object =
            serde_json::to_vec(&json!({"metadata": {"name": name}, "data": {"n": name}})).unwrap();
        let Ok(answer) = client.send("POST", MAPS, &[], object).await else { break };
        let created = answer.status() == 201;
        let Ok(body) = http_body_util::BodyExt::collect(answer.into_body()).await else { break };
        assert!(created);
        let object: Value = serde_json::from_slice(&body.to_bytes()).unwrap();
        let version = object["metadata"]["resourceVersion"].as_str().unwrap();
        acknowledged.push((name, version.parse().unwrap()));
        written.fetch_add(1, Ordering::Relaxed);
    }
    acknowledged
}

/// Watches from `version` until everything in `acknowledged` was seen; the versions of what was
/// seen, and the last of them.
async fn resume(
    cluster: &Cluster,
    version: u64,
    acknowledged: &BTreeMap<String, u64>,
) -> (BTreeMap<String, u64>, u64) {
    let mut client = cluster.admin().await;
    let path = format!("{OWN}&watch=1&resourceVersion={version}");
    let mut watch = crate::common::Lines::open(&mut client, &path).await;
    let (mut seen, mut last) = (BTreeMap::new(), version);
    while acknowledged.keys().any(|name| !seen.contains_key(name)) {
        let event = watch.next().await;
        let object = &event["object"];
        assert_eq!(object["data"]["n"], object["metadata"]["name"], "nothing half-written");
        let version = object["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap();
        assert!(version > last, "in order, and none twice");
        last = version;
        seen.insert(object["metadata"]["name"].as_str().unwrap().to_owned(), version);
    }
    (seen, last)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acknowledged_writes_survive() {
    survive(Cluster::start(), None, rounds(ROUNDS)).await;
}

/// As above, with etcd killed as well, which has its own promises to keep.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acknowledged_writes_survive_in_etcd() {
    let etcd = Etcd::start();
    survive(Cluster::over(&etcd), Some(etcd), rounds(ROUNDS_WITH_ETCD)).await;
}

async fn survive(mut cluster: Cluster, mut etcd: Option<Etcd>, rounds: u32) {
    let start = cluster.admin().await.ok("GET", OWN, &Value::Null).await;
    let mut last = start["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap();
    let (mut acknowledged, mut watched) = (BTreeMap::new(), BTreeMap::new());
    for round in 0..rounds {
        let mut writers = Vec::new();
        let count = Arc::new(AtomicUsize::new(0));
        for writer in 0..4 {
            let client = cluster.admin().await;
            let write = write(client, format!("w{round}-{writer}"), Arc::clone(&count));
            writers.push(tokio::spawn(write));
        }
        while count.load(Ordering::Relaxed) < 8 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        // A point in time that differs from round to round.
        let point = (u64::from(round) * 7919) % 150_000;
        tokio::time::sleep(Duration::from_micros(point)).await;
        cluster.kill();
        let mut written = BTreeMap::new();
        for writer in writers {
            written.extend(writer.await.unwrap());
        }
        if let Some(etcd) = &mut etcd {
            etcd.kill();
            etcd.restart();
        }
        cluster.restart();
        let (seen, reached) = resume(&cluster, last, &written).await;
        last = reached;
        for (name, version) in &written {
            assert_eq!(seen.get(name), Some(version), "round {round}: {name} was acknowledged");
        }
        acknowledged.extend(written);
        watched.extend(seen);
    }
    println!("{} acknowledged writes in {rounds} rounds", acknowledged.len());
    let list = cluster.admin().await.ok("GET", OWN, &Value::Null).await;
    let mut found = BTreeMap::new();
    for item in list["items"].as_array().unwrap() {
        assert_eq!(item["data"]["n"], item["metadata"]["name"], "nothing half-written");
        let version: u64 = item["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap();
        found.insert(item["metadata"]["name"].as_str().unwrap().to_owned(), version);
    }
    for (name, version) in &acknowledged {
        assert_eq!(found.get(name), Some(version), "{name} was acknowledged");
    }
    for (name, version) in &found {
        // What was stored after the last acknowledged write of the last round was not waited for.
        assert!(watched.get(name) == Some(version) || *version > last, "{name} fell into a gap");
    }
}
