//! How the statements of a job, and those before the rows, are sent: many in one message where that is safe.
//!
//! What is sent in one message is one transaction: it is there as a whole or not at all. So if the server refuses
//! something in it, the statements are run again one by one, and the one that is at fault is named.

use std::time::Duration;

use tokio_postgres::SimpleQueryMessage;
use tokio_util::sync::CancellationToken;

use super::ledger::Ledger;
use super::retry::passes;
use crate::event::JobKind;
use crate::pg;
use crate::pg::catalog::Catalog;
use crate::pg::control::{Control, ServerWarning};
use crate::plan::restore_graph::{Job, JobId, StatisticsSql};

/// Bytes of SQL in one message. The server parses all of a message before it runs the first statement.
pub(super) const BATCH_BYTES: usize = 256 << 10;

/// For connections that make objects: the commit that ends the run waits for the disk, and everything before it is durable
/// with it. Without it, each small table would wait for the disk by itself.
pub(super) const NO_WAIT_FOR_DISK: &str = "SET synchronous_commit = off";

const CANCEL_AGAIN_AFTER: Duration = Duration::from_millis(300);

/// One message of several statements. A comment at the end of a statement ends with its line.
pub(super) fn one_message<S: AsRef<str>>(statements: impl IntoIterator<Item = S>) -> String {
    let mut sql = String::new();
    for statement in statements {
        sql.push_str(statement.as_ref());
        sql.push_str("\n;\n");
    }
    sql
}

/// Whether the server refused what was in a message, so that it is worth to ask which statement it was. What passes is
/// no refusal: all of it is tried again.
pub(super) fn is_refusal(error: &pg::Error) -> bool {
    error.sqlstate().is_some() && !error.is_cancelled() && !passes(error)
}

/// Whether less at a time may go well: fewer locks, held for a shorter time.
pub(super) fn is_too_much_at_once(error: &pg::Error) -> bool {
    matches!(error.sqlstate(), Some(DEADLOCK_DETECTED | OUT_OF_MEMORY))
}

const DEADLOCK_DETECTED: &str = "40P01";

/// Of shared memory, too: `max_locks_per_transaction`.
const OUT_OF_MEMORY: &str = "53200";

/// SQLSTATE classes of what has nothing to do with the object: connection, resources, operators, deadlock, system, inside.
const NOT_OF_THE_OBJECT: [&str; 6] = ["08", "53", "57", "58", "40", "XX"];

/// Whether an object that may be missing is what the server refused.
pub(super) fn is_about_the_object(error: &pg::Error) -> bool {
    is_refusal(error) && error.sqlstate().is_some_and(|s| !NOT_OF_THE_OBJECT.iter().any(|class| s.starts_with(class)))
}

/// Statements of a job in one message, so in one transaction, that says of itself that they are done.
fn recorded(job: JobId, statements: &[String], done: usize) -> String {
    let lock = Ledger::lock_job(job);
    let record = Ledger::record_job(job, done);
    one_message(std::iter::once(&lock).chain(statements).chain([&record]))
}

/// What a job came to.
pub(super) struct Done {
    /// Which statement failed, and how.
    pub result: Result<(), (usize, pg::Error)>,
    pub statistics: StatisticsDone,
    pub warnings: Vec<String>,
    /// The connection can be used again.
    pub usable: bool,
}

impl Done {
    /// Nothing, for good.
    pub(super) fn failed(failed: (usize, pg::Error), warnings: Vec<String>) -> Self {
        Self { result: Err(failed), statistics: StatisticsDone::Nothing, warnings, usable: false }
    }
}

/// What was done for a relation's statistics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum StatisticsDone {
    Nothing,
    Carried,
    Analyzed,
}

/// A connection at work for a job.
pub(super) struct JobSession<'a> {
    pub control: &'a Control,
    /// For the transaction of each statement that is run by itself.
    pub settings: Vec<String>,
    pub stop: &'a CancellationToken,
}

