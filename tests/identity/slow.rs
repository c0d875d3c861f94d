//! Callers that fail again and again.

use std::time::{Duration, Instant};

use crate::support::*;

fn target() -> String {
    format!("{HOST}:443")
}

/// A token that is well formed, and nobody's.
fn stale(world: &World) -> String {
    let other = world.home.agent("other");
    world.home.locum(&["agent", "revoke", "other"]).ok();
    basic("other", &other.token)
}

const FAILURES: &str = "locum_authentication_failures_total";

#[test]
fn failures_wait_ever_longer_and_what_is_good_does_not() {
    let world = World::new();
    let stale = stale(&world);
    let fail = || {
        let start = Instant::now();
        assert_eq!(world.serve.wire().ask(connect(&target(), &stale)).status, 407);
        start.elapsed()
    };
    let first = fail();
    let waits: Vec<Duration> = (0..13).map(|_| fail()).collect();
    // The ninth waits 50 ms, and the fourteenth 1.6 s; more on a busy machine.
    assert!(waits[12] >= Duration::from_millis(1600), "{waits:?}");
    assert!(waits[11] >= Duration::from_millis(800) && first < waits[12], "{waits:?}");
    // While an answer waits, who is good does not, from the same address and on any connection.
    let mut waiting = world.serve.wire();
    let start = Instant::now();
    waiting.send(connect(&target(), &stale));
    let good = connect(&target(), &world.agent.authorization());
    assert_eq!(world.serve.wire().ask(&good).status, 200);
    let by_the_good = start.elapsed();
    assert_eq!(waiting.answer_to("CONNECT").status, 407);
    let by_the_bad = start.elapsed();
    assert!(by_the_bad >= Duration::from_secs(2), "{by_the_bad:?}");
    assert!(by_the_good < by_the_bad, "{by_the_good:?} {by_the_bad:?}");
    // And on the very connection whose answer has waited.
    let start = Instant::now();
    assert_eq!(waiting.ask(&good).status, 200);
    assert!(start.elapsed() < Duration::from_secs(2));
}

#[test]
fn failures_are_counted_and_told_and_questions_are_none() {
    let world = World::new();
    let stale = stale(&world);
    let mut wire = world.serve.wire();
    let question = format!("CONNECT {HOST}:443 HTTP/1.1\r\nHost: {HOST}:443\r\n\r\n");
    let start = Instant::now();
    for _ in 0..40 {
        assert_eq!(wire.ask(&question).status, 407);
    }
    // Forty failures would have waited for more than a minute.
    assert!(start.elapsed() < Duration::from_secs(30));
    let count = |reason: &str| world.serve.metric(&format!("{FAILURES}{{reason=\"{reason}\"}}"));
    assert_eq!(["malformed", "unknown", "wrong", "expired", "jwt"].map(count), [0; 5]);
    for _ in 0..7 {
        assert_eq!(wire.ask(connect(&target(), &stale)).status, 407);
    }
    assert_eq!(world.serve.metric("locum_authentication_slowed_total"), 0);
    assert!(!world.serve.log().contains("fails again and again"));
    assert_eq!(wire.ask(connect(&target(), &basic("worker", "no token"))).status, 407);
    assert_eq!(wire.ask(connect(&target(), "Digest x")).status, 407);
    assert_eq!((count("unknown"), count("malformed")), (7, 2));
    assert_eq!(world.serve.metric("locum_authentication_slowed_total"), 1);
    let log = world.serve.log();
    let line = log.lines().find(|line| line.contains("fails again and again")).expect("it is told");
    assert!(line.contains("127.0.0.1") && line.contains("failures=9"), "{line}");
    let events = world.home.audit();
    let events: Vec<_> =
        events.iter().filter(|event| event["event"] == "authentication-failures").collect();
    // Records of strangers are bounded, this one with them.
    assert!(events.len() <= 1);
    for event in events {
        assert_eq!(event["subject"], "127.0.0.1");
        assert!(event["detail"].as_str().unwrap().starts_with("9 failures"), "{event}");
    }
    world.home.never_leaks(&[&world.key, stale.split_once(' ').unwrap().1], &[]);
}
