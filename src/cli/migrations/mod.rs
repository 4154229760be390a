//! `pgconvoy heroku` and `pgconvoy migrate`.

mod confirm;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use pgconvoy::cloud::ec2::Wanted;
use pgconvoy::cloud::heroku::{Credentials, Heroku, HttpTransport};
use pgconvoy::event::Event;
use pgconvoy::lab::heroku::{Setup, World};
use pgconvoy::model::Secret;
use pgconvoy::ops::{self, Run};
use pgconvoy::pg::ConnInfo;
use pgconvoy::pg::conninfo::ProcessEnv;
use pgconvoy::runbook::anywhere::{self, Commands, Move};
use pgconvoy::runbook::example::{Pretended, StandIn};
use pgconvoy::runbook::heroku::{
    Action, Execution, Kind, Measured, Order, Plan, ToPlan, Wishes, ask_to_stop, clean_up, execute, look, make_plan,
    measured, spent,
};
use pgconvoy::runbook::journal::Entry;
use pgconvoy::runbook::machines::MachineWish;
use pgconvoy::runbook::{
    AppLock, Confirm, Confirmed, Ended, Error, MigrationReport, Past, Policy, Result, Servers, Step, Words,
};

use super::args::{HerokuCommand, HerokuLookArgs, HerokuPlanArgs, HerokuRunArgs, MachineArgs, MigrateArgs};
use super::commands::{Outcome, block_on, outcome};
use super::report;
use super::signals::INTERRUPTED;
use super::text::Canvas;
use confirm::Typed;

/// Between two looks at a journal, and at things that Heroku is asked for.
const LOOK: Duration = Duration::from_millis(300);
const POLL: Duration = Duration::from_secs(1);
/// The exit code of a run that has moved nothing: it was taken back, or nobody has confirmed it.
const NOT_DONE: u8 = 1;

pub fn heroku(command: &HerokuCommand, run: &Run, canvas: &Canvas) -> ops::Result<Outcome> {
    match command {
        HerokuCommand::Plan(args) if args.example => {
            block_on(async { example(args, canvas).await.map_err(Error::into_ops) })
        }
        HerokuCommand::Plan(args) => block_on(async { plan(args, canvas).await.map_err(Error::into_ops) }),
        HerokuCommand::Rehearse(args) => ordered(args, Order::Run, true, (run, canvas)),
        HerokuCommand::Run(args) => ordered(args, Order::Run, false, (run, canvas)),
        HerokuCommand::Cutover(args) => ordered(args, Order::CutOver, false, (run, canvas)),
        HerokuCommand::Resume(args) => ordered(args, Order::Resume, false, (run, canvas)),
        HerokuCommand::Abort(args) => ordered(args, Order::Abort, false, (run, canvas)),
        HerokuCommand::Status(args) | HerokuCommand::Report(args) => status(args, canvas).map_err(Error::into_ops),
        HerokuCommand::Attach(args) => attach(args, run, canvas).map_err(Error::into_ops),
        HerokuCommand::Cleanup(args) => cleanup(args, run).map_err(Error::into_ops),
    }
}

fn connect() -> Result<Heroku> {
    let credentials = Credentials::from_env(|name| std::env::var(name).ok())?;
    Ok(Heroku::new(HttpTransport::new(&credentials)?))
}

/// For everything that changes something.
fn lock(app: &str) -> Result<AppLock> {
    let credentials = Credentials::from_env(|name| std::env::var(name).ok())?;
    AppLock::take(&credentials.platform, app)
}

