//! Images of an attacker's: the busybox image with one more layer.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::Outcome;
use crate::registry::busybox_archive;

/// Makes the docker-archive `DIR/NAME.tar` of an image `localhost/NAME:test`: busybox, and on top of
/// it the layer that the shell script `layer` writes to the file `$1`, run in an empty directory.
/// The config says that the layer's digest is `diff_id`, or the truth if that is none.
///
/// # Panics
/// If it cannot be made.
#[must_use]
pub fn with_layer(dir: &Path, name: &str, layer: &str, diff_id: Option<&str>) -> PathBuf {
    let tree = dir.join(name);
    fs::create_dir(&tree).unwrap();
    let tar = |args: &[&str]| Outcome::of(Command::new("tar").args(args)).ok();
    let at = tree.to_str().unwrap();
    tar(&["-xf", busybox_archive().to_str().unwrap(), "-C", at]);
    let blob = tree.join("another.tar");
    let script = format!("set -e; cd \"$(mktemp -d)\"; {layer}; rm -rf \"$PWD\"");
    Outcome::of(Command::new("sh").args(["-c", &script, "sh"]).arg(&blob)).ok();
    let truth = Outcome::of(Command::new("sha256sum").arg(&blob)).ok();
    let truth = format!("sha256:{}", truth.split(' ').next().unwrap());

    let manifest = tree.join("manifest.json");
    let mut saved: Value = serde_json::from_slice(&fs::read(&manifest).unwrap()).unwrap();
    let config = tree.join(saved[0]["Config"].as_str().unwrap());
    saved[0]["RepoTags"] = [format!("localhost/{name}:test")].as_slice().into();
    saved[0]["Layers"].as_array_mut().unwrap().push("another.tar".into());
    fs::write(manifest, saved.to_string()).unwrap();
    let mut described: Value = serde_json::from_slice(&fs::read(&config).unwrap()).unwrap();
    let diff_ids = described["rootfs"]["diff_ids"].as_array_mut().unwrap();
    diff_ids.push(diff_id.unwrap_or(&truth).into());
    fs::write(config, described.to_string()).unwrap();

    let archive = dir.join(format!("{name}.tar"));
    tar(&["-cf", archive.to_str().unwrap(), "-C", at, "."]);
    archive
}
