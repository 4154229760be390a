use std::path::PathBuf;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::archive::{Identities, Recipients};
use crate::event::EventSink;
use crate::model::ServerVersion;
use crate::plan::carry::carrying_pays;
use crate::schema::{Cuts, EntryOptions, Rights};

/// What every operation is handed: where to say what happens, and how it is told to stop.
#[derive(Clone)]
pub struct Run {
    pub events: EventSink,
    pub cancel: CancellationToken,
    /// How long a chunk or job is tried again, waits added up, when it fails for a passing reason. Zero: never.
    pub retry_for: Duration,
}

/// How a server is to be found: what the user gave, before libpq's conventions fill in the rest.
#[derive(Clone, Debug, Default)]
pub struct ServerArgs {
    /// A URI or a keyword/value string. `None`: PGCONVOY_SOURCE or PGCONVOY_TARGET, then the PG* variables.
    pub conninfo: Option<String>,
    /// What the bytes of a `SQL_ASCII` database are; such a database does not know.
    pub encoding: Option<String>,
}

/// Which objects take part: patterns as in pg_dump. Empty means everything.
#[derive(Clone, Debug, Default)]
pub struct Filters {
    pub include_schemas: Vec<String>,
    pub exclude_schemas: Vec<String>,
    pub include_tables: Vec<String>,
    pub exclude_tables: Vec<String>,
    pub exclude_table_data: Vec<String>,
    pub exclude_indexes: Vec<String>,
    pub include_extensions: Vec<String>,
    pub exclude_extensions: Vec<String>,
    /// Tables of which a condition says which rows move.
    pub conditions: Vec<RowCondition>,
}

/// One `--where`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowCondition {
    pub table_pattern: String,
    /// An SQL expression on the table's columns.
    pub condition: String,
}

impl Filters {
    /// Whether large objects take part: always, unless schemas or tables were picked out (as with pg_dump).
    pub fn takes_large_objects(&self) -> bool {
        self.include_schemas.is_empty() && self.include_tables.is_empty()
    }

    /// Whether every table and every row takes part.
    pub fn is_empty(&self) -> bool {
        let Self { include_schemas, exclude_schemas, include_tables, exclude_tables, exclude_table_data, .. } = self;
        let patterns = [include_schemas, exclude_schemas, include_tables, exclude_tables, exclude_table_data];
        patterns.iter().all(|patterns| patterns.is_empty()) && self.conditions.is_empty()
    }

    /// As options of the command line, one each: what tables and rows were picked with.
    pub fn described(&self) -> Vec<String> {
        let lists = [
            ("--include-schema", &self.include_schemas),
            ("--exclude-schema", &self.exclude_schemas),
            ("--include-table", &self.include_tables),
            ("--exclude-table", &self.exclude_tables),
            ("--exclude-table-data", &self.exclude_table_data),
        ];
        let patterns =
            lists.into_iter().flat_map(|(option, list)| list.iter().map(move |pattern| format!("{option} {pattern}")));
        let rows = self.conditions.iter().map(|c| format!("--where {}={}", c.table_pattern, c.condition));
        patterns.chain(rows).collect()
    }

    /// Whether something could need what is left out.
    pub fn cut_definitions(&self) -> bool {
        let Self { include_schemas, exclude_schemas, include_tables, exclude_tables, .. } = self;
        let patterns = [include_schemas, exclude_schemas, include_tables, exclude_tables];
        patterns.iter().any(|patterns| !patterns.is_empty()) || self.cut_extensions()
    }

    pub fn cut_extensions(&self) -> bool {
        !self.include_extensions.is_empty() || !self.exclude_extensions.is_empty()
    }
}

/// Which halves of the database move.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Contents {
    #[default]
    Everything,
    SchemaOnly,
    /// Also pg_restore's section `data`.
    DataOnly,
    /// Of the definitions, those that are made before rows are there.
    PreData,
    /// Indexes, keys, triggers and the rest, where tables and rows are there.
    PostData,
}

impl Contents {
    #[must_use]
    pub fn has_rows(self) -> bool {
        matches!(self, Self::Everything | Self::DataOnly)
    }

    /// Into a target that has none of them yet.
    #[must_use]
    pub fn makes_tables(self) -> bool {
        matches!(self, Self::Everything | Self::SchemaOnly | Self::PreData)
    }
}

/// How rows are read at the source.
#[derive(Clone, Debug)]
pub struct SourceOptions {
    pub server: ServerArgs,
    /// Nobody writes: do without an exported snapshot where the server cannot make one.
    pub frozen_source: bool,
    /// The name of a snapshot that somebody else holds: read that one.
    pub snapshot: Option<String>,
    /// Bytes of heap and TOAST per chunk, `None` for the planner's choice.
    pub chunk_bytes: Option<u64>,
    pub filters: Filters,
    /// Whether to read the planner's statistics too, where pg_dump can (18).
    pub statistics: Statistics,
    /// A pg_dump to use instead of the one that fits best.
    pub pg_dump: Option<PathBuf>,
    /// Where else to look for a pg_dump.
    pub pg_dump_directories: Vec<PathBuf>,
    /// Definitions touch no disk on their way: they are to be encrypted.
    pub off_disk: bool,
}

/// How the target's planner learns of the rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Statistics {
    /// Carried over from the source where both sides can and it costs less than ANALYZE ([`carrying_pays`]); ANALYZE for
    /// the tables that have none to carry over.
    #[default]
    Auto,
    /// Carried over whatever it costs, refused where nothing can be.
    Carry,
    /// ANALYZE of every table, when its rows are in and its indexes are built.
    Analyze,
    /// Neither.
    None,
}

