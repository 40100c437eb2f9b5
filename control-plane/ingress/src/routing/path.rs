//! Paths of rules and of requests.

use std::borrow::Cow;
use std::collections::HashMap;

/// The rules of one host.
#[derive(Debug)]
pub struct Paths<T> {
    exact: HashMap<String, T>,
    /// Without slashes at their ends.
    prefixes: HashMap<String, T>,
    /// The length of the longest prefix, in bytes.
    longest: usize,
    fallback: Option<T>,
}

impl<T> Default for Paths<T> {
    fn default() -> Self {
        let (exact, prefixes) = Default::default();
        Self { exact, prefixes, longest: 0, fallback: None }
    }
}

impl<T> Paths<T> {
    /// Adds a rule for this path alone.
    pub fn exact(&mut self, path: &str, target: T) {
        self.exact.entry(path.to_owned()).or_insert(target);
    }

    /// Adds a rule for this path and all whose first elements are its elements.
    pub fn prefix(&mut self, path: &str, target: T) {
        let path = path.trim_end_matches('/');
        self.longest = self.longest.max(path.len());
        self.prefixes.entry(path.to_owned()).or_insert(target);
    }

    /// Says where everything else goes.
    pub fn set_fallback(&mut self, target: T) {
        self.fallback.get_or_insert(target);
    }

    /// Where everything else goes.
    pub(super) const fn fallback(&self) -> Option<&T> {
        self.fallback.as_ref()
    }

    /// The target of the longest rule that matches, the exact one first.
    pub(super) fn find(&self, path: &str) -> Option<&T> {
        if let Some(target) = self.exact.get(path) {
            return Some(target);
        }
        let mut rest = path;
        loop {
            // However long the path, only what can be a prefix is looked up.
            if rest.len() <= self.longest
                && let Some(target) = self.prefixes.get(rest)
            {
                return Some(target);
            }
            rest = rest.get(..rest.rfind('/')?)?;
        }
    }

    pub(super) fn map<U>(self, mut to: impl FnMut(T) -> U) -> Paths<U> {
        let mut all = |rules: HashMap<String, T>| -> HashMap<String, U> {
            rules.into_iter().map(|(path, target)| (path, to(target))).collect()
        };
        let (exact, prefixes) = (all(self.exact), all(self.prefixes));
        Paths { exact, prefixes, longest: self.longest, fallback: self.fallback.map(to) }
    }
}

/// A path means one thing here and perhaps another to a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PathError {
    /// It has segments that lead elsewhere.
    #[error("the path has a segment '.' or '..'")]
    DotSegment,
    /// It is not that of a resource.
    #[error("the path does not begin with '/'")]
    Relative,
    /// `%` is not followed by two hexadecimal digits.
    #[error("the path is not percent-encoded")]
    Encoding,
}

/// The path as rules are compared with it: what need not be percent-encoded is not (RFC 3986,
/// section 6.2.2.2), so that `/%61dmin` is `/admin` here as it is to the backend.
///
/// # Errors
/// If a backend could take it for another path than it looks like.
pub(crate) fn normalized(path: &str) -> Result<Cow<'_, str>, PathError> {
    if !path.starts_with('/') {
        return Err(PathError::Relative);
    }
    let path = match path.contains('%') {
        true => Cow::Owned(decode_unreserved(path)?),
        false => Cow::Borrowed(path),
    };
    if path.split('/').any(|segment| matches!(segment, "." | "..")) {
        return Err(PathError::DotSegment);
    }
    Ok(path)
}

fn decode_unreserved(path: &str) -> Result<String, PathError> {
    let mut decoded = String::with_capacity(path.len());
    let mut parts = path.split('%');
    decoded.extend(parts.next());
    for part in parts {
        let digits = part.get(..2).ok_or(PathError::Encoding)?;
        let valid = digits.bytes().all(|digit| digit.is_ascii_hexdigit());
        let byte = u8::from_str_radix(digits, 16).ok().filter(|_| valid);
        match byte.ok_or(PathError::Encoding)? {
            byte if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) => {
                decoded.push(char::from(byte));
            }
            _ => {
                decoded.push('%');
                decoded.push_str(&digits.to_ascii_uppercase());
            }
        }
        decoded.extend(part.get(2..));
    }
    Ok(decoded)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_encoded_needlessly_is_decoded() {
        assert_eq!(normalized("/a/b").unwrap(), "/a/b");
        assert_eq!(normalized("/%61%2d%7e/%2f%C3%bc").unwrap(), "/a-~/%2F%C3%BC");
        assert_eq!(normalized("/a..b/.c/...").unwrap(), "/a..b/.c/...");
    }

    #[test]
    fn what_leads_elsewhere_is_refused() {
        for path in ["/a/../b", "/..", "/./a", "/a/.", "/%2e%2E/a", "/a/.%2e"] {
            assert_eq!(normalized(path), Err(PathError::DotSegment), "{path}");
        }
        for path in ["/%", "/%4", "/%zz", "/%+1", "/%ü"] {
            assert_eq!(normalized(path), Err(PathError::Encoding), "{path}");
        }
        assert_eq!(normalized("*"), Err(PathError::Relative));
        assert_eq!(normalized(""), Err(PathError::Relative));
    }

    #[test]
    fn a_long_path_costs_no_more_than_its_length() {
        let mut paths = Paths::default();
        paths.prefix("/a", ());
        let long = "/a".repeat(1 << 20);
        let began = std::time::Instant::now();
        assert!(paths.find(&long).is_some());
        // A look-up of each of its prefixes would hash 2^40 bytes.
        assert!(began.elapsed().as_secs() < 30);
    }
}
