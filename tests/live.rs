//! Changes under a running proxy: what acts at once in open tunnels, what is refused and leaves the
//! last good state in force, and how it stops.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use support::*;

/// How soon a change acts.
const SOON: Duration = Duration::from_secs(1);

/// Asks in an open tunnel, again and again, until the answer is as `expected`; panics when that
/// takes longer than a change may take.
#[track_caller]
fn soon(wire: &mut Wire, expected: impl Fn(&Answer) -> bool) -> Answer {
    let start = Instant::now();
    loop {
        let answer = wire.ask(request("GET", "/v1/x", &[AUTHORIZED], ""));
        if expected(&answer) {
            assert!(start.elapsed() < SOON, "it took {:?}", start.elapsed());
            return answer;
        }
        assert!(start.elapsed() < SOON, "not within a second: {} {}", answer.status, answer.text());
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn refused(code: &'static str) -> impl Fn(&Answer) -> bool {
    move |answer| answer.status >= 400 && answer.problem() == code
}

/// An open tunnel that works.
#[track_caller]
fn open(world: &World) -> Wire {
    let mut wire = world.tunnel();
    assert_eq!(wire.ask(request("GET", "/v1/x", &[AUTHORIZED], "")).status, 200);
    wire
}

#[test]
fn a_revoked_token_is_none_in_open_tunnels() {
    let world = World::new();
    let other = world.home.agent("worker");
    let mut kept = world.serve.tunnel(&other, HOST);
    let mut wire = open(&world);
    let mut idle = open(&world);
    world.home.locum(&["agent", "revoke", "worker", "--token", &world.agent.token_id]).ok();
    let answer = soon(&mut wire, refused("agent-revoked"));
    assert_eq!(answer.status, 403);
    assert_eq!(wire.until_closed(), b"", "the connection ends");
    let answer = idle.ask(request("GET", "/v1/x", &[AUTHORIZED], ""));
    assert_eq!(answer.problem(), "agent-revoked");
    let answer = world.serve.wire().ask(connect("api.test:443", &world.agent.authorization()));
    assert_eq!(answer.problem(), "proxy-auth-required");
    // The agent's other token is as good as before.
    assert_eq!(kept.ask(request("GET", "/v1/x", &[AUTHORIZED], "")).status, 200);
    world.home.locum(&["agent", "revoke", "worker"]).ok();
    soon(&mut kept, refused("agent-revoked"));
}

#[test]
fn a_revoked_credential_is_none_in_open_tunnels() {
    let world = World::new();
    let mut wire = open(&world);
    world.home.locum(&["credential", "revoke", "main"]).ok();
    soon(&mut wire, refused("credential-refused"));
    let before = world.origin.seen().len();
    for _ in 0..20 {
        let answer = wire.ask(request("GET", "/v1/x", &[AUTHORIZED], ""));
        assert_eq!(answer.problem(), "credential-refused");
    }
    assert_eq!(world.origin.seen().len(), before);
}

#[test]
fn a_removed_credential_is_none_in_open_tunnels() {
    let world = World::new();
    let mut wire = open(&world);
    world.home.locum(&["credential", "remove", "main"]).ok();
    let answer = soon(&mut wire, |answer| answer.status >= 400);
    // One that was just leaving hears that it went meanwhile.
    assert!(
        matches!(&*answer.problem(), "credential-refused" | "not-allowed" | "credential-revoked"),
        "{}",
        answer.text()
    );
}

#[test]
fn a_rotated_key_goes_out_in_open_tunnels() {
    let world = World::new();
    let second = canary();
    world.origin.accept(&second);
    let mut wire = open(&world);
    world.home.rotate("main", &second);
    let sent = || world.origin.last().header("authorization").unwrap().to_owned();
    soon(&mut wire, |_| sent() == format!("Bearer {second}"));
    for _ in 0..20 {
        assert_eq!(wire.ask(request("GET", "/v1/x", &[AUTHORIZED], "")).status, 200);
        assert_eq!(sent(), format!("Bearer {second}"), "the old key after the new one");
    }
    let last = world.home.accesses_to("/v1/x").pop().unwrap();
    assert_eq!(last["version"], 2);
    // The new one is searched for in answers too.
    let answer = wire.ask(request("GET", "/echo", &[AUTHORIZED], ""));
    assert_eq!(answer.status, 200);
    world.home.never_leaks(&[&world.key, &second], &[("the wire", &wire.transcript)]);
}

#[test]
fn what_is_added_works_with_the_next_request() {
    let world = World::new();
    let mut wire = open(&world);
    for i in 0..5 {
        let (name, key) = (format!("new{i}"), canary());
        world.origin.accept(&key);
        world.home.add(&name, BEARER, &key);
        let field = format!("Authorization: Bearer locum_{name}");
        let answer = wire.ask(request("GET", "/v1/x", &[&field], ""));
        assert_eq!(answer.status, 200, "{}", answer.text());
        let agent = world.home.agent(&format!("agent{i}"));
        assert_eq!(
            world.serve.tunnel(&agent, HOST).ask(request("GET", "/", &[AUTHORIZED], "")).status,
            200
        );
    }
}

fn allowing(paths: &str) -> String {
    format!(
        "version: 1\nrules:\n- {{name: some, agents: ['*'], to: ['https://api.test'], paths: {paths}, use: [main]}}\n"
    )
}

#[test]
fn a_tighter_policy_acts_in_open_tunnels() {
    let world = World::new();
    let mut wire = open(&world);
    world.home.policy(&allowing("[/v2/**]"));
    soon(&mut wire, refused("not-allowed"));
    world.home.policy(&allowing("[/v1/**]"));
    soon(&mut wire, |answer| answer.status == 200);
    // One file more, and one less.
    world.home.policy("version: 1\nrules: []\n");
    soon(&mut wire, refused("not-allowed"));
    world.home.add_policy("second.yaml", &allowing("[/v1/**]"));
    soon(&mut wire, |answer| answer.status == 200);
    fs::remove_file(world.home.path().join("policies/second.yaml")).unwrap();
    soon(&mut wire, refused("not-allowed"));
    let generation = world.serve.metric("locum_policy_generation");
    assert_eq!(generation, 6);
    let reloads = world.home.audit().iter().filter(|r| r["event"] == "policy-reloaded").count();
    assert_eq!(reloads, 5);
}

#[test]
fn a_policy_with_mistakes_leaves_the_last_good_one_in_force() {
    let world = World::ruled(&allowing("[/v1/**]"));
    let mut wire = open(&world);
    let bomb = (1..30).map(|i| format!("a{i}: &a{i} [*a{0}, *a{0}, *a{0}]\n", i - 1));
    let bomb = format!("a0: &a0 [x]\n{}", bomb.collect::<String>());
    let cases = [
        ("no YAML", "version: 1\nrules: [\n".to_owned(), "first.yaml:"),
        ("an unknown key", "version: 1\nrules: []\nruels: []\n".to_owned(), "first.yaml:3:1"),
        ("a key twice", "version: 1\nrules: []\nrules: []\n".to_owned(), "first.yaml:3:1"),
        ("tabs", "version: 1\nrules:\n\t- name: x\n".to_owned(), "first.yaml:3:"),
        ("another version", "version: 2\nrules: []\n".to_owned(), "first.yaml:1:"),
        ("no version", "rules: []\n".to_owned(), "first.yaml:"),
        ("a bomb", bomb, "first.yaml:"),
        ("a wrong kind", "version: 1\nrules: 7\n".to_owned(), "first.yaml:2:"),
        (
            "an unknown key of a rule",
            allowing("[/v1/**]").replace("paths", "path"),
            "first.yaml:3:",
        ),
        (
            "a bare suffix",
            allowing("[/v1/**]").replace("https://api.test", "https://*pi.test"),
            "first.yaml:3:",
        ),
        ("not UTF-8", String::new(), "first.yaml"),
    ];
    let file = world.home.path().join("policies/first.yaml");
    let rejections =
        || world.home.audit().iter().filter(|r| r["event"] == "policy-rejected").count();
    for (i, (name, text, place)) in cases.iter().enumerate() {
        let bytes = if *name == "not UTF-8" {
            &b"version: 1\nrules: \xff\xfe\n"[..]
        } else {
            text.as_bytes()
        };
        fs::write(&file, bytes).unwrap();
        eventually(name, SOON, || (rejections() == i + 1).then_some(()));
        assert_eq!(world.serve.metric("locum_reload_success{what=\"policy\"}"), 0, "{name}");
        let log = world.serve.log();
        let line = log.lines().rfind(|line| line.contains("last good")).unwrap_or_default();
        let told = log[log.rfind(line).unwrap()..].to_owned();
        assert!(told.contains(place), "{name}: the log does not say where: {told}");
        assert_eq!(wire.ask(request("GET", "/v1/x", &[AUTHORIZED], "")).status, 200, "{name}");
        let answer = wire.ask(request("GET", "/v2/x", &[AUTHORIZED], ""));
        assert_eq!(answer.problem(), "not-allowed", "{name}");
        assert_eq!(world.serve.metric("locum_policy_generation"), 1, "{name}");
        // The command says the same, all at once.
        let ran = world.home.locum(&["policy", "check"]).failed(64);
        assert!(
            ran.err.contains(place) || ran.out.contains(place),
            "{name}: {}{}",
            ran.out,
            ran.err
        );
    }
    assert_eq!(world.serve.readiness().0, 200, "it serves");
    world.home.policy(&allowing("[/v2/**]"));
    soon(&mut wire, refused("not-allowed"));
    assert_eq!(world.serve.metric("locum_reload_success{what=\"policy\"}"), 1);
}

#[test]
fn policies_that_are_gone_widen_nothing() {
    let world = World::ruled(&allowing("[/v1/**]"));
    let mut wire = open(&world);
    let directory = world.home.path().join("policies");
    let aside = world.home.path().join("aside");
    fs::rename(&directory, &aside).unwrap();
    eventually("the metric", SOON, || {
        (world.serve.metric("locum_reload_success{what=\"policy\"}") == 0).then_some(())
    });
    // A directory that is not there says nothing; the last good policy stays.
    assert_eq!(wire.ask(request("GET", "/v1/x", &[AUTHORIZED], "")).status, 200);
    assert_eq!(wire.ask(request("GET", "/v2/x", &[AUTHORIZED], "")).problem(), "not-allowed");
    fs::rename(&aside, &directory).unwrap();
    eventually("the metric", SOON, || {
        (world.serve.metric("locum_reload_success{what=\"policy\"}") == 1).then_some(())
    });
    // An empty one says that nothing is allowed.
    fs::remove_file(directory.join("first.yaml")).unwrap();
    soon(&mut wire, refused("not-allowed"));
}

#[test]
fn a_policy_that_is_being_written_is_not_in_force() {
    // Cut before its end, it would allow more than the whole.
    let whole = "version: 1\nrules:\n- name: some\n  agents: ['*']\n  to: ['https://api.test']\n  use: [main]\n  methods: [DELETE]\n";
    let half = &whole[..whole.find("  methods").unwrap()];
    let world = World::ruled(whole);
    let mut wire = world.tunnel();
    let file = world.home.path().join("policies/first.yaml");
    let done = std::sync::atomic::AtomicBool::new(false);
    // On a busy machine the writer may be stopped in the middle for so long that the half is what
    // anybody would take for the whole. Then there is nothing to say.
    let stopped = std::sync::atomic::AtomicBool::new(false);
    let mut half_was_in_force = false;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                // As an editor that writes into the file does it.
                let begun = Instant::now();
                fs::write(&file, half).unwrap();
                std::thread::sleep(Duration::from_millis(2));
                fs::write(&file, whole).unwrap();
                if begun.elapsed() > Duration::from_millis(30) {
                    stopped.store(true, std::sync::atomic::Ordering::Relaxed);
                }
                std::thread::sleep(Duration::from_millis(15));
            }
        });
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(3) {
            let answer = wire.ask(request("GET", "/v1/x", &[AUTHORIZED], ""));
            half_was_in_force |= answer.status == 200;
            std::thread::sleep(Duration::from_millis(2));
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    assert!(!half_was_in_force || stopped.into_inner(), "half a rule was in force");
}

