//! pgconvoy moves whole PostgreSQL databases: server to server, server to disk, disk to server.
//!
//! Two sources, two sinks, one pump (`flow`). Everything else plans what the pump is fed, and what
//! follows when a table is complete. The rooms, from the bottom up; imports run downwards only:
//!
//! | room | what it knows |
//! | --- | --- |
//! | [`model`] | names, versions, relations, chunks: values, no I/O |
//! | [`event`], [`report`] | what happened, for those who listen |
//! | [`plan`] | pure functions: chunking, restore graph, budgets |
//! | [`pg`] | servers: connections, snapshot, catalog, COPY frames |
//! | [`schema`] | pg_dump's table of contents |
//! | [`archive`] | the directory on disk; knows no PostgreSQL |
//! | [`flow`] | source, sink, pump |
//! | [`ops`] | copy, dump, restore, verify, preflight |
//! | [`lab`] | throw-away servers and sample data, for the demo, the bench and the tests |

pub mod archive;
pub mod event;
pub mod flow;
pub mod lab;
pub mod model;
pub mod ops;
pub mod pg;
pub mod plan;
pub mod report;
pub mod schema;
