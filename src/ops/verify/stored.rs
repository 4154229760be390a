//! A target against what was stored of its source: an archive, or evidence alone.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;

use super::super::check::warn_of_unused_keys;
use super::super::error::{Cause, Error, Result};
use super::super::evidence::{Evidence, RecordedHashes, TableEvidence};
use super::super::inventory::Inventory;
use super::super::lanes::ArchivePort;
use super::super::options::Run;
use super::super::own_types::OidPatches;
use super::super::preflight::table_filter;
use super::formats::{as_stored, holds_floats_as_text, other_columns, prints_floats_otherwise};
use super::objects::Compared;
use super::scope;
use super::{Context, HashedSide, ReaderKind, Reference, SideRules, VerifyJob, list};
use crate::archive::{Archive, Identities};
use crate::model::{Chunk, Oid, QualifiedName, Relation, RelationKind};
use crate::pg::catalog::{CatalogRelation, SequenceState};
use crate::report::{ComparedKind, VerifyReport};

/// What is known of the source without it.
struct Stored {
    evidence: Evidence,
    /// To be read; else the evidence's hashes are enough.
    archive: Option<Archive>,
    /// `archive` or `evidence`.
    what: &'static str,
    path: String,
}

/// Tables that are compared: as the source had them, and as the target has them.
#[derive(Default)]
struct Pairs {
    reference: Vec<TableEvidence>,
    target: Vec<Arc<Relation>>,
}

impl Pairs {
    /// Patches by the target's OIDs instead of the source's.
    fn at_target(&self, patches: &OidPatches) -> OidPatches {
        let pairs = self.reference.iter().zip(&self.target);
        let moved = pairs.filter_map(|(r, t)| patches.get(&r.oid).map(|patch| (t.oid, patch.clone())));
        Arc::new(moved.collect())
    }
}

async fn open(path: &Path, identities: &Identities, run: &Run) -> Result<(Archive, Evidence)> {
    let (owned, keys) = (path.to_owned(), identities.clone());
    let archive = tokio::task::spawn_blocking(move || Archive::open_with(&owned, &keys)).await;
    let archive = archive.map_err(|e| Error::new(Cause::Internal(e.to_string())))??;
    warn_of_unused_keys(&archive, identities, run);
    let inventory = Inventory::of_archive(&archive).await?;
    let evidence = Evidence::of_archive(&archive, &inventory);
    Ok((archive, evidence))
}

