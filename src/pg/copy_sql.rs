//! The COPY statements of both sides.

use std::collections::HashMap;
use std::sync::Arc;

use super::catalog::LargeObjectAccess;
use crate::model::{
    BlockNumber, CopyFormat, CtidRange, KeyBounds, Oid, Relation, RelationKind, ServerVersion, quote_ident,
    quote_literal,
};

/// What a COPY OUT statement depends on besides the relation.
#[derive(Clone, Debug)]
pub struct ReadRules {
    pub version: ServerVersion,
    /// Bytes of a heap block.
    pub block_bytes: u64,
    pub large_objects: LargeObjectAccess,
    /// Relations whose ranges are of a key's bounds and not of blocks.
    pub key_bounds: Arc<HashMap<Oid, KeyBounds>>,
}

/// `COPY … TO STDOUT` of one ctid range of a relation.
///
/// A whole relation is copied by name, which reads only the relation itself; everything else is a query on `ONLY` it,
/// always with an explicit column list.
#[must_use]
pub fn copy_out(relation: &Relation, range: CtidRange, rules: &ReadRules) -> String {
    let with = with_format(relation.format);
    if relation.kind == RelationKind::LargeObjects {
        let (first, last) = (range.start.unwrap_or(0), range.end.map_or(u32::MAX, |end| end - 1));
        return format!("COPY ({}) TO STDOUT{with}", rules.large_objects.select(first, last));
    }
    let table = relation.name.to_sql();
    let filter = relation.filter.as_deref().filter(|f| !f.trim().is_empty());
    // COPY takes a materialized view by name since 18 only.
    if range.is_all() && filter.is_none() && relation.kind != RelationKind::MaterializedView {
        return format!("COPY {table}{} TO STDOUT{with}", column_list(relation));
    }
    let columns = columns(relation, "");
    let key = rules.key_bounds.get(&relation.oid);
    if rules.version < ServerVersion::V14 && !range.is_all() && key.is_none() {
        return format!("COPY ({}) TO STDOUT{with}", by_pages(relation, range, rules));
    }
    let rows = match key {
        Some(key) => key_condition(key, range),
        None => ctid_condition(range),
    };
    let condition = match (rows, filter) {
        (Some(rows), Some(filter)) => format!(" WHERE {rows} AND ({}\n)", strip_where(filter)),
        (Some(rows), None) => format!(" WHERE {rows}"),
        (None, Some(filter)) => format!(" WHERE ({}\n)", strip_where(filter)),
        (None, None) => String::new(),
    };
    format!("COPY (SELECT {columns} FROM ONLY {table}{condition}) TO STDOUT{with}")
}

/// `COPY … FROM STDIN` into a relation, or into the root it must be loaded through.
///
/// Large objects go into a temporary table first ([`STAGE_LARGE_OBJECTS`], [`STORE_LARGE_OBJECTS`]).
#[must_use]
pub fn copy_in(relation: &Relation, freeze: bool) -> String {
    if relation.kind == RelationKind::LargeObjects {
        return "COPY pg_temp.pgconvoy_lo FROM STDIN WITH (FORMAT binary)".into();
    }
    let table = relation.load_via_root.as_ref().unwrap_or(&relation.name).to_sql();
    let format = match relation.format {
        CopyFormat::Binary => "FORMAT binary",
        CopyFormat::Text => "FORMAT text",
    };
    let freeze = if freeze { ", FREEZE true" } else { "" };
    format!("COPY {table}{} FROM STDIN WITH ({format}{freeze})", column_list(relation))
}

/// Before the COPY of large objects.
pub const STAGE_LARGE_OBJECTS: &str =
    "CREATE TEMPORARY TABLE pgconvoy_lo (oid oid, at int8, data bytea) ON COMMIT DROP";

/// After the COPY of large objects, which exist and are empty. The subquery is not flattened away: its column is
/// volatile.
pub const STORE_LARGE_OBJECTS: &str = "SELECT pg_catalog.count(*) FROM \
    (SELECT pg_catalog.lo_put(oid, at, data) AS stored FROM pg_temp.pgconvoy_lo OFFSET 0) s";

fn with_format(format: CopyFormat) -> &'static str {
    match format {
        CopyFormat::Binary => " WITH (FORMAT binary)",
        CopyFormat::Text => "",
    }
}

/// ` (a, b)`; nothing for a relation without columns, whose rows COPY moves all the same.
fn column_list(relation: &Relation) -> String {
    if relation.columns.is_empty() { String::new() } else { format!(" ({})", columns(relation, "")) }
}

