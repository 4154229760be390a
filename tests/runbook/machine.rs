//! Runs that make a machine for themselves; the machines are pretended, and so is what they do.

use std::time::Instant;

use pgconvoy::lab::heroku::Setup;
use pgconvoy::runbook::heroku::{Kind, Order, Wishes, look, spent};
use pgconvoy::runbook::machines::MachineWish;
use pgconvoy::runbook::{Answer, Confirm, Confirmed, Ended, Error, Gate, Journal, MigrationReport, PretendedFleet};

use crate::fixture::{Case, ORIGINAL, wishes};

fn with_machine() -> Wishes {
    Wishes { machine: Some(MachineWish::default()), ..wishes() }
}

async fn case(wishes: Wishes) -> Case {
    Case::with(Setup::default(), wishes, Kind::Migration).await
}

/// Each time the app is about to go down, both servers are looked at again.
fn is_asked_again(job: &str) -> bool {
    job.starts_with("preflight-again-")
}

/// The names of the machines there were, those that have not ended, and how many jobs were started besides.
fn machines(case: &Case) -> (Vec<String>, Vec<String>, u32) {
    let all = case.databases.fleet.all();
    let alive = all.iter().filter(|(_, machine)| !machine.has_ended).map(|(name, _)| name.clone()).collect();
    let again = all.values().flat_map(|machine| machine.jobs.keys()).filter(|job| is_asked_again(job)).count();
    let starts: u32 = all.values().map(|machine| machine.starts).sum();
    (all.keys().cloned().collect(), alive, starts - u32::try_from(again).unwrap())
}

