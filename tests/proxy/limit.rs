//! What one client can take, and that the others do not notice.

use std::time::Duration;

use rustix::process::{Pid, Resource, Rlimit, prlimit};

use crate::support::*;

#[test]
fn whoever_is_slow_is_let_go_of_and_the_others_are_served() {
    let world = World::with(BEARER, canary(), |home, _| {
        for limit in ["head_time", "handshake", "idle_tunnel"] {
            home.set(&format!("limits.{limit}: 500ms"));
        }
    });
    let open = || world.serve.open_tunnel(&world.agent, "api.test:443");
    let after = |mut wire: Wire, bytes: &[u8]| {
        wire.send(bytes);
        wire
    };
    let slow = [
        ("nothing", world.serve.wire()),
        ("half a CONNECT", after(world.serve.wire(), b"CONNECT api.test:443 HTTP/1.1\r\nHost: a")),
        ("no handshake", open()),
        ("half a handshake", after(open(), b"\x16\x03\x01\x02\x00\x01\x00")),
        ("no request", world.tunnel()),
        ("half a request", after(world.tunnel(), b"GET / HTTP/1.1\r\nHost: api.t")),
    ];
    assert_eq!(world.get("/v1/x").status, 200);
    for (name, mut wire) in slow {
        let rest = wire.until_closed();
        let said = String::from_utf8_lossy(&rest);
        assert!(said.is_empty() || said.starts_with("HTTP/1.1 4"), "{name}: {said}");
    }
    eventually("all tunnels to end", PATIENCE, || {
        (world.serve.metric("locum_tunnels_open{kind=\"intercepted\"}") == 0).then_some(())
    });
    // An answer that takes longer than a tunnel may be idle is no idle tunnel.
    world.origin.hold();
    let mut wire = world.tunnel();
    wire.send(request("GET", "/hold", &[AUTHORIZED], ""));
    world.origin.until_seen(2);
    std::thread::sleep(Duration::from_millis(1200));
    world.origin.release();
    assert_eq!(wire.answer().text(), "held");
}

#[test]
fn an_agent_has_so_many_tunnels_and_no_more() {
    let world =
        World::with(BEARER, canary(), |home, _| home.set("limits.connections_per_agent: 3"));
    let other = world.home.agent("other");
    let mut tunnels: Vec<Wire> = (0..3).map(|_| world.tunnel()).collect();
    let more = || world.serve.wire().ask(connect("api.test:443", &world.agent.authorization()));
    let answer = more();
    assert_eq!((answer.status, &*answer.problem()), (503, "overloaded"));
    // Neither those that are open, nor other agents, have less for it.
    for wire in &mut tunnels {
        assert_eq!(wire.ask(request("GET", "/v1/x", &[AUTHORIZED], "")).status, 200);
    }
    let mut wire = world.serve.tunnel(&other, HOST);
    assert_eq!(wire.ask(request("GET", "/v1/x", &[AUTHORIZED], "")).status, 200);
    tunnels.pop();
    eventually("room for one more", PATIENCE, || (more().status == 200).then_some(()));
}

/// A connection is an agent's from its first request to its end, also without a tunnel.
#[test]
fn an_agent_has_so_many_connections_without_a_tunnel_too() {
    let world =
        World::with(BEARER, canary(), |home, _| home.set("limits.connections_per_agent: 3"));
    let other = world.home.agent("other");
    let absolute = |agent: &Agent| {
        let authorization = agent.authorization();
        format!(
            "GET http://api.test/v1/x HTTP/1.1\r\nHost: api.test\r\nProxy-Authorization: {authorization}\r\n\r\n"
        )
    };
    let mut wires: Vec<Wire> = (0..3).map(|_| world.serve.wire()).collect();
    for wire in wires.iter_mut().flat_map(|wire| [0, 1].map(|_| wire.ask(absolute(&world.agent)))) {
        // Nothing is there, which is a matter of its own.
        assert_ne!(wire.problem(), "overloaded");
    }
    let mut fourth = world.serve.wire();
    for _ in 0..2 {
        let answer = fourth.ask(absolute(&world.agent));
        assert_eq!((answer.status, &*answer.problem()), (503, "overloaded"));
    }
    let connect = connect("api.test:443", &world.agent.authorization());
    assert_eq!(fourth.ask(&connect).problem(), "overloaded");
    assert_ne!(fourth.ask(absolute(&other)).problem(), "overloaded");
    assert_eq!(fourth.ask(absolute(&world.agent)).problem(), "overloaded");
    // Who has a place has it for a tunnel as well.
    assert_eq!(wires[0].ask(&connect).status, 200);
    wires.pop();
    eventually("room for one more", PATIENCE, || {
        (world.serve.wire().ask(&connect).status == 200).then_some(())
    });
    let records = world.home.audit_now();
    let refused = records.iter().filter(|record| record["code"] == "overloaded");
    assert!(refused.count() >= 4);
}

