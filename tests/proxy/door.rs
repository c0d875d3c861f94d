//! Who gets in, and what the others hear.

use serde_json::Value;

use crate::support::*;

/// The answer without what names the one request.
fn anonymous(answer: &Answer) -> (u16, Vec<(String, String)>, Value) {
    let mut headers = answer.headers.clone();
    headers.retain(|(name, _)| name != "date");
    let mut body = answer.json();
    body["instance"] = Value::Null;
    (answer.status, headers, body)
}

#[test]
fn absent_unknown_and_revoked_hear_the_same_and_may_try_again_on_the_connection() {
    let world = World::with(BEARER, canary(), |home, _| home.set("limits.failure_delay: 0s"));
    let other = world.home.agent("other");
    let revoked = world.home.agent("gone");
    world.home.locum(&["agent", "revoke", "gone"]).ok();
    let name = &world.agent.name;
    let cut = &world.agent.token[..world.agent.token.len() - 1];
    let wrong = [
        None,
        Some(basic(name, "wrong")),
        Some(basic(name, "")),
        Some(basic(name, cut)),
        Some(basic("nobody", &world.agent.token)),
        Some(basic(name, &other.token)),
        Some(basic("+run=1", &world.agent.token)),
        Some(revoked.authorization()),
        Some(format!("Bearer {}", world.agent.token)),
        Some("Basic".to_owned()),
        Some("Basic !!!".to_owned()),
        Some("Basic dXNlcg==".to_owned()),
    ];
    let mut wire = world.serve.wire();
    let mut heard = Vec::new();
    for authorization in &wrong {
        let field = authorization.as_ref().map(|a| format!("Proxy-Authorization: {a}\r\n"));
        let field = field.unwrap_or_default();
        let connect = format!("CONNECT {HOST}:443 HTTP/1.1\r\nHost: {HOST}:443\r\n{field}\r\n");
        heard.push(anonymous(&wire.ask(connect)));
        let absolute =
            format!("GET http://plain.test/ HTTP/1.1\r\nHost: plain.test\r\n{field}\r\n");
        heard.push(anonymous(&wire.ask(absolute)));
    }
    let (status, headers, body) = &heard[0];
    assert_eq!((*status, body["code"].as_str()), (407, Some("proxy-auth-required")));
    assert!(
        headers.iter().any(|(n, v)| n == "proxy-authenticate" && v.starts_with("Basic realm="))
    );
    for (i, other) in heard.iter().enumerate() {
        assert_eq!(other, &heard[0], "{:?}", wrong[i / 2]);
    }
    // After all that, the same connection takes the right token: so git, the JVM and .NET do it.
    let answer = wire.ask(connect(&format!("{HOST}:443"), &world.agent.authorization()));
    assert_eq!(answer.status, 200);
    let mut wire = wire.tls(HOST, &world.home.ca()).unwrap();
    assert_eq!(wire.ask(request("GET", "/v1/models", &[AUTHORIZED], "")).status, 200);
    assert_eq!(world.origin.seen().len(), 1);
    world.home.never_leaks(&[&world.key, &world.agent.token, &revoked.token, &other.token], &[]);
}

#[test]
fn a_token_that_has_expired_is_none() {
    let world = World::new();
    let ran = world.home.locum(&["agent", "add", "brief", "--expires", "1s", "--json"]).ok();
    let token: Value = serde_json::from_str(&ran.out).unwrap();
    let authorization = basic("brief", token["token"].as_str().unwrap());
    eventually("the token's end", PATIENCE, || {
        let answer = world.serve.wire().ask(connect("api.test:443", &authorization));
        (answer.status == 407).then_some(())
    });
}

#[test]
fn connect_in_http_1_0_needs_no_host() {
    let world = World::new();
    let mut wire = world.serve.wire();
    let authorization = world.agent.authorization();
    let answer = wire.ask(format!(
        "CONNECT {HOST}:443 HTTP/1.0\r\nProxy-Authorization: {authorization}\r\n\r\n"
    ));
    assert_eq!(answer.status, 200);
    let mut wire = wire.tls(HOST, &world.home.ca()).unwrap();
    assert_eq!(wire.ask(request("GET", "/v1/models", &[AUTHORIZED], "")).status, 200);
}

