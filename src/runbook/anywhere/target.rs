//! Whether the target is as this run has left it: before it is filled again, and before an app is led back.

use std::time::{Duration, Instant};

use serde_json::Value;

use super::begin::{check_same, known_servers};
use super::{Action, Anywhere, COPY};
use crate::event::Event;
use crate::ops::Run;
use crate::pg;
use crate::runbook::database::{Databases, Filled, Mark};
use crate::runbook::journal::{Entry, Record};
use crate::runbook::past::Past;
use crate::runbook::shell::TERMINATION;
use crate::runbook::step::{Seen, Step, facts};
use crate::runbook::stillness::COUNTED;
use crate::runbook::{Error, Result};

/// So long the target is asked whether it was written to, where it does not answer, while the app is down.
const ASKING: Duration = TERMINATION;
const ASKING_PAUSE: Duration = Duration::from_secs(1);
/// So long an index that a killed run was building may take to end: its session does not notice before.
const SESSIONS_LAST: Duration = Duration::from_secs(600);
/// Under which a mark of the target stands in what a step has found.
const MARK: &str = "target_mark";
/// Sessions that were closed count what they have written a moment later.
const SESSIONS_END: Duration = Duration::from_millis(300);

impl<D: Databases> Anywhere<'_, D> {
    /// What was found, and what the target is like now; nothing where it cannot be asked, which is no reason to do it again.
    pub(super) async fn with_mark(&self, mut found: Value) -> Result<Value> {
        tokio::time::sleep(SESSIONS_END.min(Duration::from_secs(self.wanted.still_s))).await;
        let deadline = Instant::now() + ASKING;
        found[MARK] = loop {
            match self.databases.mark(self.target()).await {
                Ok(mark) => break facts(&mark)?,
                Err(error) if error.is_passing() && Instant::now() < deadline => {
                    tokio::time::sleep(ASKING_PAUSE).await;
                }
                Err(_) => break Value::Null,
            }
        };
        Ok(found)
    }

    /// Before the app is down: what is asked of the target later must have an answer, and the app must be able to write there.
    pub(super) async fn check_target_can_be_used(&self, has_copied: bool) -> Result<()> {
        self.databases.mark(self.target()).await?;
        // After an earlier attempt, the fence is ours.
        match self.databases.facts(self.target()).await?.read_only_setting {
            Some(setting) if !has_copied => {
                Err(Error::Refused(format!("the target has default_transaction_read_only = {setting}")))
            }
            _ => Ok(()),
        }
    }

    /// Takes away the fence that a way back has put around the target.
    pub(super) async fn open_target(&self) -> Result<()> {
        if self.wanted.fence && self.databases.look_at_fence(self.target()).await?.is_set {
            self.databases.unfence(self.target()).await?;
        }
        Ok(())
    }

    /// Nobody has written to the target since it was compared.
    pub(super) async fn see_target_same(&self, past: &Past) -> Result<Seen> {
        if let Some(who) = self.who_may_write(self.target()).await? {
            return Ok(Seen::Waiting(who));
        }
        let unknown = || Error::Refused("what the target was like when it was compared could not be asked".into());
        let then = compared(past)?.ok_or_else(unknown)?;
        let now = self.databases.mark(self.target()).await?;
        match then.moved(&now) {
            None => Ok(Seen::Done(facts(&now)?)),
            Some(what) => Err(Error::Refused(format!(
                "somebody has written to the target after it was compared ({what}): it may lack what was copied"
            ))),
        }
    }

    /// What an earlier attempt has filled is dropped only where nobody has written to it since: it could be in use by now.
    pub(super) async fn check_target_is_as_left(&self, past: &Past, run: &Run) -> Result<()> {
        let records = match past.records() {
            // The attempt that is under way has announced itself.
            [earlier @ .., Record { entry: Entry::Intent { step, .. }, .. }] if step == COPY => earlier,
            all => all,
        };
        let begun = |record: &Record| matches!(&record.entry, Entry::Intent { step, .. } if step == COPY);
        let Some(begun) = records.iter().rposition(begun) else { return Ok(()) };
        let left = records.iter().enumerate().rev().find_map(|(at, record)| match &record.entry {
            Entry::Called { note, .. } => note.get(MARK).map(|mark| (at, mark)),
            _ => None,
        });
        if self.databases.filled(self.target()).await? != Filled::Empty {
            self.until_nobody_is_connected(run).await?;
        }
        let is_answered = left.is_some_and(|(at, _)| at > begun);
        let mark = left.and_then(|(_, mark)| serde_json::from_value::<Mark>(mark.clone()).ok());
        let moved = match mark {
            Some(mark) => match mark.moved(&self.databases.mark(self.target()).await?) {
                None => return Ok(()),
                moved => moved,
            },
            None => None,
        };
        match moved {
            Some(what) if is_answered => {
                return Err(Error::Refused(format!(
                    "somebody has written to the target since this run has filled it ({what}): it is not dropped; begin \
                     another run with an empty database"
                )));
            }
            None if is_answered => {
                return Err(Error::Refused(
                    "it is not known how this run has left the target: begin another run with an empty database".into(),
                ));
            }
            _ => {}
        }
        // The last copy did not come back: what is there may be another's.
        match self.databases.filled(self.target()).await? {
            Filled::Whole => Err(Error::Refused(
                "it is not known who has filled the target: begin another run with an empty database".into(),
            )),
            Filled::Unfinished => {
                let (ours, from) =
                    (self.databases.address(self.source())?.0, self.databases.filled_from(self.target()).await?);
                if from.as_ref() == Some(&ours) {
                    return Ok(());
                }
                let from = from.map_or_else(String::new, |from| format!(", from {from}"));
                Err(Error::Refused(format!("somebody else has begun to fill the target{from}: it is not dropped")))
            }
            Filled::Empty => Ok(()),
        }
    }

    /// What a session has written is counted for sure when it has ended. Those of a run that was killed take a moment.
    async fn until_nobody_is_connected(&self, run: &Run) -> Result<()> {
        let deadline = Instant::now() + SESSIONS_LAST;
        loop {
            match self.who_may_write(self.target()).await? {
                None => return Ok(()),
                Some(who) if Instant::now() > deadline => {
                    return Err(Error::Refused(format!("{who}; what they have written nobody can tell")));
                }
                Some(who) => run.events.send(Event::Doing { what: who }),
            }
            tokio::select! {
                () = tokio::time::sleep(ASKING_PAUSE) => {}
                () = run.cancel.cancelled() => return Err(Error::Cancelled),
            }
        }
    }

    /// Whether the app can be led back to the source without a loss. `Some`: nobody can tell, because the target is gone; then
    /// there is no other way.
    ///
    /// # Errors
    /// The target was written to.
    pub(super) async fn check_way_back(&self, step: &Step<Action>, past: &Past) -> Result<Option<String>> {
        let last = |wanted: fn(&Entry) -> bool| {
            past.records().iter().rposition(|record| record.entry.step() == Some(&step.id) && wanted(&record.entry))
        };
        // The app may be up on the source, and write there.
        if last(|entry| matches!(entry, Entry::Undone { .. })) > last(|entry| matches!(entry, Entry::Intent { .. })) {
            return Ok(None);
        }
        let unknown = |why: &str| Ok(Some(format!("it is not known whether the target was written to: {why}")));
        let Some(then) = compared(past)? else { return unknown("it could not be asked before") };
        let what = match self.ask_target(past).await {
            Ok(Asked::Mark(now)) => then.moved(&now),
            Ok(Asked::Unknown(why)) => return unknown(&why),
            Err(error) => return Err(error),
        };
        let Some(what) = what else { return Ok(None) };
        let stood = past.done("still-same").or_else(|| past.done("still")).cloned().unwrap_or_default();
        let stood: Mark = serde_json::from_value(stood).map_err(|error| Error::Internal(error.to_string()))?;
        Err(match stood.moved(&self.databases.mark(self.source()).await?) {
            None => Error::WayBackClosed(format!(
                "the target was written to since it was compared ({what}), and the source was not: going back would lose that"
            )),
            Some(too) => Error::Refused(format!(
                "both the target ({what}) and the source ({too}) were written to: neither way is without loss"
            )),
        })
    }

    /// Asks the target what it has, until it answers or is taken to be lost.
    ///
    /// # Errors
    /// With the right address, or when those are gone who are connected, it can be told.
    async fn ask_target(&self, past: &Past) -> Result<Asked> {
        let deadline = Instant::now() + ASKING;
        self.check_address(past)?;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let (is_over, looked) = match tokio::time::timeout(left, self.mark_behind_fence(past)).await {
                Ok(looked) => (Instant::now() > deadline, looked),
                Err(_) => return Ok(Asked::Unknown("it does not answer".into())),
            };
            match looked {
                Ok(Behind::Mark(mark)) => return Ok(Asked::Mark(mark)),
                Ok(Behind::Connected(who)) if is_over => {
                    return Err(Error::Waited { what: "the way back".into(), after: ASKING, last: who });
                }
                Err(error) if error.is_passing() && is_over => return Ok(Asked::Unknown(error.to_string())),
                Err(error) if !error.is_passing() => return told_otherwise(&error),
                Ok(Behind::Connected(_)) | Err(_) => {}
            }
            tokio::time::sleep(ASKING_PAUSE).await;
        }
    }

    fn check_address(&self, past: &Past) -> Result<()> {
        let Some([_, known]) = known_servers(past.records())? else { return Ok(()) };
        let (address, user) =
            self.databases.address(self.target()).map_err(|error| Error::Usage(format!("the target: {error}")))?;
        if (&address, &user) == (&known.address, &known.user) {
            return Ok(());
        }
        let (then, now) = (format!("{} at {}", known.user, known.address), format!("{user} at {address}"));
        Err(Error::Usage(format!("the app was switched to the target of {then}, and not of {now}")))
    }

    /// Sessions are ended first: what they have not committed is not there, and what they have may not be counted.
    async fn mark_behind_fence(&self, past: &Past) -> Result<Behind> {
        let now = self.databases.identity(self.target()).await?;
        if let Some([_, known]) = known_servers(past.records())? {
            check_same("target", &known, &now)?;
        }
        if self.wanted.fence {
            self.databases.fence(self.target()).await?;
        }
        if let Some(who) = self.who_may_write(self.target()).await? {
            return Ok(Behind::Connected(who));
        }
        tokio::time::sleep(COUNTED.min(Duration::from_secs(self.wanted.still_s))).await;
        self.databases.mark(self.target()).await.map(Behind::Mark)
    }
}

