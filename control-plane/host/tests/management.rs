//! The management API of a real daemon, as far as it goes without KVM and privileges.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use bulkhead_host_api::client::{Client, ClientError};
use bulkhead_host_api::{ApiError, ClusterConfig};
use serde_json::json;

struct Daemon {
    process: Child,
    client: Client,
    _home: tempfile::TempDir,
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

async fn daemon() -> Daemon {
    let home = tempfile::tempdir().unwrap();
    for file in ["vmlinux", "root.erofs"] {
        std::fs::write(home.path().join(file), "x").unwrap();
    }
    let process = Command::new(env!("CARGO_BIN_EXE_bulkhead-host"))
        .arg("--home")
        .arg(home.path().join("home"))
        .env("BULKHEAD_NODE_IMAGE_DIR", home.path())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let client = Client::unix(&home.path().join("home/host.sock"));
    let began = Instant::now();
    while let Err(error) = client.host().await {
        assert!(began.elapsed() < Duration::from_secs(120), "{error}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Daemon { process, client, _home: home }
}

async fn refused(client: &Client, config: serde_json::Value) -> ApiError {
    let config: ClusterConfig = serde_json::from_value(config).unwrap();
    let error = match client.create_cluster(&config).await {
        Ok(task) => task.finish(|_, _, _| {}).await.unwrap_err(),
        Err(error) => error,
    };
    match error {
        ClientError::Api(error) => error,
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn what_cannot_be_made_is_refused_and_leaves_nothing() {
    let daemon = daemon().await;
    let client = &daemon.client;
    assert_eq!(refused(client, json!({"name": "A"})).await.reason, "Invalid");
    assert_eq!(refused(client, json!({"name": "a", "nodes": 0})).await.reason, "Invalid");
    let error = refused(client, json!({"name": "a", "node": {"memory": 1_u64 << 50}})).await;
    assert_eq!(error.reason, "InsufficientResources");
    assert!(error.message.contains("MiB"), "{error}");
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let error = refused(client, json!({"name": "a", "apiPort": port})).await;
    assert!(error.message.contains(&port.to_string()), "{error}");
    assert!(client.clusters().await.unwrap().is_empty());
}

#[tokio::test]
async fn what_is_not_there_is_not_found() {
    let daemon = daemon().await;
    let error = daemon.client.cluster("none").await.unwrap_err();
    assert!(matches!(error, ClientError::Api(error) if error.reason == "NotFound"));
    let error = daemon.client.remove_image("127.0.0.1:1/none:1").await.unwrap_err();
    assert!(matches!(error, ClientError::Api(error) if error.reason == "NotFound"));
    assert!(daemon.client.images().await.unwrap().is_empty());
}
