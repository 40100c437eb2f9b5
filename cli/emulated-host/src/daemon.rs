//! One machine that outlives the process which starts it, behind a directory of its own.
//!
//! The directory holds `spec.json`, `qemu.pid`, `console.log` (the kernel's), `service.log` (the
//! service's), the sockets, and, where the caller says so, the disk image. A machine is known by the
//! pid that QEMU wrote together with the directory in its command line, so neither a reused pid nor
//! what a killed QEMU left behind is mistaken for it.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::control::{BOOT_PATIENCE, Control, connect};
use crate::prepare::Boot;
use crate::qemu::{DiskError, Drive, Machine, NETWORK, PROGRAM, make_disk};
use crate::qmp::{Qmp, QmpError};
use crate::spec::{Disk, Event, Mode, Request, Spec, port};

const CONSOLE: &str = "console.log";
const SERVICE_LOG: &str = "service.log";
const PID: &str = "qemu.pid";
const SPEC: &str = "spec.json";
const QMP: &str = "qmp.sock";

/// The longest that a service, and then everything else inside, may take to end.
const STOP_PATIENCE: Duration = Duration::from_secs(45);
const QMP_PATIENCE: Duration = Duration::from_secs(5);

/// Why a machine could not be started, stopped or asked.
#[derive(Debug, Error)]
pub enum DaemonError {
    /// A file could not be read or written.
    #[error("{path}: {source}", path = path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// QEMU is not installed.
    #[error("{PROGRAM} is not installed; install Debian's qemu-system-x86")]
    NoQemu,
    /// QEMU ended at once.
    #[error("QEMU did not start: {0}")]
    Refused(String),
    /// The machine ended, or never came up.
    #[error("the emulated host {what}; the end of {console}:\n{tail}", console = console.display())]
    NotUp {
        /// What it did instead.
        what: String,
        /// Its console's log.
        console: PathBuf,
        /// The log's last lines.
        tail: String,
    },
    /// The disk image could not be made.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// A running machine could not be asked.
    #[error(transparent)]
    Qmp(#[from] QmpError),
    /// There is no machine to ask.
    #[error("no emulated host is running in {directory}", directory = .0.display())]
    NotRunning(PathBuf),
    /// The machine is still there after everything was tried.
    #[error("QEMU (pid {0}) could not be ended")]
    Stuck(i32),
}

/// A TCP port on this machine's loopback that leads inside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Forward {
    /// The port on 127.0.0.1 here.
    pub outside: u16,
    /// The port inside.
    pub inside: u16,
}

impl Forward {
    /// The rule as QEMU writes it.
    pub(crate) fn rule(self) -> String {
        format!("tcp:127.0.0.1:{}-:{}", self.outside, self.inside)
    }
}

/// What to start.
#[derive(Debug, Clone)]
pub struct StartOptions {
    /// The machine's directory; made when missing. No two machines share one.
    pub directory: PathBuf,
    /// What [`crate::prepare`] returned.
    pub boot: Boot,
    /// The `bulkhead-emulated-host` program.
    pub program: PathBuf,
    /// The machine's memory, in MiB.
    pub memory_mib: u32,
    /// The machine's processors.
    pub cpus: u32,
    /// The disk image's size in bytes when it is made; it is sparse and lies in the directory.
    pub disk_size: u64,
    /// Where the disk is mounted inside.
    pub disk_mount_point: PathBuf,
    /// Ports forwarded from the start.
    pub forwards: Vec<Forward>,
    /// The service: an absolute program and its arguments.
    pub command: Vec<String>,
    /// The service's environment, besides `PATH` and `HOME`.
    pub environment: BTreeMap<String, String>,
}

/// A machine that is up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Running {
    /// QEMU's pid.
    pub pid: i32,
    /// Whether this call started it; otherwise it ran already, with the options of its own start.
    pub started: bool,
}

/// What became of a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// QEMU runs, with this pid.
    Running(i32),
    /// Nothing runs.
    Stopped,
}

/// Starts a machine and waits until its service has been started, unless it runs already.
///
/// # Errors
/// When a file, the disk or QEMU cannot be had, or the machine does not come up; then nothing runs.
pub fn start(options: &StartOptions) -> Result<Running, DaemonError> {
    let directory = &options.directory;
    fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(at(directory))?;
    let directory = &directory.canonicalize().map_err(at(directory))?;
    let _lock = lock(directory)?;
    if let Some(pid) = running(directory) {
        if wait_until_up(directory, pid).is_ok() {
            return Ok(Running { pid, started: false });
        }
        end(directory, pid)?;
    }
    clear(directory);

    let disk = directory.join("state.img");
    if !disk.exists() {
        make_disk(&disk, options.disk_size)?;
    }
    let spec = directory.join(SPEC);
    write_spec(&spec, options)?;
    let machine = Machine {
        boot: &options.boot,
        program: &options.program,
        spec: &spec,
        memory_mib: options.memory_mib,
        cpus: options.cpus,
        disk: Some(Drive { path: &disk, lasts: true }),
        forwards: &options.forwards,
        sockets: &[port::CONTROL],
        log: Some((port::LOG, SERVICE_LOG)),
    };
    let output = Command::new(PROGRAM)
        .args(machine.arguments())
        .arg("-daemonize")
        .arg("-pidfile")
        .arg(directory.join(PID))
        .current_dir(directory)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => DaemonError::NoQemu,
            _ => DaemonError::Io { path: PROGRAM.into(), source: error },
        })?;
    if !output.status.success() {
        return Err(DaemonError::Refused(complaint(&output.stderr)));
    }
    let pid = running(directory).ok_or_else(|| not_up(directory, "ended at once"))?;
    if let Err(error) = wait_until_up(directory, pid) {
        end(directory, pid)?;
        return Err(error);
    }
    Ok(Running { pid, started: true })
}

