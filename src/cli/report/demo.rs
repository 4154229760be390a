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
