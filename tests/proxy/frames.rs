//! A credential in the messages of a WebSocket, as Discord's gateway and others want it.

use crate::support::*;

pub(crate) const HANDSHAKE: [&str; 5] = [
    "Upgrade: websocket",
    "Connection: Upgrade",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits",
];

/// A frame of a client.
fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![first];
    match payload.len() {
        length @ 0..126 => frame.push(0x80 | u8::try_from(length).unwrap()),
        length @ 126..0x1_0000 => {
            frame.push(0xfe);
            frame.extend_from_slice(&u16::try_from(length).unwrap().to_be_bytes());
        }
        length => {
            frame.push(0xff);
            frame.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
    let mask = [7, 77, 177, 0];
    frame.extend_from_slice(&mask);
    frame.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    frame
}

pub(crate) fn text(payload: &str) -> Vec<u8> {
    masked(0x81, payload.as_bytes())
}

/// The frames of a client: the first byte and the unmasked payload of each that is whole.
fn unmasked(mut bytes: &[u8]) -> Vec<(u8, Vec<u8>)> {
    let mut all = Vec::new();
    while bytes.len() >= 6 {
        assert!(bytes[1] & 0x80 != 0, "a client masks its frames");
        let (length, start) = match bytes[1] & 0x7f {
            126 => (usize::from(u16::from_be_bytes(bytes[2..4].try_into().unwrap())), 4),
            127 => {
                (usize::try_from(u64::from_be_bytes(bytes[2..10].try_into().unwrap())).unwrap(), 10)
            }
            short => (usize::from(short), 2),
        };
        let Some(payload) = bytes.get(start + 4..start + 4 + length) else { break };
        let mask = &bytes[start..start + 4];
        let payload = payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask);
        all.push((bytes[0], payload.collect()));
        bytes = &bytes[start + 4 + length..];
    }
    all
}

struct Scene {
    serve: Serve,
    origin: Origin,
    agent: Agent,
    key: String,
    home: Home,
}

impl Scene {
    fn new(key: String, prepare: impl FnOnce(&Home)) -> Self {
        Self::with(key, vec![Script::Switch, Script::Echo, Script::Goodbye], prepare)
    }

    fn with(key: String, script: Vec<Script>, prepare: impl FnOnce(&Home)) -> Self {
        let home = Home::new();
        let origin = Origin::scripted(HOST, script);
        home.reach(&origin);
        home.add("main", &["--to", "https://api.test", "--websocket", "/d/token"], &key);
        let agent = home.agent("worker");
        prepare(&home);
        let serve = home.serve();
        Self { serve, origin, agent, key, home }
    }

    #[track_caller]
    fn socket(&self, path: &str) -> Wire {
        let mut wire = self.serve.tunnel(&self.agent, HOST);
        let answer = wire.ask(request("GET", path, &HANDSHAKE, ""));
        assert_eq!(answer.status, 101, "{}", answer.text());
        wire
    }

    /// What the origin was sent on its last connection after the handshake, once there are so many
    /// frames.
    #[track_caller]
    fn frames(&self, count: usize) -> Vec<(u8, Vec<u8>)> {
        eventually(&format!("{count} frames"), PATIENCE, || {
            let raw = self.origin.raw_bytes().pop()?;
            let at = memchr::memmem::find(&raw, b"\r\n\r\n")? + 4;
            let frames = unmasked(&raw[at..]);
            (frames.len() >= count).then_some(frames)
        })
    }
}

fn identify(token: &str) -> String {
    format!("{{\"op\": 2,\"d\":{{ \"token\":\"{token}\",\"see\":\"locum_main\"}} }}")
}

fn in_json(key: &str) -> String {
    let text = serde_json::Value::from(key).to_string();
    text[1..text.len() - 1].to_owned()
}

#[test]
fn a_message_is_filled_and_recorded_and_the_others_pass() {
    for key in [canary(), thorny_canary()] {
        let scene = Scene::new(key, |_| {});
        let mut wire = scene.socket("/gateway");
        let hello = "hello";
        wire.send(text(hello));
        wire.send(masked(0x82, b"locum_main"));
        for byte in text(&identify("locum_main")) {
            wire.send([byte]);
        }
        wire.send(text("{\"op\":1,\"d\":{\"token\":null}}"));
        // In pieces, with a ping between them.
        let again = identify("locum_main");
        wire.send(masked(0x01, &again.as_bytes()[..30]));
        wire.send(masked(0x89, b"?"));
        wire.send(masked(0x80, &again.as_bytes()[30..]));
        let frames = scene.frames(6);
        let filled = identify(&in_json(&scene.key)).into_bytes();
        let expected = [
            (0x81, hello.into()),
            (0x82, b"locum_main".to_vec()),
            (0x81, filled.clone()),
            (0x81, b"{\"op\":1,\"d\":{\"token\":null}}".to_vec()),
            (0x89, b"?".to_vec()),
            (0x81, filled),
        ];
        assert_eq!(frames, expected);
        // Nothing that could compress a message was offered.
        assert!(!scene.origin.last_raw().to_ascii_lowercase().contains("extensions"));
        wire.finish();
        wire.until_closed();
        let records = scene.home.accesses_to("/gateway");
        assert_eq!(records.len(), 3, "{records:?}");
        assert!(records.iter().all(|r| r["request_id"] == records[0]["request_id"]));
        assert_eq!(records[0]["credential"], serde_json::Value::Null);
        for record in &records[1..] {
            assert_eq!(
                (&record["credential"], &record["slot"]),
                (&"main".into(), &"websocket:/d/token".into())
            );
            assert_eq!((&record["version"], &record["decision"]), (&1.into(), &"permit".into()));
        }
        assert_eq!(scene.serve.metric("locum_injections_total{credential=\"main\"}"), 2);
        let metrics = scene.serve.metrics();
        scene.home.never_leaks(
            &[&scene.key],
            &[("metrics", metrics.as_bytes()), ("the wire", &wire.transcript)],
        );
        scene.home.locum(&["audit", "verify"]).ok();
    }
}

