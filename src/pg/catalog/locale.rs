//! How text is encoded and ordered.

use super::Catalog;
use crate::model::{QualifiedName, ServerVersion, quote_literal};
use crate::pg::error::Result;

impl Catalog<'_> {
    /// The server's own name of an encoding; `None` if it has none of that name.
    pub async fn encoding_name(&self, name: &str) -> Result<Option<String>> {
        let sql = format!(
            "SELECT NULLIF(pg_catalog.pg_encoding_to_char(pg_catalog.pg_char_to_encoding({}))::text, '')",
            quote_literal(name)
        );
        self.scalar(&sql).await
    }

    /// By which rules the database orders text that names no collation: `C`, `libc en_US`, `icu de`. The encoding's
    /// part is left out: it orders nothing.
    pub async fn default_collation(&self) -> Result<String> {
        let provider = match self.version {
            v if v >= ServerVersion::V17 => {
                "CASE datlocprovider WHEN 'c' THEN 'libc ' WHEN 'i' THEN 'icu ' ELSE 'builtin ' END
                || CASE datlocprovider WHEN 'c' THEN datcollate ELSE datlocale END"
            }
            v if v >= ServerVersion::V15 => {
                "CASE datlocprovider WHEN 'c' THEN 'libc ' ELSE 'icu ' END
                || CASE datlocprovider WHEN 'c' THEN datcollate ELSE daticulocale END"
            }
            _ => "'libc ' || datcollate",
        };
        let sql =
            format!("SELECT {provider} FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database()");
        let name: String = self.scalar(&sql).await?;
        let (provider, locale) = name.split_once(' ').unwrap_or(("libc", &name));
        let without_encoding = if provider == "libc" { locale.split('.').next().unwrap_or(locale) } else { locale };
        Ok(match (provider, without_encoding) {
            ("libc", "C" | "POSIX") | ("builtin", _) => "C".into(),
            (provider, locale) => format!("{provider} {locale}"),
        })
    }

    /// Tables partitioned by ranges of text in the database's default order: whether a row belongs to a partition
    /// depends on it.
    pub async fn partitioned_by_default_order(&self) -> Result<Vec<QualifiedName>> {
        if self.version < ServerVersion::V10 {
            return Ok(Vec::new());
        }
        let sql = "SELECT n.nspname::text, c.relname::text FROM pg_catalog.pg_partitioned_table p
             JOIN pg_catalog.pg_class c ON c.oid = p.partrelid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
             WHERE p.partstrat = 'r' AND 100 = ANY (p.partcollation::pg_catalog.oid[]) ORDER BY 1, 2";
        let mut names = Vec::new();
        for row in &self.rows(sql).await? {
            names.push(QualifiedName::new(self.get::<&str>(row, 0)?, self.get::<&str>(row, 1)?));
        }
        Ok(names)
    }

    /// What only superusers may make, named for people: event triggers, foreign data wrappers, functions in languages
    /// of the server's own, base types, operator classes and families, publications of all tables. Not the functions
    /// that a range type brings along, nor aggregates, which count as internal: those everybody may make. `schemas` is
    /// a condition on `n.nspname`; without `global_objects`, only what is in a schema is looked at.
    pub async fn made_by_superusers(&self, schemas: &str, global_objects: bool) -> Result<Vec<String>> {
        let not_of_extension = |class: &str, oid: &str| {
            format!(
                "NOT EXISTS (SELECT 1 FROM pg_catalog.pg_depend d WHERE d.classid = 'pg_catalog.{class}'::regclass
                 AND d.objid = {oid} AND d.deptype IN ('e', 'i'))"
            )
        };
        let mut queries = vec![format!(
            "SELECT 'function ' || n.nspname || '.' || p.proname FROM pg_catalog.pg_proc p
             JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace JOIN pg_catalog.pg_language l ON l.oid = p.prolang
             WHERE p.oid >= 16384 AND (NOT l.lanpltrusted AND l.lanname <> 'sql' OR p.proleakproof)
               AND p.prosrc <> 'aggregate_dummy'
               AND n.nspname OPERATOR(pg_catalog.!~) '^pg_' AND ({schemas}) AND {}",
            not_of_extension("pg_proc", "p.oid")
        )];
        for (kind, catalog, name, own_schema, condition) in [
            ("base type", "pg_type", "typname", "typnamespace", "o.typtype = 'b' AND o.typelem = 0 AND o.typisdefined"),
            ("operator class", "pg_opclass", "opcname", "opcnamespace", "true"),
            ("operator family", "pg_opfamily", "opfname", "opfnamespace", "true"),
        ] {
            queries.push(format!(
                "SELECT '{kind} ' || n.nspname || '.' || o.{name} FROM pg_catalog.{catalog} o
                 JOIN pg_catalog.pg_namespace n ON n.oid = o.{own_schema}
                 WHERE o.oid >= 16384 AND {condition}
                   AND n.nspname OPERATOR(pg_catalog.!~) '^pg_' AND ({schemas}) AND {}",
                not_of_extension(catalog, "o.oid")
            ));
        }
        if global_objects {
            queries.push(format!(
                "SELECT 'foreign data wrapper ' || w.fdwname FROM pg_catalog.pg_foreign_data_wrapper w WHERE {}",
                not_of_extension("pg_foreign_data_wrapper", "w.oid")
            ));
            if self.version >= ServerVersion::V9_3 {
                queries.push(format!(
                    "SELECT 'event trigger ' || e.evtname FROM pg_catalog.pg_event_trigger e WHERE {}",
                    not_of_extension("pg_event_trigger", "e.oid")
                ));
            }
            if self.version >= ServerVersion::V10 {
                queries.push(
                    "SELECT 'publication ' || pubname || ' for all tables' FROM pg_catalog.pg_publication
                     WHERE puballtables"
                        .into(),
                );
            }
        }
        let sql = format!("SELECT o.name::text FROM ({}) o(name) ORDER BY 1", queries.join(" UNION ALL "));
        self.rows(&sql).await?.iter().map(|row| self.get(row, 0)).collect()
    }

    /// The administrator's role of a managed server that this role is a member of: it may do some of what core
    /// PostgreSQL leaves to superusers.
    pub async fn managed_by(&self) -> Result<Option<String>> {
        self.scalar(
            "SELECT (SELECT r.rolname::text FROM pg_catalog.pg_roles r
             WHERE r.rolname IN ('rds_superuser', 'cloudsqlsuperuser', 'alloydbsuperuser', 'azure_pg_admin',
                'azuresu', 'supabase_admin', 'neon_superuser', 'doadmin')
               AND pg_catalog.pg_has_role(r.oid, 'MEMBER') LIMIT 1)",
        )
        .await
    }
}
