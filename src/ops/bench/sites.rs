use std::cell::RefCell;

use tokio_postgres::Config;

use super::BenchOptions;
use crate::event::Event;
use crate::lab::Major;
use crate::model::{Side, quote_ident};
use crate::ops::demo::{Clusters, start_first};
use crate::ops::error::Result;
use crate::ops::options::{Run, ServerArgs};
use crate::ops::server::Server;
use crate::pg::{self, conninfo::Address};

/// The source's database where it is a throw-away server.
const DATABASE: &str = "bench";

/// The servers of a bench.
pub(super) struct Sites {
    pub source: Server,
    pub target: Option<Server>,
    /// Those of them that are ours. They live as long as this.
    _clusters: Clusters,
}

impl Sites {
    pub async fn start(options: &BenchOptions, run: &Run) -> Result<Self> {
        let mut clusters = Clusters::default();
        let source = match &options.source {
            Some(args) => args.clone(),
            None => own(&mut clusters, Major::V17, DATABASE, run).await?,
        };
        let target = match (&options.target, &options.source) {
            (Some(args), _) => Some(args.clone()),
            (None, None) => Some(own(&mut clusters, Major::V18, "postgres", run).await?),
            (None, Some(_)) => None,
        };
        let source = Server::connect(Side::Source, &source, run).await?;
        let target = match target {
            Some(args) => Some(Server::connect(Side::Target, &args, run).await?),
            None => None,
        };
        Ok(Self { source, target, _clusters: clusters })
    }
}

async fn own(clusters: &mut Clusters, major: Major, database: &str, run: &Run) -> Result<ServerArgs> {
    let cluster = start_first(vec![major], run).await?;
    if database != "postgres" {
        cluster.create_database(database).await?;
    }
    let args = ServerArgs { conninfo: Some(cluster.uri(database)), encoding: None };
    clusters.0.push(cluster);
    Ok(args)
}

/// The source for the lab, which connects without TLS.
pub(super) fn lab_config(server: &Server) -> Config {
    let conninfo = &server.conninfo;
    let mut config = Config::new();
    config.user(conninfo.user()).dbname(conninfo.dbname());
    if let Some(endpoint) = conninfo.endpoint() {
        match &endpoint.address {
            Address::Tcp(address) => _ = config.host(address.ip().to_string()).port(address.port()),
            Address::Unix(socket) => {
                _ = config
                    .host_path(socket.parent().unwrap_or(socket))
                    .port(conninfo.hosts()[endpoint.host_index].port);
            }
        }
    }
    let password = environment(server).into_iter().find(|(name, _)| name == "PGPASSWORD");
    if let Some((_, password)) = password {
        config.password(password);
    }
    config
}

/// How libpq in a child finds the server.
pub(super) fn environment(server: &Server) -> Vec<(String, String)> {
    server.conninfo.pg_dump_env(connected(server))
}

/// The same as one string, which holds the password: for environments only.
pub(super) fn conninfo(server: &Server, database: &str) -> String {
    server.conninfo.child_conninfo(connected(server), database).expose().to_owned()
}

fn connected(server: &Server) -> usize {
    server.conninfo.endpoint().map_or(0, |endpoint| endpoint.host_index)
}

/// A statement on a server's control connection.
pub(super) async fn execute(server: &Server, sql: &str) -> Result<()> {
    let done = server.control.client.batch_execute(sql).await;
    done.map_err(|error| pg::Error::control(server.side, &error, Some(sql)).into())
}

/// So that nobody pays for what another has left to be written. Servers where this user may not: said once.
pub(super) async fn checkpoint(servers: &[&Server], is_first: bool, run: &Run) {
    run.events.send(Event::Doing { what: "CHECKPOINT".into() });
    for server in servers {
        if let Err(error) = execute(server, "CHECKPOINT").await
            && is_first
        {
            run.events.warn(format!("no CHECKPOINT before the run: {error}"));
        }
    }
}

/// Databases at the target that are ours to drop.
pub(super) struct Databases<'a> {
    target: &'a Server,
    names: RefCell<Vec<String>>,
}

impl<'a> Databases<'a> {
    pub fn at(target: &'a Server) -> Self {
        Self { target, names: RefCell::default() }
    }

    /// A database that did not exist: creating it would fail otherwise.
    pub async fn create(&self) -> Result<String> {
        let name = format!("pgconvoy_bench_{:08x}", rand::random::<u32>());
        execute(self.target, &format!("CREATE DATABASE {} TEMPLATE template0", quote_ident(&name))).await?;
        self.names.borrow_mut().push(name.clone());
        Ok(name)
    }

    pub async fn drop(&self, name: &str) -> Result<()> {
        let terminate = format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'");
        execute(self.target, &terminate).await?;
        execute(self.target, &format!("DROP DATABASE IF EXISTS {}", quote_ident(name))).await?;
        self.names.borrow_mut().retain(|other| other != name);
        Ok(())
    }

    /// What a round that did not come to its end has left.
    pub async fn drop_all(&self) -> Result<()> {
        let left = self.names.borrow().clone();
        for name in left {
            self.drop(&name)
                .await
                .map_err(|error| error.hint(format!("the database {name} is left at the {}", Side::Target)))?;
        }
        Ok(())
    }
}
