//! The arithmetic of a rollout: how many pods each ReplicaSet gets next. Pure functions over counts,
//! so that what must always hold can be tested for all of them: pods are never fewer available
//! than the strategy allows, and never more in all.

/// What a Deployment asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Plan {
    /// `spec.replicas`.
    pub(super) replicas: i64,
    /// So many pods may be there above that.
    pub(super) max_surge: i64,
    /// So many may be unavailable below that.
    pub(super) max_unavailable: i64,
}

/// A ReplicaSet of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Set {
    /// `spec.replicas`.
    pub(super) desired: i64,
    /// `status.availableReplicas`.
    pub(super) available: i64,
    /// The Deployment's most pods when the set was last sized, if known.
    pub(super) sized_for: Option<i64>,
}

impl Plan {
    /// The plan of a rolling update by its resolved fields. Both zero would never move: one may
    /// be unavailable then.
    pub(super) fn rolling(replicas: i64, max_surge: i64, max_unavailable: i64) -> Self {
        let max_unavailable =
            if max_surge == 0 && max_unavailable == 0 { 1 } else { max_unavailable };
        Self { replicas, max_surge, max_unavailable: max_unavailable.min(replicas) }
    }

    /// At most so many pods.
    pub(super) fn most(&self) -> i64 {
        if self.replicas == 0 { 0 } else { self.replicas + self.max_surge }
    }

    /// At least so many available ones.
    pub(super) fn least_available(&self) -> i64 {
        self.replicas - self.max_unavailable
    }

    /// The new set's next size.
    pub(super) fn grow_new(&self, new: Set, old: &[Set]) -> i64 {
        if new.desired >= self.replicas {
            return self.replicas;
        }
        let all = new.desired + total(old);
        let room = (self.replicas + self.max_surge - all).max(0);
        new.desired + room.min(self.replicas - new.desired)
    }

    /// The old sets' next sizes, from the oldest to the newest: pods that are not available go
    /// first, then as many available ones as can be missed.
    pub(super) fn shrink_old(&self, new: Set, old: &[Set]) -> Vec<i64> {
        let mut sizes: Vec<i64> = old.iter().map(|set| set.desired).collect();
        let all = new.desired + total(old);
        let new_unavailable = (new.desired - new.available).max(0);
        let mut spare = all - self.least_available() - new_unavailable;
        if spare <= 0 {
            return sizes;
        }
        for (size, set) in sizes.iter_mut().zip(old) {
            let unhealthy = (*size - set.available).clamp(0, spare);
            *size -= unhealthy;
            spare -= unhealthy;
        }
        let available = new.available + old.iter().map(|set| set.available).sum::<i64>();
        let mut spare = (available - self.least_available()).min(spare).max(0);
        for size in &mut sizes {
            let fewer = (*size).min(spare);
            *size -= fewer;
            spare -= fewer;
        }
        sizes
    }

    /// The sizes of several active sets after the Deployment was scaled in the middle of a
    /// rollout: each gets its share. `sets` are in the order in which what rounding leaves is
    /// given or taken: the first gets it.
    pub(super) fn proportional(&self, sets: &[Set], status_replicas: i64) -> Vec<i64> {
        let to_add = self.most() - total(sets);
        let mut added = 0;
        let mut sizes: Vec<i64> = sets
            .iter()
            .map(|set| {
                let share = self.share(*set, to_add, added, status_replicas);
                added += share;
                set.desired + share
            })
            .collect();
        let mut rest = to_add - added;
        for size in &mut sizes {
            let resized = (*size + rest).max(0);
            rest -= resized - *size;
            *size = resized;
        }
        sizes
    }

    fn share(&self, set: Set, to_add: i64, added: i64, status_replicas: i64) -> i64 {
        if set.desired == 0 || to_add == added {
            return 0;
        }
        let fraction = if self.replicas == 0 {
            -set.desired
        } else {
            let before = set.sized_for.filter(|most| *most > 0).unwrap_or(status_replicas).max(1);
            let product = i128::from(set.desired) * i128::from(self.most());
            let before = i128::from(before);
            // To the nearest.
            let size = (2 * product + before) / (2 * before);
            i64::try_from(size).unwrap_or(i64::MAX) - set.desired
        };
        let left = to_add - added;
        if to_add > 0 { fraction.clamp(0, left) } else { fraction.clamp(left, 0) }
    }
}

