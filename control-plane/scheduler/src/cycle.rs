//! One scheduling cycle: which node a pod goes to, or why there is none.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::cluster::Cluster;
use crate::model::Pod;
use crate::plugins::{self, Counts, Filters, Plugin, Rejection};
use crate::walk::Walk;

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

/// What a look at nodes found.
#[derive(Debug, Default)]
struct Looked {
    feasible: Vec<usize>,
    rejections: HashMap<usize, Rejection>,
    /// How far it went, if it found enough before the end.
    stopped_at: Option<usize>,
}

/// Looks at nodes, each with how far away it is, until so many that fit are found.
fn look(
    filters: &mut Filters<'_>,
    cluster: &Cluster,
    nodes: impl Iterator<Item = (usize, usize)>,
    wanted: usize,
) -> Looked {
    let mut looked = Looked::default();
    for (distance, index) in nodes {
        let Some(node) = cluster.node(index) else { continue };
        match filters.reject_beside_nominated(index, node) {
            None => {
                looked.feasible.push(index);
                if looked.feasible.len() == wanted {
                    looked.stopped_at = Some(distance);
                    break;
                }
            }
            Some(rejection) => {
                looked.rejections.insert(index, rejection);
            }
        }
    }
    looked
}

/// The nodes that fit, looked for from the node at `next` on, as many as are enough, and why
/// others do not. Where it is known which places have room, nodes elsewhere are passed over: that
/// finds the same nodes. Only if there is none are all looked at, for what each of them lacks.
fn search(
    filters: &mut Filters<'_>,
    cluster: &Cluster,
    next: &mut usize,
) -> (Vec<usize>, HashMap<usize, Rejection>) {
    let (all, start) = (cluster.len(), *next);
    let at = |distance: usize| (distance, cluster.index_at((start + distance) % all));
    let mut looked = match filters.open() {
        Some(open) => look(filters, cluster, Walk::new(open, start, all).map(at), enough(all)),
        None => Looked::default(),
    };
    if looked.feasible.is_empty() {
        looked = look(filters, cluster, (0..all).map(at), enough(all));
    }
    if all > 0 {
        *next = (start + looked.stopped_at.map_or(all, |distance| distance + 1)) % all;
    }
    (looked.feasible, looked.rejections)
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
    let (mut feasible, rejections) = match named {
        Some(named) => {
            let wanted = enough(named.len());
            let looked = look(&mut filters, cluster, named.into_iter().enumerate(), wanted);
            (looked.feasible, looked.rejections)
        }
        None => search(&mut filters, cluster, next),
    };
    let all = cluster.len();
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
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::testing::{cluster, node, pod};

    /// A cluster of so many nodes in three zones, with pods that are spread over these.
    fn zones(nodes: &[u8], pods: &[(u8, u8)]) -> Cluster {
        let name = |index: usize| format!("n{index}");
        let zone = |zone: &u8| match zone {
            // Some nodes are in none.
            3 => json!({}),
            zone => json!({"zone": zone.to_string()}),
        };
        let all = nodes.iter().enumerate();
        let mut cluster = cluster(all.map(|(index, own)| node(&name(index), zone(own))), []);
        for (index, (at, app)) in pods.iter().enumerate() {
            let labels = json!({"app": app.to_string()});
            let pod = pod(&format!("p{index}"), labels, json!({}));
            cluster.assume(&pod, &name(usize::from(*at) % nodes.len()));
        }
        cluster
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn passing_over_full_places_finds_what_looking_at_all_finds(
            nodes in prop::collection::vec(0..4_u8, 1..150),
            pods in prop::collection::vec((any::<u8>(), 0..2_u8), 0..60),
            skew in 1..4,
            start in any::<u8>(),
        ) {
            let mut cluster = zones(&nodes, &pods);
            let constraint = |key: &str| json!({"maxSkew": skew, "topologyKey": key,
                "whenUnsatisfiable": "DoNotSchedule", "labelSelector": {"matchLabels": {"app": "0"}}});
            let spec = json!({"topologySpreadConstraints": [constraint("zone"), constraint("kubernetes.io/hostname")]});
            let pod = pod("p", json!({"app": "0"}), spec);
            let counts = Counts::of(&pod, &[], &mut cluster);
            let all = cluster.len();
            let start = usize::from(start) % all;
            let mut next = start;
            let found = search(&mut Filters::new(&pod, &counts, &cluster), &cluster, &mut next);
            let at = |distance| (distance, cluster.index_at((start + distance) % all));
            let filters = &mut Filters::new(&pod, &counts, &cluster);
            let plain = look(filters, &cluster, (0..all).map(at), enough(all));
            prop_assert_eq!(&found.0, &plain.feasible);
            let ends = (start + plain.stopped_at.map_or(all, |distance| distance + 1)) % all;
            prop_assert_eq!(next, ends);
            if found.0.is_empty() {
                prop_assert_eq!(found.1, plain.rejections);
            }
        }
    }

    #[test]
    fn the_larger_the_cluster_the_smaller_the_share() {
        let shares =
            [(3, 3), (99, 99), (100, 100), (500, 230), (1000, 420), (5000, 500), (10_000, 500)];
        for (nodes, expected) in shares {
            assert_eq!(enough(nodes), expected, "{nodes} nodes");
        }
    }
}
