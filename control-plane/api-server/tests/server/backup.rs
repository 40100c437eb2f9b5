//! Backups of running clusters, and what is restored from them: into SQLite and etcd, from either.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::common::{BINARY, Client, Cluster, Lines, until};
use bulkhead_test_etcd::Etcd;
use serde_json::{Value, json};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const SECRETS: &str = "/api/v1/namespaces/default/secrets";
const TOKEN: &str = "/api/v1/namespaces/default/serviceaccounts/default/token";

fn version(object: &Value) -> u64 {
    object["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap()
}

/// Backs `cluster` up into `dir`.
fn backup(cluster: &Cluster, dir: &Path) -> PathBuf {
    let made = cluster.backup();
    assert!(made.status.success(), "{made:?}");
    let path = dir.join("backup");
    std::fs::write(&path, made.stdout).unwrap();
    path
}

/// Makes objects that a restore must bring back; a token of the cluster's own.
async fn fill(client: &mut Client) -> String {
    client.ok("POST", MAPS, &json!({"metadata": {"name": "m"}, "data": {"k": "v"}})).await;
    let secret = json!({"metadata": {"name": "s"}, "stringData": {"password": "particular"}});
    client.ok("POST", SECRETS, &secret).await;
    let account = TOKEN.strip_suffix("/token").unwrap();
    until(client, account, |account| account["metadata"]["name"] == "default").await;
    let issued = client.ok("POST", TOKEN, &json!({"spec": {}})).await;
    issued["status"]["token"].as_str().unwrap().to_owned()
}

/// Sees that what [`fill`] made is there, and that time has not gone back: `seen` is a version of
/// the cluster's that is gone.
async fn check(cluster: &Cluster, token: &str, seen: u64) {
    let mut client = cluster.admin().await;
    let map = client.ok("GET", &format!("{MAPS}/m"), &Value::Null).await;
    assert_eq!(map["data"]["k"], "v");
    let secret = client.ok("GET", &format!("{SECRETS}/s"), &Value::Null).await;
    assert_eq!(secret["data"]["password"], "cGFydGljdWxhcg==");
    let bearer = format!("Bearer {token}");
    let mut bot = cluster.client(None).await;
    let asked = bot.exchange("GET", MAPS, &[("authorization", &bearer)], Vec::new()).await;
    assert_eq!(asked.0, 403, "the token is known, and may nothing: {}", asked.1);
    let list = client.ok("GET", MAPS, &Value::Null).await;
    assert!(version(&list) > seen, "versions go on");
    let changed = json!({"data": {"k": "w"}});
    let path = format!("{MAPS}/m");
    let media_type = "application/merge-patch+json";
    let (code, map) = client.typed("PATCH", &path, media_type, &changed).await;
    assert!(code == 200 && version(&map) > seen);
    // Whoever watched before lists anew.
    let mut watching = cluster.admin().await;
    let (code, gone) = watching.get(&format!("{MAPS}?watch=1&resourceVersion={seen}")).await;
    assert_eq!((code, &gone["reason"]), (410, &json!("Expired")), "{gone}");
    let now = version(&list);
    let fresh = format!("{MAPS}?watch=1&fieldSelector=metadata.name%3Dm&resourceVersion={now}");
    let mut watch = Lines::open(&mut watching, &fresh).await;
    assert_eq!(watch.next().await["object"]["data"]["k"], "w");
}

#[tokio::test]
async fn a_cluster_moves_from_sqlite_to_etcd_and_back() {
    let dir = tempfile::tempdir().unwrap();
    let cluster = Cluster::start();
    let mut client = cluster.admin().await;
    let token = fill(&mut client).await;
    let made = client.ok("GET", &format!("{MAPS}/m"), &Value::Null).await;
    let file = backup(&cluster, dir.path());
    let later = client.ok("POST", MAPS, &json!({"metadata": {"name": "later"}})).await;
    let seen = version(&later);
    drop(cluster);

    let same = Cluster::restored(&file, &[]);
    let mut client = same.admin().await;
    let found = client.ok("GET", &format!("{MAPS}/m"), &Value::Null).await;
    assert_eq!(found, made, "to SQLite, with its version");
    assert_eq!(client.get(&format!("{MAPS}/later")).await.0, 404);
    check(&same, &token, seen).await;

    let etcd = Etcd::start();
    let url = etcd.url();
    let options = ["--etcd-servers", url.as_str(), "--etcd-prefix", "/clusters/a"];
    let moved = Cluster::restored(&file, &options);
    check(&moved, &token, seen).await;
    let mut client = moved.admin().await;
    let made = client.ok("POST", MAPS, &json!({"metadata": {"name": "in-etcd"}})).await;
    let file = backup(&moved, dir.path());
    let back = Cluster::restored(&file, &[]);
    let mut client = back.admin().await;
    let reset = json!({"data": {"k": "v"}});
    client.typed("PATCH", &format!("{MAPS}/m"), "application/merge-patch+json", &reset).await;
    assert_eq!(client.ok("GET", &format!("{MAPS}/in-etcd"), &Value::Null).await, made);
    check(&back, &token, version(&made)).await;

    // Neither is overwritten unasked.
    let refused = |dir: &Path, more: &[&str]| {
        let mut restore = Command::new(BINARY);
        let output = restore.args(["restore", "--dir"]).arg(dir).args(more).arg(&file).output();
        let output = output.unwrap();
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        String::from_utf8(output.stderr).unwrap()
    };
    assert!(refused(back.dir.path(), &[]).contains("is there already"));
    let taken = refused(&dir.path().join("new"), &options);
    assert!(taken.contains("/clusters/a/ in etcd is not empty"), "{taken}");
}

/// Writes maps of ever higher numbers under `name` until the server is gone.
async fn write(mut client: Client, name: &str) {
    for n in 0.. {
        let map = json!({"metadata": {"name": format!("{name}-{n}")}});
        let body = serde_json::to_vec(&map).unwrap();
        if client.send("POST", MAPS, &[], body).await.is_err() {
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_under_load_is_of_one_moment() {
    let etcd = Etcd::start();
    for cluster in [Cluster::start(), Cluster::over(&etcd)] {
        let dir = tempfile::tempdir().unwrap();
        let mut client = cluster.admin().await;
        let mut writers = Vec::new();
        for name in ["a", "b"] {
            writers.push(tokio::spawn(write(cluster.admin().await, name)));
        }
        // More than one page of etcd's.
        until(&mut client, MAPS, |list| list["items"].as_array().is_some_and(|l| l.len() > 600))
            .await;
        let file = backup(&cluster, dir.path());
        drop(cluster);
        for writer in writers {
            writer.await.unwrap();
        }
        let restored = Cluster::restored(&file, &[]);
        let list = restored.admin().await.ok("GET", MAPS, &Value::Null).await;
        let mut found: BTreeMap<String, Vec<(u64, u64)>> = BTreeMap::new();
        for map in list["items"].as_array().unwrap() {
            if let Some((name, n)) = map["metadata"]["name"].as_str().unwrap().split_once('-')
                && name.len() == 1
            {
                let numbered = (n.parse().unwrap(), version(map));
                found.entry(name.into()).or_default().push(numbered);
            }
        }
        assert_eq!(found.len(), 2);
        for (name, mut maps) in found {
            maps.sort_unstable();
            let numbers = maps.iter().map(|(n, _)| *n);
            assert!(numbers.eq(0..maps.len() as u64), "{name}: none is missing: {maps:?}");
            assert!(maps.is_sorted_by_key(|(_, version)| *version));
        }
    }
}

#[test]
fn what_is_no_backup_is_refused_in_one_line() {
    let dir = tempfile::tempdir().unwrap();
    let cluster = Cluster::start();
    let good = std::fs::read(backup(&cluster, dir.path())).unwrap();
    let inspect = |bytes: &[u8]| {
        let path = dir.path().join("file");
        std::fs::write(&path, bytes).unwrap();
        Command::new(BINARY).arg("inspect-backup").arg(&path).output().unwrap()
    };
    assert_eq!(inspect(&good).stdout, b"{\"name\":\"test\"}\n");
    let mut newer = good.clone();
    newer[16] = 9;
    let half = &good[..good.len() / 2];
    for (bytes, why) in [(&b"PK\x03\x04"[..], "not a backup"), (half, "cut off"), (&newer, "newer")]
    {
        let refused = inspect(bytes);
        let stderr = String::from_utf8(refused.stderr).unwrap();
        assert_eq!((refused.status.code(), stderr.lines().count()), (Some(2), 1), "{stderr}");
        assert!(stderr.contains("/file: ") && stderr.contains(why), "{stderr}");
    }
    let none = Command::new(BINARY).args(["backup", "--dir"]).arg(dir.path()).output().unwrap();
    let stderr = String::from_utf8(none.stderr).unwrap();
    assert!(none.status.code() == Some(2) && stderr.contains("encryption.json"), "{stderr}");
}
