//! What is used when a credential does not work: another version, another of its pool.

use serde_json::Value;

use crate::support::*;

fn key(seen: &Seen) -> String {
    seen.header("authorization").unwrap().strip_prefix("Bearer ").unwrap().to_owned()
}

/// The keys of the last `count` requests.
fn last(origin: &Origin, count: usize) -> Vec<String> {
    let seen = origin.seen();
    seen[seen.len() - count..].iter().map(key).collect()
}

fn events(home: &Home, name: &str) -> Vec<Value> {
    home.audit().into_iter().filter(|record| record["event"] == name).collect()
}

/// Until requests get the new version.
#[track_caller]
fn in_force(world: &World, wire: &mut Wire) {
    eventually("the new version", PATIENCE, || {
        wire.ask(request("GET", "/probe", &[AUTHORIZED], ""));
        let accesses = world.home.accesses_to("/probe");
        accesses.iter().any(|record| record["version"] == 2).then_some(())
    });
}

#[test]
fn a_new_version_that_the_origin_does_not_accept_leaves_the_old_one_in_use() {
    let world = World::new();
    let (old, new) = (world.key.clone(), canary());
    let mut wire = world.tunnel();
    // The provider has not heard of it.
    world.home.locum_with(&["credential", "rotate", "main", "--grace", "1h"], new.as_bytes()).ok();
    in_force(&world, &mut wire);
    let body = "{\"model\": \"x\"}";
    let answer = wire.ask(request("POST", "/v1/x", &[AUTHORIZED], body));
    assert_eq!(answer.status, 200, "{}", answer.text());
    let seen = world.origin.last();
    assert_eq!((key(&seen), &*seen.body), (old.clone(), body.as_bytes()));
    let fallbacks = events(&world.home, "credential-fallback");
    assert_eq!(fallbacks.len(), 1, "{fallbacks:?}");
    assert_eq!(fallbacks[0]["subject"], "main version 2");
    let series = "locum_credential_failures_total{cause=\"invalid\",credential=\"main\"}";
    assert!(world.serve.metric(series) >= 1, "{}", world.serve.metrics());
    // It is left alone for a while: each further request is one call.
    let before = world.origin.seen().len();
    for _ in 0..20 {
        assert_eq!(wire.ask(request("GET", "/v1/y", &[AUTHORIZED], "")).status, 200);
    }
    assert_eq!(world.origin.seen().len(), before + 20);
    assert_eq!(events(&world.home, "credential-fallback").len(), 1);
    // Of a request that carried both, both are done with.
    eventually("the outcomes", PATIENCE, || {
        let users = world.home.locum(&["credential", "who-uses", "main", "--json"]).ok().out;
        let users: Vec<Value> = serde_json::from_str(&users).unwrap();
        assert_eq!(users.len(), 2, "{users:?}");
        users.iter().all(|user| user["open"] == 0).then_some(())
    });
    // Each attempt has a record, and the records say why.
    let probes = world.home.accesses_to("/probe");
    let second = probes.iter().find(|record| record["chosen_by"] == "after-401").unwrap();
    assert_eq!(second["version"], 1);
    let first = probes.iter().find(|r| r["request_id"] == second["request_id"]).unwrap();
    assert_eq!((&first["version"], first.get("chosen_by")), (&2.into(), None));
    let of_it = world.home.records_of(second["request_id"].as_str().unwrap(), 3);
    assert_eq!(of_it.iter().filter(|r| r["kind"] == "outcome").count(), 1);
    world.home.never_leaks(&[&old, &new], &[("the wire", &wire.transcript)]);
}

