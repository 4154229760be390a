//! What the objects that filters pick need of those that they leave out.

use std::collections::HashSet;

use serde::{Deserialize, Serialize};

use super::Catalog;
use super::relations::USER_RELATIONS;
use crate::model::{Oid, QualifiedName, ServerVersion, quote_literal};
use crate::pg::error::Result;

/// One object that needs another one which is left out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lack {
    /// OIDs of the catalog and of the object that needs something, at the source.
    pub catalog: (Oid, Oid),
    /// For people: `foreign key b_a_fkey of public.b`.
    pub object: String,
    /// The table can do without: a foreign key, a trigger, a rule, a policy, its place in a partitioned table.
    pub can_do_without: bool,
    /// What is needed, as `pg_identify_object` calls it: `type`, and `public.mood`.
    pub needs_kind: String,
    pub needs: String,
}

impl std::fmt::Display for Lack {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} needs {} {}", self.object, self.needs_kind, self.needs)
    }
}

/// Something that `CREATE EXTENSION` made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExtensionMember {
    /// `None`: it is in no schema.
    pub schema: Option<String>,
    /// As pg_dump's tags have it: `"T x"`, `f(integer, "Odd".t)`.
    pub quoted: String,
    /// Without quotes; of a routine, as `quoted`.
    pub name: String,
}

/// What is picked.
#[derive(Clone, Debug)]
pub struct Picked {
    /// Conditions on `n.nspname` and `c.relname`, and on `n.nspname` alone.
    pub relations: String,
    pub schemas: String,
    /// Nothing but relations and what belongs to them moves.
    pub tables_only: bool,
    /// The extensions that move.
    pub extensions: HashSet<String>,
}

