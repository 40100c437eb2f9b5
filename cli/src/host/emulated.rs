//! The daemon inside an emulated host: one QEMU machine per home, under its `emulated/`.
//!
//! Its state lies on a disk of its own, mounted inside where a daemon's state is by default. The
//! daemon listens on TCP there, with a token that is in a file only this user can read.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use bulkhead_emulated_host::{self as machine, Forward, StartOptions, Status};
use bulkhead_host_api::client::{Client, Endpoint};
use serde::{Deserialize, Serialize};

use super::node_image::NodeImage;
use crate::home;
use crate::progress::Progress;

/// Where the daemon keeps its state inside.
const STATE_INSIDE: &str = "/var/lib/bulkhead";
/// Where the daemon listens inside, on loopback: what is forwarded leads there.
const PORT_INSIDE: u16 = 7443;
/// The state disk is sparse: it grows as it fills.
const DISK_SIZE: u64 = 64 << 30;
const ANSWER_PATIENCE: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(50);

/// What this side has to remember of the machine that runs.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Session {
    /// QEMU's process: another one knows nothing of these ports.
    pid: i32,
    daemon_port: u16,
    /// Forwarded ports, inside → outside.
    forwards: BTreeMap<u16, u16>,
}

fn directory(home: &Path) -> PathBuf {
    home.join("emulated")
}

fn running(home: &Path) -> Option<i32> {
    match machine::status(&directory(home)) {
        Status::Running(pid) => Some(pid),
        Status::Stopped => None,
    }
}

fn session(home: &Path) -> Option<Session> {
    let text = std::fs::read(directory(home).join("session.json")).ok()?;
    serde_json::from_slice::<Session>(&text).ok().filter(|it| Some(it.pid) == running(home))
}

fn client(home: &Path, session: &Session) -> Result<Client> {
    let path = directory(home).join("token");
    let token = std::fs::read_to_string(&path).map_err(|error| home::refused(&path, error))?;
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, session.daemon_port));
    Ok(Client::new(Endpoint::Tcp { address, token: token.trim().to_owned() }))
}

/// The daemon in a machine that runs already.
pub(crate) async fn find(home: &Path) -> Result<Option<Client>> {
    let Some(session) = session(home) else { return Ok(None) };
    let client = client(home, &session)?;
    wait_for(home, &client).await?;
    Ok(Some(client))
}

/// Starts the machine and the daemon in it.
pub(crate) async fn start(
    home: &Path,
    image: &NodeImage,
    progress: &mut Progress,
) -> Result<Client> {
    let directory = directory(home);
    home::create(&directory)?;
    // A machine without a session was started by a command that was killed right then.
    blocking({
        let directory = directory.clone();
        move || Ok(machine::stop(&directory)?)
    })
    .await?;
    let token = directory.join("token");
    write_token(&token)?;
    let boot = prepare(progress).await?;
    progress.step("starting the emulated host", 0, 0);
    let daemon = home::program("bulkhead-host")?;
    let daemon_port = free_port()?;
    let text = |path: &Path| path.to_string_lossy().into_owned();
    let options = StartOptions {
        directory: directory.clone(),
        boot,
        program: home::program("bulkhead-emulated-host")?,
        memory_mib: memory_mib(),
        cpus: cpus(),
        disk_size: DISK_SIZE,
        disk_mount_point: STATE_INSIDE.into(),
        forwards: vec![Forward { outside: daemon_port, inside: PORT_INSIDE }],
        command: vec![
            text(&daemon),
            "--home".into(),
            STATE_INSIDE.into(),
            "--kernel".into(),
            text(&image.kernel),
            "--root".into(),
            text(&image.root),
            "--listen".into(),
            format!("tcp:127.0.0.1:{PORT_INSIDE}"),
            "--token-file".into(),
            text(&token),
            "--loopback-registries".into(),
            machine::OUTSIDE.into(),
        ],
        environment: BTreeMap::new(),
    };
    let machine = blocking(move || Ok(machine::start(&options)?)).await?;
    let session = Session { pid: machine.pid, daemon_port, forwards: BTreeMap::new() };
    save(home, &session)?;
    let client = client(home, &session)?;
    progress.step("waiting for the host daemon", 0, 0);
    wait_for(home, &client).await?;
    Ok(client)
}

