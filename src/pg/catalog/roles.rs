use serde::{Deserialize, Serialize};

use super::Catalog;
use crate::model::{ServerVersion, quote_ident, quote_literal};
use crate::pg::conninfo::Secret;
use crate::pg::error::{Error, Result};

/// A role of a cluster, without its password.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoleFacts {
    pub name: String,
    /// What only a superuser may give: SUPERUSER, REPLICATION, BYPASSRLS.
    pub privileged: Vec<String>,
    /// LOGIN, NOINHERIT, CREATEDB, CREATEROLE: those that are not the default of `CREATE ROLE`.
    pub attributes: Vec<String>,
    /// -1: no limit.
    pub connection_limit: i32,
    /// As text; infinity or `None` is no end.
    pub valid_until: Option<String>,
    pub comment: Option<String>,
    /// `name=value`, as `pg_db_role_setting` has them, for all databases.
    pub settings: Vec<String>,
}

/// That a role is a member of another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Membership {
    pub role: String,
    pub member: String,
    pub admin: bool,
    /// Since 16; `None` from older servers, where it followed the member's INHERIT.
    pub inherit: Option<bool>,
    pub set: Option<bool>,
}

/// The roles of a cluster, those of the system (`pg_…`) left out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterRoles {
    pub roles: Vec<RoleFacts>,
    pub memberships: Vec<Membership>,
    /// Names of tablespaces besides the system's: not moved, a directory of the server belongs to each.
    pub tablespaces: Vec<String>,
}

impl Catalog<'_> {
    /// Every role that is not the system's, with its memberships; and the names of the tablespaces.
    pub async fn cluster_roles(&self) -> Result<ClusterRoles> {
        let bypass = if self.version >= ServerVersion::V9_5 { "r.rolbypassrls" } else { "false" };
        let sql = format!(
            "SELECT r.rolname::text, r.rolsuper, r.rolreplication, {bypass}, r.rolcanlogin, r.rolinherit, r.rolcreatedb,
                    r.rolcreaterole, r.rolconnlimit, r.rolvaliduntil::text, pg_catalog.shobj_description(r.oid, 'pg_authid'),
                    COALESCE((SELECT s.setconfig FROM pg_catalog.pg_db_role_setting s
                              WHERE s.setrole = r.oid AND s.setdatabase = 0), '{{}}')
             FROM pg_catalog.pg_roles r WHERE r.rolname OPERATOR(pg_catalog.!~) '^pg_' ORDER BY 1"
        );
        let mut roles = Vec::new();
        for row in &self.rows(&sql).await? {
            let chosen = |words: &[(usize, bool, &str)]| -> Result<Vec<String>> {
                let mut found = Vec::new();
                for &(column, wanted, word) in words {
                    if self.get::<bool>(row, column)? == wanted {
                        found.push(word.to_owned());
                    }
                }
                Ok(found)
            };
            let valid_until: Option<String> = self.get(row, 9)?;
            roles.push(RoleFacts {
                name: self.get(row, 0)?,
                privileged: chosen(&[(1, true, "SUPERUSER"), (2, true, "REPLICATION"), (3, true, "BYPASSRLS")])?,
                attributes: chosen(&[
                    (4, true, "LOGIN"),
                    (5, false, "NOINHERIT"),
                    (6, true, "CREATEDB"),
                    (7, true, "CREATEROLE"),
                ])?,
                connection_limit: self.get(row, 8)?,
                valid_until: valid_until.filter(|until| until != "infinity"),
                comment: self.get(row, 10)?,
                settings: self.get(row, 11)?,
            });
        }
        let tablespaces = self.tablespaces().await?.into_iter().map(|(name, _)| name);
        let tablespaces = tablespaces.filter(|name| !matches!(name.as_str(), "pg_default" | "pg_global")).collect();
        Ok(ClusterRoles { roles, memberships: self.memberships().await?, tablespaces })
    }

    async fn memberships(&self) -> Result<Vec<Membership>> {
        let options = if self.version >= ServerVersion::V16 {
            "pg_catalog.bool_or(m.inherit_option), pg_catalog.bool_or(m.set_option)"
        } else {
            "NULL::pg_catalog.bool, NULL::pg_catalog.bool"
        };
        let sql = format!(
            "SELECT g.rolname::text, r.rolname::text, pg_catalog.bool_or(m.admin_option), {options}
             FROM pg_catalog.pg_auth_members m JOIN pg_catalog.pg_roles g ON g.oid = m.roleid
             JOIN pg_catalog.pg_roles r ON r.oid = m.member
             WHERE r.rolname OPERATOR(pg_catalog.!~) '^pg_' GROUP BY 1, 2 ORDER BY 1, 2"
        );
        let mut memberships = Vec::new();
        for row in &self.rows(&sql).await? {
            memberships.push(Membership {
                role: self.get(row, 0)?,
                member: self.get(row, 1)?,
                admin: self.get(row, 2)?,
                inherit: self.get(row, 3)?,
                set: self.get(row, 4)?,
            });
        }
        Ok(memberships)
    }

    /// Which of the attributes that not every maker of roles may give this role may: all as a superuser; since 16, those
    /// it has; before, CREATEDB (`CreateRole` in user.c).
    pub async fn attributes_to_give(&self) -> Result<Vec<&'static str>> {
        const GUARDED: [&str; 4] = ["SUPERUSER", "REPLICATION", "BYPASSRLS", "CREATEDB"];
        let bypass = if self.version >= ServerVersion::V9_5 { "rolbypassrls" } else { "false" };
        let sql = format!(
            "SELECT rolsuper, rolreplication, {bypass}, rolcreatedb FROM pg_catalog.pg_roles WHERE rolname = current_user"
        );
        let rows = self.rows(&sql).await?;
        let row = rows.first().ok_or_else(|| Error::protocol(self.side, "the role does not list itself"))?;
        let all: bool = self.get(row, 0)?;
        let old = self.version < ServerVersion::V16;
        let mut may_give = Vec::new();
        for (at, word) in GUARDED.into_iter().enumerate() {
            let may = if old { word == "CREATEDB" } else { self.get(row, at)? };
            may_give.extend((all || may).then_some(word));
        }
        Ok(may_give)
    }

    /// The stored passwords of roles, hashed as they are; `None` where this role may not read them.
    pub async fn role_passwords(&self) -> Result<Option<Vec<(String, Secret)>>> {
        let readable: bool =
            self.scalar("SELECT pg_catalog.has_table_privilege('pg_catalog.pg_authid', 'SELECT')").await?;
        if !readable {
            return Ok(None);
        }
        let sql = "SELECT rolname::text, rolpassword FROM pg_catalog.pg_authid WHERE rolpassword IS NOT NULL";
        let mut passwords = Vec::new();
        for row in &self.rows(sql).await? {
            passwords.push((self.get(row, 0)?, Secret::new(self.get::<String>(row, 1)?)));
        }
        Ok(Some(passwords))
    }

    /// Gives a role its stored password. Neither the error nor a log of ours has the statement.
    pub async fn set_role_password(&self, role: &str, password: &Secret) -> Result<()> {
        let alter = format!("ALTER ROLE {} PASSWORD ", quote_ident(role));
        let sql = format!("{alter}{}", quote_literal(password.expose()));
        let done = self.client.batch_execute(&sql).await;
        done.map_err(|e| Error::control(self.side, &e, Some(&format!("{alter}'********'"))))
    }
}

