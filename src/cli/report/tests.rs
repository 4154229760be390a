use insta::assert_snapshot;
use pgconvoy::archive::{
    ArchiveContents, ArchiveSource, ArchiveState, Inspection, ManifestHeader, TableInspection, Totals,
};
use pgconvoy::event::{JobKind, Operation, Phase, ServerInfo};
use pgconvoy::model::{CopyFormat, QualifiedName, RelationKind, ServerVersion, Side, TextReason};
use pgconvoy::report::*;

use super::*;
use crate::cli::settings::Detail;
use crate::cli::text::{Glyphs, Paint};

const fn canvas(columns: usize) -> Canvas {
    Canvas { columns, rows: 24, glyphs: Glyphs::UNICODE, paint: Paint { on: false } }
}

fn servers() -> Vec<ServerInfo> {
    let server = |side, address: &str, version| ServerInfo {
        side,
        address: address.into(),
        version: ServerVersion(version),
        in_recovery: side == Side::Source,
    };
    vec![
        server(Side::Source, "old.example.com:5432/shop", 90_624),
        server(Side::Target, "new.example.com:5432/shop", 180_004),
    ]
}

fn table(schema: &str, name: &str, rows: u64, copy_bytes: u64) -> TableReport {
    TableReport {
        name: QualifiedName::new(schema, name),
        rows,
        copy_bytes,
        format: CopyFormat::Binary,
        text_reason: None,
        chunks: u32::try_from(copy_bytes / 256_000_000 + 1).unwrap(),
        elapsed_ms: copy_bytes / 100_000 + 120,
        index_ms: copy_bytes / 250_000,
    }
}

fn transfer_report() -> TransferReport {
    let mut tables = vec![
        table("public", "orders", 31_000_000, 8_600_000_000),
        table("public", "a_table_with_a_rather_long_name_partition_2024_12", 9_000_000, 2_100_000_000),
        table("sales", "documents", 120_000, 1_500_000_000),
    ];
    tables.extend((0..20).map(|i| table("public", &format!("small_{i:02}"), 100 + i, 9000)));
    tables[2].format = CopyFormat::Text;
    tables[2].text_reason = Some(TextReason {
        column: "body".into(),
        type_name: "hstore".into(),
        why: "the extension's binary format is not proven equal on both servers".into(),
    });
    let phase = |phase, start_ms, elapsed_ms| PhaseTiming { phase, start_ms, elapsed_ms };
    let job = |kind, object: &str, elapsed_ms| JobReport { kind, object: object.into(), start_ms: 0, elapsed_ms };
    TransferReport {
        operation: Operation::Copy,
        pgconvoy_version: "0.1.0".into(),
        started_at: "2025-11-22T11:00:00Z".into(),
        elapsed_ms: 187_000,
        servers: servers(),
        archive: None,
        jobs: 16,
        lanes: 16,
        phases: vec![
            phase(Phase::Preflight, 0, 420),
            phase(Phase::Rows, 1200, 130_050),
            phase(Phase::Indexes, 9000, 170_000),
        ],
        tables,
        there_already: None,
        restore_jobs: vec![
            job(JobKind::Index, "public.orders_pkey", 41_200),
            job(JobKind::ValidateForeignKey, "public.orders.orders_customer_fkey", 12_000),
        ],
        statistics: Some(StatisticsReport { carried: 203, analyzed: 2 }),
        peak_memory_bytes: 121_000_000,
        cpu_ms: 7400,
        limited_by: Some("the target: 71 % of the workers' time was spent waiting for it".into()),
        checked: vec!["every chunk's row count on both ends".into()],
        choices: vec!["long values compressed with lz4".into()],
        damage: Vec::new(),
        skipped: vec!["subscription mysub: subscriptions are never copied".into()],
        retries: Vec::new(),
        warnings: vec![
            "collation de_DE has version 2.31 at the source and 2.36 at the target; text indexes were \
                        built anew"
                .into(),
        ],
    }
}

#[test]
fn a_transfer_on_a_wide_terminal() {
    assert_snapshot!(transfer(&transfer_report(), Detail::Normal, &canvas(100)));
}

#[test]
fn a_transfer_on_a_narrow_terminal() {
    let text = transfer(&transfer_report(), Detail::Normal, &canvas(50));
    assert_snapshot!(text);
    // The headline is what people paste elsewhere: it stays one line.
    for line in text.lines().skip(1) {
        assert!(width(line) <= 50, "{line}");
    }
}

