//! Clients that ask before they send a large body (`Expect: 100-continue`): curl, container tools,
//! the SDKs of object stores.

use std::path::PathBuf;

use crate::support::*;
use crate::{agent, had_the_key, python, runs, script};

const LARGE: usize = 2 * 1024 * 1024;

fn large(world: &World) -> PathBuf {
    let path = world.home.work().join("large");
    std::fs::write(&path, vec![b'x'; LARGE]).unwrap();
    path
}

/// A curl that waits for the word far longer than the test may take.
fn curl(world: &World, reference: &str, target: &str) -> std::process::Command {
    let mut command = agent(world, "curl");
    // HTTP/2 has it too, and curl does not use it there.
    command.args(["-sS", "--http1.1", "--max-time", "60", "--expect100-timeout", "100"]);
    command.args(["-H", "Expect: 100-continue"]);
    command.arg("-H").arg(format!("Authorization: Bearer {reference}"));
    command.args(["-w", " %{http_code} %{size_upload}\n"]);
    command.arg("--upload-file").arg(large(world)).arg(format!("https://api.test{target}"));
    command
}

#[test]
fn curl_is_told_to_go_on() {
    let world = World::new();
    let ran = runs(&world, &mut curl(&world, "locum_main", "/v1/large"));
    assert_eq!(ran.out.trim(), format!("ok 200 {LARGE}"));
    had_the_key(&world, &["/v1/large"]);
    let seen = world.origin.last();
    assert_eq!((seen.length, seen.complete), (LARGE as u64, true));
}

#[test]
fn curl_keeps_its_body_when_the_policy_refuses() {
    let world = World::new();
    let ran = runs(&world, &mut curl(&world, "locum_none", "/v1/large"));
    assert!(ran.out.contains("credential-refused"), "{}", ran.out);
    assert!(ran.out.trim().ends_with("} 403 0"), "{}", ran.out);
    assert_eq!(world.origin.connections(), 0);
}

#[test]
fn curl_sees_what_the_origin_says_before_it_has_read_the_body() {
    let world = World::new();
    // The origin has another key by now.
    world.origin.state.keys.lock().clear();
    let ran = runs(&world, &mut curl(&world, "locum_main", "/v1/large"));
    assert!(ran.out.contains("Incorrect API key provided"), "{}", ran.out);
    assert!(ran.out.contains("} 401 "), "{}", ran.out);
}

#[test]
fn the_connection_of_an_aws_sdk() {
    let world = World::new();
    let mut command = agent(&world, python());
    let ran = runs(&world, command.arg(script("with_botocore.py")).arg(large(&world)));
    assert_eq!(ran.out.trim(), "told to go on\n200 ok", "{}", ran.err);
    had_the_key(&world, &["/bucket/key"]);
    let seen = world.origin.last();
    assert_eq!((seen.length, seen.complete), (LARGE as u64, true));
}
