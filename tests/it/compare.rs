//! Whether two databases are the same, asked of pg_dump and of the servers, not of pgconvoy.

use std::process::Command;

use pgconvoy::model::ServerVersion;

use crate::support::{TestDb, clients};

/// What pg_dump says of a schema, without what differs between any two servers.
pub fn schema_of(db: &TestDb) -> String {
    let output = Command::new(&clients().pg_dump).args(["--schema-only", "--dbname", &db.uri()]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let kept = text
        .lines()
        .filter(|line| !["\\restrict", "\\unrestrict", "-- Dumped "].iter().any(|start| line.starts_with(start)));
    // What pg_get_triggerdef says since 11, and before.
    kept.map(|line| line.replace("EXECUTE PROCEDURE", "EXECUTE FUNCTION")).collect::<Vec<_>>().join("\n")
}

/// Count and hash of every table, matview and partition by itself; sequences; large objects; statistics.
pub async fn contents_of(db: &TestDb) -> Vec<String> {
    let mut lines = Vec::new();
    let relations = db
        .query(
            "SELECT quote_ident(n.nspname) || '.' || quote_ident(c.relname), c.relkind, c.oid,
                    c.relpersistence, c.relispopulated
             FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
             WHERE c.relkind IN ('r', 'm', 'S') AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast')
             ORDER BY 1",
        )
        .await;
    for relation in &relations {
        let [name, kind, oid, persistence, populated] = relation.as_slice() else { unreachable!() };
        let said = match kind.as_str() {
            "S" => format!("SELECT last_value || ' ' || is_called FROM {name}"),
            _ if populated == "f" => "SELECT 'not populated'".into(),
            _ => rows_sql(db, name, oid).await,
        };
        lines.push(format!("{name} {kind} {persistence} {}", db.one(&said).await));
    }
    let large_objects = db
        .query(
            "SELECT m.oid, r.rolname, m.lomacl, md5(lo_get(m.oid)), obj_description(m.oid, 'pg_largeobject')
             FROM pg_largeobject_metadata m JOIN pg_roles r ON r.oid = m.lomowner ORDER BY 1",
        )
        .await;
    lines.extend(large_objects.into_iter().map(|row| format!("large object {}", row.join(" "))));
    lines
}

/// Floating-point values are compared by their bits: servers before 12 print them otherwise.
async fn rows_sql(db: &TestDb, name: &str, oid: &str) -> String {
    let columns = db
        .query(&format!(
            "SELECT CASE WHEN atttypid = 'float4'::regtype THEN 'float4send(' || quote_ident(attname) || ')'
                    WHEN atttypid = 'float8'::regtype THEN 'float8send(' || quote_ident(attname) || ')'
                    ELSE quote_ident(attname) END
             FROM pg_attribute WHERE attrelid = {oid} AND attnum > 0 AND NOT attisdropped ORDER BY attname"
        ))
        .await;
    let columns: Vec<String> = columns.into_iter().map(|row| row.concat()).collect();
    format!(
        "SET TimeZone = 'UTC'; SET extra_float_digits = 3; SET bytea_output = 'hex';
         SELECT count(*) || ' ' || coalesce(md5(string_agg(r, '|' ORDER BY r)), '')
         FROM (SELECT ROW({})::text COLLATE \"C\" AS r FROM ONLY {name}) rows",
        columns.join(", ")
    )
}

/// Fails with the lines that only one side has.
#[track_caller]
pub fn assert_same(what: &str, source: &[&str], target: &[&str]) {
    let only = |these: &[&str], those: &[&str]| -> Vec<String> {
        these.iter().filter(|line| !those.contains(line)).map(ToString::to_string).collect()
    };
    let (lost, gained) = (only(source, target), only(target, source));
    assert!(
        lost.is_empty() && gained.is_empty(),
        "{what}\n--- only at the source\n{}\n--- only at the target\n{}",
        lost.join("\n"),
        gained.join("\n")
    );
    assert_eq!(source, target, "{what}: another order");
}

/// The schema of a database as PostgreSQL's own tools move it: what another version makes of the same definitions, and
/// what pg_dump cannot say (the order of inherited columns).
pub async fn moved_by_pg_dump(source: &TestDb, to: &std::sync::Arc<pgconvoy::lab::Cluster>) -> TestDb {
    let moved = TestDb::new(to, "reference").await;
    let dump = Command::new(&clients().pg_dump).args(["--schema-only", "--dbname", &source.uri()]).output().unwrap();
    assert!(dump.status.success());
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), dump.stdout).unwrap();
    let args = ["-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", &moved.uri(), "-f", file.path().to_str().unwrap()];
    let load = Command::new(&clients().psql).args(args).output().unwrap();
    assert!(load.status.success(), "{}", String::from_utf8_lossy(&load.stderr));
    moved
}

/// Schema and contents are the same, and nothing of a run is left.
pub async fn assert_equal(what: &str, source: &TestDb, target: &TestDb) {
    let left = if target.cluster.version() >= ServerVersion::V17 {
        schema_of(&moved_by_pg_dump(source, &target.cluster).await)
    } else {
        // pg_dump 18 writes statements that such a server does not know: compared with the source itself, but for the
        // table whose columns come in another order.
        for db in [source, target] {
            db.execute("DROP TABLE shop.adopted").await;
        }
        schema_of(source)
    };
    let right = schema_of(target);
    assert_same(what, &left.lines().collect::<Vec<_>>(), &right.lines().collect::<Vec<_>>());
    assert_same_contents(what, source, target).await;
}

pub async fn assert_same_contents(what: &str, source: &TestDb, target: &TestDb) {
    let (left, right) = (contents_of(source).await, contents_of(target).await);
    let refs = |lines: &[String]| -> Vec<String> { lines.to_vec() };
    let (left, right) = (refs(&left), refs(&right));
    assert_same(
        what,
        &left.iter().map(String::as_str).collect::<Vec<_>>(),
        &right.iter().map(String::as_str).collect::<Vec<_>>(),
    );
    assert_eq!(target.one("SELECT count(*) FROM pg_namespace WHERE nspname = 'pgconvoy'").await, "0", "{what}");
}
