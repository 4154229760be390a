//! Machines of EC2: against a stand-in that does what EC2 does when things go wrong, against moto where it can be had,
//! and over a real ssh.

#![allow(clippy::unwrap_used, reason = "tests")]

mod first_boot;
mod flow;
mod moto;
mod over_ssh;
mod sshd;
mod standin;

/// Says past the harness's capture that something is left out: nobody shall think it was tested.
fn say_not_tested(what: &str, why: &str) {
    use std::io::Write;
    let _ = std::io::stderr().write_all(format!("\n*** NOT TESTED: {what}: {why}\n").as_bytes());
}
