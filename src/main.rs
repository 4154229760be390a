//! The command line: arguments in, options out to the engine, events and reports back for people and scripts.

mod cli;

fn main() -> std::process::ExitCode {
    cli::main()
}
