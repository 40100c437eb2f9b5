//! Secrets at rest: the cluster's files do not show them, and their key can be changed while the
//! server runs.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::common::{BINARY, Cluster, LIMIT};
use serde_json::{Value, json};

const SECRETS: &str = "/api/v1/namespaces/default/secrets";
const PASSWORD: &str = "a-very-particular-password";
/// The same in base64, as objects carry it.
const ENCODED: &str = "YS12ZXJ5LXBhcnRpY3VsYXItcGFzc3dvcmQ=";

/// Whether the database or its log has `text` in it.
fn shows(dir: &Path, text: &str) -> bool {
    let files = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let mut databases = files.filter(|path| path.to_string_lossy().contains("store.db"));
    databases.any(|path| {
        let bytes = std::fs::read(path).unwrap();
        bytes.windows(text.len()).any(|part| part == text.as_bytes())
    })
}

fn key_names(cluster: &Cluster) -> Vec<String> {
    let file = std::fs::read(cluster.pki("encryption.json")).unwrap();
    let file: Value = serde_json::from_slice(&file).unwrap();
    let keys = file["resources"][0]["providers"][0]["aesgcm"]["keys"].as_array().unwrap();
    keys.iter().map(|key| key["name"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn files_show_no_secret_and_keys_change() {
    let mut cluster = Cluster::start();
    let mut admin = cluster.admin().await;
    let secret = json!({"metadata": {"name": "s"}, "stringData": {"password": PASSWORD}});
    admin.ok("POST", SECRETS, &secret).await;
    let map = json!({"metadata": {"name": "m"}, "data": {"k": "in-the-clear"}});
    admin.ok("POST", "/api/v1/namespaces/default/configmaps", &map).await;
    assert!(shows(cluster.dir.path(), "in-the-clear"));
    for text in [PASSWORD, ENCODED] {
        assert!(!shows(cluster.dir.path(), text), "{text}");
    }
    let before = key_names(&cluster);
    assert!(shows(cluster.dir.path(), &before[0]), "the envelope names the key");
    let mut watched = cluster.admin().await;
    let mut watch = crate::common::Lines::open(&mut watched, &format!("{SECRETS}?watch=1")).await;
    assert_eq!(watch.next().await["object"]["data"]["password"], ENCODED);

    let rotated =
        Command::new(BINARY).args(["rotate-secrets-key", "--dir"]).arg(cluster.dir.path()).output();
    assert!(rotated.unwrap().status.success());
    cluster.signal("HUP");
    let began = Instant::now();
    while key_names(&cluster).len() != 1 && began.elapsed() < LIMIT {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let after = key_names(&cluster);
    assert!(after.len() == 1 && after != before, "{after:?}");
    let path = format!("{SECRETS}/s");
    assert_eq!(admin.ok("GET", &path, &Value::Null).await["data"]["password"], ENCODED);
    assert_eq!(watch.next().await["object"]["data"]["password"], ENCODED, "written anew");
    assert!(shows(cluster.dir.path(), &after[0]) && !shows(cluster.dir.path(), &before[0]));
    cluster.kill();
    cluster.restart();
    let found = cluster.admin().await.ok("GET", &path, &Value::Null).await;
    assert_eq!(found["data"]["password"], ENCODED);
}
