//! The vault's format is what its document says: a reader written from the document alone, in another
//! language and with other libraries, opens what Locum writes.
#![allow(clippy::unwrap_used)] // A test that cannot go on has failed.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use locum::credential::Properties;
use locum::files;
use locum::secret::Secret;
use locum::vault::{MasterKey, NewCredential, OldRuns, PassphraseParams, Tier, Vault};
use serde_json::{Value, json};

/// One for each format, the newest last. Made by [`write_the_vector`], once, and never again: a format
/// stays what it is.
const VECTORS: [&str; 2] = ["vault-1", "vault-2"];

fn vector(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors").join(name)
}

#[test]
fn another_program_opens_a_vault_from_its_document() {
    let Some(python) = python() else { return };
    let home = tempfile::tempdir().unwrap();
    let (path, key_file) = (home.path().join("vault.db"), home.path().join("master.key"));
    let master = MasterKey::generate().unwrap();
    master.save_new(&key_file).unwrap();
    let mut vault = Vault::create(&path, &master).unwrap().acting_as("tester");
    let token = furnish(&mut vault);
    let anchor = home.path().join("vault.head");
    fs::write(&anchor, vault.anchor_text().unwrap()).unwrap();

    let opened = python.open(&path, |reader| {
        reader.arg(&key_file).args(["--token", &token]).arg("--anchor").arg(&anchor)
    });
    assert_eq!(without_trace(&opened), furnished(), "the vault is open elsewhere meanwhile");
    vault.rotate_data_keys(OldRuns::Stand).unwrap();
    let mut rotated = python.open(&path, |reader| {
        reader.arg(&key_file).args(["--token", &token]).arg("--anchor").arg(&anchor)
    });
    assert_eq!(rotated["epoch"].take(), 15);
    assert_eq!(rotated["audit_key"], opened["audit_key"]);
    let mut before = opened.clone();
    before["epoch"].take();
    assert_eq!(without_trace(&rotated), without_trace(&before), "the data keys are new");
    let pair = |name: &str, value: &str| (name.parse().unwrap(), value.parse().unwrap());
    let set = [pair("team", "ml"), pair("app/env", "prod=1")];
    vault.use_workspace(&"default".parse().unwrap()).unwrap();
    vault.agent_label(&"researcher".parse().unwrap(), &set, &[]).unwrap();
    let labelled = python.open(&path, |reader| reader.arg(&key_file));
    assert_eq!(labelled["labels"], json!({"researcher": {"app/env": "prod=1", "team": "ml"}}));
    let backup = home.path().join("backup");
    vault.backup(&backup).unwrap();
    let restored = python.open(&backup, |reader| reader.arg(&key_file));
    assert_eq!(restored["credentials"], opened["credentials"], "the backup has all of it");
    drop(vault);
    let again = python.open(&path, |reader| reader.arg(&key_file));
    assert_eq!(again["credentials"], opened["credentials"]);
}

#[test]
fn another_program_opens_a_vault_by_its_passphrase() {
    let Some(python) = python() else { return };
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("vault.db");
    let passphrase = "pässword, longer than twelve";
    let params = PassphraseParams::generate().unwrap();
    let master = MasterKey::from_passphrase(&secret(passphrase), params).unwrap();
    let mut vault = Vault::create(&path, &master).unwrap();
    furnish(&mut vault);
    let opened = python.open(&path, |reader| {
        reader.args(["--passphrase-env", "PASSPHRASE"]).env("PASSPHRASE", passphrase)
    });
    assert_eq!(opened["credentials"], furnished()["credentials"]);
}

#[test]
fn the_vectors_stay_openable() {
    for name in VECTORS {
        stays_openable(name);
    }
}

fn stays_openable(name: &str) {
    let home = copy_of(name);
    let master = MasterKey::load(&home.path().join("master.key")).unwrap();
    let vault = Vault::open(&home.path().join("vault.db"), &master).unwrap();
    vault.verify().unwrap();
    let anchor = fs::read_to_string(vector(name).join("vault.head")).unwrap();
    vault.check_anchor(&anchor).unwrap();
    let snapshot = vault.snapshot().unwrap();
    for (name, version) in [("openai", 2), ("billing", 1)] {
        snapshot.open(&name.parse().unwrap(), version).unwrap();
    }
    assert!(vault.open_item("ca-key").is_ok());
}

