//! What a server's catalogs say. Every query is schema-qualified and reads through one [`Catalog`].

mod key_bounds;
mod lacks;
mod large_objects;
mod locale;
mod native;
mod pattern;
mod relations;
mod roles;
mod sequences;
mod server;
mod storage;
mod type_graph;
mod type_uses;
mod types;
mod waits;

use postgres_types::FromSql;
use tokio_postgres::{Client, Row, SimpleQueryMessage};

use super::error::{Error, Result};
use crate::model::{ServerVersion, Side};

pub use lacks::{ExtensionMember, Lack, Picked};
pub use large_objects::{LargeObjectAccess, LargeObjectFacts};
pub use pattern::{PatternError, TableFilter};
pub use relations::{CatalogRelation, lock_list_sql, read_lock_list};
pub use roles::{ClusterRoles, Membership, RoleFacts, setting_value};
pub use sequences::SequenceState;
pub use server::{DatabaseFacts, ExtensionFacts, Place, RolesInUse, TargetSettings};
pub use type_graph::{FIRST_OWN_OID, TypeAttribute, TypeGraph, TypeNode, TypeParts};
pub use type_uses::{TypeUse, UsedBy};
pub use types::{FormatRules, TypeFlags, TypeMap, choose_format};
pub(in crate::pg) use waits::keeping_readers_out;

/// A window on one server's catalogs; on the source, inside the shared snapshot.
#[derive(Clone, Copy)]
pub struct Catalog<'c> {
    pub side: Side,
    pub client: &'c Client,
    pub version: ServerVersion,
}

impl Catalog<'_> {
    pub(crate) async fn rows(&self, sql: &str) -> Result<Vec<Row>> {
        self.client.query_typed(sql, &[]).await.map_err(|e| Error::control(self.side, &e, Some(sql)))
    }

    /// The first column of the first row.
    pub(crate) async fn scalar<T: for<'r> FromSql<'r>>(&self, sql: &str) -> Result<T> {
        let rows = self.rows(sql).await?;
        let row =
            rows.first().ok_or_else(|| Error::protocol(self.side, "no row where one must be").with_statement(sql))?;
        self.get(row, 0)
    }

    pub(crate) async fn execute(&self, sql: &str) -> Result<()> {
        self.client.batch_execute(sql).await.map_err(|e| Error::control(self.side, &e, Some(sql)))
    }

    /// As [`Catalog::execute`], with what the statements return.
    pub(crate) async fn simple(&self, sql: &str) -> Result<Vec<SimpleQueryMessage>> {
        self.client.simple_query(sql).await.map_err(|e| Error::control(self.side, &e, Some(sql)))
    }

    pub(crate) fn get<'r, T: FromSql<'r>>(&self, row: &'r Row, column: usize) -> Result<T> {
        row.try_get(column).map_err(|e| Error::control(self.side, &e, None))
    }
}
