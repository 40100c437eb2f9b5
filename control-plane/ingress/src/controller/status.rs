//! Tells in each Ingress where it is served.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bulkhead_client::{Client, Kind, Patch, Target, object};
use serde_json::{Value, json};
use tokio::sync::watch;

use super::INGRESSES;

/// How long to wait before a write that failed is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// Where clients reach the proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Address {
    /// The address.
    pub ip: IpAddr,
    /// The port for HTTP.
    pub http: u16,
    /// The port for HTTPS.
    pub https: u16,
}

impl Address {
    /// As `status.loadBalancer.ingress` has it.
    fn status(self) -> Value {
        let port = |port: u16| json!({"port": port, "protocol": "TCP"});
        json!([{"ip": self.ip.to_string(), "ports": [port(self.http), port(self.https)]}])
    }
}

/// Writes `address` into those Ingresses of the latest list that do not have it, for ever.
pub(super) async fn write(
    client: Arc<dyn Client>,
    address: Address,
    mut served: watch::Receiver<Vec<Arc<Value>>>,
) {
    let wanted = address.status();
    loop {
        let ingresses = served.borrow_and_update().clone();
        let mut settled = true;
        for ingress in ingresses {
            if ingress["status"]["loadBalancer"]["ingress"] != wanted {
                settled &= write_one(client.as_ref(), &INGRESSES, &ingress, &wanted).await;
            }
        }
        let changed = async {
            if settled {
                return served.changed().await.is_ok();
            }
            tokio::time::timeout(RETRY, served.changed()).await.is_ok_and(|changed| changed.is_ok())
                || served.has_changed().is_ok()
        };
        if !changed.await {
            return;
        }
    }
}

/// Whether it is done, or need not be.
async fn write_one(client: &dyn Client, kind: &Kind, ingress: &Value, wanted: &Value) -> bool {
    let (namespace, name) = (object::namespace(ingress), object::name(ingress));
    // Only of this very object: one that was deleted and made anew is told of anew.
    let patch = json!({
        "metadata": {"uid": object::uid(ingress)},
        "status": {"loadBalancer": {"ingress": wanted}},
    });
    match client.patch(kind, namespace, name, Target::Status, Patch::Merge(patch)).await {
        Ok(_) => true,
        Err(error) if error.is_gone() => true,
        Err(error) => {
            tracing::warn!(ingress = object::key(ingress), %error, "writing its status");
            false
        }
    }
}
