//! `migrate` and its target: between the comparison and the switch, and on the way back.

use std::time::Duration;

use pgconvoy::runbook::anywhere::{Move, execute};
use pgconvoy::runbook::database::OtherSession;
use pgconvoy::runbook::heroku::Order;
use pgconvoy::runbook::journal::Entry;
use pgconvoy::runbook::{Answer, Confirmed, Ended, Error, Servers};
use pgconvoy::{model::Secret, ops::Run};

use crate::anywhere::{App, Dry, When, execute_elsewhere, intends, ordered};
use crate::support::{Ran, clients};

fn is_done(wanted: &'static str) -> impl Fn(&Entry) -> bool {
    move |entry| matches!(entry, Entry::Done { step, .. } if step == wanted)
}

/// Somebody tries the new database while the last question waits for its answer.
#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_was_changed_before_the_switch_is_not_switched_to() {
    let Some(app) = App::new().await else { return };
    let happens = || execute_elsewhere(&app.target, "DELETE FROM t WHERE id = 1");
    let ended = app.execute(Order::Run, &When { gate: "promote", happens: &happens, answer: Answer::Yes }).await;
    let Ok(Ended::Aborted { window: 1, why }) = ended else { panic!("{ended:?}") };
    assert!(why.contains("written to the target after it was compared"), "{why}");
    app.assert_taken_back();
    // It may be in use: it is not dropped either.
    let refused = app.execute(Order::Resume, &Confirmed).await.unwrap_err().to_string();
    assert!(refused.contains("somebody has written to the target"), "{refused}");
    app.assert_taken_back();
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_kill_the_target_is_looked_at_again_before_the_switch() {
    for after in ["verify", "still-same"] {
        let dry = Dry::killed_after(is_done(after)).await;
        dry.databases.write("the target", 1);
        let ended = dry.execute(Order::Resume, None, (&Confirmed, true)).await;
        let Ok(Ended::Aborted { why, .. }) = ended else { panic!("{ended:?}") };
        assert!(why.contains("written to the target after it was compared"), "{why}");
        assert!(dry.is_as_it_was());
    }
}

/// The record of the copy's end was not written, or what follows the copy fails once.
#[tokio::test(flavor = "multi_thread")]
async fn settings_are_carried_whatever_happens_behind_the_copy() {
    let dry = Dry::killed_after(intends("copy")).await;
    assert_eq!(dry.execute(Order::Resume, None, (&Confirmed, true)).await.unwrap(), Ended::Finished);
    assert_eq!(dry.databases.settings_carried(), 1);
    let dry = Dry::new();
    dry.databases.fail_settings(1);
    assert_eq!(dry.execute(Order::Run, None, (&Confirmed, true)).await.unwrap(), Ended::Finished);
    assert_eq!(dry.databases.settings_carried(), 1);
}

/// The app is up again where a machine has come up again.
#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_is_taken_up_stops_the_app_again() {
    for (after, times) in [("freeze", 2), ("copy", 2), ("switch", 2), ("thaw", 1)] {
        let dry = Dry::killed_after(is_done(after)).await;
        std::fs::write(dry.directory.path().join("state"), "up").unwrap();
        assert_eq!(dry.execute(Order::Resume, None, (&Confirmed, true)).await.unwrap(), Ended::Finished);
        let frozen = std::fs::read_to_string(dry.directory.path().join("frozen")).unwrap();
        assert_eq!(frozen.lines().count(), times, "after {after}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_that_cannot_be_stopped_again_is_a_reason_to_go_back() {
    let dry = Dry::killed_after(is_done("copy")).await;
    std::fs::write(dry.directory.path().join("broken"), "").unwrap();
    let ended = dry.execute(Order::Resume, None, (&Confirmed, true)).await;
    assert!(matches!(&ended, Ok(Ended::Aborted { why, .. }) if why.contains("Stop the app")), "{ended:?}");
    assert!(dry.is_as_it_was());
}

/// There is no way back, and forward not all of it.
#[tokio::test(flavor = "multi_thread")]
async fn without_a_way_back_a_source_that_was_written_to_is_not_left() {
    let dry = Dry::killed_with(intends("switch"), false).await;
    dry.databases.write("shop", 1);
    let resumed = dry.execute(Order::Resume, None, (&Confirmed, false));
    assert!(tokio::time::timeout(Duration::from_secs(2), resumed).await.is_err(), "it has ended");
    assert_eq!(dry.reads().1, "down");
    assert!(
        dry.journal_says(
            |entry| matches!(entry, Entry::Observed { what, .. } if what.contains("written to the source"))
        )
    );
}

/// Somebody else has begun to fill the target, and may be at work there.
#[tokio::test(flavor = "multi_thread")]
async fn what_somebody_else_has_begun_to_fill_is_not_dropped() {
    let dry = Dry::killed_after(intends("copy")).await;
    dry.databases.begin_to_fill("the target", "archive /elsewhere");
    let aborted = dry.execute(Order::Abort, None, (&Confirmed, true)).await;
    assert!(matches!(aborted, Ok(Ended::Aborted { .. })), "{aborted:?}");
    let why = dry.execute(Order::Resume, None, (&Confirmed, true)).await.unwrap_err().to_string();
    assert!(why.contains("somebody else has begun to fill the target, from archive /elsewhere"), "{why}");
    assert!(dry.is_as_it_was());
}

/// What they have written is counted when they have ended, and not before.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_dropped_below_somebody_who_is_connected() {
    let dry = Dry::killed_after(is_done("verify")).await;
    let aborted = dry.execute(Order::Abort, None, (&Confirmed, true)).await;
    assert!(matches!(aborted, Ok(Ended::Aborted { .. })), "{aborted:?}");
    let session = OtherSession { user: "app".into(), is_superusers: false, is_in_transaction: false };
    dry.databases.connect("the target", vec![session]);
    let resumed = dry.execute(Order::Resume, None, (&Confirmed, true));
    assert!(tokio::time::timeout(Duration::from_secs(3), resumed).await.is_err(), "it has ended");
    assert!(dry.is_as_it_was() && dry.databases.is_filled("the target"));
    dry.databases.connect("the target", Vec::new());
    assert_eq!(dry.execute(Order::Resume, None, (&Confirmed, true)).await.unwrap(), Ended::Finished);
}

