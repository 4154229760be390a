//! Whole migrations, on a Heroku that is none: what goes wrong, and that the app ends migrated or as it was.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod anywhere;
mod cutover;
mod fixture;
mod guards;
mod heroku_cli;
mod kills;
mod pretended;
mod program;
mod real;
mod stillness;
#[path = "../support/mod.rs"]
mod support;
mod writer;
