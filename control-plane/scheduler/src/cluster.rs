//! The nodes and the pods on them, kept up to date by what informers tell and by what the
//! scheduler assumes: a pod counts on its node as soon as it was chosen, before it is bound.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use serde_json::Value;

use crate::model::{Namespaces, Node, Pod, PodSet};
use crate::tally::{Places, Spread, Tallies, Tally};

/// A pod that takes room.
#[derive(Debug, Clone)]
struct Placed {
    pod: Arc<Pod>,
    node: String,
    /// Chosen, but not known to be bound.
    assumed: bool,
}

/// Of nodes with the same value of a label, the positions in the order in which nodes came.
pub(crate) type Positions = HashMap<String, Vec<usize>>;

/// So many labels' positions are kept.
const MAX_LABELS: usize = 64;

/// What the scheduler decides by.
#[derive(Debug, Default)]
pub(crate) struct Cluster {
    /// By index; a node keeps its index for life.
    nodes: Vec<Option<Node>>,
    indices: BTreeMap<String, usize>,
    /// The indices of all nodes, in the order in which they came.
    order: Vec<usize>,
    /// By label, as far as asked for; found anew when nodes or their labels are others.
    positions: HashMap<String, Arc<Positions>>,
    placed: HashMap<String, Placed>,
    pub(crate) tallies: Tallies,
    pub(crate) namespaces: Namespaces,
    /// On how many nodes each image lies.
    images: HashMap<String, usize>,
    /// Pods that wait for others to end on their node, by that node's name.
    nominated: HashMap<String, Vec<Arc<Pod>>>,
}

impl Cluster {
    /// How many nodes there are.
    pub(crate) fn len(&self) -> usize {
        self.order.len()
    }

    /// The index of the node that came `position`th.
    pub(crate) fn index_at(&self, position: usize) -> usize {
        self.order[position]
    }

    /// The index of the node of this name.
    pub(crate) fn index_of(&self, name: &str) -> Option<usize> {
        self.indices.get(name).copied()
    }

    /// The node with this index.
    pub(crate) fn node(&self, index: usize) -> Option<&Node> {
        self.nodes.get(index)?.as_ref()
    }

    /// Every node with its index, in the order in which they came.
    pub(crate) fn nodes(&self) -> impl Iterator<Item = (usize, &Node)> {
        self.order.iter().filter_map(|&index| Some((index, self.node(index)?)))
    }

    /// Every node's name.
    pub(crate) fn names(&self) -> Vec<String> {
        self.indices.keys().cloned().collect()
    }

    /// On how many nodes the image of this name lies.
    pub(crate) fn nodes_with_image(&self, name: &str) -> usize {
        self.images.get(name).copied().unwrap_or_default()
    }

    /// Where nodes are in the order, by the value of their label `key`.
    pub(crate) fn positions(&mut self, key: &str) -> Arc<Positions> {
        if let Some(known) = self.positions.get(key) {
            return Arc::clone(known);
        }
        let mut found = Positions::new();
        for (position, &index) in self.order.iter().enumerate() {
            if let Some(value) = self.node(index).and_then(|node| node.label(key)) {
                match found.get_mut(value) {
                    Some(positions) => positions.push(position),
                    None => {
                        found.insert(value.to_owned(), vec![position]);
                    }
                }
            }
        }
        if self.positions.len() >= MAX_LABELS {
            self.positions.clear();
        }
        let found = Arc::new(found);
        self.positions.insert(key.to_owned(), Arc::clone(&found));
        found
    }

    /// How many pods in all of the sets there are, by the label `key` of their nodes.
    pub(crate) fn members(&mut self, sets: Vec<PodSet>, key: &str) -> Arc<Tally> {
        self.tallies.members(sets, key, self.nodes.iter().flatten(), &self.namespaces)
    }

    /// The places of each constraint, with the pods that it is about.
    pub(crate) fn spread(&mut self, spread: &Spread) -> Arc<Vec<Places>> {
        self.tallies.spread(spread, self.nodes.iter().flatten(), &self.namespaces)
    }

