//! Walks through typed objects: which fields they have, where two differ, what is one laid over the
//! other. The rules are those of structured merge: structs and maps field by field, lists by the
//! table's topology, everything else as a whole.
//! <https://github.com/kubernetes-sigs/structured-merge-diff>

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use serde_json::{Map, Value, json};

use super::set::FieldSet;
use crate::schema::{Shape, Struct, Topology};

/// An applied object cannot be merged.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum WalkError {
    /// An element of a list of objects does not have the fields that name it.
    #[error(
        "{path}: element {index}: associative list with keys has an element that omits key field \"{key}\""
    )]
    NoKey {
        /// The list.
        path: String,
        /// The element.
        index: usize,
        /// The key that is missing.
        key: String,
    },
    /// Two elements have one name.
    #[error("{path}: duplicate entries for key [{key}]")]
    Duplicate {
        /// The list.
        path: String,
        /// What is said twice.
        key: String,
    },
}

/// How a value is owned.
#[derive(Clone, Copy)]
enum Rule<'a> {
    /// As a whole.
    Atomic,
    /// Field by field; the struct says the fields' types.
    Struct(&'a Struct),
    /// Key by key, of values of one type; of none that is known without it.
    Map(Option<&'a Shape>),
    /// Element by element; elements are plain values.
    Set,
    /// Element by element; elements are objects named by these fields.
    Keyed(&'a [Box<str>], &'a Shape),
}

/// A value's type and topology; nothing is known of unknown fields' values.
#[derive(Clone, Copy)]
struct Kind<'a> {
    shape: Option<&'a Shape>,
    topology: &'a Topology,
}

const UNSAID: &Topology = &Topology::Unsaid;

impl<'a> Kind<'a> {
    fn of(shape: Option<&'a Shape>) -> Self {
        Self { shape, topology: UNSAID }
    }

    fn rule(self, value: &Value) -> Rule<'a> {
        match (self.topology, self.shape, value) {
            (Topology::Atomic, ..) => Rule::Atomic,
            (_, None, Value::Object(_)) => Rule::Map(None),
            (_, Some(Shape::Map(of)), Value::Object(_)) => Rule::Map(Some(of)),
            (_, Some(shape), Value::Object(_)) => match shape.as_struct() {
                Some(of) if !of.atomic => Rule::Struct(of),
                _ => Rule::Atomic,
            },
            (Topology::Set, _, Value::Array(_)) => Rule::Set,
            (Topology::Map(keys), Some(Shape::List(of)), Value::Array(_)) => Rule::Keyed(keys, of),
            _ => Rule::Atomic,
        }
    }
}

impl<'a> Rule<'a> {
    /// The type of a field or key.
    fn field(self, name: &str) -> Kind<'a> {
        match self {
            Self::Struct(of) => match of.field(name) {
                Some(field) => Kind { shape: Some(&field.shape), topology: &field.topology },
                None => Kind::of(None),
            },
            Self::Map(of) => Kind::of(of),
            _ => Kind::of(None),
        }
    }

    /// The step to an element; `None` if the element does not have its keys.
    fn step(self, element: &Value) -> Option<String> {
        match self {
            Self::Set => Some(format!("v:{element}")),
            Self::Keyed(keys, _) => {
                let mut named = Map::new();
                for key in keys {
                    named.insert(key.to_string(), key_value(element, key)?);
                }
                Some(format!("k:{}", Value::from(named)))
            }
            _ => None,
        }
    }

    fn element(self) -> Kind<'a> {
        match self {
            Self::Keyed(_, of) => Kind::of(Some(of)),
            _ => Kind::of(None),
        }
    }
}

/// An element's value of a key. The one key that has a default is `protocol`.
fn key_value(element: &Value, key: &str) -> Option<Value> {
    match element.get(key) {
        Some(Value::Null) | None => (key == "protocol").then(|| json!("TCP")),
        Some(value) => Some(value.clone()),
    }
}

/// The fields that `object` has.
///
/// # Errors
/// If lists do not name their elements, or two alike.
pub(super) fn fields(object: &Value, shape: Option<&Shape>) -> Result<FieldSet, WalkError> {
    let mut set = FieldSet::default();
    collect(object, Kind::of(shape), &mut set, "")?;
    set.tidy();
    Ok(set)
}

