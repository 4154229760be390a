//! The definitions before the rows: many in one message, and those of tables that have nothing to do with each other side
//! by side. One connection alone would keep one core of the target at work, and most of the time of a database of many
//! small tables goes there.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::PoisonError;

use futures::future::join_all;
use tokio_util::sync::CancellationToken;

use super::error::{Cause, Error, Result};
use super::job_sql::{
    BATCH_BYTES, NO_WAIT_FOR_DISK, is_about_the_object, is_refusal, is_too_much_at_once, one_message,
};
use super::options::Run;
use super::server::Server;
use crate::pg;
use crate::pg::catalog::Catalog;
use crate::pg::control;
use crate::plan::restore_graph::{PreDataStep, Stretch, stretches};
use crate::schema::{self, Toc};

/// SQLSTATE of what a server was built without.
const FEATURE_NOT_SUPPORTED: &str = "0A000";

/// Steps in one message, which is one transaction. Each table holds some locks until its end; by default a server has room
/// for 6,400.
const STEPS: usize = 100;

/// Fewer steps are done before further connections are made.
const WORTH_CONNECTING: usize = 4 * STEPS;

/// Connections that make objects, at most. Each hears of everything that the others change in the catalogs.
const CONNECTIONS_MAX: u32 = 4;

/// Connections that stay free for others at least.
const SPARE_CONNECTIONS: u32 = 2;

/// All that is made before rows.
pub(super) struct PreData<'a> {
    pub steps: &'a [PreDataStep],
    pub toc: &'a Toc,
    pub target: &'a Server,
    /// For every connection that makes objects; the target's control connection has had it.
    pub prologue: &'a [String],
    /// Connections at the same time, at most.
    pub jobs: u32,
    pub run: &'a Run,
}

/// Steps of one connection at a time, in order.
type Share = Vec<usize>;

impl PreData<'_> {
    /// Runs all steps.
    ///
    /// # Errors
    /// A statement that the target refuses, with its object; a connection that is lost; cancellation.
    pub(super) async fn make(&self) -> Result<()> {
        let catalog = self.target.catalog();
        catalog.execute(NO_WAIT_FOR_DISK).await?;
        let connections = self.connections();
        let worth_it = if connections > 1 { WORTH_CONNECTING } else { usize::MAX };
        for stretch in stretches(self.steps, self.toc, worth_it) {
            match stretch {
                Stretch::InOrder(range) => self.in_order(&self.steps[range], catalog).await?,
                Stretch::Apart(groups) => self.side_by_side(groups, connections, catalog).await?,
            }
        }
        Ok(catalog.execute("RESET synchronous_commit").await?)
    }

    fn connections(&self) -> u32 {
        let free = self.target.facts.free_connections.saturating_sub(SPARE_CONNECTIONS);
        self.target.local_cpus().unwrap_or(CONNECTIONS_MAX).min(CONNECTIONS_MAX).min(self.jobs).min(free)
    }

    /// Many statements in one message, as one transaction; where the server refuses one of them, one by one.
    async fn in_order(&self, steps: &[PreDataStep], catalog: Catalog<'_>) -> Result<()> {
        for steps in messages(steps) {
            if steps.len() > 1 {
                match self.message(steps.iter(), catalog).await {
                    Ok(true) => continue,
                    Ok(false) => {}
                    Err(error) => return Err(error),
                }
            }
            for step in steps {
                self.step(step, catalog).await?;
            }
        }
        Ok(())
    }

    /// One message. `false`: the server refused something in it, and has taken all of it back.
    async fn message<'s>(
        &self,
        steps: impl Iterator<Item = &'s PreDataStep> + Clone,
        catalog: Catalog<'_>,
    ) -> Result<bool> {
        self.check_cancelled()?;
        match catalog.execute(&one_message(steps.clone().flat_map(|step| &step.statements))).await {
            Ok(()) => Ok(true),
            Err(error) if is_refusal(&error) || is_too_much_at_once(&error) => {
                tracing::debug!(%error, "one by one");
                Ok(false)
            }
            Err(error) => {
                let error = pg::Error { statement: None, ..error };
                let first = steps.map(|step| step.object.as_str()).next().unwrap_or_default();
                Err(Error::from(error).doing(format!("creating {first} and others")))
            }
        }
    }

    fn check_cancelled(&self) -> Result<()> {
        if self.run.cancel.is_cancelled() { Err(Error::new(Cause::Cancelled)) } else { Ok(()) }
    }

    async fn step(&self, step: &PreDataStep, catalog: Catalog<'_>) -> Result<()> {
        self.check_cancelled()?;
        for statement in &step.statements {
            if let Err(error) = catalog.execute(statement).await {
                if error.sqlstate() == Some(FEATURE_NOT_SUPPORTED) && schema::is_compression(statement) {
                    let message = format!("{}: new values get the default compression: {error}", step.object);
                    self.run.events.warn(message);
                    continue;
                }
                if step.optional && is_about_the_object(&error) {
                    self.run.events.warn(format!("skipped {}: {error}", step.object));
                    break;
                }
                return Err(Error::from(error).doing(format!("creating {}", step.object)));
            }
        }
        Ok(())
    }

    /// Groups that do not depend on each other, over some connections. What is refused there is run again in the order of
    /// the table of contents when the others are through: then it is refused for itself, and named, or it wanted something
    /// that the table of contents does not tell.
    async fn side_by_side(&self, groups: Vec<Vec<usize>>, connections: u32, catalog: Catalog<'_>) -> Result<()> {
        let shares = Mutex::new(shares(groups));
        let stop = CancellationToken::new();
        let workers = (0..connections).map(|_| async {
            let done = self.work(&shares, &stop).await;
            if done.is_err() {
                stop.cancel();
            }
            done
        });
        let mut left = Vec::new();
        for done in join_all(workers).await {
            left.extend(done?);
        }
        left.sort_unstable();
        for at in left {
            self.step(&self.steps[at], catalog).await?;
        }
        Ok(())
    }

    /// Takes shares until there are none, on a connection of its own. Returns the steps that are not done.
    async fn work(&self, shares: &Mutex<VecDeque<Share>>, stop: &CancellationToken) -> Result<Vec<usize>> {
        let control = control::connect(&self.target.conninfo).await?;
        let catalog = Catalog { side: self.target.side, client: &control.client, version: control.version };
        let settings = self.prologue.iter().map(String::as_str).chain([NO_WAIT_FOR_DISK]);
        catalog.execute(&one_message(settings)).await?;
        let mut left = Vec::new();
        while !stop.is_cancelled() {
            let next = shares.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
            let Some(mut share) = next else { break };
            while !share.is_empty() {
                let rest = share.split_off(message_len(share.iter().map(|&at| &self.steps[at])));
                if !self.message(share.iter().map(|&at| &self.steps[at]), catalog).await? {
                    left.extend(share.into_iter().chain(rest));
                    break;
                }
                share = rest;
            }
        }
        Ok(left)
    }
}

