//! What is left of a request in logs: one line each, whatever is in it, and never the way out of one.

use crate::support::*;

/// Bytes that end a line, or change how one is shown.
fn is_deceptive(c: char) -> bool {
    let shown_as_nothing =
        matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{feff}');
    c != '\n' && (c.is_control() || shown_as_nothing)
}

#[test]
fn no_text_of_a_client_gets_out_of_its_line() {
    let world = World::new();
    let nasty = [
        "/a%0d%0aInjected: 1",
        "/a\u{2028}b\u{85}c\u{202e}d",
        "/\u{1b}[31mred\u{1b}[0m",
        "/\"}\\n{\"kind\":\"access\"",
        "/\\\"quoted\\\"",
        "/a\tb",
        "/\u{feff}\u{200b}",
        "/%1b%5b2J",
        &format!("/{}", "long".repeat(5000)),
    ];
    for path in nasty {
        // Whether it is taken or not: it is one record at most, and no other line.
        let _ = world.tunnel().try_send(request("GET", path, &[AUTHORIZED], "").as_bytes());
        let mut wire = world.tunnel();
        wire.send(request("GET", path, &[AUTHORIZED], ""));
        let _ = wire.try_answer("GET");
        let user = format!("worker+run={}", percent(path));
        let mut wire = world.serve.wire();
        wire.send(connect("api.test:443", &basic(&user, &world.agent.token)));
        let _ = wire.try_answer("CONNECT");
        let mut wire = world.serve.wire();
        wire.send(connect(&format!("h{path}:443"), &world.agent.authorization()));
        let _ = wire.try_answer("CONNECT");
        let field = format!("Locum-Run: {path}");
        let mut wire = world.tunnel();
        wire.send(request("GET", "/v1/x", &[AUTHORIZED, &field], ""));
        let _ = wire.try_answer("GET");
    }
    assert_eq!(world.get("/last").status, 200);
    let mut files = Vec::new();
    for entry in std::fs::read_dir(world.home.path().join("audit")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|e| e == "jsonl") {
            files.push(std::fs::read_to_string(path).unwrap());
        }
    }
    files.push(world.serve.log());
    for text in files {
        let deceptive: Vec<&str> = text.lines().filter(|l| l.chars().any(is_deceptive)).collect();
        assert!(deceptive.is_empty(), "{deceptive:?}");
        let forged = text.lines().filter(|line| line.starts_with("Injected")).count();
        assert_eq!(forged, 0, "{text}");
    }
    // Every line is a record, in one unbroken sequence.
    let numbers: Vec<u64> = world.home.audit().iter().map(|r| r["seq"].as_u64().unwrap()).collect();
    assert!(numbers.windows(2).all(|pair| pair[1] == pair[0] + 1), "{numbers:?}");
    world.home.locum(&["audit", "verify"]).ok();
}

#[test]
fn no_call_goes_out_without_its_record_however_a_client_ends() {
    let world = World::new();
    for n in 0..10 {
        let path = format!("/v1/{n}");
        let call = request("POST", &path, &[AUTHORIZED, "Content-Length: 4"], "") + "body";
        for cut in [call.len() / 3, call.find("\r\n\r\n").unwrap() + 4, call.len() - 1, call.len()]
        {
            let mut wire = world.tunnel();
            wire.send(&call[..cut]);
            drop(wire);
        }
    }
    assert_eq!(world.get("/last").status, 200);
    eventually("all tunnels to end", PATIENCE, || {
        (world.serve.metric("locum_tunnels_open{kind=\"intercepted\"}") == 0).then_some(())
    });
    let audit = world.home.audit();
    let mut permitted: Vec<&str> = audit
        .iter()
        .filter(|r| r["kind"] == "access" && r["decision"] == "permit")
        .map(|r| r["path"].as_str().unwrap())
        .collect();
    for seen in world.origin.seen() {
        let at = permitted.iter().position(|path| *path == seen.target);
        permitted.swap_remove(at.unwrap_or_else(|| panic!("{} has no record", seen.target)));
    }
    let permits = |r: &&serde_json::Value| r["kind"] == "access" && r["decision"] == "permit";
    let accesses = audit.iter().filter(permits).count();
    let outcomes = audit.iter().filter(|r| r["kind"] == "outcome").count();
    assert_eq!(accesses, outcomes, "each call has its end on record");
}

#[test]
fn the_process_shows_no_secret_to_its_neighbours() {
    let world = World::new();
    assert_eq!(world.get("/echo").status, 200);
    let proc = |file: &str| std::fs::read(format!("/proc/{}/{file}", world.serve.pid()));
    let limits = String::from_utf8(proc("limits").unwrap()).unwrap();
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert_eq!(core.split_whitespace().nth(4), Some("0"), "{core}");
    // What cannot be read shows nothing either.
    let environment = proc("environ").unwrap_or_default();
    let arguments = proc("cmdline").unwrap();
    assert!(!arguments.is_empty());
    world.never_leaks(&[("its environment", &environment), ("its arguments", &arguments)]);
    assert!(leaks(&world.agent.token, &arguments).is_empty());
}
