//! The whole way: the program, the stand-ins for Heroku and for EC2, a real sshd for the machine, and real servers.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use pgconvoy::lab::heroku::KEY;

use crate::fixture::ORIGINAL;
use crate::program::{PLAN, heroku, run};
use crate::real::{PASSWORD, Site, TABLES, as_the_app};
use crate::sshd::Sshd;
use crate::standin::Standin;
use crate::support::{Pgconvoy, path_with_clients};

/// The pgconvoy of the machine: this very one, which writes down that it was started, and takes its time for the rows.
fn program() -> String {
    format!(
        "#!/bin/sh\n[ \"$1\" != --version ] || exec '{bin}' --version\ncase \"$*\" in *--resume*) again=' --resume';; esac\necho \"$1$again\" >>\"$PGCONVOY_HOME/starts\"\n\
         PATH='{path}'; export PATH\n[ \"$1\" != copy ] || sleep 2\n\
         restores=$(grep -c restore \"$PGCONVOY_HOME/starts\")\n\
         if [ \"$1\" = restore ] && [ \"$restores\" -gt 1 ]; then\n\
         until [ -e \"$PGCONVOY_HOME/go\" ]; do sleep 0.05; done; fi\n\
         exec '{bin}' \"$@\"\n",
        bin = env!("CARGO_BIN_EXE_pgconvoy"),
        path = path_with_clients().to_string_lossy(),
    )
}

struct Stage {
    site: Site,
    sshd: Sshd,
    standin: Standin,
}

impl Stage {
    async fn set() -> Option<Self> {
        let sshd = Sshd::start(&program())?;
        let site = Site::start(TABLES).await?;
        let standin = Standin::start();
        let host = fs::read_to_string(sshd.at("host.pub")).unwrap();
        {
            let mut world = standin.world();
            world.slowness = 1;
            world.authorized_keys = Some(sshd.at("authorized"));
            world.console =
                format!("-----BEGIN SSH HOST KEY KEYS-----\r\n{}\r\n-----END SSH HOST KEY KEYS-----\r\n", host.trim());
        }
        sshd.says("ready");
        Some(Self { site, sshd, standin })
    }

    fn heroku(&self, args: &[&str]) -> Pgconvoy {
        heroku(&self.site, args)
            .env("AWS_ENDPOINT_URL_EC2", &self.standin.url)
            .env("AWS_ACCESS_KEY_ID", "AKID")
            .env("AWS_SECRET_ACCESS_KEY", "hidden")
            .env("AWS_SESSION_TOKEN", "")
            .env("PGCONVOY_STATE", self.sshd.at("state"))
    }

    async fn plan(&self, more: &[&str]) -> String {
        let plan = self.site.plan().display().to_string();
        let user = std::process::Command::new("id").arg("-un").output().unwrap().stdout;
        let (user, port) = (String::from_utf8(user).unwrap(), format!("Port={}", self.sshd.port));
        let program = self.sshd.at("pgconvoy").display().to_string();
        let machine = [
            "--ec2",
            "--ec2-image",
            "ami-x",
            "--ssh-user",
            user.trim(),
            "--ssh-option",
            &port,
            "--ssh-from",
            "127.0.0.1/32",
            "--ec2-program",
            &program,
        ];
        let planned = run(self.heroku(&[&PLAN[..], &[&plan], &machine, more].concat())).await.expect_success();
        for said in
            ["pgconvoy ec2 up --run", "--region us-east-1", "pgconvoy ec2 down --run", "i4i.4xlarge in us-east-1"]
        {
            assert!(planned.stdout.contains(said), "{said}: {}", planned.stdout);
        }
        plan
    }

    fn starts(&self) -> Vec<String> {
        let starts = fs::read_to_string(self.sshd.at("home/.pgconvoy/starts")).unwrap_or_default();
        starts.lines().map(ToOwned::to_owned).collect()
    }

    /// One machine was made, and it has ended with all that belongs to it.
    #[track_caller]
    fn assert_machine_has_ended(&self) {
        let world = self.standin.world();
        let states: Vec<&str> = world.instances.iter().map(|one| one.state).collect();
        assert_eq!(states, ["terminated"]);
        assert!(world.groups.is_empty() && world.key_pairs.is_empty());
    }

    fn assert_no_secret(&self) {
        self.site.assert_no_secret_in_files();
        for entry in walk(&self.sshd.at("home")) {
            let text = fs::read(&entry).unwrap_or_default();
            assert!(!String::from_utf8_lossy(&text).contains(PASSWORD), "{}", entry.display());
        }
        for (_, asked) in &self.standin.world().calls {
            assert!(!asked.values().any(|value| value.contains(PASSWORD) || value.contains(KEY)), "{asked:?}");
        }
    }
}

fn walk(directory: &Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() { found.extend(walk(&path)) } else { found.push(path) }
    }
    found
}