    /// Takes note of a node. What it was before, if it was there.
    pub(crate) fn node_present(&mut self, object: &Arc<Value>) -> Option<Node> {
        let mut node = Node::read(object);
        let before = self.indices.get(&node.name).copied();
        let before = before.and_then(|index| Some((index, self.nodes[index].take()?)));
        for (name, _) in &node.images {
            *self.images.entry(name.clone()).or_default() += 1;
        }
        let Some((index, before)) = before else {
            self.add_node(node);
            return None;
        };
        self.forget_images(&before);
        if before.object["metadata"]["labels"] != node.object["metadata"]["labels"] {
            for pod in &before.pods {
                self.tallies.remove(pod, &before, &self.namespaces);
                self.tallies.add(pod, &node, &self.namespaces);
            }
            self.tallies.nodes_changed();
            self.positions.clear();
        } else if before.taints != node.taints {
            self.tallies.nodes_changed();
        }
        node.pods.clone_from(&before.pods);
        node.requested = before.requested.clone();
        node.requested_for_scores = before.requested_for_scores.clone();
        node.ports.clone_from(&before.ports);
        self.nodes[index] = Some(node);
        Some(before)
    }

    fn add_node(&mut self, mut node: Node) {
        let index = self.nodes.iter().position(Option::is_none).unwrap_or(self.nodes.len());
        for placed in self.placed.values() {
            if placed.node == node.name {
                node.add(&placed.pod);
                self.tallies.add(&placed.pod, &node, &self.namespaces);
            }
        }
        self.tallies.nodes_changed();
        self.positions.clear();
        self.indices.insert(node.name.clone(), index);
        self.order.push(index);
        if index == self.nodes.len() {
            self.nodes.push(Some(node));
        } else {
            self.nodes[index] = Some(node);
        }
    }

    /// Takes note that a node is gone. Its pods are remembered until they are gone too.
    pub(crate) fn node_gone(&mut self, name: &str) -> Option<Node> {
        let index = self.indices.remove(name)?;
        self.order.retain(|&one| one != index);
        let node = self.nodes[index].take()?;
        for pod in &node.pods {
            self.tallies.remove(pod, &node, &self.namespaces);
        }
        self.forget_images(&node);
        self.tallies.nodes_changed();
        self.positions.clear();
        Some(node)
    }

    fn forget_images(&mut self, node: &Node) {
        for (name, _) in &node.images {
            if let Some(count) = self.images.get_mut(name) {
                *count -= 1;
                if *count == 0 {
                    self.images.remove(name);
                }
            }
        }
    }

    /// The pod of this key that takes room, if one does, and whether that is assumed only.
    pub(crate) fn placed(&self, key: &str) -> Option<(&Arc<Pod>, bool)> {
        self.placed.get(key).map(|placed| (&placed.pod, placed.assumed))
    }

    /// The keys of all pods that take room.
    pub(crate) fn placed_keys(&self) -> impl Iterator<Item = &String> {
        self.placed.keys()
    }

    /// Counts a pod on the node that was chosen for it.
    pub(crate) fn assume(&mut self, pod: &Arc<Pod>, node: &str) {
        self.place(pod, node, true);
    }

    /// Counts a pod on the node that it is bound to. Whether that was not known.
    pub(crate) fn bound(&mut self, pod: &Arc<Pod>, node: &str) -> bool {
        let unchanged = self.placed.get_mut(&pod.key()).is_some_and(|placed| {
            placed.node == node
                && placed.pod.uid == pod.uid
                && !placed.assumed
                && pod.schedules_as(&placed.pod)
                && pod.started() == placed.pod.started()
        });
        if !unchanged {
            self.place(pod, node, false);
        }
        !unchanged
    }

    fn place(&mut self, pod: &Arc<Pod>, node: &str, assumed: bool) {
        let key = pod.key();
        self.forget(&key);
        if let Some(index) = self.index_of(node)
            && let Some(there) = &mut self.nodes[index]
        {
            there.add(pod);
            self.tallies.add(pod, there, &self.namespaces);
        }
        self.placed.insert(key, Placed { pod: Arc::clone(pod), node: node.into(), assumed });
    }

    /// Frees what a pod takes, if it takes any.
    pub(crate) fn forget(&mut self, key: &str) -> Option<Arc<Pod>> {
        let Placed { pod, node, .. } = self.placed.remove(key)?;
        if let Some(index) = self.index_of(&node)
            && let Some(node) = &mut self.nodes[index]
        {
            node.remove(&pod);
            self.tallies.remove(&pod, node, &self.namespaces);
        }
        Some(pod)
    }

