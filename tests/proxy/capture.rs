//! Tokens that an origin mints for an agent: the vault gets them, and the agent their placeholder.

use crate::support::*;

const POLICY: &str = "version: 1
rules:
  - name: log in
    agents: [worker]
    to: [https://api.test]
    paths: [/login]
    use: [main]
    capture:
      - {json: /access_token, as: session}
      - {json: /refresh_token, as: renewal}
  - name: work
    agents: [worker]
    to: [https://api.test]
    paths: [/v1/**, /open/**]
    use: [session]
";

const SESSION: &[&str] =
    &["--captured", "--to", "https://api.test", "--header", "Authorization: Bearer {secret}"];

struct Scene {
    world: World,
    tokens: Vec<String>,
}

impl Scene {
    fn new() -> Self {
        Self::ruled(POLICY)
    }

    fn ruled(policy: &str) -> Self {
        let world = World::with(BEARER, canary(), |home, _| {
            for name in ["session", "renewal"] {
                let added = home.locum(&[&["credential", "add", name], SESSION].concat()).ok();
                assert!(added.out.contains(&format!("added {name}")), "{}", added.out);
            }
            home.policy(policy);
        });
        Self { world, tokens: Vec::new() }
    }

    /// The origin answers a login so from here on.
    fn mints(&self, kind: &str, body: &str) {
        self.world.origin.serve("/login", kind, body.as_bytes());
    }

    /// The origin mints two tokens from here on.
    fn mint(&mut self) -> [String; 2] {
        let [access, renewal] = [canary(), canary()];
        let body = format!(
            r#"{{"token_type": "bearer", "access_token": "{access}", "expires_in": 3600, "refresh_token":"{renewal}", "again": "{access}"}}"#
        );
        self.mints("application/json", &body);
        self.world.origin.accept(&access);
        self.tokens.extend([access.clone(), renewal.clone()]);
        [access, renewal]
    }

    #[track_caller]
    fn log_in(&self) -> Answer {
        self.world.ask("POST", "/login", &[AUTHORIZED, "Content-Length: 4"], "user")
    }

    #[track_caller]
    fn never_leaks(&self) {
        let tokens: Vec<&str> = self.tokens.iter().map(String::as_str).collect();
        self.world.home.never_leaks(&tokens, &[("its log", self.world.serve.log().as_bytes())]);
    }
}

#[test]
fn a_login_gives_the_vault_the_token_and_the_agent_a_placeholder() {
    let mut scene = Scene::new();
    let before = scene.world.ask("GET", "/v1/x", &["Authorization: Bearer locum_session"], "");
    assert_eq!(before.problem(), "credential-refused", "nobody has logged in");

    let [access, _] = scene.mint();
    let answer = scene.log_in();
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(
        answer.text(),
        r#"{"token_type": "bearer", "access_token": "locum_session", "expires_in": 3600, "refresh_token":"locum_renewal", "again": "locum_session"}"#
    );
    assert_eq!(answer.header("content-length"), Some(&*answer.body.len().to_string()));

    // It is in force when the agent has the answer.
    let after = scene.world.ask("GET", "/v1/x", &["Authorization: Bearer locum_session"], "");
    assert_eq!(after.status, 200, "{}", after.text());
    let expected = format!("Bearer {access}");
    assert_eq!(scene.world.origin.last().header("authorization"), Some(&*expected));
    // The agent that holds the token itself is found out.
    let own = scene.world.ask("GET", "/v1/x", &[&format!("Authorization: {expected}")], "");
    assert_eq!(own.problem(), "real-credential");

    // The next login has the next version, and the first one is gone.
    let [second, _] = scene.mint();
    assert_eq!(scene.log_in().status, 200);
    let after = scene.world.ask("GET", "/v1/x", &["Authorization: Bearer locum_session"], "");
    assert_eq!(after.status, 200, "{}", after.text());
    let expected = format!("Bearer {second}");
    assert_eq!(scene.world.origin.last().header("authorization"), Some(&*expected));
    let audit = scene.world.home.audit();
    let captured: Vec<_> = audit.iter().filter(|r| r["event"] == "credential-captured").collect();
    assert_eq!(captured.len(), 4, "{captured:?}");
    scene.world.home.locum(&["vault", "status"]).ok();
    scene.never_leaks();
}

#[test]
fn an_answer_without_the_token_does_not_pass() {
    let mut scene = Scene::new();
    for (kind, body) in [
        ("application/json", r#"{"access_token": "token-of-some-length"}"#),
        (
            "application/json",
            r#"{"access_token": "short", "refresh_token": "token-of-some-length"}"#,
        ),
        ("text/plain", "access_token=token-of-some-length"),
        ("application/json", ""),
    ] {
        scene.mints(kind, body);
        let answer = scene.log_in();
        assert_eq!((answer.status, &*answer.problem()), (502, "capture-failed"), "{body}");
        assert!(!answer.text().contains("token-of"), "{}", answer.text());
    }
    scene.tokens.push("token-of-some-length".into());
    scene.never_leaks();
    // What is no success has no token, and is the agent's to read.
    let answer = scene.world.ask("POST", "/login", &["Content-Length: 4"], "user");
    assert_eq!(answer.status, 401, "{}", answer.text());
}

#[test]
fn a_rule_takes_tokens_only_into_credentials_that_are_for_it() {
    for name in ["main", "nobody"] {
        let policy = POLICY.replace("as: renewal", &format!("as: {name}"));
        let mut scene = Scene::ruled(&policy);
        scene.mint();
        let answer = scene.log_in();
        assert_eq!((answer.status, &*answer.problem()), (502, "capture-failed"), "{name}");
        assert_eq!(scene.world.origin.seen_at("/login").len(), 0, "no token was minted for nobody");
    }
}

#[test]
fn a_vault_that_takes_nothing_lets_no_token_through() {
    let mut scene = Scene::new();
    scene.mint();
    // Another hand on the file: every change is refused from here on.
    let vault = scene.world.home.path().join("vault.db");
    let db = rusqlite::Connection::open(vault).unwrap();
    db.execute_batch("BEGIN IMMEDIATE").unwrap();
    let answer = scene.log_in();
    assert_eq!((answer.status, &*answer.problem()), (502, "capture-failed"));
    db.execute_batch("ROLLBACK").unwrap();
    assert_eq!(scene.log_in().status, 200);
    scene.never_leaks();
}
