//! A panic ends the connection on which it happens and no other. No request is known that makes the product
//! panic: here its gateway stands over an audit log of the tests, which does on some paths.
#![allow(missing_docs, unreachable_pub, dead_code)] // A harness is shared by halves.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::format_collect)]

mod support;

use std::collections::HashSet;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use locum::agent::default_workspace;
use locum::app::{Opened, Serving, far_side, load_policy, start_log};
use locum::audit::AuditLog;
use locum::authn::{Agents, Authenticators, Directory};
use locum::metrics::{Metrics, Readings};
use locum::ops::{self, Observe, Readiness};
use locum::proxy::{self, Entrance, Gateway, Limits, Listener, State, Workspaces};
use locum::record::{Access, AuditSink, Event, Outcome, RequestId, Unrecorded};
use locum::tls::{Alpn, LeafCache};
use locum::upstream::NoLogins;
use parking_lot::Mutex;
use tokio::net::TcpListener;

use support::*;

/// The home that the proxy of this process is to serve.
const SERVED: &str = "LOCUM_TEST_SERVED";

/// What its panics say, so that it could be told.
const SAID: &str = "LOCUM_TEST_SAID";

/// The record of the call cannot be made.
const RECORDING: &str = "/panic/recording";

/// That of its end cannot.
const ENDING: &str = "/panic/ending";

/// Nothing of a tunnel to it can be recorded.
const OPAQUE: &str = "panic.test";

/// Those who look on have three tunnels and two requests, so that what a panic keeps is missed at once.
const TUNNELS: usize = 4;

const POLICY: &str = "version: 1
rules:
  - name: all
    agents: ['*']
    use: ['*']
    limits: {concurrent: 3}
  - name: not decrypted
    agents: ['*']
    to: [https://panic.test]
    tunnel: opaque
";

/// The process that the test starts: the hook for panics, and the log, are of the whole process.
#[test]
#[ignore = "the other test starts it"]
fn a_proxy_whose_audit_log_panics() {
    let Some(home) = std::env::var_os(SERVED) else { return };
    let home = locum::app::Home::locate(Some(Path::new(&home))).unwrap();
    let opened = Opened::open(&home).unwrap();
    start_log(&opened.config.log);
    // On one thread are all connections.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(serve(&opened));
}

/// The parts as `locum serve` puts them together, less what looks after a home while it changes.
async fn serve(opened: &Opened) {
    let said = std::env::var(SAID).unwrap();
    let sink = Panics { log: opened.audit().unwrap(), said, ending: Mutex::default() };
    let metrics = Arc::new(Metrics::new().unwrap());
    let authority = Arc::new(opened.authority().unwrap());
    let gateway = Gateway::new(
        workspaces(opened),
        LeafCache::new(authority, 16, &[Alpn::Http2, Alpn::Http11]).unwrap(),
        far_side(&opened.config, &[], Arc::new(NoLogins)).unwrap(),
        Arc::new(sink),
        Arc::clone(&metrics),
        limits(&opened.config.limits),
    );
    let ports = [TcpListener::bind("127.0.0.1:0").await, TcpListener::bind("127.0.0.1:0").await];
    let [proxy, ops] = ports.map(Result::unwrap);
    let serving = Serving {
        pid: std::process::id(),
        proxy: vec![proxy.local_addr().unwrap()],
        tls: Vec::new(),
        unix: Vec::new(),
        ops: Some(ops.local_addr().unwrap()),
        admin: None,
        ca: None,
    };
    tokio::spawn(ops::serve(ops, metrics, Arc::new(Ready), std::future::pending()));
    opened.home.announce(&serving).unwrap();
    let entrance = Entrance { listener: Listener::Tcp(proxy), tls: None };
    proxy::serve(Arc::new(gateway), vec![entrance], std::future::pending()).await;
}

fn workspaces(opened: &Opened) -> Workspaces {
    let snapshot = opened.vault.snapshot().unwrap();
    let agents = Agents::new(
        &default_workspace(),
        Arc::clone(&snapshot.tokens),
        Arc::clone(&snapshot.token_key),
        Arc::clone(&snapshot.runs),
        Arc::clone(&snapshot.revoked_agents),
    );
    Workspaces::one(State {
        policy: Arc::new(load_policy(&opened.home).unwrap()),
        generation: 1,
        credentials: Arc::clone(&snapshot.credentials),
        authn: Authenticators::of_tokens(&Directory::new(vec![Arc::new(agents)])),
        sealed: Some(Arc::new(snapshot)),
    })
}

fn limits(config: &locum::config::Limits) -> Limits {
    Limits {
        connections: 2 * TUNNELS,
        connections_per_agent: TUNNELS,
        head_bytes: config.head_bytes,
        url_bytes: config.url_bytes,
        body_slot: config.body_slot,
        bodies: config.bodies,
        bodies_per_agent: config.bodies_per_agent,
        headers: config.headers,
        streams: config.streams,
        head_time: config.head_time,
        handshake: config.handshake,
        failure_delay: config.failure_delay,
        idle_tunnel: config.idle_tunnel,
        idle_reader: config.idle_reader,
        ping_after: config.ping_after,
    }
}

struct Ready;

impl Observe for Ready {
    fn readings(&self) -> Readings {
        Readings::default()
    }

    fn readiness(&self) -> Readiness {
        Readiness { ready: true, problems: Vec::new() }
    }
}

/// An audit log that panics where it is told to, with the secret in what it says.
struct Panics {
    log: AuditLog,
    said: String,
    /// The requests at whose end it does.
    ending: Mutex<HashSet<RequestId>>,
}

impl AuditSink for Panics {
    fn access(&self, record: &Access<'_>) -> Result<(), Unrecorded> {
        let path = record.path.unwrap_or_default();
        assert!(
            path != RECORDING && !record.destination.ends_with(OPAQUE),
            "no record with {}",
            self.said
        );
        if path == ENDING {
            self.ending.lock().insert(record.request_id);
        }
        self.log.access(record)
    }

    fn outcome(&self, record: &Outcome) {
        self.log.outcome(record);
        let panics = self.ending.lock().remove(&record.request_id);
        assert!(!panics, "no end with {}", self.said);
    }

    fn event(&self, record: &Event) -> Result<(), Unrecorded> {
        self.log.event(record)
    }
}

/// Fields are dropped in this order: the proxy goes before its home.
struct Scene {
    serve: Serve,
    origin: Origin,
    agent: Agent,
    key: String,
    home: Home,
}

impl Scene {
    fn new() -> Self {
        let slots = [BEARER, &["--json-pointer", "/key"]].concat();
        let Stage { origin, agent, key, home } =
            Stage::before(Origin::start(HOST), &slots, canary());
        home.policy(POLICY);
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["a_proxy_whose_audit_log_panics", "--exact", "--ignored", "--nocapture"]);
        home.clean(&mut command);
        command.env(SERVED, home.path()).env(SAID, &key).stdin(Stdio::null());
        let serve = Serve::start_as(&home, &mut command);
        Self { serve, origin, agent, key, home }
    }

    fn tunnel(&self) -> Wire {
        self.serve.tunnel(&self.agent, HOST)
    }

    /// What comes of a request on a connection of its own until that is closed.
    fn doomed(&self, method: &str, path: &str, body: &str) -> Vec<u8> {
        let mut wire = self.tunnel();
        let fields = [AUTHORIZED, "Content-Type: application/json"];
        wire.send(request(method, path, &fields, body));
        wire.until_closed()
    }

    /// How many panics were told.
    fn panics(&self) -> usize {
        self.serve.log().matches("a task has ended by a panic").count()
    }
}

