use super::Catalog;
use crate::model::{Oid, QualifiedName, ServerVersion, quote_literal};
use crate::pg::error::Result;

/// What a plan must know of a server and of the database at hand.
#[derive(Clone, Debug)]
pub struct DatabaseFacts {
    pub database: String,
    pub encoding: String,
    pub collate: String,
    pub ctype: String,
    pub integer_datetimes: bool,
    pub block_bytes: u64,
    pub in_recovery: bool,
    pub role: String,
    pub is_superuser: bool,
    pub bypasses_row_security: bool,
    /// Connections that this role could open now, ours that are already open not counted.
    pub free_connections: u32,
    pub database_bytes: u64,
    /// The server's process behind the connection that asked.
    pub backend_pid: i32,
    /// Differs between any two databases of any two running servers, however they are reached.
    pub identity: String,
}

/// A database, and the course of history that its server is on: a standby that was promoted is on another. What a server
/// does not tell (too old, or not to this role) is `None`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    database: Oid,
    system_identifier: Option<String>,
    timeline: Option<String>,
}

impl Place {
    /// Whether anything that both tell differs.
    #[must_use]
    pub fn is_other_than(&self, before: &Self) -> bool {
        let differs =
            |now: &Option<String>, before: &Option<String>| now.is_some() && before.is_some() && now != before;
        self.database != before.database
            || differs(&self.system_identifier, &before.system_identifier)
            || differs(&self.timeline, &before.timeline)
    }
}

/// Settings of a target that bound how much of it may be used at once.
#[derive(Clone, Copy, Debug)]
pub struct TargetSettings {
    pub version: ServerVersion,
    pub free_connections: u32,
    pub maintenance_work_mem_bytes: u64,
    pub shared_buffers_bytes: u64,
    pub autovacuum_max_workers: u32,
    pub max_worker_processes: u32,
    pub max_parallel_workers: u32,
    pub max_parallel_maintenance_workers: u32,
    /// `temp_file_limit` is set.
    pub limits_temp_files: bool,
}

/// Roles that a database needs to be what it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct RolesInUse {
    /// Own something.
    pub owners: Vec<String>,
    /// Were only granted something.
    pub grantees: Vec<String>,
}

/// An extension installed in a database, or one that could be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExtensionFacts {
    pub name: String,
    pub version: String,
}

