//! Where the program keeps things: its state (`$BULKHEAD_HOME`) and what can be made again.

use std::env;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

/// `$BULKHEAD_HOME`; by default `/var/lib/bulkhead` for root, else `~/.local/share/bulkhead`.
/// Absolute, for daemons that are started elsewhere.
pub(crate) fn state() -> Result<PathBuf> {
    if let Some(path) = set("BULKHEAD_HOME") {
        return std::path::absolute(&path)
            .with_context(|| format!("BULKHEAD_HOME={}", path.display()));
    }
    if rustix::process::geteuid().is_root() {
        return Ok("/var/lib/bulkhead".into());
    }
    Ok(user_directory()?.join(".local/share/bulkhead"))
}

/// `$XDG_CACHE_HOME/bulkhead`, by default `~/.cache/bulkhead`.
pub(crate) fn cache() -> Result<PathBuf> {
    match set("XDG_CACHE_HOME") {
        Some(path) if path.is_absolute() => Ok(path.join("bulkhead")),
        _ => Ok(user_directory()?.join(".cache/bulkhead")),
    }
}

/// The user's home directory.
pub(crate) fn user_directory() -> Result<PathBuf> {
    match set("HOME") {
        Some(path) if path.is_absolute() => Ok(path),
        _ => bail!("HOME is not set; set it, or BULKHEAD_HOME and XDG_CACHE_HOME"),
    }
}

fn set(variable: &str) -> Option<PathBuf> {
    env::var_os(variable).filter(|value| !value.is_empty()).map(PathBuf::from)
}

/// Another program of ours, which lies beside this one.
pub(crate) fn program(name: &str) -> Result<PathBuf> {
    let here = env::current_exe().context("cannot find where this program lies")?;
    let path = here.with_file_name(name);
    if !path.is_file() {
        bail!("{} is missing; build it with 'make build'", path.display());
    }
    Ok(path)
}

/// Creates a directory and its parents, new ones readable by their owner alone.
pub(crate) fn create(path: &Path) -> Result<()> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|error| refused(path, error))
}

/// `error` about `path` with what to do about it.
pub(crate) fn refused(path: &Path, error: io::Error) -> anyhow::Error {
    let next = match error.kind() {
        io::ErrorKind::PermissionDenied => "; run as its owner, or set BULKHEAD_HOME",
        io::ErrorKind::StorageFull => "; free space there",
        io::ErrorKind::ReadOnlyFilesystem => "; set BULKHEAD_HOME to a writable place",
        _ => "",
    };
    anyhow::anyhow!("{}: {error}{next}", path.display())
}
