//! Who may administer a workspace without the home's files: a sealed item, of which each entry has a digest
//! of its token and never the token.

use rusqlite::{Connection, Transaction};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use super::check::Invalid;
use super::error::{Fault, Kind, VaultError};
use super::keys::DataKey;
use super::{Action, Change, Vault, crypto, items, now};
use crate::reference::Name;
use crate::secret::Secret;
use crate::token::Token;

/// The item that has them all.
const ITEM: &str = "administrators";

/// What the token of an administrator begins with: no agent's token does.
pub const PREFIX: &str = "lca_";

/// The most of a workspace who are not revoked: each request to administer reads them all.
const MOST: usize = 1000;

/// How many revoked ones of a workspace are kept to be shown, the last; the journal has them all.
const REVOKED: usize = 100;

/// What an administrator may do. Each may what those before it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// See, and not use.
    Viewer,
    /// Use: run tokens, placeholders, approvals of what others asked for.
    Member,
    /// Manage: credentials, agents, policies and administrators of the workspace.
    Owner,
}

impl Role {
    /// As the command line, the API and records have it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Member => "member",
            Self::Owner => "owner",
        }
    }
}

/// One administrator of one workspace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Administrator {
    /// Where.
    pub workspace: Name,
    /// Who. A revoked one's name may be given again.
    pub name: Name,
    /// What it may do.
    pub role: Role,
    /// Names its token.
    pub token_id: String,
    /// Of the token, in hex: SHA-256 over [`digest`].
    digest: String,
    /// When it was added, in seconds since the Unix epoch.
    pub created: i64,
    /// The last second in which the token is good.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<i64>,
    /// When it was revoked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked: Option<i64>,
}

impl Administrator {
    /// Whether it may administer at `now`, in seconds since the Unix epoch.
    #[must_use]
    pub fn lives(&self, now: i64) -> bool {
        self.revoked.is_none() && self.expires.is_none_or(|last| now <= last)
    }

    /// Who it is, as the journal and the audit log have it.
    #[must_use]
    pub fn signature(&self) -> String {
        format!("{} {} (token {})", self.role.as_str(), self.name, self.token_id)
    }
}

impl Vault {
    /// Adds an administrator of the workspace. Returns its token's id and the only copy of the token.
    ///
    /// # Errors
    /// [`Fault::Exists`] when there is a live one of that name.
    ///
    /// # Panics
    /// Never: texts and numbers are JSON.
    pub fn administrator_add(
        &mut self,
        name: &Name,
        role: Role,
        expires: Option<i64>,
    ) -> Result<(String, Zeroizing<String>), VaultError> {
        let subject = format!("{name} {}", role.as_str());
        self.change(Action::AdministratorAdded, &subject, |tx, change| {
            let mut all = read(tx, change.own)?;
            let live = |one: &Administrator| of(one, change, name) && one.lives(change.now);
            if all.iter().any(live) {
                return Err(Fault::Exists(Kind::Administrator, name.to_string()));
            }
            forget_most_revoked(&mut all, change.workspace);
            let own = all.iter().filter(|one| one.workspace == *change.workspace);
            if own.filter(|one| one.revoked.is_none()).count() >= MOST {
                return Err(Invalid::Administrators(MOST).into());
            }
            let token = Token::mint_as(PREFIX).map_err(|_| Fault::NoRandomness)?;
            let id = token.id().to_owned();
            let text = token.into_text();
            all.push(Administrator {
                workspace: change.workspace.clone(),
                name: name.clone(),
                role,
                token_id: id.clone(),
                digest: digest(&text),
                created: change.now,
                expires,
                revoked: None,
            });
            write(tx, change, &all)?;
            Ok((id, text))
        })
    }

