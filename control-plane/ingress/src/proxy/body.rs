//! Bodies on their way: streamed as they come, with a limit on silence.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Empty, Full};
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep, sleep};

use super::turn::Turn;

/// Any body.
pub(crate) type Body = UnsyncBoxBody<Bytes, BodyError>;

/// How long a client may be silent in the midst of a body.
const SILENCE: Duration = Duration::from_secs(60);

/// Why a body ended early.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BodyError {
    #[error(transparent)]
    Hyper(#[from] hyper::Error),
    #[error("nothing came for {} s", SILENCE.as_secs())]
    Silence,
}

/// No body.
pub(super) fn empty() -> Body {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

/// A text.
pub(super) fn text(text: String) -> Body {
    Full::from(text).map_err(|never| match never {}).boxed_unsync()
}

/// A client's, which must not fall silent. It says when that is whose turn it is.
pub(super) fn of_client(body: Incoming, turn: Turn) -> Body {
    Paced { body, limit: Box::pin(sleep(SILENCE)), turn }.boxed_unsync()
}

/// A backend's, which may: events, long polls.
pub(super) fn of_backend(body: Incoming) -> Body {
    body.map_err(BodyError::Hyper).boxed_unsync()
}

struct Paced {
    body: Incoming,
    limit: Pin<Box<Sleep>>,
    turn: Turn,
}

impl Drop for Paced {
    /// Nothing more is asked of the client.
    fn drop(&mut self) {
        self.turn.backends();
    }
}

impl http_body::Body for Paced {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        if let Poll::Ready(frame) = Pin::new(&mut this.body).poll_frame(context) {
            this.limit.as_mut().reset(Instant::now() + SILENCE);
            this.turn.backends();
            return Poll::Ready(frame.map(|frame| frame.map_err(BodyError::Hyper)));
        }
        this.turn.clients();
        this.limit.as_mut().poll(context).map(|()| Some(Err(BodyError::Silence)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
