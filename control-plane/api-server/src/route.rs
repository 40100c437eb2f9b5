//! What a request's path asks for.

use percent_encoding::percent_decode_str;

use crate::auth::Action;
use crate::options::Query;

/// A parsed path.
#[derive(Debug, PartialEq, Eq)]
pub enum Route {
    /// `/api`, `/apis`, `/apis/GROUP`, `/api/v1`, `/apis/GROUP/VERSION`: discovery.
    Discovery {
        /// The segments.
        segments: Vec<String>,
    },
    /// An object, a collection or a subresource.
    Resource(ResourcePath),
    /// Anything else; the path without a slash at its end.
    Other(String),
}

/// The path of an object, a collection or a subresource.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ResourcePath {
    /// API group; empty for the core group.
    pub group: String,
    /// API version.
    pub version: String,
    /// Namespace, if the path has one.
    pub namespace: Option<String>,
    /// Plural.
    pub plural: String,
    /// The object; `None` for the collection.
    pub name: Option<String>,
    /// Below the object.
    pub subresource: Option<String>,
    /// The path says `/watch/`, the old way to ask for a watch.
    pub watch: bool,
}

impl ResourcePath {
    /// Whether it is passed on to what the object stands for, whatever follows.
    #[must_use]
    pub fn is_proxied(&self) -> bool {
        self.subresource.as_deref().is_some_and(|path| path.split('/').next() == Some("proxy"))
    }

    /// Whether it is a session in a pod: who may only read may not have one.
    #[must_use]
    pub fn is_shell(&self) -> bool {
        let below = self.subresource.as_deref().unwrap_or_default();
        self.group.is_empty()
            && self.plural == "pods"
            && matches!(below, "exec" | "attach" | "portforward")
    }

    /// The segments before what a proxied request is for.
    #[must_use]
    pub const fn proxy_segments(&self) -> usize {
        let group = if self.group.is_empty() { 2 } else { 3 };
        let namespace = if self.namespace.is_some() { 2 } else { 0 };
        group + namespace + 3
    }

    /// What authorization calls a request of this path.
    #[must_use]
    pub fn action<'a>(&'a self, verb: &'a str, query: &'a Query) -> Action<'a> {
        // A collection's request for one object, by its name.
        let selected = || match verb {
            "list" | "watch" | "deletecollection" => query.selected_name(),
            _ => None,
        };
        let is_namespace = self.group.is_empty() && self.plural == "namespaces";
        Action {
            verb,
            group: &self.group,
            plural: &self.plural,
            // What follows the subresource is its own.
            subresource: self
                .subresource
                .as_deref()
                .map(|path| path.split('/').next().unwrap_or(path)),
            // A namespace is in itself, so that who has rights in it may see it.
            namespace: match &self.namespace {
                None if is_namespace => self.name.as_deref(),
                namespace => namespace.as_deref(),
            },
            name: self.name.as_deref().or_else(selected),
        }
    }
}

/// What follows the first `count` segments of a path, as it was sent: empty, or with a slash before.
#[must_use]
pub fn below(path: &str, count: usize) -> &str {
    (0..count).fold(path, |rest, _| {
        let segment = rest.trim_start_matches('/');
        segment.find('/').and_then(|at| segment.get(at..)).unwrap_or_default()
    })
}

impl Route {
    /// Parses a path; every path is some route. `None` if a segment is not UTF-8.
    #[must_use]
    pub fn parse(path: &str) -> Option<Self> {
        let decoded: Result<Vec<String>, _> = path
            .split('/')
            .filter(|segment| !segment.is_empty())
            .map(|segment| percent_decode_str(segment).decode_utf8().map(Into::into))
            .collect();
        let segments = decoded.ok()?;
        let (group, version, rest) = match segments.as_slice() {
            [api, rest @ ..] if api == "api" && rest.len() <= 1 => {
                return Some(Self::Discovery { segments });
            }
            [apis, rest @ ..] if apis == "apis" && rest.len() <= 2 => {
                return Some(Self::Discovery { segments });
            }
            [api, version, rest @ ..] if api == "api" => ("", version, rest),
            [apis, group, version, rest @ ..] if apis == "apis" => (group.as_str(), version, rest),
            _ => return Some(Self::Other(format!("/{}", segments.join("/")))),
        };
        let (watch, rest) = match rest {
            [watch, rest @ ..] if watch == "watch" && !rest.is_empty() => (true, rest),
            rest => (false, rest),
        };
        let below_namespace = |rest: &[String]| {
            // `namespaces/NAME/status` is a namespace's own; `namespaces/NAME/pods` is in one.
            rest.len() >= 3
                && rest[0] == "namespaces"
                && !matches!(rest[2].as_str(), "status" | "finalize")
        };
        let (namespace, rest) = match rest {
            [_, namespace, rest @ ..]
                if below_namespace(&segments[segments.len() - rest.len() - 2..]) =>
            {
                (Some(namespace.clone()), rest)
            }
            rest => (None, rest),
        };
        let mut rest = rest.iter().cloned();
        let plural = rest.next()?;
        let name = rest.next();
        let subresource: Vec<String> = rest.collect();
        Some(Self::Resource(ResourcePath {
            group: group.into(),
            version: version.clone(),
            namespace,
            plural,
            name,
            subresource: (!subresource.is_empty()).then(|| subresource.join("/")),
            watch,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resource(path: &str) -> ResourcePath {
        match Route::parse(path) {
            Some(Route::Resource(resource)) => resource,
            other => panic!("{path}: {other:?}"),
        }
    }

    #[test]
    fn paths() {
        let pod = resource("/api/v1/namespaces/default/pods/web/log");
        assert_eq!((pod.namespace.as_deref(), pod.plural.as_str()), (Some("default"), "pods"));
        assert_eq!((pod.name.as_deref(), pod.subresource.as_deref()), (Some("web"), Some("log")));
        let namespace = resource("/api/v1/namespaces/x/status");
        assert_eq!(
            (namespace.plural.as_str(), namespace.name.as_deref()),
            ("namespaces", Some("x"))
        );
        assert_eq!(namespace.namespace, None);
        assert_eq!(resource("/api/v1/namespaces/x").name.as_deref(), Some("x"));
        let lease = resource("/apis/coordination.k8s.io/v1/namespaces/n/leases");
        assert_eq!((lease.group.as_str(), lease.name), ("coordination.k8s.io", None));
        assert!(resource("/api/v1/watch/namespaces/default/pods").watch);
        for (path, expected) in [
            ("/api/v1/namespaces/n/pods/web:80/proxy/a%2Fb/?c", "/a%2Fb/?c"),
            ("//api/v1/namespaces/n//pods/web/proxy/", "/"),
            ("/api/v1/nodes/n1/proxy", ""),
        ] {
            let proxied = resource(path);
            assert!(proxied.is_proxied());
            assert_eq!(below(path, proxied.proxy_segments()), expected);
        }
        assert!(matches!(Route::parse("/apis/apps/v1/"), Some(Route::Discovery { .. })));
        assert_eq!(Route::parse("/version/"), Some(Route::Other("/version".into())));
        assert_eq!(Route::parse("/api/v1/nodes/%ff"), None);
    }
}
