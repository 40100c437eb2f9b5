//! `bulkhead vm run`: the monitor alone, with any Linux.

use std::path::Path;
use std::process::{Command, Stdio};

use bulkhead_tests::{Home, Outcome, setting};

/// An initrd whose init is a busybox script that runs `script` and resets the machine.
fn initrd(dir: &Path, script: &str) -> String {
    let init = format!(
        "#!/bin/busybox sh\n/bin/busybox mount -t proc p /proc\n{script}\n/bin/busybox reboot -f\n"
    );
    let build = "set -e; d=$(mktemp -d); mkdir -p $d/bin $d/proc $d/dev; cp $(command -v busybox) \
                 $d/bin/busybox; printf '%s' \"$2\" > $d/init; chmod 755 $d/init; cd $d; \
                 find . | cpio --quiet -o -H newc | gzip -1 > \"$1\"; rm -rf $d";
    let path = dir.join("initrd.gz").to_str().unwrap().to_owned();
    Outcome::of(Command::new("sh").args(["-c", build, "sh", &path, &init])).ok();
    path
}

fn run(kernel: &str, cpus: &str, script: &str) -> Outcome {
    let home = Home::new();
    let initrd = initrd(home.path(), script);
    let args = ["vm", "run", "--kernel", kernel, "--initrd", &initrd];
    let cmdline = "console=ttyS0 reboot=k panic=-1 quiet";
    let more = ["--memory", "256M", "--cpus", cpus, "--cmdline", cmdline];
    Outcome::of(home.command(&args).args(more).stdin(Stdio::null()))
}

#[test]
#[ignore = "needs KVM: run by ci/test-vms"]
fn our_kernel_boots_with_the_console_on_the_terminal() {
    let kernel = setting("BULKHEAD_KERNEL");
    let script = "echo cpus=$(/bin/busybox grep -c ^processor /proc/cpuinfo)";
    let outcome = run(kernel.to_str().unwrap(), "2", script);
    assert!(outcome.stdout.contains("cpus=2"), "{outcome}");
}

#[test]
#[ignore = "needs KVM: run by ci/test-vms"]
fn a_stock_debian_kernel_boots_too() {
    let kernel = setting("BULKHEAD_DEBIAN_KERNEL");
    let outcome = run(kernel.to_str().unwrap(), "1", "echo stock=$(/bin/busybox uname -r)");
    assert!(outcome.stdout.contains("stock=6.12"), "{outcome}");
    assert!(outcome.stdout.contains("cloud"), "{outcome}");
}