    /// The pods that wait for room on a node.
    pub(crate) fn nominated(&self, node: &str) -> &[Arc<Pod>] {
        self.nominated.get(node).map_or(&[], Vec::as_slice)
    }

    /// Keeps the room on a node that is being cleared for a pod.
    pub(crate) fn nominate(&mut self, pod: &Arc<Pod>, node: &str) {
        self.withdraw(&pod.uid);
        self.nominated.entry(node.into()).or_default().push(Arc::clone(pod));
    }

    /// The node that is being cleared for the pod with this uid.
    pub(crate) fn nomination(&self, uid: &str) -> Option<&str> {
        let mut all = self.nominated.iter();
        let found = all.find(|(_, pods)| pods.iter().any(|pod| pod.uid == uid));
        found.map(|(node, _)| node.as_str())
    }

    /// Keeps no room any more for the pod with this uid.
    pub(crate) fn withdraw(&mut self, uid: &str) {
        self.nominated.retain(|_, pods| {
            pods.retain(|pod| pod.uid != uid);
            !pods.is_empty()
        });
    }

    /// Takes note of a namespace; whether its labels changed.
    pub(crate) fn namespace_present(&mut self, namespace: &Arc<Value>) -> bool {
        let changed = self.namespaces.insert(Arc::clone(namespace));
        if changed {
            self.tallies.namespaces_changed();
        }
        changed
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::cycle;
    use crate::plugins::{Counts, Filters};
    use crate::testing::{cluster, node, pod};

    /// What happens to a cluster.
    #[derive(Debug, Clone)]
    enum Step {
        Node(u8, u8),
        NodeGone(u8),
        Pod(u8, u8, u8),
        PodGone(u8),
        Schedule(u8, u8),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            2 => (0..5u8, 0..3u8).prop_map(|(node, zone)| Step::Node(node, zone)),
            1 => (0..5u8).prop_map(Step::NodeGone),
            3 => (0..12u8, 0..6u8, 0..5u8).prop_map(|(pod, kind, node)| Step::Pod(pod, kind, node)),
            2 => (0..12u8).prop_map(Step::PodGone),
            4 => (0..12u8, 0..6u8).prop_map(|(pod, kind)| Step::Schedule(pod, kind)),
        ]
    }

    fn some_node(number: u8, zone: u8) -> Value {
        node(&format!("n{number}"), json!({"zone": zone.to_string()}))
    }

