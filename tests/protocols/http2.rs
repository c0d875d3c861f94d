//! HTTP/2 as curl, httpx, nghttp and h2load speak it, before origins that speak HTTP/1.1 and such that
//! speak HTTP/2.

use std::process::Command;

use crate::support::*;
use crate::{agent, had_the_key, python, runs, script};

fn worlds() -> [World; 2] {
    [World::new(), World::http2()]
}

#[test]
fn curl() {
    worlds().iter().for_each(many_by_curl);
}

fn many_by_curl(world: &World) {
    let mut command = agent(world, "curl");
    command.args(["-sS", "--http2", "--fail", "-H", AUTHORIZED, "--parallel"]);
    command.args(["-w", "%{http_code} over %{http_version}\n"]);
    for number in 0..20 {
        command.args(["-o", "/dev/null"]).arg(format!("https://api.test/v1/{number}"));
    }
    let ran = runs(world, &mut command);
    assert_eq!(ran.out.lines().collect::<Vec<_>>(), ["200 over 2"; 20]);
    let targets: Vec<String> = (0..20).map(|number| format!("/v1/{number}")).collect();
    for target in &targets {
        let seen = world.origin.seen().into_iter().filter(|seen| seen.target == *target);
        let keys: Vec<_> =
            seen.map(|seen| seen.header("authorization").map(str::to_owned)).collect();
        assert_eq!(keys, [Some(format!("Bearer {}", world.key))], "{target}");
    }
}

#[test]
fn curl_with_a_body_and_a_download_that_is_longer_than_a_window() {
    worlds().iter().for_each(large_by_curl);
}

fn large_by_curl(world: &World) {
    let body = world.home.work().join("body");
    std::fs::write(&body, vec![b'x'; 3_000_000]).unwrap();
    let mut command = agent(world, "curl");
    command.args(["-sS", "--http2", "--fail", "-H", AUTHORIZED]);
    command.args(["-w", " over %{http_version}\n", "--upload-file"]).arg(&body);
    let ran = runs(world, command.arg("https://api.test/upload"));
    assert_eq!(ran.out.trim(), "ok over 2");
    let seen = world.origin.last();
    assert_eq!((seen.length, seen.complete), (3_000_000, true));
    let mut command = agent(world, "curl");
    command.args(["-sS", "--http2", "--fail", "-H", AUTHORIZED, "-o", "/dev/null"]);
    command.args(["-w", "%{size_download} over %{http_version}"]);
    let ran = runs(world, command.arg("https://api.test/bytes/9000000"));
    assert_eq!(ran.out, "9000000 over 2");
    had_the_key(world, &["/upload", "/bytes/9000000"]);
}

#[test]
fn httpx() {
    worlds().iter().for_each(by_httpx);
}

fn by_httpx(world: &World) {
    world.origin.hold();
    let mut program = Running::start(agent(world, python()).arg(script("with_httpx2.py")));
    assert_eq!(program.line("at once: "), "30 answers over HTTP/2");
    for event in 0..4 {
        assert_eq!(program.line("event: "), event.to_string());
        world.origin.release();
    }
    assert_eq!(program.line("refused: "), "403 urn:locum:problem:credential-refused over HTTP/2");
    // A short body is searched as a whole; a longer one breaks off where the origin broke off.
    assert_eq!(program.line("cut short: "), "502");
    assert_eq!(program.line("cut long: "), "RemoteProtocolError after 14 bytes");
    assert_eq!(program.line("cut chunked: "), "RemoteProtocolError after 14 bytes");
    assert_eq!(program.line("and still: "), "200 over HTTP/2");
    world.home.said(&program.end().ok());
    world.never_leaks(&[]);
    had_the_key(world, &["/events/4", "/abort-long", "/abort-chunked", "/v1/after"]);
    assert_eq!(world.origin.seen_at("/v1/many/").len(), 30);
}