impl Catalog<'_> {
    /// Names of the extensions for which a condition on `e.extname` holds.
    pub async fn extensions_where(&self, condition: &str) -> Result<HashSet<String>> {
        let sql = format!("SELECT e.extname::text FROM pg_catalog.pg_extension e WHERE {condition}");
        self.rows(&sql).await?.iter().map(|row| self.get(row, 0)).collect()
    }

    /// Indexes that one of the patterns names, with the constraint that owns the index, if one does.
    pub async fn indexes_where(&self, condition: &str) -> Result<Vec<(Oid, QualifiedName, Option<String>)>> {
        let sql = format!(
            "SELECT c.oid, n.nspname::text, c.relname::text,
                    (SELECT k.conname::text FROM pg_catalog.pg_constraint k
                     WHERE k.conindid = c.oid AND k.contype IN ('p', 'u', 'x') LIMIT 1)
             FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
             WHERE c.relkind IN ('i', 'I') AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast')
               AND ({condition}) ORDER BY 2, 3"
        );
        let mut found = Vec::new();
        for row in &self.rows(&sql).await? {
            let name = QualifiedName::new(self.get::<&str>(row, 1)?, self.get::<&str>(row, 2)?);
            found.push((self.get(row, 0)?, name, self.get(row, 3)?));
        }
        Ok(found)
    }

    /// What is picked and needs what is not. Servers before 9.3 cannot name it (`pg_identify_object`): nothing then.
    ///
    /// `pg_depend` knows what a definition needs, with the exceptions of the bodies of functions that are strings. A
    /// need of a schema is none: schemas are made.
    pub async fn lacks(&self, picked: &Picked) -> Result<Vec<Lack>> {
        if self.version < ServerVersion::V9_3 {
            return Ok(Vec::new());
        }
        let mut lacks = Vec::new();
        for row in &self.rows(&self.lacks_sql(picked)).await? {
            let extension: Option<String> = self.get(row, 6)?;
            if extension.as_ref().is_some_and(|name| picked.extensions.contains(name)) {
                continue;
            }
            let (needs_kind, needs) = match extension {
                Some(name) => ("extension".to_owned(), name),
                None => (self.get(row, 4)?, self.get(row, 5)?),
            };
            let lack = Lack {
                catalog: (self.get(row, 0)?, self.get(row, 1)?),
                object: self.get(row, 2)?,
                can_do_without: self.get(row, 3)?,
                needs_kind,
                needs,
            };
            if !lacks.contains(&lack) {
                lacks.push(lack);
            }
        }
        Ok(lacks)
    }

    fn lacks_sql(&self, picked: &Picked) -> String {
        let Picked { relations, schemas, tables_only, .. } = picked;
        let policies = if self.version >= ServerVersion::V9_5 {
            "UNION ALL SELECT 'pg_catalog.pg_policy'::regclass, p.oid,
                'policy ' || p.polname || ' of ' || s.name, true
             FROM pg_catalog.pg_policy p JOIN sel s ON s.oid = p.polrelid"
        } else {
            ""
        };
        let attached = if self.version >= ServerVersion::V10 { "pc.relispartition" } else { "false" };
        // Whole schemas move: what else is in them.
        let others = if *tables_only {
            String::new()
        } else {
            format!(
                "UNION ALL SELECT 'pg_catalog.pg_proc'::regclass, p.oid, 'function ' || n.nspname || '.' || p.proname, false
                 FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
                 WHERE p.oid >= 16384 AND ({schemas}) AND NOT EXISTS (SELECT 1 FROM pg_catalog.pg_depend e
                    WHERE e.classid = 'pg_catalog.pg_proc'::regclass AND e.objid = p.oid AND e.deptype = 'e')
                 UNION ALL SELECT 'pg_catalog.pg_type'::regclass, t.oid, 'type ' || n.nspname || '.' || t.typname, false
                 FROM pg_catalog.pg_type t JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace
                 WHERE t.oid >= 16384 AND t.typrelid = 0 AND ({schemas}) AND NOT EXISTS (SELECT 1 FROM pg_catalog.pg_depend e
                    WHERE e.classid = 'pg_catalog.pg_type'::regclass AND e.objid = t.oid AND e.deptype = 'e')"
            )
        };
        let left_out = if *tables_only { "true".to_owned() } else { format!("NOT ({schemas})") };
        let kinds = if *tables_only { "'r', 'p', 'v', 'm', 'S', 'f'" } else { "'r', 'p', 'v', 'm', 'S', 'f', 'c'" };
        format!(
            "WITH picked AS (
                SELECT c.oid, n.nspname || '.' || c.relname AS name
                FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
                WHERE c.relkind IN ({kinds}) AND {USER_RELATIONS} AND ({relations})
             ), sel AS (
                SELECT oid, name FROM picked
                UNION SELECT s.oid, sn.nspname || '.' || s.relname FROM pg_catalog.pg_depend d
                JOIN picked p ON p.oid = d.refobjid JOIN pg_catalog.pg_class s ON s.oid = d.objid AND s.relkind = 'S'
                JOIN pg_catalog.pg_namespace sn ON sn.oid = s.relnamespace
                WHERE d.classid = 'pg_catalog.pg_class'::regclass AND d.refclassid = 'pg_catalog.pg_class'::regclass
                  AND d.deptype IN ('a', 'i')
             ), obj(classid, objid, name, spare) AS (
                SELECT 'pg_catalog.pg_class'::regclass, s.oid, s.name, false FROM sel s
                UNION ALL SELECT 'pg_catalog.pg_attrdef'::regclass, a.oid, 'a default of ' || s.name, false
                FROM pg_catalog.pg_attrdef a JOIN sel s ON s.oid = a.adrelid
                UNION ALL SELECT 'pg_catalog.pg_constraint'::regclass, k.oid,
                    CASE k.contype WHEN 'f' THEN 'foreign key ' ELSE 'constraint ' END || k.conname || ' of ' || s.name,
                    k.contype = 'f'
                FROM pg_catalog.pg_constraint k JOIN sel s ON s.oid = k.conrelid
                UNION ALL SELECT 'pg_catalog.pg_trigger'::regclass, t.oid, 'trigger ' || t.tgname || ' of ' || s.name, true
                FROM pg_catalog.pg_trigger t JOIN sel s ON s.oid = t.tgrelid WHERE NOT t.tgisinternal
                UNION ALL SELECT 'pg_catalog.pg_rewrite'::regclass, r.oid,
                    CASE r.rulename WHEN '_RETURN' THEN s.name ELSE 'rule ' || r.rulename || ' of ' || s.name END,
                    r.rulename <> '_RETURN'
                FROM pg_catalog.pg_rewrite r JOIN sel s ON s.oid = r.ev_class
                UNION ALL SELECT 'pg_catalog.pg_class'::regclass, i.indexrelid, 'an index of ' || s.name, false
                FROM pg_catalog.pg_index i JOIN sel s ON s.oid = i.indrelid
                {policies}
                {others}
             ), raw AS (
                SELECT o.*, d.refclassid, d.refobjid FROM obj o
                JOIN pg_catalog.pg_depend d ON d.classid = o.classid AND d.objid = o.objid
                WHERE d.deptype = 'n' AND d.refobjid >= 16384
                  AND d.refclassid NOT IN ('pg_catalog.pg_namespace'::regclass, 'pg_catalog.pg_extension'::regclass)
                UNION SELECT 'pg_catalog.pg_inherits'::regclass, s.oid,
                    CASE WHEN {attached} THEN 'the attachment of ' ELSE '' END || s.name, {attached},
                    'pg_catalog.pg_class'::regclass, h.inhparent
                FROM pg_catalog.pg_inherits h JOIN sel s ON s.oid = h.inhrelid JOIN pg_catalog.pg_class pc ON pc.oid = s.oid
             ), needed AS (
                SELECT r.classid, r.objid, r.name, r.spare,
                    CASE WHEN b.typrelid <> 0 THEN 'pg_catalog.pg_class'::regclass ELSE r.refclassid END AS refclassid,
                    CASE WHEN b.typrelid <> 0 THEN b.typrelid WHEN b.oid IS NOT NULL THEN b.oid ELSE r.refobjid END AS refobjid
                FROM raw r
                LEFT JOIN pg_catalog.pg_type t ON r.refclassid = 'pg_catalog.pg_type'::regclass AND t.oid = r.refobjid
                LEFT JOIN pg_catalog.pg_type b ON b.oid = CASE WHEN t.typelem <> 0 AND t.typlen = -1 THEN t.typelem ELSE t.oid END
                WHERE b.oid IS NULL OR b.oid >= 16384
             )
             SELECT DISTINCT x.classid::oid, x.objid, x.name, x.spare, i.type, i.identity,
                (SELECT e.extname::text FROM pg_catalog.pg_depend m JOIN pg_catalog.pg_extension e ON e.oid = m.refobjid
                 WHERE m.classid = x.refclassid AND m.objid = x.refobjid AND m.deptype = 'e' LIMIT 1)
             FROM needed x
             LEFT JOIN pg_catalog.pg_class c ON x.refclassid = 'pg_catalog.pg_class'::regclass AND c.oid = x.refobjid
             CROSS JOIN LATERAL pg_catalog.pg_identify_object(x.refclassid, x.refobjid, 0) i
             CROSS JOIN LATERAL (SELECT CASE WHEN i.schema LIKE '\"%'
                 THEN pg_catalog.replace(pg_catalog.substr(i.schema, 2, pg_catalog.length(i.schema) - 2), '\"\"', '\"')
                 ELSE i.schema END AS nspname) n
             WHERE CASE WHEN c.oid IS NOT NULL THEN c.relkind NOT IN ('i', 'I') AND c.oid NOT IN (SELECT oid FROM sel)
                   WHEN i.schema IS NULL THEN {tables_only} ELSE {left_out} OR EXISTS (SELECT 1
                       FROM pg_catalog.pg_depend m WHERE m.classid = x.refclassid AND m.objid = x.refobjid AND m.deptype = 'e') END
             ORDER BY 3, 5, 6"
        )
    }

    /// Those of the lacks that this server does not make good.
    pub async fn still_lacking(&self, lacks: &[Lack]) -> Result<Vec<Lack>> {
        let mut still = Vec::new();
        for lack in lacks {
            if !self.has(&lack.needs_kind, &lack.needs).await? {
                still.push(lack.clone());
            }
        }
        Ok(still)
    }

    /// Whether there is an object of this kind and identity, as `pg_identify_object` says them. Not to be asked in a
    /// transaction: the answer of many servers is an error.
    ///
    /// A cast is asked and not `to_regtype` and its like: those came with 9.4, and before 16 they too raise an error
    /// for a function of a type that is not there (`to_regprocedure` in regproc.c).
    async fn has(&self, kind: &str, identity: &str) -> Result<bool> {
        let name = quote_literal(identity);
        let found = match kind {
            "extension" => format!("(SELECT e.oid FROM pg_catalog.pg_extension e WHERE e.extname = {name})"),
            "type" => format!("{name}::pg_catalog.regtype"),
            "function" | "procedure" | "aggregate" => format!("{name}::pg_catalog.regprocedure"),
            "operator" => format!("{name}::pg_catalog.regoperator"),
            "table" | "view" | "materialized view" | "sequence" | "foreign table" | "composite type"
            | "partitioned table" => format!("{name}::pg_catalog.regclass"),
            _ => return Ok(false),
        };
        match self.scalar::<bool>(&format!("SELECT {found} IS NOT NULL")).await {
            // Not there, or not to be understood here: class 42, schemas 3F000, names and numbers in it 22.
            Err(error) if error.sqlstate().is_some_and(|s| ["42", "3F", "22"].iter().any(|c| s.starts_with(c))) => {
                Ok(false)
            }
            found => found,
        }
    }
}

