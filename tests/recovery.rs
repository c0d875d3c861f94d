//! A vault whose master key is lost, and people who have shares of another.

#![allow(missing_docs, unreachable_pub, dead_code)]
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;
use support::*;

fn make(home: &Home, threshold: u8, shares: u8) -> Vec<String> {
    let (threshold, shares) = (threshold.to_string(), shares.to_string());
    // Not kept: what is printed here is what nothing else may hold.
    let mut command = home.command(&["vault", "recovery", "--json"]);
    command.args(["--threshold", &threshold, "--shares", &shares]);
    let made: Value = serde_json::from_str(&run(&mut command, b"").ok().out).unwrap();
    let texts = made["shares"].as_array().unwrap();
    texts.iter().map(|text| text.as_str().unwrap().to_owned()).collect()
}

fn lines(shares: &[&String]) -> String {
    shares.iter().flat_map(|share| [share.as_str(), "\n"]).collect()
}

#[track_caller]
fn recover(home: &Home, more: &[&str], shares: &[&String]) -> Ran {
    let all = [&["vault", "restore", "--recovery"], more].concat();
    home.locum_with(&all, lines(shares).as_bytes())
}

#[track_caller]
fn opens(home: &Home) {
    home.locum(&["vault", "status", "--verify"]).ok();
    home.locum(&["audit", "verify"]).ok();
}

#[test]
fn a_lost_key_is_made_good_by_enough_shares_and_by_no_fewer() {
    // The origin is there for as long as the test.
    let Stage { home, origin: _origin, agent, .. } = Stage::new();
    let shares = make(&home, 2, 3);
    let status = home.locum(&["vault", "status"]).ok().out;
    assert!(status.contains("2 of 3 shares"), "{status}");
    // What is sealed for them follows each new master key.
    home.locum(&["vault", "rekey"]).ok();
    let master = home.path().join("master.key");
    fs::rename(&master, home.work().join("lost")).unwrap();
    assert_eq!(home.locum(&["credential", "list"]).code, 1);
    // Too few, twice the same, mistyped, of another home.
    let other = make(&Home::new(), 2, 3);
    let mut odd = shares[1].clone();
    odd.replace_range(9..10, if &odd[9..10] == "A" { "B" } else { "A" });
    for (given, why) in [
        (vec![&shares[0]], "2 shares are wanted"),
        (vec![&shares[0], &shares[0]], "given before"),
        (vec![&shares[0], &odd], "mistyped"),
        (vec![&other[0], &other[1]], "another vault"),
    ] {
        let ran = recover(&home, &[], &given);
        assert!(ran.code == 64 && ran.err.contains(why), "{why}: {}", ran.err);
        assert!(!master.exists());
    }
    let ran = recover(&home, &[], &[&shares[2], &shares[0]]).ok();
    assert!(ran.out.contains("opens with the new key in"), "{}", ran.out);
    opens(&home);
    assert_ne!(fs::read(&master).unwrap(), fs::read(home.work().join("lost")).unwrap());
    let serve = home.serve();
    let answer = serve.tunnel(&agent, HOST).ask(request("GET", "/v1/x", &[AUTHORIZED], ""));
    assert_eq!(answer.status, 200, "{}", answer.text());
    let ran = recover(&home, &[], &[&shares[0], &shares[1]]);
    assert!(ran.code == 1 && ran.err.contains("a proxy serves this home"), "{}", ran.err);
    serve.stop();
    // A new set, and a new key: the old shares open nothing of what comes after.
    let newer = make(&home, 3, 4);
    home.locum(&["vault", "rekey"]).ok();
    fs::remove_file(&master).unwrap();
    let ran = recover(&home, &[], &[&shares[0], &shares[1]]);
    assert!(ran.code == 64 && ran.err.contains("another set"), "{}", ran.err);
    recover(&home, &[], &[&newer[3], &newer[1], &newer[0]]).ok();
    opens(&home);
    let parts: Vec<&str> = shares.iter().chain(&newer).map(|text| &text[30..80]).collect();
    home.never_leaks(&parts, &[("log", serve_log(&home).as_bytes())]);
}

fn serve_log(home: &Home) -> String {
    fs::read_to_string(home.work().join("serve.log")).unwrap_or_default()
}

#[test]
fn a_backup_opens_with_the_shares_of_its_day_in_another_home() {
    let home = Home::new();
    let key = canary();
    home.add("main", BEARER, &key);
    let file = home.work().join("passphrase");
    fs::write(&file, "correct horse battery staple\n").unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    home.locum(&["vault", "rekey", "--passphrase-file", file.to_str().unwrap()]).ok();
    home.set(&format!("vault.key: {{passphrase: {{file: {}}}}}", file.display()));
    let shares = make(&home, 2, 2);
    let copy = home.work().join("copy");
    home.locum(&["vault", "backup", copy.to_str().unwrap()]).ok();
    // The passphrase is forgotten, and the home gone.
    let there = Home::new();
    // The log comes along, as it does to a new machine.
    fs::remove_dir_all(there.path().join("audit")).unwrap();
    let log = (home.path().join("audit"), there.path());
    command_output(Command::new("cp").arg("-a").arg(log.0).arg(log.1));
    let ran =
        recover(&there, &[copy.to_str().unwrap(), "--accept-rollback"], &[&shares[1], &shares[0]]);
    assert_eq!(ran.code, 0, "{}{}", ran.out, ran.err);
    assert!(ran.out.contains("the key file that was there is"), "{}", ran.out);
    opens(&there);
    assert!(there.locum(&["credential", "list"]).ok().out.contains("main"));
    home.never_leaks(&[&key], &[]);
}

