//! What a request's query string and body say about how to do it.

use serde::Deserialize;
use serde_json::Value;

use crate::api::Target;
use crate::managed::{Manager, Operation};
use crate::resource::Resource;
use crate::selector::{FieldSelector, LabelSelector};
use crate::status::{Cause, Result, Status};

/// Options of get, list and watch.
#[derive(Debug, Clone, Default)]
pub struct ReadOptions {
    /// Which objects, by labels.
    pub labels: LabelSelector,
    /// Which objects, by fields.
    pub fields: FieldSelector,
    /// At most so many; 0 for all.
    pub limit: usize,
    /// Where the last page ended.
    pub continue_token: Option<String>,
    /// As of, or from, this version.
    pub resource_version: Option<u64>,
    /// `Exact` or `NotOlderThan`.
    pub resource_version_match: Option<String>,
    /// Whether it is a watch.
    pub watch: bool,
    /// Whether a watch tells of versions that pass without an event.
    pub bookmarks: bool,
    /// Whether a watch starts with what exists, and a bookmark after it.
    pub send_initial_events: Option<bool>,
    /// How long a watch lasts.
    pub timeout_seconds: Option<u64>,
    /// What a table carries of each object: `None`, `Metadata` or `Object`.
    pub include_object: Option<String>,
}

impl ReadOptions {
    /// Whether objects have to be looked into to know which are meant.
    #[must_use]
    pub fn is_selective(&self) -> bool {
        !self.labels.is_empty() || !self.fields.is_empty()
    }

    /// Refuses options of a list, or of a watch, that say nothing together.
    /// <https://kubernetes.io/docs/reference/using-api/api-concepts/#semantics-for-watch>
    ///
    /// # Errors
    /// `Invalid`, with the options that are wrong.
    pub fn check(&self, is_watch: bool) -> Result<()> {
        let (matching, mut causes) = (self.resource_version_match.as_deref(), Vec::new());
        let mut forbid = |field: &str, why: &str| causes.push(Cause::forbidden(field, why));
        let is_continued = self.continue_token.is_some();
        if is_watch {
            if self.send_initial_events.is_some() && matching != Some("NotOlderThan") {
                let why = "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan";
                forbid("resourceVersionMatch", why);
            }
            if self.send_initial_events.is_none() && matching.is_some() {
                let why = "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided";
                forbid("resourceVersionMatch", why);
            }
        } else {
            if self.send_initial_events.is_some() {
                forbid("sendInitialEvents", "sendInitialEvents is forbidden for list");
            }
            if matching.is_some() && self.resource_version.is_none() {
                let why = "resourceVersionMatch is forbidden unless resourceVersion is provided";
                forbid("resourceVersionMatch", why);
            }
            if matching == Some("Exact") && self.resource_version == Some(0) {
                let why = "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"";
                forbid("resourceVersionMatch", why);
            }
            if is_continued && self.resource_version.is_some_and(|version| version > 0) {
                let why = "specifying resource version is not allowed when using continue";
                return Err(Status::bad_request(why));
            }
        }
        if matching.is_some() && is_continued {
            let why = "resourceVersionMatch is forbidden when continue is provided";
            forbid("resourceVersionMatch", why);
        }
        let known: &[&str] = if is_watch { &["NotOlderThan"] } else { &["Exact", "NotOlderThan"] };
        if let Some(other) = matching.filter(|matching| !known.contains(matching)) {
            causes.push(Cause::not_supported("resourceVersionMatch", &other.into(), known));
        }
        match causes.is_empty() {
            true => Ok(()),
            false => Err(Status::invalid("meta.k8s.io", "ListOptions", "", causes)),
        }
    }

    /// Whether they mean `object`.
    #[must_use]
    pub fn select(&self, object: &Value) -> bool {
        self.labels.matches(object) && self.fields.matches(object)
    }
}

