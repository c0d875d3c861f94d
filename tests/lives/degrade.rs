//! Origins that fail: requests that are sent again, destinations that are left alone, and what an origin
//! says of a credential.

use std::net::{SocketAddr, TcpListener};

use serde_json::Value;

use crate::support::*;

fn ruled(more: &str) -> String {
    format!("version: 1\nrules:\n  - name: r\n    agents: ['*']\n    use: [main]\n    {more}\n")
}

/// Where nobody listens.
fn closed_port() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

fn events(home: &Home, name: &str) -> Vec<Value> {
    home.audit().into_iter().filter(|record| record["event"] == name).collect()
}

fn kinds(records: &[Value], kind: &str) -> usize {
    records.iter().filter(|record| record["kind"] == kind).count()
}

#[test]
fn each_attempt_is_on_record_with_the_policy_that_allowed_it() {
    let busy = b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".to_vec();
    let script = vec![Script::Read, Script::Wait, Script::Send(busy), Script::Goodbye];
    let rule = ruled("retry: {attempts: 2, wait: 10ms, within: 10m, on: [503]}");
    let world = World::before(Origin::scripted(HOST, script), BEARER, canary(), |home, _| {
        home.policy(&rule);
    });
    let mut wire = world.tunnel();
    wire.send(request("GET", "/v1/x", &[AUTHORIZED], ""));
    eventually("the first attempt", PATIENCE, || {
        world.origin.raw().concat().contains("GET /v1/x").then_some(())
    });
    let before = world.serve.metric("locum_policy_generation");
    world.home.policy(&(rule + "  - {name: another, agents: [other], to: ['https://api.test']}\n"));
    let after = eventually("the policy to be in force", PATIENCE, || {
        let now = world.serve.metric("locum_policy_generation");
        (now > before).then_some(now)
    });
    world.origin.release();
    world.origin.release();
    assert_eq!(wire.answer().status, 503);
    let records = world.home.accesses_to("/v1/x");
    let generations: Vec<u64> =
        records.iter().map(|record| record["policy_generation"].as_u64().unwrap()).collect();
    assert_eq!(generations, [before, after]);
}

#[test]
fn what_is_idempotent_is_sent_again_and_each_time_is_on_record() {
    let world = World::ruled(&ruled("retry: {attempts: 3, wait: 10ms}"));
    world.origin.answer_next(503, None, "busy");
    world.origin.answer_next(502, None, "busy");
    let body = "{\"much\": \"the same\"}";
    let answer = world.ask("PUT", "/v1/x", &[AUTHORIZED], body);
    assert_eq!((answer.status, &*answer.text()), (200, "ok"));
    let seen = world.origin.seen();
    assert_eq!(seen.len(), 3);
    for one in &seen {
        assert_eq!(one.header("authorization"), Some(&*format!("Bearer {}", world.key)));
        assert_eq!((&*one.body, one.complete), (body.as_bytes(), true));
    }
    let id = world.home.accesses_to("/v1/x")[0]["request_id"].as_str().unwrap().to_owned();
    let records = world.home.records_of(&id, 4);
    assert_eq!((kinds(&records, "access"), kinds(&records, "outcome")), (3, 1));
    let outcome = records.iter().find(|record| record["kind"] == "outcome").unwrap();
    assert_eq!((&outcome["status"], &outcome["bytes_up"]), (&200.into(), &body.len().into()));
    assert_eq!(world.serve.metric("locum_retries_total{result=\"sent\"}"), 2);
    // As often as the rule says, and then it is the agent's answer.
    for _ in 0..3 {
        world.origin.answer_next(503, None, "busy");
    }
    let answer = world.get("/v1/y");
    assert_eq!((answer.status, &*answer.text()), (503, "busy"));
    assert_eq!(world.origin.seen().len(), 6);
    // What nobody named is no reason.
    world.origin.answer_next(500, None, "");
    assert_eq!(world.get("/v1/z").status, 500);
    assert_eq!(world.origin.seen().len(), 7);
    world.never_leaks(&[]);
}

