//! A SPDY connection with a client: directly, or in the binary messages of a WebSocket.

use std::future::ready;
use std::io;
use std::pin::Pin;
use std::time::Duration;

use bulkhead_spdy::{Decoder, Encoder, Frame, MAX_DATA};
use bytes::{Bytes, BytesMut};
use futures_util::stream::Stream;
use futures_util::{Sink, SinkExt as _, StreamExt as _};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::protocol::Message;
use tokio_util::codec::{BytesCodec, Framed};

use crate::kubelet::upgrade::{Socket, Switched};

/// Frames that may wait for a client; then its sender waits.
const BACKLOG: usize = 16;
/// How long a client may take for what is left when its service has ended.
const FLUSH: Duration = Duration::from_secs(10);

/// Bytes from a client.
pub(in crate::kubelet) type Incoming = Pin<Box<dyn Stream<Item = Bytes> + Send>>;
/// Bytes to a client.
pub(in crate::kubelet) type Outgoing = Pin<Box<dyn Sink<Bytes, Error = io::Error> + Send>>;

/// The bytes of a connection.
pub(in crate::kubelet) fn bytes(connection: TokioIo<Upgraded>) -> (Incoming, Outgoing) {
    let (sink, stream) = Framed::new(connection, BytesCodec::new()).split();
    let stream = stream
        .take_while(|read| ready(read.is_ok()))
        .filter_map(|read| ready(read.ok().map(BytesMut::freeze)));
    (Box::pin(stream), Box::pin(sink))
}

/// The bytes of a WebSocket's binary messages.
fn messages(socket: Socket) -> (Incoming, Outgoing) {
    let (sink, stream) = socket.split();
    let stream = stream
        .take_while(|message| ready(!matches!(message, Err(_) | Ok(Message::Close(_)))))
        .filter_map(|message| {
            ready(match message {
                Ok(Message::Binary(bytes)) => Some(bytes),
                _ => None,
            })
        });
    let sink = sink
        .with(|bytes: Bytes| ready(Ok(Message::Binary(bytes))))
        .sink_map_err(|error: tokio_tungstenite::tungstenite::Error| io::Error::other(error));
    (Box::pin(stream), Box::pin(sink))
}

/// Runs `service` over a connection, until it or the client ends; what it has sent is then still
/// passed on.
pub(in crate::kubelet) async fn serve<F>(
    connection: Switched,
    service: impl FnOnce(FrameReader, FrameWriter) -> F,
) where
    F: Future<Output = ()>,
{
    let (incoming, mut outgoing) = match connection {
        Switched::WebSocket(socket) => messages(*socket),
        Switched::Spdy(connection) => bytes(connection),
    };
    let (out, mut waiting) = mpsc::channel::<Vec<u8>>(BACKLOG);
    let write = async move {
        while let Some(frame) = waiting.recv().await {
            if outgoing.send(frame.into()).await.is_err() {
                return;
            }
        }
        // A client that is gone need not be told that this is the end.
        let _ = outgoing.close().await;
    };
    tokio::pin!(write);
    let reader = FrameReader { incoming, decoder: Decoder::default() };
    tokio::select! {
        // The service has the only senders: what is left of it is what waits.
        () = service(reader, FrameWriter { out }) => {}
        () = &mut write => return,
    }
    if tokio::time::timeout(FLUSH, write).await.is_err() {
        tracing::debug!("a SPDY client does not read what was sent last");
    }
}

/// What a client sends.
pub(in crate::kubelet) struct FrameReader {
    incoming: Incoming,
    decoder: Decoder,
}

impl FrameReader {
    /// The next frame; `None` when the client has left, or sends what is no SPDY.
    pub(in crate::kubelet) async fn next(&mut self) -> Option<Frame> {
        loop {
            match self.decoder.next() {
                Ok(Some(Frame::GoAway)) => return None,
                Ok(Some(frame)) => return Some(frame),
                Ok(None) => {}
                Err(error) => {
                    tracing::debug!("a SPDY client: {error}");
                    return None;
                }
            }
            self.decoder.push(&self.incoming.next().await?);
        }
    }
}

/// What goes to a client.
#[derive(Debug, Clone)]
pub(in crate::kubelet) struct FrameWriter {
    out: mpsc::Sender<Vec<u8>>,
}

impl FrameWriter {
    /// Sends an encoded frame, and waits while the client does not read; `None` if it has left.
    pub(in crate::kubelet) async fn send(&self, frame: Vec<u8>) -> Option<()> {
        self.out.send(frame).await.ok()
    }

    /// Where encoded frames go.
    pub(in crate::kubelet) const fn frames(&self) -> &mpsc::Sender<Vec<u8>> {
        &self.out
    }

    /// Sends data of a stream.
    pub(in crate::kubelet) async fn data(&self, stream: u32, bytes: &[u8]) -> Option<()> {
        for chunk in bytes.chunks(MAX_DATA) {
            self.send(Encoder::data(stream, chunk, false)).await?;
        }
        Some(())
    }

    /// Sends the last data of a stream.
    pub(in crate::kubelet) async fn finish(&self, stream: u32, bytes: &[u8]) -> Option<()> {
        self.data(stream, bytes).await?;
        self.send(Encoder::data(stream, &[], true)).await
    }
}
