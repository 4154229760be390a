//! Real servers, by our own connections and operations.

use std::path::{Path, PathBuf};

use tokio_postgres::SimpleQueryMessage;

use super::database::{
    At, Copied, DatabaseFacts, Databases, Fence, Filled, HowToCopy, Identity, Mark, OtherSession, Replay, Verified,
};
use super::elsewhere::listen;
use super::machines::{Machines, OnEc2};
use super::reported::Reported;
use super::{Error, Result, settings, stillness};
use crate::archive::{Identities, Recipients};
use crate::model::{Lsn, ServerVersion, Side, quote_ident};
use crate::ops::{
    self, Contents, CopyOptions, Definitions, DumpOptions, Filters, PreflightOptions, Provider, RestoreOptions, Run,
    ServerArgs, SourceOptions, Statistics, TargetOptions, ToastCompression, VerifyAgainst, VerifyOptions,
};
use crate::pg::conninfo::ProcessEnv;
use crate::pg::{self, ConnInfo, Control, control};
use crate::report::{FindingLevel, TransferReport, VerifyReport};
use crate::schema::{self, PgDumpSearch};

/// PostgreSQL servers.
#[derive(Clone, Debug, Default)]
pub struct Servers {
    /// A pg_dump to use instead of the one that fits best.
    pub pg_dump: Option<PathBuf>,
    /// What runs pgconvoy on another machine, to which its arguments are appended; the addresses are in its environment, as
    /// PGCONVOY_SOURCE and PGCONVOY_TARGET. `None`: rows move through this machine.
    pub elsewhere: Option<String>,
}

/// Differences that are named.
const DIFFERENCES_MAX: usize = 20;

/// One connection, for a few queries.
pub(super) struct Session {
    control: Control,
    side: Side,
}

impl Session {
    pub(super) async fn open(at: At<'_>) -> Result<Self> {
        let conninfo = ConnInfo::resolve(at.side, Some(at.url.expose()), &ProcessEnv)?;
        Ok(Self { control: control::connect(&conninfo).await?, side: at.side })
    }

    /// The rows of the last statement that gives some, as text; NULL is empty.
    pub(super) async fn rows(&self, sql: &str) -> Result<Vec<Vec<String>>> {
        let messages = self.control.client.simple_query(sql).await;
        let messages = messages.map_err(|error| pg::Error::control(self.side, &error, Some(sql)))?;
        let rows = messages.iter().filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => Some(row),
            _ => None,
        });
        Ok(rows.map(|row| (0..row.len()).map(|i| row.get(i).unwrap_or_default().to_owned()).collect()).collect())
    }

    pub(super) async fn row(&self, sql: &str) -> Result<Vec<String>> {
        let rows = self.rows(sql).await?;
        rows.into_iter().next().ok_or_else(|| Error::Internal(format!("`{sql}` gives no row")))
    }

    pub(super) async fn one(&self, sql: &str) -> Result<String> {
        Ok(self.row(sql).await?.into_iter().next().unwrap_or_default())
    }

    pub(super) fn version(&self) -> ServerVersion {
        self.control.version
    }

    /// The functions of the write-ahead log were named otherwise before 10 (release notes of 10).
    fn wal(&self, modern: &'static str, old: &'static str) -> &'static str {
        if self.version() >= ServerVersion::V10 { modern } else { old }
    }

    pub(super) async fn run(&self, sql: &str) -> Result<()> {
        self.rows(sql).await.map(drop)
    }
}

/// Sessions of client programs in this database, other than this one.
const OTHERS: &str = "FROM pg_stat_activity JOIN pg_roles r ON r.oid = usesysid
    WHERE datname = current_database() AND pid <> pg_backend_pid()";

/// Relations of the user's own; the tables of pgconvoy in a target are never at a source.
pub(super) const USER_SCHEMAS: &str = "nspname NOT IN ('pg_catalog', 'information_schema') AND nspname NOT LIKE 'pg\\_toast%' AND nspname NOT LIKE 'pg\\_temp%'";

