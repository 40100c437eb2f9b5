//! Pods as the API has them, given to an agent.

use bulkhead_agent_protocol::{Pod, frame};
use bulkhead_api_server::schema;

use super::Script;
use super::values::{Manner, of_shape};

/// Gives an agent the pod that `bytes` say. What it takes can be sent, and is the same then.
pub fn drive(bytes: &[u8]) {
    let shape = schema::builtin().kind("", "v1", "Pod");
    let pod = of_shape(&mut Script::new(bytes), shape.as_ref(), Manner::Object);
    if let Ok(pod) = Pod::parse(&pod) {
        let sent = serde_json::to_vec(&pod).unwrap();
        let received: Pod = frame::decode(&sent).unwrap();
        assert_eq!(serde_json::to_vec(&received).unwrap(), sent);
    }
}
