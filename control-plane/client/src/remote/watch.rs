//! A watch's answer: one JSON document per line.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::BytesMut;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use serde::Deserialize;
use serde_json::Value;

use super::{MAX_ANSWER, transport};
use crate::client::{Change, ClientError, Stream};
use crate::object;

/// A watch under way.
#[derive(Debug)]
pub(super) struct Watch {
    body: Incoming,
    buffer: BytesMut,
    /// How much of the buffer is known to have no line's end.
    searched: usize,
}

#[derive(Deserialize)]
struct Event {
    #[serde(rename = "type")]
    kind: String,
    object: Value,
}

impl Watch {
    pub(super) fn new(body: Incoming) -> Self {
        Self { body, buffer: BytesMut::new(), searched: 0 }
    }

    async fn line(&mut self) -> Result<Option<BytesMut>, ClientError> {
        loop {
            let rest = self.buffer.get(self.searched..).unwrap_or_default();
            if let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
                let line = self.buffer.split_to(self.searched + end + 1);
                self.searched = 0;
                return Ok(Some(line));
            }
            self.searched = self.buffer.len();
            if self.searched > MAX_ANSWER {
                return Err(transport(&"an event without an end"));
            }
            match self.body.frame().await {
                Some(Ok(frame)) => {
                    if let Some(data) = frame.data_ref() {
                        self.buffer.extend_from_slice(data);
                    }
                }
                Some(Err(error)) => return Err(transport(&error)),
                None => return Ok(None),
            }
        }
    }
}

#[async_trait]
impl Stream for Watch {
    async fn next(&mut self) -> Result<Option<Change>, ClientError> {
        while let Some(line) = self.line().await? {
            let Event { kind, object } =
                serde_json::from_slice(&line).map_err(|error| transport(&error))?;
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
