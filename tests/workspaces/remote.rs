//! The commands by a proxy that runs: an administrator's token, and none of the home's files.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::support::*;
use crate::two::*;

/// Somebody with a token, on a machine that has no home.
struct Person<'h> {
    home: &'h Home,
    url: String,
    token: String,
    nowhere: PathBuf,
    more: Vec<(&'static str, String)>,
}

impl<'h> Person<'h> {
    #[track_caller]
    fn of(home: &'h Home, workspace: &str, name: &str, role: &str) -> Self {
        let added = ["--workspace", workspace, "admin", "add", name, "--role", role, "--json"];
        let ran = run(&mut home.command(&added), b"").ok();
        let json: Value = serde_json::from_str(&ran.out).unwrap();
        let nowhere = home.work().join(format!("nowhere-{name}"));
        std::fs::create_dir_all(&nowhere).unwrap();
        Self {
            home,
            url: format!("unix:{}", home.path().join("admin.sock").display()),
            token: json["token"].as_str().unwrap().to_owned(),
            nowhere,
            more: Vec::new(),
        }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_locum"));
        self.home.clean(&mut command);
        command.args(arguments).current_dir(&self.nowhere).env("HOME", &self.nowhere);
        command.env("LOCUM_ADMIN_URL", &self.url).env("LOCUM_ADMIN_TOKEN", &self.token);
        command.envs(self.more.iter().map(|(name, value)| (name, value)));
        command
    }

    #[track_caller]
    fn with(&self, arguments: &[&str], input: &str) -> Ran {
        let ran = run(&mut self.command(arguments), input.as_bytes());
        self.home.said(&ran);
        assert!(!ran.out.contains(&self.token) && !ran.err.contains(&self.token), "{arguments:?}");
        ran
    }

    #[track_caller]
    fn does(&self, arguments: &[&str]) -> String {
        self.with(arguments, "").ok().out
    }

    #[track_caller]
    fn sees(&self, arguments: &[&str]) -> Value {
        serde_json::from_str(&self.does(&[arguments, &["--json"]].concat())).unwrap()
    }
}

/// What is seen beside the files, and over the socket, is the same: as JSON and as tables.
#[track_caller]
fn seen_alike(person: &Person<'_>, workspace: &str, commands: &[&[&str]]) {
    for command in commands {
        let here = [&["--workspace", workspace], *command].concat();
        for form in [&["--json"][..], &[]] {
            let there = person.does(&[command, form].concat());
            let here = person.home.locum(&[&here, form].concat()).ok().out;
            assert_eq!(there, here, "{command:?} {form:?}");
        }
    }
}

/// All that was done, each in bea's name and workspace.
#[track_caller]
fn all_is_on_record(home: &Home) {
    let by_her =
        |event: &Value| event["by"].as_str().is_some_and(|by| by.starts_with("owner bea (token "));
    for event in [
        "agent-added",
        "agent-labelled",
        "credential-added",
        "credential-rotated",
        "credential-version-staged",
        "credential-version-promoted",
        "credential-changed",
        "set-extended",
        "set-reduced",
        "value-set",
        "policy-put",
        "administrator-added",
        "credential-revoked",
        "credential-removed",
        "set-removed",
        "value-removed",
        "policy-removed",
        "administrator-revoked",
        "token-revoked",
        "agent-revoked",
    ] {
        let records = home.audit_now();
        let found =
            records.iter().any(|r| r["event"] == event && by_her(r) && r["workspace"] == "b");
        assert!(found, "no {event} of bea");
    }
}

