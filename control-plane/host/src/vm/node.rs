//! The supervision of one node: its monitor is started, adopted, watched, restarted and ended.
//!
//! ```text
//!            wanted                  agent answers
//! Stopped ───────────▶ Starting ───────────────────▶ Up
//!    ▲                  ▲     │ does not start         │ monitor ended, agent silent
//!    │      back-off    │     ▼                        │
//!    └── not wanted ── Down ◀──────────────────────────┘   (a settled guest's reset: Starting)
//! ```

use std::collections::HashSet;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use bulkhead_agent_protocol::client::{AgentClient, ClientError};
use bulkhead_agent_protocol::{AttachRange, NodeConfig, NodeInfo, ShutdownMode};
use bulkhead_host_api::{ApiError, ClusterName, NodeShape};
use bulkhead_network::address::GATEWAY;
use bulkhead_network::{Network, NodeLink};
use tokio::sync::{Mutex, watch};
use tokio::time::{Instant, sleep, timeout};

use super::backoff::Backoff;
use super::monitor::{self, End, MTU};
use super::ranges::Ranges;
use super::socket::SocketDir;
use crate::daemon::Host;
use crate::fault;
use crate::process::Process;
use crate::state::RangeRow;

/// How long a guest may take from its start to an answer of its agent. Emulated hosts are slow.
const BOOT_LIMIT: Duration = Duration::from_secs(120);

/// How often a booting guest is asked whether its agent listens.
const BOOT_POLL: Duration = Duration::from_millis(5);

/// How often a running agent is asked whether it is there, and how long it may take.
const PROBE_PERIOD: Duration = Duration::from_secs(10);

/// So many probes in a row without an answer end the node.
const PROBE_FAILURES: u32 = 3;

/// How long the monitor of a node that was asked to power off may take beyond its pods' grace.
const POWER_OFF_LIMIT: Duration = Duration::from_secs(10);

/// The longest that pods may take to end when their node is stopped, in seconds.
const POD_GRACE: u32 = 30;

/// Memory that a node keeps for its kernel and agent, in bytes.
const RESERVED_MEMORY: u64 = 32 << 20;

/// What does not change while a node exists.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) cluster: ClusterName,
    pub(crate) name: String,
    pub(crate) link: NodeLink,
    pub(crate) shape: NodeShape,
    pub(crate) dir: PathBuf,
}

/// A node's state.
#[derive(Debug, Clone)]
pub(crate) enum NodeState {
    /// Not running, and not meant to.
    Stopped,
    /// Its monitor runs; its agent does not answer yet.
    Starting,
    /// Its agent answers.
    Up(Arc<Up>),
    /// It ended or does not start, for this reason; it will be tried again.
    Down(String),
}

/// One run of a node, from boot to end.
#[derive(Debug)]
pub(crate) struct Up {
    pub(crate) info: NodeInfo,
    sockets: SocketDir,
    since: Instant,
}

impl Up {
    /// A new connection to the agent.
    pub(crate) async fn agent(&self) -> Result<AgentClient, ClientError> {
        AgentClient::connect_hybrid(&self.sockets.path(monitor::VSOCK_SOCKET)).await
    }

    /// What pods may use, in bytes.
    pub(crate) const fn allocatable_memory(&self) -> u64 {
        self.info.memory.saturating_sub(RESERVED_MEMORY)
    }
}

/// What is wanted of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wanted {
    Run,
    /// Pods get their grace period.
    Stop,
    /// At once.
    Kill,
}

/// The layers on the node's `images` disk in this run.
#[derive(Debug, Default)]
struct Layers {
    ranges: Ranges,
    /// Those that monitor and agent are known to have.
    attached: HashSet<String>,
}

/// A supervised node.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) plan: Plan,
    host: Arc<Host>,
    network: Network,
    state: watch::Sender<NodeState>,
    wanted: watch::Sender<Wanted>,
    layers: Mutex<Layers>,
    /// 0 while there is none.
    pid: AtomicU32,
    task: std::sync::Mutex<Option<tokio::task::JoinHandle<()>>>,
}

impl Node {
    /// Takes a node under supervision, with the monitor that an earlier daemon left running.
    pub(crate) fn start(
        plan: Plan,
        host: Arc<Host>,
        network: Network,
        adopted: Option<Process>,
    ) -> Arc<Self> {
        let node = Arc::new(Self {
            plan,
            host,
            network,
            state: watch::Sender::new(NodeState::Starting),
            wanted: watch::Sender::new(Wanted::Run),
            layers: Mutex::default(),
            pid: AtomicU32::new(0),
            task: std::sync::Mutex::default(),
        });
        let task = tokio::spawn(Arc::clone(&node).supervise(adopted));
        *node.task.lock().unwrap_or_else(PoisonError::into_inner) = Some(task);
        node
    }

    pub(crate) fn state(&self) -> watch::Receiver<NodeState> {
        self.state.subscribe()
    }

    /// The monitor's process id, while it runs.
    pub(crate) fn pid(&self) -> Option<u32> {
        Some(self.pid.load(Ordering::Relaxed)).filter(|pid| *pid != 0)
    }

