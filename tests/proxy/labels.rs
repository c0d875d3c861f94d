//! Labels of agents: what their operator says of them decides, within a second, wherever they are.

use crate::support::*;

const RULES: &str = "version: 1
rules:
  - name: the team
    agents: [{labels: {team: ml, env: [prod, 'prod-*']}}]
    use: ['*']
  - name: tunnels of the team
    agents: {labels: {team: ml}}
    to: ['https://free.test']
    tunnel: opaque
";

#[test]
fn a_label_decides_within_a_second_in_an_open_tunnel() {
    let world = World::ruled(RULES);
    let mut wire = world.tunnel();
    let mut ask = |path: &str| wire.ask(request("GET", path, &[AUTHORIZED], "")).status;
    assert_eq!(ask("/none"), 403);
    world.home.locum(&["agent", "label", "worker", "team=ml", "env=prod-eu"]).ok();
    eventually("the label acts", PATIENCE, || (ask("/labelled") == 200).then_some(()));
    let record = world.home.accesses_to("/labelled").pop().unwrap();
    assert_eq!(record["labels"], serde_json::json!({"env": "prod-eu", "team": "ml"}));
    assert_eq!(record["rule"], "the team");
    let id = record["request_id"].as_str().unwrap();
    let explained = world.home.locum(&["policy", "explain", "--request", id]).ok().out;
    assert!(explained.contains("decision: allow, by the rule `the team`"), "{explained}");
    world.home.locum(&["agent", "label", "worker", "--remove", "env"]).ok();
    eventually("the label is gone", PATIENCE, || (ask("/gone") == 403).then_some(()));
    let listed = world.home.locum(&["agent", "list", "--json"]).ok().out;
    assert!(listed.contains("\"team\""), "{listed}");
}

#[test]
fn a_tunnel_and_a_run_token_have_the_labels_of_their_agent() {
    let free = Origin::start("free.test");
    let world = World::with(BEARER, canary(), |home, _| {
        home.reach(&free);
        home.policy(RULES);
    });
    world.home.locum(&["agent", "label", "worker", "team=ml"]).ok();
    let out = world.home.locum(&["run-token", "--agent", "worker", "--json"]).ok().out;
    let made: serde_json::Value = serde_json::from_str(&out).unwrap();
    let text = |key: &str| made[key].as_str().unwrap().to_owned();
    let run = Agent { name: text("agent"), token_id: text("token_id"), token: text("token") };
    // Unseen, the certificate is the origin's own.
    let mut wire = eventually("the label acts", PATIENCE, || {
        world.serve.open_tunnel(&run, "free.test:443").tls("free.test", &free.ca_file()).ok()
    });
    assert_eq!(wire.ask("GET /open/x HTTP/1.1\r\nHost: free.test\r\n\r\n").status, 200);
    world.home.locum(&["agent", "label", "worker", "--remove", "team"]).ok();
    wire.until_closed();
}

/// A name that is taken back keeps nothing that it could be let in by but what the operator sees.
#[test]
fn labels_are_checked_where_they_are_given() {
    let home = Home::new();
    home.locum(&["agent", "add", "labelled", "--label", "team=ml"]).ok();
    for wrong in [
        &["agent", "label", "labelled", "Team=ml"][..],
        &["agent", "label", "labelled", "team=a b"],
        &["agent", "label", "labelled", "team"],
        &["agent", "label", "labelled", "team=a", "team=b"],
        &["agent", "label", "labelled"],
        &["agent", "label", "nobody", "team=ml"],
        &["agent", "add", "other", "--label", "team"],
    ] {
        assert_ne!(home.locum(wrong).code, 0, "{wrong:?}");
    }
    let out = home.locum(&["agent", "label", "labelled", "env=dev", "--json"]).ok().out;
    let said: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(said["labels"], serde_json::json!({"env": "dev", "team": "ml"}));
    assert!(!home.locum(&["agent", "list"]).ok().out.contains("other"));
}
