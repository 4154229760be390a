//! In which format rows are read on both sides, and where no format makes them the same.

use std::collections::HashMap;
use std::sync::Arc;

use super::super::error::Result;
use super::super::server::Server;
use crate::model::{Column, CopyFormat, Oid, QualifiedName, Relation, ServerVersion};
use crate::pg::catalog::{CatalogRelation, FormatRules, TypeMap, choose_format};

/// Since 12, `float8out` prints the shortest text that reads back as the same value (release notes of 12).
pub(super) fn prints_floats_otherwise(one: ServerVersion, other: ServerVersion) -> bool {
    (one < ServerVersion::V12) != (other < ServerVersion::V12)
}

/// Whether a floating-point value is in a column, or anywhere within its type, of a table that is read as text.
pub(super) fn holds_floats_as_text(format: CopyFormat, columns: &[(Column, Oid)], types: &TypeMap) -> bool {
    format == CopyFormat::Text && columns.iter().any(|(_, oid)| types.get(oid).is_some_and(|flags| flags.float))
}

/// In which format each pair is read: binary where both sides send the same bytes for the same value.
pub(super) struct Formats {
    pub(super) of: HashMap<QualifiedName, CopyFormat>,
    source_types: TypeMap,
}

impl Formats {
    pub(super) async fn choose(
        pairs: &[(CatalogRelation, CatalogRelation)],
        source: &Server,
        target: &Server,
    ) -> Result<Self> {
        let source_types = source.catalog().type_flags().await?;
        let target_types = target.catalog().type_flags().await?;
        let rules = |server: &Server| FormatRules {
            integer_datetimes: server.facts.integer_datetimes,
            source_is_utf8: server.facts.encoding == "UTF8",
        };
        let choose = |(s, t): &(CatalogRelation, CatalogRelation)| {
            let (left, _) = choose_format(&s.columns, &source_types, rules(source));
            let (right, _) = choose_format(&t.columns, &target_types, rules(target));
            let both = left == CopyFormat::Binary && right == CopyFormat::Binary;
            (s.name.clone(), if both { CopyFormat::Binary } else { CopyFormat::Text })
        };
        let of = pairs.iter().map(choose).collect();
        Ok(Self { of, source_types })
    }

    fn get(&self, name: &QualifiedName) -> CopyFormat {
        self.of.get(name).copied().unwrap_or(CopyFormat::Text)
    }

    pub(super) fn floats_as_text<'r>(&self, pairs: &'r [(CatalogRelation, CatalogRelation)]) -> Vec<&'r QualifiedName> {
        let as_text = |r: &&CatalogRelation| holds_floats_as_text(self.get(&r.name), &r.columns, &self.source_types);
        pairs.iter().map(|(source, _)| source).filter(as_text).map(|r| &r.name).collect()
    }

    /// Relations to read, with columns in the order of their names: their physical order may differ.
    pub(super) fn apply<'r>(&self, relations: impl Iterator<Item = &'r CatalogRelation>) -> Vec<Arc<Relation>> {
        relations
            .map(|r| {
                let format = self.get(&r.name);
                let mut columns: Vec<_> = r.columns.iter().map(|(column, _)| column.clone()).collect();
                columns.sort_by(|a, b| a.name.cmp(&b.name));
                Arc::new(Relation { columns, format, ..plain(r) })
            })
            .collect()
    }
}

/// A target's table, to be read with the columns and in the format of an archive's segments.
pub(super) fn as_stored(stored: &Relation, there: &CatalogRelation) -> Relation {
    Relation { columns: stored.columns.clone(), format: stored.format, ..plain(there) }
}

/// How a target's columns are not those that were stored, in words. Their order may differ.
pub(super) fn other_columns(stored: &[Column], there: &[(Column, Oid)]) -> Option<String> {
    let types: HashMap<&str, &str> = there.iter().map(|(c, _)| (c.name.as_str(), c.type_name.as_str())).collect();
    let mut found = Vec::new();
    for column in stored {
        match types.get(column.name.as_str()) {
            None => found.push(format!("column {} is missing at the target", column.name)),
            Some(there) if *there != column.type_name => {
                found.push(format!("column {} was of type {}, and is of type {there}", column.name, column.type_name));
            }
            Some(_) => {}
        }
    }
    let extra = there.iter().filter(|(c, _)| stored.iter().all(|s| s.name != c.name));
    found.extend(extra.map(|(c, _)| format!("column {} is only at the target", c.name)));
    (!found.is_empty()).then(|| found.join("; "))
}

pub(super) fn with_size(relation: &Relation, sizes: &HashMap<Oid, (u64, u64)>) -> Relation {
    let (heap_bytes, toast_bytes) = sizes.get(&relation.oid).copied().unwrap_or_default();
    Relation { heap_bytes, toast_bytes, ..relation.clone() }
}

fn plain(r: &CatalogRelation) -> Relation {
    Relation {
        oid: r.oid,
        name: r.name.clone(),
        kind: r.kind,
        columns: Vec::new(),
        format: CopyFormat::Text,
        text_reason: None,
        heap_bytes: 0,
        toast_bytes: 0,
        estimated_rows: r.estimated_rows,
        load_via_root: r.load_via_root.clone(),
        keep_order: r.keep_order,
        has_ctid: r.has_ctid,
        filter: r.extension_condition.clone(),
        of_extension: r.extension_condition.is_some(),
    }
}