    /// Pods that want each other, shun each other, are spread, take ports, or ask for much.
    fn some_pod(number: u8, kind: u8) -> Arc<Pod> {
        let selector = json!({"matchLabels": {"kind": kind.to_string()}});
        let term = json!({"labelSelector": selector, "topologyKey": "zone"});
        let required = json!({"requiredDuringSchedulingIgnoredDuringExecution": [term]});
        let spec = match kind {
            0 => json!({"affinity": {"podAffinity": required}}),
            1 => json!({"affinity": {"podAntiAffinity": required}}),
            2 => json!({"topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "zone",
                "whenUnsatisfiable": "DoNotSchedule", "labelSelector": selector}]}),
            3 => json!({"containers": [{"ports": [{"hostPort": 80}]}]}),
            4 => json!({"containers": [{"resources": {"requests": {"cpu": "2500m"}}}]}),
            _ => json!({"nodeSelector": {"zone": "1"}}),
        };
        pod(&format!("p{number}"), json!({"kind": kind.to_string()}), spec)
    }

    /// The same cluster, made of what there is now.
    fn rebuilt(from: &Cluster) -> Cluster {
        let nodes: Vec<Value> = from.nodes().map(|(_, node)| (*node.object).clone()).collect();
        let mut anew = cluster(nodes, []);
        for placed in from.placed.values() {
            anew.bound(&placed.pod, &placed.node);
        }
        anew
    }

    fn assert_same(one: &mut Cluster, other: &mut Cluster) {
        let describe = |cluster: &Cluster| {
            let describe = |node: &Node| {
                let mut pods: Vec<String> = node.pods.iter().map(|pod| pod.uid.clone()).collect();
                pods.sort();
                let requested = (node.requested.clone(), node.requested_for_scores.clone());
                (node.name.clone(), (pods, requested, node.ports.len()))
            };
            cluster.nodes().map(|(_, node)| describe(node)).collect::<BTreeMap<_, _>>()
        };
        assert_eq!(describe(one), describe(other));
        // What was counted as it changed is what is counted now.
        let terms = |cluster: &Cluster| {
            let mut terms: Vec<String> = cluster
                .tallies
                .terms()
                .map(|(meaning, term, tally)| {
                    let tally: BTreeMap<_, _> = tally.iter().collect();
                    format!("{meaning:?} {term:?} {tally:?}")
                })
                .collect();
            terms.sort();
            terms
        };
        assert_eq!(terms(one), terms(other));
        for kind in 0..6 {
            let asking = some_pod(99, kind);
            let affinities = [&asking.affinity, &asking.anti_affinity];
            for term in affinities.iter().flat_map(|affinity| &affinity.required) {
                let sets = vec![term.pods.clone()];
                let kept = one.members(sets.clone(), &term.topology_key);
                assert_eq!(kept, other.members(sets, &term.topology_key));
            }
            let spread = Spread {
                constraints: asking.spread.clone(),
                strict: true,
                nodes: asking.nodes.clone(),
                tolerations: asking.tolerations.clone(),
            };
            assert_eq!(one.spread(&spread), other.spread(&spread));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn what_is_kept_up_to_date_is_what_would_be_built_anew(
            steps in prop::collection::vec(step(), 1..60),
        ) {
            let mut cluster = Cluster::default();
            let mut next = 0;
            for step in steps {
                match step {
                    Step::Node(number, zone) => {
                        cluster.node_present(&Arc::new(some_node(number, zone)));
                    }
                    Step::NodeGone(number) => {
                        cluster.node_gone(&format!("n{number}"));
                    }
                    Step::Pod(number, kind, node) => {
                        cluster.bound(&some_pod(number, kind), &format!("n{node}"));
                    }
                    Step::PodGone(number) => {
                        cluster.forget(&format!("default/p{number}"));
                    }
                    Step::Schedule(number, kind) => {
                        let pod = some_pod(number, kind);
                        cluster.forget(&pod.key());
                        let counts = Counts::of(&pod, &[], &mut cluster);
                        let chosen = cycle::choose(&pod, &counts, &cluster, &mut next);
                        let mut anew = rebuilt(&cluster);
                        let counts = Counts::of(&pod, &[], &mut anew);
                        let filters = Filters::new(&pod, &counts, &anew);
                        match chosen {
                            // A node that is chosen passes every filter, looked at from scratch ...
                            Ok(index) => {
                                let name = cluster.node(index).unwrap().name.clone();
                                let node = anew.node(anew.index_of(&name).unwrap()).unwrap();
                                prop_assert_eq!(filters.reject(node), None);
                                cluster.assume(&pod, &name);
                            }
                            // ... and if none is, none does.
                            Err(_) => {
                                for (_, node) in anew.nodes() {
                                    prop_assert!(filters.reject(node).is_some());
                                }
                            }
                        }
                    }
                }
            }
            let mut anew = rebuilt(&cluster);
            assert_same(&mut cluster, &mut anew);
        }
    }

    #[test]
    fn pods_wait_for_their_node_and_outlive_it() {
        let mut cluster = cluster([], [(some_pod(1, 4), "n1")]);
        let requested = |cluster: &Cluster| -> Vec<i64> {
            cluster.nodes().map(|(_, node)| node.requested.cpu).collect()
        };
        cluster.node_present(&Arc::new(some_node(1, 0)));
        assert_eq!(requested(&cluster), [2500]);
        cluster.node_gone("n1");
        assert!(requested(&cluster).is_empty());
        cluster.node_present(&Arc::new(some_node(1, 0)));
        assert_eq!(requested(&cluster), [2500]);
        cluster.forget("default/p1");
        assert_eq!(requested(&cluster), [0]);
    }

    #[test]
    fn a_nomination_is_one_nodes() {
        let mut cluster = cluster([some_node(1, 0), some_node(2, 0)], []);
        let pod = some_pod(1, 4);
        cluster.nominate(&pod, "n1");
        cluster.nominate(&pod, "n2");
        assert!(cluster.nominated("n1").is_empty());
        assert_eq!(cluster.nomination("p1"), Some("n2"));
        cluster.withdraw("p1");
        assert_eq!(cluster.nomination("p1"), None);
    }
}
