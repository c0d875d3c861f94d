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
        self.world.ask("POST", "/login", &[AUTHORIZED], "user")
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
    let answer = scene.world.ask("POST", "/login", &[], "user");
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

/// A rule that takes a field of the head, for a login without any credential.
const FIELD: &str = "version: 1
rules:
  - name: log in
    agents: [worker]
    to: [https://api.test]
    paths: [/login]
    capture:
      - {header: X-Subject-Token, as: session}
      - {json: /access_token, as: renewal}
";

/// What an agent hears of an origin that answers a login with these bytes.
#[track_caller]
fn heard(answer: &[u8], policy: &str, ask: &str) -> (String, Home) {
    let home = Home::new();
    let script = vec![Script::Read, Script::Send(answer.to_vec()), Script::Goodbye];
    let origin = Origin::scripted(HOST, script);
    home.reach(&origin);
    for name in ["session", "renewal"] {
        home.locum(&[&["credential", "add", name], SESSION].concat()).ok();
    }
    home.policy(policy);
    let agent = home.agent("worker");
    let serve = home.serve();
    let mut wire = serve.tunnel(&agent, HOST);
    wire.send(ask);
    let _answer = wire.try_answer(ask.split(' ').next().unwrap());
    let heard = String::from_utf8_lossy(&wire.transcript).into_owned();
    (heard, home)
}

#[test]
fn a_token_is_taken_out_whatever_the_status() {
    let token = canary();
    let field = format!("X-Subject-Token: {token}");
    let json = format!(r#"{{"access_token":"{token}"}}"#);
    let length = json.len();
    for (status, answer) in [
        (
            "302",
            format!(
                "HTTP/1.1 302 Found\r\nLocation: /home\r\n{field}\r\nContent-Length: 0\r\n\r\n"
            ),
        ),
        ("401", format!("HTTP/1.1 401 No\r\n{field}\r\nContent-Length: 0\r\n\r\n")),
        ("400", format!("HTTP/1.1 400 No\r\nContent-Length: {length}\r\n\r\n{json}")),
        (
            "303",
            format!("HTTP/1.1 303 There\r\nLocation: /\r\nContent-Length: {length}\r\n\r\n{json}"),
        ),
    ] {
        let ask = request("POST", "/login", &[], "user");
        let (heard, home) = heard(answer.as_bytes(), FIELD, &ask);
        assert!(leaks(&token, heard.as_bytes()).is_empty(), "{status}: {heard}");
        assert!(heard.contains(&format!("HTTP/1.1 {status}")), "{heard}");
        assert!(heard.contains("locum_session") || heard.contains("locum_renewal"), "{heard}");
        home.never_leaks(&[&token], &[]);
    }
    // Without a token in it, what did not go well is the agent's to read.
    let ask = request("POST", "/login", &[], "user");
    let (heard, _home) = heard(b"HTTP/1.1 401 No\r\nContent-Length: 5\r\n\r\nwrong", FIELD, &ask);
    assert!(heard.contains("HTTP/1.1 401") && heard.ends_with("wrong"), "{heard}");
}

#[test]
fn a_token_is_taken_out_of_a_coded_answer_to_a_login_without_a_credential() {
    use std::io::Write as _;
    let token = canary();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    write!(gzip, r#"{{"access_token":"{token}","other":"{token}"}}"#).unwrap();
    let body = gzip.finish().unwrap();
    let head = format!(
        "HTTP/1.1 200 OK\r\nX-Subject-Token: {token}\r\nContent-Encoding: gzip\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    let only_the_field = FIELD.replace("      - {json: /access_token, as: renewal}\n", "");
    for policy in [FIELD, &only_the_field] {
        let ask = request("POST", "/login", &[], "user");
        let (heard, home) = heard(&[head.as_bytes(), &body].concat(), policy, &ask);
        assert!(heard.contains("HTTP/1.1 200"), "{heard}");
        assert!(heard.contains(r#""other":"locum_"#), "the body is readable: {heard}");
        assert!(leaks(&token, heard.as_bytes()).is_empty(), "{heard}");
        home.never_leaks(&[&token], &[]);
    }
}

#[test]
fn no_token_passes_ahead_of_the_answer_or_in_place_of_one() {
    let token = canary();
    let field = format!("X-Subject-Token: {token}");
    let only_the_field = FIELD.replace("      - {json: /access_token, as: renewal}\n", "");
    let early = format!(
        "HTTP/1.1 103 Early Hints\r\n{field}\r\n\r\nHTTP/1.1 200 OK\r\n{field}\r\nContent-Length: 0\r\n\r\n"
    );
    let ask = request("POST", "/login", &[], "user");
    let (early, _home) = heard(early.as_bytes(), &only_the_field, &ask);
    assert!(leaks(&token, early.as_bytes()).is_empty(), "{early}");
    // The key of RFC 6455 section 1.3, and its answer.
    let switch = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n{field}\r\n\r\n"
    );
    let handshake = [
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        "Sec-WebSocket-Version: 13",
    ];
    let ask = request("GET", "/login", &handshake, "");
    let (switched, _home) = heard(switch.as_bytes(), &only_the_field, &ask);
    assert!(leaks(&token, switched.as_bytes()).is_empty(), "{switched}");
    assert!(switched.contains("upgrade-refused"), "{switched}");
}

/// The token that the vault has is taken out of the answer as any secret of the origin, before anything
/// looks for a token in it.
#[test]
fn a_login_that_gives_the_same_token_again_goes_well() {
    let mut scene = Scene::new();
    let [access, _] = scene.mint();
    let first = scene.log_in();
    assert_eq!(first.status, 200, "{}", first.text());
    let again = scene.log_in();
    assert_eq!((again.status, again.text()), (200, first.text()));
    let answer = scene.world.ask("GET", "/v1/x", &["Authorization: Bearer locum_session"], "");
    assert_eq!(answer.status, 200, "{}", answer.text());
    let bearer = format!("Bearer {access}");
    assert_eq!(scene.world.origin.last().header("authorization"), Some(&*bearer));
    scene.never_leaks();
}
