//! Slots in the bodies of requests: JSON, forms and multipart, and what is refused because it cannot
//! be read in one way.

use crate::support::*;

const JSON: &str = "Content-Type: application/json";
const FORM: &str = "Content-Type: application/x-www-form-urlencoded";
const PARTS: &str = "Content-Type: multipart/form-data; boundary=bnd";

const SLOTS: &[&str] = &[
    "--to",
    "https://api.test",
    "--json-pointer",
    "/api_key",
    "--json-pointer",
    "/auth/keys/1",
    "--form",
    "token",
    "--multipart",
    "token",
];

fn world() -> World {
    World::with(SLOTS, canary(), |_, _| {})
}

fn post(world: &World, kind: &str, body: &str) -> Answer {
    world.ask("POST", "/open/x", &[kind], body)
}

fn part(name: &str, value: &str) -> String {
    format!("--bnd\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n")
}

fn in_json(key: &str) -> String {
    let text = serde_json::Value::from(key).to_string();
    text[1..text.len() - 1].to_owned()
}

/// As forms have it (WHATWG URL, section 5.2).
fn in_form(key: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._*".contains(&b);
    key.bytes()
        .map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") })
        .collect()
}

#[test]
fn one_text_of_a_body_is_replaced_and_every_other_byte_stays() {
    let multipart = format!(
        "preamble\r\n{}{}{}--bnd--\r\nthe end",
        part("a", "locum_main in words"),
        part("token", "{}"),
        part("file\"; filename=\"f", "\0\u{1}locum_main"),
    );
    for key in [canary(), thorny_canary()] {
        let world = World::with(SLOTS, key, |_, _| {});
        let mut wire = world.tunnel();
        for (kind, sent, encoded) in [
            (JSON, "{\"api_key\":\"{}\"}", in_json(&world.key)),
            (
                JSON,
                " { \"n\" : 1.50e+3 ,\r\n\t\"api_key\" : \"{}\",\"h\":[\"locum_main\",\"\\ud83d\\ude00\"]}\n",
                in_json(&world.key),
            ),
            (
                JSON,
                "{\"auth\":{\"keys\":[\"x\",\"{}\",\"y\"],\"api_key\":\"é\"}}",
                in_json(&world.key),
            ),
            (
                "Content-Type: application/vnd.api+json; charset=utf-8",
                "{\"api_key\":\"{}\"}",
                in_json(&world.key),
            ),
            (FORM, "a=%2f+&token={}&b=locum_main&c", in_form(&world.key)),
            (FORM, "t%6Fken={}", in_form(&world.key)),
            (PARTS, &multipart, world.key.clone()),
        ] {
            let body = sent.replace("{}", "locum_main");
            let answer = wire.ask(request("POST", "/open/x?q=locum_main", &[kind], &body));
            assert_eq!(answer.status, 200, "{sent}: {}", answer.text());
            let seen = world.origin.last();
            let arrived = String::from_utf8(seen.body.clone()).unwrap();
            assert_eq!(arrived, sent.replace("{}", &encoded), "{sent}");
            assert_eq!(seen.header("content-length"), Some(&*arrived.len().to_string()), "{sent}");
            assert_eq!(seen.header("transfer-encoding"), None);
        }
        // An escaped reference is a reference.
        let answer =
            wire.ask(request("POST", "/open/x", &[JSON], "{\"api_key\":\"locum\\u005fmain\"}"));
        assert_eq!(answer.status, 200);
        assert_eq!(
            world.origin.last().body,
            format!("{{\"api_key\":\"{}\"}}", in_json(&world.key)).as_bytes()
        );
        world.never_leaks(&[("the wire", &wire.transcript)]);
        let records = world.home.accesses_to("/open/x");
        let slots: Vec<&str> = records.iter().map(|r| r["slot"].as_str().unwrap()).collect();
        let json = "json:/api_key";
        let expected = [
            json,
            json,
            "json:/auth/keys/1",
            json,
            "form:token",
            "form:token",
            "multipart:token",
            json,
        ];
        assert_eq!(slots, expected);
        assert!(records.iter().all(|r| r["credential"] == "main" && r["decision"] == "permit"));
        // In the query, in other fields and in other parts it is text, and counted.
        let misplaced: Vec<u64> =
            records.iter().map(|r| r["misplaced"].as_u64().unwrap_or(0)).collect();
        assert_eq!(misplaced, [1, 2, 1, 1, 2, 1, 3, 0]);
    }
}