#[test]
fn another_program_opens_the_vectors_and_the_document_shows_the_newest() {
    let Some(python) = python() else { return };
    let opened = VECTORS.map(|name| read_by(&python, name));
    for opened in &opened {
        for key in ["credentials", "items", "audit_anchor", "token_agent"] {
            assert_eq!(opened[key], furnished()[key], "{key}");
        }
    }
    let [.., newest] = opened;
    let document = include_str!("../docs/VAULT_FORMAT.md").replace(char::is_whitespace, "");
    for (what, value) in newest["trace"].as_object().unwrap() {
        let value = value.as_str().unwrap();
        assert!(document.contains(value), "docs/VAULT_FORMAT.md lacks {what}: {value}");
    }
}

fn read_by(python: &Python, name: &str) -> Value {
    let home = copy_of(name);
    let token = fs::read_to_string(vector(name).join("token")).unwrap();
    python.open(&home.path().join("vault.db"), |reader| {
        reader
            .arg(home.path().join("master.key"))
            .args(["--token", token.trim()])
            .arg("--anchor")
            .arg(vector(name).join("vault.head"))
    })
}

/// `cargo test --test vault_format -- --ignored` writes the vector and prints its trace. For a new
/// format, into a new directory.
#[test]
#[ignore = "writes into the source tree"]
fn write_the_vector() {
    let home = vector(VECTORS[VECTORS.len() - 1]);
    assert!(!home.join("vault.db").exists(), "a vector is written once");
    fs::DirBuilder::new().recursive(true).mode(0o700).create(&home).unwrap();
    let master = MasterKey::generate().unwrap();
    master.save_new(&home.join("master.key")).unwrap();
    let path = home.join("vault.db");
    let mut vault = Vault::create(&path, &master).unwrap().acting_as("tester");
    let token = furnish(&mut vault);
    vault.rotate_data_keys(OldRuns::Stand).unwrap();
    vault.use_workspace(&"default".parse().unwrap()).unwrap();
    let label = ("team".parse().unwrap(), "ml".parse().unwrap());
    vault.agent_label(&"researcher".parse().unwrap(), &[label], &[]).unwrap();
    fs::write(home.join("token"), token + "\n").unwrap();
    fs::write(home.join("vault.head"), vault.anchor_text().unwrap()).unwrap();
}

/// Something of everything.
fn furnish(vault: &mut Vault) -> String {
    let name = |text: &str| text.parse().unwrap();
    let openai = NewCredential {
        name: name("openai"),
        provider: Some("openai".into()),
        tier: Tier::Platform,
        tags: vec!["prod".into(), "büro".into()],
        destinations: vec![
            "https://api.openai.com".parse().unwrap(),
            "https://*.api.openai.com".parse().unwrap(),
        ],
        slots: vec!["header authorization: Bearer {secret}".parse().unwrap()],
        stand_in: Some("sk-proj-locum_openai_000000000000".into()),
        properties: Properties::default(),
    };
    let billing = NewCredential {
        name: name("billing"),
        provider: None,
        tier: Tier::User,
        tags: Vec::new(),
        destinations: vec!["https://billing.internal:8443".parse().unwrap()],
        slots: [
            "basic robot",
            "query key",
            "path",
            "path /bot{secret}/**",
            "json /a/b",
            "form x",
            "multipart y",
            "subprotocol k.{secret}",
            "websocket /d/token",
        ]
        .map(|slot| slot.parse().unwrap())
        .into(),
        stand_in: None,
        properties: Properties { honeytoken: true, ..Properties::default() },
    };
    let team = NewCredential { name: name("team"), ..billing.clone() };
    vault.add_credential(&openai, &secret("not-a-key-1-of-openai")).unwrap();
    vault.rotate(&openai.name, &secret("not-a-key-2-of-openai")).unwrap();
    vault.add_credential(&billing, &secret("not-a-key \"of\" \\billing")).unwrap();
    vault.add_credential(&team, &secret("not-a-key-of-team")).unwrap();
    vault.revoke(&team.name).unwrap();
    vault.set_add(&name("all"), &[openai.name, billing.name]).unwrap();
    vault.agent_add(&name("researcher")).unwrap();
    let expires = Some(4_000_000_000);
    let token = vault.token_add(&name("researcher"), expires, Some("Büro")).unwrap();
    let gone = vault.token_add(&name("researcher"), None, None).unwrap();
    vault.token_revoke(gone.id()).unwrap();
    vault.seal_item("ca-key", &secret("not a private key")).unwrap();
    vault.workspace_add(&name("other")).unwrap();
    vault.use_workspace(&name("other")).unwrap();
    vault.add_credential(&team, &secret("not-a-key-of-other")).unwrap();
    vault.set_audit_anchor(17, &[7; 32]).unwrap();
    token.into_text().to_string()
}

