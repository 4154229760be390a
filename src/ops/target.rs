//! Putting a database together on a target: pre-data, the jobs that follow the rows, and the end.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use super::create::Made;
use super::error::{Cause, Error, Result};
use super::inventory::{Inventory, LARGE_OBJECTS_OID};
use super::job_sql::{is_refusal, one_message};
use super::ledger::{self, Ledger, Terms};
use super::options::{Contents, Run, Statistics, TargetOptions};
use super::pre_data::PreData;
use super::recorder::{PhaseTimer, there_already};
use super::resume::{self, Resumed, Settings};
use super::retry::Patience;
use super::server::Server;
use super::subset;
use crate::event::{JobKind, Phase};
use crate::model::{Oid, RelationKind, ServerVersion, Side, quote_ident, quote_literal};
use crate::pg;
use crate::pg::catalog::{Catalog, LargeObjectFacts, Place, SequenceState};
use crate::plan::restore_graph::{GraphInput, PreDataStep, RestoreGraph, StatisticsInput};
use crate::report::ThereAlready;
use crate::schema::{self, Cuts, EntryOptions, Skip, TocEntry, TocSection};

/// SQLSTATE of a statement on something that is not there.
const UNDEFINED: [&str; 4] = ["42P01", "42704", "42883", "3F000"];

/// A target whose schema is there and whose rows are awaited.
pub(super) struct PreparedTarget {
    pub graph: RestoreGraph,
    /// The relations whose rows the jobs wait for.
    pub rows_of: HashSet<Oid>,
    /// For every connection that runs jobs.
    pub prologue: Vec<String>,
    pub ledger: Ledger,
    /// What an earlier run has left.
    pub resumed: Option<Resumed>,
    large_objects: Vec<String>,
    cuts: Cuts,
    no_owner: bool,
}

impl PreparedTarget {
    /// Owners and grants of large objects, whose bytes are there: not before, since an owner may be one whom we may not
    /// write for; and before materialized views are filled, which is done with the rights of their owners.
    pub(super) async fn settle_large_objects(&self, catalog: Catalog<'_>) -> Result<()> {
        let doing = "setting owners and grants of large objects";
        run_all(catalog, &self.large_objects).await.map_err(|e| Error::from(e).doing(doing))
    }

    /// What an earlier run had moved, if this one goes on with it.
    pub(super) fn there_already(&self) -> Option<ThereAlready> {
        self.resumed.as_ref().map(|resumed| there_already(&resumed.remembered.chunks))
    }

    /// What is left out, in words, for the report.
    pub(super) fn skipped(&self, inventory: &Inventory) -> Vec<String> {
        let name = |id| inventory.toc.get(id).map_or_else(|| format!("entry {id}"), TocEntry::object);
        let skipped = self.graph.skipped.iter();
        let worth_saying = skipped.filter(|(_, skip)| matches!(skip, Skip::Unwanted | Skip::Refused | Skip::Cut));
        let mut said: Vec<String> = worth_saying
            .map(|(id, skip)| match self.cuts.entries.get(id) {
                Some(why) => format!("{}: {why}", name(*id)),
                None => format!("{}: {skip}", name(*id)),
            })
            .collect();
        let owners: HashSet<&str> = inventory.toc.entries.iter().filter_map(|e| e.owner.as_deref()).collect();
        if self.no_owner && !owners.is_empty() {
            let mut owners: Vec<_> = owners.into_iter().collect();
            owners.sort_unstable();
            said.push(format!("owners ({}): everything belongs to the role that connects", owners.join(", ")));
        }
        said
    }
}

/// What decides how a target is prepared.
pub(super) struct Preparation<'a> {
    pub inventory: &'a Inventory,
    pub options: &'a TargetOptions,
    pub contents: Contents,
    /// Connections that make objects side by side, at most.
    pub jobs: u32,
    /// For the ledger: where the rows come from, in words.
    pub origin: String,
    /// For `--resume`: what was asked for.
    pub settings: Settings,
    /// The same, of a run that reads a server: what it stands on, as JSON.
    pub footing: Option<String>,
}

