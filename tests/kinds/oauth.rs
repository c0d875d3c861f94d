//! Access tokens, minted at `oauth2-mock-server` and taken by an API that knows which of them are
//! good.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::support::*;

/// Fixed, so that a failure is ours. The last that runs on Node 20.
const NODE: &[&str] = &["oauth2-mock-server@8.2.2"];

/// Both servers, in a process of their own.
struct Servers {
    child: Child,
    pipes: Mutex<(ChildStdin, BufReader<ChildStdout>)>,
}

impl Servers {
    fn start(home: &Home) -> Self {
        let modules = Tools::node_as("node-oauth", NODE).path.join("package.json");
        let identities = home.work().join("identities");
        for (name, host) in [("as", "as.test"), ("api", "api.test")] {
            let directory = identities.join(name);
            std::fs::create_dir_all(&directory).unwrap();
            identity_files(host, &directory);
        }
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/kinds/oauth.mjs");
        let mut node = Command::new("node");
        node.arg(script).env("MODULES", modules).env("IDENTITIES", &identities);
        let mut child = node.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let stdin = child.stdin.take().unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        stdout.read_line(&mut line).unwrap();
        let ports: Value = serde_json::from_str(&line).expect("the servers have started");
        for (name, host) in [("as", "as.test"), ("api", "api.test")] {
            let port = u16::try_from(ports[name].as_u64().unwrap()).unwrap();
            let ca = identities.join(name).join("ca.pem");
            home.reach_as(host, ([127, 0, 0, 1], port).into(), Some(ca));
        }
        Self { child, pipes: Mutex::new((stdin, stdout)) }
    }

    /// Sets something, and says what has been seen so far.
    fn tell(&self, command: &Value) -> Value {
        let mut pipes = self.pipes.lock();
        writeln!(pipes.0, "{command}").unwrap();
        let mut line = String::new();
        pipes.1.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap()
    }

    fn set(&self, settings: &Value) {
        self.tell(&json!({"set": settings}));
    }

    fn seen(&self) -> Value {
        self.tell(&json!({}))
    }

