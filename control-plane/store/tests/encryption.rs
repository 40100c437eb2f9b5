//! Encryption at rest over the SQLite store: conformance, what the files show, and new keys.

use std::path::Path;
use std::sync::Arc;

use bulkhead_store::encryption::{EncryptedStore, KEY_LENGTH, Keyring};
use bulkhead_store::{SqliteStore, Store, Write, conformance};

const KEY: &str = "/secrets/a";
const SECRET: &str = "a-very-particular-password";

fn keys(names: &[&str], plain: bool) -> Keyring {
    let keys = names.iter().map(|&name| (name.into(), [name.as_bytes()[0]; KEY_LENGTH]));
    Keyring::new(keys.collect(), plain).unwrap()
}

fn sqlite(dir: &Path) -> Arc<dyn Store> {
    Arc::new(SqliteStore::open(&dir.join("store.db")).unwrap())
}

fn encrypted(dir: &Path, keys: Keyring) -> EncryptedStore {
    EncryptedStore::new(sqlite(dir), vec!["/secrets/".into()], keys)
}

async fn put(store: &dyn Store) {
    let write = Write::Create { key: KEY.into(), value: SECRET.into() };
    store.write(write).await.unwrap();
}

async fn value(store: &dyn Store) -> Vec<u8> {
    store.get(KEY).await.unwrap().unwrap().value.to_vec()
}

/// Whether any file in `dir` (the database, its WAL) has `text` in it.
fn shows(dir: &Path, text: &str) -> bool {
    std::fs::read_dir(dir).unwrap().any(|entry| {
        let bytes = std::fs::read(entry.unwrap().path()).unwrap();
        bytes.windows(text.len()).any(|part| part == text.as_bytes())
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conforms_with_everything_encrypted() {
    let dir = tempfile::tempdir().unwrap();
    let store = EncryptedStore::new(sqlite(dir.path()), vec![String::new()], keys(&["k"], false));
    conformance::run(&store).await;
}

#[tokio::test]
async fn the_files_show_no_secret() {
    let dir = tempfile::tempdir().unwrap();
    let store = encrypted(dir.path(), keys(&["k"], false));
    put(&store).await;
    store
        .write(Write::Create { key: "/maps/a".into(), value: "in the clear".into() })
        .await
        .unwrap();
    assert!(shows(dir.path(), "in the clear"), "the files are those");
    assert!(!shows(dir.path(), SECRET));
    assert_eq!(value(&store).await, SECRET.as_bytes());
}

#[tokio::test]
async fn what_was_plain_is_sealed_and_leaves_no_trace() {
    let dir = tempfile::tempdir().unwrap();
    let plain = sqlite(dir.path());
    put(plain.as_ref()).await;
    // It stays open: its end, which nobody waits for, would take the WAL away just now.
    assert!(shows(dir.path(), SECRET));
    let store = encrypted(dir.path(), keys(&["k"], true));
    assert_eq!(value(&store).await, SECRET.as_bytes());
    assert_eq!(store.reseal().await.unwrap(), 1);
    assert!(!shows(dir.path(), SECRET));
    assert_eq!(store.reseal().await.unwrap(), 0);
    assert_eq!(value(&store).await, SECRET.as_bytes());
}

#[tokio::test]
async fn a_new_key_takes_over() {
    let dir = tempfile::tempdir().unwrap();
    let store = encrypted(dir.path(), keys(&["old"], false));
    put(&store).await;
    store.set_keys(keys(&["new", "old"], false));
    assert_eq!(value(&store).await, SECRET.as_bytes());
    assert_eq!(store.reseal().await.unwrap(), 1);
    store.set_keys(keys(&["new"], false));
    assert_eq!(value(&store).await, SECRET.as_bytes());
}

#[tokio::test]
async fn another_servers_new_key_is_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let inner = sqlite(dir.path());
    let prefixes = || vec!["/secrets/".to_owned()];
    let newer = || Ok(keys(&["new", "old"], false));
    let other =
        EncryptedStore::shared(Arc::clone(&inner), prefixes(), keys(&["old"], false), newer);
    put(&EncryptedStore::new(inner, prefixes(), keys(&["new"], false))).await;
    assert_eq!(value(&other).await, SECRET.as_bytes());
}
