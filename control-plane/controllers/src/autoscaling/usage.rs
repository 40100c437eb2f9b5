//! How many pods a metric asks for: what pods use, compared with what they should.
//! <https://kubernetes.io/docs/tasks/run-application/horizontal-pod-autoscale/#algorithm-details>

use std::collections::BTreeMap;
use std::sync::Arc;

use bulkhead_client::object::{self, list, text};
use bulkhead_client::{Quantity, object::condition};
use serde_json::Value;
use time::{Duration, OffsetDateTime};

/// For so long what a starting pod uses of the CPU says little.
const INITIALIZATION: Duration = Duration::minutes(5);
/// A pod that was not ready by then, and never since, never was.
const INITIAL_READINESS: Duration = Duration::seconds(30);

/// What a metric is to be.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Target {
    /// Percent of what pods request.
    Utilization(i64),
    /// Thousandths of a unit, per pod.
    Average(u64),
}

/// A metric of what pods use of a resource.
#[derive(Debug, Clone)]
pub(super) struct Metric<'a> {
    /// `cpu`, `memory`.
    pub(super) resource: &'a str,
    /// The container that counts; all if `None`.
    pub(super) container: Option<&'a str>,
    pub(super) target: Target,
}

/// How far from its target a metric may be, as fractions of it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tolerance {
    pub(super) up: f64,
    pub(super) down: f64,
}

impl Tolerance {
    fn holds(self, ratio: f64) -> bool {
        ratio >= 1.0 - self.down && ratio <= 1.0 + self.up
    }
}

/// What a metric comes to.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Proposal {
    pub(super) replicas: i64,
    /// Percent of what pods request, where that is the target.
    pub(super) utilization: Option<i64>,
    /// Thousandths of a unit, the average of pods.
    pub(super) average: u64,
}

/// A pod's sample.
#[derive(Debug, Clone, Copy)]
struct Sample {
    millis: u64,
    time: OffsetDateTime,
    window: Duration,
}

