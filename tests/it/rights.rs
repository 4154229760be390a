//! Targets where the role is no superuser, the way managed providers run.

use crate::errors::{as_role, assert_empty, assert_says, make_login};
use crate::fixture::{empty, make_roles, newest, newest_of, pgconvoy, scratch};
use crate::support::TestDb;

/// A source whose objects belong to others, with some of what only superusers may make.
async fn source() -> TestDb {
    let cluster = newest_of(2).await.remove(1);
    make_roles(&cluster).await;
    let db = TestDb::new(&cluster, "owned").await;
    db.execute(
        "CREATE EXTENSION citext; COMMENT ON EXTENSION citext IS 'ours';
         CREATE SCHEMA app AUTHORIZATION it_owner;
         CREATE TABLE app.t (id int PRIMARY KEY, w citext, v text COLLATE \"C\");
         ALTER TABLE app.t OWNER TO it_owner;
         GRANT SELECT ON app.t TO it_reader;
         ALTER DEFAULT PRIVILEGES FOR ROLE it_owner IN SCHEMA app GRANT SELECT ON TABLES TO it_reader;
         CREATE VIEW app.v AS SELECT id FROM app.t; ALTER VIEW app.v OWNER TO \"it's; odd\";
         CREATE FUNCTION app.f() RETURNS int LANGUAGE sql AS 'SELECT 1';
         ALTER FUNCTION app.f() OWNER TO it_owner;
         COMMENT ON TABLE app.t IS 'a table'; COMMENT ON COLUMN app.t.v IS 'a column';
         CREATE FUNCTION app.c_max(int, int) RETURNS int LANGUAGE internal IMMUTABLE STRICT AS 'int4larger';
         CREATE FUNCTION app.on_ddl() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END';
         CREATE EVENT TRIGGER watch ON ddl_command_end WHEN TAG IN ('CREATE AGGREGATE') EXECUTE PROCEDURE app.on_ddl();
         COMMENT ON EVENT TRIGGER watch IS 'watches';
         CREATE FOREIGN DATA WRAPPER nothing; CREATE SERVER nowhere FOREIGN DATA WRAPPER nothing;
         CREATE PUBLICATION everything FOR ALL TABLES; CREATE PUBLICATION one FOR TABLE app.t;
         INSERT INTO app.t SELECT i, 'W' || i, 'v' FROM generate_series(1, 1000) i;
         SELECT lo_from_bytea(41, 'x'); ALTER LARGE OBJECT 41 OWNER TO it_owner;",
    )
    .await;
    db
}

async fn target(role: &str) -> (TestDb, String) {
    let db = empty(&newest().await).await;
    make_login(&db.cluster, role, "").await;
    // As a provider gives it: the extension is there, and is not the role's.
    db.execute(&format!("GRANT CREATE ON DATABASE {} TO {role}; CREATE EXTENSION citext", db.name)).await;
    let uri = as_role(&db, role);
    (db, uri)
}

async fn assert_arrived(db: &TestDb, role: &str) {
    assert_eq!(db.one("SELECT count(*) || ' ' || max(w) FROM app.t WHERE w = 'w999'").await, "1 W999");
    assert_eq!(db.one("SELECT count(*) || ' ' || app.f() FROM app.v").await, "1000 1");
    let owners = "SELECT string_agg(DISTINCT pg_get_userbyid(relowner), ' ') FROM pg_class
                  WHERE relnamespace = 'app'::regnamespace";
    assert_eq!(db.one(owners).await, role);
    assert_eq!(db.one("SELECT convert_from(lo_get(41), 'UTF8')").await, "x");
    assert_eq!(db.one("SELECT count(*) FROM pg_event_trigger").await, "0");
    assert_eq!(db.one("SELECT string_agg(pubname, ' ' ORDER BY pubname) FROM pg_publication").await, "one");
    assert_eq!(db.one("SELECT count(*) FROM pg_namespace WHERE nspname = 'pgconvoy'").await, "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_that_a_role_may_make_arrives() {
    let source = source().await;
    let (_directory, archive) = scratch("owned");
    let archive = archive.to_str().unwrap();
    let _ = pgconvoy(&["dump", "--source", &source.uri(), archive]).await.expect_success();
    for provider in ["heroku", "generic", "supabase"] {
        let (db, uri) = target("it_tenant").await;
        if provider == "heroku" {
            // Of every new database there.
            db.execute("CREATE SCHEMA _heroku; CREATE TABLE _heroku.theirs (i int); CREATE SCHEMA heroku_ext").await;
        }
        let args = ["copy", "--provider", provider, "--source", &source.uri(), "--target", &uri];
        let ran = pgconvoy(&args).await.expect_success();
        for what in ["EVENT TRIGGER watch", "FOREIGN DATA WRAPPER nothing", "PUBLICATION everything", "c_max"] {
            assert_says(&ran, &[what]);
        }
        let said = format!("{}{}", ran.stdout, ran.stderr);
        for what in ["owners (", "it_owner", "COMMENT EXTENSION citext", "ACL app.", "refuses"] {
            assert!(said.contains(what), "{what}: {said}");
        }
        assert_arrived(&db, "it_tenant").await;
        assert_eq!(db.one("SELECT obj_description('app.t'::regclass)").await, "a table");
        let verified = pgconvoy(&["verify", "-n", "app", "--source", &source.uri(), "--target", &db.uri()]).await;
        let _ = verified.expect_success();
        let (db, uri) = target("it_tenant").await;
        let args = ["restore", "--provider", provider, "--no-comments", "--target", &uri, archive];
        let ran = pgconvoy(&args).await;
        let _ = ran.expect_success();
        assert_arrived(&db, "it_tenant").await;
        assert_eq!(db.one("SELECT count(*) FROM pg_description WHERE objoid = 'app.t'::regclass").await, "0");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_provider_what_needs_a_superuser_is_refused_before_the_start() {
    let source = source().await;
    let (db, uri) = target("it_tenant").await;
    let ran = pgconvoy(&["copy", "-O", "-x", "--source", &source.uri(), "--target", &uri]).await.expect_code(4);
    assert_says(&ran, &["it_tenant is no superuser", "--provider"]);
    assert_empty(&db).await;
}

/// A comment on an extension may be refused, but not lost because a disk was full.
#[tokio::test(flavor = "multi_thread")]
async fn what_may_be_refused_is_skipped_for_refusals_only() {
    let cluster = newest().await;
    let source = TestDb::new(&cluster, "comment").await;
    source.execute("CREATE EXTENSION citext; COMMENT ON EXTENSION citext IS 'ours'; CREATE TABLE t (i int)").await;
    make_login(&cluster, "it_commenter", "").await;
    for (sqlstate, is_refusal) in
        [("42501", true), ("0A000", true), ("53100", false), ("57P01", false), ("40P01", false)]
    {
        let target = empty(&cluster).await;
        target
            .execute(&format!(
                "CREATE FUNCTION public.refuse() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN
                     IF current_query() LIKE '%COMMENT ON EXTENSION citext%' THEN
                         RAISE EXCEPTION 'not now' USING ERRCODE = '{sqlstate}'; END IF; END $$;
                 CREATE EVENT TRIGGER refuse ON ddl_command_start WHEN TAG IN ('COMMENT') EXECUTE FUNCTION public.refuse();
                 ALTER DATABASE {} OWNER TO it_commenter",
                target.name
            ))
            .await;
        let uri = as_role(&target, "it_commenter");
        let args = ["copy", "-O", "-x", "--drop-target-objects", "--source", &source.uri(), "--target", &uri];
        let ran = pgconvoy(&args).await.expect_code(if is_refusal { 0 } else { 4 });
        assert_says(&ran, &["COMMENT EXTENSION citext", "not now"]);
        assert_eq!(ran.stderr.contains("skipped COMMENT EXTENSION citext"), is_refusal, "{}", ran.stderr);
    }
}

/// What looks like code of the server's and is not: constructors of ranges, aggregates.
#[tokio::test(flavor = "multi_thread")]
async fn what_needs_no_superuser_is_not_refused() {
    for cluster in newest_of(2).await {
        let source = TestDb::new(&cluster, "harmless").await;
        source
            .execute(
                "CREATE SCHEMA app; SET search_path = app;
                 CREATE TYPE spans AS RANGE (subtype = float8);
                 CREATE AGGREGATE largest(int) (sfunc = int4larger, stype = int);
                 CREATE TABLE t AS SELECT spans(1, i) AS s, i FROM generate_series(1, 10) i",
            )
            .await;
        let (_directory, archive) = scratch("harmless");
        let archive = archive.to_str().unwrap();
        let _ = pgconvoy(&["dump", "--source", &source.uri(), archive]).await.expect_success();
        let (copied, uri) = target("it_tenant").await;
        let _ = pgconvoy(&["copy", "-O", "-x", "--source", &source.uri(), "--target", &uri]).await.expect_success();
        let (restored, uri) = target("it_tenant").await;
        let _ = pgconvoy(&["restore", "-O", "-x", archive, "--target", &uri]).await.expect_success();
        for db in [copied, restored] {
            assert_eq!(db.one("SELECT app.largest(i) || ' ' || max(upper(s)) FROM app.t").await, "10 10");
        }
        source
            .execute("CREATE OPERATOR CLASS app.own FOR TYPE int USING btree AS FUNCTION 1 btint4cmp(int, int)")
            .await;
        let _ = std::fs::remove_dir_all(archive);
        let _ = pgconvoy(&["dump", "--source", &source.uri(), archive]).await.expect_success();
        let (_db, uri) = target("it_tenant").await;
        for args in [["copy", "--source", &source.uri()].as_slice(), &["restore", archive]] {
            let ran = pgconvoy(&[args, &["-O", "-x", "--target", &uri]].concat()).await.expect_code(4);
            assert!(ran.stderr.to_lowercase().contains("operator class app.own"), "{}", ran.stderr);
        }
    }
}

/// Whichever lane reads them: only the first has locked what it reads, and nobody but superusers may lock pg_largeobject.
#[tokio::test(flavor = "multi_thread")]
async fn large_objects_are_read_by_any_lane_of_a_plain_role() {
    let source = empty(&newest().await).await;
    make_login(&source.cluster, "it_reader_of_los", "").await;
    source
        .execute(
            "SET ROLE it_reader_of_los; SELECT lo_from_bytea(0, convert_to(repeat(i::text, 100000), 'UTF8'))
             FROM generate_series(1, 8) i;",
        )
        .await;
    for table in 1..=4 {
        source
            .execute(&format!(
                "CREATE TABLE t{table} AS SELECT i, repeat('x', 500) FROM generate_series(1, 5000) i;
                 ALTER TABLE t{table} OWNER TO it_reader_of_los"
            ))
            .await;
    }
    let target = empty(&newest().await).await;
    let from = as_role(&source, "it_reader_of_los");
    let args = ["copy", "--chunk-size", "64kB", "-O", "-x", "-j", "4", "--source", &from, "--target", &target.uri()];
    let _ = pgconvoy(&args).await.expect_success();
    assert_eq!(
        target.one("SELECT count(*) || ' ' || sum(length(lo_get(oid))) FROM pg_largeobject_metadata").await,
        "8 800000"
    );
}

/// Columns may be of it, so it is not left out like other things that a provider refuses.
#[tokio::test(flavor = "multi_thread")]
async fn base_types_are_refused_before_the_start_with_a_provider_too() {
    let source = TestDb::new(&newest().await, "base_type").await;
    source
        .execute(
            "CREATE TYPE own;
             CREATE FUNCTION own_in(cstring) RETURNS own LANGUAGE internal IMMUTABLE STRICT AS 'textin';
             CREATE FUNCTION own_out(own) RETURNS cstring LANGUAGE internal IMMUTABLE STRICT AS 'textout';
             CREATE TYPE own (INPUT = own_in, OUTPUT = own_out); CREATE TABLE t (o own); INSERT INTO t VALUES ('x')",
        )
        .await;
    let (_directory, archive) = scratch("base_type");
    let archive = archive.to_str().unwrap();
    let _ = pgconvoy(&["dump", "--source", &source.uri(), archive]).await.expect_success();
    let db = empty(&newest().await).await;
    make_login(&db.cluster, "it_typist", "").await;
    db.execute(&format!("ALTER DATABASE {} OWNER TO it_typist", db.name)).await;
    let uri = as_role(&db, "it_typist");
    let copy = ["copy", "--provider", "generic", "--source", &source.uri(), "--target", &uri];
    let restore = ["restore", "--provider", "generic", "--target", &uri, archive];
    for args in [&copy[..], &restore[..]] {
        let ran = pgconvoy(args).await.expect_code(4);
        assert_says(&ran, &["it_typist is no superuser", "public.own", "-N, -T"]);
        assert_empty(&db).await;
    }
}
