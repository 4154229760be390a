//! Whole migrations, on a Heroku that is none: what goes wrong, and that the app ends migrated or as it was.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod anywhere;
mod cutover;
mod fixture;
mod guards;
mod heroku_cli;
mod kills;
mod machine;
mod on_a_machine;
mod orphans;
mod pretended;
mod program;
mod real;
#[path = "../ec2/sshd.rs"]
mod sshd;
#[allow(dead_code, reason = "made for the tests of machines, of which a part is used here")]
#[path = "../ec2/standin.rs"]
mod standin;
mod stillness;
#[path = "../support/mod.rs"]
mod support;
mod target;
mod told;
mod writer;

/// Says past the harness's capture that something is left out: nobody shall think it was tested.
fn say_not_tested(what: &str, why: &str) {
    use std::io::Write;
    let _ = std::io::stderr().write_all(format!("\n*** NOT TESTED: {what}: {why}\n").as_bytes());
}
