//! Credentials whose values are tokens that origins mint for agents.

use super::check;
use super::credentials::{
    CredentialRow, NewCredential, VersionState, check_new, insert_credential,
};
use super::error::{Fault, VaultError};
use super::{Action, Vault};
use crate::reference::Name;
use crate::secret::Secret;

/// What lies in place of the first value. It is nobody's.
pub(super) const NOTHING: &[u8] = &[b'-'; check::MIN_SECRET];

impl Vault {
    /// Adds a credential whose first value is still to come.
    ///
    /// # Errors
    /// As [`Vault::add_credential`].
    pub fn add_captured(&mut self, new: &NewCredential) -> Result<(), VaultError> {
        // A version has a value: this one is erased at once.
        let nothing = Secret::new(NOTHING.to_vec());
        check_new(new, &nothing).map_err(|fault| self.fault(fault))?;
        self.change(Action::CredentialAdded, new.name.as_str(), |tx, change| {
            insert_credential(tx, change, new, &nothing)?;
            CredentialRow::find(tx, change.workspace, &new.name)?.revoke(tx, change, None)?;
            Ok(())
        })
    }

    /// Gives such a credential its next value. The one before is erased: whoever logs in anew has no
    /// use for it, and a year of logins would be thousands. Its number and fingerprint stay until the
    /// next but one, so that it is known where an agent sends it itself.
    ///
    /// # Errors
    /// [`Fault::Unknown`], [`Fault::NotForCapture`] or [`Fault::Secret`].
    pub fn capture(&mut self, name: &Name, token: &Secret) -> Result<u32, VaultError> {
        let fit = token.expose(|bytes| check::validate_secret(bytes, false));
        fit.map_err(|problem| self.fault(problem.into()))?;
        let version = self.change(Action::CredentialCaptured, name.as_str(), |tx, change| {
            let row = CredentialRow::find(tx, change.workspace, name)?;
            if !row.properties()?.captured {
                return Err(Fault::NotForCapture(name.clone()));
            }
            let version = row.next_version(tx)?;
            row.forget_before(tx, version.saturating_sub(1))?;
            row.revoke(tx, change, None)?;
            row.insert_version(tx, change, (version, VersionState::Current), token)?;
            Ok(version)
        })?;
        self.wipe_log();
        Ok(version)
    }
}
