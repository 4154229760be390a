//! Connections to a real server, on both planes: logins, TLS, several hosts, cancelling, poolers.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

#[path = "connect/certs.rs"]
mod certs;
#[path = "connect/pooler.rs"]
mod pooler;
#[path = "connect/server.rs"]
mod server;
#[path = "connect/streams.rs"]
mod streams;
#[path = "connect/support.rs"]
mod support;

use std::collections::HashMap;
use std::time::{Duration, Instant};

use pgconvoy::lab::{self, Cluster, ClusterSpec, Major, Progress};
use pgconvoy::model::{ServerVersion, Side};
use pgconvoy::pg::conninfo::{Address, ConnInfo};
use pgconvoy::pg::{ErrorKind, control, wire};
use server::{Server, server};
use support::{TestEnv, connect, connect_both, dead_port, info, one, query, read_answer, refusal, send_query};
use tokio_util::sync::CancellationToken;

fn tcp(server: &Server, rest: &str) -> String {
    format!("host=localhost hostaddr=127.0.0.1 port={} dbname=postgres {rest}", server.port)
}

fn encrypted(start: &mut wire::WireStart) -> bool {
    one(start, "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()") == "t"
}

#[test]
fn every_login_works_on_both_planes() {
    let Some(server) = server() else { return };
    for (user, password) in [
        ("trust_user", ""),
        ("clear_user", "password='clear pass'"),
        ("md5_user", "password='md5 pass'"),
        ("scram_user", "password='scram pass'"),
    ] {
        for mode in ["disable", "prefer", "require"] {
            let given = tcp(server, &format!("user={user} {password} sslmode={mode}"));
            let (mut data, control, runtime) = connect_both(&given).unwrap();
            assert_eq!(one(&mut data, "SELECT current_user"), user);
            assert_eq!(encrypted(&mut data), mode != "disable", "{given}");
            assert_eq!(data.transport.is_encrypted(), data.endpoint.encrypted);
            assert_eq!(data.backend_pid, data.server_pid);
            let row = runtime.block_on(control.client.query_one("SELECT current_user::text", &[])).unwrap();
            assert_eq!(row.get::<_, String>(0), user);
            assert!(data.version >= ServerVersion::V9_6 && !data.in_recovery && !control.in_recovery);
            assert!(data.parameters.contains_key("server_version"));
        }
    }
}

#[test]
fn scram_binds_itself_to_the_tls_session() {
    let Some(server) = server() else { return };
    let scram = "user=scram_user password='scram pass'";
    connect_both(&tcp(server, &format!("{scram} sslmode=require channel_binding=require"))).unwrap();
    connect_both(&tcp(server, &format!("{scram} sslmode=require channel_binding=disable"))).unwrap();
    for rest in [
        "user=md5_user password='md5 pass' sslmode=require channel_binding=require",
        "user=clear_user password='clear pass' sslmode=require channel_binding=require",
        "user=trust_user sslmode=require channel_binding=require",
    ] {
        let error = refusal(&tcp(server, rest));
        assert!(error.to_string().contains("channel_binding=require"), "{error}");
    }
    let socket = format!("host={} port={} dbname=postgres {scram}", server.sockets.display(), server.port);
    connect_both(&socket).unwrap();
    assert!(refusal(&format!("{socket} channel_binding=require")).to_string().contains("channel_binding"));
}

#[test]
fn a_wrong_password_names_its_origin_and_not_itself() {
    let Some(server) = server() else { return };
    for user in ["scram_user", "md5_user", "clear_user"] {
        let error = refusal(&tcp(server, &format!("user={user} password=hunter2")));
        assert_eq!(error.sqlstate(), Some("28P01"), "{error:?}");
        assert_eq!(error.hint(), Some("the password came from the connection string"));
        assert!(!format!("{error:?} {error}").contains("hunter2"));
        let error = refusal(&tcp(server, &format!("user={user}")));
        assert!(error.hint().unwrap().contains("PGPASSWORD"), "{error:?}");
    }
    let env = TestEnv(HashMap::from([("PGPASSWORD", "hunter2".to_owned())]));
    let given = tcp(server, "user=scram_user");
    let info = ConnInfo::resolve(Side::Target, Some(&given), &env).unwrap();
    let error = wire::connect(&info, &CancellationToken::new()).unwrap_err();
    assert_eq!((error.side, error.hint()), (Side::Target, Some("the password came from the variable PGPASSWORD")));
}