impl Preparation<'_> {
    /// Drops what stands in the way if that was asked for, makes the ledger, runs the pre-data section.
    pub(super) async fn run(&self, target: &Server, run: &Run) -> Result<PreparedTarget> {
        let phase = PhaseTimer::start(Phase::PreData, run);
        let catalog = target.catalog();
        let toc = &self.inventory.toc;
        let cuts = subset::cuts_for(self.inventory, catalog).await?;
        let entry_options = self.options.entry_options(target.version(), cuts);
        let mut prologue = schema::session_prologue(toc, target.version());
        if target.version() >= ServerVersion::V17 && target.facts.is_superuser {
            // Those of the target itself: a provider's, for one. Ours come last of all.
            prologue.push("SET event_triggers = off".into());
        }
        catalog.execute(&one_message(&prologue)).await?;
        if self.options.drop_target_objects && self.contents.makes_tables() {
            self.drop_what_stands_in_the_way(target, &entry_options, run).await?;
        }
        let rows_of = self.rows_of();
        let graph = self.graph(target, &entry_options, &rows_of)?;
        for warning in &graph.warnings {
            run.events.warn(warning.clone());
        }
        let mut graph = graph;
        let mut settings = self.settings.clone();
        resume::add_jobs(&mut settings, &graph);
        let (ledger, resumed) = if self.options.resume {
            let (ledger, resumed) = resume::take_over(target, &settings, self.footing.as_ref()).await?;
            (ledger, Some(resumed))
        } else {
            self.make_schemas(&mut graph, &entry_options, catalog).await?;
            (self.make(&graph, &settings, (target, &prologue), run).await?, None)
        };
        // Nobody asks for them again.
        graph.pre_data = Vec::new();
        phase.finish();
        let (cuts, large_objects) = (entry_options.cuts, self.large_object_attributes());
        let no_owner = self.options.no_owner;
        Ok(PreparedTarget { graph, rows_of, prologue, ledger, resumed, large_objects, cuts, no_owner })
    }

    /// The relations whose rows come, large objects among them: who reads those comes after them too.
    fn rows_of(&self) -> HashSet<Oid> {
        if !self.contents.has_rows() {
            return HashSet::new();
        }
        let large_objects = (!self.inventory.large_objects.is_empty()).then_some(LARGE_OBJECTS_OID);
        self.inventory.relations.iter().map(|r| r.oid).chain(large_objects).collect()
    }

    /// The ledger, then everything that is there before rows are.
    async fn make(
        &self,
        graph: &RestoreGraph,
        settings: &Settings,
        (target, prologue): (&Server, &[String]),
        run: &Run,
    ) -> Result<Ledger> {
        let (catalog, toc, steps) = (target.catalog(), &self.inventory.toc, &graph.pre_data);
        let settings = serde_json::to_string(settings)
            .map_err(|e| Error::new(Cause::Internal(format!("the settings do not serialise: {e}"))))?;
        let terms = Terms { settings, footing: self.footing.clone() };
        let ledger = ledger::create(catalog, &self.origin, &terms).await?;
        PreData { steps, toc, target, prologue, jobs: self.jobs, run }.make().await?;
        self.create_large_objects(catalog).await?;
        if self.contents.has_rows() && graph.jobs.iter().any(|job| job.kind == JobKind::RefreshMatview) {
            // For materialized views that read them. At the end they are set again.
            set_sequences(catalog, &self.inventory.sequences).await?;
        }
        // It waits for the disk, and all before it: a crash from here on costs rows, no tables.
        Ledger::note_prepared(catalog).await?;
        Ok(ledger)
    }

    /// Schemas that objects are in and that neither the dump nor the target has: with `-t`, pg_dump writes none.
    async fn make_schemas(&self, graph: &mut RestoreGraph, options: &EntryOptions, catalog: Catalog<'_>) -> Result<()> {
        if !self.contents.makes_tables() {
            return Ok(());
        }
        let entries = self.inventory.toc.entries.iter().filter(|e| schema::skipped(e, options).is_none());
        let pre_data = entries.filter(|e| e.section == TocSection::PreData);
        let mut wanted: Vec<&str> = pre_data.filter_map(|e| e.namespace.as_deref()).collect();
        wanted.sort_unstable();
        wanted.dedup();
        let made: HashSet<&str> =
            self.inventory.toc.entries.iter().filter(|e| e.desc == "SCHEMA").map(|e| e.tag.as_str()).collect();
        wanted.retain(|name| !made.contains(name));
        for name in wanted.into_iter().rev() {
            let exists = format!(
                "SELECT EXISTS (SELECT 1 FROM pg_catalog.pg_namespace WHERE nspname = {})",
                quote_literal(name)
            );
            if !catalog.scalar::<bool>(&exists).await? {
                let step = PreDataStep {
                    dump_id: 0,
                    object: format!("SCHEMA {name}"),
                    statements: vec![format!("CREATE SCHEMA IF NOT EXISTS {}", quote_ident(name))],
                    optional: false,
                };
                // Behind the extensions: some make the schema themselves, and insist on it.
                let after = graph.pre_data.iter().rposition(|s| s.object.starts_with("EXTENSION "));
                graph.pre_data.insert(after.map_or(0, |at| at + 1), step);
            }
        }
        Ok(())
    }

    /// What is to be done, the jobs of small tables joined.
    fn graph(&self, target: &Server, entry_options: &EntryOptions, rows_of: &HashSet<Oid>) -> Result<RestoreGraph> {
        let Inventory { toc, facts, relations, .. } = self.inventory;
        let partial = &entry_options.cuts.partial_tables;
        let whole = |r: &&crate::model::Relation| {
            r.kind == RelationKind::Table && (r.filter.is_none() || partial.contains(&r.oid))
        };
        let tables: HashSet<Oid> = relations.iter().filter(whole).map(|r| r.oid).collect();
        let via_root: HashSet<Oid> = relations.iter().filter(|r| r.load_via_root.is_some()).map(|r| r.oid).collect();
        let carry = self.carries(target)?;
        let wanted = self.contents.has_rows() && self.options.statistics != Statistics::None;
        let statistics = wanted.then_some(StatisticsInput { carry, analyze: true, tables: &tables });
        let input = GraphInput {
            toc,
            facts,
            options: entry_options,
            rows_of,
            via_root: &via_root,
            rows_are_in: self.contents == Contents::PostData,
            refresh_matviews: matches!(self.contents, Contents::Everything | Contents::PostData),
            statistics,
        };
        let graph = match self.contents {
            Contents::DataOnly => RestoreGraph::of_statistics(&input)?,
            Contents::PreData => RestoreGraph::build(&input)?.without_jobs(),
            Contents::PostData => RestoreGraph::build(&input)?.without_pre_data(),
            Contents::Everything | Contents::SchemaOnly => RestoreGraph::build(&input)?,
        };
        Ok(graph.joining_small(facts))
    }

    /// Whether statistics are carried over from the source.
    fn carries(&self, target: &Server) -> Result<bool> {
        let has_them = || self.inventory.toc.entries.iter().any(|e| e.desc == "STATISTICS DATA");
        let why_not = if self.contents != Contents::Everything {
            "definitions and rows must move together for it"
        } else if target.version() < ServerVersion::V18 {
            "a target of 18 or newer is needed for it"
        } else if !has_them() {
            "the dump has none: a pg_dump of 18 or newer is needed for it, and of more than a thousand tables enough large ones"
        } else {
            return Ok(matches!(self.options.statistics, Statistics::Auto | Statistics::Carry));
        };
        if self.options.statistics != Statistics::Carry {
            return Ok(false);
        }
        let message = format!("statistics cannot be carried over: {why_not}");
        let error = Error::new(Cause::Refused { side: Side::Target, message });
        Err(error.hint("--statistics auto runs ANALYZE where they cannot be carried over"))
    }

    async fn drop_what_stands_in_the_way(
        &self,
        target: &Server,
        entry_options: &EntryOptions,
        run: &Run,
    ) -> Result<()> {
        let catalog = target.catalog();
        // What is unfinished may be at work.
        ledger::lock_run(target).await?;
        ledger::remove(catalog).await?;
        for drop in schema::drop_statements(&self.inventory.toc, entry_options) {
            if let Err(error) = catalog.execute(&drop.sql).await {
                let is_gone = error.sqlstate().is_some_and(|s| UNDEFINED.contains(&s) || schema::nothing_to_drop(s));
                if !is_gone && !drop.optional {
                    return Err(Error::from(error).doing(format!("dropping {}", drop.object)));
                }
            }
        }
        let oids: Vec<String> = self.inventory.large_objects.iter().map(|l| l.oid.to_string()).collect();
        for batch in oids.chunks(LARGE_OBJECT_BATCH) {
            catalog
                .execute(&format!(
                    "SELECT pg_catalog.lo_unlink(m.oid) FROM pg_catalog.pg_largeobject_metadata m WHERE m.oid IN ({})",
                    batch.join(", ")
                ))
                .await?;
        }
        let left = catalog.user_objects(4, &[]).await?;
        if left.is_empty() {
            return Ok(());
        }
        run.events.warn(format!("the target keeps what the source does not have: {}", left.join(", ")));
        Ok(())
    }

    async fn create_large_objects(&self, catalog: Catalog<'_>) -> Result<()> {
        if !self.contents.has_rows() {
            return Ok(());
        }
        let oids: Vec<String> = self.inventory.large_objects.iter().map(|l| l.oid.to_string()).collect();
        for batch in oids.chunks(LARGE_OBJECT_BATCH) {
            let list = batch.join(", ");
            catalog
                .execute(&format!("SELECT pg_catalog.lo_create(o) FROM pg_catalog.unnest(ARRAY[{list}]::oid[]) o"))
                .await?;
        }
        Ok(())
    }

    fn large_object_attributes(&self) -> Vec<String> {
        let of = |l: &LargeObjectFacts| l.attribute_statements(!self.options.no_owner, !self.options.no_privileges);
        self.inventory.large_objects.iter().flat_map(of).collect()
    }
}

