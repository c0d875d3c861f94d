//! The master key, wrapped by a key that stays where it is: a transit key of a real OpenBao server, and
//! one of KMS as moto plays it.

use std::fs;

use serde_json::{Value, json};

use crate::support::*;
use crate::{Bao, SOON, Stage, private};

const KMS: &str = "kms.us-east-1.amazonaws.com";

/// A server with a transit key, and a token that may use that.
struct Transit {
    bao: Bao,
    directory: tempfile::TempDir,
    url: String,
    login: String,
}

impl Transit {
    fn start(home: &Home) -> Self {
        let bao = Bao::start();
        bao.let_in(home);
        bao.bao(&["secrets", "enable", "transit"]);
        bao.bao(&["write", "-f", "transit/keys/locum"]);
        let directory = tempfile::tempdir().unwrap();
        let policy = directory.path().join("policy.hcl");
        let may =
            |act: &str| format!("path \"transit/{act}/locum\" {{ capabilities = [\"update\"] }}\n");
        fs::write(&policy, may("encrypt") + &may("decrypt")).unwrap();
        bao.bao(&["policy", "write", "locum", policy.to_str().unwrap()]);
        let create = ["token", "create", "-policy=locum", "-orphan", "-ttl=1h", "-field=token"];
        let file = directory.path().join("token");
        private(&file, &bao.bao(&create));
        let (url, login) = (bao.url(), format!("token-file:{}", file.display()));
        Self { bao, directory, url, login }
    }

    fn rekey<'a>(&'a self, key: &'a str) -> Vec<&'a str> {
        let transit = ["vault", "rekey", "--transit", &self.url, "--transit-key", key];
        [&transit[..], &["--transit-login", &self.login]].concat()
    }
}

/// What the key file says of itself, and that it holds no plain key.
#[track_caller]
fn key_file(home: &Home) -> String {
    let text = fs::read_to_string(home.path().join("master.key")).unwrap();
    assert!(text.starts_with("locum wrapped master key 1\n"), "{text}");
    let long = |word: &str| word.len() == 64 && word.bytes().all(|b| b.is_ascii_hexdigit());
    assert!(!text.split_ascii_whitespace().any(long), "a plain key is in it");
    assert!(!home.path().join("master.key.new").exists());
    text
}

fn opened_by(home: &Home) -> String {
    let status = home.locum(&["vault", "status", "--verify", "--json"]).ok().out;
    let status: Value = serde_json::from_str(&status).unwrap();
    status["key_source"].as_str().unwrap().to_owned()
}

#[test]
fn a_transit_key_opens_the_vault_and_its_trouble_is_named() {
    let scene = Stage::new();
    let transit = Transit::start(&scene.home);
    let home = &scene.home;
    let key = canary();
    home.add("main", BEARER, &key);
    // What it may not use changes nothing.
    let before = fs::read(home.path().join("master.key")).unwrap();
    let ran = home.locum(&transit.rekey("another"));
    assert!(ran.code == 1 && ran.err.contains("may not use the key"), "{}", ran.err);
    assert_eq!(fs::read(home.path().join("master.key")).unwrap(), before);
    let said = home.locum(&transit.rekey("locum")).ok().out;
    assert!(said.contains("wrapped by the transit key transit/locum at https://"), "{said}");
    let first = key_file(home);
    assert!(opened_by(home).starts_with("the transit key transit/locum"));
    assert!(home.locum(&["doctor"]).out.contains("wrapped by the transit key"));
    // Another key, wrapped by the same; and a new version of what wraps.
    transit.bao.bao(&["write", "-f", "transit/keys/locum/rotate"]);
    home.locum(&["vault", "rekey"]).ok();
    assert_ne!(key_file(home), first);
    opened_by(home);
    let serve = home.serve();
    scene.until_shown(&serve, &key);
    // Sealed: who is open goes on, and who starts says why it cannot.
    transit.bao.bao(&["operator", "seal"]);
    scene.until_shown(&serve, &key);
    let ran = home.locum(&["credential", "list"]);
    assert!(ran.code == 1 && ran.err.contains("the vault is sealed"), "{}", ran.err);
    serve.stop();
    let ran = home.locum(&["serve"]);
    assert!(ran.code == 1 && ran.err.contains("the vault is sealed"), "{}", ran.err);
    assert!(ran.err.contains("transit/locum at https://"), "{}", ran.err);
    // Started locked, it waits for it.
    let mut command = home.command(&["serve", "--locked"]);
    let serve = Serve::start_locked(home, command.stdin(std::process::Stdio::null()));
    let ran = home.locum(&["unlock", "--configured"]);
    assert!(ran.code == 1 && ran.err.contains("the vault is sealed"), "{}", ran.err);
    assert_eq!(serve.readiness().0, 503);
    transit.bao.unseal();
    home.locum(&["unlock", "--configured"]).ok();
    scene.until_shown(&serve, &key);
    serve.stop();
    // By an AppRole.
    let (role, secret_id) = transit.bao.approle();
    let file = transit.directory.path().join("secret-id");
    private(&file, &secret_id);
    let login = format!("approle:{role}");
    let more = ["--transit-login", &login, "--transit-secret-file", file.to_str().unwrap()];
    let transit_url = ["--transit", &transit.url, "--transit-key", "locum"];
    home.locum(&[&["vault", "rekey"][..], &transit_url, &more].concat()).ok();
    key_file(home);
    // Copies are sealed with it, and come back.
    let copy = home.work().join("copy");
    home.locum(&["vault", "backup", copy.to_str().unwrap()]).ok();
    home.locum(&["vault", "restore", copy.to_str().unwrap()]).ok();
    // And back to a key file of one's own.
    home.locum(&["vault", "rekey", "--key-file"]).ok();
    assert_eq!(opened_by(home), "key-file");
    transit.bao.signal(rustix::process::Signal::STOP);
    let serve = home.serve();
    scene.until_shown(&serve, &key);
    transit.bao.signal(rustix::process::Signal::CONT);
    home.never_leaks(&[&key, &secret_id], &[("log", serve.log().as_bytes())]);
}

