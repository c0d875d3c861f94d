//! Requests that are under way when their rule is withdrawn: finished, or cut if the rule says so.

use std::time::{Duration, Instant};

use crate::support::*;

fn rules(more: &str) -> String {
    format!("version: 1\nrules:\n  - {{name: r, agents: ['*'], use: ['*']{more}}}\n")
}

const NOTHING: &str = "version: 1\nrules: []\n";

const CHUNKED: &str =
    "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";

/// A scene under these rules.
fn scene(rules: &str) -> Scene {
    Scene::with(|home| home.policy(rules))
}

/// Until the next state is in force: what is under way is asked about at once.
fn reloaded(scene: &Scene) {
    eventually("the rules are in force", PATIENCE, || {
        (scene.serve.metric("locum_policy_generation") >= 2).then_some(())
    });
}

#[test]
fn a_stream_is_cut_within_a_second_if_its_rule_says_so() {
    let scene = scene(&rules(", on_withdrawal: cut"));
    let (mut near, mut far, _) = scene.begin(request("GET", "/events", &[AUTHORIZED], ""));
    far.send(CHUNKED);
    far.send("6\r\nfirst.\r\n");
    near.until("first.");
    scene.home.policy(NOTHING);
    let start = Instant::now();
    let rest = near.until_closed();
    // A quarter of a second for the look, and the rest for a busy machine.
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    assert!(!String::from_utf8_lossy(&rest).contains("0\r\n\r\n"), "it looks whole");
    assert_eq!(scene.ending("/events"), "failed");
}

#[test]
fn an_answer_that_has_not_begun_is_a_refusal() {
    let scene = scene(&rules(", on_withdrawal: cut"));
    let (mut near, _far, _) = scene.begin(request("GET", "/slow", &[AUTHORIZED], ""));
    scene.home.policy(NOTHING);
    let answer = near.answer();
    assert_eq!((answer.status, &*answer.problem()), (403, "not-allowed"));
}

#[test]
fn without_a_word_it_is_finished() {
    let scene = scene(&rules(""));
    let (mut near, mut far, _) = scene.begin(request("GET", "/events", &[AUTHORIZED], ""));
    far.send(CHUNKED);
    far.send("6\r\nfirst.\r\n");
    near.until("first.");
    scene.home.policy(NOTHING);
    reloaded(&scene);
    far.send("4\r\nlast\r\n0\r\n\r\n");
    near.until("0\r\n\r\n");
    assert_eq!(scene.ending("/events"), "complete");
}

#[test]
fn a_rule_that_is_written_otherwise_and_still_allows_it_cuts_nothing() {
    let scene = scene(&rules(", on_withdrawal: cut"));
    let (mut near, mut far, _) = scene.begin(request("GET", "/events", &[AUTHORIZED], ""));
    far.send(CHUNKED);
    far.send("6\r\nfirst.\r\n");
    near.until("first.");
    scene.home.policy(&rules(", methods: [GET], paths: [/events]"));
    reloaded(&scene);
    far.send("4\r\nlast\r\n0\r\n\r\n");
    near.until("0\r\n\r\n");
    assert_eq!(scene.ending("/events"), "complete");
}

/// What waits for its connection is asked about once more before it leaves, a socket's handshake too.
#[test]
fn what_is_withdrawn_while_it_connects_does_not_leave() {
    let key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==";
    let upgrade = ["Upgrade: websocket", "Connection: Upgrade", key, "Sec-WebSocket-Version: 13"];
    for (fields, more) in [(&[][..], ""), (&upgrade[..], ", websocket: allow")] {
        let scene = scene(&rules(more));
        let mut near = scene.tunnel();
        near.send(request("GET", "/late", &[&[AUTHORIZED], fields].concat(), ""));
        let far = scene.peer.arrive();
        scene.home.policy(NOTHING);
        reloaded(&scene);
        let mut far = scene.peer.welcome(far);
        let answer = near.answer();
        assert_eq!((answer.status, &*answer.problem()), (403, "not-allowed"), "{more}");
        assert_eq!(far.until_closed(), b"", "{more}: nothing left");
    }
}

#[test]
fn a_stream_of_http2_is_cut_alone() {
    let key = [("authorization", "Bearer locum_main")];
    let kept = rules(", paths: [/kept]");
    let scene = scene(&format!(
        "{kept}  - {{name: s, agents: ['*'], use: ['*'], on_withdrawal: cut}}
"
    ));
    runtime().block_on(async {
        let agent = Http2::open(&scene.serve, &scene.agent).await;
        let ask =
            |path: &str| tokio::spawn(ask2(agent.send.clone(), request2("GET", path, &key), b""));
        let cut = ask("/events");
        let (mut far, _) = scene.peer.request();
        far.send(CHUNKED);
        far.send("6\r\nfirst.\r\n");
        let whole = ask("/kept");
        let (mut other, _) = scene.peer.request();
        other.send(CHUNKED);
        scene.home.policy(&kept);
        let cut = cut.await.unwrap().unwrap();
        assert_eq!((cut.text().as_str(), cut.broken.is_some()), ("first.", true));
        other.send("4\r\nlast\r\n0\r\n\r\n");
        let whole = whole.await.unwrap().unwrap();
        assert_eq!((whole.text().as_str(), whole.broken.is_none()), ("last", true));
    });
}
