//! What is shown in one workspace opens nothing of the other, whatever its names are.

use serde_json::Value;

use crate::support::*;
use crate::two::*;

#[test]
fn the_same_names_mean_each_workspaces_own() {
    let two = Two::new();
    // In turns and over tunnels that stay open, so that connections to the origin could be shared.
    let mut tunnels = [&two.a, &two.b].map(|agent| two.serve.tunnel(agent, HOST));
    for round in 0..4 {
        for (tunnel, own) in tunnels.iter_mut().zip(["a", "b"]) {
            let target = format!("/{own}/{round}");
            assert_eq!(tunnel.ask(request("GET", &target, &[AUTHORIZED], "")).status, 200);
        }
    }
    let seen = two.origin.seen();
    let of = |own: &str| -> Vec<&Seen> {
        seen.iter().filter(|s| s.target.starts_with(&format!("/{own}/"))).collect()
    };
    for (own, key) in [("a", &two.key_a), ("b", &two.key_b)] {
        assert_eq!(of(own).len(), 4);
        for call in of(own) {
            assert_eq!(call.header("authorization"), Some(&*format!("Bearer {key}")), "{own}");
        }
    }
    let connections =
        |own| of(own).iter().map(|s| s.connection).collect::<std::collections::BTreeSet<_>>();
    assert!(connections("a").is_disjoint(&connections("b")), "a connection was shared");
    for (path, workspace) in [("/a/0", "default"), ("/b/0", "b")] {
        let record = two.home.accesses_to(path).remove(0);
        assert_eq!((&record["workspace"], &record["agent"]), (&workspace.into(), &"worker".into()));
    }
    assert_eq!(two.serve.metric("locum_injections_total{credential=\"main\"}"), 4);
    assert_eq!(two.serve.metric("locum_injections_total{credential=\"b/main\"}"), 4);
    drop(tunnels);
    eventually("all are counted", PATIENCE, || {
        let count = |agent: &str| {
            two.serve
                .metric(&format!("locum_requests_total{{agent=\"{agent}\",result=\"permitted\"}}"))
        };
        (count("worker") == 4 && count("b/worker") == 4).then_some(())
    });
    two.never_leaks();
}

#[test]
fn no_token_opens_the_other_workspace() {
    let two = Two::new();
    let only_b = agent_of(&two.home, "b", "solo");
    assert_eq!(two.knocks("solo", &only_b.token), 200);
    // The agent of one with the token of the other, where both have the name and where one does not.
    assert_eq!(two.knocks("solo", &two.a.token), 407);
    assert_eq!(two.knocks("worker", &only_b.token), 407);
    // Revoking one's `worker` ends the other's in nothing.
    two.home.locum(&in_b(&["agent", "revoke", "worker"])).ok();
    eventually("the revocation acts", PATIENCE, || {
        (two.knocks("worker", &two.b.token) == 407).then_some(())
    });
    assert_eq!(two.get(&two.a, "/after").status, 200);
    // One workspace's token ids are none of the other's.
    two.home.locum(&in_b(&["agent", "revoke", "worker", "--token", &two.a.token_id])).failed(64);
    assert_eq!(two.get(&two.a, "/still").status, 200);
}

/// A run token whose claims say another workspace than it was made in.
fn moved(token: &str, to: &str) -> String {
    let (claims, mac) = token.strip_prefix("lcr_").unwrap().split_once('.').unwrap();
    let claims = data_encoding::BASE64URL_NOPAD.decode(claims.as_bytes()).unwrap();
    let mut claims: serde_json::Map<String, Value> = serde_json::from_slice(&claims).unwrap();
    claims.insert("ws".to_owned(), to.into());
    let claims = serde_json::to_vec(&claims).unwrap();
    format!("lcr_{}.{mac}", data_encoding::BASE64URL_NOPAD.encode(&claims))
}

#[test]
fn a_run_token_is_good_where_it_was_made() {
    let two = Two::new();
    for (made, other, key) in [("default", "b", &two.key_a), ("b", "default", &two.key_b)] {
        let token = run_token(&two.home, made);
        let agent = Agent { name: "worker".into(), token_id: String::new(), token: token.clone() };
        assert_eq!(two.get(&agent, &format!("/run/{made}")).status, 200);
        let sent = two.origin.seen_at(&format!("/run/{made}"));
        assert_eq!(sent[0].header("authorization"), Some(&*format!("Bearer {key}")));
        for to in [other, "nowhere"] {
            assert_eq!(two.knocks("worker", &moved(&token, to)), 407, "{made} to {to}");
        }
    }
    // Ended in one workspace, it stands in the other.
    let (here, there) = (run_token(&two.home, "default"), run_token(&two.home, "b"));
    two.home.locum(&in_b(&["agent", "revoke", "worker"])).ok();
    eventually("the end acts", PATIENCE, || (two.knocks("worker", &there) == 407).then_some(()));
    assert_eq!(two.knocks("worker", &here), 200);
}

#[test]
fn a_reference_is_good_where_its_credential_is() {
    let two = Two::new();
    two.home
        .locum_with(&in_b(&[&["credential", "add", "own"], BEARER].concat()), canary().as_bytes())
        .ok();
    let ask = |agent: &Agent, name: &str| {
        let field = format!("Authorization: Bearer locum_{name}");
        let answer = two.serve.tunnel(agent, HOST).ask(request("GET", "/own", &[&field], ""));
        let mut problem: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
        problem["instance"] = Value::Null;
        (answer.status, problem.to_string().replace(name, "NAME"))
    };
    // Unknown and another workspace's are one and the same.
    let (there, nowhere) = (ask(&two.a, "own"), ask(&two.a, "nix"));
    assert_eq!(there.0, 403);
    assert_eq!(there, nowhere);
    assert_ne!(ask(&two.b, "own").0, 403);
}