#[test]
fn a_dump_of_nothing() {
    let mut report = transfer_report();
    report.operation = Operation::Dump;
    report.tables.clear();
    report.restore_jobs.clear();
    report.phases.clear();
    report.servers.pop();
    report.limited_by = None;
    for list in [&mut report.checked, &mut report.skipped, &mut report.warnings] {
        list.clear();
    }
    let (path, stored_bytes, raw_bytes, segments) = ("shop.convoy".into(), 4_100, 0, 1);
    report.archive = Some(ArchiveSummary { path, stored_bytes, raw_bytes, segments });
    assert_snapshot!(transfer(&report, Detail::Normal, &canvas(100)));
}

fn comparison(name: &str, reference_rows: u64, target_rows: u64, target_hash: &str) -> TableComparison {
    TableComparison {
        kind: ComparedKind::Table,
        name: QualifiedName::new("public", name),
        reference_rows,
        target_rows,
        reference_hash: "aa".into(),
        target_hash: target_hash.into(),
        format: CopyFormat::Binary,
    }
}

fn object(kind: ComparedKind, one_side_only: bool, message: &str) -> ObjectDifference {
    ObjectDifference { kind, one_side_only, message: message.into() }
}

fn verify_report() -> VerifyReport {
    VerifyReport {
        verdict: Verdict::Different,
        pgconvoy_version: "0.1.0".into(),
        started_at: "2026-11-22T20:00:00Z".into(),
        moments: Vec::new(),
        evidence: None,
        elapsed_ms: 3200,
        servers: servers(),
        archive: None,
        tables: vec![
            comparison("orders", 31_000_000, 30_999_988, "bb"),
            comparison("customers", 5000, 5000, "bb"),
            comparison("extra", 1, 3, "bb"),
            comparison("equal", 12, 12, "aa"),
        ],
        counted_only: 0,
        sequences: 3,
        large_objects: 1,
        definitions: None,
        differences: vec![
            object(ComparedKind::Table, true, "table public.gone is only at the source"),
            object(
                ComparedKind::Sequence,
                false,
                "sequence public.s: last value 3 (used) in the source, last value 2 (used) in the target",
            ),
            object(ComparedKind::Sequence, true, "sequence public.t is only at the source"),
        ],
        left_out: Vec::new(),
        warnings: Vec::new(),
    }
}

#[test]
fn tables_that_differ_come_first_with_both_counts() {
    assert_snapshot!(verify(&verify_report(), Detail::Normal, &canvas(100)));
}

#[test]
fn equal_databases_are_said_to_be_equal() {
    let mut report = verify_report();
    report.differences.clear();
    report.tables.drain(..3);
    assert_snapshot!(verify(&report, Detail::Verbose, &canvas(100)));
}

#[test]
fn damage_is_listed() {
    let mut report = CheckReport {
        archive: "shop.convoy".into(),
        elapsed_ms: 2000,
        segments: 52,
        rows: 40_120_000,
        stored_bytes: 3_100_000_000,
        raw_bytes: 12_300_000_000,
        damage: vec!["segment 00000017, block 3 (public.orders): checksum is 1234abcd, not 99ff0011".into()],
        damaged_relations: vec![16_447],
    };
    assert_snapshot!(check(&report, &canvas(100)));
    report.damage.clear();
    assert!(check(&report, &canvas(100)).starts_with("sound: 52 segments, 40,120,000 rows, "));
}

#[test]
fn what_stands_in_the_way_comes_first_with_its_way_out() {
    let finding = |level, side, message: &str, hint: Option<&str>| PreflightFinding {
        level,
        side,
        message: message.into(),
        hint: hint.map(Into::into),
    };
    let mut report = PreflightReport {
        servers: servers(),
        findings: vec![
            finding(FindingLevel::Ok, Some(Side::Source), "may read all 23 tables", None),
            finding(FindingLevel::Warning, None, "16 jobs asked for, 9 connections free: 8 are used", None),
            finding(
                FindingLevel::Refusal,
                Some(Side::Target),
                "extension postgis 3.4 is not available; the source has it at 3.3 and 12 tables use its types",
                Some("install the package postgresql-18-postgis-3 at the target"),
            ),
        ],
    };
    assert_snapshot!(preflight(&report, &canvas(60)));
    let ascii = Canvas { glyphs: Glyphs::ASCII, ..canvas(60) };
    assert!(preflight(&report, &ascii).is_ascii());
    report.findings.truncate(1);
    assert!(preflight(&report, &canvas(60)).starts_with("ready\n  ✓  source: may read"));
}

