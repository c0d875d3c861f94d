//! Each workspace has a policy of its own, loaded by itself; the organisation's bounds them all.

use crate::support::*;
use crate::two::*;

const NONE: &str = "version: 1\nrules: []\n";

fn events(two: &Two, event: &str, workspace: &str) -> usize {
    let records = two.home.audit_now();
    records.iter().filter(|r| r["event"] == event && r["workspace"] == workspace).count()
}

#[test]
fn a_reload_of_one_workspace_touches_no_other() {
    let two = Two::new();
    let generation = |path: &str| two.home.accesses_to(path)[0]["policy_generation"].clone();
    assert_eq!([two.get(&two.a, "/1").status, two.get(&two.b, "/2").status], [200, 200]);
    let before = generation("/1");
    policy_of(&two.home, "b", NONE);
    eventually("b is closed", PATIENCE, || (two.get(&two.b, "/3").status == 403).then_some(()));
    assert_eq!(two.get(&two.a, "/4").status, 200);
    assert_eq!(generation("/4"), before);
    assert_eq!(events(&two, "policy-reloaded", "default"), 0);
    // Mistakes in it leave its last good one in force, and touch nobody.
    policy_of(&two.home, "b", "version: 1\nrules: [{nmae: x}]\n");
    eventually("it is told", PATIENCE, || {
        (events(&two, "policy-rejected", "b") == 1).then_some(())
    });
    assert_eq!([two.get(&two.a, "/5").status, two.get(&two.b, "/6").status], [200, 403]);
    assert_eq!(two.serve.metric("locum_reload_success{what=\"policy\"}"), 0);
    // The other goes on being reloaded meanwhile.
    two.home.policy(NONE);
    eventually("a is closed", PATIENCE, || (two.get(&two.a, "/7").status == 403).then_some(()));
    policy_of(&two.home, "b", OPEN);
    eventually("b is open", PATIENCE, || (two.get(&two.b, "/8").status == 200).then_some(()));
    assert_eq!(two.get(&two.a, "/9").status, 403);
    assert_eq!(two.serve.metric("locum_reload_success{what=\"policy\"}"), 1);
}

#[test]
fn mistakes_at_the_start_close_their_workspace_alone() {
    let mut two = Two::new();
    two.serve.terminate();
    two.serve.ended(PATIENCE);
    policy_of(&two.home, "b", "version: 1\nrules: [{nmae: x}]\n");
    two.serve = two.home.serve();
    assert_eq!([two.get(&two.a, "/1").status, two.get(&two.b, "/2").status], [200, 403]);
    assert_eq!(events(&two, "policy-rejected", "b"), 1);
    policy_of(&two.home, "b", OPEN);
    eventually("it is mended", PATIENCE, || (two.get(&two.b, "/3").status == 200).then_some(()));
}

const BOUND: &str = "version: 1
layer: organisation
rules:
  - name: not there
    agents: ['*']
    to: [https://api.test]
    paths: [/secret/**]
    deny: true
";

#[test]
fn the_organisation_bounds_every_workspace() {
    let two = Two::with(OPEN, |home| {
        let org = home.path().join("policies/org");
        std::fs::create_dir(&org).unwrap();
        std::fs::write(org.join("bound.yaml"), BOUND).unwrap();
    });
    for agent in [&two.a, &two.b] {
        assert_eq!(two.get(agent, "/open").status, 200);
        assert_eq!(two.get(agent, "/secret/x").status, 403);
    }
    let check = |workspace: &str| {
        two.home.locum(&["--workspace", workspace, "policy", "check"]).ok();
    };
    check("default");
    check("b");
    // Nobody in a workspace makes a layer of it.
    let own = two.home.path().join("workspaces/b/policies");
    policy_of(&two.home, "b", &OPEN.replace("rules:", "layer: organisation\nrules:"));
    two.home.locum(&in_b(&["policy", "check"])).failed(64);
    eventually("it is told", PATIENCE, || {
        (events(&two, "policy-rejected", "b") == 1).then_some(())
    });
    policy_of(&two.home, "b", OPEN);
    std::fs::create_dir(own.join("org")).unwrap();
    std::fs::write(own.join("org/mine.yaml"), BOUND.replace("    deny: true\n", "")).unwrap();
    let said = two.home.locum(&in_b(&["policy", "check"])).failed(64).err;
    assert!(said.contains("one organisation"), "{said}");
    eventually("it is told again", PATIENCE, || {
        (events(&two, "policy-rejected", "b") == 2).then_some(())
    });
    assert_eq!([two.get(&two.b, "/open").status, two.get(&two.b, "/secret/x").status], [200, 403]);
    // Taken away, the bound is gone for both.
    std::fs::remove_dir_all(own.join("org")).unwrap();
    std::fs::remove_file(two.home.path().join("policies/org/bound.yaml")).unwrap();
    for agent in [&two.a, &two.b] {
        eventually("it is gone", PATIENCE, || {
            (two.get(agent, "/secret/x").status == 200).then_some(())
        });
    }
}

#[test]
fn commands_read_the_policy_of_their_workspace() {
    let two = Two::new();
    policy_of(&two.home, "b", NONE);
    let explain =
        ["policy", "explain", "--agent", "worker", "--use", "main", "GET", "https://api.test/x"];
    two.home.locum(&explain).ok();
    two.home.locum(&in_b(&explain)).failed(1);
    let listed = |arguments: &[&str]| two.home.locum(arguments).ok().out;
    assert!(listed(&["policy", "check"]).contains('1'));
    assert!(listed(&in_b(&["policy", "check"])).contains('0'));
    two.home.locum(&in_b(&["policy", "learn"])).ok();
    let ran = two.home.locum(&in_b(&["policy", "test"])).failed(1);
    assert!(ran.err.contains("there are no tests"), "{}", ran.err);
}
