use super::{COPIED, ORIGINAL, PG_RESTORED, RESTORED};
use crate::event::Event;
use crate::lab::{self, Binaries, ClientBinaries, Cluster, ClusterSpec, Durability, Major};
use crate::model::format_bytes;
use crate::ops::error::{Cause, Error, Result};
use crate::ops::options::Run;
use crate::ops::steps::lab_progress;

/// Tried in this order where nobody asks for a version: old enough to be worth leaving, and not older than need be.
const OLD: [Major; 6] = [Major::V14, Major::V15, Major::V16, Major::V13, Major::V17, Major::V12];
const NEW: [Major; 5] = [Major::V18, Major::V17, Major::V16, Major::V15, Major::V14];

/// Two servers of different majors, and the client programs that know both.
pub(super) struct Servers {
    /// The source, and the target.
    clusters: Clusters,
    pub clients: ClientBinaries,
}

/// Servers that are stopped side by side when they are dropped: each takes a second or more.
#[derive(Debug, Default)]
pub(in crate::ops) struct Clusters(pub Vec<Cluster>);

impl Drop for Clusters {
    fn drop(&mut self) {
        std::thread::scope(|scope| {
            for cluster in self.0.drain(..) {
                scope.spawn(move || drop(cluster));
            }
        });
    }
}

/// How large the sample database is.
pub(super) struct Sizes {
    pub database_bytes: u64,
    pub tables: u64,
    large_objects: u64,
}

impl Sizes {
    pub fn sentence(&self) -> String {
        format!(
            "{} tables with keys, views, a trigger, partitions and {} large objects: {} on disk",
            self.tables,
            self.large_objects,
            format_bytes(self.database_bytes)
        )
    }
}

impl Servers {
    pub async fn start(from: Option<Major>, to: Option<Major>, run: &Run) -> Result<Self> {
        if let (Some(from), Some(to)) = (from, to)
            && from > to
        {
            return Err(Error::new(Cause::Usage(format!(
                "the way is from an older server to a newer one: {from} is newer than {to}"
            ))));
        }
        let progress = lab_progress(run);
        let clients = {
            let progress = progress.clone();
            let clients = tokio::task::spawn_blocking(move || Binaries::clients(&progress)).await;
            clients.map_err(|e| Error::new(Cause::Internal(e.to_string())))??
        };
        let to_try: Vec<Major> = NEW.into_iter().filter(|&major| from.is_none_or(|from| major >= from)).collect();
        let mut clusters = Clusters(vec![start_first(to.map_or(to_try, |to| vec![to]), run).await?]);
        let newest = clusters.0[0].major();
        let from_try: Vec<Major> = OLD.into_iter().filter(|&major| major < newest).collect();
        clusters.0.insert(0, start_first(from.map_or(from_try, |from| vec![from]), run).await?);
        let servers = Self { clusters, clients };
        servers.source().create_database(ORIGINAL).await?;
        for database in [COPIED, RESTORED, PG_RESTORED] {
            servers.target().create_database(database).await?;
        }
        Ok(servers)
    }

    pub fn source(&self) -> &Cluster {
        &self.clusters.0[0]
    }

    pub fn target(&self) -> &Cluster {
        &self.clusters.0[1]
    }

    pub fn keep(self) -> Clusters {
        self.clusters
    }

    pub(super) async fn measure(&self, database: &str) -> Result<Sizes> {
        let number = async |sql: &str| -> Result<u64> {
            let text = self.source().query_one(database, sql).await?;
            text.parse().map_err(|_| Error::new(Cause::Internal(format!("`{sql}` gives {text}"))))
        };
        let user_tables = "SELECT count(*) FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace \
            WHERE relkind = 'r' AND nspname NOT LIKE 'pg\\_%' AND nspname <> 'information_schema'";
        Ok(Sizes {
            database_bytes: number("SELECT pg_database_size(current_database())").await?,
            tables: number(user_tables).await?,
            large_objects: number("SELECT count(*) FROM pg_largeobject_metadata").await?,
        })
    }

    /// Nobody is to pay for what somebody else has left to be written.
    pub async fn checkpoint(&self, run: &Run) -> Result<()> {
        run.events.send(Event::Doing { what: "CHECKPOINT on both servers".into() });
        self.source().execute("postgres", "CHECKPOINT").await?;
        Ok(self.target().execute("postgres", "CHECKPOINT").await?)
    }
}

/// A server of the first of these versions that can be had.
pub(in crate::ops) async fn start_first(majors: Vec<Major>, run: &Run) -> Result<Cluster> {
    let progress = lab_progress(run);
    let mut first_error = None;
    let last = majors.last().copied();
    for major in majors {
        run.events.send(Event::Doing { what: format!("starting PostgreSQL {major}") });
        let spec = ClusterSpec::new(major).durability(Durability::Full).set("maintenance_work_mem", "256MB");
        match Cluster::start(spec, &progress).await {
            Ok(cluster) => return Ok(cluster),
            Err(error @ (lab::Error::Server { .. } | lab::Error::Checksum { .. })) => return Err(error.into()),
            Err(error) => {
                if Some(major) != last {
                    run.events.warn(format!("PostgreSQL {major} cannot be had: {error}"));
                }
                first_error.get_or_insert(error);
            }
        }
    }
    Err(first_error.map_or_else(
        || Error::new(Cause::Usage("there is no older version to start from: give --from and --to".into())),
        Into::into,
    ))
}
