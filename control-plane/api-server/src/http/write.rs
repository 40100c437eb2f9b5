//! Updates, patches and applies of objects.

use bytes::Bytes;
use http::Request;
use serde_json::Value;

use super::{Answer, Front, read_body};
use crate::api::Target;
use crate::auth::Action;
use crate::auth::admission::Admission;
use crate::body::{self, Body, BoxError};
use crate::object;
use crate::options::WriteOptions;
use crate::patch::Patch;
use crate::resource::Resource;
use crate::status::{Cause, Result, Status};
use crate::validation::Validation;

/// The media type of server-side apply.
const APPLY: &str = "application/apply-patch+yaml";

/// Refuses an update that does not say which version it replaces, of a kind of which it must.
fn check_condition(resource: &Resource, name: &str, object: &Value) -> Result<()> {
    let is_said = !matches!(object::text(object, "metadata.resourceVersion"), "" | "0");
    if is_said || resource.unconditional_update {
        return Ok(());
    }
    let cause = Cause {
        reason: "FieldValueInvalid",
        message: "Invalid value: 0x0: must be specified for an update".into(),
        field: "metadata.resourceVersion".into(),
    };
    Err(Status::invalid(resource.group, resource.plural, name, vec![cause]))
}

impl Front {
    /// Replaces an object by the request's.
    pub(super) async fn update<B>(
        &self,
        admission: &Admission<'_>,
        name: &str,
        target: Target,
        write: &WriteOptions,
        request: Request<B>,
    ) -> Result<Answer>
    where
        B: http_body::Body<Data = Bytes>,
        B::Error: Into<BoxError>,
    {
        let place = admission.place;
        let mut validation = Validation::new(write.field_validation, &place.resource, None);
        let object = validation.body(read_body(request).await?)?;
        admission.prepare().await;
        let change = |current: &Value| {
            check_condition(&place.resource, name, &object)?;
            admission.update(current, &object)?;
            Ok(object.clone())
        };
        let object = self.api.modify(place, name, target, write, change).await?;
        Ok(Answer { object, created: false, validation })
    }

    /// Changes an object by the request's patch.
    pub(super) async fn patch<B>(
        &self,
        admission: &Admission<'_>,
        name: &str,
        target: Target,
        write: &WriteOptions,
        request: Request<B>,
    ) -> Result<Answer>
    where
        B: http_body::Body<Data = Bytes>,
        B::Error: Into<BoxError>,
    {
        let place = admission.place;
        let mut validation = Validation::new(write.field_validation, &place.resource, None);
        let media_type = body::media_type(request.headers());
        let body = read_body(request).await?;
        admission.prepare().await;
        if media_type == APPLY {
            return self.apply(admission, name, target, write, validation, body).await;
        }
        let patch = Patch::parse(&media_type, body)?;
        let change = |current: &Value| {
            let changed = patch.apply(&mut validation, current)?;
            admission.update(current, &changed)?;
            Ok(changed)
        };
        let object = self.api.modify(place, name, target, write, change).await?;
        Ok(Answer { object, created: false, validation })
    }

    async fn apply(
        &self,
        admission: &Admission<'_>,
        name: &str,
        target: Target,
        write: &WriteOptions,
        mut validation: Validation,
        body: Body,
    ) -> Result<Answer> {
        let place = admission.place;
        let applied = validation.body(body)?;
        let creation = Action {
            verb: "create",
            group: place.resource.group,
            plural: place.resource.plural,
            subresource: None,
            namespace: place.namespace.as_deref(),
            name: None,
        };
        let may_create = self.authorizer.check(admission.user, &creation).await;
        let admit = |current: Option<&Value>, changed: &mut Value| match current {
            Some(current) => admission.update(current, changed),
            None => {
                may_create.clone()?;
                admission.create(changed)
            }
        };
        let (object, created) = self.api.apply(place, name, target, &applied, write, admit).await?;
        Ok(Answer { object, created, validation })
    }
}
