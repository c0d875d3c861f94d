//! A WebSocket, frame by frame: the handshake is a request like any other, and then bytes pass.

use std::time::{Duration, Instant};

use crate::support::*;

/// The key of RFC 6455 section 1.2, and its answer.
const KEY: &str = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==";
const SWITCH: &str = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n";

/// How soon a socket that may not be any more is ended (DESIGN section 5: within a second).
const SOON: Duration = Duration::from_secs(1);

/// The handshake, with the reference in its slot.
fn handshake(target: &str, fields: &[&str]) -> String {
    let usual = [AUTHORIZED, "Upgrade: websocket", "Connection: keep-alive, Upgrade", KEY];
    let all = [&usual[..], &["Sec-WebSocket-Version: 13"], fields].concat();
    request("GET", target, &all, "")
}

/// A frame without a mask, as servers send them.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    if let Ok(length @ 0..126) = u8::try_from(payload.len()) {
        return [&[first, length], payload].concat();
    }
    let length = u16::try_from(payload.len()).unwrap().to_be_bytes();
    [&[first, 126], &length[..], payload].concat()
}

fn text(payload: &str) -> Vec<u8> {
    frame(0x81, payload.as_bytes())
}

/// The same with a mask, as clients send them.
fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = frame(first, &[]);
    frame[1] = 0x80 | u8::try_from(payload.len()).unwrap();
    let mask = [7, 77, 177, 0];
    frame.extend_from_slice(&mask);
    frame.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    frame
}

/// What an echoing server makes of a client's short frame.
fn echoed(masked: &[u8]) -> Vec<u8> {
    let (mask, payload) = (&masked[2..6], &masked[6..]);
    let payload = payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask);
    frame(masked[0], &payload.collect::<Vec<u8>>())
}

fn send(bytes: impl AsRef<[u8]>) -> Script {
    Script::Send(bytes.as_ref().to_vec())
}

/// An origin that switches, and goes on like this.
fn switching(then: Vec<Script>) -> Vec<Script> {
    [vec![Script::Read, send(format!("{SWITCH}\r\n"))], then].concat()
}

/// The usual scene, with an origin that plays a script on each connection.
struct Scene {
    serve: Serve,
    origin: Origin,
    agent: Agent,
    key: String,
    home: Home,
}

impl Scene {
    fn new(script: Vec<Script>) -> Self {
        Self::with(|_| script, |_| {})
    }

    fn with(script: impl FnOnce(&str) -> Vec<Script>, prepare: impl FnOnce(&Home)) -> Self {
        let home = Home::new();
        let key = canary();
        let origin = Origin::scripted(HOST, script(&key));
        home.reach(&origin);
        home.add("main", BEARER, &key);
        let agent = home.agent("worker");
        prepare(&home);
        let serve = home.serve();
        Self { serve, origin, agent, key, home }
    }

    fn ruled(policy: &str) -> Self {
        Self::with(|_| switching(vec![Script::Echo, Script::Goodbye]), |home| home.policy(policy))
    }

    fn echo() -> Self {
        Self::new(switching(vec![Script::Echo, Script::Goodbye]))
    }

    fn tunnel(&self) -> Wire {
        self.serve.tunnel(&self.agent, HOST)
    }

    /// A socket that is open.
    #[track_caller]
    fn socket(&self, target: &str) -> Wire {
        let mut wire = self.tunnel();
        let answer = wire.ask(handshake(target, &[]));
        assert_eq!(answer.status, 101, "{}", answer.text());
        wire
    }

    fn open(&self) -> u64 {
        self.serve.metric("locum_tunnels_open{kind=\"websocket\"}")
    }

    #[track_caller]
    fn until_open(&self, count: u64) {
        eventually("so many open sockets", PATIENCE, || (self.open() == count).then_some(()));
    }

    /// The outcome of the one request to this path.
    #[track_caller]
    fn outcome(&self, path: &str) -> serde_json::Value {
        let accesses = self.home.accesses_to(path);
        assert_eq!(accesses.len(), 1, "{accesses:?}");
        assert_eq!(accesses[0]["decision"], "permit", "{accesses:?}");
        let id = accesses[0]["request_id"].as_str().unwrap();
        self.home.records_of(id, 2).remove(1)
    }
}

#[test]
fn a_socket_holds_its_place_among_those_at_once() {
    let scene = Scene::ruled(
        "version: 1\nrules:\n  - {name: r, agents: ['*'], use: [main], limits: {concurrent: 1}}\n",
    );
    let socket = scene.socket("/one");
    scene.until_open(1);
    let refused = scene.tunnel().ask(handshake("/two", &[]));
    assert_eq!((refused.status, &*refused.problem()), (429, "rate-limited"));
    drop(socket);
    eventually("a free place", PATIENCE, || {
        (scene.tunnel().ask(handshake("/three", &[])).status == 101).then_some(())
    });
}

