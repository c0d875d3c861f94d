//! The limits of rules: so many and no more, told so that a client knows when to come back.

use crate::support::*;

fn limited(limits: &str) -> String {
    format!(
        "version: 1\nrules:\n  - name: so many\n    agents: ['*']\n    use: [main]\n    limits: {limits}\n"
    )
}

/// A policy that is in force once this returns.
#[track_caller]
fn reload(world: &World, policy: &str) {
    let generation = || world.serve.metric("locum_policy_generation");
    let before = generation();
    world.home.policy(policy);
    eventually("the new policy", PATIENCE, || (generation() > before).then_some(()));
}

#[test]
fn of_a_thousand_at_once_a_hundred_are_let_through() {
    let world = World::ruled(&limited("{requests: 100/day}"));
    let many = || -> Vec<Answer> {
        let mut wire = world.tunnel();
        (0..50).map(|_| wire.ask(request("GET", "/v1/x", &[AUTHORIZED], ""))).collect()
    };
    let answers: Vec<Answer> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..20).map(|_| scope.spawn(many)).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    let admitted = answers.iter().filter(|answer| answer.status == 200).count();
    assert_eq!((answers.len(), admitted), (1000, 100));
    assert_eq!(world.origin.seen().len(), 100);
    let refused = answers.iter().find(|answer| answer.status != 200).unwrap();
    assert_eq!((refused.status, &*refused.problem()), (429, "rate-limited"));
    assert_eq!(world.serve.metric("locum_refusals_total{code=\"rate-limited\"}"), 900);
    // Another agent has as many of its own.
    let other = world.home.agent("other");
    let answer = world.serve.tunnel(&other, HOST).ask(request("GET", "/", &[AUTHORIZED], ""));
    assert_eq!(answer.status, 200);
}

#[test]
fn a_refusal_says_when_to_come_back_and_the_record_says_why() {
    let world = World::ruled(&limited("{requests: 2/h}"));
    let mut wire = world.tunnel();
    let mut ask = || wire.ask(request("GET", "/v1/x", &[AUTHORIZED], ""));
    assert_eq!((ask().status, ask().status), (200, 200));
    let answer = ask();
    assert_eq!((answer.status, &*answer.problem()), (429, "rate-limited"));
    let wait: u64 = answer.header("retry-after").unwrap().parse().unwrap();
    assert!((1790..=1800).contains(&wait), "{wait}");
    assert_eq!(answer.header("ratelimit-policy"), Some("\"requests\";q=2;w=3600"));
    assert_eq!(answer.header("ratelimit"), Some(&*format!("\"requests\";r=0;t={wait}")));
    assert!(!answer.text().contains("so many"), "the rule's name is the operator's");
    let record = &world.home.records_of(&answer.request_id(), 1)[0];
    assert_eq!(
        (record["code"].as_str(), record["rule"].as_str(), record["reason"].as_str()),
        (Some("rate-limited"), Some("so many"), Some("the rule's limit on requests"))
    );
}

#[test]
fn what_is_refused_does_not_count() {
    let world = World::ruled(&limited("{requests: 1/day, concurrent: 1}"));
    let mut wire = world.tunnel();
    for fields in [&["Authorization: Bearer locum_other"][..], &["Authorization: locum_main"]] {
        assert_eq!(wire.ask(request("GET", "/v1/x", fields, "")).status, 403);
    }
    assert_eq!(wire.ask(request("GET", "/v1/x", &[AUTHORIZED], "")).status, 200);
    assert_eq!(wire.ask(request("GET", "/v1/x", &[AUTHORIZED], "")).status, 429);
}

#[test]
fn a_reload_gives_nobody_a_fresh_allowance() {
    let world = World::ruled(&limited("{requests: 1/day}"));
    assert_eq!(world.get("/v1/x").status, 200);
    assert_eq!(world.get("/v1/x").status, 429);
    reload(&world, &format!("{}    timeouts: {{idle: 1h}}\n", limited("{requests: 1/day}")));
    assert_eq!(world.get("/v1/x").status, 429);
    reload(&world, &limited("{requests: 2/day}"));
    assert_eq!(world.get("/v1/x").status, 200, "another limit is counted from its beginning");
}

