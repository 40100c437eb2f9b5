//! `bulkhead-emulated-host`: runs one command in a machine with real KVM; also that machine's PID 1.

#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use bulkhead_emulated_host::{RunOptions, default_cache, guest, prepare, run};
use clap::{Args, Parser, Subcommand};
use indicatif::ProgressBar;

#[derive(Parser)]
#[command(version, about = "A QEMU machine with real KVM, for hosts that have none")]
struct Cli {
    #[command(subcommand)]
    command: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Fetch the kernel and make the initrd, unless they are in the cache.
    Prepare,
    /// Boot a machine, run one command in it with this machine's files, and exit with its status.
    Run(Run),
    /// The machine's first process.
    #[command(hide = true)]
    Guest { spec: PathBuf },
    /// Take the controlling terminal, then become a command.
    #[command(hide = true)]
    Terminal {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<String>,
    },
}

#[derive(Args)]
struct Run {
    /// The machine's memory: 4G, 512M.
    #[arg(long, default_value = "4G", value_parser = size)]
    memory: u64,
    /// The machine's processors; by default as many as this one has.
    #[arg(long)]
    cpus: Option<u32>,
    /// Set a variable for the command (K=V), or pass on this process's (K).
    #[arg(long, value_name = "K[=V]")]
    env: Vec<String>,
    /// Add a scratch disk of this size: 10G. The shared root is unfit for databases.
    #[arg(long, value_name = "SIZE", value_parser = size)]
    disk: Option<u64>,
    /// Where the scratch disk is mounted.
    #[arg(long, value_name = "PATH", default_value = "/var/lib/bulkhead", requires = "disk")]
    disk_path: PathBuf,
    /// The command and its arguments.
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
}

/// The variables that every command gets, when they are set here.
const PASSED_ON: &[&str] = &["PATH", "HOME", "TERM", "LANG", "USER"];

fn main() -> ExitCode {
    match act(Cli::parse().command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(125)
        }
    }
}

fn act(action: Action) -> Result<ExitCode> {
    match action {
        Action::Prepare => {
            prepared()?;
            Ok(ExitCode::SUCCESS)
        }
        Action::Run(options) => {
            let status = run(&options.resolve()?)?;
            Ok(ExitCode::from(u8::try_from(status).unwrap_or(u8::MAX)))
        }
        Action::Guest { spec } => {
            guest::main(&spec);
            Ok(ExitCode::FAILURE)
        }
        Action::Terminal { command } => {
            let error = guest::take_terminal(&command);
            Err(error).with_context(|| {
                format!("cannot run {}", command.first().map_or("nothing", String::as_str))
            })
        }
    }
}

fn prepared() -> Result<bulkhead_emulated_host::Boot> {
    let bar = ProgressBar::new_spinner();
    let boot = prepare(&default_cache(), &|step| {
        bar.enable_steady_tick(std::time::Duration::from_millis(100));
        bar.set_message(step.to_owned());
    });
    bar.finish_and_clear();
    boot.context("cannot prepare the emulated host")
}

impl Run {
    fn resolve(self) -> Result<RunOptions> {
        let cpus = match self.cpus {
            Some(0) => bail!("--cpus 0: a machine has at least one"),
            Some(cpus) => cpus,
            None => std::thread::available_parallelism().map_or(1, |cpus| cpus.get() as u32),
        };
        Ok(RunOptions {
            boot: prepared()?,
            program: std::env::current_exe().context("cannot find this program's own file")?,
            memory_mib: u32::try_from(self.memory >> 20).context("--memory: too much")?,
            cpus,
            disk: self.disk.map(|size| (size, self.disk_path)),
            forwards: Vec::new(),
            environment: environment(&self.env)?,
            directory: std::env::current_dir().context("cannot tell the working directory")?,
            command: self.command,
        })
    }
}

fn environment(wanted: &[String]) -> Result<BTreeMap<String, String>> {
    let mut environment = BTreeMap::new();
    for name in PASSED_ON {
        if let Ok(value) = std::env::var(name) {
            environment.insert((*name).to_owned(), value);
        }
    }
    for word in wanted {
        let (name, value) = match word.split_once('=') {
            Some((name, value)) => (name, value.to_owned()),
            None => (
                word.as_str(),
                std::env::var(word).with_context(|| format!("--env {word}: it is not set here"))?,
            ),
        };
        if name.is_empty() {
            bail!("--env {word}: a variable needs a name");
        }
        environment.insert(name.to_owned(), value);
    }
    Ok(environment)
}

/// Reads `512M` or `4G`: bytes by powers of 1024.
fn size(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let unit: u64 = match text[digits.len()..].trim_end_matches("iB").trim_end_matches('i') {
        "K" => 1 << 10,
        "M" => 1 << 20,
        "G" => 1 << 30,
        "T" => 1 << 40,
        _ => return Err("expected a number with a unit, such as 512M or 4G".to_owned()),
    };
    let number: u64 = digits
        .parse()
        .map_err(|_| "expected a number with a unit, such as 512M or 4G".to_owned())?;
    number.checked_mul(unit).filter(|bytes| *bytes > 0).ok_or_else(|| "out of range".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units() {
        assert_eq!(size("4G"), Ok(4 << 30));
        assert_eq!(size("512MiB"), Ok(512 << 20));
        for wrong in ["", "4", "G", "0G", "-1G", "99999999999T"] {
            assert!(size(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn variables_are_set_or_passed_on() {
        let found = environment(&["A=b=c".to_owned(), "PATH".to_owned()]).unwrap();
        assert_eq!(found["A"], "b=c");
        assert_eq!(found["PATH"], std::env::var("PATH").unwrap());
        assert!(environment(&["NO_SUCH_VARIABLE_HERE".to_owned()]).is_err());
        assert!(environment(&["=x".to_owned()]).is_err());
    }
}
