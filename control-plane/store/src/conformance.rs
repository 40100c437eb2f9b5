//! What every [`Store`] must do, as one function that its tests call.

use std::sync::Arc;

use crate::{Event, Range, Revision, Store, StoreError, Watch, Write};

/// Runs the suite on a new, empty store.
///
/// # Panics
/// If the store does not conform; the message says in what.
pub async fn run(store: &dyn Store) {
    compare_and_swap(store).await;
    lists_see_one_revision(store).await;
    pages_cover_a_prefix(store).await;
    watches_replay_and_follow(store).await;
    concurrent_writers_do_not_lose_updates(store).await;
    compaction_forgets_only_the_past(store).await;
}

async fn create(store: &dyn Store, key: &str, value: &str) -> Revision {
    let write = Write::Create { key: key.into(), value: value.into() };
    store.write(write).await.unwrap_or_else(|error| panic!("create {key}: {error}"))
}

async fn update(store: &dyn Store, key: &str, value: &str, expected: Revision) -> Revision {
    let write = Write::Update { key: key.into(), value: value.into(), expected };
    store.write(write).await.unwrap_or_else(|error| panic!("update {key}: {error}"))
}

async fn delete(store: &dyn Store, key: &str, expected: Revision) -> Revision {
    let write = Write::Delete { key: key.into(), expected };
    store.write(write).await.unwrap_or_else(|error| panic!("delete {key}: {error}"))
}

async fn list(store: &dyn Store, prefix: &str, at: Option<Revision>) -> Vec<(String, String)> {
    let range = Range { prefix: prefix.into(), at, ..Range::default() };
    let page = store.list(range).await.unwrap_or_else(|error| panic!("list {prefix}: {error}"));
    page.entries
        .into_iter()
        .map(|entry| (entry.key, String::from_utf8_lossy(&entry.value).into_owned()))
        .collect()
}

fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
    expected.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect()
}

async fn compare_and_swap(store: &dyn Store) {
    let first = create(store, "/cas/a", "1").await;
    // Here and below: a store may write for itself between any two.
    assert!(store.revision().await.expect("revision") >= first, "the newest revision");
    let again = store.write(Write::Create { key: "/cas/a".into(), value: "x".into() }).await;
    assert!(matches!(again, Err(StoreError::Exists(_))), "create of a present key: {again:?}");
    let second = update(store, "/cas/a", "2", first).await;
    assert!(second > first, "revisions ascend");
    let stale = Write::Update { key: "/cas/a".into(), value: "x".into(), expected: first };
    let stale = store.write(stale).await;
    assert!(
        matches!(stale, Err(StoreError::Changed { current, .. }) if current == second),
        "update of a changed key: {stale:?}"
    );
    let stale = store.write(Write::Delete { key: "/cas/a".into(), expected: first }).await;
    assert!(matches!(stale, Err(StoreError::Changed { .. })), "stale delete: {stale:?}");
    let entry = store.get("/cas/a").await.expect("get").expect("present");
    assert_eq!((&*entry.value, entry.revision), (&b"2"[..], second), "the newest value");
    delete(store, "/cas/a", second).await;
    assert_eq!(store.get("/cas/a").await.expect("get"), None, "a deleted key");
    let absent = store.write(Write::Delete { key: "/cas/a".into(), expected: second }).await;
    assert!(matches!(absent, Err(StoreError::Absent(_))), "delete of an absent key: {absent:?}");
    let recreated = create(store, "/cas/a", "3").await;
    delete(store, "/cas/a", recreated).await;
}

async fn lists_see_one_revision(store: &dyn Store) {
    let a1 = create(store, "/rev/a", "a1").await;
    let b1 = create(store, "/rev/b", "b1").await;
    let a2 = update(store, "/rev/a", "a2", a1).await;
    let gone = delete(store, "/rev/b", b1).await;
    create(store, "/rev!", "outside the prefix").await;
    assert_eq!(list(store, "/rev/", None).await, pairs(&[("/rev/a", "a2")]));
    assert_eq!(list(store, "/rev/", Some(a1)).await, pairs(&[("/rev/a", "a1")]));
    let both = pairs(&[("/rev/a", "a1"), ("/rev/b", "b1")]);
    assert_eq!(list(store, "/rev/", Some(b1)).await, both);
    let both = pairs(&[("/rev/a", "a2"), ("/rev/b", "b1")]);
    assert_eq!(list(store, "/rev/", Some(a2)).await, both);
    assert_eq!(list(store, "/rev/", Some(gone)).await, pairs(&[("/rev/a", "a2")]));
    let future = store.list(Range { at: Some(Revision(u64::MAX >> 1)), ..Range::default() }).await;
    assert!(matches!(future, Err(StoreError::Future { .. })), "list of the future: {future:?}");
}

async fn pages_cover_a_prefix(store: &dyn Store) {
    let keys: Vec<String> = (0..10).map(|n| format!("/page/{n}")).collect();
    for key in &keys {
        create(store, key, "v").await;
    }
    for at_a_revision in [false, true] {
        let mut range = Range { prefix: "/page/".into(), limit: Some(4), ..Range::default() };
        let mut found = Vec::new();
        loop {
            let page = store.list(range.clone()).await.expect("a page");
            assert_eq!(page.remaining as usize, 10 - found.len() - page.entries.len(), "remaining");
            found.extend(page.entries.into_iter().map(|entry| entry.key));
            range.after = found.last().cloned();
            if at_a_revision && range.at.is_none() {
                range.at = Some(page.revision);
                // Not of the revision that the first page was: no later page may show it.
                create(store, "/page/99", "new").await;
            }
            if page.remaining == 0 {
                break;
            }
        }
        assert_eq!(found, keys, "the pages' keys");
    }
}

