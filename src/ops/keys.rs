//! Proves the keys of tables that were loaded while nothing checked them.
//!
//! `session_replication_role = replica` switches off the triggers that enforce foreign keys, and those that look again
//! at deferrable unique keys (`unique_key_recheck`): both exist at the target before the rows do when rows go alone.

use std::collections::HashSet;

use super::error::{Cause, Error, Result};
use super::options::{Contents, Run};
use super::server::Server;
use crate::model::{QualifiedName, Relation, ServerVersion};

/// A key of a loaded table, and the query that counts the rows that break it.
struct Key {
    table: QualifiedName,
    name: String,
    /// `None`: there is no such query, and why.
    query: std::result::Result<String, String>,
}

/// Counts, after rows alone were loaded, the rows that break a key of their table.
///
/// # Errors
/// Exit code 1: a key is broken; every such key is named with its table.
pub(super) async fn prove<R: AsRef<Relation>>(
    target: &Server,
    relations: &[R],
    contents: Contents,
    run: &Run,
) -> Result<()> {
    if contents != Contents::DataOnly {
        return Ok(());
    }
    let loaded: HashSet<&QualifiedName> =
        relations.iter().map(AsRef::as_ref).flat_map(|r| [Some(&r.name), r.load_via_root.as_ref()]).flatten().collect();
    let mut keys = foreign_keys(target).await?;
    keys.extend(deferrable_keys(target).await?);
    let mut broken = Vec::new();
    for key in keys.into_iter().filter(|key| loaded.contains(&key.table)) {
        let Key { table, name, query } = key;
        match query {
            Err(why) => run.events.warn(format!("key {name} of {table} was not checked: {why}")),
            Ok(query) => {
                let counted = target.catalog().scalar::<i64>(&query).await;
                let rows = counted.map_err(|e| Error::from(e).doing(format!("checking key {name} of {table}")))?;
                if rows > 0 {
                    let rows = crate::model::counted(u64::try_from(rows).unwrap_or(0), "row");
                    broken.push(format!("{rows} of {table} against key {name}"));
                }
            }
        }
    }
    if broken.is_empty() {
        return Ok(());
    }
    let error =
        Error::new(Cause::Difference(format!("what was loaded breaks the target's keys: {}", broken.join("; "))));
    Err(error.hint("move the tables that they refer to as well, or correct the rows at the source"))
}

/// Pairs of columns of a foreign key, put together by [`anti_join`].
struct ForeignKey {
    table: QualifiedName,
    name: String,
    /// With ONLY where rows of children do not count (`RI_FKey_check` in ri_triggers.c).
    from: String,
    to: String,
    columns: Vec<(String, String)>,
    match_full: bool,
    with_period: bool,
}

async fn foreign_keys(target: &Server) -> Result<Vec<Key>> {
    let version = target.version();
    // Clones for the partitions of the table that is referred to say less than the key itself.
    let clones = if version >= ServerVersion::V11 {
        "AND NOT EXISTS (SELECT 1 FROM pg_catalog.pg_constraint p WHERE p.oid = k.conparentid AND p.confrelid <> k.confrelid)"
    } else {
        ""
    };
    let (enforced, period) =
        if version >= ServerVersion::V18 { ("AND k.conenforced", "k.conperiod") } else { ("", "false") };
    let sql = format!(
        "SELECT k.oid, fn.nspname::text, fc.relname::text, k.conname::text,
            CASE fc.relkind WHEN 'p' THEN '' ELSE 'ONLY ' END || pg_catalog.quote_ident(fn.nspname) || '.' || pg_catalog.quote_ident(fc.relname),
            CASE tc.relkind WHEN 'p' THEN '' ELSE 'ONLY ' END || pg_catalog.quote_ident(tn.nspname) || '.' || pg_catalog.quote_ident(tc.relname),
            k.confmatchtype = 'f', {period},
            'f.' || pg_catalog.quote_ident(fa.attname),
            't.' || pg_catalog.quote_ident(ta.attname)
                || COALESCE((SELECT ' COLLATE ' || pg_catalog.quote_ident(cn.nspname) || '.' || pg_catalog.quote_ident(c.collname)
                    FROM pg_catalog.pg_collation c JOIN pg_catalog.pg_namespace cn ON cn.oid = c.collnamespace
                    WHERE c.oid = ta.attcollation), '')
                || ' OPERATOR(' || pg_catalog.quote_ident(opn.nspname) || '.' || op.oprname || ') f.' || pg_catalog.quote_ident(fa.attname)
         FROM pg_catalog.pg_constraint k
         JOIN pg_catalog.pg_class fc ON fc.oid = k.conrelid JOIN pg_catalog.pg_namespace fn ON fn.oid = fc.relnamespace
         JOIN pg_catalog.pg_class tc ON tc.oid = k.confrelid JOIN pg_catalog.pg_namespace tn ON tn.oid = tc.relnamespace
         CROSS JOIN LATERAL pg_catalog.generate_subscripts(k.conkey, 1) s(i)
         JOIN pg_catalog.pg_attribute fa ON fa.attrelid = k.conrelid AND fa.attnum = k.conkey[s.i]
         JOIN pg_catalog.pg_attribute ta ON ta.attrelid = k.confrelid AND ta.attnum = k.confkey[s.i]
         JOIN pg_catalog.pg_operator op ON op.oid = k.conpfeqop[s.i]
         JOIN pg_catalog.pg_namespace opn ON opn.oid = op.oprnamespace
         WHERE k.contype = 'f' AND k.convalidated {enforced} {clones}
         ORDER BY fn.nspname, fc.relname, k.conname, k.oid, s.i"
    );
    let catalog = target.catalog();
    let mut keys: Vec<(u32, ForeignKey)> = Vec::new();
    for row in &catalog.rows(&sql).await? {
        let oid: u32 = catalog.get(row, 0)?;
        let pair = (catalog.get(row, 8)?, catalog.get(row, 9)?);
        match keys.last_mut() {
            Some((last, key)) if *last == oid => key.columns.push(pair),
            _ => {
                let key = ForeignKey {
                    table: QualifiedName::new(catalog.get::<&str>(row, 1)?, catalog.get::<&str>(row, 2)?),
                    name: catalog.get(row, 3)?,
                    from: catalog.get(row, 4)?,
                    to: catalog.get(row, 5)?,
                    match_full: catalog.get(row, 6)?,
                    with_period: catalog.get(row, 7)?,
                    columns: vec![pair],
                };
                keys.push((oid, key));
            }
        }
    }
    Ok(keys.into_iter().map(|(_, key)| anti_join(key)).collect())
}

