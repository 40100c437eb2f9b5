//! Logs, exec and attach: between a client's HTTP stream or WebSocket and the agent's frames.
//!
//! The WebSocket's messages are those of `v5.channel.k8s.io` and `v4.channel.k8s.io`: binary, the
//! first byte names the channel. v5 adds a message that closes a channel: `ff` and its number.

use std::sync::Arc;
use std::time::SystemTime;

use base64::Engine as _;
use bulkhead_agent_protocol::client::{AgentClient, ClientError, StreamInput, StreamOutput};
use bulkhead_agent_protocol::stream::Data;
use bulkhead_agent_protocol::{AttachRequest, ErrorReason, ExecRequest, LogsRequest, StreamFrame};
use futures_util::{SinkExt as _, StreamExt as _};
use http_body_util::BodyExt as _;
use http_body_util::channel::Channel;
use hyper::body::{Bytes, Incoming};
use hyper::{Request, Response, StatusCode};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Message};

use super::Context;
use super::endpoint::{Body, Refusal, Target, text};
use super::websocket::{Offer, Socket};
use crate::vm::{NodeState, Up};

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const STATUS: u8 = 3;
const RESIZE: u8 = 4;
const CLOSE: u8 = 255;

/// The subprotocols, the preferred first.
const PROTOCOLS: [&str; 2] = ["v5.channel.k8s.io", "v4.channel.k8s.io"];

/// A container's log, as plain bytes.
pub(super) async fn logs(context: &Context, target: &Target) -> Response<Body> {
    let (uid, agent) = match find(context, target).await {
        Ok(found) => found,
        Err(refusal) => return refusal.into(),
    };
    let request = match logs_request(uid, target) {
        Ok(request) => request,
        Err(problem) => return text(StatusCode::BAD_REQUEST, problem),
    };
    let mut output = match agent.logs(request).await {
        Ok(output) => output,
        Err(error) => return refusal(&error),
    };
    let (mut sender, body) = Channel::<Bytes, std::io::Error>::new(4);
    tokio::spawn(async move {
        loop {
            match output.next().await {
                Ok(StreamFrame::Stdout(Data(bytes)) | StreamFrame::Stderr(Data(bytes))) => {
                    if sender.send_data(bytes.into()).await.is_err() {
                        return;
                    }
                }
                Ok(StreamFrame::Failed { message }) => {
                    return sender.abort(std::io::Error::other(message));
                }
                Ok(_) => return,
                Err(error) => return sender.abort(std::io::Error::other(error)),
            }
        }
    });
    Response::new(body.boxed())
}

fn logs_request(uid: String, target: &Target) -> Result<LogsRequest, String> {
    let number = |name: &str| match target.value(name).filter(|value| !value.is_empty()) {
        Some(value) => value.parse::<u64>().map(Some).map_err(|_| format!("{name}: {value:?}")),
        None => Ok(None),
    };
    let to_ns = |time: SystemTime| {
        let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
    };
    let since = match (number("sinceSeconds")?, target.value("sinceTime")) {
        (Some(seconds), _) => {
            Some(to_ns(SystemTime::now()).saturating_sub(seconds.saturating_mul(1_000_000_000)))
        }
        (None, Some(time)) if !time.is_empty() => {
            Some(to_ns(humantime::parse_rfc3339(time).map_err(|_| format!("sinceTime: {time:?}"))?))
        }
        _ => None,
    };
    Ok(LogsRequest {
        uid,
        container: target.container.clone(),
        follow: target.flag("follow"),
        previous: target.flag("previous"),
        timestamps: target.flag("timestamps"),
        since_unix_ns: since,
        tail_lines: number("tailLines")?,
        limit_bytes: number("limitBytes")?,
    })
}

