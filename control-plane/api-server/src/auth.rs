//! Who asks, and what they may.
//!
//! Identity is a client certificate of the cluster's authority: the common name is the user, the
//! organizations are the groups. `system:masters` may do everything; `system:hosts` may read
//! everything and write what host daemons report; anybody may ask for health
//! and version.

use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::status::Status;

/// Who makes a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// The name.
    pub name: String,
    /// The groups.
    pub groups: Vec<String>,
}

impl User {
    /// Somebody without a certificate.
    #[must_use]
    pub fn anonymous() -> Self {
        Self { name: "system:anonymous".into(), groups: vec!["system:unauthenticated".into()] }
    }

    /// The subject of a certificate (DER) that TLS has verified; `None` if it names nobody.
    #[must_use]
    pub fn from_certificate(certificate: &[u8]) -> Option<Self> {
        let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
        let subject = certificate.subject();
        let name = subject.iter_common_name().next()?.as_str().ok()?.to_owned();
        let groups = subject.iter_organization().filter_map(|group| group.as_str().ok());
        let mut groups: Vec<String> = groups.map(Into::into).collect();
        groups.push("system:authenticated".into());
        Some(Self { name, groups })
    }

    fn is_in(&self, group: &str) -> bool {
        self.groups.iter().any(|one| one == group)
    }

    /// Whether it may see discovery, health and other paths that are not resources.
    ///
    /// # Errors
    /// `Forbidden`.
    pub fn may_see(&self, path: &str, verb: &str) -> Result<(), Status> {
        let public = ["/healthz", "/livez", "/readyz", "/version"].iter().any(|open| {
            path == *open || path.strip_prefix(open).is_some_and(|rest| rest.starts_with('/'))
        });
        if public || self.is_in("system:masters") || self.is_in("system:authenticated") {
            return Ok(());
        }
        Err(Status::forbidden_path(&self.name, verb, path))
    }

    /// Whether it may do `verb` to a resource.
    ///
    /// # Errors
    /// `Forbidden`, in Kubernetes' words.
    pub fn may(&self, action: &Action<'_>) -> Result<(), Status> {
        if self.is_in("system:masters") || (self.is_in("system:hosts") && host_may(action)) {
            return Ok(());
        }
        let (resource, group) = (action.resource(), action.group);
        let scope = match action.namespace {
            Some(namespace) => format!(" in the namespace \"{namespace}\""),
            None => " at the cluster scope".into(),
        };
        let why = format!(
            "User \"{}\" cannot {} resource \"{resource}\" in API group \"{group}\"{scope}",
            self.name, action.verb
        );
        Err(Status::forbidden(group, action.plural, action.name.unwrap_or(""), &why))
    }
}

/// A verb on a resource.
#[derive(Debug, Clone, Copy)]
pub struct Action<'a> {
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, `deletecollection`.
    pub verb: &'a str,
    /// API group.
    pub group: &'a str,
    /// Plural.
    pub plural: &'a str,
    /// Subresource.
    pub subresource: Option<&'a str>,
    /// Namespace.
    pub namespace: Option<&'a str>,
    /// Object.
    pub name: Option<&'a str>,
}

impl Action<'_> {
    fn resource(&self) -> String {
        match self.subresource {
            Some(subresource) => format!("{}/{subresource}", self.plural),
            None => self.plural.into(),
        }
    }
}

/// What host daemons may: read what pods and nodes need, report their state, and take away pods
/// that have ended.
fn host_may(action: &Action<'_>) -> bool {
    let reads = matches!(action.verb, "get" | "list" | "watch");
    let writes = matches!(action.verb, "create" | "update" | "patch");
    match (action.plural, action.subresource) {
        ("pods", Some("exec" | "attach" | "log")) => false,
        (_, None | Some("status")) if reads => true,
        ("nodes", None | Some("status")) | ("leases" | "events", None) => {
            writes || action.verb == "delete"
        }
        ("pods", Some("status")) => writes,
        ("pods", None) => action.verb == "delete",
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(group: &str) -> User {
        User { name: "u".into(), groups: vec![group.into(), "system:authenticated".into()] }
    }

    #[test]
    fn hosts_report_and_nothing_more() {
        let host = user("system:hosts");
        let may = |verb, plural, subresource| {
            let action =
                Action { verb, group: "", plural, subresource, namespace: None, name: None };
            host.may(&action).is_ok()
        };
        assert!(may("watch", "pods", None) && may("patch", "pods", Some("status")));
        assert!(may("create", "nodes", None) && may("update", "leases", None));
        assert!(may("delete", "pods", None));
        assert!(!may("create", "pods", None) && !may("create", "pods", Some("binding")));
        assert!(!may("get", "pods", Some("exec")) && !may("deletecollection", "pods", None));
        assert!(!may("update", "secrets", None));
    }

    #[test]
    fn the_anonymous_see_health_only() {
        let anonymous = User::anonymous();
        assert!(anonymous.may_see("/readyz", "get").is_ok());
        assert!(anonymous.may_see("/livez/ping", "get").is_ok());
        assert!(anonymous.may_see("/apis", "get").is_err());
        assert!(anonymous.may_see("/versionx", "get").is_err());
        let action = Action {
            verb: "list",
            group: "",
            plural: "pods",
            subresource: None,
            namespace: Some("d"),
            name: None,
        };
        let refused = anonymous.may(&action).unwrap_err();
        assert_eq!(
            refused.message,
            "pods is forbidden: User \"system:anonymous\" cannot list resource \"pods\" in API group \"\" in the namespace \"d\""
        );
    }
}