/// Adds the paths below `value` to `set`. False if there are none: it is one value.
fn collect(
    value: &Value,
    kind: Kind<'_>,
    set: &mut FieldSet,
    path: &str,
) -> Result<bool, WalkError> {
    let rule = kind.rule(value);
    match (rule, value) {
        (Rule::Struct(_) | Rule::Map(_), Value::Object(fields)) => {
            for (name, value) in fields {
                let step = format!("f:{name}");
                let below =
                    collect(value, rule.field(name), set.below(&step), &format!("{path}.{name}"))?;
                let is_key = matches!(rule, Rule::Map(_));
                if !below || is_key {
                    set.insert(&step);
                }
            }
            Ok(!fields.is_empty())
        }
        (Rule::Set | Rule::Keyed(..), Value::Array(list)) => {
            for (index, element) in list.iter().enumerate() {
                let step = named(rule, element, index, path)?;
                if set.contains(&step) {
                    let key = step.get(2..).unwrap_or_default().to_owned();
                    return Err(WalkError::Duplicate { path: path.into(), key });
                }
                collect(element, rule.element(), set.below(&step), &format!("{path}[{index}]"))?;
                set.insert(&step);
            }
            Ok(!list.is_empty())
        }
        _ => Ok(false),
    }
}

fn named(rule: Rule<'_>, element: &Value, index: usize, path: &str) -> Result<String, WalkError> {
    rule.step(element).ok_or_else(|| {
        let key = match rule {
            Rule::Keyed(keys, _) => keys.iter().find(|key| key_value(element, key).is_none()),
            _ => None,
        };
        let key = key.map(|key| key.to_string()).unwrap_or_default();
        WalkError::NoKey { path: path.into(), index, key }
    })
}

/// Where two objects differ.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Comparison {
    /// What the second has and the first has not, or has otherwise.
    pub(super) changed: FieldSet,
    /// What only the first has.
    pub(super) removed: FieldSet,
}

/// Compares `new` with `old`.
pub(super) fn compare(old: &Value, new: &Value, shape: Option<&Shape>) -> Comparison {
    let mut comparison = Comparison::default();
    let (changed, removed) = (&mut comparison.changed, &mut comparison.removed);
    differ(Some(old), Some(new), Kind::of(shape), changed, removed);
    changed.tidy();
    removed.tidy();
    comparison
}

/// Adds what differs below two values to the sets. False if they differ as a whole.
fn differ(
    old: Option<&Value>,
    new: Option<&Value>,
    kind: Kind<'_>,
    changed: &mut FieldSet,
    removed: &mut FieldSet,
) -> bool {
    let Some(either) = new.or(old) else { return true };
    if old == new {
        return true;
    }
    let rule = kind.rule(either);
    let alike = |other: Option<&Value>| {
        other.is_none_or(|other| {
            std::mem::discriminant(&kind.rule(other)) == std::mem::discriminant(&rule)
        })
    };
    if !alike(old) || !alike(new) {
        return false;
    }
    match rule {
        Rule::Atomic => false,
        Rule::Struct(_) | Rule::Map(_) => {
            let none = Map::new();
            let old = old.and_then(Value::as_object).unwrap_or(&none);
            let new = new.and_then(Value::as_object).unwrap_or(&none);
            if old.is_empty() && new.is_empty() {
                return false;
            }
            let gone = old.keys().filter(|name| !new.contains_key(*name));
            for name in new.keys().chain(gone) {
                let (kind, step) = (rule.field(name), format!("f:{name}"));
                let silent = is_value_in_go(rule, name);
                difference(old.get(name), new.get(name), kind, &step, silent, changed, removed);
            }
            true
        }
        Rule::Set | Rule::Keyed(..) => {
            let (Some(before), Some(after)) = (elements(rule, old), elements(rule, new)) else {
                return false;
            };
            if before.is_empty() && after.is_empty() {
                return false;
            }
            for (step, new) in &after {
                let old = before.get(step).copied();
                difference(old, Some(new), rule.element(), step, false, changed, removed);
            }
            for (step, old) in before.iter().filter(|(step, _)| !after.contains_key(*step)) {
                difference(Some(old), None, rule.element(), step, false, changed, removed);
            }
            true
        }
    }
}

/// A list's elements by their steps; `None` if one has none.
fn elements<'a>(rule: Rule<'_>, list: Option<&'a Value>) -> Option<BTreeMap<String, &'a Value>> {
    let list = list.and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    list.iter().map(|element| Some((rule.step(element)?, element))).collect()
}

/// Adds the difference of the values at one step. A `silent` value has no owner itself, only what
/// is below it.
fn difference(
    old: Option<&Value>,
    new: Option<&Value>,
    kind: Kind<'_>,
    step: &str,
    silent: bool,
    changed: &mut FieldSet,
    removed: &mut FieldSet,
) {
    if old == new {
        return;
    }
    let descended = differ(old, new, kind, changed.below(step), removed.below(step));
    if !descended || (old.is_none() && !silent) {
        match new {
            Some(_) => changed.insert(step),
            None => removed.insert(step),
        }
    }
    if new.is_none() && old.is_some() {
        removed.insert(step);
    }
}

