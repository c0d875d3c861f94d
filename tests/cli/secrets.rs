//! No secret is in an output, a file or an argument; and one that could not be sent is not stored.

use std::fs;

use crate::home::{Home, assert_not_in};

const CANARY: &str = "sk-canary-7Qx2mVb9Lp4Rt8Wz";

#[test]
fn a_secret_that_no_header_can_carry_is_refused_and_not_shown() {
    let home = Home::new();
    let add = ["credential", "add", "x", "--to", "https://a.test", "--header", "x-key: {secret}"];
    for (ending, why) in [
        ("\rb", "line break"),
        ("\nb", "line break"),
        ("\n\n", "line break"),
        ("\0", "control character"),
        ("\tb", "control character"),
        ("ü", "beyond ASCII"),
        (" ", "space"),
        ("locum_a", "placeholder"),
    ] {
        let secret = format!("{CANARY}{ending}");
        let ran = home.run_with(&add, secret.as_bytes());
        ran.refused(64, &[why]);
        assert_not_in(CANARY, format!("{ran:?}").as_bytes(), "the refusal");
    }
    home.run_with(&add, b"short").refused(64, &["under 8 bytes", "--force-short"]);
    home.run_with(&add, b"").refused(64, &["standard input is empty"]);
    home.run_with(&add, "x".repeat(20_000).as_bytes()).refused(64, &["16384 bytes"]);
    home.run_with(&add, format!("Bearer {CANARY}").as_bytes()).refused(64, &["auth scheme"]);
    assert!(home.credentials().is_empty());
    home.assert_nowhere(CANARY);
}

#[test]
fn the_secret_is_in_no_output_and_no_file_by_whatever_way_it_came() {
    let home = Home::new();
    let key_file = home.beside("key.txt");
    let to = ["--to", "https://api.test", "--header", "x-key: {secret}"];
    let mut said = Vec::new();
    let mut note = |ran: crate::home::Ran| {
        assert_eq!(ran.code, 0, "{ran:?}");
        said.push(ran.out + &ran.err);
    };
    note(home.run_with(&[&["credential", "add", "a"][..], &to].concat(), CANARY.as_bytes()));
    fs::write(&key_file, format!("{CANARY}\r\n")).unwrap();
    let path = key_file.display().to_string();
    note(home.run(&[&["credential", "add", "b", "--from-file", &path][..], &to].concat()));
    fs::remove_file(&key_file).unwrap();
    let args = [&["credential", "add", "c", "--json", "--from-env", "KEY"][..], &to].concat();
    let output = home.command(&args).env("KEY", CANARY).output().unwrap();
    assert!(output.status.success());
    note(home.run_with(&["credential", "rotate", "a"], format!("{CANARY}-2").as_bytes()));
    for args in [
        &["credential", "list"][..],
        &["credential", "list", "--json"],
        &["credential", "show", "a"],
        &["credential", "show", "a", "--json"],
        &["set", "add", "all", "a", "b"],
        &["vault", "status", "--verify"],
        &["vault", "backup", "copy.db"],
        &["audit", "query"],
        &["audit", "export"],
        &["vault", "rekey"],
        &["credential", "revoke", "b"],
        &["credential", "remove", "c"],
    ] {
        note(home.run(args));
    }
    let all = [said.concat().as_bytes(), &output.stdout, &output.stderr].concat();
    assert_not_in(CANARY, &all, "the output");
    home.assert_nowhere(CANARY);
    // The same value has the same fingerprint, and another has another.
    let fingerprint = |name: &str, n: usize| {
        let shown = home.json(&["credential", "show", name, "--json"]);
        shown["versions"][n]["fingerprint"].as_str().unwrap().to_owned()
    };
    assert_eq!(fingerprint("a", 0), fingerprint("b", 0));
    assert_ne!(fingerprint("a", 0), fingerprint("a", 1));
}

#[test]
fn a_token_is_printed_once_and_kept_nowhere() {
    let home = Home::new();
    let added = home.json(&["agent", "add", "researcher", "--json"]);
    let token = added["token"].as_str().unwrap();
    assert!(token.len() > 40);
    assert_not_in(token, home.ok(&["agent", "list", "--json"]).as_bytes(), "the list");
    home.assert_nowhere(token);
}
