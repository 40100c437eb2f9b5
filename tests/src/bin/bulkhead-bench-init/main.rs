//! The init of a benchmark's guest. Its first act is to say [`MARK`] on the console; then it does
//! what the kernel's command line asks for with `bench=`: `exit` resets the machine, `idle` sleeps,
//! `disk` runs fio on `/dev/vda` and prints its JSON, then resets; `net-server` serves iperf3 and
//! sockperf on `eth0`, and `net-client` loads such a server with them, then resets.

#![forbid(unsafe_code)]

use std::io::Write;
use std::process::Command;
use std::time::Duration;

const MARK: &[u8] = b"first-userspace-act\n";

fn main() {
    let mut console = std::io::stdout();
    let _ = console.write_all(MARK);
    let _ = console.flush();

    let _ = std::fs::create_dir_all("/proc");
    let _ = rustix::mount::mount("proc", "/proc", "proc", rustix::mount::MountFlags::empty(), None);
    let cmdline = std::fs::read_to_string("/proc/cmdline").unwrap_or_default();
    let mode = cmdline.split_whitespace().find_map(|word| word.strip_prefix("bench="));
    match mode {
        Some("idle") => loop {
            std::thread::sleep(Duration::from_secs(3600));
        },
        Some("disk") => disk(),
        Some("net-server") => net_server(),
        Some("net-client") => net_client(),
        _ => {}
    }
    let _ = rustix::system::reboot(rustix::system::RebootCommand::Restart);
}

/// Each of fio's four patterns on the disk, its results as one line of JSON.
fn disk() {
    let _ =
        rustix::mount::mount("dev", "/dev", "devtmpfs", rustix::mount::MountFlags::empty(), None);
    for (pattern, block) in
        [("read", "128k"), ("write", "128k"), ("randread", "4k"), ("randwrite", "4k")]
    {
        let output = Command::new("/bin/fio")
            .args(["--name=b", "--filename=/dev/vda", "--direct=1", "--ioengine=psync"])
            .args(["--time_based", "--runtime=2", "--size=256m", "--output-format=json"])
            .args([format!("--rw={pattern}"), format!("--bs={block}")])
            .output();
        let text = match output {
            Ok(output) => output.stdout,
            Err(error) => error.to_string().into_bytes(),
        };
        let line = String::from_utf8_lossy(&text).replace('\n', " ");
        println!("fio {pattern} {line}");
    }
}

/// The server's address on the network that the two guests have between them.
const SERVER: &str = "10.99.0.1";
const CLIENT: &str = "10.99.0.2";

fn run(program: &str, arguments: &[&str]) -> String {
    match Command::new(program).args(arguments).output() {
        Ok(output) => String::from_utf8_lossy(&output.stdout).replace('\n', " "),
        Err(error) => error.to_string(),
    }
}

/// Gives `eth0` an address.
fn configure(address: &str) {
    let _ =
        rustix::mount::mount("dev", "/dev", "devtmpfs", rustix::mount::MountFlags::empty(), None);
    // A monitor may give all of its guests the same Ethernet address.
    let number = address.rsplit('.').next().unwrap_or_default();
    run("ip", &["link", "set", "lo", "up"]);
    run("ip", &["link", "set", "eth0", "address", &format!("02:00:00:00:09:0{number}"), "up"]);
    run("ip", &["addr", "add", &format!("{address}/24"), "dev", "eth0"]);
}

fn net_server() {
    configure(SERVER);
    let sockperf = Command::new("sockperf").args(["server", "--tcp", "-i", "0.0.0.0"]).spawn();
    let iperf = Command::new("iperf3").args(["-s"]).spawn();
    println!("net-server {:?}", (sockperf.is_ok(), iperf.is_ok()));
    if let Ok(mut iperf) = iperf {
        let _ = iperf.wait();
    }
}

/// What each program says, as one line.
fn net_client() {
    configure(CLIENT);
    println!("iperf3 {}", run("iperf3", &["-c", SERVER, "-t", "3", "-J"]));
    let ping_pong = ["ping-pong", "--tcp", "-i", SERVER, "-t", "3"];
    println!("sockperf {}", run("sockperf", &ping_pong));
}
