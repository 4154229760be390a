//! One server of an operation: how it was found, the control connection, what its catalogs say of the database.

use std::path::PathBuf;
use std::time::Duration;

use tokio::task::AbortHandle;
use tokio_util::sync::CancellationToken;

use super::error::{Cause, Error, Result};
use super::options::{Run, ServerArgs};
use super::{ledger, machine};
use crate::event::ServerInfo;
use crate::flow::budget;
use crate::model::{ServerVersion, Side, counted, format_bytes};
use crate::pg::catalog::{Catalog, DatabaseFacts};
use crate::pg::conninfo::{ConnInfo, Env, ProcessEnv};
use crate::pg::control::{self, Control};
use crate::plan::chunking::Loaders;

pub(super) struct Server {
    pub side: Side,
    /// Pinned to the host that answered: every further connection goes there.
    pub conninfo: ConnInfo,
    pub control: Control,
    pub facts: DatabaseFacts,
    _stopper: Stopper,
}

/// Stops what runs on a control connection when the run is to stop: a statement that waits for a lock does not notice
/// that its client has gone.
struct Stopper(AbortHandle);

/// A cancel request that comes between two statements stops neither.
const CANCEL_AGAIN_AFTER: Duration = Duration::from_millis(300);

impl Stopper {
    fn watch(control: &Control, cancel: CancellationToken) -> Self {
        let handle = control.cancel_token();
        let watching = tokio::spawn(async move {
            cancel.cancelled().await;
            loop {
                if let Err(error) = handle.cancel().await {
                    tracing::debug!(%error, "cancel request");
                }
                tokio::time::sleep(CANCEL_AGAIN_AFTER).await;
            }
        });
        Self(watching.abort_handle())
    }
}

impl Drop for Stopper {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The environment of this process, with `postgres` as the database that is named where none is.
struct MaintenanceEnv;

impl Env for MaintenanceEnv {
    fn var(&self, name: &str) -> Option<String> {
        ProcessEnv.var(name).or_else(|| (name == "PGDATABASE").then(|| "postgres".to_owned()))
    }

    fn home(&self) -> Option<PathBuf> {
        ProcessEnv.home()
    }

    fn user_name(&self) -> Option<String> {
        ProcessEnv.user_name()
    }
}

impl Server {
    /// How pg_dump finds the server. Compiling its queries would cost more than it saves.
    pub(super) fn pg_dump_env(&self) -> Vec<(String, String)> {
        let mut environment = self.conninfo.pg_dump_env(0);
        if self.version() >= ServerVersion::V11 {
            match environment.iter_mut().find(|(name, _)| name == "PGOPTIONS") {
                Some((_, options)) => options.push_str(" -c jit=off"),
                None => environment.push(("PGOPTIONS".into(), "-c jit=off".into())),
            }
        }
        environment
    }

    /// Connects as libpq would, and looks at the database.
    pub(super) async fn connect(side: Side, args: &ServerArgs, run: &Run) -> Result<Self> {
        let conninfo = ConnInfo::resolve(side, args.conninfo.as_deref(), &ProcessEnv)?;
        for warning in &conninfo.warnings {
            run.events.warn(format!("{side}: {warning}"));
        }
        let mut server = Self::connect_to(conninfo, run).await?;
        if let Some(declared) = &args.encoding {
            server.facts.encoding = declared_encoding(server.catalog(), &server.facts, declared).await?;
        }
        Ok(server)
    }

    /// As [`Self::connect`], but to the database `postgres` where none is named: not to the user's own.
    pub(super) async fn connect_for_maintenance(side: Side, args: &ServerArgs, run: &Run) -> Result<Self> {
        let conninfo = ConnInfo::resolve(side, args.conninfo.as_deref(), &MaintenanceEnv)?;
        for warning in &conninfo.warnings {
            run.events.warn(format!("{side}: {warning}"));
        }
        Self::connect_to(conninfo, run).await
    }

    pub(super) async fn connect_to(conninfo: ConnInfo, run: &Run) -> Result<Self> {
        let side = conninfo.side();
        let control = tokio::select! {
            control = control::connect(&conninfo) => control?,
            () = run.cancel.cancelled() => return Err(Error::new(Cause::Cancelled)),
        };
        let stopper = Stopper::watch(&control, run.cancel.clone());
        let conninfo = control.pinned().clone();
        let catalog = Catalog { side, client: &control.client, version: control.version };
        let facts = catalog.database_facts().await?;
        Ok(Self { side, conninfo, control, facts, _stopper: stopper })
    }

