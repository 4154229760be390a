use clap::Parser;

use super::*;

fn resolved(line: &str, environment: &Environment) -> Result<Settings, clap::Error> {
    let cli = Cli::try_parse_from(std::iter::once("pgconvoy").chain(line.split_whitespace())).unwrap();
    resolve(cli, environment)
}

fn settings(line: &str) -> Settings {
    resolved(line, &Environment::default()).unwrap()
}

#[test]
fn copy_reaches_the_engine_as_written() {
    let line = "copy --source a --target b -j 3 --chunk-size 1MiB -n s -N t -t u -T v --exclude-table-data w \
                --data-only -O --no-analyze --frozen-source --pg-dump /p";
    let Task::Copy(options) = settings(line).task else { panic!() };
    assert_eq!(options.source.server.conninfo.as_deref(), Some("a"));
    assert_eq!(options.target.server.conninfo.as_deref(), Some("b"));
    assert_eq!((options.jobs, options.contents), (3, Contents::DataOnly));
    assert_eq!(options.source.chunk_bytes, Some(1 << 20));
    assert!(options.source.frozen_source);
    assert_eq!(options.source.pg_dump, Some(PathBuf::from("/p")));
    let Filters { include_schemas, exclude_schemas, include_tables, exclude_tables, exclude_table_data, .. } =
        options.source.filters;
    let patterns = [include_schemas, exclude_schemas, include_tables, exclude_tables, exclude_table_data].concat();
    assert_eq!(patterns, ["s", "t", "u", "v", "w"]);
    let target = options.target;
    assert!(target.no_owner && !target.no_privileges && !target.drop_target_objects);
    assert_eq!((target.statistics, options.source.statistics), (Statistics::None, Statistics::None));
}

#[test]
fn conditions_and_filter_files_reach_the_engine() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(
        &file,
        "# what moves\n\ninclude table  sales.*  # all\nexclude table_data \"A #b\"\nexclude\ttable \"two\nlines\"\n\
         include extension hstore\nexclude schema x",
    )
    .unwrap();
    let path = file.path().to_str().unwrap();
    let words = ["pgconvoy", "verify", "--source", "a", "--filter", path, "--where", "\"a=b\".c=x = 1", "-t", "first"];
    let Task::Verify(options) = resolve(Cli::try_parse_from(words).unwrap(), &Environment::default()).unwrap().task
    else {
        panic!()
    };
    let Filters { include_tables, exclude_tables, exclude_table_data, exclude_schemas, conditions, .. } =
        options.filters;
    assert_eq!(include_tables, ["first", "sales.*"]);
    assert_eq!((exclude_tables, exclude_table_data), (vec!["\"two\nlines\"".into()], vec!["\"A #b\"".into()]));
    assert_eq!(exclude_schemas, ["x"]);
    let wanted = RowCondition { table_pattern: "\"a=b\".c".into(), condition: "x = 1".into() };
    assert_eq!((conditions, options.filters.include_extensions), (vec![wanted], vec!["hstore".to_owned()]));
    for wrong in
        ["include foreign_data x", "include table_data x", "take table x", "include table", "include table a b c ("]
    {
        std::fs::write(&file, wrong).unwrap();
        let refused = Cli::try_parse_from(["pgconvoy", "dump", "d", "--filter", path]);
        assert_eq!(refused.is_err(), !wrong.ends_with('('), "{wrong}");
    }
    assert!(Cli::try_parse_from(["pgconvoy", "dump", "d", "--where", "no condition"]).is_err());
}

#[test]
fn a_provider_implies_what_it_refuses() {
    for (line, expected) in [
        ("restore d --provider heroku", (true, true, true)),
        ("restore d --provider rds", (true, false, true)),
        ("restore d", (false, false, false)),
    ] {
        let Task::Restore(options) = settings(line).task else { panic!() };
        let TargetOptions { no_owner, no_privileges, no_tablespaces, .. } = options.target;
        assert_eq!((no_owner, no_privileges, no_tablespaces), expected, "{line}");
    }
}

