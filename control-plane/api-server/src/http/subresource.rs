//! Requests to what lies below an object: `binding`, `eviction`, `token`, `finalize`, `scale`, and
//! what the host of a pod answers.

use bytes::Bytes;
use http::{Method, Request, Response};
use serde_json::Value;

use super::{Front, JSON, read_body, write_options};
use crate::api::Place;
use crate::auth::admission::Admission;
use crate::body::{self, BoxError, ResponseBody};
use crate::kubelet;
use crate::options::Query;
use crate::patch::Patch;
use crate::status::{Result, Status};
use crate::validation::Validation;

impl Front {
    pub(super) async fn subresource<B>(
        &self,
        admission: &Admission<'_>,
        name: &str,
        subresource: &str,
        query: &Query,
        request: Request<B>,
    ) -> Result<Response<ResponseBody>>
    where
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let place = admission.place;
        let method = request.method().clone();
        let options = write_options(query, request.headers())?;
        let mode = options.field_validation;
        let mut validation = Validation::new(mode, &place.resource, Some(subresource));
        match (subresource, &method) {
            ("binding" | "eviction" | "token", &Method::POST)
            | ("finalize" | "scale", &Method::PUT) => {
                let body = validation.body(read_body(request).await?)?;
                let answer = match subresource {
                    "binding" => self.api.bind(place, name, &body, &options).await?,
                    "eviction" => self.api.evict(place, name, &body, &options).await?,
                    "token" => self.tokens.issue(admission, name, body).await?,
                    "finalize" => self.api.finalize(place, name, &body, &options).await?,
                    _ => {
                        let set = |_: &Value| Ok(body.clone());
                        self.api.set_scale(place, name, &options, set).await?
                    }
                };
                let code = if method == Method::POST { 201 } else { 200 };
                Ok(body::json(code, &answer, JSON))
            }
            ("scale", &Method::GET) => {
                Ok(body::json(200, &self.api.scale(place, name).await?, JSON))
            }
            ("scale", &Method::PATCH) => {
                let media_type = body::media_type(request.headers());
                let patch = Patch::parse(&media_type, read_body(request).await?)?;
                let change = |scale: &Value| patch.apply(&mut validation, scale);
                let scaled = self.api.set_scale(place, name, &options, change).await?;
                Ok(body::json(200, &scaled, JSON))
            }
            ("log", &Method::GET)
            | ("exec" | "attach" | "portforward", &Method::GET | &Method::POST) => {
                self.to_host(place, name, subresource, request).await
            }
            _ => Err(Status::method_not_allowed()),
        }
    }

    /// Passes a request for a pod on to the host that runs it.
    async fn to_host<B>(
        &self,
        place: &Place,
        name: &str,
        subresource: &str,
        request: Request<B>,
    ) -> Result<Response<ResponseBody>>
    where
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let pod = self.api.get(place, name).await?;
        let node = kubelet::node_name(&pod)?;
        let nodes = self.api.registry().find("", "v1", "nodes");
        let nodes = nodes.ok_or_else(Status::no_such_resource)?;
        let node = self.api.get(&Place::new(&nodes, None), node).await?;
        self.kubelets.forward(subresource, &pod, &node, request).await
    }
}
