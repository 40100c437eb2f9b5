//! `bulkhead vm run`: the monitor alone, with any Linux.

use std::path::Path;
use std::process::{Command, Stdio};

use bulkhead_tests::{Home, Outcome, Terminal, initrd, setting};

/// `bulkhead vm run` of `kernel` with `script` for its init, which then resets the machine.
fn vm(home: &Home, kernel: &Path, memory: &str, cpus: &str, script: &str) -> Command {
    let script = format!("/bin/busybox mount -t proc p /proc\n{script}\n/bin/busybox reboot -f");
    let initrd = initrd(home.path(), &script);
    let args = ["vm", "run", "--kernel", kernel.to_str().unwrap(), "--initrd", &initrd];
    let cmdline = "console=ttyS0 reboot=k panic=-1 quiet";
    let mut command = home.command(&args);
    command.args(["--memory", memory, "--cpus", cpus, "--cmdline", cmdline]);
    command
}

fn run(kernel: &Path, memory: &str, cpus: &str, script: &str) -> Outcome {
    Outcome::of(vm(&Home::new(), kernel, memory, cpus, script).stdin(Stdio::null()))
}

#[test]
#[ignore = "needs KVM: run by ci/test-vms"]
fn our_kernel_boots_with_the_console_on_the_terminal() {
    let kernel = setting("BULKHEAD_KERNEL");
    let script = "echo cpus=$(/bin/busybox grep -c ^processor /proc/cpuinfo)";
    let outcome = run(&kernel, "256M", "2", script);
    assert!(outcome.stdout.contains("cpus=2"), "{outcome}");
}

#[test]
#[ignore = "needs KVM: run by ci/test-vms"]
fn thirty_two_cpus_and_memory_beyond_the_hole_are_the_guests() {
    let script = "echo cpus=$(/bin/busybox grep -c ^processor /proc/cpuinfo)
        /bin/busybox awk '/^MemTotal/ {print \"gib=\" int($2 / 1048576 + 0.5)}' /proc/meminfo";
    let outcome = run(&setting("BULKHEAD_KERNEL"), "5G", "32", script);
    assert!(outcome.stdout.contains("cpus=32"), "{outcome}");
    assert!(outcome.stdout.contains("gib=5"), "{outcome}");
}

/// A guest that waits for a line, says it, and waits for nothing.
fn on_a_terminal(home: &Home) -> Terminal {
    let script = "echo ready; read line; echo \"got $line\"; /bin/busybox sleep 1000";
    let terminal = Terminal::run(&vm(home, &setting("BULKHEAD_KERNEL"), "128M", "1", script));
    terminal.shows("ready");
    assert!(terminal.is_raw(), "every key is the guest's");
    terminal
}

#[test]
#[ignore = "needs KVM: run by ci/test-vms"]
fn a_terminal_is_the_guests_until_ctrl_a_x_gives_it_back() {
    let home = Home::new();
    let terminal = on_a_terminal(&home);
    terminal.types("hello\r");
    terminal.shows("got hello");
    terminal.types("\x01x");
    assert_eq!(terminal.ended(), 0);
    assert!(!terminal.is_raw(), "it is as it was");
}

#[test]
#[ignore = "needs KVM: run by ci/test-vms"]
fn a_terminal_is_given_back_when_the_machine_is_terminated() {
    let home = Home::new();
    let terminal = on_a_terminal(&home);
    Outcome::of(Command::new("kill").arg(terminal.pid().to_string())).ok();
    assert_eq!(terminal.ended(), 128 + 15, "as for any command that SIGTERM ends");
    assert!(!terminal.is_raw(), "it is as it was");
}

#[test]
#[ignore = "needs KVM: run by ci/test-vms"]
fn a_stock_debian_kernel_boots_too() {
    let kernel = setting("BULKHEAD_DEBIAN_KERNEL");
    let outcome = run(&kernel, "256M", "1", "echo stock=$(/bin/busybox uname -r)");
    assert!(outcome.stdout.contains("stock=6.12"), "{outcome}");
    assert!(outcome.stdout.contains("cloud"), "{outcome}");
}
