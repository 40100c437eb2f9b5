//! Any bytes as a peer's. The property tests beside this directory and the fuzz target `frames` drive
//! it.

#![allow(unreachable_pub, reason = "the fuzz targets' crate makes this module public")]

use std::fmt::Debug;

use bulkhead_agent_protocol::frame::{self, FrameError};
use bulkhead_agent_protocol::frame_io::FrameReader;
use bulkhead_agent_protocol::status::PodEvent;
use bulkhead_agent_protocol::stream::StreamFrame;
use bulkhead_agent_protocol::{Request, Response};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::runtime::Builder;

/// Reads `bytes` as frames of every kind, both of the ways that frames are read.
pub fn drive(bytes: &[u8]) {
    read::<Request>(bytes);
    read::<Response>(bytes);
    read::<PodEvent>(bytes);
    read::<StreamFrame>(bytes);
}

fn read<T: Serialize + DeserializeOwned + PartialEq + Debug>(bytes: &[u8]) {
    if let Ok(value) = frame::decode::<T>(bytes) {
        let sent = frame::encode(&value).unwrap();
        let again: T = frame::decode(&sent[4..]).unwrap();
        assert_eq!(frame::encode(&again).unwrap(), sent, "what is read can be sent on");
    }
    let runtime = Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let (mut rest, mut reader) = (bytes, FrameReader::new(bytes));
        loop {
            match (frame::read::<T>(&mut rest), reader.next::<T>().await) {
                (Ok(one), Ok(other)) => assert_eq!(one, other),
                (Err(FrameError::Malformed(_)), Err(FrameError::Malformed(_))) => {}
                (one, other) => {
                    assert!(one.is_err() && other.is_err(), "{one:?} {other:?}");
                    return;
                }
            }
        }
    });
}
