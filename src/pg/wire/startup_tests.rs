use super::*;

#[test]
fn settings_fit_the_version() {
    let has = |version: ServerVersion, name: &str| {
        session_settings(version).iter().any(|statement| statement.starts_with(&format!("SET {name} =")))
    };
    let since = [
        ("lock_timeout", 90_300),
        ("row_security", 90_500),
        ("idle_in_transaction_session_timeout", 90_600),
        ("idle_session_timeout", 140_000),
        ("transaction_timeout", 170_000),
    ];
    for (name, first) in since {
        assert!(has(ServerVersion(first), name), "{name}");
        assert!(!has(ServerVersion(first - 1), name), "{name}");
    }
    assert!(has(ServerVersion(90_424), "ssl_renegotiation_limit"));
    assert!(!has(ServerVersion(90_500), "ssl_renegotiation_limit"));
}

#[test]
fn errors_are_decoded_whatever_they_hold() {
    let body = b"SFEHLER\0VERROR\0C22021\0Mbad \xff byte\0Dkey\0Hhelp\0Wwhere\0Fx.c\0\0";
    let error = decode_error(body);
    assert_eq!((error.severity.as_str(), error.sqlstate.as_str()), ("ERROR", "22021"));
    assert_eq!(error.message, "bad \u{fffd} byte");
    assert_eq!((error.detail.as_deref(), error.hint.as_deref()), (Some("key"), Some("help")));
    assert_eq!(error.context.as_deref(), Some("where"));
    assert_eq!(decode_error(b"SFEHLER\0Mcut off").severity, "FEHLER");
    assert_eq!(decode_error(b""), ServerError::default());
}

#[test]
fn target_session_attrs_are_judged() {
    use TargetSessionAttrs::{Any, PreferStandby, Primary, ReadOnly, ReadWrite, Standby};
    let checked =
        |in_recovery, read_only| Checked { server_pid: 1, in_recovery, read_only, version: ServerVersion::V15 };
    let table = [
        (checked(false, false), [Any, ReadWrite, Primary, PreferStandby].as_slice()),
        (checked(false, true), [Any, ReadOnly, Primary, PreferStandby].as_slice()),
        (checked(true, true), [Any, ReadOnly, Standby, PreferStandby].as_slice()),
    ];
    for (checked, suitable) in table {
        for wanted in [Any, ReadWrite, ReadOnly, Primary, Standby, PreferStandby] {
            assert_eq!(unsuitable(wanted, &checked).is_none(), suitable.contains(&wanted), "{wanted:?}");
        }
    }
}
