//! kube-scheduler's default plugins. Each filter says whether a pod can run on a node, each score
//! how well; a plugin is one file.
//! <https://kubernetes.io/docs/reference/scheduling/config/#scheduling-plugins>

mod image_locality;
mod inter_pod_affinity;
mod inter_pod_score;
mod nearby;
mod node_affinity;
mod node_name;
mod node_ports;
mod node_resources;
mod node_unschedulable;
mod spread;
mod spread_score;
mod taint_toleration;

pub(crate) use node_resources::could_fit;

use std::borrow::Cow;
use std::sync::Arc;

use crate::cluster::{Cluster, Positions};
use crate::model::{Constraint, HOSTNAME, Node, Pod, Term};
use crate::tally::{Places, Spread, Tally};

/// The highest score of a node.
const MAX_SCORE: i64 = 100;

/// A plugin that can keep a pod from a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Plugin {
    NodeUnschedulable,
    NodeName,
    TaintToleration,
    NodeAffinity,
    NodePorts,
    NodeResourcesFit,
    PodTopologySpread,
    InterPodAffinity,
}

/// Why a pod cannot run on a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rejection {
    pub(crate) plugin: Plugin,
    /// In kube-scheduler's words.
    pub(crate) reasons: Vec<Cow<'static, str>>,
    /// Whether it could run there if other pods ended.
    pub(crate) resolvable: bool,
}

impl Rejection {
    fn new(plugin: Plugin, reason: impl Into<Cow<'static, str>>, resolvable: bool) -> Self {
        Self { plugin, reasons: vec![reason.into()], resolvable }
    }
}

/// The counts that decide about one pod.
#[derive(Debug)]
pub(crate) struct Counts {
    required_spread: Spread,
    required_places: Arc<Vec<Places>>,
    /// For each required constraint, where the nodes of its places are, unless places are nodes.
    required_positions: Vec<Option<Arc<Positions>>>,
    preferred_spread: Spread,
    preferred_places: Arc<Vec<Places>>,
    /// For each required affinity term, the pods in the sets of all of them, by the term's label.
    affinity: Vec<Arc<Tally>>,
    /// For each required anti-affinity term, the pods in its set.
    anti_affinity: Vec<Arc<Tally>>,
    /// The same for the preferred terms, those of the affinity first.
    preferred: Vec<Arc<Tally>>,
}

impl Counts {
    /// Counts for `pod`; `defaults` are the soft constraints of a pod that has no constraints.
    pub(crate) fn of(pod: &Pod, defaults: &[Constraint], cluster: &mut Cluster) -> Self {
        let own = !pod.spread.is_empty();
        let all = if own { &pod.spread } else { defaults };
        let spread = |required: bool| Spread {
            constraints: all.iter().filter(|one| one.required == required).cloned().collect(),
            // The defaults are less strict than what a pod asks for itself.
            strict: required || own,
            nodes: pod.nodes.clone(),
            tolerations: pod.tolerations.clone(),
        };
        let (required_spread, preferred_spread) = (spread(true), spread(false));
        let mut count = |term: &Term| cluster.members(vec![term.pods.clone()], &term.topology_key);
        let anti_affinity = pod.anti_affinity.required.iter().map(&mut count).collect();
        let preferred = pod.affinity.preferred.iter().chain(&pod.anti_affinity.preferred);
        let preferred = preferred.map(|one| count(&one.what)).collect();
        let required = &pod.affinity.required;
        let sets: Vec<_> = required.iter().map(|term| term.pods.clone()).collect();
        let affinity =
            required.iter().map(|term| cluster.members(sets.clone(), &term.topology_key)).collect();
        let keys = required_spread.constraints.iter().map(|one| one.topology_key.as_str());
        let positions = |key| (key != HOSTNAME).then(|| cluster.positions(key));
        let required_positions = keys.map(positions).collect();
        Self {
            required_positions,
            required_places: cluster.spread(&required_spread),
            required_spread,
            preferred_places: cluster.spread(&preferred_spread),
            preferred_spread,
            affinity,
            anti_affinity,
            preferred,
        }
    }
}

/// The filters, made ready for one pod.
#[derive(Debug)]
pub(crate) struct Filters<'a> {
    pod: &'a Pod,
    cluster: &'a Cluster,
    spread: spread::State<'a>,
    affinity: inter_pod_affinity::State<'a>,
}

