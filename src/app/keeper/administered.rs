//! What administrators read and change over the socket, beside a proxy that goes on.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Keeper, LOOK_AGAIN, Seen};
use crate::app::Failure;
use crate::app::agent_ca::trust_domain;
use crate::app::space::{Looking, PolicyNews};
use crate::proxy::Workspace;
use crate::reference::Name;
use crate::vault::{Administrator, Vault, VaultError};

/// How long a policy that was put waits for files beside it that are being written.
const SETTLES: Duration = Duration::from_secs(2);

/// Why what an administrator asked for is not done, or not known to be.
#[derive(Debug)]
pub(crate) enum Undone {
    /// It failed, and changed nothing.
    Failed(Failure),
    /// The vault did not do it.
    Vault(VaultError),
    /// No record could be made of it, and so it was not begun.
    Unrecordable,
    /// It is written, and not in force or not on record yet.
    Unsettled,
    /// It is written, and the policy has mistakes together with what others wrote meanwhile.
    Mistakes(String),
}

impl From<Failure> for Undone {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

impl From<VaultError> for Undone {
    fn from(error: VaultError) -> Self {
        Self::Vault(error)
    }
}

impl Keeper {
    /// Looks something up in the vault as it is now. Blocks on files.
    pub(crate) fn consult<T>(&self, read: impl FnOnce(&mut Vault) -> T) -> Result<T, Failure> {
        let mut seen = self.seen.lock();
        seen.follow_file(&self.home)?;
        Ok(read(&mut seen.vault))
    }

    /// The same in the workspace of an administrator, who must still be one. Nobody is revoked over the
    /// socket while it lasts.
    pub(crate) fn consult_for<T>(
        &self,
        who: &Administrator,
        read: impl FnOnce(&mut Vault) -> Result<T, VaultError>,
    ) -> Result<T, Undone> {
        let read = |vault: &mut Vault| {
            vault.require_administrator(who)?;
            vault.within(&who.workspace, read)
        };
        Ok(self.consult(read)??)
    }

    /// Changes the vault in an administrator's name and workspace. In force, and on record, when it returns.
    /// Blocks on files.
    pub(crate) fn administer<T>(
        &self,
        who: &Administrator,
        change: impl FnOnce(&mut Vault) -> Result<T, VaultError>,
    ) -> Result<T, Undone> {
        let mut seen = self.seen.lock();
        if !self.audit.healthy() {
            return Err(Undone::Unrecordable);
        }
        seen.follow_file(&self.home)?;
        let done = seen.vault.on_behalf_of(who, change);
        // The connection that has written does not see by the mark that it has.
        seen.mark = None;
        self.look_holding(&mut seen, false);
        let done = done?;
        if seen.unrecorded || seen.vault_problem.is_some() {
            return Err(Undone::Unsettled);
        }
        Ok(done)
    }

    /// Takes the policy of a workspace, of which a file has just been put there whole, or taken away: in
    /// force when this returns. Other files that are being written are waited for, and no other workspace's
    /// are looked at. Blocks on files.
    pub(crate) fn take_policy(&self, workspace: &Name, placed: &Path) -> Result<(), Undone> {
        let start = Instant::now();
        loop {
            let mut seen = self.seen.lock();
            let Seen { spaces, generation, .. } = &mut *seen;
            let mut all = spaces.iter_mut().enumerate();
            let Some((index, space)) = all.find(|(_, one)| one.name() == workspace) else {
                return Err(Undone::Unsettled);
            };
            let news = self.look_at_policy_of(space, generation, Looking::Placed(placed));
            let mistakes = space.mistakes().map(str::to_owned);
            self.metrics.reload("policy", seen.policies_are_sound());
            match news {
                PolicyNews::Loaded => seen.put_policies_in_force(&[index]),
                PolicyNews::Written if start.elapsed() < SETTLES => {
                    drop(seen);
                    std::thread::sleep(LOOK_AGAIN);
                    continue;
                }
                PolicyNews::Written => return Err(Undone::Unsettled),
                PolicyNews::Same | PolicyNews::Rejected(_) => {}
            }
            return mistakes.map_or(Ok(()), |mistakes| Err(Undone::Mistakes(mistakes)));
        }
    }

    /// How long what began with the old version of a credential may use it, where nobody says otherwise.
    pub(crate) fn grace(&self) -> Duration {
        self.seen.lock().config.credentials.grace
    }

    /// The trust domain of the names in certificates that the home issues.
    pub(crate) fn trust_domain(&self) -> String {
        trust_domain(&self.seen.lock().config).to_owned()
    }

    /// A workspace as it is served.
    pub(crate) fn served(&self, workspace: &Name) -> Option<Arc<Workspace>> {
        self.gateway()?.workspace(workspace)
    }
}
