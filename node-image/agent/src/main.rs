//! The agent: PID 1 of a node. It runs the node's pods, and does what the host asks over vsock.
//!
//! The kernel starts it, with those words of its command line that it does not know itself as
//! arguments; they are passed over. [`boot`] makes the machine usable, [`server`] answers
//! the host, [`node`] is the machine itself, [`images`] has the layers, [`pods`] the rules by
//! which containers start and restart, [`runtime`] the means, [`logs`] and [`streams`] what they
//! print and read. Everything runs on one thread; nothing it holds names the cluster, and it has
//! no credentials.
//!
//! `bulkhead-agent serve --listen SOCKET --layers DIRECTORY --data DIRECTORY --run DIRECTORY`
//! serves a unix socket as an ordinary process (root, cgroup v2), for tests without a VM.

mod boot;
mod clock;
mod images;
mod logs;
mod node;
mod pods;
mod runtime;
mod server;
mod streams;

use std::{ffi::OsString, path::PathBuf, process::ExitCode, rc::Rc};

use anyhow::{Context as _, bail};
use tokio::signal::unix::{SignalKind, signal};

use crate::{
    images::{Images, LayerSource},
    pods::Pods,
    runtime::{
        cgroup::Cgroup, children::Children, helper, node::NodeRuntime, pod_files::Directories,
    },
};

/// Everything a connection may ask for.
pub(crate) struct Agent {
    pub(crate) pods: Pods<NodeRuntime>,
    pub(crate) runtime: Rc<NodeRuntime>,
    pub(crate) pid1: bool,
}

/// How the agent was started.
struct Options {
    listen: Option<PathBuf>,
    layers: Option<LayerSource>,
    directories: Directories,
}

fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    if arguments.first().is_some_and(|first| first == helper::ARGUMENT) {
        return ExitCode::from(helper::main());
    }
    let serves_a_test = arguments.first().is_some_and(|verb| verb == "serve");
    let pid1 = std::process::id() == 1 && !serves_a_test;
    match run(&arguments, pid1) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("agent: {error:#}");
            if pid1 {
                // The end of PID 1 is a kernel panic: it would bury this line.
                node::shutdown::power_off_by_port();
            }
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &[OsString], pid1: bool) -> anyhow::Result<()> {
    let options = if pid1 {
        boot::run()?;
        Options {
            listen: None,
            layers: boot::find_disk("images").map(LayerSource::Disk),
            directories: Directories {
                run: PathBuf::from("/run/agent"),
                data: PathBuf::from(boot::SCRATCH),
            },
        }
    } else {
        parse(arguments)?
    };
    let reactor = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start the reactor")?;
    tokio::task::LocalSet::new().block_on(&reactor, serve(options, pid1))
}

fn parse(arguments: &[OsString]) -> anyhow::Result<Options> {
    const USAGE: &str = "usage: bulkhead-agent serve --listen SOCKET --layers DIRECTORY \
                         --data DIRECTORY --run DIRECTORY";
    let [verb, flags @ ..] = arguments else { bail!(USAGE) };
    if verb != "serve" || flags.len() % 2 != 0 {
        bail!(USAGE);
    }
    let (mut listen, mut layers, mut data, mut run) = (None, None, None, None);
    for [flag, value] in flags.as_chunks::<2>().0 {
        let slot = match flag.to_str() {
            Some("--listen") => &mut listen,
            Some("--layers") => &mut layers,
            Some("--data") => &mut data,
            Some("--run") => &mut run,
            _ => bail!("unknown option {}\n{USAGE}", flag.display()),
        };
        *slot = Some(PathBuf::from(value));
    }
    Ok(Options {
        listen: Some(listen.context(USAGE)?),
        layers: Some(LayerSource::Directory(layers.context(USAGE)?)),
        directories: Directories { run: run.context(USAGE)?, data: data.context(USAGE)? },
    })
}

async fn serve(options: Options, pid1: bool) -> anyhow::Result<()> {
    Cgroup::create_pods().context("make the pods' cgroup")?;
    let directories = options.directories;
    std::fs::create_dir_all(directories.run.join("state")).context("make the run directory")?;
    let children = Rc::new(Children::default());
    let runtime = Rc::new(NodeRuntime::new(
        directories.clone(),
        Rc::new(Images::new(options.layers, directories.run.join("l"))),
        Rc::clone(&children),
        Rc::default(),
    ));
    runtime.helpers.begin();
    let agent = Rc::new(Agent { pods: Pods::new(Rc::clone(&runtime)), runtime, pid1 });
    let mut child_ended = signal(SignalKind::child()).context("listen to SIGCHLD")?;
    if pid1 {
        tokio::task::spawn_local(async move {
            while child_ended.recv().await.is_some() {
                children.reap_orphans();
            }
        });
    }
    match options.listen {
        None => server::vsock(agent).await.context("listen on vsock"),
        Some(path) => server::unix(agent, &path)
            .await
            .with_context(|| format!("listen on {}", path.display())),
    }
}
