//! The system's clock is set by hours and days while the proxy runs. What ends at a time ends by that
//! clock; what lasts so long lasts by another; and what was ended stays ended, whatever it shows.

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use data_encoding::BASE64URL_NOPAD;
use serde_json::{Value, json};

use crate::support::*;

/// The usual scene on a clock, with this policy.
fn world(policy: &str) -> (World, Clock) {
    let mut world = World::ruled(policy);
    let clock = Clock::new(&world.home);
    world.serve.terminate();
    assert!(world.serve.ended(PATIENCE).success());
    world.serve = clock.serve(&world.home);
    (world, clock)
}

const OPEN: &str = "version: 1\nrules:\n  - {name: all, agents: ['*'], use: ['*']}\n";

/// One more request in a tunnel that is open.
#[track_caller]
fn code(tunnel: &mut Wire) -> String {
    let answer = tunnel.ask(request("GET", "/", &[AUTHORIZED], ""));
    if answer.status == 200 { "200".to_owned() } else { answer.problem() }
}

/// A moment so far from now, as policies write it.
fn moment(hours: i64) -> String {
    (jiff::Timestamp::now() + jiff::SignedDuration::from_hours(hours)).to_string()
}

#[test]
fn limits_go_by_a_clock_that_nobody_can_set() {
    let (world, clock) = world(
        "version: 1
rules:
  - {name: once, agents: ['*'], use: [main], limits: {requests: 1/day}}
",
    );
    let mut tunnel = world.tunnel();
    assert_eq!(code(&mut tunnel), "200");
    for offset in ["+0s", "+30d", "-30d", "+400d", "+0s"] {
        clock.set(offset);
        assert_eq!(code(&mut tunnel), "rate-limited", "{offset}");
    }
}

#[test]
fn a_window_of_time_is_that_of_the_clock_at_each_request() {
    let (world, clock) = world(&format!(
        "version: 1
rules:
  - {{name: until, agents: ['*'], use: [main], methods: [GET], when: {{not_after: '{}'}}}}
  - {{name: from, agents: ['*'], use: [main], methods: [POST], when: {{not_before: '{}'}}}}
",
        moment(1),
        moment(1),
    ));
    let mut tunnel = world.tunnel();
    for (offset, get, post) in [
        ("+0s", 200, 403),
        ("+2h", 403, 200),
        ("-2h", 200, 403),
        ("+90d", 403, 200),
        ("+0s", 200, 403),
    ] {
        clock.set(offset);
        for (method, status) in [("GET", get), ("POST", post)] {
            let answer = tunnel.ask(request(method, "/", &[AUTHORIZED], ""));
            assert_eq!(answer.status, status, "{offset} {method}");
        }
    }
}

/// A run token, made on the clock.
fn run_token(world: &World, clock: &Clock, run: &str, ttl: &str) -> Agent {
    let arguments = ["run-token", "--agent", "worker", "--run", run, "--ttl", ttl, "--json"];
    let made: Value = serde_json::from_str(&clock.locum(&world.home, &arguments).ok().out).unwrap();
    let text = |key: &str| made[key].as_str().unwrap().to_owned();
    Agent { name: "worker".to_owned(), token_id: text("token_id"), token: text("token") }
}

#[test]
fn a_run_token_ends_at_its_time_in_tunnels_that_are_open_too() {
    let (world, clock) = world(OPEN);
    let run = run_token(&world, &clock, "42", "1h");
    let mut tunnel = world.serve.tunnel(&run, HOST);
    assert_eq!(code(&mut tunnel), "200");
    clock.set("+2h");
    assert_eq!(code(&mut tunnel), "agent-revoked");
    let refused = world.serve.wire().ask(connect("api.test:443", &run.authorization()));
    assert_eq!(refused.status, 407);
    // The agent's own token has no end.
    assert_eq!(world.get("/").status, 200);
}

