use std::path::Path;

use super::*;
use crate::app::{KeyChoice, init};
use crate::vault::{Administrator, Fault, MasterKey, OldRuns, Role, Vault};

fn keeper(directory: &Path) -> Keeper {
    let home = Home::locate(Some(&directory.join("home"))).unwrap();
    init(&home, false, &KeyChoice::Config).unwrap();
    let opened = Opened::open(&home).unwrap();
    let audit = Arc::new(opened.audit().unwrap());
    Keeper::new(opened, audit, Arc::new(Metrics::new().unwrap()), Vec::new()).unwrap()
}

#[test]
fn an_older_vault_is_refused_at_every_look() {
    let directory = tempfile::tempdir().unwrap();
    let keeper = keeper(directory.path());
    {
        let mut seen = keeper.seen.lock();
        seen.newest += 1; // As if a later change had been seen, and taken back in the file.
        seen.mark = None;
    }
    for _ in 0..3 {
        keeper.look(false);
        let seen = keeper.seen.lock();
        assert!(seen.snapshot().is_none() && seen.vault_problem.is_some());
    }
    keeper.seen.lock().newest -= 1;
    keeper.look(false);
    assert!(keeper.seen.lock().snapshot().is_some());
}

#[test]
fn a_change_is_on_record_only_when_it_is_in_force() {
    let directory = tempfile::tempdir().unwrap();
    let keeper = keeper(directory.path());
    let config = keeper.seen.lock().config.clone();
    let master = MasterKey::load(&directory.path().join("home/master.key")).unwrap();
    let mut vault = Vault::open(&config.vault.store, &master).unwrap();
    // Between the look at the vault and the record of what it has seen.
    vault.agent_add(&"late".parse().unwrap()).unwrap();
    let in_force = keeper.seen.lock().snapshot().unwrap().epoch;
    assert!(in_force < vault.epoch().unwrap());
    keeper.record_changes(&mut keeper.seen.lock());
    assert!(super::super::open::drained(&config) <= in_force);
    assert!(keeper.look(false));
    assert_eq!(super::super::open::drained(&config), vault.epoch().unwrap());
}

#[test]
fn a_change_that_could_not_be_recorded_is_recorded_later() {
    let directory = tempfile::tempdir().unwrap();
    let keeper = keeper(directory.path());
    let anchor = directory.path().join("home/audit/vault.head");
    std::fs::remove_file(&anchor).unwrap();
    std::fs::create_dir(&anchor).unwrap(); // Nothing can be written there.
    let home = Home::locate(Some(&directory.path().join("home"))).unwrap();
    let config = Config::load(&home.config(), home.path()).unwrap();
    let master = MasterKey::load(&home.master_key()).unwrap();
    let mut vault = Vault::open(&config.vault.store, &master).unwrap();
    vault.agent_add(&"late".parse().unwrap()).unwrap();
    assert!(keeper.look(false));
    assert!(keeper.seen.lock().unrecorded);
    std::fs::remove_dir(&anchor).unwrap();
    keeper.look(false);
    assert!(!keeper.seen.lock().unrecorded && anchor.is_file());
}

/// Another process gives the vault a new master key, and seals all anew.
fn lock_out(keeper: &Keeper) {
    crate::app::rekey(&keeper.home, None).unwrap();
    let mut other = Opened::open(&keeper.home).unwrap();
    other.vault.rotate_data_keys(OldRuns::Stand).unwrap();
    other.changed().unwrap();
}

#[test]
fn a_new_master_key_between_two_steps_is_followed_and_loses_no_write() {
    let directory = tempfile::tempdir().unwrap();
    let keeper = keeper(directory.path());
    let home = keeper.home.clone();
    let mut seen = keeper.seen.lock();
    let default = seen.spaces[0].name().clone();
    // Before a write.
    lock_out(&keeper);
    let late: Name = "late".parse().unwrap();
    seen.write(&home, &default, |vault| vault.agent_add(&late)).unwrap();
    // Between two reads of one look.
    let mut tries = 0;
    let read = seen.with_its_key(&home, |vault| {
        tries += 1;
        let snapshots = vault.snapshots()?;
        if tries == 1 {
            lock_out(&keeper);
        }
        Ok((snapshots.len(), vault.journal_since(0)?.len()))
    });
    let (snapshots, journal) = read.unwrap();
    assert!(snapshots == 1 && journal > 4 && tries == 2, "{snapshots} {journal} {tries}");
    assert!(seen.read_vault(&home).unwrap() && seen.vault.agents().unwrap().len() == 1);
}

