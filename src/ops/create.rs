//! The target database itself: `--create`, as `pg_restore --create` does it.

use super::error::{Error, Result};
use super::options::{Contents, Run, TargetOptions};
use super::preflight::{self, Findings};
use super::server::Server;
use crate::model::{Side, quote_literal};
use crate::schema::{DatabaseSql, EntryOptions, Toc, database_sql};

/// Connects to the target: to the database that is filled, or, where that is to be made, to the one that the user
/// named, else `postgres`.
pub(super) async fn connect_target(options: &TargetOptions, run: &Run) -> Result<Server> {
    if options.create {
        Server::connect_for_maintenance(Side::Target, &options.server, run).await
    } else {
        Server::connect(Side::Target, &options.server, run).await
    }
}

/// Whether the target can be filled: the database that is there, or one of this name and encoding that is made.
pub(super) async fn check_target(
    target: &mut Server,
    (name, encoding): (&str, &str),
    options: &TargetOptions,
    contents: Contents,
    findings: &mut Findings,
) -> Result<()> {
    if options.create {
        check(name, encoding, target, findings).await
    } else {
        preflight::check_target(target, options, contents, findings).await
    }
}

/// Whether a database of this name can be made where `target` is connected. It has the source's encoding then.
async fn check(name: &str, encoding: &str, target: &mut Server, findings: &mut Findings) -> Result<()> {
    let side = Some(Side::Target);
    encoding.clone_into(&mut target.facts.encoding);
    let exists: bool = target
        .catalog()
        .scalar(&format!(
            "SELECT EXISTS (SELECT 1 FROM pg_catalog.pg_database WHERE datname = {})",
            quote_literal(name)
        ))
        .await?;
    let may_create: bool = target
        .catalog()
        .scalar("SELECT rolsuper OR rolcreatedb FROM pg_catalog.pg_roles WHERE rolname = current_user")
        .await?;
    if exists {
        findings.refuse(
            side,
            format!("database {name} exists already at {}", target.conninfo.address()),
            "drop or rename it, or name it with --target and leave --create out",
        );
    } else if !may_create {
        findings.refuse(
            side,
            format!("role {} may not create databases", target.facts.role),
            "connect as a role with CREATEDB, or create the database by other means and leave --create out",
        );
    } else {
        findings.ok(side, format!("database {name} can be created"));
    }
    Ok(())
}

/// The database that is filled.
pub(super) enum Target {
    There(Box<Server>),
    Created(Box<Created>),
}

impl Target {
    /// The server that is connected to, or, with `--create`, the database made there as `toc` describes it.
    ///
    /// # Errors
    /// Those of [`create`].
    pub(super) async fn prepare(server: Server, toc: &Toc, options: &TargetOptions, run: &Run) -> Result<Self> {
        if options.create {
            Ok(Self::Created(Box::new(create(server, toc, options, run).await?)))
        } else {
            Ok(Self::There(Box::new(server)))
        }
    }

    pub(super) fn server(&self) -> &Server {
        match self {
            Self::There(server) => server,
            Self::Created(created) => &created.server,
        }
    }

    /// When everything is in.
    pub(super) async fn finish(&self, run: &Run) -> Result<()> {
        match self {
            Self::There(_) => Ok(()),
            Self::Created(created) => created.finish(run).await,
        }
    }
}

/// A database that was made, and what is left to do when it is filled.
pub(super) struct Created {
    pub server: Server,
    /// In the new database, whose encoding can be another, its own name may not be what it is here.
    maintenance: Server,
    sql: DatabaseSql,
}

/// Makes the database, gives it its owner and settings, and connects to it. `maintenance` is another database there.
///
/// # Errors
/// The dump does not describe the database, or the target refuses a statement: a locale that it lacks, for one. A
/// setting that the target does not know is left out with a warning.
async fn create(maintenance: Server, toc: &Toc, options: &TargetOptions, run: &Run) -> Result<Created> {
    let entry_options = EntryOptions {
        no_owner: options.no_owner,
        no_privileges: options.no_privileges,
        no_tablespaces: options.no_tablespaces,
        ..EntryOptions::new(maintenance.version())
    };
    let sql = database_sql(toc, &entry_options).ok_or_else(|| {
        let message = "the dump does not say how its database is made: --create is not possible".to_owned();
        Error::new(super::Cause::Usage(message))
    })?;
    for statement in &sql.create {
        let done = maintenance.catalog().execute(statement).await;
        done.map_err(|e| Error::from(e).doing(format!("creating database {}", sql.name)))?;
    }
    run_settings(&maintenance, &sql.settings, run).await;
    let conninfo = maintenance.conninfo.with_dbname(&sql.name);
    let server = Server::connect_to(conninfo, run).await?;
    Ok(Created { server, maintenance, sql })
}

impl Created {
    /// What would have stood in our own way: limits, grants, read-only; comment and labels.
    ///
    /// # Errors
    /// The target refuses a grant.
    pub(super) async fn finish(&self, run: &Run) -> Result<()> {
        let is_lost = self.maintenance.control.client.is_closed();
        let renewed = if is_lost { Some(self.maintenance.renewed(run).await?) } else { None };
        let maintenance = renewed.as_ref().unwrap_or(&self.maintenance);
        let (settings, others): (Vec<String>, Vec<String>) =
            self.sql.last.iter().cloned().partition(|statement| statement.starts_with("ALTER "));
        for statement in &others {
            let done = maintenance.catalog().execute(statement).await;
            done.map_err(|e| Error::from(e).doing(format!("settling database {}", self.sql.name)))?;
        }
        run_settings(maintenance, &settings, run).await;
        Ok(())
    }
}

/// Names the setting, never its value: people keep secrets in parameters of their own.
pub(super) fn refused_setting(statement: &str, error: &crate::pg::Error) -> String {
    let name = statement.split_once(" TO ").map_or("a setting", |(name, _)| name);
    format!("skipped {name}: refused with SQLSTATE {}", error.sqlstate().unwrap_or("unknown"))
}

/// Parameters come and go between versions, and extensions have their own: what a target refuses is named.
async fn run_settings(server: &Server, settings: &[String], run: &Run) {
    for statement in settings {
        if let Err(error) = server.catalog().execute(statement).await {
            run.events.warn(refused_setting(statement, &error));
        }
    }
}
