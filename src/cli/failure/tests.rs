use insta::assert_snapshot;
use pgconvoy::model::CtidRange;
use pgconvoy::pg::{self, ErrorKind, ServerError};

use super::*;
use crate::cli::text::{Glyphs, Paint};

const CANVAS: Canvas = Canvas { columns: 100, rows: 24, glyphs: Glyphs::UNICODE, paint: Paint { on: false } };

fn server_error() -> ServerError {
    ServerError {
        severity: "ERROR".into(),
        sqlstate: "23505".into(),
        message: "duplicate key value violates unique constraint \"orders_pkey\"".into(),
        detail: Some("Key (card)=(4111 1111 1111 1111) already exists.".into()),
        hint: Some("Look at the index.".into()),
        context: Some("COPY orders, line 7, column card: \"4111\"".into()),
    }
}

fn load_error() -> Error {
    let cause = pg::Error::new(Side::Target, ErrorKind::Server(server_error()))
        .with_statement("COPY \"public\".\"orders\"\n  (\"id\",\n   \"card\") FROM STDIN (FORMAT binary)");
    Error::new(cause)
        .on(&QualifiedName::new("public", "orders"), Some(CtidRange { start: Some(1000), end: Some(2000) }))
        .doing("loading rows")
        .hint("the target was not empty")
        .hint("Look at the index.")
}

#[test]
fn an_error_says_side_table_chunk_cause_statement_and_way_out() {
    let mut error = load_error();
    error.siblings = 3;
    assert_snapshot!(Failure::new(&error, false).render(&CANVAS));
}

#[test]
fn values_of_rows_do_not_show() {
    let failure = Failure::new(&load_error(), false);
    for text in [failure.render(&CANVAS), serde_json::to_string(&failure).unwrap()] {
        assert!(!text.contains("4111"), "{text}");
    }
}

#[test]
fn the_json_record_has_every_part() {
    let record = serde_json::to_string_pretty(&Failure::new(&load_error(), false)).unwrap();
    assert_snapshot!(record);
}

#[test]
fn a_statement_is_one_line_of_300_characters() {
    let cause = pg::Error::protocol(Side::Source, "?").with_statement(format!("SELECT\n{}", "x, ".repeat(500)));
    let statement = Failure::new(&cause.into(), false).statement.unwrap();
    assert!(statement.chars().count() <= 301 && statement.ends_with('…') && !statement.contains('\n'), "{statement}");
}

#[test]
fn no_password_gets_through() {
    let cause = pg::Error::config(
        Side::Source,
        "invalid port in postgres://app:hunter2@h:x/db\nand in host=h password='hunter2'",
        Some("try postgres://app:hunter2@h:5432/db"),
    )
    .with_statement("ALTER ROLE app PASSWORD 'hunter2'");
    let error = Error::new(cause).doing("connecting to postgres://app:hunter2@h").hint("not password=hunter2");
    let failure = Failure::new(&error, false);
    for text in [failure.render(&CANVAS), serde_json::to_string(&failure).unwrap(), format!("{failure:?}")] {
        assert!(!text.contains("hunter2"), "{text}");
    }
    assert_snapshot!(failure.render(&CANVAS));
}

#[test]
fn a_message_alone_is_the_headline() {
    let error = Error::new(Cause::Refused { side: Side::Target, message: "the database is not empty".into() })
        .hint("give --drop-target-objects to drop what stands in the way");
    assert_snapshot!(Failure::new(&error, false).render(&CANVAS));
}

#[test]
fn an_interruption_says_what_is_left() {
    let error = Error::new(Cause::Cancelled).doing("copying").hint("the target holds 3 of 12 tables");
    assert_snapshot!(Failure::new(&error, true).render(&CANVAS));
    assert_snapshot!(Failure::new(&Error::new(Cause::Cancelled), true).render(&CANVAS));
}

#[test]
fn what_breaks_because_of_an_interruption_exits_with_130() {
    for (cause, code) in [
        (Cause::Pg(pg::Error::protocol(Side::Source, "?")), 130),
        (Cause::Internal("a task was cancelled".into()), 130),
        (Cause::Cancelled, 130),
        (Cause::Difference("2 tables differ".into()), 1),
        (Cause::Refused { side: Side::Target, message: "not empty".into() }, 4),
    ] {
        assert_eq!(Failure::new(&Error::new(cause), true).exit_code, code);
    }
    assert_eq!(Failure::new(&load_error(), false).exit_code, 4);
}

#[test]
fn a_server_cannot_forge_lines_or_command_the_terminal() {
    let cause = pg::Error::protocol(Side::Source, "bad\x1b[2J\nerror: target: forged");
    let text = Failure::new(&cause.into(), false).render(&CANVAS);
    assert!(!text.contains('\x1b') && text.contains("\n  error: target: forged"), "{text}");
}