/// What httpx waits for when the proxy stops comes to its end, and so does a connection that waits: it sees
/// at the next request that it is closed, and asks for another.
#[test]
fn httpx_while_the_proxy_stops() {
    for mut world in worlds() {
        world.origin.hold();
        let mut program = Running::start(agent(&world, python()).arg(script("stopped_httpx.py")));
        assert_eq!(program.line("idle: "), "200 over HTTP/2");
        assert_eq!(program.line("event: "), "0");
        // A connection that is younger hears of the stop, so the others have too.
        let mut younger = world.serve.raw_http2(&world.agent);
        world.serve.terminate();
        younger.until_closed();
        for event in 1..4 {
            world.origin.release();
            assert_eq!(program.line("event: "), event.to_string());
        }
        world.origin.release();
        assert_eq!(program.line("stream: "), "whole");
        // Nobody listens any more.
        assert_eq!(program.line("idle then: "), "ConnectError");
        assert_eq!(program.line("busy then: "), "ConnectError");
        world.home.said(&program.end().ok());
        assert!(world.serve.ended(PATIENCE).success());
        world.home.never_leaks(&[&world.key], &[]);
    }
}

struct Nghttp2 {
    package: Debian,
    forwarder: Forwarder,
    world: World,
}

impl Nghttp2 {
    fn both() -> [Self; 2] {
        worlds().map(Self::new)
    }

    fn new(world: World) -> Self {
        let forwarder = Forwarder::tunnel(&world.serve, &world.agent, "api.test:443");
        Self { package: Tools::debian("nghttp2", &["nghttp2-client"]), forwarder, world }
    }

    fn command(&self, name: &str) -> Command {
        let mut command = Command::new(self.package.program(&format!("usr/bin/{name}")));
        self.world.home.clean(&mut command);
        command.env("LD_LIBRARY_PATH", self.package.libraries());
        command.env("SSL_CERT_FILE", self.world.home.ca());
        command
    }
}

#[test]
fn nghttp() {
    Nghttp2::both().iter().for_each(by_nghttp);
}

fn by_nghttp(scene: &Nghttp2) {
    let mut command = scene.command("nghttp");
    command.args(["--verbose", "--multiply=10", "--trailer=x-after: all", "-H", AUTHORIZED]);
    let body = scene.world.home.work().join("body");
    std::fs::write(&body, vec![b'x'; 100_000]).unwrap();
    command.args(["-H", ":authority: api.test", "--data"]).arg(body);
    let ran = runs(&scene.world, command.arg(format!("https://{}/v1/x", scene.forwarder.address)));
    assert!(ran.out.contains("The negotiated protocol: h2"), "{}", ran.out);
    assert_eq!(ran.out.matches(":status: 200").count(), 10, "{}", ran.out);
    assert!(!ran.out.contains("RST_STREAM"), "{}", ran.out);
    let seen = scene.world.origin.seen();
    assert_eq!(seen.len(), 10);
    for seen in seen {
        assert_eq!((seen.length, seen.complete), (100_000, true));
        assert_eq!(seen.header("authorization"), Some(&*format!("Bearer {}", scene.world.key)));
    }
}

#[test]
fn h2load() {
    Nghttp2::both().iter().for_each(by_h2load);
}

fn by_h2load(scene: &Nghttp2) {
    let mut command = scene.command("h2load");
    command.args([
        "--requests=400",
        "--clients=4",
        "--max-concurrent-streams=25",
        "-H",
        AUTHORIZED,
    ]);
    command.arg(format!("--connect-to={}", scene.forwarder.address));
    let ran = runs(&scene.world, command.arg("https://api.test/v1/x"));
    assert!(ran.out.contains("Application protocol: h2"), "{}", ran.out);
    let all =
        "requests: 400 total, 400 started, 400 done, 400 succeeded, 0 failed, 0 errored, 0 timeout";
    assert!(ran.out.contains(all), "{}", ran.out);
    assert!(ran.out.contains("status codes: 400 2xx, 0 3xx, 0 4xx, 0 5xx"), "{}", ran.out);
    let seen = scene.world.origin.seen();
    assert_eq!(seen.len(), 400);
    let expected = format!("Bearer {}", scene.world.key);
    assert!(seen.iter().all(|seen| seen.header("authorization") == Some(&expected)));
}
