//! Over SPDY, as clients before 1.30 do, and later ones where no WebSocket gets through: a stream for
//! each of what is carried. `v4.channel.k8s.io` ends with a `Status` on the stream for errors, the
//! older ones with a line of text if there was one; the terminal's size comes since v3.

use std::time::Duration;

use bulkhead_agent_protocol::client::{ClientError, StreamInput, StreamOutput};
use bulkhead_spdy::{Encoder, Frame, value};
use serde_json::Value;
use tokio::sync::oneshot;

use super::{Output, size};
use crate::kubelet::endpoint::Target;
use crate::kubelet::spdy::{self, FrameReader, FrameWriter};
use crate::kubelet::upgrade::Switched;

/// How long a client may take to open its streams.
const OPENING: Duration = Duration::from_secs(30);
/// The most that a size of a terminal takes, in bytes.
const MAX_SIZE: usize = 1 << 10;

/// The subprotocols, the preferred first.
pub(super) const PROTOCOLS: &[&str] =
    &["v4.channel.k8s.io", "v3.channel.k8s.io", "v2.channel.k8s.io", "channel.k8s.io"];

/// The streams that a client opens; the one for errors it always does.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted {
    stdin: bool,
    stdout: bool,
    stderr: bool,
    resize: bool,
    /// Whether the end is told as a `Status`.
    structured: bool,
}

impl Wanted {
    /// What a request for `target` asks for in the subprotocol that was agreed upon.
    pub(super) fn of(target: &Target, protocol: &str) -> Self {
        let flag = |a: &str, b: &str| target.flag(a) || target.flag(b);
        let tty = target.flag("tty");
        Self {
            stdin: flag("stdin", "input"),
            stdout: flag("stdout", "output"),
            // A terminal has one output.
            stderr: flag("stderr", "error") && !tty,
            resize: tty && matches!(protocol, "v4.channel.k8s.io" | "v3.channel.k8s.io"),
            structured: protocol == "v4.channel.k8s.io",
        }
    }
}

/// The streams that a client has opened.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Opened {
    error: Option<u32>,
    stdin: Option<u32>,
    stdout: Option<u32>,
    stderr: Option<u32>,
    resize: Option<u32>,
}

impl Opened {
    /// Where a stream of this type belongs; `None` for one that is not wanted or is open.
    fn place(&mut self, wanted: Wanted, kind: &str) -> Option<&mut Option<u32>> {
        let (is_wanted, place) = match kind {
            "error" => (true, &mut self.error),
            "stdin" => (wanted.stdin, &mut self.stdin),
            "stdout" => (wanted.stdout, &mut self.stdout),
            "stderr" => (wanted.stderr, &mut self.stderr),
            "resize" => (wanted.resize, &mut self.resize),
            _ => return None,
        };
        (is_wanted && place.is_none()).then_some(place)
    }

    const fn is_complete(&self, wanted: Wanted) -> bool {
        self.error.is_some()
            && self.stdin.is_some() == wanted.stdin
            && self.stdout.is_some() == wanted.stdout
            && self.stderr.is_some() == wanted.stderr
            && self.resize.is_some() == wanted.resize
    }
}

/// Until either side ends. Each direction waits for its own reader.
pub(super) async fn run(
    connection: Switched,
    wanted: Wanted,
    input: StreamInput,
    output: StreamOutput,
) {
    spdy::serve(connection, |reader, writer| async move {
        let (complete, opened) = oneshot::channel();
        let inward = inward(reader, writer.clone(), wanted, input, complete);
        let outward = async {
            match tokio::time::timeout(OPENING, opened).await {
                Ok(Ok(opened)) => outward(output, &writer, wanted, opened).await,
                _ => tracing::debug!("a SPDY client did not open its streams"),
            }
        };
        tokio::select! {
            () = inward => {}
            () = outward => {}
        }
    })
    .await;
}

/// Takes what the client sends, until it leaves.
async fn inward(
    mut reader: FrameReader,
    writer: FrameWriter,
    wanted: Wanted,
    input: StreamInput,
    complete: oneshot::Sender<Opened>,
) {
    let (mut encoder, mut opened) = (Encoder::default(), Opened::default());
    let mut process = Process { input, sizes: Vec::new() };
    let mut complete = Some(complete);
    while let Some(frame) = reader.next().await {
        let taken = match frame {
            Frame::Open { stream, headers, fin } => {
                let kind = value(&headers, "streamtype").unwrap_or_default();
                let answer = match opened.place(wanted, kind) {
                    Some(place) => {
                        *place = Some(stream);
                        encoder.reply(stream)
                    }
                    None => Encoder::refuse(stream),
                };
                if writer.send(answer).await.is_none() {
                    return;
                }
                if opened.is_complete(wanted)
                    && let Some(complete) = complete.take()
                {
                    // Nobody waits for it when the time for it is over.
                    let _ = complete.send(opened);
                }
                match fin && opened.stdin == Some(stream) {
                    true => process.input.close_stdin().await,
                    false => Ok(()),
                }
            }
            Frame::Data { stream, bytes, fin } if opened.stdin == Some(stream) => {
                process.stdin(&bytes, fin).await
            }
            Frame::Data { stream, bytes, .. } if opened.resize == Some(stream) => {
                process.resize(&bytes).await
            }
            Frame::Reset { stream } if opened.stdin == Some(stream) => {
                process.input.close_stdin().await
            }
            Frame::Ping { id } => match writer.send(Encoder::ping(id)).await {
                Some(()) => Ok(()),
                None => return,
            },
            // What comes on another stream is nobody's.
            Frame::Data { .. } | Frame::Reset { .. } | Frame::GoAway => Ok(()),
        };
        if taken.is_err() {
            // The process has ended: its output says how.
            std::future::pending::<()>().await;
        }
    }
}

