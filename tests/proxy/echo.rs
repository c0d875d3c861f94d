//! Origins that hand the key back: in any place, in any usual encoding, in any pieces.

use crate::support::*;

/// The answer keeps what stood around the echo, so that a lost or cut body is no pass.
#[track_caller]
fn framed(answer: &Answer, what: &str) {
    let text = answer.text();
    assert!(text.contains(BEFORE) && text.contains(AFTER), "{what}: {text:?}");
}

/// The outcome record of the one request for `path`.
#[track_caller]
fn outcome(world: &World, path: &str) -> serde_json::Value {
    let access = world.home.accesses_to(path).pop().expect("its access record");
    let records = world.home.records_of(access["request_id"].as_str().unwrap(), 2);
    records.into_iter().find(|record| record["kind"] == "outcome").expect("its outcome")
}

#[test]
fn the_key_comes_back_in_no_encoding_and_no_pieces() {
    for key in [canary(), thorny_canary()] {
        let world = World::with(BEARER, key, |_, _| {});
        let mut wire = world.tunnel();
        for encoding in ENCODINGS.into_iter().chain(SPELLINGS) {
            // The engine's own tests have them in all pieces.
            let places: &[&str] = if SPELLINGS.contains(&encoding) {
                &["echo", "echo-chunked"]
            } else {
                &["echo", "echo-long", "echo-chunked", "drip"]
            };
            for place in places {
                let target = format!("/{place}/{encoding}");
                let answer = wire.ask(request("GET", &target, &[AUTHORIZED], ""));
                assert_eq!(answer.status, 200, "{target}: {}", answer.text());
                framed(&answer, &target);
                let found = leaks(&world.key, &answer.body);
                assert!(found.is_empty(), "{target}: {found:?} in {}", answer.text());
                let echoed = encode(encoding, &world.key);
                let whole = memchr::memmem::find(&answer.body, &echoed);
                assert_eq!(whole, None, "{target}: {}", answer.text());
                if SPELLINGS.contains(&encoding) {
                    assert!(answer.text().contains("locum_main"), "{target}: {}", answer.text());
                }
                if encoding == "raw" {
                    assert!(answer.text().contains("[locum_main"), "{target}: {}", answer.text());
                }
            }
        }
        assert_eq!(wire.ask(request("POST", "/echo", &[AUTHORIZED], "x")).status, 200);
        assert!(world.serve.metric("locum_scrubbed_total") >= 48);
        world.never_leaks(&[("the wire", &wire.transcript)]);
    }
}

/// A slot that encodes its secret: an origin that prints its request in base64 or hex encodes that text,
/// and not the secret.
#[test]
fn what_a_slot_made_of_the_key_comes_back_in_no_encoding_either() {
    let basic_slot = &["--to", "https://api.test", "--basic", "robot"][..];
    let query_slot = &["--to", "https://api.test", "--query", "key"][..];
    for key in [canary(), thorny_canary()] {
        for (slots, wire, target, fields) in [
            (
                basic_slot,
                basic("robot", &key),
                "",
                vec![format!("Authorization: {}", basic("robot", "locum_main"))],
            ),
            (
                query_slot,
                String::from_utf8(encode("percent", &key)).unwrap(),
                "?key=locum_main",
                vec![],
            ),
        ] {
            let wire = wire.trim_start_matches("Basic ").trim_end_matches('=').to_owned();
            let world = World::with(slots, key.clone(), |_, _| {});
            let mut tunnel = world.tunnel();
            let fields: Vec<&str> = fields.iter().map(String::as_str).collect();
            for encoding in ENCODINGS.into_iter().chain(["numbers"]) {
                let asked = format!("/shown/{encoding}{target}");
                let answer = tunnel.ask(request("GET", &asked, &fields, ""));
                assert_eq!(answer.status, 200, "{asked}: {}", answer.text());
                framed(&answer, &asked);
                for text in [&key, &wire] {
                    let found = leaks(text, &answer.body);
                    assert!(found.is_empty(), "{asked}: {found:?} in {}", answer.text());
                }
                assert!(
                    answer.text().contains("locum") || answer.text().contains("cm9ib3Q6bG9jdW1"),
                    "{asked}: {}",
                    answer.text()
                );
            }
            let seen = world.origin.last();
            let sent = format!("{}{:?}", seen.target, seen.headers);
            assert!(sent.contains(&wire), "{wire} was never sent: {sent}");
        }
    }
}

/// Two agents together would have the key, if one could read what the other one's request left behind.
#[test]
fn an_origin_shows_the_key_to_no_other_agent_either() {
    let policy = "version: 1
rules:
  - {name: may, agents: [worker], to: ['https://api.test'], use: [main]}
  - {name: looks, agents: [other], to: ['https://api.test']}
";
    let world = World::with(BEARER, canary(), |home, _| home.policy(policy));
    assert_eq!(world.get("/v1/x").status, 200);
    let other = world.home.agent("other");
    let mut wire = world.serve.tunnel(&other, HOST);
    let answer = wire.ask(request("GET", "/open/kept", &[], ""));
    assert_eq!(answer.status, 200, "{}", answer.text());
    framed(&answer, "kept");
    assert!(leaks(&world.key, &answer.body).is_empty(), "{}", answer.text());
    assert!(answer.text().contains("locum_main"), "{}", answer.text());
}