/// What clients put into a CONNECT besides, as they were seen to.
#[test]
fn a_connect_may_have_any_fields() {
    let world = World::new();
    let authorization = world.agent.authorization();
    for (client, version, fields) in [
        ("http.client", "1.0", vec![]),
        (
            "curl",
            "1.1",
            vec!["Host: api.test:443", "User-Agent: curl/7.88.1", "Proxy-Connection: Keep-Alive"],
        ),
        ("Node", "1.1", vec!["Host: api.test:443", "Connection: close"]),
        ("undici", "1.1", vec!["host: api.test", "connection: keep-alive"]),
        ("Go", "1.1", vec!["Host: api.test:443", "User-Agent: Go-http-client/1.1"]),
        ("httpx", "1.1", vec!["Host: api.test:443", "Accept: */*", "Accept-Encoding: gzip"]),
        (
            "git",
            "1.1",
            vec!["Host: api.test:443", "Proxy-Connection: Keep-Alive", "Pragma: no-cache"],
        ),
        ("length", "1.1", vec!["Host: api.test:443", "Content-Length: 0"]),
        ("old", "1.0", vec!["Host: api.test", "Proxy-Connection: close", "Connection: close"]),
        (
            "unknown",
            "1.1",
            vec![
                "Host: api.test:443",
                "X-Forwarded-For: 10.0.0.1",
                "Sec-Fetch-Mode: a",
                "Upgrade: websocket",
                "Te: trailers",
            ],
        ),
        // The target counts; a Host that names another is what some write for a proxy's own.
        ("host", "1.1", vec!["Host: 127.0.0.1:3128"]),
        ("no host", "1.1", vec!["User-Agent: x"]),
    ] {
        let mut wire = world.serve.wire();
        let fields: String = fields.iter().map(|field| format!("{field}\r\n")).collect();
        let answer = wire.ask(format!(
            "CONNECT {HOST}:443 HTTP/{version}\r\n{fields}Proxy-Authorization: {authorization}\r\n\r\n"
        ));
        assert_eq!(answer.status, 200, "{client}");
        // What the tunnel is, no field may say: its bytes begin right after the head.
        for field in ["content-length", "transfer-encoding"] {
            assert_eq!(answer.header(field), None, "{client}: {field}");
        }
        let mut wire = wire.tls(HOST, &world.home.ca()).unwrap();
        let answer = wire.ask(request("GET", "/v1/models", &[AUTHORIZED], ""));
        assert_eq!(answer.status, 200, "{client}");
    }
    for raw in world.origin.raw() {
        assert!(!raw.contains("X-Forwarded-For") && !raw.contains("Proxy-"), "{raw}");
    }
}

#[test]
fn a_connect_with_a_body_is_refused() {
    let world = World::new();
    let authorization = world.agent.authorization();
    for fields in [
        "Content-Length: 5",
        "Transfer-Encoding: chunked",
        "Content-Length: 0\r\nContent-Length: 5",
    ] {
        let mut wire = world.serve.wire();
        wire.send(format!(
            "CONNECT {HOST}:443 HTTP/1.1\r\nHost: {HOST}:443\r\n{fields}\r\nProxy-Authorization: {authorization}\r\n\r\n"
        ));
        assert!(wire.answer().status == 400, "{fields}");
    }
    assert_eq!(world.origin.connections(), 0);
}

/// git, the JVM and .NET ask without credentials first. Some do so on a connection that they keep, in
/// whatever version, and some close it and come again.
#[test]
fn credentials_may_come_after_any_number_of_questions() {
    let world = World::new();
    let right = connect("api.test:443", &world.agent.authorization());
    let bare = "CONNECT api.test:443 HTTP/1.1\r\nHost: api.test:443\r\n\r\n";
    let mut wire = world.serve.wire();
    for _ in 0..5 {
        let answer = wire.ask(bare);
        assert_eq!(answer.status, 407);
        assert_ne!(answer.header("connection"), Some("close"));
    }
    // Negotiate and Digest are not spoken here, and are as good as nothing.
    for scheme in ["Negotiate YII=", "Digest username=\"worker\"", "Bearer x"] {
        assert_eq!(wire.ask(connect("api.test:443", scheme)).status, 407);
    }
    assert_eq!(wire.ask(&right).status, 200);
    assert_eq!(
        wire.tls(HOST, &world.home.ca())
            .unwrap()
            .ask(request("GET", "/a", &[AUTHORIZED], ""))
            .status,
        200
    );
    // Two at once, without waiting for the first answer.
    let mut wire = world.serve.wire();
    wire.send(format!("{bare}{right}"));
    assert_eq!((wire.answer().status, wire.answer_to("CONNECT").status), (407, 200));
    let mut wire = wire.tls(HOST, &world.home.ca()).unwrap();
    assert_eq!(wire.ask(request("GET", "/b", &[AUTHORIZED], "")).status, 200);
    // Whoever wants the connection closed after the 407 gets that, and comes again.
    for question in [
        "CONNECT api.test:443 HTTP/1.1\r\nHost: api.test:443\r\nConnection: close\r\n\r\n",
        "CONNECT api.test:443 HTTP/1.0\r\n\r\n",
    ] {
        let mut wire = world.serve.wire();
        assert_eq!(wire.ask(question).status, 407);
        assert!(wire.until_closed().is_empty());
    }
    // HTTP/1.0 with keep-alive stays, as its client asked.
    let mut wire = world.serve.wire();
    let keep = "CONNECT api.test:443 HTTP/1.0\r\nConnection: keep-alive\r\n";
    assert_eq!(wire.ask(format!("{keep}\r\n")).status, 407);
    let authorization = world.agent.authorization();
    let answer = wire.ask(format!("{keep}Proxy-Authorization: {authorization}\r\n\r\n"));
    assert_eq!(answer.status, 200);
    // A request that is no CONNECT may follow a 407 as well.
    let mut wire = world.serve.wire();
    assert_eq!(wire.ask(bare).status, 407);
    let clear = format!(
        "GET http://api.test/ HTTP/1.1\r\nHost: api.test\r\nProxy-Authorization: {authorization}\r\n\r\n"
    );
    assert_ne!(wire.ask(clear).status, 407);
}