/// What a client's data goes to.
struct Process {
    input: StreamInput,
    /// A size that has not come whole.
    sizes: Vec<u8>,
}

impl Process {
    async fn stdin(&mut self, bytes: &[u8], fin: bool) -> Result<(), ClientError> {
        self.input.stdin(bytes).await?;
        if fin { self.input.close_stdin().await } else { Ok(()) }
    }

    async fn resize(&mut self, bytes: &[u8]) -> Result<(), ClientError> {
        for (width, height) in sizes(&mut self.sizes, bytes) {
            self.input.resize(width, height).await?;
        }
        Ok(())
    }
}

/// The sizes in a stream of JSON objects; what has not come whole waits in `rest`.
fn sizes(rest: &mut Vec<u8>, bytes: &[u8]) -> Vec<(u16, u16)> {
    rest.extend_from_slice(bytes);
    let mut objects = serde_json::Deserializer::from_slice(rest).into_iter::<Value>();
    let mut sizes = Vec::new();
    let broken = loop {
        match objects.next() {
            Some(Ok(object)) => sizes.extend(size(&object)),
            Some(Err(error)) => break !error.is_eof(),
            None => break false,
        }
    };
    let taken = objects.byte_offset();
    rest.drain(..taken);
    if broken || rest.len() > MAX_SIZE {
        rest.clear();
    }
    sizes
}

/// Passes on what the process says, to its end.
async fn outward(mut output: StreamOutput, writer: &FrameWriter, wanted: Wanted, opened: Opened) {
    let status = loop {
        let (stream, bytes) = match Output::next(&mut output).await {
            Output::Stdout(bytes) => (opened.stdout, bytes),
            Output::Stderr(bytes) => (opened.stderr, bytes),
            Output::Ended(status) => break status,
        };
        if let Some(stream) = stream
            && writer.data(stream, &bytes).await.is_none()
        {
            return;
        }
    };
    let last = match (wanted.structured, status["message"].as_str()) {
        (true, _) => status.to_string(),
        (false, message) => message.unwrap_or_default().to_owned(),
    };
    for (stream, last) in [(opened.stdout, ""), (opened.stderr, ""), (opened.error, last.as_str())]
    {
        if let Some(stream) = stream
            && writer.finish(stream, last.as_bytes()).await.is_none()
        {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(query: &[&str]) -> Target {
        Target {
            node: None,
            namespace: "n".into(),
            pod: "p".into(),
            container: "c".into(),
            query: query.iter().map(|name| ((*name).to_owned(), "true".to_owned())).collect(),
        }
    }

    #[test]
    fn a_client_opens_what_it_has_asked_for() {
        let wanted = Wanted::of(&target(&["stdout", "stderr"]), "v4.channel.k8s.io");
        let mut opened = Opened::default();
        for (kind, stream) in [("error", 1), ("stdout", 3), ("stderr", 5)] {
            assert!(!opened.is_complete(wanted), "before {kind}");
            *opened.place(wanted, kind).unwrap() = Some(stream);
        }
        assert!(opened.is_complete(wanted));
        for refused in ["stdin", "resize", "stdout", "other"] {
            assert_eq!(opened.place(wanted, refused), None, "{refused}");
        }
        let terminal = ["stdin", "stdout", "stderr", "tty"];
        let wanted = Wanted::of(&target(&terminal), "v3.channel.k8s.io");
        assert!(wanted.resize && !wanted.stderr && !wanted.structured);
        assert!(!Wanted::of(&target(&terminal), "v2.channel.k8s.io").resize);
    }

    #[test]
    fn sizes_come_apart_however_they_are_cut() {
        let text = b"{\"Width\":80,\"Height\":24}\n{\"Width\":132,\"Height\":50}\n";
        for cut in 0..text.len() {
            let mut rest = Vec::new();
            let mut all = sizes(&mut rest, &text[..cut]);
            all.extend(sizes(&mut rest, &text[cut..]));
            assert_eq!(all, [(80, 24), (132, 50)], "{cut}");
        }
        let mut rest = Vec::new();
        assert_eq!(sizes(&mut rest, b"no size"), []);
        assert_eq!(sizes(&mut rest, &[b' '; 2 * MAX_SIZE]), []);
        assert_eq!(sizes(&mut rest, &[b"\"".as_slice(), &[b'x'; MAX_SIZE]].concat()), []);
        assert_eq!(sizes(&mut rest, b"{\"Width\":1,\"Height\":2}"), [(1, 2)]);
    }
}
