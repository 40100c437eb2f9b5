//! Which devices a container may use: a `BPF_PROG_TYPE_CGROUP_DEVICE` program on its cgroup.
//!
//! Containers have `CAP_MKNOD` by default, so an empty `/dev` alone holds nobody back: without
//! this a container could make a node for the scratch disk and write to it. The program allows
//! the devices that the OCI runtime specification calls default, terminals, and the making (not
//! the opening) of any node, as runc does.

use std::{
    io,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
    path::Path,
};

/// Character devices that may be opened: major, minor (`None` for all).
const ALLOWED: [(u32, Option<u32>); 8] = [
    (1, Some(3)), // null
    (1, Some(5)), // zero
    (1, Some(7)), // full
    (1, Some(8)), // random
    (1, Some(9)), // urandom
    (5, Some(0)), // tty
    (5, Some(2)), // ptmx
    (136, None),  // pts
];

const BPF_PROG_LOAD: libc::c_int = 5;
const BPF_PROG_ATTACH: libc::c_int = 8;
const BPF_PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const BPF_CGROUP_DEVICE: u32 = 6;

const DEV_CHAR: i32 = 2;
const ACCESS_MKNOD: i32 = 1;

/// `struct bpf_insn`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Instruction {
    code: u8,
    registers: u8,
    offset: i16,
    immediate: i32,
}

const fn instruction(code: u8, dst: u8, src: u8, offset: i16, immediate: i32) -> Instruction {
    Instruction { code, registers: dst | src << 4, offset, immediate }
}

/// `dst = *(u32 *)(src + offset)`.
const fn load(dst: u8, src: u8, offset: i16) -> Instruction {
    instruction(0x61, dst, src, offset, 0)
}

/// `if dst != immediate skip offset`.
const fn jump_unless(dst: u8, immediate: i32, offset: i16) -> Instruction {
    instruction(0x55, dst, 0, offset, immediate)
}

const fn set(dst: u8, immediate: i32) -> Instruction {
    instruction(0xb7, dst, 0, 0, immediate)
}

const EXIT: Instruction = instruction(0x95, 0, 0, 0, 0);

/// The program. `r1` points to `struct bpf_cgroup_dev_ctx { access_type, major, minor }`, where
/// `access_type` is the access in its upper and the device's kind in its lower 16 bits.
fn program() -> Vec<Instruction> {
    let (kind, access, major, minor) = (2, 3, 4, 5);
    let mut code = vec![
        load(kind, 1, 0),
        load(access, 1, 0),
        instruction(0x54, kind, 0, 0, 0xffff),
        instruction(0x74, access, 0, 0, 16),
        load(major, 1, 4),
        load(minor, 1, 8),
        jump_unless(access, ACCESS_MKNOD, 2),
        set(0, 1),
        EXIT,
        jump_unless(kind, DEV_CHAR, 0),
    ];
    let guard = code.len() - 1;
    for (allowed_major, allowed_minor) in ALLOWED {
        let skip = if allowed_minor.is_some() { 3 } else { 2 };
        code.push(jump_unless(major, allowed_major.cast_signed(), skip));
        if let Some(allowed_minor) = allowed_minor {
            code.push(jump_unless(minor, allowed_minor.cast_signed(), 2));
        }
        code.extend([set(0, 1), EXIT]);
    }
    let to_refusal = code.len() - guard - 1;
    code[guard].offset = i16::try_from(to_refusal).unwrap_or(i16::MAX);
    code.extend([set(0, 0), EXIT]);
    code
}

/// The members of `union bpf_attr` that `BPF_PROG_LOAD` needs.
#[repr(C)]
struct LoadAttributes {
    prog_type: u32,
    instruction_count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buffer: u64,
    kernel_version: u32,
    flags: u32,
}

/// The members of `union bpf_attr` that `BPF_PROG_ATTACH` needs.
#[repr(C)]
struct AttachAttributes {
    target: u32,
    program: u32,
    attach_type: u32,
    flags: u32,
}

/// The program, as the kernel has checked and compiled it.
#[derive(Debug)]
pub(crate) struct DeviceProgram(OwnedFd);

impl DeviceProgram {
    /// Gives it to the kernel, which takes its time.
    pub(crate) fn load() -> io::Result<Self> {
        load_program().map(Self)
    }

    /// Puts it on a cgroup. It lasts as long as the cgroup.
    pub(crate) fn attach(&self, cgroup: &Path) -> io::Result<()> {
        let directory = std::fs::File::open(cgroup)?;
        let raw = |fd: i32| u32::try_from(fd).map_err(io::Error::other);
        let attach = AttachAttributes {
            target: raw(directory.as_raw_fd())?,
            program: raw(self.0.as_raw_fd())?,
            attach_type: BPF_CGROUP_DEVICE,
            flags: 0,
        };
        // SAFETY: `attach` is laid out as the kernel's union begins and holds no pointers.
        unsafe { bpf(BPF_PROG_ATTACH, &attach) }.map(|_| ())
    }
}

fn load_program() -> io::Result<OwnedFd> {
    let code = program();
    let load = LoadAttributes {
        prog_type: BPF_PROG_TYPE_CGROUP_DEVICE,
        instruction_count: u32::try_from(code.len()).map_err(io::Error::other)?,
        instructions: code.as_ptr() as u64,
        license: c"Apache-2.0".as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log_buffer: 0,
        kernel_version: 0,
        flags: 0,
    };
    // SAFETY: `load` is laid out as the kernel's union begins, and its pointers outlive the call.
    let program = unsafe { bpf(BPF_PROG_LOAD, &load) }?;
    // SAFETY: the kernel just returned this descriptor; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(program) })
}

/// bpf(2).
///
/// # Safety
/// `attributes` must be what `command` expects, and its pointers valid.
unsafe fn bpf<T>(command: libc::c_int, attributes: &T) -> io::Result<libc::c_int> {
    // SAFETY: the caller vouches for the attributes; their size is told.
    let result = unsafe {
        libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(attributes), size_of::<T>())
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    libc::c_int::try_from(result).map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs the program on an access, as the kernel would.
    fn allows(kind: u32, access: u32, major: u32, minor: u32) -> bool {
        let context = [access << 16 | kind, major, minor];
        let code = program();
        let mut registers = [0_i64; 11];
        let mut at = 0;
        loop {
            let step = code[at];
            let (dst, immediate) = (usize::from(step.registers & 15), i64::from(step.immediate));
            match step.code {
                0x61 => {
                    registers[dst] = i64::from(context[usize::try_from(step.offset).unwrap() / 4])
                }
                0x54 => registers[dst] &= immediate,
                0x74 => registers[dst] >>= immediate,
                0x55 if registers[dst] != immediate => at += usize::try_from(step.offset).unwrap(),
                0x55 => {}
                0xb7 => registers[dst] = immediate,
                0x95 => return registers[0] == 1,
                other => panic!("instruction {other:#x}"),
            }
            at += 1;
        }
    }

    #[test]
    fn default_devices_open_and_disks_do_not() {
        let (block, char, mknod, read_write) = (1, 2, 1, 6);
        for (major, minor) in [(1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 2), (136, 7)] {
            assert!(allows(char, read_write, major, minor), "{major}:{minor}");
        }
        for (kind, major, minor) in
            [(block, 253, 0), (block, 1, 3), (char, 1, 1), (char, 10, 200), (char, 5, 1)]
        {
            assert!(!allows(kind, read_write, major, minor), "{major}:{minor}");
            assert!(allows(kind, mknod, major, minor), "{major}:{minor}");
        }
    }
}
