//! Runs and the versions that they began with.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::support::*;

/// How soon a change acts.
const SOON: Duration = Duration::from_secs(1);

/// A GET of `/RUN` that says which run it is of.
fn of_run(run: &str) -> String {
    request("GET", &format!("/{run}"), &[AUTHORIZED, &format!("Locum-Run: {run}")], "")
}

/// The key that a request to `/RUN` came with last.
#[track_caller]
fn key_of(world: &World, wire: &mut Wire, run: &str) -> String {
    let answer = wire.ask(of_run(run));
    assert_eq!(answer.status, 200, "{run}: {}", answer.text());
    key(&world.origin.seen_at(&format!("/{run}")).pop().unwrap())
}

fn key(seen: &Seen) -> String {
    seen.header("authorization").unwrap().strip_prefix("Bearer ").unwrap().to_owned()
}

/// Rotates, and waits until runs that are new get the new key.
#[track_caller]
fn rotate(world: &World, wire: &mut Wire, next: &str, arguments: &[&str]) {
    world.origin.accept(next);
    let command = [&["credential", "rotate", "main"], arguments].concat();
    world.home.locum_with(&command, next.as_bytes()).ok();
    in_force(world, wire, next);
}

#[track_caller]
fn in_force(world: &World, wire: &mut Wire, next: &str) {
    static PROBE: AtomicUsize = AtomicUsize::new(0);
    eventually("the new key", SOON, || {
        let probe = format!("probe{}", PROBE.fetch_add(1, Ordering::Relaxed));
        (key_of(world, wire, &probe) == next).then_some(())
    });
}

#[test]
fn a_run_that_streams_while_its_key_rotates_under_load_finishes_with_the_old_one() {
    let world = World::with(BEARER, canary(), |home, _| home.set("log.level: info"));
    let (old, new) = (world.key.clone(), canary());
    world.origin.accept(&new);
    world.origin.hold();
    let mut streaming = world.tunnel();
    let fields = [AUTHORIZED, "Locum-Run: streaming"];
    streaming.send(request("GET", "/events/5", &fields, ""));
    streaming.until("data: 0\n\n");

    // Each thread has a run that began before, and begins a new one with every other request.
    let (stop, rotated) = (AtomicBool::new(false), AtomicBool::new(false));
    let (done, since) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let load = |thread: usize| {
        let mut wire = world.tunnel();
        let mut begun_after = Vec::new();
        for turn in 0.. {
            if stop.load(Ordering::Relaxed) {
                break;
            }
            let after = rotated.load(Ordering::SeqCst);
            let run = match turn % 2 {
                0 => format!("early-{thread}"),
                _ => format!("late-{thread}-{turn}"),
            };
            let answer = wire.ask(of_run(&run));
            assert_eq!(answer.status, 200, "{run}: {}", answer.text());
            done.fetch_add(1, Ordering::Relaxed);
            if after {
                since.fetch_add(1, Ordering::Relaxed);
                begun_after.push(run);
            }
        }
        begun_after
    };
    let begun_after: Vec<String> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|thread| scope.spawn(move || load(thread))).collect();
        let enough = |count: &AtomicUsize| {
            eventually("the load", PATIENCE, || {
                (count.load(Ordering::Relaxed) >= 300).then_some(())
            });
        };
        enough(&done);
        world.home.rotate("main", &new);
        in_force(&world, &mut world.tunnel(), &new);
        rotated.store(true, Ordering::SeqCst);
        enough(&since);
        stop.store(true, Ordering::Relaxed);
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });

    // The stream ends whole, and its run goes on with what it began with.
    for event in 1..5 {
        world.origin.release();
        streaming.until(&format!("data: {event}\n\n"));
    }
    streaming.until("0\r\n\r\n");
    assert_eq!(key_of(&world, &mut streaming, "streaming"), old);

    let seen = world.origin.seen();
    let mut late = 0;
    for request in &seen {
        let run = request.target.trim_start_matches('/');
        if run.starts_with("early") {
            assert_eq!(key(request), old, "{run}: a run in flight changed its key");
        } else if begun_after.iter().any(|after| after == run) {
            assert_eq!(key(request), new, "{run}: the old key after the rotation was in force");
            late += 1;
        }
    }
    assert!(late >= 100, "{late}");
    assert_eq!(world.serve.metric("locum_requests_total{agent=\"worker\",result=\"failed\"}"), 0);
    // The records name the version that was used.
    for record in world.home.audit().iter().filter(|r| r["kind"] == "access") {
        assert_eq!(record["decision"], "permit", "{record}");
        let target = record["path"].as_str().unwrap();
        if target.starts_with("/early") {
            assert_eq!(record["version"], 1, "{record}");
        } else if begun_after.iter().any(|run| target[1..] == **run) {
            assert_eq!(record["version"], 2, "{record}");
        }
    }
    world.home.never_leaks(&[&old, &new], &[("the stream", &streaming.transcript)]);
}

