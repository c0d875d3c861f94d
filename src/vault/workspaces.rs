//! Workspaces: which there are, which one is worked in, and how one comes and goes. Each has a data key
//! of its own, and every row that belongs to one says so.

use std::sync::Arc;

use rusqlite::{Connection, Transaction};

use super::error::{Fault, Kind, Row, VaultError};
use super::keys::DataKey;
use super::{
    Action, Vault, administrators, all_data_keys, check_wrapping, default_workspace, generation,
    runs, scope_of, unwrap_data_key, values,
};
use crate::reference::Name;

/// What every workspace's scope begins with.
const SCOPE: &str = "workspace/";

/// What is in a workspace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Contents {
    /// Credentials, revoked ones among them.
    pub credentials: u64,
    /// Sets of them.
    pub sets: u64,
    /// Agents, revoked ones among them.
    pub agents: u64,
    /// Their tokens that are not revoked.
    pub tokens: u64,
    /// Environment values.
    pub values: u64,
    /// Administrators who are not revoked.
    pub administrators: u64,
}

impl Contents {
    /// Whether nothing would be lost with the workspace.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self == Self::default()
    }
}

/// A workspace as lists show it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkspaceInfo {
    /// Its name.
    pub name: Name,
    /// When it got its data key, in seconds since the Unix epoch.
    pub created: i64,
    /// What is in it.
    pub contents: Contents,
}

impl Vault {
    /// The workspace that is being worked in.
    #[must_use]
    pub fn workspace(&self) -> &Name {
        &self.workspace
    }

    /// When the workspace was added, in seconds since the Unix epoch: what is older was of another of its
    /// name. None for one that came with the vault.
    ///
    /// # Errors
    /// [`VaultError`] when the journal cannot be read.
    pub fn workspace_since(&self) -> Result<Option<i64>, VaultError> {
        self.began(&self.db).map_err(|fault| self.fault(fault))
    }

    /// When the workspace was added; none of the one that was there from the beginning.
    pub(super) fn began(&self, db: &Connection) -> Result<Option<i64>, Fault> {
        let query = "SELECT max(at) FROM journal WHERE action = ?1 AND subject = ?2";
        let asked = (Action::WorkspaceAdded.as_str(), self.workspace.as_str());
        Ok(db.prepare_cached(query)?.query_row(asked, |row| row.get(0))?)
    }

    /// Works in another workspace from here on.
    ///
    /// # Errors
    /// [`Fault::Unknown`] when there is none of that name.
    pub fn use_workspace(&mut self, workspace: &Name) -> Result<(), VaultError> {
        let key = self.workspace_key(workspace).map_err(|fault| self.fault(fault))?;
        self.keys.get_mut().workspace = Arc::new(key);
        self.workspace = workspace.clone();
        Ok(())
    }

    /// Does something in a workspace, and works in the one of before again. For a process that serves
    /// all of them.
    ///
    /// # Errors
    /// [`Fault::Unknown`] when there is none of that name, and those of what is done.
    pub fn within<T>(
        &mut self,
        workspace: &Name,
        act: impl FnOnce(&mut Self) -> Result<T, VaultError>,
    ) -> Result<T, VaultError> {
        if *workspace == self.workspace {
            return act(self);
        }
        let before = self.workspace.clone();
        self.use_workspace(workspace)?;
        let done = act(self);
        // The one of before may be gone; the error of that must not hide what was done.
        let back = self.use_workspace(&before);
        done.and_then(|done| back.map(|()| done))
    }

    fn workspace_key(&self, workspace: &Name) -> Result<DataKey, Fault> {
        let scope = scope_of(workspace);
        let mut any = self.db.prepare_cached("SELECT 1 FROM keys WHERE scope = ?1")?;
        if !any.exists([&scope])? {
            return Err(Fault::unknown(Kind::Workspace, workspace));
        }
        check_wrapping(&self.db, &self.wrapping)?;
        unwrap_data_key(&self.db, &self.wrapping, &scope)
    }

    /// All workspaces by name, the default one first, with what is in them.
    ///
    /// # Errors
    /// [`VaultError`] when they cannot be read.
    pub fn workspaces(&self) -> Result<Vec<WorkspaceInfo>, VaultError> {
        let read = || -> Result<Vec<WorkspaceInfo>, Fault> {
            let tx = self.db.unchecked_transaction()?;
            let own = self.keys(&tx)?.own;
            let info = |name: Name| {
                let created = "SELECT created FROM keys WHERE scope = ?1";
                let created = tx.query_row(created, [scope_of(&name)], |row| row.get(0))?;
                Ok(WorkspaceInfo { created, contents: contents(&tx, &own, &name)?, name })
            };
            names(&tx)?.into_iter().map(info).collect()
        };
        read().map_err(|fault| self.fault(fault))
    }

