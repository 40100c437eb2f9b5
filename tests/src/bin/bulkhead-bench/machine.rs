//! A guest under either monitor, with its console on a pipe.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use bulkhead_tests::setting;

/// Which monitor runs the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Monitor {
    /// Ours.
    Bulkhead,
    /// Debian's QEMU, its leanest machine.
    Qemu,
}

/// What a guest has besides processor and memory.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Device<'a> {
    /// Nothing.
    None,
    /// A file as its disk, and fio.
    Disk(&'a Path),
    /// A tap of that name, and programs that load a network.
    Tap(&'a str),
}

impl Device<'_> {
    /// The initrd with the programs that try it.
    fn initrd(self) -> PathBuf {
        setting(match self {
            Self::None => "BULKHEAD_BENCH_INITRD",
            Self::Disk(_) => "BULKHEAD_BENCH_FIO_INITRD",
            Self::Tap(..) => "BULKHEAD_BENCH_NET_INITRD",
        })
    }

    /// Programs come with libraries that fill a small guest.
    const fn memory(self) -> &'static str {
        match self {
            Self::None => "128M",
            Self::Disk(_) => "768M",
            Self::Tap(..) => "256M",
        }
    }
}

impl Monitor {
    /// Both, in the order in which they take turns.
    pub(crate) const BOTH: [Self; 2] = [Self::Bulkhead, Self::Qemu];

    fn command(self, bench: &str, device: Device<'_>) -> Command {
        let (initrd, memory) = (device.initrd(), device.memory());
        let kernel = setting("BULKHEAD_KERNEL");
        // A microvm has no keyboard controller: QEMU's manual recommends a reset by triple fault, and
        // without the parameter the guest's way there takes some 20 s here.
        let reset = match self {
            Self::Bulkhead => "k",
            Self::Qemu => "t",
        };
        let cmdline = format!(
            "console=ttyS0 reboot={reset} panic=-1 quiet 8250.nr_uarts=1 i8042.noaux i8042.nomux \
             i8042.dumbkbd swiotlb=noforce noreplace-smp rcupdate.rcu_expedited=1 \
             tsc=nowatchdog sysctl.vm.compaction_proactiveness=0 bench={bench}"
        );
        match self {
            Self::Bulkhead => {
                let mut command = Command::new(setting("BULKHEAD_BIN_DIR").join("bulkhead-vmm"));
                command.args(["run", "--memory", memory, "--cpus", "1", "--cmdline", &cmdline]);
                command.arg("--kernel").arg(kernel).arg("--initrd").arg(initrd);
                match device {
                    Device::None => {}
                    Device::Disk(disk) => drop(command.arg("--disk").arg(disk)),
                    Device::Tap(tap) => drop(command.args(["--tap", tap])),
                }
                command
            }
            Self::Qemu => {
                let mut command = Command::new("qemu-system-x86_64");
                let machine = "microvm,accel=kvm,acpi=off,pit=off,pic=off,rtc=off,\
                               isa-serial=on,x-option-roms=off,auto-kernel-cmdline=on";
                command.args(["-M", machine, "-cpu", "host", "-m", memory, "-smp", "1"]);
                command.args(["-nodefaults", "-no-user-config", "-nographic", "-no-reboot"]);
                command.args(["-serial", "stdio", "-append", &cmdline]);
                command.arg("-kernel").arg(kernel).arg("-initrd").arg(initrd);
                match device {
                    Device::None => {}
                    Device::Disk(disk) => {
                        let drive = format!(
                            "id=d,file={},format=raw,if=none,cache=none,aio=io_uring",
                            disk.display()
                        );
                        command.args(["-drive", &drive, "-device", "virtio-blk-device,drive=d"]);
                    }
                    Device::Tap(tap) => {
                        let link =
                            format!("tap,id=n,ifname={tap},script=no,downscript=no,vhost=off");
                        command.args(["-netdev", &link, "-device", "virtio-net-device,netdev=n"]);
                    }
                }
                command
            }
        }
    }
}

/// A started guest.
pub(crate) struct Machine {
    process: Child,
    console: BufReader<ChildStdout>,
    started: Instant,
}

impl Machine {
    /// Starts a guest whose init is asked for `bench`.
    pub(crate) fn start(monitor: Monitor, bench: &str, device: Device<'_>) -> Self {
        let mut command = monitor.command(bench, device);
        let log = std::fs::File::create(std::env::temp_dir().join(format!("{monitor:?}.stderr")))
            .unwrap();
        let started = Instant::now();
        let mut process = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
        let console = BufReader::new(process.stdout.take().unwrap());
        Self { process, console, started }
    }

    /// The monitor's process id.
    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }

    /// The next line of the console that starts with `prefix`, less it.
    pub(crate) fn line(&mut self, prefix: &str) -> String {
        let mut line = Vec::new();
        loop {
            line.clear();
            let read = self.console.read_until(b'\n', &mut line).unwrap();
            let text = String::from_utf8_lossy(&line);
            if let Some((_, rest)) = text.split_once(prefix) {
                return rest.trim().to_owned();
            }
            assert_ne!(read, 0, "the console ended before {prefix:?}; see its .stderr in /tmp");
        }
    }

    /// Milliseconds from the start of the process to the first act of init.
    pub(crate) fn until_init(&mut self) -> f64 {
        self.line("first-userspace-act");
        self.started.elapsed().as_secs_f64() * 1e3
    }

    /// Waits until the guest has ended the machine.
    pub(crate) fn wait(mut self) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while self.process.try_wait().unwrap().is_none() {
            if Instant::now() > deadline {
                return;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
