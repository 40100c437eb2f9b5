//! Trees written and read back, by a reader of our own and by erofs-utils.

mod support;

use std::{
    collections::BTreeMap,
    fs,
    io::Cursor,
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::Path,
    process::Command,
};

use bulkhead_erofs::{
    Attributes, Device, DeviceKind, EntryPath, Error, Limits, Source, Tree, Writer, Xattrs,
};
use proptest::prelude::*;

fn image(tree: Tree) -> Vec<u8> {
    let (out, summary) = tree.write(Cursor::new(Vec::new())).unwrap();
    let bytes = out.into_inner();
    assert_eq!(summary.size, bytes.len() as u64);
    bytes
}

fn everything() -> Tree {
    let mut xattrs = Xattrs::new();
    xattrs.set(b"user.note", b"hello").unwrap();
    xattrs.set(b"user.large", &[b'x'; 6000]).unwrap();
    Tree::new()
        .mtime(1_700_000_000)
        .dir("/sbin", 0o750)
        .file("/sbin/agent", 0o755, Source::bytes(vec![7; 3 * 4096 + 100]))
        .file("/etc/empty", 0o600, Source::bytes(""))
        .file("/etc/block", 0o600, Source::bytes(vec![1; 4096]))
        .file("/etc/half", 0o600, Source::bytes(vec![2; 2048]))
        .file("/etc/over-half", 0o600, Source::bytes(vec![3; 2049]))
        .file("/etc/noted", 0o600, Source::bytes("noted"))
        .with(Attributes::new(0o4711).owner(70_000, 80_000).mtime(-5, 9).xattrs(xattrs))
        .hard_link("/etc/noted-again", "/etc/noted")
        .symlink("/init", "sbin/agent")
        .symlink("/long", "x".repeat(4095))
        .device("/dev/null", 0o666, Device::new(DeviceKind::Character, 1, 3).unwrap())
        .device("/dev/vda", 0o660, Device::new(DeviceKind::Block, 254, 300).unwrap())
        .fifo("/dev/pipe", 0o644)
}

#[test]
fn everything_comes_back() {
    let files = support::read(&image(everything()));
    let file = |path: &str| &files[path];
    assert_eq!(file("/").mode, 0o040_755);
    assert_eq!((file("/").links, file("/sbin").links), (5, 2));
    assert_eq!(file("/sbin").mode, 0o040_750);
    assert_eq!(file("/sbin").mtime, (1_700_000_000, 0));
    assert_eq!(file("/etc").mode, 0o040_755);
    assert_eq!(file("/sbin/agent").content, vec![7; 3 * 4096 + 100]);
    assert_eq!(file("/etc/empty").content, b"");
    assert_eq!(file("/etc/block").content, vec![1; 4096]);
    assert_eq!(file("/etc/half").content, vec![2; 2048]);
    assert_eq!(file("/etc/over-half").content, vec![3; 2049]);
    let noted = file("/etc/noted");
    assert_eq!(noted, file("/etc/noted-again"));
    assert_eq!((noted.mode, noted.uid, noted.gid), (0o104_711, 70_000, 80_000));
    assert_eq!((noted.mtime, noted.links), ((-5, 9), 2));
    assert_eq!(noted.xattrs[&b"user.note"[..]], b"hello");
    assert_eq!(noted.xattrs[&b"user.large"[..]], vec![b'x'; 6000]);
    assert_eq!(file("/init").content, b"sbin/agent");
    assert_eq!(file("/long").content.len(), 4095);
    assert_eq!((file("/dev/null").mode, file("/dev/null").rdev), (0o020_666, 0x103));
    assert_eq!((file("/dev/vda").mode, file("/dev/vda").rdev), (0o060_660, 0x0010_fe2c));
    assert_eq!(file("/dev/pipe").mode, 0o010_644);
}

#[test]
fn the_same_tree_gives_the_same_bytes() {
    assert_eq!(image(everything()), image(everything()));
}

#[test]
fn small_files_share_blocks() {
    let tree = (0..1000).fold(Tree::new(), |tree, index| {
        tree.file(format!("/{index}"), 0o644, Source::bytes(vec![b'.'; 100]))
    });
    let image = image(tree);
    assert!(image.len() < 1000 * 250, "{} bytes", image.len());
}

/// The last run of inodes has blocks that are given back, which nothing may point to.
#[test]
fn no_inode_points_behind_the_image() {
    let tree = (0..200)
        .fold(Tree::new(), |tree, index| tree.file(format!("/{index}"), 0o644, Source::bytes("")));
    assert_eq!(support::read(&image(tree)).len(), 201);
}

/// Runs a program of erofs-utils, which must be installed.
fn erofs_utils(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap_or_else(|error| {
        panic!("cannot run {program} ({error}): install it with `apt-get install erofs-utils`")
    });
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program}: {text}");
    text.into_owned()
}

