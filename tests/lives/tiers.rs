//! Who gets which of several credentials that serve one reference.

use serde_json::Value;

use crate::support::*;

const TEAM: &str = "Authorization: Bearer locum_team";

/// The reference `team`: alice's, bob's, the writer's, and the platform's.
struct Team {
    world: World,
    keys: Vec<(&'static str, String)>,
}

const MEMBERS: [(&str, &[&str]); 4] = [
    ("team", &[]),
    ("team-alice", &["--serves", "team", "--tier", "user", "--owner", "alice"]),
    ("team-bob", &["--serves", "team", "--tier", "user", "--owner", "bob"]),
    ("team-writer", &["--serves", "team", "--tier", "builder", "--node", "writer"]),
];

impl Team {
    fn new(prepare: impl FnOnce(&Home)) -> Self {
        let keys: Vec<_> = MEMBERS.iter().map(|(name, _)| (*name, canary())).collect();
        let world = World::with(BEARER, canary(), |home, origin| {
            for ((name, of), (_, key)) in MEMBERS.iter().zip(&keys) {
                origin.accept(key);
                home.add(name, &[BEARER, *of].concat(), key);
            }
            prepare(home);
        });
        Self { world, keys }
    }

    /// Whose key a request with these fields came with.
    #[track_caller]
    fn used(&self, wire: &mut Wire, fields: &[&str]) -> &'static str {
        let answer = wire.ask(request("GET", "/v1/x", &[&[TEAM], fields].concat(), ""));
        assert_eq!(answer.status, 200, "{fields:?}: {}", answer.text());
        let sent = self.world.origin.last().header("authorization").unwrap().to_owned();
        let is = |(_, key): &&(&str, String)| sent == format!("Bearer {key}");
        self.keys.iter().find(is).expect("one of the keys").0
    }

    /// A tunnel by a run token that fixes these.
    fn fixed(&self, arguments: &[&str]) -> Wire {
        let command = [&["run-token", "--agent", "worker", "--json"], arguments].concat();
        let ran = run(&mut self.world.home.command(&command), b"").ok();
        let json: Value = serde_json::from_str(&ran.out).unwrap();
        let agent =
            Agent { token: json["token"].as_str().unwrap().to_owned(), ..self.world.agent.clone() };
        self.world.serve.tunnel(&agent, HOST)
    }

    fn chosen_by(&self) -> Value {
        self.world.home.accesses_to("/v1/x").pop().unwrap()["chosen_by"].clone()
    }
}

#[test]
fn the_first_that_there_is_for_user_and_node_is_used_and_the_record_says_why() {
    let team = Team::new(|_| {});
    let mut wire = team.world.tunnel();
    assert_eq!(team.used(&mut wire, &[]), "team");
    assert_eq!(team.chosen_by(), "platform");
    assert_eq!(team.used(&mut wire, &["Locum-Node: writer"]), "team-writer");
    assert_eq!(team.chosen_by(), "builder,node");
    assert_eq!(team.used(&mut wire, &["Locum-Node: reader"]), "team");
    let mut alice = team.fixed(&["--run", "7", "--user", "alice"]);
    assert_eq!(team.used(&mut alice, &["Locum-Node: writer"]), "team-alice");
    assert_eq!(team.chosen_by(), "user");
    let record = team.world.home.accesses_to("/v1/x").pop().unwrap();
    assert_eq!((&record["credential"], &record["user"]), (&"team-alice".into(), &"alice".into()));
    // When hers is revoked, the next one is there.
    team.world.home.locum(&["credential", "revoke", "team-alice", "--now"]).ok();
    assert_eq!(team.used(&mut alice, &["Locum-Node: writer"]), "team-writer");
    let keys: Vec<&str> = team.keys.iter().map(|(_, key)| key.as_str()).collect();
    team.world.home.never_leaks(&keys, &[("the wire", &wire.transcript)]);
}

