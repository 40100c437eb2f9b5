//! One machine for one command, in the foreground.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::sys::signal::{SigSet, Signal, kill};
use nix::unistd::Pid;
use rustix::event::{PollFd, PollFlags, poll};
use thiserror::Error;

use crate::control::{BOOT_PATIENCE, Control, Sender, connect};
use crate::daemon::{Forward, complaint, last_lines};
use crate::prepare::Boot;
use crate::qemu::{DiskError, Drive, Machine, PROGRAM, make_disk};
use crate::spec::{Disk, Event, Mode, Request, Spec, port};
use crate::terminal::{self, Raw};
use crate::work::Work;

const PORTS: [&str; 4] = [port::CONTROL, port::STDIN, port::STDOUT, port::STDERR];

/// What to run, and on which machine.
#[derive(Debug, Clone)]
pub struct RunOptions {
    /// What [`crate::prepare`] returned.
    pub boot: Boot,
    /// The `bulkhead-emulated-host` program.
    pub program: PathBuf,
    /// The machine's memory, in MiB.
    pub memory_mib: u32,
    /// The machine's processors.
    pub cpus: u32,
    /// A scratch disk: its size in bytes, and where it is mounted.
    pub disk: Option<(u64, PathBuf)>,
    /// Ports of 127.0.0.1 that lead inside.
    pub forwards: Vec<Forward>,
    /// The command and its arguments.
    pub command: Vec<String>,
    /// Its whole environment.
    pub environment: BTreeMap<String, String>,
    /// Its working directory.
    pub directory: PathBuf,
}

/// Why the command's own exit status is not known.
#[derive(Debug, Error)]
pub enum RunError {
    /// A file, pipe or terminal failed.
    #[error("{what}: {source}")]
    Io {
        /// Which, or what was tried.
        what: String,
        /// Why.
        source: io::Error,
    },
    /// A program that is needed is missing.
    #[error("{0} is not installed; install Debian's {1}")]
    Missing(&'static str, &'static str),
    /// The disk could not be made.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// QEMU ended before the machine was there.
    #[error("QEMU did not start: {0}")]
    Refused(String),
    /// The machine could not run the command.
    #[error("{0}")]
    Inside(String),
    /// The machine hangs.
    #[error("the emulated host did not come up in two minutes; the end of its console:\n{0}")]
    Stuck(String),
    /// The machine ended before the command did.
    #[error("the emulated host ended before the command did; the end of its console:\n{0}")]
    Gone(String),
}

/// Runs a command in a machine of its own with this process's standard streams, and returns its exit
/// status: 128 + n when signal n killed it. On a terminal the command gets one too.
///
/// SIGINT, SIGTERM and SIGHUP end the machine and this process, and so does the end of whoever reads
/// the output: a command that says nothing would never notice. The calling thread must be the
/// process's first: QEMU ends with it.
///
/// # Errors
/// When the machine cannot be started or ends before the command.
pub fn run(options: &RunOptions) -> Result<i32, RunError> {
    let work = Work::new(&std::env::temp_dir()).map_err(what("a temporary directory"))?;
    let interactive = terminal::interactive();
    let spec = work.path().join("spec.json");
    write_spec(&spec, options, interactive)?;
    let disk = options.disk.as_ref().map(|_| work.path().join("disk.img"));
    if let (Some((size, _)), Some(path)) = (&options.disk, &disk) {
        make_disk(path, *size)?;
    }

    // Blocked before any thread or child is made, so that one thread takes them all.
    let signals =
        SigSet::from_iter([Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGWINCH]);
    signals
        .thread_block()
        .map_err(|errno| RunError::Io { what: "signals".into(), source: errno.into() })?;
    let mut qemu = spawn(options, &spec, disk.as_deref(), work.path())?;
    let result = attend(&mut qemu, work.path(), interactive, signals);
    // Whatever came of it, no machine is left.
    let _ = qemu.kill();
    let _ = qemu.wait();
    result
}