impl Databases for Servers {
    fn machines(&self) -> Option<&dyn Machines> {
        Some(&OnEc2)
    }

    async fn facts(&self, at: At<'_>) -> Result<DatabaseFacts> {
        let session = Session::open(at).await?;
        let counts = session
            .row(&format!(
                "SELECT pg_database_size(current_database()), count(DISTINCT n.oid),
                    count(*) FILTER (WHERE relkind IN ('r', 'p')), count(*)
                 FROM pg_class JOIN pg_namespace n ON n.oid = relnamespace WHERE {USER_SCHEMAS}"
            ))
            .await?;
        let about = session
            .row(
                "SELECT pg_has_role(datdba, 'USAGE') OR (SELECT rolsuper FROM pg_roles WHERE rolname = current_user),
                    current_setting('max_connections'),
                    (SELECT split_part(setting, '=', 2) FROM pg_db_role_setting s, unnest(setconfig) setting
                     WHERE s.setdatabase = d.oid AND s.setrole = 0 AND setting LIKE 'default_transaction_read_only=%')
                 FROM pg_database d WHERE datname = current_database()",
            )
            .await?;
        let extensions = session.rows("SELECT extname FROM pg_extension WHERE extname <> 'plpgsql' ORDER BY 1").await?;
        let number = |text: &str| text.parse().unwrap_or_default();
        Ok(DatabaseFacts {
            version: session.version().0,
            bytes: number(&counts[0]),
            schemas: number(&counts[1]),
            tables: number(&counts[2]),
            objects: number(&counts[3]),
            extensions: extensions.into_iter().flatten().collect(),
            owns_database: about[0] == "t",
            connection_limit: number(&about[1]),
            read_only_setting: Some(about[2].clone()).filter(|text| !text.is_empty()),
            in_recovery: session.control.in_recovery,
            settings: settings::names(&session).await?,
        })
    }

    async fn fence(&self, at: At<'_>) -> Result<()> {
        let session = Session::open(at).await?;
        let database = session.one("SELECT current_database()").await?;
        // By itself: in a session that begins read only, the first statement takes effect before the second.
        session.run("SET default_transaction_read_only = off").await?;
        session
            .run(&format!("ALTER DATABASE {} SET default_transaction_read_only = on", quote_ident(&database)))
            .await?;
        session.run(&format!("SELECT pg_terminate_backend(pid) {OTHERS} AND usename = current_user")).await
    }

    async fn unfence(&self, at: At<'_>) -> Result<()> {
        let session = Session::open(at).await?;
        let database = session.one("SELECT current_database()").await?;
        session.run("SET default_transaction_read_only = off").await?;
        session.run(&format!("ALTER DATABASE {} RESET default_transaction_read_only", quote_ident(&database))).await?;
        // Poolers keep sessions that began read only.
        session.run(&format!("SELECT pg_terminate_backend(pid) {OTHERS} AND usename = current_user")).await
    }

    async fn look_at_fence(&self, at: At<'_>) -> Result<Fence> {
        let session = Session::open(at).await?;
        let holds = session.one("SHOW default_transaction_read_only").await? == "on";
        let set = session
            .one(
                "SELECT count(*) FROM pg_db_role_setting s JOIN pg_database d ON d.oid = s.setdatabase
                 WHERE datname = current_database() AND setrole = 0 AND 'default_transaction_read_only=on' = ANY (setconfig)",
            )
            .await?;
        let sessions = session
            .rows(&format!("SELECT usename, usename = current_user, count(*) {OTHERS} AND (NOT rolsuper OR usename = current_user) GROUP BY 1, 2"))
            .await?;
        let mut fence = Fence { is_set: set != "0", holds, ..Fence::default() };
        for row in sessions {
            if row[1] == "t" {
                fence.own_sessions += row[2].parse::<u64>().unwrap_or(1);
            } else {
                fence.other_sessions.push(format!("{} ({})", row[0], row[2]));
            }
        }
        Ok(fence)
    }

