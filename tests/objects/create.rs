//! `--create` and `--roles`: the database itself, and who owns what is in it.

use std::sync::Arc;

use pgconvoy::lab::{Cluster, Major};

use crate::everything::{empty, pgconvoy};
use crate::support::{TestDb, clusters};

/// The oldest and the newest server that are tested: two, as databases and roles keep their names.
async fn two() -> Option<(Arc<Cluster>, Arc<Cluster>)> {
    let clusters = clusters().await;
    (clusters.len() > 1).then(|| (Arc::clone(&clusters[0]), Arc::clone(clusters.last().unwrap())))
}

/// What the cluster's catalogs say of a database.
async fn database_facts(cluster: &Cluster, name: &str) -> Vec<Vec<String>> {
    let name = name.replace('\'', "''");
    let sql = format!(
        "SELECT datname, pg_encoding_to_char(encoding), datcollate, datctype, datistemplate, datallowconn, datconnlimit,
                pg_get_userbyid(datdba), shobj_description(oid, 'pg_database'),
                (SELECT array_agg(pg_get_userbyid(grantee) || ' ' || privilege_type || ' ' || is_grantable
                                  ORDER BY pg_get_userbyid(grantee), privilege_type) FROM aclexplode(datacl)),
                (SELECT array_agg((setrole <> 0)::text || ' ' || setconfig::text ORDER BY setrole <> 0) FROM pg_db_role_setting
                 WHERE setdatabase = d.oid)
         FROM pg_database d WHERE datname = '{name}'"
    );
    cluster.query_text("postgres", &sql).await.unwrap()
}

