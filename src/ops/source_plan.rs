//! Everything that is learnt of a source before rows move: snapshot, catalogs, schema.

use std::collections::HashMap;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::error::{Cause, Error, Result};
use super::footing::Footing;
use super::inventory::Inventory;
use super::options::{Contents, Run, SourceOptions, Statistics};
use super::own_types::OwnTypes;
use super::preflight::table_filter;
use super::reader::{Keeper, SourcePort};
use super::server::{Lanes, Server};
use super::subset;
use crate::model::{CatalogFacts, Chunk, KeyBounds, Oid, Relation, RelationKind, ServerVersion, Side};
use crate::pg::catalog::{
    Catalog, CatalogRelation, ClusterRoles, ExtensionFacts, FormatRules, LargeObjectAccess, LargeObjectFacts,
    RolesInUse, SequenceState, TableFilter, TypeMap, choose_format, lock_list_sql, read_lock_list,
};
use crate::pg::copy_sql::{ReadRules, both_conditions};
use crate::pg::session;
use crate::pg::snapshot::{Snapshot, SnapshotHolder, SnapshotMode};
use crate::pg::wire::DataConnection;
use crate::plan::chunking::{ChunkingRules, Loaders, plan_chunks};
use crate::schema::{self, Cuts, PgDumpCall, PgDumpFilters, PgDumpSearch, Toc};

/// The source at one moment.
pub(super) struct SourcePlan {
    /// Until the lanes take it.
    pub holder: Option<SnapshotHolder>,
    pub inventory: Inventory,
    /// pg_dump's archive of the schema: a file without a name, of which a killed run leaves nothing.
    pub schema_dump: Arc<File>,
    pub rules: ReadRules,
}

impl SourcePlan {
    /// Takes the snapshot, reads the catalogs in it, and has pg_dump write the schema in it.
    ///
    /// `target_version`: `None` when there is no target yet. `first`: what the run stands on that this one goes on with.
    pub(super) async fn make(
        source: &Server,
        (options, contents): (&SourceOptions, Contents),
        target_version: Option<ServerVersion>,
        first: Option<&Footing>,
        run: &Run,
    ) -> Result<Self> {
        let filter = table_filter(&options.filters)?;
        let target_knows = target_version.is_none_or(|version| version >= ServerVersion::V18);
        let may_carry = contents == Contents::Everything && target_knows;
        let statistics = if may_carry { options.statistics } else { Statistics::None };
        let wanted = Wanted { options, contents, filter: &filter, target_version, statistics, first };
        let Snapshotted { holder, schema_dump, mut read, key_bounds, conditions } =
            snapshot_with_schema(source, wanted, run).await?;
        read.facts.correct_sizes(&holder.sizes);
        let toc = {
            let file = Arc::clone(&schema_dump);
            let read = tokio::task::spawn_blocking(move || Toc::read_file(&file, Path::new("pg_dump's output"))).await;
            read.map_err(|e| Error::new(Cause::Internal(e.to_string())))??
        };
        let (relations, excluded) = choose_formats(&read, source, (&holder.sizes, &conditions));
        let own_types = read_own_types(source.catalog(), &read, relations.iter().chain(&excluded)).await?;
        let mut inventory = Inventory {
            source_version: source.version(),
            encoding: source.facts.encoding.clone(),
            relations,
            excluded,
            facts: read.facts,
            sequences: read.sequences,
            large_objects: read.large_objects,
            large_object_access: read.access,
            extensions: read.extensions.into_iter().map(|e| (e.name, e.version)).collect(),
            roles: read.roles,
            cluster_roles: read.cluster_roles,
            own_types,
            toc: Arc::new(toc),
            cuts: Cuts::default(),
            lacks: Vec::new(),
            generated_below_plain: read.generated_below_plain,
            conditions: conditions.into_keys().collect(),
            selection: options.filters.described(),
        };
        subset::cut(&mut inventory, source.catalog(), &options.filters).await?;
        let rules = ReadRules {
            version: source.version(),
            block_bytes: source.facts.block_bytes,
            large_objects: inventory.large_object_access,
            key_bounds: Arc::new(key_bounds),
        };
        Ok(Self { holder: Some(holder), inventory, schema_dump, rules })
    }

