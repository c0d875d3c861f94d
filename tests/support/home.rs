//! A home in a directory that is thrown away, and the commands that work on it.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde_json::Value;
use tempfile::TempDir;

use super::{Origin, PATIENCE, Serve, basic, search_everywhere};

/// How long after a call its outcome is waited for: ten times as long as it should take.
const OUTCOMES: Duration = Duration::from_millis(200);

/// A home. What its commands print is kept, to be searched for secrets.
pub struct Home {
    directory: TempDir,
    hosts: Mutex<BTreeMap<String, Reach>>,
    settings: Mutex<Vec<String>>,
    said: Mutex<Vec<u8>>,
}

struct Reach {
    address: SocketAddr,
    ca: Option<PathBuf>,
    http1_only: bool,
}

/// An agent of a home, with a token.
#[derive(Clone, Debug)]
pub struct Agent {
    pub name: String,
    pub token_id: String,
    pub token: String,
}

/// What a command came to.
#[derive(Debug)]
pub struct Ran {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Home {
    /// Runs `locum init` in a new directory and points the home at loopback.
    #[track_caller]
    pub fn new() -> Self {
        Self::made_by(&["init"])
    }

    /// The same, with the policy that `--strict` writes.
    #[track_caller]
    pub fn strict() -> Self {
        Self::made_by(&["init", "--strict"])
    }

    #[track_caller]
    fn made_by(init: &[&str]) -> Self {
        let home = Self::bare();
        home.locum(init).ok();
        home.write_config();
        home
    }

    /// Runs `locum init` on a config that is there already.
    #[track_caller]
    pub fn configured(line: &str) -> Self {
        use std::os::unix::fs::DirBuilderExt as _;
        let home = Self::bare();
        std::fs::DirBuilder::new().mode(0o700).create(home.path()).unwrap();
        home.set(line);
        home.locum(&["init"]).ok();
        home
    }

    /// A place for a home, before `init`.
    pub fn bare() -> Self {
        let directory = tempfile::Builder::new().prefix("locum-test-").tempdir().unwrap();
        std::fs::create_dir(directory.path().join("work")).unwrap();
        Self {
            directory,
            hosts: Mutex::default(),
            settings: Mutex::default(),
            said: Mutex::default(),
        }
    }

    /// The home itself.
    pub fn path(&self) -> PathBuf {
        self.directory.path().join("home")
    }

    /// A directory beside the home: logs of the proxy, files of clients.
    pub fn work(&self) -> PathBuf {
        self.directory.path().join("work")
    }

    pub fn ca(&self) -> PathBuf {
        self.path().join("ca.pem")
    }

    pub fn vault(&self) -> PathBuf {
        self.path().join("vault.db")
    }

    /// Makes `origin` answer for its host.
    pub fn reach(&self, origin: &Origin) {
        self.reach_as(&origin.host, origin.address, Some(origin.ca_file()));
    }

    /// Makes whatever listens at `address` answer for `host`.
    pub fn reach_as(&self, host: &str, address: SocketAddr, ca: Option<PathBuf>) {
        self.hosts.lock().insert(host.to_owned(), Reach { address, ca, http1_only: false });
        self.write_config();
    }

    /// Has a host that is reached spoken to in HTTP/1.1.
    pub fn http1_only(&self, host: &str) {
        self.hosts.lock().get_mut(host).expect("a host that is reached").http1_only = true;
        self.write_config();
    }

    /// Adds lines to `locum.yaml`: a section of its own, or `upstream.allow_addresses: [...]` and
    /// the like as `key: value` with dots.
    pub fn set(&self, line: &str) {
        // What was said of the same key before is taken back.
        let key = line.split(": ").next().unwrap();
        let mut settings = self.settings.lock();
        settings.retain(|setting| setting.split(": ").next() != Some(key));
        settings.push(line.to_owned());
        drop(settings);
        self.write_config();
    }

    /// Takes back what [`Home::set`] added under this key.
    pub fn unset(&self, key: &str) {
        self.settings.lock().retain(|line| !line.starts_with(&format!("{key}:")));
        self.write_config();
    }

