use std::fmt::Write as _;

use pgconvoy::model::{format_bytes, format_duration_ms};
use pgconvoy::report::{BenchReport, BenchTask};

use super::super::bench::{self, FloorLine, headline};
use super::super::transfer::server_line;
use super::chart::{Chart, WIDTH};
use super::{CHART_STYLE, COLOURS, escape};

const PAGE_STYLE: &str = "\
*{box-sizing:border-box}body{margin:0;background:var(--ground);color:var(--ink);\
font:16px/1.5 system-ui,-apple-system,'Segoe UI',Roboto,sans-serif}\
main{max-width:60rem;margin:0 auto;padding:1.5rem 1rem 4rem}\
h1{font-size:1.5rem;line-height:1.25;margin:.5rem 0}h2{font-size:1.15rem;margin:0 0 .75rem}\
p{margin:.25rem 0}.dim{color:var(--dim)}\
section{background:var(--card);border:1px solid var(--line);border-radius:8px;padding:1rem;margin:1rem 0}\
.scroll{overflow-x:auto}table{border-collapse:collapse;font-variant-numeric:tabular-nums;font-size:.9rem;width:100%}\
th,td{padding:.3rem .6rem;text-align:right;white-space:nowrap;border-bottom:1px solid var(--line)}\
th:first-child,td:first-child{text-align:left;padding-left:0}th{font-weight:600;color:var(--dim)}\
tr.ours td{font-weight:600}svg.chart{display:block;width:100%;max-width:40rem;height:auto;margin:.25rem 0 1rem}\
ul{margin:.25rem 0;padding-left:1.2rem}code{font-size:.85rem;overflow-wrap:anywhere}\
.warning{border-color:var(--mark)}.warning h2{color:var(--mark)}";

/// A page that needs nothing from elsewhere.
pub fn render(report: &BenchReport) -> String {
    let [head, below] = headline(report);
    let mut body = format!("<h1>{}</h1>\n<p class=\"dim\">{}</p>\n", escape(&head), escape(&below));
    if !report.measurements.is_empty() && !report.optimised {
        let warning = "This pgconvoy was built without optimisations: its times and its CPU say little.";
        section(&mut body, "A debug build", &format!("<p>{warning}</p>"), "warning");
    }
    for task in BenchTask::ALL {
        task_section(&mut body, report, task);
    }
    list(&mut body, "pgconvoy against the others", &bench::ratios(report));
    list(&mut body, "pgconvoy's own costs", &bench::costs(report));
    floor_section(&mut body, report);
    list(&mut body, "Not measured", &report.missing);
    list(&mut body, "Good to know", &report.notes);
    circumstances(&mut body, report);
    document(&head, &body)
}

/// In the place of a page where nothing was measured.
pub fn failed(message: &str) -> String {
    let body = format!("<h1>The bench failed</h1>\n<p>{}</p>\n", escape(message).replace('\n', "<br>"));
    document("The bench failed", &body)
}

fn document(title: &str, body: &str) -> String {
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>pgconvoy bench: {}</title>\n<style>{COLOURS}{PAGE_STYLE}{CHART_STYLE}</style>\n</head>\n\
         <body>\n<main>\n{body}</main>\n</body>\n</html>\n",
        escape(title)
    )
}

fn section(body: &mut String, title: &str, content: &str, class: &str) {
    let class = if class.is_empty() { String::new() } else { format!(" class=\"{class}\"") };
    let _ = writeln!(body, "<section{class}>\n<h2>{}</h2>\n{content}\n</section>", escape(title));
}

fn list(body: &mut String, title: &str, entries: &[String]) {
    if entries.is_empty() {
        return;
    }
    let entries: Vec<String> = entries.iter().map(|entry| escape(entry)).collect();
    section(body, title, &items(&entries), "");
}

/// Of what is HTML already.
fn items(entries: &[String]) -> String {
    format!("<ul>\n<li>{}</li>\n</ul>", entries.join("</li>\n<li>"))
}

fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    // A column without a single value says nothing.
    let kept: Vec<usize> = (0..head.len()).filter(|&c| rows.iter().any(|row| !row[c].is_empty())).collect();
    let mut html = String::from("<div class=\"scroll\"><table>\n<thead><tr>");
    for &c in &kept {
        let _ = write!(html, "<th scope=\"col\">{}</th>", escape(head[c]));
    }
    html.push_str("</tr></thead>\n<tbody>\n");
    for row in rows {
        html.push_str(if row[0].starts_with("pgconvoy") { "<tr class=\"ours\">" } else { "<tr>" });
        for &c in &kept {
            let _ = write!(html, "<td>{}</td>", escape(&row[c]));
        }
        html.push_str("</tr>\n");
    }
    html + "</tbody></table></div>"
}

fn task_section(body: &mut String, report: &BenchReport, task: BenchTask) {
    let rows = bench::rows(report, task);
    if rows.is_empty() {
        return;
    }
    let chart = Chart::of(report, task).map_or_else(String::new, |chart| {
        let height = chart.height();
        format!(
            "<svg class=\"chart\" viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" aria-label=\"{}\">{}</svg>\n",
            escape(&chart.title()),
            chart.body()
        )
    });
    let head: Vec<&str> =
        std::iter::once("tool").chain(bench::COLUMNS.iter().skip(1).map(|(title, _)| *title)).collect();
    let commands = report.measurements.iter().filter(|m| m.task == task);
    let commands: Vec<String> =
        commands.map(|m| format!("{}: <code>{}</code>", escape(&m.tool), escape(&m.command))).collect();
    let content = format!("{chart}{}\n<div class=\"dim\">{}</div>", table(&head, &rows), items(&commands));
    let mut title = task.to_string();
    title[..1].make_ascii_uppercase();
    section(body, &title, &content, "");
}

fn floor_section(body: &mut String, report: &BenchReport) {
    let Some(floor) = &report.floor else { return };
    let rows: Vec<Vec<String>> = bench::floor_lines(floor)
        .into_iter()
        .map(|FloorLine { what, cpu_ms }| vec![what, format_duration_ms(cpu_ms)])
        .collect();
    let about = "CPU time that the servers need for the same statements alone, one after the other on an idle machine. \
                 A tool's time divided by this, spread over all cores, says how close it comes: 1 is the floor.";
    let content = format!("<p class=\"dim\">{about}</p>\n{}", table(&["statements", "CPU"], &rows));
    section(body, "The floor", &content, "");
    list(body, "About the floor", &floor.notes);
}

fn circumstances(body: &mut String, report: &BenchReport) {
    let mut lines: Vec<String> = report.servers.iter().map(server_line).collect();
    lines.extend(report.tools.iter().cloned());
    lines.push(format!("pgconvoy {}", report.pgconvoy_version));
    lines.push(format!(
        "{} with {} of memory, shared by the tools and whatever runs on this machine",
        bench::cores(report),
        format_bytes(report.memory_bytes)
    ));
    lines.push(format!("begun {}, took {}", report.started_at, format_duration_ms(report.elapsed_ms)));
    lines.extend(report.settings.iter().cloned());
    list(body, "Machine, servers, programs", &lines);
}
