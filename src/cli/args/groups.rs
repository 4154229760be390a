use std::path::PathBuf;

use clap::builder::NonEmptyStringValueParser;
use clap::{Args, ValueEnum, ValueHint};

use super::filter_file::{FilterFile, RowConditionArg, parse_row_condition, read_filter_file};
use super::{Conninfo, DEFAULT_JOBS, DEFAULT_RETRY_S, parse_chunk_size};

/// Where rows come from.
#[derive(Debug, Args)]
pub struct SourceArgs {
    /// Server to read; else PGCONVOY_SOURCE, else the PG* variables
    #[arg(long, value_name = "URI", help_heading = "Connections", display_order = 1)]
    pub source: Option<Conninfo>,
    /// Nobody writes to the source: go on where it cannot export a snapshot
    ///
    /// For servers before 9.2 and standbys before 10. What can be proven about it is proven.
    #[arg(long, help_heading = "Connections")]
    pub frozen_source: bool,
    /// Read the snapshot of this name, which somebody else holds: `pgconvoy snapshot` does, and says it
    ///
    /// What is stopped can then be gone on with (--resume) as long as the snapshot is held.
    #[arg(long, value_name = "NAME", value_parser = NonEmptyStringValueParser::new(), conflicts_with = "frozen_source",
          help_heading = "Connections")]
    pub snapshot: Option<String>,
    /// What the text of a `SQL_ASCII` source is in, such as LATIN1: it is converted to the target's encoding
    #[arg(long, value_name = "ENCODING", value_parser = NonEmptyStringValueParser::new(), help_heading = "Connections")]
    pub source_encoding: Option<String>,
    /// A pg_dump to use instead of the one that fits both servers best
    #[arg(long, value_name = "PATH", value_hint = ValueHint::ExecutablePath, help_heading = "Connections")]
    pub pg_dump: Option<PathBuf>,
    /// Heap and TOAST bytes per chunk, such as 256MB; chosen per table without it
    #[arg(long, value_name = "SIZE", value_parser = parse_chunk_size, help_heading = "Speed")]
    pub chunk_size: Option<u64>,
}

/// What an encrypted archive is read with.
#[derive(Debug, Args)]
pub struct IdentityArgs {
    /// File with the secret key of an encrypted archive, as age-keygen writes it; may be repeated
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, help_heading = "Encryption")]
    pub identity: Vec<PathBuf>,
}

/// Which definitions are compared.
#[derive(Debug, Args)]
pub struct DefinitionsArgs {
    /// Compare definitions too: what one pg_dump writes of both servers
    ///
    /// Every difference counts, also objects that a copy has left out and named. Between servers of one major version,
    /// statements are compared. Those of two print most definitions otherwise: there, which objects exist is compared, and
    /// the statements of comments, extensions, foreign keys, casts and transforms. pg_dump looks at each server before the
    /// rows are read, not at the same moment.
    #[arg(long, conflicts_with_all = ["archive", "evidence"], help_heading = "Definitions")]
    pub definitions: bool,
    /// Owners may differ, as after a copy with -O
    #[arg(short = 'O', long, requires = "definitions", help_heading = "Definitions")]
    pub no_owner: bool,
    /// GRANT and REVOKE may differ, as after a copy with -x
    #[arg(short = 'x', long, requires = "definitions", help_heading = "Definitions")]
    pub no_privileges: bool,
    /// Tablespaces may differ
    #[arg(long, requires = "definitions", help_heading = "Definitions")]
    pub no_tablespaces: bool,
    /// Comments may differ
    #[arg(long, requires = "definitions", help_heading = "Definitions")]
    pub no_comments: bool,
    /// A pg_dump to use for both servers instead of the one that fits best
    #[arg(long, value_name = "PATH", value_hint = ValueHint::ExecutablePath, requires = "definitions",
          help_heading = "Definitions")]
    pub pg_dump: Option<PathBuf>,
}

