//! Arguments and environment, resolved once into what the engine and the printer need.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::CommandFactory;
use clap::error::ErrorKind;
use pgconvoy::archive::{Identities, Recipients};
use pgconvoy::lab::shapes::Amount;
use pgconvoy::ops::{
    BenchOptions, CheckOptions, Contents, CopyOptions, Definitions, DemoOptions, DumpOptions, Filters,
    PreflightOptions, Programs, Provider, RestoreOptions, Rival, RowCondition, ServerArgs, SnapshotOptions,
    SourceOptions, Statistics, TargetOptions, ToastCompression, VerifyAgainst, VerifyOptions,
};
use pgconvoy::report::BenchTask;

use super::args::{
    BenchArgs, BenchProgressArgs, Cli, Command, Conninfo, ContentsArgs, CopyArgs, DEFAULT_RETRY_S, DemoArgs, DumpArgs,
    FilterArgs, FilterRule, GeneralArgs, HerokuArgs, HerokuCommand, IdentityArgs, MigrateArgs, ProgressArgs,
    ProgressMode, ProviderName, RestoreArgs, Section, SourceArgs, StatisticsMode, TargetArgs, ToastMethod, VerifyArgs,
};
use super::environment::Environment;
use pgconvoy::model::has_password;

/// What is to be done.
#[derive(Debug)]
pub enum Task {
    Copy(CopyOptions),
    Dump(DumpOptions),
    Restore(RestoreOptions),
    Verify(VerifyOptions),
    Check(CheckOptions),
    Inspect { archive: PathBuf, identities: Identities, json: bool },
    Preflight(PreflightOptions),
    Snapshot(SnapshotOptions),
    Bench(BenchOptions),
    Demo(DemoOptions),
    Ec2(super::args::ec2::Ec2Args),
    Migrate(Box<MigrateArgs>),
    Heroku(Box<HerokuCommand>),
}

/// How the run is shown. The mode is not yet resolved against the terminal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Display {
    pub progress: ProgressMode,
    /// Where the result is written.
    pub reports: Vec<PathBuf>,
    pub trace: Option<PathBuf>,
    pub detail: Detail,
    pub colour: bool,
}

/// How much is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Detail {
    Quiet,
    Normal,
    Verbose,
}

#[derive(Debug)]
pub struct Settings {
    pub task: Task,
    pub display: Display,
    pub retry_for: Duration,
    /// Said once before the run.
    pub warnings: Vec<String>,
    /// The same, of what is no reason to worry.
    pub notes: Vec<String>,
}

/// # Errors
/// A combination that makes no sense, as clap's own error: exit code 2.
pub fn resolve(cli: Cli, environment: &Environment) -> Result<Settings, clap::Error> {
    require_servers(&cli.command, environment)?;
    refuse_misfits(&cli.command)?;
    let warnings = password_warnings(&cli.command);
    let notes = unnamed_servers(&cli.command, environment);
    let retry_for = retry_for(&cli.command);
    let (task, shown) = task(cli.command, environment)?;
    let display = display(shown, cli.general, environment);
    Ok(Settings { task, display, retry_for, warnings, notes })
}

fn retry_for(command: &Command) -> Duration {
    if let Command::Heroku(_) | Command::Migrate(_) = command {
        // The budget of downtime ends it before, where that is shorter.
        return Duration::from_secs(DEFAULT_RETRY_S);
    }
    let (Command::Copy(CopyArgs { retry, .. })
    | Command::Dump(DumpArgs { retry, .. })
    | Command::Restore(RestoreArgs { retry, .. })
    | Command::Verify(VerifyArgs { retry, .. })) = command
    else {
        return Duration::ZERO;
    };
    Duration::from_secs(retry.retry_for)
}

fn display(shown: Option<Shown>, general: GeneralArgs, environment: &Environment) -> Display {
    let GeneralArgs { trace, quiet, verbose, no_color } = general;
    let Shown { mode, reports } = shown.unwrap_or_default();
    let detail = match (quiet, verbose) {
        (true, _) => Detail::Quiet,
        (_, true) => Detail::Verbose,
        _ => Detail::Normal,
    };
    let progress = if quiet && mode == ProgressMode::Auto { ProgressMode::None } else { mode };
    Display { progress, reports, trace, detail, colour: !no_color && !environment.no_colour }
}

