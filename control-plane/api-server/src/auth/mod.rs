//! Who asks, and what they may.
//!
//! [`User`] is who: the subject of a client certificate of the cluster's authority, a service
//! account with a [`token`], or nobody.
//! [`authorizer`] says what they may: `system:masters` everything, host daemons what [`hosts`]
//! says, and everybody what roles grant ([`rbac`]). What depends on the object itself, not just on
//! its path, [`admission`] decides. [`impersonation`] lets a user act as another, and [`review`]
//! answers those who ask what somebody may.

pub mod admission;
pub mod authorizer;
pub mod hosts;
pub mod impersonation;
pub mod ingress;
pub mod keys;
pub mod rbac;
pub mod review;
pub mod token;

use std::collections::BTreeMap;

use x509_parser::prelude::{FromDer as _, X509Certificate};

/// The group of those who may do everything.
pub const MASTERS: &str = "system:masters";
/// The group of everybody who has said who they are.
pub const AUTHENTICATED: &str = "system:authenticated";
/// The group of everybody else.
pub const UNAUTHENTICATED: &str = "system:unauthenticated";
/// The user that is nobody.
pub const ANONYMOUS: &str = "system:anonymous";

/// Who makes a request.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct User {
    /// The name.
    pub name: String,
    /// What tells users of the same name apart; empty if nothing does.
    pub uid: String,
    /// The groups.
    pub groups: Vec<String>,
    /// What else the authentication knows.
    pub extra: BTreeMap<String, Vec<String>>,
}

impl User {
    /// Somebody without a certificate.
    #[must_use]
    pub fn anonymous() -> Self {
        let groups = vec![UNAUTHENTICATED.into()];
        Self { name: ANONYMOUS.into(), groups, ..Self::default() }
    }

    /// The subject of a certificate (DER) that TLS has verified: the common name is the user, the
    /// organizations are the groups. `None` if it names nobody.
    #[must_use]
    pub fn from_certificate(certificate: &[u8]) -> Option<Self> {
        let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
        let subject = certificate.subject();
        let name = subject.iter_common_name().next()?.as_str().ok()?.to_owned();
        let groups = subject.iter_organization().filter_map(|group| group.as_str().ok());
        let mut groups: Vec<String> = groups.map(Into::into).collect();
        groups.push(AUTHENTICATED.into());
        Some(Self { name, groups, ..Self::default() })
    }

    /// Whether it is in `group`.
    #[must_use]
    pub fn is_in(&self, group: &str) -> bool {
        self.groups.iter().any(|one| one == group)
    }
}

/// A verb on a resource.
#[derive(Debug, Clone, Copy)]
pub struct Action<'a> {
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, `deletecollection`, or one
    /// that only authorization knows (`bind`, `escalate`, `impersonate`).
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
    /// The resource as rules name it: `pods`, `pods/log`.
    #[must_use]
    pub fn resource(&self) -> String {
        match self.subresource {
            Some(subresource) => format!("{}/{subresource}", self.plural),
            None => self.plural.into(),
        }
    }
}