/// Large objects created or dropped by one statement.
const LARGE_OBJECT_BATCH: usize = 1000;

/// What is left when rows and jobs are done.
pub(super) struct Ending<'a> {
    pub ledger: &'a Ledger,
    pub sequences: &'a [SequenceState],
    pub contents: Contents,
    /// The database itself, if this run has made it.
    pub made: &'a Made,
    pub run: &'a Run,
}

/// Sequences, what is left to do at a database that was made; then the ledger.
pub(super) async fn complete(target: &Server, ending: Ending<'_>) -> Result<()> {
    let Ending { ledger, run, .. } = ending;
    let phase = PhaseTimer::start(Phase::PostData, run);
    let patience = Patience::new(run, &run.cancel);
    let removing = Mutex::new(None);
    let settle = async |again: bool| {
        if !again && !target.control.client.is_closed() {
            return settle(target, &ending, &removing).await;
        }
        let renewed = target.renewed(run).await?;
        if ledger::unfinished(renewed.catalog()).await?.is_none() {
            let begun_at: Option<Place> = removing.lock().unwrap_or_else(PoisonError::into_inner).clone();
            return match begun_at {
                // It is this that had no reply. Of another server, one that was behind for one, it proves nothing.
                Some(place) if !renewed.catalog().place().await?.is_other_than(&place) => Ok(()),
                _ => Err(ledger::is_unknown()),
            };
        }
        let renewed = ledger.hold(renewed, target).await?;
        settle(&renewed, &ending, &removing).await
    };
    patience.persist("sequences, and the end", settle).await?;
    phase.finish();
    Ok(())
}