#[test]
fn what_may_have_been_done_is_not_done_twice() {
    let world = World::ruled(&ruled("retry: {attempts: 3, wait: 10ms, idempotency_key: true}"));
    let once = |fields: &[&str], method: &str| {
        let before = world.origin.seen().len();
        world.origin.answer_next(503, None, "");
        let status = world.ask(method, "/v1/pay", fields, "pay").status;
        (status, world.origin.seen().len() - before)
    };
    assert_eq!(once(&[AUTHORIZED], "POST"), (503, 1));
    assert_eq!(once(&[AUTHORIZED, "X-HTTP-Method-Override: POST"], "PUT"), (503, 1));
    assert_eq!(once(&[AUTHORIZED, "Idempotency-Key: 7"], "POST"), (200, 2));
    // A body that cannot be held is sent once.
    let chunked = format!(
        "PUT /v1/x HTTP/1.1\r\nHost: {HOST}\r\n{AUTHORIZED}\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n"
    );
    let before = world.origin.seen().len();
    world.origin.answer_next(503, None, "");
    assert_eq!(world.tunnel().ask(chunked).status, 503);
    assert_eq!(world.origin.seen().len(), before + 1);
}

#[test]
fn what_never_left_is_sent_again_whatever_it_is() {
    let world = World::with(BEARER, canary(), |home, _| {
        home.policy(&ruled("retry: {attempts: 3, wait: 10ms}"));
        home.reach_as(HOST, closed_port(), None);
    });
    let answer = world.ask("POST", "/v1/pay", &[AUTHORIZED], "pay");
    assert_eq!((answer.status, &*answer.problem()), (502, "connect-failed"));
    let records = world.home.records_of(&answer.request_id(), 4);
    assert_eq!((kinds(&records, "access"), kinds(&records, "outcome")), (3, 1));
    world.never_leaks(&[]);
}

#[test]
fn an_answer_that_has_begun_is_the_answer() {
    let all = "retry: {attempts: 3, wait: 10ms, on: [connect, broken, timeout, 503]}";
    let world = World::ruled(&ruled(all));
    let mut wire = world.tunnel();
    wire.send(request("GET", "/abort-long", &[AUTHORIZED], ""));
    assert!(wire.try_answer("GET").is_err(), "it is not whole");
    assert_eq!(world.origin.seen().len(), 1);
}

#[test]
fn an_origin_says_when_and_is_not_waited_for_beyond_the_time() {
    let world =
        World::ruled(&ruled("retry: {attempts: 3, wait: 10ms, within: 5s, on: [503, 429]}"));
    world.origin.answer_next(503, Some("3600"), "later");
    let answer = world.get("/v1/x");
    assert_eq!((answer.status, answer.header("retry-after")), (503, Some("3600")));
    assert_eq!(world.origin.seen().len(), 1);
    assert_eq!(world.serve.metric("locum_retries_total{result=\"too-late\"}"), 1);
    // Longer than any clock goes.
    world.origin.answer_next(503, Some("18446744073709551615"), "never");
    assert_eq!(world.get("/v1/x").text(), "never");
    let start = std::time::Instant::now();
    world.origin.answer_next(429, Some("1"), "soon");
    assert_eq!(world.get("/v1/x").status, 200);
    assert!(start.elapsed().as_secs() >= 1, "as long as the origin asks for");
}

#[test]
fn a_storm_is_not_multiplied() {
    let world = World::ruled(&ruled("retry: {attempts: 3, wait: 10ms, budget: 20%}"));
    world.origin.answer(&world.key, 503, None);
    let mut wire = world.tunnel();
    for _ in 0..40 {
        assert_eq!(wire.ask(request("GET", "/v1/x", &[AUTHORIZED], "")).status, 503);
    }
    // Ten to begin with, and a fifth of what follows.
    assert_eq!(world.origin.seen().len(), 40 + 10 + 7);
    assert!(world.serve.metric("locum_retries_total{result=\"no-budget\"}") > 0);
    // Another agent has its own.
    world.origin.answer_as_ever(&world.key);
    world.origin.answer_next(503, None, "");
    let other = world.home.agent("other");
    let mut wire = world.serve.tunnel(&other, HOST);
    assert_eq!(wire.ask(request("GET", "/v1/x", &[AUTHORIZED], "")).status, 200);
}

#[test]
fn what_was_revoked_while_it_waited_is_not_sent_again() {
    let world = World::ruled(&ruled("retry: {attempts: 2, wait: 10ms, within: 1m}"));
    world.origin.answer_next(503, Some("2"), "");
    let mut wire = world.tunnel();
    wire.send(request("GET", "/v1/x", &[AUTHORIZED], ""));
    world.origin.until_seen(1);
    world.home.locum(&["credential", "revoke", "main", "--now"]).ok();
    let answer = wire.answer();
    assert_eq!((answer.status, &*answer.problem()), (403, "credential-revoked"));
    assert_eq!(world.origin.seen().len(), 1);
}

