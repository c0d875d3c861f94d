//! Each refusal, from both sides: what the agent is told to change, and what the operator finds by its id.

use crate::support::*;

const RULES: &str = "version: 1
rules:
  - {name: reads, agents: ['*'], use: [main], paths: [/open/**, /v1/**]}
  - {name: once, agents: ['*'], use: [main], methods: [GET], paths: [/once], limits: {requests: 1/day}}
  - {name: strict, agents: ['*'], use: [main], paths: [/strict], misplaced: refuse}
  - {name: asked, agents: ['*'], use: [main], methods: [DELETE], paths: [/asked], approval: {answer: refuse}}
  - {name: no-admin, deny: true, agents: ['*'], to: ['https://api.test'], paths: [/v1/admin]}
  - {name: plain, agents: ['*'], to: ['http://api.test']}
";

#[test]
fn each_refusal_says_what_to_change_and_its_id_finds_all_of_it() {
    let world = World::with(BEARER, canary(), |home, _| {
        home.add(
            "other",
            &["--to", "https://other.test", "--header", "Authorization: Bearer {secret}"],
            "another-secret-of-some-length",
        );
        home.policy(RULES);
    });
    assert_eq!(world.get("/once").status, 200);
    let real = format!("X-Key: {}", world.key);
    let long = format!("/v1/{}", "x".repeat(20_000));
    let many = ["A: b"; 150];
    for (code, answer) in [
        ("not-allowed", world.ask("GET", "/elsewhere", &[], "")),
        ("not-allowed", world.ask("GET", "/v1/admin", &[AUTHORIZED], "")),
        (
            "credential-refused",
            world.ask("GET", "/v1/x", &["Authorization: Bearer locum_nobody"], ""),
        ),
        (
            "credential-refused",
            world.ask("GET", "/v1/x", &["Authorization: Bearer locum_other"], ""),
        ),
        ("slot-mismatch", world.ask("GET", "/v1/x", &["Authorization: Digest locum_main"], "")),
        ("misplaced-reference", world.ask("GET", "/strict?x=locum_main", &[AUTHORIZED], "")),
        ("real-credential", world.ask("GET", "/v1/x", &[&real], "")),
        ("ambiguous-path", world.ask("GET", "/v1/../strict", &[AUTHORIZED], "")),
        ("method-refused", world.ask("TRACE", "/v1/x", &[], "")),
        (
            "method-refused",
            world.ask("GET", "/v1/x", &[AUTHORIZED, "X-HTTP-Method-Override: TRACE"], ""),
        ),
        (
            "upgrade-refused",
            world.ask("GET", "/v1/x", &["Upgrade: foo", "Connection: upgrade"], ""),
        ),
        ("authority-mismatch", {
            world.tunnel().ask("GET /v1/x HTTP/1.1\r\nHost: third.test\r\n\r\n")
        }),
        ("url-too-long", world.ask("GET", &long, &[], "")),
        ("plaintext-refused", {
            let agent = world.agent.authorization();
            world.serve.wire().ask(format!(
                "GET http://{HOST}/v1/x HTTP/1.1\r\nHost: {HOST}\r\n{AUTHORIZED}\r\n\
                 Proxy-Authorization: {agent}\r\n\r\n"
            ))
        }),
        ("rate-limited", world.get("/once")),
        ("approval-required", world.ask("DELETE", "/asked", &[AUTHORIZED], "")),
    ] {
        told(
            &answer,
            code,
            &["reads", "strict\"", "no-admin", "other.test", "policies/", &world.key],
        );
        let explained = explained(&world.home, &answer, 1);
        let recorded = format!("recorded: refuse, with {code}");
        assert!(explained.contains(&recorded), "{code}: {explained}");
        assert!(explained.contains("decision: "), "{code}: {explained}");
        if code == "method-refused" {
            assert!(explained.contains("decision: refuse, with method-refused"), "{explained}");
        }
    }
    // Of a request that could not be read there is nothing to decide on.
    let unread = world.ask("GET", "/v1/x", &many, "");
    told(&unread, "head-too-large", &["reads", "policies/"]);
    let explained = explained(&world.home, &unread, 1);
    assert!(explained.starts_with("recorded: refuse, with head-too-large"), "{explained}");
    assert!(!explained.contains("decision: "), "{explained}");
}

/// Says what to change, in all the words of its form, and nothing of what exists: neither rules, nor
/// credentials, nor where they may go.
#[track_caller]
fn told(answer: &Answer, code: &str, secrets: &[&str]) {
    assert_eq!(&*answer.problem(), code);
    let told = answer.text();
    let problem: serde_json::Value = serde_json::from_str(&told).unwrap();
    for key in ["type", "title", "status", "detail", "instance", "hint"] {
        assert!(!problem[key].is_null(), "{code}: {key} of {told}");
    }
    for secret in secrets {
        assert!(!told.contains(secret), "{code}: {secret} in {told}");
    }
}

/// What the operator finds by the answer's id, with the same title.
#[track_caller]
fn explained(home: &Home, answer: &Answer, records: usize) -> String {
    let id = answer.request_id();
    home.records_of(&id, records);
    let explained = home.locum(&["policy", "explain", "--request", &id]);
    let title = answer.json()["title"].as_str().unwrap().to_owned();
    assert!(explained.out.contains(&title), "{title}: {} {}", explained.out, explained.err);
    explained.out
}

/// A call that was permitted, and then came to nothing: at the origin, on the way, in its answer.
#[test]
fn each_failure_on_the_way_says_what_to_change_and_its_id_finds_all_of_it() {
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let closed = nobody.local_addr().unwrap();
    drop(nobody);
    let origin = Origin::start(HOST);
    let stranger = Origin::start("stranger.test");
    let clear = Origin::clear("clear.test");
    let rude = Origin::scripted("rude.test", vec![Script::Read]);
    let slow = Origin::scripted("slow.test", vec![Script::Read, Script::Wait]);
    let home = Home::new();
    let key = canary();
    origin.accept(&key);
    for one in [&origin, &rude, &slow] {
        home.reach(one);
    }
    home.reach_as("closed.test", closed, None);
    home.reach_as("stranger.test", stranger.address, Some(origin.ca_file()));
    home.reach_as("clear.test", clear.address, Some(stranger.ca_file()));
    home.set("upstream.timeouts: {response: 300ms}");
    let hosts = ["closed.test", "stranger.test", "clear.test", "rude.test", "slow.test"];
    let hosts = hosts.into_iter().chain(["nowhere.invalid", "127.0.0.2", HOST]);
    let to: Vec<String> = hosts.map(|host| format!("https://{host}")).collect();
    let mut slots: Vec<&str> = to.iter().flat_map(|to| ["--to", to.as_str()]).collect();
    slots.extend(["--header", "Authorization: Bearer {secret}"]);
    home.add("main", &slots, &key);
    home.policy("version: 1\nrules:\n  - {name: everything, agents: ['*'], use: [main]}\n");
    let agent = home.agent("worker");
    let serve = home.serve();
    for (host, code) in [
        ("closed.test", "connect-failed"),
        ("stranger.test", "certificate-invalid"),
        ("clear.test", "tls-failed"),
        ("rude.test", "upstream-failed"),
        ("slow.test", "response-timeout"),
        ("nowhere.invalid", "dns-error"),
        ("127.0.0.2", "address-forbidden"),
        (HOST, "response-unscrubbable"),
    ] {
        let mut wire = serve.tunnel(&agent, host);
        let path = "/coded/compress/raw";
        let asked = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n{AUTHORIZED}\r\n\r\n");
        let answer = wire.ask(asked);
        told(&answer, code, &["everything", "policies/", "stranger.test\"", &key]);
        let explained = explained(&home, &answer, 2);
        let permitted = "recorded: permit, by the rule `everything`";
        assert!(explained.contains(permitted), "{code}: {explained}");
        assert!(
            explained.contains(&format!("ended:    failed, with {code}")),
            "{code}: {explained}"
        );
        assert!(explained.contains("decision: allow"), "{code}: {explained}");
    }
}

/// The proxy itself cannot: its vault is gone, or its log cannot be written.
#[test]
fn each_failure_of_the_proxy_says_what_to_change_and_its_id_finds_what_there_is() {
    let world = World::new();
    let mut wire = world.tunnel();
    assert_eq!(wire.ask(request("GET", "/v1/x", &[AUTHORIZED], "")).status, 200);
    let refused = |wire: &mut Wire| {
        eventually("a refusal", PATIENCE, || {
            let answer = wire.ask(request("GET", "/v1/x", &[AUTHORIZED], ""));
            (answer.status != 200).then_some(answer)
        })
    };
    let aside = world.home.vault().with_extension("aside");
    std::fs::rename(world.home.vault(), &aside).unwrap();
    // The first may have been allowed, and just leaving.
    refused(&mut wire);
    let inside = refused(&mut wire);
    let outside = world.serve.wire().ask(connect("api.test:443", &world.agent.authorization()));
    std::fs::rename(&aside, world.home.vault()).unwrap();
    for answer in [&inside, &outside] {
        told(answer, "vault-unavailable", &["policies/", "vault.db", &world.key]);
        let explained = explained(&world.home, answer, 1);
        assert!(explained.contains("recorded: refuse, with vault-unavailable"), "{explained}");
    }
    eventually("the vault is back", PATIENCE, || (world.serve.readiness().0 == 200).then_some(()));
    let mut wire = world.tunnel();
    let audit = world.home.path().join("audit");
    let moved = world.home.path().join("elsewhere");
    std::fs::rename(&audit, &moved).unwrap();
    std::fs::write(&audit, "in its place").unwrap();
    let answer = refused(&mut wire);
    std::fs::remove_file(&audit).unwrap();
    std::fs::rename(&moved, &audit).unwrap();
    told(&answer, "audit-unavailable", &["policies/", "elsewhere", &world.key]);
    // Of this one there can be no record, and who asks for it is told where to look.
    eventually("the log is back", PATIENCE, || (world.serve.readiness().0 == 200).then_some(()));
    let id = answer.request_id();
    let explained = world.home.locum(&["policy", "explain", "--request", &id]).failed(1);
    assert!(explained.err.contains("is in the process log alone"), "{}", explained.err);
    eventually("the log", PATIENCE, || world.serve.log().contains(&id).then_some(()));
}

const SLOTTED: &str = "version: 1
rules:
  - {name: reads, agents: ['*'], use: [main], methods: [GET], paths: [/v1/**]}
  - {name: bot, agents: ['*'], use: [tg], paths: ['/bot*/**']}
  - {name: form, agents: ['*'], use: [js], paths: [/json]}
  - {name: asked, agents: ['*'], use: [main], methods: [DELETE], paths: [/asked], approval: {answer: refuse}}
  - {name: unasked, agents: ['*'], use: [main], paths: [/unasked], inject: always}
  - {name: plain, agents: ['*'], to: ['https://api.test'], paths: [/plain]}
";

/// What the record says of a request is enough to ask it again: with the same policy, the same comes of
/// it, whatever slot it referred in, and whatever it was narrowed by.
#[test]
fn what_was_decided_is_explained_as_it_was_decided() {
    const SOCKET: [&str; 4] = [
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    ];
    const SECRET: &str = "4ec39hqlyjwdarjtt1zdp7dc";
    let world = World::with(BEARER, canary(), |home, _| {
        let to = ["--to", "https://api.test"];
        home.add("tg", &[&to[..], &["--path=/bot{secret}/**"]].concat(), &canary());
        home.add("js", &[&to[..], &["--json-pointer", "/auth/token"]].concat(), &canary());
        home.policy(SLOTTED);
    });
    let made = world.home.locum(&["run-token", "--agent", "worker", "--use", "tg", "--json"]).ok();
    let made: serde_json::Value = serde_json::from_str(&made.out).unwrap();
    let narrow = Agent {
        name: "worker".to_owned(),
        token_id: String::new(),
        token: made["token"].as_str().unwrap().to_owned(),
    };
    let json = ["Content-Type: application/json"];
    let secret = format!("Authorization: Bearer locum_{SECRET}");
    let asked = |method: &str, path: &str, fields: &[&str], body: &str| {
        (false, path.to_owned(), request(method, path, fields, body))
    };
    let by_run =
        |path: &str, fields: &[&str]| (true, path.to_owned(), request("GET", path, fields, ""));
    for ((narrowed, path, text), decision, code, told) in [
        (asked("GET", "/v1/a", &[AUTHORIZED], ""), "allow", None, ""),
        (asked("GET", "/botlocum_tg/getMe", &[], ""), "allow", None, ""),
        (
            asked("GET", "/botlocum_gt/getMe", &[], ""),
            "refuse",
            Some("credential-refused"),
            "path: `locum_gt`",
        ),
        (asked("POST", "/json", &json, "{\"auth\": {\"token\": \"locum_js\"}}"), "allow", None, ""),
        (
            asked("POST", "/json", &json, "{\"auth\": {\"token\": \"locum_sj\"}}"),
            "refuse",
            Some("credential-refused"),
            "json:/auth/token: `locum_sj`",
        ),
        (
            asked("GET", "/v1/b", &["Authorization: Bearer locum_chat"], ""),
            "refuse",
            Some("credential-refused"),
            "header:authorization: `locum_chat`",
        ),
        (
            asked("GET", "/v1/c", &[&secret], ""),
            "refuse",
            Some("credential-refused"),
            "header:authorization: not recorded, because",
        ),
        (
            asked("GET", "/v1/d", &["Authorization: Digest locum_main"], ""),
            "refuse",
            Some("slot-mismatch"),
            "",
        ),
        (
            asked("GET", "/v1/e", &[&SOCKET[..], &[AUTHORIZED]].concat(), ""),
            "refuse",
            Some("not-allowed"),
            "",
        ),
        (
            asked("GET", "/v1/f", &[AUTHORIZED, "X-HTTP-Method-Override: DELETE"], ""),
            "refuse",
            Some("method-refused"),
            "",
        ),
        (
            asked("DELETE", "/asked", &[AUTHORIZED], ""),
            "ask",
            Some("approval-required"),
            "once a person approves",
        ),
        (asked("GET", "/unasked", &[], ""), "allow", None, ""),
        (asked("GET", "/plain", &[], ""), "allow", None, ""),
        (
            by_run("/v1/g", &[AUTHORIZED]),
            "refuse",
            Some("credential-refused"),
            "its run token leaves it: tg",
        ),
        (
            by_run("/unasked", &[]),
            "refuse",
            Some("credential-refused"),
            "its run token leaves it: tg",
        ),
        (by_run("/botlocum_tg/getMe", &[]), "allow", None, ""),
    ] {
        let agent = if narrowed { &narrow } else { &world.agent };
        let before = world.home.audit().len();
        drop(world.serve.tunnel(agent, HOST).ask(&text));
        let record = eventually("the access record", PATIENCE, || {
            let records = world.home.audit().split_off(before);
            records.into_iter().find(|r| r["kind"] == "access" && r["path"] == *path)
        });
        let refused = record["decision"] == "refuse";
        assert_eq!((refused, record["code"].as_str()), (code.is_some(), code), "{text}{record}");
        let id = record["request_id"].as_str().unwrap();
        let ran = world.home.locum(&["policy", "explain", "--request", id, "--json"]);
        let explained: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
        assert_eq!(explained["decision"], decision, "{text}{record} {explained}");
        if decision == "refuse" {
            assert_eq!(explained["code"].as_str(), code, "{text}{explained}");
        }
        let shown = world.home.locum(&["policy", "explain", "--request", id]).out;
        assert!(shown.contains(told), "{told}: {shown}");
    }
    let log = world.home.audit();
    assert!(!log.iter().any(|record| record.to_string().contains(SECRET)));
}

/// What is typed is asked as a client would send it, wherever the credential enters.
#[test]
fn what_is_typed_refers_in_the_credentials_own_slot() {
    let home = Home::new();
    let to = ["--to", "https://api.test"];
    for (name, slot) in [
        ("tg", "--path=/bot{secret}/**"),
        ("js", "--json-pointer=/auth/token"),
        ("form", "--form=token"),
        ("query", "--query=key"),
        ("socket", "--websocket=/d/token"),
        ("basic", "--basic=user"),
    ] {
        home.add(name, &[&to[..], &[slot]].concat(), &canary());
        home.add_policy(
            &format!("{name}.yaml"),
            &format!("version: 1\nrules: [{{name: for-{name}, agents: ['*'], use: [{name}]}}]\n"),
        );
    }
    home.policy("version: 1\nrules: [{name: none, agents: ['*'], to: ['https://api.test'], methods: [GET]}]\n");
    home.agent("worker");
    let explain =
        |words: &[&str]| home.locum(&[&["policy", "explain", "--agent", "worker"], words].concat());
    for (method, path, name) in [
        ("GET", "/botlocum_tg/getMe", "tg"),
        ("POST", "/x", "js"),
        ("POST", "/x", "form"),
        ("GET", "/x", "query"),
        ("SOCKET", "/x", "socket"),
        ("GET", "/x", "basic"),
    ] {
        let url = format!("https://api.test{path}");
        let out = explain(&[method, &url, "--use", name]).ok().out;
        assert!(out.starts_with(&format!("decision: allow, by the rule `for-{name}`")), "{out}");
    }
    let out = explain(&["GET", "https://api.test/getMe", "--use", "tg"]).out;
    assert!(out.contains("`locum_tg` is taken to be in the path; write it there"), "{out}");
}
