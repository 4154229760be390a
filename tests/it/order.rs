//! What has to wait for rows that are not a table's own.

use std::time::Duration;

use crate::fixture::{empty, newest, pgconvoy, run, scratch};
use crate::support::proxy::{Action, Fault, FaultProxy, Point};
use crate::support::{Pgconvoy, TestDb};

fn late(query: &'static str) -> Fault {
    Fault { action: Action::Stall(Duration::from_secs(2)), ..Fault::cut(Point::BeforeQuery(query)) }
}

/// Filled while the objects were empty, and sequences at their start, it would be another one, and nobody would know.
#[tokio::test(flavor = "multi_thread")]
async fn a_materialized_view_is_filled_when_large_objects_and_sequences_are_there() {
    let source = TestDb::new(&newest().await, "objects").await;
    source
        .execute(
            "CREATE TABLE t (id int); INSERT INTO t VALUES (1); CREATE SEQUENCE s START 40; SELECT nextval('s'), nextval('s');
             SELECT lo_from_bytea(0, convert_to('object ' || i, 'UTF8')) FROM generate_series(1, 50) i;
             CREATE MATERIALIZED VIEW texts AS SELECT convert_from(lo_get(oid), 'UTF8') AS said FROM pg_largeobject_metadata;
             CREATE MATERIALIZED VIEW last AS SELECT last_value, is_called FROM s",
        )
        .await;
    let (_directory, archive) = scratch("archive");
    let (from, archive) = (source.uri(), archive.to_str().unwrap());
    let _ = pgconvoy(&["dump", "--source", &from, archive]).await.expect_success();
    for command in [&["copy", "--source", &from][..], &["restore", archive]] {
        let target = empty(&source.cluster).await;
        let proxy = FaultProxy::start(target.cluster.port(), Some(late("lo_put")));
        let uri = proxy.uri(&target.tcp_uri());
        let args = command.iter().copied().chain(["--target", &uri, "-j", "4"]);
        let _ = run(Pgconvoy::new(args)).await.expect_success();
        assert_eq!(proxy.fired(), 1, "{command:?}");
        for sql in
            ["SELECT string_agg(said, ',' ORDER BY said) FROM texts", "SELECT last_value || is_called::text FROM last"]
        {
            assert_eq!(target.one(sql).await, source.one(sql).await, "{command:?}");
        }
        assert_eq!(target.one("SELECT nextval('s')").await, "42");
    }
}

/// It is filled with the rights of its owner.
#[tokio::test(flavor = "multi_thread")]
async fn large_objects_have_their_owners_and_grants_when_materialized_views_are_filled() {
    let source = TestDb::new(&newest().await, "owned").await;
    let cluster = &source.cluster;
    for role in ["order_owner", "order_reader"] {
        let make = format!(
            "DO $$ BEGIN CREATE ROLE {role}; EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; END $$"
        );
        cluster.execute("postgres", &make).await.unwrap();
    }
    source
        .execute(
            "CREATE SCHEMA owned; GRANT ALL ON SCHEMA owned TO order_owner, order_reader;
             SELECT lo_from_bytea(4711, 'the owner''s'), lo_from_bytea(4712, 'the reader''s');
             ALTER LARGE OBJECT 4711 OWNER TO order_owner; GRANT SELECT ON LARGE OBJECT 4712 TO order_reader;
             CREATE MATERIALIZED VIEW owned.a AS SELECT convert_from(lo_get(4711), 'UTF8') AS said;
             CREATE MATERIALIZED VIEW owned.b AS SELECT convert_from(lo_get(4712), 'UTF8') AS said;
             ALTER MATERIALIZED VIEW owned.a OWNER TO order_owner; ALTER MATERIALIZED VIEW owned.b OWNER TO order_reader",
        )
        .await;
    let (_directory, archive) = scratch("archive");
    let (from, archive) = (source.uri(), archive.to_str().unwrap());
    let _ = pgconvoy(&["dump", "--source", &from, archive]).await.expect_success();
    for command in [&["copy", "--source", &from][..], &["restore", archive]] {
        let target = empty(cluster).await;
        let uri = target.uri();
        let _ = pgconvoy(&[command, &["--target", &uri]].concat()).await.expect_success();
        assert_eq!(
            target.one("SELECT a.said || ', ' || b.said FROM owned.a, owned.b").await,
            "the owner's, the reader's"
        );
    }
}

