//! Field management: who owns which field of an object, and what server-side apply makes of it.
//! <https://kubernetes.io/docs/reference/using-api/server-side-apply/>
//!
//! Every write says who makes it. A create, update or patch gives its manager the fields that it
//! changes and takes them from others; an apply gives its manager the fields that it names, refuses
//! to change what others own, and removes what it owned and no longer names.

mod set;
mod walk;

use std::cmp::Ordering;
use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

pub use set::FieldSet;
pub use walk::WalkError;

use crate::object;
use crate::schema::Shape;

/// More managers that update than so many become one, the oldest first.
const MAX_UPDATE_MANAGERS: usize = 10;
const ANCIENT: &str = "ancient-changes";
/// Who owns what was there before the first apply, if nobody was said to.
const BEFORE_FIRST_APPLY: &str = "before-first-apply";
/// Fields of `metadata` that belong to the server.
const SERVERS: &[&str] = &[
    "creationTimestamp",
    "deletionGracePeriodSeconds",
    "deletionTimestamp",
    "generation",
    "managedFields",
    "name",
    "namespace",
    "resourceVersion",
    "selfLink",
    "uid",
];

/// How a manager writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operation {
    /// By server-side apply.
    Apply,
    /// By anything else.
    Update,
}

/// Who owns fields. Two that apply under one name are the same, whatever version they write.
#[derive(Debug, Clone)]
pub struct Manager {
    /// Its name.
    pub name: String,
    /// How it writes.
    pub operation: Operation,
    /// The version of the objects that it writes.
    pub api_version: String,
    /// Through which subresource; empty for the object itself.
    pub subresource: String,
}

impl Manager {
    /// What tells it from others.
    fn identity(&self) -> (&str, Operation, Option<&str>, &str) {
        let is_update = self.operation == Operation::Update;
        let version = is_update.then_some(self.api_version.as_str());
        (&self.name, self.operation, version, &self.subresource)
    }
}

impl PartialEq for Manager {
    fn eq(&self, other: &Self) -> bool {
        self.identity() == other.identity()
    }
}

impl Eq for Manager {}

impl Ord for Manager {
    fn cmp(&self, other: &Self) -> Ordering {
        self.identity().cmp(&other.identity())
    }
}

impl PartialOrd for Manager {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// What a manager owns, since when.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Owned {
    fields: FieldSet,
    time: String,
}

/// An object's managers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Managers(BTreeMap<Manager, Owned>);

/// An apply would change what others own.
#[derive(Debug, PartialEq, Eq)]
pub struct Conflict {
    /// What clients are told of the owner: `"kubectl" using v1`.
    pub owner: String,
    /// The field's path.
    pub field: String,
}

/// An object cannot be applied.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// It is not of its type.
    #[error(transparent)]
    Walk(#[from] WalkError),
    /// Others own fields that it would change.
    #[error("the apply has conflicts")]
    Conflicts(Vec<Conflict>),
}

impl Managers {
    /// The managers in `metadata.managedFields`; `None` if that is malformed.
    fn parse(object: &Value) -> Option<Self> {
        let mut managers = BTreeMap::new();
        for entry in object::list(object, "metadata.managedFields") {
            let operation = match object::text(entry, "operation") {
                "Apply" => Operation::Apply,
                "Update" => Operation::Update,
                _ => return None,
            };
            let manager = Manager {
                name: object::text(entry, "manager").into(),
                operation,
                api_version: object::text(entry, "apiVersion").into(),
                subresource: object::text(entry, "subresource").into(),
            };
            let fields = FieldSet::from_value(entry.get("fieldsV1")?)?;
            let time = object::text(entry, "time").into();
            managers.insert(manager, Owned { fields, time });
        }
        Some(Self(managers))
    }

    /// Writes `metadata.managedFields`.
    fn write(&self, object: &mut Value) {
        let mut entries: Vec<_> = self.0.iter().collect();
        entries.sort_by_key(|(manager, owned)| (manager.operation, owned.time.clone()));
        let entries: Vec<Value> = entries.into_iter().map(entry).collect();
        let Some(metadata) = object::map(object, "metadata") else { return };
        if entries.is_empty() {
            metadata.remove("managedFields");
        } else {
            metadata.insert("managedFields".into(), entries.into());
        }
    }

