//! What a database needs of the server it is put together on, besides room and rights in general.

use std::collections::{HashMap, HashSet};

use super::{Findings, IN_A_NEW_DATABASE, relation_filter, table_filter};
use crate::model::{NativeFunction, Side, counted, quote_ident};
use crate::ops::error::{Cause, Error, Result};
use crate::ops::inventory::Inventory;
use crate::ops::options::{Contents, Filters, TargetOptions};
use crate::ops::roles;
use crate::ops::server::Server;
use crate::ops::subset;
use crate::pg::catalog::{ClusterRoles, Lack, RolesInUse};
use crate::schema::{TocEntry, TocSection, native_function, needs_superuser};

/// What must be there, or allowed, at a target.
#[derive(Default)]
pub(in crate::ops) struct Needs {
    roles: RolesInUse,
    /// Each with an object that is in it.
    tablespaces: Vec<(String, String)>,
    /// Large objects are staged in a temporary table.
    temporary_tables: bool,
    /// Something is made in the schema `public`.
    public_schema: bool,
    /// What is picked and needs what is left out.
    lacks: Vec<Lack>,
    /// What only superusers may make.
    superuser: Vec<String>,
    /// Functions whose code the target must have.
    natives: Vec<NativeFunction>,
}

impl Needs {
    pub(in crate::ops) async fn of_source(source: &Server, filters: &Filters, contents: Contents) -> Result<Self> {
        let catalog = source.catalog();
        let rows_move = contents.has_rows();
        let temporary_tables = rows_move && filters.takes_large_objects() && catalog.has_large_objects().await?;
        if contents == Contents::DataOnly {
            return Ok(Self { temporary_tables, ..Self::default() });
        }
        let filter = table_filter(filters)?;
        let (mut superuser, mut natives) = (Vec::new(), Vec::new());
        if filters.include_tables.is_empty() {
            let schemas = relation_filter(filters).schemas_to_sql();
            let schemas = schemas.map_err(|e| Error::new(Cause::Usage(e.to_string())))?;
            superuser = catalog.made_by_superusers(&schemas, filters.takes_large_objects()).await?;
            natives = catalog.native_functions(&schemas).await?;
        }
        Ok(Self {
            roles: catalog.roles_in_use().await?,
            tablespaces: catalog.tablespaces_in_use(&filter).await?,
            temporary_tables,
            public_schema: catalog.uses_public_schema(&filter).await?,
            lacks: subset::lacks(catalog, filters).await?,
            superuser,
            natives,
        })
    }

    pub(in crate::ops) fn of_archive(inventory: &Inventory, contents: Contents) -> Self {
        let temporary_tables = contents.has_rows() && !inventory.large_objects.is_empty();
        if contents == Contents::DataOnly {
            return Self { temporary_tables, ..Self::default() };
        }
        let mut tablespaces: HashMap<&str, String> = HashMap::new();
        for entry in &inventory.toc.entries {
            if let Some(name) = entry.tablespace.as_deref().filter(|name| !name.is_empty()) {
                tablespaces.entry(name).or_insert_with(|| entry.name());
            }
        }
        let mut tablespaces: Vec<_> = tablespaces.into_iter().map(|(name, object)| (name.to_owned(), object)).collect();
        tablespaces.sort();
        let made_in_public = inventory
            .toc
            .entries
            .iter()
            .any(|e| e.section == TocSection::PreData && e.namespace.as_deref() == Some("public"));
        Self {
            roles: inventory.roles.clone(),
            tablespaces,
            temporary_tables,
            public_schema: made_in_public,
            lacks: inventory.lacks.clone(),
            superuser: inventory.toc.entries.iter().filter(|e| needs_superuser(e)).map(TocEntry::object).collect(),
            natives: inventory.toc.entries.iter().filter_map(native_function).collect(),
        }
    }

    /// Those that `--roles` makes are not needed before.
    #[must_use]
    pub(in crate::ops) fn without_roles(mut self, made: &ClusterRoles) -> Self {
        self.roles = roles::still_needed(&self.roles, made);
        self
    }
}