const FAILS_ONCE: &str = "test -e tried && { echo target > uses; exit 0; }; touch tried; echo target > uses; \
                          while ! test -e did; do sleep 0.02; done; exit 3";

impl App {
    /// A switch that starts the app at the target, where it does something, and then fails the first time.
    async fn fails_to_switch(&self, app_does: impl Fn() + Send + Sync) -> Ran {
        self.switches(FAILS_ONCE, &[], app_does).await
    }

    /// With a switch that says when it has been tried, and waits for what is done then.
    async fn switches(&self, switch: &str, more: &[&str], app_does: impl Fn() + Send + Sync) -> Ran {
        let program = self.program(switch, more);
        let migrating = tokio::task::spawn_blocking(move || program.run());
        let tried = self.directory.path().join("tried");
        while !tried.exists() {
            assert!(!migrating.is_finished(), "{}", self.journal());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        app_does();
        std::fs::write(self.directory.path().join("did"), "").unwrap();
        migrating.await.unwrap()
    }
}

/// It has written nothing yet, and cannot any more when the app is led back.
#[tokio::test(flavor = "multi_thread")]
async fn on_the_way_back_sessions_at_the_target_are_ended_first() {
    let Some(app) = App::new().await else { return };
    let (tell, told) = std::sync::mpsc::channel();
    let target = app.target.config();
    let ran = app
        .fails_to_switch(move || {
            let (target, tell) = (target.clone(), tell.clone());
            let (begun, has_begun) = std::sync::mpsc::channel();
            std::thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                runtime.block_on(async {
                    let (client, connection) = target.connect(tokio_postgres::NoTls).await.unwrap();
                    let connection = tokio::spawn(connection);
                    client.batch_execute("BEGIN; SELECT count(*) FROM t").await.unwrap();
                    begun.send(()).unwrap();
                    let _ = connection.await;
                    tell.send(client.batch_execute("INSERT INTO t (x) VALUES ('late'); COMMIT").await.is_err())
                        .unwrap();
                });
            });
            has_begun.recv().unwrap();
        })
        .await
        .expect_code(1);
    assert!(ran.stdout.contains("everything is as it was before"), "{}\n{}", ran.stdout, ran.stderr);
    assert!(told.recv_timeout(Duration::from_secs(60)).unwrap(), "it could be written");
    app.assert_taken_back();
    assert_eq!(app.target.one("SELECT count(*) FROM t").await, "500");
    // Whoever still leads there is told.
    assert_eq!(app.target.one("SHOW default_transaction_read_only").await, "on");
    let _ = app.migrate(FAILS_ONCE, &["--resume"]).await.expect_success();
    app.assert_switched();
    assert_eq!(app.target.one("SHOW default_transaction_read_only").await, "off");
}

