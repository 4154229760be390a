//! One picture of a run: lines for a terminal of a given size. Pure, so that tests can read it.

use std::time::Duration;

use pgconvoy::model::{format_bytes, format_duration_ms};

use super::state::{ActiveRelation, RunState, Totals};
use crate::cli::text::{Canvas, clean, fit, fit_end, grouped, pad_left, pad_right, width};

/// Tables with a bar of their own, at most.
const MAX_TABLES: usize = 8;
/// Lines that are not tables: the total, `… and N more`, the jobs; one stays free for the cursor.
const OTHER_LINES: usize = 4;
const MIN_BAR: usize = 8;
const MAX_BAR: usize = 40;
const MIN_LABEL: usize = 12;
const GAP: &str = "  ";

/// What all lines with numbers share, so that they stand below each other.
#[derive(Clone, Copy, Debug)]
struct Layout {
    label: usize,
    /// 0: no bars.
    bar: usize,
    rows: bool,
    /// Without it the total stands alone: it has more to say than a table.
    total_has_label: bool,
}

pub fn frame(state: &RunState, at: Duration, canvas: &Canvas) -> Vec<String> {
    let columns = usable(canvas);
    if !state.is_planned() {
        return vec![fit(&waiting(state, at, canvas), columns, canvas.glyphs.ellipsis)];
    }
    let totals = state.totals();
    let active = state.active();
    let shown = active.len().min(MAX_TABLES).min(canvas.rows.saturating_sub(OTHER_LINES));
    let layout = layout(&active[..shown], &totals, canvas);
    let mut lines = vec![total_line(&totals, layout, canvas)];
    lines.extend(active[..shown].iter().map(|relation| relation_line(relation, layout, canvas)));
    lines.push(fit(&rest_line(&totals, active.len() - shown, canvas), columns, canvas.glyphs.ellipsis));
    if let Some(jobs) = jobs_line(state, at) {
        lines.push(fit(&jobs, columns, canvas.glyphs.ellipsis));
    }
    lines.truncate(canvas.rows.saturating_sub(1).max(1));
    lines
}

/// The last column stays empty: some terminals wrap when it is written.
fn usable(canvas: &Canvas) -> usize {
    canvas.columns.saturating_sub(1)
}

/// Before the plan there is nothing to count.
fn waiting(state: &RunState, at: Duration, canvas: &Canvas) -> String {
    let (what, since) = match (state.phases.last(), &state.doing) {
        (Some(phase), _) => (phase.to_string(), state.began),
        (None, Some((what, since))) => (clean(what).trim_end_matches([' ', '…']).to_string(), *since),
        (None, None) => ("starting".to_string(), state.began),
    };
    format!("{what} {} {}", canvas.glyphs.ellipsis, clock(at.saturating_sub(since)))
}

/// The roomiest of a few layouts that has room for the total. Names give way first, then rows, then the bars.
fn layout(shown: &[ActiveRelation], totals: &Totals, canvas: &Canvas) -> Layout {
    let columns = usable(canvas);
    let longest = shown.iter().map(|r| width(&r.name.to_string())).max().unwrap_or(0).max("total".len());
    let roomy = longest.min(columns * 2 / 5);
    let tight = longest.min((columns / 4).max(MIN_LABEL));
    for (label, rows, bars) in
        [(roomy, true, true), (tight, true, true), (tight, false, true), (tight, true, false), (tight, false, false)]
    {
        let used = label + fields_width(&total_fields(totals, rows, canvas)) + if bars { GAP.len() } else { 0 };
        let room = columns.saturating_sub(used);
        if used + if bars { MIN_BAR } else { 0 } <= columns {
            return Layout { label, bar: if bars { room.min(MAX_BAR) } else { 0 }, rows, total_has_label: true };
        }
    }
    Layout { label: longest.min(columns / 2), bar: 0, rows: false, total_has_label: false }
}

fn fields_width(fields: &[String]) -> usize {
    fields.iter().map(|field| width(field) + GAP.len()).sum()
}

fn total_line(totals: &Totals, layout: Layout, canvas: &Canvas) -> String {
    let fields = total_fields(totals, layout.rows, canvas);
    if layout.total_has_label {
        gauge("total", totals.fraction, &fields, layout, canvas)
    } else {
        fit(&fields.join(GAP), usable(canvas), canvas.glyphs.ellipsis)
    }
}

