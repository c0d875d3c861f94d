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
    paths: [/jobs/**]
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
        let target = format!("/jobs/{}", agent.token_id);
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

#[test]
fn a_run_begins_in_its_own_workspace() {
    let two = Two::new();
    let ask = |agent: &Agent, target: &str| {
        let fields = [AUTHORIZED, "Locum-Run: 42"];
        let answer = two.serve.tunnel(agent, HOST).ask(request("GET", target, &fields, ""));
        assert_eq!(answer.status, 200);
        two.origin.seen_at(target)[0].header("authorization").unwrap().to_owned()
    };
    assert_eq!(ask(&two.a, "/first"), format!("Bearer {}", two.key_a));
    // Both get a second version, with the first in its grace.
    let newer = ["default", "b"].map(|workspace| {
        let key = canary();
        two.origin.accept(&key);
        let arguments = ["--workspace", workspace, "credential", "rotate", "main", "--grace", "1h"];
        two.home.locum_with(&arguments, key.as_bytes()).ok();
        key
    });
    // The run that began goes on with what it began with; one of the same agent and id elsewhere begins
    // with what is there.
    assert_eq!(ask(&two.a, "/again"), format!("Bearer {}", two.key_a));
    eventually("the rotation acts", PATIENCE, || {
        // Outside of a run: one that is named goes on with what it began with.
        two.get(&two.b, "/probe");
        let last = two.origin.last().header("authorization")?.to_owned();
        (last == format!("Bearer {}", newer[1])).then_some(())
    });
    assert_eq!(ask(&two.b, "/begins"), format!("Bearer {}", newer[1]));
    assert_eq!(ask(&two.a, "/goes-on"), format!("Bearer {}", two.key_a));
}

#[test]
fn programs_are_started_as_agents_of_the_workspace() {
    let mut two = Two::new();
    let curl = |target: &str| {
        let url = format!("https://{HOST}{target}");
        let field = AUTHORIZED.to_owned();
        let words = ["run", "--agent", "worker", "--", "curl", "-sS", "-f", "-H", &field, &url];
        two.home.locum(&in_b(&words)).ok();
        let sent = two.origin.seen_at(target);
        assert_eq!(sent[0].header("authorization"), Some(&*format!("Bearer {}", two.key_b)));
        assert_eq!(two.home.accesses_to(target)[0]["workspace"], "b");
    };
    curl("/beside");
    let made = json(&two.home, &in_b(&["env", "--agent", "worker", "--json"]));
    let url = made["set"]["HTTPS_PROXY"].as_str().unwrap();
    let token = url.split_once("worker:").unwrap().1.split_once('@').unwrap().0.to_owned();
    let agent = Agent { name: "worker".into(), token_id: String::new(), token };
    assert_eq!(two.get(&agent, "/env").status, 200);
    assert_eq!(two.home.accesses_to("/env")[0]["workspace"], "b");
    // Without a proxy beside it, in a private one.
    two.serve.terminate();
    two.serve.ended(PATIENCE);
    let url = format!("https://{HOST}/alone");
    let words = ["run", "--agent", "worker", "--", "curl", "-sS", "-f", "-H", AUTHORIZED, &url];
    two.home.locum(&in_b(&words)).ok();
    assert_eq!(two.home.accesses_to("/alone")[0]["workspace"], "b");
}