impl Metric<'_> {
    /// How many replicas the metric asks for, where there are `current` ones. `metrics` are the
    /// `PodMetrics` of `pods`.
    ///
    /// # Errors
    /// A sentence that says what is missing.
    pub(super) fn propose(
        &self,
        current: i64,
        pods: &[Arc<Value>],
        metrics: &[Value],
        tolerance: Tolerance,
        now: OffsetDateTime,
    ) -> Result<Proposal, String> {
        if pods.is_empty() {
            return Err("no pods returned by selector while calculating replica count".into());
        }
        let samples = self.samples(metrics);
        let (mut used, mut unready, mut missing) = (BTreeMap::new(), Vec::new(), Vec::new());
        for pod in pods {
            let name = object::name(pod);
            match (text(pod, "status.phase"), samples.get(name)) {
                ("Failed" | "Succeeded", _) => {}
                _ if object::is_terminating(pod) => {}
                ("Pending", _) => unready.push(name),
                (_, None) => missing.push(name),
                (_, Some(sample)) if self.is_unready(pod, sample, now) => unready.push(name),
                (_, Some(sample)) => {
                    used.insert(name, sample.millis);
                }
            }
        }
        if used.is_empty() {
            let why = "did not receive metrics for targeted pods (pods might be unready)";
            return Err(why.into());
        }
        let mut requests = BTreeMap::new();
        if let Target::Utilization(_) = self.target {
            for pod in pods {
                requests.insert(object::name(pod), self.request(pod)?);
            }
        }
        let (ratio, mut proposal) = self.compare(&used, &requests)?;
        proposal.replicas = current;
        let unready_counts = !unready.is_empty() && ratio > 1.0;
        if !unready_counts && missing.is_empty() {
            if !tolerance.holds(ratio) {
                proposal.replicas = times(ratio, used.len());
            }
            return Ok(proposal);
        }
        // What is not known is taken for what keeps from changing too much.
        for name in missing {
            let all = |percent: i64| {
                let request = requests.get(name).copied().unwrap_or(0);
                request * u64::try_from(percent.max(100)).unwrap_or(100) / 100
            };
            let assumed = match self.target {
                _ if ratio >= 1.0 => 0,
                Target::Utilization(percent) => all(percent),
                Target::Average(target) => target,
            };
            used.insert(name, assumed);
        }
        if unready_counts {
            unready.into_iter().for_each(|name| {
                used.insert(name, 0);
            });
        }
        let (settled, _) = self.compare(&used, &requests)?;
        let crossed = (ratio < 1.0 && settled > 1.0) || (ratio > 1.0 && settled < 1.0);
        if tolerance.holds(settled) || crossed {
            return Ok(proposal);
        }
        let replicas = times(settled, used.len());
        let against =
            (settled < 1.0 && replicas > current) || (settled > 1.0 && replicas < current);
        if !against {
            proposal.replicas = replicas;
        }
        Ok(proposal)
    }

    fn samples<'m>(&self, metrics: &'m [Value]) -> BTreeMap<&'m str, Sample> {
        let sample = |metric: &'m Value| {
            let containers = list(metric, "containers").iter();
            let wanted = containers
                .filter(|one| self.container.is_none_or(|container| one["name"] == container));
            let usage: Option<Vec<u64>> = wanted
                .map(|one| Quantity::from_json(&one["usage"][self.resource]).ok())
                .map(|usage| usage.map(Quantity::milli_value))
                .collect();
            // A pod of which a container is missing is missing.
            let usage = usage.filter(|all| !all.is_empty())?;
            let seconds: f64 = text(metric, "window").trim_end_matches('s').parse().unwrap_or(60.0);
            Some((
                object::name(metric),
                Sample {
                    millis: usage.into_iter().sum(),
                    time: object::parse_time(text(metric, "timestamp"))?,
                    window: Duration::seconds_f64(seconds.clamp(0.0, 86_400.0)),
                },
            ))
        };
        metrics.iter().filter_map(sample).collect()
    }

    /// Whether what a pod uses of the CPU is that of its start.
    fn is_unready(&self, pod: &Value, sample: &Sample, now: OffsetDateTime) -> bool {
        if self.resource != "cpu" {
            return false;
        }
        let Some(start) = object::parse_time(text(pod, "status.startTime")) else { return true };
        let Some(ready) = condition(pod, "Ready") else { return true };
        let since = object::parse_time(text(ready, "lastTransitionTime")).unwrap_or(start);
        let not_ready = ready["status"] == "False";
        if start + INITIALIZATION > now {
            not_ready || sample.time < since + sample.window
        } else {
            not_ready && start + INITIAL_READINESS > since
        }
    }

    fn request(&self, pod: &Value) -> Result<u64, String> {
        let sidecars = list(pod, "spec.initContainers").iter();
        let sidecars = sidecars.filter(|container| container["restartPolicy"] == "Always");
        let mut sum = 0;
        for container in list(pod, "spec.containers").iter().chain(sidecars) {
            let name = text(container, "name");
            if self.container.is_some_and(|wanted| wanted != name) {
                continue;
            }
            let request = &container["resources"]["requests"][self.resource];
            sum += Quantity::from_json(request).map(Quantity::milli_value).map_err(|_| {
                let (resource, pod) = (self.resource, object::name(pod));
                format!("missing request for {resource} in container {name} of Pod {pod}")
            })?;
        }
        Ok(sum)
    }

    /// What is used, as a fraction of what should be.
    #[expect(clippy::cast_precision_loss, reason = "a ratio is compared with a tolerance")]
    fn compare(
        &self,
        used: &BTreeMap<&str, u64>,
        requests: &BTreeMap<&str, u64>,
    ) -> Result<(f64, Proposal), String> {
        let sum: u64 = used.values().sum();
        let average = sum / u64::try_from(used.len()).unwrap_or(1).max(1);
        let proposal = Proposal { replicas: 0, utilization: None, average };
        match self.target {
            Target::Average(target) => Ok((average as f64 / target.max(1) as f64, proposal)),
            Target::Utilization(percent) => {
                let requested: u64 = used.keys().filter_map(|name| requests.get(name)).sum();
                if requested == 0 {
                    return Err("no metrics returned matched known pods".into());
                }
                let utilization = i64::try_from(sum * 100 / requested).unwrap_or(i64::MAX);
                let proposal = Proposal { utilization: Some(utilization), ..proposal };
                Ok((utilization as f64 / percent.max(1) as f64, proposal))
            }
        }
    }
}

