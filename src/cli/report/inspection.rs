use pgconvoy::archive::{ArchiveState, Inspection, TableInspection, Totals};
use pgconvoy::model::{CopyFormat, QualifiedName, RelationKind, format_bytes};

use super::Page;
use super::table::{Column, Table};
use super::transfer::TOP_TABLES;
use crate::cli::settings::Detail;
use crate::cli::text::{Canvas, clean, counted, grouped};

/// What an archive says about itself, and what it lacks.
pub fn render(inspection: &Inspection, detail: Detail, canvas: &Canvas) -> String {
    let mut page = Page::new(canvas);
    let state = match inspection.state {
        ArchiveState::Sealed if inspection.missing.is_empty() => "sealed",
        ArchiveState::Sealed => "sealed, but INCOMPLETE",
        ArchiveState::BeingWritten => "still being written",
        ArchiveState::Unsealed => "UNFINISHED: the dump was stopped",
    };
    let encrypted = if inspection.encrypted { ", encrypted" } else { "" };
    page.line(canvas.paint.bold(&format!("archive {}: {state}{encrypted}", clean(&inspection.path))));
    page.blank();
    origin(&mut page, inspection);
    page.blank();
    tables(&mut page, inspection, detail);
    let excluded: Vec<String> = inspection
        .tables
        .iter()
        .filter_map(|t| t.excluded.as_ref().map(|why| format!("rows of {}: {why}", t.name)))
        .collect();
    page.list("left out", &excluded);
    page.list("notes", &inspection.notes);
    page.list("missing", &inspection.missing);
    page.finish()
}

fn origin(page: &mut Page<'_>, inspection: &Inspection) {
    let (header, totals) = (&inspection.header, inspection.totals);
    let source = &header.source;
    page.item(&format!(
        "from database {}, PostgreSQL {}, {}, at {} by pgconvoy {}",
        clean(&source.database),
        source.version,
        clean(&source.encoding),
        clean(&header.created_at),
        clean(&header.pgconvoy_version)
    ));
    page.item(&format!("id {}, format version {}", clean(&header.archive_id), header.format_version));
    let segments = counted(usize::try_from(totals.segments).unwrap_or(usize::MAX), "segment");
    let and_large_objects = if inspection.large_object_data.segments > 0 { " and large objects" } else { "" };
    page.item(&format!(
        "{}{and_large_objects}, {} rows, {} in {segments}, {} of rows",
        counted(inspection.tables.len(), "table"),
        grouped(totals.rows),
        format_bytes(totals.stored_bytes),
        format_bytes(totals.raw_bytes)
    ));
    if inspection.large_objects > 0 {
        let bytes = format_bytes(inspection.large_object_bytes);
        let (objects, pages) = (grouped(inspection.large_objects), grouped(inspection.large_object_data.rows));
        page.item(&format!("large objects: {objects}, {bytes}, in {pages} pages that count as rows"));
    }
    if inspection.torn_bytes > 0 {
        page.item(&format!("the manifest ends in the middle of a record: {} bytes", inspection.torn_bytes));
    }
}

/// The pages of all large objects, which are rows of a table to the archive: without them, the sums do not agree.
fn large_objects(inspection: &Inspection) -> Option<TableInspection> {
    let Totals { segments, rows, raw_bytes, stored_bytes } = inspection.large_object_data;
    (segments > 0).then(|| TableInspection {
        oid: 0,
        name: QualifiedName::new("pg_catalog", "pg_largeobject"),
        kind: RelationKind::LargeObjects,
        columns: 0,
        format: CopyFormat::Binary,
        text_reason: None,
        segments,
        rows,
        raw_bytes,
        stored_bytes,
        complete: true,
        excluded: None,
    })
}

fn tables(page: &mut Page<'_>, inspection: &Inspection, detail: Detail) {
    let large_objects = large_objects(inspection);
    let mut largest: Vec<&TableInspection> = inspection.tables.iter().chain(&large_objects).collect();
    if largest.is_empty() {
        return;
    }
    largest.sort_by(|a, b| b.raw_bytes.cmp(&a.raw_bytes).then_with(|| a.name.cmp(&b.name)));
    let shown = if detail >= Detail::Verbose { largest.len() } else { TOP_TABLES.min(largest.len()) };
    let (top, rest) = largest.split_at(shown);
    let mut rows: Vec<Vec<String>> = top
        .iter()
        .map(|t| {
            vec![
                t.name.to_string(),
                grouped(t.rows),
                format_bytes(t.raw_bytes),
                format_bytes(t.stored_bytes),
                grouped(t.segments),
                t.format.to_string(),
                if t.complete { String::new() } else { "incomplete".into() },
            ]
        })
        .collect();
    if !rest.is_empty() {
        let sum = |of: fn(&TableInspection) -> u64| rest.iter().map(|t| of(t)).sum::<u64>();
        rows.push(vec![
            format!("{} more", grouped(rest.len() as u64)),
            grouped(sum(|t| t.rows)),
            format_bytes(sum(|t| t.raw_bytes)),
            format_bytes(sum(|t| t.stored_bytes)),
            grouped(sum(|t| t.segments)),
            String::new(),
            if rest.iter().all(|t| t.complete) { String::new() } else { "incomplete".into() },
        ]);
    }
    let columns =
        [("table", 0), ("rows", 0), ("bytes", 0), ("stored", 2), ("segments", 4), ("format", 3), ("state", 1)];
    let columns = columns.into_iter().map(|(title, rank)| Column { title, rank }).collect();
    page.table(&Table { columns, whole_names: false, rows });
}