#[test]
fn what_a_server_refuses_is_explained() {
    let Some(server) = server() else { return };
    let error = refusal(&tcp(server, "user=trust_user dbname=nowhere"));
    assert_eq!(error.sqlstate(), Some("3D000"));
    assert!(error.hint().unwrap().contains("\"nowhere\""));
    let error = refusal(&tcp(server, "user=tls_user sslmode=disable"));
    assert_eq!(error.sqlstate(), Some("28000"));
    assert!(error.hint().unwrap().contains("sslmode=require"), "{error:?}");
    let port = dead_port();
    let error = refusal(&format!("host=127.0.0.1 port={port} user=a"));
    assert!(error.to_string().contains(&format!("127.0.0.1:{port}")), "{error}");
    assert!(error.hint().unwrap().contains(&port.to_string()));
    let error = refusal(&format!("host={} port={port} user=a", server.sockets.display()));
    assert!(error.hint().unwrap().contains("socket"), "{error:?}");
    let error = refusal("host=no-such-host.invalid user=a");
    assert!(error.to_string().contains("no-such-host.invalid"), "{error}");
}

#[test]
fn a_limit_of_one_connection_is_enough_for_the_control_plane() {
    let Some(server) = server() else { return };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let given = info(&tcp(server, "user=one_user sslmode=disable"));
    let control = runtime.block_on(control::connect(&given)).unwrap();
    let error = wire::connect(control.pinned(), &CancellationToken::new()).unwrap_err();
    assert_eq!(error.sqlstate(), Some("53300"), "{error:?}");
    assert!(error.hint().unwrap().contains("--jobs"));
}

#[test]
fn sslmode_follows_the_servers_rules_where_it_may() {
    let Some(server) = server() else { return };
    for (user, mode, expected) in [
        ("tls_user", "allow", Some(true)),
        ("tls_user", "prefer", Some(true)),
        ("plain_user", "prefer", Some(false)),
        ("plain_user", "allow", Some(false)),
        ("plain_user", "require", None),
        ("tls_user", "disable", None),
    ] {
        let given = tcp(server, &format!("user={user} sslmode={mode}"));
        match expected {
            Some(expected) => assert_eq!(encrypted(&mut connect_both(&given).unwrap().0), expected, "{given}"),
            None => assert_eq!(refusal(&given).sqlstate(), Some("28000"), "{given}"),
        }
    }
    let socket = format!(
        "host={} port={} dbname=postgres user=trust_user sslmode=require",
        server.sockets.display(),
        server.port
    );
    let (mut data, ..) = connect_both(&socket).unwrap();
    assert!(!encrypted(&mut data));
    assert!(matches!(data.endpoint.address, Address::Unix(_)));
}

