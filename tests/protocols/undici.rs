//! Node: undici in each way of proxying that it has, and the `fetch` of a Node that reads the
//! environment by itself.

use crate::support::*;
use crate::{agent, had_the_key, modules, newer_node, runs, script};

/// The usual scene, and beside it an origin that speaks no TLS.
fn scene() -> (World, Origin) {
    let plain = Origin::clear("plain.test");
    let world = World::with(BEARER, canary(), |home, _| {
        home.reach(&plain);
        home.reach_as("plain.test", plain.address, None);
        home.add_policy(
            "plain.yaml",
            "version: 1\nrules:\n- {name: plain, agents: ['*'], to: ['http://plain.test']}\n",
        );
    });
    (world, plain)
}

#[test]
fn proxy_agents_of_undici_in_both_ways_of_proxying() {
    let (world, plain) = scene();
    let mut command = agent(&world, "node");
    let ran = runs(&world, command.arg(script("with_undici.mjs")).env("MODULES", modules()));
    // (the case, its status, how many tunnels undici opened for it, what it got)
    let expected = [
        "https by ProxyAgent: 200 tunnels 1 hello",
        "https by EnvHttpProxyAgent: 200 tunnels 1 hello",
        "https by request(): 200 tunnels 1 hello",
        "https by ProxyAgent over HTTP/2: 200 tunnels 1 hello, h2",
        "http in a tunnel: 200 tunnels 1 ok",
        "http by absolute URL: 200 tunnels 0 ok",
        "http by EnvHttpProxyAgent: 200 tunnels 1 ok",
        "http with a reference in a tunnel: 403 tunnels 1 plaintext-refused",
        "http with a reference by absolute URL: 403 tunnels 0 plaintext-refused",
        "refused in a tunnel: 403 tunnels 1 credential-refused",
    ];
    assert_eq!(ran.out.lines().collect::<Vec<_>>(), expected);
    had_the_key(
        &world,
        &["/echo?ProxyAgent", "/echo?EnvHttpProxyAgent", "/echo?request", "/echo?h2"],
    );
    let plainly: Vec<String> = plain.seen().into_iter().map(|seen| seen.target).collect();
    assert_eq!(plainly, ["/open/tunnel", "/open/absolute", "/open/environment"]);
    for seen in plain.seen() {
        assert!(seen.header("proxy-authorization").is_none(), "{seen:?}");
        assert!(seen.header("proxy-connection").is_none(), "{seen:?}");
    }
}

#[test]
fn undici_reads_a_stream_event_by_event() {
    let (world, _plain) = scene();
    world.origin.hold();
    let mut command = agent(&world, "node");
    command.arg(script("with_undici_stream.mjs")).env("MODULES", modules());
    let mut program = Running::start(&mut command);
    for event in 0..4 {
        assert_eq!(program.line("event: "), event.to_string());
        // The origin says the next one only now.
        world.origin.release();
    }
    world.home.said(&program.end().ok());
    had_the_key(&world, &["/events/4"]);
    world.never_leaks(&[]);
}

#[test]
fn the_fetch_that_node_has_built_in() {
    let (world, plain) = scene();
    let mut command = agent(&world, newer_node());
    let ran = runs(&world, command.arg(script("with_node.mjs")));
    assert_eq!(
        ran.out.lines().collect::<Vec<_>>(),
        ["https: 200 hello", "http: 200 ok", "https module: 200 hello", "http module: 200 ok"]
    );
    had_the_key(&world, &["/echo?fetch", "/echo?module"]);
    assert_eq!(plain.seen().len(), 2);
}