#[test]
fn a_401_of_the_origins_own_is_the_agents_and_costs_no_other_request_anything() {
    let world = World::new();
    let (old, new) = (world.key.clone(), canary());
    world.origin.accept(&new);
    let mut wire = world.tunnel();
    world.home.locum_with(&["credential", "rotate", "main", "--grace", "1h"], new.as_bytes()).ok();
    in_force(&world, &mut wire);
    // Whatever the key: once with each version, and then it is the answer.
    let before = world.origin.seen().len();
    assert_eq!(wire.ask(request("GET", "/status/401", &[AUTHORIZED], "")).status, 401);
    assert_eq!(last(&world.origin, 2), [new.clone(), old]);
    assert_eq!(world.origin.seen().len(), before + 2);
    assert_eq!(wire.ask(request("GET", "/v1/x", &[AUTHORIZED], "")).status, 200);
    assert_eq!(last(&world.origin, 1)[0], new, "it does not rest for that");
    assert!(events(&world.home, "credential-fallback").is_empty());
    // A 403 says what is allowed, and never anything of the key.
    let before = world.origin.seen().len();
    assert_eq!(wire.ask(request("GET", "/status/403", &[AUTHORIZED], "")).status, 403);
    assert_eq!(world.origin.seen().len(), before + 1);
    // What cannot be sent again is sent once.
    world.origin.answer(&new, 401, None);
    let chunked = format!(
        "POST /v1/x HTTP/1.1\r\nHost: {HOST}\r\n{AUTHORIZED}\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n"
    );
    let before = world.origin.seen().len();
    assert_eq!(wire.ask(chunked).status, 401);
    assert_eq!(world.origin.seen().len(), before + 1);
}

#[test]
fn a_run_whose_version_the_origin_has_ended_goes_on_with_the_new_one() {
    let world = World::new();
    let (old, new) = (world.key.clone(), canary());
    let mut wire = world.tunnel();
    let of_run = request("GET", "/v1/x", &[AUTHORIZED, "Locum-Run: 7"], "");
    assert_eq!(wire.ask(&of_run).status, 200);
    world.origin.accept(&new);
    world.home.locum_with(&["credential", "rotate", "main", "--grace", "1h"], new.as_bytes()).ok();
    in_force(&world, &mut wire);
    assert_eq!(wire.ask(&of_run).status, 200);
    assert_eq!(last(&world.origin, 1)[0], old, "it goes on with what it began with");
    // The provider knows no grace.
    world.origin.state.keys.lock().remove(&old);
    assert_eq!(wire.ask(&of_run).status, 200);
    assert_eq!(last(&world.origin, 2), [old, new.clone()]);
    assert_eq!(wire.ask(&of_run).status, 200);
    assert_eq!(last(&world.origin, 2), [new.clone(), new], "the old one is left alone");
    let fallbacks = events(&world.home, "credential-fallback");
    assert_eq!(fallbacks.len(), 1, "{fallbacks:?}");
    assert_eq!(fallbacks[0]["subject"], "main version 1");
}

#[test]
fn over_http2_it_is_the_same_and_what_streams_is_sent_once() {
    let world = World::http2();
    let new = canary();
    world.home.locum_with(&["credential", "rotate", "main", "--grace", "1h"], new.as_bytes()).ok();
    in_force(&world, &mut world.tunnel());
    let main = ("authorization", "Bearer locum_main");
    runtime().block_on(async {
        let http2 = Http2::open(&world.serve, &world.agent).await;
        let length = ("content-length", "4");
        let reply = http2.ask(request2("POST", "/v1/x", &[main, length]), b"body").await;
        assert_eq!((reply.status, &*world.origin.last().body), (200, &b"body"[..]));
        let reply = http2.ask(request2("GET", "/events/3", &[main]), b"").await;
        assert!(reply.broken.is_none() && reply.text().contains("data: 2"), "{}", reply.text());
    });
    // Neither is good: each is tried once, what streams with one alone.
    world.origin.state.keys.lock().clear();
    let before = world.origin.seen().len();
    runtime().block_on(async {
        let http2 = Http2::open(&world.serve, &world.agent).await;
        let reply = http2.ask(request2("POST", "/streams", &[main]), b"body").await;
        assert_eq!(reply.status, 401);
        assert_eq!(world.origin.seen().len(), before + 1);
        let reply = http2.ask(request2("GET", "/whole", &[main]), b"").await;
        assert_eq!(reply.status, 401);
    });
    assert!(world.origin.seen().len() <= before + 3);
}

