//! What is said at TRACE by whatever is in the process. The product shows nothing of other crates below WARN;
//! here it runs under a subscriber of the tests that shows all of them, so that what the cap keeps back is known.
#![allow(missing_docs, unreachable_pub, dead_code)] // A harness is shared by halves.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::format_collect)]

mod support;

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use locum::app::{Proxy, ProxyOptions};
use tracing_subscriber::fmt::format::FmtSpan;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use support::*;

/// The home that the proxy of this process is to serve.
const SERVED: &str = "LOCUM_TEST_SERVED";

/// Every place of a request that the harness's origin reads.
const SLOTS: &[&str] = &[
    "--to",
    "https://api.test",
    "--header",
    "Authorization: Bearer {secret}",
    "--basic",
    "user",
    "--query",
    "key",
    "--json-pointer",
    "/key",
];

/// The process that [`traced`] starts: a subscriber is of the whole process, and clients and origins speak
/// HTTP/2 by the same crate as the proxy.
#[test]
#[ignore = "the other tests start it"]
fn a_proxy_under_a_subscriber_of_its_own() {
    let Some(home) = std::env::var_os(SERVED) else { return };
    // With what begins a span, where fields are told too. Records of the log crate come along: `init` has
    // them bridged by tracing-log. Of what is linked only ignore and globset use it, for `locum scan`.
    let lines = tracing_subscriber::fmt::layer()
        .with_ansi(false)
        .with_span_events(FmtSpan::NEW)
        .with_writer(std::io::stderr);
    tracing_subscriber::registry().with(lines).init();
    let home = locum::app::Home::locate(Some(Path::new(&home))).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let proxy = Proxy::start(&home, ProxyOptions::default()).await.unwrap();
        proxy.serve(std::future::pending(), Duration::ZERO).await.unwrap();
    });
}

/// A proxy of this home in which every crate says all that it has to say.
#[track_caller]
fn traced(home: &Home) -> Serve {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["a_proxy_under_a_subscriber_of_its_own", "--exact", "--ignored", "--nocapture"]);
    home.clean(&mut command);
    Serve::start_as(home, command.env(SERVED, home.path()).stdin(Stdio::null()))
}

/// What nobody but us may see: of a home, and of what comes to it.
struct Secrets {
    texts: Vec<String>,
    /// As it is in the memory of the proxy.
    master: Vec<u8>,
}

impl Secrets {
    fn of(home: &Home, agents: &[&Agent], secrets: &[&str]) -> Self {
        let file = std::fs::read_to_string(home.path().join("master.key")).unwrap();
        let key = file.lines().nth(1).expect("a master key behind the first line");
        let master = data_encoding::HEXLOWER.decode(key.as_bytes()).unwrap();
        let agents = agents.iter().map(|agent| agent.token.clone());
        let texts = secrets.iter().map(ToString::to_string).chain(agents).collect();
        Self { texts, master }
    }

    /// The lines of a log in which one of them is, in any form.
    fn found<'l>(&self, log: &'l str) -> Vec<&'l str> {
        let key = |line: &str| {
            let forms = forms(&self.master);
            forms.iter().any(|form| memchr::memmem::find(line.as_bytes(), &form.bytes).is_some())
        };
        // Most logs have none, and to ask for each line takes as long as there are forms.
        let any = |text: &str| {
            self.texts.iter().any(|secret| !leaks(secret, text.as_bytes()).is_empty()) || key(text)
        };
        if any(log) { log.lines().filter(|line| any(line)).collect() } else { Vec::new() }
    }
}

/// The handshake of a WebSocket, with the reference in its slot.
const HANDSHAKE: &str = "GET /socket HTTP/1.1\r\nHost: ws.test\r\nAuthorization: Bearer locum_socket\r\n\
    Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

const MINTED: &str = "Authorization: Bearer locum_minted";

/// So many lines a crate said at this level.
fn said(log: &str, level: &str, target: &str) -> usize {
    log.lines().filter(|line| line.contains(level) && line.contains(target)).count()
}

