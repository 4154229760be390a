use std::fs::File;
use std::io::Read;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::Ordering;

use insta::assert_snapshot;
use pgconvoy::event::{JobKind, Operation, Phase, PlannedRelation, ProgressBoard, ServerInfo};
use pgconvoy::model::{ChunkId, CopyFormat, QualifiedName, ServerVersion, Side};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use time::macros::datetime;

use super::*;
use crate::cli::signals::Interrupt;
use crate::cli::text::{Canvas, Glyphs, Paint, width};

const MB: u64 = 1_000_000;

fn canvas(columns: usize, rows: usize) -> Canvas {
    Canvas { columns, rows, glyphs: Glyphs::UNICODE, paint: Paint { on: false } }
}

fn moment(ms: u64) -> Moment {
    let since_start = Duration::from_millis(ms);
    Moment { since_start, utc: datetime!(2025-11-22 11:00:00 UTC) + since_start }
}

fn name(i: u32) -> QualifiedName {
    match i {
        0 => QualifiedName::new("public", "orders"),
        1 => QualifiedName::new("sales", "documents_with_a_long_name_2024_12"),
        i => QualifiedName::new("public", format!("small_{i:03}")),
    }
}

fn relations(count: u32) -> Vec<PlannedRelation> {
    (0..count)
        .map(|i| PlannedRelation {
            oid: 100 + i,
            name: name(i),
            format: CopyFormat::Binary,
            chunks: if i < 2 { 10 } else { 1 },
            estimated_bytes: [4000 * MB, 2000 * MB].get(i as usize).copied().unwrap_or(MB),
            estimated_rows: 1000,
        })
        .collect()
}

/// A scripted run: what the engine would send, and counters as workers would set them.
struct Script {
    board: Arc<ProgressBoard>,
    events: Vec<(u64, Event)>,
}

impl Script {
    fn started(tables: u32) -> Self {
        let board = ProgressBoard::new(relations(tables));
        let server = |side, address: &str, version| ServerInfo {
            side,
            address: address.into(),
            version: ServerVersion(version),
            in_recovery: false,
        };
        let servers =
            vec![server(Side::Source, "old:5432/shop", 150_004), server(Side::Target, "new:5432/shop", 180_004)];
        let operation = Operation::Copy;
        let started = Event::RunStarted { operation, servers, archive: None, evidence: None, jobs: 16 };
        let planned = Event::Planned { relations: relations(tables), board: Arc::clone(&board) };
        let events = vec![
            (0, started),
            (0, Event::PhaseStarted { phase: Phase::Preflight }),
            (420, Event::PhaseFinished { phase: Phase::Preflight, elapsed_ms: 420 }),
            (900, planned),
            (1000, Event::PhaseStarted { phase: Phase::Rows }),
        ];
        Self { board, events }
    }

    fn start(&mut self, at_ms: u64, i: u32, index: u32) {
        let chunk = ChunkId { relation: 100 + i, index };
        self.events.push((at_ms, Event::ChunkStarted { chunk, name: name(i) }));
    }

    fn finish(&mut self, at_ms: u64, i: u32, index: u32, bytes: u64) {
        let chunk = ChunkId { relation: 100 + i, index };
        let (rows, elapsed_ms) = (bytes / 100, 1000);
        self.events.push((at_ms, Event::ChunkFinished { chunk, name: name(i), rows, bytes, elapsed_ms }));
    }

    fn complete(&mut self, at_ms: u64, i: u32, bytes: u64) {
        self.count(i, bytes);
        let (oid, rows) = (100 + i, bytes / 100);
        self.events.push((at_ms, Event::RelationFinished { oid, name: name(i), rows, bytes }));
    }

    fn job(&mut self, at_ms: u64, job: u32, object: &str, elapsed_ms: Option<u64>) {
        let (kind, object) = (JobKind::Index, object.to_string());
        self.events.push((
            at_ms,
            match elapsed_ms {
                None => Event::JobStarted { job, kind, object },
                Some(elapsed_ms) => Event::JobFinished { job, kind, object, elapsed_ms },
            },
        ));
    }

    /// Sets a relation's counters.
    fn count(&self, i: u32, bytes: u64) {
        let counters = &self.board.relations[i as usize].1;
        counters.bytes.store(bytes, Ordering::Relaxed);
        counters.rows.store(bytes / 100, Ordering::Relaxed);
    }

