//! A Linux guest uses each virtio device.

mod support;

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::process::{Command, Stdio};

use support::{CMDLINE, ended, initrd, kernel, run};
use tempfile::tempdir;

/// Boots the test kernel with `script` as its init and `arguments` beside. Returns its console.
fn boot(script: &str, arguments: &[&str]) -> String {
    let directory = tempdir().unwrap();
    let script = format!("mount -t devtmpfs d /dev\n{script}\nreboot -f");
    let initrd = initrd(&directory, &script);
    let mut all = vec!["--initrd", initrd.to_str().unwrap(), "--cmdline", CMDLINE];
    all.extend_from_slice(arguments);
    let (code, out, err) = ended(&run(&kernel(), &all).output().unwrap());
    assert_eq!(code, Some(10), "{out}{err}");
    out.replace('\r', "")
}

#[test]
#[ignore = "needs KVM: run by ci/test-vms"]
fn disks_are_read_written_and_flushed() {
    let directory = tempdir().unwrap();
    let (writable, fixed) = (directory.path().join("writable"), directory.path().join("fixed"));
    let file = File::options().read(true).write(true).create_new(true).open(&writable).unwrap();
    file.set_len(16 << 20).unwrap();
    fs::write(&fixed, vec![b'f'; 1 << 20]).unwrap();
    let script = "cat /sys/block/vda/size /sys/block/vdb/size /sys/block/vdb/ro\n\
         yes bulkhead | dd of=/dev/vda bs=64k count=64 seek=1 iflag=fullblock conv=fsync 2>/dev/null\n\
         dd if=/dev/vda bs=4096 count=2048 2>/dev/null | md5sum\n\
         echo CACHE $(cat /sys/block/vda/queue/write_cache)\n\
         head -c 4 /dev/vdb; echo\n\
         dd if=/dev/zero of=/dev/vdb count=1 2>/dev/null || echo REFUSED";
    let disk = format!("{}:ro", fixed.display());
    let out = boot(script, &["--disk", writable.to_str().unwrap(), "--disk", &disk]);
    assert!(out.contains("32768\n2048\n1\n"), "{out}");
    assert!(out.contains("CACHE write back"), "{out}");
    assert!(out.contains("ffff\nREFUSED"), "{out}");
    let mut content = vec![0; 4 << 20];
    file.read_exact_at(&mut content, 64 << 10).unwrap();
    assert!(content.iter().eq(b"bulkhead\n".iter().cycle().take(content.len())));
    // What the guest has read is what lies in the file.
    let mut front = vec![0; 8 << 20];
    file.read_exact_at(&mut front, 0).unwrap();
    fs::write(&fixed, front).unwrap();
    let sum = Command::new("md5sum").stdin(File::open(&fixed).unwrap()).output().unwrap();
    let sum = String::from_utf8(sum.stdout).unwrap();
    assert!(out.contains(sum.split_whitespace().next().unwrap()), "{out}{sum}");
}

#[test]
#[ignore = "needs KVM: run by ci/test-vms"]
fn entropy_reaches_the_guest() {
    let script = "cat /sys/class/misc/hw_random/rng_current\n\
         echo RANDOM $(head -c 8000 /dev/hwrng | gzip | wc -c)";
    let out = boot(script, &[]);
    assert!(out.contains("virtio_rng"), "{out}");
    let line = out.lines().find_map(|line| line.strip_prefix("RANDOM ")).unwrap();
    // It does not compress.
    assert!(line.trim().parse::<u32>().unwrap() >= 8_000, "{out}");
}

#[test]
#[ignore = "needs KVM: run by ci/test-vms"]
fn host_and_guest_reach_each_other_by_tap() {
    let tap = Tap::new("bhtest0");
    let script = "ip link set eth0 up; ip addr add 192.0.2.2/24 dev eth0\n\
         ping -c 3 -s 1400 -W 5 192.0.2.1 >/dev/null && echo PING\n\
         nc 192.0.2.1 7777 </dev/null | md5sum";
    let directory = tempdir().unwrap();
    let path = directory.path().join("data");
    let data: Vec<u8> = (0..20_000_000_u32).map(|index| (index * 31 / 7) as u8).collect();
    fs::write(&path, data).unwrap();
    let sum = Command::new("md5sum").stdin(File::open(&path).unwrap()).output().unwrap();
    let sum = String::from_utf8(sum.stdout).unwrap();
    let listener = std::net::TcpListener::bind("192.0.2.1:7777").unwrap();
    let server = std::thread::spawn(move || {
        let (mut client, _) = listener.accept().unwrap();
        std::io::copy(&mut File::open(&path).unwrap(), &mut client).unwrap();
        // `directory` lives until the guest has all of it.
        drop(directory);
    });
    let out = boot(script, &["--tap", tap.0]);
    assert!(out.contains("PING"), "{out}");
    assert!(out.contains(sum.split_whitespace().next().unwrap()), "{out}{sum}");
    server.join().unwrap();
}

/// A tap with an address, for as long as the test runs.
struct Tap(&'static str);

impl Tap {
    fn new(name: &'static str) -> Self {
        ip(&["tuntap", "add", name, "mode", "tap", "vnet_hdr"]);
        let tap = Self(name);
        ip(&["addr", "add", "192.0.2.1/24", "dev", name]);
        ip(&["link", "set", name, "up"]);
        tap
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["link", "del", self.0]).stderr(Stdio::null()).status();
    }
}

fn ip(arguments: &[&str]) {
    assert!(Command::new("ip").args(arguments).status().unwrap().success(), "ip {arguments:?}");
}