impl Catalog<'_> {
    pub async fn database_facts(&self) -> Result<DatabaseFacts> {
        let bypass = if self.version >= ServerVersion::V9_5 { "r.rolbypassrls" } else { "true" };
        let sql = format!(
            "SELECT d.datname::text, pg_catalog.pg_encoding_to_char(d.encoding)::text, d.datcollate::text, d.datctype::text,
                pg_catalog.current_setting('integer_datetimes') = 'on',
                pg_catalog.current_setting('block_size')::int8,
                pg_catalog.pg_is_in_recovery(), r.rolname::text, r.rolsuper, {bypass},
                LEAST(
                    pg_catalog.current_setting('max_connections')::int8
                      - CASE WHEN r.rolsuper THEN 0
                             ELSE pg_catalog.current_setting('superuser_reserved_connections')::int8 END
                      - (SELECT pg_catalog.count(*) FROM pg_catalog.pg_stat_activity),
                    CASE WHEN d.datconnlimit < 0 OR r.rolsuper THEN 1000000 ELSE d.datconnlimit
                      - (SELECT pg_catalog.count(*) FROM pg_catalog.pg_stat_activity a WHERE a.datid = d.oid) END,
                    CASE WHEN r.rolconnlimit < 0 OR r.rolsuper THEN 1000000 ELSE r.rolconnlimit
                      - (SELECT pg_catalog.count(*) FROM pg_catalog.pg_stat_activity a WHERE a.usesysid = r.oid) END
                )::int8,
                pg_catalog.pg_database_size(d.oid),
                pg_catalog.pg_backend_pid(),
                d.oid || ' ' || EXTRACT(epoch FROM pg_catalog.pg_postmaster_start_time()) || ' '
                    || pg_catalog.current_setting('port')
             FROM pg_catalog.pg_database d, pg_catalog.pg_roles r
             WHERE d.datname = pg_catalog.current_database() AND r.rolname = current_user"
        );
        let rows = self.rows(&sql).await?;
        let row = rows
            .first()
            .ok_or_else(|| crate::pg::Error::protocol(self.side, "the database does not list itself or the role"))?;
        Ok(DatabaseFacts {
            database: self.get(row, 0)?,
            encoding: self.get(row, 1)?,
            collate: self.get(row, 2)?,
            ctype: self.get(row, 3)?,
            integer_datetimes: self.get(row, 4)?,
            block_bytes: u64::try_from(self.get::<i64>(row, 5)?).unwrap_or(8192),
            in_recovery: self.get(row, 6)?,
            role: self.get(row, 7)?,
            is_superuser: self.get(row, 8)?,
            bypasses_row_security: self.get(row, 9)?,
            free_connections: u32::try_from(self.get::<i64>(row, 10)?.clamp(0, 1_000_000)).unwrap_or(0),
            database_bytes: u64::try_from(self.get::<i64>(row, 11)?).unwrap_or(0),
            backend_pid: self.get(row, 12)?,
            identity: self.get(row, 13)?,
        })
    }

    /// What initdb has made up for the cluster, which its standbys share. `None` before 9.6, and where the role may not
    /// see it.
    pub async fn system_identifier(&self) -> Option<String> {
        if self.version < ServerVersion::V9_6 {
            return None;
        }
        // Asked first: a refusal would end a transaction that is open on this connection.
        let may_ask = "SELECT pg_catalog.has_function_privilege('pg_catalog.pg_control_system()', 'EXECUTE')";
        if !self.scalar::<bool>(may_ask).await.ok()? {
            return None;
        }
        self.scalar("SELECT system_identifier::text FROM pg_catalog.pg_control_system()").await.ok()
    }

    /// Which database this is, and on which course of its history.
    ///
    /// # Errors
    /// The connection's.
    pub async fn place(&self) -> Result<Place> {
        let sql = "SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database()";
        let database = self.scalar::<Oid>(sql).await?;
        let (file, position) = if self.version >= ServerVersion::V10 {
            ("pg_walfile_name", "pg_current_wal_lsn")
        } else {
            ("pg_xlogfile_name", "pg_current_xlog_location")
        };
        let may_ask = format!(
            "SELECT pg_catalog.bool_and(pg_catalog.has_function_privilege(p.oid, 'EXECUTE')) FROM pg_catalog.pg_proc p
             WHERE p.pronamespace = 'pg_catalog'::pg_catalog.regnamespace AND p.proname IN ('{file}', '{position}')"
        );
        let timeline = if self.version >= ServerVersion::V9_5 && self.scalar::<bool>(&may_ask).await? {
            // The first eight digits (`XLogFileName`).
            let sql = format!("SELECT pg_catalog.substr(pg_catalog.{file}(pg_catalog.{position}()), 1, 8)");
            Some(self.scalar(&sql).await?)
        } else {
            None
        };
        Ok(Place { database, system_identifier: self.system_identifier().await, timeline })
    }

    pub async fn target_settings(&self, free_connections: u32) -> Result<TargetSettings> {
        let sql = "SELECT s.name, s.setting::int8 * CASE s.unit WHEN 'kB' THEN 1024 WHEN '8kB' THEN 8192 ELSE 1 END
             FROM pg_catalog.pg_settings s WHERE s.name IN ('maintenance_work_mem', 'shared_buffers', 'autovacuum_max_workers',
                'max_worker_processes', 'max_parallel_workers', 'max_parallel_maintenance_workers', 'temp_file_limit')";
        let mut settings = TargetSettings {
            version: self.version,
            free_connections,
            maintenance_work_mem_bytes: 64 << 20,
            shared_buffers_bytes: 128 << 20,
            autovacuum_max_workers: 0,
            max_worker_processes: 0,
            max_parallel_workers: 0,
            max_parallel_maintenance_workers: 0,
            limits_temp_files: false,
        };
        for row in &self.rows(sql).await? {
            let setting = self.get::<i64>(row, 1)?;
            let value = u64::try_from(setting).unwrap_or(0);
            let count = u32::try_from(value).unwrap_or(u32::MAX);
            match self.get::<&str>(row, 0)? {
                "maintenance_work_mem" => settings.maintenance_work_mem_bytes = value,
                "shared_buffers" => settings.shared_buffers_bytes = value,
                "autovacuum_max_workers" => settings.autovacuum_max_workers = count,
                "max_worker_processes" => settings.max_worker_processes = count,
                // -1: no limit.
                "temp_file_limit" => settings.limits_temp_files = setting >= 0,
                "max_parallel_workers" => settings.max_parallel_workers = count,
                _ => settings.max_parallel_maintenance_workers = count,
            }
        }
        Ok(settings)
    }

    /// Extensions installed here.
    pub async fn extensions(&self) -> Result<Vec<ExtensionFacts>> {
        self.extension_list("SELECT extname::text, extversion FROM pg_catalog.pg_extension ORDER BY 1").await
    }

    /// Extensions that could be installed here, with the version that `CREATE EXTENSION` would give.
    pub async fn available_extensions(&self) -> Result<Vec<ExtensionFacts>> {
        self.extension_list("SELECT name::text, default_version FROM pg_catalog.pg_available_extensions ORDER BY 1")
            .await
    }

    async fn extension_list(&self, sql: &str) -> Result<Vec<ExtensionFacts>> {
        let mut extensions = Vec::new();
        for row in &self.rows(sql).await? {
            extensions.push(ExtensionFacts {
                name: self.get(row, 0)?,
                version: self.get::<Option<String>>(row, 1)?.unwrap_or_default(),
            });
        }
        Ok(extensions)
    }

    /// Roles that own something in this database, or were granted something, by name.
    ///
    /// `pg_shdepend` knows them all but the one that made the cluster, which is looked for among the owners.
    pub async fn roles_in_use(&self) -> Result<RolesInUse> {
        let sql = "SELECT r.rolname::text, bool_or(u.owns) FROM (
                SELECT d.refobjid AS role, d.deptype = 'o' AS owns FROM pg_catalog.pg_shdepend d
                WHERE d.refclassid = 'pg_catalog.pg_authid'::regclass
                  AND d.dbid = (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database())
                UNION ALL
                SELECT c.relowner, true FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
                WHERE n.nspname NOT IN ('pg_catalog', 'information_schema')
                  AND n.nspname OPERATOR(pg_catalog.!~) '^pg_(toast|temp)'
             ) u JOIN pg_catalog.pg_roles r ON r.oid = u.role GROUP BY 1 ORDER BY 1";
        let mut roles = RolesInUse::default();
        for row in &self.rows(sql).await? {
            let name: String = self.get(row, 0)?;
            if self.get(row, 1)? { roles.owners.push(name) } else { roles.grantees.push(name) }
        }
        Ok(roles)
    }

    /// All roles of the cluster, by name.
    pub async fn role_names(&self) -> Result<Vec<String>> {
        let mut names = Vec::new();
        for row in &self.rows("SELECT rolname::text FROM pg_catalog.pg_roles").await? {
            names.push(self.get(row, 0)?);
        }
        Ok(names)
    }

    /// Objects of the user in this database, up to `limit` of them, named for people: what makes a target not empty.
    pub async fn user_objects(&self, limit: u32, not_in: &[&str]) -> Result<Vec<String>> {
        let not_of_extension = |class: &str, oid: &str| {
            format!(
                "NOT EXISTS (SELECT 1 FROM pg_catalog.pg_depend d WHERE d.classid = 'pg_catalog.{class}'::regclass
                 AND d.objid = {oid} AND d.deptype = 'e')"
            )
        };
        let mut theirs = vec!["'pg_catalog'".to_owned(), "'information_schema'".to_owned()];
        theirs.extend(not_in.iter().map(|name| quote_literal(name)));
        let user_schema = format!(
            "n.nspname NOT IN ({}) AND n.nspname OPERATOR(pg_catalog.!~) '^pg_(toast|temp)'",
            theirs.join(", ")
        );
        let sql = format!(
            "SELECT what FROM (
                SELECT CASE c.relkind WHEN 'v' THEN 'view ' WHEN 'm' THEN 'materialized view ' WHEN 'S' THEN 'sequence '
                       WHEN 'f' THEN 'foreign table ' ELSE 'table ' END || n.nspname || '.' || c.relname AS what, 1 AS rank
                FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
                WHERE c.relkind IN ('r', 'p', 'v', 'm', 'S', 'f') AND {user_schema} AND {not_ext_class}
                UNION ALL
                SELECT 'function ' || n.nspname || '.' || p.proname, 2
                FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
                WHERE {user_schema} AND {not_ext_proc}
                UNION ALL
                SELECT 'type ' || n.nspname || '.' || t.typname, 3
                FROM pg_catalog.pg_type t JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace
                WHERE t.typtype IN ('e', 'd', 'r') AND {user_schema} AND {not_ext_type}
                UNION ALL
                SELECT 'schema ' || n.nspname, 4 FROM pg_catalog.pg_namespace n
                WHERE {user_schema} AND n.nspname <> 'public' AND {not_ext_schema}
                UNION ALL
                SELECT 'large object ' || l.oid, 5 FROM pg_catalog.pg_largeobject_metadata l
             ) objects ORDER BY rank, what LIMIT {limit}",
            not_ext_class = not_of_extension("pg_class", "c.oid"),
            not_ext_proc = not_of_extension("pg_proc", "p.oid"),
            not_ext_type = not_of_extension("pg_type", "t.oid"),
            not_ext_schema = not_of_extension("pg_namespace", "n.oid"),
        );
        let mut objects = Vec::new();
        for row in &self.rows(&sql).await? {
            objects.push(self.get(row, 0)?);
        }
        Ok(objects)
    }

    /// Whether the filter picks a relation of any kind, sequences and views too.
    pub async fn has_relations(&self, filter: &str) -> Result<bool> {
        self.scalar(&format!(
            "SELECT EXISTS (SELECT 1 FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
             WHERE c.relkind IN ('r', 'p', 'v', 'm', 'S', 'f') AND ({filter}))"
        ))
        .await
    }

    /// Whether the filter, a condition on `n.nspname` alone, picks a schema.
    pub async fn has_schemas(&self, filter: &str) -> Result<bool> {
        self.scalar(&format!("SELECT EXISTS (SELECT 1 FROM pg_catalog.pg_namespace n WHERE {filter})")).await
    }

    /// The rows and column types that a target table offers for loading, by name; to be compared with the source's.
    pub async fn loadable_columns(&self) -> Result<Vec<(QualifiedName, String, String, u32)>> {
        let sql = "SELECT n.nspname::text, c.relname::text, a.attname::text,
                          pg_catalog.format_type(a.atttypid, a.atttypmod), a.atttypid
                   FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_class c ON c.oid = a.attrelid
                   JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
                   WHERE c.relkind IN ('r', 'p', 'm') AND a.attnum > 0 AND NOT a.attisdropped
                     AND n.nspname NOT IN ('pg_catalog', 'information_schema')
                     AND n.nspname OPERATOR(pg_catalog.!~) '^pg_(toast|temp)'";
        let mut columns = Vec::new();
        for row in &self.rows(sql).await? {
            let table = QualifiedName::new(self.get::<&str>(row, 0)?, self.get::<&str>(row, 1)?);
            columns.push((table, self.get(row, 2)?, self.get(row, 3)?, self.get(row, 4)?));
        }
        Ok(columns)
    }
}
