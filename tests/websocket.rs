//! WebSocket with real clients and a real server, and the Autobahn cases with and without the proxy
//! between.
//!
//! Python packages and Node modules are installed once under `target/`; where that fails, these
//! tests fail.
#![allow(missing_docs, unreachable_pub, dead_code)] // A harness is shared by halves.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::doc_markdown)]

mod support;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;

use rustls::pki_types::ServerName;
use support::*;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;

/// Versions are fixed, so that a failure is ours. kosoku plays Autobahn's own case files; the suite
/// itself wants a Python of 2010.
const PYTHON: &[&str] = &["websockets==17.4", "kosoku==0.1.0"];
const NODE: &[&str] = &["ws@8.23.0", "https-proxy-agent@9.1.0", "undici@7.30.2"];

fn python() -> PathBuf {
    Tools::python_as("python-websocket", PYTHON).path.join("bin/python")
}

fn script(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/websocket").join(name)
}

/// `autobahn.py` in one of its modes.
fn autobahn(arguments: &[&str]) -> Command {
    let mut command = Command::new(python());
    command.arg(script("autobahn.py")).args(arguments).env_remove("HTTPS_PROXY");
    command
}

/// A real server, without TLS.
fn server() -> (Running, SocketAddr) {
    let mut running = Running::start(&mut autobahn(&["server"]));
    let port: u16 = running.line("port: ").trim().parse().unwrap();
    (running, SocketAddr::from(([127, 0, 0, 1], port)))
}

/// A server behind TLS and behind the proxy, by the name of a provider.
struct World {
    serve: Serve,
    home: Home,
    origin: Origin,
    key: String,
    placeholder: String,
    _server: Running,
}

impl World {
    fn new() -> Self {
        let (running, address) = server();
        let home = Home::new();
        let origin = Origin::before("api.openai.com", address);
        let key = canary();
        home.reach(&origin);
        home.reach_as("plain.test", address, None);
        home.add("openai", &["--provider", "openai"], &key);
        home.agent("worker");
        let shown = home.locum(&["credential", "show", "openai", "--json"]).ok();
        let shown: serde_json::Value = serde_json::from_str(&shown.out).unwrap();
        let placeholder = shown["placeholder"].as_str().unwrap().to_owned();
        let serve = home.serve();
        Self { serve, home, origin, key, placeholder, _server: running }
    }

    /// `locum run -- program script url`, from an environment in which the real key is lying about.
    fn run(&self, program: &std::ffi::OsStr, name: &str, url: &str) -> Ran {
        let mut command = self.home.command(&["run", "--agent", "worker", "--"]);
        command.arg(program).arg(script(name)).arg(url).env("OPENAI_API_KEY", &self.key);
        command.env("MODULES", Tools::node_as("node-websocket", NODE).path.join("package.json"));
        run(&mut command, b"").ok()
    }

    /// Each handshake had the real key, and the client never did.
    #[track_caller]
    fn holds(&self, ran: &Ran, sockets: usize) {
        let raw = self.origin.raw();
        assert_eq!(raw.len(), sockets, "connections");
        for bytes in &raw {
            let (head, _) = bytes.split_once("\r\n\r\n").unwrap();
            assert!(head.contains(&format!("Bearer {}", self.key)), "{head}");
        }
        let shown = format!("you showed Bearer {}, yes", self.placeholder);
        let cut = &shown[..shown.len().min("you showed Bearer ".len() + self.key.len())];
        assert!(ran.out.contains(cut.trim_end_matches(", yes")), "{}", ran.out);
        self.home.said(ran);
        let metrics = self.serve.metrics();
        self.home.never_leaks(&[&self.key], &[("metrics", metrics.as_bytes())]);
        eventually("the sockets' outcomes", PATIENCE, || {
            let records = self.home.audit();
            let of = |key, value: &str| {
                records.iter().filter(|r| r["status"] == 101 && r[key] == value).count()
            };
            let whole = of("ending", "complete");
            (whole + of("code", "response-unscrubbable") == sockets && whole + 1 >= sockets)
                .then_some(())
        });
    }
}

#[test]
fn python_websockets() {
    let world = World::new();
    let ran = world.run(python().as_os_str(), "with_websockets.py", "wss://api.openai.com");
    // One of them was compressed, and showed the key.
    world.holds(&ran, 4);
    assert!(ran.out.contains("cut: no close frame"), "{}", ran.out);
}

#[test]
fn node_ws_and_undici() {
    let world = World::new();
    let ran = world.run("node".as_ref(), "with_ws.mjs", "wss://api.openai.com");
    world.holds(&ran, 4);
}

/// By case: the two verdicts, the code of the close, and whether it was clean.
type Verdicts = BTreeMap<String, serde_json::Value>;

#[track_caller]
fn verdicts(running: &mut Running) -> Verdicts {
    let mut verdicts: Verdicts = serde_json::from_str(&running.last_line("verdicts: ")).unwrap();
    // Both are passed. Which it is hangs on how bytes fall into reads: whether what came before a
    // bad frame was answered before the frame was seen. That differs from run to run.
    for verdict in verdicts.values_mut().filter(|verdict| verdict[0] == "NON-STRICT") {
        verdict[0] = "OK".into();
    }
    verdicts
}

