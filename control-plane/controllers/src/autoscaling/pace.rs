//! How fast replicas may follow what metrics ask for: stabilization windows, policies, and the bounds.
//! <https://kubernetes.io/docs/tasks/run-application/horizontal-pod-autoscale/#configurable-scaling-behavior>

use std::time::Duration;

use bulkhead_client::Quantity;
use bulkhead_client::object::{list, number, text};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::usage::Tolerance;

/// How far from its target a metric may be, unless it is said.
const TOLERANCE: f64 = 0.1;
/// For how long the highest size of late is kept, unless it is said.
const DOWN_WINDOW: u64 = 300;
/// Nothing asks for what is older.
const LONGEST: Duration = Duration::from_secs(3600);

/// What an autoscaler remembers.
#[derive(Debug, Default)]
pub(super) struct Memory {
    /// What metrics asked for, and when.
    asked: Vec<(Instant, i64)>,
    /// By how much it was scaled, up or down, and when.
    scaled: Vec<(Instant, i64)>,
}

/// A condition of the status: whether it is met, reason and message.
pub(super) type Said = (&'static str, &'static str, &'static str);

/// What the pace comes to.
#[derive(Debug, PartialEq)]
pub(super) struct Paced {
    pub(super) replicas: i64,
    /// The condition AbleToScale.
    pub(super) able: Said,
    /// The condition ScalingLimited.
    pub(super) limited: Said,
}

/// How far from its target each direction lets a metric be.
pub(super) fn tolerance(spec: &Value) -> Tolerance {
    #[expect(clippy::cast_precision_loss, reason = "a fraction of thousandths")]
    let of = |direction: &str| {
        let said = Quantity::from_json(&spec["behavior"][direction]["tolerance"]);
        said.map_or(TOLERANCE, |said| said.milli_value() as f64 / 1000.0)
    };
    Tolerance { up: of("scaleUp"), down: of("scaleDown") }
}

impl Memory {
    /// Notes that replicas changed by so many.
    pub(super) fn note_scaled(&mut self, by: i64) {
        self.scaled.push((Instant::now(), by));
    }

    /// What `current` replicas become, where metrics ask for `asked`.
    pub(super) fn pace(&mut self, spec: &Value, current: i64, asked: i64) -> Paced {
        let now = Instant::now();
        for memory in [&mut self.asked, &mut self.scaled] {
            memory.retain(|(time, _)| now - *time < LONGEST);
        }
        if self.asked.is_empty() {
            // What was before this began is not undone at once.
            self.asked.push((now, current));
        }
        let (stable, able) = self.stabilize(spec, current, asked, now);
        self.asked.push((now, asked));
        let (replicas, limited) = self.limit(spec, current, stable, now);
        Paced { replicas, able, limited }
    }

    /// The least that was asked for in the window of scaling up, the most in that of scaling down.
    fn stabilize(&self, spec: &Value, current: i64, asked: i64, now: Instant) -> (i64, Said) {
        let window = |direction: &str, default: u64| {
            let said = number(&spec["behavior"][direction], "stabilizationWindowSeconds");
            Duration::from_secs(said.and_then(|said| u64::try_from(said).ok()).unwrap_or(default))
        };
        let within = |window: Duration| {
            let recent = self.asked.iter().filter(move |(time, _)| now - *time < window);
            recent.map(|(_, asked)| *asked)
        };
        let up = within(window("scaleUp", 0)).fold(asked, i64::min);
        let down = within(window("scaleDown", DOWN_WINDOW)).fold(asked, i64::max);
        let stable = current.max(up).min(down);
        let said = if stable > asked {
            (
                "True",
                "ScaleDownStabilized",
                "recent recommendations were higher than current one, applying the highest recent recommendation",
            )
        } else if stable < asked {
            (
                "True",
                "ScaleUpStabilized",
                "recent recommendations were lower than current one, applying the lowest recent recommendation",
            )
        } else {
            ("True", "ReadyForNewScale", "recommended size matches current size")
        };
        (stable, said)
    }

    fn limit(&self, spec: &Value, current: i64, stable: i64, now: Instant) -> (i64, Said) {
        let least = number(spec, "minReplicas").unwrap_or(1);
        let most = number(spec, "maxReplicas").unwrap_or(1);
        if stable > current {
            let fastest = self.fastest(spec, "scaleUp", current, now).max(current);
            let allowed = most.min(fastest);
            if stable > allowed {
                let said = if fastest < most {
                    (
                        "True",
                        "ScaleUpLimit",
                        "the desired replica count is increasing faster than the maximum scale rate",
                    )
                } else {
                    (
                        "True",
                        "TooManyReplicas",
                        "the desired replica count is more than the maximum replica count",
                    )
                };
                return (allowed, said);
            }
        } else if stable < current {
            let fastest = self.fastest(spec, "scaleDown", current, now).min(current);
            let allowed = least.max(fastest);
            if stable < allowed {
                let said = if fastest > least {
                    (
                        "True",
                        "ScaleDownLimit",
                        "the desired replica count is decreasing faster than the maximum scale rate",
                    )
                } else {
                    (
                        "True",
                        "TooFewReplicas",
                        "the desired replica count is less than the minimum replica count",
                    )
                };
                return (allowed, said);
            }
        }
        let said =
            ("False", "DesiredWithinRange", "the desired count is within the acceptable range");
        (stable, said)
    }

    /// What the policies of a direction let `current` replicas become at most, or at least.
    fn fastest(&self, spec: &Value, direction: &str, current: i64, now: Instant) -> i64 {
        let rules = &spec["behavior"][direction];
        let up = direction == "scaleUp";
        if rules["selectPolicy"] == "Disabled" {
            return current;
        }
        let percent = json!({"type": "Percent", "value": 100, "periodSeconds": 15});
        let pods = json!({"type": "Pods", "value": 4, "periodSeconds": 15});
        let policies = match list(rules, "policies") {
            [] if up => vec![pods, percent],
            [] => vec![percent],
            some => some.to_vec(),
        };
        let proposed = policies.iter().map(|policy| {
            let seconds = number(policy, "periodSeconds").unwrap_or(15);
            let period = Duration::from_secs(u64::try_from(seconds).unwrap_or(15));
            let recent = self.scaled.iter().filter(|(time, _)| now - *time < period);
            let before = current - recent.map(|(_, by)| by).sum::<i64>();
            let value = number(policy, "value").unwrap_or(0);
            match (text(policy, "type"), up) {
                ("Pods", true) => before + value,
                ("Pods", false) => before - value,
                // Fractions count as whole pods, both ways.
                (_, true) => before + (before * value + 99).div_euclid(100),
                (_, false) => (before * (100 - value)).div_euclid(100),
            }
        });
        let furthest = (rules["selectPolicy"] != "Min") == up;
        let found = if furthest { proposed.max() } else { proposed.min() };
        found.unwrap_or(current)
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    fn reasons(paced: &Paced) -> (i64, &str, &str) {
        (paced.replicas, paced.able.1, paced.limited.1)
    }

    #[tokio::test(start_paused = true)]
    async fn up_at_once_and_down_when_all_has_been_quiet() {
        let spec = json!({"minReplicas": 1, "maxReplicas": 20});
        let mut memory = Memory::default();
        let paced = memory.pace(&spec, 2, 5);
        assert_eq!(reasons(&paced), (5, "ReadyForNewScale", "DesiredWithinRange"));
        memory.note_scaled(3);
        // Twice as many, or four more, in 15 s: of two there may be six.
        let paced = memory.pace(&spec, 5, 12);
        assert_eq!(reasons(&paced), (6, "ReadyForNewScale", "ScaleUpLimit"));
        advance(Duration::from_secs(20)).await;
        assert_eq!(memory.pace(&spec, 6, 30).replicas, 12);
        assert_eq!(
            reasons(&memory.pace(&spec, 20, 30)),
            (20, "ReadyForNewScale", "TooManyReplicas")
        );
    }

    #[tokio::test(start_paused = true)]
    async fn the_highest_of_late_is_kept() {
        let spec = json!({"minReplicas": 2, "maxReplicas": 20});
        let mut memory = Memory::default();
        assert_eq!(memory.pace(&spec, 8, 8).replicas, 8);
        advance(Duration::from_secs(200)).await;
        assert_eq!(
            reasons(&memory.pace(&spec, 8, 1)),
            (8, "ScaleDownStabilized", "DesiredWithinRange")
        );
        advance(Duration::from_secs(101)).await;
        assert_eq!(reasons(&memory.pace(&spec, 8, 1)), (2, "ReadyForNewScale", "TooFewReplicas"));
    }

    #[tokio::test(start_paused = true)]
    async fn policies_bound_each_direction() {
        let policy =
            |kind: &str, value: i64| json!({"type": kind, "value": value, "periodSeconds": 60});
        let rules = |select: &str| {
            json!({"minReplicas": 1, "maxReplicas": 100, "behavior": {
                "scaleUp": {"selectPolicy": select, "policies": [policy("Pods", 3), policy("Percent", 50)]},
                "scaleDown": {
                    "selectPolicy": select, "stabilizationWindowSeconds": 0,
                    "policies": [policy("Pods", 3), policy("Percent", 50)],
                },
            }})
        };
        let to = |spec: &Value, asked: i64| Memory::default().pace(spec, 10, asked).replicas;
        assert_eq!((to(&rules("Max"), 50), to(&rules("Max"), 1)), (15, 5));
        assert_eq!((to(&rules("Min"), 50), to(&rules("Min"), 1)), (13, 7));
        assert_eq!((to(&rules("Disabled"), 50), to(&rules("Disabled"), 1)), (10, 10));
        let mut memory = Memory::default();
        memory.note_scaled(-3);
        assert_eq!(memory.pace(&rules("Min"), 7, 1).replicas, 7, "three went this minute");
        advance(Duration::from_secs(60)).await;
        assert_eq!(memory.pace(&rules("Min"), 7, 1).replicas, 4);
    }
}
