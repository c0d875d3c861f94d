//! Real clients, unmodified, as `locum run` and `locum env` start them: the origin gets the real
//! key, and nothing that the client has or says holds it, in any encoding.
//!
//! Python packages and Node modules are installed once under `target/`; where that fails, these
//! tests fail.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::format_collect)]

#[path = "clients/cut.rs"]
mod cut;
#[path = "clients/git.rs"]
mod git;
mod support;
#[path = "clients/upload.rs"]
mod upload;

use std::path::PathBuf;
use std::process::Command;

use support::*;

/// Versions are fixed, so that a failure is ours.
const PYTHON: &[&str] =
    &["requests==2.34.2", "httpx==0.28.1", "openai==3.54.0", "anthropic==2.12.0"];
const NODE: &[&str] = &["undici@7.30.2", "openai@6.49.0"];

fn python() -> PathBuf {
    Tools::python(PYTHON).path.join("bin/python")
}

/// A directory in which Node finds the modules.
fn modules() -> PathBuf {
    Tools::node(NODE).path.join("package.json")
}

fn script(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/clients").join(name)
}

/// A provider's host, its credential, an agent, and a proxy.
struct World {
    serve: Option<Serve>,
    home: Home,
    origin: Origin,
    key: String,
    placeholder: String,
    /// The variable in which programs look for the key.
    variable: Option<&'static str>,
}

impl World {
    fn openai() -> Self {
        let world = Self::with("api.openai.com", "openai", &["--provider", "openai"]);
        Self { variable: Some("OPENAI_API_KEY"), ..world }
    }

    fn anthropic() -> Self {
        let world = Self::with("api.anthropic.com", "anthropic", &["--provider", "anthropic"]);
        Self { variable: Some("ANTHROPIC_API_KEY"), ..world }
    }

    fn with(host: &str, name: &str, credential: &[&str]) -> Self {
        Self::before(Origin::start(host), name, credential, |_| {})
    }

    fn before(origin: Origin, name: &str, credential: &[&str], prepare: impl Fn(&Home)) -> Self {
        let home = Home::new();
        prepare(&home);
        let key = canary();
        origin.accept(&key);
        home.reach(&origin);
        home.add(name, credential, &key);
        home.agent("worker");
        let shown = home.locum(&["credential", "show", name, "--json"]).ok();
        let shown: serde_json::Value = serde_json::from_str(&shown.out).unwrap();
        let placeholder = shown["placeholder"].as_str().unwrap().to_owned();
        assert!(placeholder.contains(&format!("locum_{name}")));
        let serve = Some(home.serve());
        Self { serve, home, origin, key, placeholder, variable: None }
    }

    /// `locum run -- program`, from an environment in which the real key is lying about.
    fn run(&self, program: &std::ffi::OsStr) -> Command {
        let mut command = self.home.command(&["run", "--agent", "worker", "--run", "r42", "--"]);
        command.arg(program);
        command.envs(self.variable.map(|name| (name, &self.key)));
        command
    }

    /// Has the program's own access tokens, the audit log, the metrics and everything on disk
    /// searched for the key; and sees to it that the origin got the real one, once a request.
    #[track_caller]
    fn holds(self, ran: &Ran, requests: usize) {
        let seen = self.origin.seen();
        let with_key =
            seen.iter().filter(|s| s.headers.iter().any(|(_, v)| self.shows_key(v))).count();
        assert_eq!(with_key, requests, "requests with the key: {seen:?}");
        // Outside the slots a reference is inert text, as in the history of a conversation.
        let placeholders =
            seen.iter().flat_map(|s| &s.headers).filter(|(_, v)| v.contains("locum_"));
        assert_eq!(placeholders.count(), 0, "a placeholder went upstream in a header: {seen:?}");
        assert!(ran.out.contains(&self.placeholder), "{}", ran.out);
        let metrics = self.serve.as_ref().map(Serve::metrics).unwrap_or_default();
        self.home.said(ran);
        let texts: [(&str, &[u8]); 1] = [("metrics", metrics.as_bytes())];
        self.home.never_leaks(&[&self.key], &texts);
        let accesses: Vec<_> = self
            .home
            .audit()
            .into_iter()
            .filter(|r| r["kind"] == "access" && r["credential"].is_string())
            .collect();
        assert_eq!(accesses.len(), requests, "{accesses:?}");
        for access in accesses {
            assert_eq!(access["run"], "r42");
            assert_eq!(access["agent"], "worker");
            assert_eq!(access["decision"], "permit");
        }
    }