impl Statistics {
    /// Whether a dump of the schema should hold them, with tables of these sizes in bytes.
    pub(super) fn are_read(self, table_bytes: impl IntoIterator<Item = u64>) -> bool {
        match self {
            Self::Auto => carrying_pays(table_bytes),
            Self::Carry => true,
            Self::Analyze | Self::None => false,
        }
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
    pub no_comments: bool,
    /// Who runs the server, where the role is no superuser. Its skips are added to those asked for.
    pub provider: Option<Provider>,
    pub statistics: Statistics,
    pub toast_compression: ToastCompression,
    /// Make the database, with the source's name and settings; `server` is another database there.
    pub create: bool,
    /// Make the roles that the target lacks.
    pub roles: bool,
    /// Go on with what an earlier run has left unfinished there.
    pub resume: bool,
}

/// Managed PostgreSQL: what its administrator's role is known not to be allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Provider {
    Heroku,
    Rds,
    CloudSql,
    Azure,
    Supabase,
    Neon,
    /// Any other server on which the role is not a superuser.
    Generic,
}

impl Provider {
    /// Objects belong to the role that connects. `ALTER … OWNER` needs membership in the new owner everywhere.
    #[must_use]
    pub fn no_owner(self) -> bool {
        true
    }

    /// Heroku has one role per database (others are made by its own API), and Supabase grants to roles of its own.
    /// Elsewhere roles can be made, and be granted something.
    #[must_use]
    pub fn no_privileges(self) -> bool {
        matches!(self, Self::Heroku | Self::Supabase | Self::Generic)
    }

    /// Schemas that a new database has from the provider.
    #[must_use]
    pub fn schemas(self) -> &'static [&'static str] {
        match self {
            Self::Heroku => &["_heroku", "heroku_ext"],
            Self::Supabase => &[
                "auth",
                "extensions",
                "graphql",
                "graphql_public",
                "net",
                "pgbouncer",
                "pgsodium",
                "realtime",
                "storage",
                "supabase_functions",
                "supabase_migrations",
                "vault",
            ],
            Self::Neon => &["neon", "neon_migration"],
            Self::CloudSql => &["google_vacuum_mgmt"],
            Self::Azure => &["cron", "pgms_stats"],
            Self::Rds | Self::Generic => &[],
        }
    }
}

impl SourceOptions {
    /// Whether what is read now can be had again when this process is gone.
    #[must_use]
    pub fn outlives_the_process(&self) -> bool {
        self.snapshot.is_some() || self.frozen_source
    }
}

impl TargetOptions {
    /// How entries of the schema are run at a target of this version.
    pub(super) fn entry_options(&self, target_version: ServerVersion, cuts: Cuts) -> EntryOptions {
        EntryOptions {
            target_version,
            rights: Rights { no_comments: self.no_comments, managed: self.provider.is_some() },
            cuts,
            no_owner: self.no_owner,
            no_privileges: self.no_privileges,
            no_tablespaces: self.no_tablespaces,
        }
    }

    /// With what the provider does not allow.
    #[must_use]
    pub fn with_provider(mut self) -> Self {
        if let Some(provider) = self.provider {
            self.no_owner |= provider.no_owner();
            self.no_privileges |= provider.no_privileges();
            self.no_tablespaces = true;
        }
        self
    }
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
    /// Hash every row on its way, and write the evidence to this file.
    pub evidence: Option<PathBuf>,
}

#[derive(Clone, Debug)]
pub struct DumpOptions {
    pub source: SourceOptions,
    pub archive: PathBuf,
    pub jobs: u32,
    pub contents: Contents,
    pub zstd_level: i32,
    /// Whom the archive is encrypted to; nobody: it is not.
    pub recipients: Recipients,
    /// Go on with what an earlier run has left unfinished there.
    pub resume: bool,
}

#[derive(Clone, Debug)]
pub struct RestoreOptions {
    pub archive: PathBuf,
    pub target: TargetOptions,
    pub jobs: u32,
    pub contents: Contents,
    /// Of an encrypted archive.
    pub identities: Identities,
    /// Read the whole archive first, and leave the rows of damaged tables out.
    pub skip_damaged: bool,
}

/// What a target is compared with.
#[derive(Clone, Debug)]
pub enum VerifyAgainst {
    Server(ServerArgs),
    Archive(PathBuf),
    /// A file of evidence that a copy has written, or the hashes in an archive's manifest.
    Evidence(PathBuf),
}

#[derive(Clone, Debug)]
pub struct VerifyOptions {
    pub reference: VerifyAgainst,
    /// Of an encrypted archive.
    pub identities: Identities,
    pub target: ServerArgs,
    pub jobs: u32,
    pub filters: Filters,
    /// Of two servers: compare their definitions too.
    pub definitions: Option<Definitions>,
}

/// Which definitions are compared: what a copy left out, a comparison leaves out in the same words.
#[derive(Clone, Debug, Default)]
pub struct Definitions {
    pub no_owner: bool,
    pub no_privileges: bool,
    pub no_tablespaces: bool,
    pub no_comments: bool,
    /// A pg_dump to use for both servers.
    pub pg_dump: Option<PathBuf>,
}

#[derive(Clone, Debug)]
pub struct CheckOptions {
    pub archive: PathBuf,
    /// Of an encrypted archive.
    pub identities: Identities,
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
    /// Nobody watches, nobody stops it.
    #[must_use]
    pub fn unattended() -> Self {
        Self { events: EventSink::none(), cancel: CancellationToken::new(), retry_for: Duration::ZERO }
    }

    /// The same run, for work that nobody watches.
    pub(super) fn silent(&self) -> Self {
        Self { events: EventSink::none(), ..self.clone() }
    }
}
