//! Connections that are opened and dropped in every half-open state leave nothing behind.

use std::collections::BTreeMap;

use crate::support::*;

/// How often each state is dropped in each way. `LOCUM_TEST_ROUNDS=500` makes ten thousand of it.
fn rounds() -> usize {
    std::env::var("LOCUM_TEST_ROUNDS").map_or(100, |rounds| rounds.parse().unwrap())
}

/// Before what is measured: pools, caches and allocators have their size then.
const WARM_UP: usize = 12;

/// What memory may grow by over all of it, in KiB. One leaked tunnel in ten would be over it.
const GROWTH: u64 = 4 * 1024;

/// A host that is tunnelled and not intercepted.
const OPAQUE: &str = "opaque.test";

type State = fn(&World) -> Wire;

fn states() -> BTreeMap<&'static str, State> {
    fn connect_to(world: &World, authority: &str) -> Wire {
        world.serve.open_tunnel(&world.agent, authority)
    }
    fn after(mut wire: Wire, bytes: &str) -> Wire {
        wire.send(bytes);
        wire
    }
    BTreeMap::from([
        ("silent", (|world| world.serve.wire()) as State),
        ("half a CONNECT", |world| after(world.serve.wire(), "CONNECT api.test:443 HT")),
        ("a tunnel", |world| connect_to(world, "api.test:443")),
        ("an opaque tunnel", |world| connect_to(world, "opaque.test:443")),
        ("half a hello", |world| {
            let mut wire = connect_to(world, "api.test:443");
            wire.send(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03");
            wire
        }),
        ("a handshake", World::tunnel),
        ("half a head", |world| after(world.tunnel(), "GET /v1/x HTTP/1.1\r\nHost: api.t")),
        ("half a body", |world| {
            let head = format!("POST /v1/x HTTP/1.1\r\nHost: {HOST}\r\n{AUTHORIZED}\r\n");
            after(world.tunnel(), &format!("{head}Content-Length: 9\r\n\r\n1"))
        }),
        ("no answer yet", |world| {
            after(world.tunnel(), &request("GET", "/hold", &[AUTHORIZED], ""))
        }),
        ("half an answer", |world| {
            let get = request("GET", "/bytes/3000000", &[AUTHORIZED], "");
            let mut wire = after(world.tunnel(), &get);
            wire.until("\r\n\r\n");
            wire
        }),
    ])
}

/// Opens every state and drops it, by FIN and by RST, so many times.
fn churn(world: &World, rounds: usize) {
    let states = states();
    std::thread::scope(|scope| {
        for reset in [false, true] {
            let states = &states;
            scope.spawn(move || {
                for _ in 0..rounds {
                    for open in states.values() {
                        let wire = open(world);
                        if reset { wire.reset() } else { drop(wire) }
                    }
                }
            });
        }
    });
}

fn descriptors(serve: &Serve) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", serve.pid())).unwrap().count()
}

/// Waits until nothing is open any more; how many descriptors are then.
#[track_caller]
fn settled(world: &World, at_most: usize) -> usize {
    for kind in ["intercepted", "opaque"] {
        eventually(&format!("no {kind} tunnel"), PATIENCE, || {
            let open = world.serve.metric(&format!("locum_tunnels_open{{kind=\"{kind}\"}}"));
            (open == 0).then_some(())
        });
    }
    eventually("descriptors to be closed", PATIENCE, || {
        let open = descriptors(&world.serve);
        (open <= at_most).then_some(open)
    })
}

#[test]
fn connections_dropped_in_any_state_leave_nothing_behind() {
    let other = Origin::start(OPAQUE);
    let world = World::with(BEARER, canary(), |home, _| {
        home.reach(&other);
        // What is dropped has to be noticed, not waited for.
        for limit in ["head_time: 5m", "handshake: 5m", "idle_tunnel: 1h", "idle_reader: 1h"] {
            home.set(&format!("limits.{limit}"));
        }
        // Connections to the origin come and go with the requests, and are not what is counted.
        home.set("upstream.pool: {per_host: 0}");
        home.set("log.level: info");
    });
    world.origin.hold();
    assert_eq!(world.get("/v1/x").status, 200);
    let idle = descriptors(&world.serve);
    churn(&world, WARM_UP);
    settled(&world, idle);
    let before = world.serve.resident();
    churn(&world, rounds());
    settled(&world, idle);
    let after = world.serve.resident();
    assert!(after < before + GROWTH, "memory went from {before} to {after} KiB");
    // Every call that was permitted has its outcome.
    let ended = eventually("outcomes of all", PATIENCE, || {
        let records = world.home.audit();
        let permitted = records.iter().filter(|r| r["decision"] == "permit").count();
        let outcomes = records.iter().filter(|r| r["kind"] == "outcome").count();
        (permitted == outcomes).then_some(permitted)
    });
    // Some were dropped before they were a request.
    assert!(ended > 2 * 2 * rounds(), "{ended}");
    assert_eq!(world.get("/v1/x").status, 200);
}
