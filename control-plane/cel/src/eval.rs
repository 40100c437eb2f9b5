//! Runs programs.

use std::sync::Arc;

use crate::budget::Budget;
use crate::compare;
use crate::node::{Access, Entry, Fold, Node, Step};
use crate::types::Type;
use crate::value::{List, Map, Result, Text, Value};

/// Why a program has no value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EvalError {
    /// It costs more than is left to spend.
    #[error("the cost limit is exceeded")]
    OverBudget,
    /// It fails.
    #[error("{0}")]
    Failed(String),
}

impl EvalError {
    pub(crate) fn failed(why: impl Into<String>) -> Self {
        Self::Failed(why.into())
    }
}

/// Runs one program.
pub(crate) struct Machine<'a, 'b> {
    /// The variables. An accumulator may be an error, which a later element may make up for.
    slots: Vec<Result<Value<'a>>>,
    budget: &'b Budget,
}

impl<'a, 'b> Machine<'a, 'b> {
    /// A machine whose first two variables are `this` and `old`.
    pub(crate) fn new(this: Value<'a>, old: Value<'a>, slots: usize, budget: &'b Budget) -> Self {
        let mut all = vec![Ok(this), Ok(old)];
        all.resize(slots.max(2), Ok(Value::Null));
        Self { slots: all, budget }
    }

    /// The value of `node`.
    pub(crate) fn run(&mut self, node: &'a Node) -> Result<Value<'a>> {
        self.budget.spend(1)?;
        match node {
            Node::Constant(value) => Ok(value.clone()),
            Node::Variable(slot) => self
                .slots
                .get(*slot)
                .cloned()
                .unwrap_or_else(|| Err(EvalError::failed("no variable"))),
            Node::Select { of, field, access } => {
                let of = self.run(of)?;
                select(&of, field, *access)
            }
            Node::Index { of, index, optional } => {
                let (of, index) = (self.run(of)?, self.run(index)?);
                self.index(&of, &index, *optional)
            }
            Node::Call { name, overloads, arguments } => {
                let arguments =
                    arguments.iter().map(|one| self.run(one)).collect::<Result<Vec<_>>>()?;
                let fits = |parameters: &[Type]| {
                    parameters.iter().zip(&arguments).all(|(ty, value)| value.is(ty))
                };
                match overloads.iter().find(|overload| fits(&overload.parameters)) {
                    Some(overload) => (overload.call)(&arguments, self.budget),
                    None => Err(EvalError::failed(format!("no such overload: {name}"))),
                }
            }
            Node::And(left, right) => self.logical(left, right, false),
            Node::Or(left, right) => self.logical(left, right, true),
            Node::Conditional(parts) => {
                let [condition, yes, no] = &**parts;
                match self.run(condition)? {
                    Value::Bool(true) => self.run(yes),
                    Value::Bool(false) => self.run(no),
                    _ => Err(EvalError::failed("no such overload: _?_:_")),
                }
            }
            Node::Equal { sides, negated } => {
                let [left, right] = &**sides;
                let (left, right) = (self.run(left)?, self.run(right)?);
                Ok(Value::Bool(compare::equal(&left, &right, self.budget)? != *negated))
            }
            Node::NotStrictlyFalse(of) => match self.run(of) {
                Err(EvalError::OverBudget) => Err(EvalError::OverBudget),
                other => Ok(Value::Bool(!matches!(other, Ok(Value::Bool(false))))),
            },
            Node::List(entries) => {
                let mut list = Vec::with_capacity(entries.len());
                self.append(entries, &mut list)?;
                Ok(Value::list(list))
            }
            Node::Map(entries) => {
                let mut map = Vec::with_capacity(entries.len());
                for (key, entry) in entries {
                    let key = self.run(key)?;
                    if let Some(value) = self.entry(entry)? {
                        self.insert(&mut map, key, value)?;
                    }
                }
                Ok(Value::Map(Map::Made(Arc::new(map))))
            }
            Node::Fold(fold) => self.fold(fold),
            Node::OptionalMap { of, variable, then, flat } => match self.run(of)? {
                Value::Optional(Some(value)) => {
                    self.set(*variable, Ok((*value).clone()));
                    let value = self.run(then)?;
                    Ok(if *flat { value } else { Value::some(value) })
                }
                none => Ok(none),
            },
        }
    }

    fn set(&mut self, slot: usize, value: Result<Value<'a>>) {
        if let Some(slot) = self.slots.get_mut(slot) {
            *slot = value;
        }
    }

    /// `&&` and `||`: an operand that decides makes up for an error of the other.
    fn logical(&mut self, left: &'a Node, right: &'a Node, decides: bool) -> Result<Value<'a>> {
        let mut failure = None;
        for side in [left, right] {
            match self.run(side) {
                Ok(Value::Bool(value)) if value == decides => return Ok(Value::Bool(decides)),
                Ok(Value::Bool(_)) => {}
                Ok(_) => failure = Some(EvalError::failed("no such overload: a logical operator")),
                Err(EvalError::OverBudget) => return Err(EvalError::OverBudget),
                Err(error) => failure = failure.or(Some(error)),
            }
        }
        failure.map_or(Ok(Value::Bool(!decides)), Err)
    }

