//! By what a process knows a snapshot again that another one has read.

use serde::{Deserialize, Serialize};

use super::error::Result;
use super::snapshot::Snapshot;
use super::wire::DataConnection;
use crate::model::{Lsn, ServerVersion, quote_literal};

/// Everything that a server says of a snapshot. What it does not tell (too old, or not to this role) is `None`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evidence {
    /// As it was exported.
    pub name: Option<String>,
    /// Where the write-ahead log was when the snapshot was taken, or later.
    pub lsn: Option<Lsn>,
    /// `txid_current_snapshot()` inside of it.
    pub running_txids: String,
    pub in_recovery: bool,
    pub origin: Origin,
}

/// Where a snapshot comes from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// `pg_control_system()`, from 9.6 on.
    pub system_identifier: Option<String>,
    /// Of the log that is written; a standby does not tell.
    pub timeline: Option<String>,
    /// `pg_postmaster_start_time()`.
    pub server_started_at: Option<String>,
    /// The backend whose transaction has exported it. Names of snapshots are given again after a restart or a crash:
    /// from 10 on they are made of numbers that then begin anew (`ExportSnapshot`).
    pub exporter_pid: Option<String>,
}

impl Origin {
    /// Asks on a connection that is inside the snapshot `name`.
    ///
    /// # Errors
    /// The connection's.
    pub(super) fn read(connection: &mut DataConnection, name: Option<&str>, in_recovery: bool) -> Result<Self> {
        let version = connection.version();
        let mut origin = Self {
            server_started_at: value(connection, "SELECT pg_catalog.pg_postmaster_start_time()")?,
            ..Self::default()
        };
        if version >= ServerVersion::V9_6 && may_ask(connection, "pg_control_system")? {
            let sql = "SELECT system_identifier FROM pg_catalog.pg_control_system()";
            origin.system_identifier = value(connection, sql)?;
        }
        let (file, position) = if version >= ServerVersion::V10 {
            ("pg_walfile_name", "pg_current_wal_lsn")
        } else {
            ("pg_xlogfile_name", "pg_current_xlog_location")
        };
        if !in_recovery && may_ask(connection, file)? {
            // The first eight digits are the timeline (`XLogFileName`).
            let sql = format!("SELECT pg_catalog.substr(pg_catalog.{file}(pg_catalog.{position}()), 1, 8)");
            origin.timeline = value(connection, &sql)?;
        }
        if let Some(transaction) = name.and_then(exporting_transaction) {
            let sql = format!(
                "SELECT pid FROM pg_catalog.pg_locks
                 WHERE locktype = 'virtualxid' AND virtualxid = {} AND mode = 'ExclusiveLock'",
                quote_literal(&transaction)
            );
            origin.exporter_pid = value(connection, &sql)?;
        }
        Ok(origin)
    }
}

/// The virtual transaction that a snapshot's name speaks of, as `pg_locks` writes it: names are
/// `%08X-%08X-%d` of the backend, its transaction and a number from 10 on, before that `%08X-%d` of a transaction.
fn exporting_transaction(name: &str) -> Option<String> {
    let mut parts = name.split('-').map(|part| u32::from_str_radix(part, 16));
    match (parts.next(), parts.next(), parts.next(), parts.next()) {
        (Some(Ok(backend)), Some(Ok(transaction)), Some(Ok(_)), None) => Some(format!("{backend}/{transaction}")),
        _ => None,
    }
}

/// A query that is refused would cost the transaction, and the snapshot with it.
fn may_ask(connection: &mut DataConnection, function: &str) -> Result<bool> {
    let sql = format!(
        "SELECT pg_catalog.bool_and(pg_catalog.has_function_privilege(p.oid, 'EXECUTE')) FROM pg_catalog.pg_proc p
         JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
         WHERE n.nspname = 'pg_catalog' AND p.proname = {}",
        quote_literal(function)
    );
    Ok(value(connection, &sql)?.as_deref() == Some("t"))
}

fn value(connection: &mut DataConnection, sql: &str) -> Result<Option<String>> {
    Ok(connection.query(sql)?.into_iter().flatten().next().flatten())
}

/// A word for it, then what it was and what it is.
type Claim<'a> = (&'static str, Option<&'a str>, Option<&'a str>);

impl Snapshot {
    pub fn evidence(&self) -> Evidence {
        Evidence {
            name: self.id.clone(),
            lsn: self.lsn,
            running_txids: self.running_txids.clone(),
            in_recovery: self.in_recovery,
            origin: self.origin.clone(),
        }
    }

    /// Whether this, imported by its name, is what an earlier process has imported by the same name: what is not, in
    /// words.
    #[must_use]
    pub fn differs_from(&self, first: &Evidence) -> Option<String> {
        let (then, now) = (&first.origin, &self.origin);
        differing(&[
            ("its name", first.name.as_deref(), self.id.as_deref()),
            ("the server's system identifier", then.system_identifier.as_deref(), now.system_identifier.as_deref()),
            ("the start of the server", then.server_started_at.as_deref(), now.server_started_at.as_deref()),
            ("the backend that holds it", then.exporter_pid.as_deref(), now.exporter_pid.as_deref()),
            ("its running transactions", Some(&first.running_txids), Some(&self.running_txids)),
        ])
    }

