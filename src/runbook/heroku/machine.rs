//! The machine that rows pass through: made before the app goes down, found again, used by jobs, ended.
//!
//! Invariants: a machine is announced in the journal before it is asked for, by the name under which it is found again; a job is
//! started once, whoever asks how often, and what it has done stands in the report that it writes.

use serde_json::{Value, json};
use time::OffsetDateTime;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::provider::{Located, OnHeroku};
use super::steps::{Action, HOUR};
use crate::cloud::ssh::{Job, Watch};
use crate::cloud::{Place, Standing};
use crate::event::Event;
use crate::model::Side;
use crate::ops::Run;
use crate::pg::ConnInfo;
use crate::pg::conninfo::ProcessEnv;
use crate::runbook::database::{Copied, Databases, Filled, HowToCopy};
use crate::runbook::journal::Entry;
use crate::runbook::machines::MachineWish;
use crate::runbook::past::Past;
use crate::runbook::reported::{Listener, Reported};
use crate::runbook::servers::{copy_arguments, preflight_arguments, verify_arguments, words};
use crate::runbook::step::{Seen, Step, facts};
use crate::runbook::{Error, Result};

/// So often a restore from a dump that is kept is gone on with: the source is not needed for it.
const RESTORES_MAX: u32 = 3;
/// So many names on end that nobody has heard of are beyond the last machine: EC2 forgets one about an hour after its end,
/// so that a name may be forgotten before a later one.
const LOOKED_AHEAD: usize = 3;

