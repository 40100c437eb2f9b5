//! Which backend a request is for, by its host and path.
//!
//! Of the rules whose host is the request's, those that name it count first, then those with a
//! wildcard (`*.example.com`, which stands for one label), then those without a host; within each,
//! [`Paths`] says. Only where no path of any of them matches do default backends count, in the same
//! order.

mod host;
mod path;

use std::collections::HashMap;

pub(crate) use host::host_of;
pub(crate) use host::name as host_name;
pub use path::Paths;
pub(crate) use path::normalized;

/// Rules, each of which leads to a `T`. Where two say the same, the one that was added first counts.
#[derive(Debug)]
pub struct Routes<T> {
    hosts: HashMap<String, Paths<T>>,
    /// By what is behind `*.`.
    wildcards: HashMap<String, Paths<T>>,
    any: Paths<T>,
}

impl<T> Default for Routes<T> {
    fn default() -> Self {
        Self { hosts: HashMap::new(), wildcards: HashMap::new(), any: Paths::default() }
    }
}

impl<T> Routes<T> {
    /// The rules for `host`: a name, `*.` and a name, or nothing for all hosts.
    pub fn host(&mut self, host: &str) -> &mut Paths<T> {
        let host = host.to_ascii_lowercase();
        match host.strip_prefix("*.") {
            _ if host.is_empty() => &mut self.any,
            Some(parent) => self.wildcards.entry(parent.to_owned()).or_default(),
            None => self.hosts.entry(host).or_default(),
        }
    }

    /// Where a request for `host` (in lower case) and `path` ([`normalized`]) goes.
    #[must_use]
    pub fn find(&self, host: &str, path: &str) -> Option<&T> {
        let wildcard = host.split_once('.').and_then(|(label, parent)| {
            if label.is_empty() { None } else { self.wildcards.get(parent) }
        });
        let scopes = [self.hosts.get(host), wildcard, Some(&self.any)];
        let mut scopes = scopes.into_iter().flatten();
        let found = scopes.clone().find_map(|paths| paths.find(path));
        found.or_else(|| scopes.find_map(Paths::fallback))
    }

    /// The same rules, which lead elsewhere.
    #[must_use]
    pub fn map<U>(self, mut to: impl FnMut(T) -> U) -> Routes<U> {
        let mut all = |hosts: HashMap<String, Paths<T>>| {
            hosts.into_iter().map(|(host, paths)| (host, paths.map(&mut to))).collect()
        };
        let (hosts, wildcards) = (all(self.hosts), all(self.wildcards));
        Routes { hosts, wildcards, any: self.any.map(to) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The table of <https://kubernetes.io/docs/concepts/services-networking/ingress/#examples>.
    #[test]
    fn paths_match_as_the_documentation_says() {
        for (kind, rules, request, matches) in [
            ("Prefix", vec!["/"], "/anything", Some("/")),
            ("Exact", vec!["/foo"], "/foo", Some("/foo")),
            ("Exact", vec!["/foo"], "/bar", None),
            ("Exact", vec!["/foo"], "/foo/", None),
            ("Exact", vec!["/foo/"], "/foo", None),
            ("Prefix", vec!["/foo"], "/foo", Some("/foo")),
            ("Prefix", vec!["/foo"], "/foo/", Some("/foo")),
            ("Prefix", vec!["/foo/"], "/foo", Some("/foo/")),
            ("Prefix", vec!["/foo/"], "/foo/", Some("/foo/")),
            ("Prefix", vec!["/aaa/bb"], "/aaa/bbb", None),
            ("Prefix", vec!["/aaa/bbb"], "/aaa/bbb", Some("/aaa/bbb")),
            ("Prefix", vec!["/aaa/bbb/"], "/aaa/bbb", Some("/aaa/bbb/")),
            ("Prefix", vec!["/aaa/bbb"], "/aaa/bbb/", Some("/aaa/bbb")),
            ("Prefix", vec!["/aaa/bbb"], "/aaa/bbb/ccc", Some("/aaa/bbb")),
            ("Prefix", vec!["/aaa/bbb"], "/aaa/bbbxyz", None),
            ("Prefix", vec!["/", "/aaa"], "/aaa/ccc", Some("/aaa")),
            ("Prefix", vec!["/", "/aaa", "/aaa/bbb"], "/aaa/bbb", Some("/aaa/bbb")),
            ("Prefix", vec!["/", "/aaa", "/aaa/bbb"], "/ccc", Some("/")),
            ("Prefix", vec!["/aaa"], "/ccc", None),
        ] {
            let mut routes = Routes::default();
            for rule in &rules {
                match kind {
                    "Exact" => routes.host("").exact(rule, *rule),
                    _ => routes.host("").prefix(rule, *rule),
                }
            }
            let found = routes.find("example.com", request).copied();
            assert_eq!(found, matches, "{kind} {rules:?} {request}");
        }
        // Mixed.
        let mut routes = Routes::default();
        routes.host("").prefix("/foo", "prefix");
        routes.host("").exact("/foo", "exact");
        assert_eq!(routes.find("example.com", "/foo"), Some(&"exact"));
        assert_eq!(routes.find("example.com", "/foo/"), Some(&"prefix"));
    }

    /// The table of the same page's section on wildcards.
    #[test]
    fn wildcards_stand_for_one_label() {
        let mut routes = Routes::default();
        routes.host("*.foo.com").prefix("/", ());
        assert!(routes.find("bar.foo.com", "/").is_some());
        assert!(routes.find("baz.bar.foo.com", "/").is_none());
        assert!(routes.find("foo.com", "/").is_none());
        assert!(routes.find(".foo.com", "/").is_none());
        assert!(routes.find("", "/").is_none());
    }

    #[test]
    fn the_nearest_host_counts_first_and_default_backends_last() {
        let mut routes = Routes::default();
        routes.host("").prefix("/any", "any");
        routes.host("").set_fallback("default");
        routes.host("*.example.com").prefix("/", "wildcard");
        routes.host("WWW.example.com").prefix("/www", "exact");
        routes.host("www.example.com").set_fallback("its default");
        routes.host("alone.example.org").set_fallback("alone");
        for (host, path, leads) in [
            ("www.example.com", "/www/x", "exact"),
            ("www.example.com", "/other", "wildcard"),
            ("alone.example.org", "/any", "any"),
            ("alone.example.org", "/", "alone"),
            ("else.org", "/any/thing", "any"),
            ("else.org", "/", "default"),
        ] {
            assert_eq!(routes.find(host, path), Some(&leads), "{host} {path}");
        }
    }

    #[test]
    fn the_first_of_two_that_say_the_same_counts() {
        let mut routes = Routes::default();
        let paths = routes.host("a");
        paths.prefix("/x", 1);
        paths.prefix("/x/", 2);
        paths.exact("/x", 3);
        paths.exact("/x", 4);
        paths.set_fallback(5);
        paths.set_fallback(6);
        assert_eq!(routes.find("a", "/x"), Some(&3));
        assert_eq!(routes.find("a", "/x/y"), Some(&1));
        assert_eq!(routes.find("a", "/"), Some(&5));
    }
}
