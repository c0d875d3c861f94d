//! What was seen of the home at the last look, and how the vault is read anew.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::app::checkup::Health;
use crate::app::issuer_keys::AllKeys;
use crate::app::open::{open_unasked, open_vault};
use crate::app::space::{Space, ways_in};
use crate::app::stamp::FileStamp;
use crate::app::{Failure, Home};
use crate::config::Config;
use crate::proxy::{State, Workspaces};
use crate::reference::Name;
use crate::vault::{Action, ChangeMark, Fault, MasterKey, Snapshot, Vault, VaultError};

/// How soon a master key that could not be had is looked for again: it may take a program to print it.
const ASK_AGAIN: Duration = Duration::from_secs(5);

/// What was seen at the last look. Behind a lock that is held while files are read, and never on
/// the request path.
pub(super) struct Seen {
    pub(super) vault: Vault,
    pub(super) master: MasterKey,
    pub(super) config: Config,
    pub(super) keys: Arc<AllKeys>,
    pub(super) config_stamp: Vec<FileStamp>,
    pub(super) config_problem: Option<String>,
    pub(super) mark: Option<ChangeMark>,
    /// The default workspace first.
    pub(super) spaces: Vec<Space>,
    /// Workspaces that were removed, in which somebody may still be.
    pub(super) gone: Vec<Space>,
    /// The highest epoch seen. Outlives a vault that cannot be used, so that an older copy is
    /// refused at every look and not only at the first.
    pub(super) newest: u64,
    pub(super) vault_problem: Option<String>,
    /// Whether a change of the vault is not in the audit log yet.
    pub(super) unrecorded: bool,
    /// Loads of policies since the start, of all workspaces.
    pub(super) generation: u64,
    /// States that requests may still hold.
    pub(super) retired: Vec<Arc<State>>,
    pub(super) looked: Option<Instant>,
    pub(super) anchored: (Instant, u64),
    /// Since when it cannot be, as it was told last.
    pub(super) unanchored: Option<Instant>,
    /// The last verdict on each credential that was tried at its provider.
    pub(super) health: BTreeMap<String, Health>,
    /// When it was last looked for what is due; none after a change of the vault.
    pub(super) reminded: Option<Instant>,
    /// When the vault's new master key was last looked for in vain.
    pub(super) asked: Option<Instant>,
}

impl Seen {
    /// Reads the vault if it changed; true when it did.
    pub(super) fn read_vault(&mut self, home: &Home) -> Result<bool, Failure> {
        if self.follow_file(home)? {
            self.mark = None;
        }
        let mark = self.vault.change_mark()?;
        // A version whose grace is over need not be searched for in answers any more.
        let over = self.spaces.iter().any(Space::grace_is_over);
        let trusts = self.config.credentials.trust_claims;
        let trusted = self.snapshot().map(|old| old.credentials.trusts_claims());
        let as_it_was = !over && trusted.is_none_or(|trusted| trusted == trusts);
        if self.mark == Some(mark) && as_it_was {
            return Ok(false);
        }
        let newest = self.newest;
        let (mark, snapshots, since) = self.with_its_key(home, |vault| {
            // Each connection counts for itself.
            let mark = vault.change_mark()?;
            let snapshots = vault.snapshots()?;
            let is_newer = snapshots.first().is_some_and(|snapshot| snapshot.epoch > newest);
            let since = if is_newer { vault.journal_since(newest)? } else { Vec::new() };
            Ok((mark, snapshots, since))
        })?;
        // All of them are of one.
        let epoch = snapshots.first().map_or(0, |snapshot| snapshot.epoch);
        let same = self.snapshot().is_some_and(|old| old.epoch == epoch) && as_it_was;
        if epoch < self.newest {
            return Err(Failure::new("the vault was put back to an older state")
                .help("put back the newest copy of the vault"));
        }
        // One that was removed and added anew since has the name of the old one, and nothing else of it.
        let removed = since.iter().filter(|line| line.action == Action::WorkspaceRemoved);
        let removed: Vec<&str> = removed.map(|line| &*line.subject).collect();
        let gone = |space: &mut Space| removed.contains(&space.name().as_str());
        self.gone.extend(self.spaces.extract_if(.., gone));
        self.mark = Some(mark);
        for (workspace, problem) in self.take(home, snapshots) {
            tracing::error!(%workspace, error = problem, "the policy of a workspace has mistakes, and nothing is allowed in it");
        }
        Ok(!same)
    }

