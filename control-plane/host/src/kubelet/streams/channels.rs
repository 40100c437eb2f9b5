//! Over a WebSocket: `v5.channel.k8s.io` and `v4.channel.k8s.io`. The first byte of a message names
//! the channel; text is taken as its bytes, which is how some clients write. v5 adds a message that
//! closes a channel: `ff` and its number.

use bulkhead_agent_protocol::client::{StreamInput, StreamOutput};
use futures_util::{SinkExt as _, StreamExt as _};
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Message};

use super::{Output, size};
use crate::kubelet::upgrade::Socket;

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const STATUS: u8 = 3;
const RESIZE: u8 = 4;
const CLOSE: u8 = 255;

/// A message from the client.
#[derive(Debug, PartialEq, Eq)]
enum FromClient {
    Stdin(Vec<u8>),
    CloseStdin,
    Resize {
        width: u16,
        height: u16,
    },
    /// A channel that this stream does not have.
    Other,
}

impl FromClient {
    fn parse(message: &[u8]) -> Self {
        match message {
            [STDIN, bytes @ ..] => Self::Stdin(bytes.to_vec()),
            [CLOSE, STDIN] => Self::CloseStdin,
            [RESIZE, json @ ..] => {
                let parsed = serde_json::from_slice(json).ok();
                match parsed.as_ref().and_then(size) {
                    Some((width, height)) => Self::Resize { width, height },
                    None => Self::Other,
                }
            }
            _ => Self::Other,
        }
    }
}

fn to_client(channel: u8, bytes: &[u8]) -> Message {
    let mut message = Vec::with_capacity(bytes.len() + 1);
    message.push(channel);
    message.extend_from_slice(bytes);
    Message::Binary(message.into())
}

/// Until either side ends. Each direction waits for its own reader.
pub(super) async fn run(socket: Socket, mut input: StreamInput, mut output: StreamOutput) {
    let (mut to_socket, mut from_socket) = socket.split();
    let inward = async {
        while let Some(Ok(message)) = from_socket.next().await {
            let bytes = match message {
                Message::Binary(bytes) => bytes.to_vec(),
                Message::Text(text) => text.as_bytes().to_vec(),
                Message::Close(_) => return,
                _ => continue,
            };
            let sent = match FromClient::parse(&bytes) {
                FromClient::Stdin(bytes) => input.stdin(&bytes).await,
                FromClient::CloseStdin => input.close_stdin().await,
                FromClient::Resize { width, height } => input.resize(width, height).await,
                FromClient::Other => Ok(()),
            };
            if sent.is_err() {
                // The process has ended: its output says how.
                std::future::pending::<()>().await;
            }
        }
    };
    let outward = async {
        loop {
            let message = match Output::next(&mut output).await {
                Output::Stdout(bytes) => to_client(STDOUT, &bytes),
                Output::Stderr(bytes) => to_client(STDERR, &bytes),
                Output::Ended(status) => {
                    let last = to_client(STATUS, status.to_string().as_bytes());
                    if to_socket.send(last).await.is_ok() {
                        // kubectl takes any other code for a failure. A client that is gone need
                        // not be told that this is the end.
                        let normal = CloseFrame { code: CloseCode::Normal, reason: "".into() };
                        let _ = to_socket.send(Message::Close(Some(normal))).await;
                    }
                    return;
                }
            };
            if to_socket.send(message).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = inward => {}
        () = outward => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn channels_are_told_apart() {
        assert_eq!(FromClient::parse(b"\0abc"), FromClient::Stdin(b"abc".to_vec()));
        assert_eq!(FromClient::parse(b"\xff\0"), FromClient::CloseStdin);
        assert_eq!(
            FromClient::parse(b"\x04{\"Width\":80,\"Height\":24}"),
            FromClient::Resize { width: 80, height: 24 }
        );
        for other in [&b""[..], b"\x04{}", b"\x04{\"Width\":1e9,\"Height\":1}", b"\x01x", b"\xff"] {
            assert_eq!(FromClient::parse(other), FromClient::Other, "{other:?}");
        }
    }
}