#[test]
fn the_handshake_carries_the_key_and_frames_pass_unchanged_both_ways() {
    let scene = Scene::echo();
    let mut wire = scene.tunnel();
    let fields = [
        "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits",
        "Sec-WebSocket-Protocol: chat, superchat",
        "Origin: https://app.test",
    ];
    let answer = wire.ask(handshake("/v1/realtime?model=x", &fields));
    assert_eq!(answer.status, 101, "{}", answer.text());
    assert_eq!(answer.header("upgrade"), Some("websocket"));
    assert_eq!(answer.header("connection"), Some("Upgrade"));
    assert_eq!(answer.header("sec-websocket-accept"), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
    assert!(answer.header("content-length").is_none());
    // Text, a ping, a compressed frame, a frame of no known kind, and a close.
    let mut all = Vec::new();
    for (first, payload) in [
        (0x81, &b"hello"[..]),
        (0x89, b"ping"),
        (0xc1, &[0xf2, 0x48, 0x05, 0x00]),
        (0x8f, b"?"),
        (0x88, &[3, 232]),
    ] {
        let frame = masked(first, payload);
        wire.send(&frame);
        let mut seen = vec![0; frame.len() - 4];
        wire.read_exact(&mut seen);
        assert_eq!(seen, echoed(&frame));
        all.extend_from_slice(&frame);
    }
    assert_eq!(scene.open(), 1);
    wire.finish();
    assert_eq!(wire.until_closed(), b"");
    scene.until_open(0);

    let raw = scene.origin.last_raw();
    let (head, _) = raw.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("GET /v1/realtime?model=x HTTP/1.1\r\n"), "{head}");
    let lines: Vec<String> = head.lines().skip(1).map(str::to_ascii_lowercase).collect();
    for line in [
        "connection: upgrade",
        "upgrade: websocket",
        "sec-websocket-version: 13",
        &KEY.to_ascii_lowercase(),
        &fields[0].to_ascii_lowercase(),
        &fields[1].to_ascii_lowercase(),
        &fields[2].to_ascii_lowercase(),
        &format!("authorization: bearer {}", scene.key),
    ] {
        assert_eq!(lines.iter().filter(|l| *l == line).count(), 1, "{line}: {head}");
    }
    assert_eq!(lines.iter().filter(|l| l.starts_with("connection:")).count(), 1, "{head}");

    let access = scene.home.accesses_to("/v1/realtime").remove(0);
    assert_eq!((&access["method"], &access["credential"]), (&"GET".into(), &"main".into()));
    let outcome = scene.outcome("/v1/realtime");
    // Each of the five came back without its mask.
    let (up, down) = (all.len(), all.len() - 5 * 4);
    assert_eq!(outcome["ending"], "complete", "{outcome}");
    assert_eq!(outcome["status"], 101);
    assert_eq!((&outcome["bytes_up"], &outcome["bytes_down"]), (&up.into(), &down.into()));
    assert!(outcome["scrubbed"].is_null() && outcome["code"].is_null(), "{outcome}");
    let metrics = scene.serve.metrics();
    scene.home.never_leaks(&[&scene.key], &[("metrics", metrics.as_bytes())]);
}

#[test]
fn what_either_side_sends_too_soon_is_not_lost() {
    let hello = text("hello");
    let early = format!("{SWITCH}\r\n");
    let scene = Scene::new(vec![
        Script::Read,
        send([early.as_bytes(), &hello].concat()),
        Script::Echo,
        Script::Goodbye,
    ]);
    let mut wire = scene.tunnel();
    let frame = masked(0x81, b"no patience");
    wire.send([handshake("/", &[]).as_bytes(), &frame].concat());
    assert_eq!(wire.answer().status, 101);
    wire.finish();
    assert_eq!(wire.until_closed(), [hello, echoed(&frame)].concat());
}

#[test]
fn an_answer_that_is_no_handshake_ends_there() {
    for (name, answer) in [
        ("another key's", SWITCH.replace("s3pPLMBi", "AAAAAAAA")),
        ("no key's", SWITCH.replace("Sec-WebSocket-Accept", "X-Accept")),
        ("another protocol", SWITCH.replace("Upgrade: websocket", "Upgrade: h2c")),
        ("no protocol", SWITCH.replace("Upgrade: websocket\r\n", "")),
        ("no option", SWITCH.replace("Connection: Upgrade", "Connection: close")),
        ("two answers", format!("{SWITCH}Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n")),
    ] {
        let frames = text("not for you");
        let answer = [answer.as_bytes(), b"\r\n", &frames].concat();
        let scene = Scene::new(vec![Script::Read, send(answer), Script::Wait]);
        let mut wire = scene.tunnel();
        let answer = wire.ask(handshake("/x", &[]));
        assert_eq!((answer.status, &*answer.problem()), (502, "upstream-failed"), "{name}");
        assert!(wire.is_silent(Duration::from_millis(50)), "{name}: frames went on");
        assert_eq!(scene.outcome("/x")["code"], "upstream-failed", "{name}");
        assert_eq!(scene.open(), 0);
    }
}

