//! What a person sees while waiting: a bar on a terminal, plain lines elsewhere.
//!
//! All of it goes to standard error, so that results can be piped.

use std::io::IsTerminal as _;
use std::time::Duration;

use anyhow::Result;
use bulkhead_host_api::client::{ClientError, Task};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::Value;

/// One thing that takes a while.
#[derive(Debug)]
pub(crate) struct Progress {
    bar: Option<ProgressBar>,
    last: String,
}

impl Progress {
    /// Shows nothing until the first step.
    pub(crate) fn new() -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
            bar.set_style(spinner());
            bar.enable_steady_tick(Duration::from_millis(120));
            bar
        });
        Self { bar, last: String::new() }
    }

    /// Now `message` is being done: `done` of `total` units, which is 0 if unknown.
    pub(crate) fn step(&mut self, message: &str, done: u64, total: u64) {
        let Some(bar) = &self.bar else {
            // Without a terminal a line for each thing, not for each unit of it.
            if message != self.last {
                message.clone_into(&mut self.last);
                eprintln!("{message}");
            }
            return;
        };
        if total == 0 {
            bar.unset_length();
            bar.set_style(spinner());
        } else {
            bar.set_style(gauge(total));
            bar.set_length(total);
            bar.set_position(done.min(total));
        }
        bar.set_message(message.to_owned());
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// Shows a long request's progress to its end and returns what it made.
pub(crate) async fn follow(task: std::result::Result<Task, ClientError>) -> Result<Value> {
    let mut progress = Progress::new();
    Ok(task?.finish(|message, done, total| progress.step(message, done, total)).await?)
}

fn spinner() -> ProgressStyle {
    style("{spinner} {msg} ({elapsed})")
}

/// Bytes and counts differ by size only: no count of steps comes near a mebibyte.
fn gauge(total: u64) -> ProgressStyle {
    if total >= 1 << 20 {
        style("{spinner} {msg} [{bar:30}] {binary_bytes}/{binary_total_bytes}")
    } else {
        style("{spinner} {msg} [{bar:30}] {pos}/{len}")
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template)
        .unwrap_or_else(|_| ProgressStyle::default_spinner())
        .progress_chars("=> ")
}
