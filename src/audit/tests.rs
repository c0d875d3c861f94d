//! The log as a whole: what survives, what is found, what mends.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use proptest::prelude::*;
use serde_json::Value;
use tempfile::TempDir;

use super::writer::tests::Fault;
use super::*;
use crate::outcome::Ending;
use crate::record::{Decision, Recorded, RequestId, Taken, Use, Who, Why};
use crate::reference::Name;

const NEVER: Options =
    Options { fsync: Fsync::Never, max_file_bytes: 1 << 28, retain: None, accept_damage: false };

/// Some files of a few records each.
const SMALL: Options = Options { max_file_bytes: 2000, ..NEVER };

const ACCEPT: Options = Options { accept_damage: true, ..NEVER };

fn key() -> Secret {
    Secret::new(vec![7; 32])
}

fn open(dir: &Path, options: Options) -> AuditLog {
    AuditLog::open(dir, &key(), options, None).unwrap()
}

fn id(n: u64) -> RequestId {
    RequestId(u128::from(n).to_be_bytes())
}

fn access(log: &AuditLog, n: u64) -> Result<(), Unrecorded> {
    access_of(log, n, "researcher", "openai", Decision::Permit)
}

fn access_of(
    log: &AuditLog,
    n: u64,
    agent: &str,
    credential: &str,
    decision: Decision,
) -> Result<(), Unrecorded> {
    with_access(n, agent, credential, decision, |record| log.access(record))
}

fn with_access<T>(
    n: u64,
    agent: &str,
    credential: &str,
    decision: Decision,
    then: impl FnOnce(&Access<'_>) -> T,
) -> T {
    let (workspace, agent): (Name, Name) = ("default".parse().unwrap(), agent.parse().unwrap());
    let credential = Use {
        credential: credential.parse().unwrap(),
        version: Some(1),
        slot: None,
        why: Why::default(),
    };
    let run = format!("run-{n}").parse().unwrap();
    let who = Who {
        workspace: &workspace,
        agent: &agent,
        token_id: "t1",
        authenticated_by: "token",
        run: Some(&run),
        node: None,
        user: None,
        environment: None,
        labels: None,
        run_token_use: None,
    };
    then(&Access {
        request_id: id(n),
        workspace: None,
        agent: Some(who),
        peer: None,
        client_certificate: None,
        destination: "https://api.example.com:8443",
        method: Some("POST"),
        path: Some("/v1/chat"),
        websocket: false,
        method_override: None,
        rule: Some("r"),
        policy_generation: 1,
        policy_digest: "00",
        credential: Some(&credential),
        more_credentials: &[],
        unknown_reference: None,
        unknown_in: None,
        misplaced: 0,
        decision,
        code: None,
        reason: None,
        shadow: None,
    })
}

/// An outcome, and the moment after it in which it is written.
fn outcome(log: &AuditLog, n: u64) {
    outcome_later(log, n);
    if log.healthy() {
        log.settle();
    }
}

fn outcome_later(log: &AuditLog, n: u64) {
    log.outcome(&Outcome {
        request_id: id(n),
        ending: Ending::Complete,
        code: None,
        status: Some(200),
        complaint: None,
        bytes_up: 1,
        bytes_down: 2,
        scrubbed: 0,
        unsearched: false,
        misplaced: 0,
        upstream_us: None,
        total_us: 3,
    });
}

fn event(name: &'static str) -> Event {
    Event { event: name, workspace: None, subject: None, detail: None, by: None, vault_epoch: None }
}

/// A closed log of so many calls, in several files. Returns its final anchor.
fn written(dir: &Path, calls: u64, options: Options) -> Anchor {
    let log = open(dir, options);
    for n in 0..calls {
        access(&log, n).unwrap();
        outcome(&log, n);
    }
    log.close().unwrap()
}

fn check(dir: &Path, anchor: Option<Anchor>) -> Report {
    verify(dir, &key(), anchor, &mut |_| {}).unwrap()
}

#[track_caller]
fn whole(dir: &Path) -> Report {
    let report = check(dir, None);
    assert!(report.ok, "{report:?}");
    report
}

/// The first finding: record and kind.
#[track_caller]
fn bad(report: &Report) -> (u64, What) {
    assert!(!report.ok);
    let finding = report.first_bad.as_ref().expect("a finding");
    (finding.seq, finding.what)
}

fn paths(dir: &Path) -> Vec<PathBuf> {
    files::list(dir).unwrap().into_iter().map(|first| files::path_of(dir, first)).collect()
}

fn lines(path: &Path) -> Vec<String> {
    fs::read_to_string(path).unwrap().lines().map(str::to_owned).collect()
}

fn records(dir: &Path) -> Vec<Value> {
    let all = paths(dir).into_iter().flat_map(|path| lines(&path));
    all.filter_map(|line| serde_json::from_str(&line).ok()).collect()
}

#[track_caller]
fn dense(dir: &Path) {
    let seqs: Vec<u64> = records(dir).iter().map(|r| r["seq"].as_u64().unwrap()).collect();
    let first = seqs.first().copied().unwrap_or(1);
    assert!(seqs.iter().copied().eq(first..first + seqs.len() as u64));
}

fn events(dir: &Path, name: &str) -> Vec<Value> {
    records(dir).into_iter().filter(|r| r["event"] == name).collect()
}

fn rewrite(path: &Path, change: impl FnOnce(&mut Vec<String>)) {
    let mut all = lines(path);
    change(&mut all);
    fs::write(path, all.iter().map(|line| format!("{line}\n")).collect::<String>()).unwrap();
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    fs::set_permissions(to, PermissionsExt::from_mode(0o700)).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

/// Waits for something that happens by itself.
#[track_caller]
fn until(mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < Duration::from_secs(30), "it does not happen");
        std::thread::yield_now();
    }
}

// --- writing