    fn write_config(&self) {
        let mut sections: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        let mut add = |section, line: String| sections.entry(section).or_default().push(line);
        let settings = self.settings.lock();
        for section in ["proxy", "ops"] {
            if !settings.iter().any(|setting| setting.starts_with(&format!("{section}.listen"))) {
                add(section, "listen: 127.0.0.1:0".to_owned());
            }
        }
        if !settings.iter().any(|setting| setting.starts_with("log.level")) {
            add("log", "level: trace".to_owned());
        }
        for setting in settings.iter() {
            let (section, line) = setting.split_once('.').unwrap();
            add(section, line.to_owned());
        }
        let hosts = self.hosts.lock();
        if !hosts.is_empty() {
            let one = |(host, reach): (&String, &Reach)| {
                let ca = reach.ca.as_ref().map(|ca| format!(", ca_file: {}", ca.display()));
                let ca = ca.unwrap_or_default();
                let http1 = if reach.http1_only { ", http1_only: true" } else { "" };
                format!("    '{host}': {{address: '{}'{ca}{http1}}}", reach.address)
            };
            let lines: Vec<String> = hosts.iter().map(one).collect();
            add("upstream", format!("hosts:\n{}", lines.join("\n")));
        }
        let mut text = String::new();
        for (section, lines) in sections {
            text.push_str(section);
            text.push_str(":\n");
            for line in lines {
                text.push_str("  ");
                text.push_str(&line);
                text.push('\n');
            }
        }
        replace(&self.path().join("locum.yaml"), &text);
    }

    /// Replaces all policies by one.
    pub fn policy(&self, text: &str) {
        replace(&self.path().join("policies/first.yaml"), text);
    }

    /// One more policy file.
    pub fn add_policy(&self, name: &str, text: &str) {
        replace(&self.path().join("policies").join(name), text);
    }

    /// A command on this home, in an environment without anything of ours or of a proxy.
    pub fn command<A: AsRef<OsStr>>(&self, arguments: &[A]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_locum"));
        command.arg("--home").arg(self.path()).args(arguments);
        self.clean(&mut command);
        command
    }

    /// Takes from a command's environment what would make a test depend on where it runs.
    pub fn clean(&self, command: &mut Command) {
        command.env_clear().env("HOME", self.work()).env("LANG", "C.UTF-8").env("USER", "tester");
        for kept in ["PATH", "TMPDIR", "LLVM_PROFILE_FILE"] {
            if let Some(value) = std::env::var_os(kept) {
                command.env(kept, value);
            }
        }
        command.current_dir(self.work());
    }

    /// Runs `locum` to its end.
    #[track_caller]
    pub fn locum(&self, arguments: &[&str]) -> Ran {
        self.locum_with(arguments, b"")
    }

    /// Runs `locum` to its end, with `input` on its standard input.
    #[track_caller]
    pub fn locum_with(&self, arguments: &[&str], input: &[u8]) -> Ran {
        let mut command = self.command(arguments);
        let ran = run(&mut command, input);
        self.said(&ran);
        ran
    }

    /// Keeps what a program printed, to be searched later.
    pub fn said(&self, ran: &Ran) {
        let mut said = self.said.lock();
        said.extend_from_slice(ran.out.as_bytes());
        said.extend_from_slice(ran.err.as_bytes());
    }

    /// Adds a credential: `home.add("openai", &["--provider", "openai"], &key)`.
    #[track_caller]
    pub fn add(&self, name: &str, arguments: &[&str], secret: &str) {
        let all = [&["credential", "add", name], arguments].concat();
        self.locum_with(&all, secret.as_bytes()).ok();
    }

    #[track_caller]
    pub fn rotate(&self, name: &str, secret: &str) {
        self.locum_with(&["credential", "rotate", name], secret.as_bytes()).ok();
    }

    /// Adds an agent, or a further token of one.
    #[track_caller]
    pub fn agent(&self, name: &str) -> Agent {
        let ran = run(&mut self.command(&["agent", "add", name, "--json"]), b"").ok();
        let json: Value = serde_json::from_str(&ran.out).expect("`agent add --json` prints JSON");
        let text = |key: &str| json[key].as_str().unwrap().to_owned();
        Agent { name: text("agent"), token_id: text("token_id"), token: text("token") }
    }

    /// Starts the proxy.
    #[track_caller]
    pub fn serve(&self) -> Serve {
        Serve::start(self)
    }