    /// Whether nothing was written since an earlier process has read: what tells of it, in words. As
    /// [`Self::is_still_frozen`], and it must be the same server.
    #[must_use]
    pub fn was_written_since(&self, first: &Evidence) -> Option<String> {
        let (then, now) = (&first.origin, &self.origin);
        let position = |lsn: Option<Lsn>| lsn.map(|lsn| lsn.to_string());
        let role = |in_recovery| Some(if in_recovery { "a standby" } else { "a primary" });
        let (was_at, is_at) = (position(first.lsn), position(self.lsn));
        let moved = if self.in_recovery { self.lsn != first.lsn } else { self.lsn < first.lsn };
        let mut claims = vec![
            ("the server's system identifier", then.system_identifier.as_deref(), now.system_identifier.as_deref()),
            ("the timeline", then.timeline.as_deref(), now.timeline.as_deref()),
            ("the server", role(first.in_recovery), role(self.in_recovery)),
            ("the running transactions", Some(first.running_txids.as_str()), Some(self.running_txids.as_str())),
        ];
        if moved {
            claims.push(("the position in the log", was_at.as_deref(), is_at.as_deref()));
        }
        differing(&claims)
    }
}

fn differing(claims: &[Claim<'_>]) -> Option<String> {
    let (what, was, is) = claims.iter().find(|(_, was, is)| was != is)?;
    Some(format!("{what} was {}, and is {}", was.unwrap_or("not told"), is.unwrap_or("not told")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot() -> Snapshot {
        let told = |text: &str| Some(text.to_owned());
        Snapshot {
            id: told("00000003-0000001B-1"),
            lsn: Some(Lsn(100)),
            version: ServerVersion::V17,
            in_recovery: false,
            running_txids: "10:12:11".into(),
            origin: Origin {
                system_identifier: told("7"),
                timeline: told("00000001"),
                server_started_at: told("today"),
                exporter_pid: told("4711"),
            },
        }
    }

    #[test]
    fn names_tell_the_transaction_from_10_on() {
        assert_eq!(exporting_transaction("00000003-0000001B-1").as_deref(), Some("3/27"));
        assert_eq!(exporting_transaction("000002A4-1"), None);
        assert_eq!(exporting_transaction("nonsense-of-some-kind"), None);
    }

    #[test]
    fn every_piece_of_evidence_of_a_living_snapshot_counts() {
        let first = snapshot().evidence();
        assert_eq!(snapshot().differs_from(&first), None);
        let later = Snapshot { lsn: Some(Lsn(900)), ..snapshot() };
        assert_eq!(later.differs_from(&first), None, "the position is of the import, not of the snapshot");
        let changes: [fn(&mut Snapshot); 5] = [
            |s| s.id = Some("00000003-0000001C-1".into()),
            |s| s.running_txids = "10:13:11".into(),
            |s| s.origin.system_identifier = Some("8".into()),
            |s| s.origin.server_started_at = Some("tomorrow".into()),
            |s| s.origin.exporter_pid = None,
        ];
        for (at, change) in changes.into_iter().enumerate() {
            let mut other = snapshot();
            change(&mut other);
            assert!(other.differs_from(&first).is_some(), "change {at} goes unnoticed");
        }
    }

    #[test]
    fn every_piece_of_evidence_of_a_frozen_source_counts() {
        let first = snapshot().evidence();
        let same: [fn(&mut Snapshot); 3] = [
            |s| s.id = Some("another name".into()),
            |s| s.lsn = Some(Lsn(200)),
            |s| s.origin.server_started_at = Some("tomorrow".into()),
        ];
        for (at, change) in same.into_iter().enumerate() {
            let mut other = snapshot();
            change(&mut other);
            assert_eq!(other.was_written_since(&first), None, "change {at} is none");
        }
        let changes: [fn(&mut Snapshot); 5] = [
            |s| s.running_txids = "10:13:11".into(),
            |s| s.lsn = Some(Lsn(99)),
            |s| s.in_recovery = true,
            |s| s.origin.system_identifier = Some("8".into()),
            |s| s.origin.timeline = Some("00000002".into()),
        ];
        for (at, change) in changes.into_iter().enumerate() {
            let mut other = snapshot();
            change(&mut other);
            assert!(other.was_written_since(&first).is_some(), "change {at} goes unnoticed");
        }
        let standby = Snapshot { in_recovery: true, ..snapshot() };
        let later = Snapshot { lsn: Some(Lsn(101)), ..standby.clone() };
        assert!(later.was_written_since(&standby.evidence()).is_some(), "a standby has replayed something");
    }
}