/// What is asked about beforehand, with the word of it sent to a webhook; and all else.
const ASKED_ABOUT: &str = "version: 1
rules:
  - name: free
    agents: ['*']
    use: ['*']
    methods: [GET]
    websocket: allow
  - name: posts
    agents: ['*']
    use: ['*']
    methods: [POST]
    paths: [/open/**, /grpc]
  - name: later
    agents: ['*']
    use: ['*']
    methods: [POST]
    paths: [/later/**]
    approval: {answer: refuse}
";

/// One request in each slot, and answers that hand the key back in each place.
fn over_http1(serve: &Serve, agent: &Agent) {
    let pair = basic("user", "locum_main");
    for (target, field) in [
        ("/echo", AUTHORIZED),
        ("/echo-header/raw", AUTHORIZED),
        ("/echo-cookie", AUTHORIZED),
        ("/echo-chunked/base64", AUTHORIZED),
        ("/echo-trailer", AUTHORIZED),
        ("/drip/raw", AUTHORIZED),
        ("/coded/gzip/raw", AUTHORIZED),
        ("/echo", &format!("Authorization: {pair}")),
        ("/echo?key=locum_main", "Accept: */*"),
    ] {
        let answer = serve.tunnel(agent, HOST).ask(request("GET", target, &[field], ""));
        assert_eq!(answer.status, 200, "{target}: {}", answer.text());
    }
    let mut wire = serve.tunnel(agent, HOST);
    wire.send(request("GET", "/abort-long", &[AUTHORIZED], ""));
    assert!(wire.try_answer("GET").is_err(), "it was broken off");
    let fields = ["Content-Type: application/json"];
    let body = "{\"key\": \"locum_main\"}";
    let answer = serve.tunnel(agent, HOST).ask(request("POST", "/open/shown/raw", &fields, body));
    assert_eq!(answer.status, 200, "{}", answer.text());
}

/// The same over HTTP/2, and a call of gRPC.
fn over_http2(serve: &Serve, agent: &Agent) {
    runtime().block_on(async {
        let agent = Http2::open(serve, agent).await;
        let pair = basic("user", "locum_main");
        let bearer = ("authorization", "Bearer locum_main");
        for (target, field) in [
            ("/echo", bearer),
            ("/echo-header/raw", bearer),
            ("/echo-trailer", bearer),
            ("/drip/raw", bearer),
            ("/abort-long", bearer),
            ("/echo", ("authorization", &*pair)),
            ("/echo?key=locum_main", ("accept", "*/*")),
        ] {
            let reply = agent.ask(request2("GET", target, &[field]), b"").await;
            assert_eq!(reply.status, 200, "{target}: {}", reply.text());
        }
        let json = request2("POST", "/open/shown/raw", &[("content-type", "application/json")]);
        let reply = agent.ask(json, b"{\"key\": \"locum_main\"}").await;
        assert_eq!(reply.status, 200, "{}", reply.text());
        let call = [bearer, ("content-type", "application/grpc+proto"), ("te", "trailers")];
        let reply = agent.ask(request2("POST", "/grpc", &call), b"\0\0\0\0\0").await;
        assert_eq!(reply.status, 200, "{}", reply.text());
    });
}