    /// Ends the administration of somebody in the workspace.
    ///
    /// # Errors
    /// [`Fault::Unknown`] when nobody of that name lives in it.
    pub fn administrator_revoke(&mut self, name: &Name) -> Result<(), VaultError> {
        self.change(Action::AdministratorRevoked, name.as_str(), |tx, change| {
            let mut all = read(tx, change.own)?;
            // One that ran out, and had its name given again, is there as well.
            let mut found = false;
            for one in all.iter_mut().filter(|one| of(one, change, name)) {
                one.revoked = Some(change.now);
                found = true;
            }
            if found {
                write(tx, change, &all)
            } else {
                Err(Fault::unknown(Kind::Administrator, name))
            }
        })
    }

    /// All administrators of the workspace, oldest first, revoked ones among them.
    ///
    /// # Errors
    /// [`VaultError`] when they cannot be read.
    pub fn administrators(&self) -> Result<Vec<Administrator>, VaultError> {
        let all = self.all_administrators()?;
        Ok(all.into_iter().filter(|one| one.workspace == self.workspace).collect())
    }

    /// Whose token this is, if anybody's who may administer at `now`, in seconds since the Unix epoch.
    ///
    /// # Errors
    /// [`VaultError`] when they cannot be read.
    pub fn administrator_of(
        &self,
        token: &str,
        now: i64,
    ) -> Result<Option<Administrator>, VaultError> {
        let shown = digest(token);
        let all = self.all_administrators()?;
        // All of them are compared, whichever it is.
        let mut found = None;
        for one in all {
            if crypto::same(one.digest.as_bytes(), shown.as_bytes()) && one.lives(now) {
                found = Some(one);
            }
        }
        Ok(found)
    }

    /// That an administrator who was found before is one still.
    ///
    /// # Errors
    /// [`Fault::Revoked`] when it is none any more.
    pub fn require_administrator(&self, who: &Administrator) -> Result<(), VaultError> {
        let require = || {
            let tx = self.db.unchecked_transaction()?;
            require_live(&tx, &self.check_state(&tx)?.own, who, now())
        };
        require().map_err(|fault| self.fault(fault))
    }

    fn all_administrators(&self) -> Result<Vec<Administrator>, VaultError> {
        let all = || {
            let tx = self.db.unchecked_transaction()?;
            // A row that was put back from an earlier day opens by itself.
            read(&tx, &self.check_state(&tx)?.own)
        };
        all().map_err(|fault| self.fault(fault))
    }
}

/// That an administrator who was found before is one still, with that role.
pub(super) fn require_live(
    db: &Connection,
    own: &DataKey,
    who: &Administrator,
    now: i64,
) -> Result<(), Fault> {
    let same = |one: &Administrator| {
        let same = one.token_id == who.token_id && one.workspace == who.workspace;
        same && one.role >= who.role && one.lives(now)
    };
    if read(db, own)?.iter().any(same) {
        return Ok(());
    }
    Err(Fault::Revoked(Kind::Administrator, who.name.to_string()))
}

/// How many a workspace has who are not revoked.
pub(super) fn count(db: &Connection, own: &DataKey, workspace: &Name) -> Result<u64, Fault> {
    let all = read(db, own)?;
    let live = |one: &&Administrator| one.workspace == *workspace && one.revoked.is_none();
    Ok(all.iter().filter(live).count() as u64)
}

/// Takes those of a workspace away, which is about to go.
pub(super) fn forget(
    tx: &Transaction<'_>,
    change: &Change<'_>,
    workspace: &Name,
) -> Result<(), Fault> {
    let mut all = read(tx, change.own)?;
    if all.iter().any(|one| one.workspace == *workspace) {
        all.retain(|one| one.workspace != *workspace);
        write(tx, change, &all)?;
    }
    Ok(())
}

/// Lets go of those of a workspace who were revoked longest ago.
fn forget_most_revoked(all: &mut Vec<Administrator>, workspace: &Name) {
    let revoked = |one: &Administrator| one.revoked.filter(|_| one.workspace == *workspace);
    let mut times: Vec<i64> = all.iter().filter_map(revoked).collect();
    let Some(mut surplus) = times.len().checked_sub(REVOKED).filter(|more| *more > 0) else {
        return;
    };
    times.sort_unstable();
    let last = times.get(surplus - 1).copied().unwrap_or(i64::MIN);
    // Of those of one second the first that were added go first.
    all.retain(|one| {
        let goes = surplus > 0 && revoked(one).is_some_and(|at| at <= last);
        surplus -= usize::from(goes);
        !goes
    });
}

