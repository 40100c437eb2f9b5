//! The Service `kubernetes` in `default`, by which pods reach the API: its first address, and the
//! addresses of every API server of the cluster as its Endpoints and EndpointSlices.
//!
//! Each server says that it lives by a Lease in `kube-system`, renewed as long as it does; whoever
//! looks next takes the addresses of those whose leases have lapsed out.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use time::OffsetDateTime;

use crate::api::{Api, Place, Target};
use crate::cidr::Ipv4Range;
use crate::object;
use crate::options::{DeleteOptions, ReadOptions, WriteOptions};
use crate::status::{Result, Status};

const NAMESPACE: &str = "default";
const NAME: &str = "kubernetes";
/// How often a server says that it lives, and looks who else does.
const INTERVAL: Duration = Duration::from_secs(20);
/// For how long it is believed.
const LEASE_SECONDS: i64 = 60;
/// What marks leases of API servers.
const IDENTITY: (&str, &str) = ("apiserver.kubernetes.io/identity", "kube-apiserver");

/// A server as the Service shows it.
#[derive(Debug, Clone)]
pub(crate) struct OwnService {
    api: Api,
    /// Where pods and other servers reach this one.
    address: SocketAddr,
    /// The range whose first address is the Service's.
    range: Ipv4Range,
}

impl OwnService {
    pub(crate) fn new(api: Api, address: SocketAddr, range: Ipv4Range) -> Self {
        Self { api, address, range }
    }

