//! What a user may make of an object, where the path alone does not tell: hosts' nodes and pods,
//! and the rights that roles and bindings pass on. Clients in this process are not users.

use serde_json::{Value, json};

use super::authorizer::Authorizer;
use super::hosts::{self, HOST};
use super::rbac::escalation;
use super::{Action, MASTERS, User, rbac};
use crate::api::{Api, Place};
use crate::kinds::certificates;
use crate::object;
use crate::signer;
use crate::status::{Result, Status};

/// A user's request for a change of an object.
#[derive(Debug, Clone, Copy)]
pub struct Admission<'a> {
    /// Who asks.
    pub user: &'a User,
    /// Where the object is.
    pub place: &'a Place,
    /// What is known of rights.
    pub authorizer: &'a Authorizer,
}

impl Admission<'_> {
    /// Waits until what it decides by is as new as what the user may have seen.
    pub async fn prepare(&self) {
        if self.place.resource.group == rbac::GROUP || hosts::host_of(self.user).is_some() {
            self.authorizer.catch_up(self.user).await;
        }
    }

    /// Admits the creation of `object`, which may be changed by it.
    ///
    /// # Errors
    /// `Forbidden`.
    pub fn create(&self, object: &mut Value) -> Result<()> {
        if let Some(host) = hosts::host_of(self.user) {
            self.host_creates(host, object)?;
        }
        if self.place.resource.group == rbac::GROUP {
            escalation::check(self, None, object)?;
        }
        if self.is_certificate_request() && object["spec"].is_object() {
            self.request_certificate(object)?;
        }
        Ok(())
    }

    fn is_certificate_request(&self) -> bool {
        (self.place.resource.group, self.place.resource.plural)
            == (certificates::GROUP, certificates::PLURAL)
    }

    /// Notes who asks for a certificate, which must not be one of those who may do everything.
    fn request_certificate(&self, request: &mut Value) -> Result<()> {
        let User { name, uid, groups, extra } = self.user;
        request["spec"]["username"] = name.as_str().into();
        request["spec"]["uid"] = uid.as_str().into();
        request["spec"]["groups"] = json!(groups);
        request["spec"]["extra"] = json!(extra);
        let groups = certificates::organizations(request).unwrap_or_default();
        if request["spec"]["signerName"] == signer::SIGNER
            && groups.iter().any(|group| group == MASTERS)
        {
            let signer = signer::SIGNER;
            let why = format!("use of {signer} signer with {MASTERS} group is not allowed");
            return Err(self.refused(request, &why));
        }
        Ok(())
    }

    /// Refuses to let those decide (`approve`) or answer (`sign`) certificate requests who may not
    /// for the signer; a request for anything else is none of this.
    ///
    /// # Errors
    /// `Forbidden`; `NotFound` if there is no such request.
    pub async fn signs(&self, name: &str, verb: &str, may: &str, api: &Api) -> Result<()> {
        if !self.is_certificate_request() || !matches!(verb, "update" | "patch") {
            return Ok(());
        }
        let request = api.get(self.place, name).await?;
        let signer = object::text(&request, "spec.signerName");
        let all = format!("{}/*", signer.split('/').next().unwrap_or_default());
        for name in [signer, &all] {
            let action = Action {
                verb: may,
                group: certificates::GROUP,
                plural: "signers",
                subresource: None,
                namespace: None,
                name: Some(name),
            };
            if self.authorizer.permits(self.user, &action).await.is_some() {
                return Ok(());
            }
        }
        let why = format!("user not permitted to {may} requests with signerName \"{signer}\"");
        Err(self.refused(&request, &why))
    }

    /// Admits the change from `current` to `changed`.
    ///
    /// # Errors
    /// `Forbidden`.
    pub fn update(&self, current: &Value, changed: &Value) -> Result<()> {
        if let Some(host) = hosts::host_of(self.user) {
            self.host_owns(host, current)?;
            self.host_changes(current, changed)?;
        }
        if self.place.resource.group == rbac::GROUP {
            escalation::check(self, Some(current), changed)?;
        }
        Ok(())
    }

    /// Admits the deletion of `current`.
    ///
    /// # Errors
    /// `Forbidden`.
    pub fn delete(&self, current: &Value) -> Result<()> {
        match hosts::host_of(self.user) {
            Some(host) => self.host_owns(host, current),
            None => Ok(()),
        }
    }

    /// Whether [`delete`](Self::delete) needs to see the object.
    #[must_use]
    pub fn looks_at_deletes(&self) -> bool {
        hosts::host_of(self.user).is_some()
    }

    fn host_creates(&self, host: &str, object: &mut Value) -> Result<()> {
        match self.place.resource.plural {
            "nodes" => {
                let annotations = object
                    .get_mut("metadata")
                    .and_then(|metadata| object::map(metadata, "annotations"));
                let annotations = annotations.ok_or_else(|| {
                    Status::bad_request("metadata and its annotations must be objects")
                })?;
                annotations.insert(HOST.into(), host.into());
                Ok(())
            }
            _ => self.host_owns(host, object),
        }
    }

    /// Refuses objects of others' nodes.
    fn host_owns(&self, host: &str, object: &Value) -> Result<()> {
        let resource = &self.place.resource;
        let is_own = |node: &str| self.authorizer.owners().is_of(node, host);
        let (owned, why) = match (resource.group, resource.plural) {
            ("", "nodes") => (
                object["metadata"]["annotations"][HOST] == host,
                "is not allowed to modify a node that another host runs",
            ),
            ("", "pods") => (
                is_own(object::text(object, "spec.nodeName")),
                "can only change pods that are bound to its nodes",
            ),
            ("coordination.k8s.io", "leases") => (
                is_own(object::name(object)),
                "can only access node leases with the same name as one of its nodes",
            ),
            ("", "events") => (
                is_own(object::text(object, "source.host")),
                "can only tell of events whose source.host is one of its nodes",
            ),
            ("events.k8s.io", "events") => (
                is_own(object::text(object, "reportingInstance")),
                "can only tell of events whose reportingInstance is one of its nodes",
            ),
            _ => return Ok(()),
        };
        if owned { Ok(()) } else { Err(self.refused(object, &format!("host \"{host}\" {why}"))) }
    }

    /// Refuses changes of what a host may not change of its own.
    fn host_changes(&self, current: &Value, changed: &Value) -> Result<()> {
        let metadata = |field: &str| (&current["metadata"][field], &changed["metadata"][field]);
        let kept = |field: &str| {
            let (before, after) = metadata(field);
            before == after || (is_empty(before) && is_empty(after))
        };
        match self.place.resource.plural {
            "nodes" => {
                let (before, after) = metadata("annotations");
                if before[HOST] != after[HOST] {
                    let why = format!("the annotation {HOST} cannot be changed by a host");
                    return Err(self.refused(current, &why));
                }
            }
            "pods" => {
                for field in ["labels", "ownerReferences", "finalizers"] {
                    if !kept(field) {
                        let why = format!("a host cannot update metadata.{field} of a pod");
                        return Err(self.refused(current, &why));
                    }
                }
            }
            "leases" | "events" => return self.host_owns_after(changed),
            _ => {}
        }
        Ok(())
    }

    /// An object may not be made another node's by changing it.
    fn host_owns_after(&self, changed: &Value) -> Result<()> {
        match hosts::host_of(self.user) {
            Some(host) => self.host_owns(host, changed),
            None => Ok(()),
        }
    }

    fn refused(&self, object: &Value, why: &str) -> Status {
        let resource = &self.place.resource;
        Status::forbidden(resource.group, resource.plural, object::name(object), why)
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Object(map) => map.is_empty(),
        Value::Array(list) => list.is_empty(),
        _ => false,
    }
}
