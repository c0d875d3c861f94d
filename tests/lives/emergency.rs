//! A version that must not be used any more: at once, and proved.

use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::*;

const HANDSHAKE: [&str; 5] = [
    AUTHORIZED,
    "Upgrade: websocket",
    "Connection: Upgrade",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Version: 13",
];

fn of_run(run: &str) -> String {
    request("GET", &format!("/{run}"), &[AUTHORIZED, &format!("Locum-Run: {run}")], "")
}

fn revoke(home: &Home, arguments: &[&str]) -> Value {
    let command = [&["credential", "revoke", "main", "--now", "--json"], arguments].concat();
    serde_json::from_str(&home.locum(&command).ok().out).unwrap()
}

fn uses(origin: &Origin, key: &str) -> usize {
    let bearer = format!("Bearer {key}");
    origin.seen().iter().filter(|seen| seen.header("authorization") == Some(&bearer)).count()
}

#[test]
fn after_an_emergency_revocation_nobody_uses_the_version_and_its_runs_are_named() {
    let world = World::with(BEARER, canary(), |home, _| home.set("log.level: info"));
    let (old, new) = (world.key.clone(), canary());
    world.origin.accept(&new);
    for thread in 0..4 {
        assert_eq!(world.tunnel().ask(of_run(&format!("early-{thread}"))).status, 200);
    }
    world.home.rotate("main", &new);
    let (stop, done, refused) = (AtomicBool::new(false), AtomicUsize::new(0), AtomicUsize::new(0));
    let load = |thread: usize| {
        let mut wire = world.tunnel();
        while !stop.load(Ordering::Relaxed) {
            let answer = wire.ask(of_run(&format!("early-{thread}")));
            // A request that was decided and had not left yet is the only one that may hear of it.
            if answer.status != 200 {
                assert_eq!(answer.problem(), "credential-revoked");
                refused.fetch_add(1, Ordering::Relaxed);
            }
            done.fetch_add(1, Ordering::Relaxed);
        }
    };
    let enough = |count: usize| {
        let begin = done.load(Ordering::Relaxed);
        eventually("the load", PATIENCE, || {
            (done.load(Ordering::Relaxed) >= begin + count).then_some(())
        });
    };
    let (before, revoked) = std::thread::scope(|scope| {
        for thread in 0..4 {
            scope.spawn(move || load(thread));
        }
        enough(200);
        let revoked = revoke(&world.home, &["--version", "1"]);
        // What left before the word came is on its way to the origin's own notes.
        std::thread::sleep(Duration::from_millis(100));
        let before = uses(&world.origin, &old);
        enough(300);
        stop.store(true, Ordering::Relaxed);
        (before, revoked)
    });
    assert!(before >= 200, "{before}");
    assert_eq!(uses(&world.origin, &old), before, "the version was used after it was revoked");
    assert!(refused.into_inner() <= 4);
    assert!(uses(&world.origin, &new) >= 290, "its runs go on with the current one");
    assert!(revoked["in_force_ms"].as_u64().unwrap() < 1000, "{revoked}");
    assert_eq!(revoked["versions"], serde_json::json!([1]));
    let mut runs: Vec<&str> = revoked["runs"]
        .as_array()
        .unwrap()
        .iter()
        .map(|run| run["run"].as_str().unwrap())
        .collect();
    runs.sort_unstable();
    assert_eq!(runs, ["early-0", "early-1", "early-2", "early-3"]);
    for run in revoked["runs"].as_array().unwrap() {
        assert_eq!((&run["agent"], &run["version"]), (&"worker".into(), &1.into()));
        assert!(run["requests"].as_u64().unwrap() > 10, "{run}");
    }
    // Whoever did not hear that it was in force may ask again.
    assert_eq!(revoke(&world.home, &["--version", "1"])["versions"], serde_json::json!([1]));
    // All of it: then there is nothing left to use.
    revoke(&world.home, &[]);
    let before = world.origin.seen().len();
    for _ in 0..50 {
        assert_eq!(world.tunnel().ask(of_run("early-0")).problem(), "credential-refused");
    }
    assert_eq!(world.origin.seen().len(), before);
    world.home.locum(&["audit", "verify"]).ok();
}

