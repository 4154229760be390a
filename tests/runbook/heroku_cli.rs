//! The real heroku program against our stand-in: an independent check of what the stand-in answers.
//!
//! Asks npm for 400 MB, so only where `PGCONVOY_TEST_HEROKU_CLI` is set: to `1`, or to the path of a heroku program.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use pgconvoy::lab::heroku::{HerokuServer, KEY, Setup, World};

use crate::fixture::ORIGINAL;
use crate::support::cache_dir;

/// That which the stand-in's facts were read from.
const PACKAGE: &str = "heroku@11.10.0";

fn say_not_tested(why: &str) {
    use std::io::Write;
    // Past the harness' capture: nobody shall think it was tested.
    let _ = std::io::stderr()
        .write_all(format!("\n*** NOT TESTED: the heroku program against the stand-in: {why}\n").as_bytes());
}

/// `None`, said aloud, where it cannot be had.
fn program() -> Option<PathBuf> {
    let wanted = std::env::var("PGCONVOY_TEST_HEROKU_CLI").unwrap_or_default();
    match wanted.as_str() {
        "" | "0" => {
            say_not_tested("PGCONVOY_TEST_HEROKU_CLI is not set");
            return None;
        }
        "1" => {}
        path => return Some(path.into()),
    }
    let entry = cache_dir().join(PACKAGE.replace('@', "-"));
    let program = entry.join("node_modules/.bin/heroku");
    if program.exists() {
        return Some(program);
    }
    std::fs::create_dir_all(cache_dir()).unwrap();
    let aside = tempfile::tempdir_in(cache_dir()).unwrap();
    // Where there is no network, it would ask for many minutes.
    let mut npm = Command::new("timeout");
    npm.args(["300", "npm", "install", "--silent", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix", "."]);
    let installed = npm.arg(PACKAGE).current_dir(aside.path()).stdin(Stdio::null()).output();
    if !installed.is_ok_and(|output| output.status.success()) {
        say_not_tested("npm does not give it");
        return None;
    }
    // Another test program may have been quicker.
    let _ = std::fs::rename(aside.keep(), &entry);
    assert!(program.exists(), "{} lacks the program", entry.display());
    Some(program)
}

struct Cli<'a> {
    program: PathBuf,
    server: &'a HerokuServer,
    home: &'a Path,
}

impl Cli<'_> {
    /// What it says on both of its outputs; it must end well.
    fn run(&self, args: &[&str]) -> String {
        let mut command = Command::new(&self.program);
        command
            .args(args)
            .args(["--app", "sphinx"])
            .env("HEROKU_HOST", self.server.url())
            .env("HEROKU_DATA_HOST", "127.0.0.1")
            .env("HEROKU_PARTICLEBOARD_URL", self.server.url())
            .env("HEROKU_API_KEY", KEY)
            .env("DISABLE_TELEMETRY", "true")
            .env("HEROKU_SKIP_NEW_VERSION_CHECK", "1")
            .env("HOME", self.home)
            .env("GIT_CONFIG_GLOBAL", self.home.join("gitconfig"))
            .stdin(Stdio::null());
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "heroku {args:?}: {said}");
        said
    }
}

/// What a person would type instead of us, as plans print it, has the effect on the stand-in that our own requests have.
#[tokio::test(flavor = "multi_thread")]
async fn the_heroku_program_does_what_plans_say() {
    let Some(program) = program() else { return };
    let world = Arc::new(World::new(Setup { provision_polls: 0, followable_polls: 0, lag: 0, ..Setup::default() }));
    let server = HerokuServer::start(Arc::clone(&world)).unwrap();
    let home = tempfile::tempdir().unwrap();
    let cli = Cli { program, server: &server, home: home.path() };
    let attached = |name: &str| world.with(|world| world.attached(name).map(|addon| addon.name.clone()));

    cli.run(&[
        "addons:create",
        "heroku-postgresql:standard-5",
        "--follow",
        "HEROKU_POSTGRESQL_WHITE_URL",
        "--name",
        "pgconvoy-x-dump",
        "--as",
        "PGCONVOY_X_DUMP",
    ]);
    let follows = world.with(|world| world.addon("pgconvoy-x-dump").and_then(|addon| addon.follows.clone()));
    let original = world.with(|world| world.addon(ORIGINAL).map(|addon| addon.id.clone()));
    assert!(follows.is_some() && follows == original);
    assert_eq!(attached("PGCONVOY_X_DUMP").as_deref(), Some("pgconvoy-x-dump"));
    let info = cli.run(&["pg:info"]);
    assert!(info.contains("Behind By") && info.contains("0 commits") && info.contains("Fork/Follow"), "{info}");
    cli.run(&[
        "addons:create",
        "heroku-postgresql:standard-5",
        "--version",
        "17",
        "--name",
        "pgconvoy-x-new",
        "--as",
        "PGCONVOY_X_NEW",
    ]);
    assert_eq!(world.with(|world| world.addon("pgconvoy-x-new").map(|addon| addon.version)), Some(17));
    cli.run(&["pg:wait", "pgconvoy-x-new"]);
    cli.run(&["maintenance:on"]);
    cli.run(&["ps:scale", "web=0", "worker=0"]);
    assert!(world.with(|world| world.maintenance && world.formation.iter().all(|process| process.quantity == 0)));
    cli.run(&["pg:unfollow", "pgconvoy-x-dump", "--confirm", "sphinx"]);
    assert_eq!(world.with(|world| world.addon("pgconvoy-x-dump").and_then(|addon| addon.follows.clone())), None);
    cli.run(&["pg:promote", "pgconvoy-x-new"]);
    assert_eq!(attached("DATABASE").as_deref(), Some("pgconvoy-x-new"));
    cli.run(&["ps:scale", "web=3:Standard-1X", "worker=1:Standard-1X"]);
    cli.run(&["maintenance:off"]);
    let formation = world.with(|world| world.formation.iter().map(|process| process.quantity).collect::<Vec<_>>());
    assert_eq!(formation, [3, 1]);
    cli.run(&["addons:destroy", ORIGINAL, "--confirm", "sphinx"]);
    assert!(world.with(|world| !world.maintenance && world.addon(ORIGINAL).is_none()));
}