async fn plan(args: &HerokuPlanArgs, canvas: &Canvas) -> Result<Outcome> {
    let heroku = connect()?;
    let app = args.app.clone().unwrap_or_default();
    let path = args.save.clone().unwrap_or_else(|| PathBuf::from(format!("{app}.plan")));
    let found = args.rehearsal.as_deref().map(|rehearsal| {
        let (of, _) = Plan::load(rehearsal)?;
        if (of.kind, of.app.app.as_str()) != (Kind::Rehearsal, app.as_str()) {
            return Err(Error::Usage(format!("{} is no rehearsal for {app}", rehearsal.display())));
        }
        measured(rehearsal)
            .ok_or_else(|| Error::Usage(format!("{} has not been rehearsed to its end", rehearsal.display())))
    });
    let run = format!("{:06x}", rand::random::<u32>() & 0x00ff_ffff);
    let (plan, refusals) = planned(&heroku, args, &app, (found.transpose()?, run)).await?;
    let text = report::migration_plan(&plan, &refusals, canvas);
    let document = serde_json::to_value(&plan).map_err(|error| Error::Internal(error.to_string()))?;
    if !refusals.is_empty() {
        let page = Outcome {
            text,
            event: "heroku_planned",
            document: Some(document),
            drawings: None,
            signed_text: None,
            exit_code: 1,
            kept: None,
        };
        return Ok(page);
    }
    plan.save(&path)?;
    let file = path.display();
    let text = format!(
        "{text}\nsaved as {file}; nothing was changed. Next:\n  pgconvoy heroku rehearse {file}\n  pgconvoy heroku run {file} --hold\n"
    );
    Ok(Outcome {
        text,
        event: "heroku_planned",
        document: Some(document),
        drawings: None,
        signed_text: None,
        exit_code: 0,
        kept: None,
    })
}

async fn planned(
    heroku: &Heroku,
    args: &HerokuPlanArgs,
    app: &str,
    (measured, run): (Option<Measured>, String),
) -> Result<(Plan, Vec<String>)> {
    let wishes = wishes(args);
    if wishes.still_s == 0 {
        return Err(Error::Usage("--still-for 0s proves nothing: give at least 1s".into()));
    }
    let to_plan = ToPlan { app, wishes, kind: Kind::Migration, measured, run };
    make_plan(heroku, &Servers::default(), to_plan).await
}

fn wishes(args: &HerokuPlanArgs) -> Wishes {
    Wishes {
        high_plan: args.high_plan.clone().unwrap_or_default(),
        final_plan: args.final_plan.clone().unwrap_or_default(),
        version: args.version,
        follower: !args.no_follower,
        jobs: args.jobs.jobs,
        budget_s: args.budget.0,
        hold_s: args.hold_time.0,
        release_is_harmless: args.release_is_harmless,
        other_names_are_unused: args.other_names_are_unused,
        still_s: args.still_for.0,
        poll_ms: args.poll_ms,
        elsewhere: args.on.clone(),
        machine: args.machine.ec2.then(|| machine(&args.machine)),
        keep_dump: args.keep_dump.clone(),
    }
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "at most a week")]
fn machine(args: &MachineArgs) -> MachineWish {
    let usual = MachineWish::default();
    let machine = Wanted {
        kinds: args.ec2_type.clone(),
        minutes: args.ec2_hours.map_or(usual.machine.minutes, |hours| (hours * 60.0).round() as u32),
        image: args.ec2_image.clone(),
        security_group: args.ec2_security_group.clone(),
        subnet: args.ec2_subnet.clone(),
        ssh_from: args.ssh_from.clone(),
        program: args.ec2_program.clone(),
        ..args.login.of_machine(usual.machine)
    };
    MachineWish { region: args.ec2_region.clone().unwrap_or_default(), machine }
}

