//! Slots beyond fields and query: a segment of the path, and an entry of the list of subprotocols.

use crate::support::*;

/// The scene with one path slot. The origin asks for no key under `/open`.
fn path(template: &str, key: String) -> World {
    let slots = ["--to", "https://api.test", &format!("--path={template}")];
    World::with(&slots, key, |_, _| {})
}

fn percent(key: &str) -> String {
    String::from_utf8(encode("percent", key)).unwrap()
}

#[test]
fn a_segment_is_replaced_and_every_other_byte_stays() {
    let world = path("/open/bot{secret}/**", canary());
    let mut wire = world.tunnel();
    for (sent, arrived) in [
        ("/open/botlocum_main/getMe", "/open/bot{}/getMe"),
        ("/open/bot%6Cocum_%6dain/send", "/open/bot{}/send"),
        ("/open/botlocum%5Fmain/send?a=%2f&b=+locum_main", "/open/bot{}/send?a=%2f&b=+locum_main"),
        ("/open/botlocum_main", "/open/bot{}"),
        ("/open/botlocum_main/%61@scope%2Fpkg?", "/open/bot{}/%61@scope%2Fpkg?"),
        ("/open/botlocum_main/locum_main", "/open/bot{}/locum_main"),
    ] {
        let answer = wire.ask(request("POST", sent, &["X-Note: locum_main"], "locum_main"));
        assert_eq!(answer.status, 200, "{sent}: {}", answer.text());
        let seen = world.origin.last();
        assert_eq!(seen.target, arrived.replace("{}", &world.key), "{sent}");
        assert_eq!((seen.header("x-note"), &*seen.body), (Some("locum_main"), &b"locum_main"[..]));
    }
    // The record shows the path as the agent wrote it, and where the secret went.
    let record = world.home.accesses_to("/open/botlocum_main/getMe").remove(0);
    assert_eq!((&record["slot"], &record["credential"]), (&"path".into(), &"main".into()));
    assert_eq!(record["misplaced"], 1, "{record}");
    world.never_leaks(&[("the wire", &wire.transcript)]);
}

#[test]
fn outside_its_place_a_reference_in_a_path_is_text() {
    let world = path("/open/bot{secret}/**", canary());
    for sent in ["/open/x/botlocum_main", "/open/locum_main", "/open/?x=locum_main", "/open/bot"] {
        assert_eq!(world.ask("GET", sent, &[], "").status, 200, "{sent}");
        assert_eq!(world.origin.last().target, sent);
    }
    assert_eq!(world.serve.metric("locum_misplaced_references_total"), 3);
    // In its place it has to be one that can be resolved.
    for sent in ["/open/botlocum_other/x", "/open/botxlocum_main/x", "/open/botlocum_main-x/y"] {
        let answer = world.ask("GET", sent, &[], "");
        assert_eq!(answer.problem(), "credential-refused", "{sent}");
    }
    assert_eq!(world.origin.seen().len(), 4);
    world.never_leaks(&[]);
}

#[test]
fn without_a_template_it_is_where_the_reference_stands() {
    let stand_in = "0123456789:locum_main_00000000";
    let slots = ["--to", "https://api.test", "--stand-in", stand_in, "--path"];
    let world = World::with(&slots, canary(), |_, _| {});
    for (sent, arrived) in [
        ("/open/a/locum_main/b", "/open/a/{}/b"),
        ("/open/a-locum_main.json", "/open/a-{}.json"),
        ("/open/bot0123456789:locum_main_00000000/x", "/open/bot{}/x"),
        ("/open/0123456789%3Alocum_main_00000000/x", "/open/{}/x"),
        // The longer name is another's, and nobody's here.
        ("/open/locum_main-2/x", "/open/locum_main-2/x"),
    ] {
        assert_eq!(world.ask("GET", sent, &[], "").status, 200, "{sent}");
        assert_eq!(world.origin.last().target, arrived.replace("{}", &world.key), "{sent}");
    }
}

