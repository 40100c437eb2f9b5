//! Guests boot, see what they were given, and end in every way there is.

mod support;

use std::io::Read;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use bulkhead_vmm_api::client::Client;
use support::{CMDLINE, ended, initrd, kernel, run, tiny_kernel};
use tempfile::tempdir;

/// Boots the test kernel with `script` as its init.
fn boot(cpus: u8, memory: &str, script: &str) -> (Option<i32>, String, String) {
    let directory = tempdir().unwrap();
    let initrd = initrd(&directory, &format!("{script}\nreboot -f"));
    let cpus = cpus.to_string();
    let initrd = initrd.to_str().unwrap();
    let arguments = ["--cpus", &cpus, "--memory", memory, "--initrd", initrd, "--cmdline", CMDLINE];
    ended(&run(&kernel(), &arguments).output().unwrap())
}

/// Kibibytes of memory that a guest of `memory` sees.
fn memory_seen(memory: &str) -> u64 {
    let (code, out, _) = boot(1, memory, "echo MEM $(grep MemTotal /proc/meminfo)");
    assert_eq!(code, Some(10), "{out}");
    let line = out.lines().find(|line| line.starts_with("MEM ")).unwrap();
    line.split_whitespace().nth(2).unwrap().parse().unwrap()
}

#[test]
#[ignore = "needs KVM: run by ci/test-vms"]
fn every_vcpu_comes_up_as_a_core_of_one_package() {
    for cpus in [1, 2, 8] {
        let script = "echo CPUS $(nproc); grep -h '^core id' /proc/cpuinfo | sort -u | wc -l; \
                      grep -h '^physical id' /proc/cpuinfo | sort -u | wc -l";
        let (code, out, err) = boot(cpus, "256M", script);
        assert_eq!(code, Some(10), "{out}{err}");
        assert!(out.contains(&format!("CPUS {cpus}\r\n{cpus}\r\n1\r\n")), "{out}");
    }
}

#[test]
#[ignore = "needs KVM: run by ci/test-vms"]
fn the_guest_has_its_memory_on_both_sides_of_the_hole() {
    assert!((40 << 10..64 << 10).contains(&memory_seen("64M")));
    let large = memory_seen("5G");
    assert!((4800 << 10..5 << 20).contains(&large), "{large}");
}

#[test]
#[ignore = "needs KVM: run by ci/test-vms"]
fn guest_memory_has_huge_pages_where_the_host_has_them() {
    let setting = "/sys/kernel/mm/transparent_hugepage/shmem_enabled";
    let allowed = std::fs::read_to_string(setting).unwrap();
    let directory = tempdir().unwrap();
    // mov $0x3f8,%dx; mov $'\n',%al; out %al,%dx; hlt
    let code = [0x66, 0xba, 0xf8, 0x03, 0xb0, b'\n', 0xee, 0xf4];
    let mut command = run(&tiny_kernel(&directory, &code), &["--memory", "64M"]);
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    child.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
    let smaps = std::fs::read_to_string(format!("/proc/{}/smaps", child.id())).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    let huge = smaps.lines().filter_map(|line| line.strip_prefix("ShmemPmdMapped:"));
    let huge = huge.map(|rest| rest.trim().trim_end_matches(" kB").parse::<u64>().unwrap());
    let expected = ["[always]", "[within_size]", "[advise]", "[force]"];
    let expected = expected.iter().any(|choice| allowed.contains(choice));
    assert_eq!(huge.sum::<u64>() > 0, expected, "{allowed}{smaps}");
}

#[test]
#[ignore = "needs KVM: run by ci/test-vms"]
fn a_reset_has_its_own_exit_code_and_line() {
    let (code, _, err) = boot(1, "128M", "");
    assert_eq!(code, Some(10));
    assert_eq!(err, "bulkhead-vmm: the guest reset itself through the keyboard controller\n");
}

/// Runs a guest of a few instructions.
fn tiny(code: &[u8]) -> (Option<i32>, String, String) {
    let directory = tempdir().unwrap();
    ended(&run(&tiny_kernel(&directory, code), &["--memory", "64M"]).output().unwrap())
}

#[test]
#[ignore = "needs KVM: run by ci/test-vms"]
fn a_power_off_ends_the_monitor_with_0() {
    // mov $0x604,%dx; mov $0x34,%al; out %al,%dx; hlt
    let (code, _, err) = tiny(&[0x66, 0xba, 0x04, 0x06, 0xb0, 0x34, 0xee, 0xf4]);
    assert_eq!((code, err.as_str()), (Some(0), "bulkhead-vmm: the guest powered off\n"));
}

#[test]
#[ignore = "needs KVM: run by ci/test-vms"]
fn a_triple_fault_has_its_own_exit_code_and_line() {
    // ud2, with no interrupt descriptor table
    let (code, _, err) = tiny(&[0x0f, 0x0b]);
    assert_eq!((code, err.as_str()), (Some(11), "bulkhead-vmm: triple fault on vCPU 0\n"));
}

#[test]
#[ignore = "needs KVM: run by ci/test-vms"]
fn the_boot_timer_reports() {
    // movb $123,0xc0000000; mov $0x604,%dx; mov $0x34,%al; out %al,%dx
    let code =
        [0xc6, 0x05, 0x00, 0x00, 0x00, 0xc0, 0x7b, 0x66, 0xba, 0x04, 0x06, 0xb0, 0x34, 0xee, 0xf4];
    let (code, _, err) = tiny(&code);
    assert_eq!(code, Some(0));
    assert!(err.starts_with("bulkhead-vmm: guest booted in "), "{err}");
}