const HANDSHAKE: [&str; 5] = [
    AUTHORIZED,
    "Upgrade: websocket",
    "Connection: Upgrade",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Version: 13",
];

/// Has the origin open sockets to whoever shows `key`.
fn opens_to(scene: &Scene, key: &str) {
    // To the key above (RFC 6455 section 1.3).
    const SWITCHES: &str = "101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";
    let key = key.to_owned();
    scene.peer.serve(move |mut wire| {
        while let Some(head) = wire.try_head() {
            let known = head.contains(&key);
            let status = if known { SWITCHES } else { "401 Unauthorized\r\nContent-Length: 0" };
            wire.send(format!("HTTP/1.1 {status}\r\n\r\n"));
            if known {
                let _ = wire.try_until_end();
                return;
            }
        }
    });
}

#[test]
fn a_socket_is_opened_with_the_version_that_the_origin_takes_and_ends_with_that() {
    let scene = Scene::new();
    let (old, new) = (scene.key.clone(), canary());
    opens_to(&scene, &old);
    let open = |path: &str| {
        let mut wire = scene.tunnel();
        assert_eq!(wire.ask(request("GET", path, &HANDSHAKE, "")).status, 101);
        wire
    };
    scene.home.locum_with(&["credential", "rotate", "main", "--grace", "1h"], new.as_bytes()).ok();
    let second = eventually("the new version", PATIENCE, || {
        open("/probe");
        let probes = scene.home.accesses_to("/probe");
        probes.iter().find(|record| record["chosen_by"] == "after-401").cloned()
    });
    assert_eq!(second["version"], 1);
    assert_eq!(events(&scene.home, "credential-fallback")[0]["subject"], "main version 2");
    // The other rests by now.
    let mut wire = open("/socket");
    assert_eq!(scene.home.accesses_to("/socket").len(), 1);
    let cut = ["credential", "revoke", "main", "--version", "1", "--cut"];
    scene.home.locum(&cut).ok();
    wire.until_closed();
    scene.home.never_leaks(&[&old, &new], &[]);
}

#[test]
fn a_socket_that_no_version_opens_is_declined_once() {
    let scene = Scene::new();
    opens_to(&scene, "nobody's");
    let mut wire = scene.tunnel();
    let of_run = [&HANDSHAKE[..], &["Locum-Run: 7"]].concat();
    assert_eq!(wire.ask(request("GET", "/first", &of_run, "")).status, 401);
    assert_eq!(scene.home.accesses_to("/first").len(), 1, "there is no other");
    let rotate = ["credential", "rotate", "main", "--grace", "1h"];
    scene.home.locum_with(&rotate, canary().as_bytes()).ok();
    let records = eventually("the new version", PATIENCE, || {
        assert_eq!(wire.ask(request("GET", "/probe", &HANDSHAKE, "")).status, 401);
        let records = scene.home.accesses_to("/probe");
        (records.last()?["chosen_by"] == "after-401").then_some(records)
    });
    let id = &records.last().unwrap()["request_id"];
    assert_eq!(records.iter().filter(|record| record["request_id"] == *id).count(), 2);
    let all = scene.home.records_of(id.as_str().unwrap(), 3);
    assert_eq!(all.iter().filter(|record| record["kind"] == "outcome").count(), 1);
    assert!(events(&scene.home, "credential-fallback").is_empty());
}

/// Three keys behind the reference `pool`.
struct Pool {
    world: World,
    keys: Vec<String>,
}

impl Pool {
    fn new(weights: [&str; 3]) -> Self {
        let keys: Vec<String> = (0..3).map(|_| canary()).collect();
        let world = World::with(BEARER, canary(), |home, origin| {
            for (nth, (key, weight)) in keys.iter().zip(weights).enumerate() {
                origin.accept(key);
                let name = format!("key-{nth}");
                let of = ["--serves", "pool", "--weight", weight];
                home.add(&name, &[BEARER, &of].concat(), key);
            }
        });
        Self { world, keys }
    }

    fn counts(&self, since: usize) -> Vec<usize> {
        let seen: Vec<String> = self.world.origin.seen()[since..].iter().map(key).collect();
        self.keys.iter().map(|key| seen.iter().filter(|used| *used == key).count()).collect()
    }
}

