//! The connections behind the proxy.

use crate::support::*;

#[test]
fn connections_are_kept_and_never_shared_between_agents_or_keys() {
    let second = canary();
    let world = World::with(BEARER, canary(), |home, origin| {
        home.add("second", BEARER, &second);
        origin.accept(&second);
    });
    let other = world.home.agent("other");
    let ask = |agent: &Agent, credential: &str| {
        let field = format!("Authorization: Bearer locum_{credential}");
        let mut wire = world.serve.tunnel(agent, HOST);
        assert_eq!(wire.ask(request("GET", "/v1/x", &[&field], "")).status, 200);
        world.origin.last().connection
    };
    let first = ask(&world.agent, "main");
    assert_eq!(ask(&world.agent, "main"), first, "kept across tunnels");
    let mut all =
        vec![first, ask(&other, "main"), ask(&world.agent, "second"), ask(&other, "second")];
    assert_eq!(ask(&other, "main"), all[1]);
    all.sort_unstable();
    all.dedup();
    assert_eq!(all.len(), 4, "each agent with each key has its own");
    world.home.rotate("main", &{
        let third = canary();
        world.origin.accept(&third);
        third
    });
    eventually("the new version", PATIENCE, || {
        let number = ask(&world.agent, "main");
        (!all.contains(&number)).then_some(())
    });
}

#[test]
fn an_origin_that_closes_between_requests_is_called_again() {
    let home = Home::new();
    let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok".to_vec();
    let origin = Origin::scripted(
        HOST,
        vec![Script::Read, Script::Send(answer), Script::Wait, Script::Goodbye],
    );
    home.reach(&origin);
    home.add("main", BEARER, &canary());
    let agent = home.agent("worker");
    let serve = home.serve();
    let mut wire = serve.tunnel(&agent, HOST);
    for round in 1..=5 {
        let answer = wire.ask(request("POST", "/", &[AUTHORIZED], "body"));
        assert_eq!(answer.status, 200, "round {round}: {}", answer.text());
        assert_eq!(origin.connections(), round);
        assert_eq!(serve.metric("locum_pool_idle_connections"), 1);
        origin.release();
        eventually("the close to arrive", PATIENCE, || {
            (serve.metric("locum_pool_idle_connections") == 0).then_some(())
        });
    }
}

#[test]
fn redirects_are_the_clients_affair() {
    let evil = Origin::start("evil.test");
    let world = World::with(BEARER, canary(), |home, _| home.reach(&evil));
    let answer = world.get("/redirect?https://evil.test/take");
    assert_eq!(answer.status, 302);
    assert_eq!(answer.header("location"), Some("https://evil.test/take"));
    assert_eq!(evil.connections(), 0);
    // A client that takes its field along hands over a reference that is worth nothing.
    let wire = world.serve.open_tunnel(&world.agent, "evil.test:443");
    let mut wire = wire.tls("evil.test", &evil.ca_file()).unwrap();
    wire.ask(format!("GET /open/take HTTP/1.1\r\nHost: evil.test\r\n{AUTHORIZED}\r\n\r\n"));
    assert_eq!(evil.last().header("authorization"), Some("Bearer locum_main"));
    assert!(!evil.raw().concat().contains(&world.key));
}

#[test]
fn what_an_origin_sends_after_its_answer_reaches_nobody() {
    let home = Home::new();
    let two = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nwrong";
    let origin = Origin::scripted(
        HOST,
        vec![
            Script::Read,
            Script::Send(two.to_vec()),
            Script::Read,
            Script::Send(two.to_vec()),
            Script::Goodbye,
        ],
    );
    home.reach(&origin);
    home.add("main", BEARER, &canary());
    let agent = home.agent("worker");
    let serve = home.serve();
    let mut wire = serve.tunnel(&agent, HOST);
    for _ in 0..4 {
        let answer = wire.ask(request("GET", "/", &[AUTHORIZED], ""));
        assert!(answer.text() != "wrong", "an answer that nobody asked for");
    }
}

/// Whichever thread takes a connection from the pool, and whichever had it before, sees that the
/// origin has closed it.
#[test]
fn a_connection_that_was_closed_while_it_waited_is_never_used() {
    let scene = Scene::new();
    let get = request("GET", "/v1/x", &[AUTHORIZED], "");
    // Connections of the agent are spread over the threads.
    let mut near: Vec<Wire> = (0..6).map(|_| scene.tunnel()).collect();
    for round in 0..30 {
        let near = &mut near[round % 6];
        near.send(&get);
        let (mut far, _) = scene.peer.request();
        far.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        let answer = near.answer();
        assert_eq!((answer.status, answer.text().as_str()), (200, "ok"), "round {round}");
        // In both ways of ending.
        if round % 2 == 0 {
            far.finish();
        }
        drop(far);
    }
}
