//! Logs, exec and attach: between a client's HTTP stream, WebSocket or SPDY connection and the agent's
//! frames.

mod channels;
mod spdy;

use std::sync::Arc;
use std::time::SystemTime;

use bulkhead_agent_protocol::client::{AgentClient, ClientError, StreamInput, StreamOutput};
use bulkhead_agent_protocol::stream::Data;
use bulkhead_agent_protocol::{AttachRequest, ErrorReason, ExecRequest, LogsRequest, StreamFrame};
use http_body_util::BodyExt as _;
use http_body_util::channel::Channel;
use hyper::body::{Bytes, Incoming};
use hyper::{Request, Response, StatusCode};
use serde_json::{Value, json};

use super::Context;
use super::endpoint::{Body, Refusal, Target, text};
use super::upgrade::{Offer, Protocols, Switched};
use crate::vm::{NodeState, Up};

const PROTOCOLS: Protocols =
    Protocols { websocket: &["v5.channel.k8s.io", "v4.channel.k8s.io"], spdy: spdy::PROTOCOLS };

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
    upgrade(&target, request, async move { agent.exec(exec).await }).await
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
    upgrade(&target, request, async move { agent.attach(attach).await }).await
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
    let found = context.pods.find(namespace, pod);
    let found = found.filter(|(_, node)| target.node.as_ref().is_none_or(|named| named == node));
    let (uid, node) = found.ok_or_else(|| {
        let place =
            target.node.as_deref().map_or("this host".into(), |node| format!("node {node}"));
        refuse(StatusCode::NOT_FOUND, format!("pod {namespace}/{pod} is not on {place}"))
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

/// Opens the agent's stream and switches the connection to what carries it.
async fn upgrade(
    target: &Target,
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
    let wanted = spdy::Wanted::of(target, offer.protocol);
    let (response, switched) = offer.accept();
    tokio::spawn(async move {
        match switched.await {
            Some(Switched::WebSocket(socket)) => channels::run(*socket, input, output).await,
            Some(connection @ Switched::Spdy(_)) => {
                spdy::run(connection, wanted, input, output).await;
            }
            // The client has left.
            None => {}
        }
    });
    response
}

/// What comes from a process.
enum Output {
    Stdout(Vec<u8>),
    Stderr(Vec<u8>),
    /// How it ended, as a `v1.Status`.
    Ended(Value),
}

impl Output {
    async fn next(from: &mut StreamOutput) -> Self {
        match from.next().await {
            Ok(StreamFrame::Stdout(Data(bytes))) => Self::Stdout(bytes),
            Ok(StreamFrame::Stderr(Data(bytes))) => Self::Stderr(bytes),
            Ok(StreamFrame::End { code }) => Self::Ended(status(code)),
            Ok(StreamFrame::Failed { message }) => Self::Ended(failure(&message)),
            Ok(_) => Self::Ended(failure("the agent sent a frame that only a host may send")),
            Err(error) => Self::Ended(failure(&error.to_string())),
        }
    }
}

/// Columns and rows in a client's size of a terminal.
fn size(object: &Value) -> Option<(u16, u16)> {
    let cells = |name: &str| u16::try_from(object.get(name)?.as_u64()?).ok();
    Some((cells("Width")?, cells("Height")?))
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

#[cfg(test)]
mod tests {
    use super::*;

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
            node: None,
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
