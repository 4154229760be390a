//! The arguments, as clap sees them. What they mean together is resolved once, in [`super::settings`].

pub mod ec2;
mod filter_file;
mod groups;
mod migrations;
mod values;

use std::path::PathBuf;

use clap::builder::{NonEmptyStringValueParser, PossibleValuesParser};
use clap::{Args, Parser, Subcommand, ValueHint};
use pgconvoy::lab::Major;
use pgconvoy::lab::shapes::Shape;
use pgconvoy::ops::Rival;

pub use filter_file::FilterRule;
pub use groups::{
    BenchProgressArgs, ContentsArgs, DefinitionsArgs, FilterArgs, GeneralArgs, IdentityArgs, JobsArgs, ProgressArgs,
    ProgressMode, ProviderName, RetryArgs, Section, SourceArgs, StatisticsMode, TargetArgs, ToastMethod,
};
pub use migrations::{
    HerokuArgs, HerokuCommand, HerokuLookArgs, HerokuPlanArgs, HerokuRunArgs, MachineArgs, MigrateArgs,
};
pub use values::{Conninfo, DemoScale, parse_chunk_size, parse_scale, rival_parser, shape_parser};

/// Segments are compressed at this zstd level unless `--zstd-level` says otherwise.
pub const DEFAULT_ZSTD_LEVEL: i32 = 1;

/// Time for a server to come back unless `--retry-for` says otherwise, in seconds.
pub const DEFAULT_RETRY_S: u64 = 300;

/// Parallel sessions per server unless `--jobs` says otherwise.
pub const DEFAULT_JOBS: u32 = 16;

const AFTER_HELP: &str = "\
Environment:
  PGCONVOY_SOURCE, PGCONVOY_TARGET   the servers, where --source or --target is not given
  PGHOST, PGUSER, PGPASSWORD, ...    everything libpq reads, for what the URI leaves open;
                                     also ~/.pgpass and the connection service file
  NO_COLOR                           no colours

Exit codes:
  0 done   1 a check found a difference   2 usage   3 source   4 target   5 archive   6 internal
  130 interrupted

`pgconvoy COMMAND --help` explains a command, with examples.";

const CONNECTION_HELP: &str = "\
URI is a connection URI or a keyword/value string, as libpq reads them. Without it, PGCONVOY_SOURCE or \
PGCONVOY_TARGET, then the PG* variables count. Arguments are visible to every user of the machine in the \
process list: keep passwords in ~/.pgpass, in PGPASSWORD, or in PGCONVOY_SOURCE and PGCONVOY_TARGET.";

/// Move a PostgreSQL database: server to server, server to disk, disk to server.
///
/// In parallel, in binary where that is safe, with every count checked on both ends.
#[derive(Debug, Parser)]
#[command(
    name = "pgconvoy",
    version,
    arg_required_else_help = true,
    disable_help_subcommand = true,
    max_term_width = 100,
    after_help = AFTER_HELP
)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
    #[command(flatten)]
    pub general: GeneralArgs,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    Copy(CopyArgs),
    Dump(DumpArgs),
    Restore(RestoreArgs),
    Verify(VerifyArgs),
    Check(CheckArgs),
    Inspect(InspectArgs),
    Preflight(PreflightArgs),
    Snapshot(SnapshotArgs),
    Bench(BenchArgs),
    Demo(DemoArgs),
    Ec2(ec2::Ec2Args),
    Migrate(MigrateArgs),
    Heroku(HerokuArgs),
}

