//! The node's kernel, from Debian's source package.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::cache::{Key, kept};
use crate::command::{answer, run};
use crate::config::Wanted;
use crate::{BuildError, Progress, at};

const PACKAGE: &str = "linux-source-6.12";
const TARBALL: &str = "/usr/src/linux-source-6.12.tar.xz";
const FRAGMENTS: &[(&str, &str)] = &[
    ("platform.config", include_str!("../../kernel/platform.config")),
    ("storage.config", include_str!("../../kernel/storage.config")),
    ("containers.config", include_str!("../../kernel/containers.config")),
    ("network.config", include_str!("../../kernel/network.config")),
];
/// Changes when the way of building does.
const RECIPE: &[u8] = b"1";
/// How many objects the configuration compiles, for the progress bar alone.
const OBJECTS: u64 = 1319;
/// Large parts of the source that no x86-64 kernel is built from and that Kconfig does not read, as tar's
/// patterns. With those below they are two thirds of it.
const UNUSED: &[&str] = &[
    "Documentation/*/*",
    "arch/arm/boot/dts",
    "arch/arm64/boot/dts",
    "tools/perf",
    "tools/testing",
];
/// Directories of which Kconfig reads its own files, and no compiler any: other processors, and drivers
/// of devices that no node has.
const UNUSED_CODE: &[&str] = &[
    "arch/arm",
    "arch/arm64",
    "arch/m68k",
    "arch/mips",
    "arch/powerpc",
    "arch/s390",
    "arch/sparc",
    "drivers/accel",
    "drivers/clk",
    "drivers/gpu",
    "drivers/iio",
    "drivers/infiniband",
    "drivers/media",
    "drivers/net/ethernet",
    "drivers/net/wireless",
    "drivers/pinctrl",
    "drivers/scsi",
    "drivers/staging",
    "drivers/usb",
    "drivers/video",
    "sound",
];