#[test]
fn an_origin_that_shows_the_body_shows_no_key() {
    for key in [canary(), thorny_canary()] {
        let world = World::with(SLOTS, key, |_, _| {});
        let mut wire = world.tunnel();
        for (kind, body) in [(JSON, "{\"api_key\":\"locum_main\"}"), (FORM, "token=locum_main")] {
            let answer = wire.ask(request("POST", "/open/echo", &[kind], body));
            assert_eq!(answer.status, 200);
            assert_eq!(answer.json()["body"], body);
        }
        world.never_leaks(&[("the wire", &wire.transcript)]);
    }
}

#[test]
fn a_body_without_a_reference_arrives_as_it_was_sent() {
    let world = world();
    for (kind, body) in [
        (JSON, "{\"api_key\":\"mine\"}"),
        (JSON, "{not json at all"),
        (FORM, "token=mine&token=%zz"),
        (PARTS, "--other\r\n"),
        ("Content-Type: text/plain", "{\"api_key\":\"locum_main\"}"),
        ("Content-Type: application/octet-stream", "token=locum_main"),
    ] {
        assert_eq!(post(&world, kind, body).status, 200, "{body}");
        assert_eq!(world.origin.last().body, body.as_bytes());
    }
    assert!(!world.origin.raw().concat().contains(&world.key));
}

#[test]
fn what_cannot_be_read_in_one_way_is_refused_before_a_byte_goes_up() {
    let world = world();
    let twice = format!("{}{}--bnd--\r\n", part("token", "locum_main"), part("token", "x"));
    for (kind, body) in [
        (JSON, "{\"api_key\":\"locum_main\",\"api_key\":\"x\"}"),
        (JSON, "{\"api_key\":\"x\",\"api\\u005fkey\":\"locum_main\"}"),
        (JSON, "{\"auth\":{},\"auth\":{\"keys\":[1,\"locum_main\"]}}"),
        (JSON, "{\"api_key\":{\"x\":\"locum_main\"}}"),
        (JSON, "{\"api_key\":[\"locum_main\"]}"),
        (JSON, "{\"api_key\":\"locum_main\"} {}"),
        (JSON, "{\"api_key\":\"locum_main\",}"),
        (JSON, "{api_key:locum_main}"),
        (FORM, "token=locum_main&token="),
        (PARTS, &twice),
        (PARTS, "--bnd\r\nContent-Disposition: form-data; name=token\r\n\r\nlocum_main\r\n--bnd"),
    ] {
        let answer = post(&world, kind, body);
        assert_eq!((answer.status, &*answer.problem()), (400, "body-unreadable"), "{body}");
        assert!(
            answer.json()["hint"].as_str().unwrap().contains("credential show"),
            "{}",
            answer.text()
        );
    }
    for (kind, body, code) in [
        (JSON, "{\"api_key\":\"locum_other\"}", "credential-refused"),
        (JSON, "{\"api_key\":\"Bearer locum_main\"}", "slot-mismatch"),
        (FORM, "token=locum_main+", "slot-mismatch"),
    ] {
        assert_eq!(post(&world, kind, body).problem(), code, "{body}");
    }
    for coding in ["gzip", "br", "identity, gzip"] {
        let coding = format!("Content-Encoding: {coding}");
        let answer = world.ask("POST", "/open/x", &[JSON, &coding], "whatever");
        assert_eq!((answer.status, &*answer.problem()), (400, "body-unreadable"), "{coding}");
    }
    assert_eq!(world.origin.connections(), 0);
    let answer = world.ask(
        "POST",
        "/open/x",
        &[JSON, "Content-Encoding: identity"],
        "{\"api_key\":\"locum_main\"}",
    );
    assert_eq!(answer.status, 200);
    // What is no field of the credential's own may be coded as it likes.
    let coded = ["Content-Type: application/x-ndjson", "Content-Encoding: gzip"];
    assert_eq!(world.ask("POST", "/open/x", &coded, "whatever").status, 200);
}