#[test]
fn nobody_gets_another_users_credential_by_saying_who_he_is() {
    let team = Team::new(|_| {});
    let mut wire = team.world.tunnel();
    assert_eq!(team.used(&mut wire, &["Locum-User: alice"]), "team", "nobody vouches for it");
    let mut bob = team.fixed(&["--user", "bob"]);
    assert_eq!(team.used(&mut bob, &["Locum-User: alice"]), "team-bob", "he is fixed");
    // Nor by its own name.
    for (wire, user) in [(&mut wire, "alice"), (&mut bob, "alice")] {
        let fields = ["Authorization: Bearer locum_team-alice", &format!("Locum-User: {user}")];
        let answer = wire.ask(request("GET", "/own", &fields, ""));
        assert_eq!(answer.problem(), "credential-refused");
    }
    let reason = team.world.home.accesses_to("/own").pop().unwrap()["reason"].clone();
    assert_eq!(reason, "the credential is another user's, or for other nodes");
    let mut alice = team.fixed(&["--user", "alice"]);
    let field = "Authorization: Bearer locum_team-alice";
    assert_eq!(alice.ask(request("GET", "/own", &[field], "")).status, 200);
    // Unless the operator says that it is to be believed; at once, and until it is taken back.
    team.world.home.set("credentials.trust_claims: true");
    eventually("the new config", PATIENCE, || {
        (team.used(&mut wire, &["Locum-User: alice"]) == "team-alice").then_some(())
    });
    team.world.home.unset("credentials.trust_claims");
    eventually("the old config", PATIENCE, || {
        (team.used(&mut wire, &["Locum-User: alice"]) == "team").then_some(())
    });
}

#[test]
fn what_the_rules_do_not_allow_is_passed_over() {
    let team = Team::new(|home| {
        home.policy(
            "version: 1\nrules:\n- {name: all, agents: [worker], use: [team]}\n- {name: but, agents: [worker], use: [team-writer], deny: true}\n",
        );
    });
    let mut wire = team.world.tunnel();
    assert_eq!(team.used(&mut wire, &["Locum-Node: writer"]), "team");
    let mut alice = team.fixed(&["--user", "alice"]);
    assert_eq!(team.used(&mut alice, &[]), "team-alice");
    // A rule for one of them is for that one alone.
    team.world
        .home
        .policy("version: 1\nrules:\n- {name: one, agents: [worker], use: [team-writer]}\n");
    eventually("the new policy", PATIENCE, || {
        let answer = alice.ask(request("GET", "/v1/x", &[TEAM], ""));
        (answer.status == 403 && answer.problem() == "credential-refused").then_some(())
    });
    assert_eq!(team.used(&mut wire, &["Locum-Node: writer"]), "team-writer");
    // A set grants what serves its members.
    team.world.home.locum(&["set", "add", "all-of-it", "team"]).ok();
    team.world
        .home
        .policy("version: 1\nrules:\n- {name: set, agents: [worker], use: [all-of-it]}\n");
    eventually("the set", PATIENCE, || {
        (alice.ask(request("GET", "/v1/x", &[TEAM], "")).status == 200).then_some(())
    });
    assert_eq!(team.used(&mut alice, &[]), "team-alice");
}

#[test]
fn a_reference_that_no_credential_is_named_after_has_a_stand_in_and_a_variable() {
    let home = Home::new();
    let add = |name: &str, more: &[&str]| {
        let of = ["--provider", "openai", "--serves", "openai"];
        home.locum_with(
            &[&["credential", "add", name], &of[..], more].concat(),
            canary().as_bytes(),
        )
        .ok()
        .out
    };
    let said = add("first", &[]);
    add("second", &["--weight", "3"]);
    home.agent("worker");
    let placeholder = said.split("agents use ").nth(1).unwrap().lines().next().unwrap();
    assert!(placeholder.starts_with("sk-proj-locum_openai_"), "{placeholder}");
    let _serve = home.serve();
    let ran = home.locum(&["env", "--agent", "worker"]).ok();
    let line = ran.out.lines().find(|line| line.contains("OPENAI_API_KEY")).unwrap();
    assert!(line.contains(placeholder), "{line}");
    let shown = home.locum(&["credential", "show", "second"]).ok().out;
    assert!(shown.contains("serves") && shown.contains("weight"), "{shown}");
    for (wrong, why) in [
        (&["--tier", "user"][..], "--owner"),
        (&["--owner", "alice"], "--tier user"),
        (&["--weight", "0"], "1..=100"),
        (&["--weight", "101"], "1..=100"),
    ] {
        let of = ["credential", "add", "third", "--provider", "openai", "--serves", "openai"];
        let ran =
            home.locum_with(&[&of[..], wrong].concat(), b"a-secret-of-some-length").failed(64);
        assert!(ran.err.contains(why), "{wrong:?}: {}", ran.err);
    }
}
