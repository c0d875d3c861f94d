//! The scene: the default workspace and `b`, each with an agent `worker` and a credential `main`.

use serde_json::Value;

use crate::support::*;

/// Allows all that the credentials are bound to.
pub const OPEN: &str = "version: 1\nrules:\n  - {name: all, agents: ['*'], use: ['*']}\n";

/// Fields are dropped in this order: the proxy goes before its home.
pub struct Two {
    pub serve: Serve,
    pub origin: Origin,
    pub a: Agent,
    pub b: Agent,
    pub key_a: String,
    pub key_b: String,
    pub home: Home,
}

impl Two {
    #[track_caller]
    pub fn new() -> Self {
        Self::with(OPEN, |_| {})
    }

    /// With this policy in both, and after `prepare`.
    #[track_caller]
    pub fn with(policy: &str, prepare: impl FnOnce(&Home)) -> Self {
        let home = Home::new();
        let origin = Origin::start(HOST);
        home.reach(&origin);
        let (key_a, key_b) = (canary(), canary());
        home.add("main", BEARER, &key_a);
        let a = home.agent("worker");
        add(&home, "b");
        home.locum_with(
            &in_b(&[&["credential", "add", "main"], BEARER].concat()),
            key_b.as_bytes(),
        )
        .ok();
        let b = agent_of(&home, "b", "worker");
        for key in [&key_a, &key_b] {
            origin.accept(key);
        }
        home.policy(policy);
        policy_of(&home, "b", policy);
        prepare(&home);
        let serve = home.serve();
        Self { serve, origin, a, b, key_a, key_b, home }
    }

    /// One GET with the reference to `main`, in a tunnel of the agent's own.
    #[track_caller]
    pub fn get(&self, agent: &Agent, target: &str) -> Answer {
        self.serve.tunnel(agent, HOST).ask(request("GET", target, &[AUTHORIZED], ""))
    }

    /// What answers a CONNECT with these proxy credentials.
    #[track_caller]
    pub fn knocks(&self, name: &str, token: &str) -> u16 {
        let mut wire = self.serve.wire();
        wire.ask(connect(&format!("{HOST}:443"), &basic(name, token))).status
    }

    /// Nothing that the proxy has left behind holds either key.
    #[track_caller]
    pub fn never_leaks(&self) {
        let metrics = self.serve.metrics();
        self.home.never_leaks(&[&self.key_a, &self.key_b], &[("metrics", metrics.as_bytes())]);
    }
}

/// A command in the workspace `b`.
pub fn in_b<'a>(arguments: &[&'a str]) -> Vec<&'a str> {
    [&["--workspace", "b"], arguments].concat()
}

#[track_caller]
pub fn add(home: &Home, workspace: &str) {
    home.locum(&["workspace", "add", workspace]).ok();
}

#[track_caller]
pub fn agent_of(home: &Home, workspace: &str, name: &str) -> Agent {
    let arguments = ["--workspace", workspace, "agent", "add", name, "--json"];
    let ran = run(&mut home.command(&arguments), b"").ok();
    let json: Value = serde_json::from_str(&ran.out).unwrap();
    let text = |key: &str| json[key].as_str().unwrap().to_owned();
    Agent { name: text("agent"), token_id: text("token_id"), token: text("token") }
}

/// Replaces the policy of a workspace.
pub fn policy_of(home: &Home, workspace: &str, text: &str) {
    home.add_policy(&format!("../workspaces/{workspace}/policies/first.yaml"), text);
}

/// A run token of `worker`, made in a workspace.
#[track_caller]
pub fn run_token(home: &Home, workspace: &str) -> String {
    let arguments = ["--workspace", workspace, "run-token", "--agent", "worker", "--json"];
    let ran = run(&mut home.command(&arguments), b"").ok();
    let json: Value = serde_json::from_str(&ran.out).unwrap();
    json["token"].as_str().unwrap().to_owned()
}

/// The JSON that a command prints.
#[track_caller]
pub fn json(home: &Home, arguments: &[&str]) -> Value {
    let out = home.locum(arguments).ok().out;
    serde_json::from_str(&out).unwrap()
}
