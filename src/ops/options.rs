use std::path::PathBuf;

use tokio_util::sync::CancellationToken;

use crate::event::EventSink;

/// What every operation is handed: where to say what happens, and how it is told to stop.
#[derive(Clone)]
pub struct Run {
    pub events: EventSink,
    pub cancel: CancellationToken,
}

/// How a server is to be found: what the user gave, before libpq's conventions fill in the rest.
#[derive(Clone, Debug, Default)]
pub struct ServerArgs {
    /// A URI or a keyword/value string. `None`: PGCONVOY_SOURCE or PGCONVOY_TARGET, then the PG* variables.
    pub conninfo: Option<String>,
}

/// Which objects take part: patterns as in pg_dump. Empty means everything.
#[derive(Clone, Debug, Default)]
pub struct Filters {
    pub include_schemas: Vec<String>,
    pub exclude_schemas: Vec<String>,
    pub include_tables: Vec<String>,
    pub exclude_tables: Vec<String>,
    pub exclude_table_data: Vec<String>,
}

impl Filters {
    /// Whether large objects take part: always, unless schemas or tables were picked out (as with pg_dump).
    pub fn takes_large_objects(&self) -> bool {
        self.include_schemas.is_empty() && self.include_tables.is_empty()
    }

    pub fn is_empty(&self) -> bool {
        let Self { include_schemas, exclude_schemas, include_tables, exclude_tables, exclude_table_data } = self;
        [include_schemas, exclude_schemas, include_tables, exclude_tables, exclude_table_data]
            .iter()
            .all(|patterns| patterns.is_empty())
    }
}

/// Which halves of the database move.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Contents {
    #[default]
    Everything,
    SchemaOnly,
    DataOnly,
}

/// How rows are read at the source.
#[derive(Clone, Debug)]
pub struct SourceOptions {
    pub server: ServerArgs,
    /// Nobody writes: do without an exported snapshot where the server cannot make one.
    pub frozen_source: bool,
    /// Bytes of heap and TOAST per chunk, `None` for the planner's choice.
    pub chunk_bytes: Option<u64>,
    pub filters: Filters,
    /// Read the planner's statistics too, where pg_dump can (18).
    pub statistics: bool,
    /// A pg_dump to use instead of the one that fits best.
    pub pg_dump: Option<PathBuf>,
    /// Where else to look for a pg_dump.
    pub pg_dump_directories: Vec<PathBuf>,
}

/// How the target's planner learns of the rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Statistics {
    /// Carried over from the source where both sides can; ANALYZE for the tables that have none to carry over.
    #[default]
    Auto,
    /// As `Auto`, but refused where nothing can be carried over.
    Carry,
    /// ANALYZE of every table, when its rows are in and its indexes are built.
    Analyze,
    /// Neither.
    None,
}

impl Statistics {
    /// Whether a dump of the schema should hold them.
    #[must_use]
    pub fn may_carry(self) -> bool {
        matches!(self, Self::Auto | Self::Carry)
    }
}

/// How a target is filled.
#[derive(Clone, Debug)]
pub struct TargetOptions {
    pub server: ServerArgs,
    /// Drop what stands in the way. Never by default.
    pub drop_target_objects: bool,
    pub no_owner: bool,
    pub no_privileges: bool,
    /// Everything goes into the target database's default tablespace.
    pub no_tablespaces: bool,
    pub statistics: Statistics,
    pub toast_compression: ToastCompression,
    /// Make the database, with the source's name and settings; `server` is another database there.
    pub create: bool,
    /// Make the roles that the target lacks.
    pub roles: bool,
}

/// With which method the target compresses the long values it is sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ToastCompression {
    /// lz4 where the target has it and nobody has chosen a method for it.
    #[default]
    Auto,
    /// As the target is set.
    Server,
    Lz4,
    Pglz,
}

#[derive(Clone, Debug)]
pub struct CopyOptions {
    pub source: SourceOptions,
    pub target: TargetOptions,
    pub jobs: u32,
    pub contents: Contents,
}

#[derive(Clone, Debug)]
pub struct DumpOptions {
    pub source: SourceOptions,
    pub archive: PathBuf,
    pub jobs: u32,
    pub contents: Contents,
    pub zstd_level: i32,
}

#[derive(Clone, Debug)]
pub struct RestoreOptions {
    pub archive: PathBuf,
    pub target: TargetOptions,
    pub jobs: u32,
    pub contents: Contents,
}

/// What a target is compared with.
#[derive(Clone, Debug)]
pub enum VerifyAgainst {
    Server(ServerArgs),
    Archive(PathBuf),
}

#[derive(Clone, Debug)]
pub struct VerifyOptions {
    pub reference: VerifyAgainst,
    pub target: ServerArgs,
    pub jobs: u32,
    pub filters: Filters,
}

#[derive(Clone, Debug)]
pub struct CheckOptions {
    pub archive: PathBuf,
    pub jobs: u32,
}

#[derive(Clone, Debug)]
pub struct PreflightOptions {
    pub source: Option<SourceOptions>,
    pub target: Option<TargetOptions>,
    pub jobs: u32,
    pub contents: Contents,
}

impl Run {
    /// The same run, for work that nobody watches.
    pub(super) fn silent(&self) -> Self {
        Self { events: EventSink::none(), cancel: self.cancel.clone() }
    }
}
