//! One command, its standard streams carried outside.

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use nix::pty::openpty;
use nix::sys::wait::wait;
use nix::unistd::Pid;
use rustix::termios::{Winsize, tcsetwinsize};

use super::{Closed, exit_status, machine, open_port, requests, send};
use crate::run::pump;
use crate::spec::{Event, Mode, Request, Spec, port};

/// How long output may keep coming from processes that the command left behind.
const LINGER: Duration = Duration::from_secs(1);

/// Waits for the outer half, runs the command, and tells how it ended.
pub(super) fn hold(spec: &Spec) -> Result<(), String> {
    let control = open_port(port::CONTROL)?;
    let mut answers = control.try_clone().map_err(|error| format!("control port: {error}"))?;
    let mut requests = requests(control);
    let mut size = None;
    loop {
        match requests.next() {
            Some(Ok(Request::Go)) => break,
            Some(Ok(Request::Resize { rows, columns })) => size = Some((rows, columns)),
            Some(Ok(Request::Stop)) | None => return Ok(()),
            Some(Err(Closed)) => thread::sleep(Duration::from_millis(10)),
        }
    }
    let started =
        if spec.mode == Mode::Terminal { on_terminal(spec, size) } else { on_pipes(spec) };
    let (pid, terminal, outputs) = match started {
        Ok(started) => started,
        Err(message) => {
            send(&mut answers, &Event::Failed { message });
            return Ok(());
        }
    };
    send(&mut answers, &Event::Up);
    thread::spawn(move || {
        for request in requests {
            match (request, &terminal) {
                (Ok(Request::Resize { rows, columns }), Some(terminal)) => {
                    resize(terminal, rows, columns)
                }
                // Nobody is left who would want the command's output.
                (Ok(Request::Stop) | Err(Closed), _) => machine::power_off(),
                _ => {}
            }
        }
    });

    let status = wait_for(pid)?;
    while outputs.recv_timeout(LINGER).is_ok() {}
    send(&mut answers, &Event::Exited { status });
    Ok(())
}

type Started = (Pid, Option<File>, Receiver<()>);

fn on_pipes(spec: &Spec) -> Result<Started, String> {
    let mut command = prepared(Command::new(&spec.command[0]), &spec.command[1..], spec);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    let mut child = command.spawn().map_err(|error| cannot_run(spec, &error))?;
    let (ended, outputs) = mpsc::channel();
    if let Some(stdin) = child.stdin.take() {
        let port = open_port(port::STDIN)?;
        thread::spawn(move || pump(port, stdin));
    }
    if let Some(stdout) = child.stdout.take() {
        let (port, ended) = (open_port(port::STDOUT)?, ended.clone());
        thread::spawn(move || {
            pump(stdout, port);
            ended.send(())
        });
    }
    if let Some(stderr) = child.stderr.take() {
        let port = open_port(port::STDERR)?;
        thread::spawn(move || {
            pump(stderr, port);
            ended.send(())
        });
    }
    Ok((Pid::from_raw(child.id() as i32), None, outputs))
}

fn on_terminal(spec: &Spec, size: Option<(u16, u16)>) -> Result<Started, String> {
    let failed = |what: &str, error: &dyn std::fmt::Display| format!("terminal: {what}: {error}");
    let pty = openpty(None, None).map_err(|errno| failed("openpty", &errno))?;
    let terminal = File::from(pty.master);
    if let Some((rows, columns)) = size {
        resize(&terminal, rows, columns);
    }
    let slave = || pty.slave.try_clone().map_err(|error| failed("its other end", &error));
    let mut arguments = vec!["terminal".to_owned()];
    arguments.extend(spec.command.iter().cloned());
    let mut command = prepared(Command::new("/proc/self/exe"), &arguments, spec);
    command.stdin(slave()?).stdout(slave()?).stderr(slave()?);
    let child = command.spawn().map_err(|error| cannot_run(spec, &error))?;
    drop(command);

    let (ended, outputs) = mpsc::channel();
    let clone = || terminal.try_clone().map_err(|error| failed("its master", &error));
    let (input, output) = (clone()?, clone()?);
    let (from, to) = (open_port(port::STDIN)?, open_port(port::STDOUT)?);
    thread::spawn(move || pump(from, input));
    thread::spawn(move || {
        pump(output, to);
        ended.send(())
    });
    Ok((Pid::from_raw(child.id() as i32), Some(terminal), outputs))
}

fn prepared(mut command: Command, arguments: &[String], spec: &Spec) -> Command {
    command.args(arguments).env_clear().envs(&spec.environment).current_dir(&spec.directory);
    command
}

fn cannot_run(spec: &Spec, error: &std::io::Error) -> String {
    format!("cannot run {} in {}: {error}", spec.command[0], spec.directory.display())
}

fn resize(terminal: &File, rows: u16, columns: u16) {
    // A terminal that is gone needs no size.
    let _ = tcsetwinsize(
        terminal,
        Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 },
    );
}

/// Reaps everything until the command itself has ended.
fn wait_for(pid: Pid) -> Result<i32, String> {
    loop {
        match wait() {
            Ok(ended) if ended.pid() == Some(pid) => {
                if let Some(status) = exit_status(ended) {
                    return Ok(status);
                }
            }
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(format!("waiting for the command: {errno}")),
        }
    }
}
