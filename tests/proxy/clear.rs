//! `http://`, by absolute URL or inside a tunnel: forwarded, and never with a credential.

use crate::support::*;

struct Clear {
    serve: Serve,
    origin: Origin,
    agent: Agent,
    key: String,
    home: Home,
}

/// An origin without TLS, by a name and at an address that a hole was opened for. The name has a
/// credential too, for where it speaks TLS.
fn clear() -> Clear {
    let home = Home::new();
    let origin = Origin::clear("plain.test");
    let key = canary();
    home.reach_as("plain.test", origin.address, None);
    home.set("upstream.allow_addresses: [127.0.0.1]");
    let port = origin.address.port();
    home.policy(&format!(
        "version: 1\nrules:\n- {{name: any, agents: ['*'], to: ['http://*', 'http://*:{port}']}}\n- {{name: mine, agents: ['*'], use: ['*']}}\n"
    ));
    let header = "Authorization: Bearer {secret}";
    home.add("main", &["--to", "https://plain.test", "--header", header], &key);
    let agent = home.agent("worker");
    let serve = home.serve();
    Clear { serve, origin, agent, key, home }
}

impl Clear {
    fn get(&self, url: &str, host: &str, fields: &[&str]) -> Answer {
        let fields: String = fields.iter().map(|field| format!("{field}\r\n")).collect();
        let authorization = self.agent.authorization();
        self.serve.wire().ask(format!(
            "GET {url} HTTP/1.1\r\nHost: {host}\r\nProxy-Authorization: {authorization}\r\nProxy-Connection: keep-alive\r\n{fields}\r\n"
        ))
    }
}

#[test]
fn absolute_urls_are_forwarded_as_paths() {
    let clear = clear();
    let address = clear.origin.address.to_string();
    for (url, host) in [
        ("http://plain.test/open/x?a=%2F".to_owned(), "plain.test"),
        ("http://PLAIN.test:80/open/x?a=%2F".to_owned(), "plain.test"),
        (format!("http://{address}/open/x?a=%2F"), &*address),
    ] {
        let answer = clear.get(&url, host, &["X-Own: 1", "Authorization: Bearer my-own"]);
        assert_eq!(
            (answer.status, answer.text().as_str()),
            (200, "ok"),
            "{url}: {}",
            answer.text()
        );
        let seen = clear.origin.last();
        assert_eq!(seen.target, "/open/x?a=%2F");
        assert_eq!(seen.header("host"), Some(host));
        assert_eq!(seen.header("x-own"), Some("1"));
        // In the clear nothing is injected, and the client's own key is its own affair.
        assert_eq!(seen.header("authorization"), Some("Bearer my-own"));
        assert!(seen.header("proxy-authorization").is_none());
        assert!(seen.header("proxy-connection").is_none());
        let access = clear.home.accesses_to("/open/x").pop().unwrap();
        assert!(access["destination"].as_str().unwrap().starts_with("http://"), "{access}");
        assert!(access.get("credential").is_none(), "{access}");
    }
    let answer = clear.get("http://plain.test/", "other.test", &[]);
    assert_eq!(answer.problem(), "authority-mismatch");
    assert!(!clear.origin.raw().concat().contains(&clear.agent.token));
}

#[test]
fn no_credential_travels_in_the_clear() {
    let clear = clear();
    for field in [
        "Authorization: Bearer locum_main",
        "Authorization: Token locum_main",
        "Authorization: Bearer locum_unknown",
    ] {
        let answer = clear.get("http://plain.test/open/x", "plain.test", &[field]);
        assert_eq!((answer.status, &*answer.problem()), (403, "plaintext-refused"), "{field}");
    }
    assert_eq!(clear.origin.connections(), 0);
    // Text outside the slots is text.
    let answer = clear.get("http://plain.test/open/locum_main", "plain.test", &["X-A: locum_main"]);
    assert_eq!(answer.status, 200);
    assert!(!clear.origin.raw().concat().contains(&clear.key));
    clear.home.never_leaks(&[&clear.key], &[]);
}

#[test]
fn cleartext_inside_a_tunnel_is_http() {
    let clear = clear();
    let mut wire = clear.serve.open_tunnel(&clear.agent, "plain.test:80");
    for _ in 0..2 {
        let answer = wire.ask("GET /open/x HTTP/1.1\r\nHost: plain.test\r\n\r\n");
        assert_eq!((answer.status, answer.text().as_str()), (200, "ok"));
    }
    let answer =
        wire.ask(format!("GET /open/x HTTP/1.1\r\nHost: plain.test\r\n{AUTHORIZED}\r\n\r\n"));
    assert_eq!(answer.problem(), "plaintext-refused");
    let answer = wire.ask("GET /open/x HTTP/1.1\r\nHost: other.test\r\n\r\n");
    assert_eq!(answer.problem(), "authority-mismatch");
    // Also where the tunnel's port is that of a host with a credential.
    let mut wire = clear.serve.open_tunnel(&clear.agent, "plain.test:443");
    let answer =
        wire.ask(format!("GET / HTTP/1.1\r\nHost: plain.test:443\r\n{AUTHORIZED}\r\n\r\n"));
    assert!(matches!(&*answer.problem(), "plaintext-refused" | "not-allowed"), "{}", answer.text());
    assert_eq!(clear.origin.seen().len(), 2);
}

