//! Bodies that are longer than what is searched before they are sent: the field enters their beginning,
//! the rest streams behind it, and what should have been decided on with it is cut.

use bytes::Bytes;
use h2::SendStream;

use crate::support::*;

const JSON: &str = "application/json";
const FORM: &str = "application/x-www-form-urlencoded";
const PARTS: &str = "multipart/form-data; boundary=bnd";

const SLOTS: &[&str] = &[
    "--to",
    "https://api.test",
    "--json-pointer",
    "/api_key",
    "--form",
    "token",
    "--multipart",
    "token",
];

/// What is searched before it is sent.
const HELD: usize = 4096;

fn small(home: &Home, _: &Origin) {
    home.set("limits.body_slot: 4KiB");
}

/// The beginning of a body, with `{}` in the field, and what may follow it.
fn bodies(rest: &str) -> [(&'static str, String, String); 3] {
    let part = "--bnd\r\nContent-Disposition: form-data; name=";
    [
        (JSON, "{\"api_key\":\"{}\",\"n\":[1,".to_owned(), format!("\"{rest}\"],\"m\":{{}}}}")),
        (FORM, "a=1&token={}&file=".to_owned(), format!("{rest}%2f&b")),
        (
            PARTS,
            format!("{part}token\r\n\r\n{{}}\r\n{part}f; filename=f\r\n\r\n"),
            format!("{rest}\r\r\n--\r\n--bnd--\r\n"),
        ),
    ]
}

fn encoded(kind: &str, key: &str) -> String {
    match kind {
        JSON => key.replace('\\', "\\\\").replace('"', "\\\""),
        FORM => {
            let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._*".contains(&b);
            key.bytes()
                .map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") })
                .collect()
        }
        _ => key.to_owned(),
    }
}

/// How a request is framed.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Framing {
    Length,
    Chunks,
}

fn head(kind: &str, framing: Framing, length: usize) -> String {
    let framing = match framing {
        Framing::Length => format!("Content-Length: {length}"),
        Framing::Chunks => "Transfer-Encoding: chunked".to_owned(),
    };
    format!("POST /open/x HTTP/1.1\r\nHost: {HOST}\r\nContent-Type: {kind}\r\n{framing}\r\n\r\n")
}

fn framed(framing: Framing, piece: &str, last: bool) -> String {
    match framing {
        Framing::Length => piece.to_owned(),
        Framing::Chunks => {
            let end = if last { "0\r\n\r\n" } else { "" };
            format!("{:x}\r\n{piece}\r\n{end}", piece.len())
        }
    }
}

#[test]
fn the_field_enters_the_beginning_and_every_other_byte_streams_as_it_is() {
    // Longer than the connections' windows, so that it cannot all be somewhere.
    let rest = "The quick brown locum_fox. ".repeat(40_000);
    for two in [false, true] {
        for key in [canary(), thorny_canary()] {
            let origin = if two { Origin::http2(HOST) } else { Origin::start(HOST) };
            let world = World::before(origin, SLOTS, key, small);
            for (kind, start, end) in bodies(&rest) {
                let (sent, key) = (start.clone() + &end, encoded(kind, &world.key));
                let (sent, expected) =
                    (sent.replace("{}", "locum_main"), start.replace("{}", &key) + &end);
                // The empty object is not the place of the field.
                let sent = sent.replace("\"m\":locum_main", "\"m\":{}");
                for framing in [Framing::Length, Framing::Chunks] {
                    let answer = world
                        .tunnel()
                        .ask(head(kind, framing, sent.len()) + &framed(framing, &sent, true));
                    assert_eq!(answer.status, 200, "{kind} {framing:?}: {}", answer.text());
                    arrived(&world.origin.last(), &expected, framing, two);
                }
                for length in [None, Some(sent.len().to_string())] {
                    let mut fields = vec![("content-type", kind)];
                    fields.extend(length.as_deref().map(|length| ("content-length", length)));
                    let reply = runtime().block_on(async {
                        let agent = Http2::open(&world.serve, &world.agent).await;
                        agent.ask(request2("POST", "/open/x", &fields), sent.as_bytes()).await
                    });
                    assert_eq!(reply.status, 200, "{kind}: {}", reply.text());
                    let framing = if length.is_some() { Framing::Length } else { Framing::Chunks };
                    arrived(&world.origin.last(), &expected, framing, two);
                }
            }
            for record in world.home.accesses_to("/open/x") {
                assert_eq!(
                    (&record["credential"], &record["decision"]),
                    (&"main".into(), &"permit".into())
                );
            }
            world.never_leaks(&[]);
        }
    }
}

