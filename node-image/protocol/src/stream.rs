//! Streams: logs, exec, attach.

use serde::{Deserialize, Serialize};

/// A container's log (Kubernetes' `PodLogOptions`). Answered with [`crate::Response::Streaming`],
/// then [`StreamFrame::Stdout`] frames, then [`StreamFrame::End`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LogsRequest {
    /// The pod's uid.
    pub uid: String,
    /// The container's name.
    pub container: String,
    /// Go on as the log grows, until the container ends.
    #[serde(default)]
    pub follow: bool,
    /// The log of the container's previous instance.
    #[serde(default)]
    pub previous: bool,
    /// Prefix every line with its RFC 3339 timestamp.
    #[serde(default)]
    pub timestamps: bool,
    /// Only lines at or after this time, nanoseconds since the Unix epoch.
    #[serde(default)]
    pub since_unix_ns: Option<u64>,
    /// Only the last so many lines.
    #[serde(default)]
    pub tail_lines: Option<u64>,
    /// At most so many bytes.
    #[serde(default)]
    pub limit_bytes: Option<u64>,
}

/// A process to run in a running container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ExecRequest {
    /// The pod's uid.
    pub uid: String,
    /// The container's name.
    pub container: String,
    /// The command and its arguments; no shell.
    pub command: Vec<String>,
    /// Whether stdin is open; else it is `/dev/null`.
    #[serde(default)]
    pub stdin: bool,
    /// Whether it gets a terminal; stdout then carries both outputs.
    #[serde(default)]
    pub tty: bool,
}

/// Attach to the main process of a running container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AttachRequest {
    /// The pod's uid.
    pub uid: String,
    /// The container's name.
    pub container: String,
    /// Whether stdin is wanted (the container must have `stdin: true`).
    #[serde(default)]
    pub stdin: bool,
}

/// A connection to a port in a pod, from inside the pod (its loopback). Data goes to it as
/// [`StreamFrame::Stdin`], comes from it as [`StreamFrame::Stdout`]; [`StreamFrame::End`] says that
/// it sends no more.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PortForwardRequest {
    /// The pod's uid.
    pub uid: String,
    /// The TCP port.
    pub port: u16,
}

/// One frame of an open stream. Data frames carry at most [`StreamFrame::MAX_DATA`] bytes,
/// base64 in JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum StreamFrame {
    /// Host to agent: bytes for the process.
    Stdin(Data),
    /// Host to agent: no more bytes for the process.
    CloseStdin,
    /// Host to agent: the terminal's size in cells.
    Resize {
        /// Columns.
        width: u16,
        /// Rows.
        height: u16,
    },
    /// Agent to host: bytes of standard output, of the terminal, or of a log.
    Stdout(Data),
    /// Agent to host: bytes of standard error.
    Stderr(Data),
    /// Agent to host, last: the process ended, with this exit code (128+n for signal n); 0 at a
    /// log's end.
    End {
        /// The exit code.
        code: i32,
    },
    /// Agent to host, last: the stream could not go on.
    Failed {
        /// One line that says why.
        message: String,
    },
}

impl StreamFrame {
    /// The most bytes that one data frame carries.
    pub const MAX_DATA: usize = 64 << 10;
}

/// Bytes, base64 (RFC 4648 §4) in JSON.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Data(pub Vec<u8>);

impl Serialize for Data {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use base64::Engine as _;
        serializer.serialize_str(&base64::engine::general_purpose::STANDARD.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Data {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        use base64::Engine as _;
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        base64::engine::general_purpose::STANDARD
            .decode(text.as_bytes())
            .map(Self)
            .map_err(serde::de::Error::custom)
    }
}
