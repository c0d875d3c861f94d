//! The versions of a credential: rotated, staged, promoted and revoked, each in one transaction.
//!
//! A rotation leaves the version before it a time of grace, in which what began with it may finish with
//! it. A staged version waits for its promotion. What is revoked is erased, and nobody has it any more.

use std::collections::HashMap;

use rusqlite::{Connection, OptionalExtension as _, Transaction};

use super::credentials::{CredentialRow, Sealed, VersionInfo, VersionState, check_secret};
use super::error::{Fault, Kind, VaultError};
use super::keys::DataKey;
use super::{Action, Change, Vault, exchanged, now};
use crate::credential::Older;
use crate::reference::Name;
use crate::secret::Secret;

/// A version that took another's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Promotion {
    /// The one that requests get now.
    pub current: u32,
    /// The one that they got before; none for a credential that was revoked.
    pub before: Option<u32>,
}

impl Vault {
    /// Gives a credential a new secret, and returns the version. The one before is kept sealed, as
    /// retired, and nobody uses it any more. A revoked credential is live again after this.
    ///
    /// # Errors
    /// [`Fault::Unknown`] or [`Fault::Secret`].
    pub fn rotate(&mut self, name: &Name, secret: &Secret) -> Result<u32, VaultError> {
        Ok(self.rotate_with_grace(name, secret, 0)?.current)
    }

    /// The same, with a grace of so many seconds: what began with an older version may use it for so
    /// long, and none is used longer.
    ///
    /// # Errors
    /// As [`Vault::rotate`].
    pub fn rotate_with_grace(
        &mut self,
        name: &Name,
        secret: &Secret,
        grace: i64,
    ) -> Result<Promotion, VaultError> {
        check_secret(secret).map_err(|fault| self.fault(fault))?;
        self.change(Action::CredentialRotated, name.as_str(), |tx, change| {
            let row = CredentialRow::find(tx, change.workspace, name)?;
            row.check_is_new(tx, change, secret)?;
            let before = row.retire(tx, change.now, grace)?;
            let current = row.next_version(tx)?;
            row.insert_version(tx, change, (current, VersionState::Current), secret)?;
            Ok(Promotion { current, before })
        })
    }

    /// Adds a version that no request gets before it is promoted. The one that was staged before it, if
    /// there was one, is retired.
    ///
    /// # Errors
    /// As [`Vault::rotate`].
    pub fn stage(&mut self, name: &Name, secret: &Secret) -> Result<u32, VaultError> {
        check_secret(secret).map_err(|fault| self.fault(fault))?;
        self.change(Action::VersionStaged, name.as_str(), |tx, change| {
            let row = CredentialRow::find(tx, change.workspace, name)?;
            row.check_is_new(tx, change, secret)?;
            tx.execute(
                "UPDATE versions SET state = 'retired', ended = ?2 \
                 WHERE credential = ?1 AND state = 'staged'",
                (row.id, change.now),
            )?;
            let version = row.next_version(tx)?;
            row.insert_version(tx, change, (version, VersionState::Staged), secret)?;
            Ok(version)
        })
    }

    /// Makes the staged version the current one; as [`Vault::rotate_with_grace`] from there on.
    ///
    /// # Errors
    /// [`Fault::Unknown`], or [`Fault::NothingStaged`].
    pub fn promote(&mut self, name: &Name, grace: i64) -> Result<Promotion, VaultError> {
        self.change(Action::VersionPromoted, name.as_str(), |tx, change| {
            let row = CredentialRow::find(tx, change.workspace, name)?;
            let staged = "SELECT version FROM versions WHERE credential = ?1 AND state = 'staged'";
            let staged: Option<u32> =
                tx.query_row(staged, [row.id], |row| row.get(0)).optional()?;
            let current = staged.ok_or_else(|| Fault::NothingStaged(name.clone()))?;
            let before = row.retire(tx, change.now, grace)?;
            tx.execute(
                "UPDATE versions SET state = 'current' WHERE credential = ?1 AND version = ?2",
                (row.id, current),
            )?;
            Ok(Promotion { current, before })
        })
    }

    /// Makes a version that is staged or retired the current one: the way back to a secret that is still sealed here. What
    /// was current is retired, as by [`Vault::rotate_with_grace`]; what is staged beside it stays so.
    ///
    /// # Errors
    /// [`Fault::Unknown`], [`Fault::NotPromotable`], or [`Fault::SameSecret`] when its secret was revoked as another version.
    pub fn promote_version(
        &mut self,
        name: &Name,
        version: u32,
        grace: i64,
    ) -> Result<Promotion, VaultError> {
        let subject = format!("{name} version {version}");
        self.change(Action::VersionPromoted, &subject, |tx, change| {
            let row = CredentialRow::find(tx, change.workspace, name)?;
            row.check_is_promotable(tx, name, version)?;
            let before = row.retire(tx, change.now, grace)?;
            tx.execute(
                "UPDATE versions SET state = 'current', ended = NULL, grace_until = NULL \
                 WHERE credential = ?1 AND version = ?2",
                (row.id, version),
            )?;
            Ok(Promotion { current: version, before })
        })
    }