#[test]
fn certificates_are_verified_as_asked() {
    let Some(server) = server() else { return };
    let certs = &server.certificates;
    let with = |root: String, mode: &str, host: &str| {
        format!(
            "host={host} hostaddr=127.0.0.1 port={} dbname=postgres user=trust_user sslmode={mode} sslrootcert={root}",
            server.port
        )
    };
    for mode in ["require", "verify-ca", "verify-full"] {
        connect_both(&with(certs.path("ca.crt"), mode, "localhost")).unwrap();
        connect_both(&with(certs.server(), mode, "localhost")).unwrap();
        let error = refusal(&with(certs.path("other-ca.crt"), mode, "localhost"));
        assert!(matches!(*error.kind, ErrorKind::Tls { .. }), "{error:?}");
        assert!(error.hint().unwrap().contains("other-ca.crt"), "{error:?}");
    }
    for host in ["127.0.0.1", "db.example.com"] {
        connect_both(&with(certs.path("ca.crt"), "verify-ca", host)).unwrap();
        for root in [certs.path("ca.crt"), certs.server()] {
            let error = refusal(&with(root, "verify-full", host));
            assert!(matches!(*error.kind, ErrorKind::Tls { .. }), "{error:?}");
            assert!(error.hint().unwrap().contains("verify-ca"), "{error:?}");
        }
    }
    // prefer asks for no more than there is, but does not take a wrong certificate for a right one.
    let (mut data, ..) = connect_both(&with(certs.path("other-ca.crt"), "prefer", "localhost")).unwrap();
    assert!(!encrypted(&mut data));
    let error = refusal(&tcp(server, "user=trust_user sslrootcert=system"));
    assert!(matches!(*error.kind, ErrorKind::Tls { .. }), "{error:?}");
    for version in ["TLSv1.2", "TLSv1.3"] {
        let given = tcp(
            server,
            &format!(
                "user=trust_user sslmode=require ssl_min_protocol_version={version} ssl_max_protocol_version={version}"
            ),
        );
        let (mut data, ..) = connect_both(&given).unwrap();
        assert_eq!(one(&mut data, "SELECT version FROM pg_stat_ssl WHERE pid = pg_backend_pid()"), version);
    }
}