#[test]
fn a_field_beyond_the_limit_is_refused_and_never_passed_unsearched() {
    let world = World::with(SLOTS, canary(), |home, _| home.set("limits.body_slot: 4KiB"));
    let body = |length: usize| {
        let body = "{\"x\":\"\",\"api_key\":\"locum_main\"}";
        body.replace("\"\"", &format!("\"{}\"", "x".repeat(length - body.len())))
    };
    assert_eq!(post(&world, JSON, &body(4096)).status, 200);
    // All of the field is in what is searched, and no more than the last bracket behind it.
    assert_eq!(post(&world, JSON, &body(4097)).status, 200);
    let answer = post(&world, JSON, &body(4098));
    assert_eq!((answer.status, &*answer.problem()), (413, "body-too-large"));
    assert!(answer.json()["hint"].as_str().unwrap().contains("limits.body_slot"));
    assert!(answer.json()["detail"].as_str().unwrap().contains("put the field before the file"));
    // Nobody announced how long it is.
    let chunked = |body: &str| {
        let mut wire = world.tunnel();
        let head = format!(
            "POST /open/x HTTP/1.1\r\nHost: {HOST}\r\n{JSON}\r\nTransfer-Encoding: chunked\r\n\r\n"
        );
        wire.ask(format!("{head}{:x}\r\n{body}\r\n0\r\n\r\n", body.len()))
    };
    assert_eq!(chunked(&body(4096)).status, 200);
    assert_eq!(chunked(&body(4097)).status, 200);
    assert_eq!(chunked(&body(4098)).problem(), "body-too-large");
    // Nor is anything read that nothing can enter.
    let long = "x".repeat(100_000);
    let answer = post(&world, "Content-Type: text/plain", &long);
    assert_eq!(answer.status, 200);
    assert_eq!(world.origin.last().length, 100_000);
    assert_eq!(world.origin.seen().len(), 5);
}

#[test]
fn bodies_are_left_alone_where_no_credential_could_enter_them() {
    // For the one agent it is a slot, for the other and elsewhere it is not.
    let world = World::with(SLOTS, canary(), |home, _| {
        home.set("limits.body_slot: 4KiB");
        home.policy(
            "version: 1\nrules:\n\
             - {name: fill, agents: [worker], to: ['https://api.test'], paths: ['/open/fill/**'], use: [main]}\n\
             - {name: all, agents: ['*'], to: ['https://api.test']}\n",
        );
    });
    let long = format!("{{\"x\":\"{}\",\"api_key\":\"locum_main\"}}", "x".repeat(10_000));
    assert_eq!(world.ask("POST", "/open/else", &[JSON], &long).status, 200);
    assert_eq!(world.origin.last().body, long.as_bytes());
    assert_eq!(world.ask("POST", "/open/fill/x", &[JSON], &long).problem(), "body-too-large");
    let gzip = "Content-Encoding: gzip";
    assert_eq!(world.ask("POST", "/open/else", &[JSON, gzip], "x").status, 200);
}

#[test]
fn a_header_that_names_the_credential_spares_the_body() {
    let slots = [SLOTS, &["--header", "Authorization: Bearer {secret}"]].concat();
    let world = World::with(&slots, canary(), |home, _| home.set("limits.body_slot: 4KiB"));
    let long = format!("{{\"api_key\":\"locum_main\",\"x\":\"{}\"}}", "x".repeat(10_000));
    assert_eq!(world.ask("POST", "/open/x", &[JSON, AUTHORIZED], &long).status, 200);
    let seen = world.origin.last();
    assert_eq!(seen.header("authorization"), Some(&*format!("Bearer {}", world.key)));
    assert_eq!(seen.body, long.as_bytes());
    // In the body alone, the client's own header is taken out: one copy of one key.
    let body = "{\"api_key\":\"locum_main\"}";
    assert_eq!(
        world.ask("POST", "/open/x", &[JSON, "Authorization: Bearer mine"], body).status,
        200
    );
    let seen = world.origin.last();
    assert_eq!(seen.header("authorization"), None);
    assert_eq!(seen.body, format!("{{\"api_key\":\"{}\"}}", world.key).as_bytes());
}

#[test]
fn in_chunks_with_trailers_one_byte_at_a_time_it_is_the_same() {
    let world = world();
    let mut wire = world.tunnel();
    wire.send(format!(
        "POST /open/x HTTP/1.1\r\nHost: {HOST}\r\n{JSON}\r\nTrailer: X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n"
    ));
    for byte in "{\"api_key\":\"locum_main\"}".bytes() {
        wire.send(format!("1\r\n{}\r\n", char::from(byte)));
    }
    wire.send("0\r\nX-Sum: 7\r\n\r\n");
    assert_eq!(wire.answer().status, 200);
    let seen = world.origin.last();
    assert_eq!(seen.body, format!("{{\"api_key\":\"{}\"}}", world.key).as_bytes());
    assert!(
        world.origin.last_raw().contains("X-Sum: 7")
            || world.origin.last_raw().contains("x-sum: 7")
    );
}

