//! How many questions about a cluster's names the name server answers on one core, and how long an
//! answer takes at 20,000 a second, over UDP on loopback:
//!
//! `cargo run --release -p bulkhead-dns --example bench [-- --services N --seconds N]`
//!
//! The server runs on one thread, as it does in its own process; the clients run on another. Both
//! figures are of a cluster with so many Services, each with ten endpoints, whose names are asked
//! for in turn.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::{Arc, RwLock};
use std::time::{Duration, Instant};

use bulkhead_dns::{Forwarder, Index, Serve, Server, Upstreams, Zone};
use clap::Parser;
use hickory_proto::op::{Message, Query};
use hickory_proto::rr::{Name, RecordType};
use rustix::thread::{CpuSet, gettid, sched_getaffinity, sched_setaffinity};
use serde_json::json;
use tokio::sync::watch;

/// The rate at which latency is measured, in questions per second: the figure to reach.
const RATE: f64 = 20_000.0;

/// How many questions are under way when it is measured how many can be answered.
const WINDOW: usize = 64;

/// Endpoints of a Service.
const ENDPOINTS: u32 = 10;

#[derive(Debug, Parser)]
#[command(about = "Measures answers per second on one core, and their latency")]
struct Arguments {
    /// How many Services there are
    #[arg(long, default_value_t = 5000)]
    services: u32,
    /// How long each measurement takes
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let (address, thread) = serve(arguments.services)?;
    pin(1);
    let questions = questions(arguments.services)?;
    let duration = Duration::from_secs_f64(arguments.seconds);
    // So that every name was asked for once.
    flood(address, &questions, duration / 5)?;
    let busy = on_cpu(&thread)?;
    let began = Instant::now();
    let answers = flood(address, &questions, duration)?;
    let elapsed = began.elapsed().as_secs_f64();
    let busy = (on_cpu(&thread)? - busy).as_secs_f64();
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
    let answers = answers as f64;
    let mut latencies = paced(address, &questions, duration)?;
    latencies.sort_unstable();
    let percentile = |percent: usize| {
        let at = (latencies.len() * percent / 100).min(latencies.len().saturating_sub(1));
        latencies.get(at).map_or(f64::NAN, |latency| latency.as_secs_f64() * 1e3)
    };
    let (per_second, per_core) = (answers / elapsed, answers / busy);
    let (p50, p99) = (percentile(50), percentile(99));
    if arguments.json {
        let figures = json!({
            "services": arguments.services,
            "answersPerSecond": per_second.round(),
            "answersPerCoreSecond": per_core.round(),
            "p50Milliseconds": p50,
            "p99Milliseconds": p99,
        });
        println!("{figures}");
    } else {
        println!("{} Services with {ENDPOINTS} endpoints each", arguments.services);
        println!("answers per second, one core      {per_second:>10.0}");
        println!("answers per second of CPU         {per_core:>10.0}");
        println!("latency at {RATE:.0}/s: median     {p50:>10.3} ms");
        println!("latency at {RATE:.0}/s: p99        {p99:>10.3} ms");
    }
    Ok(())
}

/// Starts the server with a cluster of so many Services; where it is, and its thread's directory.
fn serve(services: u32) -> anyhow::Result<(SocketAddr, String)> {
    let mut index = Index::default();
    index.set_namespace(&json!({"metadata": {"name": "default"}}));
    for n in 0..services {
        // Every second one is headless, so that both kinds of answer count.
        let address = Ipv4Addr::from_bits(0x0a60_0100 + n).to_string();
        let ip = if n % 2 == 0 { address.as_str() } else { "None" };
        index.set_service(&json!({
            "metadata": {"namespace": "default", "name": format!("service-{n}")},
            "spec": {"clusterIP": ip, "ports": [{"name": "http", "port": 80}]},
        }));
        let endpoint = |m: u32| {
            let address = Ipv4Addr::from_bits(0x0af4_0000 + n * ENDPOINTS + m);
            json!({"addresses": [address.to_string()], "conditions": {"ready": true}})
        };
        index.set_slice(&json!({
            "metadata": {"namespace": "default", "name": format!("service-{n}-x"),
                         "labels": {"kubernetes.io/service-name": format!("service-{n}")}},
            "ports": [{"name": "http", "port": 8080}],
            "endpoints": (0..ENDPOINTS).map(endpoint).collect::<Vec<_>>(),
        }));
    }
    let zone = Zone::new(&Name::from_ascii("cluster.local.")?, [10, 96, 0, 10].into(), Vec::new());
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    let address = socket.local_addr()?;
    socket.set_nonblocking(true)?;
    let (told, thread) = std::sync::mpsc::channel();
    std::thread::spawn(move || -> anyhow::Result<()> {
        pin(0);
        told.send(format!("/proc/self/task/{}", gettid().as_raw_nonzero()))?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let (_synced, synced) = watch::channel(true);
            let server = Server::new(Serve {
                zone,
                index: Arc::new(RwLock::new(index)),
                synced,
                forwarder: Forwarder::new(Upstreams::Servers(Vec::new()), Vec::new()),
            });
            server.udp(tokio::net::UdpSocket::from_std(socket)?).await;
            Ok(())
        })
    });
    Ok((address, thread.recv()?))
}

