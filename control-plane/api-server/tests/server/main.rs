//! The server as its clients see it: each test starts a real one on a loopback port. One program has
//! all of them, as each program more would be the clients' libraries compiled and linked once more.

mod admission;
mod api;
mod auth;
mod autoscaling;
mod backup;
mod certificates;
mod commands;
mod common;
mod crash;
mod cron;
mod custom;
mod custom_rules;
mod daemon;
mod encryption;
mod endpoints;
mod etcd;
mod helm;
mod kinds;
mod kubectl;
mod libraries;
mod machinery;
mod proxy;
mod quotas;
mod robust;
mod scheduling;
mod services;
mod stateful;
mod streams;
mod workloads;
