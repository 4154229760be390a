//! The floor: CPU time that the servers need for the statements of a move, and for nothing else.
//!
//! The same COPY statements as pgconvoy's, whole tables, one after the other on one connection, on a machine that does
//! nothing else meanwhile; what is read is written to files, what is loaded comes from them, so that one server works
//! at a time. Then post-data by `pg_restore -j 1` without parallel workers, and the planner's statistics. It counts what
//! the kernel says of a postmaster and its children; the clients' own time is not in it. It is no proof of a
//! minimum: two processes on one core may take more CPU time than one after the other, and other settings less.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use rustix::process::Pid;
use tokio_util::sync::CancellationToken;

use super::sites::{checkpoint, conninfo, environment, execute};
use super::turns::Field;
use crate::event::Event;
use crate::lab::server_cpu_ms;
use crate::model::{CtidRange, Relation, RelationKind, ServerVersion, Side};
use crate::ops::error::{Cause, Error, Result};
use crate::ops::options::{Contents, Filters, Run, ServerArgs, SourceOptions, Statistics, ToastCompression};
use crate::ops::pg_tools::ignored_errors;
use crate::ops::program::Call;
use crate::ops::server::Server;
use crate::ops::source_plan::SourcePlan;
use crate::ops::toast;
use crate::pg::copy_sql::{self, ReadRules};
use crate::pg::session;
use crate::pg::wire::{Block, DataConnection};
use crate::report::Floor;

/// As for archives: large reads, few messages.
const BLOCK_BYTES: usize = 256 * 1024;

/// Where it is measured.
pub(super) struct Ground<'a> {
    pub field: &'a Field<'a>,
    /// For the rows, as they come from the source. Does not exist yet.
    pub directory: &'a Path,
    /// At the target, empty.
    pub database: &'a str,
    /// Source and target.
    pub postmasters: (Pid, Pid),
}

/// The tables of the source, and how they are read.
struct Tables {
    relations: Vec<Relation>,
    rules: ReadRules,
    encoding: String,
}

impl Tables {
    /// As pgconvoy would read them: in the same formats, and the same columns. The snapshot is let go at once: nobody
    /// writes.
    async fn of(field: &Field<'_>, run: &Run) -> Result<Self> {
        let source = Server::connect_to(field.source.conninfo.clone(), run).await?;
        let options = SourceOptions {
            server: ServerArgs::default(),
            frozen_source: false,
            snapshot: None,
            chunk_bytes: None,
            filters: Filters::default(),
            statistics: Statistics::None,
            pg_dump: Some(field.tools.pg_dump.path.clone()),
            pg_dump_directories: Vec::new(),
            off_disk: false,
        };
        let plan = SourcePlan::make(&source, (&options, Contents::Everything), Some(field.target.version()), None, run)
            .await?;
        let relations =
            plan.inventory.relations.into_iter().filter(|r| r.kind == RelationKind::Table && !r.of_extension);
        let encoding = plan.inventory.encoding;
        Ok(Tables { relations: relations.collect(), rules: plan.rules, encoding })
    }
}

/// Reads every table once, so that whoever is measured first finds in the caches what the others will. Returns how many there
/// are.
pub(super) async fn warm(field: &Field<'_>, run: &Run) -> Result<u64> {
    let tables = Tables::of(field, run).await?;
    let (conninfo, cancel) = (field.source.conninfo.clone(), run.cancel.clone());
    blocking(move || {
        let mut connection = DataConnection::connect(Side::Source, &conninfo, &cancel)?;
        connection.execute(&session::reading(tables.rules.version))?;
        for relation in &tables.relations {
            stop_where_cancelled(&cancel)?;
            read(&mut connection, relation, &tables, &mut std::io::sink())?;
        }
        Ok(tables.relations.len() as u64)
    })
    .await
}

