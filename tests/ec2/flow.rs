//! A machine's life, and what may go wrong in it.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use pgconvoy::cloud::ec2::{Api, Credentials, Error, Keys, Leftover, Machine, Pace, State, Wanted, sweep};
use pgconvoy::cloud::http::Patience;
use pgconvoy::model::Secret;
use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;

use crate::standin::{Fault, Standin, decoded};

pub fn api(url: &str) -> Api {
    let credentials =
        Credentials { access_key_id: "AKID".into(), secret_access_key: Secret::new("hidden"), session_token: None };
    let patience = Patience {
        attempts: 4,
        first_wait: Duration::from_millis(1),
        longest_wait: Duration::from_millis(5),
        ..Patience::default()
    };
    Api::at(url, "us-east-1", credentials, patience, CancellationToken::new()).unwrap()
}

pub fn pace() -> Pace {
    Pace {
        look_every: Duration::from_millis(5),
        start_for: Duration::from_secs(20),
        ready_for: Duration::from_secs(30),
        end_for: Duration::from_secs(20),
    }
}

pub fn machine(standin: &Standin, run: &str, state: &Path, change: impl Fn(&mut Wanted)) -> Machine {
    let program = Some("/dev/null".into());
    let mut wanted = Wanted { ssh_from: Some("192.0.2.7/32".into()), program, ..Wanted::default() };
    change(&mut wanted);
    Machine::new(api(&standin.url), run, wanted, Keys::below(state, run).unwrap()).unwrap().paced(pace())
}

fn quiet(_: &str) {}

#[test]
fn a_machine_is_asked_for_as_it_must_be() {
    let (standin, state) = (Standin::start(), tempfile::tempdir().unwrap());
    standin.world().slowness = 2;
    let mut said = Vec::new();
    let made =
        machine(&standin, "shop-1", state.path(), |_| ()).launch(&mut |text| said.push(text.to_owned())).unwrap();
    assert_eq!(
        (made.id.as_str(), &made.state, made.public_ip.as_deref()),
        ("i-0001", &State::Running, Some("127.0.0.1"))
    );
    assert!(said[0].starts_with("asking for i4i.4xlarge in us-east-1, about $1.37 an hour, at most $16"), "{said:?}");

    let world = standin.world();
    let asked = &world.instances[0].asked;
    for (name, value) in [
        ("ImageId", "ami-new-amd"),
        ("InstanceType", "i4i.4xlarge"),
        ("MinCount", "1"),
        ("MaxCount", "1"),
        ("ClientToken", "shop-1-i4i.4xlarge"),
        ("InstanceInitiatedShutdownBehavior", "terminate"),
        ("MetadataOptions.HttpTokens", "required"),
        ("SecurityGroupId.1", "sg-pgconvoy-shop-1"),
        ("TagSpecification.1.ResourceType", "instance"),
        ("TagSpecification.1.Tag.2.Key", "pgconvoy-run"),
        ("TagSpecification.1.Tag.2.Value", "shop-1"),
        ("TagSpecification.1.Tag.3.Key", "pgconvoy-expires"),
    ] {
        assert_eq!(asked.get(name).map(String::as_str), Some(value), "{name}");
    }
    assert!(made.expires.unwrap() > OffsetDateTime::now_utc() + Duration::from_secs(11 * 3600));
    let (_, ingress) = world.calls.iter().find(|(name, _)| name == "AuthorizeSecurityGroupIngress").unwrap();
    assert_eq!(ingress["IpPermissions.1.IpRanges.1.CidrIp"], "192.0.2.7/32");
    assert_eq!(
        (ingress["IpPermissions.1.FromPort"].as_str(), ingress["IpPermissions.1.ToPort"].as_str()),
        ("22", "22")
    );
    let user_data = String::from_utf8(decoded(&asked["UserData"])).unwrap();
    assert!(user_data.starts_with("#!/bin/bash\nMINUTES=720 PG_CLIENT=18 WHO=ubuntu\n"), "{user_data}");
    for secret in ["hidden", "postgres://", "PRIVATE KEY"] {
        assert!(!user_data.contains(secret), "{secret}");
    }
}

#[test]
fn a_lost_reply_makes_no_second_machine() {
    let (standin, state) = (Standin::start(), tempfile::tempdir().unwrap());
    for action in ["RunInstances", "ImportKeyPair", "CreateSecurityGroup", "AuthorizeSecurityGroupIngress"] {
        standin.fault(action, Fault::LoseReply);
    }
    let made = machine(&standin, "r", state.path(), |_| ()).launch(&mut quiet).unwrap();
    assert_eq!((made.id.as_str(), standin.world().instances.len()), ("i-0001", 1));
    assert_eq!(standin.count("RunInstances"), 2);
}