#[test]
fn a_value_is_encoded_for_its_segment_and_never_a_way_through_the_path() {
    let world = path("/open/{secret}/x", thorny_canary());
    let answer = world.ask("GET", "/open/locum_main/x", &[], "");
    assert_eq!(answer.status, 200, "{}", answer.text());
    let escaped: String = world
        .key
        .chars()
        .map(|c| match c {
            '/' | '"' | '<' | '%' => percent(&c.to_string()),
            c => c.to_string(),
        })
        .collect();
    assert_eq!(world.origin.last().target, format!("/open/{escaped}/x"));
    world.never_leaks(&[]);
    for dots in [".", ".."] {
        let slots = ["--to", "https://api.test", "--path", "--force-short"];
        let world = World::with(&slots, dots.to_owned(), |_, _| {});
        let answer = world.ask("GET", "/open/locum_main/x", &[], "");
        assert_eq!(answer.problem(), "credential-refused", "{dots}");
        assert_eq!(world.origin.connections(), 0);
        // Beside other text it is a name like others.
        assert_eq!(world.ask("GET", "/open/a-locum_main/x", &[], "").status, 200);
        assert_eq!(world.origin.last().target, format!("/open/a-{dots}/x"));
    }
}

#[test]
fn a_value_that_reads_as_another_path_must_not_change_the_decision() {
    let key = format!("{}/../../admin", canary());
    let slots = ["--to", "https://api.test", "--path=/open/{secret}/x"];
    let ruled = |paths: &str| {
        let rule = format!(
            "version: 1\nrules:\n- {{name: one, agents: ['*'], to: ['https://api.test'], use: [main], paths: [{paths}]}}\n"
        );
        World::with(&slots, key.clone(), |home, _| home.policy(&rule))
    };
    let narrow = ruled("/open/*/x");
    let answer = narrow.ask("GET", "/open/locum_main/x", &[], "");
    assert_eq!(answer.problem(), "ambiguous-path", "{}", answer.text());
    assert_eq!(narrow.origin.connections(), 0);
    let wide = ruled("/**");
    assert_eq!(wide.ask("GET", "/open/locum_main/x", &[], "").status, 200);
    assert!(wide.origin.last().target.ends_with("%2F..%2F..%2Fadmin/x"));
}

#[test]
fn an_origin_that_shows_the_path_shows_no_key() {
    for key in [canary(), thorny_canary()] {
        let slots = ["--to", "https://api.test", "--path=/open/target/{secret}"];
        let world = World::with(&slots, key, |_, _| {});
        let mut wire = world.tunnel();
        let answer = wire.ask(request("GET", "/open/target/locum_main?x=1", &[], ""));
        assert_eq!(answer.text(), "/open/target/locum_main?x=1");
        world.never_leaks(&[("the wire", &wire.transcript)]);
    }
}

#[test]
fn a_path_slot_is_not_filled_without_a_reference() {
    let slots =
        ["--to", "https://api.test", "--path=/open/bot{secret}/**", "--header", "X-Key: {secret}"];
    let world = World::with(&slots, canary(), |home, _| {
        home.policy("version: 1\nrules:\n- {name: a, agents: ['*'], to: ['https://api.test'], use: [main], inject: always}\n");
    });
    assert_eq!(world.ask("GET", "/open/bot/x", &[], "").status, 200);
    let seen = world.origin.last();
    assert_eq!((&*seen.target, seen.header("x-key")), ("/open/bot/x", Some(&*world.key)));
    // With one it goes there, and nowhere else.
    assert_eq!(world.ask("GET", "/open/botlocum_main/x", &["X-Key: mine"], "").status, 200);
    let seen = world.origin.last();
    assert_eq!(seen.target, format!("/open/bot{}/x", world.key));
    assert_eq!(seen.header("x-key"), None);
}

