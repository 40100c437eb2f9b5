//! `bulkhead host …`.

use anyhow::Result;
use bulkhead_host_api::HostInfo;
use serde::Serialize;

use crate::args;
use crate::host::Host;
use crate::output::{print, show, table};
use crate::size::Size;

/// What `host status` prints.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Status {
    running: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    emulated: Option<bool>,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    info: Option<HostInfo>,
}

pub(super) async fn execute(command: &args::Host) -> Result<()> {
    match command {
        args::Host::Start => {
            let host = Host::connect().await?;
            let info = host.client.host().await?;
            let place = if host.is_emulated() { "in the emulated host" } else { "on this machine" };
            print(&format!("the host daemon runs {place}, pid {}\n", info.pid))
        }
        args::Host::Stop => match Host::find().await? {
            Some(host) => {
                host.stop().await?;
                print("the host daemon is stopped\n")
            }
            None => print("no host daemon runs\n"),
        },
        args::Host::Status(output) => {
            let status = match Host::find().await? {
                Some(host) => Status {
                    running: true,
                    emulated: Some(host.is_emulated()),
                    info: Some(host.client.host().await?),
                },
                None => Status { running: false, emulated: None, info: None },
            };
            show(output.format, &status, text)
        }
    }
}

fn text(status: &Status) -> String {
    let Some(info) = &status.info else {
        return "no host daemon runs; 'bulkhead host start' or any other command starts it\n"
            .into();
    };
    let place = if status.emulated == Some(true) { "emulated host" } else { "this machine" };
    let row = [
        place.to_owned(),
        info.version.clone(),
        info.pid.to_string(),
        info.cpus.to_string(),
        Size::from(info.memory).to_string(),
        Size::from(info.disk_free).to_string(),
    ];
    table(["WHERE", "VERSION", "PID", "CPUS", "MEMORY", "DISK FREE"], [row])
}