    async fn mark(&self, at: At<'_>) -> Result<Mark> {
        stillness::mark(&Session::open(at).await?).await
    }

    async fn identity(&self, at: At<'_>) -> Result<Identity> {
        let (address, user) = self.address(at)?;
        let server = stillness::server_identity(&Session::open(at).await?).await?;
        Ok(Identity { address, user, server })
    }

    fn address(&self, at: At<'_>) -> Result<(String, String)> {
        let conninfo = ConnInfo::resolve(at.side, Some(at.url.expose()), &ProcessEnv)?;
        Ok((conninfo.address(), conninfo.user().to_owned()))
    }

    async fn carry_settings(&self, from: At<'_>, to: At<'_>) -> Result<Vec<String>> {
        settings::carry_over(&Session::open(from).await?, &Session::open(to).await?).await
    }

    async fn other_sessions(&self, at: At<'_>) -> Result<Vec<OtherSession>> {
        stillness::other_sessions(&Session::open(at).await?).await
    }

    async fn lsn(&self, at: At<'_>) -> Result<Lsn> {
        let session = Session::open(at).await?;
        let function = session.wal("pg_current_wal_lsn", "pg_current_xlog_location");
        lsn(&session.one(&format!("SELECT {function}()")).await?)
    }

    async fn replay(&self, at: At<'_>) -> Result<Replay> {
        let session = Session::open(at).await?;
        let function = session.wal("pg_last_wal_replay_lsn", "pg_last_xlog_replay_location");
        let text = session.one(&format!("SELECT {function}()")).await?;
        let replayed = if text.is_empty() { None } else { Some(lsn(&text)?) };
        Ok(Replay { in_recovery: session.control.in_recovery, replayed })
    }

    async fn filled(&self, at: At<'_>) -> Result<Filled> {
        let session = Session::open(at).await?;
        let counts = session
            .row(&format!(
                "SELECT count(*) FILTER (WHERE nspname = 'pgconvoy'), count(*)
                 FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace
                 WHERE {USER_SCHEMAS} AND nspname NOT IN ('_heroku', 'heroku_ext')
                    AND NOT EXISTS (SELECT FROM pg_depend WHERE classid = 'pg_class'::regclass AND objid = c.oid
                                    AND deptype = 'e')"
            ))
            .await?;
        Ok(match (counts[0].as_str(), counts[1].as_str()) {
            ("0", "0") => Filled::Empty,
            ("0", _) => Filled::Whole,
            _ => Filled::Unfinished,
        })
    }

    async fn filled_from(&self, at: At<'_>) -> Result<Option<String>> {
        let session = Session::open(at).await?;
        if session.one("SELECT to_regclass('pgconvoy.run') IS NOT NULL").await? != "t" {
            return Ok(None);
        }
        Ok(session.rows("SELECT origin FROM pgconvoy.run").await?.into_iter().flatten().next())
    }

    async fn preflight(&self, from: At<'_>, to: At<'_>, how: HowToCopy, run: &Run) -> Result<()> {
        if let Some(prefix) = &self.elsewhere {
            return self.there(prefix, &preflight_arguments(how).join(" "), (from, to), run).await?.preflight();
        }
        self.check_pg_dump(from, to).await?;
        let CopyOptions { source, target, jobs, contents, .. } = self.options(from, to, how);
        let report =
            ops::preflight(&PreflightOptions { source: Some(source), target: Some(target), jobs, contents }, run)
                .await?;
        let refused = report.findings.iter().filter(|finding| finding.level == FindingLevel::Refusal);
        let refused: Vec<&str> = refused.map(|finding| finding.message.as_str()).collect();
        if refused.is_empty() { Ok(()) } else { Err(Error::Refused(refused.join("; "))) }
    }

    async fn copy(&self, from: At<'_>, to: At<'_>, how: HowToCopy, run: &Run) -> Result<Copied> {
        if let Some(prefix) = &self.elsewhere {
            return self.there(prefix, &copy_arguments(how).join(" "), (from, to), run).await?.copied("copy");
        }
        Ok(copied(ops::copy(&self.options(from, to, how), run).await?))
    }