#[test]
fn an_origin_that_declines_is_heard_and_the_connection_goes_on() {
    for (status, extra) in [
        ("200 OK", ""),
        ("401 Unauthorized", "WWW-Authenticate: Bearer\r\n"),
        ("403 Forbidden", ""),
        ("426 Upgrade Required", "Sec-WebSocket-Version: 13\r\n"),
    ] {
        let scene = Scene::with(
            |key| {
                let body = format!("no {key}");
                let length = body.len();
                let answer =
                    format!("HTTP/1.1 {status}\r\n{extra}Content-Length: {length}\r\n\r\n{body}");
                vec![Script::Read, send(&answer), Script::Read, send(&answer)]
            },
            |_| {},
        );
        let mut wire = scene.tunnel();
        for _ in 0..2 {
            let answer = wire.ask(handshake("/x", &[]));
            assert!(status.starts_with(&answer.status.to_string()), "{answer:?}");
            assert_eq!(answer.text(), "no locum_main");
            if let Some((name, value)) = extra.trim_end().split_once(": ") {
                assert_eq!(answer.header(&name.to_ascii_lowercase()), Some(value));
            }
        }
        assert_eq!(wire.ask(request("GET", "/y", &[AUTHORIZED], "")).text(), "no locum_main");
        assert_eq!(scene.open(), 0);
    }
}

#[test]
fn a_key_in_head_or_frames_does_not_come_back() {
    let scene = Scene::with(
        |key| {
            let frames = [text(&format!("the key is {key}, keep it")), text("yes")].concat();
            let (first, rest) = frames.split_at(20);
            let base64 = data_encoding::BASE64.encode(key.as_bytes());
            vec![
                Script::Read,
                send(format!("{SWITCH}X-Your-Key: {key}\r\n\r\n")),
                send(first),
                Script::Wait,
                send(rest),
                Script::Wait,
                send(text(&base64)),
                Script::Goodbye,
            ]
        },
        |_| {},
    );
    let mut wire = scene.tunnel();
    let answer = wire.ask(handshake("/x", &[]));
    assert_eq!((answer.status, answer.header("x-your-key")), (101, Some("locum_main")));
    // What came of the first frame before it could be the key is there already.
    let (mut head, clean) =
        ([0; 13], text(&format!("the key is {}", "k".repeat(scene.key.len() + 9))));
    wire.read_exact(&mut head);
    assert_eq!(head, clean[..13]);
    scene.origin.release();
    let pad = scene.key.len() - "locum_main".len();
    // It ends in `s`, with which the key begins: nothing follows, and still it comes whole.
    let frames =
        [text(&format!("the key is locum_main{}, keep it", "*".repeat(pad))), text("yes")].concat();
    let mut seen = vec![0; frames.len() - head.len()];
    wire.read_exact(&mut seen);
    assert_eq!(String::from_utf8_lossy(&seen), String::from_utf8_lossy(&frames[13..]));
    scene.origin.release();
    let rest = wire.until_closed();
    assert!(String::from_utf8_lossy(&rest).contains("locum_main"), "{rest:?}");
    wire.finish();
    assert_eq!(leaks(&scene.key, &wire.transcript).len(), 0);
    let outcome = scene.outcome("/x");
    assert_eq!(
        (&outcome["scrubbed"], &outcome["ending"]),
        (&3.into(), &"complete".into()),
        "{outcome}"
    );
    scene.home.never_leaks(&[&scene.key], &[]);
}

