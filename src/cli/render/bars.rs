//! Bars on a terminal: [`frame`] draws them, indicatif keeps them in place below the other lines.

use std::io;
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle, TermLike};
use pgconvoy::event::Event;
use pgconvoy::model::{format_bytes, format_duration_ms, format_rate};

use super::frame::{frame, step_title};
use super::state::RunState;
use super::{Moment, Renderer};
use crate::cli::printer::Printer;
use crate::cli::settings::Detail;
use crate::cli::text::{clean, grouped};

const REDRAW_HZ: u8 = 20;
const REDRAW_EVERY: Duration = Duration::from_millis(100);

pub struct Bars {
    printer: Arc<Printer>,
    detail: Detail,
    bar: ProgressBar,
}

impl Bars {
    pub fn new(printer: Arc<Printer>, detail: Detail) -> Self {
        let terminal = Terminal::new(Arc::clone(&printer));
        let target = ProgressDrawTarget::term_like_with_hz(Box::new(terminal), REDRAW_HZ);
        let bar = ProgressBar::with_draw_target(None, target);
        // A template that is wrong would be so for every user: the default style is what is left then.
        if let Ok(style) = ProgressStyle::with_template("{msg}") {
            bar.set_style(style);
        }
        printer.attach_bars(bar.clone());
        Self { printer, detail, bar }
    }
}

impl Renderer for Bars {
    fn event(&mut self, event: &Event, state: &RunState, at: Moment) {
        match event {
            Event::StepStarted { number, of, title } => {
                let title = self.printer.err_canvas().paint.bold(&step_title(*number, *of, title));
                self.printer.err(&if *number > 1 { format!("\n{title}") } else { title });
            }
            Event::StepFinished { summary, .. } => {
                let canvas = self.printer.err_canvas();
                self.printer.err(&format!("  {} {}", canvas.paint.good(canvas.glyphs.ok), clean(summary)));
            }
            _ if self.detail < Detail::Verbose => {}
            Event::RelationFinished { oid, name, rows, bytes } => {
                let elapsed = state.finished(*oid, *bytes, at.since_start).elapsed;
                let elapsed_ms = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
                self.printer.err(&format!(
                    "{name}: {}, {} rows in {} ({})",
                    format_bytes(*bytes),
                    grouped(*rows),
                    format_duration_ms(elapsed_ms),
                    format_rate(*bytes, elapsed_ms)
                ));
            }
            Event::JobFinished { kind, object, elapsed_ms, .. } => {
                self.printer.err(&format!("{kind} {}: {}", clean(object), format_duration_ms(*elapsed_ms)));
            }
            _ => {}
        }
    }

    fn tick(&mut self, state: &RunState, at: Moment) {
        if self.printer.err_is_dead() {
            return;
        }
        if self.bar.is_finished() {
            // It was paused.
            self.bar.reset();
        }
        self.bar.set_message(frame(state, at.since_start, &self.printer.err_canvas()).join("\n"));
        self.bar.tick();
    }

    fn interval(&self) -> Duration {
        REDRAW_EVERY
    }

    fn pause(&mut self) {
        self.bar.finish_and_clear();
    }

    fn close(&mut self) {
        self.printer.detach_bars();
        self.bar.finish_and_clear();
    }
}

/// Standard error as indicatif wants it, behind the one door. Collects a picture and writes it at once.
struct Terminal {
    printer: Arc<Printer>,
    pending: Mutex<String>,
    /// Columns that the last picture was drawn for, 0 before the first.
    drawn_columns: AtomicU16,
}

impl std::fmt::Debug for Terminal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Terminal")
    }
}

impl Terminal {
    fn new(printer: Arc<Printer>) -> Self {
        Self { printer, pending: Mutex::new(String::new()), drawn_columns: AtomicU16::new(0) }
    }

    fn push(&self, bytes: &str) {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner).push_str(bytes);
    }

    fn movement(&self, n: usize, direction: char) {
        if n > 0 {
            self.push(&format!("\x1b[{n}{direction}"));
        }
    }

    /// indicatif fills its lines up to the last column and relies on the terminal's wrapping. A terminal that
    /// became narrower has broken them anew: the picture is higher now than when it was drawn. The cursor is where
    /// [`flush`](TermLike::flush) left it, at the beginning of the last line.
    fn rows_now(&self, rows_up: usize) -> usize {
        let drawn = usize::from(self.drawn_columns.load(Ordering::Relaxed));
        let now = usize::from(self.width());
        if drawn <= now { rows_up } else { rows_up * drawn / now.max(1) }
    }
}

impl TermLike for Terminal {
    fn width(&self) -> u16 {
        u16::try_from(self.printer.err_canvas().columns).unwrap_or(u16::MAX)
    }

    fn height(&self) -> u16 {
        u16::try_from(self.printer.err_canvas().rows).unwrap_or(u16::MAX)
    }

    fn move_cursor_up(&self, n: usize) -> io::Result<()> {
        let rows = self.rows_now(n);
        self.movement(rows, 'A');
        if rows > n {
            // Everything below is the old picture.
            self.push("\r\x1b[J");
            self.drawn_columns.store(self.width(), Ordering::Relaxed);
        }
        Ok(())
    }

    fn move_cursor_down(&self, n: usize) -> io::Result<()> {
        self.movement(n, 'B');
        Ok(())
    }

    fn move_cursor_right(&self, n: usize) -> io::Result<()> {
        self.movement(n, 'C');
        Ok(())
    }

    fn move_cursor_left(&self, n: usize) -> io::Result<()> {
        self.movement(n, 'D');
        Ok(())
    }

    fn write_line(&self, text: &str) -> io::Result<()> {
        self.push(text);
        self.push("\r\n");
        Ok(())
    }

    fn write_str(&self, text: &str) -> io::Result<()> {
        self.push(text);
        Ok(())
    }

    fn clear_line(&self) -> io::Result<()> {
        self.push("\r\x1b[2K");
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        let mut picture = std::mem::take(&mut *self.pending.lock().unwrap_or_else(PoisonError::into_inner));
        // At the right edge, the `^C` that a terminal echoes would wrap, and the picture be a line higher than known.
        picture.push('\r');
        self.printer.draw(&picture);
        self.drawn_columns.store(self.width(), Ordering::Relaxed);
        Ok(())
    }
}