/// Extracts an image with `fsck.erofs` and compares what an unprivileged user can see.
fn check_extracted(bytes: &[u8]) {
    let dir = tempfile::tempdir().unwrap();
    let (file, out) = (dir.path().join("image"), dir.path().join("out"));
    fs::write(&file, bytes).unwrap();
    let extract = format!("--extract={}", out.display());
    let arguments = [extract.as_str(), "--preserve-perms", file.to_str().unwrap()];
    erofs_utils("fsck.erofs", &arguments);
    for (path, expected) in support::read(bytes) {
        let found = out.join(path.trim_start_matches('/'));
        let metadata = fs::symlink_metadata(&found).unwrap_or_else(|e| panic!("{path}: {e}"));
        assert_eq!(metadata.mode() & 0o170_000, u32::from(expected.mode & 0o170_000), "{path}");
        if metadata.is_file() {
            assert_eq!(fs::read(&found).unwrap(), expected.content, "{path}");
            assert_eq!(metadata.mode() & 0o777, u32::from(expected.mode & 0o777), "{path}");
            assert_eq!((metadata.mtime(), metadata.mtime_nsec() as u32), expected.mtime, "{path}");
        } else if metadata.is_symlink() {
            let target = fs::read_link(&found).unwrap();
            assert_eq!(target.as_os_str().as_encoded_bytes(), expected.content, "{path}");
        }
    }
}

/// Only root can make device nodes where `fsck.erofs` extracts to, so they are left out here.
fn without_devices() -> Tree {
    Tree::new()
        .mtime(1_700_000_000)
        .dir("/deep/er/and/deeper", 0o755)
        .file("/deep/er/file", 0o640, Source::bytes(b"12345".repeat(5000)))
        .file("/small", 0o755, Source::bytes("small"))
        .hard_link("/deep/small", "/small")
        .symlink("/link", "deep/er/file")
        .fifo("/pipe", 0o644)
}

#[test]
fn fsck_erofs_extracts_the_same_tree() {
    check_extracted(&image(without_devices()));
    let many = (0..3000).fold(Tree::new(), |tree, index| {
        let name = format!("/many/{index}-{}", "n".repeat(index % 240));
        tree.file(name, 0o644, Source::bytes(vec![b'.'; index]))
    });
    check_extracted(&image(many));
}

#[test]
fn dump_erofs_knows_every_inode() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("image");
    let (_, summary) = everything().write(fs::File::create(&file).unwrap()).unwrap();
    assert_eq!(fs::metadata(&file).unwrap().len(), summary.size);
    let file = file.to_str().unwrap();
    let text = erofs_utils("dump.erofs", &["-s", file]);
    let inodes = text.lines().find(|line| line.contains("inode count")).unwrap();
    assert!(inodes.trim_end().ends_with(&format!(" {}", summary.inodes)), "{inodes}");
    let text = erofs_utils("dump.erofs", &["--path=/etc/noted", file]);
    assert!(text.contains("Uid: 70000") && text.contains("Links: 2"), "{text}");
}

#[test]
fn a_file_of_the_host_is_copied_in() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("source");
    fs::write(&source, "from the host").unwrap();
    let files = support::read(&image(Tree::new().file("/a", 0o644, Source::path(&source))));
    assert_eq!(files["/a"].content, b"from the host");
    let missing = Tree::new().file("/a", 0o644, Source::path(dir.path().join("missing")));
    let error = missing.write(Cursor::new(Vec::new())).unwrap_err();
    assert!(matches!(error, Error::Open { .. }), "{error}");
}

#[test]
fn what_cannot_be_is_refused() {
    let refused = |tree: Tree| tree.write(Cursor::new(Vec::new())).unwrap_err();
    let file = || Tree::new().file("/a", 0o644, Source::bytes(""));
    assert!(matches!(refused(file().dir("/a/b", 0o755)), Error::NotADirectory { .. }));
    assert!(matches!(refused(file().hard_link("/b", "/c")), Error::LinkTargetMissing { .. }));
    assert!(matches!(refused(file().hard_link("/b", "/")), Error::LinkToDirectory { .. }));
    assert!(matches!(refused(file().symlink("/b", "")), Error::SymlinkTarget { .. }));
    assert!(matches!(refused(file().symlink("/", "a")), Error::RootNotADirectory));
    assert!(matches!(refused(file().dir("/../a", 0o755)), Error::Path(_)));
    assert!(Device::new(DeviceKind::Block, 4096, 0).is_err());
}

#[test]
fn limits_hold() {
    let path = |text: &str| EntryPath::parse(text).unwrap();
    let limits = Limits { entries: 2, memory: 10_000, size: 64 << 10 };
    let new = || Writer::new(Cursor::new(Vec::new()), limits);
    let mut writer = new();
    let plain = Attributes::new(0o644);
    writer.fifo(&path("a"), &plain).unwrap();
    writer.fifo(&path("a"), &plain).unwrap();
    let error = writer.fifo(&path("a"), &plain).unwrap_err();
    assert_eq!(error.to_string(), "the image is over the limit of 2 entries");
    let error = new().file(&path("a"), &plain, 1 << 20, &mut std::io::repeat(0)).unwrap_err();
    assert!(matches!(error, Error::Limit { what: "bytes", .. }), "{error}");
    let mut xattrs = Xattrs::new();
    xattrs.set(b"user.a", &[0; 20_000]).unwrap();
    let error = new().directory(&path("a"), Attributes::new(0o755).xattrs(xattrs)).unwrap_err();
    assert!(matches!(error, Error::Limit { what: "bytes of names and attributes", .. }), "{error}");
}