    /// Where the guest's console goes.
    pub(crate) fn console(&self) -> PathBuf {
        self.plan.dir.join(monitor::CONSOLE)
    }

    /// What the guest said last on its console, if anything.
    pub(crate) fn last_words(&self) -> Option<String> {
        monitor::last_words(&self.console())
    }

    /// Ends the node and its supervision; pods get their grace period if `gently`.
    pub(crate) async fn stop(&self, gently: bool) {
        self.wanted.send_replace(if gently { Wanted::Stop } else { Wanted::Kill });
        let task = self.task.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(task) = task {
            drop(task.await);
        }
    }

    async fn supervise(self: Arc<Self>, adopted: Option<Process>) {
        let mut wanted = self.wanted.subscribe();
        let mut left = adopted;
        let mut backoff = Backoff::default();
        while *wanted.borrow() == Wanted::Run {
            let end = self.run_once(left.take(), &mut wanted).await;
            self.pid.store(0, Ordering::Relaxed);
            let up = self.up_for();
            let (message, wait) = match end {
                End::Asked => break,
                End::Reset => match backoff.reset(up) {
                    Some(wait) if up.is_zero() => {
                        ("the guest reset itself before its agent answered".to_owned(), wait)
                    }
                    Some(wait) => {
                        (format!("the guest reset itself {} s after boot", up.as_secs()), wait)
                    }
                    None => {
                        tracing::info!(node = self.plan.name, "the guest rebooted");
                        self.state.send_replace(NodeState::Starting);
                        continue;
                    }
                },
                End::Failed(message) => (message, backoff.failed(up)),
            };
            tracing::warn!(node = self.plan.name, "{message}; next start in {wait:?}");
            self.state.send_replace(NodeState::Down(message));
            // Either the time has come or something else is wanted.
            let _ = timeout(wait, other(&mut wanted)).await;
        }
        self.state.send_replace(NodeState::Stopped);
    }

    /// How long the agent answered in the run that has just ended.
    fn up_for(&self) -> Duration {
        match &*self.state.borrow() {
            NodeState::Up(up) => up.since.elapsed(),
            _ => Duration::ZERO,
        }
    }

    async fn run_once(
        &self,
        adopted: Option<Process>,
        wanted: &mut watch::Receiver<Wanted>,
    ) -> End {
        let mut permit = None;
        let mut process = match adopted {
            Some(process) => {
                if let Err(error) = self.restore_ranges().await {
                    return End::Failed(error.message);
                }
                process
            }
            None => {
                self.state.send_replace(NodeState::Starting);
                // Held until the agent answers. Never closed.
                permit = self.host.boots.acquire().await.ok();
                match self.boot().await {
                    Ok(process) => process,
                    Err(error) => return End::Failed(error.message),
                }
            }
        };
        self.pid.store(process.pid(), Ordering::Relaxed);
        let up = tokio::select! {
            status = process.ended() => return monitor::end(&self.plan.dir, status),
            _ = other(wanted) => {
                process.kill().await;
                return End::Asked;
            }
            up = self.connect() => match up {
                Ok(up) => Arc::new(up),
                Err(message) => {
                    process.kill().await;
                    return End::Failed(message);
                }
            },
        };
        drop(permit);
        tracing::info!(node = self.plan.name, pid = process.pid(), "the agent answers");
        self.state.send_replace(NodeState::Up(Arc::clone(&up)));
        let wanted = tokio::select! {
            status = process.ended() => return monitor::end(&self.plan.dir, status),
            () = silent(&up) => {
                process.kill().await;
                return End::Failed("the agent did not answer for 30 s: node ended".into());
            }
            wanted = other(wanted) => wanted,
        };
        if wanted == Wanted::Stop {
            power_off(&up, &mut process).await;
        }
        process.kill().await;
        End::Asked
    }

    /// Makes whatever of the node is missing and starts its monitor.
    async fn boot(&self) -> Result<Process, ApiError> {
        let plan = &self.plan;
        let image = self.host.node_image().await?;
        let image = image.of_cluster(&self.host.home.cluster(&plan.cluster));
        prepare(plan).await?;
        *self.layers.lock().await = Layers::default();
        self.host.state.clear_ranges(&plan.cluster, &plan.name)?;
        let tap = self.network.tap(plan.link).await.map_err(fault::network)?;
        monitor::start(monitor::Start {
            program: &self.host.programs.vmm,
            image: &image,
            dir: &plan.dir,
            shape: &plan.shape,
            mac: plan.link.mac().to_string(),
            tap,
        })
    }

    async fn restore_ranges(&self) -> Result<(), ApiError> {
        let rows = self.host.state.ranges(&self.plan.cluster, &self.plan.name)?;
        let mut layers = self.layers.lock().await;
        for row in rows {
            layers.ranges.restore(row.layer, row.slot, row.length);
        }
        Ok(())
    }

