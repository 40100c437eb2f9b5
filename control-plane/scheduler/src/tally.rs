//! Counts by node that are kept up to date as pods come and go, so that no decision has to look
//! at every pod: how many pods of a set run on each node, and which affinity terms pods there have.

use std::collections::HashMap;
use std::sync::Arc;

use crate::model::{Namespaces, Node, Pod, PodSet, Term};

/// How many sets are counted at most; the one that was asked for longest ago goes first.
const MAX_SETS: usize = 1024;

/// Something's count by the node's index.
pub(crate) type Tally = HashMap<usize, i64>;

/// What a term of a placed pod means for pods that come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Meaning {
    /// They must not come near.
    RequiredAnti,
    /// The placed pod needed them near.
    Required,
    /// They are wanted near, or not if the weight is negative.
    Preferred(i64),
}

/// The counts.
#[derive(Debug, Default)]
pub(crate) struct Tallies {
    /// Pods that are in each of the sets.
    sets: HashMap<Vec<PodSet>, Asked>,
    terms: HashMap<(Meaning, Term), Tally>,
    clock: u64,
}

#[derive(Debug)]
struct Asked {
    tally: Arc<Tally>,
    at: u64,
}

impl Tallies {
    /// Counts a pod on a node.
    pub(crate) fn add(&mut self, pod: &Pod, node: usize, namespaces: &Namespaces) {
        self.change(pod, node, 1, namespaces);
    }

    /// Counts it no longer.
    pub(crate) fn remove(&mut self, pod: &Pod, node: usize, namespaces: &Namespaces) {
        self.change(pod, node, -1, namespaces);
    }

    fn change(&mut self, pod: &Pod, node: usize, by: i64, namespaces: &Namespaces) {
        for (sets, asked) in &mut self.sets {
            if sets.iter().all(|set| set.contains(pod, namespaces)) {
                change(Arc::make_mut(&mut asked.tally), node, by);
            }
        }
        for (meaning, term) in terms(pod) {
            let key = (meaning, term.clone());
            let tally = self.terms.entry(key.clone()).or_default();
            change(tally, node, by);
            if tally.is_empty() {
                self.terms.remove(&key);
            }
        }
    }

    /// How many pods on each node are in all of the sets.
    pub(crate) fn of<'a>(
        &mut self,
        sets: &[PodSet],
        nodes: impl Iterator<Item = (usize, &'a Node)>,
        namespaces: &Namespaces,
    ) -> Arc<Tally> {
        self.clock += 1;
        if let Some(asked) = self.sets.get_mut(sets) {
            asked.at = self.clock;
            return Arc::clone(&asked.tally);
        }
        let mut tally = Tally::new();
        for (index, node) in nodes {
            let within = |pod: &&Arc<Pod>| sets.iter().all(|set| set.contains(pod, namespaces));
            let count = node.pods.iter().filter(within).count();
            if count > 0 {
                tally.insert(index, i64::try_from(count).unwrap_or(i64::MAX));
            }
        }
        if self.sets.len() >= MAX_SETS {
            let oldest = self.sets.iter().min_by_key(|(_, asked)| asked.at);
            if let Some(oldest) = oldest.map(|(sets, _)| sets.clone()) {
                self.sets.remove(&oldest);
            }
        }
        let tally = Arc::new(tally);
        let asked = Asked { tally: Arc::clone(&tally), at: self.clock };
        self.sets.insert(sets.to_vec(), asked);
        tally
    }

    /// The distinct terms of placed pods, each with how many pods of each node have it.
    pub(crate) fn terms(&self) -> impl Iterator<Item = (Meaning, &Term, &Tally)> {
        self.terms.iter().map(|((meaning, term), tally)| (*meaning, term, tally))
    }

    /// Counts anew, when asked, what depends on the labels of namespaces.
    pub(crate) fn namespaces_changed(&mut self) {
        self.sets.retain(|sets, _| !sets.iter().any(PodSet::selects_namespaces));
    }
}

fn change(tally: &mut Tally, node: usize, by: i64) {
    let count = tally.entry(node).or_default();
    *count += by;
    if *count == 0 {
        tally.remove(&node);
    }
}

/// The terms of a pod that matter to others.
pub(crate) fn terms(pod: &Pod) -> impl Iterator<Item = (Meaning, &Term)> {
    let required_anti = pod.anti_affinity.required.iter();
    let required = pod.affinity.required.iter();
    let preferred = pod.affinity.preferred.iter();
    let avoided = pod.anti_affinity.preferred.iter();
    required_anti
        .map(|term| (Meaning::RequiredAnti, term))
        .chain(required.map(|term| (Meaning::Required, term)))
        .chain(preferred.map(|one| (Meaning::Preferred(one.weight), &one.what)))
        .chain(avoided.map(|one| (Meaning::Preferred(-one.weight), &one.what)))
}
