//! Streams: every event at once, no clock over the whole, and a cut that stays a cut.

use std::time::Duration;

use crate::support::*;

const CHUNKED: &str =
    "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";

fn chunk(data: &str) -> String {
    format!("{:x}\r\n{data}\r\n", data.len())
}

fn ask(path: &str) -> String {
    request("GET", path, &[AUTHORIZED, "Accept: text/event-stream"], "")
}

#[test]
fn each_event_is_there_before_the_next_is_sent() {
    let scene = Scene::new();
    let (mut near, mut far, head) = scene.begin(ask("/events"));
    assert!(head.contains(&scene.key), "the secret is injected, so that the answer is searched");
    far.send(CHUNKED);
    near.until("\r\n\r\n");
    // Some end in what a needle could begin with: the event's own end shows that it is none.
    let (start, most) = (&scene.key[..4], &scene.key[..scene.key.len() - 1]);
    for text in ["plain", "s", "sk-", start, most, "", "locum_main", "\r", "=", "+"] {
        let event = format!("data: {text}\n\n");
        far.send(chunk(&event));
        near.until(&event);
    }
    // However the event falls into chunks, it is whole once its last byte is sent.
    for at in 1..most.len() {
        let event = format!("data: {most}\n\n");
        let (one, two) = event.split_at(6 + at);
        far.send(chunk(one));
        far.send(chunk(two));
        near.until("\n\n");
    }
    far.send("0\r\n\r\n");
    near.until("0\r\n\r\n");
    assert_eq!(scene.ending("/events"), "complete");
}

#[test]
fn only_what_could_be_the_secret_waits_for_the_next_bytes() {
    let scene = Scene::new();
    let (mut near, mut far, _) = scene.begin(ask("/events"));
    far.send(CHUNKED);
    let (start, rest) = scene.key.split_at(12);
    far.send(chunk(&format!("data: before {start}")));
    near.until("data: before \r\n");
    assert!(near.is_silent(Duration::from_millis(50)), "the start of a secret is handed on");
    // It is none, and everything is there.
    far.send(chunk(" after\n\n"));
    near.until(" after\n\n\r\n");
    far.send(chunk(&format!("data: {start}")));
    near.until("data: \r\n");
    far.send(chunk(&format!("{rest}\n\n")));
    near.until("locum_main");
    far.send("0\r\n\r\n");
    near.until("0\r\n\r\n");
    let transcript = String::from_utf8_lossy(&near.transcript).into_owned();
    assert!(!transcript.contains(&scene.key) && transcript.contains(start), "{transcript}");
}

/// An agent that waits for a prompt, which ends with no line, sees all of it.
#[test]
fn a_stream_that_pauses_is_there_to_its_last_byte() {
    let scene = Scene::new();
    let (mut near, mut far, _) = scene.begin(ask("/prompt"));
    far.send(CHUNKED.replace("text/event-stream", "text/plain"));
    let few = (scene.key.len() / 8).min(3);
    assert!(few > 0, "the key is long enough for its first character to tell nothing");
    for length in 1..=few {
        let start = &scene.key[..length];
        far.send(chunk(&format!("choice {length} {start}")));
        near.until(&format!("choice {length} \r\n"));
        near.until(&format!("{start}\r\n"));
    }
    // It may go on with the key even so, of which then no more is shown.
    far.send(chunk(&scene.key[few..]));
    near.until("locum_main\r\n");
    // More of it than that waits, however long.
    let (start, rest) = scene.key.split_at(few + 5);
    far.send(chunk(&format!("so {start}")));
    near.until("so \r\n");
    assert!(near.is_silent(Duration::from_millis(1500)), "the start of a secret is handed on");
    far.send(chunk(rest));
    near.until("locum_main\r\n");
    far.send("0\r\n\r\n");
    near.until("0\r\n\r\n");
    let transcript = String::from_utf8_lossy(&near.transcript).into_owned();
    assert!(!transcript.contains(&scene.key[few..]), "{transcript}");
    assert_eq!(scene.ending("/prompt"), "complete");
}