/// What a command says of how it is shown.
struct Shown {
    mode: ProgressMode,
    reports: Vec<PathBuf>,
}

impl Default for Shown {
    fn default() -> Self {
        Self { mode: ProgressMode::None, reports: Vec::new() }
    }
}

impl From<ProgressArgs> for Shown {
    fn from(args: ProgressArgs) -> Self {
        Self { mode: args.progress, reports: args.report.into_iter().collect() }
    }
}

impl From<BenchProgressArgs> for Shown {
    fn from(args: BenchProgressArgs) -> Self {
        Self { mode: args.progress, reports: args.report }
    }
}

fn task(command: Command, environment: &Environment) -> Result<(Task, Option<Shown>), clap::Error> {
    Ok(match command {
        Command::Copy(args) => {
            let target = TargetOptions { resume: args.resume, ..target_options(args.target) };
            let source = source_options(args.source, args.filters, target.statistics);
            let contents = contents(&args.contents);
            let (jobs, evidence) = (args.jobs.jobs, args.evidence);
            (Task::Copy(CopyOptions { source, target, jobs, contents, evidence }), Some(args.progress.into()))
        }
        Command::Dump(args) => {
            let recipients = Recipients::parse(&args.encrypt).map_err(|why| usage(&why))?;
            let source = source_options(args.source, args.filters, Statistics::Auto);
            let options = DumpOptions {
                source: SourceOptions { off_disk: !recipients.is_empty(), ..source },
                archive: args.archive,
                jobs: args.jobs.jobs,
                contents: contents(&args.contents),
                zstd_level: args.zstd_level,
                recipients,
                resume: args.resume,
            };
            (Task::Dump(options), Some(args.progress.into()))
        }
        Command::Restore(args) => {
            let (archive, target) =
                (args.archive, TargetOptions { resume: args.resume, ..target_options(args.target) });
            let contents = args.section.map_or_else(|| contents(&args.contents), Into::into);
            let (jobs, skip_damaged) = (args.jobs.jobs, args.skip_damaged);
            if skip_damaged && contents == Contents::DataOnly {
                return Err(usage(
                    "--skip-damaged cannot be used with --section data: keys of the tables that are there could not hold",
                ));
            }
            let identities = identities(&args.identity)?;
            let options = RestoreOptions { archive, target, jobs, contents, identities, skip_damaged };
            (Task::Restore(options), Some(args.progress.into()))
        }
        Command::Verify(args) => {
            let source = ServerArgs { encoding: args.source_encoding, ..server(args.source) };
            let stored = args.archive.map(VerifyAgainst::Archive).or(args.evidence.map(VerifyAgainst::Evidence));
            let reference = stored.unwrap_or(VerifyAgainst::Server(source));
            let (target, filters) = (server(args.target), filters(args.filters));
            let definitions = args.definitions.definitions.then_some(Definitions {
                no_owner: args.definitions.no_owner,
                no_privileges: args.definitions.no_privileges,
                no_tablespaces: args.definitions.no_tablespaces,
                no_comments: args.definitions.no_comments,
                pg_dump: args.definitions.pg_dump,
            });
            let jobs = args.jobs.jobs;
            if let Some(why) = needs_no_key(&reference).filter(|_| !args.identity.identity.is_empty()) {
                return Err(usage(why));
            }
            let identities = identities(&args.identity)?;
            let options = VerifyOptions { reference, identities, target, jobs, filters, definitions };
            (Task::Verify(options), Some(args.progress.into()))
        }
        Command::Check(args) => {
            if !args.identity.identity.is_empty() && is_file(&args.archive) {
                return Err(usage("--identity cannot be used with a file that has a digest: it is never encrypted"));
            }
            let identities = identities(&args.identity)?;
            let options = CheckOptions { archive: args.archive, identities, jobs: args.jobs.jobs };
            (Task::Check(options), Some(args.progress.into()))
        }
        Command::Inspect(args) => {
            let identities = identities(&args.identity)?;
            (Task::Inspect { archive: args.archive, identities, json: args.json }, None)
        }
        Command::Preflight(args) => {
            let wants_source = args.source.source.is_some() || environment.source_is_set;
            let wants_target = args.target.target.is_some() || environment.target_is_set;
            let options = PreflightOptions {
                source: wants_source.then(|| source_options(args.source, args.filters, Statistics::None)),
                target: wants_target.then(|| target_options(args.target)),
                jobs: args.jobs.jobs,
                contents: contents(&args.contents),
            };
            (Task::Preflight(options), Some(args.progress.into()))
        }
        Command::Snapshot(args) => {
            let options = SnapshotOptions { server: server(args.source), filters: filters(args.filters) };
            (Task::Snapshot(options), Some(args.progress.into()))
        }
        Command::Bench(args) => bench(args),
        Command::Ec2(args) => (Task::Ec2(args), None),
        Command::Migrate(mut args) => {
            let shown = std::mem::take(&mut args.progress).into();
            (Task::Migrate(Box::new(args)), Some(shown))
        }
        Command::Heroku(HerokuArgs { mut command }) => {
            let shown = command.progress().map(|progress| std::mem::take(progress).into());
            (Task::Heroku(Box::new(command)), shown)
        }
        Command::Demo(args) => {
            let DemoArgs { scale, keep, from, to, jobs, progress } = args;
            (Task::Demo(DemoOptions { scale: scale.0, from, to, jobs, keep }), Some(progress.into()))
        }
    })
}

