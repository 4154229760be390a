//! The keywords of a connection string and the variables that stand in for them
//! (libpq's `PQconninfoOptions` in `fe-connect.c`; PostgreSQL's documentation, "Parameter Key Words").

use super::Problem;

/// A setting that libpq knows.
pub(super) struct Keyword {
    pub name: &'static str,
    /// The environment variable that gives it where the string does not.
    pub variable: Option<&'static str>,
}

const fn keyword(name: &'static str, variable: &'static str) -> Keyword {
    Keyword { name, variable: Some(variable) }
}

const fn unnamed(name: &'static str) -> Keyword {
    Keyword { name, variable: None }
}

pub(super) const KEYWORDS: &[Keyword] = &[
    keyword("service", "PGSERVICE"),
    keyword("servicefile", "PGSERVICEFILE"),
    keyword("host", "PGHOST"),
    keyword("hostaddr", "PGHOSTADDR"),
    keyword("port", "PGPORT"),
    keyword("dbname", "PGDATABASE"),
    keyword("user", "PGUSER"),
    keyword("password", "PGPASSWORD"),
    keyword("passfile", "PGPASSFILE"),
    keyword("require_auth", "PGREQUIREAUTH"),
    keyword("channel_binding", "PGCHANNELBINDING"),
    keyword("connect_timeout", "PGCONNECT_TIMEOUT"),
    keyword("client_encoding", "PGCLIENTENCODING"),
    keyword("options", "PGOPTIONS"),
    keyword("application_name", "PGAPPNAME"),
    unnamed("fallback_application_name"),
    unnamed("keepalives"),
    unnamed("keepalives_idle"),
    unnamed("keepalives_interval"),
    unnamed("keepalives_count"),
    unnamed("tcp_user_timeout"),
    keyword("sslmode", "PGSSLMODE"),
    keyword("sslnegotiation", "PGSSLNEGOTIATION"),
    keyword("sslcompression", "PGSSLCOMPRESSION"),
    keyword("sslcert", "PGSSLCERT"),
    keyword("sslkey", "PGSSLKEY"),
    keyword("sslcertmode", "PGSSLCERTMODE"),
    unnamed("sslpassword"),
    keyword("sslrootcert", "PGSSLROOTCERT"),
    keyword("sslcrl", "PGSSLCRL"),
    keyword("sslcrldir", "PGSSLCRLDIR"),
    keyword("sslsni", "PGSSLSNI"),
    unnamed("sslkeylogfile"),
    keyword("requirepeer", "PGREQUIREPEER"),
    keyword("ssl_min_protocol_version", "PGSSLMINPROTOCOLVERSION"),
    keyword("ssl_max_protocol_version", "PGSSLMAXPROTOCOLVERSION"),
    keyword("min_protocol_version", "PGMINPROTOCOLVERSION"),
    keyword("max_protocol_version", "PGMAXPROTOCOLVERSION"),
    keyword("gssencmode", "PGGSSENCMODE"),
    keyword("krbsrvname", "PGKRBSRVNAME"),
    keyword("gsslib", "PGGSSLIB"),
    keyword("gssdelegation", "PGGSSDELEGATION"),
    unnamed("replication"),
    keyword("target_session_attrs", "PGTARGETSESSIONATTRS"),
    keyword("load_balance_hosts", "PGLOADBALANCEHOSTS"),
    unnamed("scram_client_key"),
    unnamed("scram_server_key"),
    unnamed("oauth_issuer"),
    unnamed("oauth_client_id"),
    unnamed("oauth_client_secret"),
    unnamed("oauth_scope"),
];

/// The keyword as this table spells it, or a complaint that names the nearest one.
pub(super) fn known(name: &str) -> Result<&'static str, Problem> {
    if let Some(found) = KEYWORDS.iter().find(|keyword| keyword.name == name) {
        return Ok(found.name);
    }
    Err(Problem::new(format!("unknown connection setting \"{name}\"")).hint(unknown_hint(name)))
}

fn unknown_hint(name: &str) -> String {
    match name {
        "database" | "db" => return "the keyword is \"dbname\"".into(),
        "username" => return "the keyword is \"user\"".into(),
        "pgbouncer" | "connection_limit" | "pool_timeout" | "schema" | "statement_cache_size" => {
            return format!("\"{name}\" belongs to another driver; leave it out, and connect past the pooler");
        }
        _ => {}
    }
    let lowercase = name.to_ascii_lowercase();
    let nearest = KEYWORDS
        .iter()
        .map(|keyword| (strsim::damerau_levenshtein(&lowercase, keyword.name), keyword.name))
        .min_by_key(|(distance, _)| *distance);
    match nearest {
        Some((distance, nearest)) if distance <= 1 + lowercase.len() / 3 => format!("did you mean \"{nearest}\"?"),
        _ => "the settings are those of libpq: host, port, dbname, user, sslmode and so on".into(),
    }
}
