//! `locum demo` and `locum doctor`, as a person on a fresh machine runs them.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant, SystemTime};

use serde_json::Value;

/// Longer than any of it takes on a busy machine.
const PATIENCE: Duration = Duration::from_mins(1);

/// A machine of one's own: nothing of the developer's environment, settings or home is in it.
struct Machine {
    root: tempfile::TempDir,
}

impl Machine {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("tmp")).unwrap();
        Self { root }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    fn home(&self) -> PathBuf {
        self.path("home")
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_locum"));
        command
            .args(arguments)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.root.path())
            .env("TMPDIR", self.path("tmp"))
            .env("LOCUM_HOME", self.home())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// Runs what must succeed.
    fn locum(&self, arguments: &[&str]) {
        let output = self.run(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", text(&output.stderr));
    }

    /// A home on free ports, with a credential and an agent.
    fn init(&self) {
        self.locum(&["init"]);
        let config = self.home().join("locum.yaml");
        append(&config, "\nproxy: {listen: '127.0.0.1:0'}\nops: {listen: '127.0.0.1:0'}\n");
        let key = self.path("key.txt");
        fs::write(&key, "sk-proj-only-for-this-test-0123456789\n").unwrap();
        let from = key.to_str().unwrap();
        self.locum(&["credential", "add", "openai", "--provider", "openai", "--from-file", from]);
        self.locum(&["agent", "add", "researcher"]);
    }

    fn doctor(&self, environment: &[(&str, &str)]) -> Findings {
        let output =
            self.command(&["doctor", "--json"]).envs(environment.iter().copied()).output().unwrap();
        Findings::new(&output)
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn append(path: &Path, text: &str) {
    let mut file = fs::OpenOptions::new().append(true).open(path).unwrap();
    file.write_all(text.as_bytes()).unwrap();
}

/// What the doctor said.
struct Findings {
    code: i32,
    ok: bool,
    all: Vec<Value>,
}

impl Findings {
    fn new(output: &Output) -> Self {
        let said: Value = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|_| panic!("{}{}", text(&output.stdout), text(&output.stderr)));
        Self {
            code: output.status.code().unwrap(),
            ok: said["ok"].as_bool().unwrap(),
            all: said["findings"].as_array().unwrap().clone(),
        }
    }

    /// Finds one with these texts in it, and with a next step unless all is well.
    #[track_caller]
    fn has(&self, level: &str, check: &str, what: &str, next: &str) {
        let found = self.all.iter().any(|finding| {
            let field = |name: &str| finding[name].as_str().unwrap_or_default();
            field("level") == level
                && field("check") == check
                && field("what").contains(what)
                && field("next").contains(next)
        });
        assert!(found, "no {level} of {check} with `{what}` and `{next}` in {:#?}", self.all);
    }

    #[track_caller]
    fn all_have_advice(&self) {
        for finding in self.all.iter().filter(|finding| finding["level"] != "ok") {
            assert!(!finding["next"].as_str().unwrap_or_default().is_empty(), "{finding}");
        }
    }

    #[track_caller]
    fn no_problem(&self) {
        assert!(self.all.iter().all(|f| f["level"] != "problem"), "{:#?}", self.all);
        assert!(self.ok);
        assert_eq!(self.code, 0);
    }
}

/// The demo's keys are random; but nothing in their shape, and no token, may be in what it prints.
#[track_caller]
fn shows_no_secret(printed: &str) {
    for prefix in ["sk-proj-", "sk-ant-api03-"] {
        for (at, _) in printed.match_indices(prefix) {
            let rest = &printed[at + prefix.len()..];
            assert!(rest.starts_with("locum_"), "{}", &printed[at..printed.len().min(at + 40)]);
        }
    }
    // Tokens, and the beginning of the keys in base64 and hex.
    for form in ["lct_", "c2stcHJvai", "736b2d70726f6a", "736B2D70726F6A"] {
        assert!(!printed.contains(form), "{form} in {printed}");
    }
}

#[track_caller]
fn is_empty(directory: &Path) {
    let left: Vec<_> = fs::read_dir(directory).unwrap().flatten().map(|e| e.path()).collect();
    assert!(left.is_empty(), "left behind: {left:?}");
}

#[test]
fn the_demo_passes_and_leaves_nothing() {
    let machine = Machine::new();
    let output = machine.run(&["demo"]);
    let printed = text(&output.stdout);
    assert!(output.status.success(), "{printed}{}", text(&output.stderr));
    assert!(!printed.contains("FAIL"), "{printed}");
    assert!(printed.matches("PASS").count() > 15, "{printed}");
    for seen in ["THE AGENT HELD", "THE ORIGIN RECEIVED", "AUDIT LOG", "COUNTERS", "407", "421"] {
        assert!(printed.contains(seen), "no {seen} in {printed}");
    }
    // No terminal, so no colour; and it fits into one.
    assert!(!printed.contains('\x1b'));
    assert!(printed.lines().all(|line| line.chars().count() <= 100), "{printed}");
    shows_no_secret(&printed);
    is_empty(&machine.path("tmp"));
    assert!(!machine.home().exists(), "the demo has a home of its own");
}

#[test]
fn the_demo_as_json() {
    let machine = Machine::new();
    let output = machine.run(&["demo", "--json"]);
    let printed = text(&output.stdout);
    assert!(output.status.success(), "{printed}{}", text(&output.stderr));
    let said: Value = serde_json::from_str(&printed).expect("one JSON document and nothing else");
    assert_eq!(said["ok"], true);
    let call = &said["call"];
    assert_eq!(call["without_locum"], 401);
    assert_eq!(call["came_back"]["status"], 200);
    assert_eq!(call["origin"]["authorized"], true);
    assert_eq!(call["origin"]["fingerprint"], call["vault"]["fingerprint"]);
    assert_ne!(call["origin"]["fingerprint"], call["agent"]["fingerprint"]);
    let kinds: Vec<_> = call["audit"].as_array().unwrap().iter().map(|r| &r["kind"]).collect();
    assert_eq!(kinds, ["access", "outcome"]);
    assert_eq!(call["counters"]["locum_injections_total{credential=\"openai\"}"], 1);
    let checks = said["checks"].as_array().unwrap();
    assert!(checks.len() > 14, "{printed}");
    assert!(checks.iter().all(|check| check["passed"] == true), "{printed}");
    shows_no_secret(&printed);
    is_empty(&machine.path("tmp"));
}

/// A child that does not outlive its test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Running {
    fn signal(&self, signal: rustix::process::Signal) {
        let pid = i32::try_from(self.0.id()).unwrap();
        rustix::process::kill_process(rustix::process::Pid::from_raw(pid).unwrap(), signal)
            .unwrap();
    }

    fn wait(&mut self) -> Option<i32> {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.0.try_wait().unwrap() {
                return status.code();
            }
            assert!(begun.elapsed() < PATIENCE, "it does not end");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

fn is_alive(pid: &str) -> bool {
    // A zombie is dead; whoever is to reap it is not our concern.
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

#[test]
#[cfg(target_os = "linux")]
fn ctrl_c_ends_a_kept_demo_and_removes_everything() {
    let machine = Machine::new();
    let mut demo = Running(machine.command(&["demo", "--keep"]).spawn().unwrap());
    let mut lines = BufReader::new(demo.0.stdout.take().unwrap()).lines();
    let mut printed = Vec::new();
    for line in lines.by_ref() {
        let line = line.unwrap();
        let last = line.contains("Ctrl-C");
        printed.push(line);
        if last {
            break;
        }
    }
    let all = printed.join("\n");
    assert!(all.contains("env --agent researcher"), "{all}");
    let pids: Vec<&str> =
        all.lines().filter_map(|line| line.rsplit_once("process ").map(|(_, pid)| pid)).collect();
    assert_eq!(pids.len(), 2, "{all}");
    assert!(pids.iter().all(|pid| is_alive(pid)), "{pids:?}");
    demo.signal(rustix::process::Signal::INT);
    assert_eq!(demo.wait(), Some(130));
    is_empty(&machine.path("tmp"));
    let begun = Instant::now();
    while pids.iter().any(|pid| is_alive(pid)) {
        assert!(begun.elapsed() < PATIENCE, "a process of {pids:?} was left");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// What `--keep` says to paste is a call that the origin accepts.
#[test]
fn a_kept_demo_can_be_tried_by_hand() {
    let machine = Machine::new();
    let mut demo = Running(machine.command(&["demo", "--keep"]).spawn().unwrap());
    let lines = BufReader::new(demo.0.stdout.take().unwrap()).lines();
    let mut script = String::from("set -e\n");
    for line in lines.map(Result::unwrap) {
        if line.starts_with("eval ") || line.starts_with("curl https://api.openai.com") {
            script.push_str(&line);
            script.push('\n');
        }
        if line.contains("Ctrl-C") {
            break;
        }
    }
    let mut shell = Command::new("sh");
    shell.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
    let output = shell.env("HOME", machine.root.path()).arg("-c").arg(&script).output().unwrap();
    let printed = text(&output.stdout);
    assert!(printed.contains("your key is good"), "{script}{printed}{}", text(&output.stderr));
    assert!(printed.contains("authorization: Bearer sk-proj-locum_openai"), "{printed}");
    shows_no_secret(&printed);
    demo.signal(rustix::process::Signal::TERM);
    assert_eq!(demo.wait(), Some(130));
    is_empty(&machine.path("tmp"));
}

#[test]
fn a_doctor_without_a_home_says_what_to_run() {
    let machine = Machine::new();
    let found = machine.doctor(&[]);
    assert_eq!(found.code, 1);
    found.has("problem", "home", "is not a Locum home", "locum init");
    found.has("ok", "call", "an agent with a placeholder got its answer", "");
    assert!(!machine.home().exists(), "the doctor makes nothing");
}

#[test]
fn a_fresh_home_is_well_before_and_while_it_serves() {
    let machine = Machine::new();
    machine.locum(&["init"]);
    append(
        &machine.home().join("locum.yaml"),
        "\nproxy: {listen: '127.0.0.1:0'}\nops: {listen: '127.0.0.1:0'}\n",
    );
    let found = machine.doctor(&[]);
    found.no_problem();
    found.has("ok", "vault", "credentials: 0", "locum credential add");
    found.has("ok", "proxy", "none runs", "locum serve");
    let before = everything(&machine.home());
    machine.doctor(&[]).no_problem();
    assert_eq!(before, everything(&machine.home()), "the doctor changes nothing");

    let mut proxy = Running(machine.command(&["serve"]).spawn().unwrap());
    wait_for(&machine.home().join("serve.json"));
    let found = machine.doctor(&[]);
    found.no_problem();
    found.has("ok", "proxy", "lets nobody in without a token", "");
    found.has("ok", "operations", "says ready", "");

    // Killed: it says where it listens, and does not.
    proxy.signal(rustix::process::Signal::KILL);
    proxy.wait();
    let found = machine.doctor(&[]);
    found.no_problem();
    found.has("ok", "proxy", "did not end in order", "locum serve");
    let people = text(&machine.run(&["doctor"]).stdout);
    assert!(people.contains("0 problems") && !people.contains('\x1b'), "{people}");
}

/// Names and contents of all files.
fn everything(directory: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut all = Vec::new();
    for entry in fs::read_dir(directory).unwrap().flatten() {
        if entry.file_type().unwrap().is_dir() {
            all.extend(everything(&entry.path()));
        } else if !entry.path().to_string_lossy().ends_with("-shm") {
            all.push((entry.path(), fs::read(entry.path()).unwrap()));
        }
    }
    all.sort();
    all
}

fn wait_for(file: &Path) {
    let begun = Instant::now();
    while !file.exists() {
        assert!(begun.elapsed() < PATIENCE, "no {}", file.display());
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Damage that leaves the home open to be looked at: one doctor sees it all at once.
#[test]
fn each_breakage_is_named_with_advice() {
    let machine = Machine::new();
    machine.init();
    let home = machine.home();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let config = format!(
        "proxy: {{listen: '{}'}}\nops: {{listen: '127.0.0.1:0'}}\n",
        taken.local_addr().unwrap()
    );
    fs::write(home.join("locum.yaml"), config).unwrap();
    fs::write(home.join("policies/typo.yaml"), "version: 1\nrules:\n  - nmae: x\n").unwrap();
    let other = rcgen::generate_simple_self_signed(["not.the.ca".to_owned()]).unwrap().cert.pem();
    fs::write(home.join("ca.pem"), &other).unwrap();
    fs::write(home.join("ca-bundle.pem"), &other).unwrap();
    edit_audit_log(&home);
    let future = SystemTime::now() + Duration::from_hours(72);
    fs::File::options()
        .append(true)
        .open(home.join("locum.yaml"))
        .and_then(|file| file.set_modified(future))
        .unwrap();
    fs::write(machine.path(".gitconfig"), "[http]\n\tproxy = http://other:8080\n").unwrap();
    fs::write(machine.path(".npmrc"), "strict-ssl=false\n").unwrap();

    let found = machine.doctor(&[
        ("NO_PROXY", "localhost,*"),
        ("OPENAI_API_KEY", "sk-proj-this-is-the-real-one-0123456789"),
        ("NODE_TLS_REJECT_UNAUTHORIZED", "0"),
    ]);
    assert_eq!(found.code, 1);
    found.all_have_advice();
    found.has("problem", "policies", "typo.yaml:3", "mend the file");
    found.has("problem", "CA file", "not the CA", "locum run");
    found.has("problem", "CA bundle", "not in ca-bundle.pem", "locum run");
    found.has("problem", "audit log", "it was changed", "keep a copy");
    found.has("problem", "clock", "from now", "set the clock");
    found.has("problem", "proxy", "cannot be had", "set proxy.listen");
    found.has("warning", "environment", "NO_PROXY has `*`", "locum run");
    found.has("warning", "environment", "OPENAI_API_KEY holds", "locum credential add");
    found.has("warning", "environment", "NODE_TLS_REJECT_UNAUTHORIZED", "unset");
    found.has("warning", "environment", ".gitconfig sets `proxy`", "take it out");
    found.has("warning", "environment", ".npmrc sets `strict-ssl`", "take it out");
    found.has("ok", "vault", "every row opens", "");
    let said = serde_json::to_string(&found.all).unwrap();
    assert!(!said.contains("this-is-the-real-one"), "values are never told: {said}");
}

fn edit_audit_log(home: &Path) {
    let log = home.join("audit");
    let file = fs::read_dir(&log).unwrap().flatten().map(|entry| entry.path());
    let file = file.filter(|path| path.extension().is_some_and(|e| e == "jsonl")).max().unwrap();
    let text = fs::read_to_string(&file).unwrap();
    assert!(text.contains("openai"), "{text}");
    fs::write(&file, text.replace("openai", "nobody")).unwrap();
}

#[test]
fn what_keeps_the_vault_shut_is_named() {
    let machine = Machine::new();
    machine.init();
    let home = machine.home();
    let key = home.join("master.key");

    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    fs::set_permissions(home.join("policies"), fs::Permissions::from_mode(0o777)).unwrap();
    fs::set_permissions(home.join("vault.db"), fs::Permissions::from_mode(0o640)).unwrap();
    let found = machine.doctor(&[]);
    assert_eq!(found.code, 1);
    found.all_have_advice();
    found.has("problem", "master key", "mode 0644", "chmod 600");
    found.has("problem", "files", "mode 0777", "chmod 700");
    found.has("problem", "files", "mode 0640", "chmod 600");
    found.has("problem", "vault", "without its key", "master key");
    fs::set_permissions(home.join("policies"), fs::Permissions::from_mode(0o700)).unwrap();
    fs::set_permissions(home.join("vault.db"), fs::Permissions::from_mode(0o600)).unwrap();

    let bytes = fs::read(&key).unwrap();
    fs::remove_file(&key).unwrap();
    let found = machine.doctor(&[]);
    found.has("problem", "master key", "does not exist", "backup");
    fs::write(&key, bytes).unwrap();
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    machine.doctor(&[]).no_problem();

    let db = rusqlite::Connection::open(home.join("vault.db")).unwrap();
    db.execute("UPDATE credentials SET destinations = replace(destinations, 'openai', 'evil')", [])
        .unwrap();
    drop(db);
    let found = machine.doctor(&[]);
    assert_eq!(found.code, 1);
    found.all_have_advice();
    found.has("problem", "vault", "openai", "");
}

#[test]
fn a_config_with_a_mistake_is_shown_with_its_place() {
    let machine = Machine::new();
    machine.init();
    append(&machine.home().join("locum.yaml"), "upstraem: {}\n");
    fs::set_permissions(machine.home(), fs::Permissions::from_mode(0o755)).unwrap();
    let found = machine.doctor(&[]);
    assert_eq!(found.code, 1);
    found.all_have_advice();
    found.has("problem", "config", "upstraem", "mend the file");
    found.has("problem", "home", "mode 0755", "chmod 700");
    fs::set_permissions(machine.home(), fs::Permissions::from_mode(0o700)).unwrap();
}
