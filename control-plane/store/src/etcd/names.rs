//! The store's keys and revisions, and etcd's.
//!
//! A key `/registry/pods/default/web` is `PREFIX/pods/default/web` in etcd. `PREFIX/` itself, which
//! no object's key can be, is the *root key*: it says by how much the store's revisions are ahead of
//! etcd's. They are so after a restore, so that they go on rising from where the backup's were.

use crate::{Revision, StoreError, prefix_end};

/// Maps between them.
#[derive(Debug, Clone)]
pub(super) struct Names {
    /// `PREFIX/`.
    root: String,
    /// What stands in its place in the store's keys.
    own: String,
    offset: u64,
}

/// A range of etcd's keys: from the first, up to but without the second.
pub(super) type Span = (String, String);

impl Names {
    pub(super) fn new(prefix: &str, own: &str, offset: u64) -> Self {
        let own = own.strip_suffix('/').unwrap_or(own);
        Self { root: format!("{prefix}/"), own: format!("{own}/"), offset }
    }

    pub(super) fn root(&self) -> &str {
        &self.root
    }

    pub(super) const fn offset(&self) -> u64 {
        self.offset
    }

    /// The root key's value.
    pub(super) fn root_value(offset: u64) -> String {
        format!("offset {offset}")
    }

    /// The offset that the root key's value says.
    pub(super) fn parse_root(value: &[u8]) -> Option<u64> {
        std::str::from_utf8(value).ok()?.strip_prefix("offset ")?.parse().ok()
    }

    /// etcd's key for one of the store's.
    pub(super) fn key(&self, key: &str) -> Result<String, StoreError> {
        match key.strip_prefix(&self.own) {
            Some(rest) if !rest.is_empty() => Ok(format!("{}{rest}", self.root)),
            _ => Err(StoreError::Backend(
                format!("the key {key:?} is not below {}", self.own).into(),
            )),
        }
    }

    /// The store's key for one of etcd's; nothing for the root key.
    pub(super) fn own_key(&self, key: &[u8]) -> Option<String> {
        let rest = std::str::from_utf8(key).ok()?.strip_prefix(&self.root)?;
        (!rest.is_empty()).then(|| format!("{}{rest}", self.own))
    }

    /// etcd's keys that start with `prefix`, only those after `after` if it is given. The root key
    /// is never among them.
    pub(super) fn span(&self, prefix: &str, after: Option<&str>) -> Result<Span, StoreError> {
        let stem = if self.own.starts_with(prefix) { self.root.clone() } else { self.key(prefix)? };
        let first = match after {
            // The string right after another is that with a zero byte.
            Some(after) if after >= prefix => format!("{}\0", self.key(after)?),
            _ if stem == self.root => format!("{stem}\0"),
            _ => stem.clone(),
        };
        Ok((first, prefix_end(&stem)))
    }

    /// All of etcd's keys that are the store's, with the root key.
    pub(super) fn everything(&self) -> Span {
        (self.root.clone(), prefix_end(&self.root))
    }

    /// The store's revision for one of etcd's.
    pub(super) fn own_revision(&self, revision: i64) -> Revision {
        Revision(u64::try_from(revision).unwrap_or_default().saturating_add(self.offset))
    }

    /// etcd's revision for one of the store's; 0 for one that is older than all of etcd's.
    pub(super) fn revision(&self, revision: Revision) -> i64 {
        i64::try_from(revision.0.saturating_sub(self.offset)).unwrap_or(i64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_lie_below_the_prefix_and_come_back() {
        let names = Names::new("/a/b", "/registry", 0);
        assert_eq!(names.key("/registry/pods/x").unwrap(), "/a/b/pods/x");
        assert_eq!(names.own_key(b"/a/b/pods/x").as_deref(), Some("/registry/pods/x"));
        assert_eq!(names.own_key(b"/a/b/"), None, "the root key");
        assert_eq!(names.own_key(b"/a/bc/x"), None, "a neighbour");
        for foreign in ["/registry/", "/registry", "/registryx/a", "pods"] {
            assert!(names.key(foreign).is_err(), "{foreign}");
        }
    }

    #[test]
    fn a_span_has_the_keys_of_its_prefix_only() {
        let names = Names::new("/a", "/registry", 0);
        let within = |prefix, after, key: &str| {
            let (first, end) = names.span(prefix, after).unwrap();
            (first.as_str()..end.as_str()).contains(&key)
        };
        assert!(within("/registry/pods/", None, "/a/pods/x"));
        assert!(!within("/registry/pods/", None, "/a/pods!"));
        assert!(!within("/registry/pods/", None, "/a/podsx"));
        assert!(!within("/registry/pods/", Some("/registry/pods/x"), "/a/pods/x"));
        assert!(within("/registry/pods/", Some("/registry/pods/x"), "/a/pods/x/y"));
        for all in ["", "/", "/registry", "/registry/"] {
            assert!(within(all, None, "/a/x") && !within(all, None, "/a/"), "{all:?}");
            assert!(!within(all, None, "/ab/x"), "{all:?}");
        }
        assert!(names.span("/other/", None).is_err());
    }

    #[test]
    fn revisions_are_ahead_by_the_offset() {
        let names = Names::new("/a", "/", 1000);
        assert_eq!(names.own_revision(7), Revision(1007));
        assert_eq!(names.revision(Revision(1007)), 7);
        assert_eq!(names.revision(Revision(900)), 0);
        let value = Names::root_value(1000);
        assert_eq!(Names::parse_root(value.as_bytes()), Some(1000));
        assert_eq!(Names::parse_root(b"offset x"), None);
    }
}
