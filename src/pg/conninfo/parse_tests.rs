use proptest::prelude::*;

use super::*;

fn parsed(text: &str) -> Vec<(&'static str, String)> {
    let mut pairs = parse(text).unwrap_or_else(|problem| panic!("{text}: {}", problem.message));
    pairs.sort_unstable();
    pairs
}

fn check(text: &str, expected: &[(&str, &str)]) {
    let found = parsed(text);
    let found: Vec<_> = found.iter().map(|(name, value)| (*name, value.as_str())).collect();
    assert_eq!(found, expected, "{text}");
}

/// The cases of PostgreSQL's own test of URIs (`src/interfaces/libpq/t/001_uri.pl`), as facts.
#[test]
fn uris_are_read_as_libpq_reads_them() {
    let cases: &[(&str, &[(&str, &str)])] = &[
        (
            "postgresql://uri-user:secret@host:12345/db",
            &[("dbname", "db"), ("host", "host"), ("password", "secret"), ("port", "12345"), ("user", "uri-user")],
        ),
        ("postgresql://uri-user@host/", &[("host", "host"), ("user", "uri-user")]),
        ("postgresql://uri-user@", &[("user", "uri-user")]),
        ("postgresql://:12345/", &[("port", "12345")]),
        ("postgresql://", &[]),
        ("postgres://", &[]),
        ("postgresql:///db", &[("dbname", "db")]),
        ("postgresql:///db?user=uri-user", &[("dbname", "db"), ("user", "uri-user")]),
        ("postgresql://host?", &[("host", "host")]),
        ("postgresql://[::1]:12345/db", &[("dbname", "db"), ("host", "::1"), ("port", "12345")]),
        ("postgresql://[2001:db8::1234]/", &[("host", "2001:db8::1234")]),
        ("postgres://@host", &[("host", "host")]),
        ("postgres://:@host/", &[("host", "host")]),
        ("postgres://otheruser@/no/such/directory", &[("dbname", "no/such/directory"), ("user", "otheruser")]),
        (
            "postgres:///?user=otheruser&host=/no/such/socket/path",
            &[("host", "/no/such/socket/path"), ("user", "otheruser")],
        ),
        ("postgresql://%2Fvar%2Flib%2Fpostgresql/dbname", &[("dbname", "dbname"), ("host", "/var/lib/postgresql")]),
        ("postgresql://host1:123,host2:456/db", &[("dbname", "db"), ("host", "host1,host2"), ("port", "123,456")]),
        ("postgresql://host1,[::2]:456/", &[("host", "host1,::2"), ("port", ",456")]),
        ("postgresql://host?sslmode=disable&ssl=true", &[("host", "host"), ("sslmode", "require")]),
        (
            "postgres://u:p%40ss%2Fw%23%25@h/d%20b",
            &[("dbname", "d b"), ("host", "h"), ("password", "p@ss/w#%"), ("user", "u")],
        ),
        ("postgres://u:a:b@h", &[("host", "h"), ("password", "a:b"), ("user", "u")]),
        ("postgres://h?options=-c%20geqo%3Doff", &[("host", "h"), ("options", "-c geqo=off")]),
    ];
    for (text, expected) in cases {
        check(text, expected);
    }
}

