use clap::CommandFactory;
use clap::error::ErrorKind;

use super::*;

fn parse(line: &str) -> Result<Cli, clap::Error> {
    Cli::try_parse_from(std::iter::once("pgconvoy").chain(line.split_whitespace()))
}

#[test]
fn the_definition_is_sound() {
    Cli::command().debug_assert();
}

#[test]
fn what_a_user_writes_is_understood() {
    for line in [
        "copy --source a --target b",
        "copy",
        "copy -j 1 --chunk-size 256MB -n s -N t -t a.* -T b.? --exclude-table-data c",
        "copy --schema-only -O -x --no-analyze --drop-target-objects --frozen-source --pg-dump /usr/bin/pg_dump",
        "-q copy",
        "copy -v --no-color --trace t --report r --progress json",
        "dump archive --zstd-level 19",
        "dump --source a archive",
        "restore archive --target b --data-only",
        "verify --archive archive --target b",
        "verify --source a --target b -t x",
        "check archive -j 2",
        "inspect archive --json",
        "preflight --source a",
        "bench --generate mixed --size 3GB",
        "bench --generate many --tables 500",
        "demo --scale 2.5 --from 9.6 --to 18 --keep",
    ] {
        assert!(parse(line).is_ok(), "{line}: {}", parse(line).unwrap_err());
    }
}

#[test]
fn nonsense_is_a_usage_error() {
    for (line, kind) in [
        ("", ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand),
        ("fly", ErrorKind::InvalidSubcommand),
        ("copy extra", ErrorKind::UnknownArgument),
        ("copy --jobs", ErrorKind::InvalidValue),
        ("copy -j 0", ErrorKind::ValueValidation),
        ("copy -j -1", ErrorKind::UnknownArgument),
        ("copy -j 513", ErrorKind::ValueValidation),
        ("copy -j many", ErrorKind::ValueValidation),
        ("copy --chunk-size 1kB", ErrorKind::ValueValidation),
        ("copy --chunk-size big", ErrorKind::ValueValidation),
        ("copy --schema-only --data-only", ErrorKind::ArgumentConflict),
        ("copy -q -v", ErrorKind::ArgumentConflict),
        ("copy --source a --source b", ErrorKind::ArgumentConflict),
        ("copy --source=", ErrorKind::ValueValidation),
        ("copy -n=", ErrorKind::InvalidValue),
        ("copy --progress loud", ErrorKind::InvalidValue),
        ("copy --zstd-level 3", ErrorKind::UnknownArgument),
        ("dump", ErrorKind::MissingRequiredArgument),
        ("dump a --zstd-level 0", ErrorKind::ValueValidation),
        ("dump a --zstd-level 20", ErrorKind::ValueValidation),
        ("dump a --target b", ErrorKind::UnknownArgument),
        ("dump a b", ErrorKind::UnknownArgument),
        ("restore --target b", ErrorKind::MissingRequiredArgument),
        ("restore a -t x", ErrorKind::UnknownArgument),
        ("verify --source a --archive b", ErrorKind::ArgumentConflict),
        ("check", ErrorKind::MissingRequiredArgument),
        ("inspect a --progress json", ErrorKind::UnknownArgument),
        ("bench --size", ErrorKind::InvalidValue),
        ("bench --size -3GB", ErrorKind::UnknownArgument),
        ("bench --generate huge", ErrorKind::InvalidValue),
        ("bench --size 1GB --tables 5", ErrorKind::ArgumentConflict),
        ("demo --scale 0", ErrorKind::ValueValidation),
        ("demo --scale NaN", ErrorKind::ValueValidation),
        ("demo --from 9", ErrorKind::ValueValidation),
        ("demo --from fifteen", ErrorKind::ValueValidation),
        ("heroku plan a --still-for 0s", ErrorKind::ValueValidation),
        ("heroku plan a --hold-time 5000d", ErrorKind::ValueValidation),
        ("migrate j --freeze a --thaw b --switch c --still-for 0s", ErrorKind::ValueValidation),
        ("migrate j --freeze a --thaw b --switch c --command-limit 0s", ErrorKind::ValueValidation),
    ] {
        assert_eq!(parse(line).unwrap_err().kind(), kind, "{line}");
    }
}

#[test]
fn a_connection_string_does_not_print() {
    let cli = parse("copy --source postgres://u:hunter2@h --target host=h").unwrap();
    assert!(!format!("{cli:?}").contains("hunter2"));
}