/// Committed at the target, by a session that does nothing since: it is neither lost nor left unseen.
#[tokio::test(flavor = "multi_thread")]
async fn what_an_idle_session_has_committed_at_the_target_closes_the_way_back() {
    let Some(app) = App::new().await else { return };
    let target = app.target.config();
    let (keep, kept) = std::sync::mpsc::channel::<()>();
    let kept = std::sync::Arc::new(std::sync::Mutex::new(kept));
    let ran = app
        .fails_to_switch(move || {
            let (target, kept) = (target.clone(), std::sync::Arc::clone(&kept));
            let (done, is_done) = std::sync::mpsc::channel();
            std::thread::spawn(move || {
                let runtime =
                    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
                let client = runtime.block_on(async {
                    let (client, connection) = target.connect(tokio_postgres::NoTls).await.unwrap();
                    tokio::spawn(connection);
                    client
                        .batch_execute("SELECT count(*) FROM t; INSERT INTO t (x) VALUES ('committed')")
                        .await
                        .unwrap();
                    client
                });
                done.send(()).unwrap();
                let _ = kept.lock().unwrap().recv();
                drop(client);
            });
            is_done.recv().unwrap();
        })
        .await;
    drop(keep);
    assert!(
        ran.stderr.contains("going forward") || ran.stdout.contains("going forward"),
        "{}\n{}",
        ran.stdout,
        ran.stderr
    );
    app.assert_switched();
    assert_eq!(app.target.one("SELECT count(*) FROM t").await, "501");
    assert_eq!(app.target.one("SHOW default_transaction_read_only").await, "off");
}

/// Its terminal is gone, and it is not: from any other one it is taken back.
#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_is_at_work_is_taken_back_from_another_terminal() {
    let Some(app) = App::new().await else { return };
    let switch = "echo target > uses; sleep 600";
    let mut child = app.program(switch, &[]).spawn();
    app.until_it_uses("target").await;
    let back = app.migrate(switch, &["--abort"]).await.expect_code(1);
    assert!(back.stdout.contains("everything is as it was before"), "{}\n{}", back.stdout, back.stderr);
    assert!(child.try_wait().unwrap().is_some(), "it is still at work");
    app.assert_taken_back();
    assert_eq!(app.source.one("SHOW default_transaction_read_only").await, "off");
}

/// Nothing fences the source, and what the switch starts or stops writes there once more.
#[tokio::test(flavor = "multi_thread")]
async fn what_comes_to_the_source_during_the_switch_is_found() {
    let Some(app) = App::new().await else { return };
    let switch = "echo target > uses; touch tried; while ! test -e did; do sleep 0.02; done";
    let app_does = || execute_elsewhere(&app.source, "INSERT INTO t (x) VALUES ('during the switch')");
    let ran = app.switches(switch, &["--no-fence"], app_does).await.expect_code(1);
    assert!(ran.stdout.contains("written to the source"), "{}\n{}", ran.stdout, ran.stderr);
    app.assert_taken_back();
    assert_eq!(app.source.one("SELECT count(*) FROM t").await, "501");
}

/// A slip on the command line is no proof that nothing was written.
#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_is_misnamed_is_not_taken_for_lost() {
    let Some(app) = App::new().await else { return };
    // Killed while it switches.
    let uri = app.target.uri();
    tokio::select! {
        ended = app.execute_at(&uri, Order::Run) => panic!("{ended:?}"),
        () = app.until_it_uses("target") => {}
    }
    app.target.execute("INSERT INTO t (x) VALUES ('only here')").await;
    let right = app.target.tcp_uri();
    assert_eq!(right.matches("127.0.0.1").count(), 1, "{right}");
    let nowhere = "service=a-service-that-nobody-has".to_owned();
    for (wrong, said) in [
        (right.replace("127.0.0.1", "127.0.0.2"), "the app was switched to"),
        (app.target.uri().replace("postgres@", "nobody@"), "the app was switched to"),
        (nowhere, "a-service-that-nobody-has"),
    ] {
        let why = app.execute_at(&wrong, Order::Abort).await.unwrap_err();
        assert!(matches!(&why, Error::Remains { why, .. } if why.contains(said)), "{why}");
        assert_eq!((app.reads("uses"), app.reads("state")), ("target".into(), "down".into()));
    }
    // With the right one, it is known where the app has to go.
    let why = app.execute_at(&app.target.uri(), Order::Abort).await.unwrap_err().to_string();
    assert!(why.contains("written to since it was compared"), "{why}");
    app.assert_switched();
    assert_eq!(app.target.one("SELECT count(*) FROM t").await, "501");
}

impl App {
    /// With a switch that does not end, the first time.
    async fn execute_at(&self, target: &str, order: Order) -> pgconvoy::runbook::Result<Ended> {
        let servers = Servers { pg_dump: Some(clients().pg_dump.clone()), elsewhere: None };
        let (mut wanted, journal) =
            (Move { target: Secret::new(target), ..self.wanted() }, self.directory.path().join("journal"));
        wanted.commands.switch = format!(
            "cd {} && echo target > uses && {{ test -e tried || {{ touch tried; sleep 600; }}; }}",
            self.directory.path().display()
        );
        execute(&servers, &wanted, &ordered(&journal, order, &Confirmed), &Run::unattended()).await?.0
    }

    async fn until_it_uses(&self, wanted: &str) {
        while self.reads("uses") != wanted {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}
