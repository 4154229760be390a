//! The name DATABASE: whom it leads to, and how it is moved.
//!
//! A request that moves it may be carried out long after nobody waits for its answer any more. Until the point of no return
//! the database that it would lead to is fenced, so that the app could not write there.

use std::time::Duration;

use serde_json::{Value, json};

use super::cutover::Move;
use super::facts::DATABASE;
use super::provider::{OnHeroku, calls, done, recorded_by};
use super::steps::{Action, Role};
use crate::cloud::heroku::Release;
use crate::runbook::database::Databases;
use crate::runbook::past::Past;
use crate::runbook::step::{Seen, Step};
use crate::runbook::{Error, Result};

/// The longest that a promotion without an answer is waited for, before the app is brought up without it.
const LATE_MAX: Duration = Duration::from_secs(60);
/// In units of the time for which a database must stand still: a minute, where that is ten seconds.
const LATE_IN_STILL: u32 = 6;
/// So often it is looked for meanwhile.
const LATE_LOOKS: u32 = 30;

impl<D: Databases> OnHeroku<'_, D> {
    pub(super) fn see_promoted(&self, past: &Past, (moved, window): (&Move<'_>, Option<u8>)) -> Result<Seen> {
        let app = self.app();
        let holder = self.holder_of_database()?;
        if holder == self.name(past, moved.role) {
            return match self.release_since(past, moved)? {
                Released::Well => Ok(Seen::Done(json!({ "database": holder }))),
                Released::NotYet(why) => Ok(Seen::Waiting(why)),
                // There is no way back: it is released once more.
                Released::Badly if window.is_some_and(|window| past.is_forward(window)) => Ok(Seen::ToDo),
                Released::Badly => Err(Error::Refused("the release process has failed on the new database".into())),
            };
        }
        if holder != self.name(past, moved.from) {
            return Err(Error::Refused(format!("DATABASE of {app} leads to {holder}: somebody else was at work")));
        }
        for proof in moved.proofs {
            done(past, proof)?;
        }
        let addon = self.addon(past, moved.role)?;
        match calls(|| self.heroku.wait_status(&addon.id))? {
            Some(status) if status.has_failed => {
                let why = status.message.unwrap_or_default();
                Err(Error::Refused(format!("{} cannot be promoted: {why}", addon.name)))
            }
            Some(status) if !status.is_waiting => Ok(Seen::ToDo),
            _ => Ok(Seen::Waiting(format!("{} is not ready to be promoted", addon.name))),
        }
    }

    /// What became of the newest release that leads DATABASE elsewhere: dynos run what was last released well.
    fn release_since(&self, past: &Past, moved: &Move<'_>) -> Result<Released> {
        // The first intent's: a request of an earlier attempt may have been the one that was carried out.
        let Some(before) = past.first_intent(moved.step).and_then(|note| note["release"].as_u64()) else {
            return Ok(Released::Well);
        };
        let releases = calls(|| self.heroku.releases(self.app()))?;
        let since = self.moved_back_since.get().map_or(before, |back| back.max(before));
        let ours = releases.iter().filter(|r| r.version > since && leads_elsewhere(r)).max_by_key(|r| r.version);
        let Some(ours) = ours else {
            // Without a process to run, a name that leads there is the release.
            let is_expected = has_release_process(past, moved)? && self.was_moved(past, moved)?;
            return Ok(if is_expected { Released::NotYet("no release is seen".into()) } else { Released::Well });
        };
        let later = releases.iter().any(|r| r.version >= ours.version && r.status == "succeeded");
        Ok(match ours.status.as_str() {
            _ if later => Released::Well,
            "failed" => Released::Badly,
            status => Released::NotYet(format!("the release is {status}")),
        })
    }

    /// Whether the name was moved, by what can be seen: to the new database, or back by this process.
    fn was_moved(&self, past: &Past, moved: &Move<'_>) -> Result<bool> {
        Ok(self.moved_back_since.get().is_some() || self.holder_of_database()? == self.name(past, moved.role))
    }

    fn newest_release(&self) -> Result<u64> {
        let releases = calls(|| self.heroku.releases(self.app()))?;
        Ok(releases.iter().map(|release| release.version).max().unwrap_or_default())
    }

    pub(super) fn promotion(&self, past: &Past, role: Role, from: Role) -> Result<Value> {
        let release = self.newest_release()?;
        Ok(json!({ "to": self.name(past, role), "from": self.name(past, from), "release": release }))
    }

    pub(super) fn holder_of_database(&self) -> Result<String> {
        let attachments = calls(|| self.heroku.attachments(self.app()))?;
        let current = attachments.into_iter().find(|attachment| attachment.name == DATABASE);
        current.map(|a| a.addon.name).ok_or_else(|| Error::Refused(format!("{} has no DATABASE", self.app())))
    }

    /// As `heroku pg:promote` does: what had the name keeps another.
    pub(super) fn promote(&self, past: &Past, moved: &Move<'_>) -> Result<Value> {
        for proof in moved.proofs {
            done(past, proof)?;
        }
        self.move_name(&self.name(past, moved.from), &self.name(past, moved.role))
    }

    fn move_name(&self, from: &str, to: &str) -> Result<Value> {
        let app = self.app();
        let attachments = calls(|| self.heroku.attachments(app))?;
        let has_another =
            attachments.iter().any(|a| a.addon.name == from && a.name != DATABASE && a.namespace.is_none());
        if !has_another {
            let alias = format!("PGCONVOY_{}_OLD", self.plan.run.to_uppercase());
            calls(|| self.heroku.attach(app, from, &alias))?;
        }
        calls(|| self.heroku.attach(app, to, DATABASE))?;
        Ok(json!({ "database": to }))
    }

    /// Not where the new database has rows that it had not before it was promoted.
    pub(super) async fn promote_back(&self, past: &Past, moved: &Move<'_>) -> Result<Option<String>> {
        let (new, old) = (self.name(past, moved.role), self.name(past, moved.from));
        let holder = self.holder_of_database()?;
        if holder == old {
            return self.is_back(past, moved).await;
        }
        if holder != new {
            return Err(Error::Refused(format!("DATABASE leads to {holder}: somebody else was at work")));
        }
        self.may_go_back(past, moved).await?;
        let before = self.newest_release()?;
        self.move_name(&new, &old)?;
        self.moved_back_since.set(Some(before));
        Ok(Some(format!("DATABASE leads to {old}")))
    }

    async fn may_go_back(&self, past: &Past, moved: &Move<'_>) -> Result<()> {
        let (old_stood, new_stood) = moved.still;
        if past.done(new_stood).is_some() && self.has_stood(past, moved.role, new_stood).await? {
            return Ok(());
        }
        let (new, old) = (self.name(past, moved.role), self.name(past, moved.from));
        let located = self.located(past, moved.from)?;
        let is_fenced = self.databases.look_at_fence(located.at()).await?.is_set;
        if is_fenced && past.done(new_stood).is_some() && self.has_stood(past, moved.from, old_stood).await? {
            return Err(Error::WayBackClosed(format!(
                "{new} was written to after it was promoted, and {old} was not: going back would lose that"
            )));
        }
        Err(Error::Refused(format!(
            "both {old} and {new} were written to: neither way is without loss; DATABASE leads to {new}, which is read only"
        )))
    }

    /// So long what was asked for without an answer may still be carried out.
    pub(super) fn late_after(&self) -> Duration {
        (Duration::from_secs(self.plan.wishes.still_s) * LATE_IN_STILL).min(LATE_MAX)
    }

    /// The fence is not taken from a database that somebody else has led the app away from: what is written there then is
    /// lost. Promotions of this run are looked after by their own step.
    pub(super) fn check_nobody_promoted(&self, step: &Step<Action>, past: &Past, role: Role) -> Result<()> {
        let promotions =
            self.plan.steps.iter().filter(|other| {
                matches!(other.action, Action::Promote(_)) && other.phase.window() == step.phase.window()
            });
        let (mut promotions, held) = (promotions, self.name(past, role));
        if promotions.any(|promotion| past.attempts(&promotion.id) > 0) {
            return Ok(());
        }
        let holder = self.holder_of_database()?;
        if holder == held {
            return Ok(());
        }
        Err(Error::Refused(format!("DATABASE leads to {holder}: somebody else was at work, and {held} stays fenced")))
    }

    /// The name leads where it did. What was asked for without an answer may still come, and what was released may still be
    /// under way.
    async fn is_back(&self, past: &Past, moved: &Move<'_>) -> Result<Option<String>> {
        let old = self.name(past, moved.from);
        match self.release_since(past, moved)? {
            Released::Well => {}
            Released::NotYet(why) => {
                return Err(Error::Waited {
                    what: format!("DATABASE leads to {old}"),
                    after: Duration::ZERO,
                    last: why,
                });
            }
            Released::Badly => {
                // A release of its own, and another run of the release process.
                let before = self.newest_release()?;
                calls(|| self.heroku.attach(self.app(), &old, DATABASE))?;
                self.moved_back_since.set(Some(before));
                return Ok(Some(format!("DATABASE leads to {old}, which is released once more")));
            }
        }
        if past.attempts(moved.step) == 0 || past.is_answered(moved.step) {
            return Ok(None);
        }
        let late = self.late_after();
        for _ in 0..LATE_LOOKS {
            tokio::time::sleep(late / LATE_LOOKS).await;
            if self.holder_of_database()? != old {
                return Err(Error::Waited {
                    what: format!("DATABASE stays with {old}"),
                    after: Duration::ZERO,
                    last: "a promotion was carried out late".into(),
                });
            }
        }
        Ok(None)
    }
}

fn has_release_process(past: &Past, moved: &Move<'_>) -> Result<bool> {
    let recorded = recorded_by(past, moved.recorded)?.formation;
    Ok(recorded.iter().any(|process| process.kind == "release"))
}

enum Released {
    Well,
    NotYet(String),
    Badly,
}

/// `Attach DATABASE (…)`, but not `Attach DATABASE_REPLICA`.
fn leads_elsewhere(release: &Release) -> bool {
    let rest = release.description.strip_prefix("Attach DATABASE");
    rest.is_some_and(|rest| !rest.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_'))
}
