//! Brings what the API server tells to the index.

use std::sync::{Arc, PoisonError, RwLock, RwLockWriteGuard};

use bulkhead_client::{Change, Informers, Kind, Told};
use serde_json::Value;
use tokio::sync::watch;

use crate::Index;

const SERVICES: Kind = Kind::core("services");
const SLICES: Kind = Kind::new("discovery.k8s.io", "v1", "endpointslices");

/// What is followed.
#[derive(Debug, Clone, Copy)]
enum Of {
    Services,
    Slices,
    Namespaces,
}

/// Follows Services, EndpointSlices and namespaces for as long as `informers` do; `synced` becomes
/// true when the index has everything that there was at the start.
pub async fn follow(
    informers: Arc<Informers>,
    index: Arc<RwLock<Index>>,
    synced: watch::Sender<bool>,
) {
    let mut services = informers.follow(&SERVICES);
    let mut slices = informers.follow(&SLICES);
    let mut namespaces = informers.metadata(&Kind::NAMESPACES).follow();
    let (mut listed_services, mut listed_slices, mut listed_namespaces) = (false, false, false);
    loop {
        let (of, told) = tokio::select! {
            Some(told) = services.recv() => (Of::Services, told),
            Some(told) = slices.recv() => (Of::Slices, told),
            Some(told) = namespaces.recv() => (Of::Namespaces, told),
            else => return,
        };
        match &told {
            Told::All(objects) => {
                let objects = objects.iter().map(Arc::as_ref);
                let listed = match of {
                    Of::Services => {
                        write(&index).set_services(objects);
                        &mut listed_services
                    }
                    Of::Slices => {
                        write(&index).set_slices(objects);
                        &mut listed_slices
                    }
                    Of::Namespaces => {
                        write(&index).set_namespaces(objects);
                        &mut listed_namespaces
                    }
                };
                *listed = true;
                if listed_services && listed_slices && listed_namespaces {
                    synced.send_replace(true);
                }
            }
            Told::One(change) => one(&mut write(&index), of, change),
        }
    }
}

fn one(index: &mut Index, of: Of, change: &Change) {
    let take: fn(&mut Index, &Value) = match (of, change) {
        (Of::Services, Change::Present(_)) => Index::set_service,
        (Of::Services, Change::Gone(_)) => Index::remove_service,
        (Of::Slices, Change::Present(_)) => Index::set_slice,
        (Of::Slices, Change::Gone(_)) => Index::remove_slice,
        (Of::Namespaces, Change::Present(_)) => Index::set_namespace,
        (Of::Namespaces, Change::Gone(_)) => Index::remove_namespace,
    };
    take(index, change.object());
}

fn write(index: &RwLock<Index>) -> RwLockWriteGuard<'_, Index> {
    index.write().unwrap_or_else(PoisonError::into_inner)
}
