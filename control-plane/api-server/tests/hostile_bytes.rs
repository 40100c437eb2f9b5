//! The same bytes each time for what the fuzz targets drive with bytes of any kind.

mod hostile;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::RngSeed;

/// `cases` of them.
fn config(cases: u32) -> ProptestConfig {
    ProptestConfig {
        cases,
        // Looking for more is for the fuzzers; this says that what they drive still holds.
        rng_seed: RngSeed::Fixed(1),
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(config(256))]

    #[test]
    fn bodies(script in vec(any::<u8>(), 0..600)) {
        hostile::bodies::drive(&script);
    }

    #[test]
    fn patches(script in vec(any::<u8>(), 0..600)) {
        hostile::patches::drive(&script);
    }

    #[test]
    fn applies(script in vec(any::<u8>(), 0..600)) {
        hostile::apply::drive(&script);
    }

    #[test]
    fn pods(script in vec(any::<u8>(), 0..600)) {
        hostile::pods::drive(&script);
    }

    #[test]
    fn queries(text in "[ -~]{0,40}") {
        hostile::queries::drive(text.as_bytes());
    }
}

proptest! {
    #![proptest_config(config(48))]

    #[test]
    fn writes(script in vec(any::<u8>(), 0..900)) {
        hostile::writes::drive(&script);
    }

    #[test]
    fn definitions(script in vec(any::<u8>(), 0..900)) {
        hostile::definitions::drive(&script);
    }
}
