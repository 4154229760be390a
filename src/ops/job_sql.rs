//! How the statements of a job, and those before the rows, are sent: many in one message where that is safe.
//!
//! What is sent in one message is one transaction: it is there as a whole or not at all. So if the server refuses
//! something in it, the statements are run again one by one, and the one that is at fault is named.

use std::time::Duration;

use tokio_postgres::SimpleQueryMessage;
use tokio_util::sync::CancellationToken;

use crate::model::Side;
use crate::pg;
use crate::pg::catalog::Catalog;
use crate::pg::control::Control;
use crate::plan::restore_graph::{Job, StatisticsSql};

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

/// Whether the server refused what was in a message, so that it is worth to ask which statement it was.
pub(super) fn is_refusal(error: &pg::Error) -> bool {
    error.sqlstate().is_some() && !error.is_cancelled()
}

/// SQLSTATE classes of what has nothing to do with the object: connection, resources, operators, deadlock, system, inside.
const NOT_OF_THE_OBJECT: [&str; 6] = ["08", "53", "57", "58", "40", "XX"];

/// Whether an object that may be missing is what the server refused.
pub(super) fn is_about_the_object(error: &pg::Error) -> bool {
    is_refusal(error) && error.sqlstate().is_some_and(|s| !NOT_OF_THE_OBJECT.iter().any(|class| s.starts_with(class)))
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
    pub side: Side,
    pub stop: &'a CancellationToken,
}

impl JobSession<'_> {
    /// Runs a job to its end, or to its first error.
    pub(super) async fn run(&self, job: &Job) -> Done {
        let mut done = Done { result: Ok(()), statistics: StatisticsDone::Nothing, warnings: Vec::new(), usable: true };
        let statistics = job.statistics.as_ref();
        let last = statistics.map(StatisticsSql::first_choice).unwrap_or_default();
        if job.is_small() && job.statements.len() + last.len() > 1 {
            match self.in_one_message(job, last).await {
                Ok(set) => {
                    if let Some(statistics) = statistics {
                        self.note_statistics(statistics, set, &mut done).await;
                    }
                    return done;
                }
                Err(error) if is_refusal(&error) => {}
                Err(error) => {
                    let error = pg::Error { statement: None, ..error };
                    return Done { result: Err((0, error)), usable: false, ..done };
                }
            }
        }
        for (index, statement) in job.statements.iter().enumerate() {
            if let Err(error) = self.execute_with_settings(statement).await {
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
        let mut sql = one_message(job.statements.iter().chain(last));
        if sql.len() > BATCH_BYTES && !last.is_empty() && !job.statements.is_empty() {
            sql = one_message(&job.statements);
            self.rows(&sql).await?;
            return Ok(self.rows(&one_message(last)).await);
        }
        Ok(Ok(self.rows(&sql).await?))
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
                done.statistics = StatisticsDone::Analyzed;
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
                Ok(()) => {
                    done.statistics = StatisticsDone::Analyzed;
                    done.warnings.push(format!("statistics of {relation} are gathered anew: {why}"));
                }
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
    async fn execute_with_settings(&self, statement: &str) -> pg::Result<()> {
        if self.settings.is_empty() {
            return self.execute(statement).await;
        }
        let settings = self.settings.iter().map(String::as_str);
        let message = one_message(settings.chain([statement]));
        let run = self.execute(&message).await;
        run.map_err(|error| pg::Error { statement: Some(statement.to_owned()), ..error })
    }

    async fn execute(&self, sql: &str) -> pg::Result<()> {
        self.rows(sql).await.map(drop)
    }

    /// Runs one message, cancels it on the server when asked to stop. False: a function that sets statistics returned
    /// false.
    async fn rows(&self, sql: &str) -> pg::Result<bool> {
        let catalog = Catalog { side: self.side, client: &self.control.client, version: self.control.version };
        let work = catalog.simple(sql);
        tokio::pin!(work);
        let messages = tokio::select! {
            result = &mut work => result?,
            () = self.stop.cancelled() => {
                // A request that comes before the statement has begun stops nothing: it is repeated.
                loop {
                    if let Err(error) = self.control.cancel_token().cancel().await {
                        tracing::debug!(%error, "cancel request");
                    }
                    tokio::select! {
                        result = &mut work => break result?,
                        () = tokio::time::sleep(CANCEL_AGAIN_AFTER) => {}
                    }
                }
            }
        };
        Ok(!messages.iter().any(says_no))
    }
}

/// `pg_restore_relation_stats` and `pg_restore_attribute_stats` return false if they left something out, with a WARNING.
fn says_no(message: &SimpleQueryMessage) -> bool {
    let SimpleQueryMessage::Row(row) = message else { return false };
    let of_statistics = row.columns().first().is_some_and(|c| c.name().starts_with("pg_restore_"));
    of_statistics && row.get(0) == Some("f")
}
