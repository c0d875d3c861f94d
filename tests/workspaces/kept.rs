//! What the proxy keeps between requests: fetched values, captured tokens, credentials that rest.

use std::os::unix::fs::PermissionsExt as _;

use crate::support::*;
use crate::two::*;

#[test]
fn a_fetched_value_is_its_own_workspaces() {
    let two = Two::new();
    let keys = ["default", "b"].map(|workspace| {
        let key = canary();
        let file = two.home.work().join(format!("{workspace}.key"));
        std::fs::write(&file, &key).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
        two.origin.accept(&key);
        let source = format!("file:{}", file.display());
        let arguments =
            [&["--workspace", workspace, "credential", "add", "lies", "--source", &source], BEARER];
        two.home.locum(&arguments.concat()).ok();
        key
    });
    let field = "Authorization: Bearer locum_lies";
    for round in 0..3 {
        for (agent, key) in [&two.a, &two.b].into_iter().zip(&keys) {
            let target = format!("/{}/{round}", agent.token_id);
            let answer = two.serve.tunnel(agent, HOST).ask(request("GET", &target, &[field], ""));
            assert_eq!(answer.status, 200);
            let sent = two.origin.seen_at(&target);
            assert_eq!(sent[0].header("authorization"), Some(&*format!("Bearer {key}")));
        }
    }
}

const CAPTURES: &str = "version: 1
rules:
  - name: log in
    agents: [worker]
    to: [https://api.test]
    paths: [/login]
    use: [main]
    capture:
      - {json: /token, as: session}
  - name: work
    agents: [worker]
    to: [https://api.test]
    paths: [/work/**]
    use: [session]
";

#[test]
fn a_captured_token_goes_into_the_vault_of_its_workspace() {
    let two = Two::with(CAPTURES, |home| {
        for workspace in ["default", "b"] {
            let new = ["--workspace", workspace, "credential", "add", "session", "--captured"];
            home.locum(&[&new, BEARER].concat()).ok();
        }
    });
    let tokens = [&two.a, &two.b].map(|agent| {
        let token = canary();
        two.origin.accept(&token);
        let body = format!("{{\"token\": \"{token}\"}}");
        two.origin.serve("/login", "application/json", body.as_bytes());
        let answer =
            two.serve.tunnel(agent, HOST).ask(request("POST", "/login", &[AUTHORIZED], ""));
        assert_eq!(answer.status, 200);
        assert!(!answer.text().contains(&token), "{}", answer.text());
        token
    });
    for (agent, token) in [&two.a, &two.b].into_iter().zip(&tokens) {
        let target = format!("/work/{}", agent.token_id);
        let field = "Authorization: Bearer locum_session";
        let answer = two.serve.tunnel(agent, HOST).ask(request("GET", &target, &[field], ""));
        assert_eq!(answer.status, 200);
        let sent = two.origin.seen_at(&target);
        assert_eq!(sent[0].header("authorization"), Some(&*format!("Bearer {token}")));
    }
    two.home.never_leaks(&[&tokens[0], &tokens[1]], &[]);
}

#[test]
fn what_is_cut_in_one_workspace_goes_on_in_the_other() {
    let two = Two::new();
    two.origin.hold();
    let mut waiting = [&two.a, &two.b].map(|agent| {
        let mut wire = two.serve.tunnel(agent, HOST);
        wire.send(request("GET", "/hold", &[AUTHORIZED], ""));
        wire
    });
    two.origin.until_seen(2);
    two.home.locum(&in_b(&["credential", "revoke", "main", "--now", "--cut"])).ok();
    let [a, b] = &mut waiting;
    let answer = b.answer();
    assert_eq!((answer.status, &*answer.problem()), (403, "credential-revoked"));
    // What was broken off may still stand in the queue.
    two.origin.release();
    two.origin.release();
    assert_eq!(a.answer().status, 200);
    let cut = two.home.audit().into_iter().find(|r| r["event"] == "credential-cut").unwrap();
    assert_eq!(cut["workspace"], "b");
}