    /// Every record of the audit log, in order. Outcomes are written a moment after their calls; they
    /// are waited for.
    pub fn audit(&self) -> Vec<Value> {
        let pending = |records: &[Value]| {
            let of = |kind: &str| records.iter().filter(|r| r["kind"] == kind).count();
            let refused = records.iter().filter(|r| r["decision"] == "refuse").count();
            of("access") - refused > of("outcome")
        };
        // Calls in flight have no outcome, so this gives up soon.
        let deadline = Instant::now() + OUTCOMES;
        loop {
            let records = self.audit_now();
            if !pending(&records) || Instant::now() > deadline {
                return records;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// What is in the log at this moment. A last line that is being written is left out.
    pub fn audit_now(&self) -> Vec<Value> {
        let mut files: Vec<PathBuf> = std::fs::read_dir(self.path().join("audit"))
            .into_iter()
            .flatten()
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.extension().is_some_and(|e| e == "jsonl"))
            .collect();
        files.sort();
        let mut records: Vec<Value> = Vec::new();
        for file in files {
            let text = std::fs::read_to_string(&file).unwrap();
            let whole = text.rfind('\n').map_or("", |end| &text[..end]);
            for line in whole.lines() {
                records.push(serde_json::from_str(line).expect("an audit line is JSON"));
            }
        }
        records
    }

    /// The records of one request, once both are there.
    #[track_caller]
    pub fn records_of(&self, request_id: &str, count: usize) -> Vec<Value> {
        super::eventually(&format!("{count} records of {request_id}"), PATIENCE, || {
            let mut records = self.audit();
            records.retain(|r| r["request_id"] == request_id);
            (records.len() >= count).then_some(records)
        })
    }

    /// The access records for a path, once there is at least one.
    #[track_caller]
    pub fn accesses_to(&self, path: &str) -> Vec<Value> {
        super::eventually(&format!("an access record of {path}"), PATIENCE, || {
            let mut records = self.audit();
            records.retain(|r| r["kind"] == "access" && r["path"] == path);
            (!records.is_empty()).then_some(records)
        })
    }

    /// Panics when a secret is in the home, in what lies beside it, in what commands printed, or in
    /// one of `texts`.
    #[track_caller]
    pub fn never_leaks(&self, secrets: &[&str], texts: &[(&str, &[u8])]) {
        let said = self.said.lock().clone();
        let texts = [texts, &[("what commands printed", &said)]].concat();
        search_everywhere(secrets, &[self.directory.path()], &texts);
    }
}

impl Agent {
    /// The value of `Proxy-Authorization`.
    pub fn authorization(&self) -> String {
        basic(&self.name, &self.token)
    }

    /// The value of `HTTPS_PROXY`.
    pub fn proxy_url(&self, proxy: SocketAddr) -> String {
        format!("http://{}:{}@{proxy}", self.name, self.token)
    }
}

impl Ran {
    #[track_caller]
    pub fn ok(self) -> Self {
        assert_eq!(self.code, 0, "it failed\nstdout: {}\nstderr: {}", self.out, self.err);
        self
    }

    #[track_caller]
    pub fn failed(self, code: i32) -> Self {
        assert_eq!(self.code, code, "stdout: {}\nstderr: {}", self.out, self.err);
        self
    }
}

/// Writes a file beside, and moves it into place, as editors and git do.
fn replace(path: &Path, text: &str) {
    use std::os::unix::fs::OpenOptionsExt as _;
    let beside = path.with_extension("new");
    let mut file = std::fs::File::options();
    let mut file = file.write(true).create(true).truncate(true).mode(0o600).open(&beside).unwrap();
    file.write_all(text.as_bytes()).unwrap();
    std::fs::rename(&beside, path).unwrap();
}

/// Runs a command to its end, or panics when it takes too long.
#[track_caller]
pub fn run(command: &mut Command, input: &[u8]) -> Ran {
    use std::os::unix::process::ExitStatusExt as _;
    let program = command.get_program().to_owned();
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|e| panic!("{} cannot be started: {e}", program.display()));
    let mut stdin = child.stdin.take().unwrap();
    // A command that fails early does not read its input.
    let _ = stdin.write_all(input);
    drop(stdin);
    let read = |mut from: Box<dyn std::io::Read + Send>| {
        std::thread::spawn(move || {
            let mut bytes = Vec::new();
            from.read_to_end(&mut bytes).unwrap();
            String::from_utf8_lossy(&bytes).into_owned()
        })
    };
    let out = read(Box::new(child.stdout.take().unwrap()));
    let err = read(Box::new(child.stderr.take().unwrap()));
    let start = Instant::now();
    let status = loop {
        match child.try_wait().unwrap() {
            Some(status) => break status,
            None if start.elapsed() > 4 * PATIENCE => {
                let _ = child.kill();
                panic!("{} did not end", program.display());
            }
            None => std::thread::sleep(Duration::from_millis(2)),
        }
    };
    let code = status.code().or_else(|| status.signal().map(|s| 128 + s)).unwrap();
    Ran { code, out: out.join().unwrap(), err: err.join().unwrap() }
}
