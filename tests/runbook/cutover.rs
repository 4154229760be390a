//! The way to the point of no return and back: nothing is lost, nobody is kept down, nothing is done without being asked for.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use pgconvoy::lab::heroku::{Fault, FaultKind, Happening, Setup};
use pgconvoy::ops::Run;
use pgconvoy::runbook::heroku::{Execution, Kind, Order, ToPlan, clean_up, execute, make_plan};
use pgconvoy::runbook::journal::Entry;
use pgconvoy::runbook::{Answer, Confirm, Confirmed, Ended, Error, Gate, Journal, Policy, Result};
use tokio_util::sync::CancellationToken;

use crate::fixture::{self, ORIGINAL, wishes};
use crate::writer::{Case, Trouble};

const NEW: &str = "pgconvoy-t1-new";

/// Killed after the first record that is wanted.
async fn killed_when(wanted: impl Fn(&Entry) -> bool) -> Case {
    let whole = Case::new(Trouble::None).await;
    whole.execute(Order::Run, None).await.unwrap();
    let records = Journal::read(&whole.plan.with_extension("journal")).unwrap();
    let number = records.iter().find(|record| wanted(&record.entry)).unwrap().number;
    let case = Case::new(Trouble::None).await;
    assert!(matches!(case.execute(Order::Run, Some(number)).await, Err(Error::Killed)));
    case
}