#[test]
fn a_policy_that_would_is_refused() {
    let home = Home::new();
    for inject in ["", ", inject: always"] {
        home.policy(&format!(
            "version: 1\nrules:\n- {{name: any, agents: ['*'], to: ['http://plain.test'], use: ['*']{inject}}}\n"
        ));
        let ran = home.locum(&["serve"]).failed(64);
        assert!(ran.err.contains("first.yaml:3:") && ran.err.contains("http://"), "{}", ran.err);
    }
}

/// A scene in the clear whose origin is the test itself, and both ways to it: by absolute URLs, and
/// inside a CONNECT.
fn both_ways(try_it: impl Fn(&Peer, Wire, &dyn Fn(&str, &str, &[&str]) -> String)) {
    let home = Home::new();
    let peer = Peer::clear("plain.test");
    home.reach_as("plain.test", peer.address, None);
    home.policy("version: 1\nrules:\n- {name: any, agents: ['*'], to: ['http://plain.test']}\n");
    let agent = home.agent("worker");
    let serve = home.serve();
    let fields =
        |fields: &[&str]| -> String { fields.iter().map(|f| format!("{f}\r\n")).collect() };
    try_it(&peer, serve.open_tunnel(&agent, "plain.test:80"), &|method, path, more| {
        format!("{method} {path} HTTP/1.1\r\nHost: plain.test\r\n{}\r\n", fields(more))
    });
    try_it(&peer, serve.wire(), &|method, path, more| {
        let authorization = agent.authorization();
        format!(
            "{method} http://plain.test{path} HTTP/1.1\r\nHost: plain.test\r\n\
             Proxy-Authorization: {authorization}\r\n{}\r\n",
            fields(more)
        )
    });
}

#[test]
fn messages_in_the_clear_are_messages() {
    both_ways(|peer, mut near, request| {
        near.send(request("HEAD", "/head", &[]));
        let (mut far, head) = peer.request();
        assert!(head.starts_with("HEAD /head HTTP/1.1\r\n") && !head.contains("roxy-"), "{head}");
        far.send("HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n");
        assert_eq!(near.answer_to("HEAD").header("content-length"), Some("1000"));
        // A body of unknown length up, and one down, as it comes.
        near.send(request("POST", "/chunks", &["Transfer-Encoding: chunked"]));
        near.send("3\r\nabc\r\n");
        far.until("3\r\nabc\r\n");
        near.send("0\r\n\r\n");
        far.until("0\r\n\r\n");
        far.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\ndata: 1\n\n\r\n");
        near.until("data: 1\n\n");
        far.send("9\r\ndata: 2\n\n\r\n0\r\n\r\n");
        near.until("data: 2\n\n\r\n0\r\n\r\n");
        // An expectation, and interim answers.
        near.send(request("PUT", "/put", &["Content-Length: 2", "Expect: 100-continue"]));
        far.until("\r\n\r\n");
        far.send("HTTP/1.1 100 Continue\r\n\r\n");
        assert!(near.until("\r\n\r\n").starts_with("HTTP/1.1 100 "));
        near.send("ok");
        far.until("ok");
        far.send("HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n");
        assert_eq!(near.answer_to("PUT").status, 204);
        // Until its end, and in the old way.
        near.send(request("GET", "/old", &[]));
        far.until("\r\n\r\n");
        far.send("HTTP/1.0 200 OK\r\n\r\nall of it");
        far.finish();
        assert_eq!(near.answer().text(), "all of it");
        // Cut: also here it is no whole answer.
        near.send(request("GET", "/cut", &[]));
        let (mut far, _) = peer.request();
        far.send("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf");
        near.until("half");
        far.cut();
        assert!(near.until_closed().is_empty());
    });
}

#[test]
fn upgrades_in_the_clear_are_refused() {
    both_ways(|_, mut near, request| {
        near.send(request("GET", "/", &["Connection: Upgrade", "Upgrade: foo/1"]));
        assert_eq!(near.answer().problem(), "upgrade-refused");
    });
}

#[test]
fn a_reference_that_goes_elsewhere_in_the_clear_is_an_alarm_too() {
    let clear = clear();
    let other = ["--to", "https://else.test", "--header", "Authorization: Bearer {secret}"];
    clear.home.add("elsewhere", &other, &canary());
    let ask = |name: &str| {
        let field = format!("Authorization: Bearer locum_{name}");
        let answer = clear.get("http://plain.test/open/x", "plain.test", &[&field]);
        assert_eq!(answer.problem(), "plaintext-refused", "{name}");
        (
            answer.text().replace(&answer.request_id(), ""),
            clear.serve.metric("locum_unbound_references_total"),
        )
    };
    let (own, none) = ask("main");
    assert_eq!(none, 0);
    let told = eventually("the new credential", PATIENCE, || {
        let (told, counted) = ask("elsewhere");
        (counted == 1).then_some(told)
    });
    assert_eq!(told, own, "the agent hears no difference");
    let records = clear.home.accesses_to("/open/x");
    let reason = records.last().map(|record| record["reason"].clone());
    assert_eq!(reason, Some("the credential is not bound to this destination".into()));
}
