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

/// Sends a request that says more than once where it ends: 400, in whatever pieces it comes, the connection
/// ends, and the origin sees nothing.
#[track_caller]
fn said_twice(world: &World, name: &str, bytes: &str) {
    let bytes = &bytes.replace("/open/", "/twice/");
    let good = request("GET", "/v1/before", &[AUTHORIZED], "");
    for (pieces, ahead) in [(usize::MAX, 0), (1, 0), (usize::MAX, 1), (7, 2)] {
        let mut wire = world.tunnel();
        let all = good.repeat(ahead) + bytes;
        for piece in all.as_bytes().chunks(pieces) {
            let _ended_already = wire.try_send(piece);
        }
        for _ in 0..ahead {
            assert_eq!(wire.answer().status, 200, "{name}");
        }
        let answer = wire.answer_to("POST");
        assert_eq!((answer.status, &*answer.problem()), (400, "bad-request"), "{name}");
        assert_eq!(answer.header("connection"), Some("close"), "{name}");
        wire.finish();
        assert!(wire.until_closed().is_empty(), "{name}: the connection went on");
    }
    assert!(!world.origin.raw().concat().contains("/twice/"), "{name}: bytes went upstream");
    world.never_leaks(&[]);
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
        ("CL.TE, length 0", first("Content-Length: 0\r\nTransfer-Encoding: chunked", "0\r\n\r\n")),
        (
            "TE.CL, not a number",
            first("Transfer-Encoding: chunked\r\nContent-Length: x", "0\r\n\r\n"),
        ),
        ("one length twice", first("Content-Length: 0\r\nContent-Length: 0", "")),
        (
            "one length twice, and a body",
            first("Content-Length: 3\r\nX: y\r\nContent-Length: 3", "abc"),
        ),
    ] {
        said_twice(&world, name, &bytes);
    }
    // The same proxy, still in order.
    assert_eq!(world.get("/after").status, 200);
}

/// The same at the proxy's own door, to which a client without a tunnel speaks.
#[test]
fn a_request_at_the_door_has_one_end() {
    let world = World::new();
    let login = format!("Proxy-Authorization: {}", world.agent.authorization());
    for framing in [
        "Content-Length: 3\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nContent-Length: 3",
        "Content-Length: 0\r\nContent-Length: 0",
    ] {
        for first in [
            "POST http://api.test/open/x HTTP/1.1\r\nHost: api.test",
            "CONNECT api.test:443 HTTP/1.1\r\nHost: api.test:443",
        ] {
            let mut wire = world.serve.wire();
            wire.send(format!("{first}\r\n{login}\r\n{framing}\r\n\r\n0\r\n\r\n"));
            let answer = wire.answer_to("POST");
            assert_eq!(
                (answer.status, &*answer.problem()),
                (400, "bad-request"),
                "{first} {framing}"
            );
            wire.finish();
            assert!(wire.until_closed().is_empty(), "{first} {framing}: the connection went on");
        }
    }
    assert_eq!(world.origin.connections(), 0);
}