/// Can be repeated as a whole. `removing` is set when the ledger may be gone from here on: to where it was.
async fn settle(target: &Server, ending: &Ending<'_>, removing: &Mutex<Option<Place>>) -> Result<()> {
    let Ending { sequences, contents, made, run, .. } = ending;
    let catalog = target.catalog();
    if contents.has_rows() {
        set_sequences(catalog, sequences).await?;
    }
    // While the ledger says that there is something left to do.
    made.finish(run).await?;
    let place = catalog.place().await?;
    *removing.lock().unwrap_or_else(PoisonError::into_inner) = Some(place);
    ledger::remove(catalog).await
}

async fn set_sequences(catalog: Catalog<'_>, sequences: &[SequenceState]) -> Result<()> {
    let setvals = SequenceState::setval_statements(sequences);
    run_all(catalog, &setvals).await.map_err(|e| Error::from(e).doing("setting sequences"))
}

/// Runs statements in few messages; where the server refuses one of them, one by one.
async fn run_all(catalog: Catalog<'_>, statements: &[String]) -> pg::Result<()> {
    for some in statements.chunks(BATCH_STATEMENTS) {
        match catalog.execute(&one_message(some)).await {
            Err(error) if is_refusal(&error) && some.len() > 1 => {
                for statement in some {
                    catalog.execute(statement).await?;
                }
            }
            other => other?,
        }
    }
    Ok(())
}

/// Short statements in one message.
const BATCH_STATEMENTS: usize = 500;

/// Compares what the target's tables are with what the stream carries, and returns the relations that must travel as
/// text or not at all. A wrong column type loads silently wrong.
pub(super) async fn check_columns(target: &Server, inventory: &Inventory) -> Result<Vec<(Oid, String)>> {
    let columns = target.catalog().loadable_columns().await?;
    let types = target.catalog().type_flags().await?;
    let by_table: std::collections::HashMap<_, Vec<_>> =
        columns.into_iter().fold(std::collections::HashMap::new(), |mut map, (table, name, type_name, type_oid)| {
            map.entry(table).or_insert_with(Vec::new).push((name, type_name, type_oid));
            map
        });
    let mut to_text = Vec::new();
    for relation in &inventory.relations {
        if relation.columns.is_empty() {
            continue;
        }
        let Some(there) = by_table.get(&relation.name) else {
            let message = format!("the target has no table {}", relation.name);
            return Err(Error::new(Cause::Refused { side: target.side, message }));
        };
        for column in &relation.columns {
            let Some((_, type_name, type_oid)) = there.iter().find(|(name, _, _)| *name == column.name) else {
                let message =
                    format!("table {} of the target has no column {}", relation.name, quote_ident(&column.name));
                return Err(Error::new(Cause::Refused { side: target.side, message }));
            };
            if *type_name != column.type_name {
                to_text.push((relation.oid, format!("column {} is {type_name} at the target", column.name)));
            } else if types.get(type_oid).is_some_and(|t| t.no_binary_io) {
                to_text.push((
                    relation.oid,
                    format!("column {}: the target has no binary input for {type_name}", column.name),
                ));
            }
        }
    }
    Ok(to_text)
}

/// Relations shared with the lanes.
pub(super) fn share(relations: Vec<crate::model::Relation>) -> Vec<Arc<crate::model::Relation>> {
    relations.into_iter().map(Arc::new).collect()
}