#[test]
fn a_client_certificate_is_a_login() {
    let Some(server) = server() else { return };
    let certs = &server.certificates;
    let with = |name: &str| {
        let (certificate, key) = (certs.path(&format!("{name}.crt")), certs.path(&format!("{name}.key")));
        tcp(server, &format!("user=cert_user sslmode=require sslcert={certificate} sslkey={key}"))
    };
    let (mut data, ..) = connect_both(&with("client")).unwrap();
    assert_eq!(one(&mut data, "SELECT client_dn FROM pg_stat_ssl WHERE pid = pg_backend_pid()"), "/CN=cert_user");
    let error = refusal(&with("stranger"));
    assert!(matches!(*error.kind, ErrorKind::Tls { .. }), "{error:?}");
    assert!(error.hint().unwrap().contains("client certificate"), "{error:?}");
    let error = refusal(&tcp(server, "user=cert_user sslmode=require"));
    assert_eq!(error.sqlstate(), Some("28000"), "{error:?}");

    let open = tempfile::NamedTempFile::new().unwrap();
    std::fs::copy(certs.path("client.key"), open.path()).unwrap();
    std::fs::set_permissions(open.path(), std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    let given =
        format!("user=cert_user sslmode=require sslcert={} sslkey={}", certs.path("client.crt"), open.path().display());
    let error = refusal(&tcp(server, &given));
    assert!(error.hint().unwrap().contains("chmod"), "{error:?}");
}

#[test]
fn several_hosts_are_tried_in_turn() {
    let Some(server) = server() else { return };
    let (dead, live) = (dead_port(), server.port);
    let given = format!("postgres://trust_user@127.0.0.1:{dead},no-such-host.invalid,127.0.0.1:{live}/postgres");
    let (data, ..) = connect_both(&given).unwrap();
    assert_eq!(data.endpoint.host_index, 2);
    let pinned = info(&given).pinned(&data.endpoint);
    assert_eq!(pinned.address(), format!("127.0.0.1:{live}/postgres"));
    assert_eq!(wire::connect(&pinned, &CancellationToken::new()).unwrap().endpoint, data.endpoint);
    // A refused login ends the search: another server would be another database.
    let given = format!("postgres://trust_user@127.0.0.1:{live},127.0.0.1:{live}/nowhere");
    assert_eq!(refusal(&given).sqlstate(), Some("3D000"));
    let error = refusal(&format!("postgres://u@127.0.0.1:{dead},127.0.0.1:1/d"));
    let shown = error.to_string();
    assert!(shown.contains(&dead.to_string()) && shown.contains("127.0.0.1:1"), "{shown}");
}

#[test]
fn target_session_attrs_choose_among_primary_and_standby() {
    let Some(server) = server() else { return };
    let (primary, standby) = (server.port, server.standby_port);
    let given = |user: &str, ports: &[u16], attrs: &str| {
        let hosts: Vec<_> = ports.iter().map(|port| format!("127.0.0.1:{port}")).collect();
        format!("postgres://{user}@{}/postgres?target_session_attrs={attrs}", hosts.join(","))
    };
    for (user, ports, attrs, expected) in [
        ("trust_user", [standby, primary], "any", Some(0)),
        ("trust_user", [standby, primary], "primary", Some(1)),
        ("trust_user", [standby, primary], "read-write", Some(1)),
        ("trust_user", [primary, standby], "standby", Some(1)),
        ("trust_user", [primary, standby], "read-only", Some(1)),
        ("trust_user", [primary, standby], "prefer-standby", Some(1)),
        ("trust_user", [primary, primary], "prefer-standby", Some(0)),
        ("trust_user", [primary, primary], "standby", None),
        ("trust_user", [standby, standby], "read-write", None),
        ("ro_user", [primary, primary], "read-write", None),
        ("ro_user", [primary, primary], "primary", Some(0)),
        ("ro_user", [primary, primary], "read-only", Some(0)),
    ] {
        let given = given(user, &ports, attrs);
        match expected {
            Some(index) => {
                let (data, control, _runtime) = connect_both(&given).unwrap();
                assert_eq!(data.endpoint.host_index, index, "{given}");
                assert_eq!(data.in_recovery, ports[index] == standby, "{given}");
                assert_eq!(control.in_recovery, data.in_recovery);
            }
            None => assert!(refusal(&given).to_string().contains(&format!("target_session_attrs={attrs}"))),
        }
    }
}

#[test]
fn sessions_have_our_settings_whatever_the_role_has() {
    let Some(server) = server() else { return };
    let (mut data, control, runtime) = connect_both(&tcp(server, "user=trust_user options='-c work_mem=5MB'")).unwrap();
    for (name, expected) in [
        ("statement_timeout", "0"),
        ("lock_timeout", "0"),
        ("search_path", "\"\""),
        ("row_security", "off"),
        ("work_mem", "5MB"),
        ("application_name", "pgconvoy"),
        ("client_encoding", "UTF8"),
    ] {
        assert_eq!(one(&mut data, &format!("SHOW {name}")), expected, "{name}");
        let row = runtime.block_on(control.client.query_one(&format!("SHOW {name}"), &[])).unwrap();
        assert_eq!(row.get::<_, String>(0), expected, "{name}");
    }
    let tcp_sockets = one(&mut data, "SELECT inet_client_port() > 0");
    assert_eq!(tcp_sockets, "t");
}

#[test]
fn what_runs_can_be_cancelled() {
    let Some(server) = server() else { return };
    for mode in ["disable", "require"] {
        let given = tcp(server, &format!("user=trust_user sslmode={mode}"));
        let (mut data, control, runtime) = connect_both(&given).unwrap();
        let started = Instant::now();
        send_query(&mut data, "SELECT pg_sleep(60)");
        std::thread::sleep(Duration::from_millis(300));
        wire::cancel_request(control.pinned(), data.backend_pid, data.secret_key).unwrap();
        assert_eq!(read_answer(&mut data), Err("57014".into()));
        assert_eq!(query(&mut data, "SELECT 'well'"), Ok(vec!["well".into()]));

        let handle = control.cancel_token();
        let slept = runtime.block_on(async {
            let cancel = async {
                tokio::time::sleep(Duration::from_millis(300)).await;
                handle.cancel().await.unwrap();
            };
            tokio::join!(control.client.batch_execute("SELECT pg_sleep(60)"), cancel).0
        });
        assert_eq!(slept.unwrap_err().code().map(tokio_postgres::error::SqlState::code), Some("57014"));
        assert!(started.elapsed() < Duration::from_secs(20), "{:?}", started.elapsed());
    }
}

#[test]
fn a_server_that_says_nothing_is_given_up() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = silent.local_addr().unwrap().port();
    let started = Instant::now();
    let error = connect(&format!("host=127.0.0.1 port={port} user=a connect_timeout=2")).unwrap_err();
    assert!(error.hint().unwrap().contains("connect_timeout"), "{error:?}");
    assert!(started.elapsed() < Duration::from_secs(10));
    let cancel = CancellationToken::new();
    cancel.cancel();
    let error = wire::connect(&info(&format!("host=127.0.0.1 port={port} user=a")), &cancel).unwrap_err();
    assert!(error.is_cancelled(), "{error:?}");
}