/// A command in a container.
pub(super) async fn exec(
    context: &Context,
    target: Target,
    request: Request<Incoming>,
) -> Response<Body> {
    let command: Vec<String> =
        target.query.iter().filter(|(k, _)| k == "command").map(|(_, v)| v.clone()).collect();
    if command.is_empty() {
        return text(StatusCode::BAD_REQUEST, "no command");
    }
    let (uid, agent) = match find(context, &target).await {
        Ok(found) => found,
        Err(refusal) => return refusal.into(),
    };
    let exec = ExecRequest {
        uid,
        container: target.container.clone(),
        command,
        stdin: target.flag("input") || target.flag("stdin"),
        tty: target.flag("tty"),
    };
    upgrade(request, async move { agent.exec(exec).await }).await
}

/// A container's main process.
pub(super) async fn attach(
    context: &Context,
    target: Target,
    request: Request<Incoming>,
) -> Response<Body> {
    let (uid, agent) = match find(context, &target).await {
        Ok(found) => found,
        Err(refusal) => return refusal.into(),
    };
    let attach = AttachRequest {
        uid,
        container: target.container.clone(),
        stdin: target.flag("input") || target.flag("stdin"),
    };
    upgrade(request, async move { agent.attach(attach).await }).await
}

/// The pod's uid and a connection to its agent.
async fn find(context: &Context, target: &Target) -> Result<(String, AgentClient), Refusal> {
    let (uid, up) = locate(context, target)?;
    let agent = up.agent().await.map_err(|error| Refusal {
        status: StatusCode::SERVICE_UNAVAILABLE,
        message: format!("the pod's node: {error}"),
    })?;
    Ok((uid, agent))
}

/// The pod's uid and its node, if that is up.
pub(super) fn locate(context: &Context, target: &Target) -> Result<(String, Arc<Up>), Refusal> {
    let Target { namespace, pod, .. } = target;
    let refuse = |status, message| Refusal { status, message };
    let (uid, node) = context.pods.find(namespace, pod).ok_or_else(|| {
        refuse(StatusCode::NOT_FOUND, format!("pod {namespace}/{pod} is not on this host"))
    })?;
    let up = context.node(&node).and_then(|node| match &*node.state().borrow() {
        NodeState::Up(up) => Some(Arc::clone(up)),
        _ => None,
    });
    up.map(|up| (uid, up))
        .ok_or_else(|| refuse(StatusCode::SERVICE_UNAVAILABLE, format!("node {node} is not ready")))
}

fn refusal(error: &ClientError) -> Response<Body> {
    let status = match error {
        ClientError::Agent(error) => match error.reason {
            ErrorReason::NotFound => StatusCode::NOT_FOUND,
            ErrorReason::BadRequest | ErrorReason::Unsupported | ErrorReason::Conflict => {
                StatusCode::BAD_REQUEST
            }
            ErrorReason::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        },
        _ => StatusCode::SERVICE_UNAVAILABLE,
    };
    text(status, error.to_string())
}

/// Opens the agent's stream and switches the connection to a WebSocket that carries it.
async fn upgrade(
    request: Request<Incoming>,
    stream: impl Future<Output = Result<(StreamInput, StreamOutput), ClientError>>,
) -> Response<Body> {
    let offer = match Offer::of(request, &PROTOCOLS) {
        Ok(offer) => offer,
        Err(refusal) => return refusal.into(),
    };
    let (input, output) = match stream.await {
        Ok(halves) => halves,
        Err(error) => return refusal(&error),
    };
    let (response, socket) = offer.accept();
    tokio::spawn(async move {
        if let Some(socket) = socket.await {
            bridge(socket, input, output).await;
        }
    });
    response
}

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
            [RESIZE, size @ ..] => {
                let size: Value = serde_json::from_slice(size).unwrap_or_default();
                let cells = |name: &str| {
                    size.get(name).and_then(Value::as_u64).and_then(|n| u16::try_from(n).ok())
                };
                match (cells("Width"), cells("Height")) {
                    (Some(width), Some(height)) => Self::Resize { width, height },
                    _ => Self::Other,
                }
            }
            _ => Self::Other,
        }
    }
}

