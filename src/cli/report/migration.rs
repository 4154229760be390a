use pgconvoy::model::{counted, format_bytes, format_duration_ms};
use pgconvoy::runbook::heroku::{Cost, Estimate, Kind, Measured, Plan};
use pgconvoy::runbook::{MigrationReport, Phase, StepState, Words};

use super::Page;
use crate::cli::text::{Canvas, clean};

/// What a plan says to the one who will run it at night.
pub fn plan(plan: &Plan, refusals: &[String], canvas: &Canvas) -> String {
    let mut page = Page::new(canvas);
    facts(&mut page, plan);
    cheaper(&mut page, plan);
    steps(&mut page, plan);
    costs(&mut page, plan);
    if !refusals.is_empty() {
        page.blank();
        page.line(canvas.paint.error("this app cannot be migrated as it is:"));
        for refusal in refusals {
            page.marked(canvas.glyphs.refusal, &clean(refusal));
        }
    }
    page.finish()
}

fn facts(page: &mut Page<'_>, plan: &Plan) {
    let (app, wishes) = (&plan.app, &plan.wishes);
    let paint = page.canvas.paint;
    let version = wishes.version.map_or_else(|| "Heroku's newest version".into(), |v| format!("PostgreSQL {v}"));
    let what = if plan.kind == Kind::Rehearsal { "rehearsal of the migration of" } else { "migration of" };
    page.line(paint.bold(&format!(
        "{what} {}: PostgreSQL {} on {} to {version} on {}",
        app.app, app.version, app.plan, wishes.final_plan
    )));
    page.blank();
    let processes: Vec<String> =
        app.formation.iter().map(|p| format!("{} {} ({})", p.quantity, p.kind, p.size)).collect();
    page.item(&format!(
        "database {}: {}, {}, {} schemas; region {}; maintenance {}",
        app.addon,
        format_bytes(app.database.bytes),
        counted(app.database.tables, "table"),
        app.database.schemas,
        app.region,
        if app.maintenance { "on" } else { "off" },
    ));
    page.item(&format!("processes: {}", processes.join(", ")));
    let attachments: Vec<String> = app.attachments.iter().map(|a| format!("{} ({})", a.name, a.addon)).collect();
    page.item(&format!("attachments: {}", attachments.join(", ")));
    let followers = app.followers.unwrap_or_default();
    if followers > 0 {
        page.item(&format!(
            "{} of the present database stay what they are; destroy them before its last step, which destroys their leader",
            counted(u64::from(followers), "follower"),
        ));
    }
    page.item(&format!(
        "followers: {}; connections: {}; extensions: {}",
        app.followers.map_or_else(|| "not said".into(), |followers| followers.to_string()),
        app.connections.as_deref().unwrap_or("not said"),
        if app.database.extensions.is_empty() { "none".into() } else { app.database.extensions.join(", ") },
    ));
    if !app.database.settings.is_empty() {
        page.item(&format!(
            "set by ALTER DATABASE or ALTER ROLE, and not moved; set it in the new database before the app is up: {}",
            app.database.settings.join(", ")
        ));
    }
    page.blank();
}

fn cheaper(page: &mut Page<'_>, plan: &Plan) {
    page.line("would something cheaper do?".into());
    for advice in &plan.advice {
        let mark = if advice.against.is_empty() { page.canvas.glyphs.ok } else { page.canvas.glyphs.dash };
        page.marked(mark, &format!("{}: {} of downtime", advice.way, advice.downtime));
        if let Some(command) = &advice.command {
            page.line(format!("       $ {command}"));
        }
        for against in &advice.against {
            page.below_mark(&format!("no: {against}"));
        }
        for but in &advice.but {
            page.below_mark(&format!("but {but}"));
        }
    }
    page.blank();
}

fn steps(page: &mut Page<'_>, plan: &Plan) {
    let paint = page.canvas.paint;
    page.line("the steps, and what one would type instead:".into());
    let mut last = None;
    for (number, step) in (1..).zip(&plan.steps) {
        if last != Some(step.phase) {
            page.blank();
            page.line(format!("  {}", paint.bold(heading(step.phase))));
            last = Some(step.phase);
        }
        if let Some(gate) = &step.gate {
            page.hanging("      ", &format!("(asks first: {})", gate.text));
        }
        page.hanging(
            &format!("  {number:>2}. "),
            &format!("{} (about {})", step.title, format_duration_ms(step.estimate_s * 1000)),
        );
        for command in &step.manual {
            page.line(paint.dim(&format!("      $ {}", clean(command))));
        }
        if let Some(undo) = &step.undo {
            page.line(paint.dim(&format!("      back: {}", clean(undo))));
        }
    }
    page.blank();
}

fn heading(phase: Phase) -> &'static str {
    match phase {
        Phase::Ready(1) => "before: costs money, no downtime",
        Phase::Ready(_) => "then: the app is up on the high-performance database; costs money, no downtime",
        Phase::Frozen(1) => "the app is down: whatever fails here is taken back",
        Phase::Frozen(_) => "the app is down once more, for a moment: whatever fails here is taken back",
        Phase::Thaw(_) => "no way back from here but forward: the app comes up, and writes to its new database",
        Phase::Open => "after: the app is up on its new database",
    }
}

