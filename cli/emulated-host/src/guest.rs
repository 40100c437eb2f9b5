//! The inner half: PID 1 of the emulated host once `init.sh` has stacked the root.

mod machine;
mod service;
mod session;

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::wait::WaitStatus;

use crate::spec::{Event, Mode, Request, Spec, port};

/// Sets the machine up, runs what the spec says, and powers off. Never returns while it is PID 1.
pub fn main(spec: &Path) {
    if std::process::id() != 1 {
        eprintln!("bulkhead-emulated-host guest is the emulated host's own first process");
        return;
    }
    let outside = spec.parent().unwrap_or(spec);
    let outcome = read_spec(spec).and_then(|spec| {
        let _kept = machine::keep_vms()?;
        machine::set_up(&spec, outside)?;
        match spec.mode {
            Mode::Service => service::serve(&spec),
            Mode::Pipes | Mode::Terminal => session::hold(&spec),
        }
    });
    if let Err(message) = outcome {
        eprintln!("emulated host: {message}");
        report(&message);
    }
    machine::power_off();
}

/// Makes the calling process's standard input its controlling terminal, then becomes `command`.
///
/// # Errors
/// When that is no terminal, or the command cannot be run.
pub fn take_terminal(command: &[String]) -> io::Error {
    let Some((program, arguments)) = command.split_first() else {
        return io::ErrorKind::InvalidInput.into();
    };
    let taken =
        rustix::process::setsid().and_then(|_| rustix::process::ioctl_tiocsctty(io::stdin()));
    match taken {
        Ok(()) => Command::new(program).args(arguments).exec(),
        Err(errno) => errno.into(),
    }
}

fn read_spec(path: &Path) -> Result<Spec, String> {
    let text = fs::read(path).map_err(|error| format!("{}: {error}", path.display()))?;
    let spec: Spec =
        serde_json::from_slice(&text).map_err(|error| format!("{}: {error}", path.display()))?;
    if spec.command.is_empty() {
        return Err(format!("{}: no command", path.display()));
    }
    Ok(spec)
}

/// Tells the outer half why nothing was run, if it still listens.
fn report(message: &str) {
    let Ok(file) = open_port(port::CONTROL) else { return };
    let Ok(mut answers) = file.try_clone() else { return };
    if matches!(requests(file).find(|request| *request == Ok(Request::Go)), Some(Ok(_))) {
        send(&mut answers, &Event::Failed { message: message.to_owned() });
    }
}

/// Opens a virtio-serial port by its name, waiting for the kernel to announce it.
fn open_port(name: &str) -> Result<File, String> {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        if let Some(path) = find_port(name) {
            let opened = File::options().read(true).write(true).open(&path);
            return opened.map_err(|error| format!("port {name} ({}): {error}", path.display()));
        }
        if Instant::now() >= deadline {
            return Err(format!("port {name}: there is none"));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn find_port(name: &str) -> Option<PathBuf> {
    let mut entries = fs::read_dir("/sys/class/virtio-ports").ok()?.flatten();
    let named =
        |path: &Path| fs::read_to_string(path.join("name")).is_ok_and(|found| found.trim() == name);
    let device = Path::new("/dev").join(entries.find(|entry| named(&entry.path()))?.file_name());
    device.exists().then_some(device)
}

/// The outer half has closed the port; another may open it.
#[derive(Debug, PartialEq, Eq)]
struct Closed;

/// Requests as they come. Lines that are none end nothing: they are told to the console.
fn requests(file: File) -> impl Iterator<Item = Result<Request, Closed>> {
    let mut reader = BufReader::new(file);
    std::iter::from_fn(move || {
        let mut line = String::new();
        match reader.read_line(&mut line) {
            Ok(0) | Err(_) => Some(Err(Closed)),
            Ok(_) => match serde_json::from_str(&line) {
                Ok(request) => Some(Ok(request)),
                Err(error) => {
                    eprintln!("emulated host: not a request: {error}");
                    Some(Err(Closed))
                }
            },
        }
    })
}

fn send(port: &mut File, event: &Event) {
    if let Ok(mut line) = serde_json::to_vec(event) {
        line.push(b'\n');
        // The outer half may be gone; then nobody is to be told.
        let _ = port.write_all(&line);
    }
}

/// An exit status as shells count it, when the process has ended.
fn exit_status(status: WaitStatus) -> Option<i32> {
    match status {
        WaitStatus::Exited(_, status) => Some(status),
        WaitStatus::Signaled(_, signal, _) => Some(128 + signal as i32),
        _ => None,
    }
}
