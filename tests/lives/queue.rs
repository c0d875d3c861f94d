//! Requests that wait for a limit of their rule.

use crate::support::*;

fn queued(limits: &str) -> String {
    format!(
        "version: 1\nrules:\n  - name: r\n    agents: ['*']\n    use: [main]\n    limits: {limits}\n"
    )
}

fn waiting(world: &World, count: u64) {
    eventually(&format!("{count} that wait"), PATIENCE, || {
        (world.serve.metric("locum_queue_waiting") == count).then_some(())
    });
}

fn send(world: &World, agent: &Agent, target: &str) -> Wire {
    let mut wire = world.serve.tunnel(agent, HOST);
    wire.send(request("GET", target, &[AUTHORIZED], ""));
    wire
}

#[test]
fn they_are_let_in_as_they_came_and_agents_take_turns() {
    let world = World::ruled(&queued("{concurrent: 1, per: rule, queue: {size: 3, wait: 1m}}"));
    let other = world.home.agent("other");
    world.origin.hold();
    let mut first = send(&world, &world.agent, "/hold?first");
    world.origin.until_seen(1);
    let mut wires = Vec::new();
    for (count, (agent, target)) in [
        (&world.agent, "/hold?a1"),
        (&world.agent, "/hold?a2"),
        (&world.agent, "/hold?a3"),
        (&other, "/hold?b1"),
    ]
    .into_iter()
    .enumerate()
    {
        wires.push(send(&world, agent, target));
        waiting(&world, count as u64 + 1);
    }
    // No room for a fourth of one agent.
    let full = world.get("/hold?a4");
    assert_eq!((full.status, &*full.problem()), (429, "rate-limited"));
    for count in 2..=5 {
        world.origin.release();
        world.origin.until_seen(count);
    }
    world.origin.release();
    assert_eq!(first.answer().status, 200);
    for wire in &mut wires {
        assert_eq!(wire.answer().status, 200);
    }
    let order: Vec<String> = world.origin.seen().iter().map(|seen| seen.target.clone()).collect();
    assert_eq!(order, ["/hold?first", "/hold?a1", "/hold?b1", "/hold?a2", "/hold?a3"]);
    waiting(&world, 0);
    assert_eq!(world.serve.metric("locum_queued_total{result=\"admitted\"}"), 4);
    assert_eq!(world.serve.metric("locum_queued_total{result=\"refused\"}"), 1);
}

#[test]
fn whoever_goes_away_or_has_waited_long_enough_leaves_the_line() {
    let world = World::ruled(&queued("{concurrent: 1, queue: {size: 8, wait: 1m}}"));
    world.origin.hold();
    let mut first = send(&world, &world.agent, "/hold");
    world.origin.until_seen(1);
    let gone = send(&world, &world.agent, "/v1/gone");
    waiting(&world, 1);
    let mut next = send(&world, &world.agent, "/v1/next");
    waiting(&world, 2);
    gone.reset();
    waiting(&world, 1);
    world.origin.release();
    assert_eq!((first.answer().status, next.answer().status), (200, 200));
    assert_eq!(world.serve.metric("locum_queued_total{result=\"gone\"}"), 1);
    assert!(world.origin.seen_at("/v1/gone").is_empty());

    let world = World::ruled(&queued("{concurrent: 1, queue: {size: 8, wait: 100ms}}"));
    world.origin.hold();
    let mut first = send(&world, &world.agent, "/hold");
    world.origin.until_seen(1);
    let late = world.get("/v1/late");
    assert_eq!((late.status, &*late.problem()), (429, "rate-limited"));
    assert!(late.header("retry-after").is_some());
    world.origin.release();
    assert_eq!(first.answer().status, 200);
    assert!(world.origin.seen_at("/v1/late").is_empty());
}

#[test]
fn rates_are_waited_for_and_none_in_vain() {
    let world = World::ruled(&queued("{requests: 4/s, queue: {size: 20, wait: 1m}}"));
    let start = std::time::Instant::now();
    std::thread::scope(|scope| {
        let ask = || world.get("/v1/x").status;
        let all: Vec<_> = (0..8).map(|_| scope.spawn(ask)).collect();
        for one in all {
            assert_eq!(one.join().unwrap(), 200);
        }
    });
    assert!(start.elapsed().as_millis() >= 1000, "four at once, and then four a second");
    assert_eq!(world.origin.seen().len(), 8);
    // A day is longer than anybody waits.
    let world = World::ruled(&queued("{requests: 1/day, queue: {size: 20, wait: 1m}}"));
    assert_eq!(world.get("/v1/x").status, 200);
    let start = std::time::Instant::now();
    assert_eq!(world.get("/v1/x").status, 429);
    assert!(start.elapsed() < PATIENCE);
}

#[test]
fn what_was_withdrawn_meanwhile_is_not_sent() {
    let policy = queued("{concurrent: 1, queue: {size: 8, wait: 1m}}");
    let world = World::ruled(&policy);
    world.origin.hold();
    let mut first = send(&world, &world.agent, "/hold");
    world.origin.until_seen(1);
    let mut second = send(&world, &world.agent, "/v1/second");
    waiting(&world, 1);
    let generation = world.serve.metric("locum_policy_generation");
    world.home.policy(&policy.replace("use: [main]", "use: [main]\n    paths: [/hold]"));
    eventually("the new policy", PATIENCE, || {
        (world.serve.metric("locum_policy_generation") > generation).then_some(())
    });
    world.origin.release();
    assert_eq!(first.answer().status, 200);
    let answer = second.answer();
    assert_eq!((answer.status, &*answer.problem()), (403, "not-allowed"));
    assert!(world.origin.seen_at("/v1/second").is_empty());
}

#[test]
fn what_wants_an_approval_or_has_run_out_meanwhile_is_not_sent() {
    let policy = queued("{concurrent: 1, per: rule, queue: {size: 8, wait: 1m}}");
    let world = World::ruled(&policy);
    let command = ["run-token", "--agent", "worker", "--ttl", "3s", "--json"];
    let made = world.home.locum(&command).ok().out;
    let made: serde_json::Value = serde_json::from_str(&made).unwrap();
    let text = |key: &str| made[key].as_str().unwrap().to_owned();
    let run = Agent { name: text("agent"), token_id: text("token_id"), token: text("token") };
    let expires = std::time::Instant::now() + std::time::Duration::from_secs(4);
    world.origin.hold();
    let mut first = send(&world, &world.agent, "/hold?first");
    world.origin.until_seen(1);
    // Nothing in the home changes when a token runs out.
    let mut ended = send(&world, &run, "/v1/ended");
    waiting(&world, 1);
    eventually("its end", PATIENCE, || (std::time::Instant::now() > expires).then_some(()));
    world.origin.release();
    assert_eq!(first.answer().status, 200);
    assert_eq!(ended.answer().problem(), "agent-revoked");
    let mut first = send(&world, &world.agent, "/hold?second");
    world.origin.until_seen(2);
    let mut unasked = send(&world, &world.agent, "/v1/unasked");
    waiting(&world, 1);
    let generation = world.serve.metric("locum_policy_generation");
    world.home.policy(&policy.replace("use: [main]", "use: [main]\n    approval: required"));
    eventually("the new policy", PATIENCE, || {
        (world.serve.metric("locum_policy_generation") > generation).then_some(())
    });
    world.origin.release();
    assert_eq!(first.answer().status, 200);
    assert_eq!(unasked.answer().problem(), "approval-required");
    assert!(world.origin.seen_at("/v1/unasked").is_empty());
    assert!(world.origin.seen_at("/v1/ended").is_empty());
}
