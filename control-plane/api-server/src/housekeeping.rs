//! What keeps the store from growing: old revisions are compacted away, old events deleted.

use std::time::Duration;

use serde_json::Value;
use time::OffsetDateTime;

use crate::api::{Api, Place};
use crate::object;
use crate::options::{DeleteOptions, Preconditions, ReadOptions};
use crate::status::Result;

/// How often old events are looked for.
const EVENTS_INTERVAL: Duration = Duration::from_secs(300);
/// How long an event is kept after it was last seen, as in Kubernetes.
const EVENT_LIFE: time::Duration = time::Duration::HOUR;

/// Keeps house, for ever: the past is kept between one and two `compaction_interval`s.
pub(crate) async fn run(api: Api, compaction_interval: Duration) {
    tokio::join!(expire_events(&api), compact(&api, compaction_interval));
}

async fn expire_events(api: &Api) {
    loop {
        tokio::time::sleep(EVENTS_INTERVAL).await;
        if let Err(error) = delete_events(api, OffsetDateTime::now_utc() - EVENT_LIFE).await {
            tracing::warn!(%error, "deleting old events");
        }
    }
}

async fn compact(api: &Api, interval: Duration) {
    let mut last = None;
    loop {
        tokio::time::sleep(interval).await;
        if let Some(revision) = last
            && let Err(error) = api.store().compact(revision).await
        {
            tracing::warn!(%error, "compaction");
        }
        last = api.store().revision().await.ok();
    }
}

/// Deletes the events that were last seen before `limit`.
async fn delete_events(api: &Api, limit: OffsetDateTime) -> Result<()> {
    let Some(events) = api.registry().find("", "v1", "events") else { return Ok(()) };
    let list = api.list(&Place::new(&events, None), &ReadOptions::default()).await?;
    for event in list.items.iter().filter(|event| last_seen(event).is_some_and(|seen| seen < limit))
    {
        let text = |path| Some(object::text(event, path).to_owned());
        let options = DeleteOptions {
            // One that is seen again in this moment stays.
            preconditions: Some(Preconditions {
                uid: text("metadata.uid"),
                resource_version: text("metadata.resourceVersion"),
            }),
            ..DeleteOptions::default()
        };
        let place = Place::new(&events, object::namespace(event));
        match api.delete(&place, object::name(event), &options).await {
            Err(error) if !matches!(error.code, 404 | 409) => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

fn last_seen(event: &Value) -> Option<OffsetDateTime> {
    ["series.lastObservedTime", "lastTimestamp", "eventTime", "metadata.creationTimestamp"]
        .into_iter()
        .find_map(|path| object::parse_time(object::text(event, path)))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bulkhead_store::SqliteStore;
    use serde_json::json;

    use super::*;
    use crate::kinds;
    use crate::options::WriteOptions;

    #[tokio::test]
    async fn old_events_go_and_new_ones_stay() {
        let dir = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(&dir.path().join("store.db")).unwrap();
        let api = Api::new(Arc::new(store), Arc::new(kinds::registry()));
        let options = WriteOptions::default();
        let namespaces = api.registry().find("", "v1", "namespaces").unwrap();
        let namespace = json!({"metadata": {"name": "default"}});
        api.create(&Place::new(&namespaces, None), namespace, &options).await.unwrap();
        let events = api.registry().find("", "v1", "events").unwrap();
        let place = Place::new(&events, Some("default"));
        for (name, seen) in [("old", "2020-01-01T00:00:00Z"), ("new", object::now().as_str())] {
            let event = json!({"metadata": {"name": name}, "lastTimestamp": seen});
            api.create(&place, event, &options).await.unwrap();
        }
        delete_events(&api, OffsetDateTime::now_utc() - EVENT_LIFE).await.unwrap();
        let left = api.list(&place, &ReadOptions::default()).await.unwrap().items;
        assert_eq!(left.iter().map(object::name).collect::<Vec<_>>(), ["new"]);
    }
}