/// Options of writes.
#[derive(Debug, Clone)]
pub struct WriteOptions {
    /// Do all but store it.
    pub dry_run: bool,
    /// Who makes the change, if it says so.
    pub field_manager: Option<String>,
    /// The program that makes the change: the manager of who does not say.
    pub client: String,
    /// What to do about fields that are unknown or said twice.
    pub field_validation: FieldValidation,
    /// Whether an apply takes fields from others who own them.
    pub force: bool,
}

impl Default for WriteOptions {
    /// A write by this process.
    fn default() -> Self {
        Self {
            dry_run: false,
            field_manager: None,
            client: env!("CARGO_PKG_NAME").into(),
            field_validation: FieldValidation::default(),
            force: false,
        }
    }
}

impl WriteOptions {
    /// The manager of the fields that a write to `target` of `resource` changes.
    #[must_use]
    pub fn manager(&self, resource: &Resource, target: Target, operation: Operation) -> Manager {
        Manager {
            name: self.field_manager.as_ref().unwrap_or(&self.client).clone(),
            operation,
            api_version: resource.api_version(),
            subresource: match target {
                Target::Status => "status",
                Target::Approval => "approval",
                Target::EphemeralContainers => "ephemeralcontainers",
                Target::Main | Target::Whole => "",
            }
            .into(),
        }
    }
}

/// What to do about fields that a kind does not have, or that are said twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FieldValidation {
    /// Nothing.
    Ignore,
    /// Warn the client.
    #[default]
    Warn,
    /// Refuse the request.
    Strict,
}

/// Options of a delete: a body, or query parameters.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DeleteOptions {
    /// Seconds until it is forced; 0 at once.
    pub grace_period_seconds: Option<u64>,
    /// What the object must be.
    pub preconditions: Option<Preconditions>,
    /// `Orphan`, `Background` or `Foreground`.
    pub propagation_policy: Option<String>,
    /// The old way to say `Orphan` or `Background`.
    pub orphan_dependents: Option<bool>,
    /// `All`: do all but delete.
    pub dry_run: Vec<String>,
}

/// What an object must be for its deletion.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Preconditions {
    /// Its uid.
    pub uid: Option<String>,
    /// Its version.
    pub resource_version: Option<String>,
}

/// A query string, decoded.
#[derive(Debug, Clone, Default)]
pub struct Query(Vec<(String, String)>);

impl Query {
    /// Decodes a query string; every string is one.
    #[must_use]
    pub fn parse(query: &str) -> Self {
        Self(form_urlencoded::parse(query.as_bytes()).into_owned().collect())
    }

