//! What a runbook has done, one line of JSON each: appended, flushed to the disk, then acted upon.
//!
//! Invariants: a record that [`Journal::append`] has returned from outlives the machine, and is read again as it was returned;
//! one process at a time writes; a write that failed leaves nothing behind; no record holds a password (records are made of
//! names and numbers, and what servers say is redacted).

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::{Error, Result, watchdog};
use crate::event::Event;
use crate::model::redact;
use crate::ops::Run;

const LOCK_PATIENCE: Duration = Duration::from_secs(1);
/// For what a process that was killed has left: it is asked to end, and then made to.
const LEFT_PATIENCE: Duration = watchdog::GRACE.saturating_add(Duration::from_secs(10));
const LEFT_LOOK: Duration = Duration::from_millis(100);

/// One line of a journal.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    pub number: u64,
    /// RFC 3339, UTC.
    pub at: String,
    /// Since 1970.
    pub at_ms: u64,
    #[serde(flatten)]
    pub entry: Entry,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Entry {
    /// The first record: whose journal this is.
    Opened {
        run: String,
        subject: String,
        plan_sha256: String,
    },
    /// Which servers it is about, as they say themselves: it is gone on with at no others.
    Servers {
        source: Value,
        target: Value,
    },
    /// Another process goes on with it.
    Resumed {},
    /// A step is about to be acted on.
    Intent {
        step: String,
        attempt: u32,
        note: Value,
    },
    /// The act has returned.
    Called {
        step: String,
        note: Value,
    },
    /// What is waited for.
    Observed {
        step: String,
        what: String,
    },
    /// The step's end was seen.
    Done {
        step: String,
        facts: Value,
    },
    Failed {
        step: String,
        why: String,
    },
    /// Somebody has typed the name.
    Confirmed {
        gate: String,
    },
    Held {
        gate: String,
    },
    Aborting {
        window: u8,
        why: String,
    },
    Undone {
        step: String,
        what: String,
    },
    /// Everything is as it was before the window. What these steps had done does not count any more.
    Aborted {
        window: u8,
        steps: Vec<String>,
    },
    /// A window that was being taken back is not: its new database has rows that are nowhere else.
    Forward {
        window: u8,
        why: String,
    },
    /// The run stops before the app goes down.
    Hold {},
    /// It need not any more.
    CutOver {},
    /// Something that the run had made is gone again.
    Removed {
        what: String,
    },
    Finished {},
}

/// A journal that is written to. The lock goes with it.
pub struct Journal {
    file: File,
    path: PathBuf,
    next: u64,
    /// How long the file is up to its last good record.
    good_bytes: u64,
    /// Behind that there may be a part of what could not be written.
    is_torn: bool,
    /// Lines of [`Journal::note`] that could not be written yet.
    owed: Vec<u8>,
    records_left: Option<u64>,
}

impl Journal {
    /// Makes a new journal, or opens one to go on with. A last line that was torn by a crash was never acted upon: it is
    /// cut off.
    ///
    /// # Errors
    /// Another process has it open; it cannot be read or written; a line other than the last is damaged.
    pub fn open(path: &Path) -> Result<(Self, Vec<Record>)> {
        Self::load(open_locked(path)?.ok_or_else(|| at_work(path))?, path)
    }

    /// As [`Journal::open`], for who goes on: commands of a process that was killed keep it locked until they have ended, and
    /// nothing may be done that they could work against.
    ///
    /// # Errors
    /// As [`Journal::open`]; or nobody wants to wait any longer.
    pub(super) async fn open_after(path: &Path, run: &Run) -> Result<(Self, Vec<Record>)> {
        let until = Instant::now() + LEFT_PATIENCE;
        let mut is_said = false;
        loop {
            if let Some(file) = open_locked(path)? {
                return Self::load(file, path);
            }
            if run.cancel.is_cancelled() {
                return Err(Error::Cancelled);
            }
            if Instant::now() > until {
                return Err(at_work(path));
            }
            if !std::mem::replace(&mut is_said, true) {
                let message = format!(
                    "{} is in use: by another process, or by a command that a process has left which was killed; its end is \
                     waited for",
                    path.display()
                );
                run.events.send(Event::Note { message });
            }
            tokio::time::sleep(LEFT_LOOK).await;
        }
    }

