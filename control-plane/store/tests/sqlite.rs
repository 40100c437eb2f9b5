//! The SQLite store: conformance, reopening, and that no acknowledged write is lost to `kill -9`.

use std::io::{BufRead, BufReader, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};

use bulkhead_store::{Range, Revision, SqliteStore, Store, Write, conformance};

const WRITER_DB: &str = "BULKHEAD_TEST_WRITER_DB";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conforms() {
    let dir = tempfile::tempdir().unwrap();
    conformance::run(&SqliteStore::open(&dir.path().join("store.db")).unwrap()).await;
}

#[tokio::test]
async fn the_revision_survives_compaction_and_reopening() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store.db");
    let store = SqliteStore::open(&path).unwrap();
    let created = store.write(Write::Create { key: "a".into(), value: b"1".into() }).await.unwrap();
    let deleted = store.write(Write::Delete { key: "a".into(), expected: created }).await.unwrap();
    store.compact(deleted).await.unwrap();
    drop(store);
    let store = SqliteStore::open(&path).unwrap();
    assert_eq!(store.revision().await.unwrap(), deleted);
    assert!(store.watch("", created).await.is_err());
    assert!(store.watch("", deleted).await.is_ok());
}

#[test]
fn a_file_that_is_no_database_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store.db");
    std::fs::write(&path, "this is not a database, and long enough to be looked at as one")
        .unwrap();
    let error = SqliteStore::open(&path).unwrap_err().to_string();
    assert!(error.contains("not a database"), "{error}");
}

/// Not a test of its own: the process that `acknowledged_writes_survive_kill` kills.
#[tokio::test]
async fn writer_process() {
    let Some(path) = std::env::var_os(WRITER_DB) else { return };
    let store = std::sync::Arc::new(SqliteStore::open(Path::new(&path)).unwrap());
    let start = store.revision().await.unwrap().0;
    let clients = (0..8).map(|client| {
        let store = std::sync::Arc::clone(&store);
        tokio::spawn(async move {
            for n in 0.. {
                let key = format!("/k/{start}-{client}-{n}");
                let write = Write::Create { key: key.clone(), value: key.clone().into() };
                let revision = store.write(write).await.unwrap();
                // One write call per line, so that a kill leaves no half line from two clients.
                let line = format!("ack {revision} {key}\n");
                std::io::stdout().lock().write_all(line.as_bytes()).unwrap();
            }
        })
    });
    for client in clients.collect::<Vec<_>>() {
        client.await.unwrap();
    }
}

#[tokio::test]
async fn acknowledged_writes_survive_kill() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store.db");
    let mut acknowledged = Vec::new();
    for round in 0..10_u64 {
        let mut writer = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "writer_process", "--nocapture"])
            .env(WRITER_DB, &path)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(writer.stdout.take().unwrap()).lines();
        // Let it get going, then kill it at a point that differs from round to round.
        let mut seen = Vec::new();
        while seen.len() < usize::try_from(5 + round * 7).unwrap() {
            let line = lines.next().expect("the writer ended by itself").unwrap();
            seen.extend(line.strip_prefix("ack ").map(str::to_owned));
        }
        std::thread::sleep(std::time::Duration::from_micros(round * 731));
        writer.kill().unwrap();
        writer.wait().unwrap();
        // What lies in the pipe was acknowledged too; writes this small to a pipe are atomic.
        let rest = lines.map_while(Result::ok);
        seen.extend(rest.filter_map(|line| line.strip_prefix("ack ").map(str::to_owned)));
        acknowledged.extend(seen.iter().filter_map(|line| {
            let (revision, key) = line.split_once(' ')?;
            Some((Revision(revision.parse().ok()?), key.to_owned()))
        }));
        let store = SqliteStore::open(&path).unwrap();
        let page = store.list(Range { prefix: "/k/".into(), ..Range::default() }).await.unwrap();
        let found: std::collections::HashMap<_, _> = page
            .entries
            .into_iter()
            .map(|entry| {
                assert_eq!(entry.key.as_bytes(), &*entry.value, "no half-written value");
                (entry.key, entry.revision)
            })
            .collect();
        for (revision, key) in &acknowledged {
            assert_eq!(found.get(key), Some(revision), "round {round}: {key} was acknowledged");
        }
    }
    assert!(acknowledged.len() > 100, "only {} writes were tried", acknowledged.len());
}