/// The whole thing on an app that does not exist.
async fn example(args: &HerokuPlanArgs, canvas: &Canvas) -> Result<Outcome> {
    let world = Arc::new(World::new(Setup::default()));
    let (heroku, databases) = (Heroku::new(StandIn(Arc::clone(&world))), Pretended::new(world));
    let directory = tempfile::tempdir().map_err(|error| Error::Internal(error.to_string()))?;
    let path = directory.path().join("sphinx.plan");
    let mut wishes = Wishes { version: args.version.or(Some(17)), ..wishes(args) };
    // The whole of it, a machine too, unless another way was asked for.
    if wishes.elsewhere.is_none() {
        wishes.machine.get_or_insert_default();
    }
    let to_plan =
        |wishes| ToPlan { app: "sphinx", wishes, kind: Kind::Migration, measured: None, run: "a1b2c3".into() };
    let (plan, refusals) = make_plan(&heroku, &databases, to_plan(wishes.clone())).await?;
    // What is pretended need not be waited for.
    let hasty = Wishes { poll_ms: 0, still_s: 0, hold_s: 0, ..wishes };
    make_plan(&heroku, &databases, to_plan(hasty)).await?.0.save(&path)?;
    let execution = execution(&path, Order::Run, &Confirmed);
    let ended = execute(&heroku, &databases, &execution, &Run::unattended()).await?;
    let (_, past, _) = look(&path)?;
    let finished = reported(&plan, &past);
    let text = format!(
        "EXAMPLE: neither this app nor its databases exist, and nothing was asked of Heroku.\n\n{}\nThen it was pretended \
         to be run ({}):\n\n{}",
        report::migration_plan(&plan, &refusals, canvas),
        ended.sentence(),
        report::migration("sphinx", &finished, (false, Words::SUBCOMMANDS), canvas)
    );
    outcome("heroku_planned", text, &plan, 0).map_err(Error::Ops)
}

fn execution<'a>(plan: &'a Path, order: Order, confirm: &'a dyn Confirm) -> Execution<'a> {
    let undo_patience = Policy::UNDO_PATIENCE;
    Execution { plan, order, confirm, hold: false, undo_patience, records_left: None }
}

fn ordered(
    args: &HerokuRunArgs,
    order: Order,
    rehearsal: bool,
    (run, canvas): (&Run, &Canvas),
) -> ops::Result<Outcome> {
    block_on(async { executed(args, order, rehearsal, (run, canvas)).await.map_err(Error::into_ops) })
}

async fn executed(
    args: &HerokuRunArgs,
    mut order: Order,
    rehearsal: bool,
    (run, canvas): (&Run, &Canvas),
) -> Result<Outcome> {
    let mut path = args.plan.clone();
    let heroku = connect()?;
    if rehearsal {
        (path, order) = rehearsal_of(&heroku, &args.plan).await?;
    }
    let (plan, _) = Plan::load(&path)?;
    let confirm = Typed::new(&plan.app.app, args.yes_i_mean.as_deref(), &run.events)?;
    if order == Order::Abort {
        // Whoever is at work has the lock, until he has stopped.
        ask_to_stop(&path, run).await?;
    }
    let _lock = lock(&plan.app.app)?;
    let execution = Execution { hold: args.hold, ..execution(&path, order, &confirm) };
    let servers = Servers { pg_dump: None, elsewhere: plan.wishes.elsewhere.clone() };
    let ended = execute(&heroku, &servers, &execution, run).await;
    let (plan, past) = match look(&path) {
        Ok((plan, past, _)) => (plan, past),
        Err(error) => return Err(ended.err().unwrap_or(error)),
    };
    let report = reported(&plan, &past);
    if report.windows.iter().any(|window| !window.over) {
        let file = path.display();
        run.events.warn(format!(
            "THE APP IS DOWN: `pgconvoy heroku resume {file}` goes on, `pgconvoy heroku abort {file}` goes back"
        ));
    }
    let ended = ended?;
    let mut text = report::migration(&plan.app.app, &report, (false, Words::SUBCOMMANDS), canvas);
    text += "\n";
    text += &ended.sentence();
    text += "\n";
    if let Ended::Held { before, .. } = &ended {
        let order = if past.is_on_hold() || before.starts_with("freeze") { "cutover" } else { "resume" };
        text = format!("{text}next: pgconvoy heroku {order} {}\n", path.display());
    }
    if let (true, Some(measured)) = (ended == Ended::Finished && rehearsal, measured(&path)) {
        let (real, _) = Plan::load(&args.plan)?;
        text += &report::rehearsed(&real.estimated_by(&measured), &measured, canvas);
    }
    outcome("heroku_finished", text, &report, exit_code(&ended, run)).map_err(Error::Ops)
}

