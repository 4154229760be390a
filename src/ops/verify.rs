//! Compares two databases, or an archive and a database: counts, and an order-independent hash of every row.

mod definitions;
mod formats;
mod objects;
mod scope;
mod stored;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio_util::sync::CancellationToken;

use definitions::DefinitionsJob;
use formats::{Formats, prints_floats_otherwise, with_size};
use objects::{Compared, kind_of, pair};

use super::copy::first_cause;
use super::error::{Cause, Error, Result};
use super::evidence::{self, RecordedHashes};
use super::inventory::large_object_chunks;
use super::lanes::{ArchivePort, HashLane, HashSource, Hashes, Shared};
use super::options::{Filters, Run, ServerArgs, VerifyAgainst, VerifyOptions};
use super::own_types::{OidPatches, OwnTypes};
use super::preflight::{table_filter, with_rows_filter};
use super::reader::{Keeper, SourcePort};
use super::recorder::{PhaseTimer, ms, name_some};
use super::retry::{Patience, Retrying};
use super::rows::{Cancellers, RowsPlan, Watch, move_rows};
use super::server::{Lanes, Server, lanes_that_fit};
use super::source_plan::{check_still_frozen, prove_and_release};
use super::subset;
use crate::event::{Event, Operation, Phase, ServerInfo};
use crate::flow::{Meter, RowHash, budget};
use crate::model::{Chunk, ChunkId, CopyFormat, Oid, QualifiedName, Relation, RelationKind, Side};
use crate::pg::catalog::{CatalogRelation, LargeObjectAccess, lock_list_sql, read_lock_list};
use crate::pg::copy_sql::{ReadRules, both_conditions};
use crate::pg::session;
use crate::pg::snapshot::{Snapshot, SnapshotHolder, SnapshotMode};
use crate::pg::wire::{Block, DataConnection};
use crate::plan::chunking::{ChunkingRules, plan_chunks};
use crate::report::{ComparedDefinitions, ComparedKind, Moment, TableComparison, Verdict, VerifyReport};

/// Compares. Differences are in the report, not an error.
///
/// # Errors
/// A side that cannot be read as a whole.
pub async fn verify(options: &VerifyOptions, run: &Run) -> Result<VerifyReport> {
    let (start, started_at) = (std::time::Instant::now(), OffsetDateTime::now_utc());
    let phase = PhaseTimer::start(Phase::Verify, run);
    let target = Server::connect(Side::Target, &options.target, run).await?;
    let lanes = lanes_that_fit(options.jobs, budget::SEGMENT_BLOCK_BYTES, &[&target], run);
    let job = VerifyJob { target: &target, options, lanes, run };
    let mut report = match &options.reference {
        VerifyAgainst::Server(args) => job.against_server(args).await?,
        VerifyAgainst::Archive(path) => job.against_archive(path).await?,
        VerifyAgainst::Evidence(path) => job.against_evidence(path).await?,
    };
    scope::check_something_was_compared(&report)?;
    report.started_at = started_at.format(&Rfc3339).unwrap_or_default();
    report.elapsed_ms = ms(start);
    report.tables.sort_by(|a, b| a.is_equal().cmp(&b.is_equal()).then_with(|| a.name.cmp(&b.name)));
    phase.finish();
    Ok(report)
}

/// What a report says besides the comparison of rows.
#[derive(Default)]
struct Context {
    compared: Compared,
    servers: Vec<ServerInfo>,
    /// The path of the archive or the evidence that is the reference.
    archive: Option<String>,
    evidence: Option<String>,
    /// The reference's, where it is no server.
    moment: Option<Moment>,
    definitions: Option<ComparedDefinitions>,
    /// What the source's rows of each segment were, where the archive knows.
    recorded: RecordedHashes,
    /// What took no part, in words.
    left_out: Vec<String>,
    /// Tables whose rows have no form that is the same on both sides.
    counted_only: HashSet<QualifiedName>,
}

/// The rows of both sides, by the name under which they are compared.
type Sums = BTreeMap<QualifiedName, (Arc<Relation>, RowHash, RowHash)>;

/// Chunks added up.
fn by_relation(chunks: &HashMap<ChunkId, RowHash>) -> HashMap<Oid, RowHash> {
    let mut sums: HashMap<Oid, RowHash> = HashMap::new();
    for (id, hash) in chunks {
        sums.entry(id.relation).or_default().add(*hash);
    }
    sums
}

