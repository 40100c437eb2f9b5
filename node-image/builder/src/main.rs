//! `bulkhead-node-image build`: builds the node image and prints where it is.

#![forbid(unsafe_code)]

use std::io::IsTerminal as _;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use bulkhead_node_image::{BuildError, BuildOptions, NodeImage, Progress, build};
use clap::{Parser, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};

#[derive(Parser)]
#[command(version, about = "What a node boots: its kernel and root image")]
struct Cli {
    #[command(subcommand)]
    command: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Build what is missing or out of date, and print the paths.
    Build {
        /// Print one JSON object.
        #[arg(long)]
        json: bool,
    },
}

fn main() -> ExitCode {
    let Action::Build { json } = Cli::parse().command;
    match show(json) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn show(json: bool) -> Result<()> {
    let image = if std::io::stderr().is_terminal() { on_bar()? } else { in_lines() };
    let image = image.context("cannot build the node image")?;
    if json {
        println!("{}", serde_json::json!({ "kernel": image.kernel, "root": image.root }));
    } else {
        println!("kernel  {}\nroot    {}", image.kernel.display(), image.root.display());
    }
    Ok(())
}

/// Builds with a bar for each step.
fn on_bar() -> Result<std::result::Result<NodeImage, BuildError>> {
    let spinner = ProgressStyle::with_template("{spinner} {msg} ({elapsed})")?;
    let counting = ProgressStyle::with_template("{msg} {wide_bar} {pos}/{len} ({elapsed})")?;
    let bar = ProgressBar::no_length().with_style(spinner.clone());
    bar.enable_steady_tick(Duration::from_millis(100));
    let image = build(&BuildOptions::discover(), &mut |progress| match progress {
        Progress::Step(step) => {
            bar.set_style(spinner.clone());
            bar.set_message(step.to_owned());
        }
        Progress::Parts { done, total } => {
            bar.set_style(counting.clone());
            bar.set_length(total);
            bar.set_position(done);
        }
    });
    bar.finish_and_clear();
    Ok(image)
}

/// Builds with a line for each step, where there is no terminal.
fn in_lines() -> std::result::Result<NodeImage, BuildError> {
    build(&BuildOptions::discover(), &mut |progress| {
        if let Progress::Step(step) = progress {
            eprintln!("{step}");
        }
    })
}
