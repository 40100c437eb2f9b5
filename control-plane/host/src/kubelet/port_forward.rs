//! Port-forward: connections from a client to ports in a pod.
//!
//! Two ways lead here. kubectl speaks SPDY, tunnelled through a WebSocket
//! (`SPDY/3.1+portforward.k8s.io`) or, before 1.31, directly: every connection has a stream for its
//! data and one for what went wrong, with the same `requestid`. Other clients name the ports in the request and get two channels for each
//! (`v4.channel.k8s.io`): its data, and what went wrong; the first message on each is the port.
//!
//! The API server's proxies have a way of their own: one connection that becomes plain TCP.

mod channels;
mod spdy;
mod tcp;

use std::sync::Arc;

use bulkhead_agent_protocol::client::{ClientError, StreamInput, StreamOutput};
use bulkhead_agent_protocol::stream::Data;
use bulkhead_agent_protocol::{PortForwardRequest, StreamFrame};
use hyper::body::{Bytes, Incoming};
use hyper::{Request, Response, StatusCode};
use tokio::sync::mpsc;

pub(super) use tcp::connect;

use super::Context;
use super::endpoint::{Body, Target, text};
use super::streams::locate;
use super::upgrade::{Offer, Protocols, Switched};
use crate::vm::Up;

const TUNNEL: &str = "SPDY/3.1+portforward.k8s.io";
const PROTOCOLS: Protocols = Protocols {
    websocket: &[TUNNEL, "v5.channel.k8s.io", "v4.channel.k8s.io"],
    spdy: &["portforward.k8s.io"],
};

/// Pieces of data that may wait for a pod; then its client waits.
const BACKLOG: usize = 16;

/// The pod that is forwarded to.
#[derive(Debug, Clone)]
struct Pod {
    uid: String,
    up: Arc<Up>,
}

/// Forwards for as long as the client stays.
pub(super) fn serve(
    context: &Context,
    target: &Target,
    request: Request<Incoming>,
) -> Response<Body> {
    let (uid, up) = match locate(context, target) {
        Ok(located) => located,
        Err(refusal) => return refusal.into(),
    };
    let pod = Pod { uid, up };
    let offer = match Offer::of(request, &PROTOCOLS) {
        Ok(offer) => offer,
        Err(refusal) => return refusal.into(),
    };
    let by_channels = PROTOCOLS.websocket.contains(&offer.protocol) && offer.protocol != TUNNEL;
    let ports = match by_channels.then(|| channels::ports(target)).transpose() {
        Ok(ports) => ports,
        Err(problem) => return text(StatusCode::BAD_REQUEST, problem),
    };
    let (response, switched) = offer.accept();
    tokio::spawn(async move {
        match (switched.await, ports) {
            (Some(Switched::WebSocket(socket)), Some(ports)) => {
                channels::run(*socket, pod, ports).await;
            }
            (Some(connection), _) => spdy::run(connection, pod).await,
            // The client has left.
            (None, _) => {}
        }
    });
    response
}

/// What a client sends on one connection.
#[derive(Debug)]
enum FromClient {
    Data(Bytes),
    /// It sends no more.
    End,
}

impl Pod {
    async fn connect(&self, port: u16) -> Result<Connection, ClientError> {
        let request = PortForwardRequest { uid: self.uid.clone(), port };
        let (input, output) = self.up.agent().await?.port_forward(request).await?;
        Ok(Connection { input, output })
    }

    /// Connects to a port and carries what is sent; see [`Connection::carry`].
    async fn forward(
        &self,
        port: u16,
        from_client: mpsc::Receiver<FromClient>,
        out: &mpsc::Sender<Vec<u8>>,
        frame: impl Fn(&[u8]) -> Vec<u8> + Send + Sync,
    ) -> Result<(), String> {
        let connection = self.connect(port).await.map_err(|error| error.to_string())?;
        connection.carry(from_client, out, frame).await
    }
}

/// A connection to a port in a pod.
#[derive(Debug)]
struct Connection {
    input: StreamInput,
    output: StreamOutput,
}

impl Connection {
    /// Carries it until either side ends; what the pod sends goes to `out` in the frames that
    /// `frame` makes.
    async fn carry(
        self,
        mut from_client: mpsc::Receiver<FromClient>,
        out: &mpsc::Sender<Vec<u8>>,
        frame: impl Fn(&[u8]) -> Vec<u8> + Send + Sync,
    ) -> Result<(), String> {
        let Self { mut input, mut output } = self;
        let inward = async {
            while let Some(message) = from_client.recv().await {
                let sent = match message {
                    FromClient::Data(bytes) => input.stdin(&bytes).await,
                    FromClient::End => input.close_stdin().await,
                };
                if sent.is_err() {
                    // The pod has hung up: what it sent last is still passed on.
                    return std::future::pending().await;
                }
            }
        };
        let outward = async {
            loop {
                match output.next().await {
                    Ok(StreamFrame::Stdout(Data(bytes))) => {
                        for chunk in bytes.chunks(StreamFrame::MAX_DATA) {
                            if out.send(frame(chunk)).await.is_err() {
                                return Ok(());
                            }
                        }
                    }
                    Ok(StreamFrame::End { .. }) => return Ok(()),
                    Ok(StreamFrame::Failed { message }) => return Err(message),
                    Ok(_) => return Err("the agent sent a frame that only a host may send".into()),
                    Err(error) => return Err(error.to_string()),
                }
            }
        };
        tokio::select! {
            // The client has left.
            () = inward => Ok(()),
            ended = outward => ended,
        }
    }
}
