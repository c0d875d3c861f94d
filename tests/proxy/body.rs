//! Bodies both ways: streamed, counted, and whole or visibly broken.

use std::time::{Duration, Instant};

use crate::support::*;
use crate::upstream::sockets;

#[test]
fn answers_without_a_body_leave_the_connection_in_step() {
    let world = World::new();
    let mut wire = world.tunnel();
    for (method, target, status) in [
        ("HEAD", "/echo", 200),
        ("HEAD", "/bytes/5000", 200),
        ("GET", "/status/204", 204),
        ("GET", "/status/304", 304),
        ("DELETE", "/status/204", 204),
        ("OPTIONS", "/status/200", 200),
        ("GET", "/status/404", 404),
        ("GET", "/status/500", 500),
        ("GET", "/echo/raw", 200),
    ] {
        let answer = wire.ask(request(method, target, &[AUTHORIZED], ""));
        assert_eq!(answer.status, status, "{method} {target}");
    }
    let head = wire.ask(request("HEAD", "/bytes/5000", &[AUTHORIZED], ""));
    assert_eq!(head.header("content-length"), Some("5000"));
    let seen = world.origin.seen();
    assert_eq!(seen.len(), 10);
    assert_eq!(world.origin.connections(), 1, "one connection upstream served them all");
}

/// More than any buffer on the way, and little enough for an unoptimised build.
const LARGE: usize = 48 * 1024 * 1024;

/// What a proxy may grow by while a large body passes, in KiB.
const GROWTH: u64 = 12 * 1024;

#[test]
fn a_large_upload_passes_in_constant_memory() {
    let world = World::new();
    assert_eq!(world.get("/warm").status, 200);
    let before = world.serve.resident();
    let mut wire = world.tunnel();
    wire.send(format!(
        "POST /v1/x HTTP/1.1\r\nHost: {HOST}\r\n{AUTHORIZED}\r\nContent-Length: {LARGE}\r\n\r\n"
    ));
    let piece = vec![b'x'; 256 * 1024];
    let mut most = before;
    for _ in 0..LARGE / piece.len() {
        wire.send(&piece);
        most = most.max(world.serve.resident());
    }
    assert_eq!(wire.answer_to("POST").status, 200);
    let seen = world.origin.last();
    assert_eq!((seen.length, seen.complete), (LARGE as u64, true));
    assert!(most < before + GROWTH, "from {before} to {most} KiB");
}

#[test]
fn a_large_download_passes_in_constant_memory() {
    let world = World::new();
    assert_eq!(world.get("/warm").status, 200);
    let before = world.serve.resident();
    let mut wire = world.tunnel();
    wire.send(request("GET", &format!("/bytes/{LARGE}"), &[AUTHORIZED], ""));
    let head = wire.until("\r\n\r\n");
    assert!(head.contains(&format!("{LARGE}")), "{head}");
    wire.transcript = Vec::new();
    let mut most = before;
    let mut left = LARGE - wire.taken_ahead();
    let mut buffer = vec![0; 256 * 1024];
    while left > 0 {
        let n = wire.read(&mut buffer).unwrap();
        let meant = DOWNLOADED.iter().cycle().skip((LARGE - left) % DOWNLOADED.len());
        assert!(n > 0 && buffer[..n].iter().eq(meant.take(n)));
        wire.transcript.clear();
        left -= n;
        most = most.max(world.serve.resident());
    }
    assert!(most < before + GROWTH, "from {before} to {most} KiB");
}

#[test]
fn an_agent_that_reads_slowly_holds_the_origin_back() {
    let world = World::new();
    assert_eq!(world.get("/warm").status, 200);
    let before = world.serve.resident();
    let mut wire = world.tunnel();
    wire.send(request("GET", &format!("/bytes/{LARGE}"), &[AUTHORIZED], ""));
    wire.until("\r\n\r\n");
    // Nothing is read; what is on its way settles in the kernels' buffers and in ours.
    let mut last = (0, Instant::now());
    eventually("memory to settle", PATIENCE, || {
        let now = world.serve.resident();
        if now != last.0 {
            last = (now, Instant::now());
        }
        (last.1.elapsed() > Duration::from_millis(300)).then_some(())
    });
    assert!(last.0 < before + GROWTH, "from {before} to {} KiB", last.0);
}

