//! PostgreSQL's table-level locks, so that no two jobs are started of which one would wait in the server for the other.

use std::collections::HashMap;

use serde::Serialize;

use crate::model::Oid;

/// The modes of `LOCK TABLE`, from the weakest to the strongest (`lockdefs.h`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LockMode {
    AccessShare,
    RowShare,
    RowExclusive,
    ShareUpdateExclusive,
    Share,
    ShareRowExclusive,
    Exclusive,
    AccessExclusive,
}

impl LockMode {
    const ALL: [Self; 8] = [
        Self::AccessShare,
        Self::RowShare,
        Self::RowExclusive,
        Self::ShareUpdateExclusive,
        Self::Share,
        Self::ShareRowExclusive,
        Self::Exclusive,
        Self::AccessExclusive,
    ];

    /// Whether one session cannot take this mode on a table while another holds `other` (`LockConflicts` in `lock.c`).
    #[must_use]
    pub const fn conflicts_with(self, other: Self) -> bool {
        let weakest = match self {
            Self::AccessShare => Self::AccessExclusive,
            Self::RowShare => Self::Exclusive,
            Self::RowExclusive => Self::Share,
            // Share alone does not conflict with itself.
            Self::Share => return other as u8 >= Self::RowExclusive as u8 && !matches!(other, Self::Share),
            Self::ShareUpdateExclusive => Self::ShareUpdateExclusive,
            Self::ShareRowExclusive => Self::RowExclusive,
            Self::Exclusive => Self::RowShare,
            Self::AccessExclusive => Self::AccessShare,
        };
        other as u8 >= weakest as u8
    }
}

/// The locks of the running jobs.
#[derive(Clone, Debug, Default)]
pub struct LockTable {
    held: HashMap<Oid, [u32; 8]>,
}

impl LockTable {
    /// Whether all of these could be taken now without waiting.
    #[must_use]
    pub fn allows(&self, locks: &[(Oid, LockMode)]) -> bool {
        locks.iter().all(|(oid, wanted)| {
            self.held.get(oid).is_none_or(|counts| {
                LockMode::ALL.iter().all(|&mode| counts[mode as usize] == 0 || !wanted.conflicts_with(mode))
            })
        })
    }

    pub fn take(&mut self, locks: &[(Oid, LockMode)]) {
        for &(oid, mode) in locks {
            self.held.entry(oid).or_default()[mode as usize] += 1;
        }
    }

    /// Gives back what [`LockTable::take`] took.
    pub fn release(&mut self, locks: &[(Oid, LockMode)]) {
        for &(oid, mode) in locks {
            if let Some(counts) = self.held.get_mut(&oid) {
                counts[mode as usize] = counts[mode as usize].saturating_sub(1);
                if *counts == [0; 8] {
                    self.held.remove(&oid);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use LockMode::{
        AccessExclusive, AccessShare, Exclusive, RowExclusive, RowShare, Share, ShareRowExclusive, ShareUpdateExclusive,
    };

    /// The table of the manual, chapter "Explicit Locking".
    #[test]
    fn conflicts_are_the_manuals() {
        let conflicting = [
            (AccessShare, vec![AccessExclusive]),
            (RowShare, vec![Exclusive, AccessExclusive]),
            (RowExclusive, vec![Share, ShareRowExclusive, Exclusive, AccessExclusive]),
            (ShareUpdateExclusive, vec![ShareUpdateExclusive, Share, ShareRowExclusive, Exclusive, AccessExclusive]),
            (Share, vec![RowExclusive, ShareUpdateExclusive, ShareRowExclusive, Exclusive, AccessExclusive]),
            (
                ShareRowExclusive,
                vec![RowExclusive, ShareUpdateExclusive, Share, ShareRowExclusive, Exclusive, AccessExclusive],
            ),
            (
                Exclusive,
                vec![
                    RowShare,
                    RowExclusive,
                    ShareUpdateExclusive,
                    Share,
                    ShareRowExclusive,
                    Exclusive,
                    AccessExclusive,
                ],
            ),
            (AccessExclusive, LockMode::ALL.to_vec()),
        ];
        for (mode, others) in conflicting {
            for other in LockMode::ALL {
                assert_eq!(mode.conflicts_with(other), others.contains(&other), "{mode:?} and {other:?}");
            }
        }
    }

    #[test]
    fn locks_are_given_back() {
        let mut table = LockTable::default();
        table.take(&[(1, Share), (1, Share)]);
        assert!(table.allows(&[(1, Share), (2, AccessExclusive)]));
        table.release(&[(1, Share)]);
        assert!(!table.allows(&[(1, AccessExclusive)]));
        table.release(&[(1, Share)]);
        assert!(table.allows(&[(1, AccessExclusive)]));
    }
}