impl Context {
    /// The reference's chunks, added up; what an archive holds must be what its source sent.
    fn sums(&mut self, chunks: &HashMap<ChunkId, RowHash>) -> HashMap<Oid, RowHash> {
        let mut wrong: Vec<&str> = chunks
            .iter()
            .filter_map(|(id, hash)| self.recorded.of.get(id).filter(|recorded| recorded.hash != *hash))
            .map(|recorded| recorded.place.as_str())
            .collect();
        wrong.sort_unstable();
        for place in wrong {
            let message = format!("{place}: its rows are not those that the source sent");
            self.compared.different(ComparedKind::Table, message);
        }
        for place in &self.recorded.unreadable {
            self.compared.different(ComparedKind::Table, format!("{place}: what its record says is no hash of rows"));
        }
        by_relation(chunks)
    }

    fn report(self, sums: Sums, moments: Vec<Moment>) -> VerifyReport {
        let compare = |(name, (relation, reference, target)): (QualifiedName, (Arc<Relation>, RowHash, RowHash))| {
            let is_hashed = !self.counted_only.contains(&name);
            let hash = |of: RowHash| if is_hashed { of.to_string() } else { String::new() };
            TableComparison {
                kind: kind_of(relation.kind),
                name,
                reference_rows: reference.rows,
                target_rows: target.rows,
                reference_hash: hash(reference),
                target_hash: hash(target),
                format: relation.format,
            }
        };
        let counted = self.counted_only.iter().map(|name| {
            format!("{name} was only counted: servers before 12 print floating-point values otherwise than newer ones")
        });
        let mut warnings: Vec<String> = counted.collect();
        if self.recorded.missing > 0 {
            warnings.push(format!(
                "segments of the archive that hold no hash of what the source sent: {}; their rows were compared with the \
                 target's alone",
                self.recorded.missing
            ));
        }
        let tables: Vec<TableComparison> = sums.into_iter().map(compare).collect();
        if tables.iter().any(|t| t.kind == ComparedKind::MaterializedView && !t.is_equal()) {
            warnings.push(
                "a materialized view is filled anew at the target: one that was stale at the source, or that depends \
                 on the time, differs"
                    .into(),
            );
        }
        if self.definitions.is_some_and(|d| !d.by_statement) {
            warnings.push(
                "servers of two major versions print most definitions otherwise: which objects exist was compared, and \
                 the statements of comments, extensions, foreign keys, casts and transforms"
                    .into(),
            );
        }
        let Self { servers, archive, evidence, compared, definitions, moment, left_out, .. } = self;
        let Compared { differences, sequences, large_objects } = compared;
        let is_equal = differences.is_empty() && tables.iter().all(TableComparison::is_equal);
        VerifyReport {
            verdict: if is_equal { Verdict::Equal } else { Verdict::Different },
            pgconvoy_version: env!("CARGO_PKG_VERSION").into(),
            started_at: String::new(),
            elapsed_ms: 0,
            servers,
            moments: moment.into_iter().chain(moments).collect(),
            archive,
            evidence,
            counted_only: tables.iter().filter(|t| t.is_only_counted()).count(),
            tables,
            sequences,
            large_objects,
            definitions,
            differences,
            left_out,
            warnings,
        }
    }
}

struct VerifyJob<'a> {
    target: &'a Server,
    options: &'a VerifyOptions,
    lanes: Lanes,
    run: &'a Run,
}

/// One side: what is read, by which lanes, into which hashes.
struct HashedSide<'s> {
    relations: Vec<Arc<Relation>>,
    chunks: Vec<Chunk>,
    reader: ReaderKind,
    /// A server, and the moment at which it is read.
    moment: Option<(&'s Server, Snapshot, Moment)>,
    /// What makes its rows those of the other side.
    oid_patches: OidPatches,
}

enum ReaderKind {
    Server(Arc<SourcePort>),
    Archive(Arc<ArchivePort>),
}

/// What a target is compared with.
enum Reference<'s> {
    /// It is read.
    Side(Box<HashedSide<'s>>),
    /// It was read before.
    Known(Vec<Arc<Relation>>, HashMap<Oid, RowHash>),
}

