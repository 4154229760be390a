//! The report of a bench for browsers and documents: one page, one picture. Both stand alone and follow the reader's
//! light or dark scheme.

mod chart;
mod page;

use std::fmt::Write as _;

use pgconvoy::report::{BenchReport, BenchTask};

use super::bench::headline;
use chart::{Chart, WIDTH};
pub use page::{failed as failed_page, render as page};
use pgconvoy::model::redact;

/// Colours of both schemes, for the page and the picture. Every pair of text and ground has a contrast of 4.5 or more.
const COLOURS: &str = "\
:root{--ground:#fbfbfd;--card:#ffffff;--ink:#1b1f27;--dim:#5b6472;--line:#d9dde4;--ours:#0b6e99;--theirs:#9aa5b4;\
--mark:#a3430f;color-scheme:light dark}\
@media (prefers-color-scheme:dark){:root{--ground:#12151b;--card:#1a1f28;--ink:#e8ebf0;--dim:#a0a9b8;--line:#343c4a;\
--ours:#4cb4de;--theirs:#687487;--mark:#f0935b}}";

/// Of the parts of a chart.
const CHART_STYLE: &str = "\
.chart text{font-family:system-ui,-apple-system,'Segoe UI',Roboto,sans-serif;font-size:14px;fill:var(--ink)}\
.chart .dim{fill:var(--dim);font-size:12px}.chart .head{font-size:16px;font-weight:600}\
.chart .ours{fill:var(--ours)}.chart .theirs{fill:var(--theirs)}.chart .name-ours{font-weight:600}\
.chart .spread{stroke:var(--ink);stroke-width:1.5}.chart .floor{stroke:var(--mark);stroke-width:1.5;stroke-dasharray:4 3}\
.chart .floor-text{fill:var(--mark);font-size:12px}";

/// Text as it may stand in HTML and SVG, also within an attribute.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in redact(text).chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            // XML has no other control characters.
            c if c.is_control() && !matches!(c, '\n' | '\t') => escaped.push('\u{fffd}'),
            c => escaped.push(c),
        }
    }
    escaped
}

const MARGIN: u32 = 24;

/// All tasks in one SVG file, for a README.
pub fn picture(report: &BenchReport) -> String {
    let charts: Vec<Chart> = BenchTask::ALL.into_iter().filter_map(|task| Chart::of(report, task)).collect();
    let mut body = String::new();
    let mut y = MARGIN + 20;
    let [what, how] = headline(report);
    // A picture is too narrow for all of it in one line.
    let (shape, size) = what.split_once(": ").unwrap_or(("the source", &what));
    let _ = writeln!(body, r#"<text class="head" x="{MARGIN}" y="{y}">{}</text>"#, escape(shape));
    for line in [size, &how] {
        y += 18;
        let _ = writeln!(body, r#"<text class="dim" x="{MARGIN}" y="{y}">{}</text>"#, escape(line));
    }
    y += 16;
    for chart in &charts {
        y += 14;
        let _ = writeln!(body, r#"<text class="head" x="{MARGIN}" y="{}">{}</text>"#, y + 14, chart.title());
        let _ = writeln!(body, r#"<g transform="translate({MARGIN} {})">{}</g>"#, y + 22, chart.body());
        y += 22 + chart.height();
    }
    framed(&body, y + MARGIN)
}

/// In the place of a picture where there is nothing to draw.
pub fn failed_picture(message: &str) -> String {
    let lines: Vec<String> = message.lines().map(escape).collect();
    let line = |(n, line): (usize, &String)| format!("<text x=\"{MARGIN}\" y=\"{}\">{line}</text>\n", 68 + n * 18);
    let lines: String = lines.iter().enumerate().map(line).collect();
    let height = 100 + 18 * u32::try_from(message.lines().count()).unwrap_or(1);
    framed(&format!("<text class=\"head\" x=\"{MARGIN}\" y=\"44\">the bench failed</text>\n{lines}"), height)
}

fn framed(body: &str, height: u32) -> String {
    let width = WIDTH + 2 * MARGIN;
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" class=\"chart\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" \
         height=\"{height}\" role=\"img\" aria-label=\"pgconvoy bench\">\n<style>{COLOURS}{CHART_STYLE}</style>\n\
         <rect width=\"{width}\" height=\"{height}\" rx=\"8\" fill=\"var(--card)\"/>\n{body}</svg>\n"
    )
}

#[cfg(test)]
mod tests;
