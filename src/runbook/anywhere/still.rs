//! Whether anybody writes to the source, or can have written since it was proven still.

use std::time::Duration;

use serde_json::Value;

use super::{Action, Anywhere};
use crate::ops::Run;
use crate::runbook::database::{At, Databases, Mark, OtherSession};
use crate::runbook::past::Past;
use crate::runbook::servers::gap_in;
use crate::runbook::step::{Seen, Step, facts};
use crate::runbook::{Error, Result};

impl<D: Databases> Anywhere<'_, D> {
    pub(super) async fn see_fence(&self, step: &Step<Action>, past: &Past) -> Result<Seen> {
        let fence = self.databases.look_at_fence(self.source()).await?;
        if fence.is_set && past.attempts(&step.id) == 0 {
            return Err(Error::Refused("the source was made read only by somebody else".into()));
        }
        let was_done = past.done(&step.id).is_some();
        if was_done && fence.is_set && fence.holds && fence.own_sessions > 0 {
            // Those of this run, which was killed. What is theirs is ended as before, and looked at once more.
            self.databases.fence(self.source()).await?;
            return Ok(Seen::Waiting(format!("{} sessions are being ended", fence.own_sessions)));
        }
        Ok(match (gap_in(&fence), fence.other_sessions.as_slice()) {
            (Some(_), _) => Seen::ToDo,
            (None, []) => Seen::Done(Value::Null),
            (None, others) => Seen::Waiting(format!("sessions of other roles: {}", others.join(", "))),
        })
    }

    pub(super) async fn see_still(&self, step: &Step<Action>, past: &Past) -> Result<Seen> {
        if past.done(&step.id).is_some() {
            return self.see_still_same(past).await;
        }
        // Sessions first: what one has written is counted for sure when it has ended.
        if let Some(who) = self.who_may_write(self.source()).await? {
            return Ok(Seen::Waiting(who));
        }
        let first = self.databases.mark(self.source()).await?;
        if first.prepared_transactions > 0 {
            return Err(Error::Refused("the source has prepared transactions, which may commit later".into()));
        }
        tokio::time::sleep(Duration::from_secs(self.wanted.still_s)).await;
        let second = self.databases.mark(self.source()).await?;
        if let Some(what) = first.moved(&second) {
            return Ok(Seen::Waiting(format!("somebody writes to the source: {what} changed just now")));
        }
        match self.who_may_write(self.source()).await? {
            Some(who) => Ok(Seen::Waiting(who)),
            None => Ok(Seen::Done(facts(&second)?)),
        }
    }

    /// Nobody can have written since `still`, nor can what somebody writes be hidden yet.
    pub(super) async fn see_still_same(&self, past: &Past) -> Result<Seen> {
        if self.wanted.fence && !self.databases.look_at_fence(self.source()).await?.is_set {
            return Err(Error::Refused("somebody has taken the fence from the source".into()));
        }
        if let Some(who) = self.who_may_write(self.source()).await? {
            return Ok(Seen::Waiting(who));
        }
        self.check_source_is_same(past).await.map(Seen::Done)
    }

    /// As it was proven still; how that is marked.
    pub(super) async fn check_source_is_same(&self, past: &Past) -> Result<Value> {
        let then = past.done("still").cloned().ok_or_else(|| Error::Internal("`still` is not done".into()))?;
        let then: Mark = serde_json::from_value(then).map_err(|error| Error::Internal(error.to_string()))?;
        let now = self.databases.mark(self.source()).await?;
        match then.moved(&now) {
            None => facts(&now),
            Some(what) => Err(Error::Refused(format!(
                "somebody has written to the source after it was proven still ({what}): what was copied is not all of it"
            ))),
        }
    }

    /// Neither the source nor the target has been written to.
    pub(super) async fn see_both_still_same(&self, past: &Past) -> Result<Seen> {
        match self.see_target_same(past).await? {
            Seen::Done(_) => self.see_still_same(past).await,
            other => Ok(other),
        }
    }

    /// Behind the point of no return, what came to the source can only be named.
    pub(super) async fn warn_of_lost_writes(&self, past: &Past, run: &Run) {
        if self.wanted.commands.unswitch.is_none()
            && let Err(error) = self.check_source_is_same(past).await
        {
            run.events.warn(format!("the app is started all the same, at the target: {error}"));
        }
    }

    /// In words. Sessions count that do nothing now: what they have written is counted when they end, and nothing keeps them
    /// from writing more. A superuser's, a provider's for one, only in a transaction.
    pub(super) async fn who_may_write(&self, at: At<'_>) -> Result<Option<String>> {
        let sessions = self.databases.other_sessions(at).await?;
        let writers: Vec<&OtherSession> =
            sessions.iter().filter(|session| !session.is_superusers || session.is_in_transaction).collect();
        let mut users: Vec<&str> = writers.iter().map(|session| session.user.as_str()).collect();
        users.sort_unstable();
        users.dedup();
        let in_transaction = writers.iter().filter(|session| session.is_in_transaction).count();
        Ok((!writers.is_empty()).then(|| {
            format!(
                "{} sessions of {} are connected to {}, {in_transaction} of them in a transaction: end them",
                writers.len(),
                users.join(", "),
                at.name
            )
        }))
    }
}