#[test]
fn an_answer_that_was_cut_is_no_whole_answer() {
    let world = World::new();
    for target in ["/abort", "/abort-chunked"] {
        let mut wire = world.tunnel();
        wire.send(request("GET", target, &[AUTHORIZED], ""));
        // A short body of known length is gathered first: its break is told by a 502.
        match wire.try_answer("GET") {
            Err(broken) => {
                let text = String::from_utf8_lossy(&broken.body).into_owned();
                assert!("the first half".starts_with(&text), "{target}: {text}");
            }
            Ok(answer) => assert_eq!(answer.problem(), "upstream-failed", "{target}"),
        }
        let access = world.home.accesses_to(target).remove(0);
        let records = world.home.records_of(access["request_id"].as_str().unwrap(), 2);
        let ending = records[1]["ending"].as_str().unwrap();
        assert!(ending == "upstream-aborted" || ending == "failed", "{target}: {ending}");
    }
    let failed = world.serve.metric("locum_requests_total{agent=\"worker\",result=\"failed\"}");
    assert_eq!(failed, 2);
}

#[test]
fn an_answer_cut_in_other_ways_is_no_whole_answer_either() {
    for (name, bytes, end) in [
        ("a length not reached", "HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\nhalf", true),
        (
            "no last chunk",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
            true,
        ),
        ("within a chunk", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nff\r\nhalf", true),
        // Where only the connection's end says so, an end without TLS's own word is a cut.
        ("until closed", "HTTP/1.1 200 OK\r\n\r\nhalf", false),
    ] {
        let home = Home::new();
        let mut script = vec![Script::Read, Script::Send(bytes.as_bytes().to_vec())];
        script.extend(end.then_some(Script::Goodbye));
        let origin = Origin::scripted(HOST, script);
        home.reach(&origin);
        home.add("main", BEARER, &canary());
        let agent = home.agent("worker");
        let serve = home.serve();
        let mut wire = serve.tunnel(&agent, HOST);
        wire.send(request("GET", "/cut", &[AUTHORIZED], ""));
        let answer = wire.try_answer("GET");
        assert!(answer.is_err(), "{name}: {answer:?}");
        let access = home.accesses_to("/cut").remove(0);
        let records = home.records_of(access["request_id"].as_str().unwrap(), 2);
        assert_eq!(records[1]["ending"], "upstream-aborted", "{name}");
    }
}

#[test]
fn an_answer_that_ends_with_its_connection_is_whole() {
    let home = Home::new();
    let answer = b"HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\n\r\nall of it".to_vec();
    let script = vec![Script::Read, Script::Send(answer), Script::Goodbye];
    let origin = Origin::scripted(HOST, script);
    home.reach(&origin);
    home.add("main", BEARER, &canary());
    let agent = home.agent("worker");
    let serve = home.serve();
    let mut wire = serve.tunnel(&agent, HOST);
    assert_eq!(wire.ask(request("GET", "/", &[AUTHORIZED], "")).text(), "all of it");
    assert_eq!(wire.ask(request("GET", "/", &[AUTHORIZED], "")).text(), "all of it");
}

#[test]
fn an_agent_that_goes_away_ends_the_call() {
    let world = World::new();
    world.origin.hold();
    let mut wire = world.tunnel();
    wire.send(request("GET", "/events/1000", &[AUTHORIZED], ""));
    wire.until("data: 0\n\n");
    drop(wire);
    let access = world.home.accesses_to("/events/1000").remove(0);
    let records = world.home.records_of(access["request_id"].as_str().unwrap(), 2);
    assert_eq!(records[1]["ending"], "downstream-aborted");
}

#[test]
fn events_arrive_one_by_one() {
    let world = World::new();
    world.origin.hold();
    let mut wire = world.tunnel();
    wire.send(request("GET", "/events/5", &[AUTHORIZED, "Accept: text/event-stream"], ""));
    for i in 0..5 {
        wire.until(&format!("data: {i}\n\n\r\n"));
        // Nothing more can come: the origin waits.
        assert!(i == 4 || wire.is_silent(Duration::from_millis(20)));
        world.origin.release();
    }
    wire.until("0\r\n\r\n");
    assert_eq!(wire.ask(request("GET", "/v1/models", &[AUTHORIZED], "")).status, 200);
}

#[test]
fn an_answer_may_come_before_the_request_has_ended() {
    let world = World::new();
    let mut wire = world.tunnel();
    wire.send(format!(
        "POST /early HTTP/1.1\r\nHost: {HOST}\r\n{AUTHORIZED}\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"
    ));
    let answer = wire.answer_to("POST");
    assert_eq!((answer.status, answer.text().as_str()), (200, "early"));
}

#[test]
fn whoever_asks_before_sending_is_told_to_go_on() {
    let world = World::new();
    let mut wire = world.tunnel();
    let start = Instant::now();
    wire.send(format!(
        "POST /v1/x HTTP/1.1\r\nHost: {HOST}\r\n{AUTHORIZED}\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n"
    ));
    assert!(wire.until("\r\n\r\n").starts_with("HTTP/1.1 100 "));
    assert!(start.elapsed() < Duration::from_secs(1), "curl waits one second, then sends anyway");
    wire.send("12345");
    assert_eq!(wire.answer_to("POST").status, 200);
    assert_eq!(world.origin.last().body, b"12345");
}

#[test]
fn a_hundred_agents_that_do_not_read_take_little_memory() {
    /// What one may hold, in KiB: the buffers of two TLS connections, 64 KiB of hyper's on each side.
    const EACH: u64 = 320;
    const MANY: u64 = 100;
    let world = World::with(BEARER, canary(), |home, _| home.set("log.level: info"));
    assert_eq!(world.get("/warm").status, 200);
    let before = world.serve.resident();
    let mut wires: Vec<Wire> = (0..MANY).map(|_| world.tunnel()).collect();
    for wire in &mut wires {
        wire.send(request("GET", "/bytes/1073741824", &[AUTHORIZED], ""));
        wire.until("\r\n\r\n");
    }
    let settled = eventually("memory to settle", PATIENCE, || {
        let now = world.serve.resident();
        std::thread::sleep(Duration::from_millis(500));
        (world.serve.resident() <= now).then_some(now)
    });
    let each = (settled - before) / MANY;
    assert!(each < EACH, "{each} KiB each");
    // Nor does the kernel take megabytes for each.
    let (proxy, sockets) = (world.serve.proxy.port(), sockets());
    let unsent = sockets.iter().filter(|socket| socket.local == proxy).map(|socket| socket.unsent);
    let unsent: Vec<u64> = unsent.filter(|unsent| *unsent > 0).collect();
    assert_eq!(unsent.len() as u64, MANY);
    assert!(unsent.iter().all(|unsent| *unsent < 300 * 1024), "{unsent:?}");
}

/// What follows a body is read by many servers as if it stood in the head.
#[test]
fn behind_a_body_nothing_goes_on_that_belongs_to_a_head() {
    let slots = [BEARER, &["--header", "X-Key: {secret}"]].concat();
    let world = World::with(&slots, canary(), |_, _| {});
    let names =
        "Host, Content-Length, Authorization, X-Key, Cookie, X-Http-Method-Override, X-Checksum";
    let fields = [AUTHORIZED, "Transfer-Encoding: chunked", &format!("Trailer: {names}")];
    let trailers: String = names.split(", ").map(|name| format!("{name}: 1\r\n")).collect();
    let head = request("POST", "/echo", &fields, "");
    let answer = world.tunnel().ask(format!("{head}2\r\nhi\r\n0\r\n{trailers}\r\n"));
    assert_eq!(answer.status, 200, "{}", answer.text());
    let raw = world.origin.last_raw();
    let (_, behind) = raw.split_once("\r\n0\r\n").expect("the last chunk");
    assert_eq!(behind.to_ascii_lowercase(), "x-checksum: 1\r\n\r\n", "{raw}");
}

/// What follows a body is looked at as its head is, whatever is taken out of it.
#[test]
fn references_behind_a_body_count_as_those_in_a_head_do() {
    const RULES: &str = "version: 1
rules:
  - {name: strict, agents: ['*'], use: ['*'], paths: [/open/strict], misplaced: refuse}
  - {name: open, agents: ['*'], use: ['*'], paths: [/echo]}
";
    let world = World::with(BEARER, canary(), |home, _| {
        let elsewhere = ["--to", "https://else.test", "--header", "X-Else: {secret}"];
        home.add("elsewhere", &elsewhere, &canary());
        home.locum(&["credential", "add", "bait", "--provider", "openai", "--honeytoken"]).ok();
        home.policy(RULES);
    });
    let post = |target: &str, trailer: &str| {
        let fields = [AUTHORIZED, "Transfer-Encoding: chunked"];
        let head = request("POST", target, &fields, "");
        world.tunnel().ask(format!("{head}2\r\nhi\r\n0\r\n{trailer}\r\n\r\n"))
    };
    let counts = || {
        ["misplaced", "unbound", "honeytoken"].map(|what| {
            world.serve.metric(match what {
                "misplaced" => "locum_misplaced_references_total",
                "unbound" => "locum_unbound_references_total",
                _ => "locum_honeytokens_total",
            })
        })
    };
    for (trailer, raised) in [
        ("X-Sum: 1", [0, 0, 0]),
        ("X-Sum: locum_main", [1, 0, 0]),
        ("X-Sum: a locum_elsewhere", [1, 1, 0]),
        ("Authorization: Bearer locum_elsewhere", [1, 1, 0]),
        ("X-Sum: locum_bait", [1, 1, 1]),
    ] {
        let before = counts();
        let answer = post("/echo", trailer);
        assert_eq!(answer.status, 200, "{trailer}: {}", answer.text());
        let expected: Vec<_> = before.iter().zip(raised).map(|(b, r)| b + r).collect();
        eventually(trailer, PATIENCE, || (counts().to_vec() == expected).then_some(()));
        let answer = post("/open/strict", trailer);
        if raised[0] == 0 {
            assert_eq!(answer.status, 200, "{trailer}: {}", answer.text());
        } else {
            assert_eq!(answer.problem(), "misplaced-reference", "{trailer}");
        }
        let expected: Vec<_> = before.iter().zip(raised).map(|(b, r)| b + 2 * r).collect();
        eventually(trailer, PATIENCE, || (counts().to_vec() == expected).then_some(()));
    }
}

/// A body of unknown length goes on with every method, to the byte.
#[test]
fn bodies_in_chunks_reach_the_origin_with_methods_that_rarely_have_one() {
    let world = World::new();
    for method in ["GET", "HEAD", "DELETE", "OPTIONS", "POST"] {
        let fields = [AUTHORIZED, "Transfer-Encoding: chunked"];
        let head = request(method, "/echo", &fields, "");
        let mut wire = world.tunnel();
        wire.send(format!("{head}5\r\nhello\r\n0\r\n\r\n"));
        let answer = wire.answer_to(method);
        assert_eq!(answer.status, 200, "{method}: {}", answer.text());
        let raw = world.origin.last_raw();
        let sent = raw.split("\r\n\r\n").last().map(|_| raw.contains("5\r\nhello\r\n0\r\n\r\n"));
        assert_eq!(sent, Some(true), "{method}: {raw}");
        assert_eq!(world.origin.last().body, b"hello", "{method}");
    }
    // And without a body there is none.
    assert_eq!(world.ask("GET", "/echo", &[AUTHORIZED], "").status, 200);
    assert!(world.origin.last().header("transfer-encoding").is_none());
}
