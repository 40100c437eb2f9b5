//! Amounts of resources as kube-scheduler counts them: cpu in thousandths, all else in whole units.

use std::collections::BTreeMap;

use bulkhead_client::{Quantity, object};
use serde_json::Value;

/// What a container without a request counts for in scores: 100m cpu.
const DEFAULT_CPU: i64 = 100;
/// What a container without a request counts for in scores: 200 MiB of memory.
const DEFAULT_MEMORY: i64 = 200 << 20;

/// Amounts by resource.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Resources {
    /// In thousandths of a CPU.
    pub(crate) cpu: i64,
    /// In bytes.
    pub(crate) memory: i64,
    /// In bytes.
    pub(crate) ephemeral_storage: i64,
    /// Hugepages and extended resources, whole; `pods` where a node says how many it takes.
    pub(crate) others: BTreeMap<String, i64>,
}

impl Resources {
    /// Reads a `ResourceList`. What is no quantity counts for nothing: validation refuses it.
    pub(crate) fn read(list: &Value) -> Self {
        let mut read = Self::default();
        for (name, value) in list.as_object().into_iter().flatten() {
            let Ok(quantity) = Quantity::from_json(value) else { continue };
            let amount = if name == "cpu" { quantity.milli_value() } else { quantity.value() };
            *read.entry(name) = i64::try_from(amount).unwrap_or(i64::MAX);
        }
        read
    }

    /// What a pod needs at once: its containers and sidecars together, or an init container beside
    /// the sidecars that start before it, whichever is more; what the pod as a whole requests goes
    /// first; and its overhead.
    pub(crate) fn of_pod(spec: &Value) -> Self {
        Self::sum_of(spec, Self::read)
    }

    /// The same for scores, in which a container without requests counts for something.
    pub(crate) fn of_pod_for_scores(spec: &Value) -> Self {
        Self::sum_of(spec, |requests| {
            let mut read = Self::read(requests);
            if requests["cpu"].is_null() {
                read.cpu = DEFAULT_CPU;
            }
            if requests["memory"].is_null() {
                read.memory = DEFAULT_MEMORY;
            }
            read
        })
    }

    fn sum_of(spec: &Value, read: impl Fn(&Value) -> Self) -> Self {
        let mut running = Self::default();
        let mut peak = Self::default();
        for init in object::list(spec, "initContainers") {
            let own = read(&init["resources"]["requests"]);
            if init["restartPolicy"] == "Always" {
                running.add(&own);
            } else {
                let mut beside = running.clone();
                beside.add(&own);
                peak.raise_to(&beside);
            }
        }
        for container in object::list(spec, "containers") {
            running.add(&read(&container["resources"]["requests"]));
        }
        running.raise_to(&peak);
        let whole = &spec["resources"]["requests"];
        for (name, amount) in Self::read(whole).iter() {
            if !whole[name].is_null() {
                *running.entry(name) = amount;
            }
        }
        running.add(&Self::read(&spec["overhead"]));
        running
    }

    /// The amount of the resource `name`.
    pub(crate) fn get(&self, name: &str) -> i64 {
        match name {
            "cpu" => self.cpu,
            "memory" => self.memory,
            "ephemeral-storage" => self.ephemeral_storage,
            other => self.others.get(other).copied().unwrap_or_default(),
        }
    }

    fn entry(&mut self, name: &str) -> &mut i64 {
        match name {
            "cpu" => &mut self.cpu,
            "memory" => &mut self.memory,
            "ephemeral-storage" => &mut self.ephemeral_storage,
            other => self.others.entry(other.to_owned()).or_default(),
        }
    }

    /// Every resource with its amount.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, i64)> {
        let named = [
            ("cpu", self.cpu),
            ("memory", self.memory),
            ("ephemeral-storage", self.ephemeral_storage),
        ];
        named.into_iter().chain(self.others.iter().map(|(name, &amount)| (name.as_str(), amount)))
    }

    pub(crate) fn add(&mut self, more: &Self) {
        self.change(more, i64::saturating_add);
    }

    pub(crate) fn subtract(&mut self, less: &Self) {
        self.change(less, i64::saturating_sub);
        self.others.retain(|_, amount| *amount != 0);
    }

    fn raise_to(&mut self, least: &Self) {
        self.change(least, i64::max);
    }

    fn change(&mut self, by: &Self, operation: fn(i64, i64) -> i64) {
        self.cpu = operation(self.cpu, by.cpu);
        self.memory = operation(self.memory, by.memory);
        self.ephemeral_storage = operation(self.ephemeral_storage, by.ephemeral_storage);
        for (name, &amount) in &by.others {
            let entry = self.entry(name);
            *entry = operation(*entry, amount);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn init_containers_count_by_their_peak_and_sidecars_stay() {
        let spec = json!({
            "initContainers": [
                {"restartPolicy": "Always", "resources": {"requests": {"cpu": "100m"}}},
                {"resources": {"requests": {"cpu": "2", "example.com/gpu": 1}}},
            ],
            "containers": [
                {"resources": {"requests": {"cpu": "1", "memory": "1Gi"}}},
                {"resources": {"requests": {"cpu": "500m"}}},
            ],
            "overhead": {"cpu": "250m", "memory": "16Mi"},
        });
        let requests = Resources::of_pod(&spec);
        assert_eq!(requests.cpu, 2100 + 250);
        assert_eq!(requests.memory, (1 << 30) + (16 << 20));
        assert_eq!(requests.get("example.com/gpu"), 1);
    }

    #[test]
    fn what_the_pod_requests_as_a_whole_goes_before_its_containers() {
        let spec = json!({
            "resources": {"requests": {"cpu": "3"}},
            "containers": [{"resources": {"requests": {"cpu": "1", "memory": "1Gi"}}}],
        });
        let requests = Resources::of_pod(&spec);
        assert_eq!((requests.cpu, requests.memory), (3000, 1 << 30));
    }

    #[test]
    fn containers_without_requests_count_in_scores() {
        let spec = json!({"containers": [{}, {"resources": {"requests": {"cpu": "1"}}}]});
        let counted = Resources::of_pod_for_scores(&spec);
        assert_eq!((counted.cpu, counted.memory), (1100, 400 << 20));
        assert_eq!(Resources::of_pod(&spec).memory, 0);
    }

    #[test]
    fn adding_and_subtracting_ends_where_it_began() {
        let mut sum = Resources::read(&json!({"cpu": "1", "memory": "1Gi", "pods": "110"}));
        let before = sum.clone();
        let more = Resources::read(&json!({"cpu": "1500m", "example.com/gpu": "2"}));
        sum.add(&more);
        assert_eq!((sum.cpu, sum.get("example.com/gpu")), (2500, 2));
        sum.subtract(&more);
        assert_eq!(sum, before);
    }
}
