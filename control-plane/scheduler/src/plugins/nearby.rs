//! What is near a node: in the places that it belongs to.

use std::collections::HashMap;

use crate::model::{Node, Term};
use crate::tally::Tally;

/// Amounts by place, for some labels.
#[derive(Debug, Default)]
pub(super) struct Nearby<'a> {
    /// Each label with a tally, and how much each of what it counts weighs.
    tallies: Vec<(&'a str, &'a Tally, i64)>,
    /// What is more or less by now, by label and value.
    changes: HashMap<(&'a str, &'a str), i64>,
}

impl<'a> Nearby<'a> {
    /// Adds what a tally counts by the term's label.
    pub(super) fn add(&mut self, term: &'a Term, tally: &'a Tally, weight: i64) {
        self.tallies.push((&term.topology_key, tally, weight));
    }

    /// Adds to the place of a node.
    pub(super) fn change(&mut self, node: &'a Node, key: &str, by: i64) {
        let Some(place) = node.label_entry(key) else { return };
        *self.changes.entry(place).or_default() += by;
    }

    /// The amount in the node's place by a label.
    pub(super) fn near(&self, node: &Node, key: &str) -> i64 {
        let Some(value) = node.label(key) else { return 0 };
        let tallies = self.tallies.iter().filter(|(own, ..)| *own == key);
        let counted = tallies.map(|(_, tally, weight)| weight * count(tally, value));
        counted.sum::<i64>() + self.changes.get(&(key, value)).copied().unwrap_or_default()
    }

    /// The amount in all of the node's places.
    pub(super) fn sum(&self, node: &Node) -> i64 {
        let counted = self
            .tallies
            .iter()
            .filter_map(|(key, tally, weight)| Some(weight * count(tally, node.label(key)?)));
        let changes =
            self.changes.iter().filter(|((key, value), _)| node.label(key) == Some(value));
        counted.sum::<i64>() + changes.map(|(_, by)| by).sum::<i64>()
    }

    /// Whether nothing is counted.
    pub(super) fn is_unasked(&self) -> bool {
        self.tallies.is_empty()
    }

    /// Whether there is nothing anywhere.
    pub(super) fn is_empty(&self) -> bool {
        if self.changes.is_empty() {
            return self.tallies.iter().all(|(_, tally, _)| tally.is_empty());
        }
        // No amount is below nothing, so their sum tells.
        let counted = self.tallies.iter().flat_map(|(_, tally, _)| tally.values());
        counted.sum::<i64>() + self.changes.values().sum::<i64>() == 0
    }
}

fn count(tally: &Tally, value: &str) -> i64 {
    tally.get(value).copied().unwrap_or_default()
}
