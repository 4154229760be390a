//! Whether the target is as this run has left it: before it is filled again, and before an app is led back.

use std::time::Duration;

use serde_json::Value;

use super::begin::{check_same, known_servers};
use super::{Action, Anywhere, COPY};
use crate::runbook::database::{Databases, Filled, Mark};
use crate::runbook::journal::{Entry, Record};
use crate::runbook::past::Past;
use crate::runbook::shell::TERMINATION;
use crate::runbook::step::{Step, facts};
use crate::runbook::{Error, Result};

/// So long the target is asked whether it was written to, where it does not answer, while the app is down.
const ASKING: Duration = TERMINATION;
const ASKING_PAUSE: Duration = Duration::from_secs(1);
/// Under which a mark of the target stands in what a step has found.
const MARK: &str = "target_mark";
/// Sessions that were closed count what they have written a moment later.
const SESSIONS_END: Duration = Duration::from_millis(300);

impl<D: Databases> Anywhere<'_, D> {
    /// What was found, and what the target is like now; nothing where it cannot be asked, which is no reason to do it again.
    pub(super) async fn with_mark(&self, mut found: Value) -> Result<Value> {
        tokio::time::sleep(SESSIONS_END.min(Duration::from_secs(self.wanted.still_s))).await;
        found[MARK] = match self.databases.mark(self.target()).await {
            Ok(mark) => facts(&mark)?,
            Err(_) => Value::Null,
        };
        Ok(found)
    }

    /// What an earlier attempt has filled is dropped only where nobody has written to it since: it could be in use by now.
    pub(super) async fn check_target_is_as_left(&self, past: &Past) -> Result<()> {
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
        // The last copy did not come back: what is whole may be another's.
        match self.databases.filled(self.target()).await? {
            Filled::Whole => Err(Error::Refused(
                "it is not known who has filled the target: begin another run with an empty database".into(),
            )),
            Filled::Empty | Filled::Unfinished => Ok(()),
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
        let then = past.called("verify").and_then(|note| serde_json::from_value::<Mark>(note[MARK].clone()).ok());
        let Some(then) = then else { return unknown("it could not be asked before") };
        let asked = tokio::time::timeout(ASKING, async {
            loop {
                match self.mark_of_the_same_target(past).await {
                    Err(error) if error.is_passing() => tokio::time::sleep(ASKING_PAUSE).await,
                    other => break other,
                }
            }
        });
        let what = match asked.await {
            Ok(Ok(now)) => then.moved(&now),
            // With the right address, it can be told.
            Ok(Err(error @ Error::Usage(_))) => return Err(error),
            Ok(Err(error)) => return unknown(&error.to_string()),
            Err(_) => return unknown("it does not answer"),
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

    async fn mark_of_the_same_target(&self, past: &Past) -> Result<Mark> {
        let now = self.databases.identity(self.target()).await?;
        if let Some([_, known]) = known_servers(past.records())? {
            let is_same = known.server == now.server;
            if !is_same && known.address != now.address {
                return Err(Error::Usage(format!(
                    "the app was switched to {}, and not to {}",
                    known.address, now.address
                )));
            }
            if !is_same {
                check_same("target", &known, &now)?;
            }
        }
        self.databases.mark(self.target()).await
    }
}
