//! Frames of hostile peers.

#![cfg(feature = "async")]

mod hostile;

use proptest::collection::vec;
use proptest::prelude::*;

proptest! {
    #[test]
    fn any_bytes_are_frames_or_not(bytes in vec(any::<u8>(), 0..100)) {
        hostile::drive(&bytes);
    }

    #[test]
    fn any_json_is_a_frame_or_not(text in r#"\{"(verb|kind|result|type)": "[a-z]{1,8}", "body": [{}\[\]0-9a-z":,]{0,20}\}"#) {
        let mut bytes = u32::try_from(text.len()).unwrap().to_le_bytes().to_vec();
        bytes.extend(text.as_bytes());
        hostile::drive(&bytes);
        hostile::drive(text.as_bytes());
    }
}
