//! What an authorization server has given in exchange for a refresh token that lies elsewhere: the
//! one there is worth nothing any more, so that this is kept until another is put there.

use rusqlite::{OptionalExtension as _, Transaction};
use sha2::{Digest as _, Sha256};

use super::credentials::CredentialRow;
use super::error::{Fault, VaultError};
use super::{Action, Vault, items};
use crate::reference::Name;
use crate::secret::Secret;

/// The bytes of the digest that tells of what it was given in exchange.
const DIGEST: usize = 32;

impl Vault {
    /// Keeps what was given in exchange for `lent`, which lies elsewhere, or for what was kept so
    /// before. `version` is the one that it was exchanged for: what belongs to a revoked one is not kept.
    ///
    /// # Errors
    /// [`Fault::Unknown`], or [`Fault::NoSuchVersion`] when that version is not there or revoked.
    pub fn keep_exchanged(
        &mut self,
        (name, version): (&Name, u32),
        lent: &Secret,
        given: &Secret,
    ) -> Result<(), VaultError> {
        let kept = given.expose(|given| Secret::new([&digest(lent)[..], given].concat()));
        self.change(Action::CredentialRenewed, name.as_str(), |tx, change| {
            let row = CredentialRow::find(tx, change.workspace, name)?;
            if !stands(tx, row.id, Some(version))? {
                return Err(Fault::NoSuchVersion(name.clone(), version));
            }
            items::put(tx, change.own, &item(change.workspace, row.id), &kept, change.now)
        })?;
        self.wipe_log();
        Ok(())
    }

    /// What was given in exchange for `lent`, if anything was.
    ///
    /// # Errors
    /// [`Fault::Unknown`], [`Fault::Corrupt`].
    pub fn exchanged(&self, name: &Name, lent: &Secret) -> Result<Option<Secret>, VaultError> {
        let open = || {
            let tx = self.db.unchecked_transaction()?;
            let row = CredentialRow::find(&tx, &self.workspace, name)?;
            let kept = items::get(&tx, &self.keys(&tx)?.own, &item(&self.workspace, row.id))?;
            Ok::<_, Fault>(kept.and_then(|kept| {
                kept.expose(|kept| {
                    let (of, given) = kept.split_at_checked(DIGEST)?;
                    // What lies there now is another: it is newer than what was exchanged.
                    (of == digest(lent)).then(|| Secret::new(given.to_vec()))
                })
            }))
        };
        open().map_err(|fault| self.fault(fault))
    }
}

/// Whether one version of a credential, or any, is not revoked.
fn stands(tx: &Transaction<'_>, credential: i64, version: Option<u32>) -> Result<bool, Fault> {
    let query = "SELECT 1 FROM versions WHERE credential = ?1 AND state <> 'revoked' \
                 AND version = coalesce(?2, version)";
    Ok(tx.prepare_cached(query)?.exists((credential, version))?)
}

/// Drops what is kept of a credential once nothing of it may be used any more.
pub(super) fn forget_if_revoked(
    tx: &Transaction<'_>,
    workspace: &Name,
    credential: i64,
) -> Result<(), Fault> {
    if stands(tx, credential, None)? {
        return Ok(());
    }
    tx.execute("DELETE FROM items WHERE name = ?1", [item(workspace, credential)])?;
    Ok(())
}

/// Drops what is kept of a credential, which is about to go.
pub(super) fn forget(tx: &Transaction<'_>, workspace: &Name, name: &Name) -> Result<(), Fault> {
    let id: Option<i64> = tx
        .prepare_cached("SELECT id FROM credentials WHERE workspace = ?1 AND name = ?2")?
        .query_row((workspace.as_str(), name.as_str()), |row| row.get(0))
        .optional()?;
    if let Some(id) = id {
        tx.execute("DELETE FROM items WHERE name = ?1", [item(workspace, id)])?;
    }
    Ok(())
}

fn item(workspace: &Name, credential: i64) -> String {
    format!("exchanged/{workspace}/{credential}")
}

fn digest(secret: &Secret) -> [u8; DIGEST] {
    secret.expose(|bytes| Sha256::digest(bytes).into())
}