fn usage(why: &str) -> clap::Error {
    Cli::command().error(ErrorKind::ValueValidation, why)
}

fn identities(args: &IdentityArgs) -> Result<Identities, clap::Error> {
    Identities::read(&args.identity).map_err(|why| usage(&why))
}

/// What is read without a key.
fn needs_no_key(reference: &VerifyAgainst) -> Option<&'static str> {
    match reference {
        // The evidence of an archive is read from it.
        VerifyAgainst::Archive(_) => None,
        VerifyAgainst::Evidence(path) => {
            is_file(path).then_some("--identity cannot be used with an evidence file: it is never encrypted")
        }
        VerifyAgainst::Server(_) => Some("--identity cannot be used without --archive: a server is read without a key"),
    }
}

/// Not an archive, which is a directory. What is missing is said by who opens it.
fn is_file(path: &Path) -> bool {
    path.exists() && !path.is_dir()
}

fn bench(args: BenchArgs) -> (Task, Option<Shown>) {
    let options = BenchOptions {
        source: args.source.map(|source| server(Some(source))),
        target: args.target.map(|target| server(Some(target))),
        generate: args.generate,
        amount: args.size.map(Amount::Bytes).or(args.tables.map(Amount::Tables)),
        jobs: args.jobs.jobs,
        rounds: args.rounds,
        // As it was called where /proc does not tell.
        pgconvoy: std::env::current_exe().unwrap_or_else(|_| "pgconvoy".into()),
        tasks: BenchTask::ALL.into_iter().filter(|task| args.only.contains(&task.to_string())).collect(),
        floor: args.only.iter().any(|part| part == "floor"),
        rivals: Rival::ALL.into_iter().filter(|rival| args.rivals.contains(rival)).collect(),
        programs: Programs { pg_dump: args.pg_dump, pg_restore: args.pg_restore, pgcopydb: args.pgcopydb },
        work_dir: args.work_dir,
    };
    (Task::Bench(options), Some(args.progress.into()))
}

fn server(conninfo: Option<Conninfo>) -> ServerArgs {
    ServerArgs { conninfo: conninfo.map(|conninfo| conninfo.0), encoding: None }
}

/// `statistics`: whether the dump of the schema shall hold them.
fn source_options(args: SourceArgs, filter_args: FilterArgs, statistics: Statistics) -> SourceOptions {
    SourceOptions {
        statistics,
        server: ServerArgs { encoding: args.source_encoding, ..server(args.source) },
        frozen_source: args.frozen_source,
        snapshot: args.snapshot,
        chunk_bytes: args.chunk_size,
        filters: filters(filter_args),
        pg_dump: args.pg_dump,
        pg_dump_directories: Vec::new(),
        off_disk: false,
    }
}