    /// The state after everything so far; `finish_ms` of the samples' last.
    fn state(&self, samples: &[(u64, u64)]) -> RunState {
        let mut state = RunState::default();
        for (at_ms, event) in &self.events {
            state.apply(event, Duration::from_millis(*at_ms));
        }
        for (at_ms, bytes) in samples {
            self.count(0, *bytes);
            state.sample(Duration::from_millis(*at_ms));
        }
        state
    }
}

/// Ten chunks of 400 MB heap each, three finished with 200 MB COPY bytes each: the rest weighs half, too.
fn halfway() -> Script {
    let mut script = Script::started(206);
    for index in 0..3 {
        script.start(1000, 0, index);
        script.finish(5000, 0, index, 200 * MB);
    }
    script.start(5000, 0, 3);
    script.start(5000, 1, 0);
    script.count(1, 40 * MB);
    for i in 2..12 {
        script.start(5000, i, 0);
        script.count(i, MB / 10);
    }
    for i in 12..40 {
        script.complete(5000, i, MB / 2);
    }
    script.events.push((5000, Event::JobsPlanned { jobs: 35 }));
    script.job(5000, 1, "public.small_012_pkey", None);
    script.job(5000, 2, "public.small_013_pkey", None);
    script.job(5100, 1, "public.small_012_pkey", Some(100));
    script
}

#[test]
fn the_total_is_scaled_by_what_finished_chunks_weighed() {
    let script = halfway();
    let totals = script.state(&[(5000, 600 * MB), (10_000, 700 * MB)]).totals();
    // orders: 600 MB of 3 chunks → 2000 MB of 10. documents and the small ones: planned bytes at the ratio seen.
    let expected = totals.expected_bytes.unwrap();
    assert!((2990 * MB..3110 * MB).contains(&expected), "{expected}");
    assert_eq!(totals.bytes_per_s, Some(20 * MB));
    let left = totals.left.unwrap().as_secs();
    assert_eq!(left, (expected - totals.bytes).div_ceil(20 * MB));
    assert_eq!((totals.tables, totals.finished_tables), (206, 28));
}

#[test]
fn large_objects_are_no_table() {
    let mut planned = relations(3);
    planned[2].oid = 0;
    let board = ProgressBoard::new(planned.clone());
    let mut script = Script::started(3);
    script.events[3].1 = Event::Planned { relations: planned, board: Arc::clone(&board) };
    script.board = board;
    script.events.push((2000, Event::RelationFinished { oid: 0, name: name(2), rows: 5, bytes: MB }));
    let totals = script.state(&[]).totals();
    assert_eq!((totals.tables, totals.finished_tables), (2, 0));
}

#[test]
fn nothing_is_estimated_before_there_is_a_base_for_it() {
    let mut script = Script::started(3);
    script.start(1000, 0, 0);
    let totals = script.state(&[(1000, 0), (1200, 50 * MB)]).totals();
    assert_eq!((totals.expected_bytes, totals.fraction, totals.left), (None, None, None));
    assert_eq!(totals.bytes_per_s, None, "200 ms are no rate");
    // A tiny table that is done says nothing of the large one.
    script.complete(1100, 2, 10);
    assert_eq!(script.state(&[(1000, 0), (3000, 50 * MB)]).totals().expected_bytes, None);
}

#[test]
fn a_stalled_run_has_no_time_left_to_tell() {
    let script = halfway();
    let totals = script.state(&[(5000, 600 * MB), (30_000, 600 * MB), (60_000, 600 * MB)]).totals();
    assert_eq!((totals.bytes_per_s, totals.left), (Some(0), None));
}

#[test]
fn unfinished_never_shows_as_complete_and_complete_does() {
    let mut script = Script::started(2);
    script.start(1000, 0, 0);
    for index in 0..10 {
        script.finish(2000, 0, index, 400 * MB);
    }
    let state = script.state(&[(2000, 9000 * MB)]);
    assert!(state.totals().fraction.unwrap() < 1.0);
    script.complete(3000, 0, 4000 * MB);
    script.complete(3000, 1, 0);
    let totals = script.state(&[]).totals();
    assert_eq!((totals.fraction, totals.left), (Some(1.0), Some(Duration::ZERO)));
}

#[test]
fn an_empty_database_is_complete() {
    let totals = Script::started(0).state(&[]).totals();
    assert_eq!((totals.fraction, totals.expected_bytes), (Some(1.0), Some(0)));
}

