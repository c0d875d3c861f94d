//! A vault and an audit log that somebody has changed behind Locum's back: no secret goes out that
//! should not, and the error says what is wrong and what to do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::format_collect)]

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::Connection;
use support::*;

/// A home with a few things in it, and its vault as it was when all was well.
struct Scene {
    home: Home,
    origin: Origin,
    agent: Agent,
    keys: Vec<String>,
    pristine: Vec<u8>,
}

impl Scene {
    /// The credentials `main` (two versions), `second` and `gone` (revoked) for the origin, and
    /// `elsewhere` for another host.
    fn new() -> Self {
        let home = Home::new();
        let origin = Origin::start(HOST);
        home.reach(&origin);
        let keys: Vec<String> = (0..5).map(|_| canary()).collect();
        for key in &keys {
            origin.accept(key);
        }
        home.add("main", BEARER, &keys[0]);
        home.rotate("main", &keys[1]);
        home.add("second", BEARER, &keys[2]);
        home.add("gone", BEARER, &keys[3]);
        home.locum(&["credential", "revoke", "gone"]).ok();
        let header = "Authorization: Bearer {secret}";
        home.add("elsewhere", &["--to", "https://else.test", "--header", header], &keys[4]);
        home.locum(&["set", "add", "both", "main", "second"]).ok();
        let agent = home.agent("worker");
        let mut scene = Self { home, origin, agent, keys, pristine: Vec::new() };
        scene.pristine = scene.bytes();
        scene
    }

    /// The vault in one file, as a thief or a vandal would take it.
    fn bytes(&self) -> Vec<u8> {
        let db = Connection::open(self.home.vault()).unwrap();
        db.pragma_update(None, "wal_checkpoint", "TRUNCATE").unwrap();
        drop(db);
        fs::read(self.home.vault()).unwrap()
    }

    /// Puts these bytes in the vault's place, as a new file.
    fn put(&self, bytes: &[u8]) {
        use std::io::Write as _;
        use std::os::unix::fs::OpenOptionsExt as _;
        let beside = self.home.path().join("vault.new");
        let mut options = fs::File::options();
        let options = options.write(true).create(true).truncate(true).mode(0o600);
        options.open(&beside).unwrap().write_all(bytes).unwrap();
        for suffix in ["-wal", "-shm"] {
            let _ = fs::remove_file(self.home.path().join(format!("vault.db{suffix}")));
        }
        fs::rename(&beside, self.home.vault()).unwrap();
    }

    /// The vault after `change`, and nothing else of the home touched.
    fn changed(&self, change: impl FnOnce(&Connection)) {
        self.put(&self.pristine);
        let db = Connection::open(self.home.vault()).unwrap();
        db.pragma_update(None, "foreign_keys", false).unwrap();
        db.pragma_update(None, "ignore_check_constraints", true).unwrap();
        change(&db);
        db.pragma_update(None, "wal_checkpoint", "TRUNCATE").unwrap();
    }

    /// The same by SQL, which must have an effect.
    fn sql(&self, sql: &str) {
        self.changed(|db| {
            let before: i64 = db.query_row("PRAGMA schema_version", [], |row| row.get(0)).unwrap();
            for statement in sql.split(';').filter(|s| !s.trim().is_empty()) {
                let rows = db.execute(statement, []).unwrap();
                let now: i64 = db.query_row("PRAGMA schema_version", [], |row| row.get(0)).unwrap();
                assert!(rows > 0 || now != before, "no effect: {statement}");
            }
        });
    }
}