impl Catalog<'_> {
    /// Tables with rows for which a condition on `n.nspname` and `c.relname` holds, and those below partitioned ones.
    pub async fn tables_where(&self, condition: &str) -> Result<Vec<(Oid, QualifiedName)>> {
        let sql = format!(
            "WITH RECURSIVE t AS (
                SELECT c.oid, c.relkind FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
                WHERE c.relkind IN ('r', 'p') AND {USER_RELATIONS} AND ({condition})
                UNION SELECT c.oid, c.relkind FROM t JOIN pg_catalog.pg_inherits i ON i.inhparent = t.oid AND t.relkind = 'p'
                JOIN pg_catalog.pg_class c ON c.oid = i.inhrelid
             )
             SELECT c.oid, n.nspname::text, c.relname::text FROM t JOIN pg_catalog.pg_class c ON c.oid = t.oid
             JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind = 'r' ORDER BY 2, 3"
        );
        let mut tables = Vec::new();
        for row in &self.rows(&sql).await? {
            let name = QualifiedName::new(self.get::<&str>(row, 1)?, self.get::<&str>(row, 2)?);
            tables.push((self.get(row, 0)?, name));
        }
        Ok(tables)
    }

    /// What extensions brought and can be granted, or have policies.
    pub async fn members_of(&self, extensions: &HashSet<String>) -> Result<Vec<ExtensionMember>> {
        let names: Vec<String> = extensions.iter().map(|name| quote_literal(name)).collect();
        if names.is_empty() {
            return Ok(Vec::new());
        }
        let of_class = |class: &str, name: &str, schema: &str| {
            let join = if schema.is_empty() {
                "CROSS JOIN (SELECT NULL::pg_catalog.name AS nspname) n".to_owned()
            } else {
                format!("JOIN pg_catalog.pg_namespace n ON n.oid = o.{schema}")
            };
            format!(
                "SELECT n.nspname::text, pg_catalog.quote_ident(o.{name}), o.{name}::text
                 FROM m JOIN pg_catalog.{class} o ON m.classid = 'pg_catalog.{class}'::regclass AND m.objid = o.oid {join}"
            )
        };
        // `format_function_signature` of pg_dump.c; its `format_aggregate_signature` writes `(*)` for nothing.
        let routines = "SELECT n.nspname::text, s.name, s.name FROM m
             JOIN pg_catalog.pg_proc o ON m.classid = 'pg_catalog.pg_proc'::regclass AND m.objid = o.oid
             JOIN pg_catalog.pg_namespace n ON n.oid = o.pronamespace
             CROSS JOIN LATERAL (SELECT pg_catalog.quote_ident(o.proname) || '(' || COALESCE((
                SELECT pg_catalog.string_agg(pg_catalog.format_type(o.proargtypes[i], NULL), ', ' ORDER BY i)
                FROM pg_catalog.generate_subscripts(o.proargtypes, 1) i), '') || ')' AS name) s";
        let parts = [
            routines.to_owned(),
            of_class("pg_class", "relname", "relnamespace"),
            of_class("pg_type", "typname", "typnamespace"),
            of_class("pg_namespace", "nspname", ""),
            of_class("pg_language", "lanname", ""),
            of_class("pg_foreign_data_wrapper", "fdwname", ""),
            of_class("pg_foreign_server", "srvname", ""),
        ];
        let sql = format!(
            "WITH m AS (SELECT d.classid, d.objid FROM pg_catalog.pg_depend d
                JOIN pg_catalog.pg_extension e ON e.oid = d.refobjid
                WHERE d.deptype = 'e' AND d.refclassid = 'pg_catalog.pg_extension'::regclass AND e.extname IN ({}))
             {}",
            names.join(", "),
            parts.join(" UNION ALL ")
        );
        let mut members = Vec::new();
        for row in &self.rows(&sql).await? {
            let member =
                ExtensionMember { schema: self.get(row, 0)?, quoted: self.get(row, 1)?, name: self.get(row, 2)? };
            if let Some(of_nothing) = member.quoted.strip_suffix("()") {
                let quoted = format!("{of_nothing}(*)");
                members.push(ExtensionMember { schema: member.schema.clone(), name: quoted.clone(), quoted });
            }
            members.push(member);
        }
        Ok(members)
    }

    /// The configuration tables of extensions.
    pub async fn configuration_tables(&self, extensions: &HashSet<String>) -> Result<HashSet<Oid>> {
        let names: Vec<String> = extensions.iter().map(|name| quote_literal(name)).collect();
        if names.is_empty() {
            return Ok(HashSet::new());
        }
        let sql = format!(
            "SELECT pg_catalog.unnest(e.extconfig) FROM pg_catalog.pg_extension e WHERE e.extname IN ({})",
            names.join(", ")
        );
        self.rows(&sql).await?.iter().map(|row| self.get(row, 0)).collect()
    }
}
