//! Bytes as what hostile clients send. Each `drive` makes a request, a patch or an object of any
//! bytes, gives it to the server's code, and checks what must hold whatever they are. The property
//! test beside this directory drives them with a few, the fuzz targets in `control-plane/fuzz` with
//! as many as there is time for.

#![allow(unreachable_pub, reason = "the fuzz targets' crate makes this module public")]

pub mod apply;
pub mod bodies;
pub mod definitions;
mod exercise;
pub mod patches;
pub mod pods;
pub mod queries;
mod script;
mod server;
mod values;
pub mod writes;

use script::Script;
