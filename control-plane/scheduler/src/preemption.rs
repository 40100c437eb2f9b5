//! Preemption: which pods of lower priority to end so that a pod can run, and where.
//! <https://kubernetes.io/docs/concepts/scheduling-eviction/pod-priority-preemption/>

use std::borrow::Cow;
use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::Arc;

use bulkhead_client::{Selector, object};
use serde_json::Value;

use crate::cluster::Cluster;
use crate::cycle::{self, Unfit};
use crate::model::{Node, Pod};
use crate::plugins::{Counts, Filters};

/// So many nodes are tried at least before the best of those that would do is taken.
const CANDIDATES: usize = 100;

/// Why nothing is preempted, in kube-scheduler's words.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NoPlan {
    /// The pod does not want it.
    #[error("not eligible due to preemptionPolicy=Never.")]
    Never,
    /// Others end for it already.
    #[error("not eligible due to a terminating pod on the nominated node.")]
    UnderWay,
    /// It would not help.
    #[error("{0}")]
    Useless(String),
}

/// The pods to end on a node, the most important one first.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) node: usize,
    pub(crate) victims: Vec<Arc<Pod>>,
    /// How many of them their disruption budgets do not allow.
    violations: usize,
}

/// A `PodDisruptionBudget`.
#[derive(Debug)]
pub(crate) struct Budget {
    namespace: String,
    selector: Selector,
    allowed: i64,
    /// Names of pods whose disruption is counted already.
    disrupted: Vec<String>,
}

impl Budget {
    /// Reads a budget; one without selector protects nothing.
    pub(crate) fn read(object: &Value) -> Option<Self> {
        let selector = &object["spec"]["selector"];
        let disrupted = object["status"]["disruptedPods"].as_object();
        Some(Self {
            namespace: object::namespace(object)?.into(),
            selector: Selector::read(selector.is_object().then_some(selector)?).ok()?,
            allowed: object::number(object, "status.disruptionsAllowed").unwrap_or_default(),
            disrupted: disrupted.into_iter().flatten().map(|(name, _)| name.clone()).collect(),
        })
    }

    fn protects(&self, pod: &Pod) -> bool {
        // As in Kubernetes, a pod without labels is in nobody's care.
        let labelled =
            pod.object["metadata"]["labels"].as_object().is_some_and(|labels| !labels.is_empty());
        labelled
            && self.namespace == pod.namespace
            && self.selector.selects(&pod.object)
            && !self.disrupted.contains(&pod.name)
    }
}

/// Whether pods of lower priority are ending already where room is being made for this one.
fn is_under_way(pod: &Pod, cluster: &Cluster, unfit: &Unfit) -> bool {
    let nominated = cluster.nomination(&pod.uid).and_then(|name| cluster.index_of(name));
    let Some(index) = nominated else { return false };
    // If others' ending there cannot help any more, another node may be cleared.
    if unfit.rejections.get(&index).is_some_and(|rejection| !rejection.resolvable) {
        return false;
    }
    let ending = |one: &Arc<Pod>| one.terminating && one.priority < pod.priority;
    cluster.node(index).is_some_and(|node| node.pods.iter().any(ending))
}

/// What to end where, so that the pod can run.
pub(crate) fn plan(
    pod: &Pod,
    counts: &Counts,
    cluster: &Cluster,
    unfit: &Unfit,
    budgets: &[Budget],
) -> Result<Plan, NoPlan> {
    if !pod.preempts {
        return Err(NoPlan::Never);
    }
    if is_under_way(pod, cluster, unfit) {
        return Err(NoPlan::UnderWay);
    }
    let mut filters = Filters::new(pod, counts, cluster);
    let mut reasons: Vec<Cow<'static, str>> = Vec::new();
    let mut plans = Vec::new();
    let resolvable: Vec<usize> = cluster
        .nodes()
        .map(|(index, _)| index)
        .filter(|index| unfit.rejections.get(index).is_some_and(|one| one.resolvable))
        .collect();
    reasons.extend(std::iter::repeat_n(
        Cow::Borrowed("Preemption is not helpful for scheduling"),
        cluster.len() - resolvable.len(),
    ));
    let wanted = CANDIDATES.max(resolvable.len() / 10);
    let start = fastrand::usize(..resolvable.len().max(1));
    for offset in 0..resolvable.len() {
        let index = resolvable[(start + offset) % resolvable.len()];
        let Some(node) = cluster.node(index) else { continue };
        match victims(pod, &mut filters, index, node, budgets) {
            Ok(plan) => plans.push(plan),
            Err(why) => reasons.extend(why),
        }
        let harmless = plans.iter().any(|plan| plan.violations == 0);
        if harmless && plans.len() >= wanted {
            break;
        }
    }
    plans
        .into_iter()
        .min_by_key(cost)
        .ok_or_else(|| NoPlan::Useless(cycle::not_available(cluster.len(), reasons)))
}

