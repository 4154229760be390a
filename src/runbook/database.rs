//! What a migration asks of the databases themselves: whether they stand still, whether they are equal, and the move.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::Result;
use crate::model::{Lsn, Secret, Side};
use crate::ops::Run;

/// A database of the migration: what people call it, and where it is.
#[derive(Clone, Copy, Debug)]
pub struct At<'a> {
    pub name: &'a str,
    pub url: &'a Secret,
    /// Whose fault it is where it cannot be reached.
    pub side: Side,
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
    /// Names of what ALTER DATABASE and ALTER ROLE have set for it: `work_mem`, `search_path for app`. It is not a part of
    /// what is in the database.
    #[serde(default)]
    pub settings: Vec<String>,
}

/// Which database an address leads to. Holds no password.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// As it was given: every host with its port, and the name of the database.
    pub address: String,
    pub user: String,
    pub server: ServerIdentity,
}

/// What the server says of itself. Copies of a server's files, standbys for one, say the same.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerIdentity {
    /// What initdb has made up; `None`: the role may not ask.
    pub system_identifier: Option<String>,
    pub database: String,
    pub database_oid: u32,
}

/// Another session in a database, as every role can see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OtherSession {
    pub user: String,
    /// A superuser's, and not of the role that asks.
    pub is_superusers: bool,
    /// It holds the lock that every transaction holds on itself.
    pub is_in_transaction: bool,
}

/// Everything that moves when somebody writes. Two that are equal: nobody has written between them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// Rows inserted, updated and deleted, also of large objects, since the counters were set to zero.
    pub changed_rows: u64,
    /// When that was: a server that has crashed counts anew.
    pub counters_since: String,
    /// Of the files of all relations: what TRUNCATE and rewrites change, and nothing counts.
    pub files: String,
    pub sequences: String,
    /// Of the catalogs: how many rows they have, and which transactions have made them. Every definition that is made, changed
    /// or dropped shows there.
    #[serde(default)]
    pub definitions: String,
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

impl Mark {
    /// Why what stood at the first mark is not all that is there at the second; `None`: nobody has written between them.
    pub(super) fn moved(&self, now: &Self) -> Option<String> {
        if self == now {
            return None;
        }
        let rows = now.changed_rows.abs_diff(self.changed_rows);
        let what = match () {
            () if rows > 0 => format!("{rows} rows"),
            () if now.counters_since != self.counters_since => "counters began anew".into(),
            () if now.prepared_transactions != self.prepared_transactions => "prepared transactions".into(),
            () if now.sequences != self.sequences => "sequences".into(),
            () if now.files != self.files => "files of relations".into(),
            () => "definitions".into(),
        };
        Some(what)
    }
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
    fn identity(&self, at: At<'_>) -> impl Future<Output = Result<Identity>>;
    /// Where an address leads, and as whom, as [`Identity`] has it; nobody is asked.
    fn address(&self, at: At<'_>) -> Result<(String, String)>;
    /// Sets at one database what ALTER DATABASE has set at the other; the names of what could not be.
    fn carry_settings(&self, from: At<'_>, to: At<'_>) -> impl Future<Output = Result<Vec<String>>>;
    /// Who else is connected.
    fn other_sessions(&self, at: At<'_>) -> impl Future<Output = Result<Vec<OtherSession>>>;
    /// Where its write-ahead log is now.
    fn lsn(&self, at: At<'_>) -> impl Future<Output = Result<Lsn>>;
    fn replay(&self, at: At<'_>) -> impl Future<Output = Result<Replay>>;
    fn filled(&self, at: At<'_>) -> impl Future<Output = Result<Filled>>;
    /// From where an unfinished copy fills it, as its ledger says: an address, or an archive.
    fn filled_from(&self, at: At<'_>) -> impl Future<Output = Result<Option<String>>>;
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
