//! pg_dump's table of contents: the call, the entries, what each of them needs to run.
//!
//! DDL is pg_dump's: nothing in here writes a definition by hand. What `pg_restore` adds around the definitions
//! (owners, tablespaces, session settings) is added here in the same way, and what a target would refuse is repaired.

mod cuts;
mod database;
mod drops;
mod entry_sql;
mod error;
mod pg_dump;
mod repairs;
mod rights;
mod session;
pub mod statements;
mod toc;
mod toc_file;

pub use cuts::Cuts;
pub use database::{DatabaseSql, DatabaseStep, database_sql};
pub use drops::{DropStatement, drop_statements, nothing_to_drop};
pub(crate) use entry_sql::with_storage;
pub use entry_sql::{EntryOptions, EntrySql, Skip, entry_sql, skipped};
pub use error::{Error, Result};
pub use pg_dump::{
    PG_DUMP_VARIABLE, PgDump, PgDumpCall, PgDumpFilters, PgDumpInfo, PgDumpSearch, choose, find_pg_dump, run_pg_dump,
};
pub use repairs::{is_compression, is_optional, repair};
pub use rights::{Rights, native_function, needs_superuser};
pub use session::session_prologue;
pub use toc::{DumpId, Toc, TocEntry, TocSection};