/// What a plan costs: broken budgets, then the priority of the most important victim, then the
/// victims' priorities, then their number, and of what is left the one whose most important
/// victims have run for the shortest time.
fn cost(plan: &Plan) -> (usize, i64, i64, usize, Reverse<String>) {
    let highest = plan.victims.first().map_or(i64::MIN, |victim| victim.priority);
    // Above zero, so that fewer victims of negative priority are not worse.
    let above_zero = |victim: &Arc<Pod>| victim.priority + i64::from(i32::MAX) + 1;
    let sum = plan.victims.iter().map(above_zero).sum();
    let most_important = plan.victims.iter().filter(|victim| victim.priority == highest);
    let started = most_important.map(|victim| victim.started()).min().unwrap_or_default();
    (plan.violations, highest, sum, plan.victims.len(), Reverse(started.to_owned()))
}

/// The fewest and least important pods whose end makes room on the node.
fn victims(
    pod: &Pod,
    filters: &mut Filters<'_>,
    index: usize,
    node: &Node,
    budgets: &[Budget],
) -> Result<Plan, Vec<Cow<'static, str>>> {
    let mut lower: Vec<Arc<Pod>> =
        node.pods.iter().filter(|one| one.priority < pod.priority).cloned().collect();
    if lower.is_empty() {
        return Err(vec!["No preemption victims found for incoming pod".into()]);
    }
    lower.sort_by(|a, b| {
        (Reverse(a.priority), a.started(), &a.uid).cmp(&(Reverse(b.priority), b.started(), &b.uid))
    });
    let mut left = node.clone();
    for victim in &lower {
        left.remove(victim);
        filters.count(victim, index, -1);
    }
    let mut victims = Vec::new();
    let mut violations = 0;
    let rejection = filters.reject_beside_nominated(index, &left);
    if rejection.is_none() {
        let (violating, harmless) = split_by_budgets(&lower, budgets);
        // Whoever can stay, stays: the protected first, then the more important.
        let protected = violating.iter().map(|pod| (pod, true));
        for (victim, breaks) in protected.chain(harmless.iter().map(|pod| (pod, false))) {
            left.add(victim);
            filters.count(victim, index, 1);
            if filters.reject_beside_nominated(index, &left).is_some() {
                left.remove(victim);
                filters.count(victim, index, -1);
                victims.push(Arc::clone(victim));
                violations += usize::from(breaks);
            }
        }
    }
    // The filters go on to the next node as they were.
    let still_there: Vec<&str> = left.pods.iter().map(|one| one.uid.as_str()).collect();
    for victim in lower.iter().filter(|one| !still_there.contains(&one.uid.as_str())) {
        filters.count(victim, index, 1);
    }
    match rejection {
        Some(rejection) => Err(rejection.reasons),
        None => {
            victims.sort_by(|a, b| {
                (Reverse(a.priority), a.started()).cmp(&(Reverse(b.priority), b.started()))
            });
            Ok(Plan { node: index, victims, violations })
        }
    }
}

