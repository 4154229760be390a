use std::collections::HashMap;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use super::choice::Choice as _;
use super::*;
use crate::pg::ErrorKind;

/// An environment of its own, with a home that is thrown away.
struct TestEnv {
    vars: HashMap<&'static str, String>,
    home: tempfile::TempDir,
}

impl TestEnv {
    fn new(vars: &[(&'static str, &str)]) -> Self {
        let mut vars: HashMap<_, _> = vars.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
        vars.entry("PGSYSCONFDIR").or_insert_with(|| "/nonexistent".into());
        Self { vars, home: tempfile::tempdir().unwrap() }
    }

    fn file(&self, name: &str, text: &str, mode: u32) -> PathBuf {
        let path = self.home.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        path
    }
}

impl Env for TestEnv {
    fn var(&self, name: &str) -> Option<String> {
        self.vars.get(name).cloned()
    }

    fn home(&self) -> Option<PathBuf> {
        Some(self.home.path().to_owned())
    }

    fn user_name(&self) -> Option<String> {
        Some("me".into())
    }
}

fn resolve(given: &str, env: &TestEnv) -> ConnInfo {
    ConnInfo::resolve(Side::Source, Some(given), env).unwrap_or_else(|error| panic!("{given}: {error}"))
}

fn refusal(given: &str, env: &TestEnv) -> crate::pg::Error {
    ConnInfo::resolve(Side::Target, Some(given), env).expect_err(given)
}

fn password(info: &ConnInfo, host: usize) -> Option<&str> {
    info.hosts[host].password.as_ref().map(|password| password.secret.expose())
}

#[test]
fn defaults_are_libpqs() {
    let info = resolve("", &TestEnv::new(&[]));
    assert_eq!((info.user(), info.dbname(), info.hosts().len()), ("me", "me", 1));
    assert!(info.hosts()[0].is_unix());
    assert_eq!(info.hosts()[0].port, 5432);
    assert_eq!((info.tls.mode, info.channel_binding), (SslMode::Prefer, ChannelBinding::Prefer));
    assert_eq!(info.connect_timeout, None);
    assert!(info.keepalives.enabled);
    assert_eq!(info.keepalives.idle, Duration::from_secs(30));
    assert_eq!(info.application_name, "pgconvoy");
    assert!(info.warnings.is_empty());
}

#[test]
fn string_beats_service_beats_variable() {
    let env = TestEnv::new(&[("PGHOST", "env"), ("PGUSER", "env"), ("PGDATABASE", "env"), ("PGPORT", "1")]);
    env.file(
        ".pg_service.conf",
        "[other]\nhost=no\n[s]\n# words\nhost=service\nuser=service\nuser=second\n\n[t]\nport=9\n",
        0o600,
    );
    let info = resolve("service=s host=given", &env);
    assert_eq!(info.address(), "given:1/env");
    assert_eq!(info.user(), "service");
    let info = resolve("service=s", &env);
    assert_eq!(info.address(), "service:1/env");
}

#[test]
fn services_are_found_where_libpq_looks() {
    let mut env = TestEnv::new(&[("PGSERVICE", "s")]);
    let error = refusal("", &env);
    assert!(error.to_string().contains("no service \"s\""), "{error}");
    assert!(error.hint().unwrap().contains(".pg_service.conf"));
    env.file("system/pg_service.conf", "[s]\nhost=system\n", 0o644);
    env.vars.insert("PGSYSCONFDIR", env.home.path().join("system").display().to_string());
    assert_eq!(resolve("", &env).hosts()[0].name, "system");
    let own = env.file("own.conf", "[s]\nhost=own\nsslmode=require\n", 0o644);
    env.vars.insert("PGSERVICEFILE", own.display().to_string());
    let info = resolve("", &env);
    assert_eq!((info.hosts()[0].name.as_str(), info.tls.mode), ("own", SslMode::Require));
    for (text, wanted) in [("[s]\nhots=a\n", "line 2"), ("[s]\nhost\n", "\"=\""), ("[s]\nservice=t\n", "another")] {
        env.file("own.conf", text, 0o644);
        let error = refusal("", &env);
        assert!(error.to_string().contains(wanted), "{error}");
    }
}

#[test]
fn a_side_has_a_variable_of_its_own() {
    let env = TestEnv::new(&[("PGCONVOY_SOURCE", "host=s"), ("PGCONVOY_TARGET", "postgres://t"), ("PGHOST", "x")]);
    let name = |side, given| ConnInfo::resolve(side, given, &env).unwrap().hosts[0].name.clone();
    assert_eq!(name(Side::Source, None), "s");
    assert_eq!(name(Side::Target, None), "t");
    assert_eq!(name(Side::Target, Some("dbname=d")), "x");
}

#[test]
fn hosts_addresses_and_ports_pair_up() {
    let env = TestEnv::new(&[]);
    let info = resolve("host=a,/run/x, hostaddr=,,::1 port=1,,3 dbname=d", &env);
    let shown: Vec<_> = info.hosts().iter().map(|host| (host.name.as_str(), host.addr, host.port)).collect();
    assert_eq!(shown, [("a", None, 1), ("/run/x", None, 5432), ("", Some("::1".parse().unwrap()), 3)]);
    assert_eq!(info.address(), "a:1,/run/x:5432,[::1]:3/d");
    assert_eq!(resolve("postgres://a,b:7,c/d?port=9", &env).address(), "a:9,b:9,c:9/d");
    for given in ["host=a,b port=1,2,3", "host=a,b hostaddr=127.0.0.1", "port=0", "port=65536", "port=x", "hostaddr=a"]
    {
        assert!(matches!(*refusal(given, &env).kind, ErrorKind::Config { .. }), "{given}");
    }
}

#[test]
fn passwords_come_from_the_first_line_that_matches() {
    let env = TestEnv::new(&[]);
    let file = [
        "# host:port:db:user:comment",
        r"h\:1:5432:*:me:colon",
        "h:5432:d:me:exact",
        "h:*:*:me:any port",
        "localhost:*:*:me:local",
        r"/other:5432:*:*:a\:b\\c:d",
        "*:*:*:you:yours",
    ];
    let path = env.file(".pgpass", &file.join("\n"), 0o600);
    let cases = [
        ("host=h dbname=d", Some("exact")),
        ("host=h dbname=e", Some("any port")),
        ("host=h dbname=d port=9", Some("any port")),
        ("host=h:1 dbname=d", Some("colon")),
        ("host=/tmp", Some("local")),
        ("host=/var/run/postgresql", Some("local")),
        ("host=localhost", Some("local")),
        ("host=/other", Some(r"a:b\c:d")),
        ("hostaddr=10.0.0.1 user=you", Some("yours")),
        ("host=elsewhere", None),
        ("host=h dbname=d password=given", Some("given")),
        ("host=h passfile=/dev/null", None),
    ];
    for (given, expected) in cases {
        assert_eq!(password(&resolve(given, &env), 0), expected, "{given}");
    }
    let several = resolve("host=h,localhost dbname=d", &env);
    assert_eq!((password(&several, 0), password(&several, 1)), (Some("exact"), Some("local")));
    assert_eq!(several.hosts[0].password.as_ref().unwrap().origin, Origin::PassFile(path, 3));
}

#[test]
fn a_password_file_that_others_can_read_is_ignored_with_a_warning() {
    let env = TestEnv::new(&[]);
    for mode in [0o640, 0o604, 0o660] {
        env.file(".pgpass", "*:*:*:*:pw", mode);
        let info = resolve("host=h", &env);
        assert_eq!(password(&info, 0), None);
        assert!(info.warnings[0].contains("chmod 0600"), "{:?}", info.warnings);
    }
    let env = TestEnv::new(&[("PGPASSWORD", "env")]);
    env.file(".pgpass", "*:*:*:*:pw", 0o644);
    assert_eq!(password(&resolve("host=h", &env), 0), Some("env"));
    assert!(resolve(&format!("host=h passfile={}", env.home.path().display()), &env).warnings.is_empty());
}

#[test]
fn no_password_is_shown() {
    let env = TestEnv::new(&[("PGPASSWORD", "hunter2")]);
    for given in ["host=h", "postgres://u:hunter2@h/d"] {
        let info = resolve(given, &env);
        let shown = format!("{info:?} {} {}", info.address(), info.hosts[0].password.as_ref().unwrap().secret);
        assert!(!shown.contains("hunter2"), "{shown}");
        assert!(shown.contains("****"));
    }
}

#[test]
fn sslmode_decides_with_the_root_certificate_what_is_verified() {
    let none = TestEnv::new(&[]);
    let with_root = TestEnv::new(&[]);
    let root = with_root.file(".postgresql/root.crt", "x", 0o644);
    for (name, mode) in SslMode::VALUES {
        let given = format!("host=h sslmode={name}");
        if *mode >= SslMode::VerifyCa {
            assert!(refusal(&given, &none).hint().unwrap().contains("sslrootcert"));
        } else {
            assert_eq!(resolve(&given, &none).tls.roots, RootCertificates::None, "{name}");
        }
        let expected = match mode {
            SslMode::Disable => RootCertificates::None,
            _ => RootCertificates::File(root.clone()),
        };
        assert_eq!(resolve(&given, &with_root).tls.roots, expected, "{name}");
    }
    let info = resolve("host=h sslmode=require sslrootcert=/nonexistent", &with_root);
    assert_eq!((info.tls.roots, info.warnings.len()), (RootCertificates::None, 1));
    let system = resolve("host=h sslrootcert=system", &none);
    assert_eq!((system.tls.mode, system.tls.roots), (SslMode::VerifyFull, RootCertificates::System));
    refusal("host=h sslrootcert=system sslmode=require", &none);
    refusal("host=h sslnegotiation=direct", &none);
    assert_eq!(resolve("host=h sslnegotiation=direct sslmode=require", &none).tls.negotiation, SslNegotiation::Direct);
    refusal("host=h sslmode=disable channel_binding=require", &none);
}

#[test]
fn client_certificates_have_libpqs_defaults() {
    let env = TestEnv::new(&[]);
    assert_eq!(resolve("host=h", &env).tls.certificate, None);
    let certificate = env.file(".postgresql/postgresql.crt", "x", 0o644);
    let info = resolve("host=h", &env);
    assert_eq!(info.tls.certificate.as_deref(), Some(certificate.as_path()));
    assert_eq!(info.tls.key.as_deref(), Some(env.home.path().join(".postgresql/postgresql.key").as_path()));
    assert_eq!(resolve("host=h sslcertmode=disable", &env).tls.certificate, None);
    assert_eq!(resolve("host=h sslcert=/c sslkey=/k", &env).tls.key.as_deref(), Some(Path::new("/k")));
}

#[test]
fn settings_we_cannot_honour_are_refused() {
    let env = TestEnv::new(&[]);
    for given in [
        "gssencmode=require",
        "sslcrl=/x",
        "requirepeer=postgres",
        "replication=database",
        "require_auth=md5",
        "sslcertmode=require",
        "ssl_max_protocol_version=TLSv1.1",
    ] {
        let error = refusal(given, &env);
        assert!(matches!(*error.kind, ErrorKind::Unsupported { .. }), "{given}: {error:?}");
        assert!(error.hint().is_some());
    }
    resolve(
        "gssencmode=prefer krbsrvname=postgres client_encoding=LATIN1 sslcompression=0 max_protocol_version=latest",
        &env,
    );
    for given in ["sslmode=no", "target_session_attrs=x", "connect_timeout=x", "keepalives=x", "load_balance_hosts=x"] {
        assert!(matches!(*refusal(given, &env).kind, ErrorKind::Config { .. }), "{given}");
    }
}

#[test]
fn times_are_libpqs() {
    let env = TestEnv::new(&[]);
    let timeout = |given| resolve(given, &env).connect_timeout.map(|timeout| timeout.as_secs());
    assert_eq!(timeout("connect_timeout=0"), None);
    assert_eq!(timeout("connect_timeout=-1"), None);
    assert_eq!(timeout("connect_timeout=1"), Some(2));
    assert_eq!(timeout("connect_timeout=' 10 '"), Some(10));
    let info = resolve("keepalives_idle=7 keepalives_interval=3 keepalives_count=2 tcp_user_timeout=1500", &env);
    let expected = (Duration::from_secs(7), Some(Duration::from_secs(3)), Some(2), Some(Duration::from_millis(1500)));
    let Keepalives { idle, interval, count, user_timeout, .. } = info.keepalives;
    assert_eq!((idle, interval, count, user_timeout), expected);
    assert!(!resolve("keepalives=0", &env).keepalives.enabled);
}

#[test]
fn a_child_is_told_everything_by_its_environment() {
    let env = TestEnv::new(&[]);
    let info = resolve(
        "host=a,b hostaddr=,10.0.0.2 port=1,2 user=u password=pw dbname='x y' sslmode=require options='-c a=b'",
        &env,
    );
    let child: HashMap<_, _> = info.pg_dump_env(1).into_iter().collect();
    let value = |name: &str| child.get(name).map(String::as_str);
    assert_eq!((value("PGHOST"), value("PGHOSTADDR"), value("PGPORT")), (Some("b"), Some("10.0.0.2"), Some("2")));
    assert_eq!((value("PGUSER"), value("PGPASSWORD"), value("PGDATABASE")), (Some("u"), Some("pw"), Some("x y")));
    assert_eq!((value("PGSSLMODE"), value("PGOPTIONS")), (Some("require"), Some("-c a=b")));
    assert!(ConnInfo::libpq_variables().any(|name| name == "PGSERVICE"));
    let address = Address::Tcp("10.9.9.9:1".parse().unwrap());
    let endpoint = Endpoint { host_index: 0, address, encrypted: true, proxied: false };
    let pinned = info.pinned(&endpoint);
    assert_eq!(pinned.address(), "a:1/x y");
    assert!(pinned.pg_dump_env(0).contains(&("PGHOSTADDR".into(), "10.9.9.9".into())));
}