/// What another program must find.
fn furnished() -> Value {
    let version = |secret: &str, state: &str| json!({"secret": secret, "state": state});
    json!({
        "epoch": 14,
        "credentials": {
            "openai": {
                "1": version("not-a-key-1-of-openai", "retired"),
                "2": version("not-a-key-2-of-openai", "current"),
            },
            "billing": {"1": version("not-a-key \"of\" \\billing", "current")},
            "team": {"1": null},
            "other/team": {"1": version("not-a-key-of-other", "current")},
        },
        "items": {"ca-key": "not a private key"},
        "audit_anchor": 17,
        "token_agent": "researcher",
        "anchor_epoch": 14,
    })
}

/// Without what differs from vault to vault.
fn without_trace(opened: &Value) -> Value {
    let mut fields = opened.as_object().unwrap().clone();
    fields.remove("trace");
    fields.remove("audit_key");
    Value::Object(fields)
}

fn secret(text: &str) -> Secret {
    Secret::new(text.as_bytes().to_vec())
}

/// A vector with the modes that a checkout does not keep.
fn copy_of(name: &str) -> tempfile::TempDir {
    let home = tempfile::tempdir().unwrap();
    for file in ["vault.db", "master.key"] {
        let bytes = fs::read(vector(name).join(file)).unwrap();
        files::create_private(&home.path().join(file), &bytes).unwrap();
    }
    home
}

/// The reader, in an environment with the libraries that it needs.
struct Python(PathBuf);

impl Python {
    fn open(&self, vault: &Path, with: impl FnOnce(&mut Command) -> &mut Command) -> Value {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/vault_format.py");
        let mut reader = Command::new(&self.0);
        with(reader.arg(script).arg(vault));
        let output = reader.output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{errors}");
        serde_json::from_slice(&output.stdout).unwrap()
    }
}

const LIBRARIES: [&str; 2] = ["cryptography>=42", "argon2-cffi>=23"];

/// Installs what the reader needs, once for all test runs. Where there is no Python, or nothing to
/// install from, these tests say so and pass; `LOCUM_REQUIRE_PYTHON`, or a CI, makes that a failure.
fn python() -> Option<Python> {
    static PYTHON: std::sync::OnceLock<Option<PathBuf>> = std::sync::OnceLock::new();
    let python = PYTHON.get_or_init(prepare_python).clone().map(Python);
    if python.is_none() {
        let required = ["LOCUM_REQUIRE_PYTHON", "CI"].iter().any(|v| std::env::var_os(v).is_some());
        assert!(!required, "no Python 3 with {LIBRARIES:?}");
        eprintln!("SKIPPED: no Python 3 with {LIBRARIES:?}");
    }
    python
}

fn prepare_python() -> Option<PathBuf> {
    let environment = Path::new(env!("CARGO_TARGET_TMPDIR")).join("vault-format-python");
    let python = environment.join("bin/python");
    let usable = || run(&python, ["-c", "import cryptography, argon2"]);
    if !usable() {
        let made = run("python3", [OsStr::new("-m"), OsStr::new("venv"), environment.as_os_str()])
            && run(&python, ["-m", "pip", "install", "--quiet", LIBRARIES[0], LIBRARIES[1]]);
        if !made || !usable() {
            return None;
        }
    }
    Some(python)
}

fn run<A: AsRef<OsStr>>(
    program: impl AsRef<OsStr>,
    arguments: impl IntoIterator<Item = A>,
) -> bool {
    let output = Command::new(program).args(arguments).output();
    output.is_ok_and(|output| output.status.success())
}
