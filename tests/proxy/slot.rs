//! Where a reference becomes a key, where it stays text, and where it is refused.

use serde_json::Value;

use crate::support::*;

/// How often the key stands in all that the origin was ever sent, raw or in Basic.
fn copies(world: &World) -> usize {
    let raw = world.origin.raw().concat();
    let count = |needle: &str| raw.matches(needle).count();
    let in_basic = world.origin.seen().into_iter().flat_map(|s| s.headers);
    let in_basic = in_basic.filter_map(|(_, v)| {
        let pair = data_encoding::BASE64.decode(v.strip_prefix("Basic ")?.as_bytes()).ok()?;
        String::from_utf8_lossy(&pair).contains(&world.key).then_some(())
    });
    count(&world.key) + in_basic.count()
}

/// The refusal without what names the one request.
fn anonymous(answer: &Answer) -> (u16, Value) {
    let mut body = answer.json();
    body["instance"] = Value::Null;
    (answer.status, body)
}

#[test]
fn exactly_one_copy_goes_out_and_nothing_else_changes() {
    let world = World::new();
    let mut wire = world.tunnel();
    let fields = ["X-First: 1", "accept: */*", AUTHORIZED, "x-CASE: Kept", "X-First: 2"];
    let answer = wire.ask(request("POST", "/v1/x?b=2&a=%2f&c=%C3%A9", &fields, "the body"));
    assert_eq!(answer.status, 200);
    let raw = world.origin.last_raw();
    let head = raw.split("\r\n\r\n").next().unwrap();
    assert!(head.starts_with("POST /v1/x?b=2&a=%2f&c=%C3%A9 HTTP/1.1\r\n"), "{head}");
    for kept in ["X-First: 1", "X-First: 2", "x-CASE: Kept", "accept: */*"] {
        assert!(head.lines().any(|line| line == kept), "{kept} in {head}");
    }
    assert!(head.contains(&format!("Authorization: Bearer {}", world.key)), "{head}");
    assert!(!raw.contains("locum"), "{raw}");
    assert_eq!(world.origin.last().body, b"the body");
    assert_eq!(copies(&world), 1);
    // A second copy of the reference, or a key of the client's own beside it, does not go out.
    for more in ["Authorization: Bearer locum_main", "Authorization: Bearer my-own"] {
        assert_eq!(wire.ask(request("GET", "/", &[AUTHORIZED, more], "")).status, 200);
        assert_eq!(world.origin.last().all("authorization").len(), 1);
    }
    assert_eq!(copies(&world), 3);
    world.never_leaks(&[("the wire", &wire.transcript)]);
}

#[test]
fn of_two_slots_one_is_filled_and_the_other_emptied() {
    let slots = [BEARER, &["--header", "X-Key: {secret}"]].concat();
    let world = World::with(&slots, canary(), |_, _| {});
    let bearer = format!("Bearer {}", world.key);
    for (fields, authorization, x_key) in [
        (&[AUTHORIZED][..], Some(&*bearer), None),
        (&["X-Key: locum_main"], None, Some(&*world.key)),
        (&["X-Key: locum_main", AUTHORIZED], Some(&*bearer), None),
        (&[AUTHORIZED, "X-Key: my-own-key"], Some(&*bearer), None),
        (&["Authorization: Bearer my-own-key", "X-Key: locum_main"], None, Some(&*world.key)),
    ] {
        assert_eq!(world.ask("GET", "/", fields, "").status, 200, "{fields:?}");
        let seen = world.origin.last();
        assert_eq!(seen.header("authorization"), authorization, "{fields:?}");
        assert_eq!(seen.header("x-key"), x_key, "{fields:?}");
        assert!(seen.all("authorization").len() + seen.all("x-key").len() == 1, "{fields:?}");
    }
    assert_eq!(copies(&world), 5);
}

