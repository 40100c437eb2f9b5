//! Frames of hostile clients.

mod hostile;

use proptest::collection::vec;
use proptest::prelude::*;

proptest! {
    #[test]
    fn any_bytes_are_frames_or_not(bytes in vec(any::<u8>(), 0..400)) {
        hostile::drive(&bytes);
    }
}
