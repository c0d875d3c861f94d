//! What the vault promises, tried on the file itself: with SQL, with old copies, and byte by byte.

use super::*;

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::PathBuf;

use crate::authn::{Agents, Authenticators, Shown};
use crate::credential::Properties;
use crate::files;
use crate::record::Peer;

/// A directory of mode 0700 with a vault in it, and its key.
struct Home {
    directory: tempfile::TempDir,
    master: MasterKey,
}

impl Home {
    fn new() -> Self {
        let home = Self::without_vault();
        Vault::create(&home.path(), &home.master).unwrap();
        home
    }

    fn without_vault() -> Self {
        let directory = tempfile::tempdir().unwrap();
        Self { directory, master: MasterKey::generate().unwrap() }
    }

    /// With the credentials `a` (versions 1 and 2) and `b`, a set, an agent, and an item.
    fn furnished() -> Self {
        let home = Self::new();
        let mut vault = home.open();
        vault.add_credential(&credential("a"), &secret("first-value-of-a")).unwrap();
        vault.rotate(&name("a"), &secret("second-value-of-a")).unwrap();
        vault.add_credential(&credential("b"), &secret("only-value-of-b")).unwrap();
        vault.set_add(&name("both"), &[name("a"), name("b")]).unwrap();
        vault.agent_add(&name("agent")).unwrap();
        vault.seal_item("ca", &secret("private key")).unwrap();
        home
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

    fn fault(&self) -> Fault {
        self.try_open().expect_err("the vault should not open").fault
    }

    fn accept(&self) -> Vault {
        Vault::accept(&self.path(), &self.master, "tester").unwrap()
    }

    /// Another hand on the file: a connection without the key, and without its constraints.
    fn intruder(&self) -> Connection {
        let db = Connection::open(self.path()).unwrap();
        db.execute_batch("PRAGMA foreign_keys = OFF; PRAGMA ignore_check_constraints = ON")
            .unwrap();
        db
    }

    fn sql(&self, sql: &str) {
        assert_ne!(self.intruder().execute(sql, []).unwrap(), 0, "nothing changed: {sql}");
    }

    fn sealed(&self, credential: &str, version: u32) -> Vec<u8> {
        let query = "SELECT sealed FROM versions JOIN credentials ON id = credential \
                     WHERE name = ?1 AND version = ?2";
        let db = self.intruder();
        db.query_row(query, (credential, version), |row| row.get(0)).unwrap()
    }

    /// All bytes of all files of the home.
    fn bytes(&self) -> Vec<u8> {
        let files = fs::read_dir(self.directory.path()).unwrap();
        files.flat_map(|file| fs::read(file.unwrap().path()).unwrap()).collect()
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
        provider: Some("example".into()),
        tier: Tier::Platform,
        tags: vec!["prod".into()],
        destinations: vec!["https://api.example.com".parse().unwrap()],
        slots: vec!["header authorization: Bearer {secret}".parse().unwrap()],
        stand_in: Some(format!("sk-proj-locum_{named}_AAAA")),
        properties: Properties::default(),
    }
}

fn text_of(secret: &Secret) -> String {
    secret.expose(|bytes| String::from_utf8(bytes.to_vec()).unwrap())
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    memchr::memmem::find(haystack, needle).is_some()
}

fn version_of(credential: &str, version: u32) -> Row {
    Row::Version(credential.into(), version)
}

// What is stored, and comes back.

#[test]
fn what_was_stored_opens_again() {
    let home = Home::furnished();
    let vault = home.open();
    let snapshot = vault.snapshot().unwrap();
    let credential = snapshot.credentials.get("a").unwrap();
    assert_eq!(credential.version, Some(2));
    assert_eq!(credential.destinations[0].to_string(), "https://api.example.com");
    assert_eq!(text_of(&snapshot.open(&name("a"), 2).unwrap()), "second-value-of-a");
    assert_eq!(text_of(&snapshot.open(&name("b"), 1).unwrap()), "only-value-of-b");
    assert_eq!(snapshot.credentials.set("both").unwrap(), [name("a"), name("b")]);
    assert_eq!(text_of(&vault.open_item("ca").unwrap()), "private key");
    vault.verify().unwrap();
}

#[test]
fn a_snapshot_opens_the_current_version_only() {
    let home = Home::furnished();
    let snapshot = home.open().snapshot().unwrap();
    let fault = |named, version| snapshot.open(&name(named), version).unwrap_err().fault;
    assert!(matches!(fault("a", 1), Fault::NoSuchVersion(_, 1)));
    assert!(matches!(fault("a", 3), Fault::NoSuchVersion(_, 3)));
    assert!(matches!(fault("none", 1), Fault::Unknown(Kind::Credential, _)));
}

#[test]
fn snapshots_and_vaults_cross_threads() {
    fn shared<T: Send + Sync>() {}
    fn sent<T: Send>() {}
    shared::<Snapshot>();
    shared::<MasterKey>();
    shared::<VaultError>();
    sent::<Vault>();
}

#[test]
fn lists_tell_everything_but_the_secret() {
    let home = Home::furnished();
    let vault = home.open();
    let info = vault.credential(&name("a")).unwrap();
    let states: Vec<_> = info.versions.iter().map(|v| (v.version, v.state)).collect();
    assert_eq!(states, [(1, VersionState::Retired), (2, VersionState::Current)]);
    assert_eq!(info.current().unwrap().version, 2);
    assert_ne!(info.versions[0].fingerprint, info.versions[1].fingerprint);
    assert_eq!(info.slots[0].to_string(), "header authorization: Bearer {secret}");
    assert!(info.last_rotation() >= info.created && info.versions[0].ended.is_some());
    assert_eq!(vault.credentials().unwrap().len(), 2);
    let shown = format!("{info:?} {vault:?} {:?}", vault.snapshot().unwrap());
    assert!(!shown.contains("value-of"), "{shown}");
}

#[test]
fn equal_secrets_have_equal_fingerprints_in_one_vault_and_not_in_two() {
    let fingerprint = |home: &Home, named: &str| {
        let mut vault = home.open();
        vault.add_credential(&credential(named), &secret("the same value")).unwrap();
        vault.credential(&name(named)).unwrap().versions[0].fingerprint
    };
    let (one, two) = (Home::new(), Home::new());
    assert_eq!(fingerprint(&one, "a"), fingerprint(&one, "b"));
    assert_ne!(fingerprint(&one, "c"), fingerprint(&two, "c"));
}

#[test]
fn revoking_erases_and_the_name_stays() {
    let home = Home::furnished();
    let mut vault = home.open();
    let gone = [home.sealed("a", 1), home.sealed("a", 2)];
    vault.revoke(&name("a")).unwrap();
    let again = vault.revoke(&name("a")).unwrap_err().fault;
    assert!(matches!(again, Fault::Revoked(Kind::Credential, _)));

    let snapshot = vault.snapshot().unwrap();
    assert_eq!(snapshot.credentials.get("a").unwrap().version, None);
    assert!(matches!(snapshot.open(&name("a"), 2).unwrap_err().fault, Fault::Revoked(..)));
    for sealed in gone {
        assert!(!contains(&home.bytes(), &sealed[..20]), "ciphertext left in the files");
    }
    assert_eq!(vault.rotate(&name("a"), &secret("third-value-of-a")).unwrap(), 3);
    assert_eq!(
        text_of(&vault.snapshot().unwrap().open(&name("a"), 3).unwrap()),
        "third-value-of-a"
    );
    vault.verify().unwrap();
}

#[test]
fn one_version_can_be_revoked() {
    let home = Home::furnished();
    let mut vault = home.open();
    vault.revoke_version(&name("a"), 1).unwrap();
    assert!(vault.snapshot().unwrap().open(&name("a"), 2).is_ok());
    for absent in [1, 9] {
        let fault = vault.revoke_version(&name("a"), absent).unwrap_err().fault;
        assert!(matches!(fault, Fault::NoSuchVersion(_, v) if v == absent));
    }
    vault.revoke_version(&name("a"), 2).unwrap();
    assert_eq!(vault.snapshot().unwrap().credentials.get("a").unwrap().version, None);
}

#[test]
fn removing_erases_and_leaves_the_sets_and_the_journal_sound() {
    let home = Home::furnished();
    let mut vault = home.open();
    let gone = home.sealed("a", 2);
    vault.remove(&name("a")).unwrap();
    assert!(!contains(&home.bytes(), &gone[..20]), "ciphertext left in the files");
    assert_eq!(vault.sets().unwrap()[0].members, [name("b")]);
    assert!(matches!(vault.remove(&name("a")).unwrap_err().fault, Fault::Unknown(..)));
    let journal = vault.journal_since(0).unwrap();
    assert_eq!(journal.last().unwrap().subject, "a");
    // The name is free again, and starts anew.
    vault.add_credential(&credential("a"), &secret("another-value-of-a")).unwrap();
    assert_eq!(vault.snapshot().unwrap().credentials.get("a").unwrap().version, Some(1));
    vault.verify().unwrap();
}

#[test]
fn what_would_go_astray_is_not_added() {
    let home = Home::furnished();
    let mut vault = home.open();
    let epoch = vault.epoch().unwrap();
    let mut refused = |edit: fn(&mut NewCredential), value: &str| {
        let mut new = credential("new");
        edit(&mut new);
        vault.add_credential(&new, &secret(value)).unwrap_err().fault
    };
    let value = "a-good-value";
    let exists = |fault: Fault, kind| matches!(fault, Fault::Exists(k, _) if k == kind);
    assert!(exists(
        refused(|n| (n.name, n.stand_in) = (name("a"), None), value),
        Kind::CredentialOrSet
    ));
    assert!(exists(
        refused(|n| (n.name, n.stand_in) = (name("both"), None), value),
        Kind::CredentialOrSet
    ));
    assert!(matches!(
        refused(|n| n.destinations = vec!["http://a.test".parse().unwrap()], value),
        Fault::Invalid(Invalid::Plaintext(_))
    ));
    assert!(matches!(refused(|n| n.slots.clear(), value), Fault::Invalid(Invalid::NoSlot)));
    assert!(matches!(refused(|n| n.tags = vec!["a\nb".into()], value), Fault::Invalid(_)));
    assert!(matches!(refused(|_| {}, "line\r\nbreak"), Fault::Secret(SecretProblem::LineBreak)));
    assert_eq!(vault.epoch().unwrap(), epoch, "a refused change is no change");
}

#[test]
fn stand_ins_are_unique() {
    let home = Home::furnished();
    let mut vault = home.open();
    let mut new = credential("c");
    // Holds both references, so that only its being taken is wrong with it.
    let both = "sk-locum_d_locum_c_0000";
    new.stand_in = Some(both.into());
    vault.add_credential(&new, &secret("some-value")).unwrap();
    new.name = name("d");
    let fault = vault.add_credential(&new, &secret("some-value")).unwrap_err().fault;
    assert!(matches!(fault, Fault::Exists(Kind::StandIn, _)));
}

#[test]
fn sets_name_credentials_and_share_their_names() {
    let home = Home::furnished();
    let mut vault = home.open();
    let fault = |result: Result<(), VaultError>| result.unwrap_err().fault;
    assert!(matches!(fault(vault.set_add(&name("a"), &[name("b")])), Fault::Exists(..)));
    assert!(matches!(fault(vault.set_add(&name("s"), &[name("none")])), Fault::Unknown(..)));
    assert!(matches!(fault(vault.set_add(&name("s"), &[])), Fault::Invalid(Invalid::NoMembers)));
    assert_eq!(vault.sets().unwrap().len(), 1, "a failed set is not there");
    vault.set_reduce(&name("both"), &[name("a")]).unwrap();
    assert!(matches!(fault(vault.set_reduce(&name("both"), &[name("a")])), Fault::Unknown(..)));
    vault.set_reduce(&name("both"), &[name("b")]).unwrap();
    assert_eq!(vault.snapshot().unwrap().credentials.set("both"), Some(&[][..]));
    vault.set_remove(&name("both")).unwrap();
    assert!(vault.sets().unwrap().is_empty());
    assert!(matches!(fault(vault.set_remove(&name("both"))), Fault::Unknown(Kind::Set, _)));
}

// Agents and tokens.

fn authenticates(vault: &Vault, agent: &str, token: &str) -> bool {
    lets_in(vault, agent, token, 1_000)
}

#[test]
fn a_token_works_until_it_is_revoked() {
    let home = Home::furnished();
    let mut vault = home.open();
    let agent = name("agent");
    let first = vault.token_add(&agent, None, Some("laptop")).unwrap();
    let second = vault.token_add(&agent, Some(1_001), None).unwrap();
    let (id, second_id) = (first.id().to_owned(), second.id().to_owned());
    let (first, second) = (first.into_text(), second.into_text());
    assert!(authenticates(&vault, "agent", &first) && authenticates(&vault, "agent", &second));
    assert!(!contains(&home.bytes(), &first.as_bytes()[13..]), "the token is in the files");

    vault.token_revoke(&id).unwrap();
    assert!(!authenticates(&vault, "agent", &first));
    assert!(matches!(vault.token_revoke(&id).unwrap_err().fault, Fault::Revoked(..)));
    assert!(matches!(vault.token_revoke("none").unwrap_err().fault, Fault::Unknown(..)));

    assert_eq!(vault.agent_revoke(&agent).unwrap(), 1);
    assert!(!authenticates(&vault, "agent", &second));
    assert!(matches!(vault.token_add(&agent, None, None).unwrap_err().fault, Fault::Revoked(..)));
    vault.agent_add(&agent).unwrap();
    assert!(!authenticates(&vault, "agent", &second), "old tokens stay revoked");

    let tokens = &vault.agents().unwrap()[0].tokens;
    assert!(tokens.iter().all(|t| t.revoked.is_some()) && tokens.len() == 2);
    assert_eq!(vault.tokens_purge(1_001).unwrap(), 0);
    let epoch = vault.epoch().unwrap();
    assert_eq!(vault.tokens_purge(1_002).unwrap(), 1);
    assert_eq!(vault.epoch().unwrap(), epoch + 1);
    assert!(vault.agents().unwrap()[0].tokens.iter().all(|t| t.id != second_id));
    vault.verify().unwrap();
}

#[test]
fn agents_are_added_once() {
    let home = Home::furnished();
    let mut vault = home.open();
    let fault = vault.agent_add(&name("agent")).unwrap_err().fault;
    assert!(matches!(fault, Fault::Exists(Kind::Agent, _)));
    let fault = vault.token_add(&name("nobody"), None, None).unwrap_err().fault;
    assert!(matches!(fault, Fault::Unknown(Kind::Agent, _)));
    let fault = vault.token_add(&name("agent"), None, Some("a\nb")).unwrap_err().fault;
    assert!(matches!(fault, Fault::Invalid(Invalid::Text(_))));
}

#[test]
fn an_agent_comes_with_its_token_or_not_at_all() {
    let home = Home::furnished();
    let mut vault = home.open();
    let (before, late) = (vault.epoch().unwrap(), name("late"));
    let fault = vault.agent_admit(&late, None, Some("a\nb")).unwrap_err().fault;
    assert!(matches!(fault, Fault::Invalid(Invalid::Text(_))));
    assert!(vault.agents().unwrap().iter().all(|agent| agent.name != late));

    let mut admit = || vault.agent_admit(&late, None, None).unwrap().into_text();
    let (first, second) = (admit(), admit());
    assert!(authenticates(&vault, "late", &first) && authenticates(&vault, "late", &second));
    let done = vault.journal_since(before).unwrap();
    let actions: Vec<_> = done.iter().map(|entry| entry.action).collect();
    assert_eq!(actions, [Action::AgentAdded, Action::TokenAdded, Action::TokenAdded]);

    vault.agent_revoke(&late).unwrap();
    let third = vault.agent_admit(&late, None, None).unwrap().into_text();
    assert!(authenticates(&vault, "late", &third));
    assert!(!authenticates(&vault, "late", &first), "old tokens stay revoked");
    vault.verify().unwrap();
}

#[test]
fn a_token_moved_to_another_agent_or_prolonged_is_not_accepted() {
    for edit in [
        "UPDATE tokens SET agent = 'other'",
        "UPDATE tokens SET expires = expires + 1",
        "UPDATE tokens SET expires = NULL",
    ] {
        let home = Home::furnished();
        let mut vault = home.open();
        vault.agent_add(&name("other")).unwrap();
        let token = vault.token_add(&name("agent"), Some(2_000), None).unwrap().into_text();
        drop(vault);
        home.sql(edit);
        assert!(matches!(home.fault(), Fault::Changed), "{edit}");
        // Even with the vault's state accepted, the row's own MAC holds.
        let vault = home.accept();
        for agent in ["agent", "other"] {
            assert!(!authenticates(&vault, agent, &token), "{edit}, as {agent}");
        }
    }
}

// Tampering.

#[test]
fn no_edit_of_a_row_opens_and_the_error_names_the_row() {
    for edit in [
        r#"UPDATE credentials SET destinations = '["https://evil.test"]' WHERE name = 'a'"#,
        r#"UPDATE credentials SET destinations =
           '["https://api.example.com","https://evil.test"]' WHERE name = 'a'"#,
        r#"UPDATE credentials SET slots = '["query key"]' WHERE name = 'a'"#,
        r#"UPDATE credentials SET slots =
           '["header authorization: Bearer {secret}","query key"]' WHERE name = 'a'"#,
        "UPDATE credentials SET stand_in = 'sk-proj-locum_a_BBBB' WHERE name = 'a'",
        "UPDATE credentials SET stand_in = NULL WHERE name = 'a'",
        "UPDATE credentials SET tier = 'user' WHERE name = 'a'",
        "UPDATE versions SET version = 3 WHERE version = 2",
    ] {
        let home = Home::furnished();
        home.sql(edit);
        let Fault::Corrupt(Row::Version(named, _)) = home.fault() else {
            panic!("{edit}: {:?}", home.fault());
        };
        assert_eq!(named, "a", "{edit}");
        // The seal alone holds too, without the MAC over the state.
        let snapshot = home.accept().snapshot().unwrap();
        let version = snapshot.credentials.get("a").unwrap().version.unwrap();
        let error = snapshot.open(&name("a"), version).unwrap_err();
        assert!(matches!(error.fault, Fault::Corrupt(Row::Version(..))), "{edit}: {error}");
        assert!(snapshot.open(&name("b"), 1).is_ok(), "{edit}: others are untouched");
    }
}

#[test]
fn a_renamed_credential_does_not_open() {
    let home = Home::furnished();
    home.sql("UPDATE credentials SET name = 'c' WHERE name = 'a'");
    assert!(matches!(home.fault(), Fault::Corrupt(row) if row == version_of("c", 1)));
    let snapshot = home.accept().snapshot().unwrap();
    assert!(snapshot.open(&name("c"), 2).is_err());
}

#[test]
fn every_flipped_byte_of_every_sealed_row_is_found_and_named() {
    let home = Home::furnished();
    for (table, key, row) in [
        ("versions", "credential = 1 AND version = 2", version_of("a", 2)),
        ("items", "name = 'ca'", Row::Item("ca".into())),
        ("keys", "scope = 'vault'", Row::DataKey("vault".into())),
        ("keys", "scope = 'workspace/default'", Row::DataKey("workspace/default".into())),
    ] {
        let db = home.intruder();
        let query = format!("SELECT sealed FROM {table} WHERE {key}");
        let sealed: Vec<u8> = db.query_row(&query, [], |r| r.get(0)).unwrap();
        let put = |bytes: &[u8]| {
            let update = format!("UPDATE {table} SET sealed = ?1 WHERE {key}");
            assert_eq!(db.execute(&update, [bytes]).unwrap(), 1);
        };
        for at in 0..sealed.len() {
            let mut edited = sealed.clone();
            edited[at] ^= 0x40;
            put(&edited);
            assert!(matches!(home.fault(), Fault::Corrupt(r) if r == row), "{table}, byte {at}");
        }
        put(&sealed[..sealed.len() - 1]);
        assert!(matches!(home.fault(), Fault::Corrupt(r) if r == row), "{table}, cut");
        put(&sealed);
        home.open().verify().unwrap();
    }
}

#[test]
fn ciphertexts_do_not_open_in_another_row() {
    let swap = |one: &str, other: &str| {
        format!(
            "UPDATE versions SET sealed = (SELECT sealed FROM versions AS v WHERE {other}) \
             WHERE {one}"
        )
    };
    let (a1, a2, b1) = (
        "credential = 1 AND version = 1",
        "credential = 1 AND version = 2",
        "credential = 2 AND version = 1",
    );
    for (one, other, row) in
        [(a2, a1, version_of("a", 2)), (a2, b1, version_of("a", 2)), (b1, a2, version_of("b", 1))]
    {
        let home = Home::furnished();
        home.sql(&swap(
            one,
            &other.replace("credential", "v.credential").replace("version", "v.version"),
        ));
        assert!(matches!(home.fault(), Fault::Corrupt(r) if r == row));
        assert!(home.accept().snapshot().unwrap().open(&name("b"), 1).is_ok() || one == b1);
    }
}

#[test]
fn a_credential_moved_to_another_workspace_does_not_open() {
    let home = Home::furnished();
    let mut vault = home.open();
    let other = name("other");
    vault.workspace_add(&other).unwrap();
    vault.use_workspace(&other).unwrap();
    vault.add_credential(&credential("a"), &secret("value-of-the-other")).unwrap();
    let snapshot = vault.snapshot().unwrap();
    assert_eq!(text_of(&snapshot.open(&name("a"), 1).unwrap()), "value-of-the-other");
    assert!(snapshot.credentials.get("b").is_none(), "workspaces share nothing");
    drop(vault);

    home.sql("UPDATE credentials SET workspace = 'other' WHERE name = 'b'");
    assert!(matches!(home.fault(), Fault::Corrupt(r) if r == version_of("b", 1)));
    let mut vault = home.accept();
    vault.use_workspace(&other).unwrap();
    assert!(vault.snapshot().unwrap().open(&name("b"), 1).is_err());

    // Nor with the data key of the one in the place of the other's.
    let home = Home::new();
    home.open().workspace_add(&other).unwrap();
    home.sql(
        "UPDATE keys SET sealed = (SELECT sealed FROM keys AS k WHERE k.scope = 'workspace/other') \
         WHERE scope = 'workspace/default'",
    );
    assert!(matches!(home.fault(), Fault::Corrupt(Row::DataKey(_))));
}

/// How many rows of each table name a workspace, its items and its key among them.
fn rows_of(home: &Home, workspace: &str) -> i64 {
    let db = home.intruder();
    let count =
        |query: &str| -> i64 { db.query_row(query, [workspace], |row| row.get(0)).unwrap() };
    ["credentials", "sets", "set_members", "agents", "tokens"]
        .map(|table| count(&format!("SELECT count(*) FROM {table} WHERE workspace = ?1")))
        .iter()
        .sum::<i64>()
        + count(
            "SELECT count(*) FROM items WHERE name LIKE '%/' || ?1 OR name LIKE '%/' || ?1 || '/%'",
        )
        + count("SELECT count(*) FROM keys WHERE scope = 'workspace/' || ?1")
        + db.query_row(
            "SELECT count(*) FROM versions WHERE credential NOT IN (SELECT id FROM credentials)",
            [],
            |row| row.get::<_, i64>(0),
        )
        .unwrap()
}

/// A yes to a question of that digest.
fn yes(digest: &str) -> crate::approval::Decision {
    crate::approval::Decision {
        id: "1".into(),
        digest: digest.into(),
        approved: true,
        at: 0,
        until: i64::MAX,
        by: Vec::new(),
        missing: 0,
    }
}

/// Two people, of a question that was asked in the far future: whoever is there was there before.
fn two(open: i64) -> Wanted {
    Wanted { approvers: 2, asked: i64::MAX, open }
}

#[test]
fn a_yes_of_several_is_one_when_each_has_said_it_of_the_same() {
    let home = Home::new();
    let vault = home.open();
    let open = i64::MAX - 1;
    let says = |who: &str, digest: &str, open: i64| {
        let mut acting = home.open().acting_as(who);
        acting.decide(yes(digest), two(open)).unwrap()
    };
    let first = says("alice", "d", open);
    assert_eq!((first.missing, first.until, first.settles("d")), (1, open, None));
    assert_eq!(says("alice", "d", open).missing, 1);
    // What was said of another request counts for nothing, nor what was said too long ago.
    assert_eq!(says("bob", "e", open).by, ["bob"]);
    assert_eq!(says("bob", "d", 0).by, ["bob"]);
    assert_eq!(says("carol", "d", open).by, ["carol"]);
    let second = says("bob", "d", open);
    assert_eq!((second.missing, second.until), (0, i64::MAX));
    assert_eq!((second.settles("d"), second.settles("e")), (Some(true), None));
    assert_eq!(vault.decisions().unwrap()["1"].by, ["carol", "bob"]);
}

#[test]
fn what_is_decided_stays_so_and_one_no_decides() {
    let home = Home::new();
    let mut vault = home.open().acting_as("alice");
    let no = crate::approval::Decision { approved: false, ..yes("d") };
    let open = i64::MAX - 1;
    assert_eq!(vault.decide(yes("d"), two(open)).unwrap().settles("d"), None);
    assert_eq!(vault.decide(no.clone(), two(open)).unwrap().settles("d"), Some(false));
    let alone = Wanted { approvers: 1, ..two(open) };
    for wanted in [two(open), alone] {
        for said in [yes("d"), no.clone()] {
            let fault = vault.decide(said, wanted).unwrap_err().fault;
            assert!(matches!(fault, Fault::Decided(_)), "{fault}");
        }
    }
    assert_eq!(vault.decisions().unwrap()["1"].settles("d"), Some(false));
    // Of another request nothing is decided.
    assert_eq!(vault.decide(yes("e"), alone).unwrap().settles("e"), Some(true));
}

#[test]
fn of_several_only_those_count_who_were_there_before_and_are_there_still() {
    let home = Home::new();
    let mut vault = home.open();
    let asked = now() + 100;
    let open = i64::MAX - 1;
    let wanted = Wanted { approvers: 2, asked, open };
    let administrator = |vault: &mut Vault, who: &str| {
        let (_, token) = vault.administrator_add(&name(who), Role::Owner, None).unwrap();
        vault.administrator_of(&token, now()).unwrap().unwrap()
    };
    let max = administrator(&mut vault, "max");
    let ona = administrator(&mut vault, "ona");
    let says = |who: &Administrator, wanted: Wanted| {
        home.open().on_behalf_of(who, |vault| vault.decide(yes("d"), wanted))
    };
    // One who was made up when a second was needed.
    let fault = says(&ona, Wanted { asked: ona.created - 1, ..wanted }).unwrap_err().fault;
    assert!(matches!(fault, Fault::ApproverIsNew(_)), "{fault}");
    assert_eq!(says(&max, wanted).unwrap().missing, 1);
    vault.administrator_revoke(&name("max")).unwrap();
    let after = says(&ona, wanted).unwrap();
    assert_eq!((after.missing, &after.by[..]), (1, &["administrator ona".to_owned()][..]));
}

/// Something of every kind, in the workspace that is worked in.
fn fill(vault: &mut Vault) -> crate::token::Token {
    vault.add_credential(&credential("b"), &secret("workspace-canary-secret")).unwrap();
    vault.set_add(&name("all"), &[name("b")]).unwrap();
    let token = vault.agent_admit(&name("a"), None, None).unwrap();
    vault.run_revoke(&name("a"), crate::token::run::Which::All).unwrap();
    vault.decide(yes("d"), Wanted { approvers: 1, ..two(0) }).unwrap();
    token
}

#[test]
fn a_workspace_that_is_removed_leaves_no_row_and_takes_nothing_else() {
    let home = Home::new();
    let mut vault = home.open();
    let other = name("other");
    fill(&mut vault);
    vault.workspace_add(&other).unwrap();
    vault.use_workspace(&other).unwrap();
    fill(&mut vault);
    vault.rotate_data_keys(OldRuns::Stand).unwrap();
    let (own, theirs) = (rows_of(&home, "default"), rows_of(&home, "other"));
    assert!(theirs > 8 && own == theirs, "{own} {theirs}");
    let fault = vault.workspace_remove(&other, false).unwrap_err().fault;
    assert!(matches!(fault, Fault::NotEmpty(_)), "{fault:?}");
    assert_eq!(rows_of(&home, "other"), theirs, "half of it is gone");
    let fault = vault.workspace_remove(&name("default"), true).unwrap_err().fault;
    assert!(matches!(fault, Fault::DefaultWorkspace), "{fault:?}");
    let gone = vault.workspace_remove(&other, true).unwrap();
    assert_eq!((gone.credentials, gone.sets, gone.agents, gone.tokens), (1, 1, 1, 1));
    assert_eq!((rows_of(&home, "other"), rows_of(&home, "default")), (0, own));
    assert!(vault.workspace_remove(&other, true).is_err());
    drop(vault);
    let vault = home.open();
    vault.verify().unwrap();
    let snapshots = vault.snapshots().unwrap();
    assert_eq!(snapshots.len(), 1);
    assert!(snapshots[0].open(&name("b"), 1).is_ok());
    // The bytes are gone from the files too.
    let mut vault = home.open();
    vault.workspace_add(&other).unwrap();
    assert!(vault.within(&other, |vault| vault.snapshot()).unwrap().credentials.is_empty());
}

#[test]
fn one_workspace_gets_a_new_key_and_the_others_keep_theirs() {
    let home = Home::new();
    let mut vault = home.open();
    let other = name("other");
    let here = fill(&mut vault);
    vault.workspace_add(&other).unwrap();
    vault.use_workspace(&other).unwrap();
    let there = fill(&mut vault);
    let keys = |home: &Home| -> Vec<(String, Vec<u8>)> {
        let db = home.intruder();
        all_data_keys(&db).unwrap()
    };
    let before = keys(&home);
    // Another process has the vault open meanwhile, in the other workspace.
    let mut bystander = home.open();
    let rotated = vault.rotate_workspace_key(OldRuns::Stand).unwrap();
    assert_eq!((rotated.generation, rotated.secrets, rotated.items), (2, 1, 0));
    for ((scope, old), (_, new)) in before.iter().zip(&keys(&home)) {
        assert_eq!(old != new, scope == "workspace/other", "{scope}");
    }
    bystander.verify().unwrap();
    for (workspace, token) in [("default", here), ("other", there)] {
        let snapshot = bystander.within(&name(workspace), |vault| vault.snapshot()).unwrap();
        assert!(snapshot.open(&name("b"), 1).is_ok(), "{workspace}");
        let record = &snapshot.tokens[token.id()];
        assert!(snapshot.token_key.verifies(record, &name("a"), token.text()), "{workspace}");
    }
    assert_eq!(vault.rotate_data_keys(OldRuns::Stand).unwrap().generation, 3);
    bystander.verify().unwrap();
}

#[test]
fn the_journal_says_in_which_workspace() {
    let home = Home::new();
    let mut vault = home.open();
    let label = "a+run=x/y".parse::<crate::agent::UserName>().unwrap().context.run.unwrap();
    for workspace in ["default", "other"] {
        if workspace != "default" {
            vault.workspace_add(&name(workspace)).unwrap();
        }
        vault.use_workspace(&name(workspace)).unwrap();
        let before = vault.epoch().unwrap();
        vault.agent_admit(&name("a"), None, None).unwrap();
        // What looks like a place in a label is none.
        let which = crate::token::run::Which::Run(label.as_str().to_owned());
        vault.run_revoke(&name("a"), which).unwrap();
        vault.seal_item("x/y", &secret("item-canary-secret")).unwrap();
        let lines = vault.journal_since(before).unwrap();
        let places: Vec<_> = lines.iter().map(|line| line.workspace.clone()).collect();
        let own = Some(name(workspace));
        assert_eq!(places, [own.clone(), own.clone(), own, None]);
        assert_eq!(lines[0].subject, "a");
        assert_eq!(lines[2].subject, "a run=x/y");
        assert_eq!(lines[3].subject, "x/y");
    }
}

#[test]
fn workspaces_are_added_once_and_must_exist() {
    let home = Home::new();
    let mut vault = home.open();
    let fault = vault.use_workspace(&name("other")).unwrap_err().fault;
    assert!(matches!(fault, Fault::Unknown(Kind::Workspace, _)));
    vault.workspace_add(&name("other")).unwrap();
    let fault = vault.workspace_add(&name("other")).unwrap_err().fault;
    assert!(matches!(fault, Fault::Exists(Kind::Workspace, _)));
}

#[test]
fn rows_put_back_added_or_deleted_are_noticed() {
    // Each of these leaves every sealed row as it was sealed.
    for edit in [
        "DELETE FROM versions WHERE version = 1",
        "DELETE FROM credentials WHERE name = 'b'",
        "DELETE FROM set_members",
        "INSERT INTO sets VALUES ('default', 'more', 1)",
        "UPDATE credentials SET tags = '[]'",
        "UPDATE credentials SET provider = 'other'",
        "UPDATE agents SET revoked = 1",
        "DELETE FROM items",
        "UPDATE versions SET state = 'retired', ended = 1 WHERE state = 'current'",
        "UPDATE versions SET fingerprint = x'0000000000000000'",
        "UPDATE vault SET created = 1",
        "DELETE FROM journal WHERE epoch = (SELECT max(epoch) FROM journal)",
        "DELETE FROM journal",
        "DELETE FROM state",
        "UPDATE state SET mac = zeroblob(32)",
        "INSERT INTO journal VALUES (99, 1, 'credential-added', 'x', 'y', zeroblob(32))",
    ] {
        let home = Home::furnished();
        home.sql(edit);
        assert!(matches!(home.fault(), Fault::Changed), "{edit}: {:?}", home.fault());
    }
}

#[test]
fn a_revoked_version_put_back_from_a_backup_is_noticed() {
    let home = Home::furnished();
    let sealed = home.sealed("a", 2);
    home.open().revoke(&name("a")).unwrap();
    let put_back = "UPDATE versions SET sealed = ?1, state = 'current', ended = NULL \
                    WHERE credential = 1 AND version = 2";
    home.intruder().execute(put_back, [sealed]).unwrap();
    assert!(matches!(home.fault(), Fault::Changed));
}

#[test]
fn a_running_vault_notices_too_and_builds_nothing_on_it() {
    let home = Home::furnished();
    let mut vault = home.open();
    home.sql("DELETE FROM set_members");
    assert!(matches!(vault.snapshot().unwrap_err().fault, Fault::Changed));
    let fault = vault.agent_add(&name("new")).unwrap_err().fault;
    assert!(matches!(fault, Fault::Changed));
    assert!(matches!(vault.verify().unwrap_err().fault, Fault::Changed));
}

#[test]
fn planted_triggers_views_and_columns_are_noticed_and_do_not_run() {
    for plant in [
        "CREATE TRIGGER t AFTER INSERT ON journal BEGIN UPDATE agents SET revoked = NULL; END",
        "CREATE VIEW v AS SELECT * FROM credentials",
        "CREATE INDEX i ON agents (created)",
        "ALTER TABLE agents ADD COLUMN more TEXT",
        "CREATE TABLE more (x)",
    ] {
        let home = Home::furnished();
        home.intruder().execute(plant, []).unwrap();
        assert!(matches!(home.fault(), Fault::Changed), "{plant}");
    }
    let home = Home::furnished();
    home.open().agent_revoke(&name("agent")).unwrap();
    home.intruder()
        .execute(
            "CREATE TRIGGER t AFTER INSERT ON journal BEGIN UPDATE agents SET revoked = NULL; END",
            [],
        )
        .unwrap();
    let vault = home.accept();
    assert!(vault.agents().unwrap()[0].revoked.is_some(), "the trigger ran");
}

#[test]
fn accepting_is_written_down() {
    let home = Home::furnished();
    home.sql("DELETE FROM set_members");
    home.accept();
    let vault = home.open();
    let journal = vault.journal_since(0).unwrap();
    let last = journal.last().unwrap();
    assert_eq!((last.action, last.by.as_str()), (Action::StateAccepted, "tester"));
}

#[test]
fn in_a_vault_that_was_put_back_a_revocation_ends_tokens_of_the_time_that_is_gone() {
    let home = Home::furnished();
    let older = std::fs::read(home.path()).unwrap();
    let mut vault = home.open();
    for n in 0..5 {
        vault.agent_add(&name(&format!("more-{n}"))).unwrap();
    }
    let new = crate::vault::NewRunToken {
        agent: name("agent"),
        context: crate::agent::Context::default(),
        uses: None,
        environment: None,
        ttl: 3600,
    };
    let (_, token) = vault.run_token(new).unwrap();
    drop(vault);
    std::fs::write(home.path(), older).unwrap();
    home.accept();
    let mut vault = home.open();
    assert!(lets_in(&vault, "agent", &token, now()));
    vault.run_revoke(&name("agent"), crate::token::run::Which::All).unwrap();
    assert!(!lets_in(&vault, "agent", &token, now()));
}

#[test]
fn a_credential_that_cannot_be_read_can_be_removed() {
    for edit in [
        "UPDATE credentials SET destinations = 'not json' WHERE name = 'a'",
        r#"UPDATE credentials SET destinations = '["not a host"]' WHERE name = 'a'"#,
        r#"UPDATE credentials SET slots = '["cookie x"]' WHERE name = 'a'"#,
    ] {
        let home = Home::furnished();
        home.sql(edit);
        let mut vault = home.accept();
        let fault = vault.snapshot().unwrap_err().fault;
        assert!(matches!(fault, Fault::Corrupt(Row::Credential(c)) if c == "a"), "{edit}");
        vault.remove(&name("a")).unwrap();
        assert!(vault.snapshot().unwrap().open(&name("b"), 1).is_ok());
    }
}

/// No panic, no wrong secret, whatever byte of the file is hit.
#[test]
fn a_damaged_file_opens_to_the_truth_or_not_at_all() {
    let home = Home::furnished();
    drop(home.open());
    let good = fs::read(home.path()).unwrap();
    let try_with = |bytes: &[u8], what: &str| {
        for suffix in ["-wal", "-shm"] {
            let _ = fs::remove_file(schema::beside(&home.path(), suffix));
        }
        fs::write(home.path(), bytes).unwrap();
        let snapshot = home.try_open().and_then(|vault| vault.snapshot());
        let opened = snapshot.and_then(|snapshot| snapshot.open(&name("a"), 2)).ok()?;
        assert_eq!(text_of(&opened), "second-value-of-a", "{what}");
        Some(())
    };
    assert!(try_with(&good, "good").is_some());
    let mut random = [0; 3];
    for _ in 0..400 {
        getrandom::fill(&mut random).unwrap();
        let at = usize::from(u16::from_be_bytes([random[0], random[1]])) * good.len() / 65536;
        let mut bad = good.clone();
        bad[at] ^= random[2].max(1);
        try_with(&bad, &format!("byte {at}"));
    }
    for length in [0, 1, 15, 16, 99, 100, 4096, good.len() / 2, good.len() - 1] {
        try_with(&good[..length], &format!("cut to {length}"));
    }
    for length in [0, 1, 15, 16, 99, 100, 4096, good.len() / 2] {
        assert!(try_with(&good[..length], "cut").is_none(), "cut to {length}");
    }
}

// Keys.

#[test]
fn another_key_does_not_open_it() {
    let home = Home::furnished();
    let other = MasterKey::generate().unwrap();
    let fault = Vault::open(&home.path(), &other).unwrap_err().fault;
    assert!(matches!(fault, Fault::WrongKey));
    // A damaged key check is not taken for a wrong key.
    home.sql("UPDATE vault SET key_check = zeroblob(32)");
    assert!(matches!(home.fault(), Fault::Corrupt(Row::Vault)));
    home.sql("UPDATE vault SET vault_id = zeroblob(16)");
    assert!(matches!(home.fault(), Fault::WrongKey));
}

fn passphrase(text: &str, source: KeySource) -> Result<MasterKey, KeyError> {
    let KeySource::Passphrase(params) = source else { panic!("no passphrase vault") };
    MasterKey::from_passphrase(&secret(text), params)
}

#[test]
fn a_passphrase_alone_opens_its_vault() {
    let home = Home::without_vault();
    let params = PassphraseParams::generate().unwrap();
    let master = MasterKey::from_passphrase(&secret("correct horse battery"), params).unwrap();
    let mut vault = Vault::create(&home.path(), &master).unwrap();
    vault.add_credential(&credential("a"), &secret("value-of-a")).unwrap();
    drop((vault, master));

    assert!(matches!(home.fault(), Fault::OtherKeySource));
    let source = Vault::key_source(&home.path()).unwrap();
    let wrong = passphrase("correct horse batterx", source.clone()).unwrap();
    assert!(matches!(Vault::open(&home.path(), &wrong).unwrap_err().fault, Fault::WrongKey));
    let right = passphrase("correct horse battery", source).unwrap();
    assert!(Vault::open(&home.path(), &right).is_ok());

    home.sql("UPDATE vault SET kdf_memory_kib = 8, kdf_passes = 1");
    let source = Vault::key_source(&home.path()).unwrap();
    let weakened = passphrase("correct horse battery", source);
    assert!(matches!(weakened, Err(KeyError::Parameters { memory_kib: 8, .. })));
}

#[test]
fn a_new_master_key_takes_over_and_the_old_one_is_out() {
    let mut home = Home::furnished();
    let mut vault = home.open();
    let token = vault.token_add(&name("agent"), None, None).unwrap().into_text();
    let audit_key = vault.audit_key().expose(<[u8]>::to_vec);
    let mut bystander = home.open();
    let new = MasterKey::generate().unwrap();
    vault.rekey(&new).unwrap();
    assert!(matches!(home.fault(), Fault::WrongKey));
    home.master = new;
    let vault = home.open();
    vault.verify().unwrap();
    assert!(authenticates(&vault, "agent", &token), "tokens outlive it");
    assert_eq!(vault.audit_key().expose(<[u8]>::to_vec), audit_key, "so does the audit log");

    // A process that was running goes on, and does not wrap anything with the old key.
    assert!(bystander.snapshot().unwrap().open(&name("a"), 2).is_ok());
    bystander.agent_add(&name("more")).unwrap();
    let fault = bystander.workspace_add(&name("other")).unwrap_err().fault;
    assert!(matches!(fault, Fault::WrongKey));
    let fault = bystander.rekey(&MasterKey::generate().unwrap()).unwrap_err().fault;
    assert!(matches!(fault, Fault::WrongKey));
    home.open().verify().unwrap();
}

// Epochs, the journal and the anchor.

#[test]
fn every_change_is_an_epoch_and_a_line_of_the_journal() {
    let home = Home::furnished();
    let vault = home.open();
    let journal = vault.journal_since(0).unwrap();
    let actions: Vec<_> = journal.iter().map(|e| (e.epoch, e.action.as_str())).collect();
    assert_eq!(
        actions,
        [
            (1, "vault-created"),
            (2, "credential-added"),
            (3, "credential-rotated"),
            (4, "credential-added"),
            (5, "set-extended"),
            (6, "agent-added"),
            (7, "item-sealed"),
        ]
    );
    assert_eq!(vault.epoch().unwrap(), 7);
    assert_eq!(vault.journal_since(5).unwrap().len(), 2);
    assert!(vault.journal_since(7).unwrap().is_empty());
    assert!(journal.iter().all(|e| e.by.starts_with("uid ")));
    let mut vault = vault.acting_as("al\nice");
    vault.agent_add(&name("new")).unwrap();
    assert_eq!(vault.journal_since(7).unwrap()[0].by, "alice");
}

#[test]
fn an_edited_journal_is_found() {
    for (edit, epoch) in [
        ("UPDATE journal SET by = 'somebody else' WHERE epoch = 3", 3),
        ("UPDATE journal SET subject = 'x' WHERE epoch = 3", 3),
        ("UPDATE journal SET at = 1 WHERE epoch = 3", 3),
        ("DELETE FROM journal WHERE epoch = 3", 3),
        ("UPDATE journal SET mac = zeroblob(32) WHERE epoch = 3", 3),
    ] {
        let home = Home::furnished();
        home.sql(edit);
        let vault = home.open();
        for result in [vault.journal_since(0).map(|_| ()), vault.verify()] {
            let fault = result.unwrap_err().fault;
            assert!(matches!(fault, Fault::Corrupt(Row::Journal(e)) if e == epoch), "{edit}");
        }
    }
}

#[test]
fn an_old_copy_put_back_is_known_by_the_anchor() {
    let home = Home::furnished();
    let mut vault = home.open();
    let copy = home.directory.path().join("copy.db");
    vault.backup_plain(&copy).unwrap();
    vault.revoke(&name("a")).unwrap();
    let anchor = vault.anchor_text().unwrap();
    vault.check_anchor(&anchor).unwrap();
    vault.agent_add(&name("later")).unwrap();
    vault.check_anchor(&anchor).unwrap();
    let anchor = vault.anchor_text().unwrap();
    assert!(!vault.was_replaced());

    fs::rename(&copy, home.path()).unwrap();
    assert!(vault.was_replaced());
    drop(vault);
    for suffix in ["-wal", "-shm"] {
        let _ = fs::remove_file(schema::beside(&home.path(), suffix));
    }
    let mut vault = home.open();
    assert!(vault.snapshot().unwrap().open(&name("a"), 2).is_ok(), "the copy is sound in itself");
    let fault = vault.check_anchor(&anchor).unwrap_err().fault;
    assert!(matches!(fault, Fault::RolledBack { vault: 7, anchor: 9 }), "{fault:?}");

    // Changes made on the old copy do not hide it.
    for new in ["x", "y", "z"] {
        vault.agent_add(&name(new)).unwrap();
    }
    let fault = vault.check_anchor(&anchor).unwrap_err().fault;
    assert!(matches!(fault, Fault::Forked { anchor: 9 }), "{fault:?}");
}

#[test]
fn an_anchor_cannot_be_made_up() {
    let home = Home::furnished();
    let vault = home.open();
    let anchor = vault.anchor_text().unwrap();
    let other = Home::furnished().open().anchor_text().unwrap();
    for bad in [
        String::new(),
        "{}".to_owned(),
        other,
        anchor.replace("\"epoch\":7", "\"epoch\":1"),
        anchor.replace("\"epoch\":7", "\"epoch\":99999999999999999999"),
        anchor.replace("\"head\":\"", "\"head\":\"00"),
    ] {
        let fault = vault.check_anchor(&bad).unwrap_err().fault;
        assert!(matches!(fault, Fault::BadAnchor), "{bad}");
    }
    assert!(anchor.ends_with("}\n") && anchor.contains(&vault.id()));
}

#[test]
fn the_audit_anchor_is_sealed_and_no_change_of_the_vault() {
    let home = Home::furnished();
    let mut vault = home.open();
    assert_eq!(vault.audit_anchor().unwrap(), None);
    let epoch = vault.epoch().unwrap();
    vault.set_audit_anchor(41, &[4; 32]).unwrap();
    vault.set_audit_anchor(42, &[5; 32]).unwrap();
    let anchor = AuditAnchor { sequence: 42, mac: [5; 32] };
    assert_eq!(vault.audit_anchor().unwrap(), Some(anchor));
    assert_eq!(vault.epoch().unwrap(), epoch);
    let synchronous: i64 =
        vault.db.pragma_query_value(None, "synchronous", |row| row.get(0)).unwrap();
    assert_eq!(synchronous, 2, "changes are written through again");
    drop(vault);
    for edit in [
        "UPDATE audit_anchor SET sequence = 41",
        "UPDATE audit_anchor SET mac = zeroblob(32)",
        "UPDATE audit_anchor SET seal = zeroblob(32)",
        "UPDATE audit_anchor SET sequence = 0, mac = zeroblob(32)",
        "DELETE FROM audit_anchor",
    ] {
        let home = Home::furnished();
        home.open().set_audit_anchor(42, &[5; 32]).unwrap();
        home.sql(edit);
        let fault = home.open().audit_anchor().unwrap_err().fault;
        assert!(matches!(fault, Fault::Corrupt(Row::AuditAnchor)), "{edit}");
    }
}

// Several at once.

#[test]
fn writers_take_turns_and_nothing_is_lost() {
    let home = Home::new();
    std::thread::scope(|scope| {
        for writer in 0..4 {
            let home = &home;
            scope.spawn(move || {
                let mut vault = home.open();
                for n in 0..10 {
                    let named = format!("w{writer}-{n}");
                    let value = format!("value-of-{named}");
                    vault.add_credential(&credential(&named), &secret(&value)).unwrap();
                    let snapshot = vault.snapshot().unwrap();
                    assert_eq!(text_of(&snapshot.open(&name(&named), 1).unwrap()), value);
                }
            });
        }
    });
    let vault = home.open();
    vault.verify().unwrap();
    assert_eq!(vault.epoch().unwrap(), 41);
    assert_eq!(vault.journal_since(0).unwrap().len(), 41);
    assert_eq!(vault.credentials().unwrap().len(), 40);
}

#[test]
fn a_lock_that_is_held_too_long_is_said_to_be_that() {
    let home = Home::furnished();
    let mut vault = home.open();
    vault.db.busy_timeout(std::time::Duration::from_millis(10)).unwrap();
    let other = home.intruder();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    assert!(matches!(vault.agent_add(&name("new")).unwrap_err().fault, Fault::Busy));
    assert!(vault.snapshot().is_ok(), "readers do not wait for writers");
    other.execute_batch("ROLLBACK").unwrap();
    vault.agent_add(&name("new")).unwrap();
}

#[test]
fn changes_of_other_processes_are_seen() {
    let home = Home::furnished();
    let (mut serving, mut command) = (home.open(), home.open());
    let before = serving.change_mark().unwrap();
    assert_eq!(serving.change_mark().unwrap(), before);
    serving.set_audit_anchor(1, &[0; 32]).unwrap();
    assert_eq!(serving.change_mark().unwrap(), before, "its own anchors are none");
    command.revoke(&name("a")).unwrap();
    assert_ne!(serving.change_mark().unwrap(), before);
    assert_eq!(serving.snapshot().unwrap().credentials.get("a").unwrap().version, None);
}

// Files.

#[test]
fn nothing_in_the_files_shows_a_secret() {
    let home = Home::new();
    let value = "canary-d41d8cd98f00b204e980";
    let mut vault = home.open();
    let encoders: [fn(&[u8]) -> String; 4] = [
        |bytes| data_encoding::BASE64.encode(bytes),
        |bytes| data_encoding::BASE64.encode(&bytes[1..]),
        |bytes| data_encoding::HEXLOWER.encode(bytes),
        |bytes| data_encoding::HEXUPPER.encode(bytes),
    ];
    let look = |when: &str| {
        let bytes = home.bytes();
        assert!(contains(&bytes, b"api.example.com"), "looking at the wrong files");
        assert!(!contains(&bytes, &value.as_bytes()[..12]), "{when}: plain");
        for encode in encoders {
            let encoded = encode(value.as_bytes());
            assert!(!contains(&bytes, &encoded.as_bytes()[..16]), "{when}: {encoded}");
        }
    };
    vault.add_credential(&credential("a"), &secret(value)).unwrap();
    vault.seal_item("item", &secret(value)).unwrap();
    look("added");
    vault.rotate(&name("a"), &secret(&value.replace("d41", "d42"))).unwrap();
    look("rotated");
    vault.add_credential(&credential("b"), &secret("b-value-b-value")).unwrap();
    vault.remove(&name("a")).unwrap();
    look("removed");
}

#[test]
fn the_files_are_private_from_the_start() {
    let home = Home::furnished();
    let _vault = home.open();
    let mut seen = 0;
    for file in fs::read_dir(home.directory.path()).unwrap() {
        let file = file.unwrap();
        let mode = file.metadata().unwrap().permissions().mode() & 0o7777;
        assert_eq!(mode, 0o600, "{:?}", file.path());
        seen += 1;
    }
    assert!(seen >= 2, "the log is one of them");
}

#[test]
fn loose_modes_and_links_are_refused_by_path() {
    let home = Home::furnished();
    let _holds_the_log_open = home.open();
    let set_mode = |path: &Path, mode| {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    };
    for suffix in ["", "-wal", "-shm"] {
        let path = schema::beside(&home.path(), suffix);
        set_mode(&path, 0o644);
        let error = home.try_open().unwrap_err();
        assert!(matches!(&error.fault, Fault::File(FileError::Loose(p, 0o644)) if *p == path));
        assert!(error.to_string().contains("chmod 600"), "{error}");
        set_mode(&path, 0o600);
    }
    set_mode(home.directory.path(), 0o777);
    assert!(matches!(home.fault(), Fault::File(FileError::LooseDirectory(..))));
    set_mode(home.directory.path(), 0o700);

    let moved = home.directory.path().join("elsewhere.db");
    fs::rename(home.path(), &moved).unwrap();
    symlink(&moved, home.path()).unwrap();
    assert!(matches!(home.fault(), Fault::File(FileError::NotPlain(_))));
    let create = Vault::create(&home.path(), &home.master).unwrap_err().fault;
    assert!(matches!(create, Fault::File(FileError::Exists(_))));
}

#[test]
fn a_home_behind_a_link_above_it_is_fine() {
    let home = Home::furnished();
    let outside = tempfile::tempdir().unwrap();
    let link = outside.path().join("link");
    symlink(home.directory.path().parent().unwrap(), &link).unwrap();
    let through = link.join(home.directory.path().file_name().unwrap()).join("vault.db");
    Vault::open(&through, &home.master).unwrap();
}

#[test]
fn what_is_no_vault_is_left_alone() {
    let home = Home::without_vault();
    assert!(matches!(home.fault(), Fault::File(FileError::Missing(_))));
    let put = |bytes: &[u8]| {
        let _ = fs::remove_file(home.path());
        files::create_private(&home.path(), bytes).unwrap();
    };
    for bytes in [&b""[..], b"hello", &[0; 4096], &[b'x'; 8192]] {
        put(bytes);
        assert!(matches!(home.fault(), Fault::NotAVault), "{} bytes", bytes.len());
        assert_eq!(fs::read(home.path()).unwrap(), bytes);
    }
    put(b"");
    home.intruder().execute_batch("CREATE TABLE other (x)").unwrap();
    assert!(matches!(home.fault(), Fault::NotAVault));

    let home = Home::new();
    home.intruder().pragma_update(None, "user_version", 99).unwrap();
    assert!(matches!(home.fault(), Fault::NewerFormat(99)));
    assert!(home.try_open().unwrap_err().to_string().contains("format 99"));
}

#[test]
fn creating_is_all_or_nothing() {
    let home = Home::new();
    let before = fs::read(home.path()).unwrap();
    let again = Vault::create(&home.path(), &home.master).unwrap_err().fault;
    assert!(matches!(again, Fault::File(FileError::Exists(_))));
    assert_eq!(fs::read(home.path()).unwrap(), before);
    let names: Vec<_> = fs::read_dir(home.directory.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(names, ["vault.db"], "nothing is left behind");
}

#[test]
fn a_backup_is_a_vault() {
    let home = Home::furnished();
    let copy = home.directory.path().join("copy.db");
    home.open().backup_plain(&copy).unwrap();
    files::check_private(&copy).unwrap();
    let vault = Vault::open(&copy, &home.master).unwrap();
    vault.verify().unwrap();
    assert_eq!(
        text_of(&vault.snapshot().unwrap().open(&name("a"), 2).unwrap()),
        "second-value-of-a"
    );
    let again = home.open().backup_plain(&copy).unwrap_err().fault;
    assert!(matches!(again, Fault::File(FileError::Exists(_))));
}

#[test]
fn every_fault_says_what_to_do_and_shows_no_value() {
    let home = Home::furnished();
    home.sql("UPDATE versions SET sealed = zeroblob(40) WHERE version = 2");
    let error = home.try_open().unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "{}: the credential 'a', version 2 is not what was sealed: it was damaged, edited or \
             moved here; put back a backup with `locum vault restore`",
            home.path().display()
        )
    );
}