/// In every encoding and spelling, in one frame and in two of a message with a ping between, all at once and in
/// pieces; and what else the frames say stays.
#[test]
fn a_key_comes_back_in_no_encoding_of_a_message() {
    let encodings = || ENCODINGS.into_iter().chain(SPELLINGS);
    let scene = Scene::with(
        |key| {
            let mut script = vec![];
            for encoding in encodings() {
                let said = [b"so: ", &encode(encoding, key)[..], b", it is"].concat();
                let half = said.len() / 2;
                let whole = frame(0x82, &said);
                let cut =
                    [frame(0x02, &said[..half]), frame(0x89, b"?"), frame(0x80, &said[half..])];
                script.extend([send(&whole[..]), send(cut.concat())]);
                script.extend(whole.chunks(whole.len() / 3 + 1).map(send));
            }
            script.push(Script::Goodbye);
            switching(script)
        },
        |_| {},
    );
    let mut wire = scene.tunnel();
    assert_eq!(wire.ask(handshake("/x", &[])).status, 101);
    let rest = wire.until_closed();
    wire.finish();
    let messages = messages(&rest);
    assert_eq!(messages.len(), 3 * encodings().count());
    for (number, message) in messages.iter().enumerate() {
        let encoding = encodings().nth(number / 3).unwrap();
        let text = String::from_utf8_lossy(message);
        assert!(
            message.starts_with(b"so: ") && message.ends_with(b", it is"),
            "{encoding}: {text}"
        );
        assert!(leaks(&scene.key, message).is_empty(), "{encoding}: {text}");
        let echoed = encode(encoding, &scene.key);
        assert_eq!(memchr::memmem::find(message, &echoed), None, "{encoding}: {text}");
        // It is overwritten, and the message as long as it was.
        assert_eq!(message.len(), echoed.len() + 11, "{encoding}: {text}");
    }
    scene.home.never_leaks(&[&scene.key], &[("the wire", &wire.transcript)]);
}

/// What a server's messages say, each in one frame or in more; pings are none.
fn messages(mut frames: &[u8]) -> Vec<Vec<u8>> {
    let (mut all, mut open) = (Vec::new(), Vec::new());
    while let [first, length, rest @ ..] = frames {
        let (length, rest) = match length {
            126 => (usize::from(u16::from_be_bytes(rest[..2].try_into().unwrap())), &rest[2..]),
            short => (usize::from(*short), rest),
        };
        if first & 0x08 == 0 {
            open.extend_from_slice(&rest[..length]);
            if first & 0x80 != 0 {
                all.push(std::mem::take(&mut open));
            }
        }
        frames = &rest[length..];
    }
    assert!(open.is_empty(), "a message is not over");
    all
}

/// A frame as a server compresses its first message (RFC 7692 section 7.2.1).
fn compressed(text: &str) -> Vec<u8> {
    let mut deflate = flate2::Compress::new(flate2::Compression::best(), false);
    let mut out = Vec::with_capacity(text.len() + 100);
    deflate.compress_vec(text.as_bytes(), &mut out, flate2::FlushCompress::Sync).unwrap();
    out.truncate(out.len() - 4);
    frame(0xc1, &out)
}

#[test]
fn a_key_in_a_compressed_message_ends_the_socket() {
    let agreed = format!(
        "{SWITCH}Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover\r\n\r\n"
    );
    let scene = Scene::with(
        |key| {
            vec![
                Script::Read,
                send([agreed.as_bytes(), &compressed("good morning, sk-")].concat()),
                send(compressed(&format!("your key is {key}, is it not?"))),
                Script::Wait,
            ]
        },
        |_| {},
    );
    let mut wire = scene.tunnel();
    let offer = "Sec-WebSocket-Extensions: permessage-deflate";
    let answer = wire.ask(handshake("/x", &[offer]));
    assert_eq!(answer.status, 101, "{}", answer.text());
    assert!(answer.header("sec-websocket-extensions").is_some());
    let mut first = compressed("good morning, sk-");
    let sent = first.clone();
    wire.read_exact(&mut first);
    assert_eq!(first, sent, "compressed messages pass as they are");
    // Of the second the header at most: it came in one piece, and all of it is held back.
    assert!(wire.until_closed().len() <= 2);
    let outcome = scene.outcome("/x");
    assert_eq!(
        (&outcome["ending"], &outcome["code"], &outcome["scrubbed"]),
        (&"upstream-aborted".into(), &"response-unscrubbable".into(), &1.into()),
        "{outcome}"
    );
    // Of what nobody offered the agent would take the compressed for the plain.
    let unasked = format!("{SWITCH}Sec-WebSocket-Extensions: permessage-deflate\r\n\r\n");
    let scene = Scene::new(vec![Script::Read, send(unasked), Script::Wait]);
    let answer = scene.tunnel().ask(handshake("/x", &[]));
    assert_eq!((answer.status, &*answer.problem()), (502, "response-unscrubbable"));
    // An extension that nobody here can read is refused, unless there is nothing to hide.
    let strange = format!("{SWITCH}Sec-WebSocket-Extensions: x-own\r\n\r\n");
    let scene = Scene::new(vec![Script::Read, send(strange), Script::Wait]);
    let answer = scene.tunnel().ask(handshake("/x", &[]));
    assert_eq!((answer.status, &*answer.problem()), (502, "response-unscrubbable"));
}

