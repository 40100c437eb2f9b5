//! Columns of PodDisruptionBudgets and PriorityClasses.

use serde_json::Value;

use super::apps::number;
use super::{AGE, NAME, column, integer};
use crate::object::text;
use crate::resource::Column;

pub(in crate::kinds) const POD_DISRUPTION_BUDGET: &[Column] = &[
    NAME,
    column("Min Available", |budget| amount(&budget["spec"]["minAvailable"])),
    column("Max Unavailable", |budget| amount(&budget["spec"]["maxUnavailable"])),
    integer("Allowed Disruptions", |budget| number(budget, "status.disruptionsAllowed").into()),
    AGE,
];

pub(in crate::kinds) const PRIORITY_CLASS: &[Column] = &[
    NAME,
    integer("Value", |class| number(class, "value").into()),
    column("Global-Default", |class| (class["globalDefault"] == true).into()),
    AGE,
    column("PreemptionPolicy", |class| text(class, "preemptionPolicy").into()),
];

fn amount(value: &Value) -> Value {
    match value {
        Value::Null => "N/A".into(),
        Value::String(text) => text.as_str().into(),
        other => other.to_string().into(),
    }
}