    fn index(&self, of: &Value<'a>, index: &Value<'a>, optional: bool) -> Result<Value<'a>> {
        if let Value::Optional(inner) = of {
            return match inner {
                Some(inner) => self.index(inner, index, true),
                None => Ok(Value::Optional(None)),
            };
        }
        let found = match (of, index) {
            (Value::List(list), Value::Int(_) | Value::Uint(_) | Value::Double(_)) => {
                let at = match index {
                    Value::Int(at) => usize::try_from(*at).ok(),
                    Value::Uint(at) => usize::try_from(*at).ok(),
                    Value::Double(at) if at.fract() == 0.0 => {
                        crate::convert::float_to_int(*at).and_then(|at| usize::try_from(at).ok())
                    }
                    _ => None,
                };
                at.and_then(|at| list.get(at)).transpose()?
            }
            (Value::Map(map), key) => {
                self.budget.spend(match map {
                    Map::Json(..) => 1,
                    Map::Made(map) => map.len(),
                })?;
                map.get(key).transpose()?
            }
            (Value::Object(..), Value::String(field)) => {
                return select(of, field, if optional { Access::Optional } else { Access::Value });
            }
            _ => return Err(EvalError::failed("no such overload: _[_]")),
        };
        match (found, optional) {
            (Some(value), true) => Ok(Value::some(value)),
            (None, true) => Ok(Value::Optional(None)),
            (Some(value), false) => Ok(value),
            (None, false) if matches!(of, Value::List(_)) => Err(EvalError::failed(format!(
                "index out of bounds: {}",
                crate::functions::text_of(index).unwrap_or_default()
            ))),
            (None, false) => Err(EvalError::failed(format!(
                "no such key: {}",
                crate::functions::text_of(index).unwrap_or_default()
            ))),
        }
    }

    /// The value of an entry; `None` if it is optional and none.
    fn entry(&mut self, entry: &'a Entry) -> Result<Option<Value<'a>>> {
        let value = self.run(&entry.value)?;
        match (value, entry.optional) {
            (Value::Optional(inner), true) => Ok(inner.map(|inner| (*inner).clone())),
            (value, _) => Ok(Some(value)),
        }
    }

    fn append(&mut self, entries: &'a [Entry], list: &mut Vec<Value<'a>>) -> Result<()> {
        for entry in entries {
            list.extend(self.entry(entry)?);
        }
        Ok(())
    }

    fn insert(
        &self,
        map: &mut Vec<(Value<'a>, Value<'a>)>,
        key: Value<'a>,
        value: Value<'a>,
    ) -> Result<()> {
        self.budget.spend(map.len())?;
        if map.iter().any(|(one, _)| compare::scalars_equal(one, &key)) {
            return Err(EvalError::failed("insert failed: the key exists already"));
        }
        map.push((key, value));
        Ok(())
    }

    fn fold(&mut self, fold: &'a Fold) -> Result<Value<'a>> {
        let range = self.run(&fold.range)?;
        let initial = self.run(&fold.initial)?;
        self.set(fold.accumulator, Ok(initial));
        match &range {
            Value::List(list) => {
                for index in 0..list.len() {
                    let Some(value) = list.get(index) else { break };
                    let position = Value::Int(i64::try_from(index).unwrap_or(i64::MAX));
                    if !self.step(fold, position, value?, false)? {
                        break;
                    }
                }
            }
            Value::Map(map) => {
                self.budget.spend(map.len())?;
                for key in map.keys() {
                    let value = match (fold.second, map.get(&key)) {
                        (Some(_), Some(value)) => value?,
                        _ => Value::Null,
                    };
                    if !self.step(fold, key, value, true)? {
                        break;
                    }
                }
            }
            _ => return Err(EvalError::failed("no such overload: the range of a macro")),
        }
        self.run(&fold.result)
    }

    /// Does one element; whether to go on.
    fn step(
        &mut self,
        fold: &'a Fold,
        key: Value<'a>,
        value: Value<'a>,
        of_map: bool,
    ) -> Result<bool> {
        match self.run(&fold.condition)? {
            Value::Bool(true) => {}
            _ => return Ok(false),
        }
        match fold.second {
            Some(second) => {
                self.set(fold.first, Ok(key));
                self.set(second, Ok(value));
            }
            None => self.set(fold.first, Ok(if of_map { key } else { value })),
        }
        let guard = match &fold.step {
            Step::Become(_) => None,
            Step::Append { guard, .. } | Step::Insert { guard, .. } => guard.as_ref(),
        };
        if let Some(guard) = guard {
            match self.run(guard)? {
                Value::Bool(true) => {}
                Value::Bool(false) => return Ok(true),
                _ => return Err(EvalError::failed("no such overload: a macro's condition")),
            }
        }
        match &fold.step {
            Step::Become(step) => {
                let value = self.run(step);
                if matches!(value, Err(EvalError::OverBudget)) {
                    return Err(EvalError::OverBudget);
                }
                self.set(fold.accumulator, value);
            }
            Step::Append { elements, .. } => {
                let mut added = Vec::new();
                self.append(elements, &mut added)?;
                if let Some(Ok(Value::List(List::Made(list)))) =
                    self.slots.get_mut(fold.accumulator)
                {
                    Arc::make_mut(list).extend(added);
                }
            }
            Step::Insert { key, value, .. } => {
                let (key, value) = (self.run(key)?, self.run(value)?);
                let taken = self.slots.get_mut(fold.accumulator);
                let taken = taken.map(|slot| std::mem::replace(slot, Ok(Value::Null)));
                if let Some(Ok(Value::Map(Map::Made(mut map)))) = taken {
                    self.insert(Arc::make_mut(&mut map), key, value)?;
                    self.set(fold.accumulator, Ok(Value::Map(Map::Made(map))));
                }
            }
        }
        Ok(true)
    }
}

/// A field of an object or a key of a map.
fn select<'a>(of: &Value<'a>, field: &str, access: Access) -> Result<Value<'a>> {
    let found = match of {
        Value::Object(map, ty) => match ty.fields.get(field) {
            Some(known) => {
                map.get(&known.name).map(|value| Value::read(value, &known.ty)).transpose()?
            }
            None => None,
        },
        Value::Map(map) => map.get(&Value::String(Text::Owned(field.into()))).transpose()?,
        Value::Optional(Some(inner)) => {
            let access = if access == Access::Value { Access::Optional } else { access };
            return select(inner, field, access);
        }
        Value::Optional(None) if access == Access::Presence => None,
        Value::Optional(None) => return Ok(Value::Optional(None)),
        _ => return Err(EvalError::failed(format!("no such overload: the field {field}"))),
    };
    match (access, found) {
        (Access::Presence, found) => Ok(Value::Bool(found.is_some())),
        (Access::Optional, Some(value)) => Ok(Value::some(value)),
        (Access::Optional, None) => Ok(Value::Optional(None)),
        (Access::Value, Some(value)) => Ok(value),
        (Access::Value, None) => Err(EvalError::failed(format!("no such key: {field}"))),
    }
}
