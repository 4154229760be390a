//! Roles of the source's cluster, made at the target: `--roles`.

use std::collections::{HashMap, HashSet};

use super::create::refused_setting;
use super::error::{Error, Result};
use super::options::Run;
use super::preflight::Findings;
use super::server::Server;
use crate::model::Side;
use crate::pg::catalog::{ClusterRoles, Membership, RoleFacts, RolesInUse};
use crate::pg::conninfo::Secret;

/// Stored passwords by role, or why there are none.
pub(super) enum Passwords {
    Read(Vec<(String, Secret)>),
    /// This role of the source may not read them.
    Unreadable(String),
    /// An archive holds none.
    NotInArchives,
}

impl Passwords {
    pub(super) async fn read(source: &Server) -> Result<Self> {
        let read = source.catalog().role_passwords().await?;
        Ok(read.map_or_else(|| Self::Unreadable(source.facts.role.clone()), Self::Read))
    }
}

/// Says before the start what is made, what is left as it is, and what cannot be had.
///
/// # Errors
/// The target cannot be asked. That roles cannot be made at all is a finding.
pub(super) async fn check(wanted: &ClusterRoles, target: &Server, findings: &mut Findings) -> Result<()> {
    let side = Some(Side::Target);
    let there = target.catalog().cluster_roles().await?;
    let by_name: HashMap<&str, &RoleFacts> = there.roles.iter().map(|r| (r.name.as_str(), r)).collect();
    for role in &wanted.roles {
        let differences = by_name.get(role.name.as_str()).map(|other| role.differences(other)).unwrap_or_default();
        if !differences.is_empty() {
            findings.warn(
                side,
                format!("role {} is there already, with other {}", role.name, differences.join(", ")),
                "it is left as it is",
            );
        }
    }
    let missing: Vec<&RoleFacts> = missing(wanted, &there);
    let may_create: bool = target
        .catalog()
        .scalar("SELECT rolsuper OR rolcreaterole FROM pg_catalog.pg_roles WHERE rolname = current_user")
        .await?;
    if !missing.is_empty() && !may_create {
        let names: Vec<&str> = missing.iter().map(|r| r.name.as_str()).collect();
        findings.refuse(
            side,
            format!("role {} may not make roles, and these are missing: {}", target.facts.role, names.join(", ")),
            "connect as a role with CREATEROLE, or leave --roles out and make them by other means",
        );
    } else {
        findings
            .ok(side, format!("{} roles are made, {} are there", missing.len(), wanted.roles.len() - missing.len()));
    }
    Ok(())
}

/// The roles that a database needs and that `--roles` will not make.
pub(super) fn still_needed(in_use: &RolesInUse, made: &ClusterRoles) -> RolesInUse {
    let made: HashSet<&str> = made.roles.iter().map(|r| r.name.as_str()).collect();
    let rest = |names: &[String]| names.iter().filter(|n| !made.contains(n.as_str())).cloned().collect();
    RolesInUse { owners: rest(&in_use.owners), grantees: rest(&in_use.grantees) }
}

fn missing<'w>(wanted: &'w ClusterRoles, there: &ClusterRoles) -> Vec<&'w RoleFacts> {
    let names: HashSet<&str> = there.roles.iter().map(|r| r.name.as_str()).collect();
    wanted.roles.iter().filter(|r| !names.contains(r.name.as_str())).collect()
}

/// Makes the roles that the target lacks, with attributes, settings, memberships and, where they could be read,
/// passwords. Returns what could not be had, in words, for the report. Roles that are there are left as they are.
///
/// # Errors
/// A role cannot be made; or, as a superuser, a membership cannot be granted.
pub(super) async fn create(
    wanted: &ClusterRoles,
    passwords: &Passwords,
    target: &Server,
    run: &Run,
) -> Result<Vec<String>> {
    let catalog = target.catalog();
    let there = catalog.cluster_roles().await?;
    let made = missing(wanted, &there);
    let may_all = target.facts.is_superuser;
    let may_give = catalog.attributes_to_give().await?;
    let mut left_out = Vec::new();
    for role in &made {
        for statement in role.create_statements(&may_give) {
            let done = catalog.execute(&statement).await;
            done.map_err(|e| Error::from(e).doing(format!("creating role {}", role.name)))?;
        }
        let words = role.not_to_be_given(&may_give);
        if !words.is_empty() {
            let (name, words, who) = (&role.name, words.join(", "), &target.facts.role);
            left_out.push(format!("role {name}: {words}, which role {who} cannot give"));
        }
        for statement in role.setting_statements() {
            if let Err(error) = catalog.execute(&statement).await {
                let refused = refused_setting(&statement, &error);
                left_out.push(format!("role {}: {refused}", role.name));
                run.events.warn(refused);
            }
        }
    }
    let names: HashSet<&str> = made.iter().map(|r| r.name.as_str()).collect();
    left_out.extend(set_passwords(&made, passwords, target).await?);
    let is_ours = |m: &&Membership| names.contains(m.role.as_str()) || names.contains(m.member.as_str());
    let now_there: HashSet<String> = catalog.role_names().await?.into_iter().collect();
    for membership in wanted.memberships.iter().filter(is_ours) {
        if membership.role.starts_with("pg_") && !now_there.contains(&membership.role) {
            let Membership { member, role, .. } = membership;
            left_out.push(format!("membership of {member} in {role}: the target has no such predefined role"));
            continue;
        }
        if let Err(error) = catalog.execute(&membership.grant_statement(target.version())).await {
            let what = format!("membership of {} in {}", membership.member, membership.role);
            if may_all {
                return Err(Error::from(error).doing(format!("granting {what}")));
            }
            left_out.push(format!("{what}: {error}"));
        }
    }
    let here: HashSet<&str> = there.tablespaces.iter().map(String::as_str).collect();
    let lacks = wanted.tablespaces.iter().filter(|t| !here.contains(t.as_str()));
    left_out.extend(lacks.map(|t| format!("tablespace {t}: it is not made, a directory of the server belongs to it")));
    Ok(left_out)
}

async fn set_passwords(made: &[&RoleFacts], passwords: &Passwords, target: &Server) -> Result<Vec<String>> {
    let why = match passwords {
        Passwords::Read(_) => None,
        Passwords::Unreadable(role) => Some(format!("role {role} of the source may not read them (pg_authid)")),
        Passwords::NotInArchives => Some("an archive never holds them".to_owned()),
    };
    if let Some(why) = why {
        let can_log_in = made.iter().filter(|r| r.attributes.iter().any(|a| a == "LOGIN"));
        let names: Vec<&str> = can_log_in.map(|r| r.name.as_str()).collect();
        let said = format!("passwords of roles {}: {why}; set them anew, with ALTER ROLE", names.join(", "));
        return Ok(if names.is_empty() { Vec::new() } else { vec![said] });
    }
    let Passwords::Read(passwords) = passwords else { return Ok(Vec::new()) };
    for role in made {
        if let Some((_, password)) = passwords.iter().find(|(name, _)| *name == role.name) {
            let done = target.catalog().set_role_password(&role.name, password).await;
            done.map_err(|e| Error::from(e).doing(format!("setting the password of role {}", role.name)))?;
        }
    }
    Ok(Vec::new())
}
