//! The writing end of the manifest.

use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};

use super::crypt::Output;
use super::disk::StoredFile;
use super::manifest::{encode_line, hex};
use super::record::{Record, Sealed, Totals};
use crate::archive::Result;

/// How long records may wait for their fsync. Less is lost in a power failure than the dump that it ended.
const SYNC_INTERVAL: Duration = Duration::from_secs(1);

/// The manifest being written. Lines are whole or the log is dead: after one failed write or fsync nothing
/// more is written, because what the file holds is not known.
#[derive(Debug)]
pub(super) struct ManifestLog {
    state: Mutex<State>,
    synced: Condvar,
}

#[derive(Debug)]
struct State {
    out: Output,
    sha256: Sha256,
    written_bytes: u64,
    synced_bytes: u64,
    syncing: bool,
    last_sync: Instant,
    /// The error that ended it: its number, if it has one, and its words.
    dead: Option<(Option<i32>, String)>,
}

impl State {
    fn alive(&self) -> io::Result<()> {
        match &self.dead {
            None => Ok(()),
            Some((Some(number), _)) => Err(io::Error::from_raw_os_error(*number)),
            Some((None, words)) => Err(io::Error::other(words.clone())),
        }
    }

    fn die(&mut self, error: &io::Error) {
        self.dead.get_or_insert_with(|| (error.raw_os_error(), error.to_string()));
    }

    fn append(&mut self, line: &[u8]) -> io::Result<()> {
        self.alive()?;
        self.out.write_all(line).inspect_err(|e| self.die(e))?;
        self.sha256.update(line);
        self.written_bytes += line.len() as u64;
        Ok(())
    }
}

impl ManifestLog {
    pub(super) fn new(out: Output) -> Self {
        Self::writing(out, Sha256::new(), 0)
    }

    /// Goes on behind so many bytes of this hash, which are durable. The file's position is there.
    pub(super) fn behind(file: StoredFile, sha256: Sha256, written_bytes: u64) -> Self {
        Self::writing(Output::plain(file), sha256, written_bytes)
    }

    fn writing(out: Output, sha256: Sha256, written_bytes: u64) -> Self {
        let state = State {
            out,
            sha256,
            written_bytes,
            synced_bytes: written_bytes,
            syncing: false,
            last_sync: Instant::now(),
            dead: None,
        };
        Self { state: Mutex::new(state), synced: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Appends a record. Durable after the next [`sync`](Self::sync). `failed` makes the error.
    pub(super) fn append(&self, record: &Record, failed: impl Fn(io::Error) -> crate::archive::Error) -> Result<()> {
        let line = encode_line(record)?;
        self.lock().append(&line).map_err(failed)
    }

    /// Syncs if the last time is a while ago.
    pub(super) fn sync_sometimes(&self) -> io::Result<()> {
        let due = {
            let state = self.lock();
            !state.syncing && state.last_sync.elapsed() >= SYNC_INTERVAL
        };
        if due { self.sync() } else { Ok(()) }
    }

    /// Makes everything appended so far durable. One thread syncs for all that wait.
    pub(super) fn sync(&self) -> io::Result<()> {
        let mut state = self.lock();
        let wanted = state.written_bytes;
        loop {
            state.alive()?;
            if state.synced_bytes >= wanted {
                return Ok(());
            }
            if state.syncing {
                state = self.synced.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            state.syncing = true;
            let (file, reached) = (Arc::clone(&state.out.file), state.written_bytes);
            drop(state);
            let result = file.sync_data();
            state = self.lock();
            state.syncing = false;
            state.last_sync = Instant::now();
            match &result {
                Ok(()) => state.synced_bytes = reached,
                Err(e) => state.die(e),
            }
            self.synced.notify_all();
        }
    }

    /// Appends the seal over everything before it and makes it durable.
    pub(super) fn seal(&self, totals: Totals, failed: impl Fn(io::Error) -> crate::archive::Error) -> Result<()> {
        // Whoever finds the seal relies on all before it.
        self.sync().map_err(&failed)?;
        {
            let mut state = self.lock();
            let manifest_sha256 = hex(&state.sha256.clone().finalize());
            let line = encode_line(&Record::Sealed(Box::new(Sealed { totals, manifest_sha256 })))?;
            state.append(&line).map_err(&failed)?;
            state.out.close().inspect_err(|e| state.dead = Some((e.raw_os_error(), e.to_string()))).map_err(&failed)?;
        }
        self.sync().map_err(failed)
    }
}