#[test]
fn the_policy_is_asked_about_the_socket() {
    let rule = |more: &str| {
        format!(
            "version: 1\nrules:\n- {{name: r, agents: [worker], to: ['wss://api.test'], use: [main]{more}}}\n"
        )
    };
    for (more, allowed) in [
        ("", true),
        (", websocket: allow", true),
        (", paths: [/x]", true),
        (", paths: [/y]", false),
        (", websocket: refuse", false),
        // Reading is not what a socket does.
        (", methods: [GET]", false),
        (", methods: [GET], websocket: allow", true),
        (", methods: [POST], websocket: allow", true),
    ] {
        let scene = Scene::ruled(&rule(more));
        let answer = scene.tunnel().ask(handshake("/x", &[]));
        if allowed {
            assert_eq!(answer.status, 101, "{more}: {}", answer.text());
            assert_eq!(scene.home.accesses_to("/x")[0]["rule"], "r");
            continue;
        }
        assert_eq!((answer.status, &*answer.problem()), (403, "not-allowed"), "{more}");
        assert!(answer.text().contains("websocket: allow"), "{}", answer.text());
        assert_eq!(scene.origin.connections(), 0, "{more}");
        let record = scene.home.records_of(&answer.request_id(), 1).remove(0);
        assert_eq!(
            (&record["decision"], &record["code"]),
            (&"refuse".into(), &"not-allowed".into())
        );
    }
}

#[test]
fn other_credentials_and_paths_with_two_readings_are_refused_as_ever() {
    let scene = Scene::echo();
    let mut wire = scene.tunnel();
    let unknown = handshake("/x", &[]).replace("locum_main", "locum_other");
    assert_eq!(wire.ask(unknown).problem(), "credential-refused");
    assert_eq!(scene.origin.connections(), 0);
    let scene = Scene::ruled(
        "version: 1\nrules:\n- {name: r, agents: [worker], use: [main], paths: [/public/**]}\n",
    );
    let answer = scene.tunnel().ask(handshake("/public/../x", &[]));
    assert_eq!(answer.problem(), "ambiguous-path");
    assert_eq!(scene.origin.connections(), 0);
}

#[test]
fn one_side_may_finish_before_the_other() {
    // The origin has said all, and still listens.
    let bye = frame(0x88, &[3, 232]);
    let scene = Scene::new(switching(vec![send(&bye), Script::Goodbye]));
    let mut wire = scene.socket("/x");
    assert_eq!(wire.until_closed(), bye);
    let frame = masked(0x88, &[3, 232]);
    wire.send(&frame);
    wire.finish();
    let outcome = scene.outcome("/x");
    assert_eq!(
        (&outcome["ending"], &outcome["bytes_up"]),
        (&"complete".into(), &frame.len().into()),
        "{outcome}"
    );
    let raw = scene.origin.last_raw();
    assert!(
        raw.len() > raw.find("\r\n\r\n").unwrap() + 4,
        "the origin got the answer to its close"
    );
}

#[test]
fn what_is_cut_on_one_side_is_cut_on_the_other() {
    let half = &text("this frame is not whole")[..9];
    let scene = Scene::new(switching(vec![send(half)]));
    let mut wire = scene.socket("/x");
    let mut seen = [0; 9];
    wire.read_exact(&mut seen);
    assert_eq!(seen, half);
    let end = wire.read(&mut seen);
    assert!(end.is_err(), "TLS ended in order, though the origin broke off: {end:?}");
    assert_eq!(scene.outcome("/x")["ending"], "upstream-aborted");

    let scene = Scene::echo();
    let mut wire = scene.socket("/y");
    wire.send(half);
    wire.read_exact(&mut seen);
    drop(wire);
    assert_eq!(scene.outcome("/y")["ending"], "downstream-aborted");
    scene.until_open(0);
}

/// Opens a socket, takes away by `withdraw` what it stands on, and sees it end.
#[track_caller]
fn ends_soon(scene: &Scene, path: &str, code: &str, withdraw: impl FnOnce(&Home)) {
    let mut wire = scene.socket(path);
    let frame = masked(0x81, b"hello");
    wire.send(&frame);
    let mut seen = vec![0; frame.len() - 4];
    wire.read_exact(&mut seen);
    withdraw(&scene.home);
    let start = Instant::now();
    assert_eq!(wire.until_closed(), b"");
    let took = start.elapsed();
    assert!(took < SOON, "{code} after {took:?}");
    let outcome = scene.outcome(path);
    assert_eq!(
        (&outcome["ending"], &outcome["code"]),
        (&"failed".into(), &code.into()),
        "{outcome}"
    );
    scene.until_open(0);
}

