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
