//! `bulkhead`: clusters of microVMs from one command.
//!
//! The command line is described in [`args`] and carried out in [`command`], a module for each
//! noun. Whatever concerns clusters goes through the host daemon's management API; [`host`]
//! decides which daemon that is, this machine's or one inside an emulated host, and starts it.
//! [`output`] and [`progress`] are how results and waiting look, on a terminal and off it, and
//! [`claim`] sees to it that what an interrupted command leaves is removed by the next.
//!
//! Exit codes: 0 done, 1 failed, 2 the command line is wrong; `run` and `vm run` return their
//! command's or guest's.

#![forbid(unsafe_code)]

mod args;
mod claim;
mod command;
mod config;
mod home;
mod host;
mod input;
mod kubeconfig;
mod output;
mod progress;
mod size;

use std::process::ExitCode;

use clap::Parser as _;
use clap::error::ErrorKind;

fn main() -> ExitCode {
    let args = match args::Args::try_parse() {
        Ok(args) => args,
        Err(error) => return usage(&error),
    };
    let runtime =
        match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => return failed(&anyhow::Error::new(error).context("cannot start")),
        };
    let result = runtime.block_on(command::execute(args));
    // A thread may still wait for a line on standard input.
    runtime.shutdown_background();
    result.unwrap_or_else(|error| failed(&error))
}

/// Help goes out as it is; a mistake becomes one line that says where to read on.
fn usage(error: &clap::Error) -> ExitCode {
    if matches!(
        error.kind(),
        ErrorKind::DisplayHelp
            | ErrorKind::DisplayVersion
            | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
    ) {
        // A closed pipe is no failure of ours.
        let _ = error.print();
        return ExitCode::from(if error.use_stderr() { 2 } else { 0 });
    }
    let text = error.to_string();
    let told: Vec<&str> = text
        .lines()
        .map(str::trim)
        .take_while(|line| !line.starts_with("Usage:") && !line.starts_with("For more"))
        .filter(|line| !line.is_empty())
        .collect();
    eprintln!("{}; try '--help'", told.join(" ").replace(" tip: ", "; "));
    ExitCode::from(2)
}

fn failed(error: &anyhow::Error) -> ExitCode {
    eprintln!("error: {}", output::one_line(&format!("{error:#}")));
    ExitCode::from(1)
}