#[test]
fn a_file_that_the_config_names_acts_when_it_is_replaced() {
    let world = World::new();
    let mut wire = open(&world);
    let (file, other) = (world.origin.ca_file(), Origin::start(HOST));
    let good = fs::read(&file).unwrap();
    fs::copy(other.ca_file(), &file).unwrap();
    let answer = soon(&mut wire, refused("certificate-invalid"));
    assert_eq!(answer.status, 502);
    fs::write(&file, "half a file").unwrap();
    eventually("the metric", SOON, || {
        (world.serve.metric("locum_reload_success{what=\"config\"}") == 0).then_some(())
    });
    fs::write(&file, good).unwrap();
    soon(&mut wire, |answer| answer.status == 200);
}

#[test]
fn a_new_config_acts_and_a_bad_one_does_not() {
    let world = World::new();
    let mut wire = open(&world);
    let moved = Origin::start(HOST);
    moved.accept(&world.key);
    world.home.reach(&moved);
    eventually("the new address", SOON, || {
        assert_eq!(wire.ask(request("GET", "/v1/x", &[AUTHORIZED], "")).status, 200);
        (!moved.seen().is_empty()).then_some(())
    });
    let file = world.home.path().join("locum.yaml");
    let good = fs::read_to_string(&file).unwrap();
    for bad in [
        format!("{good}\nunknown: 1\n"),
        "proxy: [".to_owned(),
        good.replace("ca_file: /", "ca_file: /none/"),
    ] {
        fs::write(&file, &bad).unwrap();
        eventually("the metric", SOON, || {
            (world.serve.metric("locum_reload_success{what=\"config\"}") == 0).then_some(())
        });
        assert!(world.serve.log().contains("last good"), "{bad}");
        assert_eq!(wire.ask(request("GET", "/v1/x", &[AUTHORIZED], "")).status, 200);
        fs::write(&file, &good).unwrap();
        eventually("the metric", SOON, || {
            (world.serve.metric("locum_reload_success{what=\"config\"}") == 1).then_some(())
        });
    }
    // Asked for, it is read at once.
    world.home.reach(&world.origin);
    let before = world.origin.seen().len();
    world.serve.hang_up();
    eventually("the first address", SOON, || {
        assert_eq!(wire.ask(request("GET", "/v1/x", &[AUTHORIZED], "")).status, 200);
        (world.origin.seen().len() > before).then_some(())
    });
}

