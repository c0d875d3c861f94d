//! Requests that a person has to approve: held or refused, bound to what will be sent, once.

use hmac::{KeyInit as _, Mac as _};
use serde_json::{Value, json};

use crate::support::*;

const HELD: &str = "version: 1
rules:
  - name: free
    agents: ['*']
    use: ['*']
    methods: [GET]
  - name: mail
    agents: ['*']
    use: ['*']
    methods: [POST, DELETE]
    paths: [/mail/**]
    approval: {wait: 5m, valid: 10m}
  - name: later
    agents: ['*']
    use: ['*']
    methods: [POST, DELETE]
    paths: [/later/**]
    approval: {answer: refuse}
";

const JSON: &str = "Content-Type: application/json";

fn waiting(world: &World) -> Vec<Value> {
    let out = world.home.locum(&["approvals", "list", "--json"]).ok().out;
    serde_json::from_str(&out).unwrap()
}

/// The one question that waits.
#[track_caller]
fn question(world: &World) -> Value {
    eventually("the question", PATIENCE, || waiting(world).pop())
}

fn id(question: &Value) -> &str {
    question["id"].as_str().unwrap()
}

fn problem(answer: &Answer) -> (u16, String, String) {
    let problem: Value = serde_json::from_slice(&answer.body).unwrap();
    let text = |key: &str| problem[key].as_str().unwrap().to_owned();
    (answer.status, text("code"), text("detail"))
}

/// No person sees them, so they would not be what was approved.
#[test]
fn a_request_that_has_to_be_approved_may_have_no_trailers() {
    let world = World::ruled(HELD);
    let fields = [AUTHORIZED, "Transfer-Encoding: chunked", "Trailer: X-Amount"];
    let head = request("POST", "/mail/send", &fields, "");
    let answer = world.tunnel().ask(format!("{head}2\r\nhi\r\n0\r\nX-Amount: 1\r\n\r\n"));
    let (status, code, detail) = problem(&answer);
    assert_eq!((status, &*code), (400, "bad-request"));
    assert!(detail.contains("trailers"), "{detail}");
    assert!(waiting(&world).is_empty());
}

#[test]
fn a_request_is_held_until_a_person_approves_it() {
    let world = World::ruled(HELD);
    assert_eq!(world.get("/free").status, 200);
    let mut wire = world.tunnel();
    wire.send(request("POST", "/mail/send?to=bob", &[AUTHORIZED, JSON], "{\"subject\": \"hi\"}"));
    let asked = question(&world);
    assert_eq!(asked["agent"], "worker");
    assert_eq!(asked["rule"], "mail");
    assert_eq!(asked["method"], "POST");
    assert_eq!(asked["target"], "/mail/send?to=bob");
    assert_eq!(asked["use"], json!(["main"]));
    assert_eq!(asked["body"], "{\"subject\": \"hi\"}");
    assert_eq!(world.serve.metric("locum_approvals_open"), 1);
    let listed = world.home.locum(&["approvals", "list"]).ok().out;
    assert!(listed.contains("/mail/send?to=bob") && listed.contains(id(&asked)), "{listed}");
    let shown = world.home.locum(&["approvals", "show", id(&asked)]).ok().out;
    assert!(shown.contains("{\"subject\": \"hi\"}") && shown.contains("SHA-256"), "{shown}");
    assert!(world.origin.raw().iter().all(|raw| !raw.contains("/mail/send")), "it has not left");
    world.home.locum(&["approvals", "approve", id(&asked)]).ok();
    assert_eq!(wire.answer().status, 200);
    let sent = world.origin.last();
    assert_eq!(sent.body, b"{\"subject\": \"hi\"}");
    assert!(sent.header("authorization").unwrap().contains(&world.key));
    assert_eq!(waiting(&world), [] as [Value; 0]);
    let events: Vec<Value> = eventually("all events", PATIENCE, || {
        let of = |r: &Value| r["subject"] == asked["id"];
        let events: Vec<Value> = world.home.audit().into_iter().filter(of).collect();
        (events.len() >= 3).then_some(events)
    });
    let mut names: Vec<&str> = events.iter().map(|e| e["event"].as_str().unwrap()).collect();
    names.sort_unstable();
    assert_eq!(names, ["approval-asked", "approval-granted", "approval-used"]);
    assert_eq!(world.serve.metric("locum_approvals_total{result=\"used\"}"), 1);
    // It was for once.
    let mut again = world.tunnel();
    again.send(request("POST", "/mail/send?to=bob", &[AUTHORIZED, JSON], "{\"subject\": \"hi\"}"));
    let second = question(&world);
    assert_ne!(second["id"], asked["id"]);
    assert_eq!(second["digest"], asked["digest"]);
    world.never_leaks(&[("listed", listed.as_bytes()), ("shown", shown.as_bytes())]);
}

/// Behind a handshake anything may be sent: nobody shall take it for a GET.
#[test]
fn a_person_sees_that_a_request_goes_on_as_a_websocket() {
    let world = World::ruled(
        "version: 1
rules:
  - {name: later, agents: ['*'], use: ['*'], approval: {answer: refuse}}
",
    );
    let ask = |key: &str| {
        let key = format!("Sec-WebSocket-Key: {key}");
        let fields = [
            AUTHORIZED,
            "Upgrade: websocket",
            "Connection: Upgrade",
            "Sec-WebSocket-Version: 13",
            &*key,
        ];
        problem(&world.ask("GET", "/later/stream", &fields, ""))
    };
    assert_eq!(ask("dGhlIHNhbXBsZSBub25jZQ==").0, 403);
    let asked = question(&world);
    assert_eq!((&asked["method"], &asked["upgrade"]), (&json!("GET"), &json!("websocket")));
    for command in [&["approvals", "list"][..], &["approvals", "show", id(&asked)]] {
        let out = world.home.locum(command).ok().out;
        assert!(out.contains("GET as a websocket https://api.test/later/stream"), "{out}");
    }
    // Each handshake has a key of its own, and the question is the same; that of a GET is another.
    assert_eq!(ask("AQIDBAUGBwgJCgsMDQ4PEA==").0, 403);
    assert_eq!(waiting(&world).len(), 1);
    assert_eq!(problem(&world.ask("GET", "/later/stream", &[AUTHORIZED], "")).0, 403);
    let both = waiting(&world);
    assert_eq!(both.len(), 2);
    assert_ne!(both[0]["digest"], both[1]["digest"]);
    assert!(both.iter().any(|question| question.get("upgrade").is_none()));
}

/// What cannot be filled is refused before a person is asked, and before a secret is opened for it.
#[test]
fn nobody_is_asked_about_two_credentials_for_one_place() {
    let second = canary();
    let world = World::with(BEARER, canary(), |home, _| {
        home.add("second", &["--to", "https://api.test", "--basic", "robot"], &second);
        home.policy(HELD);
    });
    let other = format!("Authorization: {}", basic("robot", "locum_second"));
    for path in ["/later/pay", "/mail/send"] {
        let (status, code, detail) = problem(&world.ask("POST", path, &[AUTHORIZED, &other], "x"));
        assert_eq!((status, &*code), (400, "bad-request"));
        assert!(detail.contains("claim one place"), "{detail}");
    }
    assert!(waiting(&world).is_empty());
}

#[test]
fn a_person_can_refuse() {
    let world = World::ruled(HELD);
    let mut wire = world.tunnel();
    wire.send(request("DELETE", "/mail/all", &[AUTHORIZED], ""));
    let asked = question(&world);
    let said = world.home.locum(&["approvals", "deny", &id(&asked)[..20], "--json"]).ok().out;
    assert_eq!(serde_json::from_str::<Value>(&said).unwrap()[0]["approved"], false);
    let (status, code, detail) = problem(&wire.answer());
    assert_eq!((status, code.as_str()), (403, "approval-denied"));
    assert!(detail.contains(id(&asked)), "{detail}");
    assert!(world.origin.raw().iter().all(|raw| !raw.contains("/mail/all")));
    eventually("it is counted", PATIENCE, || {
        (world.serve.metric("locum_approvals_total{result=\"denied\"}") == 1).then_some(())
    });
}

#[test]
fn a_rule_may_refuse_at_once_and_let_the_same_through_later() {
    let world = World::ruled(HELD);
    let send = |body: &str, field: &str| {
        world.ask("POST", "/later/x?y=1", &[AUTHORIZED, JSON, field], body)
    };
    let (status, code, detail) = problem(&send("{\"a\": 1}", "X-Note: one"));
    assert_eq!((status, code.as_str()), (403, "approval-required"));
    let asked = question(&world);
    assert!(detail.contains(id(&asked)), "{detail}");
    // The same again asks nobody anew.
    send("{\"a\": 1}", "X-Note: one");
    assert_eq!(waiting(&world).len(), 1);
    world.home.locum(&["approvals", "approve", id(&asked)]).ok();
    // Another body, another field, another target, another agent: other requests.
    let other = world.home.agent("other");
    for answer in [
        send("{\"a\": 2}", "X-Note: one"),
        send("{\"a\": 1}", "X-Note: two"),
        world.ask("POST", "/later/x?y=2", &[AUTHORIZED, JSON, "X-Note: one"], "{\"a\": 1}"),
        world.ask("DELETE", "/later/x?y=1", &[AUTHORIZED, JSON, "X-Note: one"], "{\"a\": 1}"),
        world.serve.tunnel(&other, HOST).ask(request(
            "POST",
            "/later/x?y=1",
            &[AUTHORIZED, JSON, "X-Note: one"],
            "{\"a\": 1}",
        )),
    ] {
        assert_eq!(problem(&answer).1, "approval-required");
    }
    eventually("what was approved goes through", PATIENCE, || {
        let answer = send("{\"a\": 1}", "X-Note: one");
        (answer.status == 200).then_some(())
    });
    let (_, code, _) = problem(&send("{\"a\": 1}", "X-Note: one"));
    assert_eq!(code, "approval-required", "once");
}

#[test]
fn what_was_decided_outlives_a_kill() {
    let world = World::ruled(HELD);
    let send = |world: &World| world.ask("POST", "/later/x", &[AUTHORIZED, JSON], "{}");
    assert_eq!(send(&world).status, 403);
    let asked = question(&world);
    world.home.locum(&["approvals", "approve", id(&asked)]).ok();
    let World { serve, origin, agent, key, home } = world;
    serve.kill();
    let world = World { serve: home.serve(), origin, agent, key, home };
    assert_eq!(send(&world).status, 200);
    assert_eq!(problem(&send(&world)).1, "approval-required");
}

#[test]
fn what_changed_meanwhile_counts() {
    let world = World::ruled(HELD);
    let mut wire = world.tunnel();
    wire.send(request("POST", "/mail/x", &[AUTHORIZED, JSON], "{}"));
    let asked = question(&world);
    world.home.policy(&HELD.replace("/mail/**", "/elsewhere/**"));
    world.home.locum(&["approvals", "approve", id(&asked)]).ok();
    let (status, code, _) = problem(&wire.answer());
    assert_eq!((status, code.as_str()), (403, "not-allowed"));
    assert!(world.origin.raw().iter().all(|raw| !raw.contains("/mail/x")));
}

/// Whoever can write to the home, and has not the vault's key, approves nothing by it.
#[test]
fn a_question_that_was_edited_gets_an_answer_that_fits_no_request() {
    let world = World::ruled(HELD);
    assert_eq!(world.ask("DELETE", "/later/all", &[AUTHORIZED], "").status, 403);
    let asked = question(&world);
    let file = world.home.path().join(format!("approvals/open/{}.json", id(&asked)));
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replace("/later/all", "/later/one")).unwrap();
    assert_eq!(question(&world)["target"], "/later/one");
    world.home.locum(&["approvals", "approve", id(&asked)]).ok();
    assert_eq!(
        problem(&world.ask("DELETE", "/later/all", &[AUTHORIZED], "")).1,
        "approval-required"
    );
    let one = world.ask("DELETE", "/later/one", &[AUTHORIZED], "");
    assert_eq!(problem(&one).1, "approval-required", "the proxy was never asked for that one");
    assert!(world.origin.raw().iter().all(|raw| !raw.contains("/later/")));
}

#[test]
fn a_question_and_an_approval_end() {
    let rules = HELD.replace("{answer: refuse}", "{answer: refuse, valid: 1s}");
    let world = World::ruled(&rules.replace("wait: 5m, valid: 10m", "wait: 1s"));
    let (_, code, detail) = problem(&world.ask("POST", "/mail/x", &[AUTHORIZED], ""));
    assert_eq!(code, "approval-required");
    assert!(detail.starts_with("Nobody has decided within 1s"), "{detail}");
    assert_eq!(world.ask("POST", "/later/x", &[AUTHORIZED], "").status, 403);
    eventually("it is over", PATIENCE, || {
        (world.serve.metric("locum_approvals_total{result=\"expired\"}") >= 1).then_some(())
    });
    let over = waiting(&world).iter().all(|q| q["target"] != "/later/x");
    assert!(over);
}

#[test]
fn what_is_too_long_to_be_held_is_refused_and_so_are_too_many() {
    let world = World::with(BEARER, canary(), |home, _| {
        home.policy(HELD);
        home.set("limits.body_slot: 64KiB");
    });
    let long = "x".repeat(100_000);
    let answer = world.ask("POST", "/later/long", &[AUTHORIZED], &long);
    assert_eq!(problem(&answer).1, "body-too-large");
    for n in 0..33 {
        let answer = world.ask("POST", &format!("/later/{n}"), &[AUTHORIZED], "");
        let (status, code, detail) = problem(&answer);
        assert_eq!((status, code.as_str()), (403, "approval-required"));
        assert_eq!(detail.starts_with("As many requests wait"), n == 32, "{n}: {detail}");
    }
    assert_eq!(waiting(&world).len(), 32);
}

#[test]
fn word_is_sent_signed_and_without_a_secret() {
    let hook = Origin::start("hook.test");
    let signing = canary();
    let world = World::with(BEARER, canary(), |home, _| {
        home.reach(&hook);
        home.add(
            "approval-hook",
            &["--to", "https://hook.test", "--header", "X-Unused: {secret}"],
            &signing,
        );
        home.policy(HELD);
        home.set("approvals.webhook: https://hook.test/open/locum?room=7");
        home.set("approvals.key: approval-hook");
    });
    let body = "{\"token\": \"in the body\"}";
    assert_eq!(world.ask("POST", "/later/x?secret=query", &[AUTHORIZED, JSON], body).status, 403);
    let word = eventually("the word", PATIENCE, || hook.seen().pop());
    assert_eq!(word.target, "/open/locum?room=7");
    let text = String::from_utf8(word.body.clone()).unwrap();
    let said: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(said["event"], "approval-asked");
    assert_eq!(said["id"], question(&world)["id"]);
    assert_eq!(said["path"], "/later/x");
    assert!(!text.contains("secret=query") && !text.contains("in the body"), "{text}");
    let signature = word.header("locum-signature").unwrap();
    let (at, given) = signature.strip_prefix("t=").unwrap().split_once(",v1=").unwrap();
    let mut mac = hmac::Hmac::<sha2::Sha256>::new_from_slice(signing.as_bytes()).unwrap();
    mac.update(format!("{at}.{text}").as_bytes());
    assert_eq!(data_encoding::HEXLOWER.encode(&mac.finalize().into_bytes()), given);
    assert!(hook.raw().iter().all(|raw| !raw.contains(&signing) && !raw.contains(&world.key)));
}
