//! Functions that are code of the server or of its libraries.

use std::collections::BTreeMap;

use super::Catalog;
use crate::model::{NativeFunction, NativeLanguage};
use crate::pg::error::{ErrorKind, Result};

impl Catalog<'_> {
    /// Functions of users in the languages C and internal, without those of extensions and without aggregates, whose
    /// own code nobody calls (`AggregateCreate` in `pg_aggregate.c`). `schemas` is a condition on `n.nspname`.
    pub async fn native_functions(&self, schemas: &str) -> Result<Vec<NativeFunction>> {
        let sql = format!(
            "SELECT 'function ' || n.nspname || '.' || p.proname, l.lanname::text,
                    CASE l.lanname WHEN 'c' THEN pg_catalog.quote_literal(p.probin) || ', ' ELSE '' END
                    || pg_catalog.quote_literal(p.prosrc)
             FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
             JOIN pg_catalog.pg_language l ON l.oid = p.prolang
             WHERE p.oid >= 16384 AND l.lanname IN ('c', 'internal') AND p.prosrc <> 'aggregate_dummy'
               AND n.nspname OPERATOR(pg_catalog.!~) '^pg_' AND ({schemas})
               AND NOT EXISTS (SELECT 1 FROM pg_catalog.pg_depend d
                   WHERE d.classid = 'pg_catalog.pg_proc'::regclass AND d.objid = p.oid AND d.deptype IN ('e', 'i'))
             ORDER BY 1"
        );
        let mut functions = Vec::new();
        for row in &self.rows(&sql).await? {
            let language: String = self.get(row, 1)?;
            let Some(language) = NativeLanguage::from_sql(&language) else { continue };
            functions.push(NativeFunction { name: self.get(row, 0)?, language, body: self.get(row, 2)? });
        }
        Ok(functions)
    }

    /// Those of the functions that this server cannot make, by what it says of them: a library that is not there or was
    /// built for another version, a symbol that it does not have.
    ///
    /// Each is made under another name in a transaction that is rolled back. The server looks for the code whatever
    /// `check_function_bodies` says (`fmgr_c_validator` in `pg_proc.c`). Needs a superuser.
    pub async fn unknown_natives(&self, functions: &[NativeFunction]) -> Result<BTreeMap<String, Vec<String>>> {
        let mut by_code: BTreeMap<(NativeLanguage, &str), Vec<&str>> = BTreeMap::new();
        for NativeFunction { name, language, body } in functions {
            by_code.entry((*language, body)).or_default().push(name);
        }
        let mut unknown: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for ((language, body), names) in by_code {
            // "void" and no arguments: the server takes its word for what the code takes and returns.
            let probe = format!(
                "BEGIN READ WRITE; CREATE FUNCTION pg_temp.pgconvoy_probe() RETURNS void LANGUAGE {} AS {body}",
                language.as_sql()
            );
            let made = self.execute(&probe).await;
            if let Err(error) = made {
                match &*error.kind {
                    // Not query_canceled, nor a server that shuts down.
                    ErrorKind::Server(said) if !said.sqlstate.starts_with("57") => {
                        unknown.entry(said.message.clone()).or_default().extend(names.into_iter().map(str::to_owned));
                    }
                    _ => return Err(error),
                }
            }
            self.execute("ROLLBACK").await?;
        }
        Ok(unknown)
    }
}