    async fn dump(&self, from: At<'_>, archive: &Path, how: HowToCopy, run: &Run) -> Result<Copied> {
        let options = DumpOptions {
            source: self.options(from, from, how).source,
            archive: archive.to_owned(),
            jobs: how.jobs,
            contents: Contents::Everything,
            // Read once and then thrown away: the quickest.
            zstd_level: 1,
            recipients: Recipients::default(),
            resume: false,
        };
        Ok(copied(ops::dump(&options, run).await?))
    }

    async fn restore(&self, archive: &Path, to: At<'_>, (how, resume): (HowToCopy, bool), run: &Run) -> Result<Copied> {
        let CopyOptions { target, .. } = self.options(to, to, how);
        let options = RestoreOptions {
            archive: archive.to_owned(),
            target: TargetOptions { resume, ..target },
            jobs: how.jobs,
            contents: Contents::Everything,
            identities: Identities::default(),
            skip_damaged: false,
        };
        Ok(copied(ops::restore(&options, run).await?))
    }

    async fn verify(&self, from: At<'_>, to: At<'_>, how: HowToCopy, run: &Run) -> Result<Verified> {
        if let Some(prefix) = &self.elsewhere {
            return self.there(prefix, &verify_arguments(how).join(" "), (from, to), run).await?.verified();
        }
        let CopyOptions { target, .. } = self.options(from, to, how);
        let options = VerifyOptions {
            reference: VerifyAgainst::Server(server(from)),
            identities: Identities::default(),
            target: server(to),
            jobs: how.jobs,
            filters: Filters::default(),
            definitions: Some(Definitions {
                no_owner: target.no_owner,
                no_privileges: target.no_privileges,
                no_tablespaces: target.no_tablespaces,
                // Those on extensions cannot be carried over; the others are compared by name only where versions differ.
                no_comments: target.no_comments || how.heroku,
                pg_dump: self.pg_dump.clone(),
            }),
        };
        let report: VerifyReport = ops::verify(&options, run).await?;
        if report.counted_only > 0 {
            return Err(Error::Refused(format!("{} tables were only counted", report.counted_only)));
        }
        let differing = report.tables.iter().filter(|table| !table.is_equal());
        let rows = differing
            .map(|t| format!("{}: {} rows at the source, {} at the target", t.name, t.reference_rows, t.target_rows));
        let objects = report.differences.iter().map(|difference| difference.message.clone());
        Ok(Verified {
            tables: report.tables.len() as u64,
            rows: report.tables.iter().map(|table| table.reference_rows).sum(),
            sequences: report.sequences as u64,
            definitions: report.definitions.map_or(0, |compared| compared.objects as u64),
            elapsed_ms: report.elapsed_ms,
            differences: rows.chain(objects).take(DIFFERENCES_MAX).collect(),
        })
    }
}

impl Servers {
    fn options(&self, from: At<'_>, to: At<'_>, how: HowToCopy) -> CopyOptions {
        let source = SourceOptions {
            server: server(from),
            frozen_source: false,
            snapshot: None,
            chunk_bytes: None,
            filters: Filters::default(),
            statistics: Statistics::Auto,
            pg_dump: self.pg_dump.clone(),
            pg_dump_directories: Vec::new(),
            off_disk: false,
        };
        let target = TargetOptions {
            server: server(to),
            drop_target_objects: how.again,
            no_owner: false,
            no_privileges: false,
            no_tablespaces: false,
            no_comments: false,
            provider: how.heroku.then_some(Provider::Heroku),
            statistics: Statistics::Auto,
            toast_compression: ToastCompression::Auto,
            create: false,
            roles: false,
            resume: false,
        };
        let target = target.with_provider();
        CopyOptions { source, target, jobs: how.jobs, contents: Contents::Everything, evidence: None }
    }

