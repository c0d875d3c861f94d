//! The operations port: what Prometheus scrapes is well made, does not grow with what the network
//! names, and comes back to where it was.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::collections::BTreeSet;
use std::process::Command;

use support::*;

/// The series: names and labels, without values.
fn series(metrics: &str) -> BTreeSet<String> {
    let lines = metrics.lines().filter(|line| !line.starts_with('#'));
    lines.map(|line| line.rsplit_once(' ').unwrap().0.to_owned()).collect()
}

/// One of everything that can happen to a request; `n` is in every name that a client may choose.
fn one_of_each(world: &World, n: usize) {
    let fields = [format!("Authorization: Bearer locum_none{n}"), format!("X-{n}: locum_main")];
    let fields: Vec<&str> = fields.iter().map(String::as_str).collect();
    assert_eq!(world.get(&format!("/v1/{n}?q={n}")).status, 200);
    assert_eq!(world.get("/echo/raw").status, 200);
    assert_eq!(world.ask("GET", &format!("/{n}"), &fields[..1], "").status, 403);
    assert_eq!(world.ask("POST", &format!("/{n}"), &[AUTHORIZED, fields[1]], "body").status, 200);
    assert_eq!(world.ask(&format!("M{n}"), "/", &[AUTHORIZED], "").status, 200);
    assert_eq!(world.get(&format!("/status/{}", 400 + n % 100)).status, 400 + n as u16 % 100);
    for status in [401, 402, 429] {
        assert_eq!(world.get(&format!("/status/{status}")).status, status);
    }
    let host = format!("h{n}.invalid");
    let connected =
        world.serve.wire().ask(connect(&format!("{host}:443"), &world.agent.authorization()));
    assert_eq!(connected.problem(), "dns-error");
    let strangers = [basic(&format!("nobody{n}"), "x"), basic(&format!("worker+run=r{n}"), "x")];
    for stranger in strangers {
        let answer = world.serve.wire().ask(connect("api.test:443", &stranger));
        assert_eq!(answer.status, 407);
    }
    let user = format!("worker+run=r{n}+node=n{n}+user=u{n}");
    let mut wire = world.serve.wire();
    assert_eq!(wire.ask(connect("api.test:443", &basic(&user, &world.agent.token))).status, 200);
    let mut wire = wire.tls(HOST, &world.home.ca()).unwrap();
    assert_eq!(wire.ask(request("GET", "/", &[AUTHORIZED], "")).status, 200);
}

#[test]
fn promtool_finds_nothing_to_say() {
    let world = World::new();
    one_of_each(&world, 0);
    let metrics = world.serve.metrics();
    let ran = run(Command::new(Tools::promtool()).args(["check", "metrics"]), metrics.as_bytes());
    assert_eq!((ran.code, ran.out.trim(), ran.err.trim()), (0, "", ""), "{metrics}");
    // It would have said something.
    let bad = metrics.replace("locum_requests_total", "locumRequests");
    let ran = run(Command::new(Tools::promtool()).args(["check", "metrics"]), bad.as_bytes());
    assert_ne!(ran.code, 0);
}

#[test]
fn nothing_that_the_network_names_becomes_a_label() {
    // Strangers are answered at once: what is looked at is how they are counted.
    let world = World::with(BEARER, canary(), |home, origin| {
        home.reach(origin);
        home.set("limits.failure_delay: 0s");
    });
    one_of_each(&world, 0);
    let first = series(&world.serve.metrics());
    for n in 1..60 {
        one_of_each(&world, n);
    }
    let metrics = world.serve.metrics();
    let last = series(&metrics);
    let new: Vec<&String> = last.difference(&first).collect();
    assert!(new.is_empty(), "{new:?}");
    assert!(last.len() < 200, "{} series", last.len());
    for text in
        ["api.test", "/v1", "nobody", "r1", "locum_main\"", &world.agent.token_id, "127.0.0.1"]
    {
        let labels = last
            .iter()
            .any(|s| s.contains(&format!("\"{text}")) || s.contains(&format!("{text}\"")));
        assert!(!labels, "{text} is in a label: {metrics}");
    }
    world.never_leaks(&[]);
}

#[test]
fn counts_are_those_of_the_audit_log() {
    let world = World::new();
    // Of strangers, ten a second have a record.
    for n in 0..4 {
        one_of_each(&world, n);
    }
    let audit = eventually("all outcomes", PATIENCE, || {
        let audit = world.home.audit();
        let count = |kind: &str, decision: Option<&str>| {
            let of = audit.iter().filter(|r| r["kind"] == kind);
            of.filter(|r| decision.is_none_or(|d| r["decision"] == d)).count()
        };
        (count("access", Some("permit")) == count("outcome", None)).then_some(audit)
    });
    let records = |test: &dyn Fn(&serde_json::Value) -> bool| {
        u64::try_from(audit.iter().filter(|record| test(record)).count()).unwrap()
    };
    let metric = |series: &str| world.serve.metric(series);
    let refused = records(&|r| r["decision"] == "refuse" && r["agent"] == "worker");
    assert_eq!(metric("locum_requests_total{agent=\"worker\",result=\"refused\"}"), refused);
    let failed = records(&|r| r["ending"] == "failed");
    assert_eq!(metric("locum_requests_total{agent=\"worker\",result=\"failed\"}"), failed);
    let permitted = records(&|r| r["decision"] == "permit") - failed;
    assert_eq!(metric("locum_requests_total{agent=\"worker\",result=\"permitted\"}"), permitted);
    let injected = records(&|r| r["decision"] == "permit" && r["credential"] == "main");
    assert_eq!(metric("locum_injections_total{credential=\"main\"}"), injected);
    for code in ["credential-refused", "proxy-auth-required", "dns-error"] {
        let count = records(&|r| r["code"] == code);
        assert!(count > 0);
        assert_eq!(metric(&format!("locum_refusals_total{{code=\"{code}\"}}")), count, "{code}");
    }
    assert_eq!(metric("locum_upstream_seconds_count"), injected);
}