    /// Revokes all versions of a credential. Their ciphertext is erased; the name, the numbers and
    /// the destinations stay, so that its use stays refused.
    ///
    /// # Errors
    /// [`Fault::Unknown`], or [`Fault::Revoked`] when nothing is left to revoke.
    pub fn revoke(&mut self, name: &Name) -> Result<(), VaultError> {
        self.end(name, None, false)
    }

    /// Revokes one version. When it is the current one, the credential has none until it is rotated.
    ///
    /// # Errors
    /// [`Fault::Unknown`], or [`Fault::NoSuchVersion`] when it is not there or revoked already.
    pub fn revoke_version(&mut self, name: &Name, version: u32) -> Result<(), VaultError> {
        self.end(name, Some(version), false)
    }

    /// Revokes one version, or all, and has running proxies break off what carries them. What was
    /// revoked before is broken off too.
    ///
    /// # Errors
    /// As [`Vault::revoke`] and [`Vault::revoke_version`], but for what is revoked already.
    pub fn cut(&mut self, name: &Name, version: Option<u32>) -> Result<(), VaultError> {
        self.end(name, version, true)
    }

    fn end(&mut self, name: &Name, version: Option<u32>, cut: bool) -> Result<(), VaultError> {
        let (action, subject) = match version {
            None => (Action::CredentialRevoked, name.to_string()),
            Some(version) => (Action::VersionRevoked, format!("{name} version {version}")),
        };
        self.change(action, &subject, |tx, change| {
            let row = CredentialRow::find(tx, change.workspace, name)?;
            let revoked = row.revoke(tx, change, version)?;
            exchanged::forget_if_revoked(tx, change.workspace, row.id)?;
            let marked = if cut { row.mark_to_cut(tx, version)? } else { 0 };
            match version {
                _ if revoked + marked > 0 => Ok(()),
                None => Err(Fault::Revoked(Kind::Credential, name.to_string())),
                Some(version) => Err(Fault::NoSuchVersion(name.clone(), version)),
            }
        })?;
        self.wipe_log();
        Ok(())
    }

    /// Opens one version that is not revoked: a current, a staged or a retired one.
    ///
    /// # Errors
    /// [`Fault::Unknown`], [`Fault::NoSuchVersion`] or [`Fault::Corrupt`].
    pub fn open_version(&self, name: &Name, version: u32) -> Result<Secret, VaultError> {
        let open = || {
            let tx = self.db.unchecked_transaction()?;
            let key = self.keys(&tx)?.workspace;
            let row = CredentialRow::find(&tx, &self.workspace, name)?;
            let query = "SELECT sealed FROM versions WHERE credential = ?1 AND version = ?2";
            let sealed: Option<Option<Vec<u8>>> =
                tx.query_row(query, (row.id, version), |row| row.get(0)).optional()?;
            let ciphertext = sealed.flatten();
            let ciphertext =
                ciphertext.ok_or_else(|| Fault::NoSuchVersion(name.clone(), version))?;
            let sealed = Other { version, until: 0, ciphertext }.seal(&row, &key);
            sealed.open_or_fault(name, &key)
        };
        open().map_err(|fault| self.fault(fault))
    }

    /// Notes that a version is about to be tried at its provider. The call is Locum's own and goes to
    /// nobody else; its record is there before it is made.
    ///
    /// # Errors
    /// [`VaultError`] when the database cannot be written.
    pub fn note_verification(&mut self, name: &Name, version: u32) -> Result<(), VaultError> {
        let subject = format!("{name} version {version}");
        self.change(Action::VersionTried, &subject, |_, _| Ok(()))
    }
}

impl CredentialRow {
    /// Retires the current version, if there is one, and ends the grace of all older ones when that of
    /// this one ends.
    fn retire(&self, tx: &Transaction<'_>, now: i64, grace: i64) -> Result<Option<u32>, Fault> {
        let until = (grace > 0).then(|| now.saturating_add(grace));
        let query = "SELECT version FROM versions WHERE credential = ?1 AND state = 'current'";
        let before = tx.query_row(query, [self.id], |row| row.get(0)).optional()?;
        tx.execute(
            "UPDATE versions SET grace_until = CASE WHEN ?2 IS NULL THEN NULL \
             ELSE min(grace_until, ?2) END WHERE credential = ?1 AND grace_until IS NOT NULL",
            (self.id, until),
        )?;
        tx.execute(
            "UPDATE versions SET state = 'retired', ended = ?2, grace_until = ?3 \
             WHERE credential = ?1 AND state = 'current'",
            (self.id, now, until),
        )?;
        Ok(before)
    }

