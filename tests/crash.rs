//! `kill -9` at random points, hundreds of times: the vault opens to the old or the new state, the
//! audit log verifies, what was acknowledged is there, and every call that an origin saw has its
//! record.
//!
//! The points are drawn from a seed, which a failure prints; `LOCUM_TEST_SEED` plays it again. What a crash does to a
//! refresh token that is being replaced is tested with the kinds (`tests/kinds/oauth.rs`).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::format_collect)]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;
use support::*;

/// How long a command takes when nobody kills it.
fn usual(home: &Home) -> Duration {
    home.add("usual", BEARER, &canary());
    let times = (0..5).map(|_| {
        let start = Instant::now();
        home.rotate("usual", &canary());
        start.elapsed()
    });
    times.min().unwrap()
}

/// The credentials and how many versions each has; the agents and how many tokens.
fn state(home: &Home) -> (BTreeMap<String, u64>, BTreeMap<String, usize>) {
    let json = |command: &[&str]| -> Vec<Value> {
        serde_json::from_str(&home.locum(command).ok().out).unwrap()
    };
    let name = |value: &Value, key: &str| value[key].as_str().unwrap().to_owned();
    let credentials = json(&["credential", "list", "--json"]);
    let agents = json(&["agent", "list", "--json"]);
    (
        credentials.iter().map(|c| (name(c, "name"), c["version"].as_u64().unwrap())).collect(),
        agents.iter().map(|a| (name(a, "agent"), a["tokens"].as_array().unwrap().len())).collect(),
    )
}

/// Every row of the vault opens, its journal is whole, and so is the audit log.
#[track_caller]
fn sound(home: &Home, context: &str) {
    for command in [["vault", "status", "--verify"].as_slice(), &["audit", "verify"]] {
        let ran = home.locum(command);
        assert_eq!(ran.code, 0, "{context}: {command:?}: {}{}", ran.out, ran.err);
    }
}

#[test]
fn commands_are_done_or_not_done() {
    let home = Home::new();
    let mut dice = Dice::new();
    let most = usual(&home) * 9 / 8;
    let (mut credentials, mut agents) = state(&home);
    let start = Instant::now();
    let (mut kills, mut done) = (0_u32, 0_u32);
    while another(kills, 150, start) {
        let round = format!("kill {kills} of seed {}", dice.seed);
        let (mut wanted, mut wanted_agents) = (credentials.clone(), agents.clone());
        let names: Vec<&String> = credentials.keys().collect();
        let picked = names[usize::try_from(dice.roll(names.len() as u64)).unwrap()].clone();
        let command = match dice.roll(3) {
            0 => {
                let name = format!("c{kills}");
                wanted.insert(name.clone(), 1);
                home.command(&[&["credential", "add", &name], BEARER].concat())
            }
            1 => {
                *wanted.get_mut(&picked).unwrap() += 1;
                home.command(&["credential", "rotate", &picked])
            }
            _ => {
                *wanted_agents.entry("worker".to_owned()).or_default() += 1;
                home.command(&["agent", "add", "worker"])
            }
        };
        // Half of them where the vault and the log are written.
        let from = if dice.roll(2) == 0 { Duration::ZERO } else { most / 2 };
        let acknowledged = killed(command, &canary(), from + dice.time(most.saturating_sub(from)));
        let (now, agents_now) = state(&home);
        let new = now == wanted && agents_now == wanted_agents;
        // An agent's name is one change, and its first token another.
        let named = now == credentials && agents.is_empty() && agents_now.get("worker") == Some(&0);
        let old = now == credentials && agents_now == agents;
        assert!(new || old || named, "{round}: neither old nor new: {now:?} {agents_now:?}");
        assert!(new || !acknowledged, "{round}: acknowledged, and lost");
        sound(&home, &round);
        (credentials, agents) = (now, agents_now);
        kills += 1;
        done += u32::from(new);
    }
    assert!(kills >= 30, "too slow a machine to say anything: {kills} kills");
    assert!(done > 0 && done < kills, "all kills came too late or too early: {done} of {kills}");
    eprintln!("{kills} kills, {done} of them too late");
}

/// The number and state of each version, and whether it has a grace.
fn versions(home: &Home) -> Vec<(u64, String, bool)> {
    let ran = home.locum(&["credential", "show", "main", "--json"]).ok();
    let shown: Value = serde_json::from_str(&ran.out).unwrap();
    let version = |v: &Value| {
        let state = v["state"].as_str().unwrap().to_owned();
        (v["version"].as_u64().unwrap(), state, v["grace_until"].is_i64())
    };
    shown["versions"].as_array().unwrap().iter().map(version).collect()
}

