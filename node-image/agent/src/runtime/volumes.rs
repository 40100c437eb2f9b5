//! Volumes that hold other objects' data: written aside, then swapped as a whole, as a kubelet does.
//!
//! The files lie in a directory of their own, to which the link `..data` leads; what a container
//! sees are links through it. Renaming another link over `..data` changes all files at once, and a
//! container that has a file open, or mounts it by `subPath`, keeps what it has.

use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt as _, PermissionsExt as _, chown, symlink},
    path::{Component, Path, PathBuf},
};

use bulkhead_agent_protocol::VolumeFile;

/// The link that is swapped.
const CURRENT: &str = "..data";

/// Makes `files` the contents of the volume at `directory`; they belong to `group`, if given, which
/// may read them.
///
/// # Errors
/// What could not be written; the volume's earlier contents stay.
pub(super) fn write(directory: &Path, files: &[VolumeFile], group: Option<u32>) -> io::Result<()> {
    fs::create_dir_all(directory)?;
    let before = fs::read_link(directory.join(CURRENT)).ok();
    let name = fresh_name(directory);
    let fresh = directory.join(&name);
    make_directory(&fresh, group)?;
    let written = files.iter().try_for_each(|file| write_file(&fresh, file, group));
    if let Err(error) = written.and_then(|()| swap(directory, &name)) {
        let _ = fs::remove_dir_all(&fresh);
        return Err(error);
    }
    link_all(directory, files)?;
    match before {
        Some(before) => fs::remove_dir_all(directory.join(before)),
        None => Ok(()),
    }
}

fn fresh_name(directory: &Path) -> PathBuf {
    let now = crate::clock::now_seconds();
    let stamp: String = now.chars().map(|c| if c.is_ascii_digit() { c } else { '_' }).collect();
    let name = |count: u32| PathBuf::from(format!("..{stamp}.{count}"));
    (0..).map(name).find(|name| !directory.join(name).exists()).unwrap_or_else(|| name(0))
}

fn make_directory(path: &Path, group: Option<u32>) -> io::Result<()> {
    match fs::DirBuilder::new().mode(0o755).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
        other => other?,
    }
    chown(path, None, group)
}

fn write_file(root: &Path, file: &VolumeFile, group: Option<u32>) -> io::Result<()> {
    let path = root.join(&file.path);
    let mut parent = root.to_owned();
    let above = Path::new(&file.path).parent().map(Path::components).into_iter().flatten();
    for component in above {
        parent.push(component);
        make_directory(&parent, group)?;
    }
    fs::write(&path, &file.data.0)?;
    let mut mode = file.mode & 0o7777;
    if group.is_some() {
        chown(&path, None, group)?;
        mode |= 0o440;
    }
    fs::set_permissions(&path, fs::Permissions::from_mode(mode))
}

/// Has `..data` lead to `name`.
fn swap(directory: &Path, name: &Path) -> io::Result<()> {
    let link = directory.join("..data_tmp");
    let _ = fs::remove_file(&link);
    symlink(name, &link)?;
    fs::rename(&link, directory.join(CURRENT))
}

/// A link for everything that lies topmost, and none for what is there no more.
fn link_all(directory: &Path, files: &[VolumeFile]) -> io::Result<()> {
    let topmost = |file: &VolumeFile| match Path::new(&file.path).components().next() {
        Some(Component::Normal(name)) => Some(name.to_owned()),
        _ => None,
    };
    let wanted: std::collections::BTreeSet<_> = files.iter().filter_map(topmost).collect();
    for name in &wanted {
        match symlink(Path::new(CURRENT).join(name), directory.join(name)) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            other => other?,
        }
    }
    for entry in fs::read_dir(directory)? {
        let name = entry?.file_name();
        if !name.as_encoded_bytes().starts_with(b"..") && !wanted.contains(&name) {
            fs::remove_file(directory.join(name))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use bulkhead_agent_protocol::stream::Data;

    use super::*;

    fn file(path: &str, text: &str) -> VolumeFile {
        VolumeFile { path: path.to_owned(), mode: 0o640, data: Data(text.as_bytes().to_vec()) }
    }

    #[test]
    fn contents_change_as_a_whole_and_open_files_keep_theirs() {
        let volume = tempfile::tempdir().unwrap();
        let at = |name: &str| volume.path().join(name);
        write(volume.path(), &[file("a", "1"), file("sub/b", "1"), file("gone", "1")], None)
            .unwrap();
        assert_eq!(fs::read_to_string(at("sub/b")).unwrap(), "1");
        assert_eq!(fs::read_link(at("a")).unwrap(), Path::new("..data/a"));
        assert_eq!(fs::metadata(at("a")).unwrap().permissions().mode() & 0o777, 0o640);
        let mut open = fs::File::open(at("a")).unwrap();

        write(volume.path(), &[file("a", "2"), file("sub/c", "2")], None).unwrap();
        assert_eq!(fs::read_to_string(at("a")).unwrap(), "2");
        assert_eq!(fs::read_to_string(at("sub/c")).unwrap(), "2");
        assert!(!at("sub/b").exists() && !at("gone").exists());
        let mut text = String::new();
        open.read_to_string(&mut text).unwrap();
        assert_eq!(text, "1");
        // `..data`, one directory, two links.
        assert_eq!(fs::read_dir(volume.path()).unwrap().count(), 4);
    }

    #[test]
    fn a_file_that_cannot_be_written_changes_nothing() {
        let volume = tempfile::tempdir().unwrap();
        write(volume.path(), &[file("a", "1")], None).unwrap();
        assert!(write(volume.path(), &[file("a", "2"), file("a/b", "2")], None).is_err());
        assert_eq!(fs::read_to_string(volume.path().join("a")).unwrap(), "1");
        assert_eq!(fs::read_dir(volume.path()).unwrap().count(), 3);
    }
}
