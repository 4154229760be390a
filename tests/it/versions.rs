//! What changed between versions and minors of PostgreSQL, and what databases may have set otherwise.

use std::sync::Arc;

use pgconvoy::lab::{Cluster, Major};

use crate::compare::moved_by_pg_dump;
use crate::fixture::{copy, empty, newest, pgconvoy, scratch};
use crate::support::{TestDb, cluster, clusters};

/// Moves it both ways, and gives both targets, to be looked at.
async fn moved(source: &TestDb, to: &Arc<Cluster>) -> [TestDb; 2] {
    let (copied, restored) = (empty(to).await, empty(to).await);
    let _ = copy(source, &copied, &[]).await.expect_success();
    let (_directory, archive) = scratch("archive");
    let archive = archive.to_str().unwrap();
    let _ = pgconvoy(&["dump", "--source", &source.uri(), archive]).await.expect_success();
    let _ = pgconvoy(&["restore", "--target", &restored.uri(), archive]).await.expect_success();
    [copied, restored]
}

async fn tables(db: &TestDb) -> String {
    db.one("SELECT count(*) FROM pg_class WHERE relkind IN ('r', 'v') AND relnamespace >= 16384 OR relname = 't'").await
}

/// Refused with these words, by a copy and by restoring what a dump made, and nothing was begun.
async fn assert_refused(source: &TestDb, to: &Arc<Cluster>, code: i32, words: &[&str]) {
    let target = empty(to).await;
    let ran = copy(source, &target, &[]).await.expect_code(code);
    for word in words {
        assert!(ran.stderr.contains(word), "{word}: {}", ran.stderr);
    }
    assert_eq!(tables(&target).await, "0");
    assert_eq!(target.one("SELECT count(*) FROM pg_namespace WHERE nspname = 'pgconvoy'").await, "0");
}

/// Servers of the November 2026 minors store it for each column, and pg_dumps before them write it out.
#[tokio::test(flavor = "multi_thread")]
async fn the_column_option_pg_attver_stays_behind() {
    for from in clusters().await {
        let source = TestDb::new(&from, "attver").await;
        source
            .execute(
                "CREATE TABLE t (a int, b text, c int); ALTER TABLE t ALTER b SET (n_distinct = 5, n_distinct_inherited = -0.5);
                 CREATE MATERIALIZED VIEW m AS SELECT a FROM t; CREATE TYPE pair AS (x int, y text);
                 CREATE VIEW v AS SELECT a, b FROM t; INSERT INTO t VALUES (1, 'x', 2);
                 UPDATE pg_attribute SET attoptions = ARRAY['pg_attver=18270144'] || coalesce(attoptions, '{}')
                 WHERE attnum > 0 AND attrelid IN ('t'::regclass, 'm'::regclass, 'v'::regclass,
                    (SELECT typrelid FROM pg_type WHERE typname = 'pair'));",
            )
            .await;
        for target in moved(&source, &newest().await).await {
            let kept = "SELECT string_agg(attrelid::regclass || '.' || attname || ' ' || attoptions::text, ', ')
                        FROM pg_attribute WHERE attrelid IN ('t'::regclass, 'm'::regclass, 'v'::regclass)
                        AND EXISTS (SELECT 1 FROM unnest(attoptions) o WHERE o NOT LIKE 'pg_attver=%')";
            let kept = target.one(kept).await.replace("pg_attver=18270144,", "");
            assert_eq!(kept, "t.b {n_distinct=5,n_distinct_inherited=-0.5}", "{}", from.major());
            let given = "SELECT count(*) FROM pg_attribute WHERE 'pg_attver=18270144' = ANY (attoptions)";
            assert_eq!(target.one(given).await, "0", "{}", from.major());
            assert_eq!(target.one("SELECT t::text FROM t").await, "(1,x,2)");
        }
    }
}