    fn load(mut file: File, path: &Path) -> Result<(Self, Vec<Record>)> {
        let cannot = |error| Error::journal(path, error);
        let mut text = Vec::new();
        file.read_to_end(&mut text).map_err(cannot)?;
        let (records, whole_bytes) = parse(&text, path)?;
        if whole_bytes < text.len() {
            file.set_len(whole_bytes as u64).map_err(cannot)?;
            file.seek(SeekFrom::End(0)).map_err(cannot)?;
        }
        file.sync_all().map_err(cannot)?;
        if records.is_empty() {
            sync_directory(path)?;
        }
        let next = records.last().map_or(1, |record| record.number + 1);
        let journal = Self {
            file,
            path: path.to_owned(),
            next,
            good_bytes: whole_bytes as u64,
            is_torn: false,
            owed: Vec::new(),
            records_left: None,
        };
        Ok((journal, records))
    }

    /// Forgets what stands in it: for a run that has done nothing.
    pub(super) fn begin_anew(&mut self) -> Result<()> {
        self.good_bytes = 0;
        self.next = 1;
        self.cut_off().map_err(|error| Error::journal(&self.path, error))
    }

    /// The lock once more: it is free when nobody has any of them.
    pub(super) fn share_lock(&self) -> Result<File> {
        self.file.try_clone().map_err(|error| Error::journal(&self.path, error))
    }

    /// Reads one that another process may be writing.
    ///
    /// # Errors
    /// There is none, or it is damaged.
    pub fn read(path: &Path) -> Result<Vec<Record>> {
        let text = std::fs::read(path).map_err(|error| Error::journal(path, error))?;
        Ok(parse(&text, path)?.0)
    }

    /// Whether a process has it open to write.
    pub fn is_at_work(path: &Path) -> bool {
        let Ok(file) = File::open(path) else { return false };
        flock(&file, FlockOperation::NonBlockingLockShared).is_err()
    }

    /// Refuses every record after so many more, as if the process had been killed after them: for tests.
    #[doc(hidden)]
    pub fn die_after(&mut self, records: u64) {
        self.records_left = Some(records);
    }

    /// Returns when the record is on the disk.
    ///
    /// # Errors
    /// It is not there: nothing may be done that it would have announced. Later records are not kept from being written.
    pub fn append(&mut self, entry: Entry) -> Result<Record> {
        let (record, line) = self.line(entry)?;
        let owed_bytes = self.owed.len();
        self.owed.extend(line);
        if let Err(error) = self.write_owed() {
            self.owed.truncate(owed_bytes);
            return Err(error);
        }
        self.next += 1;
        Ok(record)
    }

    /// For what has to be done whether it can be written down or not. What cannot be written now is written before the next
    /// record that can. Beside the record: why it is not on the disk yet.
    ///
    /// # Errors
    /// A test has stopped the journal, or the record cannot be put in words.
    pub fn note(&mut self, entry: Entry) -> Result<(Record, Option<Error>)> {
        let (record, line) = self.line(entry)?;
        self.owed.extend(line);
        self.next += 1;
        Ok((record, self.write_owed().err()))
    }

    /// A record as it will be read, and its line.
    fn line(&mut self, entry: Entry) -> Result<(Record, Vec<u8>)> {
        if let Some(left) = &mut self.records_left {
            *left = left.checked_sub(1).ok_or(Error::Killed)?;
        }
        let internal = |error: serde_json::Error| Error::Internal(format!("a record for the journal: {error}"));
        let now = OffsetDateTime::now_utc();
        let at = now.format(&Rfc3339).unwrap_or_default();
        let at_ms = u64::try_from(now.unix_timestamp_nanos() / 1_000_000).unwrap_or_default();
        let record = Record { number: self.next, at, at_ms, entry };
        let mut value = serde_json::to_value(&record).map_err(internal)?;
        redact_strings(&mut value);
        let record: Record = serde_json::from_value(value).map_err(internal)?;
        let mut line = serde_json::to_vec(&record).map_err(internal)?;
        // What could not be read again would make the whole journal useless, at the worst time.
        let record = serde_json::from_slice(&line).map_err(internal)?;
        line.push(b'\n');
        Ok((record, line))
    }

    fn write_owed(&mut self) -> Result<()> {
        let written = self.try_to_write_owed();
        if written.is_err() {
            // The process may end now: the next one shall find a whole journal.
            self.is_torn = self.cut_off().is_err();
        }
        written.map_err(|error| Error::journal(&self.path, error))
    }