/// What the target says of itself on the way back.
enum Asked {
    Mark(Mark),
    /// Why it says nothing.
    Unknown(String),
}

enum Behind {
    Mark(Mark),
    /// Who may write, in words.
    Connected(String),
}

/// As it was when it was compared with the source; `None`: it could not be asked.
fn compared(past: &Past) -> Result<Option<Mark>> {
    let note = past.called("verify").ok_or_else(|| Error::Internal("`verify` is not done".into()))?;
    Ok(serde_json::from_value(note[MARK].clone()).ok())
}

/// A server that lets nobody in is there, and may have been written to; a database that is not there was lost.
fn told_otherwise(error: &Error) -> Result<Asked> {
    /// `invalid_catalog_name`
    const NO_DATABASE: &str = "3D000";
    let is_shut = match error {
        Error::Pg(error) => match &*error.kind {
            pg::ErrorKind::Auth { sqlstate, .. } => sqlstate.as_deref() != Some(NO_DATABASE),
            pg::ErrorKind::Config { .. } | pg::ErrorKind::Tls { .. } => true,
            _ => false,
        },
        _ => false,
    };
    if is_shut {
        return Err(Error::Usage(format!("the target does not say whether it was written to: {error}")));
    }
    Ok(Asked::Unknown(error.to_string()))
}
