//! Requests with more than one reading, and requests that would leave inspection.

use crate::support::*;

/// Sends bytes that a lax parser reads as two requests. They are refused, the connection ends, and
/// the origin sees nothing.
#[track_caller]
fn refused(world: &World, name: &str, bytes: &str) {
    let before = world.origin.raw().concat();
    let mut wire = world.tunnel();
    wire.send(bytes);
    let answer = wire.try_answer("POST").map(|a| a.status);
    assert!(!matches!(answer, Ok(200..=399)), "{name}: {answer:?}");
    let rest = wire.try_answer("GET").map(|a| a.status);
    assert!(rest.is_err(), "{name}: the connection went on, with {rest:?}");
    assert_eq!(world.origin.raw().concat(), before, "{name}: bytes went upstream");
}

/// Sends a body that turns out to be malformed when its head may have left already: the connection
/// ends, and the origin does not take the message for whole.
#[track_caller]
fn broken(world: &World, name: &str, bytes: &str) {
    let before = world.origin.seen().len();
    let mut wire = world.tunnel();
    wire.send(bytes);
    let answer = wire.try_answer("POST").map(|a| a.status);
    assert!(!matches!(answer, Ok(200..=399)), "{name}: {answer:?}");
    let rest = wire.try_answer("GET").map(|a| a.status);
    assert!(rest.is_err(), "{name}: the connection went on, with {rest:?}");
    let whole = world.origin.seen()[before..].iter().filter(|seen| seen.complete).count();
    assert_eq!(whole, 0, "{name}: the origin took it for whole");
    assert!(!world.origin.raw().concat().contains("smuggled"), "{name}");
}

/// Sends bytes to which RFC 9112 gives one meaning although they say it twice: the origin is told it
/// once, and whatever it is sent was decided on and recorded by itself.
#[track_caller]
fn settled(world: &World, name: &str, bytes: &str) {
    let permitted = || {
        let mut records = world.home.audit();
        records.retain(|r| r["kind"] == "access" && r["decision"] == "permit");
        records.len()
    };
    // By then what a case before this one had on its way has arrived.
    assert_eq!(world.get("/in-order").status, 200);
    let (seen_before, permitted_before) = (world.origin.seen().len(), permitted());
    let mut wire = world.tunnel();
    wire.send(bytes);
    wire.finish();
    wire.until_closed();
    let seen = &world.origin.seen()[seen_before..];
    for seen in seen {
        let framing = seen.all("content-length").len() + seen.all("transfer-encoding").len();
        assert!(framing <= 1, "{name}: {seen:?}");
    }
    assert_eq!(permitted() - permitted_before, seen.len(), "{name}");
}

