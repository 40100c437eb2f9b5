//! What a DaemonSet does next: on which nodes it makes pods, which pods it deletes. A function of what
//! is there.

use std::collections::BTreeMap;
use std::sync::Arc;

use bulkhead_client::object::{self, number, text};
use serde_json::{Value, json};
use time::OffsetDateTime;

use super::placement::Fit;
use crate::history::revision_of;
use crate::pods;

/// A step makes or deletes at most so many pods.
const BURST: usize = 250;

/// A node as a DaemonSet sees it.
#[derive(Debug)]
pub(super) struct Site {
    pub(super) fit: Fit,
    /// The set's pods there, the oldest first.
    pub(super) pods: Vec<Arc<Value>>,
}

/// What a DaemonSet asks for.
#[derive(Debug)]
pub(super) struct Plan {
    /// The hash of the newest revision.
    hash: String,
    min_ready: i64,
    rolling: Option<Rolling>,
}

#[derive(Debug)]
struct Rolling {
    max_unavailable: Value,
    max_surge: Value,
}

/// What is to be done.
#[derive(Debug, Default)]
pub(super) struct Steps {
    /// Names of nodes that get a pod.
    pub(super) create: Vec<String>,
    pub(super) delete: Vec<Arc<Value>>,
    /// Of those, the ones that ended, with their nodes: what fails again and again must wait.
    pub(super) ended: Vec<(String, Arc<Value>)>,
}

impl Steps {
    pub(super) fn is_empty(&self) -> bool {
        self.create.is_empty() && self.delete.is_empty() && self.ended.is_empty()
    }
}

/// Sorts pods as those that came first come first; what is bound comes before what is not.
pub(super) fn by_age(pods: &mut [Arc<Value>]) {
    pods.sort_by_key(|pod| {
        let created = text(pod, "metadata.creationTimestamp").to_owned();
        (text(pod, "spec.nodeName").is_empty(), created, object::name(pod).to_owned())
    });
}

impl Plan {
    pub(super) fn read(set: &Value, hash: &str) -> Self {
        let strategy = &set["spec"]["updateStrategy"];
        let rolling = (strategy["type"] != "OnDelete").then(|| Rolling {
            max_unavailable: strategy["rollingUpdate"]["maxUnavailable"].clone(),
            max_surge: strategy["rollingUpdate"]["maxSurge"].clone(),
        });
        let min_ready = number(set, "spec.minReadySeconds").unwrap_or(0);
        Self { hash: hash.to_owned(), min_ready, rolling }
    }

    fn surges(&self) -> bool {
        let surge =
            self.rolling.as_ref().map(|rolling| pods::resolve(&rolling.max_surge, 100, true));
        surge.is_some_and(|surge| surge > 0)
    }

    fn is_available(&self, pod: &Value, now: OffsetDateTime) -> bool {
        pods::is_available(pod, self.min_ready, now)
    }

    fn is_new(&self, pod: &Value) -> bool {
        revision_of(pod) == self.hash
    }

    /// The next steps.
    pub(super) fn steps(&self, sites: &BTreeMap<String, Site>, now: OffsetDateTime) -> Steps {
        let mut steps = self.keep(sites, now);
        if steps.is_empty()
            && let Some(rolling) = &self.rolling
        {
            let wanted = sites.values().filter(|site| site.fit == Fit::Yes).count();
            let wanted = i64::try_from(wanted).unwrap_or(i64::MAX);
            let resolve =
                |amount| usize::try_from(pods::resolve(amount, wanted, true)).unwrap_or(0);
            match (resolve(&rolling.max_unavailable), resolve(&rolling.max_surge)) {
                (unavailable, 0) => self.replace(sites, unavailable.max(1), &mut steps, now),
                (_, surge) => self.surge(sites, surge, &mut steps, now),
            }
        }
        steps.create.truncate(BURST);
        steps.delete.truncate(BURST);
        steps
    }

    /// One pod on every node that fits, none elsewhere.
    fn keep(&self, sites: &BTreeMap<String, Site>, now: OffsetDateTime) -> Steps {
        let mut steps = Steps::default();
        for (node, site) in sites {
            match site.fit {
                Fit::Yes if site.pods.is_empty() => steps.create.push(node.clone()),
                Fit::Yes | Fit::Stays => self.keep_on(node, site, &mut steps, now),
                Fit::No => {
                    let pods = site.pods.iter().filter(|pod| !object::is_terminating(pod));
                    steps.delete.extend(pods.cloned());
                }
            }
        }
        steps
    }