/// Ends a machine: its service first, then everything else inside, then power. What does not end in
/// time is killed. Returns whether anything ran. The disk image stays.
///
/// # Errors
/// When QEMU cannot be ended.
pub fn stop(directory: &Path) -> Result<bool, DaemonError> {
    if !directory.is_dir() {
        return Ok(false);
    }
    let directory = &directory.canonicalize().map_err(at(directory))?;
    let _lock = lock(directory)?;
    let Some(pid) = running(directory) else {
        clear(directory);
        return Ok(false);
    };
    let asked = connect(directory, &format!("{}.sock", port::CONTROL))
        .and_then(|stream| Control::new(stream).sender()?.send(Request::Stop));
    if asked.is_ok() {
        wait_until_gone(directory, STOP_PATIENCE);
    }
    end(directory, pid)?;
    Ok(true)
}

/// What runs in `directory` now.
pub fn status(directory: &Path) -> Status {
    let running = directory.canonicalize().ok().and_then(|directory| running(&directory));
    running.map_or(Status::Stopped, Status::Running)
}

/// Forwards one more port while the machine runs.
///
/// # Errors
/// When no machine runs, or the port on this side is taken.
pub fn forward(directory: &Path, forward: Forward) -> Result<(), DaemonError> {
    qmp(directory)?
        .monitor(&format!("hostfwd_add {NETWORK} {}", forward.rule()))
        .map_err(DaemonError::from)
}

/// Takes a forwarded port back; connections that are open stay.
///
/// # Errors
/// When no machine runs.
pub fn unforward(directory: &Path, outside: u16) -> Result<(), DaemonError> {
    let answer =
        qmp(directory)?.monitor(&format!("hostfwd_remove {NETWORK} tcp:127.0.0.1:{outside}"));
    match answer {
        // QEMU reports success in words too.
        Err(QmpError::Refused { reason, .. })
            if reason.ends_with("removed") || reason.ends_with("not found") =>
        {
            Ok(())
        }
        other => other.map_err(DaemonError::from),
    }
}

fn qmp(directory: &Path) -> Result<Qmp, DaemonError> {
    if status(directory) == Status::Stopped {
        return Err(DaemonError::NotRunning(directory.to_owned()));
    }
    let stream = connect(directory, QMP).map_err(at(&directory.join(QMP)))?;
    Ok(Qmp::new(stream, QMP_PATIENCE)?)
}

fn write_spec(path: &Path, options: &StartOptions) -> Result<(), DaemonError> {
    let mut environment = BTreeMap::from([
        (
            "PATH".to_owned(),
            "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned(),
        ),
        ("HOME".to_owned(), "/root".to_owned()),
    ]);
    environment.extend(options.environment.clone());
    let spec = Spec {
        mode: Mode::Service,
        command: options.command.clone(),
        environment,
        directory: "/".into(),
        disk: Some(Disk { mount_point: options.disk_mount_point.clone() }),
    };
    let text = serde_json::to_vec_pretty(&spec).map_err(io::Error::from).map_err(at(path))?;
    fs::write(path, text).map_err(at(path))
}

/// Keeps a second start or stop of the same machine waiting.
fn lock(directory: &Path) -> Result<Flock<File>, DaemonError> {
    let path = directory.join("lock");
    let file = File::create(&path).map_err(at(&path))?;
    Flock::lock(file, FlockArg::LockExclusive)
        .map_err(|(_, errno)| DaemonError::Io { path, source: errno.into() })
}

/// The pid of the QEMU that serves `directory`, a canonical path.
fn running(directory: &Path) -> Option<i32> {
    let pid: i32 = fs::read_to_string(directory.join(PID)).ok()?.trim().parse().ok()?;
    let command_line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let pid_file = directory.join(PID);
    // A zombie's command line is empty.
    command_line
        .split(|&byte| byte == 0)
        .any(|word| word == pid_file.as_os_str().as_bytes())
        .then_some(pid)
}