#[track_caller]
fn arrived(seen: &Seen, expected: &str, framing: Framing, two: bool) {
    assert!(seen.complete);
    assert_eq!(seen.length, expected.len() as u64);
    assert!(seen.body == expected.as_bytes(), "every byte but the field's");
    let length = (framing == Framing::Length).then(|| expected.len().to_string());
    assert_eq!(seen.header("content-length"), length.as_deref());
    let chunked = (framing == Framing::Chunks && !two).then_some("chunked");
    assert_eq!(seen.header("transfer-encoding"), chunked);
}

/// What may not come behind the beginning: how it goes on, with which code it is cut, and a word of why.
fn traps() -> Vec<(&'static str, String, &'static str, &'static str)> {
    let json = "{\"api_key\":\"locum_main\",\"x\":\"";
    let part = "--bnd\r\nContent-Disposition: form-data; name=";
    let parts = format!("{part}token\r\n\r\nlocum_main\r\n{part}x\r\n\r\n");
    let mut all = Vec::new();
    for (end, code, why) in [
        ("\",\"api_key\":\"mine\"}", "body-unreadable", "twice"),
        ("\",\"api\\u005fkey\":[1]}", "body-unreadable", "twice"),
        ("\",}", "body-unreadable", "said to be JSON"),
        ("\"", "body-unreadable", "said to be JSON"),
        ("\"}{}", "body-unreadable", "said to be JSON"),
        ("\",\"auth\":{\"key\":\"locum_main\"}}", "body-too-large", "before the file"),
        ("\",\"second\":\"locum_second\"}", "body-too-large", "before the file"),
        ("\",\"auth\":{\"key\":\"sk-locum_nobody\"}}", "body-too-large", "before the file"),
    ] {
        all.push((JSON, format!("{json}@{end}"), code, why));
    }
    for (end, code, why) in [
        ("&token=mine", "body-unreadable", "twice"),
        ("&t%6Fken", "body-unreadable", "twice"),
        ("&second=%6cocum_second", "body-too-large", "before the file"),
    ] {
        all.push((FORM, format!("token=locum_main&x=@{end}"), code, why));
    }
    for (end, code, why) in [
        (format!("\r\n{part}token\r\n\r\nmine\r\n--bnd--"), "body-unreadable", "twice"),
        (
            format!("\r\n{part}second\r\n\r\nlocum_second\r\n--bnd--"),
            "body-too-large",
            "before the file",
        ),
        ("\r\n--bndx\r\n\r\n\r\n--bnd--".to_owned(), "body-unreadable", "multipart"),
        ("\r\n--bnd--\r\n--bnd".to_owned(), "body-unreadable", "multipart"),
        ("\r\n--bnd\r\n".to_owned(), "body-unreadable", "multipart"),
    ] {
        all.push((PARTS, format!("{parts}@{end}"), code, why));
    }
    all
}

const MORE: &[&str] = &[
    "--to",
    "https://api.test",
    "--json-pointer",
    "/auth/key",
    "--json-pointer",
    "/second",
    "--form",
    "second",
    "--multipart",
    "second",
];

fn with_second(home: &Home, origin: &Origin) {
    small(home, origin);
    home.add("second", MORE, &canary());
}

#[test]
fn what_comes_too_late_to_be_decided_on_is_cut_and_said_so() {
    for two in [false, true] {
        let origin = if two { Origin::http2(HOST) } else { Origin::start(HOST) };
        let world = World::before(origin, SLOTS, canary(), with_second);
        for (kind, body, code, why) in traps() {
            let (start, end) = body.split_once('@').unwrap();
            let start = format!("{start}{}", "x".repeat(HELD + 1000));
            for framing in [Framing::Length, Framing::Chunks] {
                let mut wire = world.tunnel();
                let (before, filled) = (world.origin.seen().len(), filled(&world));
                wire.send(
                    head(kind, framing, start.len() + end.len()) + &framed(framing, &start, false),
                );
                // The beginning is there, with the key in it, before the rest is.
                until_filled(&world, filled + 1);
                let answer = wire.ask(framed(framing, end, true));
                assert_eq!(answer.problem(), code, "{body} {framing:?}: {}", answer.text());
                assert!(
                    answer.json()["detail"].as_str().unwrap().contains(why),
                    "{}",
                    answer.text()
                );
                broken_off(&world, before, code, &answer.json()["instance"]);
            }
        }
        world.never_leaks(&[]);
    }
}

