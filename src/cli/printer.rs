//! The one door that output leaves through: standard output for results, standard error for the rest.
//!
//! Invariant: a write that fails (a closed pipe, a terminal that hung up) silences that stream and nothing else.
//! The run goes on. A result that was lost in another way (a full disk) is known at the end: [`Printer::lost`].

use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use indicatif::ProgressBar;
use rustix::termios::tcgetwinsize;

use super::environment::Environment;
use super::text::{Canvas, Glyphs, Paint, clean};

/// Columns where the terminal's width is not known.
const DEFAULT_COLUMNS: usize = 100;
const DEFAULT_ROWS: usize = 24;

pub struct Printer {
    out: Stream,
    err: Stream,
    glyphs: Glyphs,
    /// The bars on standard error, while there are any: other lines go above them.
    bars: Mutex<Option<ProgressBar>>,
}

struct Stream {
    dead: AtomicBool,
    /// Why what was written is lost, where nobody has chosen to read no more.
    lost: OnceLock<String>,
    terminal: bool,
    paint: Paint,
    columns: Option<usize>,
}

impl Stream {
    fn new(terminal: bool, colour: bool, columns: Option<usize>) -> Self {
        let paint = Paint { on: colour && terminal };
        Self { dead: AtomicBool::new(false), lost: OnceLock::new(), terminal, paint, columns }
    }

    /// Writes whole lines at once, so that lines of two threads never mix.
    fn write(&self, mut to: impl Write, text: &str) {
        if self.dead.load(Ordering::Relaxed) {
            return;
        }
        if let Err(error) = to.write_all(text.as_bytes()).and_then(|()| to.flush()) {
            self.dead.store(true, Ordering::Relaxed);
            if error.kind() != io::ErrorKind::BrokenPipe && !self.terminal {
                self.lost.get_or_init(|| error.to_string());
            }
        }
    }
}

impl Printer {
    pub fn new(environment: &Environment, colour: bool) -> Self {
        Self {
            out: Stream::new(io::stdout().is_terminal(), colour, environment.columns),
            err: Stream::new(io::stderr().is_terminal(), colour, environment.columns),
            glyphs: if environment.utf8 { Glyphs::UNICODE } else { Glyphs::ASCII },
            bars: Mutex::new(None),
        }
    }

    pub fn err_is_terminal(&self) -> bool {
        self.err.terminal
    }

    /// Nobody can read standard error any more.
    pub fn err_is_dead(&self) -> bool {
        self.err.dead.load(Ordering::Relaxed)
    }

    /// Why a result did not come to where standard output leads. A pipe that its reader has closed loses nothing that
    /// anybody wants.
    pub fn lost(&self) -> Option<&str> {
        self.out.lost.get().map(String::as_str)
    }

    pub fn out_canvas(&self) -> Canvas {
        self.canvas(&self.out, io::stdout())
    }

    pub fn err_canvas(&self) -> Canvas {
        self.canvas(&self.err, io::stderr())
    }

    fn canvas(&self, stream: &Stream, fd: impl AsFd) -> Canvas {
        let size = if stream.terminal { tcgetwinsize(fd).ok() } else { None };
        let size = size.filter(|size| size.ws_col > 0 && size.ws_row > 0);
        let columns = size.map(|size| usize::from(size.ws_col)).or(stream.columns).unwrap_or(DEFAULT_COLUMNS);
        let rows = size.map_or(DEFAULT_ROWS, |size| usize::from(size.ws_row));
        Canvas { columns, rows, glyphs: self.glyphs, paint: stream.paint }
    }

    /// A result, to standard output. Ends with a line break.
    pub fn out(&self, text: &str) {
        let text = with_line_break(text);
        self.above_bars(|| self.out.write(io::stdout().lock(), &text));
    }

    /// One line of NDJSON, to standard output.
    pub fn json(&self, line: &str) {
        self.out.write(io::stdout().lock(), &with_line_break(line));
    }

    /// Lines about the run, to standard error, above the bars.
    pub fn err(&self, text: &str) {
        let text = with_line_break(text);
        self.above_bars(|| self.err.write(io::stderr().lock(), &text));
    }

    /// Raw terminal bytes, to standard error: only for those who draw the bars.
    pub fn draw(&self, bytes: &str) {
        self.err.write(io::stderr().lock(), bytes);
    }

    pub fn warning(&self, message: &str) {
        self.err(&format!("{} {}", self.err.paint.warning("warning:"), indent_rest(&clean(message), "  ")));
    }

    pub fn note(&self, message: &str) {
        self.err(&format!("{} {}", self.err.paint.dim("note:"), indent_rest(&clean(message), "  ")));
    }

    pub fn attach_bars(&self, bars: ProgressBar) {
        *self.lock_bars() = Some(bars);
    }

    pub fn detach_bars(&self) {
        self.lock_bars().take();
    }

    /// After SIGHUP: a terminal that is gone refuses to tell its size. One that is still there goes on being used.
    pub fn drop_lost_terminals(&self) {
        for (stream, lost) in
            [(&self.out, tcgetwinsize(io::stdout()).is_err()), (&self.err, tcgetwinsize(io::stderr()).is_err())]
        {
            if stream.terminal && lost {
                stream.dead.store(true, Ordering::Relaxed);
            }
        }
    }

    fn lock_bars(&self) -> MutexGuard<'_, Option<ProgressBar>> {
        self.bars.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn above_bars(&self, write: impl FnOnce()) {
        let bars = self.lock_bars().clone();
        match bars {
            Some(bars) => bars.suspend(write),
            None => write(),
        }
    }
}

fn with_line_break(text: &str) -> String {
    if text.ends_with('\n') { text.into() } else { format!("{text}\n") }
}

/// Further lines of a message stand below its first, moved in.
pub fn indent_rest(text: &str, indent: &str) -> String {
    text.trim_end().replace('\n', &format!("\n{indent}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Refusing(io::ErrorKind);

    impl Write for Refusing {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(self.0.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_closed_pipe_loses_nothing_and_a_full_disk_does() {
        let lost = |kind, terminal| {
            let stream = Stream::new(terminal, false, None);
            stream.write(Refusing(kind), "the result");
            assert!(stream.dead.load(Ordering::Relaxed));
            stream.lost.get().is_some()
        };
        assert!(!lost(io::ErrorKind::BrokenPipe, false));
        assert!(lost(io::ErrorKind::StorageFull, false));
        assert!(!lost(io::ErrorKind::Other, true));
    }
}
