//! A source and a kind together: what lies elsewhere is what a value is made of.

use std::fs;
use std::path::Path;

use serde_json::json;

use crate::support::*;
use crate::{Stage, private};

/// An authorization server that takes the refresh tokens that it is told of, and gives others in
/// exchange for them where it is told to.
struct Issuer {
    origin: Origin,
}

const TOKENS: &str = "login.test";

impl Issuer {
    fn start(scene: &Stage) -> Self {
        let origin = Origin::start(TOKENS);
        scene.home.reach(&origin);
        Self { origin }
    }

    fn gives(&self, access: &str, refresh: Option<&str>) {
        let mut answer = json!({"access_token": access, "token_type": "Bearer", "expires_in": 2});
        if let Some(refresh) = refresh {
            answer["refresh_token"] = json!(refresh);
        }
        self.origin.serve("/open/token", "application/json", answer.to_string().as_bytes());
    }

    /// What it was shown last.
    fn shown(&self) -> String {
        String::from_utf8(self.origin.last().body).unwrap()
    }
}

fn add(file: &Path, put: impl FnOnce(&[&str])) {
    let (source, endpoint) =
        (format!("file:{}", file.display()), format!("https://{TOKENS}/open/token"));
    let kind = ["--kind", "oauth-refresh", "--client-id", "us", "--client-auth", "post"];
    let from = ["--token-endpoint", &endpoint, "--source", &source];
    put(&[&kind[..], &from].concat());
}

#[test]
fn a_kind_mints_from_what_a_source_has_and_both_rotations_are_followed() {
    let scene = Stage::new();
    let issuer = Issuer::start(&scene);
    let elsewhere = tempfile::tempdir().unwrap();
    let file = elsewhere.path().join("billing.json");
    let client = canary();
    let lies = |refresh: &str| {
        let text = json!({"refresh_token": refresh, "client_secret": client}).to_string();
        private(&file, &text);
    };
    let (first, second, third, fourth) = (canary(), canary(), canary(), canary());
    let (one, two, three, four) = (canary(), canary(), canary(), canary());
    lies(&first);
    issuer.gives(&one, None);
    add(&file, |arguments| scene.add(arguments, ""));
    let serve = scene.home.serve();
    scene.until_shown(&serve, &one);
    assert!(issuer.shown().contains(&format!("refresh_token={first}")), "{}", issuer.shown());
    assert!(issuer.shown().contains(&format!("client_secret={client}")), "{}", issuer.shown());
    // Rotated at the source: the next token is made of the new one.
    lies(&second);
    issuer.gives(&two, None);
    scene.until_shown(&serve, &two);
    assert!(issuer.shown().contains(&second));
    // Rotated by the authorization server: what it gave is used, though the source has the old one.
    issuer.gives(&three, Some(&third));
    scene.until_shown(&serve, &three);
    issuer.gives(&four, None);
    scene.until_shown(&serve, &four);
    assert!(issuer.shown().contains(&third), "{}", issuer.shown());
    // Also by the next process, and after a crash.
    serve.kill();
    let serve = scene.home.serve();
    issuer.gives(&one, None);
    scene.until_shown(&serve, &one);
    assert!(issuer.shown().contains(&third), "{}", issuer.shown());
    assert_eq!(scene.events("credential-renewed").len(), 1);
    // Until another lies at the source.
    lies(&fourth);
    issuer.gives(&two, None);
    scene.until_shown(&serve, &two);
    assert!(issuer.shown().contains(&fourth));
    // Gone there: nothing is made any more, and what was made is not used.
    fs::remove_file(&file).unwrap();
    scene.until_refused(&serve, &two);
    assert_eq!(scene.reason(), "the file is gone");
    lies(&fourth);
    scene.until_shown(&serve, &two);
    scene.home.never_leaks(
        &[&first, &second, &third, &fourth, &one, &two, &three, &four, &client],
        &[("log", serve.log().as_bytes())],
    );
    scene.home.locum(&["vault", "status", "--verify"]).ok();
    // With the credential goes what was exchanged for it.
    add(&file, |arguments| scene.add_instead(arguments));
    issuer.gives(&four, None);
    scene.until_shown(&serve, &four);
    assert!(issuer.shown().contains(&fourth));
}

#[test]
fn a_kind_says_what_cannot_come_from_a_source() {
    let scene = Stage::new();
    let run = |more: &[&str]| {
        let source = ["--source", "env:KEY"];
        let all = [&["credential", "add", "main", "--to", "https://api.test"], &source[..], more];
        scene.home.locum(&all.concat())
    };
    let refresh = ["--kind", "oauth-refresh", "--client-id", "us", "--token-endpoint"];
    for (more, why) in [
        (&["--kind", "totp", "--form", "otp"][..], "one-time password"),
        (&["--kind", "google-service-account", "--scope", "x"], "whose key lies there"),
        (
            &[&refresh[..], &["https://a.test/t", "--client-secret-from-env", "PATH"]].concat(),
            "lies there too",
        ),
    ] {
        let ran = run(more);
        assert!(ran.code == 64 && ran.err.contains(why), "{more:?}: {}", ran.err);
    }
    // And there is nothing here to rotate.
    run(&[&refresh[..], &["https://a.test/t"]].concat()).ok();
    let ran = scene.home.locum_with(&["credential", "rotate", "main"], b"not-a-secret-at-all");
    assert!(ran.code == 64 && ran.err.contains("it comes from env:KEY"), "{}", ran.err);
}
