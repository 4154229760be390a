use std::io::{BufRead, IsTerminal};

use pgconvoy::event::{Event, EventSink};
use pgconvoy::runbook::{Answer, Confirm, Error, Gate, Result};

/// Somebody who types a name: at a terminal, or once on the command line.
pub struct Typed<'a> {
    name: &'a str,
    is_given: bool,
    events: &'a EventSink,
}

impl<'a> Typed<'a> {
    /// # Errors
    /// Another name was given.
    pub fn new(name: &'a str, given: Option<&str>, events: &'a EventSink) -> Result<Self> {
        match given {
            Some(given) if given != name => Err(Error::Usage(format!("--yes-i-mean {given}: this is about {name}"))),
            given => Ok(Self { name, is_given: given.is_some(), events }),
        }
    }
}

impl Confirm for Typed<'_> {
    fn confirm(&self, gate: &Gate) -> Result<Answer> {
        if self.is_given {
            return Ok(Answer::Yes);
        }
        if !std::io::stdin().is_terminal() {
            return Ok(Answer::Hold);
        }
        let message = format!("{}\nType {} to go on, anything else to stop:", gate.text, self.name);
        self.events.send(Event::Note { message });
        let mut line = String::new();
        let read = tokio::task::block_in_place(|| std::io::stdin().lock().read_line(&mut line));
        read.map_err(|error| Error::Internal(format!("the terminal: {error}")))?;
        Ok(if line.trim() == self.name { Answer::Yes } else { Answer::No })
    }
}
