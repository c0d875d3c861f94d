//! The protocols that agents speak, by clients that real agents are made of: unmodified, as
//! `locum run` starts them, against the real binary and origins with real TLS.
//!
//! Each test asks two things: whether the client sees what it would see without a proxy, and whether
//! the origin got the real key while nothing on the agent's side ever held it. Clients are installed
//! once under `target/`; where that fails, these tests fail.
#![allow(missing_docs, unreachable_pub, dead_code)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::format_collect)]

#[path = "../support/mod.rs"]
mod support;

mod aiohttp;
mod browser;
mod conformance;
mod cut;
mod expect;
mod grpc;
mod http2;
mod packages;
mod site;
mod undici;

use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::Command;

use support::*;

/// Versions are fixed, so that a failure is ours.
const PYTHON: &[&str] =
    &["aiohttp==3.14.5", "botocore==1.44.5", "grpcio==1.85.1", "httpx[http2]==0.28.1"];
const NODE: &[&str] = &["@grpc/grpc-js@1.14.7", "undici@7.30.2"];

/// The first Node whose own `fetch` reads the proxy from the environment, as its packages on npm
/// have it; the machine's may be older.
const NODE_WITH_PROXIES: &str = "24.9.0";

fn python() -> PathBuf {
    Tools::python_as("python-protocols", PYTHON).path.join("bin/python")
}

/// A file in a directory in which Node finds the modules.
fn modules() -> PathBuf {
    Tools::node_as("node-protocols", NODE).path.join("package.json")
}

fn newer_node() -> PathBuf {
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "x64",
        "aarch64" => "arm64",
        other => panic!("no package of Node is known for {other}"),
    };
    let package = format!("node-linux-{architecture}");
    let tools = Tools::node_as("node-newer", &[&format!("{package}@{NODE_WITH_PROXIES}")]);
    tools.path.join("node_modules").join(package).join("bin/node")
}

fn script(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/protocols").join(name)
}

/// `locum run -- program`, as the agent of the scene.
fn agent(world: &World, program: impl AsRef<OsStr>) -> Command {
    let mut command = world.home.command(&["run", "--agent", "worker", "--"]);
    command.arg(program);
    command
}

/// Runs a client to its end, which must be a good one, and searches everything that it and the
/// proxy left behind for the key.
#[track_caller]
fn runs(world: &World, command: &mut Command) -> Ran {
    let ran = run(command, b"").ok();
    world.home.said(&ran);
    world.never_leaks(&[]);
    ran
}

/// The requests at these targets came once each, and each had the real key.
#[track_caller]
fn had_the_key(world: &World, targets: &[&str]) {
    for target in targets {
        let seen = world.origin.seen_at(target);
        let [one] = &seen[..] else { panic!("{target} was asked {} times", seen.len()) };
        let expected = format!("Bearer {}", world.key);
        assert_eq!(one.header("authorization"), Some(&*expected), "{target}");
    }
}