#[test]
#[ignore = "needs KVM: run by ci/test-vms"]
fn output_of_the_guest_is_output_of_the_monitor() {
    // mov $0x3f8,%dx; mov $'A',%al; out %al,%dx; then power off
    let code =
        [0x66, 0xba, 0xf8, 0x03, 0xb0, 0x41, 0xee, 0x66, 0xba, 0x04, 0x06, 0xb0, 0x34, 0xee, 0xf4];
    assert_eq!(tiny(&code).1, "A");
}

#[test]
#[ignore = "needs KVM: run by ci/test-vms"]
fn output_that_nobody_reads_does_not_hold_the_guest_up() {
    // mov $0x3f8,%dx; mov $'A',%al; mov $70000,%ecx; 1: out %al,%dx; loop 1b; then power off
    let code = [
        0x66, 0xba, 0xf8, 0x03, 0xb0, 0x41, 0xb9, 0x70, 0x11, 0x01, 0x00, 0xee, 0xe2, 0xfd, 0x66,
        0xba, 0x04, 0x06, 0xb0, 0x34, 0xee, 0xf4,
    ];
    let directory = tempdir().unwrap();
    let mut command = run(&tiny_kernel(&directory, &code), &["--memory", "64M"]);
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut pipe = child.stdout.take().unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    let mut read = Vec::new();
    pipe.read_to_end(&mut read).unwrap();
    assert!((4096..70_000).contains(&read.len()), "{} bytes, what the pipe holds", read.len());
    assert!(read.iter().all(|byte| *byte == b'A'));
}

#[test]
#[ignore = "needs KVM: run by ci/test-vms"]
fn sigterm_ends_it_in_order() {
    let directory = tempdir().unwrap();
    // hlt
    let kernel = tiny_kernel(&directory, &[0xf4]);
    let socket = directory.path().join("api");
    let mut command = run(&kernel, &["--memory", "64M", "--api-sock", socket.to_str().unwrap()]);
    let child = command.stderr(Stdio::piped()).spawn().unwrap();
    let client = Client::new(&socket);
    let deadline = Instant::now() + Duration::from_secs(60);
    while client.info().is_err() {
        assert!(Instant::now() < deadline, "the monitor does not answer");
        std::thread::sleep(Duration::from_millis(20));
    }
    let kill = Command::new("kill").arg(child.id().to_string()).status().unwrap();
    assert!(kill.success());
    let (code, _, err) = ended(&child.wait_with_output().unwrap());
    assert_eq!((code, err.as_str()), (Some(128 + 15), "bulkhead-vmm: ended by SIGTERM\n"));
}

#[test]
#[ignore = "needs KVM: run by ci/test-vms"]
fn a_stock_bzimage_boots_and_powers_off_by_acpi() {
    let Some(image) = std::env::var_os("BULKHEAD_DEBIAN_KERNEL") else {
        panic!("BULKHEAD_DEBIAN_KERNEL must name a distribution's vmlinuz");
    };
    let directory = tempdir().unwrap();
    let initrd = initrd(
        &directory,
        "echo CPUS $(nproc); ls -d /sys/bus/platform/devices/LNRO*; poweroff -f",
    );
    let arguments = [
        "--cpus",
        "2",
        "--memory",
        "256M",
        "--initrd",
        initrd.to_str().unwrap(),
        "--cmdline",
        CMDLINE,
    ];
    let (code, out, err) = ended(&run(&PathBuf::from(image), &arguments).output().unwrap());
    assert_eq!(code, Some(0), "{out}{err}");
    assert!(out.contains("CPUS 2") && out.contains("LNRO0005:00"), "{out}");
}

#[test]
#[ignore = "needs KVM: run by ci/test-vms"]
fn a_kernel_that_is_none_is_refused_in_one_line() {
    let directory = tempdir().unwrap();
    let path = directory.path().join("kernel");
    std::fs::write(&path, "no kernel").unwrap();
    let (code, _, err) = ended(&run(&path, &[]).output().unwrap());
    assert_eq!((code, err.lines().count()), (Some(2), 1));
    assert!(err.contains("neither an ELF vmlinux nor a bzImage"), "{err}");
    assert!(err.contains(path.to_str().unwrap()), "{err}");
}

#[test]
fn what_no_machine_can_be_is_refused_before_kvm_is_asked() {
    let this = std::env::current_exe().unwrap();
    for (arguments, expected) in [
        (&["--cpus", "0"][..], "0 vCPUs"),
        (&["--cpus", "33"], "33 vCPUs"),
        (&["--memory", "32M"], "64 MiB"),
        (&["--initrd", "/nonexistent/initrd"], "/nonexistent/initrd"),
    ] {
        let (code, _, err) = ended(&run(&this, arguments).output().unwrap());
        assert_eq!((code, err.lines().count()), (Some(2), 1), "{err}");
        assert!(err.contains(expected), "{err}");
    }
    let (code, _, err) = ended(&run(&PathBuf::from("/nonexistent/kernel"), &[]).output().unwrap());
    assert_eq!(code, Some(2));
    assert!(err.contains("cannot open the kernel /nonexistent/kernel"), "{err}");
}