/// Whoever reaches the port can open connections and say nothing. Each has a second; then it makes room.
#[test]
fn connections_that_do_not_say_whose_they_are_make_room() {
    let world = World::with(BEARER, canary(), |home, _| home.set("limits.connections: 4"));
    let mut tunnel = world.tunnel();
    let mut said = String::from("CONNECT api.test:443 HTTP/1.1\r\nHost: api.test:443\r\n");
    // What the kernel has, and we not yet, would come in behind those that it was there before.
    let come = |place: u64| {
        let wire = world.serve.wire();
        eventually("its place", PATIENCE, || {
            (world.serve.metric("locum_connections_open") == place).then_some(())
        });
        wire
    };
    let (silent, mut half) = (come(2), come(3));
    half.send(&said);
    let mut unknown = come(4);
    said.push_str("Proxy-Authorization: Bearer nobody\r\n\r\n");
    assert_eq!(unknown.ask(&said).status, 407);
    let begun = std::time::Instant::now();
    let mut open = vec![];
    for (name, mut gone) in [("silent", silent), ("half", half), ("unknown", unknown)] {
        let wire = world.tunnel();
        assert_eq!(gone.until_closed(), b"", "{name}");
        assert!(gone.try_send(b"x").is_err() || gone.until_closed().is_empty(), "{name}");
        open.push(wire);
    }
    // Long before the time for a head, which is what ends them where there is room.
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    assert_eq!(world.serve.metric("locum_connections_dismissed_total"), 3);
    // Who has said who it is stays.
    for wire in open.iter_mut().chain([&mut tunnel]) {
        assert_eq!(wire.ask(request("GET", "/v1/x", &[AUTHORIZED], "")).status, 200);
    }
    let mut fifth = world.serve.wire();
    fifth.send(connect("api.test:443", &world.agent.authorization()));
    assert!(fifth.is_silent(Duration::from_secs(2)));
    drop(tunnel);
    assert_eq!(fifth.answer_to("CONNECT").status, 200);
}

/// A place is held as long as the socket is open, also when the HTTP layer has let go of it.
#[test]
fn there_are_so_many_connections_in_all_and_the_others_wait() {
    let free = Origin::start("free.test");
    let world = World::with(BEARER, canary(), |home, _| {
        home.reach(&free);
        home.set("limits.connections: 3");
    });
    let mut tunnels = vec![
        world.tunnel(),
        world.serve.open_tunnel(&world.agent, "free.test:443"),
        world.serve.open_tunnel(&world.agent, "api.test:443"),
    ];
    let mut fourth = world.serve.wire();
    fourth.send(connect("api.test:443", &world.agent.authorization()));
    assert!(fourth.is_silent(Duration::from_millis(500)));
    assert!(world.serve.log().contains("limits.connections are open"));
    // Those that are open notice nothing.
    assert_eq!(tunnels[0].ask(request("GET", "/v1/x", &[AUTHORIZED], "")).status, 200);
    drop(tunnels.remove(1));
    assert_eq!(fourth.answer_to("CONNECT").status, 200);
    let mut fifth = world.serve.wire();
    fifth.send(connect("api.test:443", &world.agent.authorization()));
    assert!(fifth.is_silent(Duration::from_millis(300)));
    drop(tunnels);
    assert_eq!(fifth.answer_to("CONNECT").status, 200);
    assert_eq!(world.serve.log().matches("limits.connections are open").count(), 1);
}