pub(in crate::ops) async fn check_needs(
    needs: &Needs,
    target: &Server,
    options: &TargetOptions,
    findings: &mut Findings,
) -> Result<()> {
    check_roles(&needs.roles, target, options, findings).await?;
    check_superuser(&needs.superuser, target, options, findings).await?;
    check_natives(&needs.natives, target, findings).await?;
    if options.create {
        // A new database has nothing of the user's.
        let is_there = |lack: &&Lack| lack.needs_kind == "extension" && IN_A_NEW_DATABASE.contains(&&*lack.needs);
        check_lacks(&needs.lacks.iter().filter(|lack| !is_there(lack)).cloned().collect::<Vec<_>>(), findings);
    } else {
        check_lacks(&target.catalog().still_lacking(&needs.lacks).await?, findings);
    }
    if !options.no_tablespaces {
        check_tablespaces(&needs.tablespaces, target, findings).await?;
    }
    if options.create {
        // The role that makes a database may do in it what it likes.
        return Ok(());
    }
    let side = Some(Side::Target);
    let (role, database) = (&target.facts.role, &target.facts.database);
    let may_stage = "SELECT pg_catalog.has_database_privilege(pg_catalog.current_database(), 'TEMP')";
    if needs.temporary_tables && !target.catalog().scalar::<bool>(may_stage).await? {
        findings.refuse(
            side,
            format!("role {role} may not make temporary tables in database {database}, which large objects go through"),
            &format!("GRANT TEMPORARY ON DATABASE {} TO {}", quote_ident(database), quote_ident(role)),
        );
    }
    // Since 15 the right is the owner's alone, unless it was granted (release notes of 15). No schema, no right.
    let may_create = "SELECT pg_catalog.bool_and(pg_catalog.has_schema_privilege(oid, 'CREATE'))
                      FROM pg_catalog.pg_namespace WHERE nspname = 'public'";
    if needs.public_schema
        && !options.drop_target_objects
        && target.catalog().scalar::<Option<bool>>(may_create).await? == Some(false)
    {
        findings.refuse(
            side,
            format!("role {role} may not create anything in schema public of database {database}"),
            &format!("GRANT CREATE ON SCHEMA public TO {}, or connect as the database's owner", quote_ident(role)),
        );
    }
    Ok(())
}

/// What filters cut off: a table without what it needs is refused, one without a foreign key or a trigger is said.
pub(in crate::ops) fn check_lacks(lacks: &[Lack], findings: &mut Findings) {
    let say = |lacks: Vec<String>| match lacks.as_slice() {
        [a, b, c, _, _, ..] => format!("{a}; {b}; {c}; and {} more", lacks.len() - 3),
        few => few.join("; "),
    };
    let [hard, soft] = [false, true]
        .map(|spare| lacks.iter().filter(|l| l.can_do_without == spare).map(ToString::to_string).collect::<Vec<_>>());
    if !hard.is_empty() {
        findings.refuse(
            Some(Side::Source),
            format!("the filters leave out what is needed: {}", say(hard)),
            subset::WAY_OUT,
        );
    }
    if !soft.is_empty() {
        findings.warn(
            Some(Side::Source),
            format!("not made, since what they need is left out: {}", say(soft)),
            subset::WAY_OUT,
        );
    }
}

/// Of those things, what is never left out: columns may be of it. As the catalogs and as pg_dump name it.
fn is_base_type(object: &str) -> bool {
    object.starts_with("base type ") || object.starts_with("SHELL TYPE ")
}

/// Whether the role may make what only superusers may. The administrators of managed servers may make some of it.
async fn check_superuser(
    objects: &[String],
    target: &Server,
    options: &TargetOptions,
    findings: &mut Findings,
) -> Result<()> {
    if target.facts.is_superuser {
        return Ok(());
    }
    let leaves_out = options.provider.is_some() || target.catalog().managed_by().await?.is_some();
    let refused: Vec<&str> = objects.iter().map(String::as_str).filter(|o| !leaves_out || is_base_type(o)).collect();
    if refused.is_empty() {
        return Ok(());
    }
    let more = if refused.len() > 4 { format!(" and {} more", refused.len() - 4) } else { String::new() };
    let some = refused[..refused.len().min(4)].join(", ");
    let hint = if leaves_out {
        "use a superuser, or leave out what has columns of it, and it (-N, -T); else much would be lost without it"
    } else {
        "use a superuser, or add --provider (generic, heroku, rds, …): what is refused is left out, with a warning"
    };
    let message = format!("role {} is no superuser, and only those make {some}{more}", target.facts.role);
    findings.refuse(Some(Side::Target), message, hint);
    Ok(())
}