#[test]
fn an_answer_holds_its_place_until_it_is_over() {
    let world = World::ruled(&limited("{concurrent: 1, per: rule}"));
    world.origin.hold();
    let mut first = world.tunnel();
    first.send(request("GET", "/hold", &[AUTHORIZED], ""));
    world.origin.until_seen(1);
    let refused = world.get("/v1/x");
    assert_eq!((refused.status, refused.header("retry-after")), (429, Some("1")));
    // What several use up together, none is told to have used up itself.
    let told = "As many requests are open as a policy rule lets through at once";
    assert!(refused.text().contains(told), "{}", refused.text());
    let policy = "\"concurrent\";q=1;qu=\"concurrent-requests\"";
    assert_eq!(refused.header("ratelimit-policy"), Some(policy));
    world.origin.release();
    assert_eq!(first.answer().text(), "held");
    eventually("a free place", PATIENCE, || (world.get("/v1/x").status == 200).then_some(()));
    // Whoever goes away gives its place back, too.
    world.origin.hold();
    let mut gone = world.tunnel();
    gone.send(request("GET", "/hold", &[AUTHORIZED], ""));
    eventually("a taken place", PATIENCE, || (world.get("/v1/x").status == 429).then_some(()));
    gone.reset();
    eventually("a free place", PATIENCE, || (world.get("/v1/x").status == 200).then_some(()));
    world.origin.release();
}

#[test]
fn bytes_of_both_ways_count_and_what_was_begun_is_finished() {
    let world = World::ruled(&limited("{bytes: 64KiB/day}"));
    let answer = world.ask("POST", "/v1/x", &[AUTHORIZED], &"b".repeat(40_000));
    assert_eq!(answer.status, 200);
    let answer = world.get("/bytes/100000");
    assert_eq!((answer.status, answer.body.len()), (200, 100_000), "begun with bytes left");
    eventually("a spent limit", PATIENCE, || (world.get("/v1/x").status == 429).then_some(()));
    let refused = world.get("/v1/x");
    let policy = "\"bytes\";q=65536;qu=\"content-bytes\";w=86400";
    assert_eq!(refused.header("ratelimit-policy"), Some(policy));
}

#[test]
fn an_opaque_tunnel_holds_its_place_and_ends_when_its_bytes_are_spent() {
    let free = Origin::start("free.test");
    let rule = "version: 1\nrules:\n  - name: seen from outside\n    agents: ['*']\n    to: [https://free.test]\n    tunnel: opaque\n    limits: {concurrent: 1, bytes: 1MiB/day}\n";
    let world = World::with(BEARER, canary(), |home, _| {
        home.reach(&free);
        home.policy(rule);
    });
    let connect = || world.serve.wire().ask(connect("free.test:443", &world.agent.authorization()));
    let wire = world.serve.open_tunnel(&world.agent, "free.test:443");
    let mut wire = wire.tls("free.test", &free.ca_file()).unwrap();
    assert_eq!(connect().status, 429);
    let more = "GET /open/bytes/2000000 HTTP/1.1\r\nHost: free.test\r\n\r\n";
    assert_eq!(wire.ask(more).body.len(), 2_000_000);
    assert!(wire.until_closed().is_empty(), "the tunnel is ended");
    let ended = eventually("its outcome", PATIENCE, || {
        let code = |r: &serde_json::Value| r["kind"] == "outcome" && r["code"] == "rate-limited";
        world.home.audit().into_iter().find(code)
    });
    assert!(ended["bytes_down"].as_u64().unwrap() >= 2_000_000, "{ended}");
    assert_eq!(connect().status, 429, "and the bytes stay spent");
}
