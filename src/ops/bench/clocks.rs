//! The CPU time of servers, from the operating system.

use rustix::process::Pid;

use crate::lab::{parent_of, server_cpu_ms};
use crate::ops::machine;
use crate::ops::server::Server;

/// The postmasters of the servers that run on this machine.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Clocks {
    source: Option<Pid>,
    target: Option<Pid>,
}

/// CPU time since the servers' starts, in ms; or between two such moments.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct ServersCpu {
    pub source_ms: Option<u64>,
    pub target_ms: Option<u64>,
}

impl Clocks {
    /// The backend of a control connection leads to its postmaster, if that backend is a process here.
    pub fn find(source: &Server, target: &Server) -> Self {
        let postmaster = |server: &Server| {
            let pid = server.facts.backend_pid;
            let is_here = server.conninfo.is_local() && machine::runs_backend(pid);
            is_here.then(|| parent_of(pid)).flatten()
        };
        Self { source: postmaster(source), target: postmaster(target) }
    }

    /// What cannot be seen, in words.
    pub fn notes(self) -> Vec<String> {
        let unseen = |side: &str| format!("the {side} does not run on this machine: its CPU time cannot be seen");
        let mut notes = Vec::new();
        if self.source.is_none() {
            notes.push(unseen("source"));
        }
        if self.target.is_none() {
            notes.push(unseen("target"));
        }
        if self.are_one() {
            notes.push("source and target are one server: its CPU time is shown as the source's".into());
        }
        notes
    }

    fn are_one(self) -> bool {
        self.source.is_some() && self.source == self.target
    }

    pub fn now(self) -> ServersCpu {
        let target = if self.are_one() { None } else { self.target };
        ServersCpu { source_ms: self.source.map(server_cpu_ms), target_ms: target.map(server_cpu_ms) }
    }

    pub fn since(self, before: ServersCpu) -> ServersCpu {
        let now = self.now();
        let between = |now: Option<u64>, before: Option<u64>| Some(now?.saturating_sub(before?));
        ServersCpu {
            source_ms: between(now.source_ms, before.source_ms),
            target_ms: between(now.target_ms, before.target_ms),
        }
    }

    /// Both postmasters, where both can be seen.
    pub fn both(self) -> Option<(Pid, Pid)> {
        Some((self.source?, self.target?))
    }
}
