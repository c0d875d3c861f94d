//! Administration over its own socket: roles, one workspace for each administrator, and nothing for agents.

use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use serde_json::{Value, json};

use crate::support::*;
use crate::two::*;

/// The socket of a home, and a token to show there.
struct Api {
    socket: PathBuf,
    token: String,
}

impl Api {
    /// An administrator who is added for it.
    #[track_caller]
    fn of(home: &Home, workspace: &str, name: &str, role: &str) -> Self {
        let added = ["--workspace", workspace, "admin", "add", name, "--role", role, "--json"];
        let ran = run(&mut home.command(&added), b"").ok();
        let json: Value = serde_json::from_str(&ran.out).unwrap();
        Self::with(home, json["token"].as_str().unwrap())
    }

    fn with(home: &Home, token: &str) -> Self {
        Self { socket: home.path().join("admin.sock"), token: token.to_owned() }
    }

    #[track_caller]
    fn raw(&self, method: &str, path: &str, body: &str) -> (u16, Value) {
        let mut wire = Wire::try_unix(&self.socket).unwrap();
        wire.send(format!(
            "{method} {path} HTTP/1.1\r\nHost: locum\r\nAuthorization: Bearer {}\r\nContent-Length: {}\r\n\r\n{body}",
            self.token,
            body.len()
        ));
        let answer = wire.answer();
        (answer.status, serde_json::from_slice(&answer.body).unwrap_or_default())
    }

    #[track_caller]
    fn get(&self, path: &str) -> Value {
        let (status, value) = self.raw("GET", path, "");
        assert_eq!(status, 200, "{path}: {value}");
        value
    }

    #[track_caller]
    fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        self.raw("POST", path, &body.to_string())
    }
}