    fn check_is_promotable(
        &self,
        tx: &Transaction<'_>,
        name: &Name,
        version: u32,
    ) -> Result<(), Fault> {
        let all = self.versions(tx)?;
        let of = all.iter().map(|one| &one.info);
        let wanted = of.clone().find(|info| info.version == version);
        let wanted = wanted.ok_or_else(|| Fault::NotPromotable(name.clone(), version, None))?;
        if !matches!(wanted.state, VersionState::Staged | VersionState::Retired) {
            return Err(Fault::NotPromotable(name.clone(), version, Some(wanted.state)));
        }
        // It may have been given twice, and ended as the other.
        let revoked = |info: &&VersionInfo| {
            info.state == VersionState::Revoked && info.fingerprint == wanted.fingerprint
        };
        match of.clone().find(revoked) {
            Some(info) => Err(Fault::SameSecret(name.clone(), info.version, info.state)),
            None => Ok(()),
        }
    }

    /// Deletes the rows of versions below `version`.
    pub(super) fn forget_before(&self, tx: &Transaction<'_>, version: u32) -> Result<(), Fault> {
        let query = "DELETE FROM versions WHERE credential = ?1 AND version < ?2";
        tx.execute(query, (self.id, version))?;
        Ok(())
    }

    /// Erases the ciphertext of one version, or of all, and says of how many.
    pub(super) fn revoke(
        &self,
        tx: &Transaction<'_>,
        change: &Change<'_>,
        version: Option<u32>,
    ) -> Result<usize, Fault> {
        Ok(tx.execute(
            "UPDATE versions SET state = 'revoked', ended = ?2, sealed = NULL, grace_until = NULL \
             WHERE credential = ?1 AND state <> 'revoked' AND (?3 IS NULL OR version = ?3)",
            (self.id, change.now, version),
        )?)
    }

    fn mark_to_cut(&self, tx: &Transaction<'_>, version: Option<u32>) -> Result<usize, Fault> {
        Ok(tx.execute(
            "UPDATE versions SET cut = 1 \
             WHERE credential = ?1 AND state = 'revoked' AND cut = 0 AND (?2 IS NULL OR version = ?2)",
            (self.id, version),
        )?)
    }
}

/// What a snapshot has to know of the versions of one credential beside its current one.
#[derive(Default)]
pub(super) struct Others {
    /// Those that may still be used by what began with them.
    graced: Vec<Other>,
    /// Those whose use was ended.
    pub(super) revoked: Vec<u32>,
    /// Those of which streams are to be broken off.
    pub(super) cut: Vec<u32>,
    /// The highest number of all but what is staged.
    pub(super) newest: u32,
}

struct Other {
    version: u32,
    until: i64,
    ciphertext: Vec<u8>,
}

impl Others {
    /// Of all credentials of a workspace that have any, by the row's id.
    pub(super) fn all(db: &Connection, workspace: &str) -> Result<HashMap<i64, Self>, Fault> {
        let mut statement = db.prepare_cached(
            "SELECT credential, version, grace_until, sealed, cut FROM versions \
             JOIN credentials ON id = credential \
             WHERE workspace = ?1 AND (grace_until >= ?2 OR state = 'revoked') \
             ORDER BY credential, version",
        )?;
        let mut rows = statement.query((workspace, now()))?;
        let mut all: HashMap<i64, Self> = HashMap::new();
        while let Some(row) = rows.next()? {
            let (version, sealed): (u32, Option<Vec<u8>>) = (row.get(1)?, row.get(3)?);
            let others = all.entry(row.get(0)?).or_default();
            match (row.get::<_, Option<i64>>(2)?, sealed) {
                (Some(until), Some(ciphertext)) => {
                    others.graced.push(Other { version, until, ciphertext });
                }
                _ => others.revoked.push(version),
            }
            if row.get::<_, i64>(4)? != 0 {
                others.cut.push(version);
            }
        }
        Ok(all)
    }

    pub(super) fn older(&self) -> Box<[Older]> {
        let older = |other: &Other| Older { version: other.version, until: other.until };
        self.graced.iter().map(older).collect()
    }

    /// Those that may still be used, as a snapshot holds them.
    pub(super) fn sealed(self, row: &CredentialRow, key: &DataKey) -> Vec<Sealed> {
        self.graced.into_iter().map(|other| other.seal(row, key)).collect()
    }
}

impl Other {
    fn seal(self, row: &CredentialRow, key: &DataKey) -> Sealed {
        Sealed {
            credential: row.id,
            version: self.version,
            place: row.place(key.vault_id(), self.version).into(),
            ciphertext: self.ciphertext.into(),
        }
    }
}
