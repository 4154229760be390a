use pgconvoy::report::{Floor, Measurement, RunCost};

use super::*;

fn measured(task: BenchTask, tool: &str, elapsed_ms: &[u64]) -> Measurement {
    let run = |(round, &elapsed_ms)| RunCost {
        round,
        elapsed_ms,
        cpu_ms: Some(elapsed_ms / 2),
        source_cpu_ms: Some(700),
        ..RunCost::default()
    };
    let runs = (1..).zip(elapsed_ms).map(run).collect();
    Measurement { task, tool: tool.into(), command: format!("{tool} <x>"), runs, failure: None }
}

fn report() -> BenchReport {
    BenchReport {
        cores: 2,
        rounds: 3,
        jobs: 4,
        optimised: true,
        copy_bytes: 2_000_000_000,
        rows: 5,
        tables: 1,
        shapes: vec!["giant".into()],
        measurements: vec![
            measured(BenchTask::Copy, "pgconvoy", &[20_000, 22_000, 21_000]),
            measured(BenchTask::Copy, "pg_dump | pg_restore", &[50_000]),
            measured(BenchTask::Dump, "pgconvoy", &[]),
        ],
        floor: Some(Floor { copy_out_cpu_ms: 10_000, copy_in_cpu_ms: 26_000, ..Floor::default() }),
        missing: vec!["pgcopydb & co: <script>alert(1)</script>".into()],
        notes: vec!["a \"note\" with postgres://u:hunter2@h/d".into()],
        ..BenchReport::default()
    }
}

/// Every tag is closed by its own name, attributes are quoted, and no bare `&` or `<` is left.
pub(super) fn assert_well_formed(text: &str) {
    let mut open: Vec<&str> = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find(['<', '&']) {
        if rest[at..].starts_with('&') {
            let end = rest[at..].find(';').unwrap_or_else(|| panic!("a bare &: {}", &rest[at..]));
            assert!(
                ["&amp;", "&lt;", "&gt;", "&quot;", "&#39;"].contains(&&rest[at..=at + end]),
                "{}",
                &rest[at..=at + end]
            );
            rest = &rest[at + 1..];
            continue;
        }
        let end = at + rest[at..].find('>').unwrap();
        let tag = &rest[at + 1..end];
        assert_eq!(tag.matches('"').count() % 2, 0, "{tag}");
        let name = tag.trim_start_matches('/').split([' ', '/']).next().unwrap();
        rest = &rest[end + 1..];
        if tag.starts_with('/') {
            assert_eq!(open.pop(), Some(name), "{tag}");
        } else if !tag.ends_with('/') && !matches!(name, "!DOCTYPE" | "meta" | "br") {
            open.push(name);
        }
    }
    assert!(open.is_empty(), "{open:?}");
}

#[test]
fn the_page_has_every_part_and_nothing_from_elsewhere() {
    let page = page(&report());
    assert_well_formed(&page);
    for part in
        ["<svg", "× floor", "1.17", "20.0", "22.0", "The floor", "Not measured", "pg_dump | pg_restore", "giant"]
    {
        assert!(page.contains(part), "{part}: {page}");
    }
    assert!(page.contains("&lt;script&gt;") && !page.contains("<script"));
    assert!(!page.contains("hunter2") && !page.contains("http"));
    assert!(page.contains("prefers-color-scheme:dark") && page.contains("width=device-width"));
    assert!(page.contains("failed"), "a tool that failed has a line");
    assert!(!page.contains("debug build"));
}

#[test]
fn the_picture_stands_alone() {
    let picture = picture(&report());
    assert_well_formed(&picture);
    assert!(picture.starts_with("<svg xmlns=\"http://www.w3.org/2000/svg\""));
    // The floor of a copy is 36 s of CPU on two cores; the median of 21 s is 1.17 of that.
    assert!(picture.contains("1.17 × floor") && picture.contains("alone, 18.0 s") && picture.contains("21.0"));
    assert!(!picture.contains("dump, seconds"), "nobody has come to its end");
}

/// Half of a long headline was outside of the picture.
#[test]
fn a_headline_fits_into_the_picture() {
    let report = BenchReport { rows: 15_333_972, tables: 10_203, database_bytes: 2_830_000_000, ..report() };
    let picture = picture(&report);
    let texts = |class: &str| -> Vec<usize> {
        let begins = format!("<text class=\"{class}\"");
        let lines = picture.lines().filter(|line| line.starts_with(&begins));
        lines.map(|line| line.split(['<', '>']).nth(2).unwrap().len()).collect()
    };
    // Of some 520 pixels, a bold letter of the headline takes about ten, one of the lines below it seven.
    assert!(texts("head").iter().all(|&letters| letters <= 50), "{picture}");
    assert!(texts("dim").len() >= 2 && texts("dim").iter().all(|&letters| letters <= 74), "{picture}");
}

#[test]
fn a_failure_is_shown_in_the_place_of_a_page() {
    assert_well_formed(&failed_page("no <way>\nout"));
    assert_well_formed(&failed_picture("no <way>\nout"));
    assert!(failed_picture("no <way>").contains("no &lt;way&gt;"));
}
