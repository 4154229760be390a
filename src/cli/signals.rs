//! Ctrl-C asks the run to stop, a second one ends it. A lost terminal ends nothing.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use tokio_util::sync::CancellationToken;

use super::printer::Printer;

/// The exit code of an interrupted run.
pub const INTERRUPTED: u8 = 130;

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
            for signal in signals.forever() {
                if signal == SIGHUP {
                    printer.drop_lost_terminals();
                } else if asked.swap(true, Ordering::SeqCst) {
                    // The user asked twice: the servers roll back what is open.
                    std::process::exit(i32::from(INTERRUPTED));
                } else {
                    cancel.cancel();
                    printer.err(&format!("{stopping}; press Ctrl-C again to give up at once"));
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
