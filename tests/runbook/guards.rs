//! What is refused, because it is not known, or because somebody else would go on using what is left behind.

use std::sync::Arc;

use pgconvoy::cloud::heroku::{Credentials, Heroku, HttpTransport};
use pgconvoy::lab::heroku::{HerokuServer, KEY, Setup, State, World};
use pgconvoy::runbook::heroku::{Kind, Order, Plan, ToPlan, Wishes, make_plan};
use pgconvoy::runbook::{Answer, Confirm, Ended, Gate, Result};

use crate::fixture::{Case, ORIGINAL, wishes};

async fn plan(case: &Case, wishes: Wishes, kind: Kind, run: &str) -> (Plan, Vec<String>) {
    let to_plan = ToPlan { app: "sphinx", wishes, kind, measured: None, run: run.into() };
    make_plan(&case.heroku, &case.databases, to_plan).await.unwrap()
}

fn name_another(world: &mut State, name: &str) {
    let original = world.addon(ORIGINAL).unwrap();
    let (id, url) = (original.id.clone(), original.url.clone());
    let mut attachment = world.attachments.iter().find(|a| a.addon_id == id).unwrap().clone();
    (attachment.id, attachment.name) = (name.into(), name.into());
    world.attachments.push(attachment);
    world.config.insert(format!("{name}_URL"), url);
}

fn copy_address(world: &mut State, name: &str) {
    let url = world.addon(ORIGINAL).unwrap().url.clone();
    world.config.insert(name.into(), url.replace("postgres://", "jdbc:postgresql://"));
}