#[test]
fn another_program_gives_the_key_back_by_the_document() {
    let home = Home::new();
    let shares = make(&home, 3, 5);
    let python = Tools::python_as("python-recovery", &["cryptography==46.0.3"]);
    let mut command = Command::new(python.path.join("bin/python"));
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/recovery.py"));
    command.arg(home.path().join("master.recovery"));
    let given = lines(&[&shares[4], &shares[0], &shares[2]]);
    let ran = run(&mut command, given.as_bytes()).ok();
    let key = fs::read_to_string(home.path().join("master.key")).unwrap();
    assert_eq!(ran.out.trim(), key.lines().nth(1).unwrap());
}

#[test]
fn making_and_using_shares_that_is_killed_leaves_a_vault_that_opens() {
    let home = Home::new();
    home.set("log.level: info");
    home.add("main", BEARER, &canary());
    let recovery = ["vault", "recovery", "--threshold", "2", "--shares", "3"];
    let usual = took(|| drop(make(&home, 2, 3)));
    let command = |n: u32| match n % 3 {
        2 => home.command(&["vault", "rekey"]),
        _ => home.command(&recovery),
    };
    kill_again_and_again(usual, command, |_, round, _| {
        let ran = home.locum(&["vault", "status", "--verify"]);
        assert_eq!(ran.code, 0, "{round}: {}", ran.err);
    });
    // Of the last set that was made in full, each use of the shares is killed: either the key that is
    // there opens, or the shares do.
    let shares = make(&home, 2, 3);
    let master = home.path().join("master.key");
    let input = lines(&[&shares[0], &shares[2]]);
    let (mut dice, mut aim) = (Dice::new(), Aim::at(usual));
    let (start, mut kills, mut opened) = (std::time::Instant::now(), 0, 0);
    while another(kills, 60, start) {
        let round = format!("kill {kills} of seed {}", dice.seed);
        fs::remove_file(&master).unwrap();
        let command = home.command(&["vault", "restore", "--recovery"]);
        let usual = aim.usual();
        aim.learn(killed(command, &input, usual / 4 + dice.time(usual)));
        if home.locum(&["vault", "status", "--verify"]).code == 0 {
            opened += 1;
        } else {
            let ran = recover(&home, &[], &[&shares[1], &shares[2]]);
            assert_eq!(ran.code, 0, "{round}: {}", ran.err);
            opens(&home);
        }
        kills += 1;
    }
    assert!(kills >= 10 && opened < kills, "{opened} of {kills}");
}

/// Shares that nobody has are not those that the vault is sealed for.
#[test]
fn a_set_whose_shares_nobody_got_is_not_in_force() {
    let home = Home::new();
    let shares = make(&home, 2, 3);
    let file = home.path().join("master.recovery");
    let record = fs::read(&file).unwrap();
    let set: Value = serde_json::from_slice(record.split(|b| *b == b'\n').nth(1).unwrap()).unwrap();
    let set = set["set"].as_str().unwrap();
    for more in [&[][..], &["--json"]] {
        for gone in [true, false] {
            let mut command =
                home.command(&["vault", "recovery", "--threshold", "2", "--shares", "2"]);
            // A pager that was left, and a disk that is full.
            let out = if gone { std::io::pipe().unwrap().1.into() } else { full() };
            let ended = command.args(more).stdout(out).stderr(Stdio::piped()).output().unwrap();
            let said = String::from_utf8_lossy(&ended.stderr);
            assert_eq!(ended.status.code(), Some(1), "{said}");
            assert!(said.contains("cannot be written"), "{said}");
            assert!(said.contains(&format!("set {set} is in force, as before")), "{said}");
            assert_eq!(fs::read(&file).unwrap(), record);
        }
    }
    // Nor is it after the next key.
    home.locum(&["vault", "rekey"]).ok();
    fs::remove_file(home.path().join("master.key")).unwrap();
    recover(&home, &[], &[&shares[0], &shares[1]]).ok();
    opens(&home);
}

fn full() -> Stdio {
    fs::File::options().write(true).open("/dev/full").unwrap().into()
}

#[test]
fn shares_are_not_made_while_another_command_changes_the_key() {
    let home = Home::new();
    let turn = fs::File::open(home.vault().parent().unwrap()).unwrap();
    rustix::fs::flock(&turn, rustix::fs::FlockOperation::LockExclusive).unwrap();
    let command = ["vault", "recovery", "--threshold", "2", "--shares", "3"];
    let ran = home.locum(&command);
    assert!(ran.code == 1 && ran.err.contains("another command changes"), "{}", ran.err);
    assert_eq!(ran.out, "");
    drop(turn);
    let mut command = home.command(&command);
    run(&mut command, b"").ok();
}