#[test]
fn one_message_has_one_end() {
    let world = World::new();
    let second = "GET /open/smuggled HTTP/1.1\r\nHost: api.test\r\n\r\n";
    let first = |fields: &str, body: &str| {
        format!("POST /open/x HTTP/1.1\r\nHost: api.test\r\n{fields}\r\n\r\n{body}{second}")
    };
    let cases = [
        ("two lengths", first("Content-Length: 0\r\nContent-Length: 5", "")),
        ("a list of lengths", first("Content-Length: 0, 0", "")),
        ("a signed length", first("Content-Length: +0", "")),
        ("a negative length", first("Content-Length: -1", "")),
        ("a length in hex", first("Content-Length: 0x0", "")),
        (
            "two codings",
            first("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", "0\r\n\r\n"),
        ),
        ("identity after chunked", first("Transfer-Encoding: chunked, identity", "0\r\n\r\n")),
        ("gzip before chunked", first("Transfer-Encoding: gzip, chunked", "0\r\n\r\n")),
        ("an unknown coding", first("Transfer-Encoding: xchunked", "0\r\n\r\n")),
        ("a coding with a tab", first("Transfer-Encoding:\tchunked\x0b", "0\r\n\r\n")),
        ("a space before the colon", first("Transfer-Encoding : chunked", "0\r\n\r\n")),
        ("a folded field", first("X-A: 1\r\n Content-Length: 3", "")),
        ("NUL in a value", first("X-A: 1\x002", "")),
        ("CR in a value", first("X-A: 1\rContent-Length: 0", "")),
        ("a space in a name", first("X A: 1", "")),
        ("no colon", first("X-A", "")),
        ("an empty name", first(": x", "")),
        (
            "chunked in HTTP/1.0",
            first("Transfer-Encoding: chunked", "0\r\n\r\n").replacen("HTTP/1.1", "HTTP/1.0", 1),
        ),
        (
            "two spaces in the first line",
            format!("GET  /open/x HTTP/1.1\r\nHost: api.test\r\n\r\n{second}"),
        ),
        (
            "a target with a space",
            format!("GET /open/x y HTTP/1.1\r\nHost: api.test\r\n\r\n{second}"),
        ),
        ("HTTP/2 in the clear", format!("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n{second}")),
        ("HTTP/0.9", "GET /open/smuggled\r\n\r\n".to_owned()),
        ("HTTP/1.2", "GET /open/smuggled HTTP/1.2\r\nHost: api.test\r\n\r\n".to_owned()),
        ("HTTP/3", "GET /open/smuggled HTTP/3.0\r\nHost: api.test\r\n\r\n".to_owned()),
        (
            "a method that is none",
            "GE\u{1}T /open/smuggled HTTP/1.1\r\nHost: api.test\r\n\r\n".to_owned(),
        ),
    ];
    for (name, bytes) in &cases {
        refused(&world, name, bytes);
    }
    for (name, bytes) in [
        ("a chunk length with a sign", first("Transfer-Encoding: chunked", "+0\r\n\r\n")),
        ("a chunk length with 0x", first("Transfer-Encoding: chunked", "0x0\r\n\r\n")),
        (
            "a chunk length that overflows",
            first("Transfer-Encoding: chunked", "ffffffffffffffff1\r\nx\r\n0\r\n\r\n"),
        ),
        ("a chunk with another end", first("Transfer-Encoding: chunked", "1\r\nxy\r\n0\r\n\r\n")),
    ] {
        broken(&world, name, &bytes);
    }
    for (name, bytes) in [
        ("CL.TE", first("Content-Length: 3\r\nTransfer-Encoding: chunked", "0\r\n\r\n")),
        ("TE.CL", first("Transfer-Encoding: chunked\r\nContent-Length: 3", "0\r\n\r\n")),
        ("one length twice", first("Content-Length: 0\r\nContent-Length: 0", "")),
    ] {
        settled(&world, name, &bytes);
    }
    // The same proxy, still in order.
    assert_eq!(world.get("/after").status, 200);
}

#[test]
fn what_has_one_meaning_arrives_in_one_form() {
    let world = World::new();
    let mut wire = world.tunnel();
    // Chunk extensions and odd spellings have one meaning; they are not passed on.
    wire.send(
        "POST /open/x HTTP/1.1\r\nHost: api.test\r\nTransfer-Encoding: Chunked\r\n\r\n\
         3;name=value\r\nabc\r\n00002\r\nde\r\n0\r\n\r\n",
    );
    assert_eq!(wire.answer_to("POST").status, 200);
    assert_eq!(world.origin.last().body, b"abcde");
    assert!(!world.origin.last_raw().contains("name=value"));
    // Pipelined requests are answered in order.
    let two = request("GET", "/echo?1", &[AUTHORIZED], "")
        + &request("GET", "/v1/models", &[AUTHORIZED], "");
    wire.send(two);
    assert!(wire.answer().text().contains("\"/echo?1\""));
    assert_eq!(wire.answer().text(), "ok");
    world.never_leaks(&[("the wire", &wire.transcript)]);
}

#[test]
fn a_body_that_breaks_off_is_not_whole_for_the_origin() {
    let world = World::new();
    for field in ["Content-Length: 10\r\n\r\nabc", "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"]
    {
        let before = world.origin.seen().len();
        let mut wire = world.tunnel();
        wire.send(format!("POST /v1/x HTTP/1.1\r\nHost: api.test\r\n{AUTHORIZED}\r\n{field}"));
        world.origin.until_seen(before + 1);
        drop(wire);
        let id = world.home.accesses_to("/v1/x").last().unwrap()["request_id"].clone();
        world.home.records_of(id.as_str().unwrap(), 2);
        assert!(!world.origin.last().complete, "{field:?}: the origin took it for whole");
    }
}

#[test]
fn methods_that_reflect_or_tunnel_are_refused() {
    let world = World::new();
    let mut wire = world.tunnel();
    for method in ["TRACE", "TRACK", "track"] {
        let answer = wire.ask(request(method, "/echo", &[AUTHORIZED], ""));
        assert_eq!((answer.status, &*answer.problem()), (405, "method-refused"), "{method}");
        assert!(answer.header("allow").is_some());
    }
    // The answer to a CONNECT inside has no body to a client that takes it for a tunnel's.
    wire.send("CONNECT evil.test:443 HTTP/1.1\r\nHost: evil.test:443\r\n\r\n");
    assert!(wire.answer().status >= 400);
    assert_eq!(world.origin.connections(), 0);
}

