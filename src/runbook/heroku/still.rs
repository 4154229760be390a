//! Proofs that nobody writes: of what is copied from, and of what was copied to.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::provider::{Located, OnHeroku, behind, calls, done};
use super::steps::{Action, Role};
use crate::model::Lsn;
use crate::runbook::database::{Databases, Mark};
use crate::runbook::past::Past;
use crate::runbook::servers::gap_in;
use crate::runbook::step::{Seen, Step, facts};
use crate::runbook::stillness::COUNTED;
use crate::runbook::{Error, Result};

/// What stood still, and where its log ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Stood {
    mark: Mark,
    lsn: Lsn,
}

impl<D: Databases> OnHeroku<'_, D> {
    pub(super) async fn see_fence(&self, past: &Past, role: Role) -> Result<Seen> {
        let located = self.located(past, role)?;
        Ok(match self.gap(&located).await? {
            Some(gap) => gap,
            None => Seen::Done(Value::Null),
        })
    }

    /// What a fence lacks; `None`: it stands, and nobody is inside.
    async fn gap(&self, located: &Located) -> Result<Option<Seen>> {
        let fence = self.databases.look_at_fence(located.at()).await?;
        if gap_in(&fence).is_some() {
            return Ok(Some(Seen::ToDo));
        }
        let others = (!fence.other_sessions.is_empty()).then(|| fence.other_sessions.join(", "));
        Ok(others.map(|others| Seen::Waiting(format!("sessions of other roles at {}: {others}", located.name))))
    }

    pub(super) async fn see_still(&self, step: &Step<Action>, past: &Past, role: Role) -> Result<Seen> {
        let located = self.located(past, role)?;
        self.stands_still(step, past, &located).await
    }

    /// Fenced and still, from here until it is written to by the app: what was compared is what the app gets, and what was
    /// written to it can be seen.
    pub(super) async fn see_sealed(&self, step: &Step<Action>, past: &Past, role: Role) -> Result<Seen> {
        let located = self.located(past, role)?;
        match self.gap(&located).await? {
            // Fenced once more, it would not be known who has written meanwhile: that is found out below.
            Some(Seen::ToDo) if past.done(&step.id).is_some() => {
                Err(Error::Refused(format!("somebody has taken the fence from {}", located.name)))
            }
            Some(gap) => Ok(gap),
            None => self.stands_still(step, past, &located).await,
        }
    }

    async fn stands_still(&self, step: &Step<Action>, past: &Past, located: &Located) -> Result<Seen> {
        let first = self.databases.mark(located.at()).await?;
        if let Some(stood) = past.done(&step.id) {
            return compare(&stood_by(stood)?.mark, &first, &located.name).map(|()| Seen::Done(stood.clone()));
        }
        if first.prepared_transactions > 0 {
            return Err(Error::Refused(format!("{} has prepared transactions, which may commit later", located.name)));
        }
        tokio::time::sleep(Duration::from_secs(self.plan.wishes.still_s)).await;
        let second = self.databases.mark(located.at()).await?;
        if second != first {
            let rows = second.changed_rows.abs_diff(first.changed_rows);
            return Ok(Seen::Waiting(format!("{} changes: {rows} rows were written just now", located.name)));
        }
        let lsn = self.databases.lsn(located.at()).await?;
        Ok(Seen::Done(facts(&Stood { mark: second, lsn })?))
    }

    pub(super) async fn see_still_same(&self, past: &Past, role: Role, since: &str) -> Result<Seen> {
        let located = self.located(past, role)?;
        let fence = self.databases.look_at_fence(located.at()).await?;
        if !fence.is_set {
            return Err(Error::Refused(format!("somebody has taken the fence from {}", located.name)));
        }
        // What a session has written is counted for sure only when it has ended.
        if fence.own_sessions > 0 || !fence.other_sessions.is_empty() {
            return Ok(Seen::Waiting(format!("somebody is connected to {}", located.name)));
        }
        self.until_counted().await;
        let now = self.databases.mark(located.at()).await?;
        compare(&stood_by(done(past, since)?)?.mark, &now, &located.name)?;
        Ok(Seen::Done(facts(&now)?))
    }

    async fn until_counted(&self) {
        tokio::time::sleep(COUNTED.min(Duration::from_secs(self.plan.wishes.still_s))).await;
    }

    /// Whether a database has what it had when it was seen to stand still, its fence up or not. Sessions are ended first:
    /// what they have not committed is not there.
    pub(super) async fn has_stood(&self, past: &Past, role: Role, since: &str) -> Result<bool> {
        let located = self.located(past, role)?;
        self.databases.fence(located.at()).await?;
        self.until_counted().await;
        let now = self.databases.mark(located.at()).await?;
        Ok(stood_by(done(past, since)?)?.mark == now)
    }

    /// Heroku's word alone is not enough, nor is the log's.
    pub(super) async fn see_equal(
        &self,
        (step, since): (&Step<Action>, &str),
        past: &Past,
        role: Role,
    ) -> Result<Seen> {
        let wanted = stood_by(done(past, since)?)?.lsn;
        let located = self.located(past, role)?;
        let replay = self.databases.replay(located.at()).await?;
        if !replay.in_recovery {
            // By a later step, after this one.
            return match past.done(&step.id) {
                Some(seen) => Ok(Seen::Done(seen.clone())),
                None => Err(Error::Refused(format!("{} does not follow any more", located.name))),
            };
        }
        match replay.replayed {
            Some(replayed) if replayed >= wanted => {}
            Some(replayed) => return Ok(Seen::Waiting(format!("replayed up to {replayed}, of {wanted}"))),
            None => return Ok(Seen::Waiting("it does not say how far it has replayed".into())),
        }
        let addon = self.addon(past, role)?;
        let database = calls(|| self.heroku.database(&addon.id))?.unwrap_or_default();
        Ok(behind(&database).map_or_else(|| Seen::Done(json!({ "replayed": replay.replayed })), Seen::Waiting))
    }

    pub(super) async fn see_unfenced(&self, past: &Past, role: Role) -> Result<Seen> {
        let located = self.located(past, role)?;
        let fence = self.databases.look_at_fence(located.at()).await?;
        if !fence.is_set && !fence.holds {
            return Ok(Seen::Done(Value::Null));
        }
        let holder = self.holder_of_database()?;
        if holder != located.name {
            return Err(Error::Refused(format!("DATABASE leads to {holder}: somebody else was at work")));
        }
        Ok(Seen::ToDo)
    }
}

fn compare(then: &Mark, now: &Mark, name: &str) -> Result<()> {
    if then == now {
        return Ok(());
    }
    let rows = now.changed_rows.abs_diff(then.changed_rows);
    Err(Error::Refused(format!(
        "somebody has written to {name} after it was proven still ({rows} rows counted); what was copied is not all of it"
    )))
}

fn stood_by(value: &Value) -> Result<Stood> {
    serde_json::from_value(value.clone()).map_err(|error| Error::Internal(error.to_string()))
}