#[test]
fn many_at_once_are_what_they_are_alone_or_nothing() {
    let home = Home::new();
    let mut vault = home.open();
    let epoch = vault.epoch().unwrap();
    let agents = [name("one"), name("two")];
    let both = [(credential("a"), secret("value-of-a")), (credential("b"), secret("value-of-b"))];
    let tokens = vault.add_all(&agents, &both).unwrap();
    vault.verify().unwrap();
    let done: Vec<_> =
        vault.journal_since(epoch).unwrap().into_iter().map(|e| (e.action, e.subject)).collect();
    let token = |at: usize| format!("{} token {}", agents[at], tokens[at].id());
    assert_eq!(
        done,
        [
            (Action::AgentAdded, "one".to_owned()),
            (Action::TokenAdded, token(0)),
            (Action::AgentAdded, "two".to_owned()),
            (Action::TokenAdded, token(1)),
            (Action::CredentialAdded, "a".to_owned()),
            (Action::CredentialAdded, "b".to_owned()),
        ]
    );
    let snapshot = vault.snapshot().unwrap();
    snapshot.open(&name("b"), 1).unwrap().expose(|bytes| assert_eq!(bytes, b"value-of-b"));

    // One that is there already takes the others with it.
    let epoch = vault.epoch().unwrap();
    let again = [(credential("c"), secret("value-of-c")), (credential("a"), secret("other-of-a"))];
    vault.add_all(&[name("three")], &again).unwrap_err();
    assert_eq!(vault.epoch().unwrap(), epoch);
    assert_eq!(vault.agents().unwrap().len(), 2);
    vault.verify().unwrap();
}

