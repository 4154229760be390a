//! Filling a database over several connections at once.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use futures::future::try_join_all;
use tokio_postgres::{Client, Config};

use super::cluster::connect;
use super::{Error, Progress, Result};

/// A connection set for making data: nothing of the user's own settings shows in what is made.
pub(super) async fn loader(config: &Config) -> Result<Client> {
    let client = connect(config).await?;
    let settings = "SET synchronous_commit = off; SET maintenance_work_mem = '256MB'; SET timezone = 'UTC'; \
                    SET datestyle = 'ISO, MDY'; SET statement_timeout = 0; SET client_min_messages = warning";
    run(&client, settings).await?;
    Ok(client)
}

/// Runs statements one after the other, each in its own transaction unless it says otherwise.
pub(super) async fn run(client: &Client, sql: &str) -> Result<()> {
    let what = || sql.trim().lines().next().unwrap_or_default().to_owned();
    client.batch_execute(sql).await.map_err(|error| Error::sql(what())(error))
}

/// Runs statements in any order over some connections, and says at every tenth how far it is.
pub(super) async fn side_by_side(
    config: &Config,
    what: &str,
    statements: Vec<String>,
    progress: &Progress,
) -> Result<()> {
    const CONNECTIONS: usize = 4;
    let total = statements.len();
    let queue = Mutex::new(VecDeque::from(statements));
    let done = AtomicUsize::new(0);
    let worker = async || {
        let client = loader(config).await?;
        loop {
            let next = queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
            let Some(statement) = next else { return Ok(()) };
            run(&client, &statement).await?;
            let now = done.fetch_add(1, Ordering::Relaxed) + 1;
            if now * 10 / total > (now - 1) * 10 / total {
                progress.say(format!("{what}: {} %", now * 10 / total * 10));
            }
        }
    };
    try_join_all((0..CONNECTIONS.min(total)).map(|_| worker())).await.map(drop)
}

/// A statement for rows `1..=rows`, cut into slices: `$first` and `$last` in it are replaced.
pub(super) fn slices(template: &str, rows: u64, rows_per_slice: u64) -> Vec<String> {
    let starts = (0..rows.div_ceil(rows_per_slice)).map(|n| 1 + n * rows_per_slice);
    starts
        .map(|first| {
            let last = (first + rows_per_slice - 1).min(rows);
            template.replace("$first", &first.to_string()).replace("$last", &last.to_string())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_meet_and_end_at_the_last_row() {
        assert_eq!(slices("$first..$last", 25, 10), ["1..10", "11..20", "21..25"]);
        assert_eq!(slices("$first..$last", 10, 10), ["1..10"]);
        assert!(slices("x", 0, 10).is_empty());
    }
}
