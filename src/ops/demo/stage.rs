use std::path::{Path, PathBuf};

use super::servers::Servers;
use super::{COPIED, ORIGINAL, PG_RESTORED, RESTORED};
use crate::event::Event;
use crate::lab::{Cluster, Scratch};
use crate::model::{format_bytes, format_duration_ms};
use crate::ops::error::{Cause, Error, Result};
use crate::ops::options::{
    CheckOptions, Contents, CopyOptions, DumpOptions, Filters, RestoreOptions, Run, ServerArgs, SourceOptions,
    Statistics, TargetOptions, ToastCompression, VerifyAgainst, VerifyOptions,
};
use crate::ops::pg_tools::{Compression, Tool, directory_bytes, ignored_errors};
use crate::ops::{check, copy, dump, restore, verify};
use crate::report::{Comparison, TransferReport, VerifyReport};

/// Two servers and a place on disk: everything a step needs.
pub(super) struct Stage<'a> {
    pub servers: &'a Servers,
    pub scratch: &'a Scratch,
    pub jobs: u32,
    pub run: &'a Run,
}

/// What PostgreSQL's own tools needed.
pub(super) struct Rival {
    pub dump_ms: u64,
    pub restore_ms: u64,
    pub archive_bytes: u64,
    pub dump_command: String,
    pub restore_command: String,
    pub notes: Vec<String>,
}

impl Rival {
    pub fn sentence(&self) -> String {
        let (dump, restore) = (format_duration_ms(self.dump_ms), format_duration_ms(self.restore_ms));
        format!("pg_dump took {dump} for {}, pg_restore took {restore}", format_bytes(self.archive_bytes))
    }
}

