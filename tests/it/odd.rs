//! Encodings, names, filters, targets that are a little different.

use crate::compare::assert_same_contents;
use crate::fixture::{copy, empty, newest, pgconvoy, scratch, small};
use crate::support::{TestDb, cluster};

async fn database_of(encoding: &str) -> TestDb {
    let db = TestDb::new(&newest().await, "encoding").await;
    let sql = format!(
        "CREATE DATABASE {0}_e TEMPLATE template0 ENCODING '{encoding}' LC_COLLATE 'C' LC_CTYPE 'C'{1}",
        db.name,
        if db.cluster.version().major() >= 1500 { " LOCALE_PROVIDER libc" } else { "" }
    );
    db.cluster.execute("postgres", &sql).await.unwrap();
    TestDb { cluster: db.cluster, name: format!("{}_e", db.name) }
}

#[tokio::test(flavor = "multi_thread")]
async fn encodings_are_converted_by_the_target() {
    let source = database_of("LATIN1").await;
    let sql = "CREATE TABLE \"grün\" (\"schlüssel\" int PRIMARY KEY, t text, c \"char\", v varchar(3), x name);
               INSERT INTO \"grün\" VALUES (1, 'äöüß ÿ', 'x', 'äöü', 'ñ'), (2, '', NULL, NULL, NULL);
               COMMENT ON TABLE \"grün\" IS 'Überschrift'";
    source.execute(sql).await;
    for target in [empty(&newest().await).await, database_of("LATIN1").await] {
        let _ = copy(&source, &target, &[]).await.expect_success();
        let rows = target.one("SELECT string_agg(t, '|' ORDER BY \"schlüssel\") FROM \"grün\"").await;
        assert_eq!(rows, "äöüß ÿ|");
        assert_eq!(target.one("SELECT obj_description('\"grün\"'::regclass)").await, "Überschrift");
        let _ = pgconvoy(&["verify", "--source", &source.uri(), "--target", &target.uri()]).await.expect_success();
    }
    let (_directory, archive) = scratch("latin1");
    let archive = archive.to_str().unwrap();
    let _ = pgconvoy(&["dump", "--source", &source.uri(), archive]).await.expect_success();
    let target = empty(&newest().await).await;
    let _ = pgconvoy(&["restore", "--target", &target.uri(), archive]).await.expect_success();
    assert_eq!(target.one("SELECT string_agg(t, '|' ORDER BY \"schlüssel\") FROM \"grün\"").await, "äöüß ÿ|");
    let _ = pgconvoy(&["verify", "--archive", archive, "--target", &target.uri()]).await.expect_success();
    // What a target cannot hold is refused, not lost.
    let source = small().await;
    let ran = copy(&source, &database_of("LATIN1").await, &[]).await.expect_code(4);
    assert!(ran.stderr.contains("UTF8") && ran.stderr.contains("LATIN1"), "{}", ran.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn databases_may_be_called_anything() {
    let cluster = newest().await;
    let (source, target) =
        (TestDb::new(&cluster, "odd ' \" name; ü %41").await, TestDb::new(&cluster, "Odd=\\ two").await);
    source.execute("CREATE TABLE t (i int); INSERT INTO t SELECT generate_series(1, 100)").await;
    let _ = copy(&source, &target, &[]).await.expect_success();
    assert_same_contents("odd names", &source, &target).await;
    let (_directory, archive) = scratch("odd ' name; ü");
    let archive = archive.to_str().unwrap();
    let _ = pgconvoy(&["dump", "--source", &source.uri(), archive]).await.expect_success();
    let _ = pgconvoy(&["restore", "--target", &target.uri(), "--drop-target-objects", archive]).await.expect_success();
    assert_same_contents("odd archive", &source, &target).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_alone_go_into_other_types_as_text_and_never_on_top_of_rows() {
    let (source, target) = (small().await, empty(&newest().await).await);
    target
        .execute("CREATE TABLE a (t varchar, id bigint, more text DEFAULT 'd'); CREATE TABLE b (x text, id int8)")
        .await;
    let _ = copy(&source, &target, &["--data-only"]).await.expect_success();
    assert_eq!(target.one("SELECT count(*) || ' ' || sum(id) || min(more) FROM a").await, "5000 12502500d");
    assert_eq!(
        target.one("SELECT x FROM b ORDER BY x::numeric LIMIT 1").await,
        source.one("SELECT min(x) FROM b").await
    );
    let _ = copy(&source, &target, &["--data-only"]).await.expect_code(4);
    assert_eq!(target.one("SELECT count(*) FROM a").await, "5000");
    // A binary archive cannot be read as text: refused, not loaded wrong.
    let (_directory, archive) = scratch("archive");
    let archive = archive.to_str().unwrap();
    let _ = pgconvoy(&["dump", "--source", &source.uri(), archive]).await.expect_success();
    target.execute("TRUNCATE a, b").await;
    let ran = pgconvoy(&["restore", "--data-only", "--target", &target.uri(), archive]).await.expect_code(4);
    assert!(ran.stderr.contains("do not fit table public."), "{}", ran.stderr);
    assert_eq!(target.one("SELECT count(*) FROM a").await, "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_left_out_is_left_out() {
    let (source, target) = (small().await, empty(&newest().await).await);
    source
        .execute("CREATE SCHEMA s; CREATE TABLE s.big (i int); INSERT INTO s.big VALUES (1); CREATE TABLE s.c (i int)")
        .await;
    let _ = copy(&source, &target, &["-n", "s", "-T", "s.c"]).await.expect_success();
    assert_eq!(
        target.one("SELECT string_agg(relname, ',') FROM pg_class WHERE oid >= 16384 AND relkind = 'r'").await,
        "big"
    );
    let target = empty(&newest().await).await;
    let _ = copy(&source, &target, &["--exclude-table-data", "s.*"]).await.expect_success();
    assert_eq!(target.one("SELECT count(*) FROM s.big").await, "0");
    assert_eq!(target.one("SELECT count(*) FROM b").await, "8000");
    let target = empty(&newest().await).await;
    let _ = copy(&source, &target, &["--schema-only"]).await.expect_success();
    assert_eq!(target.one("SELECT count(*) FROM a").await, "0");
    let _ = copy(&source, &target, &["--data-only"]).await.expect_success();
    assert_same_contents("in two steps", &source, &target).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hundreds_of_small_tables() {
    let from = cluster(pgconvoy::lab::Major::V9_6).await.unwrap_or(newest().await);
    let (source, target) = (TestDb::new(&from, "many").await, empty(&newest().await).await);
    source
        .execute(
            "DO $$ BEGIN FOR i IN 1..600 LOOP EXECUTE format(
             'CREATE TABLE t%s (id int PRIMARY KEY, t text); INSERT INTO t%s VALUES (%s, ''x'')', i, i, i);
             END LOOP; END $$",
        )
        .await;
    let _ = copy(&source, &target, &["-j", "8"]).await.expect_success();
    let _ = pgconvoy(&["verify", "--source", &source.uri(), "--target", &target.uri()]).await.expect_success();
    assert_eq!(target.one("SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace AND reltuples = 1 AND relkind = 'r'").await, "600");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_of_a_table_may_be_named_like_one_of_a_view() {
    let (source, target) = (small().await, empty(&newest().await).await);
    source
        .execute(
            "CREATE RULE r AS ON UPDATE TO b DO ALSO NOTHING; ALTER RULE r ON b RENAME TO \"_RETURN\";
             ALTER TABLE b DISABLE RULE \"_RETURN\"; COMMENT ON RULE \"_RETURN\" ON b IS 'odd'",
        )
        .await;
    let _ = copy(&source, &target, &[]).await.expect_success();
    assert_eq!(crate::compare::schema_of(&source), crate::compare::schema_of(&target));
    let rule =
        "SELECT concat(rulename, ev_enabled, obj_description(oid)) FROM pg_rewrite WHERE ev_class = 'b'::regclass";
    assert_eq!(target.one(rule).await, "_RETURNDodd");
}