/// Of two credentials in one place one would be missing, and the record would have both.
#[test]
fn two_credentials_that_claim_one_place_are_refused() {
    let slots = [BEARER, &["--header", "X-Key: {secret}"]].concat();
    let (second, third) = (canary(), canary());
    let world = World::with(&slots, canary(), |home, _| {
        let basic =
            ["--to", "https://api.test", "--basic", "robot", "--header", "X-Third: {secret}"];
        home.add("second", &basic, &second);
        home.add("third", &["--to", "https://api.test", "--header", "X-Other: {secret}"], &third);
    });
    let in_basic = format!("Authorization: {}", basic("robot", "locum_second"));
    for fields in [
        [AUTHORIZED, &*in_basic],
        [&*in_basic, AUTHORIZED],
        // Filling the one would take the other out.
        ["X-Key: locum_main", &*in_basic],
        [AUTHORIZED, "X-Third: locum_second"],
    ] {
        let answer = world.ask("GET", "/v1/x", &fields, "");
        assert_eq!((answer.status, &*answer.problem()), (400, "bad-request"), "{fields:?}");
        assert!(answer.text().contains("claim one place"), "{}", answer.text());
        let id = answer.request_id();
        world.home.records_of(&id, 1);
        let explained = world.home.locum(&["policy", "explain", "--request", &id]).out;
        assert!(explained.contains("decision: refuse, with bad-request"), "{explained}");
        assert!(explained.contains("claim one place"), "{explained}");
    }
    assert_eq!(world.origin.connections(), 0);
    let fields = [AUTHORIZED, "X-Other: locum_third"];
    assert_eq!(world.ask("GET", "/v1/x", &fields, "").status, 200);
    assert_eq!(world.origin.last().header("x-other"), Some(&*third));
}

/// What a rule puts in unasked stands in one place each, and takes nothing else out on its way.
#[test]
fn credentials_that_go_unasked_claim_the_place_that_they_are_put_in() {
    let key = ["--to", "https://api.test", "--header", "X-Key: {secret}"];
    let slots = [&key[..], &["--header", "Authorization: Bearer {secret}"]].concat();
    let (early, second) = (canary(), canary());
    let world = World::with(&slots, canary(), |home, _| {
        home.add("early", BEARER, &early);
        home.add("second", BEARER, &second);
        home.policy(
            "version: 1\nrules:\n\
             - {name: one, agents: ['*'], to: ['https://api.test'], paths: [/one], use: [early, main], inject: always}\n\
             - {name: two, agents: ['*'], to: ['https://api.test'], paths: [/two], use: [main, second], inject: always}\n",
        );
    });
    let own = ["Authorization: Bearer my-own-key", "X-Key: my-own-key"];
    for (path, bearer) in [("/one", &early), ("/two", &second)] {
        for fields in [&[][..], &own] {
            let answer = world.ask("GET", path, fields, "");
            assert_eq!(answer.status, 200, "{path}: {}", answer.text());
            let seen = world.origin.last();
            assert_eq!(seen.all("authorization"), [format!("Bearer {bearer}")], "{path}");
            assert_eq!(seen.all("x-key"), [&*world.key], "{path}");
        }
    }
}

#[test]
fn unknown_revoked_unbound_and_forbidden_look_alike() {
    let world = World::with(BEARER, canary(), |home, origin| {
        let other = canary();
        let header = "Authorization: Bearer {secret}";
        home.add("elsewhere", &["--to", "https://else.test", "--header", header], &other);
        home.add("gone", BEARER, &canary());
        home.locum(&["credential", "revoke", "gone"]).ok();
        home.add("forbidden", BEARER, &canary());
        home.policy(
            "version: 1\nrules:\n- {name: one, agents: ['*'], to: ['https://api.test'], use: [main, elsewhere, gone]}\n",
        );
        let _ = origin;
    });
    let names = ["unknown", "gone", "elsewhere", "forbidden", "UPPER", "main-", "main_x"];
    let mut heard = Vec::new();
    for name in names {
        let field = format!("Authorization: Bearer locum_{name}");
        let answer = world.ask("GET", "/", &[&field], "");
        assert_eq!(answer.problem(), "credential-refused", "{name}: {}", answer.text());
        heard.push(anonymous(&answer));
    }
    for (name, other) in names.iter().zip(&heard) {
        assert_eq!(other, &heard[0], "{name}");
    }
    assert_eq!(world.origin.connections(), 0);
    // Only the operator learns which it was, and an alert is raised for the one that travels.
    assert!(world.serve.metric("locum_unbound_references_total") >= 1);
    let reasons: Vec<String> = world
        .home
        .accesses_to("/")
        .iter()
        .map(|r| r["reason"].as_str().unwrap_or_default().to_owned())
        .collect();
    assert!(reasons[0].contains("no credential"), "{reasons:?}");
    assert!(reasons[1].contains("revoked"), "{reasons:?}");
    assert!(reasons[2].contains("not bound"), "{reasons:?}");
    assert!(reasons[3].contains("no rule"), "{reasons:?}");
}

