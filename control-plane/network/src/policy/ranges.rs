//! Sets of numbers, kept as ranges: of addresses and of ports.

use std::fmt;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

/// A set of numbers: ranges with both their ends, ascending and apart from each other.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Ranges(Vec<(u32, u32)>);

impl Ranges {
    /// From `first` to `last`; none if they are the wrong way round.
    pub(super) fn of(first: u32, last: u32) -> Self {
        Self(if first <= last { vec![(first, last)] } else { Vec::new() })
    }

    /// A network's addresses.
    pub(super) fn network(network: Ipv4Net) -> Self {
        Self::of(network.network().to_bits(), network.broadcast().to_bits())
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether every number up to `last` is in it.
    pub(super) fn is_all(&self, last: u32) -> bool {
        self.0 == [(0, last)]
    }

    /// With those of `other` too.
    pub(super) fn add(&mut self, other: &Self) {
        let mut all = std::mem::take(&mut self.0);
        all.extend(&other.0);
        all.sort_unstable();
        for (first, last) in all {
            match self.0.last_mut() {
                Some((_, end)) if first <= end.saturating_add(1) => *end = last.max(*end),
                _ => self.0.push((first, last)),
            }
        }
    }

    /// Without those of `other`.
    pub(super) fn remove(&mut self, other: &Self) {
        for &(from, to) in &other.0 {
            let apart = |&(first, last): &(u32, u32)| {
                let below = from.checked_sub(1).map(|end| (first, last.min(end)));
                let above = to.checked_add(1).map(|start| (first.max(start), last));
                [below, above].into_iter().flatten().filter(|(first, last)| first <= last)
            };
            self.0 = self.0.iter().flat_map(apart).collect();
        }
    }

    /// As addresses in nftables' language: an anonymous set, or less where that will do.
    pub(super) fn addresses(&self) -> impl fmt::Display {
        self.set(Ipv4Addr::from_bits)
    }

    /// As ports there.
    pub(super) fn ports(&self) -> impl fmt::Display {
        self.set(std::convert::identity)
    }

    fn set<T: fmt::Display>(&self, show: impl Fn(u32) -> T) -> String {
        let ranges: Vec<String> = self
            .0
            .iter()
            .map(|&(first, last)| match first == last {
                true => show(first).to_string(),
                false => format!("{}-{}", show(first), show(last)),
            })
            .collect();
        match ranges.as_slice() {
            [range] => range.clone(),
            ranges => format!("{{ {} }}", ranges.join(", ")),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn networks(texts: &[&str]) -> Ranges {
        let mut all = Ranges::default();
        texts.iter().for_each(|text| all.add(&Ranges::network(text.parse().unwrap())));
        all
    }

    #[test]
    fn a_block_without_its_exceptions() {
        let mut block = networks(&["10.0.0.0/8"]);
        block.remove(&networks(&["10.1.0.0/16", "10.0.0.0/32", "10.255.255.255/32"]));
        let shown = block.addresses().to_string();
        assert_eq!(shown, "{ 10.0.0.1-10.0.255.255, 10.2.0.0-10.255.255.254 }");
        block.remove(&networks(&["0.0.0.0/0"]));
        assert!(block.is_empty());
        assert!(networks(&["0.0.0.0/1", "128.0.0.0/1"]).is_all(u32::MAX));
        assert!(Ranges::of(90, 80).is_empty());
        assert_eq!(Ranges::of(80, 80).ports().to_string(), "80");
    }

    proptest! {
        #[test]
        fn ranges_are_sets(steps in prop::collection::vec((any::<bool>(), 0_u32..40, 0_u32..12), 0..12)) {
            let (mut ranges, mut numbers) = (Ranges::default(), std::collections::BTreeSet::new());
            for (add, first, length) in steps {
                let one = Ranges::of(first, first + length);
                if add {
                    ranges.add(&one);
                    numbers.extend(first..=first + length);
                } else {
                    ranges.remove(&one);
                    numbers.retain(|number| !(first..=first + length).contains(number));
                }
            }
            let had: Vec<u32> = ranges.0.iter().flat_map(|&(first, last)| first..=last).collect();
            prop_assert_eq!(had, numbers.into_iter().collect::<Vec<_>>());
            prop_assert!(ranges.0.windows(2).all(|pair| pair[0].1 + 1 < pair[1].0));
        }
    }
}