#[test]
fn out_of_descriptors_the_proxy_waits_and_goes_on() {
    let world = World::new();
    assert_eq!(world.get("/v1/x").status, 200);
    let open = std::fs::read_dir(format!("/proc/{}/fd", world.serve.pid())).unwrap().count();
    let pid = Pid::from_raw(world.serve.pid().try_into().unwrap());
    let few = Rlimit { current: Some(open as u64 + 15), maximum: Some(4096) };
    let before = prlimit(pid, Resource::Nofile, few).unwrap();
    let crowd: Vec<Wire> = (0..60).map(|_| world.serve.wire()).collect();
    eventually("the log to say so", PATIENCE, || {
        world.serve.log().contains("could not be accepted").then_some(())
    });
    // It neither spins nor fills the disk while this lasts.
    let busy = processor_time(world.serve.pid());
    std::thread::sleep(Duration::from_secs(2));
    let busy = processor_time(world.serve.pid()).saturating_sub(busy);
    assert!(busy < Duration::from_millis(500), "{busy:?} of 2 s");
    assert_eq!(world.serve.log().matches("could not be accepted").count(), 1);
    drop(crowd);
    eventually("room again", PATIENCE, || {
        let mut wire = Wire::try_plain(world.serve.proxy).ok()?;
        wire.try_send(connect("api.test:443", &world.agent.authorization()).as_bytes()).ok()?;
        (wire.try_answer("CONNECT").ok()?.status == 200).then_some(())
    });
    assert_eq!(world.serve.log().matches("accepted again").count(), 1);
    let restored = Rlimit { maximum: few.maximum, current: before.current.map(|n| n.min(4096)) };
    prlimit(pid, Resource::Nofile, restored).unwrap();
    assert_eq!(world.get("/v1/x").status, 200);
    world.home.locum(&["audit", "verify"]).ok();
}

#[test]
fn guessing_tokens_hurts_nobody_else() {
    // As fast as they can.
    let world = World::with(BEARER, canary(), |home, _| home.set("limits.failure_delay: 0s"));
    let mut wire = world.tunnel();
    std::thread::scope(|scope| {
        for thread in 0..2 {
            let world = &world;
            scope.spawn(move || {
                let mut wire = world.serve.wire();
                for n in 0..150 {
                    let guess = basic("worker", &format!("locum-{thread}-{n}-{}", canary()));
                    assert_eq!(wire.ask(connect("api.test:443", &guess)).status, 407);
                }
            });
        }
        for _ in 0..50 {
            assert_eq!(wire.ask(request("GET", "/v1/x", &[AUTHORIZED], "")).status, 200);
        }
    });
    // The flood is on record and counted, and does not fill the disk with what it says.
    let audit = world.home.audit();
    let guesses = audit.iter().filter(|r| r["code"] == "proxy-auth-required").count();
    assert!((10..=300).contains(&guesses), "{guesses}");
    assert_eq!(world.serve.metric("locum_refusals_total{code=\"proxy-auth-required\"}"), 300);
}

/// What Locum answers to bytes that are no request it takes; both at the door and in a tunnel, with
/// a record and a count.
#[test]
fn what_cannot_be_read_is_answered_by_us_and_recorded() {
    let world = World::with(BEARER, canary(), |home, _| home.set("limits.head_bytes: 8KiB"));
    let host = format!("Host: {HOST}\r\n");
    let long = format!("X-Long: {}\r\n", "a".repeat(20_000));
    let many: String = (0..200).map(|i| format!("X-{i}: 1\r\n")).collect();
    let target = "a".repeat(17 * 1024);
    let cases = [
        ("head-too-large", 431, format!("GET / HTTP/1.1\r\n{host}{long}\r\n")),
        // A head that comes at one go is measured, too.
        ("head-too-large", 431, format!("GET / HTTP/1.1\r\n{host}X: {}\r\n\r\n", "a".repeat(8200))),
        ("head-too-large", 431, format!("GET / HTTP/1.1\r\n{host}{many}\r\n")),
        ("head-too-large", 431, format!("GET /{target} HTTP/1.1\r\n{host}\r\n")),
        ("bad-request", 400, format!("GET / HTTP/1.1\r\n{host}X A: 1\r\n\r\n")),
        ("bad-request", 400, "GET / HTTP/7.7\r\n\r\n".to_owned()),
        ("bad-request", 400, "\u{1}\u{2}\u{3}\r\n\r\n".to_owned()),
    ];
    for (code, status, bytes) in &cases {
        for (place, mut wire) in [("door", world.serve.wire()), ("tunnel", world.tunnel())] {
            let about = format!("{place}, {code}: {bytes:.40}");
            let series = format!("locum_refusals_total{{code=\"{code}\"}}");
            let before = world.serve.metric(&series);
            // It may refuse before all of it is read, and the rest does not tear the answer away.
            let _ = wire.try_send(bytes.as_bytes());
            let answer = wire.try_answer("GET").unwrap_or_else(|e| panic!("{about}: {}", e.why));
            assert_eq!((answer.status, &*answer.problem()), (*status, *code), "{about}");
            assert_eq!(answer.header("connection"), Some("close"), "{about}");
            assert!(answer.header("date").is_some(), "{about}");
            assert!(wire.until_closed().is_empty(), "{about}");
            let record = &world.home.records_of(&answer.request_id(), 1)[0];
            assert_eq!(
                (record["code"].as_str(), record["decision"].as_str()),
                (Some(*code), Some("refuse"))
            );
            assert_eq!(
                record["agent"].as_str(),
                (place == "tunnel").then_some("worker"),
                "{about}"
            );
            assert_eq!(world.serve.metric(&series), before + 1, "{about}");
        }
    }
    assert_eq!(world.origin.connections(), 0);
    assert_eq!(world.get("/after").status, 200);
}