fn relation_line(relation: &ActiveRelation, layout: Layout, canvas: &Canvas) -> String {
    let fields = amounts(relation.fraction, relation.bytes, relation.rows, layout.rows, canvas);
    gauge(&relation.name.to_string(), relation.fraction, &fields, layout, canvas)
}

fn total_fields(totals: &Totals, with_rows: bool, canvas: &Canvas) -> Vec<String> {
    let dash = canvas.glyphs.dash;
    let mut fields = amounts(totals.fraction, totals.bytes, totals.rows, with_rows, canvas);
    // Other work follows the rows: that none are left is not that no time is.
    if totals.finished_tables == totals.tables {
        fields.push("rows done".into());
        return fields;
    }
    let rate = totals.bytes_per_s.map_or_else(|| dash.to_string(), |rate| format!("{}/s", format_bytes(rate)));
    let left = totals.left.map_or_else(|| dash.to_string(), clock);
    fields.extend([pad_left(&rate, 9), format!("{} left", pad_left(&left, 6))]);
    fields
}

fn amounts(fraction: Option<f64>, bytes: u64, rows: u64, with_rows: bool, canvas: &Canvas) -> Vec<String> {
    let mut fields = vec![percent(fraction, canvas), pad_left(&format_bytes(bytes), 7)];
    if with_rows {
        fields.push(format!("{} rows", pad_left(&grouped(rows), 11)));
    }
    fields
}

/// A label, a bar, numbers.
fn gauge(label: &str, fraction: Option<f64>, fields: &[String], layout: Layout, canvas: &Canvas) -> String {
    let label = pad_right(&fit_end(label, layout.label, canvas.glyphs.ellipsis), layout.label);
    let mut parts = vec![label];
    if layout.bar > 0 {
        parts.push(bar_of(fraction, layout.bar, canvas));
    }
    parts.extend_from_slice(fields);
    let line = parts.join(GAP);
    // Only where nothing has room, and nothing is painted then.
    if width(&line) <= usable(canvas) { line } else { fit(&line, usable(canvas), canvas.glyphs.ellipsis) }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to 100")]
pub fn percent(fraction: Option<f64>, canvas: &Canvas) -> String {
    match fraction {
        Some(fraction) => format!("{:>3}%", (fraction * 100.0).floor() as u32),
        None => format!("{:>4}", canvas.glyphs.dash),
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss, reason = "columns")]
fn bar_of(fraction: Option<f64>, columns: usize, canvas: &Canvas) -> String {
    let full = (fraction.unwrap_or(0.0) * columns as f64).floor() as usize;
    let full = full.min(columns);
    let rest = canvas.glyphs.bar_rest.to_string().repeat(columns - full);
    format!("{}{}", canvas.paint.good(&canvas.glyphs.bar_full.to_string().repeat(full)), canvas.paint.dim(&rest))
}

fn rest_line(totals: &Totals, hidden: usize, canvas: &Canvas) -> String {
    let (done, all) = (grouped(totals.finished_tables as u64), grouped(totals.tables as u64));
    let ellipsis = canvas.glyphs.ellipsis;
    match hidden {
        0 => format!("{done} of {all} tables done"),
        hidden => format!("{ellipsis} and {} more; {done} of {all} tables done", grouped(hidden as u64)),
    }
}

/// `jobs: 14 of 35 done, 3 running: index public.orders_pkey 12 s, …`, longest running first.
pub fn jobs_line(state: &RunState, at: Duration) -> Option<String> {
    let jobs = &state.jobs;
    if jobs.running.is_empty() && jobs.finished == 0 {
        return None;
    }
    let of = jobs.planned.map_or_else(String::new, |planned| format!(" of {}", grouped(planned.into())));
    let mut line = format!("jobs: {}{of} done", grouped(jobs.finished.into()));
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

/// `3/7 pgconvoy copy`.
pub fn step_title(number: u32, of: u32, title: &str) -> String {
    format!("{number}/{of} {}", clean(title))
}

/// Elapsed time in whole seconds.
pub fn clock(elapsed: Duration) -> String {
    match elapsed.as_secs() {
        seconds @ 0..=99 => format!("{seconds} s"),
        seconds => format_duration_ms(seconds * 1000),
    }
}
