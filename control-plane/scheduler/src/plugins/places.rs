//! Amounts by place: nodes that have the same value of a label are one place.

use std::collections::HashMap;

use crate::cluster::Cluster;
use crate::model::{Node, Term};
use crate::tally::Tally;

/// Amounts by label and value.
#[derive(Debug, Default)]
pub(super) struct Places<'a>(HashMap<&'a str, HashMap<&'a str, i64>>);

impl<'a> Places<'a> {
    /// Adds what a tally counts, each so many times, to the places of the term's label.
    pub(super) fn add(&mut self, term: &Term, tally: &Tally, weight: i64, cluster: &'a Cluster) {
        for (&index, count) in tally {
            if let Some(node) = cluster.node(index) {
                self.change(node, &term.topology_key, weight * count);
            }
        }
    }

    /// Adds to the place of a node.
    pub(super) fn change(&mut self, node: &'a Node, key: &str, by: i64) {
        let Some((key, value)) = node.label_entry(key) else { return };
        *self.0.entry(key).or_default().entry(value).or_default() += by;
    }

    /// The amount of a node's place.
    pub(super) fn near(&self, node: &Node, key: &str) -> i64 {
        let amount = || self.0.get(key)?.get(node.label(key)?).copied();
        amount().unwrap_or_default()
    }

    /// Whether there is an amount in any of the places of a node.
    pub(super) fn is_any_near(&self, node: &Node) -> bool {
        self.0.keys().any(|key| self.near(node, key) > 0)
    }

    /// The sum of the amounts of all places of a node.
    pub(super) fn sum(&self, node: &Node) -> i64 {
        self.0.keys().map(|key| self.near(node, key)).sum()
    }

    /// Whether there is nothing anywhere.
    pub(super) fn is_empty(&self) -> bool {
        self.0.values().flat_map(HashMap::values).all(|amount| *amount == 0)
    }
}
