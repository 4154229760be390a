//! A migration is begun, gone on with, or taken back, at the servers that its journal knows.

use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use super::{Action, Anywhere, Move};
use crate::ops::Run;
use crate::runbook::database::{Databases, Identity};
use crate::runbook::heroku::Order;
use crate::runbook::journal::{Entry, Journal, Record};
use crate::runbook::lock::AppLock;
use crate::runbook::past::Past;
use crate::runbook::runner::{Ended, Policy, Runner};
use crate::runbook::step::{Confirm, facts};
use crate::runbook::{Error, Result};
use crate::runbook::{stop, watchdog};

/// What is asked of a migration between two servers.
pub struct Execution<'a> {
    pub journal: &'a Path,
    pub order: Order,
    pub confirm: &'a dyn Confirm,
    /// Between two looks.
    pub poll: Duration,
    /// The longest that the app may be down.
    pub budget: Duration,
    /// For tests: the journal takes so many records more.
    #[doc(hidden)]
    pub records_left: Option<u64>,
}

/// Begins a migration, goes on with it, or takes it back; and what its journal says then.
///
/// # Errors
/// Nothing was done: the journal is of another migration, the servers are not those it was begun with, or another process is at
/// work on it. What goes wrong later is the inner error, as of [`Runner::go`].
pub async fn execute(
    databases: &impl Databases,
    wanted: &Move,
    execution: &Execution<'_>,
    run: &Run,
) -> Result<(Result<Ended>, Past)> {
    let path = execution.journal;
    if execution.order != Order::Run && !path.exists() {
        return Err(Error::Usage(format!("there is no {}: nothing was begun", path.display())));
    }
    let provider = Anywhere { databases, wanted };
    if execution.order == Order::Abort {
        stop::ask(path, run).await?;
    }
    let (mut journal, mut records) = match execution.order {
        Order::Run => Journal::open(path)?,
        Order::Resume | Order::Abort | Order::CutOver => Journal::open_after(path, run).await?,
    };
    let run = &Run { cancel: run.cancel.child_token(), ..run.clone() };
    let _watch = stop::watch(path, &run.cancel);
    if let Some(left) = execution.records_left {
        journal.die_after(left);
    }
    if execution.order == Order::Run && is_untouched(&records, wanted) {
        journal.begin_anew()?;
        records.clear();
    }
    check_opened(records.first(), (wanted, execution.order), path)?;
    let past = Past::new(records.clone());
    if let (Order::Abort, Some(ended)) = (execution.order, Ended::of_taken_back(&past)) {
        return Ok((Ok(ended), past));
    }
    let (servers, is_new) = provider.check_servers(&records, execution.order, run).await?;
    let _locks = lock_servers(&servers, execution.order, run)?;
    if records.is_empty() {
        let (run, subject) = ("migrate".to_owned(), wanted.name.clone());
        records.push(journal.append(Entry::Opened { run, subject, plan_sha256: wanted.sha256() })?);
    } else {
        // Announces nothing: a full disk closes neither the way back nor the one forward.
        records.push(journal.note(Entry::Resumed {})?.0);
    }
    if is_new {
        let [source, target] = servers;
        records.push(journal.append(Entry::Servers { source: facts(&source)?, target: facts(&target)? })?);
    }
    let steps = wanted.steps();
    let policy = Policy {
        poll: execution.poll,
        budget: Some(execution.budget),
        confirm: execution.confirm,
        hold: false,
        undo_patience: Policy::UNDO_PATIENCE,
    };
    let mut runner = Runner { provider: &provider, steps: &steps, journal, past: Past::new(records), run, policy };
    let ended = match execution.order {
        Order::Abort => runner.abort("as was asked for").await,
        Order::Run | Order::Resume | Order::CutOver => match freeze_again(&mut runner).await {
            Ok(None) => runner.go().await,
            Ok(Some(ended)) => Ok(ended),
            Err(error) => Err(error),
        },
    };
    Ok((ended, runner.past))
}

/// What has ended this run may have started the app: a machine that comes up starts what is on it. `Some`: it could not be
/// stopped again, and everything was taken back.
async fn freeze_again<D: Databases>(runner: &mut Runner<'_, Anywhere<'_, D>>) -> Result<Option<Ended>> {
    let window = runner.open_window();
    let freeze = runner.steps.iter().find(|step| step.action == Action::Freeze);
    let Some(freeze) = freeze.filter(|freeze| window.is_some() && runner.past.done(&freeze.id).is_some()) else {
        return Ok(None);
    };
    if runner.past.aborting().is_some() {
        return Ok(None);
    }
    let (provider, lock) = (runner.provider, runner.journal.share_lock()?);
    let freezing = async {
        match provider.command(&provider.wanted.commands.freeze, runner.run).await {
            Ok(_) => Ok(None),
            Err(error) => runner.failed(freeze, error).await.map(Some),
        }
    };
    watchdog::holding(lock, Box::pin(freezing)).await
}

