//! Requests for what nodes and pods use.

use http::{HeaderMap, Response};

use super::{Front, JSON, accept};
use crate::api::{Found, Place};
use crate::body::{self, ResponseBody};
use crate::options::Query;
use crate::output::Shape;
use crate::status::Result;

impl Front {
    /// Answers a get of the metrics of `name`, or a list.
    pub(super) async fn measured(
        &self,
        place: &Place,
        name: Option<&str>,
        query: &Query,
        headers: &HeaderMap,
    ) -> Result<Response<ResponseBody>> {
        let shape = Shape::negotiate(accept(headers))?;
        let options = query.read_options()?;
        let include = options.include_object.as_deref();
        let resource = &place.resource;
        match name {
            Some(name) => {
                let metrics = self.metrics.get(place, name).await?;
                Ok(body::json(200, &shape.object(resource, metrics, include), JSON))
            }
            None => {
                let list = self.metrics.list(place, &options).await?;
                let list = list.try_map(|metrics| Ok(Found::Decoded(metrics)))?;
                Ok(body::encoded(200, shape.list(resource, list, include)?, JSON))
            }
        }
    }
}