#[test]
fn another_process_finds_the_machine_of_one_that_died_without_a_reply() {
    // First where EC2 lists it at once, then where it does so only after some looks.
    for hidden in [0, 4] {
        let (standin, state) = (Standin::start(), tempfile::tempdir().unwrap());
        standin.world().hidden = hidden;
        for _ in 0..4 {
            standin.fault("RunInstances", Fault::LoseReply);
        }
        let error = machine(&standin, "r", state.path(), |_| ()).launch(&mut quiet).unwrap_err();
        assert!(error.to_string().contains("RunInstances"), "{error}");
        // Its time to live is another one by now, so the token alone would be refused.
        let found = machine(&standin, "r", state.path(), |wanted| wanted.minutes = 30).launch(&mut quiet).unwrap();
        assert_eq!((found.id.as_str(), standin.world().instances.len()), ("i-0001", 1), "hidden for {hidden}");
    }
}

#[test]
fn where_none_is_left_the_next_type_is_taken() {
    let (standin, state) = (Standin::start(), tempfile::tempdir().unwrap());
    let kinds = |wanted: &mut Wanted| wanted.kinds = vec!["i4i.4xlarge".into(), "i8g.4xlarge".into()];
    standin.fault("RunInstances", Fault::Refuse(500, "InsufficientInstanceCapacity"));
    let made = machine(&standin, "r", state.path(), kinds).launch(&mut quiet).unwrap();
    assert_eq!((made.kind.as_str(), made.image.as_deref()), ("i8g.4xlarge", Some("ami-new-arm")));
    assert_eq!(standin.count("RunInstances"), 2, "a lack of machines is not waited for");

    let standin = Standin::start();
    for _ in 0..2 {
        standin.fault("RunInstances", Fault::Refuse(500, "InsufficientInstanceCapacity"));
    }
    let error = machine(&standin, "q", state.path(), kinds).launch(&mut quiet).unwrap_err();
    assert!(matches!(error, Error::NoCapacity { .. }), "{error}");
    assert!(error.hint().unwrap().contains("--type"));
}

#[test]
fn disks_of_old_types_are_asked_for() {
    let (standin, state) = (Standin::start(), tempfile::tempdir().unwrap());
    machine(&standin, "r", state.path(), |wanted| wanted.kinds = vec!["i2.4xlarge".into()]).launch(&mut quiet).unwrap();
    let world = standin.world();
    let asked = &world.instances[0].asked;
    assert_eq!(asked["BlockDeviceMapping.4.DeviceName"], "/dev/sde");
    assert_eq!(asked["BlockDeviceMapping.4.VirtualName"], "ephemeral3");
    assert!(!asked.contains_key("BlockDeviceMapping.5.DeviceName"));
}

#[test]
fn throttling_is_waited_for_and_refusals_are_not() {
    let (standin, state) = (Standin::start(), tempfile::tempdir().unwrap());
    standin.fault("RunInstances", Fault::Refuse(503, "RequestLimitExceeded"));
    standin.fault("RunInstances", Fault::Refuse(400, "Throttling"));
    standin.fault("DescribeInstances", Fault::Refuse(500, "InternalError"));
    machine(&standin, "r", state.path(), |_| ()).launch(&mut quiet).unwrap();
    assert_eq!(standin.world().instances.len(), 1);

    standin.fault("RunInstances", Fault::Refuse(403, "UnauthorizedOperation"));
    let before = standin.count("RunInstances");
    let error = machine(&standin, "q", state.path(), |_| ()).launch(&mut quiet).unwrap_err();
    assert_eq!(error.code(), Some("UnauthorizedOperation"));
    assert!(error.hint().unwrap().contains("permissions"));
    assert_eq!(standin.count("RunInstances"), before + 1);
}

#[test]
fn a_machine_that_dies_at_its_start_says_why() {
    let (standin, state) = (Standin::start(), tempfile::tempdir().unwrap());
    standin.world().dies = Some("Server.SpotInstanceTermination");
    let error = machine(&standin, "r", state.path(), |_| ()).launch(&mut quiet).unwrap_err();
    assert_eq!(error.to_string(), "the machine i-0001 is terminated (Server.SpotInstanceTermination)");
    standin.world().dies = None;
    // Its token still stands for it: the dead machine is not taken for one.
    let error = machine(&standin, "r", state.path(), |wanted| wanted.minutes = 33).launch(&mut quiet).unwrap_err();
    assert!(error.to_string().contains("has had its machine (i-0001, terminated)"), "{error}");
}

#[test]
fn the_end_is_proven_and_leaves_nothing() {
    let (standin, state) = (Standin::start(), tempfile::tempdir().unwrap());
    let machine = machine(&standin, "r", state.path(), |_| ());
    machine.launch(&mut quiet).unwrap();
    standin.world().slowness = 6;
    standin.fault("TerminateInstances", Fault::LoseReply);
    standin.fault("DeleteSecurityGroup", Fault::LoseReply);
    assert_eq!(machine.end(&mut quiet).unwrap(), ["i-0001"]);
    {
        let world = standin.world();
        assert_eq!(world.instances[0].state, "terminated");
        assert!(world.groups.is_empty() && world.key_pairs.is_empty());
    }
    assert!(!state.path().join("ec2/r").exists());
    // Again, with a run that is not known in this region: its key may be needed in another.
    let key = state.path().join("ec2/elsewhere/id_ed25519");
    std::fs::create_dir_all(key.parent().unwrap()).unwrap();
    std::fs::write(&key, "").unwrap();
    let elsewhere = self::machine(&standin, "elsewhere", state.path(), |_| ());
    assert!(elsewhere.end(&mut quiet).unwrap().is_empty() && key.is_file());
}

