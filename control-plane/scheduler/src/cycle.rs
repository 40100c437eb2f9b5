//! One scheduling cycle: which node a pod goes to, or why there is none.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::cluster::Cluster;
use crate::model::Pod;
use crate::plugins::{self, Counts, Filters, Plugin, Rejection};

/// With fewer nodes than this, all are looked at.
const ALL_BELOW: usize = 100;
/// In a large cluster, at least one node in so many is looked at.
const LEAST_SHARE: usize = 20;

/// No node can run the pod.
#[derive(Debug, Default)]
pub(crate) struct Unfit {
    /// How many nodes there are.
    pub(crate) nodes: usize,
    /// By the node's index. Nodes that the pod does not even name are missing.
    pub(crate) rejections: HashMap<usize, Rejection>,
}

impl Unfit {
    /// The plugins that would have to change their mind.
    pub(crate) fn plugins(&self) -> BTreeSet<Plugin> {
        self.rejections.values().map(|rejection| rejection.plugin).collect()
    }

    /// In kube-scheduler's words.
    pub(crate) fn message(&self) -> String {
        if self.nodes == 0 {
            return "no nodes available to schedule pods".into();
        }
        let reasons = self.rejections.values().flat_map(|rejection| &rejection.reasons);
        not_available(self.nodes, reasons)
    }
}

/// That no node is available, and how many for which reason.
pub(crate) fn not_available(
    nodes: usize,
    reasons: impl IntoIterator<Item = impl AsRef<str>>,
) -> String {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for reason in reasons {
        *counts.entry(reason.as_ref().to_owned()).or_default() += 1;
    }
    let mut counted: Vec<_> =
        counts.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
    counted.sort();
    if counted.is_empty() {
        return format!("0/{nodes} nodes are available:");
    }
    format!("0/{nodes} nodes are available: {}.", counted.join(", "))
}

/// Among how many nodes that fit the best is looked for: half of them in a small cluster, one in
/// twenty in a large one, so that a decision costs about the same in both.
fn enough(nodes: usize) -> usize {
    if nodes < ALL_BELOW {
        return nodes;
    }
    let percent = 50_usize.saturating_sub(nodes / 125).max(100 / LEAST_SHARE);
    (nodes * percent / 100).max(ALL_BELOW)
}

/// The index of the node that suits the pod best. The search begins at the node at `next`, and
/// leaves there where the following one begins, so that all nodes get their turn.
pub(crate) fn choose(
    pod: &Pod,
    counts: &Counts,
    cluster: &Cluster,
    next: &mut usize,
) -> Result<usize, Unfit> {
    let mut filters = Filters::new(pod, counts, cluster);
    if let Some(index) = cluster.nomination(&pod.uid).and_then(|name| cluster.index_of(name))
        && let Some(node) = cluster.node(index)
        && filters.reject_beside_nominated(index, node).is_none()
    {
        return Ok(index);
    }
    let named: Option<Vec<usize>> = pod
        .nodes
        .names()
        .map(|names| names.into_iter().filter_map(|name| cluster.index_of(name)).collect());
    let all = cluster.len();
    let total = named.as_ref().map_or(all, Vec::len);
    let wanted = enough(total);
    let (mut feasible, mut rejections) = (Vec::new(), HashMap::new());
    let mut looked_at = 0;
    while looked_at < total && feasible.len() < wanted {
        let index = match &named {
            Some(named) => named[looked_at],
            None => cluster.index_at((*next + looked_at) % all),
        };
        looked_at += 1;
        let Some(node) = cluster.node(index) else { continue };
        match filters.reject_beside_nominated(index, node) {
            None => feasible.push(index),
            Some(rejection) => {
                rejections.insert(index, rejection);
            }
        }
    }
    if named.is_none() && all > 0 {
        *next = (*next + looked_at) % all;
    }
    if feasible.len() <= 1 {
        return feasible.pop().ok_or(Unfit { nodes: all, rejections });
    }
    let scores = plugins::score(pod, counts, cluster, &feasible);
    let best = scores.iter().copied().max().unwrap_or_default();
    let ties: Vec<usize> =
        feasible.into_iter().zip(scores).filter(|(_, score)| *score == best).map(|t| t.0).collect();
    Ok(ties[fastrand::usize(..ties.len())])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_larger_the_cluster_the_smaller_the_share() {
        let shares =
            [(3, 3), (99, 99), (100, 100), (500, 230), (1000, 420), (5000, 500), (10_000, 500)];
        for (nodes, expected) in shares {
            assert_eq!(enough(nodes), expected, "{nodes} nodes");
        }
    }
}