#[test]
fn on_sigterm_requests_in_flight_finish_and_nothing_new_begins() {
    let mut world = World::new();
    world.origin.hold();
    let mut idle = open(&world);
    let mut held = world.tunnel();
    held.send(request("GET", "/hold", &[AUTHORIZED], ""));
    let mut streaming = world.tunnel();
    streaming.send(request("GET", "/events/3", &[AUTHORIZED], ""));
    streaming.until("data: 0\n\n");
    world.origin.until_seen(3);
    world.serve.terminate();
    assert_eq!(idle.until_closed(), b"", "an idle tunnel is closed");
    eventually("no new connection", PATIENCE, || Wire::try_plain(world.serve.proxy).err());
    // Two events and one answer are still to come.
    for _ in 0..3 {
        world.origin.release();
    }
    assert_eq!(held.answer().text(), "held");
    streaming.until("data: 1\n\n");
    streaming.until("data: 2\n\n");
    streaming.until("0\r\n\r\n");
    let status = world.serve.ended(PATIENCE);
    assert_eq!(status.code(), Some(0), "{}", world.serve.log());
    let records = world.home.audit();
    assert_eq!(records.last().unwrap()["event"], "proxy-stopped", "{:?}", records.last());
    let endings = records.iter().filter(|r| r["kind"] == "outcome" && r["ending"] == "complete");
    assert_eq!(endings.count(), 3);
    world.home.locum(&["audit", "verify"]).ok();
    assert!(!world.home.path().join("serve.json").exists(), "nobody is announced any more");
}

