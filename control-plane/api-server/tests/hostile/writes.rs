//! Objects of every kind, through the whole server.

use super::exercise::exercise;
use super::{Script, server};

/// Does what `bytes` say with an object.
pub fn drive(bytes: &[u8]) {
    let mut script = Script::new(bytes);
    server::with(|server| {
        let mut resources = server.resources();
        resources.retain(|resource| resource.is_stored() && resource.verbs.contains(&"create"));
        let resource = script.choose(&resources);
        exercise(server, &mut script, resource);
    });
}