fn archive_inspection() -> Inspection {
    let source = ArchiveSource {
        version: ServerVersion(150_004),
        address: "old.example.com:5432".into(),
        database: "shop".into(),
        encoding: "UTF8".into(),
        collate: "C".into(),
        ctype: "C".into(),
        locale_provider: None,
        system_identifier: None,
    };
    let mut header = ManifestHeader::new(source, ArchiveContents::Everything);
    header.archive_id = "00112233445566778899aabbccddeeff".into();
    header.created_at = "2025-11-22T11:00:00Z".into();
    let table = |name: &str, rows: u64, complete| TableInspection {
        oid: 1,
        name: QualifiedName::new("public", name),
        kind: RelationKind::Table,
        columns: 3,
        format: CopyFormat::Binary,
        text_reason: None,
        segments: rows / 1_000_000 + 1,
        rows,
        raw_bytes: rows * 200,
        stored_bytes: rows * 40,
        complete,
        excluded: None,
    };
    let mut audit = table("audit", 0, true);
    audit.excluded = Some("--exclude-table-data public.audit".into());
    Inspection {
        path: "shop.convoy".into(),
        state: ArchiveState::Unsealed,
        encrypted: false,
        header,
        schema: None,
        totals: Totals { segments: 9, rows: 7_000_100, raw_bytes: 1_400_020_000, stored_bytes: 280_004_000 },
        tables: vec![table("small", 100, true), table("orders", 7_000_000, false), audit],
        sequences: 2,
        large_objects: 3,
        large_object_bytes: 5000,
        large_object_data: Totals { segments: 1, rows: 3, raw_bytes: 5100, stored_bytes: 900 },
        notes: vec!["pg_dump 18.4".into()],
        torn_bytes: 17,
        missing: vec!["the seal: the dump did not finish".into()],
    }
}

#[test]
fn an_archive_says_what_it_holds_and_what_it_lacks() {
    let mut archive = archive_inspection();
    assert_snapshot!(inspection(&archive, Detail::Normal, &canvas(100)));
    archive.state = ArchiveState::Sealed;
    assert!(
        inspection(&archive, Detail::Normal, &canvas(100)).starts_with("archive shop.convoy: sealed, but INCOMPLETE\n")
    );
    archive.missing.clear();
    assert!(inspection(&archive, Detail::Normal, &canvas(100)).starts_with("archive shop.convoy: sealed\n"));
}

#[test]
fn text_from_servers_cannot_command_the_terminal() {
    let mut report = transfer_report();
    let evil = "\x1b]0;owned\x07";
    report.warnings.push(evil.into());
    report.skipped.push(evil.into());
    report.checked.push(evil.into());
    report.servers[0].address.push_str(evil);
    report.restore_jobs[0].object.push_str(evil);
    report.tables[0].name.name.push_str(evil);
    report.limited_by = Some(evil.into());
    assert!(!transfer(&report, Detail::Normal, &canvas(100)).contains(['\x1b', '\x07']));
}

#[test]
fn colours_change_no_text() {
    let painted = Canvas { paint: Paint { on: true }, ..canvas(100) };
    let plain = transfer(&transfer_report(), Detail::Normal, &canvas(100));
    let text = transfer(&transfer_report(), Detail::Normal, &painted);
    assert_ne!(text, plain);
    assert_eq!(text.replace("\x1b[1m", "").replace("\x1b[2m", "").replace("\x1b[0m", ""), plain);
}

#[test]
fn what_was_there_already_has_no_part_in_the_rate() {
    let mut report = transfer_report();
    let (rows, copy_bytes) = report.totals();
    report.elapsed_ms = 1000;
    let all = transfer::headline(&report);
    assert!(!all.contains("already"), "{all}");
    report.there_already = Some(pgconvoy::report::ThereAlready { rows, copy_bytes });
    let none = transfer::headline(&report);
    assert!(none.contains(" rows were there already, in 1.00 s (0 B/s)"), "{none}");
}
