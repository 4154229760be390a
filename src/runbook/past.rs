//! What the records of a journal come to.

use serde_json::Value;

use super::journal::{Entry, Record};

/// All records of a journal, and what follows from them.
#[derive(Clone, Debug, Default)]
pub struct Past {
    records: Vec<Record>,
}

impl Past {
    pub fn new(records: Vec<Record>) -> Self {
        Self { records }
    }

    pub fn records(&self) -> &[Record] {
        &self.records
    }

    pub(super) fn push(&mut self, record: Record) {
        self.records.push(record);
    }

    /// What counts for a step: its records since it was last taken back.
    fn of<'a>(&'a self, step: &str) -> impl DoubleEndedIterator<Item = &'a Record> {
        let taken_back = |record: &Record| match &record.entry {
            Entry::Aborted { steps, .. } => steps.iter().any(|taken| taken == step),
            _ => false,
        };
        let since = self.records.iter().rposition(taken_back).map_or(0, |at| at + 1);
        self.records[since..].iter().filter(move |record| record.entry.step() == Some(step))
    }

    /// What was seen at the end of a step; `None`: it is not done.
    pub fn done(&self, step: &str) -> Option<&Value> {
        self.of(step).rev().find_map(|record| match &record.entry {
            Entry::Done { facts, .. } => Some(facts),
            _ => None,
        })
    }

    /// How often it was about to be acted on.
    pub fn attempts(&self, step: &str) -> u32 {
        let intents = self.of(step).filter(|record| matches!(record.entry, Entry::Intent { .. }));
        u32::try_from(intents.count()).unwrap_or(u32::MAX)
    }

    /// What an act has returned, the last time.
    pub fn called(&self, step: &str) -> Option<&Value> {
        self.of(step).rev().find_map(|record| match &record.entry {
            Entry::Called { note, .. } => Some(note),
            _ => None,
        })
    }

    /// What the last intent has announced.
    pub fn intent(&self, step: &str) -> Option<&Value> {
        self.of(step).rev().find_map(|record| match &record.entry {
            Entry::Intent { note, .. } => Some(note),
            _ => None,
        })
    }

    /// What the first intent has announced.
    pub fn first_intent(&self, step: &str) -> Option<&Value> {
        self.of(step).find_map(|record| match &record.entry {
            Entry::Intent { note, .. } => Some(note),
            _ => None,
        })
    }

    /// Whether every act of a step has come back: none of them can be done later.
    pub fn is_answered(&self, step: &str) -> bool {
        let calls = self.of(step).filter(|record| matches!(record.entry, Entry::Called { .. })).count();
        u64::try_from(calls).unwrap_or_default() == u64::from(self.attempts(step))
    }

    /// When a step was first acted on, in ms since 1970.
    pub fn acted_ms(&self, step: &str) -> Option<u64> {
        self.of(step).find(|record| matches!(record.entry, Entry::Intent { .. })).map(|record| record.at_ms)
    }

    /// Whether anything may have been done for a step.
    pub fn has_begun(&self, step: &str) -> bool {
        self.of(step).any(|record| matches!(record.entry, Entry::Intent { .. } | Entry::Done { .. }))
    }

    /// When a step was begun and ended, in ms since 1970. What is only looked at has no record of its beginning: it begins
    /// with the record before.
    pub fn times(&self, step: &str) -> (Option<u64>, Option<u64>) {
        let before = |record: &Record| {
            let at = usize::try_from(record.number).ok()?.checked_sub(2)?;
            self.records.get(at).map(|before| before.at_ms)
        };
        let first = self.of(step).next().map(|record| before(record).unwrap_or(record.at_ms));
        let done = self.of(step).rev().find(|record| matches!(record.entry, Entry::Done { .. }));
        (first, done.map(|record| record.at_ms))
    }

    /// How often a window was taken back.
    pub fn aborts(&self, window: u8) -> usize {
        let aborted = |record: &&Record| matches!(&record.entry, Entry::Aborted { window: of, .. } if *of == window);
        self.records.iter().filter(aborted).count()
    }

    /// The window that is being taken back, and why, where that has not come to its end.
    pub fn aborting(&self) -> Option<(u8, &str)> {
        self.records.iter().rev().find_map(|record| match &record.entry {
            Entry::Aborting { window, why } => Some(Some((*window, why.as_str()))),
            Entry::Aborted { .. } | Entry::Forward { .. } => Some(None),
            _ => None,
        })?
    }

    /// Whether a window cannot be taken back any more, though it had not been thawed: its new database has rows of its own.
    pub fn is_forward(&self, window: u8) -> bool {
        self.records.iter().any(|record| matches!(record.entry, Entry::Forward { window: of, .. } if of == window))
    }

    /// Whether the run is to stop before the app goes down, until it is told to: since it was asked for, or since it was
    /// last taken back.
    pub fn is_on_hold(&self) -> bool {
        let last = |wanted: fn(&Entry) -> bool| self.records.iter().rposition(|record| wanted(&record.entry));
        let Some(asked) = last(|entry| matches!(entry, Entry::Hold {})) else { return false };
        let since = last(|entry| matches!(entry, Entry::Aborted { .. })).map_or(asked, |aborted| aborted.max(asked));
        last(|entry| matches!(entry, Entry::CutOver {})).is_none_or(|told| told < since)
    }

    /// Whether the last that happened was that a window was taken back; what was removed since changes nothing of it.
    pub fn ended_aborted(&self) -> Option<u8> {
        let mut entries = self.records.iter().rev().map(|record| &record.entry);
        match entries.find(|entry| !matches!(entry, Entry::Removed { .. })) {
            Some(Entry::Aborted { window, .. }) => Some(*window),
            _ => None,
        }
    }

    /// Why the last window was taken back, where that was the last that happened.
    pub(super) fn last_abort(&self) -> Option<&str> {
        self.ended_aborted()?;
        self.records.iter().rev().find_map(|record| match &record.entry {
            Entry::Aborting { why, .. } => Some(why.as_str()),
            _ => None,
        })
    }

    pub fn is_finished(&self) -> bool {
        self.records.iter().any(|record| matches!(record.entry, Entry::Finished {}))
    }

    /// Since the last abort, for this gate.
    pub fn is_confirmed(&self, gate: &str) -> bool {
        let since = self.records.iter().rposition(|record| matches!(record.entry, Entry::Aborted { .. }));
        let records = &self.records[since.map_or(0, |at| at + 1)..];
        records.iter().any(|record| matches!(&record.entry, Entry::Confirmed { gate: of } if of == gate))
    }

    /// What was announced by any intent, also of steps that were taken back.
    pub fn announced(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.records.iter().filter_map(|record| match &record.entry {
            Entry::Intent { step, note, .. } => Some((step.as_str(), note)),
            _ => None,
        })
    }
}

impl Entry {
    /// The step that a record is about.
    pub fn step(&self) -> Option<&str> {
        match self {
            Self::Intent { step, .. }
            | Self::Called { step, .. }
            | Self::Observed { step, .. }
            | Self::Done { step, .. }
            | Self::Failed { step, .. }
            | Self::Undone { step, .. } => Some(step),
            _ => None,
        }
    }
}
