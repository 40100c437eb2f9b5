//! kubectl's way: a pair of SPDY streams for each connection.

use std::collections::HashMap;

use bulkhead_spdy::{Encoder, Frame, Headers, value};
use tokio::sync::mpsc;

use super::{BACKLOG, FromClient, Pod};
use crate::kubelet::spdy::{self, FrameWriter};
use crate::kubelet::upgrade::Switched;

/// Streams that a client may have open; each connection takes two.
const MAX_STREAMS: usize = 1024;

/// Runs until the client leaves or sends what is no SPDY.
pub(super) async fn run(connection: Switched, pod: Pod) {
    spdy::serve(connection, |mut reader, writer| async move {
        let mut streams = Streams::new(pod, writer);
        while let Some(frame) = reader.next().await {
            if streams.frame(frame).await.is_none() {
                return;
            }
        }
    })
    .await;
}

struct Streams {
    pod: Pod,
    out: FrameWriter,
    encoder: Encoder,
    /// Streams for what goes wrong, by the request that they belong to.
    errors: HashMap<String, u32>,
    /// Streams for data that are open.
    data: HashMap<u32, mpsc::Sender<FromClient>>,
    /// The connections' tasks: they end with the client.
    tasks: tokio::task::JoinSet<()>,
}

impl Streams {
    fn new(pod: Pod, out: FrameWriter) -> Self {
        Self {
            pod,
            out,
            encoder: Encoder::default(),
            errors: HashMap::new(),
            data: HashMap::new(),
            tasks: tokio::task::JoinSet::new(),
        }
    }

    /// Takes a frame; `None` when the client has left.
    async fn frame(&mut self, frame: Frame) -> Option<()> {
        match frame {
            Frame::Open { stream, headers, fin } => self.open(stream, &headers, fin).await,
            Frame::Data { stream, bytes, fin } => {
                if let Some(connection) = self.data.get(&stream) {
                    // Waits while the pod does not read; a connection that has ended takes nothing.
                    if !bytes.is_empty() {
                        let _ = connection.send(FromClient::Data(bytes)).await;
                    }
                    if fin {
                        let _ = connection.send(FromClient::End).await;
                    }
                }
                Some(())
            }
            Frame::Reset { stream } => {
                self.data.remove(&stream);
                self.errors.retain(|_, error| *error != stream);
                Some(())
            }
            Frame::Ping { id } => self.out.send(Encoder::ping(id)).await,
            Frame::GoAway => None,
        }
    }

    async fn open(&mut self, stream: u32, headers: &Headers, fin: bool) -> Option<()> {
        while self.tasks.try_join_next().is_some() {}
        self.data.retain(|_, connection| !connection.is_closed());
        let request = value(headers, "requestid").unwrap_or_default().to_owned();
        let port =
            value(headers, "port").and_then(|port| port.parse().ok()).filter(|port| *port != 0);
        let full = self.data.len() + self.errors.len() >= MAX_STREAMS;
        match (value(headers, "streamtype"), port) {
            (Some("error"), Some(_)) if !full => {
                self.errors.insert(request, stream);
                let reply = self.encoder.reply(stream);
                self.out.send(reply).await
            }
            (Some("data"), Some(port)) if !full && self.errors.contains_key(&request) => {
                let error = self.errors.remove(&request)?;
                let reply = self.encoder.reply(stream);
                self.out.send(reply).await?;
                let (sender, receiver) = mpsc::channel(BACKLOG);
                if fin {
                    let _ = sender.send(FromClient::End).await;
                }
                self.data.insert(stream, sender);
                let (pod, out) = (self.pod.clone(), self.out.clone());
                self.tasks.spawn(connection(pod, port, stream, error, receiver, out));
                Some(())
            }
            _ => self.out.send(Encoder::refuse(stream)).await,
        }
    }
}

async fn connection(
    pod: Pod,
    port: u16,
    stream: u32,
    error: u32,
    from_client: mpsc::Receiver<FromClient>,
    out: FrameWriter,
) {
    let frame = |bytes: &[u8]| Encoder::data(stream, bytes, false);
    let carried = pod.forward(port, from_client, out.frames(), frame).await;
    let message = carried.err().map(|why| format!("error forwarding port {port} to pod: {why}"));
    // Whoever is gone need not be told that this is the end.
    let _ = out.finish(error, message.unwrap_or_default().as_bytes()).await;
    let _ = out.finish(stream, &[]).await;
}
