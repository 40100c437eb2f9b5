//! `kill -9` of the server under load: every acknowledged write is there, and a watch goes on
//! from where it was without a gap.

mod common;

use std::collections::BTreeMap;
use std::time::Duration;

use common::{Client, Cluster};
use serde_json::{Value, json};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const ROUNDS: u32 = 5;

/// Creates objects until the server is gone; the versions of those that were acknowledged.
async fn write(mut client: Client, writer: String) -> Vec<(String, u64)> {
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
    }
    acknowledged
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acknowledged_writes_survive() {
    let mut cluster = Cluster::start();
    let start = cluster.admin().await.ok("GET", MAPS, &Value::Null).await;
    let start = start["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
    let mut acknowledged = BTreeMap::new();
    for round in 0..ROUNDS {
        let mut writers = Vec::new();
        for writer in 0..4 {
            let client = cluster.admin().await;
            writers.push(tokio::spawn(write(client, format!("w{round}-{writer}"))));
        }
        tokio::time::sleep(Duration::from_millis(100 + u64::from(round) * 37)).await;
        cluster.kill();
        for writer in writers {
            acknowledged.extend(writer.await.unwrap());
        }
        cluster.restart();
        // All but the one that every namespace has.
        let path = format!("{MAPS}?fieldSelector=metadata.name!%3Dkube-root-ca.crt");
        let list = cluster.admin().await.ok("GET", &path, &Value::Null).await;
        let mut found = BTreeMap::new();
        for item in list["items"].as_array().unwrap() {
            assert_eq!(item["data"]["n"], item["metadata"]["name"], "nothing half-written");
            let version: u64 =
                item["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap();
            found.insert(item["metadata"]["name"].as_str().unwrap().to_owned(), version);
        }
        for (name, version) in &acknowledged {
            assert_eq!(found.get(name), Some(version), "round {round}: {name} was acknowledged");
        }
    }
    assert!(acknowledged.len() > 20, "only {} writes were tried", acknowledged.len());
    let mut client = cluster.admin().await;
    let path = format!("{MAPS}?watch=1&resourceVersion={start}");
    let mut watch = common::Lines::open(&mut client, &path).await;
    let mut last = 0;
    let mut missing = acknowledged;
    while !missing.is_empty() {
        let event = watch.next().await;
        let version = event["object"]["metadata"]["resourceVersion"].as_str().unwrap();
        let version: u64 = version.parse().unwrap();
        assert!(version > last, "in order");
        last = version;
        missing.remove(event["object"]["metadata"]["name"].as_str().unwrap());
    }
}