#[test]
fn events_of_any_framing_arrive_one_by_one() {
    let events: Vec<String> = (0..5).map(|i| format!("data: {i}\n\n")).collect();
    let length = events.concat().len();
    let head = "Content-Type: text/event-stream; charset=utf-8\r\n";
    for (name, head) in [
        ("a known length", format!("HTTP/1.1 200 OK\r\n{head}Content-Length: {length}\r\n\r\n")),
        ("until closed", format!("HTTP/1.1 200 OK\r\n{head}Connection: close\r\n\r\n")),
        ("HTTP/1.0", format!("HTTP/1.0 200 OK\r\n{head}\r\n")),
    ] {
        let scene = Scene::new();
        let (mut near, mut far, _) = scene.begin(ask("/events"));
        far.send(head);
        for event in &events {
            far.send(event);
            near.until(event);
        }
        far.finish();
        assert_eq!(scene.ending("/events"), "complete", "{name}");
    }
}

#[test]
fn the_first_event_may_come_late_and_the_head_at_once() {
    let scene = Scene::new();
    let (mut near, mut far, _) = scene.begin(ask("/poll"));
    // Some clients give up on a head and not on a body.
    far.send(CHUNKED);
    assert!(near.until("\r\n\r\n").starts_with("HTTP/1.1 200 "));
    far.send(chunk("data: late\n\n"));
    near.until("data: late\n\n");
    // Comments keep a stream alive, and are the origin's to send.
    far.send(chunk(": ping\n\n"));
    near.until(": ping\n\n");
}

#[test]
fn a_rule_says_how_long_an_origin_may_think() {
    let scene = Scene::with(|home| {
        home.set("upstream.timeouts: {response: 400ms}");
        home.policy(
            "version: 1\nrules:\n\
             - {name: slow, agents: ['*'], use: [main], paths: [/slow], timeouts: {response: 1m}}\n\
             - {name: quick, agents: ['*'], use: [main], paths: [/quick], timeouts: {response: 40ms}}\n\
             - {name: others, agents: ['*'], use: [main]}\n",
        );
    });
    let (mut slow, mut far, _) = scene.begin(ask("/slow"));
    // Both give up while the slow one waits: the quick rule and the others at their own times.
    let (mut others, _held, _) = scene.begin(ask("/others"));
    let (mut quick, _also, _) = scene.begin(ask("/quick"));
    for wire in [&mut quick, &mut others] {
        let answer = wire.answer();
        assert_eq!((answer.status, &*answer.problem()), (504, "response-timeout"));
    }
    far.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    assert_eq!(slow.answer().text(), "ok");
    assert_eq!(scene.ending("/quick"), "failed");
}

#[test]
fn a_rule_says_how_long_a_stream_may_say_nothing() {
    let scene = Scene::with(|home| {
        home.set("upstream.timeouts: {idle: 400ms}");
        home.policy(
            "version: 1\nrules:\n\
             - {name: long, agents: ['*'], use: [main], paths: [/long], timeouts: {idle: 1m}}\n\
             - {name: short, agents: ['*'], use: [main], paths: [/short], timeouts: {idle: 40ms}}\n\
             - {name: others, agents: ['*'], use: [main]}\n",
        );
    });
    let begin = |path| {
        let (mut near, mut far, _) = scene.begin(ask(path));
        far.send(CHUNKED.to_owned() + &chunk("data: 1\n\n"));
        near.until("data: 1\n\n");
        (near, far)
    };
    let (mut long, mut far) = begin("/long");
    for path in ["/others", "/short"] {
        let (mut near, _held) = begin(path);
        let rest = near.until_closed();
        assert!(!rest.ends_with(b"0\r\n\r\n"), "{path}: it ended as if whole");
        assert_eq!(scene.ending(path), "upstream-aborted");
    }
    far.send(chunk("data: 2\n\n") + "0\r\n\r\n");
    long.until("data: 2\n\n\r\n0\r\n\r\n");
}

