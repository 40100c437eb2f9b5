//! What rules may cost.

use std::cell::Cell;

use crate::eval::EvalError;

/// What one rule may cost, as in Kubernetes.
const RULE: u64 = 1_000_000;
/// What all rules of one object may cost, as in Kubernetes.
const OBJECT: u64 = 10_000_000;

/// What is left to spend: a unit is a step of a program, or ten bytes that it reads or makes.
#[derive(Debug)]
pub struct Budget {
    rule: Cell<u64>,
    object: Cell<u64>,
}

impl Default for Budget {
    fn default() -> Self {
        Self { rule: Cell::new(RULE), object: Cell::new(OBJECT) }
    }
}

impl Budget {
    /// The budget of an object's rules.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether there is nothing left for any rule.
    #[must_use]
    pub fn is_spent(&self) -> bool {
        self.object.get() == 0
    }

    /// Gives the next rule its own budget.
    pub(crate) fn next_rule(&self) {
        self.rule.set(RULE);
    }

    /// Pays for so many steps.
    pub(crate) fn spend(&self, steps: usize) -> Result<(), EvalError> {
        let steps = u64::try_from(steps).unwrap_or(u64::MAX);
        for left in [&self.rule, &self.object] {
            match left.get().checked_sub(steps) {
                Some(rest) => left.set(rest),
                None => {
                    left.set(0);
                    return Err(EvalError::OverBudget);
                }
            }
        }
        Ok(())
    }

    /// Pays for reading or making so many bytes.
    pub(crate) fn bytes(&self, bytes: usize) -> Result<(), EvalError> {
        self.spend(bytes / 10 + 1)
    }
}
