//! HTTP to what runs in the cluster, through this server: `pods/NAME/proxy/…`, `services/NAME/proxy/…`
//! and `nodes/NAME/proxy/…`.
//!
//! A pod is reached through its host, over the agent's connection to it, so that this server needs no
//! way into the pods' network; a service by one of its ready pods; a node's own paths are those of its
//! host's kubelet endpoint.

mod backend;
mod exchange;
mod name;
mod tls;

use std::sync::Arc;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls_pki_types::{IpAddr, Ipv4Addr, ServerName};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::ClientConfig;

use crate::api::{Api, Place};
use crate::body::{self, BoxError, ResponseBody};
use crate::kubelet::Kubelets;
use crate::options::ReadOptions;
use crate::selector::LabelSelector;
use crate::status::{Result, Status};
use backend::Backend;
use name::{Name, Scheme};

/// Passes requests on.
#[derive(Debug)]
pub struct Proxy {
    api: Api,
    kubelets: Arc<Kubelets>,
    tls: Arc<ClientConfig>,
}

/// One request's way.
#[derive(Debug)]
struct Way {
    sender: http1::SendRequest<ResponseBody>,
    /// What goes before the path that is asked for there.
    prefix: String,
}

impl Proxy {
    /// A proxy to what `api` knows of, through `kubelets`.
    ///
    /// # Errors
    /// If TLS cannot be set up.
    pub fn new(
        api: Api,
        kubelets: Arc<Kubelets>,
    ) -> std::result::Result<Self, tokio_rustls::rustls::Error> {
        Ok(Self { api, kubelets, tls: Arc::new(tls::unverified()?) })
    }

    /// Passes `request`, for `below` the proxy of `name` at `place`, on to there.
    ///
    /// # Errors
    /// `BadRequest` if `name` names nothing that can be connected to; `NotFound`;
    /// `ServiceUnavailable` if that does not answer.
    pub async fn pass<B>(
        &self,
        place: &Place,
        name: &str,
        below: &str,
        request: Request<B>,
    ) -> Result<Response<ResponseBody>>
    where
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        if below.is_empty() && matches!(*request.method(), Method::GET | Method::HEAD) {
            // So that relative links in what is answered lead to below here.
            return to_directory(&request);
        }
        let kind = place.resource.singular;
        let name = Name::parse(name)
            .ok_or_else(|| Status::bad_request(format!("invalid {kind} request {name:?}")))?;
        let way = match kind {
            "pod" => {
                let pod = self.api.get(place, &name.name).await?;
                self.to_pod(&name, Backend::of_pod(&pod, &name)?).await?
            }
            "service" => {
                let backend = self.of_service(place, &name).await?;
                self.to_pod(&name, backend).await?
            }
            "node" => self.to_node(&name).await?,
            _ => return Err(Status::no_such_resource()),
        };
        exchange::pass(way, below, request).await
    }

    /// One of the service's ready pods, and its port.
    async fn of_service(&self, place: &Place, name: &Name) -> Result<Backend> {
        let service = self.api.get(place, &name.name).await?;
        let slices = self.api.registry().find("discovery.k8s.io", "v1", "endpointslices");
        let slices = slices.ok_or_else(|| backend::no_endpoints(name))?;
        let label = format!("kubernetes.io/service-name={}", name.name);
        let labels = LabelSelector::parse(&label).map_err(Status::internal)?;
        let options = ReadOptions { labels, ..ReadOptions::default() };
        let slices = Place::new(&slices, place.namespace.as_deref());
        let slices = self.api.list(&slices, &options).await?;
        Backend::of_service(&service, &slices.items, name)
    }

    async fn to_pod(&self, name: &Name, backend: Backend) -> Result<Way> {
        let Backend { namespace, pod, port } = backend;
        let pods = self.resource("pods")?;
        let pod = self.api.get(&Place::new(&pods, Some(&namespace)), &pod).await?;
        let nodes = self.resource("nodes")?;
        let node = crate::kubelet::node_name(&pod)?;
        let node = self.api.get(&Place::new(&nodes, None), node).await?;
        let stream = self.kubelets.tcp(&pod, &node, port).await?;
        let sender = match name.scheme {
            Scheme::Http => handshake(stream).await?,
            Scheme::Https => {
                // An address is not told to the server, as a name would be.
                let server = ServerName::IpAddress(IpAddr::V4(Ipv4Addr::from([127, 0, 0, 1])));
                let connector = TlsConnector::from(Arc::clone(&self.tls));
                let stream = TokioIo::new(stream);
                let stream = connector.connect(server, stream).await.map_err(unreachable)?;
                handshake(TokioIo::new(stream)).await?
            }
        };
        Ok(Way { sender, prefix: String::new() })
    }

    async fn to_node(&self, name: &Name) -> Result<Way> {
        let nodes = self.resource("nodes")?;
        let node = self.api.get(&Place::new(&nodes, None), &name.name).await?;
        let own = crate::kubelet::port(&node)?;
        if name.port.as_ref().is_some_and(|port| *port != own.to_string()) {
            return Err(Status::bad_request(format!(
                "nodes serve the kubelet's port alone, which is {own} on {}",
                name.name
            )));
        }
        let sender = self.kubelets.connect(&node).await?;
        Ok(Way { sender, prefix: format!("/nodes/{}", name.name) })
    }

    fn resource(&self, plural: &str) -> Result<Arc<crate::resource::Resource>> {
        self.api.registry().find("", "v1", plural).ok_or_else(Status::no_such_resource)
    }
}

async fn handshake<S>(stream: S) -> Result<http1::SendRequest<ResponseBody>>
where
    S: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
{
    let (sender, connection) = http1::handshake(stream).await.map_err(unreachable)?;
    tokio::spawn(async move {
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(%error, "a proxied connection");
        }
    });
    Ok(sender)
}

fn unreachable(error: impl std::fmt::Display) -> Status {
    Status::unavailable(format!("error trying to reach service: {error}"))
}

/// Sends the client to the same path with a slash at its end.
fn to_directory<B>(request: &Request<B>) -> Result<Response<ResponseBody>> {
    let mut location = format!("{}/", request.uri().path());
    if let Some(query) = request.uri().query() {
        location.push('?');
        location.push_str(query);
    }
    let mut response = Response::new(body::full(""));
    *response.status_mut() = StatusCode::MOVED_PERMANENTLY;
    let location = location.try_into().map_err(Status::internal)?;
    response.headers_mut().insert(header::LOCATION, location);
    Ok(response)
}
