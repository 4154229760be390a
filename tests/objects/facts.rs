//! What the catalogs hold and pg_dump does not say, or says only by the way: one line for each fact.

use pgconvoy::lab::Major;

use crate::support::TestDb;

/// Facts that both versions can tell, by name, of everything outside the system's schemas.
pub async fn facts_of(db: &TestDb, other: Major) -> Vec<String> {
    let major = db.cluster.major().min(other);
    let since = |first: Major, column: &'static str| if major >= first { column } else { "''" };
    let user = "n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname !~ '^pg_'";
    let not_partition = if major >= Major::V11 { "c.conparentid = 0" } else { "true" };
    let mut queries = vec![
        format!(
            "SELECT 'index', i.indexrelid::regclass, i.indisvalid, i.indisclustered, i.indisreplident, i.indisunique,
                    i.indisprimary, i.indimmediate, a.amname, x.reloptions
             FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid JOIN pg_namespace n ON n.oid = x.relnamespace
             JOIN pg_am a ON a.oid = x.relam WHERE {user} AND (i.indisvalid OR x.relkind = 'I')"
        ),
        format!(
            "SELECT 'trigger', t.tgrelid::regclass, t.tgname, t.tgenabled, t.tgtype, t.tgdeferrable, t.tginitdeferred
             FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid JOIN pg_namespace n ON n.oid = c.relnamespace
             JOIN pg_proc p ON p.oid = t.tgfoid
             WHERE {user} AND p.proname !~ '^RI_FKey' AND p.proname <> 'unique_key_recheck'"
        ),
        format!(
            "SELECT 'constraint', c.conrelid::regclass, c.contypid::regtype, c.conname, c.contype, c.convalidated,
                    c.condeferrable, c.condeferred, {}
             FROM pg_constraint c JOIN pg_namespace n ON n.oid = c.connamespace
             WHERE {user} AND c.contype IN ({}'c', 'f', 'p', 'u', 'x') AND {not_partition}",
            since(Major::V18, "c.conenforced"),
            if major >= Major::V18 { "'n', " } else { "" }
        ),
        format!(
            "SELECT 'column', a.attrelid::regclass, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull,
                    a.atthasdef, a.attislocal, a.attinhcount, coalesce(nullif(a.attstattarget, -1)::text, ''),
                    a.attstorage,
                    -- Servers keep that one for themselves.
                    (SELECT array_agg(o) FROM unnest(a.attoptions) o WHERE o NOT LIKE 'pg_attver=%'), a.attfdwoptions, (SELECT collname FROM pg_collation WHERE oid = a.attcollation AND a.atttypid <> 'name'::regtype),
                    {}, {}, {}
             FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace
             WHERE {user} AND c.relkind IN ('r', 'p', 'f', 'm', 'v', 'c') AND a.attnum > 0 AND NOT a.attisdropped",
            since(Major::V10, "a.attidentity"),
            since(Major::V12, "a.attgenerated"),
            since(Major::V14, "a.attcompression")
        ),
        format!(
            "SELECT 'relation', c.oid::regclass, c.relkind, c.relpersistence, c.relrowsecurity, c.relforcerowsecurity,
                    c.relreplident, c.reloptions, c.relispopulated, pg_get_userbyid(c.relowner), {}, {}
             FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
             WHERE {user} AND c.relkind IN ('r', 'p', 'f', 'm', 'v', 'c', 'S')",
            since(Major::V10, "c.relispartition"),
            since(Major::V12, "(SELECT amname FROM pg_am WHERE oid = c.relam)"),
        ),
        format!(
            "SELECT 'rule', r.ev_class::regclass, r.rulename, r.ev_enabled, r.is_instead FROM pg_rewrite r
             JOIN pg_class c ON c.oid = r.ev_class JOIN pg_namespace n ON n.oid = c.relnamespace WHERE {user}"
        ),
        "SELECT 'event trigger', evtname, evtenabled, evtevent, evttags FROM pg_event_trigger".into(),
        "SELECT 'large object', loid, count(*), md5(string_agg(pageno || ':' || md5(data), ',' ORDER BY pageno))
         FROM pg_largeobject GROUP BY 2"
            .into(),
        "SELECT 'setting of the role here', s.setrole, s.setconfig FROM pg_db_role_setting s
         JOIN pg_database d ON d.oid = s.setdatabase WHERE d.datname = current_database()"
            .into(),
    ];
    if major >= Major::V10 {
        queries.push(
            "SELECT 'subscription', subname, subenabled, subslotname, subpublications FROM pg_subscription s
             JOIN pg_database d ON d.oid = s.subdbid WHERE d.datname = current_database()"
                .into(),
        );
    }
    let mut facts = Vec::new();
    for sql in queries {
        // Then names come out whole.
        let sql = format!("SET search_path = ''; {sql}");
        facts.extend(db.query(&sql).await.into_iter().map(|row| row.join(" | ")));
    }
    facts.sort();
    facts
}
