//! Verify finds what is not the same, and says in which table.

use crate::fixture::{copy, empty, newest, pgconvoy, scratch, small};
use crate::support::Ran;

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
async fn column_order_and_dropped_columns_make_no_difference() {
    let (source, target) = (small().await, empty(&newest().await).await);
    source.execute("DROP TABLE b").await;
    target.execute("CREATE TABLE a (gone int, t text, id int); ALTER TABLE a DROP COLUMN gone").await;
    let _ = copy(&source, &target, &["--data-only"]).await.expect_success();
    let _ = pgconvoy(&["verify", "--source", &source.uri(), "--target", &target.uri()]).await.expect_success();
    assert_eq!(target.one("SELECT t FROM a WHERE id = 5000").await, "row 5000");
}