    /// The same server, or the one that has taken its place, on a new connection.
    ///
    /// # Errors
    /// At the target also 25006, which passes: a standby that does not take its place yet.
    pub(super) async fn renewed(&self, run: &Run) -> Result<Self> {
        let renewed = Self::connect_to(self.conninfo.unpinned(), run).await?;
        if renewed.side == Side::Target && renewed.facts.in_recovery {
            return Err(ledger::is_standby().into());
        }
        Ok(renewed)
    }

    pub(super) fn catalog(&self) -> Catalog<'_> {
        Catalog { side: self.side, client: &self.control.client, version: self.control.version }
    }

    pub(super) fn version(&self) -> ServerVersion {
        self.control.version
    }

    /// How many cores the server has, where it is proven to run on this machine.
    pub(super) fn local_cpus(&self) -> Option<u32> {
        let is_here = self.conninfo.is_local() && machine::runs_backend(self.facts.backend_pid);
        if is_here { machine::cores() } else { None }
    }

    pub(super) fn info(&self) -> ServerInfo {
        ServerInfo {
            side: self.side,
            address: self.conninfo.address(),
            version: self.control.version,
            in_recovery: self.facts.in_recovery,
        }
    }
}

/// The encoding that the user says the bytes are in, where the server cannot know it. Both sides then speak it: the
/// one sends its bytes as they are, the other converts them.
async fn declared_encoding(catalog: Catalog<'_>, facts: &DatabaseFacts, declared: &str) -> Result<String> {
    if facts.encoding != "SQL_ASCII" {
        let message = format!("--source-encoding {declared}: database {} is {}", facts.database, facts.encoding);
        let error = Error::new(Cause::Refused { side: catalog.side, message });
        return Err(error.hint("only SQL_ASCII says nothing of its bytes; leave the option out"));
    }
    let name = catalog.encoding_name(declared).await?;
    name.ok_or_else(|| {
        Error::new(Cause::Usage(format!("--source-encoding {declared}: the server knows no encoding of that name")))
            .hint("names as in CREATE DATABASE … ENCODING: LATIN1, WIN1252, EUC_JP, UTF8")
    })
}

/// Connections that an operation needs beside its lanes: control, pg_dump, index builders are counted by the caller.
const SPARE_CONNECTIONS: u32 = 3;

/// How many lanes, and with blocks of which size.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lanes {
    pub count: u32,
    /// Where servers and lanes share this machine's cores: lanes that work from the beginning. The others join them
    /// while cores are idle.
    pub at_first: Option<u32>,
    pub loaders: Loaders,
    pub block_bytes: usize,
}

/// Servers that lanes keep at work for each core that all share: one waits while the other is at work.
const SERVERS_PER_CORE: u32 = 2;

/// As many lanes as were wished for, if the servers have connections and the byte budget has room for them; says so
/// where not.
pub(super) fn lanes_that_fit(wished: u32, block_bytes: usize, servers: &[&Server], run: &Run) -> Lanes {
    let mut lanes = wished.max(1);
    for server in servers {
        let free = server.facts.free_connections.saturating_sub(SPARE_CONNECTIONS).max(1);
        if free < lanes {
            run.events.warn(format!(
                "{} has room for {}: {} instead of {lanes}",
                server.side,
                counted(u64::from(free), "more connection"),
                counted(u64::from(free), "job")
            ));
            lanes = free;
        }
    }
    let (count, block_bytes) = budget::fit(lanes, block_bytes, budget::BUDGET_BYTES);
    if count < lanes {
        let budget = format_bytes(budget::BUDGET_BYTES as u64);
        run.events.warn(format!("{count} jobs instead of {lanes}: all blocks together stay within {budget}"));
    }
    let cores = shared_cores(servers);
    let of_a_lane = u32::try_from(servers.len()).unwrap_or(u32::MAX).max(1);
    let at_first = cores.map(|cores| (cores.saturating_mul(SERVERS_PER_CORE) / of_a_lane).max(1));
    let loaders = match cores.map(|cores| cores.min(count)) {
        None => Loaders::Lanes(count),
        Some(cores) if of_a_lane == 1 => Loaders::SharedCores(cores),
        Some(cores) => Loaders::SharedByAll(cores),
    };
    Lanes { count, at_first, loaders, block_bytes }
}

/// Where all servers run on this machine, they and the lanes share its cores: more lanes than keep them busy take time
/// from each other (16 lanes on 2 cores cost a tenth more CPU time than 4).
fn shared_cores(servers: &[&Server]) -> Option<u32> {
    let cores: Option<Vec<u32>> = servers.iter().map(|server| server.local_cpus()).collect();
    cores?.into_iter().min()
}