/// What vandals do.
const VANDALISM: &[(&str, &str)] = &[
    (
        "ciphertexts swapped",
        "UPDATE versions SET sealed = CASE credential \
           WHEN (SELECT id FROM credentials WHERE name = 'main') \
           THEN (SELECT sealed FROM versions v JOIN credentials c ON c.id = v.credential WHERE c.name = 'second') \
           ELSE (SELECT sealed FROM versions v JOIN credentials c ON c.id = v.credential WHERE c.name = 'main' AND v.version = 2) END \
         WHERE sealed IS NOT NULL AND state = 'current' \
           AND credential IN (SELECT id FROM credentials WHERE name IN ('main', 'second'))",
    ),
    (
        "versions swapped",
        "UPDATE versions SET sealed = (SELECT sealed FROM versions o WHERE o.credential = versions.credential AND o.version = 3 - versions.version) \
         WHERE credential = (SELECT id FROM credentials WHERE name = 'main')",
    ),
    (
        "another destination",
        "UPDATE credentials SET destinations = (SELECT destinations FROM credentials WHERE name = 'elsewhere') WHERE name = 'main'",
    ),
    (
        "another slot",
        "UPDATE credentials SET slots = replace(slots, 'uthorization', 'uthorised') WHERE name = 'main'",
    ),
    ("another name", "UPDATE credentials SET name = 'renamed' WHERE name = 'main'"),
    (
        "an old version made current",
        "UPDATE versions SET state = 'retired', ended = 1 WHERE version = 2; \
         UPDATE versions SET state = 'current', ended = NULL WHERE version = 1 AND credential = (SELECT id FROM credentials WHERE name = 'main')",
    ),
    ("a credential deleted", "DELETE FROM credentials WHERE name = 'second'"),
    ("a set widened", "INSERT INTO set_members SELECT workspace, 'both', 'elsewhere' FROM sets"),
    (
        "a token's agent changed",
        "UPDATE agents SET name = 'admin'; UPDATE tokens SET agent = 'admin'",
    ),
    ("a token made older", "UPDATE tokens SET created = 1"),
    ("the journal cut", "DELETE FROM journal WHERE epoch = (SELECT max(epoch) FROM journal)"),
    (
        "a data key cut",
        "UPDATE keys SET sealed = CAST(substr(sealed, 1, length(sealed) - 1) AS BLOB)",
    ),
    (
        "data keys swapped",
        "UPDATE keys SET sealed = (SELECT sealed FROM keys o WHERE o.scope <> keys.scope)",
    ),
    ("the state's MAC edited", "UPDATE state SET mac = zeroblob(32)"),
    ("a table planted", "CREATE TABLE planted (x)"),
];

/// The error names the file, says that it was changed, and what to do.
#[track_caller]
fn told(name: &str, ran: &Ran) {
    assert_eq!(ran.code, 1, "{name}: {}{}", ran.out, ran.err);
    let says = |words: &[&str]| words.iter().any(|word| ran.err.contains(word));
    assert!(says(&["vault.db"]), "{name}: which file? {}", ran.err);
    let why = ["other than Locum", "not what was sealed", "cannot be read", "old copy"];
    assert!(says(&why), "{name}: why? {}", ran.err);
    assert!(says(&["restore", "put back"]), "{name}: what now? {}", ran.err);
}

#[test]
fn no_command_works_on_a_vault_that_was_changed() {
    let scene = Scene::new();
    for (name, sql) in VANDALISM {
        scene.sql(sql);
        for command in [&["credential", "list"][..], &["agent", "add", "intruder"], &["serve"]] {
            told(name, &scene.home.locum(command));
        }
    }
    scene.put(&scene.pristine);
    let list = scene.home.locum(&["credential", "list"]).ok();
    assert!(list.out.contains("main"));
    // What is written of the past is proved on request.
    scene.sql("UPDATE journal SET subject = 'nothing' WHERE epoch = 3");
    let ran = scene.home.locum(&["vault", "status", "--verify"]);
    told("the journal edited", &ran);
    assert!(ran.err.contains("epoch 3"), "{}", ran.err);
    let keys: Vec<&str> = scene.keys.iter().map(String::as_str).collect();
    scene.home.never_leaks(&keys, &[]);
}

#[test]
fn a_running_proxy_uses_nothing_of_a_vault_that_was_changed() {
    let scene = Scene::new();
    let serve = scene.home.serve();
    let mut wire = serve.tunnel(&scene.agent, HOST);
    let mut ask = |credential: &str| {
        let field = format!("Authorization: Bearer locum_{credential}");
        wire.ask(request("GET", "/v1/x", &[&field], ""))
    };
    for (name, sql) in VANDALISM {
        assert_eq!(ask("main").status, 200, "before: {name}");
        scene.sql(sql);
        eventually(name, Duration::from_secs(1), || (ask("main").status != 200).then_some(()));
        let before = scene.origin.seen().len();
        for credential in ["main", "second", "gone", "elsewhere"] {
            let answer = ask(credential);
            assert_eq!((answer.status, &*answer.problem()), (503, "vault-unavailable"), "{name}");
        }
        assert_eq!(scene.origin.seen().len(), before, "{name}: a call went out");
        let (status, readiness) = serve.readiness();
        assert_eq!(status, 503, "{name}");
        assert!(readiness["problems"][0].as_str().unwrap().starts_with("vault: "), "{readiness}");
        scene.put(&scene.pristine);
        eventually("the vault is well again", PATIENCE, || {
            (ask("main").status == 200).then_some(())
        });
    }
    let key = format!("Bearer {}", scene.keys[1]);
    for seen in scene.origin.seen() {
        assert_eq!(seen.header("authorization"), Some(&*key));
    }
}