async fn wait_for(what: &str, is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(120);
    while !is_so() {
        assert!(Instant::now() < deadline, "{what} never came");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

const YES: [&str; 2] = ["--yes-i-mean", "sphinx"];

/// Killed while the machine copies: the job goes on, is found again through a connection that breaks, and is not started twice.
#[tokio::test(flavor = "multi_thread")]
async fn a_job_outlives_the_run_that_started_it_and_is_found_again() {
    let Some(stage) = Stage::set().await else { return };
    let plan = stage.plan(&[]).await;
    let mut child = stage.heroku(&[&["run", plan.as_str()], &YES[..]].concat()).spawn();
    wait_for("the copy", || stage.starts().contains(&"copy".to_owned())).await;
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(!stage.site.is_up());

    let resumed = stage.heroku(&[&["resume", plan.as_str()], &YES[..]].concat());
    let resumed = tokio::task::spawn_blocking(move || resumed.run());
    stage.sshd.cut();
    let resumed = resumed.await.unwrap().expect_success();
    assert!(resumed.stdout.contains("finished") && resumed.stdout.contains(" GB/s"), "{}", resumed.stdout);
    assert!(resumed.stdout.contains("moved: 11001 rows"), "{}", resumed.stdout);
    assert!(
        resumed.stdout.contains("machine ") && resumed.stdout.contains("Heroku and AWS billed about $"),
        "{}",
        resumed.stdout
    );
    // Both servers are looked at again before the app goes down.
    assert_eq!(stage.starts(), ["preflight", "preflight", "copy", "verify"]);
    stage.assert_machine_has_ended();
    stage.assert_no_secret();
    assert!(stage.site.is_up());
    assert_eq!(as_the_app(&stage.site.last, "SELECT count(*) FROM lines").await.unwrap(), "9000");
}

const NO_INDEX: &str = "
    CREATE FUNCTION pg_catalog.no_index() RETURNS event_trigger LANGUAGE plpgsql
        AS $$ BEGIN RAISE EXCEPTION 'no index today'; END $$;
    CREATE EVENT TRIGGER no_index ON ddl_command_start WHEN TAG IN ('CREATE INDEX')
        EXECUTE FUNCTION pg_catalog.no_index()";

/// A restore that fails goes on from the machine's disk; then the run is stopped, and nothing is left.
#[tokio::test(flavor = "multi_thread")]
async fn rehearsed_by_way_of_a_dump_on_the_machine() {
    let Some(stage) = Stage::set().await else { return };
    let plan = stage.plan(&["--keep-dump", "--final-plan", "standard-5"]).await;
    // The new server makes no index, until the restore has failed of it.
    stage.site.new.execute("shop", NO_INDEX).await.unwrap();
    let rehearsal = stage.heroku(&[&["rehearse", plan.as_str()], &YES[..]].concat());
    let rehearsal = tokio::task::spawn_blocking(move || rehearsal.run());
    wait_for("another restore", || stage.starts().iter().filter(|verb| verb.starts_with("restore")).count() == 2).await;
    stage.site.new.execute("shop", "DROP EVENT TRIGGER no_index").await.unwrap();
    fs::write(stage.sshd.at("home/.pgconvoy/go"), "").unwrap();
    let rehearsed = rehearsal.await.unwrap().expect_success();
    for said in
        ["expected of the real run", "the machine on EC2 (i4i.4xlarge in us-east-1): $1.37 an hour", "downtime: about"]
    {
        assert!(rehearsed.stdout.contains(said), "{said}: {}", rehearsed.stdout);
    }
    assert!(rehearsed.stderr.contains("tried again from the dump"), "{}", rehearsed.stderr);
    assert!(rehearsed.stderr.contains("no index today"), "{}", rehearsed.stderr);
    assert_eq!(stage.starts(), ["preflight", "dump", "restore", "restore --resume", "verify"]);
    stage.assert_machine_has_ended();
    let left = stage.site.server.world.with(|world| world.addons.iter().map(|a| a.name.clone()).collect::<Vec<_>>());
    assert_eq!(left, [ORIGINAL]);
    assert!(stage.site.is_up());
}

/// Taken back while the machine copies: the app is up on its old database, and nothing is paid for but databases.
#[tokio::test(flavor = "multi_thread")]
async fn an_abort_ends_the_machine_and_its_job() {
    let Some(stage) = Stage::set().await else { return };
    // The reply to the request for the machine is lost: it is found, not made again.
    stage.standin.fault("RunInstances", crate::standin::Fault::LoseReply);
    let plan = stage.plan(&[]).await;
    let mut child = stage.heroku(&[&["run", plan.as_str()], &YES[..]].concat()).spawn();
    wait_for("the copy", || stage.starts().contains(&"copy".to_owned())).await;
    child.kill().unwrap();
    child.wait().unwrap();
    let back = run(stage.heroku(&["abort", &plan])).await.expect_code(1);
    assert!(back.stdout.contains("everything is as it was before"), "{}", back.stdout);
    stage.site.assert_as_it_was().await;
    stage.assert_machine_has_ended();
    let gone = run(stage.heroku(&[&["cleanup", plan.as_str()], &YES[..]].concat())).await.expect_success();
    assert!(gone.stdout.contains("-dump") && gone.stdout.contains("-new"), "{}", gone.stdout);
}