#[test]
fn a_panic_ends_its_connection_alone() {
    let scene = Scene::new();
    scene.origin.hold();
    let mut idle = scene.tunnel();
    assert_eq!(idle.ask(request("GET", "/v1/x", &[AUTHORIZED], "")).status, 200);
    let mut listening = scene.tunnel();
    listening.send(request("GET", "/events/3", &[AUTHORIZED], ""));
    listening.until("data: 0\n\n");
    let multiplexed = runtime().block_on(Http2::open(&scene.serve, &scene.agent));
    let bearer = [("authorization", "Bearer locum_main")];
    let asked = request2("GET", "/events/2", &bearer);
    let (answer, _) = multiplexed.send.clone().send_request(asked, true).unwrap();
    let mut events = runtime().block_on(answer).unwrap().into_body();
    let first = runtime().block_on(events.data()).unwrap().unwrap();
    assert_eq!(&first[..], b"data: 0\n\n");

    let mut panics = 0;
    // More of each than there are places for tunnels, connections and requests at once.
    for _ in 0..3 * TUNNELS {
        assert_eq!(scene.doomed("GET", RECORDING, ""), b"", "nothing was answered");
        assert_eq!(scene.doomed("POST", RECORDING, "{\"key\": \"locum_main\"}"), b"");
        scene.doomed("GET", ENDING, "");
        let mut wire = scene.serve.wire();
        wire.send(connect(&format!("{OPAQUE}:443"), &scene.agent.authorization()));
        assert_eq!(wire.until_closed(), b"", "no tunnel");
        // On HTTP/2 each request is a task: it ends alone, and its connection goes on.
        for path in [RECORDING, ENDING] {
            let asked = ask2(multiplexed.send.clone(), request2("GET", path, &bearer), b"");
            let came = runtime().block_on(asked);
            assert!(came.is_err() || path == ENDING, "{came:?}");
        }
        panics += 6;
        eventually("the panics", PATIENCE, || (scene.panics() == panics).then_some(()));
        assert_eq!(idle.ask(request("GET", "/v1/x", &[AUTHORIZED], "")).status, 200);
    }

    // Those who were there, and those who come.
    let reply = runtime().block_on(multiplexed.ask(request2("GET", "/v1/x", &bearer), b""));
    assert_eq!(reply.status, 200);
    assert_eq!(scene.tunnel().ask(request("GET", "/v1/x", &[AUTHORIZED], "")).status, 200);
    for _ in 0..3 {
        scene.origin.release();
    }
    listening.until("data: 2\n\n");
    let last = runtime().block_on(events.data()).unwrap().unwrap();
    assert_eq!(&last[..], b"data: 1\n\n");
    drop((idle, listening, events, multiplexed));
    for gauge in [
        "locum_tunnels_open{kind=\"intercepted\"}",
        "locum_tunnels_open{kind=\"opaque\"}",
        "locum_bodies_held_bytes",
    ] {
        eventually(gauge, PATIENCE, || (scene.serve.metric(gauge) == 0).then_some(()));
    }
    assert!(scene.origin.seen().iter().all(|seen| seen.target != RECORDING), "no record, no call");

    let log = scene.serve.log();
    let told = log.lines().filter(|line| line.contains("a task has ended by a panic"));
    for line in told {
        assert!(line.contains("tests/panics.rs:"), "{line}");
    }
    let metrics = scene.serve.metrics();
    scene.home.never_leaks(&[&scene.key, &scene.agent.token], &[("metrics", metrics.as_bytes())]);
}