impl VerifyJob<'_> {
    async fn against_server(&self, args: &ServerArgs) -> Result<VerifyReport> {
        let source = Server::connect(Side::Source, args, self.run).await?;
        self.announce(vec![source.info(), self.target.info()], (None, None));
        scope::check_patterns(&self.options.filters, &[&source, self.target], &[]).await?;
        let kinds = [RelationKind::Table, RelationKind::MaterializedView];
        let mut reference = list(&source, &self.options.filters, &kinds).await?;
        let mut target = list(self.target, &self.options.filters, &kinds).await?;
        apply_conditions(&source, &mut reference, &self.options.filters).await?;
        apply_conditions(self.target, &mut target, &self.options.filters).await?;
        let mut compared = Compared::default();
        let names = reference.iter().map(|r| &r.name);
        let without_rows = scope::without_rows(&source, &self.options.filters, names).await?;
        let pairs = pair(reference, target, &without_rows, &mut compared);
        let filter = table_filter(&self.options.filters)?;
        let sequences = source.catalog().sequences(&filter).await?;
        compared.sequences(&sequences, &self.target.catalog().sequences(&filter).await?, "source");
        if self.options.filters.takes_large_objects() {
            let objects = [source.catalog().large_objects().await?, self.target.catalog().large_objects().await?];
            compared.large_objects(objects[0].iter().map(|o| o.oid), &objects[1], "source");
        }
        let mut definitions = None;
        if let Some(wanted) = &self.options.definitions {
            let (filters, run) = (&self.options.filters, self.run);
            let job = DefinitionsJob { source: &source, target: self.target, filters, definitions: wanted, run };
            definitions = Some(job.run(&mut compared).await?);
        }
        let access = self.common_access(&source).await?;
        let mut formats = Formats::choose(&pairs, &source, self.target).await?;
        let oid_patches = self.same_types(&source, &pairs, &mut formats).await?;
        let same_encoding = source.facts.encoding == self.target.facts.encoding;
        let declared = args.encoding.is_some();
        let encoding = if same_encoding || declared { source.facts.encoding.clone() } else { "UTF8".into() };
        let settings = self.same_floats(&source, &formats.floats_as_text(&pairs));
        let how = SideRules { encoding, access, settings };
        let mut reference = self.server_side(&source, formats.apply(pairs.iter().map(|(r, _)| r)), &how).await?;
        reference.oid_patches = oid_patches;
        let target = self.server_side(self.target, formats.apply(pairs.iter().map(|(_, t)| t)), &how).await?;
        let servers = vec![source.info(), self.target.info()];
        let left_out = scope::of_this_comparison(&self.options.filters, &without_rows);
        let context = Context { compared, servers, definitions, left_out, ..Context::default() };
        self.compare(Reference::Side(Box::new(reference)), target, context).await
    }

    /// What makes the source's rows in binary the target's, where both differ in their own types' OIDs. Where they differ
    /// in more, text it is.
    async fn same_types(
        &self,
        source: &Server,
        pairs: &[(CatalogRelation, CatalogRelation)],
        formats: &mut Formats,
    ) -> Result<OidPatches> {
        let relations = formats.apply(pairs.iter().map(|(r, _)| r));
        let columns = pairs.iter().map(|(r, _)| r.columns.as_slice());
        let own_types = OwnTypes::read(source.catalog(), relations.iter().map(AsRef::as_ref).zip(columns)).await?;
        let compared = own_types.compare(self.target, relations.iter().map(AsRef::as_ref)).await?;
        for (oid, _) in &compared.differing {
            let differing = relations.iter().filter(|r| r.oid == *oid);
            formats.of.extend(differing.map(|r| (r.name.clone(), CopyFormat::Text)));
        }
        Ok(compared.patches)
    }

    /// Settings with which both sides print the same floating-point value the same way, where that is needed. Most
    /// tables do not need it: they are read in binary.
    fn same_floats(&self, source: &Server, rounded: &[&QualifiedName]) -> Vec<String> {
        if rounded.is_empty() || !prints_floats_otherwise(source.version(), self.target.version()) {
            return Vec::new();
        }
        self.run.events.warn(format!(
            "floating-point values of {} are compared to 15 digits (6 of type real): they are read as text, and servers \
             before 12 print the rest otherwise",
            name_some(rounded.iter().copied())
        ));
        vec!["SET extra_float_digits = 0".into()]
    }

    fn announce(&self, servers: Vec<ServerInfo>, (archive, evidence): (Option<String>, Option<String>)) {
        let (operation, jobs) = (Operation::Verify, self.lanes.count);
        self.run.events.send(Event::RunStarted { operation, servers, archive, evidence, jobs });
    }

    /// A way to read large objects that both servers allow.
    async fn common_access(&self, source: &Server) -> Result<LargeObjectAccess> {
        let everywhere =
            [source.catalog().large_object_access().await, self.target.catalog().large_object_access().await];
        let pages = everywhere.iter().all(|access| matches!(access, Ok(LargeObjectAccess::Pages)));
        Ok(if pages { LargeObjectAccess::Pages } else { LargeObjectAccess::Slices })
    }

    /// A side that is a server: its snapshot, its chunks.
    async fn server_side<'s>(
        &self,
        server: &'s Server,
        relations: Vec<Arc<Relation>>,
        how: &SideRules,
    ) -> Result<HashedSide<'s>> {
        let filter = with_rows_filter(&self.options.filters)?;
        let holder = snapshot(server, lock_list_sql(&filter), how, self.run).await?;
        let rules = ChunkingRules {
            version: server.version(),
            block_bytes: server.facts.block_bytes,
            jobs: self.lanes.count,
            chunk_bytes: None,
            loaders: None,
            shared_snapshot: holder.snapshot.id.is_some(),
            key_bounds: &HashMap::new(),
        };
        let mut relations: Vec<_> = relations.iter().map(|r| Arc::new(with_size(r, &holder.sizes))).collect();
        let mut chunks = plan_chunks(&relations, rules);
        if self.options.filters.takes_large_objects() {
            let objects = server.catalog().large_objects().await?;
            if let Some((relation, more)) = large_object_chunks(&objects) {
                relations.push(Arc::new(relation));
                chunks.extend(more);
            }
        }
        let read_rules = ReadRules {
            version: server.version(),
            block_bytes: server.facts.block_bytes,
            large_objects: how.access,
            key_bounds: Arc::default(),
        };
        let port = SourcePort {
            conninfo: server.conninfo.clone(),
            snapshot: holder.snapshot.clone(),
            rules: read_rules,
            encoding: how.encoding.clone(),
            extra_settings: how.settings.clone(),
            keeper: Keeper::Lane0,
            went_on_without: AtomicBool::new(false),
            is_proven: AtomicBool::new(false),
            holder: Mutex::new(Some(holder.connection)),
            locked: holder.tables,
        };
        let moment = evidence::moment(server, port.snapshot.lsn).await;
        let moment = Some((server, port.snapshot.clone(), moment));
        let (reader, oid_patches) = (ReaderKind::Server(Arc::new(port)), OidPatches::default());
        Ok(HashedSide { relations, chunks, reader, moment, oid_patches })
    }

    /// Hashes both sides at the same time.
    async fn compare(
        &self,
        mut reference: Reference<'_>,
        mut target: HashedSide<'_>,
        mut context: Context,
    ) -> Result<VerifyReport> {
        let stop = self.run.cancel.child_token();
        let (relations, of_reference) = match &mut reference {
            Reference::Side(side) => (side.relations.clone(), side.moment.take()),
            Reference::Known(relations, _) => (relations.clone(), None),
        };
        let moments: Vec<_> = of_reference.into_iter().chain(target.moment.take()).collect();
        let pairs = pairs_of(&relations, &target.relations);
        // One side is enough to watch: both go at the pace of the slower one's server.
        let is_read = matches!(reference, Reference::Side(_));
        let reference = async {
            match reference {
                Reference::Side(side) => Ok(context.sums(&self.hash(*side, &stop, true).await?)),
                Reference::Known(_, sums) => Ok(sums),
            }
        };
        let (left, right) = tokio::join!(reference, self.hash(target, &stop, !is_read));
        let (left, right) = match (left, right) {
            (Ok(left), Ok(right)) => (left, by_relation(&right)),
            (left, right) => {
                first_cause(left.map(drop), right.map(drop))?;
                return Err(Error::new(Cause::Cancelled));
            }
        };
        let mut read = Vec::new();
        for (server, snapshot, moment) in moments {
            check_still_frozen(server, snapshot).await?;
            read.push(moment);
        }
        // Rows that were loaded through a root can be in another of its partitions: only their sum is the same.
        let mut sums = Sums::new();
        for (relation, target_oid) in pairs {
            let name = relation.load_via_root.as_ref().unwrap_or(&relation.name).clone();
            let left = left.get(&relation.oid).copied().unwrap_or_default();
            let (_, reference, target) = sums.entry(name).or_insert((relation, <_>::default(), <_>::default()));
            reference.add(left);
            target.add(right.get(&target_oid).copied().unwrap_or_default());
        }
        Ok(context.report(sums, read))
    }

    async fn hash(
        &self,
        side: HashedSide<'_>,
        stop: &CancellationToken,
        visible: bool,
    ) -> Result<HashMap<ChunkId, RowHash>> {
        let plan = RowsPlan::new(&side.relations, side.chunks, self.lanes);
        let run = if visible { self.run.clone() } else { self.run.silent() };
        plan.announce(&run);
        let shared = Shared {
            board: Arc::clone(&plan.board),
            meter: Arc::new(Meter::default()),
            stop: stop.clone(),
            cancellers: Cancellers::default(),
            block_bytes: self.lanes.block_bytes,
            patience: Patience::new(self.run, stop),
        };
        let hashes: Hashes = Arc::default();
        let cancellers = shared.cancellers.clone();
        let (reader, collected, oid_patches) = (side.reader, Arc::clone(&hashes), side.oid_patches);
        let port = if let ReaderKind::Server(port) = &reader { Some(Arc::clone(port)) } else { None };
        let patience = shared.patience.clone();
        let open = move |index| {
            let source = match &reader {
                ReaderKind::Server(port) => HashSource::Server(Box::new(port.open(index, &shared)?)),
                ReaderKind::Archive(port) => HashSource::Archive(Arc::clone(port)),
            };
            let block = Block::new(shared.block_bytes);
            let (oid_patches, hashes) = (Arc::clone(&oid_patches), Arc::clone(&collected));
            Ok(HashLane { source, oid_patches, hashes, block, shared: shared.clone() })
        };
        let make = move |index| Retrying::open(index, &patience, |_| open(index));
        move_rows(plan, make, Watch { run: &run, cancellers, stop: stop.clone() }, |_| {}).await?;
        if let Some(port) = port {
            prove_and_release(&port, stop).await?;
        }
        Ok(std::mem::take(&mut *hashes.lock().unwrap_or_else(PoisonError::into_inner)))
    }
}