/// A fragment is the client's own. Who took it for a part of the path would see another request than the
/// one that was decided on.
#[test]
fn a_target_with_a_fragment_is_refused() {
    let world = World::new();
    for target in ["/v1/x#y", "/v1/x?q#", "/#", "https://api.test/v1/x#y", "/v1/x%23y#/../z"] {
        let answer = world.get(target);
        assert_eq!((answer.status, &*answer.problem()), (400, "bad-request"), "{target}");
        assert!(answer.text().contains("fragment"), "{}", answer.text());
    }
    let mut wire = world.serve.wire();
    let login = format!("Proxy-Authorization: {}", world.agent.authorization());
    wire.send(format!("GET http://api.test/x#y HTTP/1.1\r\nHost: api.test\r\n{login}\r\n\r\n"));
    assert_eq!(wire.answer().problem(), "bad-request");
    assert_eq!(world.origin.connections(), 0);
    // Escaped, it is a part of the path.
    assert_eq!(world.get("/v1/x%23y").status, 200);
    assert_eq!(world.origin.last().target, "/v1/x%23y");
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
    // This one may be handed back by whoever it comes to as the last, too; what answers it is searched.
    let answer = world.ask("OPTIONS", "/echo/raw", &[AUTHORIZED, "Max-Forwards: 0"], "");
    assert_eq!((answer.status, world.origin.last().method.as_str()), (200, "OPTIONS"));
    assert!(leaks(&world.key, &answer.body).is_empty(), "{}", answer.text());
    assert!(answer.text().contains("locum_main"), "{}", answer.text());
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
        "/v1/%u002e%u002e/admin",
        "/v1/%25u002e%2e/admin",
        "/v1/%2e%2e/admin%u002fx",
        "/v1/%u0000",
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

/// HTTP minds no case in the names of fields, and some origins do.
#[test]
fn names_of_fields_arrive_as_the_client_wrote_them() {
    let world = World::new();
    let ways = [
        ["host", "accept", "x-own-1", "authorization"],
        ["Host", "Accept", "X-Own-1", "Authorization"],
        ["Host", "accept", "X-OWN-1", "authorization"],
        ["HOST", "Accept", "x-Own-1", "AUTHORIZATION"],
        ["host", "accept", "x-own-1", "authorization"],
    ];
    // On one connection, each after each; and each as the first on its own, in two pieces.
    let mut wire = world.tunnel();
    let mut number = 0;
    let mut ask = |wire: &mut Wire, names: [&str; 4], cut: usize| {
        number += 1;
        let path = format!("/open/{number}");
        let lines = |bearer: &str| {
            let values = ["api.test", "text/plain", "1", &format!("Bearer {bearer}")];
            names.iter().zip(values).map(|(name, value)| format!("{name}: {value}")).collect()
        };
        let sent: Vec<String> = lines("locum_main");
        let text = format!("GET {path} HTTP/1.1\r\n{}\r\n\r\n", sent.join("\r\n"));
        let (first, rest) = text.split_at(cut.min(text.len()));
        wire.send(first);
        wire.send(rest);
        assert_eq!(wire.answer().status, 200, "{text}");
        let raw = world.origin.raw();
        let start = format!("GET {path} ");
        let seen = raw.iter().find_map(|raw| raw.get(raw.find(&start)?..)).unwrap();
        let head = seen.split("\r\n\r\n").next().unwrap();
        let expected: Vec<String> = lines(&world.key);
        for line in expected {
            assert!(head.split("\r\n").any(|seen| seen == line), "{line}: {head}");
        }
    };
    for names in ways {
        ask(&mut wire, names, 0);
    }
    for names in ways {
        for cut in [26, 45, 61, 1000] {
            ask(&mut world.tunnel(), names, cut);
        }
    }
}

/// Reads what an origin was sent on one connection as the strictest reader would: the first line of
/// each request. What it does not take is a failure, but for a body that breaks off at the end.
#[track_caller]
fn strictly(name: &str, mut bytes: &[u8]) -> Vec<String> {
    let mut requests = Vec::new();
    while let Some(end) = memchr::memmem::find(bytes, b"\r\n\r\n") {
        let head = std::str::from_utf8(&bytes[..end]).expect(name);
        let mut lines = head.split("\r\n");
        let first = lines.next().unwrap();
        let parts: Vec<&str> = first.split(' ').collect();
        assert!(parts.len() == 3 && parts[2] == "HTTP/1.1", "{name}: {first:?}");
        let (mut length, mut chunked) = (None, false);
        for line in std::iter::once(first).chain(lines.clone()) {
            assert!(!line.bytes().any(|b| b < b' ' && b != b'\t'), "{name}: {line:?}");
        }
        for line in lines {
            let (field, value) = line.split_once(": ").expect(name);
            let of_name =
                |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_".contains(&b);
            assert!(field.to_ascii_lowercase().bytes().all(of_name), "{name}: {line:?}");
            match &*field.to_ascii_lowercase() {
                "content-length" => {
                    assert!(length.replace(value.parse::<usize>().unwrap()).is_none());
                }
                "transfer-encoding" => {
                    assert!(value == "chunked" && !chunked, "{name}: {line:?}");
                    chunked = true;
                }
                _ => {}
            }
        }
        assert!(!(chunked && length.is_some()), "{name}: {head}");
        requests.push(first.to_owned());
        bytes = &bytes[end + 4..];
        if let Some(length) = length {
            bytes = bytes.get(length..).unwrap_or_default();
        }
        while chunked && !bytes.is_empty() {
            let Some(end) = memchr::memmem::find(bytes, b"\r\n") else { return requests };
            let digits = std::str::from_utf8(&bytes[..end]).unwrap();
            assert!(digits.bytes().all(|b| b.is_ascii_hexdigit()), "{name}: chunk {digits:?}");
            let size = usize::from_str_radix(digits, 16).expect(name);
            if size == 0 {
                let Some(end) = memchr::memmem::find(&bytes[end..], b"\r\n\r\n").map(|at| end + at)
                else {
                    return requests;
                };
                bytes = &bytes[end + 4..];
                break;
            }
            let Some(rest) = bytes.get(end + 2 + size..) else { return requests };
            assert!(
                rest.is_empty() || rest.starts_with(b"\r\n"),
                "{name}: {}",
                rest.escape_ascii()
            );
            bytes = rest.get(2..).unwrap_or_default();
        }
    }
    assert!(bytes.is_empty(), "{name}: {}", bytes.escape_ascii());
    requests
}

/// Sends bytes that some reader takes for two requests. Whatever is made of them: the origin is sent
/// so many requests as were decided on and recorded, each in one strict form, and the key once in each
/// that it was recorded for.
#[track_caller]
fn accounted(world: &World, name: &str, bytes: &[u8]) {
    let mut wire = world.tunnel();
    let _may_be_refused_early = wire.try_send(bytes);
    wire.finish();
    wire.until_closed();
    let tries = || {
        let raw = world.origin.raw_bytes();
        let sent: usize = raw.iter().map(|bytes| strictly(name, bytes).len()).sum();
        let mut records = world.home.audit();
        records.retain(|r| r["kind"] == "access" && r["decision"] == "permit");
        let with_key = records.iter().filter(|r| !r["credential"].is_null()).count();
        let keys: usize = raw
            .iter()
            .map(|raw| memchr::memmem::find_iter(raw, world.key.as_bytes()).count())
            .sum();
        (sent, records.len(), keys, with_key)
    };
    let (sent, permitted, keys, with_key) = tries();
    assert!(sent <= permitted, "{name}: {sent} requests went up, {permitted} were permitted");
    assert!(keys <= with_key, "{name}: {keys} keys went up, {with_key} were recorded");
    world.never_leaks(&[("the wire", &wire.transcript)]);
}

#[test]
#[allow(clippy::too_many_lines)] // A table.
fn whatever_is_made_of_odd_bytes_each_request_is_decided_on_and_recorded() {
    let world = World::new();
    let second = format!("GET /v1/smuggled HTTP/1.1\r\nHost: api.test\r\n{AUTHORIZED}\r\n\r\n");
    let post = |fields: &str, body: &str| {
        format!(
            "POST /v1/x HTTP/1.1\r\nHost: api.test\r\n{AUTHORIZED}\r\n{fields}\r\n\r\n{body}{second}"
        )
    };
    let chunked = |body: &str| post("Transfer-Encoding: chunked", body);
    let length = second.len();
    let cases: Vec<(&str, String)> = vec![
        ("bare line feeds", post("Content-Length: 0", "").replace("\r\n", "\n")),
        ("a bare line feed after a field", post("X: y\nContent-Length: 9\r\nY: z", "")),
        (
            "a bare line feed ends the head",
            post("X: y\n\nGET /v1/smuggled HTTP/1.1\r\nHost: api.test", ""),
        ),
        ("line feed, carriage return", post("X: y\n\rContent-Length: 9", "")),
        ("a carriage return alone", post("X: y\r\rContent-Length: 9", "")),
        ("blank lines before", format!("\r\n\r\n{second}\r\n\n{second}")),
        (
            "a folded coding",
            post("Transfer-Encoding:\r\n chunked\r\nContent-Length: 4", "0\r\n\r\n"),
        ),
        (
            "a folded coding after another",
            post("X: y\r\n\tTransfer-Encoding: chunked\r\nContent-Length: 5", "0\r\n\r\n"),
        ),
        ("a folded first line", format!("GET /v1/x HTTP/1.1\r\n Host: api.test\r\n\r\n{second}")),
        ("a coding with blanks after", post("Transfer-Encoding: chunked \t", "0\r\n\r\n")),
        ("a coding in capitals", post("TRANSFER-ENCODING: CHUNKED", "0\r\n\r\n")),
        ("chunked twice in a list", post("Transfer-Encoding: chunked, chunked", "0\r\n\r\n")),
        ("chunked with a parameter", post("Transfer-Encoding: chunked;q=1", "0\r\n\r\n")),
        ("chunked in quotes", post("Transfer-Encoding: \"chunked\"", "0\r\n\r\n")),
        ("a comma before chunked", post("Transfer-Encoding: ,chunked", "0\r\n\r\n")),
        ("an empty coding", post(&format!("Transfer-Encoding:\r\nContent-Length: {length}"), "")),
        (
            "identity and a length",
            post(&format!("Transfer-Encoding: identity\r\nContent-Length: {length}"), ""),
        ),
        (
            "a coding in the name of another",
            post(&format!("Transfer_Encoding: chunked\r\nContent-Length: {length}"), "0\r\n\r\n"),
        ),
        ("a coding with NUL", post("Transfer-Encoding: chunked\0", "0\r\n\r\n")),
        ("a coding with a form feed", post("Transfer-Encoding: \x0cchunked", "0\r\n\r\n")),
        ("CL.TE", post("Content-Length: 6\r\nTransfer-Encoding: chunked", "0\r\n\r\nG")),
        (
            "TE.CL",
            post(
                "Transfer-Encoding: chunked\r\nContent-Length: 4",
                &format!("{length:x}\r\n{second}\r\n0\r\n\r\n"),
            ),
        ),
        ("TE.TE", post("Transfer-Encoding: chunked\r\nTransfer-Encoding: x", "0\r\n\r\n")),
        (
            "TE.TE the other way",
            post("Transfer-Encoding: x\r\nTransfer-Encoding: chunked", "0\r\n\r\n"),
        ),
        ("an empty length", post("Content-Length:", "")),
        ("a length with a comma", post("Content-Length: 0,", "")),
        (
            "lengths that differ",
            post(&format!("Content-Length: {length}\r\nContent-Length: 0"), ""),
        ),
        (
            "lengths that are the same",
            post(&format!("Content-Length: {length}\r\nContent-Length: {length}"), ""),
        ),
        ("a list of the same length", post(&format!("Content-Length: {length}, {length}"), "")),
        ("a length with zeros before", post(&format!("Content-Length: 000000{length}"), "")),
        ("a length in other digits", post("Content-Length: \u{661}", "")),
        ("a length with a blank within", post("Content-Length: 1 0", "")),
        ("a length with an underscore", post("Content-Length: 1_0", "")),
        ("a length beyond 64 bits", post("Content-Length: 18446744073709551616", "")),
        ("a length of 2^64 - 1", post("Content-Length: 18446744073709551615", "")),
        ("a length as a float", post("Content-Length: 0.0", "")),
        ("a length after a tab", post("Content-Length:\t0\t", "")),
        ("a length before a blank", post("Content-Length : 0", "")),
        ("a length with an underscore in its name", post(&format!("Content_Length: {length}"), "")),
        (
            "a length taken away by Connection",
            post(&format!("Connection: content-length\r\nContent-Length: {length}"), ""),
        ),
        (
            "a coding taken away by Connection",
            post("Connection: transfer-encoding\r\nTransfer-Encoding: chunked", "0\r\n\r\n"),
        ),
        ("the host taken away by Connection", post("Connection: host\r\nContent-Length: 0", "")),
        (
            "a GET with a body",
            format!(
                "GET /v1/x HTTP/1.1\r\nHost: api.test\r\n{AUTHORIZED}\r\nContent-Length: {length}\r\n\r\n{second}"
            ),
        ),
        (
            "a GET in chunks",
            format!(
                "GET /v1/x HTTP/1.1\r\nHost: api.test\r\n{AUTHORIZED}\r\nTransfer-Encoding: chunked\r\n\r\n{length:x}\r\n{second}\r\n0\r\n\r\n{second}"
            ),
        ),
        (
            "a HEAD with a body",
            format!(
                "HEAD /v1/x HTTP/1.1\r\nHost: api.test\r\n{AUTHORIZED}\r\nContent-Length: {length}\r\n\r\n{second}{second}"
            ),
        ),
        (
            "an OPTIONS with a body",
            format!(
                "OPTIONS * HTTP/1.1\r\nHost: api.test\r\n{AUTHORIZED}\r\nContent-Length: {length}\r\n\r\n{second}{second}"
            ),
        ),
        (
            "an expectation and no wait",
            post(&format!("Expect: 100-continue\r\nContent-Length: {length}"), ""),
        ),
        ("another expectation", post(&format!("Expect: 200-ok\r\nContent-Length: {length}"), "")),
        (
            "an upgrade with a body",
            post(
                &format!(
                    "Connection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\nContent-Length: {length}"
                ),
                "",
            ),
        ),
        (
            "an offer of h2c with a body",
            post(
                &format!(
                    "Connection: upgrade, http2-settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\nContent-Length: {length}"
                ),
                "",
            ),
        ),
        ("an extension of a chunk", chunked("3;a=b\r\nabc\r\n0\r\n\r\n")),
        ("an extension with a line feed", chunked("3;a=\n5\r\nabc\r\n0\r\n\r\n")),
        ("an extension with a quoted end", chunked("3;a=\"\r\nabc\r\n0\r\n\r\n\"")),
        ("an extension with a carriage return", chunked("3;a=\rx\r\nabc\r\n0\r\n\r\n")),
        ("a long extension", chunked(&format!("3;{}\r\nabc\r\n0\r\n\r\n", "a".repeat(100_000)))),
        ("a size with blanks after", chunked("3  \r\nabc\r\n0\r\n\r\n")),
        ("a size with a blank before", chunked(" 3\r\nabc\r\n0\r\n\r\n")),
        ("a size with many zeros", chunked(&format!("{}3\r\nabc\r\n0\r\n\r\n", "0".repeat(500)))),
        ("a size with zeros and more", chunked("00000000000000003\r\nabc\r\n0\r\n\r\n")),
        ("a size in capitals", chunked("A\r\n0123456789\r\n0\r\n\r\n")),
        ("a size that is none", chunked("\r\nabc\r\n0\r\n\r\n")),
        ("a size with an underscore", chunked("1_0\r\nabc\r\n0\r\n\r\n")),
        ("a size that wraps", chunked("10000000000000003\r\nabc\r\n0\r\n\r\n")),
        ("a negative size", chunked("-1\r\nabc\r\n0\r\n\r\n")),
        ("a size ended by a line feed", chunked("3\nabc\r\n0\r\n\r\n")),
        ("a chunk ended by a line feed", chunked("3\r\nabc\n0\r\n\r\n")),
        ("a last chunk ended by line feeds", chunked("0\n\n")),
        ("a last chunk with a size in words", chunked("0;x\r\n\r\n")),
        ("many zeros for a last chunk", chunked("0000\r\n\r\n")),
        ("no end of a last chunk", chunked("0\r\n")),
        ("a chunk too long for its size", chunked("3\r\nabcd\r\n0\r\n\r\n")),
        ("a chunk too short for its size", chunked("5\r\nabc\r\n0\r\n\r\n")),
        (
            "trailers that frame",
            chunked(
                "0\r\nContent-Length: 9\r\nTransfer-Encoding: chunked\r\nHost: evil.test\r\nAuthorization: Bearer locum_main\r\n\r\n",
            ),
        ),
        (
            "trailers that are a request",
            chunked("0\r\nGET /v1/smuggled HTTP/1.1\r\nHost: api.test\r\n\r\n"),
        ),
        ("a folded trailer", chunked("0\r\nX: y\r\n z\r\n\r\n")),
        ("a trailer with a line feed", chunked("0\r\nX: y\nZ: w\r\n\r\n")),
        (
            "a target with a fragment",
            format!("GET /v1/x#y HTTP/1.1\r\nHost: api.test\r\n{AUTHORIZED}\r\n\r\n{second}"),
        ),
        (
            "a target with a tab",
            format!("GET /v1/x\ty HTTP/1.1\r\nHost: api.test\r\n{AUTHORIZED}\r\n\r\n{second}"),
        ),
        (
            "a target of another host",
            format!(
                "GET http://evil.test/ HTTP/1.1\r\nHost: api.test\r\n{AUTHORIZED}\r\n\r\n{second}"
            ),
        ),
        (
            "a target with an authority alone",
            format!("GET api.test:443 HTTP/1.1\r\nHost: api.test\r\n{AUTHORIZED}\r\n\r\n{second}"),
        ),
        (
            "a target without a slash",
            format!("GET ?x HTTP/1.1\r\nHost: api.test\r\n{AUTHORIZED}\r\n\r\n{second}"),
        ),
        (
            "tabs in the first line",
            format!("GET\t/v1/x\tHTTP/1.1\r\nHost: api.test\r\n{AUTHORIZED}\r\n\r\n{second}"),
        ),
        (
            "a version with more",
            format!("GET /v1/x HTTP/1.10\r\nHost: api.test\r\n{AUTHORIZED}\r\n\r\n{second}"),
        ),
        (
            "a version in small letters",
            format!("GET /v1/x http/1.1\r\nHost: api.test\r\n{AUTHORIZED}\r\n\r\n{second}"),
        ),
        (
            "HTTP/1.0 that goes on",
            format!(
                "GET /v1/x HTTP/1.0\r\nHost: api.test\r\nConnection: keep-alive\r\n{AUTHORIZED}\r\n\r\n{second}"
            ),
        ),
        (
            "an end by Connection",
            format!(
                "GET /v1/x HTTP/1.1\r\nHost: api.test\r\nConnection: close\r\n{AUTHORIZED}\r\n\r\n{second}"
            ),
        ),
        ("a request in a tunnel's request", post(&format!("Content-Length: {length}"), "")),
    ];
    for (name, bytes) in &cases {
        accounted(&world, name, bytes.as_bytes());
    }
    assert_eq!(world.get("/after").status, 200);
}

#[test]
fn a_method_that_is_asked_for_beside_the_requests_own_is_decided_on_too() {
    let world = World::ruled(
        "version: 1
rules:
  - {name: writes, agents: ['*'], use: [main], methods: [GET, POST], paths: [/open/**]}
  - {name: all of this, agents: ['*'], use: [main], paths: [/any/**]}
",
    );
    let ask = |target: &str, fields: &[&str]| {
        let answer = world.ask("POST", target, &[&[AUTHORIZED], fields].concat(), "");
        if answer.status == 200 { String::new() } else { answer.problem() }
    };
    for field in [
        "X-HTTP-Method-Override: DELETE",
        "x-http-method-override: delete",
        "X_HTTP_METHOD_OVERRIDE: DELETE",
        "X-HTTP-Method: DELETE",
        "X-Method-Override: DELETE",
        "X-Original-Method: DELETE",
    ] {
        assert_eq!(ask("/open/x", &[field]), "method-refused", "{field}");
        assert_eq!(ask("/open/x", &["X-HTTP-Method-Override: GET", field]), "method-refused");
    }
    for target in
        ["/open/x?_method=DELETE", "/open/x?a=1&_method=delete", "/open/x?_m%65thod=DELETE"]
    {
        assert_eq!(ask(target, &[]), "method-refused", "{target}");
    }
    assert_eq!(world.origin.connections(), 0);
    // Where the policy makes no difference between them, neither does this.
    assert_eq!(ask("/open/x?_method=GET", &["X-HTTP-Method-Override: GET"]), "");
    assert_eq!(ask("/any/x", &["X-HTTP-Method-Override: DELETE"]), "");
    assert_eq!(ask("/any/x", &["X-HTTP-Method-Override: TRACE"]), "method-refused");
    assert_eq!(world.origin.seen().len(), 2);
}
