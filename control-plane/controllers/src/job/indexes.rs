//! The completion indexes of an Indexed job, as its status writes them: `0-2,5`.

use std::collections::BTreeSet;

/// The annotation and label that give a pod its index.
pub(super) const INDEX: &str = "batch.kubernetes.io/job-completion-index";

/// Reads indexes below `completions`; what cannot be read is not there.
pub(super) fn parse(text: &str, completions: i64) -> BTreeSet<i64> {
    let mut indexes = BTreeSet::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        if let (Ok(first), Ok(last)) = (first.parse::<i64>(), last.parse::<i64>()) {
            indexes.extend(first.max(0)..=last.min(completions - 1));
        }
    }
    indexes
}

/// Writes indexes, in ranges.
pub(super) fn format(indexes: &BTreeSet<i64>) -> String {
    let mut ranges: Vec<(i64, i64)> = Vec::new();
    for index in indexes {
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == *index => *last = *index,
            _ => ranges.push((*index, *index)),
        }
    }
    let part = |(first, last): &(i64, i64)| match last - first {
        0 => first.to_string(),
        // As Kubernetes does, two are a list.
        1 => format!("{first},{last}"),
        _ => format!("{first}-{last}"),
    };
    ranges.iter().map(part).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ranges() {
        assert_eq!(format(&parse("0-2,5,7,8", 10)), "0-2,5,7,8");
        assert_eq!(format(&parse("3,x,-,2-1,9-99", 11)), "3,9,10");
        assert!(parse("", 5).is_empty());
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(indexes in proptest::collection::btree_set(0..50_i64, 0..30)) {
            prop_assert_eq!(parse(&format(&indexes), 50), indexes);
        }
    }
}
