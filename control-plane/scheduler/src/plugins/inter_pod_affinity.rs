//! `InterPodAffinity`, what is required: a pod's affinity and anti-affinity, and the anti-affinity
//! of the pods that run.

use super::nearby::Nearby;
use super::{Counts, Plugin, Rejection};
use crate::cluster::Cluster;
use crate::model::{Namespaces, Node, Pod, Term};
use crate::tally::Meaning;

/// A pod's required terms, with what runs in each place.
#[derive(Debug)]
pub(super) struct State<'a> {
    pod: &'a Pod,
    /// Pods that have an anti-affinity to this one.
    averse: Nearby<'a>,
    /// Pods that all affinity terms want near.
    wanted: Nearby<'a>,
    /// Pods that some anti-affinity term wants far.
    unwanted: Nearby<'a>,
    /// Whether the pod is in the sets of all its affinity terms.
    wants_itself: bool,
}

impl<'a> State<'a> {
    pub(super) fn new(pod: &'a Pod, counts: &'a Counts, cluster: &'a Cluster) -> Self {
        let mut averse = Nearby::default();
        for (meaning, term, tally) in cluster.tallies.terms() {
            if meaning == Meaning::RequiredAnti && term.pods.contains(pod, &cluster.namespaces) {
                averse.add(term, tally, 1);
            }
        }
        let (mut wanted, mut unwanted) = (Nearby::default(), Nearby::default());
        for (term, tally) in pod.affinity.required.iter().zip(&counts.affinity) {
            wanted.add(term, tally, 1);
        }
        for (term, tally) in pod.anti_affinity.required.iter().zip(&counts.anti_affinity) {
            unwanted.add(term, tally, 1);
        }
        let mut own = pod.affinity.required.iter();
        let wants_itself = own.all(|term| term.pods.contains(pod, &cluster.namespaces));
        Self { pod, averse, wanted, unwanted, wants_itself }
    }

    pub(super) fn reject(&self, node: &Node) -> Option<Rejection> {
        if !self.is_wanted(node) {
            let reason = "node(s) didn't match pod affinity rules";
            return Some(Rejection::new(Plugin::InterPodAffinity, reason, false));
        }
        let far = |term: &Term| self.unwanted.near(node, &term.topology_key) == 0;
        if !self.pod.anti_affinity.required.iter().all(far) {
            let reason = "node(s) didn't match pod anti-affinity rules";
            return Some(Rejection::new(Plugin::InterPodAffinity, reason, true));
        }
        (self.averse.sum(node) > 0).then(|| {
            let reason = "node(s) didn't satisfy existing pods anti-affinity rules";
            Rejection::new(Plugin::InterPodAffinity, reason, true)
        })
    }

    /// Whether every affinity term finds its pods near the node; or none finds any anywhere, and
    /// the pod is the first of those that want each other.
    fn is_wanted(&self, node: &Node) -> bool {
        let mut all_near = true;
        for term in &self.pod.affinity.required {
            if node.label(&term.topology_key).is_none() {
                return false;
            }
            all_near &= self.wanted.near(node, &term.topology_key) > 0;
        }
        all_near || (self.wants_itself && self.wanted.is_empty())
    }