/// The scene: an origin for the slots, one that mints tokens, one with a socket and one that hears of questions.
fn every_way_of_a_secret(origin: &Origin) {
    let (tokens, sockets, hook) = (
        Origin::http2("as.test"),
        Origin::scripted("ws.test", socket()),
        Origin::start("hook.test"),
    );
    let [key, client, token, socket, signing, stranger] = std::array::from_fn(|_| canary());
    let minted = serde_json::json!({
        "access_token": token, "token_type": "Bearer", "expires_in": 3600
    });
    tokens.serve("/open/token", "application/json", minted.to_string().as_bytes());
    origin.accept(&key);
    origin.accept(&token);
    let home = Home::new();
    for origin in [origin, &tokens, &sockets, &hook] {
        home.reach(origin);
    }
    home.add("main", SLOTS, &key);
    let endpoint = ["--token-endpoint", "https://as.test/open/token", "--client-id", "us"];
    let kind = ["--kind", "oauth-client-credentials", "--to", "https://api.test"];
    home.add("minted", &[&kind[..], &endpoint].concat(), &client);
    home.add("socket", &["--to", "https://ws.test", BEARER[2], BEARER[3]], &socket);
    home.add("hook", &["--to", "https://hook.test", "--header", "X-Unused: {secret}"], &signing);
    home.policy(ASKED_ABOUT);
    home.set("approvals.webhook: https://hook.test/open/locum");
    home.set("approvals.key: hook");
    let agent = home.agent("worker");
    let all = [&*key, &client, &token, &socket, &signing, &stranger];
    let secrets = Secrets::of(&home, &[&agent], &all);
    let serve = traced(&home);

    over_http1(&serve, &agent);
    over_http2(&serve, &agent);
    let answer = serve.tunnel(&agent, HOST).ask(request("GET", "/echo", &[MINTED], ""));
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(origin.last().header("authorization"), Some(&*format!("Bearer {token}")));
    let asked = request("POST", "/later/x", &[AUTHORIZED], "{}");
    assert_eq!(serve.tunnel(&agent, HOST).ask(asked).problem(), "approval-required");
    eventually("the word", PATIENCE, || hook.seen().pop());
    let mut wire = serve.tunnel(&agent, "ws.test");
    wire.send(HANDSHAKE);
    assert_eq!(wire.answer().status, 101);
    wire.send(b"\x81\x82\0\0\0\0hi");
    let mut echoed = [0; 4];
    wire.read_exact(&mut echoed);
    assert_eq!(&echoed, b"\x81\x02hi");
    drop(wire);
    // What a stranger shows may be a secret of somebody's.
    let mut wire = serve.wire();
    wire.send(connect("api.test:443", &basic("worker", &stranger)));
    assert_eq!(wire.answer_to("CONNECT").status, 407);
    assert_eq!(serve.get("/metrics").unwrap().status, 200);

    let seen = origin.seen();
    assert!(seen.iter().any(|seen| String::from_utf8_lossy(&seen.body).contains(&key)), "a body");
    assert!(seen.iter().any(|seen| seen.target.contains(&key)), "a query");
    assert!(sockets.raw().iter().any(|raw| raw.contains(&socket)), "a handshake");
    let log = serve.log();
    for (level, target) in [
        ("TRACE", " h2::"),
        ("DEBUG", " h2::"),
        ("TRACE", "peer=Server"),
        ("TRACE", "peer=Client"),
        (" INFO", " locum::"),
    ] {
        assert!(said(&log, level, target) > 0, "nothing was said at {level} by {target}");
    }
    let found = secrets.found(&log);
    assert!(found.is_empty(), "{}", found.join("\n"));
}

fn socket() -> Vec<Script> {
    vec![Script::Switch, Script::Echo, Script::Goodbye]
}

#[test]
fn nobody_says_a_secret_at_trace_with_an_origin_of_http1() {
    every_way_of_a_secret(&Origin::start(HOST));
}

#[test]
fn nobody_says_a_secret_at_trace_with_an_origin_of_http2() {
    every_way_of_a_secret(&Origin::http2(HOST));
}

/// One credential, one agent, and an origin of HTTP/2 of which the test says every frame.
struct Scene {
    serve: Serve,
    peer: Peer,
    agent: Agent,
    key: String,
    home: Home,
}

impl Scene {
    fn new(start: impl FnOnce(&Home) -> Serve) -> Self {
        let home = Home::new();
        let peer = Peer::http2(HOST);
        let key = canary();
        home.reach_as(HOST, peer.address, peer.ca_file());
        home.add("main", BEARER, &key);
        let agent = home.agent("worker");
        let serve = start(&home);
        Self { serve, peer, agent, key, home }
    }

