//! The answers that Locum makes itself.

use crate::support::*;

#[test]
fn a_refusal_says_what_why_and_what_next_and_is_found_in_the_audit_log() {
    let world = World::ruled(
        "version: 1\nrules:\n- {name: one, agents: ['*'], to: ['https://api.test'], methods: [GET], paths: ['/v1/**'], use: [main]}\n",
    );
    for (method, target, fields, status, code, error) in [
        ("GET", "/v2", &[AUTHORIZED][..], 403, "not-allowed", "http_request_denied"),
        ("DELETE", "/v1/x", &[AUTHORIZED], 403, "not-allowed", "http_request_denied"),
        (
            "GET",
            "/v1/x",
            &["Authorization: Bearer locum_no"],
            403,
            "credential-refused",
            "http_request_denied",
        ),
        (
            "GET",
            "/v1/x",
            &["Authorization: Token locum_main"],
            403,
            "slot-mismatch",
            "http_request_denied",
        ),
        ("GET", "/v1/x", &["Host: b.test"], 400, "bad-request", "http_request_error"),
        ("GET", "/v1/../v2", &[AUTHORIZED], 400, "ambiguous-path", "http_request_error"),
        ("TRACE", "/v1/x", &[AUTHORIZED], 405, "method-refused", "http_request_denied"),
        (
            "GET",
            "/v1/x",
            &["Upgrade: websocket", "Connection: upgrade"],
            403,
            "upgrade-refused",
            "http_request_denied",
        ),
    ] {
        let answer = world.ask(method, target, fields, "");
        assert_eq!(answer.status, status, "{target}: {}", answer.text());
        assert_eq!(answer.problem(), code);
        assert_eq!(answer.header("cache-control"), Some("no-store"));
        let status_field = answer.header("proxy-status").unwrap();
        assert!(status_field.contains(&format!("error={error}")), "{status_field}");
        let json = answer.json();
        assert_eq!(json["type"], format!("urn:locum:problem:{code}"));
        for text in ["title", "detail", "hint"] {
            assert!(json[text].as_str().is_some_and(|t| t.len() > 10), "{text}: {json}");
        }
        let record = world.home.records_of(&answer.request_id(), 1).remove(0);
        assert_eq!(record["kind"], "access");
        assert_eq!(record["decision"], "refuse");
        assert_eq!(record["code"], code);
        assert_eq!(record["method"], method);
        let series = format!("locum_refusals_total{{code=\"{code}\"}}");
        assert!(world.serve.metric(&series) >= 1, "{series}");
    }
    assert_eq!(world.origin.connections(), 0);
    assert_eq!(world.serve.metric("locum_requests_total{agent=\"worker\",result=\"refused\"}"), 8);
}

#[test]
fn a_permitted_call_has_two_records() {
    let world = World::new();
    let answer = world.ask("POST", "/v1/x?secret=query", &[AUTHORIZED], "12345");
    assert_eq!((answer.status, answer.text().as_str()), (200, "ok"));
    let access = world.home.accesses_to("/v1/x").remove(0);
    let records = world.home.records_of(access["request_id"].as_str().unwrap(), 2);
    assert_eq!(records[0], access);
    for (field, value) in [
        ("agent", "worker"),
        ("token_id", world.agent.token_id.as_str()),
        ("workspace", "default"),
        ("destination", "https://api.test"),
        ("method", "POST"),
        ("decision", "permit"),
        ("credential", "main"),
        ("slot", "header:authorization"),
        ("rule", "each credential at its own destinations"),
    ] {
        assert_eq!(access[field], value, "{access}");
    }
    assert_eq!((&access["version"], &access["policy_generation"]), (&1.into(), &1.into()));
    assert!(access["peer"].as_str().unwrap().starts_with("127.0.0.1:"));
    let outcome = &records[1];
    assert_eq!((&outcome["kind"], &outcome["ending"]), (&"outcome".into(), &"complete".into()));
    assert_eq!((&outcome["bytes_up"], &outcome["bytes_down"]), (&5.into(), &2.into()));
    assert_eq!(outcome["status"], 200);
    for text in [access.to_string(), outcome.to_string()] {
        assert!(!text.contains("secret=") && !text.contains("query"), "{text}");
    }
    assert_eq!(world.serve.metric("locum_injections_total{credential=\"main\"}"), 1);
}

#[test]
fn what_goes_wrong_upstream_is_told_apart() {
    let world = World::new();
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let closed = nobody.local_addr().unwrap();
    drop(nobody);
    let stranger = Origin::start("stranger.test");
    let clear = Origin::clear("clear.test");
    let rude = Origin::scripted("rude.test", vec![Script::Read]);
    let babble = Origin::scripted(
        "babble.test",
        vec![Script::Read, Script::Send(b"this is not HTTP\r\n\r\n".to_vec()), Script::Goodbye],
    );
    let home = Home::new();
    home.reach_as("closed.test", closed, None);
    home.reach_as("stranger.test", stranger.address, Some(world.origin.ca_file()));
    home.reach_as("public.test", stranger.address, None);
    home.reach_as("wrongname.test", stranger.address, Some(stranger.ca_file()));
    home.reach_as("clear.test", clear.address, Some(stranger.ca_file()));
    home.reach(&rude);
    home.reach(&babble);
    let key = canary();
    home.add(
        "main",
        &[
            "--to",
            "https://closed.test",
            "--to",
            "https://stranger.test",
            "--to",
            "https://public.test",
            "--to",
            "https://wrongname.test",
            "--to",
            "https://clear.test",
            "--to",
            "https://rude.test",
            "--to",
            "https://babble.test",
            "--to",
            "https://nowhere.invalid",
            "--header",
            "Authorization: Bearer {secret}",
        ],
        &key,
    );
    let agent = home.agent("worker");
    let serve = home.serve();
    for (host, status, code) in [
        ("closed.test", 502, "connect-failed"),
        ("stranger.test", 502, "certificate-invalid"),
        ("public.test", 502, "certificate-invalid"),
        ("wrongname.test", 502, "certificate-invalid"),
        ("clear.test", 502, "tls-failed"),
        ("rude.test", 502, "upstream-failed"),
        ("babble.test", 502, "upstream-failed"),
        ("nowhere.invalid", 502, "dns-error"),
    ] {
        let mut wire = serve.tunnel(&agent, host);
        let answer = wire.ask(format!("GET / HTTP/1.1\r\nHost: {host}\r\n{AUTHORIZED}\r\n\r\n"));
        assert_eq!(answer.status, status, "{host}: {}", answer.text());
        assert_eq!(answer.problem(), code, "{host}");
        let records = home.records_of(&answer.request_id(), 2);
        assert_eq!(records[0]["decision"], "permit");
        assert_eq!((&records[1]["ending"], &records[1]["code"]), (&"failed".into(), &code.into()));
    }
    // Whoever is not verified gets no byte of the request.
    assert_eq!(stranger.raw().concat(), "");
    assert!(!clear.raw().concat().contains(&key));
    home.never_leaks(&[&key], &[]);
}