#[test]
fn heads_and_trailers_are_searched_too() {
    let world = World::new();
    let mut wire = world.tunnel();
    for encoding in ENCODINGS {
        let target = format!("/echo-header/{encoding}");
        let answer = wire.ask(request("GET", &target, &[AUTHORIZED], ""));
        let value = answer.header("x-echo").expect("the field stays");
        assert!(leaks(&world.key, value.as_bytes()).is_empty(), "{target}: {value}");
    }
    let answer = wire.ask(request("GET", "/echo-cookie", &[AUTHORIZED], ""));
    assert_eq!(answer.header("set-cookie"), Some("session=locum_main; Path=/"));
    for encoding in ENCODINGS {
        let target = format!("/echo-trailer/{encoding}");
        let answer = wire.ask(request("GET", &target, &[AUTHORIZED, "TE: trailers"], ""));
        assert_eq!(answer.text(), "see the end");
        let (name, value) = &answer.trailers[0];
        assert_eq!((&**name, answer.trailers.len()), ("x-echo", 1), "{target}");
        assert!(leaks(&world.key, value.as_bytes()).is_empty(), "{target}: {value}");
    }
    world.never_leaks(&[("the wire", &wire.transcript)]);
}

#[test]
fn what_an_origin_hides_beside_the_fields_does_not_come_back() {
    let key = canary();
    let cases = [
        ("reason", format!("HTTP/1.1 200 {key}\r\nContent-Length: 0\r\n\r\n")),
        ("field name", format!("HTTP/1.1 200 OK\r\n{key}: 1\r\nContent-Length: 0\r\n\r\n")),
        (
            "early hints",
            format!(
                "HTTP/1.1 103 Early Hints\r\nLink: <{key}>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
            ),
        ),
        (
            "chunk extension",
            format!(
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2;x={key}\r\nok\r\n0\r\n\r\n"
            ),
        ),
        (
            "a repeated field",
            format!(
                "HTTP/1.1 200 OK\r\nX-A: 1\r\nX-A: {key}\r\nX-A: a{key}b{key}\r\nContent-Length: 0\r\n\r\n"
            ),
        ),
        (
            "a redirect",
            format!(
                "HTTP/1.1 302 Found\r\nLocation: https://evil.test/?k={key}\r\nContent-Length: 0\r\n\r\n"
            ),
        ),
        (
            "a refusal",
            format!(
                "HTTP/1.1 401 No\r\nWWW-Authenticate: Bearer error=\"bad {key}\"\r\nContent-Length: {}\r\n\r\nbad key: {key}",
                9 + key.len()
            ),
        ),
        ("HTTP/1.0", format!("HTTP/1.0 200 OK\r\n\r\nit is {key}")),
    ];
    for (name, bytes) in cases {
        let home = Home::new();
        let script = vec![Script::Read, Script::Send(bytes.into_bytes()), Script::Goodbye];
        let origin = Origin::scripted(HOST, script);
        home.reach(&origin);
        home.add("main", BEARER, &key);
        let agent = home.agent("worker");
        let serve = home.serve();
        let mut wire = serve.tunnel(&agent, HOST);
        wire.send(request("GET", "/", &[AUTHORIZED], ""));
        let answer = wire.try_answer("GET").expect(name);
        assert!(origin.raw().concat().contains(&key), "{name}: it did go out");
        assert!((200..600).contains(&answer.status));
        home.never_leaks(&[&key], &[(name, &wire.transcript)]);
    }
}

#[test]
fn the_origin_is_asked_for_what_can_be_searched() {
    let world = World::new();
    let offered = ["Accept-Encoding: gzip, br, zstd, deflate", "Range: bytes=0-3", "If-Range: x"];
    let fields = [&[AUTHORIZED], &offered[..]].concat();
    assert_eq!(world.ask("GET", "/v1/x", &fields, "").status, 200);
    let seen = world.origin.last();
    assert_eq!(seen.header("accept-encoding"), Some("identity"));
    assert_eq!((seen.header("range"), seen.header("if-range")), (None, None));
    // A coding that cannot be undone cannot be searched, and so does not pass.
    let answer = world.get("/coded/compress/raw");
    assert_eq!((answer.status, &*answer.problem()), (502, "response-unscrubbable"));
    // Also without a reference: an origin may have kept the key of an earlier request.
    assert_eq!(world.ask("GET", "/open/x", &offered, "").status, 200);
    assert_eq!(world.origin.last().header("accept-encoding"), Some("identity"));
    let answer = world.ask("GET", "/open/coded/compress/raw", &offered, "");
    assert_eq!(answer.problem(), "response-unscrubbable");
}