impl RoleFacts {
    /// Attributes that a role of these rights cannot give.
    #[must_use]
    pub fn not_to_be_given(&self, may_give: &[&str]) -> Vec<&str> {
        let guarded = self.attributes.iter().filter(|a| *a == "CREATEDB").chain(&self.privileged);
        guarded.map(String::as_str).filter(|word| !may_give.contains(word)).collect()
    }

    /// Statements that make the role, its password left out, with the attributes of `may_give` and those that everybody
    /// may give who may make roles.
    #[must_use]
    pub fn create_statements(&self, may_give: &[&str]) -> Vec<String> {
        let name = quote_ident(&self.name);
        let left_out = self.not_to_be_given(may_give);
        let words = self.attributes.iter().chain(&self.privileged);
        let mut words: Vec<String> = words.filter(|word| !left_out.contains(&word.as_str())).cloned().collect();
        if self.connection_limit >= 0 {
            words.push(format!("CONNECTION LIMIT {}", self.connection_limit));
        }
        words.extend(self.valid_until.as_ref().map(|until| format!("VALID UNTIL {}", quote_literal(until))));
        let with = if words.is_empty() { String::new() } else { format!(" WITH {}", words.join(" ")) };
        let mut statements = vec![format!("CREATE ROLE {name}{with}")];
        if let Some(comment) = &self.comment {
            statements.push(format!("COMMENT ON ROLE {name} IS {}", quote_literal(comment)));
        }
        statements
    }

    /// `ALTER ROLE … SET …`, each of which a target may refuse: a parameter of an extension that it lacks.
    #[must_use]
    pub fn setting_statements(&self) -> Vec<String> {
        let settings = self.settings.iter().filter_map(|setting| setting.split_once('='));
        settings
            .map(|(name, value)| {
                format!(
                    "ALTER ROLE {} SET {} TO {}",
                    quote_ident(&self.name),
                    quote_ident(name),
                    setting_value(name, value)
                )
            })
            .collect()
    }

    /// What differs in another role of the same name, in words.
    #[must_use]
    pub fn differences(&self, other: &Self) -> Vec<&'static str> {
        let mut found = Vec::new();
        for (differs, what) in [
            (self.attributes != other.attributes || self.privileged != other.privileged, "attributes"),
            (self.connection_limit != other.connection_limit, "connection limit"),
            (self.valid_until != other.valid_until, "end of validity"),
            (self.settings != other.settings, "settings"),
        ] {
            if differs {
                found.push(what);
            }
        }
        found
    }
}