#[test]
fn the_time_for_draining_is_bounded() {
    let mut world = World::with(BEARER, canary(), |home, _| home.set("limits.drain: 1s"));
    world.origin.hold();
    let mut streaming = world.tunnel();
    streaming.send(request("GET", "/events/3", &[AUTHORIZED], ""));
    streaming.until("data: 0\n\n");
    let start = Instant::now();
    world.serve.terminate();
    let status = world.serve.ended(PATIENCE);
    assert_eq!(status.code(), Some(0), "{}", world.serve.log());
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    let records = world.home.audit();
    let outcome = records.iter().rfind(|r| r["kind"] == "outcome").expect("an outcome record");
    assert_eq!(outcome["ending"], "downstream-aborted");
    world.home.locum(&["audit", "verify"]).ok();
}

/// The audit log cannot be written: nothing goes out, and readiness says why. Once it can, all goes
/// on by itself.
#[track_caller]
fn fails_closed_and_heals(world: &World, name: &str, break_it: impl FnOnce(), mend: impl FnOnce()) {
    let mut wire = open(world);
    break_it();
    let answer = eventually(&format!("{name}: a refusal"), PATIENCE, || {
        let answer = wire.ask(request("GET", "/v1/x", &[AUTHORIZED], ""));
        (answer.status != 200).then_some(answer)
    });
    assert_eq!((answer.status, &*answer.problem()), (503, "audit-unavailable"), "{name}");
    // With the next three, and those that come before it has mended itself.
    let mut refused = 4;
    let before = world.origin.seen().len();
    for target in ["/v1/x", "/open/x"] {
        let answer = wire.ask(request("GET", target, &[AUTHORIZED], ""));
        assert_eq!(answer.problem(), "audit-unavailable", "{name}");
    }
    // Neither do tunnels that are not decrypted.
    let answer = world.serve.wire().ask(connect("free.test:443", &world.agent.authorization()));
    assert_eq!(answer.problem(), "audit-unavailable", "{name}");
    assert_eq!(world.origin.seen().len(), before, "{name}: a call without its record");
    let (status, readiness) = world.serve.readiness();
    assert_eq!((status, &readiness["ready"]), (503, &false.into()), "{name}");
    assert!(readiness["problems"][0].as_str().unwrap().starts_with("audit: "), "{readiness}");
    assert_eq!(world.serve.metric("locum_audit_up"), 0, "{name}");
    mend();
    eventually(&format!("{name}: it mends itself"), PATIENCE, || {
        let answer = wire.ask(request("GET", "/v1/x", &[AUTHORIZED], ""));
        refused += usize::from(answer.status != 200);
        (answer.status == 200).then_some(())
    });
    assert_eq!(world.serve.readiness().0, 200, "{name}");
    assert_eq!(world.serve.metric("locum_audit_up"), 1, "{name}");
    let records = world.home.audit();
    let resumed = records.iter().rfind(|record| record["event"] == "audit-resumed").unwrap();
    let told = format!("refused for want of a record: {refused} calls");
    assert!(resumed["detail"].as_str().unwrap().contains(&told), "{name}: {refused}, {resumed}");
    // Every call that the origin saw has its record.
    let permitted = world.home.audit();
    let permitted = permitted.iter().filter(|r| r["kind"] == "access" && r["decision"] == "permit");
    let seen = world.origin.seen().len();
    assert!(permitted.count() >= seen, "{name}: {seen} calls");
}

#[test]
fn without_its_audit_directory_the_proxy_makes_no_call() {
    let world = World::new();
    let (audit, aside) = (world.home.path().join("audit"), world.home.path().join("aside"));
    fails_closed_and_heals(
        &world,
        "moved away",
        || fs::rename(&audit, &aside).unwrap(),
        || put_back(&aside, &audit),
    );
    world.home.locum(&["audit", "verify"]).ok();
    fails_closed_and_heals(
        &world,
        "a file in its place",
        || {
            fs::rename(&audit, &aside).unwrap();
            fs::write(&audit, "in the way").unwrap();
        },
        || {
            fs::remove_file(&audit).unwrap();
            put_back(&aside, &audit);
        },
    );
    world.home.locum(&["audit", "verify"]).ok();
    world.serve.stop();
    world.home.locum(&["audit", "verify"]).ok();
}

/// Moves the directory back, over whatever was made in its place meanwhile.
fn put_back(from: &Path, to: &Path) {
    let _ = fs::remove_dir_all(to);
    fs::rename(from, to).unwrap();
}

#[test]
fn a_log_file_that_is_gone_or_replaced_is_noticed() {
    let world = World::new();
    let audit = world.home.path().join("audit");
    let current = || {
        let files = fs::read_dir(&audit).unwrap().map(|e| e.unwrap().path());
        files.filter(|p| p.extension().is_some_and(|e| e == "jsonl")).max().unwrap()
    };
    let aside = world.home.path().join("aside.jsonl");
    let file = current();
    fails_closed_and_heals(
        &world,
        "the file moved away",
        || fs::rename(&file, &aside).unwrap(),
        || fs::rename(&aside, &file).unwrap(),
    );
    world.home.locum(&["audit", "verify"]).ok();
    world.serve.stop();
    world.home.locum(&["audit", "verify"]).ok();
}

#[test]
fn a_full_disk_stops_the_calls_and_not_the_proxy() {
    let directory = tempfile::tempdir().unwrap();
    let mount = directory.path().join("audit");
    fs::create_dir(&mount).unwrap();
    let prelude = "mount -t tmpfs -o size=512k,mode=0700 tmpfs \"$MOUNT\";";
    apart("the_disk_is_full", &["--mount"], prelude, &[("MOUNT", mount.as_os_str())]);
}