#[test]
fn a_host_without_connections_is_left_alone_by_all_until_one_works() {
    let world = World::with(BEARER, canary(), |home, _| {
        home.policy(&ruled("methods: [GET]"));
        home.reach_as(HOST, closed_port(), None);
        home.set("upstream.breaker: {failures: 3, window: 1m, open: 300ms}");
    });
    let other = world.home.agent("other");
    let ask =
        |agent| world.serve.tunnel(agent, HOST).ask(request("GET", "/v1/x", &[AUTHORIZED], ""));
    for _ in 0..3 {
        assert_eq!(ask(&world.agent).problem(), "connect-failed");
    }
    let refused = ask(&other);
    assert_eq!((refused.status, &*refused.problem()), (503, "circuit-open"));
    assert_eq!(refused.header("retry-after"), Some("1"));
    let status = refused.header("proxy-status").unwrap();
    assert!(status.contains("error=destination_unavailable"), "{status}");
    assert_eq!(world.serve.metric("locum_circuits_open{closed_to=\"all\"}"), 1);
    let opened = &events(&world.home, "circuit-opened")[0];
    assert_eq!(opened["subject"], "https://api.test");
    assert!(opened["detail"].as_str().unwrap().contains("connect-failed"), "{opened}");
    // It is back: the first that tries it ends it.
    world.home.reach(&world.origin);
    eventually("a host that is back", PATIENCE, || (ask(&other).status == 200).then_some(()));
    assert_eq!(ask(&world.agent).status, 200);
    assert_eq!(world.serve.metric("locum_circuits_open{closed_to=\"all\"}"), 0);
    assert_eq!(events(&world.home, "circuit-closed").len(), 1);
    world.never_leaks(&[]);
}

#[test]
fn no_agent_closes_a_host_to_another() {
    let world = World::with(BEARER, canary(), |home, _| {
        home.policy(&ruled("methods: [GET]"));
        home.set("upstream.breaker: {failures: 3, window: 1m, open: 5m}");
    });
    let other = world.home.agent("other");
    let ask = |agent, target: &str| {
        world.serve.tunnel(agent, HOST).ask(request("GET", target, &[AUTHORIZED], ""))
    };
    // What works between them ends a row, and what the origin refuses is none of it.
    for target in ["/status/503", "/status/503", "/v1/x", "/status/503", "/status/401"] {
        assert_ne!(ask(&world.agent, target).header("proxy-status"), Some("locum"), "{target}");
    }
    for _ in 0..3 {
        assert_eq!(ask(&world.agent, "/status/503").status, 503);
    }
    assert_eq!(ask(&world.agent, "/v1/x").problem(), "circuit-open");
    assert_eq!(ask(&other, "/v1/x").status, 200);
    assert_eq!(world.serve.metric("locum_circuits_open{closed_to=\"agent\"}"), 1);
    assert_eq!(world.serve.metric("locum_circuits_open{closed_to=\"all\"}"), 0);
    let record = world.home.accesses_to("/v1/x");
    assert!(record.iter().any(|r| r["code"] == "circuit-open" && r["agent"] == "worker"));
    // Turned off, it is open to all.
    world.home.unset("upstream.breaker");
    eventually("no breaker", PATIENCE, || (ask(&world.agent, "/v1/x").status == 200).then_some(()));
}

#[test]
fn what_an_origin_says_of_a_credential_is_told_to_its_owner() {
    let world = World::new();
    let quota = "{\"error\": {\"code\": \"insufficient_quota\"}}";
    for (status, body, says) in [
        (401, "", Some("not-accepted")),
        (402, "", Some("out-of-quota")),
        (429, "slow down", Some("rate-limited")),
        (429, quota, Some("out-of-quota")),
        (403, "", None),
        (200, quota, None),
    ] {
        world.origin.answer_next(status, None, body);
        let target = format!("/v1/{status}/{}", body.len());
        let answer = world.get(&target);
        assert_eq!((answer.status, &*answer.text()), (status, body), "it passes as it is");
        let id = world.home.accesses_to(&target)[0]["request_id"].as_str().unwrap().to_owned();
        let outcome = world.home.records_of(&id, 2).pop().unwrap();
        assert_eq!(outcome["complaint"].as_str(), says, "{outcome}");
    }
    for (says, times) in [("not-accepted", 1), ("out-of-quota", 2), ("rate-limited", 1)] {
        let series =
            format!("locum_credential_answers_total{{credential=\"main\",says=\"{says}\"}}");
        assert_eq!(world.serve.metric(&series), times, "{says}");
    }
}