impl Ground<'_> {
    /// # Errors
    /// A statement or a program failed; the run was cancelled.
    pub async fn measure(&self, run: &Run) -> Result<Floor> {
        fs::create_dir(self.directory).map_err(|e| self.io(&e))?;
        let (source, target) = self.postmasters;
        let tables = Tables::of(self.field, run).await?;
        let mut floor = Floor::default();
        let servers = [self.field.source, self.field.target];

        say(run, "every table, read and thrown away");
        checkpoint(&servers, false, run).await;
        let before = server_cpu_ms(source);
        let (tables, copy_bytes) = self.read(tables, run).await?;
        floor.copy_out_cpu_ms = server_cpu_ms(source).saturating_sub(before);
        floor.copy_bytes = copy_bytes;

        let schema = self.schema(run).await?;
        self.restore(&schema, &["--section=pre-data"], &mut floor, run).await?;
        let loader = self.loader(run).await?;
        checkpoint(&servers, false, run).await;
        say(run, "every table, loaded from files");
        let before = server_cpu_ms(target);
        self.load(tables, &loader, run).await?;
        floor.copy_in_cpu_ms = server_cpu_ms(target).saturating_sub(before);

        checkpoint(&servers, false, run).await;
        let before = server_cpu_ms(target);
        self.restore(&schema, &["--section=post-data"], &mut floor, run).await?;
        floor.post_data_cpu_ms = server_cpu_ms(target).saturating_sub(before);
        self.statistics(&loader, &mut floor, run).await?;
        drop(loader);
        fs::remove_dir_all(self.directory).map_err(|e| self.io(&e))?;
        Ok(floor)
    }

    fn io(&self, error: &std::io::Error) -> Error {
        Error::new(Cause::Internal(format!("{}: {error}", self.directory.display())))
    }

    async fn read(&self, tables: Tables, run: &Run) -> Result<(Tables, u64)> {
        let (conninfo, directory) = (self.field.source.conninfo.clone(), self.directory.to_owned());
        let cancel = run.cancel.clone();
        blocking(move || {
            let mut connection = DataConnection::connect(Side::Source, &conninfo, &cancel)?;
            connection.execute(&session::reading(tables.rules.version))?;
            let mut bytes = 0;
            for relation in &tables.relations {
                stop_where_cancelled(&cancel)?;
                bytes += spool(&mut connection, relation, &tables, &directory)?;
            }
            Ok((tables, bytes))
        })
        .await
    }

    async fn load(&self, tables: Tables, loader: &Server, run: &Run) -> Result<()> {
        let (conninfo, directory) = (loader.conninfo.clone(), self.directory.to_owned());
        let cancel = run.cancel.clone();
        let toast = toast::setting(loader, ToastCompression::Auto).await?.statement;
        blocking(move || {
            let mut connection = DataConnection::connect(Side::Target, &conninfo, &cancel)?;
            connection.execute(&session::loading(connection.version()))?;
            if let Some(toast) = toast {
                connection.execute(&toast)?;
            }
            for relation in &tables.relations {
                stop_where_cancelled(&cancel)?;
                load(&mut connection, relation, &tables.encoding, &directory)?;
            }
            Ok(())
        })
        .await
    }

    /// The target's empty database.
    async fn loader(&self, run: &Run) -> Result<Server> {
        let conninfo = conninfo(self.field.target, self.database);
        Server::connect(Side::Target, &ServerArgs { conninfo: Some(conninfo), encoding: None }, run).await
    }

    /// The definitions alone, as a file for pg_restore.
    async fn schema(&self, run: &Run) -> Result<PathBuf> {
        let schema = self.directory.join("schema");
        let arguments = ["-Fc", "--schema-only", "-f"];
        self.pg_dump(&arguments, &schema).run(&run.cancel).await?.success("pg_dump")?;
        Ok(schema)
    }

    fn pg_dump(&self, arguments: &[&str], file: &Path) -> Call {
        let tool = &self.field.tools.pg_dump;
        let mut all: Vec<std::ffi::OsString> = arguments.iter().map(Into::into).collect();
        all.push(file.into());
        Call {
            name: "pg_dump".into(),
            program: tool.path.clone(),
            arguments: all,
            environment: environment(self.field.source),
            lib_dir: tool.lib_dir.clone(),
            log: file.with_extension("log"),
        }
    }

    /// One job, and the server's own processes alone.
    async fn restore(&self, file: &Path, options: &[&str], floor: &mut Floor, run: &Run) -> Result<()> {
        let target = self.field.target;
        let mut environment = environment(target);
        let mut settings = String::from("-c synchronous_commit=off");
        if target.version() >= ServerVersion::V11 {
            settings.push_str(" -c max_parallel_maintenance_workers=0");
        }
        match environment.iter_mut().find(|(name, _)| name == "PGOPTIONS") {
            Some((_, value)) => *value = format!("{value} {settings}"),
            None => environment.push(("PGOPTIONS".into(), settings)),
        }
        let mut call = self.field.tools.pg_restore.restore(1, file, self.database, environment);
        call.arguments.extend(options.iter().map(Into::into));
        say(run, &format!("pg_restore {}", options.join(" ")));
        match call.run(&run.cancel).await?.failure {
            Some(said) if ignored_errors(&said).is_some() => {
                let last = said.lines().next_back().unwrap_or("");
                floor.notes.push(format!("pg_restore {} went on after errors: {last}", options.join(" ")));
                Ok(())
            }
            Some(message) => Err(Error::new(Cause::Program { program: "pg_restore".into(), message })),
            None => Ok(()),
        }
    }

    /// ANALYZE, or the source's statistics where pg_dump, pg_restore and the target are of 18: what costs less.
    async fn statistics(&self, loader: &Server, floor: &mut Floor, run: &Run) -> Result<()> {
        let (_, target) = self.postmasters;
        say(run, "ANALYZE");
        let before = server_cpu_ms(target);
        execute(loader, "ANALYZE").await?;
        floor.statistics_cpu_ms = server_cpu_ms(target).saturating_sub(before);
        floor.statistics_by = "ANALYZE".into();
        if self.field.target.version() < ServerVersion::V18 {
            return Ok(());
        }
        let file = self.directory.join("statistics");
        let dumped = self.pg_dump(&["-Fc", "--statistics-only", "-f"], &file).run(&run.cancel).await?;
        if dumped.failure.is_some() {
            floor.notes.push("this pg_dump cannot read statistics: ANALYZE is what there is".into());
            return Ok(());
        }
        let before = server_cpu_ms(target);
        let mut carried = Floor::default();
        if let Err(error) = self.restore(&file, &["--statistics-only"], &mut carried, run).await {
            if error.is_cancelled() {
                return Err(error);
            }
            floor.notes.push(format!("the source's statistics cannot be loaded: {error}"));
            return Ok(());
        }
        let cpu_ms = server_cpu_ms(target).saturating_sub(before);
        if carried.notes.is_empty() && cpu_ms < floor.statistics_cpu_ms {
            floor.statistics_cpu_ms = cpu_ms;
            floor.statistics_by = "the source's, loaded by pg_restore".into();
        }
        Ok(())
    }
}

