//! Every kind of table and object, from version to version: nothing is lost that PostgreSQL's own tools keep.

#![allow(clippy::unwrap_used, reason = "tests")]

#[allow(dead_code, reason = "shared with other test programs")]
#[path = "../it/compare.rs"]
mod compare;
mod create;
mod everything;
mod extensions;
mod facts;
mod format;
mod many;
mod moves;
mod refused;
#[path = "../support/mod.rs"]
mod support;
