//! What a pod's resource requests and limits mean to the kernel: quality of service,
//! `oom_score_adj`, and cgroup v2 values, as a kubelet and an OCI runtime compute them.

use bulkhead_agent_protocol::{
    Pod, Quantity,
    pod::{Container, Resources, RestartPolicy},
};

/// A pod's class: who is killed first when memory is short.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum QosClass {
    Guaranteed,
    Burstable,
    BestEffort,
}

impl QosClass {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Guaranteed => "Guaranteed",
            Self::Burstable => "Burstable",
            Self::BestEffort => "BestEffort",
        }
    }

    /// The class of a pod. Its quantities were checked when it was accepted.
    pub(crate) fn of(pod: &Pod) -> Self {
        let mut all_equal = true;
        let mut any = false;
        for container in pod.spec.init_containers.iter().chain(&pod.spec.containers) {
            for resource in ["cpu", "memory"] {
                let limit = limit(&container.resources, resource);
                let request = request(&container.resources, resource);
                any |= limit.is_some() || request.is_some();
                all_equal &= limit.is_some() && limit == request;
            }
        }
        match (any, all_equal) {
            (false, _) => Self::BestEffort,
            (true, true) => Self::Guaranteed,
            (true, false) => Self::Burstable,
        }
    }
}

/// A limit that is set and not zero.
pub(crate) fn limit(resources: &Resources, name: &str) -> Option<Quantity> {
    let quantity = Quantity::from_json(resources.limits.get(name)?).ok()?;
    (!quantity.is_zero()).then_some(quantity)
}

/// A request, which is the limit where only that is given.
pub(crate) fn request(resources: &Resources, name: &str) -> Option<Quantity> {
    match resources.requests.get(name) {
        Some(value) => Quantity::from_json(value).ok().filter(|quantity| !quantity.is_zero()),
        None => limit(resources, name),
    }
}

/// `oom_score_adj` of a container, on a node with `capacity` bytes of memory.
pub(crate) fn oom_score_adj(qos: QosClass, container: &Container, capacity: u64) -> i32 {
    match qos {
        QosClass::Guaranteed => -997,
        QosClass::BestEffort => 1000,
        QosClass::Burstable => {
            let request = request(&container.resources, "memory").map_or(0, Quantity::value);
            let share = u128::from(request) * 1000 / u128::from(capacity.max(1));
            let score = 1000 - i32::try_from(share.min(1000)).unwrap_or(1000);
            score.clamp(3, 999)
        }
    }
}

/// Values for a cgroup's files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct CgroupLimits {
    /// `cpu.weight`, 1 to 10000.
    pub(crate) cpu_weight: u64,
    /// `cpu.max`: microseconds in every [`CPU_PERIOD`]; `None` is no limit.
    pub(crate) cpu_quota: Option<u64>,
    /// `memory.max` in bytes; `None` is no limit.
    pub(crate) memory_max: Option<u64>,
}

/// The period of `cpu.max`, in microseconds.
pub(crate) const CPU_PERIOD: u64 = 100_000;

impl CgroupLimits {
    /// One container's.
    pub(crate) fn of_container(container: &Container) -> Self {
        let resources = &container.resources;
        Self::new(
            request(resources, "cpu").map_or(0, Quantity::milli_value),
            limit(resources, "cpu").map(Quantity::milli_value),
            limit(resources, "memory").map(Quantity::value),
        )
    }