impl<D: Databases> OnHeroku<'_, D> {
    /// Whether rows pass through a machine of the run's own.
    pub(super) fn has_machine(&self) -> bool {
        self.plan.wishes.machine.is_some()
    }

    fn wish(&self) -> Result<&MachineWish> {
        self.plan.wishes.machine.as_ref().ok_or_else(|| Error::Internal("the plan has no machine".into()))
    }

    fn place(&self, name: &str, cancel: CancellationToken) -> Result<Box<dyn Place>> {
        let machines = self.databases.machines();
        let machines = machines.ok_or_else(|| Error::Usage("no machine can be had here".into()))?;
        machines.place(name, self.wish()?, cancel)
    }

    /// The machine that is used now, or that will be: EC2 gives one machine for a name, ever, so that one that has ended has a
    /// successor of a later name.
    async fn machine(&self, past: &Past, cancel: &CancellationToken) -> Result<String> {
        let known = announced_machines(past);
        let Some(last) = known.last() else { return Ok(self.plan.run.clone()) };
        if !is_over(past, last, &self.look_until(last, cancel).await?) {
            return Ok(last.clone());
        }
        let (mut number, mut free) = (known.len(), Vec::new());
        while free.len() < LOOKED_AHEAD {
            number += 1;
            let name = self.machine_number(number);
            match self.look_until(&name, cancel).await? {
                standing if is_over(past, &name, &standing) => free.clear(),
                Standing::Nowhere => free.push(name),
                _ => return Ok(name),
            }
        }
        Ok(free.swap_remove(0))
    }

    fn machine_number(&self, number: usize) -> String {
        format!("{}-{number}", self.plan.run)
    }

    /// The name under which a machine is asked for.
    pub(super) fn intended_machine(&self, past: &Past) -> Value {
        // Where it cannot be seen now, asking for it under its name does no harm.
        let last = || announced_machines(past).pop().unwrap_or_else(|| self.plan.run.clone());
        let cancel = CancellationToken::new();
        let machine = tokio::task::block_in_place(|| Handle::current().block_on(self.machine(past, &cancel)));
        json!({ "machine": machine.unwrap_or_else(|_| last()) })
    }

    /// Asks for a machine that nobody has made: whoever may not ask learns it before anything costs money.
    pub(super) fn check_machine(&self) -> Result<()> {
        if self.has_machine() { self.look(&self.plan.run).map(drop) } else { Ok(()) }
    }

    fn look(&self, name: &str) -> Result<Standing> {
        let place = self.place(name, CancellationToken::new())?;
        Ok(tokio::task::block_in_place(|| place.look())?)
    }

    /// On a thread of its own: a budget that is used up must be noticed meanwhile. What is called off may look on; that
    /// changes nothing.
    async fn look_until(&self, name: &str, cancel: &CancellationToken) -> Result<Standing> {
        let place = self.place(name, cancel.clone())?;
        let looking = tokio::task::spawn_blocking(move || place.look());
        tokio::select! {
            seen = looking => Ok(seen.map_err(|error| Error::Internal(format!("a look at {name}: {error}")))??),
            () = cancel.cancelled() => Err(Error::Cancelled),
        }
    }

    /// Done: it is there. Once it was seen to, its time may run.
    pub(super) fn see_machine(&self, step: &Step<Action>, past: &Past) -> Result<Seen> {
        if let Some(facts) = past.done(&step.id) {
            return Ok(Seen::Done(facts.clone()));
        }
        let Some(name) = announced_machines(past).pop() else { return Ok(Seen::ToDo) };
        // One that the run has ended is not made use of again.
        if is_gone(past, &name) {
            return Ok(Seen::ToDo);
        }
        let Standing::Ready { kind, .. } = self.look(&name)? else { return Ok(Seen::ToDo) };
        let cents_per_hour = self.wish()?.cents_per_hour_of(&kind);
        Ok(Seen::Done(json!({ "machine": name, "kind": kind, "cents_per_hour": cents_per_hour })))
    }

    /// Under the name that was announced.
    pub(super) fn machine_up(&self, step: &Step<Action>, past: &Past, run: &Run) -> Result<Value> {
        let announced = past.intent(&step.id).and_then(|note| note["machine"].as_str());
        let name = announced.ok_or_else(|| Error::Internal("a machine that was not announced".into()))?;
        self.bring_up(name, 0, run)?;
        Ok(json!({ "machine": name }))
    }

    /// For a run that was held for long: there is a machine, and it lives for longer than the app may be down.
    async fn ensure_machine(&self, past: &Past, run: &Run) -> Result<()> {
        let (name, live_s) = (self.machine(past, &run.cancel).await?, self.plan.wishes.budget_s + HOUR);
        match self.look_until(&name, &run.cancel).await? {
            Standing::Ready { until, .. } if !ends_before(until, live_s) => Ok(()),
            _ => self.bring_up(&name, live_s, run),
        }
    }

    fn bring_up(&self, name: &str, live_s: u64, run: &Run) -> Result<()> {
        let (place, wished) = (self.place(name, run.cancel.clone())?, self.wish()?.machine.minutes);
        let mut tell = |what: &str| run.events.send(Event::Doing { what: what.to_owned() });
        tokio::task::block_in_place(|| {
            place.up(&mut tell)?;
            // What lives for long enough is left alone, so that a plan's end stands.
            if let Standing::Ready { until, .. } = place.look()?
                && ends_before(until, live_s)
            {
                let needed = u32::try_from(live_s.div_ceil(60)).unwrap_or(u32::MAX).saturating_add(60);
                place.extend(if until.is_none() { needed.max(wished) } else { needed })?;
            }
            Ok(())
        })
    }

    pub(super) fn see_machines_gone(past: &Past) -> Seen {
        let left = machines_left(past);
        if left.is_empty() { Seen::Done(Value::Null) } else { Seen::ToDo }
    }

    /// Ends them, proven by EC2's own word: each that can be ended, also where another cannot.
    pub(super) fn end_machines(&self, past: &Past, tell: &mut dyn FnMut(&str)) -> Result<Vec<String>> {
        let (mut ended, mut failed) = (Vec::new(), None);
        let mut end = |names: Vec<String>| {
            for name in names {
                let place = self.place(&name, CancellationToken::new());
                match place.and_then(|place| Ok(tokio::task::block_in_place(|| place.down(tell))?)) {
                    Ok(()) => ended.push(name),
                    Err(error) => failed = failed.take().or(Some(error)),
                }
            }
        };
        end(machines_left(past));
        // Afterwards: what is known is ended, whether or not others can be looked for.
        end(self.machines_unrecorded(past)?);
        failed.map_or(Ok(ended), Err)
    }

    /// Machines that are there though no record says so: what has taken another's place when it was looked again is
    /// announced nowhere, and what has ended may have been made anew.
    fn machines_unrecorded(&self, past: &Past) -> Result<Vec<String>> {
        let (known, mut there) = (announced_machines(past), Vec::new());
        for name in known.iter().filter(|name| is_gone(past, name)) {
            if is_alive(&self.look(name)?) {
                there.push(name.clone());
            }
        }
        let (mut number, mut missing) = (1, if known.is_empty() { LOOKED_AHEAD } else { 0 });
        while missing < LOOKED_AHEAD {
            number += 1;
            let name = self.machine_number(number);
            if known.contains(&name) {
                missing = 0;
                continue;
            }
            let (standing, is_gone) = (self.look(&name)?, is_gone(past, &name));
            missing = if standing == Standing::Nowhere && !is_gone { missing + 1 } else { 0 };
            // What has ended by itself leaves a key and a firewall behind.
            if is_alive(&standing) || standing == Standing::Ended && !is_gone {
                there.push(name);
            }
        }
        Ok(there)
    }

    pub(super) async fn preflight_there(&self, act: Act<'_>, ends: Ends<'_>) -> Result<Value> {
        // Asked anew, days later, it is another job.
        let id = if act.past.done(&act.step.id).is_none() {
            job_id(act)
        } else {
            self.ensure_machine(act.past, act.run).await?;
            format!("preflight-again-{}", act.past.records().len())
        };
        let arguments = preflight_arguments(self.how(false));
        match self.job(act, &id, arguments, ends).await?.preflight() {
            // Named, so that another try is another job.
            Err(Error::Refused(why)) => Err(Error::Refused(format!("{why} (job {id} )"))),
            other => other.map(|()| Value::Null),
        }
    }

    pub(super) async fn copy_there(&self, act: Act<'_>, ends: Ends<'_>) -> Result<Value> {
        let again = has_failed(act) && self.filled(ends.target).await? != Filled::Empty;
        let arguments = copy_arguments(self.how(again));
        facts(&self.job(act, &job_id(act), arguments, ends).await?.copied("copy")?)
    }

    pub(super) async fn verify_there(&self, act: Act<'_>, ends: Ends<'_>) -> Result<Value> {
        let arguments = verify_arguments(self.how(false));
        facts(&self.job(act, &job_id(act), arguments, ends).await?.verified()?)
    }

    async fn filled(&self, at: Option<&Located>) -> Result<Filled> {
        let at = at.ok_or_else(|| Error::Internal("a job without a target".into()))?;
        self.databases.filled(at.at()).await
    }

    /// The dump that a restore reads, with what it came to.
    pub(super) async fn dump(&self, act: Act<'_>, from: &Located) -> Result<Value> {
        let directory = self.plan.wishes.keep_dump.as_deref().unwrap_or(".");
        let id = job_id(act);
        let copied = if self.has_machine() {
            let archive = format!("{directory}/{}-{id}.convoy", self.plan.run);
            let arguments = words(&["dump", &archive], HowToCopy { heroku: false, ..self.how(false) }, &[]);
            let copied =
                self.job(act, &id, arguments, Ends { source: Some(from), target: None }).await?.copied("dump")?;
            (archive, copied)
        } else {
            // What an attempt has left that was killed is no dump, and takes room.
            let of = |attempt: u32| format!("{directory}/{}-{id}-{attempt}.convoy", self.plan.run);
            let attempts = act.past.attempts(&act.step.id).max(1);
            for unfinished in (1..attempts).map(of) {
                let _ = std::fs::remove_dir_all(unfinished);
            }
            let archive = of(attempts);
            let copied =
                self.databases.dump(from.at(), std::path::Path::new(&archive), self.how(false), act.run).await?;
            (archive, copied)
        };
        let (archive, copied) = copied;
        let mut note = facts(&copied)?;
        note["archive"] = archive.into();
        Ok(note)
    }

    /// From the dump that is kept: what fails half-way is gone on with, and the source is not asked again.
    pub(super) async fn restore(&self, act: Act<'_>, to: &Located) -> Result<Value> {
        let archive = act.past.done("dump").and_then(|note| note["archive"].as_str());
        let archive = archive.ok_or_else(|| Error::Internal("no dump is there".into()))?;
        let mut tries = 0;
        loop {
            tries += 1;
            let begin = match self.databases.filled(to.at()).await? {
                Filled::Empty => Begin::Anew,
                // What was stopped before its schema was there cannot be gone on with.
                _ if tries == RESTORES_MAX => Begin::Over,
                _ => Begin::WhereItStopped,
            };
            let restored = self.restore_once(act, (archive, to), (tries, begin)).await;
            match restored {
                Ok(copied) => return facts(&copied),
                // What passes says nothing about the job: it may be at work, and the next act finds it by its name.
                Err(error)
                    if tries >= RESTORES_MAX
                        || error.is_passing()
                        || matches!(error, Error::Cancelled | Error::Refused(_)) =>
                {
                    return Err(error);
                }
                Err(error) => {
                    act.run.events.warn(format!("the restore failed, and is tried again from the dump: {error}"));
                }
            }
        }
    }

    async fn restore_once(
        &self,
        act: Act<'_>,
        (archive, to): (&str, &Located),
        (tries, begin): (u32, Begin),
    ) -> Result<Copied> {
        if !self.has_machine() {
            let how = (self.how(begin == Begin::Over), begin == Begin::WhereItStopped);
            return self.databases.restore(std::path::Path::new(archive), to.at(), how, act.run).await;
        }
        let id = format!("{}-try{tries}", job_id(act));
        let arguments = words(&["restore", archive], self.how(false), begin.words());
        self.job(act, &id, arguments, Ends { source: None, target: Some(to) }).await?.copied("restore")
    }

    /// Starts the job on the run's machine, or finds it, and listens to all that it says.
    async fn job(&self, act: Act<'_>, id: &str, arguments: Vec<String>, ends: Ends<'_>) -> Result<Reported> {
        let Act { past, run, .. } = act;
        let name = self.machine(past, &run.cancel).await?;
        let place = self.place(&name, run.cancel.clone())?;
        let command = format!("job {id} of pgconvoy {} on {name}", arguments.join(" "));
        let (mut environment, mut expected) = (Vec::new(), Vec::new());
        for (variable, side, located) in
            [("PGCONVOY_SOURCE", Side::Source, ends.source), ("PGCONVOY_TARGET", Side::Target, ends.target)]
        {
            let Some(located) = located else { continue };
            environment.push((variable.to_owned(), located.url.clone()));
            let word = if side == Side::Source { "source" } else { "target" };
            expected.push((word, ConnInfo::resolve(side, Some(located.url.expose()), &ProcessEnv)?.address()));
        }
        let arguments = arguments.into_iter().chain(["--progress".into(), "json".into()]).collect();
        let job = Job { id: id.to_owned(), arguments, environment };
        run.events.send(Event::Note {
            message: format!("on {name}, as the job {id}: it goes on without us, and is found again"),
        });
        let mut listener = Listener::new(&command, &run.events);
        let watch = Watch::new(run.cancel.clone());
        // On a thread of its own: a budget that is used up must be noticed meanwhile.
        let (tell, mut lines) = mpsc::unbounded_channel();
        let working = tokio::task::spawn_blocking(move || {
            place.run(&job, &watch, &mut |line| {
                // Who does not listen any more does not want to know.
                let _ = tell.send(line.to_owned());
            })
        });
        while let Some(line) = lines.recv().await {
            listener.line(&line);
        }
        let code = working.await.map_err(|error| Error::Internal(format!("the job's watcher: {error}")))??;
        let reported = listener.ended(Some(i32::from(code)))?;
        reported.is_about(&expected)?;
        Ok(reported)
    }
}