#[test]
fn a_reference_in_another_shape_is_refused() {
    let world = World::new();
    for value in ["Token locum_main", "locum_main", "Bearer  x locum_main", "Bearer locum_main,x"] {
        let field = format!("Authorization: {value}");
        let answer = world.ask("GET", "/", &[&field], "");
        let code = answer.problem();
        assert!(code == "slot-mismatch" || code == "credential-refused", "{value}: {code}");
    }
    let field = format!("Authorization: {}", basic("user", "locum_main"));
    assert_eq!(world.ask("GET", "/", &[&field], "").problem(), "slot-mismatch");
    assert_eq!(world.origin.connections(), 0);
}

#[test]
fn outside_the_slots_a_reference_is_text() {
    let world = World::new();
    let fields = [
        AUTHORIZED,
        "User-Agent: locum_main",
        "Cookie: a=locum_main; b=1",
        "X-Request-Id: Bearer locum_main",
        "Origin: https://locum_main.test",
        "Referer: https://api.test/?key=locum_main",
        "If-None-Match: \"locum_main\"",
        "Idempotency-Key: locum_main",
        "Prefer: locum_main",
        "X-Api-Key: locum_main",
    ];
    let body = "{\"history\": \"my key is locum_main\"}";
    let answer = world.ask("POST", "/locum_main/x?q=locum_main&locum_main=1", &fields, body);
    assert_eq!(answer.status, 200, "{}", answer.text());
    let seen = world.origin.last();
    assert_eq!(seen.target, "/locum_main/x?q=locum_main&locum_main=1");
    assert_eq!(seen.body, body.as_bytes());
    let head = world.origin.last_raw();
    for field in &fields[1..] {
        assert!(head.contains(&format!("{field}\r\n")), "{field} in {head}");
    }
    assert_eq!(copies(&world), 1);
    let record = world.home.accesses_to("/locum_main/x").remove(0);
    let misplaced = record["misplaced"].as_u64().unwrap();
    // Nine fields, the path, a value and a name of the query; and in the outcome the body.
    assert_eq!(misplaced, 12, "{record}");
    let outcome = outcome_of(&world, &record);
    assert_eq!(outcome["misplaced"], 1, "{outcome}");
    assert_eq!(world.serve.metric("locum_misplaced_references_total"), misplaced + 1);
}

fn outcome_of(world: &World, access: &serde_json::Value) -> serde_json::Value {
    world.home.records_of(access["request_id"].as_str().unwrap(), 2).remove(1)
}

/// A body that nobody has to read passes as it comes, and is looked at on its way.
#[test]
fn references_in_a_body_that_passes_are_counted() {
    let world = World::with(BEARER, canary(), |home, _| {
        let _value = home
            .locum(&["credential", "add", "bait", "--provider", "openai", "--honeytoken", "--json"])
            .ok();
    });
    let mut count = 0;
    for (number, (pieces, kind, references)) in [
        (&["my key is locum_main, and yours locum_other"][..], "text/plain", 2),
        (&["my key is loc", "um_", "main"], "text/plain", 1),
        (&["{\"history\": [\"locum_main", "\"]}"], "application/json", 1),
        (&["nothing of the kind, but locum"], "text/plain", 0),
        (&["\0\x01binary locum_main\x7f"], "application/octet-stream", 1),
    ]
    .into_iter()
    .enumerate()
    {
        let path = format!("/{number}");
        let fields = [AUTHORIZED, "Transfer-Encoding: chunked", &format!("Content-Type: {kind}")];
        let mut wire = world.tunnel();
        wire.send(request("POST", &path, &fields, ""));
        for piece in pieces {
            wire.send(format!("{:x}\r\n{piece}\r\n", piece.len()));
        }
        assert_eq!(wire.ask("0\r\n\r\n").status, 200);
        assert_eq!(world.origin.last().body, pieces.concat().as_bytes());
        let access = world.home.accesses_to(&path).remove(0);
        assert_eq!(access.get("misplaced"), None);
        let outcome = outcome_of(&world, &access);
        assert_eq!(outcome["misplaced"].as_u64().unwrap_or(0), references, "{number}");
        count += references;
    }
    assert_eq!(world.serve.metric("locum_misplaced_references_total"), count);
    // Whoever names a bait sets off the alarm; and under a coding nothing can be seen.
    assert_eq!(world.ask("POST", "/x", &[AUTHORIZED], "locum_bait").status, 200);
    let coded = [AUTHORIZED, "Content-Encoding: x-of-ours"];
    assert_eq!(world.ask("POST", "/x", &coded, "locum_bait").status, 200);
    let counted = || world.serve.metric("locum_misplaced_references_total");
    eventually("the count", PATIENCE, || (counted() == count + 1).then_some(()));
    assert_eq!(world.serve.metric("locum_honeytokens_total"), 1);
    world.never_leaks(&[]);
}