fn ask(wire: &mut Wire) -> Answer {
    wire.ask(request("GET", "/v1/x", &["Authorization: Bearer locum_pool"], ""))
}

#[test]
fn a_pool_is_spread_by_weight_and_cools_down() {
    let pool = Pool::new(["2", "1", "1"]);
    let mut wire = pool.world.tunnel();
    for _ in 0..40 {
        assert_eq!(ask(&mut wire).status, 200);
    }
    assert_eq!(pool.counts(0), [20, 10, 10]);
    let record = pool.world.home.accesses_to("/v1/x").pop().unwrap();
    assert_eq!(record["chosen_by"], "platform,pool");
    // One at its limit: the same request goes on with another, and the next ones do not ask it.
    pool.world.origin.answer(&pool.keys[0], 429, Some("3600"));
    let since = pool.world.origin.seen().len();
    for _ in 0..20 {
        assert_eq!(ask(&mut wire).status, 200);
    }
    assert_eq!(pool.counts(since)[0], 1, "{:?}", pool.counts(since));
    let record = pool.world.home.audit();
    assert!(record.iter().any(|r| r["chosen_by"] == "platform,pool,after-429"));
    // All of them: the soonest time, and no more calls.
    pool.world.origin.answer(&pool.keys[1], 429, Some("100"));
    pool.world.origin.answer(&pool.keys[2], 429, Some("200"));
    let answer = ask(&mut wire);
    assert_eq!((answer.status, &*answer.problem()), (429, "credential-exhausted"));
    let wait: u64 = answer.header("retry-after").unwrap().parse().unwrap();
    assert!((90..=100).contains(&wait), "{wait}");
    let since = pool.world.origin.seen().len();
    for _ in 0..10 {
        assert_eq!(ask(&mut wire).problem(), "credential-exhausted");
    }
    assert_eq!(pool.world.origin.seen().len(), since);
    let keys: Vec<&str> = pool.keys.iter().map(String::as_str).collect();
    pool.world.home.never_leaks(&keys, &[("the wire", &wire.transcript)]);
}

#[test]
fn a_pool_rests_no_longer_than_the_origin_says_and_leaves_invalid_keys_out() {
    let pool = Pool::new(["1", "1", "1"]);
    let mut wire = pool.world.tunnel();
    for key in &pool.keys {
        pool.world.origin.answer(key, 429, Some("1"));
    }
    let exhausted = ask(&mut wire);
    assert_eq!(exhausted.problem(), "credential-exhausted");
    for nth in 0..3 {
        let series = format!(
            "locum_credential_failures_total{{cause=\"rate-limited\",credential=\"key-{nth}\"}}"
        );
        assert_eq!(pool.world.serve.metric(&series), 1, "{series}");
    }
    for key in &pool.keys {
        pool.world.origin.answer_as_ever(key);
    }
    eventually("the end of the rest", PATIENCE, || (ask(&mut wire).status == 200).then_some(()));
    // One that the provider does not know any more.
    pool.world.origin.answer(&pool.keys[1], 401, None);
    let since = pool.world.origin.seen().len();
    for _ in 0..15 {
        assert_eq!(ask(&mut wire).status, 200);
    }
    assert_eq!(pool.counts(since)[1], 1, "{:?}", pool.counts(since));
    let fallbacks = events(&pool.world.home, "credential-fallback");
    assert_eq!(fallbacks.len(), 1);
    assert_eq!(fallbacks[0]["subject"], "key-1 version 1");
    // A refusal to do something is none of the key.
    pool.world.origin.answer(&pool.keys[0], 403, None);
    pool.world.origin.answer(&pool.keys[2], 403, None);
    let since = pool.world.origin.seen().len();
    for _ in 0..12 {
        assert_eq!(ask(&mut wire).status, 403);
    }
    // Those that are left share its turns.
    let counts = pool.counts(since);
    assert!(counts[1] == 0 && counts[0] >= 3 && counts[2] >= 3, "{counts:?}");
}
