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
    compare_without(&source, &target, "s.*", "rows of s.big, s.c: left out by --exclude-table-data").await;
    let target = empty(&newest().await).await;
    let ran = copy(&source, &target, &["--schema-only"]).await.expect_success();
    assert!(!ran.stdout.contains("rows counted"), "{}", ran.stdout);
    assert_eq!(target.one("SELECT count(*) FROM a").await, "0");
    let _ = copy(&source, &target, &["--data-only"]).await.expect_success();
    assert_same_contents("in two steps", &source, &target).await;
}

/// What was copied without the rows of some tables is equal without them, and not equal with them.
async fn compare_without(source: &TestDb, target: &TestDb, pattern: &str, said: &str) {
    let (_directory, archive) = scratch("archive");
    let archive = archive.to_str().unwrap();
    let _ = pgconvoy(&["dump", "--source", &source.uri(), archive]).await.expect_success();
    let (from, to) = (source.uri(), target.uri());
    for reference in [["--source", &from], ["--archive", archive], ["--evidence", archive]] {
        let verify = [&["verify", "--target", &to][..], &reference].concat();
        let ran = pgconvoy(&[&verify[..], &["--exclude-table-data", pattern]].concat()).await.expect_success();
        assert!(ran.stdout.contains(said), "{reference:?}: {}", ran.stdout);
        let _ = pgconvoy(&verify).await.expect_code(1);
    }
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

#[tokio::test(flavor = "multi_thread")]
async fn the_bytes_of_a_database_that_does_not_know_are_named() {
    let source = database_of("SQL_ASCII").await;
    // "café" in LATIN1 in one row, plain ASCII in the others.
    source
        .execute(
            "CREATE TABLE t (id int PRIMARY KEY, w text, a text[]);
             INSERT INTO t SELECT i, 'plain', ARRAY['x'] FROM generate_series(1, 5) i",
        )
        .await;
    source.execute(r"INSERT INTO t VALUES (6, E'caf\351', ARRAY[E'\374'])").await;
    let target = empty(&newest().await).await;
    let ran = copy(&source, &target, &[]).await.expect_code(4);
    for says in ["public.t", "0xe9", "row 6", "--source-encoding"] {
        assert!(ran.stderr.contains(says), "{says}: {}", ran.stderr);
    }
    assert!(!ran.stderr.contains("caf"), "{}", ran.stderr);
    let named = ["--source-encoding", "latin1"];
    let _ = copy(&source, &target, &[&named[..], &["--drop-target-objects"]].concat()).await.expect_success();
    assert_eq!(target.one("SELECT w || a[1] FROM t WHERE id = 6").await, "caféü");
    let uris = [source.uri(), target.uri()];
    let verify = ["verify", "--source", &uris[0], "--target", &uris[1]];
    let _ = pgconvoy(&[&verify[..], &named[..]].concat()).await.expect_success();
    target.execute("UPDATE t SET w = 'cafè' WHERE id = 6").await;
    let _ = pgconvoy(&[&verify[..], &named[..]].concat()).await.expect_code(1);
    let (_directory, archive) = scratch("bytes");
    let archive = archive.to_str().unwrap();
    let _ = pgconvoy(&[&["dump", "--source", &uris[0], archive][..], &named[..]].concat()).await.expect_success();
    let restored = empty(&newest().await).await;
    let _ = pgconvoy(&["restore", "--target", &restored.uri(), archive]).await.expect_success();
    assert_eq!(restored.one("SELECT w || a[1] FROM t WHERE id = 6").await, "caféü");
    let _ = pgconvoy(&["verify", "--archive", archive, "--target", &restored.uri()]).await.expect_success();
    // Who knows what its bytes are is not told, and nobody knows a KLINGON.
    let ran = copy(&small().await, &empty(&newest().await).await, &named).await.expect_code(3);
    assert!(ran.stderr.contains("is UTF8"), "{}", ran.stderr);
    let ran = copy(&source, &empty(&newest().await).await, &["--source-encoding", "KLINGON"]).await.expect_code(2);
    assert!(ran.stderr.contains("no encoding of that name"), "{}", ran.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn japanese_arrives() {
    let source = database_of("EUC_JP").await;
    source
        .execute("CREATE TABLE \"表\" (\"列\" text); INSERT INTO \"表\" VALUES ('日本語'); COMMENT ON TABLE \"表\" IS '説明'")
        .await;
    let target = empty(&newest().await).await;
    let _ = copy(&source, &target, &["-t", "\"表\"", "--where", "\"表\"=\"列\" = '日本語'"]).await.expect_success();
    assert_eq!(target.one("SELECT \"列\" || obj_description('\"表\"'::regclass) FROM \"表\"").await, "日本語説明");
    let _ = pgconvoy(&["verify", "--source", &source.uri(), "--target", &target.uri()]).await.expect_success();
}

/// Names that break what is careless: quotes, line breaks, 63 bytes, reserved words, other scripts, what looks like a
/// comment, a pattern, a dollar quote, a statement's end.
const NAMES: [&str; 14] = [
    "Select",
    "it's",
    "a\"b",
    "two\nlines",
    "semi;colon",
    "-- dash",
    "$x$",
    "back\\slash",
    "tab\there",
    "*?[.]",
    "имя",
    "名前",
    "dot.ted",
    "sixty_three_bytes_of_a_name_that_is_as_long_as_a_name_can_be_xx",
];

/// A schema of each name, with a table, column, sequence, index, key, type, view, function and trigger of that name.
async fn badly_named(db: &TestDb) {
    for (number, name) in NAMES.iter().enumerate() {
        let n = format!("\"{}\"", name.replace('"', "\"\""));
        let next = format!("\"{}\"", NAMES[(number + 1) % NAMES.len()].replace('"', "\"\""));
        db.execute(&format!(
            "CREATE SCHEMA {n}; CREATE TYPE {n}.\"e {number}\" AS ENUM ('a', 'it''s');
             CREATE TABLE {n}.{n} ({n} int PRIMARY KEY, s serial, e {n}.\"e {number}\" DEFAULT 'it''s', {next} text);
             CREATE INDEX ON {n}.{n} ({next}); CREATE UNIQUE INDEX \"u {number}\" ON {n}.{n} (s);
             ALTER TABLE {n}.{n} ADD CONSTRAINT {next} FOREIGN KEY (s) REFERENCES {n}.{n};
             CREATE VIEW {n}.\"v {number}\" AS SELECT {n} FROM {n}.{n};
             CREATE MATERIALIZED VIEW {n}.\"m {number}\" AS SELECT {n} FROM {n}.{n};
             CREATE FUNCTION {n}.{n}() RETURNS trigger LANGUAGE plpgsql AS $f$ BEGIN RETURN new; END $f$;
             CREATE TRIGGER {n} BEFORE UPDATE ON {n}.{n} FOR EACH ROW EXECUTE PROCEDURE {n}.{n}();
             CREATE RULE {n} AS ON DELETE TO {n}.{n} DO ALSO SELECT 1;
             COMMENT ON TABLE {n}.{n} IS 'it''s \\ {number}'; COMMENT ON COLUMN {n}.{n}.{n} IS $c$a;b$c$;
             INSERT INTO {n}.{n} ({n}, {next}) SELECT i, 'x' FROM generate_series(1, 50) i;
             REFRESH MATERIALIZED VIEW {n}.\"m {number}\";"
        ))
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_name_is_only_a_name() {
    let mut sources = vec![newest().await];
    sources.extend(cluster(pgconvoy::lab::Major::V9_6).await);
    for cluster in sources {
        let source = TestDb::new(&cluster, "named").await;
        badly_named(&source).await;
        let (copied, restored) = (empty(&newest().await).await, empty(&newest().await).await);
        let _ = copy(&source, &copied, &["--chunk-size", "1MiB"]).await.expect_success();
        let (_directory, archive) = scratch("names");
        let archive = archive.to_str().unwrap();
        let _ = pgconvoy(&["dump", "--source", &source.uri(), archive]).await.expect_success();
        let _ = pgconvoy(&["restore", "--target", &restored.uri(), archive]).await.expect_success();
        for target in [&copied, &restored] {
            assert_same_contents("odd names", &source, target).await;
            let objects = "SELECT count(*) || ' ' || (SELECT count(*) FROM pg_constraint WHERE contype = 'f') || ' ' ||
                 (SELECT count(*) FROM pg_trigger WHERE NOT tgisinternal) || ' ' || (SELECT count(*) FROM pg_description
                 WHERE description LIKE 'it%' OR description LIKE 'a;b') FROM pg_class
                 WHERE oid >= 16384 AND relkind IN ('r', 'v', 'm', 'S', 'i') AND relname NOT LIKE 'pg_toast%'";
            assert_eq!(source.one(objects).await, target.one(objects).await);
            let args = ["verify", "--source", &source.uri(), "--target", &target.uri()];
            let _ = pgconvoy(&args).await.expect_success();
        }
        let _ = pgconvoy(&["verify", "--archive", archive, "--target", &restored.uri()]).await.expect_success();
        // Each can be picked, filtered by a condition, and dropped.
        for name in NAMES {
            let n = format!("\"{}\"", name.replace('"', "\"\""));
            let condition = format!("{n}.{n}={n} <= 7");
            let more =
                ["-n", &n, "--where", &condition, "--drop-target-objects", "--exclude-index", &format!("{n}.\"u *\"")];
            let ran = copy(&source, &copied, &more).await;
            assert!(ran.stderr.contains("no index matches"), "a star in quotes is a star: {ran:?}");
            let ran = copy(&source, &copied, &more[..5]).await.expect_success();
            assert!(!ran.stderr.contains("skipped"), "{name}: {ran:?}");
            assert_eq!(copied.one(&format!("SELECT count(*) FROM {n}.{n}")).await, "7", "{name}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_order_of_text_is_said() {
    let cluster = newest().await;
    let (source, name) = (TestDb::new(&cluster, "order").await, format!("order_c_{}", std::process::id()));
    let there_is = source.one("SELECT datcollate FROM pg_database WHERE datname = current_database()").await;
    let is_c = ["C", "POSIX"].iter().any(|name| there_is.starts_with(name));
    let other = if is_c {
        "LOCALE_PROVIDER icu ICU_LOCALE 'de-u-kn-true' LOCALE 'C'"
    } else {
        "LOCALE_PROVIDER libc LC_COLLATE 'C' LC_CTYPE 'C'"
    };
    let sql = format!("CREATE DATABASE {name} TEMPLATE template0 {other}");
    cluster.execute("postgres", &sql).await.unwrap();
    let target = TestDb { cluster, name };
    source
        .execute(
            "CREATE TABLE t (k text, c text COLLATE \"C\") PARTITION BY RANGE (k);
             CREATE TABLE t1 PARTITION OF t FOR VALUES FROM ('a') TO ('m'); INSERT INTO t VALUES ('b', 'x')",
        )
        .await;
    let ran = copy(&source, &target, &[]).await.expect_success();
    assert!(ran.stderr.contains("text is ordered by") && ran.stderr.contains("ranges of it: public.t"), "{ran:?}");
    let _ = pgconvoy(&["verify", "--source", &source.uri(), "--target", &target.uri()]).await.expect_success();
}
