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

/// A proxy that checks every second, and what its metrics say of one credential.
struct Checking {
    serve: Serve,
    name: &'static str,
}

impl Checking {
    fn start(home: &Home, name: &'static str) -> Self {
        home.set("credentials.health: 1s");
        Self { serve: home.serve(), name }
    }

    fn healthy(&self, verdict: u8) {
        let line = format!("locum_credential_healthy{{credential=\"{}\"}} {verdict}", self.name);
        eventually(&line, PATIENCE, || self.serve.metrics().contains(&line).then_some(()));
    }
}

#[test]
fn what_comes_from_a_source_is_tried_as_it_was_fetched() {
    let home = Home::new();
    let origin = Origin::start("api.openai.com");
    home.reach(&origin);
    let (good, bad, next) = (canary(), canary(), canary());
    origin.accept(&good);
    origin.accept(&next);
    let elsewhere = tempfile::tempdir().unwrap();
    let file = elsewhere.path().join("key");
    let lies = |key: &str| {
        use std::os::unix::fs::PermissionsExt as _;
        std::fs::write(&file, key).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    };
    lies(&good);
    let source = format!("file:{}", file.display());
    let from = ["--provider", "openai", "--source", &source, "--source-refresh", "1s"];
    home.locum(&[&["credential", "add", "openai"], &from[..]].concat()).ok();
    let checking = Checking::start(&home, "openai");
    checking.healthy(1);
    assert!(
        origin
            .seen_at("/v1/models")
            .iter()
            .all(|seen| { seen.header("authorization") == Some(&*format!("Bearer {good}")) })
    );
    // What lies there is another, which its provider does not take; and then one that it does.
    lies(&bad);
    checking.healthy(0);
    lies(&next);
    checking.healthy(1);
    let checks = home.audit_now();
    let of_source = |r: &&serde_json::Value| r["rule"] == "health" && r["kind"] == "access";
    assert!(checks.iter().filter(of_source).all(|r| r["credential"] == "openai"));
    home.never_leaks(&[&good, &bad, &next], &[("log", checking.serve.log().as_bytes())]);
}

#[test]
fn an_installation_of_a_github_app_is_tried_by_a_call_that_its_token_may_make() {
    let home = Home::new();
    let (origin, tokens) = (Origin::start(HOST), Origin::start("tokens.test"));
    home.reach(&origin);
    home.reach(&tokens);
    let path = "/open/app/installations/7/access_tokens";
    let token = |text: &str| {
        let answer = serde_json::json!({"token": text, "expires_at": "2999-01-01T00:00:00Z"});
        tokens.serve(path, "application/json", answer.to_string().as_bytes());
    };
    let (one, two) = (canary(), canary());
    token(&one);
    origin.accept(&one);
    let key = rcgen::KeyPair::generate().unwrap().serialize_pem();
    let app = ["--kind", "github-app", "--provider", "github", "--to", "https://api.test"];
    let api = ["--app-id", "9", "--installation", "7", "--github-api", "https://tokens.test/open"];
    home.add("app", &[&app[..], &api].concat(), &key);
    let checking = Checking::start(&home, "app");
    checking.healthy(1);
    let check = "/installation/repositories?per_page=1";
    assert!(!origin.seen_at(check).is_empty() && origin.seen_at("/user").is_empty());
    // One token was made for all checks, and another when it was withdrawn.
    assert_eq!(tokens.seen().len(), 1);
    origin.state.keys.lock().clear();
    origin.accept(&two);
    token(&two);
    eventually("another token", PATIENCE, || {
        let last = origin.seen_at(check).pop()?;
        (last.header("authorization")? == format!("Bearer {two}")).then_some(())
    });
    checking.healthy(1);
    // None is taken any more.
    origin.state.keys.lock().clear();
    checking.healthy(0);
    let middle = key.lines().nth(2).unwrap();
    home.never_leaks(&[middle, &one, &two], &[("log", checking.serve.log().as_bytes())]);
}

#[test]
fn a_client_without_a_call_of_its_own_is_as_good_as_its_token_endpoint_says() {
    let secret = canary();
    let (home, origin) = home("oauth-client-credentials", &secret);
    let token = canary();
    let good = format!("{{\"access_token\": \"{token}\", \"expires_in\": 2}}");
    origin.serve("/open/token", "application/json", good.as_bytes());
    let checking = Checking::start(&home, "minted");
    checking.healthy(1);
    // It has ended there, which is seen when the next token is made.
    for _ in 0..100 {
        origin.answer_next(401, None, "{\"error\": \"invalid_client\"}");
    }
    checking.healthy(0);
    // The token goes nowhere but into requests.
    assert!(origin.seen().iter().all(|seen| seen.target.ends_with("/token")));
    home.never_leaks(&[&secret, &token], &[("log", checking.serve.log().as_bytes())]);
}