#[test]
fn a_url_has_a_limit_of_its_own() {
    let world = World::with(BEARER, canary(), |home, _| home.set("limits.url_bytes: 1KiB"));
    let mut wire = world.tunnel();
    let longest = format!("/{}?{}", "p".repeat(500), "q".repeat(522));
    assert_eq!(longest.len(), 1024);
    assert_eq!(wire.ask(request("GET", &longest, &[AUTHORIZED], "")).status, 200);
    let answer = wire.ask(request("GET", &(longest + "x"), &[AUTHORIZED], ""));
    assert_eq!((answer.status, &*answer.problem()), (414, "url-too-long"));
    assert_eq!(world.origin.seen().len(), 1);
    let record = &world.home.records_of(&answer.request_id(), 1)[0];
    assert_eq!(record["code"], "url-too-long");
}

#[test]
fn what_is_no_http_is_refused_and_not_waited_for() {
    let world = World::with(BEARER, canary(), |home, _| home.set("limits.head_time: 5m"));
    for said in ["\x16\x03\x01\x02", "SSH-2.0-x\r\n", "\x05\x01\0", &"\r\n".repeat(20)] {
        let mut wire = world.tunnel();
        wire.send(said);
        let answer = wire.answer();
        assert_eq!((answer.status, &*answer.problem()), (400, "bad-request"), "{said:?}");
        assert!(wire.until_closed().is_empty());
    }
    assert!(world.origin.seen().is_empty());
}

#[test]
fn a_head_in_a_tunnel_has_its_time_from_its_first_byte() {
    let world = World::with(BEARER, canary(), |home, _| {
        home.set("limits.head_time: 300ms");
        home.set("limits.idle_tunnel: 1h");
    });
    let mut idle = world.tunnel();
    let mut slow = world.tunnel();
    // Behind a request, too; and however it trickles.
    assert_eq!(slow.ask(request("GET", "/v1/x", &[AUTHORIZED], "")).status, 200);
    for byte in request("GET", "/v1/x", &[AUTHORIZED, "X-Slow: 1"], "").as_bytes() {
        if slow.try_send(&[*byte]).is_err() || !slow.is_silent(std::time::Duration::from_millis(15))
        {
            break;
        }
    }
    let answer = slow.answer();
    assert_eq!((answer.status, &*answer.problem()), (408, "request-timeout"));
    assert!(slow.until_closed().is_empty());
    assert_eq!(world.home.records_of(&answer.request_id(), 1)[0]["code"], "request-timeout");
    // The other tunnel was open for as long, and nothing was begun in it.
    assert_eq!(idle.ask(request("GET", "/v1/x", &[AUTHORIZED], "")).status, 200);
    // A body, and an answer, take the time that they take.
    world.origin.hold();
    idle.send(format!(
        "POST /hold HTTP/1.1\r\nHost: {HOST}\r\n{AUTHORIZED}\r\nContent-Length: 2\r\n\r\n1"
    ));
    let mut other = world.tunnel();
    other.send("GET / HTT");
    assert_eq!(other.answer().status, 408);
    idle.send("2");
    world.origin.until_seen(3);
    let mut other = world.tunnel();
    other.send("GET / HTT");
    assert_eq!(other.answer().status, 408);
    // Empty lines begin a head, and are not one.
    let mut empty = world.tunnel();
    empty.send("\r\n");
    assert_eq!(empty.answer().status, 408);
    world.origin.release();
    assert_eq!(idle.answer_to("POST").text(), "held");
}

