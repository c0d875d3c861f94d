//! `pip install` and `npm install` from an index and a registry of their own: through an opaque
//! tunnel, and through an intercepted one with a credential.

use std::path::{Path, PathBuf};
use std::process::Command;

use data_encoding::{BASE64, HEXLOWER};
use serde_json::json;
use sha2::Digest as _;

use crate::support::*;
use crate::{agent, runs, script};

const WHEEL: &str = "locum_probe-1.0-py3-none-any.whl";
const TARBALL: &str = "name-1.0.0.tgz";

/// A wheel and an npm package, made by a script.
fn packed(world: &World) -> (Vec<u8>, Vec<u8>) {
    let directory = world.home.work();
    command_output(Command::new("python3").arg(script("pack.py")).arg(&directory));
    let read = |name| std::fs::read(directory.join(name)).unwrap();
    (read(WHEEL), read(TARBALL))
}

/// A simple index (PEP 503) and an npm registry, both below `base`.
fn publish(origin: &Origin, base: &str, (wheel, tarball): (Vec<u8>, Vec<u8>)) {
    let digest = HEXLOWER.encode(&sha2::Sha256::digest(&wheel));
    let page = format!(
        "<!DOCTYPE html><html><body><a href=\"../../files/{WHEEL}#sha256={digest}\">{WHEEL}</a></body></html>"
    );
    let integrity = format!("sha512-{}", BASE64.encode(&sha2::Sha512::digest(&tarball)));
    let url = format!("https://{}{base}/@scope/name/-/{TARBALL}", origin.host);
    let version = json!({
        "name": "@scope/name", "version": "1.0.0",
        "dist": {"tarball": url, "integrity": integrity},
    });
    let packument = json!({
        "name": "@scope/name", "dist-tags": {"latest": "1.0.0"}, "versions": {"1.0.0": version},
    });
    let put = |path: &str, kind: &str, bytes: Vec<u8>| {
        origin.state.site.lock().insert(format!("{base}{path}"), (kind.to_owned(), bytes));
    };
    put("/simple/locum-probe/", "text/html", page.into_bytes());
    put(&format!("/files/{WHEEL}"), "application/octet-stream", wheel);
    put("/@scope%2fname", "application/json", packument.to_string().into_bytes());
    put(&format!("/@scope/name/-/{TARBALL}"), "application/octet-stream", tarball);
}

/// The usual scene with packages at its origin; and an origin with the same packages that no
/// credential is for, so that its tunnels are opaque.
fn scene(slots: &[&str]) -> (World, Origin) {
    let free = Origin::start("free.test");
    let world = World::with(slots, canary(), |home, _| home.reach(&free));
    let packages = packed(&world);
    publish(&world.origin, "", packages.clone());
    publish(&free, "/open", packages);
    (world, free)
}

fn pip(world: &World, index: &str) -> (Command, PathBuf) {
    let target = world.home.work().join("installed");
    let mut command = agent(world, Tools::pip());
    command.args(["install", "--no-cache-dir", "--disable-pip-version-check"]);
    command.args(["--index-url", index, "--target"]).arg(&target).arg("locum-probe==1.0");
    (command, target)
}

#[track_caller]
fn python_has_it(target: &Path) {
    let mut command = Command::new("python3");
    command.args(["-c", "import locum_probe; print(locum_probe.WORD)"]).env("PYTHONPATH", target);
    assert_eq!(command_output(&mut command).trim(), "from the wheel");
}

#[test]
fn pip_through_an_intercepted_tunnel() {
    let (world, _free) = scene(&["--to", "https://api.test", "--basic"]);
    let (mut command, target) = pip(&world, "https://agent:locum_main@api.test/simple/");
    runs(&world, &mut command);
    python_has_it(&target);
    let seen = world.origin.seen();
    assert!(seen.len() >= 2, "the page and the wheel: {seen:?}");
    for seen in seen {
        assert_eq!(seen.header("authorization"), Some(&*basic("agent", &world.key)), "{seen:?}");
    }
}

#[test]
fn pip_through_an_opaque_tunnel() {
    let (world, free) = scene(BEARER);
    let (mut command, target) = pip(&world, "https://free.test/open/simple/");
    // As on a machine whose own roots know this origin.
    runs(&world, command.env("SSL_CERT_FILE", free.ca_file()));
    python_has_it(&target);
    assert!(free.seen().len() >= 2, "{:?}", free.seen());
    was_opaque(&world);
}

#[track_caller]
fn was_opaque(world: &World) {
    let records = world.home.audit();
    let tunnels = records.iter().filter(|r| {
        r["kind"] == "access" && r["method"] == "CONNECT" && r["destination"] == "https://free.test"
    });
    assert!(tunnels.count() >= 1, "{records:?}");
}

fn npm(world: &World, registry: &str, authorization: &str) -> (Command, PathBuf) {
    let project = world.home.work().join("project");
    std::fs::create_dir(&project).unwrap();
    std::fs::write(project.join("package.json"), "{\"private\": true}").unwrap();
    let npmrc = format!("@scope:registry=https://{registry}\n{authorization}\nfetch-retries=0\n");
    std::fs::write(project.join(".npmrc"), npmrc).unwrap();
    let mut command = agent(world, "npm");
    command.args(["install", "--no-audit", "--no-fund", "@scope/name"]).current_dir(&project);
    (command, project)
}

#[track_caller]
fn node_has_it(project: &Path) {
    let mut command = Command::new("node");
    command.args(["-p", "require('@scope/name').word"]).current_dir(project);
    assert_eq!(command_output(&mut command).trim(), "from the tarball");
}

#[test]
fn npm_through_an_intercepted_tunnel() {
    let (world, _free) = scene(BEARER);
    let (mut command, project) = npm(&world, "api.test/", "//api.test/:_authToken=locum_main");
    runs(&world, &mut command);
    node_has_it(&project);
    let seen = world.origin.seen();
    let targets: Vec<&str> = seen.iter().map(|seen| seen.target.as_str()).collect();
    assert_eq!(targets, ["/@scope%2fname", "/@scope/name/-/name-1.0.0.tgz"]);
    for seen in &seen {
        let expected = format!("Bearer {}", world.key);
        assert_eq!(seen.header("authorization"), Some(&*expected), "{seen:?}");
    }
}

#[test]
fn npm_through_an_opaque_tunnel() {
    let (world, free) = scene(BEARER);
    let (mut command, project) = npm(&world, "free.test/open/", "");
    runs(&world, command.env("SSL_CERT_FILE", free.ca_file()));
    node_has_it(&project);
    assert_eq!(free.seen().len(), 2, "{:?}", free.seen());
    was_opaque(&world);
}
