//! The root image: the agent, and empty directories to mount on. Everything else comes at run time.

use std::fs::File;
use std::path::{Path, PathBuf};

use bulkhead_erofs::{Source, Tree};

use crate::cache::{Key, kept};
use crate::{BuildError, BuildOptions, Progress, agent, at};

/// Changes when the image's layout does.
const RECIPE: &[u8] = b"1";
const MOUNT_POINTS: &[(&str, u32)] = &[
    ("/dev", 0o755),
    ("/etc", 0o755),
    ("/proc", 0o555),
    ("/run", 0o755),
    ("/sys", 0o555),
    ("/tmp", 0o1777),
    // The scratch disk's.
    ("/var/lib/node", 0o755),
];

/// Returns the root image from the cache, building the agent first when its sources have changed.
pub(crate) fn build(
    workspace: &Path,
    options: &BuildOptions,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<PathBuf, BuildError> {
    kept(&options.cache, &name(workspace)?, progress, |work, progress| {
        let agent = agent::build(workspace, &options.target_directory, progress)?;
        progress(Progress::Step("Writing the root image"));
        let image = work.join("root.erofs");
        write(&agent, &image)?;
        Ok(image)
    })
}

/// What the root image is called in the cache.
pub(crate) fn name(workspace: &Path) -> Result<String, BuildError> {
    let mut key = Key::default();
    key.add(RECIPE);
    agent::add_sources(&mut key, workspace)?;
    Ok(key.name("root"))
}

fn write(agent: &Path, image: &Path) -> Result<(), BuildError> {
    let out = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .open(image)
        .map_err(at(image))?;
    let mut tree = Tree::new();
    for (path, mode) in MOUNT_POINTS {
        tree = tree.dir(*path, *mode);
    }
    tree.file("/sbin/agent", 0o755, Source::path(agent)).write(out)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn the_image_holds_the_agent_and_passes_a_check() {
        let work = tempfile::tempdir().unwrap();
        let agent = work.path().join("agent");
        std::fs::write(&agent, vec![7; 10_000]).unwrap();
        let image = work.path().join("root.erofs");
        write(&agent, &image).unwrap();
        let length = std::fs::metadata(&image).unwrap().len();
        assert!(length.is_multiple_of(bulkhead_erofs::BLOCK_SIZE) && length > 10_000, "{length}");
        let Ok(check) = Command::new("fsck.erofs").arg(&image).output() else { return };
        assert!(check.status.success(), "{}", String::from_utf8_lossy(&check.stderr));
    }

    #[test]
    fn unchanged_sources_run_no_cargo() {
        let workspace = tempfile::tempdir().unwrap();
        for path in ["node-image/agent/src", "node-image/protocol/src"] {
            std::fs::create_dir_all(workspace.path().join(path)).unwrap();
        }
        for path in ["Cargo.toml", "Cargo.lock", "node-image/agent/src/main.rs"] {
            std::fs::write(workspace.path().join(path), path).unwrap();
        }
        let cache = workspace.path().join("cache");
        let mut options = BuildOptions::discover();
        options.cache = cache.clone();
        let mut key = Key::default();
        key.add(RECIPE);
        agent::add_sources(&mut key, workspace.path()).unwrap();
        let expected = cache.join(key.name("root"));
        std::fs::create_dir(&cache).unwrap();
        std::fs::write(&expected, "").unwrap();
        let found =
            build(workspace.path(), &options, &mut |_| panic!("it is there already")).unwrap();
        assert_eq!(found, expected);

        std::fs::write(workspace.path().join("node-image/agent/src/main.rs"), "changed").unwrap();
        options.target_directory = workspace.path().join("target");
        let mut steps = 0;
        // There is no workspace to build there: that cargo was run at all is the point.
        build(workspace.path(), &options, &mut |_| steps += 1).unwrap_err();
        assert_eq!(steps, 1);
    }
}
