//! Run tokens: who comes by one may do less than its agent, says nothing else of its run, and stays
//! out when the token has ended.

use serde_json::Value;

use crate::support::*;

/// A run token of agent `worker`, as the command prints it.
#[track_caller]
fn run_token(world: &World, more: &[&str]) -> Agent {
    let command = [&["run-token", "--agent", "worker", "--json"], more].concat();
    let out = world.home.locum(&command).ok().out;
    let made: Value = serde_json::from_str(&out).unwrap();
    let text = |key: &str| made[key].as_str().unwrap().to_owned();
    Agent { name: text("agent"), token_id: text("token_id"), token: text("token") }
}

#[track_caller]
fn knock(world: &World, user: &str, token: &str) -> u16 {
    world.serve.wire().ask(connect(&format!("{HOST}:443"), &basic(user, token))).status
}

#[test]
fn it_opens_the_proxy_without_a_change_of_the_vault() {
    let world = World::new();
    let epoch = || -> Value {
        let status = world.home.locum(&["vault", "status", "--json"]).ok().out;
        serde_json::from_str::<Value>(&status).unwrap()["epoch"].clone()
    };
    let before = epoch();
    let token = run_token(&world, &["--run", "42", "--user", "alice"]);
    assert_eq!(epoch(), before);
    let mut wire = world.serve.tunnel(&token, HOST);
    let forged = [AUTHORIZED, "Locum-Run: 43", "Locum-User: bob", "Locum-Node: writer"];
    assert_eq!(wire.ask(request("GET", "/one", &forged, "")).status, 200);
    let record = world.home.accesses_to("/one").remove(0);
    let said = |key: &str| record[key].as_str().unwrap_or_default();
    // What the token fixes stays; what it leaves open may be said.
    assert_eq!(["run", "node", "user"].map(said), ["42", "writer", "alice"]);
    assert_eq!(said("token_id"), token.token_id);
    assert!(world.origin.raw().iter().all(|raw| !raw.contains(&token.token)));
}

#[test]
fn a_user_name_that_contradicts_it_is_refused_as_any_bad_token() {
    let world = World::new();
    let other = world.home.agent("other");
    let token = run_token(&world, &["--run", "42"]).token;
    assert_eq!(knock(&world, "worker", &token), 200);
    assert_eq!(knock(&world, "worker+run=42+node=a", &token), 200);
    assert_eq!(knock(&world, "worker+run=43", &token), 407);
    assert_eq!(knock(&world, &other.name, &token), 407);
    let mut changed = token.clone();
    let last = if changed.pop() == Some('A') { 'E' } else { 'A' };
    changed.push(last);
    assert_eq!(knock(&world, "worker", &changed), 407);
    assert_eq!(knock(&world, "worker", &token[..token.len() - 1]), 407);
}

#[test]
fn it_uses_no_other_credentials_than_it_names() {
    let world = World::with(BEARER, canary(), |home, _| {
        let slots = ["--to", "https://api.test", "--header", "X-Key: {secret}"];
        home.add("other", &slots, "0123456789abcdef");
        home.locum(&["set", "add", "both", "main", "other"]).ok();
    });
    let asked = |uses: &[&str], field: &str| {
        let token = run_token(&world, uses);
        let answer = world.serve.tunnel(&token, HOST).ask(request("GET", "/x", &[field], ""));
        (answer.status, if answer.status == 403 { answer.problem() } else { String::new() })
    };
    // The origin knows the first key alone, and answers 401 to the other one, which it got.
    let other = "X-Key: locum_other";
    let refused = (403, "credential-refused".to_owned());
    assert_eq!(asked(&["--use", "main"], AUTHORIZED).0, 200);
    assert_eq!(asked(&["--use", "main"], other), refused);
    assert_eq!(asked(&["--use", "other"], AUTHORIZED), refused);
    assert_eq!(asked(&["--use", "both"], other).0, 401);
    assert_eq!(asked(&[], other).0, 401);
    // Nothing that is there by the rule alone, either.
    world.home.policy(&format!(
        "version: 1\nrules:\n  - {{name: r, agents: ['*'], to: ['https://{HOST}'], use: [other], inject: always}}\n"
    ));
    world.serve.hang_up();
    let start = std::time::Instant::now();
    while asked(&["--use", "main"], "X-A: b") != refused {
        assert!(start.elapsed().as_secs() < 5, "the rule is not in force");
    }
    assert_eq!(asked(&["--use", "other"], "X-A: b").0, 401);
    let failed =
        world.home.locum(&["run-token", "--agent", "worker", "--use", "nothing"]).failed(1);
    assert!(failed.err.contains("nothing"), "{}", failed.err);
}

#[test]
fn it_ends_with_its_time_its_run_its_id_and_its_agent() {
    let world = World::new();
    let short = run_token(&world, &["--ttl", "1s"]);
    let one = run_token(&world, &["--run", "1"]);
    let two = run_token(&world, &["--run", "2"]);
    let three = run_token(&world, &["--run", "3"]);
    let mut wire = world.serve.tunnel(&one, HOST);
    let ask = |wire: &mut Wire| wire.ask(request("GET", "/x", &[AUTHORIZED], ""));
    assert_eq!(ask(&mut wire).status, 200);
    let ended = |token: &Agent| {
        let start = std::time::Instant::now();
        while knock(&world, "worker", &token.token) != 407 {
            assert!(start.elapsed().as_secs() < 5, "it is still good");
        }
    };
    ended(&short);
    world.home.locum(&["agent", "revoke", "worker", "--run", "1"]).ok();
    ended(&one);
    assert_eq!(ask(&mut wire).problem(), "agent-revoked");
    assert_eq!(knock(&world, "worker", &two.token), 200);
    // The same run may be given a new one.
    let again = run_token(&world, &["--run", "1"]);
    assert_eq!(knock(&world, "worker", &again.token), 200);
    world.home.locum(&["agent", "revoke", "worker", "--run-token", &two.token_id]).ok();
    ended(&two);
    assert_eq!(knock(&world, "worker", &three.token), 200);
    world.home.locum(&["agent", "revoke", "worker"]).ok();
    ended(&three);
    // Taken back, the agent has none of its old tokens.
    let fresh = world.home.agent("worker");
    assert_eq!(knock(&world, "worker", &fresh.token), 200);
    assert_eq!(knock(&world, "worker", &three.token), 407);
    let long = world.home.locum(&["run-token", "--agent", "worker", "--ttl", "8d"]).failed(64);
    assert!(long.err.contains("7d"), "{}", long.err);
    world.home.locum(&["agent", "revoke", "worker"]).ok();
    world.home.locum(&["run-token", "--agent", "worker"]).failed(1);
}
