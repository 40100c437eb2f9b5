//! Counts by place that are kept up to date as pods come and go, so that no decision has to look
//! at every pod or at every node: nodes with the same value of a label are one place.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::model::{Constraint, Namespaces, Node, Pod, PodSet, RequiredNodes, Term, Toleration};

/// How many questions are kept answered at most; the one that was asked longest ago goes first.
const MAX_QUESTIONS: usize = 1024;

/// Something's count by the value of a label.
pub(crate) type Tally = HashMap<String, i64>;

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

/// The places that constraints speak of, for pods that can use the same nodes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Spread {
    pub(crate) constraints: Vec<Constraint>,
    /// Whether a node counts only if it has the labels of all constraints.
    pub(crate) strict: bool,
    pub(crate) nodes: RequiredNodes,
    pub(crate) tolerations: Vec<Toleration>,
}

impl Spread {
    /// The value of each constraint's label of a node, where the node counts.
    fn values<'a>(&'a self, node: &'a Node) -> impl Iterator<Item = (usize, &'a str)> {
        let label = |one: &'a Constraint| node.label(&one.topology_key);
        let strictly = !self.strict || self.constraints.iter().all(|one| label(one).is_some());
        let constraints = self.constraints.iter().enumerate().filter(move |_| strictly);
        constraints.filter_map(move |(index, one)| {
            let value = label(one)?;
            one.counts_on(node, &self.nodes, &self.tolerations).then_some((index, value))
        })
    }

    /// Counts a pod on a node so many times more, or fewer.
    pub(crate) fn change(
        &self,
        all: &mut Arc<Vec<Places>>,
        pod: &Pod,
        node: &Node,
        by: i64,
        namespaces: &Namespaces,
    ) {
        let member = |index: usize| self.constraints[index].pods.contains(pod, namespaces);
        for (index, value) in self.values(node).filter(|(index, _)| member(*index)) {
            Arc::make_mut(all)[index].change(value, by);
        }
    }
}

/// Pods by place, and the fewest of a place.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Places {
    counts: Tally,
    /// How many places have a count.
    with_count: BTreeMap<i64, usize>,
}

impl Places {
    /// How many places there are.
    pub(crate) fn len(&self) -> usize {
        self.counts.len()
    }

    /// The pods in a place.
    pub(crate) fn get(&self, value: &str) -> i64 {
        self.counts.get(value).copied().unwrap_or_default()
    }

    /// The pods in the emptiest place.
    pub(crate) fn fewest(&self) -> i64 {
        self.with_count.first_key_value().map_or(0, |(count, _)| *count)
    }

    fn change(&mut self, value: &str, by: i64) {
        let count = match self.counts.get_mut(value) {
            Some(count) => {
                if let Some(places) = self.with_count.get_mut(count) {
                    *places -= 1;
                    if *places == 0 {
                        self.with_count.remove(count);
                    }
                }
                *count += by;
                *count
            }
            None => *self.counts.entry(value.to_owned()).or_insert(by),
        };
        *self.with_count.entry(count).or_default() += 1;
    }
}

/// Answers to questions, the latest of them.
#[derive(Debug)]
struct Answers<Q, A> {
    known: HashMap<Q, (A, u64)>,
    clock: u64,
}

impl<Q, A> Default for Answers<Q, A> {
    fn default() -> Self {
        Self { known: HashMap::new(), clock: 0 }
    }
}

impl<Q: Clone + Eq + std::hash::Hash, A: Clone> Answers<Q, A> {
    fn get(&mut self, question: &Q, answer: impl FnOnce() -> A) -> A {
        self.clock += 1;
        if let Some((answer, asked)) = self.known.get_mut(question) {
            *asked = self.clock;
            return answer.clone();
        }
        if self.known.len() >= MAX_QUESTIONS {
            let oldest = self.known.iter().min_by_key(|(_, (_, asked))| asked);
            if let Some(oldest) = oldest.map(|(question, _)| question.clone()) {
                self.known.remove(&oldest);
            }
        }
        let answer = answer();
        self.known.insert(question.clone(), (answer.clone(), self.clock));
        answer
    }
}