    /// One command of pgconvoy on the other machine.
    async fn there(&self, prefix: &str, arguments: &str, (from, to): (At<'_>, At<'_>), run: &Run) -> Result<Reported> {
        // Without a shell between, so that it is pgconvoy that is asked to end.
        let command = format!("exec {prefix} {arguments} --progress json");
        let reported = listen(&command, &[("PGCONVOY_SOURCE", from.url), ("PGCONVOY_TARGET", to.url)], run).await?;
        let address =
            |side, at: At<'_>| ConnInfo::resolve(side, Some(at.url.expose()), &ProcessEnv).map(|info| info.address());
        // What is on the way may have addresses of its own.
        reported.is_about(&[("source", address(Side::Source, from)?), ("target", address(Side::Target, to)?)])?;
        Ok(reported)
    }

    /// The comparison of definitions needs one that reads both servers; a copy would do with less. Better to know before the
    /// app is down.
    async fn check_pg_dump(&self, from: At<'_>, to: At<'_>) -> Result<()> {
        let (from, to) = (Session::open(from).await?.version(), Session::open(to).await?.version());
        let search = PgDumpSearch {
            source_version: from.max(to),
            target_version: None,
            explicit: self.pg_dump.clone(),
            extra_directories: Vec::new(),
        };
        let found = schema::find_pg_dump(&search).await.map_err(|error| match error {
            // It would do for a copy: what it cannot read is the newer one of both.
            schema::Error::NoPgDump { .. } | schema::Error::UnfitPgDump { .. } if to > from => {
                let cause = ops::Cause::Refused { side: Side::Target, message: error.to_string() };
                error.hint().into_iter().fold(ops::Error::new(cause), ops::Error::hint)
            }
            error => ops::Error::from(error),
        })?;
        if found.can_read(from.min(to)) {
            return Ok(());
        }
        Err(Error::Refused(format!("pg_dump {} does not read PostgreSQL {}", found.version, from.min(to))))
    }
}

fn copied(report: TransferReport) -> Copied {
    let (rows, bytes) = report.totals();
    Copied { rows, bytes, elapsed_ms: report.elapsed_ms, left_out: report.skipped }
}

/// What pgconvoy is told to do elsewhere what [`Servers`] does here: plain words, for a shell too.
pub(super) fn preflight_arguments(how: HowToCopy) -> Vec<String> {
    words(&["preflight"], how, &[])
}

pub(super) fn copy_arguments(how: HowToCopy) -> Vec<String> {
    words(&["copy"], how, if how.again { &["--drop-target-objects"] } else { &[] })
}

pub(super) fn verify_arguments(how: HowToCopy) -> Vec<String> {
    let leave_out: &[&str] = if how.heroku { &["-O", "-x", "--no-tablespaces", "--no-comments"] } else { &[] };
    let jobs = ["-j".to_owned(), how.jobs.to_string()];
    ["verify", "--definitions"].iter().chain(leave_out).map(|word| (*word).to_owned()).chain(jobs).collect()
}

pub(super) fn words(first: &[&str], how: HowToCopy, more: &[&str]) -> Vec<String> {
    let provider: &[&str] = if how.heroku { &["--provider", "heroku"] } else { &[] };
    let jobs = ["-j".to_owned(), how.jobs.to_string()];
    first.iter().chain(provider).chain(more).map(|word| (*word).to_owned()).chain(jobs).collect()
}

fn lsn(text: &str) -> Result<Lsn> {
    text.parse().map_err(|_| Error::Internal(format!("`{text}` is no position in a write-ahead log")))
}

fn server(at: At<'_>) -> ServerArgs {
    ServerArgs { conninfo: Some(at.url.expose().to_owned()), encoding: None }
}

/// What an observation of a fence comes to: `None` where it stands.
pub(super) fn gap_in(fence: &Fence) -> Option<String> {
    match fence {
        Fence { is_set: false, .. } => Some("it is not set".into()),
        Fence { holds: false, .. } => {
            Some("a new session of this role is not read only: the role has a setting of its own".into())
        }
        Fence { own_sessions, .. } if *own_sessions > 0 => Some(format!("{own_sessions} older sessions are left")),
        _ => None,
    }
}
