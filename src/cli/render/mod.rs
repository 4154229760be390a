//! Shows a run while it goes on.
//!
//! The engine's events pass through a channel to one thread, which owns the state and draws: a terminal that is
//! stopped (Ctrl-S) or a slow pipe holds up the picture, never the run.

mod bars;
mod frame;
mod json;
mod lines;
mod state;

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, unbounded};
use pgconvoy::event::{Event, EventSink};
use pgconvoy::model::format_duration_ms;
use time::OffsetDateTime;
use time::format_description::BorrowedFormatItem;
use time::macros::format_description;

use super::args::ProgressMode;
use super::environment::Environment;
use super::printer::Printer;
use super::settings::{Detail, Display};
use state::RunState;

pub use json::record;

const RFC3339_MS: &[BorrowedFormatItem<'_>] =
    format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z");

/// When something happened: on the run's clock, and on the wall's.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    pub since_start: Duration,
    pub utc: OffsetDateTime,
}

impl Moment {
    pub fn since(start: Instant) -> Self {
        Self { since_start: start.elapsed(), utc: OffsetDateTime::now_utc() }
    }

    /// UTC with milliseconds: `2025-11-22T10:59:43.120Z`.
    pub fn rfc3339(self) -> String {
        // Only a year of five digits fails to format.
        self.utc.format(RFC3339_MS).unwrap_or_default()
    }
}

/// One way to show a run.
trait Renderer: Send {
    /// `state` has already taken the event in.
    fn event(&mut self, event: &Event, state: &RunState, at: Moment);
    /// Called every [`interval`](Self::interval).
    fn tick(&mut self, state: &RunState, at: Moment);
    fn interval(&self) -> Duration;
    /// Takes what is drawn away, until the next tick.
    fn pause(&mut self) {}
    /// Takes what is drawn away. Nothing is called after it.
    fn close(&mut self);
}

/// Shows nothing.
struct Nothing;

impl Renderer for Nothing {
    fn event(&mut self, _event: &Event, _state: &RunState, _at: Moment) {}
    fn tick(&mut self, _state: &RunState, _at: Moment) {}
    fn interval(&self) -> Duration {
        Duration::from_secs(1)
    }
    fn close(&mut self) {}
}

/// The mode that is meant by `auto` here and now.
pub fn resolve_mode(mode: ProgressMode, printer: &Printer, environment: &Environment) -> ProgressMode {
    match mode {
        ProgressMode::Auto if printer.err_is_terminal() && !environment.dumb_terminal => ProgressMode::Bars,
        // Bars that nothing can place would be a stream of control characters.
        ProgressMode::Bars if !printer.err_is_terminal() => ProgressMode::Lines,
        ProgressMode::Auto => ProgressMode::Lines,
        mode => mode,
    }
}

enum Message {
    Event(Box<Event>, Moment),
    Close,
}

/// A run that is being shown. Dropped without [`finish`](Self::finish), its thread ends by itself.
pub struct Progress {
    started: Instant,
    sender: Sender<Message>,
    thread: Option<JoinHandle<bool>>,
}

impl Progress {
    /// `display.progress` must be resolved: `auto` shows nothing.
    pub fn start(display: &Display, printer: &Arc<Printer>) -> std::io::Result<Self> {
        let started = Instant::now();
        let (sender, receiver) = unbounded();
        let listener = Listener {
            renderer: renderer(display, printer),
            state: RunState::default(),
            printer: Arc::clone(printer),
            says_messages: display.progress != ProgressMode::Json,
            says_notes: display.progress != ProgressMode::None && display.detail >= Detail::Normal,
            started,
            run_finished: false,
            is_asking: false,
        };
        let thread = std::thread::Builder::new().name("progress".into()).spawn(move || listener.listen(&receiver))?;
        Ok(Self { started, sender, thread: Some(thread) })
    }

    /// Where the engine sends its events. Never blocks; nothing is dropped.
    pub fn sink(&self) -> EventSink {
        let (sender, started) = (self.sender.clone(), self.started);
        EventSink::new(move |event| {
            let json = || serde_json::to_string(event).unwrap_or_default();
            tracing::debug!(target: "pgconvoy::event", "{}", json());
            // The thread is gone only after the end.
            let _ = sender.send(Message::Event(Box::new(event.clone()), Moment::since(started)));
        })
    }

    pub fn now(&self) -> Moment {
        Moment::since(self.started)
    }

    /// Draws what has come in, takes the picture away. Says whether a `run_finished` event was among it.
    pub fn finish(&mut self) -> bool {
        let _ = self.sender.send(Message::Close);
        // A thread that panicked has ended the process by the panic hook.
        self.thread.take().and_then(|thread| thread.join().ok()).unwrap_or(false)
    }
}

fn renderer(display: &Display, printer: &Arc<Printer>) -> Box<dyn Renderer> {
    let printer = Arc::clone(printer);
    match display.progress {
        ProgressMode::Bars => Box::new(bars::Bars::new(printer, display.detail)),
        ProgressMode::Lines => {
            let canvas = printer.err_canvas();
            Box::new(lines::Lines::new(Box::new(move |line| printer.err(line)), display.detail, canvas))
        }
        ProgressMode::Json => Box::new(json::Json::new(Box::new(move |line| printer.json(line)))),
        ProgressMode::Auto | ProgressMode::None => Box::new(Nothing),
    }
}

struct Listener {
    renderer: Box<dyn Renderer>,
    state: RunState,
    printer: Arc<Printer>,
    says_messages: bool,
    says_notes: bool,
    started: Instant,
    run_finished: bool,
    /// Somebody types: nothing is drawn.
    is_asking: bool,
}

impl Listener {
    fn listen(mut self, messages: &Receiver<Message>) -> bool {
        let interval = self.renderer.interval();
        let mut next_tick = Instant::now() + interval;
        loop {
            match messages.recv_deadline(next_tick) {
                Ok(Message::Event(event, at)) => self.event(&event, at),
                Ok(Message::Close) | Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => {}
            }
            // Also between events that follow each other without a pause.
            if Instant::now() >= next_tick {
                self.tick();
                next_tick = Instant::now() + interval;
            }
        }
        self.renderer.close();
        self.run_finished
    }

    fn tick(&mut self) {
        let at = Moment::since(self.started);
        self.state.sample(at.since_start);
        if !self.is_asking {
            self.renderer.tick(&self.state, at);
        }
    }

    fn event(&mut self, event: &Event, at: Moment) {
        self.state.apply(event, at.since_start);
        if matches!(event, Event::Planned { .. }) {
            self.state.sample(at.since_start);
        }
        self.run_finished |= matches!(event, Event::RunFinished { .. });
        match event {
            Event::Asking { .. } => self.is_asking = true,
            Event::Answered {} => self.is_asking = false,
            _ => {}
        }
        match event {
            Event::Warning { message } if self.says_messages => self.printer.warning(message),
            Event::Retrying { what, side, why, attempt, pause_ms, advice } if self.says_messages => {
                let advice = advice.as_ref().map(|advice| format!(" ({advice})")).unwrap_or_default();
                let pause = format_duration_ms(*pause_ms);
                self.printer.warning(&format!("{what}: {side}: {why}; attempt {attempt} in {pause}{advice}"));
            }
            Event::Note { message } if self.says_messages && self.says_notes => self.printer.note(message),
            // Also where notes are not wanted: an answer is waited for.
            Event::Asking { question } if self.says_messages => {
                self.renderer.pause();
                self.printer.note(question);
            }
            event => self.renderer.event(event, &self.state, at),
        }
    }
}

#[cfg(test)]
mod tests;