impl JobSession<'_> {
    /// Runs a job to its end, or to its first error. `done_before`: so many of its statements are recorded as done; of
    /// those only settings are repeated, which ended with the session.
    pub(super) async fn run(&self, job: &Job, done_before: usize) -> Done {
        let mut done = Done { result: Ok(()), statistics: StatisticsDone::Nothing, warnings: Vec::new(), usable: true };
        let statistics = job.statistics.as_ref();
        drop(self.control.take_warnings());
        let last = statistics.map(StatisticsSql::first_choice).unwrap_or_default();
        if done_before == 0 && job.is_small() && job.statements.len() + last.len() > 1 {
            match self.in_one_message(job, last).await {
                Ok(set) => {
                    if let Some(statistics) = statistics {
                        self.note_statistics(statistics, set, &mut done).await;
                    }
                    return done;
                }
                Err(error) if is_refusal(&error) || is_too_much_at_once(&error) => {}
                Err(error) => {
                    let error = pg::Error { statement: None, ..error };
                    return Done { result: Err((0, error)), usable: false, ..done };
                }
            }
        }
        for (index, statement) in job.statements.iter().enumerate() {
            let is_setting = statement.starts_with("SET ");
            let is_recorded = !is_setting && job.kind != JobKind::Vacuum;
            let executed = match index < done_before {
                true if !is_setting => continue,
                _ if is_recorded => self.execute_recorded(job.id, statement, index + 1).await,
                _ => self.execute(statement).await,
            };
            if let Err(error) = executed {
                let error = pg::Error { statement: Some(statement.clone()), ..error };
                return Done { result: Err((index, error)), usable: false, ..done };
            }
        }
        if let Some(statistics) = statistics {
            let set = self.rows(&one_message(last)).await;
            self.note_statistics(statistics, set, &mut done).await;
        }
        done
    }

    /// Says whether the statistics in it were set as they were told. What is too much for one message is two: statistics that
    /// fail then are no failure of the statements, which are done.
    async fn in_one_message(&self, job: &Job, last: &[String]) -> pg::Result<pg::Result<bool>> {
        // Statistics alone can be set twice: nothing to record.
        let sql = match job.statements.len() {
            0 => String::new(),
            all => recorded(job.id, &job.statements, all),
        };
        let last = one_message(last);
        if sql.len() + last.len() > BATCH_BYTES && !last.is_empty() && !job.statements.is_empty() {
            self.rows(&sql).await?;
            return Ok(self.rows(&last).await);
        }
        Ok(Ok(self.rows(&(sql + &last)).await?))
    }

    /// Statistics that were not set are gathered; what fails then is a warning.
    async fn note_statistics(&self, sql: &StatisticsSql, set: pg::Result<bool>, done: &mut Done) {
        let carries = !sql.carried.is_empty();
        let why = match set {
            Ok(true) if carries => {
                done.statistics = StatisticsDone::Carried;
                return;
            }
            Ok(_) if !carries => {
                self.note_analyzed(sql, None, done);
                return;
            }
            Ok(_) => "the target did not take all of them".to_owned(),
            Err(error) if is_refusal(&error) => error.to_string(),
            Err(error) => {
                done.usable = false;
                done.result = Err((0, error));
                return;
            }
        };
        let relation = &sql.relation;
        match sql.analyze.as_ref().filter(|_| carries) {
            None => done.warnings.push(format!("no statistics for {relation}: {why}")),
            Some(analyze) => match self.execute(analyze).await {
                Ok(()) => self.note_analyzed(sql, Some(&why), done),
                Err(error) if is_refusal(&error) => {
                    done.warnings.push(format!("no statistics for {relation}: {why}; ANALYZE: {error}"));
                }
                Err(error) => {
                    done.usable = false;
                    done.result = Err((0, error));
                }
            },
        }
    }

    /// Several statements in one message are one transaction, and SET LOCAL ends with it.
    async fn execute_recorded(&self, job: JobId, statement: &String, done: usize) -> pg::Result<()> {
        let statements: Vec<String> = self.settings.iter().chain([statement]).cloned().collect();
        self.execute(&recorded(job, &statements, done)).await
    }

    /// ANALYZE that the server only warned of has done nothing: of a table that belongs to somebody else, for one.
    /// `instead`: why statistics are not carried over, where they were to be.
    fn note_analyzed(&self, sql: &StatisticsSql, instead: Option<&str>, done: &mut Done) {
        let relation = &sql.relation;
        let why = instead.map(|why| format!("{why}; ")).unwrap_or_default();
        let skips = |warning: &ServerWarning| ["vacuum.c", "analyze.c"].iter().any(|f| warning.file.ends_with(f));
        if let Some(skipped) = self.control.take_warnings().into_iter().find(skips) {
            done.warnings.push(format!("no statistics for {relation}: {why}{}", skipped.message));
            return;
        }
        done.statistics = StatisticsDone::Analyzed;
        if let Some(why) = instead {
            done.warnings.push(format!("statistics of {relation} are gathered anew: {why}"));
        }
    }

    async fn execute(&self, sql: &str) -> pg::Result<()> {
        self.rows(sql).await.map(drop)
    }

    /// Runs one message, cancels it on the server when asked to stop. False: a function that sets statistics returned
    /// false.
    async fn rows(&self, sql: &str) -> pg::Result<bool> {
        Ok(!answer(self.control, sql, self.stop).await?.iter().any(says_no))
    }
}

/// What the server says to one message, which is cancelled there when asked to stop.
pub(super) async fn answer(
    control: &Control,
    sql: &str,
    stop: &CancellationToken,
) -> pg::Result<Vec<SimpleQueryMessage>> {
    let catalog = Catalog { side: control.side(), client: &control.client, version: control.version };
    let work = catalog.simple(sql);
    tokio::pin!(work);
    tokio::select! {
        result = &mut work => return result,
        () = stop.cancelled() => {}
    }
    // A request that comes before the statement has begun stops nothing: it is repeated.
    loop {
        if let Err(error) = control.cancel_token().cancel().await {
            tracing::debug!(%error, "cancel request");
        }
        tokio::select! {
            result = &mut work => return result,
            () = tokio::time::sleep(CANCEL_AGAIN_AFTER) => {}
        }
    }
}

/// `pg_restore_relation_stats` and `pg_restore_attribute_stats` return false if they left something out, with a WARNING.
fn says_no(message: &SimpleQueryMessage) -> bool {
    let SimpleQueryMessage::Row(row) = message else { return false };
    let of_statistics = row.columns().first().is_some_and(|c| c.name().starts_with("pg_restore_"));
    of_statistics && row.get(0) == Some("f")
}