fn total(sets: &[Set]) -> i64 {
    sets.iter().map(|set| set.desired).sum()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn set(desired: i64, available: i64) -> Set {
        Set { desired, available, sized_for: None }
    }

    #[test]
    fn a_rolling_update_step_by_step() {
        // 10 replicas, 25 % each way: 3 surge, 2 unavailable.
        let plan = Plan::rolling(10, 3, 2);
        assert_eq!(plan.grow_new(set(0, 0), &[set(10, 10)]), 3);
        assert_eq!(plan.shrink_old(set(3, 0), &[set(10, 10)]), [8]);
        assert_eq!(plan.grow_new(set(3, 0), &[set(8, 8)]), 5);
        assert_eq!(plan.shrink_old(set(5, 0), &[set(8, 8)]), [8], "none can be missed yet");
        assert_eq!(plan.shrink_old(set(5, 5), &[set(8, 8)]), [3]);
        assert_eq!(plan.shrink_old(set(10, 10), &[set(3, 3)]), [0]);
    }

    #[test]
    fn broken_pods_of_old_sets_go_first() {
        let plan = Plan::rolling(10, 0, 1);
        assert_eq!(plan.shrink_old(set(0, 0), &[set(8, 8), set(2, 0)]), [8, 1]);
    }

    #[test]
    fn a_rollout_that_is_scaled_keeps_its_proportions() {
        let sized = |desired| Set { desired, available: desired, sized_for: Some(13) };
        let plan = Plan::rolling(15, 3, 2);
        // 8 and 5 of 13 are 11 and 7 of 18.
        assert_eq!(plan.proportional(&[sized(8), sized(5)], 13), [11, 7]);
        assert_eq!(Plan::rolling(0, 3, 0).proportional(&[sized(8), sized(5)], 13), [0, 0]);
    }

    fn plans() -> impl Strategy<Value = Plan> {
        (0..50_i64, 0..20_i64, 0..20_i64)
            .prop_map(|(replicas, surge, unavailable)| Plan::rolling(replicas, surge, unavailable))
    }

    fn sets() -> impl Strategy<Value = Vec<Set>> {
        let one = (0..40_i64, 0..=100_i64)
            .prop_map(|(desired, percent)| set(desired, desired * percent / 100));
        proptest::collection::vec(one, 1..5)
    }

    proptest! {
        #[test]
        fn growing_never_surpasses_the_surge(plan in plans(), sets in sets()) {
            let (new, old) = sets.split_first().unwrap();
            let size = plan.grow_new(*new, old);
            prop_assert!(size <= plan.replicas.max(0));
            if size > new.desired {
                prop_assert!(size + total(old) <= plan.replicas + plan.max_surge);
            }
        }

        #[test]
        fn shrinking_never_goes_below_what_must_be_available(plan in plans(), sets in sets()) {
            let (new, old) = sets.split_first().unwrap();
            let sizes = plan.shrink_old(*new, old);
            prop_assert!(sizes.iter().zip(old).all(|(size, set)| (0..=set.desired).contains(size)));
            // At worst a set loses its available pods first.
            let lost = |size: i64, set: &Set| (set.available - size).max(0);
            let after = new.available
                + sizes.iter().zip(old).map(|(size, set)| set.available - lost(*size, set)).sum::<i64>();
            let before = new.available + old.iter().map(|set| set.available).sum::<i64>();
            prop_assert!(after >= plan.least_available().min(before), "{sizes:?}");
        }

        /// Pods that become available at any pace in any order: the rollout ends, and what must
        /// hold holds at each step.
        #[test]
        fn every_rollout_ends(plan in plans(), sets in sets(), pace in 1..5_i64) {
            prop_assume!(plan.replicas > 0);
            let mut old: Vec<Set> = sets;
            // Begin from a state that the plan allows.
            let mut room = plan.replicas;
            for set in &mut old {
                set.desired = set.desired.min(room);
                set.available = set.available.min(set.desired);
                room -= set.desired;
            }
            let mut new = set(0, 0);
            for _ in 0..1000 {
                new.desired = plan.grow_new(new, &old);
                let before = new.available + old.iter().map(|set| set.available).sum::<i64>();
                for (size, set) in plan.shrink_old(new, &old).into_iter().zip(&mut old) {
                    set.desired = size;
                    set.available = set.available.min(size);
                }
                let available = new.available + old.iter().map(|set| set.available).sum::<i64>();
                prop_assert!(available >= plan.least_available().min(before));
                prop_assert!(new.desired + total(&old) <= plan.most());
                new.available = (new.available + pace).min(new.desired);
                if new.available == plan.replicas && total(&old) == 0 {
                    return Ok(());
                }
            }
            prop_assert!(false, "it never ended: {new:?} {old:?}");
        }

        #[test]
        fn proportional_sizes_add_up(plan in plans(), sets in sets(), sized_for in 1..60_i64) {
            let sets: Vec<_> = sets.into_iter().filter(|set| set.desired > 0)
                .map(|set| Set { sized_for: Some(sized_for), ..set }).collect();
            prop_assume!(!sets.is_empty());
            let sizes = plan.proportional(&sets, total(&sets));
            prop_assert!(sizes.iter().all(|size| *size >= 0));
            prop_assert_eq!(sizes.iter().sum::<i64>(), plan.most());
        }
    }
}