#[test]
fn over_http2_the_rest_is_cut_all_the_same() {
    for two in [false, true] {
        let origin = if two { Origin::http2(HOST) } else { Origin::start(HOST) };
        let world = World::before(origin, SLOTS, canary(), with_second);
        for (kind, body, code, _) in traps() {
            let (start, end) = body.split_once('@').unwrap();
            let start = format!("{start}{}", "x".repeat(HELD + 1000));
            let (before, filled) = (world.origin.seen().len(), filled(&world));
            let reply = runtime().block_on(async {
                let agent = Http2::open(&world.serve, &world.agent).await;
                let head = request2("POST", "/open/x", &[("content-type", kind)]);
                let (answer, mut stream) = agent.begin(head).await;
                put(&mut stream, start.as_bytes(), false);
                tokio::task::block_in_place(|| until_filled(&world, filled + 1));
                put(&mut stream, end.as_bytes(), true);
                reply2(answer).await.unwrap()
            });
            assert_eq!(reply.problem(), code, "{body}: {}", reply.text());
            let problem: serde_json::Value = serde_json::from_str(&reply.text()).unwrap();
            broken_off(&world, before, code, &problem["instance"]);
        }
        world.never_leaks(&[]);
    }
}

/// How often the key has arrived.
fn filled(world: &World) -> usize {
    world.origin.raw().iter().map(|bytes| bytes.matches(&world.key).count()).sum()
}

/// The head of a request may be there, and what is to come with it on its way.
#[track_caller]
fn until_filled(world: &World, times: usize) {
    eventually("the beginning to arrive", PATIENCE, || (filled(world) >= times).then_some(()));
}

/// In frames that are shorter than the beginning.
fn put(stream: &mut SendStream<Bytes>, bytes: &[u8], last: bool) {
    for (number, piece) in bytes.chunks(1000).enumerate() {
        let last = last && (number + 1) * 1000 >= bytes.len();
        stream.send_data(Bytes::copy_from_slice(piece), last).unwrap();
    }
}

/// The last request did not come to its end at the origin, and the record says why.
#[track_caller]
fn broken_off(world: &World, before: usize, code: &str, id: &serde_json::Value) {
    let seen = eventually("the origin to see the cut", PATIENCE, || {
        // The bytes may be there, and the request not yet.
        let seen = world.origin.seen().split_off(before).into_iter().next()?;
        (seen.length > 0 && !seen.complete).then_some(seen)
    });
    assert!(seen.length < seen.header("content-length").map_or(u64::MAX, |n| n.parse().unwrap()));
    let text = String::from_utf8(seen.body).unwrap();
    assert_eq!(text.matches(&world.key).count(), 1, "the field was filled");
    assert!(!text.contains("mine") && !text.contains("locum_"), "{text}");
    let id = id.as_str().unwrap().rsplit(':').next().unwrap().to_owned();
    let outcome = eventually("the outcome", PATIENCE, || {
        let records = world.home.audit().into_iter();
        records.into_iter().find(|r| r["kind"] == "outcome" && r["request_id"] == *id)
    });
    assert_eq!((&outcome["ending"], &outcome["code"]), (&"failed".into(), &code.into()));
}