    fn keep_on(&self, node: &str, site: &Site, steps: &mut Steps, now: OffsetDateTime) {
        let there = site.pods.iter().filter(|pod| !object::is_terminating(pod));
        let (ended, running): (Vec<_>, Vec<_>) =
            there.cloned().partition(|pod| pods::has_ended(pod));
        steps.ended.extend(ended.into_iter().map(|pod| (node.to_owned(), pod)));
        if !self.surges() {
            steps.delete.extend(running.into_iter().skip(1));
            return;
        }
        let (new, old): (Vec<_>, Vec<_>) = running.into_iter().partition(|pod| self.is_new(pod));
        let (mut new, mut old) = (new.into_iter(), old.into_iter());
        if let (oldest_new, Some(oldest_old)) = (new.next(), old.next())
            && let Some(oldest_new) = oldest_new
            && (!pods::is_ready(&oldest_old) || self.is_available(&oldest_new, now))
        {
            steps.delete.push(oldest_old);
        }
        steps.delete.extend(new.chain(old));
    }

    /// Deletes old pods, so many that no more than allowed are unavailable.
    fn replace(
        &self,
        sites: &BTreeMap<String, Site>,
        max_unavailable: usize,
        steps: &mut Steps,
        now: OffsetDateTime,
    ) {
        let mut unavailable = 0;
        let mut candidates = Vec::new();
        for site in sites.values() {
            let wanted = site.fit == Fit::Yes;
            match self.on(site) {
                None | Some((None, None) | (Some(_), Some(_))) => {
                    unavailable += usize::from(wanted)
                }
                Some((Some(new), None)) => {
                    unavailable += usize::from(!self.is_available(new, now));
                }
                Some((None, Some(old))) if self.is_available(old, now) => {
                    candidates.push(Arc::clone(old));
                }
                Some((None, Some(old))) => steps.delete.push(Arc::clone(old)),
            }
        }
        let room = max_unavailable.saturating_sub(unavailable);
        steps.delete.extend(candidates.into_iter().take(room));
    }

    /// Makes new pods beside old ones.
    fn surge(
        &self,
        sites: &BTreeMap<String, Site>,
        max_surge: usize,
        steps: &mut Steps,
        now: OffsetDateTime,
    ) {
        let mut surging = 0;
        let mut candidates = Vec::new();
        for (node, site) in sites.iter().filter(|(_, site)| site.fit == Fit::Yes) {
            match self.on(site) {
                None => surging += 1,
                Some((_, None)) => {}
                Some((None, Some(old))) if self.is_available(old, now) => {
                    candidates.push(node.clone());
                }
                Some((None, Some(_))) => steps.create.push(node.clone()),
                Some((Some(new), Some(old))) => {
                    if self.is_available(new, now) {
                        steps.delete.push(Arc::clone(old));
                    } else {
                        surging += 1;
                    }
                }
            }
        }
        let room = max_surge.saturating_sub(surging);
        steps.create.extend(candidates.into_iter().take(room));
    }