#[test]
fn a_key_of_kms_opens_the_vault_and_its_trouble_is_named() {
    let scene = Stage::new();
    let home = &scene.home;
    let aws = Aws::start(home, &[KMS]);
    let made = aws.call("kms", "create_key", json!({"Description": "locum"}));
    let id = made["KeyMetadata"]["KeyId"].as_str().unwrap().to_owned();
    aws.call("kms", "create_alias", json!({"AliasName": "alias/locum", "TargetKeyId": id}));
    let key = canary();
    home.add("main", BEARER, &key);
    let elsewhere = tempfile::tempdir().unwrap();
    let file = elsewhere.path().join("aws");
    let login = format!("file:{}", file.display());
    let rekey = [
        "vault",
        "rekey",
        "--kms",
        "alias/locum",
        "--kms-region",
        "us-east-1",
        "--kms-login",
        &login,
    ];
    for (keys, why) in [
        (aws.stranger.clone(), "may not read this"),
        (format!("{}:{}", aws.id, canary()), "its key is wrong"),
        ("nothing".to_owned(), "no key of AWS"),
    ] {
        private(&file, &keys);
        let ran = home.locum(&rekey);
        assert!(ran.code == 1 && ran.err.contains(why), "{why}: {}", ran.err);
        assert_eq!(opened_by(home), "key-file");
    }
    private(&file, &aws.pair());
    home.locum(&rekey).ok();
    // By the key itself: the alias is another's tomorrow, which would open nothing.
    let arn = made["KeyMetadata"]["Arn"].as_str().unwrap();
    assert!(!key_file(home).contains("alias/"));
    assert!(opened_by(home).starts_with(&format!("the KMS key {arn}")));
    let other = aws.call("kms", "create_key", json!({"Description": "another"}));
    let other = other["KeyMetadata"]["KeyId"].as_str().unwrap();
    aws.call("kms", "update_alias", json!({"AliasName": "alias/locum", "TargetKeyId": other}));
    assert!(opened_by(home).starts_with(&format!("the KMS key {arn}")));
    home.locum(&["vault", "rekey"]).ok();
    assert!(opened_by(home).starts_with(&format!("the KMS key {arn}")));
    let serve = home.serve();
    scene.until_shown(&serve, &key);
    serve.stop();
    for (mode, why) in [("throttle", "asks for fewer calls"), ("error", "the vault failed")] {
        aws.tell(&json!({"mode": mode}));
        let ran = home.locum(&["vault", "status"]);
        assert!(ran.code == 1 && ran.err.contains(why), "{mode}: {}", ran.err);
    }
    aws.tell(&json!({"mode": "ok"}));
    // Every call said what it is for, so that a key policy can ask for it.
    let text = key_file(home);
    let ciphertext = text.lines().nth(2).unwrap();
    let wrong =
        aws.tell(&json!({"call": ["kms", "decrypt_text"], "with": {"CiphertextBlob": ciphertext}}));
    assert!(wrong["error"].as_str().unwrap().contains("InvalidCiphertext"), "{wrong}");
    home.never_leaks(&[&key, &aws.secret], &[]);
}

/// From a plain key file to a wrapped one and to another wrapped one, killed anywhere.
#[test]
fn a_change_to_a_wrapped_key_that_is_killed_leaves_a_vault_that_opens() {
    let home = Home::new();
    home.set("log.level: info");
    let transit = Transit::start(&home);
    home.add("main", BEARER, &canary());
    let command = |n: u32| match n % 3 {
        2 => home.command(&["vault", "rekey", "--key-file"]),
        _ => home.command(&transit.rekey("locum")),
    };
    let usual = took(|| drop(home.locum(&transit.rekey("locum")).ok()));
    kill_again_and_again(usual, command, |_, round, _| {
        let ran = home.locum(&["vault", "status", "--verify"]);
        assert_eq!(ran.code, 0, "{round}: {}", ran.err);
    });
    // Killed on, and the one that unwraps is away: nothing is taken for lost.
    home.locum(&transit.rekey("locum")).ok();
    transit.bao.bao(&["operator", "seal"]);
    let ran = home.locum(&["vault", "status"]);
    assert!(ran.err.contains("the vault is sealed"), "{}", ran.err);
    transit.bao.unseal();
    eventually("it opens again", SOON, || {
        (home.locum(&["vault", "status"]).code == 0).then_some(())
    });
}
