//! Is it the server that answers, or something in between?
//!
//! A pooler invents the process id in BackendKeyData. So do proxies that give each connection a backend of its own
//! (Neon's does), and those serve us well. What tells them apart is behaviour: a pooler hands one backend to two
//! connections that are both open, or two backends to one connection.

use super::failure::{Failure, pooler_error};
use super::session::Session;
use crate::pg::ErrorKind;

/// A pooler with other clients may hand out its backends in any order; each round would show it.
const ROUNDS: u32 = 4;

const PID: &str = "SELECT pg_catalog.pg_backend_pid()";

/// Whether a proxy answers for the server; an error where it is a pooler. `again` opens another connection.
pub(super) fn judge<'a>(
    first: &mut Session<'a>,
    server_pid: i32,
    again: impl FnOnce() -> Result<Session<'a>, Failure>,
) -> Result<bool, Failure> {
    if server_pid == first.process_id {
        return Ok(false);
    }
    let mut second = match again() {
        Ok(second) => second,
        // No place for a second connection: nothing speaks against the first.
        Err(failure) if failure.error.sqlstate() == Some("53300") => return Ok(true),
        Err(failure) => return Err(failure),
    };
    let shared = shares_backends(first, &mut second, server_pid);
    second.close();
    match shared {
        Ok(false) => {
            tracing::warn!(side = %first.info.side(), "a proxy answers for the server; it keeps sessions apart");
            Ok(true)
        }
        Ok(true) => Err(Failure::stop(pooler_error(
            first.info,
            &first.endpoint,
            "one backend served two connections, or two backends one",
        ))),
        // Statement pooling allows no BEGIN.
        Err(Failure { error, .. }) if matches!(*error.kind, ErrorKind::Server(_)) => {
            Err(Failure::stop(pooler_error(first.info, &first.endpoint, &error.to_string())))
        }
        Err(failure) => Err(failure),
    }
}

fn shares_backends(first: &mut Session<'_>, second: &mut Session<'_>, server_pid: i32) -> Result<bool, Failure> {
    let own = server_pid.to_string();
    let mut other = None;
    for _ in 0..ROUNDS {
        if first.query_value(PID)? != own {
            return Ok(true);
        }
        // The backend that a pooler has just got back from `first` is the next one it gives away.
        second.query("BEGIN")?;
        let seen = second.query_value(PID)?;
        second.query("ROLLBACK")?;
        if seen == own || other.is_some_and(|other| other != seen) {
            return Ok(true);
        }
        other = Some(seen);
    }
    Ok(false)
}
