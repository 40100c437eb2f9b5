//! Carrying a process's streams over a connection. Nothing is read that cannot be passed on, so
//! that each side waits for the other; buffers are a chunk per direction.

use std::{io, rc::Rc, time::Duration};

use bulkhead_agent_protocol::{
    StreamFrame,
    frame::FrameError,
    frame_io::{FrameReader, FrameWriter},
    stream::Data,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpStream,
    sync::{Mutex, broadcast::error::RecvError},
    time::timeout,
};

use super::{AsyncFile, ContainerIo, ProcessIo};
use crate::{logs::Stream, runtime::children::Child};

/// How long output is awaited after its process has ended: a process left in the background may
/// hold the pipe open for ever.
const DRAIN: Duration = Duration::from_millis(200);

/// Reads one output to its end; `ended` bounds the wait for more.
async fn pump<W: AsyncWrite + Unpin>(
    from: Option<&AsyncFile>,
    stream: Stream,
    to: &Mutex<FrameWriter<W>>,
    ended: &mut tokio::sync::watch::Receiver<bool>,
) -> Result<(), FrameError> {
    let Some(from) = from else { return Ok(()) };
    let mut buffer = vec![0; 16 << 10];
    loop {
        let over = *ended.borrow();
        let read = if over {
            match timeout(DRAIN, from.read(&mut buffer)).await {
                Ok(read) => read?,
                Err(_) => return Ok(()),
            }
        } else {
            tokio::select! {
                read = from.read(&mut buffer) => read?,
                _ = ended.changed() => continue,
            }
        };
        let Some(data) = buffer.get(..read).filter(|data| !data.is_empty()) else {
            return Ok(());
        };
        to.lock().await.write(&output(stream, data)).await?;
    }
}

fn output(stream: Stream, data: &[u8]) -> StreamFrame {
    match stream {
        Stream::Stdout => StreamFrame::Stdout(Data(data.to_vec())),
        Stream::Stderr => StreamFrame::Stderr(Data(data.to_vec())),
    }
}

/// Passes input on until the host is gone, and returns how it went.
async fn feed<R: AsyncRead + Unpin>(
    reader: &mut FrameReader<R>,
    mut stdin: Option<Rc<AsyncFile>>,
    terminal: Option<Rc<AsyncFile>>,
) -> FrameError {
    loop {
        match reader.next::<StreamFrame>().await {
            Ok(StreamFrame::Stdin(Data(bytes))) => {
                if let Some(open) = &stdin
                    && open.write_all(&bytes).await.is_err()
                {
                    // The process has closed its input.
                    stdin = None;
                }
            }
            Ok(StreamFrame::CloseStdin) => {
                if let (Some(_), Some(terminal)) = (stdin.take(), &terminal) {
                    // A terminal's end of input is a character; without a reader it is lost.
                    let _ = terminal.write_all(&[4]).await;
                }
            }
            Ok(StreamFrame::Resize { width, height }) => {
                if let Some(terminal) = &terminal {
                    // The process may just have closed it.
                    let _ = terminal.resize(width, height);
                }
            }
            Ok(_) => return io::Error::from(io::ErrorKind::InvalidData).into(),
            Err(error) => return error,
        }
    }
}

/// Carries an exec'd process to its end.
///
/// # Errors
/// When the host is gone; the caller then kills the process.
pub(crate) async fn exec<R, W>(
    reader: &mut FrameReader<R>,
    writer: FrameWriter<W>,
    io: ProcessIo,
    child: &Child,
) -> Result<(), FrameError>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let writer = Mutex::new(writer);
    let ended = tokio::sync::watch::Sender::new(false);
    let (mut out_ended, mut err_ended) = (ended.subscribe(), ended.subscribe());
    let ProcessIo { stdin, stdout, stderr } = io;
    let terminal = stderr.is_none().then(|| Rc::clone(&stdout));
    let finish = async {
        let code = async {
            let code = child.wait().await;
            ended.send_replace(true);
            Ok::<_, FrameError>(code?)
        };
        let (code, (), ()) = tokio::try_join!(
            code,
            pump(Some(&stdout), Stream::Stdout, &writer, &mut out_ended),
            pump(stderr.as_deref(), Stream::Stderr, &writer, &mut err_ended),
        )?;
        writer.lock().await.write(&StreamFrame::End { code }).await
    };
    tokio::select! {
        gone = feed(reader, stdin, terminal) => Err(gone),
        finished = finish => finished,
    }
}