#[test]
fn an_agent_that_waits_to_go_on_is_told_to_only_where_it_may_send_the_request() {
    let world = World::with(SLOTS, canary(), |home, _| {
        home.set("limits.body_slot: 4KiB");
        home.policy("version: 1\nrules:\n- {name: a, agents: ['*'], to: ['https://api.test'], paths: ['/open/**'], use: [main]}\n");
    });
    let head = |path: &str, length: usize| {
        format!(
            "POST {path} HTTP/1.1\r\nHost: {HOST}\r\n{JSON}\r\nContent-Length: {length}\r\nExpect: 100-continue\r\n\r\n"
        )
    };
    let body = "{\"api_key\":\"locum_main\"}";
    let mut wire = world.tunnel();
    wire.send(head("/open/x", body.len()));
    assert_eq!(wire.until("\r\n\r\n"), "HTTP/1.1 100 Continue\r\n\r\n");
    assert_eq!(world.origin.connections(), 0, "nothing is sent before it is decided on");
    assert_eq!(wire.ask(body).status, 200);
    let seen = world.origin.last();
    assert_eq!(seen.body, format!("{{\"api_key\":\"{}\"}}", world.key).as_bytes());
    assert_eq!(seen.header("expect"), None);
    let seen = world.origin.seen().len();
    assert_eq!(world.tunnel().ask(head("/closed", body.len())).problem(), "not-allowed");
    // No more than the beginning is asked of it where nothing enters that.
    let mut wire = world.tunnel();
    wire.send(head("/open/x", 5000));
    assert_eq!(wire.until("\r\n\r\n"), "HTTP/1.1 100 Continue\r\n\r\n");
    assert_eq!(wire.ask(" ".repeat(4097)).problem(), "body-too-large");
    // What enters it goes on its way, and the rest behind it.
    let mut wire = world.tunnel();
    wire.send(head("/open/x", 5000));
    assert_eq!(wire.until("\r\n\r\n"), "HTTP/1.1 100 Continue\r\n\r\n");
    wire.send(format!("{body}{}", " ".repeat(4097 - body.len())));
    world.origin.until_seen(seen + 1);
    assert_eq!(wire.ask(" ".repeat(5000 - 4097)).status, 200);
    let last = world.origin.last();
    assert_eq!((last.length, last.header("expect")), (5000 + world.key.len() as u64 - 10, None));
}

#[test]
fn over_http2_it_is_the_same_in_all_four_pairs() {
    for two in [false, true] {
        let origin = if two { Origin::http2(HOST) } else { Origin::start(HOST) };
        let world =
            World::before(origin, SLOTS, canary(), |home, _| home.set("limits.body_slot: 4KiB"));
        let expected = format!("token={}&a=%2f", world.key);
        assert_eq!(post(&world, FORM, "token=locum_main&a=%2f").status, 200);
        assert_eq!(world.origin.last().body, expected.as_bytes());
        runtime().block_on(async {
            let agent = Http2::open(&world.serve, &world.agent).await;
            let fields = [("content-type", "application/x-www-form-urlencoded")];
            let reply =
                agent.ask(request2("POST", "/open/x", &fields), b"token=locum_main&a=%2f").await;
            assert_eq!(reply.status, 200, "{}", reply.text());
            let seen = world.origin.last();
            assert_eq!((&*seen.body, seen.complete), (expected.as_bytes(), true));
            let reply = agent.ask(request2("POST", "/open/x", &fields), &[b'x'; 5000]).await;
            assert_eq!((reply.status, &*reply.problem()), (413, "body-too-large"));
            let reply =
                agent.ask(request2("POST", "/open/x", &fields), b"token=locum_main&token").await;
            assert_eq!(reply.problem(), "body-unreadable");
            let fields =
                [("content-type", "application/x-www-form-urlencoded"), ("content-length", "16")];
            let reply = agent.ask(request2("POST", "/open/x", &fields), b"token=locum_main").await;
            assert_eq!(reply.status, 200);
            assert_eq!(world.origin.last().body, format!("token={}", world.key).as_bytes());
        });
        world.never_leaks(&[]);
    }
}