/// What is an alarm in a short body is one behind the beginning of a long one.
#[test]
fn a_key_that_is_moved_or_shown_behind_the_beginning_is_an_alarm() {
    let world = World::with(SLOTS, canary(), |home, origin| {
        small(home, origin);
        home.add("else", &["--to", "https://else.test", "--form", "other"], &canary());
    });
    let mut alarms = 0;
    for (end, code, moved) in [
        ("&other=locum_else".to_owned(), "body-too-large", true),
        ("&b=locum_else&other=1".to_owned(), "", false),
        (format!("&token={}", world.key), "body-unreadable", false),
    ] {
        let start = format!("token=locum_main&x={}", "x".repeat(HELD + 1000));
        let mut wire = world.tunnel();
        let filled = filled(&world);
        wire.send(head(FORM, Framing::Length, start.len() + end.len()) + &start);
        until_filled(&world, filled + 1);
        let answer = wire.ask(&end);
        let problem = if answer.status == 200 { String::new() } else { answer.problem() };
        assert_eq!(problem, code, "{end}");
        alarms += u64::from(moved);
        assert_eq!(world.serve.metric("locum_unbound_references_total"), alarms, "{end}");
    }
    // At the border itself, and of another credential that is bound here.
    let start = "token=locum_main&x=".to_owned() + &"x".repeat(HELD - 30) + "&other=locum_else";
    let more = "&y=1".repeat(100);
    let answer =
        world.ask("POST", "/open/x", &[&format!("Content-Type: {FORM}")], &(start + &more));
    assert_eq!(answer.status / 100, 4, "{}", answer.text());
    assert_eq!(world.serve.metric("locum_unbound_references_total"), alarms + 1);
}

#[test]
fn a_secret_behind_the_beginning_is_known_in_its_field() {
    let world = World::with(SLOTS, canary(), with_second);
    let start = format!("token=locum_main&x={}", "x".repeat(HELD + 1000));
    let end = format!("&second={}", world.key);
    let (mut wire, before) = (world.tunnel(), filled(&world));
    wire.send(head(FORM, Framing::Length, start.len() + end.len()) + &start);
    until_filled(&world, before + 1);
    let answer = wire.ask(&end);
    assert_eq!(answer.problem(), "real-credential", "{}", answer.text());
    assert_eq!(filled(&world), before + 1, "it did not follow");
}

#[test]
fn what_is_at_hand_already_is_refused_before_a_byte_goes_up() {
    let world = World::with(SLOTS, canary(), with_second);
    for (kind, body, code, _) in traps() {
        let body = body.replace('@', &"x".repeat(HELD));
        let fields = format!("Content-Type: {kind}");
        let answer = world.ask("POST", "/open/x", &[&fields], &body);
        assert_eq!(answer.problem(), code, "{body}");
    }
    assert!(!world.origin.raw().concat().contains("locum_"));
}

#[test]
fn a_rule_that_refuses_misplaced_references_cuts_them_and_others_count_them() {
    let world = World::with(SLOTS, canary(), |home, origin| {
        small(home, origin);
        let _value = home
            .locum(&["credential", "add", "bait", "--provider", "openai", "--honeytoken", "--json"])
            .ok();
        home.policy(
            "version: 1\nrules:\n\
             - {name: strict, agents: ['*'], to: ['https://api.test'], paths: ['/open/strict'], use: [main], misplaced: refuse}\n\
             - {name: lax, agents: ['*'], to: ['https://api.test'], paths: ['/open/x'], use: [main]}\n",
        );
    });
    let start = format!("{{\"api_key\":\"locum_main\",\"x\":\"{}", "x".repeat(HELD + 100));
    let end = "\",\"y\":\"see locum_main or locum_other\",\"z\":\"locum_\"}";
    for (path, expected) in [("/open/strict", "misplaced-reference"), ("/open/x", "")] {
        let mut wire = world.tunnel();
        let before = world.origin.seen().len();
        let head = head(JSON, Framing::Length, start.len() + end.len()).replace("/open/x", path);
        wire.send(head + &start);
        world.origin.until_seen(before + 1);
        let answer = wire.ask(end);
        let problem = if answer.status == 200 { String::new() } else { answer.problem() };
        assert_eq!(problem, expected, "{path}");
        assert_eq!(world.origin.seen()[before].complete, expected.is_empty());
    }
    let texts = eventually("the count", PATIENCE, || {
        let counted = world.serve.metric("locum_misplaced_references_total");
        (counted >= 3).then_some(counted)
    });
    assert_eq!(texts, 3, "one text before the cut, and two that passed");
    let recorded = eventually("the outcomes", PATIENCE, || {
        let outcomes = world.home.audit().into_iter().filter(|r| r["kind"] == "outcome");
        let counts: Vec<_> = outcomes.filter_map(|r| r["misplaced"].as_u64()).collect();
        (counts.len() >= 2).then_some(counts)
    });
    assert_eq!(recorded, [1, 2], "the outcome has what the access record came too early for");
    // In a text that is not over where the beginning is, too.
    let text =
        format!("{{\"api_key\":\"locum_main\",\"x\":\"locum_main {}\"}}", "x".repeat(2 * HELD));
    let before = world.origin.seen().len();
    let kind = format!("Content-Type: {JSON}");
    let answer = world.ask("POST", "/open/strict", &[&kind], &text);
    assert_eq!(answer.problem(), "misplaced-reference");
    assert_eq!(world.origin.seen().len(), before);
    // And who names a bait there has set off the alarm, for whatever else it is refused.
    let text = text.replace("\"locum_main ", "\"locum_bait ");
    let answer = world.ask("POST", "/open/strict", &[&kind], &text);
    assert_eq!(answer.problem(), "misplaced-reference");
    assert_eq!(world.serve.metric("locum_honeytokens_total"), 1);
}

