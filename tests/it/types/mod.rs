//! Every type with the values at its edges, from version to version.
//!
//! Versions are those of `PGCONVOY_TEST_VERSIONS`; with `all`, from each to 18, 17, 16 and 13, and 9.6 to itself.

mod builtin;
mod case;
mod oids;
mod table;
mod users;

use std::collections::BTreeMap;
use std::sync::Arc;

use pgconvoy::lab::{Binaries, Cluster, ClusterSpec, Major};
use tokio_postgres::SimpleQueryMessage;

use self::case::Case;
use self::table::{Cell, Cells};
use crate::fixture::{pgconvoy, scratch};
use crate::support::{TestDb, clusters, expected_versions, progress, say_not_tested};

fn cases() -> Vec<Case> {
    let mut cases = builtin::cases();
    cases.extend(users::cases());
    cases
}

/// A database with all types that a version has.
async fn database(cluster: &Arc<Cluster>, cases: &[Case]) -> TestDb {
    let db = TestDb::new(cluster, "types").await;
    db.execute("CREATE SCHEMA types").await;
    let client = db.connect().await;
    let mut refused = Vec::new();
    for case in cases.iter().filter(|case| case.since <= cluster.major()) {
        // Each statement by itself: a new label of an enum cannot be used in the transaction that makes it.
        for sql in pgconvoy::schema::statements::split(&case.create(cluster.major())) {
            if let Err(error) = client.batch_execute(sql).await {
                let said = error.as_db_error().map(ToString::to_string).unwrap_or_default();
                refused.push(format!("{}: {said}: {sql}", case.name));
            }
        }
    }
    assert!(refused.is_empty(), "{}: {}", cluster.major(), refused.join("\n"));
    db
}

/// All values, by the queries that read them; asked of the server, not of pgconvoy.
async fn values(db: &TestDb, of: Major, cases: &[Case]) -> Vec<(String, Vec<String>)> {
    let client = db.connect().await;
    let settings = "SET TimeZone = 'UTC'; SET extra_float_digits = 3; SET bytea_output = 'hex'; SET lc_monetary = 'C';
        SET IntervalStyle = 'postgres'; SET DateStyle = 'ISO, MDY'; SET search_path = public";
    client.batch_execute(settings).await.unwrap();
    let mut answers = Vec::new();
    for query in cases.iter().filter(|case| case.since <= of).flat_map(|case| case.compare(of)) {
        let messages = client.simple_query(&query).await;
        let messages = messages.unwrap_or_else(|e| panic!("{query}: {:?}", e.as_db_error()));
        let rows = messages.iter().filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => {
                let cells = (0..row.len()).map(|at| row.get(at).unwrap_or("\\N").to_owned());
                Some(cells.collect::<Vec<_>>().join(" | "))
            }
            _ => None,
        });
        answers.push((query, rows.collect()));
    }
    answers
}

#[track_caller]
fn assert_same_values(what: &str, source: &[(String, Vec<String>)], target: &[(String, Vec<String>)]) {
    let shorten = |row: &String| row.chars().take(2000).collect::<String>();
    let mut differences = Vec::new();
    for ((query, left), (_, right)) in source.iter().zip(target) {
        assert!(!left.is_empty(), "{what}: {query} finds nothing");
        for (left, right) in left.iter().zip(right).filter(|(left, right)| left != right) {
            differences.push(format!("{query}\n  source {}\n  target {}", shorten(left), shorten(right)));
        }
        assert_eq!(left.len(), right.len(), "{what}: {query}");
    }
    assert_eq!(source.len(), target.len());
    assert!(differences.is_empty(), "{what}: {} differ\n{}", differences.len(), differences.join("\n"));
}

/// The formats that the tables of each case went in, as the report of a run says.
fn formats(report: &str) -> BTreeMap<String, Cell> {
    let report: serde_json::Value = serde_json::from_str(report).unwrap();
    let mut went: BTreeMap<String, char> = BTreeMap::new();
    for table in report["tables"].as_array().unwrap() {
        let name = table["name"]["name"].as_str().unwrap_or_else(|| table["name"].as_str().unwrap());
        let format = if table["format"] == "binary" { 'B' } else { 'T' };
        went.insert(name.rsplit('.').next().unwrap().trim_matches('"').to_owned(), format);
    }
    let cell = |case: &Case| {
        let plain = *went.get(&format!("p_{}", case.slug()))?;
        Some((case.name.to_owned(), Cell { plain, nested: went.get(&format!("n_{}", case.slug())).copied() }))
    };
    cases().iter().filter_map(cell).collect()
}

