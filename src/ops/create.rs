//! The target database itself: `--create`, as `pg_restore --create` does it.

use std::sync::{Mutex, PoisonError};

use super::error::{Cause, Error, Result};
use super::job_sql::is_about_the_object;
use super::options::{Contents, Run, TargetOptions};
use super::preflight::{self, Findings};
use super::server::Server;
use crate::model::{Side, quote_ident, quote_literal};
use crate::schema::{Cuts, DatabaseSql, DatabaseStep, Skip, Toc, database_sql};

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
        check((name, encoding), target, options.resume, findings).await
    } else {
        preflight::check_target(target, options, contents, findings).await
    }
}

/// Whether a database of this name can be made where `target` is connected. It has the source's encoding then.
/// `resume`: an earlier run has made it.
async fn check(
    (name, encoding): (&str, &str),
    target: &mut Server,
    resume: bool,
    findings: &mut Findings,
) -> Result<()> {
    let side = Some(Side::Target);
    encoding.clone_into(&mut target.facts.encoding);
    preflight::check_server(target, findings);
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
    if resume {
        if !exists {
            findings.refuse(
                side,
                format!("there is nothing to resume: database {name} does not exist"),
                "leave --resume out",
            );
        }
    } else if exists {
        findings.refuse(
            side,
            format!("database {name} exists already at {}", target.conninfo.address()),
            "drop or rename it, or name it with --target and leave --create out; what was stopped goes on with --resume",
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

/// The database that is filled, and what was left out of what is done when it is, in words.
pub(super) struct Made {
    target: Target,
    left_out: Mutex<Vec<String>>,
}

enum Target {
    There(Box<Server>),
    Created(Box<Created>),
}

impl Made {
    /// The server that is connected to, or, with `--create`, the database made there as `toc` describes it.
    ///
    /// # Errors
    /// Those of [`create`].
    pub(super) async fn prepare(server: Server, toc: &Toc, options: &TargetOptions, run: &Run) -> Result<Self> {
        let target = if options.create {
            Target::Created(Box::new(create(server, toc, options, run).await?))
        } else {
            Target::There(Box::new(server))
        };
        Ok(Self { target, left_out: Mutex::default() })
    }

    pub(super) fn server(&self) -> &Server {
        match &self.target {
            Target::There(server) => server,
            Target::Created(created) => &created.server,
        }
    }

    /// When everything is in. Can be repeated.
    ///
    /// # Errors
    /// Those of [`Created::finish`].
    pub(super) async fn finish(&self, run: &Run) -> Result<()> {
        if let Target::Created(created) = &self.target {
            let left_out = created.finish(run).await?;
            *self.left_out.lock().unwrap_or_else(PoisonError::into_inner) = left_out;
        }
        Ok(())
    }

    /// What [`Self::finish`] has left out.
    pub(super) fn left_out(&self) -> Vec<String> {
        self.left_out.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// A database that was made, and what is left to do when it is filled.
pub(super) struct Created {
    pub server: Server,
    /// In the new database, whose encoding can be another, its own name may not be what it is here.
    maintenance: Server,
    sql: DatabaseSql,
    /// By a provider, who may refuse what is only tried then.
    managed: bool,
}

/// Makes the database with its owner, gives it its settings, and connects to it. `maintenance` is another database there.
///
/// # Errors
/// The dump does not describe the database, or the target refuses to make it (a locale that it lacks, an owner that this
/// role cannot set), or to be connected to in it: then it is dropped again. A setting that the target does not know is
/// left out with a warning.
async fn create(maintenance: Server, toc: &Toc, options: &TargetOptions, run: &Run) -> Result<Created> {
    let entry_options = options.entry_options(maintenance.version(), Cuts::default());
    let sql = database_sql(toc, &entry_options).ok_or_else(|| {
        let message = "the dump does not say how its database is made: --create is not possible".to_owned();
        Error::new(Cause::Usage(message))
    })?;
    // With --resume it is there, and whose it is shows in its ledger.
    let statements = if options.resume { &[][..] } else { &sql.create };
    for statement in statements {
        if let Err(error) = maintenance.catalog().execute(statement).await {
            let refused = error.sqlstate() == Some(INSUFFICIENT_PRIVILEGE) && !options.no_owner;
            let error = Error::from(error).doing(format!("creating database {}", sql.name));
            let hint = "a database can be given only to roles that this one is a member of; --no-owner keeps it";
            return Err(if refused { error.hint(hint) } else { error });
        }
    }
    if !options.resume {
        run_settings(&maintenance, &sql.settings, run).await;
    }
    let conninfo = maintenance.conninfo.with_dbname(&sql.name);
    match Server::connect_to(conninfo, run).await {
        Ok(server) => Ok(Created { server, maintenance, sql, managed: options.provider.is_some() }),
        Err(error) if options.resume => Err(error),
        Err(error) => {
            let dropped = maintenance.catalog().execute(&format!("DROP DATABASE {}", quote_ident(&sql.name))).await;
            let error = error.doing(format!("connecting to database {}, which was just made", sql.name));
            Err(match dropped {
                Ok(()) => error,
                Err(left) => error.hint(format!("database {} is left, empty: {left}", sql.name)),
            })
        }
    }
}

/// SQLSTATE of what a role may not do.
const INSUFFICIENT_PRIVILEGE: &str = "42501";

impl Created {
    /// What would have stood in our own way: limits, grants, read-only; comment and labels. Returns what is left out,
    /// in words.
    ///
    /// # Errors
    /// The target refuses a grant, and no provider was named that may.
    async fn finish(&self, run: &Run) -> Result<Vec<String>> {
        let is_lost = self.maintenance.control.client.is_closed();
        let renewed = if is_lost { Some(self.maintenance.renewed(run).await?) } else { None };
        let maintenance = renewed.as_ref().unwrap_or(&self.maintenance);
        let mut left_out: Vec<String> = self.sql.left_out.iter().map(|o| format!("{o}: {}", Skip::Unwanted)).collect();
        let is_setting = |step: &&DatabaseStep| step.statements.iter().all(|s| s.starts_with("ALTER "));
        let (settings, others): (Vec<&DatabaseStep>, Vec<_>) = self.sql.last.iter().partition(is_setting);
        for step in others {
            for statement in &step.statements {
                match maintenance.catalog().execute(statement).await {
                    Ok(()) => {}
                    Err(error) if self.managed && is_about_the_object(&error) => {
                        run.events.warn(format!("skipped {}: {error}", step.object));
                        left_out.push(format!("{}: {}", step.object, Skip::Refused));
                        break;
                    }
                    Err(error) => return Err(Error::from(error).doing(format!("settling database {}", self.sql.name))),
                }
            }
        }
        let settings: Vec<String> = settings.into_iter().flat_map(|step| step.statements.clone()).collect();
        run_settings(maintenance, &settings, run).await;
        Ok(left_out)
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