/// What a script may take for done is 0: also where it was asked to stop there, or where it is not time yet.
fn exit_code(ended: &Ended, run: &Run) -> u8 {
    match ended {
        Ended::Finished | Ended::Held { is_unconfirmed: false, .. } => 0,
        Ended::Aborted { .. } if run.cancel.is_cancelled() => INTERRUPTED,
        Ended::Held { .. } | Ended::Aborted { .. } => NOT_DONE,
    }
}

fn reported(plan: &Plan, past: &Past) -> MigrationReport {
    let now_ms = now_ms();
    let cost = Some(spent(plan, past, now_ms)).filter(|cost| !cost.items.is_empty());
    MigrationReport { cost, ..MigrationReport::new(&plan.steps, past, now_ms) }
}

/// The plan of a rehearsal stands beside the plan that is rehearsed; one that was not finished is gone on with.
async fn rehearsal_of(heroku: &Heroku, plan: &Path) -> Result<(PathBuf, Order)> {
    let path = plan.with_extension("rehearsal.plan");
    let (real, _) = Plan::load(plan)?;
    if real.kind == Kind::Rehearsal {
        return Err(Error::Usage(format!("{} is a rehearsal itself: go on with it by `resume`", plan.display())));
    }
    if path.exists() {
        let (rehearsal, past, _) = look(&path)?;
        if !rehearsal.rehearses(&real) {
            let (path, plan) = (path.display(), plan.display());
            return Err(Error::Refused(format!(
                "{path} is not the rehearsal of {plan}: move it away, and its journal"
            )));
        }
        let order = if past.records().is_empty() { Order::Run } else { Order::Resume };
        return Ok((path, order));
    }
    let (wishes, app) = (real.wishes.clone(), real.app.app.as_str());
    let to_plan = ToPlan { app, wishes, kind: Kind::Rehearsal, measured: None, run: real.run_of_rehearsal() };
    let (rehearsal, refusals) = make_plan(heroku, &Servers::default(), to_plan).await?;
    if !refusals.is_empty() {
        return Err(Error::Refused(refusals.join("; ")));
    }
    rehearsal.save(&path)?;
    Ok((path, Order::Run))
}

fn status(args: &HerokuLookArgs, canvas: &Canvas) -> Result<Outcome> {
    let (plan, past, at_work) = look(&args.plan)?;
    let report = reported(&plan, &past);
    let text = report::migration(&plan.app.app, &report, (at_work, Words::SUBCOMMANDS), canvas);
    outcome("heroku_status", text, &report, 0).map_err(Error::Ops)
}

/// Repeats what a run says, until it is not at work any more.
fn attach(args: &HerokuLookArgs, run: &Run, canvas: &Canvas) -> Result<Outcome> {
    let mut seen = 0;
    loop {
        let (plan, past, at_work) = look(&args.plan)?;
        for record in &past.records()[seen.min(past.records().len())..] {
            repeat(&plan.steps, &record.entry, run);
        }
        seen = past.records().len();
        if !at_work || run.cancel.is_cancelled() {
            return status(args, canvas);
        }
        std::thread::sleep(LOOK);
    }
}

fn repeat(steps: &[Step<Action>], entry: &Entry, run: &Run) {
    let title =
        |id: &str| steps.iter().find(|step| step.id == id).map_or_else(|| id.to_owned(), |step| step.title.clone());
    let what = match entry {
        Entry::Intent { step, attempt, .. } if *attempt > 1 => format!("{} (attempt {attempt})", title(step)),
        Entry::Intent { step, .. } => title(step),
        Entry::Observed { step, what } => format!("{}: {what}", title(step)),
        Entry::Done { step, .. } => format!("{}: done", title(step)),
        Entry::Failed { step, why } => return run.events.warn(format!("{}: {why}", title(step))),
        Entry::Aborting { why, .. } => return run.events.warn(format!("going back to what was before: {why}")),
        Entry::Undone { what, .. } => format!("taken back: {what}"),
        Entry::Forward { why, .. } => return run.events.warn(format!("going forward after all: {why}")),
        Entry::Held { gate } => format!("held before `{gate}`"),
        Entry::Opened { .. }
        | Entry::Servers { .. }
        | Entry::Resumed {}
        | Entry::Called { .. }
        | Entry::Confirmed { .. }
        | Entry::Hold {}
        | Entry::CutOver {}
        | Entry::Aborted { .. }
        | Entry::Removed { .. }
        | Entry::Finished {} => return,
    };
    run.events.send(Event::Doing { what });
}

