//! Type OIDs in rows: rewritten for old targets, and never a reason to take one type for another.

use pgconvoy::lab::Major;

use crate::fixture::{copy, empty, newest, pgconvoy, scratch};
use crate::support::{TestDb, cluster, expected_versions};

/// Several chunks, blocks that end anywhere, fields of many blocks before, between and after what is rewritten.
#[tokio::test(flavor = "multi_thread")]
async fn own_types_go_in_binary_to_targets_that_insist_on_their_oids() {
    let (Some(from), Some(to)) = (cluster(Major::V11).await, cluster(Major::V13).await) else {
        assert!(expected_versions().is_none(), "11 and 13 are needed");
        return;
    };
    let source = TestDb::new(&from, "oids").await;
    source
        .execute(
            "CREATE TYPE other_oids AS ENUM ('x'); CREATE TYPE mood AS ENUM ('sad', 'happy');
             CREATE TYPE p AS (t text, m mood, ms mood[]); CREATE TYPE pr AS RANGE (SUBTYPE = p);
             CREATE TABLE t (id int PRIMARY KEY, ms mood[], s text, ps p[], r pr, d int[]);
             INSERT INTO t SELECT i, ARRAY['sad', NULL, 'happy']::mood[], repeat('x', i % 700),
                ARRAY[ROW(repeat('y', i % 30), 'sad', '{happy}'), NULL, ROW(NULL, NULL, NULL)]::p[],
                pr(ROW('a', 'sad', '{}'), ROW('b', 'happy', NULL)), '{1,NULL}' FROM generate_series(1, 40000) i;
             ALTER TABLE t ALTER s SET STORAGE EXTERNAL;
             INSERT INTO t VALUES (0, '{sad}', repeat('long', 2000000),
                ARRAY[ROW(repeat('longer', 1500000), 'sad', '{sad}'), ROW('z', 'happy', NULL)]::p[], 'empty', NULL);
             CREATE MATERIALIZED VIEW mv AS SELECT id, ms, ps[1] AS p, r FROM t WHERE id < 500; ANALYZE t",
        )
        .await;
    let said = "SELECT count(*) || ' ' || md5(string_agg(md5(t::text), '' ORDER BY id)) FROM t";
    let (_directory, path) = scratch("archive");
    let archive = path.to_str().unwrap();
    let report = path.with_extension("json");
    let target = empty(&to).await;
    let more = ["--chunk-size", "1MiB", "-j", "4", "--report", report.to_str().unwrap()];
    let _ = copy(&source, &target, &more).await.expect_success();
    let report: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(report).unwrap()).unwrap();
    let table = &report["tables"][0];
    assert_eq!(table["format"], "binary", "{table}");
    assert!(table["chunks"].as_u64().unwrap() > 3, "{table}");
    assert_eq!(target.one(said).await, source.one(said).await);
    let _ = pgconvoy(&["verify", "--source", &source.uri(), "--target", &target.uri()]).await.expect_success();
    let _ = pgconvoy(&["dump", "--chunk-size", "1MiB", "--source", &source.uri(), archive]).await.expect_success();
    for to in [to, newest().await] {
        let target = empty(&to).await;
        let _ = pgconvoy(&["restore", "--target", &target.uri(), archive]).await.expect_success();
        assert_eq!(target.one(said).await, source.one(said).await);
        let verify = ["verify", "--archive", archive, "--target", &target.uri()];
        let _ = pgconvoy(&verify).await.expect_success();
        // It would notice.
        target.execute("UPDATE t SET ms[2] = 'sad' WHERE id = 77").await;
        let _ = pgconvoy(&verify).await.expect_code(1);
    }
}

/// Servers from 14 on would take the bits of one for the other.
#[tokio::test(flavor = "multi_thread")]
async fn types_of_one_name_that_are_not_the_same_are_not_taken_for_each_other() {
    let to = newest().await;
    let make = |base: &str, attributes: &str| {
        format!(
            "CREATE DOMAIN d AS {base}; CREATE TYPE p AS ({attributes}); CREATE TABLE t (v d);
             CREATE TABLE u (v d[]); CREATE TABLE w (v p)"
        )
    };
    let source = TestDb::new(&to, "same").await;
    source.execute(&make("int", "a int, b int")).await;
    source.execute("INSERT INTO t VALUES (7); INSERT INTO u VALUES ('{7}'); INSERT INTO w VALUES ('(1,2)')").await;
    let target = TestDb::new(&to, "same").await;
    target.execute(&make("real", "a int, b int8")).await;
    let _ = copy(&source, &target, &["--data-only"]).await.expect_success();
    let said = "SELECT (SELECT v FROM t) || ' ' || (SELECT v[1] FROM u) || ' ' || (SELECT v::text FROM w)";
    assert_eq!(target.one(said).await, "7 7 (1,2)");
    // An archive cannot be turned into text.
    let (_directory, archive) = scratch("archive");
    let archive = archive.to_str().unwrap();
    let _ = pgconvoy(&["dump", "--source", &source.uri(), archive]).await.expect_success();
    target.execute("TRUNCATE t, u, w").await;
    let ran = pgconvoy(&["restore", "--data-only", "--target", &target.uri(), archive]).await.expect_code(4);
    assert!(ran.stderr.contains("consists of other types"), "{}", ran.stderr);
    // Nor does text help where attributes have changed places.
    let target = TestDb::new(&to, "same").await;
    target.execute(&make("int", "b int, a int")).await;
    let ran = copy(&source, &target, &["--data-only"]).await.expect_code(4);
    assert!(ran.stderr.contains("public.w") && ran.stderr.contains("public.p has other attributes"), "{}", ran.stderr);
    assert_eq!(target.one("SELECT count(*) FROM w").await, "0");
}