    /// The relations cut for these lanes; `chunk_bytes` is the user's wish. `loaders`: as in [`ChunkingRules`].
    fn chunks(
        &self,
        relations: &[Relation],
        (lanes, loaders): (Lanes, Option<Loaders>),
        chunk_bytes: Option<u64>,
    ) -> Vec<Chunk> {
        let rules = ChunkingRules {
            version: self.rules.version,
            block_bytes: self.rules.block_bytes,
            jobs: lanes.count,
            chunk_bytes,
            loaders,
            key_bounds: &self.rules.key_bounds,
            shared_snapshot: self.holder.as_ref().is_some_and(|h| h.snapshot.id.is_some()),
        };
        plan_chunks(relations, rules)
    }
}

/// What is to be read, in pieces, and what a later process needs to go on with it.
pub(super) struct Pieces {
    pub chunks: Vec<Chunk>,
    /// `None`: what is read cannot be had again, so that nobody can go on.
    pub footing: Option<Footing>,
}

impl SourcePlan {
    /// The chunks of all relations and large objects: those of the first run, where this one goes on with it.
    ///
    /// # Errors
    /// The first run has read something else.
    pub(super) async fn pieces(&mut self, source: &Server, how: Cutting<'_>, first: Option<Footing>) -> Result<Pieces> {
        if let Some(first) = first {
            first.check(self, source, Keeper::of(how.options)).await?;
            first.put_sizes(&mut self.inventory);
            return Ok(Pieces { chunks: first.chunks.clone(), footing: Some(first) });
        }
        let mut chunks = Vec::new();
        if how.contents.has_rows() {
            chunks = self.chunks(&self.inventory.relations, (how.lanes, how.loaders), how.options.chunk_bytes);
            chunks.extend(self.inventory.large_object_chunks().into_iter().flat_map(|(_, more)| more));
        }
        let outlives = how.options.outlives_the_process();
        let footing = outlives.then(|| Footing::of(self, &chunks)).transpose()?;
        Ok(Pieces { chunks, footing })
    }
}

/// How relations are cut.
#[derive(Clone, Copy)]
pub(super) struct Cutting<'a> {
    pub options: &'a SourceOptions,
    pub contents: Contents,
    pub lanes: Lanes,
    /// As in [`ChunkingRules`].
    pub loaders: Option<Loaders>,
}

/// On a server without an exported snapshot: whether it stood still until now, when all rows have been read.
pub(super) async fn check_still_frozen(server: &Server, snapshot: Snapshot) -> Result<()> {
    if snapshot.id.is_some() {
        return Ok(());
    }
    let (side, conninfo) = (server.side, server.conninfo.clone());
    let asked = tokio::task::spawn_blocking(move || {
        let mut connection = DataConnection::connect(side, &conninfo, &CancellationToken::new())?;
        snapshot.is_still_frozen(&mut connection)
    });
    if asked.await.map_err(|e| Error::new(Cause::Internal(e.to_string())))?? {
        return Ok(());
    }
    let message = format!("the {side} was written to while its rows were read: what was read does not fit together");
    let error = Error::new(Cause::Refused { side, message });
    Err(error.hint("stop every writer (on a standby: pause replay with pg_wal_replay_pause()), then start again"))
}

/// Whether what was read is the snapshot's, when all rows have been read; if so, the snapshot is let go.
pub(super) async fn check_still_there(source: &Server, port: &Arc<SourcePort>, stop: &CancellationToken) -> Result<()> {
    // A source that we have left may do what it likes, whatever becomes of the target.
    if port.is_proven() {
        return Ok(());
    }
    check_still_frozen(source, port.snapshot_at_the_end()).await?;
    prove_and_release(port, stop).await
}