/// How an origin goes.
#[derive(Clone, Copy, Debug, PartialEq)]
enum End {
    /// TLS's goodbye, then TCP's.
    Goodbye,
    /// TCP's alone.
    Fin,
    /// A reset.
    Reset,
}

#[test]
fn a_cut_at_any_byte_is_a_cut_for_the_agent() {
    let scene = Scene::new();
    let whole = [
        ("length", "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nnine byte", true),
        (
            "chunked",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nfour\r\n3;x=y\r\nmor\r\n0\r\nx-t: 1\r\n\r\n",
            true,
        ),
        ("until closed", "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nall of it", false),
        ("HTTP/1.0", "HTTP/1.0 200 OK\r\n\r\nall of it", false),
    ];
    for (name, answer, framed) in whole {
        let head = answer.find("\r\n\r\n").unwrap() + 4;
        for end in [End::Goodbye, End::Fin, End::Reset] {
            for at in 0..=answer.len() {
                let (mut near, mut far, _) = scene.begin(request("GET", "/cut", &[AUTHORIZED], ""));
                far.send(&answer[..at]);
                match end {
                    End::Goodbye => {
                        far.finish();
                        drop(far);
                    }
                    End::Fin => far.cut(),
                    End::Reset => far.reset(),
                }
                let got = near.try_answer("GET");
                // A framed answer is whole when its last byte is there; another when TLS says so.
                let complete =
                    if framed { at == answer.len() } else { at >= head && end == End::Goodbye };
                let about = format!("{name}, {at} of {}, {end:?}: {got:?}", answer.len());
                match got {
                    Ok(answer) if answer.status == 200 => assert!(complete, "{about}"),
                    Ok(answer) => {
                        assert_eq!(answer.problem(), "upstream-failed", "{about}");
                        assert!(!complete, "{about}");
                    }
                    Err(_) => assert!(!complete, "{about}"),
                }
            }
        }
    }
}

/// The end of a connection, as one who reads on sees it.
fn end_of(near: &mut Wire) -> Result<(), std::io::ErrorKind> {
    near.try_until_end().map(|_| ()).map_err(|error| error.kind())
}

#[test]
fn a_cut_is_a_reset_for_an_agent_of_http_1_0() {
    let scene = Scene::new();
    // It has no chunks: the end of the connection is the answer's. TLS could tell it the end from a cut,
    // but Python's does not unless it is asked to.
    let get = request("GET", "/cut", &[AUTHORIZED], "").replacen("HTTP/1.1", "HTTP/1.0", 1);
    for (rest, end) in [("0\r\n\r\n", Ok(())), ("", Err(std::io::ErrorKind::ConnectionReset))] {
        let (mut near, mut far, _) = scene.begin(&get);
        far.send(CHUNKED.to_owned() + &chunk("data: 1\n\n") + rest);
        near.until("data: 1\n\n");
        far.cut();
        assert_eq!(end_of(&mut near), end);
    }
}

