//! `locum run`: many at once on one home, and what of the caller's environment the program gets.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdout, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use crate::support::*;

/// A program under `locum run` that asks the origin for each line that it is sent, and prints the status.
struct Running {
    child: Child,
    said: BufReader<ChildStdout>,
}

/// `curl` in the run's own environment, once for each target that comes.
const ASKS: &str = r#"echo ready; while read -r target; do
  curl -sS -o /dev/null -w '%{http_code}\n' -m 20 -H 'Authorization: Bearer locum_main' "https://api.test$target" || echo failed
done"#;

impl Running {
    #[track_caller]
    fn start(home: &Home, agent: &str) -> Self {
        let mut command = home.command(&["run", "--agent", agent, "--", "sh", "-c", ASKS]);
        Self::started(&mut command)
    }

    #[track_caller]
    fn started(command: &mut Command) -> Self {
        let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit());
        let mut child = piped.spawn().unwrap();
        let said = BufReader::new(child.stdout.take().unwrap());
        Self { child, said }
    }

    #[track_caller]
    fn next(&mut self) -> String {
        let mut line = String::new();
        self.said.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    #[track_caller]
    fn ask(&mut self, target: &str) -> String {
        writeln!(self.child.stdin.as_mut().unwrap(), "{target}").unwrap();
        self.next()
    }

    /// Lets the program end by itself, and waits for the run.
    #[track_caller]
    fn end(mut self) {
        drop(self.child.stdin.take());
        let status = eventually("the end of a run", PATIENCE, || self.child.try_wait().unwrap());
        assert!(status.success(), "{status}");
    }

    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The process of the private proxy, which the audit log names.
fn private_proxy(home: &Home) -> Pid {
    let records = home.audit_now();
    let started = records.iter().rfind(|record| record["event"] == "proxy-started").unwrap();
    let pid = started["subject"].as_str().unwrap().strip_prefix("pid ").unwrap();
    Pid::from_raw(pid.parse().unwrap()).unwrap()
}

fn events(home: &Home, event: &str) -> usize {
    home.audit_now().iter().filter(|record| record["event"] == event).count()
}

fn starts(home: &Home) -> usize {
    events(home, "proxy-started")
}

fn stops(home: &Home) -> usize {
    events(home, "proxy-stopped")
}

#[test]
fn any_number_of_runs_share_one_private_proxy() {
    let stage = Stage::new();
    stage.home.agent("other");
    let home = &stage.home;
    let agents = ["worker", "other", "worker", "other", "worker"];
    // All at once: one of them starts the proxy, and the others find it.
    let mut runs: Vec<Running> = agents.iter().map(|agent| Running::start(home, agent)).collect();
    for run in &mut runs {
        assert_eq!(run.next(), "ready");
    }
    assert_eq!(starts(home), 1, "one proxy for all");
    for (index, run) in runs.iter_mut().enumerate() {
        assert_eq!(run.ask(&format!("/all/{index}")), "200");
    }
    // Each is the agent that it said.
    for (index, agent) in agents.iter().enumerate() {
        let accesses = home.accesses_to(&format!("/all/{index}"));
        assert_eq!(accesses[0]["agent"], *agent);
    }
    // Whoever began it may end first, in order or not: the others go on.
    runs.remove(0).end();
    runs[0].kill();
    runs.remove(0);
    for run in &mut runs {
        assert_eq!(run.ask("/after"), "200");
    }
    runs.drain(..).for_each(Running::end);
    // The last one has waited for the end of the proxy, and its log.
    assert_eq!(stops(home), 1);
    home.locum(&["audit", "verify"]).ok();
    let serve = home.serve();
    serve.stop();
}

#[test]
fn a_run_inside_a_run_uses_the_same_proxy() {
    let stage = Stage::new();
    let home = &stage.home;
    let locum = env!("CARGO_BIN_EXE_locum");
    let path = home.path();
    let words = ["run", "--agent", "worker", "--", locum, "--home", path.to_str().unwrap()];
    let inner = ["run", "--agent", "worker", "--", "sh", "-c", ASKS];
    let mut run = Running::started(&mut home.command(&[&words[..], &inner[..]].concat()));
    assert_eq!(run.next(), "ready");
    assert_eq!(run.ask("/inner"), "200");
    run.end();
    assert_eq!(starts(home), 1);
}

#[test]
fn a_private_proxy_that_is_killed_is_followed_by_another() {
    let stage = Stage::new();
    let home = &stage.home;
    let mut first = Running::start(home, "worker");
    assert_eq!(first.next(), "ready");
    assert_eq!(first.ask("/first"), "200");
    kill_process(private_proxy(home), Signal::KILL).unwrap();
    let mut second = Running::start(home, "worker");
    assert_eq!(second.next(), "ready");
    assert_eq!(second.ask("/second"), "200");
    assert_eq!(starts(home), 2);
    // Its own has gone, and it does not wait for another's.
    first.end();
    assert_eq!(second.ask("/third"), "200");
    // Every run is killed, and the proxy ends by itself.
    second.kill();
    eventually("the end of the private proxy", PATIENCE, || (stops(home) == 1).then_some(()));
    home.locum(&["audit", "verify"]).ok();
}

#[test]
fn serve_beside_a_run_says_what_is_in_its_way() {
    let stage = Stage::new();
    let home = &stage.home;
    let mut run = Running::start(home, "worker");
    assert_eq!(run.next(), "ready");
    let refused = home.locum(&["serve"]).failed(1);
    assert!(refused.err.contains("a `locum run` of this home is at work"), "{}", refused.err);
    assert!(refused.err.contains("wait for its end"), "{}", refused.err);
    // Other commands go on, and the private proxy acts on them.
    home.locum(&["credential", "revoke", "main", "--now"]).ok();
    assert_eq!(run.ask("/revoked"), "403");
    run.end();
    let serve = home.serve();
    let refused = home.locum(&["serve"]).failed(1);
    let said = format!("process {} serves this home already", serve.pid());
    assert!(refused.err.contains(&said), "{}", refused.err);
    let mut run = Running::start(home, "worker");
    assert_eq!(run.next(), "ready");
    let before = starts(home);
    run.end();
    assert_eq!(starts(home), before, "a run uses the proxy that serves");
    serve.kill();
    // What that one announced is still there, and nobody goes there.
    let mut run = Running::start(home, "worker");
    assert_eq!(run.next(), "ready");
    assert_eq!(run.ask("/again"), "403");
    run.end();
}

#[test]
fn the_private_proxy_gets_the_key_from_the_run() {
    use std::os::unix::fs::PermissionsExt as _;
    let stage = Stage::new();
    let home = &stage.home;
    let (key, asked) = (home.work().join("key"), home.work().join("asked"));
    std::fs::rename(home.path().join("master.key"), &key).unwrap();
    let program = home.work().join("prints-the-key");
    let text = format!("#!/bin/sh\necho asked >> {}\ncat {}\n", asked.display(), key.display());
    std::fs::write(&program, text).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o700)).unwrap();
    home.set(&format!("vault.key: {{command: [{}]}}", program.display()));
    let mut run = Running::start(home, "worker");
    assert_eq!(run.next(), "ready");
    assert_eq!(run.ask("/by-command"), "200");
    // Who has to ask a person asks once, and not again for the proxy.
    assert_eq!(std::fs::read_to_string(&asked).unwrap(), "asked\n");
    run.end();
}