#[test]
fn descriptors_and_tunnels_come_back() {
    let world = World::new();
    let descriptors =
        || std::fs::read_dir(format!("/proc/{}/fd", world.serve.pid())).unwrap().count();
    let round = |n: usize| {
        one_of_each(&world, n);
        let mut tunnels: Vec<Wire> = (0..20).map(|_| world.tunnel()).collect();
        for wire in &mut tunnels {
            assert_eq!(wire.ask(request("GET", "/v1/x", &[AUTHORIZED], "")).status, 200);
        }
        assert!(world.serve.metric("locum_tunnels_open{kind=\"intercepted\"}") >= 20);
        // Half of them go without a word: in a handshake, in a request, in an answer.
        let mut cut = world.serve.open_tunnel(&world.agent, "api.test:443");
        cut.send(b"\x16\x03\x01\x02\x00");
        tunnels[0].send("POST /v1/x HTTP/1.1\r\nHost: api.test\r\nContent-Length: 9\r\n\r\n12");
        tunnels[1].send(request("GET", "/bytes/9000000", &[AUTHORIZED], ""));
        tunnels[1].until("Nothing of note");
    };
    round(0);
    let settled = || {
        eventually("all tunnels to end", PATIENCE, || {
            let open = world.serve.metric("locum_tunnels_open{kind=\"intercepted\"}")
                + world.serve.metric("locum_tunnels_open{kind=\"opaque\"}");
            (open == 0).then_some(())
        });
        // A connection upstream is kept for the next request.
        let idle = world.serve.metric("locum_pool_idle_connections");
        descriptors() - usize::try_from(idle).unwrap()
    };
    let before = settled();
    for n in 1..5 {
        round(n);
    }
    let after = settled();
    assert!(after <= before + 2, "from {before} descriptors to {after}");
}

#[test]
fn the_operations_port_answers_what_it_should_and_no_more() {
    let world = World::new();
    let get = |path: &str| world.serve.get(path).expect("an answer");
    let metrics = get("/metrics");
    assert_eq!(metrics.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    assert_eq!((get("/healthz").status, get("/healthz").text().as_str()), (200, "ok\n"));
    let ready = get("/readyz");
    assert_eq!((ready.status, &ready.json()["ready"]), (200, &true.into()));
    for path in ["/", "/metrics/", "/debug/pprof", "/../metrics", "/readyz/x"] {
        assert_eq!(get(path).status, 404, "{path}");
    }
    for method in ["POST", "PUT", "DELETE", "CONNECT", "TRACE", "OPTIONS"] {
        let mut wire = Wire::plain(world.serve.ops);
        wire.send(format!("{method} /metrics HTTP/1.1\r\nHost: x\r\n\r\n"));
        let answer = wire.try_answer("GET");
        assert!(answer.as_ref().map_or(true, |a| a.status >= 400), "{method}: {answer:?}");
    }
    // Neither does it act as a proxy.
    let mut wire = Wire::plain(world.serve.ops);
    let answer = wire.ask(connect("api.test:443", &world.agent.authorization()));
    assert!(answer.status >= 400);
    let mut wire = Wire::plain(world.serve.ops);
    let answer = wire.ask("GET http://api.test/ HTTP/1.1\r\nHost: api.test\r\n\r\n");
    assert!(answer.status >= 400);
    assert_eq!(world.origin.connections(), 0);
}

/// DNS rebinding: a page that somebody's name has led to loopback asks with that name, in whatever form.
#[test]
fn a_page_of_another_name_reads_nothing_of_the_operations_port() {
    let world = World::new();
    let port = world.serve.ops.port();
    let ask = |hosts: &str| {
        let mut wire = Wire::plain(world.serve.ops);
        wire.ask(format!("GET /metrics HTTP/1.1\r\n{hosts}\r\n"))
    };
    for host in ["127.0.0.1", "localhost", "LOCALHOST.", "[::1]", "10.0.0.1", "127.0.0.1:9"] {
        assert_eq!(ask(&format!("Host: {host}\r\n")).status, 200, "{host}");
    }
    assert_eq!(ask(&format!("Host: localhost:{port}\r\n")).status, 200);
    let led = format!("evil.test:{port}");
    for host in
        ["evil.test", &led, "127.0.0.1.evil.test", "evil@127.0.0.1", "local host", "2130706433", ""]
    {
        let answer = ask(&format!("Host: {host}\r\n"));
        assert_eq!(answer.status, 421, "{host}: {}", answer.text());
        assert!(!answer.text().contains("locum_"), "{host}");
    }
    assert_eq!(ask("Host: localhost\r\nHost: evil.test\r\n").status, 421);
}