    fn exchanges(&self) -> u64 {
        self.seen()["token"].as_u64().unwrap()
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

const ENDPOINT: &str = "https://as.test/token";
const REFRESH: &[&str] = &[
    "--kind",
    "oauth-refresh",
    "--token-endpoint",
    ENDPOINT,
    "--client-id",
    "us",
    "--to",
    "https://api.test",
];

struct World {
    serve: Option<Serve>,
    servers: Servers,
    agent: Agent,
    secret: String,
    home: Home,
}

impl World {
    fn new() -> Self {
        Self::with(REFRESH, canary(), |_, _| {})
    }

    fn with(credential: &[&str], secret: String, prepare: impl FnOnce(&Home, &Servers)) -> Self {
        let home = Home::new();
        let servers = Servers::start(&home);
        home.add("main", credential, &secret);
        let agent = home.agent("worker");
        prepare(&home, &servers);
        let serve = Some(home.serve());
        Self { serve, servers, agent, secret, home }
    }

    fn serve(&self) -> &Serve {
        self.serve.as_ref().unwrap()
    }

    fn get(&self, target: &str) -> Answer {
        self.serve().tunnel(&self.agent, "api.test").ask(get(target))
    }

    /// Nothing that is left anywhere holds the secret or any token there ever was.
    #[track_caller]
    fn never_leaks(&self, heard: &[u8]) {
        let seen = self.servers.seen();
        let mut secrets = vec![self.secret.as_str()];
        let lists = ["issued", "refreshed"].into_iter().flat_map(|k| seen[k].as_array().unwrap());
        secrets.extend(lists.map(|token| token.as_str().unwrap()));
        let metrics = self.serve.as_ref().map(Serve::metrics).unwrap_or_default();
        self.home.never_leaks(&secrets, &[("answers", heard), ("metrics", metrics.as_bytes())]);
    }
}

/// A refusal with this code, whose every text is Locum's own.
#[track_caller]
fn refused(answer: &Answer, status: u16, code: &str) {
    let text = answer.text();
    assert_eq!(answer.status, status, "{text}");
    let problem: Value = serde_json::from_str(&text).unwrap();
    assert!(problem["type"].as_str().unwrap().ends_with(code), "{text}");
    assert!(!text.contains("as.test"), "the agent need not know where tokens come from: {text}");
}

fn get(target: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: api.test\r\nAuthorization: Bearer locum_main\r\n\r\n")
}

#[test]
fn two_hundred_first_uses_make_one_exchange() {
    let world = World::new();
    world.servers.set(&json!({"delay": 300}));
    let start = std::sync::Barrier::new(200);
    let heard = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..200 {
            scope.spawn(|| {
                let mut wire = world.serve().tunnel(&world.agent, "api.test");
                start.wait();
                let answer = wire.ask(get("/"));
                assert_eq!(answer.status, 200, "{}", answer.text());
                heard.lock().extend_from_slice(answer.text().as_bytes());
            });
        }
    });
    let seen = world.servers.seen();
    assert_eq!(seen["token"], 1);
    assert_eq!(seen["api"], 200);
    let body = &seen["requests"][0]["body"];
    assert_eq!(body["grant_type"], "refresh_token");
    assert_eq!(body["refresh_token"], world.secret.as_str());
    assert_eq!(body["client_id"], "us");
    // The API sent the token back in each answer.
    let heard = heard.into_inner();
    let text = String::from_utf8_lossy(&heard);
    assert!(text.contains(r#""token":"locum_main""#), "{}", &text[..600]);
    world.never_leaks(&heard);
    // The errand stands in the log as Locum's own, before the requests that waited for it.
    let audit = world.home.audit();
    let errands: Vec<_> =
        audit.iter().filter(|r| r["kind"] == "access" && r["rule"] == "token").collect();
    assert_eq!(errands.len(), 1);
    assert_eq!(errands[0]["destination"], "https://as.test");
    assert_eq!(errands[0]["credential"], "main");
    assert!(errands[0]["agent"].is_null());
    let id = errands[0]["request_id"].as_str().unwrap();
    assert_eq!(world.home.records_of(id, 2)[1]["status"], 200);
    assert_eq!(world.serve().metric(r#"locum_minted_total{credential="main",result="made"}"#), 1);
}

#[test]
fn tokens_that_live_two_seconds_fail_no_call() {
    let world = World::new();
    world.servers.set(&json!({"life": 2, "rotate": true, "delay": 50}));
    let (calls, over) = (AtomicUsize::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let mut wire = world.serve().tunnel(&world.agent, "api.test");
                while !over.load(Ordering::Relaxed) {
                    let answer = wire.ask(get("/"));
                    if answer.status != 200 {
                        over.store(true, Ordering::Relaxed);
                    }
                    assert_eq!(answer.status, 200, "{}", answer.text());
                    calls.fetch_add(1, Ordering::Relaxed);
                    wire.transcript.clear();
                }
            });
        }
        let start = Instant::now();
        eventually("five exchanges", PATIENCE, || {
            (world.servers.exchanges() >= 5 || over.load(Ordering::Relaxed)).then_some(())
        });
        assert!(start.elapsed() > Duration::from_secs(4), "a token is used for most of its life");
        over.store(true, Ordering::Relaxed);
    });
    let seen = world.servers.seen();
    assert_eq!((&seen["expired"], &seen["unknown"]), (&json!(0), &json!(0)));
    assert!(calls.into_inner() > 50);
    world.never_leaks(b"");
}

