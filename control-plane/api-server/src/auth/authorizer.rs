//! What a user may: one answer for every request, from indexes in memory.

use std::fmt;
use std::sync::Arc;

use bulkhead_store::Store;

use super::hosts::{self, NodeOwners, PodReferences};
use super::ingress::{self, IngressReferences};
use super::rbac::index::{Grant, RbacIndex};
use super::{Action, MASTERS, User, rbac};
use crate::feed::Feed;
use crate::status::{Result, Status};

/// Why something is permitted.
#[derive(Debug, Clone)]
pub enum Reason {
    /// The user is in `system:masters`.
    Master,
    /// The user is a host, and it is its own.
    Host,
    /// The user is the proxy of Ingresses, and one of those names it.
    Ingress,
    /// A role grants it.
    Role(Grant),
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Master | Self::Host | Self::Ingress => Ok(()),
            Self::Role(grant) => grant.fmt(f),
        }
    }
}

/// Decides what users may.
#[derive(Debug)]
pub struct Authorizer {
    rbac: Feed<RbacIndex>,
    owners: Feed<NodeOwners>,
    references: Feed<PodReferences>,
    ingresses: Feed<IngressReferences>,
}

impl Authorizer {
    /// An authorizer that follows the roles, bindings, nodes, pods and ingresses in `store`.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub async fn start(store: &Arc<dyn Store>) -> bulkhead_store::Result<Self> {
        Ok(Self {
            rbac: Feed::start(Arc::clone(store), rbac::PREFIX, RbacIndex::default()).await?,
            owners: Feed::start(Arc::clone(store), hosts::NODES, NodeOwners::default()).await?,
            references: Feed::start(Arc::clone(store), hosts::PODS, PodReferences::default())
                .await?,
            ingresses: {
                let references = IngressReferences::default();
                Feed::start(Arc::clone(store), ingress::PREFIX, references).await?
            },
        })
    }

    /// The roles and bindings.
    #[must_use]
    pub fn roles(&self) -> &RbacIndex {
        self.rbac.index()
    }

    /// Which host runs which node.
    #[must_use]
    pub fn owners(&self) -> &NodeOwners {
        self.owners.index()
    }

    pub(crate) fn rbac(&self) -> &Feed<RbacIndex> {
        &self.rbac
    }

    /// Refuses what `user` may not do.
    ///
    /// # Errors
    /// `Forbidden`, in Kubernetes' words.
    pub async fn check(&self, user: &User, action: &Action<'_>) -> Result<()> {
        if self.permits(user, action).await.is_some() {
            return Ok(());
        }
        let scope = match action.namespace {
            Some(namespace) => format!(" in the namespace \"{namespace}\""),
            None => " at the cluster scope".into(),
        };
        let why = format!(
            "User \"{}\" cannot {} resource \"{}\" in API group \"{}\"{scope}",
            user.name,
            action.verb,
            action.resource(),
            action.group
        );
        Err(Status::forbidden(action.group, action.plural, action.name.unwrap_or(""), &why))
    }

    /// Refuses a path that is not a resource's and that `user` may not see.
    ///
    /// # Errors
    /// `Forbidden`, in Kubernetes' words.
    pub async fn check_path(&self, user: &User, verb: &str, path: &str) -> Result<()> {
        match self.permits_path(user, verb, path).await {
            Some(_) => Ok(()),
            None => Err(Status::forbidden_path(&user.name, verb, path)),
        }
    }

    /// Why `user` may do `action`; `None` if they may not.
    pub async fn permits(&self, user: &User, action: &Action<'_>) -> Option<Reason> {
        if let Some(why) = self.permits_now(user, action) {
            return Some(why);
        }
        // What permits it may have been written a moment ago: a write that was acknowledged counts.
        self.catch_up(user).await;
        self.permits_now(user, action)
    }

    /// Waits until what is known of `user`'s rights is as new as any write acknowledged by now.
    pub async fn catch_up(&self, user: &User) {
        self.rbac.catch_up().await;
        if hosts::host_of(user).is_some() {
            self.owners.catch_up().await;
            self.references.catch_up().await;
        }
        if user.name == ingress::INGRESS {
            self.ingresses.catch_up().await;
        }
    }

    /// As [`permits`](Self::permits), of what is known at this moment.
    #[must_use]
    pub fn permits_now(&self, user: &User, action: &Action<'_>) -> Option<Reason> {
        if user.is_in(MASTERS) {
            return Some(Reason::Master);
        }
        if let Some(host) = hosts::host_of(user)
            && hosts::permits(host, action, self.owners.index(), self.references.index())
        {
            return Some(Reason::Host);
        }
        if user.name == ingress::INGRESS && ingress::permits(action, self.ingresses.index()) {
            return Some(Reason::Ingress);
        }
        self.rbac.index().permits(user, action).map(Reason::Role)
    }

    /// Why `user` may do `verb` on a path; `None` if they may not.
    pub async fn permits_path(&self, user: &User, verb: &str, path: &str) -> Option<Reason> {
        let now = || {
            if user.is_in(MASTERS) {
                return Some(Reason::Master);
            }
            self.rbac.index().permits_path(user, verb, path).map(Reason::Role)
        };
        if let Some(why) = now() {
            return Some(why);
        }
        self.rbac.catch_up().await;
        now()
    }
}
