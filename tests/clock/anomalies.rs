//! What an agent does that it usually does not: told of once, over any end of the process, and refused
//! where a rule says so.

use serde_json::Value;

use crate::support::*;

/// The usual scene, and a second host, with an hour of learning.
struct Watched {
    world: World,
    other: Origin,
    clock: Clock,
}

impl Watched {
    fn new(policy: Option<&str>) -> Self {
        let other = Origin::start("other.test");
        let world = World::with(BEARER, canary(), |home, _| {
            home.reach(&other);
            home.add(
                "second",
                &[
                    "--to",
                    "https://other.test",
                    "--to",
                    "https://api.test",
                    "--header",
                    "Authorization: Bearer {secret}",
                ],
                &canary(),
            );
            if let Some(policy) = policy {
                home.policy(policy);
            }
            home.set("anomalies.learn: 1h");
        });
        let clock = Clock::new(&world.home);
        let mut watched = Self { world, other, clock };
        watched.stop();
        watched.start();
        watched
    }

    fn stop(&mut self) {
        self.world.serve.terminate();
        assert!(self.world.serve.ended(PATIENCE).success(), "{}", self.world.serve.log());
    }

    fn start(&mut self) {
        self.world.serve = self.clock.serve(&self.world.home);
    }

    /// What is known of the agent with the second credential.
    fn shown(&self) -> Value {
        let shown = self.clock.locum(&self.world.home, &["anomalies", "show", "worker", "--json"]);
        let shown: Value = serde_json::from_str(&shown.ok().out).unwrap();
        let mut all = shown.as_array().unwrap().iter();
        all.find(|one| one["credential"] == "second").unwrap().clone()
    }

    fn use_second(&self, host: &str) -> Answer {
        let mut wire = self.world.serve.tunnel(&self.world.agent, host);
        wire.ask(format!(
            "GET /v1/x HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer locum_second\r\n\r\n"
        ))
    }

    /// What was told so far: kind, credential and what was seen.
    fn told(&self) -> Vec<[String; 3]> {
        let listed = self.clock.locum(&self.world.home, &["anomalies", "list", "--json"]).ok();
        let all: Value = serde_json::from_str(&listed.out).unwrap();
        let text = |one: &Value, key: &str| one[key].as_str().unwrap_or("-").to_owned();
        let all = all.as_array().unwrap().iter();
        all.map(|one| ["kind", "credential", "seen"].map(|key| text(one, key))).collect()
    }

    fn counted(&self, kind: &str) -> u64 {
        let series = format!("locum_anomalies_total{{kind=\"{kind}\"}}");
        self.world.serve.metric(&series)
    }
}

fn texts(told: &[[&str; 3]]) -> Vec<[String; 3]> {
    told.iter().map(|one| one.map(str::to_owned)).collect()
}

#[test]
fn what_leaves_the_habits_of_an_hour_is_told_of_and_not_stopped() {
    let watched = Watched::new(None);
    let Watched { world, clock, .. } = &watched;
    assert_eq!(world.get("/v1/a").status, 200);
    assert_eq!(watched.use_second(HOST).status, 401, "the origin takes the other key alone");
    assert_eq!(watched.told(), texts(&[]), "it is learned");
    clock.set("+2h");
    assert_eq!(world.get("/v1/b").status, 200);
    assert_eq!(watched.told(), texts(&[]), "it is as usual");
    assert_eq!(watched.use_second("other.test").status, 401);
    assert_eq!(watched.told(), texts(&[["destination", "second", "https://other.test"]]));
    watched.use_second("other.test");
    assert_eq!(watched.counted("destination"), 1, "once a day");
    // The record of the request is there, and the event names it.
    let listed = world.home.locum(&["anomalies", "list", "--json"]).ok();
    let all: Value = serde_json::from_str(&listed.out).unwrap();
    let id = all[0]["request_id"].as_str().unwrap();
    let record = &world.home.records_of(id, 1)[0];
    assert_eq!(
        (&record["decision"], &record["destination"]),
        (&"permit".into(), &"https://other.test".into())
    );
    assert_eq!(all[0]["usual"], "https://api.test");
    clock.set("+12h");
    assert_eq!(world.get("/v1/c").status, 200);
    assert_eq!(watched.counted("hour"), 1);
    world.never_leaks(&[]);
}

