//! `bulkhead run`: a cluster for the length of one command.

use std::os::unix::process::ExitStatusExt as _;
use std::process::{ExitCode, ExitStatus};

use anyhow::{Context as _, Result};
use bulkhead_host_api::{ClusterName, NodeShape};
use tokio::process::{Child, Command};

use super::cluster::{Made, discard, make};
use super::signals::{Signals, exit_code};
use crate::args::Run;
use crate::config;
use crate::host::Host;

/// As shells return them.
const NOT_EXECUTABLE: u8 = 126;
const NOT_FOUND: u8 = 127;

pub(super) async fn run(run: Run) -> Result<ExitCode> {
    let name = ClusterName::throw_away();
    let shape = config::laid_over(&run.shape, NodeShape::default());
    let config = config::of_shape(&name, run.nodes, shape)?;
    let mut signals = Signals::catch()?;
    let host = Host::connect().await?;
    let claim = match make(&host, &config, &mut signals).await? {
        Made::Ready(claim) => claim,
        Made::Interrupted(code) => return Ok(code),
    };
    let path = claim.kubeconfig();
    let result = execute(&host, &name, &path, &run, &mut signals).await;
    eprintln!("removing cluster {name}");
    if let Err(error) = discard(&host, &name, claim, &mut signals).await {
        eprintln!("warning: cluster {name} could not be removed; the next command will: {error:#}");
    }
    result
}

async fn execute(
    host: &Host,
    name: &ClusterName,
    kubeconfig: &std::path::Path,
    run: &Run,
    signals: &mut Signals,
) -> Result<ExitCode> {
    let text = super::fetch_kubeconfig(host, name).await?;
    write_private(kubeconfig, &text).map_err(|error| crate::home::refused(kubeconfig, error))?;
    let (program, arguments) = run.command.split_first().context("there is no command to run")?;
    let spawned = Command::new(program)
        .args(arguments)
        .env("KUBECONFIG", kubeconfig)
        .env("BULKHEAD_CLUSTER", name.as_str())
        .spawn();
    let mut child = match spawned {
        Ok(child) => child,
        Err(error) => {
            eprintln!("error: cannot run {}: {error}", program.display());
            let missing = error.kind() == std::io::ErrorKind::NotFound;
            return Ok(ExitCode::from(if missing { NOT_FOUND } else { NOT_EXECUTABLE }));
        }
    };
    loop {
        tokio::select! {
            status = child.wait() => return Ok(code_of(status?)),
            signal = signals.next() => forward(&child, signal),
        }
    }
}

/// Passes a signal on, unless the terminal has sent it to the command as well.
fn forward(child: &Child, signal: rustix::process::Signal) {
    use rustix::process::{Pid, Signal, kill_process};
    let from_keyboard = matches!(signal, Signal::INT | Signal::QUIT) && in_foreground();
    let pid = child.id().and_then(|id| Pid::from_raw(id.try_into().ok()?));
    if let (false, Some(pid)) = (from_keyboard, pid) {
        // Only a command that has just ended cannot be signalled; its status is about to be read.
        let _ = kill_process(pid, signal);
    }
}

/// Whether this process group is the one that its terminal's keys signal.
fn in_foreground() -> bool {
    let Ok(terminal) = std::fs::File::open("/dev/tty") else { return false };
    rustix::termios::tcgetpgrp(&terminal)
        .is_ok_and(|foreground| foreground == rustix::process::getpgrp())
}

fn code_of(status: ExitStatus) -> ExitCode {
    match (status.code(), status.signal()) {
        (Some(code), _) => ExitCode::from(u8::try_from(code).unwrap_or(u8::MAX)),
        (None, Some(signal)) => ExitCode::from(exit_code(signal)),
        (None, None) => ExitCode::FAILURE,
    }
}

fn write_private(path: &std::path::Path, text: &str) -> std::io::Result<()> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(text.as_bytes())
}
