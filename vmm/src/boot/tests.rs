use std::io::{Seek, Write};

use linux_loader::loader::bootparam::boot_params;
use proptest::prelude::*;

use super::*;
use crate::layout::{HIGH_MEMORY, PVH_MODULES, PVH_START_INFO, ZERO_PAGE};
use crate::memory;

const ENTRY: u32 = 0x100_0040;
const MEMORY: u64 = 64 << 20;

/// An ELF file with one segment of `code` at 16 MiB and a PVH note.
fn vmlinux(code: &[u8], note: bool) -> Vec<u8> {
    let (offset, address) = (0x200_u64, 0x100_0000_u64);
    let mut file = vec![0; offset as usize];
    file[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
    file[16..20].copy_from_slice(&[2, 0, 62, 0]);
    file[20] = 1;
    file[24..32].copy_from_slice(&address.to_le_bytes());
    file[32..40].copy_from_slice(&64_u64.to_le_bytes());
    file[52..58].copy_from_slice(&[64, 0, 56, 0, 2, 0]);
    let header = |kind: u32, offset: u64, address: u64, size: u64| {
        let mut bytes = [kind.to_le_bytes(), 7_u32.to_le_bytes()].concat();
        for field in [offset, address, address, size, size, 4] {
            bytes.extend(u64::to_le_bytes(field));
        }
        bytes
    };
    let load = header(1, offset, address, code.len() as u64);
    file[64..120].copy_from_slice(&load);
    if note {
        file[120..176].copy_from_slice(&header(4, 0x100, 0, 20));
        let note = [&[4, 0, 0, 0, 4, 0, 0, 0, 18, 0, 0, 0][..], b"Xen\0", &ENTRY.to_le_bytes()];
        file[0x100..0x114].copy_from_slice(&note.concat());
    }
    file.extend_from_slice(code);
    file
}

fn file(content: &[u8]) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(content).unwrap();
    file.rewind().unwrap();
    file
}

fn boot(
    kernel: &[u8],
    initrd: Option<&[u8]>,
    cmdline: &str,
) -> Result<(Loaded, GuestMemory), BootError> {
    let memory = memory::create(MEMORY).unwrap();
    let (mut kernel, mut initrd) = (file(kernel), initrd.map(file));
    let boot = Boot { kernel: &mut kernel, initrd: initrd.as_mut(), cmdline, rsdp: 0xe_0000 };
    load(&memory, boot).map(|loaded| (loaded, memory))
}

fn bzimage(body: usize) -> Vec<u8> {
    let mut image = vec![0; 1024 + body];
    image[0x1f1] = 1;
    image[0x1f4..0x1f8].copy_from_slice(&(body as u32 / 16).to_le_bytes());
    image[0x202..0x206].copy_from_slice(b"HdrS");
    image[0x206..0x208].copy_from_slice(&0x20f_u16.to_le_bytes());
    image[0x211] = 1;
    image[0x22c..0x230].copy_from_slice(&0x7fff_ffff_u32.to_le_bytes());
    image[0x230..0x234].copy_from_slice(&0x20_0000_u32.to_le_bytes());
    image[0x234] = 1;
    image[0x236] = 1;
    image[0x258..0x260].copy_from_slice(&0x100_0000_u64.to_le_bytes());
    image[0x260..0x264].copy_from_slice(&0x100_0000_u32.to_le_bytes());
    image
}

fn message(kernel: &[u8]) -> String {
    boot(kernel, None, "").unwrap_err().to_string()
}

