//! `bulkhead vm …`: the monitor alone.

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result};

use crate::args::{Vm, VmRun};
use crate::host::Place;
use crate::{home, input};

/// What the emulated host needs for itself, in MiB.
const EMULATED_HOST_MIB: u64 = 1024;

pub(super) async fn execute(command: Vm) -> Result<ExitCode> {
    match command {
        Vm::Run(run) => self::run(&run).await,
    }
}

/// Becomes the monitor, or the runner of an emulated host with the monitor in it; the terminal,
/// signals and the exit status are theirs.
async fn run(run: &VmRun) -> Result<ExitCode> {
    for (what, path) in [("kernel", Some(&run.kernel)), ("initrd", run.initrd.as_ref())]
        .into_iter()
        .chain(run.disks.iter().map(|disk| ("disk", Some(disk))))
    {
        if let Some(path) = path {
            input::file(what, path)?;
        }
    }
    let monitor = home::program("bulkhead-vmm")?;
    let arguments = arguments(run);
    let error = match Place::choose().await? {
        Place::Local => Command::new(&monitor).args(arguments).exec(),
        Place::Emulated { why } => {
            eprintln!("{why}: using an emulated host");
            let memory = (run.memory.bytes() >> 20) + EMULATED_HOST_MIB;
            Command::new(home::program("bulkhead-emulated-host")?)
                .args(["run", "--memory", &format!("{memory}M"), "--"])
                .arg(&monitor)
                .args(arguments)
                .exec()
        }
    };
    Err(error).with_context(|| format!("cannot run {}", monitor.display()))
}

fn arguments(run: &VmRun) -> Vec<OsString> {
    let mut arguments: Vec<OsString> =
        vec!["run".into(), "--kernel".into(), run.kernel.clone().into()];
    if let Some(initrd) = &run.initrd {
        arguments.extend(["--initrd".into(), initrd.into()]);
    }
    let memory = run.memory.bytes().to_string();
    for (flag, value) in
        [("--memory", memory), ("--cpus", run.cpus.to_string()), ("--cmdline", run.cmdline.clone())]
    {
        arguments.extend([flag.into(), value.into()]);
    }
    for disk in &run.disks {
        arguments.extend(["--disk".into(), disk.into()]);
    }
    arguments
}
