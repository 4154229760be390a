//! One picture of a run: lines for a terminal of a given size. Pure, so that tests can read it.

use std::time::Duration;

use pgconvoy::model::{format_bytes, format_duration_ms};

use super::state::{ActiveRelation, RunState, Totals};
use crate::cli::text::{Canvas, clean, fit, fit_end, grouped, pad_left, pad_right};

/// Tables with a bar of their own, at most.
const MAX_TABLES: usize = 8;
/// Lines that are not tables: the total, `… and N more`, the jobs; one stays free for the cursor.
const OTHER_LINES: usize = 4;
const MIN_BAR: usize = 8;
const MAX_BAR: usize = 40;

/// One number beside a bar. Where there is no room, the lowest rank goes first.
struct Field {
    text: String,
    rank: u8,
}

impl Field {
    fn new(rank: u8, text: String) -> Self {
        Self { text, rank }
    }
}

/// The rank of the bar itself among the fields.
const BAR_RANK: u8 = 3;

pub fn frame(state: &RunState, at: Duration, canvas: &Canvas) -> Vec<String> {
    // The last column stays empty: some terminals wrap when it is written.
    let columns = canvas.columns.saturating_sub(1);
    if !state.is_planned() {
        return vec![fit(&waiting(state, at, canvas), columns, canvas.glyphs.ellipsis)];
    }
    let totals = state.totals();
    let active = state.active();
    let shown = active.len().min(MAX_TABLES).min(canvas.rows.saturating_sub(OTHER_LINES));
    let label_columns = label_columns(&active[..shown], columns);
    let mut lines = vec![gauge("total", label_columns, totals.fraction, total_fields(&totals, canvas), canvas)];
    for relation in &active[..shown] {
        let label = relation.name.to_string();
        lines.push(gauge(&label, label_columns, relation.fraction, relation_fields(relation, canvas), canvas));
    }
    lines.push(fit(&rest_line(&totals, active.len() - shown, canvas), columns, canvas.glyphs.ellipsis));
    if let Some(jobs) = jobs_line(state, at) {
        lines.push(fit(&jobs, columns, canvas.glyphs.ellipsis));
    }
    lines.truncate(canvas.rows.saturating_sub(1).max(1));
    lines
}

/// Before the plan there is nothing to count.
fn waiting(state: &RunState, at: Duration, canvas: &Canvas) -> String {
    let phase = state.phases.last().map_or_else(|| "starting".to_string(), ToString::to_string);
    format!("{phase} {} {}", canvas.glyphs.ellipsis, clock(at))
}

fn label_columns(shown: &[ActiveRelation], columns: usize) -> usize {
    let longest = shown.iter().map(|r| crate::cli::text::width(&r.name.to_string())).max().unwrap_or(0);
    longest.max("total".len()).min(columns * 2 / 5)
}

fn total_fields(totals: &Totals, canvas: &Canvas) -> Vec<Field> {
    let dash = canvas.glyphs.dash;
    let rate = totals.bytes_per_s.map_or_else(|| dash.to_string(), |rate| format!("{}/s", format_bytes(rate)));
    let left = totals.left.map_or_else(|| dash.to_string(), time_left);
    vec![
        Field::new(9, percent(totals.fraction, canvas)),
        Field::new(8, pad_left(&format_bytes(totals.bytes), 7)),
        Field::new(2, format!("{} rows", pad_left(&grouped(totals.rows), 11))),
        Field::new(5, pad_left(&rate, 9)),
        Field::new(6, format!("{} left", pad_left(&left, 6))),
    ]
}

