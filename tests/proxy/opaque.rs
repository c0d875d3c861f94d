//! Tunnels that are not decrypted.

use crate::support::*;

/// `free.test` has no credential, and the policy lets its tunnels through.
fn world() -> (World, Origin) {
    let free = Origin::start("free.test");
    let world = World::with(BEARER, canary(), |home, _| home.reach(&free));
    (world, free)
}

#[test]
fn bytes_pass_untouched_and_the_tunnel_is_audited() {
    let (world, free) = world();
    let wire = world.serve.open_tunnel(&world.agent, "free.test:443");
    // The certificate is the origin's own.
    let mut wire = wire.tls("free.test", &free.ca_file()).expect("TLS with the origin itself");
    let answer = wire
        .ask("GET /open/x HTTP/1.1\r\nHost: free.test\r\nAuthorization: Bearer locum_main\r\n\r\n");
    assert_eq!(answer.status, 200);
    assert_eq!(free.last().header("authorization"), Some("Bearer locum_main"));
    let answer = wire.ask("GET /open/bytes/1000000 HTTP/1.1\r\nHost: free.test\r\n\r\n");
    assert_eq!(answer.body.len(), 1_000_000);
    assert_eq!(world.serve.metric("locum_tunnels_open{kind=\"opaque\"}"), 1);
    drop(wire);
    let records = eventually("both records", PATIENCE, || {
        let access = world.home.audit().into_iter().find(|r| r["method"] == "CONNECT")?;
        let mut records = world.home.audit();
        records.retain(|r| r["request_id"] == access["request_id"]);
        (records.len() == 2).then_some(records)
    });
    assert_eq!(records[0]["destination"], "https://free.test");
    assert_eq!(records[0]["rule"], "the rest of the web, not decrypted");
    assert_eq!(records[0]["agent"], "worker");
    assert!(records[1]["bytes_down"].as_u64().unwrap() > 1_000_000, "{:?}", records[1]);
    assert!(records[1]["bytes_up"].as_u64().unwrap() > 100, "{:?}", records[1]);
    eventually("the tunnel's end", PATIENCE, || {
        (world.serve.metric("locum_tunnels_open{kind=\"opaque\"}") == 0).then_some(())
    });
}

#[test]
fn one_side_may_finish_before_the_other() {
    let home = Home::new();
    let echo = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    home.reach_as("free.test", echo.local_addr().unwrap(), None);
    let agent = home.agent("worker");
    let serve = home.serve();
    let server = std::thread::spawn(move || {
        use std::io::{Read as _, Write as _};
        let (mut stream, _) = echo.accept().unwrap();
        let mut all = Vec::new();
        stream.read_to_end(&mut all).unwrap();
        stream.write_all(&all).unwrap();
    });
    let mut wire = serve.open_tunnel(&agent, "free.test:443");
    wire.send("any bytes at all");
    wire.finish();
    assert_eq!(wire.until_closed(), b"any bytes at all");
    server.join().unwrap();
}

#[test]
fn a_host_with_a_credential_is_never_tunnelled_unseen() {
    let (world, _) = world();
    // Neither for an agent that may not use it, nor for bytes that are no TLS, nor on the name of
    // another.
    for (bytes, what) in
        [("SSH-2.0-x\r\n", "SSH"), ("\x00\x01\x02", "binary"), ("\r\n\r\n", "lines")]
    {
        let mut wire = world.serve.open_tunnel(&world.agent, "api.test:443");
        wire.send(bytes);
        wire.finish();
        wire.until_closed();
        assert_eq!(world.origin.connections(), 0, "{what}");
    }
    world.home.policy(
        "version: 1\nrules:\n- {name: all, agents: ['*'], to: ['https://*', 'https://api.test'], tunnel: opaque}\n",
    );
    eventually("the new policy", PATIENCE, || {
        world.serve.metrics().contains("locum_policy_generation 2").then_some(())
    });
    let mut wire = world.tunnel();
    let answer = wire.ask(request("GET", "/", &[AUTHORIZED], ""));
    assert_eq!(answer.problem(), "credential-refused");
    assert_eq!(world.origin.connections(), 0);
}

#[test]
fn a_host_that_no_rule_names_is_refused_inside_the_tunnel() {
    let home = Home::strict();
    let free = Origin::start("free.test");
    home.reach(&free);
    let agent = home.agent("worker");
    let serve = home.serve();
    // Clients hide the body of a failed CONNECT, and show that of an answer.
    let answer = serve.tunnel(&agent, "free.test").ask("GET / HTTP/1.1\r\nHost: free.test\r\n\r\n");
    assert_eq!((answer.status, &*answer.problem()), (403, "not-allowed"));
    assert_eq!(free.connections(), 0);
}

#[test]
fn a_client_that_does_not_trust_the_ca_is_said_so_once_and_clearly() {
    let (world, free) = world();
    let wire = world.serve.open_tunnel(&world.agent, "api.test:443");
    // It believes another CA only.
    assert!(wire.tls(HOST, &free.ca_file()).is_err());
    eventually("the metric", PATIENCE, || {
        (world.serve.metric("locum_untrusted_ca_total{agent=\"worker\",client=\"unknown\"}") == 1)
            .then_some(())
    });
    let log = world.serve.log();
    assert!(log.contains("locum run"), "the log says what to do: {log}");
    assert_eq!(world.origin.connections(), 0);
}
