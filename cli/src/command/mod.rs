//! What the commands do, a module for each noun.

mod backup;
mod cluster;
mod doctor;
mod host;
mod image;
mod node;
mod run;
mod signals;
mod vm;

use std::process::ExitCode;

use anyhow::Result;
use clap::CommandFactory as _;

use crate::args::{Args, Command};
use crate::host::Host;
use crate::{kubeconfig, output};
use bulkhead_host_api::ClusterName;

/// Carries the command line out.
pub(crate) async fn execute(args: Args) -> Result<ExitCode> {
    match args.command {
        Command::Doctor(output) => doctor::doctor(output.format).await,
        Command::Cluster(command) => cluster::execute(command).await,
        Command::Node(command) => node::execute(command).await.map(|()| ExitCode::SUCCESS),
        Command::Image(command) => image::execute(command).await.map(|()| ExitCode::SUCCESS),
        Command::Kubeconfig { name, merge } => {
            show_kubeconfig(&name, merge).await.map(|()| ExitCode::SUCCESS)
        }
        Command::Run(run) => run::run(run).await,
        Command::Host(command) => host::execute(&command).await.map(|()| ExitCode::SUCCESS),
        Command::Vm(command) => vm::execute(command).await,
        Command::Completion { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Args::command(), "bulkhead", &mut script);
            output::print(&String::from_utf8_lossy(&script))?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

async fn show_kubeconfig(name: &ClusterName, merge: bool) -> Result<()> {
    let text = fetch_kubeconfig(&Host::connect().await?, name).await?;
    if !merge {
        return output::print(&text);
    }
    let path = kubeconfig::default_path()?;
    let context = kubeconfig::merge(&path, &text)?;
    output::print(&format!("context {context} is now current in {}\n", path.display()))
}

/// A cluster's kubeconfig, with its server as seen from here.
async fn fetch_kubeconfig(host: &Host, name: &ClusterName) -> Result<String> {
    let cluster = host.cluster(name).await?;
    let text = host.client.kubeconfig(name.as_str()).await?;
    kubeconfig::with_server(&text, &cluster.server)
}
