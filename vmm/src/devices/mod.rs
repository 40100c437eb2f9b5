//! The devices of a PC that Linux wants, as little of each as it needs.

pub mod boot_timer;
pub mod i8042;
pub mod power;
pub mod serial;
