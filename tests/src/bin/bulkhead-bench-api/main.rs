//! The control plane's figures, over a real API server with real TLS and a real disk, without
//! microVMs. `make bench-api` prints them.

mod rollout;
mod server;

use std::time::{Duration, Instant};

use anyhow::Context as _;
use bulkhead_tests::api::Watch;
use serde_json::{Value, json};
use server::Server;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const PODS: &str = "/api/v1/namespaces/default/pods";

/// What can be measured; arguments choose some of it.
const PARTS: [&str; 5] = ["idle", "creates", "lists", "watches", "rollout"];
/// Clients that create at the same time, and for how long.
const WRITERS: usize = 64;
const WRITING: Duration = Duration::from_secs(10);
/// Pods in the list.
const LISTED: usize = 10_000;
/// Watchers, changes per second, and for how long.
const WATCHERS: usize = 500;
const CHANGES: usize = 50;
const WATCHING: Duration = Duration::from_secs(10);
/// How long nothing is done.
const IDLE: Duration = Duration::from_secs(30);

fn main() -> anyhow::Result<()> {
    let parts: Vec<String> = std::env::args().skip(1).collect();
    for part in &parts {
        anyhow::ensure!(PARTS.contains(&part.as_str()), "no part {part}; there are {PARTS:?}");
    }
    let wanted = |part: &str| parts.is_empty() || parts.iter().any(|one| one == part);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    println!("| figure | measured | to reach |\n| --- | --- | --- |");
    for part in PARTS.into_iter().filter(|part| wanted(part)) {
        runtime.block_on(measure(part)).with_context(|| part.to_owned())?;
    }
    Ok(())
}

async fn measure(part: &str) -> anyhow::Result<()> {
    match part {
        "idle" => idle().await,
        "creates" => creates().await,
        "lists" => lists().await,
        "watches" => watches().await,
        _ => rollout::measure().await,
    }
}

fn row(figure: &str, measured: &str, goal: &str) {
    println!("| {figure} | {measured} | {goal} |");
}

async fn idle() -> anyhow::Result<()> {
    let server = Server::start().await?;
    row("API ready after start", &format!("{:.2} s", server.started_in.as_secs_f64()), "≤ 0.3 s");
    // What a start leaves to do is not idleness.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let before = server.processor_time()?;
    tokio::time::sleep(IDLE).await;
    let used = (server.processor_time()? - before).as_secs_f64() / IDLE.as_secs_f64();
    let resident = server.resident()? >> 20;
    row("idle control plane: memory", &format!("{resident} MiB"), "≤ 60 MiB");
    row("idle control plane: processor", &format!("{:.2} % of a core", used * 100.0), "≤ 1 %");
    Ok(())
}

async fn creates() -> anyhow::Result<()> {
    let server = Server::start().await?;
    let start = Instant::now();
    let mut writers = JoinSet::new();
    for writer in 0..WRITERS {
        let mut client = server.target.connect().await?;
        writers.spawn(async move {
            let mut count = 0_u32;
            while start.elapsed() < WRITING {
                let map = json!({"metadata": {"name": format!("m-{writer}-{count}")}, "data": {"key": "value"}});
                client.create(MAPS, &map).await?;
                count += 1;
            }
            anyhow::Ok(count)
        });
    }
    let mut total = 0;
    while let Some(count) = writers.join_next().await {
        total += count??;
    }
    let rate = f64::from(total) / start.elapsed().as_secs_f64();
    row(&format!("durable creates, {WRITERS} clients"), &format!("{rate:.0}/s"), "≥ 3,000/s");
    eprintln!("  {total} objects, database of {} MiB", server.database()? >> 20);
    Ok(())
}

