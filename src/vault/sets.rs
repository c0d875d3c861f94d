//! Credential sets: named groups that policies grant as one.

use std::collections::BTreeMap;

use rusqlite::{Connection, Transaction};

use super::check::Invalid;
use super::error::{Fault, Kind, Row, VaultError};
use super::{Action, Vault};
use crate::reference::Name;

/// A set as lists show it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetInfo {
    /// Its name. No credential has it.
    pub name: Name,
    /// Its members, by name.
    pub members: Vec<Name>,
}

impl Vault {
    /// Makes a set, or adds members to one. Members that it has already are no error.
    ///
    /// # Errors
    /// [`Fault::Unknown`] for a member that is no credential, [`Fault::Exists`] when a credential
    /// has the set's name.
    pub fn set_add(&mut self, name: &Name, members: &[Name]) -> Result<(), VaultError> {
        if members.is_empty() {
            return Err(self.fault(Invalid::NoMembers.into()));
        }
        self.change(Action::SetExtended, name.as_str(), |tx, change| {
            let workspace = change.workspace;
            if is_credential(tx, workspace, name)? {
                return Err(Fault::Exists(Kind::Credential, name.to_string()));
            }
            tx.execute(
                "INSERT OR IGNORE INTO sets (workspace, name, created) VALUES (?1, ?2, ?3)",
                (workspace.as_str(), name.as_str(), change.now),
            )?;
            members.iter().try_for_each(|member| add_member(tx, workspace, name, member))
        })
    }

    /// Takes members out of a set. The set stays, if empty, so that policies which name it still
    /// mean it.
    ///
    /// # Errors
    /// [`Fault::Unknown`] for the set, or for what is not in it.
    pub fn set_reduce(&mut self, name: &Name, members: &[Name]) -> Result<(), VaultError> {
        self.change(Action::SetReduced, name.as_str(), |tx, change| {
            for member in members {
                let removed = tx.execute(
                    "DELETE FROM set_members \
                     WHERE workspace = ?1 AND set_name = ?2 AND member = ?3",
                    (change.workspace.as_str(), name.as_str(), member.as_str()),
                )?;
                if removed == 0 {
                    return Err(Fault::unknown(Kind::Credential, member));
                }
            }
            Ok(())
        })
    }

    /// Removes a set. Its members stay.
    ///
    /// # Errors
    /// [`Fault::Unknown`].
    pub fn set_remove(&mut self, name: &Name) -> Result<(), VaultError> {
        self.change(Action::SetRemoved, name.as_str(), |tx, change| {
            let removed = tx.execute(
                "DELETE FROM sets WHERE workspace = ?1 AND name = ?2",
                (change.workspace.as_str(), name.as_str()),
            )?;
            match removed {
                0 => Err(Fault::unknown(Kind::Set, name)),
                _ => Ok(()),
            }
        })
    }

    /// All sets of the workspace, by name.
    ///
    /// # Errors
    /// [`VaultError`] when they cannot be read.
    pub fn sets(&self) -> Result<Vec<SetInfo>, VaultError> {
        let sets = all(&self.db, &self.workspace).map_err(|fault| self.fault(fault))?;
        let info = |(name, members)| SetInfo { name, members };
        Ok(sets.into_iter().map(info).collect())
    }
}

/// Whether there is a credential or a set of that name.
pub(super) fn is_any(db: &Connection, workspace: &Name, name: &Name) -> Result<bool, Fault> {
    let query = "SELECT 1 FROM credentials WHERE workspace = ?1 AND name = ?2 \
                 UNION ALL SELECT 1 FROM sets WHERE workspace = ?1 AND name = ?2";
    Ok(db.prepare_cached(query)?.exists((workspace.as_str(), name.as_str()))?)
}

fn is_credential(tx: &Transaction<'_>, workspace: &Name, name: &Name) -> Result<bool, Fault> {
    Ok(tx
        .prepare_cached("SELECT 1 FROM credentials WHERE workspace = ?1 AND name = ?2")?
        .exists((workspace.as_str(), name.as_str()))?)
}

fn add_member(
    tx: &Transaction<'_>,
    workspace: &Name,
    set: &Name,
    member: &Name,
) -> Result<(), Fault> {
    if !is_credential(tx, workspace, member)? {
        return Err(Fault::unknown(Kind::Credential, member));
    }
    tx.execute(
        "INSERT OR IGNORE INTO set_members (workspace, set_name, member) VALUES (?1, ?2, ?3)",
        (workspace.as_str(), set.as_str(), member.as_str()),
    )?;
    Ok(())
}

/// All sets of a workspace, with their members.
pub(super) fn all(db: &Connection, workspace: &Name) -> Result<BTreeMap<Name, Vec<Name>>, Fault> {
    let mut statement = db.prepare_cached(
        "SELECT sets.name, member FROM sets LEFT JOIN set_members \
         ON set_members.workspace = sets.workspace AND set_name = sets.name \
         WHERE sets.workspace = ?1 ORDER BY sets.name, member",
    )?;
    let mut rows = statement.query([workspace.as_str()])?;
    let mut sets: BTreeMap<Name, Vec<Name>> = BTreeMap::new();
    while let Some(row) = rows.next()? {
        let (set, member): (String, Option<String>) = (row.get(0)?, row.get(1)?);
        let name =
            |text: &str| text.parse::<Name>().map_err(|_| Fault::Corrupt(Row::Set(set.clone())));
        let members = sets.entry(name(&set)?).or_default();
        members.extend(member.as_deref().map(name).transpose()?);
    }
    Ok(sets)
}