#[test]
fn a_socket_that_would_not_be_opened_any_more_is_ended() {
    let own = "{name: own, agents: ['*'], use: ['*']}";
    let scene = Scene::ruled(&format!("version: 1\nrules:\n- {own}\n"));
    ends_soon(&scene, "/rule", "not-allowed", |home| {
        home.policy(
            "version: 1\nrules:\n- {name: get, agents: ['*'], use: ['*'], methods: [GET]}\n",
        );
    });
    scene.home.policy(&format!(
        "version: 1\nrules:\n- {own}\n- {{name: more, agents: [x], to: ['https://x.test']}}\n"
    ));
    eventually("the rule again", PATIENCE, || {
        let answer = scene.tunnel().ask(handshake("/probe", &[]));
        (answer.status == 101).then_some(())
    });
    scene.until_open(0);
    ends_soon(&scene, "/token", "agent-revoked", |home| {
        // The last token of an agent takes all its sockets with it.
        home.locum(&["agent", "revoke", "worker", "--token", &scene.agent.token_id]).ok();
    });
    let scene = Scene::echo();
    ends_soon(&scene, "/credential", "credential-revoked", |home| {
        home.locum(&["credential", "revoke", "main"]).ok();
    });
}

#[test]
fn what_does_not_touch_a_socket_leaves_it_open() {
    let scene = Scene::echo();
    let mut wire = scene.socket("/x");
    scene.home.rotate("main", &canary());
    scene
        .home
        .policy("version: 1\nrules:\n- {name: new, agents: [worker], use: [main], paths: [/x]}\n");
    eventually("the new policy", PATIENCE, || {
        scene.serve.metrics().contains("locum_policy_generation 2").then_some(())
    });
    // A second look has been taken when another request was decided on the new state.
    assert_eq!(scene.tunnel().ask(handshake("/y", &[])).problem(), "not-allowed");
    let frame = masked(0x81, b"still here");
    wire.send(&frame);
    let mut seen = vec![0; frame.len() - 4];
    wire.read_exact(&mut seen);
    assert_eq!(seen, echoed(&frame));
}

#[test]
fn a_socket_in_which_nothing_moves_is_ended() {
    let scene = Scene::with(
        |_| switching(vec![Script::Echo, Script::Goodbye]),
        |home| home.set("upstream.timeouts: {idle: 700ms}"),
    );
    let mut wire = scene.socket("/x");
    let start = Instant::now();
    // Whichever side moves keeps it open.
    for _ in 0..4 {
        std::thread::sleep(Duration::from_millis(300));
        wire.send(masked(0x89, b""));
        wire.read_exact(&mut [0; 2]);
    }
    assert_eq!(wire.until_closed(), b"");
    assert!(start.elapsed() > Duration::from_millis(4 * 300 + 690), "{:?}", start.elapsed());
    assert_eq!(scene.outcome("/x")["ending"], "upstream-aborted");
}

#[test]
fn a_stop_lets_sockets_end_and_then_ends_them() {
    let mut scene = Scene::with(
        |_| switching(vec![Script::Echo, Script::Goodbye]),
        |home| home.set("limits.drain: 2s"),
    );
    let mut quick = scene.socket("/quick");
    let mut slow = scene.socket("/slow");
    scene.serve.terminate();
    let frame = masked(0x81, b"wait");
    let mut seen = vec![0; frame.len() - 4];
    quick.send(&frame);
    quick.read_exact(&mut seen);
    assert_eq!(seen, echoed(&frame), "sockets go on while the proxy drains");
    quick.finish();
    assert_eq!(quick.until_closed(), b"");
    assert_eq!(slow.until_closed(), b"");
    assert!(scene.serve.ended(PATIENCE).success());
    assert_eq!(scene.outcome("/quick")["ending"], "complete");
    assert_eq!(scene.outcome("/slow")["ending"], "downstream-aborted");
}