/// How a restore begins.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Begin {
    Anew,
    WhereItStopped,
    /// What is there is dropped before.
    Over,
}

impl Begin {
    fn words(self) -> &'static [&'static str] {
        match self {
            Self::Anew => &[],
            Self::WhereItStopped => &["--resume"],
            Self::Over => &["--drop-target-objects"],
        }
    }
}

/// What is done, and what was done before.
#[derive(Clone, Copy)]
pub(super) struct Act<'a> {
    pub step: &'a Step<Action>,
    pub past: &'a Past,
    pub run: &'a Run,
}

/// The databases of a job.
#[derive(Clone, Copy)]
pub(super) struct Ends<'a> {
    pub source: Option<&'a Located>,
    pub target: Option<&'a Located>,
}

impl<'a> Ends<'a> {
    pub fn both(source: &'a Located, target: &'a Located) -> Self {
        Self { source: Some(source), target: Some(target) }
    }
}

/// What a machine is called where things are named.
pub(super) fn machine_word(name: &str) -> String {
    format!("machine {name}")
}

/// The names of all machines that were announced, the oldest first.
fn announced_machines(past: &Past) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for name in past.announced().filter_map(|(_, note)| note["machine"].as_str()) {
        if !names.iter().any(|known| known == name) {
            names.push(name.to_owned());
        }
    }
    names
}