/// Move a database from server to server, without touching the disk.
///
/// Rows stream from many sessions that share one snapshot; indexes are built while other tables still load;
/// foreign keys are validated in parallel. A target that is not empty is refused.
#[derive(Debug, Args)]
#[command(after_long_help = copy_help())]
pub struct CopyArgs {
    #[command(flatten)]
    pub source: SourceArgs,
    #[command(flatten)]
    pub target: TargetArgs,
    #[command(flatten)]
    pub jobs: JobsArgs,
    #[command(flatten)]
    pub retry: RetryArgs,
    /// Go on with a copy that was stopped, with the same options: what its ledger in the target lists is not done again
    ///
    /// For a copy with --snapshot, whose snapshot must still be held, or with --frozen-source, whose source must not have
    /// been written to since.
    #[arg(long, conflicts_with = "drop_target_objects", help_heading = "When it fails")]
    pub resume: bool,
    #[command(flatten)]
    pub contents: ContentsArgs,
    #[command(flatten)]
    pub filters: FilterArgs,
    /// Hash every row on its way, and write counts, hashes and snapshot to this file: `verify --evidence` proves the target
    /// equal with it later, without the source
    ///
    /// The file must not exist.
    #[arg(
        long,
        value_name = "FILE",
        value_hint = ValueHint::FilePath,
        conflicts_with_all = ["schema_only", "resume"],
        help_heading = "Output"
    )]
    pub evidence: Option<PathBuf>,
    #[command(flatten)]
    pub progress: ProgressArgs,
}

fn copy_help() -> String {
    format!(
        "Examples:
  pgconvoy copy --source postgres://app@old.example.com/shop --target postgres://app@new/shop
  pgconvoy copy --source service=old --target service=new -j 32 --report copy.json
  pgconvoy copy --source service=old --target service=new -n sales -T 'sales.tmp_*'
  pgconvoy copy --source service=old --target service=new --evidence shop.evidence.json

{CONNECTION_HELP}"
    )
}

/// Write a database to an archive directory.
///
/// The directory must not exist or must be empty. It holds compressed, checksummed segments and a `schema.dump`
/// that the stock pg_restore can list. A dump that was killed is recognised as unfinished.
#[derive(Debug, Args)]
#[command(after_long_help = dump_help())]
pub struct DumpArgs {
    /// Directory to create
    #[arg(value_name = "ARCHIVE", value_hint = ValueHint::DirPath)]
    pub archive: PathBuf,
    #[command(flatten)]
    pub source: SourceArgs,
    #[command(flatten)]
    pub jobs: JobsArgs,
    #[command(flatten)]
    pub retry: RetryArgs,
    /// Go on with a dump that was stopped, with the same options: segments that its manifest lists are not written again
    ///
    /// For a dump with --snapshot, whose snapshot must still be held, or with --frozen-source, whose source must not have
    /// been written to since.
    #[arg(long, help_heading = "When it fails")]
    pub resume: bool,
    /// Compression of the segments: 1 is fastest, 19 is smallest
    #[arg(
        long,
        value_name = "LEVEL",
        default_value_t = DEFAULT_ZSTD_LEVEL,
        value_parser = clap::value_parser!(i32).range(1..=19),
        help_heading = "Speed"
    )]
    pub zstd_level: i32,
    /// Encrypt the archive to a public key of age (age1…), or to those in a file; may be repeated
    ///
    /// Rows, names and definitions are unreadable without one of the secret keys, which a restore names with --identity.
    /// `age-keygen -o key.txt` makes a pair.
    #[arg(
        long,
        value_name = "RECIPIENT",
        value_parser = NonEmptyStringValueParser::new(),
        conflicts_with = "resume",
        help_heading = "Encryption"
    )]
    pub encrypt: Vec<String>,
    #[command(flatten)]
    pub contents: ContentsArgs,
    #[command(flatten)]
    pub filters: FilterArgs,
    #[command(flatten)]
    pub progress: ProgressArgs,
}

fn dump_help() -> String {
    format!(
        "Examples:
  pgconvoy dump --source postgres://app@db.example.com/shop shop.convoy
  pgconvoy dump --source service=shop --exclude-table-data 'public.audit_*' shop.convoy
  pgconvoy dump --source service=shop shop.convoy \\
    --encrypt age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p

{CONNECTION_HELP}"
    )
}