impl<'a> Filters<'a> {
    pub(crate) fn new(pod: &'a Pod, counts: &'a Counts, cluster: &'a Cluster) -> Self {
        Self {
            pod,
            cluster,
            spread: spread::State::new(pod, counts, &cluster.namespaces),
            affinity: inter_pod_affinity::State::new(pod, counts, cluster),
        }
    }

    /// The positions of the only nodes that can be chosen, in several lists; `None` if that may be
    /// any.
    pub(crate) fn open(&self) -> Option<Vec<&'a [usize]>> {
        self.spread.open(self.cluster.len())
    }

    /// Why the pod cannot run on `node`, by the first plugin that says so; nothing if it can.
    pub(crate) fn reject(&self, node: &Node) -> Option<Rejection> {
        let pod = self.pod;
        node_unschedulable::reject(pod, node)
            .or_else(|| node_name::reject(pod, node))
            .or_else(|| taint_toleration::reject(pod, node))
            .or_else(|| node_affinity::reject(pod, node))
            .or_else(|| node_ports::reject(pod, node))
            .or_else(|| node_resources::reject(pod, node))
            .or_else(|| self.spread.reject(node))
            .or_else(|| self.affinity.reject(node))
    }

    /// As [`reject`](Self::reject), but the pods that wait for room on the node and go before this
    /// one have come already; it must also hold if they never come.
    pub(crate) fn reject_beside_nominated(
        &mut self,
        index: usize,
        node: &Node,
    ) -> Option<Rejection> {
        let waiting = self.cluster.nominated(&node.name).iter();
        let first: Vec<_> = waiting
            .filter(|one| one.priority >= self.pod.priority && one.uid != self.pod.uid)
            .cloned()
            .collect();
        if !first.is_empty() {
            let mut crowded = node.clone();
            first.iter().for_each(|one| crowded.add(one));
            first.iter().for_each(|one| self.count(one, index, 1));
            let rejection = self.reject(&crowded);
            first.iter().for_each(|one| self.count(one, index, -1));
            if rejection.is_some() {
                return rejection;
            }
        }
        self.reject(node)
    }

    /// Counts `other` on the node so many times more, or fewer.
    pub(crate) fn count(&mut self, other: &Pod, index: usize, by: i64) {
        if let Some(node) = self.cluster.node(index) {
            self.spread.count(other, node, by, &self.cluster.namespaces);
            self.affinity.count(other, node, by, &self.cluster.namespaces);
        }
    }
}

/// How well each of the nodes suits the pod: the sum of the plugins' scores by their weights.
pub(crate) fn score(pod: &Pod, counts: &Counts, cluster: &Cluster, feasible: &[usize]) -> Vec<i64> {
    let nodes: Vec<(usize, &Node)> =
        feasible.iter().filter_map(|&index| Some((index, cluster.node(index)?))).collect();
    let each = |score: &dyn Fn(&Node) -> i64| -> Vec<i64> {
        nodes.iter().map(|(_, node)| score(node)).collect()
    };
    let mut sums = vec![0; nodes.len()];
    let mut add = |weight: i64, scores: Vec<i64>| {
        for (sum, score) in sums.iter_mut().zip(scores) {
            *sum += weight * score;
        }
    };
    add(1, each(&|node| node_resources::least_allocated(pod, node)));
    add(1, each(&|node| node_resources::balanced_allocation(pod, node)));
    add(1, each(&|node| image_locality::score(pod, node, cluster)));
    add(3, normalized(each(&|node| taint_toleration::score(pod, node)), true));
    if !pod.preferred_nodes.is_empty() {
        add(2, normalized(each(&|node| node_affinity::score(pod, node)), false));
    }
    if !counts.preferred_spread.constraints.is_empty() {
        add(2, spread_score::scores(counts, &nodes));
    }
    if let Some(scores) = inter_pod_score::scores(pod, counts, cluster, &nodes) {
        add(2, scores);
    }
    sums
}

/// Scores as shares of the highest, or, reversed, of what is missing to it.
fn normalized(mut scores: Vec<i64>, reverse: bool) -> Vec<i64> {
    let highest = scores.iter().copied().max().unwrap_or_default();
    for score in &mut scores {
        let share = if highest == 0 { 0 } else { MAX_SCORE * *score / highest };
        *score = if reverse { MAX_SCORE - share } else { share };
    }
    scores
}
