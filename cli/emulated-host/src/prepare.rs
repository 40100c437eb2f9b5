//! What the emulated host boots: Debian's generic kernel, and an initrd of its modules and busybox.
//!
//! The packages are fetched with `apt-get download` and unpacked, never installed, so no privilege is
//! needed. The generic flavour it must be: the cloud flavour has no 9p.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::fcntl::{Flock, FlockArg};
use sha2::{Digest, Sha256};
use thiserror::Error;

use crate::cpio::Archive;

const META_PACKAGE: &str = "linux-image-6.12-amd64";
const BUSYBOX_PACKAGE: &str = "busybox-static";
const INIT: &str = include_str!("init.sh");

/// What the machine itself needs, then what its KVM, its networks and its file systems need. The
/// running machine has no modules directory, so nothing is loaded on demand.
const MODULES: &[&str] = &[
    "9p",
    "9pnet_virtio",
    "overlay",
    "virtio_blk",
    "ext4",
    "virtio_net",
    "virtio_rng", // the machine
    "kvm-amd",
    "vhost_net",
    "vhost_vsock",
    "tun",
    "veth",
    "bridge",
    "dummy",
    "loop",
    "erofs", // nodes
    "nf_tables",
    "nft_chain_nat",
    "nft_ct",
    "nft_nat",
    "nft_masq",
    "nft_redir",
    "nft_numgen", // their rules
    "nft_hash",
    "nft_limit",
    "nft_log",
    "nft_fib_inet",
    "nft_reject_inet",
    "nft_reject_ipv4",
    "nft_tproxy",
    "nft_socket",
    "nf_conntrack_netlink",
    "sch_ingress",
    "sch_htb",
    "sch_fq_codel",
    "cls_bpf",
    "act_bpf",
    "act_mirred",
];

/// Why the emulated host's kernel and initrd could not be made.
#[derive(Debug, Error)]
pub enum PrepareError {
    /// A program that is needed is missing.
    #[error("{0} is not installed; install Debian's {1}")]
    Missing(String, &'static str),
    /// A program failed.
    #[error("{command} failed: {output}")]
    Failed {
        /// What was run.
        command: String,
        /// The end of what it said.
        output: String,
    },
    /// apt knows no such package.
    #[error(
        "apt knows no package {0}; run `apt-get update` as root (the kernel is in bookworm-security)"
    )]
    NoPackage(&'static str),
    /// A file could not be read or written.
    #[error("{path}: {source}", path = path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// A step that has begun, in words for the user.
pub type Progress<'a> = &'a dyn Fn(&str);

/// What QEMU loads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Boot {
    /// Debian's `vmlinuz`.
    pub kernel: PathBuf,
    /// Our initial RAM disk.
    pub initrd: PathBuf,
}

/// `$XDG_CACHE_HOME/bulkhead/emulated-host`, or the same under `~/.cache`.
pub fn default_cache() -> PathBuf {
    std::env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .filter(|path| path.is_absolute())
        .or_else(|| std::env::var_os("HOME").map(|home| Path::new(&home).join(".cache")))
        .unwrap_or_else(|| PathBuf::from("/var/cache"))
        .join("bulkhead/emulated-host")
}

/// Returns the kernel and initrd from `cache`, fetching and making them first when they are not there.
///
/// # Errors
/// When a tool or package is missing, the network fails, or the cache cannot be written.
pub fn prepare(cache: &Path, progress: Progress<'_>) -> Result<Boot, PrepareError> {
    let home = cache.join(recipe());
    let boot = Boot { kernel: home.join("vmlinuz"), initrd: home.join("initrd") };
    if home.is_dir() {
        return Ok(boot);
    }
    fs::create_dir_all(cache).map_err(at(cache))?;
    let lock_path = cache.join("lock");
    let lock_file = File::create(&lock_path).map_err(at(&lock_path))?;
    let _lock = Flock::lock(lock_file, FlockArg::LockExclusive)
        .map_err(|(_, errno)| PrepareError::Io { path: lock_path, source: errno.into() })?;
    if home.is_dir() {
        return Ok(boot);
    }
    let work = tempfile::Builder::new().prefix("making-").tempdir_in(cache).map_err(at(cache))?;
    make(work.path(), progress)?;
    let finished = work.path().join("finished");
    fs::rename(&finished, &home).map_err(at(&home))?;
    Ok(boot)
}