#[test]
fn a_vmlinux_is_entered_by_its_pvh_note() {
    let (loaded, memory) = boot(&vmlinux(b"code", true), Some(b"initrd"), "quiet").unwrap();
    assert_eq!(loaded.entry, Entry { protocol: Protocol::Pvh, address: ENTRY.into() });
    let segment = 0x100_0000..0x100_0004;
    assert_eq!(loaded.kernel, std::slice::from_ref(&segment));
    let mut text = [0; 4];
    memory.read_slice(&mut text, GuestAddress(0x100_0000)).unwrap();
    assert_eq!(&text, b"code");
    let info: [u32; 4] = memory.read_obj(GuestAddress(PVH_START_INFO)).unwrap();
    assert_eq!((info[0], info[3]), (0x336e_c578, 1));
    let [address, size]: [u64; 2] = memory.read_obj(GuestAddress(PVH_MODULES)).unwrap();
    assert_eq!((address, size), (MEMORY - 4096, 6));
    let mut initrd = [0; 6];
    memory.read_slice(&mut initrd, GuestAddress(address)).unwrap();
    assert_eq!(&initrd, b"initrd");
    let mut cmdline = [0xff; 6];
    memory.read_slice(&mut cmdline, GuestAddress(CMDLINE)).unwrap();
    assert_eq!(&cmdline, b"quiet\0");
}

#[test]
fn a_bzimage_is_entered_in_64_bit_mode() {
    let (loaded, memory) = boot(&bzimage(4096), Some(b"initrd"), "quiet").unwrap();
    let address = HIGH_MEMORY + linux64::ENTRY_OFFSET;
    assert_eq!(loaded.entry, Entry { protocol: Protocol::Linux64, address });
    let body = HIGH_MEMORY..HIGH_MEMORY + 4096;
    assert_eq!(loaded.kernel, std::slice::from_ref(&body));
    let field = |offset: usize| -> u32 {
        memory.read_obj(GuestAddress(ZERO_PAGE + offset as u64)).unwrap()
    };
    assert_eq!(field(0x228), CMDLINE as u32);
    assert_eq!((field(0x218), field(0x21c)), ((MEMORY - 4096) as u32, 6));
    let entries: u8 = memory
        .read_obj(GuestAddress(ZERO_PAGE + std::mem::offset_of!(boot_params, e820_entries) as u64))
        .unwrap();
    assert_eq!(entries, 3);
}

#[test]
fn damaged_kernels_are_named() {
    let whole = vmlinux(&[0x90; 100], true);
    assert!(message(b"").contains("neither an ELF vmlinux nor a bzImage"));
    assert!(message(b"#!/bin/sh\n").contains("neither"));
    assert!(message(&whole[..40]).contains("truncated"));
    assert!(message(&whole[..100]).contains("truncated"));
    assert!(message(&whole[..whole.len() - 1]).contains("truncated: 611 bytes"));
    assert!(message(&vmlinux(b"code", false)).contains("no PVH entry point"));
    let image = bzimage(4096);
    assert!(message(&image[..image.len() - 1]).contains("truncated"));
    let mut old = image;
    old[0x206] = 0x0b;
    assert!(message(&old).contains("no 64-bit entry point"));
}

#[test]
fn what_does_not_fit_is_refused() {
    let kernel = vmlinux(b"code", true);
    let large = vec![0; MEMORY as usize - 0x100_0000];
    let error = boot(&kernel, Some(&large), "").unwrap_err();
    assert!(matches!(error, BootError::TooLarge { .. }), "{error}");
    assert!(matches!(boot(&kernel, Some(b""), ""), Err(BootError::EmptyInitrd)));
    let mut hungry = kernel.clone();
    hungry[64 + 40..64 + 48].copy_from_slice(&(1_u64 << 40).to_le_bytes());
    assert!(matches!(boot(&hungry, None, ""), Err(BootError::TooLarge { .. })));
    let long = "a".repeat(CMDLINE_MAX);
    assert!(matches!(boot(&kernel, None, &long), Err(BootError::CmdlineTooLong(2048))));
    assert!(boot(&kernel, None, &long[1..]).is_ok());
    assert!(matches!(boot(&kernel, None, "a\0b"), Err(BootError::CmdlineCharacter)));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_change_of_a_header_byte_breaks_the_loader(at in 0_usize..0x280, value: u8, elf: bool) {
        let mut image = if elf { vmlinux(b"code", true) } else { bzimage(4096) };
        if let Some(byte) = image.get_mut(at) {
            *byte = value;
        }
        // Only that it returns matters; what it returns depends on the byte.
        let _ = boot(&image, None, "");
    }
}
