//! Machines that nobody runs, with jobs that move nothing, for the example and for tests.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;

use super::Result;
use super::example::{BYTES, ROWS, State};
use super::machines::{MachineWish, Machines};
use crate::cloud::ssh::{self, Job, JobState, Watch};
use crate::cloud::{Place, Standing, place};
use crate::lab::heroku::World;
use crate::pg::ConnInfo;
use crate::pg::conninfo::ProcessEnv;
use crate::report::seal_document;

/// Machines by name: what was made stays known when it has ended.
#[derive(Clone)]
pub struct PretendedFleet {
    world: Arc<World>,
    databases: Arc<Mutex<State>>,
    machines: Arc<Mutex<BTreeMap<String, Pretence>>>,
    hangs: Arc<AtomicBool>,
    breaks: Arc<AtomicU32>,
    is_unseen: Arc<AtomicBool>,
    has_no_key: Arc<AtomicBool>,
}

/// A machine.
#[derive(Clone, Debug, Default)]
pub struct Pretence {
    pub has_ended: bool,
    /// It has ended so long ago that its provider does not know it any more.
    pub is_forgotten: bool,
    /// What each job has said, and its exit code.
    pub jobs: BTreeMap<String, (Vec<String>, u8)>,
    /// Jobs that were started.
    pub starts: u32,
    /// When it ends itself, in minutes from now; `None`: in a week.
    pub minutes_left: Option<u32>,
}

struct PretendedMachine {
    fleet: PretendedFleet,
    name: String,
    kind: String,
}

impl PretendedFleet {
    /// How long a look takes that sees nothing.
    pub const UNSEEN_FOR: Duration = Duration::from_secs(30);

    pub(super) fn new(world: Arc<World>, databases: Arc<Mutex<State>>) -> Self {
        Self {
            world,
            databases,
            machines: Arc::default(),
            hangs: Arc::default(),
            breaks: Arc::default(),
            is_unseen: Arc::default(),
            has_no_key: Arc::default(),
        }
    }

    fn machines(&self) -> MutexGuard<'_, BTreeMap<String, Pretence>> {
        self.machines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Every machine that there was.
    pub fn all(&self) -> BTreeMap<String, Pretence> {
        self.machines().clone()
    }

    /// From now on jobs that move or compare rows come to no end.
    pub fn hang(&self) {
        self.hangs.store(true, Ordering::SeqCst);
    }

    /// So many times the connection breaks while a restore is watched, which goes on.
    pub fn break_restores(&self, times: u32) {
        self.breaks.store(times, Ordering::SeqCst);
    }

    /// From now on a look while the app is down takes [`Self::UNSEEN_FOR`], whatever is called off, and sees nothing.
    pub fn hang_looks(&self) {
        self.is_unseen.store(true, Ordering::SeqCst);
    }

    /// Whether there are keys to ask with.
    pub fn take_keys(&self, are_taken: bool) {
        self.has_no_key.store(are_taken, Ordering::SeqCst);
    }

    /// A machine has so many minutes left.
    pub fn age(&self, name: &str, minutes_left: u32) {
        if let Some(machine) = self.machines().get_mut(name) {
            machine.minutes_left = Some(minutes_left);
        }
    }

    /// A machine dies, with all that is on it.
    pub fn kill(&self, name: &str) {
        if let Some(machine) = self.machines().get_mut(name) {
            machine.has_ended = true;
        }
    }

    /// A machine dies, and an hour goes by: nobody knows it any more, but its name has had its machine.
    pub fn forget(&self, name: &str) {
        if let Some(machine) = self.machines().get_mut(name) {
            (machine.has_ended, machine.is_forgotten) = (true, true);
        }
    }

    /// There is a machine again of a name that has had one.
    pub fn revive(&self, name: &str) {
        if let Some(machine) = self.machines().get_mut(name) {
            (machine.has_ended, machine.is_forgotten) = (false, false);
        }
    }

    /// What a job says, and how it ends.
    fn work(&self, job: &Job) -> (Vec<String>, u8) {
        let verb = job.arguments.first().map(String::as_str).unwrap_or_default();
        let address = |name: &str| job.environment.iter().find(|(of, _)| of == name).map(|(_, url)| url.expose());
        let (source, target) = (address("PGCONVOY_SOURCE"), address("PGCONVOY_TARGET"));
        let name = target.and_then(|url| {
            self.world.with(|world| world.addons.iter().find(|addon| addon.url == url).map(|addon| addon.name.clone()))
        });
        if let (true, Some(name)) = (matches!(verb, "copy" | "restore"), name) {
            let mut state = self.databases.lock().unwrap_or_else(PoisonError::into_inner);
            let is_whole = state.copies_to_fail == 0;
            state.copies_to_fail = state.copies_to_fail.saturating_sub(1);
            state.filled.insert(name, is_whole);
            if !is_whole {
                return (vec![json!({ "event": "error", "message": "a restore that fails" }).to_string()], 4);
            }
        }
        let sides = [("source", source), ("target", target)];
        let servers: Vec<Value> = sides
            .into_iter()
            .filter_map(|(side, url)| {
                let conninfo = ConnInfo::resolve(crate::model::Side::Source, Some(url?), &ProcessEnv).ok()?;
                Some(json!({ "side": side, "address": conninfo.address() }))
            })
            .collect();
        (vec![json!({ "event": "warning", "message": "pretended" }).to_string(), report(verb, &servers).to_string()], 0)
    }
}

