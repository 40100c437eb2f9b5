//! Real machines: QEMU, Debian's kernel, and what runs inside.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use bulkhead_emulated_host::{
    Forward, StartOptions, Status, default_cache, forward, prepare, start, status, stop, unforward,
};

const PROGRAM: &str = env!("CARGO_BIN_EXE_bulkhead-emulated-host");

/// Counts its own starts on the disk, and serves the count over HTTP until it is killed.
const SERVICE: &str =
    "cd /var/lib/bulkhead; echo start >>starts; ls -l /dev/kvm >kvm; exec busybox httpd -f -p 7000";

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn get(port: u16, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(2))).ok()?;
    write!(stream, "GET {path} HTTP/1.0\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    head.contains(" 200 ").then(|| body.to_owned())
}

fn get_in_time(port: u16, path: &str) -> String {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        if let Some(body) = get(port, path) {
            return body;
        }
        assert!(Instant::now() < deadline, "nothing answers on port {port}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn options(directory: &Path, outside: u16) -> StartOptions {
    StartOptions {
        directory: directory.to_owned(),
        boot: prepare(&default_cache(), &|_| {}).unwrap(),
        program: PROGRAM.into(),
        memory_mib: 1024,
        cpus: 1,
        disk_size: 1 << 30,
        disk_mount_point: "/var/lib/bulkhead".into(),
        forwards: vec![Forward { outside, inside: 7000 }],
        command: ["/bin/sh", "-c", SERVICE].map(str::to_owned).to_vec(),
        environment: BTreeMap::new(),
    }
}

fn run(arguments: &[&str], input: &[u8]) -> (Option<i32>, Vec<u8>, String) {
    let mut child = Command::new(PROGRAM)
        .args(["run", "--memory", "1G", "--cpus", "1"])
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_owned();
    let writer = std::thread::spawn(move || stdin.write_all(&input));
    let output = child.wait_with_output().unwrap();
    let _ = writer.join();
    (output.status.code(), output.stdout, String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
#[ignore = "boots machines under QEMU"]
fn a_daemon_keeps_its_state_through_stop_and_kill() {
    let home = tempfile::tempdir().unwrap();
    let port = free_port();
    let options = options(home.path(), port);

    let first = start(&options).unwrap();
    assert!(first.started);
    assert!(get_in_time(port, "/kvm").contains("/dev/kvm"));
    assert_eq!(get_in_time(port, "/starts"), "start\n");

    let again = start(&options).unwrap();
    assert_eq!((again.pid, again.started), (first.pid, false));
    let second_port = free_port();
    forward(home.path(), Forward { outside: second_port, inside: 7000 }).unwrap();
    assert_eq!(get_in_time(second_port, "/starts"), "start\n");
    forward(home.path(), Forward { outside: second_port, inside: 7000 }).unwrap_err();
    unforward(home.path(), second_port).unwrap();
    assert_eq!(get(second_port, "/starts"), None);

    assert!(stop(home.path()).unwrap());
    assert_eq!(status(home.path()), Status::Stopped);
    let console = std::fs::read_to_string(home.path().join("console.log")).unwrap();
    assert!(!console.contains("still in use"), "{console}");

    let killed = start(&options).unwrap();
    assert_eq!(get_in_time(port, "/starts"), "start\nstart\n");
    Command::new("kill").args(["-9", &killed.pid.to_string()]).status().unwrap();
    while status(home.path()) != Status::Stopped {
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(start(&options).unwrap().started);
    assert!(get_in_time(port, "/starts").starts_with("start\nstart\n"));
    assert!(stop(home.path()).unwrap());
    assert!(!home.path().join("qemu.pid").exists());
}

#[test]
#[ignore = "boots machines under QEMU"]
fn the_machines_directory_stays_in_sight_below_the_disk() {
    let home = tempfile::tempdir().unwrap();
    let directory = home.path().canonicalize().unwrap().join("emulated");
    let port = free_port();
    let mut options = options(&directory, port);
    options.disk_mount_point = directory.parent().unwrap().to_owned();
    let script =
        "cd \"$1\"; echo state >starts; cat emulated/token >token; exec busybox httpd -f -p 7000";
    options.command = ["/bin/sh", "-c", script, "sh"].map(str::to_owned).to_vec();
    options.command.push(home.path().display().to_string());
    std::fs::create_dir(&directory).unwrap();
    std::fs::write(directory.join("token"), "secret").unwrap();
    start(&options).unwrap();
    assert_eq!(get_in_time(port, "/token"), "secret");
    assert!(stop(&directory).unwrap());
    let console = std::fs::read_to_string(directory.join("console.log")).unwrap();
    assert!(!console.contains("still in use"), "{console}");
    assert!(!home.path().join("starts").exists());
}

#[test]
#[ignore = "boots machines under QEMU"]
fn a_taken_port_is_named() {
    let home = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let message = start(&options(home.path(), port)).unwrap_err().to_string();
    assert!(message.contains(&port.to_string()), "{message}");
    assert_eq!(status(home.path()), Status::Stopped);
}

#[test]
#[ignore = "boots machines under QEMU"]
fn a_command_has_its_streams_and_status() {
    let input: Vec<u8> = (0..1_000_000_u32).flat_map(u32::to_le_bytes).collect();
    let (status, output, _) = run(&["--", "cat"], &input);
    assert_eq!(status, Some(0));
    assert!(output == input, "{} bytes of {}", output.len(), input.len());

    let script =
        "test -c /dev/kvm && echo $WORD; df --output=target /scratch; echo error >&2; exit 7";
    let (status, output, errors) = run(
        &[
            "--env",
            "WORD=word",
            "--disk",
            "1G",
            "--disk-path",
            "/scratch",
            "--",
            "sh",
            "-c",
            script,
        ],
        b"",
    );
    assert_eq!(status, Some(7), "{errors}");
    assert_eq!(String::from_utf8_lossy(&output), "word\nMounted on\n/scratch\n");
    assert_eq!(errors, "error\n");
}

#[test]
#[ignore = "boots machines under QEMU"]
fn a_command_that_is_not_there_is_named() {
    let (status, _, errors) = run(&["--", "/no/such/program"], b"");
    assert_eq!(status, Some(125));
    assert!(errors.contains("cannot run /no/such/program"), "{errors}");
}

/// A `run` of a command that says one word and then sleeps, below the temporary directory `work`.
fn sleeping(work: &Path) -> (Child, u32) {
    let mut child = Command::new(PROGRAM)
        .args(["run", "--memory", "1G", "--cpus", "1", "--", "sh", "-c", "echo up; sleep 600"])
        .env("TMPDIR", work)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut word = [0; 3];
    child.stdout.as_mut().unwrap().read_exact(&mut word).unwrap();
    assert_eq!(&word, b"up\n");
    let children = std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", child.id()));
    let qemu = children.unwrap().split_whitespace().next().unwrap().parse().unwrap();
    (child, qemu)
}

fn wait_until_gone(pid: u32) {
    let deadline = Instant::now() + Duration::from_secs(20);
    let gone = || match std::fs::read_to_string(format!("/proc/{pid}/stat")) {
        Ok(stat) => stat.contains(") Z "),
        Err(_) => true,
    };
    while !gone() {
        assert!(Instant::now() < deadline, "QEMU (pid {pid}) is still there");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
#[ignore = "boots machines under QEMU"]
fn a_killed_run_leaves_no_machine_and_its_files_go_with_the_next() {
    let work = tempfile::tempdir().unwrap();
    let left = || std::fs::read_dir(work.path()).unwrap().count();
    let (mut killed, qemu) = sleeping(work.path());
    killed.kill().unwrap();
    killed.wait().unwrap();
    wait_until_gone(qemu);
    assert_eq!(left(), 1, "nobody could remove it");

    let (mut unread, qemu) = sleeping(work.path());
    assert_eq!(left(), 1);
    drop(unread.stdout.take());
    assert_eq!(unread.wait().unwrap().code(), Some(128 + 13), "as if by SIGPIPE");
    wait_until_gone(qemu);
    assert_eq!(left(), 0);
}