/// In plain dumps, lines of that kind are psql's; in bodies and rows they are nobody's.
#[tokio::test(flavor = "multi_thread")]
async fn lines_that_look_like_commands_of_psql_are_text() {
    let source = TestDb::new(&newest().await, "restrict").await;
    let body = "\n\\restrict abc\n\\unrestrict abc\n\\.\n-- COPY t FROM stdin;\n\\connect x\nBEGIN; END;\n";
    source
        .execute(&format!(
            "SET check_function_bodies = off; CREATE FUNCTION f() RETURNS void LANGUAGE plpgsql AS $${body}$$; COMMENT ON FUNCTION f() IS $${body}$$;
             CREATE TABLE t (id int, c regclass, s text DEFAULT $${body}$$);
             INSERT INTO t VALUES (1, 't', $${body}$$), (2, NULL, '\\.'), (3, NULL, E'\\\\restrict x')"
        ))
        .await;
    let said = "SELECT prosrc || obj_description(oid) || (SELECT string_agg(t::text, '|' ORDER BY id) FROM t)
                || (SELECT pg_get_expr(adbin, adrelid) FROM pg_attrdef) FROM pg_proc WHERE proname = 'f'";
    for target in moved(&source, &source.cluster).await {
        assert_eq!(target.one(said).await, source.one(said).await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn strings_without_standard_conformance_mean_the_same() {
    for from in clusters().await {
        let source = TestDb::new(&from, "strings").await;
        let setting = format!("ALTER DATABASE \"{}\" SET standard_conforming_strings = off", source.name);
        source.execute(&setting).await;
        source
            .execute(
                r"SET standard_conforming_strings = off; SET escape_string_warning = off;
                  CREATE TYPE mood AS ENUM ('a\\b', 'it\'s');
                  CREATE DOMAIN d AS text DEFAULT '\\x' CHECK (VALUE <> '\\');
                  CREATE TABLE t (id int, s text DEFAULT 'back\\slash \'', m mood DEFAULT 'it\'s', CHECK (s <> '\\n'));
                  CREATE VIEW v AS SELECT s || '\\' AS w FROM t WHERE s LIKE '%\\\\%';
                  CREATE FUNCTION f() RETURNS text LANGUAGE sql AS 'SELECT E\'\\\\\\\\\'::text';
                  COMMENT ON TABLE t IS 'c\\d; \'e';
                  CREATE INDEX i ON t (id) WHERE s <> '\\;';
                  INSERT INTO t (id) VALUES (1); INSERT INTO t VALUES (2, 'x', 'a\\b')",
            )
            .await;
        for target in moved(&source, &newest().await).await {
            for said in [
                "SELECT string_agg(pg_get_expr(adbin, adrelid), ' ' ORDER BY adnum) FROM pg_attrdef",
                "SELECT string_agg(pg_get_constraintdef(oid), ' ' ORDER BY conname) FROM pg_constraint WHERE connamespace = 2200",
                "SELECT string_agg(enumlabel, ' ' ORDER BY enumsortorder) FROM pg_enum",
                "SELECT typdefault FROM pg_type WHERE typname = 'd'",
                "SELECT prosrc FROM pg_proc WHERE proname = 'f'",
                "SELECT obj_description('t'::regclass)",
                "SELECT pg_get_indexdef('i'::regclass)",
                "SELECT string_agg(t::text, ' ' ORDER BY id) FROM t",
                "SELECT string_agg(w, ' ') FROM v",
            ] {
                let said = format!("SET standard_conforming_strings = on; {said}");
                assert_eq!(target.one(&said).await, source.one(&said).await, "{}: {said}", from.major());
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn types_that_are_gone_are_refused_by_name_wherever_they_are() {
    let Some(old) = cluster(Major::V9_6).await else { return };
    let to = newest().await;
    for (sql, words) in [
        ("CREATE TABLE t (id int, since abstime)", ["public.t.since (abstime)", "timestamptz"]),
        ("CREATE TABLE t (id int, spans reltime[])", ["public.t.spans (reltime[])", "interval"]),
        ("CREATE TYPE p AS (a tinterval); CREATE TABLE t (v p)", ["public.p.a (tinterval)", "public.t.v (public.p)"]),
        ("CREATE DOMAIN d AS abstime; CREATE TABLE t (v d)", ["public.t.v (public.d)", "abstime"]),
        ("CREATE TABLE t (v smgr)", ["public.t.v (smgr)", "smgr"]),
        ("CREATE VIEW t AS SELECT now()::abstime AS at", ["public.t.at (abstime)", "abstime"]),
        ("CREATE TABLE t AS SELECT 'x' AS v", ["public.t.v (unknown)", "text"]),
        ("CREATE TABLE t (a unknown)", ["public.t.a (unknown)", "text"]),
        (
            "CREATE FUNCTION f() RETURNS opaque LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'",
            ["functions public.f()", "no such type"],
        ),
    ] {
        let source = TestDb::new(&old, "gone").await;
        source.execute(sql).await;
        assert_refused(&source, &to, 4, &words).await;
        // The version that has them takes them.
        let target = empty(&old).await;
        let _ = copy(&source, &target, &[]).await.expect_success();
        source.remove().await;
        target.remove().await;
    }
    // Views find the types of their columns anew.
    let source = TestDb::new(&old, "views").await;
    source.execute("CREATE VIEW v AS SELECT 'x' AS a; CREATE MATERIALIZED VIEW m AS SELECT 'x' AS a, 1 AS b").await;
    for target in moved(&source, &to).await {
        assert_eq!(target.one("SELECT v.a || m.a || m.b FROM v, m").await, "xx1");
    }
    // An archive that was made for another target.
    let source = TestDb::new(&old, "archived").await;
    source.execute("CREATE TABLE t (a abstime[], b text); INSERT INTO t VALUES ('{2000-01-01}', 'x')").await;
    let (_directory, archive) = scratch("archive");
    let archive = archive.to_str().unwrap();
    let _ = pgconvoy(&["dump", "--source", &source.uri(), archive]).await.expect_success();
    let target = empty(&to).await;
    let ran = pgconvoy(&["restore", "--target", &target.uri(), archive]).await.expect_code(4);
    assert!(ran.stderr.contains("public.t.a (abstime[])"), "{}", ran.stderr);
    assert_eq!(tables(&target).await, "0");
    let target = empty(&old).await;
    let _ = pgconvoy(&["restore", "--target", &target.uri(), archive]).await.expect_success();
    assert_eq!(target.one("SELECT t::text FROM t").await, source.one("SELECT t::text FROM t").await);
}

#[tokio::test(flavor = "multi_thread")]
async fn values_that_no_server_takes_back_are_refused_by_name() {
    let to = newest().await;
    let source = TestDb::new(&to, "trees").await;
    source
        .execute(
            "CREATE TABLE d (i int DEFAULT 1); CREATE TABLE t AS SELECT adrelid::int8 AS id, adbin FROM pg_attrdef;
             CREATE TABLE empty_tree (id int, tree pg_node_tree, s gtsvector); INSERT INTO empty_tree VALUES (1)",
        )
        .await;
    assert_refused(&source, &to, 3, &["public.t.adbin (pg_node_tree)", "no server takes back"]).await;
    // Where there are none, there is nothing to refuse.
    source.execute("UPDATE t SET adbin = NULL").await;
    for target in moved(&source, &to).await {
        assert_eq!(target.one("SELECT count(id) || ' ' || count(adbin) FROM t").await, "1 0");
        assert_eq!(target.one("SELECT count(id) FROM empty_tree").await, "1");
    }
}

/// As with pg_restore: the error names what is missing, and nothing is called done.
#[tokio::test(flavor = "multi_thread")]
async fn names_of_what_comes_after_the_rows_end_the_load() {
    let source = TestDb::new(&newest().await, "later").await;
    source.execute("CREATE TABLE t (id int PRIMARY KEY, c regclass); INSERT INTO t VALUES (1, 't_pkey')").await;
    let target = empty(&source.cluster).await;
    let ran = copy(&source, &target, &[]).await.expect_code(4);
    assert!(ran.stderr.contains("public.t") && ran.stderr.contains("t_pkey"), "{}", ran.stderr);
    assert_eq!(target.one("SELECT count(*) FROM pg_namespace WHERE nspname = 'pgconvoy'").await, "1");
}

/// Servers before 16 print such a byte as it is, which is no text in UTF8: said, not loaded as something else.
#[tokio::test(flavor = "multi_thread")]
async fn bytes_of_char_above_127_in_text_rows_end_the_load() {
    for from in clusters().await.into_iter().filter(|from| from.major() < Major::V16) {
        let source = TestDb::new(&from, "char").await;
        source.execute("CREATE TABLE t (c \"char\", r regclass); INSERT INTO t VALUES ((-128)::\"char\", NULL)").await;
        let ran = copy(&source, &empty(&newest().await).await, &[]).await.expect_code(4);
        assert!(ran.stderr.contains("public.t") && ran.stderr.contains("invalid byte sequence"), "{}", ran.stderr);
    }
}

/// 15 took CREATE from everybody, and gave the schema to pg_database_owner.
#[tokio::test(flavor = "multi_thread")]
async fn rights_on_public_are_what_pg_dump_makes_them() {
    for from in clusters().await.into_iter().filter(|from| from.major() < Major::V15) {
        for sql in [
            "SELECT 1",
            "REVOKE ALL ON SCHEMA public FROM PUBLIC",
            "REVOKE CREATE ON SCHEMA public FROM PUBLIC; GRANT CREATE ON SCHEMA public TO it_reader",
            "GRANT ALL ON SCHEMA public TO PUBLIC; GRANT USAGE ON SCHEMA public TO it_owner WITH GRANT OPTION",
            "ALTER SCHEMA public OWNER TO it_owner",
            "DROP SCHEMA public",
        ] {
            let source = empty(&from).await;
            source.execute(sql).await;
            let to = newest().await;
            let reference = moved_by_pg_dump(&source, &to).await;
            let rights =
                "SELECT coalesce(string_agg(nspowner::regrole || ' ' || coalesce(nspacl::text, ''), '|'), 'none')
                          FROM pg_namespace WHERE nspname = 'public'";
            let [copied, restored] = moved(&source, &to).await;
            for target in [&copied, &restored] {
                assert_eq!(target.one(rights).await, reference.one(rights).await, "{}: {sql}", from.major());
            }
            for db in [source, reference, copied, restored] {
                db.remove().await;
            }
        }
    }
}

/// Values are the same whatever the databases of both sides set for their own sessions.
#[tokio::test(flavor = "multi_thread")]
async fn settings_of_the_databases_do_not_change_values() {
    let columns =
        "id int, b bytea, d date, t timestamptz, i interval, f float8, r real, x xml, a int[], m money, c regclass";
    for from in clusters().await {
        let source = TestDb::new(&from, "settings").await;
        source
            .execute(&format!(
                "CREATE TABLE t ({columns}); CREATE TABLE u (LIKE t); ALTER TABLE u DROP c;
                 INSERT INTO t VALUES (1, '\\x00ff5c', '2001-02-03', '2001-02-03 04:05:06.789+00', '-1 mon 2 days -03:04:05.678',
                    0.1::float8 + 0.2, 0.1, 'a<b/>', '{{1,NULL}}', 12345.67, 't');
                 INSERT INTO u SELECT id, b, d, t, i, f, r, x, a, m FROM t"
            ))
            .await;
        set_oddly(&source, "SQL, DMY", "Asia/Kathmandu").await;
        let to = newest().await;
        let said = "SET DateStyle = 'ISO, MDY'; SET IntervalStyle = 'postgres'; SET bytea_output = 'hex'; SET TimeZone = 'UTC';
            SELECT string_agg(ROW(b, d, t, i, float8send(f), float4send(r), x, a, m)::text, '|')
            FROM (SELECT b, d, t, i, f, r, x, a, m FROM public.t UNION ALL SELECT b, d, t, i, f, r, x, a, m FROM public.u) s";
        let target = empty(&to).await;
        set_oddly(&target, "German", "America/Lima").await;
        let _ = copy(&source, &target, &[]).await.expect_success();
        assert_eq!(target.one(said).await, source.one(said).await, "copy from {}", from.major());
        let _ = pgconvoy(&["verify", "--source", &source.uri(), "--target", &target.uri()]).await.expect_success();
        let (_directory, archive) = scratch("archive");
        let archive = archive.to_str().unwrap();
        let _ = pgconvoy(&["dump", "--source", &source.uri(), archive]).await.expect_success();
        let target = empty(&to).await;
        set_oddly(&target, "Postgres, DMY", "Pacific/Apia").await;
        let _ = pgconvoy(&["restore", "--target", &target.uri(), archive]).await.expect_success();
        assert_eq!(target.one(said).await, source.one(said).await, "restore from {}", from.major());
    }
}

/// pg_dump 18 writes a NOT NULL of an inherited column in a syntax that came with servers of 18.
#[tokio::test(flavor = "multi_thread")]
async fn not_null_of_inherited_columns_arrives_at_every_server() {
    let pg_dump = crate::support::clients().pg_dump.to_str().unwrap();
    for cluster in clusters().await {
        let source = TestDb::new(&cluster, "not_null").await;
        source
            .execute(
                "CREATE TABLE p (a int, \"b, (\" text, c int DEFAULT 4);
                 CREATE TABLE alone () INHERITS (p); ALTER TABLE alone ALTER a SET NOT NULL;
                 CREATE TABLE \"Many\" (x numeric(4,2) DEFAULT 1.5, CHECK (x > 0 AND \"b, (\" <> ' NOT NULL a,')) INHERITS (p);
                 ALTER TABLE \"Many\" ALTER a SET NOT NULL, ALTER \"b, (\" SET NOT NULL;
                 CREATE TABLE declared (a int NOT NULL, c int) INHERITS (p);
                 INSERT INTO \"Many\" VALUES (1, 'x', 2, 3)",
            )
            .await;
        let known = "SELECT string_agg(attrelid::regclass || '.' || attname || ' ' || attnotnull, ' '
                        ORDER BY attrelid::regclass::text, attname)
                     FROM pg_attribute WHERE attnum > 0 AND attrelid IN (SELECT inhrelid FROM pg_inherits)";
        let (_directory, archive) = scratch("archive");
        let archive = archive.to_str().unwrap();
        let args = ["dump", "--pg-dump", pg_dump, "--source", &source.uri(), archive];
        let _ = pgconvoy(&args).await.expect_success();
        let (copied, restored) = (empty(&cluster).await, empty(&cluster).await);
        let _ = copy(&source, &copied, &["--pg-dump", pg_dump]).await.expect_success();
        let _ = pgconvoy(&["restore", "--target", &restored.uri(), archive]).await.expect_success();
        for target in [copied, restored] {
            assert_eq!(target.one(known).await, source.one(known).await, "{}", cluster.major());
            assert_eq!(target.one("SELECT count(*) FROM p WHERE c = 2").await, "1");
        }
    }
}

async fn set_oddly(db: &TestDb, date_style: &str, zone: &str) {
    let settings = [
        ("DateStyle", date_style),
        ("TimeZone", zone),
        ("IntervalStyle", "sql_standard"),
        ("bytea_output", "escape"),
        ("extra_float_digits", "-15"),
        ("xmloption", "document"),
        ("array_nulls", "off"),
        ("quote_all_identifiers", "on"),
        ("search_path", "pg_temp"),
        ("default_transaction_read_only", "off"),
        ("client_encoding", "LATIN1"),
        ("synchronize_seqscans", "on"),
        ("statement_timeout", "60s"),
    ];
    for (name, value) in settings {
        db.cluster
            .execute("postgres", &format!("ALTER DATABASE \"{}\" SET {name} = '{value}'", db.name))
            .await
            .unwrap();
    }
    db.cluster
        .execute("postgres", &format!("ALTER DATABASE \"{}\" SET DateStyle = {date_style}", db.name))
        .await
        .unwrap();
}