/// Those whose end would break a budget, and those whose would not, if they end in this order.
fn split_by_budgets(pods: &[Arc<Pod>], budgets: &[Budget]) -> (Vec<Arc<Pod>>, Vec<Arc<Pod>>) {
    let mut allowed: HashMap<usize, i64> =
        budgets.iter().enumerate().map(|(index, budget)| (index, budget.allowed)).collect();
    pods.iter().cloned().partition(|pod| {
        let mut breaks = false;
        for (index, _) in budgets.iter().enumerate().filter(|(_, budget)| budget.protects(pod)) {
            let left = allowed.entry(index).or_default();
            *left -= 1;
            breaks |= *left < 0;
        }
        breaks
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::testing::{cluster, node};

    /// A pod that requests so many thousandths of a CPU.
    fn pod(name: &str, priority: i64, cpu: i64, spec: &Value) -> Arc<Pod> {
        let mut spec = spec.clone();
        spec["priority"] = priority.into();
        let requests = json!({"cpu": format!("{cpu}m")});
        spec["containers"] = json!([{"resources": {"requests": requests}}]);
        let metadata = json!({"namespace": "default", "name": name, "uid": name,
            "labels": {"app": name}});
        // Who has the later name started later.
        let status = json!({"startTime": format!("2026-01-01T00:00:00Z-{name}")});
        Arc::new(Pod::read(&Arc::new(
            json!({"metadata": metadata, "spec": spec, "status": status}),
        )))
    }

    fn plain(name: &str, priority: i64, cpu: i64) -> Arc<Pod> {
        pod(name, priority, cpu, &json!({}))
    }

    /// The node that is cleared and the victims' names, or why not.
    fn preempt(
        pod: &Pod,
        cluster: &mut Cluster,
        budgets: &[Budget],
    ) -> Result<(String, Vec<String>), String> {
        let counts = Counts::of(pod, &[], cluster);
        let unfit = cycle::choose(pod, &counts, cluster, &mut 0).expect_err("no node has room");
        let plan = plan(pod, &counts, cluster, &unfit, budgets).map_err(|why| why.to_string())?;
        let name = cluster.node(plan.node).unwrap().name.clone();
        Ok((name, plan.victims.iter().map(|victim| victim.name.clone()).collect()))
    }

    fn nodes(count: usize) -> Vec<Value> {
        (0..count)
            .map(|index| node(&format!("n{index}"), json!({"zone": index.to_string()})))
            .collect()
    }

    #[test]
    fn the_fewest_and_least_important_end() {
        let running = [
            (plain("a", 5, 1500), "n0"),
            (plain("b", 1, 1000), "n0"),
            (plain("c", 1, 1000), "n0"),
            (plain("d", 20, 3500), "n1"),
        ];
        let mut cluster = cluster(nodes(2), running);
        // Of b and c, which are alike, the one that started later ends.
        let small = preempt(&plain("p", 10, 1000), &mut cluster, &[]);
        assert_eq!(small, Ok(("n0".into(), vec!["c".into()])));
        let large = preempt(&plain("q", 10, 2000), &mut cluster, &[]);
        assert_eq!(large, Ok(("n0".into(), vec!["b".into(), "c".into()])));
        let message = "0/2 nodes are available: 2 No preemption victims found for incoming pod.";
        assert_eq!(preempt(&plain("r", 1, 1000), &mut cluster, &[]), Err(message.into()));
        let everything = plain("s", 10, 5000);
        let message = "0/2 nodes are available: 2 Preemption is not helpful for scheduling.";
        assert_eq!(preempt(&everything, &mut cluster, &[]), Err(message.into()));
        let modest = pod("t", 10, 1000, &json!({"preemptionPolicy": "Never"}));
        let message = "not eligible due to preemptionPolicy=Never.";
        assert_eq!(preempt(&modest, &mut cluster, &[]), Err(message.into()));
    }

    #[test]
    fn the_node_with_the_least_important_victims_is_cleared() {
        let running = [
            (plain("a", 5, 3000), "n0"),
            (plain("b", 3, 1500), "n1"),
            (plain("c", 3, 1500), "n1"),
            (plain("d", 3, 3000), "n2"),
        ];
        let mut cluster = cluster(nodes(3), running);
        let chosen = preempt(&plain("p", 10, 3000), &mut cluster, &[]);
        assert_eq!(chosen, Ok(("n2".into(), vec!["d".into()])), "the same priority, but fewer");
    }

    #[test]
    fn budgets_are_kept_where_that_is_possible() {
        let running = [(plain("a", 1, 3000), "n0"), (plain("b", 5, 3000), "n1")];
        let mut cluster = cluster(nodes(2), running);
        let budget = |app: &str, allowed: i64| {
            let selector = json!({"matchLabels": {"app": app}});
            let budget = json!({"metadata": {"namespace": "default"}, "spec": {"selector": selector},
                "status": {"disruptionsAllowed": allowed}});
            Budget::read(&budget).unwrap()
        };
        let asking = plain("p", 10, 3000);
        let chosen = |budgets: &[Budget], cluster: &mut Cluster| preempt(&asking, cluster, budgets);
        let (on_a, on_b) = (("n0".into(), vec!["a".into()]), ("n1".into(), vec!["b".into()]));
        assert_eq!(chosen(&[], &mut cluster), Ok(on_a.clone()));
        assert_eq!(chosen(&[budget("a", 0)], &mut cluster), Ok(on_b));
        assert_eq!(chosen(&[budget("a", 1)], &mut cluster), Ok(on_a.clone()));
        // Priority goes before budgets: if nothing else helps, one is broken.
        assert_eq!(chosen(&[budget("a", 0), budget("b", 0)], &mut cluster), Ok(on_a));
    }

    #[test]
    fn it_makes_room_for_what_others_forbid() {
        let term = json!({"labelSelector": {"matchLabels": {"app": "a"}}, "topologyKey": "zone"});
        let required = json!({"requiredDuringSchedulingIgnoredDuringExecution": [term]});
        let shy = pod("p", 10, 100, &json!({"affinity": {"podAntiAffinity": required}}));
        let running = [(plain("a", 1, 100), "n0"), (plain("b", 1, 100), "n0")];
        let mut cluster = cluster(nodes(1), running);
        assert_eq!(preempt(&shy, &mut cluster, &[]), Ok(("n0".into(), vec!["a".into()])));
    }

    #[test]
    fn while_others_end_for_a_pod_no_more_do() {
        let mut ending = (*plain("a", 1, 3000).object).clone();
        ending["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
        let ending = Arc::new(Pod::read(&Arc::new(ending)));
        let running = [(ending, "n0"), (plain("b", 1, 3000), "n1")];
        let mut cluster = cluster(nodes(2), running);
        let asking = plain("p", 10, 3000);
        cluster.nominate(&asking, "n0");
        let message = "not eligible due to a terminating pod on the nominated node.";
        assert_eq!(preempt(&asking, &mut cluster, &[]), Err(message.into()));
    }

    #[test]
    fn room_that_is_being_made_is_kept_from_lower_priorities() {
        let mut cluster = cluster(nodes(1), []);
        cluster.nominate(&plain("waits", 5, 3000), "n0");
        let mut chosen =
            |priority| crate::testing::choose(&plain("p", priority, 2000), &mut cluster);
        assert!(chosen(1).is_err() && chosen(5).is_err());
        assert_eq!(chosen(6), Ok("n0".into()));
    }

    proptest! {
        #[test]
        fn no_more_end_than_must(
            running in prop::collection::vec((0..2usize, 0..4i64, 1..20i64), 0..16),
            asked in 1..40i64,
        ) {
            let mut cluster = cluster(nodes(2), []);
            for (index, (node, priority, cpu)) in running.iter().enumerate() {
                let name = format!("r{index:02}");
                let there = plain(&name, *priority, cpu * 100);
                let free = cluster.node(*node).unwrap();
                if free.requested.cpu + cpu * 100 <= 4000 {
                    cluster.assume(&there, ["n0", "n1"][*node]);
                }
            }
            let asking = plain("p", 3, asked * 100);
            let counts = Counts::of(&asking, &[], &mut cluster);
            let Err(unfit) = cycle::choose(&asking, &counts, &cluster, &mut 0) else { return Ok(()) };
            let Ok(plan) = plan(&asking, &counts, &cluster, &unfit, &[]) else {
                // Then not even all lower ones together would make room.
                for (_, node) in cluster.nodes() {
                    let others = node.pods.iter().filter(|one| one.priority >= 3);
                    let kept: i64 = others.map(|one| one.requests.cpu).sum();
                    let ten = node.pods.iter().filter(|one| one.priority >= 3).count() >= 10;
                    prop_assert!(kept + asked * 100 > 4000 || ten);
                }
                return Ok(());
            };
            let node = cluster.node(plan.node).unwrap();
            prop_assert!(plan.victims.iter().all(|victim| victim.priority < 3));
            let fits = |victims: &[&Arc<Pod>]| {
                let mut left = node.clone();
                victims.iter().for_each(|victim| left.remove(victim));
                Filters::new(&asking, &counts, &cluster).reject(&left).is_none()
            };
            let all: Vec<&Arc<Pod>> = plan.victims.iter().collect();
            prop_assert!(fits(&all));
            for spared in 0..all.len() {
                let mut fewer = all.clone();
                fewer.remove(spared);
                prop_assert!(!fits(&fewer), "{} need not end", all[spared].name);
            }
        }
    }
}
