//! Paths inside an image, parsed once from whatever a tar stream or a caller says.

use std::fmt;

/// The longest name of one entry, in bytes (`EROFS_NAME_LEN`).
const MAX_NAME: usize = 255;
/// The longest path, in bytes: Linux's `PATH_MAX` with its terminating zero.
const MAX_PATH: usize = 4095;
/// How deep directories may nest.
const MAX_DEPTH: usize = 256;

/// A path relative to an image's root. No component is empty, `.` or `..`; the root itself has
/// none.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntryPath(Vec<Box<[u8]>>);

/// Why a path cannot be in an image.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("path {path:?} {problem}")]
pub struct PathError {
    /// The path, shortened and with what is not text replaced.
    path: String,
    problem: &'static str,
}

impl EntryPath {
    /// The image's root.
    #[must_use]
    pub fn root() -> Self {
        Self(Vec::new())
    }

    /// Takes a path as tar streams spell them: a leading `/`, `./` and doubled slashes mean
    /// nothing, as in every container runtime.
    ///
    /// # Errors
    /// [`PathError`] if it has a `..`, a zero byte, a component over 255 bytes, over 4095 bytes in
    /// all, or nests deeper than 256 directories.
    pub fn parse(path: impl AsRef<[u8]>) -> Result<Self, PathError> {
        let path = path.as_ref();
        let refuse = |problem| Err(PathError { path: abridged(path), problem });
        if path.len() > MAX_PATH {
            return refuse("is longer than 4095 bytes");
        }
        if path.contains(&0) {
            return refuse("contains a zero byte");
        }
        let mut components = Vec::new();
        for component in path.split(|byte| *byte == b'/') {
            match component {
                b"" | b"." => {}
                b".." => return refuse("leaves the image through `..`"),
                name if name.len() > MAX_NAME => {
                    return refuse("has a component longer than 255 bytes");
                }
                name => components.push(name.into()),
            }
        }
        if components.len() > MAX_DEPTH {
            return refuse("nests deeper than 256 directories");
        }
        Ok(Self(components))
    }

    /// The components, outermost first.
    pub(crate) fn components(&self) -> impl Iterator<Item = &[u8]> {
        self.0.iter().map(AsRef::as_ref)
    }

    /// The directory and the name in it; `None` for the root.
    pub(crate) fn split(&self) -> Option<(Self, &[u8])> {
        let (name, parent) = self.0.split_last()?;
        Some((Self(parent.to_vec()), name))
    }

    /// The first `depth` components.
    pub(crate) fn ancestor(&self, depth: usize) -> Self {
        Self(self.0.iter().take(depth).cloned().collect())
    }

    /// The path with its last component replaced.
    pub(crate) fn with_name(&self, name: &[u8]) -> Self {
        let mut components = self.0.clone();
        components.pop();
        components.push(name.into());
        Self(components)
    }
}

impl fmt::Display for EntryPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("/");
        }
        for component in &self.0 {
            write!(f, "/{}", component.escape_ascii())?;
        }
        Ok(())
    }
}

impl fmt::Debug for EntryPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

fn abridged(path: &[u8]) -> String {
    const SHOWN: usize = 100;
    let mut text = String::from_utf8_lossy(&path[..path.len().min(SHOWN)]).into_owned();
    if path.len() > SHOWN {
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spellings_of_one_path_are_one_path() {
        let plain = EntryPath::parse("usr/bin").unwrap();
        for spelling in ["/usr/bin", "./usr/bin/", "usr//bin", "usr/./bin"] {
            assert_eq!(EntryPath::parse(spelling).unwrap(), plain);
        }
        assert_eq!(EntryPath::parse("./").unwrap(), EntryPath::root());
        assert_eq!(plain.to_string(), "/usr/bin");
    }

    #[test]
    fn what_leaves_the_image_or_the_limits_is_refused() {
        let long_name = "a".repeat(256);
        let long_path = "a/".repeat(2048);
        let deep = "a/".repeat(257);
        for path in ["../etc/passwd", "a/../../b", "a\0b", &long_name, &long_path, &deep] {
            assert!(EntryPath::parse(path).is_err(), "{path:?}");
        }
        assert!(EntryPath::parse("..a/b..").is_ok());
    }
}
