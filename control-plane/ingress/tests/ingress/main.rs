//! The proxy in front of real backends, told what to do by a real API server.

mod client;
mod exchange;
mod hostile;
mod rolling;
mod rules;
mod tls;
mod world;
