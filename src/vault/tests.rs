//! What the vault promises, tried against the file itself.

use super::*;

use std::collections::HashSet;
use std::path::PathBuf;

use crate::files;

/// A directory of mode 0700 with a vault in it, and its key.
struct Home {
    directory: tempfile::TempDir,
    master: MasterKey,
}

impl Home {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let master = MasterKey::generate().unwrap();
        Vault::create(&directory.path().join("vault.db"), &master).unwrap();
        Self { directory, master }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("vault.db")
    }

    fn open(&self) -> Vault {
        self.try_open().unwrap()
    }

    fn try_open(&self) -> Result<Vault, VaultError> {
        Vault::open(&self.path(), &self.master)
    }

    /// Another hand on the file: SQL without the key.
    fn sql(&self, sql: &str) -> usize {
        let db = Connection::open(self.path()).unwrap();
        db.execute_batch("PRAGMA foreign_keys = OFF; PRAGMA ignore_check_constraints = ON")
            .unwrap();
        db.execute(sql, []).unwrap()
    }
}

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

fn secret(text: &str) -> Secret {
    Secret::new(text.as_bytes().to_vec())
}

fn credential(named: &str) -> NewCredential {
    NewCredential {
        name: name(named),
        provider: None,
        tier: Tier::Platform,
        tags: vec!["prod".into()],
        destinations: vec!["https://api.example.com".parse().unwrap()],
        slots: vec!["header authorization: Bearer {secret}".parse().unwrap()],
        stand_in: Some(format!("sk-proj-locum_{named}_AAAA")),
    }
}

fn text_of(secret: &Secret) -> String {
    secret.expose(|bytes| String::from_utf8(bytes.to_vec()).unwrap())
}

#[test]
fn what_was_stored_opens_again() {
    let home = Home::new();
    let mut vault = home.open();
    vault.add_credential(&credential("a"), &secret("first-secret-value")).unwrap();
    assert_eq!(vault.rotate(&name("a"), &secret("second-secret-value")).unwrap(), 2);
    vault.seal_item("ca", &secret("private key")).unwrap();
    drop(vault);

    let vault = home.open();
    let snapshot = vault.snapshot().unwrap();
    let credential = snapshot.credentials.get("a").unwrap();
    assert_eq!(credential.version, Some(2));
    assert_eq!(text_of(&snapshot.open(&name("a"), 2).unwrap()), "second-secret-value");
    assert_eq!(text_of(&vault.open_item("ca").unwrap()), "private key");
    vault.verify().unwrap();
    let _ = (HashSet::<u8>::new(), files::check_private(&home.path()).unwrap());
}
