//! Brings the keys of addresses and ports in line with the Services: what a server that died left
//! behind is removed, what is missing is made.

use std::collections::HashMap;
use std::time::Duration;

use bulkhead_store::{Range, StoreError, Write};
use serde_json::Value;
use time::OffsetDateTime;

use super::{ADDRESSES_PREFIX, Claim, MANAGED_BY, PORTS_PREFIX, held};
use crate::api::{Api, Place, Target, store_failure};
use crate::cidr::Ipv4Range;
use crate::kinds::CIDR_FINALIZER;
use crate::object;
use crate::options::{ReadOptions, WriteOptions};
use crate::status::{Result, Status};

const INTERVAL: Duration = Duration::from_secs(60);
/// A key that is younger may be that of a Service which is just being written.
const GRACE: time::Duration = time::Duration::MINUTE;

/// Repairs, for ever.
pub(crate) async fn run(api: Api) {
    loop {
        let repaired = repair(&api, OffsetDateTime::now_utc() - GRACE).await;
        if let Err(error) = repaired {
            tracing::warn!(%error, "repairing the addresses and ports of Services");
        }
        if let Err(error) = release_ranges(&api).await {
            tracing::warn!(%error, "releasing ServiceCIDRs");
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

/// Repairs once; keys made before `limit` must have their Service.
async fn repair(api: &Api, limit: OffsetDateTime) -> Result<()> {
    let Some(services) = api.registry.find("", "v1", "services") else { return Ok(()) };
    // The keys first: a Service is written after its.
    let mut claims = Vec::new();
    for prefix in [ADDRESSES_PREFIX, PORTS_PREFIX] {
        let range = Range { prefix: prefix.into(), ..Range::default() };
        let page = api.store.list(range).await.map_err(|error| store_failure(&error))?;
        claims.extend(page.entries);
    }
    let services = api.list(&Place::new(&services, None), &ReadOptions::default()).await?.items;
    let mut wanted: HashMap<String, (Claim, &Value)> = services
        .iter()
        .flat_map(|service| held(service).into_iter().map(move |claim| (claim, service)))
        .map(|(claim, service)| (claim.key(), (claim, service)))
        .collect();
    for entry in claims {
        if wanted.remove(&entry.key).is_some() {
            continue;
        }
        let claim: Value = serde_json::from_slice(&entry.value).map_err(Status::internal)?;
        let made = object::parse_time(object::text(&claim, "metadata.creationTimestamp"));
        let ours = entry.key.starts_with(PORTS_PREFIX)
            || claim["metadata"]["labels"][MANAGED_BY.0] == MANAGED_BY.1;
        if ours && made.is_none_or(|made| made < limit) {
            let write = Write::Delete { key: entry.key, expected: entry.revision };
            unless_overtaken(api.store.write(write).await)?;
        }
    }
    for (key, (claim, service)) in wanted {
        let namespace = object::namespace(service).unwrap_or_default();
        let value = claim.value(namespace, object::name(service));
        let value = serde_json::to_vec(&value).map_err(Status::internal)?;
        unless_overtaken(api.store.write(Write::Create { key, value }).await)?;
    }
    Ok(())
}

fn unless_overtaken<T>(written: std::result::Result<T, StoreError>) -> Result<()> {
    match written {
        Ok(_) | Err(StoreError::Exists(_) | StoreError::Absent(_) | StoreError::Changed { .. }) => {
            Ok(())
        }
        Err(error) => Err(store_failure(&error)),
    }
}

/// Lets ServiceCIDRs go that are being deleted and of which nothing is in use.
async fn release_ranges(api: &Api) -> Result<()> {
    let find = |plural| api.registry.find("networking.k8s.io", "v1", plural);
    let (Some(ranges), Some(addresses)) = (find("servicecidrs"), find("ipaddresses")) else {
        return Ok(());
    };
    let place = Place::new(&ranges, None);
    let ranges = api.list(&place, &ReadOptions::default()).await?.items;
    let ending: Vec<&Value> = ranges.iter().filter(|range| object::is_terminating(range)).collect();
    if ending.is_empty() {
        return Ok(());
    }
    let addresses = Place::new(&addresses, None);
    let addresses = api.list(&addresses, &ReadOptions::default()).await?.items;
    let others = api.service_ranges().await?;
    for range in ending {
        let cidrs = object::list(range, "spec.cidrs").iter();
        let cidrs: Vec<Ipv4Range> = cidrs.filter_map(|one| one.as_str()?.parse().ok()).collect();
        let used = addresses.iter().filter_map(|one| object::name(one).parse().ok()).any(|one| {
            cidrs.iter().any(|range| range.contains(one))
                && !others.iter().any(|range| range.contains(one))
        });
        if used {
            continue;
        }
        let release = |range: &Value| {
            let mut range = range.clone();
            if let Some(all) = range["metadata"]["finalizers"].as_array_mut() {
                all.retain(|one| one != CIDR_FINALIZER);
            }
            Ok(range)
        };
        let options = WriteOptions::default();
        match api.modify(&place, object::name(range), Target::Main, &options, release).await {
            Err(error) if !matches!(error.code, 404 | 409) => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bulkhead_store::SqliteStore;
    use serde_json::json;

    use super::*;
    use crate::kinds;
    use crate::options::DeleteOptions;

    async fn keys(api: &Api) -> Vec<String> {
        let mut keys = Vec::new();
        for prefix in [ADDRESSES_PREFIX, PORTS_PREFIX] {
            let range = Range { prefix: prefix.into(), ..Range::default() };
            let entries = api.store.list(range).await.unwrap().entries;
            keys.extend(entries.into_iter().map(|entry| entry.key));
        }
        keys
    }

    #[tokio::test]
    async fn what_was_left_behind_goes_and_what_is_missing_comes() {
        let dir = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(&dir.path().join("store.db")).unwrap();
        let api = Api::new(Arc::new(store), Arc::new(kinds::registry()));
        let options = WriteOptions::default();
        let place = |group: &str, plural: &str, namespace: Option<&str>| {
            Place::new(&api.registry.find(group, "v1", plural).unwrap(), namespace)
        };
        let namespace = json!({"metadata": {"name": "default"}});
        api.create(&place("", "namespaces", None), namespace, &options).await.unwrap();
        let range = json!({"metadata": {"name": "r"}, "spec": {"cidrs": ["10.96.0.0/24"]}});
        let ranges = place("networking.k8s.io", "servicecidrs", None);
        api.create(&ranges, range, &options).await.unwrap();
        let service = json!({"metadata": {"name": "s"},
            "spec": {"type": "NodePort", "ports": [{"port": 80}]}});
        let services = place("", "services", Some("default"));
        api.create(&services, service, &options).await.unwrap();
        let held = keys(&api).await;
        assert_eq!(held.len(), 2, "{held:?}");

        let left = Claim::NodePort(30_001);
        let value = serde_json::to_vec(&left.value("default", "gone")).unwrap();
        api.store.write(Write::Create { key: left.key(), value }).await.unwrap();
        let lost = api.store.get(&held[1]).await.unwrap().unwrap();
        let write = Write::Delete { key: lost.key, expected: lost.revision };
        api.store.write(write).await.unwrap();
        repair(&api, OffsetDateTime::now_utc() - GRACE).await.unwrap();
        assert_eq!(keys(&api).await.len(), 3, "what is young stays");
        repair(&api, OffsetDateTime::now_utc() + GRACE).await.unwrap();
        assert_eq!(keys(&api).await, held);

        // A range that is in use stays until it is not.
        api.delete(&ranges, "r", &DeleteOptions::default()).await.unwrap();
        release_ranges(&api).await.unwrap();
        assert!(object::is_terminating(&api.get(&ranges, "r").await.unwrap()));
        api.delete(&services, "s", &DeleteOptions::default()).await.unwrap();
        assert_eq!(keys(&api).await, Vec::<String>::new());
        release_ranges(&api).await.unwrap();
        assert_eq!(api.get(&ranges, "r").await.unwrap_err().code, 404);
    }
}