fn wait_until_up(directory: &Path, pid: i32) -> Result<(), DaemonError> {
    let deadline = Instant::now() + BOOT_PATIENCE;
    let stream = connect(directory, &format!("{}.sock", port::CONTROL)).map_err(at(directory))?;
    let mut control = Control::new(stream);
    let talk = (|| {
        control.set_patience(Some(BOOT_PATIENCE))?;
        control.sender()?.send(Request::Go)?;
        control.event()
    })();
    match talk {
        Ok(Some(Event::Up)) => Ok(()),
        Ok(Some(Event::Failed { message })) => Err(not_up(directory, &message)),
        Ok(Some(Event::Exited { status })) => {
            Err(not_up(directory, &format!("ended with status {status}")))
        }
        _ if running(directory) != Some(pid) => {
            Err(not_up(directory, "ended before its service was started"))
        }
        _ if Instant::now() >= deadline => Err(not_up(directory, "did not come up in two minutes")),
        Ok(None) => Err(not_up(directory, "closed its control port")),
        Err(error) => Err(not_up(directory, &format!("cannot be talked to ({error})"))),
    }
}

fn wait_until_gone(directory: &Path, patience: Duration) -> bool {
    let deadline = Instant::now() + patience;
    while running(directory).is_some() {
        if Instant::now() >= deadline {
            return false;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    true
}

/// Kills QEMU if it still runs, and clears what it leaves.
fn end(directory: &Path, pid: i32) -> Result<(), DaemonError> {
    if running(directory) == Some(pid) {
        match kill(Pid::from_raw(pid), Signal::SIGKILL) {
            Ok(()) | Err(Errno::ESRCH) => {}
            Err(errno) => {
                return Err(DaemonError::Io {
                    path: format!("/proc/{pid}").into(),
                    source: errno.into(),
                });
            }
        }
        if !wait_until_gone(directory, Duration::from_secs(10)) {
            return Err(DaemonError::Stuck(pid));
        }
    }
    clear(directory);
    Ok(())
}

/// Removes what a QEMU that is gone leaves. Logs stay for whoever wants to know why.
fn clear(directory: &Path) {
    let control = format!("{}.sock", port::CONTROL);
    for name in [PID, QMP, SPEC, &control] {
        // Each may be missing; one that cannot be removed fails the next start by name.
        let _ = fs::remove_file(directory.join(name));
    }
}

fn not_up(directory: &Path, what: &str) -> DaemonError {
    let console = directory.join(CONSOLE);
    let text = fs::read(&console).unwrap_or_default();
    DaemonError::NotUp { what: what.to_owned(), console, tail: last_lines(&text, 10) }
}

/// QEMU's complaint without its warnings of what TCG lacks.
pub(crate) fn complaint(stderr: &[u8]) -> String {
    let text = String::from_utf8_lossy(stderr);
    let lines: Vec<_> = text
        .lines()
        .filter(|line| !line.contains("TCG doesn't support requested feature"))
        .collect();
    lines.join("\n")
}

pub(crate) fn last_lines(text: &[u8], count: usize) -> String {
    let text = String::from_utf8_lossy(text);
    let lines: Vec<_> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> DaemonError {
    let path = path.to_owned();
    |source| DaemonError::Io { path, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reused_pid_is_not_the_machine() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join(PID), std::process::id().to_string()).unwrap();
        assert_eq!(status(directory.path()), Status::Stopped);
    }

    #[test]
    fn stopping_clears_what_a_killed_machine_left() {
        let directory = tempfile::tempdir().unwrap();
        for name in [PID, QMP, "control.sock", "state.img"] {
            fs::write(directory.path().join(name), "1").unwrap();
        }
        assert!(!stop(directory.path()).unwrap());
        assert!(!directory.path().join(QMP).exists());
        assert!(directory.path().join("state.img").exists());
    }

    #[test]
    fn a_machine_is_known_by_pid_and_directory() {
        let directory = tempfile::tempdir().unwrap();
        let home = directory.path().canonicalize().unwrap();
        let mut child = Command::new("sleep").arg("60").arg0_pid_file(&home).spawn().unwrap();
        // QEMU writes the file when it runs; a process that was just spawned may have no command
        // line yet.
        while fs::read(format!("/proc/{}/cmdline", child.id())).unwrap().is_empty() {
            std::thread::yield_now();
        }
        fs::write(home.join(PID), child.id().to_string()).unwrap();
        let seen = status(&home);
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(seen, Status::Running(child.id() as i32));
        assert_eq!(status(&home), Status::Stopped);
    }

    /// A stand-in for QEMU: its command line names the pid file.
    trait NamesPidFile {
        fn arg0_pid_file(&mut self, home: &Path) -> &mut Self;
    }

    impl NamesPidFile for Command {
        fn arg0_pid_file(&mut self, home: &Path) -> &mut Self {
            std::os::unix::process::CommandExt::arg0(self, home.join(PID))
        }
    }

    #[test]
    fn nothing_can_be_forwarded_to_a_machine_that_is_not_there() {
        let directory = tempfile::tempdir().unwrap();
        let error = forward(directory.path(), Forward { outside: 1, inside: 1 }).unwrap_err();
        assert!(matches!(error, DaemonError::NotRunning(_)), "{error}");
    }

    #[test]
    fn warnings_are_not_complaints() {
        let stderr =
            b"qemu: warning: TCG doesn't support requested feature: rdseed\nqemu: port is taken\n";
        assert_eq!(complaint(stderr), "qemu: port is taken");
        assert_eq!(last_lines(b"a\n\nb\nc\n", 2), "b\nc");
    }
}
