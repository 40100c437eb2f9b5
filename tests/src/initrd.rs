//! Initial RAM file systems around busybox.

use std::path::Path;
use std::process::Command;

use crate::Outcome;

/// Writes an initrd into `dir` whose `/init` is the busybox script `script`, and gives its path.
///
/// # Panics
/// If it cannot be made: it takes busybox-static and cpio.
#[must_use]
pub fn initrd(dir: &Path, script: &str) -> String {
    let init = format!("#!/bin/busybox sh\n{script}\n");
    let build = "set -e; d=$(mktemp -d); mkdir -p $d/bin $d/proc $d/dev $d/root; \
                 cp $(command -v busybox) $d/bin/busybox; printf '%s' \"$2\" > $d/init; \
                 chmod 755 $d/init; cd $d; \
                 find . | cpio --quiet -o -H newc | gzip -1 > \"$1\"; rm -rf $d";
    let path = dir.join("initrd.gz").to_str().unwrap().to_owned();
    Outcome::of(Command::new("sh").args(["-c", build, "sh", &path, &init])).ok();
    path
}
