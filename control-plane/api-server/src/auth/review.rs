//! Reviews: questions that are asked by creating an object, and answered in its status. Nothing of
//! them is stored. `authorization.k8s.io/v1` and `authentication.k8s.io/v1`.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Value, json};

use super::authorizer::Authorizer;
use super::rbac::PolicyRule;
use super::token::Tokens;
use super::{Action, MASTERS, User};
use crate::api::Place;
use crate::object;
use crate::status::{Cause, Result, Status};

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct AccessSpec {
    resource_attributes: Option<ResourceAttributes>,
    non_resource_attributes: Option<PathAttributes>,
    user: Option<String>,
    groups: Option<Vec<String>>,
    uid: Option<String>,
    extra: Option<BTreeMap<String, Vec<String>>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ResourceAttributes {
    namespace: Option<String>,
    verb: Option<String>,
    group: Option<String>,
    resource: Option<String>,
    subresource: Option<String>,
    name: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct PathAttributes {
    path: Option<String>,
    verb: Option<String>,
}

/// A review and who asks for it.
#[derive(Debug)]
pub struct Review<'a> {
    /// Who asks.
    pub user: &'a User,
    /// The kind of review, and its namespace.
    pub place: &'a Place,
    /// Who knows what they may.
    pub authorizer: &'a Authorizer,
    /// Who knows whose a token is.
    pub tokens: &'a Tokens,
}

impl Review<'_> {
    /// Answers `review`: returns it with its status.
    ///
    /// # Errors
    /// `Invalid` or `BadRequest` for a question that makes no sense.
    pub async fn answer(&self, mut review: Value) -> Result<Value> {
        crate::api::check_type(self.place, &mut review)?;
        let status = match self.place.resource.kind {
            "SelfSubjectReview" => json!({"userInfo": user_info(self.user)}),
            "TokenReview" => self.tokens.review(&review).await?,
            "SelfSubjectRulesReview" => self.rules(&review)?,
            "SelfSubjectAccessReview" => {
                let spec = self.access_spec(&review)?;
                self.access(self.user, &spec).await
            }
            _ => {
                let spec = self.access_spec(&review)?;
                let user = self.subject(&spec)?;
                self.access(&user, &spec).await
            }
        };
        object::set_default(&mut review, "metadata", json!({}));
        review["status"] = status;
        Ok(review)
    }

    fn invalid(&self, cause: Cause) -> Status {
        let resource = &self.place.resource;
        Status::invalid(resource.group, resource.kind, "", vec![cause])
    }

    fn access_spec(&self, review: &Value) -> Result<AccessSpec> {
        let spec: AccessSpec = serde_json::from_value(review["spec"].clone())
            .map_err(|error| Status::bad_request(format!("spec: {error}")))?;
        let why = match (&spec.resource_attributes, &spec.non_resource_attributes) {
            (Some(_), Some(_)) => "cannot be specified in combination with resourceAttributes",
            (None, None) => {
                "exactly one of nonResourceAttributes or resourceAttributes must be specified"
            }
            _ => "",
        };
        if !why.is_empty() {
            let field = "spec.resourceAttributes";
            return Err(self.invalid(Cause::invalid(field, &Value::Null, why)));
        }
        if let Some(namespace) = self.place.namespace.as_deref() {
            let attributes = spec.resource_attributes.as_ref();
            if attributes.and_then(|one| one.namespace.as_deref()) != Some(namespace) {
                let field = "spec.resourceAttributes.namespace";
                let said = &review["spec"]["resourceAttributes"]["namespace"];
                let why = "must match metadata.namespace";
                return Err(self.invalid(Cause::invalid(field, said, why)));
            }
        }
        Ok(spec)
    }

    fn subject(&self, spec: &AccessSpec) -> Result<User> {
        let user = User {
            name: spec.user.clone().unwrap_or_default(),
            uid: spec.uid.clone().unwrap_or_default(),
            groups: spec.groups.clone().unwrap_or_default(),
            extra: spec.extra.clone().unwrap_or_default(),
        };
        if user.name.is_empty() && user.groups.is_empty() {
            let why = "at least one of user or group must be specified";
            return Err(self.invalid(Cause::invalid("spec.user", &json!(""), why)));
        }
        Ok(user)
    }

    async fn access(&self, user: &User, spec: &AccessSpec) -> Value {
        let text = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        let reason = match (&spec.resource_attributes, &spec.non_resource_attributes) {
            (Some(asked), _) => {
                let (verb, group) = (text(&asked.verb), text(&asked.group));
                let (plural, subresource) = (text(&asked.resource), text(&asked.subresource));
                let (namespace, name) = (text(&asked.namespace), text(&asked.name));
                let action = Action {
                    verb: verb.as_deref().unwrap_or_default(),
                    group: group.as_deref().unwrap_or_default(),
                    plural: plural.as_deref().unwrap_or_default(),
                    subresource: subresource.as_deref(),
                    namespace: namespace.as_deref(),
                    name: name.as_deref(),
                };
                self.authorizer.permits(user, &action).await
            }
            (None, Some(asked)) => {
                let (verb, path) = (text(&asked.verb), text(&asked.path));
                let (verb, path) = (verb.unwrap_or_default(), path.unwrap_or_default());
                self.authorizer.permits_path(user, &verb, &path).await
            }
            (None, None) => None,
        };
        match reason.map(|reason| reason.to_string()) {
            None => json!({"allowed": false}),
            Some(why) if why.is_empty() => json!({"allowed": true}),
            Some(why) => json!({"allowed": true, "reason": why}),
        }
    }

    fn rules(&self, review: &Value) -> Result<Value> {
        let namespace = object::text(review, "spec.namespace");
        if namespace.is_empty() {
            return Err(Status::bad_request("no namespace on request"));
        }
        let mut rules = self.authorizer.roles().rules(self.user, Some(namespace));
        if self.user.is_in(MASTERS) {
            rules = super::rbac::escalation::everything().into();
        }
        let (paths, resources): (Vec<&PolicyRule>, Vec<_>) =
            rules.iter().partition(|rule| !rule.non_resource_urls.is_empty());
        Ok(json!({"resourceRules": resources, "nonResourceRules": paths, "incomplete": false}))
    }
}

/// `authentication.v1.UserInfo`.
#[must_use]
pub fn user_info(user: &User) -> Value {
    let mut info = json!({"username": user.name, "groups": user.groups});
    if !user.uid.is_empty() {
        info["uid"] = user.uid.as_str().into();
    }
    if !user.extra.is_empty() {
        info["extra"] = json!(user.extra);
    }
    info
}
