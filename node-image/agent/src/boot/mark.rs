//! The boot mark: a byte stored to the monitor's boot timer says that userspace runs.
//!
//! The command line's `bulkhead.boot_timer=ADDRESS` (hexadecimal, physical) tells where the timer
//! is. Without it, or on a kernel without `/dev/mem`, nothing is marked and nothing fails.

use std::{fs, fs::File, io, os::fd::AsFd as _};

use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

/// What stops the timer.
const MAGIC: u8 = 123;
const PAGE: usize = 4096;

/// Marks, if there is a timer.
pub(super) fn write(command_line: &str) {
    if let Some(address) = timer_address(command_line) {
        // The mark is a measurement: the node boots as well without it.
        let _ = store(address);
    }
}

/// The kernel's command line; `/proc` must be mounted.
pub(super) fn command_line() -> String {
    fs::read_to_string("/proc/cmdline").unwrap_or_default()
}

fn timer_address(command_line: &str) -> Option<u64> {
    let text = command_line
        .split_ascii_whitespace()
        .find_map(|word| word.strip_prefix("bulkhead.boot_timer=0x"))?;
    u64::from_str_radix(text, 16).ok().filter(|address| address % PAGE as u64 == 0)
}

fn store(address: u64) -> io::Result<()> {
    let memory = File::options().read(true).write(true).open("/dev/mem")?;
    let protection = ProtFlags::READ | ProtFlags::WRITE;
    // SAFETY: a fresh shared mapping, which overlaps nothing of this process.
    let page = unsafe {
        mmap(std::ptr::null_mut(), PAGE, protection, MapFlags::SHARED, memory.as_fd(), address)
    }?;
    // SAFETY: the page is mapped writable; the store is volatile as it is to a device.
    unsafe { page.cast::<u8>().write_volatile(MAGIC) };
    // SAFETY: the page was mapped above, and nobody else knows of it.
    unsafe { munmap(page, PAGE) }?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::timer_address;

    #[test]
    fn only_a_page_named_on_the_command_line_is_written_to() {
        assert_eq!(timer_address("ro bulkhead.boot_timer=0xc0000000 quiet"), Some(0xc000_0000));
        for line in ["", "quiet", "bulkhead.boot_timer=0xc0000001", "bulkhead.boot_timer=0x"] {
            assert_eq!(timer_address(line), None, "{line}");
        }
    }
}
