//! Clients that ask a web server again and again, each time over a new connection, and remember what
//! went wrong.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::until;

/// How long one request may take: the loss of a connection's first packet costs a second or three.
const PATIENCE: Duration = Duration::from_secs(30);

/// The least time that a client rests between requests. Where an answer takes longer it rests as long as
/// that: it is to meet every moment, not to use up the machine.
const REST: Duration = Duration::from_millis(100);

/// Clients that ask at the same time.
const CLIENTS: usize = 3;

/// A request without its answer.
#[derive(Debug, Clone)]
pub struct Failure {
    /// When it began.
    pub begun: Instant,
    /// Whether the connection was open.
    pub connected: bool,
    /// What went wrong.
    pub why: String,
}

#[derive(Debug, Default)]
struct Record {
    ended: AtomicBool,
    answered: AtomicUsize,
    failures: Mutex<Vec<Failure>>,
}

/// Requests under way, ended when dropped.
pub struct Load {
    record: Arc<Record>,
    clients: Vec<JoinHandle<()>>,
}

impl Load {
    /// Asks `address` for `/` as `host`; an answer is one of 200 that ends with `page`.
    #[must_use]
    pub fn on(address: SocketAddr, host: &str, page: &str) -> Self {
        let record = Arc::new(Record::default());
        let client = |_| {
            let (record, host, page) = (Arc::clone(&record), host.to_owned(), page.to_owned());
            std::thread::spawn(move || {
                while !record.ended.load(Ordering::Relaxed) {
                    let asked = Instant::now();
                    match request(address, &host, &page) {
                        Ok(()) => drop(record.answered.fetch_add(1, Ordering::Relaxed)),
                        Err(failure) => record.failures.lock().unwrap().push(failure),
                    }
                    std::thread::sleep(asked.elapsed().clamp(REST, PATIENCE));
                }
            })
        };
        let clients = (0..CLIENTS).map(client).collect();
        Self { record, clients }
    }

    /// Waits until so many more requests have been answered.
    ///
    /// # Panics
    /// If they are not within four minutes.
    #[track_caller]
    pub fn answers(&self, more: usize) {
        let answered = || self.record.answered.load(Ordering::Relaxed);
        let enough = answered() + more;
        until("requests are answered", Duration::from_secs(240), || match answered() {
            now if now >= enough => Ok(()),
            now => Err(format!("{now} of {enough}: {:?}", self.failures())),
        });
    }

    /// What has gone wrong so far.
    #[must_use]
    pub fn failures(&self) -> Vec<Failure> {
        self.record.failures.lock().unwrap().clone()
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.record.ended.store(true, Ordering::Relaxed);
        for client in self.clients.drain(..) {
            drop(client.join());
        }
    }
}

fn request(address: SocketAddr, host: &str, page: &str) -> Result<(), Failure> {
    let begun = Instant::now();
    let failure = |connected, why: String| Failure { begun, connected, why };
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)
        .map_err(|error| failure(false, error.to_string()))?;
    let mut ask = || {
        stream.set_read_timeout(Some(PATIENCE))?;
        write!(stream, "GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        Ok(String::from_utf8_lossy(&answer).into_owned())
    };
    let answer = ask().map_err(|error: std::io::Error| failure(true, error.to_string()))?;
    if answer.starts_with("HTTP/1.1 200 ") && answer.ends_with(page) {
        Ok(())
    } else {
        Err(failure(true, answer))
    }
}