/// The next `count` events.
async fn take(watch: &mut dyn Watch, count: usize) -> Vec<Arc<Event>> {
    let mut events = Vec::new();
    while events.len() < count {
        events.extend(watch.next().await.expect("the watch goes on"));
    }
    assert_eq!(events.len(), count, "no more events than writes");
    events
}

async fn watches_replay_and_follow(store: &dyn Store) {
    let before = store.revision().await.expect("revision");
    let created = create(store, "/watch/a", "1").await;
    create(store, "/elsewhere", "x").await;
    let mut watch = store.watch("/watch/", before).await.expect("a watch of the past");
    let updated = update(store, "/watch/a", "2", created).await;
    let deleted = delete(store, "/watch/a", updated).await;
    let events = take(watch.as_mut(), 3).await;
    let value = |text: &str| Some(Arc::<[u8]>::from(text.as_bytes()));
    let expected = [
        (created, value("1"), None),
        (updated, value("2"), value("1")),
        (deleted, None, value("2")),
    ];
    for (event, (revision, value, previous)) in events.iter().zip(expected) {
        assert_eq!(event.key, "/watch/a", "the watched prefix");
        assert_eq!(event.revision, revision);
        assert_eq!((&event.value, &event.previous), (&value, &previous), "at {revision}");
    }
    let newest = store.revision().await.expect("revision");
    assert!((deleted..=newest).contains(&watch.revision()), "{}", watch.revision());
    let other = create(store, "/elsewhere/2", "x").await;
    while watch.revision() < other {
        assert!(watch.next().await.expect("progress").is_empty(), "nothing was written here");
    }
    let future = store.watch("/", Revision(other.0 + 1000)).await;
    assert!(matches!(future.err(), Some(StoreError::Future { .. })), "a watch of the future");
    // More writes than any implementation keeps in memory: the log must fill in.
    let start = store.revision().await.expect("revision");
    let mut slow = store.watch("/many/", start).await.expect("a watch");
    let value = "x".repeat(16 << 10);
    let mut written = vec![create(store, "/many/k", &value).await];
    for index in 1..600 {
        written.push(update(store, "/many/k", &value, written[index - 1]).await);
    }
    let events = take(slow.as_mut(), 600).await;
    assert!(events.iter().map(|event| event.revision).eq(written), "no gap");
    assert!(events[1..].iter().all(|event| event.previous.is_some()), "previous values");
}

async fn concurrent_writers_do_not_lose_updates(store: &dyn Store) {
    create(store, "/counter", "0").await;
    let one = async || {
        for _ in 0..20 {
            loop {
                let entry = store.get("/counter").await.expect("get").expect("present");
                let count: u64 = String::from_utf8_lossy(&entry.value).parse().expect("a number");
                let write = Write::Update {
                    key: "/counter".into(),
                    value: (count + 1).to_string().into(),
                    expected: entry.revision,
                };
                match store.write(write).await {
                    Ok(_) => break,
                    Err(StoreError::Changed { .. }) => {}
                    Err(error) => panic!("update: {error}"),
                }
            }
        }
    };
    tokio::join!(one(), one(), one(), one());
    let entry = store.get("/counter").await.expect("get").expect("present");
    assert_eq!(&*entry.value, b"80", "every increment counts");
}

async fn compaction_forgets_only_the_past(store: &dyn Store) {
    let a1 = create(store, "/compact/a", "a1").await;
    let b1 = create(store, "/compact/b", "b1").await;
    let a2 = update(store, "/compact/a", "a2", a1).await;
    let point = delete(store, "/compact/b", b1).await;
    let mut behind = store.watch("/compact/", a1).await.expect("a watch");
    let a3 = update(store, "/compact/a", "a3", a2).await;
    store.compact(point).await.expect("compaction");
    let old = store.list(Range { at: Some(a2), ..Range::default() }).await;
    assert!(matches!(old, Err(StoreError::Compacted { .. })), "list of the forgotten: {old:?}");
    let old = store.watch("/compact/", a1).await;
    assert!(matches!(old.err(), Some(StoreError::Compacted { .. })), "watch of the forgotten");
    assert_eq!(list(store, "/compact/", Some(point)).await, pairs(&[("/compact/a", "a2")]));
    assert_eq!(list(store, "/compact/", None).await, pairs(&[("/compact/a", "a3")]));
    let mut watch = store.watch("/compact/", point).await.expect("a watch of what is kept");
    let events = take(watch.as_mut(), 1).await;
    assert_eq!(events[0].revision, a3);
    assert_eq!(events[0].previous.as_deref(), Some(&b"a2"[..]), "the value before");
    // One that was open may see it all or be told; it may not skip.
    match behind.next().await {
        Ok(events) => assert_eq!(events.first().map(|event| event.revision), Some(b1)),
        Err(StoreError::Compacted { .. }) => {}
        Err(error) => panic!("an open watch: {error}"),
    }
    // The newest revision survives its own compaction.
    let last = delete(store, "/compact/a", a3).await;
    store.compact(last).await.expect("compaction");
    let newest = store.revision().await.expect("revision");
    assert!(newest >= last, "{newest} after {last}");
    assert!(create(store, "/compact/c", "c").await > newest);
    let future = store.compact(Revision(last.0 + 1000)).await;
    assert!(matches!(future, Err(StoreError::Future { .. })), "compaction of the future");
}