    /// The value of a parameter that is there and not empty.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        let found = self.0.iter().find(|(key, value)| key == name && !value.is_empty());
        found.map(|(_, value)| value.as_str())
    }

    /// The name that the field selector asks for, if it asks for one.
    #[must_use]
    pub fn selected_name(&self) -> Option<&str> {
        self.get("fieldSelector")?.split(',').find_map(|part| {
            let (path, name) = part.split_once('=')?;
            let name = name.strip_prefix('=').unwrap_or(name);
            (path == "metadata.name" && !name.is_empty()).then_some(name)
        })
    }

    fn flag(&self, name: &str) -> Result<Option<bool>> {
        // `?watch` alone means true.
        match self.0.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str()) {
            None => Ok(None),
            Some("" | "1" | "true" | "True" | "TRUE" | "t" | "T") => Ok(Some(true)),
            Some("0" | "false" | "False" | "FALSE" | "f" | "F") => Ok(Some(false)),
            Some(other) => Err(invalid(name, other)),
        }
    }

    fn number(&self, name: &str) -> Result<Option<u64>> {
        let parse = |value: &str| value.parse().map_err(|_| invalid(name, value));
        self.get(name).map(parse).transpose()
    }

    fn dry_run(&self) -> Result<bool> {
        let mut dry_run = false;
        for (_, value) in self.0.iter().filter(|(key, _)| key == "dryRun") {
            match value.as_str() {
                "" => {}
                "All" => dry_run = true,
                other => return Err(invalid("dryRun", other)),
            }
        }
        Ok(dry_run)
    }

    /// The options of a read.
    ///
    /// # Errors
    /// A bad request, if a parameter does not parse.
    pub fn read_options(&self) -> Result<ReadOptions> {
        let selector =
            |error: crate::selector::SelectorError| Status::bad_request(error.to_string());
        let options = ReadOptions {
            labels: LabelSelector::parse(self.get("labelSelector").unwrap_or(""))
                .map_err(selector)?,
            fields: FieldSelector::parse(self.get("fieldSelector").unwrap_or(""))
                .map_err(selector)?,
            limit: usize::try_from(self.number("limit")?.unwrap_or(0)).unwrap_or(usize::MAX),
            continue_token: self.get("continue").map(Into::into),
            resource_version: self.number("resourceVersion")?,
            resource_version_match: self.get("resourceVersionMatch").map(Into::into),
            watch: self.flag("watch")?.unwrap_or(false),
            bookmarks: self.flag("allowWatchBookmarks")?.unwrap_or(false),
            send_initial_events: self.flag("sendInitialEvents")?,
            timeout_seconds: self.number("timeoutSeconds")?,
            include_object: self.get("includeObject").map(Into::into),
        };
        Ok(options)
    }

    /// The options of a create, update or patch.
    ///
    /// # Errors
    /// A bad request, if a parameter does not parse.
    pub fn write_options(&self) -> Result<WriteOptions> {
        let field_validation = match self.get("fieldValidation") {
            None | Some("Warn") => FieldValidation::Warn,
            Some("Strict") => FieldValidation::Strict,
            Some("Ignore") => FieldValidation::Ignore,
            Some(other) => return Err(invalid("fieldValidation", other)),
        };
        let field_manager: Option<String> = self.get("fieldManager").map(Into::into);
        if field_manager.as_ref().is_some_and(|manager| manager.chars().count() > 128) {
            return Err(Status::bad_request("fieldManager may not be longer than 128 characters"));
        }
        if let Some(manager) =
            field_manager.as_ref().filter(|one| one.chars().any(char::is_control))
        {
            return Err(invalid("fieldManager", &manager.escape_debug().to_string()));
        }
        Ok(WriteOptions {
            dry_run: self.dry_run()?,
            field_manager,
            field_validation,
            force: self.flag("force")?.unwrap_or(false),
            ..WriteOptions::default()
        })
    }

    /// The options of a delete, whose body is `body` or null.
    ///
    /// # Errors
    /// A bad request, if they do not parse.
    pub fn delete_options(&self, body: Value) -> Result<DeleteOptions> {
        let mut options = if body.is_null() {
            DeleteOptions::default()
        } else {
            serde_json::from_value::<DeleteOptions>(body)
                .map_err(|error| Status::bad_request(format!("DeleteOptions: {error}")))?
        };
        if let Some(seconds) = self.number("gracePeriodSeconds")? {
            options.grace_period_seconds = Some(seconds);
        }
        if let Some(policy) = self.get("propagationPolicy") {
            options.propagation_policy = Some(policy.into());
        }
        if self.dry_run()? {
            options.dry_run.push("All".into());
        }
        if let Some(orphan) = self.flag("orphanDependents")? {
            options.orphan_dependents = Some(orphan);
        }
        if options.propagation_policy.is_some() && options.orphan_dependents.is_some() {
            return Err(Status::bad_request(
                "orphanDependents and deletionPropagation cannot be both set",
            ));
        }
        if let Some(orphan) = options.orphan_dependents {
            let policy = if orphan { "Orphan" } else { "Background" };
            options.propagation_policy = Some(policy.into());
        }
        if let Some(other) = options.dry_run.iter().find(|one| *one != "All") {
            return Err(invalid("dryRun", other));
        }
        match options.propagation_policy.as_deref() {
            None | Some("Orphan" | "Background" | "Foreground") => Ok(options),
            Some(other) => Err(invalid("propagationPolicy", other)),
        }
    }
}

fn invalid(name: &str, value: &str) -> Status {
    Status::bad_request(format!("invalid value \"{value}\" of {name}"))
}