#[test]
fn a_version_whose_secret_was_exchanged_keeps_its_number() {
    let home = Home::furnished();
    let mut vault = home.open();
    vault.renew(&name("a"), 2, &secret("what-came-in-exchange")).unwrap();
    let snapshot = vault.snapshot().unwrap();
    assert_eq!(snapshot.credentials.get("a").unwrap().version, Some(2));
    assert_eq!(text_of(&snapshot.open(&name("a"), 2).unwrap()), "what-came-in-exchange");
    let own = vault.fingerprint(&secret("what-came-in-exchange"));
    assert_eq!(vault.credential(&name("a")).unwrap().versions[1].fingerprint, own);
    vault.verify().unwrap();
    // Also when another took its place meanwhile; and never when it was revoked.
    vault.rotate(&name("a"), &secret("the-third-value")).unwrap();
    vault.renew(&name("a"), 2, &secret("exchanged-once-more")).unwrap();
    assert_eq!(vault.credential(&name("a")).unwrap().current().unwrap().version, 3);
    vault.revoke(&name("a")).unwrap();
    let fault = vault.renew(&name("a"), 2, &secret("exchanged-too-late")).unwrap_err().fault;
    assert!(matches!(fault, Fault::NoSuchVersion(of, 2) if of == name("a")));
    vault.verify().unwrap();
}