/// Each sealed column: its table, what names a row, and the column.
const SEALED: [(&str, &str, &str); 3] = [
    ("versions", "credential || '/' || version", "sealed"),
    ("keys", "scope", "sealed"),
    ("items", "name", "sealed"),
];

#[test]
fn no_flipped_byte_of_a_sealed_record_goes_unnoticed() {
    let scene = Scene::new();
    let located = locum::app::Home::locate(Some(&scene.home.path())).unwrap();
    let mut flips = 0;
    for (table, naming, column) in SEALED {
        let rows: Vec<(String, u32)> = {
            let db = Connection::open(scene.home.vault()).unwrap();
            let query = format!(
                "SELECT {naming}, length({column}) FROM {table} WHERE {column} IS NOT NULL"
            );
            let mut statement = db.prepare(&query).unwrap();
            let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
            rows.map(Result::unwrap).collect()
        };
        assert!(!rows.is_empty(), "{table}");
        for (row, length) in rows {
            // A certificate is long, and all of it is sealed alike.
            let step = if length > 200 { 17 } else { 1 };
            for at in (0..length as usize).step_by(step) {
                scene.changed(|db| {
                    let query = format!("SELECT {column} FROM {table} WHERE {naming} = ?1");
                    let mut sealed: Vec<u8> = db.query_row(&query, [&row], |r| r.get(0)).unwrap();
                    sealed[at] ^= 1 << (at % 8);
                    let update = format!("UPDATE {table} SET {column} = ?2 WHERE {naming} = ?1");
                    assert_eq!(db.execute(&update, (&row, &sealed)).unwrap(), 1);
                });
                let opened = locum::app::Opened::open(&located);
                let error = opened.map(|_| ()).expect_err("it opened").to_string();
                let named =
                    error.contains("other than Locum") || error.contains("not what was sealed");
                assert!(named, "{table} {row} byte {at}: {error}");
                flips += 1;
            }
        }
    }
    assert!(flips > 300, "{flips}");
    scene.put(&scene.pristine);
    locum::app::Opened::open(&located).map(|_| ()).unwrap();
}

#[test]
fn a_changed_record_does_not_open_even_for_those_who_accept_changes() {
    let scene = Scene::new();
    let flipped = "CAST(substr(sealed, 1, 20) || x'00' || substr(sealed, 22) AS BLOB)";
    let others = "(SELECT sealed FROM versions v JOIN credentials c ON c.id = v.credential WHERE c.name = 'elsewhere')";
    for (name, sql) in [
        ("a flipped byte", format!("UPDATE versions SET sealed = {flipped} WHERE version = 2")),
        (
            "another destination",
            "UPDATE credentials SET destinations = replace(destinations, 'api.test', 'evil.test') WHERE name = 'main'".to_owned(),
        ),
        ("the ciphertext of another", format!("UPDATE versions SET sealed = {others} WHERE version = 2")),
    ] {
        scene.sql(&sql);
        let copy = scene.home.work().join("changed.db");
        fs::copy(scene.home.vault(), &copy).unwrap();
        scene.put(&scene.pristine);
        let mut restore = vec!["vault", "restore", copy.to_str().unwrap()];
        restore.extend(["--accept-changes", "--accept-rollback"]);
        let ran = scene.home.locum(&restore).failed(1);
        assert!(ran.err.contains("'main'"), "{name}: which? {}", ran.err);
        scene.home.locum(&["vault", "status", "--verify"]).ok();
    }
    // What opens, and was changed beside, takes a word.
    scene.sql("DELETE FROM credentials WHERE name = 'second'");
    let copy = scene.home.work().join("changed.db");
    fs::copy(scene.home.vault(), &copy).unwrap();
    scene.put(&scene.pristine);
    let restore = ["vault", "restore", copy.to_str().unwrap()];
    let ran = scene.home.locum(&restore).failed(1);
    assert!(ran.err.contains("other than Locum"), "{}", ran.err);
    scene.home.locum(&[&restore[..], &["--accept-changes"]].concat()).ok();
    assert!(!scene.home.locum(&["credential", "list"]).ok().out.contains("second"));
    let accepted = scene.home.audit().iter().any(|r| r["event"] == "vault-state-accepted");
    assert!(accepted, "it is on record");
}

