//! pgconvoy moves whole PostgreSQL databases: server to server, server to disk, disk to server.
//!
//! Two sources, two sinks, one pump ([`flow`]). Everything else plans what the pump is fed, and what follows when a
//! table is complete. `docs/ARCHITECTURE.md` follows one row from end to end and lists the invariants.
//!
//! The rooms, each above all that it imports:
//!
//! | room | what it knows | imports |
//! | --- | --- | --- |
//! | `cli` | the command line; in the binary, so that nothing here can import it | this library |
//! | [`runbook`] | whole migrations in steps: journal, guards, fence, Heroku, any two servers | all below |
//! | [`ops`] | copy, dump, restore, verify, check, preflight | all below |
//! | [`flow`] | source, sink, pump, lanes, chunk queue | [`pg`], [`archive`], [`event`], [`model`] |
//! | [`plan`] | pure functions: chunking, restore graph, job queue, budgets | [`schema`], [`event`], [`model`] |
//! | [`lab`] | throw-away servers and sample data, for the demo, the bench and the tests | [`model`] |
//! | [`pg`] | servers: connections, snapshot, catalog, COPY frames | [`model`] |
//! | [`cloud`] | the providers' HTTP interfaces: requests, what is safe to repeat, machines | [`model`] |
//! | [`archive`] | the directory on disk; knows no PostgreSQL | [`report`], [`model`] |
//! | [`schema`] | pg_dump: the call, its table of contents, what each entry runs | [`model`] |
//! | [`event`], [`report`] | what happens and what came of it, for those who listen; each names the other's types | [`model`] |
//! | [`model`] | names, versions, relations, chunks: values, no I/O | |
//!
//! [`pg`] and [`archive`] never meet.

pub mod archive;
pub mod cloud;
pub mod event;
pub mod flow;
#[doc(hidden)]
pub mod fuzzing;
pub mod lab;
pub mod model;
pub mod ops;
pub mod pg;
pub mod plan;
pub mod report;
pub mod runbook;
pub mod schema;