#[test]
fn the_grace_is_what_the_command_says_or_the_config() {
    let world = World::with(BEARER, canary(), |home, _| home.set("credentials.grace: 2s"));
    let mut wire = world.tunnel();
    assert_eq!(key_of(&world, &mut wire, "a"), world.key);
    let [second, third, fourth] = [canary(), canary(), canary()];
    // None at all.
    rotate(&world, &mut wire, &second, &["--grace", "0"]);
    assert_eq!(key_of(&world, &mut wire, "a"), second);
    // Two seconds, after which the run goes on with the new one.
    let begin = Instant::now();
    rotate(&world, &mut wire, &third, &[]);
    let first = key_of(&world, &mut wire, "a");
    if begin.elapsed() < Duration::from_secs(2) {
        assert_eq!(first, second);
    }
    eventually("the end of the grace", PATIENCE, || {
        (key_of(&world, &mut wire, "a") == third).then_some(())
    });
    assert!(begin.elapsed() >= Duration::from_secs(2), "{:?}", begin.elapsed());
    // A later rotation without one ends those before it too.
    let fifth = canary();
    rotate(&world, &mut wire, &fourth, &["--grace", "1h"]);
    assert_eq!(key_of(&world, &mut wire, "a"), third);
    rotate(&world, &mut wire, &fifth, &["--grace", "0"]);
    assert_eq!(key_of(&world, &mut wire, "a"), fifth);
    // A run that is not named has no version of its own.
    let answer = wire.ask(request("GET", "/none", &[AUTHORIZED], ""));
    assert_eq!((answer.status, key(&world.origin.last())), (200, fifth));
    world.home.locum(&["credential", "rotate", "main", "--grace", "31d"]).failed(64);
}

#[test]
fn all_versions_that_may_be_used_are_taken_out_of_answers() {
    let world = World::new();
    let mut wire = world.tunnel();
    assert_eq!(key_of(&world, &mut wire, "early"), world.key);
    let new = canary();
    rotate(&world, &mut wire, &new, &["--grace", "1h"]);
    // What the origin shows is all that it ever knew: both keys, whoever asks.
    for run in ["early", "late"] {
        let field = format!("Locum-Run: {run}");
        let answer = wire.ask(request("GET", "/kept", &[AUTHORIZED, &field], ""));
        assert_eq!(answer.text().matches("locum_main").count(), 2, "{run}: {}", answer.text());
    }
    world.home.never_leaks(&[&world.key, &new], &[("the wire", &wire.transcript)]);
    // An old one is known in what agents send, whatever its state.
    let answer = wire.ask(request("GET", "/x", &[&format!("X-Key: {}", world.key)], ""));
    assert_eq!(answer.problem(), "real-credential");
}

#[test]
fn a_run_keeps_its_version_over_a_restart_a_take_over_and_a_crash() {
    let mut world = World::new();
    let mut wire = world.tunnel();
    let (first, second) = (world.key.clone(), canary());
    assert_eq!(key_of(&world, &mut wire, "early"), first);
    rotate(&world, &mut wire, &second, &["--grace", "1h"]);
    let both = |world: &World| {
        let mut wire = world.tunnel();
        assert_eq!(key_of(world, &mut wire, "early"), first);
        assert_eq!(key_of(world, &mut wire, "late"), second);
    };
    both(&world);
    for crash in [false, true, false] {
        if crash {
            world.serve.crash();
        } else {
            world.serve.terminate();
            world.serve.ended(PATIENCE);
        }
        world.serve = world.home.serve();
        both(&world);
    }
    // One that is there before the old one ends, and takes its sockets.
    let mut command = world.home.command(&["serve", "--take-over"]);
    let successor = Serve::start_as(&world.home, command.stdin(std::process::Stdio::null()));
    world.serve = successor;
    both(&world);
    // A file of anything else does no harm.
    world.serve.terminate();
    world.serve.ended(PATIENCE);
    std::fs::write(world.home.path().join("runs.seen"), "not of ours").unwrap();
    world.serve = world.home.serve();
    let mut wire = world.tunnel();
    assert_eq!(key_of(&world, &mut wire, "early"), second, "nobody knows it any more");
}

#[test]
fn a_staged_version_is_used_when_it_is_promoted_and_not_before() {
    let world = World::new();
    let mut wire = world.tunnel();
    let new = canary();
    let command = ["credential", "rotate", "main", "--stage"];
    let ran = world.home.locum_with(&command, new.as_bytes()).ok();
    assert!(ran.out.contains("staged version 2"), "{}", ran.out);
    // In force is what comes after it, so this has been seen too.
    let other = canary();
    world.origin.accept(&other);
    world.home.add("other", BEARER, &other);
    let field = "Authorization: Bearer locum_other";
    assert_eq!(wire.ask(request("GET", "/x", &[field], "")).status, 200);
    assert_eq!(key_of(&world, &mut wire, "early"), world.key);
    // It is a secret all the same.
    let answer = wire.ask(request("GET", "/x", &[&format!("X-Key: {new}")], ""));
    assert_eq!(answer.problem(), "real-credential");
    world.origin.accept(&new);
    let ran = world.home.locum(&["credential", "promote", "main", "--grace", "1h"]).ok();
    assert!(ran.out.contains("requests get version 2"), "{}", ran.out);
    in_force(&world, &mut wire, &new);
    assert_eq!(key_of(&world, &mut wire, "early"), world.key);
    let ran = world.home.locum(&["credential", "promote", "main"]).failed(1);
    assert!(ran.err.contains("--stage"), "{}", ran.err);
    let ran = world.home.locum(&["credential", "show", "main"]).ok();
    assert!(ran.out.contains("for what began with it until"), "{}", ran.out);
    let events: Vec<_> = world.home.audit().into_iter().filter(|r| r["kind"] == "event").collect();
    for event in ["credential-version-staged", "credential-version-promoted"] {
        assert!(events.iter().any(|r| r["event"] == event && r["subject"] == "main"), "{event}");
    }
}