#[test]
fn an_old_copy_is_known_for_one() {
    let scene = Scene::new();
    let serve = scene.home.serve();
    // After the copy was taken: what it holds is revoked and rotated.
    scene.home.locum(&["credential", "revoke", "second"]).ok();
    let newer = canary();
    scene.home.rotate("main", &newer);
    let mut wire = serve.tunnel(&scene.agent, HOST);
    scene.origin.accept(&newer);
    let mut ask = |credential: &str| {
        let field = format!("Authorization: Bearer locum_{credential}");
        wire.ask(request("GET", "/v1/x", &[&field], ""))
    };
    eventually("the revocation", Duration::from_secs(1), || {
        (ask("second").status == 403).then_some(())
    });
    assert_eq!(ask("main").status, 200);
    let before = scene.origin.seen().len();
    scene.put(&scene.pristine);
    eventually("the old copy is noticed", Duration::from_secs(1), || {
        (ask("main").status != 200).then_some(())
    });
    assert_eq!(ask("main").status, 503, "{}", serve.log());
    assert_eq!(ask("second").problem(), "vault-unavailable");
    let used = &scene.origin.seen()[before..];
    assert!(
        used.iter().all(|s| s.header("authorization") == Some(&*format!("Bearer {newer}"))),
        "{used:?}"
    );
    serve.stop();
    for command in [&["credential", "list"][..], &["serve"], &["agent", "list"]] {
        let ran = scene.home.locum(command).failed(1);
        assert!(ran.err.contains("old copy"), "{}", ran.err);
        assert!(ran.err.contains("restore") || ran.err.contains("put back"), "{}", ran.err);
    }
    // Nor does it help to take away what remembers.
    let anchor = scene.home.path().join("audit/vault.head");
    fs::remove_file(&anchor).unwrap();
    let ran = scene.home.locum(&["credential", "list"]).failed(1);
    assert!(ran.err.contains("vault.head") || ran.err.contains("old"), "{}", ran.err);
}

#[test]
fn a_key_that_is_not_the_key_opens_nothing() {
    let scene = Scene::new();
    let path = scene.home.path().join("master.key");
    let key = fs::read(&path).unwrap();
    for at in 0..key.len() {
        let mut flipped = key.clone();
        flipped[at] ^= 1;
        fs::write(&path, &flipped).unwrap();
        let ran = scene.home.locum(&["credential", "list"]);
        // The line's end is not part of the key.
        let harmless = key[at] == b'\n';
        assert!(ran.code == 1 || harmless, "byte {at}: {}{}", ran.out, ran.err);
        assert!(harmless || ran.err.contains("key"), "byte {at}: {}", ran.err);
    }
    let other = Home::new();
    fs::copy(other.path().join("master.key"), &path).unwrap();
    let ran = scene.home.locum(&["credential", "list"]).failed(1);
    assert!(ran.err.contains("does not open this vault"), "{}", ran.err);
    fs::remove_file(&path).unwrap();
    let ran = scene.home.locum(&["credential", "list"]).failed(1);
    assert!(ran.err.contains("master.key"), "{}", ran.err);
}

