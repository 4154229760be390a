use pgconvoy::model::{format_bytes, format_duration_ms};
use pgconvoy::report::{DemoReport, Race};

use super::Page;
use super::table::{Column, Table};
use crate::cli::text::{Canvas, clean, counted, grouped};

/// What a demonstration has shown, for somebody who sees pgconvoy for the first time.
pub fn render(report: &DemoReport, canvas: &Canvas) -> String {
    let mut page = Page::new(canvas);
    page.line(String::new());
    page.line(canvas.paint.bold(&headline(report)));
    page.blank();
    page.item(&format!(
        "{} on disk: {}, {} rows. From PostgreSQL {} to {}, with {} on each side, all on this machine.",
        format_bytes(report.database_bytes),
        counted(usize::try_from(report.tables).unwrap_or(usize::MAX), "table"),
        grouped(report.rows),
        report.source_version,
        report.target_version,
        counted(report.jobs as usize, "session"),
    ));
    page.blank();
    page.table(&table(report));
    page.item(&format!("copy: from server to server. PostgreSQL: {}, then pg_restore.", report.pg_dump_command));
    page.item(&format!("dump: to disk. PostgreSQL: {}.", report.pg_dump_command));
    page.item(&format!("restore: from disk. PostgreSQL: {}.", report.pg_restore_command));
    page.item(&format!(
        "PostgreSQL's tools are those of {}. ratio: pgconvoy's part of their time or bytes, below 1 is better.",
        report.client_version
    ));
    page.list("good to know", &report.notes);
    comparisons(&mut page, report);
    kept(&mut page, report);
    page.finish()
}

fn headline(report: &DemoReport) -> String {
    let time = format_duration_ms(report.elapsed_ms);
    if report.is_equal() {
        format!("everything arrived, and {} say so; the demo took {time}", comparisons_count(report))
    } else {
        format!("NOT everything arrived as it left; the demo took {time}")
    }
}

fn comparisons_count(report: &DemoReport) -> String {
    counted(report.comparisons.len(), "comparison")
}

fn table(report: &DemoReport) -> Table {
    let column = |title, rank| Column { title, rank };
    let race = |name: &str, race: Race| {
        vec![
            name.to_string(),
            format_duration_ms(race.pgconvoy_ms),
            format_duration_ms(race.rival_ms),
            ratio(race.pgconvoy_ms, race.rival_ms),
        ]
    };
    let (ours, theirs) = (report.pgconvoy_archive_bytes, report.pg_dump_archive_bytes);
    Table {
        columns: vec![column("", 0), column("pgconvoy", 0), column("PostgreSQL", 0), column("ratio", 0)],
        whole_names: true,
        rows: vec![
            race("copy", report.copy),
            race("dump", report.dump),
            race("restore", report.restore),
            vec!["archive".into(), format_bytes(ours), format_bytes(theirs), ratio(ours, theirs)],
        ],
    }
}

/// Ours as a part of theirs: below 1 is better.
#[expect(clippy::cast_precision_loss, reason = "two decimals are shown")]
pub fn ratio(ours: u64, theirs: u64) -> String {
    if theirs == 0 { String::new() } else { format!("{:.2}", ours as f64 / theirs as f64) }
}

fn comparisons(page: &mut Page<'_>, report: &DemoReport) {
    page.blank();
    page.line("compared:".into());
    let (glyphs, paint) = (page.canvas.glyphs, page.canvas.paint);
    for comparison in &report.comparisons {
        if comparison.differences.is_empty() {
            page.marked(&paint.good(glyphs.ok), &format!("{}: equal", comparison.what));
        } else {
            page.marked(&paint.error(glyphs.refusal), &format!("{}: NOT equal", comparison.what));
            for difference in &comparison.differences {
                page.below_mark(&clean(difference));
            }
        }
    }
}

fn kept(page: &mut Page<'_>, report: &DemoReport) {
    page.blank();
    if report.kept.is_empty() {
        page.item("The servers and all files are gone again.");
        return;
    }
    page.line("databases to look at, with psql or anything else:".into());
    for database in &report.kept {
        page.item(&format!("{}:", database.what));
        // A URI is copied whole: it is never broken.
        page.line(format!("    {}", clean(&database.uri)));
    }
}

#[cfg(test)]
mod tests {
    use pgconvoy::model::ServerVersion;
    use pgconvoy::report::{Comparison, KeptDatabase};

    use super::*;
    use crate::cli::text::{Glyphs, Paint, width};

    fn shown(report: &DemoReport, columns: usize) -> String {
        render(report, &Canvas { columns, rows: 24, glyphs: Glyphs::ASCII, paint: Paint { on: false } })
    }

    fn report() -> DemoReport {
        let race = Race { pgconvoy_ms: 4000, rival_ms: 8000 };
        let comparison = |what: &str| Comparison { what: what.into(), differences: Vec::new() };
        DemoReport {
            elapsed_ms: 60_000,
            source_version: ServerVersion(140_023),
            target_version: ServerVersion(180_004),
            client_version: ServerVersion(180_004),
            jobs: 4,
            database_bytes: 450_000_000,
            tables: 12,
            rows: 1_234_567,
            copy_bytes: 435_000_000,
            pg_dump_command: "pg_dump -Fd -j 4".into(),
            pg_restore_command: "pg_restore -j 4".into(),
            copy: race,
            dump: Race { pgconvoy_ms: 1000, ..race },
            restore: race,
            pgconvoy_archive_bytes: 161_000_000,
            pg_dump_archive_bytes: 170_000_000,
            comparisons: vec![comparison("the copy with the old server"), comparison("the archive with its checksums")],
            notes: Vec::new(),
            kept: Vec::new(),
        }
    }

    #[test]
    fn the_numbers_stand_side_by_side_also_where_it_is_narrow() {
        let text = shown(&report(), 40);
        assert!(text.contains("everything arrived, and 2 comparisons say so; the demo took 60.0 s"), "{text}");
        assert!(text.contains("dump       1.00 s      8.00 s   0.12"), "{text}");
        assert!(text.contains("archive    161 MB      170 MB   0.95"), "{text}");
        assert!(text.contains("The servers and all files are gone\n  again."), "{text}");
        // The headline is what people paste elsewhere: it stays one line.
        for line in text.lines().skip(2) {
            assert!(width(line) <= 40, "{line}");
        }
    }

    #[test]
    fn what_differs_is_never_called_a_success() {
        let mut report = report();
        report.comparisons[0].differences.push("public.tickets: 3 rows on one side, 2 on the other".into());
        let text = shown(&report, 100);
        assert!(text.contains("\nNOT everything arrived as it left"), "{text}");
        assert!(text.contains("X  the copy with the old server: NOT equal\n     public.tickets: 3 rows"), "{text}");
    }

    #[test]
    fn kept_databases_are_named_with_uris_in_one_piece() {
        let mut report = report();
        let uri = format!("postgresql://postgres@/shop?host=%2Fvar%2Ftmp%2F{}&port=1", "x".repeat(60));
        report.kept.push(KeptDatabase { what: "the sample data".into(), uri: uri.clone() });
        let text = shown(&report, 40);
        assert!(text.contains(&uri) && !text.contains("gone again"), "{text}");
    }
}