fn of(one: &Administrator, change: &Change<'_>, name: &Name) -> bool {
    one.workspace == *change.workspace && one.name == *name && one.revoked.is_none()
}

/// A token has 256 random bits, so that no key and no salt makes it harder to guess; the item that the
/// digest lies in is sealed all the same.
fn digest(token: &str) -> String {
    let mut hash = Sha256::new();
    hash.update(b"locum/administrator/1\n");
    hash.update(token.as_bytes());
    data_encoding::HEXLOWER.encode(&hash.finalize())
}

pub(super) fn read(db: &Connection, own: &DataKey) -> Result<Vec<Administrator>, Fault> {
    let Some(item) = items::get(db, own, ITEM)? else { return Ok(Vec::new()) };
    let all = item.expose(|json| serde_json::from_slice(json).ok());
    all.ok_or_else(|| items::corrupt(ITEM))
}

fn write(tx: &Transaction<'_>, change: &Change<'_>, all: &[Administrator]) -> Result<(), Fault> {
    let json = serde_json::to_vec(all).expect("texts and numbers are JSON");
    items::put(tx, change.own, ITEM, &Secret::new(json), change.now)
}

#[cfg(test)]
mod tests {
    use super::super::MasterKey;
    use super::*;

    fn name(text: &str) -> Name {
        text.parse().unwrap()
    }

    fn many(
        workspace: &str,
        count: usize,
        revoked: impl Fn(i64) -> Option<i64>,
    ) -> Vec<Administrator> {
        let one = |index| Administrator {
            workspace: name(workspace),
            name: name(&format!("a{index}")),
            role: Role::Owner,
            token_id: format!("id{index}"),
            digest: String::new(),
            created: 1,
            expires: None,
            revoked: revoked(index),
        };
        (0..i64::try_from(count).unwrap()).map(one).collect()
    }

    #[test]
    fn a_workspace_has_so_many_and_no_more() {
        let directory = tempfile::tempdir().unwrap();
        let master = MasterKey::generate().unwrap();
        let mut vault = Vault::create(&directory.path().join("vault.db"), &master).unwrap();
        let fill = |vault: &mut Vault, workspace: &str, count| {
            let all = many(workspace, count, |_| None);
            let put = |tx: &Transaction<'_>, change: &Change<'_>| write(tx, change, &all);
            vault.change(Action::AdministratorAdded, "many", put).unwrap();
        };
        let add = |vault: &mut Vault| vault.administrator_add(&name("more"), Role::Viewer, None);
        fill(&mut vault, "default", MOST);
        let fault = add(&mut vault).unwrap_err().fault;
        assert!(matches!(fault, Fault::Invalid(Invalid::Administrators(MOST))), "{fault:?}");
        vault.administrator_revoke(&name("a7")).unwrap();
        add(&mut vault).unwrap();
        // Those of another workspace are its own matter.
        fill(&mut vault, "other", MOST);
        add(&mut vault).unwrap();
    }

    #[test]
    fn those_who_were_revoked_long_ago_are_let_go() {
        let mut all = many("default", 250, |index| (index % 2 == 0).then_some(1000 - index / 4));
        all.extend(many("other", 250, Some));
        let before = all.clone();
        forget_most_revoked(&mut all, &name("default"));
        let gone: Vec<&Administrator> = before.iter().filter(|one| !all.contains(one)).collect();
        assert_eq!(gone.len(), 125 - REVOKED);
        let newest = gone.iter().filter_map(|one| one.revoked).max();
        let own = all.iter().filter(|one| one.workspace == name("default"));
        assert!(newest <= own.filter_map(|one| one.revoked).min());
        assert!(gone.iter().all(|one| one.workspace == name("default")));
        forget_most_revoked(&mut all, &name("default"));
        assert_eq!(all.len(), before.len() - gone.len());
    }
}