    /// Takes fields from all managers but one.
    fn take(&mut self, fields: &FieldSet, but: Option<&Manager>) {
        self.0.retain(|manager, owned| {
            if Some(manager) != but {
                owned.fields = owned.fields.difference(fields);
            }
            !owned.fields.is_empty()
        });
    }

    /// Gives fields to `manager` in place of those that it has.
    fn give(&mut self, manager: &Manager, fields: FieldSet) {
        if let Some((known, owned)) = self.0.get_key_value(manager)
            && owned.fields == fields
            && known.api_version == manager.api_version
        {
            return;
        }
        // Its entry says the version that it wrote last.
        self.0.remove(manager);
        if !fields.is_empty() {
            self.0.insert(manager.clone(), Owned { fields, time: object::now() });
        }
    }

    /// Makes one manager of the oldest, if there are too many.
    fn cap(&mut self) {
        let is_update = |manager: &&Manager| manager.operation == Operation::Update;
        let excess = self.0.keys().filter(is_update).count().saturating_sub(MAX_UPDATE_MANAGERS);
        if excess == 0 {
            return;
        }
        let mut updates: Vec<_> = self
            .0
            .iter()
            .filter(|(manager, _)| manager.operation == Operation::Update)
            .map(|(manager, owned)| (owned.time.clone(), manager.clone()))
            .collect();
        updates.sort();
        for (time, manager) in updates.into_iter().take(excess + 1) {
            let Some(owned) = self.0.remove(&manager) else { continue };
            let ancient = Manager { name: ANCIENT.into(), ..manager };
            let entry =
                self.0.entry(ancient).or_insert(Owned { fields: FieldSet::default(), time });
            entry.fields = std::mem::take(&mut entry.fields).union(&owned.fields);
        }
    }
}

fn entry((manager, owned): (&Manager, &Owned)) -> Value {
    let mut entry = json!({
        "manager": manager.name,
        "operation": match manager.operation {
            Operation::Apply => "Apply",
            Operation::Update => "Update",
        },
        "apiVersion": manager.api_version,
        "time": owned.time,
        "fieldsType": "FieldsV1",
        "fieldsV1": owned.fields.to_value(),
    });
    if !manager.subresource.is_empty() {
        entry["subresource"] = manager.subresource.as_str().into();
    }
    entry
}

/// The fields of an object that somebody may own: those of a subresource, if there is one. What a
/// write through it says beyond them is passed over, and is nobody's.
fn without_servers(mut fields: FieldSet, subresource: &str, has_status: bool) -> FieldSet {
    fields.remove("f:apiVersion");
    fields.remove("f:kind");
    match subresource {
        "" if has_status => fields.remove("f:status"),
        "" => {}
        "status" | "approval" => {
            fields.retain(|step| matches!(step, "f:metadata" | "f:status"));
        }
        _ => fields.remove("f:status"),
    }
    if fields.touches("f:metadata") {
        let mut metadata = fields.child("f:metadata").cloned().unwrap_or_default();
        SERVERS.iter().for_each(|name| metadata.remove(&format!("f:{name}")));
        fields.remove("f:metadata");
        *fields.below("f:metadata") = metadata;
        fields.tidy();
    }
    fields
}

/// Which fields of a kind are whose.
#[derive(Debug, Clone, Copy)]
pub struct Scope<'a> {
    /// The kind's type.
    pub shape: Option<&'a Shape>,
    /// Whether its status has a subresource of its own.
    pub has_status: bool,
}