#[test]
#[ignore = "started by a test above, among its mounts"]
fn the_disk_is_full() {
    let mount = std::path::PathBuf::from(std::env::var_os("MOUNT").unwrap());
    let home = Home::configured(&format!("audit.dir: {}", mount.display()));
    let origin = Origin::start(HOST);
    let key = canary();
    origin.accept(&key);
    home.reach(&origin);
    home.add("main", BEARER, &key);
    let agent = home.agent("worker");
    let serve = home.serve();
    let mut wire = serve.tunnel(&agent, HOST);
    let ask = |wire: &mut Wire| wire.ask(request("GET", "/v1/x", &[AUTHORIZED], ""));
    assert_eq!(ask(&mut wire).status, 200);
    let ballast = mount.join("ballast");
    let filling = fs::write(&ballast, vec![0; 1024 * 1024]);
    assert!(filling.is_err(), "the file system is full");
    let answer = eventually("a refusal", PATIENCE, || {
        let answer = ask(&mut wire);
        (answer.status != 200).then_some(answer)
    });
    assert_eq!(answer.problem(), "audit-unavailable");
    let before = origin.seen().len();
    for _ in 0..20 {
        assert_eq!(ask(&mut wire).problem(), "audit-unavailable");
    }
    assert_eq!(origin.seen().len(), before);
    assert_eq!(serve.readiness().0, 503);
    fs::remove_file(&ballast).unwrap();
    eventually("it mends itself", PATIENCE, || (ask(&mut wire).status == 200).then_some(()));
    assert_eq!(serve.readiness().0, 200);
    serve.stop();
    home.locum(&["audit", "verify"]).ok();
}

#[test]
fn a_vault_that_cannot_be_read_lets_nothing_out_and_comes_back() {
    let world = World::new();
    let mut wire = open(&world);
    let vault = world.home.vault();
    let aside = vault.with_extension("aside");
    fs::rename(&vault, &aside).unwrap();
    let answer = soon(&mut wire, |answer| answer.status != 200);
    assert_eq!((answer.status, &*answer.problem()), (503, "vault-unavailable"));
    let before = world.origin.seen().len();
    // Whoever comes anew is not told that its token is wrong: nobody can tell now.
    let answer = world.serve.wire().ask(connect("api.test:443", &world.agent.authorization()));
    assert_eq!((answer.status, &*answer.problem()), (503, "vault-unavailable"));
    assert_eq!(world.origin.seen().len(), before);
    let (status, readiness) = world.serve.readiness();
    assert_eq!(status, 503);
    assert!(readiness["problems"][0].as_str().unwrap().starts_with("vault: "), "{readiness}");
    assert_eq!(world.serve.metric("locum_vault_up"), 0);
    fs::rename(&aside, &vault).unwrap();
    eventually("the vault is back", PATIENCE, || (world.serve.readiness().0 == 200).then_some(()));
    assert_eq!(world.get("/v1/x").status, 200);
}

#[test]
fn what_a_rule_in_shadow_would_do_is_on_record() {
    let rules = "version: 1\nrules:\n  - {name: all, agents: ['*'], use: [main]}\n  - {name: soon not, mode: shadow, deny: true, agents: ['*'], to: ['https://api.test'], paths: [/old]}\n  - {name: soon, mode: shadow, agents: [other], to: ['https://api.test']}\n";
    let world = World::ruled(rules);
    let answer = world.get("/old");
    assert_eq!(answer.status, 200);
    let record = &world.home.accesses_to("/old")[0];
    let shadow = serde_json::json!({ "rule": "soon not", "code": "not-allowed" });
    assert_eq!((&record["shadow"], record["rule"].as_str()), (&shadow, Some("all")));
    assert_eq!(world.get("/new").status, 200);
    assert!(world.home.accesses_to("/new")[0].get("shadow").is_none());
    let count = |decision: &str| {
        let series = format!("locum_shadow_decisions_total{{decision=\"{decision}\"}}");
        world.serve.metric(&series)
    };
    assert_eq!((count("refuse"), count("permit")), (1, 0));
    world.home.locum(&["audit", "verify"]).ok();
}

#[test]
fn the_organisations_rules_act_at_once_and_in_open_tunnels() {
    let world = World::new();
    let mut wire = open(&world);
    let directory = world.home.path().join("policies/org");
    fs::create_dir(&directory).unwrap();
    let write = |name: &str, text: &str| {
        let path = directory.join(name);
        fs::write(path.with_extension("new"), text).unwrap();
        fs::rename(path.with_extension("new"), path).unwrap();
    };
    let head = "version: 1\nlayer: organisation\nrules:\n";
    write(
        "floor.yaml",
        &format!(
            "{head}  - {{name: none, deny: true, agents: [worker], to: ['https://api.test']}}\n"
        ),
    );
    soon(&mut wire, refused("not-allowed"));
    write("floor.yaml", &format!("{head}  - {{name: others, agents: [other], use: [main]}}\n"));
    soon(&mut wire, refused("not-allowed"));
    write("floor.yaml", &format!("{head}  - {{name: all, agents: ['*'], use: [main]}}\n"));
    soon(&mut wire, |answer| answer.status == 200);
    // A file that does not say whose it is changes nothing.
    write("floor.yaml", "version: 1\nrules: []\n");
    eventually("the rejection", PATIENCE, || {
        (world.serve.metric("locum_reload_success{what=\"policy\"}") == 0).then_some(())
    });
    assert_eq!(wire.ask(request("GET", "/v1/x", &[AUTHORIZED], "")).status, 200);
}

