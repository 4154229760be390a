//! What neither transactions nor the log of a frozen source tell: a server whose files were put back (from a copy, a volume's
//! snapshot) and that has since seen as many transactions as the first run's. Its tables are compared one by one.

use std::path::Path;
use std::process::Command;

use pgconvoy::lab::StopMode;

use crate::compare::assert_same_contents;
use crate::errors::assert_says;
use crate::faults::SLOWLY;
use crate::fixture::{empty, newest, run, scratch};
use crate::held::{GATED, assert_restores, copy, files_of, frozen, ledger_of, resume_dump, segments_of, stop_dump};
use crate::resume::{kill, wait_for_ledger};
use crate::support::TestDb;

fn copy_files(from: &Path, to: &Path) {
    if to.exists() {
        std::fs::remove_dir_all(to).unwrap();
    }
    // Owners and modes too.
    assert!(Command::new("cp").arg("-a").args([from, to]).status().unwrap().success());
}

/// The server's files become these.
async fn put_back(source: &TestDb, files: &Path) {
    source.cluster.stop(StopMode::Fast).await.unwrap();
    copy_files(files, &source.cluster.data_dir());
    source.cluster.restart().await.unwrap();
}

const NEXT_TRANSACTION: &str = "SELECT txid_snapshot_xmax(txid_current_snapshot())";

/// Transactions, until the next one has this number. Then the log goes on behind what it was in other copies.
async fn go_to(source: &TestDb, transaction: u64) {
    let number = async || source.one(NEXT_TRANSACTION).await.parse::<u64>().unwrap();
    while number().await < transaction {
        source.execute("SELECT txid_current()").await;
    }
    assert_eq!(number().await, transaction, "the change takes too many transactions");
    source.execute("SELECT pg_switch_wal()").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_source_that_was_put_back_with_other_tables_is_not_read_on() {
    let others = newest().await;
    let source = frozen(others.major(), &[SLOWLY, GATED]).await;
    let (_files_directory, files) = scratch("files");
    source.cluster.stop(StopMode::Fast).await.unwrap();
    copy_files(&source.cluster.data_dir(), &files);
    source.cluster.restart().await.unwrap();
    let transaction = source.one(NEXT_TRANSACTION).await.parse::<u64>().unwrap() + 5;
    for _ in 0..5 {
        source.execute("SELECT txid_current()").await;
    }

    let target = empty(&others).await;
    let child = copy(&source, &target, &["--frozen-source", "-j", "1"]).spawn();
    wait_for_ledger(&target, "chunk", 1).await;
    kill(child).await;
    let (_directory, archive) = scratch("archive");
    stop_dump(&source, &archive, &["--frozen-source"]).await;
    let left = (ledger_of(&target).await, files_of(&archive));

    let resumed_copy = || copy(&source, &target, &["--frozen-source", "--resume"]);
    for (change, what) in [
        ("TRUNCATE r2", "table public.r2"),
        ("ALTER TABLE r2 ADD later int", "table public.r2"),
        ("ALTER TABLE r2 RENAME pad TO stuff", "table public.r2"),
        ("DROP TABLE r3; CREATE TABLE r3 (id int PRIMARY KEY, pad text)", "table public.r3"),
        ("CREATE TABLE r5 (id int)", "other tables take part"),
        ("SELECT lo_create(0)", "large objects"),
    ] {
        put_back(&source, &files).await;
        source.execute(change).await;
        go_to(&source, transaction).await;
        for pgconvoy in [resumed_copy(), resume_dump(&source, &archive, &["--frozen-source"])] {
            let ran = run(pgconvoy).await.expect_code(3);
            assert_says(&ran, &["it is not the same any more", what, "start again"]);
        }
    }
    assert_eq!((ledger_of(&target).await, files_of(&archive)), left, "a refusal has changed something");

    // As it was, it is gone on with.
    put_back(&source, &files).await;
    go_to(&source, transaction).await;
    let _ = run(resumed_copy()).await.expect_success();
    assert_same_contents("a resumed copy of a source that was put back", &source, &target).await;
    assert_eq!(segments_of(&archive).len(), 4);
    let _ = run(resume_dump(&source, &archive, &["--frozen-source"])).await.expect_success();
    assert_restores(&source, &archive).await;
}
