//! Watches as bodies.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Response, header};
use http_body_util::BodyExt as _;
use serde_json::json;
use tokio::sync::Notify;

use super::JSON;
use crate::api::Watcher;
use crate::body::{BoxError, ResponseBody};
use crate::output::Shape;
use crate::resource::Resource;

/// A watch's client that does not read holds up at most so many events.
const BUFFER: usize = 16;

/// A client that takes nothing for so long is not there any more, or cannot keep up: it is cut off,
/// and watches on from where it was when it comes back.
const PATIENCE: Duration = Duration::from_secs(20);

/// Ends a client's connection: a request carries it. A body cannot, while what it gave before is not
/// taken.
#[derive(Debug, Clone, Default)]
pub(super) struct HangUp(Arc<Notify>);

impl HangUp {
    /// Returns when somebody wants the connection to end.
    pub(super) async fn wanted(&self) {
        self.0.notified().await;
    }
}

/// A watch as a body: one JSON event per line, until its time or the client is gone.
pub(super) fn watch(
    mut watcher: Watcher,
    resource: Arc<Resource>,
    shape: Shape,
    include: Option<String>,
    hang_up: Option<HangUp>,
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
            let sent = tokio::time::timeout(PATIENCE, sender.send_data(line.into())).await;
            match sent {
                Ok(Ok(())) if !last => {}
                Err(_) => {
                    tracing::debug!(watch = resource.plural, "a client does not read");
                    if let Some(HangUp(connection)) = hang_up {
                        connection.notify_one();
                    }
                    return;
                }
                // A failed send is a client that has gone.
                _ => return,
            }
        }
    });
    let mut response = Response::new(channel.boxed_unsync());
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(JSON));
    response
}
