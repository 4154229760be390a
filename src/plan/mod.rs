//! What is to be done, as values: pure functions over catalogs, tables of contents and settings. No I/O.

pub mod budget;
pub mod job_queue;
pub mod locks;
pub mod restore_graph;
