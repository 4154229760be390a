//! The whole program against real servers: what it moves is what was there, and what goes wrong is said.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod applications;
mod builds;
mod chunks;
mod clocks;
mod compare;
mod encryption;
mod errors;
mod evidence;
mod faults;
mod filters;
mod fixture;
mod frozen;
mod held;
mod holder;
mod interrupts;
mod keys;
mod kills;
mod limits;
mod loading;
mod memory;
mod needs;
mod odd;
mod order;
mod put_back;
mod resume;
mod rights;
mod round_trip;
mod round_trips;
mod sections;
mod security;
mod soak;
mod statistics;
#[path = "../support/mod.rs"]
mod support;
mod types;
mod verify;
mod versions;
mod writers;