impl Scope<'_> {
    /// Notes that `manager` made `new` of `old`; `old` is null if the object is created. What
    /// `new` itself says of managers counts if it is well-formed; saying one empty entry forgets
    /// them.
    pub fn update(self, old: &Value, new: &mut Value, manager: &Manager) {
        let said = object::list(new, "metadata.managedFields");
        let forget = matches!(said, [Value::Object(entry)] if entry.is_empty());
        let mut managers = match Managers::parse(new).filter(|_| !said.is_empty() && !old.is_null())
        {
            Some(said) => said,
            None if forget => Managers::default(),
            None => Managers::parse(old).unwrap_or_default(),
        };
        // An object whose managers were forgotten has none until somebody applies.
        let tracked = old.is_null() || !managers.0.is_empty();
        if tracked {
            let nothing = Value::Object(Map::new());
            let before = if old.is_null() { &nothing } else { old };
            let walk::Comparison { changed, removed } = walk::compare(before, new, self.shape);
            let changed = without_servers(changed, &manager.subresource, self.has_status);
            managers.take(&removed, None);
            managers.take(&changed, Some(manager));
            let own = managers.0.get(manager).map(|owned| owned.fields.clone()).unwrap_or_default();
            managers.give(manager, own.union(&changed));
            managers.cap();
        }
        managers.write(new);
    }

    /// What `manager`'s apply of `applied` makes of `live`, with its managers. `live` is null if the
    /// object is not there.
    ///
    /// # Errors
    /// If others own fields that it would change, unless it is to `force`; if `applied` is
    /// malformed.
    pub fn apply(
        self,
        live: &Value,
        applied: &Value,
        manager: &Manager,
        force: bool,
    ) -> Result<Value, ApplyError> {
        let mut managers = Managers::parse(live).unwrap_or_default();
        let fields = |object: &Value, subresource: &str| {
            walk::fields(object, self.shape)
                .map(|fields| without_servers(fields, subresource, self.has_status))
        };
        if managers.0.is_empty() && !live.is_null() {
            let before = Manager {
                name: BEFORE_FIRST_APPLY.into(),
                operation: Operation::Update,
                subresource: String::new(),
                api_version: manager.api_version.clone(),
            };
            managers.give(&before, fields(live, "").unwrap_or_default());
        }
        let mut applied = applied.clone();
        drop_nulls(&mut applied);
        let named = fields(&applied, &manager.subresource)?;
        let nothing = Value::Object(Map::new());
        let live = if live.is_null() { &nothing } else { live };
        let mut merged = walk::merge(live, &applied, self.shape);

        let last = managers.0.get(manager).map(|owned| owned.fields.clone()).unwrap_or_default();
        let mut kept = named.clone();
        for (other, owned) in &managers.0 {
            if other != manager {
                kept = kept.union(&owned.fields);
            }
        }
        walk::remove(&mut merged, &last.difference(&named), &kept, self.shape);

        let walk::Comparison { changed, removed } = walk::compare(live, &merged, self.shape);
        let own = |fields| without_servers(fields, &manager.subresource, self.has_status);
        let (changed, removed) = (own(changed), own(removed));
        let mut conflicts = Vec::new();
        for (other, owned) in managers.0.iter().filter(|(other, _)| *other != manager) {
            let owner = describe(other, owned);
            let fields = owned.fields.intersection(&changed).paths();
            conflicts
                .extend(fields.into_iter().map(|field| Conflict { owner: owner.clone(), field }));
        }
        if !conflicts.is_empty() && !force {
            return Err(ApplyError::Conflicts(conflicts));
        }
        managers.take(&changed, Some(manager));
        managers.take(&removed, Some(manager));
        managers.give(manager, named);
        managers.write(&mut merged);
        Ok(merged)
    }
}

/// Null says that a field is not there, and nobody owns that.
fn drop_nulls(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|_, value| !value.is_null());
            fields.values_mut().for_each(drop_nulls);
        }
        Value::Array(list) => list.iter_mut().for_each(drop_nulls),
        _ => {}
    }
}

fn describe(manager: &Manager, owned: &Owned) -> String {
    let mut text = json!(manager.name).to_string();
    if !manager.subresource.is_empty() {
        text += &format!(" with subresource {}", json!(manager.subresource));
    }
    if manager.operation == Operation::Update {
        text += &format!(" using {}", manager.api_version);
        if !owned.time.is_empty() {
            text += &format!(" at {}", owned.time);
        }
    }
    text
}

#[cfg(test)]
mod tests;