/// A pod as workloads have them. It asks for a node that does not exist: nothing schedules it.
fn pod(name: &str) -> Value {
    json!({
        "metadata": {"name": name, "labels": {"app": "bench", "pod-template-hash": "5d4f8c7b9"}},
        "spec": {
            "nodeSelector": {"bench": "none"},
            "containers": [{
                "name": "app",
                "image": "registry.example/app:1.2.3",
                "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}],
                "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}},
                "ports": [{"containerPort": 8080}],
            }],
        },
    })
}

async fn lists() -> anyhow::Result<()> {
    let server = Server::start().await?;
    let mut writers = JoinSet::new();
    for writer in 0..WRITERS {
        let mut client = server.target.connect().await?;
        writers.spawn(async move {
            for number in (writer..LISTED).step_by(WRITERS) {
                client.create(PODS, &pod(&format!("p-{number}"))).await?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(done) = writers.join_next().await {
        done??;
    }
    let mut client = server.target.connect().await?;
    let mut times = Vec::new();
    let mut bytes = 0;
    for _ in 0..5 {
        let start = Instant::now();
        bytes = client.get("/api/v1/pods").await?.len();
        times.push(start.elapsed());
    }
    times.sort_unstable();
    let (median, size) = (times[times.len() / 2].as_secs_f64(), bytes >> 20);
    row(&format!("list of {LISTED} pods, JSON ({size} MiB)"), &format!("{median:.2} s"), "≤ 0.5 s");
    eprintln!("  server: {} MiB", server.resident()? >> 20);
    Ok(())
}

async fn watches() -> anyhow::Result<()> {
    let server = Server::start().await?;
    let origin = Instant::now();
    let (sender, mut receiver) = mpsc::unbounded_channel();
    let mut watchers = JoinSet::new();
    for _ in 0..WATCHERS {
        let watch = server.target.connect().await?.watch("/api/v1/pods?watch=1").await?;
        let sender = sender.clone();
        watchers.spawn(watch_all(watch, origin, sender));
    }
    drop(sender);
    let total = CHANGES * WATCHING.as_secs() as usize;
    let mut client = server.target.connect().await?;
    let mut ticks = tokio::time::interval(Duration::from_secs(1) / CHANGES as u32);
    for _ in 0..total {
        ticks.tick().await;
        let sent = origin.elapsed().as_nanos();
        client.create(PODS, &pod(&format!("p-{sent}"))).await?;
    }
    // The last watcher's delay of each change.
    let mut slowest = std::collections::HashMap::new();
    let mut left = total * WATCHERS;
    while left > 0 {
        let (sent, delay) = receiver.recv().await.context("a watcher ended")?;
        let worst = slowest.entry(sent).or_insert(delay);
        *worst = delay.max(*worst);
        left -= 1;
    }
    let mut delays: Vec<Duration> = slowest.into_values().collect();
    delays.sort_unstable();
    let p99 = delays[delays.len() * 99 / 100].as_secs_f64() * 1000.0;
    let figure = format!("{WATCHERS} watchers, {CHANGES} changes/s: p99 to the last");
    row(&figure, &format!("{p99:.0} ms"), "≤ 100 ms");
    Ok(())
}

/// Tells of each pod that it sees appear, and how long ago that was sent: its name says when.
async fn watch_all(
    mut watch: Watch,
    origin: Instant,
    sender: mpsc::UnboundedSender<(u64, Duration)>,
) -> anyhow::Result<()> {
    loop {
        let line = watch.next().await?;
        let now = origin.elapsed();
        // Most lines of a busy server are of other changes; parsing them would measure this program.
        if !contains(&line, b"\"type\":\"ADDED\"") {
            continue;
        }
        let event: Value = serde_json::from_slice(&line)?;
        let name = event["object"]["metadata"]["name"].as_str().unwrap_or_default();
        let sent: u64 = name.trim_start_matches("p-").parse()?;
        if sender.send((sent, now.saturating_sub(Duration::from_nanos(sent)))).is_err() {
            return Ok(());
        }
    }
}

fn contains(line: &[u8], part: &[u8]) -> bool {
    line.windows(part.len()).any(|window| window == part)
}
