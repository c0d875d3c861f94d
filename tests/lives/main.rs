//! Credentials that live: rotated, staged, promoted and revoked under a proxy that serves.
#![allow(missing_docs, unreachable_pub, dead_code)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::format_collect)]

#[path = "../support/mod.rs"]
mod support;

mod certificate;
mod config;
mod degrade;
mod emergency;
mod login;
mod programs;
mod queue;
mod runs;
mod spares;
mod tiers;
mod values;
mod verify;
