//! The agent, a static program.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::cache::Key;
use crate::command::run;
use crate::{BuildError, Progress};

const PACKAGE: &str = "bulkhead-agent";
const TARGET: &str = "x86_64-unknown-linux-gnu";
const PROFILE: &str = "slim";
/// All that the agent is built from: its crates, and the versions of everybody else's.
const SOURCES: &[&str] = &["Cargo.toml", "Cargo.lock", "node-image/agent", "node-image/protocol"];

/// Adds the agent's sources to a key.
pub(crate) fn add_sources(key: &mut Key, workspace: &Path) -> Result<(), BuildError> {
    SOURCES.iter().try_for_each(|path| key.add_tree(&workspace.join(path)))
}

/// Builds the agent and returns the program's path.
pub(crate) fn build(
    workspace: &Path,
    target_directory: &Path,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<PathBuf, BuildError> {
    progress(Progress::Step("Building the agent"));
    let mut cargo = Command::new("cargo");
    cargo.args(["build", "--profile", PROFILE, "-p", PACKAGE]).current_dir(workspace);
    // With a target of its own the flags are the agent's alone: a static macro cannot be loaded.
    cargo.args(["--target", TARGET]).arg("--target-dir").arg(target_directory);
    cargo.env("RUSTFLAGS", "-C target-feature=+crt-static").env_remove("CARGO_ENCODED_RUSTFLAGS");
    run(&mut cargo, "cargo (or rustup's)", &mut |line| {
        if let Some(crate_name) = line.trim_start().strip_prefix("Compiling ") {
            progress(Progress::Step(&format!("Building the agent: {crate_name}")));
        }
    })?;
    Ok(target_directory.join(TARGET).join(PROFILE).join(PACKAGE))
}
