//! A request's way: to whom it goes, what it becomes, and what is done when an endpoint fails.

mod answer;
mod body;
mod headers;
mod turn;
mod upgrade;

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use http::{HeaderValue, Method, Request, Response, StatusCode, Uri, Version};
use http_body::Body as _;
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use tokio::sync::Semaphore;

use crate::routing::{self, Routes, host_of, normalized};
use crate::upstream::{ConnectError, Upstream};

pub(crate) use body::Body;
pub(crate) use headers::Client;
use turn::Turn;

/// How long a backend that has a request may take until its answer begins, as nginx has it.
const ANSWER: Duration = Duration::from_secs(60);
/// How often a request is tried at most; connecting tries every endpoint by itself.
const TRIES: usize = 4;
/// How many requests may wait for an answer: a client over HTTP/2 has many on one connection.
const MAX_REQUESTS: usize = 8192;

/// Where a rule leads.
#[derive(Debug, Clone)]
pub struct Route {
    /// The endpoints; `None` if the rule names what is not there.
    pub upstream: Option<Arc<Upstream>>,
    /// Whether clients without TLS are sent to where there is.
    pub https: bool,
}

/// The proxy: rules, which may change at any time, and what is done by them.
#[derive(Debug)]
pub struct Proxy {
    routes: RwLock<Arc<Routes<Route>>>,
    /// The port that clients reach over TLS.
    https_port: u16,
    /// How long a backend may take until its answer begins.
    patience: Duration,
    requests: Semaphore,
}

impl Proxy {
    /// A proxy without rules.
    #[must_use]
    pub fn new(https_port: u16) -> Self {
        let requests = Semaphore::new(MAX_REQUESTS);
        Self { routes: RwLock::default(), https_port, patience: ANSWER, requests }
    }

    /// One that waits so long for a backend that has a request to begin its answer, not 60 s.
    #[must_use]
    pub const fn with_patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Takes these rules from now on.
    pub fn set(&self, routes: Routes<Route>) {
        *self.routes.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(routes);
    }

    fn routes(&self) -> Arc<Routes<Route>> {
        Arc::clone(&self.routes.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Answers a request.
    pub(crate) async fn answer(
        &self,
        client: Client,
        request: Request<Incoming>,
    ) -> Response<Body> {
        let Ok(_permit) = self.requests.try_acquire() else {
            return answer::says(
                StatusCode::SERVICE_UNAVAILABLE,
                &"too many requests wait for an answer",
            );
        };
        if matches!(*request.method(), Method::CONNECT | Method::TRACE) {
            let why = format!("{} is not served", request.method());
            return answer::says(StatusCode::METHOD_NOT_ALLOWED, &why);
        }
        let host = match host_of(&request) {
            Ok(host) => host.to_owned(),
            Err(error) => return answer::says(StatusCode::BAD_REQUEST, &error),
        };
        let path = match normalized(request.uri().path()) {
            Ok(path) => path,
            Err(error) => return answer::says(StatusCode::BAD_REQUEST, &error),
        };
        let route = self.routes().find(&routing::host_name(&host), &path).cloned();
        let Some(route) = route else {
            return answer::says(
                StatusCode::NOT_FOUND,
                &"no Ingress has a rule for this host and path",
            );
        };
        if route.https && !client.secure {
            return answer::to_https(&host, self.https_port, path_and_query(request.uri()));
        }
        let Some(upstream) = route.upstream else {
            let why = "the Ingress names a Service or port that is not there";
            return answer::says(StatusCode::SERVICE_UNAVAILABLE, &why);
        };
        Exchange::new(&host, client, request).run(&upstream, self.patience).await
    }
}

fn path_and_query(uri: &Uri) -> &str {
    uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str)
}

/// A request on its way to an endpoint.
struct Exchange {
    /// As the backend gets it, without a body.
    head: Request<()>,
    body: Body,
    /// Whether the client or the backend is waited for.
    turn: Turn,
    /// It does nothing, so that it may be sent again (RFC 9110, section 9.2.2).
    repeatable: bool,
    /// What the client's connection becomes if the backend agrees.
    upgrade: Option<(HeaderValue, OnUpgrade)>,
}

impl Exchange {
    fn new(host: &str, client: Client, mut request: Request<Incoming>) -> Self {
        let wanted = headers::wanted_upgrade(request.version(), request.headers());
        let upgrade = wanted.map(|protocol| (protocol, hyper::upgrade::on(&mut request)));
        let (mut parts, body) = request.into_parts();
        headers::towards_backend(&mut parts.headers, host, client);
        if let Some((protocol, _)) = &upgrade {
            headers::set_upgrade(&mut parts.headers, protocol.clone());
        }
        let safe = matches!(parts.method, Method::GET | Method::HEAD | Method::OPTIONS);
        let repeatable = safe && body.is_end_stream();
        let mut head = Request::new(());
        *head.method_mut() = parts.method;
        // Absolute forms are for proxies; it came from itself.
        *head.uri_mut() =
            parts.uri.path_and_query().map_or_else(Uri::default, |p| p.clone().into());
        *head.headers_mut() = parts.headers;
        let turn = Turn::new();
        let body =
            if body.is_end_stream() { body::empty() } else { body::of_client(body, turn.clone()) };
        Self { head, body, turn, repeatable, upgrade }
    }

