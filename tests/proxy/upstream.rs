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
        // Under load a loopback packet can be overtaken by one that was sent later: nobody could know then.
        let port = scene.peer.address.port();
        eventually("the end has arrived", PATIENCE, || {
            (!sockets().iter().any(|socket| socket.remote == port)).then_some(())
        });
    }
}

/// Address, private CA and client certificate of one host, and what goes wrong without each.
#[test]
fn a_host_of_its_own_kind_is_reached_as_its_entry_says() {
    let (key, home) = (canary(), Home::new());
    let origin = Origin::mutual(HOST);
    origin.accept(&key);
    home.add("main", BEARER, &key);
    let agent = home.agent("worker");
    let address = format!("address: '{}'", origin.address);
    let ca = format!("ca_file: '{}'", origin.ca_file().display());
    let [us, us_key] = ["us.pem", "us.key"].map(|name| origin.file(name).display().to_string());
    let shown = format!("client_cert: {{certificate: '{us}', key: '{us_key}'}}");
    let ask = |entry: &[&str]| {
        home.set(&format!("upstream.hosts: {{{HOST}: {{{}}}}}", entry.join(", ")));
        let serve = home.serve();
        let mut wire = serve.tunnel(&agent, HOST);
        let answer = wire.ask(request("GET", "/v1/x", &[AUTHORIZED], ""));
        home.unset("upstream.hosts");
        serve.stop();
        answer
    };
    assert_eq!(ask(&[&address, &ca, &shown]).status, 200);
    let answer = ask(&[&address, &shown]);
    assert_eq!(answer.problem(), "certificate-invalid", "a private CA is not believed unasked");
    assert_eq!(ask(&[&ca, &shown]).problem(), "dns-error");
    let answer = ask(&[&address, &ca]);
    assert_eq!(answer.status, 502, "without its certificate: {}", answer.text());
    assert!(answer.text().contains("client_cert"), "{}", answer.text());
    assert_eq!(origin.seen().len(), 1);
}

#[test]
fn agents_resume_their_sessions() {
    use rustls::HandshakeKind::{Full, Resumed};
    let world = World::new();
    let config = client_config(&world.home.ca());
    let mut kinds = Vec::new();
    for _ in 0..3 {
        let wire = world.serve.open_tunnel(&world.agent, "api.test:443");
        let mut wire = wire.tls_with(HOST, config.clone()).unwrap();
        assert_eq!(wire.ask(request("GET", "/v1/x", &[AUTHORIZED], "")).status, 200);
        kinds.push(wire.handshake().0);
    }
    assert_eq!(kinds, [Full, Resumed, Resumed]);
}

/// RFC 9794 calls it a hybrid: broken only when both are. It is against who records a wire; within the
/// machine there is none, and only who wants nothing else gets it. The rest is told by the unit tests of
/// `tls`, which need no second machine.
#[test]
fn agents_on_this_machine_agree_on_x25519_and_on_the_hybrid_where_they_have_nothing_else() {
    use rustls::NamedGroup;
    use rustls::crypto::aws_lc_rs::{default_provider, kx_group::X25519MLKEM768};
    let world = World::new();
    let mut only = default_provider();
    only.kx_groups = vec![X25519MLKEM768];
    for (provider, agreed) in
        [(default_provider(), NamedGroup::X25519), (only, NamedGroup::X25519MLKEM768)]
    {
        let config = client_config_of(&world.home.ca(), provider);
        let wire = world.serve.open_tunnel(&world.agent, "api.test:443");
        let mut wire = wire.tls_with(HOST, config).unwrap();
        assert_eq!(wire.ask(request("GET", "/v1/x", &[AUTHORIZED], "")).status, 200);
        assert_eq!(wire.handshake().1, agreed);
    }
}

/// Where nothing is said for long, a peer that is gone without a word is noticed all the same.
#[cfg(target_os = "linux")]
#[test]
fn both_legs_of_a_tunnel_are_kept_alive() {
    let free = Origin::start("free.test");
    let world = World::with(BEARER, canary(), |home, _| home.reach(&free));
    let mut inspected = world.tunnel();
    assert_eq!(inspected.ask(request("GET", "/v1/x", &[AUTHORIZED], "")).status, 200);
    let opaque = world.serve.open_tunnel(&world.agent, "free.test:443");
    let opaque = opaque.tls("free.test", &free.ca_file()).unwrap();
    let mut legs = vec![
        (world.serve.proxy.port(), inspected.port()),
        (world.serve.proxy.port(), opaque.port()),
    ];
    let far = [world.origin.address.port(), free.address.port()];
    let table = sockets();
    legs.extend(table.iter().filter(|s| far.contains(&s.remote)).map(|s| (s.local, s.remote)));
    assert!(legs.len() >= 4, "{legs:?}");
    for (local, remote) in legs {
        eventually("the timer of keep-alive", PATIENCE, || {
            let table = sockets();
            let socket = table.iter().find(|s| (s.local, s.remote) == (local, remote))?;
            (socket.timer == "02").then_some(())
        });
    }
}

/// One row of the kernel's table of sockets.
pub(crate) struct Socket {
    pub(crate) local: u16,
    pub(crate) remote: u16,
    /// Bytes that the other side has not taken.
    pub(crate) unsent: u64,
    /// `00` for none, `01` while packets are on their way, `02` for keep-alive.
    timer: String,
}

pub(crate) fn sockets() -> Vec<Socket> {
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let port = |address: &str| u16::from_str_radix(address.split(':').nth(1)?, 16).ok();
    let row = |line: &str| {
        let cells: Vec<&str> = line.split_ascii_whitespace().collect();
        // Established ones.
        (cells[3] == "01").then_some(())?;
        let timer = cells[5].split(':').next()?.to_owned();
        let unsent = u64::from_str_radix(cells[4].split(':').next()?, 16).ok()?;
        Some(Socket { local: port(cells[1])?, remote: port(cells[2])?, unsent, timer })
    };
    table.lines().skip(1).filter_map(row).collect()
}