/// What there is, and the least role that it takes. A route that is not in here fails the test below.
const TABLE: &[(&str, &str, &str, usize)] = &[
    ("GET", "/v1/me", "", 0),
    ("GET", "/v1/routes", "", 0),
    ("GET", "/v1/credentials", "", 0),
    ("GET", "/v1/credentials?unused_for=60", "", 0),
    ("GET", "/v1/credentials/register", "", 0),
    ("GET", "/v1/credentials/main", "", 0),
    ("GET", "/v1/credentials/main/users", "", 0),
    ("GET", "/v1/sets", "", 0),
    ("GET", "/v1/values", "", 0),
    ("GET", "/v1/agents", "", 0),
    ("GET", "/v1/agents/worker/certificates", "", 0),
    ("GET", "/v1/policies", "", 0),
    ("GET", "/v1/policies/explain?agent=worker&method=GET&url=https://api.test/x&use=main", "", 0),
    ("GET", "/v1/policies/learn?agent=worker", "", 0),
    ("GET", "/v1/audit?limit=5", "", 0),
    ("GET", "/v1/audit?limit=5&form=lines", "", 0),
    ("GET", "/v1/audit/export?after=3", "", 0),
    ("GET", "/v1/anomalies?agent=worker&since=0", "", 0),
    ("GET", "/v1/anomalies/usual", "", 0),
    ("GET", "/v1/approvals", "", 0),
    ("GET", "/v1/placeholders", "", 1),
    ("POST", "/v1/run-tokens", r#"{"agent": "worker"}"#, 1),
    ("POST", "/v1/approvals/none", r#"{"approve": true}"#, 1),
    ("POST", "/v1/credentials", r#"{"name": "x"}"#, 2),
    ("POST", "/v1/credentials/main/rotate", "{}", 2),
    ("POST", "/v1/credentials/main/promote", "{}", 2),
    ("POST", "/v1/credentials/nix/revoke", "{}", 2),
    ("POST", "/v1/credentials/nix/remove", "{}", 2),
    ("POST", "/v1/credentials/nix/schedule", r#"{"rotate": {"days": 30}}"#, 2),
    ("POST", "/v1/sets", r#"{"name": "x", "members": ["nix"]}"#, 2),
    ("POST", "/v1/sets/nix/remove", "{}", 2),
    ("POST", "/v1/values", r#"{"name": "x", "text": ""}"#, 2),
    ("POST", "/v1/values/nix/remove", "{}", 2),
    ("POST", "/v1/agents", "{}", 2),
    ("POST", "/v1/agents/nix/labels", r#"{"labels": {"team": "ml"}}"#, 2),
    ("POST", "/v1/agents/nix/revoke", "{}", 2),
    ("POST", "/v1/agents/worker/certificates", r#"{"csr": ""}"#, 2),
    ("POST", "/v1/anomalies/accept", "{}", 2),
    ("PUT", "/v1/policies/more.yaml", "rules: [", 2),
    ("DELETE", "/v1/policies/nix.yaml", "", 2),
    ("GET", "/v1/administrators", "", 2),
    ("POST", "/v1/administrators", "{}", 2),
    ("POST", "/v1/administrators/nix/revoke", "{}", 2),
];

/// What the proxy says that there is, against the table: each route is in it, with its role.
#[track_caller]
fn the_table_is_whole(api: &Api) {
    let routes = api.get("/v1/routes");
    let routes = routes.as_array().unwrap();
    assert!(routes.len() >= 41, "{routes:?}");
    for route in routes {
        let text = |key: &str| route[key].as_str().unwrap();
        let fits = |(method, path, _, least): &&(&str, &str, &str, usize)| {
            let path = path.split('?').next().unwrap();
            let parts = || path.split('/').zip(text("path").split('/'));
            let same = path.split('/').count() == text("path").split('/').count();
            let role = ["viewer", "member", "owner"][*least];
            let names = same && parts().all(|(own, part)| part == "*" || own == part);
            names && *method == text("method") && role == text("role")
        };
        assert!(TABLE.iter().any(|row| fits(&row)), "not in the table: {route}");
    }
}

#[test]
fn each_role_may_what_it_may_and_a_token_that_opens_the_proxy_nothing() {
    let two = Two::new();
    let roles = ["viewer", "member", "owner"]
        .map(|role| Api::of(&two.home, "default", &format!("an-{role}"), role));
    let nobody = [
        two.a.token.clone(),
        run_token(&two.home, "default"),
        format!("lca_{}", &two.a.token[4..]),
        String::new(),
    ];
    the_table_is_whole(&roles[0]);
    std::thread::scope(|scope| {
        for token in &nobody {
            // A guess takes a second each.
            scope.spawn(|| {
                let api = Api::with(&two.home, token);
                for (method, path, body, _) in TABLE.iter().step_by(4) {
                    let (status, problem) = api.raw(method, path, body);
                    assert_eq!((status, &problem["code"]), (401, &json!("unauthorized")), "{path}");
                }
            });
        }
        for (rank, api) in roles.iter().enumerate() {
            for (method, path, body, least) in TABLE {
                let (status, value) = api.raw(method, path, body);
                assert_eq!(
                    status == 403,
                    rank < *least,
                    "{rank} {method} {path}: {status} {value}"
                );
                assert!(status != 401 && status < 500, "{rank} {method} {path}: {status} {value}");
            }
        }
    });
    for path in ["/", "/v1", "/v1/nothing", "/v1/credentials/main/secret", "/metrics"] {
        assert_eq!(roles[2].raw("GET", path, "").0, 404, "{path}");
    }
    let refused = two.home.audit_now();
    let refused = refused.iter().filter(|r| r["event"] == "administration-refused");
    let by: Vec<&str> = refused.map(|r| r["by"].as_str().unwrap()).collect();
    assert!(by.iter().any(|by| by.starts_with("viewer an-viewer (token ")), "{by:?}");
    // Revoked, at once.
    two.home.locum(&["admin", "revoke", "an-owner"]).ok();
    assert_eq!(roles[2].raw("GET", "/v1/me", "").0, 401);
    two.never_leaks();
}

#[test]
fn an_owner_manages_one_workspace_and_no_other() {
    let two = Two::new();
    let owner = Api::of(&two.home, "b", "bea", "owner");
    assert_eq!(owner.get("/v1/me"), json!({"name": "bea", "role": "owner", "workspace": "b"}));
    let key = canary();
    two.origin.accept(&key);
    let new = json!({
        "name": "extra", "to": ["https://api.test"], "secret": key,
        "slots": ["header authorization: Bearer {secret}"],
    });
    assert_eq!(owner.post("/v1/credentials", &new).0, 200);
    assert_eq!(owner.post("/v1/credentials", &new).0, 409);
    let (status, added) = owner.post("/v1/agents", &json!({"name": "made"}));
    assert_eq!(status, 200);
    let text = |key: &str| added[key].as_str().unwrap().to_owned();
    let made = Agent { name: "made".into(), token_id: text("token_id"), token: text("token") };
    // In force when it was answered.
    let field = "Authorization: Bearer locum_extra";
    let ask = |target: &str| {
        two.serve.tunnel(&made, HOST).ask(request("GET", target, &[field], "")).status
    };
    assert_eq!(ask("/extra"), 200);
    let sent = two.origin.last();
    assert_eq!(sent.header("authorization"), Some(&*format!("Bearer {key}")));
    let newer = canary();
    two.origin.accept(&newer);
    let (status, rotated) = owner.post("/v1/credentials/extra/rotate", &json!({"secret": newer}));
    assert_eq!((status, &rotated["version"]), (200, &json!(2)));
    assert_eq!(ask("/rotated"), 200);
    assert_eq!(two.origin.last().header("authorization"), Some(&*format!("Bearer {newer}")));
    assert_eq!(owner.post("/v1/credentials/extra/revoke", &json!({})).0, 200);
    assert_eq!(ask("/revoked"), 403);
    assert_eq!(owner.post("/v1/agents/made/revoke", &json!({})).0, 200);
    assert_eq!(two.knocks("made", &made.token), 407);
    // The other workspace has heard of none of it, and is not seen.
    let names = |list: &Value| -> Vec<String> {
        list.as_array().unwrap().iter().map(|c| c["name"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(names(&json(&two.home, &["credential", "list", "--json"])), ["main"]);
    assert_eq!(names(&owner.get("/v1/credentials")), ["extra", "main"]);
    assert_eq!(two.get(&two.a, "/of-a").status, 200);
    two.home.accesses_to("/of-a");
    let seen = owner.get("/v1/audit?limit=1000").to_string();
    assert!(seen.contains("/extra") && !seen.contains("/of-a"), "{seen}");
    // Everything is on record, with who did it.
    let events = two.home.audit_now();
    for (event, subject) in [
        ("credential-added", "extra"),
        ("credential-rotated", "extra"),
        ("credential-revoked", "extra"),
        ("agent-added", "made"),
        ("agent-revoked", "made"),
    ] {
        let one = events.iter().find(|r| r["event"] == event && r["subject"] == subject);
        let one = one.unwrap_or_else(|| panic!("no {event}"));
        assert_eq!(one["workspace"], "b");
        assert!(one["by"].as_str().unwrap().starts_with("owner bea (token "), "{one}");
    }
    // What cannot be read is not quoted: it may be a secret.
    let bad = format!("{{\"name\": \"y\", \"secret\": \"{key}\", \"more\": 1}}");
    let (status, problem) = owner.raw("POST", "/v1/credentials", &bad);
    assert!(status == 400 && !problem.to_string().contains(&key), "{problem}");
    let short =
        json!({"name": "y", "to": ["https://api.test"], "slots": ["query key"], "secret": "x"});
    assert_eq!(owner.post("/v1/credentials", &short).0, 422);
    two.home.never_leaks(&[&key, &newer, &two.key_a, &two.key_b], &[("seen", seen.as_bytes())]);
}

#[test]
fn what_says_of_itself_what_it_is_not_or_needs_the_proxys_machine_is_not_added() {
    let two = Two::new();
    let owner = Api::of(&two.home, "b", "bea", "owner");
    let key = canary();
    let to = json!(["https://api.test"]);
    for (wrong, why) in [
        (json!({"kind": {"totp": {"digits": 99, "period": 30, "hash": "sha1"}}}), "6 to 8 digits"),
        (
            json!({"kind": {"oauth": {"grant": "refresh", "token-endpoint": "https://x.test/"}}}),
            "who asks",
        ),
        (json!({"kind": "client-certificate"}), "certificate"),
        (json!({"slots": ["aws"]}), "belongs to a kind"),
        (json!({"captured": true}), "no other value"),
        (json!({"for_sources": true, "honeytoken": true}), "nothing else"),
        (json!({"source": {"from": "file:/etc/hostname"}}), "machine"),
        (json!({"source": {"from": "command:[\"/bin/id\"]"}}), "machine"),
        (json!({"source": {"from": "env:HOME"}}), "machine"),
        (
            json!({"source": {"from": "aws:s", "region": "eu-west-1", "login": "instance"}}),
            "machine",
        ),
        (
            json!({"source": {"from": "aws:s", "region": "eu-west-1", "login": "environment"}}),
            "machine",
        ),
        (
            json!({"source": {"from": "vault:kv/data/x", "url": "https://v.test", "login": "kubernetes:r"}}),
            "machine",
        ),
        (
            json!({"source": {"from": "vault:kv/data/x", "url": "https://v.test", "login": "token-file:/x"}}),
            "machine",
        ),
        (
            json!({"source": {"from": "aws:s", "region": "eu-west-1", "login": "credential:nix"}}),
            "nix",
        ),
        (
            json!({"source": {"from": "aws:s", "region": "eu-west-1", "login": "credential:main"}}),
            "agents may get",
        ),
    ] {
        let mut body = json!({"name": "y", "to": to, "slots": ["query key"]});
        if wrong.get("source").is_none() {
            body["secret"] = json!(key);
        }
        for (name, value) in wrong.as_object().unwrap() {
            body[name] = value.clone();
        }
        let (status, problem) = owner.post("/v1/credentials", &body);
        let told = problem["detail"].as_str().unwrap_or_default();
        assert!([404, 422].contains(&status) && told.contains(why), "{body}: {status} {problem}");
        assert!(!problem.to_string().contains(&key), "{problem}");
    }
    assert_eq!(owner.get("/v1/credentials").as_array().unwrap().len(), 1);
    two.home.never_leaks(&[&key], &[]);
}

#[test]
fn an_owner_puts_policies_that_are_sound_and_widens_nothing() {
    let bound = "version: 1\nlayer: organisation\nrules:\n  - {name: not there, agents: ['*'], to: ['https://api.test'], paths: ['/secret/**'], deny: true}\n";
    let two = Two::with("version: 1\nrules: []\n", |home| {
        let org = home.path().join("policies/org");
        std::fs::create_dir(&org).unwrap();
        std::fs::write(org.join("bound.yaml"), bound).unwrap();
    });
    let owner = Api::of(&two.home, "b", "bea", "owner");
    assert_eq!(two.get(&two.b, "/closed").status, 403);
    let put = |file: &str, text: &str| owner.raw("PUT", &format!("/v1/policies/{file}"), text);
    assert_eq!(put("team.yaml", OPEN).0, 200);
    assert_eq!(two.get(&two.b, "/open").status, 200, "in force when it was answered");
    // The digest of records is that of the metric, of each workspace one.
    let record = two.home.accesses_to("/open").remove(0);
    let metrics = two.serve.metrics();
    let of_b: Vec<&str> = metrics
        .lines()
        .filter(|line| line.starts_with("locum_policy_info{") && line.contains(r#"workspace="b""#))
        .collect();
    let digest = record["policy_digest"].as_str().unwrap();
    assert!(of_b.len() == 1 && of_b[0].contains(digest) && of_b[0].ends_with(" 1"), "{of_b:?}");
    assert_eq!(two.get(&two.b, "/secret/x").status, 403, "the organisation's");
    assert_eq!(two.get(&two.a, "/open").status, 403, "the other workspace's");
    // Mistakes are told, and change nothing.
    let (status, problem) = put("team.yaml", "version: 1\nrules: [{nmae: x}]\n");
    let detail = problem["detail"].as_str().unwrap();
    assert!(
        status == 422 && detail.contains("team.yaml:2:") && detail.contains("nmae"),
        "{problem}"
    );
    assert!(!detail.contains(two.home.path().to_str().unwrap()), "{detail}");
    assert_eq!(two.get(&two.b, "/still").status, 200);
    // No way up to the organisation's, nor to another workspace's.
    for (file, text) in [
        ("team.yaml", bound),
        ("org.yaml", bound),
        ("org/bound.yaml", OPEN),
        ("org%2Fbound.yaml", OPEN),
        ("..%2F..%2F..%2Fpolicies%2Ffirst.yaml", OPEN),
        ("../../../policies/first.yaml", OPEN),
        (".hidden.yaml", OPEN),
        ("team.yml", OPEN),
        ("team", OPEN),
    ] {
        let (status, problem) = put(file, text);
        assert!((400..500).contains(&status), "{file}: {status} {problem}");
    }
    for path in ["org/bound.yaml", "org%2Fbound.yaml", "../org/bound.yaml"] {
        assert!(owner.raw("DELETE", &format!("/v1/policies/{path}"), "").0 >= 400, "{path}");
    }
    let kept = std::fs::read_to_string(two.home.path().join("policies/org/bound.yaml")).unwrap();
    assert_eq!(kept, bound);
    let files = owner.get("/v1/policies")["files"].clone();
    assert_eq!(
        (&files["org/bound.yaml"]["organisation"], &files["team.yaml"]["organisation"]),
        (&json!(true), &json!(false))
    );
    assert_eq!(owner.raw("DELETE", "/v1/policies/team.yaml", "").0, 200);
    assert_eq!(two.get(&two.b, "/open").status, 403);
    let events = two.home.audit_now();
    let put = events.iter().find(|r| r["event"] == "policy-put").unwrap();
    assert!(
        put["by"].as_str().unwrap().starts_with("owner bea") && put["workspace"] == "b",
        "{put}"
    );
}

#[test]
fn a_file_of_ones_own_does_not_hide_the_organisations_of_its_name() {
    let bound = "version: 1\nlayer: organisation\nrules:\n  - {name: not there, agents: ['*'], to: ['https://api.test'], paths: ['/secret/**'], deny: true}\n";
    let two = Two::with(OPEN, |home| {
        let org = home.path().join("policies/org");
        std::fs::create_dir(&org).unwrap();
        std::fs::write(org.join("first.yaml"), bound).unwrap();
    });
    for workspace in ["default", "b"] {
        let viewer = Api::of(&two.home, workspace, "vic", "viewer");
        let files = viewer.get("/v1/policies")["files"].clone();
        assert_eq!(files["org/first.yaml"], json!({"text": bound, "organisation": true}));
        assert_eq!(files["first.yaml"], json!({"text": OPEN, "organisation": false}));
        // What is for those who use a credential.
        let member = Api::of(&two.home, workspace, "mia", "member");
        for (api, sees) in [(viewer, false), (member, true)] {
            let one = api.get("/v1/credentials/main");
            let all = api.get("/v1/credentials");
            for shown in [&one, &all[0]] {
                assert_eq!(shown["name"], "main");
                assert_eq!(shown.get("placeholder").is_some(), sees, "{shown}");
            }
        }
    }
}

#[test]
fn what_cannot_be_recorded_is_not_done() {
    let two = Two::new();
    let owner = Api::of(&two.home, "b", "bea", "owner");
    let (audit, aside) = (two.home.path().join("audit"), two.home.path().join("aside"));
    std::fs::rename(&audit, &aside).unwrap();
    std::fs::write(&audit, "in the way").unwrap();
    eventually("it is noticed", PATIENCE, || (two.serve.readiness().0 == 503).then_some(()));
    let refused = |method: &str, path: &str, body: &str| {
        let (status, problem) = owner.raw(method, path, body);
        assert_eq!((status, &problem["code"]), (503, &json!("audit-unavailable")), "{path}");
    };
    refused("PUT", "/v1/policies/more.yaml", "version: 1\nrules: []\n");
    refused("DELETE", "/v1/policies/first.yaml", "");
    refused("POST", "/v1/agents", r#"{"name": "late"}"#);
    refused("POST", "/v1/credentials/main/revoke", "{}");
    refused("POST", "/v1/administrators", r#"{"name": "more", "role": "owner"}"#);
    std::fs::remove_file(&audit).unwrap();
    std::fs::rename(&aside, &audit).unwrap();
    eventually("it is recorded again", PATIENCE, || {
        (owner.post("/v1/agents", &json!({"name": "early"})).0 == 200).then_some(())
    });
    assert_eq!(owner.get("/v1/policies")["files"].as_object().unwrap().len(), 1);
    assert!(!owner.get("/v1/agents").to_string().contains("late"));
    assert_eq!(owner.get("/v1/administrators").as_array().unwrap().len(), 1);
    assert_eq!(two.get(&two.b, "/still").status, 200);
}

#[test]
fn of_two_policies_that_do_not_go_together_one_is_put() {
    let two = Two::new();
    let owner = Api::of(&two.home, "b", "bea", "owner");
    // One name for two rules is a mistake.
    let rule = |name: &str| {
        format!("version: 1\nrules:\n  - {{name: '{name}', agents: ['*'], use: ['*']}}\n")
    };
    for round in 0..8 {
        let text = rule(&format!("r{round}"));
        let put =
            |side: &str| owner.raw("PUT", &format!("/v1/policies/{side}{round}.yaml"), &text).0;
        let mut answers = std::thread::scope(|scope| {
            let left = scope.spawn(|| put("left"));
            [put("right"), left.join().unwrap()]
        });
        answers.sort_unstable();
        assert_eq!(answers, [200, 422], "round {round}");
    }
    two.home.locum(&in_b(&["policy", "check"])).ok();
    // There is an end to it.
    let own = two.home.path().join("workspaces/b/policies");
    for index in 0..200 {
        std::fs::write(own.join(format!("n{index}.yaml")), "version: 1\nrules: []\n").unwrap();
    }
    let (status, problem) = owner.raw("PUT", "/v1/policies/more.yaml", &rule("more"));
    assert_eq!((status, &problem["code"]), (422, &json!("invalid")), "{problem}");
    assert!(!own.join("more.yaml").exists());
}

#[test]
fn nothing_is_read_of_what_nobody_sends() {
    let home = Home::new();
    let _serve = home.serve();
    for token in ["", "lca_nobody"] {
        let mut wire = Wire::try_unix(&home.path().join("admin.sock")).unwrap();
        // A body that never comes.
        wire.send(format!(
            "POST /v1/agents HTTP/1.1\r\nHost: locum\r\nAuthorization: Bearer {token}\r\nContent-Length: 100000\r\n\r\n"
        ));
        assert_eq!(wire.answer().status, 401);
    }
}

#[test]
fn who_is_revoked_while_a_request_comes_slowly_gets_nothing() {
    let two = Two::new();
    let owner = Api::of(&two.home, "b", "bea", "owner");
    let other = Api::of(&two.home, "b", "bob", "owner");
    let paths = [
        "me",
        "policies",
        "audit",
        "approvals",
        "credentials",
        "policies/explain?agent=worker&method=GET&url=https://api.test/x&use=main",
    ];
    let mut begun = paths.map(|path| {
        let mut wire = Wire::try_unix(&owner.socket).unwrap();
        wire.send(format!(
            "GET /v1/{path} HTTP/1.1\r\nHost: locum\r\nAuthorization: Bearer {}\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n",
            owner.token
        ));
        // It was let in: its body is asked for.
        assert!(wire.until("\r\n\r\n").starts_with("HTTP/1.1 100 "), "{path}");
        wire
    });
    assert_eq!(other.post("/v1/administrators/bea/revoke", &json!({})).0, 200);
    for wire in &mut begun {
        wire.send("{}");
    }
    for (mut wire, path) in begun.into_iter().zip(paths) {
        assert_eq!(wire.answer().status, 401, "{path}");
    }
}

#[test]
fn files_of_the_administrators_listener_are_checked_before_anybody_ends() {
    let home = Home::new();
    let agent = home.agent("worker");
    let serve = home.serve();
    home.set("admin.listen: 127.0.0.1:0");
    home.set("admin.tls: {certificate: no-cert.pem, key: no-key.pem}");
    for command in [&["config", "check"][..], &["serve", "--take-over"]] {
        let ran = home.locum(command);
        assert!(ran.code != 0 && ran.err.contains("no-cert.pem"), "{}", ran.err);
    }
    let mut wire = serve.wire();
    assert_ne!(wire.ask(connect("nobody.test:443", &agent.authorization())).status, 407);
}

#[test]
fn a_member_approves_what_others_asked_for() {
    let held = "version: 1\nrules:\n  - {name: held, agents: ['*'], use: ['*'], approval: {answer: refuse, valid: 10m}}\n";
    let two = Two::with(held, |_| {});
    let [mia, max] = ["mia", "max"].map(|name| Api::of(&two.home, "default", name, "member"));
    let there = Api::of(&two.home, "b", "bea", "owner");
    let (status, made) = mia.post("/v1/run-tokens", &json!({"agent": "worker", "run": "7"}));
    assert_eq!((status, &made["user"]), (200, &json!("mia")), "{made}");
    let token = made["token"].as_str().unwrap().to_owned();
    let run = Agent { name: "worker".into(), token_id: String::new(), token };
    assert_eq!(two.get(&run, "/wanted").status, 403);
    let open = mia.get("/v1/approvals");
    assert_eq!((&open[0]["user"], &open[0]["run"]), (&json!("mia"), &json!("7")));
    let decide = format!("/v1/approvals/{}", open[0]["id"].as_str().unwrap());
    let yes = json!({"approve": true});
    let (status, problem) = mia.post(&decide, &yes);
    assert_eq!((status, &problem["code"]), (403, &json!("own-request")));
    assert_eq!(there.post(&decide, &yes).0, 404, "another workspace's");
    assert_eq!(max.post(&decide, &yes).0, 200);
    assert_eq!(two.get(&run, "/wanted").status, 200);
    let events = two.home.audit_now();
    let by = |event: &str| {
        let one = events.iter().find(|r| r["event"] == event).unwrap();
        one["by"].as_str().unwrap().split(" (").next().unwrap().to_owned()
    };
    assert_eq!(
        (by("run-token-made"), by("approval-granted")),
        ("member mia".into(), "member max".into())
    );
}

#[test]
fn over_a_network_it_is_tls_or_nothing() {
    let home = Home::new();
    home.set("admin.listen: 127.0.0.1:0");
    let said = home.locum(&["serve"]).failed(64).err;
    assert!(said.contains("give `tls`"), "{said}");
    home.set("admin.listen: off");
    let serve = home.serve();
    assert!(!home.path().join("admin.sock").exists());
    drop(serve);
    // A port, by TLS alone.
    let files = home.work().join("identity");
    std::fs::create_dir(&files).unwrap();
    identity_files("admin.test", &files);
    let key = files.join("key.pem");
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).unwrap();
    home.set("admin.listen: 127.0.0.1:0");
    let certificate = files.join("cert.pem");
    home.set(&format!(
        "admin.tls: {{certificate: '{}', key: '{}'}}",
        certificate.display(),
        key.display()
    ));
    let added = run(&mut home.command(&["admin", "add", "ada", "--role", "viewer"]), b"").ok();
    let token = added.out.trim();
    let serve = home.serve();
    let announced = std::fs::read(home.path().join("serve.json")).unwrap();
    let announced: Value = serde_json::from_slice(&announced).unwrap();
    let port: std::net::SocketAddr = announced["admin"].as_str().unwrap().parse().unwrap();
    let ask =
        format!("GET /v1/me HTTP/1.1\r\nHost: admin.test\r\nAuthorization: Bearer {token}\r\n\r\n");
    let mut wire = Wire::plain(port).tls("admin.test", &files.join("ca.pem")).unwrap();
    let answer = wire.ask(&ask);
    assert!(answer.status == 200 && answer.text().contains("ada"), "{}", answer.text());
    // Renewed without a restart, as those of the proxy's listeners.
    let newer = home.work().join("newer");
    std::fs::create_dir(&newer).unwrap();
    identity_files("admin.test", &newer);
    std::fs::set_permissions(newer.join("key.pem"), std::fs::Permissions::from_mode(0o600))
        .unwrap();
    for name in ["key.pem", "cert.pem"] {
        std::fs::rename(newer.join(name), files.join(name)).unwrap();
    }
    eventually("it shows the new one", PATIENCE, || {
        let mut wire = Wire::plain(port).tls("admin.test", &newer.join("ca.pem")).ok()?;
        (wire.ask(&ask).status == 200).then_some(())
    });
    let mut clear = Wire::plain(port);
    clear.send(&ask);
    assert!(clear.try_answer("GET").is_err(), "in the clear");
    // The proxy leads nobody there.
    let agent = home.agent("worker");
    let mut wire = serve.wire();
    let answer = wire.ask(connect(&port.to_string(), &agent.authorization()));
    if answer.status == 200 {
        let mut wire = wire.tls(&port.ip().to_string(), &home.ca()).unwrap();
        let answer = wire.ask(format!("GET /v1/me HTTP/1.1\r\nHost: {port}\r\n\r\n"));
        assert!(answer.status >= 400 && answer.problem() != "", "{}", answer.text());
    }
    drop(serve);
    home.unset("admin.tls");
    // A socket of its own mode, which goes with the process.
    let socket = home.work().join("a.sock");
    home.set(&format!("admin.listen: 'unix:{}'", socket.display()));
    home.set("admin.mode: '0660'");
    let serve = home.serve();
    assert_eq!(std::fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o660);
    serve.stop();
    assert!(!socket.exists());
}

#[test]
fn two_people_approve_what_a_rule_wants_two_for() {
    let held = "version: 1\nrules:\n  - {name: held, agents: ['*'], use: ['*'], approval: {answer: refuse, valid: 10m, approvers: 2}}\n";
    let two = Two::with(held, |_| {});
    let of = |name: &str, role: &str| Api::of(&two.home, "default", name, role);
    let (mia, max, ona) = (of("mia", "member"), of("max", "member"), of("ona", "owner"));
    let (_, made) = mia.post("/v1/run-tokens", &json!({"agent": "worker"}));
    let token = made["token"].as_str().unwrap().to_owned();
    let run = Agent { name: "worker".into(), token_id: String::new(), token };
    // What is asked, at a path of its own each time, and how one answers.
    let asked = |agent: &Agent, path: &str| {
        assert_eq!(two.get(agent, path).status, 403);
        let open = ona.get("/v1/approvals");
        let one = open.as_array().unwrap().iter().find(|one| one["target"] == path).unwrap();
        assert_eq!((&one["approvers"], &one["approved_by"]), (&json!(2), &json!([])));
        format!("/v1/approvals/{}", one["id"].as_str().unwrap())
    };
    let says = |api: &Api, decide: &str, yes: bool| api.post(decide, &json!({"approve": yes}));
    let wanted = asked(&run, "/wanted");
    // One is not two, however often; nor is whoever asked.
    for _ in 0..2 {
        let (status, answer) = says(&max, &wanted, true);
        assert_eq!((status, &answer["missing"]), (200, &json!(1)), "{answer}");
    }
    assert_eq!(says(&mia, &wanted, true).1["code"], "own-request");
    assert_eq!(two.get(&run, "/wanted").status, 403);
    let open = ona.get("/v1/approvals");
    assert_eq!(open[0]["approved_by"], json!(["administrator max"]));
    let shown = two.home.locum(&["approvals", "show", open[0]["id"].as_str().unwrap()]).ok().out;
    assert!(shown.contains("approvers     2, so far administrator max"), "{shown}");
    let (status, answer) = says(&ona, &wanted, true);
    assert_eq!((status, answer.get("missing")), (200, None), "{answer}");
    assert_eq!(two.get(&run, "/wanted").status, 200);
    assert_eq!(two.get(&run, "/wanted").status, 403, "it was for once");
    // Whoever has the home's files is one, too, and no more than one.
    let local = asked(&two.a, "/local");
    let approve = |decide: &str| {
        let id = decide.rsplit('/').next().unwrap();
        let said = two.home.locum(&["approvals", "approve", id]).ok().out;
        said.replace(id, "it")
    };
    for _ in 0..2 {
        assert_eq!(approve(&local), "approved it; one more has to\n");
    }
    assert_eq!(two.get(&two.a, "/local").status, 403);
    assert_eq!(says(&max, &local, true).0, 200);
    assert_eq!(two.get(&two.a, "/local").status, 200);
    // The yes of one who is no administrator any more is none.
    let revoked = asked(&two.a, "/revoked");
    assert_eq!(says(&max, &revoked, true).1["missing"], 1);
    two.home.locum(&["admin", "revoke", "max"]).ok();
    assert_eq!(approve(&revoked), "approved it; one more has to\n");
    assert_eq!(says(&ona, &revoked, true).0, 200);
    assert_eq!(two.get(&two.a, "/revoked").status, 200);
    // One no is enough, also after a yes.
    let refused = asked(&two.a, "/refused");
    assert_eq!(approve(&refused), "approved it; one more has to\n");
    assert_eq!(says(&ona, &refused, false).0, 200);
    assert_eq!(says(&ona, &refused, true).0, 404, "it is decided");
    assert_eq!(two.get(&two.a, "/refused").status, 403);
    // Each word is on record, with who it was.
    let events = two.home.audit_now();
    let yes = events.iter().filter(|r| {
        r["event"] == "approval-granted" && wanted.ends_with(r["subject"].as_str().unwrap())
    });
    let by: Vec<&str> =
        yes.map(|r| r["by"].as_str().unwrap().split(" (").next().unwrap()).collect();
    assert_eq!(by, ["member max", "member max", "owner ona"]);
}

#[test]
fn an_export_in_parts_is_the_whole_of_it_and_of_one_workspace() {
    let two = Two::new();
    let viewer = Api::of(&two.home, "b", "vic", "viewer");
    for at in 0..5 {
        assert_eq!(two.get(&two.b, &format!("/of-b/{at}")).status, 200);
        assert_eq!(two.get(&two.a, &format!("/of-a/{at}")).status, 200);
        two.home.accesses_to(&format!("/of-a/{at}"));
    }
    let here = eventually("all of them have ended", PATIENCE, || {
        let whole = in_b(&["audit", "export", "--until", "2100-01-01"]);
        let here = two.home.locum(&whole).ok().out;
        let whole = here.matches(r#""kind":"outcome""#).count() == 5;
        (whole && here.contains("administrator-added")).then_some(here)
    });
    let (mut lines, mut after, mut parts) = (Vec::new(), 0, 0);
    loop {
        let part = viewer.get(&format!("/v1/audit/export?limit=2&after={after}&until=4102444800"));
        let own = part["lines"].as_array().unwrap();
        assert!(own.len() <= 2, "{part}");
        lines.extend(own.iter().map(|line| line.as_str().unwrap().to_owned() + "\n"));
        parts += 1;
        match part["next"].as_u64() {
            Some(next) => after = next,
            None => break,
        }
    }
    // The end of a request stands in another part than its beginning, and is there.
    assert!(lines.concat() == here && parts >= 5, "{parts} parts: {lines:?}\n{here}");
    assert!(here.contains("/of-b/4") && !here.contains("/of-a"), "{here}");
}
