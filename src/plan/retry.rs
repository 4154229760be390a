//! What is done about a failure: the one table of it, and the pauses between attempts.
//!
//! "Passing" means that the same chunk or job, begun anew, can go well without anybody changing what it does. A chunk
//! is always begun anew as a whole, a job goes on behind its last statement that is recorded in the ledger; what
//! became of a COMMIT without a reply is not decided here but looked up there.

use crate::model::Side;

/// How a failure showed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Symptom<'a> {
    /// The server said so (`errcodes.txt`), to a statement or to a login.
    Sqlstate(&'a str),
    /// A connection that was in use broke without a last word.
    Lost,
    /// No connection could be made: refused, unreachable, timed out, a name that does not resolve.
    NoConnection,
    /// Everything else: TLS, a login that the server refuses for good, a stream out of step, counts that differ.
    Other,
}

/// What is done about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Again, on a fresh connection, after a pause.
    Retry,
    /// Again, with one worker less where there are others: the server is short of what each worker takes.
    RetryWithFewer,
    /// Again, until the time is up, and the operator is told what would help.
    AskOperator,
    /// No attempt would go better.
    Abort,
}

impl Verdict {
    #[must_use]
    pub fn is_retried(self) -> bool {
        self != Self::Abort
    }
}

/// The table: what a failure on this side means for the chunk or job at hand. `docs/RELIABILITY.md` explains each row.
#[must_use]
#[expect(clippy::match_same_arms, reason = "a table, with a reason for each row")]
pub fn verdict(side: Side, symptom: Symptom<'_>) -> Verdict {
    let state = match symptom {
        Symptom::Lost | Symptom::NoConnection => return Verdict::Retry,
        Symptom::Other => return Verdict::Abort,
        Symptom::Sqlstate(state) => state,
    };
    match (side, state) {
        // Deadlock, serialization failure and recovery conflict, unknown completion; not 40002, a constraint's word.
        (_, "40P01" | "40001" | "40003") => Verdict::Retry,
        // Ended by an administrator or a crash elsewhere, starting, stopping, recovering.
        (_, "57P01" | "57P02" | "57P03") => Verdict::Retry,
        // A session that somebody's timeout has ended while it was idle: only the session is lost.
        (_, "57P05" | "25P03") => Verdict::Retry,
        // Sessions of ours wait without a limit, but for LOCK … NOWAIT: somebody else's limit.
        (_, "55P03") => Verdict::Retry,
        // A server that has just become a standby, or is not yet promoted.
        (Side::Target, "25006") => Verdict::Retry,
        // Too many connections; out of memory or of shared memory.
        (_, "53300" | "53200") => Verdict::RetryWithFewer,
        // A disk is full: of tables, temporary files or WAL.
        (_, "53100") => Verdict::AskOperator,
        // 08P01 is a protocol violation: the next attempt would be one too.
        (_, "08P01") => Verdict::Abort,
        (_, state) if state.starts_with("08") => Verdict::Retry,
        _ => Verdict::Abort,
    }
}

/// What would help, for [`Verdict::AskOperator`] and [`Verdict::RetryWithFewer`].
#[must_use]
pub fn advice(side: Side, symptom: Symptom<'_>) -> Option<String> {
    match symptom {
        Symptom::Sqlstate("53100") => Some(format!("make room on the disk of the {side}: it goes on by itself then")),
        Symptom::Sqlstate("53300") => Some(format!("close other sessions of the {side}, or use fewer --jobs")),
        Symptom::Sqlstate("53200") => Some("use fewer --jobs, or raise the limit that the server names".into()),
        _ => None,
    }
}

/// The first pause.
pub const FIRST_PAUSE_MS: u64 = 250;

/// The longest pause: a server that is back is not kept waiting for longer.
pub const LONGEST_PAUSE_MS: u64 = 10_000;

