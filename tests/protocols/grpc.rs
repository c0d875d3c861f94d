//! gRPC by the library that most Python agents have it from, on both sides: each of the four kinds
//! of call, with status and metadata in trailers.

use crate::support::*;
use crate::{modules, python, script};

const POLICY: &str = "version: 1
rules:
- {name: calls, agents: [worker], to: ['https://grpc.test'], paths: ['/probe.Probe/*'], use: [grpc]}
";

/// A gRPC server of its own process, a proxy before it, and an agent.
struct Scene {
    serve: Serve,
    server: Running,
    key: String,
    home: Home,
}

fn scene() -> Scene {
    let home = Home::new();
    let key = canary();
    let identity = Identity::new("grpc.test");
    let file = |name: &str, text: &str| {
        // Outside the home: the search for keys goes through all of that.
        let path = home.work().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let ca = file("origin-ca.pem", &identity.ca);
    let certificate = file("origin.pem", &identity.certificate);
    let private = file("origin-key.pem", &identity.key);
    let mut command = std::process::Command::new(python());
    home.clean(&mut command);
    command.arg(script("grpc_server.py")).arg(certificate).arg(private);
    let mut server = Running::start(command.env("KEY", &key));
    let port: u16 = server.line("port ").parse().unwrap();
    home.reach_as("grpc.test", ([127, 0, 0, 1], port).into(), Some(ca));
    let header = "Authorization: Bearer {secret}";
    home.add("grpc", &["--to", "https://grpc.test", "--header", header], &key);
    home.policy(POLICY);
    home.agent("worker");
    let serve = home.serve();
    Scene { serve, server, key, home }
}

impl Scene {
    /// The client with these cases, in order.
    #[track_caller]
    fn client(&self, cases: &[&str]) -> Ran {
        let mut command = self.home.command(&["run", "--agent", "worker", "--"]);
        let ran = run(command.arg(python()).arg(script("with_grpc.py")).args(cases), b"").ok();
        self.home.said(&ran);
        let metrics = self.serve.metrics();
        self.home.never_leaks(&[&self.key], &[("metrics", metrics.as_bytes())]);
        ran
    }
}

#[test]
fn unary_and_streams_in_both_directions() {
    let mut scene = scene();
    let ran = scene.client(&["unary", "server-stream", "client-stream", "bidirectional"]);
    let expected = [
        "unary: hello",
        "unary: initial x-initial=1 trailing x-trailing=2 code OK details ''",
        // Each message is said when the one before was seen.
        "server-stream: 0 1 2 3 code OK",
        "client-stream: 100 messages, 650000 bytes",
        "bidirectional: pong 0 pong 1 pong s pong sk- pong c2stY2 pong 73 code OK",
    ];
    assert_eq!(ran.out.lines().collect::<Vec<_>>(), expected, "{}", ran.err);
    for method in ["Unary", "ServerStream", "Next", "Next", "Next", "ClientStream", "Bidirectional"]
    {
        // The server names what it was shown: the key itself is not put on its standard output.
        assert_eq!(scene.server.line("called "), format!("{method} with the key"));
    }
}

#[test]
fn the_library_of_node() {
    let scene = scene();
    let mut command = scene.home.command(&["run", "--agent", "worker", "--", "node"]);
    let ran = run(command.arg(script("with_grpc.mjs")).env("MODULES", modules()), b"").ok();
    let lines: Vec<&str> = ran.out.lines().collect();
    let expected = [
        "unary: hello",
        "server-stream: 0 1 2 3",
        "bidirectional: pong 0 pong s pong sk-, ended",
        "error: NOT_FOUND no such thing",
    ];
    assert_eq!(lines[..lines.len().min(4)], expected, "{}\n{}", ran.out, ran.err);
    assert!(lines[4].starts_with("unknown-reference: PERMISSION_DENIED"), "{}", ran.out);
    scene.home.said(&ran);
    scene.home.never_leaks(&[&scene.key], &[]);
}

#[test]
fn an_error_status_arrives_with_its_details() {
    let scene = scene();
    let ran = scene.client(&["error"]);
    assert_eq!(
        ran.out.trim(),
        "error: NOT_FOUND 'no such thing' trailing x-trailing=2",
        "{}",
        ran.err
    );
}

#[test]
fn refusals_of_the_proxy_are_statuses_of_grpc() {
    let scene = scene();
    let ran = scene.client(&["forbidden-method", "unknown-reference"]);
    let lines: Vec<&str> = ran.out.lines().collect();
    assert!(lines[0].starts_with("forbidden-method: PERMISSION_DENIED"), "{}", ran.out);
    assert!(lines[1].starts_with("unknown-reference: PERMISSION_DENIED"), "{}", ran.out);
}

#[test]
fn a_key_that_a_message_echoes_is_taken_out_and_the_message_stays_whole() {
    let scene = scene();
    // The client would complain of a frame whose length is wrong; and so that there is something
    // to find, the server says that the key was in what it sent.
    let ran = scene.client(&["echo", "echo-stream", "echo-trailer"]);
    for line in ran.out.lines() {
        assert!(line.contains("framed as it was"), "{}\n{}", ran.out, ran.err);
    }
    assert_eq!(ran.out.lines().count(), 3, "{}\n{}", ran.out, ran.err);
    // A server that compresses though it was not offered: what cannot be searched does not pass.
    let ran = scene.client(&["echo-compressed"]);
    assert!(ran.out.starts_with("echo-compressed: INTERNAL"), "{}\n{}", ran.out, ran.err);
    assert!(ran.out.contains("response-unscrubbable"), "{}", ran.out);
}

#[test]
fn a_deadline_that_passes_calls_the_server_off() {
    let mut scene = scene();
    let ran = scene.client(&["deadline"]);
    assert_eq!(ran.out.trim(), "deadline: DEADLINE_EXCEEDED", "{}", ran.err);
    assert_eq!(scene.server.line("called "), "Hang with the key");
    assert_eq!(scene.server.line("called "), "off");
}

#[test]
fn a_stream_that_the_server_cuts_is_an_error() {
    let scene = scene();
    let ran = scene.client(&["cut"]);
    // As without a proxy: of a reset stream it would think that the server has a mistake in it.
    assert_eq!(ran.out.trim(), "cut: UNAVAILABLE after 3 messages", "{}", ran.err);
}
