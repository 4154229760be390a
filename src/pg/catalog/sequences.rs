use serde::{Deserialize, Serialize};

use super::Catalog;
use crate::model::{QualifiedName, ServerVersion, quote_literal};
use crate::pg::error::Result;

/// The exact state of a sequence: what `setval` needs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SequenceState {
    pub name: QualifiedName,
    pub last_value: i64,
    pub is_called: bool,
}

/// Sequences read or set by one statement.
const BATCH: usize = 200;

impl Catalog<'_> {
    /// The state of every sequence that is the user's and that the filter picks, or whose table it picks: a sequence
    /// that a table owns goes with it (`getOwnedSeqs` in `pg_dump.c`). A sequence is not an MVCC object: its value is that of now.
    pub async fn sequences(&self, filter: &str) -> Result<Vec<SequenceState>> {
        let (state, from) = self.state_of_sequences();
        let sql = format!(
            "SELECT s.nspname, s.relname, {state} FROM (
             SELECT sn.nspname::text, s.relname::text, s.oid
             FROM pg_catalog.pg_class s JOIN pg_catalog.pg_namespace sn ON sn.oid = s.relnamespace
             WHERE s.relkind = 'S' AND s.relpersistence <> 't' AND sn.nspname NOT IN ('pg_catalog', 'information_schema')
               AND (NOT EXISTS (SELECT 1 FROM pg_catalog.pg_depend d WHERE d.classid = 'pg_catalog.pg_class'::regclass
                   AND d.objid = s.oid AND d.deptype = 'e')
                    OR EXISTS (SELECT 1 FROM pg_catalog.pg_extension e WHERE s.oid = ANY (e.extconfig)))
               AND s.oid IN (
                   SELECT c.oid FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
                   WHERE c.relkind = 'S' AND ({filter})
                   UNION ALL
                   SELECT d.objid FROM pg_catalog.pg_depend d
                   JOIN pg_catalog.pg_class c ON c.oid = d.refobjid
                   JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
                   WHERE d.classid = 'pg_catalog.pg_class'::regclass AND d.refclassid = 'pg_catalog.pg_class'::regclass
                     AND d.deptype IN ('a', 'i') AND c.relkind IN ('r', 'p', 'f') AND ({filter}))
             OFFSET 0) s {from} ORDER BY 1, 2"
        );
        let mut names = Vec::new();
        let mut states = Vec::new();
        for row in &self.rows(&sql).await? {
            let name = QualifiedName::new(self.get::<&str>(row, 0)?, self.get::<&str>(row, 1)?);
            match (self.get(row, 2)?, self.get(row, 3)?) {
                (Some(last_value), Some(is_called)) => states.push(SequenceState { name, last_value, is_called }),
                _ => names.push(name),
            }
        }
        for batch in names.chunks(BATCH) {
            let selects: Vec<String> = batch
                .iter()
                .enumerate()
                .map(|(at, name)| format!("SELECT {at}, last_value, is_called FROM {}", name.to_sql()))
                .collect();
            for row in &self.rows(&selects.join(" UNION ALL ")).await? {
                let at = usize::try_from(self.get::<i32>(row, 0)?).unwrap_or(usize::MAX);
                if let Some(name) = batch.get(at) {
                    let (last_value, is_called) = (self.get(row, 1)?, self.get(row, 2)?);
                    states.push(SequenceState { name: name.clone(), last_value, is_called });
                }
            }
        }
        Ok(states)
    }

    /// How the state of sequence `s` is read along with its name: one statement for all of them. Servers before 18 cannot
    /// (`pg_sequence_last_value` does not tell what `is_called` does); later ones give NULL where they would refuse.
    fn state_of_sequences(&self) -> (&'static str, &'static str) {
        if self.version >= ServerVersion::V18 {
            ("d.last_value, d.is_called", "CROSS JOIN LATERAL pg_catalog.pg_get_sequence_data(s.oid) d")
        } else {
            ("NULL::int8, NULL::bool", "")
        }
    }
}

impl SequenceState {
    /// Statements that put sequences into these states.
    #[must_use]
    pub fn setval_statements(states: &[Self]) -> Vec<String> {
        states
            .chunks(BATCH)
            .map(|batch| {
                let calls: Vec<String> = batch
                    .iter()
                    .map(|s| {
                        let name = quote_literal(&s.name.to_sql());
                        format!("pg_catalog.setval({name}::pg_catalog.regclass, {}, {})", s.last_value, s.is_called)
                    })
                    .collect();
                format!("SELECT {}", calls.join(", "))
            })
            .collect()
    }
}