/// The target versions that a source of one version is moved to.
fn targets(clusters: &[Arc<Cluster>], from: Major) -> Vec<Arc<Cluster>> {
    let newest = clusters.last().unwrap().major();
    let is_all = clusters.len() == Major::ALL.len();
    let wanted = |to: Major| {
        to == newest
            || (is_all && [Major::V17, Major::V16, Major::V13].contains(&to))
            // Servers before 14 insist on their own type OIDs.
            || (to == from && from == clusters[0].major())
    };
    clusters.iter().filter(|to| to.major() >= from && wanted(to.major())).cloned().collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_type_arrives_exactly_from_version_to_version() {
    let clusters = clusters().await;
    let (cases, mut cells) = (cases(), Cells::default());
    for from in &clusters {
        let source = database(from, &cases).await;
        let expected = values(&source, from.major(), &cases).await;
        let (_directory, archive) = scratch("archive");
        let archive = archive.to_str().unwrap();
        let _ = pgconvoy(&["dump", "--source", &source.uri(), "-j", "4", archive]).await.expect_success();
        let _ = pgconvoy(&["check", archive]).await.expect_success();
        for to in targets(&clusters, from.major()) {
            let what = format!("{} to {}", from.major(), to.major());
            let (_reports, report) = scratch("report.json");
            let target = TestDb::new(&to, "types_copy").await;
            let (from_uri, to_uri) = (source.uri(), target.uri());
            let ends = ["--source", &from_uri, "--target", &to_uri];
            let report = report.to_str().unwrap();
            let (_evidences, evidence) = scratch("evidence.json");
            let evidence = evidence.to_str().unwrap();
            let copy = ["copy", "-j", "4", "--report", report, "--evidence", evidence];
            let _ = pgconvoy(&[&copy[..], &ends].concat()).await.expect_success();
            assert_same_values(&format!("copy {what}"), &expected, &values(&target, from.major(), &cases).await);
            let _ = pgconvoy(&[&["verify"], &ends[..]].concat()).await.expect_success();
            let _ = pgconvoy(&["verify", "--evidence", evidence, "--target", &to_uri]).await.expect_success();
            cells.add(from.major(), &what, &formats(&std::fs::read_to_string(report).unwrap()));
            target.remove().await;

            let target = TestDb::new(&to, "types_restore").await;
            let to_uri = target.uri();
            let _ = pgconvoy(&["restore", "-j", "4", "--target", &to_uri, archive]).await.expect_success();
            assert_same_values(
                &format!("dump and restore {what}"),
                &expected,
                &values(&target, from.major(), &cases).await,
            );
            for stored in ["--archive", "--evidence"] {
                let _ = pgconvoy(&["verify", stored, archive, "--target", &to_uri]).await.expect_success();
            }
            target.remove().await;
        }
        source.remove().await;
    }
    cells.check_documentation(&cases);
}

/// Of pgvector there is one server only: 18 to itself.
#[tokio::test(flavor = "multi_thread")]
async fn vectors_of_pgvector_arrive_exactly() {
    let binaries = tokio::task::spawn_blocking(|| Binaries::server_with_vector(&progress())).await.unwrap();
    let binaries = match binaries {
        Ok(binaries) => binaries,
        Err(error) => {
            assert!(expected_versions().is_none(), "no server with pgvector: {error}");
            return say_not_tested(Major::V18, &error);
        }
    };
    let spec = ClusterSpec { binaries: Some(binaries), ..ClusterSpec::new(Major::V18) };
    let cluster = Arc::new(Cluster::start(spec, &progress()).await.unwrap());
    let cases = users::vectors();
    let source = database(&cluster, &cases).await;
    let expected = values(&source, Major::V18, &cases).await;
    for mode in ["copy", "restore"] {
        let target = TestDb::new(&cluster, "vectors").await;
        let (from_uri, to_uri) = (source.uri(), target.uri());
        let (_directory, path) = scratch("report.json");
        let path = path.to_str().unwrap();
        if mode == "copy" {
            let args = ["copy", "--report", path, "--source", &from_uri, "--target", &to_uri];
            let _ = pgconvoy(&args).await.expect_success();
            let report = std::fs::read_to_string(path).unwrap();
            assert_eq!(
                report.matches("\"format\":\"binary\"").count() + report.matches("\"format\": \"binary\"").count(),
                6
            );
        } else {
            let _ = pgconvoy(&["dump", "--source", &from_uri, path]).await.expect_success();
            let _ = pgconvoy(&["restore", "--target", &to_uri, path]).await.expect_success();
        }
        assert_same_values(mode, &expected, &values(&target, Major::V18, &cases).await);
        let _ = pgconvoy(&["verify", "--source", &from_uri, "--target", &to_uri]).await.expect_success();
    }
}
