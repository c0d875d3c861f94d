//! Client certificates that are credentials: shown to the origin that they are bound to, for those whom a
//! rule grants them.

use crate::support::*;

/// Certificate and key, as a file that somebody was given.
fn pair(origin: &Origin, name: &str) -> String {
    let read = |end: &str| std::fs::read_to_string(origin.file(&format!("{name}.{end}"))).unwrap();
    read("pem") + &read("key")
}

const BANK: &[&str] = &["--kind", "client-certificate", "--to", "https://api.test"];

const RULES: &str = "version: 1
rules:
  - name: with the certificate
    agents: [worker]
    use: [main, bank]
    paths: ['/v1/**']
  - name: without it
    agents: ['*']
    use: [main]
";

fn world() -> World {
    World::before(Origin::mutual(HOST), BEARER, canary(), |home, origin| {
        home.add("bank", BANK, &pair(origin, "us"));
        home.policy(RULES);
    })
}

/// The lines of a private key, by which it would be known anywhere.
fn lines(pem: &str) -> Vec<String> {
    let key = pem.split("-----BEGIN PRIVATE KEY-----").nth(1).unwrap();
    key.lines().filter(|line| line.len() > 40).map(str::to_owned).collect()
}

#[test]
fn it_is_shown_for_those_whom_a_rule_grants_it_and_is_on_record() {
    let world = world();
    let answer = world.get("/v1/accounts");
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(
        world.origin.last().header("authorization"),
        Some(&*format!("Bearer {}", world.key))
    );
    let record = world.home.accesses_to("/v1/accounts").pop().unwrap();
    assert_eq!(
        (&record["credential"], &record["slot"]),
        (&"main".into(), &"header:authorization".into())
    );
    let more = &record["more_credentials"][0];
    assert_eq!((&more["credential"], &more["slot"]), (&"bank".into(), &"certificate".into()));
    // A request without a key shows it all the same.
    assert_eq!(world.ask("GET", "/v1/open", &[], "").status, 401, "the origin's own");
    // Where no rule grants it, and for whom none does, nothing is shown, on no connection that has.
    let refused = world.get("/v2/accounts");
    assert_eq!((refused.status, &*refused.problem()), (502, "tls-failed"));
    let other = world.home.agent("other");
    let mut wire = world.serve.tunnel(&other, HOST);
    assert_eq!(wire.ask(request("GET", "/v1/x", &[AUTHORIZED], "")).problem(), "tls-failed");
    // And again for who may.
    assert_eq!(world.get("/v1/accounts").status, 200);
    let keys = lines(&pair(&world.origin, "us"));
    let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
    world.home.never_leaks(&keys, &[]);
    world.never_leaks(&[]);
}

#[test]
fn a_key_beside_it_falls_back_to_its_other_version_as_ever() {
    let world = world();
    let next = canary();
    // The provider has not heard of it.
    world.home.locum_with(&["credential", "rotate", "main", "--grace", "1h"], next.as_bytes()).ok();
    eventually("the fallback", PATIENCE, || {
        assert_eq!(world.get("/v1/x").status, 200);
        let events = world.home.audit();
        events.iter().any(|record| record["event"] == "credential-fallback").then_some(())
    });
    world.home.never_leaks(&[&next], &[]);
}

#[test]
fn a_new_version_is_shown_on_new_connections_and_a_revoked_one_is_not() {
    let world = world();
    let mut wire = world.tunnel();
    let mut ask = || wire.ask(request("GET", "/v1/x", &[AUTHORIZED], "")).status;
    assert_eq!((ask(), ask()), (200, 200));
    assert_eq!(world.origin.connections(), 1, "the handshake is for all requests on it");
    world.home.rotate("bank", &pair(&world.origin, "next"));
    eventually("the new version", PATIENCE, || {
        assert_eq!(ask(), 200);
        (world.origin.connections() == 2).then_some(())
    });
    assert_eq!(ask(), 200);
    assert_eq!(world.origin.connections(), 2);
    world.home.locum(&["credential", "revoke", "bank", "--now"]).ok();
    assert_eq!(wire.ask(request("GET", "/v1/x", &[AUTHORIZED], "")).problem(), "tls-failed");
}

#[test]
fn one_that_the_origin_does_not_take_says_so_and_its_end_is_its_due_date() {
    let world = world();
    let due = |world: &World| {
        let shown = world.home.locum(&["credential", "show", "bank", "--json"]).ok();
        let shown: serde_json::Value = serde_json::from_str(&shown.out).unwrap();
        shown["due"].as_i64().unwrap()
    };
    let now = i64::try_from(
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs(),
    )
    .unwrap();
    let days = |due: i64| (due - now) / 86_400;
    assert!((28..=30).contains(&days(due(&world))), "{}", days(due(&world)));
    world.home.rotate("bank", &pair(&world.origin, "next"));
    assert!((88..=90).contains(&days(due(&world))), "{}", days(due(&world)));
    world
        .home
        .locum_with(
            &["credential", "rotate", "bank", "--grace", "0"],
            pair(&world.origin, "old").as_bytes(),
        )
        .ok();
    let answer = eventually("the version that has run out", PATIENCE, || {
        let answer = world.get("/v1/x");
        (answer.status != 200).then_some(answer)
    });
    assert_eq!((answer.status, &*answer.problem()), (502, "client-certificate-refused"));
    let list = world.home.locum(&["credential", "list"]).ok().out;
    assert!(list.contains("bank"), "{list}");
}

#[test]
fn what_is_no_certificate_with_its_own_key_is_not_taken() {
    let home = Home::new();
    let origin = Origin::mutual(HOST);
    let (us, next) = (pair(&origin, "us"), pair(&origin, "next"));
    let read = |name: &str| std::fs::read_to_string(origin.file(name)).unwrap();
    for (text, why) in [
        (read("us.pem"), "private key"),
        (read("us.key"), "certificate"),
        (read("us.pem") + &read("next.key"), "does not belong"),
    ] {
        let add = [&["credential", "add", "bank"], BANK].concat();
        let ran = home.locum_with(&add, text.as_bytes());
        assert!(ran.code == 64 && ran.err.contains(why), "{}", ran.err);
    }
    let keys = [lines(&us), lines(&next)].concat();
    let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
    home.never_leaks(&keys, &[]);
}