#[test]
fn the_picture_at_100_columns() {
    let state = halfway().state(&[(5000, 600 * MB), (10_000, 700 * MB)]);
    assert_snapshot!(frame::frame(&state, Duration::from_secs(10), &canvas(100, 24)).join("\n"));
}

#[test]
fn the_picture_at_40_columns_and_8_rows() {
    let state = halfway().state(&[(5000, 600 * MB), (10_000, 700 * MB)]);
    assert_snapshot!(frame::frame(&state, Duration::from_secs(10), &canvas(40, 8)).join("\n"));
}

#[test]
fn when_the_rows_are_in_no_time_is_promised() {
    let mut script = Script::started(1);
    script.complete(2000, 0, 100 * MB);
    script.job(2000, 1, "public.orders_pkey", None);
    let lines = frame::frame(&script.state(&[]), Duration::from_secs(9), &canvas(100, 24));
    assert!(lines[0].ends_with("rows  rows done") && lines[0].contains("100%"), "{}", lines[0]);
    assert_eq!(lines[2], "jobs: 0 done, 1 running: index public.orders_pkey 7 s");
}

#[test]
fn the_picture_always_fits() {
    let state = halfway().state(&[(5000, 600 * MB), (10_000, 700 * MB)]);
    let waiting = RunState::default();
    for columns in 1..160 {
        for rows in 1..30 {
            for state in [&state, &waiting] {
                let lines = frame::frame(state, Duration::from_secs(10), &canvas(columns, rows));
                assert!(lines.len() < rows.max(2), "{columns}x{rows}: {lines:#?}");
                for line in lines {
                    assert!(width(&line) < columns.max(2), "{columns}x{rows}: {line}");
                }
            }
        }
    }
}

#[test]
fn ten_thousand_tables_stay_one_picture() {
    let mut script = Script::started(10_000);
    for i in 0..500 {
        script.start(1000, i, 0);
    }
    let lines = frame::frame(&script.state(&[(2000, 0)]), Duration::from_secs(2), &canvas(100, 50));
    assert_eq!(lines.len(), 10);
    assert_eq!(lines[9], "… and 492 more; 0 of 10,000 tables done");
}

/// Runs a renderer over a script, ticking at the given times, and returns what it wrote.
fn played(script: &Script, make: impl FnOnce(lines::Write) -> Box<dyn Renderer>, ticks_ms: &[u64]) -> String {
    let written = Arc::new(Mutex::new(Vec::<String>::new()));
    let writer = Arc::clone(&written);
    let mut renderer = make(Box::new(move |line| writer.lock().unwrap().push(line.to_string())));
    let mut state = RunState::default();
    let mut ticks = ticks_ms.iter().peekable();
    for (at_ms, event) in &script.events {
        while let Some(tick) = ticks.next_if(|tick| *tick < at_ms) {
            state.sample(moment(*tick).since_start);
            renderer.tick(&state, moment(*tick));
        }
        state.apply(event, moment(*at_ms).since_start);
        renderer.event(event, &state, moment(*at_ms));
    }
    for tick in ticks {
        state.sample(moment(*tick).since_start);
        renderer.tick(&state, moment(*tick));
    }
    renderer.close();
    let lines = written.lock().unwrap();
    lines.join("\n")
}

fn full_run() -> Script {
    let mut script = Script::started(3);
    script.count(0, 300 * MB);
    for index in 0..10 {
        script.start(1000 + u64::from(index) * 2000, 0, index);
        script.finish(3000 + u64::from(index) * 2000, 0, index, 30 * MB);
    }
    script.events.push((21_000, Event::JobsPlanned { jobs: 2 }));
    script.complete(21_000, 0, 300 * MB);
    script.job(21_000, 1, "public.orders_pkey", None);
    script.complete(21_500, 1, 0);
    script.complete(21_500, 2, 100);
    script.events.push((21_500, Event::PhaseFinished { phase: Phase::Rows, elapsed_ms: 20_500 }));
    script.job(33_000, 1, "public.orders_pkey", Some(12_000));
    script.job(33_000, 2, "public.short_idx", None);
    script.job(33_100, 2, "public.short_idx", Some(100));
    script
}

#[test]
fn lines_tell_the_run_in_a_log() {
    let ticks = [400, 5900, 10_900, 15_900, 20_900, 25_900, 30_900];
    let lines = |write| -> Box<dyn Renderer> { Box::new(lines::Lines::new(write, Detail::Normal, canvas(100, 24))) };
    assert_snapshot!(played(&full_run(), lines, &ticks));
}

