//! `bulkhead-api-server`: makes a cluster's certificates, serves its API, and backs it up.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::RawFd;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use bulkhead_api_server::cidr::Ipv4Range;
use bulkhead_api_server::serve::{Options, Secrets, Server};
use bulkhead_api_server::storage::{Storage, StorageOptions};
use bulkhead_api_server::{backup, encryption, pki};
use bulkhead_client::ElectionTiming;
use clap::{Parser, Subcommand};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// As in Kubernetes' own installers.
const SERVICE_RANGE: &str = "10.96.0.0/12";

/// Kubernetes API server, scheduler and controllers of one cluster.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Makes the cluster's certificates; those that are there are kept.
    Init {
        /// Where they go.
        #[arg(long)]
        dir: PathBuf,
        /// The cluster's name.
        #[arg(long, default_value = "bulkhead")]
        name: String,
        /// The host's name, for its client certificate [default: the system's].
        #[arg(long)]
        host: Option<String>,
        /// Where Services get their addresses from: the API server's certificate is also for the
        /// first.
        #[arg(long, value_name = "CIDR", default_value = SERVICE_RANGE)]
        service_cluster_ip_range: Ipv4Range,
    },
    /// Serves until SIGTERM or SIGINT.
    Serve {
        /// The cluster's directory: `pki/`, and `store.db` unless objects are kept in etcd.
        #[arg(long)]
        dir: PathBuf,
        /// The address to listen on.
        #[arg(long)]
        listen: SocketAddr,
        /// An inherited file descriptor of a socket that listens, of another network namespace
        /// perhaps, to serve as well.
        #[arg(long)]
        listen_fd: Option<RawFd>,
        /// The address at which pods and other API servers reach this one
        /// [default: the one to listen on].
        #[arg(long)]
        advertise_address: Option<IpAddr>,
        /// Where Services get their addresses from. A cluster keeps the range that it was made with.
        #[arg(long, value_name = "CIDR", default_value = SERVICE_RANGE)]
        service_cluster_ip_range: Ipv4Range,
        /// An inherited file descriptor that gets the line `ready ADDRESS` when the API answers.
        #[arg(long)]
        ready_fd: Option<RawFd>,
        #[command(flatten)]
        storage: StorageOptions,
        #[command(flatten)]
        election: ElectionOptions,
        /// How long a node's lease may go without renewal before the node counts as lost.
        #[arg(long, value_name = "SECONDS", default_value = "40", value_parser = seconds)]
        node_monitor_grace_period: Duration,
        /// How long the past is kept at least: watches begin no earlier, and lists go on no longer.
        #[arg(long, value_name = "SECONDS", default_value = "300", value_parser = seconds)]
        compaction_interval: Duration,
    },
    /// Makes a new key for the encryption of secrets. The server takes it when it starts or gets
    /// SIGHUP, and encrypts every secret anew.
    RotateSecretsKey {
        /// The cluster's directory.
        #[arg(long)]
        dir: PathBuf,
    },
    /// Writes a backup of a cluster, which may be running, to standard output. Whoever has it has
    /// the cluster: it holds the keys.
    Backup {
        /// The cluster's directory.
        #[arg(long)]
        dir: PathBuf,
        /// What to tell whoever inspects it: JSON.
        #[arg(long, value_name = "JSON", default_value = "{}", value_parser = json)]
        about: serde_json::Value,
        #[command(flatten)]
        storage: StorageOptions,
    },
    /// Reads a backup through and prints what it says of itself.
    InspectBackup {
        /// The backup.
        file: PathBuf,
    },
    /// Makes a cluster of a backup.
    Restore {
        /// The cluster's directory.
        #[arg(long)]
        dir: PathBuf,
        /// Delete the cluster that is there already. No server may be running.
        #[arg(long)]
        replace: bool,
        /// The backup.
        file: PathBuf,
        #[command(flatten)]
        storage: StorageOptions,
    },
    /// Prints the admin's kubeconfig.
    Kubeconfig {
        /// The cluster's directory.
        #[arg(long)]
        dir: PathBuf,
        /// The URL of the API.
        #[arg(long)]
        server: String,
        /// The cluster's name.
        #[arg(long, default_value = "bulkhead")]
        name: String,
    },
}

/// How servers that share an etcd choose which of them schedules and runs the controllers.
#[derive(Debug, clap::Args)]
struct ElectionOptions {
    /// How long the others wait for a leader that is silent.
    #[arg(long, value_name = "SECONDS", default_value = "15", value_parser = seconds)]
    leader_elect_lease_duration: Duration,
    /// How long a leader tries to renew its lease before it stops leading.
    #[arg(long, value_name = "SECONDS", default_value = "10", value_parser = seconds)]
    leader_elect_renew_deadline: Duration,
    /// How long to wait between two tries.
    #[arg(long, value_name = "SECONDS", default_value = "2", value_parser = seconds)]
    leader_elect_retry_period: Duration,
}

