//! Migrations as a whole: what is done before and after the rows move, in steps that can be shown, repeated and taken back.
//!
//! A plan is a list of [`Step`]s. The [`Runner`] takes them one after the other: it looks ([`Provider::observe`]), writes into
//! the [`Journal`] what it is about to do, does it, and looks again. What was done is never believed, neither after an
//! answer nor after a lost one, so that a run can be killed after any record and taken up again. Steps while the app is
//! down are taken back when one of them fails.
//!
//! [`heroku`] is the first provider; [`anywhere`] takes any two servers, and commands of the user's own.

pub mod anywhere;
mod back;
pub mod database;
mod elsewhere;
mod error;
pub mod example;
mod fleet;
pub mod heroku;
pub mod journal;
mod lock;
pub mod machines;
mod past;
mod report;
mod reported;
mod runner;
mod servers;
mod settings;
mod shell;
mod step;
mod stillness;
mod stop;
mod watchdog;

pub use error::{Error, Result};
pub use fleet::{Pretence, PretendedFleet};
pub use journal::Journal;
pub use lock::AppLock;
pub use past::Past;
pub use report::{MigrationReport, Moved, State as StepState, StepTime, Window};
pub use runner::{Ended, Policy, Runner};
pub use servers::Servers;
pub use step::{Answer, Confirm, Confirmed, Gate, Phase, Provider, Seen, Step, Words};

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut hex, byte| {
        // Writing into a String cannot fail.
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}