#[test]
fn an_owner_runs_the_commands_without_the_homes_files() {
    let two = Two::new();
    let bea = Person::of(&two.home, "b", "bea", "owner");
    // Agents, their labels, their tokens.
    let made = bea.sees(&["agent", "add", "made", "--label", "team=ml", "--expires", "2h"]);
    let text = |key: &str| made[key].as_str().unwrap().to_owned();
    let agent = Agent { name: "made".into(), token_id: text("token_id"), token: text("token") };
    assert_eq!(two.get(&agent, "/made").status, 200);
    assert_eq!(
        bea.does(&["agent", "label", "made", "env=prod", "--remove", "team"]),
        "made: env=prod\n"
    );
    bea.does(&["agent", "add", "known", "--no-token"]);
    // Credentials: the secret comes by standard input, as ever.
    let [key, newer, newest] = [canary(), canary(), canary()];
    for key in [&key, &newer, &newest] {
        two.origin.accept(key);
    }
    let add =
        [&["credential", "add", "extra"], BEARER, &["--tag", "of-bea", "--rotate-every", "30d"]];
    let said = bea.with(&add.concat(), &key).ok().out;
    assert!(said.starts_with("added extra; agents use locum_extra\n"), "{said}");
    let ask = |target: &str| {
        let fields = ["Authorization: Bearer locum_extra"];
        let answer = two.serve.tunnel(&agent, HOST).ask(request("GET", target, &fields, ""));
        (answer.status, two.origin.last().header("authorization").map(str::to_owned))
    };
    assert_eq!(ask("/extra"), (200, Some(format!("Bearer {key}"))));
    bea.with(&["credential", "rotate", "extra", "--grace", "0"], &newer).ok();
    assert_eq!(ask("/rotated"), (200, Some(format!("Bearer {newer}"))));
    let said = bea.with(&["credential", "rotate", "extra", "--stage"], &newest).ok().out;
    assert!(said.starts_with("staged version 3 of extra"), "{said}");
    assert_eq!(ask("/staged"), (200, Some(format!("Bearer {newer}"))));
    bea.does(&["credential", "promote", "extra", "--grace", "15m"]);
    assert_eq!(ask("/promoted"), (200, Some(format!("Bearer {newest}"))));
    bea.does(&["credential", "schedule", "extra", "--sensitivity", "high"]);
    // Sets and values.
    assert_eq!(bea.does(&["set", "add", "both", "main", "extra"]), "both has extra, main\n");
    bea.does(&["set", "remove", "both", "extra"]);
    assert_eq!(bea.does(&["value", "set", "region", "eu-west-1"]), "region is eu-west-1\n");
    bea.does(&["value", "set", "key", "--credential", "extra", "--environment", "prod"]);
    // A run's token fixes the environment whose values it gets, and names her as its user.
    let run = |more: &[&str]| {
        let made = bea.sees(&[&["run-token", "--agent", "made"], more].concat());
        assert_eq!(made["user"], "bea");
        Agent { token: made["token"].as_str().unwrap().to_owned(), ..agent.clone() }
    };
    let of_value = |agent: &Agent| {
        let fields = ["Authorization: Bearer locum_key"];
        two.serve.tunnel(agent, HOST).ask(request("GET", "/value", &fields, "")).status
    };
    eventually("the value is in force", PATIENCE, || {
        (of_value(&run(&["--environment", "prod"])) == 200).then_some(())
    });
    assert_eq!(of_value(&run(&[])), 403, "it is nothing elsewhere");
    let ran = bea.with(&["run-token", "--agent", "made", "--environment", "prdo"], "").failed(1);
    assert!(ran.err.contains("environment 'prdo'"), "{}", ran.err);
    // Policies.
    let file = bea.nowhere.join("team.yaml");
    std::fs::write(&file, "version: 1\nrules: [{name: t, agents: ['*'], use: [both]}]\n").unwrap();
    assert_eq!(bea.does(&["policy", "put", "team.yaml"]), "team.yaml is in force\n");
    // Administrators.
    bea.does(&["admin", "add", "vic", "--role", "viewer", "--expires", "1d"]);
    let commands: [&[&str]; 11] = [
        &["agent", "list"],
        &["credential", "list"],
        &["credential", "list", "--unused-for", "1d"],
        &["credential", "show", "extra"],
        &["credential", "register"],
        &["set", "list"],
        &["value", "list"],
        &["value", "show", "key"],
        &["admin", "list"],
        &["policy", "list"],
        &["approvals", "list"],
    ];
    two.home.accesses_to("/promoted");
    seen_alike(&bea, "b", &commands);
    seen_alike(
        &bea,
        "b",
        &[&["credential", "who-uses", "extra"], &["audit", "query", "--agent", "made"]],
    );
    // And what ends them.
    let said = bea.with(&["credential", "revoke", "extra", "--now", "--json"], "").ok().out;
    let said: Value = serde_json::from_str(&said).unwrap();
    assert!(said["in_force_ms"].is_u64() && said["runs"][0]["agent"] == "made", "{said}");
    assert_eq!(ask("/revoked").0, 403);
    for command in [
        &["credential", "remove", "extra"][..],
        &["set", "remove", "both"],
        &["value", "remove", "region"],
        &["policy", "remove", "team.yaml"],
        &["admin", "revoke", "vic"],
        &["agent", "revoke", "made", "--token", &agent.token_id],
        &["agent", "revoke", "known"],
    ] {
        bea.does(command);
    }
    assert_eq!(two.knocks("made", &agent.token), 407);
    assert_eq!(bea.sees(&["credential", "list"]).as_array().unwrap().len(), 1);
    all_is_on_record(&two.home);
    let seen = bea.does(&["audit", "query", "--json"]);
    two.home.never_leaks(
        &[&key, &newer, &newest, &two.key_a, &two.key_b],
        &[("seen", seen.as_bytes())],
    );
}

