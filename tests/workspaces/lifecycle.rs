//! How a workspace comes and goes: under a proxy that serves, and under `kill -9`.

use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::*;
use crate::two::*;

#[test]
fn workspaces_are_added_listed_and_removed() {
    let home = Home::new();
    let list = || json(&home, &["workspace", "list", "--json"]);
    let names = || -> Vec<String> {
        let all = list();
        all.as_array()
            .unwrap()
            .iter()
            .map(|w| w["workspace"].as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(names(), ["default"]);
    home.locum(&["workspace", "add", "b"]).ok();
    home.locum(&["workspace", "add", "a"]).ok();
    assert_eq!(names(), ["default", "a", "b"]);
    home.locum(&["workspace", "add", "b"]).failed(64);
    home.locum(&["workspace", "remove", "nix"]).failed(64);
    home.locum(&["workspace", "remove", "default", "--yes"]).failed(64);
    home.locum(&["--workspace", "nix", "agent", "list"]).failed(64);
    let mut command = home.command(&["agent", "add", "from-env"]);
    run(command.env("LOCUM_WORKSPACE", "a"), b"").ok();
    run(home.command(&["agent", "list"]).env("LOCUM_WORKSPACE", "Not A Name"), b"").failed(64);
    assert_eq!(list()[1]["agents"], 1);
    // One that is not empty says what would go, and stays.
    let said = home.locum(&["workspace", "remove", "a"]).failed(64).err;
    assert!(said.contains("1 agent") && said.contains("--yes"), "{said}");
    assert_eq!(names(), ["default", "a", "b"]);
    home.locum(&["workspace", "remove", "a", "--yes"]).ok();
    home.locum(&["workspace", "remove", "b"]).ok();
    assert_eq!(names(), ["default"]);
    assert!(!home.path().join("workspaces/a").exists());
    let events: Vec<Value> = home.audit();
    let of = |event: &str| events.iter().filter(|r| r["event"] == event).count();
    assert_eq!((of("workspace-added"), of("workspace-removed")), (2, 2));
    let added = events.iter().find(|r| r["event"] == "agent-added").unwrap();
    assert_eq!((&added["workspace"], &added["subject"]), (&"a".into(), &"from-env".into()));
    home.locum(&["vault", "status", "--verify"]).ok();
    home.locum(&["audit", "verify"]).ok();
}

#[test]
fn rules_that_were_left_do_not_come_back_with_the_name() {
    let home = Home::new();
    home.locum(&["workspace", "add", "b"]).ok();
    policy_of(&home, "b", OPEN);
    let said = home.locum(&["workspace", "remove", "b"]).failed(64).err;
    assert!(said.contains("policy file"), "{said}");
    // As a removal leaves it that was cut short after the vault.
    let (from, to) = (home.path().join("workspaces/b"), home.path().join("workspaces/c"));
    std::fs::rename(from, to).unwrap();
    home.locum(&["workspace", "remove", "b"]).ok();
    let said = home.locum(&["workspace", "add", "c"]).failed(64).err;
    assert!(said.contains("first.yaml") && said.contains("--with-policies"), "{said}");
    home.locum(&["workspace", "add", "c", "--with-policies"]).ok();
    home.locum(&["--workspace", "c", "policy", "check"]).ok();
}

#[test]
fn one_that_comes_is_served_and_one_that_goes_is_not() {
    let two = Two::new();
    // Served from the moment on that it is there.
    add(&two.home, "late");
    policy_of(&two.home, "late", OPEN);
    let key = canary();
    two.origin.accept(&key);
    let new = [&["--workspace", "late", "credential", "add", "main"], BEARER].concat();
    two.home.locum_with(&new, key.as_bytes()).ok();
    let late = agent_of(&two.home, "late", "worker");
    assert_eq!(two.get(&late, "/late").status, 200);
    assert_eq!(two.origin.last().header("authorization"), Some(&*format!("Bearer {key}")));
    // Gone, also in tunnels that are open, and with a token that was signed before.
    let token = run_token(&two.home, "late");
    let runs = Agent { name: "worker".into(), token_id: String::new(), token };
    let mut open = [&late, &runs].map(|agent| two.serve.tunnel(agent, HOST));
    for wire in &mut open {
        assert_eq!(wire.ask(request("GET", "/open", &[AUTHORIZED], "")).status, 200);
    }
    two.home.locum(&["workspace", "remove", "late", "--yes"]).ok();
    // Another of its name comes at once, with the same agent and credential in it.
    add(&two.home, "late");
    two.home.locum_with(&new, canary().as_bytes()).ok();
    let newer = agent_of(&two.home, "late", "worker");
    for (wire, who) in open.iter_mut().zip(["token", "run token"]) {
        eventually(&format!("the {who} falls"), PATIENCE, || {
            let answer = wire.ask(request("GET", "/gone", &[AUTHORIZED], ""));
            (answer.status == 403).then_some(())
        });
    }
    for agent in [&late, &runs] {
        assert_eq!(two.knocks("worker", &agent.token), 407);
    }
    assert_eq!(two.knocks("worker", &newer.token), 200);
    assert_eq!([two.get(&two.a, "/a").status, two.get(&two.b, "/b").status], [200, 200]);
}

#[test]
fn new_data_keys_come_to_all_or_to_one() {
    let two = Two::new();
    let generation = |arguments: &[&str]| {
        json(&two.home, &[arguments, &["vault", "rotate", "--json"]].concat())["generation"].clone()
    };
    let token = run_token(&two.home, "b");
    let sound = |round: &str| {
        for agent in [&two.a, &two.b] {
            assert_eq!(two.get(agent, &format!("/{round}")).status, 200);
        }
        assert_eq!(two.knocks("worker", &token), 200);
        two.home.locum(&["vault", "status", "--verify"]).ok();
    };
    let first = generation(&["--workspace", "b"]);
    sound("one");
    let second = generation(&[]);
    sound("all");
    assert_eq!((first, second), (2.into(), 3.into()));
    // A copy has all of them.
    let copy = two.home.work().join("copy.locum");
    two.home.locum(&["vault", "backup", copy.to_str().unwrap()]).ok();
    let added = agent_of(&two.home, "b", "after");
    assert_eq!(two.knocks("after", &added.token), 200);
    two.home.locum(&["vault", "restore", copy.to_str().unwrap(), "--accept-rollback"]);
    two.never_leaks();
}

/// How long `workspace add` takes when nobody kills it.
fn usual(home: &Home) -> Duration {
    let times = (0..3).map(|n| {
        let start = Instant::now();
        home.locum(&["workspace", "add", &format!("usual{n}")]).ok();
        start.elapsed()
    });
    times.min().unwrap()
}

#[test]
fn adding_and_removing_are_done_or_not_done() {
    const KILLS: u32 = 40;
    let home = Home::new();
    let most = usual(&home) * 9 / 8;
    let mut there = false;
    for kill in 0..KILLS {
        let command: &[&str] =
            if there { &["workspace", "remove", "w", "--yes"] } else { &["workspace", "add", "w"] };
        let mut child =
            home.command(command).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(most * kill / KILLS);
        let _ = child.kill();
        let done = child.wait().unwrap().success();
        home.locum(&["vault", "status", "--verify"]).ok();
        let all = json(&home, &["workspace", "list", "--json"]);
        let now = all.as_array().unwrap().iter().any(|one| one["workspace"] == "w");
        assert!(!done || now != there, "kill {kill}: acknowledged, and not so");
        if now {
            // Whole: with its key, and with its policy.
            home.locum(&["--workspace", "w", "policy", "check"]).ok();
            let agent = format!("agent{kill}");
            home.locum(&["--workspace", "w", "agent", "add", &agent]).ok();
        }
        there = now;
    }
    home.locum(&["audit", "verify"]).ok();
}