#[test]
fn an_issuers_token_begins_and_ends_by_the_clock_in_tunnels_that_are_open_too() {
    let pair = Ed25519KeyPair::generate().unwrap();
    let encode = |bytes: &[u8]| BASE64URL_NOPAD.encode(bytes);
    let key = json!({ "keys": [{ "kty": "OKP", "crv": "Ed25519", "kid": "k", "use": "sig",
        "x": encode(pair.public_key().as_ref()) }] });
    let now = jiff::Timestamp::now().as_second();
    let token = |from: i64, until: i64| {
        let header = json!({ "alg": "EdDSA", "typ": "JWT", "kid": "k" }).to_string();
        let claims = json!({ "iss": "https://issuer.test", "aud": "locum", "sub": "worker",
            "nbf": now + from, "exp": now + until })
        .to_string();
        let signed = format!("{}.{}", encode(header.as_bytes()), encode(claims.as_bytes()));
        format!("Bearer {signed}.{}", encode(pair.sign(signed.as_bytes()).as_ref()))
    };
    let (mut world, clock) = world(OPEN);
    let keys = world.home.work().join("jwks.json");
    std::fs::write(&keys, key.to_string()).unwrap();
    world.home.set(&format!(
        "identity.jwt: [{{issuer: 'https://issuer.test', audience: locum, leeway: 0s, keys: '{}'}}]",
        keys.display()
    ));
    world.home.set("limits.failure_delay: 0s");
    world.serve.terminate();
    assert!(world.serve.ended(PATIENCE).success());
    world.serve = clock.serve(&world.home);
    let (present, future) = (token(-60, 3600), token(7200, 10_800));
    let knock = |shown: &str| {
        let answer = world.serve.wire().ask(connect("api.test:443", shown));
        answer.status
    };
    let mut wire = world.serve.wire();
    assert_eq!(wire.ask(connect("api.test:443", &present)).status, 200);
    let mut tunnel = wire.tls(HOST, &world.home.ca()).unwrap();
    assert_eq!(code(&mut tunnel), "200");
    assert_eq!((knock(&present), knock(&future)), (200, 407));
    clock.set("+150m");
    assert_eq!(code(&mut tunnel), "agent-revoked");
    assert_eq!((knock(&present), knock(&future)), (407, 200));
    clock.set("-10m");
    assert_eq!((knock(&present), knock(&future)), (407, 407), "it has not begun");
}

#[test]
fn what_was_revoked_is_revoked_on_whatever_clock_and_whichever_clock_it_was_revoked_on() {
    let (world, clock) = world(OPEN);
    let tokens = ["one", "two", "three"].map(|run| run_token(&world, &clock, run, "7d"));
    let mut tunnels = tokens.clone().map(|run| world.serve.tunnel(&run, HOST));
    for tunnel in &mut tunnels {
        assert_eq!(code(tunnel), "200");
    }
    // A clock that is behind: they were made in its future.
    clock.set("-5h");
    let revoke = |arguments: &[&str]| {
        let all = [&["agent", "revoke", "worker"], arguments].concat();
        clock.locum(&world.home, &all).ok();
    };
    revoke(&["--run", "one"]);
    revoke(&["--run-token", &tokens[1].token_id]);
    let ended = |tunnel: &mut Wire| {
        eventually("the end", PATIENCE, || (code(tunnel) == "agent-revoked").then_some(()));
    };
    let [one, two, three] = &mut tunnels;
    ended(one);
    ended(two);
    assert_eq!(code(three), "200");
    // One that is made after it is good, though it is of the same run, on the same clock and on another.
    let again = run_token(&world, &clock, "one", "1h");
    assert_eq!(code(&mut world.serve.tunnel(&again, HOST)), "200");
    // A clock that is far ahead, and what is revoked then makes room for nothing older.
    clock.set("+30d");
    revoke(&["--run", "three"]);
    clock.set("+0s");
    ended(three);
    for token in &tokens {
        let refused = world.serve.wire().ask(connect("api.test:443", &token.authorization()));
        assert_eq!(refused.status, 407);
    }
}

