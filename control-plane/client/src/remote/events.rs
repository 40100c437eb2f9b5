//! A watch's answer: one JSON document per line.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::BytesMut;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use serde::Deserialize;
use serde_json::Value;

use super::connection::{ConnectionError, MAX_ANSWER};
use crate::client::{Change, ClientError, Stream};
use crate::object;

/// A watch under way.
#[derive(Debug)]
pub struct Events {
    body: Incoming,
    buffer: BytesMut,
    /// How much of the buffer is known to have no line's end.
    searched: usize,
}

/// One event of a watch.
#[derive(Debug, Deserialize)]
pub struct Event {
    /// `ADDED`, `MODIFIED`, `DELETED`, `BOOKMARK` or `ERROR`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The object; a `Status` with an `ERROR`.
    pub object: Value,
}

impl Events {
    pub(super) fn new(body: Incoming) -> Self {
        Self { body, buffer: BytesMut::new(), searched: 0 }
    }

    /// The next event; `None` when the server ended the watch.
    ///
    /// # Errors
    /// If the connection fails, or what comes is no event.
    pub async fn event(&mut self) -> Result<Option<Event>, ConnectionError> {
        let Some(line) = self.line().await? else { return Ok(None) };
        let event = serde_json::from_slice(&line);
        event.map(Some).map_err(|error| ConnectionError::transport(&error))
    }

    async fn line(&mut self) -> Result<Option<BytesMut>, ConnectionError> {
        loop {
            let rest = self.buffer.get(self.searched..).unwrap_or_default();
            if let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
                let line = self.buffer.split_to(self.searched + end + 1);
                self.searched = 0;
                return Ok(Some(line));
            }
            self.searched = self.buffer.len();
            if self.searched > MAX_ANSWER {
                return Err(ConnectionError::Transport("an event without an end".into()));
            }
            match self.body.frame().await {
                Some(Ok(frame)) => {
                    if let Some(data) = frame.data_ref() {
                        self.buffer.extend_from_slice(data);
                    }
                }
                Some(Err(error)) => return Err(ConnectionError::transport(&error)),
                None => return Ok(None),
            }
        }
    }
}

#[async_trait]
impl Stream for Events {
    async fn next(&mut self) -> Result<Option<Change>, ClientError> {
        while let Some(Event { kind, object }) = self.event().await? {
            match kind.as_str() {
                "ADDED" | "MODIFIED" => return Ok(Some(Change::Present(Arc::new(object)))),
                "DELETED" => return Ok(Some(Change::Gone(Arc::new(object)))),
                "ERROR" => {
                    let code =
                        object::number(&object, "code").and_then(|code| code.try_into().ok());
                    return Err(ClientError {
                        code: code.unwrap_or_default(),
                        reason: object::text(&object, "reason").into(),
                        message: object::text(&object, "message").into(),
                    });
                }
                // A bookmark, for one.
                _ => {}
            }
        }
        Ok(None)
    }
}