/// Load an archive directory onto a server.
///
/// Every block is checked before it is sent, every segment's rows are counted at the target before its
/// transaction commits. A target that is not empty is refused.
#[derive(Debug, Args)]
#[command(after_long_help = restore_help())]
pub struct RestoreArgs {
    /// Directory that `pgconvoy dump` wrote
    #[arg(value_name = "ARCHIVE", value_hint = ValueHint::DirPath)]
    pub archive: PathBuf,
    #[command(flatten)]
    pub identity: IdentityArgs,
    #[command(flatten)]
    pub target: TargetArgs,
    #[command(flatten)]
    pub jobs: JobsArgs,
    #[command(flatten)]
    pub retry: RetryArgs,
    /// Go on with a restore that was stopped, with the same options: what its ledger in the target lists is not done
    /// again
    #[arg(long, conflicts_with = "drop_target_objects", help_heading = "When it fails")]
    pub resume: bool,
    /// Read the whole archive first, and restore everything but the rows of damaged tables; exits with 1 where there are any
    ///
    /// Not with rows alone (--data-only, --section data): keys of the tables that are there could not hold.
    #[arg(long, conflicts_with_all = ["resume", "data_only"], help_heading = "When it fails")]
    pub skip_damaged: bool,
    #[command(flatten)]
    pub contents: ContentsArgs,
    /// One section alone, as pg_restore has them: definitions before rows, rows (the same as --data-only), or
    /// indexes, keys, triggers and the rest
    #[arg(long, value_enum, conflicts_with_all = ["schema_only", "data_only"], help_heading = "Choosing objects")]
    pub section: Option<Section>,
    #[command(flatten)]
    pub progress: ProgressArgs,
}

fn restore_help() -> String {
    format!(
        "Examples:
  pgconvoy restore shop.convoy --target postgres://app@new.example.com/shop
  pgconvoy restore shop.convoy --target service=new --no-owner --no-privileges

{CONNECTION_HELP}"
    )
}

/// Compare two databases, or an archive or evidence and a database, row for row.
///
/// Counts and an order-independent hash of every row; sequences and large objects; with --definitions, the definitions of
/// both servers. Names what differs, and exits with 1 if anything does. The report (--report FILE, as text where it is
/// called .txt) holds what was compared, when and at which position of the log, and a digest over itself.
#[derive(Debug, Args)]
#[command(after_long_help = verify_help())]
pub struct VerifyArgs {
    /// Server to compare with; else PGCONVOY_SOURCE, else the PG* variables
    #[arg(long, value_name = "URI", help_heading = "Connections", conflicts_with = "archive", display_order = 1)]
    pub source: Option<Conninfo>,
    /// Archive to compare with, instead of a server
    #[arg(long, value_name = "ARCHIVE", value_hint = ValueHint::DirPath, help_heading = "Connections", display_order = 2)]
    pub archive: Option<PathBuf>,
    /// Hashes to compare with: a file that `copy --evidence` wrote, or an archive, of which then no rows are read
    ///
    /// Neither the source nor its rows are needed: the hashes were taken while the source sent them. Of an archive, the manifest
    /// and `schema.dump` are read.
    #[arg(
        long,
        value_name = "PATH",
        value_hint = ValueHint::AnyPath,
        help_heading = "Connections",
        conflicts_with_all = ["source", "archive", "source_encoding"],
        display_order = 2
    )]
    pub evidence: Option<PathBuf>,
    /// Server to be checked; else PGCONVOY_TARGET, else the PG* variables
    #[arg(long, value_name = "URI", help_heading = "Connections", display_order = 3)]
    pub target: Option<Conninfo>,
    /// What the text of a `SQL_ASCII` source is in, as it was given to copy
    #[arg(long, value_name = "ENCODING", help_heading = "Connections", conflicts_with = "archive")]
    pub source_encoding: Option<String>,
    #[command(flatten)]
    pub identity: IdentityArgs,
    #[command(flatten)]
    pub definitions: DefinitionsArgs,
    #[command(flatten)]
    pub jobs: JobsArgs,
    #[command(flatten)]
    pub retry: RetryArgs,
    #[command(flatten)]
    pub filters: FilterArgs,
    #[command(flatten)]
    pub progress: ProgressArgs,
}

fn verify_help() -> String {
    format!(
        "Examples:
  pgconvoy verify --source service=old --target service=new
  pgconvoy verify --definitions -O -x --source service=old --target service=new
  pgconvoy verify --archive shop.convoy --target service=new -t public.orders
  pgconvoy verify --evidence shop.evidence.json --target service=new --report verified.json

{CONNECTION_HELP}"
    )
}