/// Groups put together to about a message each.
fn shares(groups: Vec<Vec<usize>>) -> VecDeque<Share> {
    let mut shares: VecDeque<Share> = VecDeque::new();
    for group in groups {
        match shares.back_mut() {
            Some(last) if last.len() + group.len() <= STEPS => last.extend(group),
            _ => shares.push_back(group),
        }
    }
    shares
}

/// How many of the steps go into one message; at least one.
fn message_len<'s>(steps: impl Iterator<Item = &'s PreDataStep>) -> usize {
    let mut bytes = 0;
    let fits = steps.take(STEPS).take_while(|step| {
        bytes += step.statements.iter().map(String::len).sum::<usize>();
        bytes <= BATCH_BYTES
    });
    fits.count().max(1)
}

/// Steps that are sent together. One that may fail would take others with it, and an extension's script can do what
/// wants a transaction of its own.
fn messages(steps: &[PreDataStep]) -> Vec<&[PreDataStep]> {
    let is_alone = |step: &PreDataStep| step.optional || step.object.starts_with("EXTENSION ");
    let mut found = Vec::new();
    let mut rest = steps;
    while !rest.is_empty() {
        let together = rest.iter().take_while(|step| !is_alone(step));
        let (message, after) = rest.split_at(message_len(together).min(rest.len()));
        found.push(message);
        rest = after;
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(object: &str, bytes: usize) -> PreDataStep {
        PreDataStep { dump_id: 0, object: object.into(), statements: vec!["x".repeat(bytes)], optional: false }
    }

    #[test]
    fn messages_end_before_they_are_long_and_extensions_are_alone() {
        let mut steps: Vec<_> = (0..250).map(|_| step("TABLE t", 10)).collect();
        steps.insert(30, step("EXTENSION e", 10));
        steps.push(step("VIEW v", BATCH_BYTES + 1));
        let lens: Vec<usize> = messages(&steps).into_iter().map(<[_]>::len).collect();
        assert_eq!(lens, [30, 1, 100, 100, 20, 1]);
    }

    #[test]
    fn small_groups_share_a_message_and_a_large_one_stays_whole() {
        let groups = vec![vec![0, 3], vec![1], (4..154).collect(), vec![2]];
        let lens: Vec<usize> = shares(groups).iter().map(Vec::len).collect();
        assert_eq!(lens, [3, 150, 1]);
    }
}