/// Messages of clients that send text carry base64 behind the channel's digit.
fn from_text(message: &str) -> Option<Vec<u8>> {
    let (channel, data) = message.split_at_checked(1)?;
    let mut bytes = vec![channel.parse::<u8>().ok()?];
    bytes.extend(base64::engine::general_purpose::STANDARD.decode(data).ok()?);
    Some(bytes)
}

fn to_client(channel: u8, bytes: &[u8]) -> Message {
    let mut message = Vec::with_capacity(bytes.len() + 1);
    message.push(channel);
    message.extend_from_slice(bytes);
    Message::Binary(message.into())
}

/// The `v1.Status` that ends a stream.
fn status(code: i32) -> Value {
    if code == 0 {
        return json!({"metadata": {}, "status": "Success"});
    }
    json!({
        "metadata": {},
        "status": "Failure",
        "message": format!("command terminated with non-zero exit code: {code}"),
        "reason": "NonZeroExitCode",
        "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]},
    })
}

fn failure(message: &str) -> Value {
    json!({
        "metadata": {},
        "status": "Failure",
        "message": message,
        "reason": "InternalError",
        "code": 500,
    })
}

/// Until either side ends. Each direction waits for its own reader.
async fn bridge(socket: Socket, mut input: StreamInput, mut output: StreamOutput) {
    let (mut to_socket, mut from_socket) = socket.split();
    let inward = async {
        while let Some(Ok(message)) = from_socket.next().await {
            let bytes = match message {
                Message::Binary(bytes) => bytes.to_vec(),
                Message::Text(text) => from_text(&text).unwrap_or_default(),
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
            let last = match output.next().await {
                Ok(StreamFrame::Stdout(Data(bytes))) => {
                    if to_socket.send(to_client(STDOUT, &bytes)).await.is_err() {
                        return;
                    }
                    continue;
                }
                Ok(StreamFrame::Stderr(Data(bytes))) => {
                    if to_socket.send(to_client(STDERR, &bytes)).await.is_err() {
                        return;
                    }
                    continue;
                }
                Ok(StreamFrame::End { code }) => status(code),
                Ok(StreamFrame::Failed { message }) => failure(&message),
                Ok(_) => failure("the agent sent a frame that only a host may send"),
                Err(error) => failure(&error.to_string()),
            };
            let last = to_client(STATUS, last.to_string().as_bytes());
            if to_socket.send(last).await.is_ok() {
                // kubectl takes any other code for a failure. A client that is gone need not be
                // told that this is the end.
                let normal = CloseFrame { code: CloseCode::Normal, reason: "".into() };
                let _ = to_socket.send(Message::Close(Some(normal))).await;
            }
            return;
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
        assert_eq!(from_text("0aGk="), Some(b"\0hi".to_vec()));
        assert_eq!(from_text("ä"), None);
    }

    #[test]
    fn an_exit_code_travels_as_the_cause_of_a_status() {
        assert_eq!(status(0)["status"], "Success");
        let failed = status(42);
        assert_eq!(failed["reason"], "NonZeroExitCode");
        assert_eq!(failed["details"]["causes"][0]["message"], "42");
    }

    #[test]
    fn log_options_are_parsed_or_refused_by_name() {
        let target = |query: &[(&str, &str)]| Target {
            namespace: "n".into(),
            pod: "p".into(),
            container: "c".into(),
            query: query.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect(),
        };
        let request = logs_request(
            "u".into(),
            &target(&[
                ("follow", "true"),
                ("tailLines", "5"),
                ("sinceTime", "1970-01-01T00:00:01Z"),
            ]),
        )
        .unwrap();
        assert!(request.follow);
        assert_eq!((request.tail_lines, request.since_unix_ns), (Some(5), Some(1_000_000_000)));
        let error = logs_request("u".into(), &target(&[("tailLines", "x")])).unwrap_err();
        assert!(error.contains("tailLines"), "{error}");
    }
}