    /// Sends it to an endpoint, and to others as long as that can do no harm.
    async fn run(mut self, upstream: &Upstream, patience: Duration) -> Response<Body> {
        let mut why = String::new();
        for _ in 0..TRIES {
            let connected = match upstream.connect().await {
                Ok(connected) => connected,
                Err(error) => {
                    let status = match error {
                        ConnectError::NoEndpoint => StatusCode::SERVICE_UNAVAILABLE,
                        ConnectError::Failed(_) => StatusCode::BAD_GATEWAY,
                    };
                    tracing::debug!(upstream = upstream.name(), %error, "a request failed");
                    return answer::says(status, &error);
                }
            };
            let (endpoint, mut sender) = (connected.endpoint, connected.sender);
            let body = std::mem::replace(&mut self.body, body::empty());
            let request = self.head.clone().map(|()| body);
            self.turn.backends();
            let answered = tokio::select! {
                biased;
                answered = sender.try_send_request(request) => Some(answered),
                () = self.turn.over(patience) => None,
            };
            let mut failed = match answered {
                Some(Ok(answer)) => {
                    if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
                        endpoint.keep(sender);
                    }
                    return self.finish(answer);
                }
                Some(Err(failed)) => failed,
                None => {
                    endpoint.suspect();
                    let why = format!("the backend did not answer within {} s", patience.as_secs());
                    return answer::says(StatusCode::GATEWAY_TIMEOUT, &why);
                }
            };
            why = failed.error().to_string();
            let address = endpoint.target().address;
            tracing::debug!(upstream = upstream.name(), %address, error = why, "sending");
            match failed.take_message() {
                // Nothing of it was sent: the connection had just ended.
                Some(request) => self.body = request.into_body(),
                None if self.repeatable => endpoint.suspect(),
                None => break,
            }
        }
        tracing::debug!(upstream = upstream.name(), error = why, "a request failed");
        answer::says(StatusCode::BAD_GATEWAY, &format!("the backend failed: {why}"))
    }

    /// Makes a backend's answer the client's.
    fn finish(self, mut answer: Response<Incoming>) -> Response<Body> {
        // The version is that of each connection, not of the message.
        *answer.version_mut() = Version::HTTP_11;
        if answer.status() == StatusCode::SWITCHING_PROTOCOLS {
            let Some((_, client)) = self.upgrade else {
                let why = "the backend switched protocols unasked";
                return answer::says(StatusCode::BAD_GATEWAY, &why);
            };
            let protocol = answer.headers().get(http::header::UPGRADE).cloned();
            upgrade::join(client, hyper::upgrade::on(&mut answer));
            headers::towards_client(answer.headers_mut());
            if let Some(protocol) = protocol {
                headers::set_upgrade(answer.headers_mut(), protocol);
            }
            return answer.map(|_| body::empty());
        }
        headers::towards_client(answer.headers_mut());
        answer.map(body::of_backend)
    }
}