fn relation_fields(relation: &ActiveRelation, canvas: &Canvas) -> Vec<Field> {
    vec![
        Field::new(9, percent(relation.fraction, canvas)),
        Field::new(8, pad_left(&format_bytes(relation.bytes), 7)),
        Field::new(2, format!("{} rows", pad_left(&grouped(relation.rows), 11))),
    ]
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to 100")]
pub fn percent(fraction: Option<f64>, canvas: &Canvas) -> String {
    match fraction {
        Some(fraction) => format!("{:>3}%", (fraction * 100.0).floor() as u32),
        None => format!("{:>4}", canvas.glyphs.dash),
    }
}

/// A label, a bar, and as many numbers as there is room for.
fn gauge(label: &str, label_columns: usize, fraction: Option<f64>, fields: Vec<Field>, canvas: &Canvas) -> String {
    let columns = canvas.columns.saturating_sub(1);
    let label = pad_right(&fit_end(label, label_columns, canvas.glyphs.ellipsis), label_columns);
    let mut fields = fields;
    let mut bar = true;
    loop {
        let numbers: usize = fields.iter().map(|f| crate::cli::text::width(&f.text) + 2).sum();
        let used = label_columns + numbers + if bar { 2 } else { 0 };
        let room = columns.saturating_sub(used);
        let fits = used + if bar { MIN_BAR } else { 0 } <= columns;
        if fits || fields.len() <= 1 && !bar {
            let mut line = label;
            if bar {
                line.push_str("  ");
                line.push_str(&bar_of(fraction, room.min(MAX_BAR), canvas));
            }
            for field in &fields {
                line.push_str("  ");
                line.push_str(&field.text);
            }
            return fit_painted(line, columns, canvas);
        }
        let lowest = fields.iter().map(|f| f.rank).min().unwrap_or(u8::MAX);
        if bar && BAR_RANK < lowest {
            bar = false;
        } else {
            fields.retain(|f| f.rank != lowest);
        }
    }
}

/// Very narrow terminals: what is left is cut without paint.
fn fit_painted(line: String, columns: usize, canvas: &Canvas) -> String {
    if crate::cli::text::width(&line) <= columns { line } else { fit(&line, columns, canvas.glyphs.ellipsis) }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss, reason = "columns")]
fn bar_of(fraction: Option<f64>, columns: usize, canvas: &Canvas) -> String {
    let full = (fraction.unwrap_or(0.0) * columns as f64).floor() as usize;
    let full = full.min(columns);
    let rest = canvas.glyphs.bar_rest.to_string().repeat(columns - full);
    format!("{}{}", canvas.paint.good(&canvas.glyphs.bar_full.to_string().repeat(full)), canvas.paint.dim(&rest))
}

fn rest_line(totals: &Totals, hidden: usize, canvas: &Canvas) -> String {
    let done = format!("{} of {} tables done", grouped(totals.finished_tables as u64), grouped(totals.tables as u64));
    match hidden {
        0 => done,
        1 => format!("{} and 1 more table; {done}", canvas.glyphs.ellipsis),
        n => format!("{} and {} more tables; {done}", canvas.glyphs.ellipsis, grouped(n as u64)),
    }
}

/// `indexes and the rest: 14 of 35 done, 3 running: index public.orders_pkey 12 s, …`, longest running first.
pub fn jobs_line(state: &RunState, at: Duration) -> Option<String> {
    let jobs = &state.jobs;
    if jobs.running.is_empty() && jobs.finished == 0 {
        return None;
    }
    let of = jobs.planned.map_or_else(String::new, |planned| format!(" of {}", grouped(planned.into())));
    let mut line = format!("indexes and the rest: {}{of} done", grouped(jobs.finished.into()));
    if jobs.running.is_empty() {
        return Some(line);
    }
    let mut running: Vec<_> = jobs.running.values().collect();
    running.sort_by_key(|job| job.since);
    let named: Vec<String> = running
        .iter()
        .take(MAX_TABLES)
        .map(|job| format!("{} {} {}", job.kind, clean(&job.object), clock(at.saturating_sub(job.since))))
        .collect();
    line.push_str(&format!(", {} running: {}", running.len(), named.join(", ")).replace('\n', " "));
    Some(line)
}

/// Elapsed time in whole seconds.
pub fn clock(elapsed: Duration) -> String {
    match elapsed.as_secs() {
        seconds @ 0..=99 => format!("{seconds} s"),
        seconds => format_duration_ms(seconds * 1000),
    }
}

pub fn time_left(left: Duration) -> String {
    clock(left)
}