    /// Makes the ServiceCIDR, without which there are no Services.
    ///
    /// # Errors
    /// If the store fails.
    pub(crate) async fn make_range(&self) -> Result<()> {
        let range = json!({
            "metadata": {"name": NAME},
            "spec": {"cidrs": [self.range.to_string()]},
        });
        let ranges = self.place("networking.k8s.io", "servicecidrs", None)?;
        match self.api.get(&ranges, NAME).await {
            Ok(found) if found["spec"] != range["spec"] => {
                let (found, wanted) = (&found["spec"]["cidrs"], self.range);
                tracing::warn!(%found, %wanted, "the cluster keeps the range that it was made with");
            }
            Ok(_) => {}
            Err(error) if error.code == 404 => self.put(&ranges, range, &[]).await?,
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Keeps the Service, for ever.
    pub(crate) async fn run(self) {
        loop {
            let kept = async {
                self.renew().await?;
                self.reconcile().await
            };
            if let Err(error) = kept.await {
                tracing::warn!(%error, "keeping the Service kubernetes");
            }
            tokio::time::sleep(INTERVAL).await;
        }
    }

    /// Takes this server out.
    ///
    /// # Errors
    /// If the store fails.
    pub(crate) async fn leave(&self) -> Result<()> {
        let place = self.place("coordination.k8s.io", "leases", Some("kube-system"))?;
        self.api.delete(&place, &self.lease_name(), &DeleteOptions::default()).await?;
        self.reconcile_endpoints().await
    }

    fn place(&self, group: &str, plural: &str, namespace: Option<&str>) -> Result<Place> {
        let resource = self.api.registry().find(group, "v1", plural);
        Ok(Place::new(&resource.ok_or_else(Status::no_such_resource)?, namespace))
    }

    fn lease_name(&self) -> String {
        let digest = Sha256::digest(self.address.to_string());
        let digest: String = digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        format!("apiserver-{digest}")
    }

    async fn renew(&self) -> Result<()> {
        let place = self.place("coordination.k8s.io", "leases", Some("kube-system"))?;
        let lease = json!({
            "metadata": {"name": self.lease_name(), "labels": {IDENTITY.0: IDENTITY.1}},
            "spec": {
                "holderIdentity": self.address.to_string(),
                "leaseDurationSeconds": LEASE_SECONDS,
                "renewTime": object::now(),
            },
        });
        self.put(&place, lease, &["spec"]).await
    }

    /// Makes the object, or sets these fields of the one that is there.
    async fn put(&self, place: &Place, wanted: Value, fields: &[&str]) -> Result<()> {
        let options = WriteOptions::default();
        let name = object::name(&wanted).to_owned();
        let set = |current: &Value| {
            let mut object = current.clone();
            for field in fields {
                object[*field] = wanted[*field].clone();
            }
            Ok(object)
        };
        match self.api.modify(place, &name, Target::Main, &options, set).await {
            Err(error) if error.code == 404 => {}
            other => return other.map(drop),
        }
        match self.api.create(place, wanted.clone(), &options).await {
            // Another server of the cluster was faster.
            Err(error) if error.reason == "AlreadyExists" => Ok(()),
            other => other.map(drop),
        }
    }

    async fn reconcile(&self) -> Result<()> {
        let services = self.place("", "services", Some(NAMESPACE))?;
        let service = json!({
            "metadata": {
                "name": NAME,
                "labels": {"component": "apiserver", "provider": "kubernetes"},
            },
            "spec": {
                "clusterIP": self.range.nth(0).to_string(),
                "ports": [{"name": "https", "port": 443, "protocol": "TCP",
                    "targetPort": self.address.port()}],
            },
        });
        match self.api.get(&services, NAME).await {
            Ok(_) => {}
            Err(error) if error.code == 404 => self.put(&services, service, &[]).await?,
            Err(error) => return Err(error),
        }
        self.reconcile_endpoints().await
    }

    /// The addresses of the servers that live, by port.
    async fn servers(&self) -> Result<BTreeMap<u16, BTreeSet<String>>> {
        let place = self.place("coordination.k8s.io", "leases", Some("kube-system"))?;
        let now = OffsetDateTime::now_utc();
        let mut servers: BTreeMap<u16, BTreeSet<String>> = BTreeMap::new();
        for lease in self.api.list(&place, &ReadOptions::default()).await?.items {
            let is_server = lease["metadata"]["labels"][IDENTITY.0] == IDENTITY.1;
            let renewed = object::parse_time(object::text(&lease, "spec.renewTime"));
            let lives = renewed.is_some_and(|at| now - at < time::Duration::seconds(LEASE_SECONDS));
            let address = object::text(&lease, "spec.holderIdentity").parse::<SocketAddr>();
            if let (true, true, Ok(address)) = (is_server, lives, address) {
                servers.entry(address.port()).or_default().insert(address.ip().to_string());
            }
        }
        Ok(servers)
    }

    async fn reconcile_endpoints(&self) -> Result<()> {
        let servers = self.servers().await?;
        let subsets: Vec<Value> = servers
            .iter()
            .map(|(port, addresses)| {
                let addresses: Vec<_> = addresses.iter().map(|ip| json!({"ip": ip})).collect();
                let ports = json!([{"name": "https", "port": port, "protocol": "TCP"}]);
                json!({"addresses": addresses, "ports": ports})
            })
            .collect();
        let endpoints = json!({
            "metadata": {
                "name": NAME,
                // The slices are made here, not of these.
                "labels": {"endpointslice.kubernetes.io/skip-mirror": "true"},
            },
            "subsets": subsets,
        });
        let place = self.place("", "endpoints", Some(NAMESPACE))?;
        self.put(&place, endpoints, &["subsets"]).await?;

        let place = self.place("discovery.k8s.io", "endpointslices", Some(NAMESPACE))?;
        let mut names = BTreeSet::new();
        for (index, (port, addresses)) in servers.iter().enumerate() {
            // A slice's ports are those of all its endpoints.
            let name = if index == 0 { NAME.to_owned() } else { format!("{NAME}-{port}") };
            let endpoints: Vec<_> = addresses
                .iter()
                .map(|ip| json!({"addresses": [ip], "conditions": {"ready": true}}))
                .collect();
            let slice = json!({
                "metadata": {"name": name, "labels": {"kubernetes.io/service-name": NAME}},
                "addressType": if self.address.is_ipv4() { "IPv4" } else { "IPv6" },
                "endpoints": endpoints,
                "ports": [{"name": "https", "port": port, "protocol": "TCP"}],
            });
            self.put(&place, slice, &["endpoints", "ports"]).await?;
            names.insert(name);
        }
        for slice in self.api.list(&place, &ReadOptions::default()).await?.items {
            let name = object::name(&slice);
            let is_own = name == NAME || name.starts_with(&format!("{NAME}-"));
            let of_service =
                slice["metadata"]["labels"]["kubernetes.io/service-name"] == NAME && is_own;
            if of_service && !names.contains(name) {
                match self.api.delete(&place, name, &DeleteOptions::default()).await {
                    Err(error) if error.code != 404 => return Err(error),
                    _ => {}
                }
            }
        }
        Ok(())
    }
}

/// Where a server that listens on `listen` is reached, unless it is told: there, or, if that is
/// every address of the machine, at the one that its packets to elsewhere come from.
pub(crate) fn advertised(listen: SocketAddr) -> SocketAddr {
    if !listen.ip().is_unspecified() {
        return listen;
    }
    // Connecting a datagram socket sends nothing; it only asks for the route.
    let source =
        std::net::UdpSocket::bind((std::net::Ipv4Addr::UNSPECIFIED, 0)).and_then(|socket| {
            socket.connect((std::net::Ipv4Addr::new(192, 0, 2, 1), 9))?;
            socket.local_addr()
        });
    let ip = source.map_or(std::net::Ipv4Addr::LOCALHOST.into(), |source| source.ip());
    SocketAddr::new(ip, listen.port())
}