#[test]
fn an_origin_that_sends_the_message_back_sends_no_key() {
    let key = canary();
    let echo = format!("{{\"your token\":\"{key}\"}}");
    let frame = [&[0x81, u8::try_from(echo.len()).unwrap()], echo.as_bytes()].concat();
    let script = vec![Script::Switch, Script::Wait, Script::Send(frame), Script::Goodbye];
    let scene = Scene::with(key, script, |_| {});
    let mut wire = scene.socket("/x");
    wire.send(text(&identify("locum_main")));
    eventually("the message's record", PATIENCE, || {
        (scene.home.accesses_to("/x").len() == 2).then_some(())
    });
    scene.origin.release();
    let heard = wire.until_closed();
    assert!(String::from_utf8_lossy(&heard).contains("locum_main"), "{}", heard.escape_ascii());
    assert!(leaks(&scene.key, &wire.transcript).is_empty());
}

#[test]
fn what_may_not_be_sent_ends_the_socket_and_does_not_go_up() {
    let other = canary();
    let compressed = masked(0xc1, b"locum_main");
    let twice = "{\"d\":{\"token\":\"locum_main\",\"token\":\"x\"}}";
    let long = format!("{{\"d\":{{\"token\":\"locum_main\"}},\"x\":\"{}\"}}", "x".repeat(5000));
    for (sent, code) in [
        (text(&identify("locum_none")), "credential-refused"),
        (text(&identify("locum_forbidden")), "credential-refused"),
        (text(&identify("locum_else")), "credential-refused"),
        (text(&identify("Bot locum_main")), "slot-mismatch"),
        (text(twice), "body-unreadable"),
        (text("{\"d\":{\"token\":{\"x\":\"locum_main\"}}}"), "body-unreadable"),
        (text("{\"d\":{\"token\":\"locum_main\""), "body-unreadable"),
        (text(&long), "body-too-large"),
        (compressed, "body-unreadable"),
    ] {
        let scene = Scene::new(canary(), |home| {
            home.set("limits.body_slot: 4KiB");
            home.add("forbidden", &["--to", "https://api.test", "--websocket", "/d/token"], &other);
            home.add("else", &["--to", "https://else.test", "--websocket", "/d/token"], &other);
            home.policy("version: 1\nrules:\n- {name: a, agents: ['*'], to: ['https://api.test'], use: [main, else]}\n");
        });
        let mut wire = scene.socket("/x");
        wire.send(text("first"));
        scene.frames(1);
        wire.send(&sent);
        wire.send(text("after"));
        wire.until_closed();
        assert_eq!(scene.frames(1), [(0x81, b"first".to_vec())], "{code}");
        let records = scene.home.accesses_to("/x");
        assert_eq!(
            (&records[1]["code"], &records[1]["decision"]),
            (&code.into(), &"refuse".into())
        );
        let id = records[0]["request_id"].as_str().unwrap();
        let outcome = scene.home.records_of(id, 3).remove(2);
        assert_eq!(
            (&outcome["kind"], &outcome["code"]),
            (&"outcome".into(), &code.into()),
            "{outcome}"
        );
    }
}

#[test]
fn a_secret_in_a_field_of_a_message_ends_the_socket() {
    let scene = Scene::new(canary(), |_| {});
    let mut wire = scene.socket("/x");
    wire.send(text("first"));
    scene.frames(1);
    wire.send(text(&identify(&in_json(&scene.key))));
    wire.until_closed();
    assert_eq!(scene.frames(1), [(0x81, b"first".to_vec())]);
    let record = scene.home.accesses_to("/x").remove(1);
    let refused = (&record["code"], &record["credential"], &record["version"]);
    assert_eq!(refused, (&"real-credential".into(), &"main".into(), &1.into()), "{record}");
    scene.home.never_leaks(&[&scene.key], &[]);
}