#[test]
fn a_request_that_waits_for_its_connection_is_not_sent_after_the_revocation() {
    // Whoever connects waits for TLS until this accepts, and then has the origin behind it.
    let slow = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = slow.local_addr().unwrap();
    let world = World::with(BEARER, canary(), |home, origin| {
        home.reach_as(HOST, address, Some(origin.ca_file()));
    });
    let mut wire = world.tunnel();
    wire.send(of_run("early"));
    let (near, _) = slow.accept().unwrap();
    let before = uses(&world.origin, &world.key);
    revoke(&world.home, &[]);
    let far = TcpStream::connect(world.origin.address).unwrap();
    for (mut from, mut to) in [(near.try_clone().unwrap(), far.try_clone().unwrap()), (far, near)] {
        std::thread::spawn(move || std::io::copy(&mut from, &mut to));
    }
    let answer = wire.answer();
    assert_eq!((answer.status, &*answer.problem()), (403, "credential-revoked"));
    assert_eq!(uses(&world.origin, &world.key), before);
    let records = world.home.records_of(&answer.request_id(), 2);
    assert_eq!((&records[0]["decision"], &records[0]["version"]), (&"permit".into(), &1.into()));
    assert_eq!(records[1]["code"], "credential-revoked");
}

/// An access record that has its outcome: its code.
#[track_caller]
fn code_of(world: &World, path: &str) -> Value {
    let id = world.home.accesses_to(path).pop().unwrap()["request_id"].as_str().unwrap().to_owned();
    let records = world.home.records_of(&id, 2);
    records.iter().find(|r| r["kind"] == "outcome").unwrap()["code"].clone()
}

#[track_caller]
fn streaming(world: &World, reference: &str) -> Wire {
    let mut wire = world.tunnel();
    let field = format!("Authorization: Bearer {reference}");
    wire.send(request("GET", "/events/3", &[&field], ""));
    wire.until("data: 0\n\n\r\n");
    wire
}

#[test]
fn what_carries_a_version_that_is_cut_is_broken_off_and_nothing_else() {
    let world = World::new();
    let other = canary();
    world.origin.accept(&other);
    world.home.add("other", BEARER, &other);
    world.origin.hold();
    let mut carried = streaming(&world, "locum_main");
    let mut bystander = streaming(&world, "locum_other");
    // One that still waits for the head of its answer.
    let mut waiting = world.tunnel();
    waiting.send(request("GET", "/hold", &[AUTHORIZED], ""));
    world.origin.until_seen(3);
    // Without the word, what is under way is finished.
    let new = canary();
    world.origin.accept(&new);
    world.home.rotate("main", &new);
    eventually("the new version", PATIENCE, || {
        world.get("/v1/x");
        (uses(&world.origin, &new) > 0).then_some(())
    });
    let mut newer = streaming(&world, "locum_main");
    revoke(&world.home, &["--version", "1"]);
    assert!(carried.is_silent(Duration::from_millis(200)));
    let begin = Instant::now();
    revoke(&world.home, &["--version", "1", "--cut"]);
    let rest = carried.until_closed();
    assert!(!String::from_utf8_lossy(&rest).contains("data: 1"), "the stream went on");
    let answer = waiting.answer();
    assert_eq!((answer.status, &*answer.problem()), (403, "credential-revoked"));
    assert!(begin.elapsed() < Duration::from_secs(2), "{:?}", begin.elapsed());
    assert_eq!(code_of(&world, "/hold"), "credential-revoked");
    let cut = |r: &&Value| r["kind"] == "outcome" && r["code"] == "credential-revoked";
    eventually("the outcomes", PATIENCE, || {
        (world.home.audit().iter().filter(cut).count() == 2).then_some(())
    });
    let event = world.home.audit().into_iter().find(|r| r["event"] == "credential-cut").unwrap();
    assert_eq!(event["subject"], "main version 1");
    // The others go on: another credential, and another version of the same.
    for _ in 0..5 {
        world.origin.release();
    }
    for wire in [&mut bystander, &mut newer] {
        wire.until("data: 1\n\n");
    }
}