    /// Takes what the vault says now. Returns the workspaces that are new and whose policy has mistakes.
    pub(super) fn take(&mut self, home: &Home, snapshots: Vec<Snapshot>) -> Vec<(Name, String)> {
        let named = |space: &Space| snapshots.iter().any(|one| one.workspace == *space.name());
        self.gone.extend(self.spaces.extract_if(.., |space| !named(space)));
        let mut closed = Vec::new();
        for snapshot in snapshots {
            let snapshot = Arc::new(as_configured(snapshot, &self.config));
            self.newest = snapshot.epoch;
            let known = self.spaces.iter_mut().find(|one| *one.name() == snapshot.workspace);
            if let Some(space) = known {
                space.snapshot = Some(snapshot);
                continue;
            }
            self.generation += 1;
            let with = (&self.config, &*self.keys);
            let (space, problem) = Space::open(home, snapshot, with, self.generation);
            closed.extend(problem.map(|problem| (space.name().clone(), problem.to_string())));
            self.spaces.push(space);
        }
        closed
    }

    /// The default workspace's part of the vault; none while that cannot be used.
    pub(super) fn snapshot(&self) -> Option<Arc<Snapshot>> {
        self.spaces.first().and_then(|space| space.snapshot.clone())
    }

    pub(super) fn policies_are_sound(&self) -> bool {
        self.spaces.iter().all(Space::is_sound)
    }

    /// Has the next request in these workspaces decided on what was seen.
    pub(super) fn put_policies_in_force(&mut self, changed: &[usize]) {
        let with = (&self.config, &*self.keys);
        let spaces = changed.iter().filter_map(|index| self.spaces.get(*index));
        let old = spaces.map(|space| space.served.set_state(space.state(with)));
        self.retired.extend(old);
    }

    pub(super) fn workspaces(&self) -> Workspaces {
        let authn = ways_in(&self.spaces, (&self.config, &self.keys));
        Workspaces::new(authn, self.spaces.iter().map(|one| Arc::clone(&one.served)).collect())
    }

    /// Opens the file that has taken the vault's place, if one has.
    pub(super) fn follow_file(&mut self, home: &Home) -> Result<bool, Failure> {
        if !self.vault.was_replaced() {
            return Ok(false);
        }
        let path = self.vault.path().to_owned();
        match open_vault(&path, &self.master, &self.config)? {
            Some(vault) => self.vault = vault,
            None => self.follow_master_key(home)?,
        }
        Ok(true)
    }

    /// Opens the vault with the master key that it has now, from where the config says, unless a person
    /// would have to be asked. What needs it is rare: new data keys after a new master key.
    pub(super) fn follow_master_key(&mut self, home: &Home) -> Result<(), Failure> {
        if self.asked.is_some_and(|at| at.elapsed() < ASK_AGAIN) {
            return Err(Failure::new("the vault has another master key, which is not to be had"));
        }
        self.asked = Some(Instant::now());
        let (vault, master) = open_unasked(home, &self.config)?;
        (self.vault, self.master, self.asked) = (vault, master, None);
        Ok(())
    }

    /// Over the connection that also reads: it does not see by the mark what it has written itself, so
    /// the next look reads all.
    pub(super) fn write<T>(
        &mut self,
        home: &Home,
        workspace: &Name,
        mut write: impl FnMut(&mut Vault) -> Result<T, VaultError>,
    ) -> Result<T, Failure> {
        self.follow_file(home)?;
        let written = self.with_its_key(home, |vault| vault.within(workspace, &mut write))?;
        self.mark = None;
        Ok(written)
    }

    /// Does something with the vault; once more where that found that it has another master key by now.
    /// Between any two transactions another process may have given it one, and new data keys.
    pub(super) fn with_its_key<T>(
        &mut self,
        home: &Home,
        mut act: impl FnMut(&mut Vault) -> Result<T, VaultError>,
    ) -> Result<T, Failure> {
        match act(&mut self.vault) {
            Err(error) if matches!(error.fault, Fault::WrongKey) => {
                self.follow_master_key(home)?;
                Ok(act(&mut self.vault)?)
            }
            other => Ok(other?),
        }
    }
}

/// The vault as the config says that it is to be used.
fn as_configured(mut snapshot: Snapshot, config: &Config) -> Snapshot {
    // Nobody else has it yet.
    if let Some(index) = Arc::get_mut(&mut snapshot.credentials) {
        index.trust_claims(config.credentials.trust_claims);
    }
    snapshot
}