/// What the head says in two ways, and what is not written as the head says, has another reading for
/// somebody: refused before a secret is opened, where a credential may enter the body at all.
#[test]
fn a_body_with_two_readings_of_its_kind_is_refused() {
    let world = world();
    let json = "{\"api_key\":\"locum_main\"}";
    let parts = format!("{}--bnd--\r\n", part("token", "locum_main"));
    for (fields, body) in [
        (&[JSON, JSON][..], json),
        (&[JSON, "Content-Type: text/plain"], json),
        (&["Content-Type: text/plain", FORM], "token=locum_main"),
        (&["Content-Type: application/json, text/plain"], json),
        (&["Content-Type: application/json; charset=utf-16"], json),
        (&["Content-Type: application/json; charset=utf-8; charset=utf-8"], json),
        (&["Content-Type: application/x-www-form-urlencoded; charset=ibm037"], "token=locum_main"),
        (&["Content-Type: multipart/form-data; boundary=bnd; boundary=x"], &parts),
        (&["Content-Type: multipart/form-data; boundary=bnd; Boundary=bnd"], &parts),
        (&["Content-Type: multipart/form-data; boundary=bnd; boundary*=utf-8''x"], &parts),
        (&["Content-Type: multipart/form-data; boundary=bnd; charset=utf-7"], &parts),
        (&[JSON], "\u{feff}{\"api_key\":\"locum_main\"}"),
        (&[JSON], "\u{feff}{\"api_key\":\"\\u006cocum_main\"}"),
    ] {
        let answer = world.ask("POST", "/open/x", fields, body);
        assert_eq!(
            (answer.status, &*answer.problem()),
            (400, "body-unreadable"),
            "{fields:?} {body}"
        );
    }
    let wide = |unit: fn(u16) -> [u8; 2], mark: bool| -> Vec<u8> {
        let mark = mark.then_some(0xfeff);
        mark.into_iter().chain(json.encode_utf16()).flat_map(unit).collect()
    };
    let utf_32: Vec<u8> = json.bytes().flat_map(|b| [b, 0, 0, 0]).collect();
    for body in [
        wide(u16::to_le_bytes, true),
        wide(u16::to_be_bytes, true),
        wide(u16::to_le_bytes, false),
        wide(u16::to_be_bytes, false),
        utf_32,
    ] {
        let mut wire = world.tunnel();
        let length = format!("Content-Length: {}", body.len());
        let head = request("POST", "/open/x", &[JSON, &length], "");
        let answer = wire.ask([head.as_bytes(), &body].concat());
        assert_eq!(answer.problem(), "body-unreadable", "{}", body.escape_ascii());
    }
    assert_eq!(world.origin.connections(), 0);
    assert_eq!(post(&world, "Content-Type: text/json; Charset=\"UTF-8\"", json).status, 200);
    // Where no credential enters a body, nobody asks.
    let other = World::new();
    assert_eq!(other.ask("POST", "/open/x", &[JSON, FORM], json).status, 200);
    world.never_leaks(&[]);
}

#[test]
fn a_body_that_names_a_credential_bound_elsewhere_raises_an_alert() {
    let other = canary();
    let world = World::with(SLOTS, canary(), |home, _| {
        home.add("else", &["--to", "https://else.test", "--form", "token"], &other);
    });
    assert_eq!(post(&world, FORM, "token=locum_else").problem(), "credential-refused");
    assert_eq!(world.origin.connections(), 0);
    assert_eq!(world.serve.metric("locum_unbound_references_total"), 1);
    let record = world.home.accesses_to("/open/x").remove(0);
    assert_eq!(record["credential"], "else");
}

#[test]
fn two_credentials_enter_one_body_or_neither() {
    let second = canary();
    let world = World::with(SLOTS, canary(), |home, _| {
        home.add("second", &["--to", "https://api.test", "--json-pointer", "/second"], &second);
    });
    let body = "{\"second\":\"locum_second\",\"api_key\":\"locum_main\"}";
    assert_eq!(post(&world, JSON, body).status, 200);
    let expected = body.replace("locum_second", &second).replace("locum_main", &world.key);
    assert_eq!(world.origin.last().body, expected.as_bytes());
    let body = "{\"second\":\"locum_third\",\"api_key\":\"locum_main\"}";
    assert_eq!(post(&world, JSON, body).problem(), "credential-refused");
    assert_eq!(world.origin.seen().len(), 1);
}

#[test]
fn the_call_is_recorded_before_and_a_token_revoked_meanwhile_counts() {
    let world = world();
    let mut wire = world.tunnel();
    let body = "token=locum_main";
    wire.send(format!(
        "POST /open/x HTTP/1.1\r\nHost: {HOST}\r\n{FORM}\r\nContent-Length: {}\r\n\r\ntoken=",
        body.len()
    ));
    world.home.locum(&["credential", "revoke", "main"]).ok();
    eventually("the revocation", PATIENCE, || {
        let answer = post(&world, FORM, body);
        (answer.status == 403).then_some(())
    });
    let before = world.origin.seen().len();
    assert_eq!(wire.ask("locum_main").problem(), "credential-refused");
    assert_eq!(world.origin.seen().len(), before);
}
