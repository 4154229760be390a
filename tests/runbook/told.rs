//! What `migrate` says, to a person and to a script.

use std::time::Duration;

use crate::anywhere::App;
use crate::program::run;
use crate::support::{Pgconvoy, Ran};

impl App {
    /// With another journal, and nothing that confirms.
    async fn told(&self, journal: &str, more: &[&str]) -> Ran {
        let mut arguments = self.arguments("echo target > uses");
        journal.clone_into(&mut arguments[1]);
        let all = arguments.iter().map(String::as_str).chain(more.iter().copied());
        run(Pgconvoy::new(all).current_dir(self.directory.path())).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_not_done_is_not_said_to_be_done() {
    let Some(app) = App::new().await else { return };
    // Nobody is there to confirm it.
    let held = app.told("held", &[]).await.expect_code(1);
    assert!(held.stdout.contains("held before `freeze`"), "{}", held.stdout);
    assert!(held.stdout.contains("stopped: go on with --resume"), "{}", held.stdout);
    let back = app.told("held", &["--abort"]).await.expect_code(2);
    assert!(back.stderr.contains("nothing to take back"), "{}", back.stderr);
    assert!(!back.stderr.contains("cleanup"), "{}", back.stderr);
    app.assert_taken_back();
    let yes = ["--yes-i-mean", app.source.name.as_str()];
    // It begins anew where it was refused before anything was done, also with other commands.
    app.target.execute("CREATE TABLE in_the_way ()").await;
    let refused = app.told("refused", &yes).await.expect_code(2);
    assert!(refused.stderr.contains("not empty"), "{}", refused.stderr);
    app.target.execute("DROP TABLE in_the_way").await;
    let done = app.told("refused", &[&yes[..], &["--command-limit", "1m"]].concat()).await.expect_success();
    app.assert_switched();
    let by_hand = format!("ALTER DATABASE \"{}\" RESET default_transaction_read_only", app.source.name);
    assert!(done.stdout.contains("the source stays read only") && done.stdout.contains(&by_hand), "{}", done.stdout);
    let again = app.told("again", &yes).await.expect_code(2);
    assert!(again.stderr.contains(&by_hand), "{}", again.stderr);
    // As it is said there, it works.
    let session = app.source.connect().await;
    for statement in ["SET default_transaction_read_only = off", &by_hand] {
        session.batch_execute(statement).await.unwrap();
    }
    assert_eq!(app.source.one("SHOW default_transaction_read_only").await, "off");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_side_that_fails_is_named() {
    let Some(app) = App::new().await else { return };
    let [source, target] = [&app.source, &app.target].map(|db| db.uri().replace(&db.name, "nowhere"));
    for (option, uri, code) in [("--source", source, 3), ("--target", target, 4)] {
        let mut arguments = app.arguments("true");
        let at = arguments.iter().position(|argument| argument == option).unwrap();
        arguments[at + 1] = uri;
        let ran = run(Pgconvoy::new(arguments.iter().map(String::as_str)).current_dir(app.directory.path())).await;
        let ran = ran.expect_code(code);
        assert!(ran.stderr.contains(&format!("error: {}: ", &option[2..])), "{}", ran.stderr);
    }
    let ran = app.told("journal", &["--pg-dump", "/nowhere/pg_dump"]).await;
    assert!(ran.code != Some(0) && ran.stderr.contains("/nowhere/pg_dump"), "{}", ran.stderr);
}

/// One who types at a terminal is told what it is about, and nothing is drawn over what is typed.
#[tokio::test(flavor = "multi_thread")]
async fn a_question_names_what_it_is_about_and_is_not_drawn_over() {
    let Some(app) = App::new().await else { return };
    let quoted: Vec<String> =
        app.arguments("true").iter().map(|argument| format!("'{}'", argument.replace('\'', "'\\''"))).collect();
    let line = format!("'{}' {}", env!("CARGO_BIN_EXE_pgconvoy"), quoted.join(" "));
    let mut terminal = std::process::Command::new("script");
    terminal.args(["-qec", &line, "/dev/null"]).current_dir(app.directory.path());
    terminal.env("PATH", crate::support::path_with_clients()).env("TERM", "xterm");
    terminal.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped());
    let Ok(mut child) = terminal.spawn() else {
        return crate::say_not_tested("questions at a terminal", "there is no `script`");
    };
    let mut typing = child.stdin.take().unwrap();
    // Until it asks, and long enough that something would be drawn.
    app.until_the_journal_says(r#""done","step":"preflight""#).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    // Again, where it was typed before it was asked for.
    let deadline = std::time::Instant::now() + Duration::from_secs(60);
    while child.try_wait().unwrap().is_none() {
        assert!(std::time::Instant::now() < deadline, "no answer is taken");
        let _ = std::io::Write::write_all(&mut typing, b"no\n");
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    let ran = tokio::task::spawn_blocking(move || child.wait_with_output().unwrap()).await.unwrap();
    drop(typing);
    let said = String::from_utf8_lossy(&ran.stdout).into_owned();
    assert_eq!(ran.status.code(), Some(1), "{said}");
    let asked = said.split_once("will be stopped by your command").expect(&said).1;
    let (question, typed) = asked.split_once("to stop:").expect(&said);
    for named in [&app.source.name, &app.target.name] {
        assert!(question.contains(named.as_str()), "{question}");
    }
    assert!(!question.contains("earlier attempt"), "{question}");
    let typed = typed.split("no\r\n").next().unwrap();
    assert!(!typed.contains("starting") && !typed.contains(" s\r"), "{typed:?}");
}
