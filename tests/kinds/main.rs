//! Credentials whose value is made of what lies in the vault, against servers that others wrote.
//!
//! Python packages and Node modules are installed once under `target/`; where that fails, these
//! tests fail.
#![allow(missing_docs, unreachable_pub, dead_code)]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::too_many_lines,
    clippy::items_after_statements,
    clippy::format_collect
)]

#[path = "../support/mod.rs"]
mod support;

mod aws;
mod hmac;
mod oauth;
