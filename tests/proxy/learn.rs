//! Rules that are learned from the audit log allow what was done, and nothing else.

use serde_json::Value;

use crate::support::*;

#[test]
fn what_was_done_is_allowed_by_what_was_learned() {
    let free = Origin::start("free.test");
    let world = World::with(BEARER, canary(), |home, _| home.reach(&free));
    for path in ["/v1/chat", "/v1/jobs/17", "/v1/jobs/18?page=2", "/open/@scope%2Fname"] {
        assert_eq!(world.get(path).status, 200, "{path}");
    }
    assert_eq!(world.ask("DELETE", "/v1/jobs/17", &[AUTHORIZED], "").status, 200);
    drop(world.serve.open_tunnel(&world.agent, "free.test:443"));
    // Refused, and by no want of a rule.
    assert_eq!(
        world.ask("GET", "/v1/chat", &["Authorization: Bearer locum_nobody"], "").status,
        403
    );
    // Permitted by a rule, and reached by nobody.
    let closed = connect("10.1.2.3:443", &world.agent.authorization());
    assert_eq!(world.serve.wire().ask(closed).problem(), "address-forbidden");
    let other = world.home.agent("other");
    let learned = |arguments: &[&str]| {
        let ran = world.home.locum(&[&["policy", "learn"], arguments].concat()).ok();
        (ran.out, ran.err)
    };
    eventually("the records", PATIENCE, || {
        let json: Value = serde_json::from_str(&learned(&["--json"]).0).unwrap();
        let left_out = &json["left_out"];
        let all = left_out["credential-refused"] == 1 && left_out["address-forbidden"] == 1;
        (json["requests"] == 6 && all).then_some(())
    });
    let (text, notes) = learned(&[]);
    assert!(notes.contains("left out: 1 request refused with credential-refused"), "{notes}");
    assert!(text.contains("from 6 requests") && !text.contains("10.1.2.3"), "{text}");
    assert!(!text.contains(&world.key) && text.contains("use: [main]"), "{text}");
    let (none, word) = learned(&["--agent", "other"]);
    assert!(none.contains("rules: []"));
    assert!(word.contains("the audit log has no request of the agent `other`"), "{word}");
    // In force, it allows all of that again.
    world.home.policy(&text);
    world.home.locum(&["policy", "check"]).ok();
    eventually("the policy is in force", PATIENCE, || {
        (world.ask("GET", "/v1/else", &[AUTHORIZED], "").status == 403).then_some(())
    });
    for path in ["/v1/chat", "/v1/jobs/99", "/open/@scope%2Fname"] {
        assert_eq!(world.get(path).status, 200, "{path}");
    }
    assert_eq!(world.ask("DELETE", "/v1/jobs/99", &[AUTHORIZED], "").status, 200);
    assert_eq!(world.ask("DELETE", "/v1/chat", &[AUTHORIZED], "").status, 403);
    assert_eq!(world.ask("POST", "/v1/chat", &[AUTHORIZED], "").status, 403);
    let mut theirs = world.serve.tunnel(&other, HOST);
    assert_eq!(theirs.ask(request("GET", "/v1/chat", &[AUTHORIZED], "")).status, 403);
    world.never_leaks(&[("learned", text.as_bytes())]);
}

/// One odd request of any agent spoils nothing of what is learned of the others, and what is printed is a
/// policy.
#[test]
fn an_odd_request_spoils_nothing_of_what_is_learned() {
    const RULES: &str = "version: 1
rules:
  - {name: chat, agents: ['*'], use: [main], methods: [GET], paths: [/v1/**]}
  - {name: asked, agents: ['*'], use: [main], methods: [POST], paths: [/asked], approval: {answer: refuse}}
";
    let world = World::ruled(RULES);
    assert_eq!(world.get("/v1/chat").status, 200);
    let agent = world.agent.authorization();
    let clear = format!(
        "GET http://{HOST}/v1/a HTTP/1.1\r\nHost: {HOST}\r\n{AUTHORIZED}\r\nProxy-Authorization: {agent}\r\n\r\n"
    );
    assert_eq!(world.serve.wire().ask(clear).status, 403);
    assert_eq!(world.ask("get", "/v1/a", &[AUTHORIZED], "").status, 405);
    assert_eq!(world.ask("POST", "/asked", &[AUTHORIZED], "").status, 403);
    let socket = [
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        AUTHORIZED,
    ];
    assert_eq!(world.ask("GET", "/socket", &socket, "").status, 403);
    world.home.accesses_to("/socket");
    let ran = world.home.locum(&["policy", "learn"]).ok();
    assert!(ran.out.contains("paths: [/v1/chat]"), "{}", ran.out);
    assert!(
        ran.out.contains("methods: []\n    websocket: allow\n    paths: [/socket]"),
        "{}",
        ran.out
    );
    assert!(!ran.out.contains("any path") && !ran.out.contains("http://"), "{}", ran.out);
    assert!(ran.err.contains("1 request that no rule can allow"), "{}", ran.err);
    assert!(ran.err.contains("method-refused, which no rule allows"), "{}", ran.err);
    assert!(
        ran.err.contains("approval-required, which a rule allows once a person"),
        "{}",
        ran.err
    );
    world.home.policy(&ran.out);
    world.home.locum(&["policy", "check"]).ok();
}