#[test]
fn upgrades_are_refused_and_offers_of_h2c_ignored() {
    let world = World::new();
    // `websocket` here is no handshake: it has no key.
    for upgrade in ["websocket", "foo", "h2c, websocket", "TLS/1.2", "connect-udp"] {
        let upgrade = format!("Upgrade: {upgrade}");
        let answer = world.ask("GET", "/", &[AUTHORIZED, "Connection: Upgrade", &upgrade], "");
        assert_eq!(answer.problem(), "upgrade-refused", "{upgrade}");
    }
    assert_eq!(world.origin.connections(), 0);
    let fields = [
        AUTHORIZED,
        "Connection: Upgrade, HTTP2-Settings",
        "Upgrade: h2c",
        "HTTP2-Settings: AAMAAABkAAQAAP__",
    ];
    assert_eq!(world.ask("GET", "/", &fields, "").status, 200);
    let seen = world.origin.last();
    assert!(seen.header("upgrade").is_none() && seen.header("http2-settings").is_none());
}

#[test]
fn an_origin_that_switches_protocols_unasked_is_cut_off() {
    let home = Home::new();
    let origin = Origin::scripted(
        HOST,
        vec![
            Script::Read,
            Script::Send(
                b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\nraw"
                    .to_vec(),
            ),
            Script::Goodbye,
        ],
    );
    home.reach(&origin);
    let key = canary();
    home.add("main", BEARER, &key);
    let agent = home.agent("worker");
    let serve = home.serve();
    let answer = serve.tunnel(&agent, HOST).ask(request("GET", "/", &[AUTHORIZED], ""));
    assert_eq!(answer.status, 502, "{}", answer.text());
    answer.problem();
}

#[test]
fn heads_are_bounded() {
    let world = World::new();
    let long = format!("X-Long: {}", "a".repeat(200_000));
    let mut wire = world.tunnel();
    // It may refuse before all of it is read.
    let _ = wire.try_send(request("GET", "/", &[AUTHORIZED, &long], "").as_bytes());
    let answer = wire.try_answer("GET");
    assert!(answer.as_ref().map_or(true, |a| a.status == 431), "{answer:?}");
    let many: Vec<String> = (0..1000).map(|i| format!("X-{i}: 1")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let mut wire = world.tunnel();
    let _ = wire.try_send(request("GET", "/", &many, "").as_bytes());
    let answer = wire.try_answer("GET");
    assert!(answer.as_ref().map_or(true, |a| a.status == 431), "{answer:?}");
    let target = format!("/{}", "a".repeat(200_000));
    let mut wire = world.tunnel();
    let _ = wire.try_send(request("GET", &target, &[AUTHORIZED], "").as_bytes());
    let answer = wire.try_answer("GET");
    assert!(answer.as_ref().map_or(true, |a| (400..500).contains(&a.status)), "{answer:?}");
    assert_eq!(world.origin.connections(), 0);
    assert_eq!(world.get("/after").status, 200);
}

#[test]
fn a_path_that_can_be_read_in_two_ways_is_refused_where_it_matters() {
    let world = World::ruled(
        "version: 1\nrules:\n- {name: one, agents: ['*'], to: ['https://api.test'], paths: ['/v1/**'], use: [main]}\n",
    );
    for path in [
        "/v1/../admin",
        "/v1/%2e%2e/admin",
        "/v1/%2E%2E/admin",
        "/v1/.%2e/admin",
        "/v1/..%2fadmin",
        "/v1/%2e%2e%2fadmin",
        "/v1/%252e%252e/admin",
        "/v1/..\\admin",
        "/v1\\..\\admin",
        "/v1/..;/admin",
        "/v1/..;x=1/admin",
        "/v1/x/../../admin",
        "/v1/%00",
        "/v1/%c0%ae%c0%ae/admin",
        "//v1/../admin",
    ] {
        let answer = world.get(path);
        assert!(matches!(answer.status, 400 | 403), "{path}: {} {}", answer.status, answer.text());
        let code = answer.problem();
        assert!(
            code == "ambiguous-path" || code == "not-allowed" || code == "bad-request",
            "{path}: {code}"
        );
    }
    for path in ["/admin", "/", "/v2/x", "/V1/x", "/v1x"] {
        assert_eq!(world.get(path).problem(), "not-allowed", "{path}");
    }
    assert_eq!(world.origin.connections(), 0);
    // Where all readings agree, the bytes go as they were sent.
    for path in
        ["/v1/@scope%2fpkg", "/v1/@scope%2Fpkg", "/v1/a%20b", "/v1/a//b", "/v1/x;p=1", "/v1/%C3%A9"]
    {
        let answer = world.get(path);
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
        assert_eq!(world.origin.last().target, path);
    }
}
