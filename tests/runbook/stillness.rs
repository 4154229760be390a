//! Whether a real server's database is seen to change, and not seen to where it does not.

use pgconvoy::model::{Secret, Side};
use pgconvoy::runbook::Servers;
use pgconvoy::runbook::database::{At, Databases};

use crate::support::{TestDb, clusters};

const CHANGES: [&str; 16] = [
    "INSERT INTO t VALUES (1)",
    "TRUNCATE t",
    "SELECT nextval('s')",
    "ALTER TABLE t ADD COLUMN c int",
    "ALTER TABLE t ALTER COLUMN c SET DEFAULT 3",
    "CREATE TRIGGER g BEFORE INSERT ON t FOR EACH ROW EXECUTE PROCEDURE suppress_redundant_updates_trigger()",
    "ALTER TABLE t DISABLE TRIGGER g",
    "CREATE POLICY p ON t USING (true)",
    "CREATE RULE r AS ON DELETE TO t DO INSTEAD NOTHING",
    "COMMENT ON TABLE t IS 'text'",
    "GRANT SELECT ON t TO PUBLIC",
    "CREATE VIEW v AS SELECT 1 AS x",
    "CREATE OR REPLACE VIEW v AS SELECT 2 AS x",
    "DROP VIEW v",
    "CREATE SCHEMA another",
    "SELECT lo_create(0)",
];

/// What autovacuum does, and people who only look.
const NO_CHANGES: [&str; 4] = [
    "VACUUM ANALYZE",
    "SELECT count(*) FROM t",
    "CREATE TEMP TABLE x AS SELECT 1 AS x; DROP TABLE x",
    "SET work_mem = '5MB'",
];

#[tokio::test(flavor = "multi_thread")]
async fn everything_that_changes_a_database_shows_and_nothing_else() {
    // Between the oldest and the newest there is nothing else to be read.
    let mut clusters = clusters().await;
    let newest = clusters.pop();
    for cluster in clusters.into_iter().take(1).chain(newest) {
        let db = TestDb::new(&cluster, "still").await;
        db.execute("CREATE TABLE t (id int CHECK (id > 0)); CREATE SEQUENCE s; INSERT INTO t SELECT i FROM generate_series(1, 50) i").await;
        let url = Secret::new(db.uri());
        let servers = Servers::default();
        let at = At { name: "db", url: &url, side: Side::Source };
        // Counters arrive a moment after a session has ended.
        let settled = async || {
            let mut last = servers.mark(at).await.unwrap();
            loop {
                tokio::time::sleep(std::time::Duration::from_millis(700)).await;
                let now = servers.mark(at).await.unwrap();
                if now == last {
                    return now;
                }
                last = now;
            }
        };
        let mut before = settled().await;
        for sql in NO_CHANGES {
            db.execute(sql).await;
        }
        assert_eq!(settled().await, before, "{}", cluster.version());
        for sql in CHANGES {
            db.execute(sql).await;
            let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
            loop {
                let after = servers.mark(at).await.unwrap();
                if after != before {
                    before = after;
                    break;
                }
                assert!(std::time::Instant::now() < deadline, "{}: `{sql}` is not seen", cluster.version());
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            }
            before = if sql.starts_with("INSERT") || sql.starts_with("SELECT lo") { settled().await } else { before };
        }
    }
}

/// A role that may see nothing of others' sessions sees that they are in a transaction.
#[tokio::test(flavor = "multi_thread")]
async fn an_open_transaction_shows_to_every_role() {
    for cluster in clusters().await {
        let db = TestDb::new(&cluster, "open").await;
        let role = format!("nobody_{}", db.name);
        db.execute(&format!("CREATE ROLE {role} LOGIN; CREATE ROLE {role}_2 LOGIN")).await;
        let mut config = db.config();
        config.user(format!("{role}_2"));
        let (other, connection) = config.connect(tokio_postgres::NoTls).await.unwrap();
        let driver = tokio::spawn(connection);
        let url = Secret::new(format!("{}{}user={role}", db.uri(), if db.uri().contains('?') { '&' } else { '?' }));
        let at = At { name: "db", url: &url, side: Side::Source };
        let seen = async || {
            let sessions = Servers::default().other_sessions(at).await.unwrap();
            let other = sessions.into_iter().find(|session| session.user == format!("{role}_2"));
            other.map(|session| session.is_in_transaction)
        };
        assert_eq!(seen().await, Some(false), "{}", cluster.version());
        other.batch_execute("BEGIN").await.unwrap();
        assert_eq!(seen().await, Some(true), "{}", cluster.version());
        other.batch_execute("COMMIT").await.unwrap();
        assert_eq!(seen().await, Some(false), "{}", cluster.version());
        drop(other);
        let _ = driver.await;
    }
}