fn costs(page: &mut Page<'_>, plan: &Plan) {
    let estimate = &plan.estimate;
    page.line("time and money:".into());
    let by = match &estimate.measured_by {
        Some(file) => format!("as {file} has measured"),
        None => "which is assumed: a rehearsal measures it".into(),
    };
    page.item(&format!("{} a second are moved and compared, {by}", format_bytes(estimate.bytes_per_s)));
    if plan.kind == Kind::Migration {
        page.item(&format!(
            "downtime: about {}; taken back by itself after {}",
            format_duration_ms(estimate.downtime_s * 1000),
            format_duration_ms(plan.wishes.budget_s * 1000)
        ));
    }
    page.item(&format!(
        "from the first step to the last switch: about {}",
        format_duration_ms(estimate.whole_s * 1000)
    ));
    bill(page, "will bill", &estimate.cost);
    if let Some(cents_per_hour) = estimate.rates.get(&plan.wishes.final_plan).filter(|_| plan.kind == Kind::Migration) {
        let and = if plan.wishes.follower { ", and as much for its follower" } else { "" };
        let month = cents_per_hour * HOURS_PER_MONTH / 100.0;
        page.item(&format!("afterwards {} costs ${month:.2} a month{and}", plan.wishes.final_plan));
    }
    page.blank();
}

/// As Heroku counts.
const HOURS_PER_MONTH: f64 = 720.0;

/// Item by item, and together. What has no known price is named: it is not nothing.
fn bill(page: &mut Page<'_>, what: &str, cost: &Cost) {
    for item in &cost.items {
        let hours = format_duration_ms(item.seconds * 1000);
        page.item(&match (item.cents_per_hour, item.cents()) {
            (Some(rate), Some(cents)) => {
                format!("{}: ${:.2} an hour for {hours}: ${:.2}", item.what, rate / 100.0, cents / 100.0)
            }
            _ => format!("{}: {hours}, at a price that is not known here", item.what),
        });
    }
    let who = if cost.items.iter().any(|item| item.what.contains("machine")) { "Heroku and AWS" } else { "Heroku" };
    let what = format!("{who} {what} about");
    let (known, unknown) = (cost.known_cents(), cost.unknown());
    let sum = format!("${}.{:02}", known / 100, known % 100);
    page.item(&match (unknown.len(), cost.items.len()) {
        (0, _) => format!("{what} {sum} for what is made, beside what the app costs anyway"),
        (without, all) if without == all => format!("{what} a sum that is not known: nobody has said a price"),
        _ => format!("{what} {sum}, AND WHAT IS NOT KNOWN: {}", unknown.join(", ")),
    });
}

/// What a rehearsal says of the real run.
pub fn rehearsed(estimate: &Estimate, measured: &Measured, canvas: &Canvas) -> String {
    let mut page = Page::new(canvas);
    page.line(canvas.paint.bold("measured, and so expected of the real run:"));
    page.item(&format!(
        "copy {}, comparison {}; a follower had caught up after {}",
        format_duration_ms(measured.copy_ms),
        format_duration_ms(measured.verify_ms),
        format_duration_ms(measured.follow_ms),
    ));
    page.item(&format!(
        "downtime: about {}; from the first step to the last switch: about {}",
        format_duration_ms(estimate.downtime_s * 1000),
        format_duration_ms(estimate.whole_s * 1000),
    ));
    bill(&mut page, "will bill", &estimate.cost);
    page.line(format!("a new plan with `--rehearsal {}` holds these numbers", measured.by));
    page.finish()
}

/// How far a run is, and what it took.
pub fn migration(title: &str, report: &MigrationReport, (at_work, words): (bool, Words), canvas: &Canvas) -> String {
    let mut page = Page::new(canvas);
    let state = match (report.finished, &report.aborted, at_work) {
        (true, _, _) => "finished".to_owned(),
        (_, _, true) => "at work".to_owned(),
        (_, Some(why), _) => format!("taken back: {why}"),
        _ if report.elapsed_ms == 0 && report.steps.iter().all(|step| step.state == StepState::Open) => {
            "not begun".into()
        }
        _ => format!("stopped: go on with {}", words.resume),
    };
    page.line(canvas.paint.bold(&clean(&format!("{title}: {state}"))));
    page.blank();
    for (number, step) in (1..).zip(&report.steps) {
        let mark = match step.state {
            StepState::Done => canvas.glyphs.ok,
            StepState::Begun => canvas.glyphs.warning,
            StepState::Open => " ",
        };
        let took = if step.state == StepState::Open {
            String::new()
        } else {
            format!(" ({})", format_duration_ms(step.elapsed_ms))
        };
        let again = if step.attempts > 1 { format!(", {} attempts", step.attempts) } else { String::new() };
        page.marked(mark, &format!("{number:>2}. {}{took}{again}", clean(&step.title)));
    }
    page.blank();
    for window in &report.windows {
        let over = if window.over { "" } else { " and goes on: THE APP IS DOWN" };
        page.item(&format!(
            "downtime {} since {}: {}{over}",
            window.window,
            window.from,
            format_duration_ms(window.elapsed_ms)
        ));
    }
    if report.windows.len() > 1 {
        page.item(&format!("downtime in all: {}", format_duration_ms(report.downtime_ms)));
    }
    if let Some(moved) = &report.moved {
        page.item(&format!(
            "moved: {}, {} in {}: {:.2} GB/s",
            counted(moved.rows, "row"),
            format_bytes(moved.bytes),
            format_duration_ms(moved.elapsed_ms),
            moved.gb_per_s
        ));
    }
    if let Some(cost) = &report.cost {
        bill(&mut page, "billed", cost);
    }
    page.finish()
}