    fn shows_key(&self, value: &str) -> bool {
        let pair = || {
            let token = value.strip_prefix("Basic ")?;
            let pair = data_encoding::BASE64.decode(token.as_bytes()).ok()?;
            Some(String::from_utf8_lossy(&pair).into_owned())
        };
        value.contains(&self.key) || pair().is_some_and(|pair| pair.contains(&self.key))
    }
}

/// A conversation that streams: the origin says the next word only when the client has printed the
/// one before. Where anything on the way waits for more, this never ends.
#[track_caller]
fn converse(world: &World, command: &mut Command) -> Ran {
    world.origin.hold();
    let mut program = Running::start(command);
    let answer = format!("one two ({}) four", world.placeholder);
    assert_eq!(program.line("whole: "), answer);
    let words = ["one", "two", &format!("({})", world.placeholder), "four"];
    for word in words {
        assert_eq!(program.line("word: ").trim(), word);
        world.origin.release();
    }
    program.end().ok()
}

#[test]
fn curl() {
    let world = World::openai();
    let mut command = world.run("sh".as_ref());
    command.arg("-c").arg(
        "set -e; env; for i in 1 2; do curl -sS --fail -D - -d hello \
         -H \"Authorization: Bearer $OPENAI_API_KEY\" https://api.openai.com/echo; done",
    );
    let ran = run(&mut command, b"").ok();
    world.holds(&ran, 2);
}

#[test]
fn curl_with_the_exports_of_env() {
    let world = World::openai();
    let mut command = Command::new("sh");
    world.home.clean(&mut command);
    command.env("OPENAI_API_KEY", &world.key).arg("-c").arg(format!(
        "set -e; eval \"$('{}' --home '{}' env --agent worker --run r42)\"; env; \
         curl -sS --fail -D - -H \"Authorization: Bearer $OPENAI_API_KEY\" https://api.openai.com/echo",
        env!("CARGO_BIN_EXE_locum"),
        world.home.path().display(),
    ));
    let ran = run(&mut command, b"").ok();
    world.holds(&ran, 1);
}

#[test]
fn curl_without_a_proxy_that_serves() {
    let mut world = World::openai();
    world.serve.take().unwrap().stop();
    let mut command = world.run("sh".as_ref());
    command.arg("-c").arg(
        "env; curl -sS --fail -H \"Authorization: Bearer $OPENAI_API_KEY\" \
         https://api.openai.com/echo || exit; exit 7",
    );
    // The program's own exit code comes through.
    let ran = run(&mut command, b"").failed(7);
    world.holds(&ran, 1);
}

#[test]
fn python_requests() {
    let world = World::openai();
    let ran = run(world.run(python().as_os_str()).arg(script("with_requests.py")), b"").ok();
    world.holds(&ran, 2);
}

#[test]
fn python_httpx() {
    let world = World::openai();
    let ran = run(world.run(python().as_os_str()).arg(script("with_httpx.py")), b"").ok();
    world.holds(&ran, 2);
}

#[test]
fn python_openai() {
    let world = World::openai();
    let mut command = world.run(python().as_os_str());
    let ran = converse(&world, command.arg(script("with_openai.py")));
    world.holds(&ran, 2);
}

#[test]
fn python_anthropic() {
    let world = World::anthropic();
    let mut command = world.run(python().as_os_str());
    let ran = converse(&world, command.arg(script("with_anthropic.py")));
    world.holds(&ran, 2);
}

#[test]
fn node_fetch() {
    let world = World::openai();
    let mut command = world.run("node".as_ref());
    command.arg(script("with_fetch.mjs")).env("MODULES", modules());
    let ran = run(&mut command, b"").ok();
    world.holds(&ran, 2);
}

/// A proxy with a port that has TLS, beside the one that `locum run` uses.
fn behind_tls() -> (World, PathBuf) {
    let prepare = |home: &Home| {
        let issued = Authority::new(&home.work(), "listener").issue("proxy");
        let (certificate, key) = (issued.certificate.display(), issued.key.display());
        home.set(&format!("proxy.tls: {{certificate: '{certificate}', key: '{key}'}}"));
        home.set("proxy.listen: [{address: '127.0.0.1:0', tls: off}, '127.0.0.1:0']");
    };
    let provider = ["--provider", "openai"];
    let world = World::before(Origin::start("api.openai.com"), "openai", &provider, prepare);
    let ca = world.home.work().join("listener.pem");
    (World { variable: Some("OPENAI_API_KEY"), ..world }, ca)
}