/// `ratio` times as many, rounded up.
#[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, reason = "clamped")]
fn times(ratio: f64, count: usize) -> i64 {
    (ratio * count as f64).ceil().clamp(0.0, f64::from(i32::MAX)) as i64
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const TOLERANCE: Tolerance = Tolerance { up: 0.1, down: 0.1 };

    fn now() -> OffsetDateTime {
        object::parse_time("2026-01-01T12:00:00Z").unwrap()
    }

    fn pod(name: &str, phase: &str) -> Arc<Value> {
        let since = "2026-01-01T10:00:00Z";
        Arc::new(json!({
            "metadata": {"name": name},
            "spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": "100m"}}}]},
            "status": {
                "phase": phase, "startTime": since,
                "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": since}],
            },
        }))
    }

    fn metric(name: &str, cpu: &str) -> Value {
        json!({
            "metadata": {"name": name}, "timestamp": "2026-01-01T11:59:50Z", "window": "10.5s",
            "containers": [{"name": "c", "usage": {"cpu": cpu, "memory": "1Mi"}}],
        })
    }

    fn propose(
        target: Target,
        current: i64,
        pods: &[Arc<Value>],
        metrics: &[Value],
    ) -> Result<i64, String> {
        let metric = Metric { resource: "cpu", container: None, target };
        metric.propose(current, pods, metrics, TOLERANCE, now()).map(|proposal| proposal.replicas)
    }

    #[test]
    fn as_many_as_bring_usage_to_its_target() {
        let pods = [pod("a", "Running"), pod("b", "Running")];
        let both = |cpu: &str| [metric("a", cpu), metric("b", cpu)];
        for (cpu, expected) in
            [("100m", 4), ("53m", 2), ("47m", 2), ("56m", 3), ("10m", 1), ("0", 0)]
        {
            let replicas = propose(Target::Utilization(50), 2, &pods, &both(cpu));
            assert_eq!(replicas, Ok(expected), "{cpu}");
        }
        assert_eq!(propose(Target::Average(25), 2, &pods, &both("50000000n")), Ok(4));
    }

    #[test]
    fn what_is_not_known_keeps_from_changing_too_much() {
        let pods = [pod("a", "Running"), pod("b", "Running")];
        let target = Target::Utilization(50);
        // Up: the one that is missing is taken to use nothing. Down: all that it requests.
        assert_eq!(propose(target, 2, &pods, &[metric("a", "90m")]), Ok(2));
        assert_eq!(propose(target, 2, &pods, &[metric("a", "300m")]), Ok(6));
        assert_eq!(propose(target, 2, &pods, &[metric("a", "10m")]), Ok(2));
        let starting = [pod("a", "Running"), pod("b", "Pending")];
        assert_eq!(propose(target, 2, &starting, &[metric("a", "100m")]), Ok(2));
        assert_eq!(propose(target, 2, &starting, &[metric("a", "10m")]), Ok(1));
    }

    #[test]
    fn what_is_missing_is_named() {
        let target = Target::Utilization(50);
        let error =
            |pods: &[Arc<Value>], metrics: &[Value]| propose(target, 1, pods, metrics).unwrap_err();
        assert!(error(&[], &[]).contains("no pods returned"));
        assert!(error(&[pod("a", "Running")], &[]).contains("did not receive metrics"));
        let mut plain = (*pod("a", "Running")).clone();
        plain["spec"]["containers"][0]["resources"] = json!({});
        let missing = error(&[Arc::new(plain)], &[metric("a", "1m")]);
        assert_eq!(missing, "missing request for cpu in container c of Pod a");
    }

    #[test]
    fn a_pod_that_starts_does_not_count_yet() {
        let mut fresh = (*pod("b", "Running")).clone();
        fresh["status"]["startTime"] = "2026-01-01T11:59:30Z".into();
        fresh["status"]["conditions"][0]["lastTransitionTime"] = "2026-01-01T11:59:45Z".into();
        let pods = [pod("a", "Running"), Arc::new(fresh)];
        let metrics = [metric("a", "50m"), metric("b", "900m")];
        assert_eq!(propose(Target::Utilization(50), 2, &pods, &metrics), Ok(2));
    }
}
