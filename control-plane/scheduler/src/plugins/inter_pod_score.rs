//! `InterPodAffinity`, what is preferred: by the pod, and by the pods that run.

use super::nearby::Nearby;
use super::{Counts, MAX_SCORE};
use crate::cluster::Cluster;
use crate::model::{Node, Pod};
use crate::tally::Meaning;

/// What a pod that runs with a required affinity to this one adds to the score of its place.
const REQUIRED_WEIGHT: i64 = 1;

/// None if there is no preference.
pub(super) fn scores(
    pod: &Pod,
    counts: &Counts,
    cluster: &Cluster,
    nodes: &[(usize, &Node)],
) -> Option<Vec<i64>> {
    let mut places = Nearby::default();
    let wanted = pod.affinity.preferred.iter().map(|one| (one.weight, &one.what));
    let avoided = pod.anti_affinity.preferred.iter().map(|one| (-one.weight, &one.what));
    for ((weight, term), tally) in wanted.chain(avoided).zip(&counts.preferred) {
        places.add(term, tally, weight);
    }
    for (meaning, term, tally) in cluster.tallies.terms() {
        let weight = match meaning {
            Meaning::RequiredAnti => continue,
            Meaning::Required => REQUIRED_WEIGHT,
            Meaning::Preferred(weight) => weight,
        };
        if term.pods.contains(pod, &cluster.namespaces) {
            places.add(term, tally, weight);
        }
    }
    if places.is_unasked() {
        return None;
    }
    let scores: Vec<i64> = nodes.iter().map(|(_, node)| places.sum(node)).collect();
    let least = scores.iter().copied().min().unwrap_or_default();
    let range = scores.iter().copied().max().unwrap_or_default() - least;
    let normalize = |score| if range == 0 { 0 } else { MAX_SCORE * (score - least) / range };
    Some(scores.into_iter().map(normalize).collect())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::{Value, json};

    use crate::model::Pod;
    use crate::testing::{cluster, node, pod, scores};

    fn preferring(name: &str, app: &str, kind: &str, weight: i64, wanted: &str) -> Arc<Pod> {
        let term =
            json!({"labelSelector": {"matchLabels": {"app": wanted}}, "topologyKey": "zone"});
        let preferred = json!([{"weight": weight, "podAffinityTerm": term}]);
        let affinity = json!({"preferredDuringSchedulingIgnoredDuringExecution": preferred});
        pod(name, json!({"app": app}), json!({"affinity": {kind: affinity}}))
    }

    /// What the pod's node in zone 1 scores over the one in zone 2, where nobody is; a running pod
    /// is on a third node, in zone 1.
    fn drawn(pod: &Pod, running: &Arc<Pod>) -> i64 {
        let zone = |name: &str, zone: &str| -> Value { node(name, json!({"zone": zone})) };
        let nodes = [zone("a", "1"), zone("b", "2"), zone("c", "1")];
        let mut cluster = cluster(nodes, [(Arc::clone(running), "c")]);
        let scored = scores(pod, &[], &mut cluster);
        scored[0] - scored[1]
    }

    #[test]
    fn preferences_of_the_pod_and_of_those_that_run_weigh() {
        let plain = |app: &str| pod(app, json!({"app": app}), json!({}));
        let db = plain("db");
        assert_eq!(drawn(&preferring("p", "web", "podAffinity", 10, "db"), &db), 200);
        assert_eq!(drawn(&preferring("p", "web", "podAntiAffinity", 10, "db"), &db), -200);
        assert_eq!(drawn(&preferring("p", "web", "podAffinity", 10, "other"), &db), 0);
        let wanting = preferring("db", "db", "podAffinity", 5, "web");
        assert_eq!(drawn(&plain("web"), &wanting), 200);
        let avoiding = preferring("db", "db", "podAntiAffinity", 5, "web");
        assert_eq!(drawn(&plain("web"), &avoiding), -200);
        // The stronger preference wins.
        assert_eq!(drawn(&preferring("p", "web", "podAffinity", 10, "db"), &avoiding), 200);
        assert_eq!(drawn(&preferring("p", "web", "podAffinity", 3, "db"), &avoiding), -200);
    }

    #[test]
    fn who_requires_others_draws_them() {
        let term = json!({"labelSelector": {"matchLabels": {"app": "web"}}, "topologyKey": "zone"});
        let required = json!({"requiredDuringSchedulingIgnoredDuringExecution": [term]});
        let running =
            pod("db", json!({"app": "web"}), json!({"affinity": {"podAffinity": required}}));
        assert_eq!(drawn(&pod("web", json!({"app": "web"}), json!({})), &running), 200);
    }
}