#[test]
fn a_role_reaches_as_far_over_the_socket_and_mistakes_are_told_as_beside_the_files() {
    let two = Two::new();
    let vic = Person::of(&two.home, "b", "vic", "viewer");
    let bea = Person::of(&two.home, "b", "bea", "owner");
    // A viewer sees, without placeholders, and changes nothing.
    assert!(vic.sees(&["credential", "show", "main"]).get("placeholder").is_none());
    for command in [
        &["agent", "add", "more"][..],
        &["set", "add", "s", "main"],
        &["value", "set", "v", "t"],
        &["run-token", "--agent", "worker"],
        &["admin", "list"],
        &["credential", "remove", "main"],
    ] {
        let ran = vic.with(command, "").failed(1);
        assert!(ran.err.contains("this takes the role"), "{command:?}: {}", ran.err);
    }
    // What is wrong is told with what to do, and by the same exit code.
    for (command, code, words) in [
        (
            &["value", "set", "v", "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"][..],
            64,
            "looks like a secret",
        ),
        (&["value", "set", "v", "--credential", "nix"], 64, "there is no credential `nix`"),
        (&["credential", "show", "nix"], 1, "nix"),
        (&["agent", "revoke", "worker", "--token", "nix"], 1, "worker has no token nix"),
        (&["credential", "promote", "main"], 1, "main"),
        (&["policy", "remove", "nix.yaml"], 1, "there is nothing of this kind"),
        (&["policy", "remove", "../first.yaml"], 64, "NAME.yaml"),
        (&["approvals", "approve", "nix"], 1, "waits for an approval"),
        // What needs the machine says so.
        (&["credential", "verify", "main"], 64, "beside the home's files"),
        (
            &[
                "credential",
                "add",
                "k",
                "--source",
                "file:/etc/hostname",
                "--to",
                "https://api.test",
                "--header",
                "X: {secret}",
            ],
            64,
            "the proxy's own machine",
        ),
        (&["audit", "verify"], 64, "beside the home's files"),
        (&["agent", "certificate", "nobody"], 1, "there is no agent nobody"),
        (&["agent", "certificates", "nobody"], 1, "nobody"),
        (&["--workspace", "default", "agent", "list"], 64, "of the workspace b"),
        (&["--home", ".", "--admin-url", "unix:/x", "agent", "list"], 64, "--home"),
        (&["--admin-url", "http://locum.test", "agent", "list"], 64, "https://"),
        (&["--admin-url", "unix:/nix/admin.sock", "agent", "list"], 1, "admin.listen"),
        (&["--admin-url", "unix:/x", "vault", "status"], 64, "home's files"),
    ] {
        let ran = bea.with(command, "");
        assert!(
            ran.code == code && ran.err.contains(words),
            "{command:?}: {} {}",
            ran.code,
            ran.err
        );
    }
    std::fs::write(bea.nowhere.join("bad.yaml"), "version: 1\nrules: [{nmae: x}]\n").unwrap();
    let ran = bea.with(&["policy", "put", "bad.yaml"], "").failed(64);
    assert!(ran.err.contains("bad.yaml:2:") && ran.err.contains("nmae"), "{}", ran.err);
    assert!(!ran.err.contains(two.home.path().to_str().unwrap()), "{}", ran.err);
    // Explained on what is in force there; nobody's token, and none at all.
    let said = bea.does(&[
        "policy",
        "explain",
        "--agent",
        "worker",
        "GET",
        "https://api.test/x",
        "--use",
        "main",
    ]);
    assert!(
        said.starts_with("decision: allow")
            && said.contains("matches:  `all` (workspaces/b/policies"),
        "{said}"
    );
    let mut nobody = Person::of(&two.home, "b", "nobody", "owner");
    nobody.token = two.b.token.clone();
    let ran = nobody.with(&["agent", "list"], "").failed(1);
    assert!(ran.err.contains("token of an administrator"), "{}", ran.err);
    let ran = run(bea.command(&["agent", "list"]).env_remove("LOCUM_ADMIN_TOKEN"), b"").failed(64);
    assert!(ran.err.contains("LOCUM_ADMIN_TOKEN"), "{}", ran.err);
    // By a file, which is its owner's alone.
    let file = bea.nowhere.join("token");
    std::fs::write(&file, format!("{}\n", bea.token)).unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
    let by_file = ["--admin-token-file", file.to_str().unwrap(), "agent", "list"];
    let mut command = bea.command(&by_file);
    assert_ne!(run(command.env_remove("LOCUM_ADMIN_TOKEN"), b"").code, 0);
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    run(bea.command(&by_file).env_remove("LOCUM_ADMIN_TOKEN"), b"").ok();
    // Who names a home means its files.
    let home = two.home.path();
    let here =
        bea.does(&["--home", home.to_str().unwrap(), "--workspace", "default", "agent", "list"]);
    assert!(here.contains("worker"), "{here}");
}

