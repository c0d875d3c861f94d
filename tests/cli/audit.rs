//! The audit log: searched, followed, exported, and proved whole or not.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::home::{Home, Proxy, set_mode};

fn log(home: &Home) -> PathBuf {
    home.file("audit/audit-00000000000000000001.jsonl")
}

/// A home whose log has a few records.
fn with_records() -> Home {
    let home = Home::new();
    for name in ["a", "b", "c"] {
        home.add_credential(name, &format!("secret-of-{name}-123456"));
    }
    home
}

/// Verifies, and gives the code and the record of the first finding.
#[track_caller]
fn first_bad(home: &Home) -> (String, u64, u64) {
    let ran = home.run(&["audit", "verify", "--json"]);
    assert_eq!(ran.code, 1, "{ran:?}");
    let report: Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(report["ok"], false);
    let bad = &report["first_bad"];
    let number = |key: &str| bad[key].as_u64().unwrap();
    (bad["what"].as_str().unwrap().to_owned(), number("seq"), number("line"))
}

#[test]
fn a_log_is_whole_until_somebody_touches_it() {
    let home = with_records();
    let text = home.ok(&["audit", "verify"]);
    assert!(text.starts_with("the audit log is whole: "), "{text}");
    assert_eq!(home.json(&["audit", "verify", "--json"])["anchor_checked"], true);

    let original = fs::read_to_string(log(&home)).unwrap();
    let lines: Vec<&str> = original.lines().collect();
    assert!(lines.len() >= 6, "{original}");
    let joined = |lines: &[&str]| lines.join("\n") + "\n";
    let try_with = |text: &str| {
        fs::write(log(&home), text).unwrap();
        first_bad(&home)
    };

    let edited = original.replacen(r#""subject":"b""#, r#""subject":"x""#, 1);
    let at = lines.iter().position(|line| line.contains(r#""subject":"b""#)).unwrap() as u64 + 1;
    assert_eq!(try_with(&edited), ("edited".to_owned(), at, at));

    let mut removed = lines.clone();
    removed.remove(2);
    assert_eq!(try_with(&joined(&removed)), ("missing".to_owned(), 3, 3));

    let mut swapped = lines.clone();
    swapped.swap(2, 3);
    assert_eq!(try_with(&joined(&swapped)), ("out-of-order".to_owned(), 3, 3));

    let mut copied = lines.clone();
    copied.insert(3, lines[1]);
    assert_eq!(try_with(&joined(&copied)), ("inserted".to_owned(), 4, 4));

    let cut = joined(&lines[..lines.len() - 2]);
    let (what, seq, _) = try_with(&cut);
    assert_eq!((what.as_str(), seq), ("truncated-tail", lines.len() as u64 - 1));

    let text = home.run(&["audit", "verify"]);
    let place = format!("{}:", log(&home).display());
    assert!(text.out.starts_with("the audit log is not whole\n") && text.out.contains(&place));

    fs::write(log(&home), &original).unwrap();
    home.ok(&["audit", "verify"]);
    fs::remove_file(log(&home)).unwrap();
    assert_eq!(home.run(&["audit", "verify"]).code, 1);
}

#[test]
fn an_older_log_with_its_own_head_is_found_by_the_anchor_in_the_vault() {
    let home = with_records();
    let saved: Vec<_> = ["head", "audit-00000000000000000001.jsonl"]
        .into_iter()
        .map(|name| {
            (home.file("audit").join(name), fs::read(home.file("audit").join(name)).unwrap())
        })
        .collect();
    home.add_credential("d", "secret-of-d-123456");
    for (path, contents) in saved {
        fs::write(path, contents).unwrap();
    }
    assert_eq!(first_bad(&home).0, "truncated-tail");
}

#[test]
fn a_damaged_log_is_still_searched_and_says_where_it_is_damaged() {
    let home = with_records();
    let text = fs::read_to_string(log(&home)).unwrap().replacen("{\"time\"", "garbage", 1);
    fs::write(log(&home), text).unwrap();
    let ran = home.run(&["audit", "query"]);
    assert_eq!(ran.code, 1);
    assert!(ran.out.contains("credential-added c"), "{}", ran.out);
    assert!(ran.err.contains(":1 is no audit record"), "{}", ran.err);
}

#[test]
fn requests_are_found_by_who_what_where_and_when() {
    let home = Home::for_a_proxy();
    let added = home.json(&["agent", "add", "researcher", "--json"]);
    let token = added["token"].as_str().unwrap();
    let proxy = Proxy::start(&home);
    let user = "researcher+run=42";
    assert!(proxy.get(user, token, "http://nowhere.test/a/b?key=value").contains(" 403 "));
    assert!(proxy.get(user, token, "http://elsewhere.test/").contains(" 403 "));
    assert!(proxy.get(user, "wrong", "http://nowhere.test/").contains(" 407 "));

    let query = |args: &[&str]| home.ok(&[&["audit", "query"][..], args].concat());
    let table = query(&["--host", "nowhere.test", "--agent", "researcher"]);
    let rows: Vec<&str> = table.lines().collect();
    assert_eq!(rows.len(), 2, "{table}");
    assert_eq!(
        rows[0].split_whitespace().collect::<Vec<_>>(),
        ["TIME", "AGENT", "DECISION", "METHOD", "DESTINATION", "CREDENTIAL", "RESULT"]
    );
    let cells: Vec<&str> = rows[1].split_whitespace().skip(2).collect();
    assert_eq!(
        cells,
        ["researcher", "refuse", "GET", "http://nowhere.test/a/b", "-", "not-allowed"]
    );
    assert!(!table.contains("value"), "no query values: {table}");

    let count = |args: &[&str]| {
        let out = query(&[args, &["--json", "--kind", "access"]].concat());
        out.lines().filter(|line| serde_json::from_str::<Value>(line).is_ok()).count()
    };
    assert_eq!(count(&[]), 3);
    assert_eq!(count(&["--agent", "researcher"]), 2);
    assert_eq!(count(&["--run", "42", "--decision", "refuse"]), 2);
    assert_eq!(count(&["--run", "43"]), 0);
    assert_eq!(count(&["--decision", "permit"]), 0);
    assert_eq!(count(&["--host", "ELSEWHERE.test."]), 1);
    assert_eq!(count(&["--since", "1h"]), 3);
    assert_eq!(count(&["--until", "1h"]), 0);
    assert_eq!(count(&["--since", "2026-01-01", "--until", "2999-01-01T00:00:00Z"]), 3);
    assert_eq!(count(&["--limit", "2"]), 2);
    let first = query(&["--json", "--kind", "access", "--limit", "1"]);
    let id =
        serde_json::from_str::<Value>(&first).unwrap()["request_id"].as_str().unwrap().to_owned();
    assert_eq!(count(&["--request", &id]), 1);
    assert_eq!(query(&["--request", &id]).lines().count(), 2, "{id}");

    // While it runs, and after kill -9.
    home.ok(&["audit", "verify"]);
    proxy.kill();
    home.ok(&["audit", "verify"]);
}

#[test]
fn a_request_and_its_outcome_are_one_row() {
    let home = Home::for_a_proxy();
    home.write(
        "locum.yaml",
        "proxy: {listen: [\"127.0.0.1:0\"]}\nops: {listen: off}\nupstream: {allow_addresses: [127.0.0.0/8]}\n",
    );
    let policy = "version: 1\nrules:\n  - {name: r, agents: [\"*\"], to: [\"http://*:*\"]}\n";
    let added = home.json(&["agent", "add", "researcher", "--json"]);
    let origin = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = origin.local_addr().unwrap().port();
    home.write("policies/first.yaml", &policy.replace("http://*:*", &format!("http://*:{port}")));
    let answering = std::thread::spawn(move || {
        let (mut stream, _) = origin.accept().unwrap();
        let mut buffer = [0; 4096];
        let _ = stream.read(&mut buffer).unwrap();
        stream.write_all(b"HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n").unwrap();
    });
    let proxy = Proxy::start(&home);
    let url = format!("http://127.0.0.1:{port}/a");
    let answer = proxy.get("researcher", added["token"].as_str().unwrap(), &url);
    assert!(answer.contains(" 202 "), "{answer}");
    answering.join().unwrap();
    let query = |args: &[&str]| home.ok(&[&["audit", "query"][..], args].concat());
    // The outcome is written when the answer has ended.
    let start = Instant::now();
    while query(&["--kind", "outcome", "--json"]).is_empty() {
        assert!(start.elapsed() < Duration::from_mins(1));
        std::thread::sleep(Duration::from_millis(20));
    }
    let table = query(&["--agent", "researcher"]);
    let rows: Vec<Vec<&str>> =
        table.lines().map(|row| row.split_whitespace().skip(2).collect()).collect();
    assert_eq!(rows[1..], [["researcher", "permit", "GET", &url, "-", "202"]], "{table}");
    assert_eq!(query(&["--agent", "researcher", "--json"]).lines().count(), 2);
    let outcomes = query(&["--kind", "outcome"]);
    assert!(outcomes.lines().nth(1).unwrap().ends_with("  202"), "{outcomes}");
}

#[test]
fn the_newest_records_and_those_to_come() {
    let home = with_records();
    let lines = home.ok(&["audit", "tail", "-n", "2"]);
    assert_eq!(lines.lines().count(), 2);
    assert!(lines.lines().last().unwrap().contains("credential-added c"), "{lines}");
    let mut child = home.command(&["audit", "tail", "-n", "1", "-f", "--json"]).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut next = || serde_json::from_str::<Value>(&lines.next().unwrap().unwrap()).unwrap();
    let last = next()["seq"].as_u64().unwrap();
    home.add_credential("d", "secret-of-d-123456");
    let new = next();
    assert_eq!((new["seq"].as_u64(), &new["subject"]), (Some(last + 1), &"d".into()));
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn an_export_is_whole_records_in_a_file_of_its_own() {
    let home = with_records();
    let stored = fs::read_to_string(log(&home)).unwrap();
    assert_eq!(home.ok(&["audit", "export"]), stored);
    home.ok(&["audit", "export", "--output", "log.jsonl"]);
    let path = home.beside("log.jsonl");
    assert_eq!(fs::read_to_string(&path).unwrap(), stored);
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    home.run(&["audit", "export", "--output", "log.jsonl"]).refused(1, &["exists already"]);
    assert_eq!(home.ok(&["audit", "export", "--until", "1h"]), "");
}

/// A user who is not root.
const NOBODY: u32 = 65534;

/// As an auditor has it: a copy that nobody can write.
#[test]
fn a_log_is_verified_where_nothing_can_be_written() {
    use std::os::unix::process::CommandExt as _;
    let home = Home::new();
    home.add_credential("a", "a-secret-of-some-length");
    // To root nothing is read-only, and another user may not find the way to the program.
    let program = home.beside("locum");
    fs::copy(env!("CARGO_BIN_EXE_locum"), &program).unwrap();
    let root = rustix::process::geteuid().is_root();
    let mut paths: Vec<_> = home.files().into_iter().map(|(path, _)| path).collect();
    paths.retain(|path| path.starts_with(home.path()));
    let entries = fs::read_dir(home.path()).unwrap().map(|entry| entry.unwrap().path());
    let mut directories: Vec<_> = entries.filter(|path| path.is_dir()).collect();
    directories.push(home.path());
    for path in paths.iter().chain(&directories) {
        if root {
            std::os::unix::fs::chown(path, Some(NOBODY), Some(NOBODY)).unwrap();
        }
        set_mode(path, if path.is_dir() { 0o500 } else { 0o400 });
    }
    set_mode(home.path().parent().unwrap(), 0o755);
    let run = |args: &[&str]| {
        let mut command = Command::new(&program);
        command.args(args).env_clear().env("LOCUM_HOME", home.path()).current_dir("/");
        if root {
            command.uid(NOBODY).gid(NOBODY);
        }
        let output = command.stdin(Stdio::null()).output().unwrap();
        let said = [output.stdout, output.stderr].concat();
        (output.status.code().unwrap(), String::from_utf8(said).unwrap())
    };
    let (code, said) = run(&["audit", "verify"]);
    assert!(code == 0 && said.contains("the audit log is whole"), "{said}");
    let (code, said) = run(&["credential", "list"]);
    assert!(code == 0 && said.contains("a  "), "{said}");
    // What would change something says why it cannot.
    let (code, said) = run(&["credential", "revoke", "a"]);
    assert!(code == 1 && said.contains("read-only"), "{said}");
    let (_, said) = run(&["audit", "verify"]);
    assert!(said.contains("the audit log is whole"), "{said}");
    for path in directories.iter().rev() {
        set_mode(path, 0o700);
    }
}
