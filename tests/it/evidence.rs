//! What was hashed while the source sent it proves a target equal later, without the source; damage is named, and left out
//! only where that is asked for.

use std::fmt::Write;
use std::path::Path;

use pgconvoy::lab::Major;
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::errors::{as_role, assert_says, make_login};
use crate::fixture::{empty, newest, pgconvoy, scratch, small};
use crate::support::{TestDb, cluster};

fn json(path: &Path) -> Value {
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// Own types under other OIDs, names for OIDs, a partition that others were loaded through, rows in several chunks.
const ODD: &str = "
    CREATE TYPE mood AS ENUM ('sad', 'glad'); CREATE TYPE pair AS (m mood, n int);
    CREATE TABLE odd (id int PRIMARY KEY, moods mood[], p pair, ps pair[], f float8, t timestamptz, n numeric, j json);
    INSERT INTO odd SELECT i, ARRAY['sad', 'glad']::mood[], ROW('glad', i)::pair, ARRAY[ROW('sad', i)::pair], i / 3.0,
        '2020-01-01 00:00Z'::timestamptz + i * interval '1 ms', i / 7.0, '{\"a\": 1}' FROM generate_series(1, 3000) i;
    CREATE TABLE names (r regclass); INSERT INTO names VALUES ('odd'), ('names');
    CREATE TABLE big AS SELECT i, md5(i::text) AS t FROM generate_series(1, 20000) i;
    CREATE SEQUENCE s; SELECT nextval('s'), lo_from_bytea(31, 'bytes'), lo_create(32)";

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_is_proven_equal_when_the_source_is_gone() {
    let Some(old) = cluster(Major::V9_6).await else { return };
    for to in [old.clone(), newest().await] {
        let (source, target) = (TestDb::new(&old, "evidence").await, TestDb::new(&to, "evidence").await);
        // The target's own types get other OIDs than the source's.
        source.execute(ODD).await;
        let (directory, evidence) = scratch("evidence.json");
        let file = evidence.to_str().unwrap();
        let chunks = ["copy", "--chunk-size", "1MB", "--source", &source.uri(), "--target", &target.uri()];
        let _ = pgconvoy(&[&chunks[..], &["--evidence", file]].concat()).await.expect_success();
        source.remove().await;
        let written = json(&evidence);
        assert_eq!(written["tables"].as_array().unwrap().len(), 4, "{written}");
        assert_eq!(written["source"]["system_identifier"].as_str().unwrap().len(), 19);
        assert!(written["source"]["lsn"].as_str().unwrap().contains('/'));
        let (to, report) = (target.uri(), directory.path().join("verified.json"));
        let report_file = report.to_str().unwrap();
        let verify = ["verify", "--evidence", file, "--target", &to, "--report", report_file];
        let ran = pgconvoy(&verify).await.expect_success();
        assert_says(&ran, &[]);
        assert!(ran.stdout.contains("equal: 3 tables, 1 sequence, 2 large objects"), "{}", ran.stdout);
        assert_eq!(json(&report)["verdict"], "equal");
        for (change, undo, says) in [
            (
                "UPDATE odd SET moods = '{glad,glad}' WHERE id = 7",
                "UPDATE odd SET moods = '{sad,glad}' WHERE id = 7",
                "public.odd",
            ),
            (
                "UPDATE names SET r = 'big' WHERE r = 'odd'::regclass",
                "UPDATE names SET r = 'odd' WHERE r = 'big'::regclass",
                "public.names",
            ),
            ("DELETE FROM big WHERE i = 5", "INSERT INTO big VALUES (5, md5('5'))", "public.big: evidence 20,000 rows"),
            (
                "ALTER TABLE big ADD more int",
                "ALTER TABLE big DROP more",
                "public.big: column more is only at the target",
            ),
            ("ALTER TABLE big ALTER i TYPE int8", "ALTER TABLE big ALTER i TYPE int4", "column i was of type integer"),
            ("ALTER TABLE big RENAME t TO u", "ALTER TABLE big RENAME u TO t", "column t is missing at the target"),
            ("CREATE TABLE extra ()", "DROP TABLE extra", "table public.extra is only at the target"),
            (
                "ALTER TABLE big RENAME TO bigger",
                "ALTER TABLE bigger RENAME TO big",
                "table public.big is only in the evidence",
            ),
            ("SELECT nextval('s')", "SELECT setval('s', 1)", "sequence public.s"),
            ("SELECT lo_put(31, 0, 'B')", "SELECT lo_put(31, 0, 'b')", "large objects"),
            ("SELECT lo_unlink(32)", "SELECT lo_create(32)", "large object 32 is only in the evidence"),
        ] {
            target.execute(change).await;
            let ran = pgconvoy(&verify).await.expect_code(1);
            assert!(ran.stdout.contains(says), "{says}: {}", ran.stdout);
            assert_eq!(json(&report)["verdict"], "different");
            target.execute(undo).await;
        }
        let _ = pgconvoy(&verify).await.expect_success();
        let _ = pgconvoy(&["verify", "--evidence", file, "--target", &to, "-t", "big"]).await.expect_success();
        target.remove().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn edited_evidence_and_reports_are_noticed() {
    let (source, target) = (small().await, empty(&newest().await).await);
    let (directory, evidence) = scratch("evidence.json");
    let file = evidence.to_str().unwrap();
    let (from, to) = (source.uri(), target.uri());
    let _ = pgconvoy(&["copy", "--source", &from, "--target", &to, "--evidence", file]).await.expect_success();
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&evidence).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    let reports: Vec<_> = ["verified.json", "verified.txt"].iter().map(|n| directory.path().join(n)).collect();
    for report in &reports {
        let report = report.to_str().unwrap();
        let args = ["verify", "--source", &from, "--target", &to, "--report", report];
        let _ = pgconvoy(&args).await.expect_success();
    }
    // A member that is there twice: readers differ in which of the two counts.
    let written = std::fs::read_to_string(&evidence).unwrap();
    std::fs::write(&evidence, written.replacen('{', "{\"encoding\": \"LATIN1\",", 1)).unwrap();
    assert!(pgconvoy(&["check", file]).await.expect_code(1).stdout.contains("CHANGED"));
    let ran = pgconvoy(&["verify", "--evidence", file, "--target", &to]).await.expect_code(5);
    assert_says(&ran, &["names a member twice"]);
    std::fs::write(&evidence, written).unwrap();
    let text = std::fs::read_to_string(&reports[1]).unwrap();
    for says in ["log position ", "system identifier ", "equal     public.a", "5,000 ", "equal: 2 tables"] {
        assert!(text.contains(says), "{says} is missing in {text}");
    }
    let sealed = json(&reports[0]);
    assert_eq!(sealed["moments"].as_array().unwrap().len(), 2);
    for file in reports.iter().chain([&evidence]) {
        let path = file.to_str().unwrap();
        let _ = pgconvoy(&["check", path]).await.expect_success();
        let text = std::fs::read_to_string(file).unwrap();
        let edited = text.replacen("5000", "5001", 1).replacen("5,000", "5,001", 1);
        assert_ne!(edited, text);
        std::fs::write(file, edited).unwrap();
        assert!(pgconvoy(&["check", path]).await.expect_code(1).stdout.contains("CHANGED"));
    }
    let ran = pgconvoy(&["verify", "--evidence", file, "--target", &to]).await.expect_code(5);
    assert_says(&ran, &["changed after it was written"]);
    std::fs::write(&evidence, "{}").unwrap();
    let ran = pgconvoy(&["verify", "--evidence", file, "--target", &to]).await.expect_code(5);
    assert_says(&ran, &["no evidence of pgconvoy"]);
    assert_says(&pgconvoy(&["check", file]).await.expect_code(2), &["no digest"]);
    // What is there stays: it would be taken for that of a copy that fails.
    let args = ["copy", "--source", &from, "--target", &to, "--evidence", file];
    assert_says(&pgconvoy(&args).await.expect_code(2), &["cannot write the evidence", "exists", "never overwritten"]);
    assert_eq!(std::fs::read_to_string(&evidence).unwrap(), "{}");
    let nowhere = directory.path().join("missing/evidence.json");
    let args = ["copy", "--source", &from, "--target", &to, "--evidence", nowhere.to_str().unwrap()];
    assert_says(&pgconvoy(&args).await.expect_code(2), &["cannot write the evidence"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_report_says_what_took_no_part() {
    let (source, target) = (small().await, empty(&newest().await).await);
    source.execute("CREATE TABLE c (i int); CREATE TABLE d (i int)").await;
    let (directory, evidence) = scratch("evidence.json");
    let (file, archive, report) = (
        evidence.to_str().unwrap(),
        directory.path().join("archive").to_str().unwrap().to_owned(),
        directory.path().join("verified.json"),
    );
    let (from, to) = (source.uri(), target.uri());
    let picked = ["-T", "c", "--exclude-table-data", "d", "--where", "b=id <= 100"];
    let copy = ["copy", "--source", &from, "--target", &to, "--evidence", file];
    let _ = pgconvoy(&[&copy[..], &picked].concat()).await.expect_success();
    let _ = pgconvoy(&[&["dump", "--source", &from, &archive][..], &picked].concat()).await.expect_success();
    for (option, path) in [("--evidence", file), ("--evidence", &*archive), ("--archive", &*archive)] {
        let verify = ["verify", option, path, "--target", &to, "-N", "nothing", "--report", report.to_str().unwrap()];
        let ran = pgconvoy(&verify).await.expect_success();
        let left_out = json(&report)["left_out"].to_string();
        for says in [
            "rows of public.d: left out when",
            "rows of public.b but those WHERE",
            "id <= 100",
            "by --exclude-table c",
            "what this comparison leaves out by --exclude-schema nothing",
        ] {
            assert!(left_out.contains(says), "{says}: {left_out}");
        }
        assert!(ran.stdout.contains("not compared"), "{}", ran.stdout);
    }
}

/// Where the role may not ask for it, the cluster's number is unknown: asking all the same would end the open transaction.
#[tokio::test(flavor = "multi_thread")]
async fn a_role_that_may_not_ask_for_the_system_identifier_goes_without() {
    let (source, target) = (small().await, empty(&newest().await).await);
    make_login(&source.cluster, "evidence_reader", "").await;
    source
        .execute(
            "REVOKE EXECUTE ON FUNCTION pg_catalog.pg_control_system() FROM PUBLIC;
             GRANT SELECT ON ALL TABLES IN SCHEMA public TO evidence_reader",
        )
        .await;
    let (directory, evidence) = scratch("evidence.json");
    let (file, archive) = (evidence.to_str().unwrap(), directory.path().join("archive"));
    let (from, to) = (as_role(&source, "evidence_reader"), target.uri());
    let _ = pgconvoy(&["copy", "--source", &from, "--target", &to, "--evidence", file]).await.expect_success();
    assert_eq!(json(&evidence)["source"]["system_identifier"], Value::Null);
    let _ = pgconvoy(&["dump", "--source", &from, archive.to_str().unwrap()]).await.expect_success();
    let _ = pgconvoy(&["verify", "--source", &from, "--target", &to]).await.expect_success();
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().flat_map(|byte| [byte >> 4, byte & 15].map(|d| char::from_digit(d.into(), 16).unwrap())).collect()
}

/// Rewrites one member of a segment's record, with every checksum of the manifest right again.
fn forge_segment(archive: &Path, change: impl Fn(&mut Value)) {
    let mut is_done = false;
    forge(archive, |record| {
        if record["record"] == "segment" && !is_done {
            change(record);
            is_done = true;
        }
        true
    });
}

/// Rewrites records or leaves them out, with every checksum of the manifest right again.
fn forge(archive: &Path, mut change: impl FnMut(&mut Value) -> bool) {
    let path = archive.join("manifest");
    let text = std::fs::read_to_string(&path).unwrap();
    let mut out = String::new();
    for line in text.lines() {
        let mut record: Value = serde_json::from_str(&line[9..]).unwrap();
        if !change(&mut record) {
            continue;
        }
        if record["record"] == "sealed" {
            record["manifest_sha256"] = hex(&Sha256::digest(out.as_bytes())).into();
        }
        let json = record.to_string();
        writeln!(out, "{:08x} {json}", crc32c::crc32c(json.as_bytes())).unwrap();
    }
    std::fs::write(path, out).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archive_that_holds_other_rows_than_the_source_sent_is_noticed() {
    let (source, target) = (small().await, empty(&newest().await).await);
    let (_directory, archive) = scratch("archive");
    let path = archive.to_str().unwrap();
    let _ = pgconvoy(&["dump", "--source", &source.uri(), path]).await.expect_success();
    let _ = pgconvoy(&["restore", path, "--target", &target.uri()]).await.expect_success();
    source.remove().await;
    for stored in ["--archive", "--evidence"] {
        let _ = pgconvoy(&["verify", stored, path, "--target", &target.uri()]).await.expect_success();
    }
    forge_segment(&archive, |record| record["row_hash"] = "00112233445566778899aabbccddeeff".into());
    let ran = pgconvoy(&["verify", "--archive", path, "--target", &target.uri()]).await.expect_code(1);
    assert!(ran.stdout.contains("its rows are not those that the source sent"), "{}", ran.stdout);
    assert!(ran.stdout.contains("segment data/"), "{}", ran.stdout);
    let _ = pgconvoy(&["verify", "--evidence", path, "--target", &target.uri()]).await.expect_code(1);
    forge_segment(&archive, |record| record["row_hash"] = "not a hash".into());
    let ran = pgconvoy(&["verify", "--archive", path, "--target", &target.uri()]).await.expect_code(1);
    assert!(ran.stdout.contains("is no hash of rows"), "{}", ran.stdout);
    // As an older pgconvoy wrote it.
    forge_segment(&archive, |record| record["row_hash"] = Value::Null);
    let ran = pgconvoy(&["verify", "--archive", path, "--target", &target.uri()]).await.expect_success();
    assert!(ran.stdout.contains("hold no hash of what the source sent: 1;"), "{}", ran.stdout);
    let ran = pgconvoy(&["verify", "--evidence", path, "--target", &target.uri()]).await.expect_code(5);
    assert_says(&ran, &["it holds no hash of the rows", "verify --archive"]);
}

/// The manifest tells of no relation that large objects belong to, so that nothing else knows that some are missing.
#[tokio::test(flavor = "multi_thread")]
async fn an_archive_that_lacks_large_objects_is_not_whole() {
    let source = TestDb::new(&newest().await, "objects").await;
    source.execute("SELECT lo_from_bytea(0, 'an object')").await;
    let target = empty(&newest().await).await;
    let (_directory, archive) = scratch("archive");
    let path = archive.to_str().unwrap();
    let _ = pgconvoy(&["dump", "--source", &source.uri(), path]).await.expect_success();
    std::fs::remove_file(archive.join("data/00/0.0.seg")).unwrap();
    forge(&archive, |record| {
        if record["record"] == "sealed" {
            record["totals"].as_object_mut().unwrap().values_mut().for_each(|total| *total = 0.into());
        }
        record["record"] != "segment"
    });
    let ran = pgconvoy(&["restore", path, "--target", &target.uri()]).await.expect_code(5);
    assert_says(&ran, &["the segments of pg_catalog.pg_largeobject do not hold"]);
    let ran = pgconvoy(&["verify", "--archive", path, "--target", &source.uri()]).await.expect_code(5);
    assert_says(&ran, &["the segments of pg_catalog.pg_largeobject do not hold"]);
    assert_eq!(target.one("SELECT count(*) FROM pg_largeobject_metadata").await, "0");
}

/// The largest segment's file.
fn largest(archive: &Path) -> std::path::PathBuf {
    let fans = std::fs::read_dir(archive.join("data")).unwrap();
    let files = fans.flat_map(|fan| std::fs::read_dir(fan.unwrap().path()).unwrap());
    files.map(|file| file.unwrap().path()).max_by_key(|path| std::fs::metadata(path).unwrap().len()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_table_is_named_and_left_out_only_where_that_is_asked_for() {
    let source = small().await;
    source
        .execute(
            "CREATE TABLE c (a_id int REFERENCES a, pad text);
             INSERT INTO a SELECT i, md5(i::text) || md5((i + 1)::text) FROM generate_series(5001, 9000) i",
        )
        .await;
    let (_directory, archive) = scratch("archive");
    let path = archive.to_str().unwrap();
    let _ = pgconvoy(&["dump", "--source", &source.uri(), path]).await.expect_success();
    let file = largest(&archive);
    let mut bytes = std::fs::read(&file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&file, bytes).unwrap();
    let target = empty(&newest().await).await;
    let ran = pgconvoy(&["restore", path, "--target", &target.uri()]).await.expect_code(5);
    assert_says(&ran, &["public.a, block 0 at byte", "--skip-damaged"]);
    let target = empty(&newest().await).await;
    let report = archive.with_extension("json");
    let args = ["restore", path, "--target", &target.uri(), "--skip-damaged", "--report", report.to_str().unwrap()];
    let ran = pgconvoy(&args).await.expect_code(1);
    assert!(ran.stdout.contains("NOT WHOLE"), "{}", ran.stdout);
    assert_says(&ran, &["NOT restored: all rows of public.a"]);
    assert!(json(&report)["damage"][0].as_str().unwrap().contains("public.a, block 0"));
    for (sql, expected) in [
        ("SELECT count(*) FROM a", "0"),
        ("SELECT count(*) FROM b", "8000"),
        (
            "SELECT string_agg(conname || convalidated, ',' ORDER BY conname) FROM pg_constraint WHERE contype = 'f'",
            "b_id_fkeyfalse,c_a_id_fkeytrue",
        ),
        ("SELECT count(*) FROM pg_namespace WHERE nspname = 'pgconvoy'", "0"),
    ] {
        assert_eq!(target.one(sql).await, expected, "{sql}");
    }
    // Rows alone: the keys of tables that are there would not hold without those left out.
    for rows in [&["--data-only"][..], &["--section", "data"]] {
        let args = ["restore", path, "--target", &target.uri(), "--skip-damaged"];
        assert_says(&pgconvoy(&[&args[..], rows].concat()).await.expect_code(2), &["--skip-damaged"]);
    }
    // A segment that is not there, and an archive without damage.
    std::fs::remove_file(&file).unwrap();
    let missing = empty(&newest().await).await;
    let ran = pgconvoy(&["restore", path, "--target", &missing.uri()]).await.expect_code(5);
    assert_says(&ran, &["of public.a", "the file is missing", "--skip-damaged"]);
    assert_eq!(missing.one("SELECT count(*) FROM pg_class WHERE relname = 'b'").await, "0");
    let _ = pgconvoy(&["restore", path, "--target", &missing.uri(), "--skip-damaged"]).await.expect_code(1);
    let whole = archive.with_extension("whole");
    let _ = pgconvoy(&["dump", "--source", &source.uri(), whole.to_str().unwrap()]).await.expect_success();
    let target = empty(&newest().await).await;
    let args = ["restore", whole.to_str().unwrap(), "--target", &target.uri(), "--skip-damaged"];
    let _ = pgconvoy(&args).await.expect_success();
    assert_eq!(target.one("SELECT count(*) FROM a").await, "9000");
}