#[test]
fn loose_modes_and_links_are_refused_by_name() {
    use std::os::unix::fs::{PermissionsExt as _, symlink};
    let scene = Scene::new();
    let home = scene.home.path();
    let mode = |path: &Path, mode: u32| {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    };
    for (file, loose, tight) in
        [("vault.db", 0o640, 0o600), ("master.key", 0o604, 0o600), ("", 0o755, 0o700)]
    {
        let path: PathBuf = home.join(file);
        mode(&path, loose);
        let ran = scene.home.locum(&["credential", "list"]);
        assert_eq!(ran.code, 1, "{file} with mode {loose:o}: {}", ran.out);
        assert!(ran.err.contains("chmod") && ran.err.contains(file), "{}", ran.err);
        mode(&path, tight);
    }
    for file in ["vault.db", "master.key"] {
        let (path, aside) = (home.join(file), home.join("aside"));
        fs::rename(&path, &aside).unwrap();
        symlink(&aside, &path).unwrap();
        let ran = scene.home.locum(&["credential", "list"]);
        assert_eq!(ran.code, 1, "{file} is a link: {}", ran.out);
        assert!(ran.err.contains(file) && ran.err.contains("link"), "{}", ran.err);
        fs::remove_file(&path).unwrap();
        fs::rename(&aside, &path).unwrap();
    }
    scene.home.locum(&["credential", "list"]).ok();
}

#[test]
fn an_audit_log_that_was_changed_is_found_out_and_the_place_is_named() {
    let world = World::new();
    for i in 0..10 {
        assert_eq!(world.get(&format!("/v1/{i}")).status, 200);
    }
    let World { serve, home, origin, .. } = world;
    serve.stop();
    drop(origin);
    let audit = home.path().join("audit");
    let file = fs::read_dir(&audit)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.extension().is_some_and(|e| e == "jsonl"))
        .unwrap();
    let whole = fs::read_to_string(&file).unwrap();
    home.locum(&["audit", "verify"]).ok();
    let lines: Vec<&str> = whole.lines().collect();
    let at = lines.iter().position(|line| line.contains("/v1/5")).unwrap();
    let seq = |line: &str| {
        serde_json::from_str::<serde_json::Value>(line).unwrap()["seq"].as_u64().unwrap()
    };
    let with = |change: &dyn Fn(&mut Vec<String>)| {
        let mut lines: Vec<String> = lines.iter().map(|line| (*line).to_owned()).collect();
        change(&mut lines);
        lines.join("\n") + "\n"
    };
    let mutations: [(&str, String, u64); 8] = [
        ("edited", with(&|l| l[at] = l[at].replace("/v1/5", "/v1/6")), seq(lines[at])),
        ("one character", with(&|l| l[at] = l[at].replacen("permit", "refuse", 1)), seq(lines[at])),
        ("deleted", with(&|l| drop(l.remove(at))), seq(lines[at])),
        ("inserted", with(&|l| l.insert(at, l[at - 1].clone())), seq(lines[at])),
        ("reordered", with(&|l| l.swap(at, at + 1)), seq(lines[at])),
        ("the tail cut", with(&|l| l.truncate(at)), seq(lines[at - 1])),
        ("all but the first", with(&|l| l.truncate(1)), 1),
        ("emptied", String::new(), 0),
    ];
    for (name, text, bad) in &mutations {
        fs::write(&file, text).unwrap();
        let ran = home.locum(&["audit", "verify"]);
        assert_eq!(ran.code, 1, "{name}: {}{}", ran.out, ran.err);
        let told = format!("{}{}", ran.out, ran.err);
        let near = [*bad, bad + 1].iter().any(|seq| told.contains(&format!("record {seq}")));
        assert!(near, "{name}: which record? not {bad}: {told}");
        // A proxy does not go on with such a log as if nothing had happened.
        let ran = home.locum(&["serve"]);
        assert_eq!(ran.code, 1, "{name}: {}{}", ran.out, ran.err);
        assert!(ran.err.contains("audit"), "{name}: {}", ran.err);
        fs::write(&file, &whole).unwrap();
        home.locum(&["audit", "verify"]).ok();
    }
    let aside = home.work().join("aside");
    fs::rename(&file, &aside).unwrap();
    home.locum(&["audit", "verify"]).failed(1);
    fs::rename(&aside, &file).unwrap();
    // Without the head, and with another vault's log.
    home.locum(&["audit", "verify"]).ok();
    let other = Home::new();
    for entry in fs::read_dir(other.path().join("audit")).unwrap() {
        let from = entry.unwrap().path();
        if from.extension().is_some_and(|e| e == "jsonl") {
            fs::copy(&from, &file).unwrap();
        }
    }
    home.locum(&["audit", "verify"]).failed(1);
}