/// Where rows go.
#[derive(Debug, Args)]
pub struct TargetArgs {
    /// Server to fill; else PGCONVOY_TARGET, else the PG* variables
    #[arg(long, value_name = "URI", help_heading = "Connections", display_order = 2)]
    pub target: Option<Conninfo>,
    /// Drop what stands in the way at the target; never done by default
    #[arg(long, help_heading = "Target")]
    pub drop_target_objects: bool,
    /// Create the database first, with the source's name, encoding, locale and settings
    ///
    /// --target then names another database of that server to connect to meanwhile; without one it is `postgres`. Owner,
    /// comment, settings, grants and connection limit come too. A database of that name must not exist.
    #[arg(short = 'C', long, conflicts_with_all = ["drop_target_objects", "data_only"], help_heading = "Target")]
    pub create: bool,
    /// Create the roles that the target lacks, with their settings and memberships
    ///
    /// Roles that exist are left as they are, and named where they differ. Passwords come along (hashed) with `copy`,
    /// where the source lets this role read them; they are never written into an archive. What a target's role
    /// may not give is named in the report. Tablespaces are not made.
    #[arg(long, conflicts_with = "data_only", help_heading = "Target")]
    pub roles: bool,
    /// Leave every object to the role that connects
    #[arg(short = 'O', long, help_heading = "Target")]
    pub no_owner: bool,
    /// Leave GRANT and REVOKE out
    #[arg(short = 'x', long, help_heading = "Target")]
    pub no_privileges: bool,
    /// Put everything into the target database's default tablespace
    #[arg(long, help_heading = "Target")]
    pub no_tablespaces: bool,
    /// Leave comments out
    #[arg(long, help_heading = "Target")]
    pub no_comments: bool,
    /// Who runs the server, where the role is no superuser: leave out or only try what it is known not to allow
    ///
    /// Implies --no-owner and --no-tablespaces, for heroku, supabase and generic also --no-privileges. Comments on
    /// extensions are left out. Event triggers, publications, foreign servers, C functions and the like are tried;
    /// what is refused is left out with a warning. The provider's own schemas do not count as contents of the target.
    #[arg(long, value_name = "NAME", value_enum, help_heading = "Target")]
    pub provider: Option<ProviderName>,
    /// What the target's planner is to know of the rows
    #[arg(long, value_name = "HOW", value_enum, default_value_t, help_heading = "Target")]
    pub statistics: StatisticsMode,
    /// The same as --statistics none
    #[arg(long, hide = true, conflicts_with = "statistics")]
    pub no_analyze: bool,
    /// How the target compresses long values: auto takes lz4 where nobody has chosen a method for the target
    #[arg(long, value_name = "METHOD", default_value = "auto", hide_possible_values = true, help_heading = "Speed")]
    pub toast_compression: ToastMethod,
}

/// See [`TargetArgs::provider`].
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum ProviderName {
    Heroku,
    /// Amazon RDS and Aurora
    Rds,
    /// Google Cloud SQL and `AlloyDB`
    #[value(name = "cloudsql")]
    CloudSql,
    Azure,
    Supabase,
    Neon,
    /// Any server on which the role is no superuser
    Generic,
}

/// See [`TargetArgs::toast_compression`].
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub enum ToastMethod {
    Auto,
    Server,
    Lz4,
    Pglz,
}

/// How the planner's statistics get to the target.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum StatisticsMode {
    /// Carried over where pg_dump and target are 18 or newer, ANALYZE for tables that have none to carry
    #[default]
    Auto,
    /// As auto, but refused where none can be carried over
    Carry,
    /// ANALYZE of every table
    Analyze,
    /// Neither: autovacuum gathers them later
    None,
}

#[derive(Debug, Args)]
pub struct JobsArgs {
    /// Sessions per server at most; fewer where a server allows fewer or, on this machine, has too few cores for them
    #[arg(
        short,
        long,
        value_name = "N",
        default_value_t = DEFAULT_JOBS,
        value_parser = clap::value_parser!(u32).range(1..=512),
        help_heading = "Speed"
    )]
    pub jobs: u32,
}

#[derive(Debug, Args)]
pub struct RetryArgs {
    /// How long a chunk or job waits, in all, for servers and connections that fail for a passing reason; 0 never
    /// tries again
    #[arg(long, value_name = "SECONDS", default_value_t = DEFAULT_RETRY_S, help_heading = "When it fails")]
    pub retry_for: u64,
}

#[derive(Debug, Args)]
pub struct ContentsArgs {
    /// Definitions without rows
    #[arg(long, conflicts_with = "data_only", help_heading = "Choosing objects")]
    pub schema_only: bool,
    /// Rows without definitions; the tables must exist and be empty
    #[arg(long, help_heading = "Choosing objects")]
    pub data_only: bool,
}

/// See [`super::RestoreArgs::section`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Section {
    PreData,
    Data,
    PostData,
}