#[test]
fn a_coding_that_nobody_asked_for_is_undone_and_searched() {
    let world = World::new();
    let mut wire = world.tunnel();
    for codings in ["gzip", "deflate", "zstd", "gzip,zstd", "deflate,gzip,gzip"] {
        for encoding in ENCODINGS {
            for how in ["", "drip/"] {
                let target = format!("/coded/{how}{codings}/{encoding}");
                let answer = wire.ask(request("GET", &target, &[AUTHORIZED], ""));
                framed(&answer, &target);
                let found = leaks(&world.key, &answer.body);
                assert!(found.is_empty(), "{target}: {found:?} in {}", answer.text());
                assert_eq!(answer.header("content-encoding"), None, "{target}");
                assert_eq!(answer.header("etag"), Some("W/\"1\""), "{target}");
                assert_eq!(answer.header("vary"), Some("accept-encoding"), "{target}");
            }
        }
    }
    assert!(world.serve.metric("locum_scrubbed_total") >= 100);
    world.never_leaks(&[("the wire", &wire.transcript)]);
}

#[test]
fn a_coded_answer_that_is_cut_or_damaged_is_no_whole_answer() {
    let world = World::new();
    for target in ["/coded/cut/gzip/raw", "/coded/cut/zstd/raw", "/coded/gzip,x-gzip/raw"] {
        let mut wire = world.tunnel();
        wire.send(request("GET", target, &[AUTHORIZED], ""));
        assert!(wire.try_answer("GET").is_err(), "{target}");
        world.never_leaks(&[(target, &wire.transcript)]);
        let outcome = outcome(&world, target);
        assert_eq!(outcome["code"], "response-unscrubbable", "{outcome}");
        assert_eq!(outcome["ending"], "upstream-aborted", "{outcome}");
    }
}

#[test]
fn a_rule_may_let_pass_what_cannot_be_searched_and_the_record_says_so() {
    let world = World::ruled(
        "version: 1\nrules:\n- {name: trusted, agents: ['*'], use: ['*'], scrub: {undecodable: pass}}\n",
    );
    let mut wire = world.tunnel();
    let target = "/coded/compress/raw";
    let answer = wire.ask(request("GET", target, &[AUTHORIZED], ""));
    assert_eq!((answer.status, answer.header("content-encoding")), (200, Some("compress")));
    assert!(answer.text().contains(&world.key), "it passes as it is");
    assert_eq!(outcome(&world, target)["unsearched"], true);
    let target = "/coded/gzip/raw";
    let answer = wire.ask(request("GET", target, &[AUTHORIZED], ""));
    assert!(answer.text().contains("[locum_main"), "{}", answer.text());
    assert_eq!(outcome(&world, target).get("unsearched"), None);
}

#[test]
fn a_key_that_an_origin_kept_does_not_come_back_later() {
    let world = World::new();
    let mut wire = world.tunnel();
    assert_eq!(wire.ask(request("PUT", "/v1/x", &[AUTHORIZED], "")).status, 200);
    let answer = wire.ask(request("GET", "/open/kept", &[], ""));
    assert_eq!((answer.status, answer.text()), (200, format!("{BEFORE}locum_main{AFTER}")));
    world.never_leaks(&[("the wire", &wire.transcript)]);
}

#[test]
fn where_no_key_can_go_all_passes_as_it_was() {
    let free = Origin::start("free.test");
    let world = World::with(BEARER, canary(), |home, _| {
        home.reach(&free);
        home.policy(
            "version: 1\nrules:\n- {name: mine, agents: ['*'], use: ['*']}\n- {name: free, agents: ['*'], to: ['https://free.test']}\n",
        );
    });
    let mut wire = world.serve.tunnel(&world.agent, "free.test");
    let answer = wire.ask(
        "GET /open/coded/gzip/raw HTTP/1.1\r\nHost: free.test\r\nAccept-Encoding: gzip, br\r\nRange: bytes=0-3\r\n\r\n",
    );
    let seen = free.last();
    assert_eq!(seen.header("accept-encoding"), Some("gzip, br"));
    assert_eq!(seen.header("range"), Some("bytes=0-3"));
    assert_eq!(answer.header("content-encoding"), Some("gzip"));
    assert_eq!(answer.body[..2], [0x1f, 0x8b]);
}

#[test]
fn two_keys_of_one_request_are_both_found() {
    let second = canary();
    let world = World::with(BEARER, canary(), |home, _| {
        home.add("second", &["--to", "https://api.test", "--header", "X-Key: {secret}"], &second);
    });
    let mut wire = world.tunnel();
    let answer = wire.ask(request("GET", "/echo", &[AUTHORIZED, "X-Key: locum_second"], ""));
    assert!(answer.text().contains("locum_main") && answer.text().contains("locum_second"));
    world.home.never_leaks(&[&world.key, &second], &[("the wire", &wire.transcript)]);
}
