//! `restore --skip-damaged`: what can be had of a damaged archive, and what cannot, by name.

use std::collections::HashSet;
use std::path::Path;

use super::error::{Cause, Error, Result};
use super::inventory::{Inventory, LARGE_OBJECTS_OID};
use super::options::{RestoreOptions, Run};
use crate::archive;
use crate::model::Oid;

/// What is not restored.
#[derive(Default)]
pub(super) struct Damage {
    relations: HashSet<Oid>,
    /// With segment, block and table.
    pub found: Vec<String>,
}

/// Reads every byte of the archive, before the target is touched.
///
/// # Errors
/// Damage of the manifest or of the schema: nothing can be restored then.
pub(super) async fn find_damage(options: &RestoreOptions, run: &Run) -> Result<Damage> {
    let (path, identities) = (options.archive.clone(), options.identities.clone());
    let (jobs, cancel) = (options.jobs, run.cancel.clone());
    let checked =
        tokio::task::spawn_blocking(move || archive::check_with((&path, &identities), jobs, &|_| (), &cancel)).await;
    let report = match checked.map_err(|e| Error::new(Cause::Internal(e.to_string())))? {
        Err(_) if run.cancel.is_cancelled() => return Err(Error::new(Cause::Cancelled)),
        checked => checked?,
    };
    let relations: HashSet<Oid> = report.damaged_relations.into_iter().collect();
    // Files that do not belong there harm nobody; the schema's damage is found when it is opened.
    let found = if relations.is_empty() { Vec::new() } else { report.damage };
    Ok(Damage { relations, found })
}

impl Damage {
    pub(super) fn is_none(&self) -> bool {
        self.relations.is_empty()
    }

    /// Takes the rows of damaged tables out of what is restored. Their definitions stay; foreign keys that refer to them
    /// are tried, and stay NOT VALID where they do not hold.
    pub(super) fn leave_out(&self, inventory: &mut Inventory, run: &Run) -> Vec<String> {
        let mut left_out = Vec::new();
        for relation in std::mem::take(&mut inventory.relations) {
            if self.relations.contains(&relation.oid) {
                left_out.push(format!("all rows of {}: its segments are damaged", relation.name));
                inventory.cuts.partial_tables.insert(relation.oid);
                inventory.excluded.push(relation);
            } else {
                inventory.relations.push(relation);
            }
        }
        if self.relations.contains(&LARGE_OBJECTS_OID) {
            let count = inventory.large_objects.len();
            left_out.push(format!("all {count} large objects: their segments are damaged"));
            inventory.large_objects.clear();
        }
        for what in &left_out {
            run.events.warn(format!("NOT restored: {what}"));
        }
        left_out
    }
}

/// How a damaged archive is restored nevertheless.
pub(super) fn way_out(error: Error, archive: &Path) -> Error {
    let is_damage = matches!(&error.cause, Cause::Archive(archive::Error::DamagedSegment(_)));
    if !is_damage {
        return error;
    }
    error.hint(format!(
        "`pgconvoy check {}` lists all damage; --skip-damaged restores everything but the rows of damaged tables",
        archive.display()
    ))
}