/// What differs, and that there was enough to differ in.
#[track_caller]
fn same(direct: &Verdicts, through: &Verdicts, least_ok: usize) {
    let ok = direct.values().filter(|verdict| verdict[0] == "OK" && verdict[1] == "OK").count();
    println!("{} cases, {ok} of them without any remark", direct.len());
    assert!(ok >= least_ok, "{ok} of {} are right without the proxy", direct.len());
    let differing: Vec<_> = direct
        .iter()
        .filter(|(case, verdict)| through.get(*case) != Some(verdict))
        .map(|(case, verdict)| format!("{case}: {verdict} became {:?}", through.get(case)))
        .collect();
    assert!(differing.is_empty(), "{}", differing.join("\n"));
    assert_eq!(direct.len(), through.len());
}

/// A home whose credential is injected into every handshake to this name and port, so that all
/// that comes back is searched.
fn searching(host: &str, port: u16, origin: &Origin) -> (Home, Agent, Serve) {
    let home = Home::strict();
    home.set("log.level: info");
    home.reach_as(host, origin.address, Some(origin.ca_file()));
    let to = format!("https://{host}:{port}");
    home.add("main", &["--to", &to, "--header", "Authorization: Bearer {secret}"], &canary());
    home.policy("version: 1\nrules:\n- {name: all, agents: ['*'], use: ['*'], inject: always}\n");
    let agent = home.agent("worker");
    let serve = home.serve();
    (home, agent, serve)
}

#[test]
fn every_autobahn_case_has_the_verdict_on_a_server_that_it_has_without_the_proxy() {
    let (_server, address) = server();
    let origin = Origin::before("localhost", address);
    // kosoku knows no proxies: this port leads through one.
    let bridge = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = bridge.local_addr().unwrap().port();
    let (home, agent, serve) = searching("localhost", port, &origin);
    let lead = lead_through(bridge, serve.proxy, &agent, &format!("localhost:{port}"), &home);
    let leading = runtime().spawn(lead);

    let fuzz = |url: &str| {
        let mut running = Running::start(&mut autobahn(&["fuzz-server", url]));
        verdicts(&mut running)
    };
    let direct = fuzz(&format!("ws://{address}"));
    let through = fuzz(&format!("ws://localhost:{port}"));
    same(&direct, &through, 270);
    assert!(origin.connections() >= direct.len(), "the cases went through the proxy");
    let with_key = origin.raw().iter().filter(|raw| raw.contains("Bearer sk-canary-")).count();
    assert!(with_key >= direct.len(), "every handshake had the key: {with_key}");
    leading.abort();
}

#[test]
fn every_autobahn_case_has_the_verdict_on_a_client_that_it_has_without_the_proxy() {
    let start = || {
        let mut running = Running::start(&mut autobahn(&["fuzz-client"]));
        let port: u16 = running.line("port: ").trim().parse().unwrap();
        (running, SocketAddr::from(([127, 0, 0, 1], port)))
    };
    let (mut direct, address) = start();
    let (mut through, hidden) = start();
    let origin = Origin::before("cases.test", hidden);
    let (home, agent, serve) = searching("cases.test", 443, &origin);
    let proxy = agent.proxy_url(serve.proxy);
    let mut clients = [
        Running::start(&mut autobahn(&["client", &format!("ws://{address}")])),
        Running::start(
            autobahn(&["client", "wss://cases.test"])
                .env("HTTPS_PROXY", proxy)
                .env("SSL_CERT_FILE", home.ca()),
        ),
    ];
    for client in &mut clients {
        client.last_line("done");
    }
    same(&verdicts(&mut direct), &verdicts(&mut through), 270);
    let with_key = origin.raw().iter().filter(|raw| raw.contains("Bearer sk-canary-")).count();
    assert!(with_key > 300, "every handshake had the key: {with_key}");
}

/// Takes connections, and leads each through a tunnel of its own, with TLS inside.
fn lead_through(
    port: std::net::TcpListener,
    proxy: SocketAddr,
    agent: &Agent,
    authority: &str,
    home: &Home,
) -> impl Future<Output = ()> + Send + use<> {
    port.set_nonblocking(true).unwrap();
    let ask = connect(authority, &agent.authorization());
    let tls = TlsConnector::from(Arc::new(client_config(&home.ca())));
    let name = authority.split(':').next().unwrap().to_owned();
    let name = ServerName::try_from(name).unwrap();
    async move {
        let port = TcpListener::from_std(port).unwrap();
        loop {
            let (mut client, _) = port.accept().await.unwrap();
            let (ask, tls, name) = (ask.clone(), tls.clone(), name.clone());
            tokio::spawn(async move {
                let mut tunnel = TcpStream::connect(proxy).await.unwrap();
                tunnel.set_nodelay(true).unwrap();
                client.set_nodelay(true).unwrap();
                tunnel.write_all(ask.as_bytes()).await.unwrap();
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(tunnel.read_u8().await.unwrap());
                }
                assert!(head.starts_with(b"HTTP/1.1 200"), "{}", head.escape_ascii());
                let mut tunnel = tls.connect(name, tunnel).await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut client, &mut tunnel).await;
            });
        }
    }
}