fn json(text: &str) -> serde_json::Result<serde_json::Value> {
    serde_json::from_str(text)
}

fn seconds(text: &str) -> Result<Duration, String> {
    match text.trim_end_matches('s').parse() {
        Ok(seconds @ 1..=86_400) => Ok(Duration::from_secs(seconds)),
        _ => Err("whole seconds, 1 to 86400, are expected".into()),
    }
}

impl ElectionOptions {
    fn timing(&self) -> anyhow::Result<ElectionTiming> {
        let timing = ElectionTiming {
            lease_duration: self.leader_elect_lease_duration,
            renew_deadline: self.leader_elect_renew_deadline,
            retry_period: self.leader_elect_retry_period,
        };
        anyhow::ensure!(
            timing.retry_period < timing.renew_deadline
                && timing.renew_deadline < timing.lease_duration,
            "--leader-elect-retry-period must be less than --leader-elect-renew-deadline, and that \
             less than --leader-elect-lease-duration"
        );
        Ok(timing)
    }
}

fn main() -> ExitCode {
    bulkhead_process::log("info");
    match run(Arguments::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Init { dir, name, host, service_cluster_ip_range } => {
            let host = match host {
                Some(host) => host,
                None => system_host_name(),
            };
            Ok(pki::init(&dir, &name, &host, service_cluster_ip_range.nth(0))?)
        }
        Command::RotateSecretsKey { dir } => {
            println!("{}", encryption::rotate(&dir.join("pki"))?);
            Ok(())
        }
        Command::Backup { dir, about, storage } => {
            let storage = Storage::new(&storage, &dir)?;
            let mut out = std::io::BufWriter::new(std::io::stdout());
            runtime()?.block_on(backup::backup(&dir, &storage, &about, &mut out))?;
            Ok(())
        }
        Command::InspectBackup { file } => {
            println!("{}", backup::inspect(&file)?);
            Ok(())
        }
        Command::Restore { dir, replace, file, storage } => {
            let storage = Storage::new(&storage, &dir)?;
            runtime()?.block_on(backup::restore(&file, &dir, &storage, replace))?;
            Ok(())
        }
        Command::Kubeconfig { dir, server, name } => {
            print!("{}", pki::kubeconfig(&dir.join("pki"), &name, &server)?);
            Ok(())
        }
        Command::Serve {
            dir,
            listen,
            listen_fd,
            advertise_address,
            service_cluster_ip_range,
            ready_fd,
            storage,
            election,
            node_monitor_grace_period,
            compaction_interval,
        } => {
            let options = Options {
                storage: Storage::new(&storage, &dir)?,
                dir,
                listen,
                inherited: listen_fd.map(listener).transpose()?.into_iter().collect(),
                advertise: advertise_address,
                service_range: service_cluster_ip_range,
                election: election.timing()?,
                node_monitor_grace_period,
                compaction_interval,
            };
            bulkhead_process::raise_descriptor_limit();
            runtime()?.block_on(serve(options, ready_fd))
        }
    }
}

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    // Two workers: one may be busy with a long list while the other answers.
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(8)
        .enable_all()
        .build()
        .context("cannot start threads")
}

/// The listening socket that this process was started with.
fn listener(fd: RawFd) -> anyhow::Result<std::net::TcpListener> {
    Ok(bulkhead_process::inherit(fd).with_context(|| format!("--listen-fd {fd}"))?.into())
}

fn system_host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

async fn serve(options: Options, ready_fd: Option<RawFd>) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let server = Server::open(options).await?;
    let address = server.address()?;
    tracing::info!(%address, "listening");
    if let Some(fd) = ready_fd {
        // By its name in /proc, as taking over a raw descriptor would need unsafe code.
        let path = format!("/proc/self/fd/{fd}");
        let ready = format!("ready {address}\n");
        let mut options = std::fs::OpenOptions::new();
        options
            .write(true)
            .open(&path)
            .and_then(|mut file| std::io::Write::write_all(&mut file, ready.as_bytes()))
            .with_context(|| format!("--ready-fd {fd}"))?;
    }
    let reloads = tokio::spawn(reload(server.secrets(), signal(SignalKind::hangup())?));
    let stop = async {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    server.run(Box::pin(stop)).await;
    reloads.abort();
    Ok(())
}

/// Takes new keys on SIGHUP, and when a file that other servers use as well has changed.
async fn reload(secrets: Secrets, mut hangup: Signal) {
    loop {
        tokio::select! {
            told = hangup.recv() => if told.is_none() { return },
            () = secrets.changed() => {}
        }
        if let Err(error) = secrets.reload().await {
            tracing::error!(%error, "reloading keys");
        }
    }
}