    pub(super) fn count(&mut self, other: &Pod, node: &'a Node, by: i64, namespaces: &Namespaces) {
        for term in &other.anti_affinity.required {
            if term.pods.contains(self.pod, namespaces) {
                self.averse.change(node, &term.topology_key, by);
            }
        }
        let required = &self.pod.affinity.required;
        let wanted = required.iter().all(|term| term.pods.contains(other, namespaces));
        for term in required.iter().filter(|_| wanted) {
            self.wanted.change(node, &term.topology_key, by);
        }
        for term in &self.pod.anti_affinity.required {
            if term.pods.contains(other, namespaces) {
                self.unwanted.change(node, &term.topology_key, by);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::{Value, json};

    use crate::cluster::Cluster;
    use crate::model::Pod;
    use crate::testing::{cluster, node, pod, verdicts};

    const LONELY: &str = "node(s) didn't match pod affinity rules";
    const CROWDED: &str = "node(s) didn't match pod anti-affinity rules";
    const SHUNNED: &str = "node(s) didn't satisfy existing pods anti-affinity rules";

    fn terms(kind: &str, terms: &[Value]) -> Value {
        json!({"affinity": {kind: {"requiredDuringSchedulingIgnoredDuringExecution": terms}}})
    }

    fn term(app: &str, key: &str) -> Value {
        json!({"labelSelector": {"matchLabels": {"app": app}}, "topologyKey": key})
    }

    fn labelled(app: &str) -> Arc<Pod> {
        pod(app, json!({"app": app}), json!({}))
    }

    /// Nodes a and b in zone 1, c in zone 2, d in none; a pod on a.
    fn zones(running: &Arc<Pod>) -> Cluster {
        let zone = |name: &str, zone: &str| node(name, json!({"zone": zone}));
        let nodes = [zone("a", "1"), zone("b", "1"), zone("c", "2"), node("d", json!({}))];
        cluster(nodes, [(Arc::clone(running), "a")])
    }

    #[test]
    fn affinity_wants_pods_in_the_same_place() {
        let mut cluster = zones(&labelled("db"));
        let near = |key: &str| pod("p", json!({}), terms("podAffinity", &[term("db", key)]));
        assert_eq!(verdicts(&near("zone"), &mut cluster), ["", "", LONELY, LONELY]);
        let host = near("kubernetes.io/hostname");
        assert_eq!(verdicts(&host, &mut cluster), ["", LONELY, LONELY, LONELY]);
        let both = [term("db", "zone"), term("cache", "zone")];
        let both = pod("p", json!({}), terms("podAffinity", &both));
        assert_eq!(verdicts(&both, &mut cluster), [LONELY; 4], "one pod must match every term");
    }

    #[test]
    fn the_first_of_those_that_want_each_other_may_go_anywhere_with_the_label() {
        let mut cluster = zones(&labelled("db"));
        let spec = terms("podAffinity", &[term("web", "zone")]);
        let first = pod("web", json!({"app": "web"}), spec.clone());
        assert_eq!(verdicts(&first, &mut cluster), ["", "", "", LONELY]);
        assert_eq!(verdicts(&pod("p", json!({}), spec), &mut cluster), [LONELY; 4]);
        cluster.assume(&first, "c");
        let second =
            pod("second", json!({"app": "web"}), terms("podAffinity", &[term("web", "zone")]));
        assert_eq!(verdicts(&second, &mut cluster), [LONELY, LONELY, "", LONELY]);
    }

    #[test]
    fn anti_affinity_wants_none_in_the_same_place() {
        let mut cluster = zones(&labelled("db"));
        let far = pod("p", json!({}), terms("podAntiAffinity", &[term("db", "zone")]));
        assert_eq!(verdicts(&far, &mut cluster), [CROWDED, CROWDED, "", ""]);
    }

    #[test]
    fn anti_affinity_is_mutual() {
        let shy = pod("shy", json!({}), terms("podAntiAffinity", &[term("web", "zone")]));
        let mut cluster = zones(&shy);
        assert_eq!(verdicts(&labelled("web"), &mut cluster), [SHUNNED, SHUNNED, "", ""]);
        assert_eq!(verdicts(&labelled("db"), &mut cluster), [""; 4]);
        cluster.forget("default/shy");
        assert_eq!(verdicts(&labelled("web"), &mut cluster), [""; 4]);
    }

    #[test]
    fn pods_of_other_namespaces_count_where_the_term_says_so() {
        let metadata =
            json!({"namespace": "other", "name": "db", "uid": "o", "labels": {"app": "db"}});
        let elsewhere = Arc::new(Pod::read(&Arc::new(json!({"metadata": metadata}))));
        let mut cluster = zones(&elsewhere);
        let mut far = |fields: Value| {
            let mut term = term("db", "zone");
            for (field, value) in fields.as_object().unwrap() {
                term[field] = value.clone();
            }
            let pod = pod("p", json!({}), terms("podAntiAffinity", &[term]));
            verdicts(&pod, &mut cluster) == [CROWDED, CROWDED, "", ""]
        };
        assert!(!far(json!({})));
        assert!(far(json!({"namespaces": ["other"]})));
        assert!(far(json!({"namespaceSelector": {}})));
        assert!(!far(json!({"namespaceSelector": {"matchLabels": {"team": "a"}}})));
        let namespace = json!({"metadata": {"name": "other", "labels": {"team": "a"}}});
        cluster.namespace_present(&Arc::new(namespace));
        let mut term = term("db", "zone");
        term["namespaceSelector"] = json!({"matchLabels": {"team": "a"}});
        let pod = pod("p", json!({}), terms("podAntiAffinity", &[term]));
        assert_eq!(verdicts(&pod, &mut cluster), [CROWDED, CROWDED, "", ""]);
    }
}
