//! The HTTP front: from a request to the operation that it asks for, and back.

pub mod connection;
mod gzip;
mod health;
mod measured;
mod stream;
mod subresource;
mod write;

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, header};
use serde_json::{Value, json};

use crate::api::{Api, Found, Place, Target};
use crate::auth::User;
use crate::auth::admission::Admission;
use crate::auth::authorizer::Authorizer;
use crate::auth::impersonation;
use crate::auth::review::Review;
use crate::auth::token::{self, Tokens};
use crate::body::{self, Body, BoxError, ResponseBody};
use crate::custom::CustomResources;
use crate::kubelet::Kubelets;
use crate::metrics::{self, Metrics};
use crate::object;
use crate::options::{Query, WriteOptions};
use crate::output::Shape;
use crate::proxy::Proxy;
use crate::resource::Resource;
use crate::route::{self, ResourcePath, Route};
use crate::status::{Result, Status};
use crate::validation::Validation;
use crate::{discovery, openapi};

/// The Kubernetes version whose API this server follows; clients compare it with theirs.
const KUBERNETES_VERSION: (&str, &str) = ("1", "36");
/// The media type of answers.
const JSON: &str = "application/json";

/// Answers requests.
#[derive(Debug, Clone)]
pub struct Front {
    api: Api,
    authorizer: Arc<Authorizer>,
    tokens: Tokens,
    custom: Arc<CustomResources>,
    kubelets: Arc<Kubelets>,
    metrics: Metrics,
    proxy: Arc<Proxy>,
}

impl Front {
    /// A front of `api` and its `custom` resources for whom `authorizer` lets in; logs, exec,
    /// attach and metrics come from `kubelets`, and what is proxied goes through `proxy`.
    #[must_use]
    pub fn new(
        api: Api,
        authorizer: Arc<Authorizer>,
        tokens: Tokens,
        custom: Arc<CustomResources>,
        kubelets: Arc<Kubelets>,
        proxy: Proxy,
    ) -> Self {
        let metrics = Metrics::new(api.clone(), Arc::clone(&kubelets));
        let proxy = Arc::new(proxy);
        Self { api, authorizer, tokens, custom, kubelets, metrics, proxy }
    }

    /// The API that it is the front of.
    #[must_use]
    pub const fn api(&self) -> &Api {
        &self.api
    }