#[test]
fn records_have_the_documented_form() {
    let home = TempDir::new().unwrap();
    let dir = home.path().join("audit");
    let anchor = written(&dir, 1, NEVER);
    let all = records(&dir);
    assert_eq!(all[0]["event"], "audit-file-opened");
    assert_eq!(all[0]["log"].as_str().unwrap().len(), 32);
    let genesis = all[0]["previous"].as_str().unwrap();
    assert_eq!(genesis.len(), 64);
    assert_eq!((&all[1]["kind"], &all[1]["agent"]), (&"access".into(), &"researcher".into()));
    assert_eq!((&all[2]["kind"], &all[2]["ending"]), (&"outcome".into(), &"complete".into()));
    assert_eq!(all[1]["request_id"], all[2]["request_id"]);
    assert_eq!(all[2]["mac"], anchor.mac_hex());
    dense(&dir);
    let report = whole(&dir);
    assert_eq!((report.records, report.files, report.last), (3, 1, Some(anchor)));
    for entry in fs::read_dir(&dir).unwrap() {
        assert_eq!(entry.unwrap().metadata().unwrap().permissions().mode() & 0o777, 0o600);
    }
}

#[test]
fn a_log_goes_on_over_many_openings_and_files() {
    let home = TempDir::new().unwrap();
    let mut anchor = None;
    for round in 0..25 {
        let log = AuditLog::open(home.path(), &key(), SMALL, anchor).unwrap();
        access(&log, round).unwrap();
        log.event(&event("proxy-started")).unwrap();
        anchor = Some(log.close().unwrap());
        assert_eq!(access(&log, round), Err(Unrecorded), "closed is closed");
    }
    dense(home.path());
    assert!(paths(home.path()).len() > 3);
    let report = check(home.path(), anchor);
    assert!(report.ok && report.anchor_checked, "{report:?}");
    assert_eq!(events(home.path(), "proxy-started").len(), 25);
}

#[test]
fn an_empty_log_opens_again() {
    let home = TempDir::new().unwrap();
    for _ in 0..3 {
        open(home.path(), NEVER).close().unwrap();
        assert_eq!(whole(home.path()).records, 0);
    }
    let never_used = TempDir::new().unwrap();
    assert_eq!(whole(never_used.path()).last, None);
}

#[test]
fn an_outcome_shares_the_write_of_the_next_access_or_is_soon_written_alone() {
    let home = TempDir::new().unwrap();
    let log = open(home.path(), NEVER);
    log.stop_keeper();
    access(&log, 1).unwrap();
    outcome_later(&log, 1);
    assert_eq!(records(home.path()).len(), 2, "nobody waits for an outcome");
    access(&log, 2).unwrap();
    let kinds: Vec<String> =
        records(home.path()).iter().map(|r| r["kind"].as_str().unwrap().to_owned()).collect();
    assert_eq!(kinds, ["event", "access", "outcome", "access"]);
    outcome_later(&log, 2);
    log.close().unwrap();
    assert_eq!(records(home.path()).len(), 5, "at the end nothing waits any more");
    whole(home.path());
    drop(log);

    let log = open(home.path(), NEVER);
    for n in 3..6 {
        access(&log, n).unwrap();
        outcome_later(&log, n);
        let written = records(home.path()).len();
        assert!(written <= 2 * usize::try_from(n).unwrap() + 1);
        until(|| records(home.path()).len() == 2 * usize::try_from(n).unwrap() + 1);
        until(|| head_says(home.path()) == log.last());
    }
}

#[test]
fn records_that_come_together_are_written_or_refused_together() {
    let home = TempDir::new().unwrap();
    let log = open(home.path(), NEVER);
    log.stop_keeper();
    let take = |n| {
        with_access(n, "researcher", "openai", Decision::Permit, |record| Taken::by(&log, record))
    };
    let written = |taken: Taken| Recorded::once_written((), &log, taken).map(Recorded::into_inner);
    let [first, second, third] = [1, 2, 3].map(|n| take(n).unwrap());
    assert_eq!(records(home.path()).len(), 0, "they wait for each other");
    written(second).unwrap();
    // And that the log was opened.
    assert_eq!(records(home.path()).len(), 4);
    written(first).unwrap();
    written(third).unwrap();
    assert_eq!(log.stats().accesses, 3);

    let [fourth, fifth] = [4, 5].map(|n| take(n).unwrap());
    log.inject(Fault::Error(rustix::io::Errno::NOSPC));
    assert_eq!(written(fourth), Err(Unrecorded));
    assert_eq!(written(fifth), Err(Unrecorded), "what the first of them tried was for both");
    assert_eq!((log.stats().accesses, log.stats().refused_accesses), (3, 2));
    let waits = log.healthy().then(|| take(6).map(written));
    assert_eq!(waits, None, "a log that failed takes nothing");
    until(|| access(&log, 7).is_ok());
    drop(log);
    whole(home.path());
    dense(home.path());
}

/// Where the log ends, by its head.
fn head_says(dir: &Path) -> Anchor {
    let keys = Keys::new(&key()).unwrap();
    match head::Head::read(dir, &keys).unwrap() {
        head::Stored::Valid(head) => head.last,
        head::Stored::Absent | head::Stored::Invalid => panic!("no head"),
    }
}

/// The head lags behind, and what was acknowledged is there.
#[test]
fn killed_with_an_outcome_on_its_way_all_accesses_are_there() {
    let home = TempDir::new().unwrap();
    let log = open(home.path(), NEVER);
    log.stop_keeper();
    for n in 0..100 {
        access(&log, n).unwrap();
        outcome_later(&log, n);
    }
    let last = log.shared.writer.lock().head.last;
    assert!(head_says(home.path()).seq < last.seq, "the head was written with every record");
    log.kill();
    let of = |kind: &str| records(home.path()).iter().filter(|r| r["kind"] == kind).count();
    assert_eq!((of("access"), of("outcome")), (100, 99));
    whole(home.path());
    log_goes_on(home.path());
    assert!(events(home.path(), "audit-recovered").is_empty(), "nothing was lost");
}

#[test]
fn threads_write_one_chain() {
    let home = TempDir::new().unwrap();
    let log = open(home.path(), Options { max_file_bytes: 1 << 20, ..Options::default() });
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let log = &log;
            scope.spawn(move || {
                for n in 0..5000 {
                    access(log, thread * 5000 + n).unwrap();
                    outcome_later(log, thread * 5000 + n);
                }
            });
        }
    });
    log.settle();
    let stats = log.stats();
    assert_eq!((stats.accesses, stats.outcomes, stats.lost_outcomes), (40_000, 40_000, 0));
    let anchor = log.close().unwrap();
    let report = check(home.path(), Some(anchor));
    assert!(report.ok && report.anchor_checked, "{report:?}");
    assert_eq!(report.records, 80_000 + report.files);
    let mut accesses_seen = std::collections::HashSet::new();
    for record in records(home.path()) {
        let id = record["request_id"].as_str().map(str::to_owned);
        match record["kind"].as_str().unwrap() {
            "access" => assert!(accesses_seen.insert(id)),
            "outcome" => assert!(accesses_seen.contains(&id), "an outcome before its access"),
            _ => {}
        }
    }
}

