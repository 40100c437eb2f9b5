//! The init of a benchmark's guest. Its first act is to say [`MARK`] on the console; then it does
//! what the kernel's command line asks for with `bench=`: `exit` resets the machine, `idle` sleeps,
//! `disk` runs fio on `/dev/vda` and prints its JSON, then resets.

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