    /// Answers a request over a connection on which a client certificate said who asks; without
    /// one, a bearer token may.
    pub async fn answer<B>(
        &self,
        certified: Option<&User>,
        request: Request<B>,
    ) -> Response<ResponseBody>
    where
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let bearer = match certified {
            Some(_) => None,
            None => match self.tokens.bearer(request.headers()).await {
                Ok(bearer) => Some(bearer.unwrap_or_else(User::anonymous)),
                Err(status) => return body::failure(&status),
            },
        };
        let Some(user) = certified.or(bearer.as_ref()) else {
            return body::failure(&Status::unauthorized());
        };
        let method = request.method().clone();
        let path = request.uri().path().to_owned();
        let gzip = gzip::is_accepted(request.headers());
        let mut answered = self.route(user, request).await;
        if gzip && let Ok(response) = answered {
            answered = gzip::compress(response).await;
        }
        let response = answered.unwrap_or_else(|status| body::failure(&status));
        tracing::debug!(user = user.name, %method, path, code = response.status().as_u16());
        response
    }

    async fn route<B>(&self, user: &User, request: Request<B>) -> Result<Response<ResponseBody>>
    where
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let user = &*impersonation::effective(user, request.headers(), &self.authorizer).await?;
        let route = Route::parse(request.uri().path())
            .ok_or_else(|| Status::bad_request("the path is not UTF-8"))?;
        let verb = request.method().as_str().to_ascii_lowercase();
        match route {
            Route::Resource(path) => self.resource(user, path, request).await,
            Route::Discovery { segments } => {
                self.authorizer.check_path(user, &verb, request.uri().path()).await?;
                read_only(request.method())?;
                self.custom.catch_up().await;
                let accept = header_text(request.headers(), &header::ACCEPT);
                let document = discovery::document(self.api.registry(), &segments, accept)
                    .ok_or_else(Status::no_such_resource)?;
                Ok(body::json(200, &document.body, &document.media_type))
            }
            Route::Other(path) => {
                self.authorizer.check_path(user, &verb, &path).await?;
                read_only(request.method())?;
                self.other(&path, request.uri().query().unwrap_or(""), request.headers()).await
            }
        }
    }

    async fn other(
        &self,
        path: &str,
        query: &str,
        headers: &HeaderMap,
    ) -> Result<Response<ResponseBody>> {
        if path == "/openapi/v2" || path.starts_with("/openapi/v3") {
            self.custom.catch_up().await;
            return openapi::answer(self.api.registry(), path, query, headers);
        }
        match path {
            token::CONFIGURATION_PATH => Ok(body::json(200, &self.tokens.configuration(), JSON)),
            token::KEYS_PATH => {
                Ok(body::json(200, &self.tokens.keys(), "application/jwk-set+json"))
            }
            "/version" => {
                let (major, minor) = KUBERNETES_VERSION;
                let version = json!({
                    "major": major,
                    "minor": minor,
                    "gitVersion": format!("v{major}.{minor}.0+bulkhead-{}", env!("CARGO_PKG_VERSION")),
                    "gitCommit": "",
                    "gitTreeState": "clean",
                    "buildDate": "1970-01-01T00:00:00Z",
                    "goVersion": "",
                    "compiler": "rustc",
                    "platform": "linux/amd64",
                });
                Ok(body::json(200, &version, JSON))
            }
            _ => self.health(path, query).await.ok_or_else(Status::no_such_resource),
        }
    }

    async fn resource<B>(
        &self,
        user: &User,
        path: ResourcePath,
        request: Request<B>,
    ) -> Result<Response<ResponseBody>>
    where
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let query = Query::parse(request.uri().query().unwrap_or(""));
        // A proxied request's query is not for this server.
        let watch = !path.is_proxied()
            && (path.watch || query.read_options().is_ok_and(|options| options.watch));
        let verb = verb(request.method(), path.name.is_some(), watch)?;
        self.authorizer.check(user, &path.action(verb, &query)).await?;
        if verb == "get" && path.is_shell() {
            // A WebSocket begins as a GET, and does what is a create by the older protocol.
            self.authorizer.check(user, &path.action("create", &query)).await?;
        }
        let find = || self.api.registry().find(&path.group, &path.version, &path.plural);
        let resource = match find() {
            Some(resource) => resource,
            None => {
                // Its definition may have been acknowledged a moment ago.
                self.custom.catch_up().await;
                find().ok_or_else(Status::no_such_resource)?
            }
        };
        if path.namespace.is_some() && !resource.namespaced {
            return Err(Status::no_such_resource());
        }
        if path.subresource.is_none() && !resource.verbs.contains(&verb) {
            return Err(Status::method_not_allowed());
        }
        let place = Place::new(&resource, path.namespace.as_deref());
        if resource.namespaced && path.namespace.is_none() && !matches!(verb, "list" | "watch") {
            return Err(Status::method_not_allowed());
        }
        if resource.group == metrics::GROUP && path.subresource.is_none() {
            return self.measured(&place, path.name.as_deref(), &query, request.headers()).await;
        }
        if path.is_proxied()
            && let Some(name) = &path.name
        {
            if resource.subresource("proxy").is_none() {
                return Err(Status::no_such_resource());
            }
            let asked = request.uri().path().to_owned();
            let below = route::below(&asked, path.proxy_segments());
            return self.proxy.pass(&place, name, below, request).await;
        }
        let admission = Admission { user, place: &place, authorizer: &self.authorizer };
        let target = match (path.subresource.as_deref(), path.name.as_deref()) {
            (None, None) => {
                let answer = self.collection(user, &place, verb, &query, request).await;
                self.settle(&resource, verb).await;
                return answer;
            }
            (Some(subresource), Some(name)) => {
                if resource.subresource(subresource).is_none() {
                    return Err(Status::no_such_resource());
                }
                match subresource {
                    "status" => {
                        admission.signs(name, verb, "sign", &self.api).await?;
                        Target::Status
                    }
                    "approval" => {
                        admission.signs(name, verb, "approve", &self.api).await?;
                        Target::Approval
                    }
                    "ephemeralcontainers" => Target::EphemeralContainers,
                    _ => {
                        return self
                            .subresource(&admission, name, subresource, &query, request)
                            .await;
                    }
                }
            }
            _ => Target::Main,
        };
        let name = path.name.unwrap_or_default();
        let answer = self.object(&admission, &name, target, verb, &query, request).await;
        self.settle(&resource, verb).await;
        answer
    }

    /// Waits until what a write of a definition says holds: who wrote it may rely on that.
    async fn settle(&self, resource: &Resource, verb: &str) {
        let defines = resource.group == "apiextensions.k8s.io" && resource.is_stored();
        if defines && !matches!(verb, "get" | "list" | "watch") {
            self.custom.catch_up().await;
        }
    }

    async fn collection<B>(
        &self,
        user: &User,
        place: &Place,
        verb: &str,
        query: &Query,
        request: Request<B>,
    ) -> Result<Response<ResponseBody>>
    where
        B: http_body::Body<Data = Bytes>,
        B::Error: Into<BoxError>,
    {
        let resource = &place.resource;
        let shape = Shape::negotiate(accept(request.headers()))?;
        let options = query.read_options()?;
        let include = options.include_object.as_deref();
        if verb != "create" {
            options.check(verb == "watch")?;
        }
        match verb {
            "list" => {
                let list = self.api.find(place, &options).await?;
                Ok(body::encoded(200, shape.list(resource, list, include)?, JSON))
            }
            "watch" => {
                let watcher = self.api.watch(place, &options).await?;
                let (resource, include) = (Arc::clone(resource), options.include_object);
                let hang_up = request.extensions().get().cloned();
                Ok(stream::watch(watcher, resource, shape, include, hang_up))
            }
            "create" => {
                let write = write_options(query, request.headers())?;
                let mut validation = Validation::new(write.field_validation, resource, None);
                let mut object = validation.body(read_body(request).await?)?;
                if (resource.group, resource.plural) == ("", "bindings") {
                    let pods = self.api.registry().find("", "v1", "pods");
                    let pods = pods.ok_or_else(Status::no_such_resource)?;
                    let pods = Place::new(&pods, place.namespace.as_deref());
                    let bound = self.api.bind(&pods, object::name(&object), &object, &write);
                    return Ok(body::json(201, &bound.await?, JSON));
                }
                if !resource.is_stored() {
                    let (authorizer, tokens) = (&self.authorizer, &self.tokens);
                    let review = Review { user, place, authorizer, tokens };
                    return Ok(body::json(201, &review.answer(object).await?, JSON));
                }
                let admission = Admission { user, place, authorizer: &self.authorizer };
                admission.prepare().await;
                admission.create(&mut object)?;
                let created = self.api.create(place, object, &write).await?;
                let shown = shape.object(resource, created, include);
                let mut response = body::json(201, &shown, JSON);
                validation.warn(&mut response);
                Ok(response)
            }
            _ => {
                let delete = query.delete_options(read_body(request).await?.value)?;
                let deleted = self.api.delete_collection(place, &options, &delete).await?;
                let deleted = deleted.try_map(|object| Ok(Found::Decoded(object)))?;
                Ok(body::encoded(200, shape.list(resource, deleted, include)?, JSON))
            }
        }
    }

    async fn object<B>(
        &self,
        admission: &Admission<'_>,
        name: &str,
        target: Target,
        verb: &str,
        query: &Query,
        request: Request<B>,
    ) -> Result<Response<ResponseBody>>
    where
        B: http_body::Body<Data = Bytes>,
        B::Error: Into<BoxError>,
    {
        let place = admission.place;
        let resource = &place.resource;
        let shape = Shape::negotiate(accept(request.headers()))?;
        let mut options = query.read_options()?;
        let include = options.include_object.clone();
        let object = match verb {
            "get" => self.api.get(place, name).await?,
            "watch" => {
                options.check(true)?;
                options.fields = crate::selector::FieldSelector::equal("metadata.name", name);
                let watcher = self.api.watch(place, &options).await?;
                let hang_up = request.extensions().get().cloned();
                return Ok(stream::watch(watcher, Arc::clone(resource), shape, include, hang_up));
            }
            "update" | "patch" => {
                let write = write_options(query, request.headers())?;
                let answer = match verb {
                    "update" => self.update(admission, name, target, &write, request).await?,
                    _ => self.patch(admission, name, target, &write, request).await?,
                };
                let code = if answer.created { 201 } else { 200 };
                let shown = shape.object(resource, answer.object, include.as_deref());
                let mut response = body::json(code, &shown, JSON);
                answer.validation.warn(&mut response);
                return Ok(response);
            }
            "delete" if target == Target::Main => {
                let mut delete = query.delete_options(read_body(request).await?.value)?;
                if admission.looks_at_deletes() {
                    let current = self.api.get(place, name).await?;
                    admission.delete(&current)?;
                    // What was looked at is what goes.
                    let uid = crate::object::text(&current, "metadata.uid").to_owned();
                    delete.preconditions.get_or_insert_default().uid.get_or_insert(uid);
                }
                let deletion = self.api.delete(place, name, &delete).await?;
                if deletion.gone && !resource.graceful_deletion {
                    return Ok(body::json(200, &deleted(resource, name, &deletion.object), JSON));
                }
                deletion.object
            }
            _ => return Err(Status::method_not_allowed()),
        };
        Ok(body::json(200, &shape.object(resource, object, include.as_deref()), JSON))
    }
}

