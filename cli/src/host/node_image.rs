//! The node image (kernel and root image) that this machine's nodes boot.

use anyhow::{Context as _, Result};
pub(crate) use bulkhead_node_image::NodeImage;
use bulkhead_node_image::{self as builder, BuildOptions};

use crate::progress::Progress;

/// A step of the build, as it crosses to the thread that shows it.
struct Step {
    message: String,
    done: u64,
    total: u64,
}

/// The node image, built first where it is missing or out of date.
pub(crate) async fn ensure(progress: &mut Progress) -> Result<NodeImage> {
    let (say, mut said) = tokio::sync::mpsc::unbounded_channel();
    let building = tokio::task::spawn_blocking(move || {
        let mut message = "looking for the node image".to_owned();
        builder::build(&BuildOptions::discover(), &mut |news| {
            let (done, total) = match news {
                builder::Progress::Step(step) => {
                    step.clone_into(&mut message);
                    (0, 0)
                }
                builder::Progress::Parts { done, total } => (done, total),
            };
            // The other end goes only with this whole command.
            let _ = say.send(Step { message: message.clone(), done, total });
        })
    });
    while let Some(Step { message, done, total }) = said.recv().await {
        progress.step(&message, done, total);
    }
    building.await?.context("node image")
}