fn write_spec(path: &Path, options: &RunOptions, interactive: bool) -> Result<(), RunError> {
    let spec = Spec {
        mode: if interactive { Mode::Terminal } else { Mode::Pipes },
        command: options.command.clone(),
        environment: options.environment.clone(),
        directory: options.directory.clone(),
        disk: options
            .disk
            .as_ref()
            .map(|(_, mount_point)| Disk { mount_point: mount_point.clone() }),
    };
    let text = serde_json::to_vec(&spec)
        .map_err(|error| RunError::Io { what: "spec".into(), source: error.into() })?;
    fs::write(path, text).map_err(what(path.display()))
}

fn spawn(
    options: &RunOptions,
    spec: &Path,
    disk: Option<&Path>,
    work: &Path,
) -> Result<Child, RunError> {
    let machine = Machine {
        boot: &options.boot,
        program: &options.program,
        spec,
        memory_mib: options.memory_mib,
        cpus: options.cpus,
        disk: disk.map(|path| Drive { path, lasts: false }),
        forwards: &options.forwards,
        sockets: &PORTS,
        log: None,
    };
    let errors = File::create(work.join("qemu.err")).map_err(what("qemu.err"))?;
    // setpriv ties QEMU's life to ours even when we are killed with SIGKILL.
    Command::new("setpriv")
        .args(["--pdeathsig", "KILL", PROGRAM])
        .args(machine.arguments())
        .current_dir(work)
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(errors)
        .spawn()
        .map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => RunError::Missing("setpriv", "util-linux"),
            _ => RunError::Io { what: PROGRAM.to_owned(), source },
        })
}

/// Connects the streams, lets the command run, and waits for its end.
fn attend(
    qemu: &mut Child,
    work: &Path,
    interactive: bool,
    signals: SigSet,
) -> Result<i32, RunError> {
    let mut sockets = Vec::new();
    for name in PORTS {
        sockets.push(connect_when_there(qemu, work, name)?);
    }
    let [control, stdin, stdout, stderr] = <[UnixStream; 4]>::try_from(sockets)
        .map_err(|_| RunError::Inside("a port is missing".into()))?;
    let mut control = Control::new(control);
    let mut sender = control.sender().map_err(what("control port"))?;
    let raw =
        if interactive { Some(Arc::new(Raw::enter().map_err(what("terminal"))?)) } else { None };
    if let Some(size) = terminal::size().filter(|_| interactive) {
        sender.send(size).map_err(what("control port"))?;
    }
    sender.send(Request::Go).map_err(what("control port"))?;
    let machine = Arc::new(Abandoned { qemu: qemu.id(), raw, work: work.to_owned() });
    attend_signals(signals, sender, Arc::clone(&machine));
    attend_reader(machine);

    // Not joined: it may wait for input for ever.
    thread::spawn(move || {
        let mut stdin = stdin;
        pump(io::stdin(), &mut stdin);
        // Half of it only: QEMU drops what it has not read yet from a socket that is closed whole.
        let _ = stdin.shutdown(Shutdown::Write);
        thread::park();
    });
    let outputs: Vec<JoinHandle<()>> = vec![
        thread::spawn(move || pump(stdout, io::stdout())),
        thread::spawn(move || pump(stderr, io::stderr())),
    ];

    let status = ended(&mut control, work, BOOT_PATIENCE)?;
    wait_or_kill(qemu, Duration::from_secs(10));
    for output in outputs {
        // A pump cannot fail; what it could not write has no reader.
        let _ = output.join();
    }
    Ok(status)
}

/// Waits for the command to begin, which it must within `patience`, and to end; its status.
fn ended(control: &mut Control, work: &Path, patience: Duration) -> Result<i32, RunError> {
    control.set_patience(Some(patience)).map_err(what("control port"))?;
    loop {
        match control.event() {
            Ok(Some(Event::Up)) => control.set_patience(None).map_err(what("control port"))?,
            Ok(Some(Event::Exited { status })) => return Ok(status),
            Ok(Some(Event::Failed { message })) => return Err(RunError::Inside(message)),
            Ok(None) => return Err(RunError::Gone(console(work))),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                return Err(RunError::Stuck(console(work)));
            }
            Err(error) => return Err(what("control port")(error)),
        }
    }
}

