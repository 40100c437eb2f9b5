//! Images in files: an OCI layout (a directory, or a tar of one), and what `docker save` writes.

use std::{
    collections::HashMap,
    fs::File,
    io::{self, BufReader, Read, Seek, Write},
    path::{Path, PathBuf},
    sync::Arc,
};

use bulkhead_erofs::{MemberKind, TarStream};
use serde::Deserialize;

use crate::{
    Digest, Error, Limits, Name,
    compression::Decompress,
    error::ContentError,
    layer,
    manifest::{Descriptor, Index, Manifest, Plan, check_digest, check_size, parse},
};

/// The most members of an archive: layers, their documents, and what else `docker save` writes.
const MAX_MEMBERS: usize = 10_000;

pub(crate) enum Archive {
    Directory(PathBuf),
    Tar { file: Arc<File>, members: HashMap<String, Member> },
}

pub(crate) enum Member {
    File {
        offset: u64,
        size: u64,
    },
    /// `docker save` used to link layers that several images share.
    Link(String),
}

/// An image of an archive, and its names.
pub(crate) struct Entry {
    pub(crate) plan: Plan,
    pub(crate) names: Vec<Name>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Saved {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

impl Archive {
    /// Opens a layout's directory, or a tar, which may be compressed.
    pub(crate) fn open(path: &Path, dir: &Path, limits: &Limits) -> Result<Self, ContentError> {
        let file = File::open(path).map_err(Error::io("cannot open", path))?;
        let metadata = file.metadata().map_err(Error::io("cannot read", path))?;
        if metadata.is_dir() {
            return Ok(Self::Directory(path.into()));
        }
        Self::from_file(file, dir, limits)
    }

    /// Takes a tar, which may be compressed.
    pub(crate) fn from_file(
        mut file: File,
        dir: &Path,
        limits: &Limits,
    ) -> Result<Self, ContentError> {
        let unreadable = |error: io::Error| malformed(error.to_string());
        file.rewind().map_err(unreadable)?;
        let mut unpacked = Decompress::new(&file).map_err(unreadable)?;
        if unpacked.is_compressed() {
            let tmp = layer::tmp_dir(dir);
            let mut plain =
                tempfile::tempfile_in(&tmp).map_err(Error::io("cannot create a file in", &tmp))?;
            let mut limited = unpacked.by_ref().take(limits.unpacked);
            let mut buffer = vec![0; 128 << 10];
            loop {
                let read = limited.read(&mut buffer).map_err(unreadable)?;
                if read == 0 {
                    break;
                }
                plain.write_all(&buffer[..read]).map_err(Error::io("cannot write to", &tmp))?;
            }
            drop(unpacked);
            file = plain;
        }
        file.rewind().map_err(unreadable)?;
        let members = members(&file)?;
        Ok(Self::Tar { file: Arc::new(file), members })
    }

    /// The images. `name` replaces the name that the archive gives its only image.
    pub(crate) fn entries(
        &self,
        name: Option<&Name>,
        limits: &Limits,
    ) -> Result<Vec<Entry>, ContentError> {
        let mut entries = match self.has("manifest.json") {
            true => self.saved(limits)?,
            false if self.has("index.json") => self.layout(limits)?,
            false => return Err(malformed("it has neither manifest.json nor index.json".into())),
        };
        if let Some(name) = name {
            let [entry] = entries.as_mut_slice() else {
                let problem = format!("{} images cannot all have one name", entries.len());
                return Err(malformed(problem));
            };
            entry.names = vec![name.clone()];
        }
        if entries.is_empty() {
            return Err(malformed("it holds no image".into()));
        }
        match entries.iter().find(|entry| entry.names.is_empty()) {
            Some(entry) => {
                Err(malformed(format!("it does not name image {}: give a name", entry.plan.id)))
            }
            None => Ok(entries),
        }
    }

    /// A layer's bytes.
    pub(crate) fn layer(&self, expected: Digest, member: Option<&str>) -> OpenResult {
        match member {
            Some(member) => self.open_member(member),
            None => self.open_member(&blob(expected)),
        }
    }

    /// What `docker save` wrote.
    fn saved(&self, limits: &Limits) -> Result<Vec<Entry>, ContentError> {
        let saved: Vec<Saved> = parse(&self.json("manifest.json")?, "manifest.json")?;
        let entry = |saved: Saved| {
            let config = self.json(&saved.config)?;
            let layers = saved.layers.into_iter().map(|member| {
                let (_, size) = self.open_member(&member)?;
                Ok((None, size, Some(member)))
            });
            let layers = layers.collect::<Result<_, ContentError>>()?;
            let tags = saved.repo_tags.unwrap_or_default();
            let names = tags.iter().map(|tag| Name::parse(tag)).collect::<Result<_, Error>>()?;
            Ok(Entry { plan: Plan::new(config, layers, limits)?, names })
        };
        saved.into_iter().map(entry).collect()
    }

    fn layout(&self, limits: &Limits) -> Result<Vec<Entry>, ContentError> {
        let index: Index = parse(&self.json("index.json")?, "index.json")?;
        index.manifests.iter().map(|descriptor| self.layout_entry(descriptor, limits)).collect()
    }

    fn layout_entry(&self, named: &Descriptor, limits: &Limits) -> Result<Entry, ContentError> {
        let manifest = match Manifest::parse(&self.blob_json(named.digest, "the manifest")?)? {
            Manifest::Image(manifest) => manifest,
            Manifest::Index(index) => {
                let digest = index.linux_amd64()?.digest;
                match Manifest::parse(&self.blob_json(digest, "the manifest")?)? {
                    Manifest::Image(manifest) => manifest,
                    Manifest::Index(_) => {
                        let value = "in another index".into();
                        return Err(ContentError::Unsupported { what: "an index", value });
                    }
                }
            }
        };
        let config = self.blob_json(manifest.config.digest, "the config")?;
        let layers = manifest.layers()?;
        let layers = layers.into_iter().map(|(blob, size)| (Some(blob), size, None)).collect();
        let annotation = |key: &str| named.annotations.get(key);
        // The standard's annotation is often only a tag, which names nothing by itself.
        let name = annotation("io.containerd.image.name").or_else(|| {
            annotation("org.opencontainers.image.ref.name").filter(|name| name.contains(['/', ':']))
        });
        let names = name.map(|name| Name::parse(name)).transpose()?.into_iter().collect();
        Ok(Entry { plan: Plan::new(config, layers, limits)?, names })
    }

    fn blob_json(&self, digest: Digest, what: &'static str) -> Result<Vec<u8>, ContentError> {
        let json = self.json(&blob(digest))?;
        check_digest(&json, digest, what)?;
        Ok(json)
    }

    fn json(&self, member: &str) -> Result<Vec<u8>, ContentError> {
        let (reader, size) = self.open_member(member)?;
        check_size(size, "a document of the archive")?;
        let mut json = Vec::new();
        reader
            .take(size)
            .read_to_end(&mut json)
            .map_err(|error| malformed(format!("{member}: {error}")))?;
        Ok(json)
    }

    fn has(&self, member: &str) -> bool {
        self.open_member(member).is_ok()
    }

    fn open_member(&self, name: &str) -> OpenResult {
        let missing = || ContentError::Missing(format!("{name:?} in the archive"));
        match self {
            Self::Directory(dir) => {
                // The name comes from the archive's own documents; it must not lead out of it.
                let name = normal(name, "").ok_or_else(missing)?;
                let file = File::open(dir.join(name)).map_err(|_| missing())?;
                let size = file.metadata().map_err(|_| missing())?.len();
                Ok((Box::new(file), size))
            }
            Self::Tar { file, members } => {
                let mut member = normal(name, "").and_then(|name| members.get(&name));
                if let Some(Member::Link(target)) = member {
                    member = members.get(target);
                }
                let Some(Member::File { offset, size }) = member else { return Err(missing()) };
                let section = Section { file: file.clone(), at: *offset, end: offset + size };
                Ok((Box::new(section), *size))
            }
        }
    }
}

type OpenResult = Result<(Box<dyn Read + Send>, u64), ContentError>;

fn blob(digest: Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

fn malformed(problem: String) -> ContentError {
    ContentError::Malformed { what: "the archive", problem }
}

fn members(file: &File) -> Result<HashMap<String, Member>, ContentError> {
    let broken = |error: bulkhead_erofs::Error| malformed(error.to_string());
    let mut tar = TarStream::new(BufReader::with_capacity(1 << 20, file));
    let mut members = HashMap::new();
    while let Some(member) = tar.next().map_err(broken)? {
        let path = String::from_utf8_lossy(&member.path).into_owned();
        let parent = path.trim_end_matches('/').rsplit_once('/').map_or("", |(parent, _)| parent);
        let link = String::from_utf8_lossy(&member.link);
        let entry = match member.kind {
            MemberKind::File => Member::File { offset: tar.position(), size: member.size },
            MemberKind::Symlink => match normal(&link, parent) {
                Some(target) => Member::Link(target),
                None => continue,
            },
            MemberKind::HardLink => match normal(&link, "") {
                Some(target) => Member::Link(target),
                None => continue,
            },
            _ => continue,
        };
        if members.len() >= MAX_MEMBERS {
            let limit = MAX_MEMBERS as u64;
            return Err(ContentError::Limit { what: "the archive", limit, unit: "members" });
        }
        if let Some(path) = normal(&path, "") {
            members.insert(path, entry);
        }
    }
    Ok(members)
}

/// `path` from `base`, without `.` and `..`; `None` if it leads out.
fn normal(path: &str, base: &str) -> Option<String> {
    let base = if path.starts_with('/') { "" } else { base };
    let mut parts = Vec::new();
    for part in base.split('/').chain(path.split('/')) {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop()?;
            }
            part => parts.push(part),
        }
    }
    Some(parts.join("/"))
}

/// A range of a file, read without moving the file's own position.
struct Section {
    file: Arc<File>,
    at: u64,
    end: u64,
}

impl Read for Section {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.end - self.at).unwrap_or(usize::MAX);
        let length = left.min(buffer.len());
        let read =
            std::os::unix::fs::FileExt::read_at(&*self.file, &mut buffer[..length], self.at)?;
        self.at += read as u64;
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_names_cannot_lead_out() {
        assert_eq!(normal("./a//b", "").as_deref(), Some("a/b"));
        assert_eq!(normal("../x/layer.tar", "y").as_deref(), Some("x/layer.tar"));
        assert_eq!(normal("../../etc/passwd", "y"), None);
        assert_eq!(normal("/etc/passwd", "y").as_deref(), Some("etc/passwd"));
    }
}
