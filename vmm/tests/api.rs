//! The API, from outside: configure, start, pause, resume, grow a disk, shut down.

mod support;

use std::fs::File;
use std::io::Write;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use bulkhead_vmm_api::client::{Client, ClientError};
use bulkhead_vmm_api::{
    ConsoleConfig, DiskConfig, FileSource, RangeConfig, VmConfig, VmInfo, VmState,
};
use support::{MONITOR, tiny_kernel};
use tempfile::{TempDir, tempdir};

/// A monitor without a machine; killed when dropped.
struct Monitor {
    child: Child,
    client: Client,
    directory: TempDir,
}

impl Monitor {
    fn start() -> Self {
        let directory = tempdir().unwrap();
        let socket = directory.path().join("vmm.sock");
        let child = Command::new(MONITOR)
            .arg("--api-sock")
            .arg(&socket)
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let client = Client::new(&socket);
        let deadline = Instant::now() + Duration::from_secs(60);
        while client.info().is_err() {
            assert!(Instant::now() < deadline, "the monitor does not answer");
            std::thread::sleep(Duration::from_millis(10));
        }
        Self { child, client, directory }
    }

    fn code(mut self) -> Option<i32> {
        self.child.wait().unwrap().code()
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn config(kernel: &Path) -> VmConfig {
    VmConfig {
        cpus: 2,
        memory: 64 << 20,
        kernel: FileSource::Path(kernel.to_owned()),
        initrd: None,
        cmdline: String::new(),
        disks: vec![DiskConfig {
            id: "images".to_owned(),
            size: Some(1 << 30),
            read_only: true,
            ranges: Vec::new(),
        }],
        nets: Vec::new(),
        vsock: None,
        console: ConsoleConfig::Off,
    }
}

fn status(result: Result<(), ClientError>) -> u16 {
    match result {
        Err(ClientError::Refused { status, .. }) => status,
        other => panic!("not refused: {other:?}"),
    }
}

#[test]
fn an_empty_monitor_answers_refuses_and_ends() {
    let monitor = Monitor::start();
    let info = monitor.client.info().unwrap();
    assert_eq!((info.state, info.cpus, info.pid), (VmState::Empty, 0, monitor.child.id()));
    assert_eq!(status(monitor.client.start()), 409);
    assert_eq!(status(monitor.client.pause()), 409);
    let missing = config(Path::new("/nonexistent/kernel"));
    assert_eq!(status(monitor.client.configure(&missing, &[])), 400);
    monitor.client.shutdown().unwrap();
    assert_eq!(monitor.code(), Some(0));
}

#[test]
#[ignore = "needs KVM: run by ci/test-vms"]
fn a_machine_is_configured_started_paused_and_resumed() {
    let monitor = Monitor::start();
    // 1: mov $0x3f8,%dx; in %dx,%al; jmp 1b: an exit for each turn, for ever.
    let kernel = tiny_kernel(&monitor.directory, &[0x66, 0xba, 0xf8, 0x03, 0xec, 0xeb, 0xf9]);
    let mut config = config(&kernel);
    config.kernel = FileSource::Fd(0);
    let kernel = File::open(kernel).unwrap();
    monitor.client.configure(&config, &[kernel.as_fd()]).unwrap();
    let VmInfo { state, cpus, memory, .. } = monitor.client.info().unwrap();
    assert_eq!((state, cpus, memory), (VmState::Configured, 2, 64 << 20));
    assert_eq!(status(monitor.client.configure(&config, &[kernel.as_fd()])), 409);

    let exits = || monitor.client.metrics().unwrap().exits["ioIn"];
    assert_eq!(exits(), 0);
    monitor.client.start().unwrap();
    for _ in 0..20 {
        let before = exits();
        std::thread::sleep(Duration::from_millis(20));
        assert!(exits() > before, "a running guest makes exits");
        monitor.client.pause().unwrap();
        let paused = exits();
        std::thread::sleep(Duration::from_millis(20));
        assert_eq!(exits(), paused, "a paused guest makes none");
        assert_eq!(monitor.client.info().unwrap().state, VmState::Paused);
        monitor.client.resume().unwrap();
    }
    monitor.client.shutdown().unwrap();
    assert_eq!(monitor.code(), Some(0));
}

#[test]
#[ignore = "needs KVM: run by ci/test-vms"]
fn ranges_are_added_by_descriptor() {
    let monitor = Monitor::start();
    // hlt
    let kernel = tiny_kernel(&monitor.directory, &[0xf4]);
    monitor.client.configure(&config(&kernel), &[]).unwrap();
    let mut layer = tempfile::tempfile().unwrap();
    layer.write_all(&[7; 4096]).unwrap();
    let range = |offset| RangeConfig { offset, length: None, file: FileSource::Fd(0) };
    let add = |id, offset| monitor.client.add_range(id, &range(offset), Some(layer.as_fd()));
    add("images", 0).unwrap();
    add("images", 8192).unwrap();
    assert_eq!(status(add("images", 0)), 400, "it overlaps");
    assert_eq!(status(add("other", 0)), 404);
    assert_eq!(status(monitor.client.add_range("images", &range(1 << 20), None)), 400);
}
