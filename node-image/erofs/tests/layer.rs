//! OCI layers as tar streams, well-formed and hostile.

mod support;

use std::{collections::BTreeMap, io::Cursor};

use bulkhead_erofs::{Error, Limits, TarError, convert};
use proptest::prelude::*;
use support::File;
use tar::{EntryType, Header};

/// A tar stream under construction.
struct Tar(Vec<u8>);

impl Tar {
    fn new() -> Self {
        Self(Vec::new())
    }

    fn header(kind: EntryType, path: &str, link: &str, size: usize) -> Header {
        let mut header = Header::new_ustar();
        header.set_entry_type(kind);
        let old = header.as_old_mut();
        old.name[..path.len()].copy_from_slice(path.as_bytes());
        old.linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_mode(0o644);
        header.set_uid(1);
        header.set_gid(2);
        header.set_mtime(1000);
        header.set_size(size as u64);
        header
    }

    fn raw(mut self, mut header: Header, content: &[u8]) -> Self {
        header.set_cksum();
        self.0.extend(header.as_bytes());
        self.0.extend(content);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    fn add(self, kind: EntryType, path: &str, link: &str, content: &[u8]) -> Self {
        self.raw(Self::header(kind, path, link, content.len()), content)
    }

    fn file(self, path: &str, content: &str) -> Self {
        self.add(EntryType::Regular, path, "", content.as_bytes())
    }

    fn dir(self, path: &str) -> Self {
        self.add(EntryType::Directory, path, "", b"")
    }

    fn symlink(self, path: &str, target: &str) -> Self {
        self.add(EntryType::Symlink, path, target, b"")
    }

    fn link(self, path: &str, target: &str) -> Self {
        self.add(EntryType::Link, path, target, b"")
    }

    fn pax(self, records: &[(&str, &[u8])]) -> Self {
        let mut body = Vec::new();
        for (key, value) in records {
            let rest = key.len() + value.len() + 3;
            let mut length = rest + 1;
            while length != rest + length.to_string().len() {
                length = rest + length.to_string().len();
            }
            body.extend(format!("{length} {key}=").as_bytes());
            body.extend(*value);
            body.push(b'\n');
        }
        self.add(EntryType::XHeader, "pax", "", &body)
    }

    fn end(mut self) -> Vec<u8> {
        self.0.extend([0; 1024]);
        self.0
    }

    fn files(self) -> BTreeMap<String, File> {
        let (out, _) =
            convert(&self.end()[..], Cursor::new(Vec::new()), Limits::default()).unwrap();
        support::read(&out.into_inner())
    }

    fn error(self) -> Error {
        convert(&self.end()[..], Cursor::new(Vec::new()), Limits::default()).unwrap_err()
    }
}

#[test]
fn members_of_every_kind_become_files() {
    let mut null = Tar::header(EntryType::Char, "dev/null", "", 0);
    null.set_device_major(1).unwrap();
    null.set_device_minor(3).unwrap();
    let files = Tar::new()
        .dir("dev/")
        .raw(null, b"")
        .file("./etc/passwd", "root")
        .file("/absolute", "made relative")
        .symlink("outside", "../../etc/shadow")
        .link("etc/passwd-", "/etc/passwd")
        .add(EntryType::Fifo, "pipe", "", b"")
        .files();
    assert_eq!((files["/dev/null"].mode, files["/dev/null"].rdev), (0o020_644, 0x103));
    let passwd = &files["/etc/passwd"];
    assert_eq!((passwd.uid, passwd.gid, passwd.mtime), (1, 2, (1000, 0)));
    assert_eq!((passwd.mode, passwd.links), (0o100_644, 2));
    assert_eq!(passwd, &files["/etc/passwd-"]);
    assert_eq!(files["/absolute"].content, b"made relative");
    assert_eq!(files["/outside"].content, b"../../etc/shadow");
    assert_eq!(files["/pipe"].mode, 0o010_644);
}

#[test]
fn pax_records_override_the_header() {
    let long = "long/".repeat(60) + "name";
    let value = b"\x01\0\0\x02\n\x0a\0=\n";
    let files = Tar::new()
        .pax(&[
            ("path", long.as_bytes()),
            ("uid", b"3000000000"),
            ("gid", b"70000"),
            ("mtime", b"-1.5"),
            ("size", b"3"),
            ("SCHILY.xattr.security.capability", value),
            ("SCHILY.xattr.user.empty", b""),
        ])
        .add(EntryType::Regular, "short", "", b"abc")
        .pax(&[("linkpath", "t".repeat(300).as_bytes())])
        .symlink("link", "short")
        .file("next", "plain again")
        .files();
    let file = &files[&format!("/{long}")];
    assert_eq!((file.uid, file.gid, file.mtime), (3_000_000_000, 70_000, (-2, 500_000_000)));
    assert_eq!(file.xattrs[&b"security.capability"[..]], value);
    assert_eq!(file.xattrs[&b"user.empty"[..]], b"");
    assert_eq!(files["/link"].content, "t".repeat(300).as_bytes());
    assert!(files["/next"].xattrs.is_empty());
}

#[test]
fn gnu_long_names_are_read() {
    let (name, target) = ("n".repeat(200), "t".repeat(200));
    let files = Tar::new()
        .add(EntryType::GNULongName, "././@LongLink", "", format!("{name}\0").as_bytes())
        .add(EntryType::GNULongLink, "././@LongLink", "", format!("{target}\0").as_bytes())
        .symlink("n", "t")
        .files();
    assert_eq!(files[&format!("/{name}")].content, target.as_bytes());
}

#[test]
fn a_real_tar_command_is_understood() {
    let dir = tempfile::tempdir().unwrap();
    let deep = dir.path().join("d".repeat(90)).join("e".repeat(90));
    std::fs::create_dir_all(&deep).unwrap();
    std::fs::write(deep.join("file"), vec![b'x'; 9000]).unwrap();
    for format in ["gnu", "pax", "ustar"] {
        let output = std::process::Command::new("tar")
            .arg(format!("--format={format}"))
            .args(["-C", dir.path().to_str().unwrap(), "-c", "."])
            .output()
            .unwrap();
        let (out, _) =
            convert(&output.stdout[..], Cursor::new(Vec::new()), Limits::default()).unwrap();
        let files = support::read(&out.into_inner());
        let path = format!("/{}/{}/file", "d".repeat(90), "e".repeat(90));
        assert_eq!(files[&path].content, vec![b'x'; 9000], "{format}");
    }
}

const OPAQUE: &[u8] = b"trusted.overlay.opaque";

#[test]
fn whiteouts_take_overlayfs_forms() {
    let files = Tar::new()
        .file("etc/.wh.passwd", "")
        .file("var/.wh..wh..opq", "")
        .file("var/kept", "")
        .file(".wh..wh.plnk", "")
        .files();
    let whiteout = &files["/etc/passwd"];
    assert_eq!((whiteout.mode & 0o170_000, whiteout.rdev), (0o020_000, 0));
    assert_eq!(files["/var"].xattrs[OPAQUE], b"y");
    assert!(files["/var/kept"].xattrs.is_empty());
    assert!(!files.keys().any(|path| path.contains(".wh.")));
}

#[test]
fn a_whiteout_beside_its_name_hides_only_what_is_below() {
    let orders = [
        Tar::new().file(".wh.a", "").file("a/b", "new"),
        Tar::new().file("a/b", "new").file(".wh.a", ""),
        Tar::new().file(".wh.a", "").dir("a").file("a/b", "new"),
    ];
    for tar in orders {
        let files = tar.files();
        assert_eq!(files["/a"].xattrs[OPAQUE], b"y");
        assert_eq!(files["/a/b"].content, b"new");
    }
    for tar in
        [Tar::new().file(".wh.a", "").file("a", "1"), Tar::new().file("a", "1").file(".wh.a", "")]
    {
        assert_eq!(tar.files()["/a"].content, b"1");
    }
}

#[test]
fn opacity_survives_the_directory_s_own_entry() {
    let files = Tar::new().file("a/.wh..wh..opq", "").dir("a").files();
    assert_eq!(files["/a"].xattrs[OPAQUE], b"y");
    assert_eq!(files["/a"].mode, 0o040_644);
}

#[test]
fn whiteouts_that_overlayfs_has_no_form_for_are_refused() {
    for name in [".wh..wh..opq", ".wh.", "a/.wh..", "a/.wh..."] {
        let error = Tar::new().file(name, "").error();
        assert!(matches!(error, Error::Whiteout { .. }), "{name}: {error}");
    }
}

#[test]
fn later_members_win() {
    let files = Tar::new()
        .file("a", "first")
        .link("b", "a")
        .file("a", "second")
        .dir("c")
        .file("c/inside", "")
        .file("c", "now a file")
        .symlink("d", "x")
        .dir("d")
        .file("d/e", "below")
        .files();
    assert_eq!(files["/a"].content, b"second");
    assert_eq!((files["/b"].content.as_slice(), files["/b"].links), (&b"first"[..], 1));
    assert_eq!(files["/c"].content, b"now a file");
    assert_eq!(files["/d/e"].content, b"below");
    assert!(!files.contains_key("/c/inside"));
}

#[test]
fn paths_that_lead_out_are_refused() {
    for path in ["../escape", "a/../../b", "/.."] {
        let error = Tar::new().file(path, "").error();
        assert!(matches!(error, Error::Path(_)), "{path}: {error}");
    }
    assert!(matches!(Tar::new().link("a", "../../etc/passwd").error(), Error::Path(_)));
    let missing = Tar::new().link("a", "/etc/passwd").error();
    assert_eq!(
        missing.to_string(),
        "/a is a hard link to /etc/passwd, which is not in the image before it"
    );
    let through = Tar::new().symlink("a", "/etc").file("a/passwd", "").error();
    assert_eq!(through.to_string(), "cannot place /a/passwd: /a is not a directory");
    let linked = Tar::new().symlink("a", "/etc").link("b", "a/passwd").error();
    assert!(matches!(linked, Error::NotADirectory { .. }), "{linked}");
}

#[test]
fn attributes_of_overlayfs_are_refused() {
    for name in ["trusted.overlay.redirect", "user.overlay.opaque"] {
        let key = format!("SCHILY.xattr.{name}");
        let error = Tar::new().pax(&[(&key, b"/")]).dir("a").error();
        assert!(error.to_string().contains(name), "{error}");
    }
    let error = Tar::new().pax(&[("SCHILY.xattr.com.apple.x", b"")]).dir("a").error();
    assert!(matches!(error, Error::Xattr { .. }), "{error}");
}

#[test]
fn what_is_not_supported_is_named() {
    let sparse = Tar::new().add(EntryType::GNUSparse, "a", "", b"").error();
    assert_eq!(sparse.to_string(), "tar header at byte 0: a sparse file is not supported");
    let sparse = Tar::new().pax(&[("GNU.sparse.major", b"1")]).file("a", "").error();
    assert!(sparse.to_string().contains("a sparse file"), "{sparse}");
    let volume = Tar::new().add(EntryType::new(b'V'), "a", "", b"").error();
    assert!(volume.to_string().contains("member type 'V'"), "{volume}");
    let global = |records| Tar::new().add(EntryType::XGlobalHeader, "g", "", records);
    assert!(global(b"9 path=a\n").error().to_string().contains("\"path\""));
    assert!(global(b"14 comment=ab\n").file("a", "").files().contains_key("/a"));
}

#[test]
fn a_stream_cut_anywhere_fails_or_gives_what_came_before() {
    let tar = Tar::new().pax(&[("path", b"a")]).file("x", &"1".repeat(5000)).file("b", "2").end();
    let mut failures = 0;
    for length in 0..tar.len() - 1024 {
        match convert(&tar[..length], Cursor::new(Vec::new()), Limits::default()) {
            Err(Error::Tar(TarError::Truncated)) => failures += 1,
            Err(other) => panic!("{other} at {length}"),
            Ok((out, _)) => {
                // Between members, or in the last one's padding.
                let files = support::read(&out.into_inner());
                assert!(files.get("/a").is_none_or(|file| file.content == [b'1'; 5000]));
                assert!(files.get("/b").is_none_or(|file| file.content == b"2"));
            }
        }
    }
    assert!(failures > 5000);
}

#[test]
fn empty_numbers_are_zero() {
    let mut header = Tar::header(EntryType::Regular, "a", "", 0);
    header.as_old_mut().uid = [0; 8];
    header.as_old_mut().mtime = [b' '; 12];
    let file = &Tar::new().raw(header, b"").files()["/a"];
    assert_eq!((file.uid, file.gid, file.mtime), (0, 2, (0, 0)));
}

#[test]
fn hostile_numbers_are_refused_before_anything_is_allocated() {
    let mut huge = Tar::header(EntryType::Regular, "a", "", 0);
    huge.set_size(1 << 62);
    let error = Tar::new().raw(huge, b"").error();
    assert!(matches!(error, Error::Limit { what: "bytes", .. }), "{error}");
    let mut name = Tar::header(EntryType::GNULongName, "a", "", 0);
    name.set_size(1 << 40);
    assert!(Tar::new().raw(name, b"").error().to_string().contains("over 1 MiB"));
    let size = Tar::new().pax(&[("size", b"18446744073709551615")]).file("a", "").error();
    assert!(size.to_string().contains("beyond any file's"), "{size}");
    let mut owner = Tar::header(EntryType::Regular, "a", "", 0);
    owner.set_uid(1 << 40);
    assert!(Tar::new().raw(owner, b"").error().to_string().contains("beyond 32 bits"));
    let mut device = Tar::header(EntryType::Char, "a", "", 0);
    device.set_device_major(4096).unwrap();
    let error = Tar::new().raw(device, b"").error();
    assert!(matches!(error, Error::DeviceNumber { .. }), "{error}");
}

#[test]
fn a_wrong_checksum_is_noticed() {
    let mut tar = Tar::new().file("a", "").end();
    tar[0] = b'b';
    let error = convert(&tar[..], Cursor::new(Vec::new()), Limits::default()).unwrap_err();
    assert!(error.to_string().contains("checksum"), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn damaged_streams_never_panic(
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        fix in any::<bool>(),
    ) {
        let mut tar = Tar::new()
            .pax(&[("path", b"a/b"), ("SCHILY.xattr.user.x", b"y")])
            .file("x", "content")
            .link("l", "a/b")
            .file("a/.wh.gone", "")
            .symlink("s", "a")
            .end();
        for (index, byte) in &damage {
            let at = index.index(tar.len());
            tar[at] = *byte;
        }
        support::fuzz_layer(&tar, fix);
    }

    #[test]
    fn noise_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..4096)) {
        support::fuzz_layer(&bytes, true);
    }
}