/// Two runs with a journal each would take turns at stopping the app, or drop what the other one has copied.
fn lock_servers(servers: &[Identity; 2], order: Order, run: &Run) -> Result<Vec<AppLock>> {
    let mut locks = Vec::new();
    for server in servers {
        match AppLock::take_database(server) {
            Ok(taken) => locks.extend(taken),
            Err(error) if order == Order::Abort && !matches!(error, Error::Refused(_)) => {
                run.events
                    .warn(format!("whether another process is at work on {} is not known: {error}", server.address));
            }
            Err(error) => return Err(error),
        }
    }
    Ok(locks)
}

/// Whether the run was refused at its first step, which only looks: nothing is lost with what was written down of it.
fn is_untouched(records: &[Record], wanted: &Move) -> bool {
    let steps = wanted.steps();
    let first = steps.first().map(|step| step.id.as_str());
    records.iter().all(|record| match &record.entry {
        Entry::Opened { .. } | Entry::Servers { .. } | Entry::Resumed {} => true,
        Entry::Intent { step, .. }
        | Entry::Called { step, .. }
        | Entry::Observed { step, .. }
        | Entry::Failed { step, .. } => Some(step.as_str()) == first,
        _ => false,
    })
}

fn check_opened(first: Option<&Record>, (wanted, order): (&Move, Order), path: &Path) -> Result<()> {
    match first.map(|record| &record.entry) {
        None => Ok(()),
        Some(_) if order == Order::Run => {
            Err(Error::Usage(format!("{} was begun already: --resume or --abort", path.display())))
        }
        Some(Entry::Opened { plan_sha256, .. }) if *plan_sha256 == wanted.sha256() => Ok(()),
        Some(_) => {
            Err(Error::Refused(format!("{} was begun with other commands, --no-fence or --managed", path.display())))
        }
    }
}

impl<D: Databases> Anywhere<'_, D> {
    /// Both servers, and whether they are new to the journal: where it knows them, they must be those.
    async fn check_servers(&self, records: &[Record], order: Order, run: &Run) -> Result<([Identity; 2], bool)> {
        let Some([source, target]) = known_servers(records)? else {
            if records.iter().any(|record| matches!(record.entry, Entry::Intent { .. })) {
                return Err(Error::Refused("the journal does not say at which servers it was begun".into()));
            }
            let (source, target) =
                (self.databases.identity(self.source()).await?, self.databases.identity(self.target()).await?);
            let is_told = source.server.system_identifier.is_some() || source.address == target.address;
            if source.server == target.server && is_told {
                return Err(Error::Usage("source and target are the same database".into()));
            }
            return Ok(([source, target], true));
        };
        for (side, known, at) in [("source", &source, self.source()), ("target", &target, self.target())] {
            let is_same = match self.databases.identity(at).await {
                Ok(now) => check_same(side, known, &now),
                Err(error) => Err(error),
            };
            match is_same {
                Ok(()) => {}
                // A server that is lost is a reason to go back, and must not keep anybody from it: least of all the target,
                // where nothing is to be taken back.
                Err(error) if order == Order::Abort && (side == "target" || error.is_passing()) => {
                    run.events.warn(format!("it is not known whether the {side} is {}: {error}", known.address));
                }
                Err(error) => return Err(error),
            }
        }
        Ok(([source, target], false))
    }
}

/// As the journal knows them.
pub(super) fn known_servers(records: &[Record]) -> Result<Option<[Identity; 2]>> {
    let known = records.iter().find_map(|record| match &record.entry {
        Entry::Servers { source, target } => Some([source, target]),
        _ => None,
    });
    let Some(known) = known else { return Ok(None) };
    let read = |value: &Value| serde_json::from_value(value.clone()).map_err(|e| Error::Internal(e.to_string()));
    Ok(Some([read(known[0])?, read(known[1])?]))
}

pub(super) fn check_same(side: &str, known: &Identity, now: &Identity) -> Result<()> {
    if known == now {
        return Ok(());
    }
    let (then, now_at) = (&known.server, &now.server);
    let what = if (&known.address, &known.user) != (&now.address, &now.user) {
        format!("it was {} at {}, and is {} at {}", known.user, known.address, now.user, now.address)
    } else if then.system_identifier != now_at.system_identifier {
        "another server answers at its address".into()
    } else {
        format!("database {} was {}, and is {}", then.database, then.database_oid, now_at.database_oid)
    };
    Err(Error::Refused(format!("this is not the {side} with which the journal was begun: {what}")))
}