#[test]
fn approvals_are_listed_and_given_from_afar() {
    let held = "version: 1\nrules:\n  - {name: held, agents: ['*'], use: ['*'], approval: {answer: refuse, valid: 10m}}\n";
    let two = Two::with(held, |_| {});
    let max = Person::of(&two.home, "b", "max", "member");
    assert_eq!(two.get(&two.b, "/wanted").status, 403);
    let open = max.sees(&["approvals", "list"]);
    let id = open[0]["id"].as_str().unwrap();
    assert!(max.does(&["approvals", "show", &id[..8]]).contains("/wanted"));
    assert_eq!(max.does(&["approvals", "approve", &id[..8]]), format!("approved {id}\n"));
    assert_eq!(two.get(&two.b, "/wanted").status, 200);
    assert_eq!(max.sees(&["approvals", "list"]), serde_json::json!([]));
}

#[test]
fn over_a_network_the_proxy_shows_who_it_is() {
    let home = Home::new();
    let files = |name: &str| {
        let files = home.work().join(name);
        std::fs::create_dir(&files).unwrap();
        identity_files("localhost", &files);
        let key = files.join("key.pem");
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).unwrap();
        files
    };
    let (own, other) = (files("identity"), files("other"));
    let path = |name: &str| own.join(name).display().to_string();
    home.set("admin.listen: 127.0.0.1:0");
    home.set(&format!(
        "admin.tls: {{certificate: '{}', key: '{}'}}",
        path("cert.pem"),
        path("key.pem")
    ));
    let mut ada = Person::of(&home, "default", "ada", "viewer");
    let _serve = home.serve();
    let announced = std::fs::read(home.path().join("serve.json")).unwrap();
    let announced: Value = serde_json::from_slice(&announced).unwrap();
    let port: std::net::SocketAddr = announced["admin"].as_str().unwrap().parse().unwrap();
    ada.url = format!("https://localhost:{}", port.port());
    let by = |ca: &Path| run(ada.command(&["agent", "list"]).env("LOCUM_ADMIN_CA", ca), b"");
    assert!(by(&own.join("ca.pem")).ok().out.starts_with("AGENT"));
    // Somebody else's certificate gets no token.
    let ran = by(&other.join("ca.pem")).failed(1);
    assert!(ran.err.contains("certificate"), "{}", ran.err);
    assert_ne!(
        run(&mut ada.command(&["agent", "list"]), b"").code,
        0,
        "the system does not know it"
    );
}