#[test]
fn what_is_not_postgresql_is_told_so() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for mut client in listener.incoming().flatten() {
            let _ = std::io::Write::write_all(&mut client, b"HTTP/1.1 400 Bad Request\r\n\r\n");
        }
    });
    for mode in ["prefer", "disable"] {
        let error =
            connect(&format!("host=127.0.0.1 port={port} user=a sslmode={mode} connect_timeout=5")).unwrap_err();
        assert!(error.to_string().contains("PostgreSQL"), "{error:?}");
    }
}

/// Since 17, a connection may begin with the TLS handshake, a round trip less; the server insists on ALPN then.
#[test]
fn tls_without_asking_first_works_on_both_planes() {
    for major in [Major::V17, Major::V18] {
        let directory = tempfile::tempdir().unwrap();
        let certificates = certs::Certificates::write(directory.path());
        server::give_away(directory.path());
        let file = |name: &str| directory.path().join(name).display().to_string();
        let spec = ClusterSpec::new(major)
            .set("ssl", "on")
            .set("ssl_cert_file", &file("server.crt"))
            .set("ssl_key_file", &file("server.key"));
        let cluster = match Cluster::start_blocking(&spec, &Progress::none()) {
            Ok(cluster) => cluster,
            Err(error @ lab::Error::Server { .. }) => panic!("{major}: {error}"),
            Err(error) => {
                server::skipped(&format!("SKIPPED: PostgreSQL {major} cannot be had: {error}"));
                continue;
            }
        };
        let (port, firsts) = support::remembering_proxy(cluster.port());
        let login = format!(
            "host=localhost hostaddr=127.0.0.1 port={port} dbname=postgres user=postgres password={} sslmode=verify-full",
            cluster.password()
        );
        let trusted = format!("{login} sslrootcert='{}'", certificates.path("ca.crt"));
        for (negotiation, first) in [("direct", 22), ("postgres", 0)] {
            firsts.lock().unwrap().clear();
            let given = format!("{trusted} sslnegotiation={negotiation}");
            let (mut data, control, runtime) = connect_both(&given).unwrap();
            assert!(encrypted(&mut data) && data.transport.is_encrypted(), "{major} {negotiation}");
            let ssl = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
            assert!(runtime.block_on(control.client.query_one(ssl, &[])).unwrap().get::<_, bool>(0));
            let firsts = firsts.lock().unwrap().clone();
            assert!(firsts.len() >= 2 && firsts.iter().all(|byte| *byte == first), "{major} {negotiation}: {firsts:?}");
        }
        let other = format!("{login} sslrootcert='{}' sslnegotiation=direct", certificates.path("other-ca.crt"));
        assert!(refusal(&other).to_string().contains("certificate"), "{}", refusal(&other));
    }
}

/// Before 17, such a beginning is no start-up packet that a server knows.
#[test]
fn an_older_server_takes_no_tls_without_being_asked() {
    let Some(server) = server() else { return };
    let mut plain = connect(&tcp(server, "user=tls_user sslmode=require")).unwrap();
    if one(&mut plain, "SHOW server_version_num").parse::<u32>().unwrap() < 170_000 {
        let _ = refusal(&tcp(server, "user=tls_user sslmode=require sslnegotiation=direct"));
    }
}
