use crate::model::ServerVersion;

use super::Toc;

/// What a session must be told before it runs entries: the settings of pg_restore (`_doSetFixedOutputState` in
/// `pg_backup_archiver.c`) that the target knows.
///
/// A session in which a job failed may be left with other settings (tablespace, session authorization): do not use
/// it again.
#[must_use]
pub fn session_prologue(toc: &Toc, target: ServerVersion) -> Vec<String> {
    let strings = if toc.standard_conforming_strings { "on" } else { "off" };
    let mut settings = vec![
        "SET statement_timeout = 0".to_owned(),
        "SET client_encoding = 'UTF8'".to_owned(),
        format!("SET standard_conforming_strings = {strings}"),
        "SET check_function_bodies = false".to_owned(),
        "SET xmloption = content".to_owned(),
        "SET client_min_messages = warning".to_owned(),
        "SET escape_string_warning = off".to_owned(),
        "SET default_tablespace = ''".to_owned(),
    ];
    for (since, setting) in [
        (ServerVersion::V9_3, "SET lock_timeout = 0"),
        (ServerVersion::V9_5, "SET row_security = off"),
        (ServerVersion::V9_6, "SET idle_in_transaction_session_timeout = 0"),
        // A materialized view is filled as its owner would.
        (ServerVersion::V11, "SET jit = DEFAULT"),
        (ServerVersion::V12, "SET default_table_access_method = heap"),
        (ServerVersion::V17, "SET transaction_timeout = 0"),
    ] {
        if target >= since {
            settings.push(setting.to_owned());
        }
    }
    if toc.has_search_path {
        settings.push("SELECT pg_catalog.set_config('search_path', '', false)".to_owned());
    }
    settings
}
