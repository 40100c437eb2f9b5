//! From an OCI layer's tar stream to an image that is a layer of overlayfs.
//!
//! OCI image spec, "Image Layer Filesystem Changeset": `.wh.NAME` deletes NAME of the layers
//! below, and becomes a character device 0:0; `.wh..wh..opq` hides all that they have in a
//! directory, and becomes its attribute `trusted.overlay.opaque`. Other names in `.wh..wh.` are
//! AUFS's own bookkeeping, which every runtime passes over, and so does this.
//!
//! A layer is read without those below it. So a directory that only appears in the paths of others
//! is root's with mode 0755 here, whatever a lower layer says of it.

use std::io::{Read, Seek, Write};

use crate::{
    Attributes, Device, DeviceKind, EntryPath, Error, Limits, Summary, TarError, Writer, Xattrs,
    tar_stream::{Member, MemberKind, TarStream},
};

const WHITEOUT: &[u8] = b".wh.";
const AUFS: &[u8] = b".wh..wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";

/// Writes the layer in `tar` as an image to `out`, which must be empty.
///
/// `tar` is uncompressed, and read in pieces of 512 bytes and up, to the archive's end mark: what
/// follows that is left unread. Device nodes become nodes of the image; whether they can be opened
/// is the mount's business (`nodev`).
///
/// # Errors
/// [`Error::Tar`] for a broken stream; [`Error::Path`] for paths that lead out of the image;
/// [`Error::Xattr`] for attributes that cannot be stored or are overlayfs's own; and as the methods
/// of [`Writer`].
pub fn convert<R: Read, W: Write + Seek>(
    tar: R,
    out: W,
    limits: Limits,
) -> Result<(W, Summary), Error> {
    let mut tar = TarStream::new(tar);
    let mut writer = Writer::new(out, limits);
    while let Some(member) = tar.next()? {
        add(&mut writer, &mut tar, member)?;
    }
    writer.finish()
}

fn add<R: Read, W: Write + Seek>(
    writer: &mut Writer<W>,
    tar: &mut TarStream<R>,
    member: Member,
) -> Result<(), Error> {
    let path = EntryPath::parse(&member.path)?;
    if let Some((parent, name)) = path.split() {
        if name == OPAQUE {
            return writer.opaque(&parent);
        }
        if name.starts_with(AUFS) {
            return Ok(());
        }
        if let Some(name) = name.strip_prefix(WHITEOUT) {
            return match name {
                b"" | b"." | b".." => {
                    Err(Error::Whiteout { path: path.clone(), problem: "it names no file" })
                }
                name => writer.whiteout(&path.with_name(name)),
            };
        }
    }
    let Member { kind, size, mode, uid, gid, mtime, device, xattrs, link, .. } = member;
    refuse_overlay(&xattrs)?;
    let attributes = Attributes { mtime, ..Attributes::new(mode).owner(uid, gid).xattrs(xattrs) };
    let device = |kind| Device::new(kind, device.0, device.1);
    match kind {
        MemberKind::File => match writer.file(&path, &attributes, size, tar) {
            Err(Error::Content { source, .. })
                if source.kind() == std::io::ErrorKind::UnexpectedEof =>
            {
                Err(TarError::Truncated.into())
            }
            other => other,
        },
        MemberKind::Directory => writer.directory(&path, attributes),
        MemberKind::Symlink => writer.symlink(&path, &attributes, &link),
        MemberKind::HardLink => writer.hard_link(&path, &EntryPath::parse(&link)?),
        MemberKind::Character => writer.device(&path, &attributes, device(DeviceKind::Character)?),
        MemberKind::Block => writer.device(&path, &attributes, device(DeviceKind::Block)?),
        MemberKind::Fifo => writer.fifo(&path, &attributes),
    }
}

/// With overlayfs's attributes a layer could redirect names to other files of the layers below.
fn refuse_overlay(xattrs: &Xattrs) -> Result<(), Error> {
    match xattrs.overlay_name() {
        None => Ok(()),
        Some(name) => {
            let problem = "a layer may not bring overlayfs's own attributes";
            Err(Error::Xattr { name, problem })
        }
    }
}