/// A handshake as HTTP/2 has it (RFC 8441 section 5.1).
fn extended(path: &str, protocol: &'static str) -> http::Request<()> {
    let fields = [
        ("authorization", "Bearer locum_main"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-protocol", "chat"),
    ];
    let mut request = request2("CONNECT", path, &fields);
    request.extensions_mut().insert(h2::ext::Protocol::from_static(protocol));
    request
}

/// Some more of a stream; none at its end.
async fn data(stream: &mut h2::RecvStream) -> Option<Vec<u8>> {
    loop {
        let data = stream.data().await?.unwrap();
        stream.flow_control().release_capacity(data.len()).unwrap();
        if !data.is_empty() {
            return Some(data.to_vec());
        }
    }
}

async fn open_two(agent: &Http2) -> h2::client::SendRequest<bytes::Bytes> {
    let mut send = agent.send.clone().ready().await.unwrap();
    // It may be asked for once the proxy's SETTINGS are here.
    while !send.is_extended_connect_protocol_enabled() {
        tokio::task::yield_now().await;
        send = send.ready().await.unwrap();
    }
    send
}

#[test]
fn over_http2_a_socket_is_a_stream_among_others() {
    let scene = Scene::with(
        |key| {
            vec![
                Script::Switch,
                send(text(&format!("your key is {key}"))),
                Script::Echo,
                Script::Goodbye,
            ]
        },
        |home| home.set("limits.idle_tunnel: 500ms"),
    );
    runtime().block_on(async {
        let agent = Http2::open(&scene.serve, &scene.agent).await;
        let mut send = open_two(&agent).await;
        let mut sockets = Vec::new();
        for path in ["/one", "/two"] {
            let (answer, sending) = send.send_request(extended(path, "websocket"), false).unwrap();
            let answer = answer.await.unwrap();
            assert_eq!(answer.status(), 200);
            for absent in ["sec-websocket-accept", "upgrade", "connection"] {
                assert!(answer.headers().get(absent).is_none(), "{absent}");
            }
            sockets.push((sending, answer.into_body()));
        }
        let clean = text(&format!("your key is locum_main{}", "*".repeat(scene.key.len() - 10)));
        for (_, stream) in &mut sockets {
            assert_eq!(data(stream).await.unwrap(), clean);
        }
        // Longer than a connection without streams may live.
        tokio::time::sleep(Duration::from_millis(1200)).await;
        for (n, (sending, stream)) in sockets.iter_mut().enumerate() {
            let frame = masked(0x81, format!("hello {n}").as_bytes());
            sending.send_data(frame.clone().into(), false).unwrap();
            assert_eq!(data(stream).await.unwrap(), echoed(&frame));
        }
        assert_eq!(scene.open(), 2);
        for (sending, stream) in &mut sockets {
            sending.send_data(bytes::Bytes::new(), true).unwrap();
            assert_eq!(data(stream).await, None);
        }
        // What is no handshake is refused, and the connection goes on.
        for (request, code) in [
            (extended("/x", "connect-udp"), "upgrade-refused"),
            (request2("CONNECT", "/x", &[]), "method-refused"),
        ] {
            let reply = agent.ask(request, b"").await;
            assert_eq!(reply.problem(), code);
        }
    });
    for (path, raw) in ["/one", "/two"].into_iter().zip(scene.origin.raw()) {
        let head = raw.split_once("\r\n\r\n").unwrap().0.to_ascii_lowercase();
        assert!(head.starts_with(&format!("get {path} http/1.1\r\n")), "{head}");
        for line in ["connection: upgrade", "upgrade: websocket", "sec-websocket-protocol: chat"] {
            assert_eq!(head.lines().filter(|l| *l == line).count(), 1, "{line}: {head}");
        }
        assert!(head.contains(&format!("bearer {}", scene.key)), "{head}");
        assert_eq!(scene.home.accesses_to(path)[0]["method"], "GET");
        let outcome = scene.outcome(path);
        assert_eq!((&outcome["ending"], &outcome["status"]), (&"complete".into(), &200.into()));
        assert_eq!(outcome["scrubbed"], 1);
    }
}

#[test]
fn over_http2_too_the_policy_is_asked_about_the_socket() {
    let scene = Scene::ruled(
        "version: 1\nrules:\n- {name: r, agents: [worker], use: [main], methods: [GET]}\n",
    );
    let reply = runtime().block_on(async {
        let agent = Http2::open(&scene.serve, &scene.agent).await;
        open_two(&agent).await;
        agent.ask(extended("/x", "websocket"), b"").await
    });
    assert_eq!((reply.status, &*reply.problem()), (403, "not-allowed"));
    assert_eq!(scene.origin.connections(), 0);
}

/// A 2xx to an extended CONNECT is an open socket, and what an origin says to a handshake that it declines is none.
#[test]
fn over_http2_a_handshake_that_is_declined_never_looks_open() {
    for (status, seen) in [("200 OK", 502), ("204 No Content", 502), ("403 Forbidden", 403)] {
        let length = if status.starts_with("204") { "" } else { "Content-Length: 0\r\n" };
        let answer = format!("HTTP/1.1 {status}\r\n{length}\r\n");
        let scene = Scene::with(|_| vec![Script::Read, send(&answer)], |_| {});
        let reply = runtime().block_on(async {
            let agent = Http2::open(&scene.serve, &scene.agent).await;
            open_two(&agent).await;
            agent.ask(extended("/x", "websocket"), b"").await
        });
        assert_eq!(reply.status, seen, "{status}");
        if seen == 502 {
            assert_eq!(reply.problem(), "upstream-failed", "{status}");
        }
    }
}

/// An origin in the clear, by name.
fn clear() -> (Serve, Origin, Agent, Home) {
    let home = Home::new();
    let origin = Origin::scripted_clear("plain.test", switching(vec![Script::Echo]));
    home.reach_as("plain.test", origin.address, None);
    home.policy("version: 1\nrules:\n- {name: any, agents: ['*'], to: ['ws://plain.test']}\n");
    let agent = home.agent("worker");
    let serve = home.serve();
    (serve, origin, agent, home)
}

#[test]
fn in_the_clear_by_absolute_url_or_inside_a_connect() {
    let (serve, origin, agent, home) = clear();
    let plain = |target: &str| {
        handshake(target, &[]).replace(HOST, "plain.test").replace("locum_main", "own")
    };
    let credentials = format!("Proxy-Authorization: {}\r\nUpgrade:", agent.authorization());
    let mut absolute = serve.wire();
    absolute.send(plain("http://plain.test/absolute").replace("Upgrade:", &credentials));
    let mut inside = serve.open_tunnel(&agent, "plain.test:80");
    inside.send(plain("/inside"));
    for wire in [&mut absolute, &mut inside] {
        let answer = wire.answer();
        assert_eq!(answer.status, 101, "{}", answer.text());
        let frame = masked(0x81, b"hello");
        wire.send(&frame);
        let mut seen = vec![0; frame.len() - 4];
        wire.read_exact(&mut seen);
        assert_eq!(seen, echoed(&frame));
    }
    assert_eq!(serve.metric("locum_tunnels_open{kind=\"websocket\"}"), 2);
    absolute.finish();
    inside.finish();
    assert_eq!((absolute.until_closed(), inside.until_closed()), (vec![], vec![]));
    for head in origin.raw() {
        assert!(!head.to_ascii_lowercase().contains("proxy-auth"), "{head}");
    }
    for path in ["/absolute", "/inside"] {
        assert_eq!(home.accesses_to(path)[0]["decision"], "permit");
    }
    // Never with a credential.
    let mut inside = serve.open_tunnel(&agent, "plain.test:80");
    let answer = inside.ask(handshake("/", &[]).replace(HOST, "plain.test"));
    assert_eq!(answer.problem(), "plaintext-refused");
}

#[test]
fn a_socket_counts_among_its_agents_tunnels() {
    let scene = Scene::with(
        |_| switching(vec![Script::Echo, Script::Goodbye]),
        |home| home.set("limits.connections_per_agent: 1"),
    );
    let connect = || scene.serve.wire().ask(connect("api.test:443", &scene.agent.authorization()));
    let wire = scene.socket("/x");
    assert_eq!(connect().problem(), "overloaded");
    drop(wire);
    scene.until_open(0);
    eventually("a place for a tunnel", PATIENCE, || (connect().status == 200).then_some(()));
}

#[test]
fn an_open_socket_costs_little_memory() {
    const SOCKETS: u64 = 200;
    let scene = Scene::echo();
    let open =
        |count: u64| -> Vec<Wire> { (0..count).map(|i| scene.socket(&format!("/{i}"))).collect() };
    // Pools and tables are grown by the first ones.
    drop(open(20));
    scene.until_open(0);
    let before = scene.serve.resident();
    let wires = open(SOCKETS);
    let each = scene.serve.resident().saturating_sub(before) / SOCKETS;
    println!("{each} KiB for each socket");
    // Two TLS states, two tasks' worth of scrubber, and no buffer: a quarter of what one read-ahead
    // buffer in each direction would take.
    assert!(each < 64, "{each} KiB for each socket");
    drop(wires);
}

#[test]
fn the_clocks_of_requests_stop_where_a_socket_begins() {
    let scene = Scene::with(
        |_| switching(vec![Script::Echo, Script::Goodbye]),
        |home| {
            home.set("limits.head_time: 200ms");
            home.set("limits.idle_tunnel: 10s");
        },
    );
    let mut wire = scene.tunnel();
    wire.send(handshake("/socket", &[]));
    wire.until("\r\n\r\n");
    for _ in 0..3 {
        let frame = masked(0x81, b"still here");
        wire.send(&frame);
        let mut back = vec![0; frame.len() - 4];
        let mut read = 0;
        while read < back.len() {
            read += wire.read(&mut back[read..]).unwrap();
        }
        assert_eq!(back, echoed(&frame));
        // Longer than a head may take, from a byte that is none.
        assert!(wire.is_silent(Duration::from_millis(350)));
    }
}
