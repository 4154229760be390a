//! What filters pick arrives, what they leave out does not, and what they cut off is said before the start.

use std::time::Duration;

use crate::errors::{assert_empty, assert_says};
use crate::fixture::{copy, copy_args, empty, newest, pgconvoy, scratch};
use crate::interrupts::wait;
use crate::support::{Pgconvoy, TestDb, cluster};
use pgconvoy::lab::Major;

/// Two schemas that need each other in every way that matters.
async fn shop(cluster: &std::sync::Arc<pgconvoy::lab::Cluster>) -> TestDb {
    let db = TestDb::new(cluster, "shop").await;
    db.execute(
        "CREATE SCHEMA shop; CREATE SCHEMA \"Lib x\";
         CREATE TYPE \"Lib x\".mood AS ENUM ('sad', 'happy');
         CREATE SEQUENCE \"Lib x\".numbers;
         CREATE FUNCTION \"Lib x\".touch() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN new; END';
         CREATE TABLE shop.customer (id serial PRIMARY KEY, name text);
         CREATE TABLE shop.orders (id int PRIMARY KEY, customer int REFERENCES shop.customer, total numeric);
         CREATE INDEX orders_total ON shop.orders (total);
         CREATE INDEX orders_customer ON shop.orders (customer);
         COMMENT ON INDEX shop.orders_total IS 'gone';
         CREATE TRIGGER touch BEFORE UPDATE ON shop.orders FOR EACH ROW EXECUTE PROCEDURE \"Lib x\".touch();
         CREATE TABLE shop.feeling (id int, m \"Lib x\".mood[]);
         CREATE TABLE shop.numbered (id bigint DEFAULT nextval('\"Lib x\".numbers'));
         CREATE TABLE public.plain (id int);
         INSERT INTO shop.customer (name) SELECT 'c' || i FROM generate_series(1, 300) i;
         INSERT INTO shop.orders SELECT i, 1 + i % 300, i / 2.0 FROM generate_series(1, 20000) i;
         INSERT INTO public.plain VALUES (1);",
    )
    .await;
    db
}

async fn tables(db: &TestDb) -> String {
    db.one(
        "SELECT COALESCE(string_agg(n.nspname || '.' || relname, ' ' ORDER BY nspname, relname), '') FROM pg_class c
         JOIN pg_namespace n ON n.oid = relnamespace WHERE c.oid >= 16384 AND relkind IN ('r', 'p')
         AND nspname !~ '^pg_|information'",
    )
    .await
}

/// One old and one new source.
async fn sources() -> Vec<TestDb> {
    let mut sources = vec![shop(&newest().await).await];
    if let Some(old) = cluster(Major::V9_6).await {
        sources.push(shop(&old).await);
    }
    sources
}

#[tokio::test(flavor = "multi_thread")]
async fn a_picked_table_arrives_in_a_schema_made_for_it() {
    for source in sources().await {
        let target = empty(&newest().await).await;
        let ran = copy(&source, &target, &["-t", "shop.orders", "-n", "nothing_at_all"]).await.expect_code(3);
        assert_says(&ran, &["no schema matches nothing_at_all"]);
        let ran = copy(&source, &target, &["-t", "shop.orders"]).await.expect_success();
        // The key and the trigger need what is left out.
        assert_says(
            &ran,
            &["foreign key orders_customer_fkey of shop.orders needs table shop.customer", "trigger touch"],
        );
        let said = format!("{}{}", ran.stdout, ran.stderr);
        assert!(said.contains("FK CONSTRAINT shop.") && said.contains("is left out"), "{said}");
        assert_eq!(tables(&target).await, "shop.orders");
        assert_eq!(target.one("SELECT count(*) FROM shop.orders").await, "20000");
        assert_eq!(target.one("SELECT count(*) FROM pg_indexes WHERE schemaname = 'shop'").await, "3");
        assert_eq!(target.one("SELECT count(*) FROM pg_constraint WHERE contype = 'f'").await, "0");
        let args = ["verify", "-t", "shop.orders", "--source", &source.uri(), "--target", &target.uri()];
        let _ = pgconvoy(&args).await.expect_success();
        // A serial's sequence goes with its table, and its value with it.
        let target = empty(&newest().await).await;
        let _ = copy(&source, &target, &["-t", "shop.customer"]).await.expect_success();
        assert_eq!(target.one("SELECT nextval('shop.customer_id_seq')").await, "301");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_table_cannot_do_without_is_named_before_the_start() {
    for source in sources().await {
        let target = empty(&newest().await).await;
        let ran = copy(&source, &target, &["-n", "shop"]).await.expect_code(3);
        assert_says(&ran, &["needs type \"Lib x\".mood", "needs sequence \"Lib x\".numbers", "--schema-only"]);
        assert_empty(&target).await;
        let uris = [source.uri(), target.uri()];
        let args = ["preflight", "-t", "shop.feeling", "--source", &uris[0], "--target", &uris[1]];
        let ran = pgconvoy(&args).await.expect_code(3);
        assert!(ran.stdout.contains("shop.feeling needs type \"Lib x\".mood"), "{}", ran.stdout);
        // With it, everything is there. Schemas with capitals want quotes, as in psql.
        let _ = copy(&source, &target, &["-n", "shop", "-n", "\"Lib x\""]).await.expect_success();
        assert_eq!(tables(&target).await, "shop.customer shop.feeling shop.numbered shop.orders");
        // An archive says it when it is made, and a restore looks for it.
        let (_directory, archive) = scratch("feeling");
        let archive = archive.to_str().unwrap();
        let ran = pgconvoy(&["dump", "-t", "shop.feeling", "--source", &source.uri(), archive]).await.expect_success();
        assert_says(&ran, &["shop.feeling needs type \"Lib x\".mood"]);
        let target = empty(&newest().await).await;
        let ran = pgconvoy(&["restore", "--target", &target.uri(), archive]).await.expect_code(3);
        assert_says(&ran, &["shop.feeling needs type \"Lib x\".mood"]);
        assert_empty(&target).await;
        target.execute("CREATE SCHEMA \"Lib x\"; CREATE TYPE \"Lib x\".mood AS ENUM ('sad', 'happy')").await;
        let args = ["restore", "--drop-target-objects", "--target", &target.uri(), archive];
        let _ = pgconvoy(&args).await.expect_success();
        assert_eq!(tables(&target).await, "shop.feeling");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn names_without_a_schema_are_those_of_the_search_path() {
    let (source, target) = (shop(&newest().await).await, empty(&newest().await).await);
    let ran = copy(&source, &target, &["-t", "orders"]).await.expect_code(3);
    assert_says(&ran, &["no table, view or sequence matches orders", "schema.table"]);
    let idle = ["-T", "pblic.*", "-T", "shop.orders", "-N", "nosuch", "--exclude-table-data", "orders"];
    let ran = copy(&source, &target, &[&["-t", "plain"][..], &idle].concat()).await.expect_success();
    let what = "nothing matches --exclude-table pblic.*, --exclude-table-data orders, --exclude-schema nosuch, which";
    assert_says(&ran, &[what]);
    assert_eq!(tables(&target).await, "public.plain");
    source.execute(&format!("ALTER DATABASE \"{}\" SET search_path = shop, \"Lib x\"", source.name)).await;
    let target = empty(&newest().await).await;
    let _ = copy(&source, &target, &["-t", "orders", "--where", "orders=id <= 10"]).await.expect_success();
    assert_eq!(target.one("SELECT count(*) FROM shop.orders").await, "10");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_condition_picks_rows_everywhere_the_same() {
    for source in sources().await {
        let target = empty(&newest().await).await;
        // A keyword, a string with a parenthesis, a comment at the end, the table's own name.
        let condition = "shop.o*=orders.id % 2 = 0 AND ')' <> '(' -- even";
        let more = ["--where", condition, "--chunk-size", "1MiB", "-j", "4"];
        let _ = copy(&source, &target, &more).await.expect_success();
        assert_eq!(target.one("SELECT count(*) || ' ' || sum(id) FROM shop.orders").await, "10000 100010000");
        assert_eq!(target.one("SELECT count(*) FROM shop.customer").await, "300");
        // Gathered anew: those of the source are of all rows.
        assert_eq!(target.one("SELECT reltuples FROM pg_class WHERE oid = 'shop.orders'::regclass").await, "10000");
        let verify = ["verify", "--source", &source.uri(), "--target", &target.uri()];
        let _ = pgconvoy(&verify).await.expect_code(1);
        let _ = pgconvoy(&[&verify[..], &["--where", condition]].concat()).await.expect_success();
        let (_directory, archive) = scratch("even");
        let archive = archive.to_str().unwrap();
        let _ = pgconvoy(&["dump", "--where", condition, "--source", &source.uri(), archive]).await.expect_success();
        let restored = empty(&newest().await).await;
        let _ = pgconvoy(&["restore", "--target", &restored.uri(), archive]).await.expect_success();
        assert_eq!(restored.one("SELECT count(*) || ' ' || sum(id) FROM shop.orders").await, "10000 100010000");
        let _ = pgconvoy(&["verify", "--archive", archive, "--target", &restored.uri()]).await.expect_success();
        // A key whose referenced rows are left out stays, not validated.
        let target = empty(&newest().await).await;
        let ran = copy(&source, &target, &["--where", "shop.customer=id > 5"]).await.expect_success();
        assert_says(&ran, &["skipped orders_customer_fkey on shop.orders"]);
        assert_eq!(
            target.one("SELECT conname || ' ' || convalidated FROM pg_constraint WHERE contype = 'f'").await,
            "orders_customer_fkey false"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn conditions_that_are_none_are_refused_before_the_start() {
    let (source, target) = (shop(&newest().await).await, empty(&newest().await).await);
    for (condition, code, says) in [
        ("shop.orders=nothing > 1", 3, "nothing"),
        ("shop.orders=id > 1) OR (id < 1", 2, "is not one expression"),
        ("shop.orders=id > 1; DROP TABLE shop.orders", 2, "is not one expression"),
        ("shop.orders=total", 3, "boolean"),
        ("shop.order=id > 1", 3, "no table matches"),
        ("shop.orders", 2, "TABLE=CONDITION"),
    ] {
        let ran = copy(&source, &target, &["--where", condition]).await.expect_code(code);
        assert_says(&ran, &[says]);
    }
    assert_empty(&target).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn indexes_and_extensions_are_left_out() {
    let (source, target) = (shop(&newest().await).await, empty(&newest().await).await);
    source.execute("CREATE EXTENSION citext; CREATE EXTENSION hstore; CREATE TABLE words (w citext)").await;
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(&file, "exclude index shop.*_total\nexclude extension hst*\n").unwrap();
    let ran = copy(&source, &target, &["--filter", file.path().to_str().unwrap()]).await.expect_success();
    let said = format!("{}{}", ran.stdout, ran.stderr);
    assert!(said.contains("INDEX shop.orders_total") && said.contains("EXTENSION hstore"), "{said}");
    let indexes = "SELECT string_agg(indexname, ' ' ORDER BY indexname) FROM pg_indexes WHERE tablename = 'orders'";
    assert_eq!(target.one(indexes).await, "orders_customer orders_pkey");
    assert_eq!(
        target.one("SELECT string_agg(extname, ' ' ORDER BY extname) FROM pg_extension").await,
        "citext plpgsql"
    );
    // What needs an extension that is left out is said.
    let target = empty(&newest().await).await;
    let ran = copy(&source, &target, &["-t", "public.words"]).await.expect_code(3);
    assert_says(&ran, &["public.words needs extension citext", "--extension"]);
    let _ = copy(&source, &target, &["-t", "public.words", "-e", "citext"]).await.expect_success();
    assert_eq!(
        target.one("SELECT string_agg(extname, ' ' ORDER BY extname) FROM pg_extension").await,
        "citext plpgsql"
    );
    let ran = copy(&source, &target, &["--exclude-index", "shop.orders_pkey", "--drop-target-objects"]).await;
    assert_says(&ran.expect_code(3), &["shop.orders_pkey is the index of constraint orders_pkey"]);
    let (_directory, archive) = scratch("indexes");
    let archive = archive.to_str().unwrap();
    let args = ["dump", "--exclude-index", "shop.orders_*l", "--source", &source.uri(), archive];
    let _ = pgconvoy(&args).await.expect_success();
    let restored = empty(&newest().await).await;
    let _ = pgconvoy(&["restore", "--target", &restored.uri(), archive]).await.expect_success();
    assert_eq!(restored.one(indexes).await, "orders_customer orders_pkey");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_alone_is_a_table() {
    let (source, target) = (TestDb::new(&newest().await, "parts").await, empty(&newest().await).await);
    source
        .execute(
            "CREATE SCHEMA p; CREATE TABLE p.t (id int PRIMARY KEY, x int) PARTITION BY RANGE (id);
             CREATE TABLE p.t1 PARTITION OF p.t FOR VALUES FROM (0) TO (100);
             CREATE TABLE p.t2 PARTITION OF p.t FOR VALUES FROM (100) TO (200);
             CREATE INDEX t_x ON p.t (x); INSERT INTO p.t SELECT i, i FROM generate_series(0, 199) i",
        )
        .await;
    let ran = copy(&source, &target, &["-t", "p.t1"]).await.expect_success();
    assert_says(&ran, &["the attachment of p.t1 needs table p.t"]);
    assert_eq!(tables(&target).await, "p.t1");
    assert_eq!(target.one("SELECT count(*) FROM p.t1").await, "100");
    assert_eq!(target.one("SELECT count(*) FROM pg_indexes WHERE tablename = 't1'").await, "2");
    let target = empty(&newest().await).await;
    let _ = copy(&source, &target, &["--where", "p.t=id >= 50", "--exclude-index", "p.t_x"]).await.expect_success();
    assert_eq!(target.one("SELECT count(*) || ' ' || min(id) FROM p.t").await, "150 50");
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_alone_do_not_mix_with_rows_that_are_there_whatever_picks_them() {
    let (source, target) = (TestDb::new(&newest().await, "picked").await, TestDb::new(&newest().await, "picked").await);
    for db in [&source, &target] {
        db.execute("CREATE TABLE log (id int, whereabouts text)").await;
    }
    source.execute("INSERT INTO log SELECT i, 'x' || i % 2 FROM generate_series(1, 10) i").await;
    let args = ["--data-only", "--where", "log=whereabouts = 'x1'"];
    let _ = copy(&source, &target, &args).await.expect_success();
    assert_eq!(target.one("SELECT count(*) FROM log WHERE whereabouts = 'x1'").await, "5");
    let ran = copy(&source, &target, &args).await.expect_code(4);
    assert!(ran.stderr.contains("public.log"), "{ran:?}");
    assert_eq!(target.one("SELECT count(*) FROM log").await, "5");
}

/// Rights that were changed on what an extension brought are pg_dump's to write, and nobody's to have without it.
#[tokio::test(flavor = "multi_thread")]
async fn grants_on_members_of_an_extension_that_is_left_out_are_left_out() {
    let (source, target) = (TestDb::new(&newest().await, "members").await, empty(&newest().await).await);
    source
        .execute(
            "CREATE SCHEMA \"X y\"; CREATE EXTENSION citext SCHEMA \"X y\"; CREATE EXTENSION hstore;
             REVOKE ALL ON FUNCTION \"X y\".citext_eq(\"X y\".citext, \"X y\".citext) FROM PUBLIC;
             REVOKE ALL ON FUNCTION \"X y\".min(\"X y\".citext) FROM PUBLIC;
             GRANT USAGE ON TYPE \"X y\".citext TO it_reader WITH GRANT OPTION;
             REVOKE ALL ON FUNCTION hstore(text, text) FROM PUBLIC;
             CREATE FUNCTION \"X y\".citext_eq(int, int) RETURNS int LANGUAGE sql AS 'SELECT 1';
             REVOKE ALL ON FUNCTION \"X y\".citext_eq(int, int) FROM PUBLIC",
        )
        .await;
    let ran = copy(&source, &target, &["--exclude-extension", "citext"]).await.expect_success();
    let said = format!("{}{}", ran.stdout, ran.stderr);
    for object in ["TYPE citext", "FUNCTION citext_eq(\"X y\".citext", "FUNCTION min(\"X y\".citext)"] {
        assert!(said.contains(&format!("  - ACL X y.{object}")), "{object}: {said}");
    }
    let public = "SELECT has_function_privilege('public', p.oid, 'EXECUTE') FROM pg_proc p WHERE ";
    assert_eq!(target.one(&format!("{public} proname = 'citext_eq'")).await, "f");
    assert_eq!(target.one(&format!("{public} p.oid = 'hstore(text, text)'::regprocedure")).await, "f");
    let (_directory, archive) = scratch("members");
    let archive = archive.to_str().unwrap();
    let _ = pgconvoy(&["dump", "-e", "hstore", "--source", &source.uri(), archive]).await.expect_success();
    let restored = empty(&newest().await).await;
    let _ = pgconvoy(&["restore", "--target", &restored.uri(), archive]).await.expect_success();
}

/// Servers before 16 have no function that says without an error whether there is a function of a type that is not there.
#[tokio::test(flavor = "multi_thread")]
async fn what_old_targets_lack_is_refused_and_no_error() {
    let mut newest_too = vec![newest().await];
    newest_too.extend(cluster(Major::V9_6).await);
    newest_too.extend(cluster(Major::V14).await);
    for server in newest_too {
        let (source, target) = (TestDb::new(&server, "lacking").await, empty(&server).await);
        source
            .execute(
                "CREATE SCHEMA lib; CREATE SCHEMA app; CREATE TYPE lib.mood AS ENUM ('sad');
                 CREATE FUNCTION lib.f(lib.mood) RETURNS int LANGUAGE sql AS 'SELECT 1';
                 CREATE FUNCTION lib.eq(lib.mood, lib.mood) RETURNS bool LANGUAGE sql AS 'SELECT true';
                 CREATE OPERATOR lib.=== (LEFTARG = lib.mood, RIGHTARG = lib.mood, PROCEDURE = lib.eq);
                 CREATE TABLE app.t (i int DEFAULT lib.f('sad'));
                 CREATE VIEW app.v AS SELECT 'sad'::lib.mood OPERATOR(lib.===) 'sad'::lib.mood AS is_it",
            )
            .await;
        let ran = copy(&source, &target, &["-t", "app.t"]).await.expect_code(3);
        assert_says(&ran, &["needs function lib.f(lib.mood)"]);
        let ran = copy(&source, &target, &["-t", "app.v"]).await.expect_code(3);
        assert_says(&ran, &["needs operator lib.===(lib.mood,lib.mood)"]);
        assert_empty(&target).await;
        target
            .execute(
                "CREATE SCHEMA lib; CREATE TYPE lib.mood AS ENUM ('sad');
                 CREATE FUNCTION lib.f(lib.mood) RETURNS int LANGUAGE sql AS 'SELECT 1'",
            )
            .await;
        let _ = copy(&source, &target, &["-t", "app.t", "--drop-target-objects"]).await.expect_success();
    }
}

/// DDL that waits for somebody else stands before us in the queue, and would for as long as that one likes.
#[tokio::test(flavor = "multi_thread")]
async fn a_condition_is_not_checked_behind_ddl_that_waits_for_ever() {
    let (source, target) = (shop(&newest().await).await, empty(&newest().await).await);
    let (reader, writer) = (source.connect().await, source.connect().await);
    reader.batch_execute("BEGIN; SELECT 1 FROM shop.orders LIMIT 0").await.unwrap();
    let ddl = tokio::spawn(async move { writer.batch_execute("ALTER TABLE shop.orders ADD COLUMN late int").await });
    let waits = "SELECT pid FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE 'ALTER TABLE shop%'";
    let waiting = loop {
        match source.query(waits).await.pop() {
            Some(row) => break row.concat(),
            None => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    };
    let verify = ["verify", "--source", &source.uri(), "--target", &target.uri()].map(String::from);
    for args in [copy_args(&source, &target), verify.to_vec()] {
        let more = ["--where", "shop.orders=id > 5"].map(String::from);
        let child = Pgconvoy::new(args.into_iter().chain(more)).spawn();
        let (ran, _) = wait(child, Duration::from_secs(40)).await;
        assert_says(
            &ran.expect_code(3),
            &["--where shop.orders", &format!("process {waiting}"), "AccessExclusiveLock"],
        );
    }
    assert_empty(&target).await;
    reader.batch_execute("COMMIT").await.unwrap();
    ddl.await.unwrap().unwrap();
    let _ = copy(&source, &target, &["--where", "shop.orders=id > 5"]).await.expect_success();
}