fn anti_join(key: ForeignKey) -> Key {
    let ForeignKey { table, name, from, to, columns, match_full, with_period } = key;
    if with_period {
        return Key { table, name, query: Err("it has a PERIOD".into()) };
    }
    let is_set: Vec<String> = columns.iter().map(|(ours, _)| format!("{ours} IS NOT NULL")).collect();
    let equal: Vec<&str> = columns.iter().map(|(_, equal)| equal.as_str()).collect();
    let (is_set, equal) = (is_set.join(" AND "), equal.join(" AND "));
    let mut query = format!(
        "SELECT pg_catalog.count(*) FROM {from} f WHERE {is_set} AND NOT EXISTS (SELECT 1 FROM {to} t WHERE {equal})"
    );
    if match_full && columns.len() > 1 {
        let none = is_set.replace("IS NOT NULL", "IS NULL");
        let partly = format!("SELECT pg_catalog.count(*) FROM {from} f WHERE NOT ({is_set}) AND NOT ({none})");
        query = format!("SELECT ({query}) + ({partly})");
    }
    Key { table, name, query: Ok(query) }
}

/// Deferrable keys; all others are enforced by their index as each row comes.
async fn deferrable_keys(target: &Server) -> Result<Vec<Key>> {
    let distinct = if target.version() >= ServerVersion::V15 { "i.indnullsnotdistinct" } else { "false" };
    let period = if target.version() >= ServerVersion::V18 { "k.conperiod" } else { "false" };
    let sql = format!(
        "SELECT n.nspname::text, c.relname::text, k.conname::text,
            CASE c.relkind WHEN 'p' THEN '' ELSE 'ONLY ' END || pg_catalog.quote_ident(n.nspname) || '.' || pg_catalog.quote_ident(c.relname),
            k.contype = 'x' OR {period}, {distinct},
            (SELECT pg_catalog.array_agg(pg_catalog.quote_ident(a.attname)) FROM pg_catalog.pg_attribute a
             WHERE a.attrelid = k.conrelid AND a.attnum = ANY (k.conkey))::text[]
         FROM pg_catalog.pg_constraint k JOIN pg_catalog.pg_index i ON i.indexrelid = k.conindid
         JOIN pg_catalog.pg_class c ON c.oid = k.conrelid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
         WHERE k.contype IN ('p', 'u', 'x') AND k.condeferrable ORDER BY 1, 2, 3"
    );
    let catalog = target.catalog();
    let mut keys = Vec::new();
    for row in &catalog.rows(&sql).await? {
        let (table, columns): (String, Vec<String>) =
            (catalog.get(row, 3)?, catalog.get::<Option<Vec<String>>>(row, 6)?.unwrap_or_default());
        let (is_exclusion, nulls_are_equal): (bool, bool) = (catalog.get(row, 4)?, catalog.get(row, 5)?);
        let is_set: Vec<String> = columns.iter().map(|column| format!("{column} IS NOT NULL")).collect();
        let condition = if nulls_are_equal { "true".into() } else { is_set.join(" AND ") };
        let query = if is_exclusion {
            Err("it is a deferrable exclusion constraint".into())
        } else {
            Ok(format!(
                "SELECT COALESCE(pg_catalog.sum(n), 0)::int8 FROM (SELECT pg_catalog.count(*) AS n FROM {table} WHERE {condition}
                 GROUP BY {} HAVING pg_catalog.count(*) > 1) twice",
                columns.join(", ")
            ))
        };
        keys.push(Key {
            table: QualifiedName::new(catalog.get::<&str>(row, 0)?, catalog.get::<&str>(row, 1)?),
            name: catalog.get(row, 2)?,
            query,
        });
    }
    Ok(keys)
}