/// See [`SourcePort::prove`].
pub(super) async fn prove_and_release(port: &Arc<SourcePort>, stop: &CancellationToken) -> Result<()> {
    let (port, stop) = (Arc::clone(port), stop.clone());
    // Closing a connection blocks for a moment, too.
    let asked = tokio::task::spawn_blocking(move || port.prove(&stop).map(|()| port.release()));
    let proven = asked.await.map_err(|e| Error::new(Cause::Internal(e.to_string())))?;
    proven.map_err(|e| Error::from(e).doing("looking whether the tables are still those of the snapshot"))
}

/// How long pg_dump waits for its locks, in milliseconds. We hold the tables' already: what it waits for is DDL that
/// waits for us, and would wait until the end.
const LOCK_WAIT_MS: u64 = 4_000;

/// How often DDL is let through.
const LOCK_ATTEMPTS: u32 = 10;

/// The snapshot, and pg_dump's schema in it. DDL that comes in after our locks and before pg_dump's stands between the
/// two (a lock request waits behind those before it): then everything is let go, and begun again behind that DDL.
async fn snapshot_with_schema(source: &Server, wanted: Wanted<'_>, run: &Run) -> Result<Snapshotted> {
    let mut attempt = 1;
    loop {
        let holder = take_snapshot(source, wanted.options, wanted.filter, run).await?;
        import_into_control(source, &holder.snapshot).await?;
        match read_schema(source, wanted, &holder, run).await {
            Ok((schema_dump, read, key_bounds, conditions)) => {
                return Ok(Snapshotted { holder, schema_dump, read, key_bounds, conditions });
            }
            // It waits for who holds the snapshot; without locks of his, what we let through would spoil it.
            Err(error) if waited_for_ddl(&error) && wanted.options.snapshot.is_some() => {
                return Err(error.hint("DDL waits at the source: end it, then give the same command again"));
            }
            Err(error) if waited_for_ddl(&error) && attempt < LOCK_ATTEMPTS => {
                run.events.warn("DDL at the source came in before all had their locks: let through, then begun again");
                // Its connection ends with it: the locks are gone before we ask for them again.
                tokio::task::spawn_blocking(move || drop(holder)).await.ok();
                source.catalog().execute("ROLLBACK").await?;
                attempt += 1;
            }
            Err(error) => return Err(error),
        }
    }
}

/// What pg_dump, the catalogs, and the conditions of `--where` say in the snapshot.
async fn read_schema(source: &Server, wanted: Wanted<'_>, holder: &SnapshotHolder, run: &Run) -> Result<SchemaRead> {
    let catalog = source.catalog();
    // The queries wait in one connection's line; pg_dump works on another one meanwhile.
    let (schema_dump, read, key_bounds) =
        tokio::try_join!(dump_schema(source, wanted, holder, run), read_catalogs(catalog, wanted), async {
            Ok(catalog.key_bounds().await?)
        },)?;
    let conditions = subset::row_conditions(source, &wanted.options.filters).await?;
    Ok((schema_dump, read, key_bounds, conditions))
}

type SchemaRead = (Arc<File>, CatalogRead, HashMap<Oid, KeyBounds>, HashMap<Oid, String>);

/// Whether pg_dump or a query of ours stood behind DDL, which waits for the locks that we hold.
fn waited_for_ddl(error: &Error) -> bool {
    match &error.cause {
        Cause::Schema(error) => error.is_lock_timeout(),
        Cause::Blocked { .. } => true,
        _ => false,
    }
}