#[test]
fn a_stream_of_http2_is_cut_on_both_sides() {
    let world = World::http2();
    world.origin.hold();
    let (held, free) = (Http2::open(&world.serve, &world.agent), "/v1/x");
    let main = [("authorization", "Bearer locum_main")];
    let reply = runtime().block_on(async {
        let http2 = held.await;
        let streaming =
            tokio::spawn(ask2(http2.send.clone(), request2("GET", "/events/3", &main), b""));
        let waiting = tokio::spawn(ask2(http2.send.clone(), request2("GET", "/hold", &main), b""));
        let home = &world.home;
        tokio::task::block_in_place(|| {
            world.origin.until_seen(2);
            revoke(home, &["--cut"]);
        });
        let waiting = waiting.await.unwrap().unwrap();
        assert_eq!((waiting.status, &*waiting.problem()), (403, "credential-revoked"));
        let again = http2.ask(request2("GET", free, &main), b"").await;
        assert_eq!(again.problem(), "credential-refused");
        streaming.await.unwrap().unwrap()
    });
    assert!(reply.broken.is_some(), "{}", reply.text());
    assert!(!reply.text().contains("data: 1"));
}

#[test]
fn a_socket_is_cut() {
    let world = World::before(
        Origin::scripted(HOST, vec![Script::Switch, Script::Echo]),
        BEARER,
        canary(),
        |_, _| {},
    );
    let mut wire = world.tunnel();
    assert_eq!(wire.ask(request("GET", "/socket", &HANDSHAKE, "")).status, 101);
    let new = canary();
    world.home.rotate("main", &new);
    let mut newer = world.tunnel();
    eventually("the new version", PATIENCE, || {
        let mut fresh = world.tunnel();
        assert_eq!(fresh.ask(request("GET", "/newer", &HANDSHAKE, "")).status, 101);
        newer = fresh;
        let record = world.home.accesses_to("/newer").pop().unwrap();
        (record["version"] == 2).then_some(())
    });
    revoke(&world.home, &["--version", "1", "--cut"]);
    wire.until_closed();
    assert_eq!(code_of(&world, "/socket"), "credential-revoked");
    assert!(newer.is_silent(Duration::from_millis(300)), "the newer version's socket is open");
}

#[test]
fn who_used_which_version_can_be_asked() {
    let world = World::new();
    let mut wire = world.tunnel();
    for run in ["a", "a", "b"] {
        assert_eq!(wire.ask(of_run(run)).status, 200);
    }
    assert_eq!(wire.ask(request("GET", "/none", &[AUTHORIZED], "")).status, 200);
    world
        .home
        .locum_with(&["credential", "rotate", "main", "--grace", "0"], canary().as_bytes())
        .ok();
    let ask = |arguments: &[&str]| -> Vec<Value> {
        let command = [&["credential", "who-uses", "main", "--json"], arguments].concat();
        serde_json::from_str(&world.home.locum(&command).ok().out).unwrap()
    };
    let all = eventually("the outcomes", PATIENCE, || {
        let all = ask(&[]);
        all.iter().all(|user| user["open"] == 0).then_some(all)
    });
    let shown = |user: &Value| (user["run"].as_str().map(str::to_owned), user["requests"].as_u64());
    let mut rows: Vec<_> = all.iter().map(shown).collect();
    rows.sort();
    let run = |run: &str| Some(run.to_owned());
    assert_eq!(rows, [(None, Some(1)), (run("a"), Some(2)), (run("b"), Some(1))]);
    assert_eq!(ask(&["--version", "1"]).len(), 3);
    assert_eq!(ask(&["--version", "2"]).len(), 0);
    assert_eq!(ask(&["--since", "2020-01-01"]).len(), 3);
    let table = world.home.locum(&["credential", "who-uses", "main"]).ok().out;
    assert!(table.starts_with("AGENT   RUN  USER  VERSION  REQUESTS  OPEN"), "{table}");
    // Without a proxy there is nobody to wait for.
    let World { serve, home, .. } = world;
    serve.stop();
    let revoked = revoke(&home, &["--cut"]);
    assert_eq!(revoked["versions"], serde_json::json!([1, 2]));
}
