//! The host's end: a connection to an agent, over a monitor's hybrid vsock socket.
//!
//! A [`AgentClient`] is one connection. Unary requests may follow one another on it; a streaming
//! request consumes it. Open one per stream: dialling is cheap, and each has its own backpressure.

use std::path::Path;

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
};

use crate::{
    AgentError, AttachRange, AttachRequest, ExecRequest, LogsRequest, NodeConfig, NodeInfo,
    NodeStats, PORT, PodAssignment, PodEvent, PortForwardRequest, Request, Response, ShutdownMode,
    StreamFrame, VERSION,
    frame::FrameError,
    frame_io::{FrameReader, FrameWriter},
    stream::Data,
};

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The monitor's socket could not be reached: the monitor is not running.
    #[error("cannot connect to {path}: {source}")]
    Connect {
        /// The socket.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// The monitor refused the vsock connection: nothing listens in the guest (yet).
    #[error("no agent listens behind {path} (yet)")]
    NotListening {
        /// The socket.
        path: String,
    },
    /// The connection broke, or the agent sent what is no frame.
    #[error("connection to the agent: {0}")]
    Frame(#[from] FrameError),
    /// The agent refused.
    #[error(transparent)]
    Agent(#[from] AgentError),
    /// The agent answered something that does not belong to the request.
    #[error("the agent answered {0} out of turn")]
    OutOfTurn(String),
    /// The agent speaks another version of the protocol.
    #[error("the agent speaks protocol version {0}, this host {VERSION}: rebuild the node image")]
    Version(u32),
}

/// A connection to an agent.
#[derive(Debug)]
pub struct AgentClient {
    reader: FrameReader<OwnedReadHalf>,
    writer: FrameWriter<OwnedWriteHalf>,
}

impl AgentClient {
    /// Connects to the agent behind a monitor's hybrid vsock socket.
    ///
    /// # Errors
    /// [`ClientError::Connect`] without a monitor, [`ClientError::NotListening`] before the guest
    /// is up: try again then.
    pub async fn connect_hybrid(socket: &Path) -> Result<Self, ClientError> {
        let mut stream = connect(socket).await?;
        let not_listening = || ClientError::NotListening { path: socket.display().to_string() };
        let hello = format!("CONNECT {PORT}\n");
        stream.write_all(hello.as_bytes()).await.map_err(|_| not_listening())?;
        let mut line = Vec::with_capacity(16);
        // Byte by byte: what follows the line belongs to the agent.
        while line.len() < 32 {
            match stream.read_u8().await {
                Ok(b'\n') => break,
                Ok(byte) => line.push(byte),
                Err(_) => return Err(not_listening()),
            }
        }
        if !line.starts_with(b"OK ") {
            return Err(not_listening());
        }
        Ok(Self::over(stream))
    }

    /// Connects to an agent that listens on a unix socket itself (`bulkhead-agent serve`).
    ///
    /// # Errors
    /// [`ClientError::Connect`].
    pub async fn connect_unix(socket: &Path) -> Result<Self, ClientError> {
        Ok(Self::over(connect(socket).await?))
    }

    fn over(stream: UnixStream) -> Self {
        let (reader, writer) = stream.into_split();
        Self { reader: FrameReader::new(reader), writer: FrameWriter::new(writer) }
    }

    /// Sends a request and reads its one response.
    ///
    /// # Errors
    /// [`ClientError::Agent`] if the agent refused, [`ClientError::Frame`] if the connection broke.
    pub async fn call(&mut self, request: &Request) -> Result<Response, ClientError> {
        self.writer.write(request).await?;
        match self.reader.next().await? {
            Response::Error(error) => Err(error.into()),
            response => Ok(response),
        }
    }

    async fn done(&mut self, request: &Request) -> Result<(), ClientError> {
        match self.call(request).await? {
            Response::Done => Ok(()),
            other => Err(out_of_turn(&other)),
        }
    }

    /// Who the agent is; fails when it speaks another version.
    ///
    /// # Errors
    /// As [`AgentClient::call`], and [`ClientError::Version`].
    pub async fn info(&mut self) -> Result<NodeInfo, ClientError> {
        match self.call(&Request::Info).await? {
            Response::Info(info) if info.protocol != VERSION => {
                Err(ClientError::Version(info.protocol))
            }
            Response::Info(info) => Ok(info),
            other => Err(out_of_turn(&other)),
        }
    }

    /// [`Request::Configure`].
    ///
    /// # Errors
    /// As [`AgentClient::call`].
    pub async fn configure(&mut self, config: NodeConfig) -> Result<(), ClientError> {
        self.done(&Request::Configure(config)).await
    }

    /// [`Request::AttachRange`].
    ///
    /// # Errors
    /// As [`AgentClient::call`].
    pub async fn attach_range(&mut self, range: AttachRange) -> Result<(), ClientError> {
        self.done(&Request::AttachRange(range)).await
    }

    /// [`Request::DetachRange`].
    ///
    /// # Errors
    /// As [`AgentClient::call`].
    pub async fn detach_range(&mut self, partition: u32) -> Result<(), ClientError> {
        self.done(&Request::DetachRange { partition }).await
    }

    /// [`Request::ApplyPod`].
    ///
    /// # Errors
    /// As [`AgentClient::call`].
    pub async fn apply_pod(&mut self, pod: PodAssignment) -> Result<(), ClientError> {
        self.done(&Request::ApplyPod(Box::new(pod))).await
    }

    /// [`Request::RemovePod`].
    ///
    /// # Errors
    /// As [`AgentClient::call`].
    pub async fn remove_pod(
        &mut self,
        uid: &str,
        grace_period_seconds: u32,
    ) -> Result<(), ClientError> {
        self.done(&Request::RemovePod { uid: uid.to_owned(), grace_period_seconds }).await
    }

    /// [`Request::Stats`].
    ///
    /// # Errors
    /// As [`AgentClient::call`].
    pub async fn stats(&mut self) -> Result<NodeStats, ClientError> {
        match self.call(&Request::Stats).await? {
            Response::Stats(stats) => Ok(stats),
            other => Err(out_of_turn(&other)),
        }
    }

    /// [`Request::Shutdown`]. The agent answers, then the node goes down.
    ///
    /// # Errors
    /// As [`AgentClient::call`].
    pub async fn shutdown(
        &mut self,
        mode: ShutdownMode,
        grace_period_seconds: u32,
    ) -> Result<(), ClientError> {
        self.done(&Request::Shutdown { mode, grace_period_seconds }).await
    }

    /// [`Request::WatchPods`]: every pod, [`PodEvent::Synced`], then changes.
    ///
    /// # Errors
    /// As [`AgentClient::call`].
    pub async fn watch_pods(mut self) -> Result<PodWatch, ClientError> {
        match self.call(&Request::WatchPods).await? {
            Response::Streaming => Ok(PodWatch { connection: self }),
            other => Err(out_of_turn(&other)),
        }
    }

    /// [`Request::Logs`].
    ///
    /// # Errors
    /// As [`AgentClient::call`]; the pod or container may be unknown.
    pub async fn logs(self, request: LogsRequest) -> Result<StreamOutput, ClientError> {
        let (input, output) = self.stream(Request::Logs(request)).await?;
        Ok(StreamOutput { _input: Some(input), ..output })
    }

    /// [`Request::Exec`].
    ///
    /// # Errors
    /// As [`AgentClient::call`]; the container may not be running.
    pub async fn exec(
        self,
        request: ExecRequest,
    ) -> Result<(StreamInput, StreamOutput), ClientError> {
        self.stream(Request::Exec(request)).await
    }

    /// [`Request::Attach`].
    ///
    /// # Errors
    /// As [`AgentClient::call`]; the container may not be running.
    pub async fn attach(
        self,
        request: AttachRequest,
    ) -> Result<(StreamInput, StreamOutput), ClientError> {
        self.stream(Request::Attach(request)).await
    }

    /// [`Request::PortForward`].
    ///
    /// # Errors
    /// As [`AgentClient::call`]; nothing may listen on the port.
    pub async fn port_forward(
        self,
        request: PortForwardRequest,
    ) -> Result<(StreamInput, StreamOutput), ClientError> {
        self.stream(Request::PortForward(request)).await
    }

    async fn stream(
        mut self,
        request: Request,
    ) -> Result<(StreamInput, StreamOutput), ClientError> {
        match self.call(&request).await? {
            Response::Streaming => {
                let output = StreamOutput { reader: self.reader, _input: None };
                Ok((StreamInput { writer: self.writer }, output))
            }
            other => Err(out_of_turn(&other)),
        }
    }
}

async fn connect(socket: &Path) -> Result<UnixStream, ClientError> {
    UnixStream::connect(socket)
        .await
        .map_err(|source| ClientError::Connect { path: socket.display().to_string(), source })
}

fn out_of_turn(response: &Response) -> ClientError {
    let name = match response {
        Response::Done => "Done",
        Response::Info(_) => "Info",
        Response::Pod(_) => "Pod",
        Response::Streaming => "Streaming",
        Response::Stats(_) => "Stats",
        Response::Error(_) => "Error",
    };
    ClientError::OutOfTurn(name.to_owned())
}

/// A watch over a node's pods. Dropping it ends it.
#[derive(Debug)]
pub struct PodWatch {
    connection: AgentClient,
}

impl PodWatch {
    /// The next event. May be dropped before it is ready: nothing is lost.
    ///
    /// # Errors
    /// [`ClientError::Frame`] when the node is gone.
    pub async fn next(&mut self) -> Result<PodEvent, ClientError> {
        match self.connection.reader.next().await? {
            Response::Pod(event) => Ok(event),
            Response::Error(error) => Err(error.into()),
            other => Err(out_of_turn(&other)),
        }
    }
}

/// What goes to a process: exec's and attach's first half. Dropping it ends the stream, and what an
/// exec has started.
#[derive(Debug)]
pub struct StreamInput {
    writer: FrameWriter<OwnedWriteHalf>,
}

impl StreamInput {
    /// Writes to the process's standard input, and waits while the process does not read.
    ///
    /// # Errors
    /// [`ClientError::Frame`].
    pub async fn stdin(&mut self, bytes: &[u8]) -> Result<(), ClientError> {
        for chunk in bytes.chunks(StreamFrame::MAX_DATA) {
            self.send(&StreamFrame::Stdin(Data(chunk.to_vec()))).await?;
        }
        Ok(())
    }

    /// Ends the process's standard input.
    ///
    /// # Errors
    /// [`ClientError::Frame`].
    pub async fn close_stdin(&mut self) -> Result<(), ClientError> {
        self.send(&StreamFrame::CloseStdin).await
    }

    /// Tells the process's terminal its size, in cells.
    ///
    /// # Errors
    /// [`ClientError::Frame`].
    pub async fn resize(&mut self, width: u16, height: u16) -> Result<(), ClientError> {
        self.send(&StreamFrame::Resize { width, height }).await
    }

    async fn send(&mut self, frame: &StreamFrame) -> Result<(), ClientError> {
        Ok(self.writer.write(frame).await?)
    }
}

/// What comes from a process or a log.
#[derive(Debug)]
pub struct StreamOutput {
    reader: FrameReader<OwnedReadHalf>,
    /// Kept where nothing is sent: its end would tell the agent that nobody listens.
    _input: Option<StreamInput>,
}

impl StreamOutput {
    /// The next frame; [`StreamFrame::End`] or [`StreamFrame::Failed`] is the last. May be dropped
    /// before it is ready: nothing is lost.
    ///
    /// # Errors
    /// [`ClientError::Frame`] when the node is gone.
    pub async fn next(&mut self) -> Result<StreamFrame, ClientError> {
        Ok(self.reader.next().await?)
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::UnixListener;

    use super::*;

    #[tokio::test]
    async fn the_hybrid_handshake_precedes_the_frames() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("vsock.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let agent = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut hello = [0; 13];
            stream.read_exact(&mut hello).await.unwrap();
            assert_eq!(&hello, b"CONNECT 1024\n");
            stream.write_all(b"OK 1073741824\n").await.unwrap();
            let (reader, writer) = stream.into_split();
            let (mut reader, mut writer) = (FrameReader::new(reader), FrameWriter::new(writer));
            assert_eq!(reader.next::<Request>().await.unwrap(), Request::WatchPods);
            writer.write(&Response::Streaming).await.unwrap();
            writer.write(&Response::Pod(PodEvent::Synced)).await.unwrap();
        });
        let client = AgentClient::connect_hybrid(&path).await.unwrap();
        let mut watch = client.watch_pods().await.unwrap();
        assert_eq!(watch.next().await.unwrap(), PodEvent::Synced);
        agent.await.unwrap();
        assert!(matches!(watch.next().await, Err(ClientError::Frame(FrameError::Closed))));
    }

    #[tokio::test]
    async fn a_guest_that_does_not_listen_is_told_from_a_monitor_that_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("vsock.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let monitor = tokio::spawn(async move { drop(listener.accept().await.unwrap()) });
        let early = AgentClient::connect_hybrid(&path).await;
        assert!(matches!(early, Err(ClientError::NotListening { .. })));
        monitor.await.unwrap();
        std::fs::remove_file(&path).unwrap();
        let gone = AgentClient::connect_hybrid(&path).await;
        assert!(matches!(gone, Err(ClientError::Connect { .. })));
    }
}
