use std::io::{BufRead, IsTerminal};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use pgconvoy::event::{Event, EventSink};
use pgconvoy::runbook::{Answer, Confirm, Error, Gate, Result};
use tokio_util::sync::CancellationToken;

/// Between two looks at the time and at Ctrl-C.
const LOOK: Duration = Duration::from_millis(100);

/// Somebody who types a name: at a terminal, or once on the command line.
pub struct Typed<'a> {
    name: &'a str,
    is_given: bool,
    events: &'a EventSink,
    /// Lines of the terminal, which a thread of its own waits for.
    lines: Mutex<Option<Receiver<String>>>,
}

impl<'a> Typed<'a> {
    /// # Errors
    /// Another name was given.
    pub fn new(name: &'a str, given: Option<&str>, events: &'a EventSink) -> Result<Self> {
        match given {
            Some(given) if given != name => Err(Error::Usage(format!("--yes-i-mean {given}: this is about {name}"))),
            given => Ok(Self { name, is_given: given.is_some(), events, lines: Mutex::default() }),
        }
    }

    fn ask(&self, gate: &Gate, until: Option<Instant>, cancel: &CancellationToken) -> Answer {
        let question = format!("{}\nType {} to go on, `no` to stop:", gate.text, self.name);
        self.events.send(Event::Asking { question });
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        let lines = lines.get_or_insert_with(read);
        forget(lines);
        let answer = answer(lines, self.name, (until, cancel), |typed| {
            let question = format!("`{typed}` is not {}: type it, or `no` to stop", self.name);
            self.events.send(Event::Asking { question });
        });
        self.events.send(Event::Answered {});
        answer
    }
}

impl Confirm for Typed<'_> {
    fn confirm(&self, gate: &Gate) -> Result<Answer> {
        self.confirm_until(gate, None, &CancellationToken::new())
    }

    fn confirm_until(&self, gate: &Gate, until: Option<Instant>, cancel: &CancellationToken) -> Result<Answer> {
        if self.is_given {
            return Ok(Answer::Yes);
        }
        if !std::io::stdin().is_terminal() {
            return Ok(Answer::Hold);
        }
        Ok(tokio::task::block_in_place(|| self.ask(gate, until, cancel)))
    }
}

/// Lines, until there are no more. Nobody can stop who waits for a terminal: it is left behind.
fn read() -> Receiver<String> {
    let (sender, lines) = channel();
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(std::io::Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    lines
}

/// What was typed before it was asked for does not count.
fn forget(lines: &Receiver<String>) {
    while lines.try_recv().is_ok() {}
}

/// A slip is asked about again. Nobody waits past `until`.
fn answer(
    lines: &Receiver<String>,
    name: &str,
    (until, cancel): (Option<Instant>, &CancellationToken),
    slip: impl Fn(&str),
) -> Answer {
    loop {
        let left = until.map_or(LOOK, |until| until.saturating_duration_since(Instant::now()).min(LOOK));
        if left.is_zero() || cancel.is_cancelled() {
            return Answer::Hold;
        }
        match lines.recv_timeout(left).as_deref().map(str::trim) {
            Ok(typed) if typed == name => return Answer::Yes,
            Ok("no" | "stop") => return Answer::No,
            Ok(typed) => slip(typed),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return Answer::Hold,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    /// What is answered where these lines are typed, after one that nobody had asked for; and the slips.
    fn asked(typed: &[&str]) -> (Answer, u32) {
        let (sender, lines) = channel();
        sender.send("sphinx".into()).unwrap();
        forget(&lines);
        for line in typed {
            sender.send((*line).into()).unwrap();
        }
        // The terminal is gone.
        drop(sender);
        let slips = Cell::new(0);
        let answer = answer(&lines, "sphinx", (None, &CancellationToken::new()), |_| slips.set(slips.get() + 1));
        (answer, slips.get())
    }

    #[test]
    fn a_slip_is_asked_about_again_and_only_the_name_or_no_is_an_answer() {
        assert_eq!(asked(&["sphynx", "", " sphinx "]), (Answer::Yes, 2));
        assert_eq!(asked(&["yes", "no"]), (Answer::No, 1));
        assert_eq!(asked(&[]), (Answer::Hold, 0));
    }

    #[test]
    fn nobody_is_waited_for_without_limit() {
        // Nobody types, and nobody has gone.
        let (_sender, lines) = channel();
        let soon = Instant::now() + Duration::from_millis(200);
        assert_eq!(answer(&lines, "sphinx", (Some(soon), &CancellationToken::new()), |_| ()), Answer::Hold);
        assert!(Instant::now() >= soon);
        let cancel = CancellationToken::new();
        cancel.cancel();
        assert_eq!(answer(&lines, "sphinx", (None, &cancel), |_| ()), Answer::Hold);
    }
}