/// Machines of this run whose end the journal does not know.
pub(super) fn machines_left(past: &Past) -> Vec<String> {
    announced_machines(past).into_iter().filter(|name| !is_gone(past, name)).collect()
}

/// Whether the journal says that it has ended.
pub(super) fn is_gone(past: &Past, name: &str) -> bool {
    past.records().iter().any(|record| match &record.entry {
        Entry::Called { note, .. } => {
            note["ended"].as_array().into_iter().flatten().any(|gone| gone.as_str() == Some(name))
        }
        Entry::Removed { what } => *what == machine_word(name),
        _ => false,
    })
}

/// Whether the name has had its machine.
fn is_over(past: &Past, name: &str, standing: &Standing) -> bool {
    match standing {
        Standing::Ended => true,
        Standing::Nowhere => is_gone(past, name) || has_been_there(past, name),
        Standing::Coming | Standing::Ready { .. } => is_gone(past, name),
    }
}

/// Whether the journal says that it was made, not only asked for.
fn has_been_there(past: &Past, name: &str) -> bool {
    past.records().iter().any(|record| match &record.entry {
        Entry::Called { note, .. } | Entry::Done { facts: note, .. } => note["machine"] == name,
        _ => false,
    })
}

fn is_alive(standing: &Standing) -> bool {
    matches!(standing, Standing::Coming | Standing::Ready { .. })
}

/// Whether a machine may end itself before so many seconds are over.
fn ends_before(until: Option<OffsetDateTime>, live_s: u64) -> bool {
    let live = time::Duration::seconds(i64::try_from(live_s).unwrap_or(i64::MAX));
    until.is_none_or(|until| until - OffsetDateTime::now_utc() < live)
}

/// The same until the journal says that the job of that name has failed: a run that is killed finds its job again.
fn job_id(act: Act<'_>) -> String {
    let mut failures = 1;
    loop {
        let id = format!("{}-{}-{failures}", act.step.id, act.past.aborts(1) + 1);
        if !has_job_failed(act, &id) {
            return id;
        }
        failures += 1;
    }
}

fn has_failed(act: Act<'_>) -> bool {
    !job_id(act).ends_with("-1")
}

fn has_job_failed(act: Act<'_>, id: &str) -> bool {
    let named = [format!("job {id} "), format!("job {id}-try")];
    act.past.records().iter().any(|record| match &record.entry {
        Entry::Failed { step, why } => *step == act.step.id && named.iter().any(|name| why.contains(name)),
        _ => false,
    })
}