#[test]
fn verify_runs_beside_the_writer() {
    let home = TempDir::new().unwrap();
    let log = open(home.path(), Options { max_file_bytes: 50_000, ..NEVER });
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for n in 0..3000 {
                access(&log, n).unwrap();
            }
            done.store(true, Ordering::Release);
        });
        while !done.load(Ordering::Acquire) {
            let anchor = log.last();
            let report = check(home.path(), Some(anchor));
            assert!(report.ok, "{report:?}");
        }
    });
    assert!(AuditLog::is_locked(home.path()));
    drop(log);
    assert!(!AuditLog::is_locked(home.path()));
}

#[test]
fn one_writer_at_a_time() {
    let home = TempDir::new().unwrap();
    let log = open(home.path(), NEVER);
    let second = AuditLog::open(home.path(), &key(), NEVER, None);
    assert!(matches!(second, Err(AuditError::Locked { .. })));
    access(&log, 1).unwrap();
    log.close().unwrap();
    drop(log);
    open(home.path(), NEVER);
}

#[test]
fn every_sync_policy_ends_synced() {
    for fsync in [Fsync::Always, Fsync::Interval(Duration::from_millis(10)), Fsync::Never] {
        let home = TempDir::new().unwrap();
        let log = open(home.path(), Options { fsync, ..NEVER });
        for n in 0..5 {
            access(&log, n).unwrap();
        }
        match fsync {
            Fsync::Always => assert_eq!(log.anchor(), log.last()),
            Fsync::Interval(_) => until(|| log.anchor() == log.last()),
            Fsync::Never => assert_eq!(log.anchor().seq, 0),
        }
        assert_eq!(log.stats().last_sync.is_some(), fsync != Fsync::Never);
        let last = log.last();
        assert_eq!(log.close().unwrap(), last);
        assert!(check(home.path(), Some(last)).ok);
    }
}

#[test]
fn a_hostile_text_is_one_record_on_one_line() {
    let home = TempDir::new().unwrap();
    let log = open(home.path(), NEVER);
    let nasty = "\r\n{\"time\":\"x\"}\u{2028}\u{202e}\u{1b}[2J".repeat(1 << 16);
    let forged = Event { subject: Some(nasty), ..event("proxy-started") };
    log.event(&forged).unwrap();
    access(&log, 1).unwrap();
    log.close().unwrap();
    assert_eq!(records(home.path()).len(), 3);
    assert_eq!(whole(home.path()).records, 3);
    let text = fs::read_to_string(&paths(home.path())[0]).unwrap();
    assert_eq!(text.split(|c: char| c != '\n' && c.is_control()).count(), 1);
    assert!(!text.contains(['\u{2028}', '\u{202e}']));
}

// --- damage

