//! The vault's own commands, and the CA: also killed in the middle.

use std::fs;
use std::time::Duration;

use crate::home::{Home, Proxy, kill_after};

#[test]
fn the_status_says_what_is_there() {
    let home = Home::new();
    home.add_credential("a", "a-secret-of-some-length");
    home.ok(&["agent", "add", "researcher"]);
    let status = home.json(&["vault", "status", "--json", "--verify"]);
    assert_eq!(status["path"], home.file("vault.db").to_str().unwrap());
    assert_eq!(status["key_source"], "key-file");
    for (key, value) in
        [("credentials", 1), ("live_credentials", 1), ("sets", 0), ("agents", 1), ("tokens", 1)]
    {
        assert_eq!(status[key], value, "{key}");
    }
    assert_eq!((&status["anchored"], &status["verified"]), (&true.into(), &true.into()));
    let text = home.ok(&["vault", "status"]);
    assert!(text.contains("opened by") && text.contains("agrees with the one beside"), "{text}");
}

#[test]
fn a_vault_that_was_tampered_with_says_so_in_every_command() {
    let home = Home::new();
    home.add_credential("a", "a-secret-of-some-length");
    home.ok(&["vault", "backup", "copy.db"]);
    let db = rusqlite::Connection::open(home.file("vault.db")).unwrap();
    db.execute(r#"UPDATE credentials SET destinations = '["https://evil.test"]'"#, []).unwrap();
    drop(db);
    home.run(&["vault", "status"])
        .refused(1, &["credential 'a', version 1", "is not what was sealed"]);
    home.run(&["audit", "verify"])
        .refused(1, &["the log cannot be verified, because the vault", "is not what was sealed"]);
    // The log can still be read.
    assert!(home.ok(&["audit", "query"]).contains("credential-added a"));
    home.ok(&["vault", "restore", "copy.db"]);
    assert_eq!(home.credentials(), ["a"]);
}

#[test]
fn backup_and_restore() {
    let home = Home::new();
    home.add_credential("a", "a-secret-of-some-length");
    home.ok(&["vault", "backup", "copy.db"]);
    home.run(&["vault", "backup", "copy.db"]).refused(1, &["exists already"]);
    home.add_credential("b", "another-secret-of-some-length");
    home.run(&["vault", "restore", "copy.db"]).refused(
        1,
        &[
            "copy.db: this is an old copy",
            "what was revoked since would be valid again",
            "--accept-rollback",
        ],
    );
    assert_eq!(home.credentials(), ["a", "b"]);
    let text = home.ok(&["vault", "restore", "copy.db", "--accept-rollback"]);
    assert!(
        text.contains("the file that was there is") && text.contains("is valid again"),
        "{text}"
    );
    assert_eq!(home.credentials(), ["a"]);
    home.ok(&["audit", "verify"]);
    let newest = home.ok(&["audit", "tail", "-n", "1"]);
    assert!(newest.contains("vault-state-accepted"), "{newest}");
    home.run(&["vault", "restore", "nothing.db"]).refused(1, &["nothing.db does not exist"]);
    fs::write(home.beside("text"), "text").unwrap();
    home.run(&["vault", "restore", "text"]).refused(1, &["text", "not a Locum vault"]);
    // An old copy put in the vault's place by hand is found, too.
    home.ok(&["vault", "backup", "plain.db", "--plain"]);
    home.ok(&["agent", "add", "late"]);
    fs::copy(home.beside("plain.db"), home.file("vault.db")).unwrap();
    home.run(&["credential", "list"]).refused(1, &["this is an old copy", "locum vault restore"]);
    home.ok(&["vault", "restore", home.file("vault.db").to_str().unwrap(), "--accept-rollback"]);
    home.ok(&["credential", "list"]);
}

#[test]
fn a_backup_of_before_the_rekey_opens_with_the_key_of_then() {
    let home = Home::new();
    home.ok(&["vault", "backup", "copy.db"]);
    let old = fs::read(home.file("master.key")).unwrap();
    home.ok(&["vault", "rekey"]);
    assert_ne!(fs::read(home.file("master.key")).unwrap(), old);
    let restore = ["vault", "restore", "copy.db", "--accept-rollback"];
    let says = ["copy.db is of this vault", "before its master key was changed", "--key-file"];
    home.run(&restore).refused(1, &says);
    home.ok(&["vault", "status"]);
    fs::write(home.file("master.key"), &old).unwrap();
    home.ok(&restore);
    home.ok(&["vault", "status", "--verify"]);
}

#[test]
fn a_backup_of_before_the_rekey_is_put_back_with_the_key_of_then_and_gets_a_new_one() {
    let home = Home::new();
    home.add_credential("a", "a-secret-of-some-length");
    for (backup, key, plain) in [("sealed.db", "old.key", false), ("plain.db", "older.key", true)] {
        let mut arguments = vec!["vault", "backup", backup];
        arguments.extend(plain.then_some("--plain"));
        home.ok(&arguments);
        fs::copy(home.file("master.key"), home.beside(key)).unwrap();
        home.ok(&["vault", "rekey"]);
        home.ok(&["agent", "add", &format!("since-{}", &key[..3].trim_end_matches('.'))]);
        let today = fs::read(home.file("master.key")).unwrap();
        let restore = ["vault", "restore", backup, "--accept-rollback"];
        home.run(&restore).refused(1, &["is of this vault", "--key-file"]);
        // Another key is none of it, and changes nothing.
        fs::write(home.beside("today.key"), &today).unwrap();
        crate::home::set_mode(&home.beside("today.key"), 0o600);
        home.run(&[&restore[..], &["--key-file", "today.key"]].concat()).refused(1, &[backup]);
        home.ok(&["vault", "status"]);
        let with_key = [&restore[..], &["--key-file", key, "--json"]].concat();
        let done = home.json(&with_key);
        assert_eq!(done["accepted"], true);
        assert_eq!(fs::read(done["kept_key"].as_str().unwrap()).unwrap(), today, "it is kept");
        let new = fs::read(home.file("master.key")).unwrap();
        assert!(
            new != today && new != fs::read(home.beside(key)).unwrap(),
            "neither is its key now"
        );
        assert_eq!(home.credentials(), ["a"]);
        home.ok(&["vault", "status", "--verify"]);
        home.ok(&["audit", "verify"]);
    }
    home.run(&["vault", "restore", "--recovery", "--key-file", "old.key"]).refused(64, &[]);
}

#[test]
fn a_restore_beside_a_log_that_is_gone_is_done_and_says_what_is_missing() {
    let home = Home::new();
    home.add_credential("a", "a-secret-of-some-length");
    home.ok(&["vault", "backup", "copy.db"]);
    home.add_credential("b", "another-secret-of-some-length");
    fs::remove_dir_all(home.file("audit")).unwrap();
    let ran = home.run(&["vault", "restore", "copy.db"]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert!(ran.out.contains("put copy.db in the vault's place"), "{}", ran.out);
    for part in
        ["warning: the vault is in its place", "the whole log is missing", "--accept-audit-damage"]
    {
        assert!(ran.err.contains(part), "{part}: {}", ran.err);
    }
    assert_eq!(home.credentials(), ["a"]);
    let done = home.json(&["vault", "restore", "copy.db", "--json"]);
    assert!(done["unrecorded"].as_str().unwrap().contains("the whole log is missing"), "{done}");
}

#[test]
fn the_status_says_in_json_who_can_recover_the_vault() {
    let home = Home::new();
    assert!(home.json(&["vault", "status", "--json"])["recovery"].is_null());
    let made = home.json(&["vault", "recovery", "--threshold", "2", "--shares", "3", "--json"]);
    let recovery = &home.json(&["vault", "status", "--json"])["recovery"];
    assert_eq!((&recovery["threshold"], &recovery["shares"]), (&2.into(), &3.into()));
    assert_eq!((&recovery["set"], &recovery["epoch"]), (&made["set"], &made["epoch"]));
}

#[test]
fn to_a_passphrase_and_back() {
    let home = Home::new();
    home.add_credential("a", "a-secret-of-some-length");
    home.write("passphrase", "correct horse battery staple\n");
    let file = home.file("passphrase").display().to_string();
    let text = home.ok(&["vault", "rekey", "--passphrase-file", &file]);
    assert!(text.contains("set vault.key to {passphrase: {file: "), "{text}");
    assert!(!home.file("master.key").exists());
    home.run(&["credential", "list"]).refused(64, &["there is no terminal to ask on"]);
    home.write("locum.yaml", &format!("vault:\n  key:\n    passphrase: {{file: '{file}'}}\n"));
    assert_eq!(home.credentials(), ["a"]);
    home.run(&["vault", "rekey"]).refused(
        64,
        &["--passphrase-file FILE, --key-file, --transit URL, --kms KEY, or -- PROGRAM"],
    );
    let text = home.ok(&["vault", "rekey", "--key-file"]);
    assert!(text.contains("remove vault.key.passphrase"), "{text}");
    assert_eq!(home.credentials(), ["a"]);
    home.write("passphrase", "short\n");
    home.run(&["vault", "rekey", "--passphrase-file", &file])
        .refused(1, &["at least 12 characters"]);
    assert_eq!(home.credentials(), ["a"]);
}

#[test]
fn a_key_that_a_program_prints() {
    let home = Home::new();
    home.add_credential("a", "a-secret-of-some-length");
    home.write("digits", &format!("{}\n", "5a".repeat(32)));
    let digits = home.file("digits").display().to_string();
    home.run(&["vault", "rekey", "--", "cat", &digits]).refused(64, &["whole path"]);
    home.run(&["vault", "rekey", "--", "/bin/echo", "no key"])
        .refused(1, &["/bin/echo printed no master key"]);
    let text = home.ok(&["vault", "rekey", "--", "/bin/cat", &digits]);
    let says = format!("set vault.key to {{command: [\"/bin/cat\",\"{digits}\"]}}");
    assert!(text.contains(&says), "{text}");
    assert!(!home.file("master.key").exists());
    home.run(&["credential", "list"]).refused(1, &["master.key does not exist"]);
    home.write("locum.yaml", &format!("vault: {{key: {{command: [/bin/cat, '{digits}']}}}}\n"));
    assert_eq!(home.credentials(), ["a"]);
    assert_eq!(home.json(&["vault", "status", "--json"])["key_source"], "command");
    home.ok(&["vault", "backup", "copy.db"]);
    home.ok(&["vault", "restore", "copy.db"]);
    home.run(&["vault", "rekey"])
        .refused(64, &["--key-file, --transit URL, --kms KEY, or -- PROGRAM"]);
    // Its trouble is named, and not what it printed.
    home.write("locum.yaml", "vault: {key: {command: [/bin/sh, -c, 'echo 5a5a5a; exit 4']}}\n");
    let ran = home.run(&["credential", "list"]);
    assert!(ran.err.contains("/bin/sh: it failed (exit status: 4)"), "{ran:?}");
    assert!(!ran.err.contains("5a5a"), "{ran:?}");
    home.write("locum.yaml", &format!("vault: {{key: {{command: [/bin/cat, '{digits}']}}}}\n"));
    let text = home.ok(&["vault", "rekey", "--key-file"]);
    assert!(text.contains("remove vault.key.command"), "{text}");
    home.write("locum.yaml", "");
    assert_eq!(home.credentials(), ["a"]);
}

#[test]
fn a_rekey_that_is_killed_at_any_moment_leaves_a_vault_that_opens() {
    let home = Home::new();
    home.add_credential("a", "a-secret-of-some-length");
    let mut ended = 0_u64;
    for round in 0..40_u64 {
        let after = Duration::from_millis(1 + round * 7 % 90);
        ended += u64::from(kill_after(&mut home.command(&["vault", "rekey"]), after));
        assert_eq!(home.credentials(), ["a"], "after {after:?}");
    }
    assert!(ended < 40, "none was killed");
    home.ok(&["vault", "rekey"]);
    home.ok(&["vault", "status", "--verify"]);
    assert!(!home.file("master.key.new").exists());
}

#[test]
fn a_running_proxy_goes_on_over_a_rekey_and_keeps_its_vault() {
    let home = Home::for_a_proxy();
    let added = home.json(&["agent", "add", "researcher", "--json"]);
    let token = added["token"].as_str().unwrap();
    home.ok(&["vault", "backup", "copy.db"]);
    let proxy = Proxy::start(&home);
    let ask = || proxy.get("researcher", token, "http://nowhere.test/");
    assert!(ask().contains(" 403 "), "{}", ask());
    home.ok(&["vault", "rekey"]);
    home.ok(&["agent", "add", "late"]);
    std::thread::sleep(Duration::from_secs(1));
    assert!(ask().contains(" 403 "), "{}", ask());
    home.run(&["vault", "restore", "copy.db"]).refused(1, &["a proxy serves this home", "stop it"]);
    let text = home.ok(&["ca", "rotate"]);
    assert!(text.contains("has the old CA: start it again"), "{text}");
    proxy.kill();
    home.ok(&["vault", "status", "--verify"]);
    home.ok(&["audit", "verify"]);
}

#[test]
fn the_ca_is_shown_and_rotated() {
    let home = Home::new();
    let before = home.json(&["ca", "show", "--json"]);
    let pem = home.ok(&["ca", "show", "--pem"]);
    assert_eq!(fs::read_to_string(home.file("ca.pem")).unwrap(), pem);
    assert_eq!(
        (&before["published"], &before["certificate"]),
        (&true.into(), &pem.as_str().into())
    );
    let text = home.ok(&["ca", "show"]);
    for said in
        [before["fingerprint_sha256"].as_str().unwrap(), "ca-bundle.pem", "NODE_EXTRA_CA_CERTS"]
    {
        assert!(text.contains(said), "no {said} in {text}");
    }
    let after = home.json(&["ca", "rotate", "--json"]);
    assert_ne!(after["fingerprint_sha256"], before["fingerprint_sha256"]);
    let new = fs::read_to_string(home.file("ca.pem")).unwrap();
    assert!(new != pem && home.ok(&["ca", "show", "--pem"]) == new);
    let bundle = fs::read_to_string(home.file("ca-bundle.pem")).unwrap();
    // The signature is in the last lines.
    let body = |pem: &str| pem.lines().rev().nth(2).unwrap().to_owned();
    assert!(bundle.contains(&body(&new)) && !bundle.contains(&body(&pem)));
    for (path, contents) in home.files() {
        let private = contents.windows(11).any(|window| window == b"PRIVATE KEY");
        assert!(!private, "{} has a private key", path.display());
    }
    fs::write(home.file("ca.pem"), &pem).unwrap();
    let ran = home.run(&["ca", "show"]);
    assert!(ran.err.contains("is not this certificate"), "{ran:?}");
}

#[test]
fn a_rotation_of_the_ca_that_is_killed_leaves_a_ca() {
    let home = Home::for_a_proxy();
    for round in 0..20_u64 {
        kill_after(&mut home.command(&["ca", "rotate"]), Duration::from_millis(1 + round * 5 % 60));
        let shown = home.json(&["ca", "show", "--json"]);
        assert!(shown["certificate"].as_str().unwrap().starts_with("-----BEGIN"));
        // Whichever it is, its key is the one that belongs to it, or the proxy would not start.
        Proxy::start(&home).kill();
        assert_eq!(home.json(&["ca", "show", "--json"])["published"], true);
    }
}
