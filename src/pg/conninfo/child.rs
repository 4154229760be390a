//! What a child process with libpq in it, such as pg_dump, is to be told: by its environment, never by arguments,
//! which everybody on the machine can read.

use super::choice::{ChannelBinding, Choice as _};
use super::keyword::KEYWORDS;
use super::{Address, ConnInfo, RootCertificates, Secret, SslMode, SslNegotiation};

impl ConnInfo {
    /// The variables that libpq reads: to be removed from a child's environment before those of
    /// [`Self::pg_dump_env`] are set, because our settings have taken them into account already.
    pub fn libpq_variables() -> impl Iterator<Item = &'static str> {
        let others = ["PGSYSCONFDIR", "PGREALM", "PGTZ", "PGDATESTYLE", "PGGEQO", "PGREQUIRESSL"];
        KEYWORDS.iter().filter_map(|keyword| keyword.variable).chain(others)
    }

    /// The environment that makes libpq in a child connect to host `connected` (an index in [`Self::hosts`]) with
    /// the settings of this connection. One of the values is the password.
    pub fn pg_dump_env(&self, connected: usize) -> Vec<(String, String)> {
        let mut env: Vec<(&str, String)> = Vec::new();
        if let Some(host) = self.hosts.get(connected) {
            env.push(("PGPORT", host.port.to_string()));
            if !host.name.is_empty() {
                env.push(("PGHOST", host.name.clone()));
            }
            let pinned = self.pinned.as_ref().filter(|endpoint| endpoint.host_index == connected);
            match (pinned.map(|endpoint| &endpoint.address), host.addr) {
                (Some(Address::Tcp(addr)), _) => env.push(("PGHOSTADDR", addr.ip().to_string())),
                (_, Some(addr)) => env.push(("PGHOSTADDR", addr.to_string())),
                _ => {}
            }
            if let Some(password) = &host.password {
                env.push(("PGPASSWORD", password.secret.expose().to_owned()));
            }
        }
        // The password, if any, is above: a child shall not look for, or complain about, a password file.
        env.push(("PGPASSFILE", "/nonexistent/pgpass".into()));
        env.push(("PGUSER", self.user.clone()));
        env.push(("PGDATABASE", self.dbname.clone()));
        env.push(("PGAPPNAME", self.application_name.clone()));
        env.push(("PGGSSENCMODE", "disable".into()));
        env.extend(self.options.clone().map(|options| ("PGOPTIONS", options)));
        env.extend(self.connect_timeout.map(|timeout| ("PGCONNECT_TIMEOUT", timeout.as_secs().to_string())));
        env.extend(self.tls_env());
        env.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }

    /// [`Self::pg_dump_env`] as one keyword/value string, for another database of the same server: for programs that
    /// connect to two servers. It holds the password.
    pub fn child_conninfo(&self, connected: usize, dbname: &str) -> Secret {
        let quote = |value: &str| value.replace('\\', "\\\\").replace('\'', "\\'");
        let mut pairs = Vec::new();
        for (variable, value) in self.pg_dump_env(connected) {
            let keyword = KEYWORDS.iter().find(|keyword| keyword.variable == Some(variable.as_str()));
            match keyword.map(|keyword| keyword.name) {
                Some("dbname") => pairs.push(format!("dbname='{}'", quote(dbname))),
                // Each program has a name and a password file of its own.
                None | Some("application_name" | "passfile" | "gssencmode") => {}
                Some(name) => pairs.push(format!("{name}='{}'", quote(&value))),
            }
        }
        Secret::new(pairs.join(" "))
    }

    fn tls_env(&self) -> Vec<(&'static str, String)> {
        let tls = &self.tls;
        let mut env = vec![("PGSSLMODE", tls.mode.name().to_owned())];
        if tls.mode == SslMode::Disable {
            return env;
        }
        match &tls.roots {
            RootCertificates::None => {}
            RootCertificates::File(path) => env.push(("PGSSLROOTCERT", path.display().to_string())),
            RootCertificates::System => env.push(("PGSSLROOTCERT", "system".into())),
        }
        if let Some(path) = &tls.certificate {
            env.push(("PGSSLCERT", path.display().to_string()));
            env.extend(tls.key.as_ref().map(|key| ("PGSSLKEY", key.display().to_string())));
        }
        if tls.negotiation == SslNegotiation::Direct {
            env.push(("PGSSLNEGOTIATION", tls.negotiation.name().to_owned()));
        }
        if self.channel_binding != ChannelBinding::default() {
            env.push(("PGCHANNELBINDING", self.channel_binding.name().to_owned()));
        }
        if !tls.server_name_indication {
            env.push(("PGSSLSNI", "0".into()));
        }
        if tls.min_version == 3 {
            env.push(("PGSSLMINPROTOCOLVERSION", "TLSv1.3".into()));
        }
        if tls.max_version == 2 {
            env.push(("PGSSLMAXPROTOCOLVERSION", "TLSv1.2".into()));
        }
        env
    }
}
