use tokio_postgres::Config;

use super::BenchOptions;
use crate::lab::Major;
use crate::model::Side;
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
