//! Rows alone, into tables whose keys nothing checks meanwhile.

use pgconvoy::lab::Major;

use crate::compare::assert_same_contents;
use crate::errors::assert_says;
use crate::fixture::{copy, empty, newest, pgconvoy, scratch};
use crate::support::{TestDb, cluster};

const KEYS: &str = "
    CREATE SCHEMA \"Odd\";
    CREATE TABLE \"Odd\".parent (a int, b text, PRIMARY KEY (a, b));
    CREATE TABLE child (id int PRIMARY KEY, a int, b varchar, up int,
        CONSTRAINT \"to parent\" FOREIGN KEY (a, b) REFERENCES \"Odd\".parent,
        CONSTRAINT itself FOREIGN KEY (up) REFERENCES child);
    CREATE TABLE full_child (a int, b text, CONSTRAINT full_key FOREIGN KEY (a, b) REFERENCES \"Odd\".parent MATCH FULL);
    CREATE TABLE later (n int, CONSTRAINT only_once UNIQUE (n) DEFERRABLE INITIALLY DEFERRED);
    CREATE TABLE split (i int PRIMARY KEY) PARTITION BY RANGE (i);
    CREATE TABLE split_1 PARTITION OF split FOR VALUES FROM (0) TO (10);
    CREATE TABLE split_2 PARTITION OF split FOR VALUES FROM (10) TO (20);
    CREATE TABLE to_split (i int CONSTRAINT into_parts REFERENCES split) PARTITION BY RANGE (i);
    CREATE TABLE to_split_1 PARTITION OF to_split FOR VALUES FROM (0) TO (20);";

const ROWS: &str = "
    INSERT INTO \"Odd\".parent VALUES (1, 'x'), (2, 'y');
    INSERT INTO child VALUES (1, 1, 'x', 2), (2, 2, 'y', NULL), (3, NULL, 'nobody', 1), (4, 7, NULL, 4);
    INSERT INTO full_child VALUES (1, 'x'), (NULL, NULL); INSERT INTO later VALUES (1), (2), (NULL), (NULL);
    INSERT INTO split VALUES (5), (15); INSERT INTO to_split VALUES (5), (15);";

async fn with_keys() -> TestDb {
    let db = empty(&newest().await).await;
    db.execute(KEYS).await;
    db
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_that_hold_pass_and_keys_that_do_not_are_named_with_their_tables() {
    let (source, target) = (with_keys().await, with_keys().await);
    source.execute(ROWS).await;
    let _ = copy(&source, &target, &["--data-only"]).await.expect_success();
    assert_same_contents("with keys", &source, &target).await;

    // The source has rows that its own keys would not let in: it may have lost them, or never had them.
    for (break_it, phrases) in [
        ("UPDATE child SET b = 'z' WHERE id = 1", &["1 row of public.child against key to parent"][..]),
        ("UPDATE child SET up = 99 WHERE id IN (1, 3)", &["2 rows of public.child", "itself"]),
        ("INSERT INTO full_child VALUES (NULL, 'x')", &["1 row of public.full_child", "full_key"]),
        ("INSERT INTO to_split VALUES (7)", &["1 row of public.to_split_1", "key"]),
    ] {
        let (source, target) = (with_keys().await, with_keys().await);
        source.execute(ROWS).await;
        source.execute(&format!("SET session_replication_role = replica; {break_it}")).await;
        let ran = copy(&source, &target, &["--data-only"]).await.expect_code(1);
        assert_says(&ran, &["error:", "breaks the target's keys"]);
        assert_says(&ran, phrases);
        assert_eq!(target.one("SELECT count(*) FROM pg_namespace WHERE nspname = 'pgconvoy'").await, "1");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_of_rows_alone_proves_the_keys_too() {
    let (source, target) = (with_keys().await, with_keys().await);
    source.execute(ROWS).await;
    source.execute("ALTER TABLE later DROP CONSTRAINT only_once; INSERT INTO later VALUES (2)").await;
    let (_directory, archive) = scratch("keys");
    let archive = archive.to_str().unwrap();
    let _ = pgconvoy(&["dump", "--source", &source.uri(), archive]).await.expect_success();
    let ran = pgconvoy(&["restore", "--data-only", "--target", &target.uri(), archive]).await.expect_code(1);
    assert_says(&ran, &["2 rows of public.later", "only_once"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn old_targets_have_their_keys_proven_too() {
    let Some(old) = cluster(Major::V9_6).await else { return };
    let keys = "CREATE TABLE p (a varchar PRIMARY KEY); CREATE TABLE c (a text CONSTRAINT to_p REFERENCES p);
                CREATE TABLE later (n int CONSTRAINT only_once UNIQUE DEFERRABLE INITIALLY DEFERRED)";
    let (source, target) = (TestDb::new(&old, "keys").await, TestDb::new(&old, "keys").await);
    target.execute(keys).await;
    source.execute(&format!("{keys}; INSERT INTO p VALUES ('x'); INSERT INTO c VALUES ('x'), (NULL)")).await;
    let _ = copy(&source, &target, &["--data-only"]).await.expect_success();
    target.execute("TRUNCATE p, c").await;
    source.execute("SET session_replication_role = replica; INSERT INTO c VALUES ('y')").await;
    source.execute("ALTER TABLE later DROP CONSTRAINT only_once; INSERT INTO later VALUES (2), (2)").await;
    let ran = copy(&source, &target, &["--data-only"]).await.expect_code(1);
    assert_says(&ran, &["1 row of public.c against key to_p", "2 rows of public.later against key only_once"]);
}

/// Rows that a condition leaves out may be those that others refer to: the keys say so, whatever left them out.
#[tokio::test(flavor = "multi_thread")]
async fn keys_on_rows_that_a_condition_leaves_out_are_named() {
    let (source, target) = (with_keys().await, with_keys().await);
    source.execute(ROWS).await;
    let rows = ["--data-only", "--where", "\"Odd\".parent=a = 1", "--where", "split=i < 10"];
    let ran = copy(&source, &target, &rows).await.expect_code(1);
    assert_says(&ran, &["1 row of public.child against key to parent", "1 row of public.to_split_1 against key"]);
    // With those rows left out too, all keys hold.
    let more = ["--where", "child=a IS DISTINCT FROM 2", "--where", "to_split=i < 10"];
    let target = with_keys().await;
    let ran = copy(&source, &target, &[&rows[..], &more].concat()).await.expect_code(1);
    assert_says(&ran, &["1 row of public.child against key itself"]);
    source.execute("UPDATE child SET up = NULL WHERE id = 1").await;
    let target = with_keys().await;
    let _ = copy(&source, &target, &[&rows[..], &more].concat()).await.expect_success();
    assert_eq!(target.one("SELECT count(*) FROM child").await, "3");
    assert_eq!(target.one("SELECT count(*) FROM to_split").await, "1");
    // An archive of such rows is proven too.
    let (_directory, archive) = scratch("partial");
    let archive = archive.to_str().unwrap();
    let dump = ["dump", "--where", "\"Odd\".parent=a = 1", "--source", &source.uri(), archive];
    let _ = pgconvoy(&dump).await.expect_success();
    let target = with_keys().await;
    let ran = pgconvoy(&["restore", "--data-only", "--target", &target.uri(), archive]).await.expect_code(1);
    assert_says(&ran, &["1 row of public.child against key to parent"]);
}