#[test]
fn verbose_lines_name_every_table_and_job() {
    let lines = |write| -> Box<dyn Renderer> { Box::new(lines::Lines::new(write, Detail::Verbose, canvas(100, 24))) };
    let text = played(&full_run(), lines, &[]);
    for part in ["public.orders: 300 MB", "public.small_002: 100 B", "index public.short_idx: 0.10 s"] {
        assert!(text.contains(part), "{part}\n{text}");
    }
}

#[test]
fn json_is_one_object_per_line_with_time_and_kind() {
    let ticks = [400, 5900];
    let text = played(&halfway(), |write| Box::new(json::Json::new(write)), &ticks);
    let records: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(records.iter().all(|r| r["at"].as_str().unwrap().ends_with('Z') && r["event"].is_string()));
    let of = |kind: &str| text.lines().filter(|l| l.contains(&format!("\"event\":\"{kind}\""))).collect::<Vec<_>>();
    assert_eq!(of("planned").len(), 1);
    // The tick before the plan has nothing to tell.
    assert_eq!(of("progress").len(), 1);
    let shown = ["run_started", "chunk_started", "chunk_finished", "relation_finished", "job_finished", "progress"];
    assert_snapshot!(shown.map(|kind| of(kind)[0]).join("\n"));
}

#[test]
fn the_thread_hands_every_event_on_and_knows_whether_the_run_finished() {
    let printer = Arc::new(Printer::new(&Environment::default(), false));
    let display = Display {
        progress: ProgressMode::None,
        reports: Vec::new(),
        trace: None,
        detail: Detail::Quiet,
        colour: false,
    };
    let mut progress = Progress::start(&display, &printer).unwrap();
    let sink = progress.sink();
    for (_, event) in halfway().events {
        sink.send(event);
    }
    assert!(!progress.finish());
}

/// A run with bars that goes on for so many steps of 100 ms, whatever becomes of the terminal.
fn show_bars(steps: u64) {
    let printer = Arc::new(Printer::new(&Environment::read(), true));
    let display = Display {
        progress: ProgressMode::Bars,
        reports: Vec::new(),
        trace: None,
        detail: Detail::Normal,
        colour: true,
    };
    let interrupt = Interrupt::listen(Arc::clone(&printer), "stopping").unwrap();
    let mut progress = Progress::start(&display, &printer).unwrap();
    let sink = progress.sink();
    let script = halfway();
    for (_, event) in &script.events {
        sink.send(event.clone());
    }
    for step in 0..steps {
        script.count(0, (600 + step * 8) * MB);
        if step == steps / 4 {
            sink.warn("collation de_DE has version 2.31 at the source and 2.36 at the target");
        }
        std::thread::sleep(Duration::from_millis(100));
        if interrupt.cancel.is_cancelled() {
            break;
        }
    }
    progress.finish();
    printer.err("after the bars");
    printer.out("to the end");
}

/// Not a check but a show, for a look at the real thing in a real terminal:
/// `PGCONVOY_SHOW=1 cargo test --bin pgconvoy tests::show -- --nocapture`. Also the child of the test below.
#[test]
fn show() {
    if let Some(steps) = std::env::var("PGCONVOY_SHOW").ok().and_then(|steps| steps.parse().ok()) {
        show_bars(steps);
    }
}

#[test]
fn a_lost_terminal_does_not_stop_a_run() {
    // A child that held the terminal's other end, too, would never lose it.
    let terminal = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
    grantpt(&terminal).unwrap();
    unlockpt(&terminal).unwrap();
    let path = ptsname(&terminal, Vec::new()).unwrap();
    let inside = File::options().write(true).open(path.to_str().unwrap()).unwrap();
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "cli::render::tests::show", "--nocapture"])
        .env("PGCONVOY_SHOW", "15")
        .env("LC_ALL", "C.UTF-8")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(inside)
        .spawn()
        .unwrap();
    let mut terminal = File::from(terminal);
    let mut drawn = Vec::new();
    while !String::from_utf8_lossy(&drawn).contains("public.orders") {
        let mut bytes = [0; 4096];
        let count = terminal.read(&mut bytes).unwrap();
        drawn.extend_from_slice(&bytes[..count]);
    }
    drop(terminal);
    let status = Command::new("kill").args(["-s", "HUP", &child.id().to_string()]).status().unwrap();
    assert!(status.success());
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{:?}", output.status);
    assert!(String::from_utf8_lossy(&output.stdout).contains("to the end"));
}
