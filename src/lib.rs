//! Locum: a forward proxy that holds the keys, so that agents need not.
#![cfg_attr(
    test,
    allow(
        clippy::too_many_lines,
        clippy::items_after_statements,
        clippy::format_collect,
        clippy::type_complexity,
        clippy::format_push_string
    )
)]

mod admin;
pub mod agent;
pub mod anomaly;
pub mod app;
pub mod approval;
pub mod audit;
pub mod authn;
pub mod catalog;
pub mod ciphers;
pub mod cli;
pub mod config;
pub mod credential;
pub mod document;
pub mod environment;
pub mod files;
pub mod host;
pub mod http1;
pub mod inject;
pub mod metrics;
pub mod mint;
pub mod ops;
pub mod outcome;
pub mod policy;
pub mod proxy;
pub mod record;
pub mod reference;
pub mod request;
pub mod scrub;
pub mod secret;
pub mod sign;
pub mod supply;
pub mod tls;
pub mod token;
pub mod upstream;
pub mod vault;
