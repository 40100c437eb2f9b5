//! The daemon on this machine: found by its socket, started in a session of its own.

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use bulkhead_host_api::client::{Client, ClientError};

use super::node_image::NodeImage;
use crate::home;

const START_PATIENCE: Duration = Duration::from_secs(30);
const STOP_PATIENCE: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(20);

fn client(home: &Path) -> Client {
    Client::unix(&home.join("host.sock"))
}

/// The daemon if it answers. Only an absent or dead socket means that there is none: a daemon that
/// may not be talked to is an error.
pub(crate) async fn find(home: &Path) -> Result<Option<Client>> {
    let client = client(home);
    match client.host().await {
        Ok(_) => Ok(Some(client)),
        Err(ClientError::Unreachable { source, .. })
            if matches!(
                source.kind(),
                std::io::ErrorKind::NotFound | std::io::ErrorKind::ConnectionRefused
            ) =>
        {
            Ok(None)
        }
        Err(ClientError::Unreachable { source, .. }) => {
            Err(home::refused(&home.join("host.sock"), source))
        }
        Err(error) => Err(error.into()),
    }
}

/// Starts the daemon and waits until it answers.
pub(crate) async fn start(home: &Path, image: &NodeImage) -> Result<Client> {
    let program = home::program("bulkhead-host")?;
    let log_path = home.join("host.log");
    let log = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(&log_path)
        .map_err(|error| home::refused(&log_path, error))?;
    let begin = log.metadata().map_or(0, |meta| meta.len());
    // It makes itself a session of its own, which neither Ctrl-C nor a closed terminal reaches.
    let mut child = std::process::Command::new(&program)
        .arg("--home")
        .arg(home)
        .arg("--kernel")
        .arg(&image.kernel)
        .arg("--root")
        .arg(&image.root)
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .with_context(|| format!("cannot start {}", program.display()))?;
    let client = client(home);
    let started = Instant::now();
    loop {
        if client.host().await.is_ok() {
            return Ok(client);
        }
        if let Some(status) = child.try_wait()? {
            bail!(
                "the host daemon ended at once ({status}): {}; its log is {}",
                last_line(&log_path, begin),
                log_path.display()
            );
        }
        if started.elapsed() > START_PATIENCE {
            bail!(
                "the host daemon did not answer in {} s: {}; its log is {}",
                START_PATIENCE.as_secs(),
                last_line(&log_path, begin),
                log_path.display()
            );
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Waits until the daemon has let go of its home.
pub(crate) async fn wait_gone(home: &Path) -> Result<()> {
    let lock = home.join("host.lock");
    let started = Instant::now();
    loop {
        let free = match std::fs::File::open(&lock) {
            Ok(file) => file.try_lock().is_ok(),
            Err(_) => true,
        };
        if free {
            return Ok(());
        }
        if started.elapsed() > STOP_PATIENCE {
            bail!("the host daemon has not ended; its log is {}", home.join("host.log").display());
        }
        tokio::time::sleep(POLL).await;
    }
}

/// The last line that the log got after `begin`.
fn last_line(log: &Path, begin: u64) -> String {
    let text = std::fs::read(log).unwrap_or_default();
    let new = text.get(usize::try_from(begin).unwrap_or(0)..).unwrap_or_default();
    let new = String::from_utf8_lossy(new);
    new.trim_end().lines().next_back().unwrap_or("it said nothing").to_owned()
}
