//! PgBouncer is recognised in every mode in which it shares backends; a proxy that keeps sessions apart is let pass.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use pgconvoy::pg::{ErrorKind, wire};
use tokio_util::sync::CancellationToken;

use crate::server::{as_ordinary_user, give_away, server, skipped};
use crate::support::{connect, dead_port, info, one, refusal, session_proxy};

#[test]
fn a_proxy_that_keeps_sessions_apart_will_do() {
    let Some(server) = server() else { return };
    let given =
        format!("host=127.0.0.1 port={} dbname=postgres user=trust_user sslmode=disable", session_proxy(server.port));
    let mut start = connect(&given).unwrap();
    assert!(start.endpoint.proxied);
    assert_eq!(start.backend_pid, 999_999);
    assert_eq!(one(&mut start, "SELECT pg_backend_pid()"), start.server_pid.to_string());
    let pinned = info(&given).pinned(&start.endpoint);
    assert!(wire::connect(&pinned, &CancellationToken::new()).unwrap().endpoint.proxied);
}

fn pgbouncer() -> Option<PathBuf> {
    let configured = std::env::var_os("PGCONVOY_TEST_PGBOUNCER").map(PathBuf::from);
    let places = ["/usr/sbin/pgbouncer", "/usr/bin/pgbouncer"].map(PathBuf::from);
    let found = configured.into_iter().chain(places).find(|path| path.exists());
    if found.is_none() {
        skipped("SKIPPED: no pgbouncer on this machine (package pgbouncer, or PGCONVOY_TEST_PGBOUNCER)");
    }
    found
}

#[test]
fn pgbouncer_is_recognised_where_it_shares_backends() {
    let (Some(server), Some(program)) = (server(), pgbouncer()) else { return };
    for mode in ["transaction", "statement", "session"] {
        let directory = tempfile::tempdir().unwrap();
        let port = dead_port();
        let users = directory.path().join("users");
        std::fs::write(&users, "\"trust_user\" \"\"\n").unwrap();
        let settings = format!(
            "[databases]\npostgres = host=127.0.0.1 port={}\n[pgbouncer]\nlisten_addr=127.0.0.1\nlisten_port={port}\n\
             auth_type=trust\nauth_file={}\npool_mode={mode}\nunix_socket_dir=\n",
            server.port,
            users.display()
        );
        std::fs::write(directory.path().join("ini"), settings).unwrap();
        give_away(directory.path());
        let mut bouncer = run(&program, &directory.path().join("ini"));
        wait_for(port);
        let given = format!("host=127.0.0.1 port={port} dbname=postgres user=trust_user sslmode=disable");
        if mode == "session" {
            assert!(connect(&given).unwrap().endpoint.proxied);
        } else {
            let error = refusal(&given);
            assert!(matches!(*error.kind, ErrorKind::Unsupported { .. }), "{mode}: {error:?}");
            assert!(error.hint().unwrap().contains("-pooler"), "{error:?}");
            let error = refusal(&format!("{given} options='-c geqo=off'"));
            assert!(matches!(*error.kind, ErrorKind::Unsupported { .. }), "{mode}: {error:?}");
        }
        bouncer.kill().unwrap();
        bouncer.wait().unwrap();
    }
}

fn run(program: &Path, settings: &Path) -> std::process::Child {
    let mut command: Command = as_ordinary_user(program);
    command.arg(settings).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

fn wait_for(port: u16) {
    let started = Instant::now();
    while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
        assert!(started.elapsed() < Duration::from_secs(10), "pgbouncer does not start");
        std::thread::sleep(Duration::from_millis(30));
    }
}
