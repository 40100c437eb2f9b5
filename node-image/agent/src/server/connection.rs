//! One connection: unary requests one after another, or one that streams.

use std::{rc::Rc, time::Duration};

use bulkhead_agent_protocol::{
    AgentError, AttachRequest, ErrorReason, ExecRequest, LogsRequest, PodEvent, PortForwardRequest,
    Request, Response, ShutdownMode, StreamFrame,
    frame::FrameError,
    frame_io::{FrameReader, FrameWriter},
};
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncRead, AsyncWrite};

use crate::{Agent, logs, node, streams};

/// Serves a connection until either side closes it. What is malformed is answered, then closed.
pub(super) async fn serve<R, W>(agent: Rc<Agent>, reader: R, writer: W)
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let mut reader = FrameReader::new(reader);
    let mut writer = FrameWriter::new(writer);
    loop {
        let response = match reader.next::<Request>().await {
            Ok(Request::WatchPods) => {
                // An end of the stream is the host's wish.
                let _ = watch(&agent, &mut writer).await;
                return;
            }
            Ok(Request::Logs(request)) => {
                tokio::select! {
                    _ = send_logs(&agent, &request, &mut writer) => {}
                    // Nothing follows the request: this is the host's end.
                    _ = reader.next::<StreamFrame>() => {}
                }
                return;
            }
            Ok(Request::Exec(request)) => {
                let _ = exec(&agent, request, &mut reader, writer).await;
                return;
            }
            Ok(Request::Attach(request)) => {
                let _ = attach(&agent, &request, &mut reader, writer).await;
                return;
            }
            Ok(Request::PortForward(request)) => {
                let _ = port_forward(&agent, &request, &mut reader, writer).await;
                return;
            }
            Ok(request) => unary(&agent, request).await.unwrap_or_else(Response::Error),
            Err(FrameError::Closed | FrameError::Io(_)) => return,
            Err(error) => {
                let error =
                    AgentError { reason: ErrorReason::BadRequest, message: error.to_string() };
                let _ = writer.write(&Response::Error(error)).await;
                return;
            }
        };
        if writer.write(&response).await.is_err() {
            return;
        }
    }
}

async fn unary(agent: &Rc<Agent>, request: Request) -> Result<Response, AgentError> {
    match request {
        Request::Info => return Ok(Response::Info(agent.runtime.identity.info())),
        Request::Stats => {
            return Ok(Response::Stats(node::stats::collect(&agent.pods, &agent.runtime)));
        }
        Request::Configure(config) => {
            node::configure::apply(&config).await?;
            agent.runtime.identity.set(config);
        }
        Request::AttachRange(range) => agent.runtime.images.attach(range)?,
        Request::DetachRange { partition } => agent.runtime.images.detach(partition)?,
        Request::ApplyPod(assignment) => agent.pods.apply(*assignment)?,
        Request::RemovePod { uid, grace_period_seconds } => {
            agent.pods.remove(&uid, Duration::from_secs(grace_period_seconds.into()));
        }
        Request::Shutdown { mode, grace_period_seconds } => {
            shut_down(agent, mode, Duration::from_secs(grace_period_seconds.into()));
        }
        // Taken by `serve`.
        Request::WatchPods
        | Request::Logs(_)
        | Request::Exec(_)
        | Request::Attach(_)
        | Request::PortForward(_) => {
            return Err(AgentError {
                reason: ErrorReason::BadRequest,
                message: String::from("a streaming request is no unary one"),
            });
        }
    }
    Ok(Response::Done)
}

/// Begins the end; the answer is on its way before the node is gone.
fn shut_down(agent: &Rc<Agent>, mode: ShutdownMode, grace: Duration) {
    let agent = Rc::clone(agent);
    tokio::task::spawn_local(async move {
        tokio::task::yield_now().await;
        let scratch = &agent.runtime.directories.data;
        node::shutdown::run(&agent.pods, scratch, mode, grace, agent.pid1).await;
    });
}

async fn watch<W: AsyncWrite + Unpin>(
    agent: &Agent,
    writer: &mut FrameWriter<W>,
) -> Result<(), FrameError> {
    let (statuses, mut events) = agent.pods.watch();
    writer.write(&Response::Streaming).await?;
    for status in statuses {
        writer.write(&Response::Pod(PodEvent::Status(Box::new(status)))).await?;
    }
    writer.write(&Response::Pod(PodEvent::Synced)).await?;
    // Who lags behind is cut off: a new watch replays everything.
    while let Ok(event) = events.recv().await {
        writer.write(&Response::Pod(event)).await?;
    }
    Ok(())
}