/// Read every byte of an archive and verify its checksums, without a server.
///
/// Exits with 1 if anything is damaged or missing. Of a report of `verify`, or of evidence, the digest is verified.
#[derive(Debug, Args)]
#[command(after_long_help = "Examples:\n  pgconvoy check shop.convoy\n  pgconvoy check verified.json")]
pub struct CheckArgs {
    /// Directory that `pgconvoy dump` wrote, or a file with a digest
    #[arg(value_name = "ARCHIVE", value_hint = ValueHint::AnyPath)]
    pub archive: PathBuf,
    #[command(flatten)]
    pub identity: IdentityArgs,
    #[command(flatten)]
    pub jobs: JobsArgs,
    #[command(flatten)]
    pub progress: ProgressArgs,
}

/// Show what an archive holds: tables, rows, sizes, where it came from.
///
/// Reads the manifest only; `pgconvoy check` reads the rest.
#[derive(Debug, Args)]
#[command(after_long_help = "Examples:\n  pgconvoy inspect shop.convoy\n  pgconvoy inspect shop.convoy --json")]
pub struct InspectArgs {
    /// Directory that `pgconvoy dump` wrote
    #[arg(value_name = "ARCHIVE", value_hint = ValueHint::DirPath)]
    pub archive: PathBuf,
    #[command(flatten)]
    pub identity: IdentityArgs,
    /// Print one JSON document
    #[arg(long)]
    pub json: bool,
}

/// Say before the start what cannot work.
///
/// Looks at both servers and changes nothing. Also run by copy, dump and restore. One side alone is looked at when
/// only one is given. Exits with 3 or 4 when the source or the target stands in the way.
#[derive(Debug, Args)]
#[command(after_long_help = preflight_help())]
pub struct PreflightArgs {
    #[command(flatten)]
    pub source: SourceArgs,
    #[command(flatten)]
    pub target: TargetArgs,
    #[command(flatten)]
    pub jobs: JobsArgs,
    #[command(flatten)]
    pub contents: ContentsArgs,
    #[command(flatten)]
    pub filters: FilterArgs,
    #[command(flatten)]
    pub progress: ProgressArgs,
}

fn preflight_help() -> String {
    format!(
        "Examples:
  pgconvoy preflight --source service=old --target service=new
  pgconvoy preflight --source service=old

{CONNECTION_HELP}"
    )
}

/// Hold a snapshot in a process of its own, for a copy or a dump that may be stopped and gone on with.
///
/// Says its name, and keeps it until Ctrl-C or SIGTERM. `copy` and `dump` read it with --snapshot; what of them is killed goes
/// on with --resume, as long as it is held. Meanwhile the source keeps every row version that VACUUM would remove, and
/// DDL on its tables waits.
#[derive(Debug, Args)]
#[command(after_long_help = snapshot_help())]
pub struct SnapshotArgs {
    /// Server to read; else PGCONVOY_SOURCE, else the PG* variables
    #[arg(long, value_name = "URI", help_heading = "Connections", display_order = 1)]
    pub source: Option<Conninfo>,
    #[command(flatten)]
    pub filters: FilterArgs,
    #[command(flatten)]
    pub progress: ProgressArgs,
}

fn snapshot_help() -> String {
    format!(
        "Examples:
  pgconvoy snapshot --source service=old
  pgconvoy copy --source service=old --target service=new --snapshot 00000003-0000001B-1
  pgconvoy copy --source service=old --target service=new --snapshot 00000003-0000001B-1 --resume

{CONNECTION_HELP}"
    )
}

/// Measure pgconvoy beside pg_dump and pg_restore, and pgcopydb where installed.
///
/// On throw-away servers with generated data, or on servers of your own: the source is only read, and the target's
/// databases `pgconvoy_bench_*` are made and dropped again.
#[derive(Debug, Args)]
#[command(after_long_help = "Examples:
  pgconvoy bench --generate mixed --size 3GB
  pgconvoy bench --source service=old --generate giant --size 10GB
  pgconvoy bench --source service=old --target service=scratch --rounds 5 --report bench.html
  pgconvoy bench --source service=old --target service=scratch --only dump --rivals pg_dump")]