/// What a command makes of the versions when it is done.
fn done(before: &[(u64, String, bool)], command: &str) -> Vec<(u64, String, bool)> {
    let mut all = before.to_vec();
    let next = before.len() as u64 + 1;
    let mut set = |from: &str, to: &str, grace: bool| {
        for version in all.iter_mut().filter(|version| version.1 == from) {
            (version.1, version.2) = (to.to_owned(), grace);
        }
    };
    match command {
        "rotate" => set("current", "retired", true),
        "stage" => set("staged", "retired", false),
        "promote" => {
            set("current", "retired", true);
            set("staged", "current", false);
        }
        _ => ["staged", "current", "retired"]
            .into_iter()
            .for_each(|from| set(from, "revoked", false)),
    }
    match command {
        "rotate" => all.push((next, "current".to_owned(), false)),
        "stage" => all.push((next, "staged".to_owned(), false)),
        _ => {}
    }
    all
}

#[test]
fn a_version_is_rotated_staged_promoted_and_revoked_or_not() {
    let home = Home::new();
    let mut dice = Dice::new();
    let most = usual(&home) * 9 / 8;
    home.add("main", BEARER, &canary());
    let (mut before, start) = (versions(&home), Instant::now());
    let (mut kills, mut finished) = (0_u32, 0_u32);
    while another(kills, 150, start) {
        let round = format!("kill {kills} of seed {}", dice.seed);
        let staged = before.iter().any(|version| version.1 == "staged");
        let live = before.iter().any(|version| version.1 != "revoked");
        let word = match dice.roll(8) {
            3..5 => "stage",
            5..7 if staged => "promote",
            7 if live => "revoke",
            _ => "rotate",
        };
        let arguments = match word {
            "rotate" => vec!["credential", "rotate", "main", "--grace", "1h"],
            "stage" => vec!["credential", "rotate", "main", "--stage"],
            other => vec!["credential", other, "main"],
        };
        let from = if dice.roll(2) == 0 { Duration::ZERO } else { most / 2 };
        let after = from + dice.time(most.saturating_sub(from));
        let acknowledged = killed(home.command(&arguments), &canary(), after);
        let (now, wanted) = (versions(&home), done(&before, word));
        assert!(now == before || now == wanted, "{round}: {word}: neither old nor new: {now:?}");
        assert!(now == wanted || !acknowledged, "{round}: {word}: acknowledged, and lost");
        sound(&home, &round);
        finished += u32::from(now == wanted);
        (before, kills) = (now, kills + 1);
    }
    assert!(kills >= 30, "too slow a machine to say anything: {kills} kills");
    assert!(finished > 0 && finished < kills, "all kills came too late or too early: {finished}");
    eprintln!("{kills} kills, {finished} of them too late");
}

/// A home with something in each table, and how long `command` takes in it.
fn furnished(kinds: usize) -> Home {
    let home = Home::new();
    home.set("log.level: info");
    for n in 0..kinds {
        home.add(&format!("c{n}"), BEARER, &canary());
        home.rotate(&format!("c{n}"), &canary());
    }
    home.agent("worker");
    home
}

/// What is in the vault, each row of which opens.
#[track_caller]
fn contents(home: &Home, round: &str) -> Value {
    let ran = home.locum(&["vault", "status", "--verify", "--json"]);
    assert_eq!(ran.code, 0, "{round}: {}{}", ran.out, ran.err);
    let mut status: Value = serde_json::from_str(&ran.out).unwrap();
    let counts = ["credentials", "live_credentials", "agents", "tokens", "sets"];
    Value::Object(counts.iter().map(|key| ((*key).to_owned(), status[*key].take())).collect())
}

#[test]
fn a_rekey_leaves_a_vault_that_opens() {
    let home = furnished(3);
    let whole = contents(&home, "before");
    let usual = took(|| drop(home.locum(&["vault", "rekey"]).ok()));
    let command = |_| home.command(&["vault", "rekey"]);
    kill_again_and_again(usual, command, |_, round, _| {
        assert_eq!(contents(&home, round), whole, "{round}");
    });
    sound(&home, "at the end");
}

