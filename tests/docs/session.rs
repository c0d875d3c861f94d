//! Runs the `console` blocks of a document, in order, in one shell, as a reader would paste them.
//!
//! A line `$ command` is a command, `> more` goes on with it, and what follows is its output: stdout
//! and stderr as they come. In the output `...` stands for any text, and alone on a line for any
//! lines. A command with no output in the document may say what it likes, but must succeed; to show
//! a failure, the document writes `|| echo "exit code $?"`. The output of a command that ends in `&`
//! is waited for.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpListener;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use crate::markdown::{Block, blocks};
use crate::origin::{HOSTS, Origin};

/// How long one command may take. Generous: the machines of a CI are shared.
const PATIENCE: Duration = Duration::from_secs(90);

/// The values that the documents put into the vault, by the variable that they take them from.
const KEYS: [&str; 7] = [
    "MY_OPENAI_KEY",
    "MY_GITHUB_TOKEN",
    "BILLING_KEY",
    "NEW_BILLING_KEY",
    "SEARCH_KEY",
    "NEW_SEARCH_KEY",
    "THIRD_SEARCH_KEY",
];

/// One command of a document, with what it prints.
#[derive(Debug)]
struct Step {
    line: usize,
    command: String,
    output: Vec<String>,
}

/// Runs a document. `at_least` commands must have run, so that a document whose blocks were renamed
/// or lost does not pass for nothing.
pub(crate) fn run(document: &str, at_least: usize) {
    let mut session = Session::start();
    let mut steps = 0;
    for block in blocks(document).iter().filter(|b| b.language == "console") {
        for step in parse(document, block) {
            session.run(document, &step);
            steps += 1;
        }
    }
    assert!(steps >= at_least, "{document}: only {steps} commands were run");
    session.search_for_keys(document);
}

fn parse(document: &str, block: &Block) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    for (index, text) in block.text.lines().enumerate() {
        let line = block.line + 1 + index;
        if let Some(command) = text.strip_prefix("$ ") {
            steps.push(Step { line, command: command.to_owned(), output: Vec::new() });
            continue;
        }
        let step = steps.last_mut();
        let step = step.unwrap_or_else(|| panic!("{document}:{line}: output before any command"));
        let more = text.strip_prefix("> ").or_else(|| text.strip_prefix('>'));
        match more.filter(|_| step.output.is_empty()) {
            Some(more) => {
                step.command.push('\n');
                step.command.push_str(more);
            }
            None => step.output.push(text.to_owned()),
        }
    }
    assert!(!steps.is_empty(), "{document}:{}: a console block without a command", block.line);
    steps
}

/// A shell in a home directory of its own, with a provider on loopback.
struct Session {
    shell: Child,
    done: Receiver<String>,
    directory: tempfile::TempDir,
    keys: Vec<(String, String)>,
    origin: Origin,
    /// The proxy's port and that of operations: the documents say 3128 and 3129.
    ports: (u16, u16),
    printed: String,
    steps: usize,
}