/// Keeps this thread on one of the cores that it may use, so that none disturbs the other.
fn pin(nth: usize) {
    let Ok(allowed) = sched_getaffinity(None) else { return };
    let cores: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|core| allowed.is_set(*core)).collect();
    if let Some(core) = cores.get(nth % cores.len().max(1)) {
        let mut set = CpuSet::new();
        set.set(*core);
        if let Err(error) = sched_setaffinity(None, &set) {
            eprintln!("not pinned to a core: {error}");
        }
    }
}

/// How long a thread has been on a core.
fn on_cpu(thread: &str) -> anyhow::Result<Duration> {
    let text = std::fs::read_to_string(format!("{thread}/schedstat"))?;
    let nanoseconds = text.split(' ').next().unwrap_or_default();
    Ok(Duration::from_nanos(nanoseconds.parse()?))
}

/// One per Service: addresses mostly, and every tenth a named port.
fn questions(services: u32) -> anyhow::Result<Vec<Vec<u8>>> {
    (0..services)
        .map(|n| {
            let (prefix, kind) =
                if n % 10 == 0 { ("_http._tcp.", RecordType::SRV) } else { ("", RecordType::A) };
            let name = format!("{prefix}service-{n}.default.svc.cluster.local.");
            let mut message = Message::query();
            message.metadata.recursion_desired = true;
            message.add_query(Query::query(Name::from_ascii(name)?, kind));
            Ok(message.to_vec()?)
        })
        .collect()
}

fn client(address: SocketAddr) -> anyhow::Result<UdpSocket> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    socket.connect(address)?;
    socket.set_read_timeout(Some(Duration::from_secs(1)))?;
    Ok(socket)
}

/// Keeps so many questions under way; how many were answered.
fn flood(address: SocketAddr, questions: &[Vec<u8>], duration: Duration) -> anyhow::Result<u64> {
    let socket = client(address)?;
    let mut questions = questions.iter().cycle();
    let mut send = || -> anyhow::Result<()> {
        if let Some(question) = questions.next() {
            socket.send(question)?;
        }
        Ok(())
    };
    let mut buffer = [0; 2048];
    for _ in 0..WINDOW {
        send()?;
    }
    let (began, mut answers) = (Instant::now(), 0);
    while began.elapsed() < duration {
        let length = socket.recv(&mut buffer)?;
        anyhow::ensure!(is_success(buffer.get(..length).unwrap_or_default()), "no answer");
        answers += 1;
        send()?;
    }
    Ok(answers)
}

/// Without an error, and with an answer.
fn is_success(answer: &[u8]) -> bool {
    matches!(*answer, [_, _, _, flags, _, _, an, swer, ..] if flags & 0xf == 0 && (an, swer) != (0, 0))
}

/// Asks at the rate, whatever the answers do; how long each took from when it was due.
fn paced(
    address: SocketAddr,
    questions: &[Vec<u8>],
    duration: Duration,
) -> anyhow::Result<Vec<Duration>> {
    let socket = client(address)?;
    let reader = socket.try_clone()?;
    let (began, interval) = (Instant::now(), Duration::from_secs_f64(1.0 / RATE));
    let due = move |n: u32| began + interval * n;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "positive, small")]
    let total = (duration.as_secs_f64() * RATE) as u32;
    // The id says which of the last 65,536 questions an answer is for.
    let reading = std::thread::spawn(move || -> Vec<Duration> {
        pin(1);
        let mut latencies = Vec::new();
        let (mut buffer, mut last) = ([0; 2048], 0_u32);
        while latencies.len() < total as usize {
            // None for a second: the rest is lost.
            let Ok(length) = reader.recv(&mut buffer) else { break };
            let now = Instant::now();
            let [high, low, ..] = buffer[..length] else { continue };
            let id = u32::from(u16::from_be_bytes([high, low]));
            let round = last & !0xffff;
            let n = match round + id {
                n if n + 0x8000 < last => n + 0x1_0000,
                n if n > last + 0x8000 => n.saturating_sub(0x1_0000),
                n => n,
            };
            last = last.max(n);
            latencies.push(now.saturating_duration_since(due(n)));
        }
        latencies
    });
    let mut question = Vec::new();
    for (n, template) in (0..total).zip(questions.iter().cycle()) {
        while Instant::now() < due(n) {
            std::thread::yield_now();
        }
        question.clone_from(template);
        #[expect(clippy::cast_possible_truncation, reason = "the number modulo 2^16")]
        question.splice(..2, (n as u16).to_be_bytes());
        socket.send(&question)?;
    }
    let latencies = reading.join().map_err(|_| anyhow::anyhow!("the reader ended"))?;
    let lost = total as usize - latencies.len();
    anyhow::ensure!(lost * 1000 <= total as usize, "{lost} of {total} questions had no answer");
    Ok(latencies)
}