#[test]
fn every_failure_of_the_token_endpoint_is_a_typed_refusal_and_passes() {
    let world = World::with(REFRESH, canary(), |home, _| {
        home.set("upstream.timeouts: {response: 1s}");
    });
    for (mode, code) in [
        ("error400", "refresh-failed"),
        ("invalid_grant", "credential-expired"),
        ("error500", "refresh-failed"),
        ("garbage", "refresh-failed"),
        ("html", "refresh-failed"),
        ("cut", "refresh-failed"),
        ("hang", "refresh-failed"),
    ] {
        world.servers.set(&json!({"mode": mode}));
        // A refusal is remembered for a moment: the first may still be of the mode before.
        eventually(&format!("a refusal for {mode}"), PATIENCE, || {
            let seen = world.servers.exchanges();
            let answer = world.get("/");
            let asked = world.servers.exchanges() > seen;
            asked.then(|| refused(&answer, 502, code))
        });
        world.servers.set(&json!({"mode": "ok", "life": 1}));
        eventually(&format!("recovery from {mode}"), PATIENCE, || {
            (world.get("/").status == 200).then_some(())
        });
        // Until there is no token left.
        world.servers.set(&json!({"mode": "error500"}));
        eventually("the end of the token", PATIENCE, || {
            (world.get("/").status == 502).then_some(())
        });
    }
    let seen = world.servers.seen();
    assert_eq!((&seen["expired"], &seen["unknown"]), (&json!(0), &json!(0)));
    let refused = world.serve().metric(r#"locum_minted_total{credential="main",result="refused"}"#);
    assert_eq!(refused, 1);
    world.never_leaks(b"");
}

#[test]
fn lives_that_are_over_before_they_begin_and_other_clocks_give_no_token() {
    let world = World::new();
    for life in [json!(0), json!(-3600), json!("soon")] {
        world.servers.set(&json!({"life": life}));
        eventually("a refusal", PATIENCE, || (world.get("/").status == 502).then_some(()));
    }
    // A server whose clock is hours away gives lives all the same, and they are ours to measure.
    world.servers.set(&json!({"life": 2, "date": -7200}));
    eventually("a token", PATIENCE, || (world.get("/").status == 200).then_some(()));
    world.servers.set(&json!({"mode": "error500"}));
    eventually("its end", PATIENCE, || (world.get("/").status == 502).then_some(()));
    let seen = world.servers.seen();
    assert_eq!((&seen["expired"], &seen["unknown"]), (&json!(0), &json!(0)));
}

#[test]
fn a_good_token_is_used_while_its_renewal_fails() {
    let world = World::new();
    world.servers.set(&json!({"life": 8}));
    assert_eq!(world.get("/").status, 200);
    world.servers.set(&json!({"mode": "error500"}));
    let failed =
        || world.serve().metric(r#"locum_minted_total{credential="main",result="failed"}"#);
    eventually("a renewal that fails", PATIENCE, || {
        let answer = world.get("/");
        assert_eq!(answer.status, 200, "{}", answer.text());
        (failed() > 0).then_some(())
    });
    assert_eq!(world.get("/").status, 200);
    world.servers.set(&json!({"mode": "ok", "life": 3600}));
    eventually("the next renewal", PATIENCE, || {
        assert_eq!(world.get("/").status, 200);
        (world.servers.exchanges() >= 2
            && world.serve().metric(r#"locum_minted_total{credential="main",result="made"}"#) == 2)
            .then_some(())
    });
}

#[test]
fn an_origin_that_refuses_a_token_gets_another() {
    let world = World::new();
    assert_eq!(world.get("/").status, 200);
    world.servers.tell(&json!({"forget": true}));
    assert_eq!(world.get("/").status, 401, "the origin's own answer");
    eventually("another token", PATIENCE, || (world.get("/").status == 200).then_some(()));
    assert_eq!(world.servers.exchanges(), 2);
}

#[test]
fn what_an_earlier_request_carried_is_hidden_too() {
    let world = World::new();
    world.servers.set(&json!({"life": 4}));
    let mut heard = Vec::new();
    eventually("a second token beside the first", PATIENCE, || {
        let mut wire = world.serve().tunnel(&world.agent, "api.test");
        let answer = wire.ask(get("/all"));
        assert_eq!(answer.status, 200);
        heard.extend_from_slice(answer.text().as_bytes());
        (world.servers.exchanges() >= 2).then_some(())
    });
    // Those that the API named were good then, or the answer came before the second was there.
    world.never_leaks(&heard);
}

#[test]
fn a_token_endpoint_gets_no_token_from_an_agent() {
    let on_both = [REFRESH, &["--to", "https://as.test"]].concat();
    let world = World::with(&on_both, canary(), |_, _| {});
    for path in ["/token", "/token/", "/TOKEN", "/token?x=1", "//token", "/./token"] {
        let request = format!(
            "POST {path} HTTP/1.1\r\nHost: as.test\r\nAuthorization: Bearer locum_main\r\nContent-Length: 29\r\n\r\ngrant_type=client_credentials"
        );
        let answer = world.serve().tunnel(&world.agent, "as.test").ask(&request);
        assert!([400, 403].contains(&answer.status), "{path}: {}", answer.text());
    }
    assert_eq!(world.servers.exchanges(), 0, "not even Locum asked");
}

#[test]
fn a_refresh_token_that_rotates_is_written_down_before_its_token_is_used() {
    let secret = canary();
    let mut world = World::with(REFRESH, secret.clone(), |_, servers| {
        servers.set(&json!({"rotate": true, "refresh": secret}));
    });
    for round in 0..12 {
        // A process of its own for each exchange, which ends as by a crash right after the first use.
        let answer = world.get("/");
        assert_eq!(answer.status, 200, "round {round}: {}", answer.text());
        world.serve.take().unwrap().kill();
        world.serve = Some(world.home.serve());
    }
    assert_eq!(world.servers.exchanges(), 12);
    // One version: nobody rotated anything.
    let shown = world.home.locum(&["credential", "show", "main", "--json"]).ok();
    let shown: Value = serde_json::from_str(&shown.out).unwrap();
    assert_eq!(shown["version"], 1);
    assert_eq!(shown["kind"]["oauth"]["token-endpoint"], ENDPOINT);
    let audit = world.home.audit();
    assert!(audit.iter().any(|r| r["event"] == "credential-renewed" && r["subject"] == "main"));
    world.never_leaks(b"");
}

/// The server takes the refresh token before the last as long as the last was not used, as those do
/// that mind crashes: what was given in exchange may not have arrived.
#[test]
fn a_crash_at_any_moment_leaves_a_refresh_token_that_is_good() {
    let secret = canary();
    let mut world = World::with(REFRESH, secret.clone(), |_, servers| {
        servers.set(&json!({"rotate": true, "refresh": secret, "leeway": true}));
    });
    // Anywhere from before the exchange to after the answer.
    let usual = took(|| assert_eq!(world.get("/").status, 200));
    let (mut dice, start, mut kills) = (Dice::new(), Instant::now(), 0);
    while another(kills, 150, start) {
        world.serve.take().unwrap().kill();
        let serve = world.home.serve();
        let mut wire = serve.tunnel(&world.agent, "api.test");
        wire.send(get("/"));
        std::thread::sleep(dice.time(usual * 4 / 3));
        world.serve = Some(serve);
        kills += 1;
    }
    world.serve.take().unwrap().kill();
    world.serve = Some(world.home.serve());
    let exchanges = world.servers.exchanges();
    assert!(kills >= 20, "too slow a machine to say anything: {kills} kills");
    assert!(exchanges > 10, "hardly any came as far as to exchange: {exchanges} of {kills}");
    eprintln!("{kills} kills with seed {}, {exchanges} exchanges", dice.seed);
    let answer = world.get("/");
    assert_eq!(answer.status, 200, "{}", answer.text());
    world.home.locum(&["vault", "status", "--verify"]).ok();
    world.home.locum(&["audit", "verify"]).ok();
    world.never_leaks(b"");
}

#[test]
fn clients_show_who_they_are_in_each_way() {
    let pem = rcgen::KeyPair::generate().unwrap().serialize_pem();
    let base = |auth: &'static str| {
        let kind = ["--kind", "oauth-client-credentials", "--token-endpoint", ENDPOINT];
        let rest = ["--client-id", "us", "--scope", "a", "--scope", "b", "--client-auth", auth];
        [&kind[..], &rest, &["--to", "https://api.test"]].concat()
    };
    for (auth, secret) in [("basic", canary()), ("post", canary()), ("jwt", pem)] {
        let world = World::with(&base(auth), secret.clone(), |_, _| {});
        assert_eq!(world.get("/").status, 200, "{auth}");
        let request = &world.servers.seen()["requests"][0];
        let body = &request["body"];
        assert_eq!(body["grant_type"], "client_credentials");
        assert_eq!(body["scope"], "a b");
        match auth {
            "basic" => assert_eq!(request["authorization"], basic("us", &secret)),
            "post" => assert_eq!(body["client_secret"], secret.as_str()),
            _ => assert_eq!(body["client_assertion"].as_str().unwrap().split('.').count(), 3),
        }
        world.never_leaks(b"");
    }
}

#[test]
fn the_key_of_a_service_account_is_taken_as_it_is_downloaded() {
    let key = rcgen::KeyPair::generate().unwrap();
    let pem = key.serialize_pem();
    let file = json!({
        "type": "service_account", "project_id": "p", "private_key_id": "k7", "private_key": pem,
        "client_email": "bot@p.test", "client_id": "1", "token_uri": ENDPOINT,
        "auth_uri": "https://as.test/auth", "universe_domain": "googleapis.com",
    });
    let arguments = [
        "--kind",
        "google-service-account",
        "--scope",
        "https://scope.test/all",
        "--to",
        "https://api.test",
        "--subject",
        "boss@p.test",
    ];
    let pretty = serde_json::to_string_pretty(&file).unwrap();
    let home = Home::new();
    let servers = Servers::start(&home);
    servers.set(&json!({"mode": "assertion", "key": key.public_key_pem()}));
    home.add("main", &arguments, &pretty);
    let agent = home.agent("worker");
    let serve = home.serve();
    let answer = serve.tunnel(&agent, "api.test").ask(get("/"));
    assert_eq!(answer.status, 200, "{}", answer.text());
    let body = servers.seen()["requests"][0]["body"].clone();
    assert_eq!(body["grant_type"], "urn:ietf:params:oauth:grant-type:jwt-bearer");
    let part = |at: usize| -> Value {
        let part = body["assertion"].as_str().unwrap().split('.').nth(at).unwrap();
        let part = data_encoding::BASE64URL_NOPAD.decode(part.as_bytes()).unwrap();
        serde_json::from_slice(&part).unwrap()
    };
    assert_eq!(part(0)["kid"], "k7");
    let claims = part(1);
    assert_eq!(claims["iss"], "bot@p.test");
    assert_eq!(claims["sub"], "boss@p.test");
    assert_eq!(claims["aud"], ENDPOINT);
    assert_eq!(claims["scope"], "https://scope.test/all");
    let middle = pem.lines().nth(2).unwrap();
    home.never_leaks(&[middle], &[]);
}

#[test]
fn what_is_said_of_a_kind_is_checked_when_it_is_added() {
    let home = Home::new();
    let to = ["--to", "https://api.test"];
    let fails = |arguments: &[&str], input: &str, says: &str| {
        let all = [&["credential", "add", "x"], arguments, &to].concat();
        let ran = home.locum_with(&all, input.as_bytes()).failed(64);
        assert!(ran.err.contains(says), "{arguments:?}: {}", ran.err);
        assert!(!ran.err.contains("sk-canary"), "{}", ran.err);
    };
    let kind = ["--kind", "oauth-refresh"];
    fails(&kind, "sk-canary-1", "--token-endpoint");
    let endpoint = [&kind[..], &["--token-endpoint", ENDPOINT]].concat();
    fails(&endpoint, "sk-canary-1", "--client-id");
    fails(&[&kind[..], &["--token-endpoint", "http://as.test/"]].concat(), "x", "https://");
    fails(&[&endpoint[..], &["--client-id", "us"]].concat(), "{\"sk-canary\":", "JSON");
    fails(&[&endpoint[..], &["--client-id", "us"]].concat(), "{}", "refresh_token");
    let jwt = ["--kind", "oauth-jwt-bearer", "--token-endpoint", ENDPOINT, "--issuer", "us"];
    fails(&jwt, "sk-canary-no-pem", "private key");
    fails(&["--kind", "google-service-account", "--scope", "a"], "sk-canary-1", "key file");
    let tenant = [
        "--provider",
        "microsoft-graph",
        "--kind",
        "oauth-client-credentials",
        "--client-id",
        "us",
    ];
    fails(&tenant, "sk-canary-1", "--tenant");
    // The catalogue knows the endpoint.
    home.add("graph", &[&tenant[..], &["--tenant", "contoso"]].concat(), &canary());
    let shown = home.locum(&["credential", "show", "graph"]).ok().out;
    assert!(
        shown.contains("https://login.microsoftonline.com/contoso/oauth2/v2.0/token"),
        "{shown}"
    );
    assert!(shown.contains("oauth-client-credentials"), "{shown}");
    let google = ["--provider", "google-workspace", "--kind", "oauth-refresh", "--client-id", "us"];
    home.add("google", &google, &canary());
    let shown = home.locum(&["credential", "show", "google"]).ok().out;
    assert!(shown.contains("https://oauth2.googleapis.com/token"), "{shown}");
}

#[test]
fn an_installation_of_a_github_app_has_tokens_for_what_is_named() {
    let key = rcgen::KeyPair::generate().unwrap();
    let pem = key.serialize_pem();
    let app = [
        "--kind",
        "github-app",
        "--app-id",
        "Iv1.abc",
        "--installation",
        "7",
        "--github-api",
        "https://as.test",
        "--repository",
        "one",
        "--permission",
        "contents=read",
        "--to",
        "https://api.test",
    ];
    let world = World::with(&app, pem.clone(), |_, servers| {
        servers.set(&json!({"key": key.public_key_pem()}));
    });
    assert_eq!(world.get("/").status, 200);
    assert_eq!(world.get("/").status, 200);
    assert_eq!(world.servers.exchanges(), 1);
    let request = &world.servers.seen()["requests"][0];
    assert_eq!(
        request["body"],
        json!({"repositories": ["one"], "permissions": {"contents": "read"}})
    );
    assert_eq!(request["claims"]["iss"], "Iv1.abc");
    assert_eq!(request["accept"], "application/vnd.github+json");
    let middle = pem.lines().nth(2).unwrap();
    world.home.never_leaks(&[middle], &[]);
    // Another key than the app's.
    let other = rcgen::KeyPair::generate().unwrap().serialize_pem();
    world.home.rotate("main", &other);
    eventually("a refusal", PATIENCE, || {
        let answer = world.get("/");
        (answer.status == 502).then(|| refused(&answer, 502, "credential-expired"))
    });
}

#[test]
fn a_one_time_password_is_that_of_the_moment() {
    let seed = "JBSW Y3DP ehpk 3pxp jbsw y3dp";
    let slots = ["--kind", "totp", "--to", "https://api.test", "--header", "X-Otp: {secret}"];
    let address = "otpauth://totp/GitHub:me?secret=JBSWY3DPEHPK3PXPJBSWY3DP&digits=6&issuer=GitHub";
    for given in [seed, address] {
        let home = Home::new();
        let origin = Origin::start("api.test");
        home.reach(&origin);
        home.add("otp", &slots, given);
        let agent = home.agent("worker");
        let serve = home.serve();
        let request = "GET /open HTTP/1.1\r\nHost: api.test\r\nX-Otp: locum_otp\r\n\r\n";
        let before = expected_password();
        assert_eq!(serve.tunnel(&agent, "api.test").ask(request).status, 200);
        let sent = origin.seen()[0].header("x-otp").unwrap().to_owned();
        assert!([before, expected_password()].contains(&sent), "{sent}");
        home.never_leaks(&["JBSWY3DPEHPK3PXPJBSWY3DP"], &[]);
    }
    let home = Home::new();
    let all = [&["credential", "add", "otp"], &slots[..]].concat();
    let ran = home.locum_with(&all, b"not base 32!").failed(64);
    assert!(ran.err.contains("base32"), "{}", ran.err);
}

/// By Python's own library, as the RFC has it.
fn expected_password() -> String {
    let program = "import base64,hmac,struct,time\nm=hmac.new(base64.b32decode('JBSWY3DPEHPK3PXPJBSWY3DP'),struct.pack('>Q',int(time.time())//30),'sha1').digest()\no=m[-1]&15\nprint('%06d'%((struct.unpack('>I',m[o:o+4])[0]&0x7fffffff)%10**6))";
    command_output(Command::new("python3").args(["-c", program])).trim().to_owned()
}

/// Runs `connect`, and gives what it prints to `person` line by line.
fn connect(home: &Home, arguments: &[&str], person: impl Fn(&str)) -> Ran {
    let all = [&["credential", "connect", "main", "--client-id", "us"], arguments].concat();
    let mut command = home.command(&all);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut out = String::new();
    let mut lines = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    while lines.read_line(&mut line).unwrap() > 0 {
        person(line.trim());
        out.push_str(&line);
        line.clear();
    }
    let mut err = String::new();
    std::io::Read::read_to_string(&mut child.stderr.take().unwrap(), &mut err).unwrap();
    let ran = Ran { code: child.wait().unwrap().code().unwrap(), out, err };
    home.said(&ran);
    ran
}

/// A GET of a browser; the head of the answer, and its body.
fn browse(url: &str, home: &Home) -> String {
    let Some(rest) = url.strip_prefix("https://as.test") else {
        let (address, target) = url.strip_prefix("http://").unwrap().split_once('/').unwrap();
        let mut wire = Wire::plain(address.parse().unwrap());
        return wire.ask(format!("GET /{target} HTTP/1.1\r\nHost: {address}\r\n\r\n")).text();
    };
    let config = std::fs::read_to_string(home.path().join("locum.yaml")).unwrap();
    let line = config.lines().find(|line| line.contains("'as.test'")).unwrap();
    let address = line.split('\'').nth(3).unwrap().parse().unwrap();
    let ca = home.work().join("identities/as/ca.pem");
    let mut wire = Wire::plain(address).tls("as.test", &ca).unwrap();
    let answer = wire.ask(format!("GET {rest} HTTP/1.1\r\nHost: as.test\r\n\r\n"));
    answer.header("location").unwrap_or_default().to_owned()
}

const CONNECT: &[&str] = &[
    "--token-endpoint",
    ENDPOINT,
    "--authorize-endpoint",
    "https://as.test/authorize",
    "--to",
    "https://api.test",
    "--scope",
    "openid",
];

#[test]
fn a_person_at_a_browser_connects_a_credential() {
    let home = Home::new();
    let servers = Servers::start(&home);
    let ran = connect(&home, CONNECT, |line| {
        let Some(address) = line.strip_prefix("https://as.test/authorize?") else { return };
        assert!(address.contains("code_challenge_method=S256"), "{address}");
        let redirect = browse(line, &home);
        assert!(redirect.starts_with("http://127.0.0.1:"), "{redirect}");
        // Somebody else knocks first, with a code of their own.
        let (at, _) = redirect.split_once('?').unwrap();
        assert!(browse(&format!("{at}?code=theirs&state=guessed"), &home).contains("not what"));
        assert!(browse(&redirect, &home).contains("is connected"));
    });
    let ran = ran.ok();
    assert!(ran.out.contains("added main"), "{}", ran.out);
    let seen = servers.seen();
    let body = &seen["requests"][0]["body"];
    assert_eq!(body["grant_type"], "authorization_code");
    assert!(body["code_verifier"].as_str().unwrap().len() >= 43);
    // What was got is what tokens are made of.
    let agent = home.agent("worker");
    let serve = home.serve();
    let answer = serve.tunnel(&agent, "api.test").ask(get("/"));
    assert_eq!(answer.status, 200, "{}", answer.text());
    let seen = servers.seen();
    let refresh = seen["refreshed"][0].as_str().unwrap();
    assert_eq!(seen["requests"][1]["body"]["refresh_token"], refresh);
    home.never_leaks(&[refresh], &[]);
}

#[test]
fn a_device_without_a_browser_is_connected_by_a_code() {
    let home = Home::new();
    let servers = Servers::start(&home);
    let secret = canary();
    let device = ["--device", "--device-endpoint", "https://as.test/device"];
    let arguments = [CONNECT, &device].concat();
    servers.set(&json!({"refresh": secret, "device": ["authorization_pending", "token"]}));
    let ran = connect(&home, &arguments, |_| {}).ok();
    assert!(ran.out.contains("https://as.test/go") && ran.out.contains("WDJB-MJHT"), "{}", ran.out);
    servers.set(&json!({"device": ["access_denied"]}));
    home.locum(&["credential", "remove", "main"]).ok();
    let ran = connect(&home, &arguments, |_| {}).failed(1);
    assert!(ran.err.contains("the person has refused (access_denied)"), "{}", ran.err);
    // What the server calls it is told, and nothing that steers a terminal reaches it.
    servers.set(&json!({"device": ["unauthorized_client"], "go": "https://as.test/\u{1b}[2Jgo"}));
    let ran = connect(&home, &arguments, |_| {}).failed(1);
    assert!(ran.err.contains("answered with an error (unauthorized_client)"), "{}", ran.err);
    assert!(!ran.out.contains('\u{1b}') && ran.out.contains("u{1b}[2Jgo"), "{}", ran.out);
    servers.set(&json!({"device": ["\u{1b}]0;x"]}));
    let ran = connect(&home, &arguments, |_| {}).failed(1);
    assert!(
        ran.err.contains("answered with an error") && !ran.err.contains('\u{1b}'),
        "{}",
        ran.err
    );
    // For a machine there is JSON alone on standard output.
    servers.set(&json!({"device": ["token"], "refresh": secret}));
    let ran = connect(&home, &[&arguments[..], &["--json"]].concat(), |_| {}).ok();
    assert!(ran.err.contains("and type WDJB-MJHT"), "{}", ran.err);
    let added: Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(added["credential"], "main");
    home.never_leaks(&[&secret], &[]);
}

#[test]
fn a_person_who_refuses_at_the_browser_is_told_what_the_server_calls_it() {
    let home = Home::new();
    let _servers = Servers::start(&home);
    let ran = connect(&home, CONNECT, |line| {
        if !line.starts_with("https://as.test/authorize?") {
            return;
        }
        let redirect = browse(line, &home);
        let (at, query) = redirect.split_once('?').unwrap();
        let state = query.split('&').find(|pair| pair.starts_with("state=")).unwrap();
        assert!(
            browse(&format!("{at}?error=invalid_scope&{state}"), &home).contains("not connected")
        );
    });
    let err = ran.failed(1).err;
    assert!(err.contains("the provider gave no code") && err.contains("(invalid_scope)"), "{err}");
}