#[test]
fn a_host_is_intercepted_for_the_agents_of_the_workspace_that_it_is_bound_in() {
    let two = Two::with(
        "version: 1\nrules:\n  - {name: all, agents: ['*'], use: ['*']}\n  - {name: web, agents: ['*'], to: ['https://*'], tunnel: opaque}\n",
        |home| {
            home.locum_with(
                &in_b(&[
                    "credential",
                    "add",
                    "extra",
                    "--to",
                    "https://extra.test",
                    "--header",
                    "X-Key: {secret}",
                ]),
                canary().as_bytes(),
            )
            .ok();
        },
    );
    let extra = Origin::start("extra.test");
    two.home.reach(&extra);
    two.serve.hang_up();
    let open = |agent: &Agent, ca: &std::path::Path| {
        let mut wire = two.serve.wire();
        let answer = wire.ask(connect("extra.test:443", &agent.authorization()));
        if answer.status != 200 {
            return Err(std::io::Error::other(answer.status.to_string()));
        }
        wire.tls("extra.test", ca)
    };
    eventually("the origin is reached", PATIENCE, || open(&two.a, &extra.ca_file()).ok());
    assert!(open(&two.a, &two.home.ca()).is_err(), "`extra` is bound in b alone");
    assert!(open(&two.b, &two.home.ca()).is_ok());
    assert!(open(&two.b, &extra.ca_file()).is_err());
}

const HELD: &str = "version: 1
rules:
  - name: held
    agents: ['*']
    use: ['*']
    approval: {answer: refuse, valid: 10m}
";

#[test]
fn nobody_approves_for_another_workspace() {
    let two = Two::with(HELD, |_| {});
    let code = |agent: &Agent| {
        let answer = two.get(agent, "/same");
        let problem: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
        (answer.status, problem["code"].as_str().unwrap_or_default().to_owned())
    };
    let wanted = (403, "approval-required".to_owned());
    assert_eq!(code(&two.a), wanted);
    assert_eq!(code(&two.b), wanted);
    let list = |workspace: &str| {
        json(&two.home, &["--workspace", workspace, "approvals", "list", "--json"])
    };
    let (here, there) = (list("default"), list("b"));
    assert_eq!((here.as_array().unwrap().len(), there.as_array().unwrap().len()), (1, 1));
    assert_ne!(here[0]["id"], there[0]["id"]);
    assert_ne!(here[0]["digest"], there[0]["digest"], "the answer to one fits the other");
    let id = here[0]["id"].as_str().unwrap();
    for command in ["show", "approve", "deny"] {
        two.home.locum(&in_b(&["approvals", command, id])).failed(1);
    }
    two.home.locum(&in_b(&["approvals", "approve", there[0]["id"].as_str().unwrap()])).ok();
    eventually("b goes through", PATIENCE, || (code(&two.b).0 == 200).then_some(()));
    assert_eq!(code(&two.a), wanted, "what b approved let a through");
    let granted = two.home.audit();
    let granted = granted.iter().find(|r| r["event"] == "approval-granted").unwrap();
    assert_eq!(granted["workspace"], "b");
}

#[test]
fn a_workspace_sees_its_own_records() {
    let two = Two::new();
    assert_eq!(two.get(&two.a, "/of-a").status, 200);
    assert_eq!(two.get(&two.b, "/of-b").status, 200);
    let id = two.home.accesses_to("/of-a")[0]["request_id"].as_str().unwrap().to_owned();
    two.home.accesses_to("/of-b");
    two.home.locum(&["policy", "explain", "--request", &id]).ok();
    let refused = two.home.locum(&in_b(&["policy", "explain", "--request", &id])).failed(1);
    assert!(refused.err.contains("no access record"), "{}", refused.err);
    let query = |workspace: &[&str]| {
        let out = two.home.locum(&[workspace, &["audit", "query", "--json"]].concat()).ok().out;
        (out.contains("/of-a"), out.contains("/of-b"))
    };
    assert_eq!(query(&[]), (true, true), "whoever has the home sees all of it");
    assert_eq!(query(&["--workspace", "default"]), (true, false));
    assert_eq!(query(&["--workspace", "b"]), (false, true));
    let users = json(&two.home, &in_b(&["credential", "who-uses", "main", "--json"]));
    assert_eq!(users[0]["requests"], 1);
    let register = json(&two.home, &in_b(&["credential", "register", "--json"]));
    assert_eq!(
        register[0]["requests"].as_u64().or(register[0]["used"]["requests"].as_u64()),
        Some(1)
    );
}

const ONE: &str = "version: 1
rules:
  - name: all
    agents: ['*']
    use: ['*']
    limits: {requests: 1/h}
";

#[test]
fn limits_and_counts_are_each_workspaces_own() {
    let two = Two::with(ONE, |home| home.set("limits.connections_per_agent: 1"));
    let (mut a, mut b) = (two.serve.tunnel(&two.a, HOST), two.serve.tunnel(&two.b, HOST));
    let ask = |wire: &mut Wire| wire.ask(request("GET", "/x", &[AUTHORIZED], "")).status;
    assert_eq!([ask(&mut a), ask(&mut a)], [200, 429]);
    assert_eq!([ask(&mut b), ask(&mut b)], [200, 429], "the limit of a counted for b");
    // One tunnel each, and no more.
    assert_eq!(
        [two.knocks("worker", &two.a.token), two.knocks("worker", &two.b.token)],
        [503, 503]
    );
    drop(b);
    eventually("b has room again", PATIENCE, || {
        (two.knocks("worker", &two.b.token) == 200).then_some(())
    });
    assert_eq!(two.knocks("worker", &two.a.token), 503);
}
