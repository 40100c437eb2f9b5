//! Files that a command line or a configuration names, looked at before anything is started.

use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

/// The absolute path of a file that can be read. `what` it is for is said when it cannot.
pub(crate) fn file(what: &str, path: &Path) -> Result<PathBuf> {
    let about = || format!("{what} {}", path.display());
    let opened = File::open(path).with_context(about)?;
    if opened.metadata().with_context(about)?.is_dir() {
        bail!("{} is a directory; name a file", about());
    }
    std::path::absolute(path).with_context(about)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_file_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let error = file("kernel", dir.path()).unwrap_err();
        assert!(error.to_string().ends_with("is a directory; name a file"), "{error}");
        let error = format!("{:#}", file("initrd", &dir.path().join("none")).unwrap_err());
        assert!(error.starts_with("initrd /") && error.contains("/none: No such file"), "{error}");
        assert!(file("kernel", Path::new("Cargo.toml")).unwrap().is_absolute());
    }
}
