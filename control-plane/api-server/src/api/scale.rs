//! The subresource `scale`: an `autoscaling/v1` Scale as a view of any object that has replicas.

use bulkhead_client::Selector;
use serde_json::{Value, json};

use super::update::Target;
use super::{Api, Place};
use crate::object;
use crate::options::WriteOptions;
use crate::resource::ScalePaths;
use crate::status::{Cause, Result, Status};

impl Api {
    /// The scale of the object named `name`.
    ///
    /// # Errors
    /// `NotFound`, also for a kind that has none.
    pub async fn scale(&self, place: &Place, name: &str) -> Result<Value> {
        let paths = place.resource.scale.ok_or_else(Status::no_such_resource)?;
        let object = self.get(place, name).await?;
        Ok(show(&paths, &object))
    }

    /// Sets the scale of the object named `name` to what `change` makes of it.
    ///
    /// # Errors
    /// As an update, and what `change` answers.
    pub async fn set_scale(
        &self,
        place: &Place,
        name: &str,
        options: &WriteOptions,
        mut change: impl FnMut(&Value) -> Result<Value> + Send,
    ) -> Result<Value> {
        let paths = place.resource.scale.ok_or_else(Status::no_such_resource)?;
        let set = self
            .modify(place, name, Target::Main, options, |current| {
                let scale = change(&show(&paths, current))?;
                let replicas = match &scale["spec"]["replicas"] {
                    Value::Null => json!(0),
                    replicas => replicas.clone(),
                };
                if !replicas
                    .as_i64()
                    .is_some_and(|count| (0..=i64::from(i32::MAX)).contains(&count))
                {
                    let why = "must be greater than or equal to 0";
                    let cause = Cause::invalid("spec.replicas", &replicas, why);
                    return Err(Status::invalid("autoscaling", "Scale", name, vec![cause]));
                }
                let mut object = current.clone();
                for field in ["resourceVersion", "uid"] {
                    if let Some(said) = scale["metadata"].get(field) {
                        object["metadata"][field] = said.clone();
                    }
                }
                put(&mut object, paths.replicas, replicas);
                Ok(object)
            })
            .await?;
        Ok(show(&paths, &set))
    }
}

/// Sets the field at a dotted path, making the maps above it.
fn put(object: &mut Value, path: &str, value: Value) {
    match path.split_once('.') {
        None => object[path] = value,
        Some((first, rest)) => {
            if object::map(object, first).is_some() {
                put(&mut object[first], rest, value);
            }
        }
    }
}

fn show(paths: &ScalePaths, object: &Value) -> Value {
    let metadata = &object["metadata"];
    let mut shown = serde_json::Map::new();
    for field in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
        if let Some(value) = metadata.get(field) {
            shown.insert(field.into(), value.clone());
        }
    }
    let number = |path| object::at(object, path).and_then(Value::as_i64).unwrap_or(0);
    let selector = match object::at(object, paths.selector) {
        Some(Value::String(text)) => text.clone(),
        Some(selector)
            if selector["matchLabels"].is_object() || selector["matchExpressions"].is_array() =>
        {
            Selector::read(selector).unwrap_or_default().to_string()
        }
        Some(labels) => Selector::of_labels(labels).to_string(),
        None => String::new(),
    };
    json!({
        "kind": "Scale",
        "apiVersion": "autoscaling/v1",
        "metadata": shown,
        "spec": {"replicas": number(paths.replicas)},
        "status": {"replicas": number(paths.status_replicas), "selector": selector},
    })
}