/// Turns the variables of `locum run` to the port with TLS, and has its CA believed too.
const THROUGH_TLS: &str = r#"
cat "$SSL_CERT_FILE" "$1" > both.pem
url="https://${HTTPS_PROXY#http://}"
export HTTPS_PROXY="${url%:*}:$2" https_proxy="${url%:*}:$2"
export SSL_CERT_FILE=$PWD/both.pem REQUESTS_CA_BUNDLE=$PWD/both.pem NODE_EXTRA_CA_CERTS=$PWD/both.pem
shift 2
exec "$@"
"#;

#[track_caller]
fn through_tls(program: &str, argument: &str, requests: usize) {
    let (world, ca) = behind_tls();
    let serving = std::fs::read(world.home.path().join("serve.json")).unwrap();
    let serving: serde_json::Value = serde_json::from_slice(&serving).unwrap();
    let address: std::net::SocketAddr = serving["tls"][0].as_str().unwrap().parse().unwrap();
    let mut command = world.run("sh".as_ref());
    command.args(["-c", THROUGH_TLS, "sh"]).arg(ca).arg(address.port().to_string());
    command.arg(program).arg(script(argument)).env("MODULES", modules());
    let ran = run(&mut command, b"").ok();
    assert!(
        ran.out.contains(&format!("@{address}")),
        "it was told of the port with TLS: {}",
        ran.out
    );
    world.holds(&ran, requests);
}

#[test]
fn python_requests_through_a_proxy_with_tls() {
    through_tls(python().to_str().unwrap(), "with_requests.py", 2);
}

#[test]
fn python_httpx_through_a_proxy_with_tls() {
    through_tls(python().to_str().unwrap(), "with_httpx.py", 2);
}

#[test]
fn node_undici_through_a_proxy_with_tls() {
    through_tls("node", "with_fetch.mjs", 2);
}

#[test]
fn node_openai() {
    let world = World::openai();
    let mut command = world.run("node".as_ref());
    let ran = converse(&world, command.arg(script("with_openai.mjs")).env("MODULES", modules()));
    world.holds(&ran, 2);
}

/// `$1` is the URL. Clones, fetches what somebody else pushed, and pushes.
const GIT: &str = r#"set -e; env
git clone -q "$1" clone
cd clone
git log --format=%s
git -C "$2" update-ref refs/heads/other main
git fetch -q && git branch -r
git commit -q --allow-empty -m second
git push -q origin main
git remote -v
"#;

fn use_git(url: &str, configuration: &[(&str, &str)]) -> (World, Ran) {
    let to = ["--to", "https://git.test", "--basic"];
    let world = World::with("git.test", "forge", &to);
    let repository = Repository::new(&world.origin, &world.home.work(), "repo.git");
    let mut command = world.run("sh".as_ref());
    command.arg("-c").arg(GIT).arg("sh").arg(url).arg(&repository.path);
    support::plain_git(&mut command);
    command.env("GIT_CONFIG_COUNT", configuration.len().to_string());
    for (i, (key, value)) in configuration.iter().enumerate() {
        command.env(format!("GIT_CONFIG_KEY_{i}"), key).env(format!("GIT_CONFIG_VALUE_{i}"), value);
    }
    let ran = run(&mut command, b"").ok();
    assert_eq!(repository.log(), ["second", "first"]);
    assert!(ran.out.contains("origin/other"), "{}", ran.out);
    (world, ran)
}

#[test]
fn git_with_the_placeholder_in_the_url() {
    let (world, ran) = use_git("https://agent:locum_forge@git.test/git/repo.git", &[]);
    let requests =
        world.origin.seen().iter().filter(|s| !s.all("authorization").is_empty()).count();
    assert!(requests >= 6, "clone, fetch and push are at least six requests");
    world.holds(&ran, requests);
}