/// The counts.
#[derive(Debug, Default)]
pub(crate) struct Tallies {
    /// Pods that are in all of some sets, by a label.
    members: Answers<(Vec<PodSet>, String), Arc<Tally>>,
    spreads: Answers<Spread, Arc<Vec<Places>>>,
    terms: HashMap<(Meaning, Term), Tally>,
}

impl Tallies {
    /// Counts a pod on a node.
    pub(crate) fn add(&mut self, pod: &Pod, node: &Node, namespaces: &Namespaces) {
        self.change(pod, node, 1, namespaces);
    }

    /// Counts it no longer.
    pub(crate) fn remove(&mut self, pod: &Pod, node: &Node, namespaces: &Namespaces) {
        self.change(pod, node, -1, namespaces);
    }

    fn change(&mut self, pod: &Pod, node: &Node, by: i64, namespaces: &Namespaces) {
        for ((sets, key), (tally, _)) in &mut self.members.known {
            if let Some(value) = node.label(key)
                && sets.iter().all(|set| set.contains(pod, namespaces))
            {
                change(Arc::make_mut(tally), value, by);
            }
        }
        for (spread, (places, _)) in &mut self.spreads.known {
            spread.change(places, pod, node, by, namespaces);
        }
        for (meaning, term) in terms(pod) {
            let Some(value) = node.label(&term.topology_key) else { continue };
            let key = (meaning, term.clone());
            let tally = self.terms.entry(key.clone()).or_default();
            change(tally, value, by);
            if tally.is_empty() {
                self.terms.remove(&key);
            }
        }
    }

    /// How many pods in all of the sets there are, by the label `key` of their nodes.
    pub(crate) fn members<'a>(
        &mut self,
        sets: Vec<PodSet>,
        key: &str,
        nodes: impl Iterator<Item = &'a Node>,
        namespaces: &Namespaces,
    ) -> Arc<Tally> {
        let question = (sets, key.to_owned());
        self.members.get(&question, || {
            let mut tally = Tally::new();
            for node in nodes {
                let Some(value) = node.label(key) else { continue };
                for pod in &node.pods {
                    if question.0.iter().all(|set| set.contains(pod, namespaces)) {
                        change(&mut tally, value, 1);
                    }
                }
            }
            Arc::new(tally)
        })
    }

    /// The places of each constraint, with the pods that it is about.
    pub(crate) fn spread<'a>(
        &mut self,
        spread: &Spread,
        nodes: impl Iterator<Item = &'a Node>,
        namespaces: &Namespaces,
    ) -> Arc<Vec<Places>> {
        self.spreads.get(spread, || {
            let mut all = Arc::new(vec![Places::default(); spread.constraints.len()]);
            for node in nodes {
                // A place without pods is one too.
                for (index, value) in spread.values(node) {
                    Arc::make_mut(&mut all)[index].change(value, 0);
                }
                for pod in &node.pods {
                    spread.change(&mut all, pod, node, 1, namespaces);
                }
            }
            all
        })
    }

    /// The distinct terms of placed pods, each with how many pods of each place have it.
    pub(crate) fn terms(&self) -> impl Iterator<Item = (Meaning, &Term, &Tally)> {
        self.terms.iter().map(|((meaning, term), tally)| (*meaning, term, tally))
    }

    /// Finds the places anew when asked: there are others, or other nodes count.
    pub(crate) fn nodes_changed(&mut self) {
        self.spreads.known.clear();
    }

    /// Counts anew, when asked, what depends on the labels of namespaces.
    pub(crate) fn namespaces_changed(&mut self) {
        self.members.known.retain(|(sets, _), _| !sets.iter().any(PodSet::selects_namespaces));
    }
}

fn change(tally: &mut Tally, value: &str, by: i64) {
    match tally.get_mut(value) {
        Some(count) => {
            *count += by;
            if *count == 0 {
                tally.remove(value);
            }
        }
        None => {
            tally.insert(value.to_owned(), by);
        }
    }
}

/// The terms of a pod that matter to others.
fn terms(pod: &Pod) -> impl Iterator<Item = (Meaning, &Term)> {
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