#[test]
fn nothing_is_dropped_and_everything_is_moved_by_default() {
    let Task::Copy(options) = settings("copy --source a").task else { panic!() };
    assert!(!options.target.drop_target_objects && options.source.filters.is_empty());
    assert_eq!((options.jobs, options.contents), (16, Contents::Everything));
    assert_eq!((options.target.statistics, options.source.statistics), (Statistics::Auto, Statistics::Auto));
    let Task::Dump(options) = settings("dump x").task else { panic!() };
    assert_eq!(options.zstd_level, 1);
}

#[test]
fn verify_takes_an_archive_or_a_server() {
    let Task::Verify(options) = settings("verify --archive x --target b").task else { panic!() };
    assert!(matches!(options.reference, VerifyAgainst::Archive(_)));
    let Task::Verify(options) = settings("verify --source a").task else { panic!() };
    assert!(matches!(options.reference, VerifyAgainst::Server(ServerArgs { conninfo: Some(_), .. })));
}

#[test]
fn preflight_looks_at_the_sides_that_are_named() {
    let Task::Preflight(options) = settings("preflight --target b").task else { panic!() };
    assert!(options.source.is_none() && options.target.is_some());
    let environment = Environment { source_is_set: true, ..Environment::default() };
    let Task::Preflight(options) = resolved("preflight --target b", &environment).unwrap().task else { panic!() };
    assert!(options.source.is_some() && options.target.is_some());
}

#[test]
fn bench_generates_where_no_source_is_given() {
    let Task::Bench(bench) = settings("bench").task else { panic!() };
    assert_eq!((bench.source.is_none(), bench.amount, bench.rounds), (true, None, 3));
    let Task::Bench(bench) = settings("bench --source a --target b").task else { panic!() };
    assert!(bench.generate.is_none() && bench.source.is_some() && bench.target.is_some());
}

#[test]
fn two_servers_without_a_name_are_refused() {
    for line in ["copy", "verify", "preflight"] {
        let error = resolved(line, &Environment::default()).unwrap_err();
        assert_eq!(error.exit_code(), 2, "{line}");
        assert!(error.to_string().contains("PGCONVOY_SOURCE"), "{error}");
        let environment = Environment { target_is_set: true, ..Environment::default() };
        assert!(resolved(line, &environment).is_ok(), "{line}");
    }
    assert!(resolved("verify --archive x", &Environment::default()).is_ok());
}

#[test]
fn a_password_in_an_argument_is_warned_about_once_and_not_shown() {
    for (line, expected) in [
        ("copy --source postgres://u:hunter2@h --target password=hunter2", Some("--source and --target")),
        ("dump --source postgres://h/d?password=hunter2 x", Some("--source shows")),
        ("restore x --target postgres://u:hunter2@h", Some("--target shows")),
        ("verify --archive x --target postgres://u:hunter2@h", Some("--target shows")),
        ("copy --source postgres://u@h --target service=b", None),
    ] {
        let warnings = settings(line).warnings;
        assert_eq!(warnings.len(), usize::from(expected.is_some()), "{line}");
        for warning in warnings {
            assert!(warning.contains(expected.unwrap()) && !warning.contains("hunter2"), "{warning}");
        }
    }
}

#[test]
fn quiet_silences_progress_unless_it_is_asked_for() {
    let display = |line| settings(line).display;
    assert_eq!(display("-q dump x").progress, ProgressMode::None);
    assert_eq!(display("dump x -q --progress json").progress, ProgressMode::Json);
    assert_eq!(display("dump x -v").detail, Detail::Verbose);
    assert!(display("dump x").colour && !display("dump x --no-color").colour);
    let environment = Environment { no_colour: true, ..Environment::default() };
    assert!(!resolved("dump x", &environment).unwrap().display.colour);
}

#[test]
fn servers_that_only_the_variables_name_are_said() {
    let notes = |line: &str| settings(line).notes;
    assert!(notes("copy --source a --target b").is_empty());
    let said = notes("copy --source a");
    assert!(said.len() == 1 && said[0].contains("neither --target nor PGCONVOY_TARGET"), "{said:?}");
    assert_eq!(notes("dump d").len(), 1);
    assert_eq!(notes("verify --archive d --target b").len(), 0);
    let environment = Environment { source_is_set: true, ..Environment::default() };
    assert!(resolved("dump d", &environment).unwrap().notes.is_empty());
}