fn report(verb: &str, servers: &[Value]) -> Value {
    match verb {
        "preflight" => json!({ "event": "preflight_finished", "report": { "servers": servers, "findings": [] } }),
        "verify" => {
            let table = json!({ "name": { "schema": "public", "name": "events" }, "reference_rows": ROWS,
                "target_rows": ROWS, "reference_hash": "5a", "target_hash": "5a" });
            let mut report = json!({ "verdict": "equal", "servers": servers, "elapsed_ms": 540_000, "counted_only": 0,
                "sequences": 12, "definitions": { "objects": 231 }, "differences": [], "tables": [table] });
            seal_document(&mut report);
            json!({ "event": "verify_finished", "report": report })
        }
        _ => json!({ "event": "run_finished", "report": { "operation": verb, "servers": servers,
            "elapsed_ms": if verb == "copy" { 1_560_000 } else { 780_000 }, "skipped": [], "damage": [],
            "tables": [{ "rows": ROWS, "copy_bytes": BYTES }] } }),
    }
}

impl Machines for PretendedFleet {
    fn place(&self, name: &str, wish: &MachineWish, _cancel: CancellationToken) -> Result<Box<dyn Place>> {
        if self.has_no_key.load(Ordering::SeqCst) {
            return Err(super::Error::Usage("there is no key of AWS".into()));
        }
        let kind = wish.machine.kinds.first().cloned().unwrap_or_default();
        Ok(Box::new(PretendedMachine { fleet: self.clone(), name: name.to_owned(), kind }))
    }
}

impl PretendedMachine {
    fn gone(&self) -> crate::cloud::ec2::Error {
        crate::cloud::ec2::Error::NotThere { run: self.name.clone(), region: "nowhere".into() }
    }
}

impl Place for PretendedMachine {
    fn describe(&self) -> String {
        self.kind.clone()
    }

    fn up(&self, tell: &mut dyn FnMut(&str)) -> place::Result<()> {
        let mut machines = self.fleet.machines();
        let machine = machines.entry(self.name.clone()).or_default();
        if machine.has_ended {
            return Err(crate::cloud::ec2::Error::Usage(format!("the run {} has had its machine", self.name)));
        }
        tell("it is pretended to run");
        Ok(())
    }

    fn look(&self) -> place::Result<Standing> {
        let begun = Instant::now();
        while self.fleet.is_unseen.load(Ordering::SeqCst) && self.fleet.world.with(|world| world.maintenance) {
            if begun.elapsed() > PretendedFleet::UNSEEN_FOR {
                return Err(self.gone());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(match self.fleet.machines().get(&self.name) {
            None => Standing::Nowhere,
            Some(machine) if machine.is_forgotten => Standing::Nowhere,
            Some(machine) if machine.has_ended => Standing::Ended,
            Some(machine) => {
                let left =
                    machine.minutes_left.map_or(time::Duration::days(7), |left| time::Duration::minutes(left.into()));
                let until = Some(OffsetDateTime::now_utc() + left);
                Standing::Ready { kind: self.kind.clone(), until }
            }
        })
    }

    fn extend(&self, minutes: u32) -> place::Result<()> {
        let mut machines = self.fleet.machines();
        machines.get_mut(&self.name).ok_or_else(|| self.gone())?.minutes_left = Some(minutes);
        Ok(())
    }

    fn run(&self, job: &Job, watch: &Watch, on_line: &mut dyn FnMut(&str)) -> place::Result<u8> {
        let is_long = job.arguments.first().is_some_and(|verb| verb != "preflight");
        while is_long && self.fleet.hangs.load(Ordering::SeqCst) {
            if watch.cancel.is_cancelled() {
                return Err(ssh::Error::Detached(job.id.clone()).into());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        let known = {
            let machines = self.fleet.machines();
            let machine = machines.get(&self.name).filter(|machine| !machine.has_ended).ok_or_else(|| self.gone())?;
            machine.jobs.get(&job.id).cloned()
        };
        let (lines, code) = if let Some(known) = known {
            known
        } else {
            let done = self.fleet.work(job);
            let mut machines = self.fleet.machines();
            let machine = machines.entry(self.name.clone()).or_default();
            machine.starts += 1;
            machine.jobs.insert(job.id.clone(), done.clone());
            done
        };
        let is_restore = job.arguments.first().is_some_and(|verb| verb == "restore");
        let one_less = |left: u32| left.checked_sub(1);
        if is_restore && self.fleet.breaks.fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_less).is_ok() {
            return Err(ssh::Error::Connection { host: self.name.clone(), said: "timed out".into() }.into());
        }
        for line in &lines {
            on_line(line);
        }
        Ok(code)
    }

    fn job_state(&self, id: &str) -> place::Result<JobState> {
        let machines = self.fleet.machines();
        let job = machines.get(&self.name).ok_or_else(|| self.gone())?.jobs.get(id);
        Ok(job.map_or(JobState::Unknown, |(_, exit_code)| JobState::Ended { exit_code: *exit_code }))
    }

    fn stop(&self, id: &str) -> place::Result<()> {
        Err(ssh::Error::NoJob(id.to_owned()).into())
    }

    fn down(&self, _tell: &mut dyn FnMut(&str)) -> place::Result<()> {
        self.fleet.kill(&self.name);
        Ok(())
    }
}