#[test]
fn a_cut_in_the_clear_is_a_reset_for_an_agent_of_http_1_0() {
    let peer = Peer::clear("plain.test");
    let home = Home::new();
    home.reach_as("plain.test", peer.address, None);
    let worker = home.agent("worker");
    home.set("upstream.timeouts: {idle: 300ms}");
    home.policy("version: 1\nrules:\n  - {name: all, agents: ['*'], to: ['http://plain.test']}\n");
    let serve = home.serve();
    let fields = format!("Host: plain.test\r\nProxy-Authorization: {}", worker.authorization());
    let reset = Err(std::io::ErrorKind::ConnectionReset);
    for (rest, cuts, end) in [("0\r\n\r\n", true, Ok(())), ("", true, reset), ("", false, reset)] {
        let mut near = Wire::plain(serve.proxy);
        near.send(format!("GET http://plain.test/cut HTTP/1.0\r\n{fields}\r\n\r\n"));
        let (mut far, _) = peer.request();
        far.send(CHUNKED.to_owned() + &chunk("data: 1\n\n") + rest);
        near.until("data: 1\n\n");
        // Or it says nothing for too long.
        let _held = if cuts {
            far.cut();
            None
        } else {
            Some(far)
        };
        assert_eq!(end_of(&mut near), end);
    }
    // Where nothing is cut, the connection ends in order, without a body too.
    for method in ["HEAD", "GET"] {
        let mut near = Wire::plain(serve.proxy);
        near.send(format!("{method} http://plain.test/ HTTP/1.0\r\n{fields}\r\n\r\n"));
        let (mut far, _) = peer.request();
        let body = if method == "GET" { "four" } else { "" };
        far.send(format!("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n{body}"));
        assert_eq!(end_of(&mut near), Ok(()), "{method}");
    }
}

/// What waits for the agent to open its window is as much the agent's as what is on its way.
#[test]
fn what_came_before_a_cut_waits_for_a_window_that_opens_late() {
    // A little more than the window, so that its last piece is begun and waits.
    let text = "x".repeat(65_600);
    let head = "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n";
    let script = vec![Script::Read, Script::Send(format!("{head}{text}").into_bytes())];
    let origin = Origin::scripted(HOST, script);
    let world = World::before(origin, BEARER, canary(), |_, _| {});
    let (came, broken) = runtime().block_on(async {
        let agent = Http2::open(&world.serve, &world.agent).await;
        let asked = request2("GET", "/cut", &[("authorization", "Bearer locum_main")]);
        let mut send = agent.send.clone().ready().await.unwrap();
        let (answer, _) = send.send_request(asked, true).unwrap();
        let (mut stream, mut came) = (answer.await.unwrap().into_body(), 0);
        loop {
            match stream.data().await {
                Some(Ok(data)) => {
                    came += data.len();
                    // Longer than any round trip, once the window is used up.
                    if came == 65_535 {
                        tokio::time::sleep(Duration::from_millis(1500)).await;
                        stream.flow_control().release_capacity(came).unwrap();
                    }
                }
                Some(Err(error)) => break (came, Some(error)),
                None => break (came, None),
            }
        }
    });
    assert_eq!((came, broken.is_some()), (text.len(), true), "{broken:?}");
}

/// Servers that close a connection without TLS's goodbye lose nothing of what they said before, and
/// nobody takes it for whole.
#[test]
fn what_came_before_a_cut_arrives_and_the_cut_stays_a_cut() {
    let head = "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n";
    let long = "x".repeat(200_000);
    for text in ["hello world", &long] {
        for version in ["HTTP/1.1", "HTTP/2"] {
            let script = vec![Script::Read, Script::Send(format!("{head}{text}").into_bytes())];
            let origin = Origin::scripted(HOST, script);
            let world = World::before(origin, BEARER, canary(), |_, _| {});
            let (body, whole) = if version == "HTTP/2" {
                runtime().block_on(async {
                    let agent = Http2::open(&world.serve, &world.agent).await;
                    let asked = request2("GET", "/cut", &[("authorization", "Bearer locum_main")]);
                    let reply = agent.ask(asked, b"").await;
                    (reply.body, reply.broken.is_none())
                })
            } else {
                let mut wire = world.tunnel();
                wire.send(request("GET", "/cut", &[AUTHORIZED], ""));
                match wire.try_answer("GET") {
                    Ok(answer) => (answer.body, true),
                    Err(broken) => (broken.body, false),
                }
            };
            let came = String::from_utf8_lossy(&body);
            assert_eq!((came.len(), whole), (text.len(), false), "{version}: {came:.80}");
            assert_eq!(came, text, "{version}");
        }
    }
}
