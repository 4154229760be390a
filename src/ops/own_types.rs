//! Types that users and extensions have made: the same name on both servers need not be the same type, and never is the
//! same OID.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::error::{Cause, Error, Result};
use super::server::Server;
use crate::model::{Column, CopyFormat, Oid, QualifiedName, Relation, ServerVersion, Side};
use crate::pg::catalog::{Catalog, FIRST_OWN_OID, TypeGraph};
use crate::pg::oid_patch::{self, RowPatch, TypesDiffer};

/// What is rewritten in the rows of which relation.
pub(super) type OidPatches = Arc<HashMap<Oid, RowPatch>>;

/// The source's own types, as far as rows in binary hold them. An archive keeps it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct OwnTypes {
    graph: TypeGraph,
    /// By relation: its columns' types.
    columns: BTreeMap<Oid, BTreeMap<String, Oid>>,
}

/// What a comparison with the target came to.
#[derive(Default)]
pub(super) struct TypeComparison {
    /// What makes the source's rows the target's, byte by byte.
    pub patches: OidPatches,
    /// Relations whose binary rows the target would take for something else.
    pub differing: Vec<(Oid, TypesDiffer)>,
}

/// Whose OIDs a patch makes of the other's.
#[derive(Clone, Copy)]
enum Direction {
    ToTarget,
    ToSource,
}

impl TypeComparison {
    /// Relations that may go as text instead, with the reason.
    ///
    /// # Errors
    /// Text would be read wrong, too.
    pub(super) fn to_text(&self, relations: &[Relation]) -> Result<Vec<(Oid, String)>> {
        let to_text = self.differing.iter().map(|(oid, why)| match why {
            TypesDiffer::Parts(_) => Ok((*oid, why.to_string())),
            TypesDiffer::Attributes(_) => {
                let name = relations.iter().find(|r| r.oid == *oid).map(|r| r.name.to_string()).unwrap_or_default();
                let message = format!("values of table {name} would be read wrong: {why}");
                let error = Error::new(Cause::Refused { side: Side::Target, message });
                Err(error.hint(
                    "make the type at the target as it is at the source; where it is the row of a table with inherited \
                     columns, let the columns come in the same order in parent and child",
                ))
            }
        });
        to_text.collect()
    }

    /// What a target must have rewritten to load it: nothing from 14 on, which take no notice of users' OIDs in a stream.
    pub(super) fn patches_to_load(&self, target: ServerVersion) -> OidPatches {
        if target >= ServerVersion::V14 { OidPatches::default() } else { Arc::clone(&self.patches) }
    }
}

impl OwnTypes {
    /// `relations`: with each column's type.
    pub(super) async fn read<'r>(
        catalog: Catalog<'_>,
        relations: impl Iterator<Item = (&'r Relation, &'r [(Column, Oid)])>,
    ) -> Result<Self> {
        let columns: BTreeMap<_, BTreeMap<_, _>> = relations
            .filter(|(relation, columns)| {
                relation.format == CopyFormat::Binary && columns.iter().any(|(_, oid)| *oid >= FIRST_OWN_OID)
            })
            .map(|(relation, columns)| {
                (relation.oid, columns.iter().map(|(column, oid)| (column.name.clone(), *oid)).collect())
            })
            .collect();
        let graph = if columns.is_empty() { TypeGraph::default() } else { catalog.type_graph().await? };
        Ok(Self { graph, columns })
    }

    /// Compares them with the types of the target's tables, which must be there. Servers from 14 on would not notice
    /// another type of the same name.
    ///
    /// `relations`: of the source; a patch has their columns' order.
    pub(super) async fn compare(
        &self,
        target: &Server,
        relations: impl Iterator<Item = &Relation>,
    ) -> Result<TypeComparison> {
        self.compare_in(Direction::ToTarget, target, relations).await
    }

    /// The same the other way round: the patches make rows that the target sends the source's. By the source's OIDs.
    pub(super) async fn compare_back(
        &self,
        target: &Server,
        relations: impl Iterator<Item = &Relation>,
    ) -> Result<TypeComparison> {
        self.compare_in(Direction::ToSource, target, relations).await
    }

    async fn compare_in(
        &self,
        direction: Direction,
        target: &Server,
        relations: impl Iterator<Item = &Relation>,
    ) -> Result<TypeComparison> {
        if self.columns.is_empty() {
            return Ok(TypeComparison::default());
        }
        let graph = target.catalog().type_graph().await?;
        let mut there: HashMap<QualifiedName, HashMap<String, Oid>> = HashMap::new();
        for (table, column, _, oid) in target.catalog().loadable_columns().await? {
            there.entry(table).or_default().insert(column, oid);
        }
        let (mut patches, mut differing) = (HashMap::new(), Vec::new());
        for relation in relations.filter(|r| r.format == CopyFormat::Binary) {
            let (Some(types), Some(columns)) = (self.columns.get(&relation.oid), there.get(&relation.name)) else {
                continue;
            };
            let compiled = relation.columns.iter().map(|column| {
                // What is not there is no type's OID.
                let from = types.get(&column.name).copied().unwrap_or(0);
                let to = columns.get(&column.name).copied().unwrap_or(0);
                let (ours, theirs) = ((&self.graph, from), (&graph, to));
                match direction {
                    Direction::ToTarget => oid_patch::compile(ours, theirs),
                    Direction::ToSource => oid_patch::compile(theirs, ours),
                }
            });
            match compiled.collect::<std::result::Result<RowPatch, _>>() {
                Ok(patch) if patch.iter().any(Option::is_some) => {
                    patches.insert(relation.oid, patch);
                }
                Ok(_) => {}
                Err(differ) => differing.push((relation.oid, differ)),
            }
        }
        Ok(TypeComparison { patches: Arc::new(patches), differing })
    }
}
