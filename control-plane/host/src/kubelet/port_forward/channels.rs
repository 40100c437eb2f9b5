//! Other clients' way: two channels for each port that the request names, told apart by the first
//! byte of every message.

use futures_util::{SinkExt as _, StreamExt as _};
use hyper::body::Bytes;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_tungstenite::tungstenite::protocol::Message;

use super::{BACKLOG, FromClient, Pod};
use crate::kubelet::endpoint::Target;
use crate::kubelet::upgrade::Socket;

/// v5's mark of a channel that its sender has closed.
const CLOSE: u8 = 255;

/// The ports that a request names.
pub(super) fn ports(target: &Target) -> Result<Vec<u16>, String> {
    let named = target.query.iter().filter(|(key, _)| key == "ports" || key == "port");
    let ports = named
        .flat_map(|(_, value)| value.split(','))
        .map(|port| match port.trim().parse() {
            Ok(0) | Err(_) => Err(format!("ports: {port:?} is no port")),
            Ok(port) => Ok(port),
        })
        .collect::<Result<Vec<u16>, _>>()?;
    match ports.len() {
        0 => Err(String::from("query parameter \"ports\" is required")),
        // Channels are numbered with a byte, and 255 closes one.
        1..=127 => Ok(ports),
        count => Err(format!("ports: {count} are over the limit of 127")),
    }
}

/// Runs until the client leaves or every connection has ended.
pub(super) async fn run(socket: Socket, pod: Pod, ports: Vec<u16>) {
    let (mut to_socket, mut from_socket) = socket.split();
    let (out, mut outgoing) = mpsc::channel::<Vec<u8>>(BACKLOG);
    let mut tasks = JoinSet::new();
    let mut connections = Vec::with_capacity(ports.len());
    for (channel, port) in (0_u8..).step_by(2).zip(ports) {
        let (sender, receiver) = mpsc::channel(BACKLOG);
        connections.push(sender);
        tasks.spawn(connection(pod.clone(), port, channel, receiver, out.clone()));
    }
    drop(out);
    let write = async move {
        while let Some(bytes) = outgoing.recv().await {
            if to_socket.send(Message::Binary(bytes.into())).await.is_err() {
                return;
            }
        }
        let _ = to_socket.close().await;
    };
    let read = async move {
        while let Some(Ok(message)) = from_socket.next().await {
            let bytes = match message {
                Message::Binary(bytes) => bytes,
                Message::Close(_) => return,
                _ => continue,
            };
            let (channel, message) = match bytes.split_first() {
                Some((&CLOSE, &[channel])) => (channel, FromClient::End),
                Some((&channel, data)) => (channel, FromClient::Data(Bytes::copy_from_slice(data))),
                None => continue,
            };
            // What is sent on a channel for errors is nobody's.
            let connection = connections.get(usize::from(channel / 2));
            if let Some(connection) = connection.filter(|_| channel.is_multiple_of(2)) {
                // Waits while the pod does not read; one that has ended takes nothing.
                let _ = connection.send(message).await;
            }
        }
    };
    tokio::select! {
        () = write => {}
        () = read => {}
    }
}

async fn connection(
    pod: Pod,
    port: u16,
    channel: u8,
    from_client: mpsc::Receiver<FromClient>,
    out: mpsc::Sender<Vec<u8>>,
) {
    let message = |channel: u8, bytes: &[u8]| [&[channel], bytes].concat();
    for channel in [channel, channel + 1] {
        if out.send(message(channel, &port.to_le_bytes())).await.is_err() {
            return;
        }
    }
    let frame = |bytes: &[u8]| message(channel, bytes);
    if let Err(why) = pod.forward(port, from_client, &out, frame).await {
        let why = format!("error forwarding port {port} to pod: {why}");
        // Whoever is gone need not be told.
        let _ = out.send(message(channel + 1, why.as_bytes())).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_named_in_any_of_the_ways_that_clients_use() {
        let asked = |query: &[(&str, &str)]| {
            ports(&Target {
                node: None,
                namespace: "n".into(),
                pod: "p".into(),
                container: String::new(),
                query: query.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect(),
            })
        };
        assert_eq!(asked(&[("ports", "80,443")]).unwrap(), [80, 443]);
        assert_eq!(asked(&[("ports", "80"), ("ports", "81")]).unwrap(), [80, 81]);
        for wrong in ["", "0", "70000", "http"] {
            assert!(asked(&[("ports", wrong)]).is_err(), "{wrong}");
        }
        assert!(asked(&[]).is_err());
        assert!(asked(&[("ports", &["80"; 128].join(","))]).is_err());
    }
}