#[test]
fn an_agent_that_never_reads_is_let_go_of() {
    let world = World::with(BEARER, canary(), |home, _| home.set("limits.idle_reader: 300ms"));
    let mut wire = world.tunnel();
    wire.send(request("GET", "/bytes/1000000000", &[AUTHORIZED], ""));
    let access = world.home.accesses_to("/bytes/1000000000").remove(0);
    let records = world.home.records_of(access["request_id"].as_str().unwrap(), 2);
    assert_eq!(records[1]["ending"], "downstream-aborted");
    assert!(records[1]["bytes_down"].as_u64().unwrap() < 100_000_000, "{}", records[1]);
    assert!(wire.try_answer("GET").is_err(), "the answer ended as if whole");
    // Whoever waits for an origin is not slow, and a reader that pauses now and then goes on.
    world.origin.hold();
    let mut waits = world.tunnel();
    waits.send(request("GET", "/hold", &[AUTHORIZED], ""));
    let mut never = world.tunnel();
    never.send(request("GET", "/bytes/1000000001", &[AUTHORIZED], ""));
    let access = world.home.accesses_to("/bytes/1000000001").remove(0);
    world.home.records_of(access["request_id"].as_str().unwrap(), 2);
    world.origin.release();
    assert_eq!(waits.answer().text(), "held");
}

/// What a process has used of the processors, in user and in system mode.
fn processor_time(pid: u32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    let ticks: u64 = fields[11..13].iter().map(|ticks| ticks.parse::<u64>().unwrap()).sum();
    // Linux tells it in hundredths of a second, whatever its own clock does.
    Duration::from_millis(ticks * 10)
}

/// A body that has to be read before it is sent is counted as it comes, and no longer than it is held.
#[test]
fn bodies_in_memory_have_a_bound_for_each_agent_and_for_all() {
    const PIECE: usize = 900 << 10;
    let slots = ["--to", "https://api.test", "--json-pointer", "/api_key"];
    let world = World::with(&slots, canary(), |home, _| {
        home.set("limits.bodies: 3MiB");
        home.set("limits.bodies_per_agent: 2MiB");
    });
    let other = world.home.agent("other");
    let held = || world.serve.metric("locum_bodies_held_bytes");
    let start = format!("{{\"api_key\":\"locum_main\",\"x\":\"{}", "x".repeat(PIECE));
    let length = start.len() + 2;
    let head = request(
        "POST",
        "/open/x",
        &["Content-Type: application/json", &format!("Content-Length: {length}")],
        "",
    );
    let begin = |agent: &Agent| {
        let mut wire = world.serve.tunnel(agent, HOST);
        wire.send(format!("{head}{start}"));
        wire
    };
    let until = |least: usize| {
        eventually("the bodies are held", PATIENCE, || (held() >= least as u64).then_some(()));
    };
    let refused = |wire: &mut Wire| {
        let answer = wire.answer();
        assert_eq!((answer.status, &*answer.problem()), (503, "overloaded"));
        assert!(answer.header("retry-after").is_some());
        answer.text()
    };
    let first = begin(&world.agent);
    until(PIECE);
    let mut second = begin(&world.agent);
    until(2 * PIECE);
    assert!(refused(&mut begin(&world.agent)).contains("limits.bodies_per_agent"));
    let third = begin(&other);
    until(3 * PIECE);
    assert!(refused(&mut begin(&other)).contains("(limits.bodies)"));
    // Who goes on goes on, who goes away gives back, and then there is room.
    second.send("\"}");
    assert_eq!(second.answer().status, 200);
    drop((first, third));
    eventually("nothing is held", PATIENCE, || (held() == 0).then_some(()));
    let mut again = begin(&world.agent);
    again.send("\"}");
    assert_eq!(again.answer().status, 200);
    eventually("nothing is held", PATIENCE, || (held() == 0).then_some(()));
    world.never_leaks(&[]);
}

