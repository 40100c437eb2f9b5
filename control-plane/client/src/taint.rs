//! Taints and tolerations.
//! <https://kubernetes.io/docs/concepts/scheduling-eviction/taint-and-toleration/>

use serde_json::Value;

use crate::object;

/// What a taint does to pods that do not tolerate it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Effect {
    /// They are not scheduled.
    NoSchedule,
    /// They are scheduled if there is no other node.
    PreferNoSchedule,
    /// They are not scheduled, and evicted if they run.
    NoExecute,
}

impl Effect {
    fn read(text: &str) -> Option<Self> {
        match text {
            "NoSchedule" => Some(Self::NoSchedule),
            "PreferNoSchedule" => Some(Self::PreferNoSchedule),
            "NoExecute" => Some(Self::NoExecute),
            _ => None,
        }
    }
}

/// A node's taint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Taint {
    /// Its key.
    pub key: String,
    /// Its value; may be empty.
    pub value: String,
    /// What it does.
    pub effect: Effect,
}

impl Taint {
    /// A taint without value.
    #[must_use]
    pub fn of(key: &str, effect: Effect) -> Self {
        Self { key: key.into(), value: String::new(), effect }
    }

    /// Reads a node's `spec.taints`.
    #[must_use]
    pub fn read_all(node: &Value) -> Vec<Self> {
        let read = |taint: &Value| {
            Some(Self {
                key: object::text(taint, "key").into(),
                value: object::text(taint, "value").into(),
                effect: Effect::read(object::text(taint, "effect"))?,
            })
        };
        object::list(node, "spec.taints").iter().filter_map(read).collect()
    }

    /// Whether it keeps a pod with these tolerations from being scheduled.
    #[must_use]
    pub fn forbids(&self, tolerations: &[Toleration]) -> bool {
        self.effect != Effect::PreferNoSchedule && !self.is_tolerated(tolerations)
    }

    /// Whether one of the tolerations is of it.
    #[must_use]
    pub fn is_tolerated(&self, tolerations: &[Toleration]) -> bool {
        tolerations.iter().any(|toleration| toleration.tolerates(self))
    }
}

/// A pod's toleration.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Toleration {
    key: String,
    operator: Operator,
    value: String,
    effect: Option<Effect>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Operator {
    Exists,
    Equal,
    Lt,
    Gt,
}

impl Toleration {
    /// Reads a pod's `spec.tolerations`.
    #[must_use]
    pub fn read_all(pod: &Value) -> Vec<Self> {
        let read = |toleration: &Value| {
            let operator = match object::text(toleration, "operator") {
                "Exists" => Operator::Exists,
                "" | "Equal" => Operator::Equal,
                "Lt" => Operator::Lt,
                "Gt" => Operator::Gt,
                _ => return None,
            };
            Some(Self {
                key: object::text(toleration, "key").into(),
                operator,
                value: object::text(toleration, "value").into(),
                effect: Effect::read(object::text(toleration, "effect")),
            })
        };
        object::list(pod, "spec.tolerations").iter().filter_map(read).collect()
    }

    fn tolerates(&self, taint: &Taint) -> bool {
        if self.effect.is_some_and(|effect| effect != taint.effect) {
            return false;
        }
        if self.key.is_empty() {
            return self.operator == Operator::Exists;
        }
        let numbers = || Some((taint.value.parse::<i64>().ok()?, self.value.parse::<i64>().ok()?));
        self.key == taint.key
            && match self.operator {
                Operator::Exists => true,
                Operator::Equal => self.value == taint.value,
                Operator::Lt => numbers().is_some_and(|(taint, own)| taint < own),
                Operator::Gt => numbers().is_some_and(|(taint, own)| taint > own),
            }
    }

    /// Whether it can tolerate a taint that would rather not have the pod.
    #[must_use]
    pub fn is_of_preference(&self) -> bool {
        self.effect.is_none_or(|effect| effect == Effect::PreferNoSchedule)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_toleration_is_of_a_taint_by_key_value_and_effect() {
        let taint = Taint { key: "k".into(), value: "5".into(), effect: Effect::NoSchedule };
        for (toleration, expected) in [
            (json!({"operator": "Exists"}), true),
            (json!({"key": "k", "operator": "Exists"}), true),
            (json!({"key": "k", "value": "5"}), true),
            (json!({"key": "k", "operator": "Equal", "value": "5", "effect": "NoSchedule"}), true),
            (json!({"key": "k", "operator": "Lt", "value": "6"}), true),
            (json!({"key": "k", "operator": "Gt", "value": "4"}), true),
            (json!({"key": "k", "operator": "Gt", "value": "5"}), false),
            (json!({"key": "k", "operator": "Lt", "value": "x"}), false),
            (json!({"key": "k", "value": "5", "effect": "NoExecute"}), false),
            (json!({"key": "k", "value": "other"}), false),
            (json!({"key": "k"}), false),
            (json!({"key": "other", "operator": "Exists"}), false),
            (json!({"operator": "Equal", "value": "5"}), false),
            (json!({"key": "k", "operator": "Like", "value": "5"}), false),
        ] {
            let pod = json!({"spec": {"tolerations": [toleration]}});
            let tolerations = Toleration::read_all(&pod);
            assert_eq!(taint.is_tolerated(&tolerations), expected, "{toleration}");
        }
    }

    #[test]
    fn a_preference_forbids_nothing() {
        let forbids = |effect| Taint::of("k", effect).forbids(&[]);
        assert!(forbids(Effect::NoSchedule) && forbids(Effect::NoExecute));
        assert!(!forbids(Effect::PreferNoSchedule));
    }
}