#[test]
fn a_grace_ends_at_its_time_and_does_not_begin_again() {
    let (world, clock) = world(OPEN);
    let mut tunnel = world.tunnel();
    let version = |tunnel: &mut Wire, path: &str| {
        let fields = [AUTHORIZED, "Locum-Run: seven"];
        tunnel.ask(request("GET", path, &fields, ""));
        world.home.accesses_to(path)[0]["version"].as_u64().unwrap()
    };
    assert_eq!(version(&mut tunnel, "/first"), 1);
    let next = canary();
    world.origin.accept(&next);
    let rotate = ["credential", "rotate", "main", "--grace", "1h", "--from-env", "NEXT"];
    let mut command = world.home.command(&rotate);
    let ran = run(clock.show_to(&mut command).env("NEXT", &next), b"");
    ran.ok();
    eventually("the rotation", PATIENCE, || {
        let events = world.home.audit();
        events.iter().any(|record| record["event"] == "credential-rotated").then_some(())
    });
    assert_eq!(version(&mut tunnel, "/grace"), 1);
    clock.set("+2h");
    assert_eq!(version(&mut tunnel, "/over"), 2);
    clock.set("+0s");
    assert_eq!(version(&mut tunnel, "/back"), 2, "it has moved on");
}

#[test]
fn an_approval_ends_at_its_time() {
    let (world, clock) = world(
        "version: 1
rules:
  - {name: asked, agents: ['*'], use: [main], approval: {answer: refuse, valid: 1h}}
",
    );
    let mut tunnel = world.tunnel();
    assert_eq!(code(&mut tunnel), "approval-required");
    let listed = clock.locum(&world.home, &["approvals", "list", "--json"]).ok();
    let listed: Value = serde_json::from_str(&listed.out).unwrap();
    let id = listed[0]["id"].as_str().unwrap().to_owned();
    clock.locum(&world.home, &["approvals", "approve", &id]).ok();
    clock.set("+2h");
    assert_eq!(code(&mut tunnel), "approval-required", "it is over");
    clock.set("+30d");
    assert_eq!(code(&mut tunnel), "approval-required");
}

#[test]
fn before_its_ca_begins_nothing_is_intercepted_and_nothing_passed_instead() {
    let (world, clock) = world(OPEN);
    assert_eq!(world.get("/").status, 200);
    clock.set("-3d");
    let wire = world.serve.open_tunnel(&world.agent, "api.test:443");
    assert!(wire.tls(HOST, &world.home.ca()).is_err());
    assert_eq!(world.origin.seen().len(), 1, "nothing reached the origin");
    clock.set("+0s");
    assert_eq!(world.get("/").status, 200);
    // Ahead, but before the CA's end, each leaf is of its day.
    clock.set("+20h");
    assert_eq!(world.get("/").status, 200);
}

#[test]
fn audit_log_and_vault_are_whole_whatever_the_clock_was() {
    let (mut world, clock) = world(OPEN);
    let mut tunnel = world.tunnel();
    for offset in ["+0s", "-5h", "+9d", "-400d", "+2h", "+0s"] {
        clock.set(offset);
        assert_eq!(code(&mut tunnel), "200", "{offset}");
        clock.locum(&world.home, &["agent", "add", "other", "--json"]).ok();
    }
    drop(tunnel);
    let numbers = |records: &[Value]| -> Vec<u64> {
        records.iter().map(|record| record["seq"].as_u64().unwrap()).collect()
    };
    let events = eventually("the changes", PATIENCE, || {
        let records = world.home.audit();
        let of_other =
            |record: &&Value| record["subject"].as_str().is_some_and(|s| s.starts_with("other"));
        let made = records.iter().filter(of_other).count();
        (made >= 6).then_some(records)
    });
    let all = numbers(&events);
    assert!(all.windows(2).all(|pair| pair[1] == pair[0] + 1), "{all:?}");
    // A start on a clock that is behind its own records, and one that is far ahead of them.
    for offset in ["-20h", "+300d", "+0s"] {
        world.serve.terminate();
        assert!(world.serve.ended(PATIENCE).success());
        clock.set(offset);
        world.serve = clock.serve(&world.home);
        assert_eq!(world.serve.readiness().0, 200, "{offset}");
        clock.locum(&world.home, &["audit", "verify"]).ok();
        clock.locum(&world.home, &["vault", "status", "--verify"]).ok();
    }
    world.never_leaks(&[]);
}
