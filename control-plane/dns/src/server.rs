//! Carries questions and answers, over UDP and TCP.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::{Name, Record, RecordType};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use crate::message::{MAX_QUESTION, Question, Request, Transport};
use crate::zone::{Answer, Outcome};
use crate::{Forwarder, Index, Limits, Permit, Zone};

/// Questions under way to other servers: of a client, of a node's clients, of all.
const FORWARDS: (usize, usize, usize) = (64, 256, 1024);
/// TCP connections, likewise.
const CONNECTIONS: (usize, usize, usize) = (16, 64, 256);

/// How long a TCP client may take to send a question, or to take an answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long to wait when the system has no means left for another connection.
const RETRY: Duration = Duration::from_millis(100);

/// What answers are made of.
#[derive(Debug)]
pub struct Serve {
    /// The cluster's names.
    pub zone: Zone,
    /// What there is in it.
    pub index: Arc<RwLock<Index>>,
    /// Whether the index has all that there is.
    pub synced: watch::Receiver<bool>,
    /// Asks for all other names.
    pub forwarder: Forwarder,
}

/// Answers questions.
#[derive(Debug)]
pub struct Server {
    serve: Serve,
    forwards: Arc<Limits>,
    connections: Arc<Limits>,
}

/// What becomes of a question.
enum Reply {
    /// These bytes answer it.
    Now(Vec<u8>),
    /// Others know.
    Later(Box<Pending>),
    Never,
}

/// A question whose answer others know.
struct Pending {
    question: Question,
    /// Aliases that lead to `name`.
    so_far: Vec<Record>,
    name: Name,
    _permit: Permit,
}

impl Server {
    /// A server that listens nowhere yet.
    #[must_use]
    pub fn new(serve: Serve) -> Arc<Self> {
        let limits = |(client, network, all)| Limits::new(client, network, all);
        Arc::new(Self { serve, forwards: limits(FORWARDS), connections: limits(CONNECTIONS) })
    }

    /// Answers what comes to `socket`, for ever.
    pub async fn udp(self: Arc<Self>, socket: UdpSocket) {
        let socket = Arc::new(socket);
        let mut buffer = vec![0; MAX_QUESTION];
        loop {
            let (length, client) = match socket.recv_from(&mut buffer).await {
                Ok(received) => received,
                Err(error) => {
                    tracing::warn!("receiving: {error}");
                    sleep(RETRY).await;
                    continue;
                }
            };
            let bytes = buffer.get(..length).unwrap_or_default();
            match self.reply(bytes, Transport::Udp, client.ip()) {
                Reply::Now(answer) => send(&socket, &answer, client),
                Reply::Later(pending) => {
                    let (this, socket) = (Arc::clone(&self), Arc::clone(&socket));
                    tokio::spawn(async move {
                        if let Some(answer) = this.finish(*pending).await {
                            send(&socket, &answer, client);
                        }
                    });
                }
                Reply::Never => {}
            }
        }
    }

    /// Answers what comes over connections to `listener`, for ever.
    pub async fn tcp(self: Arc<Self>, listener: TcpListener) {
        loop {
            let (stream, client) = match listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!("accepting: {error}");
                    sleep(RETRY).await;
                    continue;
                }
            };
            // Dropped otherwise, and so closed.
            if let Some(permit) = self.connections.acquire(client.ip()) {
                let this = Arc::clone(&self);
                tokio::spawn(async move {
                    let _permit = permit;
                    // It ends when the client ends it, or is too slow.
                    let _ = this.connection(stream, client.ip()).await;
                });
            }
        }
    }

    /// One question after the other (RFC 7766).
    async fn connection(&self, mut stream: TcpStream, client: IpAddr) -> std::io::Result<()> {
        stream.set_nodelay(true)?;
        loop {
            let mut bytes = Vec::new();
            let question = async {
                let length = usize::from(stream.read_u16().await?);
                if length > MAX_QUESTION {
                    return Err(std::io::ErrorKind::InvalidData.into());
                }
                bytes.resize(length, 0);
                stream.read_exact(&mut bytes).await
            };
            timeout(PATIENCE, question).await??;
            let answer = match self.reply(&bytes, Transport::Tcp, client) {
                Reply::Now(answer) => Some(answer),
                Reply::Later(pending) => self.finish(*pending).await,
                Reply::Never => None,
            };
            let Some(answer) = answer else { return Ok(()) };
            let Ok(length) = u16::try_from(answer.len()) else { return Ok(()) };
            let message = [&length.to_be_bytes()[..], &answer].concat();
            timeout(PATIENCE, stream.write_all(&message)).await??;
        }
    }

    fn reply(&self, bytes: &[u8], transport: Transport, client: IpAddr) -> Reply {
        let question = match Request::parse(bytes, transport) {
            Request::Question(question) => question,
            Request::Refused(answer) => return Reply::Now(answer),
            Request::Ignored => return Reply::Never,
        };
        let now = |answer, authoritative| {
            question.answer(answer, authoritative).map_or(Reply::Never, Reply::Now)
        };
        let fail = |code| now(Answer { code, ..Answer::default() }, false);
        let Serve { zone, index, synced, .. } = &self.serve;
        if zone.is_inside(question.query.name()) && !*synced.borrow() {
            return fail(ResponseCode::ServFail);
        }
        let outcome = {
            let index = index.read().unwrap_or_else(PoisonError::into_inner);
            zone.answer(&index, &question.query)
        };
        match outcome {
            Outcome::Answer(answer) => now(answer, true),
            Outcome::Outside(..) if !question.recursion => fail(ResponseCode::Refused),
            // Others would have to be asked for everything there is (RFC 8482).
            Outcome::Outside(..) if question.query.query_type() == RecordType::ANY => {
                fail(ResponseCode::NotImp)
            }
            Outcome::Outside(so_far, name) => match self.forwards.acquire(client) {
                Some(permit) => {
                    Reply::Later(Box::new(Pending { question, so_far, name, _permit: permit }))
                }
                None => fail(ResponseCode::Refused),
            },
        }
    }

    /// The answer once others have said what they know.
    async fn finish(&self, pending: Pending) -> Option<Vec<u8>> {
        let Pending { question, so_far: mut answers, name, _permit } = pending;
        let mut answer = self.serve.forwarder.ask(name, question.query.query_type()).await;
        answers.append(&mut answer.answers);
        answer.answers = answers;
        question.answer(answer, false)
    }
}

/// What does not go at once is lost, as datagrams may be: a client asks again.
fn send(socket: &UdpSocket, answer: &[u8], client: SocketAddr) {
    if let Err(error) = socket.try_send_to(answer, client) {
        tracing::debug!("answering {client}: {error}");
    }
}