#[test]
fn what_was_exchanged_for_a_revoked_version_is_not_kept() {
    let home = Home::furnished();
    let mut vault = home.open();
    let (lent, given) = (secret("what-lies-elsewhere"), secret("what-came-in-exchange"));
    vault.keep_exchanged((&name("a"), 2), &lent, &given).unwrap();
    assert_eq!(text_of(&vault.exchanged(&name("a"), &lent).unwrap().unwrap()), text_of(&given));
    // As long as a version stands, what is kept is still needed; what comes for the other is late.
    vault.revoke_version(&name("a"), 1).unwrap();
    let late = |vault: &mut Vault, version| {
        let before = vault.epoch().unwrap();
        let fault = vault.keep_exchanged((&name("a"), version), &lent, &secret("too-late"));
        let fault = fault.unwrap_err().fault;
        assert!(matches!(fault, Fault::NoSuchVersion(of, n) if of == name("a") && n == version));
        assert_eq!(vault.epoch().unwrap(), before);
    };
    late(&mut vault, 1);
    assert_eq!(text_of(&vault.exchanged(&name("a"), &lent).unwrap().unwrap()), text_of(&given));
    // With the last one it goes, however that was revoked, and nothing brings it back.
    vault.revoke_version(&name("a"), 2).unwrap();
    assert!(vault.exchanged(&name("a"), &lent).unwrap().is_none());
    late(&mut vault, 2);
    assert!(vault.exchanged(&name("a"), &lent).unwrap().is_none());
    vault.verify().unwrap();
}