/// Returns the stripped `vmlinux` from the cache, building it first when it is not there.
pub(crate) fn build(
    cache: &Path,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<PathBuf, BuildError> {
    let wanted = Wanted::parse(FRAGMENTS)?;
    kept(cache, &name()?, progress, |work, progress| make(work, &wanted, progress))
}

/// What the kernel is called in the cache.
pub(crate) fn name() -> Result<String, BuildError> {
    let version = source_version()?;
    let mut key = Key::default();
    for ingredient in [RECIPE, version.as_bytes()]
        .into_iter()
        .chain(FRAGMENTS.iter().map(|(_, text)| text.as_bytes()))
    {
        key.add(ingredient);
    }
    Ok(key.name("kernel"))
}

/// The version of the installed source package, or of the one that would be downloaded.
fn source_version() -> Result<String, BuildError> {
    if Path::new(TARBALL).is_file() {
        let mut query = Command::new("dpkg-query");
        return Ok(answer(query.args(["-W", "-f", "${Version}\n", PACKAGE]), "dpkg")?);
    }
    let mut candidates = String::new();
    run(
        Command::new("apt-cache").args(["show", "--no-all-versions", PACKAGE]),
        "apt",
        &mut |line| {
            if let Some(version) = line.strip_prefix("Version: ") {
                candidates = version.to_owned();
            }
        },
    )?;
    Ok(candidates)
}

fn make(
    work: &Path,
    wanted: &Wanted,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<PathBuf, BuildError> {
    let source = unpack(work, progress)?;
    progress(Progress::Step("Configuring the kernel"));
    let asked = work.join("asked.config");
    let text: String = FRAGMENTS.iter().map(|(_, text)| *text).collect();
    fs::write(&asked, text).map_err(at(&asked))?;
    run(
        kernel_make(&source).arg("allnoconfig").env("KCONFIG_ALLCONFIG", &asked),
        "make",
        &mut |_| {},
    )?;
    let config = source.join(".config");
    wanted.check(&fs::read_to_string(&config).map_err(at(&config))?)?;

    progress(Progress::Step("Building the kernel"));
    let jobs = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let mut done = 0;
    run(
        kernel_make(&source).arg(format!("-j{jobs}")).arg("vmlinux"),
        "build-essential",
        &mut |line| {
            if compiles(line) {
                done += 1;
                progress(Progress::Parts { done, total: OBJECTS.max(done) });
            }
        },
    )?;
    let stripped = work.join("vmlinux");
    run(
        Command::new("strip").arg("-o").arg(&stripped).arg(source.join("vmlinux")),
        "binutils",
        &mut |_| {},
    )?;
    Ok(stripped)
}

/// The kernel's make, told what would otherwise differ from one build to the next.
fn kernel_make(source: &Path) -> Command {
    let mut make = Command::new("make");
    make.arg("-C").arg(source).arg("ARCH=x86_64");
    for variable in
        ["KBUILD_BUILD_USER=bulkhead", "KBUILD_BUILD_HOST=bulkhead", "KBUILD_BUILD_TIMESTAMP=@0"]
    {
        make.arg(variable);
    }
    // A make above this one would lend its own flags and job slots.
    make.env_remove("MAKEFLAGS").env_remove("MFLAGS").env_remove("MAKELEVEL").env("LC_ALL", "C");
    make
}

fn compiles(line: &str) -> bool {
    ["CC ", "AS "].iter().any(|tool| line.trim_start().starts_with(tool))
}

fn unpack(work: &Path, progress: &mut dyn FnMut(Progress<'_>)) -> Result<PathBuf, BuildError> {
    let mut tarball = PathBuf::from(TARBALL);
    if !tarball.is_file() {
        progress(Progress::Step("Fetching the kernel's source"));
        let mut fetch = Command::new("apt-get");
        fetch.args(["download", "-q", "-o", "APT::Sandbox::User=root", PACKAGE]).current_dir(work);
        run(&mut fetch, "apt", &mut |_| {})?;
        let unpacked = work.join("package");
        for entry in fs::read_dir(work).map_err(at(work))?.flatten() {
            if entry.path().extension().is_some_and(|extension| extension == "deb") {
                run(
                    Command::new("dpkg-deb").arg("-x").arg(entry.path()).arg(&unpacked),
                    "dpkg",
                    &mut |_| {},
                )?;
            }
        }
        tarball = unpacked.join(TARBALL.trim_start_matches('/'));
    }
    progress(Progress::Step("Unpacking the kernel's source"));
    let mut tar = Command::new("tar");
    tar.arg("-xf").arg(&tarball).arg("-C").arg(work);
    let code = UNUSED_CODE.iter().map(|directory| format!("{directory}/*.[chS]"));
    let unused = UNUSED.iter().map(|pattern| (*pattern).to_owned()).chain(code);
    tar.args(unused.map(|pattern| format!("--exclude={PACKAGE}/{pattern}")));
    run(&mut tar, "xz-utils", &mut |_| {})?;
    Ok(work.join(PACKAGE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fragments_are_sound() {
        let wanted = Wanted::parse(FRAGMENTS).unwrap();
        // An empty configuration has none of what matters most.
        let message = wanted.check("").unwrap_err().to_string();
        for option in [
            "CONFIG_EROFS_FS",
            "CONFIG_PVH",
            "CONFIG_MITIGATION_RETPOLINE",
            "CONFIG_VIRTIO_VSOCKETS",
        ] {
            assert!(message.contains(option), "{message}");
        }
        assert!(!message.contains("CONFIG_PCI:"), "{message}");
    }

    #[test]
    fn objects_are_counted() {
        assert!(
            compiles("  CC      fs/ext4/hash.o") && compiles("  AS      arch/x86/entry/entry_64.o")
        );
        assert!(!compiles("  AR      fs/built-in.a") && !compiles("  HOSTCC  scripts/kallsyms"));
    }
}
