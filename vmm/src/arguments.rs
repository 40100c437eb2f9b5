//! The command line, and the plan it amounts to.

use std::ffi::OsString;
use std::fs::File;
use std::io::Read;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;

use anyhow::{Context, bail};
use bulkhead_vmm::config::{Descriptors, Inherited, bind};
use bulkhead_vmm_api::{
    ConsoleConfig, DiskConfig, FileSource, NetConfig, RangeConfig, VmConfig, VsockConfig,
};
use clap::{Args, Parser, Subcommand};

/// Largest configuration file in bytes.
const MAX_CONFIG: u64 = 1 << 20;

/// Runs one Linux microVM.
#[derive(Debug, Parser)]
#[command(version, args_conflicts_with_subcommands = true)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    /// The machine, as JSON (see `VmConfig` in openapi.yaml)
    #[arg(long, value_name = "FILE", conflicts_with = "config_fd")]
    config: Option<PathBuf>,
    /// The same from an inherited file descriptor
    #[arg(long, value_name = "N")]
    config_fd: Option<i32>,
    /// Serve the API on a unix socket bound here
    #[arg(long, value_name = "PATH", conflicts_with = "api_fd")]
    api_sock: Option<PathBuf>,
    /// Serve the API on an inherited listening unix socket
    #[arg(long, value_name = "N")]
    api_fd: Option<i32>,
    /// Build the machine and wait for `PUT /vm/start`
    #[arg(long)]
    no_start: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Boot a kernel with the console on this terminal; Ctrl-A X leaves
    Run(Box<Run>),
    /// Measure whether /dev/kvm runs guest kernel code at a processor's speed; exits with 1 if not
    Probe {
        /// Print one line of text, or JSON
        #[arg(short, long, value_name = "FORMAT", default_value = "text")]
        output: ProbeFormat,
    },
}

/// How `probe` prints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum ProbeFormat {
    Text,
    Json,
}

#[derive(Debug, Args)]
struct Run {
    /// An uncompressed vmlinux with a PVH note, or a bzImage
    #[arg(long, value_name = "FILE")]
    kernel: PathBuf,
    /// An initial RAM file system
    #[arg(long, value_name = "FILE")]
    initrd: Option<PathBuf>,
    /// Guest memory: bytes, or with a suffix K, M or G
    #[arg(long, value_name = "SIZE", default_value = "256M", value_parser = parse_size)]
    memory: u64,
    /// Virtual CPUs, 1 to 32
    #[arg(long, value_name = "N", default_value_t = 1)]
    cpus: u8,
    /// The kernel's command line
    #[arg(long, value_name = "TEXT", default_value = "console=ttyS0 reboot=k panic=1")]
    cmdline: String,
    /// A disk's file, writable unless `:ro` follows; may be repeated
    #[arg(long = "disk", value_name = "PATH[:ro]")]
    disks: Vec<OsString>,
    /// A tap device; may be repeated
    #[arg(long = "tap", value_name = "NAME")]
    taps: Vec<String>,
    /// A vsock device, with its context id and the unix socket to bind
    #[arg(long, value_name = "CID:PATH", value_parser = parse_vsock)]
    vsock: Option<VsockConfig>,
    /// Serve the API on a unix socket bound here
    #[arg(long, value_name = "PATH")]
    api_sock: Option<PathBuf>,
}

/// What the arguments ask for.
pub(crate) struct Plan {
    /// The machine; without one the API configures it.
    pub(crate) config: Option<VmConfig>,
    /// Where the API is served.
    pub(crate) api: Option<UnixListener>,
    /// Whether the machine runs at once.
    pub(crate) start: bool,
}

impl Arguments {
    /// The format of a probe, if that is what is asked for.
    pub(crate) fn probe(&self) -> Option<ProbeFormat> {
        match &self.command {
            Some(Command::Probe { output }) => Some(*output),
            _ => None,
        }
    }

    pub(crate) fn plan(self, inherited: &mut Inherited) -> anyhow::Result<Plan> {
        if let Some(Command::Run(run)) = self.command {
            let api = run.api_sock.clone().map(listen).transpose()?;
            return Ok(Plan { config: Some(run.config()?), api, start: true });
        }
        let api = match (self.api_sock, self.api_fd) {
            (Some(path), _) => Some(listen(path)?),
            (None, Some(fd)) => {
                let socket = inherited.take(fd);
                Some(socket.with_context(|| format!("--api-fd {fd} is not open"))?.into())
            }
            (None, None) => None,
        };
        let config = match (self.config, self.config_fd) {
            (Some(path), _) => {
                let file = File::open(&path);
                let file = file.with_context(|| format!("cannot open {}", path.display()));
                Some(read_config(file?, &path.display().to_string())?)
            }
            (None, Some(fd)) => {
                let file = inherited.take(fd);
                let file = file.with_context(|| format!("--config-fd {fd} is not open"))?;
                Some(read_config(file.into(), "--config-fd")?)
            }
            (None, None) => None,
        };
        if api.is_none() && (config.is_none() || self.no_start) {
            bail!("nothing to run: name --config, or --api-sock, or use `bulkhead-vmm run`");
        }
        Ok(Plan { config, api, start: !self.no_start })
    }
}