    /// Waits until the agent answers and tells it who it is.
    async fn connect(&self) -> Result<Up, String> {
        let sockets = SocketDir::open(&self.plan.dir)
            .map_err(|error| format!("{}: {error}", self.plan.dir.display()))?;
        let path = sockets.path(monitor::VSOCK_SOCKET);
        let answer = async {
            loop {
                match greet(&path).await {
                    Ok(greeted) => return Ok(greeted),
                    Err(error @ ClientError::Version(_)) => return Err(error.to_string()),
                    Err(_) => sleep(BOOT_POLL).await,
                }
            }
        };
        let (mut agent, info) = timeout(BOOT_LIMIT, answer).await.map_err(|_| {
            format!("the agent did not answer within {} s of boot", BOOT_LIMIT.as_secs())
        })??;
        let config = self.identity().map_err(|error| error.message)?;
        agent.configure(config).await.map_err(|error| format!("configuring the agent: {error}"))?;
        Ok(Up { info, sockets, since: Instant::now() })
    }

    fn identity(&self) -> Result<NodeConfig, ApiError> {
        let mut entropy = [0; 64];
        rustix::rand::getrandom(&mut entropy, rustix::rand::GetRandomFlags::empty())
            .map_err(|error| fault::internal(format!("getrandom: {error}")))?;
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Ok(NodeConfig {
            name: self.plan.name.clone(),
            ip: Some(self.plan.link.ip()),
            gateway: Some(GATEWAY),
            mtu: Some(MTU),
            unix_time_ns: u64::try_from(now.as_nanos()).unwrap_or(u64::MAX),
            entropy: base64::engine::general_purpose::STANDARD.encode(entropy),
            reserved_memory: RESERVED_MEMORY,
        })
    }

    /// The partition that holds a layer, after monitor and agent were told of it. `file` is its
    /// EROFS file, `length` that file's length rounded up to 4096.
    pub(crate) async fn attach_layer(
        &self,
        up: &Up,
        layer: &str,
        file: &Path,
        length: u64,
    ) -> Result<u32, ApiError> {
        let mut layers = self.layers.lock().await;
        let known = layers.ranges.get(layer);
        if let Some(range) = known
            && layers.attached.contains(layer)
        {
            return Ok(range.partition);
        }
        let range = match known {
            Some(range) => range,
            None => layers.ranges.propose(layer, length).map_err(fault::insufficient)?,
        };
        // Noted before it is done: whoever finds the row does both steps again, and the monitor
        // refuses only what it has already.
        self.host.state.add_range(
            &self.plan.cluster,
            &self.plan.name,
            &RangeRow { layer: layer.to_owned(), slot: range.partition, length: range.length },
        )?;
        layers.ranges.take(layer.to_owned(), range);
        self.add_range(up, range, file, known.is_some()).await?;
        let mut agent = up.agent().await.map_err(fault::internal)?;
        agent.attach_range(range).await.map_err(|error| {
            fault::internal(format!("node {}: layer {layer}: {error}", self.plan.name))
        })?;
        layers.attached.insert(layer.to_owned());
        Ok(range.partition)
    }

    async fn add_range(
        &self,
        up: &Up,
        range: AttachRange,
        file: &Path,
        again: bool,
    ) -> Result<(), ApiError> {
        let file = File::open(file)
            .map_err(|error| fault::internal(format!("{}: {error}", file.display())))?;
        monitor::add_range(up.sockets.path(monitor::VMM_SOCKET), range, file, again).await
    }
}

/// Makes a node's directory and disk, unless they are there.
async fn prepare(plan: &Plan) -> Result<(), ApiError> {
    crate::home::create_private(&plan.dir).map_err(|error| {
        let message = format!("{}: {error}", plan.dir.display());
        match error.kind() {
            std::io::ErrorKind::StorageFull => fault::insufficient(message),
            _ => fault::internal(message),
        }
    })?;
    super::disk::ensure_scratch(&plan.dir.join(monitor::SCRATCH), plan.shape.disk).await
}

/// What else is wanted than that it runs, once something is.
async fn other(wanted: &mut watch::Receiver<Wanted>) -> Wanted {
    let wanted = wanted.wait_for(|wanted| *wanted != Wanted::Run).await;
    wanted.map_or(Wanted::Kill, |wanted| *wanted)
}

async fn greet(path: &Path) -> Result<(AgentClient, NodeInfo), ClientError> {
    let mut agent = AgentClient::connect_hybrid(path).await?;
    let info = agent.info().await?;
    Ok((agent, info))
}

/// Until the agent has been silent for long.
async fn silent(up: &Up) {
    let mut failures = 0;
    while failures < PROBE_FAILURES {
        sleep(PROBE_PERIOD).await;
        let probe = async { up.agent().await?.info().await };
        let answered = timeout(PROBE_PERIOD, probe).await.is_ok_and(|answer| answer.is_ok());
        failures = if answered { 0 } else { failures + 1 };
    }
}

async fn power_off(up: &Up, process: &mut Process) {
    let ask = async { up.agent().await?.shutdown(ShutdownMode::PowerOff, POD_GRACE).await };
    if !matches!(timeout(POWER_OFF_LIMIT, ask).await, Ok(Ok(()))) {
        return;
    }
    let limit = Duration::from_secs(POD_GRACE.into()) + POWER_OFF_LIMIT;
    // What has not ended by then is killed.
    drop(timeout(limit, process.ended()).await);
}