/// The keeper's home with a second workspace `b` in it, and an owner of that.
fn with_owner(keeper: &Keeper) -> Administrator {
    let b: Name = "b".parse().unwrap();
    let mut seen = keeper.seen.lock();
    seen.vault.workspace_add(&b).unwrap();
    let token = seen
        .vault
        .within(&b, |vault| vault.administrator_add(&"bea".parse().unwrap(), Role::Owner, None));
    let (_, token) = token.unwrap();
    let who = seen.vault.administrator_of(&token, 0).unwrap().unwrap();
    std::fs::create_dir_all(keeper.home.in_workspace(&b).policies()).unwrap();
    seen.mark = None;
    drop(seen);
    keeper.look(false);
    who
}

#[test]
fn a_request_that_waited_while_its_owner_was_revoked_does_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let keeper = keeper(directory.path());
    let who = with_owner(&keeper);
    let add = |name: &str| {
        let name: Name = name.parse().unwrap();
        keeper.administer(&who, move |vault| vault.agent_admit(&name, None, None).map(drop))
    };
    let agents = || keeper.consult_for(&who, |vault| Ok(vault.agents()?.len()));
    add("made").unwrap();
    assert_eq!(agents().unwrap(), 1);
    keeper.administer(&who, |vault| vault.administrator_revoke(&who.name)).unwrap();
    let revoked = |undone: Undone| match undone {
        Undone::Vault(error) => matches!(error.fault, Fault::Revoked(..)),
        _ => false,
    };
    assert!(add("late").is_err_and(revoked) && agents().is_err_and(revoked));
    let mut seen = keeper.seen.lock();
    assert_eq!(seen.vault.within(&who.workspace, |vault| vault.agents()).unwrap().len(), 1);
    // What the proxy itself writes is nobody's.
    seen.vault.agent_add(&"own".parse().unwrap()).unwrap();
    assert!(seen.vault.journal_since(0).unwrap().last().unwrap().by.starts_with("uid"));
}

#[test]
fn a_change_that_is_not_on_record_is_not_called_done() {
    let directory = tempfile::tempdir().unwrap();
    let keeper = keeper(directory.path());
    let who = with_owner(&keeper);
    let anchor = directory.path().join("home/audit/vault.head");
    std::fs::remove_file(&anchor).unwrap();
    std::fs::create_dir(&anchor).unwrap(); // Nothing can be written there.
    let add = |name: &str| {
        let name: Name = name.parse().unwrap();
        keeper.administer(&who, move |vault| vault.agent_admit(&name, None, None).map(drop))
    };
    assert!(matches!(add("early"), Err(Undone::Unsettled)));
    std::fs::remove_dir(&anchor).unwrap();
    add("late").unwrap();
}

#[test]
fn a_policy_that_is_put_has_no_other_workspaces_files_read() {
    let directory = tempfile::tempdir().unwrap();
    let keeper = keeper(directory.path());
    let who = with_owner(&keeper);
    let own = keeper.home.in_workspace(&who.workspace).policies();
    let (placed, beside) = (own.join("team.yaml"), own.join("more.yaml"));
    let digests = || {
        let seen = keeper.seen.lock();
        [&seen.spaces[0], &seen.spaces[1]].map(|one| one.policy.digest().to_owned())
    };
    let before = digests();
    let rule = |name: &str| {
        format!("version: 1\nrules:\n  - {{name: {name}, agents: ['*'], to: ['https://a.test']}}\n")
    };
    let half = directory.path().join("home/policies/half.yaml");
    std::fs::write(&half, rule("half")).unwrap();
    std::fs::write(&placed, rule("team")).unwrap();
    keeper.take_policy(&who.workspace, &placed).unwrap();
    let after = digests();
    assert!(after[0] == before[0] && after[1] != before[1]);
    // What is sound by itself, and not with what another has written beside it.
    std::fs::write(&beside, "version: 1\nrules: [{nmae: x}]\n").unwrap();
    std::fs::write(&placed, rule("other")).unwrap();
    let taken = keeper.take_policy(&who.workspace, &placed);
    assert!(matches!(taken, Err(Undone::Mistakes(_))) && digests()[1] == after[1]);
    std::fs::remove_file(&beside).unwrap();
    keeper.take_policy(&who.workspace, &beside).unwrap();
    assert_ne!(digests()[1], after[1]);
}

#[test]
fn policies_that_vanish_at_once_after_a_change_are_noticed() {
    let directory = tempfile::tempdir().unwrap();
    let keeper = keeper(directory.path());
    let file = directory.path().join("home/policies/first.yaml");
    std::fs::write(&file, "version: 1\nrules: []\n").unwrap();
    keeper.look(false);
    std::fs::remove_file(&file).unwrap();
    let generation = keeper.seen.lock().generation;
    assert!(keeper.look(false));
    assert_eq!(keeper.seen.lock().generation, generation + 1);
}
