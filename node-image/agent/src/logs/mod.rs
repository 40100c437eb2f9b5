//! Container logs in CRI format: `RFC3339Nano stdout|stderr F|P text`, a line of the container's
//! per line (F), or a part of a long one (P).

mod reader;
mod writer;

pub(crate) use reader::send;
pub(crate) use writer::{LogState, LogWriter, Stream, remove_older};