impl Session {
    fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let home = directory.path().join("you");
        let bin = directory.path().join("bin");
        fs::create_dir(&home).unwrap();
        fs::create_dir(&bin).unwrap();
        std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_locum"), bin.join("locum")).unwrap();
        let keys: Vec<(String, String)> =
            KEYS.iter().map(|name| ((*name).to_owned(), canary())).collect();
        let origin = Origin::start(keys.iter().map(|(_, key)| key.clone()).collect());
        let path = std::env::var("PATH").unwrap_or_default();
        let mut shell = Command::new("bash")
            .args(["--noprofile", "--norc"])
            .env_clear()
            .env("PATH", format!("{}:{path}", bin.display()))
            .env("HOME", &home)
            .env("USER", "you")
            .env("LANG", "C.UTF-8")
            .envs(keys.iter().map(|(name, key)| (name, key)))
            .current_dir(&home)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .process_group(0)
            .spawn()
            .expect("bash runs");
        let out = shell.stdout.take().unwrap();
        let (send, done) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(out).lines().map_while(Result::ok) {
                if send.send(line).is_err() {
                    return;
                }
            }
        });
        let (printed, ports) = (String::new(), free_ports());
        Self { shell, done, directory, keys, origin, ports, printed, steps: 0 }
    }

    fn home(&self) -> PathBuf {
        self.directory.path().join("you")
    }

    fn run(&mut self, document: &str, step: &Step) {
        self.steps += 1;
        let file = |kind: &str| self.directory.path().join(format!("{}.{kind}", self.steps));
        let (script, output) = (file("sh"), file("out"));
        fs::write(&script, format!("{}\n", self.here(&step.command))).unwrap();
        let line = format!(
            ". '{}' > '{}' 2>&1 < /dev/null; echo \"code $?\"\n",
            script.display(),
            output.display()
        );
        self.shell.stdin.as_mut().unwrap().write_all(line.as_bytes()).unwrap();
        let code = self.done.recv_timeout(PATIENCE).unwrap_or_else(|e| {
            panic!("{document}:{}: {} does not end: {e}", step.line, step.command)
        });
        let wanted: Vec<String> = step.output.iter().map(|line| self.here(line)).collect();
        let background = step.command.trim_end().ends_with('&');
        let start = Instant::now();
        let printed = loop {
            let printed = fs::read_to_string(&output).unwrap();
            let lines: Vec<&str> = printed.lines().collect();
            if code == "code 0" && (wanted.is_empty() || matches(&wanted, &lines)) {
                break printed;
            }
            assert!(
                background && start.elapsed() < PATIENCE,
                "{document}:{}: {}\nended with {code} and printed\n{printed}\nbut the document says\n{}\n",
                step.line,
                step.command,
                step.output.join("\n")
            );
            std::thread::sleep(Duration::from_millis(20));
        };
        self.printed.push_str(&printed);
        self.lead_to_origin();
    }

    /// The text with this session's paths and ports in place of the document's.
    fn here(&self, text: &str) -> String {
        text.replace("/home/you", &self.home().to_string_lossy())
            .replace("3128", &self.ports.0.to_string())
            .replace("3129", &self.ports.1.to_string())
    }

    /// Once a home is there: its proxy gets ports of its own, and finds the provider on loopback.
    /// This is all that the tests change about what the reader does.
    fn lead_to_origin(&self) {
        let config = self.home().join(".local/share/locum/locum.yaml");
        let Ok(text) = fs::read_to_string(&config) else { return };
        if text.contains("of the test") {
            return;
        }
        let ca = self.directory.path().join("origin-ca.pem");
        fs::write(&ca, &self.origin.ca).unwrap();
        let (proxy, ops) = self.ports;
        let mut more = format!(
            "\n## of the test\nproxy: {{listen: '127.0.0.1:{proxy}'}}\nops: {{listen: '127.0.0.1:{ops}'}}\nupstream:\n  hosts:\n"
        );
        for host in HOSTS {
            let (address, ca) = (self.origin.address, ca.display());
            more.push_str(&format!("    {host}: {{address: '{address}', ca_file: '{ca}'}}\n"));
        }
        fs::write(&config, text + &more).unwrap();
    }

    /// What the documents promise of every command: no key in what it prints or leaves behind.
    fn search_for_keys(&self, document: &str) {
        for (name, key) in &self.keys {
            assert!(!self.printed.contains(&**key), "{document}: the value of {name} was printed");
        }
        let mut files = 0;
        search(&self.home().join(".local/share/locum"), &mut |path, bytes| {
            files += 1;
            for (name, key) in &self.keys {
                let found = bytes.windows(key.len()).any(|w| w == key.as_bytes());
                assert!(!found, "{document}: the value of {name} is in {}", path.display());
            }
        });
        assert!(files > 0, "{document}: no home was made");
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // Whatever the document left running is in the shell's process group.
        let pid = i32::try_from(self.shell.id()).ok().and_then(rustix::process::Pid::from_raw);
        if let Some(pid) = pid {
            let _gone = rustix::process::kill_process_group(pid, rustix::process::Signal::KILL);
        }
        let _ended = self.shell.wait();
    }
}

fn search(path: &Path, look: &mut impl FnMut(&Path, &[u8])) {
    if path.is_dir() {
        for entry in fs::read_dir(path).into_iter().flatten().flatten() {
            search(&entry.path(), look);
        }
    } else if let Ok(bytes) = fs::read(path) {
        look(path, &bytes);
    }
}

/// Two, and not the same one twice.
fn free_ports() -> (u16, u16) {
    let [one, other] = [(), ()].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    (one.local_addr().unwrap().port(), other.local_addr().unwrap().port())
}

/// A key that occurs nowhere by chance.
fn canary() -> String {
    let mut bytes = [0; 20];
    getrandom::fill(&mut bytes).unwrap();
    format!("sk-canary-{}", data_encoding::HEXLOWER.encode(&bytes))
}

/// Whether the lines are what the document says.
fn matches(wanted: &[String], lines: &[&str]) -> bool {
    let Some((first, rest)) = wanted.split_first() else { return lines.is_empty() };
    if first == "..." {
        return (0..=lines.len()).any(|skipped| matches(rest, &lines[skipped..]));
    }
    lines.split_first().is_some_and(|(line, more)| same(first, line) && matches(rest, more))
}

/// Whether a line is what the document says: its parts between `...`, in order. How many spaces a table
/// has between its columns depends on what is in them, and does not count.
fn same(wanted: &str, line: &str) -> bool {
    let narrow = |text: &str| {
        let indent = &text[..text.len() - text.trim_start().len()];
        indent.to_owned() + &text.split_whitespace().collect::<Vec<_>>().join(" ")
    };
    let (wanted, line) = (narrow(wanted), narrow(line));
    let parts: Vec<&str> = wanted.split("...").collect();
    let [first, middle @ .., last] = &parts[..] else {
        return wanted == line;
    };
    let Some(mut rest) = line.strip_prefix(first) else { return false };
    for part in middle {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

#[test]
fn the_matcher_tells_right_from_wrong() {
    let matches = |wanted: &str, actual: &str| {
        let wanted: Vec<String> = wanted.lines().map(str::to_owned).collect();
        matches(&wanted, &actual.lines().collect::<Vec<_>>())
    };
    for (wanted, actual) in [
        ("a", "a"),
        ("a...", "abc"),
        ("...c", "abc"),
        ("a...c", "ac"),
        ("a...b...c", "a1b2c"),
        ("a\n...\nd", "a\nb\nc\nd"),
        ("a\n...\nd", "a\nd"),
        ("...", ""),
    ] {
        assert!(matches(wanted, actual), "{wanted:?} {actual:?}");
    }
    for (wanted, actual) in [
        ("a", "b"),
        ("a", "a\nb"),
        ("a\nb", "a"),
        ("a...c", "ab"),
        ("a\n...\nd", "a\nb"),
        ("a", ""),
    ] {
        assert!(!matches(wanted, actual), "{wanted:?} {actual:?}");
    }
}
