//! What opens the proxy opens nothing else: an agent's token, a run token and a token of an issuer,
//! tried on everything that administers, change nothing.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

use serde_json::Value;
use sha2::Digest as _;

use crate::jwt::{Issuer, claims, world};
use crate::support::*;

/// All that administration could change, as the operator sees it.
struct State {
    lists: Vec<String>,
    /// Digests: what is in some of them is nobody's business.
    files: BTreeMap<String, String>,
    events: Vec<String>,
}

fn state(world: &World) -> State {
    let commands: [&[&str]; 4] = [
        &["agent", "list", "--json"],
        &["credential", "list", "--json"],
        &["set", "list", "--json"],
        &["vault", "status", "--json"],
    ];
    let lists = commands.iter().map(|command| world.home.locum(command).ok().out).collect();
    let mut files = BTreeMap::new();
    let home = world.home.path();
    for name in ["locum.yaml", "master.key", "ca.pem", "ca-bundle.pem", "policies/first.yaml"] {
        let bytes = std::fs::read(home.join(name)).unwrap();
        let digest = data_encoding::HEXLOWER.encode(&sha2::Sha256::digest(&bytes));
        files.insert(name.to_owned(), digest);
    }
    let count = std::fs::read_dir(home.join("policies")).unwrap().count();
    files.insert("policies".to_owned(), count.to_string());
    let records = world.home.audit();
    // Failed attempts to get in are told; they change nothing.
    let events = records.iter().filter_map(|record| record["event"].as_str());
    let events = events.filter(|event| *event != "authentication-failures");
    State { lists, files, events: events.map(str::to_owned).collect() }
}

/// Piece by piece, so that a difference can be read.
#[track_caller]
fn same(after: &State, before: &State) {
    for (after, before) in after.lists.iter().zip(&before.lists) {
        assert_eq!(after, before);
    }
    assert_eq!(after.files, before.files);
    assert_eq!(after.events, before.events);
}

/// Three ways in, each with how it is written as proxy credentials, and the bare token.
fn proofs(world: &World, issuer: &Issuer) -> Vec<(String, String)> {
    let made = world.home.locum(&["run-token", "--agent", "worker", "--json"]).ok().out;
    let made: Value = serde_json::from_str(&made).unwrap();
    let tokens = [
        world.agent.token.clone(),
        made["token"].as_str().unwrap().to_owned(),
        issuer.token(&claims()),
    ];
    tokens.map(|token| (basic("worker", &token), token)).into()
}

const PATHS: &[&str] = &[
    "/",
    "/admin",
    "/admin/agents",
    "/api/v1/agents",
    "/v1/credentials",
    "/agents/worker",
    "/credentials/main",
    "/policies/first.yaml",
    "/policy",
    "/config",
    "/locum.yaml",
    "/vault",
    "/master.key",
    "/reload",
    "/-/reload",
    "/-/quit",
    "/shutdown",
    "/debug/pprof/",
    "/approvals",
    "/metrics",
    "/healthz",
    "/readyz",
];