// Properties, and the format that had none.

#[test]
fn other_properties_leave_the_secrets_and_hold_them() {
    let home = Home::furnished();
    let before = [home.sealed("a", 1), home.sealed("a", 2)];
    home.open().set_properties(&name("a"), |p| p.honeytoken = true).unwrap();
    let vault = home.open();
    vault.verify().unwrap();
    assert!(vault.credential(&name("a")).unwrap().properties.honeytoken);
    let snapshot = vault.snapshot().unwrap();
    assert!(snapshot.credentials.get("a").unwrap().properties.honeytoken);
    assert_eq!(text_of(&snapshot.open(&name("a"), 2).unwrap()), "second-value-of-a");
    assert_ne!([home.sealed("a", 1), home.sealed("a", 2)], before);
    drop(vault);

    // Somebody who has the file takes the mark off, and gets it accepted: no secret opens.
    home.sql("UPDATE credentials SET properties = NULL WHERE name = 'a'");
    assert!(matches!(home.fault(), Fault::Corrupt(row) if row == version_of("a", 1)));
    let accepted = home.accept();
    let snapshot = accepted.snapshot().unwrap();
    assert!(snapshot.open(&name("a"), 2).is_err());
    assert!(snapshot.open(&name("b"), 1).is_ok());
}

#[test]
fn properties_of_a_later_version_are_not_guessed_at() {
    let home = Home::furnished();
    home.sql("UPDATE credentials SET properties = '{\"later\":1}' WHERE name = 'a'");
    let vault = home.accept();
    let fault = vault.credentials().unwrap_err().fault;
    assert!(matches!(fault, Fault::Corrupt(Row::Credential(of)) if of == "a"));
}