#[test]
fn what_is_usual_survives_each_end_and_no_file_that_is_changed_makes_anything_usual() {
    let mut watched = Watched::new(None);
    assert_eq!(watched.world.get("/v1/a").status, 200);
    assert_eq!(watched.use_second(HOST).status, 401);
    // A kill, within the minute in which nothing was written: all of it is in the audit log.
    let file = watched.world.home.path().join("anomalies/baseline");
    assert!(!file.exists());
    watched.world.serve.crash();
    watched.start();
    watched.clock.set("+2h");
    watched.use_second("other.test");
    let known = texts(&[["destination", "second", "https://other.test"]]);
    assert_eq!(watched.told(), known, "nothing is learned anew");
    watched.stop();
    assert!(file.exists());
    watched.start();
    watched.use_second("other.test");
    assert_eq!(watched.told(), known, "it was told of today, and it is known");
    // Somebody takes the file away, or writes to it: it is made anew from the log.
    for (tamper, event) in [
        (
            (|file| std::fs::remove_file(file).unwrap()) as fn(&std::path::Path),
            "anomaly-baseline-begun",
        ),
        (
            |file| {
                let text = std::fs::read_to_string(file).unwrap();
                assert!(text.contains("https://api.test"));
                std::fs::write(file, text.replace("https://api.test", "https://evil.test"))
                    .unwrap();
            },
            "anomaly-baseline-rejected",
        ),
        (|file| std::fs::write(file, "").unwrap(), "anomaly-baseline-rejected"),
    ] {
        let events = |watched: &Watched| {
            let all = watched.world.home.audit();
            all.iter().filter(|record| record["event"] == event).count()
        };
        let before = events(&watched);
        watched.stop();
        tamper(&file);
        watched.start();
        assert_eq!(events(&watched), before + 1, "{event}");
        watched.use_second("other.test");
        assert_eq!(watched.told(), known, "the log says that it was told of today");
        watched.stop();
        let shown = watched.shown();
        assert_eq!(shown["destinations"], serde_json::json!(["https://api.test"]));
        assert_eq!(shown["unusual"], serde_json::json!(["https://other.test"]));
        assert_eq!(shown["learning"], false);
        watched.start();
    }
}

#[test]
fn a_rule_refuses_what_is_unusual_until_a_person_accepts_it() {
    let watched = Watched::new(Some(
        "version: 1
rules:
  - {name: strict, agents: ['*'], use: [second], anomalies: refuse}
  - {name: rest, agents: ['*'], use: [main]}
",
    ));
    let Watched { world, clock, other } = &watched;
    assert_eq!(watched.use_second(HOST).status, 401);
    clock.set("+2h");
    let refused = watched.use_second("other.test");
    assert_eq!((refused.status, &*refused.problem()), (403, "unusual-request"));
    assert_eq!(other.seen().len(), 0, "nothing reached the host");
    // As often as it is asked, on whatever day.
    for offset in ["+3h", "+23h", "+2h"] {
        clock.set(offset);
        assert_eq!(&*watched.use_second("other.test").problem(), "unusual-request", "{offset}");
    }
    let record = world.home.records_of(&refused.request_id(), 1).remove(0);
    assert_eq!((&record["code"], &record["rule"]), (&"unusual-request".into(), &"strict".into()));
    let id = refused.request_id();
    let explained = clock.locum(&world.home, &["policy", "explain", "--request", &id]).ok();
    assert!(explained.out.contains("recorded: refuse, with unusual-request"), "{}", explained.out);
    // What is usual goes on.
    assert_eq!(watched.use_second(HOST).status, 401);
    let shown =
        clock.locum(&world.home, &["anomalies", "accept", "worker", "--credential", "second"]).ok();
    assert_eq!(shown.out, "worker: what was told of it is usual from now on\n");
    assert_eq!(watched.use_second("other.test").status, 401, "the origin's own word");
    let events = world.home.audit();
    let accepted = events.iter().find(|record| record["event"] == "anomaly-accepted").unwrap();
    assert_eq!(
        (&accepted["subject"], &accepted["detail"]),
        (&"worker".into(), &"with second: accepted".into())
    );
    assert!(accepted["by"].as_str().unwrap().starts_with("tester (uid "), "{accepted}");
    // In force a moment before it is written down.
    let file = world.home.path().join("anomalies/baseline");
    eventually("the file", PATIENCE, || file.exists().then_some(()));
    let usual = &watched.shown()["destinations"];
    assert_eq!(*usual, serde_json::json!(["https://api.test", "https://other.test"]));
}

