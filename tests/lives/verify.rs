//! `locum credential verify` for what is minted: whoever makes the token says whether what it is made of is
//! good.

use crate::support::*;

const TO: &[&str] = &[
    "--client-id",
    "me",
    "--token-endpoint",
    "https://api.test/open/token",
    "--to",
    "https://api.test",
];

fn home(kind: &str, secret: &str) -> (Home, Origin) {
    let (home, origin) = (Home::new(), Origin::start(HOST));
    home.reach(&origin);
    home.add("minted", &[&["--kind", kind], TO].concat(), secret);
    (home, origin)
}

#[test]
fn a_client_is_good_bad_or_unknown_by_what_its_token_endpoint_says() {
    let secret = canary();
    let (home, origin) = home("oauth-client-credentials", &secret);
    let verify = || home.locum(&["credential", "verify", "minted", "--json"]);
    let said = |ran: &Ran| serde_json::from_str::<serde_json::Value>(&ran.out).unwrap();
    let token = canary();
    let good = format!("{{\"access_token\": \"{token}\", \"token_type\": \"bearer\"}}");
    origin.answer_next(200, None, &good);
    let ran = verify();
    assert_eq!((ran.code, &said(&ran)["verdict"]), (0, &"good".into()), "{ran:?}");
    assert_eq!(said(&ran)["at"], "https://api.test");
    assert!(origin.last().target.ends_with("/token"));
    origin.answer_next(401, None, "{\"error\": \"invalid_client\"}");
    let ran = verify();
    assert_eq!((ran.code, &said(&ran)["verdict"]), (1, &"bad".into()), "{ran:?}");
    origin.answer_next(500, None, "oops");
    let ran = verify();
    assert_eq!((ran.code, &said(&ran)["verdict"]), (1, &"unknown".into()), "{ran:?}");
    home.never_leaks(&[&secret, &token], &[]);
}

#[test]
fn a_refresh_token_that_is_exchanged_is_kept_and_a_proxy_that_runs_is_left_alone_with_it() {
    let (first, second) = (canary(), canary());
    let (home, origin) = home("oauth-refresh", &first);
    let exchange = |next: &str| {
        origin.serve(
            "/open/token",
            "application/json",
            format!("{{\"access_token\": \"a-{next}\", \"token_type\": \"bearer\", \"expires_in\": 3600, \"refresh_token\": \"{next}\"}}").as_bytes(),
        );
    };
    let shown = || String::from_utf8(origin.last().body).unwrap();
    exchange(&second);
    home.locum(&["credential", "verify", "minted"]).ok();
    assert!(shown().contains(&first), "{}", shown());
    // The next one shows what the first was given, and not what is void.
    home.locum(&["credential", "verify", "minted"]).ok();
    assert!(shown().contains(&second), "{}", shown());
    let before = origin.seen().len();
    let _serve = home.serve();
    let ran = home.locum(&["credential", "verify", "minted"]);
    assert_eq!(ran.code, 64, "{}", ran.err);
    assert!(ran.err.contains("proxy that runs"), "{}", ran.err);
    assert_eq!(origin.seen().len(), before);
    // One that no request gets yet is nobody's but ours.
    let staged = canary();
    home.locum_with(&["credential", "rotate", "minted", "--stage"], staged.as_bytes()).ok();
    home.locum(&["credential", "verify", "minted"]).ok();
    assert!(shown().contains(&staged), "{}", shown());
    home.never_leaks(&[&first, &second, &staged], &[]);
}

#[test]
fn a_proxy_tries_access_tokens_and_another_where_one_is_not_taken() {
    let home = Home::new();
    home.set("credentials.health: 1s");
    let origin = Origin::start("api.openai.com");
    home.reach(&origin);
    let secret = canary();
    let token = |text: &str| {
        let answer = format!(
            "{{\"access_token\": \"{text}\", \"token_type\": \"bearer\", \"expires_in\": 3600}}"
        );
        origin.serve("/open/token", "application/json", answer.as_bytes());
    };
    let (one, two) = (canary(), canary());
    token(&one);
    origin.accept(&one);
    let kind = ["--kind", "oauth-client-credentials", "--client-id", "me", "--provider", "openai"];
    let from = ["--token-endpoint", "https://api.openai.com/open/token"];
    home.add("openai", &[&kind[..], &from].concat(), &secret);
    let serve = home.serve();
    let healthy = |verdict: u8| {
        let line = format!("locum_credential_healthy{{credential=\"openai\"}} {verdict}");
        eventually(&line, PATIENCE, || serve.metrics().contains(&line).then_some(()));
    };
    healthy(1);
    let checks = origin.seen_at("/v1/models");
    assert_eq!(checks[0].header("authorization"), Some(&*format!("Bearer {one}")));
    // The token is withdrawn, and whoever makes them makes others.
    origin.state.keys.lock().clear();
    origin.accept(&two);
    token(&two);
    eventually("another token", PATIENCE, || {
        let last = origin.seen_at("/v1/models").pop()?;
        (last.header("authorization")? == format!("Bearer {two}")).then_some(())
    });
    healthy(1);
    // None is taken any more.
    origin.state.keys.lock().clear();
    healthy(0);
    home.never_leaks(&[&secret, &one, &two], &[("log", serve.log().as_bytes())]);
}