#[test]
fn a_retired_version_is_gone_back_to_without_its_secret() {
    let world = World::new();
    let mut wire = world.tunnel();
    let new = canary();
    rotate(&world, &mut wire, &new, &["--grace", "0"]);
    assert_eq!(key_of(&world, &mut wire, "during"), new);
    let back = ["credential", "promote", "main", "--version", "1", "--grace", "1h"];
    let ran = world.home.locum(&back).ok();
    assert!(ran.out.contains("requests get version 1 from now on"), "{}", ran.out);
    in_force(&world, &mut wire, &world.key);
    // What began with the one that was left may finish with it.
    assert_eq!(key_of(&world, &mut wire, "during"), new);
    world.home.locum(&["credential", "revoke", "main", "--version", "2", "--now"]).ok();
    assert_eq!(key_of(&world, &mut wire, "during"), world.key);
    let ran = world.home.locum(&["credential", "promote", "main", "--version", "2"]).failed(1);
    assert!(ran.err.contains("was revoked"), "{}", ran.err);
    let ran = world.home.locum(&["credential", "promote", "main", "--version", "3"]).failed(1);
    assert!(ran.err.contains("has no version 3"), "{}", ran.err);
    let promoted = "credential-version-promoted";
    let events = world.home.audit();
    let said = |r: &&serde_json::Value| r["event"] == promoted;
    assert_eq!(events.iter().find(said).unwrap()["subject"], "main version 1");
    world.never_leaks(&[]);
}

#[test]
fn a_run_that_went_back_to_an_older_version_finishes_with_it_when_the_next_comes() {
    let world = World::new();
    let mut wire = world.tunnel();
    rotate(&world, &mut wire, &canary(), &["--grace", "1h"]);
    assert_ne!(key_of(&world, &mut wire, "during"), world.key);
    let back = ["credential", "promote", "main", "--version", "1", "--grace", "1s"];
    world.home.locum(&back).ok();
    eventually("the end of the grace", PATIENCE, || {
        (key_of(&world, &mut wire, "during") == world.key).then_some(())
    });
    rotate(&world, &mut wire, &canary(), &["--grace", "1h"]);
    assert_eq!(key_of(&world, &mut wire, "during"), world.key);
}

#[test]
fn a_version_is_tried_at_its_provider_before_it_is_promoted() {
    const PROVIDER: &str = "api.openai.com";
    let (old, new) = (canary(), canary());
    let home = Home::new();
    let origin = Origin::start(PROVIDER);
    origin.accept(&old);
    home.reach(&origin);
    home.add("openai", &["--provider", "openai"], &old);
    let verify = |more: &[&str]| home.locum(&[&["credential", "verify", "openai"], more].concat());
    let ran = verify(&[]).ok();
    let said = "version 1 of openai is good: https://api.openai.com/v1/models takes it\n";
    assert_eq!(ran.out, said);
    assert_eq!(origin.last().header("authorization"), Some(&*format!("Bearer {old}")));
    home.locum_with(&["credential", "rotate", "openai", "--stage"], new.as_bytes()).ok();
    // Beside a running proxy, which writes the record.
    let _serve = home.serve();
    let ran = verify(&["--json"]).failed(1);
    let json: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!((&json["version"], &json["status"]), (&2.into(), &401.into()));
    assert_eq!(json["verdict"], "bad");
    origin.accept(&new);
    verify(&[]).ok();
    verify(&["--version", "1"]).ok();
    assert!(verify(&["--version", "7"]).failed(1).err.contains("no live version 7"));
    // A call that says nothing of the key.
    origin.answer(&new, 500, None);
    assert!(verify(&[]).failed(1).err.contains("says nothing"));
    eventually("the records", PATIENCE, || {
        let tried = home.audit().into_iter().filter(|r| r["event"] == "credential-version-tried");
        (tried.count() == 5).then_some(())
    });
    // What has no such call, and what may not go where it is.
    home.add("own", BEARER, &canary());
    assert!(home.locum(&["credential", "verify", "own"]).failed(64).err.contains("no call"));
    home.add("narrow", &["--provider", "openai", "--to", "https://eu.api.openai.com"], &canary());
    let before = origin.seen().len();
    home.locum(&["credential", "verify", "narrow"]);
    assert_eq!(origin.seen().len(), before);
    home.never_leaks(&[&old, &new], &[]);
}