    /// Sends a request, answers it with this, and gives what the agent is told.
    fn ask(&self, answer: &[u8]) -> Answer {
        let mut near = self.serve.tunnel(&self.agent, HOST);
        near.send(request("GET", "/v1/x", &[AUTHORIZED], ""));
        let mut far = self.peer.accept();
        far.read_exact(&mut [0; b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".len()]);
        far.send(frame(SETTINGS, 0, 0, b""));
        while next_frame(&mut far).0 != HEADERS {}
        far.send(answer);
        // In order: h2 tells a connection that breaks by that, and not by what was said.
        far.finish();
        near.answer()
    }

    /// Both of what h2 tells of an origin: why it goes, and a field that may not be there.
    fn misused(&self) {
        let shown = format!("Bearer {}", self.key);
        let told = [&1_u32.to_be_bytes()[..], &11_u32.to_be_bytes(), shown.as_bytes()].concat();
        let te = [b"\x88\x00\x02te", &[u8::try_from(shown.len()).unwrap()][..], shown.as_bytes()];
        for answer in [frame(GOAWAY, 0, 0, &told), frame(HEADERS, 0x5, 1, &te.concat())] {
            let answer = self.ask(&answer);
            assert_eq!(answer.problem(), "upstream-failed");
            assert!(leaks(&self.key, answer.text().as_bytes()).is_empty(), "{}", answer.text());
        }
        // The agent goes with words of its own, too.
        let mut near = self.serve.raw_http2(&self.agent);
        let told = [&[0, 0, 0, 0, 0, 0, 0, 11], self.agent.token.as_bytes()].concat();
        near.send(frame(GOAWAY, 0, 0, &told));
        near.finish();
        near.until_closed();
        // That with the `te` ends in order, and nothing is said of it.
        eventually("the ends of connections", PATIENCE, || {
            let log = self.serve.log();
            let ended = |whose| log.matches(whose).count();
            let origins = ended("an HTTP/2 connection to an origin ended");
            (origins >= 1 && ended("the agent's connection ended") >= 3).then_some(())
        });
    }
}

const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;

/// Its type, and what is in it.
fn next_frame(wire: &mut Wire) -> (u8, Vec<u8>) {
    let mut head = [0; 9];
    wire.read_exact(&mut head);
    let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
    wire.read_exact(&mut payload);
    (head[3], payload)
}

/// The two that are known, both of what the other side says of its own accord, which no mark on a field of ours
/// could hide: h2 prints the words of a GOAWAY, and the value of a `te` that may not be. Of them the log of the
/// product has nothing: [`what_an_origin_hands_back_to_h2_is_not_in_the_log`].
#[test]
fn at_trace_h2_says_what_an_origin_hands_back_where_it_misuses_http2() {
    let scene = Scene::new(traced);
    scene.misused();
    let log = scene.serve.log();
    let found = Secrets::of(&scene.home, &[&scene.agent], &[&scene.key]).found(&log);
    let of = |what: &str| found.iter().filter(|line| line.contains(what)).count();
    assert!(of("GoAway") > 0 && of("TE header not set to trailers") > 0, "{}", found.join("\n"));
    for line in found {
        assert!(line.contains(" h2::"), "{line}");
        assert!(line.contains("DEBUG") || line.contains("TRACE"), "{line}");
        assert!(line.contains("GoAway") || line.contains("TE header not set"), "{line}");
    }
}

#[test]
fn what_an_origin_hands_back_to_h2_is_not_in_the_log() {
    let scene = Scene::new(Home::serve);
    scene.misused();
    let log = scene.serve.log();
    assert!(said(&log, "DEBUG", "an HTTP/2 connection to an origin ended") > 0, "{log}");
    assert_eq!(said(&log, "", " h2::"), 0, "{log}");
    let metrics = scene.serve.metrics();
    let secrets = [&*scene.key, &scene.agent.token];
    scene.home.never_leaks(&secrets, &[("metrics", metrics.as_bytes())]);
}