/// The vector of format 1, in a home of its own.
fn of_format_1() -> Home {
    let vector = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/vault-1");
    let mut home = Home::without_vault();
    home.master = {
        let file = home.directory.path().join("master.key");
        files::create_private(&file, &fs::read(vector.join("master.key")).unwrap()).unwrap();
        MasterKey::load(&file).unwrap()
    };
    files::create_private(&home.path(), &fs::read(vector.join("vault.db")).unwrap()).unwrap();
    home
}

#[test]
fn a_vault_of_format_1_is_brought_to_this_one() {
    let home = of_format_1();
    let version = |home: &Home| -> i64 {
        home.intruder().pragma_query_value(None, "user_version", |row| row.get(0)).unwrap()
    };
    assert_eq!(version(&home), 1);
    let sealed = home.sealed("openai", 2);
    let mut vault = home.open();
    assert_eq!(version(&home), FORMAT);
    vault.verify().unwrap();
    let anchor = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/vectors/vault-1/vault.head");
    vault.check_anchor(&fs::read_to_string(anchor).unwrap()).unwrap();
    assert_eq!(vault.journal_since(0).unwrap().last().unwrap().action, Action::Upgraded);
    assert_eq!(home.sealed("openai", 2), sealed, "the seals of format 1 still hold");
    let snapshot = vault.snapshot().unwrap();
    assert_eq!(text_of(&snapshot.open(&name("openai"), 2).unwrap()), "not-a-key-2-of-openai");
    assert_eq!(text_of(&vault.open_item("ca-key").unwrap()), "not a private key");

    // The number of a credential that was removed before is not given to another.
    let used = |home: &Home| -> i64 {
        let query = "SELECT max(seq) FROM sqlite_sequence WHERE name = 'credentials'";
        home.intruder().query_row(query, [], |row| row.get(0)).unwrap()
    };
    let last = used(&home);
    vault.add_credential(&credential("new"), &secret("value-of-the-new")).unwrap();
    assert_eq!(used(&home), last + 1);
    drop(vault);
    assert_eq!(home.open().journal_since(0).unwrap().len(), home.open().epoch().unwrap() as usize);
}

#[test]
fn an_upgrade_puts_no_seal_on_tampering() {
    let home = of_format_1();
    home.sql("DELETE FROM set_members");
    assert!(matches!(home.fault(), Fault::Changed));
    let version: i64 =
        home.intruder().pragma_query_value(None, "user_version", |row| row.get(0)).unwrap();
    assert_eq!(version, 1);
    home.accept().verify().unwrap();
    home.open().verify().unwrap();
}

#[test]
fn two_that_open_an_old_vault_at_once_upgrade_it_once() {
    let home = of_format_1();
    std::thread::scope(|threads| {
        for _ in 0..4 {
            threads.spawn(|| home.open().verify().unwrap());
        }
    });
    let entries = home.open().journal_since(0).unwrap();
    assert_eq!(entries.iter().filter(|e| e.action == Action::Upgraded).count(), 1);
}

// New data keys.

