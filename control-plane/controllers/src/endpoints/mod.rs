//! EndpointSlices and Endpoints: where the pods are that a Service selects.
//! <https://kubernetes.io/docs/concepts/services-networking/endpoint-slices/>
//!
//! [`index`] knows which pods are whose, [`pod`] what a pod is as an endpoint, [`slices`] and [`legacy`]
//! what is to be written; this module reads the caches and writes. [`mirror`] is about Endpoints that users
//! make.

mod index;
mod legacy;
pub(crate) mod mirror;
mod pod;
mod slices;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bulkhead_client::object::{self, text};
use bulkhead_client::{Cache, ClientError, DeleteOptions, Informers, Kind, Target};
use serde_json::Value;

use self::index::Index;
use self::pod::Endpoint;
use crate::context::{Context, Written, add_controller, on_change, unless_gone};
use crate::queue::{Next, Queue, Synced};

/// Services.
pub(crate) const SERVICES: Kind = Kind::core("services");
const ENDPOINTS: Kind = Kind::core("endpoints");
const SLICES: Kind = Kind::new("discovery.k8s.io", "v1", "endpointslices");
/// The label of a node with its zone.
const ZONE: &str = "topology.kubernetes.io/zone";
/// How many Services are synced at a time.
const WORKERS: usize = 5;

struct Controller {
    context: Context,
    services: Arc<Cache>,
    pods: Arc<Cache>,
    nodes: Arc<Cache>,
    slices: Arc<Cache>,
    endpoints: Arc<Cache>,
    index: Mutex<Index>,
    written_slices: Written,
    written_endpoints: Written,
    queue: Arc<Queue<String>>,
}

/// Keeps EndpointSlices and Endpoints, for ever.
pub(crate) async fn run(informers: Arc<Informers>) {
    let controller = Arc::new(Controller {
        context: Context::new(&informers, "endpoint-slice-controller"),
        services: informers.cache(&SERVICES),
        pods: informers.cache(&Kind::PODS),
        nodes: informers.cache(&Kind::NODES),
        slices: informers.cache(&SLICES),
        endpoints: informers.cache(&ENDPOINTS),
        index: Mutex::default(),
        written_slices: Written::default(),
        written_endpoints: Written::default(),
        queue: Queue::new(),
    });
    let Controller { services, pods, nodes, slices, endpoints, queue, .. } = &*controller;
    for cache in [services, pods, nodes, slices, endpoints] {
        cache.synced().await;
    }
    let mut zones: HashMap<String, String> = HashMap::new();
    // What of a pod its endpoints are made of, so that other changes cost nothing.
    let mut looks: HashMap<String, Endpoint> = HashMap::new();
    let worker = Arc::clone(&controller);
    tokio::join!(
        on_change(Arc::clone(services), |service| controller.note_service(&object::key(service))),
        on_change(Arc::clone(pods), |pod| controller.note_pod(&object::key(pod), &mut looks)),
        on_change(Arc::clone(nodes), |node| {
            let name = object::name(node);
            let zone = nodes.get(name).and_then(|node| zone_of(&node));
            if zone.as_ref() == zones.get(name) {
                return;
            }
            match zone {
                Some(zone) => zones.insert(name.to_owned(), zone),
                None => zones.remove(name),
            };
            services.all().iter().for_each(|service| queue.add(object::key(service)));
        }),
        on_change(Arc::clone(slices), |slice| {
            add_controller(queue, slice, "v1", "Service");
        }),
        on_change(Arc::clone(endpoints), |endpoints| queue.add(object::key(endpoints))),
        Arc::clone(queue).work("Service", WORKERS, move |key| {
            let controller = Arc::clone(&worker);
            async move { controller.sync(&key).await }
        }),
    );
}

fn zone_of(node: &Value) -> Option<String> {
    node["metadata"]["labels"][ZONE].as_str().map(str::to_owned)
}

impl Controller {
    fn index(&self) -> MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note_service(&self, key: &str) {
        let service = self.services.get(key);
        let selector = service.as_ref().filter(|one| text(one, "spec.type") != "ExternalName");
        let selector = selector.and_then(|one| one["spec"].get("selector"));
        let mut index = self.index();
        if index.service(key, selector) {
            let namespace = object::split_key(key).0.unwrap_or_default();
            for pod in self.pods.in_namespace(namespace) {
                index.pod(&object::key(&pod), Some(&pod));
            }
        }
        drop(index);
        self.queue.add(key.to_owned());
    }