fn connect_when_there(qemu: &mut Child, work: &Path, name: &str) -> Result<UnixStream, RunError> {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        match connect(work, &format!("{name}.sock")) {
            Ok(stream) => return Ok(stream),
            Err(source) if Instant::now() >= deadline => {
                return Err(RunError::Io { what: format!("{name} port"), source });
            }
            Err(_) => thread::sleep(Duration::from_millis(10)),
        }
        if qemu.try_wait().map_err(what(PROGRAM))?.is_some() {
            let said = complaint(&fs::read(work.join("qemu.err")).unwrap_or_default());
            return Err(
                if said.contains("No such file or directory") && said.contains("setpriv") {
                    RunError::Missing(PROGRAM, "qemu-system-x86")
                } else {
                    RunError::Refused(said)
                },
            );
        }
    }
}

/// What is left to do by whoever ends all before the command has.
struct Abandoned {
    qemu: u32,
    raw: Option<Arc<Raw>>,
    work: PathBuf,
}

impl Abandoned {
    /// Ends the machine and this process, as `signal` would.
    fn end(&self, signal: Signal) -> ! {
        let _ = kill(Pid::from_raw(self.qemu as i32), Signal::SIGKILL);
        if let Some(raw) = &self.raw {
            raw.restore();
        }
        let _ = fs::remove_dir_all(&self.work);
        std::process::exit(128 + signal as i32)
    }
}

/// Passes on new window sizes, and ends everything on a signal that asks for it.
fn attend_signals(signals: SigSet, mut sender: Sender, machine: Arc<Abandoned>) {
    thread::spawn(move || {
        while let Ok(signal) = signals.wait() {
            if signal != Signal::SIGWINCH {
                machine.end(signal);
            }
            if let (Some(size), true) = (terminal::size(), machine.raw.is_some()) {
                // The machine may have ended meanwhile.
                let _ = sender.send(size);
            }
        }
    });
}

/// Ends everything when nobody can read standard output any more. A file can always be read.
fn attend_reader(machine: Arc<Abandoned>) {
    thread::spawn(move || {
        let stdout = io::stdout();
        // Nothing is asked for: only the reader's end wakes it.
        let mut ends = [PollFd::new(&stdout, PollFlags::empty())];
        if poll(&mut ends, None).is_ok() {
            machine.end(Signal::SIGPIPE);
        }
    });
}

fn wait_or_kill(qemu: &mut Child, patience: Duration) {
    let deadline = Instant::now() + patience;
    while matches!(qemu.try_wait(), Ok(None)) && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(10));
    }
    let _ = qemu.kill();
}

/// Copies until either side ends, passing on each piece as it comes.
pub(crate) fn pump(mut from: impl Read, mut to: impl Write) {
    let mut buffer = vec![0; 64 << 10];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return,
            Ok(count) => {
                if to.write_all(&buffer[..count]).and_then(|()| to.flush()).is_err() {
                    return;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return,
        }
    }
}

/// The end of the machine's console.
fn console(work: &Path) -> String {
    last_lines(&fs::read(work.join("console.log")).unwrap_or_default(), 20)
}

fn what(name: impl ToString) -> impl FnOnce(io::Error) -> RunError {
    let what = name.to_string();
    |source| RunError::Io { what, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_that_says_nothing_hangs_and_a_command_may_take_its_time() {
        let work = tempfile::tempdir().unwrap();
        fs::write(work.path().join("console.log"), "the last line\n").unwrap();
        let patience = Duration::from_millis(50);

        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let mut control = Control::new(ours);
        let stuck = ended(&mut control, work.path(), patience).unwrap_err();
        assert!(stuck.to_string().ends_with("the last line"), "{stuck}");
        assert!(matches!(stuck, RunError::Stuck(_)), "{stuck:?}");

        theirs.write_all(b"{\"event\":\"up\"}\n").unwrap();
        let inside = thread::spawn(move || {
            thread::sleep(patience * 4);
            theirs.write_all(b"{\"event\":\"exited\",\"status\":3}\n").unwrap();
        });
        assert_eq!(ended(&mut control, work.path(), patience).unwrap(), 3);
        inside.join().unwrap();

        let gone = ended(&mut control, work.path(), patience).unwrap_err();
        assert!(matches!(gone, RunError::Gone(_)), "{gone:?}");
    }
}