/// Whether a token lets an agent in, with the vault as it is now.
fn lets_in(vault: &Vault, agent: &str, token: &str, at: i64) -> bool {
    let now = vault.snapshot().unwrap();
    let agents = Agents::new(
        &now.workspace,
        now.tokens.clone(),
        now.token_key.clone(),
        now.runs.clone(),
        now.revoked_agents.clone(),
    );
    let pair = data_encoding::BASE64.encode(format!("{agent}:{token}").as_bytes());
    let credentials = crate::authn::parse_proxy_authorization(format!("Basic {pair}").as_bytes());
    let (credentials, peer) = (credentials.as_ref(), Peer::Unix(None));
    let shown = Shown { credentials, peer, certificate: None };
    Authenticators::of_tokens(&Arc::new(agents).into()).authenticate(&shown, at).is_ok()
}

/// Every row as it stands in the file.
fn rows(home: &Home, query: &str) -> Vec<Vec<u8>> {
    let db = home.intruder();
    let mut statement = db.prepare(query).unwrap();
    statement.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
}

#[test]
fn new_data_keys_seal_everything_anew_and_leave_tokens_good() {
    let home = Home::furnished();
    let mut vault = home.open();
    let token = vault.token_add(&name("agent"), None, None).unwrap().into_text();
    vault.workspace_add(&name("other")).unwrap();
    vault.use_workspace(&name("other")).unwrap();
    vault.add_credential(&credential("a"), &secret("value-of-another-a")).unwrap();
    vault.use_workspace(&name("default")).unwrap();
    vault.set_audit_anchor(7, &[1; 32]).unwrap();
    let (anchor, audit_key) = (vault.anchor_text().unwrap(), vault.audit_key());
    let queries = [
        "SELECT sealed FROM versions",
        "SELECT fingerprint FROM versions",
        "SELECT sealed FROM items WHERE name = 'ca'",
        "SELECT sealed FROM keys",
        "SELECT seal FROM audit_anchor",
    ];
    let before = queries.map(|query| rows(&home, query));
    let rotated = vault.rotate_data_keys(OldRuns::Stand).unwrap();
    assert_eq!(rotated, Rotated { generation: 2, secrets: 4, items: 1 });
    for (query, old) in queries.iter().zip(&before) {
        assert!(rows(&home, query).iter().all(|row| !old.contains(row)), "{query}");
    }
    for vault in [vault, home.open()] {
        vault.verify().unwrap();
        vault.check_anchor(&anchor).unwrap();
        vault.check_anchor(&vault.anchor_text().unwrap()).unwrap();
        assert_eq!(vault.audit_anchor().unwrap().unwrap().sequence, 7);
        assert!(vault.audit_key().expose(|new| audit_key.expose(|old| new == old)));
        let snapshot = vault.snapshot().unwrap();
        assert_eq!(text_of(&snapshot.open(&name("a"), 2).unwrap()), "second-value-of-a");
        assert!(lets_in(&vault, "agent", &token, 0));
    }
    // And once more, with tokens of three generations.
    let mut vault = home.open();
    let second = vault.token_add(&name("agent"), None, None).unwrap().into_text();
    vault.rotate_data_keys(OldRuns::Stand).unwrap();
    let third = vault.token_add(&name("agent"), None, None).unwrap().into_text();
    vault.verify().unwrap();
    vault.check_anchor(&anchor).unwrap();
    for token in [&token, &second, &third] {
        assert!(lets_in(&vault, "agent", token, 0) && !lets_in(&vault, "other", token, 0));
    }
}

#[test]
fn an_anchor_that_was_not_brought_up_is_known_for_some_generations() {
    let home = Home::furnished();
    let mut vault = home.open();
    let anchor = vault.anchor_text().unwrap();
    for _ in 0..8 {
        vault.rotate_data_keys(OldRuns::Stand).unwrap();
        vault.check_anchor(&anchor).unwrap();
    }
    vault.rotate_data_keys(OldRuns::Stand).unwrap();
    assert!(matches!(vault.check_anchor(&anchor).unwrap_err().fault, Fault::BadAnchor));
    vault.verify().unwrap();
}

#[test]
fn the_old_data_keys_open_nothing_that_is_there_after() {
    let home = Home::furnished();
    let old = home.open();
    let (own, workspace) = (old.keys.borrow().own.clone(), old.keys.borrow().workspace.clone());
    home.open().rotate_data_keys(OldRuns::Stand).unwrap();
    let db = home.intruder();
    assert!(matches!(check_state(&db, &own), Err(Fault::Changed)));
    assert!(items::open_all(&db, &own).is_err());
    assert!(credentials::open_all(&db, "default", &workspace).is_err());
}

#[test]
fn an_open_vault_follows_new_data_keys_and_nothing_is_written_with_the_old() {
    let home = Home::furnished();
    let (mut one, mut two) = (home.open(), home.open());
    let held = one.snapshot().unwrap();
    two.rotate_data_keys(OldRuns::Stand).unwrap();
    // What a request holds goes on; everything else takes the new keys.
    assert_eq!(text_of(&held.open(&name("b"), 1).unwrap()), "only-value-of-b");
    one.set_audit_anchor(3, &[2; 32]).unwrap();
    one.verify().unwrap();
    two.rotate_data_keys(OldRuns::Stand).unwrap();
    one.agent_add(&name("late")).unwrap();
    one.rotate(&name("b"), &secret("another-value-of-b")).unwrap();
    two.rotate_data_keys(OldRuns::Stand).unwrap();
    one.seal_item("ca", &secret("another private key")).unwrap();
    assert_eq!(text_of(&two.open_item("ca").unwrap()), "another private key");
    assert_eq!(one.journal_since(0).unwrap().len() as u64, two.epoch().unwrap());
    assert_eq!(one.audit_anchor().unwrap().unwrap().sequence, 3);
    home.open().verify().unwrap();
    // With another master key besides, only who has it can follow.
    two.rekey(&MasterKey::generate().unwrap()).unwrap();
    one.agent_add(&name("later")).unwrap();
    two.rotate_data_keys(OldRuns::Stand).unwrap();
    let fault = one.snapshot().unwrap_err().fault;
    assert!(matches!(fault, Fault::WrongKey), "{fault:?}");
    assert!(one.rotate_data_keys(OldRuns::Stand).is_err() && one.agent_add(&name("x")).is_err());
    two.verify().unwrap();
}

#[test]
fn run_tokens_stand_until_they_expire_or_end_at_once() {
    for (runs, good) in [(OldRuns::Stand, true), (OldRuns::End, false)] {
        let home = Home::furnished();
        let mut vault = home.open();
        let new = || NewRunToken {
            agent: name("agent"),
            context: crate::agent::Context::default(),
            uses: None,
            environment: None,
            ttl: 3600,
        };
        let (_, token) = vault.run_token(new()).unwrap();
        vault.rotate_data_keys(runs).unwrap();
        let check = |vault: &Vault, token: &str, at| lets_in(vault, "agent", token, at);
        assert_eq!(check(&vault, &token, now()), good);
        assert!(!check(&vault, &token, now() + 3700));
        let (_, token) = vault.run_token(new()).unwrap();
        assert!(check(&vault, &token, now()));
        // One that was signed with the old key, but for longer than any was.
        if good {
            let db = home.intruder();
            let kept = kept::all(
                &db,
                &vault.keys.borrow().own,
                "workspace/default",
                kept::Purpose::RunToken,
            );
            let kept = kept.unwrap().pop().unwrap();
            let mut claims = vault.run_token(new()).unwrap().0;
            claims.expires = kept.until + 1;
            let forged = crate::token::run::RunKey::new(kept.key).sign(&claims).unwrap();
            assert!(!check(&vault, &forged, now()));
        }
    }
}

#[test]
fn what_was_revoked_before_is_still_recognised_and_keys_without_use_are_forgotten() {
    let home = Home::furnished();
    let mut vault = home.open();
    let gone = secret("first-value-of-a-that-was-long");
    vault.rotate(&name("a"), &gone).unwrap();
    vault.revoke(&name("a")).unwrap();
    let token = vault.token_add(&name("agent"), None, None).unwrap();
    let kept = |vault: &Vault| {
        let db = home.intruder();
        let own = vault.keys.borrow().own.clone();
        [kept::Purpose::Token, kept::Purpose::Fingerprint, kept::Purpose::Journal].map(|purpose| {
            let scope =
                if purpose == kept::Purpose::Journal { "vault" } else { "workspace/default" };
            kept::all(&db, &own, scope, purpose).unwrap().len()
        })
    };
    vault.rotate_data_keys(OldRuns::Stand).unwrap();
    assert_eq!(kept(&vault), [1, 1, 1]);
    let request = {
        use crate::host::{Authority, Host, Origin, Scheme};
        let authority = Authority { host: Host::parse("evil.test").unwrap(), port: 443 };
        let origin = Origin { scheme: Scheme::Https, authority };
        let text = text_of(&gone);
        let (parts, ()) = http::Request::get("/")
            .header("host", "evil.test")
            .header("x-any", text)
            .body(())
            .unwrap()
            .into_parts();
        crate::request::InboundRequest::parse(parts, &origin).unwrap()
    };
    let seen = vault.snapshot().unwrap().watch.find(&request).unwrap();
    assert_eq!((seen.credential, seen.version), (name("a"), 3));
    vault.token_revoke(token.id()).unwrap();
    vault.remove(&name("a")).unwrap();
    vault.rotate_data_keys(OldRuns::Stand).unwrap();
    assert_eq!(kept(&vault), [0, 0, 2]);
}

#[test]
fn no_generation_of_another_hand_is_followed() {
    let home = Home::furnished();
    let mut vault = home.open();
    home.sql("UPDATE keys SET generation = 5");
    assert!(matches!(vault.snapshot().unwrap_err().fault, Fault::Changed));
    assert!(vault.agent_add(&name("x")).is_err());
    home.sql("UPDATE keys SET generation = 1");
    vault.agent_add(&name("x")).unwrap();
    let old = rows(&home, "SELECT sealed FROM keys WHERE scope = 'vault'").pop().unwrap();
    vault.rotate_data_keys(OldRuns::Stand).unwrap();
    let put = "UPDATE keys SET sealed = ?1, generation = 1 WHERE scope = 'vault'";
    home.intruder().execute(put, [old]).unwrap();
    assert!(home.try_open().is_err() && vault.snapshot().is_err());
}

/// With version 1 of the credential `a`.
fn with_credential(home: &Home) -> Vault {
    let mut vault = home.open();
    vault.add_credential(&credential("a"), &secret("first-value-of-a")).unwrap();
    vault
}

