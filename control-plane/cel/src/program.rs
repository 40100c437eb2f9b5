//! Rules, compiled.

use std::sync::Arc;

use serde_json::Value as Json;

use crate::budget::Budget;
use crate::check::Checker;
use crate::eval::{EvalError, Machine};
use crate::node::Node;
use crate::parse;
use crate::types::Type;
use crate::value::Value;

/// Why a rule is none, as Kubernetes says it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct CompileError(String);

/// What a program must come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expected {
    /// A boolean: a rule.
    Bool,
    /// A text: a message.
    String,
}

/// A program over `self`, and `oldSelf` if it says that.
#[derive(Debug)]
pub struct Program {
    root: Node,
    self_type: Type,
    optional_old: bool,
    slots: usize,
    uses_old_self: bool,
}

impl Program {
    /// Compiles `text`, in which `self` and `oldSelf` are of `self_type`; `oldSelf` is optional if
    /// `optional_old`.
    ///
    /// # Errors
    /// What is wrong with it and where, in the words of Kubernetes.
    pub fn compile(
        text: &str,
        self_type: &Type,
        optional_old: bool,
        expected: Expected,
    ) -> Result<Self, CompileError> {
        let failed = |why: String| CompileError(format!("compilation failed: {why}"));
        let tree = parse::parse(text).map_err(failed)?;
        let old_type = match optional_old {
            true => Type::Optional(Arc::new(self_type.clone())),
            false => self_type.clone(),
        };
        let mut checker = Checker::new(self_type.clone(), old_type);
        let (root, ty) = checker
            .check(&tree)
            .map_err(|error| failed(parse::locate(text, error.id, &error.message)))?;
        let (wanted, why) = match expected {
            Expected::Bool => (Type::Bool, "cel expression must evaluate to a bool"),
            Expected::String => (Type::String, "messageExpression must evaluate to a string"),
        };
        if ty != wanted && ty != Type::Dyn {
            return Err(CompileError(why.into()));
        }
        Ok(Self {
            root,
            self_type: self_type.clone(),
            optional_old,
            slots: checker.slots(),
            uses_old_self: checker.uses_old_self(),
        })
    }

    /// Whether it says `oldSelf`: a rule about changes.
    #[must_use]
    pub fn uses_old_self(&self) -> bool {
        self.uses_old_self
    }

    /// Whether the rule holds of `object`, which was `old`.
    ///
    /// # Errors
    /// If it fails, or costs more than is left.
    pub fn holds(
        &self,
        object: &Json,
        old: Option<&Json>,
        budget: &Budget,
    ) -> Result<bool, EvalError> {
        match self.run(object, old, budget)? {
            Value::Bool(holds) => Ok(holds),
            other => Err(unexpected("bool", &other)),
        }
    }

    /// The text that the program makes of `object`, which was `old`.
    ///
    /// # Errors
    /// If it fails, or costs more than is left.
    pub fn text(
        &self,
        object: &Json,
        old: Option<&Json>,
        budget: &Budget,
    ) -> Result<String, EvalError> {
        match self.run(object, old, budget)? {
            Value::String(text) => Ok(text.to_string()),
            other => Err(unexpected("string", &other)),
        }
    }

    fn run<'a>(
        &'a self,
        object: &'a Json,
        old: Option<&'a Json>,
        budget: &Budget,
    ) -> Result<Value<'a>, EvalError> {
        budget.next_rule();
        let this = Value::read(object, &self.self_type)?;
        let old = old.map(|old| Value::read(old, &self.self_type)).transpose()?;
        let old = match (old, self.optional_old) {
            (Some(old), true) => Value::some(old),
            (None, true) => Value::Optional(None),
            (Some(old), false) => old,
            (None, false) => Value::Null,
        };
        Machine::new(this, old, self.slots, budget).run(&self.root)
    }
}

fn unexpected(wanted: &str, value: &Value<'_>) -> EvalError {
    EvalError::failed(format!("expected a {wanted}, got a {}", value.type_name()))
}