    /// The new and the old pod of a node; `None` if there are several of a kind.
    #[expect(clippy::type_complexity, reason = "a pair of pods")]
    fn on<'a>(&self, site: &'a Site) -> Option<(Option<&'a Arc<Value>>, Option<&'a Arc<Value>>)> {
        let (mut new, mut old) = (None, None);
        for pod in site.pods.iter().filter(|pod| !object::is_terminating(pod)) {
            let slot = if self.is_new(pod) { &mut new } else { &mut old };
            if slot.replace(pod).is_some() {
                return None;
            }
        }
        Some((new, old))
    }

    /// The counts of the status, by field, of which Kubernetes leaves those out that are zero and
    /// may be.
    pub(super) fn counts(&self, sites: &BTreeMap<String, Site>, now: OffsetDateTime) -> Value {
        let (mut desired, mut current, mut misplaced) = (0_i64, 0_i64, 0_i64);
        let (mut ready, mut available, mut updated) = (0_i64, 0_i64, 0_i64);
        for site in sites.values() {
            if site.fit != Fit::Yes {
                misplaced += i64::from(!site.pods.is_empty());
                continue;
            }
            desired += 1;
            let Some(pod) = site.pods.first() else { continue };
            current += 1;
            ready += i64::from(pods::is_ready(pod));
            available += i64::from(self.is_available(pod, now));
            updated += i64::from(self.is_new(pod));
        }
        let mut counts = json!({
            "desiredNumberScheduled": desired,
            "currentNumberScheduled": current,
            "numberMisscheduled": misplaced,
            "numberReady": ready,
        });
        for (field, count) in [
            ("updatedNumberScheduled", updated),
            ("numberAvailable", available),
            ("numberUnavailable", desired - available),
        ] {
            if count > 0 {
                counts[field] = count.into();
            }
        }
        counts
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::REVISION_LABEL;

    const NOW: OffsetDateTime = OffsetDateTime::UNIX_EPOCH;

    fn pod(name: &str, revision: &str, ready: bool) -> Arc<Value> {
        let ready = if ready { "True" } else { "False" };
        Arc::new(json!({
            "metadata": {"name": name, "labels": {REVISION_LABEL: revision}},
            "spec": {"nodeName": "n"},
            "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": ready}]},
        }))
    }

    fn with(mut pod: Arc<Value>, change: Value) -> Arc<Value> {
        let made = Arc::make_mut(&mut pod);
        for (field, value) in change.as_object().unwrap() {
            for (inner, value) in value.as_object().unwrap() {
                made[field][inner] = value.clone();
            }
        }
        pod
    }

    fn sites(sites: Vec<(&str, Fit, Vec<Arc<Value>>)>) -> BTreeMap<String, Site> {
        let site = |(node, fit, pods): (&str, Fit, _)| (node.to_owned(), Site { fit, pods });
        sites.into_iter().map(site).collect()
    }

    fn plan(unavailable: Value, surge: Value) -> Plan {
        let update = json!({"maxUnavailable": unavailable, "maxSurge": surge});
        Plan::read(&json!({"spec": {"updateStrategy": {"rollingUpdate": update}}}), "new")
    }

    fn names(steps: &Steps) -> (Vec<&str>, Vec<&str>) {
        let deleted = steps.delete.iter().map(|pod| object::name(pod)).collect();
        (steps.create.iter().map(String::as_str).collect(), deleted)
    }

    #[test]
    fn one_pod_on_every_node_that_fits() {
        let plan = plan(json!(1), json!(0));
        let failed = with(pod("failed", "new", false), json!({"status": {"phase": "Failed"}}));
        let going =
            with(pod("going", "new", true), json!({"metadata": {"deletionTimestamp": "x"}}));
        let there = sites(vec![
            ("empty", Fit::Yes, vec![]),
            ("twice", Fit::Yes, vec![pod("first", "new", true), pod("second", "new", true)]),
            ("unfit", Fit::No, vec![pod("misplaced", "new", true)]),
            ("tainted", Fit::Stays, vec![pod("stays", "new", true)]),
            ("new and tainted", Fit::Stays, vec![]),
            ("failed", Fit::Yes, vec![failed]),
            ("going", Fit::Yes, vec![going]),
        ]);
        let steps = plan.steps(&there, NOW);
        assert_eq!(names(&steps), (vec!["empty"], vec!["second", "misplaced"]));
        assert_eq!(steps.ended[0].0, "failed");
        let counts = json!({
            "desiredNumberScheduled": 4, "currentNumberScheduled": 3, "numberMisscheduled": 2,
            "numberReady": 2, "numberAvailable": 2, "numberUnavailable": 2,
            "updatedNumberScheduled": 3,
        });
        assert_eq!(plan.counts(&there, NOW), counts);
    }

    #[test]
    fn updates_keep_enough_available() {
        let old = |node: &'static str, ready| (node, Fit::Yes, vec![pod(node, "old", ready)]);
        let all = sites(vec![old("a", true), old("b", true), old("c", true), old("d", true)]);
        assert_eq!(names(&plan(json!(1), json!(0)).steps(&all, NOW)).1, ["a"]);
        assert_eq!(names(&plan(json!("50%"), json!(0)).steps(&all, NOW)).1, ["a", "b"]);
        let by_hand = json!({"spec": {"updateStrategy": {"type": "OnDelete"}}});
        assert!(Plan::read(&by_hand, "new").steps(&all, NOW).is_empty());
        let begun = sites(vec![
            ("a", Fit::Yes, vec![pod("a", "new", false)]),
            old("b", true),
            old("c", false),
        ]);
        let step = plan(json!(1), json!(0)).steps(&begun, NOW);
        assert_eq!(names(&step).1, ["c"], "what is unavailable already costs nothing");
    }

    #[test]
    fn a_surge_makes_the_new_before_it_deletes_the_old() {
        let surge = plan(json!(0), json!(1));
        let old = |node: &'static str, ready| (node, Fit::Yes, vec![pod(node, "old", ready)]);
        let both = |ready| vec![pod("a", "old", true), pod("a2", "new", ready)];
        let all = sites(vec![old("a", true), old("b", true), old("c", false)]);
        assert_eq!(names(&surge.steps(&all, NOW)), (vec!["c", "a"], vec![]));
        let begun = sites(vec![("a", Fit::Yes, both(false)), old("b", true)]);
        assert_eq!(names(&surge.steps(&begun, NOW)), (vec![], vec![]));
        let done = sites(vec![("a", Fit::Yes, both(true)), old("b", true)]);
        assert_eq!(names(&surge.steps(&done, NOW)), (vec![], vec!["a"]));
    }
}