impl Stage<'_> {
    fn archive(&self) -> PathBuf {
        self.scratch.path().join("shop.convoy")
    }

    pub fn archive_bytes(&self) -> u64 {
        directory_bytes(&self.archive())
    }

    fn source(&self) -> SourceOptions {
        SourceOptions {
            server: args(self.servers.source(), ORIGINAL),
            frozen_source: false,
            snapshot: None,
            chunk_bytes: None,
            filters: Filters::default(),
            statistics: Statistics::Auto,
            pg_dump: Some(self.servers.clients.pg_dump.clone()),
            pg_dump_directories: Vec::new(),
            off_disk: false,
        }
    }

    fn target(&self, database: &str) -> TargetOptions {
        TargetOptions {
            server: args(self.servers.target(), database),
            drop_target_objects: false,
            no_owner: false,
            no_privileges: false,
            no_tablespaces: false,
            no_comments: false,
            provider: None,
            statistics: Statistics::default(),
            toast_compression: ToastCompression::default(),
            create: false,
            resume: false,
            roles: false,
        }
    }

    pub async fn copy(&self) -> Result<TransferReport> {
        self.servers.checkpoint(self.run).await?;
        let (source, target) = (self.source(), self.target(COPIED));
        let contents = Contents::Everything;
        copy(&CopyOptions { source, target, jobs: self.jobs, contents, evidence: None }, self.run).await
    }

    pub async fn verify_copy(&self) -> Result<Comparison> {
        let reference = VerifyAgainst::Server(args(self.servers.source(), ORIGINAL));
        let report = self.verify(reference, COPIED).await?;
        Ok(comparison("the copy with the old server, every row", &report))
    }

    pub async fn dump(&self) -> Result<TransferReport> {
        self.servers.checkpoint(self.run).await?;
        let (source, archive) = (self.source(), self.archive());
        let contents = Contents::Everything;
        let recipients = <_>::default();
        let jobs = self.jobs;
        dump(&DumpOptions { source, archive, jobs, contents, zstd_level: 1, recipients, resume: false }, self.run).await
    }

    pub async fn check(&self) -> Result<Comparison> {
        let options = CheckOptions { archive: self.archive(), identities: <_>::default(), jobs: self.jobs };
        let run = self.run.clone();
        let checked = tokio::task::spawn_blocking(move || check(&options, &run)).await;
        let report = checked.map_err(|e| Error::new(Cause::Internal(e.to_string())))??;
        Ok(Comparison { what: "the archive with its checksums, every byte".into(), differences: report.damage })
    }

    pub async fn restore(&self) -> Result<TransferReport> {
        self.servers.checkpoint(self.run).await?;
        let (archive, target) = (self.archive(), self.target(RESTORED));
        let contents = Contents::Everything;
        restore(
            &RestoreOptions {
                archive,
                target,
                jobs: self.jobs,
                contents,
                identities: <_>::default(),
                skip_damaged: false,
            },
            self.run,
        )
        .await
    }

    pub async fn verify_restored(&self) -> Result<Comparison> {
        let report = self.verify(VerifyAgainst::Archive(self.archive()), RESTORED).await?;
        Ok(comparison("the restored database with the archive, every row", &report))
    }

    async fn verify(&self, reference: VerifyAgainst, database: &str) -> Result<VerifyReport> {
        let target = args(self.servers.target(), database);
        let filters = Filters::default();
        let options = VerifyOptions {
            reference,
            identities: <_>::default(),
            target,
            jobs: self.jobs,
            filters,
            definitions: None,
        };
        verify(&options, self.run).await
    }

    pub async fn rival(&self) -> Result<Rival> {
        let clients = &self.servers.clients;
        let tool = |path: &Path| Tool { path: path.to_owned(), lib_dir: clients.lib_dir.clone() };
        let (pg_dump, pg_restore) = (tool(&clients.pg_dump), tool(&clients.pg_restore));
        let compression = pg_dump.compression(self.scratch.path());
        let dump_command = format!("pg_dump -Fd -j {}{}", self.jobs, compression.option());
        let restore_command = format!("pg_restore -j {}", self.jobs);
        let directory = self.scratch.path().join("pg_dump");

        self.servers.checkpoint(self.run).await?;
        self.run.events.send(Event::Doing { what: dump_command.clone() });
        let call = pg_dump.dump(self.jobs, compression, &directory, environment(self.servers.source(), ORIGINAL));
        let dumped = call.run(&self.run.cancel).await?.success("pg_dump")?;

        self.servers.checkpoint(self.run).await?;
        self.run.events.send(Event::Doing { what: restore_command.clone() });
        let target = environment(self.servers.target(), PG_RESTORED);
        let ended = pg_restore.restore(self.jobs, &directory, PG_RESTORED, target).run(&self.run.cancel).await?;
        let mut notes = Vec::new();
        let restored = match ended.failure.as_deref().and_then(ignored_errors) {
            Some(errors) => {
                notes.push(format!("pg_restore reported {errors} errors and went on: it knows more than this server"));
                ended.cost
            }
            None => ended.success("pg_restore")?,
        };
        if compression == Compression::Default {
            notes.push(
                "this pg_dump was built without zstd: it compressed with gzip, its default, which costs it more time than \
                 zstd, level 1, would have; pgconvoy used zstd, level 1"
                    .into(),
            );
        }
        Ok(Rival {
            dump_ms: dumped.elapsed_ms,
            restore_ms: restored.elapsed_ms,
            archive_bytes: directory_bytes(&directory),
            dump_command,
            restore_command,
            notes,
        })
    }
}

fn args(cluster: &Cluster, database: &str) -> ServerArgs {
    ServerArgs { conninfo: Some(cluster.uri(database)), encoding: None }
}

fn environment(cluster: &Cluster, database: &str) -> Vec<(String, String)> {
    let socket_dir = cluster.socket_dir().display().to_string();
    let port = cluster.port().to_string();
    let set =
        [("PGHOST", socket_dir.as_str()), ("PGPORT", &port), ("PGUSER", cluster.user()), ("PGDATABASE", database)];
    set.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

fn comparison(what: &str, report: &VerifyReport) -> Comparison {
    let different = report.tables.iter().filter(|table| !table.is_equal());
    let mut differences: Vec<String> = different
        .map(|t| format!("{}: {} rows on one side, {} on the other", t.name, t.reference_rows, t.target_rows))
        .collect();
    differences.extend(report.differences.iter().map(|d| d.message.clone()));
    Comparison { what: what.into(), differences }
}
