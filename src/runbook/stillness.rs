//! Whether anybody writes to a database, as far as any role can see it; and which database it is.

use std::time::Duration;

use super::database::{Mark, OtherSession, ServerIdentity};
use super::servers::{Session, USER_SCHEMAS};
use super::{Error, Result};
use crate::model::{ServerVersion, quote_ident};

/// Rows of these are counted like rows of tables: there may be too many of them to be looked at.
const COUNTED_CATALOGS: &str = "'pg_catalog.pg_largeobject'::regclass, 'pg_catalog.pg_largeobject_metadata'::regclass";

/// Temporary relations come and go, and autovacuum removes those of sessions that have crashed.
const TEMPORARY: &str = "SELECT oid FROM pg_catalog.pg_class WHERE relpersistence = 't'";
const TEMPORARY_SCHEMAS: &str = "SELECT oid FROM pg_catalog.pg_namespace WHERE nspname LIKE 'pg\\_temp\\_%' OR nspname LIKE 'pg\\_toast\\_temp\\_%'";

/// The catalogs that hold definitions, and the column that says to which relation (`rel`) or schema (`nsp`) a row belongs.
const DEFINITIONS: [(&str, &str); 36] = [
    ("pg_class", "relnamespace"),
    ("pg_attribute", "attrelid"),
    ("pg_attrdef", "adrelid"),
    ("pg_constraint", "connamespace"),
    ("pg_index", "indrelid"),
    ("pg_inherits", "inhrelid"),
    ("pg_partitioned_table", "partrelid"),
    ("pg_sequence", "seqrelid"),
    ("pg_trigger", "tgrelid"),
    ("pg_rewrite", "ev_class"),
    ("pg_policy", "polrelid"),
    ("pg_foreign_table", "ftrelid"),
    ("pg_publication_rel", "prrelid"),
    ("pg_type", "typnamespace"),
    ("pg_proc", "pronamespace"),
    ("pg_operator", "oprnamespace"),
    ("pg_opclass", "opcnamespace"),
    ("pg_opfamily", "opfnamespace"),
    ("pg_collation", "collnamespace"),
    ("pg_conversion", "connamespace"),
    ("pg_statistic_ext", "stxnamespace"),
    ("pg_enum", ""),
    ("pg_range", ""),
    ("pg_aggregate", ""),
    ("pg_cast", ""),
    ("pg_amop", ""),
    ("pg_amproc", ""),
    ("pg_language", ""),
    ("pg_extension", ""),
    ("pg_foreign_data_wrapper", ""),
    ("pg_foreign_server", ""),
    ("pg_publication", ""),
    ("pg_event_trigger", ""),
    ("pg_default_acl", ""),
    ("pg_description", ""),
    ("pg_ts_config_map", ""),
];

/// What a session that has ended has written is counted so much later at most: servers before 15 give backends counters
/// that are half a second old (PGSTAT_STAT_INTERVAL, src/backend/postmaster/pgstat.c of 14).
pub(super) const COUNTED: Duration = Duration::from_secs(1);

const STATISTICS_DELAY: Duration = Duration::from_millis(700);

pub(super) async fn mark(session: &Session) -> Result<Mark> {
    if session.one("SHOW track_counts").await? != "on" {
        return Err(Error::Refused(
            "track_counts is off: the server does not count rows that are written, and nobody could tell that it stands still"
                .into(),
        ));
    }
    if session.version() < ServerVersion(150_000) {
        // What ended sessions have counted is read from a file that may be half a second old (PGSTAT_STAT_INTERVAL).
        tokio::time::sleep(STATISTICS_DELAY).await;
    }
    let counters = session
        .row(&format!(
            "SELECT coalesce(sum(n_tup_ins + n_tup_upd + n_tup_del), 0)::bigint,
                (SELECT coalesce(stats_reset::text, 'never') FROM pg_stat_database WHERE datname = current_database())
             FROM pg_stat_all_tables
             WHERE schemaname NOT IN ('pg_catalog', 'information_schema') AND schemaname NOT LIKE 'pg\\_t%'
                OR relid IN ({COUNTED_CATALOGS})"
        ))
        .await?;
    let files = session
        .one(&format!(
            "SELECT count(*) || ' ' || coalesce(sum(relfilenode::bigint), 0)
             FROM pg_class JOIN pg_namespace n ON n.oid = relnamespace WHERE {USER_SCHEMAS}"
        ))
        .await?;
    let prepared = session.one("SELECT count(*) FROM pg_prepared_xacts WHERE database = current_database()").await?;
    let count = |text: &str| text.parse().map_err(|_| Error::Internal(format!("`{text}` is no count")));
    Ok(Mark {
        changed_rows: count(&counters[0])?,
        counters_since: counters[1].clone(),
        files,
        sequences: sequences(session).await?,
        definitions: definitions(session).await?,
        prepared_transactions: count(&prepared)?,
    })
}