#[test]
fn a_machine_that_is_listed_late_is_ended_too() {
    let (standin, state) = (Standin::start(), tempfile::tempdir().unwrap());
    standin.world().slowness = 3;
    // As `up` that was killed leaves it: asked for, and not listed yet.
    for _ in 0..4 {
        standin.fault("RunInstances", Fault::LoseReply);
    }
    let machine = machine(&standin, "r", state.path(), |_| ());
    machine.launch(&mut quiet).unwrap_err();
    standin.world().instances[0].hidden = 5;
    assert_eq!(machine.end(&mut quiet).unwrap(), ["i-0001"]);
    assert_eq!(standin.world().instances[0].state, "terminated");
}

#[test]
fn two_machines_of_a_run_are_named_and_both_ended() {
    let (standin, state) = (Standin::start(), tempfile::tempdir().unwrap());
    let machine = machine(&standin, "r", state.path(), |_| ());
    machine.launch(&mut quiet).unwrap();
    {
        let mut world = standin.world();
        let mut twin = world.instances[0].clone();
        twin.id = "i-twin".into();
        world.instances.push(twin);
    }
    let error = machine.find().unwrap_err();
    assert!(matches!(&error, Error::Several { ids, .. } if ids == &["i-0001", "i-twin"]), "{error}");
    assert_eq!(machine.end(&mut quiet).unwrap(), ["i-0001", "i-twin"]);
}

#[test]
fn sweeping_ends_what_has_outlived_its_time_and_nothing_else() {
    let (standin, state) = (Standin::start(), tempfile::tempdir().unwrap());
    for (run, minutes) in [("old", 15), ("new", 600)] {
        machine(&standin, run, state.path(), |wanted| wanted.minutes = minutes).launch(&mut quiet).unwrap();
    }
    {
        let mut world = standin.world();
        let mut stranger = world.instances[0].clone();
        (stranger.id, stranger.tags) = ("i-stranger".into(), vec![("Name".into(), "web".into())]);
        world.instances.push(stranger);
        world.key_pairs.insert("pgconvoy-gone-1".into(), "gone".into());
        world.groups.insert("sg-pgconvoy-gone".into(), "gone".into());
    }
    let api = api(&standin.url);
    let later = OffsetDateTime::now_utc() + Duration::from_secs(3600);
    let leftover = Leftover::find(&api).unwrap();
    assert_eq!((leftover.machines.len(), leftover.orphans()), (2, 2));
    assert!(leftover.expired(OffsetDateTime::now_utc()).is_empty());
    let swept = sweep(&api, &leftover, later).unwrap();
    assert_eq!((swept.ended, swept.key_pairs, swept.groups), (vec!["i-0001".to_owned()], 1, 1));
    let world = standin.world();
    let states: Vec<&str> = world.instances.iter().map(|one| one.state).collect();
    assert_eq!(states, ["shutting-down", "running", "running"]);
    assert_eq!((world.key_pairs.len(), world.groups.len()), (2, 2), "those of runs with a machine stay");
}

#[test]
fn sweeping_says_where_it_has_looked() {
    let standin = Standin::start();
    let sweep = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pgconvoy"));
        command.args(["ec2", "sweep"]).args(arguments).stdin(Stdio::null());
        command.env("AWS_ENDPOINT_URL_EC2", &standin.url).env_remove("AWS_SESSION_TOKEN");
        command.env("AWS_ACCESS_KEY_ID", "AKID").env("AWS_SECRET_ACCESS_KEY", "hidden").env("AWS_REGION", "eu-west-1");
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(sweep(&[]), "nothing to sweep in eu-west-1, us-east-1\n");
    assert_eq!(standin.count("DescribeInstances"), 2);
    assert_eq!(sweep(&["--region", "us"]), "nothing to sweep in us-east-1\n");
}

#[test]
fn names_that_could_be_more_than_names_are_refused() {
    let state = tempfile::tempdir().unwrap();
    for name in ["", "A", "a b", "../x", "-x", "a;b", &"x".repeat(41)] {
        assert!(Keys::below(state.path(), name).is_err(), "{name}");
    }
}

#[test]
fn a_program_for_another_processor_is_refused_before_anything_costs_money() {
    let (standin, state) = (Standin::start(), tempfile::tempdir().unwrap());
    let program = state.path().join("pgconvoy");
    let mut head = *b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x03\0\xb7\0";
    std::fs::write(&program, head).unwrap();
    let here = |wanted: &mut Wanted| wanted.program = Some(program.clone());
    let error = machine(&standin, "r", state.path(), here).launch(&mut quiet).unwrap_err();
    assert!(error.to_string().ends_with("is not a program for Linux on x86-64: name one with --program"), "{error}");
    assert_eq!(standin.world().calls.len(), 0);
    head[18] = 0x3e;
    std::fs::write(&program, head).unwrap();
    machine(&standin, "r", state.path(), here).launch(&mut quiet).unwrap();
}