/// How long to wait before attempt `attempt` (2 is the first repetition), in ms: twice as long each time. `spread` in
/// 0..=255 takes away up to half, so that workers that failed together do not come back together.
#[must_use]
pub fn pause_ms(attempt: u32, spread: u8) -> u64 {
    let doubled = FIRST_PAUSE_MS.saturating_mul(1 << attempt.saturating_sub(2).min(16)).min(LONGEST_PAUSE_MS);
    doubled - doubled / 2 * u64::from(spread) / 255
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SIDES: [Side; 2] = [Side::Source, Side::Target];

    #[test]
    fn what_passes_is_tried_again_on_both_sides() {
        for side in SIDES {
            for symptom in [Symptom::Lost, Symptom::NoConnection] {
                assert_eq!(verdict(side, symptom), Verdict::Retry);
            }
            for state in ["40001", "40P01", "57P01", "57P02", "57P03", "57P05", "08006", "08000", "55P03"] {
                assert_eq!(verdict(side, Symptom::Sqlstate(state)), Verdict::Retry, "{state}");
            }
            assert_eq!(verdict(side, Symptom::Sqlstate("53300")), Verdict::RetryWithFewer);
            assert_eq!(verdict(side, Symptom::Sqlstate("53200")), Verdict::RetryWithFewer);
            assert_eq!(verdict(side, Symptom::Sqlstate("53100")), Verdict::AskOperator);
            assert!(advice(side, Symptom::Sqlstate("53100")).is_some());
        }
    }

    #[test]
    fn what_would_fail_again_is_not_tried_again() {
        let for_good = [
            "08P01", // protocol violation
            "22P02", // a value that is none
            "23505", "23503", // keys
            "25P04", // the operator's limit for a transaction
            "28P01", // password
            "3D000", // no such database
            "40002", // a constraint
            "42501", // rights
            "42P01", // no such table
            "42P07", // is there already
            "57014", // somebody cancelled it
            "57P04", // the database was dropped
            "58030", // I/O error
            "XX000", "XX001", "XX002",
        ];
        for side in SIDES {
            for state in for_good {
                assert_eq!(verdict(side, Symptom::Sqlstate(state)), Verdict::Abort, "{state}");
            }
            assert_eq!(verdict(side, Symptom::Other), Verdict::Abort);
        }
    }

    /// The source is only read: that it may not be written to is no state that passes, and nothing that we ask for.
    #[test]
    fn a_read_only_server_is_waited_for_at_the_target_only() {
        assert_eq!(verdict(Side::Target, Symptom::Sqlstate("25006")), Verdict::Retry);
        assert_eq!(verdict(Side::Source, Symptom::Sqlstate("25006")), Verdict::Abort);
    }

    proptest! {
        /// Classes that say something about the data or the statement are never tried again, whatever the code.
        #[test]
        fn errors_of_data_and_syntax_never_pass(class in prop::sample::select(vec!["22", "23", "42", "XX", "0A", "28", "3D", "3F", "2B", "P0"]), rest in "[0-9A-Z]{3}") {
            for side in SIDES {
                prop_assert_eq!(verdict(side, Symptom::Sqlstate(&format!("{class}{rest}"))), Verdict::Abort);
            }
        }

        #[test]
        fn no_state_panics(state in ".{0,8}") {
            for side in SIDES {
                let _ = (verdict(side, Symptom::Sqlstate(&state)), advice(side, Symptom::Sqlstate(&state)));
            }
        }

        #[test]
        fn pauses_grow_up_to_a_limit(attempt in 2u32..200, spread: u8) {
            let pause = pause_ms(attempt, spread);
            prop_assert!((FIRST_PAUSE_MS / 2..=LONGEST_PAUSE_MS).contains(&pause));
            prop_assert!(pause_ms(attempt + 1, spread) >= pause);
            prop_assert!(pause_ms(attempt, 0) >= pause && pause >= pause_ms(attempt, 0) / 2);
        }
    }
}
