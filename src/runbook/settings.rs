//! What ALTER DATABASE and ALTER ROLE have set for a database: a copy of what is in it does not have it.

use super::Result;
use super::servers::Session;
use crate::model::quote_ident;
use crate::pg::catalog::setting_value;

/// One of them. The value may be a secret.
#[derive(PartialEq, Eq)]
struct Setting {
    /// `None`: for everybody.
    role: Option<String>,
    name: String,
    value: String,
    in_all_databases: bool,
}

impl Setting {
    fn shown(&self) -> String {
        let role = self.role.as_ref().map_or_else(String::new, |role| format!(" for {role}"));
        format!("{}{role}{}", self.name, if self.in_all_databases { " in all databases" } else { "" })
    }
}

/// Those of the database, and those of this role for all databases. The fence is none of them.
async fn read(session: &Session) -> Result<Vec<Setting>> {
    let rows = session
        .rows(
            "SELECT rolname, split_part(setting, '=', 1), substr(setting, strpos(setting, '=') + 1), setdatabase = 0
             FROM pg_db_role_setting LEFT JOIN pg_roles r ON r.oid = setrole, unnest(setconfig) setting
             WHERE (setdatabase = (SELECT oid FROM pg_database WHERE datname = current_database())
                    OR setdatabase = 0 AND rolname = current_user)
                AND setting NOT LIKE 'default\\_transaction\\_read\\_only=%'
             ORDER BY 1 NULLS FIRST, 2, 4",
        )
        .await?;
    let setting = |row: Vec<String>| {
        let mut columns = row.into_iter();
        let mut next = || columns.next().unwrap_or_default();
        let (role, name, value, everywhere) = (next(), next(), next(), next());
        Setting { role: Some(role).filter(|role| !role.is_empty()), name, value, in_all_databases: everywhere == "t" }
    };
    Ok(rows.into_iter().map(setting).collect())
}

/// By name only.
pub(super) async fn names(session: &Session) -> Result<Vec<String>> {
    Ok(read(session).await?.iter().map(Setting::shown).collect())
}

/// Sets what is set at one database at another, and returns the names of what is not there in the end: the other's role may not
/// set it, has no such role, or it is a role's own for all databases.
pub(super) async fn carry_over(from: &Session, to: &Session) -> Result<Vec<String>> {
    let (wanted, there) = (read(from).await?, read(to).await?);
    let database = quote_ident(&to.one("SELECT current_database()").await?);
    let mut left = Vec::new();
    for setting in wanted.iter().filter(|setting| !there.contains(setting)) {
        if setting.in_all_databases {
            left.push(setting.shown());
            continue;
        }
        let whose = match &setting.role {
            None => format!("DATABASE {database}"),
            Some(role) => format!("ROLE {} IN DATABASE {database}", quote_ident(role)),
        };
        let (name, value) = (quote_ident(&setting.name), setting_value(&setting.name, &setting.value));
        match to.run(&format!("ALTER {whose} SET {name} TO {value}")).await {
            Ok(()) => {}
            Err(error) if error.is_passing() => return Err(error),
            // Its reason may repeat the value.
            Err(_) => left.push(setting.shown()),
        }
    }
    Ok(left)
}
