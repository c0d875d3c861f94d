//! Who calls: every way in which an agent shows who it is, at the real proxy, and what each of them
//! is refused.
#![allow(missing_docs, unreachable_pub, dead_code)] // A harness is shared by halves.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::format_collect)]

#[path = "../support/mod.rs"]
mod support;

mod admin;
mod certificates;
mod jwt;
mod order;
mod peers;
mod slow;
mod workspace;
