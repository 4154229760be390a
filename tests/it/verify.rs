//! Verify finds what is not the same, and says in which table.

use pgconvoy::lab::Major;

use crate::errors::assert_says;
use crate::fixture::{copy, empty, newest, pgconvoy, scratch, small};
use crate::support::{Ran, TestDb, cluster};

#[track_caller]
fn assert_names(ran: &Ran, table: &str) {
    assert!(ran.stdout.contains(table), "{table} is not named:\n{}", ran.stdout);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_difference_is_found_and_its_table_named() {
    let (source, target) = (small().await, empty(&newest().await).await);
    source.execute("CREATE TABLE twins (t text); INSERT INTO twins VALUES ('x'), ('x'), ('y')").await;
    let _ = copy(&source, &target, &[]).await.expect_success();
    let (_directory, archive) = scratch("archive");
    let archive = archive.to_str().unwrap();
    let _ = pgconvoy(&["dump", "--source", &source.uri(), archive]).await.expect_success();
    let changes = [
        ("UPDATE a SET t = 'row 77 ' WHERE id = 77", "UPDATE a SET t = 'row 77' WHERE id = 77", "public.a"),
        ("UPDATE a SET t = NULL WHERE id = 77", "UPDATE a SET t = 'row 77' WHERE id = 77", "public.a"),
        ("DELETE FROM twins WHERE t = 'y'", "INSERT INTO twins VALUES ('y')", "public.twins"),
        (
            "INSERT INTO twins VALUES ('y')",
            "DELETE FROM twins WHERE t = 'y'; INSERT INTO twins VALUES ('y')",
            "public.twins",
        ),
        // The same number of rows, the same set of values.
        (
            "DELETE FROM twins; INSERT INTO twins VALUES ('x'), ('y'), ('y')",
            "DELETE FROM twins; INSERT INTO twins VALUES ('x'), ('y'), ('x')",
            "public.twins",
        ),
        ("ALTER TABLE b RENAME TO b2", "ALTER TABLE b2 RENAME TO b", "public.b"),
        ("CREATE TABLE extra (i int)", "DROP TABLE extra", "public.extra"),
    ];
    let servers = ["verify", "--source", &source.uri(), "--target", &target.uri()];
    let stored = ["verify", "--archive", archive, "--target", &target.uri()];
    let _ = pgconvoy(&servers).await.expect_success();
    for (change, undo, table) in changes {
        target.execute(change).await;
        assert_names(&pgconvoy(&servers).await.expect_code(1), table);
        if table != "public.extra" {
            assert_names(&pgconvoy(&stored).await.expect_code(1), table);
        }
        target.execute(undo).await;
    }
    let _ = pgconvoy(&servers).await.expect_success();
    let _ = pgconvoy(&stored).await.expect_success();
    target.execute("UPDATE b SET x = x + 1 WHERE id = 3").await;
    let json = pgconvoy(&["verify", "--progress", "json", "--source", &source.uri(), "--target", &target.uri()]).await;
    let last = json.stdout.lines().last().unwrap();
    let last: serde_json::Value = serde_json::from_str(last).unwrap();
    assert_eq!(last["event"], "verify_finished", "{last}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_comparison_of_nothing_is_no_success() {
    let (source, target) = (small().await, empty(&newest().await).await);
    let (from, to) = (source.uri(), target.uri());
    let (_directory, archive) = scratch("archive");
    let (rows, schema) = (archive.with_extension("rows"), archive.with_extension("schema"));
    let (rows, schema) = (rows.to_str().unwrap(), schema.to_str().unwrap());
    let _ = pgconvoy(&["dump", "--source", &from, schema, "--schema-only"]).await.expect_success();
    let _ = pgconvoy(&["dump", "--source", &from, rows, "--exclude-table-data", "*"]).await.expect_success();
    for stored in ["--archive", "--evidence"] {
        let ran = pgconvoy(&["verify", stored, schema, "--target", &to]).await.expect_code(2);
        assert_says(&ran, &["--schema-only"]);
        let ran = pgconvoy(&["verify", stored, rows, "--target", &to]).await.expect_code(2);
        assert_says(&ran, &["nothing was compared"]);
        let ran = pgconvoy(&["verify", stored, rows, "--target", &to, "-t", "typo"]).await.expect_code(2);
        assert_says(&ran, &["matches typo"]);
    }
    let servers = ["verify", "--source", &from, "--target", &from];
    let ran = pgconvoy(&[&servers[..], &["-T", "*"]].concat()).await.expect_code(2);
    assert_says(&ran, &["nothing was compared"]);
    for typo in [&["-t", "typo"][..], &["-n", "typo"], &["-t", "a", "-t", "typo"]] {
        assert_says(&pgconvoy(&[&servers[..], typo].concat()).await.expect_code(2), &["matches typo"]);
    }
    let ran = pgconvoy(&[&servers[..], &["-t", "a"]].concat()).await.expect_success();
    assert!(ran.stdout.contains("by --include-table a"), "{}", ran.stdout);
    // Two databases without anything are the same, and the headline says how much that is.
    let ran = pgconvoy(&["verify", "--source", &to, "--target", &to]).await.expect_success();
    assert!(ran.stdout.contains("equal: 0 tables; 0 rows compared"), "{}", ran.stdout);
}

#[tokio::test(flavor = "multi_thread")]
async fn column_order_and_dropped_columns_make_no_difference() {
    let (source, target) = (small().await, empty(&newest().await).await);
    source.execute("DROP TABLE b").await;
    target.execute("CREATE TABLE a (gone int, t text, id int); ALTER TABLE a DROP COLUMN gone").await;
    let _ = copy(&source, &target, &["--data-only"]).await.expect_success();
    let _ = pgconvoy(&["verify", "--source", &source.uri(), "--target", &target.uri()]).await.expect_success();
    assert_eq!(target.one("SELECT t FROM a WHERE id = 5000").await, "row 5000");
}

/// Floating-point values within other types, between a server that prints them in full and one that prints them short.
#[tokio::test(flavor = "multi_thread")]
async fn floating_point_values_are_compared_wherever_they_are() {
    let Some(old) = cluster(Major::V9_6).await else { return };
    let (source, target) = (TestDb::new(&old, "floats").await, empty(&newest().await).await);
    source
        .execute(
            "CREATE DOMAIN share AS float8; CREATE TYPE point3 AS (x float8, y real, label text);
             CREATE TYPE shares AS (s share);
             CREATE TABLE exact (a float8, b real[], c share, d point3, e float8[]);
             CREATE TABLE rounded (f point3[], g shares, makes_it_text regclass);
             INSERT INTO exact SELECT i / 3.0, ARRAY[i / 7.0]::real[], i / 9.0, ROW(i / 11.0, i / 13.0, 'p')::point3,
                 ARRAY[i / 17.0, 'NaN', '-0', 1e-300] FROM generate_series(1, 200) i;
             INSERT INTO rounded SELECT ARRAY[ROW(i / 11.0, i / 13.0, 'p')::point3], ROW(i / 3.0)::shares
                 FROM generate_series(1, 200) i",
        )
        .await;
    let _ = copy(&source, &target, &[]).await.expect_success();
    let servers = ["verify", "--source", &source.uri(), "--target", &target.uri()];
    let ran = pgconvoy(&servers).await.expect_success();
    assert!(ran.stderr.contains("public.rounded are compared to 15 digits"), "{}", ran.stderr);
    let (_directory, archive) = scratch("floats");
    let archive = archive.to_str().unwrap();
    let _ = pgconvoy(&["dump", "--source", &source.uri(), archive]).await.expect_success();
    let stored = ["verify", "--archive", archive, "--target", &target.uri()];
    let ran = pgconvoy(&stored).await.expect_success();
    assert!(ran.stdout.contains("public.rounded was only counted"), "{}", ran.stdout);
    let headline = ["equal: 1 table; 200 rows compared in", "; only counted: 1 table with 200 rows"];
    assert!(headline.iter().all(|part| ran.stdout.contains(part)), "{}", ran.stdout);
    // The last bit of a value, in every column that is read in binary.
    for (column, change) in [
        ("a", "a = 0.33333333333333337"),
        ("c", "c = 0.11111111111111112"),
        ("d", "d = ROW(0.09090909090909093, (d).y, 'p')"),
        ("e", "e[1] = 0.058823529411764712"),
    ] {
        let before = target.one("SELECT exact::text FROM exact WHERE a < 0.34").await;
        target.execute(&format!("UPDATE exact SET {change} WHERE a < 0.34")).await;
        let after = target.one("SELECT exact::text FROM exact WHERE a < 0.34").await;
        assert_ne!(before, after, "{column} did not change");
        assert_names(&pgconvoy(&servers).await.expect_code(1), "public.exact");
        target
            .execute(&format!("DELETE FROM exact WHERE a < 0.34; INSERT INTO exact SELECT ('{before}'::exact).*"))
            .await;
    }
    let _ = pgconvoy(&servers).await.expect_success();
    target.execute("UPDATE rounded SET g = ROW(0.3333333333333) WHERE (g).s < 0.34").await;
    assert_names(&pgconvoy(&servers).await.expect_code(1), "public.rounded");
}

#[tokio::test(flavor = "multi_thread")]
async fn matviews_sequences_and_large_objects_are_named_for_what_they_are() {
    let (source, target) = (small().await, empty(&newest().await).await);
    source
        .execute(
            "CREATE MATERIALIZED VIEW m AS SELECT count(*) AS n, sum(x) AS s FROM b;
             CREATE MATERIALIZED VIEW unfilled AS SELECT 1 AS one WITH NO DATA;
             CREATE SEQUENCE s; SELECT nextval('s'); SELECT lo_from_bytea(31, 'bytes'), lo_create(32)",
        )
        .await;
    let _ = copy(&source, &target, &[]).await.expect_success();
    let servers = ["verify", "--source", &source.uri(), "--target", &target.uri()];
    let ran = pgconvoy(&servers).await.expect_success();
    let headline = "equal: 2 tables, 1 materialized view, 1 sequence, 2 large objects; 13,001 rows compared";
    assert!(ran.stdout.contains(headline), "{}", ran.stdout);
    let (_directory, archive) = scratch("archive");
    let archive = archive.to_str().unwrap();
    let _ = pgconvoy(&["dump", "--source", &source.uri(), archive]).await.expect_success();
    for stored in ["--archive", "--evidence"] {
        let ran = pgconvoy(&["verify", stored, archive, "--target", &target.uri()]).await.expect_success();
        assert_names(&ran, "materialized views: public.m, public.unfilled");
        assert!(ran.stderr.contains(&format!("verify: {} {archive} to target", &stored[2..])), "{}", ran.stderr);
    }
    for (change, said, undo) in [
        (
            "INSERT INTO b VALUES (1, 1); REFRESH MATERIALIZED VIEW m; DELETE FROM b WHERE ctid = (SELECT max(ctid) FROM b)",
            &["1 materialized view different, 2 tables equal", "materialized view public.m: 1 row on both sides"][..],
            "REFRESH MATERIALIZED VIEW m",
        ),
        (
            "REFRESH MATERIALIZED VIEW unfilled",
            &["1 materialized view different", "public.unfilled is populated only at the target"],
            "REFRESH MATERIALIZED VIEW unfilled WITH NO DATA",
        ),
        (
            "SELECT nextval('s')",
            &[
                "NOT equal: 1 sequence different, 2 tables equal",
                "sequence public.s: last value 1 (used) in the source",
            ],
            "SELECT setval('s', 1)",
        ),
        (
            "CREATE SEQUENCE t",
            &["1 sequence on one side only", "sequence public.t is only at the target"],
            "DROP SEQUENCE t",
        ),
        (
            "SELECT lo_unlink(32)",
            &["1 large object on one side only", "large object 32 is only at the source"],
            "SELECT lo_create(32)",
        ),
        (
            "SELECT lo_put(31, 0, 'B')",
            &["contents of large objects different, 2 tables equal", "large objects: their contents differ"],
            "SELECT lo_put(31, 0, 'b')",
        ),
        (
            "DROP MATERIALIZED VIEW m",
            &["1 materialized view on one side only", "materialized view public.m is only at the source"],
            "CREATE MATERIALIZED VIEW m AS SELECT count(*) AS n, sum(x) AS s FROM b",
        ),
    ] {
        target.execute(change).await;
        let ran = pgconvoy(&servers).await.expect_code(1);
        for phrase in said {
            assert_names(&ran, phrase);
        }
        target.execute(undo).await;
    }
    let _ = pgconvoy(&servers).await.expect_success();
}

#[tokio::test(flavor = "multi_thread")]
async fn definitions_that_differ_are_named() {
    let (source, target) = (small().await, empty(&newest().await).await);
    source
        .execute(
            "CREATE INDEX a_t ON a (t); CREATE VIEW v AS SELECT id FROM a; COMMENT ON TABLE a IS 'with a comment';
             ALTER TABLE a ALTER t SET DEFAULT 'x'; GRANT SELECT ON b TO it_reader",
        )
        .await;
    let _ = crate::fixture::copy(&source, &target, &[]).await.expect_success();
    let (from, to) = (source.uri(), target.uri());
    let verify = ["verify", "--definitions", "--source", &from, "--target", &to];
    let ran = pgconvoy(&verify).await.expect_success();
    assert!(ran.stdout.contains("definitions"), "{}", ran.stdout);
    for (change, back, says) in [
        ("DROP INDEX a_t", "CREATE INDEX a_t ON a (t)", "definition INDEX public.a_t is only at the source"),
        ("CREATE VIEW w AS TABLE b", "DROP VIEW w", "definition VIEW public.w is only at the target"),
        ("ALTER TABLE a ALTER t DROP DEFAULT", "ALTER TABLE a ALTER t SET DEFAULT 'x'", "TABLE public.a is another"),
        ("ALTER TABLE b ALTER x SET NOT NULL", "ALTER TABLE b ALTER x DROP NOT NULL", "TABLE public.b is another"),
        (
            "COMMENT ON TABLE a IS 'other'",
            "COMMENT ON TABLE a IS 'with a comment'",
            "COMMENT public.TABLE a is another",
        ),
        ("REVOKE SELECT ON b FROM it_reader", "GRANT SELECT ON b TO it_reader", "ACL public.TABLE b is only"),
        ("ALTER TABLE a OWNER TO it_owner", "ALTER TABLE a OWNER TO postgres", "TABLE public.a is another"),
    ] {
        target.execute(change).await;
        let ran = pgconvoy(&verify).await.expect_code(1);
        assert!(ran.stdout.contains(says), "{change}: {says:?} is missing in {}", ran.stdout);
        let rows_only = pgconvoy(&["verify", "--source", &from, "--target", &to]).await;
        let _ = rows_only.expect_success();
        target.execute(back).await;
    }
    let _ = pgconvoy(&verify).await.expect_success();
    // What may differ when it was left out.
    target.execute("ALTER TABLE a OWNER TO it_owner; REVOKE ALL ON b FROM it_reader; COMMENT ON TABLE a IS NULL").await;
    let ran = pgconvoy(&verify).await.expect_code(1);
    assert!(ran.stdout.contains("NOT equal"), "{}", ran.stdout);
    let _ = pgconvoy(&[&verify[..], &["-O", "-x", "--no-comments"]].concat()).await.expect_success();
}
