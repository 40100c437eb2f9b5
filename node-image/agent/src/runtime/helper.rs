//! The helper: this binary again, single-threaded, as `agent __runtime VERB …`.
//!
//! `libcontainer` clones without exec, which is unsafe in a process with a reactor. The helper's
//! standard streams are the container's; what became of the request is written to a file.

use std::{
    ffi::OsString,
    fs, io,
    path::{Path, PathBuf},
    process::Stdio,
};

use libcontainer::{container::builder::ContainerBuilder, syscall::syscall::SyscallType};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::seccomp::Filtered;

/// The first argument that makes this binary a helper.
pub(crate) const ARGUMENT: &str = "__runtime";

/// What a helper is asked.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Verb {
    /// Create and start the container whose specification is in this directory.
    Run(PathBuf),
    /// Run the process in this file in the running container.
    Exec(PathBuf),
}

/// A request to a helper.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct HelperRequest {
    pub(crate) verb: Verb,
    /// The container's id.
    pub(crate) id: String,
    /// Where `libcontainer` keeps its containers.
    pub(crate) state: PathBuf,
    /// The socket to which a terminal's master is sent.
    pub(crate) console: Option<PathBuf>,
    /// The process runs under `RuntimeDefault`, with these capabilities of a specification in place
    /// of those that its own names.
    pub(crate) filtered: Option<Value>,
}

/// What came of it: the process's pid, or why there is none.
type HelperResult = Result<i32, String>;

/// Runs a helper and returns the pid of the process that it started, a child of this process.
///
/// # Errors
/// Why the process could not be started, in one line.
pub(crate) async fn run(
    request: &HelperRequest,
    directory: &Path,
    stdio: [Stdio; 3],
) -> Result<i32, String> {
    let [request_file, result_file] = ["request", "result"].map(|name| directory.join(name));
    let failed = |error: io::Error| format!("the runtime helper: {error}");
    let bytes = serde_json::to_vec(request).map_err(|error| error.to_string())?;
    fs::write(&request_file, bytes).map_err(failed)?;
    let [stdin, stdout, stderr] = stdio;
    let mut command = tokio::process::Command::new("/proc/self/exe");
    command.arg(ARGUMENT).arg(&request_file).arg(&result_file);
    command.env_clear().stdin(stdin).stdout(stdout).stderr(stderr);
    let mut child = command.spawn().map_err(failed)?;
    // The command holds the container's streams: their ends must be the container's alone.
    drop(command);
    let status = child.wait().await.map_err(failed)?;
    let bytes = fs::read(&result_file)
        .map_err(|_| format!("the runtime helper ended with {status} and no result"))?;
    let result: HelperResult = serde_json::from_slice(&bytes).map_err(|error| error.to_string())?;
    result
}

/// The helper's `main`: arguments are the request's and the result's file.
pub(crate) fn main(arguments: &[OsString]) -> i32 {
    let [request, result] = arguments else { return 2 };
    let outcome = serve(Path::new(request));
    let bytes = serde_json::to_vec(&outcome).unwrap_or_default();
    match fs::write(result, bytes) {
        Ok(()) => 0,
        Err(_) => 1,
    }
}

fn serve(request: &Path) -> HelperResult {
    let bytes = fs::read(request).map_err(|error| error.to_string())?;
    let request: HelperRequest =
        serde_json::from_slice(&bytes).map_err(|error| error.to_string())?;
    let mut builder = ContainerBuilder::new(request.id, SyscallType::default())
        .with_root_path(request.state)
        .map_err(chain)?
        .with_console_socket(request.console);
    if let Some(capabilities) = request.filtered {
        builder = builder.with_executor(Filtered::new(&capabilities)?);
    }
    match request.verb {
        Verb::Run(bundle) => {
            let mut container = builder
                .as_init(bundle)
                .with_systemd(false)
                .with_detach(true)
                .as_sibling(true)
                .build()
                .map_err(chain)?;
            container.start().map_err(chain)?;
            container.pid().map(|pid| pid.as_raw()).ok_or_else(|| String::from("it has no pid"))
        }
        Verb::Exec(process) => builder
            .as_tenant()
            .with_process(Some(process))
            .with_detach(true)
            .as_sibling(true)
            .build()
            .map(|pid| pid.as_raw())
            .map_err(chain),
    }
}

/// An error with its causes, in one line.
fn chain(error: impl std::error::Error) -> String {
    let mut line = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_line = cause.to_string();
        if !line.contains(&cause_line) {
            line = format!("{line}: {cause_line}");
        }
        source = cause.source();
    }
    line
}
