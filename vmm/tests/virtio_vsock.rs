//! A Linux guest and the host reach each other over vsock, both ways at once.

mod support;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use support::{CMDLINE, MONITOR, ended, initrd_with, kernel, run};
use tempfile::tempdir;

const CONNECTIONS: u8 = 3;
const LENGTH: usize = 3 << 20;

/// A connection to `port` of the guest, or `None` if nobody listens there, or no monitor does.
fn connect(path: &Path, port: u32) -> Option<BufReader<UnixStream>> {
    let mut stream = UnixStream::connect(path).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    writeln!(stream, "CONNECT {port}").unwrap();
    let mut stream = BufReader::new(stream);
    let mut greeting = String::new();
    stream.read_line(&mut greeting).unwrap();
    if greeting.is_empty() {
        return None;
    }
    let host_port = greeting.strip_prefix("OK ").unwrap().trim_end();
    host_port.parse::<u32>().unwrap();
    Some(stream)
}

/// Waits until the guest listens.
fn guest_listens(path: &Path) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while connect(path, 5000).is_none() {
        assert!(Instant::now() < deadline, "nobody listens in the guest");
        thread::sleep(Duration::from_millis(50));
    }
}

/// Sends to the guest's echo, shuts down that direction, and compares what comes back.
fn call(path: &Path, seed: u8) {
    let mut stream = connect(path, 5000).unwrap();
    let data: Vec<u8> = (0..LENGTH).map(|index| (index / 5) as u8 ^ seed).collect();
    let mut writer = stream.get_ref().try_clone().unwrap();
    let sent = data.clone();
    let sender = thread::spawn(move || {
        writer.write_all(&sent).unwrap();
        writer.shutdown(Shutdown::Write).unwrap();
    });
    let mut received = Vec::new();
    stream.read_to_end(&mut received).unwrap();
    sender.join().unwrap();
    assert!(received == data, "connection {seed}: {} bytes came back", received.len());
}

/// The host's echo, for what comes to port 6000.
fn serve(path: &Path) -> thread::JoinHandle<()> {
    let mut socket = path.as_os_str().to_owned();
    socket.push("_6000");
    let listener = UnixListener::bind(PathBuf::from(socket)).unwrap();
    thread::spawn(move || {
        let echoes = listener.incoming().take(CONNECTIONS.into()).map(|stream| {
            let mut stream = stream.unwrap();
            thread::spawn(move || {
                let mut reader = stream.try_clone().unwrap();
                std::io::copy(&mut reader, &mut stream).unwrap();
                stream.shutdown(Shutdown::Write).unwrap();
            })
        });
        let echoes: Vec<_> = echoes.collect();
        echoes.into_iter().for_each(|echo| echo.join().unwrap());
    })
}

fn guest(directory: &tempfile::TempDir, path: &Path) -> Child {
    let program = Path::new(MONITOR).with_file_name("examples").join("vsock-guest");
    let initrd = initrd_with(directory, "/vsock-guest; reboot -f", &[("vsock-guest", &program)]);
    let vsock = format!("3:{}", path.display());
    let arguments = ["--initrd", initrd.to_str().unwrap(), "--cmdline", CMDLINE, "--vsock", &vsock];
    run(&kernel(), &arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

#[test]
#[ignore = "needs KVM: run by ci/test-vms"]
fn host_and_guest_talk_over_many_connections_at_once() {
    let directory = tempdir().unwrap();
    let path = directory.path().join("vsock");
    let host_echo = serve(&path);
    let mut monitor = guest(&directory, &path);
    guest_listens(&path);

    thread::scope(|scope| {
        for seed in 0..CONNECTIONS {
            let path = &path;
            scope.spawn(move || call(path, seed));
        }
    });
    assert!(connect(&path, 4999).is_none(), "nobody listens there");

    // Gone in the middle, with data on the way in both directions: the next is served all the same.
    let stream = connect(&path, 5000).unwrap();
    stream.get_ref().write_all(&vec![1; 100_000]).unwrap();
    drop(stream);
    call(&path, 9);

    // The guest has said all it has to say, and still listens.
    let mut stream = connect(&path, 5001).unwrap();
    let mut said = String::new();
    stream.read_to_string(&mut said).unwrap();
    assert_eq!(said, "all I say");
    stream.get_ref().write_all(&vec![2; 300_000]).unwrap();
    drop(stream);

    host_echo.join().unwrap();
    let end = connect(&path, 5999);
    if end.is_none() {
        monitor.kill().unwrap();
    }
    let (code, out, err) = ended(&monitor.wait_with_output().unwrap());
    assert!(end.is_some(), "the guest takes no call to its end: {code:?} {out}{err}");
    drop(end);
    assert_eq!(code, Some(10), "{out}{err}");
    for line in ["TAKEN 300000", "ECHOED BY THE HOST", "NOBODY THERE: ConnectionReset"] {
        assert!(out.contains(line), "{line}: {out}");
    }
}
