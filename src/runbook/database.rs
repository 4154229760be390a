//! What a migration asks of the databases themselves: whether they stand still, whether they are equal, and the move.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::Result;
use crate::model::{Lsn, Secret};
use crate::ops::Run;

/// A database of the migration: what people call it, and where it is.
#[derive(Clone, Copy, Debug)]
pub struct At<'a> {
    pub name: &'a str,
    pub url: &'a Secret,
}

/// What is read of a database before anything is planned.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct DatabaseFacts {
    /// As `server_version_num`.
    pub version: u32,
    pub bytes: u64,
    pub schemas: u64,
    pub tables: u64,
    /// Relations of all kinds: what pg_upgrade has to carry over one by one.
    pub objects: u64,
    pub extensions: Vec<String>,
    /// Whether the role may fence it.
    pub owns_database: bool,
    /// `default_transaction_read_only` of the database itself.
    pub read_only_setting: Option<String>,
    pub connection_limit: u64,
    pub in_recovery: bool,
}

/// Everything that moves when somebody writes. Two that are equal: nobody has written between them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// Rows inserted, updated and deleted, also of large objects and catalogs, since the counters were set to zero.
    pub changed_rows: u64,
    /// When that was: a server that has crashed counts anew.
    pub counters_since: String,
    /// Of the files of all relations: what TRUNCATE and rewrites change, and nothing counts.
    pub files: String,
    pub sequences: String,
    pub prepared_transactions: u64,
}

/// The fence around a database, as a new session meets it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fence {
    /// The database's own setting is on.
    pub is_set: bool,
    /// A new session is read only.
    pub holds: bool,
    /// Other sessions of this role.
    pub own_sessions: u64,
    /// Sessions of other roles that are no superusers, by role.
    pub other_sessions: Vec<String>,
}

/// How far a server has come with replaying its leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Replay {
    pub in_recovery: bool,
    pub replayed: Option<Lsn>,
}

/// What is in a database that was to be filled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filled {
    Empty,
    /// A copy has begun there and has not come to its end.
    Unfinished,
    /// No trace of an unfinished copy is left.
    Whole,
}

/// What a copy came to. Made on another machine, only its time is known here.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Copied {
    pub rows: u64,
    pub bytes: u64,
    pub elapsed_ms: u64,
    pub left_out: Vec<String>,
}

/// What a comparison came to. Made on another machine, only its time and its outcome are known here.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Verified {
    pub tables: u64,
    pub rows: u64,
    pub sequences: u64,
    pub definitions: u64,
    pub elapsed_ms: u64,
    /// The first of them, in words.
    pub differences: Vec<String>,
}

/// How a copy is made.
#[derive(Clone, Copy, Debug)]
pub struct HowToCopy {
    pub jobs: u32,
    /// A copy of this run has begun there before: what it left is dropped.
    pub again: bool,
    pub heroku: bool,
}

/// Real servers, or something that stands for them.
pub trait Databases {
    /// Where the machine comes from that rows pass through, where a plan wants one.
    fn machines(&self) -> Option<&dyn super::machines::Machines> {
        None
    }

    /// # Errors
    /// As for every other call: the server cannot be reached, or refuses.
    fn facts(&self, at: At<'_>) -> impl Future<Output = Result<DatabaseFacts>>;
    /// Every session that begins from now on is read only, on followers too; this role's other sessions are ended.
    fn fence(&self, at: At<'_>) -> impl Future<Output = Result<()>>;
    fn unfence(&self, at: At<'_>) -> impl Future<Output = Result<()>>;
    fn look_at_fence(&self, at: At<'_>) -> impl Future<Output = Result<Fence>>;
    fn mark(&self, at: At<'_>) -> impl Future<Output = Result<Mark>>;
    /// Where its write-ahead log is now.
    fn lsn(&self, at: At<'_>) -> impl Future<Output = Result<Lsn>>;
    fn replay(&self, at: At<'_>) -> impl Future<Output = Result<Replay>>;
    fn filled(&self, at: At<'_>) -> impl Future<Output = Result<Filled>>;
    /// What would keep a copy from succeeding, as an error.
    fn preflight(&self, from: At<'_>, to: At<'_>, how: HowToCopy, run: &Run) -> impl Future<Output = Result<()>>;
    fn copy(&self, from: At<'_>, to: At<'_>, how: HowToCopy, run: &Run) -> impl Future<Output = Result<Copied>>;
    fn verify(&self, from: At<'_>, to: At<'_>, how: HowToCopy, run: &Run) -> impl Future<Output = Result<Verified>>;
    /// Into a directory that is not there yet.
    fn dump(&self, from: At<'_>, archive: &Path, how: HowToCopy, run: &Run) -> impl Future<Output = Result<Copied>>;
    /// `how.1`: goes on with a restore of this archive that was not finished.
    fn restore(
        &self,
        archive: &Path,
        to: At<'_>,
        how: (HowToCopy, bool),
        run: &Run,
    ) -> impl Future<Output = Result<Copied>>;
}