/// The name under which the result is cached: whatever changes it changes the name.
fn recipe() -> String {
    let mut hash = Sha256::new();
    for part in [META_PACKAGE, BUSYBOX_PACKAGE, INIT].into_iter().chain(MODULES.iter().copied()) {
        hash.update(part.as_bytes());
        hash.update([0]);
    }
    hash.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

/// Leaves `vmlinuz` and `initrd` in `work/finished`.
fn make(work: &Path, progress: Progress<'_>) -> Result<(), PrepareError> {
    let image_package = kernel_package()?;
    progress(&format!("Fetching {image_package} and {BUSYBOX_PACKAGE}"));
    let mut apt = Command::new("apt-get");
    apt.args(["download", "-q", &image_package, BUSYBOX_PACKAGE]).current_dir(work);
    // As root, apt would drop to a user who cannot write here, and warn.
    apt.args(["-o", "APT::Sandbox::User=root"]);
    tool(&mut apt, "apt")?;

    progress("Unpacking the kernel");
    let root = work.join("root");
    for package in files_ending(work, ".deb")? {
        tool(Command::new("dpkg-deb").arg("-x").arg(package).arg(&root), "dpkg")?;
    }
    let release = kernel_release(&root)?;
    tool(Command::new(sbin("depmod")).arg("-b").arg(&root).arg(&release), "kmod")?;

    progress("Making the initrd");
    let finished = work.join("finished");
    fs::create_dir(&finished).map_err(at(&finished))?;
    let kernel = root.join(format!("boot/vmlinuz-{release}"));
    fs::copy(&kernel, finished.join("vmlinuz")).map_err(at(&kernel))?;
    let initrd = finished.join("initrd");
    let out = File::create(&initrd).map_err(at(&initrd))?;
    write_initrd(io::BufWriter::new(out), &root, &release)
}

/// The package that the metapackage stands for: `linux-image-6.12.117+deb12-amd64`.
fn kernel_package() -> Result<String, PrepareError> {
    let mut cache = Command::new("apt-cache");
    let listing =
        tool(cache.args(["depends", "--important", META_PACKAGE]), "apt").map_err(|error| {
            if let PrepareError::Failed { .. } = error {
                PrepareError::NoPackage(META_PACKAGE)
            } else {
                error
            }
        })?;
    depended_on(&listing).ok_or(PrepareError::NoPackage(META_PACKAGE))
}

fn depended_on(listing: &str) -> Option<String> {
    let name = listing.lines().find_map(|line| line.trim().strip_prefix("Depends: "))?;
    name.starts_with("linux-image-").then(|| name.to_owned())
}

fn kernel_release(root: &Path) -> Result<String, PrepareError> {
    let modules = root.join("lib/modules");
    let entry = fs::read_dir(&modules).and_then(|mut entries| {
        entries
            .next()
            .unwrap_or_else(|| Err(io::Error::new(io::ErrorKind::NotFound, "no kernel's modules")))
    });
    Ok(entry.map_err(at(&modules))?.file_name().to_string_lossy().into_owned())
}

fn write_initrd(out: impl Write, root: &Path, release: &str) -> Result<(), PrepareError> {
    let written = |source| PrepareError::Io { path: "initrd".into(), source };
    let mut archive = Archive::new(out);
    for directory in ["bin", "modules"] {
        archive.directory(directory).map_err(written)?;
    }
    let busybox = ["bin/busybox", "usr/bin/busybox"].map(|path| root.join(path));
    let busybox = busybox.iter().find(|path| path.exists()).unwrap_or(&busybox[0]);
    archive
        .file("bin/busybox", 0o755, &fs::read(busybox).map_err(at(busybox))?)
        .map_err(written)?;
    archive.file("init", 0o755, INIT.as_bytes()).map_err(written)?;

    let mut order = String::new();
    for module in load_order(root, release)? {
        let name = module
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .trim_end_matches(".xz")
            .to_owned();
        archive
            .file(&format!("modules/{name}"), 0o644, &module_content(&module)?)
            .map_err(written)?;
        order.push_str(&name);
        order.push('\n');
    }
    archive.file("modules/order", 0o644, order.as_bytes()).map_err(written)?;
    let mut out = archive.finish().map_err(written)?;
    out.flush().map_err(written)
}

/// The wanted modules' files, each after those it needs.
fn load_order(root: &Path, release: &str) -> Result<Vec<PathBuf>, PrepareError> {
    let mut modprobe = Command::new(sbin("modprobe"));
    modprobe.arg("-d").arg(root).args(["-S", release, "--show-depends", "-a"]);
    // This machine's own module options are not the emulated host's.
    modprobe.args(["-C", "/dev/null"]).args(MODULES);
    let listing = tool(&mut modprobe, "kmod")?;
    Ok(modules_of(&listing))
}

fn modules_of(listing: &str) -> Vec<PathBuf> {
    let mut modules = Vec::new();
    for path in listing.lines().filter_map(|line| line.strip_prefix("insmod ")) {
        let path = PathBuf::from(path.trim());
        if !modules.contains(&path) {
            modules.push(path);
        }
    }
    modules
}

fn module_content(path: &Path) -> Result<Vec<u8>, PrepareError> {
    if path.extension().is_some_and(|extension| extension == "xz") {
        return run_tool(Command::new("xz").arg("-dc").arg(path), "xz-utils");
    }
    fs::read(path).map_err(at(path))
}

fn files_ending(directory: &Path, end: &str) -> Result<Vec<PathBuf>, PrepareError> {
    let entries = fs::read_dir(directory).map_err(at(directory))?;
    Ok(entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.to_string_lossy().ends_with(end))
        .collect())
}