async fn furnished(cluster: &Arc<Cluster>, locale: &str) -> TestDb {
    let db = empty(cluster, "unused").await;
    let name = format!("Made; \"{}\" ü", db.name);
    let quoted = format!("\"{}\"", name.replace('"', "\"\""));
    let create = format!("CREATE DATABASE {quoted} TEMPLATE template0 OWNER ev_owner {locale}");
    cluster.execute("postgres", &create).await.unwrap();
    let source = TestDb { cluster: Arc::clone(cluster), name };
    source
        .execute(
            "CREATE TABLE public.t (i int PRIMARY KEY, t text);
             INSERT INTO public.t SELECT i, chr(228) || i FROM generate_series(1, 100) i",
        )
        .await;
    for sql in [
        format!("COMMENT ON DATABASE {quoted} IS 'a; \"database\"'"),
        format!("ALTER DATABASE {quoted} SET work_mem = '7MB'"),
        format!("ALTER DATABASE {quoted} SET search_path = ev, \"select\""),
        format!("ALTER DATABASE {quoted} SET default_transaction_read_only = on"),
        format!("ALTER ROLE ev_reader IN DATABASE {quoted} SET \"DateStyle\" = 'SQL, DMY'"),
        format!("ALTER ROLE ev_reader IN DATABASE {quoted} SET \"app.password\" = 'hush, hush'"),
        format!("REVOKE ALL ON DATABASE {quoted} FROM PUBLIC"),
        format!("GRANT CONNECT, TEMPORARY ON DATABASE {quoted} TO ev_reader WITH GRANT OPTION"),
        format!("ALTER DATABASE {quoted} CONNECTION LIMIT 77"),
    ] {
        cluster.execute("postgres", &sql).await.unwrap();
    }
    source
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_is_made_with_its_owner_settings_grants_and_locale() {
    let Some((from, to)) = two().await else { return };
    for locale in ["", "ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C'"] {
        let source = furnished(&from, locale).await;
        empty(&to, "roles").await.remove().await;
        let target = to.uri("postgres");
        let ran = pgconvoy(&["copy", "--create", "--source", &source.uri(), "--target", &target]).await;
        let ran = ran.expect_success();
        assert!(!ran.stderr.contains("text is ordered by"), "of the database connected to: {}", ran.stderr);
        let (left, right) = (database_facts(&from, &source.name).await, database_facts(&to, &source.name).await);
        assert_eq!(left, right);
        assert_eq!(left.len(), 1);
        let made = to.uri(&source.name);
        let _ = pgconvoy(&["verify", "--source", &source.uri(), "--target", &made]).await.expect_success();
        // A second time there is no room, and what is there stays.
        let ran = pgconvoy(&["copy", "-C", "--source", &source.uri(), "--target", &target]).await.expect_code(4);
        assert!(ran.stderr.contains("exists already"), "{}", ran.stderr);
        let count = to.query_one(&source.name, "SELECT count(*) FROM public.t").await.unwrap();
        assert_eq!(count, "100");
        to.drop_database(&source.name).await.unwrap();
        // The same from an archive; `postgres` where no database is named.
        let directory = tempfile::tempdir().unwrap();
        let archive = directory.path().join("archive");
        let archive = archive.to_str().unwrap();
        let _ = pgconvoy(&["dump", "--source", &source.uri(), archive]).await.expect_success();
        let unnamed = target.replace("/postgres?", "/?");
        let _ = pgconvoy(&["restore", "--create", "--target", &unnamed, archive]).await.expect_success();
        assert_eq!(left, database_facts(&to, &source.name).await);
        let _ = pgconvoy(&["verify", "--archive", archive, "--target", &made]).await.expect_success();
        to.drop_database(&source.name).await.unwrap();
        source.remove().await;
    }
}

async fn has_database(cluster: &Cluster, name: &str) -> bool {
    !database_facts(cluster, name).await.is_empty()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_that_cannot_be_set_leaves_no_database_and_options_reach_the_database() {
    let Some((from, to)) = two().await else { return };
    let source = furnished(&from, "").await;
    let quoted = format!("\"{}\"", source.name.replace('"', "\"\""));
    // Who granted it is no role that the maker of the copy can be.
    let regrant = format!("SET ROLE ev_reader; GRANT CONNECT ON DATABASE {quoted} TO ev_owner; RESET ROLE");
    from.execute("postgres", &regrant).await.unwrap();
    empty(&to, "roles").await.remove().await;
    let _ = to.execute("postgres", "CREATE ROLE ev_maker LOGIN CREATEDB").await;
    let target = to.uri("postgres").replace("postgresql://postgres@", "postgresql://ev_maker@");
    let args = ["copy", "--create", "--source", &source.uri(), "--target", &target];
    let ran = pgconvoy(&args).await.expect_code(4);
    assert!(ran.stderr.contains("creating database") && ran.stderr.contains("--no-owner"), "{}", ran.stderr);
    assert!(!has_database(&to, &source.name).await, "a database is left: {}", ran.stderr);

    let ran = pgconvoy(&[&args[..], &["--provider", "generic", "--no-comments"]].concat()).await.expect_success();
    for what in ["COMMENT DATABASE", "ACL DATABASE", "owners ("] {
        assert!(ran.stdout.contains(what), "{what}: {}", ran.stdout);
    }
    // Settings of other roles are not its to give, and what they are set to is nobody's to read.
    let said = format!("{}{}", ran.stdout, ran.stderr);
    assert!(said.contains("skipped ALTER ROLE ev_reader") && said.contains("app.password"), "{said}");
    assert!(!said.contains("hush"), "{said}");
    let facts = database_facts(&to, &source.name).await.remove(0);
    assert_eq!(facts[6..10], ["77", "ev_maker", "\\N", "\\N"], "limit, owner, comment, grants");
    to.drop_database(&source.name).await.unwrap();

    // A provider that lets roles grant: what it refuses is left out by name.
    let ran = pgconvoy(&[&args[..], &["--provider", "rds"]].concat()).await.expect_success();
    assert!(ran.stderr.contains("skipped ACL DATABASE"), "{}", ran.stderr);
    let facts = database_facts(&to, &source.name).await.remove(0);
    assert_eq!(facts[7..9], ["ev_maker", "a; \"database\""]);
    to.drop_database(&source.name).await.unwrap();
    source.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_database_connected_to_has_is_not_what_a_new_one_has() {
    let Some((_, to)) = two().await else { return };
    let (source, maintenance) = (empty(&to, "src").await, empty(&to, "maintenance").await);
    // An extension that is installed where we connect, and of which the server has no files any more.
    let gone = "CREATE EXTENSION citext; UPDATE pg_extension SET extname = 'ev_gone'";
    for db in [&source, &maintenance] {
        db.execute("CREATE SCHEMA lib; CREATE TYPE lib.mood AS ENUM ('sad'); CREATE SCHEMA app").await;
        db.execute(&format!("{gone} WHERE extname = 'citext'")).await;
    }
    source.execute("CREATE TABLE app.t (m lib.mood)").await;
    let through = maintenance.uri();
    let directory = tempfile::tempdir().unwrap();
    let archive = directory.path().join("archive");
    let archive = archive.to_str().unwrap();
    let _ = pgconvoy(&["dump", "--source", &source.uri(), archive]).await.expect_success();
    let picked = directory.path().join("picked");
    let picked = picked.to_str().unwrap();
    let _ = pgconvoy(&["dump", "-n", "app", "--source", &source.uri(), picked]).await.expect_success();
    let name = source.name.clone();
    source.remove().await;
    for (archive, code, says) in [(archive, 4, "extension ev_gone is not available"), (picked, 3, "lib.mood")] {
        let ran = pgconvoy(&["restore", "--create", "--target", &through, archive]).await.expect_code(code);
        assert!(ran.stderr.contains(says), "{}", ran.stderr);
        assert!(!has_database(&to, &name).await, "{says}: a database is left: {}", ran.stderr);
    }
    maintenance.remove().await;
}

const ROLES: &str = "
    CREATE ROLE \"crew; \"\"a\"\"\" CREATEDB CREATEROLE NOINHERIT CONNECTION LIMIT 3 VALID UNTIL '2030-01-02 03:04:05+00';
    CREATE ROLE crew_login LOGIN REPLICATION BYPASSRLS PASSWORD 'very secret';
    CREATE ROLE crew_there LOGIN CREATEDB;
    ALTER ROLE crew_login SET search_path = ev, \"se, lect\", '$user';
    ALTER ROLE crew_login SET \"DateStyle\" = 'SQL, DMY';
    COMMENT ON ROLE crew_login IS 'it''s; a role';
    GRANT \"crew; \"\"a\"\"\" TO crew_login WITH ADMIN OPTION;
    GRANT pg_signal_backend TO \"crew; \"\"a\"\"\";
    GRANT crew_login TO crew_there";

/// What a newer server's predefined roles are for the target: ones that it does not have.
const PREDEFINED: &str = "
    CREATE ROLE crew_predefined; GRANT crew_predefined TO crew_login;
    UPDATE pg_authid SET rolname = 'pg_crew_predefined' WHERE rolname = 'crew_predefined'";

const DROP_ROLES: &str = "DROP ROLE IF EXISTS \"crew; \"\"a\"\"\", crew_login, crew_there, crew_maker";

async fn role_facts(cluster: &Cluster) -> Vec<Vec<String>> {
    let sql = "SELECT a.rolname, rolsuper, rolinherit, rolcreaterole, rolcreatedb, rolcanlogin, rolreplication,
                      rolbypassrls, rolconnlimit, rolpassword, rolvaliduntil, shobj_description(a.oid, 'pg_authid'),
                      (SELECT setconfig FROM pg_db_role_setting WHERE setrole = a.oid AND setdatabase = 0),
                      (SELECT string_agg(g.rolname || m.admin_option, ',' ORDER BY 1) FROM pg_auth_members m
                       JOIN pg_authid g ON g.oid = m.roleid WHERE m.member = a.oid AND g.rolname <> 'pg_crew_predefined')
               FROM pg_authid a WHERE a.rolname ~ '^crew' AND a.rolname <> 'crew_maker' ORDER BY 1";
    cluster.query_text("postgres", sql).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn roles_are_made_with_passwords_settings_and_memberships() {
    let Some((from, to)) = two().await else { return };
    let source = empty(&from, "with_roles").await;
    source.execute(ROLES).await;
    source.execute(PREDEFINED).await;
    source.execute("CREATE TABLE owned (i int); ALTER TABLE owned OWNER TO crew_login; GRANT SELECT ON owned TO \"crew; \"\"a\"\"\"").await;
    let target = empty(&to, "with_roles").await;
    let args = |more: &[&'static str]| -> Vec<String> {
        let mut args = ["copy", "--source", &source.uri(), "--target", &target.uri()].map(String::from).to_vec();
        args.extend(more.iter().map(ToString::to_string));
        args
    };
    let run = async |args: Vec<String>| pgconvoy(&args.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let ran = run(args(&[])).await.expect_code(4);
    assert!(ran.stderr.contains("crew_login") && ran.stderr.contains("lacks roles"), "{}", ran.stderr);

    let ran = run(args(&["--roles"])).await.expect_success();
    assert!(ran.stdout.contains("membership of crew_login in pg_crew_predefined"), "{}", ran.stdout);
    assert_eq!(role_facts(&from).await, role_facts(&to).await);
    assert_eq!(role_facts(&to).await.len(), 3);
    let hash =
        from.query_one("postgres", "SELECT rolpassword FROM pg_authid WHERE rolname = 'crew_login'").await.unwrap();
    assert!(hash.len() > 10 && !ran.stdout.contains(&hash) && !ran.stderr.contains(&hash));
    let owner = target.one("SELECT relowner::regrole FROM pg_class WHERE relname = 'owned'").await;
    assert_eq!(owner, "crew_login");

    // Those that are there stay as they are, and are named.
    to.execute("postgres", "ALTER ROLE crew_there NOLOGIN").await.unwrap();
    let ran = run(args(&["--roles", "--drop-target-objects"])).await.expect_success();
    assert!(ran.stderr.contains("role crew_there is there already, with other attributes"), "{}", ran.stderr);
    let can_login = to.query_one("postgres", "SELECT rolcanlogin FROM pg_roles WHERE rolname = 'crew_there'").await;
    assert_eq!(can_login.unwrap(), "f");
    target.remove().await;
    from_an_archive_and_without_superuser(&source, &to).await;
    source.remove().await;
    let back = "UPDATE pg_authid SET rolname = 'crew_predefined' WHERE rolname = 'pg_crew_predefined'";
    from.execute("postgres", &format!("{back}; DROP ROLE crew_predefined")).await.unwrap();
    from.execute("postgres", DROP_ROLES).await.unwrap();
    to.execute("postgres", DROP_ROLES).await.unwrap();
}

/// An archive holds no passwords; a role that is no superuser cannot give everything. Both are said.
async fn from_an_archive_and_without_superuser(source: &TestDb, to: &Arc<Cluster>) {
    to.execute("postgres", DROP_ROLES).await.unwrap();
    let directory = tempfile::tempdir().unwrap();
    let archive = directory.path().join("archive");
    let archive = archive.to_str().unwrap();
    let _ = pgconvoy(&["dump", "--source", &source.uri(), archive]).await.expect_success();
    to.execute("postgres", "CREATE ROLE crew_maker LOGIN CREATEROLE").await.unwrap();
    let target = empty(to, "by_maker").await;
    to.execute("postgres", &format!("ALTER DATABASE {} OWNER TO crew_maker", target.name)).await.unwrap();
    let uri = target.uri().replace("postgresql://postgres@", "postgresql://crew_maker@");
    let ran = pgconvoy(&["restore", "--roles", "--no-owner", "--target", &uri, archive]).await.expect_success();
    let mut expected =
        vec!["passwords of roles crew_login", "an archive never holds them", "role crew_login: REPLICATION, BYPASSRLS"];
    // Since 16, a role gives what it has.
    let gives = to.major() < Major::V16;
    expected.extend((!gives).then_some("role crew_there: CREATEDB"));
    for said in expected {
        assert!(ran.stdout.contains(said) || ran.stderr.contains(said), "{said}: {}{}", ran.stdout, ran.stderr);
    }
    let facts = to.query_one("postgres", "SELECT rolcanlogin || ' ' || rolreplication || ' ' || coalesce(rolpassword, '-') FROM pg_authid WHERE rolname = 'crew_login'").await;
    assert_eq!(facts.unwrap(), "true false -");
    let makes = to.query_one("postgres", "SELECT rolcreatedb FROM pg_roles WHERE rolname = 'crew_there'").await;
    assert_eq!(makes.unwrap() == "t", gives);
    target.remove().await;
}
