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
