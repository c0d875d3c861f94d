//! What one sees of the proxy on the wire, byte by byte, against origins with real TLS.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::format_collect)]

#[path = "../support/mod.rs"]
mod support;

mod address;
mod approval;
mod authority;
mod bare;
mod body;
mod capture;
mod clear;
mod distrust;
mod door;
mod echo;
mod explained;
mod fields;
mod frames;
mod framing;
mod half_open;
mod http2;
mod labels;
mod learn;
mod limit;
mod listen;
mod memory;
mod message;
mod next;
mod opaque;
mod place;
mod problem;
mod rate;
mod restart;
mod run_token;
mod shared_socket;
mod slot;
mod stale;
mod stream;
mod trace;
mod uploads;
mod upstream;
mod watch;
mod weak;
mod websocket;
mod withdrawal;
