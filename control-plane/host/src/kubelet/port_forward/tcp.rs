//! The API server's way, for its proxies: the HTTP connection becomes the connection to the port.

use futures_util::{SinkExt as _, StreamExt as _};
use hyper::body::Incoming;
use hyper::{Request, Response, StatusCode};
use tokio::sync::mpsc;

use super::{BACKLOG, Connection, FromClient, Pod};
use crate::kubelet::Context;
use crate::kubelet::endpoint::{Body, Target, text};
use crate::kubelet::spdy::{Incoming as FromServer, Outgoing, bytes};
use crate::kubelet::streams::locate;
use crate::kubelet::upgrade::{asks_for, to_tcp};

/// Connects to the port that `target` names, and switches to TCP once that has succeeded.
pub(in crate::kubelet) async fn connect(
    context: &Context,
    target: &Target,
    request: Request<Incoming>,
) -> Response<Body> {
    let Some(port) = target.value("port").and_then(|port| port.parse().ok()) else {
        return text(StatusCode::BAD_REQUEST, "query parameter \"port\" is required");
    };
    if !asks_for(request.headers(), "tcp") {
        return text(StatusCode::BAD_REQUEST, "an upgrade to tcp is needed");
    }
    let (uid, up) = match locate(context, target) {
        Ok(located) => located,
        Err(refusal) => return refusal.into(),
    };
    let connection = match (Pod { uid, up }).connect(port).await {
        Ok(connection) => connection,
        Err(error) => return text(StatusCode::BAD_GATEWAY, error.to_string()),
    };
    let (response, switched) = to_tcp(request);
    tokio::spawn(async move {
        if let Some(stream) = switched.await {
            let (incoming, outgoing) = bytes(stream);
            run(incoming, outgoing, connection).await;
        }
    });
    response
}

/// Runs until either side ends.
async fn run(mut incoming: FromServer, mut outgoing: Outgoing, connection: Connection) {
    let (to_pod, from_server) = mpsc::channel(BACKLOG);
    let (out, mut waiting) = mpsc::channel::<Vec<u8>>(BACKLOG);
    let read = async move {
        while let Some(bytes) = incoming.next().await {
            if to_pod.send(FromClient::Data(bytes)).await.is_err() {
                return;
            }
        }
    };
    let write = async move {
        while let Some(bytes) = waiting.recv().await {
            if outgoing.send(bytes.into()).await.is_err() {
                return;
            }
        }
        // A server that is gone need not be told that this is the end.
        let _ = outgoing.close().await;
    };
    let carry = async move {
        if let Err(why) = connection.carry(from_server, &out, <[u8]>::to_vec).await {
            tracing::debug!("a proxy's connection to a pod: {why}");
        }
    };
    // What the pod has sent is written out after it has hung up.
    let answer = async { tokio::join!(write, carry) };
    tokio::select! {
        () = read => {}
        _ = answer => {}
    }
}