#[test]
fn a_thousand_times_the_usual_volume_is_told_of_once() {
    let watched = Watched::new(None);
    let Watched { world, clock, .. } = &watched;
    assert_eq!(world.get("/v1/a").status, 200);
    clock.set("+2h");
    let mut tunnel = world.tunnel();
    for _ in 0..120 {
        assert_eq!(tunnel.ask(request("GET", "/v1/a", &[AUTHORIZED], "")).status, 200);
    }
    assert_eq!(watched.told(), texts(&[["requests", "main", "101 in an hour"]]));
}

#[test]
fn an_owner_accepts_from_afar_what_a_viewer_can_only_see() {
    let watched = Watched::new(Some(
        "version: 1
rules:
  - {name: strict, agents: ['*'], use: [second], anomalies: refuse}
  - {name: rest, agents: ['*'], use: [main]}
",
    ));
    let Watched { world, clock, .. } = &watched;
    let asks = |role: &'static str| {
        let added = clock.locum(&world.home, &["admin", "add", role, "--role", role]).ok();
        let token = added.out.trim().to_owned();
        let socket = format!("unix:{}", world.home.path().join("admin.sock").display());
        move |words: &[&str]| {
            let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_locum"));
            world.home.clean(&mut command);
            command.args(words).env("LOCUM_ADMIN_URL", &socket).env("LOCUM_ADMIN_TOKEN", &token);
            run(clock.show_to(&mut command), b"")
        }
    };
    let (owner, viewer) = (asks("owner"), asks("viewer"));
    assert_eq!(watched.use_second(HOST).status, 401);
    clock.set("+2h");
    assert_eq!(&*watched.use_second("other.test").problem(), "unusual-request");
    let told: Value =
        serde_json::from_str(&viewer(&["anomalies", "list", "--json"]).ok().out).unwrap();
    assert_eq!(
        (&told[0]["agent"], &told[0]["credential"], &told[0]["seen"]),
        (&"worker".into(), &"second".into(), &"https://other.test".into())
    );
    for form in [&["--json"][..], &[]] {
        let words = [&["anomalies", "list"], form].concat();
        assert_eq!(viewer(&words).ok().out, clock.locum(&world.home, &words).ok().out);
    }
    let accept = ["anomalies", "accept", "worker", "--credential", "second"];
    let refused = viewer(&accept).failed(1);
    assert!(refused.err.contains("this takes the role owner"), "{}", refused.err);
    assert_eq!(&*watched.use_second("other.test").problem(), "unusual-request");
    let accepted = owner(&accept).ok();
    assert_eq!(accepted.out, "worker: what was told of it is usual from now on\n");
    assert_eq!(watched.use_second("other.test").status, 401, "the origin's own word");
    let events = world.home.audit();
    let event = events.iter().find(|record| record["event"] == "anomaly-accepted").unwrap();
    assert!(event["by"].as_str().unwrap().starts_with("owner owner (token "), "{event}");
    assert_eq!((&event["workspace"], &event["subject"]), (&"default".into(), &"worker".into()));
    // What is usual, by both ways alike, as soon as it is written down.
    let words = ["anomalies", "show", "worker", "--json"];
    let shown = eventually("it is written", PATIENCE, || {
        let shown = viewer(&words);
        (shown.code == 0 && shown.out.contains("other.test")).then_some(shown)
    });
    assert_eq!(shown.out, clock.locum(&world.home, &words).ok().out);
    let nobody = viewer(&["anomalies", "show", "nobody"]).failed(1);
    assert!(nobody.err.contains("nothing is known of the agent nobody yet"), "{}", nobody.err);
}