fn jobs(case: &Case, machine: &str) -> Vec<String> {
    let jobs = case.databases.fleet.all()[machine].jobs.keys().cloned().collect::<Vec<_>>();
    assert!(jobs.iter().any(|job| is_asked_again(job)), "{jobs:?}");
    jobs.into_iter().filter(|job| !is_asked_again(job)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_pass_through_a_machine_that_ends_when_it_is_not_needed() {
    let case = case(with_machine()).await;
    assert_eq!(case.execute(Order::Run).await.unwrap(), Ended::Finished);
    case.assert_migrated();
    assert_eq!(machines(&case), (vec!["t1".into()], vec![], 3));
    assert_eq!(jobs(&case, "t1"), ["copy-1-1", "preflight-1-1", "verify-1-1"]);
    let (plan, past, _) = look(&case.plan).unwrap();
    let ids: Vec<&str> = plan.steps.iter().map(|step| step.id.as_str()).collect();
    let at = |id: &str| ids.iter().position(|of| *of == id).unwrap_or_else(|| panic!("{id}: {ids:?}"));
    assert!(at("machine-up") < at("caught-up-dump"));
    assert_eq!(at("machine-down"), at("maintenance-back") + 1);
    assert_eq!(plan.wishes.machine.as_ref().map(|machine| machine.region.as_str()), Some("us-east-1"));
    let report = MigrationReport::new(&plan.steps, &past, 0);
    let moved = report.moved.unwrap();
    assert!(moved.rows > 800_000_000 && moved.gb_per_s > 0.08 && moved.gb_per_s < 0.09, "{moved:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_after_any_record_a_machine_is_made_once_and_a_job_is_started_once() {
    let whole = case(with_machine()).await;
    whole.execute(Order::Run).await.unwrap();
    let records = Journal::read(&whole.plan.with_extension("journal")).unwrap().len() as u64;
    for after in 1..records {
        let case = case(with_machine()).await;
        let killed = case.execute_with(Order::Run, Some(after), &Confirmed, false).await;
        assert!(matches!(killed, Err(Error::Killed)), "after {after}: {killed:?}");
        assert_eq!(case.execute(Order::Resume).await.unwrap(), Ended::Finished, "after {after}");
        case.assert_migrated();
        assert_eq!(machines(&case), (vec!["t1".into()], vec![], 3), "after {after}");
    }
}

/// What is taken back leaves no machine behind, and the next try has one of its own.
#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_fails_is_taken_back_with_its_machine() {
    let case = case(with_machine()).await;
    case.databases.fail_copies(1);
    let ended = case.execute(Order::Run).await.unwrap();
    let Ended::Aborted { window: 1, why } = ended else { panic!("{ended:?}") };
    assert!(why.contains("job copy-1-1 ") && why.contains("a restore that fails"), "{why}");
    case.assert_as_it_was();
    assert_eq!(machines(&case).1, Vec::<String>::new());
    assert_eq!(case.execute(Order::Resume).await.unwrap(), Ended::Finished);
    case.assert_migrated();
    assert_eq!(machines(&case).0, ["t1", "t1-2"]);
    assert!(machines(&case).1.is_empty());
    assert_eq!(jobs(&case, "t1-2"), ["copy-2-1", "preflight-2-1", "verify-2-1"]);
}

/// Says yes, but not to one gate.
struct Except(&'static str);

impl Confirm for Except {
    fn confirm(&self, gate: &Gate) -> pgconvoy::runbook::Result<Answer> {
        Ok(if gate.name == self.0 { Answer::Hold } else { Answer::Yes })
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_that_has_ended_while_the_run_was_held_is_replaced_before_the_app_goes_down() {
    let case = case(with_machine()).await;
    let held = case.execute_with(Order::Run, None, &Except("freeze"), false).await.unwrap();
    assert!(matches!(held, Ended::Held { ref before, .. } if before == "freeze"), "{held:?}");
    case.databases.fleet.kill("t1");
    assert_eq!(case.execute(Order::Resume).await.unwrap(), Ended::Finished);
    case.assert_migrated();
    assert_eq!(machines(&case).0, ["t1", "t1-2"]);
    assert_eq!(jobs(&case, "t1-2"), ["copy-1-1", "verify-1-1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_that_fails_goes_on_from_the_dump_that_is_kept() {
    let case = case(Wishes { keep_dump: Some(".".into()), ..with_machine() }).await;
    case.databases.fail_copies(2);
    assert_eq!(case.execute(Order::Run).await.unwrap(), Ended::Finished);
    case.assert_migrated();
    let jobs = jobs(&case, "t1");
    assert_eq!(
        jobs,
        ["dump-1-1", "preflight-1-1", "restore-1-1-try1", "restore-1-1-try2", "restore-1-1-try3", "verify-1-1"]
    );
    // The same without a machine, in a directory here.
    let case = self::case(Wishes { keep_dump: Some("/nowhere".into()), ..wishes() }).await;
    case.databases.fail_copies(2);
    assert_eq!(case.execute(Order::Run).await.unwrap(), Ended::Finished);
    case.assert_migrated();
}

/// Who cannot be reached may be at work: a second restore beside the first would write into the same tables.
#[tokio::test(flavor = "multi_thread")]
async fn a_restore_that_is_out_of_sight_is_found_again_and_not_started_beside_itself() {
    let case = case(Wishes { keep_dump: Some(".".into()), poll_ms: 20, ..with_machine() }).await;
    case.databases.fleet.break_restores(3);
    assert_eq!(case.execute(Order::Run).await.unwrap(), Ended::Finished);
    case.assert_migrated();
    assert_eq!(jobs(&case, "t1"), ["dump-1-1", "preflight-1-1", "restore-1-1-try1", "verify-1-1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rehearsal_and_a_cleanup_end_the_machine() {
    let rehearsal = Case::with(Setup::default(), with_machine(), Kind::Rehearsal).await;
    assert_eq!(rehearsal.execute(Order::Run).await.unwrap(), Ended::Finished);
    assert_eq!(machines(&rehearsal), (vec!["t1".into()], vec![], 3));
    assert_eq!(rehearsal.addons(), [ORIGINAL]);

    let case = case(with_machine()).await;
    let _ = case.execute_with(Order::Run, None, &Except("freeze"), false).await.unwrap();
    assert_eq!(machines(&case).1, ["t1"]);
    let gone = case.clean_up().unwrap();
    assert_eq!((gone.len(), gone[0].as_str()), (3, "machine t1"));
    assert!(machines(&case).1.is_empty());
    assert_eq!(case.clean_up().unwrap(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
#[expect(clippy::cast_precision_loss, reason = "dollars and hours")]
async fn everything_that_is_made_is_in_the_price_and_what_has_none_is_named() {
    let mut unpriced = MachineWish::default();
    unpriced.machine.kinds = vec!["x9z.metal".into()];
    let case = case(Wishes { machine: Some(unpriced), ..wishes() }).await;
    let (plan, ..) = look(&case.plan).unwrap();
    let expected = &plan.estimate.cost;
    let what: Vec<&str> = expected.items.iter().map(|item| item.what.as_str()).collect();
    assert_eq!(what.len(), 5, "{what:?}");
    assert_eq!(expected.unknown(), ["the machine on EC2 (x9z.metal in us-east-1)"]);
    // Two databases on standard-5, at 1400 dollars a month, for as long as the run should take; and one on standard-0.
    let hours = |item: usize| expected.items[item].seconds as f64 / 3600.0;
    let dollars = 1400.0 / 720.0 * (hours(0) + hours(1)) + 50.0 / 720.0 * (hours(2) + hours(3));
    assert!((expected.known_cents() as f64 / 100.0 - dollars).abs() < 0.011, "{dollars} {expected:?}");

    assert_eq!(case.execute(Order::Run).await.unwrap(), Ended::Finished);
    let (plan, past, _) = look(&case.plan).unwrap();
    let hour_later = past.records().last().unwrap().at_ms + 3_600_000;
    let spent = spent(&plan, &past, hour_later);
    let what: Vec<&str> = spent.items.iter().map(|item| item.what.as_str()).collect();
    assert_eq!(
        what,
        [
            "pgconvoy-t1-dump (standard-5)",
            "pgconvoy-t1-new (standard-5)",
            "machine t1",
            "pgconvoy-t1-final (standard-0)",
            "pgconvoy-t1-spare (standard-0)"
        ]
    );
    assert_eq!(spent.unknown(), ["machine t1"]);
    // Nothing costs anything after the run is over.
    assert!(spent.items.iter().all(|item| item.seconds < 600), "{spent:?}");
}

/// Nobody waits for a job for longer than the app may be down.
#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_takes_longer_than_the_budget_is_taken_back() {
    let case = case(Wishes { budget_s: 1, poll_ms: 20, ..with_machine() }).await;
    let _ = case.execute_with(Order::Run, None, &Except("freeze"), false).await.unwrap();
    case.databases.fleet.hang();
    let ended = case.execute(Order::Resume).await.unwrap();
    let Ended::Aborted { window: 1, why } = ended else { panic!("{ended:?}") };
    assert!(why.contains("budget"), "{why}");
    case.assert_as_it_was();
    assert!(machines(&case).1.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_that_would_end_while_the_app_is_down_is_given_more_time_before() {
    let case = case(Wishes { budget_s: 7200, ..with_machine() }).await;
    let _ = case.execute_with(Order::Run, None, &Except("freeze"), false).await.unwrap();
    case.databases.fleet.age("t1", 100);
    assert_eq!(case.execute(Order::Resume).await.unwrap(), Ended::Finished);
    assert!(case.databases.fleet.all()["t1"].minutes_left.is_some_and(|left| left >= 180));
    assert_eq!(machines(&case).0, ["t1"]);
}

/// EC2 does not know a machine any more an hour after its end, but its name has had its machine.
#[tokio::test(flavor = "multi_thread")]
async fn a_machine_that_has_ended_and_is_forgotten_has_a_successor_all_the_same() {
    let case = case(with_machine()).await;
    let _ = case.execute_with(Order::Run, None, &Except("freeze"), false).await.unwrap();
    case.databases.fleet.forget("t1");
    assert_eq!(case.execute(Order::Resume).await.unwrap(), Ended::Finished);
    case.assert_migrated();
    assert_eq!(machines(&case), (vec!["t1".into(), "t1-2".into()], vec![], 3));
    assert_eq!(jobs(&case, "t1-2"), ["copy-1-1", "verify-1-1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn after_an_abort_the_next_try_has_a_machine_though_the_last_ones_are_forgotten() {
    let case = case(with_machine()).await;
    let _ = case.execute_with(Order::Run, None, &Except("freeze"), false).await.unwrap();
    // The second is in no announcement.
    case.databases.fleet.kill("t1");
    case.databases.fail_copies(1);
    let ended = case.execute(Order::Resume).await.unwrap();
    assert!(matches!(ended, Ended::Aborted { .. }), "{ended:?}");
    assert_eq!(machines(&case).0, ["t1", "t1-2"]);
    for name in ["t1", "t1-2"] {
        case.databases.fleet.forget(name);
    }
    assert_eq!(case.execute(Order::Resume).await.unwrap(), Ended::Finished);
    case.assert_migrated();
    assert_eq!(machines(&case).0, ["t1", "t1-2", "t1-3"]);
    assert!(machines(&case).1.is_empty());
}

/// Of two successors that no record names, the first is forgotten when the second is looked for.
#[tokio::test(flavor = "multi_thread")]
async fn a_successor_is_found_and_ended_behind_one_that_is_forgotten() {
    let case = case(with_machine()).await;
    let _ = case.execute_with(Order::Run, None, &Except("freeze"), false).await.unwrap();
    for gone in ["t1", "t1-2"] {
        case.databases.fleet.kill(gone);
        // Both servers were looked at again, and the app is not down yet.
        let killed = case.execute_with(Order::Resume, Some(2), &Confirmed, false).await;
        assert!(matches!(killed, Err(Error::Killed)), "{killed:?}");
    }
    assert_eq!(machines(&case), (vec!["t1".into(), "t1-2".into(), "t1-3".into()], vec!["t1-3".into()], 1));
    case.databases.fleet.forget("t1");
    case.databases.fleet.forget("t1-2");
    assert_eq!(case.execute(Order::Resume).await.unwrap(), Ended::Finished);
    case.assert_migrated();
    assert_eq!(machines(&case), (vec!["t1".into(), "t1-2".into(), "t1-3".into()], vec![], 3));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_that_is_there_again_after_its_end_is_not_used_and_is_ended_again() {
    let case = case(with_machine()).await;
    case.databases.fail_copies(1);
    let ended = case.execute(Order::Run).await.unwrap();
    assert!(matches!(ended, Ended::Aborted { .. }), "{ended:?}");
    case.databases.fleet.revive("t1");
    assert_eq!(case.execute(Order::Resume).await.unwrap(), Ended::Finished);
    case.assert_migrated();
    assert_eq!(machines(&case).0, ["t1", "t1-2"]);
    assert_eq!(machines(&case).1, Vec::<String>::new());
}

/// The record of the machine's end comes after that of the abort.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_taken_back_with_its_machine_is_still_said_to_be() {
    let case = case(with_machine()).await;
    case.databases.fail_copies(1);
    let ended = case.execute(Order::Run).await.unwrap();
    assert!(matches!(ended, Ended::Aborted { window: 1, .. }), "{ended:?}");
    assert_eq!(case.execute(Order::Abort).await.unwrap(), ended);
    let (plan, past, _) = look(&case.plan).unwrap();
    let report = MigrationReport::new(&plan.steps, &past, 0);
    assert!(report.aborted.is_some_and(|why| why.contains("a restore that fails")));
    let gone = case.clean_up().unwrap();
    assert!(!gone.is_empty() && gone.iter().all(|name| name.starts_with("pgconvoy-t1-")), "{gone:?}");
    assert_eq!(case.addons(), [ORIGINAL]);
}

/// Who looks at a machine while the app is down does not look for longer than it may be.
#[tokio::test(flavor = "multi_thread")]
async fn a_look_that_takes_longer_than_the_budget_is_taken_back() {
    let case = case(Wishes { budget_s: 1, poll_ms: 20, ..with_machine() }).await;
    let _ = case.execute_with(Order::Run, None, &Except("freeze"), false).await.unwrap();
    case.databases.fleet.hang_looks();
    let begun = Instant::now();
    let ended = case.execute(Order::Resume).await.unwrap();
    assert!(begun.elapsed() < PretendedFleet::UNSEEN_FOR, "{:?}", begun.elapsed());
    let Ended::Aborted { window: 1, why } = ended else { panic!("{ended:?}") };
    assert!(why.contains("budget"), "{why}");
    case.assert_as_it_was();
    assert!(machines(&case).1.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cleanup_that_cannot_end_the_machine_destroys_the_databases_and_is_no_success() {
    let case = case(with_machine()).await;
    let _ = case.execute_with(Order::Run, None, &Except("freeze"), false).await.unwrap();
    case.databases.fleet.take_keys(true);
    let error = case.clean_up().unwrap_err().to_string();
    assert!(error.contains("no key of AWS") && error.contains("machine t1"), "{error}");
    assert_eq!(case.addons(), [ORIGINAL]);
    // Nothing else is left: again, it says why, and begins nothing.
    let records = || Journal::read(&case.plan.with_extension("journal")).unwrap().len();
    let before = records();
    assert!(case.clean_up().unwrap_err().to_string().contains("no key of AWS"));
    assert_eq!(records(), before);
    case.databases.fleet.take_keys(false);
    assert_eq!(case.clean_up().unwrap(), ["machine t1"]);
    assert!(machines(&case).1.is_empty());
    assert_eq!(case.clean_up().unwrap(), Vec::<String>::new());
}