#[test]
fn a_rule_that_refuses_misplaced_references_refuses_those_in_bodies() {
    let world = World::ruled(
        "version: 1\nrules:\n- {name: strict, agents: ['*'], to: ['https://api.test'], use: [main], misplaced: refuse}\n",
    );
    let answer = world.ask("POST", "/whole", &[AUTHORIZED], "see locum_main");
    assert_eq!(answer.problem(), "misplaced-reference");
    assert!(world.origin.raw().concat().is_empty(), "nothing left");
    // Of one that is on its way already, no more than stands before it goes on.
    let mut wire = world.tunnel();
    let start = "x".repeat(1000);
    let head = request("POST", "/begun", &[AUTHORIZED, "Content-Length: 2000"], "");
    wire.send(head + &start);
    world.origin.until_seen(1);
    let answer = wire.ask(format!("see locum_main{}", "x".repeat(986)));
    assert_eq!(answer.problem(), "misplaced-reference");
    eventually("what came of them", PATIENCE, || {
        let seen = world.origin.seen();
        seen.iter()
            .all(|seen| !seen.complete && !seen.body.windows(6).any(|w| w == b"locum_"))
            .then_some(())
    });
    assert_eq!(world.ask("POST", "/", &[AUTHORIZED], "see locum").status, 200);
}

#[test]
fn a_rule_may_refuse_misplaced_references() {
    let world = World::ruled(
        "version: 1\nrules:\n- {name: strict, agents: ['*'], to: ['https://api.test'], use: [main], misplaced: refuse}\n",
    );
    assert_eq!(world.get("/").status, 200);
    for field in ["User-Agent: locum_main", "Cookie: a=locum_main"] {
        let answer = world.ask("GET", "/", &[AUTHORIZED, field], "");
        assert_eq!(answer.problem(), "misplaced-reference", "{field}");
    }
    assert_eq!(world.get("/?q=locum_main").problem(), "misplaced-reference");
    assert_eq!(world.get("/locum_main").problem(), "misplaced-reference");
    assert_eq!(world.origin.seen().len(), 1);
}

#[test]
fn basic_keeps_the_other_half() {
    let world = World::with(&["--to", "https://api.test", "--basic", "bot"], canary(), |_, _| {});
    let sent = |user: &str, password: &str| basic(user, password);
    for (field, user) in [
        (sent("alice", "locum_main"), "alice"),
        (sent("", "locum_main"), ""),
        (sent("x-access-token", "locum_main"), "x-access-token"),
        (sent("alice", "locum_main").replace("Basic", "bAsIc"), "alice"),
        (sent("alice", "locum_main").trim_end_matches('=').to_owned(), "alice"),
        (sent("locum_main", "locum_main"), "bot"),
    ] {
        let answer = world.ask("GET", "/", &[&format!("Authorization: {field}")], "");
        assert_eq!(answer.status, 200, "{field}: {}", answer.text());
        let expected = basic(user, &world.key);
        assert_eq!(world.origin.last().header("authorization"), Some(&*expected), "{field}");
    }
    for (user, password) in [("locum_main", "x"), ("locum_main", ""), ("a", "locum_mainx")] {
        let field = format!("Authorization: {}", basic(user, password));
        let answer = world.ask("GET", "/", &[&field], "");
        assert_eq!(answer.status, 403, "{user}:{password}: {}", answer.text());
    }
    assert_eq!(world.origin.seen().len(), 6);
    world.never_leaks(&[]);
}