async fn sequences(session: &Session) -> Result<String> {
    if session.version() >= ServerVersion::V10 {
        return session.one("SELECT count(*) || ' ' || coalesce(sum(last_value::numeric), 0) FROM pg_sequences").await;
    }
    let all = session
        .rows(&format!(
            "SELECT nspname, relname FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace
             WHERE relkind = 'S' AND {USER_SCHEMAS} AND has_table_privilege(c.oid, 'SELECT')"
        ))
        .await?;
    if all.is_empty() {
        return Ok("0 0".into());
    }
    let each: Vec<String> = all
        .iter()
        .map(|row| {
            format!(
                "SELECT last_value::numeric + is_called::int AS at FROM {}.{}",
                quote_ident(&row[0]),
                quote_ident(&row[1])
            )
        })
        .collect();
    session.one(&format!("SELECT count(*) || ' ' || sum(at) FROM ({}) s", each.join(" UNION ALL "))).await
}

/// How many rows the catalogs have, and the sum of the transactions that have made them. Whatever is made, changed or dropped
/// changes one of the two: a row that takes another's place is a later transaction's, so that the sum grows. What VACUUM and
/// ANALYZE write into rows of `pg_class` they write in place (backend/access/heap/heapam.c, `heap_inplace_update`).
async fn definitions(session: &Session) -> Result<String> {
    let there = session
        .rows(
            "SELECT relname FROM pg_catalog.pg_class
             WHERE relnamespace = 'pg_catalog'::regnamespace AND relkind = 'r' AND has_table_privilege(oid, 'SELECT')",
        )
        .await?;
    let is_there = |name: &str| there.iter().any(|row| row[0] == name);
    let each: Vec<String> = DEFINITIONS
        .iter()
        .filter(|(catalog, _)| is_there(catalog))
        // Before 12, ANALYZE writes there what it has found.
        .filter(|(catalog, _)| *catalog != "pg_statistic_ext" || session.version() >= ServerVersion(120_000))
        .map(|(catalog, owner)| {
            let lasting = match *owner {
                "" => String::new(),
                schema if schema.ends_with("namespace") => format!(" WHERE {schema} NOT IN ({TEMPORARY_SCHEMAS})"),
                relation => format!(" WHERE {relation} NOT IN ({TEMPORARY})"),
            };
            format!("SELECT count(*) AS rows, sum(xmin::text::bigint) AS made FROM pg_catalog.{catalog}{lasting}")
        })
        .chain([format!(
            "SELECT count(*), sum(xmin::text::bigint) FROM pg_catalog.pg_namespace WHERE oid NOT IN ({TEMPORARY_SCHEMAS})"
        )])
        .collect();
    session.one(&format!("SELECT sum(rows) || ' ' || sum(made) FROM ({}) c", each.join(" UNION ALL "))).await
}

/// Those that are still there a moment later: one of ours that was just closed may take it to end.
pub(super) async fn other_sessions(session: &Session) -> Result<Vec<OtherSession>> {
    let sessions = other_sessions_now(session).await?;
    if sessions.is_empty() {
        return Ok(sessions);
    }
    tokio::time::sleep(SESSION_END).await;
    other_sessions_now(session).await
}

const SESSION_END: Duration = Duration::from_millis(300);

/// Sessions of other roles hide what they do, but not the locks that tell whether they are in a transaction: each holds one on
/// its own virtual id (PostgreSQL docs, "pg_locks"). Subscriptions that are on are sessions too: they write what arrives.
async fn other_sessions_now(session: &Session) -> Result<Vec<OtherSession>> {
    // Before 10 an autovacuum worker looks like a session of the first superuser's, which has no client.
    let workers =
        if session.version() >= ServerVersion::V10 { "" } else { "AND NOT (rolsuper AND client_port IS NULL)" };
    let rows = session
        .rows(&format!(
            "SELECT usename, rolsuper AND usename <> current_user,
                EXISTS (SELECT FROM pg_locks l
                        WHERE l.pid = a.pid AND l.locktype = 'virtualxid' AND l.mode = 'ExclusiveLock' AND l.granted)
             FROM pg_stat_activity a JOIN pg_roles r ON r.oid = usesysid
             WHERE datname = current_database() AND a.pid <> pg_backend_pid() {workers}"
        ))
        .await?;
    let mut sessions: Vec<OtherSession> = rows
        .into_iter()
        .map(|row| OtherSession {
            user: row[0].clone(),
            is_superusers: row[1] != "f",
            is_in_transaction: row[2] != "f",
        })
        .collect();
    if session.version() >= ServerVersion::V10 {
        let enabled = session
            .rows(
                "SELECT subname FROM pg_subscription JOIN pg_database d ON d.oid = subdbid
                 WHERE datname = current_database() AND subenabled",
            )
            .await?;
        sessions.extend(enabled.into_iter().flatten().map(|name| OtherSession {
            user: format!("subscription {name}"),
            is_superusers: false,
            is_in_transaction: true,
        }));
    }
    Ok(sessions)
}

pub(super) async fn server_identity(session: &Session) -> Result<ServerIdentity> {
    let row = session
        .row("SELECT datname, oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database()")
        .await?;
    let may_ask = "SELECT pg_catalog.has_function_privilege('pg_catalog.pg_control_system()', 'EXECUTE')";
    let system_identifier = if session.version() >= ServerVersion::V9_6 && session.one(may_ask).await? == "t" {
        Some(session.one("SELECT system_identifier FROM pg_catalog.pg_control_system()").await?)
    } else {
        None
    };
    let database_oid = row[1].parse().map_err(|_| Error::Internal(format!("`{}` is no oid", row[1])))?;
    Ok(ServerIdentity { system_identifier, database: row[0].clone(), database_oid })
}