fn statistics(args: &TargetArgs) -> Statistics {
    match args.statistics {
        _ if args.no_analyze => Statistics::None,
        StatisticsMode::Auto => Statistics::Auto,
        StatisticsMode::Carry => Statistics::Carry,
        StatisticsMode::Analyze => Statistics::Analyze,
        StatisticsMode::None => Statistics::None,
    }
}

fn target_options(args: TargetArgs) -> TargetOptions {
    TargetOptions {
        statistics: statistics(&args),
        server: server(args.target),
        drop_target_objects: args.drop_target_objects,
        no_owner: args.no_owner,
        no_privileges: args.no_privileges,
        no_tablespaces: args.no_tablespaces,
        no_comments: args.no_comments,
        provider: args.provider.map(|name| match name {
            ProviderName::Heroku => Provider::Heroku,
            ProviderName::Rds => Provider::Rds,
            ProviderName::CloudSql => Provider::CloudSql,
            ProviderName::Azure => Provider::Azure,
            ProviderName::Supabase => Provider::Supabase,
            ProviderName::Neon => Provider::Neon,
            ProviderName::Generic => Provider::Generic,
        }),
        toast_compression: match args.toast_compression {
            ToastMethod::Auto => ToastCompression::Auto,
            ToastMethod::Server => ToastCompression::Server,
            ToastMethod::Lz4 => ToastCompression::Lz4,
            ToastMethod::Pglz => ToastCompression::Pglz,
        },
        create: args.create,
        resume: false,
        roles: args.roles,
    }
    .with_provider()
}

fn filters(args: FilterArgs) -> Filters {
    let mut filters = Filters {
        include_schemas: args.include_schema,
        exclude_schemas: args.exclude_schema,
        include_tables: args.include_table,
        exclude_tables: args.exclude_table,
        exclude_table_data: args.exclude_table_data,
        exclude_indexes: args.exclude_index,
        include_extensions: args.extension,
        exclude_extensions: args.exclude_extension,
        conditions: args
            .conditions
            .into_iter()
            .map(|c| RowCondition { table_pattern: c.table, condition: c.condition })
            .collect(),
    };
    for (rule, pattern) in args.filter_files.into_iter().flat_map(|file| file.0) {
        let list = match rule {
            FilterRule::IncludeSchema => &mut filters.include_schemas,
            FilterRule::ExcludeSchema => &mut filters.exclude_schemas,
            FilterRule::IncludeTable => &mut filters.include_tables,
            FilterRule::ExcludeTable => &mut filters.exclude_tables,
            FilterRule::ExcludeTableData => &mut filters.exclude_table_data,
            FilterRule::ExcludeIndex => &mut filters.exclude_indexes,
            FilterRule::IncludeExtension => &mut filters.include_extensions,
            FilterRule::ExcludeExtension => &mut filters.exclude_extensions,
        };
        list.push(pattern);
    }
    filters
}

fn contents(args: &ContentsArgs) -> Contents {
    match (args.schema_only, args.data_only) {
        (true, _) => Contents::SchemaOnly,
        (_, true) => Contents::DataOnly,
        _ => Contents::Everything,
    }
}

impl From<Section> for Contents {
    fn from(section: Section) -> Self {
        match section {
            Section::PreData => Self::PreData,
            Section::Data => Self::DataOnly,
            Section::PostData => Self::PostData,
        }
    }
}

/// What makes a target anew does not go with a section that wants its tables.
fn refuse_misfits(command: &Command) -> Result<(), clap::Error> {
    let Command::Restore(RestoreArgs { section: Some(section), target, resume, .. }) = command else { return Ok(()) };
    let misfits: &[(&str, bool)] = match section {
        Section::PreData => &[],
        Section::Data => &[
            ("--create", target.create),
            ("--drop-target-objects", target.drop_target_objects),
            ("--roles", target.roles),
            ("--resume", *resume),
        ],
        Section::PostData => &[
            ("--create", target.create),
            ("--drop-target-objects", target.drop_target_objects),
            ("--roles", target.roles),
        ],
    };
    let Some((misfit, _)) = misfits.iter().find(|(_, is_asked_for)| *is_asked_for) else { return Ok(()) };
    let mut root = Cli::command();
    root.build();
    let command = root.find_subcommand_mut("restore").cloned().unwrap_or(root);
    let message = format!("{misfit} does not go with a section that wants tables which are there");
    Err(command.clone().error(ErrorKind::ArgumentConflict, message))
}