async fn take_snapshot(source: &Server, options: &SourceOptions, filter: &str, run: &Run) -> Result<SnapshotHolder> {
    let without_data = TableFilter::any_table_sql(&options.filters.exclude_table_data)
        .map_err(|e| Error::new(Cause::Usage(e.to_string())))?;
    let list = lock_list_sql(&format!("({filter}) AND NOT ({without_data})"));
    let mode = match &options.snapshot {
        Some(name) => SnapshotMode::Imported(name.clone()),
        None if options.frozen_source => SnapshotMode::FrozenSource,
        None => SnapshotMode::Exported,
    };
    let (conninfo, version) = (source.conninfo.clone(), source.version());
    let cancel = run.cancel.clone();
    let taken = tokio::task::spawn_blocking(move || {
        let mut connection = DataConnection::connect(Side::Source, &conninfo, &cancel)?;
        connection.execute(&session::reading(version))?;
        SnapshotHolder::take(connection, &mode, |connection| read_lock_list(connection, &list))
    });
    let taken = taken.await.map_err(|e| Error::new(Cause::Internal(e.to_string())))?;
    taken.map_err(|e| Error::from(e).doing("taking a snapshot"))
}

/// The control connection reads the catalogs as of the snapshot.
async fn import_into_control(source: &Server, snapshot: &Snapshot) -> Result<()> {
    let catalog = source.catalog();
    catalog.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await?;
    if let Some(id) = &snapshot.id {
        let id = crate::model::quote_literal(id);
        catalog.execute(&format!("SET TRANSACTION SNAPSHOT {id}")).await?;
    }
    Ok(())
}

/// A file without a name, for what pg_dump writes.
fn schema_file(off_disk: bool) -> std::io::Result<File> {
    if off_disk {
        return Ok(File::from(rustix::fs::memfd_create("schema", rustix::fs::MemfdFlags::CLOEXEC)?));
    }
    tempfile::tempfile()
}

async fn dump_schema(source: &Server, wanted: Wanted<'_>, holder: &SnapshotHolder, run: &Run) -> Result<Arc<File>> {
    let Wanted { options, target_version, statistics, first, .. } = wanted;
    // Tables grow; whether there are statistics among the statements after the rows must come out the same.
    let holds_statistics = match first {
        Some(first) => statistics.are_read(first.table_bytes()),
        None => statistics.are_read(holder.sizes.values().map(|(heap, toast)| heap + toast)),
    };
    let file = schema_file(options.off_disk)
        .map_err(|e| Error::new(Cause::Internal(format!("no temporary file for the schema: {e}"))))?;
    let file = Arc::new(file);
    let search = PgDumpSearch {
        source_version: source.version(),
        target_version,
        explicit: options.pg_dump.clone(),
        extra_directories: options.pg_dump_directories.clone(),
    };
    let call = PgDumpCall {
        pg_dump: schema::find_pg_dump(&search).await?,
        environment: source.pg_dump_env(),
        output: Arc::clone(&file),
        snapshot: holder.snapshot.id.clone(),
        lock_wait_ms: LOCK_WAIT_MS,
        filters: PgDumpFilters {
            include_schemas: options.filters.include_schemas.clone(),
            exclude_schemas: options.filters.exclude_schemas.clone(),
            include_tables: options.filters.include_tables.clone(),
            exclude_tables: options.filters.exclude_tables.clone(),
            // Without it, all of them are dumped, and cut afterwards: that asks for no particular pg_dump.
            include_extensions: if options.filters.takes_large_objects() {
                Vec::new()
            } else {
                options.filters.include_extensions.clone()
            },
        },
        statistics: holds_statistics,
    };
    let info = schema::run_pg_dump(&call, &run.cancel).await?;
    for warning in info.warnings {
        run.events.warn(format!("pg_dump: {warning}"));
    }
    Ok(file)
}

/// What a source is asked for.
#[derive(Clone, Copy)]
struct Wanted<'a> {
    options: &'a SourceOptions,
    contents: Contents,
    /// The tables, as a condition on `pg_class`.
    filter: &'a str,
    target_version: Option<ServerVersion>,
    /// Those of the planner.
    statistics: Statistics,
    /// What the run stands on that this one goes on with.
    first: Option<&'a Footing>,
}