/// What a write of an object came to.
#[derive(Debug)]
struct Answer {
    object: Value,
    created: bool,
    validation: Validation,
}

/// The options of a write. Who does not say who manages the fields is known by its program's name.
fn write_options(query: &Query, headers: &HeaderMap) -> Result<WriteOptions> {
    let mut options = query.write_options()?;
    let agent = header_text(headers, &header::USER_AGENT).split('/').next().unwrap_or_default();
    let agent: String = agent.chars().filter(|c| !c.is_control()).take(128).collect();
    options.client = if agent.is_empty() { "unknown".into() } else { agent };
    Ok(options)
}

/// What Kubernetes answers to the delete of an object that is gone at once.
fn deleted(resource: &Resource, name: &str, object: &Value) -> Value {
    json!({
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Success",
        "details": {
            "name": name,
            "group": resource.group,
            "kind": resource.plural,
            "uid": object["metadata"]["uid"],
        },
    })
}

fn read_only(method: &Method) -> Result<()> {
    if matches!(*method, Method::GET | Method::HEAD) {
        Ok(())
    } else {
        Err(Status::method_not_allowed())
    }
}

fn verb(method: &Method, named: bool, watch: bool) -> Result<&'static str> {
    Ok(match (method.as_str(), named) {
        ("GET" | "HEAD", _) if watch => "watch",
        ("GET" | "HEAD", true) => "get",
        ("GET" | "HEAD", false) => "list",
        ("POST", _) => "create",
        ("PUT", true) => "update",
        ("PATCH", true) => "patch",
        ("DELETE", true) => "delete",
        ("DELETE", false) => "deletecollection",
        _ => return Err(Status::method_not_allowed()),
    })
}

fn header_text<'a>(headers: &'a HeaderMap, name: &header::HeaderName) -> &'a str {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or("")
}

fn accept(headers: &HeaderMap) -> Option<&str> {
    headers.get(header::ACCEPT).and_then(|value| value.to_str().ok())
}

async fn read_body<B>(request: Request<B>) -> Result<Body>
where
    B: http_body::Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    let media_type = body::media_type(request.headers());
    body::read(request.into_body(), &media_type).await
}