    fn note_pod(&self, key: &str, looks: &mut HashMap<String, Endpoint>) {
        let pod = self.pods.get(key);
        let mut index = self.index();
        let before = index.memberships(key);
        let concerned = index.pod(key, pod.as_deref());
        let moved = index.memberships(key) != before;
        drop(index);
        if concerned.is_empty() {
            looks.remove(key);
            return;
        }
        let look = pod.as_ref().and_then(|pod| Endpoint::of(&Value::Null, pod, |_| None));
        let changed = moved || look.as_ref() != looks.get(key);
        match look {
            Some(look) => looks.insert(key.to_owned(), look),
            None => looks.remove(key),
        };
        if changed {
            concerned.into_iter().for_each(|service| self.queue.add(service));
        }
    }

    async fn sync(&self, key: &str) -> Synced {
        // What the last sync wrote must be seen first; its events bring the key back.
        if !self.written_slices.is_in(key, &self.slices)
            || !self.written_endpoints.is_in(key, &self.endpoints)
        {
            return Ok(Next::Change);
        }
        let Some(service) = self.services.get(key) else {
            // Slices go with their owner.
            self.delete_endpoints(key).await?;
            return Ok(Next::Change);
        };
        let external = text(&service, "spec.type") == "ExternalName";
        // Without a selector, users say where a Service leads, in slices or in Endpoints, which are mirrored.
        if !selects(&service) || external || object::is_terminating(&service) {
            return Ok(Next::Change);
        }
        let zone = |node: &str| self.nodes.get(node).and_then(|node| zone_of(&node));
        let members = self.index().members(key);
        let pods = members.iter().filter_map(|pod| self.pods.get(pod));
        let endpoints = pods.filter_map(|pod| Endpoint::of(&service, &pod, zone)).collect();
        let endpoints = slices::by_address(endpoints);

        let mut known = self.slices.owned_by(object::uid(&service));
        known.retain(|slice| slices::is_managed(slice));
        let changes = slices::changes(&service, known, &endpoints);
        write_slices(&self.context, &self.written_slices, key, changes).await?;
        let before = self.endpoints.get(key);
        let before = before.as_deref().unwrap_or(&Value::Null);
        let wanted = legacy::endpoints(&service, &endpoints, before);
        if wanted != *before {
            let client = self.context.client();
            let written = match before {
                Value::Null => client.create(&ENDPOINTS, wanted).await,
                _ => client.update(&ENDPOINTS, Target::Main, wanted).await,
            };
            self.written_endpoints.note(key, &written?);
        }
        Ok(Next::Change)
    }

    /// Deletes the Endpoints of a Service that is gone; those that users made stay.
    async fn delete_endpoints(&self, key: &str) -> Result<(), ClientError> {
        let Some(endpoints) = self.endpoints.get(key).filter(|one| legacy::is_managed(one)) else {
            return Ok(());
        };
        let options = DeleteOptions::of(object::uid(&endpoints));
        let (namespace, name) = (object::namespace(&endpoints), object::name(&endpoints));
        let client = self.context.client();
        unless_gone(client.delete(&ENDPOINTS, namespace, name, &options).await).map(drop)
    }
}

/// Whether a Service says itself whose its endpoints are.
fn selects(service: &Value) -> bool {
    service["spec"]["selector"].as_object().is_some_and(|selector| !selector.is_empty())
}

/// Makes changes of slices, and notes what was written for `key`.
async fn write_slices(
    context: &Context,
    written: &Written,
    key: &str,
    changes: slices::Changes,
) -> Result<(), ClientError> {
    let client = context.client();
    for slice in changes.create {
        written.note(key, &client.create(&SLICES, slice).await?);
    }
    for slice in changes.update {
        written.note(key, &client.update(&SLICES, Target::Main, slice).await?);
    }
    for slice in changes.delete {
        let options = DeleteOptions::of(object::uid(&slice));
        let (namespace, name) = (object::namespace(&slice), object::name(&slice));
        let deleted = client.delete(&SLICES, namespace, name, &options).await;
        if let Some(slice) = unless_gone(deleted)? {
            written.note(key, &slice);
        }
    }
    Ok(())
}
