//! Whether ctid ranges make up a whole relation.

use crate::model::{BlockNumber, CtidRange};

/// What a set of ranges covers. Ranges are half-open; a missing end is open.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Coverage {
    /// What no range holds, in order.
    pub(super) missing: Vec<CtidRange>,
    /// The first two ranges that hold the same block.
    pub(super) overlap: Option<(CtidRange, CtidRange)>,
}

impl Coverage {
    pub(super) fn of(ranges: impl Iterator<Item = CtidRange>) -> Self {
        let mut ranges: Vec<_> = ranges.collect();
        ranges.sort_by_key(|r| (r.start.unwrap_or(0), r.end.map_or(u64::MAX, u64::from)));
        let mut coverage = Self::default();
        // The first block not yet held, `None` once everything is, and the range that reaches up to it.
        let mut next: Option<BlockNumber> = Some(0);
        let mut last = CtidRange::ALL;
        for range in ranges {
            let start = range.start.unwrap_or(0);
            if next.is_none_or(|next| start < next) {
                coverage.overlap.get_or_insert((last, range));
            }
            if let Some(gap) = next.filter(|&next| next < start) {
                let from = Some(gap).filter(|&gap| gap > 0);
                coverage.missing.push(CtidRange { start: from, end: Some(start) });
            }
            next = match (next, range.end) {
                (Some(next), Some(end)) => Some(next.max(end)),
                _ => None,
            };
            last = range;
        }
        if let Some(next) = next {
            coverage.missing.push(CtidRange { start: Some(next).filter(|&next| next > 0), end: None });
        }
        coverage
    }

    pub(super) fn is_complete(&self) -> bool {
        self.fault().is_none()
    }

    /// What is wrong, as the end of a sentence about the segments.
    pub(super) fn fault(&self) -> Option<String> {
        if let Some((a, b)) = self.overlap {
            return Some(format!("overlap ({a} and {b})"));
        }
        let missing: Vec<_> = self.missing.iter().take(3).map(ToString::to_string).collect();
        let more = if self.missing.len() > missing.len() { " and more" } else { "" };
        (!missing.is_empty()).then(|| format!("do not hold {}{more}", missing.join(", ")))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn range(start: impl Into<Option<u32>>, end: impl Into<Option<u32>>) -> CtidRange {
        CtidRange { start: start.into(), end: end.into() }
    }

    #[test]
    fn gaps_and_overlaps_are_named() {
        let of = |ranges: &[CtidRange]| Coverage::of(ranges.iter().copied());
        assert!(of(&[CtidRange::ALL]).is_complete());
        assert!(of(&[range(7, None), range(None, 7)]).is_complete());
        assert_eq!(of(&[]).missing, [CtidRange::ALL]);
        assert_eq!(of(&[range(None, 3), range(5, 9)]).missing, [range(3, 5), range(9, None)]);
        assert_eq!(of(&[range(5, None)]).missing, [range(None, 5)]);
        assert!(of(&[CtidRange::ALL, range(4, 5)]).overlap.is_some());
        assert!(of(&[range(None, 5), range(4, None)]).overlap.is_some());
        assert!(of(&[range(0, None), range(0, None)]).overlap.is_some());
    }

    proptest! {
        #[test]
        fn cuts_of_the_whole_are_complete_until_one_is_lost(
            mut cuts in prop::collection::btree_set(1u32.., 1..20),
            lost in any::<prop::sample::Index>(),
        ) {
            let cuts: Vec<_> = std::mem::take(&mut cuts).into_iter().collect();
            let mut ranges = vec![range(None, cuts[0])];
            ranges.extend(cuts.windows(2).map(|w| range(w[0], w[1])));
            ranges.push(range(cuts[cuts.len() - 1], None));
            ranges.reverse();
            prop_assert!(Coverage::of(ranges.iter().copied()).is_complete());
            let lost = ranges.remove(lost.index(ranges.len()));
            prop_assert_eq!(Coverage::of(ranges.into_iter()).missing, vec![lost]);
        }
    }
}