/// A chunk that is signed anew is held until it is whole, and is counted like any body that is held.
#[test]
fn chunks_that_wait_for_their_signature_are_bodies_in_memory() {
    let slots = ["--kind", "aws", "--to", "https://api.test"];
    let login = format!("AKIAIOSFODNN7EXAMPLE:{}", "k".repeat(40));
    let world = World::with(&slots, login, |home, _| home.set("limits.bodies_per_agent: 1MiB"));
    let held = || world.serve.metric("locum_bodies_held_bytes");
    let signed = "Authorization: AWS4-HMAC-SHA256 Credential=locum_main/20260101/eu-west-1/s3/aws4_request, \
        SignedHeaders=host;x-amz-content-sha256;x-amz-date, Signature=";
    let begin = || {
        let fields = [
            &format!("{signed}{}", "0".repeat(64)),
            "x-amz-content-sha256: STREAMING-AWS4-HMAC-SHA256-PAYLOAD",
            "x-amz-date: 20260101T000000Z",
            "x-amz-decoded-content-length: 1048576",
            "Content-Length: 1048749",
        ];
        let mut wire = world.tunnel();
        let chunk = format!("100000;chunk-signature={}\r\n{}", "0".repeat(64), "x".repeat(800_000));
        wire.send(request("PUT", "/open/x", &fields, "") + &chunk);
        wire
    };
    let first = begin();
    eventually("a chunk is held", PATIENCE, || (held() >= 800_000).then_some(()));
    let answer = begin().answer();
    assert_eq!((answer.status, &*answer.problem()), (503, "overloaded"), "{}", answer.text());
    drop(first);
    eventually("nothing is held", PATIENCE, || (held() == 0).then_some(()));
}

/// Whoever reaches a port can open connections and say nothing; those who say something are served.
#[test]
fn silent_connections_keep_nobody_from_the_other_ports() {
    let world = World::new();
    let socket = world.home.path().join("admin.sock");
    let mut silent: Vec<Wire> = Vec::new();
    for number in 0..80 {
        let mut wire = Wire::plain(world.serve.ops);
        // Some begin a head, and some have been answered.
        match number % 3 {
            0 => wire.send("GET /healthz HTTP/1.1\r\nHost: localhost\r\n"),
            1 => {
                assert_eq!(
                    wire.ask("GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").status,
                    200
                );
            }
            _ => {}
        }
        silent.push(wire);
        silent.push(Wire::try_unix(&socket).unwrap());
    }
    assert!(world.serve.metrics().contains("locum_tunnels_open"));
    let mut administrator = Wire::try_unix(&socket).unwrap();
    let asked = administrator.ask("GET /v1/agents HTTP/1.1\r\nHost: x\r\n\r\n");
    assert_eq!(asked.status, 401, "{}", asked.text());
    // And without anybody else who comes, they end of themselves.
    let mut alone = Wire::plain(world.serve.ops);
    alone.send("GET /healthz HTTP/1.1\r\n");
    alone.until_closed();
}

/// The soft limit of open files is the shell's, often 1,024, and the hard one is what a service may have.
#[test]
#[cfg(target_os = "linux")]
fn the_proxy_has_as_many_open_files_as_it_may() {
    let started = |connections: &str| {
        let home = Home::new();
        home.set(connections);
        let locum = home.command(&["serve"]);
        let mut shell = std::process::Command::new("sh");
        home.clean(&mut shell);
        shell.args(["-c", "ulimit -S -n 300; ulimit -H -n 600; exec \"$@\"", "sh"]);
        shell.arg(locum.get_program()).args(locum.get_args());
        let serve = Serve::start_as(&home, &mut shell);
        let text = std::fs::read_to_string(format!("/proc/{}/limits", serve.pid())).unwrap();
        let line = text.lines().find(|line| line.starts_with("Max open files")).unwrap();
        assert_eq!(line.split_whitespace().nth(3), Some("600"), "{line}");
        serve.log()
    };
    let log = started("limits.connections: 100");
    assert!(!log.contains("limit of open files"), "{log}");
    let log = started("limits.connections: 1000");
    assert!(log.contains("leaves room for 172"), "{log}");
}
