//! Ctrl-C asks the run to stop, one more after a moment ends it. A lost terminal ends nothing.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use tokio_util::sync::CancellationToken;

use super::printer::Printer;

/// The exit code of an interrupted run.
pub const INTERRUPTED: u8 = 130;

/// One press of Ctrl-C may arrive several times: from the terminal, which signals the whole group, and again from
/// `timeout`, npm, or whoever else started the program and passes signals on. What follows so closely is the same wish.
const SAME_WISH: Duration = Duration::from_millis(500);

/// Listens on a thread of its own: it answers even while every worker is busy.
pub struct Interrupt {
    pub cancel: CancellationToken,
    asked: Arc<AtomicBool>,
}

impl Interrupt {
    /// # Errors
    /// The signals cannot be caught, or no thread can be started.
    pub fn listen(printer: Arc<Printer>, stopping: &'static str) -> io::Result<Self> {
        let interrupt = Self { cancel: CancellationToken::new(), asked: Arc::new(AtomicBool::new(false)) };
        let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP])?;
        let (cancel, asked) = (interrupt.cancel.clone(), Arc::clone(&interrupt.asked));
        std::thread::Builder::new().name("signals".into()).spawn(move || {
            let mut first: Option<Instant> = None;
            for signal in signals.forever() {
                if signal == SIGHUP {
                    printer.drop_lost_terminals();
                } else if let Some(first) = first {
                    if first.elapsed() > SAME_WISH {
                        // The user asked twice: the servers roll back what is open.
                        std::process::exit(i32::from(INTERRUPTED));
                    }
                } else {
                    first = Some(Instant::now());
                    asked.store(true, Ordering::SeqCst);
                    cancel.cancel();
                    let printer = Arc::clone(&printer);
                    // A terminal that is stopped (Ctrl-S) blocks who writes: that must not be the one who listens.
                    std::thread::spawn(move || {
                        printer.err(&format!("{stopping}; press Ctrl-C again to give up at once"));
                    });
                }
            }
        })?;
        Ok(interrupt)
    }

    /// Whether the user has asked to stop.
    pub fn was_asked(&self) -> bool {
        self.asked.load(Ordering::SeqCst)
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};
    use std::process::{Child, ChildStderr, Command, Stdio};
    use std::time::Duration;

    use super::*;
    use crate::cli::environment::Environment;

    /// This test binary again, as a run that lasts until it is stopped.
    fn run() -> (Child, BufReader<ChildStderr>) {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "cli::signals::tests::child", "--nocapture"])
            .env("PGCONVOY_TEST_CHILD", "signals")
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap());
        assert_eq!(next(&mut lines), "listening");
        (child, lines)
    }

    fn next(lines: &mut BufReader<ChildStderr>) -> String {
        let mut line = String::new();
        lines.read_line(&mut line).unwrap();
        line.trim_end().to_string()
    }

    fn send(child: &Child, signal: &str) {
        let status = Command::new("kill").args(["-s", signal, &child.id().to_string()]).status().unwrap();
        assert!(status.success());
    }

    #[test]
    fn child() {
        if std::env::var_os("PGCONVOY_TEST_CHILD").is_none_or(|v| v != "signals") {
            return;
        }
        let printer = Arc::new(Printer::new(&Environment::default(), false));
        let interrupt = Interrupt::listen(Arc::clone(&printer), "stopping").unwrap();
        printer.err("listening");
        while !interrupt.cancel.is_cancelled() {
            std::thread::sleep(Duration::from_millis(5));
        }
        assert!(interrupt.was_asked());
        printer.err("cancelled");
        // Longer than the test waits: only the second signal ends it in time.
        std::thread::sleep(Duration::from_secs(60));
    }

    #[test]
    fn the_first_signal_cancels_and_the_second_exits_with_130() {
        for (first, second) in [("INT", "INT"), ("TERM", "INT")] {
            let (mut child, mut lines) = run();
            send(&child, first);
            let mut said = [next(&mut lines), next(&mut lines)];
            said.sort();
            assert_eq!(said, ["cancelled", "stopping; press Ctrl-C again to give up at once"]);
            std::thread::sleep(SAME_WISH + Duration::from_millis(50));
            send(&child, second);
            assert_eq!(child.wait().unwrap().code(), Some(130));
        }
    }

    /// As `timeout` and npm do: they pass on what the terminal has sent to all of them already.
    #[test]
    fn what_is_passed_on_twice_is_asked_once() {
        let (mut child, mut lines) = run();
        let pid = rustix::process::Pid::from_child(&child);
        // Two of a kind may arrive as one.
        for signal in [rustix::process::Signal::INT, rustix::process::Signal::TERM] {
            rustix::process::kill_process(pid, signal).unwrap();
        }
        let mut said = [next(&mut lines), next(&mut lines)];
        said.sort();
        assert_eq!(said, ["cancelled", "stopping; press Ctrl-C again to give up at once"]);
        assert!(child.try_wait().unwrap().is_none());
        std::thread::sleep(SAME_WISH + Duration::from_millis(50));
        send(&child, "TERM");
        assert_eq!(child.wait().unwrap().code(), Some(130));
    }

    #[test]
    fn a_hangup_stops_nothing() {
        let (mut child, mut lines) = run();
        send(&child, "HUP");
        std::thread::sleep(Duration::from_millis(200));
        assert!(child.try_wait().unwrap().is_none());
        send(&child, "INT");
        assert!(!next(&mut lines).is_empty());
        std::thread::sleep(SAME_WISH + Duration::from_millis(50));
        send(&child, "INT");
        assert_eq!(child.wait().unwrap().code(), Some(130));
    }
}
