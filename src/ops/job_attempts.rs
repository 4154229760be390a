//! A job until it is done or fails for good: fresh connections, and the ledger's word for how far it is.

use std::sync::Arc;

use tokio_postgres::SimpleQueryMessage;
use tokio_util::sync::CancellationToken;

use super::job_sql::{Done, JobSession, NO_WAIT_FOR_DISK, answer, one_message};
use super::ledger::{self, Ledger};
use super::retry::{Patience, Trouble};
use crate::model::Side;
use crate::pg;
use crate::pg::catalog::Catalog;
use crate::pg::conninfo::ConnInfo;
use crate::pg::control::{self, Control};
use crate::plan::budget::IndexBudget;
use crate::plan::restore_graph::Job;

/// What the connections of jobs have in common.
pub(super) struct Connector {
    pub conninfo: ConnInfo,
    pub prologue: Vec<String>,
    pub budget: IndexBudget,
    pub ledger: Ledger,
}

impl Connector {
    fn side(&self) -> Side {
        self.conninfo.side()
    }

    /// `again`: after a failure. Another server may have taken the place of the first.
    pub(super) async fn connect(&self, again: bool) -> pg::Result<Control> {
        let unpinned;
        let conninfo = if again {
            unpinned = self.conninfo.unpinned();
            &unpinned
        } else {
            &self.conninfo
        };
        let control = control::connect(conninfo).await?;
        if control.in_recovery {
            return Err(ledger::is_standby());
        }
        let catalog = Catalog { side: self.side(), client: &control.client, version: control.version };
        let (setting, remembers) = (self.budget.session_setting(), self.ledger.remembers());
        let prologue = self.prologue.iter().map(String::as_str);
        let sql = one_message(prologue.chain([setting.as_str(), NO_WAIT_FOR_DISK, remembers.as_str()]));
        self.ledger.check_memory(last_value(&catalog.simple(&sql).await?))?;
        Ok(control)
    }

    /// How many of a job's statements are done, when whoever was at work on it has ended.
    async fn find(&self, job: &Job, control: &Control, stop: &CancellationToken) -> pg::Result<usize> {
        let sql = Ledger::find_job(job.id);
        let answer = answer(control, &sql, stop).await?;
        let done = last_value(&answer).and_then(|value| value.parse().ok());
        done.ok_or_else(|| pg::Error::protocol(self.side(), "the ledger did not answer").with_statement(sql))
    }
}

/// The first column of the last row.
fn last_value(answer: &[SimpleQueryMessage]) -> Option<&str> {
    answer.iter().rev().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(0),
        _ => None,
    })
}

/// Runs one job, again and again if need be.
pub(super) struct JobWorker {
    pub connector: Arc<Connector>,
    pub patience: Patience,
    pub stop: CancellationToken,
}

impl JobWorker {
    /// What the job came to, and a connection if one is still good.
    /// `in_doubt`: an earlier process may still be at work on it.
    pub(super) async fn run(
        &self,
        (job, settings): (&Job, Vec<String>),
        (mut done_before, in_doubt): (usize, bool),
        mut control: Control,
    ) -> (Option<Control>, Done) {
        let (kind, object) = (job.kind, &job.object);
        let mut trouble = Trouble::with(kind.doing(object));
        let mut warnings = Vec::new();
        if in_doubt {
            match self.connector.find(job, &control, &self.stop).await {
                Ok(found) => done_before = found,
                Err(error) => match self.reconnect(job, &mut trouble, error).await {
                    Ok((fresh, found)) => (control, done_before) = (fresh, found),
                    Err(error) => return (None, Done::failed((0, error), warnings)),
                },
            }
        }
        loop {
            let session = JobSession { control: &control, settings: settings.clone(), stop: &self.stop };
            let mut done = session.run(job, done_before).await;
            warnings.append(&mut done.warnings);
            let (statement, error) = match done.result {
                Ok(()) => {
                    let usable = done.usable.then_some(control);
                    return (usable, Done { warnings, result: Ok(()), ..done });
                }
                Err(failed) => failed,
            };
            match self.reconnect(job, &mut trouble, error).await {
                Ok((fresh, found)) => (control, done_before) = (fresh, found),
                Err(error) => {
                    return (None, Done::failed((statement, error), warnings));
                }
            }
        }
    }

    /// After a failure that passes: a connection, and how far the job is. Else the failure.
    async fn reconnect(&self, job: &Job, trouble: &mut Trouble, mut error: pg::Error) -> pg::Result<(Control, usize)> {
        loop {
            match self.patience.judge(trouble, &error) {
                Some(pause) if self.patience.wait(&pause).await => {}
                _ => return Err(error),
            }
            let connected = tokio::select! {
                connected = self.connector.connect(true) => connected,
                () = self.stop.cancelled() => return Err(error),
            };
            let attempt = async {
                let control = connected?;
                let done = self.connector.find(job, &control, &self.stop).await?;
                Ok((control, done))
            };
            match attempt.await {
                Ok(found) => {
                    trouble.is_over();
                    return Ok(found);
                }
                Err(again) => error = again,
            }
        }
    }
}