#[test]
fn git_with_the_placeholder_from_a_credential_helper() {
    let helper = "!f() { echo username=agent; echo password=locum_forge; }; f";
    let (world, ran) = use_git("https://git.test/git/repo.git", &[("credential.helper", helper)]);
    let requests =
        world.origin.seen().iter().filter(|s| !s.all("authorization").is_empty()).count();
    assert!(requests >= 6, "clone, fetch and push are at least six requests");
    let users = world.origin.seen();
    let users = users.iter().filter_map(|s| s.header("authorization"));
    for value in users {
        assert_eq!(value, basic("agent", &world.key), "the user name is the client's own");
    }
    // A helper's answer is not printed; the placeholder is in what it was told.
    let ran = Ran { out: ran.out + "locum_forge", ..ran };
    world.holds(&ran, requests);
}

/// Started by hand, with the proxy and without the CA. Each says something else to its user, and
/// none of it names the CA of this proxy; the log does, once, with what mends this client.
#[test]
fn clients_without_the_ca_are_each_told_of_once_with_their_own_fix() {
    let home = Home::new();
    let origin = Origin::start("api.openai.com");
    home.reach(&origin);
    home.add("openai", &["--provider", "openai"], &canary());
    let agent = home.agent("worker");
    let serve = home.serve();
    let url = "https://api.openai.com/v1/models";
    let requests = format!("import requests; requests.get('{url}')");
    let httpx = format!("import httpx; httpx.get('{url}')");
    let fetch = format!(
        "const {{ EnvHttpProxyAgent, fetch }} = require('undici');
         fetch('{url}', {{ dispatcher: new EnvHttpProxyAgent() }})
           .catch((error) => {{ console.error(error); process.exit(1); }})"
    );
    let (python, node) = (python(), Tools::node(NODE).path);
    let clients = [
        ("curl", Command::new("curl"), vec!["-sS", url], "CURL_CA_BUNDLE"),
        ("wget", Command::new("wget"), vec!["-q", "-O-", "-t3", url], "WGETRC"),
        ("git", Command::new("git"), vec!["ls-remote", url], "GIT_SSL_CAINFO"),
        ("python", Command::new(&python), vec!["-c", &requests], "REQUESTS_CA_BUNDLE"),
        ("httpx", Command::new(&python), vec!["-c", &httpx], "SSL_CERT_FILE"),
        ("node", Command::new("node"), vec!["-e", &fetch], "NODE_EXTRA_CA_CERTS"),
    ];
    let told = |client: &str| {
        let client = format!("client={client} ");
        let log = serve.log();
        let lines = log.lines().filter(|l| l.contains(" WARN ") && l.contains(&client));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    for (client, mut command, arguments, fix) in clients {
        for _ in 0..2 {
            home.clean(&mut command);
            command.env("HTTPS_PROXY", agent.proxy_url(serve.proxy));
            command.env("https_proxy", agent.proxy_url(serve.proxy)).current_dir(&node);
            let ran = run(command.args(&arguments), b"");
            assert_ne!(ran.code, 0, "{client} does not go on: {}", ran.out);
            command = Command::new(command.get_program());
        }
        let series = format!("locum_untrusted_ca_total{{agent=\"worker\",client=\"{client}\"}}");
        eventually(client, PATIENCE, || (serve.metric(&series) >= 2).then_some(()));
        let lines = told(client);
        assert_eq!(lines.len(), 1, "{client}: {lines:#?}");
        assert!(lines[0].contains(fix), "{}", lines[0]);
    }
    assert_eq!(origin.connections(), 0);
}

#[test]
fn a_wrong_key_is_refused_by_the_origin_and_the_search_finds_what_is_there() {
    let world = World::openai();
    // Without a grace: the origin still takes the old one, and so would the second try.
    let rotate = ["credential", "rotate", "openai", "--grace", "0"];
    world.home.locum_with(&rotate, canary().as_bytes()).ok();
    let mut command = world.run("curl".as_ref());
    command.args(["-sS", "-o", "/dev/null", "-w", "%{http_code}"]);
    command.arg("-H").arg(format!("Authorization: Bearer {}", world.placeholder));
    let ran = run(command.arg("https://api.openai.com/v1/models"), b"").ok();
    assert_eq!(ran.out, "401");
    // The other half of every test here: a key that is there is found.
    for form in forms(world.key.as_bytes()) {
        let text = [b"before ", &form.bytes[..], b" after"].concat();
        let found = leaks(&world.key, &text);
        assert!(found.iter().any(|leak| leak.form == form.name), "{}", form.name);
    }
    let half = &world.key[world.key.len() / 2..];
    assert!(!leaks(&world.key, half.as_bytes()).is_empty());
    assert!(leaks(&world.key, canary().as_bytes()).is_empty());
}