/// Six mutations of the attack table and their relatives: each is found, at the right record.
#[test]
fn mutations_are_found_and_named() {
    let home = TempDir::new().unwrap();
    let origin = home.path().join("origin");
    let anchor = written(&origin, 12, SMALL);
    let firsts = files::list(&origin).unwrap();
    assert!(firsts.len() >= 4, "{firsts:?}");
    let (second, third, last) = (firsts[1], firsts[2], *firsts.last().unwrap());
    let file = |dir: &Path, n: usize| files::path_of(dir, firsts[n]);
    let forged = |line: &str, seq: u64| {
        let at = line.find(",\"seq\":").unwrap();
        let mac = line.find(",\"mac\"").unwrap();
        format!("{},\"seq\":{seq}{}", &line[..at], &line[mac..])
    };
    let foreign = home.path().join("foreign");
    let other = AuditLog::open(&foreign, &Secret::new(vec![8; 32]), SMALL, None).unwrap();
    for n in 0..12 {
        access(&other, n).unwrap();
        outcome(&other, n);
    }
    other.close().unwrap();

    type Change<'a> = &'a dyn Fn(&Path);
    let cases: [(&str, Change<'_>, u64, What); 21] = [
        (
            "truncate the tail",
            &|d| rewrite(&file(d, firsts.len() - 1), |l| drop(l.pop())),
            anchor.seq,
            What::TruncatedTail { expected_seq: anchor.seq },
        ),
        (
            "truncate within the last line",
            &|d| {
                let path = file(d, firsts.len() - 1);
                let text = fs::read(&path).unwrap();
                fs::write(&path, &text[..text.len() - 20]).unwrap();
            },
            anchor.seq,
            What::Torn,
        ),
        (
            "delete the last file",
            &|d| fs::remove_file(file(d, firsts.len() - 1)).unwrap(),
            last,
            What::TruncatedTail { expected_seq: anchor.seq },
        ),
        (
            "delete a middle file",
            &|d| fs::remove_file(file(d, 1)).unwrap(),
            second,
            What::FileMissing { through: third - 1 },
        ),
        (
            "delete the first file",
            &|d| fs::remove_file(file(d, 0)).unwrap(),
            1,
            What::FileMissing { through: second - 1 },
        ),
        (
            "delete a record",
            &|d| rewrite(&file(d, 1), |l| drop(l.remove(1))),
            second + 1,
            What::Missing { through: second + 1 },
        ),
        (
            "delete the first record of a file",
            &|d| rewrite(&file(d, 1), |l| drop(l.remove(0))),
            second,
            What::Missing { through: second },
        ),
        (
            "delete the last record of a file",
            &|d| rewrite(&file(d, 1), |l| drop(l.pop())),
            third - 1,
            What::FileMissing { through: third - 1 },
        ),
        ("reorder", &|d| rewrite(&file(d, 1), |l| l.swap(1, 2)), second + 1, What::OutOfOrder),
        (
            "edit",
            &|d| rewrite(&file(d, 1), |l| l[1] = l[1].replace("researcher", "resear-her")),
            second + 1,
            What::Edited,
        ),
        (
            "edit an opening",
            &|d| rewrite(&file(d, 1), |l| l[0] = l[0].replacen("20", "21", 1)),
            second,
            What::Edited,
        ),
        (
            "edit the very first record",
            &|d| {
                rewrite(&file(d, 0), |l| l[0] = l[0].replacen("20", "21", 1));
            },
            1,
            What::Edited,
        ),
        (
            "edit, and take over the next number",
            &|d| {
                rewrite(&file(d, 1), |l| l[1] = forged(&l[1], second + 2));
            },
            second + 1,
            What::Missing { through: second + 1 },
        ),
        (
            "insert a copy",
            &|d| rewrite(&file(d, 1), |l| l.insert(2, l[1].clone())),
            second + 2,
            What::Inserted,
        ),
        (
            "insert a forgery",
            &|d| {
                rewrite(&file(d, 1), |l| l.insert(1, forged(&l[2], second + 1)));
            },
            second + 1,
            What::Inserted,
        ),
        (
            "insert text",
            &|d| rewrite(&file(d, 1), |l| l.insert(1, "{}".to_owned())),
            second + 1,
            What::Inserted,
        ),
        (
            "replace by text",
            &|d| rewrite(&file(d, 1), |l| l[1] = "{}".to_owned()),
            second + 1,
            What::NotARecord,
        ),
        (
            "append a forgery",
            &|d| {
                rewrite(&file(d, firsts.len() - 1), |l| l.push(forged(&l[0], anchor.seq + 1)));
            },
            anchor.seq + 1,
            What::Edited,
        ),
        (
            "replace with a log of another key",
            &|d| {
                fs::remove_dir_all(d).unwrap();
                copy(&foreign, d);
            },
            1,
            What::WrongKey,
        ),
        (
            "replace all but the head",
            &|d| {
                let head = fs::read(d.join("head")).unwrap();
                fs::remove_dir_all(d).unwrap();
                copy(&foreign, d);
                fs::write(d.join("head"), head).unwrap();
            },
            1,
            What::Edited,
        ),
        (
            "delete the head",
            &|d| fs::remove_file(d.join("head")).unwrap(),
            anchor.seq,
            What::HeadMissing,
        ),
    ];
    for (n, (name, change, seq, what)) in cases.into_iter().enumerate() {
        let dir = home.path().join(format!("case-{n}"));
        copy(&origin, &dir);
        assert!(check(&dir, Some(anchor)).ok);
        change(&dir);
        let report = check(&dir, None);
        assert_eq!(bad(&report), (seq, what), "{name}: {report:?}");
        let finding = report.first_bad.unwrap();
        assert!(!finding.to_string().is_empty());
    }
}

#[test]
fn the_line_of_a_finding_is_right() {
    let home = TempDir::new().unwrap();
    written(home.path(), 5, NEVER);
    let path = paths(home.path())[0].clone();
    rewrite(&path, |l| l[6] = l[6].replace("complete", "failed"));
    let finding = check(home.path(), None).first_bad.unwrap();
    let expected = Finding { file: path, line: 7, seq: 7, what: What::Edited };
    assert_eq!(finding, expected);
}

#[test]
fn only_the_anchor_shows_that_log_and_head_were_put_back_together() {
    let home = TempDir::new().unwrap();
    let (dir, old) = (home.path().join("audit"), home.path().join("old"));
    written(&dir, 3, NEVER);
    copy(&dir, &old);
    let anchor = written(&dir, 3, NEVER);

    assert!(check(&old, None).ok, "without an anchor nothing tells");
    let what = What::TruncatedTail { expected_seq: anchor.seq };
    assert_eq!(bad(&check(&old, Some(anchor))), (8, what));
    let opened = AuditLog::open(&old, &key(), NEVER, Some(anchor));
    assert!(matches!(opened, Err(AuditError::Tampered { seq: 8, .. })), "{opened:?}");

    let forked = written(&old, 9, NEVER);
    assert!(forked.seq > anchor.seq);
    assert_eq!(bad(&check(&old, Some(anchor))), (anchor.seq, What::Diverged));
    let opened = AuditLog::open(&old, &key(), NEVER, Some(anchor));
    let diverged = matches!(opened, Err(AuditError::Tampered { what: What::Diverged, .. }));
    assert!(diverged, "{opened:?}");
}

#[test]
fn a_log_that_is_gone_is_missed() {
    let home = TempDir::new().unwrap();
    let dir = home.path().join("audit");
    let anchor = written(&dir, 3, NEVER);
    fs::remove_dir_all(&dir).unwrap();
    let opened = AuditLog::open(&dir, &key(), NEVER, Some(anchor));
    assert!(matches!(opened, Err(AuditError::Tampered { what: What::Gone, .. })), "{opened:?}");
    assert_eq!(bad(&check(&dir, Some(anchor))).1, What::Gone);

    let log = AuditLog::open(&dir, &key(), ACCEPT, Some(anchor)).unwrap();
    access(&log, 9).unwrap();
    assert!(log.close().unwrap().seq > anchor.seq);
    let found = bad(&check(&dir, None));
    assert_eq!(found, (1, What::FileMissing { through: anchor.seq }));
}

#[test]
fn damage_is_refused_until_it_is_accepted_and_stays_visible_then() {
    type Change<'a> = &'a dyn Fn(&Path);
    let cases: [(&str, Change<'_>); 7] = [
        ("cut", &|d| rewrite(&paths(d)[0], |l| drop(l.pop()))),
        ("edit", &|d| rewrite(&paths(d)[0], |l| l[5] = l[5].replace("researcher", "x"))),
        ("end", &|d| rewrite(&paths(d)[0], |l| l.push("x".to_owned()))),
        ("file", &|d| fs::remove_file(&paths(d)[0]).unwrap()),
        ("head", &|d| fs::remove_file(d.join("head")).unwrap()),
        ("head edited", &|d| {
            let mut head = fs::read(d.join("head")).unwrap();
            head[140] ^= 1;
            fs::write(d.join("head"), head).unwrap();
        }),
        ("torn", &|d| {
            let text = fs::read(&paths(d)[0]).unwrap();
            fs::write(&paths(d)[0], &text[..text.len() - 9]).unwrap();
        }),
    ];
    for (name, change) in cases {
        let home = TempDir::new().unwrap();
        let anchor = written(home.path(), 4, NEVER);
        change(home.path());
        let before = bad(&check(home.path(), None));
        let refused = AuditLog::open(home.path(), &key(), NEVER, Some(anchor));
        assert!(matches!(refused, Err(AuditError::Tampered { .. })), "{name}: {refused:?}");
        assert!(refused.unwrap_err().to_string().contains("verify"));

        let log = AuditLog::open(home.path(), &key(), ACCEPT, Some(anchor)).unwrap();
        access(&log, 77).unwrap();
        let anchor = log.close().unwrap();
        assert_eq!(events(home.path(), "audit-damage-accepted").len(), 1, "{name}");
        let report = check(home.path(), Some(anchor));
        let (seq, what) = bad(&report);
        match what {
            // Nothing says any more where a whole head was.
            What::NewSegment => assert!(name.starts_with("head"), "{name}"),
            _ => assert_eq!(seq, before.0, "{name}: {what:?}"),
        }
        // From now on it opens by itself.
        let log = AuditLog::open(home.path(), &key(), NEVER, Some(anchor)).unwrap();
        access(&log, 78).unwrap();
        log.close().unwrap();
        assert!(!check(home.path(), None).ok, "{name}");
    }
}

#[test]
fn another_key_opens_nothing() {
    let home = TempDir::new().unwrap();
    written(home.path(), 2, NEVER);
    let other = Secret::new(vec![9; 32]);
    let opened = AuditLog::open(home.path(), &other, NEVER, None);
    assert!(matches!(opened, Err(AuditError::WrongKey { .. })), "{opened:?}");
    let report = verify(home.path(), &other, None, &mut |_| {}).unwrap();
    assert_eq!(bad(&report), (1, What::WrongKey));
    let short = AuditLog::open(home.path(), &Secret::new(vec![1; 16]), NEVER, None);
    assert!(matches!(short, Err(AuditError::KeyLength { found: 16 })));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn any_changed_byte_of_any_file_is_found(at in any::<prop::sample::Index>(), xor in 1..=255u8) {
        thread_local! {
            static LOG: (TempDir, Vec<(PathBuf, Vec<u8>)>) = sample();
        }
        LOG.with(|(home, files)| {
            let total = files.iter().map(|(_, bytes)| bytes.len()).sum();
            let mut at = at.index(total);
            for (path, bytes) in files {
                let Some(byte) = bytes.get(at) else { at -= bytes.len(); continue };
                let mut changed = bytes.clone();
                changed[at] = byte ^ xor;
                fs::write(path, changed).unwrap();
                let report = check(home.path(), None);
                fs::write(path, bytes).unwrap();
                prop_assert!(!report.ok, "{} at {at}", path.display());
                break;
            }
            Ok(())
        })?;
    }
}

/// A log of several files, and the content of all that belongs to it.
fn sample() -> (TempDir, Vec<(PathBuf, Vec<u8>)>) {
    let home = TempDir::new().unwrap();
    written(home.path(), 4, Options { max_file_bytes: 1200, ..NEVER });
    let paths = paths(home.path()).into_iter().chain([home.path().join("head")]);
    let files = paths.map(|path| (path.clone(), fs::read(&path).unwrap())).collect();
    (home, files)
}

/// A log of an earlier time: for as long as its format is read, it verifies, and goes on.
#[test]
fn the_frozen_log_verifies_and_goes_on() {
    let frozen = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/audit-1");
    let home = TempDir::new().unwrap();
    let log = home.path().join("audit");
    copy(&frozen, &log);
    for file in fs::read_dir(&log).unwrap() {
        fs::set_permissions(file.unwrap().path(), PermissionsExt::from_mode(0o600)).unwrap();
    }
    assert_eq!(whole(&log).records, 11);
    log_goes_on(&log);
}

// --- crashes

#[test]
fn after_kill_the_log_verifies_and_goes_on() {
    for cut in [1, 20, 100, 200, 300] {
        let home = TempDir::new().unwrap();
        let log = open(home.path(), NEVER);
        access(&log, 1).unwrap();
        log.inject(Fault::Killed(cut));
        assert_eq!(access(&log, 2), Err(Unrecorded));
        log.kill();
        let report = whole(home.path());
        assert!(report.unfinished_line && report.records == 2, "{report:?}");

        let log = open(home.path(), NEVER);
        access(&log, 3).unwrap();
        log.close().unwrap();
        assert!(!whole(home.path()).unfinished_line);
        dense(home.path());
        let [recovered] = &events(home.path(), "audit-recovered")[..] else { panic!() };
        let aside = home.path().join(recovered["subject"].as_str().unwrap());
        assert_eq!(fs::read(aside).unwrap().len(), cut);
    }
}

#[test]
fn a_kill_in_the_first_record_of_a_file_is_survived() {
    let home = TempDir::new().unwrap();
    let log = open(home.path(), NEVER);
    log.inject(Fault::Killed(30));
    assert_eq!(access(&log, 1), Err(Unrecorded));
    log.kill();
    assert_eq!(whole(home.path()).records, 0);
    written(home.path(), 2, SMALL);
    assert_eq!(whole(home.path()).records, 6);

    // The same at a rotation.
    let log = open(home.path(), Options { max_file_bytes: 1, ..NEVER });
    log.inject(Fault::Killed(30));
    assert_eq!(access(&log, 1), Err(Unrecorded));
    log.kill();
    whole(home.path());
    written(home.path(), 2, SMALL);
    whole(home.path());
    dense(home.path());
}

#[test]
fn a_rotation_that_stopped_at_an_empty_file_is_finished() {
    let home = TempDir::new().unwrap();
    let anchor = written(home.path(), 2, NEVER);
    let empty = files::path_of(home.path(), anchor.seq + 1);
    files::create(&empty, files::Mode::Append).unwrap();
    whole(home.path());
    written(home.path(), 2, NEVER);
    assert_eq!(whole(home.path()).files, 1);
}

#[test]
fn a_log_ahead_of_its_head_is_whole() {
    let home = TempDir::new().unwrap();
    let log = open(home.path(), SMALL);
    for n in 0..4 {
        access(&log, n).unwrap();
    }
    let head = fs::read(home.path().join("head")).unwrap();
    for n in 4..20 {
        access(&log, n).unwrap();
    }
    log.kill();
    fs::write(home.path().join("head"), head).unwrap();
    let records = whole(home.path()).records;
    written(home.path(), 1, NEVER);
    assert_eq!(whole(home.path()).records, records + 2);
    dense(home.path());
}

/// A machine that goes down may lose what was not synced, and nothing else.
#[test]
fn a_power_failure_takes_only_what_was_not_synced() {
    let home = TempDir::new().unwrap();
    let log = open(home.path(), NEVER);
    access(&log, 1).unwrap();
    log.close().unwrap();
    drop(log);
    let log = open(home.path(), NEVER);
    for n in 2..6 {
        access(&log, n).unwrap();
    }
    let synced = log.anchor();
    assert_eq!(synced.seq, 2);
    {
        let mut writer = log.shared.writer.lock();
        writer.head.boot = [1; 16];
        writer.write_own(&event("x"), SystemTime::now()).unwrap();
    }
    log.settle();
    log.kill();
    let path = paths(home.path())[0].clone();
    let full = fs::read(&path).unwrap();

    // Two records survive whole, and some zeros of the third.
    let third = lines(&path).iter().take(4).map(|line| line.len() + 1).sum::<usize>();
    let mut left = full[..third].to_vec();
    left.extend([0; 50]);
    fs::write(&path, &left).unwrap();
    let log = AuditLog::open(home.path(), &key(), NEVER, Some(synced)).unwrap();
    log.close().unwrap();
    let [recovered] = &events(home.path(), "audit-recovered")[..] else { panic!() };
    assert!(recovered["detail"].as_str().unwrap().starts_with("3 records after record 4"));
    whole(home.path());

    // On the same boot, or below what was synced, it is damage.
    let other = TempDir::new().unwrap();
    written(other.path(), 2, NEVER);
    rewrite(&paths(other.path())[0], |l| drop(l.pop()));
    let opened = AuditLog::open(other.path(), &key(), NEVER, None);
    assert!(matches!(opened, Err(AuditError::Tampered { seq: 5, .. })), "{opened:?}");
}

#[test]
fn a_power_failure_can_take_whole_files() {
    let home = TempDir::new().unwrap();
    let log = open(home.path(), SMALL);
    for n in 0..20 {
        access(&log, n).unwrap();
    }
    log.shared.writer.lock().head.boot = [1; 16];
    access(&log, 20).unwrap();
    log.settle();
    log.kill();
    let all = paths(home.path());
    assert!(all.len() > 4);
    fs::write(&all[2], [0; 500]).unwrap();
    log_goes_on(home.path());
    let aside = fs::read_dir(home.path())
        .unwrap()
        .filter(|entry| entry.as_ref().unwrap().file_name().to_string_lossy().starts_with("torn-"));
    assert_eq!(aside.count(), all.len() - 2);
}

#[track_caller]
fn log_goes_on(dir: &Path) {
    written(dir, 1, NEVER);
    whole(dir);
    dense(dir);
}

// --- trouble with the disk

#[test]
fn a_full_disk_refuses_and_then_mends() {
    for fault in [Fault::Error(rustix::io::Errno::NOSPC), Fault::Partial(40)] {
        let home = TempDir::new().unwrap();
        let log = open(home.path(), NEVER);
        access(&log, 1).unwrap();
        log.inject(fault);
        assert_eq!(access(&log, 2), Err(Unrecorded));
        assert!(!log.healthy() && log.trouble().unwrap().contains("write to"));
        outcome(&log, 1);
        assert_eq!(log.event(&event("x")), Err(Unrecorded), "not tried again at once");
        until(|| access(&log, 3).is_ok());
        assert!(log.healthy() && log.trouble().is_none());
        let stats = log.stats();
        assert_eq!((stats.failures, stats.accesses, stats.lost_outcomes), (1, 2, 1));
        log.close().unwrap();
        let [resumed] = &events(home.path(), "audit-resumed")[..] else { panic!() };
        let told = resumed["detail"].as_str().unwrap();
        let refused = format!("{} calls; lost: 1 outcomes, 1 events", stats.refused_accesses);
        assert!(told.contains(&refused), "{told}");
        whole(home.path());
        dense(home.path());
    }
}

#[test]
fn mending_needs_no_traffic() {
    let home = TempDir::new().unwrap();
    let log =
        open(home.path(), Options { fsync: Fsync::Interval(Duration::from_millis(10)), ..NEVER });
    access(&log, 1).unwrap();
    log.shared.writer.lock().faults.push_back(Fault::Error(rustix::io::Errno::IO));
    assert_eq!(access(&log, 2), Err(Unrecorded));
    until(|| log.healthy());
    access(&log, 3).unwrap();
}

/// What is done to the files of a running log, and what `verify` says after it mended itself.
#[test]
fn a_log_whose_files_are_taken_away_mends_itself() {
    type Change<'a> = &'a dyn Fn(&Path);
    let gap = |_: &Report| -> Option<(u64, What)> { Some((1, What::FileMissing { through: 3 })) };
    let none = |_: &Report| None;
    type Verdict<'a> = &'a dyn Fn(&Report) -> Option<(u64, What)>;
    let cases: [(&str, Change<'_>, Verdict<'_>); 9] = [
        ("rm", &|d| fs::remove_file(&paths(d)[0]).unwrap(), &none),
        ("rm -r", &|d| fs::remove_dir_all(d).unwrap(), &none),
        ("mv", &|d| fs::rename(&paths(d)[0], d.join("audit.1")).unwrap(), &none),
        ("mv dir", &|d| fs::rename(d, d.with_extension("away")).unwrap(), &none),
        ("rm head", &|d| fs::remove_file(d.join("head")).unwrap(), &none),
        ("rm lock", &|d| fs::remove_file(d.join(".lock")).unwrap(), &none),
        ("copytruncate", &|d| fs::write(&paths(d)[0], "").unwrap(), &gap),
        (
            "mv, create",
            &|d| {
                let path = paths(d)[0].clone();
                fs::rename(&path, d.join("audit.1")).unwrap();
                fs::write(&path, "").unwrap();
            },
            &gap,
        ),
        (
            "a directory in its place",
            &|d| {
                let path = paths(d)[0].clone();
                fs::remove_file(&path).unwrap();
                fs::create_dir(&path).unwrap();
            },
            &gap,
        ),
    ];
    for (name, change, verdict) in cases {
        let home = TempDir::new().unwrap();
        let dir = home.path().join("audit");
        let log = open(&dir, NEVER);
        log.stop_keeper();
        access(&log, 1).unwrap();
        outcome(&log, 1);
        change(&dir);
        // The names are looked at every 100 ms: until then a record may go where it cannot be found
        // by name, and is brought back with the rest.
        until(|| access(&log, 2).is_err());
        until(|| access(&log, 3).is_ok());
        assert!(log.healthy(), "{name}");
        log.close().unwrap();
        assert_eq!(events(&dir, "audit-resumed").len(), 1, "{name}");
        let report = check(&dir, None);
        match verdict(&report) {
            None => assert!(report.ok, "{name}: {report:?}"),
            Some((seq, _)) => assert_eq!(bad(&report).0, seq, "{name}: {report:?}"),
        }
        open(&dir, NEVER).close().unwrap();
    }
}

#[test]
fn bytes_of_another_writer_end_the_file() {
    let home = TempDir::new().unwrap();
    let log = open(home.path(), NEVER);
    access(&log, 1).unwrap();
    let path = paths(home.path())[0].clone();
    let mut text = fs::read(&path).unwrap();
    text.extend(b"{}\n");
    fs::write(&path, text).unwrap();
    until(|| access(&log, 2) == Err(Unrecorded));
    until(|| access(&log, 3).is_ok());
    log.close().unwrap();
    assert_eq!(paths(home.path()).len(), 2);
    // What was written before the change was noticed stands behind it.
    let (seq, what) = bad(&check(home.path(), None));
    assert!(seq == 3 && matches!(what, What::Inserted | What::NotARecord), "{seq} {what:?}");
}

// --- rotation and retention

/// A clock that tests set.
fn clock() -> (Arc<AtomicU64>, Clock) {
    let seconds = Arc::new(AtomicU64::new(1_800_000_000));
    let read = Arc::clone(&seconds);
    let clock = move || UNIX_EPOCH + Duration::from_secs(read.load(Ordering::Relaxed));
    (seconds, Arc::new(clock))
}

#[test]
fn files_older_than_asked_are_deleted_and_the_rest_verifies() {
    const DAY: u64 = 24 * 60 * 60;
    let home = TempDir::new().unwrap();
    let (seconds, clock) = clock();
    let options = Options { retain: Some(Duration::from_secs(10 * DAY)), ..NEVER };
    let log = AuditLog::open_at(home.path(), &key(), options, None, clock).unwrap();
    log.stop_keeper();
    for day in 0..30 {
        access(&log, day).unwrap();
        log.shared.keep_house();
        seconds.fetch_add(DAY + 1, Ordering::Relaxed);
    }
    let report = whole(home.path());
    assert!(report.first_seq > 20 && (10..=13).contains(&report.files), "{report:?}");
    let told = events(home.path(), "audit-retention");
    assert!(told.len() > 8 && told[0]["subject"].as_str().unwrap().starts_with("audit-0000"));
    let anchor = log.close().unwrap();
    assert!(check(home.path(), Some(anchor)).ok);

    // What retention did is told from a deletion.
    let oldest = paths(home.path())[0].clone();
    fs::remove_file(&oldest).unwrap();
    let report = check(home.path(), Some(anchor));
    assert!(matches!(bad(&report).1, What::FileMissing { .. }), "{report:?}");
}

#[test]
fn a_clock_that_is_set_ahead_deletes_nothing_before_it_was_right_for_an_hour() {
    const DAY: u64 = 24 * 60 * 60;
    let home = TempDir::new().unwrap();
    let (seconds, clock) = clock();
    let steady = Arc::new(AtomicU64::new(0));
    let read = Arc::clone(&steady);
    let since = Arc::new(move || Duration::from_secs(read.load(Ordering::Relaxed)));
    let options = Options { retain: Some(Duration::from_secs(30 * DAY)), ..SMALL };
    let log = AuditLog::open_by(home.path(), &key(), options, None, (clock, since)).unwrap();
    log.stop_keeper();
    for n in 0..20 {
        access(&log, n).unwrap();
    }
    let all = paths(home.path()).len();
    assert!(all > 3);
    let pass = |wall: u64, real: u64| {
        seconds.fetch_add(wall, Ordering::Relaxed);
        steady.fetch_add(real, Ordering::Relaxed);
        log.shared.keep_house();
        paths(home.path()).len()
    };
    // Two hours that are hours: the clock is trusted, and nothing is old.
    for _ in 0..120 {
        assert_eq!(pass(60, 60), all);
    }
    // A year ahead, in a moment: all of it would be old. Set right within the hour, nothing is lost.
    assert_eq!(pass(365 * DAY, 1), all);
    for _ in 0..50 {
        assert_eq!(pass(60, 60), all);
    }
    seconds.fetch_sub(365 * DAY, Ordering::Relaxed);
    for _ in 0..120 {
        assert_eq!(pass(60, 60), all);
    }
    // A year ahead, and nobody says otherwise for an hour: so be it.
    assert_eq!(pass(365 * DAY, 1), all);
    let mut left = all;
    for _ in 0..61 {
        left = pass(60, 60);
    }
    assert!(left < all, "{left}");
    log.close().unwrap();
    whole(home.path());
}

#[test]
fn a_retention_that_was_cut_short_is_finished() {
    let home = TempDir::new().unwrap();
    let (seconds, clock) = clock();
    let options = Options { retain: Some(Duration::from_mins(1)), ..SMALL };
    let log = AuditLog::open_at(home.path(), &key(), options, None, clock).unwrap();
    log.stop_keeper();
    for n in 0..20 {
        access(&log, n).unwrap();
    }
    let kept = fs::read(&paths(home.path())[0]).unwrap();
    let oldest = paths(home.path())[0].clone();
    seconds.fetch_add(3600, Ordering::Relaxed);
    log.shared.keep_house();
    assert!(!oldest.exists());
    log.close().unwrap();
    drop(log);
    fs::write(&oldest, kept).unwrap();
    fs::set_permissions(&oldest, PermissionsExt::from_mode(0o600)).unwrap();
    whole(home.path());
    open(home.path(), NEVER).close().unwrap();
    assert!(!oldest.exists());
    whole(home.path());
}

#[test]
fn an_old_file_that_vanished_does_not_stop_the_log() {
    let home = TempDir::new().unwrap();
    let (seconds, clock) = clock();
    let options = Options { retain: Some(Duration::from_mins(1)), ..SMALL };
    let log = AuditLog::open_at(home.path(), &key(), options, None, clock).unwrap();
    log.stop_keeper();
    for n in 0..20 {
        access(&log, n).unwrap();
    }
    fs::remove_file(&paths(home.path())[0]).unwrap();
    fs::remove_file(&paths(home.path())[0]).unwrap();
    seconds.fetch_add(3600, Ordering::Relaxed);
    log.shared.keep_house();
    assert!(log.healthy());
    access(&log, 21).unwrap();
}

// --- reading

fn shown(dir: &Path, filter: Filter) -> Vec<u64> {
    query(dir, filter).unwrap().map(|entry| entry.unwrap().seq().unwrap()).collect()
}

#[test]
fn queries_find_calls_with_their_outcomes() {
    let home = TempDir::new().unwrap();
    let log = open(home.path(), NEVER);
    access_of(&log, 1, "alpha", "openai", Decision::Permit).unwrap(); // 2
    access_of(&log, 2, "beta", "github", Decision::Refuse).unwrap(); // 3
    outcome(&log, 1); // 4
    log.event(&event("policy-reloaded")).unwrap(); // 5
    access_of(&log, 3, "alpha", "github", Decision::Permit).unwrap(); // 6
    outcome(&log, 3); // 7
    let text = |text: &str| Some(text.to_owned());
    let with = |set: &dyn Fn(&mut Filter)| {
        let mut filter = Filter::default();
        set(&mut filter);
        shown(home.path(), filter)
    };
    assert_eq!(with(&|_| {}), [1, 2, 3, 4, 5, 6, 7]);
    assert_eq!(with(&|f| f.agent = text("alpha")), [2, 4, 6, 7]);
    assert_eq!(with(&|f| f.agent = text("alph")), [0; 0]);
    assert_eq!(with(&|f| f.credential = text("github")), [3, 6, 7]);
    assert_eq!(with(&|f| f.decision = Some(Decision::Refuse)), [3]);
    assert_eq!(with(&|f| f.run = text("run-3")), [6, 7]);
    assert_eq!(with(&|f| f.host = text("api.example.com")), [2, 3, 4, 6, 7]);
    assert_eq!(with(&|f| f.host = text("example.com")), [0; 0]);
    assert_eq!(with(&|f| f.kind = Some(Kind::Event)), [1, 5]);
    assert_eq!(with(&|f| f.kind = Some(Kind::Outcome)), [4, 7]);
    assert_eq!(with(&|f| f.request_id = Some(id(1).to_string())), [2, 4]);
    assert_eq!(with(&|f| f.limit = Some(2)), [6, 7]);
    assert_eq!(with(&|f| (f.limit, f.agent) = (Some(1), text("beta"))), [3]);
    let both = |f: &mut Filter| (f.kind, f.agent) = (Some(Kind::Outcome), text("alpha"));
    assert_eq!(with(&both), [4, 7]);
}

#[test]
fn queries_by_time_leave_whole_files_out() {
    let home = TempDir::new().unwrap();
    let (seconds, clock) = clock();
    let log = AuditLog::open_at(home.path(), &key(), SMALL, None, clock).unwrap();
    let start = seconds.load(Ordering::Relaxed);
    for n in 0..40 {
        access(&log, n).unwrap();
        seconds.fetch_add(60, Ordering::Relaxed);
    }
    let at = |minute: u64| Some(UNIX_EPOCH + Duration::from_secs(start + 60 * minute));
    let filter =
        Filter { since: at(10), until: at(20), kind: Some(Kind::Access), ..Filter::default() };
    let runs: Vec<_> = query(home.path(), filter.clone())
        .unwrap()
        .map(|entry| entry.unwrap().text("run").unwrap().to_owned())
        .collect();
    assert_eq!(runs, (10..20).map(|n| format!("run-{n}")).collect::<Vec<_>>());
    let all = files::list(home.path()).unwrap();
    let read = super::query::in_time(home.path(), all.clone(), &filter);
    assert!(read.len() < all.len() / 2, "{} of {}", read.len(), all.len());
}

#[test]
fn a_damaged_line_is_one_error_and_the_rest_is_shown() {
    let home = TempDir::new().unwrap();
    written(home.path(), 2, NEVER);
    rewrite(&paths(home.path())[0], |l| l[1] = "{\"half".to_owned());
    let found: Vec<_> = query(home.path(), Filter::default()).unwrap().collect();
    assert_eq!(found.iter().filter(|entry| entry.is_ok()).count(), 4);
    let Some(Err(error)) = found.get(1) else { panic!() };
    assert!(matches!(error, AuditError::NotARecord { line: 2, .. }));
}

#[test]
fn tail_reads_from_the_end_across_files() {
    let home = TempDir::new().unwrap();
    assert!(tail(home.path(), 3).unwrap().is_empty());
    let anchor = written(home.path(), 10, SMALL);
    let seqs = |n| -> Vec<u64> {
        tail(home.path(), n).unwrap().iter().map(|entry| entry.seq().unwrap()).collect()
    };
    assert_eq!(seqs(0), [0; 0]);
    assert_eq!(seqs(1), [anchor.seq]);
    assert_eq!(seqs(12), (anchor.seq - 11..=anchor.seq).collect::<Vec<_>>());
    assert_eq!(seqs(1000).len() as u64, anchor.seq);
}

#[test]
fn follow_shows_each_record_once_across_rotations() {
    let home = TempDir::new().unwrap();
    let mut early = Follow::new(home.path(), Filter::default()).unwrap();
    written(home.path(), 2, SMALL);
    let mut follow = Follow::new(home.path(), Filter::default()).unwrap();
    assert!(follow.poll().unwrap().is_empty());
    let log = open(home.path(), SMALL);
    let mut seen = Vec::new();
    for n in 0..12 {
        access(&log, n).unwrap();
        if n % 3 == 0 {
            seen.extend(follow.poll().unwrap());
        }
    }
    seen.extend(follow.poll().unwrap());
    let seqs: Vec<u64> = seen.iter().map(|entry| entry.seq().unwrap()).collect();
    assert_eq!(seqs, (6..=log.last().seq).collect::<Vec<_>>());
    assert_eq!(early.poll().unwrap().len() as u64, log.last().seq);
}

#[test]
fn entries_know_their_host_and_credentials() {
    let home = TempDir::new().unwrap();
    let log = open(home.path(), NEVER);
    access(&log, 1).unwrap();
    let entry = tail(home.path(), 1).unwrap().remove(0);
    assert_eq!(entry.host(), Some("api.example.com"));
    assert_eq!(entry.credentials().collect::<Vec<_>>(), ["openai"]);
    assert_eq!(entry.kind(), Some(Kind::Access));
    let fields: BTreeMap<String, Value> = serde_json::from_str(entry.line()).unwrap();
    assert_eq!(fields["seq"], entry.seq().unwrap());
}
