//! The harness of the black-box tests: the real binary in a home of its own, origins with real TLS
//! on loopback, a client that puts its bytes on the wire by hand, and a search for secrets in
//! whatever was left anywhere.
//!
//! Nothing here sleeps for a fixed time: what takes time is polled for, with a deadline.

// Each test binary uses its own part of the harness.
#![allow(dead_code, unreachable_pub, unused_imports, clippy::format_collect)]

mod apart;
mod authority;
mod aws;
mod clock;
mod forwarder;
mod git;
mod home;
mod http2;
mod kills;
mod next_proxy;
mod origin;
mod peer;
mod routes;
mod running;
mod search;
mod serve;
mod tools;
mod tree;
mod wire;
mod world;

use std::time::{Duration, Instant};

pub use apart::apart;
pub use authority::{Authority, Issued};
pub use aws::Aws;
pub use clock::Clock;
pub use forwarder::Forwarder;
pub use git::{Repository, git, plain as plain_git};
pub use home::{Agent, Home, Ran, run};
pub use http2::{Http2, Reply, ask2, frame, frames, interim2, reply2, request2};
pub use kills::{Aim, Dice, another, kill_again_and_again, killed, took};
pub use next_proxy::NextProxy;
pub use origin::{Identity, Masks, Origin, Script, Seen, identity_files};
pub use peer::{Peer, Scene};
pub use routes::{AFTER, BEFORE, DOWNLOADED, ENCODINGS, SPELLINGS, encode};
pub use running::Running;
pub use search::{forms, leaks, search_everywhere};
pub use serve::{Serve, connect};
pub use tools::{Debian, Tools, basic, command_output, percent};
pub use tree::tree;
pub use wire::{Answer, Broken, Wire, client_config, client_config_of};
pub use world::{AUTHORIZED, BEARER, HOST, Stage, World, request};

/// How long anything may take that is expected to happen. Far longer than it takes on a busy
/// machine: a test that waits this long has failed.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Asks `question` again until it has an answer; panics when there is none within `within`.
#[track_caller]
pub fn eventually<T>(what: &str, within: Duration, mut question: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(answer) = question() {
            return answer;
        }
        assert!(start.elapsed() < within, "not within {within:?}: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A secret that occurs nowhere by chance, in the form of a provider's key.
pub fn canary() -> String {
    let mut bytes = [0; 20];
    getrandom::fill(&mut bytes).unwrap();
    format!("sk-canary-{}", data_encoding::HEXLOWER.encode(&bytes))
}

/// A secret with characters that encodings treat differently.
pub fn thorny_canary() -> String {
    format!("{}/+=\"&<%", canary())
}

/// The harness's own runtime: origins live on it, tests do not.
pub fn runtime() -> &'static tokio::runtime::Runtime {
    static RUNTIME: std::sync::OnceLock<tokio::runtime::Runtime> = std::sync::OnceLock::new();
    RUNTIME.get_or_init(|| {
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
    })
}