/// What has rows, by name.
async fn list(server: &Server, filters: &Filters, kinds: &[RelationKind]) -> Result<Vec<CatalogRelation>> {
    let relations = server.catalog().relations(&table_filter(filters)?).await?;
    let mut tables: Vec<_> = relations.into_iter().filter(|r| kinds.contains(&r.kind)).collect();
    tables.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(tables)
}

/// Sees to it that only the rows of `--where` are read.
async fn apply_conditions(server: &Server, tables: &mut [CatalogRelation], filters: &Filters) -> Result<()> {
    let conditions = subset::row_conditions(server, filters).await?;
    for table in tables {
        let condition = conditions.get(&table.oid).map(String::as_str);
        table.extension_condition = both_conditions(table.extension_condition.as_deref(), condition);
    }
    Ok(())
}

/// How both sides are read.
struct SideRules {
    /// The client encoding.
    encoding: String,
    access: LargeObjectAccess,
    /// Statements for each connection besides the usual settings.
    settings: Vec<String>,
}

/// The relations of both sides by name, with the target's OID. Large objects may be on one side only.
fn pairs_of(reference: &[Arc<Relation>], target: &[Arc<Relation>]) -> Vec<(Arc<Relation>, Oid)> {
    let by_name: HashMap<&QualifiedName, Oid> = target.iter().map(|r| (&r.name, r.oid)).collect();
    let of = |r: &Arc<Relation>| (Arc::clone(r), by_name.get(&r.name).copied().unwrap_or(r.oid));
    let mut pairs: Vec<_> = reference.iter().map(of).collect();
    let known: HashSet<&QualifiedName> = reference.iter().map(|r| &r.name).collect();
    let extra = target.iter().filter(|t| !known.contains(&t.name));
    pairs.extend(extra.map(|t| (Arc::clone(t), t.oid)));
    pairs
}

async fn snapshot(server: &Server, list: String, how: &SideRules, run: &Run) -> Result<SnapshotHolder> {
    let (side, conninfo, version) = (server.side, server.conninfo.clone(), server.version());
    let (cancel, settings) = (run.cancel.clone(), how.settings.clone());
    let taken = tokio::task::spawn_blocking(move || {
        let mut connection = DataConnection::connect(side, &conninfo, &cancel)?;
        connection.execute(&session::reading(version))?;
        for setting in &settings {
            connection.execute(setting)?;
        }
        let list = |connection: &mut DataConnection| read_lock_list(connection, &list);
        SnapshotHolder::take(connection, &SnapshotMode::ExportedOrFrozen, list)
    });
    Ok(taken.await.map_err(|e| Error::new(Cause::Internal(e.to_string())))??)
}