impl VerifyJob<'_> {
    /// Every row of an archive is read.
    pub(super) async fn against_archive(&self, path: &Path) -> Result<VerifyReport> {
        let (archive, evidence) = open(path, &self.options.identities, self.run).await?;
        let path = path.display().to_string();
        self.against_stored(Stored { evidence, archive: Some(archive), what: "archive", path }).await
    }

    /// Only the target is read. `path`: a file of evidence, or an archive for the hashes in its manifest.
    pub(super) async fn against_evidence(&self, path: &Path) -> Result<VerifyReport> {
        let evidence =
            if path.is_dir() { open(path, &self.options.identities, self.run).await?.1 } else { Evidence::read(path)? };
        let path = path.display().to_string();
        self.against_stored(Stored { evidence, archive: None, what: "evidence", path }).await
    }

    async fn against_stored(&self, stored: Stored) -> Result<VerifyReport> {
        if !self.options.filters.conditions.is_empty() {
            let message = format!(
                "--where cannot be applied to an {}: one that was made with it holds those rows only",
                stored.what
            );
            return Err(Error::new(Cause::Usage(message)));
        }
        let Stored { evidence, archive, what, path } = stored;
        if evidence.sequences.is_none() {
            return Err(Error::new(Cause::Usage(format!(
                "{path} was made with --schema-only: it holds no rows to compare with"
            ))));
        }
        let (named, is_archive) = (Some(path.clone()), archive.is_some());
        self.announce(vec![self.target.info()], if is_archive { (named, None) } else { (None, named) });
        let stored: Vec<&QualifiedName> = evidence.names().collect();
        scope::check_patterns(&self.options.filters, &[self.target], &stored).await?;
        let kinds = [RelationKind::Table, RelationKind::MaterializedView];
        let listed = list(self.target, &self.options.filters, &kinds).await?;
        let (tables, views): (Vec<_>, Vec<_>) = listed.into_iter().partition(|r| r.kind == RelationKind::Table);
        let there: HashMap<_, _> = tables.into_iter().map(|r| (r.name.clone(), r)).collect();
        let mut compared = Compared::default();
        let filters = &self.options.filters;
        let without_rows = scope::without_rows(self.target, filters, evidence.tables.iter().map(|t| &t.name)).await?;
        let pairs = self.pair(&evidence, (&there, &without_rows), (what, &mut compared)).await?;
        self.compare_sequences(&evidence, (what, &mut compared)).await?;
        let relations: Vec<Relation> = pairs.reference.iter().map(TableEvidence::relation).collect();
        let types = evidence.own_types.compare_back(self.target, relations.iter()).await?;
        for (oid, why) in &types.differing {
            let name = relations.iter().find(|r| r.oid == *oid).map(|r| r.name.to_string()).unwrap_or_default();
            compared.different(ComparedKind::Table, format!("values of {name} cannot be compared: {why}"));
        }
        let counted_only = self.counted_only(&evidence, &relations, &there).await?;
        let oid_patches = pairs.at_target(&types.patches);
        let mut reference = pairs.reference;
        let large_objects = evidence.tables.iter().filter(|t| t.kind == RelationKind::LargeObjects);
        reference.extend(large_objects.filter(|_| filters.takes_large_objects()).cloned());
        let mut context = Context {
            compared,
            servers: vec![self.target.info()],
            moment: Some(evidence.source.clone()),
            counted_only,
            left_out: scope::of_stored(&evidence, (what, &views), (filters, &without_rows)),
            ..Context::default()
        };
        *(if archive.is_some() { &mut context.archive } else { &mut context.evidence }) = Some(path);
        let reference = match archive {
            Some(archive) => {
                context.recorded = RecordedHashes::of_archive(&archive);
                Reference::Side(Box::new(archive_side(archive, &reference)))
            }
            None => known(&reference)?,
        };
        let how = SideRules { encoding: evidence.encoding, access: evidence.large_object_access, settings: Vec::new() };
        let target = self.server_side(self.target, pairs.target, &how).await?;
        self.compare(reference, HashedSide { oid_patches, ..target }, context).await
    }

    /// Tables that both have; what only one has is noted.
    async fn pair(
        &self,
        evidence: &Evidence,
        (there, without_rows): (&HashMap<QualifiedName, CatalogRelation>, &HashSet<QualifiedName>),
        (what, compared): (&str, &mut Compared),
    ) -> Result<Pairs> {
        let tables: Vec<_> = evidence.tables.iter().filter(|t| t.kind != RelationKind::LargeObjects).collect();
        let names: Vec<&QualifiedName> = tables.iter().map(|t| &t.name).collect();
        let wanted = scope::matching(self.target, &self.options.filters, &names).await?;
        let stored: HashSet<&QualifiedName> = names.into_iter().chain(&evidence.excluded).collect();
        let mut extra: Vec<_> = there.keys().filter(|name| !stored.contains(name)).collect();
        extra.sort();
        for name in extra {
            compared.one_side_only(ComparedKind::Table, name, "at the target");
        }
        let mut pairs = Pairs::default();
        for table in tables.into_iter().zip(wanted).filter_map(|(t, wanted)| wanted.then_some(t)) {
            match there.get(&table.name) {
                None => compared.one_side_only(ComparedKind::Table, &table.name, &format!("in the {what}")),
                Some(_) if without_rows.contains(&table.name) => {}
                Some(other) => {
                    if let Some(why) = other_columns(&table.columns, &other.columns) {
                        compared.different(
                            ComparedKind::Table,
                            format!("{}: {why}; its rows were not compared", table.name),
                        );
                        continue;
                    }
                    pairs.target.push(Arc::new(as_stored(&table.relation(), other)));
                    pairs.reference.push(table.clone());
                }
            }
        }
        Ok(pairs)
    }

    async fn compare_sequences(&self, evidence: &Evidence, (what, compared): (&str, &mut Compared)) -> Result<()> {
        let Some(sequences) = &evidence.sequences else { return Ok(()) };
        let names: Vec<&QualifiedName> = sequences.iter().map(|s| &s.name).collect();
        let wanted = scope::matching(self.target, &self.options.filters, &names).await?;
        let sequences = sequences.iter().zip(wanted).filter(|(_, wanted)| *wanted);
        let sequences: Vec<SequenceState> = sequences.map(|(s, _)| s.clone()).collect();
        let filter = table_filter(&self.options.filters)?;
        compared.sequences(&sequences, &self.target.catalog().sequences(&filter).await?, what);
        if self.options.filters.takes_large_objects() {
            let there = self.target.catalog().large_objects().await?;
            compared.large_objects(evidence.large_objects.iter().copied(), &there, what);
        }
        Ok(())
    }

    /// Tables whose text no setting makes the same: it was written before.
    async fn counted_only(
        &self,
        evidence: &Evidence,
        relations: &[Relation],
        there: &HashMap<QualifiedName, CatalogRelation>,
    ) -> Result<HashSet<QualifiedName>> {
        if !prints_floats_otherwise(evidence.source.version, self.target.version()) {
            return Ok(HashSet::new());
        }
        let types = self.target.catalog().type_flags().await?;
        let as_text = |r: &&Relation| {
            there.get(&r.name).is_some_and(|there| holds_floats_as_text(r.format, &there.columns, &types))
        };
        Ok(relations.iter().filter(as_text).map(|r| r.load_via_root.as_ref().unwrap_or(&r.name).clone()).collect())
    }
}

/// The archive's segments of these tables.
fn archive_side(archive: Archive, tables: &[TableEvidence]) -> HashedSide<'static> {
    let kept: HashSet<Oid> = tables.iter().map(|t| t.oid).collect();
    let segments = archive.segments().iter().map(|s| s.chunk);
    let chunks: Vec<Chunk> = segments.filter(|c| kept.contains(&c.id.relation)).collect();
    let size_of = |oid| archive.relation(oid).map(|r| (r.heap_bytes, r.toast_bytes)).unwrap_or_default();
    let relation = |table: &TableEvidence| {
        let (heap_bytes, toast_bytes) = size_of(table.oid);
        Arc::new(Relation { heap_bytes, toast_bytes, ..table.relation() })
    };
    let relations = tables.iter().map(relation).collect();
    let reader = ReaderKind::Archive(Arc::new(ArchivePort::new(archive)));
    HashedSide { relations, chunks, reader, moment: None, oid_patches: OidPatches::default() }
}

/// The hashes of these tables.
fn known(tables: &[TableEvidence]) -> Result<Reference<'static>> {
    let mut sums = HashMap::new();
    for table in tables {
        let hash = table.row_hash().map_err(|e| {
            e.hint("an archive of an older pgconvoy has none in its manifest: `verify --archive` reads its rows")
        })?;
        sums.insert(table.oid, hash);
    }
    Ok(Reference::Known(tables.iter().map(|t| Arc::new(t.relation())).collect(), sums))
}