#[derive(Debug, Clone)]
enum Node {
    Directory,
    File(Vec<u8>),
    Symlink(String),
    Fifo,
}

fn nodes() -> impl Strategy<Value = BTreeMap<String, Node>> {
    let component = prop_oneof!["[a-c]", "[-!.~a]{3}", "[a-z]{200,255}"];
    let path = prop::collection::vec(component, 1..4).prop_map(|parts| parts.join("/"));
    let node = prop_oneof![
        Just(Node::Directory),
        (0..20_000_usize, any::<u8>()).prop_map(|(size, byte)| Node::File(vec![byte; size])),
        "[a-z/]{1,300}".prop_map(Node::Symlink),
        Just(Node::Fifo),
    ];
    prop::collection::btree_map(path, node, 0..60)
        // A path whose parent is a file of the map has no place in a tree.
        .prop_map(|mut nodes| {
            let leaves: Vec<_> = nodes
                .iter()
                .filter(|(_, node)| !matches!(node, Node::Directory))
                .map(|(path, _)| format!("{path}/"))
                .collect();
            nodes.retain(|path, _| !leaves.iter().any(|leaf| path.starts_with(leaf)));
            nodes
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn random_trees_come_back(nodes in nodes()) {
        let tree = nodes.iter().fold(Tree::new(), |tree, (path, node)| match node {
            Node::Directory => tree.dir(path, 0o700),
            Node::File(bytes) => tree.file(path, 0o644, Source::bytes(bytes.clone())),
            Node::Symlink(target) => tree.symlink(path, target),
            Node::Fifo => tree.fifo(path, 0o600),
        });
        let files = support::read(&image(tree));
        for (path, node) in &nodes {
            let file = &files[&format!("/{path}")];
            match node {
                Node::Directory => prop_assert_eq!(file.mode, 0o040_700),
                Node::File(bytes) => prop_assert_eq!(&file.content, bytes),
                Node::Symlink(target) => prop_assert_eq!(&file.content, target.as_bytes()),
                Node::Fifo => prop_assert_eq!(file.mode, 0o010_600),
            }
        }
        for path in files.keys().filter(|path| *path != "/") {
            let implied = nodes.keys().any(|node| format!("/{node}/").starts_with(&format!("{path}/")));
            prop_assert!(implied, "{} was not asked for", path);
        }
    }
}

/// A mounted image shows what the writer was told. Mounting takes root and a kernel with EROFS.
#[test]
#[ignore = "needs root and a kernel with EROFS: run by ci/test-vms"]
fn the_kernel_mounts_it() {
    let dir = tempfile::tempdir().unwrap();
    let (file, mount) = (dir.path().join("image"), dir.path().join("mount"));
    everything().write(fs::File::create(&file).unwrap()).unwrap();
    fs::create_dir(&mount).unwrap();
    let run = |program: &str, arguments: &[&str]| {
        let status = Command::new(program).args(arguments).status().unwrap();
        assert!(status.success(), "{program} {arguments:?}");
    };
    let at = mount.to_str().unwrap();
    run("mount", &["-t", "erofs", "-o", "loop,ro", file.to_str().unwrap(), at]);
    let result = std::panic::catch_unwind(|| compare(&mount, &fs::read(&file).unwrap()));
    run("umount", &[at]);
    result.unwrap();
}

fn compare(mount: &Path, image: &[u8]) {
    let expected = support::read(image);
    for (path, file) in &expected {
        let found = mount.join(path.trim_start_matches('/'));
        let metadata = fs::symlink_metadata(&found).unwrap_or_else(|e| panic!("{path}: {e}"));
        assert_eq!(metadata.mode(), u32::from(file.mode), "{path}");
        assert_eq!((metadata.uid(), metadata.gid()), (file.uid, file.gid), "{path}");
        assert_eq!((metadata.mtime(), metadata.mtime_nsec() as u32), file.mtime, "{path}");
        assert_eq!(metadata.nlink(), u64::from(file.links), "{path}");
        if metadata.is_file() {
            assert_eq!(fs::read(&found).unwrap(), file.content, "{path}");
        } else if metadata.is_symlink() {
            let target = fs::read_link(&found).unwrap();
            assert_eq!(target.as_os_str().as_encoded_bytes(), file.content, "{path}");
        } else if metadata.is_dir() {
            let prefix = format!("{}/", path.trim_end_matches('/'));
            let children = expected
                .keys()
                .filter_map(|path| path.strip_prefix(&prefix))
                .filter(|rest| !rest.is_empty() && !rest.contains('/'));
            let listed = fs::read_dir(&found).unwrap().count();
            assert_eq!(listed, children.count(), "{path}");
        } else if metadata.file_type().is_char_device() {
            assert_eq!(metadata.rdev(), 0x103, "{path}");
        }
    }
}
