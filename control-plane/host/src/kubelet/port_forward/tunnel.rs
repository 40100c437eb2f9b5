//! kubectl's way: SPDY inside a WebSocket's binary messages.

use std::collections::HashMap;

use futures_util::{SinkExt as _, StreamExt as _};
use hyper::body::Bytes;
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::protocol::Message;

use super::{BACKLOG, FromClient, Pod};
use crate::kubelet::spdy::{Decoder, Encoder, Frame, Headers};
use crate::kubelet::websocket::Socket;

/// Streams that a client may have open; each connection takes two.
const MAX_STREAMS: usize = 1024;

/// Runs until the client leaves or sends what is no SPDY.
pub(super) async fn run(socket: Socket, pod: Pod) {
    let (mut to_socket, mut from_socket) = socket.split();
    let (out, mut outgoing) = mpsc::channel::<Vec<u8>>(BACKLOG);
    let write = async move {
        while let Some(bytes) = outgoing.recv().await {
            if to_socket.send(Message::Binary(bytes.into())).await.is_err() {
                return;
            }
        }
    };
    let read = async move {
        let mut tunnel = Tunnel::new(pod, out);
        while let Some(Ok(message)) = from_socket.next().await {
            let going_on = match message {
                Message::Binary(bytes) => tunnel.take(&bytes).await,
                Message::Close(_) => None,
                _ => Some(()),
            };
            if going_on.is_none() {
                return;
            }
        }
    };
    tokio::select! {
        () = write => {}
        () = read => {}
    }
}

struct Tunnel {
    pod: Pod,
    out: mpsc::Sender<Vec<u8>>,
    decoder: Decoder,
    encoder: Encoder,
    /// Streams for what goes wrong, by the request that they belong to.
    errors: HashMap<String, u32>,
    /// Streams for data that are open.
    data: HashMap<u32, mpsc::Sender<FromClient>>,
    /// The connections' tasks: they end with the tunnel.
    tasks: tokio::task::JoinSet<()>,
}

impl Tunnel {
    fn new(pod: Pod, out: mpsc::Sender<Vec<u8>>) -> Self {
        Self {
            pod,
            out,
            decoder: Decoder::default(),
            encoder: Encoder::default(),
            errors: HashMap::new(),
            data: HashMap::new(),
            tasks: tokio::task::JoinSet::new(),
        }
    }

    /// Takes bytes; `None` when the tunnel has come to its end.
    async fn take(&mut self, bytes: &[u8]) -> Option<()> {
        self.decoder.push(bytes);
        loop {
            match self.decoder.next() {
                Ok(Some(frame)) => self.frame(frame).await?,
                Ok(None) => return Some(()),
                Err(error) => {
                    tracing::debug!("port-forward: {error}");
                    return None;
                }
            }
        }
    }

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
            Frame::Ping { id } => self.send(Encoder::ping(id)).await,
            Frame::GoAway => None,
        }
    }

    async fn open(&mut self, stream: u32, headers: &Headers, fin: bool) -> Option<()> {
        let value = |name: &str| {
            headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
        };
        while self.tasks.try_join_next().is_some() {}
        self.data.retain(|_, connection| !connection.is_closed());
        let request = value("requestid").unwrap_or_default().to_owned();
        let port = value("port").and_then(|port| port.parse().ok()).filter(|port| *port != 0);
        let full = self.data.len() + self.errors.len() >= MAX_STREAMS;
        match (value("streamtype"), port) {
            (Some("error"), Some(_)) if !full => {
                self.errors.insert(request, stream);
                let reply = self.encoder.reply(stream);
                self.send(reply).await
            }
            (Some("data"), Some(port)) if !full && self.errors.contains_key(&request) => {
                let error = self.errors.remove(&request)?;
                let reply = self.encoder.reply(stream);
                self.send(reply).await?;
                let (sender, receiver) = mpsc::channel(BACKLOG);
                if fin {
                    let _ = sender.send(FromClient::End).await;
                }
                self.data.insert(stream, sender);
                let (pod, out) = (self.pod.clone(), self.out.clone());
                self.tasks.spawn(connection(pod, port, stream, error, receiver, out));
                Some(())
            }
            _ => self.send(Encoder::refuse(stream)).await,
        }
    }

    async fn send(&self, bytes: Vec<u8>) -> Option<()> {
        self.out.send(bytes).await.ok()
    }
}

async fn connection(
    pod: Pod,
    port: u16,
    stream: u32,
    error: u32,
    from_client: mpsc::Receiver<FromClient>,
    out: mpsc::Sender<Vec<u8>>,
) {
    let frame = |bytes: &[u8]| Encoder::data(stream, bytes, false);
    let carried = pod.carry(port, from_client, &out, frame).await;
    let message = carried.err().map(|why| format!("error forwarding port {port} to pod: {why}"));
    let message = Bytes::from(message.unwrap_or_default());
    // Whoever is gone need not be told that this is the end.
    let _ = out.send(Encoder::data(error, &message, true)).await;
    let _ = out.send(Encoder::data(stream, &[], true)).await;
}