#[test]
fn what_streams_is_sent_once() {
    let world = World::with(SLOTS, canary(), |home, origin| {
        small(home, origin);
        home.policy(
            "version: 1\nrules:\n\
             - {name: again, agents: ['*'], to: ['https://api.test'], use: [main], \
             retry: {attempts: 3, on: [503], idempotency_key: true}}\n",
        );
    });
    let body = |length: usize| format!("token=locum_main&x={}", "x".repeat(length));
    let kind = format!("Content-Type: {FORM}");
    for (length, times) in [(10, 3), (2 * HELD, 1)] {
        let before = world.origin.seen().len();
        let answer = world.ask("PUT", "/open/status/503", &[&kind], &body(length));
        assert_eq!(answer.status, 503);
        assert_eq!(world.origin.seen().len() - before, times, "{length}");
    }
}

/// More than any buffer on the way, and little enough for an unoptimised build.
const LARGE: usize = 48 * 1024 * 1024;

/// What a proxy may grow by while a large body passes, in KiB.
const GROWTH: u64 = 12 * 1024;

#[test]
fn a_large_upload_behind_a_field_passes_in_constant_memory() {
    let world = World::with(SLOTS, canary(), |_, _| {});
    assert_eq!(world.ask("GET", "/open/warm", &[], "").status, 200);
    for (kind, start, end) in bodies("") {
        let start = start.replace("{}", "locum_main") + if kind == JSON { "\"" } else { "" };
        let end = end.strip_prefix('"').unwrap_or(&end);
        let before = world.serve.resident();
        let mut wire = world.tunnel();
        wire.send(head(kind, Framing::Length, start.len() + LARGE + end.len()) + &start);
        let piece = b"x ".repeat(128 * 1024);
        let mut most = before;
        for _ in 0..LARGE / piece.len() {
            wire.send(&piece);
            most = most.max(world.serve.resident());
        }
        assert_eq!(wire.ask(end).status, 200, "{kind}");
        let seen = world.origin.last();
        let length = start.len() + LARGE + end.len() + world.key.len() - "locum_main".len();
        assert_eq!((seen.length, seen.complete), (length as u64, true));
        assert!(most < before + GROWTH, "{kind}: from {before} to {most} KiB");
    }
}

#[test]
fn a_question_to_a_person_shows_all_of_a_body_or_is_not_asked() {
    let world = World::with(SLOTS, canary(), |home, origin| {
        small(home, origin);
        home.policy(
            "version: 1\nrules:\n\
             - {name: asked, agents: ['*'], to: ['https://api.test'], use: [main], approval: required}\n",
        );
    });
    let body = format!("token=locum_main&x={}", "x".repeat(2 * HELD));
    let answer = world.ask("POST", "/open/x", &[&format!("Content-Type: {FORM}")], &body);
    assert_eq!((answer.status, &*answer.problem()), (413, "body-too-large"));
    assert_eq!(world.origin.connections(), 0);
}

#[test]
fn an_agent_that_stops_in_the_middle_is_told_so() {
    let world = World::with(SLOTS, canary(), |home, origin| {
        small(home, origin);
        home.set("upstream.timeouts: {idle: 1s}");
    });
    let mut wire = world.tunnel();
    wire.send(head(FORM, Framing::Length, 100_000));
    wire.send(format!("token=locum_main&x={}", "x".repeat(2 * HELD)));
    let answer = wire.answer_to("POST");
    assert_eq!(answer.problem(), "request-timeout");
    broken_off(&world, 0, "request-timeout", &answer.json()["instance"]);
}