/// Whether the target has the code of functions that are written in C, or are the server's own. Without superuser the
/// target makes none of them, which [`check_superuser`] looks at.
async fn check_natives(natives: &[NativeFunction], target: &Server, findings: &mut Findings) -> Result<()> {
    const SHOWN: usize = 4;
    if natives.is_empty() || !target.facts.is_superuser || target.facts.in_recovery {
        return Ok(());
    }
    let unknown = target.catalog().unknown_natives(natives).await?;
    for (why, names) in &unknown {
        let some = names.iter().take(SHOWN).map(String::as_str).collect::<Vec<_>>().join(", ");
        let more = if names.len() > SHOWN { format!(" and {} more", names.len() - SHOWN) } else { String::new() };
        findings.refuse(
            Some(Side::Target),
            format!("{why}: needed by {some}{more}"),
            "install the library on the target's server, built for its version, or drop the functions at the source",
        );
    }
    if unknown.is_empty() {
        let number = counted(natives.len() as u64, "function");
        findings.ok(Some(Side::Target), format!("the code of {number} in C or of the server's own is there"));
    }
    Ok(())
}

/// As [`check_lacks`] where no target is known yet: it may have what is left out.
pub(in crate::ops) fn warn_of_lacks(lacks: &[Lack], findings: &mut Findings) {
    if let Some(first) = lacks.first() {
        let more = if lacks.len() > 1 { format!(", and {} more such needs", lacks.len() - 1) } else { String::new() };
        let message = format!("the filters leave out what is needed: {first}{more}");
        findings.warn(Some(Side::Source), message, "a target must have it before the restore, which looks for it");
    }
}

async fn check_tablespaces(wanted: &[(String, String)], target: &Server, findings: &mut Findings) -> Result<()> {
    if wanted.is_empty() {
        return Ok(());
    }
    let there: HashMap<String, bool> = target.catalog().tablespaces().await?.into_iter().collect();
    for (name, object) in wanted {
        let message = match there.get(name) {
            Some(true) => continue,
            Some(false) => format!("role {} may not create anything in tablespace {name}", target.facts.role),
            None => format!("the target lacks tablespace {name}, which {object} is in at the source"),
        };
        let way_out =
            if there.contains_key(name) { "GRANT CREATE ON TABLESPACE" } else { "create it (CREATE TABLESPACE)" };
        let hint = format!("{way_out}, or add --no-tablespaces: everything goes into the database's default one");
        findings.refuse(Some(Side::Target), message, &hint);
    }
    Ok(())
}

/// Roles that objects belong to, or that were granted something.
async fn check_roles(
    wanted: &RolesInUse,
    target: &Server,
    options: &TargetOptions,
    findings: &mut Findings,
) -> Result<()> {
    let there: HashSet<String> = target.catalog().role_names().await?.into_iter().collect();
    let lacks = |names: &[String]| -> Vec<String> { names.iter().filter(|n| !there.contains(*n)).cloned().collect() };
    let owners = if options.no_owner { Vec::new() } else { lacks(&wanted.owners) };
    let mut grantees = if options.no_privileges { Vec::new() } else { lacks(&wanted.grantees) };
    if options.no_owner && !options.no_privileges {
        grantees.extend(lacks(&wanted.owners));
    }
    for (names, what, option) in
        [(owners, "that own objects", "--no-owner"), (grantees, "that were granted something", "--no-privileges")]
    {
        if !names.is_empty() {
            findings.refuse(
                Some(Side::Target),
                format!("the target lacks roles {what}: {}", names.join(", ")),
                &format!(
                    "add --roles to have them made, or make them (pg_dumpall --roles-only writes how), or add {option}"
                ),
            );
        }
    }
    Ok(())
}