#[test]
fn a_rotation_leaves_a_grace_and_shortens_those_before_it() {
    let home = Home::new();
    let mut vault = with_credential(&home);
    let until = |vault: &Vault, version: usize| {
        vault.credential(&name("a")).unwrap().versions[version - 1].grace_until
    };
    let before = now();
    let first = vault.rotate_with_grace(&name("a"), &secret("second-value-of-a"), 3600).unwrap();
    assert_eq!(first, Promotion { current: 2, before: Some(1) });
    assert!(until(&vault, 1).unwrap() >= before + 3600);
    let snapshot = vault.snapshot().unwrap();
    let credential = snapshot.credentials.get("a").unwrap();
    assert_eq!(credential.older.len(), 1);
    assert!(credential.stands(1, now()) && credential.stands(2, now()));
    assert!(!credential.stands(1, now() + 7200));
    let opened = snapshot.open(&name("a"), 1).unwrap();
    assert!(opened.expose(|bytes| bytes == b"first-value-of-a"));
    assert_eq!(snapshot.grace_ends, until(&vault, 1));

    vault.rotate_with_grace(&name("a"), &secret("third-value-of-a"), 60).unwrap();
    assert!(until(&vault, 1).unwrap() <= now() + 60, "no longer than that of the newer one");
    assert!(until(&vault, 2).unwrap() <= now() + 60);
    vault.revoke_version(&name("a"), 1).unwrap();
    let snapshot = vault.snapshot().unwrap();
    let credential = snapshot.credentials.get("a").unwrap();
    assert_eq!((&*credential.revoked, credential.older.len()), (&[1][..], 1));
    assert!(matches!(snapshot.open(&name("a"), 1).unwrap_err().fault, Fault::NoSuchVersion(..)));
    vault.rotate(&name("a"), &secret("fourth-value-of-a")).unwrap();
    assert_eq!((until(&vault, 2), until(&vault, 3)), (None, None));
    let snapshot = vault.snapshot().unwrap();
    assert!(snapshot.credentials.get("a").unwrap().older.is_empty());
    assert_eq!(snapshot.grace_ends, None);
}

#[test]
fn a_staged_version_waits_for_its_promotion() {
    let home = Home::new();
    let mut vault = with_credential(&home);
    let nothing = vault.promote(&name("a"), 0).unwrap_err().fault;
    assert!(matches!(nothing, Fault::NothingStaged(_)));
    assert_eq!(vault.stage(&name("a"), &secret("second-value-of-a")).unwrap(), 2);
    assert_eq!(vault.stage(&name("a"), &secret("third-value-of-a")).unwrap(), 3);
    let states = |vault: &Vault| {
        let info = vault.credential(&name("a")).unwrap();
        info.versions.iter().map(|version| version.state).collect::<Vec<_>>()
    };
    use VersionState::{Current, Retired, Staged};
    assert_eq!(states(&vault), [Current, Retired, Staged]);
    let snapshot = vault.snapshot().unwrap();
    assert_eq!(snapshot.credentials.get("a").unwrap().version, Some(1));
    assert!(snapshot.open(&name("a"), 3).is_err(), "no request gets it");
    let opened = vault.open_version(&name("a"), 3).unwrap();
    assert!(opened.expose(|bytes| bytes == b"third-value-of-a"));
    let promotion = vault.promote(&name("a"), 60).unwrap();
    assert_eq!(promotion, Promotion { current: 3, before: Some(1) });
    assert_eq!(states(&vault), [Retired, Retired, Current]);
    assert!(vault.snapshot().unwrap().open(&name("a"), 3).is_ok());
}

#[test]
fn a_retired_version_is_gone_back_to_and_a_revoked_one_is_not() {
    use VersionState::{Current, Retired, Revoked, Staged};
    let home = Home::new();
    let mut vault = with_credential(&home);
    let info = |vault: &Vault| vault.credential(&name("a")).unwrap().versions;
    let states = |vault: &Vault| info(vault).iter().map(|v| v.state).collect::<Vec<_>>();
    vault.rotate_with_grace(&name("a"), &secret("second-value-of-a"), 60).unwrap();
    vault.stage(&name("a"), &secret("third-value-of-a")).unwrap();
    let back = vault.promote_version(&name("a"), 1, 60).unwrap();
    assert_eq!(back, Promotion { current: 1, before: Some(2) });
    assert_eq!(states(&vault), [Current, Retired, Staged]);
    assert!(info(&vault)[0].grace_until.is_none() && info(&vault)[0].ended.is_none());
    let snapshot = vault.snapshot().unwrap();
    assert_eq!(snapshot.credentials.get("a").unwrap().version, Some(1));
    for version in [1, 2] {
        assert!(snapshot.open(&name("a"), version).is_ok(), "{version} is live");
    }
    vault.verify().unwrap();
    // There is no other way to a version than from staged or retired.
    let refused = |vault: &mut Vault, version| {
        vault.promote_version(&name("a"), version, 0).unwrap_err().fault
    };
    assert!(matches!(refused(&mut vault, 1), Fault::NotPromotable(_, 1, Some(Current))));
    assert!(matches!(refused(&mut vault, 9), Fault::NotPromotable(_, 9, None)));
    vault.revoke_version(&name("a"), 2).unwrap();
    assert!(matches!(refused(&mut vault, 2), Fault::NotPromotable(_, 2, Some(Revoked))));
    assert_eq!(states(&vault), [Current, Revoked, Staged]);
    // A staged one may be named, too; and the next number is none that there was.
    assert_eq!(vault.promote_version(&name("a"), 3, 0).unwrap().before, Some(1));
    assert_eq!(vault.rotate(&name("a"), &secret("fourth-value-of-a")).unwrap(), 4);
    // A secret that was given twice, and revoked as one of them, does not come back as the other.
    let first = vault.open_version(&name("a"), 1).unwrap();
    assert_eq!(vault.rotate(&name("a"), &first).unwrap(), 5);
    vault.revoke_version(&name("a"), 5).unwrap();
    assert!(matches!(refused(&mut vault, 1), Fault::SameSecret(_, 5, Revoked)));
}

#[test]
fn what_is_cut_is_revoked_and_said_so() {
    let home = Home::new();
    let mut vault = with_credential(&home);
    vault.rotate_with_grace(&name("a"), &secret("second-value-of-a"), 60).unwrap();
    vault.cut(&name("a"), Some(1)).unwrap();
    let cut = |vault: &Vault| {
        let mut cut: Vec<u32> =
            vault.snapshot().unwrap().cut.into_iter().map(|(_, version)| version).collect();
        cut.sort_unstable();
        cut
    };
    assert_eq!(cut(&vault), [1]);
    let again = vault.cut(&name("a"), Some(1)).unwrap_err().fault;
    assert!(matches!(again, Fault::NoSuchVersion(_, 1)));
    // What was revoked without it can still be cut.
    vault.revoke(&name("a")).unwrap();
    assert_eq!(cut(&vault), [1]);
    vault.cut(&name("a"), None).unwrap();
    assert_eq!(cut(&vault), [1, 2]);
}

#[test]
fn an_administrator_whose_name_was_given_again_is_revoked_whole() {
    let home = Home::furnished();
    let mut vault = home.open();
    let who = name("alice");
    vault.administrator_add(&who, Role::Owner, Some(now() - 1)).unwrap();
    let (_, token) = vault.administrator_add(&who, Role::Owner, None).unwrap();
    assert!(vault.administrator_of(&token, now()).unwrap().is_some());
    let kept: Vec<u8> = home
        .intruder()
        .query_row("SELECT sealed FROM items WHERE name = 'administrators'", [], |row| row.get(0))
        .unwrap();
    vault.administrator_revoke(&who).unwrap();
    assert_eq!(vault.administrator_of(&token, now()).unwrap(), None);
    assert!(vault.administrator_revoke(&who).is_err());
    // The row of before opens by itself, and is not the vault's state.
    let put_back = "UPDATE items SET sealed = ?1 WHERE name = 'administrators'";
    home.intruder().execute(put_back, [kept]).unwrap();
    let fault = vault.administrator_of(&token, now()).unwrap_err().fault;
    assert!(matches!(fault, Fault::Changed), "{fault:?}");
}

#[test]
fn certificates_end_with_their_agent_and_their_workspace() {
    let home = Home::furnished();
    let mut vault = home.open();
    let ended = |vault: &Vault, who: &str, serial: &str| {
        vault.snapshot().unwrap().runs.has_ended(&name(who), &format!("serial:{serial}"))
    };
    vault.note_certificate(&name("agent"), "00aa").unwrap();
    vault.agent_add(&name("more")).unwrap();
    vault.note_certificate(&name("more"), "00bb").unwrap();
    vault.agent_revoke(&name("agent")).unwrap();
    vault.agent_add(&name("agent")).unwrap();
    assert!(ended(&vault, "agent", "00aa") && !ended(&vault, "more", "00bb"));
    let listed = |vault: &Vault, who: &str| -> Vec<(String, bool)> {
        let all = vault.certificates(&name(who)).unwrap().into_iter();
        all.map(|one| (one.serial, one.revoked.is_some())).collect()
    };
    assert_eq!(listed(&vault, "agent"), [("00aa".to_owned(), true)]);
    assert_eq!(listed(&vault, "more"), [("00bb".to_owned(), false)]);
    assert!(vault.certificates(&name("nobody")).is_err());
    let other = name("other");
    for _ in 0..2 {
        vault.workspace_add(&other).unwrap();
        vault.use_workspace(&other).unwrap();
        vault.agent_add(&name("agent")).unwrap();
        assert!(!ended(&vault, "agent", "00ee"));
        vault.note_certificate(&name("agent"), "00cc").unwrap();
        assert_eq!(listed(&vault, "agent").last().unwrap().0, "00cc");
        vault.workspace_remove(&other, true).unwrap();
    }
    vault.workspace_add(&other).unwrap();
    vault.use_workspace(&other).unwrap();
    vault.agent_add(&name("agent")).unwrap();
    assert!(ended(&vault, "agent", "00cc") && !ended(&vault, "agent", "00aa"));
}

#[test]
fn a_secret_takes_the_place_of_another_and_not_of_itself() {
    let home = Home::new();
    let mut vault = home.open();
    vault.add_credential(&credential("a"), &secret("the-first-secret")).unwrap();
    let same = |vault: &mut Vault, text: &str| {
        let (rotated, staged) =
            (vault.rotate(&name("a"), &secret(text)), vault.stage(&name("a"), &secret(text)));
        let fault = rotated.unwrap_err().fault;
        assert_eq!(fault.to_string(), staged.unwrap_err().fault.to_string());
        match fault {
            Fault::SameSecret(_, version, state) => (version, state),
            other => panic!("{other}"),
        }
    };
    assert_eq!(same(&mut vault, "the-first-secret"), (1, VersionState::Current));
    vault.rotate(&name("a"), &secret("the-second-secret")).unwrap();
    vault.revoke_version(&name("a"), 2).unwrap();
    assert_eq!(same(&mut vault, "the-second-secret"), (2, VersionState::Revoked));
    // What was retired comes back where the new one did not work.
    vault.rotate(&name("a"), &secret("the-first-secret")).unwrap();
    let versions = vault.credential(&name("a")).unwrap().versions;
    assert_eq!(versions.iter().map(|version| version.version).collect::<Vec<_>>(), [1, 2, 3]);
}
