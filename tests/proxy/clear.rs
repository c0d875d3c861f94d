//! `http://`, by absolute URL or inside a tunnel: forwarded, and never with a credential.

use crate::support::*;

struct Clear {
    serve: Serve,
    origin: Origin,
    agent: Agent,
    key: String,
    home: Home,
}

/// An origin without TLS at an address that a hole was opened for, and beside it a host whose
/// credential a rule would always inject.
fn clear() -> Clear {
    let home = Home::new();
    let origin = Origin::clear("plain.test");
    let key = canary();
    home.reach_as("plain.test", origin.address, None);
    home.set("upstream.allow_addresses: [127.0.0.1]");
    let port = origin.address.port();
    home.policy(&format!(
        "version: 1\nrules:\n- {{name: any, agents: ['*'], to: ['http://*', 'http://*:{port}'], use: ['*'], inject: always}}\n- {{name: mine, agents: ['*'], use: ['*']}}\n"
    ));
    let header = "Authorization: Bearer {secret}";
    home.add("main", &["--to", "https://plain.test", "--header", header], &key);
    let agent = home.agent("worker");
    let serve = home.serve();
    Clear { serve, origin, agent, key, home }
}

impl Clear {
    fn get(&self, url: &str, host: &str, fields: &[&str]) -> Answer {
        let mut text = format!(
            "GET {url} HTTP/1.1\r\nHost: {host}\r\nProxy-Authorization: {}\r\nProxy-Connection: keep-alive\r\n",
            self.agent.authorization()
        );
        for field in fields {
            text.push_str(&format!("{field}\r\n"));
        }
        self.serve.wire().ask(text + "\r\n")
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
    for field in ["Authorization: Bearer locum_main", "Authorization: Token locum_main"] {
        let answer = clear.get("http://plain.test/open/x", "plain.test", &[field]);
        assert_eq!((answer.status, &*answer.problem()), (403, "plaintext-refused"), "{field}");
    }
    let unknown = clear.get("http://plain.test/", "plain.test", &["Authorization: Bearer locum_x"]);
    assert_eq!(unknown.problem(), "credential-refused");
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
fn a_rule_that_always_injects_does_not_in_the_clear() {
    let home = Home::new();
    let origin = Origin::clear("plain.test");
    home.reach_as("plain.test", origin.address, None);
    let key = canary();
    home.add("main", &["--to", "https://plain.test", "--header", "X-Key: {secret}"], &key);
    home.policy("version: 1\nrules:\n- {name: any, agents: ['*'], to: ['http://plain.test', 'https://plain.test'], use: ['*'], inject: always}\n");
    let agent = home.agent("worker");
    let serve = home.serve();
    let authorization = agent.authorization();
    serve.wire().ask(format!(
        "GET http://plain.test/open/x HTTP/1.1\r\nHost: plain.test\r\nProxy-Authorization: {authorization}\r\n\r\n"
    ));
    assert!(!origin.raw().concat().contains(&key));
}