    /// Adds a workspace, with a data key of its own.
    ///
    /// # Errors
    /// [`Fault::Exists`] when there is one of that name, [`Fault::WrongKey`] when the vault got
    /// another master key since it was opened here.
    pub fn workspace_add(&mut self, workspace: &Name) -> Result<(), VaultError> {
        let scope = scope_of(workspace);
        self.change(Action::WorkspaceAdded, workspace.as_str(), |tx, change| {
            check_wrapping(tx, change.wrapping)?;
            let added = tx.execute(
                "INSERT OR IGNORE INTO keys (scope, sealed, created, generation) \
                 VALUES (?1, ?2, ?3, ?4)",
                (&scope, change.wrapping.mint(&scope)?, change.now, generation(tx)?),
            )?;
            match added {
                0 => Err(Fault::Exists(Kind::Workspace, workspace.to_string())),
                _ => Ok(()),
            }
        })
    }

    /// Removes a workspace with all that is in it, in one transaction: after `kill -9` it is there
    /// whole, or gone. Its data key goes too, so that no copy of its rows opens in this vault again.
    /// Returns what was in it.
    ///
    /// # Errors
    /// [`Fault::Unknown`] when there is none of that name, [`Fault::DefaultWorkspace`] for the one that
    /// every home has, [`Fault::NotEmpty`] when there is something in it and `with_contents` is not set.
    pub fn workspace_remove(
        &mut self,
        workspace: &Name,
        with_contents: bool,
    ) -> Result<Contents, VaultError> {
        let default = default_workspace();
        if *workspace == default {
            return Err(self.fault(Fault::DefaultWorkspace));
        }
        if self.workspace == *workspace {
            self.use_workspace(&default)?;
        }
        let removed = self.change(Action::WorkspaceRemoved, workspace.as_str(), |tx, change| {
            let scope = scope_of(workspace);
            let contents = contents(tx, change.own, workspace)?;
            if tx.execute("DELETE FROM keys WHERE scope = ?1", [&scope])? == 0 {
                return Err(Fault::unknown(Kind::Workspace, workspace));
            }
            if !contents.is_empty() && !with_contents {
                return Err(Fault::NotEmpty(workspace.clone()));
            }
            // What was issued in it says names, which may be given again.
            runs::forget(tx, change.own, workspace)?;
            delete_all(tx, workspace)?;
            administrators::forget(tx, change, workspace)?;
            Ok(contents)
        })?;
        self.wipe_log();
        Ok(removed)
    }
}

/// The names of all workspaces, the default one first.
pub(super) fn names(db: &Connection) -> Result<Vec<Name>, Fault> {
    let mut names = Vec::new();
    for (scope, _) in all_data_keys(db)? {
        let Some(name) = scope.strip_prefix(SCOPE) else { continue };
        names.push(name.parse().map_err(|_| Fault::Corrupt(Row::DataKey(scope.clone())))?);
    }
    let default = default_workspace();
    names.sort_unstable_by(|a: &Name, b: &Name| {
        (*a != default).cmp(&(*b != default)).then_with(|| a.cmp(b))
    });
    Ok(names)
}

fn contents(db: &Connection, own: &DataKey, workspace: &Name) -> Result<Contents, Fault> {
    let count = |query: &str| -> Result<u64, Fault> {
        let count: i64 =
            db.prepare_cached(query)?.query_row([workspace.as_str()], |row| row.get(0))?;
        Ok(count.cast_unsigned())
    };
    Ok(Contents {
        credentials: count("SELECT count(*) FROM credentials WHERE workspace = ?1")?,
        sets: count("SELECT count(*) FROM sets WHERE workspace = ?1")?,
        agents: count("SELECT count(*) FROM agents WHERE workspace = ?1")?,
        tokens: count("SELECT count(*) FROM tokens WHERE workspace = ?1 AND revoked IS NULL")?,
        values: values::count(db, own, workspace)?,
        administrators: administrators::count(db, own, workspace)?,
    })
}

/// Deletes every row that belongs to a workspace. What refers to others goes first; versions and
/// members of sets go with what they belong to.
fn delete_all(tx: &Transaction<'_>, workspace: &Name) -> Result<(), Fault> {
    for table in ["tokens", "agents", "sets", "credentials"] {
        tx.execute(&format!("DELETE FROM {table} WHERE workspace = ?1"), [workspace.as_str()])?;
    }
    // What is kept of it among the vault's own items, but for what was revoked in it.
    let scope = scope_of(workspace);
    tx.execute(
        "DELETE FROM items WHERE name IN (?1, ?4) OR substr(name, 1, length(?2)) = ?2 \
         OR substr(name, 1, length(?3)) = ?3",
        (
            format!("approvals/{workspace}"),
            format!("kept-key/{scope}/"),
            format!("exchanged/{workspace}/"),
            format!("values/{workspace}"),
        ),
    )?;
    Ok(())
}