/// Whether Kubernetes has the field in all objects, so that writing below it is not adding it.
fn is_value_in_go(rule: Rule<'_>, name: &str) -> bool {
    let Rule::Struct(of) = rule else { return false };
    of.field(name).is_some_and(|field| match field.shape {
        Shape::Builtin(_) => field.zero_is_absent,
        Shape::List(_) => field.required,
        _ => false,
    })
}

/// `applied` laid over `live`.
pub(super) fn merge(live: &Value, applied: &Value, shape: Option<&Shape>) -> Value {
    lay(Some(live), applied, Kind::of(shape))
}

fn lay(live: Option<&Value>, applied: &Value, kind: Kind<'_>) -> Value {
    let rule = kind.rule(applied);
    match (rule, applied) {
        (Rule::Struct(_) | Rule::Map(_), Value::Object(fields)) => {
            let mut merged = live.and_then(Value::as_object).cloned().unwrap_or_default();
            for (name, value) in fields {
                let laid = lay(merged.get(name), value, rule.field(name));
                merged.insert(name.clone(), laid);
            }
            merged.into()
        }
        (Rule::Set | Rule::Keyed(..), Value::Array(elements)) => {
            let live = live.and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
            let before: BTreeMap<_, _> = live.iter().map(|one| (rule.step(one), one)).collect();
            let mut laid: VecDeque<_> = elements
                .iter()
                .map(|element| {
                    let step = rule.step(element);
                    let value = lay(before.get(&step).copied(), element, rule.element());
                    (step, value)
                })
                .collect();
            let applied: BTreeSet<_> = laid.iter().map(|(step, _)| step.clone()).collect();
            // What both have takes the places that it had, in the order in which it was applied.
            let mut merged = Vec::with_capacity(live.len() + elements.len());
            for one in live {
                if !applied.contains(&rule.step(one)) {
                    merged.push(one.clone());
                    continue;
                }
                while let Some((step, value)) = laid.pop_front() {
                    let was_live = before.contains_key(&step);
                    merged.push(value);
                    if was_live {
                        break;
                    }
                }
            }
            merged.extend(laid.into_iter().map(|(_, value)| value));
            merged.into()
        }
        _ => applied.clone(),
    }
}

/// The fields that name an element. Whoever owns the rest of it, it must keep them.
fn names(rule: Rule<'_>, element: &Value) -> Map<String, Value> {
    let Rule::Keyed(keys, _) = rule else { return Map::new() };
    let keys = keys.iter().map(|key| &**key);
    keys.filter_map(|key| Some((key.to_owned(), element.get(key)?.clone()))).collect()
}

/// Removes the paths of `gone` from `value`, with maps and lists that thereby become empty, unless
/// they are in `kept`.
pub(super) fn remove(value: &mut Value, gone: &FieldSet, kept: &FieldSet, shape: Option<&Shape>) {
    strip(value, gone, Some(kept), Kind::of(shape));
}

fn strip(value: &mut Value, gone: &FieldSet, kept: Option<&FieldSet>, kind: Kind<'_>) {
    let rule = kind.rule(value);
    // True if the value at the step goes.
    let goes = |step: &str, value: &mut Value, kind: Kind<'_>| -> bool {
        if !gone.touches(step) {
            return false;
        }
        let is_kept = kept.is_some_and(|kept| kept.touches(step));
        if gone.contains(step) && !is_kept {
            return true;
        }
        if let Some(below) = gone.child(step) {
            strip(value, below, kept.and_then(|kept| kept.child(step)), kind);
        }
        let empty = match value {
            Value::Object(fields) => fields.is_empty(),
            Value::Array(list) => list.is_empty(),
            _ => false,
        };
        empty && !is_kept
    };
    match (rule, value) {
        (Rule::Struct(_) | Rule::Map(_), Value::Object(fields)) => {
            fields.retain(|name, value| !goes(&format!("f:{name}"), value, rule.field(name)));
        }
        (Rule::Set | Rule::Keyed(..), Value::Array(list)) => {
            list.retain_mut(|element| {
                let Some(step) = rule.step(element) else { return true };
                let names = names(rule, element);
                let stays = !goes(&step, element, rule.element());
                if let (true, Some(fields)) = (stays, element.as_object_mut()) {
                    fields.extend(names);
                }
                stays
            });
        }
        _ => {}
    }
}
