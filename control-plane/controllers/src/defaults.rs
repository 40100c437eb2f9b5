//! What every namespace has: the ServiceAccount `default`, and the ConfigMap `kube-root-ca.crt` by
//! which pods know the API server's certificate.

use std::sync::Arc;

use bulkhead_client::object;
use bulkhead_client::{Cache, Informers, Kind, Patch, Target};
use serde_json::{Value, json};

use crate::context::{Context, on_change, unless_gone};
use crate::queue::{Next, Queue, Synced};

const ACCOUNTS: Kind = Kind::core("serviceaccounts");
const MAPS: Kind = Kind::core("configmaps");
const ACCOUNT: &str = "default";
const MAP: &str = "kube-root-ca.crt";
/// How many namespaces are synced at a time.
const WORKERS: usize = 2;

/// Makes them, and makes them again, for ever. `root` is the certificate, PEM.
pub(crate) async fn run(informers: Arc<Informers>, root: Arc<str>) {
    let context = Context::new(&informers, "service-account-controller");
    let namespaces = informers.cache(&Kind::NAMESPACES);
    let (accounts, maps) = (informers.metadata(&ACCOUNTS), informers.metadata(&MAPS));
    namespaces.synced().await;
    accounts.synced().await;
    maps.synced().await;
    let queue = Queue::new();
    let (of_namespaces, of_accounts, of_maps) =
        (Arc::clone(&queue), Arc::clone(&queue), Arc::clone(&queue));
    let of = |wanted: &'static str, queue: Arc<Queue<String>>| {
        move |object: &Value| {
            if let Some(namespace) =
                object::namespace(object).filter(|_| object::name(object) == wanted)
            {
                queue.add(namespace.to_owned());
            }
        }
    };
    let controller = Arc::new(Controller {
        context,
        namespaces: Arc::clone(&namespaces),
        accounts: Arc::clone(&accounts),
        root,
    });
    tokio::join!(
        on_change(namespaces, |namespace| of_namespaces.add(object::key(namespace))),
        on_change(accounts, of(ACCOUNT, of_accounts)),
        on_change(maps, of(MAP, of_maps)),
        queue.work("namespace defaults", WORKERS, move |namespace| {
            let controller = Arc::clone(&controller);
            async move { controller.sync(&namespace).await }
        }),
    );
}

struct Controller {
    context: Context,
    namespaces: Arc<Cache>,
    accounts: Arc<Cache>,
    root: Arc<str>,
}

impl Controller {
    async fn sync(&self, namespace: &str) -> Synced {
        let found = self.namespaces.get(namespace);
        if found.is_none_or(|namespace| object::is_terminating(&namespace)) {
            return Ok(Next::Change);
        }
        let client = self.context.client();
        if self.accounts.get(&object::key_of(Some(namespace), ACCOUNT)).is_none() {
            let account = json!({"metadata": {"name": ACCOUNT, "namespace": namespace}});
            unless_gone(client.create(&ACCOUNTS, account).await)?;
        }
        let data = json!({"ca.crt": &*self.root});
        // The cache has no data: whether that is right is seen in the object itself.
        match unless_gone(client.get(&MAPS, Some(namespace), MAP).await)? {
            Some(map) if map["data"] == data => {}
            Some(_) => {
                let patch = Patch::Json(json!([{"op": "add", "path": "/data", "value": data}]));
                let patched = client.patch(&MAPS, Some(namespace), MAP, Target::Main, patch).await;
                unless_gone(patched)?;
            }
            None => {
                let why = "Contains a CA bundle that can be used to verify the kube-apiserver when using internal endpoints such as the internal service IP or kubernetes.default.svc. No other usage is guaranteed across distributions of Kubernetes clusters.";
                let map = json!({
                    "metadata": {
                        "name": MAP,
                        "namespace": namespace,
                        "annotations": {"kubernetes.io/description": why},
                    },
                    "data": data,
                });
                unless_gone(client.create(&MAPS, map).await)?;
            }
        }
        Ok(Next::Change)
    }
}