/// Waits until a new socket has this version. What is opened before the change and written to after it is
/// ended.
fn uses(scene: &Scene, version: &str) {
    eventually("the new version", PATIENCE, || {
        let mut other = scene.socket("/y");
        other.send(text(&identify("locum_main")));
        other.finish();
        other.until_closed();
        let raw = scene.origin.raw_bytes().pop()?;
        let at = memchr::memmem::find(&raw, b"\r\n\r\n")? + 4;
        let first = unmasked(&raw[at..]).into_iter().next()?;
        (first.1 == identify(version).as_bytes()).then_some(())
    });
}

#[test]
fn a_version_that_the_scrub_does_not_know_does_not_enter() {
    let scene = Scene::new(canary(), |_| {});
    let mut wire = scene.socket("/x");
    let next = canary();
    scene.home.locum_with(&["credential", "rotate", "main", "--grace", "0"], next.as_bytes()).ok();
    uses(&scene, &next);
    wire.send(text(&identify("locum_main")));
    wire.until_closed();
    assert_eq!(scene.home.accesses_to("/x")[1]["code"], "credential-refused");
}

#[test]
fn a_socket_goes_on_with_the_version_that_it_was_opened_with() {
    let key = canary();
    let scene = Scene::new(key.clone(), |_| {});
    let mut wire = scene.socket("/x");
    let next = canary();
    scene.home.locum_with(&["credential", "rotate", "main", "--grace", "1h"], next.as_bytes()).ok();
    uses(&scene, &next);
    wire.send(text(&identify("locum_main")));
    let sent = eventually("the message", PATIENCE, || {
        let raw = scene.origin.raw_bytes().into_iter().next()?;
        let at = memchr::memmem::find(&raw, b"\r\n\r\n")? + 4;
        Some(unmasked(&raw[at..]).into_iter().next()?.1)
    });
    assert_eq!(String::from_utf8_lossy(&sent), identify(&key));
    assert_eq!(scene.home.accesses_to("/x")[1]["version"], 1);
}

/// A reference that goes out as it is is a login that fails.
#[test]
fn a_message_is_filled_however_many_came_before_it() {
    let key = canary();
    let scene = Scene::new(key.clone(), |_| {});
    let mut wire = scene.socket("/x");
    for _ in 0..100 {
        wire.send(text("hello"));
    }
    wire.send(text(&identify("locum_main")));
    assert_eq!(scene.frames(101)[100].1, identify(&key).as_bytes());
    wire.send(text(&identify("locum_other")));
    wire.until_closed();
    let accesses = scene.home.accesses_to("/x");
    assert_eq!(accesses[1]["credential"], "main");
    assert_eq!(accesses[2]["code"], "credential-refused");
}

/// Each counts as a request, and not as a further one at once; and those without a reference count for nothing.
#[test]
fn messages_count_among_the_requests_of_their_rule() {
    let limited = "version: 1
rules:
  - name: a
    agents: [worker]
    to: ['https://api.test']
    use: [main]
    limits: {requests: 4/h, concurrent: 1}
";
    let scene = Scene::new(canary(), |home| home.policy(limited));
    let mut wire = scene.socket("/x");
    for _ in 0..3 {
        wire.send(text("hello"));
        wire.send(text(&identify("locum_main")));
    }
    scene.frames(6);
    wire.send(text(&identify("locum_main")));
    wire.until_closed();
    assert_eq!(scene.frames(6).len(), 6);
    let accesses = scene.home.accesses_to("/x");
    assert_eq!(accesses.len(), 5);
    assert_eq!(accesses[4]["code"], "rate-limited");
}

/// Many texts that are not over take no more memory than bodies may.
#[test]
fn what_is_gathered_of_texts_counts_among_the_bodies() {
    let scene = Scene::new(canary(), |home| home.set("limits.bodies_per_agent: 1MiB"));
    let begun = masked(0x01, &vec![b'x'; 400_000]);
    let mut wire = scene.socket("/a");
    wire.send(&begun);
    eventually("the text to be counted", PATIENCE, || {
        (scene.serve.metric("locum_bodies_held_bytes") >= 800_000).then_some(())
    });
    let mut other = scene.socket("/b");
    other.send(&begun);
    other.until_closed();
    let accesses = scene.home.accesses_to("/b");
    assert_eq!(accesses[1]["code"], "overloaded");
    wire.send(masked(0x80, b"over"));
    eventually("what was held to be free", PATIENCE, || {
        (scene.serve.metric("locum_bodies_held_bytes") == 0).then_some(())
    });
}

#[test]
fn without_such_a_slot_nothing_is_looked_at() {
    // An agent that may not use it keeps its extensions, and its frames.
    let scene = Scene::new(canary(), |home| {
        home.policy("version: 1\nrules:\n- {name: a, agents: ['*'], to: ['https://api.test']}\n");
    });
    let mut wire = scene.socket("/x");
    wire.send(masked(0xc1, b"whatever"));
    assert_eq!(scene.frames(1), [(0xc1, b"whatever".to_vec())]);
    assert!(scene.origin.last_raw().to_ascii_lowercase().contains("permessage-deflate"));
}
