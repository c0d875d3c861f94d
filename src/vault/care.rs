//! When credentials are to be rotated.

use super::Vault;
use super::error::{Fault, Row, VaultError};
use crate::credential::{Properties, Schedule};
use crate::reference::Name;

/// A live credential that is to be rotated on a schedule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scheduled {
    /// Its name.
    pub name: Name,
    /// When it got its current secret, in seconds since the Unix epoch.
    pub rotated: i64,
    /// How often it is to get another.
    pub schedule: Schedule,
}

impl Vault {
    /// The live credentials of the workspace that have a schedule. Reads no others.
    ///
    /// # Errors
    /// [`VaultError`] when they cannot be read.
    pub fn scheduled(&self) -> Result<Vec<Scheduled>, VaultError> {
        self.read_scheduled().map_err(|fault| self.fault(fault))
    }

    fn read_scheduled(&self) -> Result<Vec<Scheduled>, Fault> {
        let mut statement = self.db.prepare_cached(
            "SELECT name, properties, versions.created FROM credentials \
             JOIN versions ON credential = id AND state = 'current' \
             WHERE workspace = ?1 AND properties LIKE '%\"rotate\"%' ORDER BY name",
        )?;
        let mut rows = statement.query([self.workspace.as_str()])?;
        let mut all = Vec::new();
        while let Some(row) = rows.next()? {
            let (name, properties): (String, String) = (row.get(0)?, row.get(1)?);
            let corrupt = || Fault::Corrupt(Row::Credential(name.clone()));
            let properties = Properties::from_text(Some(&properties)).map_err(|_| corrupt())?;
            let Some(schedule) = properties.rotate else { continue };
            let parsed = name.parse().map_err(|_| corrupt())?;
            all.push(Scheduled { name: parsed, rotated: row.get(2)?, schedule });
        }
        Ok(all)
    }
}