#[test]
fn the_secret_may_be_the_user_name() {
    let slots = ["--to", "https://api.test", "--basic", "{secret}"];
    let world = World::with(&slots, canary(), |_, _| {});
    let field = format!("Authorization: {}", basic("locum_main", "kept"));
    assert_eq!(world.ask("GET", "/", &[&field], "").status, 200);
    let expected = basic(&world.key, "kept");
    assert_eq!(world.origin.last().header("authorization"), Some(&*expected));
}

#[test]
fn a_stand_in_is_a_reference() {
    let stand_in = "sk-test-locum_main_0000000000";
    let slots = [BEARER, &["--stand-in", stand_in]].concat();
    let world = World::with(&slots, canary(), |_, _| {});
    for reference in [stand_in, "locum_main"] {
        let field = format!("Authorization: Bearer {reference}");
        assert_eq!(world.ask("GET", "/", &[&field], "").status, 200, "{reference}");
    }
    assert_eq!(copies(&world), 2);
    let longer = format!("x{stand_in}");
    let shorter = &stand_in[..stand_in.len() - 1];
    for other in [&*longer, shorter] {
        let field = format!("Authorization: Bearer {other}");
        assert_eq!(world.ask("GET", "/", &[&field], "").problem(), "credential-refused", "{other}");
    }
    assert_eq!(copies(&world), 2);
    // What is echoed comes back as what the client sent.
    let field = format!("Authorization: Bearer {stand_in}");
    let answer = world.ask("GET", "/echo/raw", &[&field], "");
    assert_eq!(answer.text(), format!("{BEFORE}{stand_in}{AFTER}"));
}

#[test]
fn a_rule_may_inject_without_a_reference() {
    let world = World::ruled(
        "version: 1\nrules:\n- {name: always, agents: ['*'], to: ['https://api.test'], paths: ['/v1/**'], use: [main], inject: always}\n- {name: open, agents: ['*'], to: ['https://api.test']}\n",
    );
    for fields in [&[][..], &["Authorization: Bearer my-own-key"], &[AUTHORIZED]] {
        assert_eq!(world.ask("GET", "/v1/models", fields, "").status, 200, "{fields:?}");
        let expected = format!("Bearer {}", world.key);
        assert_eq!(world.origin.last().header("authorization"), Some(&*expected), "{fields:?}");
    }
    assert_eq!(copies(&world), 3);
    // Beyond the rule's paths the client's own key is the client's own affair.
    let answer = world.ask("GET", "/open/x", &["Authorization: Bearer my-own-key"], "");
    assert_eq!(answer.status, 200);
    assert_eq!(world.origin.last().header("authorization"), Some("Bearer my-own-key"));
    assert_eq!(copies(&world), 3);
    let records = world.home.accesses_to("/v1/models");
    assert!(records.iter().all(|r| r["credential"] == "main" && r["rule"] == "always"));
}

#[test]
fn a_query_parameter_is_replaced_where_it_stands() {
    let slots = ["--to", "https://api.test", "--query", "key"];
    let world = World::with(&slots, thorny_canary(), |_, _| {});
    let encoded = encode("percent", &world.key);
    let encoded = String::from_utf8(encoded).unwrap();
    let mut wire = world.tunnel();
    for (sent, arrived) in [
        ("/v1?key=locum_main", "/v1?key={}"),
        ("/v1?a=%2F&key=locum_main&b=+x", "/v1?a=%2F&key={}&b=+x"),
        ("/v1?key=locum%5Fmain&b", "/v1?key={}&b"),
    ] {
        let answer = wire.ask(request("GET", sent, &[], ""));
        assert_eq!(answer.status, 200, "{sent}: {}", answer.text());
        assert_eq!(world.origin.last().target, arrived.replace("{}", &encoded), "{sent}");
    }
    let answer = wire.ask(request("GET", "/v1?key=locum_unknown", &[], ""));
    assert_eq!(answer.problem(), "credential-refused");
    // An origin that shows the URL shows no key, and the record has no query at all.
    let answer = wire.ask(request("GET", "/echo?key=locum_main", &[], ""));
    assert_eq!(answer.status, 200);
    assert!(answer.text().contains("locum_main"), "{}", answer.text());
    world.never_leaks(&[("the wire", &wire.transcript)]);
    let records = world.home.accesses_to("/v1");
    assert_eq!(records.len(), 4);
    assert!(records.iter().all(|r| !r.to_string().contains("key=")), "{records:?}");
}

