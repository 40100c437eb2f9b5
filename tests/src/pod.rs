//! The plainest pod that does something.

use serde_json::{Value, json};

/// A pod of one container `c`, of `localhost/IMAGE:test`, that runs a shell script and ends at once when
/// it is deleted. Its label `app` is its name.
#[must_use]
pub fn pod(name: &str, image: &str, script: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": {
            "terminationGracePeriodSeconds": 0,
            "containers": [{
                "name": "c",
                "image": format!("localhost/{image}:test"),
                "imagePullPolicy": "IfNotPresent",
                "command": ["sh", "-c", script],
            }],
        },
    })
}