#[test]
fn the_log_is_exported_and_learned_from_without_the_homes_files() {
    let two = Two::new();
    let vic = Person::of(&two.home, "b", "vic", "viewer");
    let mut wire = two.serve.tunnel(&two.b, HOST);
    for at in 0..20 {
        let target = format!("/v1/of-b/{at}");
        assert_eq!(wire.ask(request("GET", &target, &[AUTHORIZED], "")).status, 200);
    }
    drop(wire);
    assert_eq!(two.get(&two.a, "/v1/of-a").status, 200);
    two.home.accesses_to("/v1/of-a");
    let until = "2100-01-01";
    let here = eventually("all of them have ended", PATIENCE, || {
        let here = two.home.locum(&in_b(&["audit", "export", "--until", until])).ok().out;
        let whole = here.matches(r#""kind":"outcome""#).count() == 20;
        (whole && here.contains("administrator-added")).then_some(here)
    });
    assert!(here.contains("/v1/of-b") && !here.contains("/v1/of-a"), "{here}");
    assert_eq!(vic.does(&["audit", "export", "--until", until]), here);
    // Into a file, whole or not at all, and none that is there.
    let said = vic.does(&["audit", "export", "--until", until, "--output", "b.jsonl"]);
    assert_eq!(said, format!("wrote {} records to b.jsonl\n", here.lines().count()));
    let file = vic.nowhere.join("b.jsonl");
    assert!(std::fs::read_to_string(&file).unwrap() == here);
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    vic.with(&["audit", "export", "--output", "b.jsonl"], "").failed(1);
    // Rules, of what its own agents did.
    seen_alike(&vic, "b", &[&["policy", "learn"], &["policy", "learn", "--agent", "worker"]]);
    let learned = vic.sees(&["policy", "learn", "--since", "1h"]);
    assert_eq!(learned["requests"], 20);
    let policy = learned["policy"].as_str().unwrap();
    assert!(policy.contains("use: [main]") && !policy.contains("of-a"), "{policy}");
    assert_eq!(vic.sees(&["policy", "learn", "--agent", "nobody"])["requests"], 0);
}

#[test]
fn an_owner_has_certificates_issued_for_keys_that_nobody_else_has() {
    let two = Two::new();
    let (bea, vic) =
        (Person::of(&two.home, "b", "bea", "owner"), Person::of(&two.home, "b", "vic", "viewer"));
    let ran = vic.with(&["agent", "certificate", "worker"], "").failed(1);
    assert!(ran.err.contains("this takes the role owner"), "{}", ran.err);
    assert!(!vic.nowhere.join("worker.key").exists());
    let issued = bea.sees(&["agent", "certificate", "worker", "--ttl", "1h"]);
    assert_eq!(issued["id"], "spiffe://locum/workspace/b/agent/worker");
    let serial = issued["serial"].as_str().unwrap().to_owned();
    let read = |name: &str| std::fs::read_to_string(bea.nowhere.join(name)).unwrap();
    let (key, certificate) = (read("worker.key"), read("worker.pem"));
    assert!(key.starts_with("-----BEGIN PRIVATE KEY-----"), "{key}");
    // The pair belongs together, and comes from the home's CA.
    let own = openssl(&["pkey", "-pubout"], &key);
    assert_eq!(openssl(&["x509", "-noout", "-pubkey"], &certificate), own);
    let ca = two.home.path().join("agents-ca.pem");
    let ca = ["verify", "-CAfile", ca.to_str().unwrap()];
    assert!(openssl(&ca, &certificate).contains(": OK"));
    // What is listed, by both ways, and what ends it.
    seen_alike(&vic, "b", &[&["agent", "certificates", "worker"]]);
    let listed = vic.sees(&["agent", "certificates", "worker"]);
    assert_eq!(
        (&listed[0]["serial"], &listed[0]["revoked"]),
        (&serial.as_str().into(), &Value::Null)
    );
    bea.does(&["agent", "revoke", "worker", "--certificate", &serial]);
    let listed = vic.sees(&["agent", "certificates", "worker"]);
    assert!(listed[0]["revoked"].is_i64() && listed[1].is_null(), "{listed}");
    assert_eq!(
        json(&two.home, &["agent", "certificates", "worker", "--json"]),
        serde_json::json!([])
    );
    // What is no request, and what is too long.
    std::fs::write(bea.nowhere.join("bad.csr"), &certificate).unwrap();
    let ran = bea.with(&["agent", "certificate", "worker", "--csr", "bad.csr"], "");
    assert!(ran.code == 64 && ran.err.contains("request"), "{} {}", ran.code, ran.err);
    let records = two.home.audit_now();
    let event = records.iter().find(|r| r["event"] == "certificate-issued").unwrap();
    assert_eq!(
        (&event["workspace"], &event["subject"]),
        (&"b".into(), &format!("worker serial:{serial}").into())
    );
    assert!(event["by"].as_str().unwrap().starts_with("owner bea (token "), "{event}");
    // Where it was made, the key is, and nowhere else.
    std::fs::remove_file(bea.nowhere.join("worker.key")).unwrap();
    let middle = key.lines().nth(1).unwrap();
    two.home.never_leaks(&[middle], &[]);
}

/// What openssl makes of a text.
#[track_caller]
fn openssl(words: &[&str], input: &str) -> String {
    let mut command = Command::new("openssl");
    run(command.args(words), input.as_bytes()).ok().out
}

#[test]
fn an_owner_adds_what_has_a_kind_a_source_or_no_value_yet() {
    let two = Two::new();
    let bea = Person::of(&two.home, "b", "bea", "owner");
    let [password, seed, key, login] =
        [canary(), "JBSWY3DPEHPK3PXP".to_owned(), canary(), canary()];
    let adds = |name: &str, more: &[&str], input: &str| {
        let words = [&["credential", "add", name, "--to", "https://api.test"], more].concat();
        let said = bea.with(&words, input).ok().out;
        assert!(said.starts_with(&format!("added {name}; ")), "{said}");
        said
    };
    adds("login", &["--kind", "basic"], &format!("worker:{password}"));
    adds("otp", &["--kind", "totp", "--header", "X-Otp: {secret}"], &seed);
    let signed =
        ["--kind", "hmac", "--sign", "{method}{target}", "--signed-header", "X-Sig: {signature}"];
    adds("signed", &signed, &key);
    let aws = adds("aws", &["--kind", "aws"], &format!("AKIAIOSFODNN7EXAMPLE:{login}"));
    assert!(aws.contains("AKIAlocum_aws_"), "{aws}");
    let ask = |field: &str| {
        let answer = two.serve.tunnel(&two.b, HOST).ask(request("GET", "/v1/x", &[field], ""));
        (answer.status, two.origin.last())
    };
    // The key goes nowhere: the origin gets what is made of it.
    let (_, sent) = ask(&format!("Authorization: {}", basic("locum_login", "locum_login")));
    assert_eq!(sent.header("authorization"), Some(&*basic("worker", &password)));
    let (_, sent) = ask("X-Otp: locum_otp");
    let otp = sent.header("x-otp").unwrap();
    assert!(otp.len() == 6 && otp.bytes().all(|b| b.is_ascii_digit()), "{otp}");
    let (_, sent) = ask("X-Sig: locum_signed");
    let signature = sent.header("x-sig").unwrap();
    assert!(
        signature.len() == 64 && signature.bytes().all(|b| b.is_ascii_hexdigit()),
        "{signature}"
    );
    // What another vault has, with a login that the workspace brings; and what has no value yet.
    let vault = [
        "--source",
        "vault:kv/data/x#key",
        "--source-url",
        "https://vault.test",
        "--header",
        "X-Far: {secret}",
    ];
    adds("far", &vault, &login);
    adds("session", &["--captured", "--header", "X-Session: {secret}"], "");
    let cloud = adds(
        "cloud",
        &["--for-sources", "--kind", "aws"],
        &format!("AKIAIOSFODNN7EXAMPLE:{login}x"),
    );
    assert!(cloud.contains("sources log in with credential:cloud"), "{cloud}");
    let shown = |name: &str| bea.sees(&["credential", "show", name]);
    assert_eq!(shown("far")["source"]["place"]["vault"]["path"], "kv/data/x");
    assert_eq!(
        (&shown("session")["captured"], &shown("session")["version"]),
        (&true.into(), &Value::Null)
    );
    assert_eq!(shown("cloud")["for_sources"], true);
    assert_eq!(shown("signed")["kind"]["hmac"]["message"], "{method}{target}");
    seen_alike(
        &bea,
        "b",
        &[
            &["credential", "show", "login"],
            &["credential", "show", "aws"],
            &["credential", "list"],
        ],
    );
    // Rotated as ever, and of its kind.
    bea.with(&["credential", "rotate", "login", "--grace", "0"], "worker:another-password").ok();
    let (_, sent) = ask(&format!("Authorization: {}", basic("locum_login", "locum_login")));
    assert_eq!(sent.header("authorization"), Some(&*basic("worker", "another-password")));
    let metrics = two.serve.metrics();
    two.home.never_leaks(&[&password, &key, &login], &[("metrics", metrics.as_bytes())]);
}