pub struct BenchArgs {
    /// Server to read; a throw-away server without it
    #[arg(long, value_name = "URI", help_heading = "Connections")]
    pub source: Option<Conninfo>,
    /// Server to write, in databases made for it; a throw-away server without --source and --target
    #[arg(long, value_name = "URI", help_heading = "Connections")]
    pub target: Option<Conninfo>,
    /// Fill the source first, in a schema of the shape's name; `mixed` where neither this nor --source is given
    ///
    /// With --source and without --target, nothing is measured.
    #[arg(long, value_name = "SHAPE", value_parser = shape_parser())]
    pub generate: Option<Shape>,
    /// How much to generate, on disk with its indexes; 3GB, or 10,000 tables of the shape `many`
    #[arg(long, value_name = "SIZE", value_parser = pgconvoy::model::parse_bytes)]
    pub size: Option<u64>,
    /// How many tables to generate of the shape `many`
    #[arg(long, value_name = "N", conflicts_with = "size", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub tables: Option<u32>,
    /// What to measure; `post-data` is the part of a restore that follows the rows, `floor` the CPU time that the
    /// servers need for the same statements alone
    #[arg(
        long,
        value_name = "TASK",
        value_delimiter = ',',
        default_value = "dump,restore,copy,floor",
        value_parser = PossibleValuesParser::new(["dump", "restore", "copy", "post-data", "floor"])
    )]
    pub only: Vec<String>,
    /// Whom to measure beside pgconvoy
    #[arg(
        long,
        value_name = "TOOL",
        value_delimiter = ',',
        default_value = "pg_dump,pg_dump-defaults,pipe,pgcopydb,pgcopydb-tuned",
        value_parser = rival_parser(),
        help_heading = "Other tools"
    )]
    pub rivals: Vec<Rival>,
    /// How often everybody is measured; who goes first changes
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub rounds: u32,
    /// Directory for archives; else TMPDIR, else /var/tmp
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub work_dir: Option<PathBuf>,
    /// The pg_dump to measure; else the newest found, fetched if need be
    #[arg(long, value_name = "PATH", value_hint = ValueHint::ExecutablePath, help_heading = "Other tools")]
    pub pg_dump: Option<PathBuf>,
    /// The pg_restore to measure; else the newest found, fetched if need be
    #[arg(long, value_name = "PATH", value_hint = ValueHint::ExecutablePath, help_heading = "Other tools")]
    pub pg_restore: Option<PathBuf>,
    /// The pgcopydb to measure; else the one in PATH
    #[arg(long, value_name = "PATH", value_hint = ValueHint::ExecutablePath, help_heading = "Other tools")]
    pub pgcopydb: Option<PathBuf>,
    #[command(flatten)]
    pub jobs: JobsArgs,
    #[command(flatten)]
    pub progress: BenchProgressArgs,
}

/// Show the whole job on two throw-away servers of different versions.
///
/// Fills the older one with sample data, copies, dumps, restores, verifies, and prints the times beside those of
/// pg_dump and pg_restore. Takes about a minute. Needs no PostgreSQL: what is not installed is fetched once. Leaves nothing running.
#[derive(Debug, Args)]
#[command(after_long_help = "Examples:
  pgconvoy demo
  pgconvoy demo --scale large --from 15 --to 18 --keep")]
pub struct DemoArgs {
    /// How much sample data: small (160 MB), medium (1 GB), large (5 GB), or a factor of small such as 2.5
    #[arg(long, value_name = "SCALE", default_value = "3", value_parser = parse_scale)]
    pub scale: DemoScale,
    /// Leave the servers running until Ctrl-C, and say how to connect to them
    #[arg(long)]
    pub keep: bool,
    /// Major version of the old server; 14 where it can be had
    #[arg(long, value_name = "MAJOR")]
    pub from: Option<Major>,
    /// Major version of the new server; 18 where it can be had
    #[arg(long, value_name = "MAJOR")]
    pub to: Option<Major>,
    /// Sessions per server, and jobs of pg_dump and pg_restore; without it twice the machine's cores, from 4 to 16
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=512), help_heading = "Speed")]
    pub jobs: Option<u32>,
    #[command(flatten)]
    pub progress: ProgressArgs,
}

#[cfg(test)]
mod tests;
