//! What the targets drive: the code that the crates' own property tests drive.

#[path = "../../../node-image/protocol/tests/hostile/mod.rs"]
pub mod agent_protocol;
#[path = "../../api-server/tests/hostile/mod.rs"]
pub mod api_server;
#[path = "../../cel/tests/hostile/mod.rs"]
pub mod cel;
#[path = "../../spdy/tests/hostile/mod.rs"]
pub mod spdy;