/// From a key file to a passphrase and back. Which of the two opens the vault, it says itself.
#[test]
fn a_change_to_a_passphrase_and_back_leaves_a_vault_that_opens() {
    use std::os::unix::fs::PermissionsExt as _;
    let home = furnished(3);
    let whole = contents(&home, "before");
    let file = home.work().join("passphrase");
    std::fs::write(&file, "correct horse battery staple\n").unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    let passphrase = ["vault", "rekey", "--passphrase-file", file.to_str().unwrap()];
    home.set(&format!("vault.key: {{passphrase: {{file: {}}}}}", file.display()));
    let usual = took(|| drop(home.locum(&passphrase).ok()));
    home.locum(&["vault", "rekey", "--key-file"]).ok();
    let is_file = std::cell::Cell::new(true);
    let command = |_| {
        let to_file = ["vault", "rekey", "--key-file"];
        if is_file.get() { home.command(&passphrase) } else { home.command(&to_file) }
    };
    kill_again_and_again(usual, command, |_, round, _| {
        assert_eq!(contents(&home, round), whole, "{round}");
        // What a killed change has left behind is in nobody's way.
        let key = home.path().join("master.key");
        is_file.set(home.locum(&["vault", "status"]).ok().out.contains("key file"));
        if !is_file.get() && key.exists() {
            std::fs::remove_file(&key).unwrap();
        }
    });
    sound(&home, "at the end");
}

#[test]
fn new_data_keys_are_all_there_or_none_while_a_proxy_serves() {
    let home = furnished(20);
    let origin = Origin::start(HOST);
    home.reach(&origin);
    let key = canary();
    origin.accept(&key);
    home.add("main", BEARER, &key);
    let agent = home.agent("caller");
    let whole = contents(&home, "before");
    let serve = home.serve();
    let usual = took(|| drop(home.locum(&["vault", "rotate"]).ok()));
    let mut wire = serve.tunnel(&agent, HOST);
    let command = |n| {
        // After a new master key the proxy has to look for that first.
        let what = if n % 5 == 4 { "rekey" } else { "rotate" };
        home.command(&["vault", what])
    };
    kill_again_and_again(usual, command, |n, round, _| {
        if n % 3 == 0 {
            wire = serve.tunnel(&agent, HOST);
        }
        let answer = wire.ask(request("GET", "/v1/x", &[AUTHORIZED], ""));
        assert_eq!(answer.status, 200, "{round}: {}", answer.text());
        assert_eq!(contents(&home, round), whole, "{round}");
    });
    serve.stop();
    sound(&home, "at the end");
    let status = home.locum(&["vault", "rotate", "--json"]).ok().out;
    let status: Value = serde_json::from_str(&status).unwrap();
    assert!(status["generation"].as_u64().unwrap() > 10, "hardly any was done: {status}");
    home.never_leaks(&[&key], &[]);
}

#[test]
fn a_backup_is_there_whole_or_not_at_all() {
    let home = furnished(3);
    let whole = contents(&home, "before");
    let file = |n: u32| home.work().join(format!("copy-{n}"));
    let path = |n: u32| file(n).to_str().unwrap().to_owned();
    let usual = took(|| drop(home.locum(&["vault", "backup", &path(9999)]).ok()));
    let command = |n| home.command(&["vault", "backup", &path(n)]);
    kill_again_and_again(usual, command, |n, round, acknowledged| {
        assert!(file(n).exists() || !acknowledged, "{round}: acknowledged, and lost");
        if file(n).exists() {
            // It is of the newest state, so that it takes no word.
            home.locum(&["vault", "restore", &path(n)]).ok();
        }
        assert_eq!(contents(&home, round), whole, "{round}");
    });
    sound(&home, "at the end");
}

#[test]
fn a_restore_brings_the_old_state_or_leaves_the_new() {
    let home = furnished(2);
    let copy = home.work().join("copy").to_str().unwrap().to_owned();
    home.locum(&["vault", "backup", &copy]).ok();
    let old = contents(&home, "the copy");
    let restore = ["vault", "restore", &copy, "--accept-rollback"];
    let usual = took(|| drop(home.locum(&restore).ok()));
    let add = |n| home.add(&format!("late{n}"), BEARER, &canary());
    add(9999);
    let mut new = contents(&home, "with more");
    let command = |_| home.command(&restore);
    let mut seen = (0, 0);
    kill_again_and_again(usual, command, |n, round, acknowledged| {
        let now = contents(&home, round);
        assert!(now == old || (now == new && !acknowledged), "{round}: neither: {now}");
        if n % 8 == 0 {
            sound(&home, round);
        }
        if now == old {
            seen.0 += 1;
            add(n);
            new = contents(&home, round);
        } else {
            seen.1 += 1;
        }
    });
    assert!(seen.0 > 0 && seen.1 > 0, "all kills came too late or too early: {seen:?}");
    sound(&home, "at the end");
}

#[test]
fn init_is_done_or_can_be_done_again() {
    let mut dice = Dice::new();
    let start = Instant::now();
    let whole = Instant::now();
    let _ = Home::new();
    let most = whole.elapsed();
    let mut kills = 0;
    while another(kills, 40, start) {
        let round = format!("kill {kills} of seed {}", dice.seed);
        let home = Home::bare();
        killed(home.command(&["init"]), "", dice.time(most));
        let ran = home.locum(&["init"]);
        assert_eq!(ran.code, 0, "{round}: {}", ran.err);
        home.add("main", BEARER, &canary());
        sound(&home, &round);
        kills += 1;
    }
    assert!(kills >= 10, "too slow a machine to say anything: {kills} kills");
}

