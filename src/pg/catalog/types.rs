//! Which columns are proven safe in COPY BINARY between two servers.
//!
//! Binary is a format for identical column types: a server checks little more than lengths, and a wrong type loads
//! silently wrong. So the choice is made per relation, before the start, from the types' catalogs.

use std::collections::HashMap;

use super::Catalog;
use super::type_graph::{COLUMN_TYPES, FIRST_OWN_OID, IS_ARRAY, edges};
use crate::model::{Column, CopyFormat, Oid, TextReason};
use crate::pg::error::Result;

/// What a type's tree (elements, attributes, base types, subtypes) holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TypeFlags {
    /// A type without send or receive function.
    pub no_binary_io: bool,
    /// `regclass` and its kin: OIDs of this server's objects. Only text moves the name.
    pub oid_alias: bool,
    /// `tsquery`, `int2vector`, `oidvector`: an empty value does not load in binary.
    pub empty_value_bug: bool,
    /// Times, which a server built without integer datetimes sends as floats.
    pub time: bool,
    pub xml: bool,
    /// A base type of an extension that is not known to keep its binary format.
    pub unvetted_extension: bool,
    /// Floating-point numbers, also those of points and the like, which servers before 12 print otherwise than later
    /// ones.
    pub float: bool,
}

/// What the choice depends on besides the types.
#[derive(Clone, Copy, Debug)]
pub struct FormatRules {
    pub integer_datetimes: bool,
    pub source_is_utf8: bool,
}

/// The flags of types by their OID.
pub type TypeMap = HashMap<Oid, TypeFlags>;

/// Binary, or text and the first reason for it.
#[must_use]
pub fn choose_format(
    columns: &[(Column, Oid)],
    types: &TypeMap,
    rules: FormatRules,
) -> (CopyFormat, Option<TextReason>) {
    for (column, type_oid) in columns {
        let flags = types.get(type_oid).copied().unwrap_or(TypeFlags { no_binary_io: true, ..TypeFlags::default() });
        if let Some(why) = reason_for_text(flags, rules) {
            let reason =
                TextReason { column: column.name.clone(), type_name: column.type_name.clone(), why: why.into() };
            return (CopyFormat::Text, Some(reason));
        }
    }
    (CopyFormat::Binary, None)
}

fn reason_for_text(flags: TypeFlags, rules: FormatRules) -> Option<&'static str> {
    [
        (flags.no_binary_io, "its type has no binary input or output"),
        (flags.oid_alias, "its values are OIDs of the source's own objects; text carries their names"),
        (flags.empty_value_bug, "an empty value of this type does not load in binary"),
        (flags.time && !rules.integer_datetimes, "the source sends times as floating-point numbers"),
        (flags.xml && !rules.source_is_utf8, "binary xml would gain an encoding declaration"),
        (flags.unvetted_extension, "the binary format of this extension's type is not known to be stable"),
    ]
    .into_iter()
    .find_map(|(applies, why)| applies.then_some(why))
}

/// Extension types whose binary format has not changed between versions that have one.
const VETTED_EXTENSION_TYPES: &str = "'citext', 'hstore', 'ltree', 'lquery', 'ltxtquery', 'cube', 'vector', 'halfvec', 'sparsevec', 'geometry', 'geography'";

impl Catalog<'_> {
    /// The flags of every type that a user's table or materialized view has a column of, by the type's OID.
    pub async fn type_flags(&self) -> Result<TypeMap> {
        let sql = format!(
            "WITH RECURSIVE {edges}, walk(root, typ) AS (
                SELECT DISTINCT a.atttypid, a.atttypid {COLUMN_TYPES}
                UNION SELECT w.root, e.child FROM walk w JOIN edge e ON e.typ = w.typ
            )
            SELECT w.root,
                bool_or(t.typsend = 0 OR t.typreceive = 0),
                bool_or(t.typnamespace = 11 AND t.typname IN ('regproc', 'regprocedure', 'regoper', 'regoperator',
                    'regclass', 'regtype', 'regrole', 'regnamespace', 'regconfig', 'regdictionary', 'regcollation',
                    'regdatabase')),
                bool_or(t.typnamespace = 11 AND t.typname IN ('tsquery', 'int2vector', 'oidvector')),
                bool_or(t.typnamespace = 11 AND t.typname IN ('time', 'timetz', 'timestamp', 'timestamptz', 'interval')),
                bool_or(t.typnamespace = 11 AND t.typname = 'xml'),
                bool_or(t.typtype = 'b' AND t.oid >= {FIRST_OWN_OID} AND NOT {IS_ARRAY}
                    AND t.typname NOT IN ({VETTED_EXTENSION_TYPES})),
                bool_or(t.typname IN ('float4', 'float8', 'point', 'line', 'lseg', 'box', 'path', 'polygon', 'circle', 'cube',
                    'vector'))
            FROM walk w JOIN pg_catalog.pg_type t ON t.oid = w.typ GROUP BY 1",
            edges = edges(self.version),
        );
        let mut flags = HashMap::new();
        for row in &self.rows(&sql).await? {
            flags.insert(
                self.get(row, 0)?,
                TypeFlags {
                    no_binary_io: self.get(row, 1)?,
                    oid_alias: self.get(row, 2)?,
                    empty_value_bug: self.get(row, 3)?,
                    time: self.get(row, 4)?,
                    xml: self.get(row, 5)?,
                    unvetted_extension: self.get(row, 6)?,
                    float: self.get(row, 7)?,
                },
            );
        }
        Ok(flags)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choose(flags: TypeFlags, rules: FormatRules) -> CopyFormat {
        let column = Column { name: "c".into(), type_name: "t".into() };
        choose_format(&[(column, 7)], &HashMap::from([(7, flags)]), rules).0
    }

    const RULES: FormatRules = FormatRules { integer_datetimes: true, source_is_utf8: true };

    #[test]
    fn plain_types_go_in_binary_and_unknown_ones_never() {
        assert_eq!(choose(TypeFlags::default(), RULES), CopyFormat::Binary);
        let column = Column { name: "c".into(), type_name: "t".into() };
        assert_eq!(choose_format(&[(column, 8)], &HashMap::new(), RULES).0, CopyFormat::Text);
        assert_eq!(choose_format(&[], &HashMap::new(), RULES).0, CopyFormat::Binary);
    }

    #[test]
    fn settings_of_the_source_matter_only_for_the_types_they_touch() {
        let times = TypeFlags { time: true, ..TypeFlags::default() };
        assert_eq!(choose(times, RULES), CopyFormat::Binary);
        assert_eq!(choose(times, FormatRules { integer_datetimes: false, ..RULES }), CopyFormat::Text);
        let xml = TypeFlags { xml: true, ..TypeFlags::default() };
        assert_eq!(choose(xml, FormatRules { source_is_utf8: false, ..RULES }), CopyFormat::Text);
    }
}