fn conflict(message: String) -> AgentError {
    AgentError { reason: ErrorReason::Conflict, message }
}

async fn send_logs<W: AsyncWrite + Unpin>(
    agent: &Agent,
    request: &LogsRequest,
    writer: &mut FrameWriter<W>,
) -> Result<(), FrameError> {
    let log = agent.pods.live(&request.uid, &request.container).and_then(|live| {
        let live = live.borrow();
        let log = if request.previous { &live.previous_log } else { &live.log };
        log.clone().ok_or_else(|| {
            let which = if request.previous { "previous instance" } else { "instance" };
            conflict(format!("container {} has no {which} to read a log of", request.container))
        })
    });
    let log = match log {
        Ok(log) => log,
        Err(error) => return writer.write(&Response::Error(error)).await,
    };
    writer.write(&Response::Streaming).await?;
    if let Err(error) = logs::send(&log, request, writer).await {
        writer.write(&StreamFrame::Failed { message: error.to_string() }).await?;
    }
    Ok(())
}

async fn exec<R, W>(
    agent: &Agent,
    request: ExecRequest,
    reader: &mut FrameReader<R>,
    mut writer: FrameWriter<W>,
) -> Result<(), FrameError>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let id = agent.pods.live(&request.uid, &request.container).and_then(|live| {
        let id = live.borrow().id.clone();
        id.ok_or_else(|| conflict(format!("container {} is not running", request.container)))
    });
    let started = match id {
        Ok(_) if request.command.is_empty() => Err(AgentError {
            reason: ErrorReason::BadRequest,
            message: String::from("exec: the command is empty"),
        }),
        Ok(id) => {
            agent.runtime.exec(&id, &request.command, request.stdin, request.tty).await.map_err(
                |error| AgentError {
                    reason: ErrorReason::Internal,
                    message: format!("exec {:?}: {error}", request.command[0]),
                },
            )
        }
        Err(error) => Err(error),
    };
    let (io, child) = match started {
        Ok(started) => started,
        Err(error) => return writer.write(&Response::Error(error)).await,
    };
    writer.write(&Response::Streaming).await?;
    let carried = streams::exec(reader, writer, io, &child).await;
    if carried.is_err()
        && let Some(pid) = Pid::from_raw(child.pid())
    {
        // Nobody is left to read what it prints.
        let _ = kill_process(pid, Signal::KILL);
        let _ = child.wait().await;
    }
    carried
}

async fn attach<R, W>(
    agent: &Agent,
    request: &AttachRequest,
    reader: &mut FrameReader<R>,
    mut writer: FrameWriter<W>,
) -> Result<(), FrameError>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let io = agent.pods.live(&request.uid, &request.container).and_then(|live| {
        let io = live.borrow().io.as_ref().map(Rc::downgrade);
        let io = io
            .and_then(|io| io.upgrade())
            .ok_or_else(|| conflict(format!("container {} is not running", request.container)))?;
        if request.stdin && io.stdin.borrow().is_none() {
            let message = format!("container {} has no open stdin", request.container);
            return Err(conflict(message));
        }
        Ok(io)
    });
    match io {
        Ok(io) => {
            writer.write(&Response::Streaming).await?;
            streams::attach(reader, writer, io, request.stdin).await
        }
        Err(error) => writer.write(&Response::Error(error)).await,
    }
}

async fn port_forward<R, W>(
    agent: &Agent,
    request: &PortForwardRequest,
    reader: &mut FrameReader<R>,
    mut writer: FrameWriter<W>,
) -> Result<(), FrameError>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let connected = match agent.pods.context(&request.uid) {
        Ok(pod) => agent.runtime.connect(&pod, request.port).await.map_err(|error| {
            let pod = &pod.pod.metadata.name;
            conflict(format!("port {} of pod {pod}: {error}", request.port))
        }),
        Err(error) => Err(error),
    };
    match connected {
        Ok(connection) => {
            writer.write(&Response::Streaming).await?;
            streams::forward(reader, writer, connection).await
        }
        Err(error) => writer.write(&Response::Error(error)).await,
    }
}
