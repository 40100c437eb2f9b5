//! `metav1.Status`: how every request that fails, and some that succeed, is answered.

use serde_json::{Value, json};

/// The result of an API operation.
pub type Result<T> = std::result::Result<T, Status>;

/// A failure, as clients see it.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct Status {
    /// The HTTP status.
    pub code: u16,
    /// The machine-readable class (`NotFound`).
    pub reason: &'static str,
    /// One line for a person.
    pub message: String,
    /// What the failure is about.
    pub details: Box<Details>,
}

/// What a failure is about.
#[derive(Debug, Clone, Default)]
pub struct Details {
    /// The object's name.
    pub name: String,
    /// The resource's group.
    pub group: String,
    /// The resource's plural, or the kind.
    pub kind: String,
    /// Each thing that is wrong.
    pub causes: Vec<Cause>,
    /// Where a list can go on that failed.
    pub continue_token: Option<String>,
    /// When to try again.
    pub retry_after_seconds: Option<u32>,
}

/// One thing that is wrong with an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cause {
    /// `FieldValueRequired`, `FieldValueInvalid`, …
    pub reason: &'static str,
    /// What is wrong, without the field.
    pub message: String,
    /// Its path (`spec.containers[0].name`).
    pub field: String,
}

impl Cause {
    /// A field that must be there is not.
    pub fn required(field: impl Into<String>) -> Self {
        Self { reason: "FieldValueRequired", message: "Required value".into(), field: field.into() }
    }

    /// A field that must be there is not, because of something else.
    pub fn missing(field: impl Into<String>, why: &str) -> Self {
        Self { message: format!("Required value: {why}"), ..Self::required(field) }
    }

    /// A value refers to something that is not there.
    pub fn not_found(field: impl Into<String>, value: &Value) -> Self {
        Self {
            reason: "FieldValueNotFound",
            message: format!("Not found: {value}"),
            field: field.into(),
        }
    }

    /// A value has more bytes than it may.
    pub fn too_long(field: impl Into<String>, most: usize) -> Self {
        Self {
            reason: "FieldValueTooLong",
            message: format!("Too long: may not be more than {most} bytes"),
            field: field.into(),
        }
    }

    /// A field's value is not acceptable.
    pub fn invalid(field: impl Into<String>, value: &Value, why: &str) -> Self {
        Self {
            reason: "FieldValueInvalid",
            message: format!("Invalid value: {value}: {why}"),
            field: field.into(),
        }
    }

    /// A value that must be unique is there twice.
    pub fn duplicate(field: impl Into<String>, value: &Value) -> Self {
        Self {
            reason: "FieldValueDuplicate",
            message: format!("Duplicate value: {value}"),
            field: field.into(),
        }
    }

    /// A value is not one of those that exist.
    pub fn not_supported(field: impl Into<String>, value: &Value, supported: &[&str]) -> Self {
        let supported: Vec<_> = supported.iter().map(|one| format!("\"{one}\"")).collect();
        Self {
            reason: "FieldValueNotSupported",
            message: format!(
                "Unsupported value: {value}: supported values: {}",
                supported.join(", ")
            ),
            field: field.into(),
        }
    }

    /// A list has more elements than it may.
    pub fn too_many(field: impl Into<String>, count: usize, most: usize) -> Self {
        Self {
            reason: "FieldValueTooMany",
            message: format!("Too many: {count}: must have at most {most} items"),
            field: field.into(),
        }
    }

    /// A field may not be set, or not be changed.
    pub fn forbidden(field: impl Into<String>, why: &str) -> Self {
        Self {
            reason: "FieldValueForbidden",
            message: format!("Forbidden: {why}"),
            field: field.into(),
        }
    }
}

impl Status {
    fn new(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        Self { code, reason, message: message.into(), details: Box::default() }
    }

    fn about(mut self, group: &str, kind: &str, name: &str) -> Self {
        self.details.group = group.into();
        self.details.kind = kind.into();
        self.details.name = name.into();
        self
    }

    /// The same failure in other words.
    #[must_use]
    pub fn with_message(mut self, message: impl Into<String>) -> Self {
        self.message = message.into();
        self
    }

    /// 404 for an object.
    #[must_use]
    pub fn not_found(group: &str, plural: &str, name: &str) -> Self {
        let resource = qualified(group, plural);
        Self::new(404, "NotFound", format!("{resource} \"{name}\" not found"))
            .about(group, plural, name)
    }

    /// 404 for a path that names no resource.
    #[must_use]
    pub fn no_such_resource() -> Self {
        Self::new(404, "NotFound", "the server could not find the requested resource")
    }

    /// 409 for a create of what is there.
    #[must_use]
    pub fn already_exists(group: &str, plural: &str, name: &str) -> Self {
        let resource = qualified(group, plural);
        Self::new(409, "AlreadyExists", format!("{resource} \"{name}\" already exists"))
            .about(group, plural, name)
    }

