//! Positions on a ring, of several lists, in the order in which one comes to them.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Goes once around a ring and tells how far away each listed position is from the start.
#[derive(Debug)]
pub(crate) struct Walk<'a> {
    /// The next position of each list: its distance, the list, and how many came before it.
    ahead: BinaryHeap<Reverse<(usize, usize, usize)>>,
    /// Each list, in order, and where in it the walk begins.
    lists: Vec<(&'a [usize], usize)>,
    start: usize,
    length: usize,
}

impl<'a> Walk<'a> {
    /// A walk from `start` around a ring of `length` positions; the lists are in ascending order.
    pub(crate) fn new(lists: Vec<&'a [usize]>, start: usize, length: usize) -> Self {
        let begin = |list: &'a [usize]| (list, list.partition_point(|&one| one < start));
        let lists: Vec<_> = lists.into_iter().map(begin).collect();
        let mut walk = Self { ahead: BinaryHeap::with_capacity(lists.len()), lists, start, length };
        (0..walk.lists.len()).for_each(|list| walk.look_ahead(list, 0));
        walk
    }

    fn look_ahead(&mut self, list: usize, passed: usize) {
        let (positions, begin) = self.lists[list];
        if passed < positions.len() {
            let position = positions[(begin + passed) % positions.len()];
            let distance = (position + self.length - self.start) % self.length;
            self.ahead.push(Reverse((distance, list, passed)));
        }
    }
}

impl Iterator for Walk<'_> {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        let Reverse((distance, list, passed)) = self.ahead.pop()?;
        self.look_ahead(list, passed + 1);
        Some(distance)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_passed_together() {
        let walk = |start| Walk::new(vec![&[0, 4, 5], &[2, 3], &[]], start, 6).collect::<Vec<_>>();
        assert_eq!(walk(0), [0, 2, 3, 4, 5]);
        assert_eq!(walk(3), [0, 1, 2, 3, 5]);
        assert_eq!(walk(5), [0, 1, 3, 4, 5]);
    }
}
