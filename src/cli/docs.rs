//! `docs/CLI.md` is the help texts themselves. This test compares, or writes it anew:
//! `PGCONVOY_UPDATE_DOCS=1 cargo test --bin pgconvoy docs`.

use clap::CommandFactory;

use super::args::Cli;

const PATH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/CLI.md");

fn generated() -> String {
    let mut root = Cli::command().term_width(100);
    root.build();
    let names: Vec<String> = root.get_subcommands().map(|c| c.get_name().to_string()).collect();
    let mut page = include_str!("docs_preface.md").to_string();
    page.push_str(&section("pgconvoy", &mut root));
    for name in names {
        if let Some(command) = root.find_subcommand_mut(&name) {
            page.push_str(&section(&format!("pgconvoy {name}"), command));
            for below in command.get_subcommands_mut() {
                page.push_str(&section(&format!("pgconvoy {name} {}", below.get_name()), below));
            }
        }
    }
    page
}

fn section(title: &str, command: &mut clap::Command) -> String {
    let help = command.render_long_help().to_string();
    let help: Vec<&str> = help.lines().map(str::trim_end).collect();
    format!("\n## {title}\n\n```text\n{}\n```\n", help.join("\n").trim_end())
}

#[test]
fn the_page_is_what_the_program_says() {
    let generated = generated();
    if std::env::var_os("PGCONVOY_UPDATE_DOCS").is_some() {
        std::fs::write(PATH, &generated).unwrap();
    }
    let written = std::fs::read_to_string(PATH).unwrap_or_default();
    assert!(
        written == generated,
        "docs/CLI.md is not what the program says; write it anew with\n\
         PGCONVOY_UPDATE_DOCS=1 cargo test --bin pgconvoy docs"
    );
}
