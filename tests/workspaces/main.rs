//! Workspaces: one proxy, two of them with the same names in each, and every way from one into the other.
#![allow(missing_docs, unreachable_pub, dead_code)] // A harness is shared by halves.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::format_collect)]

#[path = "../support/mod.rs"]
mod support;

mod crossing;
mod kept;
mod lifecycle;
mod policies;
mod remote;
mod roles;
mod two;