/// Administrators' programs are not on every user's path.
pub(crate) fn sbin(program: &str) -> PathBuf {
    ["/usr/sbin", "/sbin"]
        .map(|directory| Path::new(directory).join(program))
        .into_iter()
        .find(|path| path.exists())
        .unwrap_or_else(|| PathBuf::from(program))
}

fn tool(command: &mut Command, package: &'static str) -> Result<String, PrepareError> {
    run_tool(command, package).map(|output| String::from_utf8_lossy(&output).into_owned())
}

/// Runs a program of `package` and returns what it printed.
fn run_tool(command: &mut Command, package: &'static str) -> Result<Vec<u8>, PrepareError> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.env("LC_ALL", "C").output().map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => PrepareError::Missing(program.clone(), package),
        _ => PrepareError::Io { path: program.clone().into(), source },
    })?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(PrepareError::Failed { command: program, output: said })
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> PrepareError {
    let path = path.to_owned();
    |source| PrepareError::Io { path, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_metapackage_names_the_kernel() {
        let listing = "linux-image-6.12-amd64\n  Depends: linux-image-6.12.117+deb12-amd64\n";
        assert_eq!(depended_on(listing).as_deref(), Some("linux-image-6.12.117+deb12-amd64"));
        assert_eq!(depended_on("linux-image-6.12-amd64\n"), None);
    }

    #[test]
    fn modules_come_once_and_in_order() {
        let listing = "insmod /m/netfs.ko.xz \ninsmod /m/9p.ko.xz \nbuiltin af_packet\ninsmod /m/netfs.ko.xz \n";
        assert_eq!(modules_of(listing), ["/m/netfs.ko.xz", "/m/9p.ko.xz"].map(PathBuf::from));
    }

    #[test]
    fn a_prepared_cache_is_used_as_it_is() {
        let cache = tempfile::tempdir().unwrap();
        fs::create_dir(cache.path().join(recipe())).unwrap();
        let boot =
            prepare(cache.path(), &|step| panic!("nothing was to be done, but: {step}")).unwrap();
        assert!(boot.kernel.starts_with(cache.path().join(recipe())));
    }

    #[test]
    fn a_missing_program_names_its_package() {
        let error = run_tool(&mut Command::new("no-such-program"), "kmod").unwrap_err();
        assert!(error.to_string().contains("install Debian's kmod"), "{error}");
    }
}