    /// 409 for a write that builds on an outdated or different object.
    #[must_use]
    pub fn conflict(group: &str, plural: &str, name: &str, why: &str) -> Self {
        let resource = qualified(group, plural);
        let message = format!("Operation cannot be fulfilled on {resource} \"{name}\": {why}");
        Self::new(409, "Conflict", message).about(group, plural, name)
    }

    /// 504 for a request that takes too long.
    #[must_use]
    pub fn timeout(why: &str) -> Self {
        Self::new(504, "Timeout", format!("Timeout: request did not complete: {why}"))
    }

    /// 422 for an object that is wrong in `causes`.
    #[must_use]
    pub fn invalid(group: &str, kind: &str, name: &str, causes: Vec<Cause>) -> Self {
        let text: Vec<_> =
            causes.iter().map(|cause| format!("{}: {}", cause.field, cause.message)).collect();
        let text = match text.as_slice() {
            [one] => one.clone(),
            several => format!("[{}]", several.join(", ")),
        };
        let subject = qualified(group, kind);
        let mut status =
            Self::new(422, "Invalid", format!("{subject} \"{name}\" is invalid: {text}"))
                .about(group, kind, name);
        status.details.causes = causes;
        status
    }

    /// 400.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, "BadRequest", message)
    }

    /// 401.
    #[must_use]
    pub fn unauthorized() -> Self {
        Self::new(401, "Unauthorized", "Unauthorized")
    }

    /// 403.
    #[must_use]
    pub fn forbidden(group: &str, plural: &str, name: &str, why: &str) -> Self {
        let resource = qualified(group, plural);
        let subject = if name.is_empty() { resource } else { format!("{resource} \"{name}\"") };
        Self::new(403, "Forbidden", format!("{subject} is forbidden: {why}"))
            .about(group, plural, name)
    }

    /// 403 for a path that is not a resource's.
    #[must_use]
    pub fn forbidden_path(user: &str, verb: &str, path: &str) -> Self {
        let message = format!("forbidden: User \"{user}\" cannot {verb} path \"{path}\"");
        Self::new(403, "Forbidden", message)
    }

    /// 405.
    #[must_use]
    pub fn method_not_allowed() -> Self {
        let message = "the server does not allow this method on the requested resource";
        Self::new(405, "MethodNotAllowed", message)
    }

    /// 406.
    pub fn not_acceptable(message: impl Into<String>) -> Self {
        Self::new(406, "NotAcceptable", message)
    }

    /// 410: the resource version or continue token is too old.
    pub fn expired(message: impl Into<String>) -> Self {
        Self::new(410, "Expired", message)
    }

    /// 413.
    #[must_use]
    pub fn too_large(limit: usize) -> Self {
        let message = format!("Request entity too large: limit is {limit}");
        Self::new(413, "RequestEntityTooLarge", message)
    }

    /// 415.
    pub fn unsupported_media_type(message: impl Into<String>) -> Self {
        Self::new(415, "UnsupportedMediaType", message)
    }

    /// 429 for an eviction that a disruption budget does not allow now.
    #[must_use]
    pub fn disruption_budget(why: &str) -> Self {
        let message = "Cannot evict pod as it would violate the pod's disruption budget.";
        let mut status = Self::new(429, "TooManyRequests", message);
        status.details.causes.push(Cause {
            reason: "DisruptionBudget",
            message: why.into(),
            field: String::new(),
        });
        status
    }

    /// 504 for a resource version that has not happened yet.
    pub fn version_in_future(message: impl Into<String>) -> Self {
        let mut status = Self::new(504, "Timeout", message);
        status.details.retry_after_seconds = Some(1);
        status
    }

    /// 500.
    pub fn internal(message: impl std::fmt::Display) -> Self {
        Self::new(500, "InternalError", format!("Internal error occurred: {message}"))
    }

    /// 503: what the answer must come from cannot be reached.
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::new(503, "ServiceUnavailable", message)
    }

    /// The object that is sent.
    #[must_use]
    pub fn to_value(&self) -> Value {
        let mut status = json!({
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
            "reason": self.reason,
            "code": self.code,
        });
        if let Some(token) = &self.details.continue_token {
            status["metadata"]["continue"] = token.as_str().into();
        }
        let mut details = serde_json::Map::new();
        let texts = [
            ("name", &self.details.name),
            ("group", &self.details.group),
            ("kind", &self.details.kind),
        ];
        for (field, text) in texts {
            if !text.is_empty() {
                details.insert(field.into(), text.as_str().into());
            }
        }
        if !self.details.causes.is_empty() {
            let causes = self.details.causes.iter().map(|cause| {
                json!({"reason": cause.reason, "message": cause.message, "field": cause.field})
            });
            details.insert("causes".into(), causes.collect());
        }
        if let Some(seconds) = self.details.retry_after_seconds {
            details.insert("retryAfterSeconds".into(), seconds.into());
        }
        if !details.is_empty() {
            status["details"] = details.into();
        }
        status
    }
}

/// `deployments.apps`; the core group adds nothing.
fn qualified(group: &str, resource: &str) -> String {
    if group.is_empty() { resource.into() } else { format!("{resource}.{group}") }
}