/// Patterns as pg_dump reads them: `*` and `?`, `schema.table`, double quotes to keep case. Repeatable.
#[derive(Debug, Args)]
pub struct FilterArgs {
    /// Only schemas that match; may be repeated, patterns as in pg_dump
    #[arg(short = 'n', long, value_name = "PATTERN", value_parser = NonEmptyStringValueParser::new(),
          help_heading = "Choosing objects")]
    pub include_schema: Vec<String>,
    /// No schemas that match
    #[arg(short = 'N', long, value_name = "PATTERN", value_parser = NonEmptyStringValueParser::new(),
          help_heading = "Choosing objects")]
    pub exclude_schema: Vec<String>,
    /// Only tables that match
    #[arg(short = 't', long, value_name = "PATTERN", value_parser = NonEmptyStringValueParser::new(),
          help_heading = "Choosing objects")]
    pub include_table: Vec<String>,
    /// No tables that match
    #[arg(short = 'T', long, value_name = "PATTERN", value_parser = NonEmptyStringValueParser::new(),
          help_heading = "Choosing objects")]
    pub exclude_table: Vec<String>,
    /// Definitions but no rows of tables that match
    #[arg(long, value_name = "PATTERN", value_parser = NonEmptyStringValueParser::new(),
          help_heading = "Choosing objects")]
    pub exclude_table_data: Vec<String>,
    /// No indexes that match; those of keys and constraints stay
    #[arg(long, value_name = "PATTERN", value_parser = NonEmptyStringValueParser::new(),
          help_heading = "Choosing objects")]
    pub exclude_index: Vec<String>,
    /// Only extensions that match; with -n or -t, none move unless they are named here
    #[arg(short = 'e', long, value_name = "PATTERN", value_parser = NonEmptyStringValueParser::new(),
          help_heading = "Choosing objects")]
    pub extension: Vec<String>,
    /// No extensions that match
    #[arg(long, value_name = "PATTERN", value_parser = NonEmptyStringValueParser::new(),
          help_heading = "Choosing objects")]
    pub exclude_extension: Vec<String>,
    /// Only those rows of a table for which an SQL condition holds: `sales.orders=placed >= '2024-01-01'`
    ///
    /// The table is a pattern, the condition an expression on its columns; names of other tables in it need their
    /// schema. Looked at before the start. Give `verify` the same.
    #[arg(long = "where", value_name = "TABLE=CONDITION", value_parser = parse_row_condition,
          help_heading = "Choosing objects")]
    pub conditions: Vec<RowConditionArg>,
    /// Read patterns from a file as pg_dump 17 does: `exclude table_data audit.*`; - is standard input
    #[arg(long = "filter", value_name = "FILE", value_parser = read_filter_file, value_hint = ValueHint::FilePath,
          help_heading = "Choosing objects")]
    pub filter_files: Vec<FilterFile>,
}

/// How a run is shown while it goes on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum ProgressMode {
    /// Bars on a terminal, lines elsewhere
    #[default]
    Auto,
    /// Bars on standard error
    Bars,
    /// A line now and then on standard error
    Lines,
    /// One JSON object per line on standard output, also for the result
    Json,
    /// Nothing but warnings and errors
    None,
}

#[derive(Debug, Default, Args)]
pub struct ProgressArgs {
    /// How to show progress
    #[arg(long, value_name = "MODE", value_enum, default_value_t, help_heading = "Output")]
    pub progress: ProgressMode,
    /// Write the result as JSON to this file, atomically, also when the run fails
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, help_heading = "Output")]
    pub report: Option<PathBuf>,
}

/// The same for `bench`, which also draws.
#[derive(Debug, Args)]
pub struct BenchProgressArgs {
    /// How to show progress
    #[arg(long, value_name = "MODE", value_enum, default_value_t, help_heading = "Output")]
    pub progress: ProgressMode,
    /// Write the result to this file, atomically: as a page (.html), as a picture (.svg), else as JSON; may be repeated
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, help_heading = "Output")]
    pub report: Vec<PathBuf>,
}

#[derive(Debug, Args)]
pub struct GeneralArgs {
    /// Append a trace to this file; it can hold values from rows, only its owner may read it
    #[arg(long, global = true, value_name = "FILE", value_hint = ValueHint::FilePath, help_heading = "Output",
          display_order = 1001)]
    pub trace: Option<PathBuf>,
    /// Only warnings and errors: no progress, no report
    #[arg(short, long, global = true, conflicts_with = "verbose", help_heading = "Output", display_order = 1002)]
    pub quiet: bool,
    /// Every table and every job; more in the trace
    #[arg(short, long, global = true, help_heading = "Output", display_order = 1003)]
    pub verbose: bool,
    /// No colours, whatever the terminal
    #[arg(long, global = true, help_heading = "Output", display_order = 1004)]
    pub no_color: bool,
}
