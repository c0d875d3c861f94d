//! The order of the ways in, and what becomes of one that is taken out.

use serde_json::Value;

use crate::support::*;

#[test]
fn a_way_in_that_is_not_named_is_none() {
    let world = World::with(BEARER, canary(), |home, _| home.set("proxy.authenticate: [tokens]"));
    let made = world.home.locum(&["run-token", "--agent", "worker", "--json"]).ok().out;
    let made: Value = serde_json::from_str(&made).unwrap();
    let run = basic("worker", made["token"].as_str().unwrap());
    let knock = |authorization: &str| {
        world.serve.wire().ask(connect(&format!("{HOST}:443"), authorization)).status
    };
    assert_eq!(knock(&run), 407);
    assert_eq!(knock(&world.agent.authorization()), 200);
    // Saved, it acts at once; and what is taken out ends what came in by it.
    world.home.set("proxy.authenticate: [run-tokens, tokens]");
    eventually("the new order", PATIENCE, || (knock(&run) == 200).then_some(()));
    let agent = Agent {
        name: "worker".to_owned(),
        token_id: String::new(),
        token: made["token"].as_str().unwrap().to_owned(),
    };
    let mut wire = world.serve.tunnel(&agent, HOST);
    assert_eq!(wire.ask(request("GET", "/by-run-token", &[AUTHORIZED], "")).status, 200);
    let record = world.home.accesses_to("/by-run-token").remove(0);
    assert_eq!(record["authenticated_by"], "run-token");
    world.home.set("proxy.authenticate: [tokens]");
    let answer = eventually("the end of run tokens", PATIENCE, || {
        let answer = wire.ask(request("GET", "/late", &[AUTHORIZED], ""));
        (answer.status != 200).then_some(answer)
    });
    assert_eq!(answer.problem(), "agent-revoked");
}

#[test]
fn two_proxy_credentials_are_none() {
    let world = World::new();
    let right = world.agent.authorization();
    for pair in [[&*right, "Basic !!!"], ["Basic !!!", &*right], [&*right, &*right]] {
        let fields = pair.map(|value| format!("Proxy-Authorization: {value}\r\n")).concat();
        let ask = format!("CONNECT {HOST}:443 HTTP/1.1\r\nHost: {HOST}:443\r\n{fields}\r\n");
        assert_eq!(world.serve.wire().ask(ask).status, 407, "{pair:?}");
    }
}

#[test]
fn an_order_that_cannot_be_meant_is_refused_with_its_place() {
    let home = Home::new();
    for (line, what) in [
        ("proxy.authenticate: []", "the list is empty"),
        ("proxy.authenticate: [token]", "did you mean `tokens`?"),
        ("proxy.authenticate: [tokens, tokens]", "stands in the list already"),
        ("proxy.authenticate: [unix-peers]", "set `identity.unix_peers`"),
    ] {
        home.set(line);
        let ran = home.locum(&["agent", "list"]);
        assert!(ran.code == 64 && (ran.out + &ran.err).contains(what), "{line}");
    }
    home.set("proxy.authenticate: [tokens]");
    home.set("identity.unix_peers: [{user: 1, agent: a}]");
    let ran = home.locum(&["agent", "list"]);
    assert!((ran.out + &ran.err).contains("does not name unix-peers"));
}