/// A snapshot and what was read in it.
struct Snapshotted {
    holder: SnapshotHolder,
    schema_dump: Arc<File>,
    read: CatalogRead,
    key_bounds: HashMap<Oid, KeyBounds>,
    /// Of the rows, by table.
    conditions: HashMap<Oid, String>,
}

/// What the catalogs say in the snapshot.
struct CatalogRead {
    relations: Vec<CatalogRelation>,
    types: TypeMap,
    facts: CatalogFacts,
    sequences: Vec<SequenceState>,
    large_objects: Vec<LargeObjectFacts>,
    access: LargeObjectAccess,
    extensions: Vec<ExtensionFacts>,
    roles: RolesInUse,
    cluster_roles: ClusterRoles,
    generated_below_plain: Vec<String>,
}

/// Independent queries are sent without waiting for each other's answers.
async fn read_catalogs(catalog: Catalog<'_>, wanted: Wanted<'_>) -> Result<CatalogRead> {
    let Wanted { options, contents, filter, .. } = wanted;
    let with_large_objects = options.filters.takes_large_objects() && contents.has_rows();
    let large_objects = async {
        let objects = if with_large_objects { catalog.large_objects().await? } else { Vec::new() };
        let access = if objects.is_empty() { LargeObjectAccess::Pages } else { catalog.large_object_access().await? };
        Ok((objects, access))
    };
    let (facts, relations, types, sequences, objects, extensions, roles, cluster_roles, generated_below_plain) = tokio::try_join!(
        crate::pg::read_catalog_facts(catalog.client, catalog.version),
        catalog.relations(filter),
        catalog.type_flags(),
        catalog.sequences(filter),
        large_objects,
        catalog.extensions(),
        catalog.roles_in_use(),
        catalog.cluster_roles(),
        catalog.generated_below_plain(filter),
    )?;
    let (large_objects, access) = objects;
    Ok(CatalogRead {
        relations,
        types,
        facts,
        sequences,
        large_objects,
        access,
        extensions,
        roles,
        cluster_roles,
        generated_below_plain,
    })
}

async fn read_own_types(
    catalog: Catalog<'_>,
    read: &CatalogRead,
    relations: impl Iterator<Item = &Relation>,
) -> Result<OwnTypes> {
    let columns: HashMap<Oid, _> = read.relations.iter().map(|r| (r.oid, r.columns.as_slice())).collect();
    OwnTypes::read(catalog, relations.filter_map(|r| Some((r, *columns.get(&r.oid)?)))).await
}

/// Heap and TOAST bytes by relation.
type Sizes = HashMap<Oid, (u64, u64)>;

/// The relations whose rows move, each with its COPY format, and those whose rows are left out.
fn choose_formats(
    read: &CatalogRead,
    source: &Server,
    (sizes, conditions): (&Sizes, &HashMap<Oid, String>),
) -> (Vec<Relation>, Vec<Relation>) {
    let rules = FormatRules {
        integer_datetimes: source.facts.integer_datetimes,
        source_is_utf8: source.facts.encoding == "UTF8",
    };
    let tables = read.relations.iter().filter(|r| r.kind == RelationKind::Table);
    tables
        .map(|r: &CatalogRelation| {
            let (heap_bytes, toast_bytes) = sizes.get(&r.oid).copied().unwrap_or_default();
            let (format, text_reason) = choose_format(&r.columns, &read.types, rules);
            Relation {
                oid: r.oid,
                name: r.name.clone(),
                kind: r.kind,
                columns: r.columns.iter().map(|(column, _)| column.clone()).collect(),
                format,
                text_reason,
                heap_bytes,
                toast_bytes,
                estimated_rows: r.estimated_rows,
                load_via_root: r.load_via_root.clone(),
                keep_order: r.keep_order,
                has_ctid: r.has_ctid,
                filter: both_conditions(r.extension_condition.as_deref(), conditions.get(&r.oid).map(String::as_str)),
                of_extension: r.extension_condition.is_some(),
            }
        })
        .partition(|r| sizes.contains_key(&r.oid))
}