impl Membership {
    #[must_use]
    pub fn grant_statement(&self, target: ServerVersion) -> String {
        let mut options = Vec::new();
        if target >= ServerVersion::V16 {
            options.extend(self.inherit.map(|inherit| format!("INHERIT {}", word(inherit))));
            options.extend(self.set.map(|set| format!("SET {}", word(set))));
        }
        if self.admin {
            options.insert(0, if target >= ServerVersion::V16 { "ADMIN TRUE" } else { "ADMIN OPTION" }.to_owned());
        }
        let with = if options.is_empty() { String::new() } else { format!(" WITH {}", options.join(", ")) };
        format!("GRANT {} TO {}{with}", quote_ident(&self.role), quote_ident(&self.member))
    }
}

fn word(value: bool) -> &'static str {
    if value { "TRUE" } else { "FALSE" }
}

/// Parameters whose value is a list of names (`GUC_LIST_QUOTE` in `guc_tables.c`): one literal for each, or the commas
/// would become a part of a name.
const LISTS: [&str; 6] = [
    "local_preload_libraries",
    "search_path",
    "session_preload_libraries",
    "shared_preload_libraries",
    "temp_tablespaces",
    "unix_socket_directories",
];

/// A value of `pg_db_role_setting` as `ALTER … SET name TO` takes it.
#[must_use]
pub fn setting_value(name: &str, value: &str) -> String {
    if !LISTS.contains(&name.to_lowercase().as_str()) {
        return quote_literal(value);
    }
    let mut parts = vec![String::new()];
    let mut quoted = false;
    let mut chars = value.chars().peekable();
    while let Some(c) = chars.next() {
        let Some(part) = parts.last_mut() else { break };
        match c {
            '"' if quoted && chars.next_if_eq(&'"').is_some() => part.push('"'),
            '"' => quoted = !quoted,
            ',' if !quoted => parts.push(String::new()),
            c if c.is_whitespace() && !quoted => {}
            c => part.push(c),
        }
    }
    parts.iter().map(|part| quote_literal(part)).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn role() -> RoleFacts {
        RoleFacts {
            name: "a\"b".into(),
            privileged: vec!["BYPASSRLS".into()],
            attributes: vec!["LOGIN".into(), "NOINHERIT".into()],
            connection_limit: 3,
            valid_until: Some("2030-01-01 00:00:00+00".into()),
            comment: Some("it's".into()),
            settings: vec!["search_path=ev, \"a,\"\"b\", \"$user\"".into(), "DateStyle=SQL, DMY".into()],
        }
    }

    #[test]
    fn roles_are_made_with_what_the_target_allows() {
        let [create, comment] = role().create_statements(&[]).try_into().unwrap();
        assert_eq!(
            create,
            "CREATE ROLE \"a\"\"b\" WITH LOGIN NOINHERIT CONNECTION LIMIT 3 VALID UNTIL '2030-01-01 00:00:00+00'"
        );
        assert_eq!(comment, "COMMENT ON ROLE \"a\"\"b\" IS 'it''s'");
        assert!(role().create_statements(&["BYPASSRLS"])[0].contains(" BYPASSRLS "));
        let maker = RoleFacts { attributes: vec!["LOGIN".into(), "CREATEDB".into()], ..role() };
        assert_eq!(maker.not_to_be_given(&["BYPASSRLS"]), ["CREATEDB"]);
        assert!(!maker.create_statements(&["BYPASSRLS"])[0].contains("CREATEDB"));
    }

    #[test]
    fn lists_stay_lists() {
        assert_eq!(
            role().setting_statements(),
            [
                "ALTER ROLE \"a\"\"b\" SET \"search_path\" TO 'ev', 'a,\"b', '$user'",
                "ALTER ROLE \"a\"\"b\" SET \"DateStyle\" TO 'SQL, DMY'"
            ]
        );
    }

    #[test]
    fn memberships_are_granted_in_the_targets_words() {
        let mut membership =
            Membership { role: "g".into(), member: "m".into(), admin: true, inherit: Some(false), set: Some(true) };
        assert_eq!(
            membership.grant_statement(ServerVersion::V17),
            "GRANT \"g\" TO \"m\" WITH ADMIN TRUE, INHERIT FALSE, SET TRUE"
        );
        assert_eq!(membership.grant_statement(ServerVersion::V15), "GRANT \"g\" TO \"m\" WITH ADMIN OPTION");
        membership.admin = false;
        (membership.inherit, membership.set) = (None, None);
        assert_eq!(membership.grant_statement(ServerVersion::V17), "GRANT \"g\" TO \"m\"");
    }
}