fn is_promoted(entry: &Entry) -> bool {
    matches!(entry, Entry::Done { step, .. } if step == "promote")
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_new_database_was_given_is_not_thrown_away() {
    let case = killed_when(is_promoted).await;
    case.app.sneak(NEW);
    let refused = case.execute(Order::Abort, None).await.unwrap_err().to_string();
    assert!(refused.contains("up on its new database") && refused.contains("would lose"), "{refused}");
    assert_eq!(case.holder(), NEW);
    case.assert_nothing_is_lost("forward");
    assert_eq!(case.execute(Order::Resume, None).await.unwrap(), Ended::Finished);
    case.assert_migrated("resumed");
}

/// Says neither yes nor no.
struct Nobody;

impl Confirm for Nobody {
    fn confirm(&self, _: &Gate) -> Result<Answer> {
        Ok(Answer::Hold)
    }
}

async fn abort_with_nobody_to_ask(case: &Case) -> Result<Ended> {
    let (plan, order, undo_patience) = (&case.plan, Order::Abort, Policy::UNDO_PATIENCE);
    let execution = Execution { plan, order, confirm: &Nobody, hold: false, undo_patience, records_left: None };
    execute(&case.heroku, &case.databases, &execution, &Run::unattended()).await
}

/// Where there is only the way forward, nobody is asked which: the app would stay down.
#[tokio::test(flavor = "multi_thread")]
async fn going_forward_after_all_asks_nobody() {
    let case = killed_when(|entry| matches!(entry, Entry::Called { step, .. } if step == "promote")).await;
    case.app.sneak(NEW);
    let refused = abort_with_nobody_to_ask(&case).await.unwrap_err().to_string();
    assert!(refused.contains("up on its new database"), "{refused}");
    case.assert_nothing_is_lost("forward");
}

/// Going forward, a release that fails is released once more: there is no other way.
#[tokio::test(flavor = "multi_thread")]
async fn going_forward_after_all_releases_once_more() {
    let mut setup = Setup { release_polls: 1, ..Setup::default() };
    setup.formation.push(("release".into(), 0, "Standard-1X".into()));
    let wishes = || pgconvoy::runbook::heroku::Wishes { release_is_harmless: true, ..wishes() };
    let of = || Case::of(setup.clone(), Trouble::None, wishes());
    let whole = of().await;
    whole.execute(Order::Run, None).await.unwrap();
    let records = Journal::read(&whole.plan.with_extension("journal")).unwrap();
    let asked = records.iter().find(|r| matches!(&r.entry, Entry::Intent { step, .. } if step == "promote")).unwrap();
    let case = of().await;
    case.app.world.with(|world| world.releases_to_fail = 1);
    assert!(matches!(case.execute(Order::Run, Some(asked.number + 1)).await, Err(Error::Killed)));
    case.app.sneak(NEW);
    let refused = abort_with_nobody_to_ask(&case).await.unwrap_err().to_string();
    assert!(refused.contains("up on its new database"), "{refused}");
    case.assert_nothing_is_lost("released once more");
}

/// The journal is of yesterday, or somebody has promoted by hand.
#[tokio::test(flavor = "multi_thread")]
async fn the_fence_stays_where_somebody_else_has_led_the_app_elsewhere() {
    let case = killed_when(|entry| matches!(entry, Entry::Intent { step, .. } if step == "copy")).await;
    let body = serde_json::json!({ "addon": { "name": NEW }, "app": { "name": "sphinx" }, "confirm": "sphinx", "name": "DATABASE" });
    let _ = case.app.world.handle("POST", "/addon-attachments", &body);
    assert_eq!(case.holder(), NEW);
    let refused = case.execute(Order::Abort, None).await.unwrap_err().to_string();
    assert!(refused.contains("somebody else was at work"), "{refused}");
    assert!(case.app.databases.is_fenced(ORIGINAL));
}

/// What was asked for without an answer may be done when everything was taken back: it is looked at once more.
#[tokio::test(flavor = "multi_thread")]
async fn what_may_still_come_is_looked_for_when_the_app_is_up() {
    let case = killed_when(|entry| matches!(entry, Entry::Intent { step, .. } if step == "scale-down")).await;
    assert!(matches!(case.execute(Order::Abort, None).await.unwrap(), Ended::Aborted { window: 1, .. }));
    let log =
        case.app.world.with(|world| world.log.iter().map(|l| format!("{} {}", l.method, l.path)).collect::<Vec<_>>());
    let up = log.iter().rposition(|line| line == "PATCH /apps/sphinx").unwrap();
    // Once because something was taken back, and once more for what may come late.
    let looks = log[up..].iter().filter(|line| *line == "GET /apps/sphinx/formation").count();
    assert_eq!(looks, 2, "{:?}", &log[up..]);
}

/// Killed at each record of the way forward, it goes on with that.
#[tokio::test(flavor = "multi_thread")]
async fn going_forward_after_all_survives_kills() {
    for records in 1..14 {
        let case = killed_when(is_promoted).await;
        case.app.sneak(NEW);
        let _ = case.execute(Order::Abort, Some(records)).await;
        // It says that the app is up on its new database, where it goes on with the abort; or it finishes.
        let on = case.execute(Order::Resume, None).await;
        assert!(matches!(&on, Ok(Ended::Finished) | Err(Error::Refused(_))), "{records}: {on:?}");
        case.assert_nothing_is_lost("forward");
        assert_eq!(case.execute(Order::Resume, None).await.unwrap(), Ended::Finished, "{records}");
        case.assert_migrated("resumed");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn where_both_were_written_to_nobody_decides() {
    let case = killed_when(is_promoted).await;
    case.app.sneak(NEW);
    case.app.sneak(ORIGINAL);
    let refused = case.execute(Order::Abort, None).await.unwrap_err().to_string();
    assert!(refused.contains("both") && refused.contains("not as it was yet"), "{refused}");
    assert!(case.app.databases.is_fenced(NEW) && case.app.databases.is_fenced(ORIGINAL));
}

/// Dynos begin with what was last released well: they are started only when that is the database that they are to use.
#[tokio::test(flavor = "multi_thread")]
async fn dynos_are_started_when_their_release_has_succeeded() {
    for (trouble, has_process) in
        [(Trouble::None, true), (Trouble::None, false), (Trouble::SneakOld, true), (Trouble::SneakOld, false)]
    {
        let mut setup = Setup { release_polls: 4, ..Setup::default() };
        if has_process {
            setup.formation.push(("release".into(), 0, "Standard-1X".into()));
        }
        let wishes = pgconvoy::runbook::heroku::Wishes { release_is_harmless: true, ..wishes() };
        let case = Case::of(setup, trouble, wishes).await;
        let (app, starts, is_new) = (Arc::downgrade(&case.app), Arc::new(AtomicU32::new(0)), AtomicBool::new(false));
        let counted = Arc::clone(&starts);
        case.app.world.listen(move |happening| {
            let app = app.upgrade().unwrap();
            let sneaks =
                trouble == Trouble::SneakOld && matches!(happening, Happening::Promoted { addon } if addon == NEW);
            if sneaks && !is_new.swap(true, Ordering::SeqCst) {
                app.sneak(ORIGINAL);
            }
            let (is_up, running, holder) = app.world.with(|world| {
                let is_up = world.formation[0].quantity > 0;
                (is_up, world.running_database().to_owned(), world.attached("DATABASE").unwrap().name.clone())
            });
            if *happening == Happening::Scaled && is_up {
                assert_eq!(running, holder, "{trouble:?}");
                counted.fetch_add(1, Ordering::SeqCst);
            }
        });
        let ended = case.execute(Order::Run, None).await.unwrap();
        assert_eq!(matches!(ended, Ended::Aborted { window: 1, .. }), trouble == Trouble::SneakOld, "{ended:?}");
        assert!(starts.load(Ordering::SeqCst) > 0);
        case.assert_nothing_is_lost("ended");
    }
}

/// A release process that came after the plan was made counts: the formation that was recorded last has it.
#[tokio::test(flavor = "multi_thread")]
async fn a_release_process_of_last_night_is_waited_for() {
    let wishes = pgconvoy::runbook::heroku::Wishes { release_is_harmless: true, ..wishes() };
    let case = fixture::Case::with(Setup { release_polls: 2, ..Setup::default() }, wishes, Kind::Migration).await;
    case.execute_with(Order::Run, None, &Confirmed, true).await.unwrap();
    case.world.with(|world| {
        let mut release = world.formation[1].clone();
        (release.kind, release.quantity) = ("release".into(), 0);
        world.formation.push(release);
        world.releases_to_fail = 1;
    });
    let ended = case.execute(Order::CutOver).await.unwrap();
    let Ended::Aborted { window: 1, why } = ended else { panic!("{ended:?}") };
    assert!(why.contains("release process has failed"), "{why}");
    assert_eq!(case.attached("DATABASE"), ORIGINAL);
    assert_eq!(case.world.with(|world| world.running_database().to_owned()), ORIGINAL);
}

/// Heroku promotes while nobody waits for its answers any more: it is seen before the old database can be written to.
#[tokio::test(flavor = "multi_thread")]
async fn a_late_promotion_is_waited_for_before_the_app_is_up() {
    let wishes = pgconvoy::runbook::heroku::Wishes { still_s: 1, ..wishes() };
    let case = fixture::Case::with(Setup::default(), wishes, Kind::Migration).await;
    // Of six attempts the last one alone is carried out, three requests after it.
    case.world.fail(Fault {
        method: "POST",
        path: "/addon-attachments".into(),
        kind: FaultKind::LostRequest,
        after: 0,
        times: 5,
    });
    case.world.fail(Fault {
        method: "POST",
        path: "/addon-attachments".into(),
        kind: FaultKind::Late(9),
        after: 0,
        times: 1,
    });
    let seen = Arc::new(Mutex::new(Vec::new()));
    let heard = Arc::clone(&seen);
    case.world.listen(move |happening| heard.lock().unwrap().push(happening.clone()));
    let ended = case.execute(Order::Run).await.unwrap();
    assert!(matches!(ended, Ended::Aborted { window: 1, .. }), "{ended:?}");
    case.assert_as_it_was();
    let seen = seen.lock().unwrap();
    let at = |wanted: &Happening| seen.iter().position(|happening| happening == wanted).unwrap();
    let promoted = |addon: &str| at(&Happening::Promoted { addon: addon.into() });
    assert!(promoted(NEW) < promoted(ORIGINAL) && promoted(ORIGINAL) < at(&Happening::Maintenance(false)), "{seen:?}");
}

fn attach_to_another_app(case: &fixture::Case) -> usize {
    case.world.with(|world| {
        let mut foreign = world.attachments[0].clone();
        (foreign.app, foreign.id) = ("reports".into(), "x".into());
        world.attachments.push(foreign);
        world.attachments.len() - 1
    })
}

/// A guard that said no before the app went down does not use up the budget of downtime.
#[tokio::test(flavor = "multi_thread")]
async fn the_budget_counts_from_when_the_app_goes_down() {
    let mut wishes = wishes();
    wishes.budget_s = 2;
    let case = fixture::Case::with(Setup::default(), wishes, Kind::Migration).await;
    case.execute_with(Order::Run, None, &Confirmed, true).await.unwrap();
    let foreign = attach_to_another_app(&case);
    assert!(case.execute(Order::CutOver).await.is_err());
    case.world.with(|world| world.attachments.remove(foreign));
    tokio::time::sleep(Duration::from_millis(2100)).await;
    assert_eq!(case.execute(Order::Resume).await.unwrap(), Ended::Finished);
}

/// Nobody answers at `promote`.
struct Absent;

impl Confirm for Absent {
    fn confirm(&self, _gate: &Gate) -> Result<Answer> {
        Ok(Answer::Yes)
    }

    fn confirm_until(&self, gate: &Gate, until: Option<Instant>, cancel: &CancellationToken) -> Result<Answer> {
        assert_eq!(until.is_some(), gate.name == "promote", "{}", gate.name);
        assert!(!cancel.is_cancelled());
        let Some(until) = until else { return Ok(Answer::Yes) };
        tokio::task::block_in_place(|| std::thread::sleep(until.saturating_duration_since(Instant::now())));
        Ok(Answer::Hold)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_asked_for_longer_than_the_budget() {
    let mut wishes = wishes();
    wishes.budget_s = 1;
    let case = fixture::Case::with(Setup::default(), wishes, Kind::Migration).await;
    let ended = case.execute_with(Order::Run, None, &Absent, false).await.unwrap();
    let Ended::Aborted { window: 1, why } = ended else { panic!("{ended:?}") };
    assert!(why.contains("budget"), "{why}");
    case.assert_as_it_was();
}

/// Ctrl-C when the app is on its way up, or just before: it ends up, on one database or the other.
#[tokio::test(flavor = "multi_thread")]
async fn ctrl_c_does_not_keep_the_app_down() {
    for (at, expected) in [("scaled", NEW), ("promoted", ORIGINAL)] {
        let case = Case::new(Trouble::None).await;
        let run = Run::unattended();
        let (cancel, world) = (run.cancel.clone(), Arc::downgrade(&case.app.world));
        case.app.world.listen(move |happening| {
            let is_up = || world.upgrade().unwrap().with(|world| world.formation[0].quantity > 0);
            match happening {
                Happening::Promoted { .. } if at == "promoted" => cancel.cancel(),
                Happening::Scaled if at == "scaled" && is_up() => cancel.cancel(),
                _ => {}
            }
        });
        let ended = case.execute_by(Order::Run, None, &run).await;
        match at {
            "scaled" => assert!(matches!(ended, Err(Error::Cancelled)), "{ended:?}"),
            _ => assert!(matches!(ended, Ok(Ended::Aborted { window: 1, .. })), "{ended:?}"),
        }
        assert_eq!(case.holder(), expected);
        case.assert_nothing_is_lost(at);
    }
}

/// What Heroku says no to once it may allow a moment later: nobody gives up while the app is down.
#[tokio::test(flavor = "multi_thread")]
async fn taking_back_is_not_given_up_at_the_first_refusal() {
    for (path, after) in [("/apps/sphinx/formation", 1), ("/apps/sphinx", 2)] {
        let case = fixture::Case::new().await;
        case.databases.fail_copies(1);
        case.world.fail(Fault { method: "PATCH", path: path.into(), kind: FaultKind::Status(422), after, times: 3 });
        let ended = case.execute(Order::Run).await.unwrap();
        assert!(matches!(ended, Ended::Aborted { window: 1, .. }), "{ended:?}");
        case.assert_as_it_was();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_taken_back_is_named_and_tried_again() {
    let case = fixture::Case::new().await;
    case.databases.fail_copies(1);
    case.world.fail(Fault {
        method: "PATCH",
        path: "/formation".into(),
        kind: FaultKind::Status(422),
        after: 1,
        times: 9,
    });
    let given_up = case.execute_with_patience(Order::Run, Duration::ZERO).await.unwrap_err().to_string();
    assert!(given_up.contains("heroku ps:scale web=3") && given_up.contains("maintenance off"), "{given_up}");
    assert!(!case.databases.is_fenced(ORIGINAL), "what could be taken back was");
    assert!(matches!(case.execute(Order::Abort).await.unwrap(), Ended::Aborted { window: 1, .. }));
    case.assert_as_it_was();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_ends_too_soon_keeps_the_app_up() {
    let case = fixture::Case::new().await;
    // The budget is ten minutes, the way back half an hour.
    case.world.with(|world| world.key_expires_s = Some(2399));
    let refused = case.execute(Order::Run).await.unwrap_err().to_string();
    assert!(refused.contains("HEROKU_API_KEY") && !refused.contains("stand-in-key"), "{refused}");
    assert!(!case.world.with(|world| world.log.iter().any(|l| l.method == "PATCH")));
    case.world.with(|world| world.key_expires_s = Some(2500));
    assert_eq!(case.execute(Order::Resume).await.unwrap(), Ended::Finished);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_without_its_proofs_is_refused() {
    for step in ["verify", "still-same", "seal-new", "fence"] {
        let case = fixture::Case::new().await;
        let mut plan: serde_json::Value = serde_json::from_slice(&std::fs::read(&case.plan).unwrap()).unwrap();
        let steps = plan["steps"].as_array_mut().unwrap();
        let before = steps.len();
        steps.retain(|of| of["id"] != step);
        assert_eq!(steps.len(), before - 1);
        std::fs::write(&case.plan, plan.to_string()).unwrap();
        let refused = case.execute(Order::Run).await.unwrap_err().to_string();
        assert!(refused.contains("make a new plan"), "{refused}");
        assert_eq!(case.addons(), [ORIGINAL]);
    }
}

/// Days after it was made ready, something of it is not any more: the app stays up.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_made_ready_is_looked_at_again_before_the_app_goes_down() {
    type Change = fn(&fixture::Case);
    let changes: [(&str, Change); 3] = [
        ("undone", |case| case.world.with(|world| world.addons.retain(|addon| addon.name != NEW))),
        ("does not follow", |case| {
            case.world.with(|world| world.addons.iter_mut().for_each(|addon| addon.follows = None));
        }),
        ("not empty", |case| case.databases.fill(NEW)),
    ];
    for (said, change) in changes {
        let case = fixture::Case::new().await;
        case.execute_with(Order::Run, None, &Confirmed, true).await.unwrap();
        change(&case);
        let refused = case.execute(Order::CutOver).await.unwrap_err().to_string();
        assert!(refused.contains(said), "{said}: {refused}");
        assert!(!case.world.with(|world| world.log.iter().any(|l| l.method == "PATCH")), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_held_stays_held_over_kills_and_aborts_until_it_is_told_to_cut_over() {
    let is_held = |ended: &Ended| matches!(ended, Ended::Held { before, .. } if before == "freeze");
    for records in 3..10 {
        let case = fixture::Case::new().await;
        let killed = case.execute_with(Order::Run, Some(records), &Confirmed, true).await;
        assert!(matches!(killed, Err(Error::Killed)), "{killed:?}");
        for _ in 0..2 {
            let held = case.execute(Order::Resume).await.unwrap();
            assert!(is_held(&held), "{records}: {held:?}");
        }
        case.assert_as_it_was();
        case.databases.fail_copies(1);
        assert!(matches!(case.execute(Order::CutOver).await.unwrap(), Ended::Aborted { .. }));
        assert!(is_held(&case.execute(Order::Resume).await.unwrap()));
        assert_eq!(case.execute(Order::CutOver).await.unwrap(), Ended::Finished);
        case.assert_migrated();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn plans_that_cannot_work_are_not_made() {
    let case = fixture::Case::new().await;
    for (high, last, said) in [
        ("standard-5", "essential-0", "no followers"),
        ("essential-0", "standard-0", "no followers"),
        ("standard-0", "standard-0", "a disk of"),
        ("standard-5", "standard-99", "offers no plan"),
    ] {
        let wishes = pgconvoy::runbook::heroku::Wishes { high_plan: high.into(), final_plan: last.into(), ..wishes() };
        let to_plan = ToPlan { app: "sphinx", wishes, kind: Kind::Migration, measured: None, run: "t2".into() };
        let refused = make_plan(&case.heroku, &case.databases, to_plan).await.unwrap_err().to_string();
        assert!(refused.contains(said), "{said}: {refused}");
    }
}

/// After the second window was taken back, what it had made can go, and the run can go on all the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_second_window_that_was_taken_back_is_cleaned_up() {
    let case = Case::new(Trouble::NotPromoted(2)).await;
    assert!(matches!(case.execute(Order::Run, None).await.unwrap(), Ended::Aborted { window: 2, .. }));
    let gone = clean_up(&case.heroku, &case.databases, &case.plan, &Confirmed).unwrap();
    assert_eq!(gone.len(), 2, "{gone:?}");
    let left = case.app.world.with(|world| world.addons.iter().map(|addon| addon.name.clone()).collect::<Vec<_>>());
    assert_eq!(left, [ORIGINAL, NEW]);
    case.assert_nothing_is_lost("cleaned up");
    assert_eq!(case.execute(Order::Resume, None).await.unwrap(), Ended::Finished);
    case.assert_migrated("resumed");
}

/// What was asked at gates.
struct Heard(Mutex<Vec<Gate>>);

impl Confirm for Heard {
    fn confirm(&self, gate: &Gate) -> Result<Answer> {
        self.0.lock().unwrap().push(gate.clone());
        Ok(Answer::Yes)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_asked_about_is_what_is_there_after_an_abort() {
    let case = fixture::Case::new().await;
    case.databases.fail_copies(1);
    assert!(matches!(case.execute(Order::Run).await.unwrap(), Ended::Aborted { .. }));
    let heard = Heard(Mutex::default());
    assert_eq!(case.execute_with(Order::Resume, None, &heard, false).await.unwrap(), Ended::Finished);
    let heard = heard.0.into_inner().unwrap();
    let text = |gate: &str| heard.iter().find(|heard| heard.name == gate).unwrap().text.clone();
    assert!(text("promote").contains("pgconvoy-t1-new-2"), "{}", text("promote"));
    let destroyed = text("destroy");
    for name in ["pgconvoy-t1-dump,", "pgconvoy-t1-dump-2", "pgconvoy-t1-new,", "pgconvoy-t1-new-2", ORIGINAL] {
        assert!(destroyed.contains(name), "{name}: {destroyed}");
    }
    assert!(!destroyed.contains("final"), "{destroyed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn old_databases_can_be_kept_for_ever() {
    let mut wishes = wishes();
    wishes.hold_s = u64::MAX / 10;
    let case = fixture::Case::with(Setup::default(), wishes, Kind::Migration).await;
    let held = case.execute(Order::Run).await.unwrap();
    assert!(matches!(held, Ended::Held { ref before, .. } if before == "hold"), "{held:?}");
}

/// `abort` from another terminal: the process that is at work takes back, and both say so.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn abort_stops_a_run_that_is_at_work() {
    let mut wishes = wishes();
    wishes.poll_ms = 20;
    let case = Arc::new(fixture::Case::with(Setup::default(), wishes, Kind::Migration).await);
    case.world.with(|world| world.one_off_dynos.push("run.1234".into()));
    let running = Arc::clone(&case);
    let runner = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        runtime.block_on(running.execute(Order::Run))
    });
    let journal = case.plan.with_extension("journal");
    let deadline = Instant::now() + Duration::from_secs(60);
    while !std::fs::read_to_string(&journal).unwrap_or_default().contains("run.1234") {
        assert!(Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let aborted = case.execute(Order::Abort).await.unwrap();
    assert!(matches!(aborted, Ended::Aborted { window: 1, .. }), "{aborted:?}");
    let ran = runner.join().unwrap().unwrap();
    assert!(matches!(ran, Ended::Aborted { window: 1, .. }), "{ran:?}");
    case.assert_as_it_was();
    assert!(!case.plan.with_extension("stop").exists());
    // What was asked then is not asked of those who come later.
    case.world.with(|world| world.one_off_dynos.clear());
    assert_eq!(case.execute(Order::Resume).await.unwrap(), Ended::Finished);
}