fn columns(relation: &Relation, prefix: &str) -> String {
    let names: Vec<String> = relation.columns.iter().map(|c| format!("{prefix}{}", quote_ident(&c.name))).collect();
    names.join(", ")
}

/// The conditions of an extension and of the user on the same rows, as one.
#[must_use]
pub fn both_conditions(extension: Option<&str>, user: Option<&str>) -> Option<String> {
    let extension = extension.filter(|c| !c.trim().is_empty());
    match (extension, user) {
        (Some(extension), Some(user)) => Some(format!("({}\n) AND ({user}\n)", strip_where(extension))),
        (one, other) => one.or(other).map(str::to_owned),
    }
}

/// `pg_extension.extcondition` begins with WHERE. A column's name may begin with these letters, too.
fn strip_where(condition: &str) -> &str {
    let trimmed = condition.trim_start();
    match trimmed.split_at_checked(5) {
        Some((word, rest))
            if word.eq_ignore_ascii_case("where") && rest.starts_with(|c: char| c.is_whitespace() || c == '(') =>
        {
            rest
        }
        _ => trimmed,
    }
}

fn key_condition(key: &KeyBounds, range: CtidRange) -> Option<String> {
    let column = quote_ident(&key.column);
    let bound = |at: BlockNumber| {
        let value = key.bounds.get(at as usize)?;
        Some(format!("{}::{}", quote_literal(value), key.type_name))
    };
    let start = range.start.and_then(bound).map(|value| format!("{column} >= {value}"));
    let end = range.end.and_then(bound).map(|value| format!("{column} < {value}"));
    match (start, end) {
        (Some(start), Some(end)) => Some(format!("{start} AND {end}")),
        (one, other) => one.or(other),
    }
}

fn ctid_condition(range: CtidRange) -> Option<String> {
    let start = range.start.map(|block| format!("ctid >= '({block},0)'::pg_catalog.tid"));
    let end = range.end.map(|block| format!("ctid < '({block},0)'::pg_catalog.tid"));
    match (start, end) {
        (Some(start), Some(end)) => Some(format!("{start} AND {end}")),
        (one, other) => one.or(other),
    }
}

