use std::fmt::Write as _;

use pgconvoy::report::{BenchReport, BenchTask};

use super::super::seconds;
use super::escape;

/// Narrow, so that text stays readable where a telephone scales it.
pub(super) const WIDTH: u32 = 520;
/// What a bar leaves for the seconds beside it.
const VALUE_WIDTH: u32 = 76;
const ROW_HEIGHT: u32 = 42;
const BAR_HEIGHT: u32 = 14;

/// Everybody's time at one task, as bars from zero, with the floor as a line through them.
pub(super) struct Chart {
    task: BenchTask,
    bars: Vec<Bar>,
    floor_ms: Option<f64>,
}

struct Bar {
    name: String,
    median_ms: u64,
    min_ms: u64,
    max_ms: u64,
    times_the_floor: Option<f64>,
    is_ours: bool,
}

impl Chart {
    /// `None` where nobody has come to the end of the task.
    pub fn of(report: &BenchReport, task: BenchTask) -> Option<Self> {
        let bars: Vec<Bar> = report
            .measurements
            .iter()
            .filter(|m| m.task == task)
            .filter_map(|m| {
                let time = m.spread(|run| Some(run.elapsed_ms))?;
                Some(Bar {
                    name: m.tool.clone(),
                    median_ms: time.median,
                    min_ms: time.min,
                    max_ms: time.max,
                    times_the_floor: report.times_the_floor(m),
                    is_ours: m.tool.starts_with("pgconvoy"),
                })
            })
            .collect();
        let floor_ms = report.floor.as_ref().and_then(|floor| floor.wall_ms(task, report.cores));
        (!bars.is_empty()).then_some(Self { task, bars, floor_ms })
    }

    pub fn title(&self) -> String {
        format!("{}, seconds", self.task)
    }

    pub fn height(&self) -> u32 {
        let rows = u32::try_from(self.bars.len()).unwrap_or(0) * ROW_HEIGHT;
        rows + if self.floor_ms.is_some() { 20 } else { 6 }
    }

    /// What stands within an `svg` or a `g` of [`WIDTH`] and [`Self::height`].
    #[expect(clippy::cast_precision_loss, reason = "a picture")]
    pub fn body(&self) -> String {
        let longest = self.bars.iter().map(|bar| bar.max_ms as f64).fold(self.floor_ms.unwrap_or(0.0), f64::max);
        let scale = f64::from(WIDTH - VALUE_WIDTH) / longest.max(1.0);
        let mut svg = String::new();
        for (n, bar) in (0..).zip(&self.bars) {
            bar.draw(&mut svg, n * ROW_HEIGHT, scale);
        }
        if let Some(floor_ms) = self.floor_ms {
            let (x, bottom) = (floor_ms * scale, self.height() - 16);
            // The text keeps to that side of the line where there is room.
            let (anchor, at) = if x > f64::from(WIDTH) / 2.0 { ("end", x - 5.0) } else { ("start", x + 5.0) };
            let _ = write!(
                svg,
                r#"<line class="floor" x1="{x:.1}" x2="{x:.1}" y1="20" y2="{}"/><text class="floor-text" text-anchor="{anchor}" x="{at:.1}" y="{}">floor: the servers' CPU time alone, {:.1} s</text>"#,
                bottom + 6,
                bottom + 10,
                floor_ms / 1000.0
            );
        }
        svg
    }
}

impl Bar {
    #[expect(clippy::cast_precision_loss, reason = "a picture")]
    fn draw(&self, svg: &mut String, top: u32, scale: f64) {
        let length = |ms: u64| ms as f64 * scale;
        let (kind, name) = if self.is_ours { ("ours", "name-ours") } else { ("theirs", "") };
        let bar_top = top + 20;
        let middle = bar_top + BAR_HEIGHT / 2;
        let _ = write!(svg, r#"<text class="{name}" x="0" y="{}">{}</text>"#, top + 15, escape(&self.name));
        let _ = write!(
            svg,
            r#"<rect class="{kind}" x="0" y="{bar_top}" width="{:.1}" height="{BAR_HEIGHT}" rx="2"/>"#,
            length(self.median_ms).max(1.0)
        );
        if self.max_ms > self.min_ms {
            let (from, to) = (length(self.min_ms), length(self.max_ms));
            let _ = write!(svg, r#"<line class="spread" x1="{from:.1}" x2="{to:.1}" y1="{middle}" y2="{middle}"/>"#);
        }
        let _ = write!(
            svg,
            r#"<text x="{:.1}" y="{}">{}</text>"#,
            length(self.max_ms) + 6.0,
            bar_top + 12,
            seconds(self.median_ms)
        );
        if let Some(times) = self.times_the_floor {
            let y = top + 15;
            let _ = write!(svg, r#"<text class="dim" text-anchor="end" x="{WIDTH}" y="{y}">{times:.2} × floor</text>"#);
        }
    }
}