    /// The pod's as a whole: a resource is limited when every container's is, to the larger of
    /// what runs together (containers and sidecars) and the largest single init container.
    pub(crate) fn of_pod(pod: &Pod) -> Self {
        let effective = |value: &dyn Fn(&Container) -> Option<u64>| -> Option<u64> {
            let (mut together, mut largest) = (0_u64, 0_u64);
            for container in &pod.spec.init_containers {
                let amount = value(container)?;
                if container.restart_policy == Some(RestartPolicy::Always) {
                    together = together.saturating_add(amount);
                    largest = largest.max(together);
                } else {
                    largest = largest.max(together.saturating_add(amount));
                }
            }
            for container in &pod.spec.containers {
                together = together.saturating_add(value(container)?);
            }
            Some(together.max(largest))
        };
        Self::new(
            effective(&|c| Some(request(&c.resources, "cpu").map_or(0, Quantity::milli_value)))
                .unwrap_or(0),
            effective(&|c| limit(&c.resources, "cpu").map(Quantity::milli_value)),
            effective(&|c| limit(&c.resources, "memory").map(Quantity::value)),
        )
    }

    fn new(cpu_request_milli: u64, cpu_limit_milli: Option<u64>, memory_max: Option<u64>) -> Self {
        let shares = (u128::from(cpu_request_milli) * 1024 / 1000).clamp(2, 262_144);
        let weight = 1 + (shares - 2) * 9999 / 262_142;
        Self {
            cpu_weight: u64::try_from(weight).unwrap_or(10_000),
            cpu_quota: cpu_limit_milli
                .map(|milli| milli.saturating_mul(CPU_PERIOD / 1000).max(1000)),
            memory_max,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(containers: serde_json::Value) -> Pod {
        Pod::parse(&json!({"metadata": {"name": "p", "uid": "u"}, "spec": containers})).unwrap()
    }

    #[test]
    fn the_class_follows_requests_and_limits() {
        let with = |resources| {
            pod(json!({"containers": [{"name": "c", "image": "i", "resources": resources}]}))
        };
        let class = |resources| QosClass::of(&with(resources));
        assert_eq!(class(json!({})), QosClass::BestEffort);
        assert_eq!(class(json!({"requests": {"cpu": "1"}})), QosClass::Burstable);
        assert_eq!(class(json!({"limits": {"cpu": 1, "memory": "1Gi"}})), QosClass::Guaranteed);
        assert_eq!(
            class(json!({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "500m"}})),
            QosClass::Burstable
        );
        assert_eq!(class(json!({"limits": {"memory": "1Gi"}})), QosClass::Burstable);
    }

    #[test]
    fn the_oom_score_follows_the_share_of_memory_asked_for() {
        let pod = pod(json!({"containers": [
            {"name": "c", "image": "i", "resources": {"requests": {"memory": "256Mi"}}}]}));
        let container = &pod.spec.containers[0];
        assert_eq!(oom_score_adj(QosClass::Burstable, container, 1 << 30), 750);
        assert_eq!(oom_score_adj(QosClass::Burstable, container, 1), 3);
        assert_eq!(oom_score_adj(QosClass::Guaranteed, container, 1 << 30), -997);
    }

    #[test]
    fn a_pod_is_limited_when_all_its_containers_are() {
        let limited = json!({"limits": {"cpu": "500m", "memory": "64Mi"}});
        let both = pod(json!({
            "initContainers": [
                {"name": "i", "image": "i", "resources": {"limits": {"cpu": "2", "memory": "1Mi"}}}],
            "containers": [
                {"name": "a", "image": "i", "resources": limited},
                {"name": "b", "image": "i", "resources": limited}]}));
        let limits = CgroupLimits::of_pod(&both);
        assert_eq!(limits.memory_max, Some(128 << 20));
        assert_eq!(limits.cpu_quota, Some(200_000));
        let one = pod(json!({"containers": [
            {"name": "a", "image": "i", "resources": limited}, {"name": "b", "image": "i"}]}));
        let limits = CgroupLimits::of_pod(&one);
        assert_eq!((limits.memory_max, limits.cpu_quota), (None, None));
        assert_eq!(CgroupLimits::of_container(&one.spec.containers[0]).cpu_weight, 20);
        assert_eq!(CgroupLimits::of_container(&one.spec.containers[1]).cpu_weight, 1);
    }
}
