//! An API server, a proxy that follows it, and backends.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bulkhead_api_server::cidr::Ipv4Range;
use bulkhead_api_server::pki;
use bulkhead_api_server::serve::{Options, Server as ApiServer};
use bulkhead_api_server::storage::Storage;
use bulkhead_client::remote::{self, Remote};
use bulkhead_client::{Client as _, ElectionTiming, Kind, Patch, Target};
use bulkhead_ingress::{Address, Certificates, Controller, Proxy, Server};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::{oneshot, watch};
use tokio_rustls::TlsAcceptor;

pub(crate) static INGRESSES: Kind = Kind::new("networking.k8s.io", "v1", "ingresses");
pub(crate) static CLASSES: Kind = Kind::new("networking.k8s.io", "v1", "ingressclasses");
pub(crate) static SLICES: Kind = Kind::new("discovery.k8s.io", "v1", "endpointslices");
pub(crate) static SERVICES: Kind = Kind::core("services");
pub(crate) static SECRETS: Kind = Kind::core("secrets");

/// How long anything may take on a machine that is busy.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

/// A cluster with its proxy. All of it ends with the test's runtime.
pub(crate) struct World {
    _dir: tempfile::TempDir,
    pub(crate) admin: Remote,
    pub(crate) http: SocketAddr,
    pub(crate) https: SocketAddr,
    stop: watch::Sender<bool>,
}

impl World {
    /// One whose class is there.
    pub(crate) async fn start() -> Self {
        Self::with(|proxy| proxy).await
    }

    /// One whose proxy is set up like this.
    pub(crate) async fn with(set_up: impl FnOnce(Proxy) -> Proxy) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let pki = dir.path().join("pki");
        pki::init(&pki, "test", "box", Ipv4Addr::new(10, 96, 0, 1)).unwrap();
        let server = ApiServer::open(Options {
            dir: dir.path().to_owned(),
            storage: Storage::Sqlite(dir.path().join("store.db")),
            listen: (Ipv4Addr::LOCALHOST, 0).into(),
            inherited: Vec::new(),
            advertise: None,
            service_range: "10.96.0.0/12".parse::<Ipv4Range>().unwrap(),
            election: ElectionTiming::default(),
            node_monitor_grace_period: LIMIT,
            compaction_interval: LIMIT,
        });
        let server = server.await.unwrap();
        let api = server.address().unwrap();
        tokio::spawn(server.run(Box::pin(std::future::pending())));
        let (http, https) = (listen().await, listen().await);
        let (plain, secure) = (http.local_addr().unwrap(), https.local_addr().unwrap());
        let proxy = Arc::new(set_up(Proxy::new(secure.port())));
        let certificates = Arc::new(Certificates::new().unwrap());
        let tls = TlsAcceptor::from(Arc::clone(&certificates).server_config().unwrap());
        let address = Address { ip: plain.ip(), http: plain.port(), https: secure.port() };
        let (ready, readied) = oneshot::channel();
        let client = client(api, &pki, "ingress");
        tokio::spawn(Controller::run(client, Arc::clone(&proxy), certificates, address, ready));
        let (stop, stopped) = watch::channel(false);
        let server = Server::new(proxy, 30_000, stopped);
        tokio::time::timeout(LIMIT, readied).await.unwrap().unwrap();
        tokio::spawn(server.clone().serve(http, None));
        tokio::spawn(server.serve(https, Some(tls)));
        let world =
            Self { _dir: dir, admin: client_of_admin(api, &pki), http: plain, https: secure, stop };
        world.until(|| async { world.admin.get(&CLASSES, None, "bulkhead").await.is_ok() }).await;
        world
    }

    pub(crate) fn stop(&self) {
        self.stop.send_replace(true);
    }

    /// Waits until `holds`.
    pub(crate) async fn until<F: Future<Output = bool>>(&self, mut holds: impl FnMut() -> F) {
        let poll = async {
            while !holds().await {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(LIMIT, poll).await.expect("it does not come to hold");
    }

    pub(crate) async fn create(&self, kind: &Kind, object: Value) -> Value {
        self.admin.create(kind, object).await.unwrap()
    }

    /// Makes a Service with the one port 80, without endpoints.
    pub(crate) async fn service(&self, name: &str) {
        let spec = json!({"ports": [{"name": "http", "port": 80}]});
        self.create(&SERVICES, object("v1", "Service", name, ("spec", spec))).await;
    }

    /// Sets the only slice of a Service that leads to this backend; `conditions` as it is.
    pub(crate) async fn endpoint(&self, service: &str, backend: SocketAddr, conditions: Value) {
        let name = format!("{service}-{}", backend.port());
        let slice = json!({
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "name": name,
                "namespace": "default",
                "labels": {"kubernetes.io/service-name": service},
            },
            "addressType": "IPv4",
            "ports": [{"name": "http", "port": backend.port(), "protocol": "TCP"}],
            "endpoints": [{"addresses": [backend.ip().to_string()], "conditions": conditions}],
        });
        match self.admin.create(&SLICES, slice.clone()).await {
            Err(error) if error.code == 409 => {
                let patch = Patch::Merge(json!({"endpoints": slice["endpoints"]}));
                let default = Some("default");
                self.admin.patch(&SLICES, default, &name, Target::Main, patch).await.unwrap();
            }
            created => drop(created.unwrap()),
        }
    }

    /// Makes a Service with this backend.
    pub(crate) async fn serve(&self, service: &str, backend: SocketAddr) {
        self.service(service).await;
        self.endpoint(service, backend, json!({"ready": true})).await;
    }

    pub(crate) async fn ingress(&self, name: &str, spec: Value) -> Value {
        let ingress = object("networking.k8s.io/v1", "Ingress", name, ("spec", spec));
        self.create(&INGRESSES, ingress).await
    }
}

