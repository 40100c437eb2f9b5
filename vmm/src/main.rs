//! The monitor's binary: arguments in, an exit code and one line out.

mod arguments;

use std::io;
use std::os::fd::AsRawFd;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use bulkhead_vmm::api::{Control, ControlError, Server};
use bulkhead_vmm::config::Inherited;
use bulkhead_vmm::console::RawTerminal;
use bulkhead_vmm::event_loop::{EventHandler, EventLoop, EventSet, Sources};
use bulkhead_vmm::exit::{CODE_CONFIG, Exit, ExitSink};
use bulkhead_vmm::termination::Termination;
use bulkhead_vmm_api::ConsoleConfig;
use clap::Parser;

use crate::arguments::{Arguments, Plan, ProbeFormat};

/// A failure before the machine ran: the exit code and the line.
struct Failure(i32, String);

fn main() -> ExitCode {
    let start = Instant::now();
    let arguments = Arguments::parse();
    if let Some(format) = arguments.probe() {
        return probe(format);
    }
    let (code, line) = match run(start, arguments) {
        Ok(exit) => (exit.code(), exit.to_string()),
        Err(Failure(code, line)) => (code, line),
    };
    eprintln!("bulkhead-vmm: {line}");
    ExitCode::from(u8::try_from(code).unwrap_or(1))
}

fn probe(format: ProbeFormat) -> ExitCode {
    let report = bulkhead_vmm::probe::probe();
    match format {
        ProbeFormat::Text => println!("{report}"),
        ProbeFormat::Json => println!("{}", serde_json::json!(report)),
    }
    let usable = report.verdict == bulkhead_vmm::probe::Verdict::Usable;
    ExitCode::from(u8::from(!usable))
}

fn run(start: Instant, arguments: Arguments) -> Result<Exit, Failure> {
    let mut inherited = Inherited::default();
    let plan = arguments
        .plan(&mut inherited)
        .map_err(|error| Failure(CODE_CONFIG, format!("{error:#}")))?;
    let host = |error: io::Error| Failure(1, format!("cannot set up the event loop: {error}"));
    let exit = Arc::new(ExitSink::new().map_err(host)?);
    let mut event_loop = EventLoop::new().map_err(host)?;
    event_loop.add(Box::new(Wake(exit.clone()))).map_err(host)?;
    let termination = Termination::new(exit.clone()).map_err(host)?;
    event_loop.add(Box::new(termination)).map_err(host)?;

    let Plan { config, api, start: start_now } = plan;
    let raw = config.as_ref().is_some_and(|config| config.console == ConsoleConfig::Stdio);
    let mut control = Control::new(start, exit.clone());
    if let Some(config) = config {
        for handler in control.configure(config, &mut inherited).map_err(failure)? {
            event_loop.add(handler).map_err(host)?;
        }
        if start_now {
            control.start().map_err(failure)?;
        }
    }
    // Restored on every way out of this function.
    let _terminal = if raw { RawTerminal::enter() } else { None };
    // Without a server nobody else holds the machine.
    let mut idle = None;
    match api {
        Some(listener) => {
            event_loop.add(Box::new(Server::new(listener, control))).map_err(host)?;
        }
        None => idle = Some(control),
    }
    let ended = loop {
        if let Some(ended) = exit.get() {
            break ended;
        }
        if let Err(error) = event_loop.run_once(-1) {
            break Exit::Monitor(error.to_string());
        }
    };
    drop(idle);
    Ok(ended)
}

fn failure(error: ControlError) -> Failure {
    let code = match &error {
        ControlError::Build(error) => error.code(),
        _ => CODE_CONFIG,
    };
    Failure(code, error.to_string())
}

/// Wakes the loop when the machine has ended.
struct Wake(Arc<ExitSink>);

impl EventHandler for Wake {
    fn register(&mut self, sources: &mut Sources<'_>) -> io::Result<()> {
        sources.add(self.0.wake().as_raw_fd(), 0, EventSet::IN)
    }

    fn handle(&mut self, _: u32, _: EventSet, _: &mut Sources<'_>) {
        let _ = self.0.wake().read();
    }
}