/// An enum hashes its OID, so that rows of one leaf end up in another: what is done to that one must not see them come.
#[tokio::test(flavor = "multi_thread")]
async fn a_trigger_of_a_leaf_does_not_fire_for_rows_that_come_through_the_root() {
    let source = TestDb::new(&newest().await, "moods").await;
    source
        .execute(
            "DO $$ BEGIN EXECUTE 'CREATE TYPE mood AS ENUM (''m0''' ||
                 (SELECT string_agg(', ''m' || i || '''', '') FROM generate_series(1, 60) i) || ')'; END $$;
             CREATE TABLE audit (id int);
             CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS
                 $$ BEGIN INSERT INTO public.audit VALUES (NEW.id); RETURN NEW; END $$;
             CREATE TABLE by_mood (id int, m mood, pad text) PARTITION BY HASH (m);
             CREATE TABLE h0 PARTITION OF by_mood FOR VALUES WITH (MODULUS 2, REMAINDER 0);
             CREATE TABLE h1 PARTITION OF by_mood FOR VALUES WITH (MODULUS 2, REMAINDER 1);
             INSERT INTO by_mood SELECT i, ('m' || i % 61)::mood, repeat('x', 500) FROM generate_series(1, 6100) i;
             DELETE FROM h1 WHERE id > 100",
        )
        .await;
    source.execute("VACUUM FULL h1").await;
    source.execute("CREATE TRIGGER noted AFTER INSERT ON h1 FOR EACH ROW EXECUTE PROCEDURE note()").await;
    let target = empty(&source.cluster).await;
    // The larger leaf comes first, and waits until the other is done.
    let proxy = FaultProxy::start(target.cluster.port(), Some(late("COPY \"public\".\"by_mood\"")));
    let args = ["copy", "--source", &source.uri(), "--target", &proxy.uri(&target.tcp_uri()), "-j", "2"];
    let _ = pgconvoy(&args).await.expect_success();
    assert_eq!(proxy.fired(), 1);
    assert_ne!(
        target.one("SELECT count(*) FROM h1").await,
        source.one("SELECT count(*) FROM h1").await,
        "no row has moved"
    );
    assert_eq!(target.one("SELECT count(*) FROM audit").await, "0");
    let _ = pgconvoy(&["verify", "--source", &source.uri(), "--target", &target.uri()]).await.expect_success();
    target.execute("INSERT INTO by_mood SELECT i, ('m' || i)::mood FROM generate_series(0, 60) i").await;
    assert_ne!(target.one("SELECT count(*) FROM audit").await, "0", "the trigger is not there");
}

/// Another server may sort text otherwise: a row that comes through the root must not meet a leaf that is emptied by itself.
#[tokio::test(flavor = "multi_thread")]
async fn leaves_that_another_order_could_mix_are_all_loaded_through_their_root() {
    let source = TestDb::new(&newest().await, "cousins").await;
    let tree = |root: &str, key: &str, bounds: [&str; 3]| {
        let [first, second, third] = bounds;
        format!(
            "CREATE TABLE {root} (k {key}, m mood) PARTITION BY RANGE (k);
             CREATE TABLE {root}_a PARTITION OF {root} FOR VALUES FROM ({first}) TO ({second}) PARTITION BY HASH (m);
             CREATE TABLE {root}_h PARTITION OF {root}_a FOR VALUES WITH (MODULUS 1, REMAINDER 0);
             CREATE TABLE {root}_b PARTITION OF {root} FOR VALUES FROM ({second}) TO ({third});"
        )
    };
    let (texts, numbers) = (tree("texts", "text", ["'a'", "'k'", "'z'"]), tree("numbers", "int", ["0", "10", "20"]));
    source.execute(&format!("CREATE TYPE mood AS ENUM ('x'); {texts} {numbers}")).await;
    let (_directory, archive) = scratch("archive");
    let _ = pgconvoy(&["dump", "--source", &source.uri(), archive.to_str().unwrap()]).await.expect_success();
    let manifest = std::fs::read_to_string(archive.join("manifest")).unwrap();
    let records = manifest.lines().map(|line| serde_json::from_str::<serde_json::Value>(&line[9..]).unwrap());
    let mut through: Vec<String> = records
        .filter(|record| record["record"] == "relation")
        .map(|relation| format!("{} {}", relation["name"]["name"], relation["load_via_root"]["name"]).replace('"', ""))
        .collect();
    through.sort();
    assert_eq!(through, ["numbers_b null", "numbers_h numbers", "texts_b texts", "texts_h texts"]);
}