#[test]
fn what_follows_a_connect_in_the_same_packet_is_not_lost() {
    let world = World::new();
    // Cleartext HTTP right behind the CONNECT: the proxy has read it already when it switches.
    world.home.reach_as("plain.test", world.origin.address, None);
    let mut wire = world.serve.wire();
    let connect = connect("plain.test:80", &world.agent.authorization());
    wire.send(format!("{connect}GET / HTTP/1.1\r\nHost: other.test\r\n\r\n"));
    assert_eq!(wire.answer_to("CONNECT").status, 200);
    assert_eq!(wire.answer().problem(), "authority-mismatch");
}

#[test]
fn targets_that_are_none_are_refused() {
    let world = World::new();
    for target in [
        "api.test",
        "api.test:",
        "api.test:0",
        "api.test:65536",
        "api.test:443:443",
        "user@api.test:443",
        "user:pw@api.test:443",
        "https://api.test:443",
        "/",
        "127.1:443",
        "2130706433:443",
        "0x7f000001:443",
        "0177.0.0.1:443",
        "[::1",
        "[fe80::1%25eth0]:443",
        "a..b:443",
        "api_test\u{7f}:443",
        ":443",
    ] {
        let mut wire = world.serve.wire();
        wire.send(connect(target, &world.agent.authorization()));
        let status = wire.try_answer("CONNECT").map(|a| a.status);
        assert!(matches!(status, Ok(400)), "{target}: {status:?}");
    }
    assert_eq!(world.origin.connections(), 0);
}

#[test]
fn the_proxy_port_is_no_server() {
    let world = World::new();
    for target in
        ["/", "/metrics", "/readyz", "*", "https://api.test/", "ftp://api.test/", "ws://api.test/"]
    {
        let mut wire = world.serve.wire();
        let method = if target == "*" { "OPTIONS" } else { "GET" };
        let authorization = world.agent.authorization();
        let answer = wire.ask(format!(
            "{method} {target} HTTP/1.1\r\nHost: x\r\nProxy-Authorization: {authorization}\r\n\r\n"
        ));
        assert_eq!((answer.status, &*answer.problem()), (400, "bad-request"), "{target}");
    }
    assert_eq!(world.origin.connections(), 0);
}

#[test]
fn the_run_is_told_by_the_user_name_or_by_fields_and_is_never_forwarded() {
    let world = World::new();
    let user = "worker+run=42+node=writer+user=alice";
    let mut wire = world.serve.wire();
    assert_eq!(wire.ask(connect("api.test:443", &basic(user, &world.agent.token))).status, 200);
    let mut wire = wire.tls(HOST, &world.home.ca()).unwrap();
    assert_eq!(wire.ask(request("GET", "/one", &[AUTHORIZED], "")).status, 200);
    let fields = [AUTHORIZED, "Locum-Run: 43", "Locum-User: bob", "Locum-Other: x"];
    assert_eq!(wire.ask(request("GET", "/two", &fields, "")).status, 200);
    let who = |path: &str| {
        let record = world.home.accesses_to(path).remove(0);
        ["agent", "run", "node", "user"].map(|f| record[f].as_str().unwrap_or("").to_owned())
    };
    assert_eq!(who("/one"), ["worker", "42", "writer", "alice"]);
    assert_eq!(who("/two"), ["worker", "43", "writer", "bob"]);
    for raw in world.origin.raw() {
        assert!(!raw.to_lowercase().contains("locum"), "{raw}");
    }
}