/// An object in the default namespace.
pub(crate) fn object(version: &str, kind: &str, name: &str, rest: (&str, Value)) -> Value {
    let metadata = json!({"name": name, "namespace": "default"});
    let mut object = json!({"apiVersion": version, "kind": kind, "metadata": metadata});
    object[rest.0] = rest.1;
    object
}

/// A rule of one path.
pub(crate) fn rule(host: &str, path: &str, kind: &str, service: &str) -> Value {
    let backend = json!({"service": {"name": service, "port": {"number": 80}}});
    let path = json!({"path": path, "pathType": kind, "backend": backend});
    let mut rule = json!({"http": {"paths": [path]}});
    if !host.is_empty() {
        rule["host"] = host.into();
    }
    rule
}

async fn listen() -> TcpListener {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap()
}

fn client(api: SocketAddr, pki: &Path, user: &str) -> Remote {
    Remote::new(&remote::Server {
        address: api,
        name: "kubernetes".into(),
        authority: pki.join("ca.crt"),
        certificate: pki.join(format!("{user}.crt")),
        key: pki.join(format!("{user}.key")),
        agent: "test".into(),
    })
    .unwrap()
}

fn client_of_admin(api: SocketAddr, pki: &Path) -> Remote {
    client(api, pki, "admin")
}

/// An address of this machine that may be an endpoint's: the loopback's may not.
pub(crate) fn own_address() -> Ipv4Addr {
    let addresses = nix::ifaddrs::getifaddrs().unwrap();
    let mut addresses = addresses.filter_map(|one| Some(one.address?.as_sockaddr_in()?.ip()));
    let found = addresses.find(|address| !address.is_loopback() && !address.is_link_local());
    found.expect("this test needs an IPv4 address beside the loopback's")
}

/// A socket of a backend.
pub(crate) async fn bind() -> TcpListener {
    TcpListener::bind((own_address(), 0)).await.unwrap()
}

pub(crate) type Body = UnsyncBoxBody<Bytes, hyper::Error>;

pub(crate) fn full(text: impl Into<Bytes>) -> Body {
    use http_body_util::BodyExt as _;
    Full::new(text.into()).map_err(|never| match never {}).boxed_unsync()
}

/// Serves HTTP/1.1 until the runtime ends.
pub(crate) async fn backend<F, A>(answer: F) -> SocketAddr
where
    F: Fn(Request<Incoming>) -> A + Clone + Send + 'static,
    A: Future<Output = Response<Body>> + Send + 'static,
{
    let listener = bind().await;
    let address = listener.local_addr().unwrap();
    tokio::spawn(serve(listener, answer));
    address
}

/// Serves what connects to a socket; connections end with it.
pub(crate) async fn serve<F, A>(listener: TcpListener, answer: F)
where
    F: Fn(Request<Incoming>) -> A + Clone + Send + 'static,
    A: Future<Output = Response<Body>> + Send + 'static,
{
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let answer = answer.clone();
        connections.spawn(async move {
            let service = service_fn(move |request| {
                let answer = answer.clone();
                async move { Ok::<_, Infallible>(answer(request).await) }
            });
            let served = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .with_upgrades();
            // A client that goes away breaks it.
            let _ = served.await;
        });
    }
}

/// A backend that says its name.
pub(crate) async fn named(name: &'static str) -> SocketAddr {
    backend(move |_| async move { Response::new(full(name)) }).await
}

/// What a backend was asked, as JSON: method, path, version and headers.
pub(crate) async fn echo() -> SocketAddr {
    backend(|request| async move {
        let mut headers: HashMap<&str, Vec<&str>> = HashMap::new();
        for (name, value) in request.headers() {
            headers.entry(name.as_str()).or_default().push(value.to_str().unwrap());
        }
        let said = json!({
            "method": request.method().as_str(),
            "target": request.uri().to_string(),
            "headers": headers,
        });
        Response::new(full(said.to_string()))
    })
    .await
}

/// Notes what happens.
#[derive(Debug, Clone, Default)]
pub(crate) struct Notes(Arc<Mutex<Vec<String>>>);

impl Notes {
    pub(crate) fn add(&self, note: impl Into<String>) {
        self.0.lock().unwrap().push(note.into());
    }

    pub(crate) fn all(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }
}

/// The address that a client comes from.
pub(crate) const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