/// Kernel and initrd of the emulated host, made when they are not in the cache.
async fn prepare(progress: &mut Progress) -> Result<machine::Boot> {
    let (say, mut said) = tokio::sync::mpsc::unbounded_channel::<String>();
    let making = tokio::task::spawn_blocking(move || {
        machine::prepare(&machine::default_cache(), &|step| {
            // The other end is dropped only with this command.
            let _ = say.send(step.to_owned());
        })
    });
    while let Some(step) = said.recv().await {
        progress.step(&step, 0, 0);
    }
    Ok(making.await??)
}

/// Makes a port of the machine's reachable from here and returns the port on this side: the same
/// if that is free.
pub(crate) async fn forward(home: &Path, inside: u16) -> Result<u16> {
    let home = home.to_owned();
    blocking(move || {
        let directory = directory(&home);
        let lock = std::fs::File::create(directory.join("session.lock"))?;
        lock.lock()?;
        let mut session = session(&home).context("the emulated host is gone; try again")?;
        if let Some(outside) = session.forwards.get(&inside) {
            return Ok(*outside);
        }
        let outside = match TcpListener::bind((Ipv4Addr::LOCALHOST, inside)) {
            Ok(_) => inside,
            Err(_) => free_port()?,
        };
        machine::forward(&directory, Forward { outside, inside })?;
        session.forwards.insert(inside, outside);
        save(&home, &session)?;
        Ok(outside)
    })
    .await
}

/// Takes back what was forwarded to ports that no cluster has any more.
pub(crate) async fn retain_forwards(home: &Path, inside: Vec<u16>) -> Result<()> {
    let home = home.to_owned();
    blocking(move || {
        let directory = directory(&home);
        let lock = std::fs::File::create(directory.join("session.lock"))?;
        lock.lock()?;
        let Some(mut session) = session(&home) else { return Ok(()) };
        let stale: Vec<u16> =
            session.forwards.keys().filter(|port| !inside.contains(port)).copied().collect();
        for port in &stale {
            if let Some(outside) = session.forwards.remove(port) {
                machine::unforward(&directory, outside)?;
            }
        }
        if stale.is_empty() { Ok(()) } else { save(&home, &session) }
    })
    .await
}

/// Shuts the machine down.
pub(crate) async fn stop(home: &Path) -> Result<()> {
    let directory = directory(home);
    blocking(move || {
        machine::stop(&directory)?;
        let _ = std::fs::remove_file(directory.join("session.json"));
        Ok(())
    })
    .await
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work).await?
}

async fn wait_for(home: &Path, client: &Client) -> Result<()> {
    let started = Instant::now();
    loop {
        let Err(error) = client.host().await else { return Ok(()) };
        let log = directory(home).join("service.log");
        if running(home).is_none() {
            bail!("the emulated host has ended; its log is {}", log.display());
        }
        if started.elapsed() > ANSWER_PATIENCE {
            bail!(
                "the daemon in the emulated host does not answer: {error}; its log is {}, and \
                 'bulkhead host stop' ends it",
                log.display()
            );
        }
        tokio::time::sleep(POLL).await;
    }
}

fn save(home: &Path, session: &Session) -> Result<()> {
    let directory = directory(home);
    let mut file = tempfile::NamedTempFile::new_in(&directory)
        .map_err(|error| home::refused(&directory, error))?;
    file.write_all(&serde_json::to_vec(session)?)?;
    file.persist(directory.join("session.json"))?;
    Ok(())
}

fn write_token(path: &Path) -> Result<()> {
    let mut random = [0; 32];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut random)?;
    let token: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
    // A file of its own each time: an older one may be cached inside.
    let _ = std::fs::remove_file(path);
    std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .and_then(|mut file| file.write_all(token.as_bytes()))
        .map_err(|error| home::refused(path, error))
}

fn free_port() -> Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("no free port")?;
    Ok(listener.local_addr()?.port())
}

/// Half of this machine's memory, 2 to 32 GiB: the guests' memory comes out of it.
pub(crate) fn memory_mib() -> u32 {
    let half = super::memory_total() / 2 / (1 << 20);
    u32::try_from(half.clamp(2048, 32768)).unwrap_or(2048)
}

/// As many as this machine has, up to what QEMU's threads still gain from.
pub(crate) fn cpus() -> u32 {
    let here = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    u32::try_from(here.clamp(1, 16)).unwrap_or(1)
}