#[test]
fn several_credentials_enter_one_request() {
    let second = canary();
    let world = World::with(BEARER, canary(), |home, _| {
        home.add("second", &["--to", "https://api.test", "--header", "X-Key: {secret}"], &second);
    });
    let answer = world.ask("GET", "/echo", &[AUTHORIZED, "X-Key: locum_second"], "");
    assert_eq!(answer.status, 200);
    let seen = world.origin.last();
    assert_eq!(seen.header("x-key"), Some(&*second));
    assert_eq!(seen.header("authorization"), Some(&*format!("Bearer {}", world.key)));
    // All or nothing.
    let answer = world.ask("GET", "/", &[AUTHORIZED, "X-Key: locum_third"], "");
    assert_eq!(answer.problem(), "credential-refused");
    assert_eq!(world.origin.seen().len(), 1);
    let record = world.home.accesses_to("/echo").remove(0);
    let all = [&record["credential"], &record["more_credentials"][0]["credential"]];
    assert!(all.contains(&&"main".into()) && all.contains(&&"second".into()), "{record}");
    world.home.never_leaks(&[&world.key, &second], &[]);
}

#[test]
fn a_secret_cannot_hold_a_reference() {
    let home = Home::new();
    let key = format!("sk-locum_other-{}", canary());
    let all = [&["credential", "add", "main"], BEARER].concat();
    let ran = home.locum_with(&all, key.as_bytes()).failed(64);
    assert!(ran.err.contains("placeholder"), "{}", ran.err);
    home.never_leaks(&[&key], &[]);
}

#[test]
fn a_client_cannot_have_the_slot_taken_away_after_the_injection() {
    let world = World::new();
    // Not without a word either: a call without its key would be the worst of answers.
    let fields = [AUTHORIZED, "Connection: authorization, x-gone, keep-alive", "X-Gone: 1"];
    let answer = world.ask("GET", "/open/x", &fields, "");
    assert_eq!((answer.status, &*answer.problem()), (400, "bad-request"));
    assert_eq!(world.origin.connections(), 0);
    let fields = [AUTHORIZED, "Connection: x-gone, keep-alive", "X-Gone: 1"];
    assert_eq!(world.ask("GET", "/open/x", &fields, "").status, 200);
    assert!(world.origin.last().header("authorization").is_some());
    assert_eq!((world.origin.last().header("x-gone"), copies(&world)), (None, 1));
    for field in
        ["Proxy-Authorization: Basic eDp5", "Proxy-Connection: keep-alive", "Keep-Alive: 5"]
    {
        assert_eq!(world.ask("GET", "/open/x", &[field], "").status, 200);
        let name = field.split(':').next().unwrap().to_lowercase();
        assert!(world.origin.last().header(&name).is_none(), "{field} was forwarded");
    }
}

/// A reference in the head that goes elsewhere is told of wherever it stands.
#[test]
fn a_reference_that_goes_elsewhere_is_an_alarm_outside_the_slots_too() {
    let world = World::with(BEARER, canary(), |home, _| {
        let elsewhere = ["--to", "https://else.test", "--header", "X-Else: {secret}"];
        home.add("elsewhere", &elsewhere, &canary());
    });
    let counted = || world.serve.metric("locum_unbound_references_total");
    for (target, field) in [
        ("/open/x", "X-Note: locum_elsewhere"),
        ("/open/x", "Cookie: a=locum_elsewhere"),
        ("/open/x?a=locum_elsewhere", "X-Note: 1"),
        ("/open/locum_elsewhere/x", "X-Note: 1"),
    ] {
        let before = counted();
        assert_eq!(world.ask("GET", target, &[field], "").status, 200, "{target} {field}");
        assert_eq!(counted(), before + 1, "{target} {field}");
    }
    let before = counted();
    // Its own, and one that nobody has, are text.
    for field in ["X-Note: locum_main", "X-Note: locum_nobody"] {
        assert_eq!(world.ask("GET", "/open/x", &[field], "").status, 200);
    }
    assert_eq!(counted(), before);
}