/// Servers before 14 have no TID range scan: a condition on ctid would read the whole table for every chunk. This form
/// is a TID scan of one page after the other. `OFFSET 0` is essential: without it, every version joins with a scan
/// of the whole table.
///
/// Every name is qualified: a table's own columns win over those of an outer query, whatever they are called.
///
/// The open end of the last range is closed by what the relation holds when the query starts. That is enough: rows that
/// the snapshot sees were there before.
fn by_pages(relation: &Relation, range: CtidRange, rules: &ReadRules) -> String {
    let table = relation.name.to_sql();
    let last = match range.end {
        Some(end) => (i64::from(end) - 1).to_string(),
        None => format!(
            "pg_catalog.pg_relation_size({}::pg_catalog.regclass, 'main') / {} - 1",
            quote_literal(&table),
            rules.block_bytes
        ),
    };
    // MaxHeapTuplesPerPage (htup_details.h): a hard cap on the line pointers of a page.
    let tuples_per_page = (rules.block_bytes - 24) / 28;
    let tids: Vec<String> = (1..=tuples_per_page).map(|offset| format!("\"(B,{offset})\"")).collect();
    // A condition may call the table by its name.
    let filter = relation.filter.as_deref().filter(|f| !f.trim().is_empty());
    let rows = if filter.is_some() { quote_ident(&relation.name.name) } else { "pgconvoy_rows".to_owned() };
    let condition = filter.map(|filter| format!(" AND ({}\n)", strip_where(filter))).unwrap_or_default();
    format!(
        "SELECT {outer} FROM pg_catalog.generate_series({start}::pg_catalog.int8, {last}) pgconvoy_pages (no) \
         CROSS JOIN LATERAL (SELECT {inner} FROM ONLY {table} {rows} WHERE {rows}.ctid = ANY \
         (pg_catalog.replace('{{{tids}}}', 'B', pgconvoy_pages.no::pg_catalog.text)::pg_catalog.tid[]){condition} OFFSET 0) \
         pgconvoy_page",
        outer = columns(relation, "pgconvoy_page."),
        inner = columns(relation, &format!("{rows}.")),
        start = range.start.unwrap_or(0),
        tids = tids.join(","),
    )
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_column_may_begin_with_where() {
        assert_eq!(super::strip_where(" WHERE a = 1"), " a = 1");
        assert_eq!(super::strip_where("where(a = 1)"), "(a = 1)");
        for condition in ["whereabouts = 'x'", "where_id = 1", "wh", "where"] {
            assert_eq!(super::strip_where(condition), condition);
        }
    }

    use super::*;
    use crate::model::{Column, QualifiedName};

    fn relation() -> Relation {
        let column = |name: &str| Column { name: name.into(), type_name: "integer".into() };
        Relation {
            oid: 1,
            name: QualifiedName::new("public", "Order"),
            kind: RelationKind::Table,
            columns: vec![column("id"), column("a\"b")],
            format: CopyFormat::Binary,
            text_reason: None,
            heap_bytes: 0,
            toast_bytes: 0,
            estimated_rows: 0,
            load_via_root: None,
            keep_order: false,
            has_ctid: true,
            filter: None,
            of_extension: false,
        }
    }

    fn rules(version: ServerVersion) -> ReadRules {
        let key_bounds = Arc::default();
        ReadRules { version, block_bytes: 8192, large_objects: LargeObjectAccess::Pages, key_bounds }
    }

    #[test]
    fn whole_relations_are_copied_by_name() {
        assert_eq!(
            copy_out(&relation(), CtidRange::ALL, &rules(ServerVersion::V18)),
            "COPY \"public\".\"Order\" (\"id\", \"a\"\"b\") TO STDOUT WITH (FORMAT binary)"
        );
    }

    #[test]
    fn ranges_are_half_open_and_read_only_the_relation_itself() {
        let range = CtidRange { start: Some(10), end: Some(20) };
        assert_eq!(
            copy_out(&relation(), range, &rules(ServerVersion::V18)),
            "COPY (SELECT \"id\", \"a\"\"b\" FROM ONLY \"public\".\"Order\" WHERE ctid >= '(10,0)'::pg_catalog.tid \
             AND ctid < '(20,0)'::pg_catalog.tid) TO STDOUT WITH (FORMAT binary)"
        );
    }

    #[test]
    fn extension_conditions_lose_their_where() {
        let mut r = relation();
        r.filter = Some("WHERE NOT standard".into());
        assert!(copy_out(&r, CtidRange::ALL, &rules(ServerVersion::V18)).contains("WHERE ( NOT standard\n))"));
        let sql = copy_out(&r, CtidRange { start: Some(5), end: None }, &rules(ServerVersion::V13));
        assert!(sql.contains("FROM ONLY \"public\".\"Order\" \"Order\" WHERE \"Order\".ctid = ANY"), "{sql}");
        assert!(sql.contains("AND ( NOT standard\n) OFFSET 0"), "{sql}");
        assert_eq!(both_conditions(Some("WHERE a"), Some("b")).unwrap(), "( a\n) AND (b\n)");
        assert_eq!(both_conditions(Some(""), Some("b")).unwrap(), "b");
    }

    #[test]
    fn old_servers_read_page_by_page() {
        let sql = copy_out(&relation(), CtidRange { start: Some(5), end: Some(9) }, &rules(ServerVersion::V13));
        assert!(sql.contains("generate_series(5::pg_catalog.int8, 8)") && sql.contains("OFFSET 0"), "{sql}");
        assert!(sql.contains("\"(B,291)\"") && !sql.contains("\"(B,292)\""));
    }

    #[test]
    fn old_servers_read_narrow_tables_by_the_bounds_of_a_key() {
        let key = KeyBounds { column: "id".into(), type_name: "bigint".into(), bounds: vec!["1".into(), "50".into()] };
        let mut rules = rules(ServerVersion::V13);
        rules.key_bounds = Arc::new(HashMap::from([(1, key)]));
        let sql = copy_out(&relation(), CtidRange { start: None, end: Some(1) }, &rules);
        assert!(sql.ends_with("WHERE \"id\" < '50'::bigint) TO STDOUT WITH (FORMAT binary)"), "{sql}");
        let sql = copy_out(&relation(), CtidRange { start: Some(1), end: None }, &rules);
        assert!(sql.contains("WHERE \"id\" >= '50'::bigint)"), "{sql}");
    }

    #[test]
    fn tables_without_columns_have_no_column_list() {
        let mut r = relation();
        r.columns.clear();
        assert_eq!(copy_in(&r, true), "COPY \"public\".\"Order\" FROM STDIN WITH (FORMAT binary, FREEZE true)");
    }
}
