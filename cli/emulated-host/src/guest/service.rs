//! A service that is kept alive until the machine is told to stop.

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::wait;
use nix::unistd::Pid;

use super::{exit_status, open_port, requests, send};
use crate::spec::{Event, Request, Spec, port};

/// How long the service has to end before it is killed.
const STOP_PATIENCE: Duration = Duration::from_secs(20);
/// A service that dies is started again at once if it lived this long, else after as long.
const STEADY: Duration = Duration::from_secs(1);

#[derive(Default)]
struct State {
    /// The service's pid, 0 while there is none.
    pid: AtomicI32,
    stopping: AtomicBool,
}

/// Runs the service and answers requests; returns when the machine is to be switched off.
pub(super) fn serve(spec: &Spec) -> Result<(), String> {
    let log = open_port(port::LOG)?;
    let control = open_port(port::CONTROL)?;
    let state = Arc::new(State::default());
    let mut started = spawn(spec, &log, &state)?;
    let answering = Arc::clone(&state);
    thread::spawn(move || answer(control, &answering));

    loop {
        // As PID 1 this reaps whatever the service left behind, too.
        let ended = match wait() {
            Ok(status) => status,
            Err(Errno::EINTR) => continue,
            Err(errno) => return Err(format!("waiting for the service: {errno}")),
        };
        let service = Pid::from_raw(state.pid.load(Ordering::SeqCst));
        if ended.pid() != Some(service) {
            continue;
        }
        let Some(status) = exit_status(ended) else { continue };
        state.pid.store(0, Ordering::SeqCst);
        if state.stopping.load(Ordering::SeqCst) {
            return Ok(());
        }
        eprintln!(
            "emulated host: {} ended with status {status}; starting it again",
            spec.command[0]
        );
        if started.elapsed() < STEADY {
            thread::sleep(STEADY);
        }
        started = spawn(spec, &log, &state)?;
    }
}

fn spawn(spec: &Spec, log: &File, state: &State) -> Result<Instant, String> {
    let output = || log.try_clone().map_err(|error| format!("log port: {error}"));
    let mut command = Command::new(&spec.command[0]);
    command
        .args(&spec.command[1..])
        .env_clear()
        .envs(&spec.environment)
        .current_dir(&spec.directory);
    command.stdin(Stdio::null()).stdout(output()?).stderr(output()?).process_group(0);
    let child = command.spawn().map_err(|error| format!("{}: {error}", spec.command[0]))?;
    state.pid.store(child.id() as i32, Ordering::SeqCst);
    if state.stopping.load(Ordering::SeqCst) {
        end(state);
    }
    Ok(Instant::now())
}

fn answer(control: File, state: &Arc<State>) {
    let Ok(mut answers) = control.try_clone() else { return };
    for request in requests(control) {
        match request {
            Ok(Request::Go) => send(&mut answers, &Event::Up),
            Ok(Request::Stop) => {
                state.stopping.store(true, Ordering::SeqCst);
                let state = Arc::clone(state);
                thread::spawn(move || end(&state));
            }
            // A service has no terminal.
            Ok(Request::Resize { .. }) => {}
            Err(_) => thread::sleep(Duration::from_millis(100)),
        }
    }
}

/// Asks the service to end, and kills it when it does not.
fn end(state: &State) {
    let pid = state.pid.load(Ordering::SeqCst);
    if pid == 0 {
        return;
    }
    // An error means that it has ended by itself.
    let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
    let deadline = Instant::now() + STOP_PATIENCE;
    while state.pid.load(Ordering::SeqCst) == pid {
        if Instant::now() >= deadline {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            return;
        }
        thread::sleep(Duration::from_millis(20));
    }
}