/// A method in other letters is none that a rule names, and the same to many an origin.
#[test]
fn methods_are_in_capitals() {
    let world = World::ruled(
        "version: 1
rules:
  - {name: mine, agents: ['*'], use: ['*']}
  - {name: nothing is deleted, agents: ['*'], to: ['https://api.test'], methods: [DELETE], deny: true}
",
    );
    assert_eq!(world.ask("DELETE", "/open/x", &[AUTHORIZED], "").problem(), "not-allowed");
    for method in ["delete", "Delete", "trace", "Connect", "track", "get", "purge"] {
        let answer = world.ask(method, "/open/x", &[AUTHORIZED], "");
        assert_eq!((answer.status, &*answer.problem()), (405, "method-refused"), "{method}");
    }
    assert_eq!(world.origin.connections(), 0);
    assert_eq!(world.ask("PURGE", "/open/x", &[AUTHORIZED], "").status, 200);
}

/// CGI and its kin read `_` for `-`, and join what comes under both or take the last.
#[test]
fn beside_an_injected_field_none_goes_on_that_is_read_as_the_same() {
    let slots = ["--to", "https://api.test", "--header", "X-Api-Key: {secret}"];
    let world = World::with(&slots, canary(), |_, _| {});
    let fields = ["X_Api_Key: mine", "X-Api-Key: locum_main", "x.api-key: mine", "X_Api_Keys: 1"];
    let answer = world.ask("GET", "/open/x", &fields, "");
    assert_eq!(answer.status, 200, "{}", answer.text());
    let seen = world.origin.last();
    assert_eq!(seen.all("x-api-key"), [&*world.key]);
    for (name, value) in [("x_api_key", None), ("x.api-key", None), ("x_api_keys", Some("1"))] {
        assert_eq!(seen.header(name), value, "{name}");
    }
    let head = request("POST", "/echo", &[fields[1], "Transfer-Encoding: chunked"], "");
    let answer = world.tunnel().ask(format!("{head}1\r\nx\r\n0\r\nX_Api_Key: mine\r\n\r\n"));
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert!(!world.origin.last_raw().contains("mine"), "{}", world.origin.last_raw());
}

/// A condition is asked of every reading that an origin may have of query and fields.
#[test]
fn conditions_hold_for_names_as_php_cgi_and_asp_read_them() {
    let world = World::ruled(
        "version: 1
rules:
  - {name: safe, agents: ['*'], use: [main], query: {mode: safe}, headers: {X-Mode: safe}}
  - {name: never, agents: ['*'], to: ['https://api.test'], query: {danger: '*'}, deny: true}
",
    );
    let ask = |query: &str, field: &str| {
        let target = format!("/open/x{query}");
        world.ask("GET", &target, &[AUTHORIZED, "X-Mode: safe", field], "").status
    };
    assert_eq!(ask("?mode=safe", "X-Note: 1"), 200);
    for (query, field) in [
        ("?mode=safe&+mode=evil", "X-Note: 1"),
        ("?mode=safe&%20mode=evil", "X-Note: 1"),
        ("?mode=safe&mode%00=evil", "X-Note: 1"),
        ("?mode=safe&+danger=1", "X-Note: 1"),
        ("?mode=safe&danger%00x=1", "X-Note: 1"),
        ("?mode=safe&danger%20=1", "X-Note: 1"),
        ("?mode=safe&%u0064anger=1", "X-Note: 1"),
        ("?mode=safe&%25U0064anger=1", "X-Note: 1"),
        ("?mode=safe&%u006dode=evil", "X-Note: 1"),
        ("?mode=saf%u0065", "X-Note: 1"),
        ("?mode=safe", "X_Mode: evil"),
    ] {
        assert_eq!(ask(query, field), 403, "{query} {field}");
    }
    assert_eq!(world.origin.seen().len(), 1);
}
