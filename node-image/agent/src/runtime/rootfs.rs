//! A container's root file system: an overlay of its layers, and safe access to what lies in it.
//!
//! Paths inside come from images and users; every one is resolved with `RESOLVE_IN_ROOT`, so that
//! a symbolic link leads nowhere outside.

use std::{
    ffi::CString,
    fs::{self, File},
    io::{self, Read as _},
    os::{fd::OwnedFd, unix::fs::PermissionsExt as _},
    path::{Component, Path, PathBuf},
};

use rustix::{
    fs::{CWD, Mode, OFlags, ResolveFlags, mkdirat, open, openat2},
    mount::{MountFlags, UnmountFlags, mount, unmount},
};

/// The most that is read of an image's `/etc/passwd` or `/etc/group`.
const MAX_DATABASE: u64 = 1 << 20;

/// Mounts an overlay of `layers` (lowest first) at `directory/rootfs`.
pub(crate) fn mount_overlay(layers: &[PathBuf], directory: &Path) -> io::Result<PathBuf> {
    let [upper, work, merged] = ["upper", "work", "rootfs"].map(|name| directory.join(name));
    for path in [&upper, &work, &merged] {
        fs::create_dir_all(path)?;
    }
    fs::set_permissions(&upper, fs::Permissions::from_mode(0o755))?;
    let lower: Vec<String> = layers.iter().rev().map(|path| path.display().to_string()).collect();
    // What is written is gone with the container: it need never reach the disk.
    let options = format!(
        "lowerdir={},upperdir={},workdir={},volatile",
        lower.join(":"),
        upper.display(),
        work.display()
    );
    if options.len() >= 4096 {
        let message = format!("an image of {} layers is over what overlayfs takes", layers.len());
        return Err(io::Error::other(message));
    }
    mount("overlay", &merged, "overlay", MountFlags::empty(), Some(&*CString::new(options)?))?;
    Ok(merged)
}

/// Takes the overlay down and removes what was written.
pub(crate) fn unmount_overlay(directory: &Path) {
    let _ = unmount(directory.join("rootfs"), UnmountFlags::DETACH);
    let _ = fs::remove_dir_all(directory);
}

fn open_in(root: &OwnedFd, path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
    Ok(openat2(root, path, flags | OFlags::CLOEXEC, Mode::empty(), ResolveFlags::IN_ROOT)?)
}

fn open_root(root: &Path) -> io::Result<OwnedFd> {
    Ok(open(root, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?)
}

/// A file's text, empty when there is none.
pub(crate) fn read(root: &Path, path: &str) -> io::Result<String> {
    let file = match open_in(&open_root(root)?, Path::new(path), OFlags::RDONLY | OFlags::NONBLOCK)
    {
        Ok(file) => File::from(file),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(String::new()),
        Err(error) => return Err(error),
    };
    let mut bytes = Vec::new();
    file.take(MAX_DATABASE).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Makes a directory and those above it, if they are not there; returns it opened.
pub(crate) fn make_directory(root: &Path, path: &Path) -> io::Result<OwnedFd> {
    let root = open_root(root)?;
    let mut reached = PathBuf::from(".");
    let mut directory = open_in(&root, &reached, OFlags::PATH | OFlags::DIRECTORY)?;
    for component in path.components() {
        let Component::Normal(name) = component else { continue };
        reached.push(name);
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        directory = match open_in(&root, &reached, flags) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                match mkdirat(&directory, name, Mode::from_raw_mode(0o755)) {
                    Ok(()) | Err(rustix::io::Errno::EXIST) => {}
                    Err(error) => return Err(error.into()),
                }
                open_in(&root, &reached, flags)?
            }
            other => other?,
        };
    }
    Ok(directory)
}

/// The real path of what lies at `path` inside `root`, made as a directory if it is missing.
pub(crate) fn resolve_sub_path(root: &Path, path: &Path) -> io::Result<PathBuf> {
    use std::os::fd::AsRawFd as _;
    let opened = match open_in(&open_root(root)?, path, OFlags::PATH) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => make_directory(root, path)?,
        other => other?,
    };
    let resolved =
        rustix::fs::readlinkat(CWD, format!("/proc/self/fd/{}", opened.as_raw_fd()), [])?;
    Ok(PathBuf::from(resolved.into_string().map_err(io::Error::other)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_lead_nowhere_outside() {
        let root = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink(outside.path(), root.path().join("out")).unwrap();
        std::os::unix::fs::symlink("/etc/hostname", root.path().join("file")).unwrap();
        assert!(make_directory(root.path(), Path::new("/out/x")).is_err());
        assert!(!outside.path().join("x").exists());
        assert_eq!(read(root.path(), "/file").unwrap(), "");
        make_directory(root.path(), Path::new("/a/b")).unwrap();
        let resolved = resolve_sub_path(root.path(), Path::new("a/b")).unwrap();
        assert_eq!(resolved, root.path().canonicalize().unwrap().join("a/b"));
    }
}