fn cleanup(args: &HerokuRunArgs, run: &Run) -> Result<Outcome> {
    let heroku = connect()?;
    let (plan, _) = Plan::load(&args.plan)?;
    let confirm = Typed::new(&plan.app.app, args.yes_i_mean.as_deref(), &run.events)?;
    let _lock = lock(&plan.app.app)?;
    let gone = clean_up(&heroku, &Servers::default(), &args.plan, &confirm)?;
    let text = if gone.is_empty() {
        "nothing is left of this run".to_owned()
    } else {
        format!("destroyed: {}", gone.join(", "))
    };
    outcome("heroku_cleaned", text + "\n", &gone, 0).map_err(Error::Ops)
}

pub fn migrate(args: &MigrateArgs, run: &Run, canvas: &Canvas) -> ops::Result<Outcome> {
    block_on(async { migrated(args, run, canvas).await.map_err(Error::into_ops) })
}

async fn migrated(args: &MigrateArgs, run: &Run, canvas: &Canvas) -> Result<Outcome> {
    let wanted = wanted(args)?;
    let confirm = Typed::new(&wanted.name, args.yes_i_mean.as_deref(), &run.events)?;
    let servers = Servers { pg_dump: args.pg_dump.clone(), elsewhere: None };
    let execution = anywhere::Execution {
        journal: &args.journal,
        order: match (args.resume, args.abort) {
            (_, true) => Order::Abort,
            (true, _) => Order::Resume,
            _ => Order::Run,
        },
        confirm: &confirm,
        poll: POLL,
        budget: Duration::from_secs(args.budget.0),
        records_left: None,
    };
    let (ended, past) = anywhere::execute(&servers, &wanted, &execution, run).await?;
    let report = MigrationReport::new(&wanted.steps(), &past, now_ms());
    if report.windows.iter().any(|window| !window.over) {
        run.events.warn("THE APP IS DOWN: the same command with --resume goes on, with --abort goes back");
    }
    let ended = ended?;
    let fence = if wanted.fence && ended == Ended::Finished {
        let by_hand = wanted.unfence_by_hand();
        format!("the source stays read only: whoever still leads there is told. To take that away:\n  {by_hand}\n")
    } else {
        String::new()
    };
    let page = report::migration(&wanted.name, &report, (false, Words::OPTIONS), canvas);
    let text = format!("{page}\n{}\n{fence}", ended.sentence());
    outcome("migrate_finished", text, &report, exit_code(&ended, run)).map_err(Error::Ops)
}

fn wanted(args: &MigrateArgs) -> Result<Move> {
    let given = |given: Option<&super::args::Conninfo>, variable: &str| {
        let from_variable = || std::env::var(variable).ok().filter(|value| !value.is_empty());
        given.map(|conninfo| conninfo.0.clone()).or_else(from_variable)
    };
    let source =
        given(args.source.as_ref(), "PGCONVOY_SOURCE").ok_or_else(|| Error::Usage("--source is missing".into()))?;
    let target =
        given(args.target.as_ref(), "PGCONVOY_TARGET").ok_or_else(|| Error::Usage("--target is missing".into()))?;
    let name = ConnInfo::resolve(pgconvoy::model::Side::Source, Some(&source), &ProcessEnv)?.dbname().to_owned();
    Ok(Move {
        source: Secret::new(source),
        target: Secret::new(target),
        name,
        commands: Commands {
            freeze: args.freeze.clone(),
            thaw: args.thaw.clone(),
            switch: args.switch.clone(),
            unswitch: args.unswitch.clone(),
        },
        fence: !args.no_fence,
        jobs: args.jobs.jobs,
        still_s: args.still_for.0,
        command_limit_s: args.command_limit.0,
        managed: args.managed,
    })
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| u64::try_from(now.as_millis()).unwrap_or(u64::MAX))
}