#[test]
fn a_refusal_is_explained_by_the_id_that_the_agent_was_told() {
    let world = World::ruled(
        "version: 1\nrules:\n  - {name: reads, agents: [worker], use: [main], methods: [GET], paths: [/v1/**]}\n",
    );
    let refused = world.ask("POST", "/v1/x?q=secret", &[AUTHORIZED], "");
    assert_eq!(refused.problem(), "not-allowed");
    let id = refused.request_id();
    world.home.records_of(&id, 1);
    let ran = world.home.locum(&["policy", "explain", "--request", &id]).failed(1);
    for line in [
        "decision: refuse, with not-allowed",
        "recorded: refuse, with not-allowed",
        "`reads` (",
        "methods: add POST",
    ] {
        assert!(ran.out.contains(line), "{line} is not in {}", ran.out);
    }
    assert!(!ran.out.contains("secret"), "{}", ran.out);
    let ran = world.home.locum(&["policy", "explain", "--request", &"0".repeat(32)]).failed(1);
    assert!(ran.err.contains("has no access record"), "{}", ran.err);
}

/// Asks on an open tunnel, and on a new one for every tenth call, until `stop`; how many calls there
/// were. Each has to succeed.
fn calls_until(world: &World, agent: &Agent, stop: &AtomicBool) -> usize {
    let mut wire = world.serve.tunnel(agent, HOST);
    for n in 1.. {
        let answer = wire.ask(request("GET", "/v1/x", &[AUTHORIZED], ""));
        assert_eq!(answer.status, 200, "call {n}: {}", answer.text());
        if stop.load(Ordering::Relaxed) {
            return n;
        }
        if n % 10 == 0 {
            wire = world.serve.tunnel(agent, HOST);
        }
    }
    0
}