/// Two servers of which neither is named would both be what the PG* variables name: the same one.
fn require_servers(command: &Command, environment: &Environment) -> Result<(), clap::Error> {
    let (name, source, target) = match command {
        Command::Copy(args) => ("copy", &args.source.source, &args.target.target),
        Command::Verify(args) if args.archive.is_none() && args.evidence.is_none() => {
            ("verify", &args.source, &args.target)
        }
        Command::Preflight(args) => ("preflight", &args.source.source, &args.target.target),
        _ => return Ok(()),
    };
    let named = source.is_some() || target.is_some() || environment.source_is_set || environment.target_is_set;
    if named {
        return Ok(());
    }
    let mut root = Cli::command();
    root.build();
    let command = root.find_subcommand_mut(name).cloned().unwrap_or(root);
    let message = "no server is named: give --source and --target, or set PGCONVOY_SOURCE and PGCONVOY_TARGET";
    Err(command.clone().error(ErrorKind::MissingRequiredArgument, message))
}

/// Servers that only the PG* variables and libpq's defaults name: not everybody who forgets an option means those.
fn unnamed_servers(command: &Command, environment: &Environment) -> Vec<String> {
    let is_stored = |args: &VerifyArgs| args.archive.is_some() || args.evidence.is_some();
    let (source, target) = match command {
        Command::Copy(args) => (Some(&args.source.source), Some(&args.target.target)),
        Command::Dump(args) => (Some(&args.source.source), None),
        Command::Restore(args) => (None, Some(&args.target.target)),
        Command::Verify(args) => ((!is_stored(args)).then_some(&args.source), Some(&args.target)),
        Command::Snapshot(args) => (Some(&args.source), None),
        _ => (None, None),
    };
    let is_unnamed = |named: Option<&Option<Conninfo>>, is_set: bool| named.is_some_and(|n| n.is_none() && !is_set);
    [
        ("--source", "PGCONVOY_SOURCE", is_unnamed(source, environment.source_is_set)),
        ("--target", "PGCONVOY_TARGET", is_unnamed(target, environment.target_is_set)),
    ]
    .into_iter()
    .filter(|(_, _, is_unnamed)| *is_unnamed)
    .map(|(option, variable, _)| {
        format!("neither {option} nor {variable} was given: the PG* variables, or libpq's defaults, name that server")
    })
    .collect()
}

fn password_warnings(command: &Command) -> Vec<String> {
    let (source, target) = match command {
        Command::Copy(args) => (args.source.source.as_ref(), args.target.target.as_ref()),
        Command::Dump(args) => (args.source.source.as_ref(), None),
        Command::Restore(args) => (None, args.target.target.as_ref()),
        Command::Verify(args) => (args.source.as_ref(), args.target.as_ref()),
        Command::Preflight(args) => (args.source.source.as_ref(), args.target.target.as_ref()),
        Command::Snapshot(args) => (args.source.as_ref(), None),
        Command::Bench(args) => (args.source.as_ref(), args.target.as_ref()),
        Command::Migrate(args) => (args.source.as_ref(), args.target.as_ref()),
        Command::Check(_) | Command::Inspect(_) | Command::Demo(_) | Command::Ec2(_) | Command::Heroku(_) => {
            (None, None)
        }
    };
    let flags: Vec<&str> = [("--source", source), ("--target", target)]
        .into_iter()
        .filter(|(_, conninfo)| conninfo.is_some_and(|c| has_password(&c.0)))
        .map(|(flag, _)| flag)
        .collect();
    if flags.is_empty() {
        return Vec::new();
    }
    let place = match flags[..] {
        ["--source"] => "~/.pgpass or PGCONVOY_SOURCE",
        ["--target"] => "~/.pgpass or PGCONVOY_TARGET",
        _ => "~/.pgpass or PGCONVOY_SOURCE and PGCONVOY_TARGET",
    };
    let flags = flags.join(" and ");
    vec![format!("the password in {flags} shows in the process list to every user of this machine; use {place}")]
}

#[cfg(test)]
mod tests;