#[test]
fn every_call_that_was_made_has_its_record() {
    let home = Home::new();
    // Its searches would be of megabytes.
    home.set("log.level: info");
    let origin = Origin::start(HOST);
    home.reach(&origin);
    let mut keys = vec![canary()];
    origin.accept(&keys[0]);
    home.add("main", BEARER, &keys[0]);
    let agent = home.agent("worker");
    let mut dice = Dice::new();
    let start = Instant::now();
    let (mut kills, mut answered) = (0_u32, 0_usize);
    while another(kills, 60, start) {
        let round = format!("kill {kills} of seed {}", dice.seed);
        let serve = home.serve();
        // After a crash the key is the last that was acknowledged, or the one that was on its way.
        let answer = serve.tunnel(&agent, HOST).ask(request("GET", "/first", &[AUTHORIZED], ""));
        assert_eq!(answer.status, 200, "{round}: {}", answer.text());
        let sent = origin.last().header("authorization").unwrap().to_owned();
        assert!(keys.iter().any(|key| sent == format!("Bearer {key}")), "{round}: {sent}");
        let next = canary();
        origin.accept(&next);
        let stop = AtomicBool::new(false);
        let rotated = std::thread::scope(|scope| {
            let traffic: Vec<_> = (0..3)
                .map(|thread| {
                    let (serve, agent, stop) = (&serve, &agent, &stop);
                    scope.spawn(move || calls(serve, agent, stop, &format!("{kills}-{thread}")))
                })
                .collect();
            let (after, rotation) = (dice.time(Duration::from_millis(150)), dice.roll(2) == 0);
            let (after_more, most) =
                (dice.time(Duration::from_millis(60)), Duration::from_millis(90));
            std::thread::sleep(after);
            let rotate = home.command(&["credential", "rotate", "main"]);
            // Killed with the proxy, or let be.
            let rotated = rotation && killed(rotate, &next, dice.time(most));
            std::thread::sleep(after_more);
            kill(&serve);
            stop.store(true, Ordering::Relaxed);
            for thread in traffic {
                answered += thread.join().unwrap();
            }
            rotated
        });
        serve.kill();
        if rotated {
            keys = vec![next];
        } else {
            keys.push(next);
        }
        let ran = home.locum(&["audit", "verify"]);
        assert_eq!(ran.code, 0, "{round}: {}{}", ran.out, ran.err);
        recorded(&home, &origin, &round);
        kills += 1;
    }
    assert!(kills >= 10, "too slow a machine to say anything: {kills} kills");
    assert!(answered > kills as usize, "hardly any traffic: {answered} answers");
    sound(&home, "at the end");
    home.never_leaks(&[keys.first().unwrap(), keys.last().unwrap()], &[]);
    eprintln!("{kills} kills, {answered} answers");
}

fn kill(serve: &Serve) {
    let pid = rustix::process::Pid::from_raw(serve.pid().try_into().unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
}

/// Makes calls, each to a path of its own, until the proxy is gone; how many were answered.
fn calls(serve: &Serve, agent: &Agent, stop: &AtomicBool, prefix: &str) -> usize {
    let Ok(mut wire) = Wire::try_plain(serve.proxy) else { return 0 };
    if wire.try_send(connect("api.test:443", &agent.authorization()).as_bytes()).is_err() {
        return 0;
    }
    if !wire.try_answer("CONNECT").is_ok_and(|answer| answer.status == 200) {
        return 0;
    }
    let Ok(mut wire) = wire.tls(HOST, &serve.ca()) else { return 0 };
    for n in 0.. {
        if stop.load(Ordering::Relaxed) {
            return n;
        }
        let call = request("POST", &format!("/v1/{prefix}-{n}"), &[AUTHORIZED], "body");
        if wire.try_send(call.as_bytes()).is_err() || wire.try_answer("POST").is_err() {
            return n;
        }
    }
    0
}

/// Every path that the origin saw is in an access record with the decision to permit, as often as
/// it was seen.
#[track_caller]
fn recorded(home: &Home, origin: &Origin, round: &str) {
    let records: BTreeSet<String> = home
        .audit_now()
        .iter()
        .filter(|r| r["kind"] == "access" && r["decision"] == "permit")
        .map(|r| r["path"].as_str().unwrap().to_owned())
        .collect();
    for seen in origin.seen() {
        assert!(records.contains(&seen.target), "{round}: {} has no record", seen.target);
    }
}