/// Attaches to a container's main process until it ends.
///
/// # Errors
/// When the host is gone.
pub(crate) async fn attach<R, W>(
    reader: &mut FrameReader<R>,
    mut writer: FrameWriter<W>,
    container: Rc<ContainerIo>,
    with_stdin: bool,
) -> Result<(), FrameError>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let mut receiver = container.subscribe();
    let stdin = container.stdin.borrow().clone();
    let terminal = stdin.clone().filter(|_| container.terminal);
    let wanted = stdin.filter(|_| with_stdin);
    if container.stdin_once && wanted.is_some() {
        // This attachment's end is the input's: the container's own hold is given up.
        container.stdin.borrow_mut().take();
    }
    // Its end is seen by its streams being gone: they must not be held here.
    drop(container);
    let outputs = async {
        loop {
            match receiver.recv().await {
                Ok((stream, data)) => writer.write(&output(stream, &data)).await?,
                Err(RecvError::Lagged(lost)) => {
                    let message = format!("{lost} chunks of output were missed: read the log");
                    return writer.write(&StreamFrame::Failed { message }).await;
                }
                Err(RecvError::Closed) => {
                    return writer.write(&StreamFrame::End { code: 0 }).await;
                }
            }
        }
    };
    tokio::select! {
        gone = feed(reader, wanted, terminal) => Err(gone),
        finished = outputs => finished,
    }
}

/// Carries a connection's bytes both ways until the connection or the host has ended.
///
/// # Errors
/// When the host is gone.
pub(crate) async fn forward<R, W>(
    reader: &mut FrameReader<R>,
    mut writer: FrameWriter<W>,
    connection: TcpStream,
) -> Result<(), FrameError>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let (mut from, mut to) = connection.into_split();
    let inward = async {
        loop {
            match reader.next::<StreamFrame>().await? {
                StreamFrame::Stdin(Data(bytes)) => {
                    if to.write_all(&bytes).await.is_err() {
                        // It takes no more, but what it still says is passed on.
                        return std::future::pending().await;
                    }
                }
                // It may have closed it already.
                StreamFrame::CloseStdin => drop(to.shutdown().await),
                _ => return Err(io::Error::from(io::ErrorKind::InvalidData).into()),
            }
        }
    };
    let outward = async {
        let mut buffer = vec![0; 16 << 10];
        loop {
            let last = match from.read(&mut buffer).await {
                Ok(0) => StreamFrame::End { code: 0 },
                Ok(read) => {
                    let data = buffer.get(..read).unwrap_or_default();
                    writer.write(&output(Stream::Stdout, data)).await?;
                    continue;
                }
                Err(error) => StreamFrame::Failed { message: error.to_string() },
            };
            return writer.write(&last).await;
        }
    };
    tokio::select! {
        gone = inward => gone,
        finished = outward => finished,
    }
}

/// Copies a container's outputs to `sink` until both have ended.
pub(crate) async fn collect(io: &ProcessIo, sink: &dyn Fn(Stream, &[u8])) -> io::Result<()> {
    let copy = async |from: &AsyncFile, stream| -> io::Result<()> {
        let mut buffer = vec![0; 16 << 10];
        loop {
            let read = from.read(&mut buffer).await?;
            match buffer.get(..read) {
                Some([]) | None => return Ok(()),
                Some(data) => sink(stream, data),
            }
        }
    };
    let stderr = async {
        match &io.stderr {
            Some(stderr) => copy(stderr, Stream::Stderr).await,
            None => Ok(()),
        }
    };
    tokio::try_join!(copy(&io.stdout, Stream::Stdout), stderr).map(|_| ())
}
