//! What the runbook makes of what Heroku does; the databases are pretended.

use pgconvoy::lab::heroku::{Fault, FaultKind, Happening, Logged, Setup};
use pgconvoy::runbook::heroku::{Kind, Order, clean_up, look, measured};
use pgconvoy::runbook::{Answer, Confirm, Confirmed, Ended, Gate, MigrationReport};

use crate::fixture::{Case, ORIGINAL, wishes};

fn fault(method: &'static str, path: &str, kind: FaultKind, after: u32, times: u32) -> Fault {
    Fault { method, path: path.into(), kind, after, times }
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_goes_well() {
    let case = Case::new().await;
    assert_eq!(case.execute(Order::Run).await.unwrap(), Ended::Finished);
    case.assert_migrated();
    let (plan, past, at_work) = look(&case.plan).unwrap();
    assert!(!at_work);
    let report = MigrationReport::new(&plan.steps, &past, 0);
    assert!(report.finished && report.windows.len() == 2 && report.windows.iter().all(|window| window.over));
    // A second time there is nothing to do, and a run that has begun does not begin again.
    assert_eq!(case.execute(Order::Resume).await.unwrap(), Ended::Finished);
    assert!(case.execute(Order::Run).await.unwrap_err().to_string().contains("begun already"));
}

/// Every request that changes something fails once, in every way, and once more a little later.
#[tokio::test(flavor = "multi_thread")]
async fn whatever_happens_to_a_request_the_app_is_migrated() {
    let requests = [
        ("POST", "/apps/sphinx/addons"),
        ("PATCH", "/apps/sphinx/formation"),
        ("PATCH", "/apps/sphinx"),
        ("PUT", "/unfollow"),
        ("POST", "/addon-attachments"),
        ("DELETE", "/addons/"),
        ("GET", "/client/v11/databases/"),
        ("GET", "/apps/sphinx/addons/"),
    ];
    let kinds = [
        FaultKind::Status(503),
        FaultKind::DoneBut(502),
        FaultKind::TooMany(1),
        FaultKind::LostReply,
        FaultKind::LostRequest,
    ];
    let undisturbed = Case::new().await;
    undisturbed.execute(Order::Run).await.unwrap();
    for (method, path) in requests {
        let is_like = |l: &&Logged| l.method == method && l.path.contains(path);
        let made = undisturbed.world.with(|world| world.log.iter().filter(is_like).count());
        let afters: Vec<u32> = match method {
            // The first looks are over before anything is done: where they fail, there is nothing to go on with.
            "GET" => vec![8, 12, 20],
            _ => (0..3).take(made).collect(),
        };
        assert!(!afters.is_empty(), "{method} {path} is never asked for");
        for kind in kinds {
            for &after in &afters {
                let case = Case::new().await;
                case.world.fail(fault(method, path, kind, after, 2));
                let ended = case.execute(Order::Run).await;
                assert_eq!(ended.unwrap(), Ended::Finished, "{method} {path} {kind:?} after {after}");
                let unused = case.world.with(|world| world.faults[0].times);
                assert!(unused < 2, "{method} {path} {kind:?} after {after} has never happened");
                case.assert_migrated();
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_promotion_that_is_refused_for_good_is_taken_back() {
    let case = Case::new().await;
    case.world.fail(fault("POST", "/addon-attachments", FaultKind::Status(422), 0, 9));
    let ended = case.execute(Order::Run).await.unwrap();
    assert!(matches!(ended, Ended::Aborted { window: 1, .. }), "{ended:?}");
    case.assert_as_it_was();
}

/// Heroku has promoted, but never says so, and cannot be asked again for a while.
#[tokio::test(flavor = "multi_thread")]
async fn a_promotion_without_a_reply_is_found() {
    let case = Case::new().await;
    case.world.fail(fault("POST", "/addon-attachments", FaultKind::LostReply, 0, 1));
    case.world.fail(fault("GET", "/apps/sphinx/addon-attachments", FaultKind::Status(503), 30, 3));
    assert_eq!(case.execute(Order::Run).await.unwrap(), Ended::Finished);
    case.assert_migrated();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_that_never_catches_up_is_given_up_by_the_budget() {
    let mut wishes = wishes();
    (wishes.budget_s, wishes.poll_ms) = (1, 20);
    let case = Case::with(Setup { lag: 0, ..Setup::default() }, wishes, Kind::Migration).await;
    let world = std::sync::Arc::clone(&case.world);
    case.world.listen(move |happening| {
        if *happening == Happening::Maintenance(true) {
            world.with(|world| {
                world.lag_is_stuck = true;
                world.addons.iter_mut().filter(|addon| addon.follows.is_some()).for_each(|addon| addon.lag = 7);
            });
        }
    });
    let ended = case.execute(Order::Run).await.unwrap();
    let Ended::Aborted { window: 1, why } = ended else { panic!("{ended:?}") };
    assert!(why.contains("budget"), "{why}");
    case.assert_as_it_was();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_one_off_dyno_keeps_the_app_from_being_switched() {
    let mut wishes = wishes();
    (wishes.budget_s, wishes.poll_ms) = (1, 20);
    let case = Case::with(Setup::default(), wishes, Kind::Migration).await;
    case.world.with(|world| world.one_off_dynos.push("run.1234".into()));
    let ended = case.execute(Order::Run).await.unwrap();
    assert!(matches!(ended, Ended::Aborted { window: 1, .. }), "{ended:?}");
    case.assert_as_it_was();
    let log = std::fs::read_to_string(case.plan.with_extension("journal")).unwrap();
    assert!(log.contains("run.1234") && log.contains("heroku ps:stop"), "{log}");
}

/// When everything is copied and compared, rows are there that nobody has seen.
#[tokio::test(flavor = "multi_thread")]
async fn a_write_during_the_freeze_is_noticed_in_either_window() {
    for (at, window, role) in [("unfollow-dump", 1, ORIGINAL), ("unfollow-final", 2, "pgconvoy-t1-new")] {
        let case = std::sync::Arc::new(Case::new().await);
        let weak = std::sync::Arc::downgrade(&case);
        let unfollowed = if at == "unfollow-dump" { 1 } else { 2 };
        let seen = std::sync::atomic::AtomicU32::new(0);
        case.world.listen(move |happening| {
            if matches!(happening, Happening::Unfollowed { .. })
                && seen.fetch_add(1, std::sync::atomic::Ordering::SeqCst) + 1 == unfollowed
            {
                weak.upgrade().unwrap().databases.write(role, 1);
            }
        });
        let ended = case.execute(Order::Run).await.unwrap();
        let Ended::Aborted { window: found, why } = ended else { panic!("{ended:?}") };
        assert_eq!(found, window);
        assert!(why.contains("somebody has written"), "{why}");
        assert!(case.is_up());
        assert!(!case.databases.is_fenced(role));
        assert_eq!(case.attached("DATABASE"), role);
        // Taken up again, it begins that window anew, with databases of their own.
        assert_eq!(case.execute(Order::Resume).await.unwrap(), Ended::Finished);
        case.assert_migrated();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_that_fails_is_taken_back_and_cleaned_up() {
    let case = Case::new().await;
    case.databases.fail_copies(1);
    let ended = case.execute(Order::Run).await.unwrap();
    assert!(matches!(ended, Ended::Aborted { window: 1, .. }), "{ended:?}");
    case.assert_as_it_was();
    assert_eq!(case.addons().len(), 3);
    let gone = clean_up(&case.heroku, &case.databases, &case.plan, &Confirmed).unwrap();
    assert_eq!(gone.len(), 2);
    assert_eq!(case.addons(), [ORIGINAL]);
    case.assert_as_it_was();
}

/// The abort itself meets what it can meet.
#[tokio::test(flavor = "multi_thread")]
async fn taking_back_is_tried_until_it_is_done() {
    let case = Case::new().await;
    case.databases.fail_copies(1);
    case.world.fail(fault("PATCH", "/apps/sphinx/formation", FaultKind::Status(500), 1, 5));
    case.world.fail(fault("PATCH", "/apps/sphinx", FaultKind::LostReply, 1, 5));
    let ended = case.execute(Order::Run).await.unwrap();
    assert!(matches!(ended, Ended::Aborted { window: 1, .. }), "{ended:?}");
    case.assert_as_it_was();
}

/// Says yes, but not to one gate.
struct Except(&'static str, Answer);

impl Confirm for Except {
    fn confirm(&self, gate: &Gate) -> pgconvoy::runbook::Result<Answer> {
        Ok(if gate.name == self.0 { self.1 } else { Answer::Yes })
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn gates_hold_before_the_app_goes_down_and_take_back_while_it_is() {
    let case = Case::new().await;
    let held = case.execute_with(Order::Run, None, &Except("freeze", Answer::Hold), false).await.unwrap();
    assert!(matches!(held, Ended::Held { ref before, .. } if before == "freeze"), "{held:?}");
    case.assert_as_it_was();
    assert!(!case.world.with(|world| world.log.iter().any(|l| l.method == "PATCH")));
    let no = case.execute_with(Order::Resume, None, &Except("promote", Answer::No), false).await.unwrap();
    assert!(matches!(no, Ended::Aborted { window: 1, .. }), "{no:?}");
    case.assert_as_it_was();
    let held = case.execute_with(Order::Resume, None, &Confirmed, true).await.unwrap();
    assert!(matches!(held, Ended::Held { ref before, .. } if before == "freeze"), "{held:?}");
    // Held it stays, whoever goes on, until it is told to cut over.
    let held = case.execute(Order::Resume).await.unwrap();
    assert!(matches!(held, Ended::Held { ref before, .. } if before == "freeze"), "{held:?}");
    case.assert_as_it_was();
    let held = case.execute_with(Order::CutOver, None, &Except("destroy", Answer::Hold), false).await.unwrap();
    assert!(matches!(held, Ended::Held { ref before, .. } if before == "destroy"), "{held:?}");
    assert!(case.is_up() && case.addons().contains(&ORIGINAL.to_owned()));
    assert_eq!(case.execute(Order::Resume).await.unwrap(), Ended::Finished);
    case.assert_migrated();
}

#[tokio::test(flavor = "multi_thread")]
async fn old_databases_are_kept_for_as_long_as_was_said() {
    let mut wishes = wishes();
    wishes.hold_s = 3600;
    let case = Case::with(Setup::default(), wishes, Kind::Migration).await;
    let held = case.execute(Order::Run).await.unwrap();
    assert!(matches!(held, Ended::Held { ref before, .. } if before == "hold"), "{held:?}");
    assert!(case.addons().contains(&ORIGINAL.to_owned()));
    assert!(clean_up(&case.heroku, &case.databases, &case.plan, &Confirmed).is_err());
    assert!(case.execute(Order::Abort).await.unwrap_err().to_string().contains("point of no return"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rehearsal_touches_nothing_of_the_app() {
    let case = Case::with(Setup::default(), wishes(), Kind::Rehearsal).await;
    assert_eq!(case.execute(Order::Run).await.unwrap(), Ended::Finished);
    case.assert_as_it_was();
    assert_eq!(case.addons(), [ORIGINAL]);
    let touched = |l: &Logged| l.method == "PATCH" || l.path == "/addon-attachments";
    assert!(!case.world.with(|world| world.log.iter().any(touched)));
    assert!(measured(&case.plan).is_some_and(|m| m.copy_ms > 0 && m.verify_ms > 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_that_has_changed_is_refused() {
    let case = Case::new().await;
    case.world.with(|world| world.formation[0].quantity = 4);
    let refused = case.execute(Order::Run).await.unwrap_err().to_string();
    assert!(refused.contains("web=3") && refused.contains("web=4"), "{refused}");
    assert_eq!(case.addons(), [ORIGINAL]);
}

/// What has come since the plan was made is looked for once more before the app goes down.
#[tokio::test(flavor = "multi_thread")]
async fn guards_close_again_before_the_freeze() {
    let case = Case::new().await;
    let _ = case.execute_with(Order::Run, None, &Confirmed, true).await.unwrap();
    let foreign = case.world.with(|world| {
        let addon = world.addon(ORIGINAL).unwrap().id.clone();
        let mut foreign = world.attachments[0].clone();
        (foreign.app, foreign.id, foreign.addon_id) = ("reports".into(), "x".into(), addon);
        world.attachments.push(foreign);
        world.attachments.len() - 1
    });
    let refused = case.execute(Order::CutOver).await.unwrap_err().to_string();
    assert!(refused.contains("other apps") && refused.contains("reports"), "{refused}");
    case.assert_as_it_was();
    case.world.with(|world| world.attachments.remove(foreign));
    assert_eq!(case.execute(Order::Resume).await.unwrap(), Ended::Finished);
    case.assert_migrated();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_plan_does_not_go_with_its_journal() {
    let case = Case::new().await;
    let _ = case.execute_with(Order::Run, None, &Confirmed, true).await.unwrap();
    let text = std::fs::read_to_string(&case.plan).unwrap();
    std::fs::write(&case.plan, text.replace("\"budget_s\": 600", "\"budget_s\": 601")).unwrap();
    assert!(case.execute(Order::Resume).await.unwrap_err().to_string().contains("another plan"));
}

/// Each of these would be moved wrongly, or not be held still.
#[tokio::test(flavor = "multi_thread")]
async fn apps_that_cannot_be_held_still_are_refused() {
    type Change = fn(&mut pgconvoy::lab::heroku::State);
    fn attach(world: &mut pgconvoy::lab::heroku::State, name: &str, namespace: Option<&str>, app: &str) {
        let mut attachment = world.attachments[0].clone();
        (attachment.id, attachment.name, attachment.app) = (name.into(), name.into(), app.into());
        attachment.namespace = namespace.map(Into::into);
        world.attachments.push(attachment);
    }
    let cases: [(&str, Change); 6] = [
        ("pooled attachment", |world| {
            attach(world, "DATABASE_CONNECTION_POOL", Some("connection-pooling:default"), "sphinx");
        }),
        ("credential of its own", |world| attach(world, "REPORTS", Some("credential:reports"), "sphinx")),
        ("other apps use", |world| attach(world, "DATABASE", None, "reports")),
        ("release process", |world| {
            let mut release = world.formation[1].clone();
            (release.kind, release.quantity) = ("release".into(), 0);
            world.formation.push(release);
        }),
        ("no followers", |world| world.addons[0].plan = "essential-0".into()),
        ("is a follower", |world| world.addons[0].follows = Some("another".into())),
    ];
    for (said, change) in cases {
        let case = Case::new().await;
        case.world.with(change);
        let plan = pgconvoy::runbook::heroku::ToPlan {
            app: "sphinx",
            wishes: wishes(),
            kind: Kind::Migration,
            measured: None,
            run: "t2".into(),
        };
        let (_, refusals) = pgconvoy::runbook::heroku::make_plan(&case.heroku, &case.databases, plan).await.unwrap();
        assert!(refusals.iter().any(|refusal| refusal.contains(said)), "{said}: {refusals:?}");
        // Nor does a plan that was made before.
        assert!(case.execute(Order::Run).await.is_err());
        assert!(!case.world.with(|world| world.log.iter().any(|l| l.method != "GET")), "{said}");
    }
}