    fn try_to_write_owed(&mut self) -> std::io::Result<()> {
        if self.is_torn {
            self.cut_off()?;
            self.is_torn = false;
        }
        self.file.write_all(&self.owed)?;
        self.file.sync_data()?;
        self.good_bytes += self.owed.len() as u64;
        self.owed.clear();
        Ok(())
    }

    fn cut_off(&self) -> std::io::Result<()> {
        self.file.set_len(self.good_bytes)?;
        self.file.sync_data()
    }
}

/// Each string by itself: what looks like a password's end in the text of a record may be the text's own syntax.
fn redact_strings(value: &mut Value) {
    match value {
        Value::String(text) => *text = redact(text),
        Value::Array(items) => items.iter_mut().for_each(redact_strings),
        Value::Object(members) => members.values_mut().for_each(redact_strings),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// `None`: somebody else has it.
fn open_locked(path: &Path) -> Result<Option<File>> {
    let opened = OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(path);
    let file = opened.map_err(|error| Error::journal(path, error))?;
    Ok(lock(&file).then_some(file))
}

fn at_work(path: &Path) -> Error {
    Error::Refused(format!(
        "another process is at work on {}, or a command that one has left which was killed: wait for its end",
        path.display()
    ))
}

/// A process that has just ended may have left a child between its fork and its exec, which holds the lock for a moment more;
/// so do those who look whether somebody is at work.
pub(super) fn lock(file: &File) -> bool {
    let until = Instant::now() + LOCK_PATIENCE;
    loop {
        match flock(file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return true,
            Err(_) if Instant::now() > until => return false,
            Err(_) => std::thread::sleep(LOCK_PATIENCE / 50),
        }
    }
}

/// The records, and how many bytes they take.
fn parse(text: &[u8], path: &Path) -> Result<(Vec<Record>, usize)> {
    let mut records: Vec<Record> = Vec::new();
    let mut at = 0;
    while let Some(length) = text[at..].iter().position(|&byte| byte == b'\n') {
        let line = &text[at..at + length];
        let record: Record = serde_json::from_slice(line).map_err(|error| {
            let name = path.display();
            Error::Refused(format!("line {} of {name} is damaged: {error}", records.len() + 1))
        })?;
        if record.number != records.len() as u64 + 1 {
            return Err(Error::Refused(format!("record {} of {} is missing", records.len() + 1, path.display())));
        }
        records.push(record);
        at += length + 1;
    }
    Ok((records, at))
}

/// The file's name must outlive the machine as well.
fn sync_directory(path: &Path) -> Result<()> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
    File::open(directory).and_then(|directory| directory.sync_all()).map_err(|error| Error::journal(directory, error))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn note(what: &str) -> Entry {
        Entry::Observed { step: "a".into(), what: what.into() }
    }

    #[test]
    fn what_was_written_is_read_and_a_torn_line_is_cut_off() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("j");
        let (mut journal, none) = Journal::open(&path).unwrap();
        assert!(none.is_empty());
        journal.append(note("one")).unwrap();
        journal.append(Entry::Done { step: "b".into(), facts: json!({"x": 1}) }).unwrap();
        drop(journal);
        let whole = std::fs::read(&path).unwrap();
        let second = whole.iter().position(|&b| b == b'\n').unwrap() + 1;
        for cut in second..whole.len() {
            std::fs::write(&path, &whole[..cut]).unwrap();
            let (mut journal, records) = Journal::open(&path).unwrap();
            assert_eq!(records.len(), 1, "cut at {cut}");
            journal.append(note("two")).unwrap();
            drop(journal);
            let records = Journal::read(&path).unwrap();
            assert_eq!(records.iter().map(|r| r.number).collect::<Vec<_>>(), [1, 2]);
            assert_eq!(records[1].entry, note("two"));
        }
    }

    #[test]
    fn damage_before_the_end_is_no_torn_line() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("j");
        let (mut journal, _) = Journal::open(&path).unwrap();
        for what in ["one", "two", "three"] {
            journal.append(note(what)).unwrap();
        }
        drop(journal);
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, text.replacen("\"event\"", "\"evnt\"", 1)).unwrap();
        assert!(Journal::open(&path).is_err());
        let without_second: Vec<&str> =
            text.lines().enumerate().filter(|(i, _)| *i != 1).map(|(_, line)| line).collect();
        std::fs::write(&path, without_second.join("\n") + "\n").unwrap();
        assert!(Journal::open(&path).is_err());
    }

    #[test]
    fn one_process_at_a_time_writes_and_others_read() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("j");
        let (mut journal, _) = Journal::open(&path).unwrap();
        journal.append(note("one")).unwrap();
        assert!(Journal::open(&path).is_err());
        assert!(Journal::is_at_work(&path));
        assert_eq!(Journal::read(&path).unwrap().len(), 1);
        drop(journal);
        assert!(!Journal::is_at_work(&path));
        assert!(Journal::open(&path).is_ok());
    }

    /// As `status` does, now and then.
    #[test]
    fn who_looks_for_a_moment_does_not_stop_who_begins() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("j");
        drop(Journal::open(&path).unwrap());
        let looking = File::open(&path).unwrap();
        flock(&looking, FlockOperation::NonBlockingLockShared).unwrap();
        let looked = std::thread::spawn(move || {
            std::thread::sleep(std::time::Duration::from_millis(60));
            drop(looking);
        });
        assert!(Journal::open(&path).is_ok());
        looked.join().unwrap();
    }

    /// Its process is gone, and a command of it is not.
    #[tokio::test]
    async fn who_goes_on_waits_for_what_is_left() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("j");
        let (mut journal, _) = Journal::open(&path).unwrap();
        journal.append(note("one")).unwrap();
        let left = journal.share_lock().unwrap();
        drop(journal);
        let why = Journal::open(&path).err().unwrap().to_string();
        assert!(why.contains("another process is at work") && !why.contains("attach"), "{why}");
        let run = Run::unattended();
        let over = async {
            tokio::time::sleep(Duration::from_millis(500)).await;
            drop(left);
        };
        let (opened, ()) = tokio::join!(Journal::open_after(&path, &run), over);
        let (_journal, records) = opened.unwrap();
        assert_eq!(records.len(), 1);
        run.cancel.cancel();
        assert!(matches!(Journal::open_after(&path, &run).await, Err(Error::Cancelled)));
    }

    #[test]
    fn passwords_do_not_get_in_and_others_may_not_look() {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("j");
        let (mut journal, _) = Journal::open(&path).unwrap();
        journal.append(note("refused by postgres://u:hunter2@h/d")).unwrap();
        let why = "connection to 'postgres://u:hunter2@h/d' lost".into();
        journal.append(Entry::Failed { step: "a".into(), why }).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(!text.contains("hunter2"), "{text}");
        assert_eq!(Journal::read(&path).unwrap().len(), 2);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    /// Where a password ends in a line of JSON is not where it ends in the string.
    #[test]
    fn whatever_a_server_says_is_read_again() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("j");
        let (mut journal, _) = Journal::open(&path).unwrap();
        let texts = [
            "password=hunter2",
            "ALTER ROLE u PASSWORD 'hunter2",
            "the end is password = 'hunter2\\' and \"more\"",
            "postgres://u:hunter2@h/d",
            "age-secret-key-1hunter2",
        ];
        let mut returned = Vec::new();
        for text in texts {
            let entry = Entry::Done { step: text.into(), facts: json!({"x": [text, {"why": text}]}) };
            returned.push(journal.append(entry).unwrap());
        }
        drop(journal);
        let (_, records) = Journal::open(&path).unwrap();
        assert_eq!(records, returned);
        assert!(!std::fs::read_to_string(&path).unwrap().contains("hunter2"));
    }

    /// A full disk: some bytes are written, and the call fails.
    fn tear(journal: &mut Journal) {
        journal.file.write_all(br#"{"number":2,"at":"#).unwrap();
        journal.is_torn = true;
    }

    #[test]
    fn what_a_failed_write_left_is_cut_off_before_the_next_record() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("j");
        let (mut journal, _) = Journal::open(&path).unwrap();
        journal.append(note("one")).unwrap();
        tear(&mut journal);
        journal.append(note("two")).unwrap();
        tear(&mut journal);
        // What could not be written when it was noted comes first.
        let (_, line) = journal.line(note("three")).unwrap();
        journal.owed.extend(line);
        journal.next += 1;
        journal.append(note("four")).unwrap();
        let whats: Vec<Entry> = Journal::read(&path).unwrap().into_iter().map(|record| record.entry).collect();
        assert_eq!(whats, ["one", "two", "three", "four"].map(note));
    }
}
