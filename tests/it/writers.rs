//! A source that is in use.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::fixture::{copy, empty, newest, pgconvoy, scratch};
use crate::support::TestDb;

/// Money only moves between accounts: any consistent moment has the same sum, and as many log lines as transfers.
async fn bank() -> Arc<TestDb> {
    let db = TestDb::new(&newest().await, "bank").await;
    db.execute(
        "CREATE TABLE account (id int PRIMARY KEY, amount int NOT NULL, pad text) WITH (fillfactor = 60);
         CREATE TABLE transfer (id bigserial PRIMARY KEY, a int, b int);
         CREATE TABLE total (transfers int);
         INSERT INTO total VALUES (0);
         INSERT INTO account SELECT i, 1000, repeat('x', 300) FROM generate_series(1, 20000) i",
    )
    .await;
    Arc::new(db)
}

async fn transfer_until(db: Arc<TestDb>, stop: Arc<AtomicBool>, seed: u32) -> u64 {
    let client = db.connect().await;
    let mut count = 0;
    while !stop.load(Ordering::Relaxed) {
        let (a, b) = (1 + (count * 7919 + u64::from(seed) * 31) % 20000, 1 + (count * 104_729 + 17) % 20000);
        let (first, second) = if a < b { (a, b) } else { (b, a) };
        let sign = if a < b { 1 } else { -1 };
        // New rows and moved rows, deleted and inserted ones.
        let sql = format!(
            "BEGIN; UPDATE account SET amount = amount - {sign} WHERE id = {first};
             UPDATE account SET amount = amount + {sign} WHERE id = {second};
             DELETE FROM account WHERE id = {first} AND {first} <> {second};
             INSERT INTO account SELECT {first}, 20000000 - (SELECT sum(amount) FROM account), 'again'
                 WHERE {first} <> {second};
             INSERT INTO transfer (a, b) VALUES ({a}, {b}); UPDATE total SET transfers = transfers + 1; COMMIT"
        );
        // Two writers can be in each other's way: that transfer did not take place.
        if client.batch_execute(&sql).await.is_err() {
            let _ = client.batch_execute("ROLLBACK").await;
        } else {
            count += 1;
        }
    }
    count
}

async fn assert_consistent(db: &TestDb) {
    assert_eq!(db.one("SELECT count(*) || ' ' || sum(amount) FROM account").await, "20000 20000000");
    assert_eq!(db.one("SELECT transfers - (SELECT count(*) FROM transfer) FROM total").await, "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn while_others_write_one_moment_is_copied() {
    let source = bank().await;
    let stop = Arc::new(AtomicBool::new(false));
    let writer = tokio::spawn(transfer_until(Arc::clone(&source), Arc::clone(&stop), 1));
    let (_directory, archive) = scratch("archive");
    let archive = archive.to_str().unwrap();
    for _ in 0..2 {
        let target = empty(&source.cluster).await;
        let _ = copy(&source, &target, &["-j", "4", "--chunk-size", "256kB"]).await.expect_success();
        assert_consistent(&target).await;
        target.remove().await;
    }
    let _ = pgconvoy(&["dump", "--source", &source.uri(), "--chunk-size", "256kB", archive]).await.expect_success();
    let target = empty(&source.cluster).await;
    let _ = pgconvoy(&["restore", "--target", &target.uri(), archive]).await.expect_success();
    assert_consistent(&target).await;
    stop.store(true, Ordering::Relaxed);
    assert!(writer.await.unwrap() > 10, "nobody wrote");
    let ran = pgconvoy(&["verify", "--source", &source.uri(), "--target", &target.uri()]).await.expect_code(1);
    assert!(ran.stdout.contains("public.transfer"), "{}", ran.stdout);
}