#[test]
fn of_a_header_and_a_parameter_the_other_is_emptied() {
    let slots = [BEARER, &["--query", "key", "--query", "token"]].concat();
    let world = World::with(&slots, canary(), |_, _| {});
    let bearer = format!("Bearer {}", world.key);
    for (sent, fields, arrived, authorization) in [
        ("/x?key=mine", &[AUTHORIZED][..], "/x", Some(&*bearer)),
        ("/x?a=1&key=mine&b=+%2f&k%65y=2&&", &[AUTHORIZED], "/x?a=1&b=+%2f&&", Some(&*bearer)),
        ("/x?token=locum_main&a", &[AUTHORIZED], "/x?a", Some(&*bearer)),
        ("/x?key=locum_main&token=mine&a", &["Authorization: Bearer mine"], "/x?key={}&a", None),
        ("/x?token=mine&key=locum_main", &[], "/x?key={}", None),
        ("/x?keys=mine&tokens", &[AUTHORIZED], "/x?keys=mine&tokens", Some(&*bearer)),
    ] {
        let answer = world.ask("GET", sent, fields, "");
        assert_eq!(answer.status, 200, "{sent}: {}", answer.text());
        let seen = world.origin.last();
        assert_eq!(seen.target, arrived.replace("{}", &world.key), "{sent}");
        assert_eq!(seen.header("authorization"), authorization, "{sent}");
    }
    let raw = world.origin.raw().concat();
    assert_eq!(raw.matches(&world.key).count(), 6);
    for gone in ["key=mine", "token=mine", "Bearer mine", "locum_main"] {
        assert!(!raw.contains(gone), "{gone} in {raw}");
    }
}

#[test]
fn an_entry_of_the_subprotocols_is_replaced() {
    let slots =
        ["--header", "Authorization: Bearer {secret}", "--subprotocol", "insecure-key.{secret}"];
    let slots = [&["--to", "https://api.test"], &slots[..]].concat();
    let world = World::with(&slots, canary(), |_, _| {});
    let ask = |fields: &[&str]| {
        let usual = [
            "Upgrade: websocket",
            "Connection: Upgrade",
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
            "Sec-WebSocket-Version: 13",
        ];
        world.ask("GET", "/open/x", &[&usual[..], fields].concat(), "")
    };
    let list = |entries: &str| format!("Sec-WebSocket-Protocol: {entries}");
    for (sent, arrived) in [
        ("realtime, insecure-key.locum_main, beta.v1", "realtime, insecure-key.{}, beta.v1"),
        ("insecure-key.locum_main", "insecure-key.{}"),
        ("realtime,insecure-key.locum_main,insecure-key.mine", "realtime,insecure-key.{}"),
        ("insecure-key.mine,a , insecure-key.locum_main", "a , insecure-key.{}"),
    ] {
        let answer = ask(&[&list(sent)]);
        // The origin is none for sockets, and answers all the same.
        assert_eq!(answer.status, 200, "{sent}: {}", answer.text());
        let seen = world.origin.last();
        let expected = arrived.replace("{}", &world.key);
        assert_eq!(seen.header("sec-websocket-protocol"), Some(&*expected), "{sent}");
    }
    // The header comes first, and then the list holds no key, neither ours nor the client's.
    let answer = ask(&[AUTHORIZED, &list("realtime, insecure-key.locum_main, insecure-key.mine")]);
    assert_eq!(answer.status, 200);
    let seen = world.origin.last();
    assert_eq!(seen.header("authorization"), Some(&*format!("Bearer {}", world.key)));
    assert_eq!(seen.header("sec-websocket-protocol"), Some("realtime"));
    assert_eq!(world.origin.raw().concat().matches(&world.key).count(), 5);
    // In another shape it is refused; a name that is no credential's is text.
    assert_eq!(ask(&[&list("realtime, x.locum_main")]).problem(), "slot-mismatch");
    assert_eq!(ask(&[&list("locum_unknown")]).status, 200);
    let record = &world.home.accesses_to("/open/x")[0];
    assert_eq!(record["slot"], "subprotocol", "{record}");
    world.never_leaks(&[]);
}

#[test]
fn a_secret_that_no_list_can_hold_is_refused_as_a_subprotocol() {
    let slots = ["--to", "https://api.test", "--subprotocol", "key.{secret}"];
    let world = World::with(&slots, thorny_canary(), |_, _| {});
    let answer = world.ask("GET", "/open/x", &["Sec-WebSocket-Protocol: key.locum_main"], "");
    assert_eq!(answer.problem(), "credential-refused");
    assert_eq!(world.origin.connections(), 0);
}