#[test]
fn new_data_keys_and_a_new_master_key_are_not_noticed_by_agents() {
    let world = World::new();
    let home = &world.home;
    let stop = AtomicBool::new(false);
    let calls: usize = std::thread::scope(|scope| {
        let traffic: Vec<_> =
            (0..3).map(|_| scope.spawn(|| calls_until(&world, &world.agent, &stop))).collect();
        // Each in its turn, and the last ones with keys that this process has not opened the vault with.
        for command in ["rotate", "rotate", "rekey", "rotate", "rekey", "rekey", "rotate"] {
            home.locum(&["vault", command]).ok();
        }
        let generation: serde_json::Value =
            serde_json::from_str(&home.locum(&["vault", "rotate", "--json"]).ok().out).unwrap();
        assert_eq!(generation["generation"], 6);
        stop.store(true, Ordering::Relaxed);
        traffic.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    assert!(calls > 50, "hardly any traffic: {calls} calls");
    // What is changed now acts, so the proxy has not lost sight of the vault.
    let (newer, mut wire) = (canary(), open(&world));
    world.origin.accept(&newer);
    home.rotate("main", &newer);
    let sent = || world.origin.last().header("authorization").unwrap().to_owned();
    soon(&mut wire, |answer| answer.status == 200 && sent() == format!("Bearer {newer}"));
    let late = home.agent("late");
    assert_eq!(
        world.serve.tunnel(&late, HOST).ask(request("GET", "/v1/x", &[AUTHORIZED], "")).status,
        200
    );
    world.serve.stop();
    home.locum(&["vault", "status", "--verify"]).ok();
    home.locum(&["audit", "verify"]).ok();
    let rotations = home.audit().iter().filter(|r| r["event"] == "vault-data-keys-rotated").count();
    assert_eq!(rotations, 5);
    home.never_leaks(&[&newer], &[]);
}

#[test]
fn run_tokens_of_the_old_data_keys_end_where_that_is_asked_for() {
    let world = World::new();
    let home = &world.home;
    let run = || {
        let made = home.locum(&["run-token", "--agent", "worker", "--json"]).ok().out;
        let made: serde_json::Value = serde_json::from_str(&made).unwrap();
        Agent { token: made["token"].as_str().unwrap().to_owned(), ..world.agent.clone() }
    };
    let ask =
        |agent: &Agent| world.serve.wire().ask(connect("api.test:443", &agent.authorization()));
    home.agent("worker");
    let (mut first, mut agent) = (run(), home.agent("worker"));
    first.name = "worker".into();
    agent.name = "worker".into();
    assert_eq!(ask(&first).status, 200);
    home.locum(&["vault", "rotate"]).ok();
    let second = Agent { name: "worker".into(), ..run() };
    eventually("the new keys", SOON, || (ask(&second).status == 200).then_some(()));
    assert_eq!(ask(&first).status, 200);
    home.locum(&["vault", "rotate", "--end-run-tokens"]).ok();
    for run in [&first, &second] {
        eventually("their end", SOON, || (ask(run).status == 407).then_some(()));
    }
    assert_eq!(ask(&agent).status, 200, "an agent's own token stays good");
}

#[test]
fn schedules_are_reminded_of_and_the_register_knows_who_used_what() {
    let world = World::new();
    let home = &world.home;
    home.add("idle", BEARER, &canary());
    let say = |arguments: &[&str]| home.locum(&[&["credential"], arguments].concat()).ok().out;
    assert!(say(&["list"]).contains("DUE") && !say(&["list"]).contains("OVERDUE"));
    let due = || -> Vec<_> {
        let records = home.audit_now();
        records.into_iter().filter(|r| r["event"] == "rotation-due").collect()
    };
    assert!(due().is_empty());
    home.locum(&["credential", "schedule", "main"]).failed(64);
    let text = say(&["schedule", "main", "--sensitivity", "normal"]);
    assert!(text.contains("every 90 days (normal)"), "{text}");
    let metric = |line: &str| world.serve.metrics().contains(line);
    eventually("its date is known", SOON, || {
        metric("locum_credential_due_timestamp_seconds{credential=\"main\"}").then_some(())
    });
    assert!(due().is_empty(), "90 days are far");
    // How it is told of is in tests/clock.
    assert!(metric("locum_credential_reminder_timestamp_seconds{credential=\"main\"}"));
    say(&["schedule", "main", "--none"]);
    eventually("it is not due any more", SOON, || {
        (!metric("locum_credential_due_timestamp_seconds{")).then_some(())
    });
    // The secret opens as before: what is said of a credential is sealed with it.
    assert_eq!(world.get("/v1/x").status, 200);
    let register: serde_json::Value = serde_json::from_str(&say(&["register", "--json"])).unwrap();
    let of = |name: &str| {
        let lines = register.as_array().unwrap();
        lines.iter().find(|line| line["credential"] == name).unwrap().clone()
    };
    assert_eq!(of("main")["used"]["agents"], serde_json::json!(["worker"]));
    assert_eq!(
        (&of("main")["used"]["requests"], &of("idle")["used"]["requests"]),
        (&1.into(), &0.into())
    );
    let may: Vec<_> = of("idle")["may_use"].as_object().unwrap().values().cloned().collect();
    assert_eq!(may, [serde_json::json!(["any agent"])], "as the first policy has it");
    let markdown = say(&["register", "--markdown"]);
    assert!(
        markdown.starts_with("| credential | what |") && markdown.contains("| worker |"),
        "{markdown}"
    );
    assert!(markdown.contains("| 1 current (1 request) |"), "{markdown}");
    // Both are new; neither has been unused for as long.
    assert!(!say(&["list", "--unused-for", "1h"]).contains("idle"));
    eventually("they are a second old", SOON * 3, || {
        let unused = say(&["list", "--unused-for", "1s", "--json"]);
        unused.contains("\"idle\"").then_some(())
    });
    assert!(!say(&["list", "--unused-for", "1h", "--json"]).contains("main"));
    world.never_leaks(&[("register", markdown.as_bytes())]);
}

#[test]
fn the_register_and_who_uses_say_whose_key_was_used_in_which_version_and_when_it_is_due() {
    let world = World::new();
    let home = &world.home;
    home.set("credentials.trust_claims: true");
    let alices = canary();
    world.origin.accept(&alices);
    let own: &[&str] =
        &["--tier", "user", "--owner", "alice", "--serves", "main", "--node", "write"];
    let care: &[&str] = &["--sensitivity", "high", "--tag", "team-b"];
    home.add("alices", &[BEARER, own, care].concat(), &alices);
    home.policy(
        "version: 1\nrules:\n  - {name: 'the [work] of | all', agents: [worker], use: [main]}\n",
    );
    let ask = |fields: &[&str]| {
        let fields = [&[AUTHORIZED], fields].concat();
        eventually("it goes through", SOON, || {
            let answer = world.tunnel().ask(request("GET", "/v1/x", &fields, ""));
            (answer.status == 200).then_some(())
        });
    };
    let hers = || world.origin.last().header("authorization").unwrap().contains(&alices);
    eventually("claims are trusted", SOON, || {
        ask(&["Locum-User: alice", "Locum-Node: write", "Locum-Run: 7"]);
        hers().then_some(())
    });
    let newer = canary();
    world.origin.accept(&newer);
    home.locum_with(&["credential", "rotate", "alices", "--grace", "1h"], newer.as_bytes()).ok();
    let mut runs = 8..;
    let run = eventually("a run that begins after it has it", SOON, || {
        let run = runs.next().unwrap().to_string();
        ask(&["Locum-User: alice", "Locum-Node: write", &format!("Locum-Run: {run}")]);
        let sent = world.origin.last().header("authorization").unwrap().to_owned();
        sent.contains(&newer).then_some(run)
    });
    ask(&[]);
    let say = |arguments: &[&str]| home.locum(&[&["credential"], arguments].concat()).ok();
    let register: serde_json::Value =
        serde_json::from_str(&say(&["register", "--json"]).out).unwrap();
    let line = register.as_array().unwrap().iter().find(|l| l["credential"] == "alices").unwrap();
    for (field, expected) in [
        ("tier", serde_json::json!("user")),
        ("owner", serde_json::json!("alice")),
        ("serves", serde_json::json!("main")),
        ("nodes", serde_json::json!(["write"])),
        ("tags", serde_json::json!(["team-b"])),
        ("goes_to", serde_json::json!(["https://api.test"])),
        ("slots", serde_json::json!(["header authorization: Bearer {secret}"])),
        ("may_use", serde_json::json!({"the [work] of | all": ["worker"]})),
        ("sensitivity", serde_json::json!("high")),
        ("schedule", serde_json::json!("every 30 days (high)")),
    ] {
        assert_eq!(line[field], expected, "{field} in {line}");
    }
    assert_eq!(line["due"].as_i64().unwrap() - line["rotated"].as_i64().unwrap(), 30 * 86_400);
    let state =
        |n: usize| (line["versions"][n]["version"].clone(), line["versions"][n]["state"].clone());
    assert_eq!(state(0), (1.into(), "retired".into()));
    assert_eq!(state(1), (2.into(), "current".into()));
    assert!(line["versions"][0]["grace_until"].is_i64());
    for (version, least) in [("1", 1), ("2", 1)] {
        let used = &line["used"]["versions"][version];
        assert!(used["requests"].as_u64() >= Some(least) && used["last"].is_string(), "{line}");
    }
    let table = say(&["register"]).out;
    let row = table.lines().find(|row| row.starts_with("alices")).unwrap();
    for part in
        ["user alice, as main, in write", "worker (the [work] of | all)", "1 retired until "]
    {
        assert!(row.contains(part), "{part} in {row}");
    }
    let markdown = say(&["register", "--markdown"]).out;
    assert!(markdown.contains(r"worker (the \[work] of \| all)"), "{markdown}");
    let columns = |row: &str| row.replace(r"\|", "").matches('|').count();
    assert!(markdown.lines().all(|row| columns(row) == 12), "{markdown}");
    // Beside it, who: by run and version.
    let used = say(&["who-uses", "alices"]);
    assert!(
        used.err.starts_with(
            "alices is of the tier user alice; requests get version 2, 0 days old, due "
        ),
        "{}",
        used.err
    );
    let users: serde_json::Value =
        serde_json::from_str(&say(&["who-uses", "alices", "--json"]).out).unwrap();
    let of =
        |run: &str| users.as_array().unwrap().iter().find(|u| u["run"] == run).unwrap().clone();
    assert_eq!((&of("7")["version"], &of(&run)["version"]), (&1.into(), &2.into()));
    assert_eq!(of(&run)["user"], "alice");
    // What there is not has no users; what is gone has those that it had.
    let wrong = |arguments: &[&str]| {
        home.locum(&[&["credential", "who-uses"], arguments].concat()).failed(1).err
    };
    assert!(wrong(&["alice"]).contains("no credential 'alice'"), "{}", wrong(&["alice"]));
    assert!(wrong(&["alices", "--version", "9"]).contains("alices has no version 9"));
    assert_eq!(say(&["who-uses", "alices", "--version", "2", "--since", "1s", "--json"]).code, 0);
    say(&["remove", "alices"]);
    assert!(say(&["who-uses", "alices"]).out.contains("worker"));
    world.never_leaks(&[("register", markdown.as_bytes()), ("table", table.as_bytes())]);
    home.never_leaks(&[&alices, &newer], &[]);
}

#[test]
fn a_key_that_its_provider_does_not_take_any_more_is_noticed() {
    let home = Home::new();
    home.set("credentials.health: 1s");
    let origin = Origin::start("api.openai.com");
    home.reach(&origin);
    let (good, bad) = (canary(), canary());
    origin.accept(&good);
    home.locum_with(&["credential", "add", "openai", "--provider", "openai"], good.as_bytes()).ok();
    home.add("own", BEARER, &canary());
    // By hand, without a proxy and with one.
    let verify =
        |version: &[&str]| home.locum(&[&["credential", "verify", "openai"], version].concat());
    assert!(verify(&[]).ok().out.contains("is good"));
    home.locum(&["credential", "verify", "own"]).failed(64);
    assert_eq!(origin.last().header("authorization").unwrap(), format!("Bearer {good}"));
    let serve = home.serve();
    assert!(verify(&[]).ok().out.contains("is good"));
    let healthy = |verdict: u8| {
        let line = format!("locum_credential_healthy{{credential=\"openai\"}} {verdict}");
        eventually(&line, PATIENCE, || serve.metrics().contains(&line).then_some(()));
    };
    healthy(1);
    // A staged version that is no good is found out before anybody gets it.
    home.locum_with(&["credential", "rotate", "openai", "--stage"], bad.as_bytes()).ok();
    assert!(verify(&[]).failed(1).err.contains("does not take it"));
    assert!(verify(&["--version", "1"]).ok().out.contains("is good"));
    home.locum(&["credential", "promote", "openai"]).ok();
    healthy(0);
    let events = |event: &str| {
        let records = home.audit_now();
        records.iter().filter(|r| r["event"] == event && r["subject"] == "openai").count()
    };
    eventually("it is told", PATIENCE, || (events("credential-unhealthy") == 1).then_some(()));
    assert!(home.locum(&["credential", "list"]).ok().out.contains("bad"));
    let list = home.locum(&["credential", "list", "--json"]).ok().out;
    assert!(
        list.contains("\"verdict\":\"bad\"") || list.contains("\"verdict\": \"bad\""),
        "{list}"
    );
    home.rotate("openai", &good);
    healthy(1);
    eventually("it is told", PATIENCE, || (events("credential-healthy") == 1).then_some(()));
    let calls = home.audit_now();
    assert!(calls.iter().filter(|r| r["rule"] == "health" && r["kind"] == "access").count() > 2);
    assert!(calls.iter().any(|r| r["event"] == "credential-version-tried"));
    home.never_leaks(&[&good, &bad], &[("log", serve.log().as_bytes())]);
}

#[test]
fn a_provider_that_does_not_answer_keeps_no_check_of_others_waiting() {
    let home = Home::new();
    home.set("credentials.health: 1s");
    let mute = Origin::scripted("api.anthropic.com", vec![Script::Read, Script::Wait]);
    let origin = Origin::start("api.openai.com");
    home.reach(&mute);
    home.reach(&origin);
    let good = canary();
    origin.accept(&good);
    // More than are waited for one after the other within a test's patience.
    for n in 0..3 {
        home.add(&format!("a-mute-{n}"), &["--provider", "anthropic"], &canary());
    }
    home.add("openai", &["--provider", "openai"], &good);
    let serve = home.serve();
    // All three are under way, and none is answered.
    eventually("they are asked about", PATIENCE, || (mute.raw().len() >= 3).then_some(()));
    let calls = || origin.seen_at("/v1/models").len();
    let before = calls();
    eventually("others are", PATIENCE, || (calls() >= before + 3).then_some(()));
    drop(serve);
}