#[test]
fn a_program_gets_no_real_keys() {
    let home = Home::new();
    let (openai, password, revoked) = (format!("sk-proj-{}", canary()), "p@ss: w0rd!", canary());
    home.add("openai", &["--provider", "openai"], &openai);
    home.add("db", &["--to", "https://db.test", "--header", "X: {secret}"], password);
    home.add("old", &["--to", "https://old.test", "--header", "X: {secret}"], &revoked);
    home.locum(&["credential", "revoke", "old", "--now"]).ok();
    home.agent("worker");
    // Where it will listen, for `env`.
    home.set("proxy.listen: '127.0.0.1:3128'");
    let github = format!("ghp_{}", "aB3dE5fG7hI9jK1lM3nO5pQ7rS9tU1vW3xY5");
    let held = [
        ("OPENAI_API_KEY", openai.clone()),
        ("MY_COPY", openai.clone()),
        ("OLD_ONE", revoked.clone()),
        ("DATABASE_URL", "postgres://app:p%40ss%3A%20w0rd!@db.test:5432/x".to_owned()),
        ("SETTINGS", format!("a=b;password={password};c=d")),
        ("GITHUB_TOKEN", github.clone()),
        ("UNUSUAL", github.clone()),
        ("KEPT", github.clone()),
        ("GIT_CONFIG_COUNT", "1".to_owned()),
        ("GIT_CONFIG_KEY_0", "http.extraHeader".to_owned()),
        ("GIT_CONFIG_VALUE_0", format!("Authorization: Bearer {openai}")),
        ("BUILD_ID", "8f14e45f-ceea-467f-ab4f-6f2b2e2d1f3a".to_owned()),
        ("EDITOR", "vi".to_owned()),
    ];
    let asked = |words: &[&str]| {
        let mut command = home.command(words);
        command.envs(held.iter().map(|(name, value)| (name, value)));
        run(&mut command, b"").ok()
    };
    let ran = asked(&["run", "--agent", "worker", "--keep-env", "KEPT", "--", "env"]);
    for secret in [&*openai, password, "p%40ss", &revoked] {
        assert!(!ran.out.contains(secret), "{}", ran.out);
    }
    let has =
        |name: &str| ran.out.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
    assert_eq!(has("KEPT"), Some(&*github));
    assert_eq!(has("BUILD_ID"), Some(&*held[11].1), "an id is no key");
    assert_eq!(has("EDITOR"), Some("vi"));
    assert!(has("OPENAI_API_KEY").unwrap().contains("locum_openai"));
    assert_eq!(has("GIT_CONFIG_VALUE_0"), Some(""), "git counts its values");
    let gone =
        ["DATABASE_URL", "GITHUB_TOKEN", "GIT_CONFIG_VALUE_0", "MY_COPY", "OLD_ONE", "SETTINGS"];
    for name in gone.iter().filter(|name| !name.starts_with("GIT")).chain(&["UNUSUAL"]) {
        assert_eq!(has(name), None, "{name}");
    }
    // One notice, of names alone, with what to do.
    let notice: Vec<&str> = ran.err.lines().filter(|line| line.contains("real keys")).collect();
    let names = [&gone[..], &["UNUSUAL"]].concat().join(", ");
    assert_eq!(notice.len(), 1, "{}", ran.err);
    assert!(notice[0].contains(&names), "{}", notice[0]);
    for part in ["locum credential import", "--keep-env"] {
        assert!(notice[0].contains(part), "{}", notice[0]);
    }
    let printed = asked(&["env", "--agent", "worker", "--keep-env", "KEPT"]);
    for name in ["MY_COPY", "OLD_ONE", "DATABASE_URL", "UNUSUAL"] {
        assert!(printed.out.contains(&format!("unset {name}\n")), "{}", printed.out);
    }
    assert!(!printed.out.contains("KEPT"), "{}", printed.out);
    home.said(&ran);
    home.said(&printed);
    home.never_leaks(&[&openai, &revoked], &[]);
}

#[test]
fn a_proxy_with_the_ca_of_before_is_told_of() {
    let stage = Stage::new();
    let home = &stage.home;
    let serve = home.serve();
    let said = || {
        let words = ["run", "--agent", "worker", "--", "true"];
        let ran = home.locum(&words).ok();
        ran.err.contains("the proxy has the CA from before `locum ca rotate`")
    };
    let found = || {
        let ran = home.locum(&["doctor", "--json"]);
        ran.out.contains("has the CA from before `locum ca rotate`")
    };
    assert_eq!((said(), found()), (false, false));
    home.locum(&["ca", "rotate"]).ok();
    assert_eq!((said(), found()), (true, true));
    serve.stop();
    let serve = home.serve();
    assert_eq!((said(), found()), (false, false));
    serve.stop();
    // A private proxy that was there before has the old one, too.
    let mut run = Running::start(home, "worker");
    assert_eq!(run.next(), "ready");
    home.locum(&["ca", "rotate"]).ok();
    assert!(said());
    run.end();
    assert!(!said());
}