#[test]
fn keyword_strings_are_read_as_libpq_reads_them() {
    let cases: &[(&str, &[(&str, &str)])] = &[
        ("", &[]),
        ("shop", &[("dbname", "shop")]),
        ("host=a port=1", &[("host", "a"), ("port", "1")]),
        ("  host = a\n\tport= 1 ", &[("host", "a"), ("port", "1")]),
        ("password='two words' host=h", &[("host", "h"), ("password", "two words")]),
        (r"password='it\'s \\ here'", &[("password", r"it's \ here")]),
        (r"password=a\ b\'c", &[("password", "a b'c")]),
        ("password='' host=h", &[("host", "h"), ("password", "")]),
        ("password=a'b", &[("password", "a'b")]),
        ("host='a'port=1", &[("host", "a"), ("port", "1")]),
        ("host=a host=b", &[("host", "b")]),
        (r"password=x\", &[("password", "x")]),
        ("password=ä€ host=h", &[("host", "h"), ("password", "ä€")]),
    ];
    for (text, expected) in cases {
        check(text, expected);
    }
}

#[test]
fn what_makes_no_sense_is_refused_without_repeating_a_secret() {
    let cases = [
        "postgres://u:se/cret@h/d",
        "postgres://u:se%zzcret@h/d",
        "postgres://u:se%cret",
        "postgres://u:secret@[::1/d",
        "postgres://u:secret@[]/d",
        "postgres://u:secret@[::1]x/d",
        "postgres://u:secret@h/d?x",
        "postgres://u:secret@h/d?host=a=b",
        "postgres://u:se%00cret@h/d",
        "postgres://u:se%ffcret@h/d",
        "password=se cret host=h",
        "password='secret",
        "mysql://u:secret@h/d",
    ];
    for text in cases {
        let problem = parse(text).expect_err(text);
        let shown = format!("{} {:?}", problem.message, problem.hint);
        assert!(!shown.contains("cret"), "{text}: {shown}");
    }
}

#[test]
fn an_unknown_keyword_names_the_nearest() {
    for (text, nearest) in [
        ("hots=a", "host"),
        ("sslmod=a", "sslmode"),
        ("database=a", "dbname"),
        ("postgres://h?ssl_mode=a", "sslmode"),
        ("usr=a", "user"),
        ("SSLMODE=a", "sslmode"),
    ] {
        let problem = parse(text).expect_err(text);
        assert!(problem.hint.as_deref().unwrap_or_default().contains(&format!("\"{nearest}\"")), "{text}: {problem:?}");
    }
}

fn encode(text: &str) -> String {
    let hex: Vec<_> = text.bytes().map(|byte| format!("%{byte:02X}")).collect();
    hex.concat()
}

fn quote(text: &str) -> String {
    format!("'{}'", text.replace('\\', r"\\").replace('\'', r"\'"))
}

proptest! {
    #[test]
    fn any_value_comes_back_from_a_uri(user in "[^\0]{1,12}", password in "[^\0]{1,20}", db in "[^\0@]{1,12}") {
        let text = format!("postgres://{}:{}@host/{}", encode(&user), encode(&password), encode(&db));
        let expected = vec![("dbname", db), ("host", "host".to_owned()), ("password", password), ("user", user)];
        prop_assert_eq!(parsed(&text), expected);
    }

    #[test]
    fn any_value_comes_back_from_quotes(password in "[^\0]{0,20}", db in "[^\0]{0,12}") {
        let text = format!("password={} dbname = {}", quote(&password), quote(&db));
        prop_assert_eq!(parsed(&text), vec![("dbname", db), ("password", password)]);
    }

    #[test]
    fn nothing_makes_it_panic(text in ".{0,60}", uri in "[a:/@?,%=&\\[\\]0-9ä]{0,40}") {
        let _ = parse(&text);
        let _ = parse(&format!("postgres://{uri}"));
    }
}

#[test]
fn a_password_with_an_unescaped_at_sign_is_refused_and_not_said() {
    for text in [
        "postgresql://u:hunter2@secret@h/db",
        "postgresql://u:hunter2@secret@h:5432?sslmode=require",
        "postgresql://u:secret@@h",
        "postgresql://u:hunter2 secret@secret@h/db",
    ] {
        let problem = parse(text).unwrap_err();
        assert!(problem.message.contains("the password must have @ as %40"), "{}", problem.message);
        let said = format!("{} {:?}", problem.message, problem.hint);
        assert!(!said.contains("hunter2") && !said.contains("secret"), "{said}");
    }
}
