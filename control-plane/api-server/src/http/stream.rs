//! Watches as bodies.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderValue, Response, header};
use http_body_util::BodyExt as _;
use serde_json::json;

use super::JSON;
use crate::api::Watcher;
use crate::body::{BoxError, ResponseBody};
use crate::output::Shape;
use crate::resource::Resource;

/// A watch's client that does not read holds up at most so many events.
const BUFFER: usize = 16;

/// A watch as a body: one JSON event per line, until its time or the client is gone.
pub(super) fn watch(
    mut watcher: Watcher,
    resource: Arc<Resource>,
    shape: Shape,
    include: Option<String>,
) -> Response<ResponseBody> {
    let (mut sender, channel) = http_body_util::channel::Channel::<Bytes, BoxError>::new(BUFFER);
    tokio::spawn(async move {
        let mut first = true;
        loop {
            let line = match watcher.next().await {
                Ok(Some(event)) => shape.event(&resource, event, include.as_deref(), first),
                Ok(None) => return,
                Err(status) => Err(status),
            };
            first = false;
            let last = line.is_err();
            let mut line = line.unwrap_or_else(|status| {
                json!({"type": "ERROR", "object": status.to_value()}).to_string().into_bytes()
            });
            line.push(b'\n');
            // A failed send is a client that has gone.
            if sender.send_data(line.into()).await.is_err() || last {
                return;
            }
        }
    });
    let mut response = Response::new(channel.boxed_unsync());
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(JSON));
    response
}
