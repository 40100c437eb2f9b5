//! Field validation: what a write answers to values of the wrong type, and to fields that are
//! unknown or said twice.
//! <https://kubernetes.io/docs/reference/using-api/api-concepts/#field-validation>

use http::{HeaderValue, Response, header};
use serde_json::Value;

use crate::body::Body;
use crate::object;
use crate::options::FieldValidation;
use crate::resource::{Resource, api_version};
use crate::schema::{self, Shape};
use crate::status::{Cause, Result, Status};

/// The checks of one write, and what it warns of.
#[derive(Debug)]
pub struct Validation {
    mode: FieldValidation,
    group: String,
    version: String,
    kind: String,
    shape: Option<Shape>,
    warnings: Vec<String>,
}

impl Validation {
    /// Checks objects of `resource`, or of the kind of its `subresource` if it has a kind of its own.
    #[must_use]
    pub fn new(mode: FieldValidation, resource: &Resource, subresource: Option<&str>) -> Self {
        let subresource = subresource.and_then(|name| resource.subresource(name));
        let (group, version, kind) = match subresource {
            Some(sub) => {
                let (group, version) =
                    sub.group_version.unwrap_or((resource.group, resource.version));
                (group, version, sub.kind)
            }
            None => (resource.group, resource.version, resource.kind),
        };
        let shape = match kind == resource.kind {
            true => resource.schema(),
            false => schema::builtin().kind(group, version, kind),
        };
        Self {
            mode,
            group: group.into(),
            version: version.into(),
            kind: kind.into(),
            shape,
            warnings: Vec::new(),
        }
    }

    /// The type of the objects.
    #[must_use]
    pub fn shape(&self) -> Option<&Shape> {
        self.shape.as_ref()
    }

    /// The object in a body.
    ///
    /// # Errors
    /// `BadRequest` if a value is of the wrong type, or if validation is strict and a field is
    /// unknown or said twice.
    pub fn body(&mut self, body: Body) -> Result<Value> {
        let found = self.check(&body.value)?;
        let strict = self.report(&body.duplicates, found);
        match strict {
            Some(why) => Err(self.refused(&format!("strict decoding error: {why}"))),
            None => Ok(body.value),
        }
    }

    /// Checks what a patch made; `duplicates` are the patch's own.
    ///
    /// # Errors
    /// As [`body`](Self::body), but what strict validation refuses is `Invalid`.
    pub fn patched(&mut self, duplicates: &[String], object: &Value) -> Result<()> {
        // The change of an object that others overtake is made anew.
        self.warnings.clear();
        let found = self.check(object)?;
        match self.report(duplicates, found) {
            Some(why) => {
                let cause = Cause {
                    reason: "FieldValueInvalid",
                    message: format!("Invalid value: strict decoding error: {why}"),
                    field: "patch".into(),
                };
                Err(Status::invalid(&self.group, &self.kind, object::name(object), vec![cause]))
            }
            None => Ok(()),
        }
    }

    fn check(&self, object: &Value) -> Result<Vec<String>> {
        let Some(shape) = &self.shape else { return Ok(Vec::new()) };
        let said = (object::text(object, "apiVersion"), object::text(object, "kind"));
        let own = (&*api_version(&self.group, &self.version), &*self.kind);
        if object.is_null() || (said != ("", "") && said != own) {
            // Not of this kind, which is an error of its own.
            return Ok(Vec::new());
        }
        let checked = schema::check::check(object, shape);
        if let (Shape::Custom(_), Err(_)) = (shape, &checked) {
            // The kind's own schema says more of what is wrong.
            return Ok(Vec::new());
        }
        checked.map_err(|error| self.refused(&error.to_string()))
    }

    fn refused(&self, why: &str) -> Status {
        let (kind, version) = (&self.kind, api_version(&self.group, &self.version));
        Status::bad_request(format!(
            "{kind} in version \"{version}\" cannot be handled as a {kind}: {why}"
        ))
    }

    /// What to refuse the request for; else it becomes warnings.
    fn report(&mut self, duplicates: &[String], unknown: Vec<String>) -> Option<String> {
        let unknown = unknown.iter().map(|path| format!("unknown field \"{path}\""));
        let all: Vec<String> = duplicates
            .iter()
            .map(|path| format!("duplicate field \"{path}\""))
            .chain(unknown)
            .collect();
        match self.mode {
            FieldValidation::Ignore => None,
            FieldValidation::Strict => (!all.is_empty()).then(|| all.join(", ")),
            FieldValidation::Warn => {
                self.warnings.extend(all);
                None
            }
        }
    }

    /// Adds the warnings to the answer.
    pub fn warn<B>(self, response: &mut Response<B>) {
        for warning in self.warnings {
            let text = warning.replace('\\', "\\\\").replace('"', "\\\"");
            // What a header cannot carry, such as control characters, is warned of without it.
            let text: String = text.chars().filter(|c| matches!(c, ' '..='~')).collect();
            if let Ok(value) = HeaderValue::try_from(format!("299 - \"{text}\"")) {
                response.headers_mut().append(header::WARNING, value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn validation(mode: FieldValidation) -> Validation {
        let pods = crate::kinds::registry().find("", "v1", "pods").unwrap();
        Validation::new(mode, &pods, None)
    }

    fn body() -> Body {
        Body { value: json!({"spec": {"x": 1}}), duplicates: vec!["metadata.name".into()] }
    }

    #[test]
    fn strict_refuses_what_warn_warns_of() {
        let refused = validation(FieldValidation::Strict).body(body()).unwrap_err();
        let expected = "Pod in version \"v1\" cannot be handled as a Pod: strict decoding error: \
                        duplicate field \"metadata.name\", unknown field \"spec.x\"";
        assert_eq!((refused.code, refused.message.as_str()), (400, expected));

        let mut warned = validation(FieldValidation::Warn);
        assert_eq!(warned.body(body()).unwrap(), json!({"spec": {"x": 1}}));
        let mut response = Response::new(());
        warned.warn(&mut response);
        let warnings: Vec<_> = response.headers().get_all(header::WARNING).iter().collect();
        let expected = [
            "299 - \"duplicate field \\\"metadata.name\\\"\"",
            "299 - \"unknown field \\\"spec.x\\\"\"",
        ];
        assert_eq!(warnings, expected);

        let mut ignored = validation(FieldValidation::Ignore);
        assert!(ignored.body(body()).is_ok());
        let mut response = Response::new(());
        ignored.warn(&mut response);
        assert!(response.headers().is_empty());
    }

    #[test]
    fn types_are_checked_even_if_fields_are_not() {
        let body = Body { value: json!({"spec": {"hostNetwork": 1}}), duplicates: Vec::new() };
        let refused = validation(FieldValidation::Ignore).body(body).unwrap_err();
        assert!(refused.message.contains("PodSpec.spec.hostNetwork of type bool"), "{refused}");
    }
}