fn say(run: &Run, what: &str) {
    run.events.send(Event::Doing { what: format!("the floor: {what}") });
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(|e| Error::new(Cause::Internal(e.to_string())))?
}

fn stop_where_cancelled(cancel: &CancellationToken) -> Result<()> {
    if cancel.is_cancelled() { Err(Error::new(Cause::Cancelled)) } else { Ok(()) }
}

fn file_of(relation: &Relation, directory: &Path) -> PathBuf {
    directory.join(format!("{}.rows", relation.oid))
}

/// Reads a table into a file. Returns its COPY bytes.
fn spool(connection: &mut DataConnection, relation: &Relation, tables: &Tables, directory: &Path) -> Result<u64> {
    let path = file_of(relation, directory);
    let io = |e: std::io::Error| Error::new(Cause::Internal(format!("{}: {e}", path.display())));
    let mut file = File::create(&path).map_err(io)?;
    read(connection, relation, tables, &mut file)
}

fn read(connection: &mut DataConnection, relation: &Relation, tables: &Tables, sink: &mut impl Write) -> Result<u64> {
    let io = |e: std::io::Error| Error::new(Cause::Internal(format!("the rows of {}: {e}", relation.name)));
    let copy = copy_sql::copy_out(relation, CtidRange::ALL, &tables.rules);
    let sql = with_encoding(connection, &copy, &tables.encoding)?;
    let mut block = Block::new(BLOCK_BYTES);
    let mut rows = connection.copy_out(&sql, relation.format)?.stream(connection);
    loop {
        let more = rows.next_block(&mut block)?;
        sink.write_all(block.payload()).map_err(io)?;
        block.clear();
        if !more {
            return Ok(rows.outcome().map_or(0, |outcome| outcome.bytes));
        }
    }
}

/// Loads a table from its file, frozen where it may be, and removes the file.
fn load(connection: &mut DataConnection, relation: &Relation, encoding: &str, directory: &Path) -> Result<()> {
    let path = file_of(relation, directory);
    let io = |e: std::io::Error| Error::new(Cause::Internal(format!("{}: {e}", path.display())));
    let mut file = File::open(&path).map_err(io)?;
    let freeze = relation.load_via_root.is_none() && relation.filter.is_none();
    let truncate = if freeze { format!("TRUNCATE ONLY {}; ", relation.name.to_sql()) } else { String::new() };
    let copy = format!("BEGIN; {truncate}{}", copy_sql::copy_in(relation, freeze));
    let copy = with_encoding(connection, &copy, encoding)?;
    let mut rows = connection.copy_in(&copy, relation.format)?;
    let mut block = Block::new(BLOCK_BYTES);
    loop {
        let read = (&mut file).take(BLOCK_BYTES as u64).read_to_end(block.tail()).map_err(io)?;
        if read == 0 {
            break;
        }
        rows.write(&mut block)?;
    }
    rows.finish()?;
    connection.execute("COMMIT")?;
    fs::remove_file(&path).map_err(io)
}

/// Rows are in the source's encoding, names in UTF-8.
fn with_encoding(connection: &mut DataConnection, copy: &str, encoding: &str) -> Result<String> {
    if session::is_other_encoding(encoding) {
        connection.execute(session::STATEMENTS_IN_UTF8)?;
    }
    Ok(format!("{}{copy}", session::rows_in(encoding)))
}