fn forget(world: &mut State, name: &str) {
    world.attachments.retain(|attachment| attachment.name != name);
    world.config.remove(name);
    world.config.remove(&format!("{name}_URL"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_known_is_refused() {
    type Change = fn(&mut State);
    let cases: [(&str, Change); 6] = [
        ("how many credentials", |world| world.unsaid.push("Credentials".into())),
        ("which version", |world| world.unsaid.push("PG Version".into())),
        ("whether postgresql-white-1 has followers", |world| world.unsaid.push("Status".into())),
        ("no process types", |world| world.formation.clear()),
        ("REPORTS_URL leads to postgresql-white-1", |world| name_another(world, "REPORTS")),
        ("REPORTING holds the address", |world| copy_address(world, "REPORTING")),
    ];
    for (said, change) in cases {
        let case = Case::new().await;
        case.world.with(change);
        let (_, refusals) = plan(&case, wishes(), Kind::Migration, "t2").await;
        assert!(refusals.iter().any(|refusal| refusal.contains(said)), "{said}: {refusals:?}");
        assert!(case.execute(Order::Run).await.is_err());
        assert!(!case.world.with(|world| world.log.iter().any(|l| l.method != "GET")), "{said}");
        let accepted = Wishes { other_names_are_unused: true, ..wishes() };
        let (_, refusals) = plan(&case, accepted, Kind::Migration, "t2").await;
        assert_eq!(refusals.is_empty(), said.starts_with("REPORT"), "{said}: {refusals:?}");
    }
}

/// Names that Heroku gives by itself, and addresses of other databases, are nobody's business.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_usual_is_not_refused() {
    let case = Case::new().await;
    case.world.with(|world| {
        name_another(world, "HEROKU_POSTGRESQL_GREEN");
        world.config.insert("REDIS_URL".into(), "redis://h:password@127.0.0.1:11/0".into());
        world.config.insert("SECRET_KEY_BASE".into(), "p0u0d0".into());
    });
    assert_eq!(plan(&case, wishes(), Kind::Migration, "t2").await.1, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_run_for_the_same_app_is_refused() {
    let case = Case::new().await;
    let held = case.execute_with(Order::Run, None, &NotYet("freeze"), false).await.unwrap();
    assert!(matches!(held, Ended::Held { .. }), "{held:?}");
    let (_, refusals) = plan(&case, wishes(), Kind::Migration, "t2").await;
    assert!(refusals.iter().any(|refusal| refusal.contains("pgconvoy-t1-dump is of another run")), "{refusals:?}");
    // Its own follower is no reason to stop, and at its end nothing is in the way of the next.
    assert_eq!(case.execute(Order::Resume).await.unwrap(), Ended::Finished);
    assert_eq!(plan(&case, wishes(), Kind::Migration, "t2").await.1, Vec::<String>::new());
}

/// An app that runs on more dynos than Heroku names at once is not without dynos.
#[tokio::test(flavor = "multi_thread")]
async fn lists_are_read_to_their_end() {
    let world = Arc::new(World::new(Setup::default()));
    world.with(|world| (world.formation[0].quantity, world.page_max) = (7, Some(3)));
    let server = HerokuServer::start(world).unwrap();
    let host = server.url();
    let given = |name: &str| match name {
        "HEROKU_API_KEY" => Some(KEY.to_owned()),
        "HEROKU_HOST" => Some(host.clone()),
        "HEROKU_DATA_HOST" => Some("127.0.0.1".into()),
        _ => None,
    };
    let heroku = Heroku::new(HttpTransport::new(&Credentials::from_env(given).unwrap()).unwrap());
    let names: Vec<String> = heroku.dynos("sphinx").unwrap().into_iter().map(|dyno| dyno.name).collect();
    assert_eq!(names, ["web.1", "web.2", "web.3", "web.4", "web.5", "web.6", "web.7", "worker.1"]);
    assert_eq!(heroku.plans().unwrap().len(), 6);
    assert_eq!(heroku.attachments("sphinx").unwrap().len(), 2);
}

/// Says yes, but not to this gate.
struct NotYet(&'static str);

impl Confirm for NotYet {
    fn confirm(&self, gate: &Gate) -> Result<Answer> {
        Ok(if gate.name == self.0 { Answer::Hold } else { Answer::Yes })
    }
}

/// Everything is done but the destruction of the old databases; then something has changed.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_destroyed_that_may_be_in_use() {
    type Change = fn(&mut State);
    let other_id: Change = |world| {
        let addon = world.addons.iter_mut().find(|addon| addon.name == ORIGINAL).unwrap();
        let id = std::mem::replace(&mut addon.id, "00000000-0000-4000-8000-00000000ffff".into());
        for attachment in world.attachments.iter_mut().filter(|attachment| attachment.addon_id == id) {
            attachment.addon_id = "00000000-0000-4000-8000-00000000ffff".into();
        }
    };
    let cases: [(&str, Change, Option<Change>); 5] = [
        ("does not say whether", |world| world.unsaid.push("Plan".into()), Some(|world| world.unsaid.clear())),
        ("REPORTS_URL leads to", |world| name_another(world, "REPORTS"), Some(|world| forget(world, "REPORTS"))),
        (
            "REPORTING holds the address",
            |world| copy_address(world, "REPORTING"),
            Some(|world| forget(world, "REPORTING")),
        ),
        (
            "is attached to reports",
            |world| {
                name_another(world, "THEIRS");
                world.attachments.last_mut().unwrap().app = "reports".into();
            },
            Some(|world| forget(world, "THEIRS")),
        ),
        ("is not the database that this run knows", other_id, None),
    ];
    for (said, change, repair) in cases {
        let case = Case::new().await;
        let held = case.execute_with(Order::Run, None, &NotYet("destroy"), false).await.unwrap();
        assert!(matches!(held, Ended::Held { .. }), "{held:?}");
        case.world.with(change);
        let refused = case.execute(Order::Resume).await.unwrap_err().to_string();
        assert!(refused.contains(said), "{said}: {refused}");
        assert!(case.addons().contains(&ORIGINAL.to_owned()), "{said}");
        if let Some(repair) = repair {
            case.world.with(repair);
            assert_eq!(case.execute(Order::Resume).await.unwrap(), Ended::Finished, "{said}");
            case.assert_migrated();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_its_own_rehearsal_is_the_rehearsal_of_a_plan() {
    let case = Case::with(Setup::default(), wishes(), Kind::Migration).await;
    let (real, _) = plan(&case, wishes(), Kind::Migration, "a1").await;
    let (own, _) = plan(&case, wishes(), Kind::Rehearsal, &real.run_of_rehearsal()).await;
    assert!(own.rehearses(&real));
    let (earlier, _) = plan(&case, wishes(), Kind::Rehearsal, "b2r").await;
    assert!(!earlier.rehearses(&real));
    let other = Wishes { jobs: 9, ..wishes() };
    assert!(!plan(&case, other, Kind::Rehearsal, &real.run_of_rehearsal()).await.0.rehearses(&real));
    assert!(!real.rehearses(&real));
}