impl Run {
    fn config(self) -> anyhow::Result<VmConfig> {
        let disks = self.disks.into_iter().enumerate().map(|(index, disk)| {
            let text = disk.to_string_lossy();
            let (path, read_only) = match text.strip_suffix(":ro") {
                Some(path) => (PathBuf::from(path), true),
                None => (PathBuf::from(&disk), false),
            };
            let file = FileSource::Path(path);
            let range = RangeConfig { offset: 0, length: None, file };
            DiskConfig { id: format!("disk{index}"), size: None, read_only, ranges: vec![range] }
        });
        let nets = self.taps.into_iter().enumerate().map(|(index, tap)| {
            anyhow::ensure!(index < 256, "at most 256 taps");
            Ok(NetConfig {
                id: format!("net{index}"),
                tap: FileSource::Path(tap.into()),
                mac: format!("02:00:00:00:00:{:02x}", index + 1),
                mtu: None,
            })
        });
        Ok(VmConfig {
            cpus: self.cpus,
            memory: self.memory,
            kernel: FileSource::Path(self.kernel),
            initrd: self.initrd.map(FileSource::Path),
            cmdline: self.cmdline,
            disks: disks.collect(),
            nets: nets.collect::<anyhow::Result<_>>()?,
            vsock: self.vsock,
            console: ConsoleConfig::Stdio,
        })
    }
}

fn listen(path: PathBuf) -> anyhow::Result<UnixListener> {
    bind(&path).with_context(|| format!("cannot listen on {}", path.display()))
}

fn read_config(file: File, name: &str) -> anyhow::Result<VmConfig> {
    let mut text = String::new();
    file.take(MAX_CONFIG)
        .read_to_string(&mut text)
        .with_context(|| format!("cannot read {name}"))?;
    serde_json::from_str(&text).with_context(|| format!("{name} is not a configuration"))
}

fn parse_size(text: &str) -> Result<u64, String> {
    let (number, shift) = match text.as_bytes().last() {
        Some(b'K' | b'k') => (&text[..text.len() - 1], 10),
        Some(b'M' | b'm') => (&text[..text.len() - 1], 20),
        Some(b'G' | b'g') => (&text[..text.len() - 1], 30),
        _ => (text, 0),
    };
    number
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(1 << shift))
        .ok_or_else(|| "expected a number of bytes, or with K, M or G: 256M".to_owned())
}

fn parse_vsock(text: &str) -> Result<VsockConfig, String> {
    let (cid, path) = text.split_once(':').ok_or("expected CID:PATH: 3:/tmp/vsock.sock")?;
    let cid = cid.parse().map_err(|_| format!("{cid} is not a context id"))?;
    let listener = FileSource::Path(path.into());
    Ok(VsockConfig { cid, listener, guest_connections: None })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_suffixes() {
        assert_eq!(parse_size("4096"), Ok(4096));
        assert_eq!(parse_size("256M"), Ok(256 << 20));
        assert_eq!(parse_size("5g"), Ok(5 << 30));
        for bad in ["", "M", "-1M", "1T", "99999999999G"] {
            assert!(parse_size(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_disk_may_be_read_only() {
        let arguments = Arguments::parse_from([
            "bulkhead-vmm",
            "run",
            "--kernel",
            "k",
            "--disk",
            "a:ro",
            "--disk",
            "b",
            "--vsock",
            "3:/tmp/v",
        ]);
        let plan = arguments.plan(&mut Inherited::default()).unwrap();
        let config = plan.config.unwrap();
        let disks: Vec<_> = config.disks.iter().map(|disk| disk.read_only).collect();
        assert_eq!(disks, [true, false]);
        assert_eq!(config.disks[0].ranges[0].file, FileSource::Path("a".into()));
        assert_eq!(config.vsock.unwrap().cid, 3);
    }

    #[test]
    fn nothing_to_run_is_refused() {
        let plan = Arguments::parse_from(["bulkhead-vmm"]).plan(&mut Inherited::default());
        assert!(plan.is_err());
    }
}