const METHODS: &[&str] = &["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "GET"];

#[test]
fn what_opens_the_proxy_administers_nothing_over_the_network() {
    let issuer = Issuer::new("one");
    let (world, _) = world(&issuer, "");
    let proofs = proofs(&world, &issuer);
    let before = state(&world);
    let (ops, proxy) = (world.serve.ops, world.serve.proxy);
    for (pair, token) in &proofs {
        let fields = format!(
            "Authorization: {pair}\r\nProxy-Authorization: {pair}\r\nX-Api-Key: {token}\r\n\
             Cookie: token={token}\r\nContent-Length: 2\r\n\r\n{{}}"
        );
        for path in PATHS {
            for method in METHODS {
                // The operations port answers reads alone, and to everybody the same.
                let mut wire = Wire::plain(ops);
                wire.send(format!("{method} {path} HTTP/1.1\r\nHost: {ops}\r\n{fields}"));
                let status = wire.try_answer(method).map_or(0, |answer| answer.status);
                let plain = *method == "GET" && ["/metrics", "/healthz", "/readyz"].contains(path);
                assert_eq!(status == 200, plain, "ops: {method} {path}: {status}");
                // The proxy port is no server.
                let mut wire = Wire::plain(proxy);
                wire.send(format!("{method} {path} HTTP/1.1\r\nHost: {proxy}\r\n{fields}"));
                let status = wire.try_answer(method).map_or(0, |answer| answer.status);
                assert_eq!(status, 400, "proxy: {method} {path}");
            }
            // Nor does the proxy lead to either.
            for own in [ops, proxy] {
                let mut wire = Wire::plain(proxy);
                wire.send(format!("GET http://{own}{path} HTTP/1.1\r\nHost: {own}\r\n{fields}"));
                let answer = wire.try_answer("GET").unwrap();
                assert!(answer.status >= 400, "http://{own}{path}: {}", answer.status);
                assert_ne!(answer.problem(), "");
            }
        }
        for own in [ops, proxy] {
            let mut wire = Wire::plain(proxy);
            let answer = wire.ask(connect(&own.to_string(), pair));
            if answer.status == 200 {
                let mut inside = wire.tls(&own.ip().to_string(), &world.home.ca()).unwrap();
                let status = inside.ask(request("POST", "/admin", &[], "")).status;
                assert!(status >= 400, "inside {own}: {status}");
            }
        }
        // Inside a tunnel our own words are taken out, and mean nothing.
        let mut wire = world.serve.wire();
        assert_eq!(wire.ask(connect(&format!("{HOST}:443"), pair)).status, 200);
        let mut wire = wire.tls(HOST, &world.home.ca()).unwrap();
        let words = [AUTHORIZED, "Locum-Agent: admin", "Locum-Role: owner", "Locum-Approve: all"];
        assert_eq!(wire.ask(request("POST", "/locum/admin", &words, "")).status, 200);
    }
    for raw in world.origin.raw() {
        assert!(!raw.contains("Locum-"), "{raw}");
    }
    same(&state(&world), &before);
}

/// What would change something, if it were done.
const CHANGES: &[(&str, &str, &str)] = &[
    ("POST", "/v1/run-tokens", "{\"agent\": \"worker\"}"),
    ("POST", "/v1/agents", "{\"name\": \"mallory\"}"),
    ("POST", "/v1/agents/worker/labels", "{\"labels\": {\"team\": \"own\"}}"),
    ("POST", "/v1/agents/worker/revoke", "{}"),
    ("POST", "/v1/credentials/main/rotate", "{\"secret\": \"of-the-agents-own-choice\"}"),
    ("POST", "/v1/credentials/main/revoke", "{}"),
    ("POST", "/v1/credentials/main/remove", "{}"),
    ("POST", "/v1/credentials/main/schedule", "{\"rotate\": {\"days\": 1}}"),
    ("POST", "/v1/sets", "{\"name\": \"all\", \"members\": [\"main\"]}"),
    ("POST", "/v1/values", "{\"name\": \"region\", \"text\": \"own\"}"),
    ("POST", "/v1/administrators", "{\"name\": \"mallory\", \"role\": \"owner\"}"),
    ("PUT", "/v1/policies/first.yaml", "version: 1\nrules: []\n"),
    ("DELETE", "/v1/policies/first.yaml", ""),
];

/// Every route that there is, as the proxy itself says it to an administrator, and what would change
/// something.
fn all_there_is(world: &World) -> Vec<(String, String, String)> {
    let added = ["admin", "add", "ada", "--role", "viewer"];
    let token = run(&mut world.home.command(&added), b"").ok().out;
    let mut wire = Wire::try_unix(&world.home.path().join("admin.sock")).unwrap();
    wire.send(format!(
        "GET /v1/routes HTTP/1.1\r\nHost: locum\r\nAuthorization: Bearer {}\r\n\r\n",
        token.trim()
    ));
    let answer = wire.answer();
    assert_eq!(answer.status, 200, "{}", answer.text());
    eventually("the administrator is on record", PATIENCE, || {
        let records = world.home.audit_now();
        records.iter().any(|record| record["event"] == "administrator-added").then_some(())
    });
    let routes: Value = serde_json::from_slice(&answer.body).unwrap();
    let routes: Vec<_> = routes
        .as_array()
        .unwrap()
        .iter()
        .map(|route| {
            let text = |key: &str| route[key].as_str().unwrap().to_owned();
            (text("method"), text("path").replace('*', "main"), "{}".to_owned())
        })
        .collect();
    assert!(routes.len() >= 30, "{routes:?}");
    let changes = CHANGES
        .iter()
        .map(|(method, path, body)| ((*method).to_owned(), (*path).to_owned(), (*body).to_owned()));
    routes.into_iter().chain(changes).collect()
}

#[test]
fn what_opens_the_proxy_administers_nothing_over_the_administrators_socket() {
    let issuer = Issuer::new("one");
    let (world, _) = world(&issuer, "");
    let proofs = proofs(&world, &issuer);
    let all = all_there_is(&world);
    let before = state(&world);
    let socket = world.home.path().join("admin.sock");
    // With a token that is of the right kind and nobody's, and in the forms that the proxy takes.
    let shown = proofs.iter().flat_map(|(pair, token)| {
        let alike = token.get(4..).map(|rest| format!("Bearer lca_{rest}")).unwrap_or_default();
        [pair.clone(), format!("Bearer {token}"), alike]
    });
    let shown: Vec<String> = shown.collect();
    std::thread::scope(|scope| {
        // Each is answered late, so they go side by side.
        for (method, path, body) in &all {
            let (shown, socket) = (&shown, &socket);
            scope.spawn(move || {
                for field in shown {
                    let mut wire = Wire::try_unix(socket).unwrap();
                    let length = body.len();
                    wire.send(format!(
                        "{method} {path} HTTP/1.1\r\nHost: locum\r\nAuthorization: {field}\r\n\
                         Proxy-Authorization: {field}\r\nContent-Length: {length}\r\n\r\n{body}"
                    ));
                    let answer = wire.answer();
                    assert_eq!(answer.status, 401, "{method} {path} with {field}");
                    assert!(
                        answer.text().contains("\"code\":\"unauthorized\""),
                        "{}",
                        answer.text()
                    );
                    assert!(!answer.text().contains("api.test"), "{}", answer.text());
                }
            });
        }
    });
    same(&state(&world), &before);
    // Another user of the machine cannot even open it.
    let mode = std::fs::metadata(&socket).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert_eq!(world.get("/after").status, 200);
}

#[test]
fn an_agents_certificate_administers_nothing() {
    let mut made = None;
    let world = World::with(BEARER, canary(), |home, _| {
        let ca = Authority::new(&home.work(), "listener");
        let clients = Authority::new(&home.work(), "clients");
        let issued = ca.issue("proxy");
        let (certificate, key) = (issued.certificate.display(), issued.key.display());
        let of_clients = format!("client_ca: '{}', client_auth: optional", clients.file.display());
        for place in ["proxy.tls", "admin.tls"] {
            home.set(&format!(
                "{place}: {{certificate: '{certificate}', key: '{key}', {of_clients}}}"
            ));
        }
        home.set("admin.listen: 127.0.0.1:0");
        home.set("identity.client_certificates: {name: cn, map: [{match: worker, agent: worker}]}");
        made = Some((clients, ca.file));
    });
    let (clients, ca) = made.unwrap();
    let config = clients.issue("worker").client(&ca);
    // It opens the proxy ...
    let mut wire = world.serve.wire().tls_with("127.0.0.1", config.clone()).unwrap();
    let knock = format!("CONNECT {HOST}:443 HTTP/1.1\r\nHost: {HOST}:443\r\n\r\n");
    assert_eq!(wire.ask(knock).status, 200);
    // ... and nothing else, though the administrators' listener lets it in.
    let before = state(&world);
    let announced = std::fs::read(world.home.path().join("serve.json")).unwrap();
    let announced: Value = serde_json::from_slice(&announced).unwrap();
    let port = announced["admin"].as_str().unwrap().parse().unwrap();
    let basic = basic("worker", "");
    std::thread::scope(|scope| {
        for (method, path, body) in CHANGES {
            let (config, basic) = (&config, &basic);
            scope.spawn(move || {
                let wire = Wire::plain(port).tls_with("127.0.0.1", config.clone());
                let length = body.len();
                let answer = wire.unwrap().ask(format!(
                    "{method} {path} HTTP/1.1\r\nHost: locum\r\nAuthorization: {basic}\r\n\
                     Proxy-Authorization: {basic}\r\nContent-Length: {length}\r\n\r\n{body}"
                ));
                assert_eq!(answer.status, 401, "{method} {path}");
                assert!(answer.text().contains("\"code\":\"unauthorized\""), "{}", answer.text());
            });
        }
    });
    same(&state(&world), &before);
}

/// Commands that change something, or would tell what an agent must not know.
const COMMANDS: &[&[&str]] = &[
    &["agent", "add", "mallory"],
    &["agent", "revoke", "worker"],
    &["agent", "list"],
    &["credential", "list"],
    &["credential", "revoke", "main"],
    &["credential", "remove", "main"],
    &["set", "add", "all", "main"],
    &["value", "set", "region", "own"],
    &["agent", "label", "worker", "team=own"],
    &["policy", "remove", "first.yaml"],
    &["admin", "add", "mallory", "--role", "owner"],
    &["workspace", "add", "own"],
    &["workspace", "remove", "default", "--yes"],
    &["--workspace", "other", "agent", "add", "mallory"],
    &["run-token", "--agent", "worker"],
    &["ca", "rotate"],
    &["vault", "status"],
    &["vault", "rekey", "--key-file", "new.key"],
    &["audit", "query"],
    &["policy", "explain", "--agent", "worker", "https://api.test/"],
    &["serve", "--take-over"],
];

#[test]
fn what_opens_the_proxy_administers_nothing_on_the_command_line() {
    let issuer = Issuer::new("one");
    let (world, _) = world(&issuer, "");
    let proofs = proofs(&world, &issuer);
    let before = state(&world);
    let own = tempfile::tempdir().unwrap();
    let real = world.home.path();
    for (_, token) in &proofs {
        for arguments in COMMANDS {
            // Where the agent is: its own home, and whatever it was given.
            let failed = |home: &Path, as_nobody: bool| {
                let mut command = Command::new(env!("CARGO_BIN_EXE_locum"));
                world.home.clean(&mut command);
                command.arg("--home").arg(home).args(*arguments).current_dir("/");
                command
                    .env("HOME", own.path())
                    .env("LOCUM_TOKEN", token)
                    .env("LOCUM_AGENT", "worker");
                let url = format!("http://worker:{token}@{}", world.serve.proxy);
                for name in ["HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY", "https_proxy"] {
                    command.env(name, &url);
                }
                if as_nobody {
                    command.uid(65_534).gid(65_534);
                }
                let ran = run(&mut command, b"");
                assert_ne!(ran.code, 0, "{arguments:?}: {}", ran.out);
                assert!(!ran.out.contains("lct_") && !ran.out.contains("api.test"), "{}", ran.out);
            };
            failed(own.path(), false);
            // As another user of the machine, on the very home. Only root can become one.
            if rustix::process::geteuid().is_root() {
                failed(&real, true);
            }
        }
    }
    same(&state(&world), &before);
    assert_eq!(world.get("/after").status, 200);
}
